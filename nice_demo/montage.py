"""The electrodes: their names, where they are, which region they belong to, and their scalp map.

In: channel names. Out: positions in three dimensions for the head model, in two dimensions for
the page, and the topomap operator, a matrix that turns one value per channel into an image of the
head. Positions are those of MNE's montage ``easycap-M1``, whose table of angles stands here so
that a page needs no MNE; only `topomap_operator`, which runs at preparation, imports it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nice_demo.errors import InputError
from nice_demo.files import complete_file

# The 63 channels of THINGS-EEG2 in the order of its files (Gifford et al. 2022) and of
# Song et al. 2024. Fz isn't among them: it was the reference.
CHANNELS: list[str] = """
    Fp1 Fp2 AF7 AF3 AFz AF4 AF8
    F7 F5 F3 F1 F2 F4 F6 F8
    FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10
    T7 C5 C3 C1 Cz C2 C4 C6 T8
    TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10
    P7 P5 P3 P1 Pz P2 P4 P6 P8
    PO7 PO3 POz PO4 PO8
    O1 Oz O2
""".split()

REFERENCE = "Fz"

# Which region a row of the 10-10 system belongs to, by the letters of its names.
_REGION_OF_LETTERS = {
    "Fp": "frontal",
    "AF": "frontal",
    "F": "frontal",
    "FC": "central",
    "C": "central",
    "CP": "central",
    "FT": "temporal",
    "T": "temporal",
    "TP": "temporal",
    "P": "parietal",
    "PO": "occipital",
    "O": "occipital",
}

# Region → its channels, every channel in exactly one.
REGIONS: dict[str, list[str]] = {
    region: [name for name in CHANNELS if _REGION_OF_LETTERS[name.rstrip("z0123456789")] == region]
    for region in ("frontal", "central", "temporal", "parietal", "occipital")
}

# Choices of channels. The 17 are those of most work since the paper; the 8 keep the sites over
# early visual cortex (O, PO) and those where the response to objects is largest (PO7/8, P7/8).
PRESETS: dict[str, list[str]] = {
    "63": CHANNELS,
    "17": CHANNELS[-17:],
    "8": ["P7", "P8", "PO7", "POz", "PO8", "O1", "Oz", "O2"],
}

# The cap's own description of a position: degrees away from Cz (to the right; to the left where
# negative) and degrees around it, on a sphere of 95 mm.
_ANGLES = {
    "Fp1": (-92, -72), "Fp2": (92, 72),
    "AF7": (-92, -54), "AF3": (-74, -65), "AFz": (69, 90), "AF4": (74, 65), "AF8": (92, 54),
    "F7": (-92, -36), "F5": (-75, -41), "F3": (-60, -51), "F1": (-50, -68), "Fz": (46, 90),
    "F2": (50, 68), "F4": (60, 51), "F6": (75, 41), "F8": (92, 36),
    "FT9": (-115, -18), "FT7": (-92, -18), "FC5": (-72, -21), "FC3": (-53, -33),
    "FC1": (-32, -45), "FCz": (23, 90), "FC2": (32, 45), "FC4": (53, 33), "FC6": (72, 21),
    "FT8": (92, 18), "FT10": (115, 18),
    "T7": (-92, 0), "C5": (-69, 0), "C3": (-46, 0), "C1": (-23, 0), "Cz": (0, 0),
    "C2": (23, 0), "C4": (46, 0), "C6": (69, 0), "T8": (92, 0),
    "TP9": (-115, 18), "TP7": (-92, 18), "CP5": (-72, 21), "CP3": (-52, 33),
    "CP1": (-32, 45), "CPz": (23, -90), "CP2": (32, -45), "CP4": (52, -33), "CP6": (72, -21),
    "TP8": (92, -18), "TP10": (115, -18),
    "P7": (-92, 36), "P5": (-75, 41), "P3": (-60, 51), "P1": (-50, 68), "Pz": (46, -90),
    "P2": (50, -68), "P4": (60, -51), "P6": (75, -41), "P8": (92, -36),
    "PO7": (-92, 54), "PO3": (-74, 65), "POz": (69, -90), "PO4": (74, -65), "PO8": (92, -54),
    "O1": (-92, 72), "Oz": (92, -90), "O2": (92, -72),
}  # fmt: skip

_RADIUS = 0.095  # m, of the cap's sphere, and of the circle that MNE draws as the head
# The head frame's origin lies between the ears, 25° below the equator of the cap's sphere.
_SPHERE_CENTRE = np.array([0.0, 0.0, _RADIUS * np.sin(np.deg2rad(25))])


def positions(names: Sequence[str]) -> np.ndarray:
    """Return where electrodes are.

    Parameters
    ----------
    names : sequence of str
        Of the 63 `CHANNELS` or the `REFERENCE`.

    Returns
    -------
    array of shape (n_channels, 3)
        Metres in MNE's head frame: x to the right ear, y to the nose, z up; what
        ``info.set_montage("easycap-M1")`` gives.

    Raises
    ------
    InputError
        Where a name is unknown.
    """
    unknown = [str(name) for name in names if name not in _ANGLES]
    if unknown:
        raise InputError(
            f"no position is known for {', '.join(unknown)}; "
            f"use names of the 10-10 system such as {', '.join(PRESETS['8'])}."
        )
    angles = np.array([_ANGLES[name] for name in names], float).reshape(-1, 2)
    polar, azimuth = np.deg2rad(angles).T
    directions = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    return _RADIUS * np.stack(directions, axis=1) + _SPHERE_CENTRE


def flat_positions(names: Sequence[str]) -> np.ndarray:
    """Return where a topomap draws electrodes, seen from above.

    The head's surface is rolled out as MNE does it (azimuthal equidistant projection): an
    electrode keeps its direction from the vertex, and its distance from the head frame's origin
    times its angle from the vertex, in right angles, becomes its distance from the centre.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    array of shape (n_channels, 2)
        In radii of the head circle: x to the right ear, y to the nose.

    Raises
    ------
    InputError
        Where a name is unknown.
    """
    x, y, z = positions(names).T
    distance = np.sqrt(x**2 + y**2 + z**2)
    from_centre = distance * np.arccos(z / distance) / (np.pi / 2) / _RADIUS
    azimuth = np.arctan2(y, x)
    return from_centre[:, None] * np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)


def topomap_operator(names: Sequence[str], resolution: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Compute the matrix that interpolates channels to an image of the head as MNE does.

    MNE's interpolation (cubic, extrapolated to a ring around the head) is linear in the data, so
    its images of unit maps, one channel at 1 and all others at 0, are the matrix's columns.

    Parameters
    ----------
    names : sequence of str
        At least two.
    resolution : int
        Pixels along either side of the image.

    Returns
    -------
    operator : array of shape (resolution ** 2, n_channels), float32
        Rows are pixels, row by row from the top left (nose up); those outside the head are 0.
    mask : array of shape (resolution, resolution), bool
        True inside the head circle, which touches the image's four sides.

    Raises
    ------
    InputError
        Where a name is unknown or stands twice, or there are fewer than two.
    """
    where = positions(names)
    if len(set(names)) < max(len(names), 2):
        raise InputError(
            f"a scalp map needs two or more different channels, not {', '.join(names) or 'none'}."
        )
    from scipy.spatial import QhullError

    axis = np.linspace(-1, 1, resolution)
    mask = np.hypot(axis[:, None], axis[None, :]) <= 1
    try:
        images = _unit_maps(names, where, resolution)
    except QhullError:
        # Channels that all lie on one circle of the map, such as two symmetric pairs, have no
        # unique triangulation; a micrometre decides.
        where[0] += 1e-6
        images = _unit_maps(names, where, resolution)
    operator = np.where(mask, images, 0).reshape(len(names), -1).T
    return np.ascontiguousarray(operator, np.float32), mask


