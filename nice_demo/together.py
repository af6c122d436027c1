"""Several training runs at once, as one model: on a GPU ten subjects cost little more than one.

Runs (subjects × seeds) of one encoder, the same settings and equally many trials flow in; each
comes out as `nice_demo.training.train_encoder` would have trained it alone. Their weights lie one
behind the other in tensors with a dimension more, (runs, …); `torch.func.vmap` computes all runs'
embeddings and losses side by side, and one optimizer takes all their steps: Adam treats each number
by itself, Muon each run's convolution. A run sees nothing of the others.

Everything of a run follows from its seed as in `train_encoder`: first weights, held-out concepts,
the order of its trials. Without dropout the result is the same to rounding (the tests hold it to
1e-8 in double precision). Dropout is drawn for all runs at once, so what it drops in a run depends
on which runs are trained with it.

On a GPU all trials lie in its memory in half precision, and the program doesn't wait for the GPU
but once an epoch (with Muon, whose eigenvectors are checked, at every step). Convolutions and
matrix products go in bfloat16 (autocast); the statistics of batch normalisation, the loss, weights
and Adam stay in single precision, and so does validation.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from tqdm import tqdm

from nice_demo.checkpoint import Course
from nice_demo.eegset import TrainingSet
from nice_demo.encoders import build
from nice_demo.encoders.blocks import KERNEL, STRIDE
from nice_demo.errors import InputError
from nice_demo.optimizer import make_optimizer
from nice_demo.settings import Settings
from nice_demo.training import Run, begin, learning_rate, split_rows
from nice_demo.training_data import Trained, TrainingData

CPU = torch.device("cpu")
SHARE = 0.8  # of a GPU's free memory that the runs may take


@dataclass(frozen=True, eq=False)
class Task:
    """What one run is to train; parameters as of `train_encoder`.

    Attributes
    ----------
    eeg : TrainingSet or sequence of TrainingSet
    seed : int
    checkpoint : Path or None
        The same file as of the run alone: either way of training goes on from the other's.
    title : str
        How to name the run, such as "subject 1, nice, seed 1".
    """

    eeg: Trained
    seed: int
    checkpoint: Path | None = None
    title: str = "a run"

    @property
    def sets(self) -> list[TrainingSet]:
        """The subjects that are trained on."""
        return list(self.eeg) if isinstance(self.eeg, Sequence) else [self.eeg]


def train_together(
    tasks: Sequence[Task],
    pictures: np.ndarray,
    concepts: list[str],
    settings: Settings,
    device: torch.device,
    at_most: int | None = None,
    mixed: bool | None = None,
    every: float = 60.0,
) -> Iterator[tuple[Task, Run]]:
    """Train encoders, as many at once as go together.

    Runs go together that have equally many trials to train on and to validate with: all subjects
    of a data set with the same seed, and mostly with any seed. Others follow one another.

    Parameters
    ----------
    tasks : sequence of Task
    pictures : array of shape (n_conditions, dim)
        Embeddings of the training pictures.
    concepts : list of str
        Concept of each training picture.
    settings : Settings
    device : torch.device
    at_most : int or None
        How many runs at once; None for as many as a GPU's free memory holds.
    mixed : bool or None
        Compute in bfloat16 where that does no harm; None for "on a GPU".
    every : float
        Checkpoints are written when the last ones are this old, s.

    Yields
    ------
    Task, Run
        Each run when those trained with it are done.

    Raises
    ------
    InputError
        Where a subject has too few trials, a checkpoint is another run's, a run diverges, or the
        GPU's memory doesn't hold the runs.
    """
    mixed = device.type == "cuda" if mixed is None else mixed
    members = [_Member(task, concepts, settings) for task in tasks]
    for _, alike in groupby(sorted(members, key=_Member.size), key=_Member.size):
        for part in _parts(list(alike), pictures.shape[1], settings, device, at_most):
            for member in part:
                member.begin(pictures.shape[1], settings)
            # A crash between two checkpoints leaves some runs an epoch behind the others.
            part.sort(key=lambda member: member.course.epoch)
            for _, group in groupby(part, key=lambda member: member.course.epoch):
                group = list(group)
                try:
                    runs = _train(group, pictures, settings, device, mixed, every)
                except torch.OutOfMemoryError:
                    fewer = f"--resume and --together with a number below {len(group)}"
                    raise InputError(
                        f"The GPU's memory didn't hold {len(group)} run(s) at once; "
                        f"give {fewer if len(group) > 1 else 'a smaller --batch'}."
                    ) from None
                yield from zip((member.task for member in group), runs, strict=True)


def stack(
    tasks: Sequence[Task],
    pictures: np.ndarray,
    concepts: list[str],
    settings: Settings,
    device: torch.device,
    mixed: bool,
) -> "Stack":
    """Put runs that go together into one model; parameters as of `train_together`."""
    members = [_Member(task, concepts, settings) for task in tasks]
    for member in members:
        member.begin(pictures.shape[1], settings)
    return Stack(members, pictures, settings, device, mixed)


class _Member:
    """One of the runs: its rows, and its encoder and course while it waits or is over."""

    course: Course

    def __init__(self, task: Task, concepts: list[str], settings: Settings) -> None:
        self.task = task
        self.data = TrainingData(task.eeg, settings.single_trials, CPU)
        self.train_rows, validation = split_rows(self.data, concepts, settings, task.seed)
        self.validation_rows = self.data.by_subject(validation)

    def size(self) -> tuple:
        """Return all sizes that runs must share to go together."""
        held = tuple(
            (len(own), len(np.unique(self.data.conditions[own]))) for own in self.validation_rows
        )
        return self.data.channels, self.data.times, len(self.train_rows), held

    def begin(self, dim: int, settings: Settings) -> None:
        """Make the encoder, or read how far the run had come."""
        task = self.task
        given = settings, task.seed, CPU, task.checkpoint
        self.course = begin(self.data, task.eeg, dim, *given)

    def order(self, epoch: int, batch: int) -> np.ndarray:
        """Return an epoch's rows, batch after batch, as `train_encoder` takes them."""
        order = np.random.default_rng([self.task.seed, epoch]).permutation(self.train_rows)
        return np.concatenate(
            [np.sort(part) for part in np.split(order, range(batch, len(order), batch))]
        )


