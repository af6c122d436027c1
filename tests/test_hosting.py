"""What hosts need: the Space's front matter, the Dockerfile, GitHub's workflow, health and logs."""

import json
import re
import shutil
import socket
from pathlib import Path

import check_hosting
import httpx
import pytest
import yaml
from check_hosting import command, environment, files, ignored, instructions
from fake_decoder import FakeDecoder

from nice_demo import __version__
from nice_demo.ui.guard import ROUTES
from nice_demo.ui.page import page, serve

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


# ---------------------------------------------------------------- Dockerfile


def test_container_runs_as_user_1000_on_7860_and_tells_its_health():
    by_name = {}
    for name, text in instructions(DOCKERFILE):
        by_name.setdefault(name, []).append(text)
    assert by_name["FROM"] == ["python:3.11-slim"]
    assert "--uid 1000" in by_name["RUN"][0] and by_name["USER"] == ["user"]
    names = [name for name, _ in instructions(DOCKERFILE)]
    assert names.index("USER") < names.index("COPY") and "ADD" not in names
    assert all(text.startswith("--chown=user") for text in by_name["COPY"])
    declared = environment(DOCKERFILE)
    assert declared["GRADIO_SERVER_PORT"] == "7860" and by_name["EXPOSE"] == ["7860"]
    assert declared["GRADIO_SERVER_NAME"] == "0.0.0.0"
    assert declared["GRADIO_ANALYTICS_ENABLED"] == "False" and declared["NICE_LOG"] == "json"
    assert command(DOCKERFILE) == ["python", "app.py"]
    assert "http://127.0.0.1:7860/health" in command(DOCKERFILE, "HEALTHCHECK")[-1]


def test_image_holds_what_the_page_needs_and_nothing_else():
    taken = files(ROOT)
    for name in ("app.py", "requirements.txt", "LICENSE", "README.md", "nice_demo/ui/page.js",
                 "nice_demo/ui/about.css", "weights/phantom/manifest.json"):  # fmt: skip
        assert name in taken
    for name in taken:
        assert name.split("/")[0] not in {"tests", "benchmarks", "data", ".git", ".github", "docs"}
    secrets = re.compile(r"(^|/)(\.env|\.netrc|id_\w+|.*\.pem|.*token.*)$", re.IGNORECASE)
    assert not [name for name in taken if secrets.search(name)]


@pytest.mark.parametrize(
    ("name", "is_ignored"),
    [
        ("tests/a.py", True), ("nice_demo/tests.py", False), ("a/b/__pycache__/c.pyc", True),
        ("x.part", True), ("a/x.part", True), ("app.py", False), ("a/data/b", False),
    ],
)  # fmt: skip
def test_dockerignore_is_read_as_docker_does(name, is_ignored):
    assert ignored(name, ["tests", "data", "**/__pycache__", "**/*.part"]) is is_ignored


def test_the_dockerfiles_steps_work_here(tell):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    for sentence in check_hosting.check(port=port):
        tell(f"hosting: {sentence}")


# ---------------------------------------------------------------- GitHub


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_safe(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest" and job["timeout-minutes"] <= 90
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            # What is pinned can't be changed by others; names of tags stand beside it.
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
                assert re.search(re.escape(step["uses"]) + r"  # v\d+\.\d+\.\d+\n", text)
            # What others may name (branches, titles) never becomes part of a script.
            assert "${{" not in step.get("run", "")
            if "setup-python" in step.get("uses", ""):
                assert step["with"]["python-version"] == "3.11"
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_only_main_is_sent_to_the_hub_and_only_with_a_token():
    assert [path.name for path in WORKFLOWS] == ["test.yml"]
    workflow = yaml.safe_load(WORKFLOWS[0].read_text(encoding="utf-8"))
    test, sync = workflow["jobs"]["test"], workflow["jobs"]["sync"]
    assert "secrets." not in json.dumps(test)
    assert sync["needs"] == "test"
    assert "github.ref == 'refs/heads/main'" in sync["if"] and "'push'" in sync["if"]
    first, *others = sync["steps"]
    assert first["id"] == "token" and 'if [ -n "$HF_TOKEN" ]' in first["run"]
    assert all(step["if"] == "steps.token.outputs.present == 'true'" for step in others)
    commands = [step["run"] for step in test["steps"] if "run" in step]
    for needed in ("ruff check", "ruff format --check", "pytest", "check_hosting.py", "playwright"):
        assert any(needed in one for one in commands)


# ---------------------------------------------------------------- health and logs


@pytest.fixture(scope="module")
def address():
    blocks = page(FakeDecoder(), "a test")
    yield serve(blocks, "127.0.0.1", log=True)
    blocks.close(verbose=False)


def test_health_says_what_runs(address):
    answer = httpx.get(f"{address}health")
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {
        "status": "ok", "version": __version__, "bundle": "a test", "simulated": True,
    }  # fmt: skip


def test_a_log_holds_no_personal_data(address, capfd):
    agent = {"User-Agent": "my-secret-agent", "X-Forwarded-For": "203.0.113.77"}
    with httpx.Client(base_url=address, headers=agent) as web:
        web.get("", params={"picture": "my-secret"})
        web.get("result.json", params={"picture": "my-secret"})
        web.get("my-secret.php")
        web.request("SECRET", "health")
        web.post("gradio_api/call/my-secret", json={"data": ["my-secret"]})
        sent = web.post("gradio_api/upload", files={"files": ("my-secret.edf", b"my-secret")})
        web.get(f"gradio_api/file={sent.json()[0]}")
        web.post("gradio_api/upload", content=b"my-secret")
    shutil.rmtree(Path(sent.json()[0]).parent)
    said = capfd.readouterr().out
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["status"] for line in lines][:4] == [200, 400, 404, 404]
    assert [line["route"] for line in lines] == [
        "/", "/result.json", "other", "other", "/gradio_api/call/{name}", "/gradio_api/upload",
        "/gradio_api/file={file}", "/gradio_api/upload",
    ]  # fmt: skip
    for line in lines:
        assert list(line) == ["time", "method", "route", "status", "ms"]
        assert line["method"] in ("other", *ROUTES) and line["ms"] >= 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    for word in ("secret", "203.0.113.77", "127.0.0.1", "python", "edf"):
        assert word not in said.lower()


def test_nothing_is_logged_unless_asked_for(capfd):
    blocks = page(FakeDecoder(), "a test")
    try:
        assert httpx.get(serve(blocks, "127.0.0.1")).status_code == 200
    finally:
        blocks.close(verbose=False)
    assert not capfd.readouterr().out
