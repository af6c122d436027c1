"""A line of JSON for each request, for whoever runs the page; nothing in it tells who asked what.

``{"time": "2026-01-31T12:00:00.123Z", "method": "GET", "route": "/result.json", "status": 200,
"ms": 12.3}``: the route is one of `nice_demo.ui.guard.ROUTES`, never what stood in its place.
"""

import json
import sys
import time
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nice_demo.ui.guard import ROUTES, route_of


class Log:
    """A middleware that writes a line when a request was answered, or left."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave the answer to others, and note it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, came = time.perf_counter(), datetime.now(UTC)
        status = 500  # unless somebody answers

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            method = scope["method"]
            line = {
                "time": came.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "method": method if method in (*ROUTES, "HEAD", "OPTIONS") else "other",
                "route": route_of(method, scope["path"]) or "other",
                "status": status,
                "ms": round(1e3 * (time.perf_counter() - began), 1),
            }
            sys.stdout.write(json.dumps(line) + "\n")  # at once: other threads write there too
            sys.stdout.flush()
