"""The tab "Your decoder": any decoder's latents and a gallery, and the page's figures for them.

In flow a visitor's files, which are deleted as soon as they are read, or a choice of what is there
already; out flow how good a decoder is, how two compare, and what is retrieved for one picture.
The numbers of a visitor's files live in memory for as long as the session, see
`nice_demo.ui.kept`.
"""

import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock

import gradio as gr
from gradio.components.plot import PlotData

from nice_demo.bundle import LatentsBundle
from nice_demo.decode import Decoder, LatentsDecoder
from nice_demo.errors import InputError
from nice_demo.retrieval import PROTOCOLS
from nice_demo.ui import cards
from nice_demo.ui.api import public
from nice_demo.ui.decode_tab import BARE
from nice_demo.ui.kept import MINUTES
from nice_demo.ui.latents import cards as latents_cards
from nice_demo.ui.latents.opened import (
    KeptLatents,
    Mine,
    Opened,
    check_protocol,
    example,
    has_example,
    of_latents,
    read_upload,
    read_uploads,
)
from nice_demo.ui.view import find_picture, opening_view

EXAMPLE, OWN, NOTHING = "example", "own", -1
LISTED = 1000  # pictures in the list; any other can be typed
FILES = {
    "latents": ("Latents of your decoder", [".npy", ".npz", ".safetensors"]),
    "gallery": ("Gallery: embeddings of the pictures", [".npy", ".npz", ".safetensors"]),
    "other": ("A second decoder's latents (optional)", [".npy", ".npz", ".safetensors"]),
    "names": ("Names, one a line (optional)", [".txt"]),
}
SHORTLY = {
    "stimulus": "the pictures shown",
    "concept centre": "means of others",
    "trained concepts": "no pictures",
}
_HELP_SOURCE = (
    "Whose output is shown: something that is here already, or your own files below. Each decoder "
    "is one row of numbers for each test picture, in the space of an image model."
)
_HELP_PICTURE = (
    "What the decoder retrieves for one picture, and how similar. One picture proves little; the "
    "figures over all pictures do."
)


