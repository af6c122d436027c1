"""Phantom subjects as a data folder: the same preparation as real EEG goes through."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from nice_demo.eegset import META, DataSet, EEGSet
from nice_demo.embed import PINNED
from nice_demo.errors import InputError
from nice_demo.files import complete_file, write_json
from nice_demo.gallery import Gallery
from nice_demo.montage import CHANNELS, Montage
from nice_demo.preparation import shrunk_covariance, whitening_matrix
from nice_demo.sources.phantom.features import STAND_IN, STAND_IN_NAME, make_pictures
from nice_demo.sources.phantom.head import AREAS, GAINS, make_phantom
from nice_demo.sources.phantom.trials import (
    BASELINE,
    N_TIMES,
    RESOLUTION,
    SESSIONS,
    SFREQ,
    TEST_REPETITIONS,
    Phantom,
)

SEED = 2024
AVERAGES = [1, 2, 5, 10, 20, 40, TEST_REPETITIONS]
TRAIN_REPETITIONS = 4  # one a session, as many as THINGS-EEG2 has in all


def prepare_phantom(
    folder: Path,
    subjects: list[int],
    image_model: str = "stand-in",
    revision: str | None = None,
    jobs: int = -1,
) -> None:
    """Write a data folder of phantom subjects; subjects that are there already are kept.

    Parameters
    ----------
    folder : Path
    subjects : list of int
    image_model : str
        What makes the pictures' embeddings: "stand-in", or a CLIP-like model of the Hub.
    revision : str or None
        Of the model on the Hub; where None that of `nice_demo.embed.PINNED`, if any.
    jobs : int
        Subjects prepared at once; −1: one for each core. Each takes about 1.5 GB of memory.
    """
    unknown = [subject for subject in subjects if subject not in GAINS]
    if unknown:
        raise InputError(
            f"There is no phantom subject {unknown[0]}; choose from 1 to {max(GAINS)}."
        )
    revision = revision or PINNED.get(image_model)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dataset.json").exists():
        make_pictures(folder, image_model, revision)
        Montage.standard(CHANNELS).save(folder / "montage.safetensors")
        write_json(folder / "dataset.json", _description(Gallery.open(folder / "test_gallery")))
    made_with = DataSet.open(folder).description["image_model"]
    asked = {
        "name": STAND_IN_NAME if image_model == STAND_IN else image_model,
        "revision": revision,
    }
    if any(made_with.get(key) != value for key, value in asked.items()):
        raise InputError(
            f"The pictures in {folder} were embedded with {made_with.get('name')}, revision "
            f"{made_with.get('revision')}; give another --to for another image model."
        )
    wanted = [s for s in subjects if not (folder / f"sub-{s:02d}" / META).exists()]
    if len(wanted) < len(subjects):
        print(f"{len(subjects) - len(wanted)} of {len(subjects)} subjects are there already")
    work = Parallel(n_jobs=min(jobs, len(wanted) or 1), return_as="generator_unordered")
    tasks = work(delayed(_prepare_subject)(folder, subject) for subject in wanted)
    for _ in tqdm(tasks, "phantom subjects", len(wanted), disable=not wanted):
        continue


def _prepare_subject(folder: Path, subject: int) -> None:
    features = load_file(folder / "pictures.safetensors")
    phantom, extra = make_phantom(subject, features, GAINS[subject], SEED)
    whitening, train = training_averages(phantom)
    test = replace(phantom, drives=extra["test_drives"], whitening=whitening)
    evoked = [
        test.evoked("test", condition, AVERAGES).whitened.astype(np.float32)
        for condition in range(len(test.drives))
    ]
    place = folder / f"sub-{subject:02d}"
    place.mkdir(exist_ok=True)
    test.save(place / "phantom.safetensors")
    with complete_file(place / "truth.safetensors") as part:
        save_file(_truth(test, extra), part)
    EEGSet.write(
        place,
        train[:, None].astype(np.float16),
        np.stack(evoked),
        {
            "subject": subject,
            "channels": CHANNELS,
            "sfreq": SFREQ,
            "tmin": 0.0,
            "unit": "whitened",
            "train_repetitions_averaged": TRAIN_REPETITIONS,
            "test_repetitions": AVERAGES,
        },
    )


def training_averages(phantom: Phantom) -> tuple[np.ndarray, np.ndarray]:
    """Generate, whiten and average the training trials of a phantom.

    Parameters
    ----------
    phantom : Phantom
        Its whitening is not used.

    Returns
    -------
    whitening : array of shape (4, n_channels, n_channels)
        Σ^(−1/2) of each session's training trials.
    averages : array of shape (n_conditions, n_channels, 250), float32
    """
    trials = training_trials(phantom)
    whitening = session_whitening(trials)
    return whitening, whitened_average(trials, whitening)


def training_trials(phantom: Phantom) -> np.ndarray:
    """Return all training trials, (n_conditions, 4, n_channels, 300), int16 amplifier steps.

    The second axis is both repetition and session.
    """
    shape = len(phantom.drives), TRAIN_REPETITIONS, len(phantom.patterns), N_TIMES
    trials = np.empty(shape, np.int16)
    for condition, room in enumerate(trials):
        room[:] = phantom.trials("train", condition, range(TRAIN_REPETITIONS))
    return trials


def session_whitening(trials: np.ndarray) -> np.ndarray:
    """Return Σ^(−1/2) of each session, (4, n_channels, n_channels), from `training_trials`."""
    covariance = sum(
        len(part)
        * np.stack([shrunk_covariance(_volts(part[:, s])[..., BASELINE:]) for s in range(SESSIONS)])
        for part in _parts(trials)
    )
    return np.stack([whitening_matrix(session / len(trials)) for session in covariance])


def whitened_average(trials: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Whiten each session, average over sessions and keep what follows the picture's onset.

    Parameters
    ----------
    trials : array of shape (n_conditions, 4, n_channels, 300)
    whitening : array of shape (4, n_channels, n_channels)

    Returns
    -------
    array of shape (n_conditions, n_channels, 250), float32
    """
    return np.concatenate([
        (whitening @ _volts(part)).mean(1)[..., BASELINE:].astype(np.float32)
        for part in _parts(trials)
    ])  # fmt: skip


