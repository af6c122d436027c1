"""What several tests share."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hypothesis
import pytest
import torch
from browser import start_chromium, visits
from tiny import make_stored_data, make_tiny_data

from nice_demo import train

# No test may depend on how fast the machine is.
hypothesis.settings.register_profile("nice_demo", deadline=None)
hypothesis.settings.load_profile("nice_demo")

# Enough to beat chance on `tiny_data` in seconds.
TINY_TRAINING = [
    "--epochs",
    "14",
    "--batch",
    "30",
    "--dropout",
    "0.25",
    "--lr",
    "2e-3",
    "--schedule",
    "one-cycle",
]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let each test draw the same random numbers, whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def tell(record_property) -> Callable[[str], None]:
    """Return what prints a line in the summary at the end, for what a test counted or measured."""
    return partial(record_property, "told")


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what tests told, from whichever process they ran in."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    lines = [
        line
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, line in report.user_properties
        if name == "told"
    ]
    if lines:
        terminalreporter.section("what tests told")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data; skip where it is absent, fail on CI."""
    if not SHARED_DATA.is_dir():
        message = f"no real data at {SHARED_DATA}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder of two small phantom subjects; not to be changed."""
    return make_tiny_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle trained on `tiny_data`; not to be changed."""
    out = tmp_path_factory.mktemp("weights") / "tiny"
    assert train.main([*TINY_TRAINING, "--data", str(tiny_data), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def stored_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a very small data folder with stored trials, no phantom's; not to be changed."""
    return make_stored_data(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="session")
def stored_bundle(stored_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle trained on `stored_data`, with averages inside; not to be changed."""
    out = tmp_path_factory.mktemp("weights") / "stored"
    training = ["--epochs", "2", "--batch", "32", "--lr", "1e-3"]
    assert train.main([*training, "--data", str(stored_data), "--out", str(out)]) == 0
    return out


# Not for the whole session: Playwright keeps an event loop, which other tests don't expect.
@pytest.fixture(scope="module")
def chromium():
    """Return Chromium, started once for a module."""
    yield from start_chromium()


@pytest.fixture(scope="module")
def context(chromium):
    """Return a browser's context: shared, so that gradio's scripts come out of its cache."""
    with chromium.new_context() as context:
        yield context


@pytest.fixture
def visit(context):
    """Return what opens pages and watches over them; see `browser.visits`."""
    yield from visits(context)