def latents_tab(decoder: Decoder, beside: Sequence[LatentsBundle], tab: gr.Tab) -> KeptLatents:
    """Put the tab's components and listeners into the page that is being built.

    Parameters
    ----------
    decoder : Decoder
        What the page shows; its own encoders are the example.
    beside : sequence of LatentsBundle
        Offered as well.
    tab : gradio.Tab
        Around it; its opening shows the first.

    Returns
    -------
    KeptLatents
        Visitors' files.
    """
    blocks, kept, lock = gr.context.Context.root_block, KeptLatents(), Lock()
    listed = ready(decoder, beside)

    # ------------------------------------------------------------ what is on the screen
    with gr.Column(elem_classes="latents"):
        gr.HTML(f'<p class="latents-intro">{latents_cards.INTRO}</p>', **BARE)
        with gr.Column(elem_classes="latents-controls", min_width=0):
            gr.HTML(cards.heading("Whose output", _HELP_SOURCE), **BARE)
            source = gr.Radio(
                [*listed, ("your own files", OWN)], value=listed[0][1] if listed else OWN,
                label="Whose output", show_label=False, container=False,
                elem_id="latents-source", min_width=0,
            )  # fmt: skip
            with gr.Column(elem_classes="latents-files", min_width=0):
                files = {
                    which: gr.File(
                        label=label, file_types=types, elem_id=f"latents-{which}", height=84
                    )
                    for which, (label, types) in FILES.items()
                }
                protocol = gr.Dropdown(
                    [(f"{SHORTLY[name]} ({name})", name) for name in PROTOCOLS],
                    value="stimulus", label="What your gallery holds", filterable=False,
                    elem_id="latents-protocol", min_width=0,
                )  # fmt: skip
                was_read = gr.HTML(elem_id="latents-read", **BARE)
                gr.HTML(f'<p class="caption">{latents_cards.PRIVACY}</p>', **BARE)
        with gr.Column(elem_classes="latents-story", min_width=0):
            says = gr.HTML(elem_id="latents-says", **BARE)
            with gr.Column(visible=False, elem_classes="latents-result", min_width=0) as result:
                with gr.Row(elem_classes="latents-which"):
                    first = gr.Dropdown(
                        [], label="Decoder", elem_id="latents-first", filterable=False,
                        min_width=0,
                    )  # fmt: skip
                    second = gr.Dropdown(
                        [], label="Compared with", elem_id="latents-second", filterable=False,
                        min_width=0,
                    )  # fmt: skip
                overall = gr.HTML(elem_id="latents-overall", **BARE)
                with gr.Column(elem_classes="latents-curve", min_width=0):
                    gr.HTML(latents_cards.curve_heading(), **BARE)
                    plot = gr.Plot(elem_id="latents-plot", show_label=False, container=False)
                    legend = gr.HTML(**BARE)
                paired = gr.HTML(elem_id="latents-paired", **BARE)
                with gr.Column(elem_classes="latents-one", min_width=0):
                    gr.HTML(cards.heading("One picture", _HELP_PICTURE), **BARE)
                    with gr.Row(elem_classes="latents-picture"):
                        picture = gr.Dropdown(
                            [], label="Picture seen", elem_id="latents-picture",
                            allow_custom_value=True, min_width=0,
                        )  # fmt: skip
                        previous = gr.Button("◀ Previous", elem_id="latents-previous", min_width=0)
                        surprise = gr.Button("Any", elem_id="latents-any", min_width=0)
                        following = gr.Button("Next ▶", elem_id="latents-next", min_width=0)
                    retrieved = gr.HTML(elem_id="latents-retrieved", **BARE)
                    bars = gr.HTML(elem_id="latents-bars", **BARE)
                link = gr.HTML(elem_id="latents-link", **BARE)
    # Its value is the session's name; when it expires, so does what is kept under it.
    token = gr.State(None, time_to_live=60 * MINUTES, delete_callback=kept.drop)
    is_open = gr.State(False)

    # ------------------------------------------------------------ from a choice to the screen
    @cache
    def opened_ready(which: str) -> Opened:
        with lock:
            if which == EXAMPLE:
                return example(decoder)
            bundle = beside[int(which)]
            says = bundle.manifest["source"]
            licences = "; ".join(bundle.manifest["licences"])
            return of_latents(
                LatentsDecoder.of_bundle(bundle), f"{says[:1].upper()}{says[1:]} ({licences})."
            )

    def opened(which: str, session: str) -> Opened | None:
        if which != OWN:
            if which not in [value for _, value in listed]:
                raise InputError("There is no such output here; choose one of the list.")
            return opened_ready(which)
        return kept.get(session).opened

    def of_all(shown: Opened, a: int, b: int) -> dict:
        which = [a] if b in (NOTHING, a) else [a, b]
        figure = json.dumps(latents_cards.curve(shown, which), separators=(",", ":"))
        return {
            overall: latents_cards.overall(shown, which),
            plot: PlotData(type="plotly", plot=figure),
            legend: latents_cards.legend(shown, which),
            paired: latents_cards.paired(shown, *which) if len(which) == 2 else "",
            link: latents_cards.download(shown.to_json(*which)),
        }

    def of_one(shown: Opened, a: int, wanted: str) -> dict:
        decoding = shown.decode(a, find_picture(shown.decoder.gallery, str(wanted)[:200]))
        return {
            # What it says over all pictures stands above; latents.css hides it.
            retrieved: cards.result(shown.decoder, decoding),
            bars: cards.bars(shown.decoder, decoding),
        }

    def everything(shown: Opened | None) -> dict:
        if shown is None:
            return {says: latents_cards.empty(), result: gr.update(visible=False)}
        candidates = shown.decoder.gallery.candidates
        opening = candidates[0].id
        if isinstance(shown.decoder, LatentsDecoder):
            opening = opening_view(shown.decoder).picture
        numbered = list(enumerate(shown.labels))
        several = len(numbered) > 1
        b = 1 if several else NOTHING
        return {
            says: latents_cards.source(shown),
            result: gr.update(visible=True),
            first: gr.update(choices=[(n, i) for i, n in numbered], value=0, visible=several),
            second: gr.update(
                choices=[("nothing", NOTHING), *((n, i) for i, n in numbered)],
                value=b,
                visible=several,
            ),
            picture: gr.update(
                choices=[(one.name, one.id) for one in candidates[:LISTED]], value=opening
            ),
            **of_all(shown, 0, b),
            **of_one(shown, 0, opening),
        }

    def refused(error: InputError) -> dict:
        return {
            says: cards.notice(str(error), error=True),
            result: gr.update(visible=False),
        }

    def show_source(which: str, request: gr.Request) -> dict:
        try:
            if which == OWN and request.session_hash not in kept:
                return {is_open: True, **everything(None)}
            return {is_open: True, **everything(opened(which, request.session_hash))}
        except InputError as error:
            return {is_open: True, **refused(error)}

    def open_tab(already: bool, which: str, request: gr.Request) -> dict:
        # Whoever comes back to the tab finds it as it was.
        return {is_open: True} if already else show_source(which, request)

    def show_decoders(which: str, a: int, b: int, wanted: str, request: gr.Request) -> dict:
        try:
            shown = _there(opened(which, request.session_hash))
            return of_all(shown, *_checked(shown, a, b)) | of_one(shown, a, wanted)
        except InputError as error:
            return refused(error)

    def show_picture(which: str, a: int, wanted: str, request: gr.Request) -> dict:
        try:
            shown = _there(opened(which, request.session_hash))
            return of_one(shown, _checked(shown, a)[0], wanted)
        except InputError as error:
            return {retrieved: cards.notice(str(error), error=True), bars: ""}

    def step(by: int | None, which: str, a: int, wanted: str, request: gr.Request) -> dict:
        try:
            shown = _there(opened(which, request.session_hash))
            gallery = shown.decoder.gallery
            by = random.randrange(1, len(gallery)) if by is None else by
            try:
                row = gallery.index(find_picture(gallery, str(wanted)[:200]))
            except InputError:  # something that was typed: begin anew
                row = -1
            wanted = gallery.candidates[(row + by) % len(gallery)].id
            return {picture: wanted, **of_one(shown, _checked(shown, a)[0], wanted)}
        except InputError as error:
            return {retrieved: cards.notice(str(error), error=True), bars: ""}

    # ------------------------------------------------------------ a visitor's files
    def read(which: str, uploaded: dict | None, holds: str, request: gr.Request) -> dict:
        session, emptied = request.session_hash, {files[which]: None, is_open: True, source: OWN}
        mine = kept.get(session) if session in kept else Mine()
        try:
            if uploaded is None:
                return {is_open: True}
            name, content = read_upload(uploaded, which)
            if which == "names":
                mine.names = name, content
            else:
                mine.arrays[which] = name, content
            mine.protocol = holds
            told = {**emptied, token: session, **_fitted(mine)}
        except InputError as error:
            told = {**emptied, token: session, **refused(error)}
        kept.put(session, mine)
        if session not in blocks.state_holder:  # the page was closed in the meantime
            kept.drop(session)
        return {**told, was_read: latents_cards.read(_parts(mine))}

    def _fitted(mine: Mine) -> dict:
        mine.open()
        if mine.opened is None and mine.arrays:
            missing = "gallery" if "gallery" not in mine.arrays else "latents of your decoder"
            words = cards.notice(f"Now the {missing}, and the figures appear here.")
            return {says: words, result: gr.update(visible=False)}
        return everything(mine.opened)

    def change_protocol(which: str, holds: str, request: gr.Request) -> dict:
        session = request.session_hash
        if which != OWN or session not in kept:
            return {}
        mine = kept.get(session)
        try:
            mine.protocol = check_protocol(holds)
            return _fitted(mine)
        except InputError as error:
            return refused(error)

    # ------------------------------------------------------------ listeners
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    # One after the other, and of changes that come too quickly the last.
    last = quiet | {
        "trigger_mode": "always_last", "concurrency_id": "latents", "concurrency_limit": 1
    }  # fmt: skip
    of_pictures = [retrieved, bars]
    panels = [overall, plot, legend, paired, link, *of_pictures]
    whole = [is_open, says, result, first, second, picture, *panels]
    tab.select(open_tab, [is_open, source], whole, **last)
    source.input(show_source, source, whole, **last)
    gr.on(
        [first.input, second.input], show_decoders, [source, first, second, picture],
        [says, result, *panels], **last,
    )  # fmt: skip
    picture.input(show_picture, [source, first, picture], of_pictures, **last)

    # Not partial functions: gradio counts their parameters wrongly.
    def stepping(by: int | None) -> Callable:
        def go(which: str, a: int, wanted: str, request: gr.Request) -> dict:
            return step(by, which, a, wanted, request)

        return go

    def reading(which: str) -> Callable:
        def go(uploaded: dict | None, holds: str, request: gr.Request) -> dict:
            return read(which, uploaded, holds, request)

        return go

    for button, by in ((previous, -1), (surprise, None), (following, 1)):
        button.click(stepping(by), [source, first, picture], [picture, *of_pictures], **last)
    for which, box in files.items():
        box.upload(
            reading(which), [box, protocol],
            [*whole, *files.values(), source, token, was_read],
            preprocess=False, api_visibility="private", show_progress_on=says,
            # Of their own, so that nobody's large file keeps the others waiting.
            concurrency_id="latents-files", concurrency_limit=1,
        )  # fmt: skip
    protocol.input(change_protocol, [source, protocol], whole, **last)
    public(evaluate_latents)
    public(compare_latents)
    return kept


