"""Ranks, chance and intervals, against slow and obvious versions of themselves."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sentences import refuses

from nice_demo import retrieval
from nice_demo.errors import InputError


def slow_cosine(a, b):
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def slow_rank(similarities, target):
    better_or_equal = 0
    for candidate, value in enumerate(similarities):
        if candidate != target and value >= similarities[target]:
            better_or_equal += 1
    return 1 + better_or_equal


def slow_n_way(rank, ways, n_candidates):
    """Try every choice of distractors among the other candidates' ranks."""
    others = [other for other in range(1, n_candidates + 1) if other != rank]
    choices = list(itertools.combinations(others, ways - 1))
    return sum(all(rank < other for other in choice) for choice in choices) / len(choices)


def slow_binomial_p(successes, trials, chance):
    return sum(
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
        for k in range(successes, trials + 1)
    )


def similarities_with_ranks(wanted, n_candidates):
    """Similarities whose target, candidate 0, has the wanted rank in each trial."""
    similarities = np.zeros((len(wanted), n_candidates))
    for trial, rank in enumerate(wanted):
        similarities[trial, 1:rank] = 2
        similarities[trial, 0] = 1
    return similarities, np.zeros(len(wanted), int)


tied = st.integers(0, 3)  # few values, so that ties abound


@st.composite
def trials(draw, values=tied):
    n_trials, n_candidates = draw(st.integers(1, 6)), draw(st.integers(2, 7))
    row = st.lists(values, min_size=n_candidates, max_size=n_candidates)
    similarities = np.array(draw(st.lists(row, min_size=n_trials, max_size=n_trials)), float)
    target = draw(st.lists(st.integers(0, n_candidates - 1), min_size=n_trials, max_size=n_trials))
    return similarities, np.array(target)


# ---------------------------------------------------------------- similarity


