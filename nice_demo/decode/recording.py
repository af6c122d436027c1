"""Decode somebody's own epochs with a bundle's encoders.

`OwnEpochs` flow in, the average of each condition goes through an encoder of a subject of the
bundle, a `ConditionDecoding` for each flows out. What can be expected of that, `expectation` says;
whoever shows the numbers shows it first.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from nice_demo.bundle import Bundle
from nice_demo.encoders import embed
from nice_demo.errors import InputError
from nice_demo.gallery import Gallery
from nice_demo.retrieval import Metrics, metrics, ranks, similarity
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.channels import Match
from nice_demo.sources.recordings.epochs import AS_RECORDED, OwnEpochs, Steps

SIMULATED = (
    "These encoders were trained on SIMULATED EEG: what they retrieve from a real recording means "
    "nothing; it shows how the page works with weights trained on people."
)
# Song et al. 2024, leave one subject out, mean over ten subjects of THINGS-EEG2, 200 pictures.
ACROSS_SUBJECTS = (
    "An encoder knows the people whose EEG it learned from. Of people it had never seen, NICE "
    "found 6.2 % of the pictures among 200 (21.4 % among its first five; chance is 0.5 and 2.5 %), "
    "with the same cap and task, averaged over 80 looks; from another cap, another task or fewer "
    "looks expect chance."
)


@dataclass(frozen=True)
class ConditionDecoding:
    """What comes out for the evoked of one condition.

    Attributes
    ----------
    condition : str
        The event.
    n_epochs : int
        How many epochs were averaged.
    similarities : array of shape (n_candidates,)
        Cosine between the evoked's embedding and each candidate's.
    order : array of shape (n_candidates,), int
        Candidates, the most similar first.
    seen : int or None
        Row of the gallery whose id, name or concept is the condition's name; None for other events.
    rank : int or None
        Of `seen`; 1 is best, ties count against it.
    gallery : Gallery
    """

    condition: str
    n_epochs: int
    similarities: np.ndarray
    order: np.ndarray
    seen: int | None
    rank: int | None
    gallery: Gallery = field(repr=False)

    def to_json(self, top: int = 10) -> dict:
        """Return plain JSON, with the `top` nearest candidates."""

        def candidate(row: int) -> dict:
            entry = self.gallery.candidates[row]
            similarity_ = round(float(self.similarities[row]), 4)
            return {"id": entry.id, "name": entry.name, "similarity": similarity_}

        return {
            "condition": self.condition,
            "epochs": self.n_epochs,
            "seen": None if self.seen is None else candidate(self.seen),
            "rank": self.rank,
            "candidates": len(self.gallery),
            "rank_by_chance": (len(self.gallery) + 1) / 2,
            "retrieved": [
                {"rank": place, **candidate(row)}
                for place, row in enumerate(self.order[:top].tolist(), 1)
            ],
        }


def expectation(bundle: Bundle) -> str:
    """Say what to expect of a bundle's encoders with the EEG of somebody else."""
    return f"{SIMULATED} {ACROSS_SUBJECTS}" if bundle.simulated else ACROSS_SUBJECTS


def differences(bundle: Bundle, recording: Recording, steps: Steps) -> list[str]:
    """Say in which steps a recording differs from the EEG that the encoders learned from."""
    trained = bundle.manifest.get("preparation") or {}
    found = []
    reference = trained.get("reference")
    as_recorded = steps.reference == AS_RECORDED
    against = recording.reference if as_recorded else steps.reference
    if reference and against is None:
        found.append(
            f"The encoders learned from EEG against {reference}; this one is taken as recorded, "
            f"which is the same only if it was recorded against {reference}."
        )
    elif reference and against != reference:
        found.append(
            f"The encoders learned from EEG against {reference}; this one is against {against}."
        )
    if not steps.whiten and trained.get("whitening", "none") != "none":
        found.append("The encoders learned from whitened EEG; this one isn't whitened.")
    return found


