"""More repetitions and more training pictures: against loops, and where more is known to help."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from tiny import STORED_CHANNELS, flat_montage

from nice_demo.analysis.repetitions import SHARES, _decoders, _quarters, analyse
from nice_demo.analysis.retrain import features, forty_ms, held_of, of_subject
from nice_demo.analysis.series import AS_TRAINED, RETRAINED, Recording, join
from nice_demo.bundle import Bundle
from nice_demo.eegset import DataSet, EEGSet
from nice_demo.files import write_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.settings import Settings
from nice_demo.training import fit_ridge


@pytest.fixture(scope="module")
def recording(stored_bundle, stored_data) -> Recording:
    return Recording.open(Bundle(stored_bundle), "1", DataSet.open(stored_data))


@pytest.fixture(scope="module")
def found(recording):
    return analyse(recording)


def test_repetitions_against_loops(recording, found, stored_data):
    trials = DataSet.open(stored_data).subject(1).test
    gallery = recording.bundle.gallery
    several = [one for one in found.series if one.name == "test repetitions"]
    assert {one.encoder for one in several} == {"nice", "ridge"}
    for series in several:
        assert series.how == AS_TRAINED and series.ways == 6
        assert series.axes[0].points == recording.bundle.repetitions == [1, 2, 4]
        for ranks, repetitions in zip(series.ranks, series.axes[0].points, strict=True):
            for picture in range(6):
                # Averages are stored as float16.
                eeg = trials[picture, :repetitions].mean(0, dtype=float).astype(np.float16)
                with torch.no_grad():
                    encoder = recording.encoders[series.encoder]
                    embedding = encoder(torch.tensor(eeg[None], dtype=torch.float32))[0].numpy()
                cosines = [embedding @ one / np.linalg.norm(one) for one in gallery.embeddings]
                assert ranks[picture] == sum(one >= cosines[picture] for one in cosines)


def test_quarters_are_random_and_hold_nothing_out(recording):
    parts, held = _quarters(recording), held_of(recording)
    assert sorted(np.concatenate(parts)) == np.flatnonzero(~held).tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    again = _quarters(recording)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))
    elsewhere = _quarters(Recording(**{**vars(recording), "subject": "2"}))
    assert any(one.tolist() != other.tolist() for one, other in zip(parts, elsewhere, strict=True))
    assert np.diff(np.concatenate(parts)).min() < 0  # not in order


def test_shares_of_the_training_pictures_against_scikit_learn(recording, found):
    parts, trials = _quarters(recording), recording.data.training_set(1).train
    pictures = recording.data.train_gallery.embeddings.astype(float)
    x = features(np.asarray(trials, float).mean(1), forty_ms(80)).astype(float)
    decoders = list(_decoders(recording, parts))
    for quarter, decoder in enumerate(decoders):
        rows = np.concatenate(parts[: quarter + 1])
        alpha = decoder.strength * x[rows].var(0).mean() * len(rows)
        expected = SklearnRidge(alpha=alpha).fit(x[rows], pictures[rows])
        np.testing.assert_allclose(decoder.weight, expected.coef_.T, atol=1e-4)
        np.testing.assert_allclose(decoder.intercept, expected.intercept_, atol=1e-4)
    series = found.series[-1]
    assert (series.name, series.encoder, series.how) == ("training pictures", "ridge", RETRAINED)
    assert series.axes[0].points == list(SHARES) == [25, 50, 75, 100]
    assert found.arrays["training pictures"].tolist() == [
        len(np.concatenate(parts[: quarter + 1])) for quarter in range(4)
    ]
    # The sums over all pictures serve other analyses: they are left as they were.
    assert of_subject(recording, "1").count == (~held_of(recording)).sum()


def test_all_pictures_train_the_ridge_of_the_bundle(recording, found):
    shipped = next(
        one for one in found.series if (one.name, one.encoder) == ("test repetitions", "ridge")
    )
    assert found.series[-1].ranks[-1].tolist() == shipped.ranks[-1].tolist()


def test_without_training_trials(recording):
    found = analyse(Recording(**{**vars(recording), "data": None}))
    assert {one.name for one in found.series} == {"test repetitions"}
    assert "nothing was trained anew" in found.about["left_out"][0]
    assert found.arrays["training pictures"].tolist() == [0, 0, 0, 0]


# ---------------------------------------------------------------- where more is known to help

N_TEST, DIM, CONCEPTS, PER = 40, 8, 100, 3
NUMBERS = [1, 16, 256]


class Averages:
    """Trials of a clean response in noise that repetitions average out."""

    def __init__(self, clean):
        self.clean = clean

    def evoked(self, condition, repetitions):
        assert repetitions in NUMBERS
        rng = np.random.default_rng([condition, repetitions])
        noise = 32 * rng.standard_normal(self.clean[condition].shape) / repetitions**0.5
        return SimpleNamespace(eeg=(self.clean[condition] + noise).astype(np.float32))


@pytest.fixture(scope="module")
def helped(tmp_path_factory) -> Recording:
    """Return a recording whose EEG is a linear image of the picture, in much noise."""
    folder = tmp_path_factory.mktemp("helped")
    rng = np.random.default_rng(0)
    size = {"train": CONCEPTS * PER, "test": N_TEST}
    code = np.repeat(rng.standard_normal((DIM, 4, 8)), 10, 2)
    galleries, clean = {}, {}
    for split, count in size.items():
        embeddings = rng.standard_normal((count, DIM)).astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        per = PER if split == "train" else 1
        candidates = [Candidate(f"{split}{i}", f"{split}{i // per}", "x") for i in range(count)]
        galleries[split] = Gallery(candidates, embeddings, {"name": "numbers", "revision": None})
        galleries[split].save(folder / f"{split}_gallery")
        clean[split] = np.einsum("nd,dct->nct", embeddings, code)
    flat_montage(STORED_CHANNELS).save(folder / "montage.safetensors")
    description = {
        "name": "helped",
        "source": "random numbers",
        "simulated": True,
        "preparation": {"sfreq": 250.0},
        "image_model": galleries["train"].image_model,
        "licences": ["none"],
    }
    write_json(folder / "dataset.json", description)
    noise = 8 * rng.standard_normal(clean["train"].shape)
    meta = {
        "subject": 1,
        "channels": STORED_CHANNELS,
        "sfreq": 250.0,
        "tmin": 0.0,
        "unit": "whitened",
        "test_repetitions": None,
    }
    train, test = (clean["train"] + noise)[:, None], clean["test"][:, None]
    EEGSet.write(folder / "sub-01", train.astype(np.float32), test.astype(np.float32), meta)
    data = DataSet.open(folder)
    concepts = [candidate.concept for candidate in galleries["train"].candidates]
    ridge = fit_ridge(
        data.training_set(1), galleries["train"].embeddings, concepts, Settings(), 1
    ).selected
    bundle = SimpleNamespace(
        manifest={"encoders": {"1": {"ridge": {"settings": {}, "seed": 1}}}, "sfreq": 250.0},
        montage=data.montage,
        gallery=galleries["test"],
        repetitions=NUMBERS,
        trials=lambda subject: Averages(clean["test"]),
    )
    return Recording(bundle, "1", clean["test"].astype(np.float32), {"ridge": ridge}, data)


def test_more_of_either_helps(helped):
    by_name = {one.name: join({"1": [one]})[0] for one in analyse(helped).series}
    assert list(by_name) == ["test repetitions", "training pictures"]
    for series in by_name.values():
        found = series.accuracy(1, "1")
        assert found.value[-1] > found.value[0] + 0.2, series.name
        assert found.value[-1] > found.threshold > found.chance == 1 / N_TEST
    repetitions = by_name["test repetitions"].accuracy(1, "1")
    assert repetitions.value[0] < repetitions.threshold  # one trial is too little
    pictures = by_name["training pictures"].accuracy(1, "1")
    assert (np.diff(pictures.value) > -0.1).all()  # one in ten is a fluke of which pictures
