"""The tab "About"."""

from nice_demo.decode import Decoder


def about_tab(decoder: Decoder) -> None:
    """Put the tab's words into the page that is being built."""
