"""Training rows: the same however they are read, ahead of the step, and in bounded memory."""

import json
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nice_demo.eegset import META, DataSet, TrainingSet, _finite, memory_map, new_array
from nice_demo.errors import InputError
from nice_demo.settings import Settings
from nice_demo.training import train_encoder
from nice_demo.training_data import AHEAD, TrainingData, other_subjects

CPU = torch.device("cpu")


def stored(folder, shape, dtype=np.float16, seed=0):
    """Write random trials into a new folder and open them."""
    folder.mkdir()
    with new_array(folder / "train.safetensors", shape, dtype) as array:
        array[:] = np.random.default_rng(seed).standard_normal(shape)
    return TrainingSet(folder, {}, memory_map(folder / "train.safetensors"))


def literal_rows(sets, single):
    """Return every row as an array, one after the other."""
    rows = []
    for eeg in sets:
        for condition in np.array(eeg.train):
            if single:
                rows += [trial.astype(np.float32) for trial in condition]
            else:
                total = np.zeros(condition.shape[1:], np.float32)
                for trial in condition:
                    total += trial.astype(np.float32)
                rows.append(total / np.float32(len(condition)))
    return rows


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("reading ahead")]


# ---------------------------------------------------------------- the same rows


@settings(max_examples=60)
@given(st.data())
def test_batches_are_the_rows(draw):
    """One subject or a pool, trials or averages, halves or singles, any batches."""
    single = draw.draw(st.booleans(), "single trials")
    sizes = st.tuples(st.integers(1, 7), st.integers(1, 5), st.sampled_from([np.float16, "f4"]))
    with tempfile.TemporaryDirectory() as place:
        pool = [
            stored(Path(place) / str(i), (conditions, repetitions, 3, 5), dtype, i)
            for i, (conditions, repetitions, dtype) in enumerate(
                draw.draw(st.lists(sizes, min_size=1, max_size=4), "subjects")
            )
        ]
        wanted = literal_rows(pool, single)
        batches = draw.draw(
            st.lists(st.lists(st.integers(0, len(wanted) - 1), max_size=9), max_size=8), "batches"
        )
        data = TrainingData(pool if len(pool) > 1 else pool[0], single, CPU)
        assert len(data) == len(wanted)
        found = data.batches([np.array(batch, int) for batch in batches])
        for batch, eeg in zip(batches, found, strict=True):
            assert eeg.dtype == torch.float32
            assert eeg.shape == (len(batch), 3, 5)
            assert torch.equal(eeg, data.rows(np.array(batch, int)))
            for row, trial in zip(batch, eeg, strict=True):
                np.testing.assert_array_equal(trial, wanted[row])


@pytest.mark.parametrize("repetitions", [1, 4])
def test_real_sizes_to_the_bit(tmp_path, repetitions):
    eeg = stored(tmp_path / "sub-01", (20, repetitions, 63, 250))
    data = TrainingData(eeg, False, CPU)
    wanted = eeg.train[[2, 11, 19]].mean(1, dtype=np.float32)
    np.testing.assert_array_equal(data.rows(np.array([2, 11, 19])), wanted)


def test_part_of_a_map_and_arrays_in_memory(tmp_path):
    whole = stored(tmp_path / "sub-01", (9, 2, 4, 6))
    for part in (whole.train[3:], whole.train[:, :, [0, 2]], np.array(whole.train)):
        some = TrainingSet(whole.folder, {}, part)
        for single in (False, True):
            data = TrainingData(some, single, CPU)
            wanted = literal_rows([some], single)
            np.testing.assert_array_equal(data.rows(np.arange(len(data))), wanted)


def test_training_is_the_same_to_the_bit(stored_data, monkeypatch):
    """As if every batch were read when it is needed, into memory of its own."""
    data = DataSet.open(stored_data)
    concepts = [candidate.concept for candidate in data.train_gallery.candidates]
    pool = [*other_subjects(data, 1), *other_subjects(data, 2)]
    given = Settings(epochs=2, batch=17)

    def train():
        return train_encoder(pool, data.train_gallery.embeddings, concepts, given, 1, CPU)

    ahead = train()
    wanted = literal_rows(pool, False)

    def literally(self, rows):
        return (torch.from_numpy(np.stack([wanted[row] for row in batch])) for batch in rows)

    monkeypatch.setattr(TrainingData, "batches", literally)
    literal = train()
    assert ahead.history == literal.history
    for key, value in literal.final.state_dict().items():
        assert torch.equal(value, ahead.final.state_dict()[key])


