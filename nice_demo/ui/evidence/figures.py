"""How the tab "Evidence" draws: curves, dots, matrices and scalp maps of accuracy.

In flow accuracies of an analysis as `Curve`s or arrays, out flow plotly figures in per cent, and
SVG for what has tens of thousands of pixels. Colours, symbols and dashes mean the same everywhere
and are explained by `legend`, outside of the plots, so that it takes no room from the data.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.colors import hex_to_rgb, sequential, unlabel_rgb
from scipy.ndimage import distance_transform_edt

from nice_demo.analysis.series import RETRAINED, Accuracy, Series
from nice_demo.montage import Montage
from nice_demo.ui.evidence.store import Choice
from nice_demo.ui.evidence.words import label
from nice_demo.ui.figures import FIELD_POWER, GRID

# Okabe & Ito's colours, which people with any colour vision tell apart; without their green, since
# on this page green is what was seen. A symbol for each, so that nothing rests on colour alone.
ENCODERS = {
    "nice": ("#0072B2", "circle"),
    "nice-sa": ("#DB9400", "square"),
    "nice-ga": ("#D55E00", "diamond"),
    "ridge": ("#CC79A7", "triangle-up"),
}
OTHER = (FIELD_POWER, "circle")
PUBLISHED = "Published, other data (THINGS-EEG2)"
CHANCE, THRESHOLD = "chance", "permutation threshold (p < 0.05 for all points together)"
# Perceptually even from dark blue to yellow, made for colour-blind eyes (Nuñez et al. 2018).
CIVIDIS = [(place / (len(sequential.Cividis) - 1), c) for place, c in enumerate(sequential.Cividis)]
_STOPS = np.array(
    [hex_to_rgb(c) if c.startswith("#") else unlabel_rgb(c) for c in sequential.Cividis]
)
PALETTE = np.stack(
    [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_STOPS)), c) for c in _STOPS.T], 1
).astype(np.uint8)
FONT = {"size": 11, "color": FIELD_POWER, "family": "system-ui, sans-serif"}


@dataclass(frozen=True)
class Curve:
    """Accuracies along an axis, and how they look.

    Attributes
    ----------
    label : str
    colour, symbol : str
    open : bool
        Dashed line and hollow symbols.
    value, low, high : array of shape (n_points,)
        Shares; low and high may be NaN.
    chance, threshold : float
        Threshold NaN: none is drawn.
    """

    label: str
    colour: str
    symbol: str
    open: bool
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: float = np.nan
    threshold: float = np.nan


def curve(series: Series, accuracy: Accuracy) -> Curve:
    """Give accuracies the look of their encoder: filled as it ships, open where retrained."""
    colour, symbol = ENCODERS.get(series.encoder, OTHER)
    return Curve(
        label(series), colour, symbol, series.how == RETRAINED, accuracy.value, accuracy.low,
        accuracy.high, accuracy.chance, accuracy.threshold,
    )  # fmt: skip


def curves(several: Sequence[Series], choice: Choice) -> list[Curve]:
    """Return what is drawn of series."""
    return [curve(one, one.accuracy(choice.top, choice.subject)) for one in several]


def points(shares: np.ndarray) -> list:
    """Return shares as per cent with two decimals, None for NaN: short JSON."""
    return [None if np.isnan(x) else round(100 * float(x), 2) for x in np.ravel(shares)]


def _axis(title: str, **more) -> dict:
    return {
        "zeroline": False, "gridcolor": GRID, "fixedrange": True, "ticklen": 3,
        "title": {"text": title, "standoff": 6, "font": {"size": 11}}, **more,
    }  # fmt: skip


def _figure(traces: list[dict], xaxis: dict, yaxis: dict, height: int, **layout) -> go.Figure:
    content = {
        "margin": {"l": 46, "r": 16, "t": 8, "b": 40},
        "template": {},  # plotly's own has more bytes than all else
        "height": height,
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": FONT,
        "xaxis": xaxis,
        "yaxis": yaxis,
    } | layout
    # The dictionaries are ours; validating them would take longer than making them.
    return go.Figure({"data": traces, "layout": content}, _validate=False)


def _known(values) -> list[float]:
    return [float(value) for value in values if np.isfinite(value)]


def _highest(curves: Sequence[Curve], *more: float) -> float:
    """Return where the axis of accuracies ends, per cent."""
    of_curves = [max(_known([*c.value, *c.high, c.threshold]), default=0.0) for c in curves]
    return min(round(106 * max([*of_curves, *more]), 2), 103)


def _line(x: str, y: str, at: dict, colour: str, width: float, dash: str) -> dict:
    return {
        "type": "line", "xref": x, "yref": y, **at, "layer": "below",
        "line": {"color": colour, "width": width, "dash": dash},
    }  # fmt: skip


def _levels(curves: Sequence[Curve], across: str) -> list[dict]:
    """Draw chance (thin) and each curve's threshold (dotted) as lines over the whole plot."""

    def level(share: float, colour: str, width: float, dash: str) -> dict:
        at = round(100 * share, 2)
        if across == "x":
            where = {"x0": 0, "x1": 1, "y0": at, "y1": at}
            return _line("paper", "y", where, colour, width, dash)
        return _line("x", "paper", {"x0": at, "x1": at, "y0": 0, "y1": 1}, colour, width, dash)

    drawn = [
        level(c, FIELD_POWER, 1, "solid")
        for c in {c.chance for c in curves if not np.isnan(c.chance)}
    ]
    return drawn + [
        level(curve.threshold, curve.colour, 1, "dot")
        for curve in curves
        if not np.isnan(curve.threshold)
    ]


