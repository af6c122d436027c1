"""The page as an attacker meets it: what it refuses, what it never does, what it forgets."""

import asyncio
import contextlib
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gradio as gr
import httpx
import pytest
import safehttpx
from fake_decoder import FakeDecoder
from gradio import processing_utils, routes
from gradio_client import Client

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.ui import guard
from nice_demo.ui.guard import NO_ADDRESS, NO_JSON, NO_PATH, objection, route_of, sweep, uploads
from nice_demo.ui.page import page, serve

SESSION = "s"
DECODE = ["1", "nice", "dog", 80, "all", None, None, 0]


@pytest.fixture(scope="module")
def served_page():
    """Serve a page with logs and tools; return its blocks and its address."""
    blocks = page(FakeDecoder(), "a test")
    with blocks:

        def crash(text: str) -> str:
            raise RuntimeError(f"a bug, with {text}")

        def read(file: dict) -> str:
            return str(file)

        gr.api(crash, api_name="crash")
        gr.api(read, api_name="read")
        shown, image = gr.Textbox(visible="hidden"), gr.Image(visible="hidden", type="filepath")
        image.upload(lambda path: path, image, shown, api_name="look")
    try:
        yield blocks, serve(blocks, "127.0.0.1", mcp=True)
    finally:
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def blocks(served_page):
    return served_page[0]


@pytest.fixture(scope="module")
def web(served_page):
    with httpx.Client(base_url=served_page[1], timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def lure():
    """Yield the address of a server that nobody may ask, and the list of what it was asked."""
    asked = []

    class Lure(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"caught")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Lure)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def call(web, name, *data):
    """Call an endpoint; return the answer to the call, and what came of it."""
    answer = web.post(f"gradio_api/call/{name}", json={"data": data})
    if answer.status_code != 200:
        return answer, ""
    event = answer.json()["event_id"]
    return answer, web.get(f"gradio_api/call/{name}/{event}").text


def tool(web, name, **arguments):
    """Call an MCP tool without a client, who might not send such things."""
    params = {"name": name, "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"Accept": "application/json, text/event-stream"}
    return web.post("gradio_api/mcp/", json=message, headers=headers)


def file_data(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


# ---------------------------------------------------------------- addresses


@pytest.fixture
def gullible(monkeypatch):
    """Let gradio fetch from this machine too, as it would from any public one."""

    async def any_host(host):
        return "127.0.0.1"

    monkeypatch.setattr(safehttpx, "async_validate_url", any_host)


def attempts(web, lure):
    """Try every way by which a call could name an address; return the answers."""
    mine = f"{lure}/a.png"
    yield call(web, "look", file_data(mine))[0]
    yield call(web, "look", file_data(mine, url=mine))[0]
    yield call(web, "look", {"url": mine})[0]
    yield call(web, "look", file_data(" HTTP://" + mine[7:]))[0]
    yield call(web, "read", {"deep": [file_data(mine)]})[0]
    yield call(web, "read", mine)[0]
    yield web.post("gradio_api/call/v2/look", json={"param_0": file_data(mine)})
    joined = {"data": [file_data(mine)], "fn_index": 0, "session_hash": SESSION}
    yield web.post("gradio_api/queue/join", json=joined)
    yield web.get(f"gradio_api/file={mine}")
    yield web.head(f"gradio_api/file={mine}")
    yield tool(web, "look", path=mine)
    yield tool(web, "_lambda_", path=file_data(mine))


def test_no_address_is_ever_fetched(web, lure, gullible, tell):
    address, asked = lure
    answers = list(attempts(web, address))
    for answer in answers:
        told = answer.status_code in (400, 403) or "error" in answer.json()
        assert told, (answer.request.url, answer.text)
        assert answer.request.method == "HEAD" or NO_ADDRESS in answer.text
    # What isn't there at all.
    for path in (f"gradio_api/proxy={address}/", f"gradio_api/file/{address}/a.png"):
        assert web.get(path).status_code == 404
    assert not asked
    tell(f"{len(answers) + 2} ways to name an address tried, none was fetched")


def test_without_the_guard_gradio_would_fetch(web, lure, gullible, blocks, monkeypatch):
    """The test above would notice."""
    address, asked = lure
    monkeypatch.setattr(guard, "objection", lambda call: None)
    monkeypatch.setattr(guard, "_is_address", lambda value: False)
    answer, outcome = call(web, "look", file_data(f"{address}/a.png"))
    assert answer.status_code == 200 and "event: error" in outcome and NO_ADDRESS in outcome
    assert not asked  # the second wall: the means of downloading are gone
    web.get(f"gradio_api/file={address}/b.png")
    assert asked == ["/b.png"]
    asked.clear()


def test_means_of_downloading_are_those_that_are_taken_away(lure, gullible, blocks):
    for download in (
        processing_utils.async_ssrf_protected_get(lure[0]),
        processing_utils.async_ssrf_protected_download(lure[0], str(uploads())),
    ):
        with pytest.raises(gr.Error, match="never fetches"):
            asyncio.run(download)
    assert not lure[1]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "/proc/self/environ", "weights"])
