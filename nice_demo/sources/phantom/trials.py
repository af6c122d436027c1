"""Single trials of a phantom subject, on demand and always the same.

A trial is a function of (phantom, condition, repetition) alone. It needs NumPy only, so that the
page can make trials without a head model: `nice_demo.sources.phantom.head` computed that before.

What a trial is made of, in volts against the reference electrode Fz:

* the response to the picture shown at 0 s, and to the pictures before and after it, which follow
  each other every 200 ms as in THINGS-EEG2: each source's *drive* for a picture, saturating, times
  the source's time course, times its scalp pattern; latency and gain vary from trial to trial;
* a background of many cortical sources with a 1/f spectrum, posterior alpha that waxes and wanes,
  and the sensors' own noise.

The result is rounded to the amplifier's resolution. That is realistic, and it makes trials equal
to the last bit on machines whose matrix products differ in the last digit.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nice_demo.errors import InputError
from nice_demo.files import complete_file

SFREQ = 250.0  # Hz
TMIN = -0.2  # s, start of an epoch before the baseline is cut off
N_TIMES = 300  # samples from TMIN to 0.996 s
BASELINE = 50  # samples before the picture
ASYNCHRONY = 0.2  # s from picture to picture
SESSIONS = 4
TEST_REPETITIONS = 80
RESOLUTION = 5e-8  # V, of one step of the amplifier

_NEIGHBOURS = np.arange(-4, 5)  # pictures whose response reaches into the epoch
_MARGIN = 1100  # ms of a time-course table before the picture and after
_AT_ONCE = 10  # trials that a thread makes: what they take stays in a cache
_THREADS = 2  # however many there are, the trials are the same
_SPLITS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class Phantom:
    """Everything that one phantom subject's trials are made of.

    Attributes
    ----------
    seed, subject : int
        Name the random numbers.
    patterns : array of shape (n_channels, n_sources)
        What the electrodes see of each source, in V for a drive of 1.
    drives : array of shape (n_conditions, n_sources)
        How strongly each picture drives each source; mean square 1 over training pictures.
    timecourses : array of shape (n_kernels, 2201)
        At 1 kHz, from 1.1 s before the picture to 1.1 s after; peak 1.
    kernel : array of shape (n_sources,), int
        Which time course each source has.
    common : array of shape (n_sources,), 0 or 1
        1 for sources that respond to every picture alike.
    gain : float
        Factor on the sources that are specific to the picture: the subject's difficulty.
    jitter : float
        Standard deviation of the latency over trials, s.
    noise : array of shape (n_channels, n_background)
        Scalp patterns of the background noises, in V.
    alpha : array of shape (n_channels, n_alpha)
        Scalp patterns of the alpha sources, in V.
    noise_spectrum, alpha_spectrum : array of shape (n_times, n_times)
        Turn white noise into noise of unit variance with the wanted spectrum.
    sensor_noise : float
        Standard deviation of each sensor, V.
    session_scale : array of shape (2, 4)
        Background and alpha amplitude in each session, relative.
    whitening : array of shape (4, n_channels, n_channels)
        One matrix a session, from training trials only.
    """

    seed: int
    subject: int
    patterns: np.ndarray
    drives: np.ndarray
    timecourses: np.ndarray
    kernel: np.ndarray
    common: np.ndarray
    gain: float
    jitter: float
    noise: np.ndarray
    alpha: np.ndarray
    noise_spectrum: np.ndarray
    alpha_spectrum: np.ndarray
    sensor_noise: float
    session_scale: np.ndarray
    whitening: np.ndarray

    def trials(self, split: str, condition: int, repetitions: range | list[int]) -> np.ndarray:
        """Generate single trials of one picture.

        Parameters
        ----------
        split : "train" or "test"
            Which pictures `drives` holds; names the random numbers.
        condition : int
            Row of `drives`.
        repetitions : sequence of int
            Which repetitions; a repetition is the same trial whatever else is asked for with it.

        Returns
        -------
        array of shape (n_repetitions, n_channels, n_times), int32
            In steps of `RESOLUTION` volts, baseline not yet subtracted.
        """
        repetitions = list(repetitions)
        parts = [repetitions[i : i + _AT_ONCE] for i in range(0, len(repetitions), _AT_ONCE)]
        if len(parts) < 2:
            return self._trials(split, condition, repetitions)
        with ThreadPoolExecutor(_THREADS) as pool:
            return np.concatenate(list(pool.map(partial(self._trials, split, condition), parts)))

    def _trials(self, split: str, condition: int, repetitions: list[int]) -> np.ndarray:
        count, channels = len(repetitions), len(self.patterns)
        white = np.empty((count, self.noise.shape[1], N_TIMES), np.float32)
        sensor = np.empty((count, channels + 1, N_TIMES), np.float32)  # the last: the reference
        rhythm = np.empty((count, self.alpha.shape[1], N_TIMES), np.float32)
        shown = np.empty((count, len(_NEIGHBOURS)), int)
        gains = np.empty((count, len(_NEIGHBOURS)))
        delays = np.empty(shown.shape, int)
        amplitude = np.empty((count, 2))
        for row, repetition in enumerate(repetitions):
            rng = np.random.default_rng(
                [self.seed, self.subject, _SPLITS[split], condition, repetition]
            )
            shown[row] = rng.integers(len(self.drives), size=shown.shape[1])
            gains[row] = np.exp(0.25 * rng.standard_normal(shown.shape[1]))
            delays[row] = np.rint(1000 * self.jitter * rng.standard_normal(shown.shape[1]))
            amplitude[row] = np.exp([0.15, 0.5] * rng.standard_normal(2))
            rng.standard_normal(out=white[row], dtype=np.float32)
            rng.standard_normal(out=sensor[row], dtype=np.float32)
            rng.standard_normal(out=rhythm[row], dtype=np.float32)
        shown[:, _NEIGHBOURS == 0] = condition
        amplitude *= self.session_scale.T[[session(r) for r in repetitions]]

        background = _coloured(white * amplitude[:, :1, None], self.noise_spectrum)
        alpha = _coloured(rhythm * amplitude[:, 1:, None], self.alpha_spectrum)
        sources = [self._activity(shown, gains, np.clip(delays, -40, 40)), background, alpha]
        mixing = np.concatenate([self.patterns, self.noise, self.alpha], axis=1) / RESOLUTION
        # Sources first and one matrix product: much faster than a small product for each trial.
        stacked = np.concatenate([s.swapaxes(0, 1) for s in sources]).reshape(mixing.shape[1], -1)
        steps = (mixing @ stacked).reshape(channels, count, N_TIMES).swapaxes(0, 1)
        steps += (sensor[:, :-1] - sensor[:, -1:]) * (self.sensor_noise / RESOLUTION)
        return np.rint(steps, out=steps).astype(np.int32)

    def expected(self, condition: int) -> np.ndarray:
        """Return the response to a picture without noise, neighbours or variation.

        Returns
        -------
        array of shape (n_channels, n_times)
            In V.
        """
        alone = self._activity(np.array([[condition]]), np.ones((1, 1)), np.zeros((1, 1), int))
        return self.patterns @ alone[0]

    def _activity(self, shown: np.ndarray, gains: np.ndarray, delays: np.ndarray) -> np.ndarray:
        """Sum the sources' responses to a stream of pictures.

        `shown`, `gains` and `delays` (ms) have shape (n_trials, n_pictures), the picture at 0 s in
        the middle; returns (n_trials, n_sources, n_times).
        """
        strength = self.gain * (1 - self.common) + self.common
        drive = np.tanh(self.drives[shown] * gains[..., None] * 0.5) / 0.5 * strength
        onset = 1000 * ASYNCHRONY * (np.arange(shown.shape[1]) - shown.shape[1] // 2)
        first = np.rint(1000 * TMIN - onset).astype(int) - delays + _MARGIN
        samples = first[..., None] + np.arange(N_TIMES) * round(1000 / SFREQ)
        samples = np.clip(samples, 0, self.timecourses.shape[1] - 1)
        activity = np.empty((len(shown), len(self.kernel), N_TIMES))
        for kernel, course in enumerate(self.timecourses):
            sources = np.flatnonzero(self.kernel == kernel)
            responses = course[samples]  # (trials, pictures, times)
            activity[:, sources] = drive[..., sources].transpose(0, 2, 1) @ responses
        return activity

    def evoked(self, split: str, condition: int, repetitions: list[int]) -> "PhantomEvoked":
        """Average the first 1, 2, 5, … trials of a picture, as volts and whitened.

        Parameters
        ----------
        split, condition
            As for `trials`.
        repetitions : list of int
            Numbers of repetitions averaged, ascending.
        """
        trials = self.trials(split, condition, range(repetitions[-1]))
        which = np.array([session(r) for r in range(repetitions[-1])])
        volts, whitened = [], []
        for count in repetitions:
            # Sums of whole numbers are exact, so that the average doesn't depend on the order.
            sums = [trials[:count][which[:count] == s].sum(0) for s in range(SESSIONS)]
            volts.append(_baselined(sum(sums) * RESOLUTION / count))
            mixed = sum(w @ (s * RESOLUTION) for w, s in zip(self.whitening, sums, strict=True))
            whitened.append(_baselined(mixed / count)[:, BASELINE:])
        return PhantomEvoked(np.stack(volts), np.stack(whitened))

    def save(self, path: Path | str) -> None:
        """Write the phantom as safetensors."""
        arrays = {
            field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)
        }
        with complete_file(path) as part:
            save_file(arrays, part)

    @classmethod
    def open(cls, path: Path | str) -> "Phantom":
        """Read a phantom.

        Raises
        ------
        InputError
            Where the file is missing, damaged or not a phantom.
        """
        try:
            with safe_open(path, "numpy") as file:
                arrays = {field.name: file.get_tensor(field.name) for field in fields(cls)}
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path} can't be read as a phantom ({error}); prepare it anew."
            ) from None
        scalars = ("seed", "subject", "gain", "jitter", "sensor_noise")
        return cls(**{k: v.item() if k in scalars else v for k, v in arrays.items()})


@dataclass(frozen=True)
class PhantomEvoked:
    """Averages over the first repetitions of one picture.

    Attributes
    ----------
    volts : array of shape (n_averages, n_channels, 300)
        −0.2 to 0.996 s against Fz, baseline subtracted.
    whitened : array of shape (n_averages, n_channels, 250)
        0 to 0.996 s: what an encoder takes.
    """

    volts: np.ndarray
    whitened: np.ndarray


def _coloured(white: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """Give white noise (n_trials, n_noises, n_times) a spectrum, in one matrix product."""
    return (white.reshape(-1, len(spectrum)) @ spectrum).reshape(white.shape)


def session(repetition: int) -> int:
    """Return the session (0…3) in which a repetition was recorded."""
    return repetition % SESSIONS


def _baselined(epochs: np.ndarray) -> np.ndarray:
    """Subtract the mean before the picture, (…, n_times)."""
    return epochs - epochs[..., :BASELINE].mean(-1, keepdims=True)
