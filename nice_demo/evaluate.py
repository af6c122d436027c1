"""Print how well a decoder retrieves, every number with its chance level and interval.

    python -m nice_demo.evaluate weights/phantom
    python -m nice_demo.evaluate --latents latents.npy --gallery gallery.npy --repetitions 80

The first form evaluates a bundle. The second takes what any decoder made of the test trials, as
one row for each picture of the gallery; see `nice_demo.sources.latents`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nice_demo.errors import InputError, command
from nice_demo.retrieval import (
    PROTOCOLS,
    STATISTICS,
    Estimate,
    Metrics,
    MetricsOverSubjects,
    Proportion,
    SubjectMean,
    mean_over_subjects,
    metrics,
    permutation_p,
    similarity,
)
from nice_demo.sources.latents import open_latents

CANDIDATES = {
    "stimulus": "candidates are the embeddings of the very pictures shown",
    "concept centre": "candidates are means over other pictures of each concept",
}


# ================================================================ TO BE FILLED IN: bundles
def evaluate_bundle(path: Path, subjects: Sequence[str] | None) -> dict[str, Metrics]:
    """Evaluate the encoders of a bundle on its test trials.

    Parameters
    ----------
    path : Path
        The bundle's folder.
    subjects : sequence of str or None
        Which subjects; None for all.

    Returns
    -------
    dict of str to Metrics
        By subject.
    """
    raise InputError(f"{path} can't be evaluated: bundles aren't read here yet; use --latents.")


# ================================================================ end of what is to be filled in


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
            f"{CANDIDATES[figures.protocol]}",
            f"{trials}, repetitions averaged: {repetitions}",
            "",
            *lines,
            "",
            f"{how} Ties count against the decoder.",
        ]
    )


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


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.bundle is None) == (options.latents is None):
        parser.error("give either a BUNDLE or --latents with --gallery")
    if options.latents is not None:
        if options.gallery is None:
            parser.error("--latents needs --gallery")
        figures, p = evaluate_latents(
            options.latents,
            options.gallery,
            options.names,
            protocol=options.protocol,
            repetitions=options.repetitions,
            permutations=options.permutations,
        )
        content = {
            "latents": str(options.latents),
            "gallery": str(options.gallery),
            "metrics": figures.to_json(),
            "permutations": options.permutations,
            "permutation_p": p,
        }
        text = table(figures, p)
    else:
        by_subject = evaluate_bundle(options.bundle, options.subjects)
        mean = mean_over_subjects(list(by_subject.values()))
        content = {
            "bundle": str(options.bundle),
            "subjects": {name: figures.to_json() for name, figures in by_subject.items()},
            "mean": mean.to_json(),
        }
        parts = [f"{name}\n{table(figures)}" for name, figures in by_subject.items()]
        text = "\n\n".join(parts + ([f"All subjects\n{table(mean)}"] if len(parts) > 1 else []))
    print(json.dumps(content, indent=1, ensure_ascii=False) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
