"""How long it takes to find the trials nearest to a word, once the image model is loaded.

    python -m benchmarks.words                    the phantom, 200 trials
    python -m benchmarks.words --bundle DIR

A query is what the page does between a word and its cards: the word is embedded, compared with all
trials and all pictures, and its place among the names of all is looked up. What happens once,
loading the model and reading or making the trials' embeddings, is measured apart.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

from benchmarks.encoder import machine
from benchmarks.table import Row, show
from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.decode.embeddings import DecodedTrials
from nice_demo.errors import InputError, command
from nice_demo.image_model import PictureModel
from nice_demo.queries import find_trials, own_among_first

LIMIT = 0.050  # s, of a query
WORDS = ("pizza", "animal", "something with wheels", "what my grandmother cooked", "music")


def rows(bundle: Path = Path("weights/phantom"), rounds: int = 10) -> list[Row]:
    """Measure.

    Parameters
    ----------
    bundle : Path
    rounds : int
        Of all `WORDS`; the first is left out.
    """
    decoder = BundleDecoder(Bundle(bundle))
    subject = decoder.subjects[0]
    encoder, gallery = decoder.encoders(subject)[0], decoder.gallery
    started = time.perf_counter()
    trials = DecodedTrials(decoder).wait(subject, encoder, decoder.repetitions[-1])
    at_hand = time.perf_counter()
    model = PictureModel(decoder.bundle)
    open_model = model.wait()
    loaded = time.perf_counter()
    times = []
    for number in range(rounds + 1):
        for word in WORDS:
            began = time.perf_counter()
            found = find_trials(gallery, trials, word, open_model.embed_words([word])[0])
            for embeddings in (trials, gallery.embeddings):
                own_among_first(model.names(), embeddings)
            if number:
                times.append(time.perf_counter() - began)
    query, number = statistics.median(times), len(found.order)
    verdict = "ok" if query <= LIMIT else "over"
    return [
        Row(
            f"a word among {number} trials, median of {len(times)}",
            f"{1e3 * query:.1f} ms", f"{1e3 * LIMIT:.0f} ms", verdict,
        ),
        Row("once: the trials' embeddings", f"{at_hand - started:.2f} s", "", ""),
        Row("once: the image model is loaded", f"{loaded - at_hand:.1f} s", "", ""),
    ]  # fmt: skip


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("weights/phantom"))
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise InputError("Give --rounds of at least 1.")
    found = rows(options.bundle, options.rounds)
    print(show(found, machine()))
    return int(any(row.ratio == "over" for row in found))


if __name__ == "__main__":
    sys.exit(main())
