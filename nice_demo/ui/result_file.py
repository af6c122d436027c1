"""One result to take along: as JSON, as a picture, and the server's addresses of both.

In flows an address such as ``/result.svg?subject=3&picture=1f436&repetitions=20``, which names a
view just as the page's own address does; out flows a file. It is made anew for each that asks, and
nothing is left on the server.
"""

import re
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from html import unescape
from urllib.parse import urlencode
from xml.sax.saxutils import escape, quoteattr

import anyio
from gradio.route_utils import get_root_url
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nice_demo import __version__
from nice_demo.decode import WHOLE, Decoder, Decoding
from nice_demo.errors import InputError
from nice_demo.gallery import Candidate
from nice_demo.pictures import picture_file, shows_concept_only
from nice_demo.ui import cards
from nice_demo.ui.traffic import BUSY
from nice_demo.ui.view import (
    View,
    address_of_view,
    least_of_address,
    opening_view,
    view_of_address,
)

# Whoever opens the picture by itself opens a document: it may do nothing but show what is in it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
AT_ONCE = 2  # files that are made at the same time
WAITING = 16  # that may be asked for before the next is refused

WIDTH, MARGIN = 1000, 36
SEEN, CARD, GAP, LEFT = 160, 128, 18, 248  # sizes of tiles, and where the retrieved ones begin
# The page's light colours: a picture is pasted where nobody knows of dark ones.
INK, SOFT, PAPER, TILE, LINE, ACCENT = (
    "#1d2530", "#56606e", "#faf9f7", "#f1f0ec", "#cbc9c2", "#0b7a6b",
)  # fmt: skip
TWEMOJI = "Twemoji, © Twitter, Inc and other contributors, CC-BY 4.0"


def result_json(decoder: Decoder, view: View, least: float, link: str) -> dict:
    """Return what the API's ``/decode`` returns, with the address of the view."""
    return {"view": link, **decoder.to_json(view.decoded_by(decoder))}


# ---------------------------------------------------------------- the picture


def _xml(text: str) -> str:
    """Escape a text; XML can't hold control characters at all."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text))


def _plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def _text(x: float, y: float, size: float, text: str, **attributes: str) -> str:
    said = {"font-size": f"{size:g}", "fill": INK, **attributes}
    written = "".join(f" {name.replace('_', '-')}={quoteattr(v)}" for name, v in said.items())
    return f'<text x="{x:g}" y="{y:g}"{written}>{_xml(text)}</text>'


def _tile(candidate: Candidate, decoder: Decoder, x: float, y: float, size: float, right: bool):
    """Draw a candidate's picture, or its name where it has none."""
    file = picture_file(candidate, decoder.folder)
    source = cards.picture_source(file) if file else None
    frame = (
        f'<rect x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}" rx="12" '
        f'fill="{TILE if source else "#ffffff"}" stroke="{ACCENT if right else LINE}" '
        f'stroke-width="{3 if right else 1}"/>'
    )
    if source is None:
        lines = textwrap.wrap(candidate.name, max(6, int(size / 10)))[:4]
        first = y + size / 2 - 9 * (len(lines) - 1) + 5
        return frame + "".join(
            _text(x + size / 2, first + 18 * n, 14, line, text_anchor="middle")
            for n, line in enumerate(lines)
        )
    inside = 1.0 if source.startswith("data:image/webp") else 0.74
    edge = size * (1 - inside) / 2
    aspect = "xMidYMid slice" if inside == 1 else "xMidYMid meet"
    return (
        f'{frame}<image x="{x + edge:g}" y="{y + edge:g}" width="{size * inside:g}" '
        f'height="{size * inside:g}" preserveAspectRatio="{aspect}" href={quoteattr(source)}/>'
    )


def _name(candidate: Candidate, x: float, y: float, size: float, width: int, right: bool) -> str:
    lines = textwrap.wrap(candidate.name, width, max_lines=2, placeholder=" …")
    colour = {"fill": ACCENT, "font_weight": "650"} if right else {}
    return "".join(
        _text(x, y + 1.25 * size * n, size, line, **colour) for n, line in enumerate(lines)
    )


