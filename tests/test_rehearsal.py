"""THINGS-EEG2 from its download to the page, over small fakes in the published formats.

Nothing is stood in for but the network: OSF's listings and files come from a server on this
machine, the EEG from a phantom at 1000 Hz, the image model is a small CLIP of random weights.
"""

import io
import json
import shutil
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import fake_things
import numpy as np
import pytest
from fake_hub import FakeHub
from fake_server import FakeServer, Fault
from run_readme import REHEARSED, commands

from nice_demo import download, hub, prepare, train
from nice_demo.analysis.series import stored
from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.eegset import DataSet
from nice_demo.embed import embed_pictures
from nice_demo.pictures import picture_file
from nice_demo.retrieval import binomial_p
from nice_demo.sources.things_eeg2 import images
from nice_demo.sources.things_eeg2 import prepare as things

CONCEPTS, PICTURES, TEST = 24, 5, 12
CONDITIONS = CONCEPTS * PICTURES, TEST
SETTINGS = ["--epochs", "30", "--batch", "32", "--lr", "2e-3", "--schedule", "one-cycle"]


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory) -> Path:
    """Save a CLIP of random weights that tells pictures apart."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    size = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2
    }  # fmt: skip
    config = CLIPConfig(
        text_config={**size, "vocab_size": 50},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    vision = model.vision_model
    attention = vision.encoder.layers[0].self_attn
    with torch.no_grad():  # as initialised, all pictures look much the same to it
        for layer in (vision.embeddings.patch_embedding, attention.v_proj, attention.out_proj):
            layer.weight *= 10
    model.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def published(small_clip, tmp_path_factory) -> Path:
    """Write what OSF and the Hub hold, for subjects 1 and 2."""
    root = tmp_path_factory.mktemp("published")
    pictures = root / "y63gw/osfstorage"
    pictures.mkdir(parents=True)
    drawn = fake_things.image_zips(pictures, CONCEPTS, PICTURES, TEST, cc0=8)
    for folder, name in (("jum2f/osfstorage", "CC0"), ("things", "images_THINGS.zip")):
        (root / folder).mkdir(parents=True)
        (file,) = (path for known, path in drawn.items() if name in known)
        shutil.move(file, root / folder)
    embeddings = [
        embed_pictures(shown, str(small_clip))
        for shown in images.shown_pictures(pictures, CONDITIONS)
    ]
    for folder in ("crxs4/googledrive", "anp5v/osfstorage"):
        (root / folder).mkdir(parents=True)
    for subject in (1, 2):
        fake_things.raw_subject_zip(root / "crxs4/googledrive", subject, *embeddings)
    return root


@pytest.fixture
def server(published, monkeypatch):
    """Serve it in place of OSF and the Hub."""
    monkeypatch.setattr(things, "CONDITIONS", CONDITIONS)
    with FakeServer(published) as fake:
        fake.hashes = False
        monkeypatch.setattr(download, "OSF_API", f"{fake.url}/v2")
        fake.stand_in_for_the_hub(monkeypatch)
        yield fake


def run_prepare(folder, clip, *options):
    return prepare.main(
        ["things-eeg2", "--to", str(folder), "--image-model", str(clip), *map(str, options)]
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Return the folder in which the README's commands are run."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def told(published, small_clip, workspace) -> dict[str, str]:
    """Run the README's commands about THINGS-EEG2 and the Hub; return what each printed.

    Only what makes them small is added: two subjects, few epochs, the small image model.
    """
    everything = published / "things/images_THINGS.zip"
    added = {
        "prepare": ["--subjects", "1-2", "--image-model", small_clip, "--things", everything],
        "train": ["--seeds", "1-2", *SETTINGS],
        # Of the eight, what is quick: so few trials as these need no minute of linear algebra.
        "analyse": ["--jobs", "1", "--what", "time,repetitions,confidence,truth"],
    }
    printed = {}
    with pytest.MonkeyPatch.context() as patch, FakeServer(published) as fake:
        patch.chdir(workspace)
        patch.setattr(things, "CONDITIONS", CONDITIONS)
        patch.setattr(download, "OSF_API", f"{fake.url}/v2")
        fake.hashes = False  # as of Google Drive
        fake.faults["/files/crxs4/googledrive/sub-01.zip"] = [Fault(cut=300_000)]
        fake_hub = FakeHub(workspace / "hub")
        patch.setattr(hub, "api", lambda: fake_hub)
        patch.setattr(hub, "CACHE", workspace / "cache")
        for command in commands():
            if not any(text in command for text in REHEARSED):
                continue
            assert command.startswith("python -m nice_demo.") or "app.py" in command
            words = command.removeprefix("python -m nice_demo.").split()
            out = io.StringIO()
            with redirect_stdout(out):
                if "app.py" in command:
                    bundle, notice = hub.open_bundle(words[-1], instead=workspace / "nothing")
                    out.write(f"{bundle.label} {notice}")
                else:
                    module = f"nice_demo.{words[0]}"
                    if find_spec(module).submodule_search_locations:
                        module += ".__main__"
                    main = import_module(module).main
                    assert main([*words[1:], *map(str, added.get(words[0], []))]) == 0, command
            printed[command] = out.getvalue()
        asked = [headers.get("Range") for path, headers in fake.requests if "sub-01.zip" in path]
        assert any(asked)  # the download that was cut went on where it ended
    return printed


@pytest.fixture(scope="module")
def prepared(told, workspace) -> Path:
    """Return the data folder that the README's commands made."""
    return workspace / "data/things-eeg2"


