"""The scalp map: voltage over the head at one moment, as SVG.

In flow the montage and one value per electrode, out flows a head seen from above, nose up, with an
image of the interpolated voltage in it and a colour bar beside it.
"""

import base64
import io
import math
from html import escape

import numpy as np
from PIL import Image
from plotly.colors import cmocean, unlabel_rgb
from scipy.ndimage import distance_transform_edt

from nice_demo.montage import Montage

# cmocean's "balance" runs from blue over near white to red in perceptually even steps that people
# with any colour vision tell apart (Thyng et al. 2016, Oceanography 29).
_STOPS = np.array([unlabel_rgb(colour) for colour in cmocean.balance])
COLOURS = np.stack(
    [np.interp(np.linspace(0, 1, 255), np.linspace(0, 1, len(_STOPS)), c) for c in _STOPS.T], axis=1
).astype(np.uint8)
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


def colours_of(values: np.ndarray, end: float) -> np.ndarray:
    """Return the place in the colour table of each value, with 0 µV exactly in its middle.

    Parameters
    ----------
    values : array
        µV; those beyond ±`end` get the outermost colours.
    end : float
        µV.

    Returns
    -------
    array of uint8
        0 at −`end`, 127 at 0, 254 at +`end`.
    """
    return np.rint(127 + 127 * np.clip(values / end, -1, 1)).astype(np.uint8)


def _png(image: np.ndarray, end: float) -> str:
    # Pixels outside the head take the colour of the nearest inside, so that the edge, which the
    # browser smooths and the SVG cuts to a circle, doesn't fade.
    outside = np.isnan(image)
    nearest = distance_transform_edt(outside, return_distances=False, return_indices=True)
    picture = Image.fromarray(colours_of(image[tuple(nearest)], end), "P")
    picture.putpalette(COLOURS.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _microvolts(value: float) -> str:
    return f"{value:+.1f} µV".replace("-", "−")


def _colour_bar(end: float) -> str:
    # Shapes that mean a value (all in units of the head's radius, y downwards).
    stops = "".join(
        f'<stop offset="{place / 12:.3f}" stop-color="rgb({red},{green},{blue})"/>'
        for place, (red, green, blue) in enumerate(COLOURS[np.linspace(254, 0, 13).astype(int)])
    )
    labels = "".join(
        f'<text x="1.66" y="{y}" dominant-baseline="middle">{label}</text>'
        for y, label in ((-0.72, f"+{end:g}"), (0, "0"), (0.72, f"−{end:g}"))
    )
    return (
        '<defs><linearGradient id="volt-colours" x1="0" y1="0" x2="0" y2="1">'
        f"{stops}</linearGradient></defs>"
        '<rect x="1.46" y="-0.72" width="0.12" height="1.44" rx="0.04" fill="url(#volt-colours)"/>'
        f'{labels}<text x="1.46" y="-0.9">µV</text>'
    )


def headmap(montage: Montage, values: np.ndarray, end: float, moment: str) -> str:
    """Draw a scalp map.

    Parameters
    ----------
    montage : Montage
    values : array of shape (n_channels,)
        One for each electrode, µV.
    end : float
        Of the symmetric colour range, µV.
    moment : str
        When this is: "172 ms".

    Returns
    -------
    str
        SVG whose colours of lines and text come from the page's style.
    """
    values = np.asarray(values, float)
    high, low = int(values.argmax()), int(values.argmin())
    label = (
        f"Scalp map at {moment}, nose up: most positive {montage.names[high]} "
        f"{_microvolts(values[high])}, most negative {montage.names[low]} "
        f"{_microvolts(values[low])}"
    )
    electrodes = "".join(
        f'<g><circle class="electrode" cx="{x:.3f}" cy="{-y:.3f}" r="0.024"/>'
        f'<circle class="reach" cx="{x:.3f}" cy="{-y:.3f}" r="0.08">'
        f"<title>{escape(name)} {_microvolts(value)}</title></circle></g>"
        for name, (x, y), value in zip(montage.names, montage.flat, values, strict=True)
    )
    return (
        f'<svg class="head" viewBox="-1.36 -1.24 3.42 2.42" role="group" '
        f'aria-label="{escape(label)}"><clipPath id="scalp-edge"><circle r="1"/></clipPath>'
        '<path class="outline" d="M-.16-.99 L0-1.17 L.16-.99"/>'
        '<path class="outline" d="M-1-.2 q-.1-.06-.13.06 l.01.3 q.02.12.11.06"/>'
        '<path class="outline" d="M1-.2 q.1-.06.13.06 l-.01.3 q-.02.12-.11.06"/>'
        f'<image x="-1" y="-1" width="2" height="2" clip-path="url(#scalp-edge)" '
        f'href="data:image/png;base64,{_png(montage.image(values), end)}"/>'
        f'<circle class="outline" r="1"/>{electrodes}{_colour_bar(end)}</svg>'
    )
