"""Which maps find what is truly there: a leaderboard of attribution methods on phantoms.

Of phantoms it is known where and when the EEG depends on the picture (`explain.Truth`). For each
encoder and kind of map, the sizes of some test pictures' maps are averaged and compared with that:

* channels: Spearman's correlation with the true map over channels;
* distance: from the map's largest channel to the nearest true peak, mm;
* times: Spearman's correlation with the true time course.

Every figure is also that of an encoder with untrained weights. Part of a good figure is had for
nothing: products with the EEG are large where the EEG is, "pattern" where the noise is. What
training adds, trained − untrained, paired by subject, is what a map shows of what the encoder
*learned*. It has a flaw of its own: untrained weights may do worse than chance, for no merit of the
map (without training, a region matters as it has many electrodes, and the regions where the
pictures' information lies have few). So the leaderboard is ordered by the gain over
untrained weights or over chance, whichever is smaller. Each subject has untrained weights of its
own, so that intervals over subjects hold their luck too.

Maps are compared with the truth in their own space. All but "pattern" speak of whitened channels,
so the noise-free response of each picture is whitened before the deviation over pictures is taken.
How far off the mark a comparison with the truth in volts is, is kept too.

In flows a `Recording`, out flow arrays for the leaderboard and for drawing found beside true.
"""

from dataclasses import dataclass

import numpy as np
from torch import nn

from nice_demo.analysis.series import Analysis, Found, Recording
from nice_demo.errors import InputError
from nice_demo.explain import (
    KINDS,
    Map,
    Question,
    Truth,
    average,
    explain,
    open_truth,
    randomised,
    rank_correlation,
    score,
    space_of,
    summary,
)
from nice_demo.retrieval import t_interval

PICTURES = 24
WEIGHTS = ("trained", "untrained")
FIGURES = ("channels", "distance", "chance distance", "times", "channels in volts")
SANITY = ("signed", "sizes")
SPACES = ("whitened", "volts")
NOTE = (
    "The truth is where the response without noise differs between pictures. An encoder may rightly"
    " leave some of it unused: what says nothing of the embedding, and what is redundant. So no map"
    " need score 1."
)


def analyse(recording: Recording) -> Found:
    """Score all kinds of maps of a phantom subject's encoders.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    Found
        No series. Arrays, NaN where an encoder can't have a kind of map, or a map no such figure:

        * "scores" (n_encoders, n_kinds, 2, n_figures): `WEIGHTS`, `FIGURES`;
        * "sanity" (n_encoders, n_kinds, 2): mean over pictures of the correlation of a map with
          that of untrained weights, `SANITY`;
        * "found channels" (n_encoders, n_kinds, n_channels), "found time course" (…, n_times): of
          trained weights, as a share of the maximum;
        * "true channels" (2, n_channels), "true time course" (2, n_times): `SPACES`, also shares.

        `about` has the names along these axes.

    Raises
    ------
    InputError
        Where the truth isn't known, as of real subjects.
    """
    truth = open_truth(recording.bundle, recording.subject)
    questions = _questions(recording)
    encoders = list(recording.encoders)
    shape = len(encoders), len(KINDS)
    scores = np.full((*shape, len(WEIGHTS), len(FIGURES)), np.nan, np.float32)
    sanity = np.full((*shape, len(SANITY)), np.nan, np.float32)
    channels = np.full((*shape, recording.eeg.shape[1]), np.nan, np.float32)
    times = np.full((*shape, recording.eeg.shape[2]), np.nan, np.float32)
    for e, encoder in enumerate(recording.encoders.values()):
        untrained = randomised(encoder, recording.seed)  # subjects have different ones
        for k, kind in enumerate(KINDS):
            try:
                maps = _maps(kind, encoder, questions)
            except InputError:  # this encoder can't have it
                continue
            others = _maps(kind, untrained, questions)
            for w, weights in enumerate((maps, others)):
                scores[e, k, w] = _figures(average(weights), truth, recording)
            sanity[e, k] = _sanity(maps, others)
            found = average(maps)
            if (over_channels := found.over_channels()) is not None:
                channels[e, k] = _share(over_channels)
            if (over_time := found.over_time()) is not None:
                times[e, k] = _share(over_time)
    true = [summary(getattr(truth, space)) for space in SPACES]
    return Found(
        arrays={
            "scores": scores,
            "sanity": sanity,
            "found channels": channels,
            "found time course": times,
            "true channels": np.array([_share(one) for one, _ in true], np.float32),
            "true time course": np.array([_share(one) for _, one in true], np.float32),
        },
        about={
            "encoders": encoders,
            "kinds": list(KINDS),
            "weights": list(WEIGHTS),
            "figures": list(FIGURES),
            "sanity": list(SANITY),
            "spaces": list(SPACES),
            "space of kind": {kind: space_of(kind) for kind in KINDS},
            "pictures": len(questions),
            "channels": list(recording.channels),
            "times": recording.times.tolist(),
            "note": NOTE,
        },
    )


def _questions(recording: Recording) -> list[Question]:
    """Ask of evenly spaced test pictures why the EEG is similar to the picture that was seen."""
    count = min(PICTURES, len(recording.eeg))
    return [
        Question(
            recording.eeg[condition],
            recording.bundle.gallery.embeddings[condition],
            recording.channels,
            float(recording.bundle.manifest["sfreq"]),
            float(recording.times[0]),
            recording.bundle.trials(recording.subject).whitening,
        )
        for condition in np.linspace(0, len(recording.eeg) - 1, count).round().astype(int)
    ]


def _maps(kind: str, encoder: nn.Module, questions: list[Question]) -> list[Map]:
    return [explain(kind, encoder, question) for question in questions]


