"""The reproducibility card: what the manifest says; published figures only where they belong."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sentences import refuses

from nice_demo import report
from nice_demo.bundle import OTHER_SUBJECTS, Bundle, write_manifest
from nice_demo.files import sha256
from nice_demo.gallery import Gallery
from nice_demo.retrieval import wilson

PHANTOM = Path(__file__).resolve().parents[1] / "weights" / "phantom"


def edit(folder, **changes):
    """Change a manifest, None removes, without changing what other copies of the file link to."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    changed = manifest | changes
    write_manifest(folder, {name: value for name, value in changed.items() if value is not None})


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Return the shipped bundle in the guise of one of THINGS-EEG2: 200-way, 80 repetitions."""
    folder = tmp_path_factory.mktemp("real") / "things-eeg2"
    shutil.copytree(PHANTOM, folder, copy_function=os.link)
    gallery = Gallery.open(folder / "gallery")
    replace(gallery, protocol="concept centre").save(folder / "centres")
    manifest = json.loads((folder / "manifest.json").read_text())
    twice = [
        entry | {"metrics": entry["metrics"] | {"protocol": protocol}}
        for entry in manifest["metrics"]
        for protocol in ("stimulus", "concept centre")
    ]
    edit(folder, simulated=False, source="THINGS-EEG2 (CC-BY 4.0)", metrics=twice, versions=None)
    return folder


@pytest.fixture
def folder(real, tmp_path):
    return Path(shutil.copytree(real, tmp_path / "bundle", copy_function=os.link))


def rows(text, start, after=""):
    """Return the cells of all table rows whose first cell is `start`, after a heading."""
    lines = text[text.index(after) :].splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith(f"| {start} |")
    ]


def test_simulated(stored_bundle, tmp_path, capsys):
    out = tmp_path / "cards" / "card.md"
    assert report.main([str(stored_bundle), "--out", str(out)]) == 0
    assert "card.md is written" in capsys.readouterr().out
    text = out.read_text()
    assert report.main([str(stored_bundle)]) == 0
    assert capsys.readouterr().out == text
    assert "**Simulated EEG.**" in text
    assert "No published figures stand beside these: the EEG is simulated" in text
    assert "published NICE" not in text and "concept centre" not in text.casefold()
    manifest = json.loads((stored_bundle / "manifest.json").read_text())
    one, all_four = rows(text, "2")
    for row, repetitions in ((one, 1), (all_four, 4)):
        wanted = []
        for encoder in ("nice", "ridge"):
            (found,) = (e["metrics"] for e in manifest["metrics"]
                        if (e["subject"], e["encoder"], e["metrics"]["repetitions"])
                        == ("2", encoder, repetitions))  # fmt: skip
            for top in ("top1", "top5"):
                hits, trials = found[top]["successes"], found[top]["trials"]
                low, high = wilson(hits, trials)
                wanted.append(f"{100 * hits / trials:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        assert row == ["2", *wanted]
    assert rows(text, "chance")[0] == ["chance", "17", "83", "17", "83"]
    assert [row[-1] for row in rows(text, "nice")] == ["one seed", "one seed"]


def test_configuration(stored_bundle):
    text = report.report(Bundle(stored_bundle))
    manifest = json.loads((stored_bundle / "manifest.json").read_text())
    assert set(manifest["versions"]) == {"python", "torch", "numpy"}
    for what, value in {
        "data": "random numbers",
        "encoders trained on": "the same subject",
        "recording: unit": "whitened",
        "image model": "random features",
        "image model's revision": "r1",
        "nice: epochs": "2",
        "nice: lr": "0.001",
        "nice: betas": "[0.5, 0.999]",
        "nice: seed that ships": "1",
        "seeds trained": "1",
        "checkpoint rule": manifest["checkpoint_rule"],
        "nice_demo": manifest["code_version"],
        "python": manifest["versions"]["python"],
        "torch": manifest["versions"]["torch"],
        "numpy": manifest["versions"]["numpy"],
        "SHA-256 of manifest.json": sha256(stored_bundle / "manifest.json"),
    }.items():
        assert [what, value] in rows(text, what)
    ((_, told),) = rows(text, "nice: temperatures are from")
    wanted = {}
    for subject, encoders in manifest["encoders"].items():
        fit = encoders["nice"]["calibration"]
        wanted[subject] = f"{fit['pictures']} held-out pictures of {fit['concepts']} concepts, "
        wanted[subject] += "fitted at 1, 2, 3 repetitions; the others are extrapolated"
        if fit["at_bound"]:
            wanted[subject] += f"; at a bound at {', '.join(map(str, fit['at_bound']))}"
    if len(set(wanted.values())) == 1:
        assert told == wanted["1"]
    else:
        assert told == "; ".join(f"subject {subject}: {one}" for subject, one in wanted.items())
    ((_, split),) = rows(text, "nice: split")
    assert split.startswith("whole concepts of the training pictures are held out by the seed: 740")


def test_published_stand_beside_concept_centres_of_real_eeg(real):
    text = report.report(Bundle(real))
    assert "Published, not ours: NICE (Song et al., ICLR 2024)" in text
    assert "imulated" not in text.partition("## Configuration")[0]
    stimulus, _, centres = text.partition("### Concept centre protocol")
    assert "published NICE" not in stimulus
    one, _, eighty = centres.partition("Repetitions averaged: 80")
    assert "published NICE" not in one
    # From the notes on the paper, in the order of the subjects.
    wanted = ("13.2/39.5 13.5/40.3 14.5/42.7 20.6/52.7 10.1/31.5 16.5/44.0 17.0/42.1 22.9/56.1 "
              "15.4/41.6 17.4/45.8 16.1/43.6")  # fmt: skip
    names = [*map(str, range(1, 11)), "mean"]
    for name, both in zip(names, wanted.split(), strict=True):
        (row,) = rows(eighty, name)
        assert row[-2:] == both.split("/")
    assert rows(eighty, "chance")[0][-2:] == ["0.5", "2.5"]
    assert "not recorded" in rows(text, "Python and packages")[0]  # of an earlier version


def test_published_of_others_left_out(folder):
    edit(folder, trained_on=OTHER_SUBJECTS)
    text = report.report(Bundle(folder))
    assert "Each encoder was trained on the other subjects." in text
    assert "we know of the published mean alone" in text
    centres = text[text.index("### Concept centre protocol") :]
    eighty = centres[centres.index("Repetitions averaged: 80") :]
    assert rows(eighty, "8")[0][-2:] == ["–", "–"]
    assert rows(eighty, "mean")[0][-2:] == ["6.2", "21.4"]


def test_no_centres_no_comparison(folder):
    for ending in (".json", ".safetensors"):
        (folder / f"centres{ending}").unlink()
    edit(folder)
    text = report.report(Bundle(folder))
    assert "published NICE" not in text
    assert "not comparable with the stimulus protocol" in text
    edit(folder, source="somebody's recordings", name="mine")
    assert "other data, THINGS-EEG2" in report.report(Bundle(folder))


def test_several_seeds(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    more = []
    for run in manifest["runs"]:
        if run["encoder"] != "nice" or run["seed"] != 1:
            continue
        for seed in (2, 3):  # ten and twenty points better everywhere
            better = [
                told | {top: told[top] | {"value": told[top]["value"] + 0.1 * (seed - 1)}
                        for top in ("top1", "top5")}
                for told in run["selected"]
            ]  # fmt: skip
            more.append(run | {"seed": seed, "selected": better})
    of_one = [run for run in manifest["runs"] if run["seed"] == 1]
    edit(folder, runs=of_one + more)
    text = report.report(Bundle(folder))
    head = "| encoder | repetitions | seed 1 (ships) | seed 2 | seed 3 | mean ± SD over seeds |"
    assert head in text
    assert "from the manifest's runs" in text
    stimulus = text[: text.index("### Concept centre")]
    (_, row) = rows(stimulus, "nice")
    one, five = (float(x) for x in row[2].split(" / "))
    assert [f"{float(x):.1f}" for x in row[3].split(" / ")] == [
        f"{one + 10:.1f}",
        f"{five + 10:.1f}",
    ]
    # x, x + 10, x + 20
    mean1, mean5 = (x.split(" ± ") for x in row[5].split(" / "))
    assert (mean1[1], mean5[1]) == ("10.0", "10.0")
    assert float(mean1[0]) == pytest.approx(one + 10, abs=0.11)
    edit(folder, runs=of_one + [run for run in more if run["seed"] == 2])
    assert rows(report.report(Bundle(folder)), "nice")[0][-1] == "needs 3 seeds"


def test_a_cell_stays_a_cell(folder):
    edit(folder, preparation={"note": "a | b\nc", "deep": {"x": [1, 2]}}, checkpoint_rule="best")
    text = report.report(Bundle(folder))
    assert "| preparation: note | a \\| b c |" in text
    assert '| preparation: deep | {"x": [1, 2]} |' in text


def test_refusals(folder, tmp_path, capsys):
    assert report.main([str(tmp_path / "none")]) == 2
    assert report.main([str(folder), "--out", str(tmp_path)]) == 2  # a folder
    err = capsys.readouterr().err
    assert err.count("error: ") == err.count("\n") == 2
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(folder, metrics=manifest["metrics"][1:])
    refuses(lambda: report.report(Bundle(folder)), "subject 1", "nice")
    assert sorted(os.listdir(tmp_path)) == ["bundle"]
