"""When the information is there: windows of the EEG alone, and decoders tested at other times.

*Growing windows* begin with the first sample, *sliding windows* last 100 ms. Zeroed at test: the
encoder hears silence, the mean of whitened EEG, outside of the window; it was trained on the whole
epoch, so that what it makes of a part may be less than there is. Retrained: a ridge that has known
nothing but the window, hence how much a linear decoder finds there (figure 4 of Song et al., ICLR
2024, has growing windows).

*Temporal generalisation* (King & Dehaene, Trends Cogn. Sci. 2014): ridges trained on 40 ms each,
tested on every other 40 ms. Off the diagonal they succeed only where the code has stayed the same.
"""

from collections.abc import Iterator

import numpy as np

from nice_demo.analysis.retrain import Moments, averages, features, of_subject
from nice_demo.analysis.series import (
    RETRAINED,
    ZEROED,
    Axis,
    Found,
    Recording,
    SubjectSeries,
    measure,
)
from nice_demo.errors import InputError

STEP = 0.04  # s, from one window to the next
SLIDING = 0.1  # s, length of a sliding window
FINE = 0.02  # s, averaged into a feature of the ridge for sliding windows

ABOUT = {
    "zeroed": "Whitened EEG outside of the window is 0, its mean; the encoder is as it was.",
    "retrained": (
        "Ridge trained on the subject's own trials: on averages of 40 ms within growing windows, "
        "of 20 ms within sliding ones. Its strength is chosen on held-out training pictures for "
        "each window."
    ),
    "temporal generalisation": (
        "Ridge on each electrode's average over 40 ms, its strength chosen on held-out training "
        "pictures at the time it is trained at."
    ),
    "note": (
        "In THINGS-EEG2 pictures follow each other every 200 ms: an epoch of a second holds five "
        "of them, and a late window also what belongs to later pictures. They differ from "
        "repetition to repetition, so that averaging turns them into noise."
    ),
}


def analyse(recording: Recording) -> Found:
    """Decode from parts of the epoch.

    Parameters
    ----------
    recording : Recording
        Without training data the retrained series are left out.

    Returns
    -------
    Found
        "growing windows" and "sliding windows", of each encoder zeroed at test and of a ridge
        retrained; "temporal generalisation" of a ridge retrained.

    Raises
    ------
    InputError
        Where the epoch is shorter than a window, or there is neither encoder nor training data.
    """
    if recording.eeg.shape[2] < _samples(recording, SLIDING):
        raise InputError(
            f"An epoch of {recording.eeg.shape[2]} samples is shorter than a window of "
            f"{SLIDING * 1000:.0f} ms; take longer epochs."
        )
    if recording.data is None and not recording.encoders:
        raise InputError("There is neither an encoder nor training data to decode windows with.")
    growing, sliding = _growing(recording), _sliding(recording)
    found = []
    for name, (axis, windows) in {"growing windows": growing, "sliding windows": sliding}.items():
        for encoder in recording.encoders:
            decoded = _zeroed(recording, encoder, windows)
            found.append(_measured(recording, name, encoder, ZEROED, [axis], decoded))
    if recording.data is None:
        left_out = ["retrained: the training trials aren't at hand"]
        return Found(found, about=ABOUT | {"left_out": left_out})

    n_times, step = recording.eeg.shape[2], _samples(recording, STEP)
    coarse = of_subject(recording, recording.subject, averages(n_times, step))
    decoded = _retrained(recording, coarse, step, growing[1])
    found.append(_measured(recording, "growing windows", "ridge", RETRAINED, [growing[0]], decoded))

    axes = [Axis(name, "s", _middles(recording)) for name in ("trained at", "tested at")]
    decoded = _generalised(recording, coarse, step)
    found.append(_measured(recording, "temporal generalisation", "ridge", RETRAINED, axes, decoded))

    step = _samples(recording, FINE)
    fine = of_subject(recording, recording.subject, averages(n_times, step))
    decoded = _retrained(recording, fine, step, sliding[1])
    found.append(_measured(recording, "sliding windows", "ridge", RETRAINED, [sliding[0]], decoded))
    return Found(found, about=ABOUT)


def _measured(recording, name, encoder, how, axes, decoded) -> SubjectSeries:
    return measure(name, encoder, how, axes, decoded, recording.target, recording.seed)


# ---------------------------------------------------------------- windows


def _samples(recording: Recording, seconds: float) -> int:
    return max(round(seconds * float(recording.bundle.manifest["sfreq"])), 1)


def _growing(recording: Recording) -> tuple[Axis, list[slice]]:
    """Return the windows' ends, s, and which samples are inside."""
    step, n_times = _samples(recording, STEP), recording.eeg.shape[2]
    ends = range(step, n_times + 1, step)
    axis = Axis("end of the window", "s", [_seconds(recording, end) for end in ends])
    return axis, [slice(0, end) for end in ends]


def _sliding(recording: Recording) -> tuple[Axis, list[slice]]:
    """Return the windows' middles, s, and which samples are inside."""
    step, length = _samples(recording, STEP), _samples(recording, SLIDING)
    starts = range(0, recording.eeg.shape[2] - length + 1, step)
    points = [_seconds(recording, start + length / 2) for start in starts]
    axis = Axis("middle of the window", "s", points)
    return axis, [slice(start, start + length) for start in starts]


def _middles(recording: Recording) -> list[float]:
    """Return the middles, s, of the windows that `averages` over `STEP` have."""
    step = _samples(recording, STEP)
    starts = range(0, recording.eeg.shape[2] - step + 1, step)
    return [_seconds(recording, start + step / 2) for start in starts]


def _seconds(recording: Recording, sample: float) -> float:
    """Return the time at which a sample, or a part of one, begins."""
    sfreq = float(recording.bundle.manifest["sfreq"])
    return round(float(recording.times[0]) + sample / sfreq, 6)


# ---------------------------------------------------------------- decoding


def _zeroed(recording: Recording, encoder: str, windows: list[slice]) -> Iterator[np.ndarray]:
    for window in windows:
        eeg = np.zeros_like(recording.eeg)
        eeg[:, :, window] = recording.eeg[:, :, window]
        yield recording.decode(encoder, eeg)


def _retrained(
    recording: Recording, moments: Moments, step: int, windows: list[slice]
) -> Iterator[np.ndarray]:
    """Decode with a ridge of its own from the averages, over `step` samples, in each window."""
    n_channels, n_times = recording.eeg.shape[1:]
    x = features(recording.eeg, averages(n_times, step))
    starts = step * np.arange(n_times // step)
    for window in windows:
        inside = (starts >= window.start) & (starts + step <= window.stop)
        kept = np.tile(inside, n_channels)
        yield recording.compare(moments.keep(kept).fit().embed(x[:, kept]))


def _generalised(recording: Recording, moments: Moments, step: int) -> Iterator[np.ndarray]:
    """Decode each window's average with the ridge of each, the trained window changing slowest."""
    n_channels, n_times = recording.eeg.shape[1:]
    x = features(recording.eeg, averages(n_times, step))
    in_window = np.tile(np.arange(n_times // step), n_channels)
    for trained in range(n_times // step):
        decoder = moments.keep(in_window == trained).fit()
        for tested in range(n_times // step):
            yield recording.compare(decoder.embed(x[:, in_window == tested]))
