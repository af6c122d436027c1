"""From a `Recording` to epochs that an encoder takes.

The steps, in their order: channels chosen and referenced → filtered → epochs cut, baselined and
rejected by their amplitude → resampled to the encoders' times → missing electrodes interpolated →
whitened. `nice_demo.sources.recordings.signals` does the work on signals, with MNE.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from nice_demo.errors import InputError
from nice_demo.montage import REFERENCE, Montage
from nice_demo.preparation import shrunk_covariance
from nice_demo.sources.recordings import Recording, signals
from nice_demo.sources.recordings.channels import Match

AS_RECORDED, AVERAGE = "as recorded", "average"
# With fewer recorded electrodes the others of a cap would be invented rather than interpolated.
LEAST_CHANNELS = 8
LEAST_SFREQ = 100.0  # Hz; below it much of what encoders learned from isn't in the recording
# Of the encoders' rate, that is of 250 Hz 100 Hz: MNE's filter for it ends at half the rate, so
# that epochs can be decimated without aliasing.
_PASSED = 0.4
LEAST_MAINS = 10.0  # Hz; a notch for less would have more multiples than sense
MOST_EPOCHS = 5000  # of 63 electrodes they take 0.7 GB
_CHUNK = 100  # epochs that are cut and resampled at once
# What begins so isn't something that happened to a person.
_NO_EVENTS = ("bad", "edge", "boundary", "new segment", "start of", "end of")


@dataclass(frozen=True)
class Steps:
    """What is done to a recording.

    Attributes
    ----------
    electrodes : dict of str to str
        Name of a channel in the file → electrode; other channels aren't used.
    events : tuple of str
        Which events epochs are cut around; each is a condition.
    reference : str
        "as recorded", "average" (of the recorded electrodes), or an electrode.
    low, high : float or None
        Frequencies that are kept, Hz; None leaves that side open.
    notch : float or None
        Of the mains, Hz; it and its multiples are removed.
    tmin : float
        Start of the epochs, s.
    baseline : bool
        Subtract each channel's mean from `tmin` to 0 s.
    reject : float or None
        Epochs in which an electrode's highest and lowest value differ by more are dropped, V.
    whiten : bool
        False gives encoders µV, for those that were trained so.
    """

    electrodes: dict[str, str]
    events: tuple[str, ...]
    reference: str = AS_RECORDED
    low: float | None = 0.1
    high: float | None = 100.0
    notch: float | None = None
    tmin: float = -0.2
    baseline: bool = True
    reject: float | None = None
    whiten: bool = True


@dataclass(frozen=True)
class OwnEpochs:
    """Epochs of somebody's own recording.

    Attributes
    ----------
    volts : array of shape (n_epochs, n_channels, n_all), float32
        V, at the encoders' rate, baseline included.
    channels : list of str
        Electrodes that the rows of `volts` are: the montage's, in its order, where missing ones
        were interpolated; else the recorded ones of the montage, in its order.
    all_times : array of shape (n_all,)
        Of `volts`, s; the event is at 0.
    eeg : array of shape (n_epochs, n_montage, n_times), float32, or None
        What encoders take: the montage's channels, the encoders' times; whitened, or µV where
        that wasn't wanted. None where too few electrodes were recorded.
    conditions : list of str
        Of each epoch: its event.
    interpolated : list of str
        Electrodes that were estimated from the others.
    dropped : int
        Epochs rejected for their amplitude, or because the file marks some of it as bad.
    notes : list of str
        What was done, left out or should be known, in sentences.
    """

    volts: np.ndarray
    channels: list[str]
    all_times: np.ndarray
    eeg: np.ndarray | None
    conditions: list[str]
    interpolated: list[str]
    dropped: int
    notes: list[str] = field(default_factory=list)

    def of(self, condition: str) -> np.ndarray:
        """Return which epochs are of a condition: (n_epochs,) bool."""
        which = np.array([name == condition for name in self.conditions], bool)
        if not which.any():
            raise InputError(
                f"No epoch is left of {_short(condition)!r}; "
                f"choose of {_some([*dict.fromkeys(self.conditions)])}."
            )
        return which

    def evoked(self, condition: str) -> tuple[np.ndarray, int]:
        """Average a condition's epochs.

        Returns
        -------
        volts : array of shape (n_channels, n_all), float32
            V, rows as `channels`.
        n_epochs : int
            How many were averaged.
        """
        which = self.of(condition)
        return self.volts[which].mean(0, dtype=float).astype(np.float32), int(which.sum())


def default_steps(bundle_manifest: dict, recording: Recording, matches: Sequence[Match]) -> Steps:
    """Choose the steps that come nearest to how the bundle's training data were prepared.

    Parameters
    ----------
    bundle_manifest : dict
    recording : Recording
    matches : sequence of Match
        Channels that weren't found or are taken are left out.

    Returns
    -------
    Steps
        All events; the reference of the training data where that electrode was recorded.
    """
    preparation = bundle_manifest.get("preparation") or {}
    electrodes = {match.name: match.electrode for match in matches if match.electrode}
    reference = preparation.get("reference")
    start = (preparation.get("epoch") or [Steps.tmin])[0]
    units = {of.get("unit") for of in (bundle_manifest.get("recordings") or {}).values()}
    # Epochs in a file have been filtered before, and are too short for a filter as sharp.
    low, high = (None, None) if recording.epoched else (Steps.low, Steps.high)
    if high and high >= _highest(recording.sfreq):
        high = None
    return Steps(
        electrodes,
        tuple(dict.fromkeys(n for n in recording.events if not n.lower().startswith(_NO_EVENTS))),
        reference if reference in electrodes.values() else AS_RECORDED,
        low,
        high,
        tmin=min(float(start), 0.0),
        whiten=units != {"µV"},
    )


def prepare_epochs(
    recording: Recording,
    steps: Steps,
    montage: Montage,
    times: np.ndarray,
    progress: Callable[[float, str], None] | None = None,
    most: int = MOST_EPOCHS,
) -> OwnEpochs:
    """Turn a recording into epochs that encoders take.

    Parameters
    ----------
    recording : Recording
    steps : Steps
    montage : Montage
        The electrodes that encoders take.
    times : array of shape (n_times,)
        Of the samples that encoders take, s, evenly spaced.
    progress : callable, optional
        Is told how far it is, between 0 and 1, and what is being done.
    most : int
        More epochs than this are refused.

    Returns
    -------
    OwnEpochs
        Without `eeg` where fewer than `LEAST_CHANNELS` of the montage's electrodes were recorded;
        then epochs may be shorter than what encoders take.

    Raises
    ------
    InputError
        Where a step can't be done: no event, no whole epoch, unknown names, NaN.
    """
    tell = progress or (lambda done, what: None)
    notes: list[str] = []
    _check(recording, steps, montage)
    recorded = _recorded(recording, steps, montage, notes)
    of_montage = [name for name in recorded if name in montage.names]
    least = min(LEAST_CHANNELS, len(montage.names))
    decodable = len(of_montage) >= least
    grid = _grid(recording, steps, np.asarray(times, float), decodable, notes)
    volts = _filtered(recording, steps, recorded, grid, notes, tell)
    tell(0.6, "cutting epochs")
    epochs, conditions, dropped = _epochs(volts, recording, steps, grid, most, notes)
    del volts
    if not decodable:
        few = f"{len(of_montage)} of the {len(montage.names)} electrodes that encoders take were"
        notes.append(
            f"Only {few} recorded, and decoding needs {least}: the others would be "
            "invented, so that this recording is shown and not decoded."
        )
        # Fz, which isn't in the montage, stands last.
        epochs = epochs[:, : len(of_montage)]
        return OwnEpochs(epochs, of_montage, grid.times, None, conditions, [], dropped, notes)
    tell(0.8, "interpolating missing electrodes")
    zero = steps.reference if steps.reference in recorded else None
    sources = [name for name in recorded if name != zero]
    mixing = signals.interpolation(montage, sources, zero)
    interpolated = [name for name in montage.names if name not in recorded]
    if interpolated:
        notes.append(
            f"{len(interpolated)} of {len(montage.names)} electrodes are missing in the recording "
            "and were interpolated from the others by spherical splines, which adds nothing: the "
            "more are missing, the less an encoder finds."
        )
    tell(0.85, "whitening")
    epochs = epochs[:, [name in sources for name in recorded]]
    to_encoder = 1e6 * mixing
    if steps.whiten:
        covariance = shrunk_covariance(epochs[..., grid.kept])
        # An interpolated electrode adds no variance of its own.
        to_encoder = signals.whitening(mixing @ covariance @ mixing.T) @ mixing
    eeg = to_encoder.astype(np.float32) @ epochs[..., grid.kept]
    if sources != montage.names:
        epochs = mixing.astype(np.float32) @ epochs
    tell(1.0, "done")
    names = list(montage.names)
    return OwnEpochs(epochs, names, grid.times, eeg, conditions, interpolated, dropped, notes)


# ---------------------------------------------------------------- what was asked for


def _short(name: str) -> str:
    """Make a name from a file fit for a sentence."""
    name = "".join(letter if letter.isprintable() else " " for letter in name[:60])
    return name if len(name) <= 40 else name[:39] + "…"


def _some(names: Sequence[str]) -> str:
    """List names for a sentence, not more than a reader takes in."""
    several = ", ".join(map(_short, names[:8]))
    return f"{several}, … ({len(names)} in all)" if len(names) > 8 else several


def _check(recording: Recording, steps: Steps, montage: Montage) -> None:
    """Refuse what can't be done whatever the recording holds."""
    if not recording.sfreq >= LEAST_SFREQ:
        raise InputError(
            f"{_short(recording.name)} was recorded at {recording.sfreq:g} Hz, too low a rate; "
            f"give a recording of {LEAST_SFREQ:g} Hz or more."
        )
    if unknown := [name for name in steps.electrodes if name not in recording.channels]:
        raise InputError(
            f"There is no channel {_short(unknown[0])!r} in {_short(recording.name)}; "
            f"its channels are {_some(recording.channels)}."
        )
    chosen = list(steps.electrodes.values())
    if not chosen:
        raise InputError(
            f"No channel of {_short(recording.name)} was matched to an electrode; choose by hand "
            f"which of {_some(recording.channels)} is which electrode."
        )
    for electrode in chosen:
        if electrode not in montage.names and electrode != REFERENCE:
            raise InputError(
                f"{_short(electrode)!r} is no electrode of this cap; choose of "
                f"{', '.join(montage.names)}."
            )
        if chosen.count(electrode) > 1:
            raise InputError(f"Two channels can't both be {electrode}; choose one of them.")
    if steps.reference not in (AS_RECORDED, AVERAGE, *chosen):
        raise InputError(
            f"The reference {_short(steps.reference)!r} isn't among the matched channels; choose "
            f"{AS_RECORDED!r}, {AVERAGE!r} or one of {_some(chosen)}."
        )
    there = dict.fromkeys(recording.events)
    if not there:
        raise InputError(
            f"{_short(recording.name)} holds no events, so that nobody knows when pictures were "
            "shown; give a file with markers or annotations."
        )
    if not steps.events:
        raise InputError(f"No events are chosen; choose at least one of {_some([*there])}.")
    if unknown := [name for name in steps.events if name not in there]:
        raise InputError(
            f"There is no event {_short(unknown[0])!r} in {_short(recording.name)}; "
            f"choose of {_some([*there])}."
        )
    limits = {"low": steps.low, "high": steps.high, "notch": steps.notch, "reject": steps.reject}
    for name, value in limits.items():
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"{name} is {value:g}; give a number above 0, or leave it out.")
    if steps.low is not None and steps.high is not None and steps.low >= steps.high:
        raise InputError(
            f"The filter would keep from {steps.low:g} to {steps.high:g} Hz, which is nothing; "
            "let the lower frequency be the lower one."
        )
    if steps.notch is not None and steps.notch < LEAST_MAINS:
        raise InputError(f"No mains have {steps.notch:g} Hz; give 50 or 60 for the notch filter.")
    if not -2 <= steps.tmin <= 0:
        raise InputError(f"Epochs can't start at {steps.tmin:g} s; give −2 to 0.")


