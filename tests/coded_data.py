"""Data whose EEG is a linear code of the picture in noise, at known electrodes and samples only."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from nice_demo.analysis.series import Recording
from nice_demo.bundle import SAME_SUBJECT
from nice_demo.eegset import DataSet, EEGSet
from nice_demo.files import write_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.montage import CHANNELS, Montage, flat_positions, positions
from nice_demo.settings import Settings
from nice_demo.training import fit_ridge

DIM, TIMES = 6, 20
CONCEPTS, PICTURES, TEST = 60, 3, 40
SETTINGS = Settings(encoder="ridge")
SEED = 1


def montage(names: list[str]) -> Montage:
    """Make a montage without MNE: electrodes where they are, maps of nothing."""
    mask, operator = np.ones((4, 4), bool), np.zeros((16, len(names)), np.float32)
    return Montage(names, positions(names), flat_positions(names), operator, mask)


def make_coded_data(
    folder: Path, codes: dict[int, np.ndarray], channels: list[str] = CHANNELS, noise: float = 1
) -> DataSet:
    """Write a data folder: 60 concepts × 3 training pictures, 40 test pictures.

    Parameters
    ----------
    folder : Path
    codes : dict of int to array of shape (dim, n_channels, 20)
        Of each subject, what its EEG holds of the pictures.
    channels : list of str
    noise : float
        Standard deviation.
    """
    rng = np.random.default_rng(20)
    embeddings = {}
    for split, count, per in (("train", CONCEPTS * PICTURES, PICTURES), ("test", TEST, 1)):
        rows = rng.standard_normal((count, DIM)).astype(np.float32)
        embeddings[split] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        candidates = [
            Candidate(f"{split}-{i}", f"{split} {i // per}", f"thing {i}") for i in range(count)
        ]
        Gallery(candidates, embeddings[split]).save(folder / f"{split}_gallery")
    montage(channels).save(folder / "montage.safetensors")
    needed = {"source": "random numbers", "simulated": True, "image_model": {}, "licences": []}
    preparation = {"preparation": {"sfreq": 250.0}}
    write_json(folder / "dataset.json", {"name": "coded", **needed, **preparation})
    for subject, code in codes.items():
        eeg = {
            split: (np.einsum("nd,dct->nct", rows, code)
                    + noise * rng.standard_normal((len(rows), *code.shape[1:])))[:, None]
            for split, rows in embeddings.items()
        }  # fmt: skip
        EEGSet.write(
            folder / f"sub-{subject:02d}",
            eeg["train"].astype(np.float32),
            eeg["test"].astype(np.float32),
            {
                "subject": subject,
                "channels": channels,
                "sfreq": 250.0,
                "tmin": 0.0,
                "unit": "whitened",
                "test_repetitions": [1],
            },
        )
    return DataSet.open(folder)


def ridge(eeg, data: DataSet):
    """Fit the ridge of `nice_demo.training` on one subject's training trials or several's."""
    concepts = [candidate.concept for candidate in data.train_gallery.candidates]
    return fit_ridge(eeg, data.train_gallery.embeddings, concepts, SETTINGS, SEED).selected


def recording_of(data: DataSet, subject: int, encoder: str = "linear") -> Recording:
    """Return a recording with as much of a bundle as analyses need; its encoders are ridges."""
    encoders = {str(one): ridge(data.training_set(one), data) for one in data.subjects}
    entry = {"settings": asdict(SETTINGS), "seed": SEED}
    bundle = SimpleNamespace(
        name="coded",
        gallery=data.test_gallery,
        montage=data.montage,
        subjects=list(encoders),
        trained_on=SAME_SUBJECT,
        manifest={"encoders": {one: {"ridge": entry} for one in encoders}, "sfreq": 250.0},
        encoders=lambda one: [encoder],
        encoder=lambda one, name: encoders[one],
    )
    eeg = data.subject(subject).evoked(1)
    return Recording(bundle, str(subject), eeg, {encoder: encoders[str(subject)]}, data)
