"""The page. Importing it switches off what gradio and the Hub's client would send home."""

import os

# Both are read when gradio is imported, and exactly "False" is what gradio looks for.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
