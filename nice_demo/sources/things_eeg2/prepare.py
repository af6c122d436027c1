"""THINGS-EEG2 as a data folder: download, embed the pictures, convert the EEG.

In flows a choice of origin (`ORIGINS`); out flows what `nice_demo.eegset` describes. Every step
leaves complete files, so that the same command goes on after an interruption.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from nice_demo import download
from nice_demo.eegset import META, DataSet
from nice_demo.embed import CLIP, ImageModel, make_galleries
from nice_demo.errors import InputError
from nice_demo.files import write_json
from nice_demo.montage import CHANNELS, Montage
from nice_demo.sources.things_eeg2 import images, raw, ready

CONDITIONS = images.CONDITIONS  # training, test
REPETITIONS = (4, 80)
CC0 = "images_THINGSplus-CC0.zip"

TERMS = """
THINGS-EEG2 (Gifford, Dwivedi, Roig, Cichy, NeuroImage 2022, osf.io/3jk45): EEG under CC-BY 4.0;
name the authors where you use it.
THINGS pictures (Hebart et al., PLoS ONE 2019, osf.io/jum2f): for research only. They may not be
passed on or shown in public; this project doesn't put them into bundles.
THINGSplus CC0 pictures (Stoinski et al., Behavior Research Methods 2024): CC0.
"""


@dataclass(frozen=True)
class Origin:
    """Where the EEG comes from; `raw` and `ready` know in which form.

    Attributes
    ----------
    where : str
        OSF node and storage, or a data set of the Hub.
    files : tuple of str
        Of a subject; ``{:02d}`` is its number.
    working : float
        GB needed beside the download and the result, while a subject is converted; for each
        session that is read at once.
    size : float
        GB of a subject's files; counts where the listing names no size.
    """

    where: str
    files: tuple[str, ...]
    working: float = 0.0
    size: float = 0.0


ORIGINS = {
    # Working: one recording, unpacked. Google Drive's sizes are often missing in OSF's listing.
    "raw": Origin("osf:crxs4/googledrive", ("sub-{:02d}.zip",), working=4.0, size=10.0),
    "nice": Origin(
        "hub:LidongYang/EEG_Image_decode",
        (
            "Preprocessed_data_250Hz/sub-{:02d}/preprocessed_eeg_training.npy",
            "Preprocessed_data_250Hz/sub-{:02d}/preprocessed_eeg_test.npy",
        ),
    ),
    "hf": Origin(
        "hub:Haitao999/things-eeg",
        (
            "Preprocessed_data_250Hz_whiten/sub-{:02d}/train.pt",
            "Preprocessed_data_250Hz_whiten/sub-{:02d}/test.pt",
        ),
    ),
    "osf17": Origin("osf:anp5v/osfstorage", ("sub-{:02d}.zip",), working=1.3),
}


def prepare_things_eeg2(
    folder: Path,
    subjects: list[int],
    origin: str,
    *,
    downloads: Path | None = None,
    keep_downloads: bool = False,
    accepted: bool = False,
    whiten: str = "training",
    jobs: int = -1,
    memory: float | None = None,
    **pictures,
) -> None:
    """Write a data folder of THINGS-EEG2; subjects that are there already are kept.

    Parameters
    ----------
    folder : Path
    subjects : list of int
        From 1 to 10.
    origin : str
        One of `ORIGINS`.
    downloads : Path, optional
        Where files are downloaded to, by default in `folder`. Files that are there before are
        used, and kept.
    keep_downloads : bool
        Keep also what is downloaded now, when a subject's EEG set is complete.
    accepted : bool
        The data's terms are accepted: don't ask.
    whiten : str
        See `nice_demo.sources.things_eeg2.raw.convert`; other origins are whitened already.
    jobs, memory
        See `nice_demo.sources.things_eeg2.raw.sessions_at_once`; other origins take one process
        and less than 1 GB.
    **pictures
        See `prepare_pictures`.

    Raises
    ------
    InputError
        Where something can't be had, doesn't fit what is there, or is damaged.
    """
    if unknown := [subject for subject in subjects if not 1 <= subject <= 10]:
        raise InputError(f"THINGS-EEG2 has no subject {unknown[0]}; choose from 1 to 10.")
    if whiten != "training" and origin != "raw":
        raise InputError(
            f"The EEG of {origin!r} is whitened already; --whiten goes with --from raw."
        )
    at_once = 1
    if origin == "raw":
        at_once = raw.sessions_at_once(jobs, memory)
    elif memory is not None:
        raise InputError(
            f"--memory goes with --from raw; {origin!r} is converted in less than 1 GB."
        )
    downloads = downloads or folder / "downloads"
    description = _description(origin, whiten)
    begun = (folder / "dataset.json").exists()
    if begun:
        _check_same(folder, description, **pictures)
    download.accept_licence("THINGS-EEG2", TERMS, folder, accepted)
    if not begun:
        # The pictures come last: of all this they alone take long.
        Montage.standard(_trial(origin)[0]).save(folder / "montage.safetensors")
        image_model = prepare_pictures(folder, downloads, **pictures)
        write_json(folder / "dataset.json", description | {"image_model": image_model})
    places = {subject: folder / f"sub-{subject:02d}" for subject in subjects}
    left = [subject for subject, place in places.items() if not (place / META).exists()]
    for subject in subjects:
        if subject not in left:
            print(f"subject {subject} is there already")
    for number, subject in enumerate(left):
        place = places[subject]
        _remove_unfinished(place)
        files = _files(origin, subject, downloads)
        ours = [file for file in files if not file.exists()]
        # For all that is left, so that a full disk shows at the first subject.
        room = (len(left) - number) * _result_bytes(origin)
        room += round(at_once * ORIGINS[origin].working * 1e9)
        if origin == "raw":  # sessions that are read but for their places among the others
            room += _result_bytes(origin)
        _download_eeg(origin, subject, downloads, {folder: room})
        if origin == "raw":
            print(f"subject {subject}: {at_once} of {raw.SESSIONS} sessions at once")
            raw.convert(files[0], place, subject, whiten, CONDITIONS, jobs=at_once)
        else:
            ready.convert(files, place, subject, origin, CONDITIONS)
        for file in files:
            if file not in ours:
                print(f"{file} was there before and is kept")
            elif not keep_downloads:
                file.unlink()
        print(f"subject {subject} is prepared")


def _check_same(folder: Path, description: dict, **pictures) -> None:
    """Check that a folder was begun with the same choices."""
    there = DataSet.open(folder).description
    if there["name"] != description["name"]:
        raise InputError(f"{folder} holds the data set {there['name']!r}; give another --to.")
    known = there["preparation"]
    if known != description["preparation"]:
        raise InputError(
            f"{folder} was prepared from {known.get('origin')!r} with whitening "
            f"{known.get('whitening')!r}; give another --to for other choices."
        )
    wanted, model = pictures.get("image_model", CLIP), there["image_model"]["name"]
    if wanted != model:
        raise InputError(
            f"The pictures in {folder} are embedded by {model!r}, not by {wanted!r}; give "
            f"--image-model {model}, or make them anew with python -m nice_demo.embed."
        )
    centres = pictures.get("centres") != "none" and (
        pictures.get("things") or pictures.get("centres_file")
    )
    if centres and not (folder / "test_centres.json").exists():
        raise InputError(
            f"The pictures in {folder} were prepared without concept centres; leave --things and "
            f"--centres-file out here, and give them to python -m nice_demo.embed --data {folder}."
        )


def _remove_unfinished(place: Path) -> None:
    """Remove what a run that was killed while it converted a subject left: some GB."""
    for left in place.glob(".*.part"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def prepare_pictures(
    folder: Path,
    downloads: Path,
    *,
    image_model: str = CLIP,
    revision: str | None = None,
    device: str = "auto",
    things: Path | None = None,
    centres_file: Path | None = None,
    centres: str = "renormalised",
) -> dict:
    """Download the pictures and write a data folder's galleries.

    Parameters
    ----------
    folder, downloads : Path
    image_model, revision, device
        See `nice_demo.embed.ImageModel`; by default the paper's model.
    things, centres_file, centres
        What the concept centres are made of; see `nice_demo.embed.make_galleries`.

    Returns
    -------
    dict
        The image model, for ``dataset.json``.
    """
    model = ImageModel(image_model, revision, device)  # if it can't be had, nothing is downloaded
    names = [images.METADATA, "training_images.zip", "test_images.zip"]
    wanted = {
        name: path
        for name in names
        # Or the folder that a zip unpacks to.
        if not (path := downloads / name).exists() and not path.with_suffix("").is_dir()
    }
    if wanted:
        _download_osf("y63gw/osfstorage", wanted, {})
    train, test = images.shown_pictures(downloads, CONDITIONS)
    others = images.other_pictures(things, test) if things and centres != "none" else None
    make_galleries(
        folder,
        train,
        test,
        model,
        others=others,
        centres_file=centres_file,
        centres=centres,
        cc0=_cc0(downloads),
    )
    return model.description


def _cc0(downloads: Path) -> Path | None:
    """Download the pictures that may be shown; without them candidates show their names."""
    path = downloads / CC0
    if not path.exists():
        try:
            listed = download.osf_files("jum2f")
            (remote,) = (remote for name, remote in listed.items() if Path(name).name == CC0)
            download.fetch(remote, path)
        except (InputError, ValueError) as error:
            why = error if isinstance(error, InputError) else "OSF's node jum2f doesn't list it."
            print(f"No {CC0}, so the page will show names in place of pictures. {why}")
            return None
    return path


def _files(origin: str, subject: int, downloads: Path) -> list[Path]:
    """Return where a subject's downloaded files are, or the folder that someone unpacked."""
    paths = [downloads / origin / name.format(subject) for name in ORIGINS[origin].files]
    if origin == "raw" and not paths[0].exists() and paths[0].with_suffix("").is_dir():
        return [paths[0].with_suffix("")]
    return paths


