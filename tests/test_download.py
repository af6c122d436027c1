import errno
import hashlib
import io
import json
import shutil
import tempfile
import time
import zipfile
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import huggingface_hub
import pytest
from fake_server import COMMIT, HTML, FakeServer, Fault, Handler
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import refuses

from nice_demo import download
from nice_demo.download import Remote, accept_licence, fetch, hub_file, hub_size, osf_files

CONTENT = bytes(range(256)) * 40  # 10,240 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path):
    root = tmp_path / "served"
    root.mkdir()
    (root / "a.bin").write_bytes(CONTENT)
    with FakeServer(root) as server:
        yield server


@pytest.fixture
def remote(server):
    return Remote("a.bin", f"{server.url}/download/a.bin", len(CONTENT), SHA256)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "here" / "a.bin"


class Waits(list):
    """Instead of sleeping: the pauses that were asked for."""

    def __call__(self, pause):
        self.append(pause)


def ranges(server):
    """Return the ranges asked of the file so far."""
    return [headers.get("Range") for path, headers in server.requests if path.startswith("/files")]


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_plain(server, remote, target):
    waits = Waits()
    assert fetch(remote, target, wait=waits) == target
    assert target.read_bytes() == CONTENT
    assert left(target) == ["a.bin"]
    assert not waits
    asked = len(server.requests)
    assert fetch(remote, target, rehash=True) == target  # there already: nothing is asked
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=0),
        Fault(cut=7_000),
        Fault(cut=7_000, trickle=True),
        Fault(trickle=True),
        Fault(wrong=True),
        Fault(status=429),
        Fault(status=500),
        Fault(status=503),
        Fault(status=416),
        Fault(body=HTML),
        Fault(body=HTML, headers={"Content-Type": "application/zip"}),
        Fault(headers={"Content-Length": "10000"}),
        Fault(headers={"Content-Length": "20000"}),
        Fault(headers={"Content-Length": "nonsense"}),
        Fault(chunked=True),
        Fault(chunked=True, cut=7_000),
    ],
    ids=str,
)
@pytest.mark.parametrize("sized", [True, False])
def test_one_fault_is_mended(server, remote, target, fault, sized):
    server.faults["/files/a.bin"] = [fault]
    remote = remote if sized else Remote(remote.name, remote.url, None, SHA256)
    assert fetch(remote, target, wait=Waits()).read_bytes() == CONTENT
    assert left(target) == ["a.bin"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(cut=0), ["0 of 10240 bytes"]),
        (Fault(wrong=True), ["twice", "sha256"]),
        (Fault(status=403), ["403 (Forbidden)", "public"]),
        (Fault(status=404), ["404"]),
        (Fault(status=416), ["416"]),
        (Fault(status=429), ["429"]),
        (Fault(status=429, headers={"Retry-After": "3600"}), ["429", "wait 3600 s"]),
        (Fault(status=500), ["500"]),
        (Fault(body=HTML), ["HTML page"]),
        (Fault(headers={"Content-Length": "10000"}), ["10000", "10240"]),
    ],
    ids=str,
)
def test_lasting_fault_is_named(server, remote, target, fault, words):
    server.faults["/files/a.bin"] = [fault] * 20
    refuses(lambda: fetch(remote, target, attempts=3, wait=Waits()), "a.bin", *words)
    assert not target.exists()
    server.faults.clear()
    assert fetch(remote, target, wait=Waits()).read_bytes() == CONTENT
    assert left(target) == ["a.bin"]


def test_html_of_the_right_length(server, remote, target):
    page = Fault(body=HTML, headers={"Content-Type": "application/zip"})
    server.faults["/files/a.bin"] = [page] * 2
    remote = Remote("a.bin", remote.url, len(HTML))
    refuses(lambda: fetch(remote, target, wait=Waits()), "a.bin", "HTML page")
    assert left(target) == []


