"""The words, tables and the figure of the tab "Your decoder".

In flow `Opened` decoders; out flow HTML and a figure of plotly. Every text that comes from a file
or a visitor is escaped here.
"""

import base64
import json
from html import escape

import numpy as np

from nice_demo.comparison import NOT_CORRECTED, Paired, in_words, points
from nice_demo.retrieval import Estimate, Metrics, Proportion, wilson
from nice_demo.ui import cards
from nice_demo.ui.figures import FIELD_POWER, GRID
from nice_demo.ui.latents.opened import Opened

# Okabe and Ito's blue and orange, told apart with any colour vision; the second is dashed as well.
COLOURS = ("#0072b2", "#e69f00")
POINTS = 60  # of a curve

INTRO = (
    "What did your decoder make of the EEG? Bring its output for your test pictures and the "
    "embeddings it is compared with, and see the figures that this page gives for its own: ranks "
    "with chance and intervals, and a paired test against a second decoder."
)
PRIVACY = (
    "Files are deleted as soon as they are read. Their numbers stay in memory for this session, "
    "30 minutes at most."
)
_HELP_OVERALL = (
    "How near the picture that was seen comes among all candidates, over all pictures, with 95 % "
    "intervals over trials (Wilson; of the median by order statistics) and what guessing gives. "
    "It says how well these files fit each other, not how they were made: a decoder that was "
    "chosen on its test pictures looks better than it is."
)
_HELP_CURVE = (
    "For each number k, the share of pictures that come among the first k candidates; the band is "
    "the Wilson 95 % interval, dots are chance. Curves of different galleries or protocols aren't "
    "comparable, because more candidates, or nearer ones, make the task harder."
)
_HELP_PAIRED = (
    "Both decoders had the same pictures, so what counts are the pictures that only one of them "
    "gets right: an exact McNemar test of these, and the difference with Newcombe's interval for "
    "pairs. It speaks about other pictures like these, not about other people."
)


def empty() -> str:
    """Return what stands where the result will be while a visitor's files are missing."""
    return (
        '<section class="absent latents-empty"><h2>Two files, then everything else appears here'
        "</h2><ol><li><b>Latents</b>: what your decoder made of the EEG, one row for each test "
        "picture.</li><li><b>Gallery</b>: the embeddings of the pictures, in the same order: row "
        "<i>i</i> of the latents was decoded while picture <i>i</i> was seen.</li></ol>"
        "<p>In Python: <code>numpy.save(&quot;latents.npy&quot;, latents)</code>. Files that can "
        "hold programs (<code>.pt</code>, <code>.pkl</code>) aren't opened.</p></section>"
    )


def read(parts: dict[str, tuple[str, str]]) -> str:
    """Say which of a visitor's files were read.

    Parameters
    ----------
    parts : dict of str to (str, str)
        What it is → the file's name and what was in it.
    """
    if not parts:
        return ""
    rows = "".join(
        f"<li><span>{escape(what)}</span> <b>{escape(name)}</b> {escape(says)}</li>"
        for what, (name, says) in parts.items()
    )
    return f'<ul class="latents-read" role="status">{rows}</ul>'


def source(opened: Opened) -> str:
    """Say whose output it is."""
    simulated = " Simulated: no person was measured." if opened.decoder.simulated else ""
    return f'<p class="latents-source">{escape(opened.source)}{simulated}</p>'


# ---------------------------------------------------------------- figures of each decoder


def _share(figure: Proportion | Estimate) -> str:
    return (
        f"{cards.percent(figure.value)} % <small>{cards.percent(figure.low)}–"
        f"{cards.percent(figure.high)}</small>"
    )


def _number(figure: Estimate, digits: int) -> str:
    def text(value: float) -> str:
        return f"{value:.{digits}f}".removesuffix(".0")

    return f"{text(figure.value)} <small>{text(figure.low)}–{text(figure.high)}</small>"


