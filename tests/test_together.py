"""Several runs trained as one model: what comes out is what each alone would have come to."""

import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentences import refuses
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import together as benchmark
from nice_demo import together, train
from nice_demo.bundle import Bundle
from nice_demo.checkpoint import Course
from nice_demo.eegset import DataSet, TrainingSet
from nice_demo.encoders import blocks
from nice_demo.settings import Settings, held_out
from nice_demo.together import Task, train_together
from nice_demo.training import train_encoder

CPU = torch.device("cpu")
RUNS = [(1, 1), (2, 1), (1, 2)]  # subject, seed
SETTINGS = Settings(epochs=4, batch=20, lr=1e-3, schedule="one-cycle", learnable_scale=True)
MUON = replace(SETTINGS, muon=True, weight_decay=1.0)
OPTIMIZERS = pytest.mark.parametrize("settings", [SETTINGS, MUON], ids=["adam", "muon"])
ENCODERS = pytest.mark.parametrize("encoder", ["nice", "nice-sa", "nice-ga"])


@pytest.fixture
def double(monkeypatch):
    """Compute in double precision: what differs then differs by more than rounding."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def no_dropout(monkeypatch):
    """Drop nothing, in attention either."""
    monkeypatch.setattr(blocks.Dropout, "forward", lambda self, values: values)


def concepts_of(data):
    return [candidate.concept for candidate in data.train_gallery.candidates]


def tasks_of(data, folder=None, runs=RUNS):
    return [
        Task(
            data.training_set(subject),
            seed,
            folder and folder / f"{subject}-{seed}.checkpoint",
            f"subject {subject}, seed {seed}",
        )
        for subject, seed in runs
    ]


def all_together(data, settings, folder=None, concepts=None, runs=RUNS, **options):
    """Return the runs in the order of `RUNS`."""
    tasks = tasks_of(data, folder, runs)
    pictures, concepts = data.train_gallery.embeddings, concepts or concepts_of(data)
    done = dict(train_together(tasks, pictures, concepts, settings, CPU, **options))
    return [done[task] for task in tasks]


def alone(data, settings, subject, seed, concepts=None, checkpoint=None):
    eeg, pictures = data.training_set(subject), data.train_gallery.embeddings
    concepts = concepts or concepts_of(data)
    return train_encoder(eeg, pictures, concepts, settings, seed, CPU, checkpoint)


def assert_same(run, other, tolerance):
    """Compare two runs: every figure and every weight."""
    assert run.best_epoch == other.best_epoch
    for found, wanted in zip(run.history, other.history, strict=True):
        assert found == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    for which in ("selected", "final"):
        found, wanted = (getattr(one, which) for one in (run, other))
        assert found.config == wanted.config
        assert not found.training
        wanted = wanted.state_dict()
        for name, value in found.state_dict().items():
            assert value.dtype == wanted[name].dtype
            torch.testing.assert_close(value, wanted[name], rtol=tolerance, atol=tolerance)


def stack_of(data, settings, mixed=False, runs=RUNS):
    tasks, pictures = tasks_of(data, None, runs), data.train_gallery.embeddings
    return together.stack(tasks, pictures, concepts_of(data), settings, CPU, mixed)


@pytest.fixture(scope="module")
def data(stored_data):
    return DataSet.open(stored_data)


# ---------------------------------------------------------------- the same as each alone


@ENCODERS
@OPTIMIZERS
def test_each_comes_out_as_alone(data, settings, encoder, double, no_dropout):
    settings = replace(settings, encoder=encoder)
    for run, (subject, seed) in zip(all_together(data, settings), RUNS, strict=True):
        assert len(run.history) == 4
        assert_same(run, alone(data, settings, subject, seed), 1e-8)


def test_in_single_precision_as_alone(data, no_dropout):
    for run, (subject, seed) in zip(all_together(data, SETTINGS), RUNS, strict=True):
        other = alone(data, SETTINGS, subject, seed)
        for found, wanted in zip(run.history, other.history, strict=True):
            assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("batch", [16, 47, 1000])
def test_single_trials_pools_and_odd_batches(data, batch, double, no_dropout):
    """48 rows of a subject are trained on: a batch of 47 leaves one row alone out."""
    settings = replace(SETTINGS, batch=batch, epochs=2, single_trials=batch == 1000)
    pool = [data.training_set(1), data.training_set(2)]
    pictures, concepts = data.train_gallery.embeddings, concepts_of(data)
    for trained in ([data.training_set(1), data.training_set(2)], [pool, pool[::-1]]):
        tasks = [Task(eeg, 1) for eeg in trained]
        for task, run in train_together(tasks, pictures, concepts, settings, CPU):
            other = train_encoder(task.eeg, pictures, concepts, settings, 1, CPU)
            assert_same(run, other, 1e-8)


def test_equal_candidates_tie_against_us(stored_data, double, no_dropout):
    data = DataSet.open(stored_data)
    data.train_gallery.embeddings[:] = data.train_gallery.embeddings[:1]
    settings = replace(SETTINGS, epochs=1)
    for run in all_together(data, settings):
        assert run.history[0]["validation_top1"] == 0


def test_runs_of_other_sizes_go_apart(data, monkeypatch, double, no_dropout):
    concepts = [f"c{int(n**0.5)}" for n in range(60)]  # of 1, 3, 5, … pictures
    held = {seed: held_out(concepts, SETTINGS, seed).sum() for seed in (1, 2, 3)}
    assert len(set(held.values())) > 1
    groups, train_group = [], together._train

    def noted(members, *arguments):
        groups.append([member.task.title for member in members])
        return train_group(members, *arguments)

    monkeypatch.setattr(together, "_train", noted)
    runs = [(subject, seed) for subject in (1, 2) for seed in (1, 2, 3)]
    found = all_together(data, SETTINGS, concepts=concepts, runs=runs)
    wanted = Counter(held[seed] for _, seed in runs)
    assert sorted(map(len, groups)) == sorted(wanted.values())
    assert_same(found[4], alone(data, SETTINGS, 2, 2, concepts), 1e-8)
    groups.clear()
    all_together(data, SETTINGS, concepts=concepts, runs=runs[:1] + runs[3:4], at_most=1)
    assert groups == [["subject 1, seed 1"], ["subject 2, seed 1"]]


# ---------------------------------------------------------------- going on


class Darkness(Exception):
    pass


@pytest.fixture
def stopped(monkeypatch):
    """Return a function that has training end before an epoch."""

    def stop(epoch):
        order = together.Stack.order

        def failing(self, number):
            if number == epoch:
                raise Darkness
            return order(self, number)

        monkeypatch.setattr(together.Stack, "order", failing)
        return lambda: monkeypatch.setattr(together.Stack, "order", order)

    return stop


@OPTIMIZERS
def test_resumed_is_the_same_run(data, tmp_path, stopped, settings):
    """With dropout, bit by bit."""
    whole = all_together(data, settings)
    go_on = stopped(3)
    with pytest.raises(Darkness):
        all_together(data, settings, tmp_path, every=0)
    assert len(os.listdir(tmp_path)) == 3
    go_on()
    for other in (replace(settings, lr=2e-3), replace(settings, muon=not settings.muon)):
        refuses(lambda other=other: all_together(data, other, tmp_path), "--restart")
    for run, other in zip(all_together(data, settings, tmp_path), whole, strict=True):
        assert_same(run, other, 0)
    # Runs that are over come out again.
    all_together(data, settings, tmp_path, every=0)
    for run, other in zip(all_together(data, settings, tmp_path), whole, strict=True):
        assert_same(run, other, 0)


@OPTIMIZERS
def test_alone_and_together_go_on_from_each_other(
    data, tmp_path, monkeypatch, stopped, double, no_dropout, settings
):
    go_on = stopped(3)
    with pytest.raises(Darkness):
        all_together(data, settings, tmp_path, every=0)
    go_on()
    wanted = [alone(data, settings, *run) for run in RUNS]
    assert_same(alone(data, settings, 1, 1, None, tmp_path / "1-1.checkpoint"), wanted[0], 1e-8)
    # That run is over now, the others aren't: as after a crash between two checkpoints.
    for run, other in zip(all_together(data, settings, tmp_path), wanted, strict=True):
        assert_same(run, other, 1e-8)


def test_checkpoints_wait(data, tmp_path, monkeypatch):
    """Within a minute there is one, at the end."""
    written = Counter()
    monkeypatch.setattr(Course, "write", lambda course: written.update([course.epoch]))
    all_together(data, SETTINGS, tmp_path)
    assert written == {4: 3}


# ---------------------------------------------------------------- errors


def test_who_diverged_is_said(data):
    tasks = tasks_of(data)
    eeg = tasks[1].eeg
    tasks[1] = replace(tasks[1], eeg=TrainingSet(eeg.folder, eeg.meta, 1e30 * eeg.train))
    pictures = data.train_gallery.embeddings
    refuses(
        lambda: list(train_together(tasks, pictures, concepts_of(data), SETTINGS, CPU)),
        "subject 2, seed 1 diverged in epoch 1",
    )


def test_too_few_trials_are_said(data):
    refuses(lambda: all_together(data, SETTINGS, concepts=["one"] * 60), "too few to train")


# ---------------------------------------------------------------- as a GPU wants it


class Operations(TorchDispatchMode):
    """Note every operation that reaches a device."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.names[operation.overloadpacket.__name__] += 1
        return operation(*arguments, **(options or {}))


