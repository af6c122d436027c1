"""Published latents of real EEG: fetched at a pinned commit, checked, made into a bundle.

The authors of ATM (D. Li et al. "Visual decoding and reconstruction via EEG embeddings with guided
diffusion." NeurIPS 2024) publish what their encoder ATM-S made of the test trials of subject 8 of
THINGS-EEG2, and the embeddings of the 200 test pictures that it is compared with. In flow these
two files, of torch's format and read without running what they contain; out flows a bundle of
latents that the page and ``nice_demo.evaluate`` open. Nothing of it is ours, and it says so.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from nice_demo.bundle import (
    LATENTS,
    MANIFEST,
    LatentsBundle,
    kind_of,
    open_bundle_folder,
    write_manifest,
)
from nice_demo.download import PointerInstead, Remote, fetch
from nice_demo.errors import InputError
from nice_demo.files import complete_folder, read_json, sha256
from nice_demo.gallery import Gallery
from nice_demo.retrieval import metrics, similarity
from nice_demo.sources.latents import candidates_of, read_names
from nice_demo.sources.things_eeg2.pickles import read_pickle

REPOSITORY = "Alljoined/EEG_Image_decode"
COMMIT = "e5a04d87201e032fb91d65cf7f3639e18fab9ebb"
# The former sends files that Git keeps; the latter those that it keeps as Git LFS.
RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/Retrieval"
MEDIA = f"https://media.githubusercontent.com/media/{REPOSITORY}/{COMMIT}/Retrieval"
LATENTS_FILE = "ATM_S_eeg_features_sub-08_test.pt"
PICTURES_FILE = "ViT-H-14_features_test.pt"
PUBLISHED = {  # bytes and SHA-256
    LATENTS_FILE: (820_080, "a8d62275e290128cab825095dce7916147410b66b8bbdca3b40539c62b38994e"),
    PICTURES_FILE: (1_639_587, "2d772e733ae9afe01f60547c38f0026a094347aa56fefd77cf375cf53667cdc9"),
}
SHAPE = (200, 1024)  # test pictures of THINGS-EEG2, dimensions of ViT-H-14
SUBJECT, ENCODER = "8", "ATM-S"
SOURCE = "published latents of ATM-S, subject 8, real EEG, not ours"
METADATA = ".npy"  # THINGS-EEG2's own image_metadata.npy; any other list of names is text


def prepare_published_latents(
    to: Path,
    origin: Path | None = None,
    downloads: Path = Path("data/published-latents"),
    names: Path | None = None,
) -> LatentsBundle:
    """Make the bundle of the published latents.

    Parameters
    ----------
    to : Path
        The bundle's folder; one of latents that is there already is replaced.
    origin : Path, optional
        A folder that holds the two files already; else they are downloaded.
    downloads : Path
        Where downloads are kept; 2.5 MB.
    names : Path, optional
        The pictures' names: THINGS-EEG2's ``image_metadata.npy``, or a text file with one a line.
        Without it candidates are numbered, because the published files hold no names.

    Returns
    -------
    LatentsBundle

    Raises
    ------
    InputError
        Where `to` holds something else, a file can't be had, or isn't the one published.
    """
    _check_place(to)
    named = [f"test picture {row + 1}" for row in range(SHAPE[0])]
    if names is not None:
        named = _names(names)
    files = {name: _file(name, origin, downloads) for name in PUBLISHED}
    latents = _array(read_pickle(files[LATENTS_FILE]), files[LATENTS_FILE])
    features = read_pickle(files[PICTURES_FILE])
    if not isinstance(features, dict) or "img_features" not in features:
        raise InputError(f"{files[PICTURES_FILE]} lacks img_features; download it again.")
    pictures = _array(features["img_features"], files[PICTURES_FILE])
    image_model = {
        "name": "OpenCLIP ViT-H-14 (laion2b_s32b_b79k), as published with ATM",
        "revision": f"{REPOSITORY}@{COMMIT[:10]}",
    }
    unit = pictures / np.linalg.norm(pictures.astype(float), axis=1, keepdims=True)
    gallery = Gallery(candidates_of(named), unit.astype(np.float32), image_model, "stimulus")
    with complete_folder(to) as part:
        gallery.save(part / "gallery")
        file = f"latents/sub-0{SUBJECT}_{ENCODER}.safetensors"
        (part / file).parent.mkdir()
        save_file({"latents": latents}, part / file)
        measured = metrics(
            similarity(latents, gallery.embeddings),
            np.arange(len(gallery)),
            protocol=gallery.protocol,
            repetitions=None,  # the files don't say
        )
        write_manifest(
            part,
            {
                "kind": LATENTS,
                "name": "published latents of ATM-S",
                "simulated": False,
                "published": True,
                "source": SOURCE,
                "subjects": [SUBJECT],
                "image_model": image_model,
                "encoders": {SUBJECT: {ENCODER: {"file": file}}},
                "metrics": [
                    {"subject": SUBJECT, "encoder": ENCODER, "metrics": measured.to_json()}
                ],
                "licences": [
                    f"Latents and embeddings: {REPOSITORY}, MIT",
                    "EEG behind them: THINGS-EEG2, CC-BY 4.0",
                ],
                "origin": {
                    "repository": REPOSITORY,
                    "commit": COMMIT,
                    "files": {name: digest for name, (_, digest) in PUBLISHED.items()},
                },
            },
        )
    return LatentsBundle(to)


def _check_place(to: Path) -> None:
    """Refuse to put the bundle in the place of anything but an earlier one."""
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    manifest = to / MANIFEST
    if not manifest.is_file() or kind_of(read_json(manifest)) != LATENTS:
        raise InputError(
            f"{to} exists and is no bundle of latents; choose another place with --to."
        )
    open_bundle_folder(to)  # whole, so that nothing else lies in it


def _file(name: str, origin: Path | None, downloads: Path) -> Path:
    """Return where one of the published files lies, after its hash was checked."""
    size, digest = PUBLISHED[name]
    if origin is None:
        try:
            return fetch(Remote(name, f"{RAW}/{name}", size, digest), downloads / name, rehash=True)
        except PointerInstead:
            return fetch(Remote(name, f"{MEDIA}/{name}", size, digest), downloads / name)
    path = origin / name
    if not path.is_file():
        raise InputError(f"{origin} lacks {name}; give the folder that holds it, or download it.")
    if path.stat().st_size != size or sha256(path) != digest:
        raise InputError(
            f"{path} isn't the published file (its size or SHA-256 differs); get it from "
            f"{REPOSITORY} at {COMMIT[:10]}, or leave --from out and have it downloaded."
        )
    return path


def _array(found: object, path: Path) -> np.ndarray:
    if not isinstance(found, np.ndarray) or found.shape != SHAPE or found.dtype != np.float32:
        raise InputError(f"{path} holds no float32 array of shape {SHAPE}; download it again.")
    if not np.isfinite(found).all():
        raise InputError(f"{path} holds NaN or infinity; download it again.")
    return np.array(found)


def _names(path: Path) -> list[str]:
    """Read the names of the test pictures, in the data set's order."""
    if path.suffix.lower() != METADATA:
        names = read_names(path)
    else:
        metadata = read_pickle(path)
        found = metadata.get("test_img_files") if isinstance(metadata, dict) else None
        names = np.asarray(found).ravel().tolist() if found is not None else []
        if not all(isinstance(name, str) for name in names):
            names = []
    if len(names) != SHAPE[0]:
        raise InputError(
            f"{path} names {len(names)} test pictures, not {SHAPE[0]}; give THINGS-EEG2's "
            "image_metadata.npy or one name a line."
        )
    return names
