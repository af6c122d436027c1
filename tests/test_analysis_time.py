"""Windows: information is found where it was put, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import CHANNELS, DIM, TEST, accuracy, literal_ranks, make_recording, threshold

from nice_demo.analysis import time
from nice_demo.analysis.series import RETRAINED, ZEROED, Found, Recording
from nice_demo.errors import InputError
from nice_demo.retrieval import ranks, similarity

INFORMED = slice(100, 125)  # 0.4 to 0.5 s


def one_window(embeddings: np.ndarray) -> np.ndarray:
    mixing = np.random.default_rng(1).standard_normal((DIM, len(CHANNELS), 5))
    code = np.einsum("nd,dct->nct", embeddings, mixing)
    eeg = np.zeros((len(embeddings), len(CHANNELS), 250))
    eeg[:, :, INFORMED] = 2 * np.repeat(code, 5, axis=2)  # a code that changes every 20 ms
    return eeg


def two_codes(embeddings: np.ndarray) -> np.ndarray:
    """One code from 0.2 to 0.4 s, another one from 0.6 to 0.8 s."""
    rng = np.random.default_rng(2)
    eeg = np.zeros((len(embeddings), len(CHANNELS), 250))
    for start in (50, 150):
        code = embeddings @ rng.standard_normal((DIM, len(CHANNELS)))
        eeg[:, :, start : start + 50] = 3 * code[:, :, None]
    return eeg


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Recording:
    return make_recording(tmp_path_factory.mktemp("window"), one_window)


@pytest.fixture(scope="module")
def found(recording) -> Found:
    return time.analyse(recording)


def series(found: Found, name: str, how: str):
    (one,) = [s for s in found.series if (s.name, s.how) == (name, how)]
    return one


def test_all_series_are_there(found):
    assert [(one.name, one.encoder, one.how) for one in found.series] == [
        ("growing windows", "ridge", ZEROED),
        ("sliding windows", "ridge", ZEROED),
        ("growing windows", "ridge", RETRAINED),
        ("temporal generalisation", "ridge", RETRAINED),
        ("sliding windows", "ridge", RETRAINED),
    ]
    growing, sliding, _, both, _ = found.series
    assert growing.axes[0].name == "end of the window" and growing.axes[0].unit == "s"
    assert growing.axes[0].points == pytest.approx(np.arange(1, 26) * 0.04)
    assert sliding.axes[0].name == "middle of the window"
    assert sliding.axes[0].points == pytest.approx(0.05 + 0.04 * np.arange(23))
    assert [axis.name for axis in both.axes] == ["trained at", "tested at"]
    assert both.axes[0].points == pytest.approx(0.02 + 0.04 * np.arange(25))
    assert both.ranks.shape == (25, 25, TEST)
    assert "200 ms" in found.about["note"] and "left_out" not in found.about


@pytest.mark.parametrize("how", [ZEROED, RETRAINED])
def test_growing_windows_know_nothing_before_the_information(found, how):
    one = series(found, "growing windows", how)
    ends, level = np.array(one.axes[0].points), threshold(one)
    assert (accuracy(one)[ends <= 0.401] <= level).all()
    assert (accuracy(one)[ends >= 0.499] > level + 0.15).all()


@pytest.mark.parametrize("how", [ZEROED, RETRAINED])
def test_sliding_windows_find_the_information_where_it_is(found, how):
    one = series(found, "sliding windows", how)
    away, level = np.abs(np.array(one.axes[0].points) - 0.45), threshold(one)
    assert (accuracy(one)[away >= 0.1] <= level).all()
    assert (accuracy(one)[away <= 0.03] > level + 0.15).all()


def test_zeroed_windows_are_silence_outside(recording, found):
    encoder = recording.encoders["ridge"]
    for name, windows in (
        ("growing windows", [range(0, 10 * (k + 1)) for k in range(25)]),
        ("sliding windows", [range(10 * k, 10 * k + 25) for k in range(23)]),
    ):
        for k, window in enumerate(windows):
            eeg = torch.zeros(TEST, len(CHANNELS), 250)
            for t in window:
                eeg[:, :, t] = torch.from_numpy(recording.eeg[:, :, t])
            with torch.inference_mode():
                cosines = similarity(encoder(eeg).numpy(), recording.bundle.gallery.embeddings)
            expected = ranks(cosines, np.arange(TEST))
            assert (series(found, name, ZEROED).ranks[k] == expected).all()


def test_retrained_windows_are_ridges_of_their_own(recording, found):
    trials = np.asarray(recording.data.subject(1).train[:, 0], float)

    def of_windows(eeg, starts, width):
        return np.stack([eeg[:, :, s : s + width].mean(2) for s in starts], 2).reshape(len(eeg), -1)

    for name, k, starts, width in (
        ("growing windows", 0, [0], 10),
        ("growing windows", 12, range(0, 130, 10), 10),
        ("sliding windows", 10, range(100, 125, 5), 5),
        ("sliding windows", 22, range(220, 245, 5), 5),
    ):
        train, test = of_windows(trials, starts, width), of_windows(recording.eeg, starts, width)
        expected = literal_ranks(recording, train, test)
        ours = series(found, name, RETRAINED).ranks[k]
        assert (ours == expected).mean() > 0.9  # float32 features: near ties may turn over
        assert np.abs(ours.astype(int) - expected).max() <= 1


def test_generalisation_tells_a_code_that_stays_from_one_that_changes(tmp_path):
    one = series(time.analyse(make_recording(tmp_path, two_codes)), "temporal generalisation",
                 RETRAINED)  # fmt: skip
    hits, level = accuracy(one), threshold(one)
    first, second = slice(5, 10), slice(15, 20)
    for code in (first, second):
        assert (hits[code, code] > level).all() and hits[code, code].mean() > level + 0.05
    informed = np.zeros((25, 25), bool)
    informed[first, first] = informed[second, second] = True
    # One code read with the other's decoder, and silence either side.
    assert (hits[~informed] <= level).all()
    assert hits[~informed].mean() == pytest.approx(1 / TEST, abs=0.01)


def test_generalisation_is_trained_at_one_time_and_tested_at_another(recording, found):
    trials = np.asarray(recording.data.subject(1).train[:, 0], float)
    for trained, tested in ((10, 11), (11, 10), (3, 20)):
        train = trials[:, :, 10 * trained : 10 * trained + 10].mean(2)
        test = recording.eeg[:, :, 10 * tested : 10 * tested + 10].mean(2)
        ours = series(found, "temporal generalisation", RETRAINED).ranks[trained, tested]
        expected = literal_ranks(recording, train, test)
        assert (ours == expected).mean() > 0.9


def test_without_training_trials_the_retrained_series_are_left_out(recording, found):
    bare = time.analyse(replace(recording, data=None))
    assert [one.how for one in bare.series] == [ZEROED, ZEROED]
    assert (bare.series[0].ranks == found.series[0].ranks).all()
    assert "training trials" in bare.about["left_out"][0]


def test_what_cannot_be_analysed_is_refused(recording):
    with pytest.raises(InputError, match="neither"):
        time.analyse(replace(recording, data=None, encoders={}))
    with pytest.raises(InputError, match="24 samples"):
        time.analyse(replace(recording, eeg=recording.eeg[:, :, :24]))
