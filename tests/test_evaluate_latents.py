"""`python -m nice_demo.evaluate` over someone's latents."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nice_demo import evaluate
from nice_demo.errors import InputError
from nice_demo.retrieval import Metrics, metrics


@pytest.fixture
def files(tmp_path):
    """Options for 30 made-up trials of which two out of three are decoded."""
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(30, 16))
    latents = np.where(np.arange(30)[:, None] % 3 == 0, rng.normal(size=(30, 16)), gallery)
    np.save(tmp_path / "latents.npy", latents)
    np.save(tmp_path / "gallery.npy", gallery)
    return ["--latents", str(tmp_path / "latents.npy"), "--gallery", str(tmp_path / "gallery.npy")]


def line(text, start):
    return next(row for row in text.splitlines() if row.startswith(start + " "))


def test_table(files, capsys):
    assert evaluate.main([*files, "--repetitions", "80", "--permutations", "200"]) == 0
    text = capsys.readouterr().out
    assert "30-way retrieval, stimulus protocol" in text
    assert "30 trials, repetitions averaged: 80" in text
    latents, gallery = (np.load(path) for path in files[1::2])
    latents /= np.linalg.norm(latents, axis=1, keepdims=True)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    found = metrics(latents @ gallery.T, np.arange(30), protocol="stimulus", repetitions=80)
    row = line(text, "top-1")
    assert f"{100 * found.top1.value:.1f} %" in row
    assert f"{100 * found.top1.low:.1f} to {100 * found.top1.high:.1f} %" in row
    assert "3.3 %" in row
    assert "0.0050" in row  # (1 + 0) / (1 + 200)
    assert "15.5" in line(text, "median rank")
    assert line(text, "10-way")
    assert not any(row.startswith("50-way") for row in text.splitlines())


def test_without_permutations(files, capsys):
    assert evaluate.main([*files, "--permutations", "0", "--protocol", "concept centre"]) == 0
    text = capsys.readouterr().out
    assert "concept centre protocol: candidates are means over other pictures" in text
    assert "repetitions averaged: not stated" in text
    assert line(text, "median rank").rstrip().endswith("–")


def test_json(files, capsys):
    assert evaluate.main([*files, "--json", "--permutations", "99"]) == 0
    content = json.loads(capsys.readouterr().out)
    found = Metrics.from_json(content["metrics"])
    assert (found.protocol, found.ways, found.trials, found.repetitions) == (
        "stimulus",
        30,
        30,
        None,
    )
    assert content["metrics"]["top1"]["value"] == found.top1.value >= 20 / 30
    assert content["permutations"] == 99
    assert content["permutation_p"]["top-1"] == 0.01
    assert set(content["permutation_p"]) >= {"top-5", "median rank", "mean reciprocal rank"}


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--latents", "a.npy"],
        ["--gallery", "a.npy"],
        ["bundle", "--latents", "a.npy", "--gallery", "b.npy"],
        ["--latents", "a.npy", "--gallery", "b.npy", "--protocol", "image"],
        ["--latents", "a.npy", "--gallery", "b.npy", "--permutations", "-1"],
        ["--latents", "a.npy", "--gallery", "b.npy", "--permutations", "many"],
        ["--latents", "a.npy", "--gallery", "b.npy", "--repetitions", "0"],
        ["--nonsense"],
    ],
)
def test_wrong_options_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(argv)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["gone.npy", "weights.pt", "names.txt"])
def test_wrong_files_exit_with_2(files, tmp_path, capsys, wrong):
    (tmp_path / "weights.pt").write_bytes(b"")
    (tmp_path / "names.txt").write_text("only one")
    path = str(tmp_path / wrong)
    argv = [*files, "--names", path] if wrong == "names.txt" else ["--latents", path, *files[2:]]
    assert evaluate.main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert path in printed.err
    assert printed.err.count("\n") == 1


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "nice_demo.evaluate", "--gallery", "gone.npy", "--latents"]
    done = subprocess.run(
        [*command, str(tmp_path / "gone.npy")],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def fake_subjects(path, subjects):
    if str(path) == "gone":
        raise InputError("gone is missing; check the folder's name.")
    similarities = np.random.default_rng(0).normal(size=(3, 40, 20))
    return {
        name: metrics(one, np.arange(40) % 20, protocol="stimulus", repetitions=1)
        for name, one in zip(subjects or ["01", "02", "03"], similarities, strict=False)
    }


def test_bundle(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate_bundle", fake_subjects)
    assert evaluate.main(["weights"]) == 0
    text = capsys.readouterr().out
    assert "mean over 3 subjects, 120 trials together" in text
    assert "Intervals: t over subjects" in text
    assert evaluate.main(["weights", "--subjects", "02"]) == 0
    assert "mean over" not in capsys.readouterr().out
    assert evaluate.main(["weights", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["subjects"]) == ["01", "02", "03"]
    assert content["mean"]["subjects"] == 3
    assert evaluate.main(["gone"]) == 2


def test_published_latents_of_real_eeg(shared_data, capsys):
    folder = shared_data / "things_eeg2"
    argv = ["--latents", str(folder / "atm_s_sub08_test_latents.npy")]
    argv += ["--gallery", str(folder / "openclip_vith14_test_image.npy")]
    argv += ["--names", str(folder / "test_images.txt"), "--permutations", "1000"]
    assert evaluate.main(argv) == 0
    text = capsys.readouterr().out
    assert line(text, "top-1").split()[1:6] == ["36.0", "%", "29.7", "to", "42.9"]
    assert line(text, "top-5").split()[1:3] == ["72.5", "%"]
    assert line(text, "median rank").split()[2] == "3"
    assert line(text, "median rank").split()[6] == "100.5"
