"""What in the EEG made it similar to a picture, on the page: a head, bars over time, words.

In flow a `Decoding` and the kind of map, out flow three pieces of HTML: the head, beside the scalp
map of the voltage; what there is to say of it, with the sanity check; and the course over time,
below the EEG. The maps themselves are made by `nice_demo.explain`, of the very EEG that the
encoder got.
"""

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from html import escape

import numpy as np
from torch.nn import Module

from nice_demo.decode import BundleDecoder, Decoding, Part
from nice_demo.encoders.nice import NICE
from nice_demo.errors import InputError
from nice_demo.explain import (
    KINDS,
    QUICK_PATHS,
    UNTRAINED_PATHS,
    Map,
    Question,
    explain,
    randomised,
    rank_correlation,
)
from nice_demo.montage import REGIONS
from nice_demo.ui import cards
from nice_demo.ui.headmap import headmap, round_up
from nice_demo.ui.view import TRIES, View

COSINE = "cosine similarity"
BIN = 0.02  # s, of a bar of the course over time
PICTURES = 3  # from which the range of colours comes
CLEAR = 0.2  # a rank correlation below this is called small

# In the order in which they are offered; the first that an encoder can have is shown first.
MAPS = {
    "attention": "attention",
    "integrated gradients": "integrated gradients",
    "occlusion by channel": "without each electrode",
    "occlusion by region": "without each region",
    "occlusion by window": "without each 40 ms",
    "grad-cam": "Grad-CAM",
    "grad-cam by place": "Grad-CAM by place",
    "gradient × input": "gradient × input",
    "pattern": "pattern (in volts)",
}
TARGETS = {"seen": "of the picture seen", "first": "of the first retrieved"}

_WHAT = {
    "attention": (
        "How much attention each electrode's signal gets from all the others before the "
        "convolutions: shares that add up to one. It doesn't know of the picture, nor of what the "
        "encoder does with the signal afterwards."
    ),
    "integrated gradients": (
        "The similarity shared out among electrodes and moments: the gradient of the cosine, "
        "averaged on the way from silence to this EEG, times the EEG. All shares together are what "
        "the EEG adds to the cosine, but for a small error of the sum."
    ),
    "occlusion by channel": "How far the cosine falls when each electrode alone is set to zero.",
    "occlusion by region": "How far the cosine falls when a whole region is set to zero.",
    "occlusion by window": "How far the cosine falls when 40 ms of all electrodes are set to 0.",
    "grad-cam": (
        "Where the encoder's first filters are active that raise the cosine. Filters count alike "
        "at all electrodes, though this encoder weighs each electrode differently."
    ),
    "grad-cam by place": (
        "Where the encoder's first filters are active in a way that raises the cosine, each place "
        "with its own gradient."
    ),
    "gradient × input": "The gradient of the cosine at this EEG, times the EEG.",
    "pattern": (
        "What the source that the encoder looks for would look like on the scalp: its gradient "
        "with the whitening undone (Haufe et al. 2014)."
    ),
}
_NOT = (
    " It tells which input the encoder uses, not where in the brain it comes from, and whitening "
    "has mixed a little of every electrode into each."
)


def kinds_of(decoder: BundleDecoder, subject: str, encoder: str) -> list[str]:
    """Return the kinds of maps that an encoder can have, the one to show first at the start."""
    model = decoder.bundle.encoder(subject, encoder)
    cannot = set()
    if not hasattr(model, "attention"):
        cannot.add("attention")
    if not any(isinstance(module, NICE) for module in model.modules()):
        cannot |= {"grad-cam", "grad-cam by place"}
    if decoder.bundle.trials(subject).whitening is None:
        cannot.add("pattern")
    if set(decoder.montage.names) - {name for names in REGIONS.values() for name in names}:
        cannot.add("occlusion by region")
    return [kind for kind in MAPS if kind not in cannot]


