"""Raw recordings → EEG set: against plain loops, scikit-learn and SciPy, and what is refused."""

import contextlib
import os
import shutil
import signal
import threading

import mne
import numpy as np
import psutil
import pytest
from fake_things import (
    AMPLIFIER,
    TARGET,
    raw_subject_zip,
    recordings,
    save_object,
    write_sessions,
    zip_folder,
)
from scipy.linalg import fractional_matrix_power
from sentences import refuses
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler

from nice_demo.eegset import EEGSet, new_array
from nice_demo.errors import command
from nice_demo.montage import CHANNELS
from nice_demo.sources.things_eeg2 import pickles, raw

N_TRAIN, N_TEST = 12, 3
SHOWN = 2, 4  # in a session
SIZE = {"conditions": (N_TRAIN, N_TEST), "repetitions": (2, 3)}  # one test repetition too many
SEED = 20200220


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((N_TRAIN, 8)), rng.standard_normal((N_TEST, 8))
    return recordings(*embeddings, repetitions=SHOWN, seed=3)


@pytest.fixture(scope="module")
def sessions(recorded, tmp_path_factory):
    """Return the extracted folder; not to be changed."""
    return write_sessions(tmp_path_factory.mktemp("raw") / "sub-01", recorded)


def convert(sessions, place, subject=1, **options):
    raw.convert(sessions, place, subject, **SIZE | options)
    return EEGSet.open(place)


# ---------------------------------------------------------------- the oracle


def shuffled(items, count=None):
    """Shuffle as scikit-learn does, without it."""
    order = np.arange(len(items))
    np.random.RandomState(SEED).shuffle(order)
    return [items[i] for i in order[:count]]


def slow_epochs(recording, repetitions):
    """Return condition → its epochs at 250 Hz, by index and one after the other."""
    names, data = recording["ch_names"], recording["raw_eeg_data"]
    rows = [names.index(name) for name in CHANNELS]
    found = {}
    for sample, value in enumerate(data[names.index("stim")]):
        if value in (0, TARGET) or sample < 200 or sample + 1000 >= data.shape[1]:
            continue
        epoch = data[rows, sample - 200 : sample + 1001]
        epoch = epoch - epoch[:, :201].mean(1, keepdims=True)
        found.setdefault(int(value), []).append(epoch)
    return {
        value: [resampled(epoch)[:, 50:] for epoch in shuffled(found[value], repetitions)]
        for value in sorted(found)
    }


def resampled(epoch):
    """Resample (63, 1201) to (63, 300) by MNE's function for arrays."""
    return mne.filter.resample(epoch, down=4, npad="auto", pad="edge", verbose="error")


def slow_covariance(epochs):
    covariances = []
    for trials in epochs.values():
        of_condition = []
        for trial in trials:
            scaler = StandardScaler()
            shrunk = ledoit_wolf(scaler.fit_transform(trial.T))[0]
            of_condition.append(scaler.scale_[:, None] * shrunk * scaler.scale_[None])
        covariances.append(np.mean(of_condition, axis=0))
    return np.mean(covariances, axis=0)


@pytest.fixture(scope="module")
def slowly_cut(recorded):
    return {
        (session, part): slow_epochs(recording, 2 if part == "training" else 3)
        for (session, part), recording in recorded.items()
    }


def slow(slowly_cut, whiten):
    """Preprocess as published: arrays (conditions, repetitions, channels, times), float64."""
    merged = {"training": {}, "test": {}}
    for session in (1, 2, 3, 4):
        parts = {part: slowly_cut[session, part] for part in merged}
        training = np.concatenate([np.stack(trials) for trials in parts["training"].values()])
        sigma = slow_covariance(parts["training"])
        if whiten == "both":
            sigma = (sigma + slow_covariance(parts["test"])) / 2
        for part, epochs in parts.items():
            for value, trials in epochs.items():
                for trial in trials:
                    if whiten in ("training", "both"):
                        trial = (trial.T @ fractional_matrix_power(sigma, -0.5)).T
                    if whiten == "zscore":
                        mean, sd = training.mean((0, 2)), training.std((0, 2))
                        trial = (trial - mean[:, None]) / sd[:, None]
                    merged[part].setdefault(value, []).append(trial)
    return (
        np.array([shuffled(merged[part][value]) for value in sorted(merged[part])])
        for part in merged
    )


