"""The page through its API, and the HTML and figures that it is made of."""

import base64
import gc
import io
import math
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fake_decoder import NASTY, FakeDecoder, served
from gradio.routes import App
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

import app
from nice_demo.decode import WHOLE, LatentsDecoder, Part
from nice_demo.errors import InputError
from nice_demo.explain import Map
from nice_demo.gallery import Candidate
from nice_demo.montage import CHANNELS, PRESETS
from nice_demo.sources.latents import open_latents
from nice_demo.ui import cards
from nice_demo.ui.attribution import COSINE, Attributions, over_electrodes, over_time
from nice_demo.ui.figures import butterfly
from nice_demo.ui.headmap import COLOURS, colour_range, colours_of, headmap, round_up
from nice_demo.ui.page import page, serve
from nice_demo.ui.view import find_picture, opening_view, view_of, view_of_address


@pytest.fixture(scope="module")
def decoder() -> FakeDecoder:
    return FakeDecoder()


@pytest.fixture(scope="module")
def address(decoder):
    with served(decoder) as where:
        yield where


@pytest.fixture(scope="module")
def client(address):
    client = Client(address, verbose=False)
    yield client
    client.close()


# ---------------------------------------------------------------- API


def test_decode_takes_what_it_took_before(client):
    api = client.view_api(return_format="dict")
    assert not api["unnamed_endpoints"]  # tests/test_sharing.py has the named ones
    parameters = api["named_endpoints"]["/decode"]["parameters"]
    assert [p["parameter_name"] for p in parameters] == [
        "subject",
        "encoder",
        "picture",
        "repetitions",
        "electrodes",
        "start_ms",
        "end_ms",
        "shuffle",
    ]
    needed = [p["parameter_name"] for p in parameters if not p["parameter_has_default"]]
    assert needed == ["subject", "encoder", "picture", "repetitions"]


@pytest.mark.parametrize("repetitions", [1, 80])
@pytest.mark.parametrize("encoder", ["nice", "ridge"])
def test_api_equals_decoder(client, decoder, encoder, repetitions):
    candidate = decoder.gallery.candidates[17]
    expected = decoder.to_json(decoder.decode("2", encoder, candidate.id, repetitions))
    for picture in (candidate.id, candidate.name, candidate.name.upper()):
        assert client.predict("2", encoder, picture, repetitions, api_name="/decode") == expected


@pytest.mark.parametrize("electrodes", ["17", "P7, Oz", ["Oz", "P7"]])
def test_api_decodes_a_part(client, decoder, electrodes):
    candidate = decoder.gallery.candidates[17]
    on = PRESETS["17"] if electrodes == "17" else ["P7", "Oz"]
    part = Part(tuple(name for name in CHANNELS if name not in on), 0.1, 0.4)
    expected = decoder.to_json(decoder.decode("2", "nice", candidate.id, 80, part))
    asked = ("2", "nice", candidate.id, 80, electrodes, 100, 400)
    told = client.predict(*asked, api_name="/decode")
    assert told == expected
    assert told["part"]["electrodes"] == on
    whole = client.predict(*asked[:4], api_name="/decode")
    assert whole["retrieved"] != told["retrieved"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"subject": "99"}, "no subject '99'"),
        ({"encoder": "crystal ball"}, "no encoder 'crystal ball'.*choose one of nice, ridge"),
        ({"picture": "unicorn?"}, "no picture 'unicorn"),
        ({"repetitions": 3}, "no average over '3' repetitions; choose one of 1, 2, 5"),
        ({"repetitions": "many"}, "repetitions isn't what decode takes: .*integer"),
        ({"repetitions": 1.5}, "repetitions isn't what decode takes: .*integer"),
        ({"subject": ["1"]}, "subject isn't what decode takes: .*string"),
        ({"electrodes": "Qz"}, "no electrode 'Qz'"),
        ({"electrodes": []}, "All electrodes are switched off"),
        ({"start_ms": 400, "end_ms": 400}, "from 400 to 400 ms holds no EEG"),
        ({"start_ms": "soon"}, "start_ms isn't what decode takes: .*number"),
    ],
)
def test_api_answers_bad_input_with_a_sentence_and_stays_up(client, capfd, wrong, sentence):
    right = {"subject": "1", "encoder": "nice", "picture": "dog", "repetitions": 80}
    with pytest.raises(AppError, match=sentence):
        client.predict(**(right | wrong), api_name="/decode")
    assert "Traceback" not in capfd.readouterr().err
    assert client.predict(**right, api_name="/decode")["seen"]["name"] == "dog"


