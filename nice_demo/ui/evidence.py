"""What the tab "Evidence" tells: for each analysis a figure, a legend and a sentence.

In flow an `Evidence` (a bundle and the analyses it brings along) and a `Choice` of a visitor; out
flows a `Drawn` for each of `PANELS`. Sentences are made from the numbers that are drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from html import escape

import numpy as np
import plotly.graph_objects as go
from scipy.special import stdtrit

from nice_demo.analysis.meaning import over_subjects, percentiles
from nice_demo.analysis.series import RETRAINED, Accuracy, Analysis, Series, stored
from nice_demo.analysis.truth import leaderboard
from nice_demo.bundle import Bundle
from nice_demo.calibration import (
    CalibrationError,
    expected_calibration_error,
    reliability,
    risk_coverage,
)
from nice_demo.errors import InputError
from nice_demo.retrieval import Metrics
from nice_demo.ui import evidence_figures as draw
from nice_demo.ui.cards import percent, two_digits
from nice_demo.ui.evidence_figures import Curve

NAMES = {"nice": "NICE", "nice-sa": "NICE-SA", "nice-ga": "NICE-GA", "ridge": "ridge regression"}
ONSETS = (200, 400, 600, 800)  # ms, of the next pictures

# Top-1 and top-5 that were published on THINGS-EEG2, 200 candidates that are concept centres.
# Within subjects, mean of ten (Song et al. 2024, as listed by Li et al. 2025, arXiv 2503.04207).
PUBLISHED = {"nice": (0.161, 0.436), "nice-sa": (0.147, 0.417), "nice-ga": (0.156, 0.428)}
HEADLINE = (0.156, 0.428)  # the abstract's, of 80 repetitions
OTHERS = (0.062, 0.214)  # NICE trained on the nine other subjects
AT_600_MS = 0.1575  # top-1 of the first 600 ms
_CENTRES = "THINGS-EEG2, ten people, candidates are concept centres"


@dataclass(frozen=True)
class Choice:
    """What a visitor wants to see.

    Attributes
    ----------
    subject : str or None
        None for the mean over all.
    encoders : tuple of str
    top : int
        1 or 5.
    """

    subject: str | None
    encoders: tuple[str, ...]
    top: int


@dataclass(frozen=True)
class Drawn:
    """A panel's content: a figure of plotly or none, and HTML below it."""

    html: str
    figure: go.Figure | None = None


class Absent(InputError):
    """An analysis that the bundle doesn't bring along."""


