"""What somebody could try with a recording's files, each as a test that says what it tried.

Everything ends in one sentence (`InputError`) or in a plain `Recording`; nothing is run, read
from elsewhere, left behind or allowed to fill memory.
"""

import gzip
import io
import json
import os
import pickle
import re
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import h5py
import mne
import numpy as np
import psutil
import pytest
import scipy.io
from recording_files import (
    CHANNELS,
    ONSETS,
    SFREQ,
    read_here,
    set_file,
    small_raw,
    small_volts,
    write,
    zipped,
)

from nice_demo.errors import InputError
from nice_demo.sources.recordings import child
from nice_demo.sources.recordings.files import open_recording
from nice_demo.sources.recordings.limits import Limits
from nice_demo.sources.recordings.received import clean

FIF_START = struct.pack(">iii", 100, 31, 20)


def refused(paths, tmp_path, match, limits=None):
    """Check that files are refused with a sentence that names no folder of ours."""
    with pytest.raises(InputError, match=match) as caught:
        read_here(paths, tmp_path / "private", limits)
    message = str(caught.value)
    assert str(tmp_path) not in message
    assert "\n" not in message and len(message) < 600
    return message


# --- archives ---


def test_zip_bomb(tmp_path):
    """30 MB of zeros packed into 30 kB."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.edf", bytes(30_000_000))
    refused([tmp_path / "bomb.zip"], tmp_path, "becomes far larger")
    written = sum(file.stat().st_size for file in (tmp_path / "private").iterdir())
    assert written < 5_000_000  # stopped on the way, not afterwards


@pytest.mark.parametrize("claim", [10, 4_000_000_000])
def test_zip_bomb_with_a_lying_header(claim, tmp_path):
    """30 MB of zeros whose header says 10 bytes, or 4 GB."""
    content = bytes(30_000_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.edf", content)
    lying = packed.getvalue().replace(struct.pack("<I", len(content)), struct.pack("<I", claim))
    (tmp_path / "bomb.zip").write_bytes(lying)
    refused([tmp_path / "bomb.zip"], tmp_path, "becomes far larger|can't be unpacked")
    assert sum(file.stat().st_size for file in (tmp_path / "private").iterdir()) < 5_000_000


def test_zip_bomb_of_many_files(tmp_path):
    """Each file within the limits, all together not; and the unpacked limit itself."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for suffix in ("vhdr", "vmrk", "eeg"):
            archive.writestr(f"a.{suffix}", rng.bytes(500_000))
    limits = Limits(unpacked=1_200_000)
    refused([tmp_path / "many.zip"], tmp_path, "becomes far larger", limits)


def test_zip_of_very_many_entries(tmp_path):
    """5,000 entries of nothing, in the other process as well."""
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(5000):
            archive.writestr(f"{number}.txt", b"")
    refused([tmp_path / "many.zip"], tmp_path, "has 5000 entries, more than 64")
    with pytest.raises(InputError, match="has 5000 entries, more than 64"):
        open_recording([tmp_path / "many.zip"])


def test_gzip_bomb(tmp_path):
    """30 MB of zeros behind the beginning of a FIF file, as .fif.gz."""
    (tmp_path / "bomb.fif.gz").write_bytes(gzip.compress(FIF_START + bytes(30_000_000)))
    refused([tmp_path / "bomb.fif.gz"], tmp_path, "becomes far larger")


