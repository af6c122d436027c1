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
from pathlib import Path
from threading import Lock

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
        made = np.empty((len(self.patterns), len(repetitions), N_TIMES), np.int32)
        parts = [slice(i, i + _AT_ONCE) for i in range(0, len(repetitions), _AT_ONCE)]

        def make(part: slice) -> None:
            self._make(split, condition, repetitions[part], made[:, part])

        if len(parts) < 2:
            list(map(make, parts))
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(make, parts))
        return made.swapaxes(0, 1)

    def _make(self, split: str, condition: int, repetitions: list[int], made: np.ndarray) -> None:
        """Generate some trials into `made`, (n_channels, n_repetitions, n_times)."""
        channels, count, _ = made.shape
        # Sources first and one matrix product: much faster than a small product for each trial.
        mixing = np.concatenate([self.patterns, self.noise, self.alpha], axis=1) / RESOLUTION
        sources = np.empty((mixing.shape[1], count, N_TIMES))
        responses, background, alpha = np.split(
            sources, np.cumsum([self.patterns.shape[1], self.noise.shape[1]])
        )
        white, rhythm = np.empty_like(background), np.empty_like(alpha)
        sensor = np.empty((count, channels + 1, N_TIMES), np.float32)  # the last: the reference
        shown = np.empty((count, len(_NEIGHBOURS)), int)
        gains = np.empty((count, len(_NEIGHBOURS)))
        delays = np.empty(shown.shape, int)
        for row, repetition in enumerate(repetitions):
            rng = np.random.default_rng(
                [self.seed, self.subject, _SPLITS[split], condition, repetition]
            )
            shown[row] = rng.integers(len(self.drives), size=shown.shape[1])
            gains[row] = np.exp(0.25 * rng.standard_normal(shown.shape[1]))
            delays[row] = np.rint(1000 * self.jitter * rng.standard_normal(shown.shape[1]))
            amplitude = np.exp([0.15, 0.5] * rng.standard_normal(2))
            amplitude *= self.session_scale[:, session(repetition)]
            normal = rng.standard_normal((len(white), N_TIMES), np.float32)
            np.multiply(normal, amplitude[0], out=white[:, row])
            rng.standard_normal(out=sensor[row], dtype=np.float32)
            normal = rng.standard_normal((len(rhythm), N_TIMES), np.float32)
            np.multiply(normal, amplitude[1], out=rhythm[:, row])
        shown[:, _NEIGHBOURS == 0] = condition

        self._respond(shown, gains, np.clip(delays, -40, 40), responses)
        _colour(white, self.noise_spectrum, background)
        _colour(rhythm, self.alpha_spectrum, alpha)
        steps = (mixing @ sources.reshape(len(sources), -1)).reshape(made.shape)
        sensor[:, :-1] -= sensor[:, -1:]
        sensor *= self.sensor_noise / RESOLUTION
        steps += sensor[:, :-1].swapaxes(0, 1)
        np.rint(steps, out=made, casting="unsafe")

    def expected(self, condition: int) -> np.ndarray:
        """Return the response to a picture without noise, neighbours or variation.

        Returns
        -------
        array of shape (n_channels, n_times)
            In V.
        """
        alone = np.empty((self.patterns.shape[1], 1, N_TIMES))
        self._respond(np.array([[condition]]), np.ones((1, 1)), np.zeros((1, 1), int), alone)
        return self.patterns @ alone[:, 0]

    def _respond(
        self, shown: np.ndarray, gains: np.ndarray, delays: np.ndarray, responses: np.ndarray
    ) -> None:
        """Sum the sources' responses to a stream of pictures.

        `shown`, `gains` and `delays` (ms) have shape (n_trials, n_pictures), the picture at 0 s in
        the middle; the sums go into `responses`, (n_sources, n_trials, n_times).
        """
        strength = self.gain * (1 - self.common) + self.common
        drive = np.tanh(self.drives[shown] * gains[..., None] * 0.5) / 0.5 * strength
        onset = 1000 * ASYNCHRONY * (np.arange(shown.shape[1]) - shown.shape[1] // 2)
        first = np.rint(1000 * TMIN - onset).astype(int) - delays + _MARGIN
        samples = first[..., None] + np.arange(N_TIMES) * round(1000 / SFREQ)
        samples = np.clip(samples, 0, self.timecourses.shape[1] - 1)
        for kernel, course in enumerate(self.timecourses):
            sources = np.flatnonzero(self.kernel == kernel)
            of_trials = drive[..., sources].transpose(0, 2, 1) @ course[samples]
            responses[sources] = of_trials.swapaxes(0, 1)

    def evoked(self, split: str, condition: int, repetitions: list[int]) -> "PhantomEvoked":
        """Average the first 1, 2, 5, … trials of a picture, as volts and whitened.

        Parameters
        ----------
        split, condition
            As for `trials`.
        repetitions : list of int
            Numbers of repetitions averaged, ascending.
        """
        averages = Averages(self, split, condition, repetitions)
        averages.of(repetitions[-1])  # all trials at once
        volts, whitened = zip(*map(averages.of, repetitions), strict=True)
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


class Averages:
    """Averages over the first 1, 2, 5, … trials of a picture; trials are made when they are needed.

    Parameters
    ----------
    phantom : Phantom
    split, condition
        As for `Phantom.trials`.
    repetitions : list of int
        Numbers of repetitions averaged, ascending.
    """

    def __init__(
        self, phantom: Phantom, split: str, condition: int, repetitions: list[int]
    ) -> None:
        self._phantom, self._which = phantom, (split, condition)
        self._missing = list(repetitions)
        self._made: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._count, self._sums = 0, np.zeros((SESSIONS, len(phantom.patterns), N_TIMES), np.int32)
        self._making = Lock()

    def of(self, repetitions: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one row of each array of `PhantomEvoked`: volts, and whitened."""
        with self._making:
            if repetitions not in self._made:
                self._make(repetitions)
        return self._made[repetitions]

    def _make(self, most: int) -> None:
        """Make the averages over up to `most` trials, from where the last call ended."""
        first = self._count
        trials = self._phantom.trials(*self._which, range(first, most))
        while self._count < most:
            # Sums of whole numbers are exact, so that the average doesn't depend on the order.
            self._sums[session(self._count)] += trials[self._count - first]
            self._count += 1
            if self._count == self._missing[0]:
                self._made[self._missing.pop(0)] = self._average()

    def _average(self) -> tuple[np.ndarray, np.ndarray]:
        volts = _baselined(self._sums.sum(0) * RESOLUTION / self._count)
        of_sessions = zip(self._phantom.whitening, self._sums, strict=True)
        mixed = sum(whitening @ (summed * RESOLUTION) for whitening, summed in of_sessions)
        return volts, _baselined(mixed / self._count)[:, BASELINE:]


def _colour(white: np.ndarray, spectrum: np.ndarray, coloured: np.ndarray) -> None:
    """Give white noise (n_noises, n_trials, n_times) a spectrum, in one matrix product."""
    np.matmul(white.reshape(-1, N_TIMES), spectrum, out=coloured.reshape(-1, N_TIMES))


def session(repetition: int) -> int:
    """Return the session (0…3) in which a repetition was recorded."""
    return repetition % SESSIONS


def _baselined(epochs: np.ndarray) -> np.ndarray:
    """Subtract the mean before the picture, (…, n_times)."""
    return epochs - epochs[..., :BASELINE].mean(-1, keepdims=True)
