"""The loss against two explicit loops."""

import math

import pytest
import torch

from nice_demo.contrastive import LOGIT_SCALE, ContrastiveLoss


def batch(rows=7, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator), torch.randn(rows, dim, generator=generator)


def literal_loss(eeg, pictures, conditions, scale=LOGIT_SCALE):
    """Sum over pairs, one by one, in float64; plain arithmetic, so that gradients follow."""
    eeg, pictures = eeg.double(), pictures.double()
    rows = len(eeg)
    logits = [
        [
            scale
            * (eeg[i] @ pictures[j])
            / ((eeg[i] @ eeg[i]) * (pictures[j] @ pictures[j])) ** 0.5
            for j in range(rows)
        ]
        for i in range(rows)
    ]
    total = 0
    for i in range(rows):
        same = [j for j in range(rows) if conditions[j] == conditions[i]]
        over_pictures = sum(torch.exp(logits[i][j]) for j in range(rows))
        over_eeg = sum(torch.exp(logits[j][i]) for j in range(rows))
        for j in same:
            total = total - torch.log(torch.exp(logits[i][j]) / over_pictures) / len(same)
            total = total - torch.log(torch.exp(logits[j][i]) / over_eeg) / len(same)
    return total / (2 * rows)


DISTINCT = torch.tensor([4, 0, 9, 2, 7, 5, 1])
REPEATED = torch.tensor([4, 0, 4, 2, 0, 4, 1])
ALL_THE_SAME = torch.zeros(7, dtype=torch.long)


@pytest.mark.parametrize("conditions", [DISTINCT, REPEATED, ALL_THE_SAME])
def test_against_loops(conditions):
    results = []
    for loss_of in (ContrastiveLoss(), literal_loss):
        eeg, pictures = (part.requires_grad_() for part in batch())
        loss = loss_of(eeg, pictures, conditions)
        loss.backward()
        results.append((loss.detach().double(), eeg.grad, pictures.grad))
    for ours, literal in zip(*results, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-5, atol=1e-5)


def test_distinct_conditions_are_the_plain_loss():
    eeg, pictures = batch(20, 8)
    cosine = torch.nn.functional.cosine_similarity(eeg[:, None], pictures[None], dim=2)
    right = torch.arange(20)
    plain = (
        torch.nn.functional.cross_entropy(cosine / 0.07, right)
        + torch.nn.functional.cross_entropy(cosine.T / 0.07, right)
    ) / 2
    torch.testing.assert_close(ContrastiveLoss()(eeg, pictures, right), plain, rtol=1e-5, atol=1e-6)


def test_names_of_the_conditions_do_not_matter():
    eeg, pictures = batch()
    loss_of = ContrastiveLoss()
    renamed = REPEATED * 1000 + 3
    assert torch.equal(loss_of(eeg, pictures, REPEATED), loss_of(eeg, pictures, renamed))


def test_both_directions_count_alike():
    eeg, pictures = batch()
    loss_of = ContrastiveLoss()
    for conditions in (DISTINCT, REPEATED):
        there, back = loss_of(eeg, pictures, conditions), loss_of(pictures, eeg, conditions)
        torch.testing.assert_close(there, back, rtol=1e-6, atol=1e-6)


def test_order_of_the_rows_does_not_matter():
    eeg, pictures = batch()
    loss_of = ContrastiveLoss()
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    torch.testing.assert_close(
        loss_of(eeg[order], pictures[order], REPEATED[order]),
        loss_of(eeg, pictures, REPEATED),
        rtol=1e-6,
        atol=1e-6,
    )


def test_length_of_the_embeddings_does_not_matter():
    eeg, pictures = batch()
    loss_of = ContrastiveLoss()
    stretch = torch.linspace(0.1, 30, 7)[:, None]
    torch.testing.assert_close(
        loss_of(eeg * stretch, pictures / stretch, DISTINCT), loss_of(eeg, pictures, DISTINCT)
    )


def test_chance_and_perfection():
    one = torch.ones(6, 4)
    loss = ContrastiveLoss()(one, one, torch.arange(6))
    assert loss.item() == pytest.approx(math.log(6), abs=1e-5)
    unit = torch.eye(6)
    assert ContrastiveLoss()(unit, unit, torch.arange(6)).item() < 1e-5


def test_scale_is_fixed_by_default():
    assert pytest.approx(1 / 0.07) == LOGIT_SCALE
    loss_of = ContrastiveLoss()
    assert [p for p in loss_of.parameters() if p.requires_grad] == []
    assert loss_of.log_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)


def test_learnable_scale():
    loss_of = ContrastiveLoss(learnable=True)
    eeg, pictures = batch()
    loss_of(eeg, pictures, REPEATED).backward()
    step, scales = 1e-5, []
    for sign in (1, -1):
        scale = LOGIT_SCALE * math.exp(sign * step)
        scales.append(literal_loss(eeg, pictures, REPEATED, scale).item())
    slope = (scales[0] - scales[1]) / (2 * step)
    assert loss_of.log_scale.grad.item() == pytest.approx(slope, rel=1e-3)
    optimizer = torch.optim.SGD(loss_of.parameters(), 0.01)
    optimizer.step()
    assert loss_of.log_scale.exp().item() != pytest.approx(1 / 0.07, rel=1e-6)


def test_half_precision_in_does_not_overflow():
    eeg, pictures = (part.half() * 100 for part in batch())
    loss = ContrastiveLoss()(eeg, pictures, REPEATED)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
