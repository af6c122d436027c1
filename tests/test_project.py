"""The project's files agree with each other, and say nothing that holds on one machine only."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def ranges(*extras):
    """Return {package: specifier} of the dependencies or, where named, of extras."""
    listed = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    found = [Requirement(line) for line in (listed if extras else PROJECT["dependencies"])]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in found}


def pins(file):
    """Return {package: version} of a requirements file; every line must be an exact pin."""
    found = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith(("#", "-r ")):
            continue
        exact = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9.]*)", line)
        assert exact, f"{file}: not an exact pin: {line}"
        name = canonicalize_name(exact[1])
        assert name not in found, f"{file}: {name} stands there twice"
        found[name] = exact[2]
    return found


def front_matter():
    _, header, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header)


def listed_files():
    """Return what git tracks, or would if added; skip where this is no clone."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git clone: {error}")
    files = [ROOT / name for name in answer.stdout.split("\0") if name]
    return [path for path in files if path.is_file()]


@pytest.mark.parametrize(
    ("file", "extras"), [("requirements.txt", []), ("requirements-dev.txt", ["train", "dev"])]
)
def test_pins_satisfy_the_ranges(file, extras):
    exact, allowed = pins(file), ranges(*extras)
    assert exact.keys() == allowed.keys()
    for name, version in exact.items():
        assert allowed[name].contains(version), f"{name} {version} isn't {allowed[name]}"


def test_development_builds_on_the_page():
    lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    assert "-r requirements.txt" in lines
    assert not pins("requirements.txt").keys() & pins("requirements-dev.txt").keys()


def test_space_runs_what_is_pinned():
    header = front_matter()
    assert header["sdk"] == "gradio"
    assert header["sdk_version"] == pins("requirements.txt")["gradio"]
    assert header["python_version"] == "3.11"  # as text: 3.10 would read as 3.1
    assert header["app_file"] == "app.py"
    assert len(header["short_description"]) <= 60  # the Hub refuses more


def test_licence_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert PROJECT["license"] == citation["license"] == front_matter()["license"].upper() == "MIT"
    assert PROJECT["version"] == citation["version"]


def test_no_file_names_one_machine_or_registry():
    # Brackets keep this file from finding itself.
    registry = r"pypi[.]org|pythonhosted[.]org|npmjs[.](org|com)|debian[.]org"
    folder = r"(^|[^A-Za-z0-9_.~])/(w[o]rk|r[o]ot|U[s]ers|mnt)/"
    forbidden = re.compile(f"{registry}|{folder}", re.MULTILINE)
    found = []
    for path in listed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in forbidden.finditer(text)]
    assert not found


def test_weights_fit_the_hub():
    sizes = {path: path.stat().st_size for path in listed_files()}
    assert not [path for path, size in sizes.items() if size >= 10_000_000]  # more needs LFS
    # Ten phantom subjects with four encoders each; with two, as at first, it was below 60 MB.
    assert sum(size for path, size in sizes.items() if "weights" in path.parts) < 80_000_000