def _sentences(decoder: Decoder, decoding: Decoding, least: float) -> list[tuple[float, str]]:
    """Return what is said of the result: (size of the letters, sentence)."""
    part = cards.part_in_words(decoder, decoding.part)
    verdict = cards.verdict(decoding.rank, len(decoder.gallery), part)
    first = decoder.gallery.candidates[decoding.order[0]].name
    says = [(21, verdict)]
    sure = decoding.confidence
    if sure is not None and sure < least / 100:
        silent, would, _ = cards.rather_not(sure, least / 100, first, verdict).partition("It would")
        says = [(21, _plain(silent)), (15, f"It would have been: {verdict}")] if would else says
    elif sure is not None:
        says.append((15, f"It is {cards.percent(sure)}\u202f% sure of “{first}”."))
    metrics = decoder.metrics(decoding.subject, decoding.encoder, decoding.repetitions)
    if metrics:
        whole = decoding.part != WHOLE
        overall = cards.overall(metrics, decoder.simulated, decoder.trained_on, whole)
        says.append((15, _plain(overall)))
    return says


def _who(decoder: Decoder, decoding: Decoding) -> str:
    subject = f"Phantom {decoding.subject}" if decoder.simulated else decoding.subject
    if decoder.times is None:  # somebody's latents: by what they are called
        return ", ".join(dict.fromkeys((subject, decoding.encoder)))
    return (
        f"{subject}, decoded by {cards.ENCODER_NAMES.get(decoding.encoder, decoding.encoder)} "
        f"from {cards.looks(decoding.repetitions)} at the picture"
    )


def _credits(decoder: Decoder, name: str, shown: list[Candidate], link: str) -> list[str]:
    """Return where EEG and pictures come from, under which licences, and where to see it."""
    licences = sorted(
        {
            TWEMOJI if (candidate.picture or "").startswith("twemoji:") else candidate.licence
            for candidate in shown
            if candidate.picture
        }
        - {""}
    )
    says = [f"{'Simulated EEG' if decoder.simulated else 'EEG'}: {decoder.provenance} ({name})."]
    if licences:
        says.append(f"Pictures: {'; '.join(licences)}.")
    if any(shows_concept_only(candidate) for candidate in shown):
        says.append("Photos: pictures of the same concept, not the ones that were shown.")
    return [*says, f"nice_demo {__version__}: {link}"]


def result_svg(decoder: Decoder, name: str, view: View, least: float, link: str) -> str:
    """Draw a result as a picture that needs nothing else.

    Parameters
    ----------
    decoder : Decoder
    name : str
        Of the bundle or the file.
    view : View
    least : float
        Confidence, in per cent, below which the decoder would rather not say.
    link : str
        Where to see it on the page.

    Returns
    -------
    str
        SVG, with the pictures inside.
    """
    decoding = view.decoded_by(decoder)
    candidates = decoder.gallery.candidates
    seen, five = candidates[decoding.condition], decoding.order[: cards.CARDS].tolist()
    says = _sentences(decoder, decoding, least)
    label = "simulated EEG" if decoder.simulated else textwrap.shorten(decoder.provenance, 48)
    wide = 8.1 * len(label) + 26
    heading = {"fill": SOFT, "font_weight": "600", "letter_spacing": "0.6"}
    top = 108
    drawn = [
        # In one text, whatever the letters' width.
        f'<text x="{MARGIN}" y="46" font-size="19" fill="{SOFT}"><tspan fill="{INK}" '
        'font-weight="700">NICE</tspan><tspan dx="10">what EEG tells about what someone saw'
        "</tspan></text>",
        f'<rect x="{WIDTH - MARGIN - wide:g}" y="26" width="{wide:g}" height="28" rx="14" '
        f'fill="{TILE}" stroke="{SOFT}" stroke-dasharray="3 2"/>',
        _text(WIDTH - MARGIN - wide / 2, 45, 14, label, font_weight="600", text_anchor="middle"),
        _text(MARGIN, top - 14, 12, "SEEN", **heading),
        _text(LEFT, top - 14, 12, "RETRIEVED", **heading),
        _tile(seen, decoder, MARGIN, top, SEEN, True),
        _name(seen, MARGIN, top + SEEN + 26, 17, 19, False),
    ]
    opacity = "0.4" if says[0][1].startswith("Would rather not") else "1"
    drawn.append(f'<g opacity="{opacity}">')
    for place, row in enumerate(five, 1):
        x, right = LEFT + (place - 1) * (CARD + GAP), row == decoding.condition
        badge = f"{place} ✓" if right else str(place)
        pill = 34 if right else 20
        drawn += [
            _tile(candidates[row], decoder, x, top, CARD, right),
            f'<rect x="{x + 6:g}" y="{top + 6}" width="{pill}" height="20" rx="10" '
            f'fill="{ACCENT if right else "#ffffff"}" stroke="{ACCENT if right else LINE}"/>',
            _text(
                x + 6 + pill / 2, top + 20, 12, badge, fill="#ffffff" if right else INK,
                font_weight="600", text_anchor="middle",
            ),
            _text(
                x, top + CARD + 20, 12.5, cards.two_digits(decoding.similarities[row]), fill=SOFT
            ),
            _name(candidates[row], x, top + CARD + 39, 14, 16, right),
        ]  # fmt: skip
    drawn.append("</g>")
    y = top + SEEN + 88
    for size, sentence in says:
        for line in textwrap.wrap(sentence, int((1500 if size > 20 else 1850) / size)):
            weight = {"font_weight": "600"} if size > 20 else {}
            drawn.append(_text(MARGIN, y, size, line, **weight))
            y += 1.4 * size
        y += 4
    y += 8
    drawn.append(_text(MARGIN, y, 13, f"{_who(decoder, decoding)}.", fill=SOFT))
    y += 16
    drawn.append(f'<path d="M{MARGIN} {y:g}H{WIDTH - MARGIN}" stroke="{LINE}"/>')
    y += 22
    shown = [seen, *(candidates[row] for row in five)]
    for sentence in _credits(decoder, name, shown, link):
        for line in textwrap.wrap(sentence, 150):
            drawn.append(_text(MARGIN, y, 12, line, fill=SOFT))
            y += 17
    height = y + 10
    spoken = f"Seen: {seen.name}. {says[0][1]}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}" '
        f'viewBox="0 0 {WIDTH} {height:g}" style="max-width:100%;height:auto" '
        'font-family="system-ui, sans-serif" role="img">'
        f"<title>{_xml(spoken)}</title>"
        f'<rect width="100%" height="100%" fill="{PAPER}"/>{"".join(drawn)}</svg>'
    )


