"""More visitors than the page takes in: what they are told, and that it recovers."""

import contextlib
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
from browser import LAPTOP, PHONE
from fake_decoder import FakeDecoder, served
from gradio.blocks import BlocksConfig
from gradio.state_holder import SessionState
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError

from nice_demo.ui import page as page_of_ui
from nice_demo.ui import traffic
from nice_demo.ui.ahead import QUIET, Ahead
from nice_demo.ui.guard import uploads
from nice_demo.ui.traffic import BUSY
from nice_demo.ui.view import View, opening_view

sync_api = pytest.importorskip("playwright.sync_api")


class HeldDecoder(FakeDecoder):
    """Decodes nothing before it is let go."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def decode(self, *choices):
        assert self.go.wait(60)
        return super().decode(*choices)


@pytest.fixture(scope="module")
def decoder():
    return HeldDecoder()


@pytest.fixture(scope="module")
def address(decoder):
    """Serve a page that takes in two answers at a time, and one more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_of_ui, "WAITING", 1)
        with served(decoder) as where:
            yield where


@contextlib.contextmanager
def filled(address, decoder):
    """Fill the queue; afterwards all that was taken in must be answered."""
    decoder.go.clear()
    taken, refused = [], False
    with httpx.Client(base_url=address, timeout=60) as client:
        # Two are being answered, one waits. While they begin, a place may come free again.
        while not (refused and len(taken) == 3):
            answer = ask(client)
            refused = answer.status_code == 503
            if not refused:
                taken.append(answer.json()["event_id"])
        yield
        decoder.go.set()
        for event in taken:
            assert "event: complete" in told(client, event)


@pytest.fixture
def full(address, decoder):
    with filled(address, decoder):
        yield


SAID = BUSY.split(".")[0]
CHOICES = ["1", "nice", "dog", 80, "all", None, None, 0]


def ask(client):
    return client.post("gradio_api/call/decode", json={"data": CHOICES})


def told(client, event):
    return client.get(f"gradio_api/call/decode/{event}").text


def test_a_program_is_refused_at_once_with_a_sentence(address, decoder):
    with httpx.Client(base_url=address, timeout=60) as client:
        with filled(address, decoder):
            began = time.perf_counter()
            answer = ask(client)
            assert time.perf_counter() - began < 5  # what it would wait for never comes
            assert answer.status_code == 503
            assert answer.json() == {"detail": BUSY}
            assert int(answer.headers["Retry-After"]) > 0
        again = told(client, ask(client).json()["event_id"])
        assert json.loads(again.split("data: ")[1])[0]["seen"]["name"] == "dog"


def test_gradios_own_client_is_refused_too(address, full):
    client = Client(address, verbose=False)
    with pytest.raises(QueueError, match="Queue is full! Please try again."):
        client.predict(*CHOICES[:4], api_name="/decode")
    client.close()


def test_a_visitor_reads_it_and_need_not_ask_again(chromium, address, decoder, full):
    with chromium.new_context(viewport=PHONE, color_scheme="dark") as context:
        page = context.new_page()
        page.goto(address)
        notice = page.locator("#busy")
        sync_api.expect(notice).to_contain_text(SAID)
        sync_api.expect(notice).to_be_in_viewport()
        assert page.get_by_test_id("toast-body").count() == 0  # gradio's "Error"
        decoder.go.set()
        page.wait_for_selector(".overall")
        sync_api.expect(notice).to_have_count(0)


def test_a_change_that_was_refused_is_on_the_screen_in_the_end(chromium, address, decoder):
    with chromium.new_context(viewport=LAPTOP) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(".overall")
        page.wait_for_selector("#carried svg")
        before = page.locator(".seen .name").inner_text()
        with filled(address, decoder):
            page.locator("#next").click()
            sync_api.expect(page.locator("#busy")).to_contain_text(SAID)
            assert page.locator(".seen .name").inner_text() == before
        sync_api.expect(page.locator("#busy")).to_have_count(0)
        names = [candidate.name for candidate in decoder.gallery.candidates]
        following = names[(names.index(before) + 1) % len(names)]
        sync_api.expect(page.locator(".seen .name")).to_have_text(following)


# ---------------------------------------------------------------- made ahead


def test_many_look_while_others_upload(decoder, tmp_path, monkeypatch):
    """Ten visitors and three recordings at once: everybody gets their own answer, nothing stays."""
    monkeypatch.setattr(page_of_ui, "WAITING", 64)  # `address` may have made it less
    rng = np.random.default_rng(0)
    names = decoder.montage.names[::4]
    own = tmp_path / "mine.npz"
    volts = 1e-5 * rng.standard_normal((len(names), 5000))
    events = {"events": np.array(["dog", "cat"] * 4), "onsets": np.arange(1.0, 17.0, 2)}
    np.savez(own, eeg=volts, channels=np.array(names), sfreq=250.0, **events)
    pictures = [candidate.name for candidate in decoder.gallery.candidates[:10]]
    together = threading.Barrier(13)

    def look(name):
        client = Client(address, verbose=False)
        together.wait(60)
        return [client.predict("1", "nice", name, n, api_name="/decode") for n in (80, 40, 20)]

    def bring(_):
        client = Client(address, verbose=False)
        together.wait(60)
        given = [handle_file(str(own))], "1", "nice"
        return client.predict(*given, api_name="/decode_recording")

    with served(decoder) as address, ThreadPoolExecutor(13) as pool:
        looking = [pool.submit(look, name) for name in pictures]
        brought = [pool.submit(bring, which) for which in range(3)]
        for name, job in zip(pictures, looking, strict=True):
            assert [(a["seen"]["name"], a["repetitions"]) for a in job.result()] == [
                (name, 80), (name, 40), (name, 20),
            ]  # fmt: skip
        first, *others = [job.result() for job in brought]
    assert {one["condition"] for one in first["conditions"]} == {"dog", "cat"}
    assert others == [first, first]
    assert not [path for path in uploads().rglob("*") if path.is_file()]


