"""From epochs to what an encoder takes: multivariate noise normalisation ("MVNN").

Guggenmos, Sterzer, Cichy, "Multivariate pattern analysis for MEG", NeuroImage 2018, as
THINGS-EEG2 and NICE use it: epochs of a session are multiplied by Σ^(−1/2) with Σ from the
session's training trials.
"""

import numpy as np

_BATCH = 4  # epochs; of 63 channels × 250 samples they are 0.5 MB, which stay in the cache


def shrunk_covariance(epochs: np.ndarray) -> np.ndarray:
    """Average the epochs' Ledoit–Wolf covariances over channels.

    Each epoch's correlations over time are shrunk towards the identity by Ledoit and Wolf's
    estimate (Journal of Multivariate Analysis 88, 2004), then scaled back to the channels'
    amplitudes; many epochs in one go. Standardising first is what the published preparation does.

    Parameters
    ----------
    epochs : array of shape (n_epochs, n_channels, n_times)

    Returns
    -------
    array of shape (n_channels, n_channels)
    """
    batches = (epochs[start : start + _BATCH] for start in range(0, len(epochs), _BATCH))
    return sum(_sum_of_shrunk(np.asarray(batch, float)) for batch in batches) / len(epochs)


def _sum_of_shrunk(epochs: np.ndarray) -> np.ndarray:
    channels, times = epochs.shape[1:]
    centred = epochs - epochs.mean(2, keepdims=True)
    covariance = centred @ centred.transpose(0, 2, 1) / times
    variance = np.diagonal(covariance, axis1=1, axis2=2).copy()
    variance[variance == 0] = 1  # a flat channel
    scale = np.sqrt(variance[:, :, None] * variance[:, None, :])
    sample = covariance / scale  # of the standardised epochs, as all that follows
    target = np.trace(sample, axis1=1, axis2=2) / channels
    lengths = (1 / variance)[:, None] @ np.square(centred, out=centred)  # |x|² of each sample
    fourth = np.square(lengths).mean((1, 2))
    square = np.square(sample).sum((1, 2))
    distance = square - channels * target**2  # to the target
    error = np.minimum((fourth - square) / times, distance)  # of the sample covariance
    shrinkage = np.divide(error, distance, out=np.ones_like(error), where=distance > 0)
    shrunk = (1 - shrinkage)[:, None, None] * sample
    shrunk += (shrinkage * target)[:, None, None] * np.eye(channels)
    return (scale * shrunk).sum(0)


def whitening_matrix(covariance: np.ndarray) -> np.ndarray:
    """Return Σ^(−1/2), symmetric, of shape (n_channels, n_channels)."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors / np.sqrt(values)) @ vectors.T
