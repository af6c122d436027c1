"""Somebody's own EEG, from what was read to what encoders take, against MNE written out."""

from dataclasses import replace

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import refuses
from sklearn.covariance import ledoit_wolf

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.decode.recording import decode_epochs, summary
from nice_demo.errors import InputError
from nice_demo.montage import CHANNELS, REFERENCE, Montage, flat_positions, positions
from nice_demo.preparation import shrunk_covariance
from nice_demo.sources.phantom.trials import RESOLUTION, SFREQ, TMIN, Phantom
from nice_demo.sources.recordings import Recording, signals
from nice_demo.sources.recordings.channels import match_channels
from nice_demo.sources.recordings.epochs import (
    LEAST_CHANNELS,
    Steps,
    _marked_bad,
    default_steps,
    prepare_epochs,
)

TIMES = np.arange(250) / 250
KINDS = ("cat", "dog")
SOME = CHANNELS[::3]  # 21 electrodes, from front to back


def cap(names):
    mask = np.ones((4, 4), bool)
    empty = np.zeros((16, len(names)), np.float32)
    return Montage(list(names), positions(names), flat_positions(names), empty, mask)


CAP = cap(CHANNELS)


def noise(shape, seed=0):
    """EEG as far as amplitudes go: a drifting offset, slow and fast noise, V."""
    rng = np.random.default_rng(seed)
    offset = 1e-3 * rng.standard_normal((*shape[:-1], 1))
    walk = rng.standard_normal(shape).cumsum(-1) * 3e-7
    return (offset + walk + 5e-6 * rng.standard_normal(shape)).astype(np.float32)


def recorded(sfreq=1000.0, channels=(*CHANNELS, REFERENCE), seconds=40.0, **changes):
    n_times = int(seconds * sfreq)
    onsets = np.round(np.arange(1.0, seconds - 1.5, 0.83) * sfreq) / sfreq
    there = {
        "volts": noise((len(channels), n_times)),
        "onsets": onsets,
        "events": [KINDS[i % 2] for i in range(len(onsets))],
    }
    return Recording("own.edf", "EDF", channels=list(channels), sfreq=sfreq, **there | changes)


def epoched(sfreq=250.0, tmin=-0.2, n_times=300, n_epochs=12, channels=CHANNELS, **changes):
    there = {
        "volts": noise((n_epochs, len(channels), n_times)),
        "events": [KINDS[i % 2] for i in range(n_epochs)],
    }
    return Recording(
        "own.set", "EEGLAB", channels=list(channels), sfreq=sfreq, tmin=tmin, **there | changes
    )


def steps(recording, **changes):
    everything = {name: name for name in recording.channels}
    return Steps(**{"electrodes": everything, "events": KINDS} | changes)


def prepare(recording, montage=CAP, times=TIMES, **changes):
    return prepare_epochs(recording, steps(recording, **changes), montage, times)


def close(found, expected, tolerance=1e-6):
    """Expect equality but for `tolerance` of the largest value."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# ---------------------------------------------------------------- all of it against MNE


def by_mne(recording, *, low, high, notch=None, reference=None, reject=None, start=-0.2, end=0.996):
    """From `Recording` to MNE's epochs of the whole cap, step by step as its tutorials do it."""
    all_names = [*CHANNELS, REFERENCE]
    data = np.zeros((64, recording.volts.shape[1]))
    for name, signal in zip(recording.channels, recording.volts, strict=True):
        data[all_names.index(name)] = signal
    info = mne.create_info(all_names, recording.sfreq, "eeg")
    raw = mne.io.RawArray(data, info, verbose="error").set_montage("easycap-M1")
    raw.info["bads"] = [name for name in all_names if name not in recording.channels]
    starts, ends = recording.bad.T
    raw.set_annotations(mne.Annotations(starts, ends - starts, "BAD"))
    if reference:
        raw.set_eeg_reference(reference, verbose="error")
    raw.filter(low, high, verbose="error")
    if notch:
        raw.notch_filter(notch, verbose="error")
    samples = np.rint(recording.onsets * recording.sfreq).astype(int)
    codes = [1 + KINDS.index(name) for name in recording.events]
    events = np.stack([samples, np.zeros_like(samples), codes], 1)
    epochs = mne.Epochs(
        raw, events, {name: 1 + i for i, name in enumerate(KINDS)}, start, end,
        baseline=(-0.2, 0), reject=reject, preload=True, verbose="error",
    )  # fmt: skip
    if epochs.info["bads"]:
        epochs.interpolate_bads(verbose="error")
    return epochs


