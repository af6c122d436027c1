"""Write a bundle's reproducibility card: its figures, and exactly how they came about.

    python -m nice_demo.report weights/things-eeg2 --out card.md

The figures are those in the manifest; `python -m nice_demo.evaluate` measures them anew. Published
figures stand beside those of a bundle of real THINGS-EEG2 recordings, marked as published.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from nice_demo.bundle import MANIFEST, OTHER_SUBJECTS, Bundle
from nice_demo.errors import InputError, command
from nice_demo.evaluate import (
    COMPARED,
    OTHER_SEEDS,
    Comparison,
    Measured,
    OverSeeds,
    compare,
    difference_cells,
    of_protocol,
    over_seeds,
)
from nice_demo.evaluate import spread_over_seeds as spread
from nice_demo.files import complete_file, sha256
from nice_demo.retrieval import PROTOCOLS, Proportion, SubjectMean, mean_over_subjects

# Top-1 and top-5, 200-way, in %, by subject: NICE within subject, as listed in Table 1 of UBP (Wu
# et al., CVPR 2025, arXiv 2503.04207).
PUBLISHED = {
    "1": (13.2, 39.5), "2": (13.5, 40.3), "3": (14.5, 42.7), "4": (20.6, 52.7), "5": (10.1, 31.5),
    "6": (16.5, 44.0), "7": (17.0, 42.1), "8": (22.9, 56.1), "9": (15.4, 41.6), "10": (17.4, 45.8),
    "mean": (16.1, 43.6),
}  # fmt: skip
# The same with one subject left out (there too); of single subjects, none are kept here.
PUBLISHED_LEFT_OUT = {"mean": (6.2, 21.4)}
PUBLISHED_ON = (
    "Published, not ours: NICE (Song et al., ICLR 2024) as listed in Table 1 of arXiv 2503.04207; "
    "63 channels, 250 Hz, 80 repetitions averaged, candidates are concept centres."
)


def stored(bundle: Bundle) -> Measured:
    """Return the figures in the manifest, at one repetition and at all.

    Raises
    ------
    InputError
        Where some are missing, so that no table can be made.
    """
    ends = sorted({bundle.repetitions[0], bundle.repetitions[-1]})
    measured: Measured = {}
    for subject in bundle.subjects:
        measured[subject] = {}
        for encoder in bundle.encoders(subject):
            found = [
                bundle.metrics(subject, encoder, repetitions, gallery.protocol)
                for gallery in bundle.galleries
                for repetitions in ends
            ]
            if None in found:
                raise InputError(
                    f"The manifest of {bundle.folder} lacks figures of subject {subject}, "
                    f"{encoder}; train the bundle again."
                )
            measured[subject][encoder] = found
    return measured


def report(bundle: Bundle) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    bundle : Bundle

    Returns
    -------
    str
    """
    measured = stored(bundle)
    source = f"{'**Simulated EEG.** ' if bundle.simulated else ''}Data: {bundle.manifest['source']}"
    lines = [
        f"# {bundle.name}: reproducibility card",
        "",
        f"{source}. Each encoder was trained on {bundle.trained_on}.",
        "",
        _comparison(bundle),
        "",
        "## Figures",
        "",
        "From the manifest; `python -m nice_demo.evaluate` measures them anew. In brackets: Wilson "
        "95 % intervals over trials; for means, t intervals over subjects.",
        "",
    ]
    spreads, compared = over_seeds(bundle, measured), compare(measured)
    for gallery in bundle.galleries:
        lines += _protocol(bundle, of_protocol(measured, gallery.protocol), gallery.protocol)
        lines += _seeds([one for one in spreads if one.protocol == gallery.protocol])
        lines += _differences([one for one in compared if one.protocol == gallery.protocol])
    seeds = sorted({seed for one in spreads for seed in one.top1})
    lines += ["## Configuration", "", *_table(["", ""], _configuration(bundle, seeds))]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- figures


def _is_things_eeg2(bundle: Bundle) -> bool:
    said = f"{bundle.name} {bundle.manifest['source']}"
    return not bundle.simulated and re.search("things-?eeg-?2", said, re.IGNORECASE) is not None


def _comparison(bundle: Bundle) -> str:
    """Return where published figures stand, or why none do."""
    if bundle.simulated:
        return (
            "No published figures stand beside these: the EEG is simulated, and a simulation is "
            "no measurement to compare with."
        )
    if not _is_things_eeg2(bundle):
        return "No published figures stand beside these: they are of other data, THINGS-EEG2."
    if "concept centre" not in [gallery.protocol for gallery in bundle.galleries]:
        one, five = _published(bundle)["mean"]
        return (
            f"Published figures (top-1 {one} %, top-5 {five} % on average, trained on "
            f"{bundle.trained_on}; 200-way, chance 0.5 % and 2.5 %) are under the concept centre "
            "protocol and not comparable with the stimulus protocol; this bundle has no concept "
            "centres."
        )
    told = PUBLISHED_ON
    if bundle.trained_on == OTHER_SUBJECTS:
        told += " With one subject left out, we know of the published mean alone."
    return told


