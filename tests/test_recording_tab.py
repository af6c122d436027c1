"""The tab "Your EEG": its steps, its endpoint, and the tab in Chromium."""

import base64
import json
import tempfile
import threading
from dataclasses import replace
from html import escape
from pathlib import Path

import mne
import numpy as np
import pytest
from browser import PHONE
from fake_decoder import FakeDecoder
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from nice_demo.decode.recording import decode_epochs
from nice_demo.errors import InputError
from nice_demo.files import read_json
from nice_demo.montage import CHANNELS
from nice_demo.sources.phantom.trials import RESOLUTION, Phantom
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.channels import corrected, match_channels
from nice_demo.sources.recordings.epochs import default_steps, prepare_epochs
from nice_demo.sources.recordings.example import example_recording
from nice_demo.sources.recordings.files import open_recording
from nice_demo.ui.kept import Kept, Own
from nice_demo.ui.latents import tab as latents_tab
from nice_demo.ui.latents.opened import KeptLatents
from nice_demo.ui.page import page, serve
from nice_demo.ui.recording import cards as recording_cards
from nice_demo.ui.recording import tab as recording_tab
from nice_demo.ui.recording.steps import chosen_steps, claimed, to_correct

sync_api = pytest.importorskip("playwright.sync_api")
wait = sync_api.expect

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "phantom"
NASTY = '<img src=x onerror=alert(1)> & "co"'


class Watched:
    """Tells when something was dropped."""

    made = None

    def __init__(self):
        super().__init__()
        self.dropped = threading.Event()
        type(self).made = self

    def drop(self, session):
        super().drop(session)
        self.dropped.set()


class WatchedKept(Watched, Kept):
    """Visitors' recordings."""


class WatchedLatents(Watched, KeptLatents):
    """Visitors' files."""


class OwnDecoder(FakeDecoder):
    """A made-up bundle with the trials of a real phantom, from which the example is made."""

    def __init__(self):
        super().__init__()
        files = read_json(WEIGHTS / "manifest.json")["trials"]["files"]
        self.bundle.manifest["trials"] |= {"kind": "phantom", "files": files}
        self.bundle.file = lambda name: WEIGHTS / name
        make = self.bundle.encoder
        check = self.bundle._check_encoder
        self.bundle.encoder = lambda *who: check(*who) or make(*who)


@pytest.fixture(scope="module")
def decoder():
    return OwnDecoder()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Return the folder in which temporary files of this module are made."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("scratch"))
    yield Path(tempfile.tempdir)
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def blocks(decoder, scratch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_tab, "Kept", WatchedKept)
        patch.setattr(latents_tab, "KeptLatents", WatchedLatents)
        blocks = page(decoder, "a test")
        serve(blocks, "127.0.0.1")
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


def raw(channels=CHANNELS, events=("dog", "pizza"), seconds=13, sfreq=250.0, seed=1):
    """Make a recording of noise with an event each 1.2 s."""
    rng = np.random.default_rng(seed)
    volts = 1e-5 * rng.standard_normal((len(channels), int(seconds * sfreq)))
    info = mne.create_info(list(channels), sfreq, "eeg", verbose="error")
    made = mne.io.RawArray(volts, info, verbose="error")
    onsets = np.arange(0.4, seconds - 1.2, 1.2)
    made.set_annotations(
        mne.Annotations(onsets, 0, [events[i % len(events)] for i in range(len(onsets))])
    )
    return made


