"""EEG that others have preprocessed: what arrives is what their files hold."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from sentences import refuses
from sklearn.utils import shuffle

from benchmarks import conversion
from nice_demo.eegset import EEGSet
from nice_demo.montage import CHANNELS
from nice_demo.sources.things_eeg2 import ready

CONDITIONS, REPETITIONS = (12, 5), (4, 8)
# As the data set's own files have them.
CHANNELS_17 = "Pz P3 P7 O1 Oz O2 P4 P8 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2".split()
EPOCH = np.arange(300) / 250 - 0.2  # s


def random_eeg(channels=63, times=250, dtype=np.float64):
    rng = np.random.default_rng(0)
    shapes = [(n, k, channels, times) for n, k in zip(CONDITIONS, REPETITIONS, strict=True)]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def write_nice(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"preprocessed_eeg_{split}.npy" for split in ("training", "test")]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(pickle.dumps(content, 4))
    return paths


def nice_contents(**changes):
    return [
        {"preprocessed_eeg_data": eeg, "ch_names": CHANNELS, "times": EPOCH} | changes
        for eeg in random_eeg()
    ]


def write_hf(folder, shuffled=False, first=CHANNELS):
    paths = [folder / "train.pt", folder / "test.pt"]
    for path, eeg in zip(paths, random_eeg(dtype=np.float16), strict=True):
        pictures = [f"images/{i:05d}.jpg" for i in range(len(eeg))]
        if shuffled:
            pictures[1], pictures[2] = pictures[2], pictures[1]
        content = {
            "eeg": eeg,
            "img": np.tile(np.array(pictures)[:, None], (1, eeg.shape[1])),
            "label": np.tile(np.arange(len(eeg))[:, None], (1, eeg.shape[1])),
            "ch_names": first,
            "times": EPOCH,
        }
        torch.save(content, path, pickle_protocol=5)
    return paths


def write_osf17(path, names=CHANNELS_17, tmin=-0.2, damage=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, eeg in zip(("training", "test"), random_eeg(17, 100), strict=True):
            content = {
                "preprocessed_eeg_data": eeg,
                "ch_names": names,
                "times": np.round(tmin + np.arange(100) / 100, 3),
            }
            with archive.open(f"sub-01/preprocessed_eeg_{split}.npy", "w") as file:
                np.save(file, content)
    return [path]


def convert(files, place, origin, subject=1, **options):
    ready.convert(files, place, subject, origin, CONDITIONS, REPETITIONS, **options)
    assert sorted(p.name for p in place.iterdir()) == [
        "meta.json",
        "test.safetensors",
        "train.safetensors",
    ]
    assert {p.name for p in place.parent.iterdir() if p.name.startswith((".", "tmp"))} == set()
    return EEGSet.open(place)


# ---------------------------------------------------------------- what is right


@pytest.mark.parametrize("chunk", [1, 3e6, 1e12])
def test_nice(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(ready, "_CHUNK", chunk)
    files = write_nice(tmp_path / "sub-01", nice_contents())
    eeg = convert(files, tmp_path / "data" / "sub-01", "nice")
    for split, known in zip(("train", "test"), random_eeg(), strict=True):
        np.testing.assert_array_equal(getattr(eeg, split), known.astype(np.float16))
    assert (eeg.channels, eeg.sfreq, eeg.meta["tmin"]) == (CHANNELS, 250.0, 0.0)
    assert eeg.meta["unit"] == "whitened"
    assert eeg.meta["test_repetitions"] is None
    assert "training" in eeg.meta["whitening"]
    assert "test" not in eeg.meta["whitening"]
    assert [file["name"] for file in eeg.meta["source_files"]] == [path.name for path in files]
    assert [file["bytes"] for file in eeg.meta["source_files"]] == [
        path.stat().st_size for path in files
    ]


def test_channels_in_another_order(tmp_path):
    """One file has them backwards: each is put into the paper's order by its own names."""
    contents = nice_contents()
    contents[1]["ch_names"] = CHANNELS[::-1]
    contents[1]["preprocessed_eeg_data"] = contents[1]["preprocessed_eeg_data"][:, :, ::-1]
    eeg = convert(write_nice(tmp_path, contents), tmp_path / "data" / "sub-01", "nice")
    for split, known in zip(("train", "test"), random_eeg(), strict=True):
        np.testing.assert_array_equal(getattr(eeg, split), known.astype(np.float16))
    train, test = eeg.meta["source_files"]
    assert "channels_reordered_from" not in train
    assert test["channels_reordered_from"] == CHANNELS[::-1]


