"""What the page lets in: which addresses it answers, how much it reads, what it never does.

`Guard` is a middleware around the server that gradio makes, which can do much more than this page
needs: whatever isn't in `ROUTES` doesn't exist here. In flow requests, out flow only those that
are short enough and name neither another machine nor a file of this one.
"""

import asyncio
import atexit
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path

import gradio as gr
from gradio import processing_utils, route_utils
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEGABYTE = 1_000_000
CALL = 2 * MEGABYTE  # of JSON in one call
READING = 30  # s, that a call may take to arrive
UPLOAD = 200 * MEGABYTE  # for one file, and for all of one upload
UPLOADING = 600  # s, that an upload may take to arrive
FILES = 16  # in one upload
AT_ONCE = 8  # uploads
DISK = 2000 * MEGABYTE  # for all uploads together
FILES_IN_ALL = 1000
KEPT = 600  # s, that a file stays which nobody took

# What there is, as it stands in logs; {x} is anything without a slash, {x:path} anything at all.
ROUTES = {
    "GET": """/ /health /result.json /result.svg /config /theme.css /manifest.json /robots.txt
        /favicon.ico /assets/{file:path} /static/{file:path} /gradio_api/theme.css /gradio_api/info
        /gradio_api/openapi.json /gradio_api/app_id /gradio_api/startup-events
        /gradio_api/heartbeat/{session} /gradio_api/queue/data /gradio_api/queue/status
        /gradio_api/call/{name}/{event} /gradio_api/call/v2/{name}/{event}
        /gradio_api/upload_progress /gradio_api/file={file:path} /gradio_api/mcp
        /gradio_api/mcp/http /gradio_api/mcp/sse /gradio_api/mcp/schema /monitoring/summary""",
    "POST": """/gradio_api/queue/join /gradio_api/call/{name} /gradio_api/call/v2/{name}
        /gradio_api/cancel /gradio_api/reset /gradio_api/upload /gradio_api/mcp
        /gradio_api/mcp/http /gradio_api/mcp/messages""",
    "DELETE": "/gradio_api/mcp /gradio_api/mcp/http",
}

NO_ADDRESS = (
    "The page never fetches anything from an address; upload the file itself, and leave the "
    "address out."
)
NO_PATH = "The page opens no files of its own machine; upload the file, and name what that returns."
NOTHING = "There is nothing at this address."
NO_JSON = "This call isn't JSON, or nested too deeply."
NO_SESSION = "This call belongs to no session; give it a “session_hash”."
TOO_LONG = f"This call is longer than {CALL // MEGABYTE} MB; upload large things as files."
TOO_SLOW = "This took too long to arrive; try again."
FULL = "There is no room for another upload right now; please try again in ten minutes."
BROKEN_OFF = "The upload was broken off."
MANY_UPLOADS = "Many files are being uploaded right now. Please try again in a moment."
# gradio answers 413 to whatever says "maximum allowed size".
TOO_LARGE = f"The upload exceeds the maximum allowed size of {UPLOAD // MEGABYTE} MB."
MANY_FILES = f"The upload exceeds the maximum allowed size of {FILES} files."

# gradio's page carries scripts inside it and makes functions of texts. Spaces show it in a frame.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self' https://huggingface.co https://*.huggingface.co"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


@cache
def _patterns(method: str) -> list[tuple[str, re.Pattern[str]]]:
    listed = []
    for template in ROUTES.get(method, "").split():
        parts = re.split(r"(\{\w+(?::path)?\})", template)
        wild = {True: ".+", False: "[^/]+"}
        pattern = "".join(
            wild[part.endswith(":path}")] if part.startswith("{") else re.escape(part)
            for part in parts
        )
        listed.append((template.replace(":path", ""), re.compile(pattern)))
    return listed


def route_of(method: str, path: str) -> str | None:
    """Return which of `ROUTES` a request asks for; None where there is nothing."""
    path = path.rstrip("/") or "/"
    listed = _patterns("GET" if method == "HEAD" else method)
    return next((template for template, pattern in listed if pattern.fullmatch(path)), None)


# ---------------------------------------------------------------- uploaded files


