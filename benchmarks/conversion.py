"""How much time and memory the conversion of a subject of THINGS-EEG2 takes.

    python -m benchmarks.conversion --folder DIR              from NICE's files; needs 13 GB there
    python -m benchmarks.conversion --from raw --folder DIR   from the recordings; needs 15 GB
    python -m benchmarks.conversion --from raw --conditions 400     a small subject, by turns
    python -m benchmarks.conversion --small                   some 1 % of it, in a few seconds

Writes random numbers as large as a subject and laid out as in the published files: bare pickles,
16,540 × 4 training and 200 × 80 test trials of 63 channels × 250 samples in float64, or the eight
recordings at 1000 Hz. Converts them in a process of its own and reports how long that took and the
most memory that it and the processes that it began had: the sum over them, four times a second, of
their proportional set sizes (PSS of Linux: what is resident, pages of mapped files included, and of
a page that several share its part). The promise is 3 GB from NICE's files and 8 GB from the
recordings.

With fewer conditions, recordings are converted several times, by `--jobs` processes and by one, in
both orders; medians, the first of each left out. Beside that a test recording is preprocessed by
the published steps as they are written, epoch by epoch with MNE and scikit-learn.
"""

import argparse
import multiprocessing
import pickle
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import mne
import numpy as np
import psutil
from joblib.externals.loky import get_reusable_executor
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler
from sklearn.utils import shuffle
from threadpoolctl import threadpool_limits

from benchmarks.table import Row
from nice_demo.errors import InputError, command
from nice_demo.montage import CHANNELS
from nice_demo.sources.things_eeg2 import raw, ready

FULL = (16540, 200), (4, 80)
SMALL = (100, 10), (4, 80)
TIMES = 250
PROMISE = {"nice": 3.0, "raw": 8.0}  # GB
ASYNCHRONY = 200  # ms, and samples, from picture to picture
TURNS = 5


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
    folder: Path,
    origin: str,
    conditions: tuple[int, int],
    repetitions: tuple[int, int],
    jobs: int = 1,
) -> float:
    """Convert, and return the seconds it took."""
    started = time.perf_counter()
    if origin == "nice":
        files = [folder / f"preprocessed_eeg_{split}.npy" for split in ("training", "test")]
        ready.convert(files, folder / "eeg/sub-01", 1, origin, conditions, repetitions)
    else:
        raw.convert(folder / "sub-01", folder / "eeg/sub-01", 1, "training", conditions, jobs=jobs)
    return time.perf_counter() - started


class Memory(threading.Thread):
    """Watches what all processes that this one has begun hold together.

    Attributes
    ----------
    peak : float
        The most so far, GB.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        """Look four times a second, until `over` is set."""
        while not self.over.wait(0.25):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:  # it has ended meanwhile
                    continue
            self.peak = max(self.peak, total / 1e9)


def end_readers() -> None:
    """End the processes that are kept for further sessions."""
    get_reusable_executor().shutdown()


def converted_afresh(*task: object) -> dict:
    """Convert in a fresh process: what writing took isn't part of its memory."""
    memory = Memory()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        memory.start()
        seconds = fresh.submit(convert, *task).result()
        memory.over.set()
        fresh.submit(end_readers)  # for which it would wait before it ends itself
    memory.join()
    return {"seconds": seconds, "peak": memory.peak}


def by_turns(ways: list) -> list[float]:
    """Call functions by turns, in both orders, and return each one's median seconds."""
    seconds = [[] for _ in ways]
    for way in ways:
        way()  # warm-up
    for turn in range(TURNS):
        order = range(len(ways)) if turn % 2 == 0 else reversed(range(len(ways)))
        for which in order:
            started = time.perf_counter()
            ways[which]()
            seconds[which].append(time.perf_counter() - started)
    return [float(np.median(times)) for times in seconds]


