"""Noise normalisation against scikit-learn and SciPy, epoch by epoch."""

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler

from nice_demo.preparation import shrunk_covariance, whitening_matrix

MIXING = np.random.default_rng(0).standard_normal((6, 6)) * 1e-6


def epochs(number=9, channels=6, times=40, seed=1):
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((number, channels, times))
    offset = rng.standard_normal((number, channels, 1))  # a mean that has to go
    return MIXING[:channels, :channels] @ (white + offset)


def published(epoch):
    """Shrink one epoch's covariance, standardised first, as the data set's authors do."""
    scaler = StandardScaler()
    shrunk = ledoit_wolf(scaler.fit_transform(epoch.T))[0]
    return np.diag(scaler.scale_) @ shrunk @ np.diag(scaler.scale_)


@pytest.mark.parametrize(
    "data",
    [
        epochs(),
        epochs() * [[1], [0], [2], [1], [1], [9]],  # a flat channel
        epochs(number=1),
        epochs(channels=1),
        epochs(times=3),  # fewer samples than channels
        epochs() * 1e6,
        epochs() - epochs().mean(1, keepdims=True),  # average reference: rank one less
        np.concatenate([epochs(3), 50 * epochs(2, seed=2)]),
    ],
    ids=[
        "usual",
        "flat channel",
        "one",
        "one channel",
        "short",
        "µV",
        "average reference",
        "unequal",
    ],
)
def test_shrunk_covariance(data):
    oracle = np.mean([published(epoch) for epoch in data], axis=0)
    scale = abs(oracle).max()
    np.testing.assert_allclose(shrunk_covariance(data) / scale, oracle / scale, rtol=0, atol=1e-10)


def test_shrunk_covariance_in_single_precision():
    data = epochs()
    ours = shrunk_covariance(data.astype(np.float32))
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, shrunk_covariance(data), rtol=1e-4, atol=1e-17)


def test_shrinkage_towards_the_identity_alone():
    # Of white noise the estimate is all target: Ledoit and Wolf's minimum keeps it at 1.
    data = np.random.default_rng(1).standard_normal((1, 5, 6))
    np.testing.assert_allclose(shrunk_covariance(data), np.diag(data[0].var(1)), atol=1e-12)


def test_whitening_matrix():
    covariance = shrunk_covariance(epochs())
    oracle = fractional_matrix_power(covariance, -0.5)
    ours = whitening_matrix(covariance)
    np.testing.assert_allclose(ours, oracle, rtol=1e-8, atol=1e-8 * abs(oracle).max())
    np.testing.assert_allclose(ours, ours.T, atol=1e-9 * abs(ours).max())


def test_whitened_covariance_is_the_identity():
    rng = np.random.default_rng(4)
    mixing = 1e-6 * (np.eye(6) + 0.3 * rng.standard_normal((6, 6)))
    data = mixing @ rng.standard_normal((100, 6, 2000))
    before = np.corrcoef(data[0])
    white = whitening_matrix(shrunk_covariance(data)) @ data
    covariance = np.mean([np.cov(epoch, bias=True) for epoch in white], axis=0)
    assert abs(before - np.eye(6)).max() > 0.2
    np.testing.assert_allclose(covariance, np.eye(6), atol=0.05)


def test_average_reference_can_be_whitened():
    data = epochs() - epochs().mean(1, keepdims=True)
    assert np.linalg.matrix_rank(data[0] @ data[0].T) == 5
    assert np.isfinite(whitening_matrix(shrunk_covariance(data))).all()
