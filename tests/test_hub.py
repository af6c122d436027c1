"""Bundles on the Hub, with a folder in its place: there and back, and everything that's wrong."""

import hashlib
import json
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from fake_hub import FakeHub
from huggingface_hub import HfApi, constants
from PIL import Image
from sentences import refuses

import app
from nice_demo import hub
from nice_demo.bundle import Bundle, write_manifest
from nice_demo.bundle.__main__ import main as bundle_main
from nice_demo.gallery import Gallery
from nice_demo.pictures import SAME_CONCEPT, may_be_published, shows_concept_only

REPO = "somebody/stored"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "api", lambda: fake)
    monkeypatch.setattr(hub, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("NICE_BUNDLE", raising=False)
    return fake


@pytest.fixture
def folder(stored_bundle, tmp_path):
    return Path(shutil.copytree(stored_bundle, tmp_path / "bundle"))


@pytest.fixture
def pushed(fake, stored_bundle):
    """Return the fake Hub with a bundle in it."""
    hub.push(stored_bundle, REPO)
    return fake


def relist(folder):
    """List the files as they now are."""
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, manifest | {"files": None})


def with_pictures(folder, licence, picture="pictures/{}.jpg", simulated=True):
    """Give every candidate but the last a picture."""
    gallery = Gallery.open(folder / "gallery")
    (folder / "pictures").mkdir()
    candidates = list(gallery.candidates)
    for row, candidate in enumerate(candidates[:-1]):
        name = picture.format(candidate.concept)
        Image.new("RGB", (40, 30), (40 * row, 120, 90)).save(folder / name)
        candidates[row] = replace(candidate, picture=name, licence=licence)
    replace(gallery, candidates=candidates).save(folder / "gallery")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"simulated": simulated}))
    relist(folder)
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(capsys, *arguments, main=bundle_main):
    """Run a command that must fail; return its one sentence."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith("error: ") and err.endswith(".\n")
    return err


# ---------------------------------------------------------------- there and back


def test_there_and_back(fake, stored_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = contents(stored_bundle)
    assert bundle_main(["push", str(stored_bundle), REPO, "--private"]) == 0
    commit = fake.branches[REPO]["main"]
    assert f"hf:{REPO}@{commit}" in capsys.readouterr().out
    assert fake.private[REPO]
    assert contents(stored_bundle) == before
    assert contents(fake.commit(REPO)).keys() == before.keys() | {"README.md", ".gitattributes"}

    assert bundle_main(["pull", REPO]) == 0
    assert commit in capsys.readouterr().out
    back = contents(tmp_path / "weights" / "stored")
    origin = {"repo": REPO, "revision": "main", "commit": commit}
    assert json.loads(back.pop("manifest.json")) == Bundle(stored_bundle).manifest | {"hub": origin}
    del before["manifest.json"]
    assert back == before
    assert not any(path.is_symlink() for path in (tmp_path / "weights").rglob("*"))
    assert Bundle(tmp_path / "weights/stored").label == f"stored ({REPO}@{commit[:10]})"
    assert bundle_main(["verify", "weights/stored"]) == 0


def test_revisions_and_a_second_push(fake, folder, tmp_path):
    first = hub.push(folder, REPO)
    (folder / "truth" / "extra.json").write_text("{}")
    relist(folder)
    second = hub.push(folder, REPO, revision="tried/out")
    assert hub.pull(REPO, "main", tmp_path / "a") == first
    assert hub.pull(REPO, "tried/out", tmp_path / "b") == second
    assert hub.pull(REPO, second, tmp_path / "a") == second
    assert (tmp_path / "a/truth/extra.json").is_file()  # a bundle that is there is replaced


def test_model_card(fake, stored_bundle):
    hub.push(stored_bundle, REPO)
    _, front, text = (fake.commit(REPO) / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "nice_demo" and "simulated" in front["tags"]
    assert front["license"] == "other" and "base_model" not in front
    opened = Bundle(stored_bundle)
    found = opened.metrics("2", "ridge", 4)
    top1, top5 = (
        f"{100 * p.value:.1f} % ({100 * p.low:.1f}–{100 * p.high:.1f})"
        for p in (found.top1, found.top5)
    )
    for said in (
        f"python app.py --bundle hf:{REPO}@main",
        "**simulated** EEG of phantom subjects",
        "source: random numbers (**simulated**)",
        "image model: random features, revision r1",
        "Protocol *stimulus* (candidates are the embeddings of the very pictures shown): 6 trials, "
        "each the average of 4 repetitions, among 6 candidates",
        "Chance: 17 % first, 83 % among the first five",
        "Wilson 95 % intervals",
        f"| 2 | ridge | {top1} | {top5} |",
        "- sfreq: 100.0",
        "recordings of the same subject",
    ):
        assert said in text, said


def test_model_card_of_real_data(folder):
    with_pictures(folder, f"{SAME_CONCEPT} (THINGSplus)", simulated=False)
    opened = Bundle(folder)
    opened.manifest["image_model"] = {"name": "openai/clip-vit-large-patch14", "revision": "32bd"}
    opened.manifest["datasets"] = ["a/b"]
    card = hub.model_card(opened, REPO, "v1")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "openai/clip-vit-large-patch14" and front["datasets"] == ["a/b"]
    assert "simulated" not in card.lower()
    assert "the EEG of people" in card and f"hf:{REPO}@v1" in card
    assert f"- Pictures: {SAME_CONCEPT} (THINGSplus)" in card


# ---------------------------------------------------------------- what isn't pushed


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        (SAME_CONCEPT, True),
        ("CC0 1.0", True),
        ("CC-BY 4.0", True),
        ("CC BY-SA 4.0", True),
        ("Public domain", True),
        ("CC BY-NC 4.0", False),
        ("CC BY-NC-SA 4.0", False),
        ("CC-BY-ND 4.0", False),
        ("THINGS: for research only", False),
        ("not CC0", False),
        ("", False),
    ],
)
def test_which_licences_let_a_picture_be_published(licence, allowed):
    assert may_be_published(licence) is allowed


def test_pictures_go_up_and_come_down_if_their_licence_allows(fake, folder, tmp_path):
    with_pictures(folder, SAME_CONCEPT)
    hub.push(folder, REPO)
    hub.pull(REPO, "main", tmp_path / "back")
    gallery = Bundle(tmp_path / "back").gallery
    assert (tmp_path / "back" / gallery.candidates[0].picture).is_file()
    assert all(map(shows_concept_only, gallery.candidates[:-1]))


def test_a_picture_may_have_any_name(fake, folder, tmp_path):
    with_pictures(folder, "CC0", "pictures/{} [1].JPG")
    hub.push(folder, REPO)
    hub.pull(REPO, "main", tmp_path / "back")
    assert len(list((tmp_path / "back" / "pictures").glob("*.JPG"))) == 5


def _forbidden(folder):
    with_pictures(folder, "THINGS: for research only")


def _one_of_two_forbids(folder):
    with_pictures(folder, "CC0", "pictures/same.jpg")
    gallery = Gallery.open(folder / "gallery")
    gallery.candidates[1] = replace(gallery.candidates[1], licence="THINGS: for research only")
    gallery.save(folder / "gallery")
    relist(folder)


def _unnamed(folder):
    Image.new("RGB", (9, 9)).save(folder / "other.png")
    relist(folder)


def _no_picture(folder):
    with_pictures(folder, "CC0")
    next((folder / "pictures").iterdir()).write_bytes(b"\x80\x04K\x01.")
    relist(folder)


def _pickle(folder):
    (folder / "weights.pkl").write_bytes(b"\x80\x04K\x01.")
    relist(folder)


def _disguised(folder):
    (folder / "odd.safetensors").write_bytes(b"\x80\x04K\x01." * 9)
    relist(folder)


def _tampered(folder):
    (folder / "gallery.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_forbidden, "may not be published (licence: THINGS: for research only)"),
        (_one_of_two_forbids, "THINGS: for research only"),
        (_unnamed, "other.png"),
        (_no_picture, "isn't what its name says"),
        (_pickle, "weights.pkl, which is neither safetensors, JSON nor a picture"),
        (_disguised, "isn't what its name says"),
        (_tampered, "SHA-256"),
    ],
)
def test_what_may_not_be_pushed(fake, folder, capsys, spoil, words):
    spoil(folder)
    assert words in run(capsys, "push", folder, REPO)
    assert not fake.asked  # the Hub didn't hear of it


def test_push_spares_what_is_something_else(fake, stored_bundle, capsys):
    fake.create_repo(REPO, private=False, exist_ok=True)
    (fake.commit(REPO) / "model.safetensors").write_bytes(b"precious")
    assert "something else" in run(capsys, "push", stored_bundle, REPO)
    (fake.commit(REPO) / "model.safetensors").unlink()
    assert "is public" in run(capsys, "push", stored_bundle, REPO, "--private")
    assert fake.branches[REPO]["main"] == "0" * 40


@pytest.mark.parametrize("status", [401, 403, 500])
def test_push_refused(fake, stored_bundle, capsys, status):
    fake.broken = status
    assert f"HTTP {status}" in run(capsys, "push", stored_bundle, REPO)


def test_push_of_nothing_or_to_nowhere(fake, stored_bundle, tmp_path, capsys):
    assert "no bundle at" in run(capsys, "push", tmp_path / "nothing", REPO)
    assert "owner/name" in run(capsys, "push", stored_bundle, "no-owner")
    assert "--revision" in run(capsys, "push", stored_bundle, f"{REPO}@v1")
    assert "revision" in run(capsys, "push", stored_bundle, REPO, "--revision", "a b")
    assert not fake.asked


# ---------------------------------------------------------------- what isn't pulled


def _edit(manifest):
    def spoil(repository):
        path = repository / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | manifest))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_tampered, f"{REPO}@"),
        (_tampered, "SHA-256"),
        (lambda there: (there / "extra.json").write_text("{}"), "extra.json isn't listed"),
        (lambda there: (there / "m.pkl").write_bytes(b"\x80\x04K\x01."), "m.pkl, which is neither"),
        (lambda there: (there / "code.py").write_text("1"), "code.py"),
        (lambda there: (there / "montage.safetensors").unlink(), "lacks montage.safetensors"),
        (lambda there: (there / "manifest.json").unlink(), "no manifest.json"),
        (lambda there: (there / "manifest.json").write_text("["), "isn't readable JSON"),
        (_edit({"schema": 99}), "has schema 99"),
        (_edit({"trials": {"files": {"1": "../x.json"}}}), "lies outside"),
        (_forbidden, "may not be published"),
        (_disguised, "isn't what its name says"),
    ],
)
def test_what_is_not_pulled(pushed, tmp_path, capsys, spoil, words):
    there = pushed.commit(REPO)
    (there / "README.md").unlink()  # or `relist` would list it
    (there / ".gitattributes").unlink()
    spoil(there)
    error = run(capsys, "pull", REPO, "--to", tmp_path / "place" / "new")
    assert words in error and ".part" not in error
    assert not (tmp_path / "place").exists() or not list((tmp_path / "place").iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody/nothing", "no nobody/nothing that you may read"),
        (f"{REPO}@v9", "no revision 'v9'"),
        ("stored", "owner/name@revision"),
        ("a/b/c", "owner/name@revision"),
        ("../b", "owner/name@revision"),
        (f"{REPO}@", "no revision after the @"),
        (f"{REPO}@a..b", "no revision after the @"),
        (f"{REPO}@-v", "no revision after the @"),
        ("", "owner/name@revision"),
    ],
)
def test_names_that_name_nothing(pushed, tmp_path, capsys, name, words):
    assert words in run(capsys, "pull", name, "--to", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_pull_spares_what_is_something_else(pushed, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter").write_text("precious")
    assert "is no bundle" in run(capsys, "pull", REPO, "--to", tmp_path / "thesis")
    assert contents(tmp_path / "thesis") == {"chapter": b"precious"}


@pytest.mark.parametrize(
    "broken", [ConnectionError("no route"), RuntimeError(""), TimeoutError("slow\nslow")]
)
def test_no_network(pushed, stored_bundle, tmp_path, capsys, broken):
    pushed.broken = broken
    assert "check the network" in run(capsys, "pull", REPO, "--to", tmp_path / "new")
    assert "check the network" in run(capsys, "push", stored_bundle, REPO)
    assert not (tmp_path / "new").exists()


def test_a_full_disk(pushed, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    assert "No space left" in run(capsys, "pull", REPO, "--to", tmp_path / "place/new")
    assert not list((tmp_path / "place").iterdir())


# ---------------------------------------------------------------- the page


@pytest.fixture
def phantom(stored_bundle, tmp_path, monkeypatch):
    """Let a small bundle, "tiny", be the phantom."""
    folder = Path(shutil.copytree(stored_bundle, tmp_path / "phantom"))
    _edit({"name": "tiny"})(folder)
    monkeypatch.setattr(app, "PHANTOM", folder)
    return folder


@pytest.fixture
def opened(monkeypatch):
    """Call `app.main` without serving: returns the page's name and notice, as it got them."""
    seen = {}

    class Served(Exception):
        pass

    def build(decoder, name, notice, beside):
        seen.update(decoder=decoder, name=name, notice=notice)
        raise Served

    monkeypatch.setattr(app, "page", build)

    def start(*flags):
        with pytest.raises(Served):
            app.main(list(flags))
        return seen

    return start


