"""How sure: whether the decoder is right as often as it says."""

from html import escape

import numpy as np

from nice_demo.calibration import reliability, risk_coverage
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.figures import Curve
from nice_demo.ui.evidence.panel import Drawn, Panel
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import caption, difference, name_of, says, share


def reliable(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy over confidence."""
    found = evidence.sureness(choice)
    curves, errors = [], []
    for encoder, sure, hits in found:
        bins = reliability(sure, hits)
        colour, symbol = draw.ENCODERS.get(encoder, draw.OTHER)
        value, low, high = (np.array([getattr(b, k) for b in bins]) for k in
                            ("accuracy", "low", "high"))  # fmt: skip
        x = np.array([b.confidence for b in bins])
        curves.append((Curve(name_of(encoder), colour, symbol, False, value, low, high), x))
        errors.append((encoder, evidence.calibration_error(encoder, choice.subject)))
    figure = draw.xy(curves, "confidence (%)", "right first choices (%)", diagonal=True)
    said = []
    for encoder, error in errors:
        too = "too sure" if error.overconfidence > 0 else "not sure enough"
        said.append(
            f"{escape(name_of(encoder))}: confidence is off by "
            f"{difference(error.value, error.low, error.high).lstrip('+')} on average "
            f"(expected calibration error; perfectly calibrated, so few trials would give "
            f"{100 * error.if_calibrated:.1f}), on the whole {too} by "
            f"{100 * abs(error.overconfidence):.1f}"
        )
    more = (
        f"{_whose_trials(evidence, choice)}; bins of equal size, Wilson intervals; dashed: as sure "
        "as right."
    )
    html = draw.legend([c for c, _ in curves]) + says(*said)
    return Drawn(html + caption(evidence, None, more=more), figure)


def silent(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw how many answers are wrong when only the surest are given."""
    found = evidence.sureness(choice)
    curves, said = [], []
    for encoder, sure, hits in found:
        course = risk_coverage(sure, hits)
        # Hundreds of points look no different from these.
        kept = np.unique(np.linspace(0, len(course.risk) - 1, 80).round().astype(int))
        colour, symbol = draw.ENCODERS.get(encoder, draw.OTHER)
        nothing = np.full(len(kept), np.nan)
        curves.append(
            (
                Curve(name_of(encoder), colour, symbol, False, course.risk[kept], nothing, nothing),
                course.coverage[kept],
            )
        )
        half = int(np.abs(course.coverage - 0.5).argmin())
        said.append(
            f"{escape(name_of(encoder))} is wrong in {share(course.risk[-1])} of all its first "
            f"choices, and in {share(course.risk[half])} of the surer half"
        )
    figure = draw.xy(curves, "answered (%)", "wrong among those answered (%)", markers=False)
    more = (
        f"{_whose_trials(evidence, choice)}; a flat line would mean that confidence says nothing."
    )
    html = draw.legend([c for c, _ in curves]) + says(*said)
    return Drawn(html + caption(evidence, None, more=more), figure)


def _whose_trials(evidence: Evidence, choice: Choice) -> str:
    looks = evidence.bundle.repetitions[-1]
    whose = "all subjects' trials together" if choice.subject is None else evidence.who(choice)
    return f"Always top-1; {whose}, {looks} repetitions averaged"


PANELS = [
    Panel(
        "reliability", "As right as it says?",
        "Accuracy of first choices over the probability that the decoder gives them; on "
        "the dashed line it is right as often as it says. Its temperature was fitted on "
        "training pictures that were held out, not on these.",
        "confidence", "whether the decoder is right as often as it says", reliable,
        frozenset({"subject", "encoders"}),
    ),
    Panel(
        "silent", "When it would rather not say",
        "The share of wrong first choices when only the surest trials are answered. A "
        "steep rise means that confidence tells good trials from bad ones.",
        "confidence", "what staying silent when unsure brings", silent,
        frozenset({"subject", "encoders"}),
    ),
]  # fmt: skip