def table(opened: Opened, which: list[int]) -> str:
    """Return the figures of one or two decoders, a row for each."""
    measured = [opened.metrics(one) for one in which]
    rows = [
        ("right one first", "top1", _share, lambda chance: f"{cards.percent(chance)} %"),
        ("among the first three", "top3", _share, lambda chance: f"{cards.percent(chance)} %"),
        ("among the first five", "top5", _share, lambda chance: f"{cards.percent(chance)} %"),
        ("median rank", "median_rank", lambda f: _number(f, 1), lambda chance: f"{chance:g}"),
        (
            "mean reciprocal rank",
            "mean_reciprocal_rank",
            lambda f: _number(f, 2),
            lambda chance: f"{chance:.2f}",
        ),
    ]
    lines = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{cell(getattr(found, key))}</td>" for found in measured)
        + f"<td>{chance(getattr(measured[0], key).chance)}</td></tr>"
        for name, key, cell, chance in rows
    )
    heads = "".join(
        f'<th scope="col">{_swatch(place)}<span>{escape(opened.labels[one])}</span></th>'
        for place, one in enumerate(which)
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures"><table '
        'class="accuracies latents-figures"><thead><tr><th scope="col"><span class="spoken">figure'
        f'</span></th>{heads}<th scope="col">chance</th></tr></thead><tbody>{lines}</tbody></table>'
        "</div>"
    )


def _swatch(place: int) -> str:
    return _line(COLOURS[place], 3, "5 3" if place else "none")


def _line(colour: str, width: int, dashes: str) -> str:
    return (
        f'<svg width="22" height="8" aria-hidden="true"><path d="M0 4H22" stroke="{colour}" '
        f'stroke-width="{width}" stroke-dasharray="{dashes}"/></svg>'
    )


def overall(opened: Opened, which: list[int]) -> str:
    """Return heading, sentence and table of one or two decoders over all pictures."""
    sentences = []
    for one in which:
        metrics: Metrics = opened.metrics(one)
        label = ""
        if len(which) > 1:
            label = f'<p class="latents-name">{escape(opened.labels[one])}</p>'
        sentences.append(label + cards.overall(metrics, opened.decoder.simulated))
    return (
        f"{cards.heading('Over all pictures', _HELP_OVERALL)}{''.join(sentences)}"
        f"{table(opened, which)}"
    )


def curve_heading() -> str:
    """Return the heading of `curve`."""
    return cards.heading("Among the first k", _HELP_CURVE)


def curve(opened: Opened, which: list[int]) -> dict:
    """Draw the share of pictures among the first k, over k, with intervals and chance."""
    ways = len(opened.decoder.gallery)
    k = np.unique(np.round(np.geomspace(1, ways, POINTS)).astype(int))
    traces = []
    for place, one in enumerate(which):
        ranks, colour = opened.ranks(one), COLOURS[place]
        hits = [int((ranks <= first).sum()) for first in k]
        shares = [round(100 * count / len(ranks), 2) for count in hits]
        ends = [wilson(count, len(ranks)) for count in hits]
        low, high = ([round(100 * end[i], 2) for end in ends] for i in (0, 1))
        name = _plain(opened.labels[one])
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        traces += [
            {
                "type": "scatter", "mode": "lines", "x": [*k.tolist(), *k[::-1].tolist()],
                "y": [*high, *low[::-1]], "fill": "toself", "hoverinfo": "skip",
                "fillcolor": f"rgba({red},{green},{blue},0.16)", "line": {"width": 0},
            },
            {
                "type": "scatter", "mode": "lines", "x": k.tolist(), "y": shares, "name": name,
                "customdata": [[a, b] for a, b in zip(low, high, strict=True)],
                "line": {"color": colour, "width": 2.5, "dash": "dash" if place else "solid"},
                "hovertemplate": "first %{x}: %{y:.1f} % (%{customdata[0]:.1f}–"
                "%{customdata[1]:.1f})<extra>" + name + "</extra>",
            },
        ]  # fmt: skip
    traces.append({
        "type": "scatter", "mode": "lines", "x": k.tolist(), "name": "chance",
        "y": (100 * k / ways).round(2).tolist(),
        "hovertemplate": "chance %{y:.1f} %<extra></extra>",
        "line": {"color": FIELD_POWER, "width": 1.5, "dash": "dot"},
    })  # fmt: skip
    axis = {"zeroline": False, "gridcolor": GRID, "fixedrange": True, "ticklen": 3}
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 500, 2000, 10000) if k < 0.7 * ways]
    font = {"size": 11}
    layout = {
        "margin": {"l": 44, "r": 12, "t": 6, "b": 38}, "height": 220, "showlegend": False,
        "hovermode": "closest", "dragmode": False,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 11, "color": FIELD_POWER, "family": "system-ui, sans-serif"},
        "xaxis": {
            **axis, "type": "log", "range": [0, float(np.log10(ways))],
            "tickvals": [*ticks, ways], "ticktext": [str(k) for k in (*ticks, ways)],
            "title": {"text": "k, of all candidates", "standoff": 6, "font": font},
        },
        "yaxis": {
            **axis, "range": [0, 101], "nticks": 5,
            "title": {"text": "among the first k (%)", "standoff": 4, "font": font},
        },
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def _plain(text: str) -> str:
    """Escape what plotly takes for markup."""
    return escape(text[:60], quote=False).replace("%{", "% {")