def test_partial_file_stays_and_the_next_call_goes_on(server, remote, target):
    server.faults["/files/a.bin"] = [Fault(cut=7_000), *[Fault(status=500)] * 2]
    message = refuses(lambda: fetch(remote, target, attempts=3, wait=Waits()), "500", "goes on")
    assert "0.0 MB are kept" in message
    assert (target.parent / ".a.bin.part").read_bytes() == CONTENT[:7_000]
    assert download.missing_bytes(remote, target) == len(CONTENT) - 7_000
    server.requests.clear()
    assert fetch(remote, target).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=7000-"]
    assert server.requests[-1][1]["If-Range"]  # through the redirect
    assert download.missing_bytes(remote, target) == 0


def test_progress_counts_no_failures(server, remote, target):
    server.faults["/files/a.bin"] = [Fault(cut=1_000) for _ in range(10)]
    waits = Waits()
    assert fetch(remote, target, attempts=2, wait=waits).read_bytes() == CONTENT
    assert waits == [2.0] * 10


def test_pauses_grow_and_heed_the_server(server, remote, target):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server.faults["/files/a.bin"] = [
        *[Fault(status=503)] * 3,
        Fault(status=429, headers={"Retry-After": "17"}),
        Fault(status=429, headers={"Retry-After": date}),
        Fault(status=429, headers={"Retry-After": "soon"}),
    ]
    waits = Waits()
    fetch(remote, target, attempts=7, wait=waits)
    assert waits[:4] == [2, 4, 8, 17]
    assert 0 < waits[4] <= 100
    assert waits[5:] == [60]


def test_server_without_ranges_starts_anew(server, remote, target):
    server.faults["/files/a.bin"] = [Fault(cut=7_000), Fault(ignore_range=True)]
    assert fetch(remote, target, wait=Waits()).read_bytes() == CONTENT


def test_weak_etag_is_compared_not_asked_for(server, remote, target):
    first, second = [Fault(cut=7_000, headers={"ETag": f'W/"{name}"'}) for name in "ab"]
    server.faults["/files/a.bin"] = [first, first, second]
    assert fetch(remote, target, wait=Waits()).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=7000-"]
    assert "If-Range" not in server.requests[-1][1]
    target.unlink()
    server.requests.clear()
    server.faults["/files/a.bin"] = [first, second]
    assert fetch(remote, target, wait=Waits()).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=7000-", None]


@pytest.mark.parametrize("etags", [True, False])
def test_file_that_changes_between_attempts(server, target, etags):
    server.etags = etags
    new = bytes(reversed(CONTENT))
    remote = Remote("a.bin", f"{server.url}/files/a.bin", len(CONTENT))
    server.faults["/files/a.bin"] = [Fault(cut=7_000), Fault(status=404)]
    refuses(lambda: fetch(remote, target, wait=Waits()), "404")
    (server.root / "a.bin").write_bytes(new)
    assert fetch(remote, target).read_bytes() == new  # no mixture, though there is no hash


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-10239/10240"},
        {"Content-Range": "nonsense"},
        {"ETag": '"another"'},
    ],
)
def test_another_piece_than_was_asked(server, remote, target, headers):
    server.faults["/files/a.bin"] = [Fault(cut=7_000), Fault(headers=headers)]
    assert fetch(remote, target, wait=Waits()).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=7000-", None]


def test_stall(server, remote, target):
    server.faults["/files/a.bin"] = [Fault(stall=5_000), Fault(stall=0)]
    assert fetch(remote, target, attempts=50, wait=Waits(), stall=0.1).read_bytes() == CONTENT


def test_no_server(remote, target, tmp_path):
    with FakeServer(tmp_path) as gone:
        url = gone.url
    waits = Waits()
    refuses(lambda: fetch(Remote("b", f"{url}/b"), target, wait=waits), "b", "can't be reached")
    assert waits == [2, 4, 8, 16, 32]
    refuses(lambda: osf_files("abcde", api=url, wait=waits), "can't be reached", "network")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/file", "a.bin"])
