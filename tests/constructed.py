"""Recordings in which the place of the information is known, for it was put there."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from tiny import flat_montage

from nice_demo.analysis.retrain import held_of, of_subject
from nice_demo.analysis.series import TOPS, Recording, SubjectSeries
from nice_demo.eegset import DataSet, EEGSet
from nice_demo.encoders.ridge import Ridge
from nice_demo.files import write_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.retrieval import ranks, similarity
from nice_demo.training import RIDGE_STRENGTHS

DIM, CONCEPTS, PER, TEST = 8, 50, 4, 30
CHANNELS = ["P7", "O1", "O2"]
SFREQ = 250.0


def make_recording(
    folder: Path, signal: Callable[[np.ndarray], np.ndarray], n_times: int = 250, seed: int = 0
) -> Recording:
    """Write a data folder of one subject: noise, and a signal that pictures make.

    Parameters
    ----------
    folder : Path
    signal : callable
        Takes embeddings (n, DIM), returns EEG (n, n_channels, n_times) to be added to noise of
        standard deviation 1, drawn for each sample of its own.
    n_times : int
    seed : int

    Returns
    -------
    Recording
        Of subject "1", with an encoder "ridge" that was fitted to the whole epoch.
    """
    rng = np.random.default_rng(seed)
    counts, eeg, galleries = {"train": CONCEPTS * PER, "test": TEST}, {}, {}
    for split, count in counts.items():
        rows = rng.standard_normal((count, DIM)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        per = PER if split == "train" else 1
        candidates = [
            Candidate(f"{split}{i}", f"{split} {i // per}", f"thing {i}") for i in range(count)
        ]
        galleries[split] = Gallery(candidates, rows, {"name": "random", "revision": None})
        galleries[split].save(folder / f"{split}_gallery")
        noise = rng.standard_normal((count, len(CHANNELS), n_times))
        eeg[split] = (noise + signal(rows))[:, None].astype(np.float32)
    flat_montage(CHANNELS).save(folder / "montage.safetensors")
    description = {"name": "constructed", "source": "random numbers", "simulated": True}
    description |= {"preparation": {}, "image_model": {"name": "random"}, "licences": []}
    write_json(folder / "dataset.json", description)
    meta = {"channels": CHANNELS, "sfreq": SFREQ, "tmin": 0.0, "unit": "whitened"}
    EEGSet.write(folder / "sub-01", eeg["train"], eeg["test"], meta | {"test_repetitions": [80]})
    entry = {"settings": {"encoder": "ridge"}, "seed": 1}
    bundle = SimpleNamespace(
        manifest={"sfreq": SFREQ, "tmin": 0.0, "encoders": {"1": {"ridge": entry}}},
        gallery=galleries["test"],
        montage=flat_montage(CHANNELS),
        repetitions=[80],
    )
    recording = Recording(bundle, "1", eeg["test"][:, 0], {}, DataSet.open(folder))
    decoder, ridge = of_subject(recording, "1").fit(), Ridge(len(CHANNELS), n_times, DIM)
    with torch.no_grad():
        ridge.linear.weight.copy_(torch.from_numpy(decoder.weight.T))
        ridge.linear.bias.copy_(torch.from_numpy(decoder.intercept))
    recording.encoders["ridge"] = ridge.eval()
    return recording


def accuracy(series: SubjectSeries, top: int = 1) -> np.ndarray:
    """Compute the share of hits at every point."""
    return (series.ranks <= top).mean(-1)


def threshold(series: SubjectSeries, top: int = 1) -> float:
    """Compute what the best of all points exceeds in 5 % of shuffles."""
    best = series.null[TOPS.index(top)].max(1) / series.ranks.shape[-1]
    return float(np.quantile(best, 0.95, method="higher"))


def literal_ranks(recording: Recording, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fit on features of the training trials and rank the test pictures, step by step."""
    pictures, held = recording.data.train_gallery.embeddings, held_of(recording)
    best, decoder = -1, None
    for strength in RIDGE_STRENGTHS:
        alpha = strength * train[~held].var(0).mean() * (~held).sum()
        fitted = SklearnRidge(alpha).fit(train[~held], pictures[~held].astype(float))
        among_held = similarity(fitted.predict(train[held]), pictures[held])
        score = (1 / ranks(among_held, np.arange(held.sum()))).mean()
        if score > best + 1e-12:
            best, decoder = score, fitted
    cosines = similarity(decoder.predict(test), recording.bundle.gallery.embeddings)
    return ranks(cosines, np.arange(TEST))
