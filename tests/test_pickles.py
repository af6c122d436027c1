"""Published pickles: what is admitted comes back as it was, anything else meets a sentence."""

import collections
import contextlib
import copyreg
import io
import os
import pickle
import struct
import tempfile
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentences import refuses

from nice_demo.errors import InputError
from nice_demo.sources.things_eeg2 import pickles
from nice_demo.sources.things_eeg2.pickles import read_pickle

PROTOCOLS = [2, 3, 4, 5]


def read(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        return read_pickle(path)


def same(one, other):
    if isinstance(one, np.ndarray | np.generic):
        assert isinstance(other, np.ndarray | np.generic)
        # Python's reader turns some arrays into this machine's byte order, some it leaves.
        native = one.dtype.newbyteorder("=")
        assert (native, one.shape) == (other.dtype.newbyteorder("="), other.shape)
        if one.dtype == object:
            for a, b in zip(one.ravel(), other.ravel(), strict=True):
                same(a, b)
        else:
            assert one.astype(native).tobytes() == other.astype(native).tobytes()
    elif isinstance(one, dict):
        assert type(other) is dict
        assert list(map(repr, one)) == list(map(repr, other))
        same(list(one.values()), list(other.values()))
    elif isinstance(one, list | tuple):
        assert type(one) is type(other)
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        assert type(one) is type(other)
        assert repr(one) == repr(other)


# ---------------------------------------------------------------- what is right

TYPES = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.unicode_string_dtypes(endianness="?", max_len=4)
)
ARRAYS = hnp.arrays(TYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
KEYS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary()
VALUES = st.recursive(
    PLAIN | st.complex_numbers() | ARRAYS | ARRAYS.map(np.transpose),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from(PROTOCOLS))
def test_what_was_pickled_comes_back(value, protocol):
    data = pickle.dumps(value, protocol)
    same(pickle.loads(data), read(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_and_objects(protocol):
    shared = [1, 2]
    value = {
        "scalars": [np.float64(1.5), np.int32(-3), np.bool_(True), np.str_("é"), np.float32("nan")],
        "objects": np.array([[None, {"a": [1]}], ["x", np.arange(3)]], object),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "dtype": np.dtype(">f4"),
        "shared": [shared, shared],
        "empty": np.zeros((0, 3)),
    }
    data = pickle.dumps(value, protocol)
    again = read(data)
    same(pickle.loads(data), again)
    assert again["shared"][0] is again["shared"][1]


def test_modules_are_named_as_before_numpy_2():
    for protocol in PROTOCOLS:
        data = pickle.dumps({"a": np.arange(4.0), "s": np.float32(2)}, protocol)
        old = data.replace(b"numpy._core.", b"numpy.core.")
        if protocol >= 4:  # the strings' lengths, and the frame's
            for name in (b"multiarray", b"numeric"):
                new, before = b"numpy._core." + name, b"numpy.core." + name
                old = old.replace(bytes([len(new)]) + before, bytes([len(before)]) + before)
        assert old != data
        same(pickle.loads(data), read(old))


def test_dict_saved_by_numpy(tmp_path):
    value = {"raw_eeg_data": np.arange(12.0).reshape(3, 4), "ch_names": ["O1", "O2", "stim"]}
    np.save(tmp_path / "dict.npy", value)
    same(
        np.load(tmp_path / "dict.npy", allow_pickle=True).item(), read_pickle(tmp_path / "dict.npy")
    )
    objects = np.array(["a", 1, None], object)
    np.save(tmp_path / "objects.npy", objects)
    same(objects, read_pickle(tmp_path / "objects.npy"))


@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_arrays_are_mapped(tmp_path, order):
    array = np.arange(24, dtype=">i4").reshape(2, 3, 4, order=order)
    np.save(tmp_path / "array.npy", array)
    again = read_pickle(tmp_path / "array.npy")
    same(array, again)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable


def mapped(array):
    return isinstance(array, np.memmap) and not array.flags.writeable


@pytest.mark.parametrize("layout", ["C", "F", "permuted"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_long_arrays_are_mapped(tmp_path, protocol, layout):
    array = np.random.default_rng(0).standard_normal((300, 4, 500)).astype("f8")
    if layout != "C":
        array = np.asfortranarray(array) if layout == "F" else array.transpose(1, 0, 2)
    assert array.nbytes > pickles._MAPPED_FROM
    value = {"eeg": array, "times": np.arange(3.0)}
    (tmp_path / "bare").write_bytes(pickle.dumps(value, protocol))
    again = read_pickle(tmp_path / "bare")
    same(value, again)
    assert mapped(again["eeg"])
    np.save(tmp_path / "dict.npy", value)
    again = read_pickle(tmp_path / "dict.npy")
    same(value, again)
    assert mapped(again["eeg"])
    torch.save(value, tmp_path / "zip.pt", pickle_protocol=protocol)
    again = read_pickle(tmp_path / "zip.pt")
    same(value, again)
    assert mapped(again["eeg"])


def test_long_lists_of_names_are_mapped(tmp_path):
    names = np.array(["a" * 60] * 30_000)
    (tmp_path / "bare").write_bytes(pickle.dumps(names, 5))
    again = read_pickle(tmp_path / "bare")
    assert mapped(again)
    assert again[-1] == "a" * 60


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "int32", "uint8"])
def test_tensors_come_as_arrays(tmp_path, dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    value = {"eeg": tensor, "part": tensor[1], "none": tensor[:0], "one": tensor[0, 0, 1]}
    torch.save(value, tmp_path / "tensors.pt")
    again = read_pickle(tmp_path / "tensors.pt")
    for name, part in value.items():
        same(part.numpy(), np.asarray(again[name]))
    assert mapped(again["eeg"])


def test_published_files(shared_data):
    folder = shared_data / "things_eeg2" / "original"
    for name in ("center_clip.npy", "clip_feature_maps_test.npy"):
        again = read_pickle(folder / name)
        assert isinstance(again, np.memmap)
        np.testing.assert_array_equal(again, np.load(folder / name))
    latents = read_pickle(folder / "ATM_S_eeg_features_sub-08_test.pt")
    known = np.load(shared_data / "things_eeg2" / "atm_s_sub08_test_latents.npy")
    np.testing.assert_array_equal(latents, known)
    features = read_pickle(folder / "ViT-H-14_features_test.pt")
    for kind, name in (("img", "image"), ("text", "text")):
        known = np.load(shared_data / "things_eeg2" / f"openclip_vith14_test_{name}.npy")
        np.testing.assert_array_equal(features[f"{kind}_features"], known)


# ---------------------------------------------------------------- what would do harm


class Asks:
    """Pickled, it calls a function where it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Matrix(np.ndarray):
    pass


class Slotted:
    __slots__ = ("x",)

    def __reduce__(self):
        return copyreg.__newobj__, (Slotted,), (None, {"x": 1})


MARKER = "marker"
TOUCH = f"touch {MARKER}"
CODE = f"open({MARKER!r}, 'w')"

HARM = {
    "system": (Asks(os.system, TOUCH), "system"),
    "eval": (Asks(eval, CODE), "builtins.eval"),
    "exec": (Asks(exec, CODE), "builtins.exec"),
    "open": (Asks(open, MARKER, "w"), "open"),
    "getattr": (Asks(getattr, Asks(__import__, "os"), "system"), "builtins.getattr"),
    "load": (Asks(np.load, MARKER), "numpy.load"),
    "fromfile": (Asks(np.fromfile, MARKER), "fromfile"),
    "memmap": (Asks(np.memmap, MARKER, "f4", "w+", 0, (3,)), "memmap"),
    "subclass": (np.zeros(3).view(Matrix), "Matrix"),
    "matrix": (Asks(np.matrix, "1 2"), "matrix"),
    "newobj": (Slotted(), "Slotted"),
    "fraction": (Fraction(1, 3), "fractions.Fraction"),
    "set": ({1, 2}, ""),
    "counter": (collections.Counter("a"), "collections.Counter"),
    "record": (np.zeros(2, [("a", "f4")]), ""),
    "date": (np.array(["2020-01-01"], "M8[D]"), ""),
    "path": (Path("a"), "pathlib"),
    "torch": (torch.zeros(2), ""),
    "in array": (np.array([Asks(os.system, TOUCH)], object), "system"),
    "in dict": ({"eeg": np.zeros(3), "x": Asks(os.system, TOUCH)}, "system"),
    "bytearray": (Asks(bytearray, 2**40), "builtins.bytearray"),
}


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """Go to an empty folder, in which nothing must be written."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / MARKER
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("harm", HARM)
def test_harm_is_refused_by_name(marker, harm, protocol):
    value, name = HARM[harm]
    refuses(lambda: read(pickle.dumps(value, protocol)), name)


@pytest.mark.parametrize("harm", sorted(set(HARM) - {"torch"}))
def test_harm_in_other_wrappings(marker, harm, tmp_path):
    value, name = HARM[harm]
    np.save(tmp_path / "file.npy", {"a": value, "b": value})
    refuses(lambda: read_pickle(tmp_path / "file.npy"), name)
    torch.save({"a": value}, tmp_path / "file.pt")
    refuses(lambda: read_pickle(tmp_path / "file.pt"), name)


def test_a_harmless_reader_would_have_run_it(marker):
    """The marker shows what it should: Python's own reader leaves it."""
    pickle.loads(pickle.dumps(Asks(os.system, TOUCH)))
    assert marker.exists()
    marker.unlink()


def text(string):
    return b"\x8c" + bytes([len(string)]) + string.encode()


def named(module, name):
    return text(module) + text(name) + b"\x93"


ND = named("numpy", "ndarray")
ARRAY = named("numpy._core.multiarray", "_reconstruct") + ND + b"K\x00\x85C\x01b\x87R"
DTYPE = named("numpy", "dtype")
F8 = (
    DTYPE
    + text("f8")
    + b"\x89\x88\x87R(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
OBJ = F8.replace(text("f8"), text("O8"))
FROM = named("numpy._core.numeric", "_frombuffer")


def array(shape, dtype, data):
    return ARRAY + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


BY_HAND = {
    "class of its own": (ARRAY.replace(ND, text("numpy.ndarray")) + b".", "class"),
    "ndarray called": (ND + b"K\x03\x85R.", "numpy.ndarray"),
    "name as value": (ND + b".", "Name"),
    "name in a list": (b"]" + ND + b"a.", "Name"),
    "name as a key": (b"}" + ND + b"K\x01s.", "key"),
    "array never built": (ARRAY + b".", "Unbuilt"),
    "array within itself": (ARRAY + b"\x94(K\x01K\x01\x85" + OBJ + b"\x89]h\x00atb.", ""),
    "state of a dict": (b"}}b.", "state of a dict"),
    "state of a name": (ND + b"}b.", "state"),
    "calls a string": (text("os.system") + b")R.", "calls"),
    "calls a function's result": (named("collections", "OrderedDict") + b")R)R.", "calls"),
    "EXT1": (b"\x82\x01.", "operation"),
    "EXT2": (b"\x83\x01\x00.", "operation"),
    "EXT4": (b"\x84\x01\x00\x00\x00.", "operation"),
    "persistent id": (b"Pabc\n.", "operation"),
    "binary persistent id": (b"K\x01Q.", "operation"),
    "INST": (b"(ios\nsystem\n.", "operation"),
    "OBJ": (b"(" + ND + b"o.", "operation"),
    "NEWOBJ": (ND + b")\x81.", "operation"),
    "buffer out of band": (b"\x97.", "operation"),
    "global with a strange name": (named("os\n", "sys\ttem") + b".", r"os\nsys"[:3]),
    "dotted name": (named("numpy", "core.multiarray.fromfile") + b".", "fromfile"),
    "module that hides": (named("numpy.core.numpy._core", "x") + b".", "x"),
    "numbers as names": (b"K\x01K\x02\x93.", ""),
    "pointers as objects": (array(b"K\x01\x85", OBJ, b"C\x08" + b"A" * 8), "objects"),
    "pointers as a buffer": (
        FROM + b"(C\x08AAAAAAAA" + OBJ + b"K\x01\x85" + text("C") + b"tR.",
        "dtype('O')",
    ),
    "object scalar": (
        named("numpy._core.multiarray", "scalar") + OBJ + b"C\x08AAAAAAAA\x86R.",
        "dtype('O')",
    ),
    "shape beyond the bytes": (array(b"K\x09\x85", F8, b"C\x08AAAAAAAA") + b".", "shape"),
    "negative shape": (array(b"J\xff\xff\xff\xff\x85", F8, b"C\x00") + b".", "shape"),
    "shape is no tuple": (array(b"K\x01", F8, b"C\x08AAAAAAAA") + b".", "shape"),
    "dtype with fields": (F8.replace(b"NNN", b"N}N") + b".", "fields"),
    "dtype by grammar": (F8.replace(text("f8"), text("(9,9)f8")) + b".", "dtype"),
    "dtype is no dtype": (array(b"K\x01\x85", text("f8"), b"C\x08AAAAAAAA") + b".", "array"),
    "bytes in a codec": (named("_codecs", "encode") + text("a") + text("zip") + b"\x86R.", "zip"),
    "items of a tuple": (b")(K\x01e.", "list"),
    "attribute of a list": (b"](K\x01K\x02u.", "dict"),
    "odd items": (b"}(K\x01u.", "dict"),
    "key that isn't hashable": (b"}]K\x01s.", "key"),
    "key deep enough to crash": (b"})" + b"\x85" * 200_000 + b"K\x01s.", "key"),
    "nothing on the stack": (b"0.", "operation"),
    "only a stop": (b".", "one object"),
    "an open mark": (b"(N.", "one object"),
    "no mark": (b"Nt.", ""),
    "two objects": (b"NN.", "one object"),
    "nothing remembered": (b"h\x07.", ""),
    "no Unicode": (
        array(b"K\x01\x85", F8.replace(text("f8"), text("U1")), b"C\x04\xff\xff\xff\x7f") + b".",
        "Unicode",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_HAND)
def test_pickles_written_by_hand(marker, case):
    data, word = BY_HAND[case]
    refuses(lambda: read(b"\x80\x04" + data), word)


def test_registered_extensions_are_refused(marker):
    copyreg.add_extension("posix", "system", 0xE7)
    try:
        data = pickle.dumps(Asks(os.system, TOUCH), 4)
        assert b"\x82\xe7" in data
        refuses(lambda: read(data), "operation")
    finally:
        copyreg.remove_extension("posix", "system", 0xE7)


# ---------------------------------------------------------------- what would never end


def bomb(levels, width=10):
    value = ["x"]
    for _ in range(levels):
        value = [value] * width
    return value


def nested(depth):
    return b"\x80\x04)" + b"\x85" * depth + b"."


def test_sharing_that_unfolds_to_billions():
    refuses(lambda: read(pickle.dumps(bomb(30))), "unfolds")
    assert len(read(pickle.dumps(bomb(3)))) == 10


def test_depth():
    refuses(lambda: read(nested(50_000)), "deep")
    refuses(lambda: read(b"\x80\x04" + b"]" * 1000 + b"a" * 999 + b"."), "deep")
    refuses(lambda: read(b"\x80\x04" + b"(" * 20_000 + b"."), "one object")
    assert read(nested(50))


@pytest.mark.parametrize("value", [[], {}])
def test_containers_that_hold_themselves(value):
    value.append(value) if isinstance(value, list) else value.update(me=value)
    refuses(lambda: read(pickle.dumps(value)), "itself")


@pytest.mark.parametrize(
    "data",
    [
        b"X\xff\xff\xff\xff",
        b"\x8d" + b"\xff" * 8,
        b"\x8d" + struct.pack("<Q", 2**40),
        b"\x8e" + b"\xff" * 8,
        b"\x96" + struct.pack("<Q", 2**62),
        b"B\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\xff",
        b"c" + b"a" * 5000,
    ],
)
def test_lengths_beyond_the_file(data):
    refuses(lambda: read(b"\x80\x04N" + data + b"."), "file")


def test_numbers_that_reserve_nothing():
    """A frame's length and a place in the memo are only numbers here."""
    assert read(b"\x80\x04N\x95" + b"\xff" * 8 + b".") is None
    assert read(b"\x80\x04Nr\xff\xff\xff\xff.") is None


def test_too_many_steps(monkeypatch):
    monkeypatch.setattr(pickles, "_MOST_STEPS", 1000)
    refuses(lambda: read(b"\x80\x04" + b"]" * 2000 + b"."), "steps")
    # The same list in array after array costs a step for each of its items.
    items = b"](" + b"N" * 200 + b"e\x94"
    objects = array(b"K\xc8\x85", OBJ, b"h\x00")
    assert len(read(b"\x80\x04" + items + objects + b"\x86.")[1]) == 200
    many = b"\x80\x04(" + items + objects * 10 + b"t."
    refuses(lambda: read(many), "steps")


def test_too_much_in_memory(monkeypatch):
    monkeypatch.setattr(pickles, "_MOST_HELD", 10_000)
    refuses(lambda: read(pickle.dumps(["a" * 6000, "b" * 6000])), "MB")
    refuses(lambda: read(pickle.dumps(np.zeros(9000, "u1"), 2)), "MB")
    # The same bytes as scalar after scalar are copied each time.
    kind = F8.replace(text("f8"), text("S200")) + b"\x94"
    scalar = named("numpy._core.multiarray", "scalar") + b"h\x00C\xc8" + b"a" * 200 + b"\x86R"
    refuses(lambda: read(b"\x80\x04(" + kind + scalar * 40 + b"t."), "MB")


def test_numbers_that_collide():
    refuses(lambda: read(pickle.dumps({k * (2**61 - 1): 0 for k in range(100)})), "key")


# ---------------------------------------------------------------- what is damaged

SAMPLE = {
    "eeg": np.arange(24.0).reshape(2, 3, 4),
    "names": ["O1", "Oz"],
    "times": np.float64(0.1),
    "img": np.array(["a/b.jpg", "c"]),
    "objects": np.array([1, None], object),
    "n": (1, 2.5, b"x", 10**30, True),
}


def npy(value):
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def zipped(value, protocol):
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol)
    return file.getvalue()


WHOLE = [
    *(pickle.dumps(SAMPLE, protocol) for protocol in PROTOCOLS),
    npy(SAMPLE),
    npy(SAMPLE["eeg"]),
    npy(SAMPLE["img"]),
    zipped(SAMPLE, 2),
    zipped({"eeg": SAMPLE["eeg"], "t": torch.arange(4.0)}, 5),
]


def touch_everything(value):
    """Read every byte that a caller could read."""
    repr(value)
    if isinstance(value, np.ndarray):
        value.tolist()
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            touch_everything(part)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_flipped_bytes_give_data_or_a_sentence(data, flips):
    data = bytearray(data)
    for place, value in flips:
        data[place % len(data)] = value
    try:
        touch_everything(read(data))
    except InputError as error:
        assert "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(WHOLE), st.floats(0, 1, exclude_max=True))
def test_truncation_gives_a_sentence(data, kept):
    with pytest.raises(InputError, match="can't be read"):
        read(data[: int(kept * len(data))])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(data):
    for start in (b"", b"\x80\x04", b"\x93NUMPY\x01\x00", b"PK\x03\x04"):
        with contextlib.suppress(InputError):
            touch_everything(read(start + data))


def test_missing_and_folder(tmp_path):
    refuses(lambda: read_pickle(tmp_path / "none.npy"), "none.npy", "missing")
    refuses(lambda: read_pickle(tmp_path), "can't be read")


def test_html_page_instead_of_a_file():
    refuses(lambda: read(b"<!DOCTYPE html><html><body>Not found</body></html>"), "can't be read")


def test_long_array_cut_short(tmp_path):
    data = pickle.dumps({"eeg": np.zeros(10**6)}, 4)
    refuses(lambda: read(data[:-1000]), "ends early")
    refuses(lambda: read(npy(np.zeros(100))[:-1]), "ends early")


def rezipped(data, compression=zipfile.ZIP_STORED, **changes):
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name in source.namelist():
            part = changes.get(name.rsplit("/", 1)[-1].replace(".", "_"), source.read(name))
            archive.writestr(name, part)
    return target.getvalue()


def test_zips_that_torch_would_not_write():
    data = zipped({"t": torch.arange(4.0)}, 2)
    same(np.arange(4, dtype="f4"), np.asarray(read(rezipped(data))["t"]))
    refuses(lambda: read(rezipped(data, zipfile.ZIP_DEFLATED)), "compressed")
    refuses(lambda: read(rezipped(data, byteorder=b"big")), "big-endian")
    two = io.BytesIO()
    with zipfile.ZipFile(two, "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"{name}/data.pkl", pickle.dumps(1))
    refuses(lambda: read(two.getvalue()), "2 files data.pkl")
    tensor = torch.arange(6.0).reshape(2, 3)
    refuses(lambda: read(zipped(tensor.T, 2)), "contiguous")
    refuses(lambda: read(zipped(tensor.bfloat16(), 2)), "torch.BFloat16Storage")
    refuses(lambda: read(zipped(torch.nn.Linear(2, 2), 2)), "torch.nn.modules.linear.Linear")
    pickled = zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl")
    beyond = pickled.replace(b"K\x04\x85", b"K\x09\x85")
    assert beyond != pickled
    refuses(lambda: read(rezipped(data, data_pkl=beyond)), "beyond")
