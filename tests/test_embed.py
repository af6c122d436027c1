"""Embedding pictures with CLIP: a tiny one with random weights, made by transformers itself."""

import numpy as np
import pytest
from PIL import Image

from nice_demo.embed import batches, embed_pictures
from nice_demo.errors import InputError


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