@ENCODERS
@pytest.mark.parametrize("mixed", [False, True])
def test_a_step_waits_for_nothing(data, encoder, mixed):
    """No number is read from the device, none comes from the host, no size depends on numbers."""
    stack = stack_of(data, replace(SETTINGS, encoder=encoder), mixed)
    places = stack.order(0)[:, :20]
    stack.step(places, 1e-3)  # Adam makes its state
    with Operations() as done:
        stack.step(places, 1e-3)
    assert done.names["_fused_adamw_"] == 3  # of vectors, matrices and convolutions
    assert done.names["index"] >= 3  # of trials, conditions, pictures
    waits = {
        "_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select",
        "_unique2", "unique_dim", "lift_fresh", "lift_fresh_copy", "copy_to_host",
    }  # fmt: skip
    assert waits & set(done.names) == set()
    # As many operations for three runs as for one: none goes run by run.
    one = stack_of(data, replace(SETTINGS, encoder=encoder), mixed, RUNS[:1])
    one.step(places[:1], 1e-3)
    with Operations() as done_of_one:
        one.step(places[:1], 1e-3)
    assert abs(done.names.total() - done_of_one.names.total()) < 20


@ENCODERS
def test_mixed_precision(data, encoder, no_dropout):
    """In bfloat16 gradients agree to a hundredth; statistics and losses stay what they are."""
    gradients, buffers, losses = [], [], []
    for mixed in (False, True):
        stack = stack_of(data, replace(SETTINGS, encoder=encoder), mixed)
        losses.append(stack.step(stack.order(0)[:, :32], 0.0))
        gradients.append({key: value.grad for key, value in stack.weights.items()})
        buffers.append(stack.buffers)
    single, mixed = losses
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, single, rtol=1e-2, atol=0)
    assert (mixed != single).all()  # it was bfloat16
    for key, value in buffers[0].items():
        found = buffers[1][key]
        assert found.dtype == value.dtype
        exact = encoder == "nice" and key.startswith("temporal")  # straight from the EEG
        close = {"rtol": 1e-5, "atol": 1e-6} if exact else {"rtol": 1e-2, "atol": 1e-3}
        torch.testing.assert_close(found, value, **close)
    for key, wanted in gradients[0].items():
        found = gradients[1][key]
        assert found.dtype == torch.float32
        if key in ("temporal.bias", "spatial.bias"):  # nothing but rounding: a norm follows
            continue
        for run in range(len(RUNS)):
            away = torch.linalg.vector_norm(found[run] - wanted[run])
            assert away < 2e-2 * torch.linalg.vector_norm(wanted[run]), key


