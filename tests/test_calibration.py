"""Confidence: known temperatures are found, and every figure equals its definition in loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentences import refuses

from nice_demo.calibration import (
    BOUNDS,
    at_more_repetitions,
    confidence,
    expected_calibration_error,
    reliability,
    risk_coverage,
    shared_variance,
    temperature,
)
from nice_demo.retrieval import wilson

RNG = np.random.default_rng


def drawn(rng, trials, candidates, true_temperature):
    """Make similarities that at this temperature say how probable each candidate is."""
    similarities = 0.1 * rng.standard_normal((trials, candidates))
    weights = np.exp(similarities / true_temperature)
    shares = np.cumsum(weights / weights.sum(1, keepdims=True), 1)
    return similarities, (rng.random((trials, 1)) > shares).sum(1)


# ---------------------------------------------------------------- temperature


@pytest.mark.parametrize("true", [0.02, 0.05, 0.2])
def test_a_known_temperature_is_found(true):
    rng = RNG(1)
    sets = [drawn(rng, trials, ways, true) for trials, ways in ((3000, 20), (2000, 7))]
    found = temperature(*zip(*sets, strict=True))
    assert found.value == pytest.approx(true, rel=0.1)
    assert not found.at_bound
    assert found.trials == 5000


def test_temperature_is_of_the_least_surprise():
    rng = RNG(2)
    sets = [drawn(rng, 30, ways, 0.05) for ways in (5, 9)]

    def surprise(t):
        total = 0.0
        for similarities, target in sets:
            for row, seen in zip(similarities, target, strict=True):
                total -= row[seen] / t - math.log(sum(math.exp(s / t) for s in row))
        return total

    found = temperature(*zip(*sets, strict=True)).value
    assert all(
        surprise(found) <= surprise(found * factor) + 1e-9 for factor in (0.5, 0.99, 1.01, 2)
    )


def test_bounds_are_said():
    similarities = RNG(3).standard_normal((50, 6))
    always = temperature([similarities], [similarities.argmax(1)])
    assert (always.value, always.at_bound) == (pytest.approx(BOUNDS[0]), True)
    never = temperature([similarities], [similarities.argmin(1)])
    assert (never.value, never.at_bound) == (pytest.approx(BOUNDS[1]), True)


def test_confidence_is_a_softmax():
    similarities = RNG(4).standard_normal((2, 3, 5))
    found = confidence(similarities, 0.3)
    for place in np.ndindex(2, 3):
        weights = [math.exp(s / 0.3) for s in similarities[place]]
        np.testing.assert_allclose(found[place], np.array(weights) / sum(weights))
    assert confidence(np.array([500.0, -500.0]), 1e-3)[0] == 1  # no overflow


# ---------------------------------------------------------------- more repetitions


def test_shared_variance_is_that_of_the_pictures():
    rng = RNG(5)
    same = rng.standard_normal((400, 30)) + 7  # a common part says nothing of the picture
    one, other = (same + 2 * rng.standard_normal(same.shape) for _ in range(2))
    assert shared_variance(one, other) == pytest.approx(1 / 5, abs=0.02)
    assert shared_variance(same, same) == pytest.approx(1)
    assert abs(shared_variance(one - same, other - same)) < 0.03
    assert shared_variance(np.ones((3, 2)), np.ones((3, 2))) == 0  # an encoder that is stuck


def test_temperature_at_more_repetitions():
    """A decoder with large errors of its own and noise: four repetitions tell of eighty."""
    rng = RNG(6)
    pictures, dim = 1500, 40
    candidates = rng.standard_normal((pictures, dim)) / np.sqrt(dim)
    errors = 3 * rng.standard_normal(candidates.shape) / np.sqrt(dim)
    trials = [candidates + errors + 15 * rng.standard_normal(candidates.shape) / np.sqrt(dim)
              for _ in range(80)]  # fmt: skip

    def fitted(n):
        rows = np.mean(trials[:n], 0)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sets = np.split(np.arange(pictures), 30)
        return temperature([rows[s] @ candidates[s].T for s in sets], [np.arange(50)] * 30).value

    shared = shared_variance(np.mean(trials[:2], 0), np.mean(trials[2:4], 0))
    at_four, at_eighty = fitted(4), fitted(80)
    assert at_four > 1.5 * at_eighty
    assert at_more_repetitions(at_four, 4, 80, shared, 2) == pytest.approx(at_eighty, rel=0.1)


def test_extrapolation_in_the_limits():
    assert at_more_repetitions(0.1, 4, 80, 1.0, 2) == pytest.approx(0.1)  # no noise: as it was
    for noise_alone in (1e-9, 0.0, -0.2):  # as a square root
        assert at_more_repetitions(0.1, 4, 16, noise_alone, 2) == pytest.approx(0.05, rel=0.01)
    assert at_more_repetitions(0.1, 4, 4, 0.3, 2) == pytest.approx(0.1)


# ---------------------------------------------------------------- calibration


def literal_error(confidences, hits, bins):
    order = sorted(range(len(hits)), key=lambda i: confidences[i])
    total = 0.0
    for b in range(bins):
        own = [i for place, i in enumerate(order) if place * bins // len(hits) == b]
        if own:
            mean = sum(confidences[i] for i in own) / len(own)
            total += len(own) * abs(mean - sum(bool(hits[i]) for i in own) / len(own))
    return total / len(hits)


@pytest.mark.parametrize(("trials", "bins"), [(1, 10), (7, 3), (53, 10), (200, 10)])
def test_error_is_the_literal_one(trials, bins):
    rng = RNG(trials)
    confidences, hits = rng.random(trials), rng.random(trials) < 0.4
    found = expected_calibration_error(confidences, hits, bins, draws=50)
    assert found.value == pytest.approx(literal_error(confidences, hits, bins))
    assert found.overconfidence == pytest.approx(confidences.mean() - hits.mean())
    together = reliability(confidences, hits, bins)
    assert sum(b.trials for b in together) == trials
    weighted = sum(b.trials * abs(b.confidence - b.accuracy) for b in together) / trials
    assert found.value == pytest.approx(weighted)
    for one in together:
        assert (one.low, one.high) == wilson(round(one.accuracy * one.trials), one.trials)
    assert [b.confidence for b in together] == sorted(b.confidence for b in together)


def test_right_too_sure_and_too_modest():
    rng = RNG(7)
    probability = rng.uniform(0.05, 0.95, 2000)
    hits = rng.random(2000) < probability
    right = expected_calibration_error(probability, hits, draws=60)
    assert right.value < 0.045
    assert right.value == pytest.approx(right.if_calibrated, abs=0.015)
    assert right.low <= right.value <= right.high
    surer = expected_calibration_error(probability**0.3, hits, draws=60)
    assert surer.overconfidence > 0.1 and surer.low > 2 * surer.if_calibrated
    modest = expected_calibration_error(probability**3, hits, draws=60)
    assert modest.overconfidence < -0.1 and modest.low > 2 * modest.if_calibrated


def test_ties_stay_together():
    hits = np.arange(40) < 10
    (only,) = reliability(np.full(40, 0.4), hits)
    assert (only.confidence, only.accuracy, only.trials) == (pytest.approx(0.4), 0.25, 40)
    assert expected_calibration_error(np.full(40, 0.4), hits, draws=9).value == pytest.approx(0.15)
    confidences = np.repeat([0.2, 0.9], 20)
    turned = slice(None, None, -1)
    assert reliability(confidences, hits) == reliability(confidences[turned], hits[turned])


# ---------------------------------------------------------------- staying silent


def literal_area(confidences, hits):
    risks = []
    for own in confidences:
        answered = [hit for c, hit in zip(confidences, hits, strict=True) if c >= own]
        risks.append(sum(not hit for hit in answered) / len(answered))
    return sum(risks) / len(risks)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1))
def test_risk_and_coverage_are_the_literal_ones(pairs):
    confidences, hits = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    found = risk_coverage(confidences, hits)
    assert found.area == pytest.approx(literal_area(confidences, hits))
    assert found.threshold.tolist() == sorted(set(confidences), reverse=True)
    for threshold, coverage, risk in zip(found.threshold, found.coverage, found.risk, strict=True):
        answered = hits[confidences >= threshold]
        assert coverage == pytest.approx(len(answered) / len(hits))
        assert risk == pytest.approx((~answered).mean())
    constant = risk_coverage(np.full(len(hits), 0.3), hits)
    assert constant.area == pytest.approx(constant.uninformative)
    in_order = np.where(hits, 1.0, 0.0) - 0.01 * np.arange(len(hits)) / len(hits)
    assert found.best == pytest.approx(literal_area(in_order, hits))
    assert found.best <= found.area + 1e-12


def test_confidence_that_knows_lowers_the_area():
    rng = RNG(8)
    probability = rng.random(500)
    hits = rng.random(500) < probability
    knows, guesses = risk_coverage(probability, hits), risk_coverage(rng.random(500), hits)
    assert knows.best < knows.area < knows.uninformative - 0.1
    assert guesses.area == pytest.approx(guesses.uninformative, abs=0.08)


# ---------------------------------------------------------------- bad input


def test_refusals():
    two, target = np.zeros((3, 2)), np.zeros(3, int)
    refuses(lambda: temperature([], []), "at least one")
    refuses(lambda: temperature([two], []), "don't fit")
    refuses(lambda: temperature([two], [target + 2]), "from 0 to 1")
    refuses(lambda: temperature([two[:0]], [target[:0]]), "no trial")
    refuses(lambda: temperature([two[:, :1]], [target]), "at least 2")
    refuses(lambda: temperature([two * np.nan], [target]), "NaN")
    refuses(lambda: temperature([two + np.inf], [target]), "infinity")
    for wrong in (0, -1, math.nan, math.inf):
        refuses(lambda wrong=wrong: confidence(two, wrong), "above 0")
    refuses(lambda: confidence(np.empty((3, 0)), 1), "no candidate")
    refuses(lambda: confidence(two * np.nan, 1), "NaN")
    half, hits = np.full(4, 0.5), np.ones(4, bool)
    for measured in (reliability, risk_coverage, expected_calibration_error):
        refuses(lambda f=measured: f(half[:3], hits), "don't fit")
        refuses(lambda f=measured: f(half[:0], hits[:0]), "no trial")
        refuses(lambda f=measured: f(half + 1, hits), "from 0 to 1")
        refuses(lambda f=measured: f(half * np.nan, hits), "NaN")
        refuses(lambda f=measured: f(half, 2 * hits), "right or wrong")
    refuses(lambda: reliability(half, hits, 0), "bins")
