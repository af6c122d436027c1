"""A decoder that needs no bundle: two made-up subjects who look at Twemoji pictures."""

import contextlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from nice_demo.decode import Decoder
from nice_demo.errors import InputError
from nice_demo.files import read_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.montage import Montage
from nice_demo.retrieval import metrics, similarity
from nice_demo.sources.phantom import __file__ as phantom
from nice_demo.trials import Evoked
from nice_demo.ui.page import page, serve

DIM = 24
NASTY = '<b>owl</b> & "co" ${1} {{x}}'


class FakeDecoder(Decoder):
    """Embeddings are the right ones in noise that averaging lowers; so is the EEG."""

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
        self.simulated, self.provenance = True, "made-up subjects"
        self.subjects, self.repetitions = ["1", "2"], [1, 2, 5, 10, 20, 40, 80]
        self.metrics = lru_cache(self.metrics)

    def encoders(self, subject):
        if subject not in self.subjects:
            raise InputError(f"There is no subject {subject!r} in this test; choose one of 1, 2.")
        return ["nice", "ridge"]

    def metrics(self, subject, encoder, repetitions):
        conditions = range(len(self.gallery))
        decoded = [self._embedding(subject, encoder, c, repetitions)[0] for c in conditions]
        similarities = similarity(np.stack(decoded), self.gallery.embeddings)
        target = np.array(conditions)
        return metrics(similarities, target, protocol="stimulus", repetitions=repetitions)

    def _embedding(self, subject, encoder, condition, repetitions):
        seed = [int(subject), ["nice", "ridge"].index(encoder), condition]
        noise = np.random.default_rng(seed).standard_normal((80, DIM))[:repetitions].mean(0)
        decoded = self.gallery.embeddings[condition] + 3 * noise
        return decoded.astype(np.float32), self._evoked(int(subject), condition, repetitions)

    def _evoked(self, subject, condition, repetitions):
        rng = np.random.default_rng([subject, condition])
        times = -0.2 + np.arange(300) / 250
        x, y, z = self.montage.positions.T / 0.1
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
        return Evoked(volts[:, 50:].astype(np.float32), volts - volts.mean(0), times)


@contextlib.contextmanager
def served(decoder: Decoder, name: str = "a test", notice: str = "") -> Iterator[str]:
    """Serve a page over a decoder and yield its address."""
    blocks = page(decoder, name, notice)
    try:
        yield serve(blocks, "127.0.0.1")
    finally:
        blocks.close(verbose=False)
