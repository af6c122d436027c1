"""`python -m nice_demo.prepare published-latents`: fetched, checked, read safely, made a bundle."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_server import FakeServer, Fault
from safetensors.numpy import load_file, save_file

import app
from nice_demo import evaluate, prepare
from nice_demo.bundle import (
    LATENTS_SCHEMA,
    Bundle,
    LatentsBundle,
    open_bundle_folder,
    write_manifest,
)
from nice_demo.bundle.__main__ import main as bundle_main
from nice_demo.decode import BundleDecoder, LatentsDecoder, open_decoder
from nice_demo.errors import InputError
from nice_demo.sources import published_latents as published

PLAIN = {"Content-Type": "text/plain; charset=utf-8"}
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:a8d62275e290128cab825095dce7916147410b66b8bbdca3b40539c62b38994e\nsize 820080\n"
)


@pytest.fixture(scope="module")
def original(shared_data):
    return shared_data / "things_eeg2" / "original"


@pytest.fixture(scope="module")
def made(original, shared_data, tmp_path_factory):
    """Return the bundle with names, made from the files as they lie there."""
    to = tmp_path_factory.mktemp("weights") / "published-latents"
    names = shared_data / "things_eeg2" / "test_images.txt"
    argv = ["published-latents", "--from", str(original), "--to", str(to), "--names", str(names)]
    assert prepare.main(argv) == 0
    return to


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Stand for the published files with small ones of our own: no real data needed."""
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.normal(size=(12, 6)).astype(np.float32))
    source = tmp_path / "source"
    source.mkdir()
    torch.save(pictures + 0.1, source / published.LATENTS_FILE)
    torch.save({"img_features": pictures}, source / published.PICTURES_FILE)
    monkeypatch.setattr(published, "SHAPE", (12, 6))
    list_as_published(monkeypatch, source)
    return source


def list_as_published(monkeypatch, source):
    files = {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name in published.PUBLISHED
        for content in [(source / name).read_bytes()]
    }
    monkeypatch.setattr(published, "PUBLISHED", files)


@pytest.fixture
def server(made_up, monkeypatch):
    """Serve the made-up files where the real ones would be."""
    with FakeServer(made_up) as server:
        monkeypatch.setattr(published, "RAW", f"{server.url}/files")
        monkeypatch.setattr(published, "MEDIA", f"{server.url}/download")
        yield server


def prepared(tmp_path, *flags):
    to, kept = tmp_path / "out", tmp_path / "kept"
    argv = ["published-latents", "--to", str(to), "--downloads", str(kept), *map(str, flags)]
    return prepare.main(argv), to


# ---------------------------------------------------------------- the real files


def test_figures_are_those_that_must_come_out(made):
    bundle = LatentsBundle(made)
    found = bundle.metrics("8", "ATM-S", None)
    assert (found.top1.successes, found.top5.successes, found.trials) == (72, 145, 200)
    assert found.median_rank.value == 3
    assert found.top1.low == pytest.approx(0.2967, abs=1e-4)
    assert found.top1.high == pytest.approx(0.4286, abs=1e-4)
    assert found.protocol == "stimulus" and found.repetitions is None


def test_arrays_are_those_of_torch_and_of_the_copies(made, original, shared_data):
    bundle, data = LatentsBundle(made), shared_data / "things_eeg2"
    latents = bundle.latents("8", "ATM-S")
    safe = {"weights_only": True, "map_location": "cpu"}
    told = torch.load(original / published.LATENTS_FILE, **safe).numpy()
    np.testing.assert_array_equal(latents, told)
    np.testing.assert_array_equal(latents, np.load(data / "atm_s_sub08_test_latents.npy"))
    features = torch.load(original / published.PICTURES_FILE, **safe)["img_features"].numpy()
    np.testing.assert_allclose(bundle.gallery.embeddings, features, atol=1e-6)
    names = (data / "test_images.txt").read_text().split()
    assert [candidate.id for candidate in bundle.gallery.candidates] == names
    assert bundle.gallery.candidates[0].name == "aircraft carrier"


