"""One's own recordings: BIDS, or files and a table, to a data folder, to a bundle."""

import csv
import json
import shutil

import mne
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_recordings import (
    BAD,
    ELECTRODES,
    PICTURES,
    SESSIONS,
    SFREQ,
    SUBJECTS,
    vectors,
    write_bids,
    write_pictures,
)
from PIL import Image
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from benchmarks import n170, n170_recordings
from nice_demo import evaluate, prepare, train
from nice_demo.bundle import Bundle
from nice_demo.eegset import DataSet
from nice_demo.embed import __main__ as embed_main
from nice_demo.encoders import embed as embed_eeg
from nice_demo.errors import InputError
from nice_demo.retrieval import similarity
from nice_demo.sources.recordings import dataset, single
from nice_demo.sources.recordings.dataset import orthogonal
from nice_demo.sources.recordings.pictures import find_pictures
from nice_demo.sources.recordings.table import read_table

TRAINING = ["--epochs", "25", "--batch", "26", "--lr", "2e-3", "--schedule", "one-cycle"]


@pytest.fixture(scope="session")
def bids(tmp_path_factory):
    """Return a BIDS folder of two subjects with two sessions each."""
    root = tmp_path_factory.mktemp("bids")
    write_bids(root)
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    return folder


@pytest.fixture(scope="session")
def mine(bids, pictures, tmp_path_factory):
    """Return the data folder made of the BIDS folder, without embeddings."""
    out = tmp_path_factory.mktemp("own") / "mine"
    command = ["recordings", "--bids", str(bids), "--to", str(out), "--test-concepts", "8"]
    command += ["--pictures", str(pictures), "--simulated"]
    assert prepare.main(command) == 0
    return out


@pytest.fixture(scope="session")
def made_elsewhere(tmp_path_factory):
    file = tmp_path_factory.mktemp("vectors") / "vectors.npz"
    np.savez(file, names=np.array(PICTURES), embeddings=vectors())
    return file


@pytest.fixture(scope="session")
def weights(mine, made_elsewhere, tmp_path_factory):
    """Return the bundle trained on `mine`, with embeddings that are given."""
    data = tmp_path_factory.mktemp("embedded") / "mine"
    shutil.copytree(mine, data)
    assert embed_main.main(["--data", str(data), "--embeddings", str(made_elsewhere)]) == 0
    out = tmp_path_factory.mktemp("own_weights") / "mine"
    assert train.main(["--data", str(data), "--out", str(out), *TRAINING]) == 0
    return out


# ---------------------------------------------------------------- BIDS


def by_hand(bids, subject):
    """Prepare a subject by a literal MNE pipeline: {picture: [(session, volts)]}, channels."""
    epochs = {}
    for session in SESSIONS:
        folder = bids / f"sub-{subject}" / f"ses-{session}" / "eeg"
        stem = f"sub-{subject}_ses-{session}_task-look"
        raw = mne.io.read_raw_brainvision(
            folder / f"{stem}_eeg.vhdr", preload=True, verbose="error"
        )
        raw.pick(ELECTRODES)
        raw.filter(0.1, 100.0, verbose="error")
        with open(folder / f"{stem}_events.tsv", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file, delimiter="\t") if r["stim_file"] != "n/a"]
        samples = [round(float(row["onset"]) * SFREQ) for row in rows]
        events = np.array([[sample, 0, n] for n, sample in enumerate(samples)])
        if BAD[:2] == (subject, session):
            raw.info["bads"] = [BAD[2]]
        cut = mne.Epochs(
            raw, events, tmin=-0.2, tmax=1.0, baseline=(None, 0), preload=True, verbose="error"
        )
        cut.set_montage("easycap-M1", verbose="error")
        cut.decimate(2, verbose="error")
        cut.interpolate_bads(reset_bads=True, verbose="error")
        volts = cut.get_data(ELECTRODES)[:, :, 50:300]
        order = [name for name in dataset.CHANNELS if name in ELECTRODES]
        volts = volts[:, [ELECTRODES.index(name) for name in order]]
        for row, one in zip(rows, volts, strict=True):
            epochs.setdefault(row["stim_file"], []).append((session, one))
    return epochs, order


