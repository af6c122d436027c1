"""Whom: how encoders read other subjects, and what training on several brings."""

from html import escape

import numpy as np

from nice_demo.retrieval import t_interval
from nice_demo.ui.cards import percent
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.published import ACROSS_SUBJECTS, CENTRES
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import (
    at,
    axis_title,
    caption,
    difference,
    label,
    main_series,
    says,
    share,
)

_POOLS = {"own": "the subject's own", "the others": "the other subjects'", "all together": "all"}


def subjects_matrix(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw how encoders of one subject read the EEG of others."""
    several = evidence.series(choice, "transfer", "encoder of another subject")
    one = main_series(several, choice)
    trained = [str(point) for point in one.axes[0].points]
    hits = (one.ranks <= choice.top).mean(-1)  # (tested on, trained on)
    figure = draw.heatmap(
        hits, trained, one.subjects,
        ("trained on subject", "tested on subject", axis_title(choice)),
        "trained on %{x}, tested on %{y}: %{z} %", names=True,
    )  # fmt: skip
    own = np.array([hits[i, trained.index(s)] for i, s in enumerate(one.subjects) if s in trained])
    others = np.array(
        [
            np.mean([hits[i, j] for j, t in enumerate(trained) if t != s])
            for i, s in enumerate(one.subjects)
        ]
    )
    name = escape(label(one))
    if choice.subject is None:
        said = (
            f"{name} reads its own subject with {share(*t_interval(own))} and others' with "
            f"{share(*t_interval(others))} (mean over subjects, t interval)"
        )
    else:
        place = one.subjects.index(choice.subject)
        said = (
            f"{name}: {escape(evidence.who(choice))} is read with {share(own[place])} by the own "
            f"encoder and with {share(others[place])} on average by those of others"
        )
    chance = choice.top / one.ways
    said += f"; chance is {percent(chance)}\u202f%."
    more = "Rows and columns are all subjects, whoever is chosen above."
    return Drawn(says(said) + caption(evidence, None, more=more), figure)


def pooled(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy of an encoder trained on other subjects, or on all."""
    several = evidence.series(choice, "transfer", "pooled training")
    curves = draw.curves(several, choice)
    points = [str(point) for point in several[0].axes[0].points]
    published = None
    if "the others" in points and choice.top in (1, 5):
        reference = ACROSS_SUBJECTS[choice.top != 1]
        said = f"NICE, the others: {percent(reference)} % ({CENTRES})"
        published = (points.index("the others"), reference, said)
    names = [_POOLS.get(point, point) for point in points]
    figure = draw.dots(curves, names, axis_title(choice), published=published, left=128)
    one, parts = several[0], []
    found = one.accuracy(choice.top, choice.subject)
    parts = [f"{at(found, i)} from {name}" for i, name in enumerate(names)]
    said = f"{escape(label(one))} on training trials: " + ", ".join(parts)
    if "own" in points and "all together" in points and choice.subject is None:
        hits = (one.ranks <= choice.top).mean(-1)
        gain = t_interval(hits[:, points.index("all together")] - hits[:, points.index("own")])
        if gain[1] > 0:
            verdict = "pooling subjects helps"
        elif gain[2] < 0:
            verdict = "pooling subjects does harm"
        else:
            verdict = "pooling makes no difference that could be told from none"
        said += f". All against own: {difference(*gain)}, {verdict}"
    html = draw.legend(curves, line=False, published=bool(published)) + says(said)
    more = "A published value: NICE on nine other people." if published else ""
    return Drawn(html + caption(evidence, choice, several, more), figure)


PANELS = [
    Panel(
        "subjects", "Encoders of others",
        "Accuracy when one subject's encoder reads another's EEG; the diagonal is the own. "
        "Off it, it says how alike subjects' responses are, not how good an encoder for "
        "all would be.",
        "transfer", "how encoders read other subjects", subjects_matrix,
    ),
    Panel(
        "pooled", "Trained on whom",
        "Ridge regression trained on the subject's own trials, on those of all others, or "
        "on all together. “The others” is what a newcomer without own training data gets.",
        "transfer", "what training on several subjects brings", pooled,
        frozenset({"subject", "top"}),
    ),
]  # fmt: skip
