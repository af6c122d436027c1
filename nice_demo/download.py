"""Downloads: OSF by resumable HTTP, the Hub by huggingface-hub; disk space and licences before.

In come addresses, with sizes and hashes where they are published. Out come files that appear under
their final name only when they are complete and verified, or one `InputError`. What was received
of a file stays in ``.NAME.part`` beside it, so that the same command goes on from there.
"""

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from nice_demo.errors import InputError, one_line
from nice_demo.files import read_json, write_json

OSF_API = "https://api.osf.io/v2"
ATTEMPTS = 6  # in a row that bring nothing new: waits of 2, 4, 8, 16 and 32 s
STALL = 60.0  # s without a byte until a connection is given up
LONGEST_WAIT = 600.0  # s; a server that asks for more is tried again by the user, not by us
LATER = {408, 416, 425, 429, 500, 502, 503, 504}  # answers after which another attempt may succeed
CHUNK = 1 << 20  # bytes
PAGE = (b"<!doctype html", b"<html")  # maintenance, login, a warning about viruses
POINTER = b"version https://git-lfs.github.com/spec/"  # how Git LFS begins what stands for a file


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded.

    Attributes
    ----------
    name : str
        For messages and the progress bar; ``.zip`` at its end has the archive checked.
    url : str
        http or https.
    size : int or None
        Bytes, where published.
    sha256, md5 : str or None
        Hexadecimal digits, where published. The stronger of the two is checked.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def checkable(self) -> bool:
        """Whether the bytes themselves show if they are right, not just their number."""
        return bool(self.sha256 or self.md5 or self.name.endswith(".zip"))


class PointerInstead(InputError):
    """The address gives a Git LFS pointer, some lines that stand for a large file."""


class _Interrupted(Exception):
    """An attempt failed in a way that another one may mend."""

    def __init__(self, message: str, status: int | None = None, pause: float | None = None):
        super().__init__(message)
        self.status, self.pause = status, pause  # pause: seconds that the server asks for


def fetch(
    remote: Remote,
    path: Path | str,
    *,
    attempts: int = ATTEMPTS,
    wait: Callable[[float], None] = time.sleep,
    stall: float = STALL,
    rehash: bool = False,
) -> Path:
    """Download a file, or go on with a download that was interrupted.

    Size and hash are checked before the file gets its name. Where no hash is published (OSF's
    Google Drive), the size is, and of a zip the checksum of every member.

    Parameters
    ----------
    remote : Remote
        What to download.
    path : Path or str
        The file's final name. A file that is there already was verified when it came, so only its
        size is compared.
    attempts : int, default 6
        Attempts in a row that bring nothing new until the download is given up.
    wait : callable, default time.sleep
        Called with the seconds between two attempts: what the server asks for, else 2, 4, 8...
    stall : float, default 60
        Seconds without a byte after which a connection counts as interrupted.
    rehash : bool, default False
        Check also the hash of a file that is there already.

    Returns
    -------
    path : Path
        The file, complete and verified.

    Raises
    ------
    InputError
        Where the file can't be had, is another than the one published, or the disk is full.
    """
    path = Path(path)
    part = _part(path)
    try:
        if path.exists():
            if wrong := _wrong(remote, path, contents=rehash):
                raise InputError(f"{path} {wrong}; remove it, and it will be downloaded anew.")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # what is complete and yet wrong is fetched once more from its start
            _keep_trying(lambda: _receive(remote, part, stall), attempts, wait, lambda: _size(part))
            wrong = _wrong(remote, part)
            _tag(part).unlink(missing_ok=True)
            if not wrong:
                os.replace(part, path)
                return path
            part.unlink()
    except _Interrupted as error:
        kept = f"{_size(part) / 1e6:.1f} MB are kept, and the same command goes on from there"
        raise InputError(
            f"{remote.name} couldn't be downloaded: {error}; "
            f"{kept if _size(part) else 'try again later'}."
        ) from None
    except OSError as error:  # of the disk: those of the network are _Interrupted
        reason = error.strerror or one_line(error)
        raise InputError(
            f"{path} can't be written ({reason}); make room or mend the folder, "
            "and the same command goes on from there."
        ) from None
    raise InputError(
        f"{remote.name} was downloaded twice from {remote.url} and {wrong}; "
        "the file has changed there or the connection spoils it."
    )


