"""The leaderboard of maps, on recordings whose only source is known by construction."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sentences import refuses
from test_explain import Compass

from nice_demo.analysis.series import Analysis, Recording
from nice_demo.analysis.truth import FIGURES, SANITY, WEIGHTS, analyse, leaderboard, lesson
from nice_demo.bundle import Bundle
from nice_demo.explain import KINDS
from nice_demo.montage import REGIONS, positions

CHANNELS = ["Fp1", "F7", "Cz", "P7", "P8", "O1", "Oz", "O2"]
SOURCE, WINDOW = CHANNELS.index("P8"), slice(30, 40)  # the only place that knows of the picture
N_TIMES, N_PICTURES = 60, 10
PLACE = np.zeros((len(CHANNELS), N_TIMES))
PLACE[SOURCE, WINDOW] = 1


class Stub:
    """A phantom's trials, and a bundle around them, of one source."""

    def __init__(self, whitening):
        rng = np.random.default_rng(0)
        self.whitening = np.stack([0.9 * whitening, 1.1 * whitening])  # two sessions
        self.strength = rng.standard_normal(N_PICTURES)
        self.manifest = {"sfreq": 250.0, "tmin": 0.0}
        self.montage = SimpleNamespace(names=CHANNELS, positions=positions(CHANNELS))
        embeddings = np.tile([1.0, 0.0], (N_PICTURES, 1))
        self.gallery = SimpleNamespace(embeddings=embeddings, keeps_norms=False)

    def trials(self, subject):
        return self

    def responses(self):
        return self.strength[:, None, None] * PLACE


def recording(weights, whitening=None, seed=1):
    """Return a recording with noise everywhere and encoders that read what `weights` say."""
    bundle = Stub(np.eye(len(CHANNELS)) if whitening is None else whitening)
    rng = np.random.default_rng(seed)
    eeg = whitening_of(bundle) @ bundle.responses()
    eeg += 0.1 * rng.standard_normal(eeg.shape)
    encoders = {}
    for name, weight in weights.items():
        encoder = Compass(*PLACE.shape).eval()
        encoder.weight.data = 0.01 * torch.as_tensor(weight, dtype=torch.float32)
        encoders[name] = encoder
    return Recording(bundle, "1", eeg.astype(np.float32), encoders)


def whitening_of(bundle):
    return sum(bundle.whitening) / len(bundle.whitening)


def scores_of(found, encoder, kind, weights="trained"):
    about = found.about
    row = found.arrays["scores"][about["encoders"].index(encoder), about["kinds"].index(kind)]
    return dict(zip(FIGURES, row[WEIGHTS.index(weights)].tolist(), strict=True))


CHANNEL_KINDS = ["occlusion by channel", "integrated gradients", "gradient × input", "pattern"]


def test_maps_of_an_encoder_that_reads_the_source_alone():
    away = np.zeros_like(PLACE)
    away[0, 5:15] = 1  # Fp1, early
    found = analyse(recording({"right": PLACE, "wrong": away}))
    between = 1000 * np.linalg.norm(np.diff(positions(["Fp1", "P8"]), axis=0))
    for kind in CHANNEL_KINDS:
        right, wrong = scores_of(found, "right", kind), scores_of(found, "wrong", kind)
        assert right["channels"] == pytest.approx(1), kind
        assert right["distance"] == 0
        assert wrong["channels"] == pytest.approx(-1 / 7)
        assert wrong["distance"] == pytest.approx(between, rel=1e-5)
        assert right["chance distance"] == wrong["chance distance"] > 50
        if kind != "occlusion by channel":
            assert right["times"] > 0.99  # the true course is flat inside, maps are not
            assert wrong["times"] < 0
    window = scores_of(found, "right", "occlusion by window")
    assert window["times"] == pytest.approx(1)
    assert np.isnan(window["channels"]) and np.isnan(window["distance"])
    # P8 shares its region with P7: occlusion by region can't tell them apart.
    assert "P8" in REGIONS["parietal"]
    region = scores_of(found, "right", "occlusion by region")
    assert 0.5 < region["channels"] < 1
    # Untrained, the encoder reads everything alike: gradients × EEG still find the EEG.
    for kind in CHANNEL_KINDS:
        untrained = scores_of(found, "right", kind, "untrained")
        assert abs(untrained["channels"]) < 0.99
    free = scores_of(found, "right", "gradient × input", "untrained")
    assert free["distance"] == 0 and free["channels"] > 0.4