@pytest.mark.parametrize("whiten", ["training", "both", "none", "zscore"])
def test_as_published(slowly_cut, sessions, tmp_path, monkeypatch, whiten):
    # Without float16's rounding, which the next test is about.
    monkeypatch.setattr(raw, "new_array", lambda path, shape: new_array(path, shape, np.float32))
    eeg = convert(sessions, tmp_path, whiten=whiten)
    unit = 1e6 if whiten == "none" else 1
    for ours, oracle in zip((eeg.train, eeg.test), slow(slowly_cut, whiten), strict=True):
        oracle *= unit
        assert ours.shape == oracle.shape
        np.testing.assert_allclose(ours, oracle, rtol=0, atol=1e-6 * abs(oracle).max())


def test_what_is_written(slowly_cut, sessions, tmp_path):
    eeg = convert(sessions, tmp_path / "whitened")
    train, test = slow(slowly_cut, "training")
    assert eeg.train.shape == (N_TRAIN, 4, 63, 250)
    assert eeg.test.shape == (N_TEST, 12, 63, 250)
    assert eeg.train.dtype == eeg.test.dtype == np.float16
    np.testing.assert_allclose(eeg.train, train, rtol=2**-11, atol=1e-6)
    np.testing.assert_allclose(eeg.test, test, rtol=2**-11, atol=1e-6)
    assert eeg.channels == CHANNELS
    assert eeg.test_repetitions == [1, 2, 5, 10, 12]
    wanted = {
        "subject": 1, "sfreq": 250, "tmin": 0, "unit": "whitened", "test_repetitions": None,
        "sessions": 4, "epochs_lost_at_edges": 0, "seed": SEED,
    }  # fmt: skip
    assert wanted.items() <= eeg.meta.items()
    assert "training trials" in eeg.meta["whitening"]

    plain = convert(sessions, tmp_path / "plain", whiten="none")
    assert plain.meta["unit"] == "µV"
    assert plain.meta["whitening"] == "none"
    np.testing.assert_allclose(
        plain.train, 1e6 * np.array(next(slow(slowly_cut, "none"))), rtol=2**-11, atol=1e-3
    )


def test_zip_and_folders_alike(sessions, tmp_path):
    """The zip, the folder it unpacks to, and that folder in a folder of the same name."""
    place = tmp_path / "zipped"
    whole = convert(zip_folder(sessions, tmp_path / "sub-01.zip"), place)
    assert sorted(file.name for file in place.iterdir()) == [
        "meta.json", "test.safetensors", "train.safetensors",
    ]  # fmt: skip
    (tmp_path / "sub-01").mkdir()
    shutil.copytree(sessions, tmp_path / "sub-01" / "sub-01", copy_function=shutil.os.link)
    for name, folder in (("one", sessions), ("two", tmp_path / "sub-01")):
        eeg = convert(folder, tmp_path / name)
        np.testing.assert_array_equal(eeg.train, whole.train)
        np.testing.assert_array_equal(eeg.test, whole.test)
        assert eeg.meta == whole.meta


def test_chunks_make_no_difference(sessions):
    path = sessions / "ses-02" / "raw_eeg_test.npy"
    whole = raw.read_part(path, N_TEST, 3)
    for chunk in (1, 2, 5):
        part = raw.read_part(path, N_TEST, 3, chunk)
        np.testing.assert_allclose(part.trials, whole.trials, rtol=1e-6, atol=1e-13)
        np.testing.assert_allclose(part.covariance, whole.covariance, rtol=1e-9, atol=1e-24)
        np.testing.assert_array_equal(part.rows, whole.rows)


