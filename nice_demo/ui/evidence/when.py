"""When: how much each part of the second after the picture appears tells."""

from collections.abc import Callable
from html import escape

import numpy as np
import plotly.graph_objects as go

from nice_demo.analysis.series import Series
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.published import AT_600_MS, CENTRES
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import (
    at,
    axis_title,
    caption,
    label,
    main_series,
    ms,
    says,
    share,
    spoken_of,
)

ONSETS = (200, 400, 600, 800)  # ms, of the next pictures


def growing(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw how accuracy grows with the part of the second that is used."""
    several = evidence.series(choice, "time", "growing windows")
    published = (600, AT_600_MS, f"600 ms: 15.8 % ({CENTRES})") if choice.top == 1 else None
    html, figure = _over_time(evidence, choice, several, "end of the window", published)
    one = main_series(several, choice)
    found, ends = one.accuracy(choice.top, choice.subject), np.array(one.axes[0].points, float)
    above = np.flatnonzero(found.value > found.threshold)
    most = np.flatnonzero(found.value >= 0.9 * found.value[-1])[0]
    if len(above):
        said = (
            f"With {escape(label(one))}, accuracy rises above chance once the window reaches "
            f"{ms(ends[above[0]])}, and with the first {ms(ends[most])} it has nine tenths of "
            f"what the whole second gives, {at(found, -1)}."
        )
    else:
        said = f"With {escape(label(one))}, no window is above chance."
    return Drawn(html(said), figure)


def sliding(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw how accurate 100 ms are, wherever they lie."""
    several = evidence.series(choice, "time", "sliding windows")
    html, figure = _over_time(evidence, choice, several, "middle of the 100 ms", None)
    parts = []
    for one in spoken_of(several, choice):
        found, middles = one.accuracy(choice.top, choice.subject), one.axes[0].points
        best = int(found.value.argmax())
        tells = found.value[best] > found.threshold
        parts.append(
            f"{escape(label(one))}: best around {ms(middles[best])} with {at(found, best)}"
            + ("" if tells else ", which chance may reach")
        )
    return Drawn(html("A tenth of a second alone – " + "; ".join(parts) + "."), figure)


def _over_time(
    evidence: Evidence, choice: Choice, several: list[Series], what: str, published
) -> tuple[Callable[[str], str], go.Figure]:
    curves = draw.curves(several, choice)
    x = 1000 * np.array(several[0].axes[0].points, float)
    figure = draw.lines(
        curves, x.tolist(), f"{what} after the picture appears (ms)", axis_title(choice),
        marks=ONSETS, published=published, unit="ms",
    )  # fmt: skip
    legend = draw.legend(curves, published=bool(published), extra="the next picture appears")
    more = "Every 200 ms the next picture appears: a second of EEG holds five."
    return lambda said: legend + says(said) + caption(evidence, choice, several, more), figure


def generalisation(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy of ridge trained at one time and tested at another."""
    (one, *_) = evidence.series(choice, "time", "temporal generalisation")
    found = one.accuracy(choice.top, choice.subject)
    trained, tested = (1000 * np.array(axis.points, float) for axis in one.axes)
    figure = draw.heatmap(
        found.value, tested.round().tolist(), trained.round().tolist(),
        ("tested at (ms)", "trained at (ms)", axis_title(choice)),
        "trained at %{y} ms, tested at %{x} ms: %{z} %", marks=ONSETS,
    )  # fmt: skip
    apart = np.abs(trained[:, None] - tested[None, :])
    best = int(np.diag(found.value).argmax()) if len(trained) == len(tested) else 0
    above = found.value > found.threshold
    far = above & (apart >= 100)
    said = (
        f"Trained and tested at the same moment, {escape(label(one))} is best at "
        f"{ms(trained[best] / 1000)}: {at(found, (best, best))}. "
    )
    if above.any():
        said += (
            f"{above.sum()} of {above.size} cells are above the permutation threshold "
            f"({share(found.threshold)}), {far.sum() or 'none'} of them 100 ms or more off the "
            "diagonal: "
        ) + (
            "what carries the picture changes from moment to moment."
            if far.sum() < 0.25 * above.sum()
            else "what carries the picture stays partly the same."
        )
    else:
        said += "No cell is above the permutation threshold."
    more = "Cells of 40 ms; light lines: the next pictures appear."
    return Drawn(says(said) + caption(evidence, choice, [one], more), figure)


PANELS = [
    Panel(
        "growing", "From the start to …",
        "Accuracy when only EEG up to a moment is used and the rest is set to zero, or "
        "left out of the training. It grows where something new is told, which needn't be "
        "new about this picture: later ones appear every 200 ms.",
        "time", "how accuracy grows with the window from the start", growing,
    ),
    Panel(
        "sliding", "A tenth of a second alone",
        "Accuracy when only 100 ms of EEG are used, around each moment. An encoder that "
        "was trained on the whole second may make less of them than one trained on them.",
        "time", "how much each tenth of a second tells", sliding,
    ),
    Panel(
        "generalisation", "Trained at one moment, tested at another",
        "Ridge regression trained on 40 ms of EEG and tested on others; on the diagonal "
        "they are the same. Far from it, accuracy means that the same pattern lasts or "
        "returns.",
        "time", "how far what is learned at one moment holds at others", generalisation,
        frozenset({"subject", "top"}), True,
    ),
]  # fmt: skip
