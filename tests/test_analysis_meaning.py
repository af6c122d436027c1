"""Meaning, on decoded embeddings made so that the answer is known; and number by number."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from nice_demo.analysis.meaning import (
    COLUMNS,
    FIGURES,
    analyse,
    confusions,
    correlations,
    first_choices,
    over_subjects,
)
from nice_demo.analysis.series import Recording
from nice_demo.gallery import Candidate, Gallery

SIZES = {"animals": 12, "food": 10, "tools": 9, "music": 9}
NAMES = [name for name, size in SIZES.items() for _ in range(size)]
N, DIM = len(NAMES), 24
VALUE, LOW, HIGH, CHANCE, P, THRESHOLD = range(6)


def pictures(rng: np.random.Generator, names=NAMES) -> tuple[np.ndarray, np.ndarray]:
    """Return what the pictures of a category share, and what is a picture's own."""
    centres = {name: rng.standard_normal(DIM) for name in names}
    return np.stack([centres[name] for name in names]), rng.standard_normal((len(names), DIM))


class Reads(torch.nn.Module):
    """EEG that is the embedding."""

    def forward(self, eeg: torch.Tensor) -> torch.Tensor:
        return eeg[:, :, 0]


def recording(image: np.ndarray, decoded: np.ndarray, names=NAMES, subject="1") -> Recording:
    image = (image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32)
    candidates = [Candidate(f"{i}", f"{i}", f"{i}", name) for i, name in enumerate(names)]
    gallery = Gallery(candidates, image)
    eeg = decoded[:, :, None].astype(np.float32)
    return Recording(SimpleNamespace(gallery=gallery), subject, eeg, {"reads": Reads()})


def figures(found, what: str) -> np.ndarray:
    return found.arrays["figures reads"][found.about["figures"].index(what)]


WHOLE, WITHIN, WRONG = FIGURES
QUICK = 300, 100  # permutations, draws


def test_the_pictures_own_embeddings_correlate_perfectly_and_nothing_is_confused():
    centre, own = pictures(np.random.default_rng(1))
    found = analyse(recording(centre + own, centre + own), *QUICK)
    for what in (WHOLE, WITHIN):
        value, low, high, chance, p, threshold = figures(found, what)
        assert value > 0.999 and low > 0.999 and high <= 1 + 1e-12 and chance == 0
        assert p == 1 / 301 and abs(threshold) < 0.3
    assert np.isnan(figures(found, WRONG)).all()
    assert (found.arrays["confusions reads"] == np.diag(list(SIZES.values()))).all()
    assert found.arrays["right reads"].tolist() == list(SIZES.values())
    unit = (centre + own) / np.linalg.norm(centre + own, axis=1, keepdims=True)
    decoded = found.arrays["decoded reads"]
    assert decoded.dtype == np.float16
    np.testing.assert_allclose(decoded, unit @ unit.T, atol=1e-3)
    assert found.about["categories"] == list(SIZES) and found.series == []
    assert found.about["columns"] == list(COLUMNS)


def test_noise_says_nothing():
    rng = np.random.default_rng(2)
    centre, own = pictures(rng)
    found = analyse(recording(centre + own, rng.standard_normal((N, DIM))), *QUICK)
    for what in FIGURES:
        value, low, high, chance, p, threshold = figures(found, what)
        assert value <= threshold and p > 0.05 and low <= chance <= high
    by_category = found.arrays["figures by category reads"]
    assert (by_category[..., VALUE] <= by_category[..., THRESHOLD]).all()


def test_categories_alone():
    """Decoded is the category; which picture of it is noise that doesn't follow the pictures."""
    rng = np.random.default_rng(3)
    centre, own = pictures(rng)
    found = analyse(recording(centre + own, centre + 0.4 * rng.standard_normal((N, DIM))), *QUICK)
    assert figures(found, WHOLE)[LOW] > figures(found, WHOLE)[THRESHOLD]
    assert figures(found, WITHIN)[VALUE] <= figures(found, WITHIN)[THRESHOLD]
    assert figures(found, WITHIN)[P] > 0.05
    assert figures(found, WRONG)[VALUE] > 0.9 and figures(found, WRONG)[P] == 1 / 301
    assert figures(found, WRONG)[THRESHOLD] < 0.5


def test_pictures_without_their_categories():
    """Decoded is what sets a picture apart from its category, and nothing of the category."""
    rng = np.random.default_rng(4)
    centre, own = pictures(rng)
    found = analyse(recording(centre + own, own + 0.7 * rng.standard_normal((N, DIM))), *QUICK)
    assert figures(found, WITHIN)[LOW] > figures(found, WITHIN)[THRESHOLD]
    assert figures(found, WRONG)[VALUE] <= figures(found, WRONG)[THRESHOLD]


