"""Somebody's own recordings as a data folder, in the form that every source ends in.

Trials flow in (`nice_demo.sources.recordings.table`, `.bids`): which picture was shown when, in
which file. Out flows what `nice_demo.eegset` describes. The signal goes through the same steps as
a recording on the page (`nice_demo.sources.recordings.epochs`), then each session is whitened by
its own training trials.

Two designs are prepared:

* **Many pictures** (the default): whole *concepts* are held out. Their pictures are the candidates,
  no training trial shows one of their concepts, and the pictures' embeddings come from an image
  model afterwards (`python -m nice_demo.embed`).
* **A few concepts**, such as faces and houses (``classify``): whole *sessions or runs* are held
  out. Each training trial is a condition of its own, the candidates are the concepts, with
  held-out trials as repetitions, and each concept has a vector at right angles to all others, so
  that training is classification. What it tells apart it has been trained on: no picture of
  another concept can be retrieved.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from nice_demo.eegset import new_array
from nice_demo.errors import InputError, one_line
from nice_demo.files import complete_folder, write_json
from nice_demo.gallery import Candidate, Gallery
from nice_demo.montage import CHANNELS, Montage, flat_positions, positions
from nice_demo.preparation import shrunk_covariance, whitening_matrix
from nice_demo.sources.latents import readable_names
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.channels import match_channels
from nice_demo.sources.recordings.epochs import AS_RECORDED, Steps, prepare_epochs
from nice_demo.sources.recordings.pictures import (
    CONCEPTS,
    ORIGIN,
    PICTURES,
    copy_pictures,
    find_pictures,
)
from nice_demo.sources.recordings.readers import bad_stretches
from nice_demo.sources.recordings.table import Trial, Trials

NOT_YET = {"name": "none yet", "revision": None}  # the image model before `nice_demo.embed`
ORTHOGONAL = {"name": "one vector a concept, at right angles to all others", "revision": None}
_MOST_TEST_CONCEPTS = 200  # where nothing is asked for: as many as THINGS-EEG2 has
_CHUNK = 256  # trials that are whitened at once


@dataclass(frozen=True)
class Signal:
    """What is done to every recording; see `nice_demo.sources.recordings.epochs.Steps`.

    Attributes
    ----------
    sfreq : float
        Sampling rate that training takes, Hz.
    tmin, tmax : float
        Start and end of the epochs, s; what follows 0 s is kept.
    low, high, notch, reject, baseline, reference
        As in `Steps`.
    """

    sfreq: float = 250.0
    tmin: float = -0.2
    tmax: float = 1.0
    low: float | None = 0.1
    high: float | None = 100.0
    notch: float | None = None
    reject: float | None = None
    baseline: bool = True
    reference: str = AS_RECORDED

    @property
    def times(self) -> np.ndarray:
        """Of the samples that are kept, s: from 0 to just before `tmax`."""
        return np.arange(round(self.tmax * self.sfreq)) / self.sfreq


@dataclass(frozen=True)
class Split:
    """What is held out for the test, where the trials don't say it themselves.

    Attributes
    ----------
    classify : bool
        Whether trials of the same few concepts are told apart; see the module.
    test_concepts : int or None
        How many concepts are held out; None: a fifth, 200 at most.
    test_sessions, test_runs : tuple of str
        Which are held out, with `classify`.
    seed : int
        Decides which concepts are held out, and which trials stay where some have more.
    """

    classify: bool = False
    test_concepts: int | None = None
    test_sessions: tuple[str, ...] = ()
    test_runs: tuple[str, ...] = ()
    seed: int = 0


def prepare_recordings(
    folder: Path,
    source: Trials,
    read: "Callable[[Path], Opened]",
    *,
    subjects: tuple[str, ...] = (),
    split: Split = Split(),
    signal: Signal = Signal(),
    average: bool = False,
    pictures: Path | None = None,
    picture_licence: str = "not stated",
    simulated: bool = False,
) -> list[str]:
    """Write a data folder of somebody's own recordings.

    Parameters
    ----------
    folder : Path
        Appears when all is done; must not be there before.
    source : Trials
    read : callable
        Opens a trial's file.
    subjects : tuple of str
        Labels; empty: all.
    split : Split
    signal : Signal
    average : bool
        Store the mean of a training picture's trials, however many they are, in place of as many
        single trials as the picture with the fewest has.
    pictures : Path, optional
        Folder or zip of the pictures; the test pictures are copied for the page to show.
    picture_licence : str
    simulated : bool
        Whether the EEG is; everything made of it will say so.

    Returns
    -------
    list of str
        What was done and left out, in sentences; they stand in ``dataset.json`` too.

    Raises
    ------
    InputError
        Where the trials don't go together, or a file can't be used.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already; remove it or give another --to.")
    # Numbers that aren't (NaN) are in no range.
    if not 1 <= signal.sfreq <= 20_000:
        raise InputError(f"--sfreq can't be {signal.sfreq:g}; give Hz, such as 250.")
    if not (-60 <= signal.tmin <= 0 and 1 / signal.sfreq <= signal.tmax <= 60):
        raise InputError("Epochs go from --tmin, at most 0, to --tmax, above 0 s (60 s at most).")
    chosen = [t for t in source.trials if not subjects or t.subject in subjects]
    if unknown := sorted(set(subjects) - {trial.subject for trial in chosen}):
        there = ", ".join(sorted({trial.subject for trial in source.trials}))
        raise InputError(f"There is no subject {unknown[0]!r} in {source.name}; it has {there}.")
    trials, notes = choose_split(chosen, split)
    notes = [*source.notes, *notes]
    if pictures is not None and not split.classify:
        find_pictures(pictures, {trial.picture: trial.line for trial in trials})
    numbers = _numbers(trials)
    files = list(dict.fromkeys(trial.file for trial in trials))
    electrodes = _Electrodes.of(files, read, signal.reference)
    notes += electrodes.notes
    with ExitStack() as stack:
        part = stack.enter_context(complete_folder(folder))
        spool = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=part)))
        montage = Montage.standard(electrodes.names)
        cut = {}
        bar = stack.enter_context(tqdm(total=len(files), desc="recordings", unit="file"))
        for label in numbers:
            own = [trial for trial in trials if trial.subject == label]
            cut[label] = _cut_subject(own, read, montage, signal, spool / f"{len(cut)}", bar)
            notes += [f"Subject {label}: {note}" for note in cut[label].notes]
        layout = _layout({label: one.trials for label, one in cut.items()}, split, average)
        notes += layout.notes
        for label, number in numbers.items():
            place = part / f"sub-{number:02d}"
            place.mkdir()
            own = _write_subject(place, cut[label], layout.rows[label], average, split)
            meta = {
                "subject": number,
                "label": label,
                "channels": montage.names,
                "sfreq": signal.sfreq,
                "tmin": 0.0,
                "unit": "whitened",
                "test_repetitions": None,  # single trials
                "interpolated": cut[label].interpolated,
            } | own
            write_json(place / "meta.json", meta)
        shown = {}
        if pictures is not None and not split.classify:
            names = {picture: "The list of trials" for picture, _ in layout.test}
            shown = copy_pictures(find_pictures(pictures, names), names, part / "pictures")
        image_model = _write_galleries(part, layout, split, shown, picture_licence)
        montage.save(part / "montage.safetensors")
        licences = [f"EEG: {source.licence}"]
        if shown:
            licences.append(f"Pictures: {picture_licence}")
        write_json(
            part / "dataset.json",
            {
                "name": folder.name,
                "source": f"own recordings: {source.name}",
                "simulated": simulated,
                "image_model": image_model,
                "preparation": _preparation(signal, split, average) | {"notes": notes},
                "licences": licences,
            },
        )
    return notes