def output(told: dict[str, str], words: str) -> str:
    (text,) = (text for command, text in told.items() if words in command)
    return text


def test_prepared_data(told, prepared):
    assert "subject 2 is prepared" in output(told, "prepare things-eeg2")
    data = DataSet.open(prepared)
    assert data.subjects == [1, 2] and not data.description["simulated"]
    left = {path.suffix for path in prepared.rglob("*") if "downloads" not in path.parts}
    assert left == {"", ".json", ".safetensors", ".webp"}  # folders, and no pickle
    assert not list((prepared / "downloads/raw").iterdir())
    assert data.subject(1).train.shape == (CONDITIONS[0], 4, 63, 250)
    assert data.subject(1).test.shape == (TEST, 80, 63, 250)


def test_decoders_beat_chance(told, workspace):
    evaluated = output(told, "evaluate")
    assert "These figures equal those in the manifest" in evaluated
    assert "concept centre" in evaluated and "stimulus" in evaluated and "seed 2" in evaluated
    bundle = Bundle(workspace / "weights/things-eeg2")
    assert not bundle.simulated
    for encoder in ("nice", "ridge"):
        for protocol in ("stimulus", "concept centre"):
            tops = [bundle.metrics(s, encoder, 80, protocol).top1 for s in bundle.subjects]
            hits = sum(top.successes for top in tops)
            assert binomial_p(hits, 2 * TEST, 1 / TEST) < 1e-3, (encoder, protocol, hits)


def test_analyses(told, workspace):
    said = output(told, "analyse")
    assert "truth: Nobody knows the true sources" in said  # and the others go on
    assert "simulated" not in said
    assert "time, repetitions, confidence: stored in" in said
    bundle = Bundle(workspace / "weights/things-eeg2")
    grown = stored(bundle, "time").of("growing windows", "ridge", "retrained")[0]
    assert grown.subjects == ["1", "2"]
    whole = grown.accuracy(1)
    assert whole.value[-1] > whole.threshold > whole.chance
    repetitions = stored(bundle, "repetitions").of("test repetitions", "nice")[0]
    for subject in bundle.subjects:  # the same as was measured when the bundle was made
        measured = bundle.metrics(subject, "nice", 80).top1.value
        assert repetitions.accuracy(1, subject).value[-1] == measured


def test_report(told, workspace):
    assert "card.md is written" in output(told, "report")
    card = (workspace / "card.md").read_text()
    assert "Published" in card and "Simulated" not in card
    assert "random" not in card and "raw: the data set's own recordings" in card


def test_page_over_what_was_pushed_and_pulled(told, workspace):
    # The page's decoder: the seen picture is retrieved, and CC0 pictures stand in for it.
    assert "owner/name@" in output(told, "app.py") and "couldn't" not in output(told, "app.py")
    (pulled,) = (workspace / "cache").glob("*/*/manifest.json")
    bundle = Bundle(pulled.parent)
    decoder = BundleDecoder(bundle)
    decoded = [decoder.decode("1", "nice", c.id, 80) for c in bundle.gallery.candidates]
    assert [d.rank for d in decoded].count(1) == bundle.metrics("1", "nice", 80).top1.successes
    shown = [picture_file(c, bundle.folder) for c in bundle.gallery.candidates]
    assert sum(picture is not None for picture in shown) == 8
    assert decoder.to_json(decoded[0])["simulated"] is False
    assert stored(bundle, "time").about["simulated"] is False  # Evidence went along


