"""Space, on EEG that holds the picture in one region alone; and number by number."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from coded_data import DIM, TIMES, make_coded_data, montage, recording_of, ridge

from nice_demo.analysis.series import RETRAINED, ZEROED, Series, join
from nice_demo.analysis.space import analyse, parts_of
from nice_demo.eegset import TrainingSet
from nice_demo.montage import CHANNELS, PRESETS, REGIONS, positions

WHERE = "temporal"  # held by no preset but 63
HOLDS = np.isin(CHANNELS, REGIONS[WHERE])
NAMES = ["without a region", "a region alone", "searchlight", "a preset of electrodes"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    code = 2 * np.random.default_rng(21).standard_normal((DIM, 63, TIMES)) * HOLDS[:, None]
    return recording_of(make_coded_data(tmp_path_factory.mktemp("coded"), {1: code}), 1)


@pytest.fixture(scope="module")
def found(recording):
    return analyse(recording, 200)


@pytest.fixture(scope="module")
def series(found) -> dict[tuple[str, str], Series]:
    return {(one.name, one.how): one for one in join({"1": found.series})}


def accuracies(one: Series) -> tuple[dict, float]:
    measured = one.accuracy(1, "1")
    return dict(zip(one.axes[0].points, measured.value, strict=True)), measured.threshold


@pytest.mark.parametrize("how", [ZEROED, RETRAINED])
def test_the_region_that_holds_the_picture_is_found(series, how):
    alone, threshold = accuracies(series["a region alone", how])
    assert list(alone) == ["all", *REGIONS]
    assert alone["all"] > 0.8 and alone[WHERE] > 0.8
    assert all(alone[region] <= threshold for region in REGIONS if region != WHERE)
    without, threshold = accuracies(series["without a region", how])
    assert without[WHERE] <= threshold and without["all"] == alone["all"]
    assert all(without[region] > 0.8 for region in REGIONS if region != WHERE)
    presets, threshold = accuracies(series["a preset of electrodes", how])
    assert list(presets) == ["63", "17", "8"] and presets["63"] == alone["all"]
    assert max(presets["17"], presets["8"]) <= threshold


@pytest.mark.parametrize("how", [ZEROED, RETRAINED])
def test_the_searchlight_lights_where_the_picture_is(series, how):
    found, threshold = accuracies(series["searchlight", how])
    assert list(found) == CHANNELS
    where = positions(CHANNELS)
    sees = {
        name: any(HOLDS[j] and np.linalg.norm(where[i] - where[j]) < 0.05 for j in range(63))
        for i, name in enumerate(CHANNELS)
    }
    assert 20 < sum(sees.values()) < 45
    assert all(found[name] <= threshold for name in CHANNELS if not sees[name])
    assert max(found, key=found.get) in REGIONS[WHERE]
    assert np.mean([found[name] > threshold for name in REGIONS[WHERE]]) > 0.8


def literal_ranks(encoder, eeg: np.ndarray, gallery: np.ndarray) -> list[int]:
    with torch.inference_mode():
        embeddings = encoder(torch.from_numpy(eeg)).double().numpy()
    found, candidates = [], gallery.astype(float)
    lengths = np.linalg.norm(candidates, axis=1)
    for i, embedding in enumerate(embeddings):
        cosines = candidates @ embedding / np.linalg.norm(embedding) / lengths
        found.append(sum(cosine >= cosines[i] - 1e-12 for cosine in cosines))
    return found


def points(one: Series):
    """Say literally which channels are kept at each point."""
    where = positions(CHANNELS)
    for i, point in enumerate(one.axes[0].points):
        if one.name == "searchlight":
            near = np.linalg.norm(where - where[CHANNELS.index(point)], axis=1) < 0.05
            kept = [name for name, is_near in zip(CHANNELS, near, strict=True) if is_near]
        elif one.name == "a preset of electrodes":
            kept = PRESETS[point]
        elif point == "all":
            kept = CHANNELS
        else:
            out = one.name == "without a region"
            kept = [name for name in CHANNELS if (name in REGIONS[point]) != out]
        yield i, [CHANNELS.index(name) for name in kept]


@pytest.mark.parametrize("name", NAMES)
def test_zeroed_number_by_number(recording, series, name):
    one = series[name, ZEROED]
    for i, kept in points(one):
        eeg = np.zeros_like(recording.eeg)
        for channel in kept:
            eeg[:, channel] = recording.eeg[:, channel]
        expected = literal_ranks(
            recording.encoders["linear"], eeg, recording.bundle.gallery.embeddings
        )
        assert one.ranks[0, i].tolist() == expected


@pytest.mark.parametrize("name", NAMES)
def test_retrained_is_a_ridge_of_fewer_channels(recording, series, name):
    one, whole = series[name, RETRAINED], recording.data.training_set(1)
    for i, kept in list(points(one))[:: 9 if name == "searchlight" else 1]:
        some = TrainingSet(whole.folder, whole.meta, whole.train[:, :, kept])
        expected = literal_ranks(
            ridge(some, recording.data),
            recording.eeg[:, kept],
            recording.bundle.gallery.embeddings,
        )
        # The one computes in single precision, the other in double: few ranks may differ by one.
        difference = np.abs(one.ranks[0, i].astype(int) - expected)
        assert difference.max() <= 1 and difference.mean() < 0.05


def test_what_is_said(recording, found):
    assert "mixture" in found.about["note"] and found.about["neighbours"] == 0.05
    assert found.about["regions"] == REGIONS and "left_out" not in found.about
    kinds = [(one.name, one.encoder, one.how) for one in found.series]
    assert kinds == [
        (name, *kind) for name in NAMES for kind in (("linear", ZEROED), ("ridge", RETRAINED))
    ]
    without = analyse(replace(recording, data=None), 2)
    assert {one.how for one in without.series} == {ZEROED}
    assert "Without the training trials" in " ".join(without.about["left_out"])


def test_other_caps_have_the_series_they_can():
    def names_of(channels):
        return list(parts_of(channels, positions(channels)))

    assert names_of(PRESETS["17"]) == NAMES
    axis, kept = parts_of(PRESETS["17"], positions(PRESETS["17"]))["a preset of electrodes"]
    assert axis.points == ["17", "8"] and kept.sum(1).tolist() == [17, 8]
    assert names_of(["O1", "O2", "Oz"]) == ["searchlight"]
    assert names_of(["O1", "P3", "Fz"]) == ["without a region", "a region alone", "searchlight"]


def test_a_cap_of_one_region_says_what_is_left_out(recording):
    names = ["O1", "Oz", "O2"]
    where = [CHANNELS.index(name) for name in names]
    # A decoder that knows nothing will do.
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * TIMES, DIM)).eval()
    few = SimpleNamespace(gallery=recording.bundle.gallery, montage=montage(names))
    eeg, encoders = recording.eeg[:, where], {"untrained": encoder}
    found = analyse(replace(recording, bundle=few, eeg=eeg, encoders=encoders, data=None), 2)
    assert [one.name for one in found.series] == ["searchlight"]
    assert "fewer than two known regions" in " ".join(found.about["left_out"])
    assert "No preset" in " ".join(found.about["left_out"])
