"""Somebody's own EEG: from the files that it comes in to epochs that an encoder takes.

Files flow in (`nice_demo.sources.recordings.files`), a `Recording` flows on: what was read, in
volts, before anything was done to it.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Recording:
    """EEG as it stands in a file.

    Attributes
    ----------
    name : str
        Of the file, without its folder.
    format : str
        In words, such as "European Data Format (EDF)".
    volts : array of shape (n_channels, n_times), float32
        Continuous EEG, V; or of shape (n_epochs, n_channels, n_times) where the file holds epochs.
    channels : list of str
        As the file names them.
    sfreq : float
        Hz.
    tmin : float
        Of the first sample, s: for epochs relative to their event, else 0.
    onsets : array of shape (n_events,)
        When events happened, s from the first sample of continuous EEG; for epochs empty.
    events : list of str
        What happened then, one for each onset; for epochs one for each epoch.
    bad : array of shape (n_stretches, 2)
        Where the file marks continuous EEG as bad: start and end, s from the first sample.
    reference : str or None
        The electrode against which it was recorded, where that is known.
    notes : list of str
        What the reader did that its user should know, in sentences.
    """

    name: str
    format: str
    volts: np.ndarray
    channels: list[str]
    sfreq: float
    tmin: float = 0.0
    onsets: np.ndarray = field(default_factory=lambda: np.empty(0))
    events: list[str] = field(default_factory=list)
    bad: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    reference: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def epoched(self) -> bool:
        """Whether the file holds epochs rather than continuous EEG."""
        return self.volts.ndim == 3
