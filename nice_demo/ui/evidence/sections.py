"""The tab's sections in order, each with its panels."""

from nice_demo.ui.evidence import (
    bands,
    how_good,
    looks,
    meaning,
    sureness,
    transfer,
    truth,
    when,
    where,
)
from nice_demo.ui.evidence.panel import Panel
from nice_demo.ui.evidence.store import Evidence

SECTIONS: list[tuple[str, list[Panel]]] = [
    ("How good", how_good.PANELS),
    ("When", when.PANELS),
    ("Where", where.PANELS),
    ("Which band", bands.PANELS),
    ("How many looks", looks.PANELS),
    ("What", meaning.PANELS),
    ("Whom", transfer.PANELS),
    ("Which map to trust", truth.PANELS),
    ("How sure", sureness.PANELS),
]

PANELS: list[Panel] = [panel for _, panels in SECTIONS for panel in panels]


def sections_of(evidence: Evidence) -> list[tuple[str, list[Panel]]]:
    """Return titles and panels: all, but what can be known of phantoms alone."""
    return [
        (title, panels)
        for title, panels in SECTIONS
        if evidence.bundle.simulated or all(panel.analysis != "truth" for panel in panels)
    ]
