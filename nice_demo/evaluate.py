"""Print how well a decoder retrieves, every number with its chance level and interval.

    python -m nice_demo.evaluate weights/phantom
    python -m nice_demo.evaluate --latents latents.npy --gallery gallery.npy --repetitions 80
    python -m nice_demo.evaluate --latents latents.npy --and other.npy --gallery gallery.npy

The first form evaluates a bundle, of encoders or of latents. The second takes what any decoder
made of the test trials, as one row for each picture of the gallery; see
`nice_demo.sources.latents`. The third compares two decoders on the same trials; where the other
one's embeddings are of another image model, `--and-gallery` names its candidates.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nice_demo.bundle import Bundle, LatentsBundle, open_bundle_folder
from nice_demo.comparison import NOT_CORRECTED, Paired, in_words, points
from nice_demo.comparison import compare as compare_ranks
from nice_demo.decode import LatentsDecoder
from nice_demo.errors import InputError, command
from nice_demo.retrieval import (
    PROTOCOLS,
    STATISTICS,
    Estimate,
    Metrics,
    MetricsOverSubjects,
    PairedDifference,
    Proportion,
    SubjectMean,
    mean_over_subjects,
    metrics,
    paired_difference,
    paired_p,
    permutation_p,
    ranks,
    ranks_in_order,
    similarity,
)
from nice_demo.sources.latents import open_latents

LEAST_SEEDS = 3  # for a mean over seeds that is worth printing
COMPARED = (
    "Each encoder against {first} on the same trials: difference in points, mean and 95 % t "
    "interval over subjects."
)
OTHER_SEEDS = "Seeds that don't ship: as measured when trained, from the manifest's runs."


Measured = dict[str, dict[str, list[Metrics]]]  # by subject and encoder
Ranks = dict[str, dict[str, list[np.ndarray]]]  # of the pictures seen; in the same order


def evaluate_bundle(
    bundle: Bundle, subjects: Sequence[str] | None = None
) -> tuple[Measured, Ranks]:
    """Decode all test trials of a bundle anew.

    Parameters
    ----------
    bundle : Bundle
    subjects : sequence of str or None
        Which subjects; None for all.

    Returns
    -------
    measured : dict of str to dict of str to list of Metrics
        By subject and encoder; under each protocol, at one repetition and at all.
    found : dict of str to dict of str to list of arrays of shape (n_trials,)
        The ranks that these are figures of.

    Raises
    ------
    InputError
        For a subject who isn't in the bundle.
    """
    subjects = list(dict.fromkeys(subjects or bundle.subjects))
    for subject in subjects:
        bundle.encoders(subject)
    ends = {bundle.repetitions[0], bundle.repetitions[-1]}
    target = np.arange(len(bundle.gallery))
    measured: Measured = {}
    found: Ranks = {}
    for subject in tqdm(subjects, "decoding", unit="subject", leave=False):
        measured[subject], found[subject] = {}, {}
        for encoder, several in bundle.decode(subject).items():
            at_ends = [one for one in several if one[1] in ends]
            measured[subject][encoder] = [
                metrics(similarities, target, protocol=gallery.protocol, repetitions=repetitions)
                for gallery, repetitions, similarities in at_ends
            ]
            found[subject][encoder] = [ranks(similarities, target) for *_, similarities in at_ends]
    return measured, found


@dataclass(frozen=True)
class Comparison:
    """An encoder against the first, subject by subject on the same trials.

    Attributes
    ----------
    encoder, reference : str
    protocol : str
    repetitions : int
    top1, top5 : PairedDifference
        Above 0 where `encoder` is better.
    """

    encoder: str
    reference: str
    protocol: str
    repetitions: int
    top1: PairedDifference
    top5: PairedDifference

    def to_json(self) -> dict:
        """Return plain JSON types."""
        return asdict(self)


def compare(measured: Measured, found: Ranks | None = None) -> list[Comparison]:
    """Compare each encoder with the first, over the subjects that have both.

    Parameters
    ----------
    measured, found
        As `evaluate_bundle` returns them; without `found` there is no McNemar test.

    Returns
    -------
    list of Comparison
        By protocol and repetitions, then encoder.
    """
    first, *others = dict.fromkeys(name for by_name in measured.values() for name in by_name)
    compared = []
    for place in range(len(next(iter(next(iter(measured.values())).values())))):
        for encoder in others:
            subjects = [s for s, by_name in measured.items() if {first, encoder} <= by_name.keys()]
            if not subjects:
                continue
            one = measured[subjects[0]][encoder][place]
            both = (
                _difference(measured, found, subjects, encoder, first, place, top) for top in (1, 5)
            )
            compared.append(Comparison(encoder, first, one.protocol, one.repetitions, *both))
    return compared


def _difference(
    measured: Measured,
    found: Ranks | None,
    subjects: list[str],
    encoder: str,
    reference: str,
    place: int,
    top: int,
) -> PairedDifference:
    pair = encoder, reference
    shares = [
        [getattr(measured[s][which][place], f"top{top}").value for s in subjects] for which in pair
    ]
    if found is None:
        return paired_difference(*shares)
    hits = [np.concatenate([found[s][which][place] <= top for s in subjects]) for which in pair]
    return paired_difference(*shares, p=paired_p(*hits))


def differing(bundle: Bundle, measured: Measured) -> list[tuple[str, str, Metrics]]:
    """Return subject, encoder and what was measured, wherever the manifest says something else."""
    return [
        (subject, encoder, found)
        for subject, by_encoder in measured.items()
        for encoder, several in by_encoder.items()
        for found in several
        if bundle.metrics(subject, encoder, found.repetitions, found.protocol) != found
    ]


@dataclass(frozen=True)
class OverSeeds:
    """The subjects' mean accuracy by training seed, and its spread.

    Attributes
    ----------
    encoder, protocol : str
    repetitions : int
    ships : int
        The seed whose encoders are in the bundle.
    top1, top5 : dict of int to float
        Mean over the subjects, by seed.
    """

    encoder: str
    protocol: str
    repetitions: int
    ships: int
    top1: dict[int, float]
    top5: dict[int, float]

    @staticmethod
    def spread(by_seed: dict[int, float]) -> tuple[float, float | None]:
        """Return mean and standard deviation (n − 1) over seeds; the latter None with one seed."""
        values = np.array(list(by_seed.values()))
        return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None

    def to_json(self) -> dict:
        """Return plain JSON types."""
        content = {k: getattr(self, k) for k in ("encoder", "protocol", "repetitions", "ships")}
        for name in ("top1", "top5"):
            by_seed = getattr(self, name)
            mean, sd = self.spread(by_seed)
            seeds = {str(seed): value for seed, value in by_seed.items()}
            content[name] = {"by_seed": seeds, "mean": mean, "sd": sd}
        return content


def over_seeds(bundle: Bundle, measured: Measured) -> list[OverSeeds]:
    """Put the seed that ships beside the others.

    Parameters
    ----------
    bundle : Bundle
    measured : dict
        From `evaluate_bundle`: figures of the seed that ships. Those of other seeds, whose
        encoders aren't in the bundle, are those that training left in the manifest.

    Returns
    -------
    list of OverSeeds
        One for each encoder, protocol and number of repetitions that all `measured` subjects have.

    Raises
    ------
    InputError
        Where the manifest's runs aren't as training writes them.
    """
    subjects, found = list(measured), []
    first = measured[subjects[0]]
    for encoder in (name for name in first if all(name in measured[s] for s in subjects)):
        ships = bundle.manifest["encoders"][subjects[0]][encoder].get("seed", 1)
        for place, one in enumerate(first[encoder]):
            shipped = [measured[subject][encoder][place] for subject in subjects]
            by_seed = {ships: [(metrics.top1.value, metrics.top5.value) for metrics in shipped]}
            by_seed |= _other_seeds(bundle, subjects, encoder, one, ships)
            # Column by column, as the table's means are summed: the last digit then agrees.
            means = {
                seed: [float(np.mean(column)) for column in zip(*figures, strict=True)]
                for seed, figures in by_seed.items()
            }
            top1, top5 = ({seed: m[i] for seed, m in sorted(means.items())} for i in (0, 1))
            found.append(OverSeeds(encoder, one.protocol, one.repetitions, ships, top1, top5))
    return found


def _other_seeds(
    bundle: Bundle, subjects: list[str], encoder: str, like: Metrics, ships: int
) -> dict[int, list[tuple[float, float]]]:
    """Return the subjects' top-1 and top-5, by seed, from the manifest's runs."""
    by_seed: dict[int, list[tuple[float, float]]] = {}
    try:
        for run in bundle.manifest.get("runs", []):
            if run["encoder"] != encoder or run["subject"] not in subjects or run["seed"] == ships:
                continue
            for told in run["selected"]:
                if (told["protocol"], told["repetitions"]) == (like.protocol, like.repetitions):
                    accuracies = float(told["top1"]["value"]), float(told["top5"]["value"])
                    by_seed.setdefault(int(run["seed"]), []).append(accuracies)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"The runs in the manifest of {bundle.folder} are damaged ({error!r}); "
            "copy or train the bundle again."
        ) from None
    return {seed: found for seed, found in by_seed.items() if len(found) == len(subjects)}


def evaluate_latents(
    latents: Path,
    gallery: Path,
    names: Path | None = None,
    *,
    protocol: str = "stimulus",
    repetitions: int | None = None,
    permutations: int = 10_000,
) -> tuple[Metrics, dict[str, float]]:
    """Evaluate what a decoder made of the test trials.

    Parameters
    ----------
    latents, gallery, names : Path
        See `nice_demo.sources.latents.open_latents`.
    protocol : str
    repetitions : int or None
        Repetitions averaged into each trial; None where it isn't known.
    permutations : int
        0 for no permutation test.

    Returns
    -------
    metrics : Metrics
    permutation_p : dict of str to float
        By statistic; empty without permutations.

    Raises
    ------
    InputError
        Where the files can't be used.
    """
    embeddings, candidates = open_latents(latents, gallery, names, protocol=protocol)
    similarities = similarity(embeddings, candidates.embeddings)
    target = np.arange(len(embeddings))
    by_statistic = {
        statistic: permutation_p(similarities, target, statistic, permutations)
        for statistic in (STATISTICS if permutations else ())
    }
    return metrics(similarities, target, protocol=protocol, repetitions=repetitions), by_statistic


def compare_latents(
    latents: Path,
    gallery: Path,
    other: Path,
    other_gallery: Path | None = None,
    names: Path | None = None,
    protocol: str = "stimulus",
) -> Paired:
    """Compare what two decoders made of the same test trials.

    Parameters
    ----------
    latents, gallery, names : Path
        See `nice_demo.sources.latents.open_latents`.
    other : Path
        The other decoder's latents, its rows in the same order.
    other_gallery : Path, optional
        The same candidates in the other decoder's space, where that is another one.
    protocol : str

    Returns
    -------
    Paired
        Of the first above the other.

    Raises
    ------
    InputError
        Where the files can't be used, or don't have the same number of rows.
    """
    of_seen, ways = [], []
    for which, candidates in ((latents, gallery), (other, other_gallery or gallery)):
        embeddings, opened = open_latents(which, candidates, names, protocol=protocol)
        of_seen.append(ranks_in_order(embeddings, opened.embeddings))
        ways.append(len(opened))
    if ways[0] != ways[1]:
        raise InputError(
            f"{latents} has {ways[0]} rows but {other} has {ways[1]}; both must be of the same "
            "trials in the same order."
        )
    return compare_ranks(*of_seen, ways[0])


def evaluate_latents_bundle(
    bundle: LatentsBundle, subjects: Sequence[str] | None = None
) -> tuple[dict[str, dict[str, Metrics]], list[tuple[str, str, str, Paired]]]:
    """Evaluate a bundle of latents anew, and compare its decoders.

    Parameters
    ----------
    bundle : LatentsBundle
    subjects : sequence of str or None
        Which subjects; None for all.

    Returns
    -------
    measured : dict of str to dict of str to Metrics
        By subject and decoder.
    compared : list of (subject, decoder, other, Paired)
        Each subject's first decoder with each other one.

    Raises
    ------
    InputError
        For a subject who isn't in the bundle, or files that don't fit.
    """
    decoder = LatentsDecoder.of_bundle(bundle)
    measured, compared = {}, []
    for subject in dict.fromkeys(subjects or bundle.subjects):
        first, *others = decoder.encoders(subject)
        measured[subject] = {name: decoder.metrics(subject, name, 1) for name in (first, *others)}
        for other in others:
            pair = (decoder.ranks(subject, name) for name in (first, other))
            compared.append((subject, first, other, compare_ranks(*pair, len(bundle.gallery))))
    return measured, compared


# ---------------------------------------------------------------- tables


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _line(
    name: str,
    figure: Proportion | Estimate | SubjectMean,
    scale: str,
    p_permutation: float | None = None,
) -> list[str]:
    factor, digits, unit = {"%": (100, 1, " %"), "rank": (1, 1, ""), "share": (1, 3, "")}[scale]

    def number(value: float) -> str:
        text = f"{factor * value:.{digits}f}"
        return text.removesuffix(".0") if scale == "rank" else text

    interval = "–"
    if figure.low is not None:
        # "to", because an interval over subjects may reach below zero
        interval = f"{number(figure.low)} to {number(figure.high)}{unit}"
    row = [name, number(figure.value) + unit, interval, number(figure.chance) + unit]
    if isinstance(figure, SubjectMean):
        return [*row, "–" if figure.sd is None else number(figure.sd) + unit]
    return [*row, _p(getattr(figure, "p", None)), _p(p_permutation)]


def table(figures: Metrics | MetricsOverSubjects, p: dict[str, float] | None = None) -> str:
    """Lay out all figures as text, one line each, with what they were measured on.

    Parameters
    ----------
    figures : Metrics or MetricsOverSubjects
    p : dict of str to float, optional
        Permutation p by statistic.

    Returns
    -------
    str
    """
    p = p or {}
    over_subjects = isinstance(figures, MetricsOverSubjects)
    repetitions = "not stated" if figures.repetitions is None else str(figures.repetitions)
    trials = f"{figures.trials} trials"
    if over_subjects:
        trials = f"mean over {figures.subjects} subjects, {figures.trials} trials together"
    last = ["SD"] if over_subjects else ["p, binomial", "p, permuted"]
    rows = [
        ["", "value", "95 % interval", "chance", *last],
        _line("top-1", figures.top1, "%", p.get("top-1")),
        _line("top-3", figures.top3, "%", p.get("top-3")),
        _line("top-5", figures.top5, "%", p.get("top-5")),
        _line("median rank", figures.median_rank, "rank", p.get("median rank")),
        _line("mean rank", figures.mean_rank, "rank", p.get("mean rank")),
        _line(
            "mean reciprocal rank",
            figures.mean_reciprocal_rank,
            "share",
            p.get("mean reciprocal rank"),
        ),
        *(_line(f"{ways}-way", figure, "%") for ways, figure in figures.n_way.items()),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    how = (
        "Intervals: t over subjects; SD between subjects."
        if over_subjects
        else "Intervals over trials: Wilson (conservative for means and n-way); median by order "
        "statistics."
    )
    return "\n".join(
        [
            f"{figures.ways}-way retrieval, {figures.protocol} protocol: "
            f"{PROTOCOLS[figures.protocol]}",
            f"{trials}, repetitions averaged: {repetitions}",
            "",
            *lines,
            "",
            f"{how} Ties count against the decoder.",
        ]
    )


def _protocol_table(measured: Measured) -> list[str]:
    """Lay out figures of one protocol: a line for each subject and encoder, then means."""
    columns = next(iter(next(iter(measured.values())).values()))

    def cell(figure: Proportion | SubjectMean) -> str:
        if figure.low is None:
            return f"{100 * figure.value:5.1f}"
        return f"{100 * figure.value:5.1f} ({100 * figure.low:4.1f} to {100 * figure.high:4.1f})"

    def line(name: str, encoder: str, cells: Sequence[str]) -> str:
        return "  ".join([f"{name:>7}  {encoder:<8}", *(f"{text:<21}" for text in cells)]).rstrip()

    encoders = list(dict.fromkeys(name for by_encoder in measured.values() for name in by_encoder))

    def figures(several: Sequence[Metrics | MetricsOverSubjects]) -> list[str]:
        return [cell(figure) for found in several for figure in (found.top1, found.top5)]

    heads = [
        f"{top}, {_repetitions(found.repetitions)}"
        for found in columns
        for top in ("top-1", "top-5")
    ]
    lines = [line("subject", "encoder", heads)]
    for subject, by_encoder in measured.items():
        lines += [line(subject, encoder, figures(by_encoder[encoder])) for encoder in by_encoder]
        lines += [""] * (len(encoders) > 2)  # keeps long groups apart
    chances = [found.chance for one in columns for found in (one.top1, one.top5)]
    lines.append(line("chance", "", [f"{100 * chance:5.1f}" for chance in chances]))
    for encoder in encoders:
        lists = [by_encoder[encoder] for by_encoder in measured.values() if encoder in by_encoder]
        if len(lists) > 1:
            over = [mean_over_subjects(same) for same in zip(*lists, strict=True)]
            lines.append(line("mean", encoder, figures(over)))
    return lines


def _repetitions(n: int) -> str:
    return f"{n} repetition{'s' * (n > 1)}"


def of_protocol(measured: Measured, protocol: str) -> Measured:
    """Keep the figures of one protocol."""
    return {
        subject: {
            encoder: [found for found in several if found.protocol == protocol]
            for encoder, several in by_encoder.items()
        }
        for subject, by_encoder in measured.items()
    }


def _seeds_table(spreads: list[OverSeeds]) -> list[str]:
    """Lay out the spread over seeds: a line for each encoder and number of repetitions."""
    seeds = sorted({seed for one in spreads for seed in one.top1})
    ships = spreads[0].ships
    rows = [["encoder", "repetitions", *(f"seed {s}{' (ships)' * (s == ships)}" for s in seeds)]]
    rows[0].append("mean ± SD over seeds")
    for one in spreads:
        cells = [
            f"{100 * one.top1[seed]:.1f} / {100 * one.top5[seed]:.1f}" if seed in one.top1 else "–"
            for seed in seeds
        ]
        rows.append([one.encoder, str(one.repetitions), *cells, spread_over_seeds(one)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    told = "Mean over subjects by training seed, top-1 / top-5."
    if len(seeds) > 1:
        told += f" {OTHER_SEEDS}"
    return [told, "", *lines]


def _comparison_table(compared: list[Comparison]) -> list[str]:
    """Lay out comparisons of one protocol: a line for each encoder and number of repetitions."""
    rows = [["encoder", "repetitions", "top-1", "better in", "p", "top-5", "better in", "p"]]
    for one in compared:
        cells = [text for top in (one.top1, one.top5) for text in difference_cells(top)]
        rows.append([one.encoder, str(one.repetitions), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    told = COMPARED.format(first=compared[0].reference)
    return [
        told,
        "better in: so many subjects; p: exact McNemar over all trials, not corrected for so many.",
        "",
        *lines,
    ]


def difference_cells(one: PairedDifference) -> tuple[str, str, str]:
    """Return difference in points with its interval, in how many subjects it is better, and p."""
    text = f"{100 * one.value:+.1f}"
    if one.low is not None:
        text += f" ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
    return text, f"{one.better} of {one.subjects}", _p(one.p)


def spread_over_seeds(one: OverSeeds) -> str:
    """Return top-1 and top-5 as mean ± SD over seeds, or that there were too few for that."""
    if len(one.top1) < LEAST_SEEDS:
        return "one seed" if len(one.top1) == 1 else f"needs {LEAST_SEEDS} seeds"
    spreads = [one.spread(by_seed) for by_seed in (one.top1, one.top5)]
    return " / ".join(f"{100 * mean:.1f} ± {100 * sd:.1f}" for mean, sd in spreads)


def bundle_table(bundle: Bundle, measured: Measured, found: Ranks | None = None) -> str:
    """Lay out the top-1 and top-5 of a bundle: for each protocol, by subject and by seed.

    Parameters
    ----------
    bundle : Bundle
    measured, found : dict
        From `evaluate_bundle`.
    """
    kind = "SIMULATED EEG" if bundle.simulated else bundle.manifest["source"]
    lines = [f"{bundle.name}: {kind}. Each encoder was trained on {bundle.trained_on}."]
    columns = next(iter(next(iter(measured.values())).values()))
    spreads, compared = over_seeds(bundle, measured), compare(measured, found)
    for protocol in dict.fromkeys(one.protocol for one in columns):
        lines += [
            "",
            f"{columns[0].ways}-way retrieval in %, {protocol} protocol: {PROTOCOLS[protocol]}.",
            f"{columns[0].trials} trials a subject. Intervals: Wilson 95 % over trials; for means, "
            "t over subjects.",
            "",
            *_protocol_table(of_protocol(measured, protocol)),
            "",
            *_seeds_table([one for one in spreads if one.protocol == protocol]),
        ]
        if of_this := [one for one in compared if one.protocol == protocol]:
            lines += ["", *_comparison_table(of_this)]
    return "\n".join(lines)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def paired_table(paired: Paired, first: str, second: str) -> str:
    """Lay out the comparison of two decoders: a sentence, and a line for each figure.

    Parameters
    ----------
    paired : Paired
    first, second : str
        What the decoders are called.
    """
    rows = [["", "first", "second", "difference", "95 % interval", "only first", "only second"]]
    rows[0].append("p")
    for name, hits in (("top-1", paired.top1), ("top-5", paired.top5)):
        low, high = hits.interval
        rows.append([
            name, f"{100 * hits.first:.1f} %", f"{100 * hits.second:.1f} %",
            points(hits.difference), f"{points(low)} to {points(high)}",
            str(hits.only_first), str(hits.only_second), _p(hits.p),
        ])  # fmt: skip
    near = paired.reciprocal_rank
    interval = "–" if near.low is None else f"{near.low:+.3f} to {near.high:+.3f}"
    rows.append([
        "mean reciprocal rank", f"{near.first:.3f}", f"{near.second:.3f}",
        f"{near.difference:+.3f}", interval, f"{near.nearer} nearer", f"{near.farther} nearer",
        _p(near.p),
    ])  # fmt: skip
    return "\n".join([
        f"{in_words(paired, first, second)}", "", f"first: {first}; second: {second}", "",
        *_aligned(rows), "", NOT_CORRECTED,
    ])  # fmt: skip


def latents_bundle_table(
    bundle: LatentsBundle,
    measured: dict[str, dict[str, Metrics]],
    compared: list[tuple[str, str, str, Paired]],
) -> str:
    """Lay out the figures of a bundle of latents; arguments as `evaluate_latents_bundle` has it."""
    kind = "SIMULATED EEG, " if bundle.simulated else ""
    parts = [f"{bundle.name}: {kind}{bundle.manifest['source']}."]
    for subject, by_name in measured.items():
        for name, figures in by_name.items():
            parts += ["", f"subject {subject}, {name}", table(figures)]
    for subject, first, second, paired in compared:
        parts += ["", f"subject {subject}", paired_table(paired, first, second)]
    return "\n".join(parts)


# ---------------------------------------------------------------- the command


def _at_least(least: int):
    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    return whole_number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nice_demo.evaluate",
        description="How well a decoder retrieves the seen picture, with chance and intervals.",
    )
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="a bundle's folder")
    parser.add_argument(
        "--subjects", nargs="+", metavar="SUBJECT", help="of the bundle; all if not given"
    )
    parser.add_argument(
        "--latents",
        type=Path,
        help="instead of a bundle: a decoder's output, .npy, .npz or .safetensors of shape "
        "(candidates, dimensions), row i decoded while candidate i was seen",
    )
    parser.add_argument("--gallery", type=Path, help="the candidates' embeddings, of that shape")
    parser.add_argument(
        "--and",
        dest="other",
        type=Path,
        metavar="LATENTS",
        help="another decoder's latents, to be compared on the same trials",
    )
    parser.add_argument(
        "--and-gallery",
        type=Path,
        metavar="GALLERY",
        help="the same candidates for --and, where its image model is another one",
    )
    parser.add_argument("--names", type=Path, help="the candidates' names, one a line")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="stimulus",
        help="what the gallery holds (default: %(default)s)",
    )
    parser.add_argument(
        "--repetitions",
        type=_at_least(1),
        help="how many repetitions are averaged into each row of the latents, to be printed",
    )
    parser.add_argument(
        "--permutations",
        type=_at_least(0),
        default=10_000,
        help="of the permutation test; 0 for none (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser


def _of_latents(options: argparse.Namespace) -> tuple[dict, str]:
    """Return what is to be printed of one or two decoders' latents, as JSON and as text."""
    decoders = [(options.latents, options.gallery)]
    if options.other is not None:
        decoders.append((options.other, options.and_gallery or options.gallery))
    told, texts = [], []
    for latents, gallery in decoders:
        figures, p = evaluate_latents(
            latents,
            gallery,
            options.names,
            protocol=options.protocol,
            repetitions=options.repetitions,
            permutations=options.permutations,
        )
        told.append({
            "latents": str(latents),
            "gallery": str(gallery),
            "metrics": figures.to_json(),
            "permutations": options.permutations,
            "permutation_p": p,
        })  # fmt: skip
        texts.append(table(figures, p))
    if options.other is None:
        return told[0], texts[0]
    paired = compare_latents(
        options.latents, options.gallery, options.other, options.and_gallery, options.names,
        options.protocol,
    )  # fmt: skip
    first, second = names_of(options.latents, options.other)
    says = in_words(paired, first, second)
    content = told[0] | {"and": told[1], "compared": paired.to_json() | {"in_words": says}}
    of_each = [f"{name}\n{text}" for name, text in zip((first, second), texts, strict=True)]
    return content, "\n\n".join([*of_each, paired_table(paired, first, second)])