def legend(opened: Opened, which: list[int]) -> str:
    """Return which line is whose."""
    lines = "".join(
        f"<li>{_swatch(place)}{escape(opened.labels[one])}</li>" for place, one in enumerate(which)
    )
    return f'<ul class="legend">{lines}<li>{_line(FIELD_POWER, 2, "2 3")}chance</li></ul>'


# ---------------------------------------------------------------- comparison


def paired(opened: Opened, first: int, second: int) -> str:
    """Return the comparison of two decoders: a sentence, and a row for each figure."""
    found: Paired = opened.compared(first, second)
    names = opened.labels[first], opened.labels[second]
    rows = []
    for name, hits in (("right one first", found.top1), ("among the first five", found.top5)):
        low, high = hits.interval
        rows.append((
            name, f"{points(hits.difference)} <small>{points(low)} to {points(high)}</small>",
            hits.only_first, hits.only_second, hits.p,
        ))  # fmt: skip
    near = found.reciprocal_rank
    value = _signed(near.difference)
    if near.low is not None:
        value += f" <small>{_signed(near.low)} to {_signed(near.high)}</small>"
    rows.append(("mean reciprocal rank", value, near.nearer, near.farther, near.p))
    lines = "".join(
        f'<tr><th scope="row">{name}</th><td>{value}</td><td>{only_first}</td>'
        f"<td>{only_second}</td><td>{_p(p)}</td></tr>"
        for name, value, only_first, only_second, p in rows
    )
    kind = " Simulated EEG." if opened.decoder.simulated else ""
    return (
        f"{cards.heading('Which is better?', _HELP_PAIRED)}"
        f'<p class="latents-verdict">{escape(in_words(found, *names))}{kind}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Comparison"><table '
        'class="accuracies latents-figures"><thead><tr><th scope="col"><span class="spoken">figure'
        '</span></th><th scope="col">difference</th>'
        f'<th scope="col">{_swatch(0)}only first</th><th scope="col">{_swatch(1)}only second</th>'
        f'<th scope="col">p</th></tr></thead><tbody>{lines}</tbody></table></div>'
        f'<p class="caption">Difference in points, {escape(names[0])} above {escape(names[1])}; '
        "“only”: pictures that only this one gets right, or ranks nearer. "
        f"{escape(NOT_CORRECTED)}</p>"
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _p(p: float) -> str:
    return "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def download(content: dict) -> str:
    """Return a link that holds the result itself, so that no file of it has to be kept."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return (
        '<p class="latents-download"><a download="nice-demo-your-decoder.json" '
        f'href="data:application/json;base64,{base64.b64encode(text).decode()}">'
        "Download this result (JSON)</a></p>"
    )
