"""What several tests share."""

import os
from pathlib import Path

import hypothesis
import pytest
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