def names_of(latents: Path, other: Path) -> tuple[str, str]:
    """Return what two files are called: the end of their name, or all where that is the same."""
    if latents.name == other.name:
        return str(latents), str(other)
    return latents.name, other.name


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.bundle is None) == (options.latents is None):
        parser.error("give either a BUNDLE or --latents with --gallery")
    if options.other is not None and options.latents is None:
        parser.error("--and needs --latents")
    if options.and_gallery is not None and options.other is None:
        parser.error("--and-gallery needs --and")
    if options.latents is not None:
        if options.gallery is None:
            parser.error("--latents needs --gallery")
        content, text = _of_latents(options)
    elif isinstance(bundle := open_bundle_folder(options.bundle), LatentsBundle):
        measured, compared = evaluate_latents_bundle(bundle, options.subjects)
        told = {
            s: {name: found.to_json() for name, found in by_name.items()}
            for s, by_name in measured.items()
        }
        equal = all(
            bundle.metrics(s, name, None) == found
            for s, by_name in measured.items()
            for name, found in by_name.items()
        )
        content = {
            "bundle": str(options.bundle),
            "source": bundle.manifest["source"],
            "simulated": bundle.simulated,
            "equals_manifest": equal,
            "subjects": told,
            "compared": [
                {"subject": s, "first": first, "second": second, **paired.to_json()}
                for s, first, second, paired in compared
            ],
        }
        verdict = "These figures equal those in the manifest."
        text = f"{latents_bundle_table(bundle, measured, compared)}\n\n"
        text += verdict if equal else "The manifest has other figures."
    else:
        measured, found = evaluate_bundle(bundle, options.subjects)
        other = differing(bundle, measured)
        content = {
            "bundle": str(options.bundle),
            "simulated": bundle.simulated,
            "trained_on": bundle.trained_on,
            "equals_manifest": not other,
            "subjects": {
                subject: {
                    encoder: [found.to_json() for found in several]
                    for encoder, several in by_encoder.items()
                }
                for subject, by_encoder in measured.items()
            },
            "over_seeds": [one.to_json() for one in over_seeds(bundle, measured)],
            "note_on_seeds": OTHER_SEEDS,
            "compared": [one.to_json() for one in compare(measured, found)],
        }
        verdict = "These figures equal those in the manifest."
        if other:
            both = len(bundle.galleries) > 1
            places = "; ".join(
                f"subject {subject}, {encoder}, {_repetitions(found.repetitions)}"
                + f", {found.protocol}" * both
                for subject, encoder, found in other
            )
            verdict = f"The manifest has other figures for: {places}."
        text = f"{bundle_table(bundle, measured, found)}\n\n{verdict}"
    print(json.dumps(content, indent=1, ensure_ascii=False) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
