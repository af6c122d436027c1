"""The words and pictures of a decoding as HTML: seen, retrieved, verdict, similarity bars.

In flow a `Decoder` and one of its `Decoding`s, out flow strings of HTML. Every text that comes
from a file or a visitor is escaped here.
"""

import base64
import io
import math
from functools import lru_cache
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nice_demo.bundle import OTHER_SUBJECTS
from nice_demo.decode import WHOLE, Decoder, Decoding, Part
from nice_demo.gallery import Candidate
from nice_demo.pictures import picture_file, shows_concept_only
from nice_demo.retrieval import PROTOCOLS, Metrics, Proportion

ENCODER_NAMES = {
    "nice": "NICE",
    "nice-sa": "NICE-SA",
    "nice-ga": "NICE-GA",
    "ridge": "ridge regression",
}
CARDS = 5
BARS = 10
THUMBNAIL = 320  # pixels, of photographs; the largest card is half of that


# ---------------------------------------------------------------- small pieces


def explained(label: str, text: str) -> str:
    """Return a question mark that opens a few sentences.

    Parameters
    ----------
    label : str
        What is explained, for screen readers.
    text : str
        What the panel shows, and what it doesn't.
    """
    return (
        f'<details class="help"><summary aria-label="What does this show? {escape(label)}">'
        f"?</summary><p>{escape(text)}</p></details>"
    )


def heading(title: str, text: str) -> str:
    """Return a panel's heading with its question mark."""
    return f'<div class="heading"><h2>{escape(title)}</h2>{explained(title, text)}</div>'


def notice(sentence: str, error: bool = False) -> str:
    """Return a sentence that stands out: something the visitor gave can't be used."""
    kind, role = ("notice error", "alert") if error else ("notice", "status")
    return f'<p class="{kind}" role="{role}">{escape(sentence)}</p>'


def two_digits(value: float) -> str:
    """Write a similarity with two decimals and a real minus sign."""
    return f"{value:.2f}".replace("-", "−").replace("−0.00", "0.00")


def percent(share: float) -> str:
    """Write a share as per cent with two digits: 0.5, 4.5, 21; 100 for all alone, else 99.5."""
    points = 100 * share
    if points in (0, 100) or 9.95 <= points < 99.5:
        return str(math.floor(points + 0.5))  # 72.5 is 73, as people round
    return f"{points:.1f}"


# ---------------------------------------------------------------- pictures


@lru_cache(maxsize=1024)
def picture_source(file: Path) -> str | None:
    """Return a picture as a data URI, or None where the file is no picture.

    A change of the view so needs one answer of the server instead of one for each picture, and no
    folder has to be opened to the browser. Photographs are made small; they are read once.
    """
    try:
        if file.suffix.lower() == ".svg":
            return "data:image/svg+xml," + quote(file.read_text(encoding="utf-8"))
        with Image.open(file) as photo:
            small = ImageOps.exif_transpose(photo).convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=82)
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(candidate: Candidate, folder: Path | None) -> str:
    """Return a candidate's picture, or a card with its name where it has none."""
    file = picture_file(candidate, folder)
    source = picture_source(file) if file else None
    if source is None:
        return f'<span class="tile word"><span>{escape(candidate.name)}</span></span>'
    kind = "tile photo" if source.startswith("data:image/webp") else "tile"
    # The name stands beside every picture, so the picture itself is decoration to a reader.
    return f'<span class="{kind}"><img src="{source}" alt=""></span>'


# ---------------------------------------------------------------- sentences


def chance_rank(ways: int) -> int:
    """Where chance puts the picture seen, on average."""
    return (ways + 1) // 2  # of 200: 100.5, said as 100


