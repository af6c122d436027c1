"""Prepare a data folder: epochs, whitening, picture embeddings, ready to train on.

python -m nice_demo.prepare phantom                        ten simulated subjects, data/phantom
python -m nice_demo.prepare phantom --image-model openai/clip-vit-large-patch14
"""

import argparse
import sys
from pathlib import Path

from nice_demo.errors import InputError, command


def numbers(text: str) -> list[int]:
    """Read a list such as "1-3,7" as [1, 2, 3, 7]; for argparse."""
    found = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) < int(low):
            raise argparse.ArgumentTypeError(f"{text!r} isn't a list such as 1-3,7")
        found += range(int(low), int(high or low) + 1)
    return list(dict.fromkeys(found))


def prepare_phantom(folder: Path, subjects: list[int], *options) -> None:
    """Prepare phantom subjects; see `nice_demo.sources.phantom.prepare.prepare_phantom`.

    Raises
    ------
    InputError
        Where the packages that preparing needs aren't installed.
    """
    try:
        from nice_demo.sources.phantom import prepare  # MNE, and models to look at pictures
    except ModuleNotFoundError as error:
        raise InputError(
            f"Preparing needs the package {error.name}; "
            "pip install -r requirements-dev.txt brings all that it needs."
        ) from None
    prepare.prepare_phantom(folder, subjects, *options)


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.prepare``."""
    parser = argparse.ArgumentParser(
        "python -m nice_demo.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_subparsers(dest="source", required=True)
    phantom = source.add_parser("phantom", help="simulated subjects")
    phantom.add_argument("--to", type=Path, default=Path("data/phantom"), help="data folder")
    phantom.add_argument(
        "--subjects", type=numbers, default=list(range(1, 11)), help="such as 1-3,7"
    )
    phantom.add_argument(
        "--image-model",
        default="stand-in",
        help="a CLIP-like model of the Hub, or its folder, in place of the stand-in",
    )
    phantom.add_argument("--revision", help="of the model on the Hub")
    phantom.add_argument("--jobs", type=int, default=-1, help="subjects at once, 1.5 GB each")
    options = parser.parse_args(argv)
    prepare_phantom(
        options.to, options.subjects, options.image_model, options.revision, options.jobs
    )
    print(f"{options.to} is ready: python -m nice_demo.train --data {options.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