def test_arrays_and_names():
    found = analyse(recording({"right": PLACE}))
    arrays, about = found.arrays, found.about
    assert found.series == []
    assert about["kinds"] == list(KINDS) and about["figures"] == list(FIGURES)
    assert about["pictures"] == 10 and len(about["times"]) == N_TIMES
    shapes = {name: array.shape for name, array in arrays.items()}
    n = len(KINDS)
    assert shapes == {
        "scores": (1, n, 2, len(FIGURES)),
        "sanity": (1, n, 2),
        "found channels": (1, n, 8),
        "found time course": (1, n, N_TIMES),
        "true channels": (2, 8),
        "true time course": (2, N_TIMES),
    }
    assert all(array.dtype == np.float32 for array in arrays.values())
    # No attention and no convolution here.
    for kind in ("attention", "grad-cam", "grad-cam by place"):
        k = KINDS.index(kind)
        assert all(np.isnan(arrays[name][0, k]).all() for name in list(shapes)[:4])
    k = KINDS.index("integrated gradients")
    assert arrays["found channels"][0, k].tolist() == arrays["true channels"][0].tolist()
    assert arrays["true time course"][1].tolist() == PLACE[SOURCE].tolist()
    assert (arrays["found time course"][0, k] > 0).tolist() == (PLACE[SOURCE] > 0).tolist()
    assert np.isnan(arrays["found time course"][0, KINDS.index("occlusion by channel")]).all()
    # Of the trained map 10 values of 480 aren't 0; whether the others agree with random signs …
    signed, sizes = arrays["sanity"][0, k]
    assert abs(signed) < 0.2 and abs(sizes) < 0.3


def test_maps_are_scored_in_their_own_space():
    # Channel 0 carries much noise in common with the source's: whitening moves the source there.
    mixing = np.eye(8)
    mixing[SOURCE, SOURCE] = 0.2
    mixing[0, SOURCE] = mixing[SOURCE, 0] = -0.5
    made = recording({"input": PLACE}, mixing)
    whitened = np.einsum("cd,ndt->nct", whitening_of(made.bundle), made.bundle.responses())
    made.encoders["input"].weight.data = 0.01 * torch.as_tensor(whitened.std(0)).float()
    found = analyse(made)
    np.testing.assert_allclose(found.arrays["true channels"][1], np.eye(8)[SOURCE], atol=1e-6)
    np.testing.assert_allclose(
        found.arrays["true channels"][0], [1, 0, 0, 0, 0.4, 0, 0, 0], atol=1e-6
    )
    scored = scores_of(found, "input", "integrated gradients")
    assert scored["channels"] == pytest.approx(1) and scored["distance"] == 0
    assert scored["channels in volts"] < 0.7
    pattern = scores_of(found, "input", "pattern")
    assert pattern["channels"] == pattern["channels in volts"]
    assert found.about["space of kind"]["pattern"] == "volts"
    assert {v for k, v in found.about["space of kind"].items() if k != "pattern"} == {"whitened"}


def test_a_phantom_subject(tiny_bundle):
    found = analyse(Recording.open(Bundle(tiny_bundle), "1"))
    assert found.about["pictures"] == 12  # no more test pictures there are
    assert np.isfinite(found.arrays["scores"][..., 0]).sum() > 20
    one = Analysis("truth", [], {k: v[None] for k, v in found.arrays.items()}, found.about)
    rows = leaderboard(one)
    assert np.isnan(rows[0].gain.low) and not rows[0].learned
    assert "One subject is too few" in lesson(rows)[-1]
    trained = {(row.encoder, row.kind): row.trained.value for row in rows}
    assert trained["nice", "integrated gradients"] > 0.3