def _figures(found: Map, truth: Truth, recording: Recording) -> list[float]:
    """Return the `FIGURES` of an averaged map."""
    positions = recording.bundle.montage.positions
    own = score(found, truth.of(found.kind), positions)
    in_volts = score(found, truth.volts, positions)
    figures = own.channels, own.to_nearest, own.chance_to_nearest, own.times, in_volts.channels
    return [np.nan if figure is None else figure for figure in figures]


def _sanity(maps: list[Map], others: list[Map]) -> list[float]:
    """Return the mean correlations of maps with those of other weights, as `SANITY`."""
    pairs = [(one.values, other.values) for one, other in zip(maps, others, strict=True)]
    signed = [rank_correlation(one, other) for one, other in pairs]
    sizes = [rank_correlation(np.abs(one), np.abs(other)) for one, other in pairs]
    return [_mean(signed), _mean(sizes)]


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


def _share(values: np.ndarray) -> np.ndarray:
    """Divide by the maximum; what is 0 everywhere stays so."""
    return values / (values.max() or 1)


# ---------------------------------------------------------------- the leaderboard


@dataclass(frozen=True)
class Estimate:
    """A mean over subjects with its 95 % t interval (NaN with one subject)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One kind of map of one encoder.

    Attributes
    ----------
    encoder, kind : str
    trained, untrained : Estimate
        The figure, with what was learned and with random weights.
    difference : Estimate
        Trained − untrained, paired by subject; of "distance" the other way round, so that more is
        always better.
    over_chance : Estimate
        The same against chance.
    chance : float
        What a map of nothing gets: 0 for correlations; mm for "distance", mean over subjects.
    sanity : dict of str to float
        Mean over subjects of each of `SANITY`.
    subjects : int
        How many have this figure.
    """

    encoder: str
    kind: str
    trained: Estimate
    untrained: Estimate
    difference: Estimate
    over_chance: Estimate
    chance: float
    sanity: dict[str, float]
    subjects: int

    @property
    def gain(self) -> Estimate:
        """The smaller of `difference` and `over_chance`: what isn't had for nothing."""
        return min(self.difference, self.over_chance, key=lambda estimate: estimate.value)

    @property
    def learned(self) -> bool:
        """Whether trained weights beat untrained ones, and chance, beyond doubt."""
        return self.difference.low > 0 and self.over_chance.low > 0


def leaderboard(analysis: Analysis, figure: str = "channels") -> list[Row]:
    """Order the maps by `Row.gain`, most first.

    Not by the figure of the trained encoder: a map that scores as well with random weights says
    where the EEG or the noise is large, which needs no encoder. Nor is the gain all: where it is
    large, look at the trained figure beside it.

    Parameters
    ----------
    analysis : Analysis
        "truth", of all subjects.
    figure : str
        "channels", "distance", "times" or "channels in volts". Maps without it are left out.

    Returns
    -------
    list of Row
    """
    scores, about = analysis.arrays["scores"].astype(float), analysis.about
    names = about["figures"]
    own = scores[..., names.index(figure)]  # (n_subjects, n_encoders, n_kinds, 2)
    rows = []
    for e, encoder in enumerate(about["encoders"]):
        for k, kind in enumerate(about["kinds"]):
            known = np.isfinite(own[:, e, k]).all(1)
            if not known.any():
                continue
            trained, untrained = own[known, e, k].T
            chance, sign = np.zeros(len(trained)), 1
            if figure == "distance":
                chance, sign = scores[known, e, k, 0, names.index("chance distance")], -1
            checks = analysis.arrays["sanity"][known, e, k].astype(float).T
            rows.append(
                Row(
                    encoder,
                    kind,
                    _estimate(trained),
                    _estimate(untrained),
                    _estimate(sign * (trained - untrained)),
                    _estimate(sign * (trained - chance)),
                    float(chance.mean()),
                    {name: _mean(one) for name, one in zip(about["sanity"], checks, strict=True)},
                    int(known.sum()),
                )
            )
    return sorted(rows, key=lambda row: -row.gain.value)


def _estimate(values: np.ndarray) -> Estimate:
    return Estimate(*map(float, t_interval(values)))


def lesson(rows: list[Row], figure: str = "channels") -> list[str]:
    """Say in sentences what a leaderboard teaches, from its own numbers.

    Parameters
    ----------
    rows : list of Row
        From `leaderboard`.
    figure : str
        Of which they are.
    """
    if not rows:
        return [f"No map has the figure {figure!r}."]
    unit = " mm" if figure == "distance" else ""
    best = rows[0]
    highest = (min if figure == "distance" else max)(rows, key=lambda row: row.trained.value)
    said = [
        f"Most beyond what is had for nothing: {best.kind} of {best.encoder}, "
        f"{_say(best.trained)}{unit}; untrained {_say(best.untrained)}{unit}, "
        f"chance {best.chance:.2g}{unit}."
    ]
    if highest is not best:
        said.append(
            f"The best figure is that of {highest.kind} of {highest.encoder}, "
            f"{_say(highest.trained)}{unit}, but untrained weights reach "
            f"{_say(highest.untrained)}{unit}."
        )
    if best.subjects < 2:
        return [*said, "One subject is too few to say which of this is chance."]
    learned = sum(row.learned for row in rows)
    said.append(
        f"Of {len(rows)} maps, {learned} beat untrained weights and chance beyond doubt (95 % "
        f"interval of the difference over {best.subjects} subjects, not corrected for the number "
        "of maps)."
    )
    free = [row for row in rows if not row.learned and row.untrained.low > row.chance]
    if free and figure != "distance":
        named = ", ".join(f"{row.kind} of {row.encoder}" for row in free)
        said.append(f"These resemble the truth, but hardly more than untrained: {named}.")
    return said


def _say(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
