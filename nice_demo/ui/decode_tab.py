"""The tab "Decode a trial": controls, what was seen and retrieved, and the EEG that it came from.

In flow choices of a visitor, through `View`; out flows HTML and one figure. Nothing is kept
between two changes but what the decoder itself keeps, so every visitor sees the same.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache, partial
from html import escape

import gradio as gr
import numpy as np

from nice_demo.analysis.series import stored
from nice_demo.decode import BundleDecoder, Decoder, Decoding
from nice_demo.errors import InputError
from nice_demo.ui import attribution, cards
from nice_demo.ui.ahead import Ahead
from nice_demo.ui.attribution import MAPS, TARGETS, Attributions, kinds_of
from nice_demo.ui.figures import butterfly
from nice_demo.ui.headmap import colour_range, headmap
from nice_demo.ui.part_controls import (
    BARE,
    choose,
    electrode_switches,
    presses,
    shuffle_buttons,
    window_sliders,
)
from nice_demo.ui.result_file import links
from nice_demo.ui.view import (
    MOST_SURE,
    View,
    address_of,
    least_of_address,
    moment_of_address,
    opening_view,
    tab_of_address,
    view_of,
    view_of_address,
)

SHUFFLES = 100  # at once

_HELP_EEG = (
    "Each thin line is one electrode's average over the looks chosen, in microvolts, and global "
    "field power is their spread at each moment. It shows when the brain responds, not what the "
    "encoder uses of it. It is always the whole trial; what the encoder doesn't get is shaded."
)
_HELP_MAP = (
    "The voltage over the head at the moment of the cursor, seen from above with the nose up and "
    "interpolated between the electrodes (dots). What lies under a bright spot needn't be its "
    "source: volume conduction spreads every source over the scalp. What is stronger than the ends "
    "of the colours, the most that a fully averaged response reaches, is cut; hollow electrodes "
    "are switched off for the encoder."
)
_WRITE_MAP = "(map) => { window.nicePage.writeAddress(JSON.parse(map || '{}')); return []; }"


def decode_tab(decoder: Decoder, tabs: list[str]) -> Callable[[], None]:
    """Put the tab's components and listeners into the page that is being built.

    Parameters
    ----------
    decoder : Decoder
    tabs : list of str
        Ids of all the page's tabs, which an address may name.

    Returns
    -------
    callable
        Begins to make, aside, what the first visitors may ask for.
    """
    opening = opening_view(decoder)
    ids = [candidate.id for candidate in decoder.gallery.candidates]
    evoked = opening.decoded_by(decoder).evoked
    has_eeg = isinstance(decoder, BundleDecoder)
    has_volts = has_eeg and evoked.volts is not None
    pressed = presses()

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
            if has_eeg:
                electrodes = electrode_switches(decoder, pressed)
                shuffle, shuffle_many = shuffle_buttons(SHUFFLES, pressed)
                # Pressed by a button in the sentence that nothing is left of the EEG.
                whole = gr.Button("Whole EEG", elem_id="whole", visible="hidden")
            least = _least_confidence(opening.decoded_by(decoder).confidence is not None)
            _keys(decoder)
        with gr.Column(elem_classes="story", min_width=0):
            result = gr.HTML(cards.waiting(), elem_id="result", **BARE)
            shuffles = gr.HTML(elem_id="shuffles", **BARE)
        bars = gr.HTML(elem_id="bars", **BARE)
        if has_eeg:
            with gr.Column(elem_classes="eeg" if has_volts else "eeg no-volts", min_width=0):
                if has_volts:
                    scalp = gr.HTML(elem_id="scalp", **BARE)
                carried = gr.HTML(elem_id="carried", **BARE)
                with gr.Row(elem_classes="map-choice"):
                    kind, target = _which_map(decoder, opening)
                words = gr.HTML(elem_id="carried-words", **BARE)
                with gr.Column(elem_classes="in-time", min_width=0):
                    if has_volts:
                        title = "Simulated EEG" if decoder.simulated else "EEG"
                        gr.HTML(cards.heading(title, _HELP_EEG), elem_classes="title", **BARE)
                        plot = gr.Plot(elem_id="butterfly", show_label=False, container=False)
                        moment = _moment(evoked.times)
                    course = gr.HTML(elem_id="course", **BARE)
                    start, end = window_sliders(
                        decoder, evoked.times if has_volts else decoder.times
                    )
    # What the address says of the part and of the map; the browser copies it there.
    unseen = {"visible": "hidden", "container": False, "show_label": False}
    part_address, map_address = gr.Textbox(**unseen), gr.Textbox(**unseen)

    # ------------------------------------------------------------ from a choice to the screen
    @cache
    def end_of_colours(of_subject: str) -> float:
        # One range for all of a subject's maps, or nothing could be compared. It comes from the
        # gallery's first picture, so that it doesn't depend on what a visitor looked at first.
        view = View(of_subject, decoder.encoders(of_subject)[0], ids[0], decoder.repetitions[-1])
        return colour_range(view.decoded_by(decoder).evoked.volts)

    @cache
    def too_sure(of_subject: str, by: str, looks: int) -> float | None:
        """Return mean confidence − accuracy over all pictures, where that was measured."""
        measured = stored(decoder.bundle, "confidence") if has_eeg else None
        if measured is None or of_subject not in measured.about["subjects"]:
            return None
        named = ("encoders", by), ("repetitions", looks)
        at = [measured.about[axis].index(name) for axis, name in named]
        at = measured.about["subjects"].index(of_subject), *at
        hits = measured.arrays["rank"][at] == 1
        return float(measured.arrays["confidence"][at].mean() - hits.mean())

    @lru_cache(maxsize=128)  # of 0.1 MB
    def eeg_of(of_subject: str, condition: int, looks: int) -> dict[str, str]:
        evoked = decoder.evoked(of_subject, condition, looks)
        figure = butterfly(evoked.volts, evoked.times, decoder.montage.names)
        return {"type": "plotly", "plot": json.dumps(figure, separators=(",", ":"))}

    def scalp_at(decoding: Decoding, milliseconds: float) -> str:
        times, part = decoding.evoked.times, decoding.part
        sample = int(np.abs(times - milliseconds / 1e3).argmin())
        when = f"{times[sample] * 1e3:.0f} ms".replace("-", "−")
        end = end_of_colours(decoding.subject)
        volts = decoding.evoked.volts[:, sample] * 1e6
        image = headmap(decoder.montage, volts, end, when, off=part.off)
        says = f"{'Simulated; always' if decoder.simulated else 'Always'} ±{end:g} µV."
        if part.shuffle:
            says = "As it was, not shuffled."
        return (
            f'<section class="scalp"><div class="heading"><h2>Scalp at <span>{when}</span></h2>'
            f"{cards.explained('Scalp map', _HELP_MAP)}</div>{image}"
            f'<p class="caption">{says}</p></section>'
        )

    # The map that follows asks for the same as the verdict.
    decoded = lru_cache(maxsize=128)(partial(View.decoded_by, decoder=decoder))  # of 0.14 MB

    def view_of_decoding(decoding: Decoding) -> View:
        seen, repetitions = ids[decoding.condition], decoding.repetitions
        return View(decoding.subject, decoding.encoder, seen, repetitions, decoding.part)

    def shown(
        decoding: Decoding, least: float, milliseconds: float | None, above: str = ""
    ) -> tuple:
        address = json.dumps(address_of(decoding.part, decoder))
        surplus = too_sure(decoding.subject, decoding.encoder, decoding.repetitions)
        story = cards.result(decoder, decoding, above, least / 100, surplus)
        story += links(view_of_decoding(decoding), decoder, least)
        panels = story, "", cards.bars(decoder, decoding), address
        if not has_volts:
            return panels
        figure = eeg_of(decoding.subject, decoding.condition, decoding.repetitions)
        return *panels, figure, scalp_at(decoding, milliseconds)

    def measure_ranges(view: View) -> None:
        who = view.subject, view.encoder
        attributions.ends(*who, kinds_of(decoder, *who)[0])
        if has_volts:
            end_of_colours(view.subject)

    def draw_map(view: View) -> None:
        map_of(view, kinds_of(decoder, view.subject, view.encoder)[0], next(iter(TARGETS)))

    ahead = Ahead(decoder, measure_ranges, draw_map)

    @ahead.answering()
    def show(*choices) -> tuple:
        try:
            view = view_of(decoder, *choices[: len(controls)])
            if has_eeg:
                ahead.looked_at(view)
            least, *moment = choices[len(controls) :]
            least = least_of_address({"least": str(least)})
            if has_volts:
                moment = [moment_of_address({"moment": moment[0]}, evoked.times)]
            return shown(decoded(view), least, *moment or [None])
        except InputError as error:
            # Bars of another view would be a lie; the trial's own EEG still is what it is.
            unchanged = [gr.skip()] * (len(panels) - 3)
            says = cards.notice(str(error), error=True) + (cards.WHOLE_AGAIN if has_eeg else "")
            return says, "", "", *unchanged

    @ahead.answering()
    def show_moment(*choices) -> str:
        *choices, milliseconds = choices
        try:
            milliseconds = moment_of_address({"moment": milliseconds}, evoked.times)
            return scalp_at(decoded(view_of(decoder, *choices)), milliseconds)
        except InputError:  # which the result says
            return gr.skip()

    @lru_cache(maxsize=256)  # of 0.02 MB
    def map_of(view: View, kind: str, target: str) -> tuple:
        try:
            decoding = decoded(view)
        except InputError:  # which the result says
            return *attribution.nothing(), gr.skip()
        try:
            drawn = attributions.drawn(decoding, kind, target)
        except InputError as error:
            drawn = attribution.refused(str(error))
        return *drawn, json.dumps(attributions.address(view, kind, target))

    @ahead.answering()
    def show_map(*choices) -> tuple:
        *choices, kind, target = choices
        try:
            return map_of(view_of(decoder, *choices), str(kind), str(target))
        except InputError:  # which the result says
            return *attribution.nothing(), gr.skip()

    @ahead.answering()
    def show_shuffles(*choices) -> str:
        try:
            view = view_of(decoder, *choices)
            view = replace(view, part=replace(view.part, shuffle=0))
            decoding = view.decoded_by(decoder)
        except InputError as error:
            return cards.notice(str(error), error=True)
        ranks = decoder.shuffled_ranks(decoding, SHUFFLES)
        return cards.shuffles(ranks, decoding.rank, len(ids))

    @ahead.answering()
    def show_address(request: gr.Request) -> tuple:
        address, view, above = dict(request.query_params), opening, ""
        try:
            view = view_of_address(decoder, address, opening)
        except InputError as error:
            above = cards.notice(f"{error} Here is another view instead.", error=True)
        try:
            tab_of_address(address, tabs)  # which the browser opens
        except InputError as error:
            above += cards.notice(f"{error} Here is the first one instead.", error=True)
        confidence, milliseconds = least.value, moment.value if has_volts else None
        try:
            confidence = least_of_address(address)
            if has_volts:
                milliseconds = moment_of_address(address, evoked.times)
        except InputError as error:
            above += cards.notice(f"{error} It is left as it is on a first visit.", error=True)
        choices = [view.subject, view.encoder, view.picture, view.repetitions]
        if has_eeg:
            on = [name for name in decoder.montage.names if name not in view.part.off]
            window = [round(1e3 * edge, 3) for edge in view.part.window(decoder.times)]
            choices += [on, *window, view.part.shuffle]
            try:
                choices += attributions.of_address(view, address)
            except InputError as error:
                above += cards.notice(f"{error} Here is another map instead.", error=True)
                choices += attributions.of_address(view, {})
        if has_eeg:
            ahead.looked_at(view)
        how = (confidence, milliseconds) if has_volts else (confidence,)
        decoding = decoded(view)
        return *choices, *how, *shown(decoding, confidence, milliseconds, above)

    # ------------------------------------------------------------ listeners
    controls, which_map = [subject, encoder, picture, repetitions], []
    panels = [result, shuffles, bars, part_address]
    if has_eeg:
        attributions, which_map = Attributions(decoder), [kind, target]
        controls += [electrodes, start, end, shuffle]
    if has_volts:
        panels += [plot, scalp]
    asked = [*controls, least, moment] if has_volts else [*controls, least]
    # All that comes in is checked by `view_of` and the like, and all that goes out is ready:
    # gradio's own look at each value would take a thread's turn for every one, most of an answer.
    as_it_is = {"preprocess": False, "postprocess": False}
    private = {"api_visibility": "private", "show_progress": "hidden", **as_it_is}
    # One after the other, and of changes that come too quickly the last: what stands on the screen
    # in the end is what the controls say, however quickly they are moved.
    last = private | {"trigger_mode": "always_last", "concurrency_limit": 1}
    in_order, later = last | {"concurrency_id": "view"}, last | {"concurrency_id": "map"}
    # What visitors do themselves, and not what an address does to the controls: the answer to that
    # shows all of it at once.
    by_button = [encoder, shuffle] if has_eeg else []
    asking = [control.input for control in (*controls, least) if control not in by_button]
    verdict = gr.on([*asking, pressed.change], show, asked, panels, **in_order)
    verdict.then(
        None, [*controls[:4], part_address, least], js=_write_address(decoder),
        api_visibility="private",
    )  # fmt: skip
    how_shown = asked[len(controls) :]
    loaded = gr.context.Context.root_block.load(
        show_address, None, [*controls, *which_map, *how_shown, *panels], **private
    )
    if has_eeg:
        # The decoding is on the screen first; what carried it takes longer and follows.
        map_and_words = [*controls, *which_map], [carried, words, course, map_address]
        verdict.then(show_map, *map_and_words, **later)
        loaded.then(show_map, *map_and_words, **later)
        gr.on([kind.input, target.input], show_map, *map_and_words, **later)
        map_address.change(None, map_address, js=_WRITE_MAP, api_visibility="private")
        # An encoder begins with the map that suits it.
        first = {by: kinds[0] for by, kinds in _kinds_by_encoder(decoder).items()}
        choose(encoder.input, [encoder, kind], pressed, f"(e) => [e, {json.dumps(first)}[e]]")
        whole_eeg = decoder.montage.names, start.minimum, start.maximum, 0
        choose(whole.click, controls[4:], pressed, f"() => {json.dumps(whole_eeg)}")
        shuffle_many.click(show_shuffles, controls, shuffles, **in_order)
    if has_volts:
        moment.input(show_moment, [*controls, moment], scalp, **in_order)
        write = f"window.nicePage.writeAddress({{moment: at === {moment.value} ? '' : at}})"
        moment.input(
            None, moment, js=f"(at) => {{ {write}; return []; }}", api_visibility="private"
        )
    for button, by in ((previous, "-1"), (surprise, "null"), (following, "1")):
        there = f"(picture) => [window.nicePage.neighbour(picture, {by})]"
        choose(button.click, [picture], pressed, there)
    return partial(ahead.looked_at, opening) if has_eeg else lambda: None


def _who_and_what(decoder: Decoder, opening: View) -> list[gr.Dropdown]:
    """Make subject, encoder and picture; one with a single choice isn't shown."""
    subjects = [(f"Phantom {s}" if decoder.simulated else s, s) for s in decoder.subjects]
    encoders = list(dict.fromkeys(e for s in decoder.subjects for e in decoder.encoders(s)))
    labelled = [(cards.ENCODER_NAMES.get(name, name), name) for name in encoders]
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


