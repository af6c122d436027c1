"""In which frequency band the information is: one band alone, or all but one.

Filters are Butterworth's of order 4, run forwards and backwards so that nothing is delayed, as in
Song et al. (ICLR 2024). Filtered at test: an encoder trained on all frequencies gets EEG that has
been filtered. Retrained: a ridge trained on filtered EEG, hence how much a linear decoder finds in
the band.

Filtering an epoch of fixed length is linear: a matrix (n_times, n_times), made from unit impulses.

A second is short. Its resolution is 1 Hz; delta has at most four cycles in it, and what lies beyond
the epoch's edges is unknown: there the filter sees the epoch itself, mirrored. Edges of bands are
therefore soft, most of all between delta and theta, and an oscillation that an edge of the epoch
cuts off leaks a little into other bands.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.signal import butter, sosfiltfilt

from nice_demo.analysis.retrain import ROWS, features, held_of, of_subject, training_set
from nice_demo.analysis.series import RETRAINED, Axis, Found, Recording, measure
from nice_demo.encoders.nice import POOL
from nice_demo.encoders.ridge import WINDOW
from nice_demo.errors import InputError
from nice_demo.training_data import TrainingData

FILTERED = "filtered at test"
# Hz; the edges are the paper's where it has them.
BANDS = {
    "delta": (0.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 12.0),
    "beta": (12.0, 30.0),
    "low gamma": (32.0, 45.0),
    "high gamma": (55.0, 95.0),
}
ORDER = 4
# Temporal principal components that a retrained ridge sees. A filter attenuates the other bands
# but doesn't remove them, and a decoder trained anew could amplify what is left of them; it hides
# in the last components.
COMPONENTS, VARIANCE = 50, 0.99


def analyse(recording: Recording) -> Found:
    """Decode from EEG of which a band is kept or removed.

    Parameters
    ----------
    recording : Recording
        Without training data the retrained series are left out.

    Returns
    -------
    Found
        "a band alone" and "without a band", of each encoder filtered at test and of a ridge
        retrained, the first point being all frequencies. Of the retrained ridge also, as arrays of
        shape (n_points,), the number of components and the share of the variance they hold.

    Raises
    ------
    InputError
        Where there is neither encoder nor training data.
    """
    if recording.data is None and not recording.encoders:
        raise InputError("There is neither an encoder nor training data to decode bands with.")
    sfreq, n_times = float(recording.bundle.manifest["sfreq"]), recording.eeg.shape[2]
    bands = [name for name, (_, high) in BANDS.items() if high < sfreq / 2]
    axis = Axis("band", "", ["all", *bands])
    filters = {
        "a band alone": [np.eye(n_times), *(keep(n_times, sfreq, name) for name in bands)],
        "without a band": [np.eye(n_times), *(remove(n_times, sfreq, name) for name in bands)],
    }
    found, arrays, about = [], {}, _about(sfreq, n_times, bands)

    def add(name: str, encoder: str, how: str, decoded: Iterator[np.ndarray]) -> None:
        one = measure(name, encoder, how, [axis], decoded, recording.target, recording.seed)
        found.append(one)

    for name, matrices in filters.items():
        for encoder in recording.encoders:
            add(name, encoder, FILTERED, _filtered(recording, encoder, matrices))
    if recording.data is None:
        left_out = ["retrained: the training trials aren't at hand"]
        return Found(found, about=about | {"left_out": left_out})
    covariance, retrained = temporal_covariance(recording), {}
    for name, matrices in filters.items():
        chosen = [components(covariance, matrix) for matrix in matrices]
        arrays[f"{name}: components"] = np.array([c.shape[1] for c, _ in chosen], np.uint16)
        arrays[f"{name}: share of variance"] = np.array([share for _, share in chosen])
        decoded = []
        for point, (weights, _) in zip(axis.points, chosen, strict=True):
            key = point if point == "all" else (name, point)
            if key not in retrained:  # all frequencies are the same in both series
                retrained[key] = _retrained(recording, weights)
            decoded.append(retrained[key])
        add(name, "ridge", RETRAINED, decoded)
    return Found(found, arrays, about)


# ---------------------------------------------------------------- filters


def keep(n_times: int, sfreq: float, band: str) -> np.ndarray:
    """Return the filter that keeps a band: ``eeg @ matrix``, of shape (n_times, n_times).

    Parameters
    ----------
    n_times : int
    sfreq : float
        Hz.
    band : str
        One of `BANDS`.
    """
    low, high = BANDS[band]
    kind, edges = ("bandpass", (low, high)) if low else ("lowpass", high)
    return _matrix(n_times, sfreq, kind, edges)


def remove(n_times: int, sfreq: float, band: str) -> np.ndarray:
    """Return the filter that removes a band; see `keep`."""
    low, high = BANDS[band]
    kind, edges = ("bandstop", (low, high)) if low else ("highpass", high)
    return _matrix(n_times, sfreq, kind, edges)


def _matrix(n_times: int, sfreq: float, kind: str, edges: float | tuple) -> np.ndarray:
    sections = butter(ORDER, edges, kind, fs=sfreq, output="sos")
    # Mirrored as far as the epoch itself goes, for filters ring longer than SciPy's usual padding.
    # Its usual mirroring in value too would turn the first sample, fast or slow, into a step.
    return sosfiltfilt(sections, np.eye(n_times), axis=1, padtype="even", padlen=n_times - 1)


def _filtered(
    recording: Recording, encoder: str, matrices: list[np.ndarray]
) -> Iterator[np.ndarray]:
    for matrix in matrices:
        yield recording.decode(encoder, recording.eeg @ matrix.astype(np.float32))


# ---------------------------------------------------------------- a ridge for each band


def temporal_covariance(recording: Recording) -> np.ndarray:
    """Compute how samples vary together over training trials, the mean over channels.

    Held-out trials aren't looked at.

    Returns
    -------
    array of shape (n_times, n_times)
    """
    training = training_set(recording.data, recording.subject)
    data = TrainingData(training, False, torch.device("cpu"))
    rows = np.flatnonzero(~held_of(recording))
    square, total = np.zeros((data.times, data.times)), np.zeros((data.channels, data.times))
    for part in np.array_split(rows, -(-len(rows) // ROWS)):
        eeg = data.rows(part).numpy()
        total += eeg.sum(0, dtype=float)
        flat = eeg.reshape(-1, data.times)
        square += flat.T @ flat
    mean = total / len(rows)
    return square / len(rows) / data.channels - mean.T @ mean / data.channels


def components(covariance: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the leading temporal principal components of filtered EEG.

    As many as hold `VARIANCE` of the variance, `COMPONENTS` at most.

    Parameters
    ----------
    covariance : array of shape (n_times, n_times)
        Of the EEG before the filter.
    matrix : array of shape (n_times, n_times)
        The filter.

    Returns
    -------
    weights : array of shape (n_times, n_components)
        ``eeg @ weights`` filters and projects.
    share : float
        Of the variance, that the components hold.
    """
    values, vectors = np.linalg.eigh(matrix.T @ covariance @ matrix)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]  # the largest first
    held = np.cumsum(values) / values.sum()
    number = min(int(np.searchsorted(held, VARIANCE)) + 1, COMPONENTS, len(values))
    return matrix @ vectors[:, :number], float(held[number - 1])


