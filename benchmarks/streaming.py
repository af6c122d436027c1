"""Training on data larger than memory: how long the step waits for it, how much of it is resident.

    python -m benchmarks.streaming                                a pool of 1.5 GB
    python -m benchmarks.streaming --subjects 10 --conditions 16540 --repetitions 1     5 GB
    python -m benchmarks.streaming --subjects 10 --conditions 16540 --cold              21 GB

Makes a pool of random numbers in a temporary folder: half precision, 63 channels × 250 samples, as
many stored trials a condition as --repetitions says; a training row is their mean, or with
--single-trials one of them. Takes the training steps of NICE (batch 1000, 768 dimensions) on rows
in random order, in a process of its own, and reports

* which share of the steps' time went by waiting for the next batch (the promise: below 5 %),
* the most memory the process had resident, pages of mapped files included (below 4 GB), opening and
  checking the files included; memory of its own beyond 4 GB it is refused (RLIMIT_DATA),
* how long a step takes beside one that reads in the literal way: when it needs the batch, through
  the memory map, converted by NumPy. Each turn is a process; the order is ABBA.

The first step of a turn warms up and isn't counted. With --cold, the files are dropped from the
page cache before every turn; else they are as the last turn left them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.encoder import machine
from benchmarks.memory import most_resident
from benchmarks.table import Row, show
from nice_demo.contrastive import ContrastiveLoss
from nice_demo.eegset import META, TrainingSet, new_array
from nice_demo.encoders.nice import NICE
from nice_demo.errors import InputError, command
from nice_demo.files import write_json
from nice_demo.montage import CHANNELS
from nice_demo.training_data import TrainingData

TIMES, DIM, BATCH = 250, 768, 1000
WAITS, RESIDENT = 0.05, 4.0  # promises: a share, GB
AHEAD, LITERAL = "ahead", "literal"


def write_pool(folder: Path, subjects: int, conditions: int, repetitions: int) -> None:
    """Write the training trials of some subjects: one block of random numbers, many times."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((250, repetitions, len(CHANNELS), TIMES), np.float32)
    block = block.astype(np.float16)
    meta = {"channels": CHANNELS, "sfreq": 250.0, "tmin": 0.0, "unit": "whitened"}
    for subject in range(1, subjects + 1):
        place = folder / f"sub-{subject:02d}"
        with new_array(place / "train.safetensors", (conditions, *block.shape[1:])) as array:
            for start in range(0, conditions, len(block)):
                array[start : start + len(block)] = block[: conditions - start]
        write_json(place / META, meta | {"test_repetitions": None})


