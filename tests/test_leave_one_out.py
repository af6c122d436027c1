"""Leaving one subject out: trained on all others, blind to their tests; two protocols; seeds."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sentences import refuses
from tiny import make_stored_data

from nice_demo import evaluate, report, train, training
from nice_demo.bundle import OTHER_SUBJECTS, SAME_SUBJECT, Bundle, open_centres, write_manifest
from nice_demo.contrastive import ContrastiveLoss
from nice_demo.eegset import DataSet, EEGSet
from nice_demo.encoders import open_encoder
from nice_demo.encoders.ridge import Ridge
from nice_demo.gallery import Candidate, Gallery
from nice_demo.retrieval import metrics
from nice_demo.settings import Settings, held_out
from nice_demo.training import fit_ridge, train_encoder
from nice_demo.training_data import TrainingData, check_pool, other_subjects

CPU = torch.device("cpu")
QUICK = ["--epochs", "3", "--batch", "20", "--lr", "1e-3"]
LEFT_OUT = [*QUICK, "--leave-one-subject-out"]


def add_centres(folder):
    """Put centres into a data folder: the pictures' embeddings, moved a good way."""
    gallery = Gallery.open(folder / "test_gallery")
    rng = np.random.default_rng(3)
    moved = gallery.embeddings + 0.5 * rng.standard_normal(gallery.embeddings.shape)
    moved = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    replace(gallery, embeddings=moved, protocol="concept centre").save(folder / "test_centres")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Return a data folder of three subjects with concept centres; not to be changed."""
    data = make_stored_data(tmp_path_factory.mktemp("three"), (1, 2, 3))
    add_centres(data)
    return data


@pytest.fixture
def folder(three, tmp_path):
    return Path(shutil.copytree(three, tmp_path / "data"))


@pytest.fixture(scope="module")
def bundle(three, tmp_path_factory):
    """Return a bundle of subjects 1 and 3, each decoded by encoders of the others, two seeds."""
    out = tmp_path_factory.mktemp("left-out") / "bundle"
    arguments = [*LEFT_OUT, "--seeds", "2,1", "--subjects", "1,3", "--data", three, "--out", out]
    assert train.main(list(map(str, arguments))) == 0
    return out


def run(data, out, *arguments):
    return train.main([*LEFT_OUT, *map(str, arguments), "--data", str(data), "--out", str(out)])


def refused(capsys, data, out, *arguments):
    """Train; it must fail with one sentence."""
    capsys.readouterr()
    assert run(data, out, *arguments) == 2
    err = capsys.readouterr().err.rpartition("\r")[2]
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def concepts_of(data):
    return [candidate.concept for candidate in data.train_gallery.candidates]


# ---------------------------------------------------------------- rows of several subjects


@pytest.mark.parametrize("single", [False, True])
def test_pooled_rows(folder, single):
    # Subject 2 has other trials a condition than subject 3: that's allowed.
    eeg = EEGSet.open(folder / "sub-02")
    EEGSet.write(folder / "sub-02", eeg.train[:, :2], eeg.test, eeg.meta)
    data = DataSet.open(folder)
    pool = other_subjects(data, 1)
    rows = TrainingData(pool, single, CPU)
    wanted, conditions = [], []
    for subject in (2, 3):
        trials = data.subject(subject).train
        for condition in range(60):
            for trial in trials[condition] if single else [trials[condition].mean(0)]:
                wanted.append(trial)
                conditions.append(condition)
    assert len(rows) == len(wanted) == (60 * 5 if single else 120)
    np.testing.assert_array_equal(rows.conditions, conditions)
    asked = np.random.default_rng(0).permutation(len(wanted))[:50]
    np.testing.assert_allclose(rows.rows(asked), [wanted[row] for row in asked], atol=1e-6)
    own = rows.by_subject(np.sort(asked))
    border = 120 if single else 60
    assert [len(part) for part in own] == [(asked < border).sum(), (asked >= border).sum()]
    assert own[0].max() < border <= own[1].min()


def test_a_pool_of_one_trains_as_the_subject_itself(three):
    data = DataSet.open(three)
    settings = Settings(epochs=2, batch=20)
    pictures = data.train_gallery.embeddings
    eeg, alone = data.subject(2), [data.training_set(2)]
    for trainer in (
        lambda trained: train_encoder(trained, pictures, concepts_of(data), settings, 1, CPU),
        lambda trained: fit_ridge(trained, pictures, concepts_of(data), settings, 1),
    ):
        one, two = trainer(eeg), trainer(alone)
        assert one.history == two.history
        for key, value in one.selected.state_dict().items():
            assert torch.equal(value, two.selected.state_dict()[key])


def test_same_picture_of_several_subjects_is_always_right(three, monkeypatch):
    """Held-out concepts are held out of all subjects; batches mix subjects, by condition."""
    data = DataSet.open(three)
    batches, asked = [], set()
    forward, read = ContrastiveLoss.forward, TrainingData.batches

    def sees(self, eeg, pictures, conditions):
        if eeg.requires_grad:
            batches.append(conditions.numpy())
            targets = self.targets(conditions)
            for i, one in enumerate(conditions):
                right = [j for j, other in enumerate(conditions) if one == other]
                wanted = torch.zeros(len(conditions))
                wanted[right] = 1 / len(right)
                assert torch.equal(targets[i], wanted)
        return forward(self, eeg, pictures, conditions)

    def reads(self, rows):
        if torch.is_inference_mode_enabled():
            asked.update(np.concatenate(rows).tolist())
        return read(self, rows)

    monkeypatch.setattr(ContrastiveLoss, "forward", sees)
    monkeypatch.setattr(TrainingData, "batches", reads)
    settings = Settings(epochs=1, batch=60)
    train_encoder(
        other_subjects(data, 1), data.train_gallery.embeddings, concepts_of(data), settings, 1, CPU
    )
    held = set(np.flatnonzero(held_out(concepts_of(data), settings, 1)).tolist())
    assert asked == {row + 60 * subject for row in held for subject in (0, 1)}
    trained = np.concatenate(batches)
    assert not held & set(trained.tolist())
    assert all((trained == condition).sum() == 2 for condition in set(range(60)) - held)
    assert any(len(np.unique(batch)) < len(batch) for batch in batches)  # two subjects, one picture


def test_ridge_on_a_pool_is_least_squares_over_all(three):
    data = DataSet.open(three)
    pictures = data.train_gallery.embeddings
    found = fit_ridge(other_subjects(data, 2), pictures, concepts_of(data), Settings(), 1)
    kept = ~held_out(concepts_of(data), Settings(), 1)
    x = np.concatenate([data.subject(s).train[kept].mean(1) for s in (1, 3)]).astype(float)
    x = x.reshape(len(x), 4, 8, 10).mean(3).reshape(len(x), -1)
    y = np.concatenate([pictures[kept]] * 2).astype(float)
    mean_x, mean_y = x.mean(0), y.mean(0)
    strength = found.history[found.best_epoch]["strength"]
    xx = (x - mean_x).T @ (x - mean_x)
    penalty = strength * np.trace(xx) / len(xx) * np.eye(len(xx))
    weight = np.linalg.solve(xx + penalty, (x - mean_x).T @ (y - mean_y))
    assert isinstance(found.selected, Ridge)
    np.testing.assert_allclose(found.selected.linear.weight.detach(), weight.T, atol=1e-5)


# ---------------------------------------------------------------- bundles


def test_what_the_bundle_says(bundle, capsys):
    opened = Bundle(bundle)
    assert opened.trained_on == opened.manifest["trained_on"] == OTHER_SUBJECTS
    assert opened.subjects == ["1", "3"]
    assert opened.manifest["pool"] == ["1", "2", "3"]
    assert "| the other subjects are those of | 1, 2, 3 |" in report.report(opened)
    assert set(opened.manifest["versions"]) == {"python", "torch", "numpy"}
    assert opened.manifest["versions"]["numpy"] == np.__version__
    hashes = {str(run["subject"]): run["data"] for run in opened.manifest["runs"]}
    assert [len(set(files)) for files in hashes.values()] == [2, 2]
    assert set(hashes["1"]) & set(hashes["3"]) == {hashes["1"][0]}  # subject 2 trains for both
    assert evaluate.main([str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "trained on the other subjects" in text
    assert text.endswith("These figures equal those in the manifest.\n")


def test_the_same_subject_stays_the_default(stored_bundle, capsys):
    opened = Bundle(stored_bundle)
    assert opened.trained_on == opened.manifest["trained_on"] == SAME_SUBJECT
    assert [gallery.protocol for gallery in opened.galleries] == ["stimulus"]
    assert evaluate.main([str(stored_bundle)]) == 0
    text = capsys.readouterr().out
    assert "trained on the same subject" in text
    assert "concept centre" not in text
    del opened.manifest["trained_on"]  # as in bundles of earlier versions
    assert opened.trained_on == SAME_SUBJECT


def test_others_tests_and_own_training_are_not_used(folder, three, bundle, tmp_path):
    """Whatever is in the others' tests and the own training trials, the encoder is the same."""
    for subject in (2, 3):
        (folder / f"sub-{subject:02d}" / "test.safetensors").unlink()  # opening it would raise
    own = EEGSet.open(folder / "sub-01")
    save_file({"eeg": np.array(own.train) * 100 + 7}, folder / "sub-01" / "train.safetensors")
    refuses(lambda: DataSet.open(folder).subject(2), "test.safetensors")
    out = tmp_path / "out"
    assert run(folder, out, "--seeds", "2,1", "--subjects", "1") == 0
    name = "encoders/sub-01_{}.safetensors"
    for encoder in ("nice", "ridge"):
        one, two = (load_file(b / name.format(encoder)) for b in (out, bundle))
        assert all((one[key] == two[key]).all() for key in two)
    again, before = ([e for e in Bundle(b).manifest["metrics"] if e["subject"] == "1"]
                     for b in (out, bundle))  # fmt: skip
    assert again == before