def verdict(rank: int, ways: int, part: str = "") -> str:
    """Say in one sentence how the decoding went; a miss as plainly as a hit.

    Parameters
    ----------
    rank : int
        Of the picture that was seen.
    ways : int
        Number of candidates.
    part : str
        What `part_in_words` says of the EEG, or nothing.
    """
    among = f"{ways} with {part}" if part else f"{ways}"
    chance = f"chance would put it at {chance_rank(ways)}"
    if rank == 1:
        return f"Right: first of {among}; {chance}."
    if rank <= CARDS:
        return f"Right at rank {rank} of {among}; {chance}."
    if rank < chance_rank(ways):
        return f"Missed: only at rank {rank} of {among}; {chance}."
    chance = f"no better than chance, which would put it at {chance_rank(ways)}"
    return f"Missed: rank {rank} of {among}, {chance}."


_HELP_SURE = (
    "How probable its first choice is, in the decoder's own account: the similarities to all "
    "candidates as probabilities, with a temperature fitted on training pictures that the encoder "
    "was not trained on. Whether it is right as often as it says stands under Evidence, How sure."
)


_HELP_OTHERS = (
    " It was fitted on the subjects that the encoder was trained on; of a new one it knows less "
    "than it says."
)


def sure(
    confidence: float, name: str, surplus: float | None = None, trained_on: str | None = None
) -> str:
    """Say how sure the decoder is of its first choice, and whether it is right as often.

    Parameters
    ----------
    confidence : float
    name : str
        Of the first choice.
    surplus : float or None
        Mean confidence − accuracy over all pictures, where that was measured.
    trained_on : str or None
        See `nice_demo.decode.Decoder`.
    """
    says, measured = _HELP_SURE + _HELP_OTHERS * (trained_on == OTHER_SUBJECTS), ""
    if surplus is not None:
        points = abs(round(100 * surplus))
        unit, kind = "point" if points == 1 else "points", "surer" if surplus > 0 else "less sure"
        measured = (
            f" Over all pictures it is {points} {unit} {kind} than right."
            if points
            else " Over all pictures it is right as often as it says."
        )
    return (
        f'<div class="sure"><span>It is <b>{percent(confidence)}\u202f%</b> sure of '
        f"“{escape(name)}”.{measured}</span>{explained('How sure', says)}</div>"
    )


def rather_not(confidence: float, least: float, name: str, verdict: str) -> str:
    """Say that the decoder isn't sure enough to answer, and what the answer would have been."""
    return (
        f"Would rather not say: only {percent(confidence)}\u202f% sure of “{escape(name)}”, and "
        f'{percent(least)}\u202f% are asked for. <span class="would">It would have been: '
        f"{verdict}</span>"
    )


def part_in_words(decoder: Decoder, part: Part) -> str:
    """Say which part of the EEG the encoder got: "17 of 63 electrodes, 100–400 ms"."""
    says = []
    if part.off:
        channels = len(decoder.montage.names)
        says.append(f"{channels - len(part.off)} of {channels} electrodes")
    if part.start is not None or part.end is not None:
        start, end = part.window(decoder.times)
        window = f"{1e3 * start:.0f}–{1e3 * end:.0f} ms".replace("-", "−")
        says.append(window if says else f"{window} only")
    if part.shuffle:
        says.append("shuffled EEG")
    return ", ".join(says)


def shuffles(ranks: np.ndarray, rank: int, ways: int) -> str:
    """Say how often shuffled EEG does as well as the trial itself.

    Parameters
    ----------
    ranks : array of shape (n_shuffles,)
        Of the picture that was seen, for each shuffle.
    rank : int
        Of the trial itself.
    ways : int
        Number of candidates.
    """
    number = len(ranks)
    near = "first" if rank == 1 else f"as near as rank {rank} or nearer"
    return (
        f'<p class="shuffles" role="status">Of {number} shuffles, the picture seen came {near} in '
        f"<b>{int((ranks <= rank).sum())}</b>; chance: {few(number * rank / ways)}. Their median "
        f"rank is {np.median(ranks):.0f} of {ways}; chance: {chance_rank(ways)}.</p>"
    )


def few(count: float) -> str:
    """Write a count that is expected: 0.5, 1.5, 42."""
    return f"{count:.1f}".removesuffix(".0") if count < 10 else f"{count:.0f}"