def _least_confidence(has_confidence: bool) -> gr.Slider:
    """Make the slider below whose confidence the decoder stays silent."""
    return gr.Slider(
        0, MOST_SURE, value=0, step=5, label="Rather not say if less sure than (%)",
        elem_id="least", visible=has_confidence, buttons=[], min_width=0,
    )  # fmt: skip


def _kinds_by_encoder(decoder: BundleDecoder) -> dict[str, list[str]]:
    """Return the kinds of maps that each encoder can have."""
    # One subject for each encoder: to open all encoders takes long, and memory.
    with_encoder = {e: s for s in reversed(decoder.subjects) for e in decoder.encoders(s)}
    return {e: kinds_of(decoder, subject, e) for e, subject in with_encoder.items()}


def _which_map(decoder: BundleDecoder, opening: View) -> list[gr.Dropdown]:
    kinds = _kinds_by_encoder(decoder).values()
    possible = [(name, kind) for kind, name in MAPS.items() if any(kind in own for own in kinds)]
    first = kinds_of(decoder, opening.subject, opening.encoder)[0]
    return [
        gr.Dropdown(
            possible, value=first, label="What carried it: map", elem_id="map-kind",
            filterable=False, container=False, min_width=0,
        ),
        gr.Dropdown(
            [(label, name) for name, label in TARGETS.items()], value="seen",
            label="Similarity to which picture", elem_id="map-target", filterable=False,
            container=False, min_width=0,
        ),
    ]  # fmt: skip