def test_default_name_and_resume(three, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [*LEFT_OUT, "--data", str(three)]
    with monkeypatch.context() as broken:
        broken.setattr(train, "fit_ridge", lambda *_: 1 / 0)  # the lights go out
        with pytest.raises(ZeroDivisionError):
            train.main(arguments)
    out = Path("weights/stored-leave-one-subject-out")
    assert os.listdir("weights") == [f".{out.name}.training"]
    same_subject = [*QUICK, "--data", str(three), "--out", str(out), "--resume"]
    assert train.main(same_subject) == 2
    assert "other settings or data" in capsys.readouterr().err
    assert train.main([*arguments, "--resume"]) == 0
    assert os.listdir("weights") == [out.name]
    assert Bundle(out).trained_on == OTHER_SUBJECTS


def test_checkpoint_of_a_pool_goes_on(three, tmp_path):
    data = DataSet.open(three)
    pictures, concepts = data.train_gallery.embeddings, concepts_of(data)

    def trained(left_out, checkpoint, settings):
        pool = other_subjects(data, left_out)
        return train_encoder(pool, pictures, concepts, settings, 1, CPU, checkpoint)

    settings = Settings(epochs=3, batch=20)
    whole = trained(1, None, settings)
    place = tmp_path / "run.checkpoint"
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(training.Course, "add", stops_after(training.Course.add, 2))
        with pytest.raises(ZeroDivisionError):
            trained(1, place, settings)
    resumed = trained(1, place, settings)
    assert resumed.history == whole.history
    for key, value in whole.final.state_dict().items():
        assert torch.equal(value, resumed.final.state_dict()[key])
    refuses(lambda: trained(3, place, settings), "run.checkpoint", "other settings")


def stops_after(add, epochs):
    def stopping(self, *figures):
        add(self, *figures)
        if self.epoch == epochs:
            raise ZeroDivisionError

    return stopping


# ---------------------------------------------------------------- both protocols


def test_both_protocols(bundle, three, capsys):
    opened = Bundle(bundle)
    shown, centres = opened.galleries
    assert (shown.protocol, centres.protocol) == ("stimulus", "concept centre")
    np.testing.assert_array_equal(
        centres.embeddings, Gallery.open(three / "test_centres").embeddings
    )
    encoder = open_encoder(bundle / "encoders/sub-03_nice.safetensors")
    for gallery in (shown, centres):
        for repetitions in opened.repetitions:
            similarities = np.empty((6, 6))
            for seen in range(6):
                eeg = torch.from_numpy(opened.trials("3").evoked(seen, repetitions).eeg)[None]
                with torch.inference_mode():
                    found = encoder(eeg)[0].double().numpy()
                for i, candidate in enumerate(gallery.embeddings.astype(float)):
                    norms = np.linalg.norm(found) * np.linalg.norm(candidate)
                    similarities[seen, i] = found @ candidate / norms
            wanted = metrics(
                similarities, np.arange(6), protocol=gallery.protocol, repetitions=repetitions
            )
            assert opened.metrics("3", "nice", repetitions, gallery.protocol) == wanted
    assert opened.metrics("3", "nice", 4).protocol == "stimulus"  # what the page shows
    told = [(run["protocol"], run["repetitions"]) for run in opened.manifest["runs"][0]["selected"]]
    assert sorted(told) == [(p, n) for p in ("concept centre", "stimulus") for n in (1, 4)]

    assert evaluate.main([str(bundle)]) == 0
    text = capsys.readouterr().out
    _, stimulus, centre = text.split("6-way retrieval in %, ")
    assert stimulus.startswith("stimulus protocol: candidates are the embeddings of the very")
    assert centre.startswith("concept centre protocol: candidates are means over other pictures")
    for part, gallery in ((stimulus, shown), (centre, centres)):
        (row,) = (r for r in part.splitlines() if r.split()[:2] == ["3", "nice"])
        found = opened.metrics("3", "nice", 1, gallery.protocol)
        assert row.split()[2] == f"{100 * found.top1.value:.1f}"


def test_pictures_and_recordings_go_along(folder, tmp_path):
    """A candidate's picture is a file of the bundle; the manifest says how EEG was recorded."""
    gallery = Gallery.open(folder / "test_gallery")
    (folder / "cc0").mkdir()
    (folder / "cc0" / "thing.webp").write_bytes(b"a picture")
    (folder / "cc0" / "other.webp").write_bytes(b"nobody names it")
    gallery.candidates[2] = replace(gallery.candidates[2], picture="cc0/thing.webp", licence="CC0")
    gallery.candidates[3] = replace(gallery.candidates[3], picture="twemoji:1f955")
    gallery.save(folder / "test_gallery")
    meta = json.loads((folder / "sub-02" / "meta.json").read_text())
    (folder / "sub-02" / "meta.json").write_text(json.dumps(meta | {"origin": "raw"}))
    assert run(folder, tmp_path / "out", "--subjects", "2", "--epochs", "1") == 0
    manifest = Bundle(tmp_path / "out").manifest
    assert manifest["recordings"] == {"2": {"unit": "whitened", "origin": "raw"}}
    assert [name for name in manifest["files"] if "webp" in name] == ["cc0/thing.webp"]
    assert (tmp_path / "out" / "cc0" / "thing.webp").read_bytes() == b"a picture"


def test_difference_names_the_protocol(bundle, tmp_path, capsys):
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    wanted = ("concept centre", 4)
    entry = next(e for e in manifest["metrics"]
                 if (e["metrics"]["protocol"], e["metrics"]["repetitions"]) == wanted)  # fmt: skip
    top5 = entry["metrics"]["top5"]
    top5["successes"] += 1 if top5["successes"] < 6 else -1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert evaluate.main([str(folder)]) == 0
    where = f"subject {entry['subject']}, {entry['encoder']}, 4 repetitions, concept centre"
    assert f"The manifest has other figures for: {where}." in capsys.readouterr().out


@pytest.mark.parametrize("picture", ["../thing.webp", "encoders/thing.webp"])
def test_pictures_that_may_not_go_along(folder, tmp_path, capsys, picture):
    """That is said before hours of training, not after them."""
    gallery = Gallery.open(folder / "test_gallery")
    gallery.candidates[2] = replace(gallery.candidates[2], picture=picture)
    gallery.save(folder / "test_gallery")
    (folder / "encoders").mkdir()
    (folder / picture).write_bytes(b"a picture")
    assert picture in refused(capsys, folder, tmp_path / "out")
    assert not (tmp_path / ".out.training").exists()


@pytest.mark.parametrize("name", ["train_gallery", "test_gallery", "test_centres"])
def test_resume_wants_the_same_pictures(folder, tmp_path, monkeypatch, capsys, name):
    with monkeypatch.context() as broken:
        broken.setattr(train, "_run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(folder, tmp_path / "out")
        gallery = Gallery.open(folder / name)
        replace(gallery, embeddings=np.roll(gallery.embeddings, 1, 1)).save(folder / name)
        assert "have changed" in refused(capsys, folder, tmp_path / "out", "--resume")
        gallery.save(folder / name)
        with pytest.raises(ZeroDivisionError):  # so it goes on
            run(folder, tmp_path / "out", "--resume")


@pytest.mark.parametrize("kind", ["size", "dimensions", "order", "protocol", "torn"])
def test_centres_that_do_not_fit(folder, bundle, tmp_path, capsys, kind):
    centres = Gallery.open(folder / "test_centres")
    rows, vectors = centres.candidates, centres.embeddings
    wrong, word = {
        "size": (replace(centres, candidates=rows[:5], embeddings=vectors[:5]), "(5, 6)"),
        "dimensions": (replace(centres, embeddings=vectors[:, :4]), "(6, 4)"),
        "order": (replace(centres, candidates=rows[::-1]), "Row 0"),
        "protocol": (replace(centres, protocol="stimulus"), "protocol"),
        "torn": (centres, "test_centres.safetensors"),
    }[kind]
    wrong.save(folder / "test_centres")
    if kind == "torn":
        (folder / "test_centres.safetensors").unlink()
    assert word in refused(capsys, folder, tmp_path / "out")
    assert os.listdir(tmp_path) == ["data"]
    # The same in a bundle whose manifest lists the files as they are.
    if kind != "torn":
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        wrong.save(copy / "centres")
        manifest = json.loads((copy / "manifest.json").read_text())
        write_manifest(copy, manifest | {"files": None})
        refuses(lambda: Bundle(copy).galleries, word)
    assert open_centres(tmp_path / "none", centres) is None


# ---------------------------------------------------------------- spread over seeds


def test_over_seeds(bundle, capsys):
    runs = Bundle(bundle).manifest["runs"]
    assert evaluate.main([str(bundle), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["trained_on"] == OTHER_SUBJECTS
    entries = content["over_seeds"]
    assert len(entries) == 2 * 2 * 2  # encoders, protocols, repetitions
    for entry in entries:
        assert entry["ships"] == 2
        for name in ("top1", "top5"):
            by_seed = {}
            for run in runs:
                for told in run["selected"]:
                    if (run["encoder"], told["protocol"], told["repetitions"]) == (
                        entry["encoder"], entry["protocol"], entry["repetitions"]
                    ):  # fmt: skip
                        by_seed.setdefault(str(run["seed"]), []).append(
                            told[name]["successes"] / told[name]["trials"]
                        )
            wanted = {seed: sum(values) / 2 for seed, values in by_seed.items()}
            assert sorted(wanted) == (["1", "2"] if entry["encoder"] == "nice" else ["2"])
            found = entry[name]
            assert found["by_seed"] == pytest.approx(wanted)
            mean = sum(wanted.values()) / len(wanted)
            assert found["mean"] == pytest.approx(mean)
            if len(wanted) == 2:
                one, two = wanted.values()
                assert found["sd"] == pytest.approx(abs(one - two) / 2**0.5)
            else:
                assert found["sd"] is None
    assert evaluate.main([str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "seed 2 (ships)" in text
    assert "from the manifest's runs" in text
    _, *by_protocol = text.split("Mean over subjects by training seed")
    lines = [line for part in by_protocol for line in part.split("\n\n")[1].splitlines()]
    rows = [line for line in lines if line.split()[:2] == ["ridge", "4"]]
    assert len(rows) == 2
    assert all(row.endswith("one seed") for row in rows)
    (entry,) = (e for e in entries if (e["encoder"], e["protocol"], e["repetitions"])
                == ("nice", "stimulus", 4))  # fmt: skip
    row = next(r for r in text.splitlines() if r.split()[:2] == ["nice", "4"])
    seeds = (f"{100 * entry['top1']['by_seed'][s]:.1f} / {100 * entry['top5']['by_seed'][s]:.1f}"
             for s in "12")  # fmt: skip
    assert row.split(None, 2)[2].split() == " ".join([*seeds, "needs 3 seeds"]).split()


def test_one_seed(stored_bundle, capsys):
    assert evaluate.main([str(stored_bundle)]) == 0
    text = capsys.readouterr().out
    assert "one seed" in text
    assert "don't ship" not in text


def test_damaged_runs(bundle, tmp_path, capsys):
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for run in manifest["runs"]:
        run["selected"] = [{"protocol": "stimulus", "repetitions": 4}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert evaluate.main([str(folder)]) == 2
    err = capsys.readouterr().err.rpartition("\r")[2]
    assert "runs" in err and err.count("\n") == 1


# ---------------------------------------------------------------- bad input


def test_one_subject_is_too_few(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    data = make_stored_data(tmp_path / "data", (4,))
    assert "one subject" in refused(capsys, data, tmp_path / "out")
    assert os.listdir(tmp_path) == ["data"]


def test_subjects_of_other_sizes(folder, tmp_path, capsys):
    eeg = EEGSet.open(folder / "sub-03")
    shorter = eeg.train[..., :70], eeg.test[..., :70]
    EEGSet.write(folder / "sub-03", *shorter, eeg.meta)
    message = refused(capsys, folder, tmp_path / "out", "--subjects", "1")
    assert "Subject 3" in message and "70 samples" in message and "80" in message
    fewer = [array[:, :, :3] for array in (eeg.train, eeg.test)]
    EEGSet.write(folder / "sub-03", *fewer, eeg.meta | {"channels": eeg.channels[:3]})
    assert "sub-03" in refused(capsys, folder, tmp_path / "out", "--subjects", "1")
    EEGSet.write(folder / "sub-03", eeg.train[:50], eeg.test, eeg.meta)
    assert "50 train conditions" in refused(capsys, folder, tmp_path / "out", "--subjects", "1")
    broken = np.array(eeg.train)
    broken[3, 0, 1, 2] = np.nan
    EEGSet.write(folder / "sub-03", broken, eeg.test, eeg.meta)
    assert "NaN" in refused(capsys, folder, tmp_path / "out", "--subjects", "1")
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("concept", ["train3", "00017_train3"])
def test_test_concepts_that_were_trained_on(folder, tmp_path, capsys, concept):
    gallery = Gallery.open(folder / "test_gallery")
    gallery.candidates[4] = Candidate("test-4", concept, "thing")
    gallery.save(folder / "test_gallery")
    for ending in (".json", ".safetensors"):
        (folder / f"test_centres{ending}").unlink()
    message = refused(capsys, folder, tmp_path / "out")
    assert "1 of the test concepts" in message and "'train3'" in message
    assert os.listdir(tmp_path) == ["data"]
    refuses(lambda: check_pool(DataSet.open(folder)), "train3")
