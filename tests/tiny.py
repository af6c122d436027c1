"""A data folder small enough to train on in seconds: phantom subjects who see random features."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from nice_demo.files import write_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.montage import CHANNELS, Montage
from nice_demo.sources.phantom.prepare import _description, _prepare_subject

DIM = 32
CONCEPTS, PICTURES, TEST = 75, 4, 20


def make_tiny_data(folder: Path, subjects: tuple[int, ...] = (1, 2), seed: int = 5) -> Path:
    """Write a data folder: 75 concepts × 4 training pictures, 20 test pictures.

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
    for subject in subjects:
        _prepare_subject(folder, subject)
    return folder
