"""From epochs to what an encoder takes: multivariate noise normalisation ("MVNN").

Guggenmos, Sterzer, Cichy, "Multivariate pattern analysis for MEG", NeuroImage 2018, as
THINGS-EEG2 and NICE use it: epochs of a session are multiplied by Σ^(−1/2) with Σ from the
session's training trials.
"""

import numpy as np


def shrunk_covariance(epochs: np.ndarray) -> np.ndarray:
    """Average the epochs' Ledoit–Wolf covariances over channels.

    Each epoch's correlations over time are shrunk towards the identity by Ledoit and Wolf's
    estimate (Journal of Multivariate Analysis 88, 2004), then scaled back to the channels'
    amplitudes; all epochs in one go. Standardising first is what the published preparation does.

    Parameters
    ----------
    epochs : array of shape (n_epochs, n_channels, n_times)

    Returns
    -------
    array of shape (n_channels, n_channels)
    """
    channels, times = epochs.shape[1:]
    centred = np.asarray(epochs, float)
    centred = centred - centred.mean(2, keepdims=True)
    scale = centred.std(2, keepdims=True)
    scale[scale == 0] = 1  # a flat channel
    centred /= scale
    sample = centred @ centred.transpose(0, 2, 1) / times
    trace = np.trace(sample, axis1=1, axis2=2)
    target = trace / channels
    fourth = ((centred**2).sum(1) ** 2).sum(1) / times  # mean over samples of |x|⁴
    square = (sample**2).sum((1, 2))
    distance = square - channels * target**2  # to the target
    error = np.minimum((fourth - square) / times, distance)  # of the sample covariance
    shrinkage = np.divide(error, distance, out=np.ones_like(error), where=distance > 0)
    shrunk = (1 - shrinkage)[:, None, None] * sample
    shrunk += (shrinkage * target)[:, None, None] * np.eye(channels)
    return (scale * shrunk * scale.transpose(0, 2, 1)).mean(0)


def whitening_matrix(covariance: np.ndarray) -> np.ndarray:
    """Return Σ^(−1/2), symmetric, of shape (n_channels, n_channels)."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors / np.sqrt(values)) @ vectors.T
