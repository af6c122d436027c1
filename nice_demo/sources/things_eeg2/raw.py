"""The data set's own recordings → an EEG set, with the published preprocessing.

In: a subject's zip (or the folder it unpacks to) with four sessions at 1000 Hz. Out: normalised
single trials at 250 Hz. What happens to them is what the data set's authors and NICE do, step by
step and with their seed, so that the same trials end in the same places. Sessions are independent
of each other until their trials are shuffled: several are read at once, each by a process of its
own that has one session's epochs in memory, as many as `sessions_at_once` says.

A. T. Gifford et al. "A large and rich EEG dataset for modeling human visual object recognition."
NeuroImage 2022. Y. Song et al. "Decoding natural images from EEG for object recognition." ICLR
2024.
"""

import contextlib
import functools
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import mne
import numpy as np
from joblib import Parallel, cpu_count, delayed
from sklearn.utils import shuffle
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nice_demo.eegset import META, new_array
from nice_demo.errors import InputError, one_line
from nice_demo.files import write_json
from nice_demo.montage import CHANNELS
from nice_demo.preparation import shrunk_covariance, whitening_matrix
from nice_demo.sources.things_eeg2 import pickles

ABOUT = "the data set's own recordings (OSF crxs4), epoched, resampled and normalised here"
WHITENING = {
    "training": "each session by Σ^(−1/2), Σ (Ledoit-Wolf of each epoch) from its training trials",
    "both": "each session by Σ^(−1/2), Σ (Ledoit-Wolf of each epoch) the mean of that of its "
    "training trials and that of its test trials",
    "none": "none",
    "zscore": "each session, channel by channel: minus the mean, divided by the standard deviation "
    "of its training trials",
}

SESSIONS = 4
SHOWN_IN = 2  # of the four sessions, a training condition
TARGET = 99999  # the event of a catch trial
SEED = 20200220  # of the published preprocessing

RAW_SFREQ, SFREQ = 1000, 250  # Hz
BEFORE, AFTER = 200, 1000  # samples of a raw epoch around the picture's onset; also ms
BASELINE, N_TIMES = 50, 250  # samples at 250 Hz before the onset, and after it

_CHUNK = 100  # epochs that are cut and resampled at once; 60 MB

# Memory, GB: of the process that puts the sessions together, and of each that reads a session.
# Measured at full size (benchmarks/conversion.py): 1.64 for a session, 3.25 in all for two at once;
# the rest is for recordings with longer breaks and for what `prepare` has imported by then.
OWN_MEMORY, SESSION_MEMORY = 0.7, 1.8
SHARE = 0.75  # of the memory that is available, where no limit is given


def sessions_at_once(jobs: int = -1, memory: float | None = None) -> int:
    """Return how many sessions can be read at once: one a core, and what fits into memory.

    Parameters
    ----------
    jobs : int
        At most so many; −1: as many as there are cores.
    memory : float, optional
        Limit of all processes together, GB; by default three quarters of what is available now.

    Raises
    ------
    InputError
        Where not even one fits.
    """
    if jobs != -1 and jobs < 1:
        raise InputError(f"{jobs} sessions at once can't be; give --jobs 1 or more, or -1.")
    if memory is None:
        memory = SHARE * available_memory()
        limit = f"three quarters of what is available are {memory:.1f} GB"
    else:
        limit = f"--memory allows {memory:g} GB"
    fitting = 0
    if memory >= OWN_MEMORY:
        fitting = int(min((memory - OWN_MEMORY) / SESSION_MEMORY + 1e-9, SESSIONS))
    if not fitting:
        needed = f"{OWN_MEMORY + SESSION_MEMORY:.1f}"
        raise InputError(
            f"Reading one session of recordings takes {needed} GB of memory, but {limit}; give "
            f"--memory {needed} or more, or take --from hf, which needs less than 1 GB."
        )
    return min(cpu_count() if jobs == -1 else jobs, fitting)


