"""How the tab puts it: names of encoders, numbers with their intervals, sentences, captions."""

from collections.abc import Sequence
from html import escape

import numpy as np

from nice_demo.analysis.series import AS_TRAINED, RETRAINED, Accuracy, Series
from nice_demo.ui.cards import ENCODER_NAMES, percent, two_digits
from nice_demo.ui.evidence.store import Choice, Evidence

_WORDS = {3: "three", 5: "five", 10: "ten"}


# ---------------------------------------------------------------- names


def name_of(encoder: str) -> str:
    """Return an encoder's name as the page writes it."""
    return ENCODER_NAMES.get(encoder, encoder)


def label(series: Series) -> str:
    """Return how a series is called in a legend."""
    name = name_of(series.encoder)
    return name if series.how == AS_TRAINED else f"{name}, {series.how}"


def axis_title(choice: Choice) -> str:
    """Return what an axis of accuracies says."""
    return f"pictures {ranked(choice.top)} (%)"


# ---------------------------------------------------------------- numbers


def share(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """Write a share with its interval: 21 % (16–27)."""
    text = f"{percent(value)}\u202f%"
    if np.isnan(low):
        return text
    return f"{text} ({percent(max(low, 0))}–{percent(min(high, 1))})"


def at(accuracy: Accuracy, place) -> str:
    """Write an accuracy at a point with its interval."""
    return share(accuracy.value[place], accuracy.low[place], accuracy.high[place])


def difference(value: float, low: float, high: float) -> str:
    """Write a difference of shares in points: +1.2 points (−0.4 to 2.8)."""

    def points(x: float) -> str:
        return f"{100 * x:.1f}".replace("-", "−").replace("−0.0", "0.0")

    sign = "+" if round(100 * value, 1) > 0 else ""
    interval = "" if np.isnan(low) else f" ({points(low)} to {points(high)})"
    return f"{sign}{points(value)} points{interval}"


def number(value: float, low: float, high: float) -> str:
    """Write a correlation with its interval: 0.21 (0.16 to 0.27)."""
    interval = "" if np.isnan(low) else f" ({two_digits(low)} to {two_digits(high)})"
    return two_digits(value) + interval


def ms(seconds: float) -> str:
    """Write a time in milliseconds."""
    return f"{1000 * float(seconds):.0f}\u202fms"


# ---------------------------------------------------------------- sentences


def ranked(top: int) -> str:
    """Return what a hit is, in words."""
    return "ranked first" if top == 1 else f"among the first {_WORDS.get(top, top)}"


def says(*sentences: str) -> str:
    """Return sentences, each of which begins with a capital and ends with a full stop."""
    whole = " ".join(one[0].upper() + one[1:].rstrip(".") + "." for one in sentences)
    return f'<p class="says">{whole}</p>'


def caption(
    evidence: Evidence, choice: Choice | None, several: Sequence[Series] = (), more: str = ""
) -> str:
    """Return what every figure must say: whose, which interval, what chance is."""
    gallery, said = evidence.bundle.gallery, []
    said.append("Simulated EEG" if evidence.bundle.simulated else "EEG")
    if choice is not None:
        n = len(several[0].subjects) if several else len(evidence.bundle.subjects)
        if choice.subject is None and n > 1:
            said.append(f"mean of {n} subjects, 95 % t interval over them")
        elif choice.subject is None:
            said.append("one subject, too few for an interval")
        else:
            said.append(f"{evidence.who(choice)}, 95 % Wilson interval over pictures")
        said.append(f"chance {percent(choice.top / len(gallery))} %")
    said.append(f"{len(gallery)} candidates, protocol {gallery.protocol}")
    return f'<p class="caption">{escape("; ".join(said))}.{more and " " + escape(more)}</p>'


def main_series(several: Sequence[Series], choice: Choice) -> Series:
    """Return the series that sentences speak of: the first chosen encoder's, as it is."""
    order = {encoder: place for place, encoder in enumerate(choice.encoders)}
    as_is = [one for one in several if one.how != RETRAINED]
    return min(as_is, key=lambda one: order[one.encoder]) if as_is else several[0]


def spoken_of(several: Sequence[Series], choice: Choice) -> list[Series]:
    """Return the series that `main_series` returns and the one that was trained anew."""
    first = main_series(several, choice)
    return [first, *(one for one in several if one.how == RETRAINED and one is not first)]
