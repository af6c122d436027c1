"""Ridge regression trained anew, quickly: on other windows, channels, bands, pictures or subjects.

Ridge needs of the training trials only sums over them (`Moments`), so one pass over a subject's
trials serves many fits: fewer features are a part of the sums, more subjects their sum.

Training trials flow in (`nice_demo.eegset`), `Linear` decoders flow out. Features are weighted sums
over time, those of a channel side by side. With `forty_ms`, the decoder is the `Ridge` that
`nice_demo.training` fits: the same averages, held-out pictures and choice of strength.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from nice_demo.analysis.series import Recording
from nice_demo.eegset import DataSet, TrainingSet
from nice_demo.encoders.ridge import WINDOW, Sums
from nice_demo.errors import InputError
from nice_demo.retrieval import ranks, similarity
from nice_demo.settings import Settings, held_out
from nice_demo.training import RIDGE_STRENGTHS
from nice_demo.training_data import TrainingData

ROWS = 1000  # trials at once


@dataclass(frozen=True)
class Linear:
    """A linear decoder.

    Attributes
    ----------
    weight : array of shape (n_features, dim)
    intercept : array of shape (dim,)
    strength : float
        Of the penalty; one of `RIDGE_STRENGTHS`.
    """

    weight: np.ndarray
    intercept: np.ndarray
    strength: float

    def embed(self, x: np.ndarray) -> np.ndarray:
        """Embed features (n, n_features) as (n, dim), not of unit norm."""
        return x @ self.weight + self.intercept


@dataclass
class Moments(Sums):
    """The sums over the trials trained on, and the held-out trials that choose the strength.

    Attributes
    ----------
    count, sum_x, sum_y, xx, xy
        As of `Sums`: x are features of the EEG, y embeddings of pictures.
    held_x : list of array of shape (n_held, n_features), float32
        One for each subject pooled.
    held_y : list of array of shape (n_held, dim)
    """

    held_x: list[np.ndarray] = field(default_factory=list)
    held_y: list[np.ndarray] = field(default_factory=list)

    def __add__(self, other: "Moments") -> "Moments":
        """Pool subjects: their sums add, their held-out trials stay apart."""
        return Moments(
            self.count + other.count,
            self.sum_x + other.sum_x,
            self.sum_y + other.sum_y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.held_x + other.held_x,
            self.held_y + other.held_y,
        )

    def keep(self, features: np.ndarray) -> "Moments":
        """Return what the sums would be with some of the features alone.

        Parameters
        ----------
        features : array of shape (n_features,), bool; or of shape (n_kept,), int
        """
        return Moments(
            self.count,
            self.sum_x[features],
            self.sum_y,
            self.xx[features][:, features],
            self.xy[features],
            [held[:, features] for held in self.held_x],
            self.held_y,
        )

    def fit(self) -> Linear:
        """Fit a ridge of the strength that ranks the held-out pictures best.

        That is, with the highest mean reciprocal rank among them, the mean over subjects.

        Raises
        ------
        InputError
            Where nothing is held out or trained on, or no feature varies.
        """
        if self.count < 2 or not self.held_x or not all(map(len, self.held_x)):
            raise InputError(
                f"A ridge can't be trained on {self.count} trials with "
                f"{sum(map(len, self.held_x))} held out; prepare more pictures, of more concepts."
            )
        if np.allclose(np.diag(self.xx) * self.count, self.sum_x**2, rtol=1e-9, atol=0):
            raise InputError("No feature of the training trials varies; keep more of the EEG.")
        fitted = [
            Linear(*solution, strength)
            for solution, strength in zip(self.solve(RIDGE_STRENGTHS), RIDGE_STRENGTHS, strict=True)
        ]
        best = np.argmax([self._reciprocal_rank(decoder) for decoder in fitted])
        return fitted[best]

    def _reciprocal_rank(self, decoder: Linear) -> float:
        found = []
        for x, pictures in zip(self.held_x, self.held_y, strict=True):
            similarities = similarity(decoder.embed(x), pictures)
            found.append((1 / ranks(similarities, np.arange(len(pictures)))).mean())
        return float(np.mean(found))


def averages(n_times: int, width: int) -> np.ndarray:
    """Return features that are means over `width` samples: (n_times, n_bins).

    Samples at the end that fill no bin are left out.
    """
    n_bins = n_times // width
    return np.eye(n_times, n_bins * width).reshape(n_times, n_bins, width).mean(2)


def forty_ms(n_times: int) -> np.ndarray:
    """Return the features of `Ridge`, means over 40 ms at 250 Hz: (n_times, n_bins)."""
    return averages(n_times, WINDOW)


def features(eeg: np.ndarray, times_to_features: np.ndarray) -> np.ndarray:
    """Compute features, those of the first channel first.

    Parameters
    ----------
    eeg : array of shape (n_trials, n_channels, n_times)
    times_to_features : array of shape (n_times, n_bins)

    Returns
    -------
    array of shape (n_trials, n_channels · n_bins), float32
    """
    found = np.asarray(eeg, np.float32) @ np.asarray(times_to_features, np.float32)
    return found.reshape(len(found), found.shape[1] * found.shape[2])


def moments(
    training: TrainingSet, pictures: np.ndarray, held: np.ndarray, times_to_features: np.ndarray
) -> Moments:
    """Go once through a subject's training trials, each condition's averaged.

    Parameters
    ----------
    training : TrainingSet
    pictures : array of shape (n_conditions, dim)
        Embeddings of the training pictures.
    held : array of shape (n_conditions,), bool
        Which are not trained on but choose the strength.
    times_to_features : array of shape (n_times, n_bins)

    Returns
    -------
    Moments
    """
    data = TrainingData(training, False, torch.device("cpu"))
    sums = Moments.empty(data.channels * times_to_features.shape[1], pictures.shape[1])
    trained, validates = np.flatnonzero(~held), np.flatnonzero(held)
    for rows in np.array_split(trained, max(math.ceil(len(trained) / ROWS), 1)):
        x = features(data.rows(rows).numpy(), times_to_features)
        sums.add(x.astype(float), pictures[rows].astype(float))
    sums.held_x.append(features(data.rows(validates).numpy(), times_to_features))
    sums.held_y.append(pictures[validates])
    return sums


def held_of(recording: Recording) -> np.ndarray:
    """Return which training conditions chose the strength of the bundle's ridge.

    Returns
    -------
    array of shape (n_conditions,), bool
    """
    entries = recording.bundle.manifest["encoders"][recording.subject]
    entry = entries.get("ridge") or next(iter(entries.values()))
    concepts = [candidate.concept for candidate in _data(recording).train_gallery.candidates]
    return held_out(concepts, Settings(**entry["settings"]), entry["seed"])


def of_subject(
    recording: Recording, subject: str, times_to_features: np.ndarray | None = None
) -> Moments:
    """Return the moments of a subject of the recording's data folder.

    Those of `forty_ms` are kept in memory, for several analyses ask for them.

    Parameters
    ----------
    recording : Recording
        Says which pictures are held out.
    subject : str
        The recording's or another.
    times_to_features : array of shape (n_times, n_bins) or None
        None for `forty_ms`.

    Raises
    ------
    InputError
        Where there is no data, not this subject, or EEG of other channels, times or pictures than
        the bundle's.
    """
    data = _data(recording)
    if not subject.isdecimal():
        raise InputError(f"There is no subject {subject!r} in {data.folder}; prepare it first.")
    training = training_set(data, subject)
    size = len(recording.channels), recording.eeg.shape[2]
    if training.channels != recording.channels or training.train.shape[2:] != size:
        raise InputError(
            f"{training.folder} has {training.train.shape[2]} channels × {training.train.shape[3]} "
            f"samples, the bundle {size[0]} × {size[1]}, or they are named otherwise; "
            "give the data that the bundle was trained on."
        )
    if data.train_gallery.embeddings.shape[1] != recording.bundle.gallery.embeddings.shape[1]:
        raise InputError(
            f"The pictures in {data.folder} were embedded by another image model than the "
            "bundle's; give the data that the bundle was trained on."
        )
    held, usual = held_of(recording), forty_ms(size[1])
    if times_to_features is not None and not np.array_equal(times_to_features, usual):
        return moments(training, data.train_gallery.embeddings, held, times_to_features)
    changed = (training.folder / "train.safetensors").stat().st_mtime_ns
    return _forty_ms_moments(data.folder.resolve(), int(subject), held.tobytes(), changed)


def training_set(data: DataSet, subject: str) -> TrainingSet:
    """Open a subject's training trials, the latest one's once only: opening reads them all."""
    file = data.folder / f"sub-{int(subject):02d}" / "train.safetensors"
    changed = file.stat().st_mtime_ns if file.exists() else 0
    return _training_set(data.folder.resolve(), int(subject), changed)


@lru_cache(maxsize=1)
def _training_set(folder: Path, subject: int, changed: int) -> TrainingSet:
    return DataSet.open(folder).training_set(subject)


@lru_cache(maxsize=10)  # some 30 MB each
def _forty_ms_moments(folder: Path, subject: int, held: bytes, changed: int) -> Moments:
    data = DataSet.open(folder)
    training = training_set(data, str(subject))
    times_to_features = forty_ms(training.train.shape[3])
    pictures = data.train_gallery.embeddings
    return moments(training, pictures, np.frombuffer(held, bool), times_to_features)


def _data(recording: Recording) -> DataSet:
    if recording.data is None:
        raise InputError(
            "Decoders can't be trained anew without the training trials; give the data folder."
        )
    return recording.data