def test_no_file_of_the_machine_can_be_read(address):
    for path in ("/etc/passwd", str(Path(__file__)), str(Path.cwd() / "pyproject.toml")):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)


# ---------------------------------------------------------------- views and addresses


def test_opening_view_is_good_but_not_perfect(decoder):
    view = opening_view(decoder)
    assert 2 <= view.decoded_by(decoder).rank <= 5
    assert view.repetitions == 80


def test_address_restores_a_view_and_leaves_the_rest(decoder):
    opening = opening_view(decoder)
    view = view_of_address(decoder, {"picture": "cat", "repetitions": "5", "__theme": "x"}, opening)
    assert (view.subject, view.encoder, view.repetitions) == (opening.subject, "nice", 5)
    assert view.picture == find_picture(decoder.gallery, "Cat")


@pytest.mark.parametrize(
    "wrong", [{"subject": "9"}, {"encoder": "x"}, {"picture": "<b>"}, {"repetitions": "3"}]
)
def test_address_that_names_nothing(decoder, wrong):
    with pytest.raises(InputError, match="There is no"):
        view_of_address(decoder, wrong, opening_view(decoder))


@pytest.mark.parametrize("wrong", [True, None, float("nan"), "", "1e1", [1], "9" * 5000])
def test_repetitions_that_are_none(decoder, wrong):
    with pytest.raises(InputError, match="choose one of 1, 2, 5, 10, 20, 40, 80") as caught:
        view_of(decoder, "1", "nice", "dog", wrong)
    assert len(str(caught.value)) < 200


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("rank", "sentence"),
    [
        (1, "Right: first of 200; chance would put it at 100."),
        (3, "Right at rank 3 of 200; chance would put it at 100."),
        (37, "Missed: only at rank 37 of 200; chance would put it at 100."),
        (163, "Missed: rank 163 of 200, no better than chance, which would put it at 100."),
    ],
)
def test_verdict(rank, sentence):
    assert cards.verdict(rank, 200) == sentence


def test_verdict_names_the_part(decoder):
    said = cards.part_in_words(decoder, Part(tuple(CHANNELS[17:]), 0.1, 0.4))
    assert said == "17 of 63 electrodes, 100–400 ms"
    assert cards.part_in_words(decoder, Part(end=0.2)) == "0–200 ms only"
    assert cards.part_in_words(decoder, Part(shuffle=2)) == "shuffled EEG"
    assert cards.part_in_words(decoder, WHOLE) == ""
    assert cards.verdict(3, 200, said) == (
        "Right at rank 3 of 200 with 17 of 63 electrodes, 100–400 ms; chance would put it at 100."
    )
    picture = find_picture(decoder.gallery, "dog")
    html = cards.result(decoder, decoder.decode("1", "nice", picture, 80, Part(("Oz",))))
    assert "With the whole EEG" in html and "62 of 63 electrodes" in html
    assert "whole EEG" not in cards.result(decoder, decoder.decode("1", "nice", picture, 80))


def test_confidence_is_the_softmax_and_of_the_whole_eeg_only(decoder):
    decoding = decoder.decode("1", "nice", decoder.gallery.candidates[3].id, 80)
    odds = [math.exp(similarity / 0.2) for similarity in decoding.similarities]
    assert decoding.confidence == pytest.approx(max(odds) / sum(odds))
    assert decoder.to_json(decoding)["confidence"] == pytest.approx(decoding.confidence, abs=1e-4)
    part = decoder.decode("1", "nice", decoder.gallery.candidates[3].id, 80, Part(off=("Oz",)))
    assert part.confidence is None
    assert "sure of" not in cards.result(decoder, part, least=0.95)


