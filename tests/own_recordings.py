"""Somebody's own recordings, made up: what the tests and the README's commands read.

    PYTHONPATH=. python tests/own_recordings.py FOLDER

writes what the README calls ``bids``, ``pictures`` and ``session.edf``.
"""

import csv
import sys
import warnings
from pathlib import Path

import mne
import numpy as np
from PIL import Image

CHANNELS = ["F3", "Fz", "F4", "T7", "C3", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2"]
CHANNELS = [*CHANNELS, "PO7", "PO8"]
ELECTRODES = [name for name in CHANNELS if name != "Fz"]  # Fz isn't one of the cap's
SFREQ, DIM, N_CONCEPTS, PER = 500.0, 6, 40, 2
SUBJECTS, SESSIONS = ["01", "02"], ["a", "b"]
BAD = ("01", "b", "P3")  # subject, session, channel
PICTURES = [f"thing{i:02d}/view{k}.png" for i in range(N_CONCEPTS) for k in range(PER)]


def vectors():
    """Return an embedding of each picture; views of a thing resemble each other."""
    rng = np.random.default_rng(11)
    rows = np.repeat(rng.standard_normal((N_CONCEPTS, DIM)), PER, 0)
    return rows + 0.3 * rng.standard_normal(rows.shape)


def simulated(subject, session):
    """Return a recording in which each picture evokes its own pattern, and its events."""
    rng = np.random.default_rng([int(subject), SESSIONS.index(session)])
    mixing = np.random.default_rng(int(subject)).standard_normal((DIM, len(CHANNELS), 3))
    order = rng.permutation(len(PICTURES))
    starts = (np.arange(len(order)) * 1.3 + 1.0 + rng.integers(0, 50, len(order)) / SFREQ).round(3)
    volts = 10e-6 * rng.standard_normal((len(CHANNELS), int((starts[-1] + 2.5) * SFREQ)))
    for start, picture in zip(starts, order, strict=True):
        pattern = np.tensordot(vectors()[picture], mixing, 1)  # (channels, 3)
        for k in range(3):
            first = round(start * SFREQ) + 25 + 120 * k
            volts[:, first : first + 150] += 4e-6 * pattern[:, k, None] * np.hanning(150)
    return volts, starts, [PICTURES[picture] for picture in order]


def write_bids(root: Path) -> None:
    """Write a BIDS folder of two subjects with two sessions each."""
    from mne_bids import BIDSPath, write_raw_bids

    for subject in SUBJECTS:
        for session in SESSIONS:
            volts, starts, names = simulated(subject, session)
            info = mne.create_info(CHANNELS, SFREQ, "eeg", verbose="error")
            raw = mne.io.RawArray(volts, info, verbose="error")
            raw.info["line_freq"] = 50
            if BAD[:2] == (subject, session):
                raw.info["bads"] = [BAD[2]]
            raw.set_annotations(
                mne.Annotations([*starts, 0.5], 0.1, [*names, "button"], orig_time=None)
            )
            path = BIDSPath(subject=subject, session=session, task="look", root=root)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                write_raw_bids(raw, path, allow_preload=True, format="BrainVision", verbose="error")
            events = path.copy().update(suffix="events", extension=".tsv", datatype="eeg").fpath
            with open(events, encoding="utf-8") as file:
                lines = list(csv.DictReader(file, delimiter="\t"))
            for line in lines:
                line["stim_file"] = "n/a" if line["trial_type"] == "button" else line["trial_type"]
            with open(events, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(lines[0]), delimiter="\t")
                writer.writeheader()
                writer.writerows(lines)


def write_pictures(folder: Path) -> None:
    """Write a picture of each thing that was shown."""
    rng = np.random.default_rng(1)
    for name in PICTURES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(folder / name)


def write_session(path: Path) -> None:
    """Write a minute of a phantom's EEG as EDF."""
    from nice_demo.bundle import Bundle
    from nice_demo.ui.recording.steps import example

    made, _ = example(Bundle(Path(__file__).resolve().parents[1] / "weights" / "phantom"))
    info = mne.create_info(made.channels, made.sfreq, "eeg", verbose="error")
    raw = mne.io.RawArray(made.volts, info, verbose="error")
    raw.set_annotations(mne.Annotations(made.onsets, 0.1, made.events))
    mne.export.export_raw(path, raw, overwrite=True, verbose="error")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write_bids(place / "bids")
    write_pictures(place / "pictures")
    write_session(place / "session.edf")