def _marker(curve: Curve, size: int) -> dict:
    symbol = curve.symbol + ("-open" if curve.open else "")
    line = {"width": 1.5, "color": curve.colour}
    return {"symbol": symbol, "size": size, "color": curve.colour, "line": line}


def _published(x: float, y: float, text: str) -> dict:
    return {
        "type": "scatter", "mode": "markers", "x": [x], "y": [y], "name": PUBLISHED,
        "marker": {"symbol": "x-thin", "size": 10, "color": FIELD_POWER,
                   "line": {"width": 2.5, "color": FIELD_POWER}},
        "hovertemplate": f"{text}<extra></extra>",
    }  # fmt: skip


def lines(
    curves: Sequence[Curve],
    x: Sequence[float],
    x_title: str,
    y_title: str,
    *,
    marks: Sequence[float] = (),
    published: tuple[float, float, str] | None = None,
    logarithmic: bool = False,
    unit: str = "",
) -> go.Figure:
    """Draw accuracies with bands over numbers.

    Parameters
    ----------
    curves : sequence of Curve
    x : sequence of float
    x_title, y_title : str
        With units.
    marks : sequence of float
        Places of light vertical lines, such as onsets of the next pictures.
    published : tuple of float, float, str, or None
        A point of other data: x, share, what it is.
    logarithmic : bool
        Of the x axis, whose ticks are then at all of `x`.
    unit : str
        Of x, for the hovering text.
    """
    x = [round(float(value), 4) for value in x]
    traces = []
    for curve in curves:
        if not np.isnan(curve.low).all():
            red, green, blue = hex_to_rgb(curve.colour)
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "hoverinfo": "skip", "fill": "toself",
                    "x": x + x[::-1], "y": points(curve.high) + points(curve.low)[::-1],
                    "fillcolor": f"rgba({red},{green},{blue},0.13)", "line": {"width": 0},
                }
            )  # fmt: skip
    for curve in curves:
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "x": x, "y": points(curve.value),
                "name": escape(curve.label), "marker": _marker(curve, 5),
                "line": {"color": curve.colour, "width": 2, "dash": "dot" if curve.open else ""},
                "hovertemplate": f"%{{x}}{unit and ' ' + unit}: %{{y:.1f}} %",
            }
        )  # fmt: skip
    reference = []
    if published:
        traces.append(_published(published[0], round(100 * published[1], 2), published[2]))
        reference = [published[1]]
    shapes = _levels(curves, "x") + [
        _line("x", "paper", {"x0": at, "x1": at, "y0": 0, "y1": 1}, GRID, 1.5, "dash")
        for at in marks
    ]
    if logarithmic:
        xaxis = _axis(x_title, type="log", tickvals=x, ticktext=[f"{v:g}" for v in x])
        xaxis["range"] = [np.log10(x[0]) - 0.06, np.log10(x[-1]) + 0.06]
    else:
        room = 0.02 * (x[-1] - x[0])
        xaxis = _axis(x_title, showgrid=False, range=[x[0] - room, x[-1] + room])
        if marks:  # they say more than round numbers would
            xaxis["tickvals"] = [0, *marks, *([1000] if x[-1] > 900 else [])]
            xaxis["range"] = [0, max(x[-1] + room, 1010)]
        elif len(x) < 9:
            xaxis["tickvals"] = x
    yaxis = _axis(y_title, range=[0, _highest(curves, *reference)], nticks=6)
    return _figure(traces, xaxis, yaxis, 270, shapes=shapes)


