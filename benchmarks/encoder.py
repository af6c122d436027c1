"""How much faster a training step of `NICE` is than of `LiteralNICE`, which does as the paper says.

    python -m benchmarks.encoder                    batch 250, embeddings of 768 and 256 dimensions
    python -m benchmarks.encoder --batch 1000
    python -m benchmarks.encoder --batch 128 --dims 256 --threads 1      the phantom's, with --jobs

Both encoders start from the same weights and take the same steps (forward, contrastive loss,
backward, Adam) on the same batch of random EEG, in the same process. They take turns in the order
ABBA, so that a machine that slows down or speeds up does so for both. The first round is left out;
the ratio is that of the medians.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.table import Row, show
from nice_demo.contrastive import ContrastiveLoss
from nice_demo.encoders.nice import NICE, LiteralNICE
from nice_demo.errors import InputError, command

CHANNELS, TIMES = 63, 250


class Training:
    """An encoder with what a step of its training needs.

    Parameters
    ----------
    encoder : NICE
    eeg : Tensor of shape (batch, channels, times)
    pictures : Tensor of shape (batch, dim)
    """

    def __init__(self, encoder: NICE, eeg: torch.Tensor, pictures: torch.Tensor) -> None:
        self.encoder = encoder.train()
        self.eeg, self.pictures, self.loss_of = eeg, pictures, ContrastiveLoss()
        self.optimizer = torch.optim.Adam(encoder.parameters(), 2e-4, (0.5, 0.999))

    def step(self) -> float:
        """Take a step and return how long it took, s."""
        started = time.perf_counter()
        loss = self.loss_of(
            self.encoder(self.eeg),
            self.pictures,
            torch.arange(len(self.eeg), device=self.eeg.device),
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - started


def compare(batch: int, dim: int, rounds: int) -> tuple[float, float]:
    """Return the median time of a step of `LiteralNICE` and of `NICE`, s.

    Parameters
    ----------
    batch, dim : int
    rounds : int
        Of four steps each: literal, ours, ours, literal.
    """
    torch.manual_seed(0)
    eeg, pictures = torch.randn(batch, CHANNELS, TIMES), torch.randn(batch, dim)
    literal, ours = LiteralNICE(CHANNELS, TIMES, dim), NICE(CHANNELS, TIMES, dim)
    ours.load_state_dict(literal.state_dict())
    literal, ours = Training(literal, eeg, pictures), Training(ours, eeg, pictures)
    times = {literal: [], ours: []}
    for number in range(rounds + 1):
        for training in (literal, ours, ours, literal):
            seconds = training.step()
            if number:  # the first round warms up
                times[training].append(seconds)
    return statistics.median(times[literal]), statistics.median(times[ours])


def machine() -> str:
    """Describe what the figures were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return (
        f"{os.cpu_count()} cores, {model}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads{load}"
    )


def rows(batch: int = 250, dims: tuple[int, ...] = (768, 256), rounds: int = 5) -> list[Row]:
    """Measure; a step's time by the sample."""
    found = []
    for dim in dims:
        literal, ours = (1000 * seconds / batch for seconds in compare(batch, dim, rounds))
        what = f"training step of NICE, {dim} dimensions, batch {batch}: time a sample"
        found.append(Row(what, f"{ours:.2f} ms", f"{literal:.2f} ms", f"{literal / ours:.1f}"))
    return found


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.encoder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--dims", type=int, nargs="+", default=[768, 256])
    parser.add_argument("--rounds", type=int, default=5, help="of two steps of each encoder")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(argv)
    if options.batch < 2 or options.rounds < 3 or (options.threads or 1) < 1:
        raise InputError("Give --batch of at least 2, --rounds of 3 and --threads of 1.")
    if options.threads:
        torch.set_num_threads(options.threads)
    found = rows(options.batch, tuple(options.dims), options.rounds)
    print(show(found, f"{machine()}; medians of {2 * options.rounds} steps"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
