"""What programs can ask of the page: its public endpoints, over HTTP and, with --mcp, as tools.

Each function's docstring is what gradio and MCP show to a stranger; its form ("Args:") is the one
that gradio reads. Errors that a caller can mend are sentences.
"""

import functools
import inspect
from collections.abc import Callable
from typing import get_type_hints

import gradio as gr
import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from nice_demo.analysis.series import Accuracy, Series, stored
from nice_demo.decode import BundleDecoder, Decoder
from nice_demo.errors import InputError
from nice_demo.montage import REGIONS
from nice_demo.ui.attribution import TARGETS, Attributions, check_choice, kinds_of, over_electrodes
from nice_demo.ui.view import presets, view_of

LONGEST = 1000  # characters of a sentence: it may quote what somebody sent
SMALL = 5000  # numbers of an array that `evidence` still tells


def public(function: Callable, **queue: object) -> None:
    """Offer a function of the page that is being built as an endpoint of its name.

    Parameters
    ----------
    function : callable
        Takes and returns plain JSON. An `InputError` becomes the sentence that a caller reads, and
        so does a value that isn't what its annotation says.
    **queue
        ``concurrency_id`` and ``concurrency_limit`` of `gradio.api`.
    """
    signature = inspect.signature(function)
    types = {name: _type(hint) for name, hint in get_type_hints(function).items()}

    @functools.wraps(function)
    def told(*args, **kwargs):
        try:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                try:
                    checked = types[name].validate_python(value)
                except ValidationError as error:
                    raise InputError(
                        f"{name} isn't what {function.__name__} takes: "
                        f"{error.errors()[0]['msg'].lower()}; see the description of the API."
                    ) from None
                bound.arguments[name] = types[name].dump_python(checked)  # files stay dicts
            return function(*bound.args, **bound.kwargs)
        except InputError as error:
            raise gr.Error(str(error)[:LONGEST], print_exception=False) from None

    gr.api(told, api_name=function.__name__, **queue)


def _type(hint: object) -> TypeAdapter:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return TypeAdapter(hint)
    # Somebody's subject 1 is the subject "1".
    return TypeAdapter(hint, config=ConfigDict(coerce_numbers_to_str=True))


def plain(values: np.ndarray | float, digits: int = 4) -> list | float | None:
    """Return numbers as JSON has them: so many significant digits, None for NaN and infinity."""
    if isinstance(values, np.ndarray) and values.ndim:
        return [plain(value, digits) for value in values]
    number = float(values)
    return float(f"{number:.{digits}g}") if np.isfinite(number) else None


