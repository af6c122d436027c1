"""Words, tables and pictures of the tab "Your EEG" as HTML.

In flow a `Recording`, what its channels were taken for, epochs and decodings; out flow strings of
HTML. Every name that comes from a file is made harmless here: cut, escaped, without characters that
can't be seen.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from nice_demo.bundle import Bundle
from nice_demo.decode.recording import ConditionDecoding
from nice_demo.montage import Montage
from nice_demo.retrieval import Metrics, Proportion
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.channels import Match
from nice_demo.sources.recordings.epochs import LEAST_CHANNELS, OwnEpochs
from nice_demo.ui import cards

SHOWN = 60  # characters of a name
LISTED = 8  # events, notes, names in a sentence
ROWS = 20  # channels that are listed at once
IN_PICTURES = 12  # conditions whose retrieved pictures are shown; of the others the names

PRIVACY = (
    "Your file is deleted as soon as it is read. What was read stays in this machine's memory "
    "until you close or reload the page, 30 minutes at most; nothing of it is kept, and nobody "
    "else sees it."
)
_FORMATS = (
    ("MNE", ".fif or .fif.gz, continuous or epochs"),
    ("EDF, BDF", ".edf, .bdf with annotations or a trigger channel"),
    ("EEGLAB", ".set, together with its .fdt where it has one"),
    ("BrainVision", ".vhdr, .vmrk and .eeg: all three at once, or in a .zip"),
    ("NumPy, safetensors", ".npz or .safetensors with channel names and rate"),
)
_HELP_EMPTY = (
    "The average response to each kind of event and its map over the head, and the pictures that "
    "an encoder retrieves from it. The encoder only chooses among the pictures of this page's "
    "gallery: it can't tell what isn't in there."
)
_HELP_DECODED = (
    "For each kind of event, the candidates whose embeddings are most similar to what the encoder "
    "made of the averaged EEG; the number under each is that similarity (a cosine). Where the "
    "event is named as a picture of the gallery, its rank says how well that went; else nobody "
    "can tell."
)


def shown(name: object, length: int = SHOWN) -> str:
    """Cut a name, and replace what can't be seen; still to be escaped."""
    text = str(name)[: length + 1]
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def safe(name: object, length: int = SHOWN) -> str:
    """Make a name from a file fit to stand in HTML, and in plotly's labels."""
    return escape(shown(name, length))


def listed(names: Sequence[object], most: int = LISTED) -> str:
    """Write some names with commas between, and how many there are beyond."""
    text = ", ".join(safe(name, 32) for name in names[:most])
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun: "1 epoch", "12 epochs"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}".replace(",", "\u202f")


# ---------------------------------------------------------------- what was read


def step(number: int, title: str, text: str) -> str:
    """Return the heading of a step, with its number and question mark."""
    return (
        f'<div class="heading step"><span class="number">{number}</span>'
        f"<h2>{escape(title)}</h2>{cards.explained(title, text)}</div>"
    )


def upfront(sentences: Sequence[str]) -> str:
    """Return what is to be known before anything is uploaded."""
    return (
        '<div class="expect">' + "".join(f"<p>{escape(text)}</p>" for text in sentences) + "</div>"
    )


def empty() -> str:
    """Return what stands where results will be, before there is a recording."""
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(what)}</td></tr>"
        for name, what in _FORMATS
    )
    return (
        f'<section class="own-empty">{cards.heading("What you will see here", _HELP_EMPTY)}'
        "<p>Your evoked responses, their scalp maps, and which pictures an encoder retrieves from "
        "them. Choose files on the left to begin.</p>"
        f"<table><caption>What can be read</caption><tbody>{rows}</tbody></table></section>"
    )


def _length(recording: Recording) -> str:
    samples = recording.volts.shape[-1]
    if recording.epoched:
        start = 1e3 * recording.tmin
        end = start + 1e3 * samples / recording.sfreq
        span = f"{start:.0f} to {end:.0f} ms".replace("-", "−")
        return f"{counted(len(recording.volts), 'epoch')}, {span}"
    seconds = samples / recording.sfreq
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def events_of(recording: Recording) -> list[tuple[str, int]]:
    """Return the kinds of events with how often each happened, in order of appearance."""
    return list(Counter(recording.events).items())


