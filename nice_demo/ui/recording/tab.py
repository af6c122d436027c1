"""The tab "Your EEG": from a visitor's files to evoked responses and retrieved pictures.

In flow files, which are deleted as soon as they are read, and what the visitor says about them; out
flow what was read, what its channels were taken for, and what an encoder makes of it. A recording
lives in memory for as long as its session, see `nice_demo.ui.kept`.
"""

import json
from dataclasses import replace
from html import escape

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.decode.recording import (
    ACROSS_SUBJECTS,
    SIMULATED,
    decode_epochs,
    differences,
    expectation,
    summary,
    to_json,
)
from nice_demo.errors import InputError
from nice_demo.montage import Montage
from nice_demo.sources.recordings.channels import corrected, match_channels
from nice_demo.sources.recordings.epochs import AS_RECORDED, LEAST_CHANNELS, default_steps
from nice_demo.ui import cards
from nice_demo.ui.api import public
from nice_demo.ui.decode_tab import BARE
from nice_demo.ui.figures import butterfly
from nice_demo.ui.headmap import colour_range, headmap
from nice_demo.ui.kept import MINUTES, Kept, Own
from nice_demo.ui.recording import cards as recording_cards
from nice_demo.ui.recording.cards import events_of, shown
from nice_demo.ui.recording.steps import (
    ALL,
    chosen_steps,
    example,
    has_example,
    need_a_look,
    prepare,
    read_uploaded,
    references,
    to_correct,
)
from nice_demo.ui.view import MOMENT

EVENTS = 50  # kinds that can be ticked
STEP = 4  # ms, of the slider
_ALL_EVENTS = "[...document.querySelectorAll('#own-events input')].map((box) => box.name)"

_HELP_FILES = (
    "EEG from any device and lab, as its program wrote it. It is read by MNE-Python in a process "
    "of its own, with limits on memory and time; files that can hold programs (pickles) are "
    "refused."
)
_HELP_CHANNELS = (
    "Which of the cap's electrodes each channel is, told from its name. Encoders take all of the "
    "cap: what is missing is interpolated from its neighbours, which adds no information."
)
_HELP_EVENTS = (
    "Epochs are cut around the events you tick, and averaged for each kind. An event that is named "
    "as a picture of the gallery (its id, name or concept) also gets a rank."
)
_HELP_DECODE = (
    "The steps of the encoders' own training data are taken, as far as your recording allows; "
    "then the average of each kind of event is given to the encoder you choose."
)
_HELP_EVOKED = (
    "Each thin line is one electrode's average over your epochs, and global field power is their "
    "spread at each moment. It shows when the brain responds to the event, not what the encoder "
    "uses of it."
)
_HELP_MAP = (
    "The voltage over the head at the moment of the cursor, seen from above with the nose up and "
    "interpolated between the electrodes (dots). The colours mean the same at every moment, and "
    "for one kind of event as for another."
)
_SIMULATED_EXAMPLE = (
    "Simulated EEG of a phantom, decoded by encoders trained on simulated EEG: this shows how the "
    "page works, and nothing about brains."
)
_NO_EVENTS = (
    "There are no events in this recording, so that nothing can be averaged; add annotations or a "
    "trigger channel to the file."
)
_READ = (
    '<p class="own-hint">Please check the channels and the events. Then prepare and decode: that '
    "takes some seconds.</p>"
)
_TOO_FEW = f"Nothing is decoded: fewer than {LEAST_CHANNELS} of the cap's electrodes are there."


