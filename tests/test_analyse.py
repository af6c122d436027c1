"""The command that runs analyses: results, figures, what it keeps, what it says of bad input."""

import json
import os
import shutil
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from nice_demo import analyse
from nice_demo.analysis import meaning, space
from nice_demo.analysis.drawing import draw
from nice_demo.analysis.series import Analysis, Axis, Series, stored
from nice_demo.bundle import MANIFEST, Bundle, write_manifest
from nice_demo.errors import InputError

FEW = ["--what", "space,meaning", "--no-retraining", "--jobs", "1"]


@pytest.fixture(scope="module")
def analysed(tiny_bundle, tmp_path_factory):
    """Return the folder of all analyses of the tiny bundle, nothing trained anew."""
    out = tmp_path_factory.mktemp("analysed")
    assert analyse.main([str(tiny_bundle), *FEW, "--out", str(out)]) == 0
    return out


def test_it_writes_results_and_figures(analysed, tiny_bundle):
    for name in ("space", "meaning"):
        found = Analysis.open(analysed / f"{name}.safetensors")
        assert found.name == name
        assert found.about["subjects"] == ["1", "2"]
        assert found.about["simulated"] is True
        svg = (analysed / f"{name}.svg").read_text(encoding="utf-8")
        assert "<svg" in svg
        with Image.open(analysed / f"{name}.png") as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20  # something is drawn
    assert not list(analysed.rglob("*.part"))


def test_what_was_computed_is_kept(analysed, tiny_bundle, capsys):
    before = (analysed / "space.safetensors").read_bytes(), (analysed / "space.svg").read_bytes()
    with (
        patch.object(space, "analyse", side_effect=AssertionError("computed again")),
        patch.object(meaning, "analyse", side_effect=AssertionError("computed again")),
    ):
        assert analyse.main([str(tiny_bundle), *FEW, "--out", str(analysed)]) == 0
    after = (analysed / "space.safetensors").read_bytes(), (analysed / "space.svg").read_bytes()
    assert after == before
    assert "simulated EEG" in capsys.readouterr().out


def test_a_damaged_kept_result_is_computed_again(analysed, tiny_bundle, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(analysed, out)
    kept = out / ".cache/space/sub-1.safetensors"
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    command = [str(tiny_bundle), "--what", "space", "--no-retraining", "--out", str(out)]
    assert analyse.main([*command, "--jobs", "1"]) == 0
    assert kept.read_bytes() == whole


def test_two_processes_find_the_same(analysed, tiny_bundle, tmp_path):
    command = [str(tiny_bundle), *FEW[:-1], "2", "--out", str(tmp_path)]
    assert analyse.main(command) == 0
    for name in ("space", "meaning"):
        one, other = ((folder / f"{name}.safetensors") for folder in (analysed, tmp_path))
        assert one.read_bytes() == other.read_bytes()


def test_stored_in_the_bundle(analysed, tiny_bundle, tmp_path, capsys):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    shutil.copytree(analysed, tmp_path / "out")
    assert stored(Bundle(folder), "space") is None
    command = [str(folder), *FEW, "--out", str(tmp_path / "out")]
    assert analyse.main([*command, "--store"]) == 0
    assert "space: the bundle holds none yet." in capsys.readouterr().out
    bundle = Bundle(folder)  # checks every file against the manifest
    there = stored(bundle, "space")
    now = Analysis.open(tmp_path / "out/space.safetensors")
    for one, other in zip(there.series, now.series, strict=True):
        np.testing.assert_array_equal(one.ranks, other.ranks)
    old = Bundle(tiny_bundle).manifest
    assert {k: v for k, v in bundle.manifest.items() if k != "files"} == {
        k: v for k, v in old.items() if k != "files"
    }
    # What is stored doesn't make what it came from look different.
    with patch.object(space, "analyse", side_effect=AssertionError("computed again")):
        assert analyse.main(command) == 0
    assert "space: equals what the bundle holds" in capsys.readouterr().out


def test_a_difference_from_what_is_stored_is_told(analysed, tiny_bundle, tmp_path, capsys):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    found = Analysis.open(analysed / "space.safetensors")
    found.series[0].ranks[0, 0] = 1  # every picture of subject 1 found
    analyse.store(Bundle(folder), {"space": found})
    command = [str(folder), "--what", "space", "--no-retraining", "--out", str(tmp_path / "out")]
    assert analyse.main([*command, "--jobs", "1"]) == 0
    assert "space: differs from what the bundle holds" in capsys.readouterr().out


def test_an_analysis_that_cannot_be_had_does_not_stop_the_others(tiny_bundle, tmp_path, capsys):
    with patch.object(meaning, "analyse", side_effect=InputError("Nothing means anything.")):
        assert analyse.main([str(tiny_bundle), *FEW, "--out", str(tmp_path)]) == 0
    assert "meaning: Nothing means anything." in capsys.readouterr().out
    assert (tmp_path / "space.png").exists()
    assert not (tmp_path / "meaning.png").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--jobs", "0"], "--jobs is how many"),
        (["--subjects", "7"], "There is no subject '7'"),
        (["--subjects", "1", "--store"], "leave --subjects out"),
        (["--data", "nowhere"], "There is no data folder"),
    ],
)
def test_bad_input(tiny_bundle, tmp_path, capsys, given, said):
    command = [str(tiny_bundle), "--what", "space", "--out", str(tmp_path / "out"), *given]
    assert analyse.main(command) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_analysis(tiny_bundle, capsys):
    with pytest.raises(SystemExit) as left:
        analyse.main([str(tiny_bundle), "--what", "space,smell"])
    assert left.value.code == 2
    assert "there is no analysis 'smell'" in capsys.readouterr().err


