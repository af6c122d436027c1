"""Training: the same from the same seed, also after a kill; a whole bundle or none."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny import make_stored_data

from nice_demo import __version__, assemble, train, training
from nice_demo.assemble import fit_temperatures, one_of_each
from nice_demo.bundle import SCHEMA, Bundle
from nice_demo.calibration import at_more_repetitions, temperature
from nice_demo.eegset import DataSet, EEGSet
from nice_demo.encoders import embed, open_encoder
from nice_demo.errors import InputError
from nice_demo.retrieval import binomial_p
from nice_demo.settings import PAPER, PHANTOM, Settings, held_out
from nice_demo.sources.phantom.held_out import single_trials
from nice_demo.training import train_encoder
from nice_demo.training_data import TrainingData

CPU = torch.device("cpu")
QUICK = ["--epochs", "3", "--batch", "20", "--lr", "1e-3", "--subjects", "1"]


def run(data, out, *arguments):
    return train.main([*QUICK, *map(str, arguments), "--data", str(data), "--out", str(out)])


def refused(capsys, data, out, *arguments):
    """Train; it must fail with one sentence."""
    capsys.readouterr()
    assert run(data, out, *arguments) == 2
    err = capsys.readouterr().err.rpartition("\r")[2]
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def content(folder):
    """Return a bundle's content; a safetensors header comes in any order, so its bytes won't do."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            with safe_open(path, "numpy") as file:
                arrays = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
                found[str(path.relative_to(folder))] = arrays, file.metadata()
        elif path.suffix == ".json":
            found[path.name] = json.loads(path.read_text())
    del found["manifest.json"]["files"]  # of the bytes
    return found


@pytest.fixture
def damaged(stored_data, tmp_path):
    return Path(shutil.copytree(stored_data, tmp_path / "data"))


# ---------------------------------------------------------------- settings and split


def test_paper_settings():
    assert Settings() == PAPER
    assert (PAPER.epochs, PAPER.batch, PAPER.lr, PAPER.betas) == (200, 1000, 2e-4, (0.5, 0.999))
    assert (PAPER.dropout, PAPER.learnable_scale, PAPER.schedule) == (0.5, False, "constant")
    assert (PAPER.validation, PAPER.validation_conditions) == ("concepts", 740)
    assert (PAPER.muon, PAPER.weight_decay) == (False, 0)
    assert PHANTOM.validation == "concepts"


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        ([], {"nice": 5, "nice-sa": 4, "nice-ga": 4}),
        (["--epochs", "3"], {"nice": 3, "nice-sa": 3, "nice-ga": 3}),
        (["--data", "x"], {"nice": 200, "nice-sa": 200, "nice-ga": 200}),
    ],
)
def test_epochs_of_each_encoder(given, epochs):
    options = train._parser().parse_args(given)
    settings = train._settings(options)
    found = {name: train._of_encoder(name, settings, options) for name in epochs}
    assert {name: own.epochs for name, own in found.items()} == epochs
    assert {own.encoder for own in found.values()} == set(epochs)