def test_leave_one_subject_out(prepared, tmp_path, capsys):
    out = tmp_path / "left-out"
    arguments = ["--data", str(prepared), "--out", str(out), "--leave-one-subject-out", *SETTINGS]
    assert train.main([*arguments, "--epochs", "2"]) == 0
    assert Bundle(out).trained_on == "the other subjects"


def test_what_is_there_is_kept(prepared, server, small_clip, capsys):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()}
    assert run_prepare(prepared, small_clip, "--subjects", "1-2") == 0
    assert "subject 1 is there already" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in prepared.rglob("*") if p.is_file()}
    assert not server.requests


@pytest.mark.parametrize("origin", ["nice", "hf", "osf17"])
def test_other_origins(origin, prepared, published, server, small_clip, tmp_path):
    # What others would have made of the same recordings.
    eeg = DataSet.open(prepared).subject(1)
    whitened = [np.asarray(part, np.float32) for part in (eeg.train, eeg.test)]
    if origin == "osf17":
        fake_things.osf17_zip(
            published / "anp5v/osfstorage", 1, *(part[:, :, -17:, :100] for part in whitened)
        )
    else:
        source = things.ORIGINS[origin]
        files = [source.where.partition(":")[2] + "/" + name.format(1) for name in source.files]
        (published / files[0]).parent.mkdir(parents=True, exist_ok=True)
        write = {"nice": fake_things.nice_files, "hf": fake_things.hf_files}[origin]
        write((published / files[0]).parent, *whitened)
    folder = tmp_path / "data"
    # A run that was killed while it converted the subject left these.
    killed = folder / "sub-01/.train.safetensors.123.part", folder / "sub-01/.abc.part/one.npy"
    for left in killed:
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()
    options = ["--from", origin, "--subjects", "1", "--accept-licence", "--centres", "none"]
    assert run_prepare(folder, small_clip, *options) == 0
    made = DataSet.open(folder).subject(1)
    assert made.train.shape[1] == 4 and made.test.shape[1] == 80
    wanted = [part[:, :, -17:, :100] if origin == "osf17" else part for part in whitened]
    for ours, theirs in zip((made.train, made.test), wanted, strict=True):
        # Repetitions of one origin come in another order.
        np.testing.assert_allclose(ours.mean(1, np.float32), theirs.mean(1), atol=2e-3)
    assert json.loads((folder / "sub-01/meta.json").read_text())["whitening"]
    assert not list((folder / "downloads").rglob("sub-01*.zip"))
    assert not list((folder / "downloads").rglob("*.pt"))
    assert {path.suffix for path in (folder / "sub-01").iterdir()} == {".json", ".safetensors"}


def test_files_placed_by_hand(prepared, published, server, small_clip, tmp_path, capsys):
    """They are used and kept, and nothing is downloaded; pictures may be unpacked."""
    by_hand, folder = tmp_path / "by hand", tmp_path / "data"
    by_hand.mkdir()
    for source in ("y63gw/osfstorage/image_metadata.npy", f"jum2f/osfstorage/{things.CC0}"):
        shutil.copy(published / source, by_hand)
    for name in ("training_images", "test_images"):
        shutil.unpack_archive(published / f"y63gw/osfstorage/{name}.zip", by_hand)
    eeg = DataSet.open(prepared).subject(1)
    place = by_hand / "hf" / Path(things.ORIGINS["hf"].files[0].format(1)).parent
    place.mkdir(parents=True)
    files = fake_things.hf_files(place, eeg.train, eeg.test)
    options = ["--from", "hf", "--subjects", "1", "--downloads", by_hand, "--accept-licence"]
    assert run_prepare(folder, small_clip, *options) == 0
    assert "is kept" in capsys.readouterr().out
    assert all(file.exists() for file in files) and not server.requests
    assert not (folder / "downloads").exists()


