"""Decode a recording of your own.

python -m nice_demo.decode FILE [FILE …]                 with the bundle that ships
python -m nice_demo.decode FILE --list                   what was read, and nothing more
python -m nice_demo.decode FILE --events cat,dog --channels "EEG 1=O1,EEG 2=Oz" --notch 50

Several files make one recording: .vhdr with .vmrk and .eeg, .set with .fdt. Events whose name is
that of a picture of the bundle (its id, name or concept) get a rank.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nice_demo.bundle import Bundle
from nice_demo.decode import BundleDecoder
from nice_demo.decode.recording import (
    ConditionDecoding,
    decode_epochs,
    description,
    differences,
    expectation,
    summary,
    to_json,
)
from nice_demo.errors import command
from nice_demo.montage import Montage
from nice_demo.retrieval import Metrics, Proportion
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.channels import Match, corrected, match_channels
from nice_demo.sources.recordings.epochs import OwnEpochs, Steps, default_steps, prepare_epochs

NEAREST = 5  # candidates that are printed for a condition


def _shown(name: str) -> str:
    """Make a name from a file fit for a terminal."""
    name = "".join(letter if letter.isprintable() else "�" for letter in name[:60])
    return name if len(name) <= 40 else name[:39] + "…"


def _read(recording: Recording) -> list[str]:
    """Say what was read."""
    told = description(recording)
    size = f"{told['epochs']} epochs of " if recording.epoched else ""
    events = [f"{_shown(name)} ({number})" for name, number in told["events"].items()]
    more = f", … {len(events) - 20} more" if len(events) > 20 else ""
    return [
        f"read       {_shown(recording.name)}: {recording.format}",
        f"           {told['channels']} channels, {recording.sfreq:g} Hz, "
        f"{size}{told['seconds']:g} s",
        f"events     {', '.join(events[:20]) or 'none'}{more}",
        *(f"           {note}" for note in recording.notes),
    ]


def _mapping(matches: Sequence[Match], steps: Steps) -> list[str]:
    """Say which channel is which electrode; what isn't sure gets a line of its own."""
    renamed, unsure, unused = [], [], []
    for match in matches:
        name, electrode = _shown(match.name), steps.electrodes.get(match.name)
        if electrode is None and match.sure:
            unused.append(name)
        elif electrode and electrode != match.electrode:
            renamed.append(f"{name} → {electrode} (by hand)")
        elif not match.sure:
            unsure.append(f"         ? {name} → {electrode or 'not used'}: {match.why}")
        elif electrode != match.name:
            renamed.append(f"{name} → {electrode}")
    used = f"channels   {len(steps.electrodes)} of {len(matches)} are electrodes"
    lines = [f"{used}; what has a ? isn't sure" if unsure else used, *unsure]
    for what, names in (("called otherwise", renamed), ("not used", unused)):
        if names:
            lines.append(f"           {what}: {', '.join(names)}")
    return lines


def _prepared(epochs: OwnEpochs, steps: Steps, also: Sequence[str]) -> list[str]:
    """Say what became of the recording."""
    band = [f"{edge:g}" if edge else "…" for edge in (steps.low, steps.high)]
    lines = [
        f"reference  {steps.reference}",
        f"filter     {'–'.join(band)} Hz{f', notch {steps.notch:g} Hz' if steps.notch else ''}",
        f"epochs     {len(epochs.conditions)} kept, {epochs.dropped} dropped",
    ]
    if epochs.interpolated:
        names = ", ".join(epochs.interpolated)
        lines.append(f"missing    {len(epochs.interpolated)} electrodes interpolated: {names}")
    return lines + [f"           {note}" for note in [*epochs.notes, *also]]


def _decoded(decodings: Sequence[ConditionDecoding]) -> list[str]:
    lines = []
    for one in decodings:
        ways = len(one.gallery)
        of = f"{_shown(one.condition)}, {one.n_epochs} epochs"
        if one.rank is None:
            lines.append(f"{of}: no picture of the gallery is called so")
        else:
            lines.append(f"{of}: rank {one.rank} of {ways} (chance {(ways + 1) / 2:g})")
        for place, row in enumerate(one.order[:NEAREST].tolist(), 1):
            name = _shown(one.gallery.candidates[row].name)
            lines.append(f"    {place}  {one.similarities[row]:+.3f}  {name}")
    return lines


