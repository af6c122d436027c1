"""Someone's own decoder: its latents and its gallery, read for the page and for evaluation.

In flow two arrays of the same shape (row i of the latents was decoded while candidate i was seen)
and, if there are, names and pictures; out flow embeddings and a `Gallery`. Files are read without
running anything in them: NumPy and safetensors only, pickle never.
"""

import os
import re
import unicodedata
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from nice_demo.errors import InputError
from nice_demo.gallery import Candidate, Gallery

MAY_HOLD_CODE = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")
ARRAY_NAMES = ("latents", "embeddings", "gallery")
PICTURE_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")  # the first that exists is taken

# An archive can promise far more than it holds; embeddings are never this large.
MAX_ARCHIVE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Limits:
    """How much a visitor of a public page may bring along; on one's own machine there is no limit.

    Attributes
    ----------
    file_bytes : int
        Of one file, and of all that an archive unpacks to.
    rows, columns : int
        Of an array.
    numbers : int
        In an array; four bytes each in memory.
    products : int
        Numbers that are multiplied to compare all rows with all candidates.
    """

    file_bytes: int = 64_000_000
    rows: int = 20_000
    columns: int = 8192
    numbers: int = 32_000_000
    products: int = 40_000_000_000

    def check_file(self, path: Path) -> None:
        """Refuse a file that is too large, or an archive that would be."""
        size = path.stat().st_size
        if size <= self.file_bytes and path.suffix.lower() == ".npz":
            with suppress(zipfile.BadZipFile, NotImplementedError):  # reading it will say so
                size = _unpacked(path)
        if size > self.file_bytes:
            raise InputError(
                f"{path} has {size / 1e6:.0f} MB, and this page reads up to "
                f"{self.file_bytes / 1e6:.0f} MB; {_ELSEWHERE}"
            )

    def check_array(self, path: Path, shape: tuple[int, ...]) -> None:
        """Refuse an array that is too large to be compared while others wait."""
        if len(shape) != 2:
            return  # another sentence says what it must be
        rows, columns = shape
        if rows > self.rows or columns > self.columns:
            raise InputError(
                f"{path} has shape {shape}, and this page takes up to {self.rows:,} rows of up to "
                f"{self.columns:,} numbers; {_ELSEWHERE}"
            )
        if rows * columns > self.numbers or rows * rows * columns > self.products:
            raise InputError(
                f"{path} has shape {shape}: to compare all its rows with each other would take "
                f"this page too long; {_ELSEWHERE}"
            )


_ELSEWHERE = "take fewer, or run python -m nice_demo.evaluate on your own machine."


# ---------------------------------------------------------------- arrays


def _choose(names: list[str], path: Path) -> str:
    known = [name for name in names if name in ARRAY_NAMES]
    if len(names) == 1:
        return names[0]
    if len(known) == 1:
        return known[0]
    held = ", ".join(repr(name) for name in names[:10]) or "none"
    raise InputError(
        f"{path} must hold one array, or exactly one named {', '.join(ARRAY_NAMES)} (it holds: "
        f"{held}); save the one you mean alone."
    )


def _read_npy(path: Path) -> np.ndarray:
    # Memory-mapped, so that a header that promises more than the file holds costs nothing;
    # arrays of objects (pickles) can't be mapped and are refused.
    return np.lib.format.open_memmap(path, mode="r")


