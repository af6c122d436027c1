"""Pictures → embeddings by an image model of the Hugging Face Hub (CLIP and models like it).

python -m nice_demo.embed --data data/things-eeg2 --images data/things-eeg2/downloads
python -m nice_demo.embed --data data/things-eeg2 --verify clip_vitl14_test.npy
python -m nice_demo.embed --data data/mine --images FOLDER

The first makes the galleries of a prepared data folder anew, with another image model too; a run
that was stopped goes on where it was. The second compares the galleries that are there with
embeddings made elsewhere. The third gives the pictures of your own recordings their embeddings.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError

from nice_demo.eegset import DataSet
from nice_demo.errors import InputError, one_line
from nice_demo.files import write_json
from nice_demo.gallery import Gallery
from nice_demo.sources.latents import read_array
from nice_demo.sources.things_eeg2 import images
from nice_demo.sources.things_eeg2.images import Pictures

if TYPE_CHECKING:
    from PIL import Image

CLIP = "openai/clip-vit-large-patch14"
# The commits taken where none is asked for, so that embeddings made today and next year agree.
PINNED = {CLIP: "32bd64288804d66eefd0ccbe215aa642df71cc41"}
POOLINGS = ("cls", "mean")
CENTRES = ("renormalised", "published", "none")
LEAST_COSINE = 0.99  # below it, embeddings don't come from the same model and pictures


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Yield lists of `size` items, the last of what is left, without holding more than one."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


# ---------------------------------------------------------------- the image model


class ImageModel:
    """An image model with its weights, in half precision on a GPU.

    Any model that transformers knows to embed both pictures and words will do: CLIP, SigLIP,
    ALIGN and others.

    Parameters
    ----------
    name : str
        A model of the Hub, or a folder that holds one.
    revision : str, optional
        Commit, branch or tag on the Hub; where None the one in `PINNED`, else the newest.
    device : str
        "cpu", "cuda", …, or "auto": a GPU if there is one.
    layer : int, optional
        Take the hidden state after this block of the vision transformer, the first being 1, in
        place of the final (for CLIP, projected) embedding.
    pooling : str
        Of the hidden state: "cls" takes the class token, "mean" the mean over all other tokens.

    Attributes
    ----------
    description : dict
        What identifies the embeddings: ``name``, ``revision``, ``commit`` (of the Hub, where it is
        known), ``precision`` and, with a layer, ``layer`` and ``pooling``.

    Raises
    ------
    InputError
        Where the model can't be loaded or used so.

    References
    ----------
    .. [1] A. Radford et al. "Learning transferable visual models from natural language
       supervision." ICML 2021.
    .. [2] Y. Song et al. "Decoding natural images from EEG for object recognition." ICLR 2024.
    """

    def __init__(
        self,
        name: str = CLIP,
        revision: str | None = None,
        device: str = "cpu",
        layer: int | None = None,
        pooling: str = "cls",
    ) -> None:
        import torch
        from PIL import Image

        if pooling not in POOLINGS:
            raise InputError(f"There is no pooling {pooling!r}; choose {' or '.join(POOLINGS)}.")
        revision = revision or PINNED.get(name)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name, self.device, self.layer, self.pooling = name, device, layer, pooling
        self.dtype = torch.float16 if device.startswith("cuda") else torch.float32
        self.processor, self.network, commit = _load(name, revision)
        self._tokenizer = None
        try:
            self.network = self.network.to(device, self.dtype).eval()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InputError(
                f"The image model can't run on {device!r} ({one_line(error)}); give another device."
            ) from None
        parameters = [parameter for parameter, _ in self.network.named_parameters()]
        self.class_token = any("class_embedding" in p or "cls_token" in p for p in parameters)
        self.description = {"name": name, "revision": revision}
        if commit and commit != revision:
            self.description["commit"] = commit
        self.description["precision"] = str(self.dtype).removeprefix("torch.")
        if layer is not None:
            self.description |= {"layer": layer, "pooling": pooling}
        # What this model can't do should show now, not after the pictures are found and opened.
        self.embed([Image.new("RGB", (64, 64), "gray")])

    def embed(self, pictures: "list[Image.Image]") -> np.ndarray:
        """Embed one batch of pictures of any size and mode.

        Returns
        -------
        array of shape (n_pictures, dim), float32
            Of unit norm.
        """
        import torch

        rgb = [picture.convert("RGB") for picture in pictures]
        pixels = self.processor(images=rgb, return_tensors="pt").to(self.device, self.dtype)
        try:
            with torch.inference_mode():
                found = self.network.get_image_features(
                    **pixels, output_hidden_states=self.layer is not None
                )
        except torch.OutOfMemoryError:
            raise InputError(
                f"{len(rgb)} pictures at a time don't fit into the GPU's memory; "
                "give a smaller --batch."
            ) from None
        vectors = getattr(found, "pooler_output", None) if self.layer is None else self._pool(found)
        if vectors is None or vectors.ndim != 2:
            raise InputError(
                f"The image model {self.name!r} doesn't give one embedding for each picture; "
                f"choose a CLIP-like model such as {CLIP!r}."
            )
        # A class token can be large: norms are taken in single precision.
        vectors = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise InputError(
                f"The image model {self.name!r} gives NaN in {self.description['precision']}; "
                "give --device cpu or another model."
            )
        return vectors

    def embed_words(self, words: list[str]) -> np.ndarray:
        """Embed words or sentences with the model's other half, into the same space.

        Parameters
        ----------
        words : list of str
            What is longer than the model takes is cut.

        Returns
        -------
        array of shape (n_words, dim), float32
            Of unit norm.

        Raises
        ------
        InputError
            Where the model's tokenizer can't be had, or embeddings are of an inner layer, which
            words don't reach.
        """
        import torch

        if self.layer is not None:
            raise InputError(
                f"These embeddings are of layer {self.layer} of the image model {self.name!r}, "
                "to which words have no way; use pictures."
            )
        if self._tokenizer is None:
            self._tokenizer = _load_tokenizer(self.name, self.description["revision"])
        # SigLIP was trained with all texts filled up to the same length.
        filled = "max_length" if "siglip" in self.network.config.model_type else True
        tokens = self._tokenizer(words, padding=filled, truncation=True, return_tensors="pt")
        tokens = {
            name: array.to(self.device)
            for name, array in tokens.items()
            if name in ("input_ids", "attention_mask")
        }
        with torch.inference_mode():
            found = self.network.get_text_features(**tokens)
        vectors = getattr(found, "pooler_output", None)
        if vectors is None or vectors.ndim != 2:
            raise InputError(
                f"The image model {self.name!r} doesn't give one embedding for each word; "
                f"choose a CLIP-like model such as {CLIP!r}."
            )
        return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()

    def _pool(self, found):
        hidden = getattr(found, "hidden_states", None)
        if not hidden or hidden[0].ndim != 3:  # (batch, tokens, width)
            raise InputError(
                f"The image model {self.name!r} isn't a transformer whose layers can be read; "
                "leave the layer out."
            )
        if not 1 <= self.layer < len(hidden):
            raise InputError(
                f"The image model {self.name!r} has layers 1 to {len(hidden) - 1}, no layer "
                f"{self.layer}; choose one of them."
            )
        if self.pooling == "cls" and not self.class_token:
            raise InputError(f"The image model {self.name!r} has no class token; pool by mean.")
        tokens = hidden[self.layer]
        if self.pooling == "cls":
            return tokens[:, 0]
        return tokens[:, 1 if self.class_token else 0 :].float().mean(1)


def _load(name: str, revision: str | None):
    """Return processor, network and commit (None where unknown) of a model."""
    from transformers import MODEL_MAPPING, AutoConfig, AutoImageProcessor, AutoModel, logging

    called = f"{name!r}" if revision is None else f"{name!r} at revision {revision!r}"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        kind = MODEL_MAPPING.get(type(config), None)
        # A language model that looks at pictures has the first of these but not the second.
        if not (hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features")):
            raise InputError(
                f"The image model {called} is of type {config.model_type!r}, not CLIP-like (it "
                f"doesn't embed both pictures and words); choose a model such as {CLIP!r}."
            )
        # Pillow resizes the same way on every machine; the published embeddings were made so.
        processor = AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil")
        # Safetensors only: a pickle could run code.
        network, loaded = AutoModel.from_pretrained(
            name, revision=revision, use_safetensors=True, output_loading_info=True
        )
    except InputError:
        raise
    # What the Hub's client raises where a name is unknown or the network away varies.
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"The image model {called} can't be loaded: the Hugging Face Hub couldn't be reached "
            "or has no such CLIP-like model; check its name and the network, or give the folder "
            "of a model downloaded before."
        ) from error
    except ImportError as error:
        raise InputError(
            f"The image model {called} needs a package that isn't installed: "
            f"{one_line(error)[:200]}."
        ) from None
    finally:
        logging.set_verbosity(verbosity)
    if loaded["missing_keys"]:
        # They would be random numbers.
        raise InputError(
            f"The weights of the image model {called} lack {len(loaded['missing_keys'])} of its "
            "parameters; download it anew or choose another model."
        )
    return processor, network, _commit(name, revision)


def _load_tokenizer(name: str, revision: str | None):
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        # Where files are missing, transformers may make one that knows no word.
        if set(tokenizer("dog")["input_ids"]) == set(tokenizer("pizza")["input_ids"]):
            raise ValueError("it tells no words apart")
        return tokenizer
    # What is raised where files are missing depends on the kind of tokenizer.
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise InputError(
            f"The image model {name!r} has no tokenizer that can be read "
            f"({one_line(error)[:200]}), so that it can't embed words; get the model's folder anew."
        ) from None


def _commit(name: str, revision: str | None) -> str | None:
    """Return the commit that was loaded: the Hub's cache keeps each in a folder of its name."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    file = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def embed_pictures(
    pictures: "Iterable[Image.Image]",
    model: str = CLIP,
    revision: str | None = None,
    device: str = "cpu",
    batch: int = 32,
    layer: int | None = None,
    pooling: str = "cls",
) -> np.ndarray:
    """Embed pictures, by default as the paper does: CLIP's projected image embedding.

    Parameters
    ----------
    pictures : iterable of PIL.Image.Image
        Of any size and mode.
    model, revision, device, layer, pooling
        See `ImageModel`.
    batch : int
        Pictures at a time.

    Returns
    -------
    array of shape (n_pictures, dim), float32
        Of unit norm; `dim` is 768 for the paper's model.

    Raises
    ------
    InputError
        Where the model can't be loaded or there is no picture.
    """
    image_model = ImageModel(model, revision, device, layer, pooling)
    embeddings = [image_model.embed(some) for some in batches(pictures, batch)]
    if not embeddings:
        raise InputError("There is no picture to embed; give at least one.")
    return np.concatenate(embeddings)