# ---------------------------------------------------------------- reading ahead


@pytest.fixture
def data(tmp_path):
    return TrainingData(stored(tmp_path / "sub-01", (40, 1, 3, 5)), False, CPU)


FIVES = np.split(np.arange(40), 8)


def test_next_batches_are_read_while_one_is_used(data, monkeypatch):
    begun, used = [threading.Event() for _ in FIVES], threading.Event()
    first, read = data.rows(FIVES[0]), data._read

    def waits(rows, eeg):
        number = rows[0] // 5
        begun[number].set()
        if number > 0:
            assert used.wait(60)  # reads on only after the first batch was handed out
        return read(rows, eeg)

    monkeypatch.setattr(data, "_read", waits)
    stream = data.batches(FIVES)
    assert torch.equal(next(stream), first)
    used.set()
    assert begun[AHEAD].wait(60)  # nobody has asked for it
    assert not begun[AHEAD + 1].is_set()  # nor is more memory taken than for these
    assert len(list(stream)) == 7
    assert readers() == []


def test_reading_ends_with_the_iterator(data, monkeypatch):
    asked, read = [], data._read
    monkeypatch.setattr(data, "_read", lambda rows, eeg: asked.append(rows[0]) or read(rows, eeg))
    stream = data.batches(FIVES)
    next(stream)
    stream.close()
    assert readers() == []
    assert set(asked) <= {0, 5, 10}

    def fails():
        for _ in data.batches(FIVES):
            raise RuntimeError("a step went wrong")

    with pytest.raises(RuntimeError, match="went wrong") as caught:
        fails()
    del caught
    assert readers() == []
    assert list(data.batches([])) == []


def test_a_file_cut_short_is_said(tmp_path):
    eeg = stored(tmp_path / "sub-01", (40, 1, 3, 5))
    data, path = TrainingData(eeg, False, CPU), eeg.folder / "train.safetensors"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 15 * 2 * 8)  # the last eight conditions
    stream = data.batches(FIVES)
    for rows in FIVES[:6]:
        assert torch.equal(next(stream), data.rows(rows))
    with pytest.raises(InputError, match=r"train\.safetensors can't be read .*cut short"):
        next(stream)
    assert readers() == []


def test_a_batch_that_is_kept_too_long_is_noticed(data):
    """Its memory is used again; going back through a step that needed it is refused."""
    weight = torch.ones(3, 5, requires_grad=True)
    stream = data.batches(FIVES)
    batch = next(stream)
    (weight * batch).sum().backward()  # in time
    assert torch.equal(weight.grad, batch.sum(0))
    late = (weight * next(stream)).sum()
    places = {batch.data_ptr() for batch in stream}
    assert len(places) <= AHEAD + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


def test_validation_reads_ahead_too(data):
    """Under inference mode, which the reading thread isn't in."""
    with torch.inference_mode():
        for rows, eeg in zip(FIVES, data.batches(FIVES), strict=True):
            assert torch.equal(eeg, data.rows(rows))


# ---------------------------------------------------------------- opening


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_finite(dtype):
    """Every number of half precision, and what is in its place in single precision."""
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(dtype)
    np.testing.assert_array_equal(_finite(numbers), np.isfinite(numbers))


# ---------------------------------------------------------------- memory


def mapped():
    """Return the file pages that this process has resident, MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) / 1000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_pages_do_not_stay_resident(tmp_path):
    """300 MB of zeros, a hole in the file: opened, checked and read in less than 60 MB."""
    shape = 9600, 1, 63, 250
    header = {"eeg": {"dtype": "F16", "shape": shape, "data_offsets": [0, 2 * int(np.prod(shape))]}}
    text = json.dumps(header).encode()
    with open(tmp_path / "train.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2 * int(np.prod(shape)))
    meta = {"channels": ["?"] * 63, "sfreq": 250.0, "tmin": 0.0, "unit": "µV"}
    (tmp_path / META).write_text(json.dumps(meta | {"test_repetitions": None}))
    before = mapped()
    eeg = TrainingSet.open(tmp_path)
    assert mapped() - before < 60
    data = TrainingData(eeg, False, CPU)
    rows = np.random.default_rng(0).permutation(len(data)).reshape(-1, 200)
    most = max(mapped() for _ in data.batches(list(rows)))
    assert most - before < 60
    assert np.array(eeg.train[:, :, 0]).sum() == 0  # touches them all
    assert mapped() - before > 250  # else it isn't pages that are measured