def ready(decoder: Decoder, beside: Sequence[LatentsBundle]) -> list[tuple[str, str]]:
    """Return what can be chosen without files: (label, value); real data first."""
    listed = [(bundle.name, str(place)) for place, bundle in enumerate(beside)]
    if isinstance(decoder, LatentsDecoder):
        return [*listed, ("what this page shows", EXAMPLE)]
    if has_example(decoder):
        kind = "simulated EEG" if decoder.simulated else "EEG"
        listed.append((f"an example: this page's own encoders, {kind}", EXAMPLE))
    return listed


def _there(shown: Opened | None) -> Opened:
    if shown is None:
        raise InputError("Your files aren't complete yet; add latents and gallery.")
    return shown


def _checked(shown: Opened, *which: int) -> list[int]:
    """Return choices of decoders that exist."""
    known = range(NOTHING, len(shown.whose))
    if any(isinstance(one, bool) or one not in known for one in which) or which[0] == NOTHING:
        raise InputError("There is no such decoder here; choose one of the list.")
    return list(which)


def _parts(mine: Mine) -> dict[str, tuple[str, str]]:
    """Say what was read of a visitor's files."""
    called = {"latents": "Latents", "gallery": "Gallery", "other": "Second decoder"}
    parts = {
        called[which]: (name, f"{rows.shape[0]:,} × {rows.shape[1]:,}")
        for which, (name, rows) in mine.arrays.items()
    }
    if mine.names:
        parts["Names"] = (mine.names[0], f"{len(mine.names[1]):,}")
    return parts


