"""Accuracy with one part alone or missing: of electrodes (`where`) or of frequencies (`bands`)."""

from collections.abc import Callable
from html import escape

from nice_demo.analysis.series import Accuracy, Series
from nice_demo.retrieval import t_interval
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.panel import Drawn
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import (
    at,
    axis_title,
    caption,
    difference,
    label,
    says,
    spoken_of,
)


def parts_as_dots(
    evidence: Evidence,
    choice: Choice,
    analysis: str,
    name: str,
    sentence: Callable[[Series, Accuracy, list[str]], str],
    *,
    whole: str = "",
    more: str = "",
) -> Drawn:
    """Draw the accuracy of each part as a dot beside its name.

    Parameters
    ----------
    evidence : Evidence
    choice : Choice
    analysis, name : str
        Of the series.
    sentence : callable
        (series, its accuracies, names of the parts) → what is said of it.
    whole : str
        How the page calls the part "all".
    more : str
        To be added to the caption.
    """
    several = evidence.series(choice, analysis, name)
    curves = draw.curves(several, choice)
    points = [str(point) for point in several[0].axes[0].points]
    names = [whole if whole and point == "all" else point for point in points]
    figure = draw.dots(curves, names, axis_title(choice))
    said = []
    for one in spoken_of(several, choice):
        text = sentence(one, one.accuracy(choice.top, choice.subject), points)
        said.append(f"{escape(label(one))}: {text}")
    legend = draw.legend(curves, line=False)
    html = legend + says(*said) + caption(evidence, choice, several, more)
    return Drawn(html, figure)


def alone(one: Series, found: Accuracy, names: list[str]) -> str:
    """Say which part alone gives most, and which give nothing."""
    parts = [place for place, name in enumerate(names) if name != "all"]
    best = max(parts, key=lambda place: found.value[place])
    silent = [names[place] for place in parts if found.value[place] <= found.threshold]
    whole = f" of {at(found, names.index('all'))} with all" if "all" in names else ""
    said = f"{names[best]} alone gives most, {at(found, best)}{whole}"
    return said + (f"; at chance: {', '.join(silent)}" if silent else "")


def without(one: Series, found: Accuracy, names: list[str], choice: Choice) -> str:
    """Say which part is missed most."""
    if "all" not in names:
        worst = int(found.value.argmin())
        return f"without {names[worst]}, {at(found, worst)} remain"
    whole = names.index("all")
    parts = [place for place in range(len(names)) if place != whole]
    worst = min(parts, key=lambda place: found.value[place])
    text = f"without {names[worst]} most is lost, {at(found, worst)} of {at(found, whole)} remain"
    if choice.subject is None and len(one.subjects) > 1:
        hits = (one.ranks <= choice.top).mean(-1)
        lost = t_interval(hits[:, worst] - hits[:, whole])
        text += f" (paired over subjects {difference(*lost)})"
    return text