# ---------------------------------------------------------------- what trains and what tests


def choose_split(trials: list[Trial], split: Split) -> tuple[list[Trial], list[str]]:
    """Say of each trial whether it trains or tests, and check that nothing leaks.

    Returns
    -------
    trials : list of Trial
        All with ``split`` filled in.
    notes : list of str

    Raises
    ------
    InputError
        Where the trials say it for some only, or a concept is on both sides (on one only, with
        `Split.classify`).
    """
    concept_of: dict[str, Trial] = {}
    for trial in trials:
        first = concept_of.setdefault(trial.picture, trial)
        if first.concept != trial.concept and not split.classify:
            raise InputError(
                f"The picture {trial.picture!r} is of {first.concept!r} in {first.line} and of "
                f"{trial.concept!r} in {trial.line}; a picture has one concept."
            )
    held_runs = bool(split.test_sessions or split.test_runs)
    if split.classify and split.test_concepts is not None:
        raise InputError("--classify holds out sessions or runs; --test-concepts is without it.")
    if held_runs and not split.classify:
        raise InputError(
            "--test-sessions and --test-runs go with --classify: without it whole concepts are "
            "held out, so that the test shows none that was trained on."
        )
    if stated := [trial for trial in trials if trial.split]:
        if split.test_concepts is not None or held_runs:
            raise InputError(f"{stated[0].line} says what tests (split); leave --test-… out.")
        if len(stated) < len(trials):
            empty = next(trial for trial in trials if not trial.split)
            raise InputError(f"{empty.line} has no split, but others have; fill in all or none.")
        notes = ["What trains and what tests is as the recordings' list of trials says."]
    elif split.classify:
        if not held_runs:
            raise InputError(
                "--classify needs to know which recordings test: give --test-sessions or "
                "--test-runs, or a column split."
            )
        sessions = _hold_out(trials, "session", split.test_sessions)
        runs = _hold_out(trials, "run", split.test_runs)
        trials = [
            replace(t, split="test" if t.session in sessions or t.run in runs else "train")
            for t in trials
        ]
        parts = (("session", split.test_sessions), ("run", split.test_runs))
        held = " and ".join(f"{kind} {', '.join(names)}" for kind, names in parts if names)
        notes = [f"Held out for the test: {held}."]
    else:
        tests = _test_concepts(trials, split)
        trials = [
            replace(trial, split="test" if trial.concept in tests else "train") for trial in trials
        ]
        notes = [f"Held out for the test: {len(tests)} concepts, chosen with seed {split.seed}."]
    sides = {side: {t.concept: t for t in trials if t.split == side} for side in ("train", "test")}
    both = sides["train"].keys() & sides["test"].keys()
    if split.classify:
        if len(both) < 2 or both != sides["train"].keys() | sides["test"].keys():
            alone = sorted(sides["train"].keys() ^ sides["test"].keys())
            what = f"{alone[0]!r} is in one only" if alone else "there are fewer"
            raise InputError(
                "With --classify two concepts or more are each trained on and tested, but "
                f"{what}; hold out other recordings, or leave concepts out with --only."
            )
    elif both:
        name = sorted(both)[0]
        raise InputError(
            f"The concept {name!r} is trained on ({sides['train'][name].line}) and tested "
            f"({sides['test'][name].line}), so that the test would leak; hold out whole concepts, "
            "or give --classify to tell trained concepts apart."
        )
    elif len(sides["train"]) < 2 or len(sides["test"]) < 2:
        raise InputError(
            f"{len(sides['train'])} concepts would train and {len(sides['test'])} test; either "
            "needs two. For a few concepts, give --classify."
        )
    return trials, notes


