"""Transfer, between subjects of whom two hold the picture alike and one otherwise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from coded_data import DIM, TIMES, make_coded_data, recording_of, ridge

from nice_demo.analysis.series import AS_TRAINED, RETRAINED, join
from nice_demo.analysis.transfer import analyse
from nice_demo.bundle import OTHER_SUBJECTS
from nice_demo.errors import InputError
from nice_demo.files import read_json, write_json

CHANNELS = ["P7", "Pz", "P8", "O1", "Oz", "O2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(30)
    one, other = 2 * rng.standard_normal((2, DIM, len(CHANNELS), TIMES))
    folder = tmp_path_factory.mktemp("coded")
    return make_coded_data(folder, {1: one, 2: one, 3: other}, CHANNELS, noise=0.5)


@pytest.fixture(scope="module")
def recordings(data):
    return {str(subject): recording_of(data, subject) for subject in data.subjects}


@pytest.fixture(scope="module")
def series(recordings):
    found = {subject: analyse(one, 200).series for subject, one in recordings.items()}
    return {one.name: one for one in join(found)}


def test_subjects_who_are_alike_understand_each_other(series):
    one = series["encoder of another subject"]
    assert (one.encoder, one.how) == ("linear", AS_TRAINED)
    assert [(axis.name, axis.points) for axis in one.axes] == [
        ("trained on subject", ["1", "2", "3"])
    ]
    understood = {frozenset("12"), frozenset("1"), frozenset("2"), frozenset("3")}
    for tested in "123":
        found = one.accuracy(1, tested)
        for trained, value in zip("123", found.value, strict=True):
            if frozenset((tested, trained)) in understood:
                assert value > 0.8
            else:
                assert value <= found.threshold


def test_a_group_helps_whom_it_is_like(series):
    one = series["pooled training"]
    assert (one.encoder, one.how) == ("ridge", RETRAINED)
    assert one.axes[0].points == ["own", "the others", "all together"]
    for tested in "12":
        own, others, together = one.accuracy(1, tested).value
        assert own > 0.8 and together > 0.8
        assert others > one.accuracy(1, tested).threshold  # half of them alike
    own, others, together = one.accuracy(1, "3").value
    assert own > 0.8 and own >= together > one.accuracy(1, "3").threshold
    assert others <= one.accuracy(1, "3").threshold


def literal_ranks(encoder, eeg: np.ndarray, gallery: np.ndarray) -> list[int]:
    with torch.inference_mode():
        embeddings = encoder(torch.from_numpy(eeg)).double().numpy()
    found, candidates = [], gallery.astype(float)
    lengths = np.linalg.norm(candidates, axis=1)
    for i, embedding in enumerate(embeddings):
        cosines = candidates @ embedding / np.linalg.norm(embedding) / lengths
        found.append(sum(cosine >= cosines[i] - 1e-12 for cosine in cosines))
    return found


def test_number_by_number(data, recordings, series):
    gallery = data.test_gallery.embeddings
    for i, tested in enumerate((1, 2, 3)):
        eeg = recordings[str(tested)].eeg
        sets = {subject: data.training_set(subject) for subject in (1, 2, 3)}
        for j, trained in enumerate((1, 2, 3)):
            expected = literal_ranks(ridge(sets[trained], data), eeg, gallery)
            assert series["encoder of another subject"].ranks[i, j].tolist() == expected
        others = [one for subject, one in sets.items() if subject != tested]
        pools = [sets[tested]], others, [sets[tested], *others]
        for j, pool in enumerate(pools):
            found = series["pooled training"].ranks[i, j].astype(int)
            difference = np.abs(found - literal_ranks(ridge(pool, data), eeg, gallery))
            # Single precision against double: few ranks may differ by one.
            assert difference.max() <= 1 and difference.mean() < 0.05


def test_it_is_said_why_nothing_leaks(recordings):
    found = analyse(recordings["1"], 2)
    assert "no subject's training trials hold them" in found.about["note"]
    assert "left_out" not in found.about


def test_a_concept_that_leaks_is_refused(data, recordings, tmp_path):
    for path in data.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "train_gallery.json").unlink()
    gallery = read_json(data.folder / "train_gallery.json")
    gallery["candidates"][7]["concept"] = "test 5"
    write_json(tmp_path / "train_gallery.json", gallery)
    leaking = replace(recordings["1"], data=type(data).open(tmp_path))
    with pytest.raises(InputError, match="1 of the test concepts"):
        analyse(leaking, 2)


def bundle_of(recording, **changed) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(recording.bundle), **changed})


def test_what_cannot_be_is_left_out_with_a_sentence(data, recordings):
    asked = recordings["1"]
    found = analyse(replace(asked, data=None), 2)
    assert [one.name for one in found.series] == ["encoder of another subject"]
    assert "Without the training trials" in " ".join(found.about["left_out"])

    of_others = bundle_of(asked, trained_on=OTHER_SUBJECTS)
    found = analyse(replace(asked, bundle=of_others), 2)
    assert [one.name for one in found.series] == ["pooled training"]
    assert "all subjects but its own" in " ".join(found.about["left_out"])
    with pytest.raises(InputError, match="all subjects but its own.*Without the training trials"):
        analyse(replace(asked, bundle=of_others, data=None), 2)

    not_all = bundle_of(asked, encoders=lambda one: ["linear"] if one == "1" else [])
    found = analyse(replace(asked, bundle=not_all), 2)
    assert [one.name for one in found.series] == ["pooled training"]
    assert found.about["left_out"] == ["Not all subjects have an encoder linear."]

    fewer = SimpleNamespace(subjects=[2, 3], folder=data.folder)
    found = analyse(replace(asked, data=fewer), 2)
    assert [one.name for one in found.series] == ["encoder of another subject"]
    assert "lacks the training trials of this subject" in " ".join(found.about["left_out"])

    alone = bundle_of(asked, subjects=["1"])
    with pytest.raises(InputError, match="coded has one subject"):
        analyse(replace(asked, bundle=alone), 2)
