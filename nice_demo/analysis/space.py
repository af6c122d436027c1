"""Where on the scalp the information is: regions left out or alone, a searchlight, presets.

In flow the test trials; electrodes are set to zero in them, or a ridge is trained anew on the rest.
Out flow accuracies. Zeroed EEG is nothing that an encoder has learned from, so that it may fall
further than the information that is lost; trained anew, it makes the best of what remains.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from nice_demo.analysis.retrain import features, forty_ms, of_subject
from nice_demo.analysis.series import (
    PERMUTATIONS,
    RETRAINED,
    ZEROED,
    Axis,
    Found,
    Recording,
    measure,
)
from nice_demo.explain import NEIGHBOURS
from nice_demo.montage import PRESETS, REGIONS

NOTE = (
    "The EEG is whitened: a channel is a mixture, centred on the electrode, of all electrodes "
    "(Σ^(−1/2) of the noise), so that each holds a little of all others' signal. A region alone "
    "knows a little of the others, and a region left out remains in part."
)


def analyse(recording: Recording, permutations: int = PERMUTATIONS) -> Found:
    """Decode from parts of the electrodes.

    Parameters
    ----------
    recording : Recording
    permutations : int
        For thresholds.

    Returns
    -------
    Found
        Series "without a region", "a region alone", "searchlight" (an electrode and its neighbours
        nearer than `NEIGHBOURS`) and "a preset of electrodes", each zeroed at test, of all
        encoders, and retrained. Without known regions or presets, the searchlight alone.
    """
    parts = parts_of(recording.channels, recording.bundle.montage.positions)
    of_trials = recording.target, recording.seed, permutations
    series = []
    for name, (axis, kept) in parts.items():
        for encoder in recording.encoders:
            found = (recording.decode(encoder, recording.eeg * some[:, None]) for some in kept)
            series.append(measure(name, encoder, ZEROED, [axis], found, *of_trials))
        if recording.data is not None:
            found = retrained(recording, kept)
            series.append(measure(name, "ridge", RETRAINED, [axis], found, *of_trials))
    regions = {
        region: [n for n in names if n in recording.channels] for region, names in REGIONS.items()
    }
    about = {
        "note": NOTE,
        "neighbours": NEIGHBOURS,  # m
        "regions": {region: names for region, names in regions.items() if names},
    }
    left_out = []
    if recording.data is None:
        left_out.append("Without the training trials nothing was trained anew.")
    if "a region alone" not in parts:
        left_out.append(
            "The channels are of fewer than two known regions, so that none was left out."
        )
    if "a preset of electrodes" not in parts:
        left_out.append("No preset of electrodes is among the channels.")
    if left_out:
        about["left_out"] = left_out
    return Found(series, about=about)


def parts_of(channels: Sequence[str], positions: np.ndarray) -> dict[str, tuple[Axis, np.ndarray]]:
    """Say which electrodes are kept.

    Parameters
    ----------
    channels : sequence of str
    positions : array of shape (n_channels, 3)
        m.

    Returns
    -------
    dict of str to (Axis, array of shape (n_points, n_channels), bool)
        By series. A region or a preset is a point where the channels have it; series of fewer than
        two regions, or of no preset, aren't there.
    """
    channels = np.array(channels)
    regions = {region: np.isin(channels, names) for region, names in REGIONS.items()}
    regions = {region: inside for region, inside in regions.items() if inside.any()}
    presets = {
        name: np.isin(channels, chosen)
        for name, chosen in PRESETS.items()
        if set(chosen) <= set(channels)
    }
    parts = {}
    if len(regions) > 1:
        axis = Axis("region", "", ["all", *regions])
        everything = np.ones((1, len(channels)), bool)
        inside = np.array(list(regions.values()))
        parts["without a region"] = axis, np.concatenate([everything, ~inside])
        parts["a region alone"] = axis, np.concatenate([everything, inside])
    distance = np.linalg.norm(positions[:, None] - positions, axis=2)
    parts["searchlight"] = Axis("electrode", "", channels.tolist()), distance < NEIGHBOURS
    if presets:
        axis = Axis("electrodes", "", list(presets))
        parts["a preset of electrodes"] = axis, np.array(list(presets.values()))
    return parts


def retrained(recording: Recording, kept: np.ndarray) -> Iterator[np.ndarray]:
    """Train a ridge anew on each choice of electrodes, and decode the test trials.

    Parameters
    ----------
    recording : Recording
        With data.
    kept : array of shape (n_points, n_channels), bool

    Yields
    ------
    array of shape (n_trials, n_candidates)
    """
    averaged = forty_ms(recording.eeg.shape[2])
    x, sums = features(recording.eeg, averaged), of_subject(recording, recording.subject)
    for some in kept:
        of_some = np.repeat(some, averaged.shape[1])  # a channel's features lie side by side
        yield recording.compare(sums.keep(of_some).fit().embed(x[:, of_some]))
