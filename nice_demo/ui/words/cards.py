"""Words, cards and pictures of the tab "Pictures and words", as HTML and as JSON.

In flow what `nice_demo.queries` found and a visitor's pictures; out flow strings of HTML, in which
every text of a visitor is escaped, and plain types for programs.
"""

import base64
import io
from dataclasses import dataclass
from html import escape

from PIL import Image

from nice_demo import queries
from nice_demo.decode import BundleDecoder
from nice_demo.gallery import IMAGE_MODEL
from nice_demo.queries import FIRST, PicturesRanked, WordFound
from nice_demo.retrieval import Proportion
from nice_demo.ui import cards
from nice_demo.ui.view import View

TOP = 5  # candidates that are shown for a trial
_STAND_IN = (
    "The phantom’s image model is EfficientNet-Lite2 on a picture, with a language model on its "
    "name, in place of CLIP: a name counts for more than what is to be seen."
)


@dataclass(frozen=True)
class Added:
    """A visitor's picture.

    Attributes
    ----------
    name : str
    picture : PIL.Image.Image
        Made small, without anything but its pixels.
    source : str
        The same as a data URI, to be shown.
    """

    name: str
    picture: Image.Image
    source: str


def added_from(content: bytes, name: str) -> Added:
    """Read an uploaded picture, called as its file; an `InputError` where that can't be."""
    picture = queries.read_picture(content)
    name = name[: queries.LONGEST_WORD].replace("_", " ")
    called = queries.clean(name, "a name") if name.strip() else "your picture"
    small = picture.copy()
    small.thumbnail((cards.THUMBNAIL, cards.THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Added(called, picture, f"data:image/webp;base64,{encoded}")


def empty(text: str) -> str:
    """Return what stands where nothing is yet."""
    return f'<p class="absent">{escape(text)}</p>'


def waiting(text: str) -> str:
    """Say what is being waited for."""
    return (
        f'<p class="absent" role="status" aria-busy="true">{escape(text)} The answer appears here '
        "by itself.</p>"
    )


def _tile(one: Added) -> str:
    return f'<span class="tile photo own"><img src="{one.source}" alt=""></span>'


def _card(tile: str, name: str, similarity: float | None, rank: int | None, kind: str = "") -> str:
    mark = {"right": '<span class="mark">✓</span>', "yours": '<span class="mark">yours</span>'}
    badge = "" if rank is None else f'<span class="rank">{rank}{mark.get(kind, "")}</span>'
    cosine = "" if similarity is None else cards.two_digits(similarity)
    return (
        f'<li class="card {kind}">{badge}{tile}<span class="name">{escape(name)}</span>'
        f'<span class="similarity">{cosine}</span></li>'
    )


def strip(own: list[Added]) -> str:
    """Return a visitor's pictures in a row, before they are ranked."""
    shown = "".join(_card(_tile(one), one.name, None, None, "yours") for one in own)
    return f'<ol class="cards strip">{shown}</ol>'


def _share(share: Proportion) -> str:
    low, high = cards.percent(share.low), cards.percent(share.high)
    return f"<b>{cards.percent(share.value)}\u202f%</b> ({low}–{high})"


def word_found(
    decoder: BundleDecoder,
    found: WordFound,
    eeg: Proportion,
    pictures: Proportion,
    repetitions: int,
) -> str:
    """Return the trials nearest to a word, and how much that is worth.

    Parameters
    ----------
    decoder : BundleDecoder
    found : WordFound
    eeg, pictures : Proportion
        How often a name finds its own trial, and its own picture, among the first; see
        `nice_demo.queries.own_among_first`.
    repetitions : int
        Averaged in each trial.
    """
    candidates, number = decoder.gallery.candidates, len(decoder.gallery)
    word, chance = escape(found.word), cards.chance_rank(number)
    first = found.order[:FIRST].tolist()
    if found.own is None:
        says = (
            f"No picture here is called “{word}”. These are the {len(first)} of {number} trials "
            "nearest to it; whether they fit is yours to judge."
        )
    elif found.rank == 1:
        says = f"Right: of {number} trials, that of “{word}” is the nearest to the word; "
        says += f"chance would put it at {chance}."
    elif found.rank <= FIRST:
        says = f"The trial of “{word}” is at rank {found.rank} of {number}; "
        says += f"chance would put it at {chance}."
    else:
        says = f"Missed: the trial of “{word}” is only at rank {found.rank} of {number}; "
        says += f"chance would put it at {chance}."
    shown = "".join(
        _card(
            cards.picture(candidates[row], decoder.folder), candidates[row].name,
            found.similarities[row], place, "right" if row == found.own else "",
        )
        for place, row in enumerate(first, 1)
    )  # fmt: skip
    nearest = sorted(range(number), key=lambda row: -found.pictures[row])[:TOP]
    named = ", ".join(escape(candidates[row].name) for row in nearest)
    simulated = ", simulated EEG" if decoder.simulated else ""
    return (
        f'<p class="verdict" aria-live="polite">{says}</p>'
        f'<ol class="cards ten" aria-label="What was seen in the trials nearest to the word">'
        f"{shown}</ol>"
        f'<p class="overall">Over the names of all {eeg.trials} pictures, the trial of that '
        f"picture is among the first {FIRST} in {_share(eeg)}; chance "
        f"{cards.percent(eeg.chance)}\u202f%. "
        f'<span class="protocol">95 % intervals in brackets; '
        f"{cards.looks(repetitions)} each{simulated}.</span></p>"
        f'<p class="overall control">Without EEG, by the pictures’ own embeddings, nearest to '
        f"“{word}” are: {named}. Of all names, {_share(pictures)} find their own picture among "
        f"the first {FIRST}: no encoder can be expected to do better.</p>"
    )


def pictures_ranked(decoder: BundleDecoder, own: list[Added], ranks: PicturesRanked) -> str:
    """Return where a visitor's pictures stand among the candidates of a trial."""
    candidates, number = decoder.gallery.candidates, len(decoder.gallery)
    ways = number + len(own)
    seen = candidates[ranks.seen]

    def card(place: int, row: int) -> str:
        if row >= number:
            one = own[row - number]
            name = one.name or "your picture"
            return _card(_tile(one), name, ranks.similarities[row], place, "yours")
        tile = cards.picture(candidates[row], decoder.folder)
        kind = "right" if row == ranks.seen else ""
        return _card(tile, candidates[row].name, ranks.similarities[row], place, kind)

    first = ranks.order[:TOP].tolist()
    top = "".join(card(place, row) for place, row in enumerate(first, 1))
    chance = (ways + 1) // 2
    items = []
    for row, one in enumerate(own):
        place = ranks.ranks[row]
        nearest = ", ".join(
            f"{escape(candidates[trial].name)} {cards.two_digits(cosine)}"
            for trial, cosine in zip(ranks.trials[row], ranks.trial_similarities[row], strict=True)
        )
        items.append(
            f"<li>{_tile(one)}<p><b>{escape(one.name or 'without a name')}</b>: rank {place} of "
            f"{ways}, similarity {cards.two_digits(ranks.similarities[number + row])}.<br>"
            f'<span class="protocol">Of all trials it is most similar to those of: {nearest}.'
            "</span></p></li>"
        )
    simulated = "simulated " if decoder.simulated else ""
    stand_in = f" {_STAND_IN}" if IMAGE_MODEL in decoder.bundle.manifest["files"] else ""
    return (
        f'<p class="verdict" aria-live="polite">Seen was “{escape(seen.name)}”, which is now at '
        f"rank {ranks.rank_of_seen} of {ways}; chance would put each at {chance}.</p>"
        f'<ol class="cards" aria-label="The five nearest candidates">{top}</ol>'
        f'<ul class="yours">{"".join(items)}</ul>'
        f'<p class="overall"><span class="protocol">One trial of {simulated}EEG; '
        f"{number} candidates and {len(own)} of yours.{stand_in}</span></p>"
    )


def about(decoder: BundleDecoder, view: View) -> dict:
    """Return what an answer is about."""
    return {
        "simulated": decoder.simulated,
        "provenance": decoder.provenance,
        "trained_on": decoder.trained_on,
        "image_model": decoder.gallery.image_model.get("name"),
        "subject": view.subject,
        "encoder": view.encoder,
        "repetitions": view.repetitions,
    }


def _named(decoder: BundleDecoder, row: int, similarity: float) -> dict:
    one = decoder.gallery.candidates[row]
    return {"id": one.id, "name": one.name, "similarity": round(float(similarity), 4)}


def word_to_json(
    decoder: BundleDecoder, found: WordFound, eeg: Proportion, pictures: Proportion
) -> dict:
    """Return what `word_found` shows as plain types."""
    number = len(decoder.gallery)
    return {
        "word": found.word,
        "trials": number,
        "nearest": [
            {"rank": place, **_named(decoder, row, found.similarities[row])}
            for place, row in enumerate(found.order[:FIRST].tolist(), 1)
        ],
        "rank_of_own": found.rank,
        "rank_of_own_by_pictures": found.rank_of_picture,
        "rank_by_chance": (number + 1) / 2,
        "own_among_first": {"first": FIRST, "eeg": eeg.to_json(), "pictures": pictures.to_json()},
    }


def ranked_to_json(decoder: BundleDecoder, ranked: PicturesRanked) -> dict:
    """Return where the first of a visitor's pictures stands as plain types."""
    ways = len(ranked.similarities)
    return {
        "name": ranked.names[0],
        "rank": ranked.ranks[0],
        "similarity": round(float(ranked.similarities[-1]), 4),
        "seen": _named(decoder, ranked.seen, ranked.similarities[ranked.seen]),
        "rank_of_seen": ranked.rank_of_seen,
        "candidates": ways,
        "rank_by_chance": (ways + 1) / 2,
        "most_similar_trials": [
            _named(decoder, row, value)
            for row, value in zip(
                ranked.trials[0].tolist(), ranked.trial_similarities[0], strict=True
            )
        ],
    }
