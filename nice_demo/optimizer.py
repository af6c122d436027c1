"""The optimizer of a training run: Adam as in the paper, or Muon for the convolutions.

Gradients flow in, weights change in place. The same code takes one run's weights and, for
`nice_demo.together`, those of several runs stacked along a first dimension.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nice_demo.settings import Settings

MOMENTUM = 0.95  # of Muon, as its authors have it


class Muon(torch.optim.AdamW):
    """AdamW, but for groups of weights with ``"orthogonal": True``.

    Their step is the momentum with all its singular values made equal (Jordan et al. 2024, "Muon:
    an optimizer for hidden layers in neural networks"). A step has a fifth of the learning rate as
    its root mean square, near to Adam's (Liu et al. 2025, arXiv 2502.16982, section 2.2).

    PyTorch's own takes matrices only; convolutions, and several runs in one tensor, are not.
    """

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> float | None:
        """Take a step."""
        for group in self.param_groups:
            for weight in group["params"] if group["orthogonal"] else []:
                self._turn(weight, group)
        return super().step(closure)  # for what has a gradient still

    def _turn(self, weight: Tensor, group: dict) -> None:
        state = self.state[weight]
        if not state:  # with a count of steps, because Adam looks for one where a run goes on
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
        state["step"] += 1
        average = state["exp_avg"].lerp_(weight.grad, 1 - MOMENTUM)
        ahead = weight.grad.lerp(average, MOMENTUM)  # Nesterov's
        matrix = ahead.flatten(-3)  # filters × what each of them sees
        size = 0.2 * max(matrix.shape[-2:]) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.sub_(orthogonal(matrix).view_as(weight), alpha=group["lr"] * size)
        weight.grad = None


def orthogonal(matrix: Tensor) -> Tensor:
    """Return the nearest matrices with orthonormal rows, or columns where there are fewer.

    Parameters
    ----------
    matrix : Tensor of shape (…, rows, columns)

    Returns
    -------
    Tensor of the same shape
        Directions in which a matrix has less than a thousandth of its largest extent stay small.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        return orthogonal(matrix.mT).mT
    rows = matrix.double()  # the products square what is small already
    squares, directions = torch.linalg.eigh(rows @ rows.mT)
    least = 1e-6 * squares[..., -1:] + torch.finfo(torch.float64).tiny
    lengths = squares.maximum(least).rsqrt()[..., None, :]
    return ((directions * lengths) @ (directions.mT @ rows)).to(matrix.dtype)


def make_optimizer(
    settings: Settings, weights: Sequence[Tensor], stacked: bool = False, fused: bool = False
) -> torch.optim.Adam:
    """Make the optimizer of a run.

    Parameters
    ----------
    settings : Settings
    weights : sequence of Tensor
        What is trained.
    stacked : bool
        Whether each tensor holds the weights of several runs, along its first dimension.
    fused : bool
        Whether Adam goes over all weights at once, as on a GPU.

    Returns
    -------
    torch.optim.Adam
        Only matrices and convolutions decay, not biases and the gains of a normalisation.
    """
    dimensions = [weight.ndim - stacked for weight in weights]

    def of(*wanted: int) -> list[Tensor]:
        return [w for w, number in zip(weights, dimensions, strict=True) if number in wanted]

    return Muon(
        [
            {"params": of(0, 1), "weight_decay": 0.0, "orthogonal": False},
            {"params": of(2, 3), "orthogonal": False},
            {"params": of(4), "orthogonal": settings.muon},
        ],
        settings.lr,
        settings.betas,
        weight_decay=settings.weight_decay,
        fused=fused,
    )
