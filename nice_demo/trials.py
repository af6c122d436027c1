"""A subject's test trials, as averages over the first repetitions.

Two kinds end in the same `Evoked`: trials that a phantom generates from its seed, and averages
that were stored.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from nice_demo.errors import InputError
from nice_demo.sources.phantom.trials import BASELINE, SFREQ, TMIN, Averages, Phantom


@dataclass(frozen=True)
class Evoked:
    """The average of some repetitions of one picture.

    Attributes
    ----------
    eeg : array of shape (n_channels, n_times), float32
        As encoders take it: whitened.
    volts : array of shape (n_channels, n_samples), float32, or None
        Before whitening, average reference, V; None where only whitened EEG was kept.
    times : array of shape (n_samples,)
        Of `volts`, s; the picture appears at 0.
    """

    eeg: np.ndarray
    volts: np.ndarray | None
    times: np.ndarray


class Trials(Protocol):
    """What can be asked of a subject's test trials.

    Attributes
    ----------
    whitening : array of shape (n_sessions, n_channels, n_channels) or None
        Σ^(−1/2) of each session, against Fz; None where it isn't known.
    """

    whitening: np.ndarray | None

    def evoked(self, condition: int, repetitions: int) -> Evoked:
        """Average the first `repetitions` trials of a picture."""

    def responses(self) -> np.ndarray | None:
        """Return what the trials would be without noise, which is known of phantoms alone.

        Returns
        -------
        array of shape (n_conditions, n_channels, n_times) or None
            V against Fz; samples as of `Evoked.eeg`.
        """


class PhantomTrials:
    """Test trials of a phantom subject, made on demand; the latest few pictures are kept.

    Parameters
    ----------
    phantom : Phantom
        Its drives are those of the test pictures.
    repetitions : list of int
        Numbers of repetitions for which averages can be had, ascending.
    """

    def __init__(self, phantom: Phantom, repetitions: list[int]) -> None:
        self._phantom, self.repetitions = phantom, repetitions
        self.whitening = phantom.whitening
        # A picture's averages take 2 MB at most, so these 26 MB a subject.
        self._averages = lru_cache(maxsize=12)(
            lambda condition: Averages(phantom, "test", condition, repetitions)
        )

    def evoked(self, condition: int, repetitions: int) -> Evoked:
        """Average the first `repetitions` trials of a picture."""
        _average(self.repetitions, repetitions)  # refuses what there isn't
        volts, whitened = self._averages(condition).of(repetitions)
        volts = volts - volts.mean(0)  # average reference
        times = TMIN + np.arange(volts.shape[1]) / SFREQ
        return Evoked(whitened.astype(np.float32), volts.astype(np.float32), times)

    def responses(self) -> np.ndarray:
        """Return the responses without noise, neighbours or variation, V against Fz."""
        conditions = range(len(self._phantom.drives))
        return np.stack([self._phantom.expected(c)[:, BASELINE:] for c in conditions])


class StoredTrials:
    """Averages over the first repetitions, read from a file as they are asked for.

    Parameters
    ----------
    path : Path
        Safetensors with "eeg" of shape (n_conditions, n_averages, n_channels, n_times).
    repetitions : list of int
        Number of repetitions in each average.
    """

    whitening = None

    def __init__(self, path: Path, repetitions: list[int]) -> None:
        self.path, self.repetitions = path, repetitions
        with safe_open(path, "numpy") as file:
            shape = file.get_slice("eeg").get_shape()
        if len(shape) != 4 or shape[1] != len(repetitions):
            raise InputError(
                f"{path} holds EEG of shape {tuple(shape)}, not {len(repetitions)} averages "
                "a condition; make the bundle anew."
            )

    def evoked(self, condition: int, repetitions: int) -> Evoked:
        """Average the first `repetitions` trials of a picture."""
        which = _average(self.repetitions, repetitions)
        with safe_open(self.path, "numpy") as file:
            eeg = file.get_slice("eeg")[condition : condition + 1][0, which]
        return Evoked(eeg.astype(np.float32), None, np.empty(0))

    def responses(self) -> None:
        """Return None: nobody knows them."""


def open_trials(kind: str, path: Path, repetitions: list[int]) -> Trials:
    """Open a subject's trials: `kind` is "phantom" or "averages".

    Raises
    ------
    InputError
        Where the kind is unknown or the file damaged.
    """
    try:
        if kind == "phantom":
            return PhantomTrials(Phantom.open(path), repetitions)
        if kind == "averages":
            return StoredTrials(path, repetitions)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} can't be read ({error}); make the bundle anew.") from None
    raise InputError(f"{path} holds trials of the unknown kind {kind!r}; update nice_demo.")


def _average(known: list[int], wanted: int) -> int:
    if wanted not in known:
        raise InputError(
            f"There is no average over {wanted} repetitions; "
            f"choose one of {', '.join(map(str, known))}."
        )
    return known.index(wanted)
