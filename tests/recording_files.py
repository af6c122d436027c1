"""Small recordings in every format, written by other libraries, for the tests of reading them."""

import json
import os
import signal
import traceback
import unicodedata
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import edfio
import eeglabio
import mne
import numpy as np
import pybv
import safetensors.numpy
import scipy.io

from nice_demo.errors import InputError
from nice_demo.sources.recordings import Recording, readers
from nice_demo.sources.recordings.child import confine
from nice_demo.sources.recordings.limits import Limits
from nice_demo.sources.recordings.received import receive

CHANNELS = ["Fp1", "T7", "Cz", "O2"]
SFREQ = 256.0
ONSETS = [0.5, 1.0, 1.5]
EVENTS = ["face", "house", "face"]


def small_volts(n_times=600):
    """Return EEG-like noise, array of shape (4, n_times), V."""
    rng = np.random.default_rng(6)
    return np.cumsum(rng.normal(scale=2e-6, size=(4, n_times)), axis=1)


def small_raw(volts=None, channels=CHANNELS, sfreq=SFREQ, types="eeg"):
    volts = small_volts() if volts is None else volts
    info = mne.create_info(list(channels), sfreq, types, verbose="error")
    raw = mne.io.RawArray(volts, info, verbose="error")
    return raw.set_annotations(mne.Annotations(ONSETS, 0, EVENTS))


