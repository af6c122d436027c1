"""How long somebody's own recording takes: from its file to the first evoked, and to pictures.

    python -m benchmarks.recording                   60 s, 63 electrodes, 1000 Hz, as FIF and EDF
    python -m benchmarks.recording --sfreq 512

A recording of random EEG with an event every 0.4 s is written as a file, then read as the page
reads it (in a process of its own), its epochs prepared and decoded. "First time" is a Python that
has opened a bundle and imported scipy.stats but not yet MNE, as the page has for its first visitor
(promise: 5 s to the first evoked); medians of three. What follows is in one process that has
imported everything, medians of five in turns with MNE's own filter, epochs and decimation of the
same recording, which neither whitens nor interpolates.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.encoder import machine
from benchmarks.table import Row, show
from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.decode.recording import decode_epochs
from nice_demo.errors import InputError, command
from nice_demo.montage import REFERENCE
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.channels import match_channels
from nice_demo.sources.recordings.epochs import default_steps, prepare_epochs

PHANTOM = Path("weights/phantom")
LIMIT = 5.0  # s
PARTS = ("read", "prepared", "decoded")


def write(folder: Path, names: list[str], seconds: float, sfreq: float) -> list[Path]:
    """Write random EEG of these electrodes and Fz as FIF and EDF."""
    import mne

    rng = np.random.default_rng(0)
    names = [*names, REFERENCE]
    walk = rng.standard_normal((len(names), int(seconds * sfreq))).cumsum(1)
    walk -= np.linspace(0, 1, walk.shape[1]) * walk[:, -1:]  # no larger than EDF has digits for
    info = mne.create_info(names, sfreq, "eeg", verbose="error")
    raw = mne.io.RawArray(walk * 1e-6 / np.sqrt(sfreq / 250), info, verbose="error")
    onsets = np.arange(1.0, seconds - 1.5, 0.4)
    kinds = [f"kind {i % 4}" for i in range(len(onsets))]
    raw.set_annotations(mne.Annotations(onsets, 0.0, kinds))
    paths = [folder / "own_raw.fif", folder / "own.edf"]
    raw.save(paths[0], verbose="error")
    raw.export(paths[1], verbose="error")
    return paths


def own(path: Path, bundle: Bundle) -> tuple[dict[str, float], Recording]:
    """Go the whole way once; return how long each part took, s, and what was read."""
    from nice_demo.sources.recordings.files import open_recording

    times, subject = BundleDecoder(bundle).times, bundle.subjects[0]
    at = [time.perf_counter()]
    recording = open_recording([path])
    at.append(time.perf_counter())
    matches = match_channels(recording.channels, bundle.montage)
    steps = default_steps(bundle.manifest, recording, matches)
    epochs = prepare_epochs(recording, steps, bundle.montage, times)
    epochs.evoked(epochs.conditions[0])
    at.append(time.perf_counter())
    decode_epochs(bundle, subject, bundle.encoders(subject)[0], epochs)
    at.append(time.perf_counter())
    return dict(zip(PARTS, np.diff(at).tolist(), strict=True)), recording


def by_mne(recording: Recording, rate: float) -> float:
    """Prepare epochs with MNE alone, up to the first evoked; return how long it took, s."""
    import mne

    started = time.perf_counter()
    info = mne.create_info(recording.channels, recording.sfreq, "eeg", verbose="error")
    raw = mne.io.RawArray(recording.volts.astype(float), info, verbose="error")
    raw.set_eeg_reference([REFERENCE], verbose="error").filter(0.1, 100.0, verbose="error")
    kinds = sorted(set(recording.events))
    samples = np.rint(recording.onsets * recording.sfreq).astype(int)
    codes = [1 + kinds.index(name) for name in recording.events]
    epochs = mne.Epochs(
        raw, np.stack([samples, np.zeros_like(samples), codes], 1),
        {name: 1 + i for i, name in enumerate(kinds)}, -0.2, 0.996, preload=True, verbose="error",
    )  # fmt: skip
    if recording.sfreq % rate:
        epochs.resample(rate, verbose="error")
    else:
        epochs.decimate(round(recording.sfreq / rate), verbose="error")
    epochs[kinds[0]].average()
    return time.perf_counter() - started


def first_time(path: Path, folder: Path) -> dict[str, float]:
    """Go the whole way in a Python of its own."""
    call = [sys.executable, "-m", "benchmarks.recording", str(folder), "--once", str(path)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def rows(folder: Path = PHANTOM, seconds: float = 60.0, sfreq: float = 1000.0) -> list[Row]:
    bundle, found = Bundle(folder), []
    with tempfile.TemporaryDirectory() as place:
        names = bundle.montage.names
        with contextlib.redirect_stdout(io.StringIO()):  # MNE tells of its export
            paths = write(Path(place), names, seconds, sfreq)
        for path in paths:
            what = f"own recording, {seconds:g} s at {sfreq:g} Hz, {path.suffix[1:].upper()}"
            cold = [first_time(path, folder) for _ in range(3)]
            took = statistics.median(one["read"] + one["prepared"] for one in cold)
            verdict = "ok" if took < LIMIT else "over"
            split = ", ".join(
                f"{part} {statistics.median(one[part] for one in cold):.2f} s" for part in PARTS
            )
            found.append(
                Row(f"{what}: file → first evoked, first time", f"{took:.2f} s", f"{LIMIT:g} s",
                    verdict)
            )  # fmt: skip
            found.append(Row(f"{what}: first time, in parts", split, "", ""))
        warm, theirs = [], []
        _, recording = own(paths[0], bundle)
        by_mne(recording, float(bundle.manifest["sfreq"]))
        for _ in range(5):
            warm.append(own(paths[0], bundle)[0])
            theirs.append(by_mne(recording, float(bundle.manifest["sfreq"])))
        for part in PARTS:
            ours = statistics.median(one[part] for one in warm)
            other, ratio = "", ""
            if part == "prepared":
                literal = statistics.median(theirs)
                other, ratio = f"{literal:.2f} s", f"{literal / ours:.1f}"
            found.append(
                Row(f"own recording, FIF, after that: {part}", f"{ours:.2f} s", other, ratio)
            )
    return found


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.recording",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, nargs="?", default=PHANTOM)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sfreq", type=float, default=1000.0)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.seconds < 5 or options.sfreq < 100:
        raise InputError("Give --seconds of at least 5 and --sfreq of at least 100.")
    if options.once:
        bundle = Bundle(options.bundle)
        bundle.encoder(bundle.subjects[0], bundle.encoders(bundle.subjects[0])[0])
        _ = bundle.montage, bundle.gallery
        import scipy.stats  # noqa: F401  (app.py does so before anybody comes)

        print(json.dumps(own(options.once, bundle)[0]))
        return 0
    found = rows(options.bundle, options.seconds, options.sfreq)
    print(show(found, machine()))
    return int(any(row.ratio == "over" for row in found))


if __name__ == "__main__":
    sys.exit(main())
