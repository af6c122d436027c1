"""Bundles: what was trained opens and verifies; everything else meets a sentence."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sentences import refuses
from tiny import flat_montage

from nice_demo import __version__
from nice_demo.bundle import SCHEMA, Bundle, write_manifest
from nice_demo.bundle.__main__ import _info, _try_out
from nice_demo.bundle.__main__ import main as bundle_main
from nice_demo.encoders import build, save_encoder
from nice_demo.errors import InputError
from nice_demo.files import sha256
from nice_demo.retrieval import metrics
from nice_demo.trials import open_trials


@pytest.fixture
def folder(stored_bundle, tmp_path):
    return Path(shutil.copytree(stored_bundle, tmp_path / "bundle"))


def edit(folder, change):
    """Change the manifest; returns what it was."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def relist(folder):
    """List the files as they now are: a bundle of someone who knows how."""
    content = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, content | {"files": None})


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def sentence(capsys, *arguments):
    """Run the command; it must fail with one sentence."""
    assert bundle_main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


# ---------------------------------------------------------------- what is right


def test_what_a_bundle_says(stored_bundle):
    opened = Bundle(stored_bundle)
    assert opened.name == "stored"
    assert opened.simulated is True
    assert opened.subjects == ["1", "2"]
    assert opened.repetitions == [1, 2, 4]
    assert opened.encoders("1") == ["nice", "ridge"]
    assert len(opened.gallery) == 6
    assert opened.montage.names == opened.manifest["channels"]
    assert opened.encoder("1", "nice") is opened.encoder("1", "nice")
    assert opened.encoder("1", "nice") is not opened.encoder("2", "nice")
    assert not opened.encoder("2", "ridge").training
    assert opened.trials("1") is opened.trials("1")
    found = opened.metrics("2", "ridge", 4)
    assert (found.repetitions, found.ways, found.trials) == (4, 6, 6)
    assert opened.metrics("2", "ridge", 3) is None
    assert opened.metrics("3", "ridge", 4) is None


def test_temperature_of_the_largest_number_not_above(folder):
    edit(folder, lambda m: m["encoders"]["1"]["nice"].update(temperature={"10": 0.1, "2": 0.3}))
    edit(folder, lambda m: [m["encoders"]["2"]["nice"].pop("temperature")])  # of an earlier version
    opened = Bundle(folder)
    asked = {1: 0.3, 2: 0.3, 9: 0.3, 10: 0.1, 80: 0.1}
    assert {n: opened.temperature("1", "nice", n) for n in asked} == asked
    similarities = np.array([[0.5, 0.2, -0.1]])
    weights = np.exp(similarities / 0.3)
    np.testing.assert_allclose(
        opened.confidence("1", "nice", 4, similarities), weights / weights.sum()
    )
    assert opened.temperature("2", "nice", 4) is None
    assert opened.confidence("2", "nice", 4, similarities) is None
    refuses(lambda: opened.temperature("1", "vit", 4), "'vit'")
    refuses(lambda: opened.confidence("3", "nice", 4, similarities), "'3'")


def test_manifest_lists_every_file(stored_bundle):
    manifest = json.loads((stored_bundle / "manifest.json").read_text())
    assert manifest["schema"] == SCHEMA
    assert manifest["code_version"] == __version__
    there = {str(p) for p in snapshot(stored_bundle)} - {"manifest.json"}
    assert set(manifest["files"]) == there
    for name, entry in manifest["files"].items():
        assert entry == {
            "sha256": sha256(stored_bundle / name),
            "bytes": (stored_bundle / name).stat().st_size,
        }


def test_measure_against_a_loop(stored_bundle):
    opened = Bundle(stored_bundle)
    measured = opened.measure("2")
    gallery = opened.gallery.embeddings.astype(float)
    for name in ("nice", "ridge"):
        for place, repetitions in enumerate(opened.repetitions):
            similarities = np.empty((6, 6))
            for seen in range(6):
                eeg = opened.trials("2").evoked(seen, repetitions).eeg
                with torch.inference_mode():
                    found = (
                        opened.encoder("2", name)(torch.from_numpy(eeg)[None])[0].double().numpy()
                    )
                for candidate in range(6):
                    similarities[seen, candidate] = (
                        found @ gallery[candidate] / np.linalg.norm(found)
                    ) / np.linalg.norm(gallery[candidate])
            wanted = metrics(
                similarities, np.arange(6), protocol="stimulus", repetitions=repetitions
            )
            assert measured[name][place] == wanted
            assert opened.metrics("2", name, repetitions) == wanted


