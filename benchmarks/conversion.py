"""How much time and memory the conversion of a subject of THINGS-EEG2 takes.

    python -m benchmarks.conversion --folder DIR              from NICE's files; needs 13 GB there
    python -m benchmarks.conversion --from raw --folder DIR   from the recordings; needs 12 GB
    python -m benchmarks.conversion --small                   some 1 % of it, in a few seconds

Writes random numbers as large as a subject and laid out as in the published files: bare pickles,
16,540 × 4 training and 200 × 80 test trials of 63 channels × 250 samples in float64, or the eight
recordings at 1000 Hz. Converts them in a process of its own and reports how long that took and the
most memory that process had resident at any time, pages of mapped files included. The promise is
3 GB from NICE's files and 8 GB from the recordings.
"""

import argparse
import multiprocessing
import pickle
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nice_demo.errors import InputError, command
from nice_demo.montage import CHANNELS
from nice_demo.sources.things_eeg2 import raw, ready

FULL = (16540, 200), (4, 80)
SMALL = (100, 10), (4, 80)
TIMES = 250
PROMISE = {"nice": 3.0, "raw": 8.0}  # GB
ASYNCHRONY = 200  # ms, and samples, from picture to picture


class Reserved:
    """Pickled, an array of the given shape; its bytes are `PLACE`, to be put in afterwards.

    Python writes bytes as long as these outside of its frames, where their length may change.
    """

    PLACE = bytes(64 * 1024)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __reduce__(self) -> tuple:
        function, arguments, (version, _, dtype, fortran, _) = np.zeros(1).__reduce__()
        return function, arguments, (version, self.shape, dtype, fortran, self.PLACE)


def write_published(path: Path, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Write a file in NICE's layout, condition after condition.

    Parameters
    ----------
    path : Path
    shape : tuple of int
        (n_conditions, n_repetitions, n_channels, n_times)
    rng : Generator
        Of the normally distributed EEG.
    """
    content = {
        "preprocessed_eeg_data": Reserved(shape),
        "ch_names": CHANNELS,
        "times": np.arange(300) / 250 - 0.2,  # too many, as in the published files
    }
    with open(path, "wb") as file:
        _write(file, content, shape, (rng.standard_normal(shape[1:]) for _ in range(shape[0])))


def write_recording(path: Path, shown: np.ndarray, rng: np.random.Generator) -> None:
    """Write a recording as the data set has it, channel after channel.

    Parameters
    ----------
    path : Path
    shown : array of shape (n_events,), int
        Conditions from 1, one every 200 ms.
    rng : Generator
    """
    onsets = 1000 + ASYNCHRONY * np.arange(len(shown))
    stim = np.zeros(onsets[-1] + 2000)
    stim[onsets] = shown
    shape = len(CHANNELS) + 1, len(stim)
    content = np.empty((), object)
    content[()] = {
        "raw_eeg_data": Reserved(shape),
        "ch_names": [*CHANNELS, "stim"],
        "ch_types": ["eeg"] * len(CHANNELS) + ["stim"],
        "sfreq": 1000,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        eeg = (1e-5 * rng.standard_normal(len(stim)) for _ in CHANNELS)
        _write(file, content, shape, chain(eeg, [stim]))


def _write(file: BinaryIO, content: object, shape: tuple[int, ...], parts: Iterable) -> None:
    """Pickle what holds a `Reserved` array, with the given parts in its place."""
    place = pickle.BINBYTES + len(Reserved.PLACE).to_bytes(4, "little") + Reserved.PLACE
    before, after = pickle.dumps(content, 4).split(place)
    file.write(before + pickle.BINBYTES8 + (8 * int(np.prod(shape))).to_bytes(8, "little"))
    for part in parts:
        file.write(part)
    file.write(after)


def write_files(
    folder: Path, origin: str, conditions: tuple[int, int], repetitions: tuple[int, int]
) -> None:
    """Write a subject's published files: NICE's two, or the recordings of four sessions."""
    rng = np.random.default_rng(0)
    for split, n, k in zip(("training", "test"), conditions, repetitions, strict=True):
        if origin == "nice":
            shape = n, k, len(CHANNELS), TIMES
            write_published(folder / f"preprocessed_eeg_{split}.npy", shape, rng)
            continue
        for session in range(4):
            there = np.arange(n)
            if split == "training":  # half of them in each session, each in two
                there = there[there % 2 == session % 2]
            shown = np.repeat(there + 1, 2 if split == "training" else k // 4)
            path = folder / f"sub-01/ses-{session + 1:02d}/raw_eeg_{split}.npy"
            write_recording(path, rng.permutation(shown), rng)


def convert(
    folder: Path, origin: str, conditions: tuple[int, int], repetitions: tuple[int, int]
) -> dict:
    """Convert, and return the seconds it took and the peak of this process's memory, GB."""
    started = time.perf_counter()
    if origin == "nice":
        files = [folder / f"preprocessed_eeg_{split}.npy" for split in ("training", "test")]
        ready.convert(files, folder / "eeg/sub-01", 1, origin, conditions, repetitions)
    else:
        raw.convert(folder / "sub-01", folder / "eeg/sub-01", 1, "training", conditions)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"seconds": time.perf_counter() - started, "peak": peak}


@command
def main(argv: list[str] | None = None) -> int:
    """Write, convert, print."""
    parser = argparse.ArgumentParser(description="Time and memory of a conversion.")
    parser.add_argument("--from", dest="origin", choices=list(PROMISE), default="nice")
    parser.add_argument("--folder", type=Path, help="where files are written (default: temporary)")
    parser.add_argument("--small", action="store_true", help="some 1 %% of a subject")
    options = parser.parse_args(argv)
    conditions, repetitions = SMALL if options.small else FULL
    shapes = [(n, k, len(CHANNELS), TIMES) for n, k in zip(conditions, repetitions, strict=True)]
    if options.folder and not options.folder.is_dir():
        raise InputError(f"There is no folder {options.folder}; make it first.")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        needed = sum(10 * int(np.prod(shape)) for shape in shapes) * 1.02
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise InputError(
                f"{folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; "
                "give another --folder."
            )
        write_files(Path(folder), options.origin, conditions, repetitions)
        # A fresh process: what writing took isn't part of its peak.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            task = fresh.submit(convert, Path(folder), options.origin, conditions, repetitions)
            measured = task.result()
        for path in sorted(Path(folder).rglob("*.[ns]*")):
            print(f"{path.relative_to(folder)!s:40} {path.stat().st_size / 1e9:7.2f} GB")
    print(f"{'seconds':40} {measured['seconds']:7.1f}")
    promise = PROMISE[options.origin]
    print(f"{f'peak memory (promised: {promise:g} GB)':40} {measured['peak']:7.2f} GB")
    return int(measured["peak"] > promise)


if __name__ == "__main__":
    sys.exit(main())
