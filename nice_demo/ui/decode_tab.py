"""The tab "Decode a trial": controls, what was seen and retrieved, and the EEG that it came from.

In flow choices of a visitor, through `View`; out flows HTML and one figure. Nothing is kept
between two changes but what the decoder itself keeps, so every visitor sees the same.
"""

import json
from functools import cache
from html import escape

import gradio as gr
import numpy as np

from nice_demo.decode import Decoder, Decoding
from nice_demo.errors import InputError
from nice_demo.ui import cards
from nice_demo.ui.figures import butterfly
from nice_demo.ui.headmap import colour_range, headmap
from nice_demo.ui.view import View, opening_view, view_of, view_of_address

ENCODER_NAMES = {
    "nice": "NICE",
    "nice-sa": "NICE-SA",
    "nice-ga": "NICE-GA",
    "ridge": "ridge regression",
}
BARE = {"js_on_load": None, "apply_default_css": False}  # plain HTML, styled by style.css alone
MOMENT = 0.172  # s, of the first scalp map: about when the response to objects peaks

_HELP_EEG = (
    "Each thin line is one electrode's average over the looks chosen, in microvolts, and global "
    "field power is their spread at each moment. It shows when the brain responds, not what the "
    "encoder uses of it."
)
_HELP_MAP = (
    "The voltage over the head at the moment of the cursor, seen from above with the nose up and "
    "interpolated between the electrodes (dots). What lies under a bright spot needn't be its "
    "source: volume conduction spreads every source over the scalp."
)


def decode_tab(decoder: Decoder) -> None:
    """Put the tab's components and listeners into the page that is being built.

    Parameters
    ----------
    decoder : Decoder
    """
    opening = opening_view(decoder)
    ids = [candidate.id for candidate in decoder.gallery.candidates]
    evoked = opening.decoded_by(decoder).evoked
    has_eeg = decoder.montage is not None and evoked is not None and evoked.volts is not None

    # ------------------------------------------------------------ what is on the screen
    with gr.Column(elem_classes="decode" if has_eeg else "decode without-eeg"):
        with gr.Column(elem_classes="controls", min_width=0):
            subject, encoder, picture = _who_and_what(decoder, opening)
            with gr.Row(elem_classes="steps"):
                previous = gr.Button("◀", elem_id="previous", min_width=0)
                surprise = gr.Button("Surprise me", elem_id="surprise", min_width=0)
                following = gr.Button("▶", elem_id="next", min_width=0)
            repetitions = _repetitions(decoder, opening)
            _words_of_advice(decoder)
        result = gr.HTML(cards.waiting(), elem_id="result", **BARE)
        bars = gr.HTML(elem_id="bars", **BARE)
        if has_eeg:
            with gr.Column(elem_classes="eeg", min_width=0):
                scalp = gr.HTML(elem_id="scalp", **BARE)
                gr.HTML(
                    cards.heading("Simulated EEG" if decoder.simulated else "EEG", _HELP_EEG),
                    **BARE,
                )
                plot = gr.Plot(elem_id="butterfly", show_label=False, container=False)
                moment = _moment(evoked.times)

    # ------------------------------------------------------------ from a choice to the screen
    @cache
    def end_of_colours(of_subject: str) -> float:
        # One range for all of a subject's maps, or nothing could be compared. It comes from the
        # gallery's first picture, so that it doesn't depend on what a visitor looked at first.
        view = View(of_subject, decoder.encoders(of_subject)[0], ids[0], decoder.repetitions[-1])
        return colour_range(view.decoded_by(decoder).evoked.volts)

    def scalp_at(decoding: Decoding, milliseconds: float) -> str:
        times = decoding.evoked.times
        sample = int(np.abs(times - milliseconds / 1e3).argmin())
        when = f"{times[sample] * 1e3:.0f} ms".replace("-", "−")
        end = end_of_colours(decoding.subject)
        image = headmap(decoder.montage, decoding.evoked.volts[:, sample] * 1e6, end, when)
        return (
            f'<section class="scalp"><div class="heading"><h2>Scalp at <span>{when}</span></h2>'
            f"{cards.explained('Scalp map', _HELP_MAP)}</div>{image}"
            f'<p class="caption">{"Simulated EEG. " if decoder.simulated else ""}'
            f"Every map of this subject runs to ±{end:g} µV, the most that a fully averaged "
            "response reaches; what is stronger is cut.</p></section>"
        )

    def shown(decoding: Decoding, milliseconds: float | None, above: str = "") -> tuple:
        panels = (cards.result(decoder, decoding, above), cards.bars(decoder, decoding))
        if not has_eeg:
            return panels
        volts, times = decoding.evoked.volts, decoding.evoked.times
        figure = butterfly(volts, times, decoder.montage.names)
        return *panels, figure, scalp_at(decoding, milliseconds)

    def show(*choices) -> tuple:
        try:
            return shown(view_of(decoder, *choices[:4]).decoded_by(decoder), *choices[4:] or [None])
        except InputError as error:
            return (cards.notice(str(error), error=True), *[gr.skip()] * (len(panels) - 1))

    def show_address(request: gr.Request) -> tuple:
        view, above = opening, ""
        first_moment = moment.value if has_eeg else None
        try:
            view = view_of_address(decoder, dict(request.query_params), opening)
        except InputError as error:
            above = cards.notice(f"{error} Here is another view instead.", error=True)
        choices = (view.subject, view.encoder, view.picture, view.repetitions)
        return *choices, *shown(view.decoded_by(decoder), first_moment, above)

    def show_moment(*choices) -> str:
        try:
            return scalp_at(view_of(decoder, *choices[:4]).decoded_by(decoder), choices[4])
        except InputError as error:
            return cards.notice(str(error), error=True)

    # ------------------------------------------------------------ listeners
    controls = [subject, encoder, picture, repetitions]
    panels = [result, bars, plot, scalp] if has_eeg else [result, bars]
    asked = [*controls, moment] if has_eeg else controls
    private = {"api_visibility": "private", "show_progress": "hidden"}
    # One after the other, and of changes that come too quickly the last: what stands on the screen
    # in the end is what the controls say, however quickly they are moved.
    in_order = private | {
        "trigger_mode": "always_last", "concurrency_id": "view", "concurrency_limit": 1,
    }  # fmt: skip
    gr.on([control.change for control in controls], show, asked, panels, **in_order).then(
        None, controls, js=_write_address(decoder), api_visibility="private"
    )
    if has_eeg:
        moment.change(show_moment, asked, scalp, **in_order)
    for button, by in ((previous, "-1"), (surprise, "null"), (following, "1")):
        # The browser chooses the neighbour, so that no press of a key is lost.
        there = f"(picture) => window.nicePage.neighbour(picture, {by})"
        button.click(None, picture, picture, js=there, api_visibility="private")
    gr.context.Context.root_block.load(show_address, None, [*controls, *panels], **private)

    def decode(subject: str, encoder: str, picture: str, repetitions: int) -> dict:
        """Decode a trial.

        What was seen, the ten nearest candidates with their similarity, and how good the encoder
        is over all pictures. `picture` is an id or a name.
        """
        try:
            view = view_of(decoder, subject, encoder, picture, repetitions)
            return decoder.to_json(view.decoded_by(decoder))
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(decode, api_name="decode")