def agrees(found, epochs, tolerance=1e-6):
    """Compare with MNE's epochs, which are at 250 Hz by now."""
    epochs = epochs.copy().crop(-0.2, 0.996, verbose="error").pick(CHANNELS)
    np.testing.assert_allclose(found.all_times, epochs.times, atol=1e-9)
    assert found.conditions == [KINDS[code - 1] for code in epochs.events[:, 2]]
    for kind in KINDS:
        average = epochs[kind].average()
        volts, n_epochs = found.evoked(kind)
        assert n_epochs == average.nave
        close(volts, average.data, tolerance)


@pytest.mark.parametrize("sfreq", [250.0, 500.0, 1000.0])
@pytest.mark.parametrize("channels", [(*CHANNELS, REFERENCE), (*SOME[::-1], REFERENCE)])
def test_evoked_is_mne_s(sfreq, channels):
    recording = recorded(sfreq, channels)
    found = prepare(recording, reference=REFERENCE)
    epochs = by_mne(recording, low=0.1, high=100.0, reference=[REFERENCE])
    agrees(found, epochs.decimate(round(sfreq / 250), verbose="error"))
    assert found.interpolated == [name for name in CHANNELS if name not in channels]
    assert found.channels == CHANNELS
    assert found.volts.dtype == found.eeg.dtype == np.float32


@pytest.mark.parametrize(
    ("sfreq", "high"), [(512.0, 100.0), (256.0, 100.0), (128.0, None), (2048.0, 100.0)]
)
def test_evoked_is_mne_s_at_rates_that_do_not_divide(sfreq, high):
    # 0.5 s are a whole number of samples at these rates and at 250 Hz.
    recording = recorded(sfreq, SOME)
    found = prepare(recording)
    # Padded by as much again, else MNE rounds the padding to whole samples of 250 Hz.
    epochs = by_mne(recording, low=0.1, high=high, start=-0.5, end=1.0 - 1 / sfreq)
    if sfreq > 1000:
        epochs.decimate(4, verbose="error")
    half = round(epochs.info["sfreq"] / 2)
    agrees(found, epochs.resample(250.0, npad=half, pad="auto", verbose="error"))


def test_epochs_that_the_file_marks_as_bad_are_mne_s():
    """Long and short stretches, one of no length, one beside others, one outside."""
    stretches = [[5.0, 5.3], [9.1, 9.1], [15.0, 21.0], [15.5, 15.6], [30.0, 30.001], [39.5, 40.0]]
    recording = recorded(500.0, bad=np.array(stretches))
    found = prepare(recording)
    epochs = by_mne(recording, low=0.1, high=100.0)
    dropped = sum("BAD" in log for log in epochs.drop_log)
    assert found.dropped == dropped > 5
    agrees(found, epochs.decimate(2, verbose="error"))
    assert f"{dropped} of {len(recording.events)} epochs were dropped: the file marks" in str(
        found.notes
    )
    with pytest.raises(InputError, match="marks all .* epochs as bad"):
        prepare(replace(recording, bad=np.array([[-1.0, 99.0]])))


@given(st.data())
def test_bad_stretches_against_a_loop(data):
    edge = st.integers(-20, 220)
    stretches = data.draw(st.lists(st.tuples(edge, edge).map(sorted), max_size=6))
    recording = recorded(100.0, seconds=3.0, bad=np.array(stretches, float).reshape(-1, 2) / 100)
    first = np.array(data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=5)))
    end = first + data.draw(st.integers(1, 30))
    expected = [
        any(a / 100 < e / 100 and b / 100 > f / 100 for a, b in stretches)
        for f, e in zip(first, end, strict=True)
    ]
    assert _marked_bad(recording, first, end).tolist() == expected