def available_memory() -> float:
    """Return how much memory can be taken without pushing anything out, GB."""
    try:
        with open("/proc/meminfo") as file:
            sizes = dict(line.split(":") for line in file)
        free = int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: half of what is built in
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with contextlib.suppress(OSError, ValueError):  # "max": a container without a limit
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return free / 1e9


class Part(NamedTuple):
    """What a session's training or test file comes to.

    Attributes
    ----------
    rows : array of shape (n_conditions,)
        Which conditions it has, ascending, counted from 0.
    trials : array of shape (n_conditions, n_repetitions, 63, 250), float32
        In V.
    covariance : array of shape (63, 63)
        Mean of the trials' shrunk covariances, V².
    lost : int
        Epochs that the recording doesn't hold whole.
    """

    rows: np.ndarray
    trials: np.ndarray
    covariance: np.ndarray
    lost: int


def convert(
    sessions: Path,
    place: Path,
    subject: int,
    whiten: str = "training",
    conditions: tuple[int, int] = (16540, 200),
    repetitions: tuple[int, int] = (2, 20),
    jobs: int = 1,
) -> None:
    """Preprocess a subject's recordings and write the EEG set.

    Parameters
    ----------
    sessions : Path
        ``sub-01.zip``, or a folder ``sub-01`` with ``ses-01/raw_eeg_training.npy``, ….
    place : Path
        The EEG set's folder.
    subject : int
    whiten : str
        Which trials Σ is estimated from, session by session: "training" (as NICE) or "both" (as
        the data set's authors; test trials then take part). "zscore" standardises each channel
        by mean and standard deviation of the session's training trials instead. "none" leaves
        the amplitudes, in µV because float16 has no room for volts.
    conditions : tuple of int
        Numbers of training and of test conditions.
    repetitions : tuple of int
        How many of a condition are kept in each session, training and test.
    jobs : int
        Sessions read at once, each in a process of its own if it is more than one; see
        `sessions_at_once`. What is written is the same.

    Raises
    ------
    InputError
        Where a file is missing or damaged, is another subject's, or doesn't hold the recording
        that it should; where memory runs out.
    """
    sessions, place = Path(sessions), Path(place)
    if whiten not in WHITENING:
        raise InputError(f"There is no whitening {whiten!r}; choose from {', '.join(WHITENING)}.")
    files = _find_files(sessions, subject)
    n_train, n_test = SHOWN_IN * repetitions[0], SESSIONS * repetitions[1]
    seen = np.zeros(conditions[0], int)  # in how many sessions so far
    lost = 0
    place.mkdir(parents=True, exist_ok=True)
    tasks = [
        (sessions, session, files, whiten, conditions, repetitions)
        for session in range(1, SESSIONS + 1)
    ]
    with (
        # Everything temporary lies in here, so that it goes even where a process was ended.
        tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=place) as work,
        new_array(
            place / "train.safetensors", (conditions[0], n_train, len(CHANNELS), N_TIMES)
        ) as train,
        new_array(
            place / "test.safetensors", (conditions[1], n_test, len(CHANNELS), N_TIMES)
        ) as test,
    ):
        done = _read_sessions(tasks, Path(work), train.dtype, jobs)
        for session, (rows, lost_there) in enumerate(done, 1):
            _check_seen(rows, seen, sessions / files[session, "training"])
            slots = np.array([_slots(k, repetitions[0], n_train) for k in range(SHOWN_IN)])
            _place(Path(work) / f"{session}-training", train, rows, slots[seen[rows]])
            seen[rows] += 1
            slots = np.tile(_slots(session - 1, repetitions[1], n_test), (conditions[1], 1))
            _place(Path(work) / f"{session}-test", test, np.arange(conditions[1]), slots)
            lost += lost_there
        if (seen < SHOWN_IN).any():
            rare = int(np.argmax(seen < SHOWN_IN))
            raise InputError(
                f"Training condition {rare + 1} occurs in {seen[rare]} sessions of {sessions}, not "
                f"in {SHOWN_IN} of them; download the subject anew."
            )
    write_json(
        place / META,
        {
            "subject": subject,
            "channels": CHANNELS,
            "sfreq": float(SFREQ),
            "tmin": 0.0,
            "unit": {"none": "µV", "zscore": "standard deviations"}.get(whiten, "whitened"),
            "test_repetitions": None,
            "origin": f"raw: {ABOUT}",
            "whitening": WHITENING[whiten],
            "sessions": SESSIONS,
            "epochs_lost_at_edges": lost,
            "seed": SEED,
            "mne": version("mne"),
        },
    )