def test_similarity_is_the_cosine():
    rng = np.random.default_rng(1)
    embeddings, gallery = rng.normal(size=(4, 7)), rng.normal(size=(5, 7)) * 100
    expected = [[slow_cosine(a, b) for b in gallery] for a in embeddings]
    np.testing.assert_allclose(retrieval.similarity(embeddings, gallery), expected, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_similarity_does_not_depend_on_the_norm(scale):
    rng = np.random.default_rng(2)
    embeddings, gallery = rng.normal(size=(4, 7)), rng.normal(size=(5, 7))
    np.testing.assert_allclose(
        retrieval.similarity(embeddings * scale, gallery),
        retrieval.similarity(embeddings, gallery),
        atol=2e-12,
    )


def test_identical_candidates_tie_exactly():
    rng = np.random.default_rng(3)
    gallery = np.repeat(rng.normal(size=(1, 333)).astype(np.float32), 37, axis=0)
    similarities = retrieval.similarity(rng.normal(size=(11, 333)), gallery)
    assert (similarities == similarities[:, :1]).all()
    assert (retrieval.ranks(similarities, np.arange(11)) == 37).all()


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("side", ["embeddings", "gallery"])
def test_similarity_refuses_vectors_without_a_direction(bad, side):
    arrays = {"embeddings": np.ones((3, 4)), "gallery": np.ones((5, 4))}
    arrays[side][1] = bad
    with pytest.raises(InputError, match=f"Row 1 of the {side}"):
        retrieval.similarity(**arrays)


def test_similarity_refuses_other_dimensions():
    with pytest.raises(InputError, match=r"\(3, 4\).*\(5, 6\)"):
        retrieval.similarity(np.ones((3, 4)), np.ones((5, 6)))


# ---------------------------------------------------------------- ranks


@given(trials())
def test_ranks_by_counting(case):
    similarities, target = case
    expected = [slow_rank(row, seen) for row, seen in zip(similarities, target, strict=True)]
    found = retrieval.ranks(similarities, target)
    assert found.tolist() == expected
    assert found.dtype.kind == "i"


def test_ties_count_against_the_decoder():
    assert retrieval.ranks(np.zeros((2, 200)), np.array([0, 199])).tolist() == [200, 200]


@given(trials(), st.floats(0.5, 3))
def test_a_more_similar_target_never_ranks_worse(case, gain):
    similarities, target = case
    before = retrieval.ranks(similarities, target)
    similarities[np.arange(len(target)), target] += gain
    assert (retrieval.ranks(similarities, target) <= before).all()


@pytest.mark.parametrize(
    ("similarities", "target"),
    [
        (np.zeros((2, 3)), np.array([0])),
        (np.zeros((2, 3)), np.array([0, 3])),
        (np.zeros((2, 3)), np.array([0, -1])),
        (np.zeros((2, 3)), np.array([0.0, 1.0])),
        (np.zeros(3), np.array([0])),
        (np.zeros((0, 3)), np.array([], int)),
        (np.full((1, 3), np.nan), np.array([0])),
    ],
)
def test_ranks_refuses_what_does_not_fit(similarities, target):
    with pytest.raises(InputError):
        retrieval.ranks(similarities, target)


# ---------------------------------------------------------------- n-way


@pytest.mark.parametrize("n_candidates", [2, 3, 5, 7])
def test_n_way_by_trying_every_choice(n_candidates):
    for ways in range(2, n_candidates + 1):
        for rank in range(1, n_candidates + 1):
            assert retrieval.n_way([rank], ways, n_candidates) == pytest.approx(
                slow_n_way(rank, ways, n_candidates), abs=1e-15
            )


@pytest.mark.parametrize("ways", [2, 4, 10, 50, 100, 200])
def test_n_way_of_guessing_is_chance_exactly(ways):
    assert retrieval.n_way(np.arange(1, 201), ways, 200) == pytest.approx(1 / ways, rel=1e-15)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_n_way_bounds_and_order(of_seen):
    by_ways = [retrieval.n_way(of_seen, ways, 200) for ways in (2, 4, 10, 50, 100, 200)]
    assert by_ways == sorted(by_ways, reverse=True)  # more candidates, harder
    assert 0 <= by_ways[-1] <= by_ways[0] <= 1
    assert by_ways[-1] == np.mean(np.array(of_seen) == 1)
    worse = np.minimum(np.array(of_seen) + 1, 200)
    assert retrieval.n_way(worse, 10, 200) <= by_ways[2]


def test_n_way_by_drawing():
    rng = np.random.default_rng(4)
    of_seen = rng.integers(1, 201, 50)
    drawn = []
    for rank in of_seen:
        others = np.setdiff1d(np.arange(1, 201), [rank])
        drawn += [(rng.choice(others, 3, replace=False) > rank).all() for _ in range(100)]
    assert retrieval.n_way(of_seen, 4, 200) == pytest.approx(np.mean(drawn), abs=0.025)


@pytest.mark.parametrize(("of_seen", "ways"), [([1], 1), ([1], 201), ([0], 2), ([201], 2), ([], 2)])
def test_n_way_refuses_what_cannot_be(of_seen, ways):
    with pytest.raises(InputError):
        retrieval.n_way(of_seen, ways, 200)


# ---------------------------------------------------------------- intervals and tests


@pytest.mark.parametrize(("successes", "low", "high"), [(32, 0.116, 0.217), (160, 0.739, 0.850)])
def test_wilson_known_values(successes, low, high):
    assert retrieval.wilson(successes, 200) == pytest.approx((low, high), abs=5e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_by_the_formula(case):
    successes, n = case
    z, share = 1.959963984540054, successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = retrieval.wilson(successes, n)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-12)
    assert 0 <= low <= share <= high <= 1
    if successes < n:
        assert retrieval.wilson(successes + 1, n) > (low, high)
    assert retrieval.wilson(successes, n, 0.5) >= (low, 0)


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (3, 20), (32, 200), (200, 200)])
def test_wilson_as_scipy_has_it(successes, n):
    from scipy.stats import binomtest

    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert retrieval.wilson(successes, n) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("successes", [0, 3, 7.5, 19])