def looks(repetitions: int) -> str:
    """Say how many repetitions were averaged: "one look", "80 looks"."""
    return "one look" if repetitions == 1 else f"{repetitions} looks"


def _share(proportion: Proportion) -> str:
    low, high = percent(proportion.low), percent(proportion.high)
    return f"<b>{percent(proportion.value)}\u202f%</b> ({low}–{high})"


def overall(
    metrics: Metrics, simulated: bool, trained_on: str | None = None, in_part: bool = False
) -> str:
    """Say how good the encoder is over all pictures, with interval, chance and protocol.

    Parameters
    ----------
    metrics : Metrics
        Always of the whole EEG.
    simulated : bool
    trained_on : str or None
    in_part : bool
        Whether the trial beside it was decoded from a part of its EEG, so that it must be said.
    """
    averaged = "" if metrics.repetitions is None else f" at {looks(metrics.repetitions)} each"
    kind = ", simulated EEG" if simulated else ""
    whole = "<em>With the whole EEG</em>, over" if in_part else "Over"
    if trained_on == OTHER_SUBJECTS:  # the rarer case, and much the harder one
        kind += f"; trained on {trained_on} only"
    return (
        f'<p class="overall">{whole} all {metrics.trials} pictures{averaged} the right one comes '
        f"first in {_share(metrics.top1)} and among the first five in {_share(metrics.top5)}; "
        f"chance {percent(metrics.top1.chance)}\u202f% and {percent(metrics.top5.chance)}\u202f%. "
        f'<span class="protocol">95 % intervals in brackets; protocol {escape(metrics.protocol)}, '
        f"{metrics.ways} candidates{kind}.</span></p>"
    )


# ---------------------------------------------------------------- panels

_HELP_RETRIEVED = (
    "The candidates whose embeddings are most similar to what the encoder made of the EEG; the "
    "number under each is that similarity (a cosine). The encoder only chooses among the given "
    "candidates: it doesn't draw a picture or read a thought."
)
_HELP_BARS = (
    "How similar the decoded embedding is to each of the ten nearest candidates, and to the "
    "picture seen. Only the order and the distances matter: a similarity isn't a probability."
)
# The way back from a part of the EEG that holds nothing.
WHOLE_AGAIN = (
    '<p class="way-back"><button type="button" class="back" data-press="whole">Decode the whole '
    "EEG again</button></p>"
)
SHUFFLED = (
    '<p class="notice" role="status"><span>Shuffled EEG: same values, no order. This is what '
    'chance looks like.</span> <button type="button" class="back" data-press="unshuffle">Back to '
    "the trial</button></p>"
)
_SAME_CONCEPT = "a picture of the same concept, not the one that was shown"


def _card(decoder: Decoder, decoding: Decoding, place: int, row: int) -> str:
    candidate = decoder.gallery.candidates[row]
    right = row == decoding.condition
    mark = '<span class="mark">✓<span class="spoken"> the picture seen</span></span>'
    return (
        f'<li class="card{" right" if right else ""}" data-id="{escape(candidate.id)}">'
        f'<span class="rank">{place}{mark if right else ""}</span>'
        f"{picture(candidate, decoder.folder)}"
        f'<span class="name">{escape(candidate.name)}</span>'
        f'<span class="similarity">{two_digits(decoding.similarities[row])}</span></li>'
    )