def small_epochs(volts, channels=CHANNELS, sfreq=SFREQ, tmin=-0.1, names=None):
    """Return MNE's epochs of an array (n_epochs, n_channels, n_times); names one for each."""
    names = names or ["face", "house"] * (len(volts) // 2)
    event_id = {name: number for number, name in enumerate(dict.fromkeys(names), 1)}
    events = np.array([(300 * row, 0, event_id[name]) for row, name in enumerate(names)])
    info = mne.create_info(list(channels), sfreq, "eeg", verbose="error")
    return mne.EpochsArray(volts, info, events, tmin, event_id, verbose="error")


def write(kind, folder: Path, volts=None, channels=CHANNELS, sfreq=SFREQ) -> list[Path]:
    """Write continuous EEG (epochs for kinds so called) into `folder`; return the files."""
    volts = small_volts() if volts is None else volts
    channels = list(channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _WRITERS[kind](folder, volts, channels, sfreq)


def _fif(folder, volts, channels, sfreq, suffix=".fif"):
    path = folder / f"small_raw{suffix}"
    small_raw(volts, channels, sfreq).save(path, fmt="double", verbose="error")
    return [path]


def _fif_gz(folder, volts, channels, sfreq):
    return _fif(folder, volts, channels, sfreq, ".fif.gz")


def _fif_epochs(folder, volts, channels, sfreq):
    path = folder / "small-epo.fif"
    epochs = small_epochs(_in_epochs(volts), channels, sfreq)
    epochs.save(path, fmt="double", verbose="error")
    return [path]


def _edf(folder, volts, channels, sfreq):
    path = folder / "small.edf"
    _edfio(edfio.Edf, edfio.EdfSignal, volts, channels, sfreq).write(path)
    return [path]


def _bdf(folder, volts, channels, sfreq):
    path = folder / "small.bdf"
    _edfio(edfio.Bdf, edfio.BdfSignal, volts, channels, sfreq).write(path)
    return [path]


def _edfio(whole, signal, volts, channels, sfreq):
    n_times = int(volts.shape[1] // sfreq * sfreq)  # whole records of 1 s
    rows = [
        signal(row[:n_times] * 1e6, sfreq, label=name, physical_dimension="uV")
        for name, row in zip(channels, volts, strict=True)
    ]
    events = [edfio.EdfAnnotation(*event) for event in zip(ONSETS, [0] * 3, EVENTS, strict=True)]
    return whole(rows, annotations=events)


def _brainvision(folder, volts, channels, sfreq):
    events = [
        {"onset": round(onset * sfreq), "description": number, "type": "Stimulus"}
        for onset, number in zip(ONSETS, (1, 2, 1), strict=True)
    ]
    pybv.write_brainvision(
        data=volts,
        sfreq=sfreq,
        ch_names=channels,
        fname_base="small",
        folder_out=folder,
        events=events,
        overwrite=True,
    )
    return [folder / f"small{suffix}" for suffix in (".vhdr", ".vmrk", ".eeg")]


def _set(folder, volts, channels, sfreq, fmt="v5"):
    path = folder / "small.set"
    events = [EVENTS, np.array(ONSETS), np.zeros(3)]
    eeglabio.raw.export_set(str(path), volts, sfreq, channels, annotations=events, fmt=fmt)
    return [path]


def _set_73(folder, volts, channels, sfreq):
    return _set(folder, volts, channels, sfreq, "v7.3")


def _set_epochs(folder, volts, channels, sfreq):
    path = folder / "small.set"
    mne.export.export_epochs(
        path, small_epochs(_in_epochs(volts), channels, sfreq), verbose="error"
    )
    return [path]


def _set_fdt(folder, volts, channels, sfreq, named="small.fdt"):
    (folder / "small.fdt").write_bytes((volts * 1e6).astype("<f4").tobytes(order="F"))
    return [set_file(folder, volts.shape, channels, sfreq, named), folder / "small.fdt"]


def set_file(folder, shape, channels, sfreq, data, **more):
    """Write a .set as EEGLAB does whose field `data` is what is given; return its path."""
    record = [("type", object), ("latency", float)]
    events = [(name, onset * sfreq + 1) for name, onset in zip(EVENTS, ONSETS, strict=True)]
    eeg = {
        "setname": "small",
        "nbchan": shape[0],
        "pnts": shape[1],
        "trials": 1,
        "srate": sfreq,
        "xmin": 0.0,
        "xmax": (shape[1] - 1) / sfreq,
        "data": data,
        "datfile": data if isinstance(data, str) else "",
        "chanlocs": np.array([(name,) for name in channels], dtype=[("labels", object)]),
        "event": np.array(events, dtype=record),
        "chaninfo": {"nodatchans": []},
    }
    scipy.io.savemat(folder / "small.set", {"EEG": eeg | more}, appendmat=False)
    return folder / "small.set"


def _npz(folder, volts, channels, sfreq):
    path = folder / "small.npz"
    np.savez(path, eeg=volts, channels=channels, sfreq=sfreq, onsets=ONSETS, events=EVENTS)
    return [path]


def _safetensors(folder, volts, channels, sfreq):
    path = folder / "small.safetensors"
    words = {"channels": channels, "sfreq": sfreq, "events": EVENTS}
    safetensors.numpy.save_file(
        {"eeg": np.ascontiguousarray(volts), "onsets": np.array(ONSETS)},
        path,
        {key: json.dumps(word) for key, word in words.items()},
    )
    return [path]


def _in_epochs(volts, n_times=100):
    """Cut (n_channels, n_times) into epochs; epochs stay as they are."""
    if volts.ndim == 3:
        return volts
    n_epochs = volts.shape[1] // n_times // 2 * 2
    cut = volts[:, : n_epochs * n_times].reshape(len(volts), n_epochs, n_times)
    return cut.transpose(1, 0, 2).copy()


_WRITERS = {
    "fif": _fif,
    "fif.gz": _fif_gz,
    "fif epochs": _fif_epochs,
    "edf": _edf,
    "bdf": _bdf,
    "brainvision": _brainvision,
    "set": _set,
    "set 7.3": _set_73,
    "set + fdt": _set_fdt,
    "set epochs": _set_epochs,
    "npz": _npz,
    "safetensors": _safetensors,
}
KINDS = list(_WRITERS)


def zipped(paths, path: Path, **kinds) -> Path:
    """Pack files into a zip archive without their folders."""
    with zipfile.ZipFile(path, "w", **kinds) as archive:
        for file in paths:
            archive.write(file, file.name)
    return path


def read_here(paths, folder: Path, limits: Limits | None = None) -> Recording:
    """Read in this process what `open_recording` reads in another: quick, but unprotected."""
    limits = limits or Limits()
    folder.mkdir()
    return readers.read(folder, receive([Path(path) for path in paths], folder, limits), limits)


def read_in_fork(paths, folder: Path, limits: Limits, check=None) -> tuple[str, str]:
    """Read in a fork of this process that is confined as `open_recording`'s other process is.

    Parameters
    ----------
    paths : list of Path
        The files.
    folder : Path
        To be made; private.
    limits : Limits
        Here `memory` comes on top of what this process has already.
    check : callable, optional
        Called with the recording.

    Returns
    -------
    outcome : str
        "read", "refused", "ended" (by a limit, or by breaking), or "wrong".
    message : str
        The sentence of a refusal, or the traceback of what went wrong.
    """
    folder = Path(folder)
    folder.mkdir()
    try:
        names = receive([Path(path) for path in paths], folder, limits)
    except InputError as error:
        return "refused", str(error)
    message = folder / "message.txt"
    process = os.fork()
    if process == 0:  # never returns: this copy of pytest must not go on
        code = 3
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            taken = pages * os.sysconf("SC_PAGE_SIZE")
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(limits.seconds) + 1)
            confine(folder, replace(limits, memory=taken + limits.memory))
            recording = readers.read(folder, names, limits)
            if check is not None:
                check(recording)
            code = 0
        except InputError as error:
            message.write_text(str(error), encoding="utf-8")
            code = 1
        except BaseException:
            message.write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    outcomes = {0: "read", 1: "refused", 3: "wrong"}
    outcome = outcomes.get(os.waitstatus_to_exitcode(status), "ended")
    return outcome, message.read_text(encoding="utf-8") if message.exists() else ""


def assert_sound(recording):
    """A recording, whatever it was read from, is what its class says."""
    assert recording.volts.dtype == np.float32 and recording.volts.ndim in (2, 3)
    assert np.isfinite(recording.volts).all()
    assert len(recording.channels) == recording.volts.shape[-2]
    assert len(set(recording.channels)) == len(recording.channels)
    n_events = len(recording.volts) if recording.epoched else len(recording.onsets)
    assert len(recording.events) == n_events
    assert np.isfinite(recording.onsets).all() and recording.onsets.dtype == np.float64
    assert np.isfinite([recording.sfreq, recording.tmin]).all()
    for text in [recording.name, *recording.channels, *recording.events, *recording.notes]:
        assert is_plain(text)
    json.dumps([recording.channels, recording.events, recording.notes]).encode("ascii")


def is_plain(text):
    """Return whether text is short and free of control characters and line ends."""
    kinds = {unicodedata.category(character) for character in text}
    return 0 < len(text) <= 800 and not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