def test_validation_is_in_single_precision(data):
    figures = []
    for mixed in (False, True):
        stack = stack_of(data, SETTINGS, mixed)
        figures.append(stack.validate())
    for found, wanted in zip(*figures, strict=True):
        assert (found == wanted).all()


def test_trials_lie_there_once(data):
    stack = stack_of(data, SETTINGS)
    assert stack.trials.eeg.shape == (120, 4, 80)  # two subjects, three runs
    eeg = data.training_set(2)
    half = TrainingSet(eeg.folder, eeg.meta, eeg.train[:, :1].astype(np.float16))
    trials = together._Trials([half, half], False, CPU)
    assert trials.eeg.dtype == torch.float16
    np.testing.assert_array_equal(trials.eeg, half.train[:, 0])


def test_as_many_as_fit(data, monkeypatch):
    settings = replace(SETTINGS, batch=100)
    tasks = tasks_of(data, runs=[(1, seed) for seed in range(7)])
    members = [together._Member(task, concepts_of(data), settings) for task in tasks]
    a_run = together.bytes_of_a_run(4, 80, 6, settings)
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def sizes(free, at_most=None):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
        return [len(part) for part in together._parts(members, 6, settings, gpu, at_most)]

    trials = 60 * 4 * 80 * 2
    assert sizes((3.01 * a_run + trials) / together.SHARE) == [3, 3, 1]
    assert sizes((2.99 * a_run + trials) / together.SHARE) == [2, 2, 2, 1]
    assert sizes(10) == [1] * 7  # the attempt may fail, and says so
    assert sizes(1e12) == [7]
    assert sizes(10, 4) == [4, 3]