def _who_and_what(decoder: Decoder, opening: View) -> list[gr.Dropdown]:
    """Make subject, encoder and picture; one with a single choice isn't shown."""
    subjects = [(f"Phantom {s}" if decoder.simulated else s, s) for s in decoder.subjects]
    encoders = list(dict.fromkeys(e for s in decoder.subjects for e in decoder.encoders(s)))
    labelled = [(ENCODER_NAMES.get(name, name), name) for name in encoders]
    pictures = [(candidate.name, candidate.id) for candidate in decoder.gallery.candidates]
    # A name alone must say which picture is meant.
    names = [name for name, _ in pictures]
    pictures = [(n if names.count(n) == 1 else f"{n} ({i})", i) for n, i in pictures]
    return [
        gr.Dropdown(
            subjects, value=opening.subject, label="Subject", elem_id="subject",
            filterable=False, visible=len(subjects) > 1, min_width=0,
        ),
        gr.Dropdown(
            labelled, value=opening.encoder, label="Encoder", elem_id="encoder",
            filterable=False, visible=len(labelled) > 1, min_width=0,
        ),
        gr.Dropdown(
            pictures, value=opening.picture, label="Picture seen", elem_id="picture",
            num_choices_shown=None, min_width=0,
        ),
    ]  # fmt: skip


def _repetitions(decoder: Decoder, opening: View) -> gr.Radio:
    return gr.Radio(
        decoder.repetitions, value=opening.repetitions, label="Repetitions averaged",
        elem_id="repetitions", visible=len(decoder.repetitions) > 1, min_width=0,
    )  # fmt: skip


def _words_of_advice(decoder: Decoder) -> None:
    looks = ""
    if len(decoder.repetitions) > 1:
        first, last = (cards.looks(decoder.repetitions[which]) for which in (0, -1))
        looks = (
            f'<p class="ends"><span>{first}</span><span>{last}</span></p>'
            '<p class="hint">Take <em>repetitions</em> down to one: a single look is nearly '
            "hopeless. That is what EEG is like.</p>"
        )
    keys = "<kbd>←</kbd> <kbd>→</kbd> picture"
    if len(decoder.repetitions) > 1:
        keys += ", <kbd>↑</kbd> <kbd>↓</kbd> repetitions"
    ids = json.dumps([candidate.id for candidate in decoder.gallery.candidates])
    gr.HTML(
        f'<span id="ids" hidden data-ids="{escape(ids)}"></span>'
        f'{looks}<p class="keys">{keys}, <kbd>space</kbd> surprise</p>'
        '<button type="button" id="copy-link">Copy a link to this view</button>',
        elem_id="advice",
        **BARE,
    )


def _moment(times: np.ndarray) -> gr.Slider:
    first, last = round(float(times[0]) * 1e3), round(float(times[-1]) * 1e3)
    step = round(float(times[1] - times[0]) * 1e3) or 1
    start = first + step * round((MOMENT * 1e3 - first) / step)
    return gr.Slider(
        first, last, value=start, step=step, label="Moment of the scalp map (ms)",
        elem_id="moment", container=False, buttons=[], min_width=0,
    )  # fmt: skip


def _write_address(decoder: Decoder) -> str:
    """Return the browser's function that keeps the address in step with the controls."""
    shown = {
        "subject": len(decoder.subjects) > 1,
        "encoder": len({e for s in decoder.subjects for e in decoder.encoders(s)}) > 1,
        "picture": True,
        "repetitions": len(decoder.repetitions) > 1,
    }
    entries = ", ".join(f"{name}" for name, is_shown in shown.items() if is_shown)
    return (
        "(subject, encoder, picture, repetitions) => "
        f"{{ window.nicePage.writeAddress({{{entries}}}); return []; }}"
    )
