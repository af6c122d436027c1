"""The EEG set: what every source ends in and training starts from.

A data folder holds ``dataset.json`` (name, source, whether simulated, preparation, image model,
licences), two galleries (``train_gallery``, ``test_gallery``: row i is condition i), the montage,
and a folder for each subject::

    sub-01/train.safetensors   "eeg" (n_conditions, n_repetitions, n_channels, n_times)
    sub-01/test.safetensors    the same; repetitions may be averages over the first 1, 2, 5, …
    sub-01/meta.json           channels, sampling rate, first sample, unit, test_repetitions, …
"""

import contextlib
import json
import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from nice_demo.errors import InputError, one_line
from nice_demo.files import complete_file, read_json, write_json
from nice_demo.gallery import Gallery
from nice_demo.montage import Montage

META = "meta.json"
_DTYPES = {"F16": np.float16, "F32": np.float32}


@dataclass(frozen=True)
class DataSet:
    """A data folder: what its subjects have in common.

    Attributes
    ----------
    folder : Path
    description : dict
        The content of ``dataset.json``.
    """

    folder: Path
    description: dict

    @classmethod
    def open(cls, folder: Path | str) -> "DataSet":
        """Open a data folder.

        Raises
        ------
        InputError
            Where it is missing or isn't one.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                f"There is no data folder {folder}; make one with `python -m nice_demo.prepare`."
            )
        description = read_json(folder / "dataset.json")
        needed = {"name", "source", "simulated", "preparation", "image_model", "licences"}
        if missing := sorted(needed - description.keys()):
            raise InputError(f"{folder / 'dataset.json'} lacks {', '.join(missing)}; prepare anew.")
        if not isinstance(description["preparation"], dict):
            raise InputError(f"{folder / 'dataset.json'} describes no preparation; prepare anew.")
        return cls(folder, description)

    @cached_property
    def train_gallery(self) -> Gallery:
        """The pictures of the training conditions."""
        return Gallery.open(self.folder / "train_gallery")

    @cached_property
    def test_gallery(self) -> Gallery:
        """The candidates: the pictures of the test conditions."""
        return Gallery.open(self.folder / "test_gallery")

    @cached_property
    def montage(self) -> Montage:
        """The electrodes."""
        return Montage.open(self.folder / "montage.safetensors")

    @property
    def subjects(self) -> list[int]:
        """Subjects that are prepared, ascending."""
        names = [path.parent.name[4:] for path in self.folder.glob(f"sub-*/{META}")]
        return sorted(int(name) for name in names if name.isdecimal())

    def subject(self, subject: int) -> "EEGSet":
        """Open one subject's EEG and check that it fits the galleries.

        Raises
        ------
        InputError
            Where the subject isn't prepared, or the arrays don't fit or aren't finite.
        """
        eeg = EEGSet.open(self._folder_of(subject))
        self._check_fit(eeg, train=eeg.train, test=eeg.test)
        return eeg

    def training_set(self, subject: int) -> "TrainingSet":
        """Open one subject's training trials alone; the test recording stays closed.

        Raises
        ------
        InputError
            As `subject` does.
        """
        eeg = TrainingSet.open(self._folder_of(subject))
        self._check_fit(eeg, train=eeg.train)
        return eeg

    def _folder_of(self, subject: int) -> Path:
        if subject not in self.subjects:
            have = ", ".join(map(str, self.subjects)) or "none"
            raise InputError(
                f"Subject {subject} isn't in {self.folder} (there: {have}); prepare it first."
            )
        return self.folder / f"sub-{subject:02d}"

    def _check_fit(self, eeg: "TrainingSet", **splits: np.ndarray) -> None:
        galleries = {"train": self.train_gallery, "test": self.test_gallery}
        for split, array in splits.items():
            if not galleries[split].embeddings.size:
                raise InputError(
                    f"The pictures of {self.folder} have no embeddings yet; make them with "
                    f"`python -m nice_demo.embed --data {self.folder} --images FOLDER`."
                )
            if len(array) != len(galleries[split]):
                raise InputError(
                    f"{eeg.folder} has {len(array)} {split} conditions, the gallery "
                    f"{len(galleries[split])}; prepare the subject anew."
                )
        if eeg.channels != self.montage.names:
            raise InputError(
                f"{eeg.folder / META} names other channels than the data set's montage; "
                "prepare the subject anew."
            )
        rate = self.description["preparation"].get("sfreq", eeg.sfreq)
        if eeg.sfreq != rate:
            raise InputError(
                f"{eeg.folder / META} names the sampling rate {eeg.sfreq} Hz, the data set "
                f"{rate} Hz; prepare the subject anew."
            )


@dataclass(frozen=True)
class TrainingSet:
    """One subject's training trials, memory-mapped.

    Attributes
    ----------
    folder : Path
    meta : dict
    train : array of shape (n_conditions, n_repetitions, n_channels, n_times)
        float16 or float32; whitened, or in µV (``meta["unit"]``).
    """

    folder: Path
    meta: dict
    train: np.ndarray

    @property
    def channels(self) -> list[str]:
        """Names of the channels."""
        return self.meta["channels"]

    @property
    def sfreq(self) -> float:
        """Sampling rate, Hz."""
        return self.meta["sfreq"]

    @classmethod
    def open(cls, folder: Path | str) -> "TrainingSet":
        """Open the training trials in a subject's folder, and no other file of trials.

        Raises
        ------
        InputError
            Where a file is missing or damaged, has another number of channels than it names, no
            trials, or NaN.
        """
        folder = Path(folder)
        meta = _read_meta(folder / META)
        return cls(folder, meta, _open_split(folder, "train", meta))


@dataclass(frozen=True)
class EEGSet(TrainingSet):
    """One subject's EEG: the training trials and the test trials.

    Attributes
    ----------
    test : array of shape (n_conditions, n_repetitions, n_channels, n_times)
        As `TrainingSet.train`, of the test pictures.
    """

    test: np.ndarray

    @property
    def test_repetitions(self) -> list[int]:
        """Numbers of repetitions for which `evoked` has averages, ascending."""
        stored = self.meta["test_repetitions"]
        if stored:
            return stored
        count = self.test.shape[1]
        return [n for n in (1, 2, 5, 10, 20, 40) if n < count] + [count]

    def evoked(self, repetitions: int) -> np.ndarray:
        """Average the first `repetitions` test trials of every condition.

        Returns
        -------
        array of shape (n_conditions, n_channels, n_times), float32

        Raises
        ------
        InputError
            Where there is no such average.
        """
        if repetitions not in self.test_repetitions:
            raise InputError(
                f"{self.folder} has no average over {repetitions} test repetitions; "
                f"choose one of {', '.join(map(str, self.test_repetitions))}."
            )
        if self.meta["test_repetitions"]:
            return self.test[:, self.test_repetitions.index(repetitions)].astype(np.float32)
        return self.test[:, :repetitions].mean(1, dtype=np.float32)

    @classmethod
    def open(cls, folder: Path | str) -> "EEGSet":
        """Open a subject's folder.

        Raises
        ------
        InputError
            As `TrainingSet.open`, for either split; also where the two don't fit each other.
        """
        folder = Path(folder)
        meta = _read_meta(folder / META)
        eeg = cls(folder, meta, *(_open_split(folder, split, meta) for split in ("train", "test")))
        if eeg.train.shape[3] != eeg.test.shape[3]:
            raise InputError(
                f"{folder} has {eeg.train.shape[3]} samples a training trial and "
                f"{eeg.test.shape[3]} a test trial; prepare both alike."
            )
        if meta["test_repetitions"] and len(meta["test_repetitions"]) != eeg.test.shape[1]:
            raise InputError(
                f"{folder / META} names {len(meta['test_repetitions'])} averages a test condition, "
                f"the file has {eeg.test.shape[1]}; prepare anew."
            )
        return eeg

    @staticmethod
    def write(folder: Path, train: np.ndarray, test: np.ndarray, meta: dict) -> None:
        """Write a subject's folder; ``meta.json`` comes last and marks it as complete.

        Parameters
        ----------
        folder : Path
        train, test : array of shape (n_conditions, n_repetitions, n_channels, n_times)
        meta : dict
            ``subject``, ``channels``, ``sfreq`` (Hz), ``tmin`` (s), ``unit`` ("whitened", "µV"),
            ``test_repetitions`` (list, or None where `test` holds single trials).
        """
        for name, array in (("train", train), ("test", test)):
            with complete_file(folder / f"{name}.safetensors") as part:
                save_file({"eeg": np.ascontiguousarray(array)}, part)
        write_json(folder / META, meta)


def _read_meta(path: Path) -> dict:
    meta = read_json(path)
    if missing := sorted({"channels", "sfreq", "tmin", "unit", "test_repetitions"} - meta.keys()):
        raise InputError(f"{path} lacks {', '.join(missing)}; prepare anew.")
    channels, averages, sfreq = meta["channels"], meta["test_repetitions"], meta["sfreq"]
    if not (isinstance(channels, list) and all(isinstance(name, str) for name in channels)):
        raise InputError(f"{path} has no list of channel names; prepare anew.")
    if type(sfreq) not in (int, float) or not 0 < sfreq < float("inf"):
        raise InputError(f"{path} names the sampling rate {sfreq!r} Hz; prepare anew.")
    whole = averages is None or (
        isinstance(averages, list) and all(type(n) is int and n > 0 for n in averages)
    )
    if not whole or (averages and averages != sorted(set(averages))):
        raise InputError(
            f"{path} names the test repetitions {averages!r}, not whole numbers that ascend; "
            "prepare anew."
        )
    return meta


def _open_split(folder: Path, split: str, meta: dict) -> np.ndarray:
    path = folder / f"{split}.safetensors"
    array = memory_map(path)
    if array.ndim != 4 or 0 in array.shape:
        raise InputError(
            f"{path} holds EEG of shape {array.shape}, not (conditions, repetitions, channels, "
            "times) with at least one of each; prepare anew."
        )
    if array.shape[2] != len(meta["channels"]):
        raise InputError(
            f"{path} has {array.shape[2]} channels but {META} names {len(meta['channels'])}; "
            "prepare anew."
        )
    for start in range(0, len(array), 64):  # a few MB, which fit the cache
        bad = ~_finite(array[start : start + 64]).all((1, 2, 3))
        if bad.any():
            raise InputError(
                f"{path} holds NaN or infinity in condition {start + int(bad.argmax())}; "
                "remove that trial or prepare the subject anew."
            )
        _release(array)
    return array


def _finite(array: np.ndarray) -> np.ndarray:
    """Do as `np.isfinite` does, but eight times faster for half precision."""
    if array.dtype != np.float16:
        return np.isfinite(array)
    return (array.view(np.uint16) & 0x7C00) != 0x7C00  # the exponent of NaN and infinity


def _release(array: np.ndarray) -> None:
    """Let go of the pages of a map that were read, which count as the process's memory."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def memory_map(path: Path, name: str = "eeg") -> np.ndarray:
    """Map an array of a safetensors file, so that rows are read when they are used.

    Raises
    ------
    InputError
        Where the file is missing or damaged, or lacks the array.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if not 2 <= length <= min(size - 8, 10_000_000):
                raise ValueError("its header has an impossible length")
            header = json.loads(file.read(length))
        entry = header[name]
        start, end = entry["data_offsets"]
        shape, dtype = tuple(entry["shape"]), np.dtype(_DTYPES[entry["dtype"]])
        if end - start != dtype.itemsize * int(np.prod(shape)) or 8 + length + end > size:
            raise ValueError("it is cut short")
        if end == start:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", 8 + length + start, shape)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; prepare the subject anew.") from None
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"{path} can't be read as EEG ({one_line(error)}); prepare it anew."
        ) from None


@contextlib.contextmanager
def new_array(path: Path, shape: tuple[int, ...], dtype: type = np.float16) -> Iterator[np.memmap]:
    """Yield an array to fill, mapped onto a new safetensors file, for EEG larger than memory.

    The file appears under its final name when the block ends without an error.

    Parameters
    ----------
    path : Path
    shape : tuple of int
    dtype : type
        float16 or float32.

    Raises
    ------
    InputError
        Where the disk has no room for it.
    """
    dtype = np.dtype(dtype)
    name = {np.dtype(known): name for name, known in _DTYPES.items()}[dtype]
    size = math.prod(shape) * dtype.itemsize
    entry = {"dtype": name, "shape": list(shape), "data_offsets": [0, size]}
    header = json.dumps({"eeg": entry}).encode()
    header += b" " * (-len(header) % 8)  # the format wants the data aligned
    with complete_file(path) as part:
        try:
            with open(part, "wb") as file:
                file.write(len(header).to_bytes(8, "little") + header)
                file.truncate(8 + len(header) + size)
                file.flush()
                # A full disk has to show here: writing to a map would end the process.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, 8 + len(header) + size)
        except OSError as error:
            raise InputError(
                f"{path} needs {size / 1e9:.2f} GB but can't be written ({error.strerror}); "
                "make room on the disk."
            ) from None
        array = np.memmap(part, dtype, "r+", 8 + len(header), shape)
        yield array
        array.flush()