def decoding_endpoints(decoder: Decoder) -> None:
    """Offer `decode`, `choices`, `evaluation` and, of EEG, `explain` and `evidence`.

    Parameters
    ----------
    decoder : Decoder
    """
    has_eeg = decoder.times is not None and isinstance(decoder, BundleDecoder)

    def choices() -> dict:
        """Tell what can be asked for; begin here.

        Returns the ids and names that the other functions take: subjects with their encoders,
        pictures, repetitions, electrodes with presets and regions, the window, kinds of maps.
        """
        told = {
            "simulated": decoder.simulated,
            "provenance": decoder.provenance,
            "protocol": decoder.gallery.protocol,
            "encoders_of_subject": {name: decoder.encoders(name) for name in decoder.subjects},
            "repetitions": decoder.repetitions,
            "pictures": [
                {"id": one.id, "name": one.name, "concept": one.concept, "category": one.category}
                for one in decoder.gallery.candidates
            ],
        }
        if decoder.times is not None:
            names = decoder.montage.names
            told["electrodes"] = names
            told["presets_of_electrodes"] = presets(names)
            told["regions"] = {
                region: [name for name in own if name in names] for region, own in REGIONS.items()
            }
            step = decoder.times[1] - decoder.times[0]
            ends = decoder.times[0], decoder.times[-1] + step
            told["window_ms"] = [round(1e3 * float(end)) for end in ends]
        if has_eeg:
            by_encoder = {e: s for s in reversed(decoder.subjects) for e in decoder.encoders(s)}
            told["maps_of_encoder"] = {
                encoder: kinds_of(decoder, subject, encoder)
                for encoder, subject in by_encoder.items()
            }
            told["maps_explain_similarity_to"] = TARGETS
            told["analyses"] = _analyses(decoder)
        return told

    def decode(
        subject: str,
        encoder: str,
        picture: str,
        repetitions: int,
        electrodes: list[str] | str | None = "all",
        start_ms: float | None = None,
        end_ms: float | None = None,
        shuffle: int = 0,
    ) -> dict:
        """Decode what a subject saw from the EEG of one picture, all of it or a part.

        Returns what was seen, its rank among all candidates, the ten nearest candidates with
        their cosine similarities, how sure the decoder is, and how good the encoder is over all
        pictures with the whole EEG: chance levels and 95 % intervals included.

        Args:
            subject: Whose EEG, such as "1"; `choices` lists them.
            encoder: Which decoder, such as "nice"; `choices` lists them.
            picture: Id or name of the picture that was seen, such as "dog".
            repetitions: How many looks at the picture are averaged, such as 80.
            electrodes: Those that the encoder gets: "all", a preset such as "17", or names.
            start_ms: Where the window starts, in ms after the picture appeared; null: at the start.
            end_ms: Where the window ends, in ms; null: at the end.
            shuffle: Other than 0: the EEG in that random order, which shows what chance looks like.
        """
        asked = subject, encoder, picture, repetitions, electrodes, start_ms, end_ms, shuffle
        return decoder.to_json(view_of(decoder, *asked).decoded_by(decoder))

    def evaluation(subject: str, encoder: str, repetitions: int) -> dict:
        """Tell how good an encoder is over all test pictures of a subject.

        Returns how often the right picture comes first and among the first five, and more, each
        with its chance level and 95 % interval, the number of trials, and the protocol.

        Args:
            subject: Whose EEG, such as "1"; `choices` lists them.
            encoder: Which decoder, such as "nice"; `choices` lists them.
            repetitions: How many looks at each picture are averaged, such as 80.
        """
        first = decoder.gallery.candidates[0].id
        view = view_of(decoder, subject, encoder, first, repetitions)
        found = decoder.metrics(view.subject, view.encoder, view.repetitions)
        if found is None:
            raise InputError(
                f"How good {encoder} is for subject {subject} at {repetitions} repetitions wasn't "
                "measured; run python -m nice_demo.evaluate."
            )
        return {
            "simulated": decoder.simulated,
            "provenance": decoder.provenance,
            "trained_on": decoder.trained_on,
            "subject": view.subject,
            "encoder": view.encoder,
            "repetitions": view.repetitions,
            "metrics": found.to_json(),
        }

    for function in (decode, choices, evaluation):
        public(function)
    if not has_eeg:
        return

    attributions = Attributions(decoder)

    def explain(
        subject: str,
        encoder: str,
        picture: str,
        repetitions: int,
        kind: str = "integrated gradients",
        target: str = "seen",
        electrodes: list[str] | str | None = "all",
        start_ms: float | None = None,
        end_ms: float | None = None,
    ) -> dict:
        """Tell which part of the EEG made it similar to a picture, with a sanity check.

        Returns a map: a number for each electrode, each moment, or each of both (a row for each
        electrode), with its unit; and how the same map of random weights correlates with it: near
        0, the map shows what was learned. It tells which input the encoder uses, not where in the
        brain it comes from.

        Args:
            subject: Whose EEG, such as "1"; `choices` lists them.
            encoder: Which decoder, such as "nice"; `choices` lists them.
            picture: Id or name of the picture that was seen, such as "dog".
            repetitions: How many looks at the picture are averaged, such as 80.
            kind: Which map, such as "attention" or "grad-cam"; `choices` lists them by encoder.
            target: "seen": similarity to the picture seen; "first": to the first retrieved.
            electrodes: Those that the encoder gets: "all", a preset such as "17", or names.
            start_ms: Where the window starts, in ms after the picture appeared; null: at the start.
            end_ms: Where the window ends, in ms; null: at the end.
        """
        asked = subject, encoder, picture, repetitions, electrodes, start_ms, end_ms
        view = view_of(decoder, *asked)
        check_choice(kind, target)
        decoding = view.decoded_by(decoder)
        found, row, check = attributions.checked(decoding, kind, target)
        per_electrode = over_electrodes(found, decoding.part.inside(decoder.times))
        candidate = decoder.gallery.candidates[row]
        return {
            "simulated": decoder.simulated,
            "subject": view.subject,
            "encoder": view.encoder,
            "repetitions": view.repetitions,
            "map": kind,
            "unit": found.unit,
            "similarity_to": {"id": candidate.id, "name": candidate.name},
            "similarity": plain(float(decoding.similarities[row])),
            "electrodes": found.channels,
            "times_ms": None if found.times is None else plain(1e3 * found.times, 6),
            "values": plain(found.values, 3),
            "per_electrode": None if per_electrode is None else plain(per_electrode, 3),
            "sanity_check": check
            | {"means": "rank correlation with the same map of random weights; near 0 is good"},
        }

    def evidence(analysis: str, subject: str = "") -> dict:
        """Tell the figures of an analysis of all test trials that the page shows under Evidence.

        Returns each curve's points with accuracy, 95 % interval, chance, and the threshold that
        holds for all its points together; and how the analysis was done.

        Args:
            analysis: Which, such as "time", "space" or "transfer"; `choices` lists them.
            subject: Whose, such as "1"; empty for the mean over all subjects.
        """
        known = _analyses(decoder)
        if analysis not in known:
            listed = f"choose one of {', '.join(known)}" if known else "this bundle holds none"
            raise InputError(f"There is no analysis {analysis[:40]!r}; {listed}.")
        found = stored(decoder.bundle, analysis)
        of_series = [s for s in found.series if not subject or subject in s.subjects]
        if subject and subject not in decoder.subjects:
            raise InputError(
                f"There is no subject {subject[:40]!r}; choose one of "
                f"{', '.join(decoder.subjects)}, or leave it empty for the mean."
            )
        return {
            "simulated": decoder.simulated,
            "provenance": decoder.provenance,
            "analysis": analysis,
            "subject": subject or "mean of all",
            "about": found.about,
            "curves": [_curve(series, subject or None) for series in of_series],
            "arrays": {
                name: plain(array, 4) for name, array in found.arrays.items() if array.size <= SMALL
            },
            "arrays_left_out": [n for n, array in found.arrays.items() if array.size > SMALL],
        }

    for function in (explain, evidence):
        public(function)


def _analyses(decoder: BundleDecoder) -> list[str]:
    files = decoder.bundle.manifest["files"]
    names = [name for name in files if name.startswith("analyses/")]
    return sorted(name.removeprefix("analyses/").split(".")[0] for name in names)


def _curve(series: Series, subject: str | None) -> dict:
    return {
        "name": series.name,
        "encoder": series.encoder,
        "how": series.how,
        "candidates": series.ways,
        "subjects": series.subjects if subject is None else [subject],
        "axes": [
            {"name": axis.name, "unit": axis.unit, "points": list(axis.points)}
            for axis in series.axes
        ],
        "first": _accuracy(series.accuracy(1, subject)),
        "among_first_five": _accuracy(series.accuracy(5, subject)),
    }


def _accuracy(accuracy: Accuracy) -> dict:
    return {name: plain(np.asarray(value)) for name, value in vars(accuracy).items()}