def test_only_http(target, url):
    refuses(lambda: fetch(Remote("a.bin", url), target), "isn't an http")
    assert left(target) == []


def test_redirect_elsewhere(server, remote, target, tmp_path):
    place = {"Location": f"file://{tmp_path}/served/a.bin"}
    server.faults["/download/a.bin"] = [Fault(status=302, headers=place)]
    refuses(lambda: fetch(remote, target, wait=Waits()), "302", "file:")
    assert left(target) == []


def test_md5(server, remote, target):
    refuses(
        lambda: fetch(Remote("a.bin", remote.url, md5="0" * 32), target), "another md5", "twice"
    )
    md5 = hashlib.md5(CONTENT).hexdigest().upper()
    assert fetch(Remote("a.bin", remote.url, md5=md5), target) == target


def test_length_unknown(server, remote, target):
    server.faults["/files/a.bin"] = [Fault(headers={"Content-Length": "nonsense"})]
    refuses(lambda: fetch(Remote("a.bin", remote.url), target), "doesn't say how long")
    assert not target.exists()


def test_zip_without_hash_is_tested(server, target):
    with zipfile.ZipFile(server.root / "a.zip", "w") as archive:
        archive.writestr("inside.txt", "hello " * 100)
    whole = (server.root / "a.zip").read_bytes()
    remote = Remote("a.zip", f"{server.url}/files/a.zip", len(whole))
    target = target.with_name("a.zip")
    (server.root / "a.zip").write_bytes(whole.replace(b"hello", b"hallo", 1))
    refuses(lambda: fetch(remote, target), "damaged member inside.txt")
    (server.root / "a.zip").write_bytes(bytes(len(whole)))
    refuses(lambda: fetch(remote, target), "isn't a whole zip")
    assert left(target) == []
    server.etags = False  # as Google Drive: still it goes on, for the checksums would tell
    (server.root / "a.zip").write_bytes(whole)
    server.faults["/files/a.zip"] = [Fault(cut=100)]
    assert fetch(remote, target, wait=Waits()).read_bytes() == whole
    assert ranges(server)[-1] == "bytes=100-"


def test_file_under_the_final_name(server, remote, target):
    target.parent.mkdir()
    target.write_bytes(CONTENT[:-1])
    refuses(lambda: fetch(remote, target), target, "10239 bytes instead of 10240")
    target.write_bytes(bytes(len(CONTENT)))
    assert fetch(remote, target) == target
    refuses(lambda: fetch(remote, target, rehash=True), target, "sha256")
    assert not server.requests


def test_former_run_ended_before_the_check(server, remote, target):
    target.parent.mkdir()
    part = target.with_name(".a.bin.part")
    part.write_bytes(CONTENT)
    assert fetch(remote, target) == target
    assert not server.requests
    target.unlink()
    part.write_bytes(CONTENT + b"too much")
    assert fetch(remote, target, wait=Waits()).read_bytes() == CONTENT
    target.unlink()
    part.write_bytes(CONTENT)  # its length isn't published: the server refuses the range
    assert fetch(Remote("a.bin", remote.url, sha256=SHA256), target, wait=Waits()) == target


def test_empty_file(server, target):
    (server.root / "a.bin").write_bytes(b"")
    remote = Remote("a.bin", f"{server.url}/files/a.bin", 0)
    assert fetch(remote, target).read_bytes() == b""


def test_full_disk(server, remote, target, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            super().write(data[:1_000])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            download,
            "open",
            lambda path, mode: (Full if "r" not in mode else open)(path, mode),
            raising=False,
        )
        refuses(lambda: fetch(remote, target, wait=Waits()), target, "No space left", "goes on")
    assert target.with_name(".a.bin.part").read_bytes() == CONTENT[:1_000]
    assert fetch(remote, target).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=1000-"]


