"""Readers of recordings: from checked files under our own names to a `Recording`.

Meant for the process of `nice_demo.sources.recordings.child`; MNE reads, this module decides
what is taken. MNE is imported inside functions, each format's reader only when it is needed.
"""

import json
import mmap
import os
import re
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nice_demo.errors import InputError, one_line
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.archives import unpack_gzip, unpack_zip
from nice_demo.sources.recordings.limits import Limits
from nice_demo.sources.recordings.received import (
    FORMATS,
    SUFFIXES,
    check_beginning,
    clean,
    known_suffix,
    main_suffix,
    take_name,
    too_large,
)

if TYPE_CHECKING:
    import mne

_AT_ONCE = 25_000_000  # samples; MNE reads in float64, so 200 MB
_ARRAYS = ("eeg", "channels", "sfreq", "tmin", "events", "onsets")
_MOST_MNE_NOTES = 3
_LONGEST_HEADER = 5_000_000  # bytes of a .vhdr
_FARTHEST = 3600.0  # s, that epochs may begin from their event
_MOST_VOLTS = 1e9  # what lies below may be a wrong unit, and doesn't overflow later

# MNE's warnings that say nothing about the data, or what our own notes say.
_NO_NOTE = re.compile(
    "naming convention|(high|low)pass filter|incorrect, the file name must have changed|"
    "more than one events|multiple events|Limited .* annotation.* expanding outside",
    re.IGNORECASE,
)
# Formats other than FIF call everything EEG; then the name says what it isn't.
_NOT_EEG = {
    "EOG": r"[hv]?eogu?[lrbdv]?|eyes?",
    "ECG": r"e[ck]g",
    "EMG": r"emg|chin",
    "trigger": r"status|trig(ger)?s?|sti|stim|markers?",
    "skin conductance": r"gsr|eda|scr",
    "breathing": r"resp(iration)?|airflow|thorax|abdomen",
    "pulse": r"pleth?|ppg|spo2|pulse",
    "temperature": r"temp(erature)?",
    "motion": r"acc(el)?[ _-]?[xyz]?|gyro[ _-]?[xyz]?",
}
# "Fp1", "EEG CPz-REF", "ft10": what a cap's electrodes are called.
_ELECTRODE = re.compile(
    r"(eeg[ _-]?)?([fptco]|fp|af|aff|ft|ftt|fc|fcc|fft|ffc|tp|ttp|tpp|cp|ccp|cpp|po|ppo|poo|oi|i|n"
    r"|a|m)(z|\d{1,2})h?([ _-]?(ref|le|re|avg?|[am][12]))?",
    re.IGNORECASE,
)
# In FIF the beginning of a tag that holds the name of another file: its kind, and "text".
_NEXT_FILE = struct.pack(">ii", 118, 10)
# Annotations that mark stretches of the recording rather than events.
_NO_EVENT = re.compile(r"bad|edge|boundary|new segment/", re.IGNORECASE)


