"""What several tests share."""

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data; skip where it is absent, fail on CI."""
    if not SHARED_DATA.is_dir():
        message = f"no real data at {SHARED_DATA}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return SHARED_DATA