def read(recording: Recording) -> str:
    """Return what was read, in a few lines."""
    kinds = events_of(recording)
    says_events = "none"
    if kinds:
        names = [f"{shown(name, 24)} ({count})" for name, count in kinds]
        says_events = f"{counted(len(recording.events), 'event')}: {listed(names)}"
    facts = {
        "File": safe(recording.name),
        "Format": safe(recording.format),
        "Channels": f"{len(recording.channels)}: {listed(recording.channels)}",
        "Rate": f"{recording.sfreq:g} Hz",
        "Length": _length(recording),
        "Events": says_events,
    }
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items())
    return f'<dl class="facts">{rows}</dl>{_notes(recording.notes)}'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{safe(note, 300)}</li>" for note in notes[:LISTED])
    if len(notes) > LISTED:
        items += f"<li>and {len(notes) - LISTED} more</li>"
    return f'<ul class="notes">{items}</ul>'


# ---------------------------------------------------------------- channels


def cap(montage: Montage, present: set[str], unsure: set[str]) -> str:
    """Draw which electrodes of the cap a recording has: full, unsure in another colour, hollow."""
    dots = []
    for name, (x, y) in zip(montage.names, montage.flat, strict=True):
        kind = "unsure" if name in unsure else "there" if name in present else "missing"
        dots.append(
            f'<circle class="{kind}" cx="{x:.3f}" cy="{-y:.3f}" r="0.045">'
            f"<title>{escape(name)}</title></circle>"
        )
    label = f"{len(present)} of {len(montage.names)} electrodes are in the recording"
    return (
        f'<svg class="head cap" viewBox="-1.2 -1.2 2.4 2.4" role="img" aria-label="{label}">'
        '<path class="outline" d="M-.16-.99 L0-1.17 L.16-.99"/><circle class="outline" r="1"/>'
        f"{''.join(dots)}</svg>"
    )


def mapping(matches: Sequence[Match], electrodes: Mapping[str, str], montage: Montage) -> str:
    """Return which channel was taken for which electrode.

    Parameters
    ----------
    matches : sequence of Match
        What the names say by themselves.
    electrodes : mapping of str to str
        File name → electrode, after corrections by hand.
    montage : Montage
    """
    told = {match.name: match for match in matches}
    by_hand = {name for name in told if electrodes.get(name) != told[name].electrode}
    check = [match.name for match in matches if not match.sure and match.name not in by_hand]
    unsure = {electrodes[name] for name in check if name in electrodes}
    present = {electrode for electrode in electrodes.values() if electrode in montage.names}
    missing = [name for name in montage.names if name not in present]
    left_out = [name for name in told if name not in electrodes]
    says = [f"<b>{len(present)} of {len(montage.names)}</b> electrodes of the cap are there."]
    if len(present) < min(LEAST_CHANNELS, len(montage.names)):
        says.append(f"Decoding needs {LEAST_CHANNELS}; yours will be shown only.")
    elif missing:
        says.append(f"Missing, to be interpolated from the others: {listed(missing, 6)}.")
    if left_out:
        says.append(f"{counted(len(left_out), 'channel')} left out: {listed(left_out, 6)}.")
    if check:
        says.append(f"<b>Please check {counted(len(check), 'channel')}</b>, marked below.")
    rows, first = [], []
    for match in matches:
        name, electrode = match.name, electrodes.get(match.name)
        row = (
            f"<tr{' class=check' if name in check else ''}><td>{safe(name, 40)}</td>"
            f"<td>{escape(electrode) if electrode else '–'}</td>"
            f"<td>{'By hand.' if name in by_hand else safe(match.why, 160)}</td></tr>"
        )
        looked_at = name in check or name in by_hand or electrode is None
        (first if looked_at and len(first) < ROWS else rows).append(row)
    head = (
        "<thead><tr><th scope='col'>In the file</th><th scope='col'>Electrode</th>"
        "<th scope='col'>Why</th></tr></thead>"
    )
    table = f"<table>{head}<tbody>{{}}</tbody></table>"
    title = "The other channels" if first else "All channels"
    first = table.format("".join(first)) if first else ""
    rest = (
        f'<details class="all"><summary>{title}</summary><div class="long" role="region" '
        f'aria-label="{title}" tabindex="0">{table.format("".join(rows))}</div></details>'
    )
    return (
        f'<div class="mapping"><div class="mapped">{cap(montage, present, unsure)}'
        f"<p>{' '.join(says)}</p></div>{first}{rest if rows else ''}</div>"
    )


# ---------------------------------------------------------------- results


def prepared(epochs: OwnEpochs, notes: Sequence[str]) -> str:
    """Say what became of the recording: epochs kept and dropped, and what should be known."""
    kept = len(epochs.conditions)
    says = f"{kept} of {counted(kept + epochs.dropped, 'epoch')} kept"
    if epochs.interpolated:
        number = len(epochs.interpolated)
        says += f", {counted(number, 'electrode')} interpolated: {listed(epochs.interpolated)}"
    return f'<p class="own-kept">{says}.</p>{_notes(notes)}'


