"""What decoded embeddings mean: whether they lie to each other as the pictures do.

In flow the embeddings that encoders make of the test trials; out flow their similarities to each
other, how far these go along with those of the pictures' own embeddings (representational
similarity analysis; Kriegeskorte et al., Front. Syst. Neurosci. 2008), and what is taken for what
when the first choice is wrong.

All figures have a 95 % interval, chance, a permutation p and a threshold:

* *correlation with the image model*: Spearman's, over all pairs of pictures. Chance is 0. The
  pictures are shuffled for the threshold, and drawn anew for the interval, in which a picture
  makes no pair with itself.
* *correlation within categories*: the same in each category alone, averaged over the categories
  with their numbers of pairs. Above chance, more than the categories was decoded. Pictures are
  shuffled, and drawn, within their category.
* *wrong choices within the category*: of the trials whose first choice is wrong, the share in
  which it has the category of the picture seen. By chance, a wrong choice falls on any other
  candidate alike; the threshold comes from shuffling which pictures were seen among these trials,
  the choices left as they are, so that an encoder that likes one category gains nothing by it.
"""

from collections.abc import Sequence

import numpy as np
import torch

from nice_demo.analysis.series import LEVEL, PERMUTATIONS, Found, Recording
from nice_demo.encoders import embed
from nice_demo.retrieval import ranks, t_interval, wilson

DRAWS = 1000  # of the bootstrap
FIGURES = (
    "correlation with the image model",
    "correlation within categories",
    "wrong choices within the category",
)
COLUMNS = ("value", "low", "high", "chance", "p", "threshold")
# Two pictures make one pair, whose rank among itself says nothing.
FEWEST = 3  # pictures of a category that has a correlation


def analyse(recording: Recording, permutations: int = PERMUTATIONS, draws: int = DRAWS) -> Found:
    """Compare decoded embeddings with the pictures', and count confusions.

    Parameters
    ----------
    recording : Recording
    permutations, draws : int
        For thresholds and p; for intervals.

    Returns
    -------
    Found
        No series, and of each encoder the arrays

        * ``decoded …`` (n_candidates, n_candidates), float16: cosines between decoded embeddings,
          ordered as the gallery; ``about["order"]`` puts categories together.
        * ``figures …`` (n_figures, 6): rows ``about["figures"]``, columns ``about["columns"]``.
        * ``null …`` (n_figures, n_permutations), float32: the figures of the shuffles, from which
          `over_subjects` has the threshold of a mean.
        * ``confusions …`` (n_categories, n_categories), uint16: first choices, by the category
          seen (row) and chosen (column), right ones too.
        * ``right …`` (n_categories,), uint16: right first choices.
        * ``figures by category …`` (n_categories, 2, 6): the last two figures of each category;
          thresholds hold for all categories together (Bonferroni), p each for itself.

        Without categories only the first three, of one figure.
    """
    gallery = recording.bundle.gallery
    image = _cosines(gallery.embeddings)
    names = [candidate.category for candidate in gallery.candidates]
    categories = list(dict.fromkeys(names))
    of_candidate = np.array([categories.index(name) for name in names])
    has_categories = (
        "" not in categories and len(categories) > 1 and np.bincount(of_candidate).max() >= FEWEST
    )
    arrays = {}
    for name, encoder in recording.encoders.items():
        # The same shuffles and draws for all encoders.
        rng = np.random.default_rng([recording.seed, 300])
        embeddings = embed(encoder, torch.as_tensor(recording.eeg)).numpy()
        decoded = _cosines(embeddings)
        everything = [np.arange(len(gallery))]
        found = [_together(correlations(decoded, image, everything, permutations, draws, rng))]
        if has_categories:
            members = [np.flatnonzero(of_candidate == c) for c in range(len(categories))]
            within = correlations(decoded, image, members, permutations, draws, rng)
            choice = first_choices(recording.compare(embeddings))
            confused = confusions(choice, of_candidate, permutations, rng)
            found += [_together(within), (confused[0][-1], confused[1][-1])]
            of_each = [_each(within), confused[0][:-1]]
            arrays[f"figures by category {name}"] = np.stack(of_each, axis=1)
            table = np.zeros((len(categories), len(categories)), np.uint16)
            np.add.at(table, (of_candidate, of_candidate[choice]), 1)
            arrays[f"confusions {name}"] = table
            right = of_candidate[choice == recording.target]
            counts = np.bincount(right, minlength=len(categories))
            arrays[f"right {name}"] = counts.astype(np.uint16)
        arrays[f"decoded {name}"] = decoded.astype(np.float16)
        arrays[f"figures {name}"] = np.stack([figure for figure, _ in found])
        arrays[f"null {name}"] = np.stack([null for _, null in found]).astype(np.float32)
    about = {
        "figures": list(FIGURES),
        "columns": list(COLUMNS),
        "permutations": permutations,
        "draws": draws,
        "order": np.argsort(of_candidate, kind="stable").tolist(),
        "categories": categories,
        "category": of_candidate.tolist(),
        "note": "Similarities are cosines, correlations are Spearman's over pairs of pictures; "
        "wrong choices by chance fall on any other candidate alike.",
    }
    if not has_categories:
        about |= {
            "figures": list(FIGURES[:1]),
            "order": list(range(len(gallery))),
            "categories": [],
            "category": [],
            "left_out": [
                "The gallery doesn't name a category for each candidate, two or more with at least "
                "three pictures in one, so that confusions by category aren't counted."
            ],
        }
    return Found(arrays=arrays, about=about)


