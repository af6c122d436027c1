"""How long the server takes for what a visitor does, and a scalp map beside MNE's.

    python -m benchmarks.switching              the phantom that ships
    python -m benchmarks.switching BUNDLE

In one process, without the browser: an electrode or a window switched → new ranks (promise: 100 ms
for all encoders), a scalp map by the operator and by `mne.viz.plot_topomap`, a map
of what carried a trial with its sanity check, and the panels of the tab "Evidence" when it is
opened for the first time (promise: 1 s). Medians.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mne
import numpy as np
from matplotlib.figure import Figure

from benchmarks.encoder import machine
from benchmarks.table import Row, show
from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder, Part
from nice_demo.errors import InputError, command
from nice_demo.explain import Question, explain, sanity_check
from nice_demo.ui.evidence.sections import sections_of
from nice_demo.ui.evidence.store import Choice, Evidence


def milliseconds(done: Callable[[], object], rounds: int) -> float:
    """Return the median time that `done` takes, ms, after one round to warm up."""
    done()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        done()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def by_mne(names: list[str], values: np.ndarray) -> None:
    """Draw a scalp map as MNE does, on a figure that is never shown."""
    info = mne.create_info(names, 250.0, "eeg", verbose="error").set_montage("easycap-M1")
    axes = Figure().add_subplot()
    mne.viz.plot_topomap(values, info, axes=axes, show=False, contours=0, sensors=False)


def rows(folder: Path = Path("weights/phantom"), rounds: int = 30) -> list[Row]:
    """Measure on a bundle."""
    bundle = Bundle(folder)
    decoder, subject = BundleDecoder(bundle), bundle.subjects[0]
    picture, looks = bundle.gallery.candidates[0].id, bundle.repetitions[-1]
    names, times = bundle.montage.names, decoder.times
    found = []

    def switched(encoder: str, parts: Iterator[Part]) -> float:
        return milliseconds(
            lambda: decoder.decode(subject, encoder, picture, looks, next(parts)), rounds
        )

    for encoder in bundle.encoders(subject):
        electrodes = (Part(off=(name,)) for name in itertools.cycle(names))
        windows = (Part(end=end) for end in itertools.cycle(times[1:].tolist()))
        for what, parts in (("an electrode off", electrodes), ("another window", windows)):
            found.append(_row(f"{encoder}: {what} → new ranks", switched(encoder, parts), 100))
        decoding = decoder.decode(subject, encoder, picture, looks)
        question, model = Question.of(bundle, decoding), bundle.encoder(subject, encoder)

        def carried(model=model, question=question):
            return sanity_check(explain("integrated gradients", model, question), model, question)

        what = f"{encoder}: integrated gradients with their sanity check"
        found.append(Row(what, f"{milliseconds(carried, 7):.0f} ms", "", ""))

    values = np.random.default_rng(0).standard_normal(len(names))
    ours = milliseconds(lambda: bundle.montage.image(values), rounds)
    theirs = milliseconds(lambda: by_mne(names, values), 7)
    found.append(
        Row("scalp map (MNE)", f"{ours:.3f} ms", f"{theirs:.0f} ms", f"{theirs / ours:.0f}")
    )

    evidence = Evidence(bundle)
    choice = Choice(None, tuple(evidence.encoders[:1]), 1)
    started = time.perf_counter()
    panels = [panel for _, panels in sections_of(evidence) for panel in panels]
    drawn = [panel.drawn(evidence, choice) for panel in panels]
    opened = time.perf_counter() - started
    size = sum(len(one.figure.to_json()) for one in drawn if one.figure) / 1e3
    what = f"Evidence opened: {len(panels)} panels, plots of {size:.0f} kB"
    return [*found, _row(what, 1000 * opened, 1000)]


def _row(what: str, took: float, limit: float) -> Row:
    """Hold a time against its limit, ms."""
    return Row(what, f"{took:.1f} ms", f"{limit:g} ms", "ok" if took < limit else "over")


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.switching",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("weights/phantom"))
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise InputError("Give --rounds of at least 1.")
    found = rows(options.bundle, options.rounds)
    print(show(found, machine()))
    return int(any(row.ratio == "over" for row in found))


if __name__ == "__main__":
    sys.exit(main())
