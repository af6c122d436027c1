"""Damaged recordings of every format: the only outcomes are a `Recording` and one sentence.

Hypothesis takes valid small files apart: bytes turned, cut out, put in, numbers made extreme,
pieces of other formats put in between. Each input is read in a fork of a small process
(`reading_forks.py`) that is confined as `open_recording`'s other process is, so that a parser
that breaks is counted, not fatal; a few go all the way. How many were tried is printed at the
end. NICE_DEMO_FUZZ sets how many inputs each format gets; 60 is what fits into every test run.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_forks import LIMITS
from recording_files import KINDS, assert_sound, is_plain, small_volts, write, zipped

from nice_demo.errors import InputError
from nice_demo.sources.recordings.files import open_recording

INPUTS = int(os.environ.get("NICE_DEMO_FUZZ", "60"))
FUZZED = [*KINDS, "npz members", "zip"]
COUNTS: dict[str, Counter] = {}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Return for each kind its valid files: {name: bytes}."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("valid")
        found[kind] = {path.name: path.read_bytes() for path in write(kind, folder, small_volts())}
        if kind == "npz":
            with zipfile.ZipFile(folder / "small.npz") as archive:
                found["npz members"] = {name: archive.read(name) for name in archive.namelist()}
        if kind == "brainvision":
            packed = zipped([folder / name for name in found[kind]], folder / "small.zip")
            found["zip"] = {"small.zip": packed.read_bytes()}
    return found


@pytest.fixture(scope="module")
def forks():
    """Return the running process of `reading_forks.py`."""
    program = Path(__file__).with_name("reading_forks.py")
    with subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(program.parents[1])},
    ) as process:  # fmt: skip
        yield process
        process.stdin.close()


def outcome_of(forks, paths, folder):
    """Have `paths` read in a fork, in `folder`; return the outcome and its message."""
    print(json.dumps([[str(path) for path in paths], str(folder)]), file=forks.stdin, flush=True)
    return json.loads(forks.stdout.readline())


PLACES = st.floats(0, 1, exclude_max=True)
EXTREME = [b"-1", b"0", b"99999999", b"4294967296", b"1e308", b"nan", b"", b"\xff\xfe"]
WAYS_THAT_SHIFT = ["cut", "insert", "repeat", "splice"]
INTEGERS = [0, 1, -1, 2**31 - 1, -(2**31), 2**24, 65535]


@st.composite
def edits(draw):
    """One change: what, where (near the beginning more often: headers lie there), with what."""
    # What leaves everything else in its place gets further into a parser: more of that.
    way = draw(st.sampled_from(["turn", "integer", "number"] * 3 + WAYS_THAT_SHIFT))
    place = draw(PLACES) ** draw(st.sampled_from([1, 3, 6]))
    match way:
        case "turn" | "insert":
            return way, place, draw(st.binary(min_size=1, max_size=12))
        case "cut" | "repeat" | "splice":
            return way, place, draw(st.integers(1, draw(st.sampled_from([4, 100, 2000]))))
        case "integer":
            order = draw(st.sampled_from(["little", "big"]))
            return way, place, draw(st.sampled_from(INTEGERS)).to_bytes(4, order, signed=True)
    return way, place, draw(st.sampled_from(EXTREME))


def changed(content: bytes, edit, other: bytes) -> bytes:
    """Return `content` after one edit; `other` is a file of another format, to splice from."""
    way, place, what = edit
    at = int(place * len(content))
    match way:
        case "turn" | "integer":
            return content[:at] + what + content[at + len(what) :]
        case "cut":
            return content[:at] + content[at + what :]
        case "insert":
            return content[:at] + what + content[at:]
        case "repeat":
            return content[:at] + content[at : at + what] * 3 + content[at:]
        case "splice":
            return content[:at] + other[at : at + what] + content[at + what :]
    numbers = list(re.finditer(rb"\d+", content[:20_000]))
    if not numbers:
        return content
    number = numbers[int(place * len(numbers))]
    # Of the same length, so that a header of fixed fields stays in its fields.
    return content[: number.start()] + what.ljust(len(number[0]))[:20] + content[number.end() :]


@pytest.mark.parametrize("kind", FUZZED)
def test_damaged_files(kind, valid, forks):
    files = valid[kind]

    @settings(
        max_examples=INPUTS,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        which=st.sampled_from(sorted(files)),
        changes=st.lists(edits(), min_size=1, max_size=3),
        other=st.sampled_from(sorted(valid)),
        whole=st.sampled_from([8, 8, 256, 0]),
    )
    def damage(which, changes, other, whole):
        foreign = next(iter(valid[other].values()))
        content = dict(files)
        for change in changes:
            content[which] = changed(content[which], change, foreign)
        # A beginning that is right is what lets the rest come to a parser.
        content[which] = files[which][:whole] + content[which][whole:]
        with tempfile.TemporaryDirectory() as name:
            paths = lay(kind, content, Path(name))
            outcome, message = outcome_of(forks, paths, Path(name) / "private")
        COUNTS.setdefault(kind, Counter())[outcome] += 1
        assert outcome != "wrong", message
        assert outcome != "refused" or (is_plain(message) and name not in message)

    damage()


def lay(kind, content: dict[str, bytes], folder: Path) -> list[Path]:
    """Write files (for "npz members" the archive around them) and return their paths."""
    if kind == "npz members":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, member in content.items():
                archive.writestr(name, member)
        content = {"small.npz": packed.getvalue()}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in content]


@pytest.mark.parametrize("kind", ["fif", "edf", "set 7.3"])
def test_damaged_files_through_the_other_process(kind, valid, tmp_path):
    rng = np.random.default_rng(len(kind))
    content = {name: bytearray(data) for name, data in valid[kind].items()}
    for data in content.values():
        for place in rng.integers(300, min(len(data), 3000), 20):
            data[place] = rng.integers(256)
    try:
        assert_sound(open_recording(lay(kind, content, tmp_path), LIMITS))
    except InputError as error:
        assert is_plain(str(error))


def test_how_many_inputs_were_tried(tell):
    """The last test of this module tells what came of the others' inputs."""
    tell(f"fuzz of the readers: {sum(sum(c.values()) for c in COUNTS.values())} inputs")
    for kind, counts in COUNTS.items():
        came = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        tell(f"  {kind}: {sum(counts.values())} inputs ({came})")