@pytest.fixture(scope="module")
def fif(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "session_raw.fif"
    raw().save(path, verbose="error")
    return path


@pytest.fixture(scope="module")
def edf(tmp_path_factory):
    """A file with most of the cap, a name that needs a hand, and an EOG."""
    path = tmp_path_factory.mktemp("own") / "session.edf"
    names = [f"EEG {name}-Ref" for name in CHANNELS[:-3]] + ["EEG 61", "EOG left"]
    mne.export.export_raw(path, raw(names), verbose="error")
    return path


def recording(channels=CHANNELS, events=("dog", "pizza")):
    made = raw(channels, events)
    onsets, kinds = made.annotations.onset, list(made.annotations.description)
    volts = made.get_data().astype(np.float32)
    return Recording("x.fif", "FIF", volts, list(channels), 250.0, onsets=onsets, events=kinds)


def left_on_disk(scratch):
    """Return the uploaded files and temporary folders that are still there."""
    places = {Path(get_upload_folder()), scratch}
    return [path for place in places for path in place.rglob("*") if path.is_file()]


# ---------------------------------------------------------------- steps


def test_corrections_by_hand(decoder):
    montage, names = decoder.montage, ["EEG 1", "a, b", "Oz", "O2"]
    told = {"Oz": "Oz", "O2": "O2"}
    assert corrected(told, names, "", montage) == told
    by_hand = corrected(told, names, "EEG 1=o1, Oz = \n  a, b = FCz", montage)
    assert by_hand == {"EEG 1": "O1", "a, b": "FCz", "O2": "O2"}
    # What is given by hand is taken from whom the names gave it to.
    assert corrected(told, names, "EEG 1 = Oz", montage) == {"EEG 1": "Oz", "O2": "O2"}
    # What is offered changes nothing.
    matches = match_channels(names, montage)
    told = {match.name: match.electrode for match in matches if match.electrode}
    offered = to_correct(matches, told)
    assert offered.splitlines() == ["EEG 1 =", "a, b ="]
    assert corrected(told, names, offered, montage) == told


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("EEG 9 = O1", "'EEG 9 = O1' names no channel"),
        ("O1", "'O1' names no channel"),
        ("EEG 1 = nose", "no electrode 'nose'"),
        ("EEG 1 = O1, EEG 2 = O1", "O1 is given to two channels"),
    ],
)
def test_wrong_corrections_are_refused(decoder, text, sentence):
    with pytest.raises(InputError, match=sentence):
        corrected({}, ["EEG 1", "EEG 2"], text, decoder.montage)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"events": ["cat"]}, "no event 'cat' in the recording; choose of dog, pizza"),
        ({"events": []}, "No event is chosen"),
        ({"reference": "nose"}, "no reference 'nose'"),
        ({"low": float("nan")}, "'nan' can't be the lower end"),
        ({"high": -1}, "'-1' can't be the upper end"),
        ({"notch": "fifty"}, "'fifty' can't be the frequency"),
        ({"reject": float("inf")}, "'inf' can't be the largest"),
    ],
)
def test_wrong_choices_are_refused(decoder, wrong, sentence):
    right = {
        "events": ["dog"], "by_hand": "", "reference": "average", "low": 1, "high": 40,
        "notch": 50, "baseline": True, "reject": 100,
    }  # fmt: skip
    steps = chosen_steps(decoder.bundle, recording(), **right)
    assert (steps.low, steps.high, steps.notch, steps.reject) == (1, 40, 50, pytest.approx(1e-4))
    with pytest.raises(InputError, match=sentence):
        chosen_steps(decoder.bundle, recording(), **(right | wrong))


def test_uploads_are_taken_and_deleted(tmp_path, scratch):
    def upload(name, content):
        path = tmp_path / content / "stored.bin"
        path.parent.mkdir()
        path.write_text(content)
        return {"path": str(path), "orig_name": name}

    wild = ["a b.vhdr", "../../evil.eeg", "", ".", "x\0y", "n" * 400]
    with claimed([upload(name, f"file{i}") for i, name in enumerate(wild)]) as paths:
        names = [path.name for path in paths]
        assert names == ["a b.vhdr", "evil.eeg", *["stored.bin"] * 4]
        assert [path.read_text() for path in paths] == [f"file{i}" for i in range(6)]
        folder = paths[0].parent.parent
        assert all(path.resolve().is_relative_to(folder) for path in paths)
        assert not list(tmp_path.iterdir())
    assert not folder.exists()
    one, gone = upload("one", "one"), {"path": str(tmp_path / "gone"), "orig_name": "two"}
    with pytest.raises(InputError, match="isn't here any more"), claimed([one, gone]):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "uploads").mkdir()
    everything = {"path": str(tmp_path / "uploads"), "orig_name": "a.edf"}
    with pytest.raises(InputError, match="isn't here any more"), claimed([everything]):
        pass
    (tmp_path / "uploads").rmdir()
    assert not left_on_disk(scratch)


def test_recordings_are_kept_for_their_session_only():
    kept, one = Kept(most=2, most_bytes=10_000), Own(recording(["O1"]))
    assert one.nbytes == 13_000
    kept.put("a", one)
    assert kept.get("a") is one  # larger than all may be together, but alone
    small = replace(one, recording=replace(one.recording, volts=np.zeros((1, 1000), np.float32)))
    kept.put("b", small)
    with pytest.raises(InputError, match="isn't here any more"):
        kept.get("a")
    kept.put("c", small)
    kept.put("d", small)
    assert len(kept) == 2
    assert kept.get("c") is kept.get("d") is small
    for nobody in ("b", "", None):
        with pytest.raises(InputError, match="isn't here any more"):
            kept.get(nobody)
    # What was made from a recording doesn't come back after that has gone.
    kept.put("c", one, before=one)
    assert kept.get("c") is small
    kept.drop("d")
    kept.put("d", one, before=small)
    assert len(kept) == 1


