"""Recordings of every format are read as MNE reads them."""

import warnings

import mne
import numpy as np
import pytest
from recording_files import (
    CHANNELS,
    EVENTS,
    KINDS,
    ONSETS,
    SFREQ,
    read_here,
    set_file,
    small_epochs,
    small_raw,
    small_volts,
    write,
    zipped,
)

from nice_demo.errors import InputError
from nice_demo.sources.recordings.files import open_recording
from nice_demo.sources.recordings.limits import Limits

CONTINUOUS = [kind for kind in KINDS if "epochs" not in kind]
BY_MNE = [kind for kind in KINDS if kind not in ("npz", "safetensors")]


@pytest.fixture(scope="module")
def muse(shared_data):
    """Return real EEG: epochs (40, 4, 231), V, their names, the channels and the rate."""
    with np.load(shared_data / "muse_n170" / "epochs.npz") as file:
        names = ["house" if label == 1 else "face" for label in file["y"][:40]]
        return file["X"][:40] * 1e-6, names, file["channels"].tolist(), float(file["fs"])


def by_mne(path):
    """Return MNE's own reading: EEG in V, channels, rate, onsets (s), events."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match path.suffix:
            case ".edf":
                data = mne.io.read_raw_edf(path, preload=True, verbose="error")
            case ".bdf":
                data = mne.io.read_raw_bdf(path, preload=True, verbose="error")
            case ".vhdr":
                data = mne.io.read_raw_brainvision(path, preload=True, verbose="error")
            case ".set" if "-epo" in path.name or _trials(path) > 1:
                data = mne.read_epochs_eeglab(path, verbose="error")
            case ".set":
                data = mne.io.read_raw_eeglab(path, preload=True, verbose="error")
            case _ if "-epo" in path.name:
                data = mne.read_epochs(path, verbose="error")
            case _:
                data = mne.io.read_raw_fif(path, preload=True, verbose="error")
    if isinstance(data, mne.BaseEpochs):
        names = {value: name for name, value in data.event_id.items()}
        events = [names[value] for value in data.events[:, 2]]
        onsets = np.empty(0)
    else:
        found, ids = mne.events_from_annotations(data, verbose="error")
        names = {value: name for name, value in ids.items()}
        events = [names[value] for value in found[:, 2]]
        onsets = (found[:, 0] - data.first_samp) / data.info["sfreq"]
    return data.get_data(verbose="error"), data.ch_names, data.info["sfreq"], onsets, events


def _trials(path):
    import pymatreader

    content = pymatreader.read_mat(path)
    return content.get("EEG", content)["trials"]


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def assert_as_mne(recording, path):
    volts, channels, sfreq, onsets, events = by_mne(path)
    assert recording.volts.dtype == np.float32
    assert_close(recording.volts, volts)
    assert recording.channels == channels
    assert recording.sfreq == sfreq
    np.testing.assert_allclose(recording.onsets, onsets, atol=1e-6)
    assert recording.events == events


@pytest.mark.parametrize("kind", BY_MNE)
def test_reads_as_mne_does(kind, tmp_path):
    paths = write(kind, tmp_path)
    recording = read_here(paths, tmp_path / "private")
    assert_as_mne(recording, paths[0])
    assert recording.name == paths[0].name
    assert recording.epoched == ("epochs" in kind)
    assert recording.channels == CHANNELS
    assert not recording.notes


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_what_was_written_comes_back(kind, tmp_path):
    recording = read_here(write(kind, tmp_path), tmp_path / "private")
    volts = small_volts()[:, : recording.volts.shape[1]]
    assert recording.sfreq == SFREQ
    # EDF has 16 bits for each channel's range.
    coarse = {"edf": 2**-15}.get(kind, 1e-6)
    assert np.abs(recording.volts - volts).max() <= coarse * np.abs(volts).max()
    np.testing.assert_allclose(recording.onsets, ONSETS, atol=1e-6)
    named = ["Stimulus/S  1", "Stimulus/S  2", "Stimulus/S  1"] if kind == "brainvision" else EVENTS
    assert recording.events == named
    assert recording.tmin == 0


@pytest.mark.parametrize("kind", ["fif epochs", "edf", "brainvision", "npz", "set epochs"])
def test_real_eeg_through_the_other_process(kind, muse, tmp_path):
    epochs, names, channels, sfreq = muse
    if kind == "npz":
        path = tmp_path / "real.npz"
        np.savez(path, eeg=epochs, channels=channels, sfreq=sfreq, tmin=-0.102, events=names)
        recording = open_recording([path])
        assert_close(recording.volts, epochs)
        assert (recording.events, recording.channels) == (names, channels)
        assert recording.tmin == pytest.approx(-0.102)
        return
    if kind == "fif epochs":
        path = tmp_path / "real-epo.fif"
        small_epochs(epochs, channels, sfreq, -0.102, names).save(path, verbose="error")
        recording = open_recording([path])
        assert recording.events == names
        assert recording.tmin == pytest.approx(-0.102, abs=0.5 / sfreq)
        assert_close(recording.volts, epochs)
        assert_as_mne(recording, path)
        return
    volts = epochs if kind == "set epochs" else np.concatenate(list(epochs), axis=1)
    paths = write(kind, tmp_path, volts, channels, sfreq)
    recording = open_recording(paths)
    assert_as_mne(recording, paths[0])
    assert recording.channels == channels


@pytest.mark.parametrize("kind", ["brainvision", "set + fdt", "fif"])
def test_zip(kind, tmp_path):
    paths = write(kind, tmp_path)
    (tmp_path / "notes.txt").write_text("about it")
    archive = zipped([*paths, tmp_path / "notes.txt"], tmp_path / "all.zip")
    recording = read_here([archive], tmp_path / "private")
    assert_as_mne(recording, paths[0])
    assert recording.name == paths[0].name
    assert recording.notes == ["Of all.zip, notes.txt wasn't read."]


@pytest.mark.parametrize("kind", ["brainvision", "set + fdt"])
def test_renamed_files_are_noted(kind, tmp_path):
    paths = write(kind, tmp_path)
    expected = by_mne(paths[0])[0]
    renamed = [path.rename(tmp_path / f"Eigene Datei (1){path.suffix}") for path in paths]
    recording = read_here(renamed, tmp_path / "private")
    assert_close(recording.volts, expected)
    assert len(recording.events) == 3
    assert any("Eigene Datei (1)" in note and "small" in note for note in recording.notes)


def test_brainvision_of_another_encoding(tmp_path):
    paths = write("brainvision", tmp_path)
    markers = paths[1].read_bytes().replace(b"Codepage=UTF-8", b"Codepage=ANSI")
    paths[1].write_bytes(markers.replace(b"S  2", b"T\xfcr"))
    recording = read_here(paths, tmp_path / "private")
    assert recording.events == ["Stimulus/S  1", "Stimulus/Tür", "Stimulus/S  1"]


@pytest.mark.parametrize("kind", ["fif", "bdf"])
def test_trigger_channels(kind, tmp_path):
    trigger = np.zeros(600)
    trigger[100:110], trigger[300:301], trigger[400:420] = 7, 130, 7
    volts = np.vstack([small_volts(), trigger])
    if kind == "fif":
        path = tmp_path / "triggers_raw.fif"
        raw = small_raw(volts, [*CHANNELS, "STI 014"], types=["eeg"] * 4 + ["stim"])
        raw.set_annotations(None).save(path, verbose="error")
        expected = mne.find_events(raw, shortest_event=1, verbose="error")
    else:
        import edfio

        volts = volts[:, :512]
        signals = [
            edfio.BdfSignal(row * 1e6, SFREQ, label=name, physical_dimension="uV")
            for name, row in zip(CHANNELS, volts, strict=False)
        ]
        status = edfio.BdfSignal(
            volts[4],
            SFREQ,
            label="Status",
            physical_range=(-8388608, 8388607),
        )
        path = tmp_path / "triggers.bdf"
        edfio.Bdf([*signals, status]).write(path)
        raw = mne.io.read_raw_bdf(path, verbose="error")
        expected = mne.find_events(raw, shortest_event=1, verbose="error")
    recording = read_here([path], tmp_path / "private")
    assert recording.channels == CHANNELS
    assert recording.events == ["7", "130", "7"]
    np.testing.assert_allclose(recording.onsets, expected[:, 0] / SFREQ, atol=1e-9)
    assert recording.notes == ["Channels that aren't EEG were left out: 1 trigger."]


def test_cropped_fif_counts_from_its_first_sample(tmp_path):
    raw = small_raw()
    raw.set_meas_date(1_600_000_000).crop(0.75)
    raw.save(tmp_path / "late_raw.fif", verbose="error")
    recording = read_here([tmp_path / "late_raw.fif"], tmp_path / "private")
    assert_as_mne(recording, tmp_path / "late_raw.fif")
    np.testing.assert_allclose(recording.onsets, [0.25, 0.75], atol=1e-6)
    assert recording.bad.shape == (0, 2)


def test_bad_stretches_count_from_the_first_sample(tmp_path):
    raw = small_raw()
    raw.annotations.append(
        [1.2, 0.5, 1.3], [0.1, 0.0, 0.2], ["bad_muscle", "BAD boundary", "worse"]
    )
    raw.set_meas_date(1_600_000_000).crop(0.25)
    raw.save(tmp_path / "late_raw.fif", verbose="error")
    recording = open_recording([tmp_path / "late_raw.fif"])  # through the other process
    np.testing.assert_allclose(recording.bad, [[0.25, 0.25], [0.95, 1.05]], atol=1e-6)


def test_what_is_no_eeg_is_left_out(tmp_path):
    names = ["Fp1", "EOG 061", "MEG 0111", "ECG", "Cz", "something"]
    raw = small_raw(
        np.vstack([small_volts(), small_volts()[:2]]),
        names,
        types=["eeg", "eog", "mag", "ecg", "misc", "misc"],
    )
    raw.info["bads"] = ["Fp1"]
    raw.annotations.append([1.2, 1.3], 0.1, ["BAD_muscle", "EDGE boundary"])
    raw.save(tmp_path / "mixed_raw.fif", verbose="error")
    recording = read_here([tmp_path / "mixed_raw.fif"], tmp_path / "private")
    np.testing.assert_allclose(recording.bad, [[1.2, 1.3]], atol=1e-6)
    assert recording.channels == ["Fp1", "Cz"]
    assert_close(recording.volts, raw.get_data(["Fp1", "Cz"]))
    assert recording.events == EVENTS
    assert recording.notes == [
        "Channels that aren't EEG were left out: 1 EOG, 1 MAG, 1 ECG, 1 unknown.",
        "The file doesn't say that Cz is EEG; taken as it is called so.",
        "Marked as bad in the file, but read: Fp1.",
        "2 marks that aren't events were left out: BAD_muscle, EDGE boundary.",
    ]


@pytest.mark.parametrize("kind", ["edf", "brainvision", "set"])
def test_names_tell_what_is_no_eeg(kind, tmp_path):
    paths = write(kind, tmp_path, channels=["EEG Fp1-Ref", "HEOG", "EKG1", "Cz"])
    recording = read_here(paths, tmp_path / "private")
    assert recording.channels == ["EEG Fp1-Ref", "Cz"]
    assert "Channels that aren't EEG were left out: 1 EOG, 1 ECG." in recording.notes


def test_no_eeg_at_all(tmp_path):
    raw = small_raw(types="mag")
    raw.save(tmp_path / "meg_raw.fif", verbose="error")
    with pytest.raises(InputError, match="no EEG channel, only 4 MAG"):
        read_here([tmp_path / "meg_raw.fif"], tmp_path / "private")


def test_averages_are_no_recording(tmp_path):
    evoked = small_epochs(np.stack([small_volts()] * 2)).average()
    evoked.save(tmp_path / "mean-ave.fif", verbose="error")
    with pytest.raises(InputError, match="mean-ave.fif can't be read as FIF"):
        read_here([tmp_path / "mean-ave.fif"], tmp_path / "private")


def test_epochs_with_a_baseline_are_noted(tmp_path):
    epochs = small_epochs(np.stack([small_volts()] * 2)).apply_baseline((None, 0))
    epochs.save(tmp_path / "based-epo.fif", verbose="error")
    recording = read_here([tmp_path / "based-epo.fif"], tmp_path / "private")
    assert_close(recording.volts, epochs.get_data())
    assert recording.notes == ["The epochs already had a baseline taken off (-0.101562 to 0 s)."]


def test_epochs_of_ours(tmp_path):
    epochs = np.stack([small_volts()] * 3).astype(np.float32)
    path = tmp_path / "mine.npz"
    np.savez(path, eeg=epochs, channels=CHANNELS, sfreq=250, tmin=-0.2, events=[1, 2, 1])
    recording = read_here([path], tmp_path / "private")
    np.testing.assert_array_equal(recording.volts, epochs)
    assert (recording.tmin, recording.sfreq) == (-0.2, 250)
    assert recording.events == ["1", "2", "1"]
    np.savez(path, eeg=epochs, channels=CHANNELS, sfreq=250)
    assert read_here([path], tmp_path / "again").events == ["epoch"] * 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channels": CHANNELS[:3]}, "3 channel names for 4 channels"),
        ({"sfreq": [1.0, 2.0]}, "sfreq isn't one finite number"),
        ({"sfreq": 20.0}, "rate is 20 Hz; 50 to 20000 Hz can be read"),
        ({"events": ["a"]}, "1 events for 3 onsets"),
        ({"onsets": [1.0, np.nan, 2.0]}, "onsets aren't a row of numbers"),
        ({"eeg": np.zeros((4, 10), complex)}, "takes real numbers"),
        ({"eeg": np.zeros(10)}, r"takes real numbers as \(channels, times\)"),
        ({"eeg": np.zeros((4, 0))}, "takes real numbers"),
    ],
)
def test_arrays_that_do_not_fit(change, sentence, tmp_path):
    arrays = dict(eeg=small_volts(), channels=CHANNELS, sfreq=SFREQ, onsets=ONSETS, events=EVENTS)
    np.savez(tmp_path / "odd.npz", **(arrays | change))
    with pytest.raises(InputError, match=sentence):
        read_here([tmp_path / "odd.npz"], tmp_path / "private")


def test_microvolts_taken_for_volts_are_noted(tmp_path):
    recording = read_here(write("npz", tmp_path, small_volts() * 1e6), tmp_path / "private")
    assert any("larger than a millivolt" in note for note in recording.notes)


def test_channels_that_stand_twice(tmp_path):
    paths = write("npz", tmp_path, channels=["Cz", "Cz", "Cz (2)", "Cz"])
    recording = read_here(paths, tmp_path / "private")
    assert recording.channels == ["Cz", "Cz (2)", "Cz (2) (2)", "Cz (3)"]
    assert "numbered" in recording.notes[0]


def test_events_come_in_the_order_of_time(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        eeg=small_volts(),
        channels=CHANNELS,
        sfreq=SFREQ,
        onsets=[2, 1],
        events=["late", "early"],
    )
    recording = read_here([tmp_path / "a.npz"], tmp_path / "private")
    assert (recording.onsets.tolist(), recording.events) == ([1, 2], ["early", "late"])


def test_large_recordings_are_read_in_pieces(tmp_path, monkeypatch):
    from nice_demo.sources.recordings import readers

    monkeypatch.setattr(readers, "_AT_ONCE", 1000)
    for kind in BY_MNE:
        folder = tmp_path / kind
        folder.mkdir()
        paths = write(kind, folder)
        assert_as_mne(read_here(paths, folder / "private"), paths[0])


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "No file was given"),
        (["a.fif", "b.edf"], "a.fif and b.edf are two recordings"),
        (["a.edf", "b.edf"], "both .edf files"),
        (["a.vmrk"], "a.vmrk is only a part of a recording; give its .vhdr file as well"),
        (["a.eeg"], "give its .vhdr file"),
        (["a.edf", "b.fdt"], "b.fdt doesn't belong to a.edf"),
        (["a.docx"], "a.docx is of no kind that is read"),
        (["a.tar.gz"], "make it a .zip"),
        (["a.npy"], "neither channel names nor a rate"),
        (["a.pth"], "may hold a pickle"),
        (["gone.edf"], "gone.edf is missing"),
    ],
)
def test_files_that_make_no_recording(files, sentence, tmp_path):
    for name in files:
        if name != "gone.edf":
            (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=sentence):
        open_recording([tmp_path / name for name in files])


@pytest.mark.parametrize(
    ("kind", "gone"), [("brainvision", 1), ("brainvision", 2), ("set + fdt", 1)]
)
def test_companions_that_are_missing(kind, gone, tmp_path):
    paths = write(kind, tmp_path)
    missing = paths.pop(gone)
    with pytest.raises(InputError, match=f"needs {missing.name}; give that file as well"):
        read_here(paths, tmp_path / "private")


def test_set_with_objects_reads_without_them(tmp_path):
    volts = (small_volts() * 1e6).astype(np.float32)
    function = np.array([("rm -rf", 1)], dtype=[("handle", object), ("value", float)])
    set_file(tmp_path, volts.shape, CHANNELS, SFREQ, volts, history=function, etc={"fun": function})
    recording = read_here([tmp_path / "small.set"], tmp_path / "private")
    assert_close(recording.volts, small_volts())


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(channels=3), "4 channels, more than 3"),
        (Limits(samples=2000), "at most 2 hours and 0.002 million samples"),
        (Limits(hours=1e-4), "at most 0.0001 hours"),
        (Limits(events=2), "3 events, more than 2"),
        (Limits(highest_rate=100), "rate is 256 Hz"),
        (Limits(size=1000), "larger than 0.001 MB"),
    ],
)
@pytest.mark.parametrize("kind", ["fif", "edf", "brainvision", "set", "npz"])
def test_limits(kind, limits, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        read_here(write(kind, tmp_path), tmp_path / "private", limits)
