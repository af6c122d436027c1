"""Single trials of a phantom subject's training pictures, of which its data folder has averages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from nice_demo.sources.phantom.head import make_phantom
from nice_demo.sources.phantom.prepare import TRAIN_REPETITIONS
from nice_demo.sources.phantom.trials import BASELINE, RESOLUTION, session


def single_trials(folder: Path, conditions: np.ndarray) -> np.ndarray:
    """Generate again the trials that were averaged into the rows of ``train.safetensors``.

    Parameters
    ----------
    folder : Path
        The subject's, in the data folder with the pictures' features.
    conditions : array of shape (n_conditions,), int
        Which training pictures.

    Returns
    -------
    array of shape (n_conditions, 4, n_channels, 250), float16
        Whitened. How large the responses are and the whitening come from the subject's
        ``phantom.safetensors``; no test trial is made.
    """
    names = ("subject", "gain", "seed", "whitening")
    with safe_open(folder / "phantom.safetensors", "numpy") as file:
        subject, gain, seed, whitening = (file.get_tensor(name) for name in names)
    features = load_file(folder.parent / "pictures.safetensors")
    phantom, _ = make_phantom(subject.item(), features, gain.item(), seed.item())
    phantom = replace(phantom, whitening=whitening)
    of_session = whitening[[session(r) for r in range(TRAIN_REPETITIONS)]] * RESOLUTION
    found = []
    for condition in conditions.tolist():
        steps = phantom.trials("train", condition, range(TRAIN_REPETITIONS)).astype(float)
        steps -= steps[..., :BASELINE].mean(-1, keepdims=True)
        found.append((of_session @ steps[..., BASELINE:]).astype(np.float16))
    return np.stack(found)
