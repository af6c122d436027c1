"""What: which pictures are alike as decoded, and which are taken for which."""

from html import escape

import numpy as np

from nice_demo.analysis.meaning import over_subjects, percentiles
from nice_demo.analysis.series import Analysis
from nice_demo.errors import InputError
from nice_demo.retrieval import t_interval
from nice_demo.ui.cards import percent, two_digits
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.figures import Curve
from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import caption, name_of, number, says, share


def similarities(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw similarities of decoded embeddings beside those of the pictures."""
    analysis = evidence.analysis("meaning")
    about, subjects = analysis.about, evidence.subjects_of(analysis)
    encoder, arrays = _array(analysis, "decoded", choice)
    order = np.array(about.get("order") or np.arange(arrays.shape[-1]))
    decoded = _of_choice(evidence, choice, arrays, subjects)[np.ix_(order, order)]
    rows = evidence.bundle.gallery.embeddings[order].astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # The diagonal, a picture with itself, is drawn as the most alike.
    decoded, image = (np.nan_to_num(percentiles(one), nan=100) for one in (decoded, rows @ rows.T))
    categories, sizes = about.get("categories") or [], np.bincount(about.get("category") or [0])
    groups = list(zip(categories, sizes.tolist(), strict=False))
    pictures = (
        draw.matrix(decoded, 0, 100, groups, f"decoded from EEG by {name_of(encoder)}"),
        draw.matrix(image, 0, 100, groups, "the pictures, by the image model"),
    )
    bar = draw.colour_bar("0 %", "100 %", "of all pairs are less alike")
    figures = _meaning_figures(evidence, choice, analysis, encoder)
    names = about["figures"]
    rho = figures[0]
    said = (
        f"The two go along with each other: rank correlation over pairs {number(*rho[:3])}"
        if rho[0] > rho[5]
        else f"The two don't go along with each other beyond chance: {number(*rho[:3])}"
    )
    said += f", where chance is {two_digits(rho[3])} and rarely above {two_digits(rho[5])}"
    if "correlation within categories" in names:
        within = figures[names.index("correlation within categories")]
        tells = (
            "more than the category was decoded"
            if within[0] > within[5]
            else "beyond the category nothing can be told"
        )
        said += f". Within categories it is {number(*within[:3])}: {tells}"
    whose = "Mean of all subjects" if choice.subject is None else evidence.who(choice)
    more = f"{whose}. Ranks, which is what is correlated; squares along the diagonal: categories."
    return Drawn(
        f'<div class="matrices">{"".join(pictures)}</div>{bar}{says(said)}'
        f"{caption(evidence, None, more=more)}"
    )


def confusions(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw how often a wrong first choice has the category of the picture seen."""
    analysis = evidence.analysis("meaning")
    categories = analysis.about.get("categories")
    if not categories:
        raise InputError("The gallery names no categories, so confusions can't be counted by them.")
    encoders = [e for e in choice.encoders if f"figures by category {e}" in analysis.arrays]
    encoder, _ = _array(analysis, "figures by category", choice)
    subjects = evidence.subjects_of(analysis)
    row = analysis.about["figures"].index("wrong choices within the category")
    curves, of_all = [], []
    for one in encoders:
        figures = _meaning_figures(evidence, choice, analysis, one)[row]
        of_all.append(figures)
        of_each = analysis.arrays[f"figures by category {one}"].astype(float)[:, :, 1]
        evidence.check_subject(choice, subjects)
        if choice.subject is None:
            each = _mean_of_categories(of_each)
        else:
            each = of_each[subjects.index(choice.subject)]
        both = np.vstack([figures[:6], each])
        colour, symbol = draw.ENCODERS.get(one, draw.OTHER)
        curves.append(
            Curve(name_of(one), colour, symbol, False, both[:, 0], both[:, 1], both[:, 2])
        )
        chance = both[:, 3]
    by_chance = Curve("by chance", draw.FIELD_POWER, "diamond", True, chance,
                      np.full_like(chance, np.nan), np.full_like(chance, np.nan))  # fmt: skip
    names = ["all categories", *categories]
    figure = draw.dots([*curves, by_chance], names, "wrong choices within the category seen (%)")
    value, low, high, at_chance, _, threshold = of_all[0]
    if np.isnan(value):
        raise InputError("There are too few wrong choices to ask where they fall.")
    tells = (
        f"more than the {percent(at_chance)}\u202f% of blind errors: they stay in the category"
        if value > threshold
        else f"no more than blind errors do ({percent(at_chance)}\u202f%)"
    )
    said = (
        f"Of {escape(name_of(encoder))}'s wrong first choices {share(value, low, high)} fall into "
        f"the category of the picture seen, {tells}."
    )
    whose = "mean of subjects, 95 % t interval" if choice.subject is None else (
        f"{evidence.who(choice)}, 95 % Wilson interval"
    )  # fmt: skip
    html = draw.legend([*curves, by_chance], line=False) + says(said)
    return Drawn(html + caption(evidence, None, more=f"First choices only; {whose}."), figure)


def _of_choice(evidence: Evidence, choice: Choice, arrays: np.ndarray, subjects: list[str]):
    """Return the chosen subject's array, or the mean over all."""
    evidence.check_subject(choice, subjects)
    if choice.subject is None:
        return np.asarray(arrays, float).mean(0)
    return np.asarray(arrays[subjects.index(choice.subject)], float)


def _array(analysis: Analysis, kind: str, choice: Choice) -> tuple[str, np.ndarray]:
    """Return the first chosen encoder that has such an array, and the array."""
    for encoder in choice.encoders:
        if f"{kind} {encoder}" in analysis.arrays:
            return encoder, analysis.arrays[f"{kind} {encoder}"]
    raise InputError(f"The analysis {analysis.name!r} wasn't made of the chosen encoders.")


def _meaning_figures(
    evidence: Evidence, choice: Choice, analysis: Analysis, encoder: str
) -> np.ndarray:
    """Return figures × (value, low, high, chance, p, threshold)."""
    figures, null = (analysis.arrays[f"{kind} {encoder}"] for kind in ("figures", "null"))
    subjects = evidence.subjects_of(analysis)
    evidence.check_subject(choice, subjects)
    if choice.subject is None:
        return over_subjects(figures.astype(float), null.astype(float))
    return figures[subjects.index(choice.subject)].astype(float)


def _mean_of_categories(of_each: np.ndarray) -> np.ndarray:
    """Average (n_subjects, n_categories, 6) over the subjects who erred in a category."""
    rows = []
    for figures in np.moveaxis(of_each, 1, 0):
        known = figures[np.isfinite(figures[:, 0])]
        if not len(known):
            rows.append([np.nan] * 6)
            continue
        rows.append([*t_interval(known[:, 0]), known[:, 3].mean(), np.nan, np.nan])
    return np.array(rows)


PANELS = [
    Panel(
        "similarities", "Which pictures are alike",
        "Similarity of each picture to each other one: as decoded from EEG, and as the "
        "image model has it, ordered by category. Blocks mean that categories are told "
        "apart, which is less than telling pictures apart.",
        "meaning", "how alike the decoded pictures are", similarities,
        frozenset({"subject", "encoders"}), True,
    ),
    Panel(
        "confusions", "What is taken for what",
        "Of the wrong first choices, the share that has the category of the picture seen. "
        "Chance is what as many blind errors would give, by the sizes of the categories.",
        "meaning", "how often errors stay in the category", confusions,
        frozenset({"subject", "encoders"}), True,
    ),
]  # fmt: skip
