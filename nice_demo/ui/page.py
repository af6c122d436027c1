"""The page as a whole: header, tabs, footer, and how it is served."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

import gradio as gr
from gradio.routes import App
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nice_demo import __version__
from nice_demo.bundle import LatentsBundle
from nice_demo.decode import BundleDecoder, Decoder
from nice_demo.ui import cards, tools
from nice_demo.ui.about_tab import about_tab
from nice_demo.ui.api import decoding_endpoints
from nice_demo.ui.decode_tab import BARE, decode_tab
from nice_demo.ui.evidence.tab import evidence_tab
from nice_demo.ui.guard import UPLOAD, Guard, keep_apart, never_download, swept, uploads
from nice_demo.ui.latents.tab import latents_tab
from nice_demo.ui.logs import Log
from nice_demo.ui.recording.tab import recording_tab
from nice_demo.ui.result_file import result_routes
from nice_demo.ui.traffic import Assets, describe_once, refused
from nice_demo.ui.words.tab import words_tab

HERE = Path(__file__).parent
PAPER = "https://arxiv.org/abs/2308.13234"
CC_BY = "https://creativecommons.org/licenses/by/4.0/"
WAITING = 64  # answers that may be asked for before the next is refused

_SIMULATED = (
    "No person was measured: these subjects are phantoms, a head model whose visual areas respond "
    "to the picture in realistic noise. The encoders are trained on it as they would be on real "
    "EEG, but how well they do is a setting of the simulation, not a finding about brains."
)
_FROM_A_DECODER = (
    "The page shows what a decoder made of EEG, as it stands in a file; where that EEG comes from "
    "is what whoever opened the page says. The recording itself isn't here, so none is shown."
)
_WHITENED = (
    "What is kept of it is whitened, as the encoders take it: no voltages, so neither a scalp map "
    "nor an evoked response is shown."
)


def _badge(decoder: Decoder) -> str:
    label = "simulated EEG" if decoder.simulated else decoder.provenance
    text = _SIMULATED if decoder.simulated else _FROM_A_DECODER
    if decoder.montage is not None and not decoder.simulated:
        text = f"The EEG comes from: {decoder.provenance}. {_WHITENED}"
    return (
        f'<details class="badge"><summary>{escape(label)}<span class="sign">?</span></summary>'
        f"<p>{escape(text)}</p></details>"
    )


def _header(decoder: Decoder) -> str:
    return (
        '<header class="page-header"><h1>NICE <span>what EEG tells about what someone saw</span>'
        f'</h1><div class="side">{_badge(decoder)}'
        f'<a href="{PAPER}" target="_blank" rel="noopener">NICE paper</a></div></header>'
    )


def _footer(decoder: Decoder, name: str) -> str:
    candidates = decoder.gallery.candidates
    parts = []
    if any((candidate.picture or "").startswith("twemoji:") for candidate in candidates):
        parts.append(
            'Pictures: <a href="https://github.com/jdecked/twemoji" target="_blank" '
            'rel="noopener">Twemoji</a> graphics, '
            f'<a href="{CC_BY}" target="_blank" rel="noopener">CC-BY 4.0</a>'
        )
    others = {
        candidate.licence
        for candidate in candidates
        if candidate.licence and not (candidate.picture or "").startswith("twemoji:")
    }
    parts += [f"Pictures: {escape(licence)}" for licence in sorted(others)]
    if decoder.montage is not None:  # somebody's latents may come from any method
        parts.append(
            f'Method: <a href="{PAPER}" target="_blank" rel="noopener">Song et al., “Decoding '
            "Natural Images from EEG for Object Recognition”, ICLR 2024</a>"
        )
    # What they say about pictures stands here already.
    licences = [text for text in decoder.licences if not text.startswith("Pictures")]
    parts.append(escape(f"Data: {name}" + (f" – {'; '.join(licences)}" if licences else "")))
    parts.append(f"nice_demo {__version__}")
    parts.append('<button type="button" id="open-api">API</button>')
    return (
        '<footer class="page-footer">' + "<span>" + "</span><span>".join(parts) + "</span></footer>"
    )


def tab_ids(decoder: Decoder) -> list[str]:
    """Return the ids of the page's tabs, which an address may name; the first opens by itself."""
    if isinstance(decoder, BundleDecoder):  # others bring neither analyses nor EEG along
        return ["decode", "evidence", "your-eeg", "your-decoder", "words", "about"]
    return ["decode", "your-decoder", "about"]


def _health(decoder: Decoder, name: str) -> Route:
    """Return the route ``/health``, which says that the server answers, and what it shows."""
    says = {
        "status": "ok", "version": __version__, "bundle": name, "simulated": decoder.simulated
    }  # fmt: skip

    async def health(request: Request) -> JSONResponse:
        return JSONResponse(says, headers={"Cache-Control": "no-store"})

    return Route("/health", health)


@contextmanager
def _no_server_yet() -> Iterator[None]:
    """Build without servers: gradio would make three, and another when the page is served."""
    create, App.create_app = App.create_app, staticmethod(lambda *given, **named: None)
    try:
        yield
    finally:
        App.create_app = staticmethod(create)


