"""Embedding pictures: with tiny models of random weights, made by transformers itself."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nice_demo import embed
from nice_demo.eegset import DataSet
from nice_demo.embed import ImageModel, batches, embed_pictures
from nice_demo.embed import __main__ as embed_main
from nice_demo.errors import InputError
from nice_demo.files import write_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.sources.things_eeg2 import images


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={**size, "num_attention_heads": 2, "vocab_size": 50},
        vision_config={**size, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_siglip(tmp_path_factory):
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    folder = tmp_path_factory.mktemp("siglip")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = SiglipConfig(
        text_config={**size, "num_attention_heads": 2, "vocab_size": 50},
        vision_config={**size, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(5)]


def test_embeddings_are_those_of_the_whole_clip(tiny_clip, pictures):
    import torch
    from transformers import CLIPImageProcessor, CLIPModel

    found = embed_pictures(pictures, str(tiny_clip), batch=2)
    assert found.shape == (5, 12) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    pixels = CLIPImageProcessor.from_pretrained(tiny_clip)(pictures, return_tensors="pt")
    with torch.no_grad():
        pooled = model.vision_model(pixels["pixel_values"]).pooler_output
        expected = model.visual_projection(pooled).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pictures_may_come_one_by_one_and_in_any_mode(tiny_clip, pictures):
    mixed = [pictures[0].convert("L"), pictures[1].convert("RGBA"), pictures[2]]
    one_by_one = embed_pictures((picture for picture in mixed), str(tiny_clip), batch=1)
    together = embed_pictures(mixed, str(tiny_clip), batch=3)
    np.testing.assert_allclose(one_by_one, together, atol=1e-5)


def test_no_pictures(tiny_clip):
    with pytest.raises(InputError, match="no picture"):
        embed_pictures([], str(tiny_clip))


def test_an_unreachable_model_is_one_sentence(pictures, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="nobody/no-such-model") as raised:
        embed_pictures(pictures, "nobody/no-such-model", revision="main")
    message = str(raised.value)
    assert "couldn't be reached or has no such" in message and "folder" in message
    assert "\n" not in message


def test_a_folder_without_a_model(pictures, tmp_path):
    with pytest.raises(InputError, match="can't be loaded"):
        embed_pictures(pictures, str(tmp_path))


def test_another_kind_of_model_is_refused(tiny_clip, pictures, tmp_path):
    from transformers import BertConfig, CLIPImageProcessor

    BertConfig().save_pretrained(tmp_path)
    CLIPImageProcessor.from_pretrained(tiny_clip).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'bert', not CLIP"):
        embed_pictures(pictures, str(tmp_path))


def test_batches():
    assert list(batches(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []


# ---------------------------------------------------------------- other models, layers


def test_the_preprocessor_of_openais_files_is_understood(tiny_clip, pictures, tmp_path):
    # Their preprocessor_config.json is of 2021: it names a class that is gone, and plain sizes.
    shutil.copytree(tiny_clip, tmp_path, dirs_exist_ok=True)
    old = {
        "crop_size": 32,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 32,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    np.testing.assert_allclose(
        embed_pictures(pictures, str(tmp_path)), embed_pictures(pictures, str(tiny_clip)), atol=1e-6
    )


def test_a_model_of_the_hub_by_revision_from_the_cache(tiny_clip, pictures, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_clip, repository / "snapshots" / commit)
    for name in ("main", "v1"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    newest = ImageModel("someone/tiny").description
    assert newest == {
        "name": "someone/tiny",
        "revision": None,
        "commit": commit,
        "precision": "float32",
    }
    assert ImageModel("someone/tiny", "v1").description["commit"] == commit
    pinned = ImageModel("someone/tiny", commit)
    assert pinned.description["revision"] == commit and "commit" not in pinned.description
    monkeypatch.setitem(embed.PINNED, "someone/tiny", commit)
    assert ImageModel("someone/tiny").description["revision"] == commit


def test_siglip_has_no_projection(tiny_siglip, pictures):
    import torch
    from transformers import AutoImageProcessor, SiglipVisionModel

    found = embed_pictures(pictures, str(tiny_siglip), batch=4)
    model = SiglipVisionModel.from_pretrained(tiny_siglip).eval()
    processor = AutoImageProcessor.from_pretrained(tiny_siglip, backend="pil")
    with torch.no_grad():
        expected = model(**processor(pictures, return_tensors="pt")).pooler_output.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_layer_is_what_leaves_that_block(tiny_clip, pictures, layer, pooling):
    import torch
    from transformers import AutoImageProcessor, CLIPModel

    found = embed_pictures(pictures, str(tiny_clip), layer=layer, pooling=pooling)
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    processor = AutoImageProcessor.from_pretrained(tiny_clip, backend="pil")
    seen = []
    block = model.vision_model.encoder.layers[layer - 1]
    block.register_forward_hook(lambda _block, _given, made: seen.append(made))
    with torch.no_grad():
        model.vision_model(**processor(pictures, return_tensors="pt"))
    tokens = (seen[0][0] if isinstance(seen[0], tuple) else seen[0]).numpy()
    expected = np.array([t[0] if pooling == "cls" else t[1:].mean(0) for t in tokens])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_mean_over_all_tokens_where_there_is_no_class_token(tiny_siglip, pictures):
    assert embed_pictures(pictures, str(tiny_siglip), layer=1, pooling="mean").shape == (5, 16)
    with pytest.raises(InputError, match="no class token; pool by mean."):
        embed_pictures(pictures, str(tiny_siglip), layer=1, pooling="cls")


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"layer": 3}, "has layers 1 to 2, no layer 3"),
        ({"layer": 1, "pooling": "max"}, "no pooling 'max'; choose cls or mean"),
        ({"device": "abacus"}, "can't run on 'abacus'"),
    ],
)
def test_what_a_model_cannot_do_is_one_sentence(tiny_clip, pictures, options, sentence):
    with pytest.raises(InputError, match=sentence) as raised:
        embed_pictures(pictures, str(tiny_clip), **options)
    assert "\n" not in str(raised.value)


def test_half_precision_as_on_a_gpu(tiny_clip, tiny_siglip, pictures):
    import torch

    for options in ({"name": str(tiny_siglip)}, {"name": str(tiny_clip), "layer": 2}):
        model = ImageModel(**options)
        single = model.embed(pictures)
        model.network, model.dtype = model.network.half(), torch.float16
        half = model.embed(pictures)
        assert half.dtype == np.float32 and (half * single).sum(1).min() > 0.999
        np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)


def test_weights_that_lack_something_are_refused(tiny_clip, pictures, tmp_path):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny_clip, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lack 1 of its parameters"):
        embed_pictures(pictures, str(tmp_path))


def test_weights_in_a_pickle_are_not_read(tiny_clip, pictures, tmp_path):
    import torch
    from safetensors.torch import load_file

    shutil.copytree(tiny_clip, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="can't be loaded"):
        embed_pictures(pictures, str(tmp_path))


# ---------------------------------------------------------------- the command


@pytest.fixture
def things(tmp_path):
    """Return a folder of images and a data folder of 6 training and 3 test conditions."""
    random = np.random.default_rng(1)
    shown = {
        "train": [(f"0000{c}_thing{c}", f"thing{c}_0{i}b.jpg") for c in (1, 2, 3) for i in (1, 2)],
        "test": [(f"0000{c}_seen{c}", f"seen{c}_05s.jpg") for c in (1, 2, 3)],
    }
    place, data = tmp_path / "images", tmp_path / "data"
    place.mkdir()
    metadata = {}
    for split, top in (("train", "training_images"), ("test", "test_images")):
        with zipfile.ZipFile(place / f"{top}.zip", "w") as archive:
            for concept, file in shown[split]:
                archive.writestr(f"{top}/{concept}/{file}", jpeg(random))
        metadata[f"{split}_img_concepts"], metadata[f"{split}_img_files"] = map(
            list, zip(*shown[split], strict=True)
        )
        ids = [Path(file).stem for _, file in shown[split]]
        Gallery(
            [Candidate(id_, id_, id_) for id_ in ids], np.eye(6, dtype=np.float32)[: len(ids)]
        ).save(data / f"{split}_gallery")
    np.save(place / "image_metadata.npy", metadata)
    with zipfile.ZipFile(tmp_path / "things.zip", "w") as archive:
        for number in (1, 2, 3):
            for file in ("01b", "02s", "05s"):
                archive.writestr(
                    f"object_images/seen{number}/seen{number}_{file}.jpg", jpeg(random)
                )
    with zipfile.ZipFile(tmp_path / "cc0.zip", "w") as archive:
        archive.writestr("cc0/seen2.jpg", jpeg(random))
    needed = ("name", "source", "licences")
    description = dict.fromkeys(needed, "x") | {"simulated": False, "preparation": {}}
    write_json(data / "dataset.json", description | {"image_model": {"name": "none yet"}})
    return tmp_path


def jpeg(random) -> bytes:
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file, "jpeg")
    return file.getvalue()


def run(things, model, *options):
    return embed_main.main([
        "--data", str(things / "data"), "--images", str(things / "images"),
        "--image-model", str(model), "--device", "cpu", "--batch", "2", *map(str, options),
    ])  # fmt: skip


def test_the_command_makes_all_galleries(things, tiny_clip, capsys):
    assert (
        run(things, tiny_clip, "--things", things / "things.zip", "--cc0", things / "cc0.zip") == 0
    )
    data = DataSet.open(things / "data")
    model = {"name": str(tiny_clip), "revision": None, "precision": "float32"}
    assert data.description["image_model"] == model
    assert data.train_gallery.image_model == data.test_gallery.image_model == model
    assert [c.id for c in data.test_gallery.candidates] == ["seen1_05s", "seen2_05s", "seen3_05s"]
    assert data.train_gallery.embeddings.shape == (6, 12)
    with zipfile.ZipFile(things / "images" / "training_images.zip") as archive:
        third = Image.open(io.BytesIO(archive.read(archive.namelist()[2])))
    np.testing.assert_allclose(
        data.train_gallery.embeddings[2], embed_pictures([third], str(tiny_clip))[0], atol=1e-5
    )
    centres = Gallery.open(things / "data" / "test_centres")
    assert centres.protocol == "concept centre" and centres.image_model["centres"] == "renormalised"
    np.testing.assert_allclose(np.linalg.norm(centres.embeddings, axis=1), 1, atol=1e-6)
    assert [c.picture for c in centres.candidates] == [None, "cc0/seen2.webp", None]
    assert not list((things / "data").glob(".*"))
    said = capsys.readouterr().out
    assert "1 of 3 test pictures have a CC0 picture" in said and "chance 33.3 %" in said

    # Another model, and no other pictures: the old centres must not stay; the CC0 picture may.
    assert run(things, tiny_clip, "--layer", "1", "--pooling", "mean") == 0
    assert not list((things / "data").glob("test_centres*"))
    again = Gallery.open(things / "data" / "test_gallery")
    assert again.image_model["layer"] == 1 and again.embeddings.shape == (3, 16)
    assert again.candidates[1].picture == "cc0/seen2.webp"
    assert "needs the other THINGS pictures" in capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on(things, tiny_clip, monkeypatch, capsys):
    embed_batch, batches_seen = ImageModel.embed, []

    def counting(model, pictures):
        batches_seen.append(len(pictures))
        # The probe, two batches of test pictures, two of training pictures, then Ctrl-C.
        if len(batches_seen) == 6:
            raise KeyboardInterrupt
        return embed_batch(model, pictures)

    monkeypatch.setattr(ImageModel, "embed", counting)
    assert run(things, tiny_clip) == 130
    assert Gallery.open(things / "data" / "train_gallery").embeddings.shape == (6, 6)  # untouched
    kept = sorted((things / "data").glob(".*.embeddings"), key=lambda file: file.stat().st_size)
    assert len(kept) == 2
    # A killed run may also leave half a batch.
    with open(kept[1], "r+b") as file:
        file.truncate(kept[1].stat().st_size - 7)
    batches_seen[:] = [0] * 10
    assert run(things, tiny_clip) == 0
    assert batches_seen[10:] == [1, 2, 2]  # the probe, what was torn, what was left
    resumed = Gallery.open(things / "data" / "train_gallery").embeddings
    assert run(things, tiny_clip) == 0
    once = Gallery.open(things / "data" / "train_gallery").embeddings
    np.testing.assert_array_equal(resumed, once)


def test_centres_of_a_file_in_the_published_form(things, tiny_clip):
    means = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    np.save(things / "means.npy", means)
    options = "--centres-file", things / "means.npy", "--centres"
    assert run(things, tiny_clip, *options, "published") == 0
    found = Gallery.open(things / "data" / "test_centres")
    np.testing.assert_array_equal(found.embeddings, means)
    assert found.image_model["centres"] == "published"
    assert found.image_model["centres_file"] == "means.npy"
    assert run(things, tiny_clip, *options, "none") == 0
    assert not (things / "data" / "test_centres.json").exists()


def test_kept_embeddings_of_another_model_are_not_taken(things, tiny_clip, monkeypatch):
    pictures, _ = images.shown_pictures(things / "images", (6, 3))
    last = ImageModel(str(tiny_clip))
    first = ImageModel(str(tiny_clip), layer=1)
    a = embed.embed_resumably(first, pictures, things, "pictures", 4)
    b = embed.embed_resumably(last, pictures, things, "pictures", 4)
    assert a.shape == (6, 16) and b.shape == (6, 12) and len(list(things.glob(".*"))) == 2


def test_verify_before_anything_is_written(things, tiny_clip, capsys):
    _, test = images.shown_pictures(things / "images", (6, 3))
    truth = embed_pictures(test, str(tiny_clip))
    np.save(things / "truth.npy", truth)
    np.save(things / "swapped.npy", truth[::-1])
    assert run(things, tiny_clip, "--verify", things / "swapped.npy") == 2
    assert "less than 0.99" in capsys.readouterr().err
    assert Gallery.open(things / "data" / "test_gallery").image_model == {}
    assert run(things, tiny_clip, "--verify", things / "truth.npy") == 0
    assert "least cosine" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, sentence",
    [
        ([], "nothing to do; give --images to embed, or --verify"),
        (["--verify", "none.npy"], "none.npy doesn't exist"),
        (["--images", "nowhere"], "nowhere/image_metadata.npy is missing"),
    ],
)
def test_wrong_options_are_one_sentence(things, options, sentence, capsys):
    assert embed_main.main(["--data", str(things / "data"), *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_simulated_folder_is_refused(things, tiny_clip, capsys):
    description = json.loads((things / "data" / "dataset.json").read_text())
    write_json(things / "data" / "dataset.json", description | {"simulated": True})
    assert run(things, tiny_clip) == 2
    assert "holds simulated EEG" in capsys.readouterr().err


def test_a_full_disk(things, tiny_clip, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Gallery, "save", full)
    assert run(things, tiny_clip) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert len(list((things / "data").glob(".*.embeddings"))) == 2  # the next run goes on


def test_verify_against_the_published_embeddings(shared_data, tmp_path, capsys):
    published = shared_data / "things_eeg2" / "clip_vitl14_test.npy"
    names = (shared_data / "things_eeg2" / "test_images.txt").read_text().split()
    vectors = np.load(published)

    def verify(rows):
        Gallery([Candidate(n, n, n) for n in names], rows).save(tmp_path / "test_gallery")
        return embed_main.main(["--data", str(tmp_path), "--verify", str(published)])

    assert verify(vectors) == 0
    assert "1.000000" in capsys.readouterr().out
    # As far as half precision may lead, and as far as another model would.
    random = np.random.default_rng(0)
    noise = random.normal(size=vectors.shape).astype(np.float32) / np.sqrt(768)
    assert verify(vectors + 0.05 * noise) == 0
    capsys.readouterr()
    one_wrong = vectors.copy()
    one_wrong[17] = vectors[18]
    assert verify(one_wrong) == 2
    assert f"Row 17 of {published} has cosine" in capsys.readouterr().err
    assert verify(vectors + 0.3 * noise) == 2
    capsys.readouterr()
    assert verify(vectors[:, :512]) == 2
    assert "has shape (200, 768), the gallery (200, 512)" in capsys.readouterr().err