def test_page_opens_phantom_environment_or_flag(pushed, phantom, folder, opened, monkeypatch):
    assert opened()["name"] == "tiny"
    monkeypatch.setenv("NICE_BUNDLE", str(folder))
    assert opened()["name"] == "stored"
    assert opened("--bundle", str(phantom))["name"] == "tiny"
    assert pushed.asked.count("snapshot_download") == 0
    monkeypatch.setenv("NICE_BUNDLE", f"hf:{REPO}")
    sha = pushed.branches[REPO]["main"]
    assert opened() | {"decoder": None} == {
        "decoder": None, "name": f"stored ({REPO}@{sha[:10]})", "notice": "",
    }  # fmt: skip
    monkeypatch.setenv("NICE_BUNDLE", "")
    assert opened()["name"] == "tiny"


def test_a_bundle_is_downloaded_once(pushed, phantom, opened, capsys):
    sha = pushed.branches[REPO]["main"]
    for _ in range(2):
        assert not opened("--bundle", f"hf:{REPO}")["notice"]
    assert pushed.asked.count("snapshot_download") == 1
    pushed.broken = ConnectionError("no route")
    found = opened("--bundle", f"hf:{REPO}")  # what was pulled is there without a network
    assert found["name"].startswith("stored (") and not found["notice"]
    assert "pulled earlier" in capsys.readouterr().err
    pushed.asked.clear()
    assert opened("--bundle", f"hf:{REPO}@{sha}")["name"].startswith("stored (")
    assert not pushed.asked  # a commit needs no question


