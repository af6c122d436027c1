"""Prepare a data folder: epochs, whitening, picture embeddings, ready to train on.

python -m nice_demo.prepare phantom               ten simulated subjects, in data/phantom
python -m nice_demo.prepare things-eeg2           ten people, in data/things-eeg2 (downloads)
python -m nice_demo.prepare things-eeg2 --from hf --subjects 1-3
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
    return parser


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
    print(f"{options.to} is ready: python -m nice_demo.train --data {options.to}")
    return 0


def _prepare(options: argparse.Namespace) -> None:
    if options.source == "phantom":
        prepare_phantom(
            options.to, options.subjects, options.image_model, options.revision, options.jobs
        )
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


if __name__ == "__main__":
    sys.exit(main())
