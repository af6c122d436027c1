"""The phantom's pictures: choice, drawing, features; and where the page finds a picture."""

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nice_demo.errors import InputError
from nice_demo.gallery import Candidate
from nice_demo.pictures import picture_file, twemoji_file
from nice_demo.sources.phantom import features
from nice_demo.sources.phantom.pictures import (
    GREY,
    SIZE,
    Concept,
    draw,
    never_in_training,
    training_concepts,
    training_pictures,
)
from nice_demo.sources.phantom.pictures import (
    test_concepts as concepts_for_test,
)


def candidate(picture: str | None) -> Candidate:
    return Candidate("carrot", "carrot", "carrot", "food", picture)


# --- the choice ---------------------------------------------------------------------------------


def test_there_are_200_distinct_test_concepts():
    concepts = concepts_for_test()
    assert len(concepts) == 200
    assert len({concept.code for concept in concepts}) == 200
    assert len({concept.name.lower() for concept in concepts}) == 200


def test_test_categories_are_balanced():
    counts = Counter(concept.category for concept in concepts_for_test())
    assert len(counts) == 10
    assert min(counts.values()) >= 12 and max(counts.values()) <= 30


def test_training_is_large_and_distinct():
    codes = [concept.code for concept in training_concepts()]
    assert len(codes) >= 900
    assert len(set(codes)) == len(codes)
    assert len(training_pictures()) >= 8000


def test_training_and_test_share_nothing():
    training = {concept.code for concept in training_concepts()}
    names = {concept.name.lower() for concept in training_concepts()}
    assert not training & {concept.code for concept in concepts_for_test()}
    assert not training & never_in_training()
    assert not names & {concept.name.lower() for concept in concepts_for_test()}


@pytest.mark.parametrize(
    "code",
    [
        "1f415",  # a dog from the side
        "1f429",  # a poodle
        "1f407",  # a rabbit from the side
        "1f699",  # a blue car
        "1f4d7",  # a green book
        "1f1e8-1f1ed",  # a flag
        "1f170",  # a letter
        "1f9d1-1f3fb",  # a skin tone
        "1f469-200d-1f373",  # a second cook
    ],
)
def test_what_stays_out_of_training(code):
    assert code not in {concept.code for concept in training_concepts()}


def test_every_code_named_in_the_choice_exists():
    for concept in concepts_for_test() + training_concepts():
        assert twemoji_file(concept.code), concept
    for code in never_in_training():
        assert twemoji_file(code), code


def test_names_are_for_people():
    names = {concept.code: concept.name for concept in concepts_for_test()}
    assert names["1f366"] == "ice cream"
    assert names["1f436"] == "dog"
    assert not [name for name in names.values() if "_" in name]


# --- drawing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", [0, 1, 5])
def test_the_same_seed_draws_the_same_picture(augmentation):
    first, second = (draw("1f955", augmentation, seed=3).tobytes() for _ in range(2))
    assert first == second


def test_augmentations_and_seeds_differ():
    pictures = [draw("1f955", number, seed) for number, seed in ((0, 0), (1, 0), (2, 0), (1, 1))]
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert draw("1f955", 0, seed=0).tobytes() == draw("1f955", 0, seed=9).tobytes()


def test_all_pictures_have_the_same_background():
    for code in ("1f955", "1f3bb", "1f42a"):
        for augmentation in range(4):
            picture = np.asarray(draw(code, augmentation))
            assert picture.shape == (SIZE, SIZE, 3)
            colours = Counter(map(tuple, picture.reshape(-1, 3).tolist()))
            assert colours.most_common(1)[0][0] == (GREY, GREY, GREY)


def test_the_plain_graphic_is_in_the_middle_and_upright():
    # The red circle: as wide as high, and centred.
    seen = np.asarray(draw("1f534")).astype(int)
    rows, columns = np.nonzero(np.abs(seen - GREY).max(axis=-1) > 20)
    assert rows.mean() == pytest.approx((SIZE - 1) / 2, abs=0.5)
    assert columns.mean() == pytest.approx((SIZE - 1) / 2, abs=0.5)
    assert np.ptp(rows) == pytest.approx(0.85 * SIZE, abs=2)
    # The flame of a candle is above its wax: orange above, grey-white below.
    candle = np.asarray(draw("1f56f")).astype(int)
    orange = (candle[..., 0] - candle[..., 2]) > 100
    assert np.nonzero(orange)[0].mean() < SIZE / 2


