"""Words and pictures of a visitor among a bundle's trials and candidates.

In flow a word, or pictures with names, and a bundle's image model, which is loaded at first use;
out flow the trials nearest to the word (`find_trials`), and where the pictures rank among the
candidates (`rank_pictures`).

    python -m nice_demo.queries weights/phantom --data data/phantom

puts into a bundle what makes answers quick: embeddings of all test trials, averaged over all
repetitions, and the phantom's way to embed further pictures. Without the former, the page makes
them in the background when they are asked for, some 20 s a subject.
"""

import argparse
import io
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.numpy import save_file

from nice_demo.bundle import Bundle, write_manifest
from nice_demo.decode import BundleDecoder
from nice_demo.decode.embeddings import STORED, embed_trials
from nice_demo.eegset import DataSet
from nice_demo.encoders import embed
from nice_demo.errors import InputError, command
from nice_demo.files import complete_file, complete_folder
from nice_demo.gallery import IMAGE_MODEL, Gallery
from nice_demo.retrieval import Proportion, ranks, similarity

LONGEST_WORD = 80  # characters, also of a picture's name
FIRST = 10  # trials that are shown; a hit is a picture among them
TRIALS_OF_A_PICTURE = 5
PICTURES = 5  # of a visitor at a time
LARGEST_FILE = 5_000_000  # bytes
LARGEST_PICTURE = 25_000_000  # pixels
FORMATS = ("PNG", "JPEG", "WEBP")
KEPT_SIDE = 512  # pixels: no image model here looks at more


# ---------------------------------------------------------------- words


def clean(text: object, what: str = "a word") -> str:
    """Return a visitor's word or name on one line, without what can't be seen.

    Raises
    ------
    InputError
        Where nothing is left, or it is too long.
    """
    shown = "".join(one if one.isprintable() else " " for one in str(text)[: 10 * LONGEST_WORD])
    word = " ".join(shown.split())
    if not word:
        raise InputError(f"There is nothing to look for; type {what}.")
    if len(word) > LONGEST_WORD:
        raise InputError(
            f"{what.capitalize()} may have {LONGEST_WORD} characters at most; shorten "
            f"“{word[:20]}…”."
        )
    return word


@dataclass(frozen=True)
class WordFound:
    """Which trials are nearest to a word.

    Attributes
    ----------
    word : str
    similarities : array of shape (n_trials,)
        Cosine between the word's embedding and what the encoder made of each trial's EEG.
    order : array of shape (n_trials,), int
        Trials, the nearest first; trial i is that of the gallery's picture i.
    pictures : array of shape (n_trials,)
        Cosine between the word's embedding and each picture's own, without any EEG: the most that
        an encoder could find.
    own : int or None
        The picture of that name, where the gallery has one.
    """

    word: str
    similarities: np.ndarray
    order: np.ndarray
    pictures: np.ndarray
    own: int | None

    @property
    def rank(self) -> int | None:
        """Where the trial of the picture of that name stands; 1 is nearest, ties count against."""
        return self._rank(self.similarities)

    @property
    def rank_of_picture(self) -> int | None:
        """Where the picture of that name itself stands among the pictures."""
        return self._rank(self.pictures)

    def _rank(self, similarities: np.ndarray) -> int | None:
        return None if self.own is None else int((similarities >= similarities[self.own]).sum())


def find_trials(
    gallery: Gallery, trials: np.ndarray, word: str, embedding: np.ndarray
) -> WordFound:
    """Find the trials nearest to a word.

    Parameters
    ----------
    gallery : Gallery
        Its candidate i was seen in trial i.
    trials : array of shape (n_trials, dim)
        What an encoder made of them.
    word : str
    embedding : array of shape (dim,)
        The word's, by the gallery's image model.
    """
    similarities = similarity(embedding[None], trials)[0]
    pictures = similarity(embedding[None], gallery.embeddings)[0]
    same = [
        row
        for row, one in enumerate(gallery.candidates)
        if word.casefold() in (one.name.casefold(), one.concept.replace("_", " ").casefold())
    ]
    order = np.argsort(-similarities, kind="stable")
    return WordFound(word, similarities, order, pictures, same[0] if same else None)


def own_among_first(names: np.ndarray, embeddings: np.ndarray, first: int = FIRST) -> Proportion:
    """Count how often the row of a name's own picture is among the `first` nearest to the name.

    Parameters
    ----------
    names : array of shape (n, dim)
        Embeddings of the candidates' names as words.
    embeddings : array of shape (n, dim)
        Of the trials, or of the pictures themselves.
    first : int
    """
    number = len(names)
    found = ranks(similarity(names, embeddings), np.arange(number))
    return Proportion(int((found <= first).sum()), number, min(1.0, first / number))


# ---------------------------------------------------------------- pictures


