"""The tab "Your decoder"."""

import gradio as gr

from nice_demo.bundle import Bundle


def latents_tab(beside: list[Bundle], tab: gr.Tab) -> None:
    """Put the tab's components and listeners into the page that is being built."""