def test_resampling_is_that_of_epochs():
    rng = np.random.default_rng(1)
    epochs = np.cumsum(rng.standard_normal((2, 3, 1201)), 2)  # 1/f², and steps at the edges
    info = mne.create_info(3, 1000.0, "eeg", verbose="error")
    oracle = mne.EpochsArray(epochs, info, verbose="error").resample(250, verbose="error")
    np.testing.assert_allclose(
        epochs @ raw._resampling(), oracle.get_data()[..., 50:], rtol=0, atol=1e-11
    )


def test_decodable(tmp_path):
    """A ridge regression from the fakes' EEG to embeddings finds test pictures."""
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((2, 40, 8))
    test = test[:10]
    path = raw_subject_zip(tmp_path, 2, train, test, repetitions=(2, 2))
    eeg = convert(path, tmp_path / "out", 2, conditions=(40, 10), repetitions=(2, 2))
    evoked = [split[..., 20:100].mean(1, dtype=float) for split in (eeg.train, eeg.test)]
    evoked = [part.reshape(len(part), 63, 16, 5).mean(3).reshape(len(part), -1) for part in evoked]
    known, new = (part - evoked[0].mean(0) for part in evoked)
    kernel = known @ known.T
    ridge = np.linalg.solve(kernel + np.trace(kernel) / 40 * np.eye(40), train - train.mean(0))
    decoded = new @ known.T @ ridge
    unit = (test - train.mean(0)) / np.linalg.norm(test - train.mean(0), axis=1, keepdims=True)
    right = ((decoded @ unit.T).argmax(1) == np.arange(10)).sum()
    assert right >= 5  # chance: 1 of 10; 5 or more by chance: p < .002


def test_channels_in_another_order(recorded, sessions, tmp_path):
    """Channels go by their names; further ones are left alone."""
    path = tmp_path / "raw_eeg_test.npy"
    content = recorded[1, "test"]
    order = np.random.default_rng(2).permutation(64)
    save_object(
        path,
        content
        | {
            "raw_eeg_data": np.concatenate(
                [content["raw_eeg_data"][order], np.full((1, content["raw_eeg_data"].shape[1]), 9)]
            ),
            "ch_names": [content["ch_names"][i] for i in order] + ["EOG"],
        },
    )
    ours = raw.read_part(path, N_TEST, 3)
    usual = raw.read_part(sessions / "ses-01" / "raw_eeg_test.npy", N_TEST, 3)
    np.testing.assert_array_equal(ours.trials, usual.trials)
    assert AMPLIFIER != CHANNELS


# ---------------------------------------------------------------- what is refused


def refused(sessions, place, *words, **options):
    """Expect a sentence and nothing half-written; return the sentence."""
    message = refuses(lambda: convert(sessions, place, **options), *words)
    assert not any(file.is_file() for file in place.rglob("*"))
    return message


def changed(sessions, tmp_path, session, part, content):
    """Copy the sessions, with another content of one file."""
    copy = shutil.copytree(sessions, tmp_path / "changed" / "sub-01", copy_function=shutil.os.link)
    path = copy / f"ses-{session:02d}" / f"raw_eeg_{part}.npy"
    path.unlink()
    if content is not None:
        save_object(path, content)
    return copy


def with_stim(recording, edit):
    """Return the recording with its stim channel edited in place by a function."""
    data = recording["raw_eeg_data"].copy()
    edit(data[-1])
    return recording | {"raw_eeg_data": data}


def replace_event(old, new, count=None):
    def edit(stim):
        where = np.flatnonzero(stim == old)[:count]
        stim[where] = new

    return edit


def with_nan(recording):
    data = recording["raw_eeg_data"].copy()
    data[AMPLIFIER.index("Oz"), 1234] = np.nan
    return recording | {"raw_eeg_data": data}


def flat(recording):
    data = recording["raw_eeg_data"].copy()
    data[AMPLIFIER.index("PO7")] = 2e-6
    return recording | {"raw_eeg_data": data}


def renamed(recording, old, new):
    return recording | {"ch_names": [new if n == old else n for n in recording["ch_names"]]}