def _words_of_advice(decoder: Decoder) -> None:
    if len(decoder.repetitions) == 1:
        return
    first, last = (cards.looks(decoder.repetitions[which]) for which in (0, -1))
    gr.HTML(
        f'<p class="ends"><span>{first}</span><span>{last}</span></p>'
        '<p class="hint">Take <em>repetitions</em> down to one: a single look is nearly '
        "hopeless. That is what EEG is like.</p>",
        elem_id="advice",
        **BARE,
    )


def _keys(decoder: Decoder) -> None:
    keys = "<kbd>←</kbd> <kbd>→</kbd> picture"
    if len(decoder.repetitions) > 1:
        keys += ", <kbd>↑</kbd> <kbd>↓</kbd> repetitions"
    ids = json.dumps([candidate.id for candidate in decoder.gallery.candidates])
    gr.HTML(
        f'<span id="ids" hidden data-ids="{escape(ids)}"></span>'
        f'<p class="keys">{keys}, <kbd>space</kbd> surprise</p>'
        '<button type="button" id="copy-link">Copy a link to this view</button>'
        '<button type="button" id="show-around">Show me around</button>',
        elem_id="keys",
        **BARE,
    )


def _moment(times: np.ndarray) -> gr.Slider:
    first, last = round(float(times[0]) * 1e3), round(float(times[-1]) * 1e3)
    step = round(float(times[1] - times[0]) * 1e3) or 1
    return gr.Slider(
        first, last, value=moment_of_address({}, times), step=step,
        label="Moment of the scalp map (ms)", elem_id="moment", container=False, buttons=[],
        min_width=0,
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
        "(subject, encoder, picture, repetitions, part, least) => { window.nicePage.writeAddress("
        f"{{{entries}, ...JSON.parse(part || '{{}}'), least: least || ''}}); return []; }}"
    )