def read(folder: Path, names: dict[str, str], limits: Limits) -> Recording:
    """Read the recording in a folder.

    Parameters
    ----------
    folder : Path
        Holds files named "recording" and their suffix; archives are unpacked into it.
    names : dict of str to str
        For each suffix the name that the file came with.
    limits : Limits
        Of what is unpacked and taken.

    Returns
    -------
    Recording
        EEG channels and events only.

    Raises
    ------
    InputError
        Where the file can't be read or holds no EEG within the limits.
    """
    notes: list[str] = []
    names = dict(names)
    suffix = main_suffix(names)
    if suffix == ".zip":
        names = _unpacked(folder, names[".zip"], limits, notes)
        suffix = main_suffix(names)
    if suffix == ".fif.gz":
        unpack_gzip(folder / "recording.fif.gz", names[suffix], folder / "recording.fif", limits)
        check_beginning(folder / "recording.fif", ".fif", names[suffix])
        names = {".fif": names[suffix]}
        suffix = ".fif"
    name = clean(names[suffix])
    path = folder / f"recording{suffix}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = _READERS[suffix](path, names, limits, notes)
            channels = _unique([clean(channel) for channel in found.channels], notes)
            events = [clean(event) for event in found.events]
        except InputError:
            raise
        except MemoryError:
            raise InputError(too_large(name)) from None
        except Exception as error:  # parsers of damaged files fail in every way there is
            raise InputError(
                f"{name} can't be read as {FORMATS[suffix]} ({_quote(error, folder)}); check that "
                "it is whole, or export it again, for example as EDF."
            ) from None
    if np.median(found.volts[:1000, ..., :100_000].std(axis=-1)) > 1e-3:
        notes.append(
            "The EEG is larger than a millivolt, far above the usual 0.01 to 0.1 mV: perhaps the "
            "file's unit is missing or isn't volt."
        )
    texts = dict.fromkeys(
        _quote(warning.message, folder)
        for warning in caught
        if not issubclass(warning.category, (DeprecationWarning, FutureWarning))
        and not _NO_NOTE.search(str(warning.message))
    )
    notes += [f"MNE says: {text}" for text in list(texts)[:_MOST_MNE_NOTES]]
    return replace(
        found, name=name, format=FORMATS[suffix], channels=channels, events=events, notes=notes
    )


def _unpacked(folder: Path, name: str, limits: Limits, notes: list[str]) -> dict[str, str]:
    """Unpack a zip of one recording; return for each suffix the name of the file inside."""
    names: dict[str, str] = {}
    skipped = []

    def place(entry: str) -> str | None:
        suffix = Path(entry.lower()).suffix
        if suffix in SUFFIXES - {".zip"}:
            take_name(names, suffix, entry)
            return f"recording{suffix}"
        if suffix in (".npy", ".pth", ".pt", ".pkl", ".pickle"):
            known_suffix(entry)  # refuses it, with what to do instead
        skipped.append(clean(entry))
        return None

    unpack_zip(folder / "recording.zip", name, folder, limits, place)
    main_suffix(names)
    for suffix, entry in names.items():
        check_beginning(folder / f"recording{suffix}", suffix, entry)
    if skipped:
        notes.append(f"Of {clean(name)}, {_few(skipped)} wasn't read.")
    return names


# --- what MNE reads ---


def _read_fif(path: Path, names: dict[str, str], limits: Limits, notes: list[str]) -> Recording:
    from mne import read_epochs
    from mne.io import read_raw_fif

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # MNE would follow it, wherever it leads.
        if content.find(_NEXT_FILE) >= 0:
            raise InputError(
                f"{clean(names['.fif'])} names another file as its other part; save it as one."
            )
    try:
        raw = read_raw_fif(path, verbose="warning")
    except ValueError as error:
        if "No raw data" not in str(error):
            raise
    else:
        return _from_raw(raw, limits, notes, named=False)
    epochs = read_epochs(path, proj=False, preload=False, verbose="warning")
    return _from_epochs(epochs, limits, notes, named=False)


def _read_edf(path: Path, names: dict[str, str], limits: Limits, notes: list[str]) -> Recording:
    from mne.io import read_raw_bdf, read_raw_edf

    _check_edf_header(path, clean(names[path.suffix]), limits)
    reader = read_raw_bdf if path.suffix == ".bdf" else read_raw_edf
    return _from_raw(reader(path, verbose="warning"), limits, notes)