class Evidence:
    """A bundle with the analyses that it brings along; each is read once, when asked for.

    Parameters
    ----------
    bundle : Bundle
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.encoders = list(dict.fromkeys(e for s in bundle.subjects for e in bundle.encoders(s)))
        self.analysis = cache(self._analysis)
        self.band = cache(self._band)
        self.calibration_error = cache(self._calibration_error)
        self.leaderboard = cache(lambda figure: leaderboard(self.analysis("truth"), figure))

    def _analysis(self, name: str) -> Analysis:
        found = stored(self.bundle, name)
        if found is None:
            raise Absent(f"This bundle doesn't hold the analysis {name!r}.")
        return found

    @property
    def sections(self) -> list[tuple[str, list["Panel"]]]:
        """Titles and panels: all, but what can be known of phantoms alone."""
        return [
            (title, panels)
            for title, panels in SECTIONS
            if self.bundle.simulated or all(panel.analysis != "truth" for panel in panels)
        ]

    def series(self, choice: Choice, analysis: str, name: str) -> list[Series]:
        """Return the series of the chosen encoders, and those trained anew.

        Raises
        ------
        InputError
            Where there is none, or the chosen subject isn't in them.
        """
        several = self.analysis(analysis).of(name)
        several = [s for s in several if s.how == RETRAINED or s.encoder in choice.encoders]
        if not several:
            left_out = self.analysis(analysis).about.get("left_out", "")
            left_out = left_out if isinstance(left_out, str) else "; ".join(left_out) + "."
            raise InputError(
                f"This bundle holds no {name!r} of the chosen encoders. {left_out}".strip()
            )
        for one in several:
            self.check_subject(choice, one.subjects)
        return several

    def check_subject(self, choice: Choice, subjects: list[str]) -> None:
        """Raise InputError where the chosen subject isn't among those that were analysed."""
        if choice.subject not in (None, *subjects):
            raise InputError(
                f"{self.who(choice)} wasn't analysed; choose the mean or one of "
                f"{', '.join(subjects)}."
            )

    def curves(self, several: Sequence[Series], choice: Choice) -> list[Curve]:
        """Return what is drawn of series."""
        return [
            draw.curve(label(one), one.encoder, one.how, one.accuracy(choice.top, choice.subject))
            for one in several
        ]

    def _band(self, encoder: str, subject: str | None, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what `Series.bootstrap` does, up to chance, in a hundredth of the time.

        At one point, the hits among trials drawn anew are binomial: no trial need be drawn.
        """
        (one,) = self.analysis("repetitions").of("test repetitions", encoder)
        hits, trials = (one.ranks <= top).mean(-1), one.ranks.shape[-1]
        if subject is not None:
            hits = hits[[one.subjects.index(subject)]]
        rng = np.random.default_rng(95)
        drawn_subjects = rng.integers(len(hits), size=(1000, len(hits)))
        drawn = rng.binomial(trials, hits[drawn_subjects]).mean(1) / trials
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        return low, high

    @cached_property
    def metrics(self) -> dict[tuple[str, str], Metrics]:
        """Metrics at the most repetitions, by subject and encoder, of those that were measured."""
        wanted = self.bundle.gallery.protocol, self.bundle.repetitions[-1]
        return {
            (str(entry["subject"]), entry["encoder"]): Metrics.from_json(entry["metrics"])
            for entry in self.bundle.manifest["metrics"]
            if (entry["metrics"]["protocol"], entry["metrics"]["repetitions"]) == wanted
        }

    def sureness(self, choice: Choice) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Return encoder, confidences and hits of the chosen subject's trials, or of all."""
        analysis = self.analysis("confidence")
        subjects, found = _analysed(self, analysis), []
        self.check_subject(choice, subjects)
        chosen = slice(None) if choice.subject is None else [subjects.index(choice.subject)]
        measured = analysis.about["encoders"]
        for encoder in choice.encoders:
            if encoder in measured:
                # (n_subjects, n_encoders, n_repetitions, n_trials): with the most repetitions
                both = (analysis.arrays[kind] for kind in ("confidence", "rank"))
                sure, rank = (one[chosen, measured.index(encoder), -1].ravel() for one in both)
                found.append((encoder, sure.astype(float), rank == 1))
        if not found:
            raise InputError("Confidence wasn't measured for the chosen encoders.")
        return found

    def _calibration_error(self, encoder: str, subject: str | None) -> CalibrationError:
        ((_, sure, hits),) = self.sureness(Choice(subject, (encoder,), 1))
        return expected_calibration_error(sure, hits, draws=200)

    def who(self, choice: Choice) -> str:
        """Return whose accuracy it is."""
        if choice.subject is None:
            n = len(self.bundle.subjects)
            return f"mean of {n} subjects" if n > 1 else self.of_subject(self.bundle.subjects[0])
        return self.of_subject(choice.subject)

    def of_subject(self, subject: str) -> str:
        """Return how a subject is called on the page."""
        return f"Phantom {subject}" if self.bundle.simulated else f"Subject {subject}"

    def caption(self, choice: Choice | None, several: Sequence[Series] = (), more: str = "") -> str:
        """Return what every figure must say: whose, which interval, what chance is."""
        gallery, said = self.bundle.gallery, []
        said.append("Simulated EEG" if self.bundle.simulated else "EEG")
        if choice is not None:
            n = len(several[0].subjects) if several else len(self.bundle.subjects)
            if choice.subject is None and n > 1:
                said.append(f"mean of {n} subjects, 95 % t interval over them")
            elif choice.subject is None:
                said.append("one subject, too few for an interval")
            else:
                said.append(f"{self.who(choice)}, 95 % Wilson interval over pictures")
            said.append(f"chance {percent(choice.top / len(gallery))} %")
        said.append(f"{len(gallery)} candidates, protocol {gallery.protocol}")
        return f'<p class="caption">{escape("; ".join(said))}.{more and " " + escape(more)}</p>'


# ---------------------------------------------------------------- words


def label(series: Series) -> str:
    """Return how a series is called in a legend."""
    return draw.named(series.encoder, name_of(series.encoder), series.how)


def name_of(encoder: str) -> str:
    """Return an encoder's name as the page writes it."""
    return NAMES.get(encoder, encoder)


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


def paired(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of differences and its 95 % t interval; NaN with fewer than two."""
    differences = np.asarray(differences, float)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return mean, np.nan, np.nan
    # Student's quantile, as stats.t.ppf gives it a thousand times slower.
    half = float(stdtrit(n - 1, 0.975) * differences.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def ranked(top: int) -> str:
    """Return what a hit is, in words."""
    return "ranked first" if top == 1 else f"among the first {_WORDS.get(top, top)}"


_WORDS = {3: "three", 5: "five", 10: "ten"}


def _title(choice: Choice) -> str:
    return f"pictures {ranked(choice.top)} (%)"


def _says(*sentences: str) -> str:
    """Return sentences, each of which begins with a capital and ends with a full stop."""
    whole = " ".join(one[0].upper() + one[1:].rstrip(".") + "." for one in sentences)
    return f'<p class="says">{whole}</p>'


def _first(several: Sequence[Series], choice: Choice) -> Series:
    """Return the series that sentences speak of: the first chosen encoder's, as it is."""
    order = {encoder: place for place, encoder in enumerate(choice.encoders)}
    as_is = [one for one in several if one.how != RETRAINED]
    return min(as_is, key=lambda one: order[one.encoder]) if as_is else several[0]


def _spoken_of(several: Sequence[Series], choice: Choice) -> list[Series]:
    """Return the series that `_first` returns and the one that was trained anew."""
    first = _first(several, choice)
    return [first, *(one for one in several if one.how == RETRAINED and one is not first)]


def _ms(seconds: float) -> str:
    return f"{1000 * float(seconds):.0f}\u202fms"


# ---------------------------------------------------------------- how good


def table(evidence: Evidence, choice: Choice) -> Drawn:
    """Return all subjects × encoders."""
    encoders, subjects = evidence.encoders, evidence.bundle.subjects
    ways = len(evidence.bundle.gallery)

    def cell(*shares: tuple[float, float, float]) -> str:
        told = []
        for value, low, high in shares:
            ends = "" if np.isnan(low) else f"{percent(max(low, 0))}–{percent(min(high, 1))}"
            told.append(f"<td><b>{percent(value)}</b> <small>{ends}</small></td>")
        return "".join(told)

    def of_one(measured: Metrics) -> str:
        return cell(*((m.value, m.low, m.high) for m in (measured.top1, measured.top5)))

    blank = '<td colspan="2" class="none">not in this bundle</td>'
    heads = "".join(
        f'<th colspan="2" scope="colgroup">{escape(name_of(encoder))}</th>' for encoder in encoders
    )
    top_heads = '<th scope="col">top-1</th><th scope="col">top-5</th>' * len(encoders)
    rows, means = [], []
    for subject in subjects:
        measured = [evidence.metrics.get((subject, encoder)) for encoder in encoders]
        cells = "".join(of_one(m) if m else blank for m in measured)
        chosen = ' class="chosen"' if subject == choice.subject else ""
        name = escape(evidence.of_subject(subject))
        rows.append(f'<tr{chosen}><th scope="row">{name}</th>{cells}</tr>')
    for encoder in encoders:
        measured = [evidence.metrics.get((subject, encoder)) for subject in subjects]
        if len(subjects) > 1 and all(measured):
            tops = [[m.top1.value for m in measured], [m.top5.value for m in measured]]
            means.append(cell(*map(paired, tops)))
        else:
            means.append('<td colspan="2" class="none">–</td>')
    last = []
    if len(subjects) > 1:
        last.append(f'<tr class="mean"><th scope="row">Mean</th>{"".join(means)}</tr>')
    chance = f"<td>{percent(1 / ways)}</td><td>{percent(5 / ways)}</td>" * len(encoders)
    last.append(f'<tr class="soft"><th scope="row">Chance</th>{chance}</tr>')
    published = "".join(
        f"<td>{percent(PUBLISHED[e][0])}</td><td>{percent(PUBLISHED[e][1])}</td>"
        if e in PUBLISHED
        else '<td colspan="2" class="none">–</td>'
        for e in encoders
    )
    last.append(f'<tr class="soft published"><th scope="row">{draw.PUBLISHED}</th>{published}</tr>')
    looks = evidence.bundle.repetitions[-1]
    caption = evidence.caption(
        None, more=f"In per cent, {looks} repetitions averaged; small: 95 % intervals, Wilson's "
        f"over pictures, of the mean t over subjects. Published: {_CENTRES} (Song et al. 2024), "
        "so neither EEG nor protocol is the same.",
    )  # fmt: skip
    return Drawn(
        f'<div class="scroll" tabindex="0" role="region" aria-label="Accuracy of all subjects">'
        f'<table class="accuracies"><thead><tr><td></td>{heads}</tr><tr><td></td>{top_heads}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody><tfoot>{''.join(last)}</tfoot></table></div>"
        f"{caption}{_says(*_does_attention_help(evidence, choice))}"
    )


def _does_attention_help(evidence: Evidence, choice: Choice) -> list[str]:
    said = []
    for encoder in ("nice-sa", "nice-ga"):
        if encoder not in evidence.encoders or "nice" not in evidence.encoders:
            continue
        both = [
            (evidence.metrics.get((subject, encoder)), evidence.metrics.get((subject, "nice")))
            for subject in evidence.bundle.subjects
        ]
        hits = [[getattr(m, f"top{choice.top}").value for m in pair] for pair in both if all(pair)]
        if not hits:
            continue
        with_it, without = np.transpose(hits)
        mean, low, high = paired(with_it - without)
        kind = {"nice-sa": "self-attention", "nice-ga": "graph attention"}[encoder]
        if low > 0:
            verdict = f"{kind} over channels helps here."
        elif high < 0:
            verdict = f"{kind} over channels does harm here."
        else:
            verdict = f"{kind} over channels makes no difference that could be told from none."
        n = len(hits)
        how = f"paired, {n} subjects" if n > 1 else "one subject"
        how += f", one training each, top-{choice.top}"
        said.append(
            f"{name_of(encoder)} against NICE: {difference(mean, low, high)}, {how}; {verdict}"
        )
    return said or ["This bundle has no attention encoder beside NICE to compare."]


# ---------------------------------------------------------------- when


def growing(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw how accuracy grows with the part of the second that is used."""
    several = evidence.series(choice, "time", "growing windows")
    published = (600, AT_600_MS, f"600 ms: 15.8 % ({_CENTRES})") if choice.top == 1 else None
    html, figure = _over_time(evidence, choice, several, "end of the window", published)
    one = _first(several, choice)
    found, ends = one.accuracy(choice.top, choice.subject), np.array(one.axes[0].points, float)
    above = np.flatnonzero(found.value > found.threshold)
    most = np.flatnonzero(found.value >= 0.9 * found.value[-1])[0]
    if len(above):
        said = (
            f"With {escape(label(one))}, accuracy rises above chance once the window reaches "
            f"{_ms(ends[above[0]])}, and with the first {_ms(ends[most])} it has nine tenths of "
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
    for one in _spoken_of(several, choice):
        found, middles = one.accuracy(choice.top, choice.subject), one.axes[0].points
        best = int(found.value.argmax())
        tells = found.value[best] > found.threshold
        parts.append(
            f"{escape(label(one))}: best around {_ms(middles[best])} with {at(found, best)}"
            + ("" if tells else ", which chance may reach")
        )
    return Drawn(html("A tenth of a second alone – " + "; ".join(parts) + "."), figure)


def _over_time(
    evidence: Evidence, choice: Choice, several: list[Series], what: str, published
) -> tuple[Callable[[str], str], go.Figure]:
    curves = evidence.curves(several, choice)
    x = 1000 * np.array(several[0].axes[0].points, float)
    figure = draw.lines(
        curves, x.tolist(), f"{what} after the picture appears (ms)", _title(choice),
        marks=ONSETS, published=published, unit="ms",
    )  # fmt: skip
    legend = draw.legend(curves, published=bool(published), extra="the next picture appears")
    more = "Every 200 ms the next picture appears: a second of EEG holds five."
    return lambda said: legend + _says(said) + evidence.caption(choice, several, more), figure


def generalisation(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy of ridge trained at one time and tested at another."""
    (one, *_) = evidence.series(choice, "time", "temporal generalisation")
    found = one.accuracy(choice.top, choice.subject)
    trained, tested = (1000 * np.array(axis.points, float) for axis in one.axes)
    figure = draw.heatmap(
        found.value, tested.round().tolist(), trained.round().tolist(),
        ("tested at (ms)", "trained at (ms)", _title(choice)),
        "trained at %{y} ms, tested at %{x} ms: %{z} %", marks=ONSETS,
    )  # fmt: skip
    apart = np.abs(trained[:, None] - tested[None, :])
    best = int(np.diag(found.value).argmax()) if len(trained) == len(tested) else 0
    above = found.value > found.threshold
    far = above & (apart >= 100)
    said = (
        f"Trained and tested at the same moment, {escape(label(one))} is best at "
        f"{_ms(trained[best] / 1000)}: {at(found, (best, best))}. "
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
    return Drawn(_says(said) + evidence.caption(choice, [one], more), figure)


# ---------------------------------------------------------------- where, and which band


def _named_dots(
    evidence: Evidence,
    choice: Choice,
    analysis: str,
    name: str,
    sentence: Callable[[Series, Accuracy, list[str]], str],
    *,
    whole: str = "",
    more: str = "",
) -> Drawn:
    several = evidence.series(choice, analysis, name)
    curves = evidence.curves(several, choice)
    points = [str(point) for point in several[0].axes[0].points]
    names = [whole if whole and point == "all" else point for point in points]
    figure = draw.dots(curves, names, _title(choice))
    said = []
    for one in _spoken_of(several, choice):
        text = sentence(one, one.accuracy(choice.top, choice.subject), points)
        said.append(f"{escape(label(one))}: {text}")
    legend = draw.legend(curves, line=False)
    html = legend + _says(*said) + evidence.caption(choice, several, more)
    return Drawn(html, figure)


def _alone(one: Series, found: Accuracy, names: list[str]) -> str:
    """Say which part alone gives most, and which give nothing."""
    parts = [place for place, name in enumerate(names) if name != "all"]
    best = max(parts, key=lambda place: found.value[place])
    silent = [names[place] for place in parts if found.value[place] <= found.threshold]
    whole = f" of {at(found, names.index('all'))} with all" if "all" in names else ""
    said = f"{names[best]} alone gives most, {at(found, best)}{whole}"
    return said + (f"; at chance: {', '.join(silent)}" if silent else "")


def _without(one: Series, found: Accuracy, names: list[str], choice: Choice) -> str:
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
        lost = paired(hits[:, worst] - hits[:, whole])
        text += f" (paired over subjects {difference(*lost)})"
    return text


_MIXED = (
    "Whitened channels are mixtures: each holds a little of all others, so what is set to zero "
    "isn't quite gone."
)


def region_alone(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy with each region alone."""
    return _named_dots(
        evidence, choice, "space", "a region alone", _alone, whole="all regions", more=_MIXED
    )


def region_missing(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy without each region."""
    sentence = partial(_without, choice=choice)
    return _named_dots(
        evidence, choice, "space", "without a region", sentence, whole="all regions",
        more="In the paper, on other data, occipital electrodes are missed most, then parietal and "
        "temporal, frontal and central least.",
    )  # fmt: skip


def presets(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy with fewer electrodes."""

    def sentence(one: Series, found: Accuracy, names: list[str]) -> str:
        return ", ".join(f"{at(found, i)} with {name} electrodes" for i, name in enumerate(names))

    return _named_dots(evidence, choice, "space", "a preset of electrodes", sentence)


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
    bar = draw.colour_bar("0 %", f"{percent(high)} %", _title(choice).removesuffix(" (%)"))
    more = "Each electrode stands for itself and its neighbours nearer than 5 cm; nose up."
    return Drawn(
        f'<div class="maps">{"".join(maps)}</div>{bar}'
        f"{_says(*said)}{evidence.caption(choice, several, more)}"
    )


def band_alone(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy with each frequency band alone."""
    return _named_dots(
        evidence, choice, "frequency", "a band alone", _alone, whole="all bands",
        more="In the paper, on other data, theta and beta carry information, gamma about none.",
    )  # fmt: skip


def band_missing(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy without each frequency band."""
    sentence = partial(_without, choice=choice)
    return _named_dots(
        evidence, choice, "frequency", "without a band", sentence, whole="all bands",
        more="Butterworth filters of order 4 without phase shift.",
    )  # fmt: skip


# ---------------------------------------------------------------- how many looks


def looks(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy over the number of repetitions averaged."""
    several = evidence.series(choice, "repetitions", "test repetitions")
    curves = []
    for one in several:
        low, high = evidence.band(one.encoder, choice.subject, choice.top)
        accuracy = one.accuracy(choice.top, choice.subject)
        banded = Accuracy(accuracy.value, low, high, accuracy.chance, accuracy.threshold)
        curves.append(draw.curve(label(one), one.encoder, one.how, banded))
    x = [float(point) for point in several[0].axes[0].points]
    reference = HEADLINE[choice.top != 1]
    published = (80, reference, f"80 looks: {percent(reference)} % ({_CENTRES})")
    published = published if x[-1] >= 80 and choice.top in (1, 5) else None
    figure = draw.lines(
        curves, x, "repetitions averaged (looks at the same picture)", _title(choice),
        published=published, logarithmic=True,
    )  # fmt: skip
    one = _first(several, choice)
    found = one.accuracy(choice.top, choice.subject)
    low, high = evidence.band(one.encoder, choice.subject, choice.top)
    first, last = (share(found.value[i], low[i], high[i]) for i in (0, -1))
    said = (
        f"With {escape(label(one))}, {x[0]:g} look gives {first}, {x[-1]:g} looks {last}: "
        "averaging lowers the noise, and what is common to all looks remains."
    )
    gallery = evidence.bundle.gallery
    caption = (
        f'<p class="caption">{"Simulated EEG; " if evidence.bundle.simulated else ""}'
        f"{escape(evidence.who(choice))}; bands: 95 % bootstrap over pictures"
        f"{' and subjects' if choice.subject is None else ''}; {len(gallery)} candidates, "
        f"protocol {gallery.protocol}.</p>"
    )
    html = draw.legend(curves, published=bool(published)) + _says(said) + caption
    return Drawn(html, figure)


def training_size(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy over the share of training pictures."""
    several = evidence.series(choice, "repetitions", "training pictures")
    curves = evidence.curves(several, choice)
    x = [float(point) for point in several[0].axes[0].points]
    figure = draw.lines(curves, x, "share of the training pictures (%)", _title(choice), unit="%")
    found = several[0].accuracy(choice.top, choice.subject)
    gained = found.value[-1] - found.value[-2] if len(x) > 1 else 0.0
    said = (
        f"{escape(label(several[0]))}: {at(found, 0)} with {x[0]:g} % of the pictures, "
        f"{at(found, -1)} with all"
    )
    if len(x) > 1:
        said += f"; the last step adds {difference(gained, np.nan, np.nan)}"
    html = draw.legend(curves) + _says(said) + evidence.caption(choice, several)
    return Drawn(html, figure)


# ---------------------------------------------------------------- what


def _of_choice(evidence: Evidence, choice: Choice, arrays: np.ndarray, subjects: list[str]):
    """Return the chosen subject's array, or the mean over all."""
    evidence.check_subject(choice, subjects)
    if choice.subject is None:
        return np.asarray(arrays, float).mean(0)
    return np.asarray(arrays[subjects.index(choice.subject)], float)


def _analysed(evidence: Evidence, analysis: Analysis) -> list[str]:
    found = analysis.about.get("subjects") or evidence.bundle.subjects
    return [str(subject) for subject in found]


def _array(analysis: Analysis, kind: str, choice: Choice) -> tuple[str, np.ndarray]:
    """Return the first chosen encoder that has such an array, and the array."""
    for encoder in choice.encoders:
        if f"{kind} {encoder}" in analysis.arrays:
            return encoder, analysis.arrays[f"{kind} {encoder}"]
    raise InputError(f"The analysis {analysis.name!r} wasn't made of the chosen encoders.")


def similarities(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw similarities of decoded embeddings beside those of the pictures."""
    analysis = evidence.analysis("meaning")
    about, subjects = analysis.about, _analysed(evidence, analysis)
    encoder, arrays = _array(analysis, "decoded", choice)
    order = np.array(about.get("order") or np.arange(arrays.shape[-1]))
    decoded = _of_choice(evidence, choice, arrays, subjects)[np.ix_(order, order)]
    rows = evidence.bundle.gallery.embeddings[order].astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # The diagonal, a picture with itself, is drawn as the most alike.
    decoded, image = (np.nan_to_num(percentiles(one), nan=100) for one in (decoded, rows @ rows.T))
    categories, sizes = about.get("categories") or [], np.bincount(about.get("category") or [0])
    groups = list(zip(categories, sizes.tolist(), strict=False))
    pictures = (
        draw.matrix(decoded, 0, 100, groups, f"decoded from EEG by {name_of(encoder)}"),
        draw.matrix(image, 0, 100, groups, "the pictures, by the image model"),
    )
    bar = draw.colour_bar("0 %", "100 %", "of all pairs are less alike")
    figures = _meaning_figures(evidence, choice, analysis, encoder)
    names = about["figures"]
    rho = figures[0]
    said = (
        f"The two go along with each other: rank correlation over pairs {_number(*rho[:3])}"
        if rho[0] > rho[5]
        else f"The two don't go along with each other beyond chance: {_number(*rho[:3])}"
    )
    said += f", where chance is {two_digits(rho[3])} and rarely above {two_digits(rho[5])}"
    if "correlation within categories" in names:
        within = figures[names.index("correlation within categories")]
        tells = (
            "more than the category was decoded"
            if within[0] > within[5]
            else "beyond the category nothing can be told"
        )
        said += f". Within categories it is {_number(*within[:3])}: {tells}"
    whose = "Mean of all subjects" if choice.subject is None else evidence.who(choice)
    more = f"{whose}. Ranks, which is what is correlated; squares along the diagonal: categories."
    return Drawn(
        f'<div class="matrices">{"".join(pictures)}</div>{bar}{_says(said)}'
        f"{evidence.caption(None, more=more)}"
    )


def _number(value: float, low: float, high: float) -> str:
    interval = "" if np.isnan(low) else f" ({two_digits(low)} to {two_digits(high)})"
    return two_digits(value) + interval


def _meaning_figures(
    evidence: Evidence, choice: Choice, analysis: Analysis, encoder: str
) -> np.ndarray:
    """Return figures × (value, low, high, chance, p, threshold)."""
    figures, null = (analysis.arrays[f"{kind} {encoder}"] for kind in ("figures", "null"))
    subjects = _analysed(evidence, analysis)
    evidence.check_subject(choice, subjects)
    if choice.subject is None:
        return over_subjects(figures.astype(float), null.astype(float))
    return figures[subjects.index(choice.subject)].astype(float)


def confusions(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw how often a wrong first choice has the category of the picture seen."""
    analysis = evidence.analysis("meaning")
    categories = analysis.about.get("categories")
    if not categories:
        raise InputError("The gallery names no categories, so confusions can't be counted by them.")
    encoders = [e for e in choice.encoders if f"figures by category {e}" in analysis.arrays]
    encoder, _ = _array(analysis, "figures by category", choice)
    subjects = _analysed(evidence, analysis)
    row = analysis.about["figures"].index("wrong choices within the category")
    curves, of_all = [], []
    for one in encoders:
        figures = _meaning_figures(evidence, choice, analysis, one)[row]
        of_all.append(figures)
        of_each = analysis.arrays[f"figures by category {one}"].astype(float)[:, :, 1]
        evidence.check_subject(choice, subjects)
        if choice.subject is None:
            each = _mean_of_categories(of_each)
        else:
            each = of_each[subjects.index(choice.subject)]
        both = np.vstack([figures[:6], each])
        colour, symbol = draw.ENCODERS.get(one, draw.OTHER)
        curves.append(
            Curve(name_of(one), colour, symbol, False, both[:, 0], both[:, 1], both[:, 2])
        )
        chance = both[:, 3]
    by_chance = Curve("by chance", draw.FIELD_POWER, "diamond", True, chance,
                      np.full_like(chance, np.nan), np.full_like(chance, np.nan))  # fmt: skip
    names = ["all categories", *categories]
    figure = draw.dots([*curves, by_chance], names, "wrong choices within the category seen (%)")
    value, low, high, at_chance, _, threshold = of_all[0]
    if np.isnan(value):
        raise InputError("There are too few wrong choices to ask where they fall.")
    tells = (
        f"more than the {percent(at_chance)}\u202f% of blind errors: they stay in the category"
        if value > threshold
        else f"no more than blind errors do ({percent(at_chance)}\u202f%)"
    )
    said = (
        f"Of {escape(name_of(encoder))}'s wrong first choices {share(value, low, high)} fall into "
        f"the category of the picture seen, {tells}."
    )
    whose = "mean of subjects, 95 % t interval" if choice.subject is None else (
        f"{evidence.who(choice)}, 95 % Wilson interval"
    )  # fmt: skip
    html = draw.legend([*curves, by_chance], line=False) + _says(said)
    return Drawn(html + evidence.caption(None, more=f"First choices only; {whose}."), figure)


def _mean_of_categories(of_each: np.ndarray) -> np.ndarray:
    """Average (n_subjects, n_categories, 6) over the subjects who erred in a category."""
    rows = []
    for figures in np.moveaxis(of_each, 1, 0):
        known = figures[np.isfinite(figures[:, 0])]
        if not len(known):
            rows.append([np.nan] * 6)
            continue
        rows.append([*paired(known[:, 0]), known[:, 3].mean(), np.nan, np.nan])
    return np.array(rows)


# ---------------------------------------------------------------- whom


def subjects_matrix(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw how encoders of one subject read the EEG of others."""
    several = evidence.series(choice, "transfer", "encoder of another subject")
    one = _first(several, choice)
    trained = [str(point) for point in one.axes[0].points]
    hits = (one.ranks <= choice.top).mean(-1)  # (tested on, trained on)
    figure = draw.heatmap(
        hits, trained, one.subjects,
        ("trained on subject", "tested on subject", _title(choice)),
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
            f"{name} reads its own subject with {share(*paired(own))} and others' with "
            f"{share(*paired(others))} (mean over subjects, t interval)"
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
    return Drawn(_says(said) + evidence.caption(None, more=more), figure)


_POOLS = {"own": "the subject's own", "the others": "the other subjects'", "all together": "all"}


def pooled(evidence: Evidence, choice: Choice) -> Drawn:
    """Draw accuracy of an encoder trained on other subjects, or on all."""
    several = evidence.series(choice, "transfer", "pooled training")
    curves = evidence.curves(several, choice)
    points = [str(point) for point in several[0].axes[0].points]
    published = None
    if "the others" in points and choice.top in (1, 5):
        reference = OTHERS[choice.top != 1]
        said = f"NICE, the others: {percent(reference)} % ({_CENTRES})"
        published = (points.index("the others"), reference, said)
    names = [_POOLS.get(point, point) for point in points]
    figure = draw.dots(curves, names, _title(choice), published=published, left=128)
    one, parts = several[0], []
    found = one.accuracy(choice.top, choice.subject)
    parts = [f"{at(found, i)} from {name}" for i, name in enumerate(names)]
    said = f"{escape(label(one))} on training trials: " + ", ".join(parts)
    if "own" in points and "all together" in points and choice.subject is None:
        hits = (one.ranks <= choice.top).mean(-1)
        gain = paired(hits[:, points.index("all together")] - hits[:, points.index("own")])
        if gain[1] > 0:
            verdict = "pooling subjects helps"
        elif gain[2] < 0:
            verdict = "pooling subjects does harm"
        else:
            verdict = "pooling makes no difference that could be told from none"
        said += f". All against own: {difference(*gain)}, {verdict}"
    html = draw.legend(curves, line=False, published=bool(published)) + _says(said)
    more = "A published value: NICE on nine other people." if published else ""
    return Drawn(html + evidence.caption(choice, several, more), figure)


# ---------------------------------------------------------------- which map to trust


def maps_table(evidence: Evidence, choice: Choice) -> Drawn:
    """Return the leaderboard of attribution methods: how well they find the simulated sources."""
    analysis = evidence.analysis("truth")
    by = {
        figure: {(row.encoder, row.kind): row for row in evidence.leaderboard(figure)}
        for figure in ("times", "distance")
    }
    rows = [row for row in evidence.leaderboard("channels") if row.encoder in choice.encoders]
    if not rows:
        raise InputError("No map was scored for the chosen encoders.")

    def cells(row, digits: int) -> str:
        if row is None:
            return '<td colspan="2" class="none">–</td>'

        def text(x: float) -> str:
            return f"{x:.{digits}f}".replace("-", "−")

        def cell(one) -> str:
            interval = (
                "" if np.isnan(one.low) else f"<small>{text(one.low)} to {text(one.high)}</small>"
            )
            return f"<td>{text(one.value)} {interval}</td>"

        trained = cell(row.trained)
        if row.learned:
            trained = trained.replace("<td>", '<td class="learned"><b>').replace(
                " <small>", "</b> <small>"
            )
        return trained + cell(row.untrained)

    body = "".join(
        f'<tr><th scope="row">{escape(row.kind)}</th><td class="who">{escape(name_of(row.encoder))}'
        f"</td>{cells(row, 2)}"
        f"{cells(by['times'].get((row.encoder, row.kind)), 2)}"
        f"{cells(by['distance'].get((row.encoder, row.kind)), 0)}</tr>"
        for row in rows
    )
    best = rows[0]
    learned = [row for row in rows if row.learned]
    said = (
        f"Most beyond untrained weights and chance: {escape(best.kind)} of "
        f"{escape(name_of(best.encoder))}, "
        f"{_number(best.trained.value, best.trained.low, best.trained.high)} trained and "
        f"{_number(best.untrained.value, best.untrained.low, best.untrained.high)} untrained. "
        f"{len(learned) or 'None'} of {len(rows)} maps {'beats' if len(learned) == 1 else 'beat'} "
        "both beyond doubt. A map that looks as right before training shows where the EEG is "
        "strong, not what the encoder learned."
    )
    pictures = analysis.about.get("pictures")
    more = (
        f"{'Maps of ' + str(pictures) + ' pictures averaged. ' if pictures else ''}Mean over all "
        "subjects, small: 95 % t interval. Bold: beats untrained weights and chance beyond doubt. "
        + str(analysis.about.get("note", ""))
    )
    heads = "".join(
        f'<th colspan="2" scope="colgroup">{head}</th>'
        for head in ("channels: correlation", "time: correlation", "peak: distance (mm)")
    )
    return Drawn(
        '<div class="scroll" tabindex="0" role="region" aria-label="Maps against the truth">'
        f'<table class="accuracies maps-table"><thead><tr><td></td><td></td>{heads}</tr>'
        f'<tr><th scope="col">map</th><th scope="col">encoder</th>'
        + '<th scope="col">trained</th><th scope="col">untrained</th>'
        * 3
        + f"</tr></thead><tbody>{body}</tbody></table></div>{_says(said)}"
        f"{evidence.caption(None, more=more)}"
    )


# ---------------------------------------------------------------- how sure


def _whose_trials(evidence: Evidence, choice: Choice) -> str:
    looks = evidence.bundle.repetitions[-1]
    whose = "all subjects' trials together" if choice.subject is None else evidence.who(choice)
    return f"Always top-1; {whose}, {looks} repetitions averaged"


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
    html = draw.legend([c for c, _ in curves]) + _says(*said)
    return Drawn(html + evidence.caption(None, more=more), figure)


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
    html = draw.legend([c for c, _ in curves]) + _says(*said)
    return Drawn(html + evidence.caption(None, more=more), figure)


# ---------------------------------------------------------------- all of it, in order

ALL = frozenset({"subject", "encoders", "top"})


@dataclass(frozen=True)
class Panel:
    """A figure with its heading.

    Attributes
    ----------
    id : str
    title, help : str
        The heading, and the two sentences behind its question mark.
    analysis : str
        Which one it is drawn from; empty for the bundle's own metrics.
    what : str
        What it would show, where the analysis is missing.
    draw : callable
        (Evidence, Choice) → Drawn; raises InputError with a sentence instead of an empty plot.
    changes_with : frozenset of str
        Fields of `Choice` that it depends on.
    wide : bool
        Takes the whole width.
    """

    id: str
    title: str
    help: str
    analysis: str
    what: str
    draw: Callable[[Evidence, Choice], Drawn]
    changes_with: frozenset[str] = ALL
    wide: bool = False

    def drawn(self, evidence: Evidence, choice: Choice) -> Drawn:
        """Draw, or say in a sentence why not."""
        if not choice.encoders:
            return Drawn(_notice("Choose at least one encoder above."))
        try:
            return self.draw(evidence, choice)
        except Absent:
            return Drawn(_notice(
                f"Here would stand {escape(self.what)}; this bundle doesn't hold it yet. "
                f"<code>python -m nice_demo.analyse BUNDLE --what {self.analysis} --store"
                "</code> makes it."
            ))  # fmt: skip
        except InputError as error:
            return Drawn(_notice(f"{escape(str(error))} Here would stand {escape(self.what)}."))


def _notice(html: str) -> str:
    return f'<p class="absent" role="status">{html}</p>'


SECTIONS: list[tuple[str, list[Panel]]] = [
    (
        "How good",
        [
            Panel(
                "how-good", "All subjects and encoders",
                "Of how many pictures the one that was seen is the decoder's first choice (top-1) "
                "or among its first five (top-5). It says nothing about single looks: as many "
                "repetitions as there are were averaged.",
                "", "the accuracy of all subjects", table, frozenset({"subject", "top"}), True,
            ),
        ],
    ),
    (
        "When",
        [
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
        ],
    ),
    (
        "Where",
        [
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
        ],
    ),
    (
        "Which band",
        [
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
        ],
    ),
    (
        "How many looks",
        [
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
        ],
    ),
    (
        "What",
        [
            Panel(
                "similarities", "Which pictures are alike",
                "Similarity of each picture to each other one: as decoded from EEG, and as the "
                "image model has it, ordered by category. Blocks mean that categories are told "
                "apart, which is less than telling pictures apart.",
                "meaning", "how alike the decoded pictures are", similarities,
                frozenset({"subject", "encoders"}), True,
            ),
            Panel(
                "confusions", "What is taken for what",
                "Of the wrong first choices, the share that has the category of the picture seen. "
                "Chance is what as many blind errors would give, by the sizes of the categories.",
                "meaning", "how often errors stay in the category", confusions,
                frozenset({"subject", "encoders"}), True,
            ),
        ],
    ),
    (
        "Whom",
        [
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
        ],
    ),
    (
        "Which map to trust",
        [
            Panel(
                "truth", "Maps against the truth",
                "How well each kind of map finds where and when a phantom's EEG truly depends on "
                "the picture, beside the same map of untrained weights. It can be known of "
                "simulated EEG alone, and holds for real EEG only as far as it is alike.",
                "truth", "how well each kind of map finds the simulated sources", maps_table,
                frozenset({"encoders"}), True,
            ),
        ],
    ),
    (
        "How sure",
        [
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
        ],
    ),
]  # fmt: skip

PANELS: list[Panel] = [panel for _, panels in SECTIONS for panel in panels]
