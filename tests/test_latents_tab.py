"""The tab "Your decoder": endpoints, words, and in Chromium by mouse, keyboard, on a phone."""

import base64
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import PHONE
from fake_decoder import FakeDecoder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from safetensors.numpy import save_file

from nice_demo.bundle import LATENTS, LatentsBundle, write_manifest
from nice_demo.comparison import compare, in_words
from nice_demo.decode import LatentsDecoder
from nice_demo.errors import InputError
from nice_demo.gallery import Gallery
from nice_demo.retrieval import metrics, similarity
from nice_demo.sources.latents import Limits, candidates_of
from nice_demo.ui.guard import uploads
from nice_demo.ui.latents import cards as latents_cards
from nice_demo.ui.latents import opened as latents_opened
from nice_demo.ui.latents.opened import GONE, KeptLatents, Mine, example, has_example, of_latents
from nice_demo.ui.latents.tab import ready
from nice_demo.ui.page import page, serve

sync_api = pytest.importorskip("playwright.sync_api")

N, DIM = 30, 16
NASTY = '<img src=x onerror="window.hacked=1"> & "co" %{x}'
NAMES = [NASTY, *(f"thing {row}" for row in range(1, N))]


def rows_of(seed, noise):
    """Return latents and their gallery; the less noise, the better the decoder."""
    gallery = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
    own = np.random.default_rng(seed).normal(size=(N, DIM)).astype(np.float32)
    return gallery + noise * own, gallery


