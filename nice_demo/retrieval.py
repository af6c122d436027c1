"""Retrieval: which candidate is nearest to each trial, and how far that is from chance.

In flow similarities between the embeddings of trials and of candidates; out flow ranks and, from
them, figures that always carry their chance level, an interval and what they were measured on.
Every figure is a function of the ranks alone:

    similarity(embeddings, gallery) → ranks(similarities, target) → metrics(…) → Metrics

Intervals are Wilson score intervals (Wilson 1927, J. Am. Stat. Assoc. 22) over trials. They are
exact in form for hits; for other averages of numbers between 0 and 1 (n-way accuracy, reciprocal
rank) they are conservative, because no such number varies more than hits of the same mean do.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from nice_demo.errors import InputError

PROTOCOLS = {
    "stimulus": "candidates are the embeddings of the very pictures shown",
    "concept centre": "candidates are means over other pictures of each concept",
    "trained concepts": "candidates are concepts that were trained on: this is classification",
}
N_WAYS = (2, 4, 10, 50, 100, 200)

# What a permutation test can ask of the ranks; larger is better for each.
_SCORES = {
    "top-1": lambda ranks: (ranks <= 1).mean(axis=-1),
    "top-3": lambda ranks: (ranks <= 3).mean(axis=-1),
    "top-5": lambda ranks: (ranks <= 5).mean(axis=-1),
    "mean reciprocal rank": lambda ranks: (1 / ranks).mean(axis=-1),
    "mean rank": lambda ranks: -ranks.mean(axis=-1),
    "median rank": lambda ranks: -np.median(ranks, axis=-1),
}
STATISTICS = tuple(_SCORES)


# ---------------------------------------------------------------- similarities and ranks


def _unit_rows(rows: np.ndarray, what: str) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2:
        raise InputError(f"The {what} have shape {rows.shape}; give one row for each vector.")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise InputError(f"Row {row} of the {what} holds NaN or infinity; compute it anew.")
    # Dividing by the largest entry first keeps the squares of huge and tiny entries in range.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    if (largest == 0).any():
        row = int(np.flatnonzero(largest == 0)[0])
        raise InputError(
            f"Row {row} of the {what} is all zeros and has no direction; compute it anew."
        )
    rows = rows / largest
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def similarity(embeddings: np.ndarray, gallery: np.ndarray, keep_norms: bool = False) -> np.ndarray:
    """Compute the cosine similarity of each trial with each candidate.

    Parameters
    ----------
    embeddings : array of shape (n_trials, dim)
    gallery : array of shape (n_candidates, dim)
    keep_norms : bool
        Don't bring candidates to unit norm, so that those with a larger norm are favoured; for
        `Gallery.keeps_norms` alone.

    Returns
    -------
    array of shape (n_trials, n_candidates), float64
        Between −1 and 1, rounded to 12 decimals: identical candidates then tie exactly and ranks
        don't depend on the order in which a machine sums.

    Raises
    ------
    InputError
        Where the dimensions differ, or a row is zero, NaN or infinite.
    """
    embeddings = _unit_rows(embeddings, "embeddings")
    unit_rows = _unit_rows(gallery, "gallery's embeddings")
    gallery = np.asarray(gallery, float) if keep_norms else unit_rows
    if embeddings.shape[1] != gallery.shape[1]:
        raise InputError(
            f"The embeddings have shape {embeddings.shape} but the gallery {gallery.shape}; "
            "both must come from the same image model and have the same number of columns."
        )
    product = np.round(embeddings @ gallery.T, 12)
    return product if keep_norms else np.clip(product, -1, 1)


def _check_target(similarities: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similarities, target = np.asarray(similarities), np.asarray(target)
    if similarities.ndim != 2 or target.shape != similarities.shape[:1]:
        raise InputError(
            f"Similarities of shape {similarities.shape} and targets of shape {target.shape} "
            "don't fit; give one row and one target for each trial."
        )
    if not len(target):
        raise InputError("There is no trial to evaluate; give at least one.")
    if target.dtype.kind not in "iu" or target.min() < 0 or target.max() >= similarities.shape[1]:
        raise InputError(
            f"Targets must be whole numbers from 0 to {similarities.shape[1] - 1}, "
            "the row of the seen picture in the gallery."
        )
    if np.isnan(similarities).any():
        raise InputError("The similarities hold NaN; compute the embeddings anew.")
    return similarities, target


def ranks(similarities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rank the seen picture among the candidates, 1 = nearest.

    Ties count against us: the rank is the number of candidates at least as similar as the seen
    picture, itself included. A constant decoder is last, not first.

    Parameters
    ----------
    similarities : array of shape (n_trials, n_candidates)
    target : array of shape (n_trials,), int
        Which candidate was seen.

    Returns
    -------
    array of shape (n_trials,), int
        From 1 to n_candidates.

    Raises
    ------
    InputError
        Where shapes don't fit, a target isn't a candidate, or a similarity is NaN.
    """
    similarities, target = _check_target(similarities, target)
    of_target = similarities[np.arange(len(target)), target]
    return (similarities >= of_target[:, None]).sum(axis=1)