def missing_bytes(remote: Remote, path: Path | str, usual: int = 0) -> int:
    """Return how many bytes `fetch` has yet to write; of `usual` where no size is published."""
    path = Path(path)
    size = usual if remote.size is None else remote.size
    return 0 if path.exists() else max(size - _size(_part(path)), 0)


def require_space(needed: dict[Path, int]) -> None:
    """Check that there is room on the disk, or the disks, of some folders.

    Parameters
    ----------
    needed : dict of Path to int
        Folder, which may not exist yet → bytes that are going to be written there.

    Raises
    ------
    InputError
        Where a disk has too little, with both figures.
    """
    disks: dict[int, list[Path]] = {}
    existing = {}
    for folder in needed:
        above = (folder.absolute(), *folder.absolute().parents)
        existing[folder] = next(place for place in above if place.exists())
        disks.setdefault(_disk(existing[folder]), []).append(folder)
    for folders in disks.values():
        total = sum(needed[folder] for folder in folders)
        free = shutil.disk_usage(existing[folders[0]]).free
        if free < total:
            raise InputError(
                f"{' and '.join(map(str, folders))} need {total / 1e9:.2f} GB but the disk has "
                f"{free / 1e9:.2f} GB free; make room or choose a folder on another disk."
            )


def _disk(place: Path) -> int:
    return place.stat().st_dev


def osf_files(
    node: str,
    provider: str = "osfstorage",
    api: str | None = None,
    *,
    levels: int = 1,
    attempts: int = ATTEMPTS,
    wait: Callable[[float], None] = time.sleep,
) -> dict[str, Remote]:
    """List the files of a project on the Open Science Framework.

    Parameters
    ----------
    node : str
        The project's five letters and digits.
    provider : str, default "osfstorage"
        The storage, such as "googledrive", whose listing may lack hashes.
    api : str, optional
        The API's address, by default `OSF_API`.
    levels : int, default 1
        Levels of folders to look into.
    attempts : int, default 6
        Attempts in a row until the listing is given up.
    wait : callable, default time.sleep
        Called with the seconds between two attempts.

    Returns
    -------
    files : dict of str to Remote
        By name; names in folders read "folder/name".

    Raises
    ------
    InputError
        Without a network, where there is no such project, or the answer is no listing.
    """
    found = {}
    first = f"{api or OSF_API}/nodes/{node}/files/{provider}/?page[size]=100"
    pages = [(first, PurePosixPath(), levels)]
    while pages:
        url, folder, deeper = pages.pop()
        try:
            answer = _keep_trying(lambda url=url: _read_json(url), attempts, wait)
            for entry in answer["data"]:
                attributes = entry["attributes"]
                name = attributes["name"]
                if name in {"", ".", ".."} or re.search(r"[/\\\0]", name):
                    raise InputError(f"{url} lists {name!r}, which can't be a file's name.")
                if attributes["kind"] == "folder":
                    href = entry["relationships"]["files"]["links"]["related"]["href"]
                    pages += [(href, folder / name, deeper - 1)] if deeper else []
                    continue
                hashes = (attributes.get("extra") or {}).get("hashes") or {}
                size = attributes.get("size")  # of other providers often null, or text
                found[str(folder / name)] = Remote(
                    str(folder / name),
                    entry["links"]["download"],
                    None if size is None else int(size),
                    hashes.get("sha256"),
                    hashes.get("md5"),
                )
            if following := answer["links"].get("next"):
                pages.append((following, folder, deeper))
        except _Interrupted as error:
            raise InputError(
                f"OSF's list of files couldn't be read: {error}; check the network and try again."
            ) from None
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError):
            raise InputError(
                f"{url} doesn't answer with a list of files as OSF does; try again later."
            ) from None
    return dict(sorted(found.items()))


def hub_file(
    repo: str, name: str, folder: Path | str, revision: str = "main", repo_type: str = "dataset"
) -> Path:
    """Download ``folder/name`` from the Hub; a file that is there already is compared and kept.

    huggingface-hub goes on after interruptions and verifies, but only within one call: after a
    failure the next call starts that file from its beginning.

    Raises
    ------
    InputError
        Without a network, or where the file can't be had or written.
    """
    from huggingface_hub import hf_hub_download

    # A run that was killed leaves what nothing will go on from.
    for left in (Path(folder) / ".cache/huggingface/download" / name).parent.glob("*.incomplete"):
        left.unlink()
    with _hub_errors(f"{name} of {repo} at {revision}"):
        return Path(
            hf_hub_download(
                repo, name, revision=revision, repo_type=repo_type, local_dir=Path(folder)
            )
        )


