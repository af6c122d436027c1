"""Training trials by row, of one subject or pooled over several, read from disk batch by batch.

To leave one subject out, `other_subjects` opens the training recordings of all the others, and
nothing else of theirs: their test recordings stay closed. Nor can the test pictures leak through
the training recordings: `check_pool` refuses data in which a concept of the test pictures occurs
among the training pictures, and those are the same for all subjects.
"""

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nice_demo.eegset import DataSet, TrainingSet
from nice_demo.errors import InputError
from nice_demo.files import sha256


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
    shapes = {s: data.training_set(s).train.shape[2:] for s in data.subjects}
    first = data.subjects[0]
    for subject, shape in shapes.items():
        if shape != shapes[first]:
            raise InputError(
                f"Subject {subject} in {data.folder} has {shape[0]} channels × {shape[1]} samples, "
                f"subject {first} {shapes[first][0]} × {shapes[first][1]}; prepare all alike."
            )


def other_subjects(data: DataSet, subject: int) -> list[TrainingSet]:
    """Open the training trials of all subjects of a data folder but one."""
    return [data.training_set(other) for other in data.subjects if other != subject]


Trained = TrainingSet | Sequence[TrainingSet]  # on one subject (an `EEGSet` too), or on a pool


def fingerprint(eeg: Trained) -> str | list[str]:
    """Return the SHA-256 of the file that is trained on; of a pool, all of them in order."""
    if isinstance(eeg, Sequence):
        return [fingerprint(one) for one in eeg]
    path = eeg.folder / "train.safetensors"
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@cache  # a pool has gigabytes, and most of its files train for every subject
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256(path)


class TrainingData:
    """Training trials by row: read from the memory-mapped files, or resident on a GPU.

    Parameters
    ----------
    eeg : TrainingSet or sequence of TrainingSet
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
            size = len(self), self.channels, self.times
            self.resident = torch.empty(size, dtype=torch.float16, device=device)
            for rows in np.array_split(np.arange(len(self)), math.ceil(len(self) / 1000)):
                self.resident[rows[0] : rows[-1] + 1] = self._read(rows).half()

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