def test_npz_bomb(tmp_path):
    """An .npz is a zip: zeros packed 1,000 times smaller."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, eeg=np.zeros((4, 2_000_000)), channels=CHANNELS, sfreq=SFREQ)
    refused([path], tmp_path, "becomes far larger")


@pytest.mark.parametrize("inside", ["inner.zip", "a.tar.gz", "a.fif.gz", "a.7z"])
def test_archive_in_an_archive(inside, tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr(inside, b"PK\x03\x04")
    refused([tmp_path / "outer.zip"], tmp_path, "holds another archive")


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.edf",
        "a/../../escaped.edf",
        "/escaped.edf",
        "C:/escaped.edf",
        "C:\\escaped.edf",
        "..\\escaped.edf",
        "\\\\server\\share\\escaped.edf",
        "a.edf\x00.txt",
        "a\n.edf",
    ],
)
def test_zip_that_names_places_outside(name, tmp_path):
    """Entries that climb out, are absolute, name a drive or a server, or hide their end."""
    with zipfile.ZipFile(tmp_path / "paths.zip", "w") as archive:
        placeholder = "x" * len(name.encode())
        archive.writestr(placeholder, b"0       ")
    raw = (tmp_path / "paths.zip").read_bytes()
    (tmp_path / "paths.zip").write_bytes(raw.replace(placeholder.encode(), name.encode()))
    refused([tmp_path / "paths.zip"], tmp_path, "names a place outside")
    assert not list(tmp_path.rglob("escaped*")) and not Path("/escaped.edf").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_zip_with_links_and_devices(kind, tmp_path):
    """An entry that unpacks as a link to /etc/passwd, a pipe or a device."""
    entry = zipfile.ZipInfo("a.edf")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    refused([tmp_path / "link.zip"], tmp_path, "holds something other than a file")


def test_encrypted_and_oddly_packed_zips(tmp_path):
    zipped(write("edf", tmp_path), tmp_path / "a.zip")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    refused([tmp_path / "locked.zip"], tmp_path, "is encrypted")
    zipped([tmp_path / "small.edf"], tmp_path / "lzma.zip", compression=zipfile.ZIP_LZMA)
    with pytest.raises(InputError, match="packed in an unusual way"):
        read_here([tmp_path / "lzma.zip"], tmp_path / "again")


def test_damaged_zip(tmp_path):
    archive = zipped(write("edf", tmp_path), tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    content[500] ^= 0xFF
    archive.write_bytes(content)
    refused([archive], tmp_path, "can't be unpacked .Bad CRC-32")


def test_zip_of_two_recordings(tmp_path):
    """Also one whose names differ by their folders only: nothing may be overwritten."""
    path = write("edf", tmp_path)[0]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(path, "one/a.edf")
        archive.write(path, "two/a.edf")
    refused([tmp_path / "two.zip"], tmp_path, "both .edf files")


# --- links, other files, wrong contents ---


def test_links_and_pipes_as_uploads(tmp_path):
    """A link to a file that the page can read and its user can't; a pipe that never ends."""
    (tmp_path / "a.edf").symlink_to(write("edf", tmp_path)[0])
    refused([tmp_path / "a.edf"], tmp_path, "a.edf is a link")
    os.mkfifo(tmp_path / "pipe.edf")
    with pytest.raises(InputError, match="no ordinary file"):
        read_here([tmp_path / "pipe.edf"], tmp_path / "again")
    (tmp_path / "folder.edf").mkdir()
    with pytest.raises(InputError, match="no ordinary file|can't be opened"):
        read_here([tmp_path / "folder.edf"], tmp_path / "third")


SUFFIXES = [".fif", ".fif.gz", ".edf", ".bdf", ".set", ".vhdr", ".npz", ".safetensors", ".zip"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(2000), b"<html><script>" * 99])
def test_wrong_beginning(suffix, content, tmp_path):
    """Programs and web pages under the name of a recording: no parser sees them."""
    (tmp_path / f"a{suffix}").write_bytes(content)
    refused([tmp_path / f"a{suffix}"], tmp_path, "is empty|doesn't begin as a")


def test_wrong_beginning_inside_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.edf", b"\x7fELF" + bytes(2000))
    refused([tmp_path / "a.zip"], tmp_path, "doesn't begin as a European Data Format")


ELSEWHERE = [
    "/etc/passwd",
    "../small.eeg",
    "sub/small.eeg",
    "..",
    "C:\\secret.eeg",
    "\\\\server\\x.eeg",
    "http://example.org/x.eeg",
    "~root",
]


@pytest.mark.parametrize("key", ["DataFile", "MarkerFile"])
@pytest.mark.parametrize("named", ELSEWHERE)
def test_brainvision_that_names_other_files(key, named, tmp_path):
    """A header that would make its reader open a file of the machine's."""
    paths = write("brainvision", tmp_path)
    header = paths[0].read_text(encoding="utf-8")
    header = re.sub(rf"{key}=.*", lambda _: f"{key}={named}", header)
    paths[0].write_text(header, encoding="utf-8")
    refused(paths, tmp_path, "names a file in another place")


