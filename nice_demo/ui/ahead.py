"""What a visitor may ask for next, made while nobody waits for an answer.

A phantom's 80 trials of a picture take some 100 ms to make, the map of what carried one some 50 ms;
once made, they are kept. In flows what was looked at last; out flows nothing, but the next answer
is there sooner.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain

from nice_demo.decode import BundleDecoder
from nice_demo.ui.view import View

QUIET = 0.3  # s since the last answer, before anything is made ahead


class Ahead:
    """Makes things ahead in a thread of its own, one after the other, whenever it is quiet.

    Parameters
    ----------
    decoder : BundleDecoder
    measure_ranges : callable
        Measures a view's ranges of colours, which are the same for all pictures.
    draw_map : callable
        Draws the map that a view is shown with first.
    """

    def __init__(
        self,
        decoder: BundleDecoder,
        measure_ranges: Callable[[View], object],
        draw_map: Callable[[View], object],
    ) -> None:
        self._decoder, self._measure_ranges, self._draw_map = decoder, measure_ranges, draw_map
        self._changed = threading.Condition()
        self._looked_at: View | None = None
        self._answering, self._quiet_from = 0, 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Make nothing for as long as this lasts; also a decorator."""
        with self._changed:
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._quiet_from = time.monotonic() + QUIET
                self._changed.notify()

    def looked_at(self, view: View) -> None:
        """Begin anew, with what may follow this view."""
        with self._changed:
            self._looked_at = view
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._changed.notify()

    def steps(self, view: View) -> Iterator[Callable[[], object]]:
        """Go through what may follow: of each thing on which the view depends, what else there is.

        First the next picture, then other repetitions, the picture before and the other subjects,
        all with their maps; last the trials of all other pictures, the nearest first.
        """
        ids = [candidate.id for candidate in self._decoder.gallery.candidates]
        here, number = ids.index(view.picture), len(ids)

        def distance(row: int) -> tuple[int, int]:  # of two as far, the next one first
            after, before = (row - here) % number, (here - row) % number
            return min(after, before), after

        def trials(of: View) -> Callable[[], object]:
            condition = ids.index(of.picture)
            return partial(self._decoder.evoked, of.subject, condition, of.repetitions)

        def all_of(of: View) -> Iterator[Callable[[], object]]:
            yield trials(of)
            yield partial(self._draw_map, of)

        nearest = [replace(view, picture=ids[row]) for row in sorted(range(number), key=distance)]
        yield from chain.from_iterable(map(all_of, nearest[:2]))
        for repetitions in self._decoder.repetitions:
            if repetitions != view.repetitions:
                yield from all_of(replace(view, repetitions=repetitions))
        yield from chain.from_iterable(map(all_of, nearest[2:3]))
        for subject in self._decoder.subjects:
            if view.encoder in self._decoder.encoders(subject):
                yield partial(self._measure_ranges, replace(view, subject=subject))
                if subject != view.subject:
                    yield from all_of(replace(view, subject=subject))
        yield from map(trials, nearest[3:])

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._looked_at)
                view, self._looked_at = self._looked_at, None
            for step in self.steps(view):
                if not self._quiet():
                    break
                began = time.monotonic()
                step()
                with self._changed:  # half of the time at most, and of one core
                    self._quiet_from = 2 * time.monotonic() - began

    def _quiet(self) -> bool:
        """Wait until nobody is waiting; return False where something else was looked at."""
        with self._changed:
            while not self._looked_at:
                rest = None if self._answering else self._quiet_from - time.monotonic()
                if rest is not None and rest <= 0:
                    return True
                self._changed.wait(rest)
            return False
