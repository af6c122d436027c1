"""How long the server takes for what a visitor does, and a scalp map beside MNE's.

    python -m benchmarks.switching              the phantom that ships
    python -m benchmarks.switching BUNDLE

In one process, without the browser: an electrode or a window switched → new ranks (promise: 100 ms
for all encoders), a scalp map by the operator (promise: 1 ms) and by `mne.viz.plot_topomap`, a map
of what carried a trial with its sanity check, and the panels of the tab "Evidence" when it is
opened for the first time (promise: 1 s). Medians.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
from matplotlib.figure import Figure

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder, Part
from nice_demo.errors import command
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
    bundle, kept = Bundle(options.bundle), True
    decoder, subject = BundleDecoder(bundle), bundle.subjects[0]
    picture, looks = bundle.gallery.candidates[0].id, bundle.repetitions[-1]
    names, times = bundle.montage.names, decoder.times

    for encoder in bundle.encoders(subject):
        electrodes = itertools.cycle(names)
        ends = itertools.cycle(times[1:].tolist())
        switched = [
            milliseconds(
                lambda encoder=encoder, parts=parts: decoder.decode(
                    subject, encoder, picture, looks, next(parts)
                ),
                options.rounds,
            )
            for parts in (
                (Part(off=(name,)) for name in electrodes),
                (Part(end=end) for end in ends),
            )
        ]
        decoding = decoder.decode(subject, encoder, picture, looks)
        question, model = Question.of(bundle, decoding), bundle.encoder(subject, encoder)

        def carried(model=model, question=question):
            return sanity_check(explain("integrated gradients", model, question), model, question)

        print(
            f"{encoder}: an electrode off {switched[0]:.1f} ms, another window {switched[1]:.1f} "
            f"ms; integrated gradients with their check {milliseconds(carried, 7):.0f} ms"
        )
        kept &= max(switched) < 100

    values = np.random.default_rng(0).standard_normal(len(names))
    ours = milliseconds(lambda: bundle.montage.image(values), options.rounds)
    theirs = milliseconds(lambda: by_mne(names, values), 7)
    print(f"scalp map: {ours:.3f} ms, by MNE {theirs:.0f} ms ({theirs / ours:.0f} times)")
    kept &= ours < 1

    evidence = Evidence(bundle)
    choice = Choice(None, tuple(evidence.encoders[:1]), 1)
    started = time.perf_counter()
    panels = [panel for _, panels in sections_of(evidence) for panel in panels]
    drawn = [panel.drawn(evidence, choice) for panel in panels]
    opened = time.perf_counter() - started
    figures = sum(len(one.figure.to_json()) for one in drawn if one.figure)
    print(f"Evidence: {len(panels)} panels in {opened:.2f} s, plots of {figures / 1e3:.0f} kB")
    kept &= opened < 1
    if not kept:
        print("slower than promised")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
