"""The tab "Pictures and words"."""

import gradio as gr

from nice_demo.decode import BundleDecoder


def words_tab(decoder: BundleDecoder, tab: gr.Tab) -> None:
    """Put the tab's components and listeners into the page that is being built."""
