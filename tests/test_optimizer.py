"""Adam as PyTorch has it, and Muon for convolutions, against formulas written out in NumPy."""

import numpy as np
import pytest
import torch

from nice_demo.encoders import build
from nice_demo.optimizer import MOMENTUM, make_optimizer, orthogonal
from nice_demo.settings import Settings

STEPS = 4
SIZES = {"channels": 5, "times": 100, "dim": 8}


def network(seed, name="nice"):
    torch.manual_seed(seed)
    return build(name, **SIZES, dropout=0.0).double()


def gradients(weights, seed):
    """Make up each step's gradients; only their shapes come from the weights."""
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(weight.shape) for weight in weights] for _ in range(STEPS)]


def stepped(settings, weights, steps, **options):
    """Return the weights after all steps."""
    weights = [weight.detach().clone().requires_grad_() for weight in weights]
    optimizer = make_optimizer(settings, weights, **options)
    for step in steps:
        optimizer.zero_grad()
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = torch.as_tensor(gradient, dtype=weight.dtype)
        optimizer.step()
    return [weight.detach().numpy() for weight in weights]


def nearest(matrix):
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    sizes /= np.maximum(sizes, sizes[0] / 1000)  # where there is next to nothing, it stays small
    return left @ np.diag(sizes) @ right


def literal_adam(weight, steps, settings, decay):
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    one, two = settings.betas
    for count, gradient in enumerate(steps, 1):
        first = one * first + (1 - one) * gradient
        second = two * second + (1 - two) * gradient**2
        weight = weight - settings.lr * decay * weight
        root = np.sqrt(second / (1 - two**count)) + 1e-8
        weight = weight - settings.lr * first / (1 - one**count) / root
    return weight


def literal_muon(weight, steps, settings):
    momentum = np.zeros_like(weight)
    for gradient in steps:
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        matrix = ahead.reshape(len(weight), -1)
        turned = nearest(matrix).reshape(weight.shape)
        weight = weight - settings.lr * settings.weight_decay * weight
        weight = weight - settings.lr * 0.2 * np.sqrt(max(matrix.shape)) * turned
    return weight


@pytest.mark.parametrize("name", ["nice", "nice-sa", "nice-ga"])
@pytest.mark.parametrize("muon", [False, True])
def test_against_the_formulas(name, muon):
    settings = Settings(lr=0.01, muon=muon, weight_decay=3.0)
    weights = list(network(1, name).parameters())
    steps = gradients(weights, 2)
    after = stepped(settings, weights, steps)
    kinds = set()
    for number, (weight, found) in enumerate(zip(weights, after, strict=True)):
        before, own = weight.detach().numpy(), [step[number] for step in steps]
        if weight.ndim == 4 and muon:
            wanted = literal_muon(before, own, settings)
        else:
            wanted = literal_adam(before, own, settings, 3.0 if weight.ndim > 1 else 0.0)
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)
        kinds.add(weight.ndim)
    assert kinds >= {1, 2, 4}


def test_the_papers_is_plain_adam():
    weights = [weight.float() for weight in network(1).parameters()]
    steps = gradients(weights, 2)
    plain = [weight.detach().clone().requires_grad_() for weight in weights]
    adam = torch.optim.Adam(plain, 2e-4, (0.5, 0.999))
    for step in steps:
        for weight, gradient in zip(plain, step, strict=True):
            weight.grad = torch.tensor(gradient, dtype=torch.float32)
        adam.step()
    for found, wanted in zip(stepped(Settings(), weights, steps), plain, strict=True):
        np.testing.assert_array_equal(found, wanted.detach().numpy())


@pytest.mark.parametrize("muon", [False, True])
def test_several_runs_in_one(muon):
    settings = Settings(lr=0.01, muon=muon, weight_decay=3.0)
    runs = [list(network(seed).parameters()) for seed in range(3)]
    steps = [gradients(weights, seed) for seed, weights in enumerate(runs)]
    stacked = [torch.stack(alike) for alike in zip(*runs, strict=True)]
    together = [
        [np.stack(alike) for alike in zip(*(own[step] for own in steps), strict=True)]
        for step in range(STEPS)
    ]
    after = stepped(settings, stacked, together, stacked=True)
    for run, (weights, own) in enumerate(zip(runs, steps, strict=True)):
        for found, wanted in zip(after, stepped(settings, weights, own), strict=True):
            np.testing.assert_allclose(found[run], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (1, 5), (2, 4, 9), (3, 9, 4)])
def test_orthogonal(shape):
    matrix = np.random.default_rng(3).standard_normal(shape)
    found = orthogonal(torch.tensor(matrix)).numpy()
    wanted = nearest(matrix) if matrix.ndim == 2 else np.stack([nearest(one) for one in matrix])
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    single = orthogonal(torch.tensor(matrix, dtype=torch.float32))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), wanted, atol=1e-5)


def test_directions_without_extent_stay_away():
    """As of filters that nothing flows through."""
    left, right = np.eye(4)[:, :2], np.eye(7)[:2]
    matrix = left @ np.diag([3.0, 0.01]) @ right
    np.testing.assert_allclose(orthogonal(torch.tensor(matrix)).numpy(), left @ right, atol=1e-9)
    assert not orthogonal(torch.zeros(4, 7)).any()