def test_a_damaged_copy_is_fetched_anew(pushed, phantom, opened):
    opened("--bundle", f"hf:{REPO}")
    (copy,) = (path.parent for path in hub.CACHE.rglob("manifest.json"))
    (copy / "gallery.json").write_text("{}")
    assert opened("--bundle", f"hf:{REPO}")["name"].startswith("stored (")
    assert Bundle(copy)


def test_a_new_commit_is_opened(pushed, phantom, folder, opened):
    opened("--bundle", f"hf:{REPO}")
    sha = hub.push(folder, REPO)
    assert sha[:10] in opened("--bundle", f"hf:{REPO}")["name"]


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("network", "no route"),
        ("refused", "HTTP 403"),
        ("unknown", "that you may read"),
        ("tampered", "SHA-256"),
    ],
)
def test_without_the_bundle_the_phantom_says_so(pushed, phantom, opened, capsys, trouble, why):
    repo = REPO if trouble != "unknown" else "nobody/nothing"
    if trouble == "network":
        pushed.broken = ConnectionError("no route")
    if trouble == "refused":
        pushed.broken = 403
    if trouble == "tampered":
        _tampered(pushed.commit(REPO))
    found = opened("--bundle", f"hf:{repo}@main")
    assert found["name"] == "tiny" and found["decoder"].simulated
    notice = (
        f"hf:{repo}@main couldn't be opened, so this is the bundle “tiny” instead, whose EEG is "
        "simulated."
    )
    assert found["notice"] == f"{notice} The log says why."
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {notice} ") and said.count("\n") == 1
    assert why in said
    assert not list(hub.CACHE.rglob("manifest.json"))