# ---------------------------------------------------------------- many pictures, resumably


def embed_resumably(
    image_model: ImageModel, pictures: Pictures, folder: Path, what: str, batch: int = 32
) -> np.ndarray:
    """Embed many pictures; what a run has done before it was stopped isn't done again.

    Finished batches are kept in `folder`, in a file whose name depends on the model and on the
    list of pictures.

    Parameters
    ----------
    image_model : ImageModel
    pictures : Pictures
    folder : Path
    what : str
        For the progress bar.
    batch : int

    Returns
    -------
    array of shape (n_pictures, dim), float32
        Of unit norm.
    """
    from tqdm import tqdm

    task = json.dumps([image_model.description, pictures.names, pictures.sizes])
    key = hashlib.sha256(task.encode()).hexdigest()[:16]
    kept = folder / f".{key}.embeddings"
    embeddings = _kept_batches(kept)
    done = sum(map(len, embeddings))
    left = (pictures[row] for row in range(done, len(pictures)))
    with (
        open(kept, "ab") as file,
        tqdm(total=len(pictures), initial=done, desc=what, unit="picture") as bar,
    ):
        for some in batches(left, batch):
            embeddings.append(image_model.embed(some))
            np.save(file, embeddings[-1])
            file.flush()
            bar.update(len(some))
    return np.concatenate(embeddings)


