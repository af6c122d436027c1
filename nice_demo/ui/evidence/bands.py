"""Which band: how much each band of frequencies tells, alone or missing."""

from functools import partial

from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.parts import alone, parts_as_dots, without
from nice_demo.ui.evidence.store import Choice, Evidence


def band_alone(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy with each frequency band alone."""
    return parts_as_dots(
        evidence, choice, "frequency", "a band alone", alone, whole="all bands",
        more="In the paper, on other data, theta and beta carry information, gamma about none.",
    )  # fmt: skip


def band_missing(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy without each frequency band."""
    sentence = partial(without, choice=choice)
    return parts_as_dots(
        evidence, choice, "frequency", "without a band", sentence, whole="all bands",
        more="Butterworth filters of order 4 without phase shift.",
    )  # fmt: skip


PANELS = [
    Panel(
        "band-alone", "One frequency band alone",
        "Accuracy when only one band of frequencies is kept, at the test or in training "
        "too. An encoder that never saw filtered EEG may make less of it than there is.",
        "frequency", "how much each frequency band tells alone", band_alone,
    ),
    Panel(
        "band-missing", "One frequency band missing",
        "Accuracy when one band of frequencies is removed, at the test or in training too. "
        "A short response has many frequencies, so that bands hold much in common.",
        "frequency", "how much is lost without each frequency band", band_missing,
    ),
]  # fmt: skip
