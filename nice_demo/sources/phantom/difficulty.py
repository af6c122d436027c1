"""How decodable each phantom subject is: a setting, not a finding.

    python -m nice_demo.sources.phantom.difficulty data/phantom

prints the factors below: for each subject the one at which ridge regression, trained on some of
the *training* concepts, retrieves held-out *training* pictures among 200 as often as `WANTED`
says. The 200 test pictures play no part. The targets spread as the published subjects do.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from safetensors.numpy import load_file

from nice_demo.eegset import DataSet
from nice_demo.encoders import embed
from nice_demo.encoders.ridge import RidgeFit
from nice_demo.errors import command
from nice_demo.retrieval import ranks, similarity

# Top-1 in %, at 80 repetitions, of ridge regression on held-out training concepts.
WANTED = {1: 13, 2: 16, 3: 15, 4: 22, 5: 9, 6: 18, 7: 19, 8: 30, 9: 14, 10: 24}

# Factor on everything specific to a picture, by subject.
GAINS = dict.fromkeys(range(1, 11), 1.0)

WAYS = 200
FOLDS = 2
STRENGTH = 1.0  # of the ridge penalty


def accuracy(
    train: np.ndarray,
    evoked: np.ndarray,
    pictures: np.ndarray,
    plain: np.ndarray,
    concept: np.ndarray,
) -> float:
    """Return the 200-way top-1 of ridge regression on held-out training concepts.

    Parameters
    ----------
    train : array of shape (n_conditions, n_channels, n_times)
        Training averages.
    evoked : array of shape (n_plain, n_channels, n_times)
        Averages over 80 repetitions of the conditions `plain`.
    pictures : array of shape (n_conditions, dim)
    plain : array of shape (n_plain,), int
        One condition of each of `FOLDS` × `WAYS` concepts.
    concept : array of shape (n_conditions,)
    """
    hits = 0
    for fold in np.array_split(np.arange(len(plain)), FOLDS):
        held = np.isin(concept, concept[plain[fold]])
        fit = RidgeFit(*train.shape[1:], pictures.shape[1])
        for rows in np.array_split(np.flatnonzero(~held), 8):
            fit.add(torch.from_numpy(train[rows]), torch.from_numpy(pictures[rows]))
        (ridge,) = fit.solve([STRENGTH])
        found = embed(ridge, torch.from_numpy(evoked[fold])).numpy()
        similarities = similarity(found, pictures[plain[fold]])
        hits += (ranks(similarities, np.arange(len(fold))) == 1).sum()
    return hits / len(plain)


def calibrate(folder: Path, subject: int) -> float:
    """Return the factor at which a subject reaches its wanted accuracy."""
    # Both need this module's GAINS.
    from nice_demo.sources.phantom.head import make_phantom
    from nice_demo.sources.phantom.prepare import (
        SEED,
        session_whitening,
        training_trials,
        whitened_average,
    )
    from nice_demo.sources.phantom.trials import TEST_REPETITIONS

    gallery = DataSet.open(folder).train_gallery
    _, first, concept = np.unique(
        [c.concept for c in gallery.candidates], return_index=True, return_inverse=True
    )
    plain = np.random.default_rng(SEED).permutation(first)[: FOLDS * WAYS]
    features = load_file(folder / "pictures.safetensors")
    with_signal = make_phantom(subject, features, 1.0, SEED)[0]
    without = replace(with_signal, gain=0.0)
    # Trials are linear in the gain (but for rounding), so that two sets give all others.
    trials = training_trials(with_signal)
    whitening = session_whitening(trials)
    train = whitened_average(trials, whitening)
    train_without = whitened_average(training_trials(without), whitening)

    def evoked(phantom):
        phantom = replace(phantom, whitening=whitening)
        averages = [phantom.evoked("train", c, [TEST_REPETITIONS]).whitened[0] for c in plain]
        return np.stack(averages).astype(np.float32)

    test, test_without = evoked(with_signal), evoked(without)
    low, high = 0.1, 3.0
    for _ in range(8):
        gain = (low * high) ** 0.5
        reached = accuracy(
            train_without + gain * (train - train_without),
            test_without + gain * (test - test_without),
            gallery.embeddings, plain, concept,
        )  # fmt: skip
        print(f"subject {subject}: gain {gain:.3f} gives {reached:.1%}", flush=True)
        low, high = (gain, high) if reached < WANTED[subject] / 100 else (low, gain)
    return round((low * high) ** 0.5, 3)


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.sources.phantom.difficulty``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the phantom's data folder, with its pictures")
    parser.add_argument("--subjects", type=int, nargs="+", default=list(WANTED))
    options = parser.parse_args(argv)
    gains = Parallel(-1)(delayed(calibrate)(options.data, s) for s in options.subjects)
    print(f"GAINS = {dict(zip(options.subjects, gains, strict=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
