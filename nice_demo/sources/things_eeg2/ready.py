"""EEG of THINGS-EEG2 that others have preprocessed, as an EEG set.

In: a subject's two published files, or the zip that holds them, in one of three forms (`FORMS`).
They are checked, put into the paper's channel order and rounded to float16, a few conditions at a
time, so that files larger than memory pass through. Out: the folder ``sub-XX``.
"""

import contextlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nice_demo.eegset import META, new_array
from nice_demo.errors import InputError, one_line
from nice_demo.files import write_json
from nice_demo.montage import CHANNELS, PRESETS
from nice_demo.sources.things_eeg2.pickles import read_pickle

SESSIONS = 4
SEED = 20200220  # of the published preprocessing
_CHUNK = 64e6  # bytes of a file that are mapped at a time
_SCALE = (0.01, 100)  # between them lies the root mean square of EEG that is whitened


@dataclass(frozen=True)
class Form:
    """How a published file is laid out.

    Attributes
    ----------
    about : str
    key : str
        Where in its dict the EEG is.
    channels : list of str
    sfreq : float
        Hz.
    n_times : int
        Samples of a trial.
    tmin : float
        When the first one was taken, s.
    whitening : str
    by_session : bool
        A condition's repetitions stand session after session; they are shuffled as published.
    """

    about: str
    key: str
    channels: list[str]
    sfreq: float
    n_times: int
    tmin: float
    whitening: str
    by_session: bool = False


