"""A folder in place of the Hub: `FakeHub` stands where `nice_demo.hub.api` returns a client.

Every call is checked against the real client's signature, and snapshots are made of links into
another folder, as in the real client's cache.
"""

import hashlib
import inspect
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError


def _refuse(kind: type[HfHubHTTPError], status: int):
    request = httpx2.Request("GET", "https://hub.test")
    raise kind("no", response=httpx2.Response(status, request=request))


class FakeHub:
    """Repositories under a folder: ``owner/name/COMMIT/…``, and which commit a branch is."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.branches: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.broken: Exception | int | None = None

    def __getattr__(self, name):
        real, fake = inspect.signature(getattr(HfApi, name)), getattr(FakeHub, f"_{name}")

        def call(*args, **kwargs):
            arguments = real.bind(self, *args, **kwargs).arguments
            arguments.pop("self")
            self.asked.append(name)
            if isinstance(self.broken, Exception):
                raise self.broken
            if self.broken:
                _refuse(HfHubHTTPError, self.broken)
            return fake(self, **arguments)

        return call

    def commit(self, repo: str, revision: str = "main") -> Path:
        """Return the folder of a commit; a test may spoil it."""
        if repo not in self.branches:
            _refuse(RepositoryNotFoundError, 404)
        sha = self.branches[repo].get(revision, revision)
        if not (self.folder / repo / sha).is_dir():
            _refuse(RevisionNotFoundError, 404)
        return self.folder / repo / sha

    def _create_repo(self, repo_id, private, exist_ok):
        if repo_id not in self.branches:
            empty = self.folder / repo_id / ("0" * 40)
            empty.mkdir(parents=True)
            (empty / ".gitattributes").write_text("*.safetensors filter=lfs")
            self.branches[repo_id], self.private[repo_id] = {"main": empty.name}, bool(private)

    def _create_branch(self, repo_id, branch, exist_ok):
        self.branches[repo_id].setdefault(branch, self.branches[repo_id]["main"])

    def _repo_info(self, repo_id, revision, timeout):
        there = self.commit(repo_id, revision)
        names = [p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file()]
        return SimpleNamespace(
            sha=there.name,
            siblings=[SimpleNamespace(rfilename=name) for name in names],
            private=self.private[repo_id],
        )

    def _upload_folder(self, repo_id, folder_path, revision, commit_message, delete_patterns):
        assert delete_patterns == "*"
        sha = hashlib.sha1(os.urandom(8)).hexdigest()
        self._copy(folder_path, self.folder / repo_id / sha, shutil.copyfile)
        attributes = self.commit(repo_id, revision) / ".gitattributes"
        shutil.copy(attributes, self.folder / repo_id / sha)
        self.branches[repo_id][revision] = sha
        return SimpleNamespace(oid=sha)

    def _snapshot_download(self, repo_id, revision):
        there = self.commit(repo_id, revision)
        snapshot = self.folder / "cache" / repo_id / there.name
        shutil.rmtree(snapshot, ignore_errors=True)
        self._copy(there, snapshot, os.symlink)
        return str(snapshot)

    @staticmethod
    def _copy(source, target, copy):
        for path in Path(source).rglob("*"):
            name = path.relative_to(source)
            if path.is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                copy(path, target / name)
