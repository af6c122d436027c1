"""The page in a real Chromium: by mouse and keyboard, light and dark, on a laptop and a phone."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import PHONE
from fake_decoder import NASTY, FakeDecoder, served
from PIL import Image

from nice_demo.bundle import Bundle, write_manifest
from nice_demo.decode import BundleDecoder, LatentsDecoder, Part
from nice_demo.gallery import Gallery
from nice_demo.montage import CHANNELS, PRESETS
from nice_demo.pictures import SAME_CONCEPT
from nice_demo.sources.latents import open_latents
from nice_demo.ui import cards
from nice_demo.ui.view import find_picture

sync_api = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def decoder() -> FakeDecoder:
    return FakeDecoder()


@pytest.fixture(scope="module")
def address(decoder):
    with served(decoder) as where:
        yield where


def verdict_of(decoder, subject, encoder, name, repetitions):
    picture = find_picture(decoder.gallery, name)
    rank = decoder.decode(subject, encoder, picture, repetitions).rank
    return cards.verdict(rank, len(decoder.gallery))


def expect(page, decoder, subject, encoder, name, repetitions):
    """Wait until the page shows this view: picture, verdict, and the address."""
    seen = page.locator(".seen .name")
    sync_api.expect(seen).to_have_text(name)
    sync_api.expect(page.locator(".verdict")).to_have_text(
        verdict_of(decoder, subject, encoder, name, repetitions)
    )
    page.wait_for_function(
        "wanted => Object.entries(wanted).every("
        "([name, value]) => new URLSearchParams(location.search).get(name) === value)",
        arg={
            "subject": subject,
            "encoder": encoder,
            "picture": find_picture(decoder.gallery, name),
            "repetitions": str(repetitions),
        },
    )


def choose(page, control, option):
    page.locator(f"#{control} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def test_by_mouse(visit, decoder, address):
    page = visit(address)
    choose(page, "subject", "Phantom 2")
    choose(page, "encoder", "ridge regression")
    page.locator("#picture input").click()
    page.keyboard.type("pizz")
    page.get_by_role("option", name="pizza", exact=True).click()
    page.get_by_test_id("10-radio-label").click()
    expect(page, decoder, "2", "ridge", "pizza", 10)
    assert page.locator(".cards .card").count() == 5
    names = [candidate.name for candidate in decoder.gallery.candidates]
    page.locator("#next").click()
    expect(page, decoder, "2", "ridge", names[names.index("pizza") + 1], 10)
    page.locator("#previous").click()
    expect(page, decoder, "2", "ridge", "pizza", 10)
    page.locator("#surprise").click()
    sync_api.expect(page.locator(".seen .name")).not_to_have_text("pizza")


def test_by_keyboard(visit, decoder, address):
    page = visit(f"{address}?subject=1&picture=dog&repetitions=80")
    names = [candidate.name for candidate in decoder.gallery.candidates]
    page.keyboard.press("ArrowRight")
    expect(page, decoder, "1", "nice", names[1], 80)
    page.keyboard.press("ArrowDown")
    expect(page, decoder, "1", "nice", names[1], 40)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    expect(page, decoder, "1", "nice", names[0], 80)
    page.keyboard.press("ArrowLeft")
    assert names[-1] == NASTY  # has no picture, and its name must be read as text
    expect(page, decoder, "1", "nice", names[-1], 80)
    sync_api.expect(page.locator(".seen .tile.word")).to_have_text(NASTY)
    for _ in range(6):  # quicker than the server answers: none is lost
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    expect(page, decoder, "1", "nice", names[5], 1)
    page.keyboard.press("Space")
    sync_api.expect(page.locator(".seen .name")).not_to_have_text(names[5])
    # Typing a name moves nothing until a name is chosen.
    before = page.locator(".seen .name").inner_text()
    page.locator("#picture input").fill("piz za")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".seen .name").inner_text() == before


def ranks_on_screen(page):
    """Return the bars as they stand: names and similarities."""
    return page.locator("#bars li").all_inner_texts()


def verdict_of_part(decoder, name, part):
    decoding = decoder.decode("1", "nice", find_picture(decoder.gallery, name), 80, part)
    words = cards.part_in_words(decoder, part)
    return cards.verdict(decoding.rank, len(decoder.gallery), words)


def test_electrodes_by_mouse_and_keyboard(visit, decoder, address):
    page = visit(f"{address}?subject=1&picture=dog")
    verdict, wait = page.locator(".verdict"), sync_api.expect
    wait(verdict).to_have_text(verdict_of(decoder, "1", "nice", "dog", 80))
    whole = ranks_on_screen(page)
    oz = page.locator("#electrodes input[name=Oz]")
    oz.click()
    wait(verdict).to_have_text(verdict_of_part(decoder, "dog", Part(("Oz",))))
    wait(page.locator(".overall")).to_contain_text("With the whole EEG")
    page.wait_for_function("location.search.includes('off=Oz')")
    wait(page.locator("#scalp .electrode.off")).to_have_count(1)
    assert ranks_on_screen(page) != whole
    oz.click()  # on again: exactly as before
    wait(verdict).to_have_text(verdict_of(decoder, "1", "nice", "dog", 80))
    assert ranks_on_screen(page) == whole
    page.wait_for_function("!location.search.includes('off=')")
    # Tab goes to the next electrode; Space and Enter switch.
    oz.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "O2"
    page.keyboard.press("Space")
    wait(verdict).to_have_text(verdict_of_part(decoder, "dog", Part(("O2",))))
    page.keyboard.press("Enter")
    wait(verdict).to_have_text(verdict_of(decoder, "1", "nice", "dog", 80))
    # A preset, a region off and on again, and none at all.
    page.locator("#preset-8").click()
    eight = Part(tuple(name for name in CHANNELS if name not in PRESETS["8"]))
    wait(verdict).to_have_text(verdict_of_part(decoder, "dog", eight))
    page.wait_for_function("location.search.includes('electrodes=8')")
    page.locator("#region-parietal").click()
    six = Part(tuple(n for n in CHANNELS if n in eight.off or n in ("P7", "P8")))
    wait(verdict).to_have_text(verdict_of_part(decoder, "dog", six))
    page.locator("#region-occipital").click()
    wait(page.locator(".notice.error")).to_contain_text("All electrodes are switched off")
    wait(page.locator("#bars li")).to_have_count(0)
    wait(page.locator("#carried .no-head")).to_contain_text("Nothing was decoded")
    page.get_by_role("button", name="Decode the whole EEG again").click()
    wait(verdict).to_have_text(verdict_of(decoder, "1", "nice", "dog", 80))
    assert ranks_on_screen(page) == whole


def test_window_shuffle_and_map(visit, decoder, address):
    page = visit(f"{address}?subject=1&picture=dog&window=100-400&off=Fp1.Fp2")
    verdict, wait = page.locator(".verdict"), sync_api.expect
    part = Part(("Fp1", "Fp2"), 0.1, 0.4)
    wait(verdict).to_have_text(verdict_of_part(decoder, "dog", part))
    wait(page.locator("#window-says")).to_have_text("100–400 ms")
    wait(page.locator("#carried svg")).to_have_count(1)
    wait(page.locator("#carried-words")).to_contain_text("The same map from random weights")
    start = page.locator("#window-start input[type=range]")
    start.focus()
    page.keyboard.press("ArrowRight")
    wait(page.locator("#window-says")).to_have_text("120–400 ms")
    wait(verdict).to_have_text(verdict_of_part(decoder, "dog", replace(part, start=0.12)))
    page.keyboard.press("End")
    wait(page.locator(".notice.error")).to_contain_text("holds no EEG")
    page.keyboard.press("Home")
    wait(verdict).to_have_text(verdict_of_part(decoder, "dog", replace(part, start=None)))
    shuffled = page.locator(".story .notice")
    for number in (1, 2):
        page.locator("#shuffle").click()
        now = replace(part, start=None, shuffle=number)
        wait(verdict).to_have_text(verdict_of_part(decoder, "dog", now))
        wait(shuffled).to_contain_text("same values, no order. This is what chance looks like.")
    page.locator("#shuffle-many").click()
    wait(page.locator(".shuffles")).to_contain_text("Of 100 shuffles, the picture seen came")
    shuffled.get_by_role("button", name="Back to the trial").click()
    wait(shuffled).to_have_count(0)
    wait(page.locator(".shuffles")).to_have_count(0)
    choose(page, "map-kind", "without each 40 ms")
    wait(page.locator("#carried")).to_contain_text("tells moments apart, not electrodes")
    page.wait_for_function("location.search.includes('map=occlusion')")
    assert page.locator("#course rect").count() == 50
    page = visit(f"{address}?map=attention")
    wait(page.locator(".notice.error")).to_contain_text("There is no map of attention")


def test_everything_is_reached_by_tab_with_visible_focus(visit, address):
    page = visit(address)
    page.wait_for_selector("#butterfly .main-svg")
    page.wait_for_selector("#carried svg")
    reached = set()
    for _ in range(115):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(() => { const on = document.activeElement; const block = on.closest('[id]');"
                "const style = getComputedStyle(on);"
                "const visible = on === document.body || on.matches('input') ||"
                "  style.outlineStyle !== 'none' || style.boxShadow !== 'none';"
                "const name = on.type === 'checkbox' ? on.name : block?.id;"
                "return visible ? (on.id || name) : 'invisible ' + on.outerHTML })()"
            )
        )
    ids = {"subject", "encoder", "picture", "previous", "surprise", "next", "repetitions"}
    ids |= {*CHANNELS, "preset-17", "region-frontal", "shuffle", "map-kind"}
    assert ids | {"copy-link"} <= {re.sub(r"^dropdown-", "", i or "") for i in reached}
    assert any((i or "").startswith("range_id") for i in reached)
    assert not [i for i in reached if (i or "").startswith("invisible")]


def test_the_moment_moves_cursor_and_map(visit, address):
    page = visit(address)
    when = page.locator("#scalp h2 span")
    sync_api.expect(when).to_have_text("172 ms")
    before = page.locator("#scalp .scalp-image").get_attribute("href")
    page.locator("#moment input[type=range]").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    sync_api.expect(when).to_have_text("192 ms")
    assert page.locator("#scalp .scalp-image").get_attribute("href") != before
    cursor = "parseFloat(getComputedStyle(document.querySelector('#butterfly'), '::after').left)"
    page.wait_for_selector("#butterfly .main-svg")
    # Plotly's own drawing area is what the cursor's margins (style.css) say.
    box = page.locator("#butterfly").bounding_box()
    area = page.locator("#butterfly .xy .nsewdrag, #butterfly .nsewdrag").first.bounding_box()
    width = box["width"]
    assert area["x"] - box["x"] == pytest.approx(44, abs=1)
    assert area["width"] == pytest.approx(width - 54, abs=1)
    expected = 44 + (192 + 200) / 1196 * (width - 54)
    assert page.evaluate(cursor) == pytest.approx(expected, abs=1.5)
    # A click into the plot: as far to the right as 500 ms is.
    page.mouse.click(box["x"] + 44 + 700 / 1196 * (width - 54), box["y"] + 60)
    sync_api.expect(when).to_have_text(re.compile("^(496|500|504) ms$"))


def test_silent_below_the_confidence_asked_for(visit, address):
    page = visit(f"{address}?subject=1&encoder=nice&picture=pizza&repetitions=1")
    verdict, slider = page.locator(".verdict"), page.locator("#least input[type=range]")
    said = verdict.inner_text()
    sync_api.expect(page.locator(".sure")).to_contain_text("sure of")
    slider.focus()
    page.keyboard.press("End")
    sync_api.expect(verdict).to_contain_text("Would rather not say")
    sync_api.expect(verdict).to_contain_text(said)
    page.keyboard.press("Home")
    sync_api.expect(verdict).to_have_text(said)


def test_address_restores_the_view(visit, decoder, address):
    page = visit(f"{address}?subject=2&encoder=ridge&picture=pizza&repetitions=5&__theme=dark")
    sync_api.expect(page.locator(".seen .name")).to_have_text("pizza")
    sync_api.expect(page.locator(".verdict")).to_have_text(
        verdict_of(decoder, "2", "ridge", "pizza", 5)
    )
    sync_api.expect(page.locator("#subject input")).to_have_value("Phantom 2")
    page.keyboard.press("ArrowDown")
    expect(page, decoder, "2", "ridge", "pizza", 2)
    assert parse_qs(urlsplit(page.url).query)["__theme"] == ["dark"]


def test_unknown_address_gets_a_sentence_and_a_view(visit, address):
    page = visit(f"{address}?picture=%3Cscript%3E&repetitions=5")
    sync_api.expect(page.locator(".notice.error")).to_contain_text("There is no")
    sync_api.expect(page.locator(".notice.error")).to_contain_text("Here is another view instead.")
    page.keyboard.press("ArrowRight")
    sync_api.expect(page.locator(".notice")).to_have_count(0)


def test_simulated_eeg_says_so_and_explains(visit, address):
    page = visit(address)
    badge = page.locator(".badge")
    sync_api.expect(badge.locator("p")).to_be_hidden()
    badge.locator("summary").click()
    sync_api.expect(badge.locator("p")).to_contain_text("No person was measured")
    page.keyboard.press("Escape")
    sync_api.expect(badge.locator("p")).to_be_hidden()
    assert page.locator("h1").count() == 1
    sync_api.expect(page.locator(".page-footer")).to_contain_text("CC-BY 4.0")


def test_main_story_fits_a_laptop(visit, address):
    page = visit(f"{address}?repetitions=1")
    page.wait_for_selector("#butterfly .main-svg")
    for what in (".verdict", ".bars li:last-child", "#moment input[type=range]", "#carried svg"):
        box = page.locator(what).bounding_box()
        assert box["y"] + box["height"] <= 800


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_phone(visit, address, colours):
    page = visit(address, PHONE, colours)
    page.wait_for_selector("#butterfly .main-svg")
    scroll, width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert scroll <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
    assert lightness > 230 if colours == "light" else lightness < 40


def test_latents_of_real_eeg(visit, shared_data):
    data, photos = shared_data / "things_eeg2", shared_data / "cc0_photos"
    embeddings, gallery = open_latents(
        data / "atm_s_sub08_test_latents.npy",
        data / "openclip_vith14_test_image.npy",
        data / "test_images.txt",
        photos,
    )
    decoder = LatentsDecoder(embeddings, gallery, photos, "real EEG of THINGS-EEG2, subject 8")
    with served(decoder, "atm_s_sub08_test_latents.npy") as where:
        page = visit(f"{where}?picture=aircraft_carrier_06s")
        sync_api.expect(page.locator(".seen .name")).to_have_text("aircraft carrier")
        assert page.locator(".seen .tile.photo img").count() == 1
        sync_api.expect(page.locator(".seen")).to_contain_text(
            "a picture of the same concept, not the one that was shown"
        )
        assert page.locator(".cards .tile.word").count() >= 1
        sync_api.expect(page.locator(".overall")).to_contain_text("36\u202f% (30–43)")
        sync_api.expect(page.locator(".badge")).to_contain_text("real EEG of THINGS-EEG2")
        without = "butterfly scalp moment subject encoder repetitions electrodes window shuffle"
        for absent in (f"#{part}" for part in [*without.split(), "carried", "course"]):
            assert page.locator(absent).count() == 0, absent
        assert "simulated" not in page.content().lower()
        page.keyboard.press("ArrowRight")
        sync_api.expect(page.locator(".seen .name")).to_have_text("antelope")
        sync_api.expect(page.locator(".verdict")).to_have_text(
            cards.verdict(decoder.decode("latents", "latents", "antelope_01b", 1).rank, 200)
        )
        phone = visit(where, PHONE)
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_bundle_of_real_eeg_with_pictures_of_the_same_concept(visit, stored_bundle, tmp_path):
    folder = Path(shutil.copytree(stored_bundle, tmp_path / "bundle"))
    gallery = Gallery.open(folder / "gallery")
    Image.new("RGB", (60, 40), "olive").save(folder / "cc0.webp")
    candidates = [
        replace(c, picture="cc0.webp", licence=f"{SAME_CONCEPT} (THINGSplus)")
        for c in gallery.candidates
    ]
    candidates[1:2] = [replace(candidates[1], picture=None, licence="")]
    replace(gallery, candidates=candidates).save(folder / "gallery")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in list(manifest["metrics"]):  # measured under the other protocol as well, and first
        centre = entry["metrics"] | {"protocol": "concept centre", "trials": 1}
        manifest["metrics"].insert(0, entry | {"metrics": centre})
    manifest |= {"simulated": False, "source": "THINGS-EEG2, for a test"}
    manifest |= {"licences": ["EEG: CC BY 4.0"]}
    write_manifest(folder, manifest | {"files": None})
    decoder = BundleDecoder(Bundle(folder))
    notice = "hf:a/b couldn't be opened, so this is another bundle."
    with served(decoder, "stored", notice) as where:
        page = visit(f"{where}?subject=2&encoder=ridge&picture=test-0&repetitions=4")
        expect(page, decoder, "2", "ridge", "thing 0", 4)
        same = "a picture of the same concept, not the one that was shown"
        sync_api.expect(page.locator(".seen .caveat")).to_have_text(same)
        assert page.locator(".seen .tile.photo img").count() == 1
        sync_api.expect(page.locator(".retrieved .caveat")).to_contain_text("of the same concept")
        sync_api.expect(page.locator(".overall")).to_contain_text("Over all 6 pictures")
        sync_api.expect(page.locator(".protocol")).to_contain_text("protocol stimulus, 6 candid")
        for absent in ("#butterfly", "#scalp", "#moment"):
            assert page.locator(absent).count() == 0, absent
        sync_api.expect(page.locator("#electrodes input")).to_have_count(4)
        sync_api.expect(page.locator("#course rect")).to_have_count(40)  # 0.8 s
        sync_api.expect(page.locator(".badge summary")).to_contain_text("THINGS-EEG2, for a test")
        page.locator(".badge summary").click()
        sync_api.expect(page.locator(".badge p")).to_contain_text("no voltages")
        sync_api.expect(page.locator(".page-footer")).to_contain_text("EEG: CC BY 4.0")
        assert "simulated" not in page.content().lower()
        page.locator("#next").click()  # it has no picture, so nothing is to be said of one
        expect(page, decoder, "2", "ridge", "thing 1", 4)
        sync_api.expect(page.locator(".seen .tile.word")).to_have_text("thing 1")
        assert page.locator(".seen .caveat").count() == 0
        sync_api.expect(page.locator("#notice [role=alert]")).to_have_text(notice)  # it stays
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
