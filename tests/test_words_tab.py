"""The tab "Pictures and words": through the page's API, and in a real Chromium."""

import io
import threading
from html import escape
from pathlib import Path

import numpy as np
import pytest
from browser import LAPTOP, PHONE
from fake_decoder import NASTY, FakeDecoder, served
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from test_queries import NamesModel, png_that_claims

from nice_demo import image_model, queries
from nice_demo.errors import InputError
from nice_demo.ui.guard import uploads
from nice_demo.ui.words import tab as words_tab

sync_api = pytest.importorskip("playwright.sync_api")
OFFLINE = "The image model isn't on this machine, so that words are off; everything else works."


class Switchboard:
    """Decides when and how a page's image model is loaded."""

    def __init__(self):
        self.go, self.loads = threading.Event(), 0

    def __call__(self, bundle):
        self.loads += 1
        assert self.go.wait(60)
        return NamesModel(bundle.gallery)


@pytest.fixture(scope="module")
def decoder():
    return FakeDecoder()


@pytest.fixture(scope="module")
def load():
    return Switchboard()


@pytest.fixture(scope="module")
def address(decoder, load):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_model, "open_model", load)
        patch.setattr(words_tab, "TICK", 0.1)
        with served(decoder) as where:
            yield where


@pytest.fixture(scope="module")
def client(address):
    client = Client(address, verbose=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def dog(tmp_path_factory):
    file = tmp_path_factory.mktemp("mine") / "dog.png"
    Image.new("RGB", (300, 200), "orange").save(file)
    return file


def left_behind():
    return [path for path in Path(uploads()).rglob("*") if path.is_file()]


def open_tab(page, in_menu=False):
    if in_menu:  # where not all tabs have room
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text="Pictures and words").click()
    else:
        page.get_by_role("tab", name="Pictures and words").click()
    page.wait_for_selector("#word-found .absent")


# ---------------------------------------------------------------- in Chromium, not yet loaded


def test_nothing_is_loaded_before_somebody_asks_and_waiting_is_said(visit, address, load):
    page = visit(address)
    open_tab(page)
    found = page.locator("#word-found")
    sync_api.expect(found).to_contain_text("Type a word")
    assert load.loads == 0
    page.get_by_role("button", name="pizza").click()
    sync_api.expect(found.locator("[aria-busy]")).to_contain_text("image model is being loaded")
    assert load.loads == 1
    load.go.set()  # nobody presses anything: it appears by itself
    sync_api.expect(found.locator(".verdict")).to_contain_text("pizza")
    assert found.locator(".card").count() == 10
    assert load.loads == 1


# ---------------------------------------------------------------- for programs


@pytest.fixture
def ready(load):
    load.go.set()


def expected_word(decoder, word, *whose):
    trials = queries.embed_trials(decoder, *whose)
    one = NamesModel(decoder.gallery).embed_words([word])[0]
    return queries.find_trials(decoder.gallery, trials, word, one)


def test_words_for_programs(client, decoder, ready):
    told = client.predict("pizza", "1", "nice", 80, api_name="/find_words")
    found = expected_word(decoder, "pizza", "1", "nice", 80)
    names = [one.name for one in decoder.gallery.candidates]
    assert [one["name"] for one in told["nearest"]] == [names[row] for row in found.order[:10]]
    assert told["nearest"][0]["similarity"] == round(float(found.similarities.max()), 4)
    assert told["rank_of_own"] == found.rank and told["rank_of_own_by_pictures"] == 1
    assert told["simulated"] is True and told["trials"] == 200 and told["rank_by_chance"] == 100.5
    own = told["own_among_first"]
    assert own["eeg"]["chance"] == 0.05 and own["pictures"]["value"] == 1.0
    assert own["eeg"]["low"] < own["eeg"]["value"] < own["eeg"]["high"]
    other = client.predict("no such thing", "2", "ridge", 1, api_name="/find_words")
    assert other["rank_of_own"] is None and len(other["nearest"]) == 10