def _cosines(embeddings: np.ndarray) -> np.ndarray:
    """Return cosines between all rows; those of zeros, of silent EEG, are 0."""
    rows = np.asarray(embeddings, float)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return np.clip(np.round(rows @ rows.T, 12), -1, 1)


# ---------------------------------------------------------------- correlations


def correlations(
    decoded: np.ndarray,
    image: np.ndarray,
    groups: Sequence[np.ndarray],
    permutations: int,
    draws: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Correlate two similarity matrices over the pairs within each group of pictures.

    Parameters
    ----------
    decoded, image : array of shape (n_candidates, n_candidates)
        Symmetric.
    groups : sequence of int arrays
        Pictures of each group; one with fewer than `FEWEST` gets 0.
    permutations, draws : int
    rng : Generator

    Returns
    -------
    value : array of shape (n_groups,)
        Spearman's correlations; 0 where all pairs are alike.
    null : array of shape (n_groups, n_permutations)
        With the group's pictures shuffled in one of the matrices.
    drawn : array of shape (n_groups, n_draws)
        With the group's pictures drawn anew (bootstrap).
    pairs : array of shape (n_groups,)
        Number of pairs; 0 where a group is too small.
    pairs_drawn : array of shape (n_groups, n_draws)
    """
    value, pairs = np.zeros(len(groups)), np.zeros(len(groups))
    null = np.zeros((len(groups), permutations))
    drawn, pairs_drawn = np.zeros((2, len(groups), draws))
    for g, group in enumerate(groups):
        n = len(group)
        if n < FEWEST:
            continue
        one, other = (matrix[np.ix_(group, group)] for matrix in (decoded, image))
        upper = np.triu_indices(n, 1)
        pairs[g] = len(upper[0])
        one_ranks, other_ranks = _ranks_of_pairs(one), _ranks_of_pairs(other)
        value[g] = (one_ranks * other_ranks)[upper].sum()
        for p in range(permutations):
            order = rng.permutation(n)
            null[g, p] = (one_ranks[np.ix_(order, order)] * other_ranks).sum() / 2
        levels = [np.unique(m[upper], return_inverse=True)[1] for m in (one, other)]
        times = rng.multinomial(n, np.full(n, 1 / n), draws)  # each picture is drawn
        for d in range(draws):
            # So often there is a pair. Pairs of a picture with itself aren't among the upper.
            weight = (times[d][upper[0]] * times[d][upper[1]]).astype(float)
            pairs_drawn[g, d] = weight.sum()
            drawn[g, d] = _weighted_correlation(*levels, weight)
    return value, null, drawn, pairs, pairs_drawn


def _ranks_of_pairs(similarities: np.ndarray) -> np.ndarray:
    """Rank the upper triangle; centred and scaled so that products of two sum to Spearman's."""
    from scipy import stats

    upper = np.triu_indices(len(similarities), 1)
    of_pairs = stats.rankdata(similarities[upper])
    of_pairs -= of_pairs.mean()
    length = np.linalg.norm(of_pairs)
    ranked = np.zeros_like(similarities)
    ranked[upper] = of_pairs / length if length > 0 else 0
    return ranked + ranked.T


def _weighted_correlation(one: np.ndarray, other: np.ndarray, weight: np.ndarray) -> float:
    """Return Spearman's correlation of values of which each occurs so often.

    Parameters
    ----------
    one, other : array of shape (n,), int
        Place of each value among the distinct ones, ascending.
    weight : array of shape (n,), float
    """
    ranked = []
    for levels in (one, other):
        count = np.bincount(levels, weight)
        rank = (np.cumsum(count) - (count - 1) / 2)[levels]  # the mean of all that tie
        ranked.append(rank - weight @ rank / max(weight.sum(), 1))
    x, y = ranked
    size = np.sqrt((weight @ (x * x)) * (weight @ (y * y)))
    return float(weight @ (x * y) / size) if size > 0 else 0.0


def _figure(value: float, drawn: np.ndarray, null: np.ndarray, level: float) -> np.ndarray:
    """Put a correlation together as `COLUMNS` say."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return np.array([value, low, high, 0.0, *_test(value, null, level)])


def _test(
    value: float, null: np.ndarray, level: float, rounding: float = 1e-12
) -> tuple[float, float]:
    """Return the permutation p and the threshold; what differs by rounding alone is a tie."""
    if np.isnan(value):
        return np.nan, np.nan
    p = (1 + (null >= value - rounding).sum()) / (1 + len(null))
    return p, np.quantile(null, 1 - level, method="higher")


def _together(found: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Average groups by their numbers of pairs: the figure, its null."""
    value, null, drawn, pairs, pairs_drawn = found
    of_draws = (pairs_drawn * drawn).sum(0) / np.maximum(pairs_drawn.sum(0), 1)
    null = pairs @ null / pairs.sum()
    return _figure(pairs @ value / pairs.sum(), of_draws, null, LEVEL), null


def _each(found: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the figure of each group, (n_groups, 6); NaN of those that are too small."""
    value, null, drawn, pairs, _ = found
    figures = [_figure(*one, LEVEL / len(value)) for one in zip(value, drawn, null, strict=True)]
    return np.where(pairs[:, None] > 0, figures, np.nan)


# ---------------------------------------------------------------- confusions


def first_choices(similarities: np.ndarray) -> np.ndarray:
    """Return the candidate each trial is most similar to, (n_trials,) int; trial i saw i.

    Ties count against us, as in ranks: the picture seen is chosen where it is alone the nearest.
    """
    target = np.arange(len(similarities))
    others = similarities.copy()
    others[target, target] = -np.inf
    return np.where(ranks(similarities, target) == 1, target, others.argmax(1))


def confusions(
    choice: np.ndarray, category: np.ndarray, permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Count wrong first choices that fall in the category seen.

    Parameters
    ----------
    choice : array of shape (n_candidates,), int
        Of the trial in which candidate i was seen.
    category : array of shape (n_candidates,), int
    permutations : int
    rng : Generator

    Returns
    -------
    figures : array of shape (n_categories + 1, 6)
        Of each category seen, and of all. NaN where no choice is wrong.
    null : array of shape (n_categories + 1, n_permutations)
    """
    size = np.bincount(category)
    seen = np.flatnonzero(choice != np.arange(len(choice)))
    chosen = category[choice[seen]]
    counts = _count(seen[None], choice[seen], chosen, category)  # (2, n_categories + 1, 1)
    shuffled = rng.permuted(np.tile(seen, (permutations, 1)), axis=1)
    null = _share(*_count(shuffled, choice[seen], chosen, category))
    by_chance = (size - 1) / (len(category) - 1)
    chance = [*by_chance, by_chance[category[seen]].mean() if len(seen) else np.nan]
    figures = np.full((len(size) + 1, len(COLUMNS)), np.nan)
    for c, (within, wrong) in enumerate(counts[:, :, 0].T):
        if wrong:
            level = LEVEL if c == len(size) else LEVEL / len(size)
            value = within / wrong
            figures[c] = value, *wilson(within, wrong), chance[c], *_test(value, null[c], level)
    return figures, null


def _count(
    seen: np.ndarray, choice: np.ndarray, chosen: np.ndarray, category: np.ndarray
) -> np.ndarray:
    """Count wrong choices within the category seen, and all wrong choices.

    Parameters
    ----------
    seen : array of shape (n_permutations, n_trials), int
    choice, chosen : array of shape (n_trials,), int
        The candidate, and its category.
    category : array of shape (n_candidates,), int

    Returns
    -------
    array of shape (2, n_categories + 1, n_permutations)
        By category seen and, last, altogether.
    """
    wrong = seen != choice  # shuffling may happen to make a choice right
    of_seen = category[seen]
    counts = [
        [(which & (of_seen == c)).sum(1) for c in range(category.max() + 1)] + [which.sum(1)]
        for which in (wrong & (of_seen == chosen), wrong)
    ]
    return np.array(counts)


def _share(within: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    return np.divide(within, wrong, out=np.zeros(within.shape), where=wrong > 0)


# ---------------------------------------------------------------- to be looked at


def percentiles(similarities: np.ndarray) -> np.ndarray:
    """Rank the pairs of pictures, in per cent.

    The image model's similarities and the decoded ones have other means and spreads; the
    correlation compares their ranks, and so does a look at these.

    Parameters
    ----------
    similarities : array of shape (n_candidates, n_candidates)
        Symmetric.

    Returns
    -------
    array of shape (n_candidates, n_candidates)
        NaN on the diagonal.
    """
    from scipy import stats

    upper = np.triu_indices(len(similarities), 1)
    ranked = np.full(similarities.shape, np.nan)
    ranked[upper] = 100 * (stats.rankdata(similarities[upper]) - 0.5) / len(upper[0])
    return np.fmax(ranked, ranked.T)


# ---------------------------------------------------------------- several subjects


def over_subjects(figures: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Average figures over subjects.

    Parameters
    ----------
    figures : array of shape (n_subjects, n_figures, 6)
    null : array of shape (n_subjects, n_figures, n_permutations)
        Subjects' pictures are shuffled each for itself.

    Returns
    -------
    array of shape (n_figures, 6)
        Intervals are t intervals over subjects, NaN with one.
    """
    mean, low, high = t_interval(figures[:, :, 0])
    # The shuffles are kept as float32: a share that equals the value's may be a little less.
    tested = [_test(*one, LEVEL, 1e-6) for one in zip(mean, null.mean(0), strict=True)]
    chance = figures[:, :, 3].mean(0)
    return np.column_stack([mean, low, high, chance, *np.transpose(tested)])