@pytest.mark.parametrize("only", SIZES)
def test_one_category_alone(only):
    rng = np.random.default_rng([16, list(SIZES).index(only)])
    centre, own = pictures(rng)
    noise = 2 * rng.standard_normal((N, DIM))
    inside = np.array(NAMES) == only
    # Between the pictures of one category the centre sets nothing apart.
    decoded = np.where(inside[:, None], centre + own + 0.25 * noise, noise)
    found = analyse(recording(centre + own, decoded), *QUICK)
    within = found.arrays["figures by category reads"][:, 0]
    clear = within[:, VALUE] > within[:, THRESHOLD]
    assert clear.tolist() == [name == only for name in SIZES]
    right = found.arrays["right reads"] / list(SIZES.values())
    assert right.argmax() == list(SIZES).index(only) and right.max() > 0.6


def test_an_encoder_that_likes_one_category_gains_nothing():
    """It always chooses animals: many wrong choices within the category, as in all shuffles."""
    rng = np.random.default_rng(6)
    centre, own = pictures(rng)
    found = analyse(
        recording(centre + own, centre[:1] + 0.3 * rng.standard_normal((N, DIM))), *QUICK
    )
    assert found.arrays["confusions reads"][:, 0].sum() > 0.9 * N
    assert figures(found, WRONG)[P] > 0.05
    assert figures(found, WRONG)[VALUE] <= figures(found, WRONG)[THRESHOLD]


def test_silent_eeg_is_all_alike():
    centre, own = pictures(np.random.default_rng(7))
    found = analyse(recording(centre + own, np.zeros((N, DIM))), permutations=20, draws=20)
    for what in (WHOLE, WITHIN):
        assert figures(found, what)[[VALUE, LOW, HIGH, P]].tolist() == [0, 0, 0, 1]
    assert found.arrays["right reads"].sum() == 0  # ties count against us


# ---------------------------------------------------------------- number by number


def pairs(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


def symmetric(rng: np.random.Generator, n: int, decimals: int) -> np.ndarray:
    values = rng.standard_normal((n, n)).round(decimals)  # few decimals tie
    return np.triu(values, 1) + np.triu(values, 1).T


@pytest.mark.parametrize("decimals", [0, 8])
def test_correlations_number_by_number(decimals):
    rng = np.random.default_rng(8)
    one, other = symmetric(rng, 13, decimals), symmetric(rng, 13, decimals)
    groups = [np.array([0, 2, 4, 6, 8]), np.array([1, 3]), np.array([5, 7, 9, 10, 11, 12])]
    found = correlations(one, other, groups, 6, 7, np.random.default_rng(9))
    value, null, drawn, n_pairs, pairs_drawn = found
    same = np.random.default_rng(9)
    for g, group in enumerate(groups):
        if len(group) < 3:
            assert not any(array[g].any() for array in found)
            continue
        n = len(group)

        def spearman(first, second, which=None, group=group):
            which = pairs(len(group)) if which is None else which
            x = [one[group[first[i]], group[first[j]]] for i, j in which]
            y = [other[group[second[i]], group[second[j]]] for i, j in which]
            return spearmanr(x, y).statistic if len(set(x)) > 1 and len(set(y)) > 1 else 0

        straight = range(n)
        assert value[g] == pytest.approx(spearman(straight, straight))
        assert n_pairs[g] == n * (n - 1) / 2
        for p in range(6):
            assert null[g, p] == pytest.approx(spearman(same.permutation(n), straight))
        for d, times in enumerate(same.multinomial(n, np.full(n, 1 / n), 7)):
            chosen = [i for i in range(n) for _ in range(times[i])]
            which = [(chosen[i], chosen[j]) for i, j in pairs(n) if chosen[i] != chosen[j]]
            expected = spearman(straight, straight, which) if which else 0
            assert pairs_drawn[g, d] == len(which)
            assert drawn[g, d] == pytest.approx(expected)


def test_figures_number_by_number():
    rng = np.random.default_rng(10)
    centre, own = pictures(rng)
    asked = recording(centre + own, centre + own + 2 * rng.standard_normal((N, DIM)))
    found = analyse(asked, 50, 40)
    unit = [row / np.linalg.norm(row) for row in asked.eeg[:, :, 0].astype(float)]
    image = asked.bundle.gallery.embeddings.astype(float)
    image = [row / np.linalg.norm(row) for row in image]
    x = {(i, j): unit[i] @ unit[j] for i, j in pairs(N)}
    y = {(i, j): image[i] @ image[j] for i, j in pairs(N)}
    assert figures(found, WHOLE)[VALUE] == pytest.approx(
        spearmanr(list(x.values()), list(y.values())).statistic
    )
    total = weight = 0
    for category in SIZES:
        inside = [(i, j) for i, j in pairs(N) if NAMES[i] == NAMES[j] == category]
        total += len(inside) * spearmanr([x[p] for p in inside], [y[p] for p in inside]).statistic
        weight += len(inside)
    assert figures(found, WITHIN)[VALUE] == pytest.approx(total / weight)

    table, right, wrong, within, chances = np.zeros((4, 4)), np.zeros(4), 0, 0, []
    for i in range(N):
        choice = int(np.argmax([unit[i] @ candidate for candidate in image]))
        seen, chosen = (list(SIZES).index(NAMES[k]) for k in (i, choice))
        table[seen, chosen] += 1
        if choice == i:
            right[seen] += 1
        else:
            wrong += 1
            within += seen == chosen
            chances.append((SIZES[NAMES[i]] - 1) / (N - 1))
    assert (found.arrays["confusions reads"] == table).all()
    assert (found.arrays["right reads"] == right).all()
    assert figures(found, WRONG)[[VALUE, CHANCE]] == pytest.approx(
        [within / wrong, np.mean(chances)]
    )
    # From 50 shuffles, the third largest of the null: 95 % lie not above it.
    for row, null in zip(found.arrays["figures reads"], found.arrays["null reads"], strict=True):
        assert row[THRESHOLD] == pytest.approx(sorted(null)[-3], rel=1e-6)
        assert row[P] == pytest.approx((1 + sum(null >= np.float32(row[VALUE]))) / 51)


def test_confusions_number_by_number():
    category = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 0])
    choice = np.array([0, 4, 5, 6, 1, 3, 0, 9, 8, 2])  # right: pictures 0 and 8
    found, null = confusions(choice, category, 200, np.random.default_rng(12))
    seen = [i for i in range(10) if choice[i] != i]
    assert found[3, VALUE] == 5 / 8  # 1, 2, 3, 4 and 6
    assert found[:3, VALUE].tolist() == [2 / 3, 2 / 3, 1 / 2]
    assert found[3, CHANCE] == pytest.approx(np.mean([[4, 2, 1][category[i]] / 9 for i in seen]))
    assert found[:3, CHANCE].tolist() == [4 / 9, 2 / 9, 1 / 9]
    shuffled = np.random.default_rng(12).permuted(np.tile(seen, (200, 1)), axis=1)
    for p, order in enumerate(shuffled):
        wrong = [(s, choice[i]) for s, i in zip(order, seen, strict=True) if s != choice[i]]
        within = [category[s] == category[c] for s, c in wrong]
        assert null[3, p] == pytest.approx(np.mean(within))
        for c in range(3):
            of_c = [w for w, (s, _) in zip(within, wrong, strict=True) if category[s] == c]
            assert null[c, p] == pytest.approx(np.mean(of_c) if of_c else 0)


