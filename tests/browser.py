"""A real Chromium for tests: how it is started, and what counts as wrong on a page."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic",
]  # fmt: skip
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def start_chromium() -> Iterator:
    """Start Chromium, yield it, and end it; skip where there is none, fail on CI."""
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=60_000)  # a busy machine is no fault
    with sync_api.sync_playwright() as playwright:
        installed = shutil.which("chromium") or shutil.which("chromium-browser")
        own = Path(playwright.chromium.executable_path)
        path = str(own) if own.exists() else installed
        if path is None:
            message = (
                "no Chromium: install Debian's, or run `python -m playwright install chromium`"
            )
            pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def visits(context) -> Iterator[Callable]:
    """Yield what opens pages; afterwards nothing may have been asked of others, or gone wrong."""
    pages, wrong = [], []

    def open_page(url, viewport=LAPTOP, colours="light", first_visit=False):

        def route(route):
            if urlsplit(route.request.url).hostname == "127.0.0.1":
                return route.continue_()
            wrong.append(f"asked for {route.request.url}")
            return route.abort()

        page = context.new_page()
        pages.append(page)
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=colours)
        page.set_default_timeout(60_000)
        page.route(lambda url: not url.startswith(("data:", "blob:")), route)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        seen = "removeItem('nice-demo-guide')" if first_visit else "setItem('nice-demo-guide', '1')"
        page.add_init_script(f"localStorage.{seen}")
        page.goto(url)
        # gradio makes a tab when it is opened: where the address opens another, no result is there.
        page.wait_for_selector(
            "[role=tabpanel] h2 >> visible=true" if "tab=" in url else ".overall"
        )
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not wrong, wrong