def test_brainvision_that_names_files_of_ours(tmp_path):
    """A header that names the private folder's own files gets the uploaded data all the same."""
    paths = write("brainvision", tmp_path)
    expected = read_here(paths, tmp_path / "first").volts
    header = paths[0].read_text(encoding="utf-8")
    paths[0].write_text(header.replace("DataFile=small.eeg", "DataFile=job.json"), encoding="utf-8")
    recording = read_here(paths, tmp_path / "second")
    np.testing.assert_array_equal(recording.volts, expected)
    assert recording.notes == ["small.vhdr names job.json; small.eeg was read in its place."]


def test_brainvision_header_of_spaces(tmp_path):
    """Lines of spaces without end, on which a careless pattern takes hours."""
    paths = write("brainvision", tmp_path)
    header = paths[0].read_text(encoding="utf-8")
    spaces = "DataFile=" + " " * 1_000_000 + "\n" * 1_000_000
    paths[0].write_text(header.replace("DataFile=", spaces + "DataFile="), encoding="utf-8")
    started = time.process_time()
    with pytest.raises(InputError):
        read_here(paths, tmp_path / "private")
    assert time.process_time() - started < 10
    paths[0].write_text(header + " " * 5_000_000, encoding="utf-8")
    with pytest.raises(InputError, match="far too long for a header"):
        read_here(paths, tmp_path / "second")


@pytest.mark.parametrize("named", ["/etc/passwd.fdt", "../a.fdt", "C:\\a.fdt", "a/b.fdt"])
def test_set_that_names_other_files(named, tmp_path):
    """A .set whose data lie in another file of the machine's."""
    paths = write("set + fdt", tmp_path)
    set_file(tmp_path, (4, 600), CHANNELS, SFREQ, named)
    refused(paths, tmp_path, "names a file in another place")


@pytest.mark.parametrize("named", ["passwd", "small.set", "job.json", "a.dat"])
def test_set_that_names_files_of_another_kind(named, tmp_path):
    paths = write("set + fdt", tmp_path)
    set_file(tmp_path, (4, 600), CHANNELS, SFREQ, named)
    refused(paths, tmp_path, "not in an .fdt file")


@pytest.mark.parametrize("way", ["link", "storage", "virtual"])
def test_hdf5_that_takes_data_from_other_files(way, tmp_path):
    """HDF5 can link to, store in, or map other files: /etc/passwd as somebody's EEG."""
    path = write("set 7.3", tmp_path)[0]
    with h5py.File(path, "a") as file:
        group = file.get("EEG", file)
        del group["data"]
        if way == "link":
            group["data"] = h5py.ExternalLink("/etc/passwd", "/data")
        elif way == "storage":
            group.create_dataset("data", (600, 4), "u1", external=[("/etc/passwd", 0, 2400)])
        else:
            layout = h5py.VirtualLayout((600, 4), "f4")
            layout[:] = h5py.VirtualSource("/etc/passwd", "data", (600, 4))
            group.create_virtual_dataset("data", layout)
    refused([path], tmp_path, "takes data from another file")


def test_hdf5_that_hides_data_of_other_files(tmp_path):
    """Names of channels that are text of another file, in datasets that no link leads to."""
    secret = tmp_path / "secret"
    secret.write_text("the password " * 10)
    path = write("set 7.3", tmp_path)[0]
    with h5py.File(path, "a") as file:
        group = file.get("EEG", file)
        del group["chanlocs"]
        labels = group.create_group("chanlocs").create_dataset("labels", (4, 1), h5py.ref_dtype)
        labels.attrs["MATLAB_class"] = np.bytes_("cell")
        hidden = file.create_group("hidden")
        hidden["0"] = np.zeros(3)
        for row in range(4):
            stored = [(str(secret), 13 * row, 12)]
            one = hidden.create_dataset(f"{row + 1}", (12, 1), "u1", external=stored)
            one.attrs["MATLAB_class"] = np.bytes_("char")
            labels[row, 0] = one.ref
    refused([path], tmp_path, "takes data from another file")

    # The table of the five links is cut to the first one; references still find the others.
    content = bytearray(path.read_bytes())
    tables = [found.start() + 6 for found in re.finditer(b"SNOD", content)]
    content[[at for at in tables if content[at : at + 2] == b"\5\0"][-1]] = 1
    path.write_bytes(content)
    with h5py.File(path) as file:
        assert list(file["hidden"]) == ["0"]
    with pytest.raises(InputError, match="takes data from another file"):
        read_here([path], tmp_path / "second")


