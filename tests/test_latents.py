"""Reading someone's latents: what fits is read exactly, everything else meets a sentence."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from nice_demo.errors import InputError
from nice_demo.gallery import Gallery
from nice_demo.sources import latents

ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
reuse_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80
)


def write(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, anything=array)
    else:
        save_file({"anything": np.ascontiguousarray(array)}, path)
    return path


def refuses(path, *words):
    """Reading gives an InputError that is one line, names the file and holds the words."""
    with pytest.raises(InputError) as caught:
        latents.read_array(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".NPY"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8"])
def test_read_array(tmp_path, suffix, dtype):
    array = np.abs(ROWS * 10).astype(dtype)
    path = write(tmp_path / f"array{suffix.lower()}", array)
    path = path.rename(path.with_suffix(suffix))
    read = latents.read_array(str(path))
    assert read.dtype == np.float32
    assert type(read) is np.ndarray
    np.testing.assert_array_equal(read, array.astype(np.float32))


@pytest.mark.parametrize("array", [np.asfortranarray(ROWS), ROWS.astype(">f4"), ROWS[::2, ::-1]])
def test_read_array_in_any_layout(tmp_path, array):
    np.testing.assert_array_equal(latents.read_array(write(tmp_path / "a.npy", array)), array)


@pytest.mark.parametrize("name", ["latents", "embeddings", "gallery"])
def test_the_known_name_is_read_among_others(tmp_path, name):
    several = {"subjects": np.arange(4), name: ROWS}
    np.savez(tmp_path / "a.npz", **several)
    save_file(several, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.npz", tmp_path / "a.safetensors"):
        np.testing.assert_array_equal(latents.read_array(path), ROWS)


@pytest.mark.parametrize("names", [("a", "b"), ("latents", "gallery"), ()])
def test_which_array_is_meant_must_be_clear(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, ROWS))
    save_file(dict.fromkeys(names, ROWS), tmp_path / "a.safetensors")
    for path in (tmp_path / "a.npz", tmp_path / "a.safetensors"):
        refuses(path, "one array", *names)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (ROWS[0], "(3,)"),
        (ROWS[None], "(1, 5, 3)"),
        (np.array(1.0), "()"),
        (ROWS[:0], "(0, 3)"),
        (np.where(ROWS == ROWS[2, 1], np.nan, ROWS), "row 2"),
        (np.where(ROWS == ROWS[4, 0], np.inf, ROWS), "row 4"),
        (ROWS.astype(np.float64) * 1e300, "too large"),
        (ROWS > 0, "bool"),
        (ROWS.astype(complex), "complex"),
        (ROWS.astype(str), "not real numbers"),
        (np.zeros((2, 2), "datetime64[s]"), "not real numbers"),
        (np.zeros((2, 2), [("x", "f4")]), "not real numbers"),
        (np.array([[None, 1], [2, 3]], object), "can't be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_not_embeddings(tmp_path, suffix, array, words):
    path = write(tmp_path / f"array{suffix}", array)
    refuses(path, *([] if array.size == 0 else [words]))


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle ran",)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".PT", ".ckpt"])
def test_files_that_may_hold_code_are_not_opened(tmp_path, suffix):
    path = tmp_path / f"latents{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    refuses(path, "may hold code", "convert it to .npy or .safetensors")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_a_pickle_under_another_name_does_not_run(tmp_path, suffix):
    path = tmp_path / f"latents{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    refuses(path, "can't be read")


def test_an_archive_under_another_name(tmp_path):
    np.savez(tmp_path / "a.npz", latents=ROWS)
    refuses((tmp_path / "a.npz").rename(tmp_path / "a.npy"), "can't be read")
    np.save(tmp_path / "b.npy", ROWS)
    refuses((tmp_path / "b.npy").rename(tmp_path / "b.npz"), "can't be read")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("latents", b"not an array")
    refuses(tmp_path / "c.npz", "other than an array")


@pytest.mark.parametrize(
    "name", ["gone.npy", "folder.npy", "a.csv", "noending", "x" * 300 + ".npy"]
)
def test_no_such_file(tmp_path, name):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "a.csv").write_text("1,2")
    refuses(tmp_path / name)


def test_a_header_that_promises_too_much_costs_nothing(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**4)}
    )
    (tmp_path / "a.npy").write_bytes(file.getvalue() + bytes(100))
    refuses(tmp_path / "a.npy", "can't be read")


def test_an_archive_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "MAX_ARCHIVE_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", latents=np.ones((100, 100)))
    refuses(tmp_path / "a.npz", "unpacks to more than")


def test_numbers_that_numpy_does_not_have(tmp_path):
    header = {"latents": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    refuses(tmp_path / "a.safetensors")


def npy_bytes():
    file = io.BytesIO()
    np.save(file, ROWS)
    return file.getvalue()


def npz_bytes():
    file = io.BytesIO()
    np.savez(file, latents=ROWS)
    return file.getvalue()


VALID = {".npy": npy_bytes(), ".npz": npz_bytes(), ".safetensors": save({"latents": ROWS})}


def read_or_refuse(path, content):
    path.write_bytes(content)
    try:
        read = latents.read_array(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert read.ndim == 2
        assert read.dtype == np.float32
        assert np.isfinite(read).all()


@pytest.mark.parametrize("suffix", VALID)
@reuse_folder
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path, suffix, content):
    read_or_refuse(tmp_path / f"any{suffix}", content)
    magic = {".npy": b"\x93NUMPY\x01\x00", ".npz": b"PK\x03\x04", ".safetensors": b""}[suffix]
    read_or_refuse(tmp_path / f"any{suffix}", magic + content)


@pytest.mark.parametrize("suffix", VALID)
@reuse_folder
@given(data=st.data())
def test_damaged_files(tmp_path, suffix, data):
    content = bytearray(VALID[suffix])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(
        tmp_path / f"damaged{suffix}", bytes(content[: data.draw(st.integers(0, len(content)))])
    )
    read_or_refuse(tmp_path / f"damaged{suffix}", bytes(content))


@reuse_folder
@given(header=st.text(st.characters(codec="latin-1"), max_size=120))
def test_any_npy_header(tmp_path, header):
    text = header.encode("latin-1")
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
    read_or_refuse(tmp_path / "header.npy", start + text + bytes(64))


# ---------------------------------------------------------------- names


def write_text(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text", ["a\nb c\nö", "a\nb c\nö\n\n", "\ufeffa\r\nb c\r\nö\r\n", " a \nb c\t\nö"]
)
def test_read_names(tmp_path, text):
    assert latents.read_names(write_text(tmp_path / "names.txt", text)) == ["a", "b c", "ö"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a\n\nb", "Line 2"), ("", "Line 1"), (b"\xff\xfe", "UTF-8"), ("a\nb\0", "Line 2")],
)
def test_names_that_cannot_be_read(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        latents.read_names(write_text(tmp_path / "names.txt", text))


def test_no_names_file(tmp_path):
    for path in (tmp_path / "gone.txt", tmp_path, tmp_path / ("x" * 300), "nul\0.txt"):
        with pytest.raises(InputError, match="can't be read"):
            latents.read_names(path)


@reuse_folder
@given(content=st.binary(max_size=60))
def test_any_bytes_as_names(tmp_path, content):
    path = write_text(tmp_path / "names.txt", content)
    try:
        names = latents.read_names(path)
    except InputError:
        return
    assert names
    assert all(names)


def open_with(tmp_path, names, pictures=None, n=None):
    n = len(names) if n is None else n
    array = write(tmp_path / "array.npy", np.eye(n, 4) + 1)
    path = write_text(tmp_path / "names.txt", "\n".join(names))
    return latents.open_latents(array, array, path, pictures)[1].candidates


@pytest.mark.parametrize(
    ("line", "candidate_id", "concept", "name"),
    [
        ("aircraft_carrier_06s", "aircraft_carrier_06s", "aircraft_carrier", "aircraft carrier"),
        ("00012_basket/basket_01b.jpg", "basket_01b", "basket", "basket"),
        ("00012_basket\\basket_01b.JPEG", "basket_01b", "basket", "basket"),
        ("00002_antelope", "00002_antelope", "antelope", "antelope"),
        ("t-shirt_15s", "t-shirt_15s", "t-shirt", "t-shirt"),
        ("chest2_02s", "chest2_02s", "chest2", "chest"),
        ("bat1", "bat1", "bat1", "bat"),
        ("hook2.png", "hook2", "hook2", "hook"),
        ("ice cream", "ice cream", "ice_cream", "ice cream"),
        ("crème brûlée", "crème brûlée", "crème_brûlée", "crème brûlée"),
        ("picture 12", "picture 12", "picture_12", "picture 12"),
        ("7", "7", "7", "7"),
        ("..", "..", "..", ".."),
        (".png", ".png", ".png", ".png"),
        ("/", "/", "/", "/"),
    ],
)
def test_names_become_readable(tmp_path, line, candidate_id, concept, name):
    found = open_with(tmp_path, [line])[0]
    assert (found.id, found.concept, found.name) == (candidate_id, concept, name)


def test_homonyms_stay_apart(tmp_path):
    found = open_with(tmp_path, ["bat1_01b", "bat2_01b", "hook2_01b", "nail_02s", "Nail1_02s"])
    assert [one.name for one in found] == ["bat1", "bat2", "hook", "nail", "Nail1"]


def test_several_pictures_of_a_concept(tmp_path):
    found = open_with(tmp_path, ["bat1_01b", "bat1_02s"])
    assert [(one.id, one.concept, one.name) for one in found] == [
        ("bat1_01b", "bat1", "bat"),
        ("bat1_02s", "bat1", "bat"),
    ]


def test_same_file_name_in_two_folders(tmp_path):
    assert [one.id for one in open_with(tmp_path, ["a/01.png", "b/01.png"])] == [
        "a/01.png",
        "b/01.png",
    ]


def test_a_name_that_stands_twice(tmp_path):
    with pytest.raises(InputError, match="lines 1 and 3"):
        open_with(tmp_path, ["ant", "bee", "ant"])


@reuse_folder
@given(lines=st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_any_names(tmp_path, lines):
    try:
        found = open_with(tmp_path, lines)
    except InputError:
        return
    assert len(found) == len(lines)
    assert all(one.id and one.concept and one.name for one in found)
    by_name = {}
    for one in found:
        assert by_name.setdefault(one.name, one.concept) == one.concept


# ---------------------------------------------------------------- pictures


def test_pictures_by_concept_or_by_picture(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "dog.webp").mkdir(parents=True)  # a folder is no picture
    for name in ("Basket.PNG", "basket.jpg", "ant.webp", "ant_02s.jpg", "bee.txt", "cat.jpeg"):
        (folder / name).touch()
    lines = ["basket_01b", "ant_02s", "ant_03s", "bee_01b", "cat", "dog", "../basket", "basket/.."]
    found = open_with(tmp_path, [line.replace("../basket", "../wok") for line in lines], folder)
    assert [one.picture for one in found] == [
        "Basket.PNG",
        "ant_02s.jpg",
        "ant.webp",
        None,
        "cat.jpeg",
        None,
        None,
        None,
    ]


def test_a_picture_outside_the_folder_is_not_reached(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "secret.png").touch()
    (folder / "linked.png").symlink_to(tmp_path / "secret.png")
    (folder / "here.png").touch()
    (folder / "same.png").symlink_to(folder / "here.png")
    found = open_with(tmp_path, ["../secret", "linked", "same"], folder)
    assert [one.picture for one in found] == [None, None, "same.png"]


def test_no_folder_of_pictures(tmp_path):
    with pytest.raises(InputError, match="isn't a folder"):
        open_with(tmp_path, ["a"], tmp_path / "gone")


# ---------------------------------------------------------------- together


def test_open_latents(tmp_path):
    eeg = write(tmp_path / "eeg.npy", ROWS)
    other = ROWS[::-1] * np.arange(1, 6)[:, None]
    pictures = write(tmp_path / "pictures.safetensors", other)
    embeddings, gallery = latents.open_latents(eeg, pictures, protocol="concept centre")
    np.testing.assert_array_equal(embeddings, ROWS)
    for row, unit in zip(other, gallery.embeddings, strict=True):
        np.testing.assert_allclose(unit, row / np.sqrt((row**2).sum()), rtol=1e-6)
    assert gallery.embeddings.dtype == np.float32
    assert gallery.protocol == "concept centre"
    assert [one.name for one in gallery.candidates][:2] == ["candidate 1", "candidate 2"]
    gallery.save(tmp_path / "gallery")
    assert Gallery.open(tmp_path / "gallery").candidates == gallery.candidates


@pytest.mark.parametrize("shape", [(4, 3), (5, 4), (3, 5)])
def test_sizes_that_differ(tmp_path, shape):
    eeg, pictures = write(tmp_path / "a.npy", ROWS), write(tmp_path / "b.npy", np.ones(shape))
    with pytest.raises(InputError) as caught:
        latents.open_latents(eeg, pictures)
    assert "(5, 3)" in str(caught.value)
    assert str(shape) in str(caught.value)


def test_names_of_another_number(tmp_path):
    with pytest.raises(InputError, match=r"2 names but .* 3 rows"):
        open_with(tmp_path, ["a", "b"], n=3)


@pytest.mark.parametrize("side", [0, 1])
def test_a_row_of_zeros(tmp_path, side):
    zeros = ROWS.copy()
    zeros[3] = 0
    paths = [write(tmp_path / "a.npy", ROWS), write(tmp_path / "b.npy", zeros)]
    with pytest.raises(InputError, match=r"Row 3 of .*b\.npy"):
        latents.open_latents(*(paths if side else reversed(paths)))


def test_the_test_pictures_of_things_eeg2(shared_data):
    folder = shared_data / "things_eeg2"
    embeddings, gallery = latents.open_latents(
        folder / "atm_s_sub08_test_latents.npy",
        folder / "openclip_vith14_test_image.npy",
        folder / "test_images.txt",
        shared_data / "cc0_photos",
    )
    assert embeddings.shape == gallery.embeddings.shape == (200, 1024)
    first = gallery.candidates[0]
    assert (first.id, first.concept, first.name, first.picture) == (
        "aircraft_carrier_06s",
        "aircraft_carrier",
        "aircraft carrier",
        "aircraft_carrier.webp",
    )
    assert len({one.concept for one in gallery.candidates}) == 200
    assert len({one.name for one in gallery.candidates}) == 200
    assert sum(one.picture is not None for one in gallery.candidates) == 32
    assert not any(one.name[-1].isdigit() for one in gallery.candidates)


def test_the_original_files_are_refused(shared_data):
    for path in sorted((shared_data / "things_eeg2" / "original").glob("*.pt")):
        refuses(path, "may hold code")


# ---------------------------------------------------------------- limits for visitors


SMALL = latents.Limits(file_bytes=2000, rows=20, columns=8, numbers=100, products=500)


def refuses_more(path, *words):
    with pytest.raises(InputError) as caught:
        latents.read_array(path, SMALL)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert "run python -m nice_demo.evaluate on your own machine" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((21, 2), "up to 20 rows of up to 8 numbers"),
        ((2, 9), "up to 20 rows of up to 8 numbers"),
        ((20, 6), "too long"),  # too many numbers
        ((10, 6), "too long"),  # too many products
        ((30, 30), "MB, and this page reads up to"),
    ],
)
def test_visitors_may_bring_so_much(tmp_path, suffix, shape, words):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = write(tmp_path / f"array{suffix}", array)
    refuses_more(path, words)
    np.testing.assert_array_equal(latents.read_array(path), array)  # at home there is no limit


def test_what_is_small_enough_is_read(tmp_path):
    path = write(tmp_path / "a.npy", ROWS)
    np.testing.assert_array_equal(latents.read_array(path, SMALL), ROWS)


def test_an_archive_bomb_isn_t_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("latents.npy", bytes(5_000_000))
    assert path.stat().st_size < 10_000
    most = latents.Limits(file_bytes=1_000_000)
    with pytest.raises(InputError, match="has 5 MB, and this page reads up to 1 MB"):
        latents.read_array(path, most)


@pytest.mark.parametrize("promised", [(10**12, 4), (4, 10**12), (2**62, 8)])
def test_a_header_that_promises_more_than_there_is(tmp_path, promised):
    header = {"descr": "<f4", "fortran_order": False, "shape": promised}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, header)
    content.write(bytes(64))
    (tmp_path / "a.npy").write_bytes(content.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("latents.npy", content.getvalue())
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match="can't be read"):
            latents.read_array(tmp_path / name, latents.Limits())


@reuse_folder
@given(content=st.binary(max_size=300), suffix=st.sampled_from([".npy", ".npz", ".safetensors"]))
def test_any_bytes_within_limits(tmp_path, content, suffix):
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError):
        latents.read_array(path, SMALL)
