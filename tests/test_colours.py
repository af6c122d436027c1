"""The colour maps of the page: even steps, and told apart with any colour vision."""

from itertools import combinations

import numpy as np
import pytest
from plotly.colors import hex_to_rgb

from nice_demo.ui.evidence.figures import ENCODERS, PALETTE
from nice_demo.ui.headmap import COLOURS, SEQUENTIAL

# Machado, Oliveira & Fernandes, "A physiologically-based model for simulation of color vision
# deficiency", IEEE TVCG 15 (2009), table 1 at full severity; on linear RGB.
VISION = {
    "all cones": np.eye(3),
    "no red cones": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no green cones": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no blue cones": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
VISIONS = pytest.mark.parametrize("vision", VISION)


def lab(colours, vision):
    """Return CIELAB (n, 3) of sRGB colours (n, 3) of 0–255, as somebody with this vision has it."""
    shares = np.asarray(colours, float) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISION[vision].T, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(to_xyz).T / [0.9505, 1, 1.089]
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def test_lab_of_known_colours():
    known = lab([[0, 0, 0], [255, 255, 255], [255, 0, 0]], "all cones")
    assert np.allclose(known, [[0, 0, 0], [100, 0, 0], [53.2, 80.1, 67.2]], atol=0.2)


@VISIONS
@pytest.mark.parametrize("table", [SEQUENTIAL, PALETTE], ids=["maps without sign", "evidence"])
def test_more_is_darker_or_lighter_all_the_way(table, vision):
    lightness = lab(table, vision)[::8, 0]
    steps = np.diff(lightness)
    assert (steps > 0).all() or (steps < 0).all()
    assert abs(lightness[-1] - lightness[0]) > 60


@VISIONS
def test_voltage_is_lightest_at_zero_and_its_signs_differ(vision):
    table = lab(COLOURS, vision)
    lightness = table[::6, 0]
    middle = lightness.argmax()
    assert abs(middle - len(lightness) // 2) <= 1
    assert (np.diff(lightness[: middle + 1]) > 0).all() and (np.diff(lightness[middle:]) < 0).all()
    # The same voltage with either sign: from a fifth of the range on nobody confuses them.
    for distance in range(25, 127, 6):
        apart = np.linalg.norm(table[127 - distance] - table[127 + distance])
        assert apart > 10, distance


@pytest.mark.parametrize(
    "table", [COLOURS, SEQUENTIAL, PALETTE], ids=["voltage", "without sign", "evidence"]
)
def test_steps_are_even(table):
    """No step is a border that isn't in the data: none is thrice as large as the usual one."""
    steps = np.linalg.norm(np.diff(lab(table, "all cones")[::8], axis=0), axis=1)
    assert steps.max() < 3 * np.median(steps)
    assert steps.min() > np.median(steps) / 3


@VISIONS
def test_encoders_differ_in_colour_and_always_in_shape(vision):
    colours = lab([hex_to_rgb(colour) for colour, _ in ENCODERS.values()], vision)
    assert min(np.linalg.norm(one - other) for one, other in combinations(colours, 2)) > 8
    assert len({symbol for _, symbol in ENCODERS.values()}) == len(ENCODERS)


def test_a_rainbow_would_not_pass():
    """The checks can fail."""
    place = np.linspace(0, 1, 255)
    rainbow = 255 * np.clip(
        np.stack([1.5 - abs(4 * place - centre) for centre in (3, 2, 1)], 1), 0, 1
    )
    lightness = lab(rainbow, "all cones")[::8, 0]
    assert (np.diff(lightness) > 0).any() and (np.diff(lightness) < 0).any()
    steps = np.linalg.norm(np.diff(lab(rainbow, "all cones")[::8], axis=0), axis=1)
    assert not steps.max() < 3 * np.median(steps) or not steps.min() > np.median(steps) / 3
