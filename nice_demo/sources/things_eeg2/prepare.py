"""THINGS-EEG2 as a data folder: download, embed the pictures, convert the EEG.

In flows a choice of origin (`ORIGINS`); out flows what `nice_demo.eegset` describes. Every step
leaves complete files, so that the same command goes on after an interruption.
"""

from dataclasses import dataclass
from pathlib import Path

from nice_demo import download
from nice_demo.eegset import META, DataSet
from nice_demo.embed import CLIP, ImageModel, make_galleries
from nice_demo.errors import InputError
from nice_demo.files import write_json
from nice_demo.montage import CHANNELS, PRESETS, Montage
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
    """Where the EEG comes from, and in which form.

    Attributes
    ----------
    about : str
    where : str
        OSF node and storage, or a data set of the Hub.
    files : tuple of str
        Of a subject; ``{:02d}`` is its number.
    channels : list of str
    sfreq : float
        Hz.
    kept : tuple of float
        First and last sample of a trial, s.
    working : float
        GB needed beside the download and the result, while a subject is converted.
    """

    about: str
    where: str
    files: tuple[str, ...]
    channels: list[str]
    sfreq: float = 250.0
    kept: tuple[float, float] = (0.0, 0.996)
    working: float = 0.0


ORIGINS = {
    "raw": Origin(
        "the data set's own recordings, 1000 Hz",
        "osf:crxs4/googledrive",
        ("sub-{:02d}.zip",),
        CHANNELS,
        working=4.0,  # one recording, unpacked
    ),
    "nice": Origin(
        "preprocessed as NICE does it, float64",
        "hub:LidongYang/EEG_Image_decode",
        (
            "Preprocessed_data_250Hz/sub-{:02d}/preprocessed_eeg_training.npy",
            "Preprocessed_data_250Hz/sub-{:02d}/preprocessed_eeg_test.npy",
        ),
        CHANNELS,
    ),
    "hf": Origin(
        "preprocessed as NICE does it, float16",
        "hub:Haitao999/things-eeg",
        (
            "Preprocessed_data_250Hz_whiten/sub-{:02d}/train.pt",
            "Preprocessed_data_250Hz_whiten/sub-{:02d}/test.pt",
        ),
        CHANNELS,
    ),
    "osf17": Origin(
        "17 channels at 100 Hz, preprocessed by the data set's authors",
        "osf:anp5v/osfstorage",
        ("sub-{:02d}.zip",),
        PRESETS["17"],
        100.0,
        (-0.2, 0.79),
        working=1.3,
    ),
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
        Where files are downloaded to, by default in `folder`. Files that are there are used.
    keep_downloads : bool
        Keep a subject's downloaded files when its EEG set is complete.
    accepted : bool
        The data's terms are accepted: don't ask.
    whiten : str
        See `nice_demo.sources.things_eeg2.raw.convert`; other origins are whitened already.
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
    downloads = downloads or folder / "downloads"
    description = _description(origin, whiten)
    if (folder / "dataset.json").exists():
        there = DataSet.open(folder).description["preparation"]
        if there != description["preparation"]:
            raise InputError(
                f"{folder} was prepared from {there.get('origin')!r} with whitening "
                f"{there.get('whitening')!r}; give another --to for other choices."
            )
    download.accept_licence("THINGS-EEG2", TERMS, downloads, accepted)
    if not (folder / "dataset.json").exists():
        image_model = prepare_pictures(folder, downloads, **pictures)
        Montage.standard(ORIGINS[origin].channels).save(folder / "montage.safetensors")
        write_json(folder / "dataset.json", description | {"image_model": image_model})
    for subject in subjects:
        place = folder / f"sub-{subject:02d}"
        if (place / META).exists():
            print(f"subject {subject} is there already")
            continue
        files = _download_eeg(origin, subject, folder, downloads)
        if origin == "raw":
            raw.convert(files[0], place, subject, whiten, CONDITIONS)
        else:
            ready.convert(files, place, subject, origin, CONDITIONS)
        if not keep_downloads:
            for file in files:
                file.unlink()
        print(f"subject {subject} is prepared")


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
    missing = [name for name in names if not (downloads / name).exists()]
    if missing:
        wanted = {name: downloads / name for name in missing}
        _download_osf("y63gw", "osfstorage", wanted, 0)
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
        listed = download.osf_files("jum2f")
        remote = next((r for name, r in listed.items() if Path(name).name == CC0), None)
        if remote is None:
            print(f"OSF lists no {CC0} in jum2f; the page will show names in place of pictures")
            return None
        download.fetch(remote, path)
    return path


def _download_eeg(origin: str, subject: int, folder: Path, downloads: Path) -> list[Path]:
    """Return a subject's downloaded files, once there is room for all that follows."""
    source = ORIGINS[origin]
    names = [name.format(subject) for name in source.files]
    paths = [downloads / origin / name for name in names]
    samples = round((source.kept[1] - source.kept[0]) * source.sfreq) + 1
    trials = sum(n * k for n, k in zip(CONDITIONS, REPETITIONS, strict=True))
    room = 2 * trials * len(source.channels) * samples + round(source.working * 1e9)
    storage, _, place = source.where.partition(":")
    if all(path.exists() for path in paths):
        download.require_space(folder, room)
    elif storage == "osf":
        _download_osf(*place.split("/"), dict(zip(names, paths, strict=True)), room)
    else:
        sizes = [
            0 if path.exists() else download.hub_size(place, name)
            for name, path in zip(names, paths, strict=True)
        ]
        download.require_space(folder, sum(sizes) + room)
        for name in names:
            download.hub_file(place, name, downloads / origin)
    return paths


def _download_osf(node: str, storage: str, wanted: dict[str, Path], room: int) -> None:
    """Download files of an OSF node, once there is space for them and for `room` bytes more."""
    listed = download.osf_files(node, storage)
    if absent := [name for name in wanted if name not in listed]:
        raise InputError(
            f"OSF's node {node} has no {absent[0]}; see osf.io/{node} for what it has now."
        )
    missing = sum(download.missing_bytes(listed[name], path) for name, path in wanted.items())
    download.require_space(next(iter(wanted.values())).parent, missing + room)
    for name, path in wanted.items():
        download.fetch(listed[name], path)


def _description(origin: str, whiten: str) -> dict:
    source = ORIGINS[origin]
    whitening = {"raw": raw.WHITENING[whiten]}.get(origin) or ready.WHITENING[origin]
    return {
        "name": "things-eeg2",
        "source": "THINGS-EEG2: EEG of ten people who looked at photos (Gifford et al. 2022)",
        "simulated": False,
        "datasets": [source.where.partition(":")[2]] if source.where.startswith("hub:") else [],
        "preparation": {
            "origin": f"{origin}: {source.about} ({source.where})",
            "sfreq": source.sfreq,
            "baseline": [-0.2, 0.0],
            "kept": list(source.kept),
            "whitening": whitening,
            "sessions": 4,
        },
        "licences": [
            "EEG: THINGS-EEG2, CC-BY 4.0, Gifford, Dwivedi, Roig and Cichy",
            "Pictures shown here: THINGSplus, CC0; those that the people saw may not be shown",
        ],
    }