def _check_edf_header(path: Path, name: str, limits: Limits) -> None:
    """Refuse, before MNE parses them, more channels or annotations than are taken."""
    with open(path, "rb") as file:
        header = file.read(256)
        n_channels = int(header[252:256])
        if not 0 < n_channels <= 2 * limits.channels:
            raise InputError(f"{name} claims {n_channels} channels; check the file.")
        fields = file.read(256 * n_channels)
    labels = [fields[16 * i : 16 * i + 16].strip() for i in range(n_channels)]
    counts = [int(fields[216 * n_channels + 8 * i :][:8]) for i in range(n_channels)]
    n_bytes = 3 if path.suffix == ".bdf" else 2
    record = n_bytes * sum(counts)
    text = n_bytes * sum(
        count
        for count, label in zip(counts, labels, strict=True)
        if label in (b"EDF Annotations", b"BDF Annotations")
    )
    if min(counts) < 0 or record <= 0:
        raise InputError(f"{name} claims records without samples; check the file.")
    if text * (path.stat().st_size // record) > 2000 * limits.events:
        raise InputError(
            f"{name} has far more room for annotations than {limits.events} need; "
            "save it with fewer."
        )


def _read_brainvision(
    path: Path, names: dict[str, str], limits: Limits, notes: list[str]
) -> Recording:
    from mne.io import read_raw_brainvision

    if path.stat().st_size > _LONGEST_HEADER:
        raise InputError(f"{clean(names['.vhdr'])} is far too long for a header; check the file.")
    header = path.read_bytes().decode("utf-8", "replace")
    n_channels = re.search(r"^[ \t]*NumberOfChannels[ \t]*=[ \t]*(\d+)", header, re.MULTILINE)
    if n_channels is not None and int(n_channels[1][:9]) > limits.channels:
        raise InputError(_too_many_channels(int(n_channels[1][:9]), limits))
    data = _companion(header, "DataFile", (".eeg", ".dat"), names, notes)
    if data is None:
        raise InputError(f"{clean(names['.vhdr'])} doesn't say where its data lie; export again.")
    overrides = {"data_fname": str(path.with_suffix(data)), "marker_fname": False}
    if _companion(header, "MarkerFile", (".vmrk",), names, notes):
        markers = path.with_suffix(".vmrk")
        _check_markers(markers, limits)
        overrides["marker_fname"] = str(markers)
    return _from_raw(
        read_raw_brainvision(path, overrides=overrides, verbose="warning"), limits, notes
    )


def _companion(
    header: str, key: str, suffixes: tuple[str, ...], names: dict[str, str], notes: list[str]
) -> str | None:
    """Return the suffix of the file that a BrainVision header names; None where it names none.

    The name must be a plain one. A file that was given under another name is taken where it is
    the only one of its kind, and noted: people rename files, and browsers do.
    """
    found = re.search(rf"^[ \t]*{key}[ \t]*=(.*)$", header, re.MULTILINE)
    if found is None or not found[1].strip():
        return None
    main = clean(names[".vhdr"])
    named = found[1].strip().replace("$b", Path(names[".vhdr"]).stem)
    _check_plain(named, main)
    given = [suffix for suffix in suffixes if suffix in names]
    if not given:
        raise InputError(f"{main} needs {clean(named)}; give that file as well.")
    suffix = Path(named.lower()).suffix if Path(named.lower()).suffix in given else given[0]
    if _bare(named) != _bare(names[suffix]):
        notes.append(f"{main} names {clean(named)}; {clean(names[suffix])} was read in its place.")
    return suffix


def _check_plain(named: str, by: str) -> None:
    if not named.strip(". ") or re.search(r"[/\\:\x00-\x1f]", named) or named.startswith("~"):
        raise InputError(
            f"{by} names a file in another place ({clean(named)}); "
            "it may only name one beside it: export it again."
        )


def _bare(name: str) -> str:
    """Return a name as it compares after a browser or a web server has made it tidy."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _check_markers(path: Path, limits: Limits) -> None:
    """Count a marker file's markers before it is parsed, and give it an encoding MNE can read."""
    content = path.read_bytes()
    if content.count(b"\nMk") > limits.events:
        raise InputError(_too_many_events(content.count(b"\nMk"), limits))
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
        text = re.sub(r"(?m)^Codepage=.*$", "Codepage=UTF-8", text)
        path.write_bytes(text.encode("utf-8"))


def _read_eeglab(path: Path, names: dict[str, str], limits: Limits, notes: list[str]) -> Recording:
    name = clean(names[".set"])
    if not _is_hdf5(path):
        return _read_eeglab_file(path, name, names, limits, notes)
    with _own_data_only(path, name):
        _check_hdf5(path, name, limits)
        return _read_eeglab_file(path, name, names, limits, notes)


def _read_eeglab_file(
    path: Path, name: str, names: dict[str, str], limits: Limits, notes: list[str]
) -> Recording:
    from mne import read_epochs_eeglab
    from mne.io import read_raw_eeglab

    fields = _eeglab_fields(path, name)
    trials = int(fields.get("trials", 1))
    if isinstance(fields.get("data"), str):
        named = fields["data"]
        _check_plain(named, name)
        if Path(named).suffix.lower() != ".fdt":
            raise InputError(f"{name} keeps its data in {clean(named)}, not in an .fdt file.")
        if ".fdt" not in names:
            raise InputError(f"{name} needs {clean(named)}; give that file as well.")
        if _bare(named) != _bare(names[".fdt"]):
            notes.append(f"{name} names {clean(named)}; {clean(names['.fdt'])} was read instead.")
        expected = 4 * int(fields["nbchan"]) * int(fields["pnts"]) * max(trials, 1)
        size = path.with_suffix(".fdt").stat().st_size
        if size != expected:
            raise InputError(
                f"{clean(names['.fdt'])} has {size} bytes where {name} tells of {expected}; "
                "give the file that belongs to it."
            )
    if trials > 1:
        return _from_epochs(read_epochs_eeglab(path, verbose="warning"), limits, notes)
    return _from_raw(read_raw_eeglab(path, preload=True, verbose="warning"), limits, notes)


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(10).startswith((b"MATLAB 7.3", b"\x89HDF"))


@contextmanager
def _own_data_only(path: Path, name: str) -> Iterator[None]:
    """Let h5py open nothing that takes its data from other files.

    HDF5 opens those itself, which Python's audit hook doesn't see. Going through all links first
    (`_check_hdf5`) isn't enough: a damaged table of links hides a dataset that a reference finds.
    """
    import h5py

    opened = h5py.Dataset.__init__, h5py.Group.__init__
    other = InputError(f"{name} takes data from another file; save it as one file.")

    def of_this_file(one: h5py.Dataset | h5py.Group) -> None:
        if os.fsdecode(h5py.h5i.get_file_id(one.id).name) != str(path):
            raise other

    def open_dataset(one: h5py.Dataset, *given: object, **more: object) -> None:
        opened[0](one, *given, **more)
        of_this_file(one)
        if one.external or one.is_virtual:
            raise other

    def open_group(one: h5py.Group, *given: object, **more: object) -> None:
        opened[1](one, *given, **more)
        of_this_file(one)

    h5py.Dataset.__init__, h5py.Group.__init__ = open_dataset, open_group
    try:
        yield
    finally:
        h5py.Dataset.__init__, h5py.Group.__init__ = opened


def _check_hdf5(path: Path, name: str, limits: Limits) -> None:
    """Refuse HDF5 files that lead to other files, or claim too much."""
    import h5py

    claimed = 0
    with h5py.File(path, "r") as file:

        def check(place: str, link: object) -> bool | None:
            nonlocal claimed
            if isinstance(link, h5py.ExternalLink):
                return True
            try:
                item = file.get(place) if isinstance(link, h5py.HardLink) else None
            except InputError:  # of `_own_data_only`; h5py can't pass it on
                return True
            if isinstance(item, h5py.Dataset):
                claimed += item.nbytes
            return None

        elsewhere = file.visititems_links(check)
    if elsewhere:
        raise InputError(f"{name} takes data from another file; save it as one file.")
    if claimed > limits.unpacked:
        raise InputError(f"{name} claims {claimed / 1e6:.0f} MB of data; give a shorter recording.")


def _eeglab_fields(path: Path, name: str) -> dict:
    """Return the fields of an EEGLAB structure, without large `data` where they lie apart.

    MATLAB's objects and functions come as bare arrays of bytes or None: nothing of them is run.
    """
    import pymatreader

    kinds = {variable: kind for variable, _, kind in pymatreader.whosmat(path)}
    if "ALLEEG" in kinds:
        raise InputError(f"{name} holds several recordings (ALLEEG); save one of them.")
    if "EEG" in kinds:
        fields = pymatreader.read_mat(path, ["EEG"])["EEG"]
        fields = fields.get("EEG", fields)
    else:
        wanted = {"trials", "nbchan", "pnts"} | ({"data"} if kinds.get("data") == "char" else set())
        fields = pymatreader.read_mat(path, sorted(wanted))
    return fields


# --- from MNE's objects to arrays ---


def _from_raw(
    raw: "mne.io.BaseRaw", limits: Limits, notes: list[str], named: bool = True
) -> Recording:
    picks = _eeg_picks(raw.info, notes, named)
    shape = (len(picks), raw.n_times)
    sfreq = float(raw.info["sfreq"])
    _check_size(shape, sfreq, limits)
    volts = np.empty(shape, dtype=np.float32)
    step = max(1, _AT_ONCE // len(picks))
    for start in range(0, raw.n_times, step):
        volts[:, start : start + step] = raw[picks, start : start + step][0]
    channels = [raw.ch_names[pick] for pick in picks]
    _check_volts(volts, channels)
    onsets, events = _events(raw, limits, notes)
    bad = bad_stretches(raw)
    return Recording("", "", volts, channels, sfreq, onsets=onsets, events=events, bad=bad)


def _from_epochs(
    epochs: "mne.BaseEpochs", limits: Limits, notes: list[str], named: bool = True
) -> Recording:
    picks = _eeg_picks(epochs.info, notes, named)
    shape = (len(epochs.events), len(picks), len(epochs.times))
    sfreq = float(epochs.info["sfreq"])
    _check_size(shape, sfreq, limits)
    volts = np.empty(shape, dtype=np.float32)
    step = max(1, _AT_ONCE // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        piece = epochs[start : start + step].get_data(picks=picks, verbose="error")
        volts[start : start + step] = piece
    channels = [epochs.ch_names[pick] for pick in picks]
    _check_volts(volts, channels)
    called = {value: name for name, value in epochs.event_id.items()}
    events = [called.get(value, str(value)) for value in epochs.events[:, 2].tolist()]
    if epochs.baseline is not None:
        start, stop = epochs.baseline
        notes.append(f"The epochs already had a baseline taken off ({start:g} to {stop:g} s).")
    return Recording("", "", volts, channels, sfreq, float(epochs.times[0]), events=events)


def _eeg_picks(info: "mne.Info", notes: list[str], named: bool) -> list[int]:
    """Return which channels are EEG, and note what is left out.

    Parameters
    ----------
    info : mne.Info
        Of the recording.
    notes : list of str
        Extended.
    named : bool
        Whether names tell, as well as types, what isn't EEG.
    """
    picks, unsure, left = [], [], Counter()
    for pick, (name, kind) in enumerate(
        zip(info["ch_names"], info.get_channel_types(), strict=True)
    ):
        other = _other_kind(name) if named and kind == "eeg" else None
        if kind == "eeg" and other is None:
            picks.append(pick)
        elif kind == "misc" and _ELECTRODE.fullmatch(name.strip()):
            picks.append(pick)
            unsure.append(clean(name))
        else:
            left[other or {"stim": "trigger", "misc": "unknown"}.get(kind, kind.upper())] += 1
    kinds = ", ".join(f"{count} {kind}" for kind, count in left.items())
    if not picks:
        raise InputError(
            f"The recording has no EEG channel, only {kinds or 'nothing'}; "
            "if they are EEG, say so in the file (MNE: set_channel_types)."
        )
    if left:
        notes.append(f"Channels that aren't EEG were left out: {kinds}.")
    if unsure:
        notes.append(f"The file doesn't say that {_few(unsure)} is EEG; taken as it is called so.")
    bad = [clean(name) for name in info["bads"]]
    if bad:
        notes.append(f"Marked as bad in the file, but read: {_few(bad)}.")
    if info["projs"] and not all(proj["active"] for proj in info["projs"]):
        notes.append("The file's projections (SSP) weren't applied.")
    return picks


def _other_kind(name: str) -> str | None:
    for kind, pattern in _NOT_EEG.items():
        if re.match(rf"(?:eeg[ _-])?(?:{pattern})(?![a-z])", name.strip(), re.IGNORECASE):
            return kind
    return None


def _events(
    raw: "mne.io.BaseRaw", limits: Limits, notes: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Return the events of annotations and trigger channels, in time's order."""
    from mne import find_events, pick_types

    if len(raw.annotations) > limits.events:
        raise InputError(_too_many_events(len(raw.annotations), limits))
    onsets = (raw.annotations.onset - raw.first_time).tolist()
    events = [str(description) for description in raw.annotations.description]
    kept = [not _NO_EVENT.match(event) for event in events]
    if not all(kept):
        marks = _few(dict.fromkeys(clean(e) for e, k in zip(events, kept, strict=True) if not k))
        notes.append(f"{kept.count(False)} marks that aren't events were left out: {marks}.")
    onsets = [onset for onset, keep in zip(onsets, kept, strict=True) if keep]
    events = [event for event, keep in zip(events, kept, strict=True) if keep]

    if len(pick_types(raw.info, meg=False, stim=True)):
        # BioSemi's status channel has 16 bits of triggers; above them stands how the amplifier is.
        mask = 0xFFFF if "Status" in raw.ch_names else None
        found = find_events(raw, shortest_event=1, mask=mask, mask_type="and", verbose="warning")
        if len(events) + len(found) > limits.events:
            raise InputError(_too_many_events(len(events) + len(found), limits))
        onsets += ((found[:, 0] - raw.first_samp) / raw.info["sfreq"]).tolist()
        events += [str(value) for value in found[:, 2].tolist()]
    order = np.argsort(onsets, kind="stable")
    return np.array(onsets, dtype=np.float64)[order], [events[index] for index in order]


def bad_stretches(raw: "mne.io.BaseRaw") -> np.ndarray:
    """Return where annotations call the recording bad, as `Recording.bad`."""
    bad = [text.lower().startswith("bad") for text in raw.annotations.description]
    starts = raw.annotations.onset[bad] - raw.first_time
    stretches = np.stack([starts, starts + raw.annotations.duration[bad]], 1)
    return stretches[np.isfinite(stretches).all(1)]


# --- ours ---


def _read_npz(path: Path, names: dict[str, str], limits: Limits, notes: list[str]) -> Recording:
    skipped = []

    def place(entry: str) -> str | None:
        if entry.removesuffix(".npy") in _ARRAYS:
            return entry
        skipped.append(clean(entry))
        return None

    name = clean(names[".npz"])
    folder = path.with_name("arrays")
    folder.mkdir()
    unpack_zip(path, names[".npz"], folder, limits, place)
    if skipped:
        notes.append(f"Of {name}, {_few(skipped)} wasn't read.")
    arrays = {}
    for file in sorted(folder.iterdir()):
        check_beginning(file, ".npy", f"{name}'s {file.stem}")
        try:
            # Mapped, a file that claims more than it has is refused before anything is taken.
            arrays[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            if "object" not in str(error).lower():
                raise
            raise InputError(
                f"{name}'s {file.stem} holds Python objects (a pickle), which are never read; "
                "save numbers, and names as an array of text: np.array(names, dtype=str)."
            ) from None
    return _from_arrays(arrays, name, limits, notes)


def _read_safetensors(
    path: Path, names: dict[str, str], limits: Limits, notes: list[str]
) -> Recording:
    import safetensors

    name = clean(names[".safetensors"])
    arrays: dict[str, np.ndarray] = {}
    with safetensors.safe_open(path, "numpy") as file:
        for key, text in (file.metadata() or {}).items():
            if key in _ARRAYS and key != "eeg":
                arrays[key] = np.array(json.loads(text))
        skipped = [clean(key) for key in file.keys() if key not in _ARRAYS]  # noqa: SIM118
        arrays |= {key: file.get_tensor(key) for key in _ARRAYS if key in file.keys()}  # noqa: SIM118
    if skipped:
        notes.append(f"Of {name}, {_few(skipped)} wasn't read.")
    return _from_arrays(arrays, name, limits, notes)


def _from_arrays(
    arrays: dict[str, np.ndarray], name: str, limits: Limits, notes: list[str]
) -> Recording:
    missing = [key for key in ("eeg", "channels", "sfreq") if key not in arrays]
    if missing:
        raise InputError(f"{name} has no {' and no '.join(missing)}; see what an .npz must hold.")
    eeg = arrays["eeg"]
    if eeg.ndim not in (2, 3) or eeg.dtype.kind not in "fiu" or 0 in eeg.shape:
        raise InputError(
            f"{name}'s eeg has shape {eeg.shape} and type {eeg.dtype}; it takes real numbers as "
            "(channels, times) or (epochs, channels, times)."
        )
    sfreq, tmin = _number(arrays, "sfreq", name), _number(arrays, "tmin", name)
    if abs(tmin) > _FARTHEST:
        raise InputError(
            f"{name}'s tmin is {tmin:g} s; give when epochs begin, in s from their event."
        )
    _check_size(eeg.shape, sfreq, limits)
    channels = _texts(arrays, "channels", name)
    if len(channels) != eeg.shape[-2]:
        raise InputError(
            f"{name} has {len(channels)} channel names for {eeg.shape[-2]} channels; "
            "give one for each."
        )
    with np.errstate(over="ignore"):  # too large for float32: found by the next check
        volts = np.ascontiguousarray(eeg, dtype=np.float32)
    _check_volts(volts, channels)
    events = _texts(arrays, "events", name)
    onsets = np.asarray(arrays.get("onsets", np.empty(0)))
    if onsets.ndim != 1 or onsets.dtype.kind not in "fiu" or not np.isfinite(onsets).all():
        raise InputError(f"{name}'s onsets aren't a row of numbers (s); give one for each event.")
    if max(len(events), len(onsets)) > max(limits.events, len(eeg) if eeg.ndim == 3 else 0):
        raise InputError(_too_many_events(max(len(events), len(onsets)), limits))
    expected = len(onsets)
    if eeg.ndim == 3:
        expected, onsets = len(eeg), np.empty(0)
        events = events or ["epoch"] * expected
    if len(events) != expected:
        raise InputError(
            f"{name} has {len(events)} events for {expected} "
            f"{'epochs' if eeg.ndim == 3 else 'onsets'}; give one for each."
        )
    order = np.argsort(onsets, kind="stable") if eeg.ndim == 2 else range(len(events))
    onsets = np.array(onsets, dtype=np.float64)[order] if eeg.ndim == 2 else onsets
    events = [events[index] for index in order]
    return Recording("", "", volts, channels, sfreq, tmin, onsets, events)


def _number(arrays: dict[str, np.ndarray], key: str, name: str) -> float:
    value = np.asarray(arrays.get(key, 0.0))
    if value.size != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise InputError(f"{name}'s {key} isn't one finite number; give it in Hz or s.")
    return float(value.reshape(()))


def _texts(arrays: dict[str, np.ndarray], key: str, name: str) -> list[str]:
    values = np.asarray(arrays.get(key, np.empty(0)))
    if values.ndim != 1 or values.dtype.kind not in "USiuf":
        raise InputError(f"{name}'s {key} isn't a row of names; give an array of text.")
    if values.dtype.kind == "U" and values.size and values.dtype.itemsize:
        # NumPy believes any number to be a character, and Python breaks on such text.
        codes = np.ascontiguousarray(values).view(values.dtype.byteorder + "u4")
        if codes.max() > sys.maxunicode:
            raise InputError(f"{name}'s {key} holds characters that don't exist; save them anew.")
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "replace") for value in values.tolist()]
    return [str(value) for value in values.tolist()]


# --- limits of what is taken ---


def _check_size(shape: tuple[int, ...], sfreq: float, limits: Limits) -> None:
    """Check a recording's claimed size before its data are read."""
    n_channels, n_times = shape[-2], shape[-1] * (shape[0] if len(shape) == 3 else 1)
    if not limits.lowest_rate <= sfreq <= limits.highest_rate:
        raise InputError(
            f"The recording's rate is {sfreq:g} Hz; "
            f"{limits.lowest_rate:g} to {limits.highest_rate:g} Hz can be read."
        )
    if n_channels > limits.channels:
        raise InputError(_too_many_channels(n_channels, limits))
    if len(shape) == 3 and shape[0] > limits.events:
        raise InputError(
            f"The recording has {shape[0]} epochs, more than {limits.events}; give fewer."
        )
    if n_times <= 0:
        raise InputError("The recording has no samples; check the file.")
    if n_times > limits.hours * 3600 * sfreq or n_times * n_channels > limits.samples:
        raise InputError(
            f"The recording has {n_times / sfreq / 60:.0f} minutes of {n_channels} channels at "
            f"{sfreq:g} Hz; at most {limits.hours:g} hours and {limits.samples / 1e6:g} million "
            "samples are read: cut it, or lower its rate."
        )


def _too_many_channels(n_channels: int, limits: Limits) -> str:
    return f"The recording has {n_channels} channels, more than {limits.channels}; give fewer."


def _too_many_events(n_events: int, limits: Limits) -> str:
    return (
        f"The recording has {n_events} events, more than {limits.events}; "
        "save it with those that matter."
    )


def _check_volts(volts: np.ndarray, channels: list[str]) -> None:
    for index, channel in enumerate(channels):
        values = volts[..., index, :]
        if not (values.min() > -_MOST_VOLTS and values.max() < _MOST_VOLTS):  # nor NaN
            raise InputError(
                f"Channel {clean(channel)} holds values that are no voltages (NaN, infinite, or "
                f"beyond {_MOST_VOLTS:g} V); leave it out, or cut the stretch."
            )


def _unique(channels: list[str], notes: list[str]) -> list[str]:
    """Return names of which none stands twice: a second Cz becomes "Cz (2)"."""
    taken: set[str] = set()
    renamed = []
    found = []
    for channel in channels:
        name, count = channel, 1
        while name in taken:
            count += 1
            name = f"{channel} ({count})"
        if count > 1:
            renamed.append(name)
        taken.add(name)
        found.append(name)
    if renamed:
        notes.append(f"Names of channels that stand twice were numbered: {_few(renamed)}.")
    return found


def _few(words: Iterable[str]) -> str:
    words = list(words)
    more = f" and {len(words) - 5} more" if len(words) > 5 else ""
    return ", ".join(words[:5]) + more


def _quote(error: object, folder: Path) -> str:
    """Return a foreign message on one short line, without our private folder."""
    text = one_line(error) if str(error) else type(error).__name__
    text = text.replace(str(folder), "").replace("/recording", "the recording")
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= 200 else text[:199] + "…"


_READERS: dict[str, Callable[[Path, dict[str, str], Limits, list[str]], Recording]] = {
    ".fif": _read_fif,
    ".edf": _read_edf,
    ".bdf": _read_edf,
    ".set": _read_eeglab,
    ".vhdr": _read_brainvision,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
}