def ranks_in_order(
    embeddings: np.ndarray, gallery: np.ndarray, keep_norms: bool = False
) -> np.ndarray:
    """Rank the picture seen where it is, for trial i, candidate i: `ranks`, in little memory.

    Parameters
    ----------
    embeddings, gallery : array of shape (n_candidates, dim)
    keep_norms : bool
        See `similarity`.

    Returns
    -------
    array of shape (n_candidates,), int

    Raises
    ------
    InputError
        As `similarity` and `ranks`.
    """
    at_once = max(1, 4_000_000 // max(1, len(gallery)))  # rows of which 32 MB of similarities
    found = []
    for start in range(0, len(embeddings), at_once):
        similarities = similarity(embeddings[start : start + at_once], gallery, keep_norms)
        found.append(ranks(similarities, np.arange(start, start + len(similarities))))
    if not found:
        raise InputError("There is no trial to evaluate; give at least one.")
    return np.concatenate(found)


def n_way(ranks: np.ndarray, ways: int, n_candidates: int) -> float:
    """Compute the expected accuracy among fewer candidates, over every choice of distractors.

    A trial of rank r beats ``ways − 1`` distractors drawn without replacement from the other
    candidates where all come from the ``n_candidates − r`` that are less similar, a hypergeometric
    probability. Computed in whole numbers, hence exact; no random draws.

    Parameters
    ----------
    ranks : array of shape (n_trials,), int
        Among all `n_candidates`, 1 = best.
    ways : int
        Candidates of the smaller choice, the target included; 2 … n_candidates.
    n_candidates : int

    Returns
    -------
    float
        Between 0 and 1; chance is ``1 / ways``.

    Raises
    ------
    InputError
        Where `ways` or a rank is out of range.
    """
    ranks = np.asarray(ranks)
    if not 2 <= ways <= n_candidates:
        raise InputError(f"{ways}-way needs from 2 to {n_candidates} ways, as many as candidates.")
    if not ranks.size or ranks.min() < 1 or ranks.max() > n_candidates:
        raise InputError(f"Ranks must lie between 1 and {n_candidates}, and there must be some.")
    distinct, counts = np.unique(ranks, return_counts=True)
    won = sum(
        int(count) * math.comb(n_candidates - int(rank), ways - 1)
        for rank, count in zip(distinct, counts, strict=True)
    )
    return won / (math.comb(n_candidates - 1, ways - 1) * ranks.size)


# ---------------------------------------------------------------- intervals and tests


def wilson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval of a proportion.

    Parameters
    ----------
    successes : float
        Hits; or the sum over trials of numbers between 0 and 1, for which the interval is
        conservative.
    trials : int
    confidence : float

    Returns
    -------
    low, high : float
        Between 0 and 1.

    Raises
    ------
    InputError
        Unless ``0 ≤ successes ≤ trials`` and ``trials ≥ 1``.

    References
    ----------
    Wilson 1927, J. Am. Stat. Assoc. 22:209–212.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} hits in {trials} trials can't be; check the counts.")
    from scipy.special import ndtri  # here, because training on a bare GPU machine needs no SciPy

    z = ndtri((1 + confidence) / 2)
    share = successes / trials
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = (
        z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    )
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if successes == 0 else max(0.0, float(middle - half))
    high = 1.0 if successes == trials else min(1.0, float(middle + half))
    return low, high