def test_it_is_marked_published_and_not_ours(made, capsys):
    manifest = LatentsBundle(made).manifest
    assert manifest["published"] is True and manifest["simulated"] is False
    assert manifest["source"] == "published latents of ATM-S, subject 8, real EEG, not ours"
    assert manifest["origin"]["commit"] == published.COMMIT
    assert any("MIT" in licence for licence in manifest["licences"])
    assert bundle_main(["info", str(made)]) == 0
    assert "published latents of ATM-S, subject 8, real EEG, not ours" in capsys.readouterr().out
    assert bundle_main(["verify", str(made)]) == 0
    assert "3 files, 200 candidates, latents of 1 decoder: all well" in capsys.readouterr().out
    decoder = open_decoder(open_bundle_folder(made))
    assert "published" in decoder.provenance
    told = decoder.to_json(decoder.decode("8", "ATM-S", "aircraft_carrier_06s", 1))
    assert told["provenance"] == manifest["source"] and told["rank"] == 2


def test_evaluate_opens_it(made, capsys):
    assert evaluate.main([str(made)]) == 0
    text = capsys.readouterr().out
    assert "published latents of ATM-S, subject 8, real EEG, not ours" in text
    assert "36.0 %  29.7 to 42.9 %   0.5 %" in text
    assert "72.5 %  65.9 to 78.2 %   2.5 %" in text
    assert "These figures equal those in the manifest." in text
    assert evaluate.main([str(made), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equals_manifest"] is True and told["compared"] == []
    assert told["subjects"]["8"]["ATM-S"]["top1"]["successes"] == 72


def test_names_out_of_the_data_sets_own_list(original, tmp_path, shared_data):
    names = (shared_data / "things_eeg2" / "test_images.txt").read_text().split()
    metadata = {"test_img_files": [f"{name}.jpg" for name in names]}
    np.save(tmp_path / "image_metadata.npy", np.array(metadata, dtype=object), allow_pickle=True)
    code, to = prepared(tmp_path, "--from", original, "--names", tmp_path / "image_metadata.npy")
    assert code == 0
    assert [one.id for one in LatentsBundle(to).gallery.candidates] == names


def test_an_untouched_copy_is_asked_for(original, tmp_path, capsys):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(original, spoilt)
    for file in spoilt.iterdir():
        file.chmod(0o644)
    path = spoilt / published.LATENTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, to = prepared(tmp_path, "--from", spoilt)
    assert code == 2 and not to.exists()
    assert "isn't the published file (its size or SHA-256 differs)" in capsys.readouterr().err


# ---------------------------------------------------------------- downloads


def test_downloads_once(server, tmp_path, capsys):
    code, to = prepared(tmp_path)
    assert code == 0
    assert f"{to} is ready: python app.py --beside {to}" in capsys.readouterr().out
    assert LatentsBundle(to).gallery.candidates[3].name == "test picture 4"
    asked = [path for path, _ in server.requests]
    assert sorted(asked) == sorted(f"/files/{name}" for name in published.PUBLISHED)
    assert prepared(tmp_path)[0] == 0  # the bundle is replaced, nothing is fetched again
    assert len(server.requests) == 2


def test_goes_on_after_an_interruption(server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fetch = published.fetch
    monkeypatch.setattr(
        published, "fetch", lambda *args, **more: fetch(*args, wait=lambda s: None, **more)
    )
    server.faults[f"/files/{published.LATENTS_FILE}"] = [Fault(cut=100), Fault(status=503)]
    assert prepared(tmp_path)[0] == 0
    asked = [headers.get("Range") for path, headers in server.requests if "ATM" in path]
    assert asked == [None, "bytes=100-", "bytes=100-"]


def test_a_pointer_is_followed(server, tmp_path):
    server.faults[f"/files/{published.LATENTS_FILE}"] = [Fault(body=POINTER, headers=PLAIN)]
    assert prepared(tmp_path)[0] == 0
    asked = [path for path, _ in server.requests if "ATM" in path]
    assert asked[:2] == [f"/{kind}/{published.LATENTS_FILE}" for kind in ("files", "download")]


def test_a_pointer_everywhere_is_said(server, tmp_path, capsys):
    for kind in ("files", "download"):
        server.faults[f"/{kind}/{published.LATENTS_FILE}"] = [Fault(body=POINTER, headers=PLAIN)]
    assert prepared(tmp_path)[0] == 2
    assert "sent a Git LFS pointer instead of ATM_S" in capsys.readouterr().err


def test_another_file_than_the_published_one(server, tmp_path, capsys):
    server.faults[f"/files/{published.LATENTS_FILE}"] = [Fault(wrong=True), Fault(wrong=True)]
    code, to = prepared(tmp_path)
    assert code == 2 and not to.exists()
    assert "has another sha256 than the published one" in capsys.readouterr().err


def test_not_public_any_more(server, tmp_path, capsys):
    server.faults[f"/files/{published.LATENTS_FILE}"] = [Fault(status=404)]
    assert prepared(tmp_path)[0] == 2
    assert "answers 404" in capsys.readouterr().err


# ---------------------------------------------------------------- hostile and wrong files


class Harm:
    def __reduce__(self):
        return print, ("harm done",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_no_pickle_runs(made_up, tmp_path, monkeypatch, capsys, how):
    """Even a file with the right hash can do nothing but hold arrays."""
    path = made_up / published.LATENTS_FILE
    if how == "torch":
        torch.save({"latents": Harm()}, path)
    else:
        path.write_bytes(pickle.dumps(Harm()))
    list_as_published(monkeypatch, made_up)
    assert prepared(tmp_path, "--from", made_up)[0] == 2
    out, err = capsys.readouterr()
    assert "harm done" not in out
    assert "print" in err and "could do harm" in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(12, 5), "no float32 array of shape (12, 6)"),
        (torch.zeros(12, 6, dtype=torch.float64), "no float32 array of shape (12, 6)"),
        (torch.full((12, 6), torch.nan), "NaN or infinity"),
        ({"text_features": torch.zeros(12, 6)}, "no float32 array"),
    ],
)
def test_wrong_contents(made_up, tmp_path, monkeypatch, capsys, content, words):
    torch.save(content, made_up / published.LATENTS_FILE)
    list_as_published(monkeypatch, made_up)
    assert prepared(tmp_path, "--from", made_up)[0] == 2
    assert words in capsys.readouterr().err


def test_features_without_pictures(made_up, tmp_path, monkeypatch, capsys):
    torch.save({"text_features": torch.zeros(12, 6)}, made_up / published.PICTURES_FILE)
    list_as_published(monkeypatch, made_up)
    assert prepared(tmp_path, "--from", made_up)[0] == 2
    assert "lacks img_features" in capsys.readouterr().err


def test_wrong_names(made_up, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("one\ntwo")
    code, _ = prepared(tmp_path, "--from", made_up, "--names", tmp_path / "names.txt")
    assert code == 2
    assert "names 2 test pictures, not 12" in capsys.readouterr().err


def test_a_missing_file(made_up, tmp_path, capsys):
    (made_up / published.PICTURES_FILE).unlink()
    assert prepared(tmp_path, "--from", made_up)[0] == 2
    assert f"lacks {published.PICTURES_FILE}" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["something else", "a bundle of encoders"])
def test_nothing_else_is_replaced(made_up, tmp_path, capsys, what, request):
    to = tmp_path / "out"
    if what == "something else":
        to.mkdir()
        (to / "thesis.tex").write_text("years of work")
    else:
        shutil.copytree(request.getfixturevalue("stored_bundle"), to)
    before = sorted(to.rglob("*"))
    assert prepared(tmp_path, "--from", made_up)[0] == 2
    assert "is no bundle of latents" in capsys.readouterr().err
    assert sorted(to.rglob("*")) == before


# ---------------------------------------------------------------- the bundle of latents


@pytest.fixture
def small(made_up, tmp_path):
    code, to = prepared(tmp_path, "--from", made_up)
    assert code == 0
    return to


def edit(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_old_readers_refuse_it_with_a_sentence(small):
    """They know schema 1 only, and look at that first."""
    assert json.loads((small / "manifest.json").read_text())["schema"] == LATENTS_SCHEMA == 2


def test_each_kind_opens_as_what_it_is(small, stored_bundle):
    assert isinstance(open_bundle_folder(small), LatentsBundle)
    assert isinstance(open_decoder(open_bundle_folder(small)), LatentsDecoder)
    assert isinstance(open_decoder(open_bundle_folder(stored_bundle)), BundleDecoder)
    with pytest.raises(InputError, match="is a bundle of latents, without EEG and encoders"):
        Bundle(small)
    with pytest.raises(InputError, match="is a bundle of encoders, not of latents"):
        LatentsBundle(stored_bundle)
    with pytest.raises(InputError, match="no bundle at nowhere.*prepare published-latents"):
        LatentsBundle("nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(schema=3), "reads up to 2; update"),
        (lambda content: content.pop("licences"), "lacks licences"),
        (lambda content: content["encoders"].clear(), "is damaged"),
        (lambda content: content["encoders"]["8"].clear(), "has no latents"),
        (lambda content: content["encoders"]["8"]["ATM-S"].update(file="../x"), "outside"),
        (lambda content: content.update(subjects=[]), "names no subject"),
        (lambda content: content["metrics"][0].update(metrics={}), "aren't metrics"),
    ],
)
def test_damaged_manifests(small, change, words):
    edit(small, change)
    with pytest.raises(InputError, match=words):
        LatentsBundle(small)


def test_tampered_latents(small):
    path = next((small / "latents").iterdir())
    save_file({"latents": load_file(path)["latents"] + 1}, path)
    with pytest.raises(InputError, match="SHA-256 differs"):
        LatentsBundle(small)


@pytest.mark.parametrize(
    "content", [{"latents": np.zeros((3, 6), np.float32)}, {"other": np.zeros((12, 6), np.float32)}]
)
def test_latents_that_do_not_fit(small, content):
    path = next((small / "latents").iterdir())
    save_file(content, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = path.relative_to(small).as_posix()
    edit(small, lambda manifest: manifest["files"][name].update(sha256=digest))
    bundle = LatentsBundle(small)
    with pytest.raises(InputError, match="make"):
        bundle.latents("8", "ATM-S")
    for who, words in ((("9", "ATM-S"), "no subject"), (("8", "nice"), "no encoder")):
        with pytest.raises(InputError, match=words):
            bundle.latents(*who)


def test_several_decoders_are_compared(small, capsys):
    path = next((small / "latents").iterdir())
    worse = load_file(path)["latents"][::-1].copy()
    save_file({"latents": worse}, small / "latents" / "worse.safetensors")
    content = json.loads((small / "manifest.json").read_text())
    content["encoders"]["8"]["worse"] = {"file": "latents/worse.safetensors"}
    (small / "manifest.json").unlink()
    write_manifest(small, content)
    assert evaluate.main([str(small)]) == 0
    text = capsys.readouterr().out
    assert "On the same 12 trials, ATM-S puts the picture seen first in 100.0 % and worse" in text
    assert "The manifest has other figures." in text  # it lacks those of the second
    assert evaluate.main([str(small), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    assert [(one["first"], one["second"]) for one in compared] == [("ATM-S", "worse")]
    assert evaluate.main([str(small), "--subjects", "9"]) == 2


# ---------------------------------------------------------------- the page over it


@pytest.fixture
def opened(monkeypatch):
    """Call `app.main` without serving: returns what it would have shown."""
    seen = {}

    class Served(Exception):
        pass

    def build(decoder, name, notice, beside):
        seen.update(decoder=decoder, name=name, beside=beside)
        raise Served

    monkeypatch.setattr(app, "page", build)

    def start(*flags):
        with pytest.raises(Served):
            app.main(list(flags))
        return seen

    return start


def test_the_page_opens_it_by_flag_or_environment(small, opened, monkeypatch):
    assert isinstance(opened("--bundle", str(small))["decoder"], LatentsDecoder)
    monkeypatch.setenv("NICE_BUNDLE", str(small))
    seen = opened()
    assert seen["name"] == "published latents of ATM-S"
    assert seen["decoder"].encoders("8") == ["ATM-S"]


@pytest.mark.parametrize("between", [",", ", ", ":"])
def test_the_page_offers_it_beside(small, stored_bundle, opened, monkeypatch, between):
    main = ["--bundle", str(stored_bundle)]
    flags = ["--beside", str(small), "--beside", str(small)]
    assert [one.folder for one in opened(*main, *flags)["beside"]] == [small, small]
    monkeypatch.setenv("NICE_BESIDE", f"{small}{between}{small}")
    assert [one.folder for one in opened(*main)["beside"]] == [small, small]
    monkeypatch.setenv("NICE_BESIDE", "")
    assert opened(*main)["beside"] == []


def test_absent_ones_are_said(stored_bundle, capsys):
    main = ["--bundle", str(stored_bundle)]
    assert app.main([*main, "--beside", "nowhere"]) == 2
    assert "There is no bundle at nowhere" in capsys.readouterr().err
    assert app.main([*main, "--beside", str(stored_bundle)]) == 2
    assert "not of latents" in capsys.readouterr().err


def test_a_folder_that_is_none(tmp_path, capsys):
    assert prepared(tmp_path, "--from", "nowhere")[0] == 2
    err = capsys.readouterr().err
    assert err.startswith("error: nowhere lacks ATM_S_eeg_features_sub-08_test.pt")
    assert err.count("\n") == 1
