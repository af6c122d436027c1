"""Files as they come in: which are taken, and under which names they lie.

Whatever a user gives is copied into a fresh private folder under names of our own ("recording"
and a suffix), so that no name from outside is ever used as a path, and is checked as far as
that is possible without a parser.
"""

import json
import os
import re
import stat
import struct
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from nice_demo.errors import InputError
from nice_demo.sources.recordings.limits import Limits

# The file that a recording is opened by, and what belongs to it.
FORMATS = {
    ".fif": "FIF (MNE, Elekta/MEGIN)",
    ".fif.gz": "FIF (MNE, Elekta/MEGIN)",
    ".edf": "European Data Format (EDF)",
    ".bdf": "BioSemi Data Format (BDF)",
    ".set": "EEGLAB",
    ".vhdr": "BrainVision",
    ".npz": "NumPy archive (.npz)",
    ".safetensors": "safetensors",
    ".zip": "zip archive",
}
COMPANIONS = {".set": {".fdt"}, ".vhdr": {".vmrk", ".eeg", ".dat"}}
SUFFIXES = FORMATS.keys() | COMPANIONS[".set"] | COMPANIONS[".vhdr"]

_INSTEAD = (
    "export the EEG as .fif or .edf, or save an .npz with the arrays eeg (channels × times, V), "
    "channels (names) and sfreq (Hz)"
)
_PICKLES = {".pth", ".pt", ".pkl", ".pickle", ".joblib", ".ckpt"}
_ARCHIVES = {".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst"}
_TEXT_LENGTH = 80


def receive(paths: Sequence[Path], folder: Path, limits: Limits) -> dict[str, str]:
    """Copy files into `folder` as "recording" and their suffix, and check each one's beginning.

    Parameters
    ----------
    paths : sequence of Path
        Ordinary files, no links.
    folder : Path
        Private and empty.
    limits : Limits
        `files` and `size` hold here.

    Returns
    -------
    dict of str to str
        For each suffix the name that the file came with.
    """
    if not paths:
        raise InputError(f"No file was given; choose a recording ({_listed(FORMATS)}).")
    if len(paths) > limits.files:
        raise InputError(
            f"{len(paths)} files are more than the {limits.files} that one recording may have; "
            "give one recording at a time."
        )
    names: dict[str, str] = {}
    room = limits.size
    for path in paths:
        suffix = known_suffix(path.name)
        take_name(names, suffix, path.name)
        room -= _copy(path, folder / f"recording{suffix}", room, limits)
    main_suffix(names)  # refuses what doesn't belong together
    for suffix, name in names.items():
        check_beginning(folder / f"recording{suffix}", suffix, name)
    return names


def take_name(names: dict[str, str], suffix: str, name: str) -> None:
    """Note the name that a file came with, once for each suffix."""
    if suffix in names:
        raise InputError(
            f"{clean(names[suffix])} and {clean(name)} are both {suffix} files; "
            "give one recording at a time."
        )
    names[suffix] = name


def known_suffix(name: str) -> str:
    """Return the suffix that says how a file is read; refuse those that aren't read."""
    lower = name.lower()
    if lower.endswith(".fif.gz"):
        return ".fif.gz"
    suffix = Path(lower).suffix
    if suffix in SUFFIXES:
        return suffix
    shown = clean(name)
    if suffix in _PICKLES:
        raise InputError(
            f"{shown} may hold a pickle, which can run any program when it is opened and is "
            f"never read here; {_INSTEAD}."
        )
    if suffix == ".npy":
        raise InputError(
            f"{shown} holds neither channel names nor a rate, and may hold a pickle; {_INSTEAD}."
        )
    if suffix in _ARCHIVES:
        raise InputError(f"{shown} is an archive of a kind that isn't unpacked; make it a .zip.")
    raise InputError(f"{shown} is of no kind that is read ({_listed(FORMATS)}); {_INSTEAD}.")


def main_suffix(names: dict[str, str]) -> str:
    """Return the suffix of the file that the recording is opened by.

    Parameters
    ----------
    names : dict of str to str
        For each suffix the name that the file came with.
    """
    mains = [suffix for suffix in names if suffix in FORMATS]
    if len(mains) > 1:
        raise InputError(
            f"{clean(names[mains[0]])} and {clean(names[mains[1]])} are two recordings; "
            "give one at a time."
        )
    if not mains:
        for main, companions in COMPANIONS.items():
            for suffix in sorted(companions & names.keys()):
                raise InputError(
                    f"{clean(names[suffix])} is only a part of a recording; "
                    f"give its {main} file as well."
                )
        raise InputError(f"There is no recording ({_listed(FORMATS)}) in it.")
    main = mains[0]
    for suffix in sorted(names.keys() - {main} - COMPANIONS.get(main, set())):
        raise InputError(
            f"{clean(names[suffix])} doesn't belong to {clean(names[main])}; "
            "give one recording at a time."
        )
    return main