def _read_sessions(
    tasks: list[tuple], work: Path, dtype: np.dtype, jobs: int
) -> list[tuple[np.ndarray, int]]:
    """Return what `read_session` does of each session; joblib ends all where one fails."""
    try:
        # A minute without work ends the processes, also where this one was killed.
        return Parallel(min(jobs, len(tasks)), idle_worker_timeout=60)(
            delayed(read_session)(*task, work, dtype) for task in tasks
        )
    except (BrokenProcessPool, MemoryError) as error:
        raise InputError(
            f"Reading the sessions of {tasks[0][0]}, {jobs} at once, was ended "
            f"({type(error).__name__}), most likely as memory ran out; close other programs or "
            "give fewer --jobs."
        ) from None


def read_session(
    sessions: Path,
    session: int,
    files: dict[tuple[int, str], str],
    whiten: str,
    conditions: tuple[int, int],
    repetitions: tuple[int, int],
    work: Path,
    dtype: np.dtype,
) -> tuple[np.ndarray, int]:
    """Read a session and write its normalised trials, condition after condition.

    Parameters
    ----------
    sessions, whiten, conditions, repetitions
        See `convert`.
    session : int
        From 1.
    files : dict of (int, str) to str
        See `_find_files`.
    work : Path
        Folder that gets ``1-training`` and ``1-test`` (for session 1): the trials and no more,
        (n_conditions, n_repetitions, 63, 250).
    dtype : dtype
        Of the trials there.

    Returns
    -------
    rows : array of shape (n_conditions,)
        The training conditions there are, from 0; of test conditions all are.
    lost : int
        Epochs that the recordings don't hold whole.
    """
    parts = {}
    # One thread: the faster for several processes, and the same sums whatever their number.
    with threadpool_limits(1, "blas"):
        for part, n, k in zip(("training", "test"), conditions, repetitions, strict=True):
            with _opened(sessions, files[session, part], work) as path:
                parts[part] = read_part(path, n, k, line=session - 1)
                if part == "test":
                    _check_all_shown(parts[part], n, path)
        normalise = _normalisation(whiten, **parts, where=f"{sessions}, ses-{session:02d}")
        for part, read in parts.items():
            with open(work / f"{session}-{part}", "wb") as file:
                for trials in read.trials:
                    file.write(normalise(trials).astype(dtype))
    return parts["training"].rows, sum(part.lost for part in parts.values())


