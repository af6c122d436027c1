"""The pictures of somebody's own experiment: found by the names that trials give, and embedded."""

import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from nice_demo.eegset import DataSet
from nice_demo.errors import InputError, one_line
from nice_demo.files import complete_file, write_json
from nice_demo.gallery import Gallery
from nice_demo.sources.things_eeg2.images import Pictures, Store

STAND_IN = "stand-in"
STAND_IN_NAME = "EfficientNet-Lite2, centred on the training pictures"
# What a data folder's description says of its preparation.
ORIGIN = "own recordings"
PICTURES, CONCEPTS = "pictures", "trials of few concepts"  # what its conditions are
_SIDE = 256  # pixels of a copy for the page


def find_pictures(place: Path, names: dict[str, str]) -> Pictures:
    """Find pictures in a folder or a zip.

    Parameters
    ----------
    place : Path
    names : dict of str to str
        Name → where it stands, to be named in a message. A name is a path inside the folder, or
        the end of one, with or without its suffix.

    Returns
    -------
    Pictures
        In the order of `names`.

    Raises
    ------
    InputError
        Where there is no such picture, or several.
    """
    store = Store(place)
    # By every end of their paths: "b/c.jpg" is known as that, "c.jpg", "b/c" and "c".
    known: dict[str, set[str]] = {}
    for name in store.sizes:
        parts = PurePosixPath(name).parts
        for start in range(len(parts)):
            end = PurePosixPath(*parts[start:])
            for called in (end, end.with_suffix("")):
                known.setdefault(called.as_posix(), set()).add(name)
    found = []
    for name, where in names.items():
        # The listing is all that is looked at: a name can't lead out of the folder.
        files = known.get(name.removeprefix("./"), set())
        if name in files:
            files = {name}
        if len(files) != 1:
            several = f"{len(files)} times" if files else "not"
            raise InputError(
                f"{where} names the picture {name!r}, which is {several} in {place}; give the "
                "folder that holds it, or its path in there."
            )
        found += files
    return Pictures(store, found)


def copy_pictures(pictures: Pictures, names: Iterable[str], folder: Path) -> dict[str, str]:
    """Copy pictures, made small, for the page to show.

    Parameters
    ----------
    pictures : Pictures
    names : iterable of str
        What trials call them.
    folder : Path
        In the data folder.

    Returns
    -------
    dict of str to str
        Name → path of the copy in the data folder.
    """
    shown = {}
    for row, name in enumerate(names):
        small = pictures[row].convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        # By number: what trials call a picture may be no name for a file.
        with complete_file(folder / f"{row + 1:04d}.webp") as part:
            small.save(part, "webp", quality=85)
        shown[name] = f"{folder.name}/{row + 1:04d}.webp"
    return shown


# ---------------------------------------------------------------- embeddings


def embed_own(
    data: DataSet,
    place: Path,
    image_model: str,
    revision: str | None = None,
    device: str = "auto",
    layer: int | None = None,
    pooling: str = "cls",
    batch: int = 32,
) -> None:
    """Embed the pictures of a data folder of own recordings.

    Parameters
    ----------
    data : DataSet
    place : Path
        Folder or zip of the pictures.
    image_model : str
        A model of the Hub or its folder (`nice_demo.embed.ImageModel`, also for what follows), or
        "stand-in": a network that classifies photographs, in an installed package.
    revision, device, layer, pooling, batch

    Raises
    ------
    InputError
        Where a picture or the model can't be had.
    """
    from nice_demo.embed import ImageModel, embed_resumably

    _check_pictures(data)
    galleries = {"training": data.train_gallery, "test": data.test_gallery}
    pictures = {
        side: find_pictures(place, {c.id: f"The {side} gallery" for c in gallery.candidates})
        for side, gallery in galleries.items()
    }
    if image_model == STAND_IN:
        train, test = _stand_in(pictures["training"], pictures["test"])
        _write(data, train, test, {"name": STAND_IN_NAME, "revision": None})
        return
    model = ImageModel(image_model, revision, device, layer, pooling)
    train, test = (
        embed_resumably(model, some, data.folder, f"{side} pictures", batch)
        for side, some in pictures.items()
    )
    _write(data, train, test, model.description)
    for kept in data.folder.glob(".*.embeddings"):
        kept.unlink()


def take_embeddings(data: DataSet, path: Path) -> None:
    """Give the pictures of a data folder of own recordings embeddings that were made elsewhere.

    Parameters
    ----------
    data : DataSet
    path : Path
        A .npz file of ``names`` (n,), text as trials call the pictures, and ``embeddings``
        (n, dim).

    Raises
    ------
    InputError
        Where the file can't be used or lacks a picture.
    """
    _check_pictures(data)
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file["names"].astype(str).tolist()
            vectors = file["embeddings"].astype(np.float32)
        row = {name: number for number, name in enumerate(names)}
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if len(vectors) != len(names) or len(row) < len(names) or not vectors.size:
            raise ValueError("it needs one row for each name, and each name once")
        if not (np.isfinite(norms).all() and norms.all()):
            raise ValueError("a row is zero, or not finite")
    except FileNotFoundError:
        raise InputError(f"There is no {path}; check its name.") from None
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} isn't a .npz file of names and embeddings ({one_line(error)[:200]})."
        ) from None
    parts = []
    for gallery in (data.train_gallery, data.test_gallery):
        if missing := [c.id for c in gallery.candidates if c.id not in row]:
            raise InputError(
                f"{path} lacks {len(missing)} of the pictures of {data.folder}, the first "
                f"{missing[0]!r}; names are those in the list of trials."
            )
        chosen = [row[c.id] for c in gallery.candidates]
        parts.append(vectors[chosen] / norms[chosen])
    _write(data, *parts, {"name": f"made elsewhere: {path.name}", "revision": None})


def _check_pictures(data: DataSet) -> None:
    if data.description["preparation"].get("conditions") != PICTURES:
        raise InputError(
            f"The candidates of {data.folder} are concepts, each with a vector of its own; there "
            "are no pictures to embed."
        )


def _stand_in(train: Pictures, test: Pictures) -> tuple[np.ndarray, np.ndarray]:
    try:
        from nice_demo.sources.phantom.features import efficientnet, visual
        from nice_demo.sources.phantom.stand_in import on_grey

        network = efficientnet()
    except ImportError as error:
        raise InputError(
            f"The stand-in needs the package {error.name}; "
            "pip install -r requirements-dev.txt brings all that it needs."
        ) from None
    parts = [
        np.concatenate([visual([on_grey(picture)], network) for picture in pictures])
        for pictures in (train, test)
    ]
    # All pictures have most of their features in common: what training pictures share is taken off.
    mean = parts[0].mean(0)
    return tuple(
        (part - mean) / np.linalg.norm(part - mean, axis=1, keepdims=True) for part in parts
    )


def _write(data: DataSet, train: np.ndarray, test: np.ndarray, image_model: dict) -> None:
    galleries = {"train": (data.train_gallery, train), "test": (data.test_gallery, test)}
    for side, (gallery, embeddings) in galleries.items():
        new = Gallery(gallery.candidates, embeddings.astype(np.float32), image_model)
        new.save(data.folder / f"{side}_gallery")
    write_json(data.folder / "dataset.json", data.description | {"image_model": image_model})