def test_pictures_for_programs(client, decoder, dog, ready):
    asked = handle_file(dog), "dog", "1", "nice", "dog", 80
    told = client.predict(*asked, api_name="/rank_picture")
    decoding = decoder.decode("1", "nice", decoder.gallery.candidates[0].id, 80)
    # Called "dog", it is embedded as the dog that was seen: a tie, which counts against both.
    assert told["rank"] == told["rank_of_seen"] == decoding.rank + 1
    assert told["candidates"] == 201 and told["rank_by_chance"] == 101
    assert told["similarity"] == told["seen"]["similarity"]
    assert len(told["most_similar_trials"]) == 5
    unnamed = client.predict(asked[0], "", *asked[2:], api_name="/rank_picture")
    assert unnamed["name"] == "" and unnamed["rank"] != told["rank"]
    assert not left_behind()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"word": " "}, "nothing to look for"),
        ({"word": "x" * 500}, "80 characters at most"),
        ({"subject": "9"}, "no subject '9'"),
        ({"encoder": "ball"}, "no encoder 'ball'"),
        ({"repetitions": 3}, "no average over '3' repetitions"),
        ({"repetitions": "all"}, "repetitions isn't what find_words takes"),
    ],
)
def test_programs_are_answered_with_a_sentence(client, ready, wrong, sentence, capfd):
    right = {"word": "pizza", "subject": "1", "encoder": "nice", "repetitions": 80}
    with pytest.raises(AppError, match=sentence):
        client.predict(**(right | wrong), api_name="/find_words")
    assert "Traceback" not in capfd.readouterr().err
    assert client.predict(**right, api_name="/find_words")["word"] == "pizza"


def jpeg_of(size):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "JPEG")
    return buffer.getvalue() + bytes(size)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("bomb.png", png_that_claims(60_000, 60_000), "far too many pixels"),
        ("large.png", png_that_claims(9000, 9000), "9000 × 9000 pixels"),
        ("heavy.jpg", jpeg_of(5_000_001), "more than 5 MB"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG, JPEG or WebP"),
        ("picture.png", b"\x80\x04cos\nsystem\n", "no PNG, JPEG or WebP"),
        ("empty.webp", b"", "no PNG, JPEG or WebP"),
    ],
)
def test_hostile_pictures_are_refused_and_deleted(
    client, ready, tmp_path, name, content, sentence, capfd
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AppError, match=sentence):
        client.predict(
            handle_file(tmp_path / name), "x", "1", "nice", "dog", 80, api_name="/rank_picture"
        )
    assert "Traceback" not in capfd.readouterr().err
    assert not left_behind()


@pytest.mark.parametrize("path", ["/etc/hostname", "../../etc/hostname", "", None, 7])
def test_only_uploads_are_taken(path, tmp_path):
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    assert words_tab._taken([str(path), str(mine), str(uploads())]) == []
    assert mine.exists() and Path("/etc/hostname").exists() and Path(uploads()).is_dir()


def test_an_upload_that_links_elsewhere_is_not_followed(tmp_path):
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    link = Path(uploads()) / "link.png"
    link.symlink_to(mine)
    try:
        assert words_tab._taken([str(link)]) == []
        assert mine.read_bytes() == b"mine"
    finally:
        link.unlink()


def test_the_description_is_for_strangers(client):
    api = client.view_api(return_format="dict")["named_endpoints"]
    known = {
        "/find_words": ["word", "subject", "encoder", "repetitions"],
        "/rank_picture": ["picture", "name", "subject", "encoder", "seen", "repetitions"],
    }
    for name, parameters in known.items():
        assert [p["parameter_name"] for p in api[name]["parameters"]] == parameters


# ---------------------------------------------------------------- in Chromium


