"""What leaves the page: links that restore everything, files of a result, the API, MCP tools."""

import asyncio
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import gradio as gr
import httpx
import numpy as np
import pytest
from browser import LAPTOP, PHONE
from fake_decoder import NASTY, FakeDecoder
from gradio.utils import get_function_description
from gradio_client import Client
from gradio_client.exceptions import AppError
from sentences import refuses

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder, LatentsDecoder, Part
from nice_demo.explain import Question, explain
from nice_demo.gallery import Candidate, Gallery
from nice_demo.ui import cards, result_file
from nice_demo.ui.guard import NO_ADDRESS, NO_PATH
from nice_demo.ui.page import page, serve, tab_ids
from nice_demo.ui.result_file import result_svg
from nice_demo.ui.view import (
    address_of_view,
    least_of_address,
    moment_of_address,
    opening_view,
    tab_of_address,
    view_of,
    view_of_address,
)

SVG = "{http://www.w3.org/2000/svg}"
ENDPOINTS = {
    "/decode", "/choices", "/evaluation", "/explain", "/evidence", "/decode_recording",
    "/evaluate_latents", "/compare_latents", "/find_words", "/rank_picture",
}  # fmt: skip
PHANTOM = Path(__file__).parents[1] / "weights" / "phantom"


@pytest.fixture(scope="module")
def decoder() -> FakeDecoder:
    return FakeDecoder()


@pytest.fixture(scope="module")
def blocks(decoder):
    blocks = page(decoder, "a test")
    serve(blocks, "127.0.0.1", mcp=True)
    yield blocks
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def address(blocks):
    return blocks.local_url


@pytest.fixture(scope="module")
def client(address):
    client = Client(address, verbose=False)
    yield client
    client.close()


# ---------------------------------------------------------------- addresses


def test_an_address_says_all_of_a_view_and_comes_back(decoder):
    view = view_of(decoder, "2", "ridge", "cat", 5, "17", 100, 400, 3)
    address = address_of_view(view, decoder, 50)
    assert view_of_address(decoder, address, opening_view(decoder)) == view
    assert least_of_address(address) == 50
    assert "least" not in address_of_view(view, decoder, 0)


def test_how_it_is_shown_comes_from_the_address():
    times = -0.2 + np.arange(300) / 250
    assert (
        moment_of_address({}, times) == 172 and moment_of_address({"moment": "301"}, times) == 300
    )
    assert moment_of_address({"moment": "-200"}, times) == -200
    tabs = ["decode", "about"]
    assert (tab_of_address({}, tabs), tab_of_address({"tab": "about"}, tabs)) == ("decode", "about")
    refuses(lambda: tab_of_address({"tab": "evidence"}, tabs), "no tab 'evidence'", "decode, about")
    for wrong in ("96", "-1", "5.5", "x", "", "٣"):
        refuses(lambda w=wrong: least_of_address({"least": w}), "from 0 to 95")
    for wrong in ("999", "-999"):
        refuses(lambda w=wrong: moment_of_address({"moment": w}, times), "from -200 to 996 ms")
    refuses(lambda: moment_of_address({"moment": "soon"}, times), "no moment 'soon'")