def recording_tab(bundle: Bundle, tab: gr.Tab) -> Kept:
    """Put the tab's components and listeners into the page that is being built.

    Parameters
    ----------
    bundle : Bundle
    tab : gradio.Tab
        Around it.

    Returns
    -------
    Kept
        Visitors' recordings.
    """
    blocks, kept, decoder = gr.context.Context.root_block, Kept(), BundleDecoder(bundle)
    montage = bundle.montage
    expect = expectation(bundle)

    # ------------------------------------------------------------ what is on the screen
    with gr.Column(elem_classes="own"):
        upfront = [expect, recording_cards.PRIVACY]
        gr.HTML(recording_cards.upfront(upfront), elem_id="own-expect", **BARE)
        with gr.Column(elem_classes="own-steps", min_width=0):
            gr.HTML(recording_cards.step(1, "Your recording", _HELP_FILES), **BARE)
            files = gr.File(
                file_count="multiple", label="Files of one recording", show_label=False,
                elem_id="own-files", height=140,
            )  # fmt: skip
            there_is_one = has_example(bundle)
            label = "Try it without a file: a simulated recording" if there_is_one else ""
            try_it = gr.Button(label, elem_id="own-example", visible=there_is_one, min_width=0)
            what = gr.HTML(elem_id="own-read", **BARE)
            with gr.Column(visible=False, elem_classes="own-choices", min_width=0) as choices:
                gr.HTML(recording_cards.step(2, "Channels", _HELP_CHANNELS), **BARE)
                channels = gr.HTML(elem_id="own-channels", **BARE)
                with gr.Accordion(
                    "Correct by hand", open=False, elem_id="own-correct", elem_classes="own-fold"
                ) as correct:
                    by_hand = gr.Textbox(
                        label="Name in the file = electrode",
                        info="One channel a line; nothing after = leaves it out.",
                        placeholder="EEG 1 = O1\nEEG 2 = Oz", lines=3, max_lines=8,
                        max_length=10_000, elem_id="own-by-hand",
                    )  # fmt: skip
                with gr.Row(elem_classes="own-ticks"):
                    gr.HTML(recording_cards.step(3, "Events", _HELP_EVENTS), **BARE)
                    tick_all = gr.Button("all", elem_id="own-all", min_width=0)
                    tick_none = gr.Button("none", elem_id="own-none", min_width=0)
                events = gr.CheckboxGroup([], label="Average each of these", elem_id="own-events")
                with gr.Accordion(
                    "How it is prepared", open=False, elem_id="own-how", elem_classes="own-fold"
                ):
                    how = _how(montage)
        with gr.Column(elem_classes="own-story", min_width=0):
            with gr.Column(visible=False, elem_classes="own-decode", min_width=0) as ready:
                gr.HTML(recording_cards.step(4, "Decode", _HELP_DECODE), **BARE)
                with gr.Row(elem_classes="own-who"):
                    subject, encoder = _who(bundle)
                    go = gr.Button(
                        "Prepare and decode", elem_id="own-go", variant="primary", min_width=0
                    )
            status = gr.HTML(recording_cards.empty(), elem_id="own-status", **BARE)
            with gr.Column(visible=False, elem_classes="own-evoked", min_width=0) as evoked:
                with gr.Row(elem_classes="own-which"):
                    gr.HTML(cards.heading("Your average", _HELP_EVOKED), **BARE)
                    average = gr.Dropdown(
                        [("all epochs", ALL)], value=ALL, label="Average of", container=False,
                        filterable=False, elem_id="own-average", min_width=0,
                    )  # fmt: skip
                with gr.Column(elem_classes="own-in-time", min_width=0):
                    plot = gr.Plot(elem_id="own-butterfly", show_label=False, container=False)
                    moment = gr.Slider(
                        -200, 996, value=round(1e3 * MOMENT), step=STEP, elem_id="own-moment",
                        label="Moment of the scalp map (ms)", container=False, buttons=[],
                        min_width=0,
                    )  # fmt: skip
                scalp = gr.HTML(elem_id="own-scalp", **BARE)
            result = gr.HTML(elem_id="own-result", **BARE)
    # Its value is the session's name; when it expires, so does what is kept under it.
    token = gr.State(None, time_to_live=60 * MINUTES, delete_callback=kept.drop)

    # ------------------------------------------------------------ reading
    def keep(session: str, own: Own, before: Own | None = None) -> None:
        kept.put(session, own, before)
        if session not in blocks.state_holder:  # the page was closed in the meantime
            kept.drop(session)

    def show_recording(own: Own, session: str, whose: str) -> dict:
        recording = own.recording
        matches = match_channels(recording.channels, montage)
        steps = default_steps(bundle.manifest, recording, matches)
        kinds = events_of(recording)
        most = {name for name, _ in sorted(kinds, key=lambda kind: -kind[1])[:EVENTS]}
        ticked = [(f"{shown(name)} ({count})", name) for name, count in kinds if name in most]
        label = "Average each of these"
        if len(kinds) > EVENTS:
            label += f" (the {EVENTS} most frequent of {len(kinds)})"
        reference = steps.reference if steps.reference in references(montage) else AS_RECORDED
        reject = None if steps.reject is None else 1e6 * steps.reject
        prepared = reference, steps.low, steps.high, steps.notch or 0, steps.baseline, reject
        keep(session, own)
        return {
            token: session,
            what: recording_cards.read(recording),
            choices: gr.update(visible=True),
            ready: gr.update(visible=bool(kinds)),
            channels: recording_cards.mapping(matches, steps.electrodes, montage),
            correct: gr.update(open=need_a_look(matches)),
            by_hand: to_correct(matches, steps.electrodes),
            events: gr.update(
                choices=ticked, value=[n for n in steps.events if n in most], label=label
            ),
            subject: whose,
            status: _READ if kinds else cards.notice(_NO_EVENTS, error=True),
            evoked: gr.update(visible=False),
            result: "",
            **dict(zip(how, prepared, strict=True)),
        }

    def show_refusal(error: InputError) -> dict:
        return {
            token: None,
            what: cards.notice(str(error), error=True),
            choices: gr.update(visible=False),
            ready: gr.update(visible=False),
            status: recording_cards.empty(),
            evoked: gr.update(visible=False),
            result: "",
        }

    def read_files(uploaded: list[dict] | None, whose: str, request: gr.Request) -> dict:
        kept.drop(request.session_hash)  # the one before
        try:
            own = Own(read_uploaded(uploaded or []))
            return {files: None, **show_recording(own, request.session_hash, whose)}
        except InputError as error:
            return {files: None, **show_refusal(error)}

    def read_example(request: gr.Request) -> dict:
        try:
            recording, whose = example(bundle)
            return show_recording(Own(recording, simulated=True), request.session_hash, whose)
        except InputError as error:
            return show_refusal(error)

    def show_channels(text: str, request: gr.Request) -> str:
        try:
            recording = kept.get(request.session_hash).recording
            matches = match_channels(recording.channels, montage)
            told = default_steps(bundle.manifest, recording, matches).electrodes
            electrodes = corrected(told, recording.channels, text, montage)
            return recording_cards.mapping(matches, electrodes, montage)
        except InputError as error:
            return cards.notice(str(error), error=True)

    # ------------------------------------------------------------ preparing and decoding
    def decode(own: Own, whose: str, by: str, choices: tuple, progress) -> tuple[Own, str, dict]:
        """Return what is to be kept, the result as HTML, and all of it as JSON."""
        bundle.encoder(whose, by)  # that there is none is said before the work, not after
        steps = chosen_steps(bundle, own.recording, *choices)
        own = prepare(own, steps, montage, decoder.times, progress)
        own = replace(own, notes=[*own.epochs.notes, *differences(bundle, own.recording, steps)])
        decodings = []
        if own.epochs.eeg is not None:
            progress(0.95, "decoding")
            decodings = decode_epochs(bundle, whose, by, own.epochs)
        matches = match_channels(own.recording.channels, montage)
        told = to_json(bundle, whose, by, own.recording, matches, steps, own.epochs, decodings)
        told["recording_is_simulated"] = own.simulated
        caution = SIMULATED if bundle.simulated else ACROSS_SUBJECTS
        if own.simulated:
            told["expectation"] = caution = _SIMULATED_EXAMPLE
        link = recording_cards.download(told)
        if not decodings:
            return own, cards.notice(_TOO_FEW) + link, told
        over_all = summary(bundle, decodings)
        return own, recording_cards.decoded(bundle, decodings, over_all, caution, link), told

    def prepare_and_decode(
        whose: str, by: str, ticked: list[str], text: str, reference: str, low: float, high: float,
        notch: float, baseline: bool, reject: float, request: gr.Request, progress=gr.Progress(),  # noqa: B008
    ) -> dict:  # fmt: skip
        chosen = ticked, text, reference, low, high, notch, baseline, reject
        try:
            before = kept.get(request.session_hash)
            own, decoded, _ = decode(
                before, whose, by, chosen, lambda share, words: progress(share, desc=words)
            )
        except InputError as error:
            says = cards.notice(str(error), error=True)
            return {status: says, evoked: gr.update(visible=False), result: ""}
        keep(request.session_hash, own, before)
        epochs, kinds = own.epochs, list(own.evokeds)[1:]
        first, last = (round(1e3 * float(time)) for time in epochs.all_times[[0, -1]])
        at = min(max(first, round(1e3 * MOMENT)), last)
        averages = [(f"all {len(epochs.conditions)} epochs", ALL)]
        averages += [(f"{shown(name)} ({own.evokeds[name][1]})", name) for name in kinds]
        return {
            status: recording_cards.prepared(epochs, own.notes),
            evoked: gr.update(visible=True),
            average: gr.update(choices=averages, value=ALL),
            moment: gr.update(minimum=first, maximum=last, value=at),
            plot: _figure(own, ALL),
            scalp: _scalp(own, ALL, at, montage),
            result: decoded,
        }

    def show_average(condition: str, milliseconds: float, request: gr.Request) -> tuple:
        try:
            own = kept.get(request.session_hash)
            return _figure(own, condition), _scalp(own, condition, milliseconds, montage)
        except InputError as error:
            return gr.skip(), cards.notice(str(error), error=True)

    def show_moment(condition: str, milliseconds: float, request: gr.Request) -> str:
        try:
            return _scalp(kept.get(request.session_hash), condition, milliseconds, montage)
        except InputError as error:
            return cards.notice(str(error), error=True)

    # ------------------------------------------------------------ listeners
    shown_first = [token, files, what, choices, ready, channels, correct, by_hand, events]
    shown_first += [subject, *how, status, evoked, result]
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    reading = {"concurrency_id": "reading", "concurrency_limit": 2, "api_visibility": "private"}
    # Without gradio's own preprocessing, which would leave an empty file behind for each.
    files.upload(
        read_files,
        [files, subject],
        shown_first,
        preprocess=False,
        show_progress_on=what,
        **reading,
    )
    try_it.click(read_example, None, shown_first, show_progress_on=what, **reading)
    gr.on([by_hand.submit, by_hand.blur], show_channels, by_hand, channels, **quiet)
    for button, ticked in ((tick_all, _ALL_EVENTS), (tick_none, "[]")):
        button.click(None, None, events, js=f"() => [{ticked}]", api_visibility="private")
    go.click(
        prepare_and_decode, [subject, encoder, events, by_hand, *how],
        [status, evoked, average, moment, plot, scalp, result], show_progress_on=status,
        concurrency_id="recording", concurrency_limit=1, api_visibility="private",
    )  # fmt: skip
    # In order, or the map of the moment before would overtake that of the moment chosen.
    last = quiet | {"trigger_mode": "always_last"}
    last |= {"concurrency_id": "own-view", "concurrency_limit": 1}
    average.input(show_average, [average, moment], [plot, scalp], **last)
    moment.input(show_moment, [average, moment], scalp, **last)

    def decode_recording(
        files: list[gr.FileData],
        subject: str,
        encoder: str,
        events: list[str] | None = None,
        channels: str = "",
        reference: str | None = None,
        low_hz: float | None = None,
        high_hz: float | None = None,
        notch_hz: float | None = None,
        baseline: bool = True,
        reject_uv: float | None = None,
    ) -> dict:
        """Decode a recording of your own: read it, prepare epochs, average them, retrieve pictures.

        Nothing is kept: the files are deleted as soon as they are read. What comes back: what was
        done, and for each event the ten nearest pictures of the gallery with their similarity and,
        where the event is named as one of them, its rank; how well that went over all of them.

        Args:
            files: Those of one recording: .fif, .edf, .bdf, .set (and .fdt), BrainVision's three,
                a .zip of them, .npz or .safetensors. Uploaded; addresses aren't fetched.
            subject: Whose encoders to use.
            encoder: Which of them, such as "nice".
            events: Names of the events to average; None for all.
            channels: Corrections by hand, such as "EEG 1 = O1, EEG 2 = Oz"; nothing after "="
                leaves a channel out.
            reference: "as recorded", "average" or an electrode; None for what suits the
                encoders.
            low_hz: Lower end of the filter; None for the default, 0 for none.
            high_hz: Upper end of the filter; None for the default, 0 for none.
            notch_hz: Frequency of the mains to be removed, with its multiples; None for none.
            baseline: Whether the mean before each event is subtracted.
            reject_uv: Epochs whose highest and lowest value differ by more are dropped, in µV.
        """
        recording = read_uploaded(files)
        matches = match_channels(recording.channels, montage)
        steps = default_steps(bundle.manifest, recording, matches)
        chosen = (
            [name for name, _ in events_of(recording)] if events is None else events,
            channels,
            steps.reference if reference is None else reference,
            steps.low if low_hz is None else low_hz,
            steps.high if high_hz is None else high_hz,
            notch_hz,
            baseline,
            reject_uv,
        )
        return decode(Own(recording), subject, encoder, chosen, lambda share, words: None)[2]

    public(decode_recording, concurrency_id="recording", concurrency_limit=1)
    return kept


