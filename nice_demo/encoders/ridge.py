"""Ridge regression from EEG to picture embeddings: the honest linear baseline."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WINDOW = 10  # samples averaged: 40 ms at 250 Hz


class Ridge(nn.Module):
    """A linear map of the EEG's 40 ms averages.

    Parameters
    ----------
    channels, times, dim : int
        As for `nice_demo.encoders.nice.NICE`.
    """

    def __init__(self, channels: int = 63, times: int = 250, dim: int = 768) -> None:
        super().__init__()
        self.config = {"channels": channels, "times": times, "dim": dim}
        self.linear = nn.Linear(channels * (times // WINDOW), dim)

    def forward(self, eeg: Tensor) -> Tensor:
        """Embed EEG of shape (batch, channels, times) as (batch, dim)."""
        return self.linear(_averages(eeg))


def _averages(eeg: Tensor) -> Tensor:
    return functional.avg_pool1d(eeg, WINDOW).flatten(1)


@dataclass
class Sums:
    """The sums over rows that ridge regression of y on x needs, in float64.

    Rows themselves needn't be kept, so the data may be larger than memory.

    Attributes
    ----------
    count : int
        Number of rows.
    sum_x : array of shape (n_features,)
    sum_y : array of shape (dim,)
    xx : array of shape (n_features, n_features)
    xy : array of shape (n_features, dim)
    """

    count: int
    sum_x: np.ndarray
    sum_y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @classmethod
    def empty(cls, n_features: int, dim: int) -> "Sums":
        """Return the sums over no rows."""
        square, mixed = np.zeros((n_features, n_features)), np.zeros((n_features, dim))
        return cls(0, np.zeros(n_features), np.zeros(dim), square, mixed)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take in rows: x (n_rows, n_features) and y (n_rows, dim), both float64."""
        self.count += len(x)
        self.sum_x += x.sum(0)
        self.sum_y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def solve(self, strengths: list[float]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return a weight (n_features, dim) and an intercept (dim,) for each strength.

        Parameters
        ----------
        strengths : list of float
            Penalty as a multiple of the mean variance of a feature times the number of rows.
        """
        mean_x, mean_y = self.sum_x / self.count, self.sum_y / self.count
        xx = self.xx / self.count - np.outer(mean_x, mean_x)
        xy = self.xy / self.count - np.outer(mean_x, mean_y)
        values, vectors = np.linalg.eigh(xx)
        rotated = vectors.T @ xy
        weights = [
            vectors @ (rotated / (values + strength * values.mean())[:, None])
            for strength in strengths
        ]
        return [(weight, mean_y - mean_x @ weight) for weight in weights]


class RidgeFit:
    """Ridge regression fitted in one pass over batches, for several strengths at once.

    Parameters
    ----------
    channels, times, dim : int
        As for `Ridge`.
    """

    def __init__(self, channels: int, times: int, dim: int) -> None:
        self.sizes = channels, times, dim
        self.sums = Sums.empty(channels * (times // WINDOW), dim)

    def add(self, eeg: Tensor, pictures: Tensor) -> None:
        """Take in a batch: EEG (batch, channels, times) and embeddings (batch, dim)."""
        self.sums.add(_averages(eeg).double().numpy(), pictures.double().numpy())

    def solve(self, strengths: list[float]) -> list[Ridge]:
        """Return one fitted encoder for each strength; see `Sums.solve`."""
        fitted = []
        for weight, intercept in self.sums.solve(strengths):
            encoder = Ridge(*self.sizes)
            with torch.no_grad():
                encoder.linear.weight.copy_(torch.from_numpy(weight.T))
                encoder.linear.bias.copy_(torch.from_numpy(intercept))
            fitted.append(encoder.eval())
        return fitted