@pytest.mark.parametrize("subject", SUBJECTS)
def test_bids_gives_what_mne_gives(bids, mine, subject):
    """Every array equals a literal pipeline: filter, epochs, interpolation, whitening."""
    data = DataSet(mine, json.loads((mine / "dataset.json").read_text()))
    epochs, order = by_hand(bids, subject)
    assert data.montage.names == order
    train_names = [c.id for c in data.train_gallery.candidates]
    test_names = [c.id for c in data.test_gallery.candidates]
    assert sorted(train_names + test_names) == sorted(PICTURES)
    assert (len(train_names), len(test_names)) == (64, 16)
    whitening = {}
    for session in SESSIONS:
        sums = 0
        for name in train_names:
            for own, volts in epochs[name]:
                if own == session:
                    scale = volts.std(1)
                    z = (volts - volts.mean(1, keepdims=True)) / scale[:, None]
                    sums = sums + ledoit_wolf(z.T)[0] * np.outer(scale, scale)
        values, vectors_ = np.linalg.eigh(sums / len(train_names))
        whitening[session] = vectors_ @ np.diag(values**-0.5) @ vectors_.T
    eeg = dataset_arrays(mine, subject)
    for side, names in (("train", train_names), ("test", test_names)):
        assert eeg[side].shape == (len(names), 2, len(order), 250)
        for stored, name in zip(eeg[side], names, strict=True):
            expected = [whitening[session] @ volts for session, volts in epochs[name]]
            # Which session comes first is drawn, so that repetition 1 isn't always the first.
            swapped = np.abs(stored - expected).max() > np.abs(stored - expected[::-1]).max()
            assert np.abs(stored - (expected[::-1] if swapped else expected)).max() < 1e-5


def dataset_arrays(folder, subject):
    from safetensors.numpy import load_file

    place = folder / f"sub-{subject}"
    return {side: load_file(place / f"{side}.safetensors")["eeg"] for side in ("train", "test")}


def test_the_data_folder_says_what_was_done(mine):
    about = json.loads((mine / "dataset.json").read_text())
    assert about["simulated"] is True
    preparation = about["preparation"]
    assert preparation["filter"] == [0.1, 100.0]
    notes = " ".join(preparation["notes"])
    assert "8 concepts" in notes
    assert "interpolated: P3" in notes
    assert "aren't electrodes of the 63-channel cap are left out: Fz." in notes
    assert "events that aren't of these pictures are left out" in notes
    meta = json.loads((mine / "sub-01" / "meta.json").read_text())
    assert meta["label"] == "01"
    assert list(meta["interpolated"].values()) == [["P3"]]
    assert not [path for path in mine.rglob("*") if path.name.startswith(("tmp", "."))]
    assert str(mine) not in (mine / "dataset.json").read_text()


def test_test_pictures_are_shown_and_their_concepts_never_trained(mine):
    data = DataSet.open(mine)
    concepts = [
        {candidate.concept for candidate in gallery.candidates}
        for gallery in (data.train_gallery, data.test_gallery)
    ]
    assert len(concepts[1]) == 8
    assert not concepts[0] & concepts[1]
    for candidate in data.test_gallery.candidates:
        assert candidate.licence == "not stated"
        with Image.open(mine / candidate.picture) as picture:
            assert picture.format == "WEBP"


def test_without_embeddings_training_says_what_to_do(mine, tmp_path, capsys):
    assert train.main(["--data", str(mine), "--out", str(tmp_path / "w")]) == 2
    assert "no embeddings yet; make them with `python -m nice_demo.embed" in capsys.readouterr().err