def early(recording):
    """Cut the recording 100 ms before its first event, whatever that is, but keep catch trials."""
    stim = recording["raw_eeg_data"][-1]
    first = np.flatnonzero((stim > 0) & (stim != TARGET))[0]
    return recording | {"raw_eeg_data": recording["raw_eeg_data"][:, first - 100 :]}


# Training conditions 1 and 7 (0 and 6 from 0) are in sessions 1 and 2, 2 and 8 in sessions 3 and 4.
CHANGES = {
    "missing file": (1, "test", lambda r: None, ["ses-01/raw_eeg_test.npy", "0 times"]),
    "another rate": (1, "test", lambda r: r | {"sfreq": 500}, ["500 Hz", "1000 Hz"]),
    "no stim": (1, "training", lambda r: renamed(r, "stim", "STI"), ["no channel stim"]),
    "renamed": (1, "training", lambda r: renamed(r, "Oz", "OZ"), ["no channel Oz"]),
    "twice": (1, "training", lambda r: renamed(r, "Oz", "O1"), ["O1", "Oz"]),
    "missing channel": (
        1, "training",
        lambda r: r | {"raw_eeg_data": r["raw_eeg_data"][1:], "ch_names": r["ch_names"][1:]},
        [AMPLIFIER[0]],
    ),
    "rows": (1, "training", lambda r: r | {"raw_eeg_data": r["raw_eeg_data"][1:]}, ["a row"]),
    "no data": (1, "training", lambda r: {k: r[k] for k in ("ch_names", "sfreq")},
                ["raw_eeg_data"]),
    "a list": (1, "training", lambda r: [r["ch_names"]], ["lacks"]),
    "beyond": (1, "training", lambda r: with_stim(r, replace_event(1, N_TRAIN + 1)),
               [f"event {N_TRAIN + 1}", f"{N_TRAIN} pictures"]),
    "fraction": (1, "test", lambda r: with_stim(r, replace_event(1, 0.5)), ["stim channel"]),
    "negative": (1, "test", lambda r: with_stim(r, replace_event(1, -1)), ["stim channel"]),
    "NaN event": (1, "test", lambda r: with_stim(r, replace_event(1, np.nan)), ["stim channel"]),
    "neighbours": (1, "test", lambda r: with_stim(r, lambda s: s.__setitem__(slice(1, 4), 1)
                   or s.__setitem__(slice(2, 3), 2)), ["can't be told apart"]),
    "too few": (2, "training", lambda r: with_stim(r, replace_event(1, 0, 1)),
                ["1 whole epochs of condition 1", "2 are needed"]),
    "too few tests": (4, "test", lambda r: with_stim(r, replace_event(3, 0, 2)),
                      ["2 whole epochs of condition 3", "3 are needed"]),
    "in one session": (2, "training", lambda r: with_stim(r, replace_event(1, 0)),
                       ["Training condition 1 occurs in 1 sessions"]),
    "in three sessions": (3, "training", lambda r: with_stim(r, replace_event(2, 1)),
                          ["training condition 1, as 2 sessions before", "ses-03"]),
    "no such test": (3, "test", lambda r: with_stim(r, replace_event(2, 0)),
                     ["no whole epoch of test condition 2"]),
    "no events": (1, "training", lambda r: with_stim(r, lambda s: s.fill(0)), ["no events"]),
    "NaN": (1, "training", with_nan, ["NaN", "channel Oz", "1.234 s"]),
    "flat": (1, "training", flat, ["PO7", "flat", "ses-01"]),
    "cut at its start": (1, "training", early, ["1 whole epochs", "1 epochs are cut off"]),
    "cut at its end": (4, "training",
                       lambda r: r | {"raw_eeg_data": r["raw_eeg_data"][:, :-600]},
                       ["1 whole epochs", "are cut off"]),
}  # fmt: skip


@pytest.mark.parametrize(("session", "part", "change", "words"), CHANGES.values(), ids=CHANGES)
def test_another_recording(recorded, sessions, tmp_path, session, part, change, words):
    copy = changed(sessions, tmp_path, session, part, change(recorded[session, part]))
    refused(copy, tmp_path / "out", copy, *words)


