"""Which electrode of the cap a file's channels are: names are matched, not positions.

Names flow in as the file spells them (``EEG FP1-Ref``, ``Fc5.``, ``T3``), a `Match` for each flows
out, with the reason in words. What can't be known from a name isn't guessed: the numbers of a
device's own scheme (EGI's ``E1``, BioSemi's ``A1``) stand for positions that differ from cap to
cap, and the difference of two electrodes (``Fp1-F7``) is no electrode.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nice_demo.errors import InputError
from nice_demo.montage import REFERENCE, Montage

# The 10-20 system's names and what the 10-10 system calls the same places.
_OLD_NAMES = {"t3": "t7", "t4": "t8", "t5": "p7", "t6": "p8"}
_NEW_NAMES = {new: old for old, new in _OLD_NAMES.items()}

# What follows an electrode's name to say against what it was recorded.
_REFERENCES = set(
    """
    ref reference org common le cle a1 a2 a1a2 a1+a2 a12 aa m1 m2 m1m2 m1+m2 mast linkedears ears
    linkedmastoids avg av ave average ar car avgref
    """.split()
)
# What separates a pair's names.
_SEPARATOR = re.compile(r"[-–:/_]+")
# Fewer pairs with the same second electrode might be pairs chosen one by one.
_LEAST_AGAINST_ONE = 4
_LETTERED = re.compile(r"[a-h]\d{1,3}")
_LEAST_LETTERED = 8  # fewer may be two ear lobes and a name of one's own


@dataclass(frozen=True)
class Match:
    """A channel of a file and the electrode that it is.

    Attributes
    ----------
    name : str
        In the file.
    electrode : str or None
        One of the montage's or the reference Fz, which isn't in the montage but can be used to
        reference the others; None where it is neither or nobody can know.
    sure : bool
        False where it was guessed, or where another channel claims the same electrode.
    why : str
        A sentence.
    """

    name: str
    electrode: str | None
    sure: bool
    why: str


def match_channels(names: Sequence[str], montage: Montage) -> list[Match]:
    """Find the electrode of each channel of a file by its name.

    Parameters
    ----------
    names : sequence of str
        As the file spells them.
    montage : Montage
        The electrodes that encoders take.

    Returns
    -------
    list of Match
        One for each name, in order. No electrode stands twice: the first channel to claim it
        gets it, and neither is sure.
    """
    known = {_plain(electrode): electrode for electrode in [*montage.names, REFERENCE]}
    scheme = _own_scheme(names, known)
    against = _reference_of_all(names, known)
    matches = [_match(name, known, scheme, against) for name in names]
    claims = {}  # electrode → which channels
    for index, match in enumerate(matches):
        if match.electrode:
            claims.setdefault(match.electrode, []).append(index)
    for electrode, (first, *others) in claims.items():
        if not others:
            continue
        also = _short(names[others[0]])
        why = f"Another channel, {also}, claims {electrode} as well; check which of them it is."
        matches[first] = replace(matches[first], sure=False, why=why)
        for other in others:
            why = f"{electrode} is taken by {_short(names[first])}; check which of them it is."
            matches[other] = Match(names[other], None, False, why)
    return matches


def corrected(
    electrodes: Mapping[str, str], channels: Sequence[str], text: str, montage: Montage
) -> dict[str, str]:
    """Take corrections by hand into account.

    Parameters
    ----------
    electrodes : mapping of str to str
        File name → electrode, as told from the names.
    channels : sequence of str
        All names in the file.
    text : str
        "EEG 1 = O1, EEG 2 = Oz", or one a line; nothing after "=" leaves the channel out.
    montage : Montage

    Returns
    -------
    dict of str to str
        An electrode that is given to a channel by hand is taken from any other.

    Raises
    ------
    InputError
        Where a line isn't of this form, or names what doesn't exist, or an electrode twice.
    """
    known = {name.casefold(): name for name in [*montage.names, REFERENCE]}
    by_name = {name.strip(): name for name in channels}
    by_hand: dict[str, str] = {}
    pieces = [
        piece
        for line in text.splitlines()
        for piece in (line.split(",") if line.count("=") > 1 else [line])  # names may hold commas
        if piece.strip()
    ]
    for piece in pieces:
        name, equals, electrode = (part.strip() for part in piece.rpartition("="))
        if not equals or name not in by_name:
            raise InputError(
                f"{piece.strip()[:60]!r} names no channel of the file; write NAME=ELECTRODE, "
                "with commas or new lines between."
            )
        if electrode and electrode.casefold() not in known:
            raise InputError(
                f"There is no electrode {electrode[:20]!r} on the cap; choose of "
                f"{', '.join(known.values())}."
            )
        by_hand[by_name[name]] = known.get(electrode.casefold(), "")
    given = [electrode for electrode in by_hand.values() if electrode]
    if twice := [electrode for electrode in given if given.count(electrode) > 1]:
        raise InputError(f"{twice[0]} is given to two channels; give it to one.")
    kept = {
        name: electrode
        for name, electrode in electrodes.items()
        if name not in by_hand and electrode not in given
    }
    kept |= {name: electrode for name, electrode in by_hand.items() if electrode}
    return {name: kept[name] for name in channels if name in kept}


def _match(name: str, known: dict[str, str], scheme: set[str], against: str | None) -> Match:
    """Match one name; `known`: electrodes by their names in lower case."""
    plain = _plain(name)
    if plain in scheme:
        why = (
            "This file's letters and numbers are a device's own scheme, which differs from cap to "
        )
        return Match(name, None, False, f"{why}cap; choose the electrode by hand.")
    if plain in known:
        return _found(name, known[plain], "named so in the file")
    first, *second = [part for part in _SEPARATOR.split(plain) if part] or [""]
    electrode, how, sure = _electrode(first, known)
    if electrode is None:
        return Match(name, None, True, f"{_short(name)} isn't an electrode of this cap.")
    if not second:
        return _found(name, electrode, how, sure)
    reference = "".join(second)
    if reference in _REFERENCES:
        return _found(name, electrode, f"{how}, recorded against {reference.upper()}", sure)
    if re.fullmatch(r"\d", reference):
        how = f"{how}, with a number that tells channels of the same name apart"
        return _found(name, electrode, how, sure=False)
    if reference == against:
        how = f"{how}, recorded against {reference.upper()} as all others"
        return _found(name, electrode, how, sure=False)
    why = f"{_short(name)} is a difference of two electrodes, not an electrode."
    return Match(name, None, True, why)


def _found(name: str, electrode: str, how: str, sure: bool = True) -> Match:
    how = how[0].upper() + how[1:]
    if electrode == REFERENCE:
        how += "; it can be the reference"
    return Match(name, electrode, sure, f"{how}{'.' if sure else ': please check.'}")


def _plain(name: str) -> str:
    """Leave out what is only spelling: case, white space, EDF's trailing dots, "EEG" before."""
    plain = "".join(name.casefold().split()).strip(".")
    return re.sub(r"^eeg[-:_.]*", "", plain)