def test_example_is_made_of_the_phantoms_trials():
    phantom = Phantom.open(WEIGHTS / "trials" / "sub-03.safetensors")
    names = [f"picture {number}" for number in range(len(phantom.drives))]
    made = example_recording(phantom, names, CHANNELS, shown=2, repetitions=3)
    assert made.volts.shape == (63, 6 * 300)
    seen = {}
    for onset, name in zip(made.onsets, made.events, strict=True):
        start = round((onset - 0.2) * 250)
        seen.setdefault(name, []).append(made.volts[:, start : start + 300])
    assert seen.keys() == {"picture 0", "picture 100"}
    for condition in (0, 100):
        trials = RESOLUTION * phantom.trials("test", condition, range(3))
        found = np.stack(seen[f"picture {condition}"])
        order = [int(np.abs(trials - one).max((1, 2)).argmin()) for one in found]
        assert sorted(order) == [0, 1, 2]
        np.testing.assert_allclose(found, trials[order], atol=1e-11)
    minute = example_recording(phantom, names, CHANNELS)
    assert minute.volts.shape[1] / minute.sfreq == 60
    assert "Simulated" in minute.notes[0]


def test_names_from_files_are_text(decoder):
    nasty = recording([NASTY, "b\u202ea", *CHANNELS[:10]], (NASTY, "dog"))
    nasty = replace(nasty, name=NASTY, format=NASTY, notes=[NASTY])
    matches = match_channels(nasty.channels, decoder.montage)
    steps = default_steps(decoder.bundle.manifest, nasty, matches)
    html = recording_cards.read(nasty)
    html += recording_cards.mapping(matches, steps.electrodes, decoder.montage)
    epochs = prepare_epochs(nasty, steps, decoder.montage, decoder.times)
    html += recording_cards.prepared(epochs, [NASTY])
    decodings = decode_epochs(decoder.bundle, "1", "nice", epochs)
    link = recording_cards.download({"name": NASTY}, NASTY)
    html += recording_cards.decoded(decoder.bundle, decodings, None, NASTY, link)
    assert "<img src=x" not in html
    assert "\u202e" not in html
    assert escape(NASTY[:20]) in html


# ---------------------------------------------------------------- the endpoint


def test_endpoint_equals_the_steps_by_hand(client, decoder, fif, scratch):
    told = client.predict(
        [handle_file(fif)], "1", "nice", events=["dog"], low_hz=1, high_hz=40, reference="average",
        api_name="/decode_recording",
    )  # fmt: skip
    read = open_recording([fif])
    steps = default_steps(decoder.bundle.manifest, read, match_channels(CHANNELS, decoder.montage))
    steps = replace(steps, events=("dog",), low=1.0, high=40.0, reference="average")
    epochs = prepare_epochs(read, steps, decoder.montage, decoder.times)
    expected = [one.to_json() for one in decode_epochs(decoder.bundle, "1", "nice", epochs)]
    assert told["conditions"] == expected
    assert told["conditions"][0]["seen"]["name"] == "dog"
    assert told["expectation"].startswith("These encoders were trained on SIMULATED EEG")
    assert told["steps"]["low"] == 1
    assert not left_on_disk(scratch)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"subject": "99"}, "no subject '99'"),
        ({"encoder": "crystal ball"}, "crystal ball"),
        ({"events": ["cat"]}, "no event 'cat'"),
        ({"channels": "Q = O1"}, "names no channel"),
        ({"reference": "nose"}, "no reference 'nose'"),
        ({"low_hz": 60, "high_hz": 40}, "60"),
        ({"files": ["text"]}, "notes.txt"),
        ({"files": ["broken"]}, "broken.edf"),
        ({"files": []}, "No file"),
    ],
)
def test_endpoint_refuses_with_a_sentence_and_keeps_nothing(
    client, fif, edf, tmp_path, scratch, capfd, wrong, sentence
):
    (tmp_path / "notes.txt").write_text("EEG")
    (tmp_path / "broken.edf").write_bytes(edf.read_bytes()[:3000])
    files = {"text": tmp_path / "notes.txt", "broken": tmp_path / "broken.edf"}
    if "files" in wrong:
        wrong = {"files": [handle_file(files[name]) for name in wrong["files"]]}
    right = {"files": [handle_file(fif)], "subject": "1", "encoder": "nice"}
    with pytest.raises(AppError, match=sentence):
        client.predict(**(right | wrong), api_name="/decode_recording")
    assert "Traceback" not in capfd.readouterr().err
    assert not left_on_disk(scratch)


