"""Whose output "Your decoder" shows: the page's own, a bundle's of latents, a visitor's files.

In flow decoders and files; out flow `Opened` ones: each names its decoders and knows the ranks that
they give to all pictures, and how to decode one of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from nice_demo.analysis.series import stored
from nice_demo.comparison import Paired, compare, in_words
from nice_demo.decode import BundleDecoder, Decoder, Decoding, LatentsDecoder
from nice_demo.errors import InputError
from nice_demo.retrieval import PROTOCOLS, Metrics, metrics_of_ranks
from nice_demo.sources.latents import Limits, fitted, read_array, read_names
from nice_demo.ui.cards import ENCODER_NAMES
from nice_demo.ui.kept import Kept
from nice_demo.ui.recording.steps import claimed

LIMITS = Limits()
NAMES_BYTES = 2_000_000
LONGEST = 60  # characters of a file's name on the screen
NAME_LONGEST = 120  # characters of a candidate's name
GONE = (
    "Your files aren't here any more: their numbers stay for 30 minutes at most, and go earlier "
    "where many visitors bring theirs; please upload them again."
)


# ---------------------------------------------------------------- what can be shown


@dataclass(frozen=True)
class Opened:
    """Decoders over one gallery.

    Attributes
    ----------
    decoder : Decoder
    whose : list of (str, str)
        Subject and encoder of each.
    labels : list of str
        What they are called, in the same order.
    repetitions : int
        With which `decoder` is asked.
    averaged : int or None
        Repetitions averaged, where that is known.
    source : str
        Where it comes from, in one sentence.
    ranks_of : callable
        (subject, encoder) → ranks of the pictures seen, array of shape (n_candidates,).
    """

    decoder: Decoder
    whose: list[tuple[str, str]]
    labels: list[str]
    repetitions: int
    averaged: int | None
    source: str
    ranks_of: Callable[[str, str], np.ndarray]

    def ranks(self, which: int) -> np.ndarray:
        """Return the ranks of the pictures seen, of one of the decoders."""
        return self.ranks_of(*self.whose[which])

    def metrics(self, which: int) -> Metrics:
        """Return how good one of the decoders is over all pictures."""
        gallery = self.decoder.gallery
        return metrics_of_ranks(
            self.ranks(which), len(gallery), protocol=gallery.protocol, repetitions=self.averaged
        )

    def compared(self, first: int, second: int) -> Paired:
        """Compare two of the decoders over all pictures."""
        return compare(self.ranks(first), self.ranks(second), len(self.decoder.gallery))

    def decode(self, which: int, picture: str) -> Decoding:
        """Decode one picture."""
        return self.decoder.decode(*self.whose[which], picture, self.repetitions)

    def to_json(self, first: int, second: int | None = None) -> dict:
        """Return everything that is shown of one or two of the decoders as plain JSON."""
        gallery = self.decoder.gallery
        shown = [first] if second is None else [first, second]
        content = {
            "source": self.source,
            "simulated": self.decoder.simulated,
            "protocol": gallery.protocol,
            "candidates": len(gallery),
            "decoders": [
                {
                    "name": self.labels[which],
                    "metrics": self.metrics(which).to_json(),
                    "ranks": self.ranks(which).tolist(),
                }
                for which in shown
            ],
            "pictures": [candidate.id for candidate in gallery.candidates],
        }
        if second is not None:
            paired = self.compared(first, second)
            says = in_words(paired, self.labels[first], self.labels[second])
            content["compared"] = paired.to_json() | {"in_words": says}
        return content


def of_latents(decoder: LatentsDecoder, source: str) -> Opened:
    """Open a decoder of latents."""
    whose = [(s, name) for s in decoder.subjects for name in decoder.encoders(s)]
    several = len(decoder.subjects) > 1
    labels = [f"{name}, subject {s}" if several else name for s, name in whose]
    return Opened(decoder, whose, labels, decoder.repetitions[-1], None, source, decoder.ranks)


def has_example(decoder: Decoder) -> bool:
    """Whether `example` has the ranks of all pictures at hand, or can have them soon."""
    if not isinstance(decoder, BundleDecoder):
        return isinstance(decoder, LatentsDecoder)
    bundle = decoder.bundle
    known = any(name.endswith("confidence.safetensors") for name in bundle.manifest["files"])
    return known or bundle.manifest["trials"]["kind"] == "averages"


def example(decoder: Decoder) -> Opened:
    """Open what the page itself shows: its own encoders, or its latents.

    Parameters
    ----------
    decoder : Decoder
        One that `has_example`: to decode all of a phantom's trials takes too long.
    """
    if isinstance(decoder, LatentsDecoder):
        return of_latents(decoder, f"What this page shows: {decoder.provenance}.")
    bundle = decoder.bundle
    known, averaged = stored(bundle, "confidence"), decoder.repetitions[-1]
    subject = _best(decoder, decoder.subjects if known is None else known.about["subjects"])
    encoders = decoder.encoders(subject)
    if known is not None:
        of_subject = known.arrays["rank"][known.about["subjects"].index(subject)]
        at = known.about["repetitions"].index(averaged)
        by_encoder = {
            name: of_subject[known.about["encoders"].index(name), at].astype(int)
            for name in encoders
            if name in known.about["encoders"]
        }
        encoders = list(by_encoder)

        def ranks_of(_: str, encoder: str) -> np.ndarray:
            return by_encoder[encoder]

    else:
        pictures = [candidate.id for candidate in decoder.gallery.candidates]

        @cache
        def ranks_of(whose: str, encoder: str) -> np.ndarray:
            return np.array(
                [decoder.decode(whose, encoder, one, averaged).rank for one in pictures]
            )

    # The paper's encoder and the linear one, where there are both, differ the most.
    encoders.sort(key=lambda name: {"nice": 0, "ridge": 1}.get(name, 2))
    who = f"phantom {subject}" if decoder.simulated else f"subject {subject}"
    kind = "simulated EEG" if decoder.simulated else "EEG"
    return Opened(
        decoder,
        [(subject, name) for name in encoders],
        [ENCODER_NAMES.get(name, name) for name in encoders],
        averaged,
        averaged,
        f"This page's own encoders on the {kind} of {who}, as if they were two files of yours.",
        ranks_of,
    )


def _best(decoder: BundleDecoder, subjects: list[str]) -> str:
    def quality(subject: str) -> float:
        found = decoder.metrics(subject, decoder.encoders(subject)[0], decoder.repetitions[-1])
        return found.top5.value if found else 0.0

    return max(subjects, key=quality)


# ---------------------------------------------------------------- a visitor's files


@dataclass
class Mine:
    """A visitor's own files, as far as they are there.

    Attributes
    ----------
    arrays : dict of str to (str, array)
        Under "latents", "gallery" and "other": the file's name and its rows.
    names : (str, list of str) or None
        The file's name and the candidates' names.
    protocol : str
    opened : Opened or None
        Once latents and gallery are there and fit.
    """

    arrays: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    names: tuple[str, list[str]] | None = None
    protocol: str = "stimulus"
    opened: Opened | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes; the gallery stands in it twice, as it was and of unit norm."""
        own = sum(rows.nbytes for _, rows in self.arrays.values())
        return own + (self.arrays["gallery"][1].nbytes if "gallery" in self.arrays else 0)

    def open(self) -> None:
        """Make decoders of what is there.

        Raises
        ------
        InputError
            Where the files don't fit each other; then nothing is open.
        """
        self.opened = None
        if not {"latents", "gallery"} <= self.arrays.keys():
            return
        gallery_name, gallery = self.arrays["gallery"]
        names_name, names = self.names or ("The list of names", None)
        decoders: dict[str, np.ndarray] = {}
        for which in ("latents", "other"):
            if which not in self.arrays:
                continue
            name, rows = self.arrays[which]
            opened = fitted(
                rows, gallery, names, None, self.protocol, (name, gallery_name, names_name)
            )
            if len(opened) < 2:
                raise InputError(
                    f"{gallery_name} holds one row; give at least two candidates to choose among."
                )
            label = name if name not in decoders else f"{name} (second)"
            decoders[label] = rows
        decoder = LatentsDecoder({"yours": decoders}, opened, None, "your files")
        source = f"Your files: {' and '.join(decoders)} against {gallery_name}."
        self.opened = of_latents(decoder, source)


