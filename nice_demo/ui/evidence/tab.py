"""The tab on the page: its controls, its panels, and who listens to whom.

In flow a visitor's choice of subject, encoders and what counts as a hit; out flow the panels that
depend on it. Nothing is drawn before the tab is opened.
"""

from functools import lru_cache, partial
from html import escape

import gradio as gr

from nice_demo.bundle import Bundle
from nice_demo.ui import cards
from nice_demo.ui.decode_tab import BARE
from nice_demo.ui.evidence.panel import ALL, Drawn, Panel
from nice_demo.ui.evidence.sections import sections_of
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.evidence.words import name_of

EVERYBODY = ""  # the subject's choice "mean of all"
FIRST = 3  # panels, about a screen
TOPS = {"first": 1, "among the first five": 5}

_SIMULATED = (
    "All of this is of simulated EEG: how well the phantoms are decoded, and what carries the "
    "picture, was put into the simulation. It shows that the analyses find it, not how brains work."
)
_WAIT = '<p class="absent" aria-busy="true">One moment …</p>'


def evidence_tab(bundle: Bundle, tab: gr.Tab) -> None:
    """Put the tab's components and listeners into the page that is being built.

    Parameters
    ----------
    bundle : Bundle
    tab : gradio.Tab
        Around it; its opening draws the panels.
    """
    evidence = Evidence(bundle)
    sections = sections_of(evidence)
    everything = [panel for _, panels in sections for panel in panels]

    # ------------------------------------------------------------ what is on the screen
    shown: dict[str, tuple[gr.Plot, gr.HTML]] = {}
    with gr.Column(elem_classes="evidence"):
        if bundle.simulated:
            gr.HTML(f'<p class="notice">{escape(_SIMULATED)}</p>', **BARE)
        controls = _controls(evidence)
        for number, (title, panels) in enumerate(sections):
            with gr.Column(elem_classes="section", min_width=0):
                gr.HTML(f'<h2 id="evidence-{number}">{escape(title)}</h2>', **BARE)
                for panel in panels:
                    shown[panel.id] = _panel(panel)
        opened = gr.State(False)

    # ------------------------------------------------------------ from a choice to the screen
    @lru_cache(maxsize=512)
    def drawn(panel: Panel, choice: Choice) -> Drawn:
        return panel.drawn(evidence, choice)

    def show(panels: list[Panel], subject: str, encoders: list[str], top: str) -> dict:
        # In the order in which encoders are listed, not that in which they were ticked.
        wanted = tuple(name for name in evidence.encoders if name in encoders)
        whose = subject if subject in bundle.subjects else None
        updates = {}
        for panel in panels:
            plot, words = shown[panel.id]
            found = drawn(panel, Choice(whose, wanted, TOPS.get(top, 1)))
            updates[plot] = gr.update(value=found.figure, visible=found.figure is not None)
            updates[words] = _words(panel, found.html)
        return updates

    def open_tab(panels: list[Panel], is_open: bool, *choices) -> dict:
        # Whoever comes back to the tab finds it as it was.
        if is_open:
            return {opened: True}
        return {opened: panels[-1] is everything[-1], **show(panels, *choices)}

    asked = list(controls.values())
    listening = {
        "api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last",
        "concurrency_id": "evidence", "concurrency_limit": 1,
    }  # fmt: skip

    def components(panels: list[Panel]) -> list[gr.components.Component]:
        return [component for panel in panels for component in shown[panel.id]]

    # What is seen first is sent first; drawing it takes the browser longer than us.
    first, later = everything[:FIRST], everything[FIRST:]
    event = tab.select(
        partial(open_tab, first), [opened, *asked], [opened, *components(first)], **listening
    )
    event.then(
        partial(open_tab, later), [opened, *asked], [opened, *components(later)], **listening
    )
    for field, control in controls.items():
        panels = [panel for panel in everything if field in panel.changes_with]
        control.change(partial(show, panels), asked, components(panels), **listening)


def _controls(evidence: Evidence) -> dict[str, gr.components.Component]:
    """Make a control for each field of `Choice`; one with a single choice isn't shown."""
    subjects = evidence.bundle.subjects
    several = len(subjects) > 1
    choices = [(evidence.of_subject(subject), subject) for subject in subjects]
    if several:
        choices.insert(0, (f"all {len(subjects)}: their mean", EVERYBODY))
    encoders = [(name_of(name), name) for name in evidence.encoders]
    with gr.Row(elem_classes="evidence-controls"):
        subject = gr.Dropdown(
            choices, value=choices[0][1], label="Subject", elem_id="evidence-subject",
            filterable=False, visible=several, min_width=0,
        )  # fmt: skip
        chosen = gr.CheckboxGroup(
            encoders, value=evidence.encoders[:1], label="Encoders", elem_id="evidence-encoders",
            visible=len(encoders) > 1, min_width=0,
        )  # fmt: skip
        top = gr.Radio(
            list(TOPS), value="first", label="A hit is the seen picture ranked",
            elem_id="evidence-top", min_width=0,
        )  # fmt: skip
    controls = {"subject": subject, "encoders": chosen, "top": top}
    assert controls.keys() == ALL
    return controls


def _words(panel: Panel, html: str) -> str:
    """Return a panel's heading and words; evidence.css puts the plot between the two."""
    heading = cards.explained(panel.title, panel.help)
    return (
        f'<div class="heading"><h3>{escape(panel.title)}</h3>{heading}</div>'
        f'<div class="words">{html}</div>'
    )


def _panel(panel: Panel) -> tuple[gr.Plot, gr.HTML]:
    classes = ["evidence-panel", "wide"] if panel.wide else ["evidence-panel"]
    with gr.Column(elem_classes=classes, elem_id=f"panel-{panel.id}", min_width=0):
        plot = gr.Plot(
            show_label=False, container=False, visible=False, elem_classes="evidence-plot"
        )
        words = gr.HTML(_words(panel, _WAIT), elem_classes="evidence-words", **BARE)
    return plot, words