def _download_eeg(origin: str, subject: int, downloads: Path, room: dict[Path, int]) -> None:
    """Download what is missing of a subject, once there is space for it and for `room`.

    Parameters
    ----------
    origin : str
    subject : int
    downloads : Path
    room : dict of Path to int
        Folder → bytes needed there for what follows.
    """
    source = ORIGINS[origin]
    storage, _, place = source.where.partition(":")
    paths = _files(origin, subject, downloads)
    wanted = {
        name.format(subject): path
        for name, path in zip(source.files, paths, strict=True)
        if not path.exists()
    }
    if not wanted:
        download.require_space(room)
    elif storage == "osf":
        _download_osf(place, wanted, room, round(source.size * 1e9))
    else:
        size = sum(download.hub_size(place, name) for name in wanted)
        download.require_space({downloads / origin: size} | room)
        for name in wanted:
            download.hub_file(place, name, downloads / origin)


def _download_osf(
    where: str, wanted: dict[str, Path], room: dict[Path, int], usual: int = 0
) -> None:
    """Download files of OSF (name → path), once there is space for them and for `room`.

    Where OSF doesn't list a file's size, `usual` bytes are expected.
    """
    listed = download.osf_files(*where.split("/"))
    if absent := [name for name in wanted if name not in listed]:
        node = where.partition("/")[0]
        raise InputError(
            f"OSF's node {node} has no {absent[0]}; see osf.io/{node} for what it has now."
        )
    missing = sum(
        download.missing_bytes(listed[name], path, usual) for name, path in wanted.items()
    )
    place = next(iter(wanted.values())).parent
    download.require_space({place: missing} | room)
    for name, path in wanted.items():
        download.fetch(listed[name], path)