def over_electrodes(found: Map, inside: np.ndarray) -> np.ndarray | None:
    """Return one value for each channel, or None where the map doesn't tell channels apart.

    Parameters
    ----------
    found : Map
    inside : array of shape (n_times,), bool
        The window.

    Returns
    -------
    array of shape (n_channels,)
        Shares of a cosine are summed over the window; of what has no unit, the mean size.
    """
    if found.channels is None:
        return None
    if found.times is None:
        return found.values
    window = found.values[:, inside]
    return window.sum(1) if found.unit == COSINE else np.abs(window).mean(1)


def over_time(found: Map, sfreq: float) -> np.ndarray | None:
    """Return one value for each bin of 20 ms, or None where the map doesn't tell samples apart.

    Shares of a cosine are summed, over channels and the bin; of what has no unit, the mean size.
    What is one value for a whole window ("occlusion by window") is averaged instead.
    """
    if found.times is None:
        return None
    per_bin = max(1, round(BIN * sfreq))
    starts = np.arange(0, len(found.times), per_bin)
    sizes = np.diff([*starts, len(found.times)])
    if found.unit != COSINE:
        return np.add.reduceat(np.abs(found.values).mean(0), starts) / sizes
    if found.channels is None:
        return np.add.reduceat(found.values, starts) / sizes
    return np.add.reduceat(found.values.sum(0), starts)


