"""What analyses are made of: ranks of the pictures seen while one thing changes.

In flow similarities, for each point of an axis (a window, a region, a band …) those of all trials
with all candidates; out flow the ranks, and from them accuracies with chance level, interval and a
permutation threshold that holds for all points of the axis together:

    Recording → (an analysis) → SubjectSeries, one a subject → join → Series → Analysis, a file
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from nice_demo.bundle import Bundle
from nice_demo.eegset import DataSet
from nice_demo.encoders import embed
from nice_demo.errors import InputError, one_line
from nice_demo.files import complete_file
from nice_demo.retrieval import ranks, similarity, t_interval, wilson

TOPS = (1, 5)  # accuracies are shares of trials whose picture is among so many candidates
PERMUTATIONS = 1000
LEVEL = 0.05  # of the thresholds
ZEROED, RETRAINED, AS_TRAINED = "zeroed at test", "retrained", "as trained"


# ---------------------------------------------------------------- what an analysis starts from


@dataclass(frozen=True)
class Recording:
    """One subject of a bundle: test EEG, candidates, encoders, and training data where it is.

    Attributes
    ----------
    bundle : Bundle
    subject : str
    eeg : array of shape (n_conditions, n_channels, n_times), float32
        Test trials averaged over all repetitions, whitened. Condition i is candidate i.
    encoders : dict of str to Module
    data : DataSet or None
        Where the training trials are; None where only the bundle is at hand.
    averages : dict of int to array
        The same EEG over fewer repetitions, where it has been read; see `evoked`.
    """

    bundle: Bundle
    subject: str
    eeg: np.ndarray
    encoders: dict[str, nn.Module]
    data: DataSet | None = None
    averages: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def open(cls, bundle: Bundle, subject: str, data: DataSet | None = None) -> "Recording":
        """Open a subject; the EEG of a phantom is generated, which takes some 20 s."""
        trials, numbers = bundle.trials(subject), bundle.repetitions
        by_condition = [
            [trials.evoked(condition, number).eeg for number in numbers]
            for condition in range(len(bundle.gallery))
        ]  # in this order, because a phantom makes all averages of a picture at once
        averages = dict(zip(numbers, np.stack(by_condition, 1), strict=True))
        encoders = {name: bundle.encoder(subject, name) for name in bundle.encoders(subject)}
        return cls(bundle, subject, averages[numbers[-1]], encoders, data, averages)

    def evoked(self, repetitions: int) -> np.ndarray:
        """Return test trials averaged over the first `repetitions`, shaped as `eeg`."""
        if repetitions not in self.averages:
            trials = self.bundle.trials(self.subject)
            conditions = range(len(self.bundle.gallery))
            self.averages[repetitions] = np.stack(
                [trials.evoked(condition, repetitions).eeg for condition in conditions]
            )
        return self.averages[repetitions]

    @property
    def channels(self) -> list[str]:
        """Names of the channels."""
        return self.bundle.montage.names

    @property
    def times(self) -> np.ndarray:
        """Of the samples, s after the picture appeared."""
        start = float(self.bundle.manifest.get("tmin", 0))
        return start + np.arange(self.eeg.shape[2]) / float(self.bundle.manifest["sfreq"])

    @property
    def seed(self) -> int:
        """Of all that is random in an analysis of this subject."""
        return crc32(self.subject.encode())

    @property
    def target(self) -> np.ndarray:
        """Which candidate was seen, (n_conditions,)."""
        return np.arange(len(self.eeg))

    def decode(self, encoder: str | nn.Module, eeg: np.ndarray) -> np.ndarray:
        """Return similarities (n_trials, n_candidates) of EEG (n_trials, n_channels, n_times)."""
        encoder = self.encoders[encoder] if isinstance(encoder, str) else encoder
        return self.compare(embed(encoder, torch.as_tensor(eeg)).numpy())

    def compare(self, embeddings: np.ndarray) -> np.ndarray:
        """Return similarities (n_trials, n_candidates) of embeddings (n_trials, dim).

        EEG that is silent altogether may be embedded as nothing; that is as similar to all.
        """
        gallery, silent = self.bundle.gallery, ~np.any(embeddings, axis=1)
        embeddings = np.where(silent[:, None], 1.0, embeddings)
        found = similarity(embeddings, gallery.embeddings, gallery.keeps_norms)
        return np.where(silent[:, None], 0.0, found)


@dataclass(frozen=True)
class Axis:
    """What changes along an axis of a series.

    Attributes
    ----------
    name : str
        Such as "end of the window".
    unit : str
        "s", "Hz"; empty where points have names.
    points : list of float or str
    """

    name: str
    unit: str
    points: list


# ---------------------------------------------------------------- one subject


@dataclass(frozen=True)
class SubjectSeries:
    """One subject's ranks along the axes, and how far chance goes.

    Attributes
    ----------
    name : str
        Such as "growing windows".
    encoder : str
    how : str
        `ZEROED`, `RETRAINED` or `AS_TRAINED`.
    axes : tuple of Axis
        One or two.
    ranks : array of shape (*n_points, n_trials), uint16
    null : array of shape (n_tops, n_permutations, n_points), uint16
        Hits among the first `TOPS` when the trials' pictures are shuffled, in the same way at all
        points; two axes are laid out in one.
    ways : int
        Number of candidates.
    """

    name: str
    encoder: str
    how: str
    axes: tuple[Axis, ...]
    ranks: np.ndarray
    null: np.ndarray
    ways: int


@dataclass(frozen=True)
class Found:
    """What an analysis found in one subject.

    Attributes
    ----------
    series : list of SubjectSeries
    arrays : dict of str to array
        What isn't ranks; of the same shapes for all subjects, stacked along a new first axis.
    about : dict
        In JSON: how it was done; the same for all subjects.
    """

    series: list[SubjectSeries] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    about: dict = field(default_factory=dict)

    def save(self, path: Path, made_of: str) -> None:
        """Write a file, with a hash of what the result was made of."""
        tensors = {f"array {name}": array for name, array in self.arrays.items()}
        for i, one in enumerate(self.series):
            tensors |= {f"ranks {i}": one.ranks, f"null {i}": one.null}
        described = [_described(one) for one in self.series]
        _write(path, {"made of": made_of, "series": described, "about": self.about}, tensors)

    @classmethod
    def open(cls, path: Path, made_of: str) -> "Found | None":
        """Read what `save` wrote; None where it isn't there, is damaged, or was made of else."""
        try:
            said, tensors = _read(path)
            if said["made of"] != made_of:
                return None
            series = [
                SubjectSeries(
                    **(one | {"axes": tuple(Axis(**axis) for axis in one["axes"])}),
                    ranks=tensors[f"ranks {i}"],
                    null=tensors[f"null {i}"],
                )
                for i, one in enumerate(said["series"])
            ]
            return cls(series, _arrays(tensors), said["about"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None


def measure(
    name: str,
    encoder: str,
    how: str,
    axes: Sequence[Axis],
    similarities: Iterable[np.ndarray],
    target: np.ndarray,
    seed: int,
    permutations: int = PERMUTATIONS,
) -> SubjectSeries:
    """Rank the pictures seen at every point, and again with the trials' pictures shuffled.

    Parameters
    ----------
    name, encoder, how, axes
        As of `SubjectSeries`.
    similarities : iterable of arrays of shape (n_trials, n_candidates)
        One a point; of two axes, the last changes fastest.
    target : array of shape (n_trials,), int
        Which candidate was seen.
    seed : int
        Of the shuffles: subjects need different ones.
    permutations : int

    Returns
    -------
    SubjectSeries
    """
    from scipy import stats

    rng = np.random.default_rng([seed, 200])
    shuffled = rng.permuted(np.tile(target, (permutations, 1)), axis=1)
    trials, found, null = np.arange(len(target)), [], []
    for one in similarities:
        found.append(ranks(one, target))
        # The rank each candidate would have were it the one seen, ties against us.
        if_seen = stats.rankdata(-one, method="max", axis=1)[trials, shuffled]
        null.append([(if_seen <= top).sum(1) for top in TOPS])
    shape = tuple(len(axis.points) for axis in axes)
    return SubjectSeries(
        name, encoder, how, tuple(axes),
        np.array(found, np.uint16).reshape(*shape, len(target)),
        np.moveaxis(np.array(null, np.uint16), 0, 2),
        one.shape[1],
    )  # fmt: skip


# ---------------------------------------------------------------- all subjects


@dataclass(frozen=True)
class Accuracy:
    """Shares of hits at every point, arrays of shape (*n_points,).

    Attributes
    ----------
    value, low, high : array
        95 %: for a subject Wilson's over trials; for the mean, t over subjects (NaN with one).
    chance : float
    threshold : float
        Above it lies, by chance, any of the points in 5 % of shuffles (maximum statistic).
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: float
    threshold: float


@dataclass(frozen=True)
class Series:
    """All subjects' ranks along the axes.

    Attributes
    ----------
    name, encoder, how, axes, ways
        As of `SubjectSeries`.
    subjects : list of str
    ranks : array of shape (n_subjects, *n_points, n_trials), uint16
    thresholds : array of shape (n_tops, n_subjects + 1)
        Of each subject's accuracy and, last, of the mean over subjects; see `Accuracy`.
    """

    name: str
    encoder: str
    how: str
    axes: tuple[Axis, ...]
    ways: int
    subjects: list[str]
    ranks: np.ndarray
    thresholds: np.ndarray

    def accuracy(self, top: int, subject: str | None = None) -> Accuracy:
        """Return the accuracy among the first `top` of a subject, or the mean over subjects.

        Parameters
        ----------
        top : int
            One of `TOPS`.
        subject : str or None
            None for the mean over all.
        """
        hits = (self.ranks <= top).mean(-1)  # (n_subjects, *n_points)
        place = len(self.subjects) if subject is None else self.subjects.index(subject)
        threshold = float(self.thresholds[TOPS.index(top), place])
        chance = min(top, self.ways) / self.ways
        if subject is None:
            return Accuracy(*t_interval(hits), chance, threshold)
        trials = self.ranks.shape[-1]
        value = hits[place]
        ends = np.array([wilson(share * trials, trials) for share in value.ravel()])
        low, high = ends.T.reshape(2, *value.shape)
        return Accuracy(value, low, high, chance, threshold)

    def bootstrap(
        self, top: int, subject: str | None = None, draws: int = 2000, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a 95 % percentile band: trials, and for the mean subjects too, drawn anew.

        Returns
        -------
        low, high : array of shape (*n_points,)
        """
        rng = np.random.default_rng([seed, 95])
        hits = self.ranks <= top  # (n_subjects, *n_points, n_trials)
        if subject is not None:
            hits = hits[[self.subjects.index(subject)]]
        subjects, trials = len(hits), hits.shape[-1]
        times = rng.multinomial(subjects, np.full(subjects, 1 / subjects), draws)
        # So many trials of each subject are drawn, anew for each time it was drawn.
        weight = rng.multinomial(times * trials, np.full(trials, 1 / trials)) / (subjects * trials)
        drawn = np.einsum("dst,spt->dp", weight, hits.reshape(subjects, -1, trials), optimize=True)
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        return low.reshape(hits.shape[1:-1]), high.reshape(hits.shape[1:-1])


def join(by_subject: dict[str, Sequence[SubjectSeries]]) -> list[Series]:
    """Put the same series of several subjects together and compute their thresholds.

    Parameters
    ----------
    by_subject : dict of str to sequence of SubjectSeries
        Each subject's have the same names, encoders, axes in the same order.

    Returns
    -------
    list of Series
    """
    joined = []
    for several in zip(*by_subject.values(), strict=True):
        first = several[0]
        if any((s.name, s.encoder, s.how, s.axes) != (first.name, first.encoder, first.how,
               first.axes) for s in several):  # fmt: skip
            raise InputError(f"Subjects differ in their series {first.name!r}; analyse them alike.")
        # (n_subjects, n_tops, n_permutations): the best of all points in each shuffle
        best = np.array([one.null.max(2) for one in several]) / first.ranks.shape[-1]
        mean = np.mean([one.null for one in several], 0).max(2) / first.ranks.shape[-1]
        best = np.concatenate([best, mean[None]])
        thresholds = np.quantile(best, 1 - LEVEL, axis=2, method="higher").T
        joined.append(
            Series(
                first.name,
                first.encoder,
                first.how,
                first.axes,
                first.ways,
                list(by_subject),
                np.stack([one.ranks for one in several]),
                thresholds,
            )
        )
    return joined


# ---------------------------------------------------------------- a file


@dataclass(frozen=True)
class Analysis:
    """What an analysis found, of all subjects: one safetensors file.

    Attributes
    ----------
    name : str
        Such as "time".
    series : list of Series
    arrays : dict of str to array
        What isn't ranks.
    about : dict
        In JSON: how it was done, and names of what `arrays` hold.
    """

    name: str
    series: list[Series] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    about: dict = field(default_factory=dict)

    def of(self, name: str, encoder: str | None = None, how: str | None = None) -> list[Series]:
        """Return the series of this name, and encoder and kind where given."""
        return [
            one
            for one in self.series
            if one.name == name and encoder in (None, one.encoder) and how in (None, one.how)
        ]

    def save(self, path: Path) -> None:
        """Write the file."""
        tensors = {f"array {name}": array for name, array in self.arrays.items()}
        for i, one in enumerate(self.series):
            narrow = np.uint8 if one.ways < 256 else np.uint16
            tensors[f"ranks {i}"] = one.ranks.astype(narrow)
            tensors[f"thresholds {i}"] = one.thresholds.astype(np.float64)
        described = [_described(one) for one in self.series]
        _write(path, {"name": self.name, "series": described, "about": self.about}, tensors)

    @classmethod
    def open(cls, path: Path) -> "Analysis":
        """Read what `save` wrote.

        Raises
        ------
        InputError
            Where the file is missing or damaged.
        """
        try:
            said, tensors = _read(path)
            series = [
                Series(
                    **(one | {"axes": tuple(Axis(**axis) for axis in one["axes"])}),
                    ranks=tensors[f"ranks {i}"].astype(np.uint16),
                    thresholds=tensors[f"thresholds {i}"],
                )
                for i, one in enumerate(said["series"])
            ]
            return cls(said["name"], series, _arrays(tensors), said["about"])
        except FileNotFoundError:
            raise InputError(f"{path} is missing; run python -m nice_demo.analyse.") from None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} can't be read as an analysis ({one_line(error)}); analyse anew."
            ) from None


def stored(bundle: Bundle, name: str) -> Analysis | None:
    """Open an analysis that a bundle holds; None where it holds none of this name."""
    file = f"analyses/{name}.safetensors"
    return Analysis.open(bundle.file(file)) if file in bundle.manifest["files"] else None


def _described(series: SubjectSeries | Series) -> dict:
    return {
        one.name: getattr(series, one.name)
        for one in fields(series)
        if one.name not in ("axes", "ranks", "null", "thresholds")
    } | {"axes": [asdict(axis) for axis in series.axes]}


def _write(path: Path, said: dict, tensors: dict[str, np.ndarray]) -> None:
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    # One entry: several are written in an order that changes, and with it the file's hash.
    with complete_file(path) as part:
        save_file(tensors, part, {"analysis": json.dumps(said, ensure_ascii=False)})


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with safe_open(path, "numpy") as file:
        said = json.loads((file.metadata() or {})["analysis"])
        return said, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _arrays(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    mark = "array "
    return {name[len(mark) :]: array for name, array in tensors.items() if name.startswith(mark)}
