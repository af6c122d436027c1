"""The page for everybody: axe-core on each tab, and the guide of a first visit."""

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from browser import PHONE
from fake_decoder import FakeDecoder, served

sync_api = pytest.importorskip("playwright.sync_api")

TABS = {
    "decode": "#butterfly .main-svg",
    "evidence": ".evidence-panel",
    "your-eeg": "h2",
    "your-decoder": ".overall",
    "words": "h2",
    "about": "h2",
}


@pytest.fixture(scope="module")
def address():
    with served(FakeDecoder()) as where:
        yield where


def axe(page):
    """Return axe-core's findings: [{id, impact, help, nodes}]."""
    page.evaluate(AXE_SCRIPT)
    return page.evaluate("axe.run().then((found) => found.violations)")


NAMES = {
    "decode": "Decode a trial", "evidence": "Evidence", "your-eeg": "Your EEG",
    "your-decoder": "Your decoder", "words": "Pictures and words", "about": "About",
}  # fmt: skip


def open_tab(page, tab):
    button = page.get_by_role("tab", name=NAMES[tab], exact=True)
    if not button.is_visible():  # on a phone the last ones are in a menu
        page.locator(".overflow-menu > button").click()
        button = page.locator(".overflow-dropdown button", has_text=NAMES[tab])
    button.click()
    page.locator(f"[role=tabpanel] >> {TABS[tab]} >> visible=true").first.wait_for()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, address, tell, colours):
    page = visit(address, colours=colours)
    page.wait_for_selector("#carried svg")
    serious = []
    for tab in TABS:
        open_tab(page, tab)
        found = axe(page)
        said = ", ".join(f"{one['id']} ({one['impact']})" for one in found) or "no findings"
        tell(f"axe-core on {tab}, {colours}: {said}")
        serious += [
            (tab, one["id"], [node["target"] for node in one["nodes"]][:5], one["help"])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
    assert not serious


def test_axe_sees_what_is_wrong(visit, address):
    """The check can fail: a picture without words is found."""
    page = visit(address)
    page.evaluate("document.body.append(new Image())")
    assert "image-alt" in [one["id"] for one in axe(page)]


def test_no_tab_is_wider_than_a_phone(visit, address):
    page = visit(address, PHONE)
    for tab in TABS:
        open_tab(page, tab)
        wide, shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= shown, tab


# ---------------------------------------------------------------- the guide


def test_a_first_visit_is_shown_around_by_keyboard(visit, address):
    page = visit(address, first_visit=True)
    guide = page.locator("#guide")
    sync_api.expect(guide).to_contain_text("First time here?")
    page.wait_for_selector("#butterfly .main-svg")
    assert not [one for one in axe(page) if one["impact"] in ("serious", "critical")]
    guide.get_by_role("button", name="Show me around").focus()
    targets = []
    for number in range(1, 7):
        page.keyboard.press("Enter")  # the focus is on what goes on
        sync_api.expect(guide).to_contain_text(f"{number} of 6")
        targets.append(page.evaluate("document.querySelector('.guided')?.className"))
    assert "seen" in targets[0] and "retrieved" in targets[1] and "verdict" in targets[2]
    assert "overall" in targets[3] and "eeg" in targets[4]
    guide.get_by_role("button", name="One look").click()
    sync_api.expect(page.locator(".overall")).to_contain_text("at one look")
    guide.get_by_role("button", name="Back").click()
    sync_api.expect(guide).to_contain_text("5 of 6")
    page.keyboard.press("Escape")
    sync_api.expect(guide).to_have_count(0)
    assert page.locator(".guided").count() == 0
    assert page.evaluate("localStorage.getItem('nice-demo-guide')") == "1"
    page.locator("#show-around").click()  # it can be had again
    sync_api.expect(guide).to_contain_text("1 of 6")


def test_who_was_shown_around_or_sent_a_link_isn_t_asked(visit, address):
    page = visit(address)  # answered before
    assert page.locator("#guide").count() == 0
    page = visit(f"{address}?picture=dog", first_visit=True)
    page.wait_for_selector("#carried svg")
    assert page.locator("#guide").count() == 0
    page = visit(address, PHONE, first_visit=True)
    page.get_by_role("button", name="Show me around").first.click()
    card = page.locator("#guide").bounding_box()
    seen = page.locator(".guided").bounding_box()
    assert seen["y"] + seen["height"] <= card["y"]
    page.get_by_role("button", name="Skip").click()
    assert page.locator("#guide").count() == 0


def test_nothing_moves_for_whoever_wants_no_motion(visit, address):
    page = visit(f"{address}?subject=1&picture=dog")
    page.emulate_media(reduced_motion="reduce")
    page.evaluate(
        "Element.prototype.animate = function () {"
        " if (this.closest('#bars')) window.moved = true; return {} }; 0"
    )
    page.keyboard.press("ArrowDown")
    sync_api.expect(page.locator(".overall")).to_contain_text("at 40 looks")
    assert page.evaluate("window.moved") is None
    page.emulate_media(reduced_motion="no-preference")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("window.moved")  # the check can fail