def drop_from_cache(folder: Path) -> None:
    """Make the system forget the files of a pool, so that they are read from the disk."""
    for path in folder.glob("sub-*/train.safetensors"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def literal_batches(
    pool: list[TrainingSet], single_trials: bool, batches: list[np.ndarray]
) -> Iterator[torch.Tensor]:
    """Yield batches that are read when they are asked for, through the memory map, by NumPy."""
    repetitions = pool[0].train.shape[1] if single_trials else 1
    of_a_subject = len(pool[0].train) * repetitions
    for rows in batches:
        eeg = np.empty((len(rows), len(CHANNELS), TIMES), np.float32)
        for subject in np.unique(rows // of_a_subject):
            own = rows // of_a_subject == subject
            condition, repetition = np.divmod(rows[own] % of_a_subject, repetitions)
            if single_trials:
                eeg[own] = pool[subject].train[condition, repetition]
            else:
                eeg[own] = pool[subject].train[condition].mean(1, dtype=np.float32)
        yield torch.from_numpy(eeg)


def turn(folder: Path, way: str, single_trials: bool, steps: int) -> dict:
    """Take training steps; return the time of each, what of it was waiting (s), and the memory."""
    if hasattr(resource, "RLIMIT_DATA"):
        resource.setrlimit(resource.RLIMIT_DATA, (int(RESIDENT * 1e9),) * 2)
    pool = [TrainingSet.open(place) for place in sorted(folder.glob("sub-*"))]
    data = TrainingData(pool, single_trials, torch.device("cpu"))
    order = np.random.default_rng(0).permutation(len(data))
    batches = [np.sort(order[i * BATCH : (i + 1) * BATCH]) for i in range(steps + 1)]
    torch.manual_seed(0)
    pictures = torch.randn(len(pool[0].train), DIM)
    encoder, loss_of = NICE(len(CHANNELS), TIMES, DIM).train(), ContrastiveLoss()
    optimizer = torch.optim.Adam(encoder.parameters(), 2e-4, (0.5, 0.999))
    if way == LITERAL:
        stream = literal_batches(pool, single_trials, batches)
    else:
        stream = data.batches(batches)
    waiting, total, losses = [], [], []
    for rows in batches:
        started = time.perf_counter()
        eeg = next(stream)
        waiting.append(time.perf_counter() - started)
        conditions = torch.from_numpy(data.conditions[rows])
        loss = loss_of(encoder(eeg), pictures[conditions], conditions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        total.append(time.perf_counter() - started)
    return {
        "waiting": waiting[1:],
        "total": total[1:],
        "losses": losses,
        "resident": most_resident(),
    }


def measure(folder: Path, single_trials: bool, steps: int, turns: int, cold: bool) -> dict:
    """Take turns, each in a process of its own; return the turns of either way.

    Raises
    ------
    InputError
        Where a process fails, or the two ways don't train alike.
    """
    found = {AHEAD: [], LITERAL: []}
    for way in (AHEAD, LITERAL, LITERAL, AHEAD) * turns:
        if cold:
            drop_from_cache(folder)
        code = [sys.executable, "-m", "benchmarks.streaming", "--turn", way, "--folder", folder]
        code += ["--steps", str(steps), *(["--single-trials"] if single_trials else [])]
        place = Path(__file__).resolve().parents[1]
        done = subprocess.run(code, cwd=place, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise InputError(f"A turn failed with exit code {done.returncode}; see its output.")
        found[way].append(json.loads(done.stdout))
    # The same batches: the losses are equal, but for what other sums of more threads round.
    first, *others = (np.array(one["losses"]) for one in found[AHEAD] + found[LITERAL])
    if not all(np.allclose(first, other, rtol=1e-3) for other in others):
        raise InputError("Reading ahead and literal reading came to other losses; mend that first.")
    return found


def _rows(found: dict, what: str) -> list[Row]:
    def step(way: str) -> float:
        return statistics.median(time for one in found[way] for time in one["total"])

    def waits(way: str) -> float:
        waited = sum(sum(one["waiting"]) for one in found[way])
        return waited / sum(sum(one["total"]) for one in found[way])

    def resident(way: str) -> float:
        return max(one["resident"] for one in found[way])

    share, most = waits(AHEAD), resident(AHEAD)
    return [
        Row(
            f"{what}: share of a step that waits",
            f"{share:.1%}",
            f"limit {WAITS:.0%} (literal: {waits(LITERAL):.1%})",
            "ok" if share < WAITS else "over",
        ),
        Row(
            f"{what}: most memory resident",
            f"{most:.2f} GB",
            f"limit {RESIDENT:g} GB (literal: {resident(LITERAL):.2f} GB)",
            "ok" if most < RESIDENT else "over",
        ),
        Row(
            f"{what}: training step, batch {BATCH}",
            f"{1000 * step(AHEAD):.0f} ms",
            f"{1000 * step(LITERAL):.0f} ms",
            f"{step(LITERAL) / step(AHEAD):.2f}",
        ),
    ]


def rows(
    subjects: int = 3,
    conditions: int = 4000,
    repetitions: int = 4,
    single_trials: bool = False,
    steps: int = 5,
    turns: int = 1,
    cold: bool = False,
) -> list[Row]:
    """Measure; by default a pool of 1.5 GB."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pool(folder, subjects, conditions, repetitions)
        found = measure(folder, single_trials, steps, turns, cold)
    size = subjects * conditions * repetitions * len(CHANNELS) * TIMES * 2 / 1e9
    kind = "single trials" if single_trials else f"means of {repetitions}"
    kind = kind if repetitions > 1 else "one trial a condition"
    return _rows(found, f"pool of {size:.1f} GB{' from the disk' if cold else ''}, {kind}")


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.streaming",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--conditions", type=int, default=4000, help="of each subject")
    parser.add_argument("--repetitions", type=int, default=4, help="stored trials of a condition")
    parser.add_argument("--single-trials", action="store_true")
    parser.add_argument("--steps", type=int, default=5, help="of a turn")
    parser.add_argument("--turns", type=int, default=1, help="of four processes each")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not the cache")
    parser.add_argument("--turn", choices=[AHEAD, LITERAL], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.turn:
        found = turn(options.folder, options.turn, options.single_trials, options.steps)
        print(json.dumps(found))
        return 0
    stored = options.repetitions if options.single_trials else 1
    if (options.steps + 1) * BATCH > options.subjects * options.conditions * stored:
        raise InputError(
            f"--steps of {BATCH} rows, and one, are more than the pool has; make it larger."
        )
    if min(options.steps, options.turns) < 1:
        raise InputError("Give --steps and --turns of at least 1.")
    measured = rows(
        options.subjects, options.conditions, options.repetitions, options.single_trials,
        options.steps, options.turns, options.cold,
    )  # fmt: skip
    print(show(measured, machine()))
    return int(any(row.ratio == "over" for row in measured))


if __name__ == "__main__":
    sys.exit(main())