def test_wilson_solves_its_own_equation(successes):
    for end in retrieval.wilson(successes, 20):
        distance = abs(successes / 20 - end)
        assert distance == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 20))


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5), (math.nan, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(InputError):
        retrieval.wilson(successes, n)


@pytest.mark.parametrize(
    ("chance", "significant", "highly"), [(0.005, 4, 6), (0.025, 10, 14)], ids=["top-1", "top-5"]
)
def test_how_many_hits_of_200_are_significant(chance, significant, highly):
    assert retrieval.binomial_p(significant, 200, chance) < 0.05
    assert retrieval.binomial_p(significant - 1, 200, chance) >= 0.05
    assert retrieval.binomial_p(highly, 200, chance) < 0.001
    assert retrieval.binomial_p(highly - 1, 200, chance) >= 0.001


@pytest.mark.parametrize("chance", [0.005, 0.025, 0.5, 1.0])
@pytest.mark.parametrize("successes", [0, 1, 5, 30])
def test_binomial_p_by_summing(successes, chance):
    expected = slow_binomial_p(successes, 30, chance)
    assert retrieval.binomial_p(successes, 30, chance) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("statistic", retrieval.STATISTICS)
def test_permutation_p_against_all_permutations(statistic):
    rng = np.random.default_rng(5)
    similarities, target = rng.normal(size=(5, 5)) + 0.7 * np.eye(5), np.arange(5)

    def slow_statistic(permuted):
        of_seen = [slow_rank(row, seen) for row, seen in zip(similarities, permuted, strict=True)]
        if statistic.startswith("top-"):
            return sum(rank <= int(statistic[4:]) for rank in of_seen)
        if statistic == "mean reciprocal rank":
            return sum(1 / rank for rank in of_seen)
        return -(sum(of_seen) if statistic == "mean rank" else sorted(of_seen)[2])

    observed = slow_statistic(target)
    everything = [slow_statistic(p) for p in itertools.permutations(target)]
    expected = sum(value >= observed - 1e-9 for value in everything) / len(everything)
    found = retrieval.permutation_p(similarities, target, statistic, permutations=20_000)
    assert found == pytest.approx(expected, abs=0.015)


def test_permutation_p_extremes_and_seed():
    target = np.arange(30)
    assert retrieval.permutation_p(np.eye(30), target, permutations=99) == 0.01
    assert retrieval.permutation_p(np.zeros((30, 30)), target, permutations=99) == 1
    noise = np.random.default_rng(6).normal(size=(30, 30))
    twice = [retrieval.permutation_p(noise, target, "mean rank", 500, seed=3) for _ in range(2)]
    assert twice[0] == twice[1] > 0.001


def test_permutation_p_in_several_blocks(monkeypatch):
    noise = np.random.default_rng(7).normal(size=(600, 4))
    target = np.arange(600) % 4
    p = retrieval.permutation_p(noise, target, "mean reciprocal rank", permutations=4000)
    assert 0.001 < p < 0.999


def test_permutation_p_sees_a_hub():
    """A decoder that always answers the same is right once, which proves nothing."""
    similarities = np.zeros((200, 200))
    similarities[:, 17] = 1
    assert retrieval.permutation_p(similarities, np.arange(200), "top-1", 200) == 1


@pytest.mark.parametrize("wrong", [{"statistic": "top-7"}, {"permutations": 0}])
def test_permutation_p_refuses(wrong):
    with pytest.raises(InputError):
        retrieval.permutation_p(np.eye(3), np.arange(3), **wrong)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (3, 0), (7, 2), (5, 5), (1, 20)])
def test_paired_p_by_summing(only_a, only_b):
    hits_a = np.array([1] * only_a + [0] * only_b + [1] * 4 + [0] * 6, bool)
    hits_b = np.array([0] * only_a + [1] * only_b + [1] * 4 + [0] * 6, bool)
    n = only_a + only_b
    expected = min(1.0, 2 * slow_binomial_p(max(only_a, only_b), n, 0.5))
    assert retrieval.paired_p(hits_a, hits_b) == pytest.approx(expected)
    assert retrieval.paired_p(hits_b, hits_a) == pytest.approx(expected)


def test_paired_p_refuses_other_trials():
    with pytest.raises(InputError, match="same trials"):
        retrieval.paired_p(np.ones(3), np.ones(4))


# ---------------------------------------------------------------- metrics


def measure(wanted, n_candidates=200, **more):
    options = {"protocol": "stimulus", "repetitions": 80} | more
    return retrieval.metrics(*similarities_with_ranks(wanted, n_candidates), **options)