def test_what_may_follow_is_made_while_it_is_quiet(decoder):
    made, all_made = [], threading.Event()
    ids = [candidate.id for candidate in decoder.gallery.candidates]
    view, last = View("1", "nice", ids[0], 80), ("1", 100, 80)  # the farthest picture

    class Noted(FakeDecoder):
        def evoked(self, *which):
            made.append(which)
            if which == last:
                all_made.set()

    ahead = Ahead(
        Noted(),
        lambda view: made.append(("ranges", view.subject)),
        lambda view: made.append(("map", view)),
    )
    with ahead.answering():
        ahead.looked_at(view)
        assert not all_made.wait(2 * QUIET) and not made
    assert all_made.wait(60)
    # The picture itself and the next; other repetitions; the picture before; the other subject.
    following, before = replace(view, picture=ids[1]), replace(view, picture=ids[199])
    assert made[:4] == [("1", 0, 80), ("map", view), ("1", 1, 80), ("map", following)]
    others = [n for n in decoder.repetitions if n != 80]
    end = 4 + 2 * len(others)
    assert made[4:end:2] == [("1", 0, n) for n in others]
    assert made[5:end:2] == [("map", replace(view, repetitions=n)) for n in others]
    assert made[end : end + 2] == [("1", 199, 80), ("map", before)]
    assert made[end + 2 : end + 6] == [
        ("ranges", "1"), ("ranges", "2"), ("2", 0, 80), ("map", replace(view, subject="2")),
    ]  # fmt: skip
    # Then the trials of all other pictures, the nearest first.
    rows = [row for _, row, _ in made[end + 6 :]]
    assert rows[:4] == [2, 198, 3, 197] and sorted(rows) == list(range(2, 199))
    assert all(of == ("1", row, 80) for row, of in zip(rows, made[end + 6 :], strict=True))


def test_the_first_visitors_work_begins_before_they_come(decoder, monkeypatch):
    looked_at = []
    monkeypatch.setattr(Ahead, "looked_at", lambda self, view: looked_at.append(view))
    blocks = page_of_ui.page(decoder, "fake")
    assert not looked_at
    blocks.make_ahead()
    assert looked_at == [opening_view(decoder)]


def test_trials_are_made_once_and_equal_those_of_the_bundle(decoder):
    first, again = decoder.evoked("2", 7, 20), decoder.evoked("2", 7, 20)
    assert again is first
    own = decoder.bundle.trials("2").evoked(7, 20)
    np.testing.assert_array_equal(first.eeg, own.eeg)
    np.testing.assert_array_equal(first.volts, own.volts)
    assert first.eeg.base is None and first.volts.base is None


def test_newcomers_share_descriptions_and_nothing_else(decoder, monkeypatch):
    described = []

    def describe(number, rendered, block, renderable=None):
        described.append(number)
        return plain(number, rendered, block, renderable)

    plain = traffic._describe
    monkeypatch.setattr(BlocksConfig, "config_for_block", staticmethod(plain))
    blocks = page_of_ui.page(decoder, "fake")
    expected = SessionState(blocks).config_values  # as gradio makes it
    monkeypatch.setattr(traffic, "_describe", describe)
    traffic.describe_once()
    one, other = SessionState(blocks), SessionState(blocks)
    assert one.config_values == other.config_values == expected
    assert sorted(described) == sorted(expected)
    which = next(k for k, block in blocks.blocks.items() if block.elem_id == "picture")
    one._update_value_in_config(which, "1f431")
    assert one.config_values[which]["props"]["value"] == "1f431"
    assert other.config_values == SessionState(blocks).config_values == expected


def test_scripts_are_compressed_and_may_be_kept(address):
    with httpx.Client(base_url=address) as client:
        script = re.search(r'src="./(assets/[^"]+[.]js)"', client.get("").text).group(1)
        plain = client.get(script, headers={"Accept-Encoding": "identity"})
        given = client.get(script, headers={"Accept-Encoding": "gzip, br"})
        assert "immutable" in given.headers["Cache-Control"]
        assert given.headers["Content-Encoding"] == "br"
        assert given.headers["Content-Type"] == plain.headers["Content-Type"]
        assert given.content == plain.content
        assert "immutable" not in client.get("").headers.get("Cache-Control", "")
        assert client.get("assets/none.js").status_code == 404
