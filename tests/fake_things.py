"""Small fakes of every published file of THINGS-EEG2, byte for byte in their formats.

What a person sees drives a phantom's brain; its EEG runs on at 1000 Hz, picture after picture,
with everything that real recordings have: pauses, catch trials, channels in the amplifier's order.
The drives are a linear function of given embeddings, so that a decoder trained on the files after
preparation can tell the pictures.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from nice_demo.montage import CHANNELS
from nice_demo.sources.phantom.head import make_phantom
from nice_demo.sources.phantom.trials import Phantom

SFREQ = 1000  # Hz
TARGET = 99999  # the picture that the person had to press a button for
SESSIONS = 4
BLOCK = 20  # pictures in a row before a pause
# The amplifier's order: not the paper's.
AMPLIFIER = sorted(CHANNELS, key=lambda name: (name[::-1], name))
# The two sessions that a training condition is shown in.
PAIRS = [(0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2)]

Recordings = dict[tuple[int, str], dict]  # (session 1…4, "training" or "test") → the file's dict


# ---------------------------------------------------------------- the recordings


def recordings(
    train: np.ndarray,
    test: np.ndarray,
    *,
    subject: int = 1,
    repetitions: tuple[int, int] = (2, 20),
    gain: float = 3.0,
    seed: int = 0,
) -> Recordings:
    """Record a phantom subject who sees pictures with the given embeddings.

    Parameters
    ----------
    train, test : arrays of shape (n_pictures, dim)
        Embeddings; row i is condition i + 1. An even number of training pictures.
    subject : int
    repetitions : tuple of int
        Of a training and of a test condition, in each session that it is shown in.
    gain : float
        How decodable the subject is.
    seed : int
    """
    rng = np.random.default_rng([seed, subject])
    features = {
        f"{split}_{kind}": rows
        @ np.random.default_rng([seed, size]).standard_normal((rows.shape[1], size))
        for kind, size in (("low", 64), ("visual", 33), ("semantic", 32))
        for split, rows in (("train", train), ("test", test))
    }
    phantom, extra = make_phantom(subject, features, gain, seed)
    recorded = {}
    for session in range(SESSIONS):
        shown = {
            "training": [c for c in range(len(train)) if session in PAIRS[c % len(PAIRS)]],
            "test": range(len(test)),
        }
        drives = {"training": phantom.drives, "test": extra["test_drives"]}
        for part, count in zip(shown, repetitions, strict=True):
            order = rng.permutation(np.repeat(shown[part], count))
            recorded[session + 1, part] = _record(phantom, drives[part], order, session, rng)
    return recorded


def _record(
    phantom: Phantom, drives: np.ndarray, order: np.ndarray, session: int, rng: np.random.Generator
) -> dict:
    """Record the pictures of the given rows of `drives`, one every 200 ms, as the file's dict."""
    events = order + 1
    targets = rng.choice(len(events) + 1, size=1 + len(events) // 20)
    events = np.insert(events, targets, TARGET)
    position = np.arange(len(events))
    onsets = 700 + 200 * position + 750 * (position // BLOCK)  # ms
    n_times = onsets[-1] + 1500

    strength = phantom.gain * (1 - phantom.common) + phantom.common
    responses = phantom.timecourses[:, 1100:2200][phantom.kernel]  # from the picture on
    activity = np.zeros((len(phantom.kernel), n_times))
    for event, onset in zip(events, onsets, strict=True):
        drive = phantom.common if event == TARGET else drives[event - 1]
        drive = np.tanh(drive * np.exp(0.25 * rng.standard_normal()) / 2) * 2 * strength
        start = onset + round(1000 * phantom.jitter * np.clip(rng.standard_normal(), -3, 3))
        activity[:, start : start + 1100] += drive[:, None] * responses
    eeg = phantom.patterns @ activity
    background, alpha = phantom.session_scale[:, session]
    eeg += (
        background
        * phantom.noise
        @ _noise(rng, phantom.noise.shape[1], n_times, lambda f: 1 / np.maximum(f, 0.5))
    )
    eeg += (
        alpha
        * phantom.alpha
        @ _noise(
            rng, phantom.alpha.shape[1], n_times, lambda f: np.exp(-0.5 * ((f - 10) / 0.8) ** 2)
        )
    )
    eeg += phantom.sensor_noise * rng.standard_normal(eeg.shape)
    eeg += 1e-5 * rng.standard_normal((len(eeg), 1))  # an offset for the baseline to take away

    stim = np.zeros(n_times)
    stim[onsets] = events
    rows = [CHANNELS.index(name) for name in AMPLIFIER]
    return {
        "raw_eeg_data": np.concatenate([eeg[rows], stim[None]]),  # V
        "ch_names": [*AMPLIFIER, "stim"],
        "ch_types": ["eeg"] * len(AMPLIFIER) + ["stim"],
        "sfreq": SFREQ,
        "highpass": 0.01,
        "lowpass": 100.0,
    }


def _noise(
    rng: np.random.Generator, count: int, n_times: int, power: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return noises of unit variance, (count, n_times), with a power spectrum over Hz."""
    amplitude = np.sqrt(power(np.fft.rfftfreq(n_times, 1 / SFREQ)))
    amplitude[0] = 0
    noise = np.fft.irfft(amplitude * np.fft.rfft(rng.standard_normal((count, n_times))), n_times)
    return noise / noise.std(1, keepdims=True)


def write_sessions(folder: Path, recorded: Recordings) -> Path:
    """Write ``ses-01/raw_eeg_training.npy``, … into a folder ``sub-XX``; return the folder."""
    for (session, part), content in recorded.items():
        place = folder / f"ses-{session:02d}"
        place.mkdir(parents=True, exist_ok=True)
        save_object(place / f"raw_eeg_{part}.npy", content)
    return folder


def zip_folder(folder: Path, path: Path) -> Path:
    """Zip a folder, with its own name on top."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def raw_subject_zip(
    folder: Path, subject: int, train: np.ndarray, test: np.ndarray, **options: object
) -> Path:
    """Write ``sub-XX.zip`` as on OSF; options as for `recordings`."""
    name = f"sub-{subject:02d}"
    parts = recordings(train, test, subject=subject, **options)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for (session, part), content in parts.items():
            archive.writestr(f"{name}/ses-{session:02d}/raw_eeg_{part}.npy", object_bytes(content))
    return folder / f"{name}.zip"


# ---------------------------------------------------------------- files that others preprocessed


def nice_files(
    folder: Path, train: np.ndarray, test: np.ndarray, channels: list[str] = CHANNELS
) -> tuple[Path, Path]:
    """Write preprocessed EEG as NICE does: bare pickles; `times` has 300 values, as there.

    `train` and `test` have shape (n_conditions, n_repetitions, n_channels, n_times).
    """
    paths = folder / "preprocessed_eeg_training.npy", folder / "preprocessed_eeg_test.npy"
    for path, eeg in zip(paths, (train, test), strict=True):
        content = {
            "preprocessed_eeg_data": eeg.astype(np.float64),
            "ch_names": list(channels),
            "times": np.arange(300) / 250 - 0.2,
        }
        path.write_bytes(_pickled(content, 4))
    return paths


def hf_files(
    folder: Path, train: np.ndarray, test: np.ndarray, channels: list[str] = CHANNELS
) -> tuple[Path, Path]:
    """Write preprocessed EEG as ``train.pt`` and ``test.pt`` by torch."""
    paths = folder / "train.pt", folder / "test.pt"
    for path, eeg in zip(paths, (train, test), strict=True):
        conditions, repetitions = eeg.shape[:2]
        label = np.repeat(np.arange(conditions)[:, None], repetitions, 1)
        content = {
            "eeg": np.array(eeg, np.float16),
            "label": label,
            "img": np.array([[f"images/{i:05d}.jpg" for i in row] for row in label]),
            "text": np.array([[f"This picture is thing {i}" for i in row] for row in label]),
            "session": np.arange(repetitions)[None].repeat(conditions, 0) * SESSIONS // repetitions,
            "ch_names": list(channels),
            "times": np.arange(eeg.shape[3]) / 250,
        }
        torch.save(content, path, pickle_protocol=5)
    return paths


def osf17_zip(
    folder: Path,
    subject: int,
    train: np.ndarray,
    test: np.ndarray,
    channels: list[str] = CHANNELS[-17:],
) -> Path:
    """Write ``sub-XX.zip`` with the data set's own preprocessed EEG: 17 channels, 100 Hz."""
    name = f"sub-{subject:02d}"
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for part, eeg in (("training", train), ("test", test)):
            content = {
                "preprocessed_eeg_data": eeg.astype(np.float64),
                "ch_names": list(channels),
                "times": np.arange(eeg.shape[3]) / 100 - 0.2,
            }
            archive.writestr(f"{name}/preprocessed_eeg_{part}.npy", object_bytes(content))
    return folder / f"{name}.zip"


class _OldPickler(pickle._Pickler):
    """Write what NumPy 1 wrote, as the published files were: its modules had other names."""

    def save_global(self, obj: object, name: str | None = None) -> None:
        name = name or obj.__qualname__
        module = pickle.whichmodule(obj, name).replace("numpy._core", "numpy.core")
        if self.proto >= 4:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(obj)


def _pickled(content: object, protocol: int) -> bytes:
    file = io.BytesIO()
    _OldPickler(file, protocol).dump(content)
    return file.getvalue()


def object_bytes(content: object) -> bytes:
    """Return what ``np.save`` of NumPy 1 writes for an object that isn't an array."""
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(file, header)
    array = np.empty((), object)
    array[()] = content
    return file.getvalue() + _pickled(array, 3)


def save_object(path: Path, content: object) -> None:
    """Write an object as ``np.save`` does."""
    path.write_bytes(object_bytes(content))


# ---------------------------------------------------------------- pictures


def image_zips(
    folder: Path,
    concepts: int = 10,
    per_concept: int = 4,
    test: int = 10,
    cc0: int | None = None,
    others: int = 3,
    seed: int = 0,
) -> dict[str, Path]:
    """Draw pictures and write them as the data set and THINGS publish them.

    Writes ``training_images.zip`` (`concepts` × `per_concept`), ``test_images.zip`` (one of each
    of `test` other concepts), ``image_metadata.npy``, ``images_THINGSplus-CC0.zip`` (of the first
    `cc0` test concepts; all if None) and ``images_THINGS.zip`` (of each test concept the picture
    that was shown and `others` more).

    Returns
    -------
    dict of str to Path
        File name → path.
    """
    train_names = [f"{i + 1:05d}_{_word(i)}" for i in range(concepts)]
    test_names = [f"{i + 1:05d}_{_word(1000 + i)}" for i in range(test)]
    shown = {"train": [], "test": []}  # (folder, file)
    with zipfile.ZipFile(folder / "training_images.zip", "w") as archive:
        for number, name in enumerate(train_names):
            for variant in range(per_concept):
                file = f"{name[6:]}_{variant + 1:02d}b.jpg"
                shown["train"].append((name, file))
                archive.writestr(f"training_images/{name}/{file}", _picture(seed, number, variant))
    with (
        zipfile.ZipFile(folder / "test_images.zip", "w") as archive,
        zipfile.ZipFile(folder / "images_THINGSplus-CC0.zip", "w") as free,
        zipfile.ZipFile(folder / "images_THINGS.zip", "w") as every,
    ):
        for number, name in enumerate(test_names):
            word, file = name[6:], f"{name[6:]}_06s.jpg"
            shown["test"].append((name, file))
            picture = _picture(seed, 1000 + number, 0)
            archive.writestr(f"test_images/{name}/{file}", picture)
            every.writestr(f"object_images/{word}/{file}", picture)
            for other in range(others):
                every.writestr(
                    f"object_images/{word}/{word}_{other + 1:02d}b.jpg",
                    _picture(seed, 1000 + number, 1 + other),
                )
            if cc0 is None or number < cc0:
                free.writestr(f"object_images_CC0/{word}.jpg", _picture(seed, 1000 + number, 1000))
    metadata = {}
    for split, pairs in shown.items():
        metadata[f"{split}_img_concepts"] = [name for name, _ in pairs]
        metadata[f"{split}_img_files"] = [file for _, file in pairs]
        metadata[f"{split}_img_concepts_THINGS"] = [name for name, _ in pairs]
    save_object(folder / "image_metadata.npy", metadata)
    names = [
        "training_images.zip", "test_images.zip", "image_metadata.npy",
        "images_THINGSplus-CC0.zip", "images_THINGS.zip",
    ]  # fmt: skip
    return {name: folder / name for name in names}


def _word(number: int) -> str:
    """Return a made-up name of a concept: two parts, as aircraft_carrier has, or one."""
    syllables = "ba de fi go lu ma ne pi ro su".split()
    word = "".join(syllables[int(digit)] for digit in f"{number:03d}")
    return f"{word[:2]}_{word[2:]}" if number % 3 == 0 else word


def _picture(seed: int, concept: int, variant: int, side: int = 64) -> bytes:
    """Draw a JPEG: what it shows and its colours are the concept's, where it stands its own."""
    own, rng = (
        np.random.default_rng([seed, concept, variant]),
        np.random.default_rng([seed, concept]),
    )
    ground, *colours = (tuple(map(int, colour)) for colour in rng.integers(0, 256, (4, 3)))
    picture = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(picture)
    for colour in colours:
        x, y = rng.uniform(0.1, 0.9, 2) * side + own.normal(0, 3, 2)
        width, height = rng.uniform(0.1, 0.4, 2) * side
        box = x - width, y - height, x + width, y + height
        rng.choice([draw.ellipse, draw.rectangle])(box, fill=colour)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
