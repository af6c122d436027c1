"""What a visitor looks at: a subject, an encoder, a picture, repetitions, and a part of the EEG.

Whatever comes from outside (the address, the API, a control) passes `view_of`; only choices that
exist come out. An address says, beside the view itself, how it is shown: `least_of_address`,
`moment_of_address`, `tab_of_address`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from nice_demo.decode import WHOLE, Decoder, Decoding, Part, end_of
from nice_demo.errors import InputError
from nice_demo.gallery import Gallery
from nice_demo.montage import PRESETS

TRIES = 12  # pictures looked at to find one to open on
MOMENT = 0.172  # s, of the first scalp map: about when the response to objects peaks
MOST_SURE = 95  # %, that may be asked for


@dataclass(frozen=True)
class View:
    """One choice of everything that can be chosen.

    Attributes
    ----------
    subject, encoder : str
    picture : str
        Id of the candidate that was seen.
    repetitions : int
    part : Part
        Of the EEG that the encoder gets.
    """

    subject: str
    encoder: str
    picture: str
    repetitions: int
    part: Part = WHOLE

    def decoded_by(self, decoder: Decoder) -> Decoding:
        """Decode it."""
        return decoder.decode(self.subject, self.encoder, self.picture, self.repetitions, self.part)


def find_picture(gallery: Gallery, wanted: str) -> str:
    """Return the id of the candidate with this id or, whatever its case, this name.

    Raises
    ------
    InputError
        Where no candidate has it.
    """
    for candidate in gallery.candidates:
        if candidate.id == wanted:
            return candidate.id
    for candidate in gallery.candidates:
        if candidate.name.casefold() == wanted.strip().casefold():
            return candidate.id
    gallery.index(wanted)  # raises with a sentence of its own
    raise AssertionError("unreachable")


def _whole_number(value: object, known: list[int]) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = None
    if isinstance(value, float) and value.is_integer():
        number = int(value)  # JSON doesn't tell 10 from 10.0
    if number not in known or isinstance(value, bool):
        raise InputError(
            f"There is no average over {str(value)[:40]!r} repetitions; "
            f"choose one of {', '.join(map(str, known))}."
        )
    return number


def presets(channels: list[str]) -> dict[str, list[str]]:
    """Return the choices of electrodes that a montage has all of; by name, without the whole."""
    return {
        name: names
        for name, names in PRESETS.items()
        if set(names) <= set(channels) and len(names) < len(channels)
    }


def electrodes_of(channels: list[str], wanted: object) -> list[str]:
    """Return the electrodes that somebody named, in the montage's order.

    Parameters
    ----------
    channels : list of str
        Of the montage.
    wanted : None, str or iterable of str
        None or "all"; a preset such as "17"; or names, as a list or with commas or dots between.

    Raises
    ------
    InputError
        Where a name is unknown.
    """
    if wanted is None:
        return channels
    if isinstance(wanted, str):
        if wanted.strip().casefold() in ("all", str(len(channels))):
            return channels
        if wanted.strip() in presets(channels):
            wanted = presets(channels)[wanted.strip()]
        else:
            wanted = [name for name in re.split(r"[\s,.]+", wanted) if name]
    if not isinstance(wanted, Iterable):
        wanted = [wanted]
    by_name = {name.casefold(): name for name in channels}
    names = set()
    for name in map(str, wanted):
        if name.strip().casefold() not in by_name:
            choices = ["all", *presets(channels), *channels]
            raise InputError(
                f"There is no electrode {name[:40]!r}; choose of {', '.join(choices)}."
            )
        names.add(by_name[name.strip().casefold()])
    return [name for name in channels if name in names]


def _milliseconds(value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        milliseconds = float(str(value))
    except ValueError:
        milliseconds = math.nan
    if not math.isfinite(milliseconds) or isinstance(value, bool):
        raise InputError(f"There is no moment {str(value)[:40]!r}; give milliseconds, such as 100.")
    return milliseconds


def _part(
    decoder: Decoder, electrodes: object, start_ms: object, end_ms: object, shuffle: object
) -> Part:
    """Check which part of the EEG somebody chose; what is all of a side is left open."""
    if decoder.times is None:
        asked = electrodes not in (None, "all"), start_ms is not None, end_ms is not None
        if any(asked) or str(shuffle) != "0":
            raise InputError(
                "There is no EEG here, so that no part of it can be chosen; leave electrodes, "
                "window and shuffle out."
            )
        return WHOLE
    channels, times = decoder.montage.names, decoder.times
    on = electrodes_of(channels, electrodes)
    start, end = _milliseconds(start_ms), _milliseconds(end_ms)
    if not re.fullmatch(r"\d{1,6}", str(shuffle)):
        raise InputError(f"There is no shuffle {str(shuffle)[:40]!r}; give a number from 0 on.")
    return Part(
        tuple(name for name in channels if name not in on),
        None if start is None or start <= 1e3 * times[0] else start / 1e3,
        None if end is None or end >= 1e3 * end_of(times) - 1e-3 else end / 1e3,
        int(str(shuffle)),
    )


def view_of(
    decoder: Decoder,
    subject: object,
    encoder: object,
    picture: object,
    repetitions: object,
    electrodes: object = None,
    start_ms: object = None,
    end_ms: object = None,
    shuffle: object = 0,
) -> View:
    """Check choices that somebody made.

    Parameters
    ----------
    decoder : Decoder
    subject, encoder : str
    picture : str
        Id or name of a candidate.
    repetitions : int
        Also as text.
    electrodes : None, str or list of str
        Those that are on; see `electrodes_of`.
    start_ms, end_ms : float or None
        Of the window, ms; None: as far as the EEG goes.
    shuffle : int
        See `nice_demo.decode.Part`.

    Raises
    ------
    InputError
        Where one of them doesn't exist. That nothing is left of the EEG, decoding says.
    """
    # An address can be as long as it likes; the sentence about it shouldn't be.
    subject, encoder, picture = (str(value)[:120] for value in (subject, encoder, picture))
    known = decoder.encoders(subject)
    if encoder not in known:
        raise InputError(
            f"There is no encoder {encoder!r} for subject {subject}; "
            f"choose one of {', '.join(known)}."
        )
    return View(
        subject,
        encoder,
        find_picture(decoder.gallery, picture),
        _whole_number(repetitions, decoder.repetitions),
        _part(decoder, electrodes, start_ms, end_ms, shuffle),
    )


def opening_view(decoder: Decoder) -> View:
    """Choose what a first visit opens on: a good, not a perfect example.

    That is the subject whom the first encoder decodes best, everything averaged, and the first
    picture that comes second to fifth; the page says beside it how it goes over all pictures.
    """

    def quality(subject: str) -> float:
        measured = decoder.metrics(subject, decoder.encoders(subject)[0], decoder.repetitions[-1])
        return measured.top5.value if measured else 0.0

    subject = max(decoder.subjects, key=quality)
    candidates = decoder.gallery.candidates
    view = View(subject, decoder.encoders(subject)[0], candidates[0].id, decoder.repetitions[-1])
    tried = {}
    for candidate in candidates[:: max(1, len(candidates) // TRIES)][:TRIES]:
        view = replace(view, picture=candidate.id)
        tried[view] = view.decoded_by(decoder).rank
        if 2 <= tried[view] <= 5:
            return view
    return min(tried, key=tried.get)


def view_of_address(decoder: Decoder, address: Mapping[str, str], opening: View) -> View:
    """Return the view that an address asks for; what it leaves open is as on a first visit.

    Raises
    ------
    InputError
        Where it names something that doesn't exist.
    """
    subject = address.get("subject", opening.subject)
    encoder = address.get("encoder", opening.encoder)
    electrodes = address.get("electrodes")
    if "off" in address and decoder.times is not None:
        on = electrodes_of(decoder.montage.names, electrodes)
        off = electrodes_of(decoder.montage.names, address["off"])
        electrodes = [name for name in on if name not in off]
    start = end = None
    if "window" in address:
        window = re.fullmatch(r"\s*(-?\d{1,6})\s*[-–]\s*(-?\d{1,6})\s*", address["window"])
        if not window:
            raise InputError(
                f"There is no window {address['window'][:40]!r}; "
                "give its start and end in milliseconds, such as 100-400."
            )
        start, end = window.groups()
    view = view_of(
        decoder,
        subject,
        encoder,
        address.get("picture", opening.picture),
        address.get("repetitions", opening.repetitions),
        electrodes,
        start,
        end,
        address.get("shuffle", 0),
    )
    view.decoded_by(decoder)  # refuses a part that holds nothing
    return view


def address_of(part: Part, decoder: Decoder) -> dict[str, str]:
    """Return what an address says of a part of the EEG: nothing where it is all of it.

    The shortest of "electrodes=17", "off=Fp1.Fp2" and "electrodes=O1.Oz.O2"; "window=100-400";
    "shuffle=3".
    """
    says = {"electrodes": "", "off": "", "window": "", "shuffle": ""}
    if part == WHOLE:
        return says
    on = [name for name in decoder.montage.names if name not in part.off]
    named = [
        name for name, names in presets(decoder.montage.names).items() if set(names) == set(on)
    ]
    if named:
        says["electrodes"] = named[0]
    elif len(part.off) <= len(on):
        says["off"] = ".".join(part.off)
    else:
        says["electrodes"] = ".".join(on)
    if part.start is not None or part.end is not None:
        start, end = part.window(decoder.times)
        says["window"] = f"{1e3 * start:.0f}-{1e3 * end:.0f}"
    if part.shuffle:
        says["shuffle"] = str(part.shuffle)
    return says


def address_of_view(view: View, decoder: Decoder, least: float = 0) -> dict[str, str]:
    """Return all that an address says of a view, and of the confidence asked for in per cent."""
    says = {
        "subject": view.subject,
        "encoder": view.encoder,
        "picture": view.picture,
        "repetitions": str(view.repetitions),
        **address_of(view.part, decoder),
        "least": f"{least:g}" if least else "",
    }
    return {name: value for name, value in says.items() if value}


# ---------------------------------------------------------------- how a view is shown


def least_of_address(address: Mapping[str, str]) -> int:
    """Return the confidence, in per cent, below which the decoder is to stay silent; 0: never.

    Raises
    ------
    InputError
        Where it isn't a whole number up to `MOST_SURE`.
    """
    said = address.get("least", "0")
    if not re.fullmatch(r"\d{1,2}", said, re.ASCII) or int(said) > MOST_SURE:
        raise InputError(
            f"There is no confidence {said[:40]!r} to ask for; give per cent from 0 to {MOST_SURE}."
        )
    return int(said)


def moment_of_address(address: Mapping[str, str], times: np.ndarray) -> float:
    """Return the moment of the scalp map, ms: the sample nearest to what an address says.

    Parameters
    ----------
    address : mapping
    times : array of shape (n_samples,)
        Of the EEG that is shown, s.

    Raises
    ------
    InputError
        Where it isn't within the EEG.
    """
    asked = _milliseconds(address.get("moment"))
    asked = 1e3 * MOMENT if asked is None else asked
    first, last = 1e3 * float(times[0]), 1e3 * float(times[-1])
    if not first - 1 <= asked <= last + 1:
        raise InputError(
            f"There is no EEG at {asked:.0f} ms; give a moment from {first:.0f} to {last:.0f} ms."
        )
    return round(1e3 * float(times[np.abs(times - asked / 1e3).argmin()]), 3)


def tab_of_address(address: Mapping[str, str], tabs: list[str]) -> str:
    """Return the tab that an address opens; the first where it names none.

    Raises
    ------
    InputError
        Where it names one that isn't there.
    """
    tab = address.get("tab", tabs[0])
    if tab not in tabs:
        raise InputError(f"There is no tab {tab[:40]!r}; choose one of {', '.join(tabs)}.")
    return tab