def test_metrics_of_known_ranks():
    found = measure([1, 1, 2, 3, 4, 5, 6, 200])
    assert (found.protocol, found.ways, found.repetitions, found.trials) == ("stimulus", 200, 80, 8)
    assert [top.successes for top in (found.top1, found.top3, found.top5)] == [2, 4, 6]
    assert [top.chance for top in (found.top1, found.top3, found.top5)] == [0.005, 0.015, 0.025]
    assert found.top5.value == 0.75
    assert (found.top5.low, found.top5.high) == retrieval.wilson(6, 8)
    assert found.top5.p == pytest.approx(slow_binomial_p(6, 8, 0.025))
    assert found.median_rank.value == 3.5
    assert found.mean_rank.value == 222 / 8
    assert found.median_rank.chance == found.mean_rank.chance == 100.5
    reciprocal = found.mean_reciprocal_rank
    assert reciprocal.value == pytest.approx(
        (1 + 1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 8 + 1 / 1600
    )
    assert reciprocal.chance == pytest.approx(np.mean(1 / np.arange(1, 201)))
    assert list(found.n_way) == [2, 4, 10, 50, 100, 200]
    assert found.n_way[200].value == found.top1.value
    assert found.n_way[10].chance == 0.1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_every_figure_lies_in_its_interval(wanted):
    found = measure(wanted, 20)
    figures = [found.top1, found.top3, found.top5, found.median_rank, found.mean_rank]
    figures += [found.mean_reciprocal_rank, *found.n_way.values()]
    for figure in figures:
        assert figure.low - 1e-12 <= figure.value <= figure.high + 1e-12
    assert found.mean_rank.low >= 1
    assert found.mean_rank.high <= 20 + 1e-9


def test_guessing_is_covered_by_the_intervals():
    """Of 95 % intervals around guesses, about 95 % or more hold the chance level."""
    rng = np.random.default_rng(8)
    misses = {"top5": 0, "median_rank": 0, "mean_rank": 0, "mean_reciprocal_rank": 0}
    for _ in range(200):
        found = measure(rng.integers(1, 21, 60), 20)
        for name in misses:
            figure = getattr(found, name)
            misses[name] += not figure.low <= figure.chance <= figure.high
    assert max(misses.values()) <= 20


def test_median_interval_covers():
    """Exact coverage of the order statistics for a continuous-like rank, by the binomial."""
    found = measure(range(1, 201), 200)
    low, high = int(found.median_rank.low), int(found.median_rank.high)
    # The interval [x_low, x_high] misses the median if fewer than low values lie below it.
    below = sum(math.comb(200, k) for k in range(low)) / 2**200
    assert below < 0.025 <= below + math.comb(200, low) / 2**200
    assert high == 201 - low


def test_few_trials_exclude_nothing_about_the_median():
    assert (measure([1] * 5).median_rank.low, measure([1] * 5).median_rank.high) == (1, 200)
    assert measure([1] * 6).median_rank.high == 1


@settings(max_examples=30)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=9), st.sampled_from([None, 1, 80]))
def test_metrics_survive_json(wanted, repetitions):
    found = measure(wanted, 7, protocol="concept centre", repetitions=repetitions)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert retrieval.Metrics.from_json(json.loads(text)) == found
    assert set(json.loads(text)["top1"]) == {
        "successes",
        "trials",
        "chance",
        "value",
        "low",
        "high",
        "p",
    }


def test_json_that_is_not_metrics():
    good = measure([1, 2, 3]).to_json()
    worse = [{name: value for name, value in good.items() if name != left} for left in good]
    worse += [good | {"ways": "many"}, good | {"top1": None}, good | {"n_way": []}, [], None]
    worse += [good | {"top1": good["top1"] | {"successes": 9}}, good | {"mean_rank": {"value": 1}}]
    for content in worse:
        with pytest.raises(InputError):
            retrieval.Metrics.from_json(content)


@pytest.mark.parametrize("wrong", [{"protocol": "image"}, {"repetitions": 0}])
def test_metrics_refuses(wrong):
    with pytest.raises(InputError):
        measure([1], **wrong)


def test_metrics_refuses_a_single_candidate():
    with pytest.raises(InputError, match="at least 2 candidates"):
        measure([1], 1)


# ---------------------------------------------------------------- subjects