def test_no_file_of_the_machine_is_opened(web, path):
    for answer in (
        call(web, "read", file_data(path))[0],
        call(web, "look", {"path": path})[0],
        tool(web, "read", file=file_data(path)),
    ):
        assert NO_PATH in answer.text
    assert web.get(f"gradio_api/file={path}").status_code in (403, 404)


def test_ordinary_content_passes():
    mine = str(uploads() / "abc" / "a.edf")
    shown = file_data(mine, url="http://127.0.0.1:7860/gradio_api/file=" + mine)
    for content in (["1", "nice", "dog", 80], {"data": [shown, [shown]]}, "see http://…", None):
        assert objection(content) is None
    assert objection(file_data(str(uploads()) + "/../x")) == NO_PATH
    assert objection(file_data(str(uploads()) + "-x")) == NO_PATH


def test_nobody_takes_away_the_uploads_of_all(web, empty):
    """Who names a folder would have what is in it taken out and deleted, also others' files."""
    path = Path(upload(web, ("a.edf", b"x")).json()[0])
    tries = [uploads(), f"{uploads()}/", f"{uploads()}/.", path.parent, f"{path}/..", f"{path}\0"]
    for place in [*map(str, tries), f"{path}/x"]:
        for answer in (
            call(web, "read", file_data(place))[0],
            web.post(
                "gradio_api/queue/join",
                json={"data": [[file_data(place)]], "fn_index": 0, "session_hash": SESSION},
            ),
        ):
            assert answer.status_code == 400 and NO_PATH in answer.text
    assert path.exists() and objection(file_data(str(path))) is None


# ---------------------------------------------------------------- what there is


@pytest.mark.parametrize(
    "path",
    ["run/decode", "api/decode", "component_server", "process_recording", "vibe-edit", "vibe-code",
     "stream/x", "stream/x/close", "reset/../../login", "run-history/connect"],
)  # fmt: skip
def test_gradio_can_more_than_the_page_lets_it(web, path):
    assert web.post(f"gradio_api/{path}", json={"data": []}).status_code == 404
    assert web.post(path, json={"data": []}).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["docs", "redoc", "openapi.json", "monitoring", "monitoring/key", "login", "logout",
     "gradio_api/deep_link", "gradio_api/dev/reload", "gradio_api/token", "gradio_api/runs",
     "custom_component/x/client/component/index.js", "svelte/x", "pwa_icon", "..%2fapp.py"],
)  # fmt: skip
def test_only_what_the_page_needs_is_there(web, path):
    answer = web.get(path)
    assert answer.status_code == 404 and answer.json() == {"detail": guard.NOTHING}


@pytest.mark.parametrize("name", ["nobody", "v2/nobody", "show", "show_address", "lambda"])
def test_only_public_functions_can_be_called(web, capfd, name):
    assert web.post(f"gradio_api/call/{name}", json={"data": []}).status_code == 404
    assert web.get(f"gradio_api/call/{name}/0").status_code == 404
    assert not capfd.readouterr().err


def test_routes_are_found_and_named():
    assert route_of("GET", "/") == "/" and route_of("HEAD", "/health/") == "/health"
    assert route_of("GET", "/gradio_api/file=/tmp/a/b.edf") == "/gradio_api/file={file}"
    assert route_of("POST", "/gradio_api/call/decode") == "/gradio_api/call/{name}"
    for method, path in (("PUT", "/"), ("POST", "/health"), ("GET", "/gradio_api/call/a/b/c/d")):
        assert route_of(method, path) is None


def test_paths_lead_nowhere(web):
    for path in ("static/..%2f..%2f..%2fetc/passwd", "assets/../../x", "static//etc/passwd"):
        assert web.get(path).status_code in (403, 404, 307)
    for query in ("subject=../../etc", "picture=%00", "picture=../x", "subject=" + "9" * 6000):
        answer = web.get(f"result.json?{query}")
        assert answer.status_code == 400 and len(answer.text) < 500