def _trial(origin: str) -> tuple[list[str], float, int, float]:
    """Return channels, sampling rate (Hz), number of samples and time of the first (s)."""
    if origin == "raw":
        return CHANNELS, float(raw.SFREQ), raw.N_TIMES, 0.0
    form = ready.FORMS[origin]
    return form.channels, form.sfreq, form.n_times, form.tmin


def _result_bytes(origin: str) -> int:
    """Return the size of a subject's EEG set."""
    channels, _, n_times, _ = _trial(origin)
    trials = sum(n * k for n, k in zip(CONDITIONS, REPETITIONS, strict=True))
    return trials * len(channels) * n_times * 2


def _description(origin: str, whiten: str) -> dict:
    where = ORIGINS[origin].where
    _, sfreq, n_times, tmin = _trial(origin)
    if origin == "raw":
        about, whitening = raw.ABOUT, raw.WHITENING[whiten]
    else:
        about, whitening = ready.FORMS[origin].about, ready.FORMS[origin].whitening
    return {
        "name": "things-eeg2",
        "source": "THINGS-EEG2: EEG of ten people who looked at photos (Gifford et al. 2022)",
        "simulated": False,
        "datasets": [where.removeprefix("hub:")] if where.startswith("hub:") else [],
        "preparation": {
            "origin": f"{origin}: {about}",
            "sfreq": sfreq,
            "baseline": [-0.2, 0.0],
            "kept": [tmin, round(tmin + (n_times - 1) / sfreq, 6)],
            "whitening": whitening,
            "sessions": raw.SESSIONS,
        },
        "licences": [
            "EEG: THINGS-EEG2, CC-BY 4.0, Gifford, Dwivedi, Roig and Cichy",
            "Pictures shown here: THINGSplus, CC0; those that the people saw may not be shown",
        ],
    }
