"""A data folder small enough to train on in seconds: phantom subjects who see random features."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
from safetensors.numpy import save_file

from nice_demo.eegset import EEGSet
from nice_demo.files import write_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.montage import CHANNELS, Montage
from nice_demo.sources.phantom.prepare import GAINS, _description, _prepare_subject

DIM = 32
CONCEPTS, PICTURES, TEST = 60, 4, 12


def make_tiny_data(folder: Path, subjects: tuple[int, ...] = (1, 2), seed: int = 5) -> Path:
    """Write a data folder: 60 concepts × 4 training pictures, 12 test pictures.

    All of a picture's features follow from 16 hidden numbers, so that little data is enough.
    """
    rng = np.random.default_rng(seed)
    hidden = {
        "train": np.repeat(rng.standard_normal((CONCEPTS, 16)), PICTURES, 0),
        "test": rng.standard_normal((TEST, 16)),
    }
    hidden["train"] += 0.3 * rng.standard_normal(hidden["train"].shape)
    mixing = {
        kind: rng.standard_normal((16, size)) / 4
        for kind, size in (("low", 64), ("visual", 128), ("semantic", 128), ("embedding", DIM))
    }
    arrays = {
        f"{split}_{kind}": (hidden[split] @ mixing[kind]).astype(np.float32)
        for split in hidden
        for kind in ("low", "visual", "semantic")
    }
    save_file(arrays, folder / "pictures.safetensors")
    for split in hidden:
        embeddings = (hidden[split] @ mixing["embedding"]).astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        per = PICTURES if split == "train" else 1
        candidates = [
            Candidate(f"{split}-{i}", f"{split}{i // per}", f"thing {i}", "things")
            for i in range(len(embeddings))
        ]
        gallery = Gallery(candidates, embeddings, {"name": "random features", "revision": None})
        gallery.save(folder / f"{split}_gallery")
    Montage.standard(CHANNELS).save(folder / "montage.safetensors")
    write_json(folder / "dataset.json", _description(gallery) | {"name": "tiny"})
    # Thrice the response: so little training data must do whatever the real subjects' gains are.
    with patch.dict(GAINS, dict.fromkeys(subjects, 3.0)):
        for subject in subjects:
            _prepare_subject(folder, subject)
    return folder


STORED_CHANNELS = ["P7", "O1", "O2", "P8"]


def flat_montage(names: list[str]) -> Montage:
    """Make a montage without MNE: all electrodes in one place, maps of nothing."""
    n = len(names)
    mask = np.ones((4, 4), bool)
    return Montage(names, np.zeros((n, 3)), np.zeros((n, 2)), np.zeros((16, n), np.float32), mask)


def make_stored_data(
    folder: Path,
    subjects: tuple[int, ...] = (1, 2),
    *,
    train_repetitions: int = 3,
    averages: list[int] | None = None,
    seed: int = 6,
) -> Path:
    """Write a data folder as of a real recording: 4 channels, 80 samples, 6 test pictures.

    12 concepts × 5 training pictures. The EEG is a linear image of the embedding in noise. Trains
    in a second.
    """
    rng = np.random.default_rng(seed)
    dim, per, counts = 6, 5, {"train": 60, "test": 6}
    embeddings = {s: rng.standard_normal((n, dim)).astype(np.float32) for s, n in counts.items()}
    for split, rows in embeddings.items():
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        candidates = [
            Candidate(f"{split}-{i}", f"{split}{i // per if split == 'train' else i}", f"thing {i}")
            for i in range(counts[split])
        ]
        model = {"name": "random features", "revision": "r1"}
        Gallery(candidates, rows, model).save(folder / f"{split}_gallery")
    flat_montage(STORED_CHANNELS).save(folder / "montage.safetensors")
    write_json(
        folder / "dataset.json",
        {
            "name": "stored",
            "source": "random numbers",
            "simulated": True,
            "preparation": {"sfreq": 100.0},
            "image_model": model,
            "licences": ["none"],
        },
    )
    for subject in subjects:
        mixing = np.random.default_rng([seed, subject]).standard_normal((dim, 4 * 80))
        eeg = {}
        for split, repetitions in (("train", train_repetitions), ("test", len(averages or "1234"))):
            signal = (embeddings[split] @ mixing).reshape(-1, 1, 4, 80)
            noise = rng.standard_normal((counts[split], repetitions, 4, 80))
            eeg[split] = (signal + noise).astype(np.float32)
        EEGSet.write(
            folder / f"sub-{subject:02d}",
            eeg["train"],
            eeg["test"],
            {
                "subject": subject,
                "channels": STORED_CHANNELS,
                "sfreq": 100.0,
                "tmin": 0.0,
                "unit": "whitened",
                "test_repetitions": averages,
            },
        )
    return folder
