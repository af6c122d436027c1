"""The phantom's head: where its sources lie, and what the electrodes see of them.

A three-shell sphere (MNE) fitted to the electrodes; patches of dipoles along the ventral stream,
in parietal and in frontal cortex; time courses; what of a picture drives which source. Computed
once a subject and stored (`nice_demo.sources.phantom.trials.Phantom`).
"""

from dataclasses import dataclass

import mne
import numpy as np
from scipy.linalg import sqrtm, toeplitz

from nice_demo.montage import CHANNELS, positions
from nice_demo.sources.phantom.features import LOW_LEVEL_AXES
from nice_demo.sources.phantom.trials import _MARGIN, N_TIMES, SFREQ, Phantom

REFERENCE = "Fz"  # as in THINGS-EEG2, whose 63 channels therefore lack it
BACKGROUND = 6e-6  # V, standard deviation of the 1/f background
ALPHA = 3.3e-6  # V, of alpha at the electrode where it is strongest
SENSORS = 1.5e-6  # V, of a sensor's own noise
JITTER = 0.010  # s, of the latency over trials
OUTERMOST = 0.85  # of the radius: no source farther from the centre; the inner skull is at 0.9
SHARED = 0.6  # share of a source's tuning that all subjects have in common

# How decodable each subject is: the factor on everything specific to a picture. A setting, not a
# finding; `python -m nice_demo.sources.phantom.difficulty data/phantom` printed it.
GAINS = {
    1: 0.351, 2: 0.319, 3: 0.275, 4: 0.3, 5: 0.3,
    6: 0.344, 7: 0.316, 8: 0.346, 9: 0.319, 10: 0.317
}  # fmt: skip


@dataclass(frozen=True)
class Area:
    """A pair of cortical patches, left and right.

    Attributes
    ----------
    name : str
    direction : tuple of float
        From the sphere's centre to the right patch: right, front, up.
    depth : float
        Distance from the centre, as a share of the radius.
    tilt : tuple of float
        Orientation of the dipoles on the right side; the left is its mirror image.
    sources : int
        In each hemisphere.
    latency, width : float
        Of the first of its two time courses, s.
    driven_by : dict
        Feature set ("low", "visual", "semantic") → weight.
    strength : float
        V at the best electrode for a drive of 1, before the subject's gain.
    """

    name: str
    direction: tuple[float, float, float]
    depth: float
    tilt: tuple[float, float, float]
    sources: int
    latency: float
    width: float
    driven_by: dict[str, float]
    strength: float


AREAS = [
    Area("V1", (0.15, -0.97, -0.05), 0.76, (0.3, -0.6, 0.7), 6, 0.095, 0.018, {"low": 1}, 1.0e-6),
    Area("V2/V4", (0.35, -0.92, -0.10), 0.78, (0.5, -0.8, 0.2), 6, 0.130, 0.024,
         {"low": 0.5, "visual": 1}, 1.2e-6),
    Area("lateral occipital", (0.60, -0.78, 0.05), 0.80, (0.6, -0.8, 0.1), 8, 0.160, 0.028,
         {"visual": 1, "semantic": 0.4}, 1.4e-6),
    Area("fusiform", (0.48, -0.72, -0.42), 0.70, (0.3, -0.5, -0.8), 8, 0.185, 0.034,
         {"visual": 1, "semantic": 0.7}, 1.2e-6),
    Area("temporal", (0.85, -0.45, -0.10), 0.78, (0.9, -0.3, 0.2), 4, 0.300, 0.060,
         {"semantic": 1}, 0.6e-6),
    Area("parietal", (0.35, -0.62, 0.68), 0.80, (0.3, -0.6, 0.7), 4, 0.360, 0.075,
         {"semantic": 1}, 0.7e-6),
    Area("frontal", (0.35, 0.62, 0.60), 0.78, (0.3, 0.6, 0.7), 2, 0.400, 0.090,
         {"semantic": 1}, 0.4e-6),
]  # fmt: skip

# Responses that are the same for every picture: direction, tilt, latency s, width s, V.
COMMON = [
    ("P1", (0.45, -0.86, 0.05), (0.5, -0.8, 0.3), 0.105, 0.016, 2.4e-6),
    ("N1", (0.65, -0.74, -0.10), (0.6, -0.7, -0.3), 0.170, 0.022, -4.2e-6),
    ("P2", (0.20, -0.90, 0.30), (0.2, -0.8, 0.5), 0.240, 0.034, 3.0e-6),
]


