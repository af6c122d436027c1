"""The tab "Evidence": what its panels say, and that the numbers on them are those of the bundle."""

import json
import re

import fake_analyses
import numpy as np
import pytest
from browser import PHONE
from fake_decoder import served
from scipy import stats

from nice_demo.analysis.series import RETRAINED, Analysis
from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.retrieval import t_interval
from nice_demo.ui.cards import percent
from nice_demo.ui.evidence import figures as draw
from nice_demo.ui.evidence.how_good import does_attention_help
from nice_demo.ui.evidence.sections import PANELS
from nice_demo.ui.evidence.store import Choice, Evidence
from nice_demo.ui.page import page

sync_api = pytest.importorskip("playwright.sync_api")

ENCODERS = ["nice", "ridge"]
BY_ID = {panel.id: panel for panel in PANELS}


@pytest.fixture(scope="module")
def whole(stored_bundle, tmp_path_factory) -> Bundle:
    """Return a bundle of two subjects that brings all analyses along."""
    found = fake_analyses.everything(Bundle(stored_bundle), ENCODERS)
    place = tmp_path_factory.mktemp("evidence") / "whole"
    return Bundle(fake_analyses.with_analyses(stored_bundle, place, found))


@pytest.fixture(scope="module")
def evidence(whole) -> Evidence:
    return Evidence(whole)


def text(html: str) -> str:
    return re.sub("<[^>]+>", "", html)


def says(html: str) -> str:
    return text("".join(re.findall('<p class="says">.*?</p>', html, re.S)))


CHOICES = [
    Choice(None, ("nice",), 1),
    Choice("2", ("nice", "ridge"), 5),
    Choice("1", ("ridge",), 1),
]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.id)
def test_every_panel_shows_something_and_says_it(evidence, panel, choice):
    drawn = panel.drawn(evidence, choice)
    if panel.id == "confusions":  # these pictures have no categories
        assert "names no categories" in drawn.html and drawn.figure is None
        return
    assert "absent" not in drawn.html, text(drawn.html)
    assert "Simulated EEG" in drawn.html and "protocol stimulus" in drawn.html
    sentence = says(drawn.html)
    assert sentence.endswith(".") and "nan" not in text(drawn.html)
    assert drawn.figure is not None or "<svg" in drawn.html or "<table" in drawn.html
    if drawn.figure is not None:
        written = drawn.figure.to_json()
        assert len(written) < 20_000 and "NaN" not in written
        layout = json.loads(written)["layout"]
        assert all(layout[axis]["title"]["text"] or axis == "yaxis" for axis in ("xaxis", "yaxis"))
        assert not layout["showlegend"] and layout["paper_bgcolor"] == "rgba(0,0,0,0)"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.id)
def test_what_is_missing_is_a_sentence_with_the_command(stored_bundle, panel):
    drawn = panel.drawn(Evidence(Bundle(stored_bundle)), CHOICES[0])
    if not panel.analysis:
        assert "<table" in drawn.html
        return
    assert drawn.figure is None and panel.what in text(drawn.html)
    assert f"python -m nice_demo.analyse BUNDLE --what {panel.analysis}" in drawn.html


def test_a_series_an_encoder_or_a_subject_that_is_missing(evidence, stored_bundle, tmp_path):
    assert "Choose at least one encoder" in PANELS[1].drawn(evidence, Choice(None, (), 1)).html
    time = evidence.analysis("time")
    kept = [
        s for s in time.series if s.how != RETRAINED and s.name != "temporal generalisation"
    ]  # as where there are no training trials
    place = fake_analyses.with_analyses(
        stored_bundle, tmp_path / "part", {"time": Analysis("time", kept)}
    )
    part = Evidence(Bundle(place))
    html = BY_ID["generalisation"].drawn(part, CHOICES[0]).html
    assert "holds no &#x27;temporal generalisation&#x27;" in html
    assert "ridge" not in says(BY_ID["growing"].drawn(part, CHOICES[0]).html)
    absent = BY_ID["growing"].drawn(evidence, Choice("7", ("nice",), 1)).html
    assert "wasn&#x27;t analysed" in absent


def test_the_table_holds_the_bundles_metrics(evidence, whole):
    html = BY_ID["how-good"].drawn(evidence, CHOICES[0]).html
    rows = re.findall("<tr.*?</tr>", html, re.S)
    looks = whole.repetitions[-1]
    for subject in whole.subjects:
        (row,) = [row for row in rows if f"Phantom {subject}<" in row]
        cells = [text(cell) for cell in re.findall("<td.*?</td>", row)]
        expected = []
        for encoder in evidence.encoders:
            found = whole.metrics(subject, encoder, looks)
            expected += [
                f"{percent(t.value)} {percent(t.low)}–{percent(t.high)}"
                for t in (found.top1, found.top5)
            ]
        assert cells == expected
    (mean,) = [row for row in rows if ">Mean<" in row]
    hits = [whole.metrics(s, "nice", looks).top5.value for s in whole.subjects]
    second = text(re.findall("<td.*?</td>", mean)[2 * evidence.encoders.index("nice") + 1])
    assert second.startswith(percent(np.mean(hits)))
    assert "published" in html and "concept centres" in html


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.05, 0.06, 0.07], "does better here"),
        ([-0.05, -0.06, -0.07], "does worse here"),
        ([-0.05, 0.06, 0.01], "makes no difference that could be told from none"),
    ],
)
def test_whether_attention_helps_is_said_from_paired_intervals(evidence, gains, verdict):
    class Stub:
        encoders = ("nice", "nice-sa")
        bundle = type("B", (), {"subjects": ["1", "2", "3"]})

        def __init__(self):
            hit = lambda value: type("M", (), {"top1": type("P", (), {"value": value})})  # noqa: E731
            self.metrics = {
                (str(i + 1), e): hit(0.2 + 0.1 * i + (gain if e == "nice-sa" else 0))
                for i, gain in enumerate(gains)
                for e in self.encoders
            }

    (sentence,) = does_attention_help(Stub(), CHOICES[0])
    assert verdict in sentence and "paired, 3 subjects, one training each, top-1" in sentence
    oracle = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    np.testing.assert_allclose(t_interval(gains)[1:], [oracle.low, oracle.high], rtol=1e-9)


