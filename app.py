"""The page: ``python app.py`` opens weights/phantom; see ``python app.py --help``."""

import argparse
import os
import sys
from pathlib import Path

# Several visitors at once share the cores better than several threads of one answer would: where
# all cores are busy, threads that wait for each other take ten times as long. Read at import.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from nice_demo.decode import BundleDecoder, Decoder, LatentsDecoder
from nice_demo.errors import InputError, command
from nice_demo.hub import open_bundle
from nice_demo.sources.latents import open_latents
from nice_demo.ui.page import page, serve

PHANTOM = Path(__file__).parent / "weights" / "phantom"


def open_decoder(options: argparse.Namespace) -> tuple[Decoder, str, str]:
    """Open what the flags name; return it with its name and what a visitor must know first."""
    if options.latents is None:
        bundle, notice = open_bundle(options.bundle, instead=PHANTOM)
        return BundleDecoder(bundle), bundle.label, notice
    if options.gallery is None:
        raise InputError("--latents needs the candidates to compare with; add --gallery FILE.")
    files = options.latents, options.gallery, options.names, options.pictures
    name = options.latents.name
    provenance = options.source or f"output of a decoder: {name}"
    return LatentsDecoder(*open_latents(*files), options.pictures, provenance), name, ""


@command
def main(argv: list[str] | None = None) -> None:
    """Open the page and serve it until Ctrl-C."""
    parser = argparse.ArgumentParser("python app.py", description="Open the page.")
    bundle = os.environ.get("NICE_BUNDLE") or str(PHANTOM)
    which = "a folder, or hf:owner/name[@revision]; else what NICE_BUNDLE says, else the phantom"
    parser.add_argument("--bundle", default=bundle, help=which)
    parser.add_argument("--latents", type=Path, help="instead: any decoder's output, row by row")
    parser.add_argument("--gallery", type=Path, help="with --latents: embeddings of the candidates")
    parser.add_argument("--names", type=Path, help="with --latents: one name a line")
    parser.add_argument("--pictures", type=Path, help="with --latents: a folder of pictures")
    parser.add_argument("--source", help="with --latents: where they come from, in a few words")
    parser.add_argument("--host", help="0.0.0.0 to be reached from elsewhere")
    parser.add_argument("--port", type=int)
    options = parser.parse_args(argv)
    blocks = page(*open_decoder(options))
    print(f"The page is up: {serve(blocks, options.host, options.port)}", flush=True)
    import scipy.stats  # noqa: F401  (the first map needs it; the page needn't wait for it)

    blocks.block_thread()


if __name__ == "__main__":
    sys.exit(main())