def make_phantom(
    subject: int, features: dict[str, np.ndarray], gain: float, seed: int = 2024
) -> tuple[Phantom, dict[str, np.ndarray]]:
    """Make a phantom subject.

    Parameters
    ----------
    subject : int
    features : dict
        "train_low", "test_low", … : arrays of shape (n_pictures, n_features) as
        `nice_demo.sources.phantom.features` writes them.
    gain : float
        Factor on everything that is specific to a picture: sets how decodable the subject is.
    seed : int

    Returns
    -------
    phantom : Phantom
        With the training pictures' drives and without whitening (unit matrices).
    extra : dict of arrays
        "test_drives" (n_test, n_sources), and the known truth: "positions" (n_sources, 3) in m,
        "area" (n_sources,) index into `AREAS`, −1 for a common response.
    """
    rng = np.random.default_rng([seed, subject])
    everyone = np.random.default_rng([seed])
    centre, radius = _sphere()
    names = [*CHANNELS, REFERENCE]

    places, tilts, strengths, areas, kernels = [], [], [], [], []
    courses, train_drives, test_drives = [], [], []
    for number, area in enumerate(AREAS):
        offset = rng.normal(0, 0.004, 3)
        latency = area.latency + rng.normal(0, 0.008)
        for phase in range(2):
            courses.append(_course(latency + 0.09 * phase, area.width * (1 + 0.6 * phase)))
        strength = area.strength * np.exp(rng.normal(0, 0.25))
        for side in (-1, 1):
            mirror = np.array([side, 1, 1])
            for source in range(area.sources):
                place = (
                    _unit(area.direction) * area.depth * radius + offset + rng.normal(0, 0.006, 3)
                )
                place *= min(1, OUTERMOST * radius / np.linalg.norm(place))
                places.append(centre + mirror * place)
                tilts.append(_unit(mirror * _unit(area.tilt) + rng.normal(0, 0.45, 3)))
                strengths.append(strength)
                areas.append(number)
                kernels.append(len(courses) - 2 + source % 2)
                tuning = _tuning(area, side, source, features, everyone, rng)
                train = sum(features[f"train_{kind}"] @ w for kind, w in tuning.items())
                test = sum(features[f"test_{kind}"] @ w for kind, w in tuning.items())
                train_drives.append((train - train.mean()) / train.std())
                test_drives.append((test - train.mean()) / train.std())
    for _, direction, tilt, latency, width, volts in COMMON:
        courses.append(_course(latency + rng.normal(0, 0.006), width))
        for side in (-1, 1):
            mirror = np.array([side, 1, 1])
            places.append(centre + mirror * _unit(direction) * 0.8 * radius)
            tilts.append(_unit(mirror * _unit(tilt)))
            strengths.append(volts * np.exp(rng.normal(0, 0.2)))
            areas.append(-1)
            kernels.append(len(courses) - 1)
            train_drives.append(np.ones(len(features["train_low"])))
            test_drives.append(np.ones(len(features["test_low"])))

    patterns = _referenced(_field(names, np.array(places), np.array(tilts)))
    patterns *= np.array(strengths) / abs(patterns).max(0)
    phantom = Phantom(
        seed=seed,
        subject=subject,
        patterns=patterns,
        drives=np.round(np.stack(train_drives, 1), 4),
        timecourses=np.stack(courses),
        kernel=np.array(kernels),
        common=(np.array(areas) < 0).astype(float),
        gain=gain,
        jitter=JITTER,
        noise=_background(names, centre, radius, rng),
        alpha=_alpha(names, centre, radius, rng),
        noise_spectrum=_colouring(lambda f: 1 / np.maximum(f, 0.5)),
        alpha_spectrum=_colouring(_alpha_power(10 + rng.normal(0, 0.6))),
        sensor_noise=SENSORS,
        session_scale=np.exp(rng.normal(0, [[0.08], [0.2]], (2, 4))),
        whitening=np.tile(np.eye(len(CHANNELS)), (4, 1, 1)),
    )
    return phantom, {
        "test_drives": np.round(np.stack(test_drives, 1), 4),
        "positions": np.array(places),
        "area": np.array(areas),
    }


def _tuning(area, side, source, features, everyone, own) -> dict[str, np.ndarray]:
    """Draw what of a picture drives a source: feature set → weights (n_features,)."""
    tuning = {}
    for kind, weight in area.driven_by.items():
        size = features[f"train_{kind}"].shape[1]
        drawn = np.sqrt(SHARED) * everyone.standard_normal(size)
        drawn += np.sqrt(1 - SHARED) * own.standard_normal(size)
        if area.name == "V1":  # the opposite half of the visual field; upper or lower quarter
            field = np.zeros((4, 4))
            rows = slice(0, 2) if source % 4 < 2 else slice(2, 4)
            columns = slice(2, 4) if side < 0 else slice(0, 2)
            field[rows, columns] = 1
            drawn *= np.broadcast_to(field[..., None], LOW_LEVEL_AXES).ravel()
        tuning[kind] = weight * drawn / np.linalg.norm(drawn)
    return tuning


