"""What a CPU computes in blocks, against the plain order of operations."""

import pytest
import torch
from torch.nn import functional

from nice_demo.encoders import blocks, build
from nice_demo.encoders.blocks import Convolutions, Dropout, RunningMean

ENCODERS = ["nice", "nice-sa", "nice-ga"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two(name, **sizes):
    """Return the encoder that computes in blocks, and the same that doesn't."""
    torch.manual_seed(1)
    ours, plain = build(name, **sizes, dropout=0.0), build(name, **sizes, dropout=0.0)
    for encoder in (ours, plain):
        for part in encoder.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    plain.load_state_dict(ours.state_dict())
    plain.in_blocks = False
    return ours.double(), plain.double()


@pytest.mark.parametrize("rows", [1, 100, 1_000_000])  # one trial, a few (the last block less), all
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ENCODERS)
def test_blocks_equal_the_whole(name, training, rows, monkeypatch):
    monkeypatch.setattr(blocks, "ROWS", rows)
    results = []
    for encoder in two(name, channels=5, times=103, dim=7):
        eeg = torch.randn(11, 5, 103, generator=seeded(2), dtype=torch.float64).requires_grad_()
        out = encoder.train(training)(eeg)
        (out**3).sum().backward()
        gradients = {key: value.grad for key, value in encoder.named_parameters()}
        results.append({"out": out, "eeg": eeg.grad, **gradients, **dict(encoder.named_buffers())})
    ours, plain = results
    assert ours.keys() == plain.keys() and all(value is not None for value in ours.values())
    for key, value in ours.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-9, atol=1e-9, msg=key)


def test_a_block_holds_no_more_than_its_rows(monkeypatch):
    monkeypatch.setattr(blocks, "ROWS", 100)
    mean = torch.randn(11, 5, 53, generator=seeded(3))  # 6 tokens × 5 channels: 30 patches a trial
    found = [(trials, rows, len(block)) for trials, rows, block in blocks._blocks(mean)]
    assert found == [
        (slice(0, 3), slice(0, 18), 90),
        (slice(3, 6), slice(18, 36), 90),
        (slice(6, 9), slice(36, 54), 90),
        (slice(9, 11), slice(54, 66), 60),
    ]


@pytest.mark.parametrize("samples", [25, 29, 30, 53])
def test_convolutions_by_loops(samples):
    mean = torch.randn(3, 2, samples, generator=seeded(4), dtype=torch.float64)
    temporal = torch.randn(26, 4, generator=seeded(5), dtype=torch.float64)
    spatial = torch.randn(8, 3, generator=seeded(6), dtype=torch.float64)
    wanted = []
    for trial in mean:
        for start in range(0, samples - 24, 5):
            activity = torch.stack(
                [channel[start : start + 25] @ temporal[:25] + temporal[25] for channel in trial]
            )
            wanted.append(functional.elu(activity).flatten() @ spatial)
    torch.testing.assert_close(Convolutions.apply(mean, temporal, spatial), torch.stack(wanted))


def test_gradients_by_differences(monkeypatch):
    monkeypatch.setattr(blocks, "ROWS", 10)
    mean = torch.randn(3, 2, 37, generator=seeded(7), dtype=torch.float64).requires_grad_()
    temporal = torch.randn(26, 4, generator=seeded(8), dtype=torch.float64).requires_grad_()
    spatial = torch.randn(8, 3, generator=seeded(9), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(Convolutions.apply, (mean, temporal, spatial))
    for times, width in ((9, 4), (5, 5), (20, 3), (7, 1), (8, 6)):
        eeg = torch.randn(2, times, generator=seeded(10), dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda eeg, width=width: RunningMean.apply(eeg, width), eeg)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_gradient_of_one_alone(wanted):
    given = [
        torch.randn(shape, generator=seeded(14 + seed), dtype=torch.float64)
        for seed, shape in enumerate([(3, 2, 37), (26, 4), (8, 3)])
    ]
    gradients = []
    for all_wanted in (False, True):
        leaves = [
            one.clone().requires_grad_(all_wanted or number == wanted)
            for number, one in enumerate(given)
        ]
        (Convolutions.apply(*leaves) ** 2).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    alone, together = gradients
    assert [grad is not None for grad in alone] == [number == wanted for number in range(3)]
    torch.testing.assert_close(alone[wanted], together[wanted])


def test_running_mean_by_loops():
    eeg = torch.randn(2, 3, 20, generator=seeded(11), dtype=torch.float64)
    for width in (1, 7, 20):
        means = [eeg[..., start : start + width].mean(-1) for start in range(21 - width)]
        torch.testing.assert_close(RunningMean.apply(eeg, width), torch.stack(means, -1))


def test_a_trial_that_is_not_finite_stays_so():
    mean = torch.randn(3, 2, 37, generator=seeded(12))
    mean[1, 0, 3] = torch.nan
    mixed = Convolutions.apply(mean, torch.ones(26, 4), torch.ones(8, 3)).view(3, 3, 3)
    assert mixed[1].isnan().any() and mixed[[0, 2]].isfinite().all()
    huge = Convolutions.apply(torch.full((1, 2, 25), 1e6), torch.ones(26, 4), torch.ones(8, 3))
    torch.testing.assert_close(huge, torch.full((1, 3), 8 * (25e6 + 1)))  # exp would overflow


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_dropout_drops_as_often_as_it_says(p):
    torch.manual_seed(1)
    values = torch.full((1001, 301), 3.0).requires_grad_()  # not a multiple of four
    left = Dropout(p)(values)
    kept = left != 0
    count = values.numel()
    assert abs(kept.float().mean().item() - (1 - p)) < 5 * (p * (1 - p) / count) ** 0.5
    torch.testing.assert_close(
        left[kept], torch.full_like(left[kept], 3 / (1 - p)), rtol=1e-4, atol=0
    )
    left.sum().backward()
    torch.testing.assert_close(values.grad, left.detach() / 3)
    # Neighbours, and those that share a random number, are independent.
    flat = kept.flatten().float() - (1 - p)
    for lag in (1, 2, 3, 4):
        correlation = (flat[:-lag] * flat[lag:]).mean().item() / (p * (1 - p))
        assert abs(correlation) < 5 / count**0.5


def test_dropout_repeats_with_its_seed():
    values = torch.ones(50, 7)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5)(values))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_dropout_of_nothing_and_of_everything():
    values = torch.randn(5, 7, generator=seeded(13))
    assert torch.equal(Dropout(0.0)(values), values)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(1.0)(values), torch.zeros(5, 7))