def test_epochs_that_begin_at_no_time(tmp_path):
    path = tmp_path / "a.npz"
    eeg = np.stack([small_volts()] * 2)
    np.savez(path, eeg=eeg, channels=CHANNELS, sfreq=SFREQ, tmin=1.7e308)
    refused([path], tmp_path, "tmin is 1.7e.308 s; give when epochs begin")


def test_fif_that_names_another_file_as_its_second_part(tmp_path, monkeypatch):
    """A FIF file continues in a file whose path it gives: here one outside the folder.

    What looks for such names is then switched off: the other process's confinement holds alone.
    """
    secret = tmp_path / "secret_raw.fif"
    small_raw().save(secret, verbose="error")
    raw = small_raw(np.zeros((4, 250_000)))
    base = tmp_path / f"{'a' * (len(str(secret)) - 6)}_raw.fif"
    raw.save(base, split_size="3MB", fmt="double", verbose="error")
    second = f"{base.stem}-1.fif"
    padded = str(secret).replace("/secret", "/" * (len(second) - len(str(secret)) + 1) + "secret")
    content = base.read_bytes()
    assert content.count(second.encode()) == 1 and len(padded) == len(second)
    base.write_bytes(content.replace(second.encode(), padded.encode()))
    refused([base], tmp_path, "names another file as its other part")
    unaware = "from nice_demo.sources.recordings import readers; readers._NEXT_FILE = b'nothing'; "
    path, _, rest = child._START.partition("; from ")
    monkeypatch.setattr(child, "_START", f"{path}; {unaware}from {rest}")
    with pytest.raises(InputError, match="may not lead to other files"):
        open_recording([base])


# --- pickles ---


class Program:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("key", ["eeg", "channels", "sfreq", "events", "onsets"])
def test_npz_of_objects(key, tmp_path):
    """An .npz whose array is a pickle that runs a program."""
    mark = tmp_path / "was run"
    arrays = dict(eeg=small_volts(), channels=CHANNELS, sfreq=SFREQ, onsets=ONSETS, events=CHANNELS)
    arrays[key] = np.array([Program(mark)], dtype=object)
    np.savez(tmp_path / "a.npz", **arrays)
    refused([tmp_path / "a.npz"], tmp_path, f"{key} holds Python objects")
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".npy", ".joblib"])
def test_pickles(suffix, tmp_path):
    """Files that are pickles, plainly, under another suffix, and inside an archive."""
    mark = tmp_path / "was run"
    content = pickle.dumps(Program(mark))
    (tmp_path / f"a{suffix}").write_bytes(content)
    refused([tmp_path / f"a{suffix}"], tmp_path, "export the EEG as .fif or .edf")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="doesn't begin as a"):
        read_here([tmp_path / "a.npz"], tmp_path / "second")
    zipped([tmp_path / f"a{suffix}"], tmp_path / "a.zip")
    with pytest.raises(InputError, match="pickle|no recording"):
        read_here([tmp_path / "a.zip"], tmp_path / "third")
    assert not mark.exists()


# --- contents ---

NAMES = ["=cmd|' /C calc'!A0", "<img src=x onerror=alert(1)>", "'); DROP TABLE eeg;--", "Cz"]


def test_formulas_and_markup_stay_plain_text(tmp_path):
    """What a spreadsheet or a page would run comes through as text; the page escapes it."""
    paths = write("npz", tmp_path, channels=NAMES)
    assert read_here(paths, tmp_path / "private").channels == NAMES


def test_control_characters_and_long_names(tmp_path):
    """Terminal escapes, text that runs backwards, lone surrogates, a name of a million letters."""
    np.savez(
        tmp_path / "a.npz",
        eeg=small_volts(),
        channels=["\x1b[31mFp1\x00", "\u202eT7\u2069", "C" * 1_000_000, "\t\n"],
        sfreq=SFREQ,
        onsets=ONSETS,
        events=["a\x07b", "\u2028", "x"],
    )
    recording = read_here([tmp_path / "a.npz"], tmp_path / "private", Limits(ratio=1e6))
    assert recording.channels == ["[31mFp1", "T7", "C" * 79 + "…", "(no name)"]
    assert recording.events == ["ab", "(no name)", "x"]
    assert clean("a\ud800b") == "ab"