def bytes_of_a_run(channels: int, times: int, dim: int, settings: Settings) -> int:
    """Estimate what a run takes of a GPU's memory at once, beside its trials; rather too much.

    That is what autograd keeps of a batch and what backward needs besides, all as if in single
    precision.
    """
    tokens = (times - KERNEL) // STRIDE  # a few too many: nothing is taken off for the averaging
    filters = 40
    a_trial = channels * (5 * times + tokens * (3 * (KERNEL + 1) + 4 * filters))
    a_trial += 20 * (tokens * filters + dim) + 6 * settings.batch
    if settings.encoder != "nice":  # attention
        a_trial += channels * (8 * times + 6 * channels)
    weights = 6 * (filters * (KERNEL + channels * filters) + dim * (tokens * filters + dim + 8))
    return 4 * (settings.batch * a_trial + weights)


def _parts(
    members: list[_Member],
    dim: int,
    settings: Settings,
    device: torch.device,
    at_most: int | None,
) -> Iterator[list[_Member]]:
    """Cut runs into parts that fit into the GPU's memory."""
    while members:
        free = math.inf
        if device.type == "cuda" and at_most is None:
            torch.cuda.empty_cache()  # what the part before has left
            free = SHARE * torch.cuda.mem_get_info(device)[0]
        folders: set[Path] = set()
        for fitting, member in enumerate(members):
            data = member.data
            free -= bytes_of_a_run(data.channels, data.times, dim, settings)
            for one in member.task.sets:
                if one.folder not in folders:  # runs of the same subject share the trials
                    rows = len(one.train) * (one.train.shape[1] if settings.single_trials else 1)
                    free -= 2 * rows * data.channels * data.times
            folders |= {one.folder for one in member.task.sets}
            if fitting and (free < 0 or fitting == at_most):
                break
        else:
            fitting = len(members)
        yield members[:fitting]
        members = members[fitting:]


