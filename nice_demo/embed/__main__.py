"""The command ``python -m nice_demo.embed``."""

import argparse
import sys
from pathlib import Path

import nice_demo.embed
from nice_demo.eegset import DataSet
from nice_demo.embed import (
    CENTRES,
    CLIP,
    POOLINGS,
    ImageModel,
    make_galleries,
    verify,
)
from nice_demo.errors import InputError, command
from nice_demo.gallery import Gallery
from nice_demo.sources.recordings import pictures as own
from nice_demo.sources.things_eeg2 import images


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a whole number from 1")
    return int(text)


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.embed``."""
    parser = argparse.ArgumentParser(
        "python -m nice_demo.embed",
        description=nice_demo.embed.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared data folder")
    parser.add_argument(
        "--images",
        type=Path,
        help="folder of image_metadata.npy, training_images and test_images (zips or folders), or "
        "of your own pictures; without it only --verify",
    )
    parser.add_argument(
        "--image-model",
        default=CLIP,
        help='of the Hub, or its folder; "stand-in" for own recordings where there is no network',
    )
    parser.add_argument(
        "--embeddings", type=Path, help="own recordings: made elsewhere, .npz of names, embeddings"
    )
    parser.add_argument("--revision", help="commit, branch or tag of the model on the Hub")
    parser.add_argument("--layer", type=_positive, help="a block's output, not the embedding")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help="of the layer's tokens")
    parser.add_argument("--batch", type=_positive, default=32, help="pictures at a time")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (auto: a GPU if any)")
    parser.add_argument("--centres", choices=CENTRES, default="renormalised")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--things", type=Path, help="all THINGS pictures (folder or zip)")
    source.add_argument("--centres-file", type=Path, help="concept centres made elsewhere, .npy")
    parser.add_argument("--cc0", type=Path, help="images_THINGSplus-CC0.zip, pictures to show")
    parser.add_argument("--verify", type=Path, help="test embeddings made elsewhere, .npy")
    options = parser.parse_args(argv)
    if options.images is None and options.embeddings is None:
        return _verify_only(options)
    data = DataSet.open(options.data)
    if data.description["preparation"].get("origin") == own.ORIGIN:
        return _embed_own(data, options)
    if options.embeddings is not None:
        raise InputError("--embeddings is for a data folder of your own recordings.")
    if data.description["simulated"]:
        raise InputError(
            f"{options.data} holds simulated EEG, whose pictures `python -m nice_demo.prepare "
            "phantom --image-model` embeds; give a folder of THINGS-EEG2."
        )
    conditions = len(data.train_gallery), len(data.test_gallery)
    train, test = images.shown_pictures(options.images, conditions)
    others = None
    if options.things is not None and options.centres != "none":
        others = images.other_pictures(options.things, test)
    make_galleries(
        options.data,
        train,
        test,
        ImageModel(
            options.image_model, options.revision, options.device, options.layer, options.pooling
        ),
        others=others,
        centres_file=options.centres_file,
        centres=options.centres,
        cc0=options.cc0,
        expected=options.verify,
        batch=options.batch,
    )
    print(f"the galleries of {options.data} are ready")
    return 0


def _embed_own(data: DataSet, options: argparse.Namespace) -> int:
    if options.embeddings is not None:
        own.take_embeddings(data, options.embeddings)
    else:
        model = options.image_model, options.revision, options.device
        form = options.layer, options.pooling, options.batch
        own.embed_own(data, options.images, *model, *form)
    out = f"weights/{data.folder.name}"
    print(f"the galleries are ready: python -m nice_demo.train --data {data.folder} --out {out}")
    return 0


def _verify_only(options: argparse.Namespace) -> int:
    if options.verify is None:
        raise InputError("There is nothing to do; give --images to embed, or --verify.")
    verify(Gallery.open(options.data / "test_gallery"), options.verify)
    return 0


if __name__ == "__main__":
    sys.exit(main())
