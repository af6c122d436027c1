"""From a choice of subject, encoder, picture and repetitions to what the page shows.

`BundleDecoder` decodes EEG with a bundle's encoders, all of it or a `Part`; `LatentsDecoder` shows
what somebody else's decoder made of theirs. The page, the API and the tests read the `Decoding`
that both return.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from nice_demo.bundle import Bundle, LatentsBundle
from nice_demo.encoders import embed
from nice_demo.errors import InputError
from nice_demo.gallery import Gallery
from nice_demo.montage import Montage
from nice_demo.retrieval import (
    Metrics,
    metrics_of_ranks,
    ranks,
    ranks_in_order,
    similarity,
)
from nice_demo.trials import Evoked

KEPT = 1024  # averages of a bundle's trials that stay in memory


def end_of(times: np.ndarray) -> float:
    """Return when the last of evenly spaced samples ends, s."""
    step = times[1] - times[0] if len(times) > 1 else 0.0
    return float(times[-1] + step)


@dataclass(frozen=True)
class Part:
    """Which part of a trial's EEG the encoder gets; the rest is zero, the mean of whitened EEG.

    Attributes
    ----------
    off : tuple of str
        Electrodes that are switched off. Whitened EEG has mixed a little of every electrode into
        each channel; it is the channel centred on the electrode that is switched off.
    start, end : float or None
        Of the window that is kept, s: samples from `start` on and before `end`. None leaves that
        side open.
    shuffle : int
        Other than 0, all values that are kept stand in a random order, over electrodes and
        samples; each number is another order. The values are those of the trial, what they say of
        the picture is gone: whatever is decoded now is chance.
    """

    off: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    shuffle: int = 0

    def of(self, eeg: np.ndarray, channels: Sequence[str], times: np.ndarray) -> np.ndarray:
        """Take this part of a trial.

        Parameters
        ----------
        eeg : array of shape (n_channels, n_times)
            Whitened.
        channels : sequence of str
        times : array of shape (n_times,)
            s.

        Returns
        -------
        array of shape (n_channels, n_times)
            `eeg` itself where the part is all of it.

        Raises
        ------
        InputError
            Where nothing is left, or an electrode is switched off that doesn't exist.
        """
        if self == WHOLE:
            return eeg
        if unknown := [name for name in self.off if name not in channels]:
            raise InputError(
                f"There is no electrode {unknown[0][:40]!r} in this EEG; "
                f"choose of {', '.join(channels)}."
            )
        on = np.array([name not in self.off for name in channels])
        if not on.any():
            raise InputError(
                "All electrodes are switched off, so that there is nothing to decode; "
                "switch one on."
            )
        inside = self.inside(times)
        if not inside.any():
            start, end = (round(1e3 * edge) for edge in self.window(times))
            raise InputError(
                f"The window from {start} to {end} ms holds no EEG, so that there is nothing to "
                f"decode; let it end after it starts, between {1e3 * times[0]:.0f} and "
                f"{1e3 * end_of(times):.0f} ms."
            )
        kept = on[:, None] & inside
        part = np.where(kept, eeg, np.zeros_like(eeg))
        if self.shuffle:
            part[kept] = np.random.default_rng(self.shuffle).permutation(eeg[kept])
        return part

    def window(self, times: np.ndarray) -> tuple[float, float]:
        """Return where the window starts and ends, s, among samples at `times` (n_times,), s."""
        start = float(times[0]) if self.start is None else self.start
        return start, end_of(times) if self.end is None else self.end

    def inside(self, times: np.ndarray) -> np.ndarray:
        """Return which samples at `times` (n_times,), s, lie in the window: (n_times,) bool."""
        rounding = 1e-6  # s: 0.3 and 75 samples of 4 ms are the same moment
        start = -np.inf if self.start is None else self.start - rounding
        end = np.inf if self.end is None else self.end - rounding
        return (times >= start) & (times < end)


WHOLE = Part()


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
        The EEG, where there is any: `eeg` is what the encoder got, `volts` the whole trial.
    part : Part
        Of the EEG that the encoder got.
    confidence : float or None
        How probable the first choice is, see `nice_demo.calibration`. None where that wasn't
        calibrated, which it is for the whole EEG only.
    """

    subject: str
    encoder: str
    condition: int
    repetitions: int
    similarities: np.ndarray
    order: np.ndarray
    rank: int
    evoked: Evoked | None
    part: Part = WHOLE
    confidence: float | None = None


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
    times : array of shape (n_times,) or None
        Of the samples that encoders take, s; None where there is no EEG.
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
    times: np.ndarray | None = None

    @abstractmethod
    def encoders(self, subject: str) -> list[str]:
        """Return the names of a subject's encoders."""

    @abstractmethod
    def metrics(self, subject: str, encoder: str, repetitions: int) -> Metrics | None:
        """Return how good the encoder is over all pictures, or None where it wasn't measured."""

    @abstractmethod
    def _embedding(
        self, subject: str, encoder: str, condition: int, repetitions: int, part: Part
    ) -> tuple[np.ndarray, Evoked | None]:
        """Return a trial's embedding (dim,) and the EEG that it came from."""

    def decode(
        self,
        subject: str,
        encoder: str,
        picture: str,
        repetitions: int,
        part: Part = WHOLE,
    ) -> Decoding:
        """Decode a trial.

        Parameters
        ----------
        subject, encoder : str
        picture : str
            Id of the candidate that was seen.
        repetitions : int
        part : Part
            Of the EEG that the encoder gets.

        Raises
        ------
        InputError
            Where one of them doesn't exist, or the part holds nothing.
        """
        condition = self.gallery.index(picture)
        embedding, evoked = self._embedding(subject, encoder, condition, repetitions, part)
        similarities = self._similarities(embedding[None])
        return Decoding(
            subject,
            encoder,
            condition,
            repetitions,
            similarities[0],
            order=np.argsort(-similarities[0], kind="stable"),
            rank=int(ranks(similarities, np.array([condition]))[0]),
            evoked=evoked,
            part=part,
            confidence=self._confidence(subject, encoder, repetitions, similarities[0], part),
        )

    def _confidence(
        self, subject: str, encoder: str, repetitions: int, similarities: np.ndarray, part: Part
    ) -> float | None:
        """Return how probable the first choice is, None where nobody knows."""
        return None

    def _similarities(self, embeddings: np.ndarray) -> np.ndarray:
        return similarity(embeddings, self.gallery.embeddings, self.gallery.keeps_norms)

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
            "part": self._part_to_json(decoding),
            "seen": candidate(decoding.condition),
            "rank": decoding.rank,
            "confidence": decoding.confidence and round(decoding.confidence, 4),
            "candidates": ways,
            "rank_by_chance": (ways + 1) / 2,
            "retrieved": [
                {"rank": place, **candidate(row)}
                for place, row in enumerate(decoding.order[:top].tolist(), 1)
            ],
            # Measured with the whole EEG, whatever part this trial was decoded from.
            "over_all_pictures": overall and overall.to_json(),
        }

    def _part_to_json(self, decoding: Decoding) -> dict | None:
        """Tell which part of the EEG was decoded; None where there is no EEG."""
        if decoding.evoked is None:
            return None
        part = decoding.part
        start, end = part.window(self.times)
        return {
            "electrodes": [name for name in self.montage.names if name not in part.off],
            "electrodes_off": list(part.off),
            "start_ms": round(1e3 * start),
            "end_ms": round(1e3 * end),
            "shuffle": part.shuffle,
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
        # 0.14 MB each, 140 MB at most; to make a phantom's trials takes some 100 ms.
        self._evoked = lru_cache(maxsize=KEPT)(self._make_evoked)
        self._metrics = cache(bundle.metrics)

    def evoked(self, subject: str, condition: int, repetitions: int) -> Evoked:
        """Return the average of a picture's first repetitions; the latest stay in memory."""
        return self._evoked(subject, condition, repetitions)

    def _make_evoked(self, subject: str, condition: int, repetitions: int) -> Evoked:
        evoked = self.bundle.trials(subject).evoked(condition, repetitions)
        # Copies: a view would keep the averages over other repetitions in memory too.
        volts = None if evoked.volts is None else evoked.volts.copy()
        return Evoked(evoked.eeg.copy(), volts, evoked.times)

    def encoders(self, subject: str) -> list[str]:
        """Return the names of a subject's encoders."""
        return self.bundle.encoders(subject)

    def metrics(self, subject: str, encoder: str, repetitions: int) -> Metrics | None:
        """Return the metrics that the manifest holds."""
        return self._metrics(subject, encoder, repetitions)

    @cached_property
    def times(self) -> np.ndarray:
        """Of the samples that encoders take, s."""
        samples = self.bundle.encoder(self.subjects[0], self.encoders(self.subjects[0])[0]).config
        manifest = self.bundle.manifest
        return manifest.get("tmin", 0.0) + np.arange(samples["times"]) / float(manifest["sfreq"])

    def _embedding(self, subject, encoder, condition, repetitions, part):
        model = self.bundle.encoder(subject, encoder)
        evoked = self.evoked(subject, condition, repetitions)
        eeg = part.of(evoked.eeg, self.montage.names, self.times)
        embedding = embed(model, torch.from_numpy(eeg)[None])[0].numpy()
        return embedding, replace(evoked, eeg=eeg)

    def _confidence(self, subject, encoder, repetitions, similarities, part):
        if part != WHOLE:
            return None
        sure = self.bundle.confidence(subject, encoder, repetitions, similarities)
        return None if sure is None else float(sure.max())

    def shuffled_ranks(self, decoding: Decoding, shuffles: int = 100) -> np.ndarray:
        """Decode a trial again and again with its EEG in another random order each time.

        Parameters
        ----------
        decoding : Decoding
            Of the trial; its part of the EEG is what is shuffled.
        shuffles : int

        Returns
        -------
        array of shape (shuffles,), int
            Rank of the picture that was seen, after `Part.shuffle` of 1, 2, … `shuffles`.
        """
        encoder = self.bundle.encoder(decoding.subject, decoding.encoder)
        whole = self.evoked(decoding.subject, decoding.condition, decoding.repetitions).eeg
        eeg = np.stack(
            [
                replace(decoding.part, shuffle=number).of(whole, self.montage.names, self.times)
                for number in range(1, shuffles + 1)
            ]
        )
        similarities = self._similarities(embed(encoder, torch.from_numpy(eeg)).numpy())
        return ranks(similarities, np.full(shuffles, decoding.condition))


class LatentsDecoder(Decoder):
    """Shows the output of any decoders: one embedding for each picture of a gallery.

    Parameters
    ----------
    latents : array of shape (n_candidates, dim), or dict of such
        Row i is what the decoder made of the EEG of candidate i. Of several decoders: by their
        names, or by subject and within it by name.
    gallery : Gallery
    folder : Path or None
        Where the gallery's pictures lie.
    provenance : str
        Where the latents come from.
    simulated : bool
        Whether the EEG is.
    """

    def __init__(
        self,
        latents: np.ndarray | Mapping,
        gallery: Gallery,
        folder: Path | None,
        provenance: str,
        simulated: bool = False,
    ) -> None:
        if isinstance(latents, np.ndarray):
            latents = {"latents": latents}
        if any(isinstance(found, np.ndarray) for found in latents.values()):
            latents = {"latents": latents}
        self.latents = {subject: dict(by_name) for subject, by_name in latents.items()}
        self.gallery, self.folder = gallery, folder
        self.provenance, self.montage, self.simulated = provenance, None, simulated
        self.subjects, self.repetitions = list(self.latents), [1]
        self._ranks = cache(self._ranked)
        self._metrics = cache(self._measure)

    @classmethod
    def of_bundle(cls, bundle: LatentsBundle) -> "LatentsDecoder":
        """Return the decoder of a bundle of latents."""
        latents = {
            subject: {name: bundle.latents(subject, name) for name in bundle.encoders(subject)}
            for subject in bundle.subjects
        }
        source = bundle.manifest["source"]
        decoder = cls(latents, bundle.gallery, bundle.folder, source, bundle.simulated)
        decoder.licences = bundle.manifest["licences"]
        return decoder

    def encoders(self, subject: str) -> list[str]:
        """Return the names of the decoders."""
        if subject not in self.subjects:
            raise InputError(
                f"There is no subject {subject!r}; these latents have "
                f"{', '.join(map(repr, self.subjects))} only."
            )
        return list(self.latents[subject])

    def ranks(self, subject: str, encoder: str) -> np.ndarray:
        """Return the ranks of the pictures seen: array of shape (n_candidates,), int."""
        self._check(subject, encoder)
        return self._ranks(subject, encoder)

    def metrics(self, subject: str, encoder: str, repetitions: int) -> Metrics | None:
        """Return the latents' own metrics."""
        self._check(subject, encoder)
        return self._metrics(subject, encoder)

    def _check(self, subject: str, encoder: str) -> None:
        if encoder not in (known := self.encoders(subject)):
            raise InputError(
                f"There is no encoder {encoder!r}; these latents have "
                f"{', '.join(map(repr, known))} only."
            )

    def _ranked(self, subject: str, encoder: str) -> np.ndarray:
        latents = self.latents[subject][encoder]
        return ranks_in_order(latents, self.gallery.embeddings, self.gallery.keeps_norms)

    def _measure(self, subject: str, encoder: str) -> Metrics:
        return metrics_of_ranks(
            self._ranks(subject, encoder),
            len(self.gallery),
            protocol=self.gallery.protocol,
            repetitions=None,
        )

    def _embedding(self, subject, encoder, condition, repetitions, part):
        if part != WHOLE:
            raise InputError(
                "These latents came without EEG, so that no part of it can be switched off; "
                "open a bundle, or ask for all of it."
            )
        self._check(subject, encoder)
        if repetitions not in self.repetitions:
            raise InputError(
                f"There is no average over {repetitions} repetitions; "
                "these latents are one for each picture: choose 1."
            )
        return self.latents[subject][encoder][condition], None


def open_decoder(bundle: Bundle | LatentsBundle) -> Decoder:
    """Return what the page shows of a bundle, of whichever kind it is."""
    if isinstance(bundle, LatentsBundle):
        return LatentsDecoder.of_bundle(bundle)
    return BundleDecoder(bundle)
