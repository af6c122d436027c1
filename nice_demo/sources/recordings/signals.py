"""The signal work on recordings: filters, resampling, interpolation and whitening, by MNE.

All of them are linear. Resampling and interpolation are therefore taken from MNE as a matrix, what
it makes of unit impulses, through which all epochs go in one product. A filter is MNE's, too; it is
applied as MNE does it (zero phase, edges mirrored) in one Fourier transform as long as the
recording, several times as fast as MNE's short ones that overlap.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from nice_demo.errors import InputError
from nice_demo.montage import REFERENCE, Montage, positions
from nice_demo.preparation import whitening_matrix

# Whitening leaves out directions with less than this share of the largest variance: an electrode
# that was interpolated from others adds none, but for rounding.
LEAST_VARIANCE = 1e-10


def band_filter(sfreq: float, low: float | None, high: float | None) -> np.ndarray:
    """Return MNE's default filter, a symmetric FIR kernel, that keeps `low` to `high` Hz."""
    from mne.filter import create_filter

    return create_filter(None, sfreq, low, high, verbose="error")


def seconds_of_filter(low: float) -> float:
    """Return how long MNE's filter that keeps what is above `low` Hz is, s."""
    return 3.3 / min(max(0.25 * low, 2.0), low)


def notch_filter(sfreq: float, mains: float, highest: float) -> np.ndarray:
    """Return the FIR kernel of ``mne.filter.notch_filter`` for `mains` and multiples up to here."""
    from mne.filter import create_filter

    frequencies = mains * np.arange(1, int(highest / mains) + 1)
    side = frequencies / 400 + 0.5  # half the width that MNE chooses, and the slope
    return create_filter(
        None, sfreq, frequencies + side, frequencies - side,
        l_trans_bandwidth=0.5, h_trans_bandwidth=0.5, verbose="error",
    )  # fmt: skip


def zero_phase(kernel: np.ndarray, n_times: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that filters signals as `mne.filter.filter_data` does.

    Parameters
    ----------
    kernel : array of shape (n_taps,)
        Symmetric; n_taps is odd.
    n_times : int
        Of the signals; not less than n_taps.

    Returns
    -------
    callable
        From an array of shape (…, n_times) to one of the same shape.
    """
    edge = len(kernel) - 1
    # What the transform wraps around stays inside the mirrored edges, which are cut off.
    length = next_fast_len(n_times + 2 * edge, real=True)
    spectrum = rfft(kernel, length)
    start = edge + edge // 2

    def filtered(signals: np.ndarray) -> np.ndarray:
        before = 2 * signals[..., :1] - signals[..., edge:0:-1]
        after = 2 * signals[..., -1:] - signals[..., -2 : -edge - 2 : -1]
        padded = np.concatenate([before, signals, after], axis=-1)
        product = rfft(padded, length)
        product *= spectrum
        return irfft(product, length, overwrite_x=True)[..., start : start + n_times]

    return filtered


def resampling(n_times: int, ratio: Fraction, before: int, after: int) -> np.ndarray:
    """Return the matrix that resamples epochs as ``mne.filter.resample`` does.

    That pads epochs and takes the padding off again, to the nearest new sample, by which all times
    are shifted by up to half of one, unless the padding is a whole number of new samples, which it
    is here.

    Parameters
    ----------
    n_times : int
        Samples of an epoch.
    ratio : Fraction
        Old rate through new.
    before, after : int
        So many samples are mirrored at the epoch's start and end, by which it becomes a multiple of
        `ratio.numerator` long.

    Returns
    -------
    array of shape (n_times, n_resampled), float32
        From the mirrored samples on.
    """
    from mne.filter import resample

    impulses = np.pad(np.eye(n_times), ((0, 0), (before, after)), "reflect", reflect_type="odd")
    new, old = ratio.denominator, ratio.numerator
    return resample(impulses, new, old, npad=old, verbose="error").astype(np.float32)


def interpolation(montage: Montage, recorded: Sequence[str], zero: str | None = None) -> np.ndarray:
    """Return the matrix from recorded electrodes to a montage, missing ones by spherical splines.

    Parameters
    ----------
    montage : Montage
    recorded : sequence of str
        Of the montage's electrodes and the reference Fz.
    zero : str, optional
        Another of them that is known to be 0: the reference.

    Returns
    -------
    array of shape (n_channels, n_recorded)

    Raises
    ------
    InputError
        Where electrodes lie such that MNE can't interpolate.
    """
    import mne

    good = [*recorded, zero] if zero else list(recorded)
    missing = [name for name in montage.names if name not in good]
    names = good + missing
    maps = np.zeros((len(names), len(good)))
    np.fill_diagonal(maps, 1)
    if missing:
        where = dict(zip(montage.names, montage.positions, strict=True))
        where.setdefault(REFERENCE, positions([REFERENCE])[0])
        info = mne.create_info(names, 1.0, "eeg", verbose="error")
        placed = {name: where[name] for name in names}
        info.set_montage(mne.channels.make_dig_montage(placed, coord_frame="head"))
        info["bads"] = missing
        try:
            evoked = mne.EvokedArray(maps, info, verbose="error")
            maps = evoked.interpolate_bads(verbose="error").data
        except (ValueError, RuntimeError, np.linalg.LinAlgError):
            maps = np.full_like(maps, np.nan)
        if not np.isfinite(maps).all():
            raise InputError(
                f"The electrodes {', '.join(recorded)} lie such that the missing ones can't be "
                "interpolated from them; match more channels."
            )
    rows = [names.index(name) for name in montage.names]
    return maps[rows, : len(recorded)]


def whitening(covariance: np.ndarray) -> np.ndarray:
    """Return Σ^(−1/2), symmetric; directions without variance stay without.

    Parameters
    ----------
    covariance : array of shape (n_channels, n_channels)

    Returns
    -------
    array of shape (n_channels, n_channels)

    Raises
    ------
    InputError
        Where there is no variance at all.
    """
    values, vectors = np.linalg.eigh(covariance)
    if not values[-1] > 0:
        raise InputError("The epochs are flat, so that there is nothing to whiten; check the file.")
    kept = values > LEAST_VARIANCE * values[-1]
    if kept.all():
        return whitening_matrix(covariance)
    return (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
