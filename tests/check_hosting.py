"""Goes through the Dockerfile without Docker: ``python tests/check_hosting.py [--install]``.

The tracked files that .dockerignore leaves are copied into an empty folder; with --install, the
requirements go into a fresh virtual environment, as in the Dockerfile (else this Python is taken);
the page is started there with the Dockerfile's environment and command, as user 1000 where that
can be; then /health, / and the Dockerfile's own health check must answer. What is left out: the
base image, and `useradd`. There is no packages.txt for Spaces, because every requirement comes as
a wheel that brings its libraries along; that this holds in the slim image, only Docker can show.
"""

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # s, until the page answers


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile: (name, what follows), in their order."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def environment(dockerfile: str) -> dict[str, str]:
    """Return what its ENV instructions set."""
    texts = [text for name, text in instructions(dockerfile) if name == "ENV"]
    return dict(pair.split("=", 1) for text in texts for pair in shlex.split(text))


def command(dockerfile: str, name: str = "CMD") -> list[str]:
    """Return the command of CMD or of HEALTHCHECK, which must be in the form of a list."""
    (text,) = [text for known, text in instructions(dockerfile) if known == name]
    return json.loads(text[text.index("[") :])


def ignored(name: str, patterns: list[str]) -> bool:
    """Whether .dockerignore leaves a file out; patterns may begin with **/ and name folders."""
    parts = name.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for pattern in patterns:
        anywhere = pattern.removeprefix("**/")
        named = parts if anywhere != pattern else above
        if any(fnmatch.fnmatchcase(one, anywhere) for one in named):
            return True
    return False


def files(root: Path) -> list[str]:
    """Return the files that `COPY . .` takes of a clone: tracked, or would be, and not ignored."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    answer = subprocess.run(listing, cwd=root, capture_output=True, text=True, check=True)
    patterns = (root / ".dockerignore").read_text(encoding="utf-8").split()
    names = [name for name in answer.stdout.split("\0") if name and (root / name).is_file()]
    return [name for name in names if not ignored(name, patterns)]


def may_run_as(python: str, folder: Path, user: int) -> bool:
    """Whether a process of this user could run this Python in this folder."""
    if os.getuid() != 0:
        return False
    try:
        code = f"import numpy, os; os.listdir({str(folder)!r})"
        ended = subprocess.run([python, "-c", code], user=user, group=user, capture_output=True)
    except OSError:
        return False
    return ended.returncode == 0


def answer(address: str) -> bytes:
    """Return what an address answers; wait until it does."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as response:
                return response.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)


def check(install: bool = False, port: str | None = None) -> list[str]:
    """Go through all steps and return what was done, a sentence each.

    Parameters
    ----------
    install : bool
        Install the requirements into a fresh environment.
    port : str or None
        Instead of the Dockerfile's, which may be taken here.
    """
    said = []
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as place:
        app = Path(place) / "app"
        for name in (taken := files(ROOT)):
            (app / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, app / name)
        said.append(f"Copied {len(taken)} files; not among them: tests, benchmarks, data.")
        assert not any((app / name).exists() for name in ("tests", "benchmarks", "data", ".git"))

        python = sys.executable
        if install:
            subprocess.run([sys.executable, "-m", "venv", f"{place}/venv"], check=True)
            python = f"{place}/venv/bin/python"
            (line,) = [t for n, t in instructions(dockerfile) if n == "RUN" and "pip install" in t]
            options = [word for word in shlex.split(line)[2:] if word not in ("--user",)]
            subprocess.run([python, "-m", "pip", "install", "-qq", *options], cwd=app, check=True)
            said.append("Installed the requirements into a fresh environment.")

        declared = environment(dockerfile)
        port_before = declared["GRADIO_SERVER_PORT"]
        port = port or port_before
        # As in the container: nothing of this environment, least of all the path to our modules.
        env = {name: os.environ[name] for name in ("LANG",) if name in os.environ}
        env |= declared | {"GRADIO_SERVER_PORT": port, "HOME": place, "HF_HUB_OFFLINE": "1"}
        uploads = Path(place) / "uploads"
        uploads.mkdir()
        env["TMPDIR"] = str(uploads)
        env["PATH"] = os.environ["PATH"]
        as_user = {}
        if may_run_as(python, app, 1000):
            for path in (Path(place), *Path(place).rglob("*")):
                os.chown(path, 1000, 1000, follow_symlinks=False)
            as_user = {"user": 1000, "group": 1000}
            said.append("Started it as user 1000.")
        else:
            said.append("Started it as the user who ran this: user 1000 can't be had here.")
        start = [python, *command(dockerfile)[1:]]
        with open(f"{place}/said", "w+b") as told:
            page = subprocess.Popen(
                start, cwd=app, env=env, stdout=told, stderr=subprocess.STDOUT, **as_user
            )
            try:
                health = json.loads(answer(f"http://127.0.0.1:{port}/health"))
                assert health["status"] == "ok" and health["simulated"] is True, health
                said.append(f"/health answered {json.dumps(health)}.")
                assert b"gradio_config" in answer(f"http://127.0.0.1:{port}/")
                said.append("/ answered with the page.")
                own = [python, *command(dockerfile, "HEALTHCHECK")[1:]]
                own = [word.replace(port_before, port) for word in own]
                subprocess.run(own, env=env, check=True, timeout=60, **as_user)
                said.append("The Dockerfile's own health check agrees.")
            finally:
                there = list(uploads.glob("nice_demo-*"))
                page.send_signal(signal.SIGTERM)  # as a container is stopped
                try:
                    page.wait(30)
                except subprocess.TimeoutExpired:
                    page.kill()
                    page.wait()
            told.seek(0)
            lines = told.read().decode().splitlines()
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        routes = {line["route"] for line in logged}
        assert {"/health", "/"} <= routes, lines
        assert not [line for line in lines if "Traceback" in line], lines
        said.append(f"It logged {len(logged)} requests, each as a line of JSON.")
        assert there and not list(uploads.glob("nice_demo-*")), "the folder of uploads stays"
        said.append("Its folder of uploads went with it.")
        left = {path.name for path in app.iterdir()} - {name.split("/")[0] for name in taken}
        assert left <= {"__pycache__"}, f"the page left {left} behind"
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="into a fresh environment")
    parser.add_argument("--port", help="instead of the Dockerfile's")
    options = parser.parse_args()
    for sentence in check(options.install, options.port):
        print(sentence)


if __name__ == "__main__":
    main()
