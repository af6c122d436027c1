"""Series of ranks: against loops, against the intervals of scipy, and on disk."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy import stats
from sentences import refuses
from torch import nn

from nice_demo.analysis.series import (
    AS_TRAINED,
    LEVEL,
    RETRAINED,
    TOPS,
    Analysis,
    Axis,
    Found,
    Recording,
    Series,
    join,
    measure,
    stored,
)
from nice_demo.bundle import Bundle
from nice_demo.encoders import embed

BANDS = Axis("band", "", ["alpha", "beta", "gamma"])


def noise(seed, points=3, trials=12, ways=12):
    return np.random.default_rng(seed).standard_normal((points, trials, ways)).round(1)  # ties


def made(similarities, seed=0, axes=(BANDS,), target=None, **options):
    target = np.arange(similarities.shape[1]) if target is None else target
    return measure("bands", "ridge", RETRAINED, axes, similarities, target, seed, **options)


# ---------------------------------------------------------------- one subject


def test_measure_against_loops():
    similarities, target = noise(1, ways=15), np.random.default_rng(2).permutation(15)[:12]
    found = made(similarities, seed=7, target=target, permutations=20)
    shuffles = np.random.default_rng([7, 200])
    shuffled = shuffles.permuted(np.tile(target, (20, 1)), axis=1)

    def rank(row, seen):
        return sum(value >= row[seen] for value in row)  # ties count against us

    for point in range(3):
        for trial in range(12):
            row = similarities[point, trial]
            assert found.ranks[point, trial] == rank(row, target[trial])
        for top, null in zip(TOPS, found.null, strict=True):
            for permutation, seen in enumerate(shuffled):
                hits = sum(
                    rank(row, one) <= top
                    for row, one in zip(similarities[point], seen, strict=True)
                )
                assert null[permutation, point] == hits
    assert (found.name, found.encoder, found.how) == ("bands", "ridge", RETRAINED)
    assert found.axes == (BANDS,) and found.ways == 15
    assert found.ranks.dtype == found.null.dtype == np.uint16


def test_shuffles_are_the_seeds_and_the_same_at_all_points():
    same = np.tile(noise(1, points=1), (3, 1, 1))
    found = made(same, seed=1)
    assert (found.null == found.null[:, :, :1]).all()
    assert (made(same, seed=1).null == found.null).all()
    assert (made(same, seed=2).null != found.null).any()


def test_of_two_axes_the_last_changes_fastest():
    similarities = noise(3, points=6)
    axes = Axis("trained at", "s", [0.1, 0.2]), Axis("tested at", "s", [0.1, 0.2, 0.3])
    flat = made(similarities, axes=(Axis("window", "", list("abcdef")),))
    square = made(similarities, axes=axes)
    assert square.ranks.shape == (2, 3, 12)
    assert (square.ranks[1, 0] == flat.ranks[3]).all()
    assert (square.null == flat.null).all()
    joined = join({"1": [square]})[0]
    accuracy = joined.accuracy(5)
    assert accuracy.value.shape == accuracy.low.shape == accuracy.high.shape == (2, 3)
    assert accuracy.value[1, 0] == (flat.ranks[3] <= 5).mean()
    low, high = joined.bootstrap(5, draws=50)
    assert low.shape == high.shape == (2, 3)


# ---------------------------------------------------------------- all subjects


def three_subjects():
    return {str(s): [made(noise(s), seed=s), made(noise(10 + s), seed=s)] for s in range(3)}


def test_thresholds_against_loops():
    by_subject = three_subjects()
    joined = join(by_subject)
    for i, series in enumerate(joined):
        assert series.subjects == ["0", "1", "2"] and series.ranks.shape == (3, 3, 12)
        for t, top in enumerate(TOPS):
            for subject in (*by_subject, None):
                which = [subject] if subject else list(by_subject)
                largest = []
                for permutation in range(1000):
                    hits = [by_subject[s][i].null[t, permutation].tolist() for s in which]
                    largest.append(max(sum(point) for point in zip(*hits, strict=True)))
                largest = [hits / 12 / len(which) for hits in largest]
                accuracy = series.accuracy(top, subject)
                beyond = sum(one > accuracy.threshold + 1e-9 for one in largest)
                assert beyond <= LEVEL * 1000
                # … and no lower threshold would do.
                assert sum(one > accuracy.threshold - 1e-9 for one in largest) > LEVEL * 1000
                assert accuracy.chance == top / 12


def test_intervals_are_those_of_scipy():
    series = join(three_subjects())[0]
    for subject in range(3):
        found = series.accuracy(5, str(subject))
        for point in range(3):
            hits = int((series.ranks[subject, point] <= 5).sum())
            expected = stats.binomtest(hits, 12).proportion_ci(method="wilson")
            assert found.value[point] == hits / 12
            assert (found.low[point], found.high[point]) == pytest.approx(expected, abs=1e-9)
    found = series.accuracy(5)
    for point in range(3):
        shares = (series.ranks[:, point] <= 5).mean(1)
        expected = stats.t.interval(0.95, 2, shares.mean(), stats.sem(shares))
        assert found.value[point] == pytest.approx(shares.mean())
        assert (found.low[point], found.high[point]) == pytest.approx(expected)


def test_one_subject_has_no_interval_of_the_mean():
    series = join({"1": [made(noise(1))]})[0]
    found = series.accuracy(1)
    assert np.isnan(found.low).all() and np.isnan(found.high).all()
    assert (found.value == series.accuracy(1, "1").value).all()
    assert found.threshold == series.accuracy(1, "1").threshold


def test_threshold_is_passed_by_chance_as_often_as_it_says():
    """Of subjects without any signal, one in twenty has a point above: not one in twenty points."""
    rng, runs, trials, points = np.random.default_rng(5), 200, 24, 5
    passed = {"subject": 0, "mean": 0, "a point at its own threshold": 0}
    axis = Axis("band", "", list(range(points)))
    for run in range(runs):
        by_subject = {}
        for s in range(2):
            common = rng.standard_normal((trials, trials))  # points are alike, as windows are
            similarities = common + 0.7 * rng.standard_normal((points, trials, trials))
            one = made(similarities, seed=2 * run + s, axes=(axis,), permutations=99)
            by_subject[str(s)] = [one]
        series = join(by_subject)[0]
        one = series.accuracy(5, "0")
        passed["subject"] += (one.value > one.threshold).any()
        mean = series.accuracy(5)
        passed["mean"] += (mean.value > mean.threshold).any()
        each = np.quantile(by_subject["0"][0].null[1], 1 - LEVEL, axis=0, method="higher")
        passed["a point at its own threshold"] += (one.value * trials > each).any()
    shares = {name: count / runs for name, count in passed.items()}
    # Standard error 1.5 %. Hits are whole numbers, so that a subject's share lies below 5 %.
    assert 0.005 < shares["subject"] < 0.085
    assert 0.015 < shares["mean"] < 0.085
    assert shares["a point at its own threshold"] > 1.5 * shares["subject"]


def test_a_signal_passes_the_threshold_where_it_is():
    similarities = noise(4, trials=30, ways=30)
    similarities[1] += 1.5 * np.eye(30)
    for subject in ("1", None):
        found = join({"1": [made(similarities)]})[0].accuracy(5, subject)
        assert (found.value > found.threshold).tolist() == [False, True, False]


def test_subjects_analysed_differently_are_refused():
    other = made(noise(1), axes=(Axis("band", "", ["alpha", "beta", "delta"]),))
    refuses(lambda: join({"1": [made(noise(1))], "2": [other]}), "differ in their series 'bands'")


# ---------------------------------------------------------------- the bootstrap


def literal_bootstrap(hits, draws, seed):
    """Draw subjects and, for each one drawn, trials; both with replacement. One point."""
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        shares = []
        for _ in range(len(hits)):
            own = hits[rng.integers(len(hits))]
            shares.append(own[rng.integers(len(own), size=len(own))].mean())
        means.append(np.mean(shares))
    return np.percentile(means, [2.5, 97.5])


def series_of(hits):
    """Make a series of one point with the given hits (n_subjects, n_trials)."""
    ranks = np.where(hits, 1, 9).astype(np.uint16)[:, None]
    subjects = [str(s) for s in range(len(hits))]
    axes = (Axis("band", "", ["alpha"]),)
    thresholds = np.zeros((len(TOPS), len(hits) + 1))
    return Series("bands", "ridge", RETRAINED, axes, 10, subjects, ranks, thresholds)


@pytest.mark.parametrize("alike", [True, False])
def test_bootstrap_against_a_literal_one(alike):
    shares = [0.3] * 5 if alike else [0.1, 0.2, 0.3, 0.5, 0.6]
    hits = np.array([np.arange(40) < share * 40 for share in shares])
    series = series_of(hits)
    expected = literal_bootstrap(hits, 1500, 1)
    found = np.ravel(series.bootstrap(1, draws=4000, seed=2))
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert found[1] - found[0] == pytest.approx(expected[1] - expected[0], rel=0.1)
    expected = literal_bootstrap(hits[[3]], 1500, 3)
    found = np.ravel(series.bootstrap(1, "3", draws=4000, seed=4))
    np.testing.assert_allclose(found, expected, atol=0.026)  # a hit more or less of 40


def test_bootstrap_is_the_seeds():
    series = join(three_subjects())[0]
    one, same, other = (np.array(series.bootstrap(5, draws=99, seed=s)) for s in (1, 1, 2))
    assert (one == same).all() and (one != other).any()
    assert (one[0] <= series.accuracy(5).value).all() and (one[1] >= series.accuracy(5).value).all()


# ---------------------------------------------------------------- on disk


def analysis():
    arrays = {"map of one": np.arange(6.0).reshape(2, 3), "none": np.zeros((0, 2), np.float32)}
    about = {"note": "a window of 40 ms − no more", "points": [1, 2]}
    return Analysis("frequency", join(three_subjects()), arrays, about)


def equal(one, other):
    assert (one.name, one.about, list(one.arrays)) == (other.name, other.about, list(other.arrays))
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])
        assert array.dtype == other.arrays[name].dtype
    for left, right in zip(one.series, other.series, strict=True):
        for name, value in vars(left).items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(getattr(right, name)))
        assert left.axes == right.axes and left.ranks.dtype == right.ranks.dtype == np.uint16


def test_what_was_saved_is_opened(tmp_path):
    whole = analysis()
    whole.save(tmp_path / "one.safetensors")
    whole.save(tmp_path / "two.safetensors")
    equal(whole, Analysis.open(tmp_path / "one.safetensors"))
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()
    many = replace(whole.series[0], ways=300)
    many.ranks[0, 0, 0] = 300  # doesn't fit a byte
    Analysis("frequency", [many]).save(tmp_path / "many.safetensors")
    assert Analysis.open(tmp_path / "many.safetensors").series[0].ranks[0, 0, 0] == 300


def test_series_are_found_by_name():
    whole = analysis()
    assert whole.of("bands") == whole.of("bands", "ridge", RETRAINED) == whole.series
    assert whole.of("bands", "nice") == whole.of("bands", how=AS_TRAINED) == whole.of("x") == []


def test_what_one_subject_gave_is_kept_while_it_is_made_of_the_same(tmp_path):
    path = tmp_path / "deep" / "sub-1.safetensors"
    path.parent.mkdir()
    whole = Found(three_subjects()["1"], {"a": np.arange(3)}, {"note": "µ"})
    whole.save(path, "abc")
    again = Found.open(path, "abc")
    assert again.about == whole.about and (again.arrays["a"] == np.arange(3)).all()
    for one, other in zip(again.series, whole.series, strict=True):
        assert (one.name, one.axes, one.ways) == (other.name, other.axes, other.ways)
        assert (one.ranks == other.ranks).all() and (one.null == other.null).all()
    assert Found.open(path, "abd") is None
    assert Found.open(tmp_path / "nowhere.safetensors", "abc") is None
    path.write_bytes(path.read_bytes()[:-5])
    assert Found.open(path, "abc") is None


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "one.safetensors"
    refuses(lambda: Analysis.open(path), f"{path} is missing; run python -m nice_demo.analyse")
    analysis().save(path)
    whole = path.read_bytes()
    tensors = {"array a": np.zeros(3)}
    for damage in (
        lambda: path.write_bytes(whole[:-7]),
        lambda: path.write_bytes(whole[:20]),
        lambda: path.write_bytes(b""),
        lambda: path.write_text("no tensors"),
        lambda: save_file(tensors, path),
        lambda: save_file(tensors, path, {"analysis": "{"}),
        lambda: save_file(tensors, path, {"analysis": '{"name": "time"}'}),
        lambda: save_file(tensors, path, {"analysis": '{"series": [{}], "about": {}}'}),
        lambda: save_file(tensors, path, {"analysis": "[]"}),
    ):
        damage()
        refuses(lambda: Analysis.open(path), "can't be read as an analysis", "analyse anew")


def test_a_bundle_without_analyses(stored_bundle):
    assert stored(Bundle(stored_bundle), "time") is None


# ---------------------------------------------------------------- a recording


def test_a_recording_of_a_bundle(stored_bundle, stored_data):
    bundle = Bundle(stored_bundle)
    recording = Recording.open(bundle, "1")
    assert recording.eeg.shape == (6, 4, 80) and recording.data is None
    np.testing.assert_array_equal(
        recording.eeg[3], bundle.trials("1").evoked(3, bundle.repetitions[-1]).eeg
    )
    assert list(recording.encoders) == bundle.encoders("1")
    assert recording.channels == bundle.montage.names
    np.testing.assert_allclose(recording.times, np.arange(80) / 100)
    assert recording.seed == Recording.open(bundle, "1").seed != Recording.open(bundle, "2").seed
    assert recording.target.tolist() == list(range(6))
    found = recording.decode("ridge", recording.eeg)
    units = embed(bundle.encoder("1", "ridge"), torch.from_numpy(recording.eeg)).numpy()
    np.testing.assert_allclose(found, units @ bundle.gallery.embeddings.T, atol=1e-6)
    np.testing.assert_array_equal(
        found, recording.decode(recording.encoders["ridge"], recording.eeg)
    )


def test_silence_is_as_similar_to_all():
    gallery = SimpleNamespace(embeddings=np.eye(3, 2, dtype=np.float32) + 0.1, keeps_norms=False)
    recording = Recording(SimpleNamespace(gallery=gallery), "1", np.zeros((3, 2, 1)), {})
    compass = nn.Flatten()
    found = recording.decode(compass, np.array([[[0.0], [0]], [[1], [0]]], np.float32))
    assert found[0].tolist() == [0, 0, 0] and found[1].argmax() == 0
    measured = made(np.stack([found] * 3), target=np.array([1, 0]))
    assert measured.ranks[0].tolist() == [3, 1]  # all tie: the last place