def _hold_out(trials: list[Trial], kind: str, wanted: tuple[str, ...]) -> set[str]:
    """Return the sessions or runs that are wanted, as the trials call them."""
    there = {getattr(trial, kind) for trial in trials} - {""}
    found = {label for label in there if _same(label) in set(map(_same, wanted))}
    if missing := [name for name in wanted if _same(name) not in set(map(_same, there))]:
        has = ", ".join(sorted(there)) or "none"
        raise InputError(f"There is no {kind} {missing[0]!r} to hold out; there are: {has}.")
    return found


def _same(label: str) -> str:
    """How labels are compared: run 2 is run 02."""
    return (label.lstrip("0") or "0") if label.isdecimal() else label


def _test_concepts(trials: list[Trial], split: Split) -> set[str]:
    names = sorted({trial.concept for trial in trials})
    wanted = split.test_concepts
    if wanted is None:
        wanted = min(max(2, len(names) // 5), _MOST_TEST_CONCEPTS)
    order = np.random.default_rng(split.seed).permutation(len(names))
    return {names[row] for row in order[:wanted]}


def _numbers(trials: list[Trial]) -> dict[str, int]:
    """Give subjects numbers: their labels where these are some, else in the labels' order."""
    labels = sorted({trial.subject for trial in trials})
    if all(label.isdecimal() for label in labels) and len({int(x) for x in labels}) == len(labels):
        return {label: int(label) for label in labels}
    return {label: number for number, label in enumerate(labels, 1)}


# ---------------------------------------------------------------- signal


@dataclass(frozen=True)
class _Electrodes:
    """The electrodes that all files have, bad or not, in the order of the cap."""

    names: list[str]
    notes: list[str]

    @classmethod
    def of(cls, files: list[Path], read: Callable, reference: str) -> "_Electrodes":
        by_file, others = {}, set()
        for file in files:
            channels = read(file).channels
            matched = _matches(channels)
            by_file[file] = set(matched.values())
            others |= {name for name in channels if matched.get(name) not in CHANNELS}
        common, some = set.intersection(*by_file.values()), set().union(*by_file.values())
        # The reference is 0 throughout.
        names = [name for name in CHANNELS if name in common and name != reference]
        if len(names) < 2:
            raise InputError(
                f"The recordings have {len(names)} electrodes of the 10-10 system in common; two "
                f"are needed, named such as {', '.join(CHANNELS[-3:])}."
            )
        notes = []
        if others := sorted(others):
            more = f" and {len(others) - 10} others" if len(others) > 10 else ""
            notes.append(
                "Channels that aren't electrodes of the 63-channel cap are left out: "
                f"{', '.join(others[:10])}{more}."
            )
        if lacking := sorted((some - common) & set(CHANNELS)):
            file = next(file for file, own in by_file.items() if lacking[0] not in own)
            notes.append(
                f"Electrodes that not all recordings have are left out: {', '.join(lacking)} "
                f"({lacking[0]} isn't in {file.name})."
            )
        return cls(names, notes)


def _cap(names: list[str]) -> Montage:
    """Return a montage without maps, which take 2 s that nobody needs while epochs are cut."""
    n = len(names)
    maps = np.zeros((4, n), np.float32), np.ones((2, 2), bool)
    return Montage(names, positions(names), flat_positions(names), *maps)


def _matches(channels: list[str]) -> dict[str, str]:
    """Return name in the file → electrode, where the name leaves no doubt."""
    found = match_channels(channels, _cap(CHANNELS))
    return {match.name: match.electrode for match in found if match.sure and match.electrode}


@dataclass(frozen=True)
class _Cut:
    """One subject's epochs on disk, in volts, before whitening."""

    trials: list[Trial]  # of each epoch
    volts: np.ndarray  # (n_epochs, n_channels, n_times), float32
    interpolated: dict[str, list[str]]  # file → electrodes
    notes: list[str]


def _cut_subject(
    trials: list[Trial],
    read: Callable,
    montage: Montage,
    signal: Signal,
    path: Path,
    bar: tqdm,
) -> _Cut:
    """Cut all epochs of a subject out of their files, into a file of their own."""
    kept, interpolated, lost, notes = [], {}, 0, []
    with open(path, "wb") as file:
        for name in dict.fromkeys(trial.file for trial in trials):
            own = [trial for trial in trials if trial.file == name]
            volts, rows, estimated, said = _cut_file(own, read(name), montage, signal)
            volts.tofile(file)
            notes += [note for note in said if note not in notes]
            kept += [own[row] for row in rows]
            lost += len(own) - len(rows)
            if estimated:
                interpolated[name.name] = estimated
                notes.append(f"in {name.name} interpolated: {', '.join(estimated)}.")
            bar.update()
    if lost:
        notes.append(
            f"{lost} of {len(trials)} trials are rejected, marked as bad or not whole inside the "
            "recording."
        )
    if not kept:
        raise InputError(
            f"No whole epoch of subject {trials[0].subject} is left; check the times in "
            f"{trials[0].line} and --reject."
        )
    shape = len(kept), len(montage.names), len(signal.times)
    return _Cut(kept, np.memmap(path, np.float32, "r", 0, shape), interpolated, notes)


def _cut_file(
    trials: list[Trial], opened: "Opened", montage: Montage, signal: Signal
) -> tuple[np.ndarray, list[int], list[str], list[str]]:
    """Cut the epochs of some trials out of a recording.

    Returns
    -------
    volts : array of shape (n_epochs, n_channels, n_times), float32
    rows : list of int
        The trials that they are of: some may be rejected, or cut off at the recording's edges.
    interpolated, notes : list of str
    """
    file, recording = trials[0].file.name, opened.load()
    # Each trial is an event of its own, so that those that get lost are known.
    events = tuple(str(row) for row in range(len(trials)))
    if recording.epoched:
        recording = _epochs_of(trials, recording)
    else:
        factor = {"onset": 1.0, "sample": 1 / recording.sfreq}
        if wrong := [trial for trial in trials if trial.unit == "epoch"]:
            raise InputError(f"{wrong[0].line}: {file} holds no epochs; give onset or sample.")
        onsets = np.array([trial.at * factor[trial.unit] for trial in trials])
        length = recording.volts.shape[-1] / recording.sfreq
        for trial, onset in zip(trials, onsets, strict=True):
            if onset > length:
                raise InputError(
                    f"{trial.line} is at {onset:.3f} s, after the end of {file} ({length:.3f} s)."
                )
        order = np.argsort(onsets, kind="stable")
        recording = replace(recording, onsets=onsets[order], events=[events[o] for o in order])
    cap, reference = _cap(montage.names), signal.reference
    if reference in CHANNELS:
        cap = _cap([*montage.names, reference])  # of which it becomes the last, 0 throughout
    electrodes = {
        name: electrode
        for name, electrode in _matches(recording.channels).items()
        if electrode in (*cap.names, reference) and name not in opened.bads
    }
    chosen = ("low", "high", "notch", "reject", "baseline", "reference", "tmin")
    steps = Steps(
        electrodes, events, whiten=False, **{name: getattr(signal, name) for name in chosen}
    )
    try:
        found = prepare_epochs(recording, steps, cap, signal.times, most=len(trials))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    if found.channels != cap.names:
        lacks = ", ".join(sorted(set(cap.names) - set(found.channels)))
        raise InputError(
            f"{file} has too few good electrodes to interpolate {lacks}; leave the file out."
        )
    start = int(np.argmin(np.abs(found.all_times)))
    volts = found.volts[:, : len(montage.names), start : start + len(signal.times)]
    if volts.shape[2] < len(signal.times):
        last = found.all_times[-1]
        raise InputError(f"The epochs of {file} end at {last:.3f} s; give a --tmax before that.")
    order = np.argsort([int(name) for name in found.conditions], kind="stable")
    rows = [int(found.conditions[row]) for row in order]
    # Trials are told from each other by number: which events got lost says nothing to a reader.
    notes = [note for note in found.notes if "No epoch is left" not in note]
    return np.ascontiguousarray(volts[order], np.float32), rows, found.interpolated, notes


def _epochs_of(trials: list[Trial], recording: Recording) -> Recording:
    """Choose a file's epochs that trials name, each as an event of its own."""
    for trial in trials:
        if trial.unit != "epoch" or trial.at >= len(recording.volts):
            raise InputError(
                f"{trial.line}: {trial.file.name} holds {len(recording.volts)} epochs; give the "
                "column epoch, from 0."
            )
    volts = recording.volts[[int(trial.at) for trial in trials]]
    return replace(recording, volts=volts, events=[str(row) for row in range(len(trials))])


# ---------------------------------------------------------------- conditions and repetitions


@dataclass(frozen=True)
class _Layout:
    """Which trials become which condition."""

    train: list[tuple[str, str]]  # (id, concept) of each training condition
    test: list[tuple[str, str]]
    rows: dict[str, dict[str, list[list[int]]]]  # subject → split → rows of each condition's trials
    notes: list[str]


def _layout(
    trials: dict[str, list[Trial]],
    split: Split,
    average: bool,
) -> _Layout:
    """Choose conditions that all subjects have, with equally many trials.

    Galleries are the same for all subjects, so that row i is the same picture (with `classify`: the
    same concept) for each of them.
    """
    notes = []
    conditions: dict[str, list[tuple[str, str]]] = {}
    found: dict[str, dict[str, dict[tuple[str, str], list[int]]]] = {s: {} for s in trials}
    for side in ("train", "test"):
        for label, own in trials.items():
            of = found[label][side] = {}
            for row, trial in enumerate(own):
                if trial.split == side:
                    name = trial.concept if split.classify else trial.picture
                    of.setdefault((name, trial.concept), []).append(row)
            for name, chosen in of.items():
                _shuffle(chosen, split.seed, label, name[0])
        every = set().union(*(found[label][side] for label in trials))
        common = set.intersection(*(set(found[label][side]) for label in trials))
        if len(common) < 2:
            raise InputError(
                f"{len(common)} {side} conditions were shown to all subjects, two are needed; "
                "prepare the subjects by themselves."
            )
        if lost := len(every) - len(common):
            notes.append(f"{lost} {side} conditions that not all subjects saw are left out.")
        # By concept, so that pictures of one stand together.
        conditions[side] = sorted(common, key=lambda pair: (pair[1], pair[0]))
    rows: dict[str, dict[str, list[list[int]]]] = {label: {} for label in trials}
    least = min(len(found[s]["test"][c]) for s in trials for c in conditions["test"])
    train = conditions["train"]
    if split.classify:
        # As many trials of a concept as every subject has; each is a condition.
        counts = {c: min(len(found[s]["train"][c]) for s in trials) for c in conditions["train"]}
        train = [(f"{name}/{k + 1}", c) for (name, c), n in counts.items() for k in range(n)]
        said = ", ".join(f"{n} of {name}" for (name, _), n in counts.items())
        notes.append(f"Training trials, each a condition: {said}.")
    for label in trials:
        of = found[label]
        rows[label]["test"] = [of["test"][c][:least] for c in conditions["test"]]
        if split.classify:
            rows[label]["train"] = [[row] for c in counts for row in of["train"][c][: counts[c]]]
        else:
            fewest = min(len(of["train"][c]) for c in conditions["train"])
            count = None if average else fewest
            rows[label]["train"] = [of["train"][c][:count] for c in conditions["train"]]
            several = "their mean" if average else f"{fewest} trials"
            notes.append(f"Subject {label}: {len(train)} training pictures, {several} each.")
        for side in ("train", "test"):
            there = sum(trial.split == side for trial in trials[label])
            used = sum(map(len, rows[label][side]))
            if used < there:
                way = " (--average keeps them)" if side == "train" and not split.classify else ""
                notes.append(
                    f"Subject {label}: {there - used} of {there} {side} trials are left out, as "
                    f"all conditions need equally many{way}."
                )
    kind = "concepts" if split.classify else "pictures"
    notes.append(f"Test: {len(conditions['test'])} {kind}, {least} repetitions each.")
    return _Layout(train, conditions["test"], rows, notes)


def _shuffle(rows: list[int], seed: int, label: str, name: str) -> None:
    """Put a condition's trials in an order that doesn't follow time, the same each time."""
    key = [seed, *label.encode(), 0, *name.encode()]
    np.random.default_rng(key).shuffle(rows)


def _write_subject(
    place: Path, cut: _Cut, rows: dict[str, list[list[int]]], average: bool, split: Split
) -> dict:
    """Whiten and write a subject's trials; return what ``meta.json`` says of them."""
    whitening, about = _whitening(cut)
    sessions = list(whitening)
    matrices = np.stack([whitening[session] for session in sessions])
    which = np.array([sessions.index(trial.session) for trial in cut.trials])

    def whitened(chosen: list[int]) -> np.ndarray:
        return matrices[which[chosen]] @ cut.volts[chosen].astype(float)

    counts = [len(chosen) for chosen in rows["train"]]
    averaged = average and not split.classify
    for side, conditions in rows.items():
        per = 1 if side == "train" and averaged else len(conditions[0])
        shape = len(conditions), per, *cut.volts.shape[1:]
        with new_array(place / f"{side}.safetensors", shape, np.float32) as array:
            for row, chosen in enumerate(conditions):
                trials = whitened(chosen)
                array[row] = trials.mean(0) if side == "train" and averaged else trials
    if averaged:
        # The mean noise of such averages is that of one over so many (harmonic mean).
        about["train_repetitions_averaged"] = round(1 / np.mean(1 / np.array(counts)))
    return about


def _whitening(cut: _Cut) -> tuple[dict[str, np.ndarray], dict]:
    """Return Σ^(−1/2) of each session, from its training trials alone.

    A session without training trials takes those of all the subject's others.
    """
    by_session: dict[str, list[int]] = {}
    for row, trial in enumerate(cut.trials):
        rows = by_session.setdefault(trial.session, [])
        if trial.split == "train":
            rows.append(row)
    covariance, counts = {}, Counter({s: len(rows) for s, rows in by_session.items()})
    for session, rows in by_session.items():
        parts = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        sums = [len(part) * shrunk_covariance(cut.volts[part]) for part in parts]
        covariance[session] = sum(sums) if sums else None
    known = [session for session, n in counts.items() if n]
    if not known:
        raise InputError(f"Subject {cut.trials[0].subject} has no training trial left.")
    pooled = sum(covariance[session] for session in known) / sum(counts.values())
    matrices = {}
    for session in sorted(by_session):
        of = covariance[session] / counts[session] if counts[session] else pooled
        variance = np.diag(of)
        if (flat := variance <= 1e-12 * np.median(variance)).any():
            raise InputError(
                f"Channel {int(flat.argmax()) + 1} of subject {cut.trials[0].subject} is flat in "
                f"session {session!r}; mark it as bad or leave the recording out."
            )
        matrices[session] = whitening_matrix(of)
    others = sorted(set(by_session) - set(known))
    return matrices, {"whitened_by_other_sessions": others} if others else {}


# ---------------------------------------------------------------- galleries


def orthogonal(count: int) -> np.ndarray:
    """Return vectors at right angles to each other, (count, dim), float32, of unit norm.

    Their entries sum to zero, as the outputs of NICE's final layer normalisation do at first.
    """
    from scipy.linalg import hadamard

    dim = max(16, 1 << count.bit_length())  # a power of 2 above count
    return (hadamard(dim)[1 : count + 1] / np.sqrt(dim)).astype(np.float32)


def _write_galleries(
    folder: Path, layout: _Layout, split: Split, shown: dict[str, str], licence: str
) -> dict:
    """Write both galleries; those of pictures get their embeddings from `nice_demo.embed`."""
    image_model = ORTHOGONAL if split.classify else NOT_YET
    for side, conditions in (("train", layout.train), ("test", layout.test)):
        names = readable_names([concept for _, concept in conditions])
        if not split.classify:  # several pictures of a concept need names of their own
            count = Counter(names)
            names = [
                f"{name} ({PurePosixPath(picture).stem})" if count[name] > 1 else name
                for name, (picture, _) in zip(names, conditions, strict=True)
            ]
        candidates = [
            Candidate(
                picture,
                concept,
                name,
                picture=shown.get(picture),
                licence=licence if picture in shown else "",
            )
            for (picture, concept), name in zip(conditions, names, strict=True)
        ]
        if split.classify:
            vectors = orthogonal(len(layout.test))
            order = [concept for _, concept in layout.test]
            embeddings = vectors[[order.index(concept) for _, concept in conditions]]
        else:
            embeddings = np.empty((len(candidates), 0), np.float32)
        protocol = "trained concepts" if split.classify else "stimulus"
        gallery = Gallery(candidates, embeddings, image_model, protocol)
        gallery.save(folder / f"{side}_gallery")
    return image_model


def _preparation(signal: Signal, split: Split, average: bool) -> dict:
    return {
        "origin": ORIGIN,
        "sfreq": signal.sfreq,
        "epoch": [signal.tmin, signal.tmax],
        "baseline": [signal.tmin, 0.0] if signal.baseline else None,
        "kept": [0.0, round(float(signal.times[-1]), 6)],
        "filter": [signal.low, signal.high],
        "notch": signal.notch,
        "reference": signal.reference,
        "reject": signal.reject,
        "whitening": "each session, Ledoit-Wolf of each epoch, training trials only",
        "conditions": CONCEPTS if split.classify else PICTURES,
        "training_trials": "averaged" if average else "single",
        "seed": split.seed,
    }


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class Opened:
    """A recording whose header was read.

    Attributes
    ----------
    channels : list of str
        Of EEG.
    bads : list of str
        Those of them that are marked as bad.
    load : callable
        Reads the samples: returns the `Recording`.
    """

    channels: list[str]
    bads: list[str]
    load: Callable[[], Recording]

    @classmethod
    def by_mne(cls, inst, name: str) -> "Opened":
        """Take what MNE opened.

        Parameters
        ----------
        inst : mne.io.BaseRaw or mne.BaseEpochs
        name : str
            Of the file.

        Raises
        ------
        InputError
            Where it has no EEG.
        """
        try:
            inst = inst.pick("eeg", exclude=[])
        except ValueError:
            raise InputError(f"{name} has no channel of EEG; mark them as such.") from None

        def load() -> Recording:
            try:
                volts = inst.get_data().astype(np.float32)
            except Exception as error:  # whatever a reader makes of a damaged file
                raise InputError(f"{name} can't be read ({one_line(error)[:300]}).") from None
            what = name, "by MNE", volts, list(inst.ch_names), float(inst.info["sfreq"])
            if volts.ndim == 3:
                return Recording(*what, tmin=float(inst.times[0]))
            return Recording(*what, bad=bad_stretches(inst))

        return cls(list(inst.ch_names), list(inst.info["bads"]), load)


def open_file(path: Path) -> Opened:
    """Open a recording: any format that MNE knows, continuous or epochs; .npz and .safetensors.

    Raises
    ------
    InputError
        Where it can't be read.
    """
    import mne

    if path.suffix.lower() in (".npz", ".safetensors"):
        from nice_demo.sources.recordings.files import open_recording

        recording = open_recording([path])
        return Opened(recording.channels, [], lambda: recording)
    try:
        if path.name.endswith(("epo.fif", "epo.fif.gz")):
            inst = mne.read_epochs(path, preload=True, verbose="error")
        else:
            try:
                inst = mne.io.read_raw(path, preload=False, verbose="error")
            except TypeError:  # how MNE says that an EEGLAB file holds epochs
                inst = mne.read_epochs_eeglab(path, verbose="error")
    except Exception as error:  # whatever a reader makes of a damaged file
        raise InputError(f"{path} can't be read ({one_line(error)[:300]}).") from None
    return Opened.by_mne(inst, path.name)