def test_evoked_is_mne_s_with_other_steps():
    recording = recorded(500.0)
    reject = 20e-6
    found = prepare(recording, low=1.0, high=40.0, notch=17.0, reference="average", reject=reject)
    epochs = by_mne(
        recording,
        low=1.0,
        high=40.0,
        notch=[17.0, 34.0],
        reference="average",
        reject={"eeg": reject},
    )
    agrees(found, epochs.decimate(2, verbose="error"))
    assert found.dropped == len(recording.events) - len(epochs) > 0
    assert len(epochs) > 5


def test_epochs_of_a_file_are_mne_s():
    recording = epoched(1000.0, -0.3, 1401)
    found = prepare(recording, low=None)
    info = mne.create_info(CHANNELS, 1000.0, "eeg")
    codes = [1 + KINDS.index(name) for name in recording.events]
    events = np.stack([np.arange(len(codes)), np.zeros(len(codes), int), codes], 1)
    epochs = mne.EpochsArray(
        recording.volts.astype(float), info, events, -0.3, dict(zip(KINDS, (1, 2), strict=True)),
        verbose="error",
    )  # fmt: skip
    epochs.filter(None, 100.0, pad="reflect_limited", verbose="error")
    epochs.apply_baseline((-0.2, 0), verbose="error")
    agrees(found, epochs.decimate(4, verbose="error"))


def test_epochs_of_a_file_at_another_rate():
    # A slow sine stays one, sampled at the encoders' times.
    sfreq, begins = 512.0, -0.25
    t = begins + np.arange(700) / sfreq
    sine = 1e-5 * np.sin(2 * np.pi * 6 * t + np.arange(63)[:, None])
    recording = epoched(sfreq, begins, volts=np.stack([sine] * 4).astype(np.float32),
                        events=["cat"] * 4)  # fmt: skip
    found = prepare(recording, low=None, high=None, baseline=False, events=("cat",))
    expected = 1e-5 * np.sin(2 * np.pi * 6 * found.all_times + np.arange(63)[:, None])
    inner = (found.all_times > -0.1) & (found.all_times < 0.9)
    close(found.volts[0][:, inner], expected[:, inner], 0.01)
    assert (found.all_times[0], found.all_times[-1]) == (-0.2, 0.996)


# ---------------------------------------------------------------- when


@pytest.mark.parametrize("sfreq", [250.0, 256.0, 499.907, 512.0, 1000.0, 2048.0, 16384.0])
def test_what_happens_at_the_event_lands_at_0(sfreq):
    names, at = CHANNELS[:3], int(1.7 * sfreq)
    volts = np.zeros((3, int(4 * sfreq)), np.float32)
    volts[:, at] = 1e-5
    recording = recorded(sfreq, names, volts=volts, onsets=np.array([at / sfreq]), events=["x"])
    found = prepare(recording, cap(names), events=("x",), low=None, high=None, baseline=False)
    assert found.all_times[np.abs(found.volts[0, 0]).argmax()] == 0
    # As much before as after: not shifted by part of a sample.
    zero = int(np.flatnonzero(found.all_times == 0)[0])
    before, after = found.volts[0, :, zero - 40 : zero][:, ::-1], found.volts[0, :, zero + 1 :]
    np.testing.assert_allclose(before, after[:, :40], atol=1e-3 * np.abs(found.volts).max())


def test_encoders_get_their_times():
    recording = recorded(500.0)
    found = prepare(recording, times=np.arange(-10, 90) / 100, whiten=False)
    at = {round(t, 6): i for i, t in enumerate(found.all_times)}
    rows = [at[round(t, 6)] for t in np.arange(-10, 90) / 100]
    close(found.eeg, 1e6 * found.volts[..., rows])
    assert found.all_times[0] == -0.2