@_no_server_yet()
def page(
    decoder: Decoder, name: str, notice: str = "", beside: Sequence[LatentsBundle] = ()
) -> gr.Blocks:
    """Build the page.

    Parameters
    ----------
    decoder : Decoder
        What it shows.
    name : str
        Of the bundle or the file, for the footer.
    notice : str
        What a visitor must know before anything else; stays above the tabs.
    beside : sequence of LatentsBundle
        What "Your decoder" offers beside what the page shows.

    Returns
    -------
    gradio.Blocks
        To be given to `serve`. Its `make_ahead()` begins to make, aside, what the first visitors
        may ask for.
    """

    def forget(request: gr.Request) -> None:
        # gradio would remember for an hour what stood on the screen. It makes the session anew for
        # each function that hears of the closed page, so this is the only one that does.
        blocks.state_holder.session_data.pop(request.session_hash, None)
        for kept in brought:
            kept.drop(request.session_hash)

    brought = []
    uploads()  # gradio reads the name of their folder when components are made
    with gr.Blocks(title="NICE · decode a trial") as blocks:
        gr.HTML(_header(decoder), elem_id="header", **BARE)
        if notice:
            gr.HTML(cards.notice(notice, error=True), elem_id="notice", **BARE)
        with gr.Tabs(elem_id="tabs") as tabs:
            # Made at once: later, its controls would begin with values of their own, and win over
            # those of the address.
            with gr.Tab("Decode a trial", id="decode", render_children=True):
                blocks.make_ahead = decode_tab(decoder, tab_ids(decoder))
            if isinstance(decoder, BundleDecoder):  # others bring no analyses along
                with gr.Tab("Evidence", id="evidence") as tab:
                    evidence_tab(decoder.bundle, tab)
                with gr.Tab("Your EEG", id="your-eeg") as tab:
                    brought.append(recording_tab(decoder.bundle, tab))
            with gr.Tab("Your decoder", id="your-decoder") as tab:
                brought.append(latents_tab(decoder, beside, tab))
            if isinstance(decoder, BundleDecoder):
                with gr.Tab("Pictures and words", id="words") as tab:
                    words_tab(decoder, tab)
            with gr.Tab("About", id="about"):
                about_tab(decoder, name)
        for tab in tabs.children:
            write = f"() => {{ window.nicePage.openedTab('{tab.id}'); return []; }}"
            tab.select(None, None, None, js=write, api_visibility="private")
        decoding_endpoints(decoder)
        blocks.unload(forget)
        gr.HTML(_footer(decoder, name), elem_id="footer", **BARE)
    # What the server answers beside the page; gradio makes the server when the page is served.
    blocks.routes = [_health(decoder, name), *result_routes(decoder, name)]
    # Nobody is shown a place in the queue, so it needn't be sent to all whenever one is answered.
    return blocks.queue(default_concurrency_limit=2, max_size=WAITING, status_update_rate=10)


def _theme() -> gr.themes.Base:
    # Colours are tokens of style.css, where light and dark stand side by side.
    both = {
        "body_background_fill": "var(--paper)",
        "body_text_color": "var(--ink)",
        "body_text_color_subdued": "var(--soft)",
        "background_fill_primary": "var(--panel)",
        "background_fill_secondary": "var(--paper)",
        "block_background_fill": "transparent",
        "block_label_text_color": "var(--soft)",
        "block_title_text_color": "var(--soft)",
        "block_info_text_color": "var(--soft)",
        "border_color_primary": "var(--line)",
        "border_color_accent": "var(--accent)",
        "input_background_fill": "var(--panel)",
        "input_border_color": "var(--line-strong)",
        "input_border_color_focus": "var(--accent)",
        "button_secondary_background_fill": "var(--panel)",
        "button_secondary_background_fill_hover": "var(--hover)",
        "button_secondary_text_color": "var(--ink)",
        "button_secondary_border_color": "var(--line-strong)",
        "color_accent": "var(--accent)",
        "slider_color": "var(--soft)",
    }
    dark = {f"{name}_dark": value for name, value in both.items() if name != "color_accent"}
    dark.pop("slider_color_dark")
    return gr.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(
        block_border_width="0px",
        block_shadow="none",
        input_border_width="1px",
        **both,
        **dark,
        slider_color_dark="var(--soft)",
    )


def serve(
    blocks: gr.Blocks,
    host: str | None = None,
    port: int | None = None,
    mcp: bool = False,
    log: bool = False,
) -> str:
    """Serve the page in the background.

    Parameters
    ----------
    blocks : gradio.Blocks
    host, port : optional
        None: the environment's GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, else this machine only
        and the first free port from 7860.
    mcp : bool
        Offer the API's functions as tools of the Model Context Protocol too.
    log : bool
        Write a line of JSON for each request; see `nice_demo.ui.logs`.

    Returns
    -------
    str
        The address.
    """
    styles = """style.css guide.css about.css evidence/evidence.css recording/recording.css
        latents/latents.css words/words.css""".split()
    style = "\n".join((HERE / name).read_text(encoding="utf-8") for name in styles)
    scripts = ("page.js", "guide.js")
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in scripts)
    never_download()
    keep_apart()
    if mcp:
        tools.prepare()
    public = {
        fn.api_name: len(fn.inputs) for fn in blocks.fns.values() if fn.api_visibility == "public"
    }
    middleware = [Middleware(Guard, names=public), Middleware(Assets)]
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        theme=_theme(),
        # In the head, the style is there before the first paint, and gradio doesn't rewrite it.
        head=f"<style>{style}</style><script>{script}</script>",
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        run_history=False,
        footer_links=["api"],  # hidden; the API button of our footer presses it
        max_file_size=UPLOAD,
        mcp_server=mcp,
        # Having reached its own page, gradio would try again, and give up where that takes 3 s.
        _frontend=False,
        app_kwargs={
            "exception_handlers": {503: refused},
            "middleware": [Middleware(Log), *middleware] if log else middleware,
            "routes": blocks.routes,
            "lifespan": swept,
        },
    )
    describe_once()
    return address