@pytest.mark.parametrize("order", ["<", ">"])
def test_characters_that_do_not_exist(order, tmp_path):
    """Numbers beyond Unicode in NumPy's text, which break Python's strings (fuzzing found it)."""
    names = np.array(CHANNELS).astype(f"{order}U3")
    names.view(f"{order}u4")[5] = 0x110000
    np.savez(tmp_path / "a.npz", eeg=small_volts(), channels=names, sfreq=SFREQ)
    refused([tmp_path / "a.npz"], tmp_path, "channels holds characters that don't exist")


def test_file_names_are_plain_text_too(tmp_path):
    path = write("npz", tmp_path)[0].rename(tmp_path / "<b>\x1b[1m$(reboot)\n.npz")
    recording = open_recording([path])
    assert recording.name == "<b>[1m$(reboot).npz"


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300, 1e30])
@pytest.mark.parametrize("kind", ["fif", "fif epochs", "brainvision", "set", "npz", "safetensors"])
def test_values_that_are_no_numbers(kind, value, tmp_path):
    volts = small_volts()
    with np.errstate(all="ignore"):
        paths = write(kind, tmp_path, volts)
        if kind in ("npz", "safetensors", "fif", "fif epochs"):
            volts[2, 77] = value
            paths = write_anew(kind, tmp_path, volts)
        else:
            spoil_float32(paths, kind, np.float32(value))
    refused(paths, tmp_path, "Channel Cz holds values that are no voltages")


def write_anew(kind, folder, volts):
    for path in folder.iterdir():
        path.unlink()
    return write(kind, folder, volts)


def spoil_float32(paths, kind, value):
    """Put a value into sample 77 of the third of four channels, stored as float32."""
    if kind == "brainvision":
        content = bytearray(paths[2].read_bytes())
        content[4 * (4 * 77 + 2) : 4 * (4 * 77 + 3)] = value.tobytes()
        paths[2].write_bytes(content)
    else:
        fields = scipy.io.loadmat(paths[0])
        fields["data"][2, 77] = value
        fields = {key: field for key, field in fields.items() if key[0] != "_"}
        scipy.io.savemat(paths[0], fields, appendmat=False)


def test_very_many_events(tmp_path):
    """More than 20,000 events in each way they can come."""
    markers = write("brainvision", tmp_path)
    text = "".join(f"Mk{n}=Stimulus,S  1,{n},1,0\n" for n in range(2, 30_000))
    markers[1].write_text(markers[1].read_text() + text)
    refused(markers, tmp_path, "events, more than 20000")

    np.savez(
        tmp_path / "a.npz",
        eeg=small_volts(),
        channels=CHANNELS,
        sfreq=SFREQ,
        onsets=np.zeros(30_000),
        events=np.zeros(30_000, int),
    )
    with pytest.raises(InputError, match="30000 events, more than 20000"):
        read_here([tmp_path / "a.npz"], tmp_path / "second")

    raw = small_raw().set_annotations(mne.Annotations(np.zeros(20_001), 0, "x"))
    raw.save(tmp_path / "many_raw.fif", verbose="error")
    with pytest.raises(InputError, match="20001 events, more than 20000"):
        read_here([tmp_path / "many_raw.fif"], tmp_path / "third")


@pytest.mark.parametrize("kind", ["edf", "bdf"])
def test_a_gigabyte_of_annotations(kind, tmp_path):
    """An EDF whose annotations take 60 MB: refused from the header, before they are parsed."""
    import edfio

    whole, signal = {
        "edf": (edfio.Edf, edfio.EdfSignal),
        "bdf": (edfio.Bdf, edfio.BdfSignal),
    }[kind]
    path = tmp_path / f"a.{kind}"
    rows = [signal(row[:512] * 1e6, SFREQ, label="Cz") for row in small_volts()[:1]]
    whole(rows, annotations=[edfio.EdfAnnotation(0.5, None, "x" * 20_000_000)]).write(path)
    refused([path], tmp_path, "more room for annotations than 20000 need")


# --- sizes that are claimed but not there ---