def test_headers_on_every_answer(web):
    for answer in (web.get(""), web.get("health"), web.get("nothing"), web.get("config")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        policy = answer.headers["Content-Security-Policy"]
        assert "object-src 'none'" in policy and "connect-src 'self'" in policy
        assert "frame-ancestors 'self' https://huggingface.co" in policy  # where Spaces are shown
        assert "Set-Cookie" not in answer.headers


# ---------------------------------------------------------------- limits


def test_long_and_broken_calls(web):
    long = web.post("gradio_api/call/decode", content=b'{"data": ["' + b"x" * guard.CALL + b'"]}')
    assert long.status_code == 413 and "2 MB" in long.text
    deep = "[" * 100_000
    for content in (b"", b"{", b"\xff\xfe", deep.encode()):
        answer = web.post("gradio_api/queue/join", content=content)
        assert answer.status_code == 400 and NO_JSON in answer.text
    assert web.post("gradio_api/mcp/", content=b"{").status_code == 400
    assert web.get("health").status_code == 200


def test_misshapen_calls_get_a_sentence(web, capfd):
    few = web.post("gradio_api/call/decode", json={"data": DECODE[:3]})
    assert few.status_code == 400 and "decode takes 8 values" in few.text
    nobody = web.post("gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": ""})
    assert nobody.status_code == 400 and "session_hash" in nobody.text
    tried = 0
    for place in range(len(DECODE)):
        for value in ([], {}, [None], [["Oz"]], "x" * 100_000, 10**400, float("nan"), "\0"):
            data = [*DECODE[:place], value, *DECODE[place + 1 :]]
            content, kind = json.dumps({"data": data}), {"Content-Type": "application/json"}
            answer = web.post("gradio_api/call/decode", content=content, headers=kind)
            event = answer.json()["event_id"]
            outcome = web.get(f"gradio_api/call/decode/{event}").text
            if "event: complete" not in outcome:
                assert len(json.loads(outcome.split("data: ")[1])["error"].split()) > 4
                assert len(outcome) < 3000
            tried += 1
    assert tried == 64 and "Traceback" not in capfd.readouterr().err


def test_a_call_that_never_arrives(web, monkeypatch):
    monkeypatch.setattr(guard, "READING", 0.1)

    def slowly():
        yield b'{"data": '
        time.sleep(0.5)
        yield b"[]}"

    with contextlib.suppress(httpx.WriteError):  # it may be refused while it is being sent
        assert web.post("gradio_api/call/decode", content=slowly()).status_code == 408
    assert web.get("health").status_code == 200


def lying():
    """Return the files that lie in the folder of uploads."""
    return [path for path in uploads().rglob("*") if path.is_file()]


@pytest.fixture
def empty():
    sweep(uploads(), -60)
    yield
    sweep(uploads(), -60)
    assert not list(uploads().iterdir())


def upload(web, *files):
    return web.post("gradio_api/upload", files=[("files", file) for file in files])


def test_uploads_within_limits(web, empty, monkeypatch, blocks):
    assert blocks.max_file_size == guard.UPLOAD == 200_000_000
    answer = upload(web, ("a.edf", b"x" * 1000), ("../../b.edf", b"y"))
    paths = [Path(path) for path in answer.json()]
    assert [path.name for path in paths] == ["a.edf", "b.edf"]
    assert all(path.is_relative_to(uploads()) for path in paths) and len(lying()) == 2

    many = upload(web, *[(f"{n}.txt", b"x") for n in range(guard.FILES + 1)])
    assert many.status_code == 413 and "16 files" in many.text
    assert upload(web, *[(f"{n}.txt", b"z") for n in range(guard.FILES)]).status_code == 200
    before = len(lying())
    monkeypatch.setattr(guard, "UPLOAD", -900_000)  # and some bytes around the files
    large = upload(web, ("c.edf", b"x" * 200_000))
    assert large.status_code == 413 and "maximum allowed size" in large.text
    assert len(lying()) == before  # nothing of what was refused is left
    monkeypatch.setattr(guard, "DISK", 1000)
    full = upload(web, ("d.edf", b"x"))
    assert full.status_code == 507 and "no room" in full.text
    monkeypatch.undo()
    monkeypatch.setattr(guard, "AT_ONCE", 0)
    busy = upload(web, ("d.edf", b"x"))
    assert busy.status_code == 503 and "Retry-After" in busy.headers


def test_an_upload_that_breaks_off_leaves_nothing(served_page, empty):
    # Much is announced, little sent, and then the line goes dead.
    host, port = httpx.URL(served_page[1]).host, httpx.URL(served_page[1]).port
    begin = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        'Content-Disposition: form-data; name="files"; filename="a.edf"\r\n\r\n' + "x" * 50_000
    )

    async def half() -> None:
        _, writer = await asyncio.open_connection(host, port)
        writer.write(begin.encode())
        await writer.drain()
        while not lying():
            await asyncio.sleep(0.02)
        writer.close()
        while lying():
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(half(), 60))