def _overall(found: Metrics | None) -> list[str]:
    if found is None:
        return []

    def told(share: Proportion) -> str:
        value, low, high, chance = (
            100 * number for number in (share.value, share.low, share.high, share.chance)
        )
        return f"{value:.1f} % (95 % interval {low:.1f} to {high:.1f} %, chance {chance:g} %)"

    median = found.median_rank
    return [
        f"{found.trials} conditions among {found.ways} candidates, {found.protocol} protocol:",
        f"    top-1        {told(found.top1)}",
        f"    top-5        {told(found.top5)}",
        f"    median rank  {median.value:g} (95 % interval {median.low:g} to {median.high:g}, "
        f"chance {median.chance:g})",
    ]


def _averages(epochs: OwnEpochs) -> list[str]:
    """Say of each condition where and when its average is largest."""
    lines = []
    for condition in dict.fromkeys(epochs.conditions):
        volts, number = epochs.evoked(condition)
        channel, time = np.unravel_index(np.abs(volts).argmax(), volts.shape)
        lines.append(
            f"{_shown(condition)}, {number} epochs: largest at {epochs.channels[channel]}, "
            f"{1e3 * epochs.all_times[time]:.0f} ms, {1e6 * volts[channel, time]:+.1f} µV"
        )
    return lines


def _steps(options: argparse.Namespace, recording: Recording, steps: Steps, cap: Montage) -> Steps:
    """Change the steps as told."""
    if options.channels:
        electrodes = corrected(steps.electrodes, recording.channels, options.channels, cap)
        steps = replace(steps, electrodes=electrodes)
    if options.events:
        whole = options.events in recording.events  # a name may hold commas
        names = [options.events] if whole else [name.strip() for name in options.events.split(",")]
        steps = replace(steps, events=tuple(names))
    if options.reference:
        steps = replace(steps, reference=options.reference)
    frequencies = {name: getattr(options, name) for name in ("low", "high", "notch")}
    given = {name: hz or None for name, hz in frequencies.items() if hz is not None}
    reject = None if options.reject is None else 1e-6 * options.reject
    return replace(steps, **given, reject=reject)


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.decode``."""
    parser = argparse.ArgumentParser(
        "python -m nice_demo.decode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument(
        "--bundle", type=Path, default=Path("weights/phantom"), help="a folder; weights/phantom"
    )
    parser.add_argument("--subject", help="whose encoder; else the bundle's first subject's")
    parser.add_argument("--encoder", help="else the subject's first")
    parser.add_argument("--events", help="names, with commas between; else all")
    parser.add_argument("--channels", help="by hand: NAME=ELECTRODE, …; nothing after = leaves out")
    parser.add_argument("--reference", help='"as recorded", "average", or an electrode')
    parser.add_argument("--low", type=float, help="Hz; 0 for none")
    parser.add_argument("--high", type=float, help="Hz; 0 for none")
    parser.add_argument("--notch", type=float, help="of the mains, Hz")
    parser.add_argument("--reject", type=float, help="drop epochs that vary by more, µV")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--list", action="store_true", help="only say what was read")
    options = parser.parse_args(argv)
    from nice_demo.sources.recordings.files import open_recording

    if options.list:
        recording = open_recording(options.files)
        told = description(recording) | {"names": recording.channels, "notes": recording.notes}
        names = f"names      {', '.join(_shown(name) for name in recording.channels)}"
        print(json.dumps(told) if options.json else "\n".join([*_read(recording), names]))
        return 0
    bundle = Bundle(options.bundle)
    subject = options.subject or bundle.subjects[0]
    encoder = options.encoder or bundle.encoders(subject)[0]
    bundle.encoder(subject, encoder)  # a wrong name is told before a long recording is read
    recording = open_recording(options.files)
    matches = match_channels(recording.channels, bundle.montage)
    steps = default_steps(bundle.manifest, recording, matches)
    steps = _steps(options, recording, steps, bundle.montage)
    times = BundleDecoder(bundle).times
    epochs = prepare_epochs(recording, steps, bundle.montage, times)
    # Too few electrodes: there are averages to look at, and the notes say why no more.
    decodings = [] if epochs.eeg is None else decode_epochs(bundle, subject, encoder, epochs)
    if options.json:
        what = bundle, subject, encoder, recording, matches, steps, epochs, decodings
        print(json.dumps(to_json(*what), ensure_ascii=False, allow_nan=False))
        return 0
    also = differences(bundle, recording, steps) if decodings else []
    told = [*_read(recording), *_mapping(matches, steps), *_prepared(epochs, steps, also)]
    if decodings:
        whose = f"{encoder} of subject {subject}, {bundle.name}"
        told = [expectation(bundle), "", *told, f"encoder    {whose}", ""]
        told += [*_decoded(decodings), *_overall(summary(bundle, decodings))]
    else:
        told += ["", *_averages(epochs)]
    print("\n".join(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