def test_by_keyboard_on_a_phone_with_html_in_the_word(visit, address, ready):
    page = visit(address, PHONE, "dark")
    open_tab(page, in_menu=True)
    page.locator("#word textarea, #word input").focus()
    page.keyboard.type("<img src=x onerror=alert(1)> pizza")
    page.keyboard.press("Enter")
    verdict = page.locator("#word-found .verdict")
    sync_api.expect(verdict).to_contain_text("<img src=x onerror=alert(1)> pizza")
    assert page.locator("#word-found .verdict img").count() == 0
    page.locator("#word textarea, #word input").fill(NASTY)  # the name of a candidate
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#word-found")).to_contain_text(NASTY)
    sync_api.expect(verdict).to_contain_text(f"trial of “{NASTY}”")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    page.locator("#word textarea, #word input").fill("")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#word-found .absent")).to_contain_text("Type a word")


def test_the_trials_follow_the_choice(visit, address, decoder, ready):
    page = visit(address, LAPTOP)
    open_tab(page)
    page.get_by_role("button", name="animal").click()
    page.wait_for_selector("#word-found .verdict")
    page.locator("#words-subject input").click()
    other = "Phantom 1" if page.locator("#words-subject input").input_value() != "Phantom 1" else (
        "Phantom 2"
    )  # fmt: skip
    page.get_by_role("option", name=other).click()
    found = expected_word(decoder, "animal", other[-1], "nice", 80)
    first = decoder.gallery.candidates[int(found.order[0])].name
    sync_api.expect(page.locator("#word-found .card .name").first).to_have_text(first)


def test_own_pictures_are_ranked_named_and_removed(visit, address, dog, tmp_path, ready):
    page = visit(address)
    open_tab(page)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<svg onload=alert(1)>")
    ranks, add = page.locator("#picture-ranks"), page.locator("#picture-part input[type=file]")
    add.set_input_files([dog])
    sync_api.expect(ranks.locator(".verdict")).to_contain_text("Seen was “dog”")
    sync_api.expect(ranks.locator("ul.yours li")).to_have_count(1)
    sync_api.expect(ranks.locator("ul.yours b")).to_have_text("dog")
    names = page.locator("#picture-names textarea")
    names.fill("<b>hot</b> dog")
    names.blur()
    sync_api.expect(ranks.locator("ul.yours b")).to_have_text("<b>hot</b> dog")
    assert escape("<b>hot</b>") in ranks.inner_html()
    add.set_input_files([bad])
    sync_api.expect(ranks.locator(".error")).to_contain_text("no PNG, JPEG or WebP")
    sync_api.expect(ranks.locator("ul.yours li")).to_have_count(1)  # what was there stays
    rng = np.random.default_rng(0)
    many = []
    for number in range(5):
        many.append(tmp_path / f"picture_{number}.webp")
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(many[-1])
    add.set_input_files(many)
    sync_api.expect(ranks.locator(".error")).to_contain_text("room for 5 pictures")
    sync_api.expect(ranks.locator("ul.yours li")).to_have_count(5)
    assert not left_behind()
    page.get_by_role("button", name="Remove all").press("Enter")
    sync_api.expect(ranks.locator(".absent")).to_contain_text("Add a picture")
    sync_api.expect(names).to_be_hidden()
    # Whoever else comes sees nothing of it.
    other = visit(address)
    open_tab(other)
    assert other.locator("#picture-ranks ul.yours li").count() == 0


def test_offline_is_said_and_the_rest_works(visit, decoder, monkeypatch, dog):
    def load(bundle):
        raise InputError(OFFLINE)

    monkeypatch.setattr(image_model, "open_model", load)
    with served(decoder) as address:
        page = visit(address)
        open_tab(page)
        page.get_by_role("button", name="pizza").click()
        sync_api.expect(page.locator("#word-found .error")).to_have_text(OFFLINE)
        page.locator("#picture-part input[type=file]").set_input_files([dog])
        sync_api.expect(page.locator("#picture-ranks .error")).to_have_text(OFFLINE)
        page.get_by_role("tab", name="Decode a trial").click()
        page.locator("#next").click()
        sync_api.expect(page.locator(".overall").first).to_be_visible()
        page.close()  # before its server, whose end it would report as an error