def test_stored_averages(stored_bundle, stored_data):
    from nice_demo.eegset import DataSet

    eeg = DataSet.open(stored_data).subject(2)
    trials = Bundle(stored_bundle).trials("2")
    for repetitions in (1, 2, 4):
        for condition in (0, 5):
            evoked = trials.evoked(condition, repetitions)
            mean = np.mean([eeg.test[condition, r] for r in range(repetitions)], axis=0)
            assert evoked.eeg.dtype == np.float32
            np.testing.assert_allclose(evoked.eeg, mean, atol=5e-3)  # stored as float16
            assert evoked.volts is None
    refuses(lambda: trials.evoked(0, 3), "3", "1, 2, 4")


def test_info_and_verify(stored_bundle, capsys):
    before = snapshot(stored_bundle)
    assert bundle_main(["info", str(stored_bundle)]) == 0
    told = capsys.readouterr().out
    for word in ("stored", "SIMULATED", "1, 2", "nice, ridge", "6 candidates", "stimulus", "r1",
                 "4 channels", "100 Hz", "none", __version__):  # fmt: skip
        assert word in told
    assert bundle_main(["verify", str(stored_bundle)]) == 0
    assert "all well" in capsys.readouterr().out
    assert snapshot(stored_bundle) == before


def test_phantom_bundle(tiny_bundle, capsys):
    assert bundle_main(["verify", str(tiny_bundle)]) == 0
    assert "63 channels" in capsys.readouterr().out
    opened = Bundle(tiny_bundle)
    evoked = opened.trials("1").evoked(3, 80)
    assert evoked.eeg.shape == (63, 250)
    assert evoked.eeg.dtype == np.float32
    assert evoked.volts.shape == (63, 300)
    np.testing.assert_allclose(evoked.times[[0, 50, -1]], [-0.2, 0, 0.996], atol=1e-12)
    np.testing.assert_allclose(evoked.volts.mean(0), 0, atol=1e-12)  # average reference
    assert np.ptp(evoked.volts) < 1e-4
    refuses(lambda: opened.trials("1").evoked(3, 3), "3", "1, 2, 5, 10, 20, 40, 80")


# ---------------------------------------------------------------- what doesn't exist


def test_unknown_names(stored_bundle):
    opened = Bundle(stored_bundle)
    refuses(lambda: opened.encoders("3"), "'3'", "1, 2")
    refuses(lambda: opened.encoder("3", "nice"), "'3'", "1, 2")
    refuses(lambda: opened.trials("3"), "'3'", "1, 2")
    refuses(lambda: opened.encoder("1", "vit"), "'vit'", "nice, ridge")
    refuses(lambda: opened.gallery.index("giraffe"), "'giraffe'")
    refuses(lambda: opened.file("app.py"), "app.py")


def test_no_bundle(tmp_path, capsys):
    assert "none" in sentence(capsys, "info", tmp_path / "none")
    assert "manifest.json" in sentence(capsys, "verify", tmp_path)
    (tmp_path / "file").write_text("")
    sentence(capsys, "verify", tmp_path / "file")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


# ---------------------------------------------------------------- what is damaged


def test_changed_file(folder, capsys):
    path = folder / "encoders" / "sub-02_ridge.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    before = snapshot(folder)
    assert path.name in sentence(capsys, "verify", folder)
    assert "SHA-256" in sentence(capsys, "info", folder)
    assert snapshot(folder) == before


def test_wrong_hash(folder, capsys):
    edit(folder, lambda m: m["files"]["gallery.json"].update(sha256="0" * 64))
    assert "gallery.json" in sentence(capsys, "verify", folder)


def test_missing_file(folder, capsys):
    (folder / "montage.safetensors").unlink()
    assert "montage.safetensors" in sentence(capsys, "verify", folder)