# ---------------------------------------------------------------- links and addresses


def links(view: View, decoder: Decoder, least: float) -> str:
    """Return the two links to a result's files, as HTML."""
    query = escape(urlencode(address_of_view(view, decoder, least)), {'"': "&quot;"})
    name = re.sub(r"[^\w-]+", "-", f"nice-{view.subject}-{view.encoder}-{view.picture}")[:80]
    name += f"-{view.repetitions}"
    both = " ".join(
        f'<a href="result.{kind}?{query}" download="{name}.{kind}">{says}</a>'
        for kind, says in (("svg", "picture"), ("json", "JSON"))
    )
    return f'<p class="take-along">Download this result: {both}</p>'


def result_routes(decoder: Decoder, name: str) -> list[Route]:
    """Return the server's routes ``/result.json`` and ``/result.svg``.

    Parameters
    ----------
    decoder : Decoder
    name : str
        Of the bundle or the file.
    """
    limiter, waiting = anyio.CapacityLimiter(AT_ONCE), 0
    opening = cache(opening_view)

    def made(address: Mapping[str, str], page: str, kind: str) -> Response:
        try:
            view = view_of_address(decoder, address, opening(decoder))
            least = least_of_address(address)
        except InputError as error:
            return JSONResponse({"detail": str(error)}, 400)
        link = f"{page}/?{urlencode(address_of_view(view, decoder, least))}"
        headers = {"Cache-Control": "private, max-age=60"}
        if kind == "json":
            return JSONResponse(result_json(decoder, view, least, link), headers=headers)
        headers["Content-Security-Policy"] = POLICY
        svg = result_svg(decoder, name, view, least, link)
        return Response(svg, headers=headers, media_type="image/svg+xml")

    def answering(kind: str) -> Callable:
        async def answer(request: Request) -> Response:
            nonlocal waiting
            if waiting >= WAITING:
                return JSONResponse({"detail": BUSY}, 503, {"Retry-After": "2"})
            page = get_root_url(request, f"/result.{kind}", request.scope.get("root_path"))
            waiting += 1
            try:
                asked = dict(request.query_params), page, kind
                return await anyio.to_thread.run_sync(made, *asked, limiter=limiter)
            finally:
                waiting -= 1

        return answer

    return [Route(f"/result.{kind}", answering(kind)) for kind in ("json", "svg")]
