"""How much faster the batched shrinkage covariance is than a loop over scikit-learn.

    python -m benchmarks.covariance    1,000 epochs, 63 channels × 250 samples

Both average the Ledoit–Wolf covariances of the same epochs, standardised first, in the same run:
`nice_demo.preparation.shrunk_covariance` all at once, the loop as the published preprocessing has
it, one epoch after the other. First one, then the other first; medians. One thread, as products
this small gain nothing from more, and on busy cores the threads' waiting for each other would be
all that is measured. A session of THINGS-EEG2 has 16,540 training epochs. The promise is a factor
of 10.
"""

import argparse
import sys
import time

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.table import Row
from nice_demo.errors import command
from nice_demo.preparation import shrunk_covariance

CHANNELS, TIMES = 63, 250
PROMISE = 10


def loop(epochs: np.ndarray) -> np.ndarray:
    """Average the epochs' covariances over channels, one epoch at a time."""
    total = 0
    for epoch in epochs:
        scaler = StandardScaler()
        shrunk, _ = ledoit_wolf(scaler.fit_transform(epoch.T))
        total = total + scaler.scale_[:, None] * shrunk * scaler.scale_
    return total / len(epochs)


def measure(n_epochs: int, rounds: int) -> dict:
    """Return both ways' median seconds, and by how much of the largest entry they differ."""
    rng = np.random.default_rng(0)
    mixing = 1e-6 * rng.standard_normal((CHANNELS, CHANNELS))
    epochs = mixing @ rng.standard_normal((n_epochs, CHANNELS, TIMES))
    ways = [loop, shrunk_covariance]
    seconds = {way: [] for way in ways}
    with threadpool_limits(1):
        results = [way(epochs) for way in ways]  # also the warm-up
        for turn in range(rounds):
            for way in ways if turn % 2 == 0 else ways[::-1]:
                started = time.perf_counter()
                way(epochs)
                seconds[way].append(time.perf_counter() - started)
    return {
        "loop": float(np.median(seconds[loop])),
        "batched": float(np.median(seconds[shrunk_covariance])),
        "difference": abs(results[0] - results[1]).max() / abs(results[0]).max(),
    }


def rows() -> list[Row]:
    """Measure for the table of all benchmarks."""
    found = measure(1000, 6)
    slow, fast = found["loop"], found["batched"]
    what = "shrinkage covariances of 1,000 epochs, one thread (scikit-learn in a loop)"
    return [Row(what, f"{fast:.3f} s", f"{slow:.2f} s", f"{slow / fast:.1f}")]


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.covariance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=6, help="the median counts")
    options = parser.parse_args(argv)
    found = measure(options.epochs, options.rounds)
    ratio = found["loop"] / found["batched"]
    print(
        f"{options.epochs:,} epochs of {CHANNELS} channels × {TIMES} samples: scikit-learn in a "
        f"loop {found['loop']:.2f} s, batched {found['batched']:.3f} s, {ratio:.1f} times faster; "
        f"they differ by {found['difference']:.0e} of the largest entry"
    )
    if ratio < PROMISE:
        print(f"less than the promised factor of {PROMISE}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
