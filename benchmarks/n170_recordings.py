"""The N170 epochs as somebody's own recordings: a FIF file a run, and a table of the trials.

    python -m benchmarks.n170_recordings data/n170_files
    python -m nice_demo.prepare recordings --table data/n170_files/events.csv --to data/n170 \
        --classify --test-runs 2 --tmin -0.1 --tmax 0.79
    python -m nice_demo.train --data data/n170 --out weights/n170 --validation conditions \
        --epochs 30 --batch 64 --lr 1e-3 --schedule one-cycle

What was held out, and what comes out, is in `benchmarks.n170`, which does the same by hand.
"""

import argparse
import csv
import sys
from pathlib import Path

import mne
import numpy as np

from benchmarks.n170 import CONCEPTS, DATA, SFREQ, Epochs
from nice_demo.errors import command


def write_recordings(folder: Path, epochs: Epochs, subject: str) -> Path:
    """Write a subject's runs as FIF epochs.

    Parameters
    ----------
    folder : Path
    epochs : Epochs
    subject : str

    Returns
    -------
    Path
        The table of trials.
    """
    folder.mkdir(parents=True, exist_ok=True)
    info = mne.create_info(epochs.channels, SFREQ, "eeg", verbose="error")
    table = folder / "events.csv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["subject", "run", "file", "epoch", "picture"])
        for run in np.unique(epochs.run[epochs.subject == subject]):
            own = epochs.run == run
            array = mne.EpochsArray(epochs.eeg[own], info, tmin=epochs.tmin, verbose="error")
            name = f"run-{run}_epo.fif"
            array.save(folder / name, fmt="double", overwrite=True, verbose="error")
            number = subject.removeprefix("subject")
            for epoch, face in enumerate(epochs.face[own]):
                lines.writerow([number, run, name, epoch, CONCEPTS[int(face)]])
    return table


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.n170_recordings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="epochs.npz")
    parser.add_argument("--subject", default="subject1")
    options = parser.parse_args(argv)
    print(write_recordings(options.folder, Epochs.open(options.data), options.subject))
    return 0


if __name__ == "__main__":
    sys.exit(main())