def test_epochs_are_in_order_of_time_and_whole():
    recording = recorded(250.0)
    onsets, events = recording.onsets[::-1].copy(), recording.events[::-1]
    onsets[:2] = 0.1, 39.5  # too near to the edges
    turned = replace(recording, onsets=onsets, events=events)
    found = prepare(turned)
    assert found.conditions == recording.events[:-2]
    assert "2 epochs were left out as the recording doesn't hold them whole." in found.notes


# ---------------------------------------------------------------- each step by itself


@pytest.mark.parametrize(("low", "high"), [(0.1, 100.0), (1.0, None), (None, 30.0)])
@pytest.mark.parametrize("seconds", [34, 61.237])
def test_filter_is_mne_s(low, high, seconds):
    signal = noise((2, int(seconds * 1000))).astype(float)
    expected = mne.filter.filter_data(signal, 1000.0, low, high, verbose="error")
    found = signals.zero_phase(signals.band_filter(1000.0, low, high), signal.shape[1])(signal)
    close(found, expected, 1e-12)


def test_notch_is_mne_s():
    signal = noise((1, 20000)).astype(float)
    expected = mne.filter.notch_filter(signal, 1000.0, [50.0, 100.0], verbose="error")
    kernel = signals.notch_filter(1000.0, 50.0, 120.0)
    close(signals.zero_phase(kernel, 20000)(signal), expected, 1e-12)


@pytest.mark.parametrize("names", [SOME, CHANNELS[-10:], [*CHANNELS[:40], REFERENCE]])
@pytest.mark.parametrize("zero", [None, "Cz"])
def test_interpolation_is_mne_s(names, zero):
    names = [name for name in names if name != zero]
    values = np.random.default_rng(0).standard_normal((len(names), 5))
    good = [*names, *([zero] if zero else [])]
    missing = [name for name in CHANNELS if name not in good]
    data = np.zeros((len(good) + len(missing), 5))
    data[: len(names)] = values
    info = mne.create_info(good + missing, 250.0, "eeg")
    evoked = mne.EvokedArray(data, info, verbose="error").set_montage("easycap-M1")
    evoked.info["bads"] = missing
    evoked.interpolate_bads(verbose="error")
    found = signals.interpolation(CAP, names, zero) @ values
    close(found, evoked.copy().pick(CHANNELS).reorder_channels(CHANNELS).data)


def test_whitening_against_a_loop():
    recording = recorded(250.0, CHANNELS)
    found = prepare(recording)
    kept = found.volts[..., 50:].astype(float)
    sigma = np.zeros((63, 63))
    for epoch in kept:
        size = epoch.std(1)
        standard = (epoch - epoch.mean(1, keepdims=True)) / size[:, None]
        shrunk, _ = ledoit_wolf(standard.T, assume_centered=True)
        sigma += shrunk * np.outer(size, size) / len(kept)
    values, vectors = np.linalg.eigh(sigma)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    for eeg, epoch in zip(found.eeg, kept, strict=True):
        close(eeg, root @ epoch, 1e-4)


def test_whitening_of_interpolated_electrodes():
    recording = recorded(250.0, SOME)
    found = prepare(recording)
    assert len(found.interpolated) == 42
    assert np.isfinite(found.eeg).all()
    # As many directions as electrodes were recorded hold all there is, each the same variance.
    which = [CHANNELS.index(name) for name in SOME]
    mixing = signals.interpolation(CAP, SOME)
    covariance = mixing @ shrunk_covariance(found.volts[:, which, 50:]) @ mixing.T
    root = signals.whitening(covariance)
    white = np.linalg.eigvalsh(root @ covariance @ root)
    np.testing.assert_allclose(white, [0] * 42 + [1] * 21, atol=1e-8)
    size = np.linalg.eigvalsh(np.mean([epoch @ epoch.T for epoch in found.eeg.astype(float)], 0))
    assert size[41] < 1e-6 * size[42]


@pytest.mark.parametrize("reference", ["average", "Oz", REFERENCE])
def test_whatever_the_reference_whitening_is_finite(reference):
    found = prepare(recorded(250.0), reference=reference)
    assert np.isfinite(found.eeg).all()
    assert 0.3 < found.eeg.std() < 3
    if reference == "Oz":
        assert np.abs(found.volts[:, CHANNELS.index("Oz")]).max() == 0