@pytest.mark.parametrize("times", [EPOCH, EPOCH[50:], EPOCH.astype("f4"), EPOCH.round(3)])
def test_times_of_the_whole_epoch_or_of_what_was_kept(tmp_path, times):
    files = write_nice(tmp_path, nice_contents(times=times))
    assert convert(files, tmp_path / "data" / "sub-01", "nice").meta["tmin"] == 0


def test_hf_has_the_repetitions_of_nice(tmp_path):
    """Its repetitions stand session after session; NICE shuffles them with sklearn."""
    eeg = convert(write_hf(tmp_path), tmp_path / "data" / "sub-01", "hf")
    for split, known in zip(("train", "test"), random_eeg(dtype=np.float16), strict=True):
        order = shuffle(np.arange(known.shape[1]), random_state=20200220)
        np.testing.assert_array_equal(getattr(eeg, split), known[:, order])
    assert eeg.meta["seed"] == 20200220


def test_osf17(tmp_path):
    files = write_osf17(tmp_path / "sub-01.zip")
    eeg = convert(files, tmp_path / "data" / "sub-01", "osf17")
    order = [CHANNELS_17.index(name) for name in CHANNELS[-17:]]
    for split, known in zip(("train", "test"), random_eeg(17, 100), strict=True):
        np.testing.assert_array_equal(getattr(eeg, split), known[:, :, order].astype(np.float16))
    assert (eeg.channels, eeg.sfreq, eeg.meta["tmin"]) == (CHANNELS[-17:], 100.0, -0.2)
    assert "test trials" in eeg.meta["whitening"]
    assert eeg.meta["source_files"][0]["channels_reordered_from"] == CHANNELS_17


def test_osf17_unzipped(tmp_path):
    with zipfile.ZipFile(*write_osf17(tmp_path / "sub-01.zip")) as archive:
        archive.extractall(tmp_path)
    files = [tmp_path / f"sub-01/preprocessed_eeg_{split}.npy" for split in ("training", "test")]
    convert(files, tmp_path / "data" / "sub-01", "osf17")


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ch_names": [*CHANNELS[:-1], "Fz"]}, ["lacks channel O2"]),
        ({"ch_names": [*CHANNELS, "Fz"]}, ["unknown channel 'Fz'"]),
        ({"ch_names": [*CHANNELS, "O1"]}, ["twice channel O1"]),
        ({"ch_names": [name.upper() for name in CHANNELS]}, ["Fp1", "POz"]),
        ({"ch_names": 63}, ["channel names"]),
        ({"ch_names": [1, 2]}, ["channel names"]),
        ({"times": np.arange(300) / 200 - 0.2}, ["200 Hz", "250 Hz"]),
        ({"times": np.arange(250) / 250 - 0.2}, ["from -0.2 s", "from 0 s"]),
        ({"times": np.full(300, np.nan)}, ["nan Hz"]),
        ({"times": np.arange(100) / 250}, ["(100,)"]),
        ({"times": ["a"] * 300}, ["times"]),
        ({"preprocessed_eeg_data": np.zeros((12, 4, 63, 249))}, ["(12, 4, 63, 249)", "250)"]),
        ({"preprocessed_eeg_data": np.zeros((12, 4, 63, 250), int)}, ["floats"]),
        ({"preprocessed_eeg_data": [[1.0]]}, ["floats"]),
        ({"preprocessed_eeg_data": 1e-5 * random_eeg()[0]}, ["1e-05", "whitened"]),
        ({"preprocessed_eeg_data": np.zeros((12, 4, 63, 250))}, ["whitened"]),
    ],
)
def test_contents_that_do_not_fit(tmp_path, changes, words):
    contents = nice_contents()
    contents[0] |= changes
    check_refused(tmp_path, write_nice(tmp_path / "in", contents), "nice", "training.npy", *words)


