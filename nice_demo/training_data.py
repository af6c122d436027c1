"""Training trials by row, of one subject or pooled over several, read from disk batch by batch.

To leave one subject out, `other_subjects` opens the training recordings of all the others, and
nothing else of theirs: their test recordings stay closed. Nor can the test pictures leak through
the training recordings: `check_pool` refuses data in which a concept of the test pictures occurs
among the training pictures, and those are the same for all subjects.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nice_demo.eegset import META, DataSet, EEGSet, _check, _check_meta, memory_map
from nice_demo.errors import InputError
from nice_demo.files import read_json, sha256


@dataclass(frozen=True)
class TrainingSet:
    """One subject's training trials alone, memory-mapped: what training reads of an `EEGSet`.

    Attributes
    ----------
    folder : Path
    channels : list of str
    train : array of shape (n_conditions, n_repetitions, n_channels, n_times)
    """

    folder: Path
    channels: list[str]
    train: np.ndarray

    @classmethod
    def open(cls, data: DataSet, subject: int) -> "TrainingSet":
        """Open a subject's training trials; the test recording isn't touched.

        Raises
        ------
        InputError
            Where they are missing or damaged, aren't finite, or don't fit the data set.
        """
        folder = data.folder / f"sub-{subject:02d}"
        meta = read_json(folder / META)
        if missing := sorted({"channels", "sfreq", "test_repetitions"} - meta.keys()):
            raise InputError(f"{folder / META} lacks {', '.join(missing)}; prepare anew.")
        _check_meta(meta, folder / META)
        found = cls(folder, meta["channels"], memory_map(folder / "train.safetensors"))
        _check(found.train, folder / "train.safetensors", meta)
        if len(found.train) != len(data.train_gallery):
            raise InputError(
                f"{folder} has {len(found.train)} train conditions, the gallery "
                f"{len(data.train_gallery)}; prepare the subject anew."
            )
        rate = data.description["preparation"].get("sfreq", meta["sfreq"])
        if found.channels != data.montage.names or meta["sfreq"] != rate:
            raise InputError(
                f"{folder / META} names other channels or another sampling rate than the data "
                "set; prepare the subject anew."
            )
        return found


def check_pool(data: DataSet) -> None:
    """Check that an encoder can be trained on all subjects but one, and leaks nothing.

    Raises
    ------
    InputError
        Where there is one subject, a test concept is trained on, or subjects don't go together.
    """
    if len(data.subjects) < 2:
        raise InputError(
            f"{data.folder} has one subject, so that none remains when one is left out; "
            "prepare more."
        )
    training, test = (
        # THINGS numbers the concepts of each partition anew: 00001_aardvark, 00001_carrier
        {re.sub(r"^\d+_", "", candidate.concept) for candidate in gallery.candidates}
        for gallery in (data.train_gallery, data.test_gallery)
    )
    if leaked := sorted(training & test):
        raise InputError(
            f"{len(leaked)} of the test concepts in {data.folder} (such as {leaked[0]!r}) are "
            "among the training pictures, which the other subjects saw; prepare the data without."
        )
    shapes = {s: TrainingSet.open(data, s).train.shape[2:] for s in data.subjects}
    first = data.subjects[0]
    for subject, shape in shapes.items():
        if shape != shapes[first]:
            raise InputError(
                f"Subject {subject} in {data.folder} has {shape[0]} channels × {shape[1]} samples, "
                f"subject {first} {shapes[first][0]} × {shapes[first][1]}; prepare all alike."
            )


def other_subjects(data: DataSet, subject: int) -> list[TrainingSet]:
    """Open the training trials of all subjects of a data folder but one."""
    return [TrainingSet.open(data, other) for other in data.subjects if other != subject]


Trained = EEGSet | Sequence[TrainingSet]  # on one subject, or on a pool


def fingerprint(eeg: Trained) -> str | list[str]:
    """Return the SHA-256 of the file that is trained on; of a pool, all of them in order."""
    if isinstance(eeg, Sequence):
        return [sha256(one.folder / "train.safetensors") for one in eeg]
    return sha256(eeg.folder / "train.safetensors")


class TrainingData:
    """Training trials by row: read from the memory-mapped files, or resident on a GPU.

    Parameters
    ----------
    eeg : EEGSet or sequence of TrainingSet
        Of one subject, or of several: then the rows of one follow those of the other.
    single_trials : bool
        A row is a trial of a condition; else it is the mean over a condition's trials.
    device : torch.device

    Attributes
    ----------
    folders : str
        Where the trials lie, to be named in a message.
    conditions : array of shape (n_rows,), int
        Which picture was seen. Subjects saw the same ones.
    channels, times : int
        Size of a row.
    """

    def __init__(self, eeg: Trained, single_trials: bool, device: torch.device) -> None:
        sets = list(eeg) if isinstance(eeg, Sequence) else [eeg]
        self.folders = ", ".join(str(one.folder) for one in sets)
        self.trials = [one.train for one in sets]
        self.channels, self.times = self.trials[0].shape[2:]
        self.device = device
        self.repetitions = [trials.shape[1] if single_trials else 1 for trials in self.trials]
        conditions = [
            np.repeat(np.arange(len(trials)), repetitions)
            for trials, repetitions in zip(self.trials, self.repetitions, strict=True)
        ]
        self.conditions = np.concatenate(conditions)
        # Where each subject's rows start, and where all end.
        self.starts = np.cumsum([0, *map(len, conditions)])
        self.resident = None
        if device.type == "cuda":
            chunks = np.array_split(np.arange(len(self)), math.ceil(len(self) / 1000))
            self.resident = torch.cat([self._read(c).half().to(device) for c in chunks])

    def __len__(self) -> int:
        return len(self.conditions)

    def by_subject(self, rows: np.ndarray) -> list[np.ndarray]:
        """Split ascending rows into those of each subject."""
        return np.split(rows, np.searchsorted(rows, self.starts[1:-1]))

    def rows(self, rows: np.ndarray) -> Tensor:
        """Return EEG (n_rows, n_channels, n_times), float32, on the device."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device)].float()
        return self._read(rows)

    def _read(self, rows: np.ndarray) -> Tensor:
        eeg = np.empty((len(rows), self.channels, self.times), np.float32)
        owner = np.searchsorted(self.starts, rows, "right") - 1
        for subject in np.unique(owner):
            own = owner == subject
            trials, repetitions = self.trials[subject], self.repetitions[subject]
            condition, repetition = np.divmod(rows[own] - self.starts[subject], repetitions)
            if repetitions > 1:
                eeg[own] = trials[condition, repetition]
            elif trials.shape[1] > 1:
                eeg[own] = trials[condition].mean(1, dtype=np.float32)
            else:
                eeg[own] = trials[condition, 0]
        return torch.from_numpy(eeg)