def test_curves_are_the_series_accuracies(evidence):
    choice = Choice("2", ("nice",), 5)
    figure = json.loads(BY_ID["growing"].drawn(evidence, choice).figure.to_json())
    (one,) = evidence.analysis("time").of("growing windows", "nice")
    (line,) = [t for t in figure["data"] if t.get("name", "").startswith("NICE")]
    # Slow and obvious.
    row = one.subjects.index("2")
    for x, y, point, ranks in zip(
        line["x"], line["y"], one.axes[0].points, one.ranks[row], strict=True
    ):
        assert x == pytest.approx(1000 * point)
        assert y == pytest.approx(100 * sum(r <= 5 for r in ranks) / len(ranks), abs=0.006)
    levels = [s["y0"] for s in figure["layout"]["shapes"] if s["xref"] == "paper"]
    assert round(100 * 5 / one.ways, 2) in levels
    assert round(100 * float(one.thresholds[1, row]), 2) in levels
    onsets = [s["x0"] for s in figure["layout"]["shapes"] if s["yref"] == "paper"]
    assert onsets == [200, 400, 600, 800]


def test_the_published_point_is_marked_as_of_other_data(evidence):
    for panel, value in (("growing", 15.75), ("looks", 15.6), ("pooled", 6.2)):
        drawn = BY_ID[panel].drawn(evidence, CHOICES[0])
        marked = [t for t in drawn.figure.to_dict()["data"] if t.get("name") == draw.PUBLISHED]
        if panel == "looks" and evidence.bundle.repetitions[-1] < 80:
            assert not marked
            continue
        (point,) = marked
        assert value in (point["x"][0], point["y"][0])
        assert "THINGS-EEG2" in drawn.html and "concept centres" in point["hovertemplate"]


def test_the_band_is_the_bootstrap(evidence):
    (one,) = evidence.analysis("repetitions").of("test repetitions", "nice")
    for subject in (None, "1"):
        for quick, slow in zip(
            evidence.band("nice", subject, 5), one.bootstrap(5, subject), strict=True
        ):
            np.testing.assert_allclose(quick, slow, atol=1 / one.ranks.shape[-1])


def test_the_scalp_map_and_the_matrix_have_the_palettes_ends():
    places = draw.places_of(np.array([-1, 0.0, 0.5, 1, 9]), 0, 1)
    assert places.tolist() == [0, 0, 128, 255, 255]
    assert draw.PALETTE[0].tolist() == [0, 34, 78] and draw.PALETTE[-1].tolist()[0] > 240
    html = draw.matrix(np.eye(6), 0, 1, [("a<b", 2), ("c", 4)], "things")
    assert "a&lt;b" in html and html.count("<path") == 1


# ---------------------------------------------------------------- in the browser


def test_the_tab_opens_changes_and_says_what_is_missing(visit, whole, stored_bundle):
    with served(BundleDecoder(whole)) as address:
        there = visit(address)
        assert not there.locator(".evidence-plot").count()
        there.get_by_role("tab", name="Evidence").click()
        sync_api.expect(there.locator("#panel-silent .js-plotly-plot")).to_be_visible()
        sync_api.expect(there.locator(".evidence [aria-busy]")).to_have_count(0)
        growing = there.locator("#panel-growing .caption")
        sync_api.expect(growing).to_contain_text("mean of 2 subjects")
        there.get_by_label("among the first five").check()
        sync_api.expect(growing).to_contain_text("chance 83 %")
        there.locator("#evidence-subject input").click()
        there.get_by_role("option", name="Phantom 2", exact=True).click()
        sync_api.expect(growing).to_contain_text("Phantom 2, 95 % Wilson interval")
        there.set_viewport_size(PHONE)
        assert there.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with served(BundleDecoder(Bundle(stored_bundle))) as address:
        there = visit(address)
        there.get_by_role("tab", name="Evidence").click()
        sync_api.expect(there.locator("#panel-silent")).to_contain_text("--what confidence")
        assert not there.locator(".js-plotly-plot:visible").count()


def test_nothing_of_it_is_named_in_the_api(whole):
    blocks = page(BundleDecoder(whole), "a test")
    named = blocks.get_api_info()["named_endpoints"]
    shown = [name for name in named if "evidence" in name or "show" in name]
    assert shown == ["/evidence"]  # for programs; what the tab's own controls call isn't named