def _unit_maps(names: Sequence[str], where: np.ndarray, resolution: int) -> np.ndarray:
    """Return MNE's images (n_channels, resolution, resolution) of one channel at 1, others at 0."""
    import mne
    from matplotlib.figure import Figure

    info = mne.create_info(list(names), sfreq=1.0, ch_types="eeg", verbose="error")
    for channel, position in zip(info["chs"], where, strict=True):
        channel["loc"][:3] = position
    # A Figure of its own, not pyplot's: that isn't safe among threads and opens windows.
    axes = Figure().add_subplot()
    images = []
    for unit_map in np.eye(len(names)):
        drawn, _ = mne.viz.plot_topomap(
            unit_map, info, axes=axes, res=resolution, sensors=False, contours=0, show=False,
            image_interp="cubic", extrapolate="head", border="mean", sphere=_RADIUS,
        )  # fmt: skip
        images.append(drawn.get_array()[::-1])  # MNE's first row is the bottom
        axes.clear()
    return np.stack(images)


@dataclass(frozen=True)
class Montage:
    """Channels, where they are, and how values at them become a scalp map.

    Attributes
    ----------
    names : list of str
    positions : array of shape (n_channels, 3)
        Metres in MNE's head frame.
    flat : array of shape (n_channels, 2)
        In radii of the head circle, x to the right ear, y to the nose.
    operator : array of shape (resolution ** 2, n_channels), float32
        See `topomap_operator`.
    mask : array of shape (resolution, resolution), bool
        True inside the head circle.
    """

    names: list[str]
    positions: np.ndarray
    flat: np.ndarray
    operator: np.ndarray
    mask: np.ndarray

    def __post_init__(self) -> None:
        n_channels, n_pixels = len(self.names), self.mask.size
        shapes = {
            "positions": (n_channels, 3),
            "flat": (n_channels, 2),
            "operator": (n_pixels, n_channels),
        }
        for attribute, shape in shapes.items():
            if (found := getattr(self, attribute).shape) != shape:
                raise InputError(
                    f"the montage's {attribute} have shape {found}, not {shape} as its "
                    f"{n_channels} channels and {n_pixels} pixels ask; prepare the data anew."
                )

    @classmethod
    def standard(cls, names: Sequence[str] = CHANNELS, resolution: int = 64) -> "Montage":
        """Compute the montage of the given channels (about 2 s for 63; imports MNE).

        Raises
        ------
        InputError
            Where a name is unknown or stands twice, or there are fewer than two.
        """
        operator, mask = topomap_operator(names, resolution)
        return cls(list(names), positions(names), flat_positions(names), operator, mask)

    def image(self, values: np.ndarray) -> np.ndarray:
        """Interpolate values at the channels to a scalp map.

        Parameters
        ----------
        values : array of shape (n_channels,)
            In any unit.

        Returns
        -------
        array of shape (resolution, resolution), float32
            In the same unit. Row 0 is at the nose, column 0 at the left ear; the head circle
            touches the image's sides; NaN outside it.
        """
        flat_image = self.operator @ np.asarray(values, np.float32)
        return np.where(self.mask, flat_image.reshape(self.mask.shape), np.float32(np.nan))

    def save(self, path: Path | str) -> None:
        """Write one safetensors file; the channel names stand in its metadata."""
        arrays = {
            "positions": self.positions,
            "flat": self.flat,
            "operator": self.operator,
            "mask": self.mask,
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with complete_file(path) as part:
            save_file(arrays, part, metadata={"names": json.dumps(self.names)})

    @classmethod
    def open(cls, path: Path | str) -> "Montage":
        """Read what `save` wrote.

        Raises
        ------
        InputError
            Where the file is missing, damaged or no montage.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                names = json.loads((file.metadata() or {})["names"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(list(names), **arrays)
        except FileNotFoundError:
            raise InputError(
                f"{path} is missing; check the folder's name or prepare the data anew."
            ) from None
        except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
            raise InputError(f"{path} isn't a montage ({error}); prepare the data anew.") from None
