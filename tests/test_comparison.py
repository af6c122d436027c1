"""Two decoders on the same trials: intervals and tests against slow oracles, and how it is said."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nice_demo.comparison import (
    FLIPS,
    PairedHits,
    compare,
    in_words,
    p_in_words,
    paired_interval,
    points,
    sign_flip_p,
)
from nice_demo.errors import InputError

counts = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda cells: sum(cells) > 0)
few = settings(max_examples=60)


def score_interval(both, only_first, only_second, neither):
    """Tango's score interval (1998, Stat. Med. 17:891–908), by trying every difference."""
    n = both + only_first + only_second + neither
    kept = []
    for delta in np.linspace(-0.999, 0.999, 3997):
        a = 2 * n
        b = -only_first - only_second + (2 * n - only_first + only_second) * delta
        c = -only_second * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 4 * a * c, 0)) - b) / (2 * a)
        variance = n * (2 * q + delta * (1 - delta))
        if variance <= 0:
            continue
        if abs(only_first - only_second - n * delta) <= 1.959964 * math.sqrt(variance):
            kept.append(delta)
    return min(kept), max(kept)


@pytest.mark.parametrize(
    "cells",
    [(72, 6, 115, 7), (20, 30, 10, 140), (60, 40, 12, 88), (0, 9, 3, 188), (90, 20, 20, 70)],
)
def test_interval_is_near_the_score_interval(cells):
    for end, other in zip(paired_interval(*cells), score_interval(*cells), strict=True):
        assert end == pytest.approx(other, abs=0.012)


def test_interval_covers_as_often_as_it_says():
    """Two decoders that share much of their luck: 19 of 20 intervals hold the true difference."""
    rng = np.random.default_rng(0)
    cells = [0.25, 0.15, 0.08, 0.52]
    covered = 0
    draws = rng.multinomial(200, cells, 1500)
    for draw in draws:
        low, high = paired_interval(*map(int, draw))
        covered += low <= 0.07 <= high
    assert 0.935 <= covered / len(draws) <= 0.975


@few
@given(counts)
def test_interval_holds_the_difference_and_swaps_sign(cells):
    both, first, second, neither = cells
    low, high = paired_interval(*cells)
    difference = (first - second) / sum(cells)
    assert -1 <= low <= difference + 1e-9 and difference - 1e-9 <= high <= 1
    swapped = paired_interval(both, second, first, neither)
    assert swapped == pytest.approx((-high, -low), abs=1e-12)


@few
@given(counts)
def test_interval_is_narrower_with_more_trials(cells):
    low, high = paired_interval(*cells)
    more_low, more_high = paired_interval(*(10 * count for count in cells))
    assert more_high - more_low < high - low


def test_pairing_pays():
    """The same shares: decoders that agree are compared more precisely."""
    agreeing, independent = paired_interval(50, 10, 2, 138), paired_interval(16, 44, 36, 104)
    assert agreeing[1] - agreeing[0] < 0.7 * (independent[1] - independent[0])


@pytest.mark.parametrize("cells", [(0, 0, 0, 0), (-1, 2, 3, 4)])
def test_interval_of_nothing(cells):
    with pytest.raises(InputError, match="compared over no trials"):
        paired_interval(*cells)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (6, 0), (3, 9), (115, 6), (8, 8)])
