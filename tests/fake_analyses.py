"""Analyses as a bundle brings them along, made up: ranks at random, better where EEG would be."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nice_demo.analysis import meaning, truth
from nice_demo.analysis.series import (
    AS_TRAINED,
    RETRAINED,
    ZEROED,
    Analysis,
    Axis,
    Recording,
    Series,
)
from nice_demo.bundle import MANIFEST, Bundle, write_manifest
from nice_demo.explain import KINDS
from nice_demo.montage import REGIONS

ENCODERS = ["nice", "nice-sa", "nice-ga", "ridge"]
SKILL = {"nice": 0.3, "nice-sa": 0.29, "nice-ga": 0.24, "ridge": 0.27}
FILTERED = "filtered at test"


def series(
    rng: np.random.Generator,
    name: str,
    encoder: str,
    how: str,
    axes: tuple[Axis, ...],
    course: np.ndarray,
    subjects: list[str],
    ways: int,
) -> Series:
    """Make ranks whose share of hits follows `course` (0 to 1 of the encoder's skill)."""
    shape = tuple(len(axis.points) for axis in axes)
    talent = 0.6 + 0.8 * rng.random((len(subjects), *[1] * len(shape)))
    share = np.clip(SKILL[encoder] * talent * course[None], 0, 0.95)[..., None]
    found = rng.random((len(subjects), *shape, ways)) < share
    ranks = np.where(
        found, rng.geometric(0.4, found.shape), rng.integers(1, ways + 1, found.shape)
    ).clip(1, ways)
    points = int(np.prod(shape))
    thresholds = np.array([1, 5])[:, None] / ways + (0.02 + 0.003 * np.log(points)) * np.append(
        np.ones(len(subjects)), 0.35
    )
    return Series(name, encoder, how, axes, ways, subjects, ranks.astype(np.uint16), thresholds)


def analyses(bundle: Bundle, encoders: list[str] = ENCODERS, seed: int = 0) -> dict[str, Analysis]:
    """Make up time, space, frequency, repetitions and transfer for all subjects of a bundle."""
    rng = np.random.default_rng(seed)
    subjects, ways = bundle.subjects, len(bundle.gallery)
    found: dict[str, list[Series]] = {}

    def add(analysis: str, name: str, axes: tuple, course: np.ndarray, hows: dict) -> None:
        for how, of in hows.items():
            found.setdefault(analysis, []).extend(
                series(rng, name, encoder, how, axes, course, subjects, ways) for encoder in of
            )

    zeroed_too = {ZEROED: encoders, RETRAINED: ["ridge"]}
    ends = np.round(np.arange(1, 26) * 0.04, 3)
    growing = 1 / (1 + np.exp(-(ends - 0.25) / 0.06))
    add("time", "growing windows", (Axis("end of the window", "s", ends.tolist()),), growing,
        zeroed_too)  # fmt: skip
    middles = np.round(np.arange(0.05, 0.96, 0.04), 3)
    sliding = 0.8 * np.exp(-0.5 * ((middles - 0.22) / 0.09) ** 2)
    add("time", "sliding windows", (Axis("middle of the window", "s", middles.tolist()),), sliding,
        zeroed_too)  # fmt: skip
    when = np.round(0.02 + np.arange(25) * 0.04, 3)
    there = np.exp(-0.5 * ((when - 0.22) / 0.1) ** 2)
    apart = np.exp(-0.5 * ((when[:, None] - when) / 0.08) ** 2)
    add("time", "temporal generalisation",
        (Axis("trained at", "s", when.tolist()), Axis("tested at", "s", when.tolist())),
        np.sqrt(there[:, None] * there) * apart, {RETRAINED: ["ridge"]})  # fmt: skip

    regions = ["all", *REGIONS]
    axis = (Axis("region", "", regions),)
    add("space", "a region alone", axis, np.array([1, 0.05, 0.1, 0.3, 0.5, 0.8]), zeroed_too)
    add("space", "without a region", axis, np.array([1, 0.95, 0.9, 0.8, 0.7, 0.35]), zeroed_too)
    back = -bundle.montage.flat[:, 1]
    add("space", "searchlight", (Axis("electrode", "", bundle.montage.names),),
        0.6 / (1 + np.exp(-(back - 0.4) / 0.2)), zeroed_too)  # fmt: skip
    add("space", "a preset of electrodes", (Axis("electrodes", "", ["63", "17", "8"]),),
        np.array([1, 0.85, 0.6]), zeroed_too)  # fmt: skip

    bands = ["all", "delta", "theta", "alpha", "beta", "low gamma", "high gamma"]
    filtered = {FILTERED: encoders, RETRAINED: ["ridge"]}
    axis = (Axis("band", "", bands),)
    add("frequency", "a band alone", axis, np.array([1, 0.5, 0.7, 0.3, 0.2, 0, 0]), filtered)
    add("frequency", "without a band", axis, np.array([1, 0.6, 0.4, 0.8, 0.9, 1, 1]), filtered)

    looks = bundle.repetitions
    add("repetitions", "test repetitions", (Axis("repetitions", "", looks),),
        np.sqrt(np.array(looks) / looks[-1]), {AS_TRAINED: encoders})  # fmt: skip
    add("repetitions", "training pictures",
        (Axis("share of the training pictures", "%", [25, 50, 75, 100]),),
        np.array([0.4, 0.7, 0.9, 1]), {RETRAINED: ["ridge"]})  # fmt: skip

    own = 0.15 + 0.85 * np.eye(len(subjects))
    axis = (Axis("trained on subject", "", subjects),)
    for encoder in encoders:
        one = series(
            rng, "encoder of another subject", encoder, AS_TRAINED, axis, np.ones(len(subjects)),
            subjects, ways,
        )  # fmt: skip
        kept = rng.random(one.ranks.shape) < own[..., None]
        ranks = np.where(kept, one.ranks, rng.integers(1, ways + 1, kept.shape)).astype(np.uint16)
        found.setdefault("transfer", []).append(
            Series(one.name, encoder, AS_TRAINED, axis, ways, subjects, ranks, one.thresholds)
        )
    add("transfer", "pooled training", (Axis("trained on", "", ["own", "the others",
        "all together"]),), np.array([1, 0.4, 0.9]), {RETRAINED: ["ridge"]})  # fmt: skip
    return {name: Analysis(name, several) for name, several in found.items()}


def with_analyses(bundle: Path, place: Path, stored: dict[str, Analysis]) -> Path:
    """Copy a bundle and put analyses into the copy."""
    shutil.copytree(bundle, place)
    (place / "analyses").mkdir(exist_ok=True)
    for name, analysis in stored.items():
        analysis.save(place / "analyses" / f"{name}.safetensors")
    manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    write_manifest(place, {k: v for k, v in manifest.items() if k not in ("schema", "files")})
    return place


class _Blurred(nn.Module):
    """Takes EEG that is an embedding for what it is, and adds noise of its own."""

    def __init__(self, seed: int, noise: float) -> None:
        super().__init__()
        self.seed, self.noise = seed, noise

    def forward(self, eeg: torch.Tensor) -> torch.Tensor:
        flat = eeg.flatten(1)
        random = torch.Generator().manual_seed(self.seed)
        return flat + self.noise * torch.randn(flat.shape, generator=random) / flat.shape[1] ** 0.5


def meaning_of(bundle: Bundle, encoders: list[str] = ENCODERS, few: int = 60) -> Analysis:
    """Analyse, with few shuffles, embeddings that are the pictures' own in noise."""
    by_subject = []
    for number, subject in enumerate(bundle.subjects):
        models = {e: _Blurred(10 * number + i, 5 + 0.3 * i) for i, e in enumerate(encoders)}
        eeg = bundle.gallery.embeddings[:, None]
        recording = Recording(bundle, subject, eeg, models)
        by_subject.append(meaning.analyse(recording, permutations=few, draws=few))
    arrays = {
        name: np.stack([one.arrays[name] for one in by_subject]) for name in by_subject[0].arrays
    }
    return Analysis("meaning", [], arrays, by_subject[0].about | {"subjects": bundle.subjects})


def truth_of(bundle: Bundle, encoders: list[str] = ENCODERS, seed: int = 1) -> Analysis:
    """Make up scores of maps: trained ones better than untrained, one kind not at all."""
    rng = np.random.default_rng(seed)
    kinds = list(KINDS)
    shape = (len(bundle.subjects), len(encoders), len(kinds))
    learned = rng.uniform(0, 0.5, (1, *shape[1:]))
    scores = np.full((*shape, 2, len(truth.FIGURES)), np.nan, np.float32)
    for weights, gain in enumerate((1, 0)):
        noise = rng.normal(0, 0.12, (*shape, 2))
        scores[..., weights, 0] = 0.2 + gain * learned + noise[..., 0]
        scores[..., weights, 3] = 0.3 + gain * learned + noise[..., 1]
        scores[..., weights, 1] = 45 - 40 * gain * learned + 60 * noise[..., 0]
        scores[..., weights, 2] = 52
    scores[:, :, -1, :, 3] = np.nan
    about = {
        "encoders": encoders, "kinds": kinds, "weights": list(truth.WEIGHTS),
        "figures": list(truth.FIGURES), "sanity": list(truth.SANITY), "pictures": 24,
        "note": truth.NOTE, "subjects": bundle.subjects,
    }  # fmt: skip
    sanity = rng.uniform(-0.2, 0.6, (*shape, 2)).astype(np.float32)
    return Analysis("truth", [], {"scores": scores, "sanity": sanity}, about)


def confidence_of(bundle: Bundle, encoders: list[str] = ENCODERS, seed: int = 2) -> Analysis:
    """Make up confidences that are somewhat too high."""
    rng = np.random.default_rng(seed)
    subjects, trials = bundle.subjects, len(bundle.gallery)
    shape = (len(subjects), len(encoders), len(bundle.repetitions), trials)
    sure = rng.beta(1, 2.5, shape).astype(np.float32)
    right = rng.random(shape) < 0.8 * sure
    rank = np.where(right, 1, rng.integers(2, trials + 1, shape)).astype(np.uint16)
    about = {"encoders": encoders, "repetitions": bundle.repetitions, "subjects": subjects}
    return Analysis("confidence", [], {"confidence": sure, "rank": rank}, about)


def everything(bundle: Bundle, encoders: list[str] = ENCODERS) -> dict[str, Analysis]:
    """Make up all eight analyses."""
    others = {
        "meaning": meaning_of(bundle, encoders),
        "truth": truth_of(bundle, encoders),
        "confidence": confidence_of(bundle, encoders),
    }
    return analyses(bundle, encoders) | others
