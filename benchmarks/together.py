"""How long ten subjects as large as THINGS-EEG2's take to train at once on a GPU.

    python -m benchmarks.together                 from a few epochs, extrapolated to 200
    python -m benchmarks.together --full          all 200 epochs of ten subjects as well
    python -m benchmarks.together --encoder nice-sa

Needs a CUDA device, 6 GB of disk for random numbers in a temporary place (16,540 training
conditions × 63 channels × 250 samples in float16 for each subject, embeddings of 768 dimensions),
and of packages only torch, NumPy, safetensors and tqdm. The settings are the paper's.

Times are those of `nice_demo.together.train_together`, from files in the system's cache to finished
encoders, beside the plain path's (`nice_demo.training.train_encoder`, in single precision, a
subject after the other). All take turns, every second round in reverse order; figures are medians.
An epoch's time is the difference between a longer and a shorter training, and the whole is what
the shorter one takes plus the missing epochs. Testing and writing the bundle aren't in it.

The share of the card that a step reaches: multiplications and additions as PyTorch counts them, and
bytes as the operations of a step read and write them, by the time it takes, against a large matrix
product in bfloat16 and a large copy on the same card in the same run.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.numpy import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.encoder import machine
from benchmarks.table import Row, show
from nice_demo.eegset import META, TrainingSet
from nice_demo.errors import InputError, command
from nice_demo.files import write_json
from nice_demo.settings import PAPER, Settings
from nice_demo.together import Task, bytes_of_a_run, stack, train_together
from nice_demo.training import train_encoder

PROMISE = 60.0  # s, for ten subjects
SEED_MORE = 0.1  # what each further run may cost of the first
WITHOUT = "not measured: no CUDA device; run python -m benchmarks.together on one"
UNMOVED = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


@dataclass(frozen=True)
class Size:
    """How large a subject is; by default as in THINGS-EEG2."""

    conditions: int = 16_540
    per_concept: int = 10
    channels: int = 63
    times: int = 250
    dim: int = 768


class Subjects:
    """Random subjects on disk and what is trained on them.

    Parameters
    ----------
    folder : Path
    count : int
    size : Size
    settings : Settings
    device : torch.device
    """

    def __init__(
        self, folder: Path, count: int, size: Size, settings: Settings, device: torch.device
    ) -> None:
        self.size, self.settings, self.device = size, settings, device
        self.sets = []
        names = [f"E{number}" for number in range(size.channels)]
        for subject in range(1, count + 1):
            own = folder / f"sub-{subject:02d}"
            own.mkdir()
            torch.manual_seed(subject)
            eeg = torch.randn(size.conditions, 1, size.channels, size.times).half().numpy()
            save_file({"eeg": eeg}, own / "train.safetensors")
            meta = {"channels": names, "sfreq": 250.0, "tmin": 0.0, "unit": "whitened"}
            write_json(own / META, meta | {"test_repetitions": None})
            self.sets.append(TrainingSet.open(own))
        self.pictures = torch.randn(size.conditions, size.dim).numpy()
        self.concepts = [str(number // size.per_concept) for number in range(size.conditions)]

    def tasks(self, count: int) -> list[Task]:
        """Return a run for each of the first subjects."""
        return [Task(eeg, 1, title=str(eeg.folder)) for eeg in self.sets[:count]]

    def together(self, count: int, epochs: int) -> float:
        """Train the first subjects together; return how long it took, s."""
        settings = replace(self.settings, epochs=epochs)
        given = self.pictures, self.concepts, settings, self.device
        return self._seconds(lambda: list(train_together(self.tasks(count), *given)))

    def plain(self, count: int, epochs: int) -> float:
        """Train the first subjects one after the other; return how long it took, s."""
        settings = replace(self.settings, epochs=epochs)
        given = self.pictures, self.concepts, settings, 1, self.device
        return self._seconds(lambda: [train_encoder(eeg, *given) for eeg in self.sets[:count]])

    def _seconds(self, train: Callable[[], object]) -> float:
        synchronise(self.device)
        started = time.perf_counter()
        train()
        synchronise(self.device)
        return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return how long `work` takes, s, after it has been done once."""
    work()
    seconds = []
    for _ in range(rounds):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


class Traffic(TorchDispatchMode):
    """Count the bytes that operations read and write: each array once for every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        views = any(o.alias_info and not o.alias_info.is_write for o in operation._schema.returns)
        # Neither a view moves anything, nor memory that waits to be filled.
        if views or operation.overloadpacket.__name__ in UNMOVED:
            return result
        for value in tree_leaves((arguments, options, result)):
            if isinstance(value, torch.Tensor):
                held = value.untyped_storage().nbytes()  # less, where a view repeats it
                self.bytes += min(value.numel() * value.element_size(), held)
        return result


@dataclass(frozen=True)
class Step:
    """A training step of several runs: its time, s, and what it computes and moves."""

    seconds: float
    operations: int
    bytes: int


def step_of(subjects: Subjects, count: int, rounds: int) -> Step:
    """Measure steps of the first subjects' runs."""
    settings, mixed = subjects.settings, subjects.device.type == "cuda"
    runs = stack(
        subjects.tasks(count), subjects.pictures, subjects.concepts, settings, subjects.device,
        mixed,
    )  # fmt: skip
    places = runs.order(0)[:, : settings.batch]
    seconds = median_seconds(lambda: runs.step(places, settings.lr), subjects.device, 4 * rounds)
    with FlopCounterMode(display=False) as counted:
        runs.step(places, settings.lr)
    with Traffic() as traffic:
        runs.step(places, settings.lr)
    return Step(seconds, counted.get_total_flops(), traffic.bytes)


