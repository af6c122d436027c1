"""Prepare a data folder: epochs, whitening, picture embeddings, ready to train on.

python -m nice_demo.prepare phantom               ten simulated subjects, in data/phantom
python -m nice_demo.prepare things-eeg2           ten people, in data/things-eeg2 (downloads)
python -m nice_demo.prepare things-eeg2 --from hf --subjects 1-3
python -m nice_demo.prepare published-latents     of real EEG, in weights/published-latents
python -m nice_demo.prepare recordings --bids FOLDER --task NAME         your own, in data/mine
python -m nice_demo.prepare recordings --table events.csv --pictures FOLDER
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from nice_demo.errors import InputError, command, one_line


def numbers(text: str) -> list[int]:
    """Read a list such as "1-3,7" as [1, 2, 3, 7]; for argparse."""
    found = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) < int(low):
            raise argparse.ArgumentTypeError(f"{text!r} isn't a list such as 1-3,7")
        found += range(int(low), int(high or low) + 1)
    return list(dict.fromkeys(found))


def _source(name: str):
    """Import the module that prepares a source: it needs MNE, image models and more."""
    try:
        return import_module(f"nice_demo.sources.{name}.prepare")
    except ModuleNotFoundError as error:
        raise InputError(
            f"Preparing needs the package {error.name}; "
            "pip install -r requirements-dev.txt brings all that it needs."
        ) from None


def prepare_phantom(folder: Path, subjects: list[int], *options) -> None:
    """Prepare phantom subjects; see `nice_demo.sources.phantom.prepare.prepare_phantom`.

    Raises
    ------
    InputError
        Where the packages that preparing needs aren't installed.
    """
    _source("phantom").prepare_phantom(folder, subjects, *options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m nice_demo.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_subparsers(dest="source", required=True)
    phantom = source.add_parser("phantom", help="simulated subjects")
    things = source.add_parser("things-eeg2", help="THINGS-EEG2, downloaded")
    for name, command_line in (("phantom", phantom), ("things-eeg2", things)):
        folder = Path("data") / name
        command_line.add_argument("--to", type=Path, default=folder, help="data folder")
        command_line.add_argument(
            "--subjects", type=numbers, default=list(range(1, 11)), help="such as 1-3,7"
        )
        command_line.add_argument("--revision", help="of the image model on the Hub")
    phantom.add_argument(
        "--image-model",
        default="stand-in",
        help="a CLIP-like model of the Hub, or its folder, in place of the stand-in",
    )
    phantom.add_argument("--jobs", type=int, default=-1, help="subjects at once, 1.5 GB each")

    things.add_argument(
        "--from",
        dest="origin",
        choices=["raw", "nice", "hf", "osf17"],
        default="raw",
        help="raw: the data set's own recordings; nice, hf: preprocessed as the paper does it, "
        "float64 or float16; osf17: 17 channels at 100 Hz, the smallest download",
    )
    things.add_argument(
        "--downloads",
        type=Path,
        help="folder (default: downloads in the data folder); what is there is used and kept: the "
        "pictures' files, and a subject's in its folder raw, nice, hf or osf17",
    )
    things.add_argument(
        "--keep-downloads", action="store_true", help="also what is downloaded now and converted"
    )
    things.add_argument("--accept-licence", action="store_true", help="of the data: don't ask")
    things.add_argument(
        "--whiten",
        choices=["training", "both", "none", "zscore"],
        default="training",
        help="what the noise covariance of --from raw comes from (both: test trials too)",
    )
    things.add_argument(
        "--jobs", type=int, default=-1, help="sessions of --from raw read at once (-1: one a core)"
    )
    things.add_argument(
        "--memory",
        type=float,
        help="GB that --from raw may take; fewer sessions are read at once where they don't fit "
        "(default: three quarters of what is available)",
    )
    things.add_argument(
        "--image-model",
        default="openai/clip-vit-large-patch14",
        help="a CLIP-like model of the Hub, or its folder",
    )
    things.add_argument("--device", default="auto", help="of the image model: auto, cpu, cuda")
    others = things.add_mutually_exclusive_group()
    others.add_argument("--things", type=Path, help="all THINGS pictures, for concept centres")
    others.add_argument("--centres-file", type=Path, help="concept centres made elsewhere, .npy")
    things.add_argument(
        "--centres",
        choices=["renormalised", "published", "none"],
        default="renormalised",
        help="published: means as they are, which favours concepts with a larger norm",
    )
    latents = source.add_parser(
        "published-latents", help="what a published encoder made of real EEG, ready for the page"
    )
    latents.add_argument(
        "--to", type=Path, default=Path("weights/published-latents"), help="the bundle's folder"
    )
    latents.add_argument(
        "--from", dest="origin", type=Path, help="a folder that holds the files already"
    )
    latents.add_argument(
        "--downloads", type=Path, default=Path("data/published-latents"), help="kept there"
    )
    latents.add_argument(
        "--names",
        type=Path,
        help="of the 200 test pictures: THINGS-EEG2's image_metadata.npy, or text, one a line "
        "(without it they are numbered: the published files hold no names)",
    )
    _add_recordings(source.add_parser("recordings", help="your own: BIDS, or files and a table"))
    return parser


def _add_recordings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, default=Path("data/mine"), help="data folder, a new one")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--bids", type=Path, help="a BIDS folder of EEG")
    where.add_argument(
        "--table",
        type=Path,
        help="CSV or TSV, a line for each trial: subject, file, onset (s), sample or epoch, "
        "picture; where there are, session, run, concept, split (train or test)",
    )
    parser.add_argument("--task", help="of --bids, where it has several")
    parser.add_argument(
        "--picture-column", help="of events.tsv (default: stim_file if there, else trial_type)"
    )
    parser.add_argument(
        "--concept-column", help="of events.tsv (default: the picture's folder, or the picture)"
    )
    parser.add_argument("--subjects", type=_names, default=[], help="labels (default: all)")
    parser.add_argument("--only", type=_names, help="concepts such as face,house; no other events")
    parser.add_argument("--pictures", type=Path, help="folder or zip, for the page to show them")
    parser.add_argument("--picture-licence", default="not stated", help='such as "CC0"')
    parser.add_argument("--simulated", action="store_true", help="the EEG is; the page will say so")
    split = parser.add_argument_group("what is held out for the test")
    split.add_argument(
        "--test-concepts", type=int, help="how many concepts (default: a fifth, at most 200)"
    )
    split.add_argument(
        "--classify",
        action="store_true",
        help="for a few concepts, such as faces and houses: hold out sessions or runs instead",
    )
    split.add_argument(
        "--test-sessions", type=_names, default=[], help="such as 2; with --classify"
    )
    split.add_argument("--test-runs", type=_names, default=[], help="such as 5,6; with --classify")
    split.add_argument("--seed", type=int, default=0, help="of what is left to chance")
    split.add_argument(
        "--average",
        action="store_true",
        help="store the mean of each training picture's trials, however many, not single trials",
    )
    signal = parser.add_argument_group("signal")
    signal.add_argument("--tmin", type=float, default=-0.2, help="start of epochs and baseline, s")
    signal.add_argument("--tmax", type=float, default=1.0, help="end of an epoch, s")
    signal.add_argument("--low", type=float, default=0.1, help="high-pass, Hz; 0: none")
    signal.add_argument("--high", type=float, default=100.0, help="low-pass, Hz; 0: none")
    signal.add_argument("--notch", type=float, help="of the mains, Hz")
    signal.add_argument("--reference", default="as recorded", help='"average", or an electrode')
    signal.add_argument("--reject", type=float, help="trials of more than so many µV peak to peak")
    signal.add_argument("--no-baseline", dest="baseline", action="store_false")
    signal.add_argument("--sfreq", type=float, default=250.0, help="that training takes, Hz")


def _names(text: str) -> list[str]:
    """Read a list such as "face,house"; for argparse."""
    return [name.strip() for name in text.split(",") if name.strip()]


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.prepare``."""
    options = _parser().parse_args(argv)
    try:
        _prepare(options)
    except OSError as error:
        raise InputError(
            f"{error.filename or options.to} can't be read or written "
            f"({error.strerror or one_line(error)}); mend that, and the same command goes on."
        ) from None
    if options.source == "published-latents":
        print(f"{options.to} is ready: python app.py --beside {options.to}")
    elif options.source == "recordings":
        following = (
            f"train --data {options.to} --out weights/{options.to.name} --validation conditions "
            "--epochs 30 --batch 64 --lr 1e-3 --schedule one-cycle"
            if options.classify
            else f"embed --data {options.to} --images {options.pictures or 'FOLDER'}"
        )
        print(f"{options.to} is ready: python -m nice_demo.{following}")
    else:
        print(f"{options.to} is ready: python -m nice_demo.train --data {options.to}")
    return 0


