"""Several processes under torchrun against one: the same encoders, and a clear end.

Torchrun starts this file, too: `main` at its end is what the processes do.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sentences import refuses
from tiny import make_stored_data

from nice_demo import ranks, train, training
from nice_demo.bundle import Bundle
from nice_demo.eegset import DataSet
from nice_demo.encoders import build, embed, open_encoder
from nice_demo.errors import InputError
from nice_demo.settings import Settings
from nice_demo.training import train_encoder
from nice_demo.training_data import TrainingData, other_subjects

CPU = torch.device("cpu")
HERE = Path(__file__).resolve()
ENCODERS = ("nice", "nice-sa", "nice-ga")

# 90 rows: two batches of 40, which 3 does not divide, and one of 10.
SETTINGS = Settings(epochs=3, batch=40, lr=1e-3, dropout=0, learnable_scale=True)
# Two rows remain, fewer than processes; and with the other optimizer.
REST = replace(SETTINGS, batch=44, epochs=2, muon=True, weight_decay=1.0)
TRAINED = ["--epochs", "2", "--batch", "32", "--lr", "1e-3"]  # as `stored_bundle`
QUICK = ["--epochs", "3", "--batch", "20", "--lr", "1e-3", "--dropout", "0"]


class Stopped(Exception):
    """Training was interrupted on purpose."""


def in_double(folder, settings, place, joint, *, stop_after=None):
    """Train on all subjects but the first, without any dropout, in double precision."""
    batches, validate = TrainingData.batches, training._validate
    calls = iter(range(100))

    def doubled(self, rows):
        return (batch.double() for batch in batches(self, rows))

    def built(name, **config):
        return build(name, **config | ({} if name == "nice" else {"attention_dropout": 0}))

    def validates(*arguments):
        if next(calls) == stop_after:
            raise Stopped
        return validate(*arguments)

    data = DataSet.open(folder)
    pictures = data.train_gallery.embeddings.astype(float)
    concepts = [candidate.concept for candidate in data.train_gallery.candidates]
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainingData, "batches", doubled)
            patch.setattr(training, "build", built)
            patch.setattr(training, "_validate", validates)
            return train_encoder(
                other_subjects(data, 1), pictures, concepts, settings, 1, CPU, place, joint=joint
            )
    except Stopped:
        return None
    finally:
        torch.set_default_dtype(torch.float32)


def torchrun(count, *arguments, **environment):
    """Start processes on the loopback interface; return the exit code, stdout, stderr, seconds."""
    start, root = time.monotonic(), HERE.parents[1]
    given = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr",
         "127.0.0.1", "--nproc-per-node", str(count), *map(str, arguments)],
        capture_output=True, text=True, timeout=120, cwd=root,
        env=os.environ | given | environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr, time.monotonic() - start


def same(ours, wanted, tolerance=1e-6):
    """Compare two checkpoints: weights, running statistics, Adam's moments, figures."""
    one, other = load_file(ours), load_file(wanted)
    assert one.keys() == other.keys()
    for key, value in other.items():
        torch.testing.assert_close(one[key], value, rtol=tolerance, atol=tolerance, msg=key)
    courses = []
    for path in (ours, wanted):
        with safe_open(path, "pt") as file:
            courses.append(json.loads(file.metadata()["course"]))
    assert len(courses[0]["history"]) == len(courses[1]["history"])
    for epochs in zip(*(course["history"] for course in courses), strict=True):
        assert epochs[0] == pytest.approx(epochs[1], rel=tolerance)
    assert courses[0]["best_epoch"] == courses[1]["best_epoch"]


