"""The tab "Your EEG"."""

import gradio as gr

from nice_demo.bundle import Bundle


def recording_tab(bundle: Bundle, tab: gr.Tab) -> None:
    """Put the tab's components and listeners into the page that is being built."""