def check_beginning(path: Path, suffix: str, name: str) -> None:
    """Check that a file begins as files of its suffix do.

    Parameters
    ----------
    path : Path
        Where it lies.
    suffix : str
        What it should be.
    name : str
        What it came as, for the message.
    """
    with open(path, "rb") as file:
        start = file.read(1024)
    if not start and suffix not in (".eeg", ".dat", ".fdt"):
        raise InputError(f"{clean(name)} is empty; export it again.")
    if not _begins_well(start, suffix, path):
        what = FORMATS.get(suffix, f"{suffix} file")
        raise InputError(
            f"{clean(name)} doesn't begin as a {what} does; "
            "check that it has the right suffix and came over whole."
        )


def _begins_well(start: bytes, suffix: str, path: Path) -> bool:
    match suffix:
        case ".fif":  # the first tag is the file's id
            return start[:12] == struct.pack(">iii", 100, 31, 20)
        case ".fif.gz":
            return start[:3] == b"\x1f\x8b\x08"
        case ".edf":
            return start[:8] == b"0       "
        case ".bdf":
            return start[:8] == b"\xffBIOSEMI"
        case ".set":  # MATLAB up to 7.2, from 7.3 (HDF5 behind 512 bytes of text), or bare HDF5
            hdf5 = b"\x89HDF\r\n\x1a\n"
            return start.startswith((b"MATLAB 5.0", hdf5)) or (
                start.startswith(b"MATLAB 7.3") and start[512:520] == hdf5
            )
        case ".vhdr" | ".vmrk":
            kind = rb"Header" if suffix == ".vhdr" else rb"Marker"
            line = rb"(\xef\xbb\xbf)?Brain ?Vision( Core| V-Amp)? Data( Exchange)? " + kind
            return re.match(line + rb" File", start) is not None
        case ".zip" | ".npz":
            return start[:4] == b"PK\x03\x04"
        case ".npy":
            return start[:6] == b"\x93NUMPY"
        case ".safetensors":
            return _begins_as_safetensors(path)
    return True  # bare numbers


def _begins_as_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(1_000_000, path.stat().st_size):
            return False
        try:
            return isinstance(json.loads(file.read(length)), dict)
        except (ValueError, RecursionError):
            return False


def _copy(source: Path, target: Path, room: int, limits: Limits) -> int:
    """Copy an ordinary file of at most `room` bytes; return its size."""
    shown = clean(source.name)
    # A pipe or a device could keep us waiting, and a link leads to files the user can't see.
    without_links = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    binary = getattr(os, "O_BINARY", 0)
    try:
        if source.is_symlink():
            raise InputError(f"{shown} is a link; give the file itself.")
        with open(os.open(source, os.O_RDONLY | without_links | binary), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{shown} is no ordinary file; give the file itself.")
            size = 0
            with open(target, "xb") as copy:
                while block := file.read(1 << 20):
                    size += len(block)
                    if size > room:
                        raise InputError(
                            f"The files are larger than {limits.size / 1e6:g} MB in all; "
                            "give a shorter recording, or one at a lower rate."
                        )
                    copy.write(block)
    except FileNotFoundError:
        raise InputError(f"{shown} is missing; check its name.") from None
    except OSError as error:
        raise InputError(f"{shown} can't be opened ({error.strerror}); check the file.") from None
    return size


def clean(text: object, least: str = "(no name)") -> str:
    """Return text from a file as plain, short text.

    Control characters, those that turn the direction of writing, and lone surrogates are left
    out; what remains is cut to 80 characters. It isn't escaped: whoever shows it does that.

    Parameters
    ----------
    text : object
        What stands in the file.
    least : str
        Takes the place of an empty text.
    """
    kept = "".join(
        character
        for character in str(text)[: 4 * _TEXT_LENGTH]
        if unicodedata.category(character)[0] != "C"
        and unicodedata.category(character) not in ("Zl", "Zp")
    ).strip()
    if len(kept) > _TEXT_LENGTH:
        kept = kept[: _TEXT_LENGTH - 1] + "…"
    return kept or least


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def too_large(name: str) -> str:
    """Return the sentence for a file that needs more memory than there is."""
    return (
        f"{clean(name)} needs more memory than a recording may; it is damaged or too large: "
        "check it, or give a shorter recording."
    )