def test_a_flat_recording_is_not_whitened():
    assert np.isfinite(signals.whitening(np.diag([1.0, 0.0, 4.0]))).all()
    refuses(lambda: signals.whitening(np.zeros((3, 3))), "flat")


def test_baseline_and_volts_unchanged_where_not_asked():
    recording = recorded(250.0, CHANNELS)
    found = prepare(recording, low=None, high=None, baseline=False, whiten=False)
    first = round(recording.onsets[0] * 250)
    np.testing.assert_array_equal(found.volts[0], recording.volts[:, first - 50 : first + 250])
    close(found.eeg[0], 1e6 * recording.volts[:, first : first + 250])


def test_the_recording_stays_as_it_was():
    for recording in (recorded(250.0), epoched(1000.0, -0.3, 1401)):
        before = recording.volts.copy()
        prepare(recording, reference="average")
        np.testing.assert_array_equal(recording.volts, before)


def test_progress():
    told = []
    recording = recorded(250.0)
    prepare_epochs(recording, steps(recording), CAP, TIMES, lambda *what: told.append(what))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert all(isinstance(what, str) for _, what in told)


# ---------------------------------------------------------------- what is missing


@pytest.mark.parametrize("number", [1, LEAST_CHANNELS - 1, LEAST_CHANNELS])
def test_few_electrodes_are_shown_and_not_decoded(number):
    names = CHANNELS[-number:]
    found = prepare(recorded(250.0, names[::-1]))
    if number == LEAST_CHANNELS:
        assert found.eeg.shape[1:] == (63, 250)
        return
    assert found.eeg is None
    assert found.channels == names
    assert found.interpolated == []
    assert any(f"Only {number} of the 63" in note for note in found.notes)
    volts, n_epochs = found.evoked("dog")
    assert volts.shape == (number, 300)
    assert n_epochs == found.conditions.count("dog")


def test_a_small_cap_needs_no_more_than_it_has():
    names = ["TP9", "FT9", "FT10", "TP10"]
    found = prepare(recorded(250.0, names), cap(names))
    assert found.eeg.shape[1:] == (4, 250)


def test_flat_channels_count_as_missing():
    recording = recorded(250.0, SOME)
    recording.volts[2] = 3e-6
    found = prepare(recording)
    assert SOME[2] in found.interpolated
    assert f"{SOME[2]} recorded nothing (flat) and count as missing." in found.notes


def test_notes_on_what_could_not_be_done():
    short = prepare(recorded(250.0, seconds=20.0))
    assert any("33 s long and the recording 20 s" in note for note in short.notes)
    endless = prepare(recorded(250.0), low=1e-9)
    assert any("weren't filtered out" in note for note in endless.notes)
    slow = prepare(recorded(128.0, SOME))
    assert any("nothing above 64 Hz" in note for note in slow.notes)
    fast = prepare(recorded(500.0, SOME), high=None)
    assert any("above 100 Hz were filtered out" in note for note in fast.notes)
    epochs = prepare(epoched(), low=0.1)
    assert any("too short for a filter" in note for note in epochs.notes)
    late = prepare(epoched(tmin=0.0, n_times=250))
    assert any("no baseline" in note for note in late.notes)
    assert late.all_times[0] == 0
    some = prepare(epoched(events=["cat"] * 11 + ["dog"]), reject=1.0)
    assert not any("left of" in note for note in some.notes)


def bad(recording, channel=0, value=np.nan):
    volts = recording.volts.copy()
    volts[..., channel, 5] = value
    return replace(recording, volts=volts)