def read_upload(uploaded: Mapping, which: str) -> tuple[str, np.ndarray | list[str]]:
    """Read one uploaded file, after which it is gone.

    Parameters
    ----------
    uploaded : mapping
        As gradio tells of it: "path", "orig_name".
    which : str
        "names" for a list of names, else an array.

    Returns
    -------
    name : str
        Of the file, for the screen.
    content : array of shape (n, dim), or list of str

    Raises
    ------
    InputError
        Where it can't be used.
    """
    with claimed([uploaded]) as (path,):
        return _read(path, which)


def read_uploads(uploaded: Mapping[str, Mapping]) -> Mine:
    """Read several uploaded files, after which they are gone.

    Parameters
    ----------
    uploaded : mapping of str to mapping
        Under "latents", "gallery", "other" and "names".

    Raises
    ------
    InputError
        Where one can't be used.
    """
    # Files of the same name and content are stored once.
    by_path = {file["path"]: file for file in uploaded.values()}
    with claimed(list(by_path.values())) as paths:
        where = dict(zip(by_path, paths, strict=True))
        found = {which: _read(where[file["path"]], which) for which, file in uploaded.items()}
    names = found.pop("names", None)
    return Mine(found, names)


def _read(path: Path, which: str) -> tuple[str, np.ndarray | list[str]]:
    name = (
        path.name if len(path.name) <= LONGEST else f"{path.name[: LONGEST - 9]}…{path.name[-8:]}"
    )
    try:
        if which != "names":
            return name, read_array(path, LIMITS)
        if path.suffix.lower() != ".txt":
            raise InputError(f"{path} isn't a .txt file; give plain text, one name a line.")
        if path.stat().st_size > NAMES_BYTES:
            raise InputError(f"{path} has more than {NAMES_BYTES // 10**6} MB; give names only.")
        return name, [
            one if len(one) <= NAME_LONGEST else f"{one[: NAME_LONGEST - 1]}…"
            for one in read_names(path)
        ]
    except InputError as error:  # visitors needn't read where the file lay
        raise InputError(str(error).replace(str(path), name)) from None


class KeptLatents(Kept):
    """The files of all sessions together, see `nice_demo.ui.kept.Kept`."""

    def __contains__(self, session: str | None) -> bool:
        return (session or "") in self._of

    def get(self, session: str | None) -> Mine:
        """Return a session's files.

        Raises
        ------
        InputError
            Where there are none, or none any more.
        """
        try:
            return super().get(session)
        except InputError:
            raise InputError(GONE) from None


def check_protocol(protocol: str) -> str:
    """Return a protocol that exists.

    Raises
    ------
    InputError
    """
    if protocol not in PROTOCOLS:
        raise InputError(
            f"There is no protocol {str(protocol)[:40]!r}; choose {' or '.join(PROTOCOLS)}."
        )
    return protocol
