"""The bundle: a folder with everything the page needs, and nothing that runs.

``manifest.json`` says what the bundle is (source, subjects, preparation, training, metrics,
licences) and lists every other file with its size and SHA-256. Beside it: the gallery, the
montage, one file for each encoder and one for each subject's test trials.

A *bundle of latents* (``"kind": "latents"``, schema 2) has neither EEG nor encoders, but what
somebody's decoders made of the EEG: one array for each subject and decoder. `open_bundle_folder`
opens either kind.

``python -m nice_demo.bundle`` is the command, in ``__main__.py``.
"""

import os
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nice_demo import __version__, calibration
from nice_demo.encoders import embed, open_encoder
from nice_demo.errors import InputError, one_line
from nice_demo.files import read_json, sha256, write_json
from nice_demo.gallery import Gallery
from nice_demo.montage import Montage
from nice_demo.retrieval import Metrics, metrics, similarity
from nice_demo.trials import Trials, open_trials

SCHEMA = 1  # of encoders and their trials
LATENTS_SCHEMA = 2  # of latents; readers that know schema 1 only refuse it with a sentence
ENCODERS, LATENTS = "encoders", "latents"  # kinds of bundles
MANIFEST = "manifest.json"
# On whose training trials a subject's encoder was trained.
SAME_SUBJECT, OTHER_SUBJECTS = "the same subject", "the other subjects"


class _CheckedFolder(ABC):
    """What bundles of both kinds have: a manifest, checked files, a gallery and metrics."""

    kind: str
    made_by = "nice_demo.train"
    needed: frozenset[str]  # what the manifest must say

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(
                f"There is no bundle at {folder}; give the folder that {self.made_by} wrote."
            )
        self.manifest = read_json(self.folder / MANIFEST)
        schema = self.manifest.get("schema")
        if type(schema) is not int or schema < 1:
            raise InputError(f"{self.folder / MANIFEST} names no schema; it isn't a bundle's.")
        known = _schema_of(self.manifest)
        if schema > known:
            raise InputError(
                f"{self.folder} has schema {schema}, and this version reads up to {known}; "
                "update nice_demo."
            )
        if kind_of(self.manifest) != self.kind:
            raise InputError(self._of_another_kind())
        missing = sorted(self.needed - self.manifest.keys())
        if missing:
            raise InputError(f"{self.folder / MANIFEST} lacks {', '.join(missing)}; make it anew.")
        self._check_description()
        self._check_files()

    @abstractmethod
    def _of_another_kind(self) -> str:
        """Say in a sentence what the folder is instead."""

    @abstractmethod
    def _check_parts(self) -> None:
        """Go through what a kind of bundle has for itself; any error means damage."""

    def _check_description(self) -> None:
        """Go through all that this class relies on, so that it is wrong now or never."""
        manifest = self.manifest
        try:
            for entry in manifest["files"].values():
                entry["sha256"], int(entry["bytes"])
            for subject in self.subjects:
                for entry in manifest["encoders"][subject].values():
                    self.file(entry["file"])
            for entry in manifest["metrics"]:
                entry["subject"], entry["encoder"], Metrics.from_json(entry["metrics"])
            manifest["image_model"].get("name"), list(manifest["licences"])
            self._check_parts()
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            raise InputError(
                f"{self.folder / MANIFEST} is damaged ({one_line(error)}); "
                "copy or train the bundle again."
            ) from None
        if not self.subjects:
            raise InputError(f"{self.folder / MANIFEST} names no subject; train the bundle again.")

    def _check_files(self) -> None:
        listed = self.manifest["files"]
        for name, entry in listed.items():
            path = self.file(name)
            if not os.path.isfile(path):  # unlike Path.is_file, False for names that can't be
                raise InputError(f"{self.folder} lacks {name}; copy or train the bundle again.")
            if sha256(path) != entry["sha256"]:
                raise InputError(
                    f"{path} isn't the file that the manifest lists (its SHA-256 differs); "
                    "copy or train the bundle again."
                )
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name != MANIFEST and name not in listed:
                raise InputError(f"{path} isn't listed in the manifest; remove it.")

    def file(self, name: str) -> Path:
        """Return the path of a listed file.

        Raises
        ------
        InputError
            Where the name is absolute, climbs out of the folder, or isn't listed.
        """
        pure = PurePosixPath(name)
        path = self.folder / pure
        if (
            pure.is_absolute()
            or ".." in pure.parts
            or "\\" in name
            or "\0" in name
            or not path.resolve().is_relative_to(self.folder.resolve())
        ):
            raise InputError(f"The manifest of {self.folder} names {name!r}, which lies outside.")
        if name not in self.manifest["files"]:
            raise InputError(f"The manifest of {self.folder} doesn't list {name!r}; train anew.")
        return path

    @property
    def name(self) -> str:
        """What the bundle is called."""
        return self.manifest["name"]

    @property
    def label(self) -> str:
        """Its name and, where it came from the Hub, of which repository and commit."""
        origin = self.manifest.get("hub")
        return f"{self.name} ({origin['repo']}@{origin['commit'][:10]})" if origin else self.name

    @property
    def simulated(self) -> bool:
        """Whether the EEG is simulated."""
        return bool(self.manifest["simulated"])

    @property
    def subjects(self) -> list[str]:
        """Names of the subjects, in order."""
        return [str(subject) for subject in self.manifest["subjects"]]

    @cached_property
    def gallery(self) -> Gallery:
        """The candidates; candidate i is the picture of test condition i."""
        self.file("gallery.json")
        return Gallery.open(self.file("gallery.safetensors").with_suffix(""))

    def encoders(self, subject: str) -> list[str]:
        """Return the names of a subject's encoders.

        Raises
        ------
        InputError
            For a subject who isn't in the bundle.
        """
        if subject not in self.subjects:
            raise InputError(
                f"There is no subject {subject!r} in {self.name}; "
                f"choose one of {', '.join(self.subjects)}."
            )
        return list(self.manifest["encoders"][subject])

    def _check_encoder(self, subject: str, name: str) -> None:
        known = self.encoders(subject)
        if name not in known:
            raise InputError(
                f"There is no encoder {name!r} for subject {subject}; "
                f"choose one of {', '.join(known)}."
            )

    def metrics(
        self, subject: str, encoder: str, repetitions: int, protocol: str | None = None
    ) -> Metrics | None:
        """Return the stored test metrics, or None where they weren't measured.

        Parameters
        ----------
        subject, encoder : str
        repetitions : int
        protocol : str or None
            None for that of `gallery`.
        """
        wanted = protocol or self.gallery.protocol, repetitions
        for entry in self.manifest["metrics"]:
            if (entry["subject"], entry["encoder"]) == (subject, encoder):
                found = Metrics.from_json(entry["metrics"])
                if (found.protocol, found.repetitions) == wanted:
                    return found
        return None