def dots(
    curves: Sequence[Curve],
    names: Sequence[str],
    x_title: str,
    *,
    published: tuple[int, float, str] | None = None,
    left: int = 96,
) -> go.Figure:
    """Draw accuracies with intervals beside names, the first on top.

    Parameters
    ----------
    curves : sequence of Curve
    names : sequence of str
    x_title : str
        With unit.
    published : tuple of int, float, str, or None
        A point of other data: row, share, what it is.
    left : int
        Room for the names, pixels.
    """
    rows = np.arange(len(names))
    apart = min(0.18, 0.7 / max(len(curves), 1))
    traces = []
    for place, curve in enumerate(curves):
        y = rows + (place - (len(curves) - 1) / 2) * apart
        value = np.asarray(curve.value, float)
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": points(value),
                "y": np.round(y, 3).tolist(), "name": escape(curve.label),
                "text": [escape(name) for name in names], "marker": _marker(curve, 8),
                "error_x": {
                    "type": "data", "symmetric": False, "color": curve.colour, "thickness": 1.5,
                    "width": 0, "array": points(curve.high - value),
                    "arrayminus": points(value - curve.low),
                },
                "hovertemplate": "%{text}: %{x:.1f} %",
            }
        )  # fmt: skip
    reference = []
    if published:
        traces.append(_published(round(100 * published[1], 2), published[0] + 0.34, published[2]))
        reference = [published[1]]
    xaxis = _axis(x_title, range=[0, _highest(curves, *reference)], nticks=6)
    yaxis = _axis(
        "", tickvals=rows.tolist(), ticktext=[escape(name) for name in names], showgrid=False,
        range=[len(names) - 0.5, -0.5],
    )  # fmt: skip
    height = round(50 + len(names) * max(26, 9 * len(curves) + 8))
    margin = {"l": left, "r": 12, "t": 4, "b": 40}
    return _figure(traces, xaxis, yaxis, height, shapes=_levels(curves, "y"), margin=margin)


def heatmap(
    shares: np.ndarray,
    x: Sequence,
    y: Sequence,
    titles: tuple[str, str, str],
    hover: str,
    *,
    marks: Sequence[float] = (),
    names: bool = False,
) -> go.Figure:
    """Draw a matrix of accuracies, its first row at the bottom.

    Parameters
    ----------
    shares : array of shape (n_rows, n_columns)
    x, y : sequence
        What columns and rows are.
    titles : tuple of str
        Of columns, rows and colours, with units.
    hover : str
        Plotly's template of what a cell says.
    marks : sequence of float
        Where light lines divide both axes.
    names : bool
        Whether rows and columns are names rather than numbers: the first row is then on top.
    """
    bar_title = {"text": titles[2], "side": "right", "font": {"size": 11}}
    traces = [
        {
            "type": "heatmap", "x": list(x), "y": list(y),
            "z": np.round(100 * shares, 1).tolist(), "zmin": 0, "colorscale": CIVIDIS,
            "hovertemplate": f"{hover}<extra></extra>",
            "colorbar": {"thickness": 12, "outlinewidth": 0, "len": 1, "title": bar_title},
        }
    ]  # fmt: skip
    square = {"constrain": "domain", "showgrid": False}
    if names:
        square |= {"type": "category"}
    xaxis, yaxis = _axis(titles[0], **square), _axis(titles[1], **square)
    yaxis |= {"scaleanchor": "x"}
    if names:
        yaxis |= {"autorange": "reversed"}
    shapes = []
    if marks:
        for axis in (xaxis, yaxis):
            axis["tickvals"] = [0, *marks]
        (left, right), (low, high) = (
            (v[0] - (v[1] - v[0]) / 2, v[-1] + (v[1] - v[0]) / 2) for v in (x, y)
        )
        for at in marks:
            for ends in (
                {"x0": at, "x1": at, "y0": low, "y1": high},
                {"x0": left, "x1": right, "y0": at, "y1": at},
            ):
                line = _line("x", "y", ends, "rgba(255,255,255,0.35)", 1, "solid")
                shapes.append(line | {"layer": "above"})
    return _figure(traces, xaxis, yaxis, 330, shapes=shapes)