class Attributions:
    """Draws the maps of a decoder's encoders; what is compared keeps its range of colours.

    Parameters
    ----------
    decoder : BundleDecoder
    """

    def __init__(self, decoder: BundleDecoder) -> None:
        self.decoder = decoder
        self.ends: Callable = lru_cache(maxsize=256)(self._measure_ends)
        self._untrained: dict[tuple[type, str], Module] = {}
        self._beside = ThreadPoolExecutor(1)

    def _explained(
        self, decoding: Decoding, kind: str, row: int, untrained: bool = False
    ) -> tuple[Map, Question]:
        decoder = self.decoder
        question = Question.of(decoder.bundle, decoding, row)
        question = replace(question, tmin=float(decoder.times[0]))
        encoder = decoder.bundle.encoder(decoding.subject, decoding.encoder)
        if untrained:
            encoder = self._untrained_like(encoder)
        # Only how the EEG matters is asked for; how each weight does would take as long again.
        encoder.requires_grad_(False)
        paths = UNTRAINED_PATHS if untrained else QUICK_PATHS
        return explain(kind, encoder, question, paths), question

    def _compared(
        self, decoding: Decoding, kind: str, target: str
    ) -> tuple[Map, Question, int, tuple[float, float]]:
        """Make a map and that of random weights; return it with its row, and how alike they are."""
        row = decoding.condition if target == "seen" else int(decoding.order[0])
        # Both maps at the same time, each on a core of its own.
        beside = self._beside.submit(self._explained, decoding, kind, row, untrained=True)
        found, question = self._explained(decoding, kind, row)
        untrained, _ = beside.result()
        return found, question, row, _correlations(found, untrained, decoding.part)

    def checked(self, decoding: Decoding, kind: str, target: str) -> tuple[Map, int, dict]:
        """Make a map and its sanity check.

        Parameters
        ----------
        decoding, kind, target
            As of `drawn`.

        Returns
        -------
        found : Map
        row : int
            Of the candidate, in the gallery.
        check : dict
            Rank correlation with the map of random weights, and that of absolute values; None
            where one of the maps is the same everywhere.

        Raises
        ------
        InputError
            Where there is no such kind or target, or the encoder can't have it.
        """
        check_choice(kind, target)
        found, _, row, both = self._compared(decoding, kind, target)
        rho, sizes = (None if math.isnan(value) else round(value, 3) for value in both)
        return found, row, {"correlation": rho, "correlation_of_sizes": sizes}

    def _untrained_like(self, encoder: Module) -> Module:
        # Random weights are the same for all encoders of a kind and size; making them takes long.
        size = type(encoder), json.dumps(encoder.config)
        if size not in self._untrained:
            self._untrained[size] = randomised(encoder)
        return self._untrained[size]

    def _measure_ends(self, subject: str, encoder: str, kind: str) -> tuple[float, float]:
        """Return the ends of the ranges over electrodes and over time, for all pictures."""
        decoder, largest = self.decoder, np.zeros(2)
        candidates = decoder.gallery.candidates
        # As `opening_view` goes through them, so that the first visit's trials are there already.
        for candidate in candidates[:: max(1, len(candidates) // TRIES)][:PICTURES]:
            decoding = decoder.decode(subject, encoder, candidate.id, decoder.repetitions[-1])
            found, question = self._explained(decoding, kind, decoding.condition)
            everything = np.ones(question.eeg.shape[1], bool)
            values = over_electrodes(found, everything), over_time(found, question.sfreq)
            sizes = [0.0 if v is None else float(np.abs(v).max()) for v in values]
            largest = np.maximum(largest, sizes)
        return round_up(largest[0]), round_up(largest[1])

    def drawn(self, decoding: Decoding, kind: str, target: str) -> tuple[str, str, str]:
        """Draw a map.

        Parameters
        ----------
        decoding : Decoding
        kind : str
            One of `nice_demo.explain.KINDS`.
        target : str
            One of `TARGETS`: whether the similarity to the picture seen or to the first retrieved
            is explained.

        Returns
        -------
        head, words, course : str
            HTML.

        Raises
        ------
        InputError
            Where there is no such kind or target, or the encoder can't have it.
        """
        check_choice(kind, target)
        decoder = self.decoder
        found, question, row, correlations = self._compared(decoding, kind, target)
        end, end_of_course = self.ends(decoding.subject, decoding.encoder, kind)
        name = decoder.gallery.candidates[row].name
        inside = decoding.part.inside(question.times)
        values = over_electrodes(found, inside)
        title = cards.heading("What carried it", _WHAT[kind] + _NOT + _completeness(found))
        if values is None:
            head = (
                '<p class="no-head">This map tells moments apart, not electrodes: see the bars '
                "under the EEG.</p>"
            )
        else:
            head = headmap(
                decoder.montage,
                values,
                end,
                f"to the similarity to {name}",
                title=f"Map of {MAPS[kind]}:" if found.unit != COSINE else "What each adds",
                unit=found.unit,
                signed=found.unit == COSINE,
                off=decoding.part.off,
            )
        course = over_time(found, question.sfreq)
        return (
            f'<section class="scalp">{title}{head}</section>',
            f'<p class="caption">{escape(_words(found, name))} {_sanity(*correlations)}</p>',
            "" if course is None else self._course(course, end_of_course, found),
        )

    def address(self, view: View, kind: str, target: str) -> dict[str, str]:
        """Return what an address says of a choice of map: nothing of one that is shown anyway."""
        first = kinds_of(self.decoder, view.subject, view.encoder)[0]
        return {
            "map": "" if kind == first else kind,
            "of": "" if target == next(iter(TARGETS)) else target,
        }

    def of_address(self, view: View, address: Mapping[str, str]) -> tuple[str, str]:
        """Return the kind of map and the target that an address asks for.

        Raises
        ------
        InputError
            Where there is no such map, or the encoder can't have it.
        """
        kinds = kinds_of(self.decoder, view.subject, view.encoder)
        kind = address.get("map", kinds[0])
        target = address.get("of", next(iter(TARGETS)))
        check_choice(kind, target)
        if kind not in kinds:
            raise InputError(
                f"There is no map of {kind} for the encoder {view.encoder}; "
                f"choose one of {', '.join(kinds)}."
            )
        return kind, target

    def _course(self, course: np.ndarray, end: float, found: Map) -> str:
        """Draw bars of 20 ms, as wide as the encoder's window is on the axis of the EEG."""
        signed = found.unit == COSINE
        width = 1000 / len(course)
        bars = "".join(
            f'<rect class="{"for" if height > 0 else "against"}" x="{place * width + 1:.1f}" '
            f'y="{50 - 50 * max(height, 0) if signed else 100 - 100 * height:.1f}" '
            f'width="{width - 2:.1f}" height="{abs(height) * (50 if signed else 100):.1f}"/>'
            for place, height in enumerate(np.clip(course / end, -1, 1).tolist())
        )
        zero = 50 if signed else 100
        top, bottom = (f"+{end:g}", f"−{end:g}") if signed else (f"{end:g}", "0")
        largest = int(np.abs(course).argmax())
        start, stop = (
            round(1e3 * (self.decoder.times[0] + BIN * (largest + step))) for step in (0, 1)
        )
        unit = "" if signed else " (arbitrary unit)"
        return (
            f'<section class="course"><span class="ends"><span>{top}</span><span>{bottom}</span>'
            f'</span><svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
            f'aria-label="What each 20 ms adds{unit}; most between {start} and {stop} ms">'
            f'{bars}<line x1="0" x2="1000" y1="{zero}" y2="{zero}"/></svg></section>'
        )


def nothing() -> tuple[str, str, str]:
    """Return what stands there where nothing could be decoded."""
    words = '<p class="no-head">Nothing was decoded, so there is nothing to explain.</p>'
    title = '<div class="heading"><h2>What carried it</h2></div>'
    return f'<section class="scalp">{title}{words}</section>', "", ""


def refused(sentence: str) -> tuple[str, str, str]:
    """Return what stands there where an encoder can't have the map."""
    title = '<div class="heading"><h2>What carried it</h2></div>'
    return f'<section class="scalp">{title}{cards.notice(sentence)}</section>', "", ""


def check_choice(kind: str, target: str) -> None:
    """Refuse what isn't one of `KINDS` or of `TARGETS`."""
    if kind not in KINDS:
        raise InputError(f"There is no map {kind[:40]!r}; choose one of {', '.join(KINDS)}.")
    if target not in TARGETS:
        raise InputError(f"There is no map of {target[:40]!r}; choose one of {', '.join(TARGETS)}.")


def _completeness(found: Map) -> str:
    if found.error is None:
        return ""
    return f" Here the shares miss the sum by {abs(found.error):.1g}."


def _words(found: Map, name: str) -> str:
    """Say what the colours mean, which have one range for a subject, an encoder and a kind."""
    if found.kind == "attention":
        means = (
            "Share of attention that each electrode gets, whatever the picture; on phantoms, that "
            "isn't where the information is (Evidence)"
        )
    elif found.unit == COSINE:
        means = f"What each adds to the cosine similarity to {name}: red for, blue against"
    else:
        means = f"Size, in no unit, of what speaks for {name}"
    return f"{means}; one range for all pictures."


def _correlations(found: Map, untrained: Map, part: Part) -> tuple[float, float]:
    """Correlate a map with that of random weights, as `nice_demo.explain.sanity_check` does.

    Only where the encoder got EEG: the zeros elsewhere would agree in any two maps.
    """
    kept = np.ones(found.values.shape, bool)
    if found.times is not None:
        kept &= part.inside(found.times)
    if found.channels is not None:
        on = np.array([name not in part.off for name in found.channels])
        kept &= on if found.times is None else on[:, None]
    one, other = found.values[kept], untrained.values[kept]
    return rank_correlation(one, other), rank_correlation(np.abs(one), np.abs(other))


def _sanity(rho: float, sizes: float) -> str:
    """Say how a map is like that of random weights, and what follows."""
    if math.isnan(rho) or math.isnan(sizes):
        return "The map or that of random weights is the same everywhere: nothing to compare."
    both = f"ρ = {cards.two_digits(rho)} (sizes {cards.two_digits(sizes)})"
    if abs(rho) < CLEAR and abs(sizes) < CLEAR:
        follows = "it depends on what was learned"
    elif abs(rho) < CLEAR:
        follows = "where it is large lies partly in the EEG, its sign in what was learned"
    else:
        follows = "part of it is there without any learning, so be wary"
    return f"The same map from random weights correlates {both}: {follows}."