# ---------------------------------------------------------------- public endpoints


def evaluate_latents(
    latents: gr.FileData,
    gallery: gr.FileData,
    names: gr.FileData | None = None,
    protocol: str = "stimulus",
) -> dict:
    """Tell how well a decoder retrieves the pictures that were seen, from its output.

    Returns how often the right picture comes first and among the first five, the median rank and
    more, each with its chance level and 95 % interval, and the rank of every picture. The files
    are deleted as soon as they are read.

    Args:
        latents: File (.npy, .npz, .safetensors) of shape (n, dim): row i is what the decoder made
            of the EEG while picture i was seen. Uploaded; addresses aren't fetched.
        gallery: File of shape (n, dim): the embeddings of the pictures, in the same order.
        names: Text file with one name a line, in the same order; null for none.
        protocol: What the gallery holds: "stimulus" (the very pictures) or "concept centre".
    """
    uploaded = {"latents": latents, "gallery": gallery} | ({"names": names} if names else {})
    return _told(read_uploads(uploaded), protocol)


def compare_latents(
    latents: gr.FileData, other: gr.FileData, gallery: gr.FileData, protocol: str = "stimulus"
) -> dict:
    """Compare two decoders on the same trials, with paired tests.

    Returns the figures of both, the difference of their top-1 and top-5 with its 95 % interval and
    exact McNemar p, that of their mean reciprocal ranks, and a sentence about it. The files are
    deleted as soon as they are read.

    Args:
        latents: File (.npy, .npz, .safetensors) of shape (n, dim): row i is what the first decoder
            made of the EEG while picture i was seen. Uploaded; addresses aren't fetched.
        other: The same of the second decoder.
        gallery: File of shape (n, dim): the embeddings of the pictures, in the same order.
        protocol: What the gallery holds: "stimulus" (the very pictures) or "concept centre".
    """
    return _told(read_uploads({"latents": latents, "other": other, "gallery": gallery}), protocol)


def _told(mine: Mine, protocol: str) -> dict:
    mine.protocol = check_protocol(protocol)
    mine.open()
    return mine.opened.to_json(*range(len(mine.opened.whose)))