CONCEPTS = [f"c{i % 37}" for i in range(400)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("wanted", [1, 20, 80, 740])
def test_held_out_concepts_are_whole(seed, wanted):
    chosen = held_out(CONCEPTS, Settings(validation_conditions=wanted), seed)
    assert chosen.dtype == bool
    held = {c for c, out in zip(CONCEPTS, chosen, strict=True) if out}
    kept = {c for c, out in zip(CONCEPTS, chosen, strict=True) if not out}
    assert not held & kept
    at_least = min(wanted, 80)  # never more than about a fifth
    assert at_least <= chosen.sum() <= at_least + 11  # the largest concept


@pytest.mark.parametrize("seed", range(5))
def test_held_out_conditions_split_concepts(seed):
    settings = Settings(validation="conditions", validation_conditions=60)
    chosen = held_out(CONCEPTS, settings, seed)
    assert chosen.sum() == 60
    held = {c for c, out in zip(CONCEPTS, chosen, strict=True) if out}
    kept = {c for c, out in zip(CONCEPTS, chosen, strict=True) if not out}
    assert held & kept


@pytest.mark.parametrize("validation", ["concepts", "conditions"])
def test_held_out_follows_from_the_seed(validation):
    settings = Settings(validation=validation, validation_conditions=40)
    one, again, other = (held_out(CONCEPTS, settings, seed) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()
    # The encoder's and ridge's split are the same.
    assert (held_out(CONCEPTS, replace(settings, encoder="ridge"), 1) == one).all()


# ---------------------------------------------------------------- data


def test_training_rows(stored_data):
    eeg = DataSet.open(stored_data).subject(1)
    means = TrainingData(eeg, False, CPU)
    assert len(means) == 60
    np.testing.assert_array_equal(means.conditions, np.arange(60))
    rows = np.array([3, 59, 0])
    wanted = [sum(eeg.train[row, r].astype(float) for r in range(3)) / 3 for row in rows]
    np.testing.assert_allclose(means.rows(rows), wanted, atol=1e-6)

    single = TrainingData(eeg, True, CPU)
    assert len(single) == 180
    rows = np.array([0, 1, 2, 3, 179])
    for found, row in zip(single.rows(rows), rows, strict=True):
        np.testing.assert_array_equal(found, eeg.train[row // 3, row % 3])
        assert single.conditions[row] == row // 3


def test_validation_never_trains(stored_data, monkeypatch):
    data = DataSet.open(stored_data)
    concepts = [c.concept for c in data.train_gallery.candidates]
    asked = {"train": set(), "validate": set()}
    state = {"mode": "train"}
    read, validate = TrainingData.batches, training._validate

    def reads(self, rows):
        asked[state["mode"]] |= set(np.concatenate(rows).tolist())
        return read(self, rows)

    def validates(*arguments):
        state["mode"] = "validate"
        try:
            return validate(*arguments)
        finally:
            state["mode"] = "train"

    monkeypatch.setattr(TrainingData, "batches", reads)
    monkeypatch.setattr(training, "_validate", validates)
    settings = Settings(epochs=2, batch=7)
    train_encoder(data.subject(1), data.train_gallery.embeddings, concepts, settings, 1, CPU)
    assert asked["train"] | asked["validate"] == set(range(60))
    held = {concepts[row] for row in asked["validate"]}
    assert not held & {concepts[row] for row in asked["train"]}


def test_selected_is_the_epoch_of_least_validation_loss(stored_data):
    data = DataSet.open(stored_data)
    concepts = [c.concept for c in data.train_gallery.candidates]
    eeg, pictures = data.subject(1), data.train_gallery.embeddings
    settings = Settings(epochs=6, batch=20, lr=3e-2)  # too fast: the loss goes up and down
    run = train_encoder(eeg, pictures, concepts, settings, 1, CPU)
    losses = [entry["validation_loss"] for entry in run.history]
    assert len(losses) == 6
    assert run.best_epoch == 1 + int(np.argmin(losses))
    assert not run.selected.training and not run.final.training
    # The selected weights are those after that epoch.
    validates = held_out(concepts, settings, 1)
    rows = TrainingData(eeg, False, CPU).rows(np.flatnonzero(validates))
    with torch.inference_mode():
        again = training.ContrastiveLoss()(
            run.selected(rows), torch.from_numpy(pictures[validates]), torch.arange(validates.sum())
        )
    assert again.item() == pytest.approx(min(losses), abs=1e-5)


# ---------------------------------------------------------------- a bundle


@pytest.fixture(scope="module")
def trained(stored_data, tmp_path_factory):
    """Return a bundle of one subject, 40 epochs: what the resumed run must come to."""
    out = tmp_path_factory.mktemp("trained") / "whole"
    assert run(stored_data, out, "--epochs", 40) == 0
    return out


def test_same_seed_same_bundle(stored_data, trained, tmp_path):
    assert run(stored_data, tmp_path / "again", "--epochs", 40) == 0
    assert content(tmp_path / "again") == content(trained)
    assert os.listdir(tmp_path) == ["again"]  # the work folder is gone
    assert run(stored_data, tmp_path / "other", "--epochs", 40, "--seeds", 2) == 0
    name = "encoders/sub-01_nice.safetensors"
    assert content(tmp_path / "other")[name] != content(trained)[name]


def test_several_at_once_make_the_same_bundle(stored_data, trained, tmp_path, monkeypatch):
    # Each process counts in the same order only with as many threads.
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    assert run(stored_data, tmp_path / "out", "--epochs", 40, "--jobs", 2) == 0
    assert content(tmp_path / "out") == content(trained)


def test_killed_and_resumed(stored_data, trained, tmp_path, capsys):
    out, work = tmp_path / "whole", tmp_path / ".whole.training"
    checkpoint = work / "sub-01_nice_seed-1.checkpoint"
    command = [sys.executable, "-m", "nice_demo.train", *QUICK, "--epochs", "40"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [*command, "--data", str(stored_data), "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | threads,
    )  # fmt: skip
    try:
        for _ in range(12_000):
            if checkpoint.exists():
                break
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail("training ended before its first checkpoint")
    finally:
        process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert not out.exists()
    with safe_open(checkpoint, "pt") as file:
        course = json.loads(file.metadata()["course"])
    assert 1 <= course["epoch"] < 40

    before = snapshot(work)
    assert "--resume" in refused(capsys, stored_data, out, "--epochs", 40)
    assert "other settings" in refused(capsys, stored_data, out, "--epochs", 41, "--resume")
    assert "other settings" in refused(capsys, stored_data, out, "--lr", 1e-4, "--resume")
    assert snapshot(work) == before
    assert not out.exists()

    assert run(stored_data, out, "--epochs", 40, "--resume") == 0
    assert os.listdir(tmp_path) == ["whole"]
    assert content(out) == content(trained)


def interrupt(monkeypatch, module, name, calls=1):
    """Make a function that a module calls fail at its n-th call."""
    wanted, count = getattr(module, name), iter(range(1, 1000))

    def failing(*arguments, **options):
        if next(count) == calls:
            raise RuntimeError("the lights went out")
        return wanted(*arguments, **options)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize(
    ("name", "calls"), [("write_manifest", 1), ("write_manifest", 2), ("Bundle", 1)]
)
def test_crash_while_assembling(stored_data, tmp_path, monkeypatch, name, calls):
    out = tmp_path / "bundle"
    assert run(stored_data, out) == 0
    old = snapshot(out)
    with monkeypatch.context() as broken:
        interrupt(broken, assemble, name, calls)
        with pytest.raises(RuntimeError, match="lights"):
            run(stored_data, out, "--seeds", 2)
    assert snapshot(out) == old
    assert sorted(os.listdir(tmp_path)) == [".bundle.training", "bundle"]
    Bundle(out)
    assert run(stored_data, out, "--seeds", 2, "--resume") == 0
    assert snapshot(out) != old
    Bundle(out)
    assert os.listdir(tmp_path) == ["bundle"]


def test_finished_runs_of_other_settings_are_not_taken_over(
    stored_data, tmp_path, monkeypatch, capsys
):
    """A run that was complete when training stopped must not count as one of other settings."""
    out = tmp_path / "bundle"
    with monkeypatch.context() as broken:
        interrupt(broken, train, "assemble")
        with pytest.raises(RuntimeError):
            run(stored_data, out)
    refused(capsys, stored_data, out, "--epochs", 4, "--resume")
    assert not out.exists()
    assert run(stored_data, out, "--epochs", 4, "--restart") == 0
    assert Bundle(out).manifest["encoders"]["1"]["nice"]["settings"]["epochs"] == 4


def test_damaged_checkpoint(stored_data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "bundle"
    with monkeypatch.context() as broken:
        interrupt(broken, train, "save_encoder")
        with pytest.raises(RuntimeError):
            run(stored_data, out)
    checkpoint = tmp_path / ".bundle.training" / "sub-01_nice_seed-1.checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert checkpoint.name in refused(capsys, stored_data, out, "--resume")
    assert run(stored_data, out, "--restart") == 0


def test_manifest(stored_bundle, stored_data):
    manifest = json.loads((stored_bundle / "manifest.json").read_text())
    assert manifest["schema"] == SCHEMA
    assert manifest["code_version"] == __version__
    description = DataSet.open(stored_data).description
    for name in ("name", "source", "simulated", "preparation", "image_model", "licences"):
        assert manifest[name] == description[name]
    assert manifest["image_model"]["revision"] == "r1"
    assert manifest["subjects"] == ["1", "2"]
    assert manifest["channels"] == ["P7", "O1", "O2", "P8"]
    assert (manifest["sfreq"], manifest["tmin"]) == (100, 0)
    assert manifest["protocol"] == "stimulus"
    assert "validation loss" in manifest["checkpoint_rule"]
    assert manifest["trials"]["repetitions"] == [1, 2, 4]
    for subject in ("1", "2"):
        for encoder in ("nice", "ridge"):
            entry = manifest["encoders"][subject][encoder]
            assert entry["seed"] == 1
            assert entry["settings"]["encoder"] == encoder
            for name, value in {"epochs": 2, "batch": 32, "lr": 1e-3, "betas": [0.5, 0.999],
                                "validation": "concepts", "dropout": 0.5}.items():  # fmt: skip
                assert entry["settings"][name] == value
            assert 0 <= entry["best_epoch"]
    for entry in manifest["metrics"]:
        for name in ("protocol", "ways", "repetitions", "trials", "top1", "top5", "median_rank"):
            assert name in entry["metrics"]
        assert {"low", "high", "chance"} <= entry["metrics"]["top1"].keys()
    assert len(manifest["metrics"]) == 2 * 2 * 3
    for done in manifest["runs"]:
        for which in ("selected", "final"):
            assert [found["repetitions"] for found in done[which]] == [1, 4]
    assert len(manifest["runs"][0]["history"]) == 2


@pytest.mark.parametrize("kind", ["stored", "tiny"])
def test_metrics_in_the_manifest_are_those_of_the_bundle(kind, request):
    bundle = Bundle(request.getfixturevalue(f"{kind}_bundle"))
    for subject in bundle.subjects[: 2 if kind == "stored" else 1]:  # a phantom takes seconds
        for encoder, measured in bundle.measure(subject).items():
            for found in measured:
                assert bundle.metrics(subject, encoder, found.repetitions) == found
            # What the trainer measured from the data folder is the same.
            (done,) = (
                entry for entry in bundle.manifest["runs"]
                if (entry["subject"], entry["encoder"]) == (subject, encoder)
            )  # fmt: skip
            for told in done["selected"]:
                found = bundle.metrics(subject, encoder, told["repetitions"])
                assert told["top1"] == found.to_json()["top1"]


@pytest.mark.parametrize("encoder", ["nice", "ridge"])
def test_better_than_chance(tiny_bundle, encoder):
    bundle = Bundle(tiny_bundle)
    for subject in bundle.subjects:
        found = bundle.metrics(subject, encoder, 80)
        assert found.ways == found.trials == 12
        assert binomial_p(found.top5.successes, 12, 5 / 12) < 0.02
        assert binomial_p(found.top1.successes, 12, 1 / 12) < 0.02


def test_phantom_bundle_holds_the_truth(tiny_bundle, tiny_data):
    bundle = Bundle(tiny_bundle)
    assert bundle.simulated
    assert bundle.manifest["trials"]["kind"] == "phantom"
    for subject in ("01", "02"):
        truth = load_file(bundle.file(f"truth/sub-{subject}.safetensors"))
        assert truth["specific"].shape == (63, 300)
        assert truth["positions"].shape == (len(truth["area"]), 3)
        stored = (tiny_data / f"sub-{subject}" / "phantom.safetensors").read_bytes()
        assert bundle.file(f"trials/sub-{subject}.safetensors").read_bytes() == stored


# ---------------------------------------------------------------- options


def test_volts_are_refused(damaged, tmp_path, capsys):
    """They are too small for half precision and for BatchNorm; µV train."""
    eeg = EEGSet.open(damaged / "sub-01")
    EEGSet.write(damaged / "sub-01", eeg.train, eeg.test, eeg.meta | {"unit": "V"})
    assert "in µV" in refused(capsys, damaged, tmp_path / "out")
    EEGSet.write(damaged / "sub-01", eeg.train, eeg.test, eeg.meta | {"unit": "µV"})
    assert run(damaged, tmp_path / "out", "--epochs", 1) == 0


def test_diverging_is_said(stored_data, tmp_path, capsys):
    assert run(stored_data, tmp_path / "out", "--lr", "1e30") == 2
    assert "give a lower --lr" in capsys.readouterr().err


def test_summary_has_protocol_intervals_and_chance(stored_data, tmp_path, capsys):
    assert run(stored_data, tmp_path / "out", "--subjects", "2,1", "--epochs", 1) == 0
    text = capsys.readouterr().out
    bundle = Bundle(tmp_path / "out")
    assert bundle.subjects == ["1", "2"]
    assert "6-way retrieval, stimulus protocol: candidates are the embeddings of the very" in text
    assert "chance 16.7 / 83.3" in text
    top1 = bundle.metrics("2", "ridge", 4).top1
    assert f"{100 * top1.value:.1f} ({100 * top1.low:.1f} to {100 * top1.high:.1f}) / " in text


def test_single_trials(stored_data, tmp_path):
    assert run(stored_data, tmp_path / "single", "--single-trials", "--learnable-scale") == 0
    settings = Bundle(tmp_path / "single").manifest["encoders"]["1"]["nice"]["settings"]
    assert settings["single_trials"] is True
    assert settings["learnable_scale"] is True


def test_learnable_scale_is_learned(stored_data):
    data = DataSet.open(stored_data)
    concepts = [c.concept for c in data.train_gallery.candidates]
    losses = []
    for learnable in (False, True):
        settings = Settings(epochs=2, batch=20, lr=1e-2, learnable_scale=learnable)
        done = train_encoder(
            data.subject(1), data.train_gallery.embeddings, concepts, settings, 1, CPU
        )
        losses.append(done.history[-1]["loss"])
    assert losses[0] != losses[1]


def test_several_seeds(stored_data, tmp_path):
    assert run(stored_data, tmp_path / "seeds", "--seeds", "3,1", "--validation", "conditions") == 0
    bundle = Bundle(tmp_path / "seeds")
    runs = [(r["encoder"], r["seed"]) for r in bundle.manifest["runs"]]
    assert runs == [("nice", 3), ("nice", 1), ("ridge", 3)]
    assert bundle.manifest["encoders"]["1"]["nice"]["seed"] == 3  # the first ships


def test_several_encoders(stored_data, tmp_path, capsys):
    """In the order given; ridge beside them; each as if it were trained alone."""
    assert run(stored_data, tmp_path / "all", "--encoder", "nice-ga,nice,nice-sa") == 0
    bundle = Bundle(tmp_path / "all")
    assert bundle.encoders("1") == ["nice-ga", "nice", "nice-sa", "ridge"]
    for name in bundle.encoders("1"):
        entry = bundle.manifest["encoders"]["1"][name]
        assert entry["settings"]["encoder"] == name
        assert bundle.metrics("1", name, 4) is not None
    assert capsys.readouterr().out.count("subject  1  nice-sa") == 2
    assert run(stored_data, tmp_path / "alone") == 0
    assert Bundle(tmp_path / "alone").encoders("1") == ["nice", "ridge"]  # the default with --data
    both = content(tmp_path / "all"), content(tmp_path / "alone")
    for name in ("nice", "ridge"):
        file = f"encoders/sub-01_{name}.safetensors"
        assert both[0][file] == both[1][file]


def test_the_phantom_has_all_encoders(stored_data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(train, "prepare_phantom", lambda folder, subjects: None)
    monkeypatch.setattr(train, "Path", lambda name: stored_data if "data" in name else Path(name))
    monkeypatch.setattr(train, "_check_data", lambda data, work: None)

    class Asked(Exception):
        pass

    def stop(*task):
        asked.append((task[3].encoder, task[4], task[2]))
        if asked[-1] == ("ridge", 1, 2):
            raise Asked

    monkeypatch.setattr(train, "_run", stop)
    with pytest.raises(Asked):
        train.main(["--out", str(tmp_path / "out"), "--seeds", "1,2", "--subjects", "1-2"])
    names = ("nice", "nice-sa", "nice-ga")
    wanted = [(name, seed, subject) for seed in (1, 2) for name in names for subject in (1, 2)]
    assert asked == [*wanted, ("ridge", 1, 1), ("ridge", 1, 2)]


def test_a_work_folder_of_one_encoder_goes_on_with_several(stored_data, tmp_path, monkeypatch):
    out, trained = tmp_path / "bundle", []
    with monkeypatch.context() as broken:
        interrupt(broken, train, "assemble")
        with pytest.raises(RuntimeError):
            run(stored_data, out)
    plain = train.train_encoder

    def notes(*arguments):
        trained.append(arguments[3].encoder)
        return plain(*arguments)

    monkeypatch.setattr(train, "train_encoder", notes)
    assert run(stored_data, out, "--encoder", "nice,nice-sa", "--resume") == 0
    assert trained == ["nice-sa"]  # nice was there
    assert Bundle(out).encoders("1") == ["nice", "nice-sa", "ridge"]


# ---------------------------------------------------------------- temperatures


def test_temperatures_are_fitted_on_what_was_held_out(stored_bundle, stored_data):
    """The literal way: held-out concepts, one picture of each at a time, first 1, 2, 3 trials."""
    bundle, data = Bundle(stored_bundle), DataSet.open(stored_data)
    gallery = data.train_gallery
    concepts = [candidate.concept for candidate in gallery.candidates]
    for subject, name in (("1", "nice"), ("2", "ridge")):
        entry = bundle.manifest["encoders"][subject][name]
        held = np.flatnonzero(held_out(concepts, Settings(), 1)).tolist()
        by_concept = {c: [row for row in held if concepts[row] == c] for c in concepts}
        by_concept = {c: rows for c, rows in by_concept.items() if rows}
        encoder, trials = bundle.encoder(subject, name), data.subject(int(subject)).train
        for repetitions in (1, 2, 3):
            similarities, target = [], []
            for place in range(5):
                rows = [rows[place] for rows in by_concept.values()]
                eeg = np.stack([trials[row, :repetitions].mean(0) for row in rows])
                decoded = embed(encoder, torch.from_numpy(eeg)).numpy()
                similarities.append(decoded @ gallery.embeddings[rows].T)
                target.append(np.arange(len(rows)))
            wanted = temperature(similarities, target).value
            assert entry["temperature"][str(repetitions)] == pytest.approx(wanted, rel=1e-3)
        told = entry["calibration"]
        assert (told["concepts"], told["pictures"]) == (len(by_concept), len(held))
        assert told["fitted"] == [1, 2, 3]
        # Four test repetitions: extrapolated.
        half = told["of_repetitions"]
        assert half == 1
        wanted = at_more_repetitions(entry["temperature"]["3"], 3, 4, told["shared_variance"], half)
        assert entry["temperature"]["4"] == pytest.approx(wanted)


def test_one_picture_of_each_concept_at_a_time():
    sets = one_of_each(["a", "b", "a", "c", "a", "b"])
    assert [one.tolist() for one in sets] == [[0, 1, 3], [2, 5]]  # a third a is alone
    assert one_of_each(["a", "a"]) == [] == one_of_each([])


def test_no_temperature_without_concepts_to_tell_apart():
    trials = [np.zeros((3, 2, 4, 80), np.float32)]
    assert fit_temperatures(None, trials, 1, ["a"] * 3, np.eye(3), [1]) == {}


def test_single_trials_of_a_phantom_are_those_that_were_averaged(tiny_data):
    eeg, conditions = EEGSet.open(tiny_data / "sub-02"), np.array([3, 17, 239])
    trials = single_trials(tiny_data / "sub-02", conditions)
    assert trials.shape == (3, 4, 63, 250)
    np.testing.assert_allclose(trials.astype(float).mean(1), eeg.train[conditions, 0], atol=4e-3)


def test_temperatures_of_a_phantom(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    for name in ("nice", "ridge"):
        entry = bundle.manifest["encoders"]["1"][name]
        assert entry["calibration"]["fitted"] == [1, 2, 3, 4]
        assert list(entry["temperature"]) == ["1", "2", "3", "4", "5", "10", "20", "40", "80"]
        beyond = [entry["temperature"][str(n)] for n in (4, 5, 10, 20, 40, 80)]
        assert beyond == sorted(beyond, reverse=True)


def test_two_jobs_come_to_the_same(stored_data, stored_bundle, tmp_path):
    same = ["--epochs", "2", "--batch", "32", "--lr", "1e-3", "--subjects", "1-2", "--jobs", "2"]
    assert run(stored_data, tmp_path / "jobs", *same) == 0
    # Another number of threads changes last digits, and Adam makes steps of them where a gradient
    # is zero but for rounding: the same encoders to a person, not to the bit.
    for name in ("sub-01_nice", "sub-02_ridge"):
        one, two = (
            open_encoder(b / f"encoders/{name}.safetensors")
            for b in (stored_bundle, tmp_path / "jobs")
        )
        sizes = one.config["channels"], one.config["times"]
        eeg = torch.randn(50, *sizes, generator=torch.Generator().manual_seed(0))
        assert (embed(one, eeg) * embed(two, eeg)).sum(1).min() > 0.995


# ---------------------------------------------------------------- bad input


def test_unknown_subject(stored_data, tmp_path, capsys):
    assert "Subject 7" in refused(capsys, stored_data, tmp_path / "out", "--subjects", "1,7")
    assert os.listdir(tmp_path) == []


def test_no_data(tmp_path, capsys):
    assert "none" in refused(capsys, tmp_path / "none", tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_not_finite(damaged, tmp_path, capsys, split):
    array = np.array(getattr(EEGSet.open(damaged / "sub-02"), split))
    array[3, 0, 1, 2] = np.nan
    save_file({"eeg": array}, damaged / "sub-02" / f"{split}.safetensors")
    message = refused(capsys, damaged, tmp_path / "out", "--subjects", "1-2")
    assert f"{split}.safetensors" in message
    assert "NaN" in message
    assert os.listdir(tmp_path) == ["data"]


def test_other_rate_or_channels(damaged, tmp_path, capsys):
    path = damaged / "sub-01" / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"sfreq": 250}))
    assert "250" in refused(capsys, damaged, tmp_path / "out")
    path.write_text(json.dumps(meta | {"channels": ["P7", "O1", "O2"]}))
    assert "channels" in refused(capsys, damaged, tmp_path / "out")
    (damaged / "sub-01" / "train.safetensors").write_bytes(b"")
    assert "train.safetensors" in refused(capsys, damaged, tmp_path / "out")
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--epochs", 0], "--epochs"),
        (["--batch", 1], "--batch"),
        (["--lr", 0], "--lr"),
        (["--lr", "nan"], "--lr"),
        (["--weight-decay", -1], "--weight-decay"),
        (["--weight-decay", 1e9], "--weight-decay"),
        (["--weight-decay", "nan"], "--weight-decay"),
        (["--dropout", 1], "--dropout"),
        (["--dropout", -0.1], "--dropout"),
        (["--device", "quantum"], "quantum"),
        (["--jobs", 0], "--jobs"),
    ],
)
def test_wrong_settings(stored_data, tmp_path, capsys, arguments, word):
    assert word in refused(capsys, stored_data, tmp_path / "out", *arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--subjects", "x"],
        ["--seeds", "3-1"],
        ["--encoder", "vit"],
        ["--encoder", "nice,"],
        ["--encoder", "nice,nice-sa,nice"],
        ["--encoder", "nice,ridge"],
        ["--epochs", "many"],
    ],
)
def test_options_that_cannot_be_read(stored_data, tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(stored_data, tmp_path / "out", *arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(stored_data, tmp_path, capsys):
    assert "CUDA" in refused(capsys, stored_data, tmp_path / "out", "--device", "cuda")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_no_bundle_is_kept(stored_data, tmp_path, capsys):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("years of work")
    assert "thesis" in refused(capsys, stored_data, out, "--restart")
    assert snapshot(tmp_path) == {"thesis/chapter.txt": b"years of work"}


def test_too_few_pictures(tmp_path, stored_data, capsys):
    data = DataSet.open(stored_data)
    with pytest.raises(InputError, match="too few"):
        train_encoder(
            data.subject(1), data.train_gallery.embeddings, ["one"] * 60, Settings(), 1, CPU
        )


def test_stored_averages_train_too(tmp_path):
    data = make_stored_data(tmp_path, (1,), train_repetitions=1, averages=[1, 5, 80])
    assert run(data, tmp_path / "bundle") == 0
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.repetitions == [1, 5, 80]
    evoked = bundle.trials("1").evoked(2, 5).eeg
    np.testing.assert_allclose(evoked, DataSet.open(data).subject(1).test[2, 1], atol=5e-3)