def test_size_of_plain_and_augmented_pictures_agrees_on_average():
    def covered(picture):
        return (np.abs(np.asarray(picture).astype(int) - GREY).max(axis=-1) > 20).mean()

    augmented = np.mean([covered(draw("1f534", number)) for number in range(1, 40)])
    assert augmented == pytest.approx(covered(draw("1f534")), rel=0.1)


def test_an_unknown_emoji_is_an_input_error():
    with pytest.raises(InputError, match="no emoji"):
        draw("1f95500")


# --- features -----------------------------------------------------------------------------------


def slow_low_level(picture: Image.Image) -> np.ndarray:
    """The definition, pixel by pixel."""
    grey = np.asarray(picture.convert("L").resize((64, 64), Image.Resampling.BOX)).astype(float)
    filters = features.gabor_filters()
    expected = np.zeros(features.LOW_LEVEL_AXES)
    for row in range(4):
        for column in range(4):
            for orientation in range(4):
                energy = 0.0
                for y in range(16 * row, 16 * row + 16):
                    for x in range(16 * column, 16 * column + 16):
                        for phase in range(2):
                            response = 0.0
                            for dy in range(-6, 7):
                                for dx in range(-6, 7):
                                    if 0 <= y + dy < 64 and 0 <= x + dx < 64:
                                        contrast = grey[y + dy, x + dx] / GREY - 1
                                        weight = filters[orientation, phase, 6 + dy, 6 + dx]
                                        response += weight * contrast
                            energy += response**2
                expected[row, column, orientation] = math.log1p(energy / 256)
    return expected


def test_low_level_agrees_with_the_definition():
    # A picture with little in it, so that the slow loops skip nothing that matters.
    pixels = np.full((64, 64, 3), GREY, np.uint8)
    pixels[5:25, 8:11] = 230
    pixels[40:44, 30:60] = 20
    picture = Image.fromarray(pixels)
    found = features.low_level([picture])[0].reshape(features.LOW_LEVEL_AXES)
    np.testing.assert_allclose(found, slow_low_level(picture), atol=1e-4)