def published_steps(path: Path, repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Preprocess one recording as the published scripts do it: all with MNE and scikit-learn.

    Returns
    -------
    trials : array of shape (n_conditions, n_repetitions, 63, 250)
        In V.
    covariance : array of shape (63, 63)
    """
    content = np.load(path, allow_pickle=True).item()  # which we have written ourselves
    info = mne.create_info(content["ch_names"], content["sfreq"], content["ch_types"])
    recording = mne.io.RawArray(content["raw_eeg_data"], info, verbose="error")
    events = mne.find_events(recording, stim_channel="stim", verbose="error")
    recording.pick(CHANNELS)
    epochs = mne.Epochs(
        recording, events, tmin=-0.2, tmax=1, baseline=(None, 0), preload=True, verbose="error"
    )
    epochs.resample(raw.SFREQ, verbose="error")
    data = epochs.get_data(copy=False)[:, :, raw.BASELINE : raw.BASELINE + raw.N_TIMES]
    trials, covariances = [], []
    for condition in np.unique(events[:, 2]):
        there = np.flatnonzero(events[:, 2] == condition)
        chosen = data[shuffle(there, random_state=raw.SEED, n_samples=repetitions)]
        of_condition = []
        for trial in chosen:
            scaler = StandardScaler()
            shrunk, _ = ledoit_wolf(scaler.fit_transform(trial.T))
            of_condition.append(scaler.scale_[:, None] * shrunk * scaler.scale_)
        trials.append(chosen)
        covariances.append(np.mean(of_condition, 0))
    return np.array(trials), np.mean(covariances, 0)


def compare(folder: Path, conditions: tuple[int, int], jobs: int) -> list[Row]:
    """Convert a small subject's recordings by turns, and one of them by the published steps."""
    jobs_one, jobs_many = (
        lambda count=count: convert(folder, "raw", conditions, FULL[1], count)
        for count in (1, jobs)
    )
    one, many = by_turns([jobs_one, jobs_many])
    shown = f"{conditions[0]} training and {conditions[1]} test pictures"
    path = folder / "sub-01/ses-01/raw_eeg_test.npy"
    repetitions = FULL[1][1] // raw.SESSIONS
    with threadpool_limits(1, "blas"):
        ours = raw.read_part(path, conditions[1], repetitions)
        trials, covariance = published_steps(path, repetitions)
        fast, slow = by_turns(
            [
                lambda: raw.read_part(path, conditions[1], repetitions),
                lambda: published_steps(path, repetitions),
            ]
        )
    for mine, theirs in ((ours.trials, trials), (ours.covariance, covariance)):
        if abs(mine - theirs).max() > 1e-6 * abs(theirs).max():
            raise InputError("The published steps come to something else; a ratio says nothing.")
    return [
        Row(
            f"recordings → EEG set ({shown}), {jobs} sessions at once (one after another)",
            f"{many:.2f} s", f"{one:.2f} s", f"{one / many:.2f}",
        ),
        Row(
            f"epochs, resampling and covariances of {conditions[1] * repetitions} trials, one "
            "thread (MNE and scikit-learn as published)",
            f"{fast:.2f} s", f"{slow:.2f} s", f"{slow / fast:.1f}",
        ),
    ]  # fmt: skip


def rows() -> list[Row]:
    """Measure for the table of all benchmarks, within a minute."""
    conditions = 400, 4
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), "raw", conditions, FULL[1])
        return compare(Path(folder), conditions, raw.sessions_at_once())


@command
def main(argv: list[str] | None = None) -> int:
    """Write, convert, print."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.conversion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--from", dest="origin", choices=list(PROMISE), default="nice")
    parser.add_argument("--folder", type=Path, help="where files are written (default: temporary)")
    parser.add_argument("--small", action="store_true", help="some 1 %% of a subject")
    parser.add_argument("--jobs", type=int, default=-1, help="sessions of --from raw at once")
    parser.add_argument(
        "--conditions", type=int, help="training pictures of --from raw, by turns with --jobs 1"
    )
    options = parser.parse_args(argv)
    if options.conditions and (options.origin != "raw" or options.conditions % 2):
        raise InputError("--conditions takes an even number, and goes with --from raw.")
    conditions, repetitions = SMALL if options.small else FULL
    if options.conditions:
        conditions = options.conditions, max(2, min(200, options.conditions // 100))
    jobs = raw.sessions_at_once(options.jobs) if options.origin == "raw" else 1
    shapes = [(n, k, len(CHANNELS), TIMES) for n, k in zip(conditions, repetitions, strict=True)]
    if options.folder and not options.folder.is_dir():
        raise InputError(f"There is no folder {options.folder}; make it first.")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bytes_each = 12 if options.origin == "raw" else 10  # of the files and of the result
        needed = sum(bytes_each * int(np.prod(shape)) for shape in shapes) * 1.02
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise InputError(
                f"{folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; "
                "give another --folder."
            )
        write_files(Path(folder), options.origin, conditions, repetitions)
        if options.conditions:
            for row in compare(Path(folder), conditions, jobs):
                print(f"{row.what}: {row.ours} ({row.other}), ratio {row.ratio}")
        measured = converted_afresh(Path(folder), options.origin, conditions, repetitions, jobs)
        for path in sorted(Path(folder).rglob("*.[ns]*")):
            print(f"{path.relative_to(folder)!s:40} {path.stat().st_size / 1e9:7.2f} GB")
    if options.origin == "raw":
        print(f"{'sessions at once':40} {jobs:7}")
    print(f"{'seconds, with the start of processes':40} {measured['seconds']:7.1f}")
    promise = PROMISE[options.origin]
    print(f"{f'peak memory (promised: {promise:g} GB)':40} {measured['peak']:7.2f} GB")
    return int(measured["peak"] > promise)


if __name__ == "__main__":
    sys.exit(main())
