"""What the tab "Your EEG" and its endpoint do, step by step, without knowing of the screen.

Uploaded files flow in and are gone; a `Recording`, `Steps`, epochs and evoked responses flow out.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from nice_demo.bundle import Bundle
from nice_demo.errors import InputError
from nice_demo.montage import REFERENCE, Montage
from nice_demo.sources.phantom.trials import Phantom
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.channels import Match, corrected, match_channels
from nice_demo.sources.recordings.epochs import (
    AS_RECORDED,
    AVERAGE,
    LEAST_CHANNELS,
    Steps,
    default_steps,
    prepare_epochs,
)
from nice_demo.sources.recordings.example import example_recording
from nice_demo.ui.kept import Own

ALL = ""  # names the average over all epochs
WRITTEN_OUT = 20  # channels that are offered for correction

_LOST = "The upload isn't here any more: it waits for ten minutes at most; please upload it again."


# ---------------------------------------------------------------- files


@contextmanager
def claimed(files: Sequence[Mapping]) -> Iterator[list[Path]]:
    """Take uploaded files out of gradio's folder, under the names they came with.

    Whatever happens, they are deleted in the end.

    Parameters
    ----------
    files : sequence of mapping
        As gradio hands them over: "path", where it put the file, and "orig_name".

    Raises
    ------
    InputError
        Where one isn't there any more.
    """
    with tempfile.TemporaryDirectory(prefix="nice-demo-upload-") as folder:
        paths, lost = [], 0
        for number, file in enumerate(files):
            source = Path(file["path"])
            target = Path(folder) / str(number) / _name(file.get("orig_name"), source.name)
            target.parent.mkdir()
            try:
                if source.is_dir():  # never more than one file
                    raise FileNotFoundError
                shutil.move(source, target)
            except FileNotFoundError:
                lost += 1
                continue
            with suppress(OSError):  # gradio's folder for this file, if nobody else uses it
                source.parent.rmdir()
            paths.append(target)
        if lost:
            raise InputError(_LOST)
        yield paths


def _name(original: object, stored: str) -> str:
    """Return the name under which a file was sent, if it can be one: messages speak of it."""
    name = Path(str(original or "").replace("\\", "/")).name
    usable = 0 < len(name.encode(errors="replace")) <= 200 and name.isprintable()
    return name if usable and name not in (".", "..") else stored


def read_uploaded(files: Sequence[Mapping]) -> Recording:
    """Read uploaded files, after which they are gone.

    Raises
    ------
    InputError
        Where they are no recording.
    """
    from nice_demo.sources.recordings.files import open_recording

    with claimed(files) as paths:
        return open_recording(paths)


# ---------------------------------------------------------------- the page's own example


def has_example(bundle: Bundle) -> bool:
    """Whether the bundle has single trials in volts: phantoms have, others don't."""
    return bundle.manifest["trials"]["kind"] == "phantom"


def example(bundle: Bundle) -> tuple[Recording, str]:
    """Make a simulated recording; return it with the subject whose it is."""

    def quality(subject: str) -> float:
        found = bundle.metrics(subject, bundle.encoders(subject)[0], bundle.repetitions[-1])
        return found.top5.value if found else 0.0

    subject = max(bundle.subjects, key=quality)
    phantom = Phantom.open(bundle.file(bundle.manifest["trials"]["files"][subject]))
    candidates = bundle.gallery.candidates
    names = [candidate.name for candidate in candidates]
    names = [c.name if names.count(c.name) == 1 else c.id for c in candidates]
    return example_recording(phantom, names, bundle.montage.names), subject


# ---------------------------------------------------------------- what a visitor says


def references(montage: Montage) -> list[str]:
    """Return what can be chosen as reference."""
    return [AS_RECORDED, AVERAGE, REFERENCE, *montage.names]


def need_a_look(matches: Sequence[Match]) -> bool:
    """Whether somebody should go through the channels by hand."""
    return (
        any(not m.sure for m in matches) or sum(bool(m.electrode) for m in matches) < LEAST_CHANNELS
    )


def to_correct(matches: Sequence[Match], electrodes: Mapping[str, str]) -> str:
    """Write out the channels that somebody should look at, as `corrected` reads them."""
    open_questions = [m for m in matches if not m.sure or m.name not in electrodes]
    lines = [f"{m.name} = {electrodes.get(m.name, '')}".rstrip() for m in open_questions]
    return "\n".join(line for line in lines[:WRITTEN_OUT] if "\n" not in line)


def _number(value: object, what: str) -> float | None:
    """Return a frequency or amplitude that somebody typed; None for nothing or 0."""
    if value is None or value == "":
        return None
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise InputError(f"{str(value)[:20]!r} can't be {what}; give a positive number or nothing.")
    return number or None


def chosen_steps(
    bundle: Bundle,
    recording: Recording,
    events: Sequence[str],
    by_hand: str,
    reference: str,
    low: float | None,
    high: float | None,
    notch: float | None,
    baseline: bool,
    reject: float | None,
) -> Steps:
    """Check what a visitor chose.

    Parameters
    ----------
    bundle : Bundle
    recording : Recording
    events : sequence of str
    by_hand : str
        See `corrected`.
    reference : str
        One of `references`.
    low, high, notch : float or None
        Hz.
    baseline : bool
    reject : float or None
        Highest minus lowest value of an epoch, µV.

    Raises
    ------
    InputError
        Where something doesn't exist, or nothing is left.
    """
    montage = bundle.montage
    matches = match_channels(recording.channels, montage)
    steps = default_steps(bundle.manifest, recording, matches)
    known = set(recording.events)
    if not recording.events:
        raise InputError(
            "There are no events in this recording, so that there is nothing to average; add "
            "annotations or a trigger channel to the file."
        )
    if unknown := [name for name in events if name not in known]:
        names = ", ".join(str(name)[:24] for name in list(dict.fromkeys(recording.events))[:20])
        raise InputError(
            f"There is no event {str(unknown[0])[:60]!r} in the recording; choose of {names}."
        )
    if not events:
        raise InputError("No event is chosen; tick at least one.")
    if reference not in references(montage):
        raise InputError(
            f"There is no reference {str(reference)[:40]!r}; choose {AS_RECORDED!r}, {AVERAGE!r} "
            "or an electrode."
        )
    reject = _number(reject, "the largest amplitude")
    return replace(
        steps,
        electrodes=corrected(steps.electrodes, recording.channels, by_hand, montage),
        events=tuple(events),
        reference=reference,
        low=_number(low, "the lower end of the filter"),
        high=_number(high, "the upper end of the filter"),
        notch=_number(notch, "the frequency of the mains"),
        baseline=bool(baseline),
        reject=None if reject is None else 1e-6 * reject,
    )


# ---------------------------------------------------------------- results


def prepare(
    own: Own,
    steps: Steps,
    montage: Montage,
    times: np.ndarray,
    progress: Callable[[float, str], None] | None = None,
) -> Own:
    """Prepare epochs and average them; see `prepare_epochs`."""
    epochs = prepare_epochs(own.recording, steps, montage, times, progress)
    everything = epochs.volts.mean(0, dtype=float).astype(np.float32)
    evokeds = {ALL: (everything, len(epochs.volts))}
    evokeds |= {name: epochs.evoked(name) for name in dict.fromkeys(epochs.conditions)}
    return replace(own, epochs=epochs, evokeds=evokeds)