def hits_of(latents, gallery):
    return metrics(
        similarity(latents, gallery), np.arange(len(gallery)), protocol="stimulus", repetitions=None
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder of a good and a bad decoder's latents, their gallery, and names."""
    folder = tmp_path_factory.mktemp("files")
    good, gallery = rows_of(1, 0.8)
    bad, _ = rows_of(2, 3.0)
    np.save(folder / "good.npy", good)
    np.savez(folder / "bad.npz", latents=bad)
    save_file({"gallery": gallery}, folder / "gallery.safetensors")
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Return a bundle of two decoders' latents."""
    folder = tmp_path_factory.mktemp("weights") / "made-up"
    folder.mkdir()
    good, gallery = rows_of(3, 0.9)
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    Gallery(candidates_of(NAMES), unit, {"name": "none"}).save(folder / "gallery")
    for name, rows in (("one", good), ("two", rows_of(4, 2.0)[0])):
        save_file({"latents": rows}, folder / f"{name}.safetensors")
    own = {name: {"file": f"{name}.safetensors"} for name in ("one", "two")}
    told = {
        "kind": LATENTS, "name": "two made-up decoders", "simulated": False,
        "source": "published <b>latents</b>, not ours", "subjects": ["4"],
        "image_model": {"name": "none"}, "encoders": {"4": own}, "metrics": [],
        "licences": ["none"],
    }  # fmt: skip
    write_manifest(folder, told)
    return LatentsBundle(folder)


@pytest.fixture(scope="module")
def address(bundle):
    blocks = page(FakeDecoder(), "a test", beside=[bundle])
    try:
        yield serve(blocks, "127.0.0.1")
    finally:
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def client(address):
    client = Client(address, verbose=False)
    yield client
    client.close()


def left():
    """Return uploaded files that are still there."""
    return [path for path in uploads().rglob("*") if path.is_file()]


# ---------------------------------------------------------------- endpoints


def test_endpoints_explain_themselves(client):
    api = client.view_api(return_format="dict")["named_endpoints"]
    for name, wanted in (
        ("/evaluate_latents", ["latents", "gallery", "names", "protocol"]),
        ("/compare_latents", ["latents", "other", "gallery", "protocol"]),
    ):
        parameters = api[name]["parameters"]
        assert [one["parameter_name"] for one in parameters] == wanted
        assert "deleted as soon as they are read" in api[name]["description"]
    needed = [
        one["parameter_name"]
        for one in api["/evaluate_latents"]["parameters"]
        if not one["parameter_has_default"]
    ]
    assert needed == ["latents", "gallery"]


def test_evaluate_latents(client, files):
    told = client.predict(
        handle_file(files / "good.npy"),
        handle_file(files / "gallery.safetensors"),
        handle_file(files / "names.txt"),
        "concept centre",
        api_name="/evaluate_latents",
    )
    expected = hits_of(*rows_of(1, 0.8))
    (decoder,) = told["decoders"]
    assert decoder["metrics"]["top1"] == pytest.approx(expected.top1.to_json())
    assert told["protocol"] == decoder["metrics"]["protocol"] == "concept centre"
    assert np.mean(np.array(decoder["ranks"]) == 1) == expected.top1.value
    assert told["candidates"] == len(told["pictures"]) == N
    assert told["simulated"] is False and "compared" not in told
    assert not left()


def test_compare_latents(client, files):
    told = client.predict(
        latents=handle_file(files / "good.npy"),
        other=handle_file(files / "bad.npz"),
        gallery=handle_file(files / "gallery.safetensors"),
        api_name="/compare_latents",
    )
    ranks = [np.array(decoder["ranks"]) for decoder in told["decoders"]]
    expected = compare(*ranks, N)
    assert told["compared"]["top1"]["p"] == expected.top1.p < 0.05
    assert told["compared"]["in_words"] == in_words(expected, "good.npy", "bad.npz")
    assert [one["name"] for one in told["decoders"]] == ["good.npy", "bad.npz"]
    assert not left()


def test_one_file_for_everything(client, files):
    same = handle_file(files / "good.npy")
    told = client.predict(same, same, same, api_name="/compare_latents")
    assert told["compared"]["top1"]["p"] == 1
    assert told["decoders"][0]["metrics"]["top1"]["value"] == 1
    assert not left()


def wrong_files(folder):
    good, _ = rows_of(1, 0.8)
    np.save(folder / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save(folder / "nan.npy", np.full((N, DIM), np.nan))
    np.save(folder / "zeros.npy", good * (np.arange(N) != 7)[:, None])
    np.save(folder / "short.npy", good[:-1])
    np.save(folder / "wide.npy", np.zeros((3, 8193), np.float16))
    np.save(folder / "words.npy", np.array([["a", "b"]]))
    (folder / "not.npy").write_bytes(b"\x93NUMPY but no more")
    (folder / "weights.pt").write_bytes(b"PK")
    (folder / "table.csv").write_text("=1+1")
    return [
        ("objects.npy", "can't be read as .npy"),
        ("nan.npy", "holds NaN, infinity"),
        ("zeros.npy", "Row 7 of zeros.npy is all zeros"),
        ("short.npy", "has shape (29, 16) but gallery.safetensors has (30, 16)"),
        ("wide.npy", "this page takes up to 20,000 rows"),
        ("words.npy", "not real numbers"),
        ("not.npy", "can't be read as .npy"),
        ("weights.pt", ".pt files may hold code"),
        ("table.csv", "isn't a .npy, .npz or .safetensors file"),
    ]


def test_wrong_files_meet_a_sentence_and_go(client, files, tmp_path):
    gallery = files / "gallery.safetensors"
    for name, words in wrong_files(tmp_path):
        with pytest.raises(AppError) as refused:
            client.predict(
                handle_file(tmp_path / name), handle_file(gallery), api_name="/evaluate_latents"
            )
        assert words in str(refused.value)
        assert "/" not in str(refused.value)  # nothing of this machine
        assert not left(), name


@pytest.mark.parametrize(
    ("content", "protocol", "words"),
    [
        ("only one", "stimulus", "names.txt has 1 names but gallery.safetensors has 30 rows"),
        ("twice\n" * N, "stimulus", "give each candidate a name of its own"),
        ("\n".join(NAMES), "image", "There is no protocol 'image'"),
    ],
)
def test_wrong_names_and_protocol(client, files, tmp_path, content, protocol, words):
    (tmp_path / "names.txt").write_text(content)
    sent = [handle_file(path) for path in (files / "good.npy", files / "gallery.safetensors")]
    with pytest.raises(AppError, match=words):
        client.predict(
            *sent, handle_file(tmp_path / "names.txt"), protocol, api_name="/evaluate_latents"
        )
    assert not left()


@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.com/latents.npy", "../x.npy"])
def test_neither_paths_nor_addresses_are_opened(address, path):
    meant = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "latents.npy"}
    called = {"data": [meant, meant, None, "stimulus"]}
    answer = httpx.post(f"{address}gradio_api/call/evaluate_latents", json=called)
    assert answer.status_code == 400
    words = "never fetches" if path.startswith("http") else "opens no files of its own"
    assert words in answer.json()["detail"]


# ---------------------------------------------------------------- what is opened


def opened(**decoders):
    gallery = rows_of(1, 1)[1]
    gallery = Gallery(candidates_of(NAMES), gallery, {}, "stimulus")
    return of_latents(LatentsDecoder(decoders, gallery, None, "a test"), "A test.")


def test_example_is_what_the_encoders_do():
    decoder = FakeDecoder()
    assert has_example(decoder)
    shown = example(decoder)
    assert shown.labels == ["NICE", "ridge regression"]
    (subject, encoder), looks = shown.whose[1], decoder.repetitions[-1]
    assert encoder == "ridge"
    assert shown.metrics(1).top5 == decoder.metrics(subject, encoder, looks).top5
    for row in (0, 60, 199):
        picture = decoder.gallery.candidates[row].id
        assert shown.ranks(1)[row] == shown.decode(1, picture).rank
    assert "simulated EEG" in shown.source
    told = shown.to_json(0, 1)
    assert told["simulated"] is True and told["compared"]["trials"] == 200
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_ranks_in_pieces_are_ranks_at_once(monkeypatch):
    latents, gallery = rows_of(5, 2.0)
    shown = opened(one=latents)
    expected = hits_of(latents, gallery)
    assert shown.metrics(0) == expected
    told = similarity(latents, gallery)
    by_hand = [1 + sum(row[j] >= row[i] for j in range(N) if j != i) for i, row in enumerate(told)]
    assert shown.ranks(0).tolist() == by_hand


def test_several_subjects_are_told_apart():
    latents, gallery = rows_of(1, 1)
    decoder = LatentsDecoder(
        {"1": {"a": latents}, "2": {"a": latents, "b": latents}},
        Gallery(candidates_of(NAMES), gallery),
        None,
        "a test",
    )
    assert of_latents(decoder, "").labels == ["a, subject 1", "a, subject 2", "b, subject 2"]
    with pytest.raises(InputError, match="no subject '3'"):
        decoder.encoders("3")
    with pytest.raises(InputError, match="no encoder 'b'.*'a' only"):
        decoder.ranks("1", "b")


def test_files_come_in_any_order_and_may_be_replaced():
    good, gallery = rows_of(1, 0.8)
    mine = Mine()
    mine.arrays["gallery"] = "g.npy", gallery
    mine.open()
    assert mine.opened is None
    mine.arrays["latents"] = "l.npy", good[:5]
    with pytest.raises(InputError, match=r"l.npy has shape \(5, 16\) but g.npy has \(30, 16\)"):
        mine.open()
    assert mine.opened is None
    mine.arrays["latents"] = "l.npy", good
    mine.arrays["other"] = "l.npy", -good
    mine.names = "names.txt", NAMES
    mine.open()
    assert mine.opened.labels == ["l.npy", "l.npy (second)"]
    assert mine.opened.decoder.gallery.candidates[0].name == NASTY
    assert mine.nbytes == 4 * N * DIM * 4


def test_one_candidate_is_no_choice():
    one = np.ones((1, 3), np.float32)
    mine = Mine({"latents": ("l.npy", one), "gallery": ("g.npy", one)})
    with pytest.raises(InputError, match="g.npy holds one row"):
        mine.open()


def test_each_session_has_its_own_and_the_oldest_goes():
    kept = KeptLatents(most=2)
    for session in ("a", "b", "c"):
        kept.put(session, Mine({"latents": (session, np.ones((2, 2)))}))
    assert "a" not in kept and "b" in kept
    assert kept.get("c").arrays["latents"][0] == "c"
    for session in ("a", None, "someone"):
        with pytest.raises(InputError, match=GONE[:30]):
            kept.get(session)


def test_limits_suit_what_people_have():
    most = Limits()
    for shape in ((200, 1024), (16540, 128), (1854, 768), (5000, 1024)):
        most.check_array(Path("a.npy"), shape)


def test_what_is_ready(bundle):
    decoder = FakeDecoder()
    assert [value for _, value in ready(decoder, [bundle, bundle])] == ["0", "1", "example"]
    assert "simulated" in ready(decoder, [])[0][0]
    latents = LatentsDecoder.of_bundle(bundle)
    assert ready(latents, []) == [("what this page shows", "example")]
    assert example(latents).labels == ["one", "two"]
    # To decode all of a phantom's trials would take too long, unless they are stored decoded.
    decoder.bundle.manifest["trials"]["kind"] = "phantom"
    assert ready(decoder, []) == []


# ---------------------------------------------------------------- words and figure


def test_names_are_escaped_everywhere():
    good, bad = rows_of(1, 0.8)[0], rows_of(2, 3.0)[0]
    shown = opened(**{NASTY: good, "<script>": bad})
    html = "".join([
        latents_cards.source(shown), latents_cards.overall(shown, [0, 1]),
        latents_cards.legend(shown, [0, 1]), latents_cards.paired(shown, 0, 1),
        latents_cards.read({"Latents": (NASTY, "2 × 2")}),
    ])  # fmt: skip
    assert "<img" not in html and "<script" not in html
    assert html.count("&lt;img") == 6
    figure = json.dumps(latents_cards.curve(shown, [0, 1]))
    assert "<img" not in figure and "%{x}" not in figure.replace("first %{x}", "")


def test_curve_is_the_share_among_the_first_k():
    shown = opened(one=rows_of(1, 2.0)[0])
    band, line, chance = latents_cards.curve(shown, [0])["data"]
    for k, share, (low, high) in zip(line["x"], line["y"], line["customdata"], strict=True):
        assert share == pytest.approx(100 * np.mean(shown.ranks(0) <= k), abs=0.01)
        assert low <= share <= high
    assert chance["y"] == [round(100 * k / N, 2) for k in chance["x"]]
    assert band["y"] == [*(high for _, high in line["customdata"]),
                         *(low for low, _ in line["customdata"][::-1])]  # fmt: skip


def test_no_number_without_chance_and_interval():
    shown = opened(one=rows_of(1, 2.0)[0])
    html, found = latents_cards.overall(shown, [0]), shown.metrics(0)
    assert "chance" in html and "95 % intervals" in html and "protocol stimulus" in html
    low, high = (latents_cards.cards.percent(end) for end in (found.top1.low, found.top1.high))
    assert f"<small>{low}–{high}</small>" in html


# ---------------------------------------------------------------- in Chromium


def start(visit, address, **how):
    opened_page = visit(f"{address}?tab=your-decoder", **how)
    tab = opened_page.get_by_role("tab", name="Your decoder", exact=True)
    if not tab.is_visible():  # on a phone the last ones are in a menu
        opened_page.locator(".overflow-menu > button").click()
        tab = opened_page.locator(".overflow-dropdown button", has_text="Your decoder")
    tab.click()
    opened_page.wait_for_selector("#latents-overall .overall >> visible=true")
    return opened_page


def choose(opened_page, name):
    opened_page.locator("#latents-source").get_by_label(name).check()


def upload(opened_page, which, path):
    opened_page.locator(f"#latents-{which} input[type=file]").set_input_files(path)


def pick(opened_page, control, option):
    opened_page.locator(f"#{control} input").click()
    opened_page.get_by_role("option", name=option, exact=True).click()


def says(opened_page, selector):
    return sync_api.expect(opened_page.locator(selector).first)


def test_by_mouse(visit, address, bundle):
    opened_page = start(visit, address)
    says(opened_page, ".latents-source").to_have_text("Published <b>latents</b>, not ours (none).")
    assert opened_page.evaluate("window.hacked") is None
    shown = of_latents(LatentsDecoder.of_bundle(bundle), "")
    verdict = opened_page.locator("#latents-paired .latents-verdict")
    sync_api.expect(verdict).to_have_text(in_words(shown.compared(0, 1), "one", "two"))
    pick(opened_page, "latents-first", "two")
    pick(opened_page, "latents-second", "one")
    sync_api.expect(verdict).to_have_text(in_words(shown.compared(1, 0), "two", "one"))
    pick(opened_page, "latents-second", "nothing")
    sync_api.expect(verdict).to_have_count(0)
    opened_page.wait_for_selector("#latents-plot .main-svg")

    pick(opened_page, "latents-picture", "thing 5")
    ranks = shown.ranks(1)
    for name, row in (("Next ▶", 6), ("Next ▶", 7), ("◀ Previous", 6)):
        opened_page.get_by_role("button", name=name).click()
        says(opened_page, "#latents-retrieved .seen .name").to_have_text(f"thing {row}")
        says(opened_page, "#latents-retrieved .verdict").to_contain_text(
            "first of 30" if ranks[row] == 1 else f"rank {ranks[row]} of 30"
        )
    link = opened_page.locator(".latents-download a")
    told = json.loads(base64.b64decode(link.get_attribute("href").partition(",")[2]))
    assert told == json.loads(json.dumps(shown.to_json(1) | {"source": told["source"]}))
    with opened_page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "nice-demo-your-decoder.json"

    choose(opened_page, "an example")
    says(opened_page, ".latents-source").to_contain_text("Simulated: no person was measured.")
    sync_api.expect(verdict).to_contain_text("NICE puts the picture seen first in")
    sync_api.expect(verdict).to_contain_text("Simulated EEG.")


def test_own_files(visit, address, files, tmp_path):
    opened_page = start(visit, address)
    choose(opened_page, "your own files")
    says(opened_page, ".latents-empty").to_contain_text("Two files")
    upload(opened_page, "latents", files / "good.npy")
    says(opened_page, "#latents-says .notice").to_contain_text("Now the gallery")
    says(opened_page, "#latents-read").to_contain_text("good.npy 30 × 16")
    assert not left()

    (tmp_path / "weights.npy").write_bytes(b"no array")
    upload(opened_page, "gallery", tmp_path / "weights.npy")
    error = opened_page.locator("#latents-says .notice.error")
    sync_api.expect(error).to_contain_text("weights.npy can't be read as .npy")
    assert not left()

    upload(opened_page, "gallery", files / "gallery.safetensors")
    expected = hits_of(*rows_of(1, 0.8)).top1
    share = f"{latents_cards.cards.percent(expected.value)}\u202f%"
    says(opened_page, "#latents-overall .overall").to_contain_text(share)
    upload(opened_page, "names", files / "names.txt")
    says(opened_page, "#latents-read").to_contain_text("names.txt 30")
    says(opened_page, "#latents-bars").to_contain_text("thing ")
    upload(opened_page, "other", files / "bad.npz")
    says(opened_page, ".latents-verdict").to_contain_text("more than chance explains")
    pick(opened_page, "latents-protocol", "means of others (concept centre)")
    says(opened_page, "#latents-overall .overall").to_contain_text("protocol concept centre")
    opened_page.locator("#latents-picture input").fill(NASTY)
    opened_page.keyboard.press("Enter")
    says(opened_page, "#latents-retrieved .seen .name").to_have_text(NASTY)
    assert opened_page.evaluate("window.hacked") is None
    assert not left()

    # Another visitor sees nothing of it, and who comes back finds it.
    other = start(visit, address)
    choose(other, "your own files")
    says(other, ".latents-empty").to_contain_text("Two files")
    choose(opened_page, "two made-up decoders")
    says(opened_page, ".latents-source").to_contain_text("not ours")
    choose(opened_page, "your own files")
    says(opened_page, ".latents-source").to_contain_text("Your files: good.npy and bad.npz")


def test_a_picture_that_isn_t_there(visit, address):
    opened_page = start(visit, address)
    box = opened_page.locator("#latents-picture input")
    box.fill("<b>unicorn</b>")
    opened_page.keyboard.press("Enter")
    error = opened_page.locator("#latents-retrieved .notice.error")
    sync_api.expect(error).to_contain_text("There is no picture '<b>unicorn</b>'")
    opened_page.get_by_role("button", name="Any", exact=True).click()
    sync_api.expect(error).to_have_count(0)
    says(opened_page, "#latents-retrieved .verdict").to_contain_text("of 30")


def test_by_keyboard(visit, address):
    opened_page = start(visit, address)
    tab = opened_page.get_by_role("tab", name="Your decoder", exact=True)
    tab.focus()
    reached = []
    for _ in range(40):
        opened_page.keyboard.press("Tab")
        reached.append(opened_page.evaluate(
            "document.activeElement.closest('[id^=latents-]')?.id ?? ''"
        ))  # fmt: skip
    wanted = ["source", "latents", "gallery", "other", "names", "protocol", "first", "second",
              "picture", "previous", "any", "next", "link"]  # fmt: skip
    places = [reached.index(f"latents-{name}") for name in wanted]
    assert places == sorted(places)
    opened_page.locator("#latents-next").focus()
    before = opened_page.locator("#latents-retrieved .seen .name").text_content()
    opened_page.keyboard.press("Enter")
    says(opened_page, "#latents-retrieved .seen .name").not_to_have_text(before)
    opened_page.locator("#latents-second input").focus()
    for key in ("Enter", "ArrowUp", "ArrowUp", "Enter"):
        opened_page.keyboard.press(key)
    help_of = opened_page.locator("#latents-overall details.help summary")
    help_of.focus()
    opened_page.keyboard.press("Enter")
    text = opened_page.locator("#latents-overall details.help p")
    sync_api.expect(text).to_be_visible()
    opened_page.keyboard.press("Escape")
    sync_api.expect(text).to_be_hidden()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_on_a_phone(visit, address, colours):
    opened_page = start(visit, address, viewport=PHONE, colours=colours)
    opened_page.wait_for_selector("#latents-plot .main-svg")
    assert opened_page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tops = [
        opened_page.locator(which).first.bounding_box()["y"]
        for which in ("#latents-source", ".latents-source", "#latents-plot", "#latents-latents")
    ]
    assert tops == sorted(tops)
    for button in opened_page.locator(".latents-picture button").all():
        assert button.bounding_box()["height"] >= 34


def test_a_file_that_gradio_never_stored(tmp_path):
    with pytest.raises(InputError):
        latents_opened.read_upload({"path": str(tmp_path / "gone.npy")}, "latents")