# ---------------------------------------------------------------- controls


def _how(montage: Montage) -> list[gr.components.Component]:
    """Make the controls of the preparation, in the order of `chosen_steps`.

    They are empty until a recording tells what suits it. gradio makes what is folded away when it
    is opened first, and gives it its values a moment later: a wrong value must not be seen before.
    """
    small = {"min_width": 0}
    with gr.Row(elem_classes="own-numbers"):
        reference = gr.Dropdown(
            references(montage), value=None, label="Reference", elem_id="own-reference", **small
        )  # fmt: skip
        low = gr.Number(None, label="Filter from (Hz)", minimum=0, elem_id="own-low", **small)
        high = gr.Number(None, label="Filter to (Hz)", minimum=0, elem_id="own-high", **small)
        mains = [("no", 0), ("50 Hz", 50), ("60 Hz", 60)]
        notch = gr.Dropdown(
            mains, value=None, label="Remove mains", filterable=False, elem_id="own-notch", **small
        )
        reject = gr.Number(
            None, label="Drop epochs above (µV)", minimum=0, elem_id="own-reject", **small
        )
    baseline = gr.Checkbox(
        True, label="Subtract the mean before the event", elem_id="own-baseline", **small
    )
    return [reference, low, high, notch, baseline, reject]


def _who(bundle: Bundle) -> list[gr.Dropdown]:
    """Make the choice of encoders; what has a single choice isn't shown."""
    subjects = [(f"Phantom {s}" if bundle.simulated else s, s) for s in bundle.subjects]
    encoders = list(dict.fromkeys(e for s in bundle.subjects for e in bundle.encoders(s)))
    encoders = [(cards.ENCODER_NAMES.get(name, name), name) for name in encoders]
    return [
        gr.Dropdown(
            subjects, value=subjects[0][1], label="Trained on", elem_id="own-subject",
            filterable=False, visible=len(subjects) > 1, min_width=0,
        ),
        gr.Dropdown(
            encoders, value=encoders[0][1], label="Encoder", elem_id="own-encoder",
            filterable=False, visible=len(encoders) > 1, min_width=0,
        ),
    ]  # fmt: skip