@cache
def uploads() -> Path:
    """Make this process a folder of its own for uploads; it goes when the process ends.

    gradio reads its name when a page is built, so this comes first.
    """
    folder = Path(tempfile.mkdtemp(prefix="nice_demo-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def _files(folder: Path) -> list[os.stat_result]:
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone in the meantime
            if not path.is_dir():
                found.append(path.lstat())
    return found


def sweep(folder: Path, kept: float = KEPT) -> None:
    """Delete what has lain in a folder for longer than `kept` seconds, and empty folders.

    Whoever takes an upload deletes it at once. This is for those that nobody took, or that broke
    off.
    """
    before = time.time() - kept
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folders
        with suppress(OSError):  # gone in the meantime, or a folder that isn't empty
            if path.lstat().st_mtime < before:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@asynccontextmanager
async def swept(app: object) -> AsyncIterator[None]:
    """Sweep the folder for as long as a server runs."""

    async def work() -> None:
        while True:
            await asyncio.sleep(KEPT / 10)
            await asyncio.to_thread(sweep, uploads())

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def keep_apart() -> None:
    """Give each upload a folder that nobody can guess.

    gradio names the folder after the content, so that two visitors with the same file share it,
    and the first whose file was read takes it away from the other.
    """

    class Apart(route_utils.GradioUploadFile):
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)
            self.sha.update(os.urandom(16))

    route_utils.GradioUploadFile = Apart


# ---------------------------------------------------------------- addresses and paths


def never_download() -> None:
    """Take away gradio's means of downloading, whichever way a call might come in."""

    async def refuse(*_: object) -> None:
        raise gr.Error(NO_ADDRESS, print_exception=False)

    processing_utils.async_ssrf_protected_get = refuse


def _is_address(value: object) -> bool:
    return isinstance(value, str) and re.match(r"\s*(https?|ftps?):", value, re.I) is not None


def _is_upload(path: str) -> bool:
    """Whether something is the place of an uploaded file: in a folder of its own, no folder.

    Whoever names the folder of all uploads would otherwise take away everybody's.
    """
    if "\0" in path:
        return False
    place = Path(os.path.abspath(path))
    return place.parent.parent == uploads() and not place.is_dir()


def objection(call: object) -> str | None:
    """Return what is wrong with the content of a call; None where nothing is.

    Parameters
    ----------
    call : object
        What came as JSON.
    """
    waiting = [call]
    while waiting:
        value = waiting.pop()
        if _is_address(value):
            return NO_ADDRESS
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and not _is_address(path):
                if not _is_upload(path):
                    return NO_PATH
                # Where a browser shows an uploaded file; nobody opens it here.
                value = {key: entry for key, entry in value.items() if key != "url"}
            waiting += value.values()
    return None


# ---------------------------------------------------------------- the middleware


class Refused(Exception):
    """A request that isn't answered: status, a sentence, headers."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        self.response = JSONResponse({"detail": sentence}, status, headers)


class Guard:
    """Lets through what is in `ROUTES`, within the limits above; adds `HEADERS` to all answers.

    Parameters
    ----------
    app : ASGI application
    names : dict of str to int
        Of the public functions, which can be called by their names; how many values each takes.
    """

    def __init__(self, app: ASGIApp, names: dict[str, int]) -> None:
        self.app, self.names, self.uploading = app, names, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or leave it to the page."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers)
        except Refused as refused:
            await refused.response(scope, receive, send_with_headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = route_of(scope["method"], scope["path"])
        called = re.match(r"/gradio_api/call/(?:v2/)?([^/]+)", scope["path"])
        if route is None or (called and called[1] not in self.names):
            raise Refused(404, NOTHING)
        if route == "/gradio_api/file={file}":
            if _is_address(scope["path"].partition("=")[2]):
                raise Refused(403, NO_ADDRESS)
        elif route == "/gradio_api/upload":
            return await self._upload(scope, receive, send)
        elif scope["method"] == "POST":
            body = await _read(receive)
            try:
                call = json.loads(body)
            except (ValueError, RecursionError):
                raise Refused(400, NO_JSON) from None
            if wrong := objection(call):
                if not route.startswith("/gradio_api/mcp"):
                    raise Refused(400, wrong)
                # MCP's clients show errors of their own protocol only.
                number = call.get("id") if isinstance(call, dict) else None
                error = {"code": -32602, "message": wrong}
                answer = JSONResponse({"jsonrpc": "2.0", "id": number, "error": error})
                return await answer(scope, receive, send)
            if wrong := self._misshapen(route, called and called[1], call):
                raise Refused(400, wrong)
            receive = _again(body, receive)
        await self.app(scope, receive, send)

    def _misshapen(self, route: str, name: str | None, call: object) -> str | None:
        """Return a sentence where gradio would only break."""
        given = call if isinstance(call, dict) else {}
        if route == "/gradio_api/queue/join" and given.get("session_hash") == "":
            return NO_SESSION
        values = given.get("data")
        if route == "/gradio_api/call/{name}" and isinstance(values, list):
            wanted = self.names[name]
            if len(values) < wanted:
                return (
                    f"{name} takes {wanted} values in “data”, and these are {len(values)}; "
                    "/gradio_api/info tells which."
                )
        return None

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.uploading >= AT_ONCE:
            raise Refused(503, MANY_UPLOADS, {"Retry-After": "5"})
        files = await asyncio.to_thread(_files, uploads())
        if sum(file.st_size for file in files) > DISK or len(files) > FILES_IN_ALL:
            raise Refused(507, FULL)
        self.uploading += 1
        try:
            await self.app(scope, _watched(scope, receive), send)
        finally:
            self.uploading -= 1


async def _read(receive: Receive) -> bytes:
    """Read the whole of a call."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(READING):
            while True:
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > CALL:
                    raise Refused(413, TOO_LONG)
                if not message.get("more_body"):  # also where the visitor is gone
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(408, TOO_SLOW) from None


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read once more, and then waits as before."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _watched(scope: Scope, receive: Receive) -> Callable:
    """Return what gives an upload until it is too large, too many files or too slow.

    What is raised here, gradio answers; it then deletes what had arrived.
    """
    kind = Headers(scope=scope).get("Content-Type", "")
    found = re.search(r'boundary="?([^";]+)', kind, re.I)
    mark = b"--" + (found[1] if found else "").encode("latin-1")
    ends, size, files, tail, whole = time.monotonic() + UPLOADING, 0, 0, b"", False

    async def watched() -> Message:
        nonlocal size, files, tail, whole
        if whole:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), ends - time.monotonic())
        except TimeoutError:
            raise MultiPartException(TOO_SLOW) from None
        if message["type"] == "http.disconnect":
            raise MultiPartException(BROKEN_OFF)
        body = message.get("body", b"")
        size, whole = size + len(body), not message.get("more_body")
        # A mark stands before each file, and one at the end; it may lie in two messages.
        files += (tail + body).count(mark)
        tail = (tail + body)[-len(mark) + 1 :]
        if size > UPLOAD + MEGABYTE:  # which includes what stands around the files
            raise MultiPartException(TOO_LARGE)
        if files > FILES + 1:
            raise MultiPartException(MANY_FILES)
        return message

    return watched
