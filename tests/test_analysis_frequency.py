"""Bands: filters are SciPy's, and information is found in the band where it was put."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import (
    CHANNELS,
    DIM,
    SFREQ,
    TEST,
    accuracy,
    literal_ranks,
    make_recording,
    threshold,
)
from scipy.signal import butter, sosfiltfilt
from sklearn.decomposition import PCA

from nice_demo.analysis import frequency
from nice_demo.analysis.frequency import (
    BANDS,
    FILTERED,
    components,
    heard,
    keep,
    remove,
    temporal_covariance,
)
from nice_demo.analysis.retrain import held_of
from nice_demo.analysis.series import RETRAINED, Found, Recording
from nice_demo.errors import InputError
from nice_demo.retrieval import ranks, similarity

NAMES = ["delta", "theta", "alpha", "beta", "low gamma", "high gamma"]


def oscillations(frequencies: list[float], size: float):
    """Return a linear code of the embedding in oscillations of these frequencies, Hz.

    They swell and ebb, for what is cut off at an edge leaks into other bands.
    """
    rng = np.random.default_rng(3)
    phases = 2 * np.pi * np.outer(frequencies, np.arange(250) / SFREQ)
    waves = np.concatenate([np.cos(phases), np.sin(phases)]) * np.hanning(250)
    mixing = size * rng.standard_normal((DIM, len(CHANNELS), len(waves)))
    return lambda embeddings: np.einsum("nd,dck,kt->nct", embeddings, mixing, waves)


@pytest.fixture(scope="module")
def beta(tmp_path_factory) -> Recording:
    return make_recording(tmp_path_factory.mktemp("beta"), oscillations([20.0, 21.0], 0.8))


@pytest.fixture(scope="module")
def found(beta) -> Found:
    return frequency.analyse(beta)


def series(found: Found, name: str, how: str):
    (one,) = [s for s in found.series if (s.name, s.how) == (name, how)]
    return one


def by_band(one) -> dict[str, float]:
    return dict(zip(one.axes[0].points, accuracy(one), strict=True))


# ---------------------------------------------------------------- filters


@pytest.mark.parametrize("band", NAMES)
@pytest.mark.parametrize("keeps", [True, False])
def test_the_matrix_is_the_filter(band, keeps):
    eeg = np.random.default_rng(4).standard_normal((5, 3, 250)) + 1
    low, high = BANDS[band]
    if band == "delta":
        kind, edges = ("lowpass" if keeps else "highpass"), 4
    else:
        kind, edges = ("bandpass" if keeps else "bandstop"), [low, high]
    sections = butter(4, edges, kind, fs=250, output="sos")
    expected = sosfiltfilt(sections, eeg, axis=2, padtype="even", padlen=249)
    matrix = (keep if keeps else remove)(250, 250.0, band)
    np.testing.assert_allclose(eeg @ matrix, expected, atol=1e-9)


def test_bands_pass_what_is_theirs():
    times = np.arange(250) / SFREQ
    inner = slice(75, 175)  # away from the edges
    for band in NAMES:
        filters = [f(250, SFREQ, band) for f in (keep, remove)]
        for other, (low, high) in BANDS.items():
            wave = np.cos(2 * np.pi * (low + high) / 2 * times)
            left = [np.std((wave @ matrix)[inner]) / np.std(wave[inner]) for matrix in filters]
            passed, stopped = left if other == band else left[::-1]
            assert passed > 0.93 and stopped < 0.12, (band, other)


def test_bands_above_what_the_rate_can_hold_are_left_out(beta):
    bundle = beta.bundle
    slow = type(bundle)(**vars(bundle) | {"manifest": bundle.manifest | {"sfreq": 100.0}})
    bare = frequency.analyse(replace(beta, bundle=slow, data=None))
    assert bare.series[0].axes[0].points == ["all", *NAMES[:-1]]
    assert list(bare.about["bands"]) == NAMES[:-1]


# ---------------------------------------------------------------- where the information is


def test_all_series_are_there(found):
    assert [(one.name, one.encoder, one.how) for one in found.series] == [
        ("a band alone", "ridge", FILTERED),
        ("without a band", "ridge", FILTERED),
        ("a band alone", "ridge", RETRAINED),
        ("without a band", "ridge", RETRAINED),
    ]
    for one in found.series:
        assert one.axes[0].name == "band" and one.axes[0].points == ["all", *NAMES]
        assert one.ranks.shape == (7, TEST)
    for how in (FILTERED, RETRAINED):
        alone, without = (series(found, name, how) for name in ("a band alone", "without a band"))
        assert (alone.ranks[0] == without.ranks[0]).all()


@pytest.mark.parametrize("how", [FILTERED, RETRAINED])
def test_information_in_beta_is_found_there_alone(found, how):
    one = series(found, "a band alone", how)
    hits, level = by_band(one), threshold(one)
    assert hits.pop("beta") > level + 0.15 and hits.pop("all") > level + 0.15
    assert all(share <= level for share in hits.values()), hits
    one = series(found, "without a band", how)
    hits, level = by_band(one), threshold(one)
    assert hits.pop("beta") <= level
    assert all(share > level + 0.15 for share in hits.values()), hits


def test_a_retrained_ridge_hears_what_averages_of_40_ms_cannot(tmp_path):
    # One cycle of 25 Hz takes 40 ms.
    found = frequency.analyse(make_recording(tmp_path, oscillations([25.0], 0.9)))
    for name in ("a band alone", "without a band"):
        one = series(found, name, FILTERED)
        assert (accuracy(one) <= threshold(one)).all()
    one = series(found, "a band alone", RETRAINED)
    hits, level = by_band(one), threshold(one)
    assert hits.pop("beta") > level + 0.15 and hits.pop("all") > level
    assert all(share <= level for share in hits.values()), hits
    assert by_band(series(found, "without a band", RETRAINED))["beta"] <= level


# ---------------------------------------------------------------- the arithmetic, step by step


def directly_filtered(eeg: np.ndarray, kind: str, edges) -> np.ndarray:
    sections = butter(4, edges, kind, fs=SFREQ, output="sos")
    return sosfiltfilt(sections, eeg, axis=2, padtype="even", padlen=249)


def test_filtered_at_test_is_the_encoder_on_filtered_eeg(beta, found):
    for name, point, kind, edges in (
        ("a band alone", 3, "bandpass", (8, 12)),
        ("a band alone", 1, "lowpass", 4),
        ("without a band", 4, "bandstop", (12, 30)),
    ):
        eeg = directly_filtered(beta.eeg.astype(float), kind, edges).astype(np.float32)
        with torch.inference_mode():
            decoded = beta.encoders["ridge"](torch.from_numpy(eeg)).numpy()
        expected = ranks(similarity(decoded, beta.bundle.gallery.embeddings), np.arange(TEST))
        ours = series(found, name, FILTERED).ranks[point].astype(int)
        assert (ours == expected).mean() > 0.9 and np.abs(ours - expected).max() <= 1


def test_retrained_is_a_ridge_on_components_of_filtered_trials(beta, found):
    trials, held = np.asarray(beta.data.subject(1).train[:, 0], float), held_of(beta)
    for name, point, kind, edges in (
        ("a band alone", 3, "bandpass", (8, 12)),
        ("without a band", 6, "bandstop", (55, 95)),
    ):
        train, test = (directly_filtered(eeg, kind, edges) for eeg in (trials, beta.eeg))
        # Components of what varies from trial to trial, all channels together.
        varies = train[~held] - train[~held].mean(0)
        pca = PCA(svd_solver="full").fit(np.concatenate([varies.reshape(-1, 250)] * 2))
        shares = np.cumsum(pca.explained_variance_ratio_)
        number = min(50, 1 + next(i for i, share in enumerate(shares) if share >= 0.99))
        assert found.arrays[f"{name}: components"][point] == number
        assert found.arrays[f"{name}: share of variance"][point] == pytest.approx(
            shares[number - 1], abs=1e-4
        )
        projected = [
            np.einsum("nct,kt->nck", eeg, pca.components_[:number]).reshape(len(eeg), -1)
            for eeg in (train, test)
        ]
        ours = series(found, name, RETRAINED).ranks[point].astype(int)
        expected = literal_ranks(beta, *projected)
        assert (ours == expected).mean() > 0.85 and np.abs(ours - expected).max() <= 2


def test_the_covariance_is_that_of_the_trials_trained_on(beta, monkeypatch):
    trials = np.asarray(beta.data.subject(1).train[:, 0], float)[~held_of(beta)]
    expected = np.mean([np.cov(trials[:, c].T, bias=True) for c in range(len(CHANNELS))], 0)
    monkeypatch.setattr(frequency, "ROWS", 17)
    np.testing.assert_allclose(temporal_covariance(beta), expected, atol=1e-4)


def test_components_hold_the_share_they_say():
    covariance = np.diag([5.0, 3.0, 1.0, 0.95, 0.05])
    weights, share = components(covariance, np.eye(5))
    assert weights.shape == (5, 4) and share == pytest.approx(0.995)
    # Of white noise, 50 of 250 components hold a fifth.
    weights, share = components(np.eye(250), np.eye(250))
    assert weights.shape == (250, 50) and share == pytest.approx(0.2)


# ---------------------------------------------------------------- what is said beside


def test_averaging_is_deaf_where_a_wave_fits_into_it():
    times = np.arange(100_000) / 250
    for samples, hertz in ((51, 2.0), (51, 10.0), (10, 21.0), (1, 40.0)):
        wave = np.cos(2 * np.pi * hertz * times)
        averaged = np.convolve(wave, np.full(samples, 1 / samples), "valid")
        assert heard(samples, hertz, 250.0) == pytest.approx(averaged.std() / wave.std(), abs=1e-3)
    assert heard(51, 250 / 51, 250.0) == pytest.approx(0, abs=1e-12)
    assert heard(51, 0.0, 250.0) == 1


def test_what_is_said_is_computed(found):
    said = found.about
    assert said["bands"]["high gamma"] == [55.0, 95.0] and said["middles"]["beta"] == 21.0
    assert said["heard"]["nice"]["delta"] == heard(51, 2.0, 250.0) > 0.7
    assert max(said["heard"]["nice"][name] for name in NAMES[2:]) < 0.2
    assert said["heard"]["ridge"]["alpha"] == heard(10, 10.0, 250.0) > 0.7
    assert "204 ms" in said["deaf"] and "4.9 Hz" in said["deaf"] and "edges" in said["note"]


def test_without_training_trials_the_retrained_series_are_left_out(beta, found):
    bare = frequency.analyse(replace(beta, data=None))
    assert [one.how for one in bare.series] == [FILTERED, FILTERED] and not bare.arrays
    assert (bare.series[1].ranks == found.series[1].ranks).all()
    assert "training trials" in bare.about["left_out"][0]
    with pytest.raises(InputError, match="neither"):
        frequency.analyse(replace(beta, data=None, encoders={}))