PLAIN = recorded(250.0, SOME)
REFUSED = [
    (PLAIN, {"events": ()}, ["No events are chosen", "cat, dog"]),
    (PLAIN, {"events": ("cow",)}, ["'cow'", "cat, dog"]),
    (replace(PLAIN, events=[], onsets=np.empty(0)), {}, ["holds no events"]),
    (replace(PLAIN, onsets=PLAIN.onsets + 100), {}, ["None of the 46 epochs", "40.0 s"]),
    (replace(PLAIN, onsets=PLAIN.onsets * np.nan), {}, ["None of the 46 epochs"]),
    (replace(PLAIN, sfreq=99.0), {}, ["99 Hz", "100 Hz or more"]),
    (bad(PLAIN), {}, ["NaN or infinity in Fp1"]),
    (bad(PLAIN, 1, np.inf), {}, ["NaN or infinity in AF3"]),
    (bad(PLAIN, 1, -np.inf), {}, ["NaN or infinity in AF3"]),
    (replace(PLAIN, volts=PLAIN.volts * 0), {}, ["flat"]),
    (PLAIN, {"electrodes": {}}, ["No channel", "by hand"]),
    (PLAIN, {"electrodes": {"nowhere": "Cz"}}, ["'nowhere'"]),
    (PLAIN, {"electrodes": {"Fp1": "Nz"}}, ["'Nz' is no electrode"]),
    (PLAIN, {"electrodes": {"Fp1": "Cz", "AF3": "Cz"}}, ["both be Cz"]),
    (PLAIN, {"reference": "M1"}, ["'M1'", "average"]),
    (PLAIN, {"low": 50.0, "high": 40.0}, ["50 to 40 Hz"]),
    (PLAIN, {"low": 120.0, "high": None}, ["Above 120 Hz"]),
    (recorded(1000.0, SOME, 5.0), {"low": 101.0, "high": None}, ["Above 101 Hz"]),
    (PLAIN, {"low": -1.0}, ["low is -1"]),
    (PLAIN, {"high": np.nan}, ["high is nan"]),
    (PLAIN, {"notch": 0.01}, ["0.01 Hz", "50 or 60"]),
    (PLAIN, {"reject": 0.0}, ["reject is 0"]),
    (PLAIN, {"reject": 1e-9}, ["In all 46 epochs", "0.001 µV"]),
    (PLAIN, {"tmin": -60.0}, ["-60 s"]),
    (epoched(n_times=200), {}, ["lack 596 to 996 ms"]),
    (epoched(tmin=0.1), {}, ["lack 0 to 100 ms"]),
    (epoched(tmin=5.0), {}, ["lack 0 to 5000 ms"]),
    (epoched(tmin=5.0, channels=SOME[:3]), {}, ["5000 to 6196 ms", "around an event"]),
]  # fmt: skip


@pytest.mark.parametrize(("recording", "changes", "words"), REFUSED)
def test_refusals(recording, changes, words):
    refuses(lambda: prepare(recording, **changes), *words)


def test_too_many_epochs():
    refuses(
        lambda: prepare_epochs(PLAIN, steps(PLAIN), CAP, TIMES, most=45), "46 epochs", "45 at most"
    )


def test_names_from_files_do_not_break_sentences():
    there = replace(PLAIN, events=["a\nb" * 99] * len(PLAIN.events), name="x\ny\x1b[31m")
    message = refuses(lambda: prepare(there, events=()), "No events are chosen")
    assert len(message) < 150
    found = prepare(there, events=(there.events[0],))
    refuses(lambda: found.evoked("z\nz"), "No epoch is left")