def _unpacked(path: Path) -> int:
    """Return how many bytes a zip says that it unpacks to."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _read_npz(path: Path) -> np.ndarray:
    if _unpacked(path) > MAX_ARCHIVE_BYTES:
        raise InputError(f"{path} unpacks to more than 4 GiB; save the one array as .npy.")
    with np.load(path, allow_pickle=False) as archive:
        return archive[_choose(list(archive.files), path)]


def _read_safetensors(path: Path) -> np.ndarray:
    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(_choose(list(file.keys()), path))


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}


def read_array(path: Path | str, most: Limits | None = None) -> np.ndarray:
    """Read a two-dimensional array of real numbers.

    Parameters
    ----------
    path : Path or str
        A ``.npy``, ``.npz`` or ``.safetensors`` file. The latter two hold one array, or one named
        ``latents``, ``embeddings`` or ``gallery`` among others.
    most : Limits, optional

    Returns
    -------
    array of shape (n, dim), float32

    Raises
    ------
    InputError
        Where the file is missing, of another or a damaged format, or holds anything but a
        two-dimensional array of finite real numbers, or more than `most` allows.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in MAY_HOLD_CODE:
        raise InputError(
            f"{path} isn't opened, because {suffix} files may hold code; "
            "convert it to .npy or .safetensors."
        )
    if suffix not in _READERS:
        raise InputError(
            f"{path} isn't a .npy, .npz or .safetensors file; convert it to one of these."
        )
    if not os.path.isfile(path):  # unlike Path.is_file, False for every odd name
        raise InputError(f"{path} doesn't exist or isn't a file; check the name.")
    if most is not None:
        most.check_file(path)
    try:
        # Damaged headers make NumPy and Python's parser warn before they fail.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = _READERS[suffix](path)
            if not isinstance(array, np.ndarray):
                raise ValueError("it holds something other than an array")
    except InputError:
        raise
    except Exception as error:  # whatever a parser makes of foreign bytes, the file is unusable
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200].rstrip(".")
        raise InputError(
            f"{path} can't be read as {suffix} ({reason}); save it anew, as a plain array of "
            "float32."
        ) from None
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"{path} holds {array.dtype} values, not real numbers; save it as float32."
        )
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"{path} has shape {array.shape}; it must be (candidates, dimensions), one row for "
            "each candidate."
        )
    if most is not None:
        most.check_array(path, array.shape)
    with np.errstate(over="ignore"):
        array = np.array(array, dtype=np.float32, order="C")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(
            f"{path} holds NaN, infinity or a number too large for float32 in row {row}; "
            "compute it anew."
        )
    return array


# ---------------------------------------------------------------- names and pictures