def _electrode(plain: str, known: dict[str, str]) -> tuple[str | None, str, bool]:
    """Return the electrode of a name, how it was found, and whether that is sure."""
    if plain in known:
        return known[plain], "named so in the file", True
    alias = _OLD_NAMES.get(plain) or _NEW_NAMES.get(plain)
    if alias in known:
        return known[alias], f"{plain.upper()} is another name of {known[alias]}", True
    # "P07" for PO7 is so common a slip that it is worth a guess; "01" is more often a number.
    slip = re.sub(r"^p0(?=[3478z]$)", "po", plain)
    if slip != plain and slip in known:
        return known[slip], f"most likely {known[slip]}, with a zero for the letter O", False
    return None, "", True


def _own_scheme(names: Sequence[str], known: dict[str, str]) -> set[str]:
    """Return the names that a device's own scheme of letters and numbers explains, if any.

    BioSemi's larger caps go A1–A32, B1–B32, C1–C32, …: their C3 isn't the C3 of the 10-20 system.
    """
    lettered = {plain for plain in map(_plain, names) if _LETTERED.fullmatch(plain)}
    telling = [plain for plain in lettered - known.keys() if plain[0] in "abe"]
    return lettered if len(telling) >= _LEAST_LETTERED else set()


def _reference_of_all(names: Sequence[str], known: dict[str, str]) -> str | None:
    """Return the one electrode against which all named pairs were recorded, if it is one."""
    pairs = [_SEPARATOR.split(_plain(name)) for name in names]
    seconds = [pair[1] for pair in pairs if len(pair) == 2 and _electrode(pair[0], known)[0]]
    seconds = [second for second in seconds if not re.fullmatch(r"\d", second)]
    same = len(set(seconds)) == 1 and len(seconds) >= _LEAST_AGAINST_ONE
    return seconds[0] if same and _electrode(seconds[0], known)[0] else None


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:39] + "…")
