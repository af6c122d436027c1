"""The API's functions as tools of the Model Context Protocol, which gradio offers; with --mcp."""

import importlib
import json
import sys

import gradio.mcp


def prepare() -> None:
    """Let gradio import mcp after all, and have tools answer in JSON."""
    if sys.modules.get("mcp", gradio.mcp) is None:  # see nice_demo.ui
        del sys.modules["mcp"]
        importlib.reload(gradio.mcp)
    server = gradio.mcp.GradioMCPServer
    if hasattr(server, "in_pythons_words"):
        return
    server.in_pythons_words = server.postprocess_output_data

    def in_json(self, answers: list, root_url: str) -> list:
        told = [json.dumps(one, ensure_ascii=False) if _is_json(one) else one for one in answers]
        return self.in_pythons_words(told, root_url)

    server.postprocess_output_data = in_json


def _is_json(answer: object) -> bool:
    return isinstance(answer, dict | list)
