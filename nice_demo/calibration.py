"""How sure a decoder is of its first choice, and whether it is right as often as it says.

Similarities become probabilities as softmax(similarity / temperature). The temperature is fitted
on pictures of the training data that the encoder was not trained on (Guo et al. 2017, ICML):

    temperature([similarities, …], [target, …]) → confidence(similarities, temperature)

Whether that is calibrated says `expected_calibration_error` in one number and `reliability` bin by
bin; what it is worth to stay silent when unsure says `risk_coverage`. All three take, for each
trial, the probability of the first choice and whether the first choice was right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, softmax

from nice_demo.errors import InputError
from nice_demo.retrieval import ranks, wilson

BOUNDS = 1e-3, 1e2  # of temperatures: cosines differ by 2 at most
BINS = 10


# ---------------------------------------------------------------- temperature


@dataclass(frozen=True)
class Temperature:
    """What similarities are divided by before the softmax.

    Attributes
    ----------
    value : float
        The lower, the surer.
    at_bound : bool
        Whether it would be lower or higher still: `value` is one of `BOUNDS`. At the upper one
        the similarities say nothing about what was seen.
    trials : int
        How many it was fitted on.
    """

    value: float
    at_bound: bool
    trials: int


def temperature(similarities: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> Temperature:
    """Find the temperature under which the pictures seen are most probable.

    Parameters
    ----------
    similarities : sequence of arrays of shape (n_trials, n_candidates)
        One for each set of candidates; sets may have different sizes.
    target : sequence of arrays of shape (n_trials,), int
        Which candidate was seen.

    Returns
    -------
    Temperature
        Of the least mean negative logarithm of the probability of the picture seen. That is
        convex in 1 / temperature, so there is one minimum.

    Raises
    ------
    InputError
        Where there is no trial, fewer than two candidates, NaN, or a target that is none.
    """
    if not len(similarities) or len(similarities) != len(target):
        raise InputError(
            f"{len(similarities)} sets of similarities and {len(target)} of targets don't fit; "
            "give at least one of each, and as many."
        )
    pairs = [
        (np.asarray(one, float), np.asarray(seen))
        for one, seen in zip(similarities, target, strict=True)
    ]
    for one, seen in pairs:
        ranks(one, seen)  # refuses what doesn't fit
        if one.shape[1] < 2:
            raise InputError("One candidate leaves nothing to choose; give at least 2.")
        if not np.isfinite(one).all():
            raise InputError("The similarities hold infinity; compute the embeddings anew.")
    trials = sum(len(seen) for _, seen in pairs)

    def surprise(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return -sum(
            log_softmax(scale * one, axis=1)[np.arange(len(seen)), seen].sum()
            for one, seen in pairs
        )

    from scipy.optimize import minimize_scalar  # here: the page needn't wait for it

    low, high = np.log(BOUNDS)
    found = minimize_scalar(surprise, bounds=(low, high), method="bounded").x
    best = min((low, found, high), key=surprise)
    # The search stops short of a bound; within 1 % it is meant.
    at_bound = min(best - low, high - best) < 0.01
    if at_bound:
        best = low if best - low < 0.01 else high
    return Temperature(float(np.exp(best)), bool(at_bound), trials)


def shared_variance(one: np.ndarray, other: np.ndarray) -> float:
    """Estimate how much of embeddings' variance comes from the picture, not from noise.

    Parameters
    ----------
    one, other : array of shape (n_pictures, dim)
        Of the same pictures, from different trials.

    Returns
    -------
    float
        Split-half reliability: the covariance of the two over their variance, at most 1; noise
        alone gives about 0. 0 where nothing varies.
    """
    middle = (one.mean(0, dtype=float) + other.mean(0, dtype=float)) / 2
    one, other = one - middle, other - middle
    variance = (one**2).sum() + (other**2).sum()
    return float(2 * (one * other).sum() / variance) if variance > 0 else 0.0


LEAST_SHARED = 1e-4  # of the variance of a half: what noise alone can leave may be negative


def at_more_repetitions(
    temperature: float, fitted: int, wanted: int, shared: float, half: int
) -> float:
    """Extrapolate a temperature to averages over more repetitions than it was fitted at.

    Averaging n repetitions leaves an embedding with a variance of A + B / n in each direction: what
    comes again with the picture, and noise. Given that as Gaussian, the logarithm of a candidate's
    probability is its product with the embedding over A + B / n; the cosine has divided by the
    embedding's length already, which grows as √(A + B / n). So the temperature of cosines falls as
    √(A + B / n), that is as 1 / √r(n), where r(n) = n / (n + B / A) is the share of the variance
    that comes again (Spearman 1910; Brown 1910, Br. J. Psychol. 3). Most of A has to be the
    decoder's own, constant errors; the better it decodes, the further the temperature really falls.

    Parameters
    ----------
    temperature : float
    fitted : int
        Repetitions in the averages that it was fitted on.
    wanted : int
        Repetitions to extrapolate to.
    shared : float
        From `shared_variance`, of averages over `half` repetitions.
    half : int

    Returns
    -------
    float
    """
    shared = min(max(shared, LEAST_SHARED), 1.0)
    noise = half * (1 - shared) / shared  # B / A
    return float(temperature * np.sqrt(fitted / (fitted + noise) * (wanted + noise) / wanted))


def confidence(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """Turn similarities into probabilities of having been seen.

    Parameters
    ----------
    similarities : array of shape (…, n_candidates)
    temperature : float

    Returns
    -------
    array of shape (…, n_candidates)
        Softmax; sums to 1 over the candidates.

    Raises
    ------
    InputError
        Where the temperature isn't above 0, or there is no candidate or NaN.
    """
    similarities = np.asarray(similarities, float)
    if not 0 < temperature < np.inf:
        raise InputError(f"A temperature of {temperature} can't be; give a number above 0.")
    if similarities.ndim == 0 or similarities.shape[-1] == 0:
        raise InputError("There is no candidate to be sure of; give at least one.")
    if not np.isfinite(similarities).all():
        raise InputError("The similarities hold NaN or infinity; compute the embeddings anew.")
    return softmax(similarities / temperature, axis=-1)


# ---------------------------------------------------------------- calibration


def _check(confidence: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, hits = np.asarray(confidence, float), np.asarray(hits)
    if confidence.ndim != 1 or confidence.shape != hits.shape:
        raise InputError(
            f"Confidences of shape {confidence.shape} and hits of shape {hits.shape} don't fit; "
            "give one of each for every trial."
        )
    if not len(confidence):
        raise InputError("There is no trial to measure confidence on; give at least one.")
    if not ((confidence >= 0) & (confidence <= 1)).all():  # NaN isn't either
        raise InputError("Confidences are probabilities; give numbers from 0 to 1, none NaN.")
    if hits.dtype.kind not in "biu" or not np.isin(hits, (0, 1)).all():
        raise InputError("Hits are right or wrong; give True or False for each trial.")
    return confidence, hits.astype(bool)


def _bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Put trials into bins of equal size along the last axis; ties go into the same one."""
    if bins < 1:
        raise InputError(f"{bins} bins hold nothing; give at least 1.")
    from scipy.stats import rankdata

    place = rankdata(confidence, method="min", axis=-1).astype(int) - 1
    return place * bins // confidence.shape[-1]