class _Trials:
    """All runs' trials in the device's memory, each subject's once.

    Attributes
    ----------
    eeg : Tensor of shape (n_trials, n_channels, n_times)
        In half precision on a GPU, or where the files hold just that; else in single precision.
    conditions : Tensor of shape (n_trials,)
        Which picture was seen.
    """

    def __init__(self, sets: list[TrainingSet], single_trials: bool, device: torch.device) -> None:
        self.first: dict[Path, int] = {}  # where a subject's trials start
        read = []
        for one in sets:
            if one.folder not in self.first:
                self.first[one.folder] = sum(map(len, read))
                read.append(TrainingData(one, single_trials, CPU))
        exact = all(
            one.train.dtype == np.float16 and (single_trials or one.train.shape[1] == 1)
            for one in sets
        )
        self.eeg = torch.empty(
            sum(map(len, read)), read[0].channels, read[0].times,
            dtype=torch.float16 if exact or device.type == "cuda" else None, device=device,
        )  # fmt: skip
        end = 0
        for data in read:
            parts = np.array_split(np.arange(len(data)), math.ceil(len(data) / 1000))
            for rows, eeg in zip(parts, data.batches(parts), strict=True):
                self.eeg[end : end + len(rows)] = eeg
                end += len(rows)
        conditions = np.concatenate([data.conditions for data in read])
        self.conditions = torch.from_numpy(conditions).to(device)

    def places(self, member: _Member) -> np.ndarray:
        """Return where each of a run's rows lies here."""
        starts = [self.first[one.folder] for one in member.task.sets]
        sizes = np.diff(member.data.starts)
        return np.concatenate(
            [start + np.arange(size) for start, size in zip(starts, sizes, strict=True)]
        )