def test_real_subjects_have_no_leaderboard(stored_bundle):
    refuses(
        lambda: analyse(Recording.open(Bundle(stored_bundle), "1")),
        "Nobody knows the true sources of subject 1",
    )


# ---------------------------------------------------------------- the leaderboard


def stacked(scores, sanity=0.1):
    """Stack scores {kind: (trained by subject, untrained by subject)} of one encoder."""
    subjects = len(next(iter(scores.values()))[0])
    array = np.full((subjects, 1, len(scores), 2, len(FIGURES)), np.nan, np.float32)
    for k, pair in enumerate(scores.values()):
        array[:, 0, k, :, :2] = np.transpose(pair)[..., None]
        array[:, 0, k, :, FIGURES.index("chance distance")] = 0.5
    checks = np.full((subjects, 1, len(scores), 2), sanity, np.float32)
    about = {
        "encoders": ["made"],
        "kinds": list(scores),
        "figures": list(FIGURES),
        "sanity": list(SANITY),
    }
    return Analysis("truth", [], {"scores": array, "sanity": checks}, about)


def test_leaderboard_by_hand():
    made = stacked({
        "free": ([0.9, 0.9, 0.8], [0.9, 0.8, 0.8]),
        "learns": ([0.6, 0.7, 0.8], [0.1, 0.2, 0.2]),
        "inverted": ([0.3, 0.2, 0.4], [-0.6, -0.8, -0.7]),  # chance does better than untrained
        "no such map": ([np.nan] * 3, [np.nan] * 3),
    })  # fmt: skip
    rows = {row.kind: row for row in leaderboard(made)}
    assert list(rows) == ["learns", "inverted", "free"]
    gains = np.array([0.5, 0.5, 0.6])
    expected = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    assert rows["learns"].gain == rows["learns"].difference
    assert rows["learns"].gain.value == pytest.approx(gains.mean())
    assert (rows["learns"].gain.low, rows["learns"].gain.high) == pytest.approx(expected, abs=1e-6)
    assert rows["inverted"].difference.value == pytest.approx(1)
    assert rows["inverted"].gain == rows["inverted"].over_chance == rows["inverted"].trained
    assert rows["learns"].learned and not rows["free"].learned
    assert rows["learns"].sanity == pytest.approx({"signed": 0.1, "sizes": 0.1})
    assert rows["free"].subjects == 3 and rows["free"].chance == 0
    said = lesson(list(rows.values()))
    assert said[0].startswith("Most beyond what is had for nothing: learns of made, 0.70")
    assert "The best figure is that of free of made, 0.87" in said[1]
    assert "Of 3 maps, 2 beat" in said[2]
    assert said[3].endswith("hardly more than untrained: free of made.")


def test_less_distance_is_better():
    made = stacked({
        "near": ([0.1, 0.0, 0.1], [0.4, 0.4, 0.3]),
        "far": ([0.9, 0.9, 0.9], [0.8, 0.9, 0.7]),
        "unlucky": ([0.2, 0.2, 0.1], [0.9, 0.9, 0.8]),  # untrained is worse than chance, 0.5
    })  # fmt: skip
    rows = leaderboard(made, "distance")
    assert [row.kind for row in rows] == ["unlucky", "near", "far"]
    assert rows[0].gain.value == pytest.approx(np.mean([0.3, 0.3, 0.4]))
    assert rows[0].difference.value == pytest.approx(0.7)
    assert rows[1].gain.value == pytest.approx(np.mean([0.3, 0.4, 0.2]))
    assert rows[2].gain.value == pytest.approx(-0.4) and rows[2].chance == 0.5
    assert "near of made, 0.07" in lesson(rows, "distance")[1]


def test_a_figure_that_no_map_has():
    rows = leaderboard(stacked({"free": ([0.9, 0.9], [0.9, 0.8])}), "times")
    assert rows == [] and lesson(rows, "times") == ["No map has the figure 'times'."]
