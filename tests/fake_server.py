"""A server on this machine that looks like OSF and the Hub, and fails where it is told to.

Of a folder ROOT it serves

/files/PATH                                  ROOT/PATH, with ranges, If-Range and ETag
/download/PATH                               a redirect to /files/PATH, as OSF's download links are
/v2/nodes/NODE/files/PROVIDER/[FOLDER/]      OSF's listing of ROOT/NODE/PROVIDER/[FOLDER/]
/datasets/OWNER/NAME/resolve/REVISION/PATH   ROOT/OWNER/NAME/PATH as a file on the Hub
/api/datasets/OWNER/NAME/paths-info/REVISION the Hub's sizes

    with FakeServer(root) as server:
        server.faults["/files/a.zip"] = [Fault(cut=100), Fault(status=429)]
        osf_files("abcde", api=f"{server.url}/v2")
"""

import hashlib
import json
import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HTML = b"<!DOCTYPE html><html><body>Please log in.</body></html>"


@dataclass
class Fault:
    """What goes wrong with one request; the next fault of the queue is for the next request."""

    status: int | None = None  # answer with this status instead of the file
    headers: dict[str, str] = field(default_factory=dict)  # in place of the usual ones, or more
    body: bytes | None = None  # instead of the file, with status 200
    cut: int | None = None  # close the connection after so many bytes
    stall: int | None = None  # send nothing after so many bytes, but hold the connection
    trickle: bool = False  # a byte at a time
    wrong: bool = False  # the last byte isn't the file's
    ignore_range: bool = False  # the whole file, whatever was asked
    chunked: bool = False  # without a length


class FakeServer:
    """Serve `root`; `faults` are queues by path, `requests` what was asked: (path, headers)."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.etags = True  # else no validator at all
        self.hashes = True  # else OSF's listing has none, as of Google Drive
        self.page = 100  # entries on a page of OSF's listing
        self.closing = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (Handler,), {"fake": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def stand_in_for_the_hub(self, monkeypatch) -> None:
        """Send huggingface-hub here until the test ends."""
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def __enter__(self):
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()  # lets go of connections that stall
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    """One connection, which ends after one answer."""

    fake: FakeServer
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.fake.requests.append((path, dict(self.headers)))
        queue = self.fake.faults[path]
        fault = queue.pop(0) if queue else Fault()
        if fault.status is not None:
            return self.answer(fault.status, b"no", fault)
        if fault.body is not None:
            return self.answer(200, fault.body, fault, {"Content-Type": "text/html"})
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "download":
            return self.answer(302, b"", fault, {"Location": f"/files/{quote(rest)}"})
        if kind == "v2":
            return self.osf(rest, int(parse_qs(address.query).get("page", ["1"])[0]), fault)
        if kind == "files":
            return self.file(self.fake.root / rest, fault)
        if kind == "datasets" and (hub := re.fullmatch(r"(.+?)/resolve/[^/]+/(.+)", rest)):
            return self.hub(hub[1], hub[2], fault)
        return self.answer(404, b"no such path", fault)

    do_HEAD = do_GET

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        wanted = parse_qs(self.rfile.read(length).decode())["paths"]
        found = re.fullmatch(r"/api/datasets/(.+)/paths-info/[^/]+", self.path)
        repo = self.fake.root / found[1]
        if not repo.is_dir():
            return self.answer(404, b"", Fault(), {"X-Error-Code": "RepoNotFound"})
        infos = [
            {"type": "file", "path": name, "oid": "0", "size": (repo / name).stat().st_size}
            for name in wanted
            if (repo / name).is_file()
        ]
        return self.answer(200, json.dumps(infos).encode(), Fault())

    def hub(self, repo: str, name: str, fault: Fault) -> None:
        if not (self.fake.root / repo).is_dir():
            return self.answer(404, b"", fault, {"X-Error-Code": "RepoNotFound"})
        if not (self.fake.root / repo / name).is_file():
            return self.answer(404, b"", fault, {"X-Error-Code": "EntryNotFound"})
        return self.file(self.fake.root / repo / name, fault, {"X-Repo-Commit": COMMIT})

    def osf(self, rest: str, page: int, fault: Fault) -> None:
        found = re.fullmatch(r"nodes/([^/]+)/files/(.+)/", rest)
        place = self.fake.root / found[1] / found[2]
        if not place.is_dir():
            return self.answer(404, b'{"errors": [{"detail": "Not found."}]}', fault)
        entries = sorted(place.iterdir())
        last = page * self.fake.page
        following = f"{self.fake.url}/v2/{rest}?page={page + 1}" if last < len(entries) else None
        data = [self.entry(path) for path in entries[last - self.fake.page : last]]
        content = json.dumps({"data": data, "links": {"next": following}}).encode()
        return self.answer(200, content, fault, {"Content-Type": "application/vnd.api+json"})

    def entry(self, path: Path) -> dict:
        inside = path.relative_to(self.fake.root)
        if path.is_dir():
            node, rest = inside.as_posix().split("/", 1)
            href = f"{self.fake.url}/v2/nodes/{node}/files/{rest}/"
            related = {"files": {"links": {"related": {"href": href}}}}
            attributes = {"kind": "folder", "name": path.name, "size": None}
            return {"attributes": attributes, "links": {}, "relationships": related}
        content = path.read_bytes()
        hashes = {kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha256")}
        return {
            "attributes": {
                "kind": "file",
                "name": path.name,
                "size": len(content),
                "extra": {"hashes": hashes} if self.fake.hashes else {},
            },
            "links": {"download": f"{self.fake.url}/download/{quote(inside.as_posix())}"},
            "relationships": {},
        }

    def file(self, path: Path, fault: Fault, headers: dict[str, str] | None = None) -> None:
        if not path.is_file():
            return self.answer(404, b"no such file", fault)
        content = path.read_bytes()
        headers = {"Content-Type": "application/octet-stream", **(headers or {})}
        if self.fake.etags:
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        changed = self.headers.get("If-Range", headers.get("ETag")) != headers.get("ETag")
        if not asked or changed or fault.ignore_range:
            return self.answer(200, content, fault, headers)
        first, last = int(asked[1]), int(asked[2] or len(content) - 1)
        if first >= len(content):
            headers = {"Content-Range": f"bytes */{len(content)}"}
            return self.answer(416, b"", fault, headers)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.answer(206, content[first : last + 1], fault, headers)

    def answer(
        self, status: int, body: bytes, fault: Fault, headers: dict[str, str] | None = None
    ) -> None:
        self.close_connection = True
        if fault.chunked:
            self.protocol_version = "HTTP/1.1"
            length = {"Transfer-Encoding": "chunked"}
            if fault.cut is None:
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            else:
                body = b"%x\r\n%s" % (len(body), body[: fault.cut])
        else:
            length = {"Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in {**length, **(headers or {}), **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.wrong:
            body = body[:-1] + bytes([body[-1] ^ 1])
        try:
            if fault.trickle:
                for byte in body:
                    self.wfile.write(bytes([byte]))
            elif fault.stall is not None:
                self.wfile.write(body[: fault.stall])
                self.fake.closing.wait()
            else:
                self.wfile.write(body if fault.cut is None else body[: fault.cut])
        except ConnectionError:
            pass  # the other side has given up
