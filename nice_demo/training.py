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
from nice_demo.encoders import build, embed, encoder_name
from nice_demo.encoders.ridge import RidgeFit
from nice_demo.errors import InputError
from nice_demo.optimizer import make_optimizer
from nice_demo.ranks import (
    gather_rows,
    is_first,
    own_rows,
    process_count,
    process_number,
    train_jointly,
)
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
    joint: bool = False,
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
    joint : bool
        Whether all processes train this run, each on its part of every batch. The result is that
        of one process, but for dropout, which is drawn by process.
    """
    data = TrainingData(eeg, settings.single_trials, device)
    train_rows, validation_rows = split_rows(data, concepts, settings, seed)
    pictures = torch.tensor(pictures, device=device)
    course = begin(data, eeg, pictures.shape[1], settings, seed, device, checkpoint)
    encoder, loss_of, optimizer = *course.modules.values(), course.optimizer
    network = train_jointly(encoder) if joint else encoder
    if joint and not is_first():
        course.checkpoint = None  # all have read it, one writes it

    steps = math.ceil(len(train_rows) / settings.batch)
    # A rest of one row isn't trained on; nor, jointly, one that leaves some process without a row.
    least = max(2, process_count()) if joint else 2
    bar = tqdm(
        total=settings.epochs, initial=course.epoch, desc=title, unit="epoch",
        disable=not is_first(),
    )  # fmt: skip
    for epoch in range(course.epoch, settings.epochs):
        # An epoch's chance events follow from (seed, epoch) alone: a resumed run is the same run.
        torch.manual_seed(seed * 100_003 + epoch + (10**12 * process_number() if joint else 0))
        order = np.random.default_rng([seed, epoch]).permutation(train_rows)
        encoder.train()
        total = 0.0
        batches = [
            np.sort(order[start : start + settings.batch])
            for start in range(0, len(order) - least + 1, settings.batch)
        ]
        own = [own_rows(rows) for rows in batches] if joint else batches
        for step, (rows, trials) in enumerate(zip(batches, data.batches(own), strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, epoch * steps + step, steps)
            conditions = torch.from_numpy(data.conditions[rows]).to(device)
            embeddings = network(trials)
            if joint:
                embeddings = gather_rows(embeddings, len(rows))
            loss = loss_of(embeddings, pictures[conditions], conditions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise InputError(f"Training diverged in epoch {epoch + 1}; give a lower --lr.")
            total += loss.item() * len(rows)
        # Jointly, every process validates all: it is the same everywhere, and none would be idle.
        validation, top1 = _validate(encoder, loss_of, data, validation_rows, pictures)
        course.add(total / len(train_rows), validation, top1)
        bar.update()
        bar.set_postfix_str(
            f"loss {total / len(train_rows):.3f}, validation {validation:.3f}, "
            f"top-1 {top1:.1%} of {len(validation_rows)}"
        )
    bar.close()
    selected = build(encoder_name(encoder), **encoder.config)
    selected.load_state_dict(course.best)
    return Run(selected.eval(), encoder.cpu().eval(), course.best_epoch, course.history)


def split_rows(
    data: TrainingData, concepts: list[str], settings: Settings, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and those that validate, ascending.

    Raises
    ------
    InputError
        Where there are too few of either.
    """
    validates = held_out(concepts, settings, seed)[data.conditions]
    train_rows, validation_rows = np.flatnonzero(~validates), np.flatnonzero(validates)
    if len(train_rows) < 2 or len(validation_rows) < 2:
        raise InputError(
            f"{data.folders} has {len(data)} training rows: too few to train and to validate; "
            "prepare more pictures, or of more concepts."
        )
    return train_rows, validation_rows


def begin(
    data: TrainingData,
    eeg: Trained,
    dim: int,
    settings: Settings,
    seed: int,
    device: torch.device,
    checkpoint: Path | None,
) -> Course:
    """Make a run's encoder, loss and optimizer, or read how far an interrupted run had come."""
    torch.manual_seed(seed)
    sizes = {"channels": data.channels, "times": data.times, "dim": dim}
    encoder = build(settings.encoder, **sizes, dropout=settings.dropout).to(device)
    loss_of = ContrastiveLoss(settings.learnable_scale).to(device)
    trained = [p for p in [*encoder.parameters(), *loss_of.parameters()] if p.requires_grad]
    optimizer = make_optimizer(settings, trained)
    identity = {**asdict(settings), "seed": seed, "data": fingerprint(eeg)}
    return Course(encoder, loss_of, optimizer, checkpoint, identity)


def learning_rate(settings: Settings, step: int, steps_an_epoch: int) -> float:
    """Return the learning rate of a step, counted over all epochs."""
    if settings.schedule == "constant":
        return settings.lr
    done = step / max(settings.epochs * steps_an_epoch - 1, 1)
    if done < 0.3:
        return settings.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * done / 0.3)) / 2)
    return settings.lr * (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2


@torch.inference_mode()
def _validate(encoder, loss_of, data, rows, pictures) -> tuple[float, float]:
    """Return loss and top-1 accuracy among the held-out pictures, the mean over subjects."""
    encoder.eval()
    losses, hits = [], []
    for own in data.by_subject(rows):
        parts = np.array_split(own, 4)
        embeddings = torch.cat([encoder(part) for part in data.batches(parts)])
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
    parts = np.array_split(train_rows, math.ceil(len(train_rows) / 1000))
    for rows, trials in zip(parts, data.batches(parts), strict=True):
        fit.add(trials, torch.from_numpy(pictures[data.conditions[rows]]))
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