def test_an_address_may_name_all_tabs(blocks, decoder):
    tabs = [block.id for block in blocks.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == tab_ids(decoder)


# ---------------------------------------------------------------- files of a result


def test_json_is_the_apis_with_a_link(address, client):
    query = "subject=2&encoder=ridge&picture=cat&repetitions=5&electrodes=17&window=100-400"
    answer = httpx.get(f"{address}result.json?{query}")
    told = answer.json()
    link = told.pop("view")
    assert told == client.predict("2", "ridge", "cat", 5, "17", 100, 400, api_name="/decode")
    assert link.startswith(address)
    again = httpx.get(f"{address}result.json?{urlsplit(link).query}").json()
    assert again == {"view": link} | told


def test_picture_says_everything_and_needs_nothing(address, decoder):
    answer = httpx.get(f"{address}result.svg?subject=1&picture=dog&repetitions=80")
    assert answer.headers["Content-Type"] == "image/svg+xml"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    root = ElementTree.fromstring(answer.text)
    text = " ".join("".join(node.itertext()) for node in root.iter(f"{SVG}text"))
    dog = view_of(decoder, "1", "nice", "dog", 80).decoded_by(decoder)
    metrics = decoder.metrics("1", "nice", 80)
    for said in (
        cards.verdict(dog.rank, 200), "simulated EEG", "Simulated EEG: made-up subjects (a test).",
        "chance 0.5\u202f% and 2.5\u202f%", f"({cards.percent(metrics.top1.low)}–",
        "protocol stimulus", "Phantom 1, decoded by NICE from 80 looks",
        "Twemoji, © Twitter, Inc and other contributors, CC-BY 4.0",
        f"{address}?subject=1&encoder=nice&picture=1f436&repetitions=80",
        *(decoder.gallery.candidates[row].name for row in dog.order[:5]),
    ):  # fmt: skip
        assert said in text, said
    images = [image.get("href") for image in root.iter(f"{SVG}image")]
    assert len(images) == 6 and all(href.startswith("data:image/") for href in images)
    assert not re.search(r"<script|\son\w+=|url\(", answer.text)
    assert 'href="http' not in answer.text


def test_picture_of_an_answer_that_is_rather_not_given(address):
    svg = httpx.get(f"{address}result.svg?repetitions=1&least=95").text
    assert "Would rather not say" in svg and "It would have been: " in svg
    assert "Would rather not" not in httpx.get(f"{address}result.svg?repetitions=1").text


def test_every_text_in_the_picture_is_escaped(decoder):
    nasty = NASTY + "\0\x1b]]>\ud800" + "</title><script>alert(1)</script>"
    candidates = [Candidate(f"<i>{n}", "x", nasty, "", None, nasty) for n in range(6)]
    vectors = np.eye(6, dtype=np.float32)
    latents = LatentsDecoder(vectors, Gallery(candidates, vectors, {"name": "x"}), None, nasty)
    view = opening_view(latents)
    svg = result_svg(latents, nasty, view, 0, 'http://x/?"><script>')
    root = ElementTree.fromstring(svg)  # is XML
    assert not list(root.iter(f"{SVG}script")) and "\0" not in svg
    assert "<b>owl</b>" in "".join(root.itertext())


def test_wrong_addresses_and_too_many(address, monkeypatch):
    for query in ("subject=9", "picture=none", "least=200", "window=9-1", "off=all"):
        for kind in ("json", "svg"):
            answer = httpx.get(f"{address}result.{kind}?{query}")
            assert answer.status_code == 400 and answer.json()["detail"].endswith(".")
    assert httpx.post(f"{address}result.json").status_code == 404
    monkeypatch.setattr(result_file, "WAITING", 0)
    answer = httpx.get(f"{address}result.json")
    assert answer.status_code == 503 and answer.headers["Retry-After"]


def test_result_of_latents_has_neither_simulated_nor_eeg():
    vectors = np.eye(7, dtype=np.float32)
    candidates = [Candidate(str(n), "x", f"thing {n}") for n in range(7)]
    latents = LatentsDecoder(vectors, Gallery(candidates, vectors, {"name": "x"}), None, "real EEG")
    svg = result_svg(latents, "mine.npy", opening_view(latents), 0, "http://x/")
    assert "imulated" not in svg and "EEG: real EEG (mine.npy)." in svg


# ---------------------------------------------------------------- API


def public_functions(blocks):
    """Return what the page offers to programs: {name: function}."""
    return {
        f"/{fn.api_name}": fn.fn
        for fn in blocks.fns.values()
        if fn.api_visibility == "public" and isinstance(fn.api_name, str)
    }


def test_endpoints_are_these_and_each_says_what_it_does(blocks, client):
    assert client.view_api(return_format="dict")["named_endpoints"].keys() == ENDPOINTS
    functions = public_functions(blocks)
    assert functions.keys() == ENDPOINTS
    for name, function in functions.items():
        description, parameters, _ = get_function_description(function)
        assert len(description) > 40, f"{name} isn't described"
        for parameter, says in parameters.items():
            if parameter not in ("request", "progress"):
                assert len(says) > 8, f"{name} doesn't say what {parameter} is"


def test_choices_are_what_the_others_take(client, decoder):
    told = client.predict(api_name="/choices")
    assert told["simulated"] is True and len(told["pictures"]) == 200
    assert told["repetitions"] == decoder.repetitions and told["window_ms"] == [0, 1000]
    subject, encoders = next(iter(told["encoders_of_subject"].items()))
    picture = told["pictures"][3]["id"]
    preset = next(iter(told["presets_of_electrodes"]))
    for encoder in encoders:
        for kind in told["maps_of_encoder"][encoder]:
            asked = subject, encoder, picture, 80, kind, "first", preset
            assert client.predict(*asked, api_name="/explain")["map"] == kind


@pytest.mark.parametrize("kind", ["integrated gradients", "occlusion by channel", "pattern"])
def test_a_map_is_that_of_explain(client, decoder, kind):
    picture = decoder.gallery.candidates[3].id
    if kind == "pattern":  # this bundle knows no whitening
        with pytest.raises(AppError, match="whiten"):
            client.predict("1", "ridge", picture, 80, kind, api_name="/explain")
        return
    told = client.predict("1", "ridge", picture, 80, kind, api_name="/explain")
    decoding = decoder.decode("1", "ridge", picture, 80)
    found = explain(kind, decoder.bundle.encoder("1", "ridge"),
                    Question.of(decoder.bundle, decoding))  # fmt: skip
    np.testing.assert_allclose(told["values"], found.values, rtol=6e-3, atol=1e-7)
    assert told["unit"] == "cosine similarity" and told["electrodes"] == found.channels
    assert -1 <= told["sanity_check"]["correlation"] <= 1
    per_electrode = found.values if found.values.ndim == 1 else found.values.sum(1)
    np.testing.assert_allclose(told["per_electrode"], per_electrode, rtol=6e-3, atol=1e-6)


def test_evaluation_has_chance_interval_and_protocol(client, decoder):
    told = client.predict("1", "nice", 80, api_name="/evaluation")
    assert told["metrics"] == json.loads(json.dumps(decoder.metrics("1", "nice", 80).to_json()))
    top1 = told["metrics"]["top1"]
    assert top1["low"] < top1["value"] < top1["high"] and top1["chance"] == 0.005
    assert told["metrics"]["protocol"] == "stimulus" and told["simulated"] is True


@pytest.mark.parametrize(
    ("endpoint", "asked", "sentence"),
    [
        ("/evaluation", ("9", "nice", 80), "no subject '9'"),
        ("/evaluation", ("1", "nice", 3), "no average over"),
        ("/explain", ("1", "nice", "dog", 80, "tea leaves"), "no map 'tea leaves'"),
        ("/explain", ("1", "nice", "dog", 80, "attention"), "has no attention"),
        ("/explain", ("1", "nice", "dog", 80, "pattern", "nobody"), "no map of 'nobody'"),
        ("/evidence", ("tarot",), "no analysis 'tarot'"),
        ("/decode", ("1", "nice", "dog", 80, "all", None, None, -1), "no shuffle '-1'"),
        ("/explain", ("1", "nice", "dog", 80, 3), "no map '3'"),
        ("/explain", ("1", "nice", "dog", 80, ["attention"]), "kind isn't what explain takes"),
        ("/evidence", (None,), "analysis isn't what evidence takes: input should be a valid str"),
    ],
)
def test_wrong_questions_get_a_sentence(client, endpoint, asked, sentence):
    with pytest.raises(AppError, match=sentence):
        client.predict(*asked, api_name=endpoint)


def test_shuffled_eeg_is_said_to_be(client, decoder):
    told = client.predict("1", "nice", "dog", 80, "all", None, None, 2, api_name="/decode")
    picture = view_of(decoder, "1", "nice", "dog", 80).picture
    expected = decoder.to_json(decoder.decode("1", "nice", picture, 80, Part(shuffle=2)))
    assert told == expected and told["part"]["shuffle"] == 2


def test_evidence_of_the_bundle_that_ships():
    blocks = page(BundleDecoder(Bundle(PHANTOM)), "phantom")
    functions = public_functions(blocks)
    evidence, choices = functions["/evidence"], functions["/choices"]()
    assert "time" in choices["analyses"]
    for analysis in choices["analyses"]:
        for subject in ("", "2"):
            told = json.loads(json.dumps(evidence(analysis, subject), allow_nan=False))
            assert told["simulated"] is True
            for curve in told["curves"]:
                shape = [len(axis["points"]) for axis in curve["axes"]]
                assert list(np.array(curve["first"]["value"], float).shape) == shape
                assert curve["first"]["chance"] == 1 / curve["candidates"]


# ---------------------------------------------------------------- MCP


def with_tools(address, work):
    """Connect as MCP's own client does, and return what `work(session)` returns."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def connect():
        async with (
            streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await work(session)

    return asyncio.run(asyncio.wait_for(connect(), 120))


def test_tools_are_the_endpoints_and_answer_the_same(address, client, blocks):
    async def work(session):
        tools = (await session.list_tools()).tools
        asked = {"subject": "1", "encoder": "nice", "picture": "dog", "repetitions": 80}
        right = await session.call_tool("decode", asked)
        wrong = await session.call_tool("decode", asked | {"picture": "unicorn?"})
        return tools, right, wrong

    tools, right, wrong = with_tools(address, work)
    assert {f"/{tool.name}" for tool in tools} == ENDPOINTS
    for tool in tools:
        assert len(tool.description) > 40
        for name, schema in tool.inputSchema.get("properties", {}).items():
            assert schema.get("description"), f"{tool.name}: {name}"
    expected = client.predict("1", "nice", "dog", 80, api_name="/decode")
    assert json.loads(right.content[0].text) == expected
    assert wrong.isError and "There is no picture" in wrong.content[0].text


def test_tools_take_neither_addresses_nor_paths(address):
    from mcp import McpError

    async def work(session):
        said = []
        for picture in ("http://127.0.0.1:9/x.png", {"path": "/etc/passwd"}):
            with pytest.raises(McpError) as refused:
                await session.call_tool("rank_picture", {"picture": picture, "name": "x"})
            said.append(str(refused.value))
        return said

    assert with_tools(address, work) == [NO_ADDRESS, NO_PATH]


# ---------------------------------------------------------------- in a browser


def said(page):
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def opened(page, name):
    page.wait_for_selector(f'#tabs [role=tab][aria-selected=true]:has-text("{name}")')


def test_a_link_restores_everything(visit, address):
    page = visit(f"{address}?subject=2&encoder=ridge&picture=cat&repetitions=5&least=50&moment=300")
    page.wait_for_selector("#scalp h2:has-text('300 ms')")
    assert page.locator("#least input[type=number]").input_value() == "50"
    assert page.locator(".seen .name").inner_text() == "cat"
    # By keyboard, as the slider is moved.
    page.locator("#moment input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#scalp h2:has-text('304 ms')")
    page.wait_for_function("location.search.includes('moment=304')")
    page.locator("#least input[type=range]").focus()
    page.keyboard.press("End")
    page.wait_for_function("location.search.includes('least=95')")
    page.wait_for_selector(".verdict:has-text('Would rather not say')")
    page.get_by_role("tab", name="About").click()
    page.wait_for_function("location.search.includes('tab=about')")
    link = page.url
    other = visit_again(page, link)
    opened(other, "About")
    other.get_by_role("tab", name="Decode a trial").click()
    other.wait_for_selector("#scalp h2:has-text('304 ms')")
    assert other.locator(".seen .name").inner_text() == "cat"
    assert "Would rather not say" in other.locator(".verdict").inner_text()
    assert "tab" not in said(other) and said(other)["least"] == "95"


def test_a_link_to_another_tab_is_answered_once(context, address):
    """Whoever goes on to the trial at once sees what the link names, not what the page begins with.

    What the address does to the controls asks for nothing more: one answer, and one map after it.
    """
    for _ in range(3):
        page, asked = context.new_page(), []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        view = "subject=2&encoder=ridge&picture=cat&repetitions=5&least=95&moment=304"
        page.goto(f"{address}?{view}&tab=about")
        page.get_by_role("tab", name="Decode a trial").click()
        page.wait_for_selector("#scalp h2:has-text('304 ms')")
        page.wait_for_selector("#carried .scalp")
        assert sum("queue/join" in url for url in asked) == 2
        assert page.locator("#least input[type=number]").input_value() == "95"
        assert "Would rather not say" in page.locator(".verdict").inner_text()
        assert said(page) == dict(pair.split("=") for pair in view.split("&"))
        page.close()


def visit_again(page, link):
    page.goto(link)
    page.wait_for_selector("#tabs [role=tab]")
    return page


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_a_tab_is_open_from_the_first_paint(context, address, viewport):
    page = context.new_page()
    page.set_viewport_size(viewport)
    # Notes which tab is selected whenever the page is about to be painted.
    page.add_init_script(
        """window.painted = new Set();
        (function look() {
          const tab = document.querySelector('#tabs [role=tab][aria-selected=true]');
          if (tab) window.painted.add(tab.textContent.trim());
          requestAnimationFrame(look);
        })();"""
    )
    for tab, name, there in (
        ("about", "About", ".about h2"),
        ("evidence", "Evidence", ".evidence-panel .words table"),
    ):
        page.goto(f"{address}?tab={tab}")
        opened(page, name)
        page.wait_for_selector(there)
        assert page.evaluate("[...window.painted]") == [name]
        assert said(page) == {"tab": tab}
    page.close()


def test_a_tab_that_isnt_there_is_said(visit, address):
    page = visit(f"{address}?tab=nonsense&least=7x")
    page.wait_for_selector("#result .notice.error")
    notices = page.locator("#result .notice.error").all_inner_texts()
    assert "no tab 'nonsense'" in notices[0] and "no confidence '7x'" in notices[1]
    opened(page, "Decode a trial")


def test_a_first_visit_leaves_the_address_alone(visit, address):
    page = visit(address)
    page.wait_for_selector("#carried svg")
    assert page.url == address


def test_downloads_in_a_browser(visit, context, address, tmp_path):
    page = visit(f"{address}?picture=dog&repetitions=80&subject=1")
    for kind, label in (("svg", "picture"), ("json", "JSON")):
        with page.expect_download() as caught:
            page.locator(".take-along a", has_text=label).click()
        assert caught.value.suggested_filename == f"nice-1-nice-1f436-80.{kind}"
        caught.value.save_as(tmp_path / f"result.{kind}")
    assert json.loads((tmp_path / "result.json").read_text())["seen"]["name"] == "dog"
    # From the disk, with no server: all pictures are inside.
    page = context.new_page()
    page.goto((tmp_path / "result.svg").as_uri())
    boxes = page.evaluate(
        """async () => Promise.all([...document.querySelectorAll('image')].map(async (image) => {
          const picture = new Image();
          picture.src = image.href.baseVal;
          await picture.decode();
          return picture.naturalWidth;
        }))"""
    )
    assert len(boxes) == 6 and min(boxes) > 0
    inside = page.evaluate(
        """() => [...document.querySelectorAll('text')].every((text) => {
          const box = text.getBBox();
          return box.x >= 0 && box.x + box.width <= 1000;
        })"""
    )
    page.close()
    assert inside


def test_about_says_what_becomes_of_uploads(visit, address):
    page = visit(f"{address}?tab=decode")
    page.get_by_role("tab", name="About").click()
    text = page.locator(".about").inner_text()
    for words in ("What it is not", "simulated", "deleted as soon as it was read", "no cookies",
                  "--mcp", "Twemoji", "arXiv 2308.13234"):  # fmt: skip
        assert words in text
    assert f'Client("{address}")' in text
    assert not page.context.cookies()
