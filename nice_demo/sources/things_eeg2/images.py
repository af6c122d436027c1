"""THINGS-EEG2's pictures: what was shown, straight out of the zips, and galleries of it.

The data set's ``image_metadata.npy`` lists the pictures in the order of their conditions. In flow
it, ``training_images.zip`` and ``test_images.zip`` (or the folders they unpack to); out flow PIL
images, one at a time, and galleries. The pictures may not be shown in public, so that candidates
show a CC0 picture of the same concept where THINGSplus has one.

A. T. Gifford et al. "A large and rich EEG dataset for modeling human visual object recognition."
NeuroImage 2022. M. N. Hebart et al. "THINGS-data." eLife 2023 (THINGS and its pictures).
L. M. Stoinski et al. "THINGSplus." Behavior Research Methods 2024 (the CC0 pictures).
"""

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from nice_demo.errors import InputError, one_line
from nice_demo.files import complete_file, sha256
from nice_demo.gallery import Candidate, Gallery
from nice_demo.retrieval import ranks, similarity
from nice_demo.sources.latents import read_array, readable_names
from nice_demo.sources.things_eeg2 import pickles

METADATA = "image_metadata.npy"
CONDITIONS = (16540, 200)  # training, test
CC0_SIDE = 256  # pixels
CC0_LICENCE = "CC0, a picture of the same concept, not the one that was shown"

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


# ---------------------------------------------------------------- pictures in a zip or a folder


class Store:
    """A zip, or the folder it unpacks to: pictures found by name and opened one at a time.

    Parameters
    ----------
    place : Path
        The zip or the folder.

    Attributes
    ----------
    sizes : dict of str to int
        Bytes of each picture in the store, by its path.

    Raises
    ------
    InputError
        Where it is missing or isn't one.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._zip = None
        if place.is_dir():
            files = {f.relative_to(place).as_posix(): f for f in sorted(place.rglob("*"))}
            sizes = {name: f.stat().st_size for name, f in files.items() if f.is_file()}
        else:
            try:
                self._zip = zipfile.ZipFile(place)
            except FileNotFoundError:
                raise InputError(f"{place} is missing; check its name or download it.") from None
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError(
                    f"{place} isn't a whole zip ({one_line(error)}); download it again."
                ) from None
            sizes = {entry.filename: entry.file_size for entry in self._zip.infolist()}
        self.sizes = {
            name: size
            for name, size in sizes.items()
            # macOS puts "._name.jpg", which is no picture, beside name.jpg.
            if name.lower().endswith(_SUFFIXES) and not PurePosixPath(name).name.startswith(".")
        }

    def open(self, name: str) -> Image.Image:
        """Read and decode one picture; a zip's checksum is checked on the way.

        Raises
        ------
        InputError
            Where it is damaged, locked or no picture.
        """
        try:
            # Read to the end: only then does zipfile compare the checksum.
            content = (
                (self.place / name).read_bytes() if self._zip is None else self._zip.read(name)
            )
            picture = Image.open(io.BytesIO(content))
            picture.load()
        except RuntimeError:  # how zipfile says so, also for methods that it can't decrypt
            raise InputError(
                f"{self.place} is locked or packed in an unknown way; unpack it with the password "
                "that the THINGS authors give and name the folder."
            ) from None
        except Exception as error:  # whatever a decoder makes of damaged bytes
            raise InputError(
                f"The picture {name} in {self.place} is damaged ({one_line(error)}); download "
                "it again."
            ) from None
        return picture


@dataclass(frozen=True)
class Pictures(Sequence):
    """A list of pictures, each opened when it is asked for.

    Attributes
    ----------
    store : Store
    names : list of str
        Paths in the store, such as ``training_images/00001_aardvark/aardvark_01b.jpg``.
    """

    store: Store
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Image.Image:
        return self.store.open(self.names[row])

    @property
    def sizes(self) -> list[int]:
        """Bytes of each picture's file."""
        return [self.store.sizes[name] for name in self.names]

    @property
    def ids(self) -> list[str]:
        """Names of the files without their suffix: ``aardvark_01b``."""
        return [PurePosixPath(name).stem for name in self.names]

    @cached_property
    def concepts(self) -> list[str]:
        """What each is a picture of: ``aardvark``, its folder without a number in front."""
        return [_concept(PurePosixPath(name).parent.name) for name in self.names]