def test_endpoint_says_what_it_takes(client):
    endpoint = client.view_api(return_format="dict")["named_endpoints"]["/decode_recording"]
    needed = [p["parameter_name"] for p in endpoint["parameters"] if not p["parameter_has_default"]]
    assert needed == ["files", "subject", "encoder"]


# ---------------------------------------------------------------- in Chromium


def open_tab(visit, address, **options):
    page = visit(address, **options)
    name = "Your EEG"
    if page.get_by_role("tab", name=name).count() == 0:  # no room: it is in a menu
        page.locator("#tabs .overflow-menu > button").click()
    page.get_by_text(name, exact=True).last.click()
    wait(page.locator("#own-expect")).to_contain_text("trained on SIMULATED EEG")
    return page


def upload(page, *paths):
    page.set_input_files("#own-files input[type=file]", [str(path) for path in paths])


def is_narrow(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_example_by_mouse(visit, blocks, address, scratch):
    page = open_tab(visit, address)
    wait(page.locator(".own-empty")).to_contain_text("BrainVision")
    page.locator("#own-example").click()
    wait(page.locator("#own-read")).to_contain_text("simulated recording")
    wait(page.locator("#own-channels")).to_contain_text("63 of 63")
    ticked = page.locator("#own-events input:checked")
    wait(ticked).to_have_count(5)
    page.locator("#own-none").click()
    wait(ticked).to_have_count(0)
    page.locator("#own-all").click()
    wait(ticked).to_have_count(5)
    page.locator("#own-go").click()
    wait(page.locator(".own-condition")).to_have_count(5)
    wait(page.locator("#own-status")).to_contain_text("50 of 50 epochs kept")
    wait(page.locator("#own-result .notice")).to_contain_text("Simulated EEG of a phantom")
    wait(page.locator("#own-result .overall")).to_contain_text("Over the 5 conditions")
    wait(page.locator("#own-butterfly .js-plotly-plot")).to_be_visible()
    wait(page.locator("#own-scalp h2")).to_have_text("Scalp at 172 ms")
    # Another average, another moment.
    page.locator("#own-average input").click()
    page.get_by_role("option", name="dog (10)").click()
    wait(page.locator("#own-scalp .caption")).to_contain_text("Simulated")
    slider = page.locator("#own-moment input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    wait(page.locator("#own-scalp h2")).to_have_text("Scalp at 176 ms")
    # The result is in the link itself.
    link = page.locator(".own-download a").get_attribute("href")
    kind, _, content = link.partition(",")
    assert kind == "data:application/json;base64"
    told = json.loads(base64.b64decode(content))
    assert told["recording_is_simulated"] is True
    assert len(told["conditions"]) == 5
    # The page is closed: all of it goes.
    kept, latents = WatchedKept.made, WatchedLatents.made
    (session,) = kept._of
    kept.dropped.clear()
    latents.dropped.clear()
    page.close()
    assert kept.dropped.wait(60) and latents.dropped.wait(60)
    assert len(kept) == 0
    assert session not in blocks.state_holder.session_data
    assert not left_on_disk(scratch)


def tab_to(page, selector, presses=60):
    """Press Tab until the focus is inside."""
    for _ in range(presses):
        if page.evaluate(f"!!document.activeElement.closest({json.dumps(selector)})"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab doesn't lead to {selector}")


def test_file_by_keyboard(visit, address, edf, scratch):
    page = open_tab(visit, address)
    page.on("filechooser", lambda chooser: None)  # the browser must know early not to open one
    page.bring_to_front()
    tab_to(page, "#own-files")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(str(edf))
    wait(page.locator("#own-read")).to_contain_text("session.edf")
    assert not left_on_disk(scratch)
    wait(page.locator("#own-channels")).to_contain_text("60 of 63")
    # A channel is put right by hand.
    tab_to(page, "#own-correct")
    if page.locator("#own-by-hand textarea").is_hidden():
        page.keyboard.press("Enter")
    tab_to(page, "#own-by-hand")
    wait(page.locator("#own-by-hand textarea")).to_have_value("EEG 61 =")
    page.keyboard.press("Control+A")
    page.keyboard.type("EEG 61 = Oz")
    tab_to(page, "#own-events")
    wait(page.locator("#own-channels")).to_contain_text("61 of 63")
    wait(page.locator("#own-channels")).to_contain_text("By hand.")
    # One of the two events is left out.
    boxes = page.locator("#own-events label:has-text('pizza') input")
    for _ in range(6):
        if boxes.evaluate("box => box === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    tab_to(page, "#own-go")
    page.keyboard.press("Enter")
    wait(page.locator(".own-condition")).to_have_count(1)
    wait(page.locator(".own-condition .name").first).to_have_text("dog")
    wait(page.locator("#own-status")).to_contain_text("interpolated: O1, O2")
    wait(page.locator("#own-result .notice")).to_contain_text("means nothing")


def test_phone_in_the_dark(visit, address, fif):
    page = open_tab(visit, address, viewport=PHONE, colours="dark")
    assert is_narrow(page)
    upload(page, fif)
    wait(page.locator("#own-channels")).to_contain_text("63 of 63")
    assert is_narrow(page)
    page.locator("#own-go").click()
    wait(page.locator(".own-condition")).to_have_count(2)
    assert is_narrow(page)


def test_errors_and_a_way_on(visit, address, fif, edf, tmp_path, scratch):
    page = open_tab(visit, address)
    (tmp_path / "notes.txt").write_text("EEG")
    (tmp_path / "broken.edf").write_bytes(edf.read_bytes()[:3000])
    for name in ("notes.txt", "broken.edf"):
        upload(page, tmp_path / name)
        wait(page.locator("#own-read .notice.error")).to_contain_text(name)
        assert page.locator("#own-go").is_hidden()
        assert not left_on_disk(scratch)
    upload(page, fif)
    wait(page.locator("#own-read")).to_contain_text("session_raw.fif")
    wait(page.locator("#own-status")).to_contain_text("Please check")
    page.get_by_text("How it is prepared").click()
    low = page.locator("#own-low input")
    wait(low).to_have_value("0.1")
    low.fill("120")
    page.locator("#own-go").click()
    wait(page.locator("#own-status .notice.error")).to_contain_text("120")
    low.fill("1")
    page.locator("#own-go").click()
    wait(page.locator(".own-condition")).to_have_count(2)


def test_few_channels_and_nasty_names(visit, address, tmp_path):
    names = ["O1", "O2", "P7", "P8", "<b>x</b>"]
    raw(names, (NASTY, "dog")).save(tmp_path / "few_raw.fif", verbose="error")
    page = open_tab(visit, address)
    upload(page, tmp_path / "few_raw.fif")
    wait(page.locator("#own-channels")).to_contain_text("<b>x</b>")
    wait(page.locator("#own-events")).to_contain_text("<img src=x")
    page.locator("#own-go").click()
    wait(page.locator("#own-result .notice")).to_contain_text("fewer than 8")
    wait(page.locator("#own-butterfly .js-plotly-plot")).to_be_visible()
    wait(page.locator("#own-scalp .no-head")).to_contain_text("invented")
    page.locator("#own-average input").click()
    page.get_by_role("option", name="<img").click()
    assert page.locator("img[src=x]").count() == 0


def test_everybody_sees_their_own(visit, address, fif, edf):
    kept, one, other = WatchedKept.made, open_tab(visit, address), open_tab(visit, address)
    upload(one, fif)
    wait(one.locator("#own-read")).to_contain_text("session_raw.fif")
    assert other.locator("#own-read dl").count() == 0
    upload(other, edf)
    wait(other.locator("#own-read")).to_contain_text("session.edf")
    one.locator("#own-go").click()
    wait(one.locator("#own-status")).not_to_contain_text("interpolated: ")
    wait(one.locator(".own-condition")).to_have_count(2)
    wait(one.locator("#own-read")).to_contain_text("session_raw.fif")
    names = sorted(own.recording.name for own in kept._of.values())
    assert [name.split(".")[0] for name in names[-2:]] == ["session", "session_raw"]
    # Others needed the room: a sentence says so.
    kept._of.clear()
    other.locator("#own-go").click()
    wait(other.locator("#own-status .notice.error")).to_contain_text("isn't here any more")