def test_the_decoder_would_rather_not_say(decoder):
    decoding = decoder.decode("1", "nice", decoder.gallery.candidates[3].id, 80)
    decoding = replace(decoding, confidence=0.12)
    first = decoder.gallery.candidates[decoding.order[0]].name
    answered = cards.result(decoder, decoding, least=0.12)
    assert f"It is <b>12\u202f%</b> sure of “{first}”" in answered
    assert "rather not" not in answered
    for surplus, said in ((0.124, "12 points surer than right"), (-0.01, "1 point less sure than"),
                          (0.001, "right as often as it says")):  # fmt: skip
        assert said in cards.result(decoder, decoding, surplus=surplus)
    silent = cards.result(decoder, decoding, least=0.15)
    assert f"Would rather not say: only 12\u202f% sure of “{first}”, and 15\u202f% are" in silent
    assert cards.verdict(decoding.rank, 200) in silent  # what it would have been isn't hidden
    unknown = cards.result(decoder, replace(decoding, confidence=None), least=0.95)
    assert "sure of" not in unknown


def test_shuffles_are_said_with_chance():
    html = cards.shuffles(np.array([1, 3, 3, 90, 200]), 3, 200)
    text = re.sub("<[^>]+>", "", html)
    assert text == (
        "Of 5 shuffles, the picture seen came as near as rank 3 or nearer in 3; chance: 0.1. "
        "Their median rank is 3 of 200; chance: 100."
    )


def test_digits():
    assert [cards.percent(x) for x in (0, 0.005, 0.025, 0.0996, 0.21, 0.725, 0.995, 1)] == [
        "0", "0.5", "2.5", "10", "21", "73", "99.5", "100",
    ]  # fmt: skip
    assert [cards.two_digits(x) for x in (0.417, -0.05, -0.001)] == ["0.42", "−0.05", "0.00"]


def test_result_names_seen_retrieved_and_metrics_with_chance_interval_and_protocol(decoder):
    decoding = decoder.decode("1", "nice", find_picture(decoder.gallery, "dog"), 80)
    html = cards.result(decoder, decoding)
    for row in decoding.order[:5]:
        assert decoder.gallery.candidates[row].name in html
    measured = decoder.metrics("1", "nice", 80)
    text = re.sub("<[^>]+>", "", html)
    top1 = measured.top1
    assert (
        f"{cards.percent(top1.value)}\u202f% ({cards.percent(top1.low)}–{cards.percent(top1.high)})"
        in text
    )
    assert "chance 0.5\u202f% and 2.5\u202f%" in text
    assert "protocol stimulus, 200 candidates, simulated EEG" in text
    assert html.count("data:image/svg+xml") == 6


def test_bars_show_the_picture_seen_also_beyond_the_tenth(decoder):
    candidates = decoder.gallery.candidates
    for candidate in candidates:
        decoding = decoder.decode("1", "nice", candidate.id, 1)
        html = cards.bars(decoder, decoding)
        assert html.count("<li ") == (10 if decoding.rank <= 10 else 11)
        assert html.count('class="right') == 1
        widths = [float(w) for w in re.findall(r"left:([\d.]+)%", html)]
        widths = [
            left + float(width)
            for left, width in zip(widths, re.findall(r"width:([\d.]+)%", html), strict=True)
        ]
        assert max(widths) <= 100.1


def test_every_text_is_escaped(decoder):
    html = ""
    for candidate in decoder.gallery.candidates[-2:]:
        decoding = decoder.decode("1", "nice", candidate.id, 80)
        html += cards.result(decoder, decoding) + cards.bars(decoder, decoding)
    html += cards.notice(NASTY)
    assert "<b>owl" not in html and "<i>1" not in html
    assert "&lt;b&gt;owl&lt;/b&gt; &amp; &quot;co&quot; ${1} {{x}}" in html