def test_unlisted_file(folder, capsys):
    (folder / "encoders" / "more.py").write_text("import os")
    assert "more.py" in sentence(capsys, "verify", folder)


def test_newer_schema(folder, capsys):
    edit(folder, lambda m: m.update(schema=SCHEMA + 1))
    message = sentence(capsys, "info", folder)
    assert f"schema {SCHEMA + 1}" in message
    assert "update nice_demo" in message


@pytest.mark.parametrize("schema", [0, -1, "1", None, 1.0, True, [1]])
def test_no_schema(folder, capsys, schema):
    edit(folder, lambda m: m.update(schema=schema))
    assert "schema" in sentence(capsys, "info", folder)


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../outside.json", "encoders/../../outside.json", "..\\outside.json",
             "..", "encoders/..", "a\0b", "x" * 5000],
    ids=lambda name: name[:20],
)  # fmt: skip
def test_paths_that_lead_out(folder, capsys, name):
    outside = folder.parent / "outside.json"
    outside.write_text("{}")
    entry = {"sha256": sha256(outside), "bytes": 2}
    edit(folder, lambda m: m["files"].update({name: entry}))
    sentence(capsys, "verify", folder)

    def use(manifest):
        del manifest["files"][name]
        manifest["trials"]["files"]["1"] = name

    edit(folder, use)
    sentence(capsys, "verify", folder)
    assert outside.read_text() == "{}"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_symlinks_that_lead_out(folder, capsys, what):
    outside = folder.parent / "outside"
    if what == "file":
        (folder / "gallery.json").rename(outside)
        (folder / "gallery.json").symlink_to(outside)
    else:
        (folder / "trials").rename(outside)
        (folder / "trials").symlink_to(outside)
    assert "outside" in sentence(capsys, "verify", folder)


def test_bundle_behind_a_symlink(stored_bundle, tmp_path):
    (tmp_path / "link").symlink_to(stored_bundle)
    assert Bundle(tmp_path / "link").gallery


@pytest.mark.parametrize(
    "name", ["name", "simulated", "source", "subjects", "channels", "sfreq", "image_model",
             "preparation", "encoders", "trials", "metrics", "licences", "files"],
)  # fmt: skip
def test_manifest_that_lacks(folder, capsys, name):
    edit(folder, lambda m: m.pop(name))
    assert name in sentence(capsys, "verify", folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(files=[]),
        lambda m: m.update(files={"gallery.json": "x"}),
        lambda m: m["files"]["gallery.json"].pop("sha256"),
        lambda m: m["files"]["gallery.json"].update(bytes="many"),
        lambda m: m.update(subjects=3),
        lambda m: m.update(subjects=[]),
        lambda m: m.update(subjects=[1, 2, 3]),
        lambda m: m.update(encoders=[]),
        lambda m: m["encoders"].pop("1"),
        lambda m: m["encoders"]["1"].update(nice="x"),
        lambda m: m["encoders"]["1"]["nice"].pop("file"),
        lambda m: m["encoders"]["1"]["nice"].update(file=3),
        lambda m: m["encoders"]["1"]["nice"].update(temperature={"1": -0.1}),
        lambda m: m["encoders"]["1"]["nice"].update(temperature={"one": 0.1}),
        lambda m: m["encoders"]["1"]["nice"].update(temperature={"1": "NaN"}),
        lambda m: m["encoders"]["1"]["nice"].update(temperature=0.1),
        lambda m: m["trials"].pop("kind"),
        lambda m: m["trials"].pop("files"),
        lambda m: m["trials"]["files"].pop("2"),
        lambda m: m["trials"].update(repetitions=None),
        lambda m: m["trials"].update(repetitions=[]),
        lambda m: m["trials"].update(repetitions=[4, 2, 1]),
        lambda m: m["trials"].update(repetitions=["1"]),
        lambda m: m.update(metrics=3),
        lambda m: m["metrics"][0].pop("subject"),
        lambda m: m["metrics"][0].update(metrics={}),
        lambda m: m["metrics"][0]["metrics"]["top1"].update(successes=7),
        lambda m: m.update(image_model="CLIP"),
        lambda m: m.update(sfreq="fast"),
        lambda m: m.update(licences=3),
    ],
)
def test_manifest_of_another_form(folder, capsys, change):
    edit(folder, change)
    sentence(capsys, "info", folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"3", b"null", b"[" * 100_000])