def _sphere() -> tuple[np.ndarray, float]:
    """Fit a sphere to the electrodes: centre (3,) and radius in m."""
    points = positions([*CHANNELS, REFERENCE])
    # |p|² = 2 p·c + (R² − |c|²) is linear in the centre and in the bracket.
    left = np.column_stack([2 * points, np.ones(len(points))])
    centre, rest = np.split(np.linalg.lstsq(left, (points**2).sum(1), rcond=None)[0], [3])
    return centre, float(np.sqrt(rest[0] + centre @ centre))


def _field(names: list[str], places: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """Return what electrodes see of dipoles of 1 A·m: (n_names, n_dipoles) in V."""
    centre, radius = _sphere()
    info = mne.create_info(names, SFREQ, "eeg")
    montage = mne.channels.make_dig_montage(
        dict(zip(names, positions(names), strict=True)), coord_frame="head"
    )
    info.set_montage(montage)
    sphere = mne.make_sphere_model(centre, radius, verbose="error")
    count = len(places)
    dipoles = mne.Dipole(
        np.arange(count) * 1e-3, places, np.ones(count), tilts, np.ones(count), verbose="error"
    )
    forward, _ = mne.make_forward_dipole(dipoles, sphere, info, verbose="error")
    return forward["sol"]["data"]


def _referenced(field: np.ndarray) -> np.ndarray:
    """Subtract the last row, the reference electrode, and drop it."""
    return field[:-1] - field[-1:]


def _background(names, centre, radius, rng) -> np.ndarray:
    """Mix 32 white noises like 400 cortical sources: (n_channels, 32) in V.

    What 400 sources add to the electrodes' covariance beyond 32 components is less than the
    sensors' own noise.
    """
    places = rng.normal(size=(400, 3))
    places[:, 2] = abs(places[:, 2]) - 0.4  # few sources below the brain
    places = places / np.linalg.norm(places, axis=1, keepdims=True)
    places *= radius * rng.uniform(0.55, 0.82, (400, 1))
    tilts = rng.normal(size=(400, 3))
    field = _field(names, centre + places, tilts / np.linalg.norm(tilts, axis=1, keepdims=True))
    patterns, sizes, _ = np.linalg.svd(_referenced(field), full_matrices=False)
    mixing = (patterns * sizes)[:, :32]
    return mixing * BACKGROUND / np.sqrt((mixing**2).sum(1).mean())


def _alpha(names, centre, radius, rng) -> np.ndarray:
    """Return the scalp patterns of six posterior alpha sources: (n_channels, 6) in V."""
    right = np.array([(0.25, -0.9, 0.3), (0.4, -0.7, 0.6), (0.5, -0.8, 0.1)])
    directions = np.concatenate([right * [-1, 1, 1], right])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = 0.78 * radius * directions + rng.normal(0, 0.005, directions.shape)
    places *= np.minimum(1, OUTERMOST * radius / np.linalg.norm(places, axis=1, keepdims=True))
    tilts = directions + rng.normal(0, 0.3, directions.shape)
    seen = _referenced(
        _field(names, centre + places, tilts / np.linalg.norm(tilts, axis=1, keepdims=True))
    )
    return seen * ALPHA / np.sqrt((seen**2).sum(1).max())


def _course(latency: float, width: float) -> np.ndarray:
    """Return a wave of about one and a half cycles around `latency`, 0 at first; peak 1."""
    time = np.arange(-_MARGIN, _MARGIN + 1) / 1000
    wave = np.exp(-0.5 * ((time - latency) / width) ** 2)
    wave *= np.cos(2 * np.pi * (time - latency) / (5 * width))
    wave /= 1 + np.exp(-np.clip((time - 0.05) / 0.006, -500, 500))
    wave[time < 0.02] = 0
    return wave / abs(wave).max()


def _alpha_power(peak: float):
    return lambda f: np.exp(-0.5 * ((f - peak) / 0.8) ** 2)


def _colouring(power) -> np.ndarray:
    """Return the symmetric (n_times, n_times) matrix that gives white noise a power spectrum."""
    frequency = np.fft.rfftfreq(4096, 1 / SFREQ)
    spectrum = power(frequency)
    spectrum[0] = 0
    covariance = np.fft.irfft(spectrum)[:N_TIMES]
    return np.real(sqrtm(toeplitz(covariance / covariance[0])))


def _unit(vector) -> np.ndarray:
    return np.asarray(vector, float) / np.linalg.norm(vector)