def test_no_room_is_said(data, monkeypatch):
    def full(self, places, rate):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(together.Stack, "step", full)
    refuses(lambda: all_together(data, SETTINGS), "--together with a number below 3")


# ---------------------------------------------------------------- the command


def run(data, out, *arguments):
    arguments = ["--epochs", 3, "--batch", 20, "--lr", 1e-3, "--seeds", "1,2", *arguments]
    return train.main([*map(str, arguments), "--data", str(data), "--out", str(out)])


def test_bundle(stored_data, tmp_path, monkeypatch):
    """The command's results are those of runs one after the other; none is lost in a crash."""
    assert run(stored_data, tmp_path / "alone", "--dropout", 0) == 0
    with monkeypatch.context() as broken:

        def failing(encoder, path):
            if path.name == "sub-01_nice_seed-2.safetensors":
                raise Darkness
            wanted(encoder, path)

        wanted = train.save_encoder
        broken.setattr(train, "save_encoder", failing)
        with pytest.raises(Darkness):
            run(stored_data, tmp_path / "four", "--dropout", 0, "--together", 4)
    work = tmp_path / ".four.training"
    assert len(list(work.glob("*_nice_*.json"))) == 2
    assert len(list(work.glob("*_nice_*.checkpoint"))) == 4
    again = run(stored_data, tmp_path / "four", "--dropout", 0, "--together", 4, "--resume")
    assert again == 0
    one, four = (Bundle(tmp_path / name).manifest["runs"] for name in ("alone", "four"))
    assert len(four) == 4 + 2
    for found, wanted in zip(four, one, strict=True):
        assert found.keys() == wanted.keys()
        for name in ("subject", "encoder", "seed"):
            assert found[name] == wanted[name]
        for entry, other in zip(found["history"], wanted["history"], strict=True):
            assert entry == pytest.approx(other, rel=1e-3)


def test_refused_options(stored_data, tmp_path, capsys):
    assert run(stored_data, tmp_path / "out", "--together", 0) == 2
    assert run(stored_data, tmp_path / "out", "--together", 2, "--jobs", 2) == 2
    assert "two ways" in capsys.readouterr().err


def test_bunches(monkeypatch):
    nice, ridge = SETTINGS, replace(SETTINGS, encoder="ridge")
    tasks = [(subject, nice, 1) for subject in range(5)] + [(0, ridge, 1), (1, ridge, 1)]
    assert [len(bunch) for bunch in train._bunches(tasks, None)] == [5, 1, 1]
    assert train._bunches(tasks, 1) == [[task] for task in tasks]
    monkeypatch.setattr(train.ranks, "process_count", lambda: 2)
    bunches = train._bunches(tasks, None)
    assert [len(bunch) for bunch in bunches] == [3, 2, 1, 1]
    assert sorted(json.dumps([s, k.encoder]) for b in bunches for s, k, _ in b) == sorted(
        json.dumps([s, k.encoder]) for s, k, _ in tasks
    )


# ---------------------------------------------------------------- the benchmark


def test_benchmark_without_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (row,) = benchmark.rows()
    assert row.ours == "not measured"
    assert benchmark.main([]) == 0
    assert "not measured: no CUDA device" in capsys.readouterr().out


def test_benchmark_on_a_small_case(tmp_path):
    size = benchmark.Size(conditions=60, per_concept=5, channels=3, times=80, dim=6)
    settings = replace(SETTINGS, epochs=5)
    subjects = benchmark.Subjects(tmp_path, 2, size, settings, CPU)
    rows = benchmark.measure(subjects, (1, 2), 3, True, 64)
    assert len(rows) == 5 + 2 * 2
    assert not any("nan" in part for row in rows for part in (row.ours, row.other, row.ratio))


def test_benchmark_counts():
    one, two = torch.ones(2, 3), torch.ones(3, 4)
    with benchmark.Traffic() as traffic:
        product = one @ two
    assert traffic.bytes == 4 * (6 + 12 + 8)
    with benchmark.Traffic() as traffic:
        assert product.view(2, 2, 2).flatten(1)[:, None].expand(2, 5, 4).shape == (2, 5, 4)
    assert traffic.bytes == 0
    with benchmark.Traffic() as traffic:
        torch.ones(1).expand(10) + torch.ones(10)
    assert traffic.bytes == 4 * (1 + 10 + 1 + 10 + 10)  # two are made, then added
    with benchmark.Traffic() as traffic:
        product.add_(1)
    assert traffic.bytes == 4 * (8 + 8)