def hub_size(repo: str, name: str, revision: str = "main", repo_type: str = "dataset") -> int:
    """Return the bytes of a file on the Hub.

    Raises
    ------
    InputError
        As `hub_file`.
    """
    from huggingface_hub import HfApi

    what = f"{name} of {repo} at {revision}"
    with _hub_errors(what):
        infos = HfApi().get_paths_info(repo, [name], revision=revision, repo_type=repo_type)
    sizes = [size for info in infos if (size := getattr(info, "size", None)) is not None]
    if not sizes:
        raise InputError(f"The Hub has no {what}; check the names.")
    return sizes[0]


def accept_licence(name: str, text: str, folder: Path | str, accepted: bool) -> None:
    """Show the terms of what is about to be downloaded and have them accepted, once.

    Parameters
    ----------
    name : str
        Whose terms they are.
    text : str
        The terms. Where they change, the question is asked again.
    folder : Path or str
        Remembers the acceptance in ``licences.json``.
    accepted : bool
        Accepted by --accept-licence: no question.

    Raises
    ------
    InputError
        Where the terms are declined, or nobody is there to ask.
    """
    record = Path(folder) / "licences.json"
    remembered = read_json(record) if record.exists() else {}
    digest = hashlib.sha256(text.encode()).hexdigest()
    if remembered.get(name) == digest:
        return
    print(f"Terms of {name}:\n\n{text.strip()}\n")
    if not accepted and not sys.stdin.isatty():
        raise InputError(
            f"The terms of {name} have to be accepted; read them above and add --accept-licence."
        )
    if not accepted:
        with contextlib.suppress(EOFError):
            accepted = input("Do you accept them? [y/n] ").strip().lower() in {"y", "yes"}
    if not accepted:
        raise InputError(f"The terms of {name} weren't accepted; nothing was downloaded.")
    write_json(record, {**remembered, name: digest})


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _tag(part: Path) -> Path:
    """Return the file that holds which version of the remote file the partial one is of."""
    return part.with_name(f"{part.name}.etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _keep_trying(
    attempt: Callable, attempts: int, wait: Callable, progress: Callable[[], int] = lambda: 0
):
    """Return what `attempt` returns; only attempts without progress (bytes) count as failures."""
    failures, best = 0, progress()
    while True:
        try:
            return attempt()
        except _Interrupted as error:
            failures = 1 if progress() > best else failures + 1
            best = max(best, progress())
            pause = min(2.0**failures, 60.0) if error.pause is None else error.pause
            if failures >= attempts or pause > LONGEST_WAIT:
                raise
            print(f"{error}; again in {pause:.0f} s", file=sys.stderr)
            wait(pause)


def _open(url: str, headers: dict[str, str], stall: float) -> http.client.HTTPResponse:
    if not str(url).lower().startswith(("http://", "https://")):
        raise InputError(f"{url} isn't an http or https address; check where it comes from.")
    request = urllib.request.Request(url, headers={"User-Agent": "nice_demo", **headers})
    try:
        response = urllib.request.urlopen(request, timeout=stall)  # follows redirects
    except urllib.error.HTTPError as error:
        error.close()
        what = f"{url} answers {error.code} ({one_line(error.reason)})"
        if error.code not in LATER:
            hint = "check that it is still public at this address"
            raise InputError(f"{what}; {hint}.") from None
        pause = _seconds(error.headers.get("Retry-After"))
        asks = f" and asks to wait {pause:.0f} s" if pause else ""
        raise _Interrupted(what + asks, error.code, pause) from None
    except (OSError, http.client.HTTPException) as error:
        reason = one_line(getattr(error, "reason", error)) or type(error).__name__
        raise _Interrupted(f"{url} can't be reached ({reason})") from None
    if not isinstance(response, http.client.HTTPResponse):
        response.close()
        raise InputError(f"{url} leads to {response.url}, which isn't http or https; look there.")
    return response


