"""Training trials by row, of one subject or pooled over several, read from disk batch by batch.

A pool may be larger than memory: `TrainingData.batches` reads the next batches while a step
computes, by position and not through the memory map, so that no page of a file stays resident.

To leave one subject out, `other_subjects` opens the training recordings of all the others, and
nothing else of theirs: their test recordings stay closed. Nor can the test pictures leak through
the training recordings: `check_pool` refuses data in which a concept of the test pictures occurs
among the training pictures, and those are the same for all subjects.
"""

import math
import mmap
import os
import re
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nice_demo.eegset import DataSet, TrainingSet
from nice_demo.errors import InputError, one_line
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


AHEAD = 2  # batches that are read while a step computes
RESIDENT = 0.5  # the share of a GPU's free memory that the trials may take


class TrainingData:
    """Training trials by row: read from their files, or resident on a GPU that has room for them.

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
        self.trials = [_Trials(one, single_trials) for one in sets]
        self.channels, self.times = sets[0].train.shape[2:]
        self.device = device
        conditions = [
            np.repeat(np.arange(len(one.train)), len(trials) // len(one.train))
            for one, trials in zip(sets, self.trials, strict=True)
        ]
        self.conditions = np.concatenate(conditions)
        # Where each subject's rows start, and where all end.
        self.starts = np.cumsum([0, *map(len, conditions)])
        self.resident = None
        size = 2 * len(self) * self.channels * self.times
        if device.type == "cuda" and size < RESIDENT * torch.cuda.mem_get_info(device)[0]:
            shape = len(self), self.channels, self.times
            resident = torch.empty(shape, dtype=torch.float16, device=device)
            parts = np.array_split(np.arange(len(self)), math.ceil(len(self) / 1000))
            for rows, eeg in zip(parts, self.batches(parts), strict=True):
                resident[rows[0] : rows[-1] + 1] = eeg.half()
            self.resident = resident

    def __len__(self) -> int:
        return len(self.conditions)

    def by_subject(self, rows: np.ndarray) -> list[np.ndarray]:
        """Split ascending rows into those of each subject."""
        return np.split(rows, np.searchsorted(rows, self.starts[1:-1]))

    def rows(self, rows: np.ndarray) -> Tensor:
        """Return EEG (n_rows, n_channels, n_times), float32, on the device.

        Raises
        ------
        InputError
            Where a file can't be read any more, or has been cut short since it was opened.
        """
        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device)].float()
        return self._read(rows, self._batch(len(rows))).to(self.device)

    def batches(self, rows: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """Yield `rows(batch)` for each batch of rows; the next ones are read meanwhile.

        A batch is overwritten when the next one is asked for: be done with it, backward step
        included, or copy it. (Fresh memory for each costs more than reading it.)

        Parameters
        ----------
        rows : sequence of arrays of int
            The rows of each batch.

        Raises
        ------
        InputError
            As `rows` does, when the batch that can't be read is asked for.
        """
        if self.resident is not None:
            yield from map(self.rows, rows)
            return
        largest = max(map(len, rows), default=0)
        free: deque[Tensor] = deque()  # the memory of batches that were used

        def read(batch: np.ndarray) -> tuple[Tensor, Tensor]:
            # Made in this thread: a tensor made under inference mode can't be written to here.
            whole = free.popleft() if free else self._batch(largest)
            return whole, self._read(batch, whole[: len(batch)])

        with ThreadPoolExecutor(1, "reading ahead") as reader:
            following = (reader.submit(read, batch) for batch in rows)
            reading = deque(islice(following, AHEAD))
            try:
                for _ in rows:
                    reading.extend(islice(following, 1))
                    whole, eeg = reading.popleft().result()
                    yield eeg.to(self.device, non_blocking=True)
                    if self.device.type == "cpu":  # else its copy to the device may still go on
                        free.append(whole)
            finally:
                for batch in reading:
                    batch.cancel()

    def _batch(self, size: int) -> Tensor:
        """Return memory for a batch; a GPU copies from pinned memory while it computes."""
        pinned = self.device.type == "cuda"
        return torch.empty(size, self.channels, self.times, pin_memory=pinned)

    def _read(self, rows: np.ndarray, eeg: Tensor) -> Tensor:
        """Fill `eeg` (n_rows, n_channels, n_times), float32, and return it."""
        owners = np.searchsorted(self.starts, rows, "right") - 1
        for place, (owner, row) in enumerate(zip(owners, rows - self.starts[owners], strict=True)):
            self.trials[owner].read(int(row), eeg[place])
        return eeg


class _Trials:
    """One subject's trials in their file, by row.

    They are read by position: pages that are touched through the memory map stay resident, and
    where the file has been cut short they end the process.
    """

    def __init__(self, eeg: TrainingSet, single_trials: bool) -> None:
        trials = eeg.train
        per_row = 1 if single_trials else trials.shape[1]
        self.array = trials.reshape(-1, per_row, *trials.shape[2:])
        self.path, self.file = eeg.folder / "train.safetensors", None
        # A part of a map, or an array in memory, is read as the array that it is.
        if isinstance(getattr(trials, "base", None), mmap.mmap) and hasattr(os, "preadv"):
            self.start = trials.offset
            self.file = os.open(trials.filename, os.O_RDONLY)
            weakref.finalize(self, os.close, self.file)

    def __len__(self) -> int:
        return len(self.array)

    def read(self, row: int, eeg: Tensor) -> None:
        """Read a row, or average its trials, into `eeg` (n_channels, n_times), float32."""
        stored = np.empty(self.array.shape[1:], self.array.dtype)
        if self.file is None:
            stored[...] = self.array[row]
        else:
            self._fill(stored, self.start + row * stored.nbytes)
        trials = torch.from_numpy(stored)  # it converts half precision 15 times faster than NumPy
        eeg.copy_(trials[0])
        if len(trials) > 1:
            for trial in trials[1:]:
                eeg += trial.float()
            eeg /= len(trials)

    def _fill(self, stored: np.ndarray, start: int) -> None:
        try:
            size = os.preadv(self.file, [stored], start)
        except OSError as error:
            raise InputError(
                f"{self.path} can't be read any more ({one_line(error)}); check the disk."
            ) from None
        if size < stored.nbytes:
            raise InputError(
                f"{self.path} can't be read as EEG (it has been cut short); prepare it anew."
            )