def xy(
    curves: Sequence[tuple[Curve, Sequence[float]]],
    x_title: str,
    y_title: str,
    *,
    diagonal: bool = False,
    x_range: tuple[float, float] = (0, 100),
    y_range: tuple[float, float] = (0, 100),
    markers: bool = True,
) -> go.Figure:
    """Draw shares against shares, both in per cent: reliability, risk against coverage.

    Parameters
    ----------
    curves : sequence of (Curve, x)
        Each with its own x, shares.
    x_title, y_title : str
    diagonal : bool
        Draw where both are equal.
    x_range, y_range : tuple of float
        Per cent.
    markers : bool
    """
    traces = [
        {
            "type": "scatter", "mode": "lines+markers" if markers else "lines",
            "x": points(np.asarray(x)), "y": points(curve.value), "name": escape(curve.label),
            "marker": _marker(curve, 6), "line": {"color": curve.colour, "width": 2},
            "hovertemplate": "%{x:.0f} %: %{y:.1f} %",
            **({} if np.isnan(curve.low).all() else {"error_y": {
                "type": "data", "symmetric": False, "color": curve.colour, "thickness": 1,
                "width": 0, "array": points(curve.high - curve.value),
                "arrayminus": points(curve.value - curve.low),
            }}),
        }
        for curve, x in curves
    ]  # fmt: skip
    shapes = []
    if diagonal:
        ends = {"x0": 0, "x1": 100, "y0": 0, "y1": 100}
        shapes = [_line("x", "y", ends, FIELD_POWER, 1, "dash")]
    xaxis = _axis(x_title, range=list(x_range), nticks=6)
    return _figure(traces, xaxis, _axis(y_title, range=list(y_range)), 290, shapes=shapes)


# ---------------------------------------------------------------- legend


def _swatch(colour: str, symbol: str, open_: bool, line: bool) -> str:
    fill = "none" if open_ else colour
    shape = {
        "circle": '<circle cx="14" cy="6" r="3.6"',
        "square": '<rect x="10.6" y="2.6" width="6.8" height="6.8"',
        "diamond": '<path d="M14 1.4 18.6 6 14 10.6 9.4 6z"',
        "triangle-up": '<path d="M14 1.6 18.4 9.6 9.6 9.6z"',
    }[symbol]
    dash = ' stroke-dasharray="2 3"' if open_ else ""
    stem = f'<path d="M0 6H28" stroke="{colour}" stroke-width="2"{dash}/>' if line else ""
    return f'{stem}{shape} fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'


def legend(
    curves: Sequence[Curve], *, line: bool = True, published: bool = False, extra: str = ""
) -> str:
    """Return what colours, symbols and lines mean, as HTML.

    Parameters
    ----------
    curves : sequence of Curve
    line : bool
        Whether points are joined.
    published : bool
        Whether there is a point of other data.
    extra : str
        What light dashed lines are; empty where there are none.
    """
    entries = [(_swatch(c.colour, c.symbol, c.open, line), c.label) for c in curves]
    grey = f'stroke="{FIELD_POWER}"'
    if any(not np.isnan(c.chance) for c in curves):
        entries.append((f'<path d="M0 6H28" {grey}/>', CHANCE))
    if any(not np.isnan(c.threshold) for c in curves):
        dotted = f'<path d="M0 6H28" {grey} stroke-width="1.5" stroke-dasharray="1.5 3"/>'
        entries.append((dotted, THRESHOLD))
    if published:
        cross = f'<path d="M10 2l8 8M18 2l-8 8" {grey} stroke-width="2.5"/>'
        entries.append((cross, PUBLISHED))
    if extra:
        entries.append((f'<path d="M14 0V12" {grey} stroke-dasharray="3 2"/>', extra))
    items = "".join(
        f'<li><svg width="28" height="12" aria-hidden="true">{drawn}</svg>{escape(text)}</li>'
        for drawn, text in entries
    )
    return f'<ul class="legend">{items}</ul>'


