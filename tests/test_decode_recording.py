"""Somebody's own epochs through a bundle's encoders, against a loop; and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentences import refuses
from tiny import STORED_CHANNELS

from nice_demo.bundle import Bundle
from nice_demo.decode import recording as decoding
from nice_demo.decode.__main__ import main
from nice_demo.decode.recording import decode_epochs, differences, expectation, summary
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.epochs import OwnEpochs, Steps

EVENTS = ["thing 0", "Test-3", "TEST4", "a face", "thing 0"]


@pytest.fixture(scope="module")
def bundle(stored_bundle):
    return Bundle(stored_bundle)


def epochs(seed=0, conditions=EVENTS):
    rng = np.random.default_rng(seed)
    eeg = rng.standard_normal((len(conditions), 4, 80)).astype(np.float32)
    times = np.arange(-20, 80) / 100
    volts = np.zeros((len(conditions), 4, 100), np.float32)
    return OwnEpochs(volts, STORED_CHANNELS, times, eeg, list(conditions), [], 0)


def test_against_a_loop(bundle):
    own = epochs()
    found = decode_epochs(bundle, "2", "nice", own)
    assert [one.condition for one in found] == ["thing 0", "Test-3", "TEST4", "a face"]
    # By name, by id, by concept, and not at all.
    assert [one.seen for one in found] == [0, 3, 4, None]
    assert [one.n_epochs for one in found] == [2, 1, 1, 1]
    model = bundle.encoder("2", "nice")
    for one in found:
        rows = [i for i, name in enumerate(own.conditions) if name == one.condition]
        evoked = sum(own.eeg[row] for row in rows) / len(rows)
        with torch.inference_mode():
            embedding = model(torch.from_numpy(evoked)[None])[0].double().numpy()
        cosines = [
            embedding @ candidate / np.linalg.norm(embedding) / np.linalg.norm(candidate)
            for candidate in bundle.gallery.embeddings.astype(float)
        ]
        np.testing.assert_allclose(one.similarities, cosines, atol=1e-6)
        assert [one.similarities[i] for i in one.order] == sorted(one.similarities, reverse=True)
        if one.seen is None:
            assert one.rank is None
        else:
            assert one.rank == sum(s >= one.similarities[one.seen] for s in one.similarities)


def test_summary_is_over_conditions_that_are_pictures(bundle):
    found = decode_epochs(bundle, "1", "ridge", epochs())
    overall = summary(bundle, found)
    known = [one.rank for one in found if one.rank]
    assert overall.trials == len(known) == 3
    assert overall.ways == len(bundle.gallery)
    assert overall.top1.successes == known.count(1)
    assert overall.mean_rank.value == np.mean(known)
    assert overall.repetitions is None  # they differ: 2, 1, 1
    assert summary(bundle, found[1:3]).repetitions == 1
    assert summary(bundle, found[:1]) is None
    assert summary(bundle, [found[3]]) is None
    assert summary(bundle, []) is None


def test_names_that_two_pictures_have_are_nobody_s(bundle):
    candidates = bundle.gallery.candidates
    twins = [replace(one, name="twin") if i < 2 else one for i, one in enumerate(candidates)]
    rows = decoding._rows_by_name(replace(bundle.gallery, candidates=twins))
    assert "twin" not in rows
    assert (rows["test-0"], rows["thing 2"]) == (0, 2)


def test_json(bundle):
    first, *_, face = decode_epochs(bundle, "1", "nice", epochs())
    told = json.loads(json.dumps(first.to_json(3), allow_nan=False))
    assert told["condition"] == "thing 0"
    assert (told["epochs"], told["candidates"], told["rank_by_chance"]) == (2, 6, 3.5)
    assert told["rank"] == first.rank
    assert told["seen"]["name"] == "thing 0"
    assert [one["rank"] for one in told["retrieved"]] == [1, 2, 3]
    assert told["retrieved"][0]["similarity"] == round(float(first.similarities.max()), 4)
    assert (face.to_json()["seen"], face.to_json()["rank"]) == (None, None)


def test_expectation_says_simulated_first(bundle, monkeypatch):
    assert expectation(bundle).startswith("These encoders were trained on SIMULATED EEG")
    assert "6.2 %" in expectation(bundle)
    monkeypatch.setitem(bundle.manifest, "simulated", False)
    assert "SIMULATED" not in expectation(bundle)
    assert "6.2 %" in expectation(bundle)


def test_differences_from_training(bundle, monkeypatch):
    steps, recording = Steps({}, ()), Recording("a.edf", "EDF", np.zeros((1, 9)), ["O1"], 250.0)
    assert differences(bundle, recording, steps) == []
    trained = {"reference": "Fz", "whitening": "each session"}
    monkeypatch.setitem(bundle.manifest, "preparation", trained)
    (reference,) = differences(bundle, recording, steps)
    assert "against Fz" in reference and "as recorded" in reference
    assert differences(bundle, recording, replace(steps, reference="Fz")) == []
    assert differences(bundle, replace(recording, reference="Fz"), steps) == []
    (other,) = differences(bundle, replace(recording, reference="Cz"), steps)
    assert other.endswith("this one is against Cz.")
    average = replace(steps, reference="average", whiten=False)
    assert len(differences(bundle, replace(recording, reference="Fz"), average)) == 2


def test_refusals(bundle):
    own = epochs()
    few = replace(own, eeg=None)
    refuses(lambda: decode_epochs(bundle, "1", "nice", few), "Too few electrodes", "P7")
    refuses(lambda: decode_epochs(bundle, "9", "nice", own), "'9'")
    refuses(lambda: decode_epochs(bundle, "1", "atm", own), "'atm'")
    short = replace(own, eeg=own.eeg[..., :70])
    refuses(lambda: decode_epochs(bundle, "1", "nice", short), "4 channels and 70 samples", "80")


# ---------------------------------------------------------------- the command


@pytest.fixture
def own_file(tmp_path):
    """Return a file of 40 s with four electrodes, an ear and a slip, and six events twice."""
    rng = np.random.default_rng(0)
    names = ["EEG P7-Ref", "O1", "o2", "P8-0", "EEG A1-Ref"]
    events = [f"thing {i}" for i in range(6)] * 2
    path = tmp_path / "own.npz"
    np.savez(
        path,
        eeg=(1e-5 * rng.standard_normal((5, 8000))).astype(np.float32),
        channels=np.array(names),
        sfreq=200.0,
        onsets=2.0 + 3.0 * np.arange(12),
        events=np.array(events),
    )
    return path


def told(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_command_says_what_it_did(stored_bundle, own_file, capsys):
    out = told(capsys, own_file, "--bundle", stored_bundle)
    lines = out.splitlines()
    assert lines[0].startswith("These encoders were trained on SIMULATED EEG")
    assert "own.npz" in out and "5 channels, 200 Hz, 40 s" in out
    assert "thing 5 (2)" in out
    assert "? P8-0 → P8" in out
    assert "EEG P7-Ref → P7" in out
    assert "not used: EEG A1-Ref" in out
    assert "12 kept, 0 dropped" in out
    assert out.count(" of 6 (chance 3.5)") == 6
    assert "6 conditions among 6 candidates, stimulus protocol" in out
    assert "95 % interval" in out
    assert "nice of subject 1" in out


def test_command_in_json(stored_bundle, own_file, capsys):
    options = ["--subject", "2", "--encoder", "ridge", "--events", "thing 1,thing 2", "--json"]
    out = json.loads(told(capsys, own_file, "--bundle", stored_bundle, *options))
    assert next(iter(out)) == "expectation"
    assert (out["subject"], out["encoder"]) == ("2", "ridge")
    assert out["epochs"] == {"thing 1": 2, "thing 2": 2}
    assert [one["condition"] for one in out["conditions"]] == ["thing 1", "thing 2"]
    assert out["over_conditions"]["trials"] == 2
    assert out["steps"]["electrodes"]["EEG P7-Ref"] == "P7"
    assert out["channels"][4]["electrode"] is None
    assert out["recording"]["sfreq"] == 200


def test_command_by_hand(stored_bundle, own_file, capsys):
    options = ["--channels", "EEG A1-Ref=p8,O1=", "--notch", "50", "--low", "1", "--high", "0"]
    options += ["--reference", "average", "--reject", "100"]
    bundle = ["--bundle", stored_bundle]
    # Three of four electrodes: fewer than this small cap needs.
    out = told(capsys, own_file, *bundle, *options)
    assert "EEG A1-Ref → P8 (by hand)" in out
    assert "reference  average" in out
    assert "1–… Hz, notch 50 Hz" in out
    assert "Only 3 of the 4" in out
    assert "thing 3, 2 epochs: largest at" in out
    assert "rank" not in out
    steps = json.loads(told(capsys, own_file, *bundle, *options, "--json"))["steps"]
    assert steps["electrodes"] == {"EEG P7-Ref": "P7", "o2": "O2", "EEG A1-Ref": "P8"}
    assert (steps["low"], steps["high"], steps["notch"]) == (1.0, None, 50.0)
    assert steps["reject"] == pytest.approx(1e-4)


def test_command_lists(own_file, capsys):
    out = told(capsys, own_file, "--list")  # needs no bundle
    assert "EEG P7-Ref, O1, o2" in out
    assert "SIMULATED" not in out
    found = json.loads(told(capsys, own_file, "--list", "--json"))
    assert found["events"]["thing 0"] == 2
    assert found["names"][1] == "O1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--events", "a cow"], "no event 'a cow'"),
        (["--channels", "nowhere=O1"], "names no channel"),
        (["--channels", "O1=nowhere"], "no electrode 'nowhere'"),
        (["--channels", "O1"], "NAME=ELECTRODE"),
        (["--channels", "O1=P7,o2=P7"], "P7 is given to two channels"),
        (["--reference", "Nz"], "reference 'Nz'"),
        (["--subject", "7"], "subject '7'"),
        (["--encoder", "atm"], "encoder 'atm'"),
        (["--low", "50", "--high", "40"], "50 to 40 Hz"),
        (["--reject", "-3"], "reject"),
        (["--low", "nan"], "low is nan"),
        (["--bundle", "nowhere"], "nowhere"),
    ],
)
def test_command_refuses_in_one_sentence(stored_bundle, own_file, capsys, options, words):
    assert main([str(own_file), "--bundle", str(stored_bundle), *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.startswith("error: ") and said.err.count("\n") == 1


def test_command_without_a_file(stored_bundle, tmp_path, capsys):
    assert main([str(tmp_path / "none.edf"), "--bundle", str(stored_bundle)]) == 2
    assert "none.edf" in capsys.readouterr().err


def test_terminal_is_safe_from_names(stored_bundle, own_file, capsys, monkeypatch):
    def read(paths):
        with np.load(own_file) as file:
            volts, onsets = file["eeg"], file["onsets"]
        names = ["P7", "O1", "O2", "P8", "\x1b]0;x\x07"]
        return Recording("\x1b[2J.edf", "EDF", volts, names, 200.0, onsets=onsets,
                         events=["\x1b[31m\nred"] * 12)  # fmt: skip

    monkeypatch.setattr("nice_demo.sources.recordings.files.open_recording", read)
    for options in ([], ["--list"]):
        out = told(capsys, own_file, "--bundle", stored_bundle, *options)
        assert "\x1b" not in out and "\x07" not in out
        assert "�" in out