def test_low_level_knows_place_and_orientation():
    def strongest(pixels):
        found = features.low_level([Image.fromarray(pixels)])[0].reshape(features.LOW_LEVEL_AXES)
        return np.unravel_index(found.argmax(), found.shape)

    stripes = np.where(np.arange(192) // 9 % 2, 255, 0).astype(np.uint8)
    upright = np.full((192, 192, 3), GREY, np.uint8)
    upright[0:48, 144:192] = stripes[None, 144:192, None]
    assert strongest(upright) == (0, 3, 2)
    level = np.full((192, 192, 3), GREY, np.uint8)
    level[144:192, 0:48] = stripes[144:192, None, None]
    assert strongest(level) == (3, 0, 0)
    rising = np.full((192, 192, 3), GREY, np.uint8)
    y, x = np.mgrid[48:96, 48:96]
    rising[48:96, 48:96] = (((x + y) // 13 % 2) * 255)[..., None]
    assert strongest(rising) == (1, 1, 1)


def test_an_empty_picture_has_no_contrast():
    empty = Image.new("RGB", (SIZE, SIZE), (GREY,) * 3)
    assert np.abs(features.low_level([empty])).max() < 1e-6


def test_components_agree_with_the_definition_and_ignore_test_pictures():
    random = np.random.default_rng(0)
    train = random.normal(size=(80, 6)) * [9, 5, 3, 2, 1, 0.5] + 4
    test = random.normal(size=(10, 6))
    found, found_test = features.components(train, test, 4, whitening=1.0)
    # Whitened components: uncorrelated, all of the same power.
    np.testing.assert_allclose(found.T @ found / 80, np.eye(4), atol=1e-9)
    again, other_test = features.components(train, test[:3] * 7, 4, whitening=1.0)
    np.testing.assert_array_equal(found, again)
    assert found_test.shape == (10, 4) and other_test.shape == (3, 4)
    half, _ = features.components(train, test, 4, whitening=0.5)
    plain, _ = features.components(train, test, 4, whitening=0.0)
    for scaled in (half, plain):
        assert np.mean(scaled**2) == pytest.approx(1)
    ratio = half.std(axis=0) ** 2 / plain.std(axis=0)
    np.testing.assert_allclose(ratio, ratio[0])


def test_make_pictures_of_a_few(tmp_path, monkeypatch):
    """All files, without the networks: random features stand in for theirs."""
    from safetensors.numpy import load_file

    from nice_demo.gallery import Gallery

    concepts = [Concept(code, code, "food", code) for code in ("1f955", "1f42a", "1f3bb", "1f534")]
    shown = [(concept, number) for concept in concepts for number in range(2)]
    monkeypatch.setattr(features, "training_pictures", lambda: shown)
    monkeypatch.setattr(features, "test_concepts", lambda: concepts_for_test()[:5])
    monkeypatch.setattr(features, "efficientnet", lambda: None)
    for name, width in (("visual", 12), ("semantic", 9)):
        random = np.random.default_rng(width)
        monkeypatch.setattr(
            features, name, lambda items, *_, w=width, r=random: r.normal(size=(len(items), w))
        )
    for name, number in (("N_VISUAL", 2), ("N_SEMANTIC", 2), ("N_EMBEDDING", 2)):
        monkeypatch.setattr(features, name, number)
    monkeypatch.setattr(
        features, "embed_pictures", lambda pictures, *_: np.eye(len([*pictures]), dtype=np.float32)
    )
    features.make_pictures(tmp_path, image_model="some-clip", progress=False)
    train, test = Gallery.open(tmp_path / "train_gallery"), Gallery.open(tmp_path / "test_gallery")
    assert [one.id for one in train.candidates[:3]] == ["1f955-0", "1f955-1", "1f42a-0"]
    assert {one.picture for one in train.candidates[:2]} == {"twemoji:1f955"}
    assert train.image_model["name"] == "some-clip"
    np.testing.assert_array_equal(test.embeddings, np.eye(13)[:5])
    np.testing.assert_array_equal(train.embeddings, np.eye(13)[5:])
    arrays = load_file(tmp_path / "pictures.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {
        "test_low": (5, 64),
        "test_visual": (5, 2),
        "test_semantic": (5, 2),
        "train_low": (8, 64),
        "train_visual": (8, 2),
        "train_semantic": (8, 2),
    }
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_joined_embedding_has_unit_norm():
    random = np.random.default_rng(1)
    train = {name: random.normal(size=(600, 128)) for name in ("visual", "semantic")}
    test = {name: random.normal(size=(7, 128)) for name in ("visual", "semantic")}
    for embedding in features.joined_embedding(train, test):
        assert embedding.dtype == np.float32 and embedding.shape[1] == 256
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)


# --- where the page finds a picture -------------------------------------------------------------


def test_a_twemoji_is_read_from_its_package():
    file = picture_file(candidate("twemoji:1f955"), None)
    assert file.name == "1f955.svg" and file.read_text().startswith("<svg")


@pytest.mark.parametrize(
    "code",
    ["", "zzz", "1f955.svg", "../svg/1f955", "1f955/../1f955", "/etc/passwd", "1f9550", "1F955"],
)
def test_an_unknown_or_crooked_code_is_none(code):
    assert picture_file(candidate(f"twemoji:{code}"), None) is None


def test_a_file_in_the_gallerys_folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "carrot.png").write_bytes(b"png")
    found = picture_file(candidate("pictures/carrot.png"), tmp_path)
    assert found == (tmp_path / "pictures" / "carrot.png").resolve()
    assert picture_file(candidate("pictures/none.png"), tmp_path) is None
    assert picture_file(candidate("pictures"), tmp_path) is None
    assert picture_file(candidate("pictures/carrot.png"), None) is None
    assert picture_file(candidate(None), tmp_path) is None


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "pictures/../../secret.png", "a/..", "..\\secret.png", "C:\\x.png", "a\0b"],
)
def test_a_path_out_of_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "gallery"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"png")
    with pytest.raises(InputError, match="outside the gallery's folder"):
        picture_file(candidate(name), folder)


def test_absolute_paths_and_links_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"png")
    os.symlink(secret, folder / "link.png")
    os.symlink(tmp_path, folder / "up", target_is_directory=True)
    for name in (str(secret), "link.png", "up/secret.png", str(Path("/etc/passwd"))):
        with pytest.raises(InputError, match="outside the gallery's folder"):
            picture_file(candidate(name), folder)


def test_a_link_that_stays_inside_is_fine(tmp_path):
    (tmp_path / "carrot.png").write_bytes(b"png")
    os.symlink(tmp_path / "carrot.png", tmp_path / "link.png")
    assert picture_file(candidate("link.png"), tmp_path) == (tmp_path / "carrot.png").resolve()