def test_a_picture_that_is_none_becomes_a_card(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    card = cards.picture(Candidate("a", "a", "a thing", picture="broken.jpg"), tmp_path)
    assert "<img" not in card and "a thing" in card
    assert "a thing" in cards.picture(Candidate("a", "a", "a thing"), None)


def test_photographs_are_made_small(tmp_path):
    Image.new("RGB", (3000, 2000), "red").save(tmp_path / "large.png")
    html = cards.picture(Candidate("a", "a", "a", picture="large.png"), tmp_path)
    encoded = re.search('data:image/webp;base64,([^"]+)', html).group(1)
    assert max(Image.open(io.BytesIO(base64.b64decode(encoded))).size) == cards.THUMBNAIL


# ---------------------------------------------------------------- figures


def test_butterfly_has_titles_with_units_and_every_electrode(decoder):
    evoked = decoder.decode("1", "nice", decoder.gallery.candidates[0].id, 80).evoked
    figure = butterfly(evoked.volts, evoked.times, decoder.montage.names)
    layout, traces = figure["layout"], figure["data"]
    assert layout["xaxis"]["title"]["text"] == "time after the picture appears (ms)"
    assert layout["yaxis"]["title"]["text"] == "EEG (µV)"
    assert layout["yaxis2"]["title"]["text"] == "GFP (µV)"
    assert [trace["name"] for trace in traces] == [*decoder.montage.names, "global field power"]
    np.testing.assert_allclose(traces[5]["y"], evoked.volts[5] * 1e6, atol=0.0051)
    # Slow and obvious: the spread over electrodes, moment by moment.
    power = [np.sqrt(np.mean((v - np.mean(v)) ** 2)) * 1e6 for v in evoked.volts.T]
    np.testing.assert_allclose(traces[-1]["y"], power, atol=0.0051)
    assert traces[0]["x0"] == -200 and traces[0]["dx"] == 4
    low, high = layout["yaxis"]["range"]
    assert -low == high >= np.abs(evoked.volts).max() * 1e6 - 0.01


def test_colours_are_symmetric_and_clip():
    values = np.linspace(-12, 12, 481)
    places = colours_of(values, 8.0).astype(int)
    np.testing.assert_array_equal(places + places[::-1], 254)
    assert places[240] == 127 and places[0] == 0 and places[-1] == 254
    middle = COLOURS[127].astype(int)
    assert np.ptp(middle) < 25, "0 µV is a colour without hue"


def test_colour_range_is_the_next_round_number():
    volts = np.zeros((63, 300))
    volts[3, 7] = -4.1e-6
    assert colour_range(volts) == 5
    assert colour_range(volts * 1000) == 4100 and colour_range(volts * 0) == 0.5


@pytest.mark.parametrize(
    ("extent", "end"), [(0.012, 0.015), (0.08, 0.08), (0.81, 1), (7, 8), (0, 1), (12, 15)]
)
def test_ranges_end_on_round_numbers(extent, end):
    assert round_up(extent) == pytest.approx(end)


def test_headmap_without_sign_and_with_electrodes_off(decoder):
    values = np.linspace(0, 2, 63)
    svg = headmap(
        decoder.montage, values, 2.0, "dog", title="Attention to", unit="share", signed=False,
        off=["Oz", "Cz"],
    )  # fmt: skip
    assert svg.count("electrode off") == 2 and "µV" not in svg and "−2" not in svg
    assert colours_of(np.array([0, 1, 2, 3]), 2.0, signed=False).tolist() == [0, 127, 254, 254]


# ---------------------------------------------------------------- what carried it


def test_map_over_electrodes_and_time_against_a_loop():
    rng = np.random.default_rng(2)
    values, times = rng.standard_normal((3, 12)), np.arange(12) / 250
    inside = (times >= 0.008) & (times < 0.04)
    shares = Map("integrated gradients", values, COSINE, ["a", "b", "c"], times)
    sizes = Map("grad-cam", values, "arbitrary", ["a", "b", "c"], times)
    for row in range(3):
        kept = [values[row, t] for t in range(12) if inside[t]]
        assert over_electrodes(shares, inside)[row] == pytest.approx(sum(kept))
        mean = sum(abs(value) for value in kept) / len(kept)
        assert over_electrodes(sizes, inside)[row] == pytest.approx(mean)
    bins = [range(0, 5), range(5, 10), range(10, 12)]  # 20 ms
    for place, samples in enumerate(bins):
        total = sum(values[row, t] for row in range(3) for t in samples)
        assert over_time(shares, 250)[place] == pytest.approx(total)
        size = np.mean([abs(values[row, t]) for row in range(3) for t in samples])
        assert over_time(sizes, 250)[place] == pytest.approx(size)


def test_attribution_is_of_the_part_that_was_decoded(decoder):
    decoding = decoder.decode("1", "ridge", decoder.gallery.candidates[3].id, 80, Part(("Oz",)))
    drawn = Attributions(decoder)
    found = drawn._explained(decoding, "occlusion by channel", decoding.condition)[0]
    for row in (0, CHANNELS.index("Oz"), CHANNELS.index("P7")):
        off = Part(tuple({"Oz", CHANNELS[row]}))
        without = decoder.decode("1", "ridge", decoder.gallery.candidates[3].id, 80, off)
        fall = decoding.similarities[3] - without.similarities[3]
        assert found.values[row] == pytest.approx(fall, abs=1e-5)
    assert abs(found.values[CHANNELS.index("Oz")]) < 1e-6  # it is off already
    head, words, course = drawn.drawn(decoding, "integrated gradients", "seen")
    assert head.count("electrode off") == 1 and "cosine similarity" in words
    assert "random weights correlates ρ = " in words and course.count("<rect") == 50
    head, words, course = drawn.drawn(decoding, "occlusion by window", "first")
    assert "tells moments apart, not electrodes" in head and course.count("<rect") == 50
    head, _, course = drawn.drawn(decoding, "occlusion by channel", "seen")
    assert "<svg" in head and not course
    with pytest.raises(InputError, match="has no attention; choose nice-sa or nice-ga"):
        drawn.drawn(decoding, "attention", "seen")
    for wrong in (("tea leaves", "seen"), ("attention", "nobody")):
        with pytest.raises(InputError, match="There is no map"):
            drawn.drawn(decoding, *wrong)


def test_range_of_a_map_is_the_same_for_all_pictures(decoder):
    drawn = Attributions(decoder)
    ends = set()
    for row in (1, 5, 9):
        decoding = decoder.decode("1", "ridge", decoder.gallery.candidates[row].id, 80)
        head = drawn.drawn(decoding, "integrated gradients", "seen")[0]
        ends.add(re.search(r">\+([\d.]+)</text>", head).group(1))
    assert len(ends) == 1


def test_headmap_shows_the_montages_image(decoder):
    values = np.random.default_rng(1).standard_normal(63) * 3
    svg = headmap(decoder.montage, values, 5.0, "172 ms")
    assert svg.count('class="electrode"') == 63
    assert 'role="group"' in svg and "172 ms" in svg and "µV" in svg
    assert ">+5<" in svg and ">−5<" in svg
    drawn = np.array(
        Image.open(
            io.BytesIO(base64.b64decode(re.search(r'base64,([^"]+)', svg).group(1)))
        ).convert("RGB")
    )
    image = decoder.montage.image(values)
    inside = ~np.isnan(image)
    np.testing.assert_array_equal(drawn[inside], COLOURS[colours_of(image[inside], 5.0)])


# ---------------------------------------------------------------- somebody's latents, and app.py


def latents_decoder(shared: Path) -> LatentsDecoder:
    data, photos = shared / "things_eeg2", shared / "cc0_photos"
    embeddings, gallery = open_latents(
        data / "atm_s_sub08_test_latents.npy",
        data / "openclip_vith14_test_image.npy",
        data / "test_images.txt",
        photos,
    )
    return LatentsDecoder(embeddings, gallery, photos, "real EEG of subject 8")


def test_latents_pictures_of_the_same_concept_are_said_to_be(shared_data):
    decoder = latents_decoder(shared_data)
    decoding = decoder.decode("latents", "latents", "aircraft_carrier_06s", 1)
    html = cards.result(decoder, decoding)
    assert "a picture of the same concept, not the one that was shown" in html
    assert "simulated" not in html
    with pytest.raises(InputError, match="no average over"):
        view_of(decoder, "latents", "latents", "aircraft_carrier_06s", 80)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--bundle", "nowhere"], "There is no bundle at nowhere"),
        (["--latents", "a.npy"], "add --gallery FILE"),
        (["--latents", "a.npy", "--gallery", "b.npy"], "a.npy"),
    ],
)
def test_app_ends_with_one_sentence(tmp_path, monkeypatch, capsys, flags, sentence):
    monkeypatch.chdir(tmp_path)
    assert app.main(flags) == 2
    said = capsys.readouterr()
    assert sentence in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("first", "compares"), [("", True), ("nice_demo.ui, ", False)])