def _prepare(options: argparse.Namespace) -> None:
    if options.source == "phantom":
        prepare_phantom(
            options.to, options.subjects, options.image_model, options.revision, options.jobs
        )
    elif options.source == "published-latents":
        from nice_demo.sources.published_latents import prepare_published_latents

        prepare_published_latents(options.to, options.origin, options.downloads, options.names)
    elif options.source == "recordings":
        _prepare_recordings(options)
    else:
        _source("things_eeg2").prepare_things_eeg2(
            options.to,
            options.subjects,
            options.origin,
            downloads=options.downloads,
            keep_downloads=options.keep_downloads,
            accepted=options.accept_licence,
            whiten=options.whiten,
            jobs=options.jobs,
            memory=options.memory,
            image_model=options.image_model,
            revision=options.revision,
            device=options.device,
            things=options.things,
            centres_file=options.centres_file,
            centres=options.centres,
        )


def _prepare_recordings(options: argparse.Namespace) -> None:
    try:
        from nice_demo.sources.recordings import bids, dataset, table
    except ModuleNotFoundError as error:
        raise InputError(
            f"Preparing needs the package {error.name}; "
            "pip install -r requirements-dev.txt brings all that it needs."
        ) from None
    if options.bids:
        columns = options.picture_column, options.concept_column
        source, read = bids.read_bids(options.bids, options.task, *columns, only=options.only)
    elif options.task or options.picture_column or options.concept_column:
        raise InputError("--task, --picture-column and --concept-column go with --bids.")
    else:
        source, read = table.read_table(options.table, options.only), dataset.open_file
    notes = dataset.prepare_recordings(
        options.to,
        source,
        read,
        subjects=tuple(options.subjects),
        split=dataset.Split(
            options.classify,
            options.test_concepts,
            tuple(options.test_sessions),
            tuple(options.test_runs),
            options.seed,
        ),
        signal=dataset.Signal(
            options.sfreq,
            options.tmin,
            options.tmax,
            options.low or None,
            options.high or None,
            options.notch,
            options.reject and options.reject * 1e-6,
            options.baseline,
            options.reference,
        ),
        average=options.average,
        pictures=options.pictures,
        picture_licence=options.picture_licence,
        simulated=options.simulated,
    )
    print("\n".join(notes))


if __name__ == "__main__":
    sys.exit(main())