def binomial_p(successes: int, trials: int, chance: float) -> float:
    """Compute how likely guessing at `chance` hits at least `successes` times (exact)."""
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} hits in {trials} trials can't be; check the counts.")
    from scipy import stats

    return float(stats.binomtest(successes, trials, chance, alternative="greater").pvalue)


def permutation_p(
    similarities: np.ndarray,
    target: np.ndarray,
    statistic: str = "top-1",
    permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """Compute the one-sided p of a statistic by shuffling which picture each trial belongs to.

    Unlike `binomial_p` it takes into account that some candidates are near to everything.

    Parameters
    ----------
    similarities : array of shape (n_trials, n_candidates)
    target : array of shape (n_trials,), int
    statistic : str
        One of `STATISTICS`.
    permutations : int
    seed : int

    Returns
    -------
    float
        ``(1 + number at least as good) / (1 + permutations)``, never 0 (Phipson & Smyth 2010,
        Stat. Appl. Genet. Mol. Biol. 9:39).

    Raises
    ------
    InputError
        Where the statistic is unknown or the input doesn't fit; see `ranks`.
    """
    if statistic not in _SCORES:
        raise InputError(f"There is no statistic {statistic!r}; choose from {', '.join(_SCORES)}.")
    if permutations < 1:
        raise InputError(f"{permutations} permutations are too few; ask for at least 1.")
    from scipy import stats

    similarities, target = _check_target(similarities, target)
    score = _SCORES[statistic]
    trials = np.arange(len(target))
    # The rank each candidate would have were it the target, ties against us.
    rank_if_target = stats.rankdata(-similarities, method="max", axis=1).astype(int)
    observed = score(rank_if_target[trials, target])
    rng = np.random.default_rng(seed)
    at_least = 0
    at_once = max(1, 1_000_000 // len(target))  # bounds the memory
    for start in range(0, permutations, at_once):
        rows = min(at_once, permutations - start)
        shuffled = rng.permuted(np.tile(target, (rows, 1)), axis=1)
        # The tolerance is for sums of the same numbers in another order.
        at_least += int((score(rank_if_target[trials, shuffled]) >= observed - 1e-12).sum())
    return (1 + at_least) / (1 + permutations)


def paired_p(hits_a: np.ndarray, hits_b: np.ndarray) -> float:
    """Test two decoders over the same trials: exact McNemar, two-sided.

    Only trials that exactly one of the two hits tell them apart; under equality each falls to
    either with probability ½.

    Parameters
    ----------
    hits_a, hits_b : array of shape (n_trials,), bool

    Returns
    -------
    float
        1 where they never differ.

    Raises
    ------
    InputError
        Where the two differ in shape.
    """
    hits_a, hits_b = np.asarray(hits_a, bool), np.asarray(hits_b, bool)
    if hits_a.shape != hits_b.shape or hits_a.ndim != 1:
        raise InputError(
            f"Hits of shapes {hits_a.shape} and {hits_b.shape} can't be paired; "
            "give the same trials in the same order for both decoders."
        )
    only_a, only_b = int((hits_a & ~hits_b).sum()), int((hits_b & ~hits_a).sum())
    if only_a + only_b == 0:
        return 1.0
    from scipy import stats

    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


@dataclass(frozen=True)
class PairedDifference:
    """How much better one decoder is than another on the same trials of the same subjects.

    Attributes
    ----------
    value : float
        Mean over subjects of the difference of their shares of hits; above 0 it is better.
    low, high : float or None
        95 % t interval over subjects. None with one subject.
    better : int
        In how many subjects its share is the higher one.
    subjects : int
    p : float or None
        Exact McNemar, two-sided, over the trials of all subjects as if of one; None where only
        the shares are known.
    """

    value: float
    low: float | None
    high: float | None
    better: int
    subjects: int
    p: float | None

    def to_json(self) -> dict:
        """Return plain JSON types."""
        return asdict(self)


def paired_difference(
    shares: Sequence[float], reference: Sequence[float], p: float | None = None
) -> PairedDifference:
    """Compare two decoders over subjects.

    Parameters
    ----------
    shares, reference : sequence of float
        Share of hits of each subject, in the same order for both decoders.
    p : float or None
        From `paired_p`.

    Returns
    -------
    PairedDifference
        Of `shares` above `reference`.

    Raises
    ------
    InputError
        Where there is no subject, or the two differ in their number.
    """
    shares, reference = np.asarray(shares, float), np.asarray(reference, float)
    if shares.shape != reference.shape or shares.ndim != 1 or not len(shares):
        raise InputError(
            f"Shares of shapes {shares.shape} and {reference.shape} can't be paired; "
            "give one for each subject and decoder."
        )
    differences = shares - reference
    value, low, high, _ = _over_subjects(differences)
    return PairedDifference(value, low, high, int((differences > 0).sum()), len(shares), p)


def _over_subjects(values: np.ndarray) -> tuple[float, float | None, float | None, float | None]:
    """Return mean, 95 % t interval and standard deviation, which one value alone doesn't have."""
    mean, low, high = map(float, t_interval(values))
    if len(values) < 2:
        return mean, None, None, None
    return mean, low, high, float(values.std(ddof=1))


def t_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average over subjects, with Student's 95 % interval.

    Parameters
    ----------
    values : array of shape (n_subjects, …)

    Returns
    -------
    mean, low, high : array of shape (…)
        The ends are NaN with one subject.
    """
    values = np.asarray(values, float)
    n, mean = len(values), values.mean(0)
    if n < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    from scipy.special import stdtrit

    # Student's quantile, as stats.t.ppf gives it a thousand times slower.
    half = stdtrit(n - 1, 0.975) * values.std(0, ddof=1) / np.sqrt(n)
    return mean, mean - half, mean + half


# ---------------------------------------------------------------- figures of one subject


@dataclass(frozen=True)
class Proportion:
    """A share of hits.

    Attributes
    ----------
    successes, trials : int
    chance : float
        The share that guessing hits.
    """

    successes: int
    trials: int
    chance: float

    @property
    def value(self) -> float:
        """The share of trials that hit."""
        return self.successes / self.trials

    @property
    def low(self) -> float:
        """Lower end of the Wilson 95 % interval."""
        return wilson(self.successes, self.trials)[0]

    @property
    def high(self) -> float:
        """Upper end of the Wilson 95 % interval."""
        return wilson(self.successes, self.trials)[1]

    @property
    def p(self) -> float:
        """One-sided exact binomial p against `chance`."""
        return binomial_p(self.successes, self.trials, self.chance)

    def to_json(self) -> dict:
        """Return plain types; all but the first three entries follow from them."""
        derived = {"value": self.value, "low": self.low, "high": self.high, "p": self.p}
        return asdict(self) | derived


@dataclass(frozen=True)
class Estimate:
    """A figure other than a share of hits, with its 95 % interval and its chance level."""

    value: float
    low: float
    high: float
    chance: float


def _proportion_from_json(entry: dict) -> Proportion:
    proportion = Proportion(int(entry["successes"]), int(entry["trials"]), float(entry["chance"]))
    wilson(proportion.successes, proportion.trials)  # refuses impossible counts
    return proportion


def _estimate_from_json(entry: dict) -> Estimate:
    return Estimate(*(float(entry[name]) for name in ("value", "low", "high", "chance")))


@dataclass(frozen=True)
class Metrics:
    """How well one decoder retrieves, and what that was measured on.

    Attributes
    ----------
    protocol : str
        ``"stimulus"`` or ``"concept centre"``: what the candidates are. Not comparable.
    ways : int
        Number of candidates.
    repetitions : int or None
        Repetitions averaged into a trial; None where nobody said.
    trials : int
    top1, top3, top5 : Proportion
    median_rank, mean_rank, mean_reciprocal_rank : Estimate
    n_way : dict of int to Estimate
        Expected accuracy among fewer candidates, by their number; see the function `n_way`.
    """

    protocol: str
    ways: int
    repetitions: int | None
    trials: int
    top1: Proportion
    top3: Proportion
    top5: Proportion
    median_rank: Estimate
    mean_rank: Estimate
    mean_reciprocal_rank: Estimate
    n_way: dict[int, Estimate]

    def to_json(self) -> dict:
        """Return plain JSON types, what a bundle's manifest holds."""
        tops = {name: getattr(self, name).to_json() for name in ("top1", "top3", "top5")}
        n_way = {str(ways): asdict(estimate) for ways, estimate in self.n_way.items()}
        return asdict(self) | tops | {"n_way": n_way}

    @classmethod
    def from_json(cls, content: dict) -> "Metrics":
        """Read what `to_json` made.

        Raises
        ------
        InputError
            Where an entry is missing or of the wrong kind.
        """
        try:
            if content["protocol"] not in PROTOCOLS:
                raise ValueError(f"protocol {content['protocol']!r}")
            tops = {name: _proportion_from_json(content[name]) for name in ("top1", "top3", "top5")}
            estimates = {
                name: _estimate_from_json(content[name])
                for name in ("median_rank", "mean_rank", "mean_reciprocal_rank")
            }
            return cls(
                protocol=str(content["protocol"]),
                ways=int(content["ways"]),
                repetitions=None if content["repetitions"] is None else int(content["repetitions"]),
                trials=int(content["trials"]),
                n_way={
                    int(ways): _estimate_from_json(entry)
                    for ways, entry in content["n_way"].items()
                },
                **tops,
                **estimates,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"These aren't metrics ({error!r}); evaluate anew.") from None


def _median_interval(ranks: np.ndarray, ways: int) -> tuple[float, float]:
    from scipy import stats

    # Distribution-free, from order statistics: the number of trials below the median is
    # binomial(n, 1/2). With fewer than 6 trials nothing can be excluded.
    below = int(stats.binom.ppf(0.025, len(ranks), 0.5))
    if below == 0:
        return 1.0, float(ways)
    ordered = np.sort(ranks)
    return float(ordered[below - 1]), float(ordered[len(ranks) - below])


def metrics(
    similarities: np.ndarray, target: np.ndarray, *, protocol: str, repetitions: int | None
) -> Metrics:
    """Compute every figure of one decoder over its test trials.

    Parameters
    ----------
    similarities : array of shape (n_trials, n_candidates)
    target : array of shape (n_trials,), int
        Which candidate was seen.
    protocol : str
        ``"stimulus"`` or ``"concept centre"``.
    repetitions : int or None
        Repetitions averaged into each trial; None where it isn't known.

    Returns
    -------
    Metrics

    Raises
    ------
    InputError
        Where the protocol is unknown or the input doesn't fit; see `ranks`.
    """
    of_seen = ranks(similarities, target)
    return metrics_of_ranks(
        of_seen, similarities.shape[1], protocol=protocol, repetitions=repetitions
    )


def metrics_of_ranks(
    of_seen: np.ndarray, ways: int, *, protocol: str, repetitions: int | None
) -> Metrics:
    """Compute every figure of one decoder from the ranks of the pictures seen.

    Parameters
    ----------
    of_seen : array of shape (n_trials,), int
        From `ranks`; 1 = nearest.
    ways : int
        Number of candidates.
    protocol, repetitions
        As for `metrics`.

    Returns
    -------
    Metrics

    Raises
    ------
    InputError
        Where the protocol is unknown, or there are fewer than two candidates.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"There is no protocol {protocol!r}; choose {' or '.join(PROTOCOLS)}.")
    if repetitions is not None and repetitions < 1:
        raise InputError(f"A trial can't average {repetitions} repetitions; give 1 or more.")
    if ways < 2:
        raise InputError("Retrieval needs at least 2 candidates; the gallery has fewer.")
    trials = len(of_seen)

    def top(k: int) -> Proportion:
        return Proportion(int((of_seen <= k).sum()), trials, min(k, ways) / ways)

    def average(share: float, chance: float) -> Estimate:
        return Estimate(share, *wilson(share * trials, trials), chance)

    mean_rank = float(of_seen.mean())
    # (mean rank − 1) / (ways − 1) lies between 0 and 1, so that the same interval serves it.
    low, high = wilson(min(1.0, (mean_rank - 1) / (ways - 1)) * trials, trials)
    return Metrics(
        protocol=protocol,
        ways=ways,
        repetitions=repetitions,
        trials=trials,
        top1=top(1),
        top3=top(3),
        top5=top(5),
        median_rank=Estimate(
            float(np.median(of_seen)), *_median_interval(of_seen, ways), (ways + 1) / 2
        ),
        mean_rank=Estimate(mean_rank, 1 + low * (ways - 1), 1 + high * (ways - 1), (ways + 1) / 2),
        mean_reciprocal_rank=average(
            float((1 / of_seen).mean()), sum(1 / rank for rank in range(1, ways + 1)) / ways
        ),
        n_way={n: average(n_way(of_seen, n, ways), 1 / n) for n in N_WAYS if n <= ways},
    )


# ---------------------------------------------------------------- a mean over subjects


@dataclass(frozen=True)
class SubjectMean:
    """A figure averaged over subjects.

    Attributes
    ----------
    value : float
        Mean of the subjects' values, each subject weighing the same.
    low, high : float or None
        95 % t interval over subjects: what to expect of the mean of other such subjects. Not
        bounded by 0 and 1. None with one subject.
    sd : float or None
        Standard deviation over subjects (n − 1). None with one subject.
    chance : float
    """

    value: float
    low: float | None
    high: float | None
    sd: float | None
    chance: float


@dataclass(frozen=True)
class MetricsOverSubjects:
    """`Metrics` averaged over subjects; intervals are t intervals over subjects.

    Attributes
    ----------
    protocol, ways, repetitions
        As in `Metrics`, the same for all subjects.
    subjects : int
    trials : int
        Of all subjects together.
    top1, top3, top5, median_rank, mean_rank, mean_reciprocal_rank : SubjectMean
    n_way : dict of int to SubjectMean
    """

    protocol: str
    ways: int
    repetitions: int | None
    subjects: int
    trials: int
    top1: SubjectMean
    top3: SubjectMean
    top5: SubjectMean
    median_rank: SubjectMean
    mean_rank: SubjectMean
    mean_reciprocal_rank: SubjectMean
    n_way: dict[int, SubjectMean]

    def to_json(self) -> dict:
        """Return plain JSON types."""
        n_way = {str(ways): asdict(mean) for ways, mean in self.n_way.items()}
        return asdict(self) | {"interval": "95 % t interval over subjects", "n_way": n_way}


def _subject_mean(figures: Sequence[Proportion | Estimate]) -> SubjectMean:
    return SubjectMean(
        *_over_subjects(np.array([figure.value for figure in figures])), figures[0].chance
    )


def mean_over_subjects(per_subject: Sequence[Metrics]) -> MetricsOverSubjects:
    """Average the figures of several subjects, with the spread between them.

    Parameters
    ----------
    per_subject : sequence of Metrics

    Returns
    -------
    MetricsOverSubjects
        Its intervals are t intervals over the subjects' values: they speak about other subjects,
        whereas those of `Metrics` speak about other trials of the same subject.

    Raises
    ------
    InputError
        Where there is no subject, or protocol, ways or repetitions differ between them.
    """
    if not per_subject:
        raise InputError("There is no subject to average over; give at least one.")
    conditions = {(one.protocol, one.ways, one.repetitions) for one in per_subject}
    if len(conditions) > 1:
        raise InputError(
            "Subjects differ in protocol, ways or repetitions averaged and can't be averaged: "
            f"{sorted(conditions, key=str)}; evaluate them alike."
        )
    first = per_subject[0]
    names = ("top1", "top3", "top5", "median_rank", "mean_rank", "mean_reciprocal_rank")
    return MetricsOverSubjects(
        protocol=first.protocol,
        ways=first.ways,
        repetitions=first.repetitions,
        subjects=len(per_subject),
        trials=sum(one.trials for one in per_subject),
        n_way={n: _subject_mean([one.n_way[n] for one in per_subject]) for n in first.n_way},
        **{name: _subject_mean([getattr(one, name) for one in per_subject]) for name in names},
    )
