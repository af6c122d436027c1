"""The page: ``python app.py`` opens weights/phantom; see ``python app.py --help``."""

import argparse
import gc
import os
import re
import signal
import sys
from pathlib import Path

# Several visitors at once share the cores better than several threads of one answer would: where
# all cores are busy, threads that wait for each other take ten times as long. Read at import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# To look for garbage among all that imports make takes a quarter of the start, and finds little.
if __name__ == "__main__":
    gc.disable()

from nice_demo.bundle import LatentsBundle
from nice_demo.decode import Decoder, LatentsDecoder, open_decoder
from nice_demo.errors import InputError, command
from nice_demo.hub import open_bundle
from nice_demo.sources.latents import open_latents
from nice_demo.ui.page import page, serve

PHANTOM = Path(__file__).parent / "weights" / "phantom"


def open_what(options: argparse.Namespace) -> tuple[Decoder, str, str]:
    """Open what the flags name; return it with its name and what a visitor must know first."""
    if options.latents is None:
        bundle, notice = open_bundle(options.bundle, instead=PHANTOM)
        return open_decoder(bundle), bundle.label, notice
    if options.gallery is None:
        raise InputError("--latents needs the candidates to compare with; add --gallery FILE.")
    files = options.latents, options.gallery, options.names, options.pictures
    name = options.latents.name
    provenance = options.source or f"output of a decoder: {name}"
    return LatentsDecoder(*open_latents(*files), options.pictures, provenance), name, ""


def open_beside(given: list[str]) -> list[LatentsBundle]:
    """Open the bundles of latents that the tab "Your decoder" offers."""
    # Colons part folders too, as in PATH, but for the one of a Windows drive.
    listed = re.split(r",|(?<!\b[A-Za-z]):", os.environ.get("NICE_BESIDE", ""))
    return [LatentsBundle(place.strip()) for place in given or listed if place.strip()]


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
    parser.add_argument(
        "--beside", action="append", default=[], metavar="FOLDER",
        help="a bundle of latents for the tab “Your decoder”; may be repeated; else what "
        "NICE_BESIDE says, with commas between",
    )  # fmt: skip
    parser.add_argument("--host", help="0.0.0.0 to be reached from elsewhere")
    parser.add_argument("--port", type=int)
    parser.add_argument("--mcp", action="store_true", help="offer the API as MCP tools too")
    parser.add_argument(
        "--log-json", action="store_true", default=os.environ.get("NICE_LOG") == "json",
        help="write a line of JSON for each request; so does NICE_LOG=json",
    )  # fmt: skip
    options = parser.parse_args(argv)
    # What ends a container ends the page as Ctrl-C does, so that nothing uploaded stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    blocks = page(*open_what(options), beside=open_beside(options.beside))
    address = serve(blocks, options.host, options.port, options.mcp, options.log_json)
    print(f"The page is up: {address}", flush=True)
    if options.mcp:
        print(f"Its tools: {address}gradio_api/mcp", flush=True)
    import scipy.stats  # noqa: F401  (the first map needs it; the page needn't wait for it)

    gc.freeze()  # what is there now stays, so that nobody's answer waits while it is looked through
    gc.enable()
    blocks.make_ahead()
    blocks.block_thread()


if __name__ == "__main__":
    sys.exit(main())
