"""Training one encoder: epochs of contrastive steps, validation, and the ridge beside it.

A subject's training trials (or several subjects' pooled) and the pictures' embeddings flow in; the
encoder of the epoch that did best on held-out concepts flows out. `nice_demo.train` is the command.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from nice_demo.checkpoint import Course
from nice_demo.contrastive import ContrastiveLoss
from nice_demo.encoders import build, embed
from nice_demo.encoders.ridge import RidgeFit
from nice_demo.errors import InputError
from nice_demo.retrieval import ranks, similarity
from nice_demo.settings import Settings, held_out
from nice_demo.training_data import Trained, TrainingData, fingerprint

RIDGE_STRENGTHS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30]


@dataclass
class Run:
    """One training run: the encoder selected on held-out concepts, the final one, its course."""

    selected: nn.Module
    final: nn.Module
    best_epoch: int
    history: list[dict]


def train_encoder(
    eeg: Trained,
    pictures: np.ndarray,
    concepts: list[str],
    settings: Settings,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
    title: str = "",
) -> Run:
    """Train one encoder.

    Parameters
    ----------
    eeg : TrainingSet or sequence of TrainingSet
        One subject, or several whose training trials are pooled.
    pictures : array of shape (n_conditions, dim)
        Embeddings of the training pictures.
    concepts : list of str
        Concept of each training picture.
    settings : Settings
    seed : int
        Everything random follows from it.
    device : torch.device
    checkpoint : Path or None
        Written after every epoch; if it is there, training goes on from it.
    title : str
        Of the progress bar.
    """
    data = TrainingData(eeg, settings.single_trials, device)
    validates = held_out(concepts, settings, seed)[data.conditions]
    train_rows, validation_rows = np.flatnonzero(~validates), np.flatnonzero(validates)
    if len(train_rows) < 2 or len(validation_rows) < 2:
        raise InputError(
            f"{data.folders} has {len(data)} training rows: too few to train and to validate; "
            "prepare more pictures, or of more concepts."
        )
    pictures = torch.tensor(pictures, device=device)

    torch.manual_seed(seed)
    sizes = {"channels": data.channels, "times": data.times, "dim": pictures.shape[1]}
    encoder = build(settings.encoder, **sizes, dropout=settings.dropout).to(device)
    loss_of = ContrastiveLoss(settings.learnable_scale).to(device)
    trained = [p for p in [*encoder.parameters(), *loss_of.parameters()] if p.requires_grad]
    optimizer = torch.optim.Adam(trained, settings.lr, settings.betas)
    identity = {**asdict(settings), "seed": seed, "data": fingerprint(eeg)}
    course = Course(encoder, loss_of, optimizer, checkpoint, identity)

    steps = math.ceil(len(train_rows) / settings.batch)
    bar = tqdm(total=settings.epochs, initial=course.epoch, desc=title, unit="epoch")
    for epoch in range(course.epoch, settings.epochs):
        # An epoch's chance events follow from (seed, epoch) alone: a resumed run is the same run.
        torch.manual_seed(seed * 100_003 + epoch)
        order = np.random.default_rng([seed, epoch]).permutation(train_rows)
        encoder.train()
        total = 0.0
        for step in range(steps):
            rows = np.sort(order[step * settings.batch : (step + 1) * settings.batch])
            if len(rows) < 2:
                continue
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _share(settings, epoch * steps + step, steps)
            conditions = torch.from_numpy(data.conditions[rows]).to(device)
            loss = loss_of(encoder(data.rows(rows)), pictures[conditions], conditions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise InputError(f"Training diverged in epoch {epoch + 1}; give a lower --lr.")
            total += loss.item() * len(rows)
        validation, top1 = _validate(encoder, loss_of, data, validation_rows, pictures)
        course.add(total / len(train_rows), validation, top1)
        bar.update()
        bar.set_postfix_str(
            f"loss {total / len(train_rows):.3f}, validation {validation:.3f}, "
            f"top-1 {top1:.1%} of {len(validation_rows)}"
        )
    bar.close()
    selected = build(settings.encoder, **sizes, dropout=settings.dropout)
    selected.load_state_dict(course.best)
    return Run(selected.eval(), encoder.cpu().eval(), course.best_epoch, course.history)


def _share(settings: Settings, step: int, steps_an_epoch: int) -> float:
    """Return the learning rate of a step as a share of the highest."""
    if settings.schedule == "constant":
        return 1.0
    done = step / max(settings.epochs * steps_an_epoch - 1, 1)
    if done < 0.3:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / 0.3)) / 2
    return (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2


@torch.inference_mode()
def _validate(encoder, loss_of, data, rows, pictures) -> tuple[float, float]:
    """Return loss and top-1 accuracy among the held-out pictures, the mean over subjects."""
    encoder.eval()
    losses, hits = [], []
    for own in data.by_subject(rows):
        embeddings = torch.cat([encoder(data.rows(part)) for part in np.array_split(own, 4)])
        conditions = torch.from_numpy(data.conditions[own]).to(pictures.device)
        losses.append(loss_of(embeddings, pictures[conditions], conditions).item())
        candidates, target = conditions.unique(return_inverse=True)
        similarities = similarity(embeddings.cpu().numpy(), pictures[candidates].cpu().numpy())
        hits.append((ranks(similarities, target.cpu().numpy()) == 1).mean())
    return float(np.mean(losses)), float(np.mean(hits))


def fit_ridge(
    eeg: Trained, pictures: np.ndarray, concepts: list[str], settings: Settings, seed: int
) -> Run:
    """Fit the linear baseline; its strength is chosen on the same held-out pictures.

    Parameters are those of `train_encoder`.
    """
    data = TrainingData(eeg, False, torch.device("cpu"))
    validates = held_out(concepts, settings, seed)[data.conditions]
    fit = RidgeFit(data.channels, data.times, pictures.shape[1])
    train_rows, validation_rows = np.flatnonzero(~validates), np.flatnonzero(validates)
    for rows in np.array_split(train_rows, math.ceil(len(train_rows) / 1000)):
        fit.add(data.rows(rows), torch.from_numpy(pictures[data.conditions[rows]]))
    encoders = fit.solve(RIDGE_STRENGTHS)
    reciprocal_ranks = []  # by subject and strength
    for own in data.by_subject(validation_rows):
        held, seen = data.rows(own), pictures[data.conditions[own]]
        similarities = [similarity(embed(encoder, held).numpy(), seen) for encoder in encoders]
        found = [ranks(one, np.arange(len(own))) for one in similarities]
        reciprocal_ranks.append([(1 / one).mean() for one in found])
    history = [
        {"strength": strength, "validation_mrr": float(mrr)}
        for strength, mrr in zip(RIDGE_STRENGTHS, np.mean(reciprocal_ranks, 0), strict=True)
    ]
    best = max(range(len(history)), key=lambda i: history[i]["validation_mrr"])
    return Run(encoders[best], encoders[best], best, history)
