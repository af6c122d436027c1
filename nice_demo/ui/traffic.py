"""What is between the page and many visitors: welcome, gradio's scripts, the word for a full queue.

All hang in the server that gradio makes: `refused` answers for errors of status 503, `Assets` is
a middleware, `describe_once` changes how gradio welcomes newcomers.
"""

import mimetypes
from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

import brotli
import gradio as gr
from fastapi import HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from gradio.blocks import Block, BlocksConfig
from gradio.renderable import Renderable
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
_describe = BlocksConfig.config_for_block
BUSY = "Many people are looking at this page right now. Please try again in a moment."


async def refused(request: Request, error: HTTPException) -> Response:
    """Answer whom the full queue doesn't take in."""
    # gradio would say how long its queue is. A browser shows words of page.js, and asks again.
    if str(error.detail).startswith("Queue is full"):
        error = HTTPException(error.status_code, BUSY, {"Retry-After": "2"})
    return await http_exception_handler(request, error)


def describe_once() -> None:
    """Let gradio describe each component once, and not for everyone who comes.

    For its own links, which this page doesn't use, gradio begins each session with a description
    of all components: some 30 ms in which it answers nobody else. To be called when the page is
    built: a component's description is taken for final.
    """
    known = WeakKeyDictionary()

    def described(
        number: int, rendered: list[int], block: Block, renderable: Renderable | None = None
    ) -> dict:
        if renderable is not None:
            return _describe(number, rendered, block, renderable)
        if block not in known:
            known[block] = _describe(number, rendered, block)
        # Sessions write into it what their component shows.
        return known[block] | {"props": dict(known[block]["props"])}

    BlocksConfig.config_for_block = staticmethod(described)


class Assets:
    """Gives out gradio's scripts and styles: compressed once, not for everyone who comes.

    Browsers may keep them for good, because their names change whenever they do.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.files = app, {f"/assets/{file.name}": file for file in ASSETS.iterdir()}
        self.compressed = cache(lambda file: brotli.compress(file.read_bytes(), quality=5))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or leave it to the page."""
        file = self.files.get(scope.get("path"))
        if file is None or "br" not in Headers(scope=scope).get("Accept-Encoding", ""):
            return await self.app(scope, receive, send)
        headers = {
            "Content-Encoding": "br",
            "Vary": "Accept-Encoding",
            "Cache-Control": "public, max-age=31536000, immutable",
        }
        kind, _ = mimetypes.guess_type(file.name)
        await Response(self.compressed(file), headers=headers, media_type=kind)(
            scope, receive, send
        )