def _kept_batches(path: Path) -> list[np.ndarray]:
    """Read the .npy arrays that stand in a file one after the other; cut off a last, torn one."""
    found = []
    if path.exists():
        with open(path, "r+b") as file:
            while True:
                whole = file.tell()
                try:
                    found.append(np.load(file, allow_pickle=False))
                except (EOFError, ValueError):
                    break
            file.truncate(whole)
    return found


# ---------------------------------------------------------------- the galleries of a data folder


def make_galleries(
    folder: Path,
    train: Pictures,
    test: Pictures,
    image_model: ImageModel,
    *,
    others: Pictures | None = None,
    centres_file: Path | None = None,
    centres: str = "renormalised",
    cc0: Path | None = None,
    expected: Path | None = None,
    batch: int = 32,
) -> None:
    """Embed THINGS-EEG2's pictures and write a data folder's galleries.

    Writes ``train_gallery``, ``test_gallery`` and, from `others` or `centres_file`,
    ``test_centres``; names the image model in ``dataset.json`` if that is there. Nothing is
    written before all is embedded and checked. Candidates show the pictures in ``cc0/``, also those
    of an earlier run.

    Parameters
    ----------
    folder : Path
    train, test : Pictures
        See `nice_demo.sources.things_eeg2.images.shown_pictures`.
    image_model : ImageModel
    others : Pictures, optional
        Other pictures of the test concepts, whose means are the concept centres.
    centres_file : Path, optional
        Concept centres made elsewhere, in place of `others`.
    centres : str
        "renormalised", "published" (means as they are, shorter than 1) or "none".
    cc0 : Path, optional
        Pictures that may be shown, see `nice_demo.sources.things_eeg2.images.unpack_cc0`.
    expected : Path, optional
        Test embeddings made elsewhere, to `verify` ours against before going on.
    batch : int

    Raises
    ------
    InputError
        Where a picture can't be read, the embeddings aren't those expected, or the folder can't be
        written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if cc0 is not None:
            found = images.unpack_cc0(cc0, test, folder)
            print(f"{found} of {len(test)} test pictures have a CC0 picture of their concept")
        embeddings = embed_resumably(image_model, test, folder, "test pictures", batch)
        test_gallery = images.gallery(test, embeddings, image_model.description, folder)
        if expected is not None:
            verify(test_gallery, expected)
        centre_gallery = None
        if centres != "none" and centres_file is not None:
            centre_gallery = images.centres_from_file(test_gallery, centres_file, centres)
        elif centres != "none" and others is not None:
            embeddings = embed_resumably(image_model, others, folder, "other pictures", batch)
            centre_gallery = images.centres(test_gallery, others, embeddings, centres)
        embeddings = embed_resumably(image_model, train, folder, "training pictures", batch)
        train_gallery = images.gallery(train, embeddings, image_model.description)

        # Centres of an earlier run may be another model's.
        for suffix in (".json", ".safetensors"):
            (folder / f"test_centres{suffix}").unlink(missing_ok=True)
        train_gallery.save(folder / "train_gallery")
        test_gallery.save(folder / "test_gallery")
        if centre_gallery is not None:
            centre_gallery.save(folder / "test_centres")
        _name_image_model(folder, image_model.description)
        for kept in folder.glob(".*.embeddings"):
            kept.unlink()
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The galleries of {folder} can't be written ({one_line(error)}); free the disk or "
            "mend the folder and run again, which goes on from here."
        ) from None
    if centre_gallery is not None:
        hits = images.nearest_own_centre(test_gallery, centre_gallery)
        print(
            f"{100 * hits:.1f} % of the test pictures are nearest to their own concept's centre "
            f"(chance {100 / len(test):.1f} %)"
        )
    elif centres != "none":
        print(
            "No concept centres were made: that protocol needs the other THINGS pictures of the "
            "test concepts (--things) or a file of centres (--centres-file)."
        )


def _name_image_model(folder: Path, description: dict) -> None:
    if (folder / "dataset.json").exists():
        known = DataSet.open(folder).description
        write_json(folder / "dataset.json", known | {"image_model": description})


def verify(gallery: Gallery, path: Path) -> float:
    """Compare a gallery with embeddings made elsewhere, row by row, and print the least cosine.

    Parameters
    ----------
    gallery : Gallery
    path : Path
        A .npy file of shape (n_candidates, dim).

    Returns
    -------
    float
        The least cosine.

    Raises
    ------
    InputError
        Where the file doesn't fit or the least cosine is below 0.99.
    """
    ours, theirs = gallery.embeddings.astype(float), read_array(path).astype(float)
    if ours.shape != theirs.shape:
        raise InputError(
            f"{path} has shape {theirs.shape}, the gallery {ours.shape}; both must hold the same "
            "pictures in the space of the same image model."
        )
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(1) / np.maximum(norms, np.finfo(float).tiny)
    row = int(cosines.argmin())
    least = float(cosines[row])
    print(f"least cosine with {path}: {least:.6f} (row {row}, {gallery.candidates[row].id})")
    if least < LEAST_COSINE:
        raise InputError(
            f"Row {row} of {path} has cosine {least:.4f} with our embedding of "
            f"{gallery.candidates[row].id}, less than {LEAST_COSINE}; check the image model, its "
            "revision, its layer and the order of the pictures."
        )
    return least
