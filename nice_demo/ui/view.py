"""What a visitor looks at: a subject, an encoder, a picture and a number of repetitions.

Whatever comes from outside (the address, the API, a control) passes `view_of`; only choices that
exist come out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nice_demo.decode import Decoder, Decoding
from nice_demo.errors import InputError
from nice_demo.gallery import Gallery

TRIES = 12  # pictures looked at to find one to open on


@dataclass(frozen=True)
class View:
    """One choice of everything that can be chosen.

    Attributes
    ----------
    subject, encoder : str
    picture : str
        Id of the candidate that was seen.
    repetitions : int
    """

    subject: str
    encoder: str
    picture: str
    repetitions: int

    def decoded_by(self, decoder: Decoder) -> Decoding:
        """Decode it."""
        return decoder.decode(self.subject, self.encoder, self.picture, self.repetitions)


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


def view_of(
    decoder: Decoder, subject: object, encoder: object, picture: object, repetitions: object
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

    Raises
    ------
    InputError
        Where one of them doesn't exist.
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
    return view_of(
        decoder,
        subject,
        encoder,
        address.get("picture", opening.picture),
        address.get("repetitions", opening.repetitions),
    )
