"""How an encoder is trained, and which training pictures it never sees."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Settings:
    """How an encoder is trained; the defaults are the paper's but for `validation`.

    Attributes
    ----------
    encoder : str
    epochs, batch : int
    lr : float
    betas : tuple of float
        Of Adam.
    muon : bool
        Convolutions are trained by Muon, see `nice_demo.optimizer`.
    weight_decay : float
        Times the learning rate: by how much a step shrinks matrices and convolutions.
    schedule : str
        "constant", or "one-cycle": up to `lr` in a third of the steps, then down to nothing.
    validation : str
        "concepts": whole concepts are held out; "conditions": single pictures, as in the paper.
    validation_conditions : int
        How many pictures are held out (for "concepts", at least).
    learnable_scale : bool
    dropout : float
    single_trials : bool
        Train on single trials instead of their average.
    """

    encoder: str = "nice"
    epochs: int = 200
    batch: int = 1000
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    muon: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    validation: str = "concepts"
    validation_conditions: int = 740
    learnable_scale: bool = False
    dropout: float = 0.5
    single_trials: bool = False


PAPER = Settings()
PHANTOM = Settings(epochs=5, batch=64, lr=4e-3, muon=True, weight_decay=6.0, schedule="one-cycle")
# Where they differ: the encoders with attention need an epoch less.
PHANTOM_EPOCHS = {"nice-sa": 4, "nice-ga": 4}


def held_out(concepts: list[str], settings: Settings, seed: int) -> np.ndarray:
    """Choose the training conditions that validate.

    Parameters
    ----------
    concepts : list of str
        Concept of each training condition.
    settings : Settings
    seed : int

    Returns
    -------
    array of shape (n_conditions,), bool
    """
    rng = np.random.default_rng([seed, 740])
    wanted = min(settings.validation_conditions, len(concepts) // 5)
    if settings.validation == "conditions":
        chosen = np.zeros(len(concepts), bool)
        chosen[rng.permutation(len(concepts))[:wanted]] = True
        return chosen
    names, index, counts = np.unique(concepts, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    enough = np.searchsorted(np.cumsum(counts[order]), wanted) + 1
    return np.isin(index, order[:enough])