def test_folder_that_is_a_file(remote, target):
    target.parent.write_text("in the way")
    refuses(lambda: fetch(remote, target), target, "can't be written")


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 3_000),
    cuts=st.lists(st.integers(0, 1_000), max_size=8),
    sized=st.booleans(),
    data=st.randoms(use_true_random=False),
)
def test_any_cuts(property_server, size, cuts, sized, data):
    content = data.randbytes(size)
    (property_server.root / "a.bin").write_bytes(content)
    property_server.faults["/files/a.bin"] = [Fault(cut=cut) for cut in cuts]
    url = f"{property_server.url}/files/a.bin"
    remote = Remote("a.bin", url, size if sized else None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.bin"
        assert fetch(remote, path, attempts=len(cuts) + 1, wait=Waits()).read_bytes() == content
        assert left(path) == ["a.bin"]


@pytest.fixture(scope="module")
def property_server(tmp_path_factory):
    with FakeServer(tmp_path_factory.mktemp("served")) as server:
        yield server


def test_space(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=3_200_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    place, other = tmp_path / "not" / "yet", tmp_path / "other"
    download.require_space({place: 3_200_000_000})
    refuses(lambda: download.require_space({place: 10_340_000_000}), place, "10.34 GB", "3.20 GB")
    both = {place: 2_000_000_000, other: 3_000_000_000}
    refuses(lambda: download.require_space(both), place, other, "5.00 GB", "3.20 GB")
    other.mkdir()
    monkeypatch.setattr(download, "_disk", lambda there: there.name)
    download.require_space(both)  # each on a disk of its own
    refuses(lambda: download.require_space({**both, other: 4_000_000_000}), other, "4.00 GB")


@pytest.fixture
def node(server):
    place = server.root / "crxs4" / "googledrive"
    (place / "more" / "deep").mkdir(parents=True)
    for number in range(5):
        (place / f"sub-{number:02}.zip").write_bytes(CONTENT)
    (place / "more" / "with space.bin").write_bytes(CONTENT)
    (place / "more" / "deep" / "unseen.bin").write_bytes(CONTENT)
    return "crxs4"


def test_osf(server, node, target):
    server.page = 2
    server.faults[f"/v2/nodes/{node}/files/googledrive/"] = [Fault(status=429), Fault(cut=20)]
    waits = Waits()
    files = osf_files(node, "googledrive", f"{server.url}/v2", wait=waits)
    assert waits == [2, 4]
    assert list(files) == ["more/with space.bin", *(f"sub-{number:02}.zip" for number in range(5))]
    file = files["more/with space.bin"]
    assert (file.size, file.sha256) == (len(CONTENT), SHA256)
    assert file.md5 == hashlib.md5(CONTENT).hexdigest()
    assert fetch(file, target).read_bytes() == CONTENT
    deeper = osf_files(node, "googledrive", f"{server.url}/v2", levels=2)
    assert set(deeper) - set(files) == {"more/deep/unseen.bin"}


def test_osf_address_and_missing_hashes(server, node, monkeypatch):
    monkeypatch.setattr(download, "OSF_API", f"{server.url}/v2")
    server.hashes = False
    file = osf_files(node, "googledrive")["sub-00.zip"]
    assert (file.size, file.sha256, file.md5) == (len(CONTENT), None, None)
    assert not [path for path, _ in server.requests if "deep" in path]


@pytest.mark.parametrize(("listed", "size"), [(str(len(CONTENT)), len(CONTENT)), (None, None)])
def test_osf_sizes_as_other_providers_have_them(server, node, target, monkeypatch, listed, size):
    entry = Handler.entry

    def changed(handler, path):
        made = entry(handler, path)
        made["attributes"]["size"] = listed
        return made

    monkeypatch.setattr(Handler, "entry", changed)
    server.hashes = False
    file = osf_files(node, "googledrive", f"{server.url}/v2")["sub-00.zip"]
    assert file.size == size
    assert download.missing_bytes(file, target, usual=123) == (size or 123)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=404), ["404"]),
        (Fault(body=HTML), ["JSON"]),
        (Fault(body=b"[1, 2]"), ["list of files"]),
        (Fault(body=b'{"data": [{}], "links": {}}'), ["list of files"]),
        (Fault(body=b'{"errors": []}'), ["list of files"]),
        (
            Fault(body=b'{"data": [{"attributes": {"name": "../a", "kind": "file"}}]}'),
            ["'../a'"],
        ),
    ],
)
def test_osf_trouble(server, fault, words):
    server.faults["/v2/nodes/abcde/files/osfstorage/"] = [fault]
    refuses(lambda: osf_files("abcde", api=f"{server.url}/v2", wait=Waits()), "abcde", *words)


