"""Two decoders over the same trials: how much better the one is, and whether that may be chance.

In flow the ranks of the pictures seen, of both decoders in the same order; out flows a `Paired`
comparison: the difference of their shares of hits with an interval that knows that the trials are
the same, exact McNemar tests, and a sign-flip test of their reciprocal ranks.

    ranks of A, ranks of B → compare(…) → Paired → in_words(…)
"""

import math
from dataclasses import asdict, dataclass

import numpy as np

from nice_demo.errors import InputError
from nice_demo.retrieval import paired_p, t_interval, wilson

FLIPS = 10_000
NOT_CORRECTED = (
    "Intervals: 95 %. Three tests, not corrected for being three: exact McNemar for top-1 and "
    f"top-5, {FLIPS:,} random sign flips for the reciprocal rank; all two-sided."
)


@dataclass(frozen=True)
class PairedHits:
    """Which trials two decoders hit.

    Attributes
    ----------
    both, only_first, only_second, neither : int
        Numbers of trials.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def trials(self) -> int:
        """How many trials there are."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first(self) -> float:
        """Share of trials that the first decoder hits."""
        return (self.both + self.only_first) / self.trials

    @property
    def second(self) -> float:
        """Share of trials that the second decoder hits."""
        return (self.both + self.only_second) / self.trials

    @property
    def difference(self) -> float:
        """Share of the first less share of the second."""
        return (self.only_first - self.only_second) / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference; see `paired_interval`."""
        return paired_interval(self.both, self.only_first, self.only_second, self.neither)

    @property
    def p(self) -> float:
        """Exact McNemar, two-sided."""
        return paired_p(
            np.repeat([True, False], [self.only_first, self.only_second]),
            np.repeat([False, True], [self.only_first, self.only_second]),
        )

    def to_json(self) -> dict:
        """Return plain JSON types; all but the four counts follow from them."""
        low, high = self.interval
        derived = {"first": self.first, "second": self.second, "difference": self.difference}
        return asdict(self) | derived | {"low": low, "high": high, "p": self.p}


@dataclass(frozen=True)
class PairedRanks:
    """How near two decoders come to the pictures seen.

    Attributes
    ----------
    first, second : float
        Mean reciprocal ranks.
    difference : float
        Of the two; above 0 the first is better.
    low, high : float or None
        95 % t interval of the difference over trials; None with one trial.
    nearer, same, farther : int
        Trials that the first decoder ranks nearer than the second, alike, and farther.
    p : float
        Two-sided, from random flips of the differences' signs; see `sign_flip_p`.
    """

    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    nearer: int
    same: int
    farther: int
    p: float

    def to_json(self) -> dict:
        """Return plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Paired:
    """Two decoders compared over the same trials.

    Attributes
    ----------
    ways : int
        Number of candidates.
    trials : int
    top1, top5 : PairedHits
    reciprocal_rank : PairedRanks
    """

    ways: int
    trials: int
    top1: PairedHits
    top5: PairedHits
    reciprocal_rank: PairedRanks

    def to_json(self) -> dict:
        """Return plain JSON types."""
        return {
            "ways": self.ways,
            "trials": self.trials,
            "top1": self.top1.to_json(),
            "top5": self.top5.to_json(),
            "reciprocal_rank": self.reciprocal_rank.to_json(),
            "note": NOT_CORRECTED,
        }


def paired_interval(
    both: int, only_first: int, only_second: int, neither: int
) -> tuple[float, float]:
    """Compute a 95 % interval of the difference between two paired proportions.

    The two Wilson intervals are combined by squaring and adding, less what the correlation of the
    pairs explains (Newcombe's method 10, with φ corrected for continuity).

    Parameters
    ----------
    both, only_first, only_second, neither : int
        Numbers of trials, at least one in all.

    Returns
    -------
    low, high : float
        Between −1 and 1.

    Raises
    ------
    InputError
        Where there is no trial, or a count is negative.

    References
    ----------
    Newcombe 1998, Statistics in Medicine 17:2635–2650.
    """
    trials = both + only_first + only_second + neither
    if trials < 1 or min(both, only_first, only_second, neither) < 0:
        raise InputError("Two decoders can't be compared over no trials; give at least one.")
    hits = both + only_first, both + only_second
    shares = [count / trials for count in hits]
    (low1, high1), (low2, high2) = (wilson(count, trials) for count in hits)
    margins = hits[0] * (trials - hits[0]) * hits[1] * (trials - hits[1])
    excess = both * neither - only_first * only_second
    if excess > 0:
        excess = max(excess - trials / 2, 0)
    phi = excess / math.sqrt(margins) if margins else 0.0

    def combined(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))

    difference = (only_first - only_second) / trials
    low = difference - combined(shares[0] - low1, high2 - shares[1])
    high = difference + combined(high1 - shares[0], shares[1] - low2)
    return max(low, -1.0), min(high, 1.0)