def _share(proportion: Proportion) -> str:
    low, high = cards.percent(proportion.low), cards.percent(proportion.high)
    return f"<b>{cards.percent(proportion.value)}\u202f%</b> ({low}–{high})"


def summary(metrics: Metrics | None, recognised: int) -> str:
    """Say how it went over all conditions that are in the gallery."""
    if metrics is None:
        none, one = "No condition", "Only one condition"
        text = f"{one if recognised else none} is named as a picture of the gallery"
        return f'<p class="overall">{text}, so that there is no share of hits to tell.</p>'
    return (
        f'<p class="overall">Over the {metrics.trials} conditions that are in the gallery, the '
        f"right picture comes first in {_share(metrics.top1)} and among the first five in "
        f"{_share(metrics.top5)}; chance {cards.percent(metrics.top1.chance)}\u202f% and "
        f"{cards.percent(metrics.top5.chance)}\u202f%. "
        f'<span class="protocol">95 % intervals in brackets; protocol {escape(metrics.protocol)}, '
        f"{metrics.ways} candidates.</span></p>"
    )


def _row(bundle: Bundle, decoding: ConditionDecoding) -> str:
    candidates, ways = bundle.gallery.candidates, len(bundle.gallery)
    items = []
    for place, row in enumerate(decoding.order[: cards.CARDS].tolist(), 1):
        right = row == decoding.seen
        mark = '<span class="mark">✓<span class="spoken"> the picture seen</span></span>'
        items.append(
            f'<li class="card{" right" if right else ""}">'
            f'<span class="rank">{place}{mark if right else ""}</span>'
            f"{cards.picture(candidates[row], bundle.folder)}"
            f'<span class="name">{escape(candidates[row].name)}</span>'
            f'<span class="similarity">{cards.two_digits(decoding.similarities[row])}</span></li>'
        )
    return (
        f'<li class="own-condition"><div class="own-about"><span class="name">'
        f"{safe(decoding.condition)}</span><span class='epochs'>"
        f"{counted(decoding.n_epochs, 'epoch')}</span>"
        f'<span class="says">{_verdict(decoding, ways)}</span></div>'
        f'<ol class="cards">{"".join(items)}</ol></li>'
    )


def _verdict(decoding: ConditionDecoding, ways: int) -> str:
    if decoding.rank is None:
        return "Not in the gallery."
    return cards.verdict(decoding.rank, ways)


def decoded(
    bundle: Bundle,
    decodings: Sequence[ConditionDecoding],
    metrics: Metrics | None,
    caution: str,
    link: str,
) -> str:
    """Return the retrieved pictures of each condition, and how it went over all.

    Parameters
    ----------
    bundle : Bundle
    decodings : sequence of ConditionDecoding
    metrics : Metrics or None
        Over the conditions that are in the gallery.
    caution : str
        What must be known first.
    link : str
        HTML of the download.
    """
    rows = "".join(_row(bundle, decoding) for decoding in decodings[:IN_PICTURES])
    names = bundle.gallery.candidates
    more = "".join(
        f"<tr><td>{safe(one.condition)}</td><td>{one.n_epochs}</td>"
        f"<td>{one.rank or '–'}</td>"
        f"<td>{escape(', '.join(names[row].name for row in one.order[:3].tolist()))}</td></tr>"
        for one in decodings[IN_PICTURES:]
    )
    if more:
        more = (
            f'<details class="all"><summary>{len(decodings) - IN_PICTURES} more conditions'
            "</summary><table><thead><tr><th scope='col'>Condition</th><th scope='col'>Epochs</th>"
            "<th scope='col'>Rank</th><th scope='col'>Retrieved first</th></tr></thead>"
            f"<tbody>{more}</tbody></table></details>"
        )
    recognised = sum(one.seen is not None for one in decodings)
    return (
        f'<section class="own-decoded">{cards.heading("Retrieved", _HELP_DECODED)}'
        f'<p class="notice" role="note">{escape(caution)}</p>'
        f"{summary(metrics, recognised)}"
        f'<ol class="own-conditions">{rows}</ol>{more}{link}</section>'
    )


def download(content: dict, name: str = "nice-demo-your-eeg.json") -> str:
    """Return a link that holds the result itself, so that no file of it has to be kept."""
    text = json.dumps(content, indent=1, ensure_ascii=False).encode()
    source = base64.b64encode(text).decode()
    return (
        f'<p class="own-download"><a download="{escape(name)}" '
        f'href="data:application/json;base64,{source}">Download this result (JSON)</a></p>'
    )