def result(
    decoder: Decoder,
    decoding: Decoding,
    above: str = "",
    least: float = 0.0,
    surplus: float | None = None,
) -> str:
    """Return the main story: the picture seen, the five retrieved, and the sentences.

    Parameters
    ----------
    decoder : Decoder
    decoding : Decoding
    above : str
        HTML to stand before it, such as a `notice`.
    least : float
        Confidence below which the decoder would rather not say.
    surplus : float or None
        See `sure`.
    """
    candidates, ways = decoder.gallery.candidates, len(decoder.gallery)
    protocol = decoder.gallery.protocol
    help_retrieved = f"{_HELP_RETRIEVED} Protocol {protocol}: {PROTOCOLS[protocol]}."
    seen = candidates[decoding.condition]
    retrieved = decoding.order[:CARDS].tolist()
    cards = "".join(_card(decoder, decoding, place, row) for place, row in enumerate(retrieved, 1))
    seen_is = f'<span class="caveat">{_SAME_CONCEPT}</span>' if shows_concept_only(seen) else ""
    stand_in = any(shows_concept_only(candidates[row]) for row in retrieved)
    photos_are = (
        '<p class="caveat">Photos: pictures of the same concept, not the ones that were shown.</p>'
        if stand_in or seen_is
        else ""
    )
    metrics = decoder.metrics(decoding.subject, decoding.encoder, decoding.repetitions)
    part = decoding.part
    says_overall = ""
    if metrics:
        says_overall = overall(metrics, decoder.simulated, decoder.trained_on, part != WHOLE)
    if part.shuffle:
        above += SHUFFLED
    says = verdict(decoding.rank, ways, part_in_words(decoder, part))
    says_sure, silent = "", False
    if decoding.confidence is not None:
        first = candidates[decoding.order[0]].name
        silent = decoding.confidence < least
        if silent:
            says = rather_not(decoding.confidence, least, first, says)
        else:
            says_sure = sure(decoding.confidence, first, surplus, decoder.trained_on)
    return (
        f'<section class="result{" silent" if silent else ""}">{above}<div class="pictures">'
        f'<div class="seen"><div class="heading"><h2>Seen</h2></div><div class="card">'
        f'{picture(seen, decoder.folder)}<div class="what"><span class="name">{escape(seen.name)}'
        f"</span>{seen_is}</div></div></div>"
        f'<div class="retrieved">{heading("Retrieved", help_retrieved)}'
        f'<ol class="cards">{cards}</ol>{photos_are}</div></div>'
        f'<p class="verdict" aria-live="polite">{says}</p>{says_sure}'
        f"{says_overall}</section>"
    )


def bars(decoder: Decoder, decoding: Decoding) -> str:
    """Return similarity bars of the ten nearest candidates, and of the picture seen."""
    rows = [(place, row) for place, row in enumerate(decoding.order[:BARS].tolist(), 1)]
    if decoding.condition not in decoding.order[:BARS]:
        rows.append((decoding.rank, decoding.condition))
    shown = [float(decoding.similarities[row]) for _, row in rows]
    low, high = min(0.0, *shown), max(0.0, *shown)
    width = (high - low) or 1.0
    items = []
    for (place, row), value in zip(rows, shown, strict=True):
        candidate = decoder.gallery.candidates[row]
        kinds = ["right"] if row == decoding.condition else []
        kinds += ["beyond"] if place > BARS else []
        left, length = (min(value, 0.0) - low) / width, abs(value) / width
        items.append(
            f'<li class="{" ".join(kinds)}" data-id="{escape(candidate.id)}">'
            f'<span class="rank">{place}</span>'
            f'<span class="name">{escape(candidate.name)}</span><span class="track">'
            f'<span class="bar" style="left:{100 * left:.1f}%;width:{100 * length:.1f}%"></span>'
            f'</span><span class="similarity">{two_digits(value)}</span></li>'
        )
    return (
        f'<section class="bars">{heading("How similar", _HELP_BARS)}'
        f'<ol data-seen="{escape(decoder.gallery.candidates[decoding.condition].id)}">'
        f"{''.join(items)}</ol></section>"
    )


def waiting(cards: int = CARDS) -> str:
    """Return grey shapes where the result will be, until the first one is there."""
    blank = '<span class="tile blank"></span>'
    return (
        '<section class="result" aria-busy="true"><div class="pictures"><div class="seen">'
        f'<div class="heading"><h2>Seen</h2></div><div class="card">{blank}'
        '<span class="name"> </span></div></div><div class="retrieved"><div class="heading">'
        '<h2>Retrieved</h2></div><ol class="cards">'
        + f'<li class="card">{blank}<span class="name"> </span></li>' * cards
        + '</ol></div></div><p class="verdict">One moment …</p></section>'
    )