def _parts(trials: np.ndarray) -> list[np.ndarray]:
    """Split trials into parts of a few hundred conditions, to bound memory."""
    return np.array_split(trials, len(trials) // 250 + 1)


def _volts(steps: np.ndarray) -> np.ndarray:
    """Amplifier steps (…, n_times) → V, baseline subtracted."""
    return (steps - steps[..., :BASELINE].mean(-1, keepdims=True)) * RESOLUTION


def _truth(phantom: Phantom, extra: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what an explanation should find: where and when the signal depends on the picture."""
    expected = np.stack([phantom.expected(c) for c in range(len(phantom.drives))])
    strength = np.array([
        np.abs(phantom.patterns[:, extra["area"] == a]).mean(1) for a in range(len(AREAS))
    ])  # fmt: skip
    return {
        "specific": expected.std(0).astype(np.float32),  # (channels, 300), V
        "area_patterns": strength.astype(np.float32),  # (areas, channels), V
        "positions": extra["positions"],  # (sources, 3), m
        "area": extra["area"],  # (sources,)
        "kernel": phantom.kernel,
        "timecourses": phantom.timecourses.astype(np.float32),
    }


def _description(gallery: Gallery) -> dict:
    return {
        "name": "phantom",
        "source": "phantom subjects: EEG simulated with a spherical head model",
        "simulated": True,
        "image_model": gallery.image_model,
        "preparation": {
            "sfreq": SFREQ,
            "epoch": [-0.2, 0.996],
            "baseline": [-0.2, 0.0],
            "kept": [0.0, 0.996],
            "reference": "Fz",
            "whitening": "each session, Ledoit-Wolf of each epoch, training trials only",
            "train_repetitions_averaged": TRAIN_REPETITIONS,
            "sessions": SESSIONS,
            "seed": SEED,
        },
        "licences": [
            "Pictures: Twemoji graphics, CC-BY 4.0, Copyright Twitter, Inc and other contributors",
            "Simulated EEG and weights: MIT, nice_demo contributors",
        ],
    }