def huge(kind, tmp_path):
    """Write a small file whose header claims far more than it holds."""
    if kind in ("edf channels", "edf records"):
        path = write("edf", tmp_path)[0]
        content = bytearray(path.read_bytes())
        if kind == "edf channels":
            content[252:256] = b"9999"
        else:
            n_channels = int(content[252:256])
            start = 256 + 216 * n_channels
            content[start : start + 8] = b"99999999"
        path.write_bytes(content)
        return [path]
    if kind == "brainvision channels":
        paths = write("brainvision", tmp_path)
        header = paths[0].read_text(encoding="utf-8")
        header = header.replace("NumberOfChannels=4", "NumberOfChannels=4000000000")
        paths[0].write_text(header, encoding="utf-8")
        return paths
    if kind == "npz shape":
        path = tmp_path / "a.npz"
        with zipfile.ZipFile(path, "w") as archive:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f8", "fortran_order": False, "shape": (4, 10**12)}
            )
            archive.writestr("eeg.npy", header.getvalue())
        return [path]
    if kind == "safetensors shape":
        words = {"eeg": {"dtype": "F64", "shape": [4, 10**12], "data_offsets": [0, 32 * 10**12]}}
        header = json.dumps(words).encode()
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        return [path]
    if kind == "fif tag":
        path = write("fif", tmp_path)[0]
        content = bytearray(path.read_bytes())
        place = content.index(struct.pack(">ii", 300, 5))  # the first buffer of doubles
        content[place + 8 : place + 12] = struct.pack(">i", 2**31 - 8)
        path.write_bytes(content)
        return [path]
    if kind == "mat size":
        path = set_file(tmp_path, (4, 600), CHANNELS, SFREQ, small_volts() * 1e6)
        content = bytearray(path.read_bytes())
        content[132:136] = struct.pack("<I", 2**31 - 1)
        path.write_bytes(content)
        return [path]
    path = write("set 7.3", tmp_path)[0]
    with h5py.File(path, "a") as file:
        group = file.get("EEG", file)
        del group["data"]
        data = group.create_dataset("data", (10**12, 4), "f4", chunks=(1000, 4))
        data.attrs["MATLAB_class"] = np.bytes_("single")
    return [path]


HUGE = [
    "edf channels",
    "edf records",
    "brainvision channels",
    "npz shape",
    "safetensors shape",
    "fif tag",
    "mat size",
    "hdf5 shape",
]


@pytest.mark.parametrize("kind", HUGE)
def test_sizes_that_are_only_claimed(kind, tmp_path):
    """A small file that claims terabytes: the claim is checked, or the other process is limited."""
    paths = huge(kind, tmp_path)
    assert sum(path.stat().st_size for path in paths) < 200_000
    try:
        recording = open_recording(paths, Limits(memory=1_000_000_000))
    except InputError:
        return
    assert kind == "mat size"  # SciPy doesn't believe it, and reads what there is
    assert recording.volts.shape == (4, 600)


def test_memory_has_a_limit(tmp_path):
    """An honest file that needs 320 MB, where the other process may take 300."""
    np.savez(tmp_path / "a.npz", eeg=np.zeros((4, 10**7), np.int8), channels=CHANNELS, sfreq=20_000)
    with pytest.raises(InputError, match="needs more memory than a recording may"):
        open_recording([tmp_path / "a.npz"], Limits(memory=300_000_000))


def test_safetensors_header_that_never_ends(tmp_path):
    """JSON nested a hundred thousand times, and a header of 2**63 bytes."""
    deep = b"[" * 100_000
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    refused([tmp_path / "a.safetensors"], tmp_path, "doesn't begin as a safetensors")
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(InputError, match="doesn't begin as a safetensors"):
        read_here([tmp_path / "a.safetensors"], tmp_path / "second")