@dataclass(frozen=True)
class Bin:
    """Trials of about the same confidence.

    Attributes
    ----------
    confidence : float
        Their mean.
    accuracy, low, high : float
        Share of them that are right, with its Wilson 95 % interval.
    trials : int
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    trials: int


def reliability(confidence: np.ndarray, hits: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Compare confidence with accuracy, bin by bin.

    Parameters
    ----------
    confidence : array of shape (n_trials,)
        Probability of the first choice.
    hits : array of shape (n_trials,), bool
        Whether it was right.
    bins : int
        Of equal size; ties stay together, so that there may be fewer bins, of different sizes.

    Returns
    -------
    list of Bin
        The least sure first.

    Raises
    ------
    InputError
        Where shapes differ, there is no trial, or a confidence is no probability.
    """
    confidence, hits = _check(confidence, hits)
    place, found = _bin_of(confidence, bins), []
    for one in np.unique(place):
        own = hits[place == one]
        low, high = wilson(int(own.sum()), len(own))
        mean = float(confidence[place == one].mean())
        found.append(Bin(mean, float(own.mean()), low, high, len(own)))
    return found


@dataclass(frozen=True)
class CalibrationError:
    """How far confidence is from accuracy.

    Attributes
    ----------
    value : float
        Expected calibration error: the mean over trials of |confidence − accuracy| of their bin.
    low, high : float
        95 % bootstrap over trials: percentiles, less what drawing anew adds to the error on
        average. As the error itself they lean upwards: few trials a bin make it larger.
    if_calibrated : float
        What so many trials give on average when every confidence is exactly right.
    overconfidence : float
        Mean confidence − accuracy; below 0 the decoder is better than it says.
    """

    value: float
    low: float
    high: float
    if_calibrated: float
    overconfidence: float