@settings(max_examples=100)
@given(st.data())
def test_whatever_comes_is_prepared_or_refused(data):
    """No recording and no steps end in another error, a warning, or NaN."""
    draw = data.draw
    sfreq = draw(st.sampled_from([99.9, 100.0, 128.0, 249.999, 250.0, 256.0, 300.0, 499.907]))
    names = draw(st.lists(st.sampled_from([*CHANNELS, REFERENCE, "x"]), min_size=1, max_size=12,
                          unique=True))  # fmt: skip
    n_times = draw(st.integers(0, round(3 * sfreq)))
    kinds = draw(st.lists(st.sampled_from(["a", "b", "é\n", ""]), max_size=5))
    size = draw(st.sampled_from([0.0, 1e-30, 1e-5, 1e10]))
    if draw(st.booleans()):
        onsets = draw(st.lists(st.floats() | st.floats(0, 3), min_size=len(kinds),
                               max_size=len(kinds)))  # fmt: skip
        volts = size * noise((len(names), n_times)) if n_times else np.zeros((len(names), 0))
        recording = Recording("f", "F", volts.astype(np.float32), names, sfreq,
                              onsets=np.array(onsets, float), events=kinds)  # fmt: skip
    else:
        volts = np.zeros((len(kinds), len(names), n_times), np.float32)
        if volts.size:
            volts = (size * noise(volts.shape)).astype(np.float32)
        tmin = draw(st.floats(-2, 1))
        recording = Recording("f", "F", volts, names, sfreq, tmin, events=kinds)
    chosen = Steps(
        {n: n for n in names if n != "x"},
        tuple(dict.fromkeys(kinds)),
        draw(st.sampled_from(["as recorded", "average", *names])),
        draw(st.none() | st.floats(-1, 130)),
        draw(st.none() | st.floats(-1, 300)),
        draw(st.none() | st.floats(-1, 300)),
        draw(st.floats(-1, 0)),
        draw(st.booleans()),
        draw(st.none() | st.floats(-1, 1e-3)),
        draw(st.booleans()),
    )
    try:
        found = prepare_epochs(recording, chosen, CAP, TIMES)
    except InputError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
        return
    assert np.isfinite(found.volts).all()
    assert found.volts.shape == (len(found.conditions), len(found.channels), len(found.all_times))
    if found.eeg is not None:
        assert np.isfinite(found.eeg).all()
        assert found.eeg.shape == (len(found.conditions), 63, 250)


# ---------------------------------------------------------------- defaults


def test_default_steps_follow_the_training_data():
    manifest = {
        "preparation": {"epoch": [-0.1, 0.996], "reference": REFERENCE},
        "recordings": {"1": {"unit": "whitened"}},
    }
    recording = recorded(250.0, events=["cat", "BAD_blink"] * 23, onsets=np.arange(46.0))
    matches = match_channels(recording.channels, CAP)
    chosen = default_steps(manifest, recording, matches)
    assert chosen == Steps(
        {name: name for name in recording.channels}, ("cat",), REFERENCE, 0.1, 100.0, tmin=-0.1
    )
    without = recorded(200.0, SOME)
    chosen = default_steps(manifest, without, match_channels(SOME, CAP))
    assert (chosen.reference, chosen.high) == ("as recorded", None)
    of_epochs = default_steps(manifest, epoched(), matches)
    assert (of_epochs.low, of_epochs.high) == (None, None)
    assert not default_steps({"recordings": {"1": {"unit": "µV"}}}, without, matches).whiten
    assert default_steps({}, without, matches).whiten


# ---------------------------------------------------------------- the whole way


def as_recording(phantom, names, repetitions, sfreq=1000.0):
    """Put a phantom's test trials end to end, with 0.4 s between in which one leads to the next."""
    n_conditions = len(phantom.drives)
    order = np.random.default_rng(0).permutation(n_conditions * repetitions)
    conditions = order // repetitions
    trials = np.stack(
        [
            phantom.trials("test", int(condition), [int(repetition)])[0]
            for condition, repetition in zip(conditions, order % repetitions, strict=True)
        ]
    )
    gap = np.linspace(0, 1, 100)
    pieces, onsets, at = [], [], 0
    for trial, following in zip(trials, [*trials[1:], trials[-1]], strict=True):
        ends, begins = trial[:, -1:], following[:, :1]
        pieces += [trial, ends + (begins - ends) * gap]
        onsets.append(at / SFREQ - TMIN)
        at += trial.shape[1] + len(gap)
    volts = np.concatenate(pieces, 1) * RESOLUTION
    if sfreq != SFREQ:
        volts = mne.filter.resample(volts, sfreq, SFREQ, verbose="error")
    return Recording(
        "phantom.fif", "FIF", volts.astype(np.float32), [f"EEG {n.upper()}" for n in CHANNELS],
        sfreq, onsets=np.array(onsets), events=[names[c] for c in conditions],
    )  # fmt: skip


