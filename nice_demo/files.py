"""Writing files so that they appear under their final name only when complete."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nice_demo.errors import InputError


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def complete_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, else removed.

    Parameters
    ----------
    path : Path or str
        The file's final name; its folder is made if it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.chmod(0o644)  # some writers leave files that only their owner can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def complete_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it takes the place of `path`.

    A folder that was there before is replaced in the last step and not touched earlier: a crash
    leaves either the old folder or the new one, never a mixture.

    Parameters
    ----------
    path : Path or str
        The folder's final name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    part.chmod(0o755)
    try:
        yield part
        old = part.with_suffix(".old")
        if path.exists():
            path.rename(old)
        try:
            part.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented UTF-8 JSON; NaN and infinities are refused (ValueError)."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with complete_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> dict:
    """Read a JSON object.

    Raises
    ------
    InputError
        Where the file is missing, isn't JSON, or holds something other than an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; check the folder's name or make it anew.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} isn't readable JSON ({error}); make it anew.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not an object; make it anew.")
    return content