def read_picture(file: Path | str | bytes) -> Image.Image:
    """Read a picture that somebody gave: PNG, JPEG or WebP by its content, whatever it is called.

    Its size is known before it is unpacked. Only the pixels are kept, upright and made small;
    what else the file says, such as where it was taken, is dropped.

    Returns
    -------
    PIL.Image.Image
        RGB or RGBA, at most `KEPT_SIDE` pixels a side.

    Raises
    ------
    InputError
        Where it is something else, too large or damaged.
    """
    try:
        if not isinstance(file, bytes):
            if (size := Path(file).stat().st_size) > LARGEST_FILE:
                raise InputError(
                    f"The picture has {size / 1e6:.1f} MB; give one of "
                    f"{LARGEST_FILE / 1e6:.0f} MB at most."
                )
            file = Path(file).read_bytes()
        if len(file) > LARGEST_FILE:
            raise InputError(f"The picture has more than {LARGEST_FILE / 1e6:.0f} MB.")
        with Image.open(io.BytesIO(file), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > LARGEST_PICTURE:
                raise InputError(
                    f"The picture has {width} × {height} pixels; make it smaller, "
                    f"{LARGEST_PICTURE / 1e6:.0f} million pixels at most."
                )
            picture.draft("RGB", (KEPT_SIDE, KEPT_SIDE))  # JPEG can be unpacked small
            upright = ImageOps.exif_transpose(picture)
            transparent = "A" in upright.getbands() or "transparency" in upright.info
            small = upright.convert("RGBA" if transparent else "RGB")
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(
            f"The picture has far too many pixels; give one of {LARGEST_PICTURE / 1e6:.0f} million "
            "at most."
        ) from None
    except Image.DecompressionBombWarning:  # where warnings are errors
        raise InputError("The picture has far too many pixels; make it smaller.") from None
    # What Pillow raises where a file is damaged depends on the format and on the damage.
    except Exception as error:
        raise InputError(
            f"This is no PNG, JPEG or WebP picture that can be read ({type(error).__name__}); "
            "give another."
        ) from None
    small.thumbnail((KEPT_SIDE, KEPT_SIDE))
    clean_copy = Image.new(small.mode, small.size)  # without EXIF, comments or profiles
    clean_copy.paste(small)
    return clean_copy


@dataclass(frozen=True)
class PicturesRanked:
    """Where further pictures stand among the candidates of a trial.

    Attributes
    ----------
    names : list of str
        Of the pictures that were added, n_added.
    seen : int
        The candidate that was seen in the trial.
    similarities : array of shape (n_candidates + n_added,)
        With what the encoder made of the trial; the candidates first.
    order : array of shape (n_candidates + n_added,), int
        The most similar first.
    rank_of_seen : int
        Among all of them; 1 is best, ties count against.
    ranks : list of int
        Of those added.
    trials : array of shape (n_added, n_nearest), int
        The trials to which each added picture is most similar, by what was seen.
    trial_similarities : array of shape (n_added, n_nearest)
    """

    names: list[str]
    seen: int
    similarities: np.ndarray
    order: np.ndarray
    rank_of_seen: int
    ranks: list[int]
    trials: np.ndarray
    trial_similarities: np.ndarray


def rank_pictures(
    gallery: Gallery, trials: np.ndarray, seen: int, names: list[str], embeddings: np.ndarray
) -> PicturesRanked:
    """Add pictures to the candidates and rank all for a trial.

    Parameters
    ----------
    gallery : Gallery
    trials : array of shape (n_candidates, dim)
        What an encoder made of each trial.
    seen : int
        Which trial.
    names : list of str
    embeddings : array of shape (n_added, dim)
        Of the pictures, by the gallery's image model.
    """
    own = similarity(trials[seen][None], gallery.embeddings, gallery.keeps_norms)[0]
    with_trials = similarity(embeddings, trials)  # (n_added, n_trials)
    similarities = np.concatenate([own, with_trials[:, seen]])
    nearest = np.argsort(-with_trials, axis=1, kind="stable")[:, :TRIALS_OF_A_PICTURE]

    def rank(row: int) -> int:
        return int((similarities >= similarities[row]).sum())

    return PicturesRanked(
        names,
        seen,
        similarities,
        np.argsort(-similarities, kind="stable"),
        rank(seen),
        [rank(len(gallery) + row) for row in range(len(names))],
        nearest,
        np.take_along_axis(with_trials, nearest, axis=1),
    )


# ---------------------------------------------------------------- the command


def store(bundle: Bundle, data: DataSet | None = None) -> None:
    """Put embeddings of all trials and, of the phantom, its image model's part into a bundle.

    Parameters
    ----------
    bundle : Bundle
    data : DataSet, optional
        What it was trained on: holds a phantom's trials, which otherwise are made anew, and
        `IMAGE_MODEL`.
    """
    decoder, most, made = BundleDecoder(bundle), bundle.repetitions[-1], {}
    for subject in bundle.subjects:
        eeg = None if data is None else torch.from_numpy(data.subject(int(subject)).evoked(most))
        for encoder in bundle.encoders(subject):
            if eeg is None:
                found = embed_trials(decoder, subject, encoder, most)
            else:
                found = embed(bundle.encoder(subject, encoder), eeg).numpy()
            made[f"{subject} {encoder}"] = found.astype(np.float16)
        print(f"subject {subject}: {len(found)} trials", flush=True)
    manifest = {key: value for key, value in bundle.manifest.items() if key != "files"}
    with complete_folder(bundle.folder.resolve()) as folder:
        for name in bundle.manifest["files"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(name), folder / name)
        with complete_file(folder / STORED) as part:
            save_file(made, part)
        if data is not None and (data.folder / IMAGE_MODEL).exists():
            shutil.copyfile(data.folder / IMAGE_MODEL, folder / IMAGE_MODEL)
        write_manifest(folder, manifest)


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.queries``."""
    parser = argparse.ArgumentParser(
        "python -m nice_demo.queries",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's folder")
    parser.add_argument("--data", type=Path, help="the data folder that it was trained on")
    options = parser.parse_args(argv)
    store(Bundle(options.bundle), options.data and DataSet.open(options.data))
    print(f"{options.bundle}: its trials' embeddings are stored; the manifest is new.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
