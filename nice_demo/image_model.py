"""A bundle's image model, for words and pictures that aren't in the bundle.

In flow words and pictures; out flow embeddings in the gallery's space. It is loaded at first use,
in the background: transformers' CLIP and models like it, or the stand-in of the phantom.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from nice_demo.bundle import Bundle
from nice_demo.errors import InputError, one_line
from nice_demo.gallery import IMAGE_MODEL

NOT_ASKED, LOADING, READY, UNAVAILABLE = "not asked", "loading", "ready", "unavailable"
_PATIENCE = 5  # s, for the Hub's first answer
_AGAIN = 60  # s after which a model that couldn't be had is tried again


class Embeds(Protocol):
    """An image model that is open."""

    def embed(self, pictures: Sequence[Image.Image], names: Sequence[str]) -> np.ndarray:
        """Return embeddings (n_pictures, dim) of unit norm."""

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        """Return embeddings (n_words, dim) of unit norm."""


class PictureModel:
    """A bundle's image model, for words and pictures that aren't in the bundle.

    Nothing is loaded, and no network is asked, before `ask`; then it is loaded once, in a thread of
    its own.

    Parameters
    ----------
    bundle : Bundle
    load : callable, optional
        Returns the open model; by default what the gallery says it was made with.

    Attributes
    ----------
    state : str
        `NOT_ASKED`, `LOADING`, `READY` or `UNAVAILABLE`.
    why : str
        A sentence, where it is unavailable.
    """

    def __init__(self, bundle: Bundle, load: Callable[[], Embeds] | None = None) -> None:
        self._gallery = bundle.gallery
        self._load = load or (lambda: open_model(bundle))
        self._lock, self._done = threading.Lock(), threading.Event()
        self.state, self.why, self._model, self._tried = NOT_ASKED, "", None, 0.0
        self._names: np.ndarray | InputError | None = None  # of the candidates, as words

    def ask(self) -> str:
        """Begin to load it, unless that was done; return the state."""
        with self._lock:
            again = self.state == UNAVAILABLE and time.monotonic() - self._tried > _AGAIN
            if self.state == NOT_ASKED or again:
                self.state = LOADING
                self._done.clear()
                threading.Thread(target=self._open, daemon=True).start()
            return self.state

    def wait(self, seconds: float | None = None) -> Embeds:
        """Return the open model; wait for it.

        Raises
        ------
        InputError
            Where it can't be had, or isn't there in time.
        """
        if self.ask() == LOADING and not self._done.wait(seconds):
            raise InputError("The image model is still being loaded; ask again in a moment.")
        if self.state == UNAVAILABLE:
            raise InputError(self.why)
        return self._model

    def _open(self) -> None:
        try:
            model = self._load()
            dim = model.embed([Image.new("RGB", (64, 64), "gray")], [""]).shape[1]
            if dim != self._gallery.embeddings.shape[1]:
                raise InputError(
                    f"The image model gives embeddings of {dim} dimensions and the gallery has "
                    f"{self._gallery.embeddings.shape[1]}; the gallery doesn't say rightly what "
                    "made it."
                )
            self._names = self._embed_names(model)
            state, why = READY, ""
        except InputError as error:
            model, state, why = None, UNAVAILABLE, str(error)
        # A page that can't load a model is still a page, whatever a foreign library raises.
        except Exception as error:
            model, state = None, UNAVAILABLE
            why = f"The image model can't be opened ({one_line(error)[:200] or repr(error)})."
        with self._lock:
            self._model, self.state, self.why, self._tried = model, state, why, time.monotonic()
        self._done.set()

    def _embed_names(self, model: Embeds) -> np.ndarray | InputError:
        try:
            return model.embed_words([one.name for one in self._gallery.candidates])
        except InputError as error:  # then it is of use for pictures only
            return error

    def names(self) -> np.ndarray:
        """Return embeddings of the candidates' names as words, (n_candidates, dim).

        Raises
        ------
        InputError
            Where the model can't be had, or embeds no words.
        """
        self.wait()
        if isinstance(self._names, InputError):
            raise self._names
        return self._names


def open_model(bundle: Bundle) -> Embeds:
    """Open the image model that made a bundle's gallery.

    Raises
    ------
    InputError
        Where it can't be had: why, and what to do.
    """
    from nice_demo.sources.phantom.features import STAND_IN_NAME

    said = bundle.gallery.image_model
    if said.get("name") == STAND_IN_NAME:
        return _open_stand_in(bundle)
    return HubModel(said)


def _open_stand_in(bundle: Bundle) -> Embeds:
    from nice_demo.sources.phantom.stand_in import StandIn, missing_packages

    if IMAGE_MODEL not in bundle.manifest["files"]:
        raise InputError(
            f"This bundle lacks {IMAGE_MODEL}, without which no further picture can be embedded; "
            "run python -m nice_demo.queries with the bundle and --data."
        )
    if missing := missing_packages():
        raise InputError(
            "The phantom's image model isn't installed here, so that words and further pictures "
            f"are off; to switch them on, run pip install {' '.join(missing)} and start the page "
            "again."
        )
    return StandIn(bundle.file(IMAGE_MODEL))


class HubModel:
    """A CLIP-like model of the Hugging Face Hub, out of the cache where it is there.

    Parameters
    ----------
    image_model : dict
        What a gallery says of the model that made it.

    Raises
    ------
    InputError
        Where it can't be had.
    """

    def __init__(self, image_model: dict) -> None:
        from nice_demo.embed import ImageModel

        name, revision = image_model.get("name"), image_model.get("revision")
        if not isinstance(name, str) or ("/" not in name and not (name and Path(name).is_dir())):
            raise InputError(
                "The gallery doesn't say which image model made its embeddings, so that no word or "
                "further picture can be compared with them."
            )
        inner = {"layer": image_model.get("layer"), "pooling": image_model.get("pooling", "cls")}
        try:
            self._model = ImageModel(_folder(name, revision, local=True), **inner)
        except (InputError, OSError):  # nothing of it is here, or not all
            self._model = ImageModel(_folder(name, revision, local=False), **inner)

    def embed(self, pictures: Sequence[Image.Image], names: Sequence[str]) -> np.ndarray:
        """Embed pictures; names say nothing to this model."""
        from nice_demo.sources.phantom.pictures import GREY

        # What is transparent would turn out black, or whatever stands behind it.
        opaque = []
        for picture in pictures:
            rgba = picture.convert("RGBA")
            ground = Image.new("RGBA", rgba.size, (GREY, GREY, GREY, 255))
            opaque.append(Image.alpha_composite(ground, rgba).convert("RGB"))
        return self._model.embed(opaque)

    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        """Embed words, as such models were asked for classes by those who trained them."""
        return self._model.embed_words([f"a photo of {word}" for word in words])


def _folder(name: str, revision: str | None, local: bool) -> str:
    """Return the folder of a model of the Hub; where not `local`, download what is missing."""
    from huggingface_hub import snapshot_download

    from nice_demo.embed import PINNED

    if Path(name).is_dir():
        return name
    try:
        return snapshot_download(
            name,
            revision=revision or PINNED.get(name),
            allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"],
            ignore_patterns=["open_clip*"],  # the same weights once more, for another library
            etag_timeout=_PATIENCE,
            local_files_only=local,
        )
    except Exception as error:  # the client lets through what several libraries raise
        raise InputError(
            f"The image model {name!r} isn't on this machine and can't be fetched now, so that "
            "words and further pictures are off; everything else works. Where there is a network, "
            f"run hf download {name} once."
        ) from error
