"""EEG sets: what is written is read, anything else meets a sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from sentences import refuses
from tiny import STORED_CHANNELS, flat_montage

from nice_demo.eegset import DataSet, EEGSet, memory_map
from nice_demo.errors import InputError

META = {
    "subject": 1,
    "channels": STORED_CHANNELS,
    "sfreq": 100.0,
    "tmin": 0.0,
    "unit": "whitened",
    "test_repetitions": None,
}


@pytest.fixture
def folder(stored_data, tmp_path):
    return Path(shutil.copytree(stored_data, tmp_path / "data"))


def edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "remove"}))


def arrays(dtype=np.float32, test_repetitions=7):
    rng = np.random.default_rng(0)
    train = rng.standard_normal((5, 3, 4, 80)).astype(dtype)
    return train, rng.standard_normal((6, test_repetitions, 4, 80)).astype(dtype)


# ---------------------------------------------------------------- what is right


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_write_and_open(tmp_path, dtype):
    train, test = arrays(dtype)
    EEGSet.write(tmp_path / "sub-01", train, test, META)
    eeg = EEGSet.open(tmp_path / "sub-01")
    assert eeg.train.dtype == dtype
    np.testing.assert_array_equal(eeg.train, train)
    np.testing.assert_array_equal(eeg.test, test)
    assert isinstance(eeg.train, np.memmap)
    assert not eeg.train.flags.writeable
    assert eeg.meta == META
    assert eeg.channels == STORED_CHANNELS
    assert eeg.sfreq == 100
    names = {path.name for path in (tmp_path / "sub-01").iterdir()}
    assert names == {"train.safetensors", "test.safetensors", "meta.json"}


def test_evoked_of_single_trials(tmp_path):
    train, test = arrays()
    EEGSet.write(tmp_path, train, test, META)
    eeg = EEGSet.open(tmp_path)
    assert eeg.test_repetitions == [1, 2, 5, 7]
    for count in eeg.test_repetitions:
        mean = sum(test[:, i].astype(float) for i in range(count)) / count
        np.testing.assert_allclose(eeg.evoked(count), mean, atol=1e-6)
    refuses(lambda: eeg.evoked(3), "3", "1, 2, 5, 7")


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, [1]), (5, [1, 2, 5]), (80, [1, 2, 5, 10, 20, 40, 80])]
)
def test_repetitions_that_are_offered(tmp_path, count, wanted):
    EEGSet.write(tmp_path, *arrays(np.float16, count), META)
    assert EEGSet.open(tmp_path).test_repetitions == wanted


def test_evoked_of_stored_averages(tmp_path):
    train, test = arrays(np.float16, 3)
    EEGSet.write(tmp_path, train, test, META | {"test_repetitions": [1, 5, 80]})
    eeg = EEGSet.open(tmp_path)
    assert eeg.test_repetitions == [1, 5, 80]
    np.testing.assert_array_equal(eeg.evoked(5), test[:, 1].astype(np.float32))
    refuses(lambda: eeg.evoked(2), "2", "1, 5, 80")


def test_data_set(folder):
    data = DataSet.open(folder)
    assert data.subjects == [1, 2]
    assert len(data.train_gallery) == len(data.subject(1).train) == 60
    assert len(data.test_gallery) == len(data.subject(2).test) == 6
    assert data.montage.names == STORED_CHANNELS
    (folder / "sub-07").mkdir()  # interrupted: meta.json comes last
    (folder / "sub-old").mkdir()
    (folder / "sub-old" / "meta.json").write_text("{}")
    assert data.subjects == [1, 2]


# ---------------------------------------------------------------- what is wrong


def test_no_data_folder(tmp_path):
    refuses(lambda: DataSet.open(tmp_path / "none"), tmp_path / "none", "prepare")


@pytest.mark.parametrize("name", ["name", "source", "simulated", "preparation", "licences"])
def test_description_that_lacks(folder, name):
    edit(folder / "dataset.json", **{name: "remove"})
    refuses(lambda: DataSet.open(folder), name)


def test_unknown_subject(folder):
    refuses(lambda: DataSet.open(folder).subject(3), "Subject 3", "1, 2")


@pytest.mark.parametrize(
    "name", ["dataset.json", "test_gallery.json", "test_gallery.safetensors", "train_gallery.json",
             "montage.safetensors", "sub-01/train.safetensors", "sub-01/test.safetensors"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_damaged_files(folder, name, damage):
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello"}[damage])
    refuses(lambda: DataSet.open(folder).subject(1), path.stem)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(folder, split, bad):
    eeg = EEGSet.open(folder / "sub-01")
    array = np.array(getattr(eeg, split))
    array[4, 1, 2, 3] = bad
    save_file({"eeg": array}, folder / "sub-01" / f"{split}.safetensors")
    refuses(lambda: EEGSet.open(folder / "sub-01"), f"{split}.safetensors", "NaN", "condition 4")


def test_not_finite_far_down(tmp_path):
    train = np.zeros((1300, 1, 4, 5), np.float16)
    train[1111, 0, 3, 4] = np.nan
    EEGSet.write(tmp_path, train, np.zeros((2, 1, 4, 5), np.float16), META)
    refuses(lambda: EEGSet.open(tmp_path), "condition 1111")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((60, 3, 5, 80), ["5 channels", "names 4"]),
        ((60, 3, 3, 80), ["3 channels", "names 4"]),
        ((60, 0, 4, 80), ["(60, 0, 4, 80)"]),
        ((0, 3, 4, 80), ["(0, 3, 4, 80)"]),
        ((60, 3, 4, 0), ["(60, 3, 4, 0)"]),
        ((60, 4, 80), ["(60, 4, 80)"]),
        ((60, 3, 4, 81), ["81", "80"]),
        ((59, 3, 4, 80), ["59", "60"]),
    ],
)
def test_wrong_shape(folder, shape, words):
    save_file({"eeg": np.zeros(shape, np.float32)}, folder / "sub-01" / "train.safetensors")
    refuses(lambda: DataSet.open(folder).subject(1), *words)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8])
def test_wrong_type(folder, dtype):
    save_file({"eeg": np.zeros((60, 3, 4, 80), dtype)}, folder / "sub-01" / "train.safetensors")
    refuses(lambda: EEGSet.open(folder / "sub-01"), "train.safetensors")


def test_other_name(folder):
    save_file({"meg": np.zeros((60, 3, 4, 80), np.float32)}, folder / "sub-01/train.safetensors")
    refuses(lambda: EEGSet.open(folder / "sub-01"), "train.safetensors", "eeg")


@pytest.mark.parametrize(
    "change",
    [
        {"sfreq": 0},
        {"sfreq": -250},
        {"sfreq": "250"},
        {"sfreq": None},
        {"sfreq": float("nan")},
        {"sfreq": float("inf")},
        {"sfreq": True},
        {"channels": 4},
        {"channels": None},
        {"channels": "abcd"},
        {"channels": [1, 2, 3, 4]},
        {"test_repetitions": 4},
        {"test_repetitions": [1, 2]},
        {"test_repetitions": ["1", "2", "5", "10"]},
        {"test_repetitions": [1, 5, 2, 10]},
        {"test_repetitions": [0, 1, 2, 5]},
        {"channels": "remove"},
        {"sfreq": "remove"},
        {"unit": "remove"},
    ],
    ids=str,
)
def test_wrong_meta(folder, change):
    edit(folder / "sub-01" / "meta.json", **change)
    refuses(lambda: EEGSet.open(folder / "sub-01"), "meta.json")


def test_subject_unlike_the_data_set(folder):
    edit(folder / "sub-01" / "meta.json", sfreq=250)
    refuses(lambda: DataSet.open(folder).subject(1), "250", "100")
    edit(folder / "sub-02" / "meta.json", channels=STORED_CHANNELS[::-1])
    refuses(lambda: DataSet.open(folder).subject(2), "channels")
    flat_montage(["Oz", "O1", "O2"]).save(folder / "montage.safetensors")
    edit(folder / "sub-01" / "meta.json", sfreq=100)
    refuses(lambda: DataSet.open(folder).subject(1), "channels")


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b'{"eeg": 3}',
        b'{"eeg": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"eeg": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"eeg": {"dtype": "F32", "shape": [1], "data_offsets": [-90, -86]}}',
        b'{"eeg": {"dtype": "F32", "shape": [1099511627776, 16777216], "data_offsets": [0, 0]}}',
        b'{"eeg": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        b'{"eeg": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}',
        b'{"eeg": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"eeg": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_hostile_header(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    refuses(lambda: memory_map(path), path)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage(tmp_path, data):
    folder = tmp_path / "sub-01"
    EEGSet.write(folder, np.ones((2, 2, 4, 3), np.float32), np.ones((1, 2, 4, 3), np.float16), META)
    path = folder / data.draw(st.sampled_from(["meta.json", "train.safetensors"]))
    whole = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "random", "flip"]))
    if kind == "cut":
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    elif kind == "random":
        path.write_bytes(data.draw(st.binary(max_size=300)))
    else:
        whole[data.draw(st.integers(0, min(200, len(whole) - 1)))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(whole)
    try:
        eeg = EEGSet.open(folder)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert kind == "flip"
        eeg.evoked(eeg.test_repetitions[0])