def test_a_recording_at_the_edge_of_what_is_kept(recorded, sessions, tmp_path):
    """Epochs that are cut off count as lost, where enough are left."""

    def cut(stim):
        stim[-150] = 1  # one more epoch of condition 1, not whole

    content = with_stim(recorded[2, "test"], cut)
    copy = changed(sessions, tmp_path, 2, "test", content)
    eeg = convert(copy, tmp_path / "out")
    assert eeg.meta["epochs_lost_at_edges"] == 1
    np.testing.assert_array_equal(eeg.test, convert(sessions, tmp_path / "usual").test)


def test_damaged_zips(sessions, tmp_path):
    out = tmp_path / "out"
    path = zip_folder(sessions, tmp_path / "sub-01.zip")
    whole = path.read_bytes()
    refused(path, out, path, "subject 1, not of subject 2", "sub-02.zip", subject=2)
    path.write_bytes(whole[:-1000])
    refused(path, out, path, "isn't a whole zip", "anew")
    # A member whose bytes aren't those of its checksum.
    start = whole.index(b"ses-03/raw_eeg_training.npy") + 10_000
    path.write_bytes(whole[:start] + bytes(100) + whole[start + 100 :])
    refused(path, out, path, "ses-03/raw_eeg_training.npy", "can't be unpacked", "CRC")
    path.write_text("<html>Not here</html>")
    refused(path, out, path, "isn't a whole zip")
    path.unlink()
    refused(path, out, path, "missing")
    copy = shutil.copytree(sessions, tmp_path / "sub-01")
    shutil.rmtree(copy / "ses-04")
    refused(zip_folder(copy, path), out, path, "ses-04/raw_eeg_training.npy 0 times")
    assert "other subject" not in refused(copy, out, copy, "ses-04")
    # What a file says is wrong with the name that a user knows, not with the temporary one.
    (copy / "ses-04").mkdir()
    for part in ("training", "test"):
        save_object(copy / "ses-04" / f"raw_eeg_{part}.npy", {})
    message = refused(zip_folder(copy, path), out, f"{path}/sub-01/ses-04/raw_eeg_training.npy")
    assert ".part" not in message


def test_folder_of_another_subject(sessions, tmp_path):
    refused(sessions, tmp_path / "out", "subject 1, not of subject 3", subject=3)
    refused(tmp_path / "nowhere", tmp_path / "out", "nowhere", "missing")


def test_unknown_whitening(sessions, tmp_path):
    refused(sessions, tmp_path, "'most'", "training, both, none, zscore", whiten="most")


def test_a_pickle_that_asks_for_more(sessions, tmp_path):
    copy = changed(sessions, tmp_path, 1, "training", None)
    save_object(copy / "ses-01" / "raw_eeg_training.npy", {"raw_eeg_data": shutil.rmtree})
    refused(copy, tmp_path / "out", "shutil.rmtree")


def test_fakes_are_pickles_of_old(sessions):
    """The fakes are what NumPy reads, with the names of modules that NumPy 1 wrote."""
    path = sessions / "ses-01" / "raw_eeg_test.npy"
    usual = np.load(path, allow_pickle=True)
    assert usual.shape == ()
    content = usual.item()
    assert content["sfreq"] == 1000
    assert content["ch_names"][-1] == "stim"
    assert content["raw_eeg_data"].dtype == np.float64
    stim = content["raw_eeg_data"][-1]
    onsets = np.flatnonzero(stim)
    assert set(stim[onsets]) == {1, 2, 3, TARGET}
    assert (stim[onsets] == 2).sum() == SHOWN[1]
    assert np.diff(onsets).min() == 200
    np.testing.assert_array_equal(
        pickles.read_pickle(path)["raw_eeg_data"], content["raw_eeg_data"]
    )
    start = path.read_bytes()[:400]
    assert b"numpy.core.multiarray" in start
    assert b"numpy._core" not in start


# ---------------------------------------------------------------- several sessions at once