def test_a_first_choice_that_ties_is_wrong():
    similarities = np.array([[0.5, 0.5, 0.1], [0.2, 0.9, 0.3], [0.4, 0.4, 0.4]])
    assert first_choices(similarities).tolist() == [1, 1, 0]


def test_the_mean_over_subjects():
    rng = np.random.default_rng(13)
    centre, own = pictures(rng)
    found = [
        analyse(
            recording(centre + own, centre + own + 6 * rng.standard_normal((N, DIM)), subject=name),
            100,
            50,
        )
        for name in "123"
    ]
    values, nulls = (
        np.stack([one.arrays[f"{what} reads"] for one in found]) for what in ("figures", "null")
    )
    assert (nulls[0] != nulls[1]).any(1).all()  # subjects are shuffled differently
    mean = over_subjects(values, nulls)
    first = values[:, 0, VALUE]
    half = 4.302652729911275 * first.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    assert mean[0, :4] == pytest.approx([first.mean(), first.mean() - half, first.mean() + half, 0])
    assert mean[0, THRESHOLD] == pytest.approx(sorted(nulls[:, 0].mean(0))[-5], rel=1e-6)
    assert mean[0, THRESHOLD] < values[:, 0, THRESHOLD].min()
    alone = over_subjects(values[:1], nulls[:1])
    assert np.isnan(alone[:, [LOW, HIGH]]).all()
    np.testing.assert_allclose(alone[:, THRESHOLD], values[0, :, THRESHOLD], rtol=1e-6)


def test_a_share_that_equals_that_of_a_shuffle_is_a_tie_however_it_is_kept():
    figures = np.array([[[0.7, 0.5, 0.9, 0.1, 0.5, 0.7]]])
    null = np.array([[[0.7, 0.1, 0.1]]], np.float32)  # 0.69999999
    assert over_subjects(figures, null)[0, P] == (1 + 1) / (1 + 3)


# ---------------------------------------------------------------- galleries


@pytest.mark.parametrize(
    "names",
    [[""] * 10, ["things"] * 10, ["things"] * 9 + [""], list("aabbccddee")],
    ids=["none", "one", "not all", "small"],
)
def test_a_gallery_without_categories(names):
    rng = np.random.default_rng(14)
    image = rng.standard_normal((10, DIM))
    found = analyse(recording(image, image, names), 20, 20)
    assert set(found.arrays) == {"decoded reads", "figures reads", "null reads"}
    assert found.about["figures"] == [WHOLE] and figures(found, WHOLE)[VALUE] > 0.999
    assert found.about["order"] == list(range(10)) and not found.about["categories"]
    assert "doesn't name a category" in " ".join(found.about["left_out"])


def test_categories_are_ordered_by_their_first_picture():
    names = ["food", "animals", "food", "animals", "tools", "food"]
    image = np.random.default_rng(15).standard_normal((6, DIM))
    about = analyse(recording(image, image, names), 20, 20).about
    assert about["categories"] == ["food", "animals", "tools"]
    assert about["category"] == [0, 1, 0, 1, 2, 0]
    assert about["order"] == [0, 2, 5, 1, 3, 4]
