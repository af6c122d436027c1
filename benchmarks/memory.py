"""How much memory training takes on a subject as large as one of THINGS-EEG2.

    python -m benchmarks.memory                 one epoch of the paper's settings

Makes a data folder of random numbers in a temporary place: 16,540 training conditions × 63
channels × 250 samples in float16 (521 MB), 200 test conditions with averages over 1, 2, 5, …, 80
repetitions, random embeddings of 768 dimensions. Trains on it with the real command,
``nice_demo.train``, in a process of its own, and reports the most memory that process had resident
at any time (pages of mapped files included) and how long it took. The promise is 3 GB.

`benchmarks.streaming` does the same for a pool of ten subjects.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.encoder import machine
from benchmarks.table import Row, show
from nice_demo import train
from nice_demo.errors import InputError, command
from nice_demo.files import write_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.montage import CHANNELS, Montage

CONCEPTS, PICTURES = 1654, 10  # for training
TEST = 200
AVERAGES = [1, 2, 5, 10, 20, 40, 80]
TIMES, DIM = 250, 768
PROMISE = 3.0  # GB


def most_resident() -> float:
    """Return the most memory that this process had resident, GB, pages of files included."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` would count what the parent had, too
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def write_random_eeg(path: Path, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Write "eeg" of the given shape as float16 to a safetensors file, row after row.

    The library's own writer wants the whole array in memory.
    """
    size = 2 * int(np.prod(shape))
    entry = {"dtype": "F16", "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"eeg": entry}).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(shape[0]):
            file.write(rng.standard_normal(shape[1:], np.float32).astype("<f2").tobytes())


def write_data_folder(folder: Path, conditions: int = CONCEPTS * PICTURES) -> None:
    """Write a data folder of one subject: random EEG and random embeddings.

    Parameters
    ----------
    folder : Path
    conditions : int
        For training.
    """
    rng = np.random.default_rng(0)
    for split, count, per_concept in (("train", conditions, PICTURES), ("test", TEST, 1)):
        embeddings = rng.standard_normal((count, DIM), np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        candidates = [
            Candidate(f"{split}-{i}", f"{split}-{i // per_concept}", f"{split} {i}")
            for i in range(count)
        ]
        image_model = {"name": "random numbers", "revision": None}
        Gallery(candidates, embeddings, image_model).save(folder / f"{split}_gallery")
    Montage.standard(CHANNELS).save(folder / "montage.safetensors")
    subject = folder / "sub-01"
    subject.mkdir()
    shape = (len(CHANNELS), TIMES)
    write_random_eeg(subject / "train.safetensors", (conditions, 1, *shape), rng)
    write_random_eeg(subject / "test.safetensors", (TEST, len(AVERAGES), *shape), rng)
    meta = {
        "subject": 1,
        "channels": CHANNELS,
        "sfreq": 250.0,
        "tmin": 0.0,
        "unit": "whitened",
        "test_repetitions": AVERAGES,
    }
    write_json(subject / "meta.json", meta)
    description = {
        "name": "random",
        "source": "random numbers of the size of THINGS-EEG2",
        "simulated": True,
        "image_model": image_model,
        "preparation": {},
        "licences": [],
    }
    write_json(folder / "dataset.json", description)


def measure(folder: Path, epochs: int, out: Path) -> tuple[float, float]:
    """Train in a child process; return its peak resident memory, GB, and its time, s.

    Raises
    ------
    InputError
        Where training fails.
    """
    training = ["--device", "cpu", "--data", str(folder), "--epochs", str(epochs)]
    code = [sys.executable, "-m", "benchmarks.memory", "--train", *training, "--out", str(out)]
    started = time.perf_counter()
    place = Path(__file__).resolve().parents[1]
    done = subprocess.run(code, cwd=place, check=False, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise InputError(f"Training failed with exit code {done.returncode}; its output says why.")
    return float(done.stdout.split()[-1]), seconds


def rows(epochs: int = 1, conditions: int = CONCEPTS * PICTURES) -> list[Row]:
    """Measure; by default a subject of THINGS-EEG2's size."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        folder.mkdir()
        write_data_folder(folder, conditions)
        size = (folder / "sub-01" / "train.safetensors").stat().st_size / 1e9
        peak, seconds = measure(folder, epochs, Path(place) / "weights")
    what = (
        f"training on {conditions:,} conditions ({size:.2f} GB), {epochs} epoch(s) in "
        f"{seconds:.0f} s with start, ridge and test: most memory resident"
    )
    verdict = "ok" if peak < PROMISE else "over"
    return [Row(what, f"{peak:.2f} GB", f"limit {PROMISE:g} GB", verdict)]


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--conditions", type=int, default=CONCEPTS * PICTURES, help="for training")
    parser.add_argument("--train", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.train:
        code = train.main(options.train)
        print(most_resident())
        return code
    measured = rows(options.epochs, options.conditions)
    print(show(measured, machine()))
    return int(measured[0].ratio == "over")


if __name__ == "__main__":
    sys.exit(main())