def _published(bundle: Bundle) -> dict[str, tuple[float, float]]:
    return PUBLISHED_LEFT_OUT if bundle.trained_on == OTHER_SUBJECTS else PUBLISHED


def _share(figure: Proportion | SubjectMean) -> str:
    if figure.low is None:
        return f"{100 * figure.value:.1f}"
    # "to", because an interval over subjects may reach below zero
    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def _protocol(bundle: Bundle, measured: Measured, protocol: str) -> Iterator[str]:
    """Yield a table of subjects for each number of repetitions."""
    encoders = list(dict.fromkeys(name for by_encoder in measured.values() for name in by_encoder))
    columns = next(iter(next(iter(measured.values())).values()))
    yield f"### {protocol.capitalize()} protocol"
    yield ""
    yield (
        f"{columns[0].ways}-way, {columns[0].trials} trials a subject, in %; "
        f"{PROTOCOLS[protocol]}, {_compared(bundle, protocol)}."
    )
    for place, one in enumerate(columns):
        published = {}
        like_published = (protocol, one.ways, one.repetitions) == ("concept centre", 200, 80)
        if _is_things_eeg2(bundle) and like_published:
            published = _published(bundle)
        heads = [f"{encoder} {top}" for encoder in encoders for top in ("top-1", "top-5")]
        heads += ["published NICE top-1", "published NICE top-5"] * bool(published)

        def row(name: str, figures: dict, published=published) -> list[str]:
            cells = [
                _share(getattr(figures[encoder], top)) if encoder in figures else "–"
                for encoder in encoders
                for top in ("top1", "top5")
            ]
            theirs = list(published.get(name, ("–", "–")))
            return [name, *cells, *(theirs if published else [])]

        rows = [
            row(subject, {encoder: several[place] for encoder, several in by_encoder.items()})
            for subject, by_encoder in measured.items()
        ]
        if len(measured) > 1:
            of_all = {
                encoder: mean_over_subjects([m[encoder][place] for m in measured.values()])
                for encoder in encoders
                if all(encoder in m for m in measured.values())
            }
            rows.append(row("mean", of_all))
        chances = [f"{100 * top.chance:.2g}" for top in (one.top1, one.top5)]
        rows.append(["chance", *chances * (len(heads) // 2)])
        yield ""
        yield f"Repetitions averaged: {one.repetitions}"
        yield ""
        yield from _table(["subject", *heads], rows)


def _compared(bundle: Bundle, protocol: str) -> str:
    (gallery,) = (one for one in bundle.galleries if one.protocol == protocol)
    return "their norms kept as published" if gallery.keeps_norms else "compared by cosine"


def _seeds(spreads: list[OverSeeds]) -> Iterator[str]:
    """Yield a table of the subjects' mean by training seed."""
    seeds = sorted({seed for one in spreads for seed in one.top1})
    yield ""
    yield "Spread over training seeds: mean over subjects, top-1 / top-5."
    if len(seeds) > 1:
        yield OTHER_SEEDS
    yield ""
    rows = []
    for one in spreads:
        cells = [
            f"{100 * one.top1[seed]:.1f} / {100 * one.top5[seed]:.1f}" if seed in one.top1 else "–"
            for seed in seeds
        ]
        rows.append([one.encoder, one.repetitions, *cells, spread(one)])
    heads = [f"seed {seed}{' (ships)' * (seed == spreads[0].ships)}" for seed in seeds]
    yield from _table(["encoder", "repetitions", *heads, "mean ± SD over seeds"], rows)
    yield ""


def _differences(compared: list[Comparison]) -> Iterator[str]:
    """Yield a table of each encoder against the first."""
    if not compared:
        return
    yield COMPARED.format(first=compared[0].reference)
    yield ""
    rows = []
    for one in compared:  # p needs single trials, which the manifest doesn't have
        cells = [*difference_cells(one.top1)[:2], *difference_cells(one.top5)[:2]]
        rows.append([one.encoder, one.repetitions, *cells])
    yield from _table(["encoder", "repetitions", "top-1", "better in", "top-5", "better in"], rows)
    yield ""


# ---------------------------------------------------------------- configuration


def _configuration(bundle: Bundle, seeds: list[int]) -> Iterator[tuple[str, object]]:
    """Yield all that has to be the same for the figures to come out again."""
    manifest = bundle.manifest
    yield "data", manifest["source"]
    yield "subjects", ", ".join(bundle.subjects)
    yield "encoders trained on", bundle.trained_on
    if "pool" in manifest:
        yield "the other subjects are those of", ", ".join(map(str, manifest["pool"]))
    yield "channels", f"{len(manifest['channels'])}: {' '.join(map(str, manifest['channels']))}"
    yield "sampling rate", f"{manifest['sfreq']:g} Hz"
    yield "first sample", f"{manifest.get('tmin', '–')} s"
    yield from _by_value("recording", manifest.get("recordings", {}))
    for name, value in _entries(manifest["preparation"]):
        yield f"preparation: {name}", value
    yield "image model", manifest["image_model"].get("name")
    yield "image model's revision", manifest["image_model"].get("revision") or "not recorded"
    for name, value in _entries(manifest["image_model"]):
        if name not in ("name", "revision"):
            yield f"image model: {name}", value
    for gallery in bundle.galleries[1:]:
        for name, value in _entries(gallery.image_model):
            if manifest["image_model"].get(name) != value:
                yield f"concept centres: {name}", value
    shipped = {s: manifest["encoders"][s] for s in bundle.subjects}
    for encoder in dict.fromkeys(name for entries in shipped.values() for name in entries):
        entries = {s: by_name[encoder] for s, by_name in shipped.items() if encoder in by_name}
        yield from _by_value(
            encoder, {s: _training(entry.get("settings")) for s, entry in entries.items()}
        )
        yield f"{encoder}: seed that ships", _one_or_all(entries, "seed")
        selected = "strength selected, from 0" if encoder == "ridge" else "epoch selected"
        yield f"{encoder}: {selected}", _one_or_all(entries, "best_epoch")
        if any("calibration" in entry for entry in entries.values()):
            told = {s: _temperatures(entry) for s, entry in entries.items()}
            yield f"{encoder}: temperature by repetitions", _one_or_all(told, "temperature")
            yield f"{encoder}: temperatures are from", _one_or_all(told, "from")
    yield "seeds trained", ", ".join(map(str, seeds))
    yield "checkpoint rule", manifest.get("checkpoint_rule", "not recorded")
    yield "nice_demo", manifest["code_version"]
    for name, version in _entries(manifest.get("versions", {})):
        yield name, version
    if "versions" not in manifest:
        yield "Python and packages", "not recorded"
    if origin := manifest.get("hub"):  # written into the manifest when it was pulled
        yield "pulled from the Hub", f"{origin['repo']}@{origin['commit']}"
        yield f"SHA-256 of {MANIFEST}, with that noted in it", sha256(bundle.folder / MANIFEST)
    else:
        yield f"SHA-256 of {MANIFEST}", sha256(bundle.folder / MANIFEST)


def _entries(mapping: object) -> list[tuple[str, object]]:
    return list(mapping.items()) if isinstance(mapping, dict) else [("as told", mapping)]


def _training(settings: object) -> dict:
    """Return settings as told in the card, with the split in words."""
    if not isinstance(settings, dict):
        return {"settings": "not recorded"}
    told = dict(settings)
    kind, count = told.pop("validation", None), told.pop("validation_conditions", None)
    held = {"concepts": "whole concepts", "conditions": "single pictures"}.get(kind, kind)
    split = f"{held} of the training pictures are held out by the seed: {count} pictures"
    split += " or just above" if kind == "concepts" else ""
    split += ", or a fifth of all where that is less"
    if told.pop("encoder", None) == "ridge":  # nothing else concerns it
        return {"split": split, "strength": "of those tried, the best on the held-out pictures"}
    return {**told, "split": split}


def _temperatures(entry: dict) -> dict:
    """Return an encoder's temperatures as told in the card, and what they come from."""
    fit = entry.get("calibration") or {}
    if not fit:
        return {"temperature": "none", "from": "nothing"}
    told = {number: round(value, 4) for number, value in entry["temperature"].items()}
    source = f"{fit['pictures']} held-out pictures of {fit['concepts']} concepts, fitted at "
    source += f"{', '.join(map(str, fit['fitted']))} repetitions"
    if len(told) > len(fit["fitted"]):
        source += "; the others are extrapolated"
    if fit["at_bound"]:
        source += f"; at a bound at {', '.join(map(str, fit['at_bound']))}"
    return {"temperature": told, "from": source}


def _by_value(what: str, by_subject: object) -> Iterator[tuple[str, object]]:
    """Yield each entry once if all subjects have the same, else by subject."""
    by_subject = by_subject if isinstance(by_subject, dict) else {}
    names = [name for entries in by_subject.values() for name, _ in _entries(entries)]
    for name in dict.fromkeys(names):
        yield f"{what}: {name}", _one_or_all(by_subject, name)


def _one_or_all(by_subject: dict[str, dict], name: str) -> object:
    values = {s: dict(_entries(entries)).get(name) for s, entries in by_subject.items()}
    texts = {subject: _text(value) for subject, value in values.items()}
    if len(set(texts.values())) == 1:
        return next(iter(values.values()))
    return "; ".join(f"subject {subject}: {text}" for subject, text in texts.items())


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _table(heads: list[str], rows) -> Iterator[str]:
    """Yield a Markdown table; whatever would end a cell is escaped."""

    def line(cells) -> str:
        texts = (" ".join(_text(cell).split()).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(texts)} |"

    yield line(heads)
    yield "|---" * len(heads) + "|"
    yield from (line(row) for row in rows)


# ---------------------------------------------------------------- the command


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.report``."""
    parser = argparse.ArgumentParser(
        "python -m nice_demo.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's folder")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="instead of on the screen")
    options = parser.parse_args(argv)
    text = report(Bundle(options.bundle))
    if options.out is None:
        print(text, end="")
        return 0
    try:
        with complete_file(options.out) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{options.out} can't be written ({error.strerror}); give another --out."
        ) from None
    print(f"{options.out} is written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