def decode_epochs(
    bundle: Bundle, subject: str, encoder: str, epochs: OwnEpochs
) -> list[ConditionDecoding]:
    """Decode the evoked of each condition.

    Parameters
    ----------
    bundle : Bundle
    subject : str
        Whose encoder; somebody of the bundle.
    encoder : str
    epochs : OwnEpochs

    Returns
    -------
    list of ConditionDecoding
        In the order in which the conditions first occur.

    Raises
    ------
    InputError
        Where the subject or encoder doesn't exist, too few electrodes were recorded, or the
        encoder takes EEG of another shape.
    """
    model = bundle.encoder(subject, encoder)
    if epochs.eeg is None:
        raise InputError(
            f"Too few electrodes were recorded to decode ({', '.join(epochs.channels[:8])}); "
            "match more channels, or look at the averages only."
        )
    takes = (model.config["channels"], model.config["times"])
    if epochs.eeg.shape[1:] != takes:
        raise InputError(
            f"These epochs have {epochs.eeg.shape[1]} channels and {epochs.eeg.shape[2]} samples, "
            f"the encoder takes {takes[0]} and {takes[1]}; prepare them for this bundle."
        )
    conditions = list(dict.fromkeys(epochs.conditions))
    which = [epochs.of(condition) for condition in conditions]
    evoked = np.stack([epochs.eeg[rows].mean(0, dtype=float) for rows in which])
    embeddings = embed(model, torch.from_numpy(evoked.astype(np.float32))).numpy()
    gallery = bundle.gallery
    found = similarity(embeddings, gallery.embeddings, gallery.keeps_norms)
    rows_of = _rows_by_name(gallery)
    decodings = []
    for condition, rows, similarities in zip(conditions, which, found, strict=True):
        seen = rows_of.get(_plain(condition))
        rank = None if seen is None else int(ranks(similarities[None], np.array([seen]))[0])
        order = np.argsort(-similarities, kind="stable")
        decodings.append(
            ConditionDecoding(condition, int(rows.sum()), similarities, order, seen, rank, gallery)
        )
    return decodings


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _rows_by_name(gallery: Gallery) -> dict[str, int]:
    """Return the row of each id, name and concept that only one candidate has."""
    rows: dict[str, int] = {}
    for what in ("id", "name", "concept"):  # an id goes before a name, a name before a concept
        names = [_plain(getattr(candidate, what)) for candidate in gallery.candidates]
        for row, name in enumerate(names):
            if name and names.count(name) == 1:
                rows.setdefault(name, row)
    return rows


def summary(bundle: Bundle, decodings: Sequence[ConditionDecoding]) -> Metrics | None:
    """Say how well the conditions that are pictures of the gallery were found.

    Returns
    -------
    Metrics or None
        None where fewer than two conditions are in the gallery.
    """
    known = [decoding for decoding in decodings if decoding.seen is not None]
    if len(known) < 2:
        return None
    numbers = {decoding.n_epochs for decoding in known}
    return metrics(
        np.stack([decoding.similarities for decoding in known]),
        np.array([decoding.seen for decoding in known]),
        protocol=bundle.gallery.protocol,
        repetitions=numbers.pop() if len(numbers) == 1 else None,
    )


def to_json(
    bundle: Bundle,
    subject: str,
    encoder: str,
    recording: Recording,
    matches: Sequence[Match],
    steps: Steps,
    epochs: OwnEpochs,
    decodings: Sequence[ConditionDecoding],
    top: int = 10,
) -> dict:
    """Return all that was done with a recording, and what came out, as plain JSON."""
    overall = summary(bundle, decodings)
    return {
        "expectation": expectation(bundle),
        "encoders_trained_on_simulated_eeg": bundle.simulated,
        "bundle": bundle.name,
        "subject": subject,
        "encoder": encoder,
        "protocol": bundle.gallery.protocol,
        "recording": description(recording),
        "channels": [asdict(match) for match in matches],
        "steps": asdict(steps) | {"events": list(steps.events)},
        "interpolated": epochs.interpolated,
        "epochs": {
            name: epochs.conditions.count(name) for name in dict.fromkeys(epochs.conditions)
        },
        "epochs_dropped": epochs.dropped,
        "notes": [*recording.notes, *epochs.notes, *differences(bundle, recording, steps)],
        "conditions": [decoding.to_json(top) for decoding in decodings],
        "over_conditions": overall and overall.to_json(),
    }


def description(recording: Recording) -> dict:
    """Return what was read, as plain JSON."""
    there = dict.fromkeys(recording.events, 0)
    for name in recording.events:
        there[name] += 1
    return {
        "name": recording.name,
        "format": recording.format,
        "channels": len(recording.channels),
        "sfreq": recording.sfreq,
        "seconds": round(recording.volts.shape[-1] / recording.sfreq, 3),
        "epochs": len(recording.volts) if recording.epoched else None,
        "events": there,
    }
