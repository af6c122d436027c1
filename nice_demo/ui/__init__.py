"""The page. Importing it switches off what gradio would send home, and what it would count."""

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

# Both are read when gradio is imported, and exactly "False" is what gradio looks for.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# After each answer, gradio would sum up the last ten thousand with pandas, for a page of its own.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
# For every plot of every new visitor gradio tries to import bokeh, and Python looks for it in all
# folders again. None says once that it isn't there.
if find_spec("bokeh") is None:
    sys.modules.setdefault("bokeh", None)
# gradio imports mcp for whoever may want it, which takes long; `tools` lets it do so where it is
# wanted.
sys.modules.setdefault("mcp", None)


@contextmanager
def _without_stubs() -> Iterator[None]:
    """Keep gradio from comparing its components with their stubs: a third of its import.

    For each component it parses source and stub, and writes the stub anew where they differ; which
    it doesn't for a class that comes from no file.
    """
    getfile = inspect.getfile

    def of_no_file(thing: object) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError
        return getfile(thing)

    inspect.getfile = of_no_file
    try:
        yield
    finally:
        inspect.getfile = getfile


with _without_stubs():
    import gradio  # noqa: F401