class Bundle(_CheckedFolder):
    """An opened bundle. Opening checks every file; arrays are read when they are asked for.

    Parameters
    ----------
    folder : Path or str

    Attributes
    ----------
    folder : Path
    manifest : dict

    Raises
    ------
    InputError
        Where the folder isn't a bundle, is one of latents, was made by a newer version, or a file
        is missing, changed, unlisted or outside the folder.
    """

    kind = ENCODERS
    needed = frozenset({
        "name", "simulated", "source", "subjects", "channels", "sfreq", "preparation",
        "image_model", "encoders", "trials", "metrics", "licences", "code_version", "files",
    })  # fmt: skip

    def _of_another_kind(self) -> str:
        return (
            f"{self.folder} is a bundle of latents, without EEG and encoders; open it with "
            "python app.py --bundle, or measure it with python -m nice_demo.evaluate."
        )

    def _check_parts(self) -> None:
        manifest = self.manifest
        for subject in self.subjects:
            for entry in manifest["encoders"][subject].values():
                for number, value in (entry.get("temperature") or {}).items():
                    if not (int(number) >= 1 and 0 < float(value) < float("inf")):
                        raise ValueError(f"a temperature is {number}: {value}")
            self.file(manifest["trials"]["files"][subject])
        averages = self.repetitions
        if averages != sorted({int(n) for n in averages}) or not averages or averages[0] < 1:
            raise ValueError(f"repetitions are {averages}")
        float(manifest["sfreq"]), manifest["trials"]["kind"]

    @property
    def repetitions(self) -> list[int]:
        """Numbers of repetitions for which averages can be had, ascending."""
        return self.manifest["trials"]["repetitions"]

    @cached_property
    def galleries(self) -> list[Gallery]:
        """`gallery` and, where the bundle has them, the concept centres in the same order."""
        centres = None
        if "centres.json" in self.manifest["files"]:
            self.file("centres.json")
            stem = self.file("centres.safetensors").with_suffix("")
            centres = open_centres(stem, self.gallery)
        return [self.gallery, centres] if centres else [self.gallery]

    @property
    def trained_on(self) -> str:
        """On whose training trials: "the same subject" or "the other subjects"."""
        return self.manifest.get("trained_on", SAME_SUBJECT)

    @cached_property
    def montage(self) -> Montage:
        """The electrodes."""
        return Montage.open(self.file("montage.safetensors"))

    def encoder(self, subject: str, name: str) -> torch.nn.Module:
        """Return an encoder in evaluation mode; each is read once.

        Raises
        ------
        InputError
            Where the subject or the encoder doesn't exist.
        """
        self._check_encoder(subject, name)
        if (subject, name) not in self._opened:
            path = self.file(self.manifest["encoders"][subject][name]["file"])
            self._opened[subject, name] = open_encoder(path)
        return self._opened[subject, name]

    def trials(self, subject: str) -> Trials:
        """Return a subject's test trials; each subject is opened once."""
        self.encoders(subject)
        if subject not in self._opened:
            entry = self.manifest["trials"]
            path = self.file(entry["files"][subject])
            self._opened[subject] = open_trials(entry["kind"], path, self.repetitions)
        return self._opened[subject]

    @cached_property
    def _opened(self) -> dict:
        return {}

    def temperature(self, subject: str, encoder: str, repetitions: int) -> float | None:
        """Return what similarities are divided by to become a confidence.

        Parameters
        ----------
        subject, encoder : str
        repetitions : int
            How many are averaged: that of the largest number not above it that has a temperature,
            else of the smallest.

        Returns
        -------
        float or None
            None for a bundle without temperatures.

        Raises
        ------
        InputError
            Where the subject or the encoder doesn't exist.
        """
        self._check_encoder(subject, encoder)
        fitted = self.manifest["encoders"][subject][encoder].get("temperature") or {}
        by_number = {int(number): float(value) for number, value in fitted.items()}
        if not by_number:
            return None
        below = [number for number in by_number if number <= repetitions]
        return by_number[max(below, default=min(by_number))]

    def confidence(
        self, subject: str, encoder: str, repetitions: int, similarities: np.ndarray
    ) -> np.ndarray | None:
        """Return how probable each candidate is to have been seen.

        Parameters
        ----------
        subject, encoder : str
        repetitions : int
            How many are averaged into each trial.
        similarities : array of shape (…, n_candidates)
            With the candidates of `gallery`.

        Returns
        -------
        array of shape (…, n_candidates), or None
            None for a bundle without temperatures.
        """
        temperature = self.temperature(subject, encoder, repetitions)
        if temperature is None:
            return None
        return calibration.confidence(similarities, temperature)

    def decode(self, subject: str) -> dict[str, list[tuple[Gallery, int, np.ndarray]]]:
        """Decode all of a subject's test trials.

        Returns
        -------
        dict of str to list
            By encoder; for each of `galleries` and of `repetitions` these two and the similarities
            (n_trials, n_candidates).
        """
        trials, conditions = self.trials(subject), range(len(self.gallery))
        eeg = np.stack(
            [[trials.evoked(c, n).eeg for n in self.repetitions] for c in conditions], 1
        )  # (averages, conditions, channels, times)
        decoded: dict[str, list[tuple[Gallery, int, np.ndarray]]] = {}
        for name in self.encoders(subject):
            encoder = self.encoder(subject, name)
            embeddings = [embed(encoder, torch.from_numpy(averages)).numpy() for averages in eeg]
            decoded[name] = [
                (gallery, repetitions, similarity(rows, gallery.embeddings, gallery.keeps_norms))
                for gallery in self.galleries
                for repetitions, rows in zip(self.repetitions, embeddings, strict=True)
            ]
        return decoded

    def measure(self, subject: str) -> dict[str, list[Metrics]]:
        """Decode all of a subject's test trials and say how well.

        Returns
        -------
        dict of str to list of Metrics
            By encoder; one `Metrics` for each of `galleries` and of `repetitions`.
        """
        target = np.arange(len(self.gallery))
        return {
            name: [
                metrics(found, target, protocol=gallery.protocol, repetitions=repetitions)
                for gallery, repetitions, found in several
            ]
            for name, several in self.decode(subject).items()
        }


