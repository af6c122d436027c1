"""Real EEG, faces against houses, through data folder, whitening, training and scoring."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks import n170
from benchmarks.n170 import Area, Epochs
from nice_demo.contrastive import ContrastiveLoss
from nice_demo.eegset import DataSet
from nice_demo.errors import InputError
from nice_demo.montage import Montage

RUN = 2  # of subject 1, held out


@pytest.fixture(scope="module")
def epochs(shared_data):
    return Epochs.open(shared_data / "muse_n170" / "epochs.npz")


@pytest.fixture(scope="module")
def montage(epochs):
    return Montage.standard(epochs.channels)


@pytest.fixture(scope="module")
def data(epochs, montage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("n170")
    n170.write_data_folder(folder, epochs, RUN, montage)
    return DataSet.open(folder)


def test_every_trial_is_a_condition_with_its_label(data, epochs):
    eeg = data.subject(1)
    mine = epochs.subject == "subject1"
    for split, gallery, chosen in (
        (eeg.train, data.train_gallery, mine & (epochs.run != RUN)),
        (eeg.test, data.test_gallery, mine & (epochs.run == RUN)),
    ):
        assert split.shape == (chosen.sum(), 1, 4, 231)
        labels = [candidate.concept == "face" for candidate in gallery.candidates]
        assert np.array_equal(labels, epochs.face[chosen])
        trials = [int(candidate.id.removeprefix("trial-")) for candidate in gallery.candidates]
        assert np.array_equal(trials, np.flatnonzero(chosen))
        expected = n170.concept_embeddings()[epochs.face[chosen].astype(int)]
        assert np.array_equal(gallery.embeddings, expected)
    assert not data.description["simulated"]
    assert data.montage.names == eeg.channels == ["TP9", "AF7", "AF8", "TP10"]
    assert eeg.test_repetitions == [1]
    assert (eeg.sfreq, eeg.meta["tmin"], eeg.meta["unit"]) == (256, epochs.tmin, "whitened")


def test_epochs_are_in_volts(epochs):
    assert 2e-6 < epochs.eeg.std() < 20e-6
    assert epochs.folds() == {
        "subject1": [0, 1, 2, 3, 4, 5],
        "subject2": [7, 8],
        "subject3": [9, 10, 11, 12],
    }


def test_concepts_are_orthogonal_unit_vectors():
    embeddings = n170.concept_embeddings()
    assert np.allclose(embeddings @ embeddings.T, np.eye(2), atol=1e-6)


def test_training_trials_are_white(data):
    """The mean covariance over trials is near 1: what shrinkage adds to it is a few per cent."""
    covariance = np.mean([np.cov(trial[0], bias=True) for trial in data.subject(1).train], 0)
    assert np.allclose(covariance, np.eye(4), atol=0.1)


def test_whitening_never_sees_the_held_out_run(data, epochs, montage, tmp_path):
    louder = epochs.eeg.copy()
    louder[epochs.run == RUN] *= 100
    louder[epochs.subject != "subject1"] *= 100
    n170.write_data_folder(tmp_path, replace(epochs, eeg=louder), RUN, montage)
    before, after = data.subject(1), DataSet.open(tmp_path).subject(1)
    assert np.array_equal(before.train, after.train)
    assert np.allclose(100 * before.test, after.test, atol=1e-3)


def test_trials_as_conditions_give_the_loss_of_concepts_as_conditions():
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 0])
    eeg = torch.randn(7, n170.DIM, dtype=torch.float64)
    pictures = torch.from_numpy(n170.concept_embeddings())[labels]
    loss = ContrastiveLoss()
    of_trials, of_concepts = loss(eeg, pictures, torch.arange(7)), loss(eeg, pictures, labels)
    assert of_trials.item() == pytest.approx(of_concepts.item(), abs=1e-5)


def test_area_is_the_mean_over_runs_with_an_honest_interval():
    rng = np.random.default_rng(3)
    face, run = rng.random(400) < 0.4, np.repeat([0, 1], 200)
    scores = rng.standard_normal(400) + 0.8 * face + 5 * run  # runs have different offsets
    found = Area.measure(scores, face, run, permutations=500)
    oracle = np.mean([roc_auc_score(face[run == r], scores[run == r]) for r in (0, 1)])
    assert found.value == pytest.approx(oracle)
    again = []  # the bootstrap's standard error, as an oracle of DeLong's
    for _ in range(150):
        areas = []
        for r in (0, 1):
            groups = [np.flatnonzero((run == r) & (face == f)) for f in (False, True)]
            rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
            areas.append(roc_auc_score(face[rows], scores[rows]))
        again.append(np.mean(areas))
    assert (found.high - found.low) / 3.92 == pytest.approx(np.std(again), rel=0.2)
    assert found.p == pytest.approx(1 / 501)
    noise = Area.measure(rng.standard_normal(400), face, run, permutations=500)
    assert noise.low < 0.5 < noise.high
    assert noise.p > 0.025


def test_lda_gives_the_known_area_for_subject_1(epochs):
    mine = epochs.subject == "subject1"
    scores = np.zeros(len(mine))
    for run in epochs.folds()["subject1"]:
        test = epochs.run == run
        scores[test] = n170.lda_scores(epochs, mine & ~test, test)
    found = Area.measure(scores[mine], epochs.face[mine], epochs.run[mine], permutations=200)
    assert round(found.value, 2) == 0.69
    assert found.low > 0.6


def test_nice_tells_faces_from_houses_in_a_run_it_never_saw(data, monkeypatch):
    monkeypatch.setattr(n170, "LEARNING_RATES", (1e-3,))  # one training instead of two
    scores = n170.nice_scores(data, replace(n170.RECIPE, epochs=8), seeds=(1,))
    face = [candidate.concept == "face" for candidate in data.test_gallery.candidates]
    assert roc_auc_score(face, scores) > 0.6  # chance: 0.5 ± 0.042


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no .*nothing.npz"):
        Epochs.open(tmp_path / "nothing.npz")
    assert n170.main(["--data", str(tmp_path / "nothing.npz")]) == 2
