"""Reads recordings one after another, each in its own confined fork: for the fuzz test.

A process of its own because it has to be small: a fork of pytest with PyTorch in it takes
longer than reading. A line of JSON comes in on stdin for each recording ([paths, folder]), and
one goes out on stdout ([outcome, message], see `recording_files.read_in_fork`).
"""

import json
import os
import sys

import h5py  # noqa: F401  imported once here, not in each fork
import mne
import pymatreader  # noqa: F401
import safetensors.numpy  # noqa: F401
from recording_files import assert_sound, read_in_fork

from nice_demo.sources.recordings.limits import Limits

LIMITS = Limits(
    samples=2_000_000, size=5_000_000, unpacked=20_000_000, memory=1_000_000_000, seconds=10
)

if __name__ == "__main__":
    for name in ("read_raw_fif", "read_raw_edf", "read_raw_brainvision", "read_raw_eeglab"):
        getattr(mne.io, name)  # MNE imports what is asked for
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # MNE tells its warnings there
    for line in sys.stdin:
        paths, folder = json.loads(line)
        answer = read_in_fork(paths, folder, LIMITS, assert_sound)
        print(json.dumps(answer), file=answers, flush=True)