# ---------------------------------------------------------------- SVG


def _png(places: np.ndarray) -> str:
    picture = Image.fromarray(places, "P")
    picture.putpalette(PALETTE.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def places_of(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the place in `PALETTE` of each value: 0 at `low`, 255 at `high`."""
    share = (np.asarray(values, float) - low) / ((high - low) or 1)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def colour_bar(low: str, high: str, text: str) -> str:
    """Return a bar of `PALETTE` with its ends in words, as HTML."""
    stops = ",".join(f"rgb({r},{g},{b})" for r, g, b in PALETTE[np.linspace(0, 255, 9).astype(int)])
    return (
        f'<p class="colour-bar"><span>{escape(low)}</span><i style="background:linear-gradient('
        f'to right,{stops})"></i><span>{escape(high)}</span><span>{escape(text)}</span></p>'
    )


def scalp(montage: Montage, shares: np.ndarray, high: float, title: str) -> str:
    """Draw a share at each electrode over the head, from 0 to `high`.

    Parameters
    ----------
    montage : Montage
    shares : array of shape (n_channels,)
    high : float
        Share of the brightest colour.
    title : str

    Returns
    -------
    str
        HTML of one map with its title.
    """
    image = montage.image(shares)
    # Pixels outside the head take the colour of the nearest inside, or the edge would fade.
    nearest = distance_transform_edt(np.isnan(image), return_distances=False, return_indices=True)
    best = int(np.argmax(shares))
    electrodes = "".join(
        f'<g><circle class="electrode" cx="{x:.3f}" cy="{-y:.3f}" r="0.024"/>'
        f'<circle class="reach" cx="{x:.3f}" cy="{-y:.3f}" r="0.08">'
        f"<title>{escape(name)} {100 * share:.1f} %</title></circle></g>"
        for name, (x, y), share in zip(montage.names, montage.flat, shares, strict=True)
    )
    label = f"{title}: highest at {montage.names[best]}, {100 * shares[best]:.1f} %; nose up"
    return (
        f'<figure class="map"><svg class="head" viewBox="-1.2 -1.24 2.4 2.42" role="img" '
        f'aria-label="{escape(label)}"><clipPath id="evidence-edge"><circle r="1"/></clipPath>'
        '<path class="outline" d="M-.16-.99 L0-1.17 L.16-.99"/>'
        '<path class="outline" d="M-1-.2 q-.1-.06-.13.06 l.01.3 q.02.12.11.06"/>'
        '<path class="outline" d="M1-.2 q.1-.06.13.06 l-.01.3 q-.02.12-.11.06"/>'
        '<image x="-1" y="-1" width="2" height="2" clip-path="url(#evidence-edge)" '
        f'href="{_png(places_of(image[tuple(nearest)], 0, high))}"/>'
        f'<circle class="outline" r="1"/>{electrodes}</svg>'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def matrix(
    values: np.ndarray, low: float, high: float, groups: Sequence[tuple[str, int]], title: str
) -> str:
    """Draw a large square matrix whose rows stand in groups.

    Parameters
    ----------
    values : array of shape (n, n)
    low, high : float
        Ends of the colours.
    groups : sequence of (str, int)
        Name and size of each, in order.
    title : str

    Returns
    -------
    str
        HTML of one matrix with its title.
    """
    n, marks, start = len(values), [], 0
    for name, size in groups:
        middle = 100 * (start + size / 2) / n
        marks.append(f'<text x="-2" y="{middle:.2f}">{escape(name)}</text>')
        if start:
            at = 100 * start / n
            marks.append(f'<path d="M0 {at:.2f}H100M{at:.2f} 0V100"/>')
        start += size
    return (
        f'<figure class="matrix"><svg viewBox="-26 -1 127 102" role="img" '
        f'aria-label="{escape(title)}, {n} × {n}, ordered by category">'
        f'<image width="100" height="100" href="{_png(places_of(values, low, high))}"/>'
        f"{''.join(marks)}</svg><figcaption>{escape(title)}</figcaption></figure>"
    )