@pytest.fixture
def hub(server, monkeypatch):
    server.stand_in_for_the_hub(monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda pause: None)
    place = server.root / "owner" / "name" / "folder"
    place.mkdir(parents=True)
    (place / "train.pt").write_bytes(CONTENT)
    return "owner/name"


def test_hub(hub, tmp_path):
    killed = tmp_path / "here/.cache/huggingface/download/folder/abc.123.incomplete"
    killed.parent.mkdir(parents=True)
    killed.touch()
    path = hub_file(hub, "folder/train.pt", tmp_path / "here", COMMIT)
    assert not killed.exists()
    assert path == tmp_path / "here" / "folder" / "train.pt"
    assert path.read_bytes() == CONTENT
    assert hub_size(hub, "folder/train.pt") == len(CONTENT)


def test_hub_trouble(server, hub, tmp_path, monkeypatch):
    refuses(lambda: hub_file("owner/no", "a", tmp_path), "owner/no", "private")
    refuses(lambda: hub_file(hub, "no.pt", tmp_path), "no.pt of owner/name at main")
    refuses(lambda: hub_file("not a name", "a", tmp_path), "not a name")
    refuses(lambda: hub_size("owner/no", "a"), "owner/no")
    refuses(lambda: hub_size(hub, "no.pt"), "no.pt")
    address = "/datasets/owner/name/resolve/main/folder/train.pt"
    server.faults[address] = [Fault(status=403, headers={"X-Error-Code": "GatedRepo"})]
    refuses(lambda: hub_file(hub, "folder/train.pt", tmp_path), "gated", "hf auth login")
    assert not list(tmp_path.glob("folder/*"))
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        refuses(lambda: hub_file(hub, "folder/train.pt", tmp_path), "HF_HUB_OFFLINE")
        refuses(lambda: hub_size(hub, "folder/train.pt"), "HF_HUB_OFFLINE")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError("no"), ["check the network"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["No space left", "disk"]),
        (RuntimeError("Xet: connection\nlost"), ["Xet: connection lost"]),
    ],
)
def test_hub_errors(tmp_path, monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    refuses(lambda: hub_file("owner/name", "train.pt", tmp_path), "train.pt", *words)


def terminal(monkeypatch, *answers):
    """Pretend that a person sits at a terminal and gives `answers`."""
    given_answers = iter(answers)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: next(given_answers))


def test_licence(tmp_path, monkeypatch, capsys):
    terminal(monkeypatch, "n", "Y", "y")
    refuses(lambda: accept_licence("THINGS", "Be kind.", tmp_path, False), "nothing was downloaded")
    assert not list(tmp_path.iterdir())
    accept_licence("THINGS", "Be kind.", tmp_path, False)
    assert "Be kind." in capsys.readouterr().out
    accept_licence("THINGS", "Be kind.", tmp_path, False)  # once is enough
    assert not capsys.readouterr().out
    accept_licence("THINGS", "Be very kind.", tmp_path, False)  # other terms
    accept_licence("CC0", "Do what you like.", tmp_path, True)
    assert "Do what" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "licences.json").read_text())) == {"THINGS", "CC0"}


def test_licence_with_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    refuses(lambda: accept_licence("THINGS", "Be kind.", tmp_path, False), "--accept-licence")
    accept_licence("THINGS", "Be kind.", tmp_path, True)
    accept_licence("THINGS", "Be kind.", tmp_path, False)
