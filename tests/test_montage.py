"""Electrodes: MNE's own montage, projection and image are the oracles."""

import subprocess
import sys

import mne
import numpy as np
import pytest
from matplotlib.figure import Figure
from mne.channels.layout import _find_topomap_coords
from safetensors.numpy import save_file

from nice_demo.errors import InputError
from nice_demo.montage import (
    CHANNELS,
    PRESETS,
    REFERENCE,
    REGIONS,
    Montage,
    flat_positions,
    positions,
    topomap_operator,
)


def mne_info(names):
    info = mne.create_info(list(names), 250.0, "eeg", verbose="error")
    info.set_montage("easycap-M1")
    return info


@pytest.fixture(scope="module")
def montage():
    return Montage.standard()


def test_channels_are_the_papers():
    assert len(CHANNELS) == len(set(CHANNELS)) == 63
    assert REFERENCE not in CHANNELS
    assert (CHANNELS[0], CHANNELS[15], CHANNELS[30], CHANNELS[62]) == ("Fp1", "FT9", "Cz", "O2")


def test_every_channel_has_one_region():
    assert list(REGIONS) == ["frontal", "central", "temporal", "parietal", "occipital"]
    assert sorted(name for names in REGIONS.values() for name in names) == sorted(CHANNELS)
    assert REGIONS["occipital"] == ["PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2"]
    assert {name: len(names) for name, names in REGIONS.items()} == {
        "frontal": 15,
        "central": 21,
        "temporal": 10,
        "parietal": 9,
        "occipital": 8,
    }


def test_presets():
    assert {key: len(names) for key, names in PRESETS.items()} == {"63": 63, "17": 17, "8": 8}
    assert (PRESETS["17"][0], PRESETS["17"][-1]) == ("P7", "O2")
    assert set(PRESETS["8"]) < set(PRESETS["17"])
    # Kept in the paper's order, so that a preset is a selection of rows.
    assert PRESETS["8"] == [name for name in CHANNELS if name in PRESETS["8"]]


def test_positions_are_mnes():
    names = [*CHANNELS, REFERENCE]
    expected = [channel["loc"][:3] for channel in mne_info(names)["chs"]]
    np.testing.assert_allclose(positions(names), expected, atol=1e-9)


@pytest.mark.parametrize("names", [*PRESETS.values(), [REFERENCE, "O1"]])
def test_flat_positions_are_mnes(names):
    expected = _find_topomap_coords(mne_info(names), picks=None, sphere=None) / 0.095
    np.testing.assert_allclose(flat_positions(names), expected, atol=1e-9)


def test_nose_is_up_and_right_is_right():
    nose, right_ear, left_ear, back = flat_positions(["AFz", "T8", "T7", "Oz"])
    assert nose[1] > 0 > back[1]
    assert right_ear[0] > 0 > left_ear[0]
    assert np.abs(flat_positions(CHANNELS)).max() < 1


@pytest.mark.parametrize("names", [["Cz"], [], ["Cz", "Cz"]])
def test_map_of_too_few_channels_is_refused(names):
    with pytest.raises(InputError, match="two or more"):
        topomap_operator(names)


@pytest.mark.parametrize("function", [positions, flat_positions, topomap_operator])
def test_unknown_channels_are_named(function):
    with pytest.raises(InputError, match="EXG1, cz"):
        function(["Oz", "EXG1", "cz"])


@pytest.mark.parametrize(
    "names", [*PRESETS.values(), ["TP9", "AF7", "Oz", "TP10"], ["C3", "Cz", "C4"], ["O1", "O2"]]
)
@pytest.mark.parametrize("resolution", [64, 33])
def test_image_is_mnes(names, resolution, montage):
    whole = (len(names), resolution) == (63, 64)
    ours = montage if whole else Montage.standard(names, resolution)
    # µV: on volts MNE itself is inexact, for scipy's estimate of the slopes stops at an absolute
    # error of 1e-6.
    values = 10 * np.random.default_rng(0).standard_normal(len(names))
    drawn, _ = mne.viz.plot_topomap(
        values, mne_info(names), axes=Figure().add_subplot(), res=resolution, contours=0, show=False
    )
    expected = np.asarray(drawn.get_array())[::-1]
    image = ours.image(values)
    assert image.shape == (resolution, resolution)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(image), ~ours.mask)
    error = np.abs(image - expected)[ours.mask].max()
    assert error < 1e-6 * np.abs(expected[ours.mask]).max()


def test_channels_on_one_circle_have_a_map_too():
    # The four of a Muse headband, for which MNE itself finds no triangulation.
    names = ["TP9", "AF7", "AF8", "TP10"]
    muse = Montage.standard(names)
    values = [1, 4, 4, 1]
    image = muse.image(values)
    assert np.isfinite(image[muse.mask]).all()
    axis = np.linspace(-1, 1, 64)
    for value, (x, y) in zip(values, flat_positions(names), strict=True):
        row, column = np.abs(axis[::-1] - y).argmin(), np.abs(axis - x).argmin()
        assert abs(image[row, column] - value) < 0.15


def test_mask_is_the_head_circle(montage):
    # By one loop over pixels: inside a circle that touches the sides, and all inside it drawn.
    axis = np.linspace(-1, 1, 64)
    for row, y in enumerate(axis[::-1]):
        for column, x in enumerate(axis):
            assert montage.mask[row, column] == (x * x + y * y <= 1)
    assert np.isfinite(montage.operator).all()
    assert not montage.operator[~montage.mask.ravel()].any()


def test_row_0_is_at_the_nose(montage):
    def peak(name):
        image = montage.image(np.array([name == other for other in montage.names], float))
        return np.unravel_index(np.nanargmax(image), image.shape)

    assert peak("AFz")[0] < 20 < 44 < peak("Oz")[0]
    assert peak("T7")[1] < 20 < 44 < peak("T8")[1]


def test_round_trip(montage, tmp_path):
    montage.save(tmp_path / "montage.safetensors")
    again = Montage.open(tmp_path / "montage.safetensors")
    assert again.names == montage.names
    for attribute in ("positions", "flat", "operator", "mask"):
        before, after = getattr(montage, attribute), getattr(again, attribute)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert [path.name for path in tmp_path.iterdir()] == ["montage.safetensors"]


def test_files_that_are_no_montage_are_refused(montage, tmp_path):
    path = tmp_path / "montage.safetensors"
    with pytest.raises(InputError, match="is missing"):
        Montage.open(path)
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(InputError, match="isn't a montage"):
        Montage.open(path)
    save_file({"eeg": np.zeros(3)}, path)
    with pytest.raises(InputError, match="isn't a montage"):
        Montage.open(path)
    save_file({"eeg": np.zeros(3)}, path, metadata={"names": '["Cz"]'})
    with pytest.raises(InputError, match="isn't a montage"):
        Montage.open(path)
    arrays = {name: getattr(montage, name) for name in ("positions", "flat", "operator", "mask")}
    save_file(arrays, path, metadata={"names": '["Oz", "O1"]'})
    with pytest.raises(InputError, match=r"positions have shape \(63, 3\), not \(2, 3\)"):
        Montage.open(path)


def test_a_page_needs_no_mne():
    code = (
        "import sys, nice_demo.montage as m; m.positions(m.CHANNELS); print('mne' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
