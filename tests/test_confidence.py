"""The analysis of confidence: every trial's, at every number of repetitions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentences import refuses

from nice_demo.analysis.confidence import analyse
from nice_demo.analysis.series import Recording
from nice_demo.bundle import Bundle
from nice_demo.calibration import expected_calibration_error, risk_coverage
from nice_demo.encoders import embed


def test_confidence_against_a_loop(stored_bundle):
    bundle = Bundle(stored_bundle)
    found = analyse(Recording.open(bundle, "2"))
    confidence, rank = found.arrays["confidence"], found.arrays["rank"]
    assert found.about["encoders"] == ["nice", "ridge"]
    assert found.about["repetitions"] == [1, 2, 4]
    assert confidence.shape == rank.shape == (2, 3, 6)
    assert (confidence.dtype, rank.dtype) == (np.float32, np.uint16)
    gallery = bundle.gallery.embeddings.astype(float)
    for i, name in enumerate(["nice", "ridge"]):
        for j, repetitions in enumerate([1, 2, 4]):
            told = bundle.manifest["encoders"]["2"][name]["temperature"][str(repetitions)]
            for seen in range(6):
                eeg = bundle.trials("2").evoked(seen, repetitions).eeg
                decoded = embed(bundle.encoder("2", name), torch.from_numpy(eeg)[None])[0]
                cosines = gallery @ decoded.double().numpy()
                weights = np.exp((cosines - cosines.max()) / told)
                assert confidence[i, j, seen] == pytest.approx(1 / weights.sum(), rel=1e-4)
                assert rank[i, j, seen] == (cosines >= cosines[seen] - 1e-12).sum()
    # What is shown follows from these.
    sure, hits = confidence[1, 2].astype(float), rank[1, 2] == 1
    assert 0 <= expected_calibration_error(sure, hits, draws=10).value <= 1
    assert risk_coverage(sure, hits).uninformative == pytest.approx(1 - hits.mean())


def test_a_bundle_without_temperatures(stored_bundle, tmp_path):
    folder = Path(shutil.copytree(stored_bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["encoders"]["1"]["ridge"]["temperature"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    recording = Recording.open(Bundle(folder), "1")
    refuses(lambda: analyse(recording), "ridge", "subject 1", "train")
