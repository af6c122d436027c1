"""Controls for the part of the EEG that the encoder gets: electrodes, window, shuffle.

All are gradio's own checkboxes, sliders and buttons, so that mouse, Tab, Space and Enter work by
themselves; style.css and the positions written here lay them over a head and over a time axis.
"""

import json
from collections.abc import Callable

import gradio as gr
import numpy as np

from nice_demo.decode import Decoder, end_of
from nice_demo.montage import REGIONS
from nice_demo.ui import cards
from nice_demo.ui.view import presets

BARE = {"js_on_load": None, "apply_default_css": False}  # plain HTML, styled by style.css alone
STEP = 0.02  # s, of the window

_HELP_ELECTRODES = (
    "Seen from above, nose up; a click switches an electrode off and on. What is off is zero for "
    "the encoder, which was trained with all of them: one trained without it might do better. "
    "Whitening has mixed a little of every electrode into each, so that a trace of it remains."
)
_HELP_WINDOW = (
    "The encoder gets the EEG between the two marks; the rest is zero. The bars are what each 20 "
    "ms add according to the map. In the experiment pictures follow each other every 200 ms, so "
    "that the later part also holds responses to the next pictures."
)
_HELP_SHUFFLE = (
    "All values of this trial that the encoder gets, in a random order over electrodes and "
    "moments. What is retrieved then can't come from the picture: that is what chance looks like, "
    "and it tends to favour the same few candidates."
)


def presses() -> gr.Textbox:
    """Make what nobody sees and what changes with each press of a button that chooses something.

    Listeners to visitors' own input (and not to any change, which an address makes as well) hear
    of buttons only so.
    """
    return gr.Textbox(visible="hidden", container=False, show_label=False)


def choose(
    trigger: Callable, controls: list[gr.components.Component], pressed: gr.Textbox, choice: str
) -> None:
    """Let the browser choose, which loses no press.

    Parameters
    ----------
    trigger : callable
        Such as a button's `click`.
    controls : list of gradio components
        Whose values it changes.
    pressed : gradio.Textbox
        Changes after them; see `presses`.
    choice : str
        JavaScript: from the values before to an array of those after.
    """
    js = f"(...before) => [...({choice})(...before), window.nicePage.pressed()]"
    trigger(None, controls, [*controls, pressed], js=js, api_visibility="private")


def electrode_switches(decoder: Decoder, pressed: gr.Textbox) -> gr.CheckboxGroup:
    """Put a head of switches on the page, with presets and regions above and below."""
    names, known = decoder.montage.names, presets(decoder.montage.names)
    with gr.Row(elem_classes="electrode-heading"):
        gr.HTML(cards.heading("Electrodes", _HELP_ELECTRODES) + _places(decoder), **BARE)
        of_preset = [("all", names), *known.items()]
        buttons = [gr.Button(n, elem_id=f"preset-{n}", min_width=0) for n, _ in of_preset]
    electrodes = gr.CheckboxGroup(
        names, value=names, label="Electrodes", elem_id="electrodes", container=False, min_width=0
    )
    with gr.Row(elem_classes="regions"):
        of_region = [(r, [n for n in own if n in names]) for r, own in REGIONS.items()]
        of_region = [(region, own) for region, own in of_region if own]
        buttons += [gr.Button(r, elem_id=f"region-{r}", min_width=0) for r, _ in of_region]
    choices = [f"() => [{json.dumps(chosen)}]" for _, chosen in of_preset]
    choices += [
        f"(on) => [window.nicePage.toggleRegion(on, {json.dumps(own)})]" for _, own in of_region
    ]
    for button, choice in zip(buttons, choices, strict=True):
        choose(button.click, [electrodes], pressed, choice)
    return electrodes


def _places(decoder: Decoder) -> str:
    """Return a style that puts each checkbox where its electrode is."""
    flat = decoder.montage.flat
    reach = max(1.12, float(np.abs(flat).max()) + 0.07)  # radii of the head in half the square
    rules = "".join(
        f"#electrodes label:nth-of-type({place}){{left:{50 + 50 * x / reach:.1f}%;"
        f"top:{50 - 50 * y / reach:.1f}%}}"
        for place, (x, y) in enumerate(flat.tolist(), 1)
    )
    number = len(decoder.montage.names)
    return f"<style>#electrodes{{--head:{100 / reach:.1f}%;--number:'{number}'}}{rules}</style>"


def window_sliders(decoder: Decoder, axis: np.ndarray) -> tuple[gr.Slider, gr.Slider]:
    """Put the two ends of the window on the page, over an axis of time.

    Parameters
    ----------
    decoder : Decoder
    axis : array of shape (n_samples,)
        Times that the figure above spans, s.
    """
    times = decoder.times
    first, last = 1e3 * float(times[0]), 1e3 * end_of(times)
    step = 1e3 * max(STEP, float(times[1] - times[0]) if len(times) > 1 else STEP)
    left, right = ((t / 1e3 - axis[0]) / (axis[-1] - axis[0]) for t in (first, last))
    place = f"<style>:root{{--window-left:{left:.4f};--window-right:{right:.4f}}}</style>"
    window = f"{first:.0f}–{last:.0f} ms".replace("-", "−")
    gr.HTML(
        f'<div class="heading"><h2>Encoder gets <span id="window-says">{window}</span></h2>'
        f"{cards.explained('Window', _HELP_WINDOW)}</div>{place}",
        elem_classes="window-heading",
        **BARE,
    )
    both = {"container": False, "buttons": [], "min_width": 0}
    span = {"minimum": round(first, 3), "maximum": round(last, 3), "step": round(step, 3)}
    with gr.Column(elem_id="window", min_width=0):
        start = gr.Slider(
            **span, value=span["minimum"], label="Start of the window (ms)",
            elem_id="window-start", **both,
        )  # fmt: skip
        end = gr.Slider(
            **span, value=span["maximum"], label="End of the window (ms)",
            elem_id="window-end", **both,
        )  # fmt: skip
    return start, end


def shuffle_buttons(shuffles: int, pressed: gr.Textbox) -> tuple[gr.Number, gr.Button]:
    """Put the living null on the page.

    Returns
    -------
    number : gradio.Number
        Which shuffle; 0 is none.
    many : gradio.Button
        To be given a listener.
    """
    number = gr.Number(0, precision=0, visible="hidden", elem_id="shuffle-number")
    gr.HTML(cards.heading("More than chance?", _HELP_SHUFFLE), elem_classes="null", **BARE)
    with gr.Row(elem_classes="shuffling"):
        once = gr.Button("Shuffle this trial's EEG", elem_id="shuffle", min_width=0)
        # Pressed by the button in the notice, which is there while the EEG is shuffled.
        back = gr.Button("Back to the trial", elem_id="unshuffle", visible="hidden")
        many = gr.Button(f"{shuffles} shuffles at once", elem_id="shuffle-many", min_width=0)
    choose(once.click, [number], pressed, "(number) => [number + 1]")
    choose(back.click, [number], pressed, "() => [0]")
    return number, many