def _retrained(recording: Recording, weights: np.ndarray) -> np.ndarray:
    decoder = of_subject(recording, recording.subject, weights).fit()
    return recording.compare(decoder.embed(features(recording.eeg, weights)))


# ---------------------------------------------------------------- what to say beside


def heard(samples: int, frequency: float, sfreq: float) -> float:
    """Compute the amplitude that averaging over some samples leaves of an oscillation.

    Parameters
    ----------
    samples : int
    frequency, sfreq : float
        Hz.

    Returns
    -------
    float
        1 at 0 Hz.
    """
    return float(np.abs(np.exp(2j * np.pi * frequency / sfreq * np.arange(samples)).mean()))


def _about(sfreq: float, n_times: int, bands: list[str]) -> dict:
    seconds = n_times / sfreq
    middles = {name: sum(BANDS[name]) / 2 for name in bands}
    averaged = {"nice": POOL, "ridge": WINDOW}
    return {
        "bands": {name: list(BANDS[name]) for name in bands},
        "filter": f"Butterworth, order {ORDER}, forwards and backwards, on the cut epoch.",
        "filtered": "Test trials are filtered; the encoder was trained on all frequencies.",
        "retrained": (
            "Ridge trained on the subject's own trials, filtered: on their leading temporal "
            f"principal components, as many as hold {VARIANCE:.0%} of the variance, {COMPONENTS} "
            "at most. The arrays say how many there are and what they hold; where that is less, "
            "the frequencies that vary least, mostly the highest, are missed."
        ),
        "note": (
            f"An epoch of {seconds:.3g} s tells frequencies apart that differ by "
            f"{1 / seconds:.2g} Hz, and has {BANDS['delta'][1] * seconds:.2g} cycles of "
            f"{BANDS['delta'][1]:.0f} Hz in it at most. What lies beyond its edges is unknown to "
            "the filter, which sees the epoch mirrored: the edges of the bands are soft, and an "
            "oscillation that is cut off leaks a little into other bands. A band that is removed "
            "is attenuated, not absent."
        ),
        "middles": middles,
        # Before anything that isn't linear, hence what no training can undo but for the attention
        # in front of it.
        "heard": {
            encoder: {name: heard(samples, middle, sfreq) for name, middle in middles.items()}
            for encoder, samples in averaged.items()
        },
        "deaf": (
            f"NICE averages over {POOL} samples ({1000 * POOL / sfreq:.0f} ms) right after its "
            f"first convolution, before anything that isn't linear: of {sfreq / POOL:.2g} Hz it "
            "hears nothing, and of what is faster little, whatever it learns. The ridge averages "
            f'over {WINDOW} samples ({1000 * WINDOW / sfreq:.0f} ms). "heard" has the amplitude '
            "that is left in the middle of each band."
        ),
    }
