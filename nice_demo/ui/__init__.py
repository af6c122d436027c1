"""The page. Importing it switches off what gradio would send home, and what it would count."""

import os
import sys
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
