"""How many looks: accuracy over repetitions at the test and pictures in training."""

from html import escape

import numpy as np

from nice_demo.analysis.series import Accuracy
from nice_demo.ui.cards import percent
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.published import CENTRES, HEADLINE
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


def looks(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy over the number of repetitions averaged."""
    several = evidence.series(choice, "repetitions", "test repetitions")
    curves = []
    for one in several:
        low, high = evidence.band(one.encoder, choice.subject, choice.top)
        accuracy = one.accuracy(choice.top, choice.subject)
        banded = Accuracy(accuracy.value, low, high, accuracy.chance, accuracy.threshold)
        curves.append(draw.curve(one, banded))
    x = [float(point) for point in several[0].axes[0].points]
    reference = HEADLINE[choice.top != 1]
    published = (80, reference, f"80 looks: {percent(reference)} % ({CENTRES})")
    published = published if x[-1] >= 80 and choice.top in (1, 5) else None
    figure = draw.lines(
        curves, x, "repetitions averaged (looks at the same picture)", axis_title(choice),
        published=published, logarithmic=True,
    )  # fmt: skip
    one = main_series(several, choice)
    found = one.accuracy(choice.top, choice.subject)
    low, high = evidence.band(one.encoder, choice.subject, choice.top)
    first, last = (share(found.value[i], low[i], high[i]) for i in (0, -1))
    said = (
        f"With {escape(label(one))}, {x[0]:g} look gives {first}, {x[-1]:g} looks {last}: "
        "averaging lowers the noise, and what is common to all looks remains."
    )
    gallery = evidence.bundle.gallery
    below = (
        f'<p class="caption">{"Simulated EEG; " if evidence.bundle.simulated else ""}'
        f"{escape(evidence.who(choice))}; bands: 95 % bootstrap over pictures"
        f"{' and subjects' if choice.subject is None else ''}; {len(gallery)} candidates, "
        f"protocol {gallery.protocol}.</p>"
    )
    html = draw.legend(curves, published=bool(published)) + says(said) + below
    return Drawn(html, figure)


def training_size(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy over the share of training pictures."""
    several = evidence.series(choice, "repetitions", "training pictures")
    curves = draw.curves(several, choice)
    x = [float(point) for point in several[0].axes[0].points]
    figure = draw.lines(
        curves, x, "share of the training pictures (%)", axis_title(choice), unit="%"
    )
    found = several[0].accuracy(choice.top, choice.subject)
    gained = found.value[-1] - found.value[-2] if len(x) > 1 else 0.0
    said = (
        f"{escape(label(several[0]))}: {at(found, 0)} with {x[0]:g} % of the pictures, "
        f"{at(found, -1)} with all"
    )
    if len(x) > 1:
        said += f"; the last step adds {difference(gained, np.nan, np.nan)}"
    html = draw.legend(curves) + says(said) + caption(evidence, choice, several)
    return Drawn(html, figure)


PANELS = [
    Panel(
        "looks", "Looks averaged at the test",
        "Accuracy over the number of repetitions that are averaged before decoding. It "
        "says how much noise averaging takes away, not how fast a person sees.",
        "repetitions", "how accuracy grows with repetitions", looks,
    ),
    Panel(
        "training-size", "Pictures in training",
        "Accuracy over the share of training pictures, chosen at random. Where it still "
        "rises, more data would help more than a better method might.",
        "repetitions", "how accuracy grows with training pictures", training_size,
        frozenset({"subject", "top"}),
    ),
]  # fmt: skip
