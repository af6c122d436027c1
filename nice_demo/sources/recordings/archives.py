"""Unpacking what users send: under names of our own, and never more than told.

Runs in the process that reads (`nice_demo.sources.recordings.child`). What an archive says of
itself is never believed: limits hold for what is actually written.
"""

import gzip
import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from nice_demo.errors import InputError
from nice_demo.sources.recordings.limits import Limits
from nice_demo.sources.recordings.received import clean

_BLOCK = 1 << 18
_SMALL = 1_000_000  # bytes; below that, no ratio is a danger
_ENCRYPTED = 1  # a bit of the flags


def unpack_zip(
    path: Path, name: str, folder: Path, limits: Limits, place: Callable[[str], str | None]
) -> None:
    """Write the files of a zip archive into a folder.

    Parameters
    ----------
    path : Path
        The archive.
    name : str
        What it came as, for messages.
    folder : Path
        Exists.
    limits : Limits
        `entries`, `unpacked` and `ratio` hold here.
    place : callable
        Called with an entry's name without its folders; returns the name to write it under (ours,
        no path), or None to skip it.
    """
    shown = clean(name)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > limits.entries:
                raise InputError(
                    f"{shown} has {len(entries)} entries, more than {limits.entries}; "
                    "put only the files of one recording into it."
                )
            for entry in entries:
                _check_entry(entry, shown)
            room = _room(path, limits)
            for entry in entries:
                base = entry.filename.rpartition("/")[2]
                if entry.is_dir() or "__MACOSX/" in entry.filename or base.startswith("."):
                    continue
                target = place(base)
                if target is not None:
                    with archive.open(entry) as packed:
                        room -= _write(packed, folder / target, room, shown)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise InputError(
            f"{shown} can't be unpacked ({clean(error)}); make the archive again."
        ) from None


def unpack_gzip(path: Path, name: str, target: Path, limits: Limits) -> None:
    """Write what a gzip file holds to `target`, whatever name it carries inside."""
    try:
        with gzip.open(path) as packed:
            _write(packed, target, _room(path, limits), clean(name))
    except (zlib.error, EOFError, OSError) as error:
        raise InputError(
            f"{clean(name)} can't be unpacked ({clean(error)}); make it again."
        ) from None


def _check_entry(entry: zipfile.ZipInfo, shown: str) -> None:
    name = entry.orig_filename  # `filename` has been made tidy already
    kind = stat.S_IFMT(entry.external_attr >> 16)  # as Unix archives note it
    if (
        name.startswith("/")
        or "\\" in name
        or ":" in name
        or ".." in name.split("/")
        or re.search(r"[\x00-\x1f]", name)
    ):
        problem = f"names a place outside ({clean(name)})"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = f"holds something other than a file ({clean(name)})"
    elif entry.flag_bits & _ENCRYPTED:
        problem = "is encrypted"
    elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = "is packed in an unusual way"
    elif name.lower().endswith((".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar")):
        problem = f"holds another archive ({clean(name)})"
    else:
        return
    raise InputError(f"{shown} {problem}; pack the files of the recording plainly into one zip.")


def _room(path: Path, limits: Limits) -> int:
    """Return how many bytes the archive at `path` may become."""
    return int(min(limits.unpacked, max(_SMALL, limits.ratio * path.stat().st_size)))


def _write(packed: BinaryIO, target: Path, room: int, shown: str) -> int:
    size = 0
    with open(target, "xb") as file:
        while block := packed.read(_BLOCK):
            size += len(block)
            if size > room:
                raise InputError(
                    f"{shown} becomes far larger than it is when it is unpacked; "
                    "give the recording's files without packing them."
                )
            file.write(block)
    return size