def _place(path: Path, eeg: np.memmap, rows: np.ndarray, slots: np.ndarray) -> None:
    """Move a session's trials from a file to where they belong in all sessions' EEG.

    Parameters
    ----------
    path : Path
        As `read_session` has written it; it is removed.
    eeg : array of shape (n_all_conditions, n_all_repetitions, 63, 250)
    rows : array of shape (n_conditions,)
        The session's conditions.
    slots : array of shape (n_conditions, n_repetitions)
        Which of all repetitions the session's become.
    """
    shape = slots.shape[1], *eeg.shape[2:]
    at_once = max(1, 1000 // len(slots[0]))  # conditions; 1,000 trials are 32 MB
    with open(path, "rb") as file:
        for start in range(0, len(rows), at_once):
            there = rows[start : start + at_once]
            trials = np.fromfile(file, eeg.dtype, len(there) * int(np.prod(shape)))
            # A mapping of its own, so that pages that were written don't stay in memory.
            target = np.memmap(eeg.filename, eeg.dtype, "r+", eeg.offset, eeg.shape)
            target[there[:, None], slots[start : start + at_once]] = trials.reshape(-1, *shape)
    path.unlink()


def read_part(
    path: Path, conditions: int, repetitions: int, chunk: int = _CHUNK, line: int = 0
) -> Part:
    """Epoch one file: events, baseline, resampling, choice of repetitions, covariance.

    Parameters
    ----------
    path : Path
        ``raw_eeg_training.npy`` or ``raw_eeg_test.npy``.
    conditions : int
        Events go from 1 to this number, but for catch trials.
    repetitions : int
        How many of each condition are kept.
    chunk : int
        Epochs that are cut at once.
    line : int
        Where on the terminal the progress is shown: so many lines below the first.

    Raises
    ------
    InputError
        Where the file is damaged or another kind of recording, or lacks repetitions.
    """
    channels, events, lost = _read_events(path, conditions)
    rows, chosen = _choose(events, repetitions, lost, path)
    shape = len(CHANNELS), N_TIMES
    trials = np.empty((chosen.size, *shape), np.float32)
    covariance = np.zeros((len(CHANNELS), len(CHANNELS)))
    in_time = np.argsort(chosen, axis=None)
    bar = tqdm(
        total=chosen.size, desc=path.stem, unit="epoch", position=line, leave=False, disable=None
    )
    with bar:
        for start in range(0, chosen.size, chunk):
            which = in_time[start : start + chunk]
            cut = _cut(path, channels, events[chosen.flat[which]])
            covariance += len(which) * shrunk_covariance(cut) / chosen.size
            trials[which] = cut
            bar.update(len(which))
    return Part(rows, trials.reshape(*chosen.shape, *shape), covariance, lost)


def _read_events(path: Path, conditions: int) -> tuple[list[int], np.ndarray, int]:
    """Check a recording and find its events.

    Returns
    -------
    channels : list of int
        Where the paper's channels are in the file.
    events : array of shape (n_events, 3)
        As MNE has them; whole epochs, no catch trials.
    lost : int
        Events too near the recording's edges.
    """
    content = pickles.read_pickle(path)
    wanted = {"raw_eeg_data", "ch_names", "sfreq"}
    if not isinstance(content, dict) or (missing := wanted - content.keys()):
        lacks = ", ".join(sorted(missing)) if isinstance(content, dict) else "everything expected"
        raise InputError(f"{path} lacks {lacks}; download it anew.")
    data, names, sfreq = content["raw_eeg_data"], list(content["ch_names"]), content["sfreq"]
    if sfreq != RAW_SFREQ:
        raise InputError(
            f"{path} was recorded at {sfreq} Hz, not {RAW_SFREQ} Hz; give the data set's raw files."
        )
    if missing := [name for name in [*CHANNELS, "stim"] if names.count(name) != 1]:
        raise InputError(
            f"{path} has no channel {', '.join(missing)}, or has it twice; it must hold the "
            f"{len(CHANNELS)} channels of THINGS-EEG2 and stim."
        )
    if not isinstance(data, np.ndarray) or data.ndim != 2 or len(data) != len(names):
        raise InputError(f"{path} doesn't hold a row of samples a channel; download it anew.")

    stim = np.array(data[names.index("stim")], float)
    # Not a number that is whole and positive: neither MNE nor a cast to int would say so.
    if not (np.isfinite(stim).all() and (stim >= 0).all() and (stim % 1 == 0).all()):
        raise InputError(
            f"{path} has values in its stim channel that are no event numbers; download it anew."
        )
    raw = mne.io.RawArray(
        stim[None], mne.create_info(["stim"], sfreq, "stim", verbose="error"), verbose="error"
    )
    try:
        events = mne.find_events(raw, "stim", verbose="error")
    except ValueError as error:
        raise InputError(
            f"{path} has events that can't be told apart ({one_line(error)}); download it anew."
        ) from None
    events = events[events[:, 2] != TARGET]
    beyond = events[events[:, 2] > conditions]
    if len(beyond):
        raise InputError(
            f"{path} has the event {beyond[0, 2]} at {beyond[0, 0] / sfreq:.3f} s, but there are "
            f"{conditions} pictures; give the file that belongs to them."
        )
    whole = (events[:, 0] >= BEFORE) & (events[:, 0] + AFTER < data.shape[1])
    return [names.index(name) for name in CHANNELS], events[whole], int((~whole).sum())


def _choose(
    events: np.ndarray, repetitions: int, lost: int, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Choose repetitions as published: at random, every condition from the same seed.

    Returns
    -------
    rows : array of shape (n_conditions,)
        The conditions there are, from 0.
    chosen : array of shape (n_conditions, n_repetitions)
        Rows of `events`.
    """
    if not len(events):
        raise InputError(f"{path} has no events of pictures; download it anew.")
    # A stable sort keeps the repetitions of a condition in time order.
    order = np.argsort(events[:, 2], kind="stable")
    values, first = np.unique(events[order, 2], return_index=True)
    chosen = np.empty((len(values), repetitions), int)
    for row, there in enumerate(np.split(order, first[1:])):
        if len(there) < repetitions:
            edge = f" ({lost} epochs are cut off at the recording's edges)" if lost else ""
            raise InputError(
                f"{path} has {len(there)} whole epochs of condition {values[row]}, {repetitions} "
                f"are needed{edge}; download it anew."
            )
        chosen[row] = there[_shuffled(len(there))[:repetitions]]
    return values - 1, chosen


def _cut(path: Path, channels: list[int], events: np.ndarray) -> np.ndarray:
    """Cut, baseline and resample epochs: (n_events, 63, 250) in V. Events in time order."""
    start, stop = events[0, 0] - BEFORE, events[-1, 0] + AFTER + 1
    # The mapping is made anew each time, so that pages that were read don't stay in memory.
    span = np.asarray(pickles.read_pickle(path)["raw_eeg_data"][channels, start:stop], float)
    if not np.isfinite(span).all():
        channel, time = np.argwhere(~np.isfinite(span))[0]
        raise InputError(
            f"{path} holds NaN or infinity in channel {CHANNELS[channel]} at "
            f"{(start + time) / RAW_SFREQ:.3f} s; download it anew."
        )
    length = BEFORE + AFTER + 1
    epochs = np.empty((len(events), len(channels), length))
    for epoch, onset in zip(epochs, events[:, 0] - start, strict=True):
        epoch[:] = span[:, onset - BEFORE : onset + AFTER + 1]
    epochs -= epochs[:, :, : BEFORE + 1].mean(2, keepdims=True)  # the onset's sample included
    # One product of all epochs and channels: one an epoch takes a third longer.
    resampled = epochs.reshape(-1, length) @ _resampling()
    return resampled.reshape(*epochs.shape[:2], N_TIMES)


@functools.cache
def _resampling() -> np.ndarray:
    """Return the matrix (1201, 250) that resamples raw epochs and keeps what follows the onset.

    MNE's resampling is linear, so that what it makes of unit impulses says all. One product with
    a matrix is several times faster than MNE's loop over epochs and channels.
    """
    impulses = np.eye(BEFORE + AFTER + 1)[:, None]
    info = mne.create_info(["impulse"], RAW_SFREQ, "eeg", verbose="error")
    epochs = mne.EpochsArray(impulses, info, verbose="error").resample(SFREQ, verbose="error")
    return epochs.get_data(copy=False)[:, 0, BASELINE : BASELINE + N_TIMES].copy()


def _check_seen(rows: np.ndarray, seen: np.ndarray, path: Path) -> None:
    """Refuse training conditions that two earlier sessions have shown."""
    if len(often := rows[seen[rows] == SHOWN_IN]):
        raise InputError(
            f"{path} has training condition {often[0] + 1}, as {SHOWN_IN} sessions before have "
            f"it; {SHOWN_IN} in all are expected, so download the subject anew."
        )


def _check_all_shown(part: Part, conditions: int, path: Path) -> None:
    """Refuse a test file without all test conditions."""
    if len(missing := np.setdiff1d(np.arange(conditions), part.rows)):
        raise InputError(
            f"{path} has no whole epoch of test condition {missing[0] + 1}; download it anew."
        )


def _normalisation(whiten: str, training: Part, test: Part, where: str):
    """Return the function that normalises a session's trials, (…, 63, n_times)."""
    variance = np.diag(training.covariance)
    if (flat := variance < 1e-12 * np.median(variance)).any():
        raise InputError(
            f"Channel {CHANNELS[int(flat.argmax())]} is flat in {where}; download it anew."
        )
    if whiten == "none":
        return lambda trials: 1e6 * trials
    if whiten == "zscore":
        by_channel = [training.trials[:, :, c] for c in range(len(CHANNELS))]
        mean = np.array([one.mean(dtype=float) for one in by_channel])[:, None]
        scale = np.array([one.std(dtype=float) for one in by_channel])[:, None]
        return lambda trials: (trials - mean) / scale
    covariance = training.covariance
    if whiten == "both":
        covariance = (covariance + test.covariance) / 2
    matrix = whitening_matrix(covariance)
    return lambda trials: matrix @ trials


def _slots(session: int, repetitions: int, total: int) -> np.ndarray:
    """Return where a session's repetitions go when those of all sessions are shuffled."""
    # Place j takes repetition _shuffled(total)[j].
    return np.argsort(_shuffled(total))[session * repetitions : (session + 1) * repetitions]


@functools.cache
def _shuffled(count: int) -> np.ndarray:
    """Return the order of so many things, shuffled as published: each time from the same seed."""
    return shuffle(np.arange(count), random_state=SEED)


def _find_files(sessions: Path, subject: int) -> dict[tuple[int, str], str]:
    """Find the eight files, (session, "training" or "test") → name in the zip or folder."""
    if sessions.is_dir():
        names = [file.relative_to(sessions).as_posix() for file in sessions.rglob("*.npy")]
    else:
        try:
            with zipfile.ZipFile(sessions) as archive:
                names = archive.namelist()
        except FileNotFoundError:
            raise InputError(f"{sessions} is missing; check its name or download it.") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{sessions} isn't a whole zip ({one_line(error)}); download it anew."
            ) from None
    # macOS puts "__MACOSX/…/._raw_eeg_test.npy" beside.
    names = [name for name in names if "/raw_eeg_" in name]
    for name in names:
        for number in re.findall(r"(?:^|/)sub-(\d+)", f"{sessions.name}/{name}"):
            if int(number) != subject:
                raise InputError(
                    f"{sessions} holds recordings of subject {int(number)}, not of subject "
                    f"{subject}; give sub-{subject:02d}.zip or its folder."
                )
    files = {}
    for session in range(1, SESSIONS + 1):
        for part in ("training", "test"):
            file = f"ses-{session:02d}/raw_eeg_{part}.npy"
            found = [name for name in names if f"/{name}".endswith(f"/{file}")]
            if len(found) != 1:
                raise InputError(
                    f"{sessions} holds {file} {len(found)} times, not once; "
                    f"download sub-{subject:02d}.zip anew."
                )
            files[session, part] = found[0]
    return files


@contextlib.contextmanager
def _opened(sessions: Path, name: str, work: Path) -> Iterator[Path]:
    """Yield a path to one of the files; out of a zip it is there for the time being only."""
    if sessions.is_dir():
        yield sessions / name
        return
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=work) as folder:
        path = Path(folder) / PurePosixPath(name).name
        try:
            with (
                zipfile.ZipFile(sessions) as archive,
                archive.open(name) as source,
                open(path, "wb") as target,
            ):
                shutil.copyfileobj(source, target, 2**20)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{name} can't be unpacked from {sessions} to {work.parent} ({one_line(error)}); "
                "make room there or download the zip anew."
            ) from None
        try:
            yield path
        except InputError as error:  # name what the user knows, not the temporary file
            raise InputError(str(error).replace(str(path), f"{sessions}/{name}")) from None