def _seconds(retry_after: str | None) -> float | None:
    """Read the header Retry-After: seconds, or a date; None where it is absent or neither."""
    if retry_after is None:
        return None
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives; only errors of the network become `_Interrupted`."""
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _lost(error) from None


def _lost(error: Exception) -> _Interrupted:
    return _Interrupted(f"the connection was lost ({one_line(error) or type(error).__name__})")


def _read_json(url: str) -> object:
    try:
        with _open(url, {}, STALL) as response:
            text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _lost(error) from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{url} doesn't answer in JSON; try again later.") from None


def _receive(remote: Remote, part: Path, stall: float) -> None:
    """Append to `part` all that is missing, in one connection, or raise `_Interrupted`."""
    start, tag = _size(part), _tag(part)
    if remote.size is not None and part.exists() and start >= remote.size:
        return  # a former run ended between the last byte and the check
    known = tag.read_text(encoding="utf-8") if tag.exists() else ""
    if not (known or remote.checkable):
        start = 0  # two versions of the file could be mixed, and nothing would show it
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and known and not known.startswith("W/"):  # a weak ETag can't be asked for
        headers["If-Range"] = known
    try:
        response = _open(remote.url, headers, stall)
    except _Interrupted as error:
        if error.status == 416:  # what we have is longer than the file is now
            part.unlink(missing_ok=True)
        raise
    with response:
        if response.headers.get_content_type() == "text/html" and not _is_page(remote):
            raise _Interrupted(f"{remote.url} sent an HTML page instead of the file")
        total = None if response.length is None else start + response.length
        if response.status == 206:
            piece = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", response.headers["Content-Range"] or ""
            )
            if not piece or int(piece[1]) != start or response.headers.get("ETag", known) != known:
                part.unlink(missing_ok=True)
                raise _Interrupted("the server sent a piece of another file or place")
            total = total if piece[2] == "*" else int(piece[2])
        else:  # the whole file: nothing was asked, it has changed, or the server knows no ranges
            total, start = response.length, 0
            known = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if None not in (total, remote.size) and total != remote.size:
            if not start and response.read(len(POINTER)) == POINTER:
                raise PointerInstead(
                    f"{remote.url} sent a Git LFS pointer instead of {remote.name}; "
                    "fetch the file with git lfs and give its folder."
                )
            raise _Interrupted(f"the server has {total} bytes of it, not {remote.size}")
        total = total if remote.size is None else remote.size
        if total is None and not (response.chunked or remote.checkable):
            raise InputError(
                f"{remote.url} doesn't say how long it is; download it by other means."
            )
        bar = tqdm(
            total=total, initial=start, desc=remote.name, unit="B", unit_scale=True, disable=None
        )
        with open(part, "ab" if start else "wb") as file, bar:
            if not start:  # after `part` is empty: old bytes never meet the new tag
                tag.write_text(known, encoding="utf-8")
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise _Interrupted(f"the connection ended after {_size(part)} of {total} bytes")


def _is_page(remote: Remote) -> bool:
    return remote.name.endswith((".html", ".htm"))


def _wrong(remote: Remote, path: Path, contents: bool = True) -> str | None:
    """Say what is wrong with a file that should be complete; None where nothing is."""
    if remote.size not in (None, _size(path)):
        return f"has {_size(path)} bytes instead of {remote.size}"
    if not contents:
        return None
    with open(path, "rb") as file:
        if not _is_page(remote) and file.read(64).lstrip().lower().startswith(PAGE):
            return "is an HTML page"
        file.seek(0)
        if published := remote.sha256 or remote.md5:
            kind = "sha256" if remote.sha256 else "md5"
            same = hashlib.file_digest(file, kind).hexdigest() == published.lower()
            return None if same else f"has another {kind} than the published one"
    if remote.name.endswith(".zip"):
        try:
            with zipfile.ZipFile(path) as archive:
                if bad := archive.testzip():
                    return f"has a damaged member {bad}"
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            return f"isn't a whole zip ({one_line(error)})"
    return None


@contextlib.contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn what huggingface-hub raises into one sentence about `what`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise InputError(
            f"{what} is gated; ask for access on its page on huggingface.co, then hf auth login."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        causes = (error, error.__cause__)
        offline = any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in causes)
        why = "HF_HUB_OFFLINE is set; unset it" if offline else "check the network and try again"
        raise InputError(f"The Hub couldn't be asked for {what}: {why}.") from None
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
        errors.HFValidationError,
    ):
        raise InputError(f"The Hub has no {what}, or it is private; check the names.") from None
    except (errors.HTTPError, OSError, RuntimeError) as error:
        raise InputError(
            f"{what} couldn't be downloaded ({one_line(error) or type(error).__name__}); "
            "check network and disk space and try again."
        ) from None