class LatentsBundle(_CheckedFolder):
    """An opened bundle of latents. Opening checks every file.

    Parameters
    ----------
    folder : Path or str

    Attributes
    ----------
    folder : Path
    manifest : dict
        Its ``encoders`` name, for each subject and decoder, the file of its latents.

    Raises
    ------
    InputError
        As `Bundle`; also where it is a bundle of encoders.
    """

    kind = LATENTS
    made_by = "nice_demo.prepare published-latents"
    needed = frozenset({
        "name", "simulated", "source", "subjects", "image_model", "encoders", "metrics",
        "licences", "code_version", "files",
    })  # fmt: skip

    def _of_another_kind(self) -> str:
        return f"{self.folder} is a bundle of encoders, not of latents; give one of latents."

    def _check_parts(self) -> None:
        for subject in self.subjects:
            if not self.manifest["encoders"][subject]:
                raise ValueError(f"subject {subject} has no latents")

    def latents(self, subject: str, encoder: str) -> np.ndarray:
        """Read what a decoder made of a subject's EEG, one row for each candidate.

        Returns
        -------
        array of shape (n_candidates, dim), float32

        Raises
        ------
        InputError
            Where there is no such decoder, or its file doesn't fit the gallery.
        """
        self._check_encoder(subject, encoder)
        path = self.file(self.manifest["encoders"][subject][encoder]["file"])
        try:
            found = load_file(path)["latents"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(f"{path} can't be read ({one_line(error)}); make it anew.") from None
        if found.shape != self.gallery.embeddings.shape or not np.isfinite(found).all():
            raise InputError(
                f"{path} has shape {found.shape}, the gallery {self.gallery.embeddings.shape}, or "
                "holds NaN or infinity; make the bundle anew."
            )
        return found


def kind_of(manifest: dict) -> str:
    """Return which kind of bundle a manifest describes: "encoders" or "latents"."""
    return LATENTS if manifest.get("kind") == LATENTS else ENCODERS


def _schema_of(manifest: dict) -> int:
    return LATENTS_SCHEMA if kind_of(manifest) == LATENTS else SCHEMA


def open_bundle_folder(folder: Path | str) -> Bundle | LatentsBundle:
    """Open a bundle of either kind.

    Raises
    ------
    InputError
        See `Bundle`.
    """
    path = Path(folder) / MANIFEST
    latents = path.is_file() and kind_of(read_json(path)) == LATENTS
    return LatentsBundle(folder) if latents else Bundle(folder)


def open_centres(stem: Path, gallery: Gallery) -> Gallery | None:
    """Open the concept centres that go with a gallery of the pictures shown.

    Parameters
    ----------
    stem : Path
        Of ``STEM.json`` and ``STEM.safetensors``; without the former there are no centres.
    gallery : Gallery

    Returns
    -------
    Gallery or None

    Raises
    ------
    InputError
        Unless row i of both is the same concept, in the same space, under another protocol.
    """
    if not stem.with_suffix(".json").exists():
        return None
    centres = Gallery.open(stem)
    if (centres.protocol, gallery.protocol) != ("concept centre", "stimulus"):
        raise InputError(
            f"{stem}.json has the protocol {centres.protocol!r} and the gallery "
            f"{gallery.protocol!r}, not 'concept centre' and 'stimulus'; make the centres anew."
        )
    if centres.embeddings.shape != gallery.embeddings.shape:
        raise InputError(
            f"{stem}.safetensors has shape {centres.embeddings.shape}, the gallery "
            f"{gallery.embeddings.shape}; make the centres anew, of the same concepts and model."
        )
    for row, (one, other) in enumerate(zip(centres.candidates, gallery.candidates, strict=True)):
        if one.concept != other.concept:
            raise InputError(
                f"Row {row} of {stem}.json is {one.concept!r}, of the gallery {other.concept!r}; "
                "make the centres anew, in the order of the gallery."
            )
    return centres


def write_manifest(folder: Path, content: dict) -> None:
    """Write the manifest of a folder whose other files are complete.

    Parameters
    ----------
    folder : Path
    content : dict
        All that a manifest says but ``schema``, ``code_version`` and ``files``, added here.
    """
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    schema = _schema_of(content)
    content = {"schema": schema, "code_version": __version__, **content, "files": files}
    write_json(folder / MANIFEST, content)
