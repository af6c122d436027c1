"""A panel: a figure with its heading, or a sentence that says why there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from nice_demo.errors import InputError
from nice_demo.ui.evidence.store import Absent, Choice, Evidence

ALL = frozenset({"subject", "encoders", "top"})


@dataclass(frozen=True)
class Drawn:
    """A panel's content: a figure of plotly or none, and HTML below it."""

    html: str
    figure: go.Figure | None = None


@dataclass(frozen=True)
class Panel:
    """A figure with its heading.

    Attributes
    ----------
    id : str
    title, help : str
        The heading, and the two sentences behind its question mark.
    analysis : str
        Which one it is drawn from; empty for the bundle's own metrics.
    what : str
        What it would show, where the analysis is missing.
    draw : callable
        (Evidence, Choice) → Drawn; raises InputError with a sentence instead of an empty plot.
    changes_with : frozenset of str
        Fields of `Choice` that it depends on.
    wide : bool
        Takes the whole width.
    """

    id: str
    title: str
    help: str
    analysis: str
    what: str
    draw: Callable[[Evidence, Choice], Drawn]
    changes_with: frozenset[str] = ALL
    wide: bool = False

    def drawn(self, evidence: Evidence, choice: Choice) -> Drawn:
        """Draw, or say in a sentence why not."""
        if not choice.encoders:
            return Drawn(_notice("Choose at least one encoder above."))
        try:
            return self.draw(evidence, choice)
        except Absent:
            return Drawn(_notice(
                f"Here would stand {escape(self.what)}; this bundle doesn't hold it yet. "
                f"<code>python -m nice_demo.analyse BUNDLE --what {self.analysis} --store"
                "</code> makes it."
            ))  # fmt: skip
        except InputError as error:
            return Drawn(_notice(f"{escape(str(error))} Here would stand {escape(self.what)}."))


def _notice(html: str) -> str:
    return f'<p class="absent" role="status">{html}</p>'