def test_unpacked_recordings_are_found(tmp_path):
    (tmp_path / "raw/sub-01").mkdir(parents=True)
    assert things._files("raw", 1, tmp_path) == [tmp_path / "raw/sub-01"]
    (tmp_path / "raw/sub-01.zip").touch()
    assert things._files("raw", 1, tmp_path) == [tmp_path / "raw/sub-01.zip"]


# ---------------------------------------------------------------- what can go wrong


def refused(capsys, folder, clip, *options):
    assert run_prepare(folder, clip, *options) == 2
    return capsys.readouterr().err


def test_terms_have_to_be_accepted(server, small_clip, tmp_path, capsys):
    said = refused(capsys, tmp_path / "data", small_clip, "--subjects", "1")
    assert "--accept-licence" in said and not server.requests


def test_unknown_subject(server, small_clip, tmp_path, capsys):
    assert "no subject 11" in refused(capsys, tmp_path, small_clip, "--subjects", "11")


def test_unknown_image_model(server, tmp_path, capsys, monkeypatch):
    said = refused(capsys, tmp_path / "data", tmp_path / "nothing", "--accept-licence")
    assert "image model" in said
    assert not [path for path, _ in server.requests if "y63gw" in path]


def test_no_network(server, small_clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(download, "OSF_API", "http://127.0.0.1:9")
    monkeypatch.setattr(things.download.osf_files, "__kwdefaults__", {
        **download.osf_files.__kwdefaults__, "wait": lambda seconds: None
    })  # fmt: skip
    said = refused(capsys, tmp_path / "data", small_clip, "--accept-licence")
    assert "check the network" in said
    assert not (tmp_path / "data/dataset.json").exists()


def test_no_room(server, small_clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 9, 0))
    said = refused(capsys, tmp_path / "data", small_clip, "--accept-licence")
    assert "0.00 GB free" in said


def test_subject_that_is_not_published(server, prepared, small_clip, capsys):
    said = refused(capsys, prepared, small_clip, "--subjects", "3")
    assert "has no sub-03.zip" in said and not (prepared / "sub-03").exists()


def test_room_is_asked_for_where_it_is_needed(server, small_clip, tmp_path, monkeypatch):
    """Of the listing's size on the downloads' disk; of all results on the data folder's."""
    asked = []
    monkeypatch.setattr(download, "require_space", asked.append)
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("nothing is to be fetched"))
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    monkeypatch.setattr(things, "prepare_pictures", lambda *_, **__: {"name": str(small_clip)})
    options = ["--subjects", "1-2", "--downloads", elsewhere, "--jobs", "2", "--memory", "8"]
    with pytest.raises(pytest.fail.Exception):
        run_prepare(folder, small_clip, *options, "--accept-licence")
    results = 2 * 63 * 250 * 2 * (CONDITIONS[0] * 4 + TEST * 80)  # two subjects in half precision
    size = (server.root / "crxs4/googledrive/sub-01.zip").stat().st_size
    # Of two sessions at once the unpacked recordings, and a subject's sessions before they merge.
    working = 2 * 4_000_000_000 + results // 2
    assert asked == [{elsewhere / "raw": size, folder: results + working}]


def test_folder_that_cannot_be_written(small_clip, tmp_path, capsys):
    (tmp_path / "file").touch()
    said = refused(capsys, tmp_path / "file/data", small_clip, "--accept-licence")
    assert "can't be read or written (Not a directory)" in said


def test_pictures_that_are_there_are_not_changed(server, prepared, small_clip, tmp_path, capsys):
    assert "not by 'another'" in refused(capsys, prepared, "another")
    shutil.copy(prepared / "dataset.json", tmp_path)
    said = refused(capsys, tmp_path, small_clip, "--things", tmp_path)
    assert "without concept centres" in said


@pytest.mark.parametrize(
    "options", [["--from", "hf"], ["--whiten", "both"]], ids=["origin", "whitening"]
)
def test_one_folder_one_preparation(options, server, prepared, small_clip, capsys):
    assert "give another --to" in refused(capsys, prepared, small_clip, *options)


def test_whitened_already(server, small_clip, tmp_path, capsys):
    options = ["--from", "nice", "--whiten", "none"]
    assert "whitened already" in refused(capsys, tmp_path, small_clip, *options)
