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
    try:
        from nice_demo.sources.phantom.prepare import prepare_phantom
    except ModuleNotFoundError as error:
        raise InputError(
            f"Preparing needs the package {error.name}; install the extra: pip install -e '.[train]'"
        ) from None
    prepare_phantom(
        options.to, options.subjects, options.image_model, options.revision, options.jobs
    )
    print(f"{options.to} is ready: python -m nice_demo.train --data {options.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
