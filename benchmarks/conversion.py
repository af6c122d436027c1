"""How much time and memory the conversion of a subject from NICE's files takes.

    python -m benchmarks.conversion --folder DIR      a full subject; needs 13 GB there
    python -m benchmarks.conversion --small           some 1 % of it, in a second or two

Writes random numbers as large as a subject of THINGS-EEG2 and laid out as in NICE's files: bare
pickles, 16,540 × 4 training and 200 × 80 test trials of 63 channels × 250 samples in float64.
Converts them with `nice_demo.sources.things_eeg2.ready.convert` in a process of its own and reports
how long that took and the most memory that process had resident at any time, pages of mapped files
included. The promise is 3 GB.
"""

import argparse
import multiprocessing
import pickle
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from nice_demo.errors import InputError, command
from nice_demo.montage import CHANNELS
from nice_demo.sources.things_eeg2 import ready

FULL = (16540, 200), (4, 80)
SMALL = (100, 10), (4, 80)
TIMES = 250
PROMISE = 3.0  # GB


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
    place = pickle.BINBYTES + len(Reserved.PLACE).to_bytes(4, "little") + Reserved.PLACE
    before, after = pickle.dumps(content, 4).split(place)
    with open(path, "wb") as file:
        file.write(before + pickle.BINBYTES8 + (8 * int(np.prod(shape))).to_bytes(8, "little"))
        for _ in range(shape[0]):
            file.write(rng.standard_normal(shape[1:]))
        file.write(after)


def convert(folder: Path, conditions: tuple[int, int], repetitions: tuple[int, int]) -> dict:
    """Convert, and return the seconds it took and the peak of this process's memory, GB."""
    started = time.perf_counter()
    files = [folder / f"preprocessed_eeg_{split}.npy" for split in ("training", "test")]
    ready.convert(files, folder / "sub-01", 1, "nice", conditions, repetitions)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"seconds": time.perf_counter() - started, "peak": peak}


@command
def main(argv: list[str] | None = None) -> int:
    """Write, convert, print."""
    parser = argparse.ArgumentParser(description="Time and memory of a conversion.")
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
        rng = np.random.default_rng(0)
        for split, shape in zip(("training", "test"), shapes, strict=True):
            write_published(Path(folder) / f"preprocessed_eeg_{split}.npy", shape, rng)
        # A fresh process: what writing took isn't part of its peak.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            measured = fresh.submit(convert, Path(folder), conditions, repetitions).result()
        for path in sorted(Path(folder).rglob("*.[ns]*")):
            print(f"{path.relative_to(folder)!s:40} {path.stat().st_size / 1e9:7.2f} GB")
    print(f"{'seconds':40} {measured['seconds']:7.1f}")
    print(f"{'peak memory (promised: less than 3 GB)':40} {measured['peak']:7.2f} GB")
    return int(measured["peak"] > PROMISE)


if __name__ == "__main__":
    sys.exit(main())