def readers():
    """Return the processes that read sessions and are still there."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            lines.append(" ".join(process.cmdline()))
    return [line for line in lines if "LokyProcess" in line]


def test_several_at_once_write_the_same_bytes(sessions, tmp_path):
    path = zip_folder(sessions, tmp_path / "sub-01.zip")
    written = []
    for jobs in (1, 2):
        place = tmp_path / f"{jobs}"
        convert(path, place, whiten="both", jobs=jobs)
        written.append({file.name: file.read_bytes() for file in place.iterdir()})
    assert sorted(written[0]) == ["meta.json", "test.safetensors", "train.safetensors"]
    assert written[0] == written[1]


def test_a_damaged_session_ends_them_all(recorded, sessions, tmp_path, capfd):
    copy = changed(sessions, tmp_path, 3, "training", with_nan(recorded[3, "training"]))
    path = zip_folder(copy, tmp_path / "sub-01.zip")
    place = tmp_path / "out"
    main = command(lambda argv: raw.convert(path, place, 1, **SIZE, jobs=2))
    assert main([]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {path}/sub-01/ses-03/raw_eeg_training.npy holds NaN")
    assert "channel Oz at 1.234 s" in said and said.count("\n") == 1
    assert not list(place.iterdir()) and not readers()


def test_stopped(sessions, tmp_path, monkeypatch, capfd):
    """Ctrl-C while sessions are read: nothing is left, no process either."""
    pid = os.getpid()

    def stop_while_others_read(*task):
        if task[1] == 2:
            os.kill(pid, signal.SIGINT)
        threading.Event().wait()  # for ever

    monkeypatch.setattr(raw, "read_session", stop_while_others_read)
    main = command(lambda argv: raw.convert(sessions, tmp_path / "out", 1, **SIZE, jobs=2))
    assert main([]) == 130
    assert capfd.readouterr().err == "stopped\n"
    assert not list((tmp_path / "out").iterdir()) and not readers()


def test_a_process_that_the_system_ended(sessions, tmp_path, monkeypatch):
    """As it does where memory runs out."""
    monkeypatch.setattr(raw, "read_session", lambda *_, **__: os._exit(9))
    refused(sessions, tmp_path / "out", sessions, "memory ran out", "fewer --jobs", jobs=2)
    assert not list((tmp_path / "out").iterdir()) and not readers()


def test_as_many_at_once_as_fit(monkeypatch):
    def slow(jobs, memory):
        """Begin one session after the other while it may be."""
        begun, taken = 0, raw.OWN_MEMORY
        while begun < min(jobs, 4) and round(taken + raw.SESSION_MEMORY, 6) <= memory:
            begun, taken = begun + 1, taken + raw.SESSION_MEMORY
        return begun

    one = raw.OWN_MEMORY + raw.SESSION_MEMORY
    limits = [one + step * raw.SESSION_MEMORY for step in range(5)]
    for memory in [*limits, *np.linspace(one, 20, 50), 1000, np.inf]:
        for jobs in (1, 2, 3, 4, 5, 100):
            assert raw.sessions_at_once(jobs, memory) == slow(jobs, memory)
            monkeypatch.setattr(raw, "cpu_count", lambda jobs=jobs: jobs)
            assert raw.sessions_at_once(-1, memory) == slow(jobs, memory)
            monkeypatch.setattr(raw, "available_memory", lambda memory=memory: memory / raw.SHARE)
            assert raw.sessions_at_once(jobs) == slow(jobs, memory * (1 + 1e-12))
    for memory in (one - 0.01, raw.OWN_MEMORY, 0, -1, np.nan):
        refuses(lambda: raw.sessions_at_once(2, memory), f"{memory:g} GB", f"{one:.1f} GB")  # noqa: B023
    monkeypatch.setattr(raw, "available_memory", lambda: 1.0)
    refuses(lambda: raw.sessions_at_once(), "available", "--memory", "--from hf")
    for jobs in (0, -2):
        refuses(lambda: raw.sessions_at_once(jobs, 8), f"{jobs} sessions")  # noqa: B023


def test_available_memory():
    assert 0.1 < raw.available_memory() <= psutil.virtual_memory().total / 1e9