def expected_calibration_error(
    confidence: np.ndarray, hits: np.ndarray, bins: int = BINS, draws: int = 1000, seed: int = 0
) -> CalibrationError:
    """Compute the expected calibration error over bins of equal size.

    Parameters
    ----------
    confidence, hits, bins
        As of `reliability`.
    draws : int
        Of the bootstrap, and of hits drawn from the confidences.
    seed : int

    Returns
    -------
    CalibrationError

    Raises
    ------
    InputError
        As `reliability`.
    """
    confidence, hits = _check(confidence, hits)
    rng, trials = np.random.default_rng([seed, 10]), len(hits)
    drawn = rng.integers(trials, size=(draws, trials))
    value = _error(confidence[None], hits[None], bins)[0]
    again = _error(confidence[drawn], hits[drawn], bins)
    low, high = np.percentile(again, [2.5, 97.5]) - (again.mean() - value)
    if_right = rng.random((draws, trials)) < confidence
    return CalibrationError(
        float(value),
        float(max(low, 0)),
        float(high),
        float(_error(np.broadcast_to(confidence, if_right.shape), if_right, bins).mean()),
        float(confidence.mean() - hits.mean()),
    )


def _error(confidence: np.ndarray, hits: np.ndarray, bins: int) -> np.ndarray:
    """Return the error of each row of arrays of shape (n_rows, n_trials)."""
    place, rows = _bin_of(confidence, bins), np.arange(len(confidence))[:, None]
    too_sure = np.zeros((len(confidence), bins))  # summed over the trials of a bin
    np.add.at(too_sure, (rows, place), confidence - hits)
    return np.abs(too_sure).sum(1) / confidence.shape[1]


# ---------------------------------------------------------------- staying silent


@dataclass(frozen=True)
class RiskCoverage:
    """What it brings to answer only when sure enough.

    Attributes
    ----------
    threshold : array of shape (n_points,)
        Each confidence that occurs, descending: all trials at least as sure are answered.
    coverage : array of shape (n_points,)
        Share of trials that are answered.
    risk : array of shape (n_points,)
        Share of wrong ones among those answered.
    area : float
        Mean of the risk over all coverages: lower is better.
    uninformative : float
        The area where confidence says nothing (is constant): the share of wrong answers in all.
    best : float
        The area where all that is right is surer than all that is wrong.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    area: float
    uninformative: float
    best: float


def risk_coverage(confidence: np.ndarray, hits: np.ndarray) -> RiskCoverage:
    """Compute the risk at every coverage (El-Yaniv & Wiener 2010, J. Mach. Learn. Res. 11).

    Trials of the same confidence are answered together or not at all.

    Parameters
    ----------
    confidence, hits
        As of `reliability`.

    Returns
    -------
    RiskCoverage

    Raises
    ------
    InputError
        As `reliability`.
    """
    confidence, hits = _check(confidence, hits)
    negative, group, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    answered = np.cumsum(size)
    coverage, risk = answered / len(hits), np.cumsum(np.bincount(group, ~hits)) / answered
    steps = np.diff(coverage, prepend=0)
    one_by_one = np.arange(1, len(hits) + 1)
    best = (np.maximum(one_by_one - hits.sum(), 0) / one_by_one).mean()
    return RiskCoverage(
        -negative, coverage, risk, float(steps @ risk), float(1 - hits.mean()), float(best)
    )
