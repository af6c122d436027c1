"""From a choice of subject, encoder, picture and repetitions to what the page shows.

`BundleDecoder` decodes EEG with a bundle's encoders; `LatentsDecoder` shows what somebody else's
decoder made of theirs. The page, the API and the tests read the `Decoding` that both return.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from nice_demo.bundle import Bundle
from nice_demo.encoders import embed
from nice_demo.errors import InputError
from nice_demo.gallery import Gallery
from nice_demo.montage import Montage
from nice_demo.retrieval import Metrics, metrics, ranks, similarity
from nice_demo.trials import Evoked


@dataclass(frozen=True)
class Decoding:
    """What comes out for one trial.

    Attributes
    ----------
    subject, encoder : str
    condition : int
        Row of the picture that was seen, in the gallery.
    repetitions : int
        How many trials of it were averaged.
    similarities : array of shape (n_candidates,)
        Cosine between the trial's embedding and each candidate's.
    order : array of shape (n_candidates,), int
        Candidates, the most similar first.
    rank : int
        Of the picture that was seen; 1 is best, ties count against it.
    evoked : Evoked or None
        The EEG, where there is any.
    """

    subject: str
    encoder: str
    condition: int
    repetitions: int
    similarities: np.ndarray
    order: np.ndarray
    rank: int
    evoked: Evoked | None


class Decoder(ABC):
    """What the page can ask: which choices there are, and the `Decoding` of one.

    Attributes
    ----------
    gallery : Gallery
    folder : Path or None
        Where the gallery's pictures lie.
    montage : Montage or None
        None where there is no EEG to show.
    simulated : bool
    provenance : str
        Where the EEG comes from, in a few words.
    subjects : list of str
    repetitions : list of int
    licences : list of str
        Of the data, for the footer.
    trained_on : str or None
        On whose recordings a subject's encoders were trained, where that is known.
    """

    gallery: Gallery
    folder: Path | None
    montage: Montage | None
    simulated: bool
    provenance: str
    subjects: list[str]
    repetitions: list[int]
    licences: Sequence[str] = ()
    trained_on: str | None = None

    @abstractmethod
    def encoders(self, subject: str) -> list[str]:
        """Return the names of a subject's encoders."""

    @abstractmethod
    def metrics(self, subject: str, encoder: str, repetitions: int) -> Metrics | None:
        """Return how good the encoder is over all pictures, or None where it wasn't measured."""

    @abstractmethod
    def _embedding(
        self, subject: str, encoder: str, condition: int, repetitions: int
    ) -> tuple[np.ndarray, Evoked | None]:
        """Return a trial's embedding (dim,) and the EEG that it came from."""

    def decode(self, subject: str, encoder: str, picture: str, repetitions: int) -> Decoding:
        """Decode a trial.

        Parameters
        ----------
        subject, encoder : str
        picture : str
            Id of the candidate that was seen.
        repetitions : int

        Raises
        ------
        InputError
            Where one of them doesn't exist.
        """
        condition = self.gallery.index(picture)
        embedding, evoked = self._embedding(subject, encoder, condition, repetitions)
        similarities = similarity(
            embedding[None], self.gallery.embeddings, self.gallery.keeps_norms
        )
        rank = ranks(similarities, np.array([condition]))[0]
        order = np.argsort(-similarities[0], kind="stable")
        return Decoding(
            subject, encoder, condition, repetitions, similarities[0], order, int(rank), evoked
        )

    def to_json(self, decoding: Decoding, top: int = 10) -> dict:
        """Return a `Decoding` as plain JSON, with what its numbers need to be understood."""
        ways = len(self.gallery)
        overall = self.metrics(decoding.subject, decoding.encoder, decoding.repetitions)

        def candidate(row: int) -> dict:
            entry = self.gallery.candidates[row]
            return {
                "id": entry.id,
                "name": entry.name,
                "similarity": round(float(decoding.similarities[row]), 4),
            }

        return {
            "simulated": self.simulated,
            "provenance": self.provenance,
            "protocol": self.gallery.protocol,
            "trained_on": self.trained_on,
            "subject": decoding.subject,
            "encoder": decoding.encoder,
            "repetitions": decoding.repetitions,
            "seen": candidate(decoding.condition),
            "rank": decoding.rank,
            "candidates": ways,
            "rank_by_chance": (ways + 1) / 2,
            "retrieved": [
                {"rank": place, **candidate(row)}
                for place, row in enumerate(decoding.order[:top].tolist(), 1)
            ],
            "over_all_pictures": overall and overall.to_json(),
        }


class BundleDecoder(Decoder):
    """Decodes the test trials of a bundle.

    Parameters
    ----------
    bundle : Bundle
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.gallery, self.folder, self.montage = bundle.gallery, bundle.folder, bundle.montage
        self.simulated, self.provenance = bundle.simulated, bundle.manifest["source"]
        self.subjects, self.repetitions = bundle.subjects, bundle.repetitions
        self.licences, self.trained_on = bundle.manifest["licences"], bundle.trained_on

    def encoders(self, subject: str) -> list[str]:
        """Return the names of a subject's encoders."""
        return self.bundle.encoders(subject)

    def metrics(self, subject: str, encoder: str, repetitions: int) -> Metrics | None:
        """Return the metrics that the manifest holds."""
        return self.bundle.metrics(subject, encoder, repetitions)

    def _embedding(self, subject, encoder, condition, repetitions):
        model = self.bundle.encoder(subject, encoder)
        evoked = self.bundle.trials(subject).evoked(condition, repetitions)
        return embed(model, torch.from_numpy(evoked.eeg)[None])[0].numpy(), evoked


class LatentsDecoder(Decoder):
    """Shows the output of any decoder: one embedding for each picture of a gallery.

    Parameters
    ----------
    latents : array of shape (n_candidates, dim)
        Row i is what the decoder made of the EEG of candidate i.
    gallery : Gallery
    folder : Path or None
        Where the gallery's pictures lie.
    provenance : str
        Where the latents come from.
    """

    def __init__(
        self, latents: np.ndarray, gallery: Gallery, folder: Path | None, provenance: str
    ) -> None:
        self.latents, self.gallery, self.folder = latents, gallery, folder
        self.provenance, self.montage, self.simulated = provenance, None, False
        self.subjects, self.repetitions = ["latents"], [1]
        self._metrics = lru_cache(self._measure)

    def encoders(self, subject: str) -> list[str]:
        """Return the one name there is."""
        if subject not in self.subjects:
            raise InputError(f"There is no subject {subject!r}; these latents have 'latents' only.")
        return ["latents"]

    def metrics(self, subject: str, encoder: str, repetitions: int) -> Metrics | None:
        """Return the latents' own metrics."""
        return self._metrics()

    def _measure(self) -> Metrics:
        similarities = similarity(self.latents, self.gallery.embeddings)
        return metrics(
            similarities,
            np.arange(len(self.gallery)),
            protocol=self.gallery.protocol,
            repetitions=None,
        )

    def _embedding(self, subject, encoder, condition, repetitions):
        if encoder not in self.encoders(subject):
            raise InputError(f"There is no encoder {encoder!r}; these latents have 'latents' only.")
        if repetitions not in self.repetitions:
            raise InputError(
                f"There is no average over {repetitions} repetitions; "
                "these latents are one for each picture: choose 1."
            )
        return self.latents[condition], None