def test_manifest_that_is_none(folder, capsys, content):
    (folder / "manifest.json").write_bytes(content)
    assert "manifest.json" in sentence(capsys, "info", folder)


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage(stored_bundle, tmp_path, data):
    """One file is damaged: either the bundle is refused, or verify finds all well."""
    # Hard links: only the damaged file is written anew.
    place = tmp_path / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(stored_bundle, place, copy_function=os.link)
    names = sorted(map(str, snapshot(place)))
    # The manifest is the one file without a hash: every second example.
    name = data.draw(st.sampled_from(names) | st.just("manifest.json"))
    whole = bytearray((place / name).read_bytes())
    kind = data.draw(st.sampled_from(["cut", "random", "flip", "flip"]))
    if kind == "cut":
        whole = whole[: data.draw(st.integers(0, len(whole) - 2))]
    elif kind == "random":
        whole = data.draw(st.binary(max_size=300))
    else:
        where = data.draw(st.integers(0, len(whole) - 1))
        whole[where] ^= data.draw(st.integers(1, 255))
    (place / name).unlink()
    (place / name).write_bytes(whole)
    try:
        opened = Bundle(place)
        _info(opened)
        for subject in opened.subjects:
            _try_out(opened, subject)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert (name, kind) == ("manifest.json", "flip")


# ---------------------------------------------------------------- listed right, but not fitting


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_with_the_right_hash(stored_bundle, tmp_path, data):
    place = tmp_path / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(stored_bundle, place, copy_function=os.link)
    name = data.draw(st.sampled_from(sorted({str(p) for p in snapshot(place)} - {"manifest.json"})))
    whole = bytearray((place / name).read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:  # in the header, where it hurts
        whole[data.draw(st.integers(0, min(300, len(whole) - 1)))] ^= data.draw(st.integers(1, 255))
    (place / name).unlink()
    (place / name).write_bytes(whole)
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").unlink()
    manifest["files"][name] = {"sha256": sha256(place / name), "bytes": len(whole)}
    (place / "manifest.json").write_text(json.dumps(manifest))
    code = bundle_main(["verify", str(place)])
    assert code in (0, 2)  # a flipped letter in a picture's name is no damage


def test_encoder_of_other_sizes(folder, capsys):
    for sizes in ({"channels": 4, "times": 80, "dim": 7}, {"channels": 5, "times": 80, "dim": 6}):
        save_encoder(build("ridge", **sizes), folder / "encoders/sub-01_ridge.safetensors")
        relist(folder)
        assert "subject 1" in sentence(capsys, "verify", folder)


def test_trials_of_other_sizes(folder, capsys):
    path = folder / "trials/sub-01.safetensors"
    eeg = load_file(path)["eeg"]
    for wrong in (eeg[:5], eeg[:, :2], eeg[:, :, :3], eeg[0], eeg[..., :50]):
        save_file({"eeg": np.ascontiguousarray(wrong)}, path)
        relist(folder)
        sentence(capsys, "verify", folder)
    save_file({"meg": eeg}, path)
    relist(folder)
    assert "sub-01" in sentence(capsys, "verify", folder)


def test_montage_of_other_channels(folder, capsys):
    flat_montage(["O1", "O2", "Oz"]).save(folder / "montage.safetensors")
    relist(folder)
    assert "3" in sentence(capsys, "verify", folder)


def test_unknown_kind_of_trials(folder, capsys):
    edit(folder, lambda m: m["trials"].update(kind="dreams"))
    assert "'dreams'" in sentence(capsys, "verify", folder)


def test_phantom_that_is_none(folder, capsys):
    edit(folder, lambda m: m["trials"].update(kind="phantom"))
    assert "sub-01" in sentence(capsys, "verify", folder)
    refuses(lambda: open_trials("phantom", folder / "none", [1]), "none")
    refuses(lambda: open_trials("averages", folder / "none", [1]), "none")