def card(device: torch.device, side: int = 8192, rounds: int = 20) -> tuple[float, float]:
    """Return what the card reaches: operations/s in bfloat16, and bytes/s of a copy."""
    one, two = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(one)
    operations = 2 * side**3 / median_seconds(
        lambda: torch.mm(one, two, out=product), device, rounds
    )  # fmt: skip
    source = torch.zeros(side * side * 8, device=device, dtype=torch.int32)  # 2 GB
    target = torch.empty_like(source)
    size = 2 * source.numel() * source.element_size()  # read and written
    return operations, size / median_seconds(lambda: target.copy_(source), device, rounds)


def measure(
    subjects: Subjects, epochs: tuple[int, int], rounds: int, full: bool, side: int = 8192
) -> list[Row]:
    """Measure on the subjects' device.

    Parameters
    ----------
    subjects : Subjects
    epochs : tuple of int
        Of the shorter and of the longer training.
    rounds : int
    full : bool
        Also train all subjects for all epochs of the settings.
    side : int
        Of the matrices that show what the card reaches.
    """
    device, settings, count = subjects.device, subjects.settings, len(subjects.sets)
    ways = {
        "one": lambda number: subjects.together(1, number),
        "all": lambda number: subjects.together(count, number),
        "plain": lambda number: subjects.plain(1, number),
    }
    for way in ways.values():
        way(1)  # warms up: kernels are loaded, files are cached
    taken = {(way, number): [] for way in ways for number in epochs}
    for number in range(rounds):
        order = list(taken)[:: -1 if number % 2 else 1]
        for way, wanted in order:
            taken[way, wanted].append(ways[way](wanted))
    an_epoch, whole = {}, {}
    short, long = epochs
    for way in ways:
        pairs = zip(taken[way, short], taken[way, long], strict=True)
        an_epoch[way] = statistics.median((more - few) / (long - short) for few, more in pairs)
        first = statistics.median(taken[way, short])
        whole[way] = first + (settings.epochs - short) * an_epoch[way]

    what = f"{settings.encoder}, batch {settings.batch}, {settings.epochs} epochs"
    how = f"extrapolated from {long} epochs"
    further = (whole["all"] - whole["one"]) / max(count - 1, 1) / whole["one"]
    limit = "ok" if whole["all"] < PROMISE else "over"
    rows = [
        Row(f"{count} subjects together: {what}, {how}", f"{whole['all']:.1f} s",
            f"limit {PROMISE:g} s", limit),
        Row(f"1 subject: {what}, {how}", f"{whole['one']:.1f} s",
            f"plain path {whole['plain']:.1f} s", f"{whole['plain'] / whole['one']:.2f}"),
        Row(f"{count} subjects together against one after the other by the plain path",
            f"{whole['all']:.1f} s", f"{count * whole['plain']:.1f} s",
            f"{count * whole['plain'] / whole['all']:.2f}"),
        Row(f"each further run, as a share of the first (mean of {count - 1})",
            f"{further:.3f}", f"limit {SEED_MORE:g}", "ok" if further < SEED_MORE else "over"),
    ]  # fmt: skip
    if full:
        seconds = subjects.together(count, settings.epochs)
        rows.append(
            Row(f"{count} subjects together: {what}, measured whole (once)", f"{seconds:.1f} s",
                f"limit {PROMISE:g} s", "ok" if seconds < PROMISE else "over")
        )  # fmt: skip
    operations, copied = card(device, side)
    for runs in sorted({1, count}):
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        step = step_of(subjects, runs, rounds)
        for name, done, reached, unit in (
            ("arithmetic", step.operations, operations, "TFLOP/s"),
            ("bandwidth", step.bytes, copied, "TB/s"),
        ):
            share = done / step.seconds
            rows.append(
                Row(f"a step of {runs} run(s), {1000 * step.seconds:.2f} ms: {name}",
                    f"{share / 1e12:.2f} {unit}", f"card {reached / 1e12:.2f} {unit}",
                    f"{share / reached:.1%}")
            )  # fmt: skip
        if device.type == "cuda":
            size = subjects.size
            held = runs * (
                bytes_of_a_run(size.channels, size.times, size.dim, settings)
                + 2 * size.conditions * size.channels * size.times
            )
            most = torch.cuda.max_memory_allocated(device)
            rows.append(
                Row(f"memory of {runs} run(s) with trials, at most", f"{most / 1e9:.1f} GB",
                    f"estimate {held / 1e9:.1f} GB", "ok" if most < held else "over")
            )  # fmt: skip
    return rows


def rows(encoder: str = "nice", count: int = 10, rounds: int = 5, full: bool = False) -> list[Row]:
    """Measure at the size of THINGS-EEG2, where there is a GPU."""
    if not torch.cuda.is_available():
        what = f"{count} subjects of THINGS-EEG2's size × {PAPER.epochs} epochs on one GPU"
        return [Row(what, "not measured", f"limit {PROMISE:g} s", WITHOUT.partition(": ")[2])]
    with tempfile.TemporaryDirectory() as place:
        settings, device = replace(PAPER, encoder=encoder), torch.device("cuda")
        subjects = Subjects(Path(place), count, Size(), settings, device)
        return measure(subjects, (2, 12), rounds, full)


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.together",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--encoder", choices=["nice", "nice-sa", "nice-ga"], default="nice")
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="all 200 epochs, too")
    options = parser.parse_args(argv)
    if options.subjects < 2 or options.rounds < 3:
        raise InputError("Give --subjects of at least 2 and --rounds of at least 3.")
    if not torch.cuda.is_available():
        print(WITHOUT)
        return 0
    found = rows(options.encoder, options.subjects, options.rounds, options.full)
    print(show(found, f"{torch.cuda.get_device_name()}; {machine()}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
