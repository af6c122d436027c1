"""What a bundle knows about its encoders: its metrics and the analyses that it brings along.

In flow a bundle and a `Choice` of a visitor; out flow the numbers that the panels show.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from nice_demo.analysis.series import RETRAINED, Analysis, Series, stored
from nice_demo.analysis.truth import leaderboard
from nice_demo.bundle import Bundle
from nice_demo.calibration import CalibrationError, expected_calibration_error
from nice_demo.errors import InputError
from nice_demo.retrieval import Metrics


@dataclass(frozen=True)
class Choice:
    """What a visitor wants to see.

    Attributes
    ----------
    subject : str or None
        None for the mean over all.
    encoders : tuple of str
    top : int
        1 or 5.
    """

    subject: str | None
    encoders: tuple[str, ...]
    top: int


class Absent(InputError):
    """An analysis that the bundle doesn't bring along."""


class Evidence:
    """A bundle with the analyses that it brings along; each is read once, when asked for.

    Parameters
    ----------
    bundle : Bundle
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.encoders = list(dict.fromkeys(e for s in bundle.subjects for e in bundle.encoders(s)))
        self.analysis = cache(self._analysis)
        self.band = cache(self._band)
        self.calibration_error = cache(self._calibration_error)
        self.leaderboard = cache(lambda figure: leaderboard(self.analysis("truth"), figure))

    def _analysis(self, name: str) -> Analysis:
        found = stored(self.bundle, name)
        if found is None:
            raise Absent(f"This bundle doesn't hold the analysis {name!r}.")
        return found

    def series(self, choice: Choice, analysis: str, name: str) -> list[Series]:
        """Return the series of the chosen encoders, and those trained anew.

        Raises
        ------
        InputError
            Where there is none, or the chosen subject isn't in them.
        """
        several = self.analysis(analysis).of(name)
        several = [s for s in several if s.how == RETRAINED or s.encoder in choice.encoders]
        if not several:
            left_out = self.analysis(analysis).about.get("left_out", "")
            left_out = left_out if isinstance(left_out, str) else "; ".join(left_out) + "."
            raise InputError(
                f"This bundle holds no {name!r} of the chosen encoders. {left_out}".strip()
            )
        for one in several:
            self.check_subject(choice, one.subjects)
        return several

    def check_subject(self, choice: Choice, subjects: list[str]) -> None:
        """Raise InputError where the chosen subject isn't among those that were analysed."""
        if choice.subject not in (None, *subjects):
            raise InputError(
                f"{self.who(choice)} wasn't analysed; choose the mean or one of "
                f"{', '.join(subjects)}."
            )

    def _band(self, encoder: str, subject: str | None, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what `Series.bootstrap` does, up to chance, in a hundredth of the time.

        At one point, the hits among trials drawn anew are binomial: no trial need be drawn.
        """
        (one,) = self.analysis("repetitions").of("test repetitions", encoder)
        hits, trials = (one.ranks <= top).mean(-1), one.ranks.shape[-1]
        if subject is not None:
            hits = hits[[one.subjects.index(subject)]]
        rng = np.random.default_rng(95)
        drawn_subjects = rng.integers(len(hits), size=(1000, len(hits)))
        drawn = rng.binomial(trials, hits[drawn_subjects]).mean(1) / trials
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        return low, high

    @cached_property
    def metrics(self) -> dict[tuple[str, str], Metrics]:
        """Metrics at the most repetitions, by subject and encoder, of those that were measured."""
        wanted = self.bundle.gallery.protocol, self.bundle.repetitions[-1]
        return {
            (str(entry["subject"]), entry["encoder"]): Metrics.from_json(entry["metrics"])
            for entry in self.bundle.manifest["metrics"]
            if (entry["metrics"]["protocol"], entry["metrics"]["repetitions"]) == wanted
        }

    def subjects_of(self, analysis: Analysis) -> list[str]:
        """Return the subjects that were analysed, in the order of the analysis's arrays."""
        found = analysis.about.get("subjects") or self.bundle.subjects
        return [str(subject) for subject in found]

    def sureness(self, choice: Choice) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Return encoder, confidences and hits of the chosen subject's trials, or of all."""
        analysis = self.analysis("confidence")
        subjects, found = self.subjects_of(analysis), []
        self.check_subject(choice, subjects)
        chosen = slice(None) if choice.subject is None else [subjects.index(choice.subject)]
        measured = analysis.about["encoders"]
        for encoder in choice.encoders:
            if encoder in measured:
                # (n_subjects, n_encoders, n_repetitions, n_trials): with the most repetitions
                both = (analysis.arrays[kind] for kind in ("confidence", "rank"))
                sure, rank = (one[chosen, measured.index(encoder), -1].ravel() for one in both)
                found.append((encoder, sure.astype(float), rank == 1))
        if not found:
            raise InputError("Confidence wasn't measured for the chosen encoders.")
        return found

    def _calibration_error(self, encoder: str, subject: str | None) -> CalibrationError:
        ((_, sure, hits),) = self.sureness(Choice(subject, (encoder,), 1))
        return expected_calibration_error(sure, hits, draws=200)

    def who(self, choice: Choice) -> str:
        """Return whose accuracy it is."""
        if choice.subject is None:
            n = len(self.bundle.subjects)
            return f"mean of {n} subjects" if n > 1 else self.of_subject(self.bundle.subjects[0])
        return self.of_subject(choice.subject)

    def of_subject(self, subject: str) -> str:
        """Return how a subject is called on the page."""
        return f"Phantom {subject}" if self.bundle.simulated else f"Subject {subject}"