# ---------------------------------------------------------------- one run jointly


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Return a data folder of three subjects, who saw the same pictures."""
    return make_stored_data(tmp_path_factory.mktemp("three"), (1, 2, 3))


@pytest.fixture(scope="module")
def joint(three, stored_data, tmp_path_factory):
    """Return a folder with what three processes made, see `jointly`."""
    folder = tmp_path_factory.mktemp("joint")
    in_double(three, SETTINGS, folder / "resumed.checkpoint", False, stop_after=2)
    code, out, err, _ = torchrun(3, HERE, "jointly", three, stored_data, folder)
    assert code == 0, err
    (folder / "stdout").write_text(out)
    (folder / "stderr").write_text(err)
    return folder


def jointly(three, stored, folder):
    """Do, in each of the processes, what the tests below look at."""
    for name in ENCODERS:
        settings = replace(SETTINGS, encoder=name)
        run = in_double(three, settings, folder / f"{name}.checkpoint", True)
        torch.save(run.final.state_dict(), folder / f"{name}-{ranks.process_number()}.pt")
    in_double(three, SETTINGS, folder / "resumed.checkpoint", True)
    in_double(three, SETTINGS, folder / "interrupted.checkpoint", True, stop_after=2)
    in_double(three, REST, folder / "rest.checkpoint", True)

    taken = []
    for task in ranks.share("abcdefgh"):
        taken.append(task)
        if ranks.is_first():  # a task that takes as long as all others
            ranks.wait_for_all("others are through")
    if not taken or not ranks.is_first():
        ranks.wait_for_all("others are through")
    (folder / f"taken-{ranks.process_number()}.json").write_text(json.dumps(taken))

    plain, runs = train._run, folder / f"runs-{ranks.process_number()}"

    def noted(*task):
        runs.open("a").write(f"{task[2]} {task[3].encoder}\n")
        return plain(*task)

    train._run = noted
    given = [*TRAINED, "--data", str(stored), "--out", str(folder / "bundle")]
    return train.main.__wrapped__(given)


@pytest.mark.parametrize("name", ENCODERS)
def test_three_processes_are_one(three, joint, tmp_path, name):
    """Three uneven batches an epoch, three epochs: as one process with the whole batch."""
    place = tmp_path / "one.checkpoint"
    run = in_double(three, replace(SETTINGS, encoder=name), place, False)
    same(joint / f"{name}.checkpoint", place)
    for number in range(3):
        state = torch.load(joint / f"{name}-{number}.pt")
        for key, value in run.final.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-6, atol=1e-6, msg=key)
    # It did learn, and the scale with it.
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert load_file(place)["loss/log_scale"].item() != pytest.approx(np.log(1 / 0.07), abs=1e-4)


def test_from_one_process_to_three_and_back(three, joint, tmp_path):
    place = tmp_path / "one.checkpoint"
    in_double(three, SETTINGS, place, False)
    same(joint / "resumed.checkpoint", place)
    with safe_open(joint / "interrupted.checkpoint", "pt") as file:
        assert json.loads(file.metadata()["course"])["epoch"] == 2
    in_double(three, SETTINGS, joint / "interrupted.checkpoint", False)
    same(joint / "interrupted.checkpoint", place)


def test_a_rest_that_leaves_a_process_without_a_row_is_left_out(three, joint, tmp_path):
    """Of 90 rows two batches of 44 are trained on: as if no others were there."""
    place, batches = tmp_path / "one.checkpoint", TrainingData.batches
    lengths = []

    def reads(self, rows):
        lengths.append([len(batch) for batch in rows])
        return batches(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "process_count", lambda: 3)
        patch.setattr(TrainingData, "batches", reads)
        # A single process that leaves out what three would; its sums are over itself.
        patch.setattr(training, "train_jointly", lambda encoder: encoder)
        patch.setattr(training, "own_rows", lambda rows: rows)
        patch.setattr(training, "gather_rows", lambda own, count: own)
        in_double(three, REST, place, True)
    assert lengths[0] == [44, 44]
    same(joint / "rest.checkpoint", place)


def test_who_is_free_takes_the_next_task(joint):
    taken = [json.loads((joint / f"taken-{number}.json").read_text()) for number in range(3)]
    assert len(taken[0]) <= 1
    assert sorted(chain(*taken)) == list("abcdefgh")


# ---------------------------------------------------------------- the command


def killed(*arguments):
    """Train in the command, but the second process kills itself in its second epoch."""
    validate, calls = training._validate, iter(range(100))

    def validates(*given):
        if ranks.process_number() == 1 and next(calls) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return validate(*given)

    training._validate = validates
    return train.main(list(arguments))


def failing(*arguments):
    """Train in the command, but subject 2's ridge is refused."""
    fit = train.fit_ridge

    def fits(trained, *given):
        if trained[0].folder.name == "sub-01":
            raise InputError("The second ridge is bad.")
        return fit(trained, *given)

    train.fit_ridge = fits
    return train.main(list(arguments))


def alike(bundle, wanted, name):
    """Compare two bundles' encoders by what they make of noise.

    In single precision, another order of sums changes last digits, and Adam makes steps of them
    where a gradient is zero but for rounding; in double precision see above.
    """
    one, other = (open_encoder(b / f"encoders/{name}.safetensors") for b in (bundle, wanted))
    sizes = one.config["channels"], one.config["times"]
    eeg = torch.randn(50, *sizes, generator=torch.Generator().manual_seed(0))
    assert (embed(one, eeg) * embed(other, eeg)).sum(1).min() > 0.995


