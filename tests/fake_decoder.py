"""A decoder that needs no files: two made-up subjects who look at Twemoji pictures."""

import contextlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder, Decoder
from nice_demo.encoders.ridge import WINDOW, Ridge
from nice_demo.errors import InputError
from nice_demo.files import read_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.montage import Montage
from nice_demo.retrieval import metrics, similarity
from nice_demo.sources.phantom import __file__ as phantom
from nice_demo.trials import Evoked
from nice_demo.ui.page import page, serve

DIM, CHANNELS, TIMES = 24, 63, 250
ENCODERS, REPETITIONS = ["nice", "ridge"], [1, 2, 5, 10, 20, 40, 80]
NASTY = '<b>owl</b> & "co" ${1} {{x}}'


class FakeBundle(Bundle):
    """What a bundle holds, made up: both encoders are linear, whatever they are called.

    Each reads a code of its own out of the EEG: the right embedding in noise that averaging lowers.
    """

    def __init__(self):
        concepts = read_json(phantom.replace("__init__.py", "concepts.json"))["test"]
        candidates = [
            Candidate(e["code"], e["name"], e["name"], e["category"], "twemoji:" + e["code"])
            for e in concepts
        ]
        candidates[-1] = Candidate("<i>1", "x", NASTY, "", None)
        rng = np.random.default_rng(0)
        centre = {
            category: rng.standard_normal(DIM)
            for category in sorted({e["category"] for e in concepts})
        }
        vectors = np.stack([centre[e["category"]] + rng.standard_normal(DIM) for e in concepts])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.gallery = Gallery(candidates, vectors.astype(np.float32), {"name": "none"})
        self.folder, self.montage = None, Montage.standard()
        known = {name: {"file": "none", "temperature": {"1": 0.2}} for name in ENCODERS}
        self.manifest = {
            "name": "made up", "simulated": True, "source": "made-up subjects", "files": {},
            "subjects": ["1", "2"], "encoders": {"1": known, "2": known}, "metrics": [],
            "trials": {"kind": "averages", "repetitions": REPETITIONS}, "licences": [],
            "sfreq": 250.0, "channels": self.montage.names,
        }  # fmt: skip
        features = CHANNELS * TIMES // WINDOW
        square = np.linalg.qr(rng.standard_normal((features, DIM * len(ENCODERS))))[0].T
        self.codes = dict(zip(ENCODERS, np.split(square, len(ENCODERS)), strict=True))

    def encoders(self, subject):
        if subject not in self.subjects:
            raise InputError(f"There is no subject {subject!r} in this test; choose one of 1, 2.")
        return ENCODERS

    def encoder(self, subject, name):
        encoder = Ridge(CHANNELS, TIMES, DIM).eval()
        state = {"weight": torch.from_numpy(self.codes[name]), "bias": torch.zeros(DIM)}
        encoder.linear.load_state_dict(state)
        return encoder

    def trials(self, subject):
        return FakeTrials(self, int(subject))

    def decoded(self, subject, encoder, condition, repetitions):
        """Return the embedding that an encoder reads out of the whole EEG."""
        seed = [int(subject), ENCODERS.index(encoder), condition]
        noise = np.random.default_rng(seed).standard_normal((80, DIM))[:repetitions].mean(0)
        return self.gallery.embeddings[condition] + 3 * noise


class FakeTrials:
    whitening = None

    def __init__(self, bundle, subject):
        self.bundle, self.subject = bundle, subject

    def evoked(self, condition, repetitions):
        if repetitions not in REPETITIONS:
            raise InputError(f"There is no average over {repetitions} repetitions.")
        codes = [
            self.bundle.decoded(self.subject, name, condition, repetitions) @ code
            for name, code in self.bundle.codes.items()
        ]
        eeg = sum(codes).reshape(CHANNELS, -1).repeat(WINDOW, axis=1).astype(np.float32)
        rng = np.random.default_rng([self.subject, condition])
        times = -0.2 + np.arange(300) / 250
        x, y, z = self.bundle.montage.positions.T / 0.1
        patterns = np.stack([-y, x * y, z - y, y], 1) + 0.15 * rng.standard_normal((63, 4))
        courses = [
            size * np.exp(-0.5 * ((times - peak) / width) ** 2)
            for size, peak, width in (
                (3, 0.1, 0.02),
                (-4, 0.17, 0.03),
                (3, 0.3, 0.07),
                (2, 0.5, 0.1),
            )
        ]
        noise = rng.standard_normal((63, 63)) @ rng.standard_normal((63, 300)).cumsum(1) / 40
        noise -= noise.mean(1, keepdims=True)
        volts = 1e-6 * (patterns @ np.array(courses) + noise * 3 / np.sqrt(repetitions))
        return Evoked(eeg, volts - volts.mean(0), times)


class FakeDecoder(BundleDecoder):
    """Decodes a `FakeBundle`; its metrics are measured when they are asked for."""

    def __init__(self):
        super().__init__(FakeBundle())
        self.metrics = lru_cache(self.metrics)

    def metrics(self, subject, encoder, repetitions):
        target = np.arange(len(self.gallery))
        decoded = [self.bundle.decoded(subject, encoder, c, repetitions) for c in target]
        similarities = similarity(np.stack(decoded), self.gallery.embeddings)
        return metrics(similarities, target, protocol="stimulus", repetitions=repetitions)


@contextlib.contextmanager
def served(decoder: Decoder, name: str = "a test", notice: str = "") -> Iterator[str]:
    """Serve a page over a decoder and yield its address."""
    blocks = page(decoder, name, notice)
    try:
        yield serve(blocks, "127.0.0.1")
    finally:
        blocks.close(verbose=False)