class Stack:
    """Several runs as one model, and all that a step of theirs needs on the device.

    Attributes
    ----------
    weights, buffers : dict of Tensor of shape (runs, …)
        Of the encoders; `weights` are leaves that are trained in place.
    best : dict of Tensor of shape (runs, …)
        Weights and buffers after each run's best epoch so far.
    """

    def __init__(
        self,
        members: list[_Member],
        pictures: np.ndarray,
        settings: Settings,
        device: torch.device,
        mixed: bool,
    ) -> None:
        self.members, self.settings = members, settings
        self.device, self.mixed = device, mixed
        sets = [one for member in members for one in member.task.sets]
        self.trials = _Trials(sets, settings.single_trials, device)
        self.places = [self.trials.places(member) for member in members]
        self.pictures = torch.tensor(pictures, device=device)
        self.held = [  # for each subject of the pool: rows, and which candidate is right
            self._held([member.validation_rows[subject] for member in members])
            for subject in range(len(members[0].validation_rows))
        ]

        self.weights, self.buffers = self._stacked("encoder")
        self.loss_weights, _ = self._stacked("loss")
        self.encoder, self.loss_of = (
            # Without numbers: only their forward is called, with the weights above.
            copy.deepcopy(module).to("meta")
            for module in members[0].course.modules.values()
        )
        for module in self.encoder.modules():
            module.in_blocks = False  # vmap goes through ordinary operations alone
        self.encoder.train()
        started = members[0].course.epoch > 0
        self.best = {
            key: torch.stack([member.course.best[key] for member in members]).to(device)
            if started
            else value.detach().clone()
            for key, value in (self.weights | self.buffers).items()
        }
        trained = [*self.weights.values(), *self.loss_weights.values()]
        self.trained = [weight for weight in trained if weight.requires_grad]
        # Fused: one pass over all weights, and no number is read on the way.
        self.optimizer = make_optimizer(settings, self.trained, stacked=True, fused=True)
        if started:
            self._resume_adam()

    def _stacked(self, which: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        modules = [member.course.modules[which] for member in self.members]
        weights, buffers = stack_module_state(modules)
        return (
            {
                key: value.detach().to(self.device).requires_grad_(value.requires_grad)
                for key, value in weights.items()
            },
            {key: value.to(self.device) for key, value in buffers.items()},
        )

    def _resume_adam(self) -> None:
        states = [member.course.optimizer.state_dict()["state"] for member in self.members]
        state = {
            number: {
                key: value if key == "step" else torch.stack([s[number][key] for s in states])
                for key, value in first.items()
            }
            for number, first in states[0].items()
        }
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})

    def _to_device(self, rows: list[np.ndarray]) -> Tensor:
        """Bring each run's rows, equally many, to the device as places of trials: (runs, n)."""
        places = [own[which] for own, which in zip(self.places, rows, strict=True)]
        places = torch.from_numpy(np.stack(places))
        if self.device.type == "cuda":  # from pinned memory a copy keeps nobody waiting
            places = places.pin_memory()
        return places.to(self.device, non_blocking=True)

    def _held(self, rows: list[np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
        """Return held-out places (runs, n), candidates (runs, m), and the right ones (runs, n)."""
        seen = [m.data.conditions[own] for m, own in zip(self.members, rows, strict=True)]
        found = [np.unique(conditions, return_inverse=True) for conditions in seen]
        candidates, right = (torch.from_numpy(np.stack(each)) for each in zip(*found, strict=True))
        return self._to_device(rows), candidates.to(self.device), right.to(self.device)

    def order(self, epoch: int) -> Tensor:
        """Return the places of an epoch's trials, in the order of training: (runs, n)."""
        return self._to_device([m.order(epoch, self.settings.batch) for m in self.members])

    def step(self, places: Tensor, rate: float) -> Tensor:
        """Take one training step of every run, waiting for nothing; return the losses, (runs,)."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self._losses(self._embed(places), places)
        self.optimizer.zero_grad()
        losses.sum().backward()  # no run's loss depends on another's weights
        self.optimizer.step()
        return losses.detach()

    def _embed(self, places: Tensor) -> Tensor:
        """Embed trials, (runs, n, dim)."""

        def embed(weights: dict, buffers: dict, eeg: Tensor) -> Tensor:
            return functional_call(self.encoder, (weights, buffers), (eeg,))

        mixed = self.mixed and self.encoder.training
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            return vmap(embed, randomness="different")(
                self.weights, self.buffers, self.trials.eeg[places].float()
            )

    def _losses(self, embeddings: Tensor, places: Tensor) -> Tensor:
        def loss(weights: dict, *batch: Tensor) -> Tensor:
            return functional_call(self.loss_of, weights, batch)

        conditions = self.trials.conditions[places]
        return vmap(loss)(self.loss_weights, embeddings, self.pictures[conditions], conditions)

    @torch.no_grad()
    def validate(self) -> tuple[Tensor, Tensor]:
        """Return losses and top-1 accuracies among the held-out pictures, (runs,) each."""
        self.encoder.eval()
        losses, hits = [], []
        for places, candidates, right in self.held:
            parts = places.split(self.settings.batch, 1)
            embeddings = torch.cat([self._embed(part) for part in parts], 1)
            losses.append(self._losses(embeddings, places))
            # As `retrieval.similarity` and `ranks`: ties count against the right one.
            units = functional.normalize(embeddings.double(), dim=2)
            seen = functional.normalize(self.pictures[candidates].double(), dim=2)
            similarities = (units @ seen.transpose(1, 2)).round(decimals=12)
            nearest = similarities >= similarities.gather(2, right[..., None])
            hits.append((nearest.sum(2) == 1).double().mean(1))
        self.encoder.train()
        return torch.stack(losses).double().mean(0), torch.stack(hits).mean(0)

    def keep_best(self, which: list[int]) -> None:
        """Take the weights of some runs as their best so far."""
        which = torch.tensor(which, dtype=torch.int64, device=self.device)
        for key, value in (self.weights | self.buffers).items():
            self.best[key][which] = value.detach()[which]

    def leave(self) -> None:
        """Bring every run's weights and the optimizer's state back to where they came from."""
        adam = self.optimizer.state_dict()["state"]
        states = {"encoder": self.weights | self.buffers, "loss": self.loss_weights}
        states = {
            name: {key: value.detach().to(CPU) for key, value in state.items()}
            for name, state in states.items()
        }
        best = {key: value.to(CPU) for key, value in self.best.items()}
        adam = {
            number: {key: value.to(CPU) for key, value in state.items()}
            for number, state in adam.items()
        }
        for run, member in enumerate(self.members):
            course = member.course
            for name, state in states.items():
                own = {key: value[run] for key, value in state.items()}
                course.modules[name].load_state_dict(own)
            course.best = {key: value[run].clone() for key, value in best.items()}
            own = {
                number: {
                    key: value if key == "step" else value[run] for key, value in state.items()
                }
                for number, state in adam.items()
            }
            course.optimizer.load_state_dict(course.optimizer.state_dict() | {"state": own})


def _train(
    members: list[_Member],
    pictures: np.ndarray,
    settings: Settings,
    device: torch.device,
    mixed: bool,
    every: float,
) -> list[Run]:
    """Train runs that have come equally far to their end."""
    courses = [member.course for member in members]
    if courses[0].epoch == settings.epochs:  # what remained was to measure them
        return [_run(course, settings) for course in courses]
    runs = Stack(members, pictures, settings, device, mixed)
    first, rows = courses[0].epoch, len(members[0].train_rows)
    steps = math.ceil(rows / settings.batch)
    title = (
        f"{len(members)} runs of {settings.encoder}" if len(members) > 1 else members[0].task.title
    )
    bar = tqdm(total=settings.epochs, initial=first, desc=title, unit="epoch")
    written = time.monotonic()
    upcoming = runs.order(first)
    for epoch in range(first, settings.epochs):
        # Dropout follows from the runs' seeds and the epoch: a resumed run is the same run.
        seeds = [member.task.seed for member in members]
        torch.manual_seed(int(np.random.SeedSequence([epoch, *seeds]).generate_state(1)[0]))
        total = torch.zeros(len(members), dtype=torch.float64, device=device)
        for step, places in enumerate(upcoming.split(settings.batch, 1)):
            if places.shape[1] > 1:  # one row alone is left out
                rate = learning_rate(settings, epoch * steps + step, steps)
                total += runs.step(places, rate) * places.shape[1]
        figures = torch.stack([total / rows, *runs.validate()])
        if epoch + 1 < settings.epochs:  # while the device is busy
            upcoming = runs.order(epoch + 1)
        figures = figures.T.tolist()  # here the program waits for the device
        for member, figure in zip(members, figures, strict=True):
            if not all(map(math.isfinite, figure)):
                raise InputError(
                    f"Training of {member.task.title} diverged in epoch {epoch + 1}; "
                    "give a lower --lr."
                )
        best = [course.note(*own) for course, own in zip(courses, figures, strict=True)]
        runs.keep_best([run for run, is_best in enumerate(best) if is_best])
        # At the end, too: so what is measured next may fail without changing anything.
        if time.monotonic() - written >= every or epoch + 1 == settings.epochs:
            runs.leave()
            for course in courses:
                if course.checkpoint:
                    course.write()
            written = time.monotonic()
        bar.update()
        loss, validation, top1 = np.mean(figures, 0)
        bar.set_postfix_str(f"mean loss {loss:.3f}, validation {validation:.3f}, top-1 {top1:.1%}")
    bar.close()
    return [_run(course, settings) for course in courses]


def _run(course: Course, settings: Settings) -> Run:
    final = course.modules["encoder"].eval()
    selected = build(settings.encoder, **final.config)
    selected.load_state_dict(course.best)
    return Run(selected.eval(), final, course.best_epoch, course.history)