def test_a_bundle_of_several_processes(joint, stored_bundle):
    """Each run was done once; the bundle is that of one process; its summary is printed once."""
    done = "".join(path.read_text() for path in joint.glob("runs-*")).splitlines()
    assert sorted(done) == ["1 nice", "1 ridge", "2 nice", "2 ridge"]
    assert (joint / "stdout").read_text().count("trained on") == 1
    for name in ("sub-01_nice", "sub-02_nice", "sub-01_ridge"):
        alike(joint / "bundle", stored_bundle, name)
    assert Bundle(joint / "bundle").subjects == ["1", "2"]
    assert not (joint / ".bundle.training").exists()
    assert "Warning" not in (joint / "stderr").read_text()


def test_a_killed_process_ends_all_and_resume_goes_on(three, tmp_path):
    out, work = tmp_path / "bundle", tmp_path / ".bundle.training"
    given = [*QUICK, "--leave-one-subject-out", "--subjects", "1,2", "--data", str(three), "--out"]
    code, stdout, err, seconds = torchrun(2, HERE, "killed", *given, out)
    assert (code, stdout) == (1, "")
    assert seconds < 90  # a hang would last as long as `torchrun` lets it
    assert re.findall("error: Process .*", err) == [
        "error: Process 1 of 2, counted from 0, ended, and with it all; what was finished is kept: "
        "give the same command with --resume, with as many processes as you like."
    ]
    assert not re.search('File ".*nice_demo', err)  # no traceback of ours
    assert not out.exists()
    assert {path.name for path in work.iterdir()} == {
        "pictures.json", "sub-01_nice_seed-1.checkpoint"
    }  # fmt: skip

    # On with two again, and what is wrong in one of them is said once.
    code, stdout, err, _ = torchrun(2, HERE, "failing", *given, out, "--resume")
    assert (code, stdout) == (1, "")
    assert re.findall("error: .*", err) == ["error: The second ridge is bad."]
    assert not re.search('File ".*nice_demo', err)
    assert not out.exists()
    assert (work / "sub-02_nice_seed-1.json").exists()

    # On with one process, which has little left to do.
    assert train.main([*given, str(out), "--resume"]) == 0
    assert os.listdir(tmp_path) == ["bundle"]
    whole = tmp_path / "whole"
    assert train.main([*given, str(whole)]) == 0
    for name in ("sub-01_nice", "sub-02_nice", "sub-02_ridge"):
        alike(out, whole, name)


def test_options_are_refused_once(monkeypatch, capsys):
    monkeypatch.setattr(ranks, "process_count", lambda: 2)
    for number, code in ((0, 2), (1, 0)):
        monkeypatch.setattr(ranks, "process_number", lambda number=number: number)
        with pytest.raises(SystemExit) as caught:
            ranks.parse(train._parser(), ["--epochs", "many"])
        assert caught.value.code == code
        assert ("--epochs" in capsys.readouterr().err) == (number == 0)


@pytest.mark.parametrize("argument", ["--jobs", "--batch"])
def test_not_for_several_processes(monkeypatch, three, tmp_path, argument):
    monkeypatch.setattr(ranks, "process_count", lambda: 21)
    monkeypatch.setenv("RANK", "0")
    given = [*QUICK, "--leave-one-subject-out", "--data", str(three), "--out", str(tmp_path / "o")]
    value = {"--jobs": "2", "--batch": "20"}[argument]
    refuses(lambda: train.main.__wrapped__([*given, argument, value]), argument)
    assert os.listdir(tmp_path) == []


def test_one_process_is_none(monkeypatch, capsys):
    """One process under torchrun behaves as without it."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert (ranks.process_count(), ranks.process_number(), ranks.is_first()) == (1, 0, True)
    assert list(ranks.share("abc")) == list("abc")
    ranks.wait_for_all("anywhere")
    assert train.main(["--batch", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: Training needs")


def main() -> int:
    """Do in a process of torchrun's what its first argument says."""
    what, *arguments = sys.argv[1:]
    if what != "jointly":
        return {"killed": killed, "failing": failing}[what](*arguments)
    return ranks.command(lambda argv: jointly(*map(Path, argv)))(arguments)


if __name__ == "__main__":
    sys.exit(main())