# ---------------------------------------------------------------- figures


def _average(own: Own, condition: str) -> np.ndarray:
    if condition not in own.evokeds:
        raise InputError("There is no such average any more; press Prepare and decode again.")
    return own.evokeds[condition][0]


def _figure(own: Own, condition: str) -> PlotData:
    names = [escape(name) for name in own.epochs.channels]
    figure = butterfly(_average(own, condition), own.epochs.all_times, names)
    figure["layout"]["xaxis"]["title"]["text"] = "time after the event (ms)"
    return PlotData(type="plotly", plot=json.dumps(figure, separators=(",", ":")))


def _scalp(own: Own, condition: str, milliseconds: float, montage: Montage) -> str:
    volts, times = _average(own, condition), own.epochs.all_times
    sample = int(np.abs(times - milliseconds / 1e3).argmin())
    when = f"{times[sample] * 1e3:.0f} ms".replace("-", "−")
    # The style moves the cursor over the curves.
    share = (times[sample] - times[0]) / (times[-1] - times[0])
    heading = (
        f"<style>#own-butterfly{{--moment:{share:.4f}}}</style>"
        f'<div class="heading"><h2>Scalp at <span>{when}</span></h2>'
        f"{cards.explained('Scalp map', _HELP_MAP)}</div>"
    )
    if own.epochs.channels != montage.names:
        words = "Of so few electrodes most of a map would be invented, so there is none."
        return f'<section class="scalp">{heading}<p class="no-head">{words}</p></section>'
    # One range for all kinds of events, or they couldn't be compared; all of them together are
    # averaged over many more epochs.
    alike = [ALL] if condition == ALL else [name for name in own.evokeds if name != ALL]
    end = max(colour_range(own.evokeds[name][0]) for name in alike)
    image = headmap(montage, 1e6 * volts[:, sample], end, when)
    says = f"{'Simulated; always' if own.simulated else 'Always'} ±{end:g} µV."
    return f'<section class="scalp">{heading}{image}<p class="caption">{says}</p></section>'