def _concept(folder: str) -> str:
    return re.sub(r"^\d{5}_(?=.)", "", folder)


# ---------------------------------------------------------------- what was shown


def shown_pictures(
    folder: Path, conditions: tuple[int, int] = CONDITIONS
) -> tuple[Pictures, Pictures]:
    """Find the pictures of the training and the test conditions, in the conditions' order.

    Parameters
    ----------
    folder : Path
        Holds ``image_metadata.npy`` and ``training_images``, ``test_images``: zips or folders.
    conditions : tuple of int
        How many training and test pictures there must be.

    Returns
    -------
    train, test : Pictures

    Raises
    ------
    InputError
        Where a file is missing or damaged, or names other pictures than there are.
    """
    folder = Path(folder)
    path = folder / METADATA
    if not path.is_file():
        raise InputError(f"{path} is missing; check the folder's name or download it.")
    metadata = pickles.read_pickle(path)
    if not isinstance(metadata, dict):
        raise InputError(f"{path} holds no dictionary; download it again.")
    return tuple(
        _shown(folder, metadata, split, archive, count)
        for split, archive, count in zip(
            ("train", "test"), ("training_images", "test_images"), conditions, strict=True
        )
    )


def _shown(folder: Path, metadata: dict, split: str, archive: str, count: int) -> Pictures:
    path = folder / METADATA
    lists = [_strings(metadata, f"{split}_img_{kind}", path) for kind in ("concepts", "files")]
    if {len(one) for one in lists} != {count}:
        raise InputError(
            f"{path} names {len(lists[0])} concepts and {len(lists[1])} files of {split} pictures, "
            f"not {count} of each; download it again."
        )
    zipped = folder / f"{archive}.zip"
    store = Store(
        zipped if zipped.exists() or not (folder / archive).is_dir() else folder / archive
    )
    # By concept and file, whatever folders the zip or the person who unpacked it put on top.
    found = {"/".join(PurePosixPath(name).parts[-2:]): name for name in store.sizes}
    wanted = ["/".join(pair) for pair in zip(*lists, strict=True)]
    if missing := [name for name in wanted if name not in found]:
        raise InputError(
            f"{store.place} lacks {len(missing)} of the {count} pictures that {METADATA} names, "
            f"the first {missing[0]}; download it again."
        )
    return Pictures(store, [found[name] for name in wanted])


def _strings(metadata: dict, key: str, path: Path) -> list[str]:
    if key not in metadata:
        raise InputError(f"{path} lacks {key}; download it again.")
    names = np.asarray(metadata[key]).ravel().tolist()
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[^./\\:\0][^/\\:\0]*", name):
            raise InputError(
                f"{path} has {name!r} in {key}, not the name of a picture or its concept; "
                "download it again."
            )
    return names


def gallery(
    pictures: Pictures, embeddings: np.ndarray, image_model: dict, folder: Path | None = None
) -> Gallery:
    """Return the gallery of pictures that were shown (protocol "stimulus").

    Parameters
    ----------
    pictures : Pictures
    embeddings : array of shape (n_pictures, dim)
        Of unit norm.
    image_model : dict
        What made them.
    folder : Path, optional
        The gallery's: a candidate shows ``cc0/CONCEPT.webp`` in it where there is one.

    Returns
    -------
    Gallery
        Ids as THINGS names its pictures, ``aircraft_carrier_06s``.
    """
    candidates = []
    names = readable_names(pictures.concepts)
    for id_, concept, name in zip(pictures.ids, pictures.concepts, names, strict=True):
        candidate = Candidate(id_, concept, name)
        if folder is not None and (folder / (shown := f"cc0/{concept}.webp")).is_file():
            candidate = replace(candidate, picture=shown, licence=CC0_LICENCE)
        candidates.append(candidate)
    return Gallery(candidates, embeddings, image_model, "stimulus")


# ---------------------------------------------------------------- concept centres