def _recorded(
    recording: Recording, steps: Steps, montage: Montage, notes: list[str]
) -> dict[str, int]:
    """Return the electrodes that were recorded, in the montage's order, and their rows."""
    row_of = {e: recording.channels.index(name) for name, e in steps.electrodes.items()}
    inside = [name for name in [*montage.names, REFERENCE] if name in row_of]
    recorded, flat = {}, []
    for name in dict.fromkeys(inside):
        signal = recording.volts[..., row_of[name], :]
        # NaN as well as infinity end in the minimum or the maximum.
        low, high = (signal.min(), signal.max()) if signal.size else (0.0, 0.0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(
                f"{_short(recording.name)} holds NaN or infinity in {name}; "
                "leave that channel out or mend the file."
            )
        if low == high and name != steps.reference:
            flat.append(name)
        else:
            recorded[name] = row_of[name]
    if flat:
        notes.append(f"{_some(flat)} recorded nothing (flat) and count as missing.")
    if not any(name in montage.names and name != steps.reference for name in recorded):
        raise InputError(
            f"All matched channels of {_short(recording.name)} are flat or the reference; "
            "match other channels."
        )
    return recorded


# ---------------------------------------------------------------- samples


@dataclass(frozen=True)
class _Grid:
    """Where an epoch's samples lie, at the recording's rate and at the encoders'.

    Attributes
    ----------
    rate : float
        The encoders', Hz.
    first, last : int
        Of an epoch's samples at the recording's rate, from the event; both belong to it.
    start, stop : int
        The same of the part that stays in the end.
    times : array of shape (n_all,)
        At the encoders' rate, s.
    kept : slice
        Which of them encoders take.
    every : int
        Of so many samples one stays.
    matrix : array of shape (n_that_stay, n_all), or None
        Resamples those; None where they are the encoders' already.
    """

    rate: float
    first: int
    last: int
    start: int
    stop: int
    times: np.ndarray
    kept: slice
    every: int
    matrix: np.ndarray | None

    def resampled(self, epochs: np.ndarray) -> np.ndarray:
        """Bring epochs (…, last − first + 1) to the encoders' times, (…, n_all)."""
        epochs = epochs[..., :: self.every]
        return epochs if self.matrix is None else epochs @ self.matrix


def _grid(
    recording: Recording, steps: Steps, times: np.ndarray, decodable: bool, notes: list[str]
) -> _Grid:
    """Find out which samples of the recording become which of the encoders'.

    Both rates' samples coincide at the event and then again every `apart` samples of the
    recording: 4 of 1000 Hz are one of 250 Hz, 256 of 512 Hz are 125. Where that is every sample of
    the encoders', those are what stays (the filter has taken away what would alias). Where it is
    not, an epoch is cut from such a moment to another and resampled.
    """
    sfreq, rate = recording.sfreq, float(round((len(times) - 1) / (times[-1] - times[0]), 6))
    ratio = Fraction(sfreq / rate).limit_denominator(max(1, round(rate)))
    apart, become = ratio.numerator, ratio.denominator
    k_first, k_last = int(np.ceil(steps.tmin * rate - 1e-6)), round(times[-1] * rate)
    k_zero = round(times[0] * rate)
    k_first = min(k_first, k_zero)
    if recording.epoched:
        begins = round(recording.tmin * sfreq)
        ends = begins + recording.volts.shape[2] - 1
        there = range(-(-begins * become // apart), ends * become // apart + 1)
        if decodable:
            _check_long_enough(recording, there, k_zero, k_last, rate)
        if k_first < there.start and steps.baseline:
            notes.append(
                f"The epochs in the file start at {1e3 * recording.tmin:.0f} ms, "
                f"so that the baseline is shorter."
                if there.start < 0
                else "The epochs in the file start with the event, so that there is no baseline."
            )
        k_first, k_last = max(k_first, there.start), min(k_last, there.stop - 1)
        if k_last <= k_first:
            raise InputError(
                f"The epochs of {_short(recording.name)} lie from {1e3 * begins / sfreq:.0f} to "
                f"{1e3 * ends / sfreq:.0f} ms, where nothing is shown; give epochs around an event."
            )
    all_times = np.arange(k_first, k_last + 1) / rate
    kept = slice(k_zero - k_first, k_last - k_first + 1)
    # As MNE's: samples from the edge on, not the nearest to it.
    start = int(np.ceil(k_first / rate * sfreq - 1e-6))
    stop = int(np.floor(k_last / rate * sfreq + 1e-6))
    if become == 1:
        first, last = apart * k_first, apart * k_last
        return _Grid(rate, first, last, first, last, all_times, kept, apart, None)
    # Of a high rate fewer samples are enough, which were filtered; the matrix stays small.
    every = max(1, int(sfreq / (2 * rate)))
    ratio = Fraction(sfreq / every / rate).limit_denominator(max(1, round(rate)))
    apart, become = ratio.numerator, ratio.denominator
    # From one moment at which the rates coincide to before another.
    k_begin = k_first // become * become
    begin = k_begin // become * apart
    end = -(-(k_last + 1) // become) * apart
    first, last, before, after = begin, end - 1, 0, 0
    if recording.epoched:  # what the epochs don't hold is mirrored
        first, last = max(begin, -(-begins // every)), min(end - 1, ends // every)
        before, after = first - begin, end - 1 - last
    matrix = signals.resampling(last - first + 1, ratio, before, after)
    matrix = np.ascontiguousarray(matrix[:, k_first - k_begin : k_last - k_begin + 1])
    first, last = every * first, every * last
    return _Grid(rate, first, last, start, stop, all_times, kept, every, matrix)


def _check_long_enough(
    recording: Recording, there: range, k_zero: int, k_last: int, rate: float
) -> None:
    missing = []
    if k_zero < there.start:
        missing.append(f"{1e3 * k_zero / rate:.0f} to {1e3 * there.start / rate:.0f} ms")
    if k_last > there.stop - 1:
        missing.append(f"{1e3 * (there.stop - 1) / rate:.0f} to {1e3 * k_last / rate:.0f} ms")
    if missing:
        raise InputError(
            f"The epochs of {_short(recording.name)} lack {' and '.join(missing)}, which encoders "
            "need; cut longer epochs or give the continuous recording."
        )


# ---------------------------------------------------------------- filters


def _highest(sfreq: float) -> float:
    """Return the frequency up to which a filter's slope has room below half the rate."""
    return 0.45 * sfreq


def _kernels(recording: Recording, steps: Steps, rate: float, notes: list[str]) -> list[np.ndarray]:
    """Choose the filters, and say what was changed of those that were asked for."""
    sfreq, length = recording.sfreq, recording.volts.shape[-1]
    low, high, notch = steps.low, steps.high, steps.notch
    if recording.epoched and (low or notch):
        notes.append(
            "The file holds epochs, which are too short for a filter that is sharp at low "
            "frequencies; only what lies above the upper frequency is filtered out."
        )
        low = notch = None
    if high is not None and high >= _highest(sfreq):
        notes.append(
            f"A recording of {sfreq:g} Hz holds nothing above {sfreq / 2:g} Hz, so that it wasn't "
            f"filtered at {high:g} Hz."
        )
        high = None
    if sfreq > rate and (high is None or high > _PASSED * rate):
        high = _PASSED * rate
        notes.append(
            f"Encoders take {rate:g} Hz, so that frequencies above {high:g} Hz were filtered out."
        )
    elif sfreq < rate:
        notes.append(
            f"The recording has {sfreq:g} Hz and was resampled to {rate:g} Hz: it holds nothing "
            f"above {sfreq / 2:g} Hz, where the encoders' training data may."
        )
    if low is not None and low >= (high or _highest(sfreq)):
        raise InputError(
            f"Above {low:g} Hz nothing is left that the recording holds and encoders take; "
            "give a lower frequency to filter from."
        )
    if low is not None and (needed := signals.seconds_of_filter(low)) > length / sfreq:
        notes.append(
            f"The filter at {low:g} Hz is {needed:.0f} s long and the recording "
            f"{length / sfreq:.0f} s, so that low frequencies weren't filtered out."
        )
        low = None
    kernels = [signals.band_filter(sfreq, low, high)] if low or high else []
    if notch and notch < _highest(sfreq):
        highest = min(_highest(sfreq), 1.25 * high if high else np.inf)
        kernels.append(signals.notch_filter(sfreq, notch, max(notch, highest)))
    elif notch:
        notes.append(f"A recording of {sfreq:g} Hz holds nothing at {notch:g} Hz to filter out.")
    if any(len(kernel) > length for kernel in kernels):
        raise InputError(
            f"{_short(recording.name)} is {1e3 * length / sfreq:.0f} ms long, too short to be "
            "filtered; give a longer recording."
        )
    return kernels


def _filtered(
    recording: Recording,
    steps: Steps,
    recorded: dict[str, int],
    grid: _Grid,
    notes: list[str],
    tell: Callable[[float, str], None],
) -> np.ndarray:
    """Return what was recorded, referenced and filtered; dimensions as of `Recording.volts`."""
    volts = recording.volts
    kernels = _kernels(recording, steps, grid.rate, notes)
    filters = [signals.zero_phase(kernel, volts.shape[-1]) for kernel in kernels]
    reference = np.zeros(())
    if steps.reference == AVERAGE:
        reference = sum(volts[..., row, :].astype(float) for row in recorded.values())
        reference /= len(recorded)
    elif steps.reference != AS_RECORDED:
        reference = volts[..., recorded[steps.reference], :].astype(float)
    shape = (*volts.shape[:-2], len(recorded), volts.shape[-1])
    filtered = np.empty(shape, np.float32)
    for index, row in enumerate(recorded.values()):
        tell(0.6 * index / len(recorded), "filtering")
        signal = volts[..., row, :] - reference  # float64
        for through in filters:
            signal = through(signal)
        if steps.baseline and grid.start < 0:
            # The baseline takes it away in any case; without, float32 holds more digits.
            signal -= signal.mean(-1, keepdims=True)
        filtered[..., index, :] = signal
    return filtered


# ---------------------------------------------------------------- epochs


def _epochs(
    volts: np.ndarray,
    recording: Recording,
    steps: Steps,
    grid: _Grid,
    most: int,
    notes: list[str],
) -> tuple[np.ndarray, list[str], int]:
    """Cut, baseline, reject and resample.

    Returns
    -------
    epochs : array of shape (n_epochs, n_recorded, n_all), float32
        V.
    conditions : list of str
    dropped : int
    """
    onsets, conditions, in_bad = _onsets(recording, steps, grid, notes)
    if len(onsets) > most:
        raise InputError(
            f"{len(onsets)} epochs are too many at once; choose fewer events, {most} at most."
        )
    length = grid.last - grid.first + 1
    before = slice(grid.start - grid.first, 1 - grid.first)  # the event's sample included
    shown = slice(grid.start - grid.first, grid.stop - grid.first + 1)
    found, good = [], np.ones(len(onsets), bool)
    for begin in range(0, len(onsets), _CHUNK):
        which = onsets[begin : begin + _CHUNK]
        if recording.epoched:
            offset = grid.first - round(recording.tmin * recording.sfreq)
            epochs = volts[which, :, offset : offset + length]
        else:
            epochs = np.stack([volts[:, s + grid.first : s + grid.last + 1] for s in which])
        if steps.baseline and grid.start < 0:
            epochs -= epochs[..., before].mean(-1, keepdims=True, dtype=float).astype(np.float32)
        if steps.reject is not None:
            size = np.ptp(epochs[..., shown], axis=-1).max(-1)
            good[begin : begin + _CHUNK] = size <= steps.reject
            epochs = epochs[size <= steps.reject]
        found.append(grid.resampled(epochs))
    dropped = int((~good).sum())
    if dropped == len(good):
        raise InputError(
            f"In all {dropped} epochs an electrode varies by more than {1e6 * steps.reject:g} µV; "
            "allow more, or leave out the electrodes that are noisy."
        )
    if dropped:
        notes.append(
            f"{dropped} of {len(good)} epochs were dropped: an electrode varies by more than "
            f"{1e6 * steps.reject:g} µV."
        )
    kept = [name for name, is_good in zip(conditions, good, strict=True) if is_good]
    left = set(kept)
    if gone := [name for name in steps.events if name not in left]:
        notes.append(f"No epoch is left of {_some(gone)}.")
    return np.concatenate(found), kept, dropped + in_bad


def _onsets(
    recording: Recording, steps: Steps, grid: _Grid, notes: list[str]
) -> tuple[np.ndarray, list[str], int]:
    """Return the chosen events in order of time: samples, or rows of epochs, and conditions.

    Without those, whose number comes last, whose epochs the file marks as bad somewhere.
    """
    wanted = set(steps.events)
    chosen = np.array([name in wanted for name in recording.events], bool)
    names = np.array(recording.events, object)[chosen]
    if recording.epoched:
        return np.flatnonzero(chosen), names.tolist(), 0
    onsets = np.asarray(recording.onsets, float)[chosen]
    # An event a second off the recording is as lost as one a million years off.
    onsets = np.clip(onsets, -1, recording.volts.shape[1] / recording.sfreq + 1)
    samples = np.rint(onsets * recording.sfreq)
    whole = (samples + grid.first >= 0) & (samples + grid.last < recording.volts.shape[1])
    if not whole.any():
        raise InputError(
            f"None of the {len(samples)} epochs from {1e3 * grid.first / recording.sfreq:.0f} to "
            f"{1e3 * grid.last / recording.sfreq:.0f} ms lies within the recording of "
            f"{recording.volts.shape[1] / recording.sfreq:.1f} s; choose other events."
        )
    if not whole.all():
        notes.append(
            f"{(~whole).sum()} epochs were left out as the recording doesn't hold them whole."
        )
    samples, names = samples[whole].astype(int), names[whole]
    bad = _marked_bad(recording, samples + grid.start, samples + grid.stop + 1)
    if bad.all():
        raise InputError(
            f"The file marks all {len(bad)} epochs as bad; take its BAD annotations away where "
            "they shouldn't count."
        )
    if bad.any():
        notes.append(f"{bad.sum()} of {len(bad)} epochs were dropped: the file marks them as bad.")
    samples, names = samples[~bad], names[~bad]
    order = np.argsort(samples, kind="stable")
    return samples[order], names[order].tolist(), int(bad.sum())


def _marked_bad(recording: Recording, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return which epochs, from samples `first` to before `end`, hold something bad: (n,) bool."""
    if not len(recording.bad):
        return np.zeros(len(first), bool)
    starts, ends = recording.bad[np.argsort(recording.bad[:, 0])].T
    # Of all stretches that start before an epoch ends, does any end after it starts?
    latest = np.concatenate([[-np.inf], np.maximum.accumulate(ends)])
    before = np.searchsorted(starts, end / recording.sfreq)
    return latest[before] > first / recording.sfreq