def sign_flip_p(differences: np.ndarray, flips: int = FLIPS, seed: int = 0) -> float:
    """Test whether paired differences are as often above as below zero.

    If two decoders are alike, which of them a trial's difference favours is the toss of a coin:
    the sum is compared with sums after random flips of signs.

    Parameters
    ----------
    differences : array of shape (n_trials,)
    flips : int
    seed : int

    Returns
    -------
    float
        Two-sided: ``(1 + number at least as large in size) / (1 + flips)``, never 0; 1 where no
        difference is other than 0.
    """
    differences = np.asarray(differences, float)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    rng = np.random.default_rng(seed)
    # The tolerance is for sums of the same numbers in another order.
    observed = abs(differences.sum()) * (1 - 1e-12) - 1e-12
    at_least = 0
    at_once = max(1, 1_000_000 // len(differences))  # bounds the memory
    for start in range(0, flips, at_once):
        signs = rng.integers(0, 2, (min(at_once, flips - start), len(differences)), np.int8)
        at_least += int((np.abs((2.0 * signs - 1) @ differences) >= observed).sum())
    return (1 + at_least) / (1 + flips)


def _hits(first: np.ndarray, second: np.ndarray) -> PairedHits:
    counts = (first & second, first & ~second, ~first & second, ~first & ~second)
    return PairedHits(*(int(which.sum()) for which in counts))


def compare(first: np.ndarray, second: np.ndarray, ways: int) -> Paired:
    """Compare two decoders by the ranks that they give to the pictures seen.

    Parameters
    ----------
    first, second : array of shape (n_trials,), int
        From `nice_demo.retrieval.ranks`, for the same trials in the same order.
    ways : int
        Number of candidates, the same for both.

    Returns
    -------
    Paired

    Raises
    ------
    InputError
        Where the two differ in their number of trials, or a rank is out of range.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise InputError(
            f"Ranks of shapes {first.shape} and {second.shape} can't be paired; give the same "
            "trials in the same order for both decoders."
        )
    if min(first.min(), second.min()) < 1 or max(first.max(), second.max()) > ways:
        raise InputError(f"Ranks must lie between 1 and {ways}, the number of candidates.")
    differences = 1 / first - 1 / second
    mean, low, high = (float(value) for value in t_interval(differences))
    several = len(first) > 1
    return Paired(
        ways=ways,
        trials=len(first),
        top1=_hits(first <= 1, second <= 1),
        top5=_hits(first <= 5, second <= 5),
        reciprocal_rank=PairedRanks(
            first=float((1 / first).mean()),
            second=float((1 / second).mean()),
            difference=mean,
            low=low if several else None,
            high=high if several else None,
            nearer=int((first < second).sum()),
            same=int((first == second).sum()),
            farther=int((first > second).sum()),
            p=sign_flip_p(differences),
        ),
    )


# ---------------------------------------------------------------- words


def p_in_words(p: float) -> str:
    """Write a p value: "p = 0.031", "p < 0.001"."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def points(difference: float) -> str:
    """Write a difference of shares in points, with its sign: "+12.5", "−3.0"."""
    text = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def in_words(paired: Paired, first: str, second: str) -> str:
    """Say in one sentence how two decoders compare.

    Parameters
    ----------
    paired : Paired
    first, second : str
        What the decoders are called.
    """
    top1 = paired.top1
    low, high = top1.interval
    says = (
        f"On the same {paired.trials} trials, {first} puts the picture seen first in "
        f"{100 * top1.first:.1f} % and {second} in {100 * top1.second:.1f} %: a difference of "
        f"{points(top1.difference)} points (95 % interval {points(low)} to {points(high)}; "
        f"exact McNemar {p_in_words(top1.p)}), "
    )
    if top1.p < 0.05:
        return says + "more than chance explains."
    if paired.reciprocal_rank.p < 0.05:
        p = p_in_words(paired.reciprocal_rank.p)
        return says + f"which chance could explain; over all ranks they do differ ({p})."
    return says + "which chance could explain: no difference is shown, and none is ruled out."