def test_out_is_a_file(tiny_bundle, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert analyse.main([str(tiny_bundle), *FEW, "--out", str(tmp_path / "out")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_training_trials_of_other_pictures_are_refused(tiny_bundle, stored_data, tmp_path, capsys):
    command = [str(tiny_bundle), "--what", "space", "--data", str(stored_data)]
    assert analyse.main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "aren't those of" in capsys.readouterr().err


def test_every_analysis_of_a_phantom(tiny_bundle, tiny_data, tmp_path, capsys):
    """All of them, retrained ones too, write a figure; none is refused."""
    command = [str(tiny_bundle), "--data", str(tiny_data), "--out", str(tmp_path), "--jobs", "1"]
    assert analyse.main([*command, "--subjects", "1"]) == 0
    for name in analyse.NAMES:
        assert (tmp_path / f"{name}.svg").exists(), capsys.readouterr().out
        found = Analysis.open(tmp_path / f"{name}.safetensors")
        assert found.series or found.arrays
        for series in found.series:
            assert (series.ranks >= 1).all()
            assert (series.ranks <= 12).all()


def _changed(folder, change):
    """Change a bundle's manifest as whoever made it might have."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(manifest)
    del manifest["files"]
    write_manifest(folder, manifest)


def test_subjects_with_different_encoders_are_refused(tiny_bundle, tmp_path, capsys):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)

    def reverse(manifest):
        manifest["encoders"]["2"] = dict(reversed(manifest["encoders"]["2"].items()))

    _changed(folder, reverse)  # arrays of one subject would be taken for another encoder's
    assert analyse.main([str(folder), *FEW, "--out", str(tmp_path / "out")]) == 2
    assert "Subjects 1 and 2 of tiny have different encoders" in capsys.readouterr().err


def test_a_place_where_nothing_can_be_written(tiny_bundle, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with patch.object(space, "analyse", side_effect=AssertionError("computed in vain")):
        assert analyse.main([str(tiny_bundle), *FEW, "--out", str(tmp_path / "file/out")]) == 2
    assert "Nothing can be written to" in capsys.readouterr().err


def test_a_name_that_leads_elsewhere_is_refused(tiny_bundle, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "a/bundle"
    shutil.copytree(tiny_bundle, folder)
    _changed(folder, lambda manifest: manifest.update(name="../../elsewhere"))
    monkeypatch.chdir(folder.parent)
    assert analyse.main([str(folder), *FEW]) == 2
    assert "give --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_bundle_that_changed_meanwhile_is_not_stored_in(analysed, tiny_bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    bundle, found = Bundle(folder), Analysis.open(analysed / "space.safetensors")
    gallery = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    (folder / "gallery.json").write_text(json.dumps(gallery, indent=3), encoding="utf-8")
    _changed(folder, lambda manifest: None)
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(InputError, match="changed meanwhile"):
        analyse.store(bundle, {"space": found})
    assert (folder / MANIFEST).read_bytes() == before


def test_what_others_stored_meanwhile_stays(analysed, tiny_bundle, tmp_path, monkeypatch):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    found = {n: Analysis.open(analysed / f"{n}.safetensors") for n in ("space", "meaning")}
    monkeypatch.chdir(folder)
    early = Bundle(folder), Bundle(".")  # the second knows nothing of what is stored first
    for bundle, name in zip(early, found, strict=True):
        os.chdir(folder)  # in a folder that is replaced one is nowhere
        analyse.store(bundle, {name: found[name]})
    bundle = Bundle(folder)
    assert stored(bundle, "space") is not None
    assert stored(bundle, "meaning") is not None


def test_what_is_kept_depends_on_all_it_was_made_of(tiny_bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    before = analyse._made_of(Bundle(folder), None)
    assert before == analyse._made_of(Bundle(tiny_bundle), None)
    _changed(folder, lambda manifest: manifest.update(hub={"repo": "a/b", "commit": "0"}))
    assert analyse._made_of(Bundle(folder), None) == before
    _changed(folder, lambda manifest: manifest.update(tmin=-0.1))
    assert analyse._made_of(Bundle(folder), None) != before


def test_a_figure_that_is_no_longer_known_is_a_difference():
    now = Analysis("meaning", [], {"figures": np.array([[0.5, 1.0]])}, {"subjects": ["1"]})
    there = Analysis("meaning", [], {"figures": np.array([[0.5, np.nan]])}, {"subjects": ["1"]})
    assert analyse._difference(now, now).startswith("equals")
    assert analyse._difference(there, there).startswith("equals")
    assert analyse._difference(now, there).startswith("differs")


@pytest.mark.parametrize(
    ("name", "series"),
    [
        # Encoders trained on all other subjects aren't exchanged.
        ("transfer", ("pooled training", Axis("trained on", "", ["own", "the others"]))),
        # Channels of no known region.
        ("space", ("searchlight", Axis("electrode", "", ["A", "B"]))),
    ],
)
def test_a_part_of_a_figure_may_be_missing(stored_bundle, tmp_path, name, series):
    ranks = np.ones((2, 2, 6), np.uint16)
    bundle = Bundle(stored_bundle)
    if name == "space":
        series = (series[0], Axis("electrode", "", bundle.montage.names))
        ranks = np.ones((2, len(bundle.montage.names), 6), np.uint16)
    one = Series(
        series[0], "ridge", "retrained", (series[1],), 6, ["1", "2"], ranks, np.ones((2, 3))
    )
    about = {"subjects": ["1", "2"], "simulated": True}
    draw(Analysis(name, [one], {}, about), bundle, tmp_path)
    assert (tmp_path / f"{name}.svg").exists()