# --- the other process ---


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the folder in which temporary folders are made; check that it is empty at the end."""
    before = psutil.Process().children(recursive=True)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())
    assert not set(psutil.Process().children(recursive=True)) - set(before)


def test_nothing_stays_after_success_and_failure(temporary, tmp_path):
    path = write("npz", tmp_path)[0]
    open_recording([path])
    assert not list(temporary.iterdir())
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match="can't be unpacked"):
        open_recording([path])
    with pytest.raises(InputError, match="of no kind"):
        open_recording([tmp_path / "recording.txt"])


def test_reading_that_never_ends(temporary, tmp_path, monkeypatch):
    """A parser in an endless loop, which has started another program: both are ended."""
    mark = tmp_path / "started"
    endless = (
        "import subprocess, sys; "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(mark)!r}, 'w').close()\nwhile True: pass"
    )
    monkeypatch.setattr(child, "_START", endless)
    with pytest.raises(InputError, match="took longer than 1 s to read and was given up"):
        open_recording(write("npz", tmp_path), Limits(seconds=1))
    assert mark.exists()


def test_a_time_limit_that_is_tiny(temporary, tmp_path):
    with pytest.raises(InputError, match="took longer than 0.05 s"):
        open_recording(write("fif", tmp_path), Limits(seconds=0.05))


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL"),
        ("import os; os.abort()", "signal SIGABRT"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("1 / 0", "exit code 1"),
    ],
)
def test_a_parser_that_breaks(program, why, temporary, tmp_path, monkeypatch):
    """The other process is killed, aborts, or fails in a way that nobody foresaw."""
    monkeypatch.setattr(child, "_START", program)
    with pytest.raises(InputError, match=f"broke the program that reads it .{why}"):
        open_recording(write("npz", tmp_path))


def test_the_other_process_knows_no_secrets(temporary, tmp_path, monkeypatch):
    """Tokens in the page's environment; and Python's own variables, which could load programs."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    tell = "import os, sys; open(sys.argv[2] + '/refused.txt', 'w').write(repr(dict(os.environ)))"
    monkeypatch.setattr(child, "_START", tell)
    with pytest.raises(InputError) as caught:
        open_recording(write("npz", tmp_path))
    assert "TMPDIR" in str(caught.value)
    assert "secret" not in str(caught.value) and "PYTHON" not in str(caught.value)


TRIES = {
    "read a file elsewhere": "open('/etc/passwd').read()",
    "read beside the package": "open(os.path.join(sys.argv[4], 'pyproject.toml')).read()",
    "read through a link": "os.stat('.'); open(os.path.join(sys.argv[1], 'link')).read()",
    "list by a parser's way": "np.fromfile('/etc/passwd', dtype='u1')",
    "write elsewhere": "open(sys.argv[2], 'w')",
    "write beside packages": "open(os.path.join(os.path.dirname(np.__file__), 'x.py'), 'w')",
    "look up a name": "socket.getaddrinfo('example.org', 80)",
    "open a connection": "socket.socket().connect(('127.0.0.1', 9))",
    "fetch an address": "urllib.request.urlopen('http://127.0.0.1:9')",
    "start a program": "subprocess.run(['true'])",
    "start a shell": "os.system('true')",
    "become another program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "unpickle": "pickle.loads(pickle.dumps(os.getcwd))",
    "make a link": "os.symlink('/etc/passwd', 'made')",
    "open many files": "[open(os.path.join(sys.argv[1], str(n)), 'w') for n in range(100)]",
    "take much memory": "bytes(2_000_000_000)",
    "write a large file": "open(os.path.join(sys.argv[1], 'big'), 'wb').write(bytes(200_000_000))",
}


def test_what_the_other_process_may_not_do(tmp_path, tell):
    """Each is tried in a process confined as the readers are."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    outside = tmp_path / "outside"
    program = """
import os, pickle, socket, subprocess, sys, urllib.request
from pathlib import Path
import numpy as np
from nice_demo.sources.recordings.child import confine
from nice_demo.sources.recordings.limits import Limits
tries = eval(sys.argv[3])
confine(Path(sys.argv[1]), Limits(memory=1_000_000_000, samples=1000, unpacked=1000))
for name, code in tries.items():
    try:
        exec(code)
        print(name, "WORKED")
    except (OSError, MemoryError) as error:
        print(name, "->", type(error).__name__)
open(os.path.join(sys.argv[1], "own"), "w").write("may be written")
"""
    project = Path(child.__file__).parents[3]
    answer = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(outside), repr(TRIES), str(project)],
        capture_output=True,
        text=True,
        cwd=project,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        timeout=60,
        check=False,
    )
    tell(f"things tried that a reading process may not do: {len(TRIES)}")
    assert answer.returncode == 0, answer.stderr
    assert "WORKED" not in answer.stdout
    assert len(answer.stdout.splitlines()) == len(TRIES)
    assert (folder / "own").read_text() == "may be written"
    assert not outside.exists()
