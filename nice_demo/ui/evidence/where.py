"""Where: how much each place of the head tells, alone or missing."""

from functools import partial
from html import escape

import numpy as np

from nice_demo.analysis.series import Accuracy, Series
from nice_demo.ui.cards import percent
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.parts import alone, parts_as_dots, without
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import at, axis_title, caption, label, says

_MIXED = (
    "Whitened channels are mixtures: each holds a little of all others, so what is set to zero "
    "isn't quite gone."
)


def region_alone(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy with each region alone."""
    return parts_as_dots(
        evidence, choice, "space", "a region alone", alone, whole="all regions", more=_MIXED
    )


def region_missing(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy without each region."""
    sentence = partial(without, choice=choice)
    return parts_as_dots(
        evidence, choice, "space", "without a region", sentence, whole="all regions",
        more="In the paper, on other data, occipital electrodes are missed most, then parietal and "
        "temporal, frontal and central least.",
    )  # fmt: skip


def searchlight(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy with each electrode and its neighbours alone, over the head."""
    several = evidence.series(choice, "space", "searchlight")
    montage, maps, said = evidence.bundle.montage, [], []
    found = [one.accuracy(choice.top, choice.subject) for one in several]
    high = max(float(one.value.max()) for one in found)
    for one, accuracy in zip(several, found, strict=True):
        names = [str(point) for point in one.axes[0].points]
        shares = np.full(len(montage.names), accuracy.chance)
        shares[[montage.names.index(name) for name in names]] = accuracy.value
        maps.append(draw.scalp(montage, shares, high, label(one)))
        best = int(accuracy.value.argmax())
        above = int((accuracy.value > accuracy.threshold).sum())
        said.append(
            f"{escape(label(one))}: most around {escape(names[best])}, {at(accuracy, best)}; "
            f"{above} of {len(names)} places are above the permutation threshold"
        )
    bar = draw.colour_bar("0 %", f"{percent(high)} %", axis_title(choice).removesuffix(" (%)"))
    more = "Each electrode stands for itself and its neighbours nearer than 5 cm; nose up."
    return Drawn(
        f'<div class="maps">{"".join(maps)}</div>{bar}'
        f"{says(*said)}{caption(evidence, choice, several, more)}"
    )


def presets(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy with fewer electrodes."""

    def sentence(one: Series, found: Accuracy, names: list[str]) -> str:
        return ", ".join(f"{at(found, i)} with {name} electrodes" for i, name in enumerate(names))

    return parts_as_dots(evidence, choice, "space", "a preset of electrodes", sentence)


PANELS = [
    Panel(
        "region-alone", "One region alone",
        "Accuracy when the electrodes of all other regions are set to zero, or left out of "
        "the training. Volume conduction spreads every source over the scalp, so a region "
        "of electrodes is no region of the brain.",
        "space", "how much each region of electrodes tells alone", region_alone,
    ),
    Panel(
        "region-missing", "One region missing",
        "Accuracy when one region's electrodes are set to zero, or left out of the "
        "training. Little lost may mean little there, or that others hold it too.",
        "space", "how much is lost without each region of electrodes", region_missing,
    ),
    Panel(
        "searchlight", "Searchlight",
        "Accuracy with each electrode and its neighbours alone, all others at zero or left "
        "out of the training, drawn over the head. It shows where enough can be read, not "
        "where the brain computes it.",
        "space", "a map of how much each place of the head tells", searchlight,
    ),
    Panel(
        "presets", "Fewer electrodes",
        "Accuracy with all electrodes, the 17 over the back of the head that later work "
        "uses, and 8 of them. Zeroed: the encoder expects all; retrained: it was trained "
        "with those alone.",
        "space", "how much fewer electrodes tell", presets,
    ),
]  # fmt: skip