@pytest.mark.parametrize("where", ["flag", "environment"])
@pytest.mark.parametrize(("bundle", "words"), [("nowhere", "no bundle at"), ("hf:x", "owner/name")])
def test_a_wrong_name_ends(fake, capsys, monkeypatch, where, bundle, words):
    if where == "environment":
        monkeypatch.setenv("NICE_BUNDLE", bundle)
    flags = ["--bundle", bundle] if where == "flag" else []
    assert words in run(capsys, *flags, main=app.main)
    assert not fake.asked


class _Answers(BaseHTTPRequestHandler):
    """Answers what the Hub's client asks while it pulls, from a folder that is a commit."""

    there: Path

    def do_HEAD(self):
        path, sha = unquote(urlsplit(self.path).path), self.there.name
        files = [p.relative_to(self.there).as_posix() for p in self.there.rglob("*")]
        files = [name for name in files if (self.there / name).is_file()]
        head = {"X-Repo-Commit": sha}
        if path == f"/api/models/{REPO}/revision/main":
            body = {"id": REPO, "sha": sha, "siblings": [{"rfilename": name} for name in files]}
        elif path.startswith(f"/api/models/{REPO}/tree/{sha}"):
            size = {name: (self.there / name).stat().st_size for name in files}
            body = [{"type": "file", "path": n, "size": size[n], "oid": sha} for n in files]
        elif path.startswith(f"/{REPO}/resolve/{sha}/"):
            body = (self.there / path.split(sha + "/")[1]).read_bytes()
            head["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        else:
            head, body = {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"}
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(404 if "X-Error-Code" in head else 200)
        for name, value in (head | {"Content-Length": len(body)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


def test_the_real_client(pushed, stored_bundle, tmp_path, monkeypatch):
    """The Hub's own client, asked of a server on this machine, and of a port without one."""
    monkeypatch.setattr(_Answers, "there", pushed.commit(REPO), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "client"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(hub, "api", lambda: HfApi(endpoint=endpoint, token=False))
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        assert hub.pull(REPO, "main", tmp_path / "new") == pushed.branches[REPO]["main"]
        there = Bundle(tmp_path / "new").manifest["files"]
        assert there == Bundle(stored_bundle).manifest["files"]
        refuses(lambda: hub.pull("no/thing", "main", tmp_path / "other"), "that you may read")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    refuses(lambda: hub.pull(REPO, "main", tmp_path / "other"), "check the network")
    assert not (tmp_path / "other").exists()


def test_refusals_name_what_to_do():
    refuses(lambda: hub.parse("hf:a"), "owner/name@revision")
    assert hub.parse("hf:a/b") == ("a/b", "main")
    assert hub.parse("a/b@refs/pr/1") == ("a/b", "refs/pr/1")
