"""Ridge from moments: against scikit-learn on the rows themselves, and against training."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from tiny import STORED_CHANNELS, flat_montage

from nice_demo.analysis.retrain import (
    Linear,
    averages,
    features,
    forty_ms,
    held_of,
    moments,
    of_subject,
)
from nice_demo.analysis.series import Recording
from nice_demo.bundle import Bundle
from nice_demo.eegset import DataSet
from nice_demo.encoders import embed
from nice_demo.errors import InputError
from nice_demo.retrieval import ranks
from nice_demo.settings import Settings, held_out
from nice_demo.training import RIDGE_STRENGTHS, fit_ridge


@pytest.fixture(scope="module")
def data(stored_data) -> DataSet:
    return DataSet.open(stored_data)


@pytest.fixture(scope="module")
def recording(stored_bundle, data) -> Recording:
    return Recording.open(Bundle(stored_bundle), "1", data)


HELD = np.arange(60) % 4 == 1


def of(data: DataSet, subject: int, times_to_features: np.ndarray):
    pictures = data.train_gallery.embeddings
    return moments(data.training_set(subject), pictures, HELD, times_to_features)


def literal_fit(x: np.ndarray, y: np.ndarray, held: list[tuple[np.ndarray, np.ndarray]]):
    """Fit all strengths on rows and take the best for the held-out pictures of all subjects."""
    best = (-1.0, None, None)
    for strength in RIDGE_STRENGTHS:
        ridge = SklearnRidge(alpha=strength * x.var(0).mean() * len(x)).fit(x, y)
        scores = []
        for held_x, held_y in held:
            found = []
            for i, predicted in enumerate(ridge.predict(held_x)):
                unit = predicted / np.linalg.norm(predicted)
                cosines = [unit @ (picture / np.linalg.norm(picture)) for picture in held_y]
                found.append(1 / sum(cosine >= cosines[i] - 1e-12 for cosine in cosines))
            scores.append(np.mean(found))
        if np.mean(scores) > best[0] + 1e-12:
            best = (np.mean(scores), strength, ridge)
    return best[1:]


def rows_of(data: DataSet, subject: int, times_to_features: np.ndarray) -> np.ndarray:
    """Compute the features of all conditions, number by number."""
    trials = np.asarray(data.training_set(subject).train, float).mean(1)
    return np.array(
        [[channel @ weights for channel in trial for weights in times_to_features.T]
         for trial in trials]
    )  # fmt: skip


def test_moments_are_sums_over_rows(data):
    times_to_features = np.random.default_rng(0).standard_normal((80, 3))
    found, rows = of(data, 1, times_to_features), rows_of(data, 1, times_to_features)
    x, y = rows[~HELD], data.train_gallery.embeddings[~HELD].astype(float)
    assert found.count == 45
    for ours, expected in (
        (found.sum_x, x.sum(0)),
        (found.sum_y, y.sum(0)),
        (found.xx, x.T @ x),
        (found.xy, x.T @ y),
        (found.held_x[0], rows[HELD]),
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert (found.held_y[0] == data.train_gallery.embeddings[HELD]).all()


def test_many_rows_are_taken_in_batches(data, monkeypatch):
    at_once = of(data, 1, forty_ms(80))
    monkeypatch.setattr("nice_demo.analysis.retrain.ROWS", 7)
    np.testing.assert_allclose(of(data, 1, forty_ms(80)).xx, at_once.xx, rtol=1e-12)


@pytest.mark.parametrize("kept", [None, [0, 3, 17, 30], "half"])
def test_the_fit_is_ridge_regression_on_the_rows(data, kept):
    times_to_features = forty_ms(80)
    kept = np.arange(32) < 16 if isinstance(kept, str) else kept
    kept = np.arange(32) if kept is None else np.asarray(kept)
    found = of(data, 1, times_to_features).keep(kept).fit()
    rows, pictures = rows_of(data, 1, times_to_features)[:, kept], data.train_gallery.embeddings
    strength, ridge = literal_fit(rows[~HELD], pictures[~HELD], [(rows[HELD], pictures[HELD])])
    assert found.strength == strength
    np.testing.assert_allclose(found.embed(rows), ridge.predict(rows), atol=1e-4)


def test_pooled_subjects_are_one_ridge_chosen_on_the_mean_over_subjects(data):
    times_to_features = forty_ms(80)
    pooled = of(data, 1, times_to_features) + of(data, 2, times_to_features)
    rows = [rows_of(data, subject, times_to_features) for subject in (1, 2)]
    y = data.train_gallery.embeddings
    x = np.concatenate([one[~HELD] for one in rows])
    held = [(one[HELD], y[HELD]) for one in rows]
    strength, ridge = literal_fit(x, np.concatenate([y[~HELD]] * 2), held)
    assert pooled.count == 90 and len(pooled.held_x) == 2
    assert pooled.fit().strength == strength
    np.testing.assert_allclose(pooled.fit().embed(rows[1]), ridge.predict(rows[1]), atol=1e-4)


def test_forty_ms_is_the_ridge_that_training_fits(data):
    concepts = [candidate.concept for candidate in data.train_gallery.candidates]
    for subject, seed in ((1, 3), (2, 4)):
        settings = Settings(encoder="ridge")
        pictures, eeg = data.train_gallery.embeddings, data.subject(subject)
        run = fit_ridge(eeg, pictures, concepts, settings, seed)
        held = held_out(concepts, settings, seed)
        ours = moments(eeg, pictures, held, forty_ms(80)).fit()
        assert ours.strength == RIDGE_STRENGTHS[run.best_epoch]
        test = eeg.evoked(4)
        expected = embed(run.selected, torch.from_numpy(test)).numpy()
        found = ours.embed(features(test, forty_ms(80)))
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_with_the_bundles_split_it_ranks_as_the_shipped_ridge(recording):
    decoder = of_subject(recording, "1").fit()
    ours = recording.compare(decoder.embed(features(recording.eeg, forty_ms(80))))
    shipped = recording.decode("ridge", recording.eeg)
    np.testing.assert_allclose(ours, shipped, atol=2e-3)  # that was rounded to float16
    target = recording.target
    assert (ranks(ours, target) == ranks(shipped, target)).all()
    assert (ranks(ours, target) == 1).mean() > 0.5


def test_features_are_channel_by_channel():
    eeg = np.arange(2 * 3 * 47, dtype=np.float32).reshape(2, 3, 47)
    found = features(eeg, forty_ms(47))
    expected = [
        [trial[c, 10 * w : 10 * w + 10].mean() for c in range(3) for w in range(4)] for trial in eeg
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(averages(7, 3)[:, 1], [0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0])


def test_the_held_out_pictures_are_the_bundles(recording, data):
    concepts = [candidate.concept for candidate in data.train_gallery.candidates]
    entry = recording.bundle.manifest["encoders"]["1"]["ridge"]
    expected = held_out(concepts, Settings(**entry["settings"]), entry["seed"])
    assert (held_of(recording) == expected).all() and expected.any()
    # A bundle without a ridge: the split of what it has.
    manifest = {"encoders": {"1": {"nice": {"settings": {"validation_conditions": 5}, "seed": 9}}}}
    other = Recording(SimpleNamespace(manifest=manifest), "1", recording.eeg, {}, data)
    expected = held_out(concepts, Settings(validation_conditions=5), 9)
    assert (held_of(other) == expected).all()


def test_moments_of_subjects_are_kept(recording):
    assert of_subject(recording, "1") is of_subject(recording, "1", forty_ms(80))
    other = of_subject(recording, "2")
    assert other is not of_subject(recording, "1")
    assert not np.allclose(other.xx, of_subject(recording, "1").xx)
    wider = of_subject(recording, "2", averages(80, 20))
    assert wider.xx.shape == (16, 16)
    assert (of_subject(recording, "2").fit().weight == other.fit().weight).all()


def test_what_does_not_go_together_is_refused(recording):
    def refuses(change: dict, subject: str = "1", match: str = ""):
        with pytest.raises(InputError, match=match) as caught:
            of_subject(Recording(**{**vars(recording), **change}), subject)
        assert str(caught.value).count("\n") == 0

    refuses({"data": None}, match="training trials")
    refuses({}, "3", match="prepare it first")
    refuses({}, "x", match="prepare it first")
    refuses({"eeg": recording.eeg[:, :, :70]}, match="70")
    gallery = recording.bundle.gallery
    other = SimpleNamespace(montage=flat_montage(STORED_CHANNELS[::-1]), gallery=gallery)
    refuses({"bundle": other}, match="named otherwise")
    gallery = SimpleNamespace(embeddings=np.ones((6, 5)))
    other = SimpleNamespace(montage=flat_montage(STORED_CHANNELS), gallery=gallery)
    refuses({"bundle": other}, match="image model")


def test_nothing_to_train_on_is_refused(data):
    found = of(data, 1, forty_ms(80))
    nothing = moments(
        data.training_set(1), data.train_gallery.embeddings, np.zeros(60, bool), forty_ms(80)
    )
    with pytest.raises(InputError, match="60 trials with 0 held out"):
        nothing.fit()
    everything = moments(
        data.training_set(1), data.train_gallery.embeddings, np.ones(60, bool), forty_ms(80)
    )
    with pytest.raises(InputError, match="0 trials with 60 held out"):
        everything.fit()
    silent = moments(data.training_set(1), data.train_gallery.embeddings, HELD, np.zeros((80, 1)))
    with pytest.raises(InputError, match="varies"):
        silent.fit()
    assert isinstance(found.fit(), Linear) and math.isfinite(found.fit().strength)