FORMS = {
    "nice": Form(
        "preprocessed as NICE does it, float64 (LidongYang/EEG_Image_decode on the Hub)",
        "preprocessed_eeg_data", CHANNELS, 250.0, 250, 0.0,
        "by the files' authors: each session by Σ^(−1/2), Σ from its training trials",
    ),
    "hf": Form(
        "preprocessed as NICE does it, float16 (Haitao999/things-eeg on the Hub)",
        "eeg", CHANNELS, 250.0, 250, 0.0,
        "by the files' authors: each session by Σ^(−1/2), Σ from its training trials",
        by_session=True,
    ),
    "osf17": Form(
        "17 channels at 100 Hz, preprocessed by the data set's authors (OSF anp5v)",
        "preprocessed_eeg_data", PRESETS["17"], 100.0, 100, -0.2,
        "by the data set's authors: each session by Σ^(−1/2), Σ the mean of that of its "
        "training trials and that of its test trials",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """A file that was checked, but for its values."""

    split: str
    path: Path
    form: Form
    shape: tuple[int, ...]
    names: list[str]  # the channels in the file's order

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first condition and the EEG of a few, in the paper's channel order.

        The file is mapped anew each time: pages that were read would otherwise count as this
        process's memory until the end.
        """
        size = read_pickle(self.path)[self.form.key].nbytes
        step = max(1, int(_CHUNK * self.shape[0] / size))
        channels = [self.names.index(name) for name in self.form.channels]
        repetitions = np.arange(self.shape[1])
        if self.form.by_session:
            np.random.RandomState(SEED).shuffle(repetitions)  # what sklearn.utils.shuffle does
        for start in tqdm(range(0, self.shape[0], step), self.split, disable=None):
            eeg = read_pickle(self.path)[self.form.key][start : start + step]
            if self.form.by_session:
                eeg = eeg[:, repetitions]
            yield start, eeg if self.names == self.form.channels else eeg[:, :, channels]


def convert(
    files: Sequence[Path],
    place: Path,
    subject: int,
    origin: str,
    conditions: tuple[int, int] = (16540, 200),
    repetitions: tuple[int, int] = (4, 80),
) -> None:
    """Write a subject's EEG set from files that others have preprocessed.

    Parameters
    ----------
    files : sequence of Path
        The training and the test file, or the one zip that holds both.
    place : Path
        The subject's folder; files in it are replaced when both new ones are complete.
    subject : int
    origin : str
        One of `FORMS`.
    conditions, repetitions : tuple of int
        Of training and test.

    Raises
    ------
    InputError
        Where a file isn't what it should be, or holds NaN, infinity, or numbers beyond float16.
    """
    if origin not in FORMS:
        raise InputError(f"There is no origin {origin!r}; choose from {', '.join(FORMS)}.")
    form = FORMS[origin]
    with contextlib.ExitStack() as stack:
        for path in files:
            _check_subject(path, subject)
        if len(files) == 1:
            place.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=place)
            )
            files = _unzip(files[0], Path(folder), subject)
        parts = [
            _look(path, split, form, counts)
            for path, split, *counts in zip(
                files, ("training", "test"), conditions, repetitions, strict=True
            )
        ]
        try:
            with (
                new_array(place / "train.safetensors", parts[0].shape) as train,
                new_array(place / "test.safetensors", parts[1].shape) as test,
            ):
                _write(parts[0], train)
                _write(parts[1], test)
        except OSError as error:
            raise InputError(
                f"{place} can't be written ({one_line(error)}); make room and start again."
            ) from None
        source_files = [_describe(part) for part in parts]
    meta = {
        "subject": subject,
        "channels": form.channels,
        "sfreq": form.sfreq,
        "tmin": form.tmin,
        "unit": "whitened",
        "test_repetitions": None,
        "origin": f"{origin}: {form.about}",
        "whitening": form.whitening,
        "sessions": SESSIONS,
        "source_files": source_files,
    }
    if form.by_session:
        meta["seed"] = SEED  # repetitions of all sessions mixed, as in NICE's files
    write_json(place / META, meta)


def _check_subject(path: Path | str, subject: int) -> None:
    """Refuse a file whose folder or name is another subject's."""
    for name in re.findall(r"sub-(\d+)", "/".join(Path(path).parts[-2:])):
        if int(name) != subject:
            raise InputError(
                f"{path} belongs to subject {int(name)}, not {subject}; give that subject's files."
            )


def _unzip(path: Path, folder: Path, subject: int) -> list[Path]:
    """Unzip the training and the test file into a folder."""
    unzipped = []
    try:
        with zipfile.ZipFile(path) as archive:
            for split in ("training", "test"):
                file_name = f"preprocessed_eeg_{split}.npy"
                members = [n for n in archive.namelist() if n.split("/")[-1] == file_name]
                if len(members) != 1:
                    raise InputError(
                        f"{path} holds {len(members)} files {file_name}, not one; download it anew."
                    )
                _check_subject(members[0], subject)
                with archive.open(members[0]) as source, open(folder / file_name, "wb") as target:
                    shutil.copyfileobj(source, target, 2**20)
                unzipped.append(folder / file_name)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing; download it anew.") from None
    except Exception as error:  # zipfile and zlib have many
        raise InputError(
            f"{path} can't be unzipped ({one_line(error)}); make room or download it anew."
        ) from None
    return unzipped


def _look(path: Path, split: str, form: Form, counts: tuple[int, int]) -> _Part:
    """Check all of a file but the values of its EEG."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, not a dict; give the published file."
        )
    if missing := [key for key in (form.key, "ch_names", "times") if key not in content]:
        there = ", ".join(f"{key!a}" for key in list(content)[:10]) or "nothing"
        raise InputError(
            f"{path} lacks {', '.join(missing)} and holds {there:.200}; give the published file."
        )
    names = _names(content["ch_names"], path, form)
    eeg, shape = content[form.key], (*counts, len(form.channels), form.n_times)
    if not isinstance(eeg, np.ndarray) or eeg.dtype.kind != "f":
        raise InputError(f"{path} has EEG that isn't an array of floats; give the published file.")
    if eeg.shape != shape:
        raise InputError(
            f"{path} has EEG of shape {eeg.shape}, not {shape} (conditions, repetitions, channels, "
            f"times) as the {split} file should; give the published file."
        )
    _check_times(content["times"], path, form)
    if "img" in content:
        _check_order(content["img"], path)
    return _Part(split, path, form, shape, names)


def _names(names: object, path: Path, form: Form) -> list[str]:
    """Return the channels in the file's order, which must be the form's in any order."""
    if isinstance(names, np.ndarray):
        names = names.tolist()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} has no list of channel names; give the published file.")
    missing = [name for name in form.channels if name not in names]
    unknown = [f"{name!a:.20}" for name in names if name not in form.channels]
    twice = [name for name in form.channels if names.count(name) > 1]
    for what, which in (("lacks", missing), ("has the unknown", unknown), ("has twice", twice)):
        if which:
            more = f" and {len(which) - 10} more" if len(which) > 10 else ""
            raise InputError(
                f"{path} {what} channel{'s' * (len(which) > 1)} {', '.join(which[:10])}{more}; "
                f"it must hold the {len(form.channels)} of THINGS-EEG2 that belong to it."
            )
    return [str(name) for name in names]


def _check_times(times: object, path: Path, form: Form) -> None:
    """Check the sampling rate and the first sample.

    Files at 250 Hz are known to hold the 300 times of the epoch before its baseline was cut off,
    so the samples are taken to be the last ones.
    """
    times = np.asarray(times)
    if times.ndim != 1 or times.dtype.kind not in "fi" or len(times) < form.n_times:
        raise InputError(
            f"{path} has times of shape {times.shape} for {form.n_times} samples; give the "
            "published file."
        )
    kept = times[-form.n_times :].astype(float)
    sfreq = (len(kept) - 1) / (kept[-1] - kept[0]) if kept[-1] > kept[0] else np.nan
    wanted = form.tmin + np.arange(form.n_times) / form.sfreq
    # A tenth of a sample: times are rounded in some files.
    if not np.abs(kept - wanted).max() < 0.1 / form.sfreq:
        raise InputError(
            f"{path} was sampled at {sfreq:.5g} Hz from {kept[0]:.4g} s, not at {form.sfreq:g} Hz "
            f"from {form.tmin:g} s; give the published file."
        )


def _check_order(pictures: object, path: Path) -> None:
    """Check that conditions stand in the data set's order, which is that of the file names."""
    if isinstance(pictures, np.ndarray) and pictures.ndim == 2 and pictures.size:
        first = pictures[:, 0]
        if (first[1:] <= first[:-1]).any() or (pictures != first[:, None]).any():
            raise InputError(
                f"{path} has its pictures in another order than the data set; give the published "
                "file."
            )


def _write(part: _Part, out: np.memmap) -> None:
    """Write a part's EEG as float16.

    Through the file instead of the map: pages written through a map count as this process's
    memory, and a disk that is full would end the process without a word.
    """
    with open(out.filename, "r+b") as file:
        file.seek(out.offset)
        for start, eeg in part.chunks():
            with np.errstate(over="ignore"):
                rounded = np.ascontiguousarray(eeg, np.float16)
                power = np.square(rounded, dtype=np.float32).mean()
            good = np.isfinite(rounded).all((1, 2, 3))
            if not good.all():
                row = int(good.argmin())
                here = "NaN or infinity"
                if np.isfinite(eeg[row]).all():
                    here = f"the value {np.abs(eeg[row]).max():.3g}, too large for float16,"
                raise InputError(
                    f"{part.path} has {here} in {part.split} condition {start + row + 1} of "
                    f"{part.shape[0]}; download it anew."
                )
            if not _SCALE[0] < np.sqrt(power) < _SCALE[1]:
                raise InputError(
                    f"{part.path} has a root mean square of {np.sqrt(power):.3g} from {part.split} "
                    f"condition {start + 1} on, so it isn't whitened (that would be about 1); "
                    "give the published file."
                )
            file.write(rounded)


def _describe(part: _Part) -> dict:
    """Describe a source file for ``meta.json``."""
    eeg = read_pickle(part.path)[part.form.key]
    described = {"name": part.path.name, "bytes": part.path.stat().st_size, "dtype": eeg.dtype.name}
    if part.names != part.form.channels:
        described["channels_reordered_from"] = part.names
    return described
