"""Reading in another process: a file that breaks or blocks its parser breaks nothing else.

`read_apart` starts Python anew in the recording's private folder, with a clean environment and
limits of memory, processor time, file size and open files, waits as long as it may, and takes
back a safetensors file (numbers, and JSON as its metadata; never a pickle).

What the other process may do: read below its private folder and Python's own folders, write
below its private folder. Python code in it can't open connections, start programs or unpickle
(an audit hook refuses it). HDF5 opens files itself, which no hook sees; `readers` watches what it
opens. None of this holds for machine code that a flaw in a C library lets in, for which the page
needs a container around it.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.numpy

import nice_demo
from nice_demo.errors import InputError
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.limits import Limits
from nice_demo.sources.recordings.received import clean, main_suffix, too_large

# Python is started isolated (-I) and then doesn't look for packages where it is started.
_START = (
    "import os, sys; sys.path.append(sys.argv[1]); "
    "from nice_demo.sources.recordings.child import main; main(sys.argv[2]); "
    "os._exit(0)"  # taking MNE apart again would take as long as reading
)
_PACKAGES = Path(nice_demo.__file__).resolve().parents[1]
_JOB, _RESULT, _REFUSED = "job.json", "result.safetensors", "refused.txt"
_ARRAYS = ("volts", "onsets", "bad")  # of a `Recording`; all else is JSON
_NEEDED = ("LD_LIBRARY_PATH", "SYSTEMROOT")  # without which Python may not start


def read_apart(folder: Path, names: dict[str, str], limits: Limits) -> Recording:
    """Read the recording that lies in `folder` in another process.

    Parameters
    ----------
    folder : Path
        Private; holds files named "recording" and their suffix, see `received.receive`.
    names : dict of str to str
        For each suffix the name that the file came with.
    limits : Limits
        Of the process and of what it may find.

    Returns
    -------
    Recording
        What it found.

    Raises
    ------
    InputError
        What the process says of the file, or that it broke, or took too long.
    """
    shown = clean(names[main_suffix(names)])
    job = {"names": names, "limits": asdict(limits)}
    (folder / _JOB).write_text(json.dumps(job), encoding="utf-8")
    code = _run(folder, limits.seconds)
    if (folder / _REFUSED).is_file():
        raise InputError((folder / _REFUSED).read_text(encoding="utf-8")[:1000])
    if code is None or code == -getattr(signal, "SIGXCPU", 0):
        raise InputError(
            f"{shown} took longer than {limits.seconds:g} s to read and was given up; "
            "give a shorter recording."
        )
    if code != 0:
        raise InputError(
            f"{shown} broke the program that reads it ({_why(code)}); check that the file is "
            "whole, or export it again, for example as EDF."
        )
    return _result(folder / _RESULT)


def _run(folder: Path, seconds: float) -> int | None:
    """Run `main` in another process; return its exit code, or None where it took too long."""
    environment = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    environment |= {
        "PATH": os.defpath,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "MNE_DONTWRITE_HOME": "true",
        "OMP_NUM_THREADS": "1",  # each thread would take its share of the memory
        "OPENBLAS_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _START, str(_PACKAGES), str(folder)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also where we are interrupted while waiting
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                # The session that was started with it: whatever it may have started itself.
                os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.wait()


def _why(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _result(path: Path) -> Recording:
    with safetensors.safe_open(path, "numpy") as file:
        words = json.loads(file.metadata()["recording"])
        return Recording(**{name: file.get_tensor(name) for name in _ARRAYS}, **words)


# From here on: what runs in the other process.


def main(folder: str) -> None:
    """Read the recording in `folder` and leave the result there."""
    from nice_demo.sources.recordings.readers import read  # not for the page

    place = Path(folder)
    job = json.loads((place / _JOB).read_text(encoding="utf-8"))
    limits = Limits(**job["limits"])
    confine(place, limits)
    try:
        recording = read(place, job["names"], limits)
        words = dict(vars(recording))
        arrays = {name: np.ascontiguousarray(words.pop(name)) for name in _ARRAYS}
        about = {"recording": json.dumps(words)}
        safetensors.numpy.save_file(arrays, place / _RESULT, about)
    except InputError as error:
        (place / _REFUSED).write_text(str(error), encoding="utf-8")
    except MemoryError:
        name = job["names"][main_suffix(job["names"])]
        (place / _REFUSED).write_text(too_large(name), encoding="utf-8")


def confine(folder: Path, limits: Limits) -> None:
    """Limit what this process may use, for good."""
    with contextlib.suppress(ImportError):  # Windows
        import resource

        writable = max(limits.unpacked, 4 * limits.samples) + 50_000_000
        for kind, most in {
            resource.RLIMIT_AS: limits.memory,
            resource.RLIMIT_DATA: limits.memory,
            resource.RLIMIT_CPU: math.ceil(limits.seconds) + 1,
            resource.RLIMIT_FSIZE: writable,
            resource.RLIMIT_NOFILE: 64,
            resource.RLIMIT_CORE: 0,
        }.items():
            _, hard = resource.getrlimit(kind)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with contextlib.suppress(ValueError, OSError):  # macOS knows some in name only
                resource.setrlimit(kind, (most, most))

    with contextlib.suppress(OSError):  # where memory is short, Linux ends this process first
        Path("/proc/self/oom_score_adj").write_text("1000")

    own = _below(folder)
    # Not all that lies beside the package: that may be a project with data of its own.
    folders = [place for place in sys.path if place and Path(place).resolve() != _PACKAGES]
    folders += [sys.prefix, sys.base_prefix, str(Path(nice_demo.__file__).parent)]
    readable = tuple({_below(place) for place in folders})
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    forbidden = (
        *("socket.", "subprocess.", "pickle.", "pty.", "ftplib.", "urllib.", "http."),
        *("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system"),
        *("os.link", "os.symlink", "os.kill", "os.chmod", "os.chown", "signal.pthread_kill"),
    )

    def refuse(event: str, details: tuple) -> None:
        if event == "open":
            path, _, flags = details
            if isinstance(path, int):
                return  # of a file that is open already
            place = os.path.realpath(os.fsdecode(path))
            if place.startswith(own) or (place.startswith(readable) and not flags & writing):
                return
            raise PermissionError("a recording may not lead to other files")
        if event.startswith(forbidden):
            raise PermissionError(f"reading a recording may not do {event}")

    sys.addaudithook(refuse)


def _below(folder: Path | str) -> str:
    return os.path.realpath(folder).rstrip(os.sep) + os.sep