def other_pictures(things: Path, test: Pictures) -> Pictures:
    """Find the THINGS pictures of the test concepts, without those that were shown.

    Parameters
    ----------
    things : Path
        All THINGS pictures, a folder or a zip: ``…/CONCEPT/CONCEPT_01b.jpg``.
    test : Pictures

    Returns
    -------
    Pictures

    Raises
    ------
    InputError
        Where a concept has no other picture, or the shown one isn't there to be left out.
    """
    store = Store(Path(things))
    concepts = set(test.concepts)
    every = Pictures(store, [n for n in store.sizes if PurePosixPath(n).parent.name in concepts])
    shown = set(test.ids)
    others = Pictures(
        store, [name for name, id_ in zip(every.names, every.ids, strict=True) if id_ not in shown]
    )
    there, left = set(every.ids), set(others.concepts)
    for id_, concept in zip(test.ids, test.concepts, strict=True):
        if id_ not in there:
            raise InputError(
                f"{things} lacks {concept}/{id_}, which was shown, so that it can't be told from "
                "the concept's other pictures; give the THINGS pictures as published."
            )
        if concept not in left:
            raise InputError(
                f"{things} holds no other picture of {concept} than the one that was shown; give "
                "all THINGS pictures."
            )
    return others


def centres(test: Gallery, others: Pictures, embeddings: np.ndarray, form: str) -> Gallery:
    """Average each test concept's other pictures (protocol "concept centre").

    Parameters
    ----------
    test : Gallery
    others : Pictures
    embeddings : array of shape (n_others, dim)
        Of `others`, of unit norm.
    form : str
        "renormalised": centres of unit norm. "published": means as they are, as NICE's code has
        them, of norms below 1 that favour concepts whose pictures resemble each other.

    Returns
    -------
    Gallery
        The candidates of `test`; ``image_model["centres"]`` is `form`.
    """
    of_concept = np.array(others.concepts)
    means = np.stack([embeddings[of_concept == c.concept].mean(0) for c in test.candidates])
    return _centre_gallery(test, means, form, {"centres_over": len(others)})


def centres_from_file(test: Gallery, path: Path, form: str) -> Gallery:
    """Read concept centres that were made elsewhere, such as NICE's ``center_clip.npy``.

    Parameters
    ----------
    test : Gallery
    path : Path
        An array of shape (n_test, dim), rows in the order of `test`.
    form : str
        See `centres`.

    Returns
    -------
    Gallery

    Raises
    ------
    InputError
        Where it doesn't fit the gallery.
    """
    means = read_array(path)
    if means.shape != test.embeddings.shape:
        raise InputError(
            f"{path} has shape {means.shape}, the test gallery {test.embeddings.shape}; give "
            "centres of the same concepts by the same image model."
        )
    if not means.any(1).all():
        raise InputError(f"Row {int((~means.any(1)).argmax())} of {path} is all zeros; mend it.")
    origin = {"centres_file": Path(path).name, "centres_sha256": sha256(path)}
    return _centre_gallery(test, means, form, origin)


def _centre_gallery(test: Gallery, means: np.ndarray, form: str, origin: dict) -> Gallery:
    if form == "renormalised":
        means = means / np.linalg.norm(means, axis=1, keepdims=True)
    image_model = test.image_model | {"centres": form} | origin
    return Gallery(test.candidates, means.astype(np.float32), image_model, "concept centre")


def nearest_own_centre(test: Gallery, centres: Gallery) -> float:
    """Return the share of test pictures that are nearest to their own concept's centre.

    A check of order and image model; 98 % with NICE's published files, 95 % with their norms kept.
    """
    similarities = similarity(test.embeddings, centres.embeddings, centres.keeps_norms)
    of_own = ranks(similarities, np.arange(len(test)))
    return float((of_own == 1).mean())


# ---------------------------------------------------------------- pictures that may be shown


def unpack_cc0(source: Path, test: Pictures, folder: Path) -> int:
    """Copy THINGSplus's CC0 picture of each test concept to ``FOLDER/cc0/CONCEPT.webp``.

    Parameters
    ----------
    source : Path
        ``images_THINGSplus-CC0.zip`` or the folder it unpacks to.
    test : Pictures
    folder : Path
        The gallery's.

    Returns
    -------
    int
        How many of `test` have one.

    Raises
    ------
    InputError
        Where the zip is missing or damaged.
    """
    store = Store(Path(source))
    found = {PurePosixPath(name).stem: name for name in store.sizes}
    concepts = [concept for concept in test.concepts if concept in found]
    for concept in set(concepts):
        picture = store.open(found[concept]).convert("RGB")
        picture.thumbnail((CC0_SIDE, CC0_SIDE))
        with complete_file(Path(folder) / "cc0" / f"{concept}.webp") as part:
            picture.save(part, "webp", quality=85)
    return len(concepts)