def test_files_and_a_table_give_the_same(bids, mine, pictures, tmp_path):
    """The same recordings by a table: subject 2's files as they are, subject 1's saved as FIF."""
    with open(tmp_path / "events.csv", "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["subject", "session", "file", "onset", "picture", "concept"])
        for subject in SUBJECTS:
            for session in SESSIONS:
                stem = f"sub-{subject}_ses-{session}_task-look"
                folder = bids / f"sub-{subject}" / f"ses-{session}" / "eeg"
                name = folder / f"{stem}_eeg.vhdr"
                if subject == BAD[0]:
                    raw = mne.io.read_raw(name, preload=True, verbose="error")
                    raw.info["bads"] = [BAD[2]] if session == BAD[1] else []
                    name = f"{subject}{session}_raw.fif"
                    raw.save(tmp_path / name, fmt="double", verbose="error")
                with open(folder / f"{stem}_events.tsv", encoding="utf-8") as events:
                    for row in csv.DictReader(events, delimiter="\t"):
                        if (stim := row["stim_file"]) != "n/a":
                            concept = stim.split("/")[0]
                            lines.writerow([subject, session, name, row["onset"], stim, concept])
    command = [
        "recordings",
        "--table",
        str(tmp_path / "events.csv"),
        "--to",
        str(tmp_path / "mine"),
    ]
    command += ["--test-concepts", "8", "--pictures", str(pictures), "--simulated"]
    assert prepare.main(command) == 0
    same = ["montage.safetensors", "sub-02/test.safetensors", "sub-02/train.safetensors"]
    same += [
        f"{side}_gallery.{end}" for side in ("train", "test") for end in ("json", "safetensors")
    ]
    same += [path.relative_to(mine) for path in (mine / "pictures").iterdir()]
    for name in same:
        assert (mine / name).read_bytes() == (tmp_path / "mine" / name).read_bytes(), name
    for side, eeg in dataset_arrays(mine, "01").items():  # FIF rounds the last bit
        assert np.abs(dataset_arrays(tmp_path / "mine", "01")[side] - eeg).max() < 1e-5


# ---------------------------------------------------------------- embeddings and training


def test_what_was_trained_retrieves_pictures_of_concepts_it_never_saw(weights, capsys):
    bundle = Bundle(weights)
    assert bundle.simulated
    assert bundle.subjects == ["1", "2"]
    assert len(bundle.gallery) == 16
    capsys.readouterr()
    assert evaluate.main([str(weights)]) == 0
    assert "16-way retrieval" in capsys.readouterr().out
    found, _ = evaluate.evaluate_bundle(bundle)
    for subject in bundle.subjects:
        for encoder in ("nice", "ridge"):
            figures = found[subject][encoder][-1]
            assert figures.repetitions == 2
            assert figures.top5.low > figures.top5.chance, (subject, encoder)


def test_the_stand_in_embeds_without_a_network(mine, pictures, tmp_path):
    data = tmp_path / "mine"
    shutil.copytree(mine, data)
    command = ["--data", str(data), "--images", str(pictures), "--image-model", "stand-in"]
    assert embed_main.main(command) == 0
    data = DataSet.open(data)
    for gallery in (data.train_gallery, data.test_gallery):
        assert gallery.embeddings.shape[1] == 1280
        assert np.allclose(np.linalg.norm(gallery.embeddings, axis=1), 1, atol=1e-5)
        assert "EfficientNet" in gallery.image_model["name"]
    assert data.description["image_model"] == data.test_gallery.image_model
    assert np.abs(data.train_gallery.embeddings.mean(0)).max() < 0.1


def test_given_embeddings_must_name_every_picture(mine, tmp_path, capsys):
    np.savez(tmp_path / "few.npz", names=np.array(PICTURES[:5]), embeddings=vectors()[:5])
    command = ["--data", str(mine), "--embeddings"]
    assert embed_main.main([*command, str(tmp_path / "few.npz")]) == 2
    assert "lacks 6" in capsys.readouterr().err
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "objects.npz", names=objects, embeddings=vectors()[:1])
    assert embed_main.main([*command, str(tmp_path / "objects.npz")]) == 2
    assert "isn't a .npz file of names and embeddings" in capsys.readouterr().err


# ---------------------------------------------------------------- faces and houses, real EEG