@pytest.mark.parametrize("sfreq", [250.0, 512.0])
def test_a_phantom_s_own_trials_come_back(tiny_bundle, sfreq):
    """Decoded as somebody's recording, a subject's trials give what the bundle says of them."""
    bundle, subject, repetitions = Bundle(tiny_bundle), "1", 10
    phantom = Phantom.open(bundle.file(bundle.manifest["trials"]["files"][subject]))
    names = [candidate.name for candidate in bundle.gallery.candidates]
    recording = as_recording(phantom, names, repetitions, sfreq)
    matches = match_channels(recording.channels, bundle.montage)
    chosen = default_steps(bundle.manifest, recording, matches)
    times = BundleDecoder(bundle).times
    epochs = prepare_epochs(recording, chosen, bundle.montage, times)
    assert epochs.interpolated == []
    assert len(epochs.conditions) >= len(recording.events) - 2
    for encoder in bundle.encoders(subject):
        decodings = decode_epochs(bundle, subject, encoder, epochs)
        assert {one.condition for one in decodings} == set(names)
        found = summary(bundle, decodings)
        # The bundle's own way to the same trials: whitened with the training trials' covariance.
        theirs = bundle.metrics(subject, encoder, repetitions) or bundle.metrics(
            subject, encoder, max(n for n in bundle.repetitions if n <= repetitions)
        )
        assert found.top1.value > 3 * found.top1.chance
        assert found.top1.low > found.top1.chance
        assert abs(found.mean_rank.value - theirs.mean_rank.value) < 1.5
    # What the encoder gets is what it got in training, but for the filter and the covariance.
    for row, name in enumerate(names):
        ours = epochs.eeg[epochs.of(name)].mean(0).ravel()
        made = phantom.evoked("test", row, [repetitions]).whitened[0].ravel()
        assert np.corrcoef(ours, made)[0, 1] > 0.8


def test_without_a_third_of_the_electrodes_it_still_works(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    phantom = Phantom.open(bundle.file(bundle.manifest["trials"]["files"]["1"]))
    names = [candidate.name for candidate in bundle.gallery.candidates]
    whole = as_recording(phantom, names, 10, SFREQ)
    kept = [row for row in range(63) if row % 3]
    part = replace(whole, volts=whole.volts[kept], channels=[whole.channels[r] for r in kept])
    chosen = default_steps(bundle.manifest, part, match_channels(part.channels, bundle.montage))
    times = BundleDecoder(bundle).times
    epochs = prepare_epochs(part, chosen, bundle.montage, times)
    assert len(epochs.interpolated) == 21
    found = summary(bundle, decode_epochs(bundle, "1", "nice", epochs))
    assert found.top5.low > found.top5.chance


def test_real_eeg_of_four_channels_is_shown(shared_data):
    with np.load(shared_data / "muse_n170" / "epochs.npz") as file:
        microvolts, labels = file["X"], file["y"]
        channels = [str(name) for name in file["channels"]]
    kinds = {1: "house", 2: "face"}
    recording = Recording(
        "epochs.npz", "npz", (1e-6 * microvolts).astype(np.float32), channels, 256.0,
        -26 / 256, events=[kinds[int(label)] for label in labels],
    )  # fmt: skip
    matches = match_channels(channels, CAP)
    chosen = default_steps({}, recording, matches)
    found = prepare_epochs(recording, replace(chosen, reject=100e-6), CAP, TIMES)
    assert found.eeg is None
    assert set(found.channels) <= set(channels)
    assert found.dropped > 0
    # Faces differ from houses most around 170 ms, behind the ears (the N170).
    face, n_faces = found.evoked("face")
    house, n_houses = found.evoked("house")
    assert n_faces + n_houses == len(found.conditions) > 1000
    behind = [found.channels.index(name) for name in ("TP9", "TP10")]
    difference = (face - house)[behind].mean(0)
    at = found.all_times[difference.argmin()]
    assert 0.13 < at < 0.22