def read_names(path: Path | str) -> list[str]:
    """Read one name a line from a UTF-8 text file; empty lines at the end don't count.

    Raises
    ------
    InputError
        Where the file is missing, isn't UTF-8 text, or has an empty line among the names.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} isn't UTF-8 text; save it as UTF-8, one name a line.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} can't be read ({reason}); check the name.") from None
    names = [line.strip() for line in text.rstrip().split("\n")]
    for number, name in enumerate(names, start=1):
        if not name:
            raise InputError(f"Line {number} of {path} is empty; give one name a line.")
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise InputError(
                f"Line {number} of {path} holds a control character; give plain text, one name "
                "a line."
            )
    return names


def _stem(name: str) -> str:
    """``00012_basket/basket_01b.jpg`` → ``basket_01b``."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name
    return re.sub(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", "", last, flags=re.IGNORECASE) or name


def _concept(stem: str) -> str:
    """``aircraft_carrier_06s`` and ``aircraft carrier`` → ``aircraft_carrier``."""
    # THINGS names a picture CONCEPT_NNx and a concept's folder NNNNN_CONCEPT.
    concept = re.sub(r"(?<=.)_\d{2}[a-z]$", "", stem)
    return re.sub(r"^\d{5}_(?=.)", "", concept).replace(" ", "_")


def readable_names(concepts: list[str]) -> list[str]:
    """``bat1`` → ``bat``, unless another concept would read the same."""

    def without_digit(concept: str) -> str:
        return re.sub(r"(?<=[^\W\d_])\d$", "", concept).replace("_", " ")

    read_as: dict[str, set[str]] = {}
    for concept in concepts:
        read_as.setdefault(without_digit(concept).casefold(), set()).add(concept)
    return [
        without_digit(concept)
        if len(read_as[without_digit(concept).casefold()]) == 1
        else concept.replace("_", " ")
        for concept in concepts
    ]


def _same(name: str) -> str:
    """How names are compared: by letter, whatever their case or their encoding of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _pictures_by_name(folder: Path) -> dict[str, str]:
    if not os.path.isdir(folder):
        raise InputError(f"{folder} isn't a folder; give the one that holds the pictures.")
    # Names are only looked up in this listing and never joined to a path, and a link that leads
    # out of the folder isn't followed: nothing outside it can be reached.
    inside = folder.resolve()
    found = {
        file.name: file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in PICTURE_SUFFIXES
        and file.is_file()
        and file.resolve().is_relative_to(inside)
    }
    by_preference = sorted(
        found, key=lambda name: PICTURE_SUFFIXES.index(Path(name).suffix.lower()), reverse=True
    )
    return {_same(Path(name).stem): name for name in by_preference}


def candidates_of(names: list[str], pictures: Path | None = None) -> list[Candidate]:
    """Make candidates of names, and of the pictures in a folder where there are any.

    Parameters
    ----------
    names : list of str
        As `read_names` returns them: plain names or THINGS pictures.
    pictures : Path, optional

    Raises
    ------
    InputError
        Where a name stands there twice, or `pictures` isn't a folder.
    """
    stems = [_stem(name) for name in names]
    ids = stems if len(set(stems)) == len(stems) else names
    line_of: dict[str, int] = {}
    for line, candidate_id in enumerate(ids, start=1):
        if candidate_id in line_of:
            raise InputError(
                f"The name {candidate_id!r} stands in lines {line_of[candidate_id]} and {line}; "
                "give each candidate a name of its own."
            )
        line_of[candidate_id] = line
    concepts = [_concept(stem) for stem in stems]
    files = _pictures_by_name(pictures) if pictures is not None else {}
    return [
        Candidate(
            id=candidate_id,
            concept=concept,
            name=name,
            # The very picture where there is one, else the one of its concept.
            picture=files.get(_same(stem)) or files.get(_same(concept)),
        )
        for candidate_id, stem, concept, name in zip(
            ids, stems, concepts, readable_names(concepts), strict=True
        )
    ]


# ---------------------------------------------------------------- both together


def open_latents(
    latents: Path | str,
    gallery: Path | str,
    names: Path | str | None = None,
    pictures: Path | str | None = None,
    protocol: str = "stimulus",
) -> tuple[np.ndarray, Gallery]:
    """Read a decoder's output and the candidates it is compared with.

    Parameters
    ----------
    latents : path
        File of shape (n, dim): row i was decoded while candidate i was seen.
    gallery : path
        File of shape (n, dim): the candidates' embeddings, of any norm.
    names : path, optional
        One candidate a line: a plain name or a THINGS picture (``aircraft_carrier_06s``,
        ``00012_basket/basket_01b.jpg``).
    pictures : path, optional
        A folder of pictures named by concept (``aircraft_carrier.webp``) or by picture.
    protocol : str
        What the gallery holds: ``"stimulus"`` or ``"concept centre"``.

    Returns
    -------
    embeddings : array of shape (n, dim), float32
        As they are in the file.
    gallery : Gallery
        With embeddings of unit norm; a candidate's ``picture`` is a file name in `pictures`.

    Raises
    ------
    InputError
        Where a file can't be read or the files don't fit each other.
    """
    embeddings, candidates = read_array(latents), read_array(gallery)
    lines = None if names is None else read_names(names)
    called = str(latents), str(gallery), str(names)
    folder = None if pictures is None else Path(pictures)
    return embeddings, fitted(embeddings, candidates, lines, folder, protocol, called)


def fitted(
    embeddings: np.ndarray,
    candidates: np.ndarray,
    names: list[str] | None = None,
    pictures: Path | None = None,
    protocol: str = "stimulus",
    called: tuple[str, str, str] = ("The latents", "the gallery", "The list of names"),
) -> Gallery:
    """Make a gallery of the candidates' embeddings, if latents fit it.

    Parameters
    ----------
    embeddings, candidates : array of shape (n, dim)
    names : list of str, optional
        As `read_names` returns them.
    pictures : Path, optional
    protocol : str
    called : tuple of str
        What latents, gallery and names are called in messages.

    Raises
    ------
    InputError
        Where they don't fit each other, or a row is all zeros.
    """
    latents, gallery, listed = called
    if embeddings.shape != candidates.shape:
        raise InputError(
            f"{latents} has shape {embeddings.shape} but {gallery} has {candidates.shape}; "
            "they must be alike, row i of the one decoded while candidate i of the other was seen."
        )
    if names is None:
        names = [f"candidate {row + 1}" for row in range(len(candidates))]
    elif len(names) != len(candidates):
        raise InputError(
            f"{listed} has {len(names)} names but {gallery} has {len(candidates)} rows; "
            "give one name for each row, in the same order."
        )
    for array, path in ((embeddings, latents), (candidates, gallery)):
        if not array.any(axis=1).all():
            row = int(np.flatnonzero(~array.any(axis=1))[0])
            raise InputError(f"Row {row} of {path} is all zeros; compute it anew.")
    unit = candidates.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return Gallery(
        candidates=candidates_of(names, pictures),
        embeddings=unit.astype(np.float32),
        image_model={"name": "not stated", "revision": "not stated"},
        protocol=protocol,
    )
