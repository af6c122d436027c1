"""`python -m nice_demo.evaluate` over someone's latents, and over a bundle."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nice_demo import evaluate, hub, report
from nice_demo.bundle import Bundle
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


# ---------------------------------------------------------------- two decoders


@pytest.fixture
def other(files, tmp_path):
    """Another decoder: of the 30 trials it gets one out of five; its file's name."""
    gallery = np.load(files[3])
    rng = np.random.default_rng(1)
    rows = np.where(np.arange(30)[:, None] % 5 == 0, gallery, rng.normal(size=gallery.shape))
    np.save(tmp_path / "other.npy", rows)
    return str(tmp_path / "other.npy")


def hits(latents, gallery):
    """Count by hand who is first."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (latents, gallery)]
    return (unit[0] @ unit[1].T).argmax(1) == np.arange(len(latents))


def test_two_decoders(files, other, capsys):
    assert evaluate.main([*files, "--and", other, "--permutations", "0"]) == 0
    text = capsys.readouterr().out
    first, second = (hits(np.load(path), np.load(files[3])) for path in (files[1], other))
    assert text.count("30-way retrieval, stimulus protocol") == 2
    shares = f"{100 * first.mean():.1f} % and other.npy in {100 * second.mean():.1f} %"
    assert f"On the same 30 trials, latents.npy puts the picture seen first in {shares}" in text
    row = text.splitlines()[-5]
    assert row.startswith("top-1 ")
    assert row.split()[-3:-1] == [str((first & ~second).sum()), str((second & ~first).sum())]
    assert "Three tests, not corrected for being three" in text


def test_two_decoders_for_programs(files, other, capsys):
    argv = [*files, "--and", other, "--permutations", "0", "--json"]
    assert evaluate.main(argv) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["and"]["latents"] == other
    difference = told["metrics"]["top1"]["value"] - told["and"]["metrics"]["top1"]["value"]
    compared = told["compared"]
    assert compared["top1"]["difference"] == pytest.approx(difference)
    assert compared["top1"]["low"] < difference < compared["top1"]["high"]
    assert compared["top1"]["p"] < 0.01
    assert "more than chance explains" in compared["in_words"]


def test_a_decoder_with_itself(files, capsys):
    argv = [*files, "--and", files[1], "--permutations", "0", "--json"]
    assert evaluate.main(argv) == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    assert compared["top1"]["p"] == compared["top5"]["p"] == compared["reciprocal_rank"]["p"] == 1
    assert compared["in_words"].count(files[1]) == 2  # both are called as they were given


def test_another_space_needs_its_own_gallery(files, other, tmp_path, capsys):
    project = np.random.default_rng(2).normal(size=(16, 9))
    np.save(tmp_path / "b.npy", np.load(other) @ project)
    np.save(tmp_path / "b_gallery.npy", np.load(files[3]) @ project)
    argv = [*files, "--and", str(tmp_path / "b.npy"), "--permutations", "0"]
    assert evaluate.main(argv) == 2
    assert "they must be alike" in capsys.readouterr().err
    assert evaluate.main([*argv, "--and-gallery", str(tmp_path / "b_gallery.npy"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    second = hits(np.load(tmp_path / "b.npy"), np.load(tmp_path / "b_gallery.npy"))
    assert told["and"]["metrics"]["top1"]["value"] == pytest.approx(second.mean())


def test_trials_must_be_the_same(files, tmp_path, capsys):
    for name in ("short.npy", "short_gallery.npy"):
        np.save(tmp_path / name, np.load(files[3])[:20])
    argv = [
        "--and",
        str(tmp_path / "short.npy"),
        "--and-gallery",
        str(tmp_path / "short_gallery.npy"),
    ]
    assert evaluate.main([*files, *argv, "--permutations", "0"]) == 2
    assert "30 rows but" in capsys.readouterr().err


# ---------------------------------------------------------------- wrong input


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
        ["--latents", "a.npy", "--and", "b.npy"],
        ["bundle", "--and", "b.npy"],
        ["--latents", "a.npy", "--gallery", "b.npy", "--and-gallery", "c.npy"],
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


def test_bundle(stored_bundle, capsys):
    assert evaluate.main([str(stored_bundle)]) == 0
    text = capsys.readouterr().out
    assert "These figures equal those in the manifest." in text
    bundle = Bundle(stored_bundle)
    for subject in bundle.subjects:
        for encoder in bundle.encoders(subject):
            of_both = [bundle.metrics(subject, encoder, n) for n in (1, bundle.repetitions[-1])]
            values = [f"{100 * m.top1.value:.1f}" for m in of_both]
            values += [f"{100 * m.top5.value:.1f}" for m in of_both]
            (row,) = (r for r in text.splitlines() if r.split()[:2] == [subject, encoder])
            assert sorted(re.findall(r"([\d.]+) \(", row)) == sorted(values)
    (row,) = (r for r in text.splitlines() if r.split()[:2] == ["mean", "ridge"])
    last = bundle.repetitions[-1]
    each = [bundle.metrics(s, "ridge", last).top1.value for s in bundle.subjects]
    assert f"{100 * sum(each) / len(each):.1f}" in row


def test_bundle_for_programs(stored_bundle, capsys):
    assert evaluate.main([str(stored_bundle), "--subjects", "2", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["equals_manifest"] is True
    assert list(content["subjects"]) == ["2"]
    for several in content["subjects"]["2"].values():
        assert {"low", "high", "chance", "p"} < set(several[0]["top1"])


def test_bundle_whose_manifest_says_something_else(stored_bundle, tmp_path, capsys):
    folder = Path(shutil.copytree(stored_bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(e for e in manifest["metrics"] if e["metrics"]["repetitions"] == 1)
    entry["metrics"]["top5"]["successes"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert evaluate.main([str(folder)]) == 0
    where = f"subject {entry['subject']}, {entry['encoder']}, 1 repetition"
    assert f"The manifest has other figures for: {where}." in capsys.readouterr().out


# ---------------------------------------------------------------- several encoders


def made_up(hits, repetitions=(1, 80), ways=20):
    """Return what `evaluate_bundle` would of encoders whose hits are drawn: ranks 1, 3 or 9."""
    measured, found, rng = {}, {}, np.random.default_rng(0)
    for subject in ("1", "2", "3"):
        found[subject] = {
            encoder: [rng.choice([1, 3, 9], ways, p=[p, 0.2, 0.8 - p]) for _ in repetitions]
            for encoder, p in hits.items()
        }
        measured[subject] = {}
        for encoder, several in found[subject].items():
            measured[subject][encoder] = []
            for n, ranks in zip(repetitions, several, strict=True):
                similarities = np.zeros((ways, ways))
                for row, rank in enumerate(ranks):  # rank − 1 candidates before the one seen
                    others = [c for c in range(ways) if c != row]
                    similarities[row, row] = 1
                    similarities[row, others[: rank - 1]] = 2
                target = np.arange(ways)
                measured[subject][encoder].append(
                    metrics(similarities, target, protocol="stimulus", repetitions=n)
                )
    return measured, found


def test_comparison_is_the_literal_one():
    measured, found = made_up({"nice": 0.2, "nice-sa": 0.4, "nice-ga": 0.2, "ridge": 0.1})
    compared = evaluate.compare(measured, found)
    names = ["nice-sa", "nice-ga", "ridge"]
    assert [(c.encoder, c.repetitions) for c in compared] == [
        (name, n) for n in (1, 80) for name in names
    ]
    for one in compared:
        assert (one.reference, one.protocol) == ("nice", "stimulus")
        place = (1, 80).index(one.repetitions)
        for top, figure in ((1, one.top1), (5, one.top5)):
            differences, only_a, only_b = [], 0, 0
            for subject in "123":
                ours = [rank <= top for rank in found[subject][one.encoder][place]]
                first = [rank <= top for rank in found[subject]["nice"][place]]
                differences.append((sum(ours) - sum(first)) / 20)
                only_a += sum(a and not b for a, b in zip(ours, first, strict=True))
                only_b += sum(b and not a for a, b in zip(ours, first, strict=True))
            assert figure.value == pytest.approx(sum(differences) / 3)
            assert figure.better == sum(d > 0 for d in differences)
            assert figure.subjects == 3
            n, least = only_a + only_b, min(only_a, only_b)
            tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
            assert figure.p == pytest.approx(min(1, 2 * tail))
            assert figure.low <= figure.value <= figure.high
    without = evaluate.compare(measured)
    assert {figure.p for one in without for figure in (one.top1, one.top5)} == {None}
    assert [one.top5.low for one in without] == [one.top5.low for one in compared]


def test_one_encoder_is_compared_with_nothing():
    assert evaluate.compare(*made_up({"nice": 0.2})) == []


def test_an_encoder_of_some_subjects_only():
    measured, found = made_up({"nice": 0.2, "ridge": 0.1})
    del measured["2"]["ridge"], found["2"]["ridge"]
    assert {one.top1.subjects for one in evaluate.compare(measured, found)} == {2}


def test_bundle_with_four_encoders(stored_bundle, tmp_path, capsys):
    """As trained with `--encoder nice,nice-sa,nice-ga`, in the order of the bundle."""
    folder = Path(shutil.copytree(stored_bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    names = ["nice", "nice-sa", "nice-ga", "ridge"]
    for subject, entries in manifest["encoders"].items():
        manifest["encoders"][subject] = {n: entries.get(n, entries["nice"]) for n in names}
    for name in ("nice-sa", "nice-ga"):  # the same files under other names
        for content in (manifest["metrics"], manifest["runs"]):
            content += [e | {"encoder": name} for e in content if e["encoder"] == "nice"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert evaluate.main([str(folder)]) == 0
    text = capsys.readouterr().out
    assert "These figures equal those in the manifest." in text
    rows = [row.split()[:2] for row in text.splitlines() if row.strip()]
    for start in ("1", "2", "mean"):
        assert [row[1] for row in rows if row[0] == start] == names
    assert "Each encoder against nice on the same trials" in text
    assert sum("+0.0 (+0.0 to +0.0)" in row for row in text.splitlines()) == 2 * 2
    assert max(map(len, text.splitlines())) <= 120
    assert evaluate.main([str(folder), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [one["encoder"] for one in content["compared"]] == names[1:] * 2
    same = content["compared"][0]["top1"]
    assert same == {"value": 0, "low": 0, "high": 0, "better": 0, "subjects": 2, "p": 1}
    text = report.report(Bundle(folder))
    assert "Each encoder against nice on the same trials" in text
    assert text.count("| nice-ga | 1 | +0.0 (+0.0 to +0.0) | 0 of 2 |") == 1
    card = hub.model_card(Bundle(folder), "me/bundle")
    assert card.count("| nice-ga |") == 2
    assert evaluate.main([str(folder), "--subjects", "2"]) == 0
    assert "0 of 1" in capsys.readouterr().out  # one subject: no interval, McNemar alone


@pytest.mark.parametrize("wrong", [["gone"], ["--subjects", "99"]])
def test_bundle_that_is_none(stored_bundle, capsys, wrong):
    assert evaluate.main(wrong if wrong == ["gone"] else [str(stored_bundle), *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 1


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