def test_a_slow_upload_ends(web, empty, monkeypatch):
    monkeypatch.setattr(guard, "UPLOADING", 0.1)

    def slowly():
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        time.sleep(0.5)
        yield b"x\r\n--b--\r\n"

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    with contextlib.suppress(httpx.WriteError):
        answer = web.post("gradio_api/upload", content=slowly(), headers=kind)
        assert answer.status_code == 400 and guard.TOO_SLOW in answer.text
    assert not lying()


def test_what_nobody_took_is_swept(tmp_path):
    old, new, folder = tmp_path / "a" / "old.edf", tmp_path / "b" / "new.edf", tmp_path / "c"
    for file in (old, new):
        file.parent.mkdir()
        file.write_bytes(b"x")
    folder.mkdir()
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (tmp_path / "link").symlink_to(outside)
    past = time.time() - guard.KEPT - 60
    for path in (old, old.parent, folder, new.parent):
        os.utime(path, (past, past))
    os.utime(tmp_path / "link", (past, past), follow_symlinks=False)
    sweep(tmp_path)
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left in (["b", "new.edf"], ["a", "b", "new.edf"])  # a changed when its file went
    assert (outside / "kept").exists()


def test_the_sweeper_runs_with_the_server(monkeypatch):
    swept = threading.Event()
    monkeypatch.setattr(guard, "KEPT", 0.1)
    monkeypatch.setattr(guard, "sweep", lambda folder: swept.set())

    async def serve_for_a_moment():
        async with guard.swept(None):
            while not swept.is_set():
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(serve_for_a_moment(), 30))


# ---------------------------------------------------------------- a bug, and what is told


def test_a_crash_in_one_call_leaves_the_page_up(web, capfd):
    for _ in range(5):
        answer, outcome = call(web, "crash", "my secret")
        assert answer.status_code == 200 and "event: error" in outcome
        assert "secret" not in outcome and "RuntimeError" not in outcome
    assert "RuntimeError" in capfd.readouterr().err  # whoever runs the page sees it
    _, outcome = call(web, "decode", *DECODE)
    assert json.loads(outcome.split("data: ")[1])[0]["seen"]["name"] == "dog"


JUNK = [
    None, True, 7, -1, 1e300, float("nan"), 10**400, "", "x", "\ud800", "9" * 5000,
    [], ["Fp1", {}], [None], {}, {"a": 1}, [[1]], ["\ud800"],
]  # fmt: skip


def test_junk_in_place_of_any_choice():
    """The first tab's listeners get what a visitor sends as it is: gradio doesn't check it."""
    opened = page(BundleDecoder(Bundle("weights/phantom")), "phantom")
    listeners = {
        fn.name: fn for fn in opened.fns.values()
        if fn.fn and fn.fn.__module__ == "nice_demo.ui.decode_tab" and fn.name != "show_address"
    }  # fmt: skip
    assert set(listeners) == {"show", "show_map", "show_moment", "show_shuffles"}
    for name, listener in listeners.items():
        assert not listener.preprocess and not listener.postprocess
        chosen = [component.value for component in listener.inputs]
        right = listener.fn(*chosen)
        for place in range(len(chosen)):
            for junk in JUNK:
                given = [*chosen[:place], junk, *chosen[place + 1 :]]
                answer = listener.fn(*given)
                expected = isinstance(answer, type(right)) or answer == gr.skip()
                assert expected, (name, place, junk)
                says = answer if isinstance(answer, str) else json.dumps(answer)
                assert "Traceback" not in says
                says.encode()  # can be sent


def test_a_session_doesnt_get_the_answers_of_another(web):
    """Events are found by names that can't be guessed; a session's name isn't enough."""
    event = web.post("gradio_api/call/decode", json={"data": DECODE}).json()
    with contextlib.suppress(httpx.RemoteProtocolError):  # gradio just closes the line
        assert "dog" not in web.get("gradio_api/call/decode/" + "0" * 32).text
    assert len(event["event_id"]) >= 32
    assert "dog" in web.get(f"gradio_api/call/decode/{event['event_id']}").text


def test_gradios_own_client_still_works(served_page):
    client = Client(served_page[1], verbose=False)
    assert client.predict("1", "nice", "dog", 80, api_name="/decode")["seen"]["name"] == "dog"
    client.close()


def test_gradio_has_not_moved_what_is_replaced():
    """An update of gradio must not open again what is shut here."""
    assert routes.secure_url_stream_response  # reached through /gradio_api/file=, which is guarded
    source = Path(processing_utils.__file__).read_text(encoding="utf-8")
    download = source.split("async def async_ssrf_protected_download")[1].split("\ndef ")[0]
    assert "async_ssrf_protected_get(url)" in download
    assert "save_url_to_cache = ssrf_protected_download" in source
    package = Path(gr.__file__).parent
    python = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    assert sum(text.count("unsafe_download(") for text in python) == 1  # its definition