@pytest.fixture(scope="module")
def n170_files(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("n170")
    epochs = n170.Epochs.open(shared_data / "muse_n170" / "epochs.npz")
    return n170_recordings.write_recordings(folder, epochs, "subject1"), epochs


def test_real_eeg_of_faces_and_houses_in_three_commands(n170_files, tmp_path, capsys, tell):
    table, epochs = n170_files
    data, out = tmp_path / "n170", tmp_path / "weights" / "n170"
    command = ["recordings", "--table", str(table), "--to", str(data), "--classify"]
    command += ["--test-runs", "2", "--tmin", "-0.1", "--tmax", "0.79"]
    assert prepare.main(command) == 0
    assert "train --data" in capsys.readouterr().out
    opened = DataSet.open(data)
    eeg = opened.subject(1)
    assert [c.id for c in opened.test_gallery.candidates] == ["face", "house"]
    mine = epochs.subject == "subject1"
    for face, concept in ((True, "face"), (False, "house")):
        there = (mine & (epochs.run != 2) & (epochs.face == face)).sum()
        assert [c.concept for c in opened.train_gallery.candidates].count(concept) == there
    held = [(epochs.run == 2) & (epochs.face == face) for face in (True, False)]
    assert eeg.test.shape == (2, min(h.sum() for h in held), 4, 198)
    assert eeg.train.shape[1:] == (1, 4, 198)

    assert train.main(["--data", str(data), "--out", str(out)]) == 2
    assert "give --validation conditions" in capsys.readouterr().err
    assert train.main(["--data", str(data), "--out", str(out), "--leave-one-subject-out"]) == 2
    assert "was prepared with --classify" in capsys.readouterr().err
    assert not out.exists()
    recipe = ["--epochs", "8", "--batch", "64", "--lr", "1e-3", "--schedule", "one-cycle"]
    recipe += ["--validation", "conditions"]
    assert train.main(["--data", str(data), "--out", str(out), *recipe]) == 0
    bundle = Bundle(out)
    trials = torch.from_numpy(np.concatenate(list(eeg.test)))
    is_face = np.repeat([True, False], eeg.test.shape[1])
    cosines = similarity(
        embed_eeg(bundle.encoder("1", "nice"), trials).numpy(), bundle.gallery.embeddings
    )
    area = roc_auc_score(is_face, cosines[:, 0] - cosines[:, 1])
    assert area > 0.6  # as tests/test_n170.py; chance: 0.5 ± 0.042
    figures = single.single_trials(opened, bundle)["1", "nice"]
    assert figures.top1.successes == (cosines.argmax(1) == ~is_face).sum()
    assert figures.top1.p < 0.01
    capsys.readouterr()
    assert single.main(["--data", str(data), "--bundle", str(out)]) == 0
    assert "2-way retrieval, trained concepts protocol" in (said := capsys.readouterr().out)
    assert f"{len(trials)} trials" in said
    assert evaluate.main([str(out)]) == 0
    assert "concepts that were trained on: this is classification" in capsys.readouterr().out
    share = 100 * figures.top1.value
    tell(f"N170, held-out run: AUC {area:.2f}, {share:.0f} % of {len(trials)} single trials")


def test_vectors_of_concepts_are_at_right_angles():
    for count in (2, 15, 16, 40):
        found = orthogonal(count)
        assert np.allclose(found @ found.T, np.eye(count), atol=1e-6)
        assert np.abs(found.sum(1)).max() < 1e-5


# ---------------------------------------------------------------- small recordings


RATE = 250.0
SMALL = ["O1", "Oz", "O2", "Pz"]


def small(folder, lines, name="events.csv", header="subject,session,file,onset,picture,concept"):
    """Write three recordings of noise, 40 s each, and a table of the lines that are given."""
    for index in range(3):
        volts = 1e-5 * np.random.default_rng(index).standard_normal((4, int(40 * RATE)))
        info = mne.create_info(SMALL, RATE, "eeg", verbose="error")
        path = folder / f"{index + 1}_raw.fif"
        if not path.exists():
            mne.io.RawArray(volts, info, verbose="error").save(path, fmt="double", verbose="error")
    (folder / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder / name


def shown(file, pictures, subject=1, session="a", start=1.0):
    """Return a line for each picture, shown one after the other."""
    return [
        f"{subject},{session},{file}_raw.fif,{start + 1.2 * n:.3f},{picture},{picture[0]}"
        for n, picture in enumerate(pictures)
    ]


FOUR = ["a1", "a2", "b1", "b2", "c1", "c2", "d1", "d2"]  # of the concepts a, b, c, d


def run(table, to, *more):
    return prepare.main(["recordings", "--table", str(table), "--to", str(to), *more])


def test_unequal_numbers_come_down_to_the_least(tmp_path, capsys):
    lines = shown(1, FOUR * 3) + shown(2, ["a1", "c1", "d2"], session="b")
    table = small(tmp_path, lines)
    assert run(table, tmp_path / "single", "--test-concepts", "2") == 0
    said = capsys.readouterr().out
    assert "trials are left out, as all conditions need equally many (--average keeps them)" in said
    assert run(table, tmp_path / "mean", "--test-concepts", "2", "--average") == 0
    one, mean = (dataset_arrays(tmp_path / name, "01") for name in ("single", "mean"))
    assert one["train"].shape == (4, 3, 4, 250)
    assert mean["train"].shape == (4, 1, 4, 250)
    assert np.array_equal(one["test"], mean["test"])
    meta = json.loads((tmp_path / "mean" / "sub-01" / "meta.json").read_text())
    assert meta["train_repetitions_averaged"] == 3
    # A picture that was shown three times: the mean is that of the single trials.
    about = json.loads((tmp_path / "mean" / "train_gallery.json").read_text())["candidates"]
    often = {"a1", "c1", "d2"}
    for row, candidate in enumerate(about):
        same = np.allclose(one["train"][row].mean(0), mean["train"][row, 0], atol=1e-5)
        assert same == (candidate["id"] not in often)


def test_subjects_share_the_conditions_that_all_saw(tmp_path, capsys):
    lines = shown(1, FOUR * 2) + shown(2, FOUR[:7] * 2, subject=2)
    table = small(tmp_path, lines)
    assert run(table, tmp_path / "mine", "--test-concepts", "2", "--seed", "1") == 0
    assert "1 train conditions that not all subjects saw" in (said := capsys.readouterr().out), said
    folders = [tmp_path / "mine" / f"sub-{number:02d}" for number in (1, 2)]
    assert all((folder / "meta.json").exists() for folder in folders)
    assert run(table, tmp_path / "one", "--test-concepts", "2", "--subjects", "2") == 0
    assert not (tmp_path / "one" / "sub-01").exists()
    assert run(table, tmp_path / "none", "--subjects", "7") == 2
    assert "There is no subject '7' in events.csv; it has 1, 2." in capsys.readouterr().err


def test_a_split_can_stand_in_the_table(tmp_path, capsys):
    split = {"a": "train", "b": "train", "c": "test", "d": "test"}
    lines = [f"{line},{split[line[-1]]}" for line in shown(1, FOUR * 2)]
    header = "subject,session,file,onset,picture,concept,split"
    table = small(tmp_path, lines, header=header)
    assert run(table, tmp_path / "mine") == 0
    gallery = json.loads((tmp_path / "mine" / "test_gallery.json").read_text())["candidates"]
    assert [candidate["id"] for candidate in gallery] == ["c1", "c2", "d1", "d2"]
    assert run(table, tmp_path / "other", "--test-concepts", "2") == 2
    assert "events.csv, line 2 says what tests (split)" in capsys.readouterr().err
    # One trial of a test concept among the training trials is a leak.
    lines[4] = lines[4].replace(",test", ",train")
    assert run(small(tmp_path, lines, "leak.csv", header), tmp_path / "leak") == 2
    error = capsys.readouterr().err
    assert "The concept 'c' is trained on (leak.csv, line 6) and tested (leak.csv, line" in error
    lines[2] = lines[2].removesuffix("train")
    assert run(small(tmp_path, lines, "gap.csv", header), tmp_path / "gap") == 2
    assert "gap.csv, line 4 has no split, but others have" in capsys.readouterr().err


def test_a_session_without_training_trials_is_whitened_by_the_others(tmp_path):
    lines = shown(1, ["a", "b"] * 8) + shown(2, ["a", "b"] * 8, session="b")
    lines += shown(3, ["a", "b"] * 5, session="c")
    table = small(tmp_path, lines)
    assert run(table, tmp_path / "mine", "--classify", "--test-sessions", "c") == 0
    eeg, meta = dataset_arrays(tmp_path / "mine", "01"), tmp_path / "mine" / "sub-01" / "meta.json"
    assert (eeg["train"].shape, eeg["test"].shape) == ((32, 1, 4, 250), (2, 5, 4, 250))
    assert json.loads(meta.read_text())["whitened_by_other_sessions"] == ["c"]
    # Nothing of the held-out session reaches the training trials.
    info = mne.create_info(SMALL, RATE, "eeg", verbose="error")
    volts = 1e-3 * np.random.default_rng(9).standard_normal((4, int(40 * RATE)))
    raw = mne.io.RawArray(volts, info, verbose="error")
    raw.save(tmp_path / "3_raw.fif", fmt="double", overwrite=True, verbose="error")
    assert run(table, tmp_path / "loud", "--classify", "--test-sessions", "c") == 0
    assert np.array_equal(dataset_arrays(tmp_path / "loud", "01")["train"], eeg["train"])
    assert dataset_arrays(tmp_path / "loud", "01")["test"].std() > 50 * eeg["test"].std()


def test_samples_and_seconds_say_the_same(tmp_path):
    lines = shown(1, FOUR * 2)
    assert run(small(tmp_path, lines), tmp_path / "s", "--test-concepts", "2") == 0
    cells = [line.split(",") for line in lines]
    for row in cells:
        row[3] = str(round(float(row[3]) * RATE))
    samples = [";".join(row) for row in cells]
    header = "subject;session;file;sample;picture;concept"
    table = small(tmp_path, samples, "samples.csv", header)
    assert run(table, tmp_path / "n", "--test-concepts", "2") == 0
    for side, eeg in dataset_arrays(tmp_path / "s", "01").items():
        assert np.array_equal(dataset_arrays(tmp_path / "n", "01")[side], eeg)


def test_trials_at_the_edge_or_rejected_are_left_out_and_told(tmp_path, capsys):
    lines = [*shown(1, FOUR * 3), "1,a,1_raw.fif,39.5,a1,a", "1,a,1_raw.fif,0.1,b1,b"]
    assert run(small(tmp_path, lines), tmp_path / "mine", "--test-concepts", "2") == 0
    assert (
        "Subject 1: 2 of 26 trials are rejected, marked as bad or not whole"
        in capsys.readouterr().out
    )
    # Marked as bad is what reaches into the second trial only, which was shown at 2.2 s.
    table, path = small(tmp_path, shown(1, FOUR * 3)), tmp_path / "1_raw.fif"
    raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
    raw.set_annotations(mne.Annotations([2.6, 8.0], [0.3, 0.3], ["BAD_jump", "cough"]))
    raw.save(path, fmt="double", overwrite=True, verbose="error")
    assert run(table, tmp_path / "marked", "--test-concepts", "2") == 0
    out = capsys.readouterr().out
    assert "Subject 1: 1 of 24 trials are rejected, marked as bad" in out
    assert "1 of 24 epochs were dropped: the file marks them as bad." in out
    arguments = "--test-concepts", "2", "--reject", "0.001"
    assert run(small(tmp_path, lines), tmp_path / "none", *arguments) == 2
    assert "1_raw.fif: In all" in capsys.readouterr().err


def test_cells_are_text_whatever_they_begin_with(tmp_path):
    names = ["=1+1", "@SUM(A1)", "<b>x</b>", "+4"]
    lines = [
        f'1,a,1_raw.fif,{1 + 1.2 * n},{name}/{k},"{name}"'
        for n, (name, k) in enumerate([(name, k) for name in names for k in range(2)] * 2)
    ]
    assert run(small(tmp_path, lines), tmp_path / "mine", "--test-concepts", "2") == 0
    concepts = set()
    for side in ("train", "test"):
        gallery = json.loads((tmp_path / "mine" / f"{side}_gallery.json").read_text())
        concepts |= {candidate["concept"] for candidate in gallery["candidates"]}
    assert concepts == set(names)


@pytest.mark.parametrize(
    ("header", "lines", "said"),
    [
        ("subject,file,onset", ["1,1_raw.fif,1"], "lacks the column 'picture'"),
        ("subject,file,picture", ["1,1_raw.fif,x"], "0 of the columns onset, sample and epoch"),
        ("subject,file,onset,sample,picture", ["1,1_raw.fif,1,250,x"], "2 of the columns"),
        ("subject,file,onset,picture", ["1,1_raw.fif,1,x", "1,gone.fif,2,y"],
         "line 3 names the recording gone.fif, which isn't there"),
        ("subject,file,onset,picture", ["1,1_raw.fif,soon,x"], "line 2 has 'soon' in the column"),
        ("subject,file,onset,picture", ["1,1_raw.fif,nan,x"], "line 2 has 'nan' in the column"),
        ("subject,file,onset,picture", ["1,1_raw.fif,-1,x"], "give a time in s from 0"),
        ("subject,file,sample,picture", ["1,1_raw.fif,2.5,x"], "give a whole number from 0"),
        ("subject,file,onset,picture", ["1,1_raw.fif,1,"], "nothing in the column 'picture'"),
        ("subject,file,onset,picture", ["1,1_raw.fif,1,a,b"], "line 2 has 5 cells, the header 4"),
        ("subject,file,onset,picture", [f"1,1_raw.fif,1,{'x' * 501}"], "longer than 500"),
        ("subject,file,onset,picture", ["1,1_raw.fif,1,a\x1b[2J"], "not printable"),
        ("subject,file,onset,picture", ['1,1_raw.fif,1,"a'], "that can be read (unexpected"),
        ("subject,file,onset,picture,split", ["1,1_raw.fif,1,a,tests"], "the split 'tests'"),
        ("subject,file,onset,picture,picture", ["1,1_raw.fif,1,a,b"], "a column twice"),
        ("subject,file,onset,picture", [], "lists no trial"),
        ("subject,file,onset,picture", ["1,1_raw.fif,100,a/1", "1,1_raw.fif,3,b/1",
         "1,1_raw.fif,5,c/1", "1,1_raw.fif,7,d/1"], "line 2 is at 100.000 s, after the end"),
        ("subject,file,epoch,picture", ["1,1_raw.fif,1,a/1", "1,1_raw.fif,3,b/1",
         "1,1_raw.fif,5,c/1", "1,1_raw.fif,7,d/1"], "1_raw.fif holds no epochs"),
        ("subject,file,onset,picture", ["1,1_raw.fif,1,a/1", "1,1_raw.fif,3,b/1"],
         "0 concepts would train and 2 test"),
        ("subject,file,onset,picture,concept", ["1,1_raw.fif,1,x,a", "1,1_raw.fif,3,x,b"],
         "The picture 'x' is of 'a' in events.csv, line 2 and of 'b' in events.csv, line 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said_with_its_line(tmp_path, capsys, header, lines, said):
    table = small(tmp_path, lines, header=header)
    before = sorted(tmp_path.rglob("*"))
    assert run(table, tmp_path / "mine") == 2
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1], error
    assert sorted(tmp_path.rglob("*")) == before  # no folder half written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classify"], "give --test-sessions or --test-runs"),
        (["--classify", "--test-runs", "9"], "There is no run '9' to hold out"),
        (["--classify", "--test-concepts", "2"], "--test-concepts is without it"),
        (["--classify", "--test-sessions", "a"], "is in one only"),
        (["--test-sessions", "a"], "go with --classify"),
        (["--test-concepts", "3"], "1 concepts would train and 3 test"),
        (["--only", "nothing"], "lists no trial of --only"),
        (["--task", "look"], "go with --bids"),
        (["--tmin", "0.1"], "Epochs go from --tmin"),
        (["--pictures", "no/folder"], "is missing"),
    ],
)
def test_what_is_wrong_with_the_options_is_said(tmp_path, capsys, options, said):
    assert run(small(tmp_path, shown(1, FOUR)), tmp_path / "mine", *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_unknown_pictures_and_files_that_are_no_recordings(tmp_path, capsys):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name in ["deep/a1.png", "a2.png", "b1.png", "b2.png", "c1.png", "c2.png", "d1.png"]:
        Image.new("RGB", (4, 4)).save(folder / name)
    table, to = small(tmp_path, shown(1, FOUR)), tmp_path / "mine"
    assert run(table, to, "--test-concepts", "2", "--pictures", str(folder)) == 2
    assert "events.csv, line 9 names the picture 'd2', which is not in" in capsys.readouterr().err
    Image.new("RGB", (4, 4)).save(folder / "d2.png")
    Image.new("RGB", (4, 4)).save(folder / "deep" / "b1.png")
    assert run(table, to, "--test-concepts", "2", "--pictures", str(folder)) == 2
    assert "line 4 names the picture 'b1', which is 2 times in" in capsys.readouterr().err
    with pytest.raises(InputError, match="which is not in"):
        find_pictures(folder, {"../pictures/a2.png": "The table"})
    (tmp_path / "2_raw.fif").write_bytes(b"no recording")
    assert run(small(tmp_path, shown(2, FOUR)), to, "--test-concepts", "2") == 2
    assert "2_raw.fif can't be read" in capsys.readouterr().err
    assert not to.exists()


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    table = small(tmp_path, shown(1, FOUR))
    before = sorted(tmp_path.rglob("*"))

    def stopped(epochs):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "shrunk_covariance", stopped)
    assert run(table, tmp_path / "mine", "--test-concepts", "2") == 130
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert run(small(tmp_path, shown(1, FOUR)), tmp_path / "mine") == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_bids_without_what_is_needed_is_refused(bids, tmp_path, capsys):
    to = ["--to", str(tmp_path / "mine")]
    assert prepare.main(["recordings", "--bids", str(tmp_path), *to]) == 2
    assert "is no BIDS folder" in capsys.readouterr().err
    assert prepare.main(["recordings", "--bids", str(bids), "--task", "sing", *to]) == 2
    assert "has no EEG of task 'sing'; it has look" in capsys.readouterr().err
    assert prepare.main(["recordings", "--bids", str(bids), "--picture-column", "image", *to]) == 2
    assert "has no column 'image'; it has onset" in capsys.readouterr().err


def test_a_bids_column_of_few_concepts_is_told_apart_by_session(bids, tmp_path):
    """Without pictures: the first letters of trial_type stand for a kind."""
    root = tmp_path / "bids"
    shutil.copytree(bids, root)
    for events in root.rglob("*_events.tsv"):
        text = events.read_text(encoding="utf-8").splitlines()
        kinds = ["kind"] + [
            "n/a" if "button" in line else "low" if int(line.split("thing")[1][:2]) < 20 else "high"
            for line in text[1:]
        ]
        lines = [f"{line}\t{kind}" for line, kind in zip(text, kinds, strict=True)]
        events.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["recordings", "--bids", str(root), "--to", str(tmp_path / "mine"), "--classify"]
    command += ["--picture-column", "kind", "--test-sessions", "b", "--subjects", "02"]
    assert prepare.main(command) == 0
    data = DataSet.open(tmp_path / "mine")
    eeg = data.subject(2)
    assert (eeg.train.shape[:2], eeg.test.shape[:2]) == ((80, 1), (2, 40))
    assert [c.concept for c in data.test_gallery.candidates] == ["high", "low"]


@pytest.mark.parametrize("suffix", ["edf", "set", "vhdr", "npz"])
def test_recordings_of_other_formats(tmp_path, suffix):
    """The same recording in another format: the same trials, up to how the format rounds."""
    lines = shown(1, FOUR * 2)
    table = small(tmp_path, lines)
    assert run(table, tmp_path / "fif", "--test-concepts", "2") == 0
    raw = mne.io.read_raw(tmp_path / "1_raw.fif", preload=True, verbose="error")
    if suffix == "npz":
        np.savez(tmp_path / "1_raw.npz", eeg=raw.get_data(), channels=np.array(SMALL), sfreq=RATE)
    else:
        mne.export.export_raw(tmp_path / f"1_raw.{suffix}", raw, verbose="error")
    other = small(tmp_path, [line.replace(".fif", f".{suffix}") for line in lines], "other.csv")
    assert run(other, tmp_path / "other", "--test-concepts", "2") == 0
    for side, eeg in dataset_arrays(tmp_path / "fif", "01").items():
        assert np.abs(dataset_arrays(tmp_path / "other", "01")[side] - eeg).max() < 1e-2


CELLS = st.sampled_from(
    ["1", "1_raw.fif", "a/b", "=1", "", "nan", '"', "é", "\0", "-1", "1e9", "x"]
)


@given(st.one_of(st.text(max_size=200), st.lists(st.lists(CELLS, max_size=6), max_size=5)))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_as_a_table_or_refused(tmp_path, content):
    (tmp_path / "1_raw.fif").touch()
    if isinstance(content, list):
        header = "subject,file,onset,picture,concept,split"
        content = "\n".join([header, *map(",".join, content)])
    table = tmp_path / "any.csv"
    table.write_text(content, encoding="utf-8", errors="surrogatepass")
    try:
        found = read_table(table).trials
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert found
        for trial in found:
            assert trial.subject and trial.picture and trial.concept
            assert np.isfinite(trial.at) and trial.at >= 0


@pytest.mark.parametrize(
    "wrong",
    ["--tmax=nan", "--tmax=inf", "--tmax=1e9", "--tmin=nan", "--tmin=1", "--sfreq=nan",
     "--sfreq=-3", "--sfreq=1e9", "--low=nan", "--reject=nan"],
)  # fmt: skip
def test_numbers_that_are_none(wrong, tmp_path, capsys):
    table = small(tmp_path, shown(1, FOUR * 2))
    assert run(table, tmp_path / "mine", "--test-concepts", "2", wrong) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ") and "Traceback" not in said
    assert not (tmp_path / "mine").exists()


def test_a_reference_and_electrodes_that_files_have_in_common(tmp_path, capsys):
    """Subtracting an electrode takes it out of the data; so is one that a file lacks."""
    lines = shown(1, FOUR * 2) + shown(2, FOUR, session="b")
    table = small(tmp_path, lines)
    raw = mne.io.read_raw(tmp_path / "2_raw.fif", preload=True, verbose="error")
    raw.rename_channels({"Pz": "EOG"})
    raw.save(tmp_path / "2_raw.fif", fmt="double", overwrite=True, verbose="error")
    assert run(table, tmp_path / "one", "--test-concepts", "2", "--reference", "Oz") == 0
    said = capsys.readouterr().out
    assert "63-channel cap are left out: EOG." in said
    assert "left out: Pz (Pz isn't in 2_raw.fif)." in said
    eeg = dataset_arrays(tmp_path / "one", "01")
    assert json.loads((tmp_path / "one/sub-01/meta.json").read_text())["channels"] == ["O1", "O2"]
    for session, name in (("a", "1_raw.fif"), ("b", "2_raw.fif")):
        raw = mne.io.read_raw(tmp_path / name, preload=True, verbose="error")
        raw.filter(0.1, 100, verbose="error").set_eeg_reference(["Oz"], verbose="error")
        volts = raw.get_data(["O1", "O2"])
        gallery = json.loads((tmp_path / "one/train_gallery.json").read_text())["candidates"]
        first = round((1.0 + 1.2 * FOUR.index(gallery[0]["id"])) * RATE)
        epoch = volts[:, first - 50 : first + 250]
        epoch = epoch - epoch[:, :51].mean(1, keepdims=True)
        stored = eeg["train"][0]
        # Whitened, so that it is known but for a 2 × 2 matrix.
        left = [np.linalg.lstsq(epoch[:, 50:].T, trial.T, rcond=None)[1].sum() for trial in stored]
        assert min(left) < 1e-3, session