def test_gradio_is_imported_without_comparing_its_stubs(first, compares):
    """Should gradio alone compare none either, `nice_demo.ui._without_stubs` can go."""
    check = (
        "import ast, inspect;"
        "getfile, parse, parsed = inspect.getfile, ast.parse, [];"
        "ast.parse = lambda *given, **named: parsed.append(1) or parse(*given, **named);"
        f"import {first}gradio as gr;"
        "assert inspect.getfile is getfile and gr.Button('x').click;"
        f"assert (len(parsed) > 100) == {compares}, len(parsed)"
    )
    root = Path(app.__file__).parent
    subprocess.run([sys.executable, "-c", check], cwd=root, check=True, timeout=60)


def test_no_server_is_made_before_the_page_is_served(monkeypatch):
    create, made = App.create_app, []
    counting = staticmethod(lambda *given, **named: made.append(1) or create(*given, **named))
    monkeypatch.setattr(App, "create_app", counting)
    # A busy machine: gradio's own look at the page takes too long.
    monkeypatch.setattr("gradio.networking.url_ok", lambda address: False)
    blocks = page(FakeDecoder(), "a test")
    assert not made
    serve(blocks, "127.0.0.1")
    blocks.close()
    assert made == [1]


def test_garbage_is_looked_for_once_the_page_is_up_and_not_before(monkeypatch):
    started = (
        "import contextlib, gc, runpy, sys; sys.argv = ['app.py', '--bundle', 'nowhere']\n"
        "with contextlib.suppress(SystemExit): runpy.run_path('app.py', run_name='__main__')\n"
        "assert not gc.isenabled()"
    )
    root = Path(app.__file__).parent
    subprocess.run([sys.executable, "-c", started], cwd=root, check=True, timeout=60)
    found = []

    class Blocks:
        def make_ahead(self):
            found.append((gc.isenabled(), gc.get_freeze_count() > 100_000))

        def block_thread(self):
            found.append("serves")

    monkeypatch.setattr(app, "open_what", lambda options: (None, "", ""))
    monkeypatch.setattr(app, "page", lambda *given, **named: Blocks())
    monkeypatch.setattr(app, "serve", lambda *given: "http://nowhere/")
    handler = signal.getsignal(signal.SIGTERM)
    gc.disable()
    try:
        assert app.main([]) == 0
    finally:
        gc.enable()
        gc.unfreeze()
        signal.signal(signal.SIGTERM, handler)
    assert found == [(True, True), "serves"]


def test_app_starts_without_transformers_or_mne_and_without_telling_anyone():
    check = (
        "import sys, app, os;"
        "slow = {'transformers', 'mne', 'matplotlib', 'sklearn', 'mcp.types'} & set(sys.modules);"
        "assert not slow, slow;"
        "assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False';"
        "sys.exit(app.main(['--bundle', 'nowhere']))"
    )
    root = Path(app.__file__).parent
    ended = subprocess.run(
        [sys.executable, "-c", check], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: There is no bundle") and ended.stderr.count("\n") == 1
