"""Ridge regression from EEG to picture embeddings: the honest linear baseline."""

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


class RidgeFit:
    """Ridge regression fitted in one pass over batches, for several strengths at once.

    The sums XᵀX and XᵀY are all that has to be kept, so the data may be larger than memory.

    Parameters
    ----------
    channels, times, dim : int
        As for `Ridge`.
    """

    def __init__(self, channels: int, times: int, dim: int) -> None:
        self.sizes = channels, times, dim
        features = channels * (times // WINDOW)
        self.count = 0
        self.sum_x = np.zeros(features)
        self.sum_y = np.zeros(dim)
        self.xx = np.zeros((features, features))
        self.xy = np.zeros((features, dim))

    def add(self, eeg: Tensor, pictures: Tensor) -> None:
        """Take in a batch: EEG (batch, channels, times) and embeddings (batch, dim)."""
        x, y = _averages(eeg).double().numpy(), pictures.double().numpy()
        self.count += len(x)
        self.sum_x += x.sum(0)
        self.sum_y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def solve(self, strengths: list[float]) -> list[Ridge]:
        """Return one fitted encoder for each strength.

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
        fitted = []
        for strength in strengths:
            weight = vectors @ (rotated / (values + strength * values.mean())[:, None])
            encoder = Ridge(*self.sizes)
            with torch.no_grad():
                encoder.linear.weight.copy_(torch.from_numpy(weight.T))
                encoder.linear.bias.copy_(torch.from_numpy(mean_y - mean_x @ weight))
            fitted.append(encoder.eval())
        return fitted