def test_mean_over_subjects():
    one, two, three = measure([1, 1, 1, 9]), measure([1, 2, 3, 9]), measure([1, 1, 9, 9])
    mean = retrieval.mean_over_subjects([one, two, three])
    values = [0.75, 0.25, 0.5]
    half = 4.302652729911275 * 0.25 / math.sqrt(3)  # t of 2 degrees of freedom
    assert mean.top1.value == pytest.approx(np.mean(values))
    assert mean.top1.sd == pytest.approx(0.25)
    assert (mean.top1.low, mean.top1.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert (mean.subjects, mean.trials, mean.ways, mean.repetitions) == (3, 12, 200, 80)
    assert mean.n_way[200] == mean.top1
    content = json.loads(json.dumps(mean.to_json(), allow_nan=False))
    assert content["interval"] == "95 % t interval over subjects"
    assert content["n_way"]["200"]["value"] == pytest.approx(0.5)


def test_one_subject_has_no_interval_over_subjects():
    mean = retrieval.mean_over_subjects([measure([1, 2])])
    assert (mean.top1.value, mean.top1.low, mean.top1.high, mean.top1.sd) == (0.5, None, None, None)


def test_subjects_measured_differently_are_not_averaged():
    with pytest.raises(InputError, match="no subject"):
        retrieval.mean_over_subjects([])
    others = [
        measure([1], protocol="concept centre"),
        measure([1], repetitions=1),
        measure([1], repetitions=None),
        measure([1], 100),
    ]
    for other in others:
        with pytest.raises(InputError, match="can't be averaged"):
            retrieval.mean_over_subjects([measure([1]), other])


# ---------------------------------------------------------------- real data


def test_published_latents_of_real_eeg(shared_data):
    folder = shared_data / "things_eeg2"
    latents = np.load(folder / "atm_s_sub08_test_latents.npy")
    pictures = np.load(folder / "openclip_vith14_test_image.npy")
    similarities = retrieval.similarity(latents, pictures)
    expected = [slow_cosine(latents[3], picture) for picture in pictures[:20]]
    np.testing.assert_allclose(similarities[3, :20], expected, atol=1e-11)
    found = retrieval.metrics(similarities, np.arange(200), protocol="stimulus", repetitions=80)
    assert (found.top1.value, found.top5.value) == (0.36, 0.725)
    assert found.median_rank.value == 3
    shifted = retrieval.metrics(
        similarities, np.roll(np.arange(200), 1), protocol="stimulus", repetitions=80
    )
    assert shifted.top1.p > 0.001  # the wrong pictures: chance


def test_concept_centres_of_real_pictures(shared_data):
    folder = shared_data / "things_eeg2"
    similarities = retrieval.similarity(
        np.load(folder / "clip_vitl14_test.npy"), np.load(folder / "clip_vitl14_centres.npy")
    )
    found = retrieval.metrics(
        similarities, np.arange(200), protocol="concept centre", repetitions=None
    )
    assert found.top1.value == 0.98
    own = np.eye(200, dtype=bool)
    assert similarities[own].mean() == pytest.approx(0.890, abs=5e-4)
    assert similarities[~own].mean() == pytest.approx(0.597, abs=5e-4)


def test_norms_are_kept_where_asked():
    rng = np.random.default_rng(0)
    embeddings, gallery = rng.standard_normal((4, 5)), rng.standard_normal((6, 5))
    kept = retrieval.similarity(embeddings, gallery, keep_norms=True)
    for row, of_trial in zip(embeddings, kept, strict=True):
        for candidate, value in zip(gallery, of_trial, strict=True):
            assert value == pytest.approx(sum(row * candidate) / sum(row**2) ** 0.5)
    with pytest.raises(InputError, match="gallery"):
        retrieval.similarity(embeddings, gallery * np.nan, keep_norms=True)


# ---------------------------------------------------------------- two decoders, several subjects


def test_paired_difference_is_the_t_interval():
    one, other = [0.30, 0.10, 0.25, 0.20], [0.20, 0.10, 0.05, 0.25]
    found = retrieval.paired_difference(one, other, p=0.5)
    differences = [a - b for a, b in zip(one, other, strict=True)]
    mean = sum(differences) / 4
    sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / 3)
    half = 3.182446 * sd / math.sqrt(4)  # t of 3 degrees of freedom, two-sided 5 %
    assert found.value == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=1e-6)
    assert (found.better, found.subjects, found.p) == (2, 4, 0.5)
    reverse = retrieval.paired_difference(other, one)
    assert (reverse.value, reverse.low) == pytest.approx((-found.value, -found.high))
    assert (reverse.better, reverse.p) == (1, None)
    test = stats.ttest_rel(one, other).confidence_interval()
    assert (found.low, found.high) == pytest.approx((test.low, test.high))


def test_one_subject_has_no_interval():
    found = retrieval.paired_difference([0.3], [0.2], p=0.04)
    assert (found.low, found.high, found.better, found.subjects) == (None, None, 1, 1)
    assert found.to_json() == {
        "value": pytest.approx(0.1), "low": None, "high": None, "better": 1, "subjects": 1,
        "p": 0.04,
    }  # fmt: skip


def test_what_cannot_be_paired():
    refuses(lambda: retrieval.paired_difference([], []), "can't be paired")
    refuses(lambda: retrieval.paired_difference([0.1], [0.1, 0.2]), "can't be paired")
