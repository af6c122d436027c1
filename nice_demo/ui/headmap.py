"""The scalp map: voltage at one moment, or what an encoder used, over the head, as SVG.

In flow the montage and one value per electrode, out flows a head seen from above, nose up, with an
image of the interpolated values in it and a colour bar below it.
"""

import base64
import io
import math
from collections.abc import Sequence
from functools import lru_cache
from html import escape

import numpy as np
from PIL import Image
from plotly.colors import cmocean, unlabel_rgb
from scipy.ndimage import distance_transform_edt

from nice_demo.montage import Montage


def _table(stops: list[str], middle: str | None = None) -> np.ndarray:
    """Interpolate a colour scale to 255 colours: (255, 3) uint8."""
    known = np.linspace(0, 1, len(stops))
    if middle is not None:
        half = len(stops) // 2
        stops, known = [*stops[:half], middle, *stops[half:]], np.insert(known, half, 0.5)
    rgb, places = np.array([unlabel_rgb(colour) for colour in stops]), np.linspace(0, 1, 255)
    return np.stack([np.interp(places, known, c) for c in rgb.T], axis=1).astype(np.uint8)


# cmocean's "balance" runs from blue over near white to red in perceptually even steps that people
# with any colour vision tell apart (Thyng et al. 2016, Oceanography 29); "tempo", for what knows no
# sign, from near white to dark green. Plotly keeps an even number of balance's colours and so
# leaves out its middle, without which small voltages of either sign would look alike.
COLOURS = _table(cmocean.balance, middle="rgb(241,236,235)")
SEQUENTIAL = _table(cmocean.tempo)
NICE = (0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)  # µV, ends of a colour range


def colour_range(volts: np.ndarray) -> float:
    """Choose the end of a symmetric colour range for all maps of a subject.

    Parameters
    ----------
    volts : array of shape (n_channels, n_samples)
        The subject's most averaged response to one picture, V.

    Returns
    -------
    float
        µV; the smallest round number that no value exceeds in size.
    """
    extent = float(np.abs(volts).max()) * 1e6
    return float(next((end for end in NICE if end >= extent), math.ceil(extent)))


def round_up(extent: float) -> float:
    """Return the smallest of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten that isn't less."""
    if not extent > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(extent))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return float(f"{next(step for step in steps if step * power >= extent * 0.999999) * power:.2g}")


def colours_of(values: np.ndarray, end: float, signed: bool = True) -> np.ndarray:
    """Return the place in the colour table of each value, with 0 exactly in its middle.

    Parameters
    ----------
    values : array
        Those beyond ±`end` get the outermost colours.
    end : float
        In the same unit.
    signed : bool
        False: from 0, at the table's start, to `end`.

    Returns
    -------
    array of uint8
        0 at −`end`, 127 at 0, 254 at +`end`; unsigned: 0 at 0, 254 at `end`.
    """
    if not signed:
        return np.rint(254 * np.clip(values / end, 0, 1)).astype(np.uint8)
    return np.rint(127 + 127 * np.clip(values / end, -1, 1)).astype(np.uint8)


def _png(places: np.ndarray, signed: bool) -> str:
    picture = Image.fromarray(places, "P")
    picture.putpalette((COLOURS if signed else SEQUENTIAL).ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _filled(image: np.ndarray) -> np.ndarray:
    # Pixels outside the head take the value of the nearest inside, so that the edge, which the
    # browser smooths and the SVG cuts to a circle, doesn't fade.
    outside = np.isnan(image)
    return image[_nearest_inside(outside.tobytes(), outside.shape)]


@lru_cache(maxsize=8)  # every map of a montage has the same pixels outside
def _nearest_inside(outside: bytes, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    outside = np.frombuffer(outside, bool).reshape(shape)
    return tuple(distance_transform_edt(outside, return_distances=False, return_indices=True))


def said(value: float, unit: str) -> str:
    """Write a value with its sign and unit: "+1.2 µV", "−0.0031"."""
    text = f"{value:+.1f} µV" if unit == "µV" else f"{value:+.2g}"
    return text.replace("-", "−")


@lru_cache(maxsize=2)
def _ramp(signed: bool) -> str:
    return _png(np.arange(255, dtype=np.uint8)[None], signed)


def _colour_bar(end: float, unit: str, signed: bool) -> str:
    # Shapes that mean a value (all in units of the head's radius, y downwards).
    start = f"−{end:g}" if signed else "0"
    middle = '<text x="0" y="1.46" text-anchor="middle">0</text>' if signed else ""
    return (
        f'<image x="-0.72" y="1.18" width="1.44" height="0.11" preserveAspectRatio="none" '
        f'href="{_ramp(signed)}"/>'
        f'<text x="-0.72" y="1.46" text-anchor="middle">{start}</text>{middle}'
        f'<text x="0.72" y="1.46" text-anchor="middle">{"+" if signed else ""}{end:g}</text>'
        f'<text x="0.82" y="1.28">{escape(unit) if unit == "µV" else ""}</text>'
    )


def headmap(
    montage: Montage,
    values: np.ndarray,
    end: float,
    moment: str,
    *,
    title: str = "Scalp map at",
    unit: str = "µV",
    signed: bool = True,
    off: Sequence[str] = (),
) -> str:
    """Draw a scalp map.

    Parameters
    ----------
    montage : Montage
    values : array of shape (n_channels,)
        One for each electrode.
    end : float
        Of the colour range, in the same unit.
    moment : str
        When this is ("172 ms"), or of what; it follows the title.
    title : str
        What it is, for screen readers.
    unit : str
        Of the values. Only "µV" is written beside the colour bar; others belong in a caption.
    signed : bool
        Whether the colours run from −`end` to +`end`, or from 0 to `end`.
    off : sequence of str
        Electrodes that are switched off, drawn hollow.

    Returns
    -------
    str
        SVG whose colours of lines and text come from the page's style.
    """
    values = np.asarray(values, float)
    high, low = int(values.argmax()), int(values.argmin())
    highest, lowest = ("most positive", "most negative") if signed else ("largest", "smallest")
    label = (
        f"{title} {moment}, nose up: {highest} {montage.names[high]} {said(values[high], unit)}, "
        f"{lowest} {montage.names[low]} {said(values[low], unit)}"
    )
    electrodes = "".join(
        f'<g><circle class="electrode{" off" if name in off else ""}" cx="{x:.3f}" cy="{-y:.3f}" '
        f'r="0.026"/><circle class="reach" cx="{x:.3f}" cy="{-y:.3f}" r="0.08">'
        f"<title>{escape(name)} {said(value, unit)}</title></circle></g>"
        for name, (x, y), value in zip(montage.names, montage.flat, values, strict=True)
    )
    places = colours_of(_filled(montage.image(values)), end, signed)
    return (
        f'<svg class="head" viewBox="-1.26 -1.2 2.52 2.72" role="group" '
        f'aria-label="{escape(label)}">'
        '<path class="outline" d="M-.16-.99 L0-1.17 L.16-.99"/>'
        '<path class="outline" d="M-1-.2 q-.1-.06-.13.06 l.01.3 q.02.12.11.06"/>'
        '<path class="outline" d="M1-.2 q.1-.06.13.06 l-.01.3 q-.02.12-.11.06"/>'
        f'<image class="scalp-image" x="-1" y="-1" width="2" height="2" '
        f'href="{_png(places, signed)}"/>'
        f'<circle class="outline" r="1"/>{electrodes}{_colour_bar(end, unit, signed)}</svg>'
    )