def test_mcnemar_against_a_sum(first, second):
    n = first + second
    # Every split of n tosses that is at most as probable as the one found.
    chances = [math.comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(chance for chance in chances if chance <= chances[first] * (1 + 1e-9))
    assert PairedHits(5, first, second, 7).p == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_against_all_of_them(seed):
    differences = np.random.default_rng(seed).normal(0.4, 1, 10)
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    exact = np.mean([one >= abs(differences.sum()) - 1e-12 for one in sums])
    assert sign_flip_p(differences) == pytest.approx(exact, abs=4 * math.sqrt(0.25 / FLIPS))


def test_sign_flips_when_nothing_differs():
    """Under equality p is uniform: below 0.05 in one of twenty."""
    rng = np.random.default_rng(1)
    found = [sign_flip_p(rng.normal(size=40), flips=400) for _ in range(300)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert sign_flip_p(np.zeros(7)) == 1


ranks_of_two = st.integers(2, 30).flatmap(
    lambda ways: st.integers(1, 25).flatmap(
        lambda n: st.tuples(
            st.just(ways), *[st.lists(st.integers(1, ways), min_size=n, max_size=n)] * 2
        )
    )
)


@settings(max_examples=40)
@given(ranks_of_two)
def test_a_swap_changes_the_sign_and_nothing_else(drawn):
    ways, first, second = drawn
    one, other = compare(first, second, ways), compare(second, first, ways)
    for a, b in ((one.top1, other.top1), (one.top5, other.top5)):
        assert a.difference == -b.difference
        assert a.p == b.p
        assert (a.only_first, a.only_second) == (b.only_second, b.only_first)
    a, b = one.reciprocal_rank, other.reciprocal_rank
    assert a.difference == pytest.approx(-b.difference)
    assert a.p == b.p
    assert (a.nearer, a.same, a.farther) == (b.farther, b.same, b.nearer)
    assert a.nearer + a.same + a.farther == one.trials == len(first)


@few
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_equal_decoders_have_p_one(ranks):
    paired = compare(ranks, ranks, 30)
    for p in (paired.top1.p, paired.top5.p, paired.reciprocal_rank.p):
        assert p == 1
    assert paired.top1.difference == paired.reciprocal_rank.difference == 0
    assert "no difference is shown, and none is ruled out" in in_words(paired, "A", "B")


def test_compare_counts_as_a_loop_does():
    rng = np.random.default_rng(2)
    first, second = rng.integers(1, 12, 90), rng.integers(1, 40, 90)
    paired = compare(first, second, 40)
    for top, hits in ((1, paired.top1), (5, paired.top5)):
        cells = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for a, b in zip(first, second, strict=True):
            cells[bool(a <= top), bool(b <= top)] += 1
        assert tuple(cells.values()) == (
            hits.both, hits.only_first, hits.only_second, hits.neither
        )  # fmt: skip
        assert hits.difference == pytest.approx(np.mean(first <= top) - np.mean(second <= top))
    near = paired.reciprocal_rank
    assert near.difference == pytest.approx(np.mean(1 / first) - np.mean(1 / second))
    interval = stats.ttest_rel(1 / first, 1 / second).confidence_interval(0.95)
    assert (near.low, near.high) == pytest.approx((interval.low, interval.high))
    assert near.p < 0.01
    told = paired.to_json()
    assert told["top1"]["difference"] == paired.top1.difference
    assert told["top5"]["low"] <= told["top5"]["difference"] <= told["top5"]["high"]


def test_one_trial_has_no_t_interval():
    near = compare([1], [2], 5).reciprocal_rank
    assert near.low is None and near.high is None and near.p == 1


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([1, 2], [1, 2, 3], "can't be paired"),
        ([], [], "can't be paired"),
        ([0, 1], [1, 1], "between 1 and 9"),
        ([1, 10], [1, 1], "between 1 and 9"),
    ],
)
def test_ranks_that_cannot_be_compared(first, second, words):
    with pytest.raises(InputError, match=words):
        compare(first, second, 9)


def test_sentences():
    good, bad = np.repeat([1, 9], [60, 40]), np.repeat([1, 9], [20, 80])
    says = in_words(compare(good, bad, 50), "A", "B")
    assert says.startswith(
        "On the same 100 trials, A puts the picture seen first in 60.0 % and B in 20.0 %: a "
        "difference of +40.0 points (95 % interval +29.6 to +49.0; "
    )
    assert says.endswith("exact McNemar p < 0.001), more than chance explains.")
    # Never first, but nearer throughout.
    says = in_words(compare(np.full(40, 2), np.full(40, 30), 50), "A", "B")
    assert "a difference of 0.0 points" in says
    assert says.endswith("which chance could explain; over all ranks they do differ (p < 0.001).")


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "p < 0.001"), (0.0312, "p = 0.031"), (0.412, "p = 0.41"), (1, "p = 1.00")]
)
def test_p_in_words(p, text):
    assert p_in_words(p) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.125, "+12.5"), (-0.03, "−3.0"), (0, "0.0"), (-0.0002, "0.0")]
)
def test_points(share, text):
    assert points(share) == text
