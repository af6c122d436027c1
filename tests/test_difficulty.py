"""The phantom's difficulty: set on held-out training concepts, without the test pictures."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nice_demo.settings import Settings
from nice_demo.sources.phantom import difficulty
from nice_demo.sources.phantom.head import GAINS

SETTINGS = Settings(epochs=14, batch=30, lr=2e-3, schedule="one-cycle", dropout=0.25)
WAYS = 12


@pytest.fixture(scope="module")
def without_test(tiny_data, tmp_path_factory):
    """Return a data folder whose test pictures are NaN and whose test files are missing."""
    folder = tmp_path_factory.mktemp("without")
    for name in ("dataset.json", "train_gallery.json", "train_gallery.safetensors"):
        (folder / name).write_bytes((tiny_data / name).read_bytes())
    features = load_file(tiny_data / "pictures.safetensors")
    for name, array in features.items():
        if name.startswith("test"):
            array[:] = np.nan
    save_file(features, folder / "pictures.safetensors")
    return folder


def test_rehearsal_needs_no_test_picture(without_test):
    decodable = difficulty.rehearse(without_test, 1, 3.0, SETTINGS, WAYS)
    hopeless = difficulty.rehearse(without_test, 1, 0.05, SETTINGS, WAYS)
    assert decodable >= 4 / WAYS  # by chance less than once in a hundred times
    assert hopeless < decodable


@pytest.mark.parametrize("level", [3, 20, 90])
@pytest.mark.parametrize("subject", [5, 8])
def test_calibration_finds_the_gain(monkeypatch, subject, level):
    tried = []

    def rehearse(folder, subject, gain):
        tried.append(gain)
        return round(200 * min(1, level * gain**3.5)) / 200  # not quite the power it assumes

    monkeypatch.setattr(difficulty, "rehearse", rehearse)
    gain = difficulty.calibrate("nowhere", subject)
    wanted = difficulty.PUBLISHED[subject]
    assert abs(level * gain**3.5 - wanted) < 0.04
    assert gain == tried[-1]  # the one that was measured
    assert len(tried) <= difficulty.ROUNDS


def test_every_subject_has_a_gain():
    assert GAINS.keys() == difficulty.PUBLISHED.keys()