def check_refused(tmp_path, files, origin, *words, subject=1):
    place = tmp_path / "data" / "sub-01"
    refuses(lambda: ready.convert(files, place, subject, origin, CONDITIONS, REPETITIONS), *words)
    assert not list(tmp_path.glob("data/**/*.*"))


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize(
    ("value", "word"),
    [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity"), (1e5, "1e+05"), (1e300, "1e+3")],
)
def test_values_that_do_not_fit(tmp_path, monkeypatch, split, value, word):
    monkeypatch.setattr(ready, "_CHUNK", 1e6)
    contents = nice_contents()
    contents[split]["preprocessed_eeg_data"][3, 1, 5, 7] = value
    files = write_nice(tmp_path / "in", contents)
    where = f"{('training', 'test')[split]} condition 4 of {CONDITIONS[split]}"
    check_refused(tmp_path, files, "nice", word, where, files[split].name)


def test_other_files(tmp_path):
    files = write_nice(tmp_path / "sub-02", nice_contents())
    check_refused(tmp_path, files, "nice", "subject 2, not 1")
    check_refused(tmp_path, files[::-1], "nice", "the training file", subject=2)
    check_refused(tmp_path, files, "hf", "lacks eeg", "'ch_names'", subject=2)
    check_refused(tmp_path, files, "ours", "'ours'", "nice, hf, osf17", subject=2)
    check_refused(tmp_path, [files[0], tmp_path / "none"], "nice", "missing", subject=2)
    files[0].write_bytes(pickle.dumps([1, 2], 4))
    check_refused(tmp_path, files, "nice", "list", subject=2)
    files[0].write_bytes(files[1].read_bytes()[:-2000])
    check_refused(tmp_path, files, "nice", "ends early", subject=2)


def test_pictures_in_another_order(tmp_path):
    check_refused(tmp_path, write_hf(tmp_path, shuffled=True), "hf", "another order")


def test_zips_that_do_not_fit(tmp_path):
    files = write_osf17(tmp_path / "sub-01.zip", tmin=0.0)
    check_refused(tmp_path, files, "osf17", "from 0 s", "from -0.2 s")
    files = write_osf17(tmp_path / "sub-01.zip", names=CHANNELS[-18:-1])
    check_refused(tmp_path, files, "osf17", "lacks channel O2")
    whole = write_osf17(tmp_path / "sub-01.zip")[0].read_bytes()
    renamed = tmp_path / "sub-03.zip"
    renamed.write_bytes(whole)
    check_refused(tmp_path, [renamed], "osf17", "subject 1, not 3", subject=3)
    files[0].write_bytes(whole[:-500])
    check_refused(tmp_path, files, "osf17", "can't be unzipped")
    damaged = bytearray(whole)
    damaged[2000] ^= 255
    files[0].write_bytes(damaged)
    check_refused(tmp_path, files, "osf17", "can't be unzipped")
    with zipfile.ZipFile(files[0], "w") as archive:
        archive.writestr("sub-01/readme.txt", "")
    check_refused(tmp_path, files, "osf17", "0 files preprocessed_eeg_training.npy")
    check_refused(tmp_path, [tmp_path / "sub-01x.zip"], "osf17", "missing")


def test_full_disk(tmp_path, monkeypatch):
    def full(part, out):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ready, "_write", full)
    files = write_nice(tmp_path / "in", nice_contents())
    check_refused(tmp_path, files, "nice", "No space left on device", "make room")


def test_what_was_there_stays_until_the_new_is_complete(tmp_path):
    place = tmp_path / "data" / "sub-01"
    convert(write_nice(tmp_path, nice_contents()), place, "nice")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    contents = nice_contents()
    contents[1]["preprocessed_eeg_data"][4, 7, 62, 249] = np.nan
    files = write_nice(tmp_path, contents)
    refuses(lambda: ready.convert(files, place, 1, "nice", CONDITIONS, REPETITIONS), "NaN")
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


# ---------------------------------------------------------------- the benchmark


def test_benchmark_writes_what_python_writes(tmp_path):
    """Its file, written piece by piece, is what pickling the whole gives."""
    shape = (3, 4, 63, 250)
    conversion.write_published(tmp_path / "file.npy", shape, np.random.default_rng(0))
    eeg = np.random.default_rng(0).standard_normal(shape)
    known = {"preprocessed_eeg_data": eeg, "ch_names": CHANNELS, "times": EPOCH}
    written = (tmp_path / "file.npy").read_bytes()
    again = pickle.loads(written)
    np.testing.assert_array_equal(again["preprocessed_eeg_data"], eeg)
    assert len(written) - len(pickle.dumps(known, 4)) == 4  # a longer length before the EEG
    assert json.dumps(again["ch_names"]) == json.dumps(CHANNELS)
