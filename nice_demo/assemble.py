"""From training runs to a bundle, in one step."""

import platform
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from itertools import chain, combinations, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from nice_demo.bundle import OTHER_SUBJECTS, Bundle, write_manifest
from nice_demo.calibration import at_more_repetitions, shared_variance, temperature
from nice_demo.eegset import DataSet, TrainingSet
from nice_demo.encoders import embed, open_encoder
from nice_demo.errors import InputError
from nice_demo.files import complete_folder
from nice_demo.gallery import IMAGE_MODEL
from nice_demo.pictures import picture_file
from nice_demo.retrieval import similarity
from nice_demo.settings import Settings, held_out
from nice_demo.training_data import other_subjects

Said = TypeVar("Said")
SPLITS = 3  # halvings of the training trials; four can be halved in so many ways
_OWN = {"encoders", "trials", "truth", "analyses"}  # folders of a bundle
_SAID_ELSEWHERE = {"subject", "channels", "sfreq", "tmin", "test_repetitions"}


def pictures_of(data: DataSet) -> dict[str, Path]:
    """Return the files of the candidates' pictures, by what they are called in a bundle.

    Graphics of a package stay there, and a picture that isn't there is left out.

    Raises
    ------
    InputError
        Where a candidate names a file outside the data folder, or one that a bundle has itself.
    """
    found = {}
    for candidate in data.test_gallery.candidates:
        file = picture_file(candidate, data.folder)
        if file and file.is_relative_to(data.folder.resolve()):
            name = Path(candidate.picture)
            if name.suffix in (".json", ".safetensors") or name.parts[0] in _OWN:
                raise InputError(
                    f"The picture of {candidate.id!r} is {str(name)!r}, a name that bundles use "
                    "themselves; keep the pictures in a folder such as pictures/."
                )
            found[candidate.picture] = file
    return found


# ---------------------------------------------------------------- confidence


@lru_cache(maxsize=10)  # several encoders, and left-out subjects, need the same
def _held_out_trials(folder: Path, conditions: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Return training trials of some conditions, and how many repetitions are in each.

    A phantom's data folder has averages only; its single trials are generated again, so that as
    much is known of them as of a real recording's. The latter are read as they are needed.

    Returns
    -------
    trials : array of shape (n_conditions, n_repetitions, n_channels, n_times)
    averaged : int
    """
    eeg = TrainingSet.open(folder)
    if (folder / "phantom.safetensors").exists():
        source = import_module("nice_demo.sources.phantom.held_out")  # needs MNE
        return source.single_trials(folder, np.array(conditions)), 1
    return np.array(eeg.train[list(conditions)]), eeg.meta.get("train_repetitions_averaged", 1)


def one_of_each(concepts: list[str]) -> list[np.ndarray]:
    """Make sets of pictures with one of each concept, so that they differ as test pictures do.

    Returns
    -------
    list of arrays of int
        The first picture of each concept, the second of each that has two, and so on; sets of
        fewer than two are left out.
    """
    count: dict[str, int] = {}
    place = []
    for concept in concepts:
        place.append(count.get(concept, 0))
        count[concept] = place[-1] + 1
    sets = [np.flatnonzero(np.array(place) == k) for k in range(max(place, default=-1) + 1)]
    return [one for one in sets if len(one) > 1]


def fit_temperatures(
    embed: Callable[[np.ndarray], np.ndarray],
    trials: list[np.ndarray],
    averaged: int,
    concepts: list[str],
    pictures: np.ndarray,
    repetitions: list[int],
) -> dict:
    """Fit an encoder's temperatures on pictures that it was not trained on.

    Parameters
    ----------
    embed : callable
        EEG (n_trials, n_channels, n_times) → embeddings (n_trials, dim).
    trials : list of arrays of shape (n_pictures, n_repetitions, n_channels, n_times)
        One for each subject whose trials it was trained on.
    averaged : int
        Repetitions that are in each trial already.
    concepts : list of str
    pictures : array of shape (n_pictures, dim)
        Embeddings.
    repetitions : list of int
        For which numbers of test repetitions temperatures are wanted.

    Returns
    -------
    dict
        What the manifest says of the encoder: "temperature" by number of repetitions, fitted for
        as many as there are in `trials`, and beyond them extrapolated
        (`nice_demo.calibration.at_more_repetitions`); "calibration", on what. Empty where there
        are no two concepts to tell apart.
    """
    sets = one_of_each(concepts)
    if not sets:
        return {}
    most = min(one.shape[1] for one in trials)

    def average(one: np.ndarray, which: list[int]) -> np.ndarray:
        return embed(one[:, which].mean(1, dtype=np.float32))

    fitted = {}
    for count in range(1, most + 1):
        embeddings = [average(one, list(range(count))) for one in trials]
        similarities = [
            similarity(rows[chosen], pictures[chosen]) for rows in embeddings for chosen in sets
        ]
        target = [np.arange(len(chosen)) for _ in trials for chosen in sets]
        fitted[count * averaged] = temperature(similarities, target)
    temperatures = {number: found.value for number, found in fitted.items()}
    half, shared = most // 2, None
    if half:
        # The first trial with each choice of others, against as many of the rest.
        ones = [(0, *more) for more in islice(combinations(range(1, most), half - 1), SPLITS)]
        rests = [[trial for trial in range(most) if trial not in one][:half] for one in ones]
        shared = float(
            np.mean([
                shared_variance(average(eeg, list(one)), average(eeg, rest))
                for eeg in trials
                for one, rest in zip(ones, rests, strict=True)
            ])
        )  # fmt: skip
        last = most * averaged
        for number in repetitions:
            if number > last:
                temperatures[number] = at_more_repetitions(
                    temperatures[last], last, number, shared, half * averaged
                )
    return {
        "temperature": {str(number): value for number, value in sorted(temperatures.items())},
        "calibration": {
            "concepts": len(sets[0]),
            "pictures": sum(map(len, sets)),
            "fitted": list(fitted),
            "at_bound": [number for number, found in fitted.items() if found.at_bound],
            "shared_variance": shared,
            "of_repetitions": half * averaged if half else None,
        },
    }


def _calibrate(
    data: DataSet, trained_on: str, run: dict, encoder: Path, repetitions: list[int]
) -> dict:
    """Fit the temperatures of an encoder that ships, as `fit_temperatures` returns them."""
    gallery, subject = data.train_gallery, int(run["subject"])
    concepts = [candidate.concept for candidate in gallery.candidates]
    held = np.flatnonzero(held_out(concepts, Settings(**run["settings"]), run["seed"]))
    if trained_on == OTHER_SUBJECTS:
        sets = other_subjects(data, subject)
    else:
        sets = [data.training_set(subject)]
    found = [_held_out_trials(eeg.folder, tuple(held.tolist())) for eeg in sets]
    if len({averaged for _, averaged in found}) > 1:
        return {}  # nothing to extrapolate from
    model = open_encoder(encoder)
    return fit_temperatures(
        lambda eeg: embed(model, torch.from_numpy(eeg)).numpy(),
        [trials for trials, _ in found],
        found[0][1],
        [concepts[row] for row in held],
        gallery.embeddings[held],
        repetitions,
    )


# ---------------------------------------------------------------- the bundle


def _at_once(jobs: int, task: Callable[..., Said], calls: list[tuple]) -> Iterator[Said]:
    """Yield what a task returns of each call, in order; of several jobs, each has its process."""
    if jobs == 1:
        return (task(*call) for call in calls)
    from joblib import Parallel, delayed  # which needn't be there where a GPU trains

    return Parallel(jobs, return_as="generator")(delayed(task)(*call) for call in calls)


def _ship(
    data: DataSet,
    trained_on: str,
    runs: list[dict],
    work: Path,
    folder: Path,
    repetitions: list[int],
) -> dict[str, dict]:
    """Copy a subject's encoders into the bundle; return what the manifest says of each."""
    said = {}
    for run in runs:
        name = f"sub-{int(run['subject']):02d}_{run['encoder']}"
        path = folder / f"encoders/{name}.safetensors"
        shutil.copyfile(work / f"{name}_seed-{run['seed']}.safetensors", path)
        said[run["encoder"]] = {
            "file": f"encoders/{name}.safetensors",
            "seed": run["seed"],
            "settings": run["settings"],
            "best_epoch": run["best_epoch"],
            **_calibrate(data, trained_on, run, path, repetitions),
        }
    return said


def _measure(folder: Path, subject: str) -> list[dict]:
    """Return the metrics of a subject's encoders as the manifest holds them."""
    return [
        {"subject": subject, "encoder": encoder, "metrics": found.to_json()}
        for encoder, by_repetitions in Bundle(folder).measure(subject).items()
        for found in by_repetitions
    ]


def assemble(
    data: DataSet, runs: list[dict], trained_on: str, work: Path, out: Path, jobs: int = 1
) -> None:
    """Put a bundle together and move it to its place in one step.

    Parameters
    ----------
    data : DataSet
    runs : list of dict
        What `_run` left of each; the first seed's encoders are the ones that ship.
    trained_on : str
        `nice_demo.bundle.SAME_SUBJECT` or `nice_demo.bundle.OTHER_SUBJECTS`.
    work : Path
        Folder of the runs' files.
    out : Path
        The bundle's folder; one that is there already is replaced.
    jobs : int
        Subjects at once, each in a process of its own.
    """
    seed = runs[0]["seed"]
    subjects = list(dict.fromkeys(run["subject"] for run in runs))
    sets = {subject: data.subject(int(subject)) for subject in subjects}
    first = sets[subjects[0]]
    simulated_on_demand = (first.folder / "phantom.safetensors").exists()
    with complete_folder(out) as folder:
        for ending in (".json", ".safetensors"):
            shutil.copyfile(data.folder / f"test_gallery{ending}", folder / f"gallery{ending}")
        if (data.folder / "test_centres.json").exists():
            for ending in (".json", ".safetensors"):
                shutil.copyfile(data.folder / f"test_centres{ending}", folder / f"centres{ending}")
        if (data.folder / IMAGE_MODEL).exists():
            shutil.copyfile(data.folder / IMAGE_MODEL, folder / IMAGE_MODEL)
        for name, picture in pictures_of(data).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, folder / name)
        shutil.copyfile(data.folder / "montage.safetensors", folder / "montage.safetensors")
        for name in ("encoders", "trials", "truth"):
            (folder / name).mkdir()
        of_subject = [
            [run for run in runs if (run["subject"], run["seed"]) == (subject, seed)]
            for subject in subjects
        ]
        shipping = _at_once(jobs, _ship, [
            (data, trained_on, own, work, folder, first.test_repetitions) for own in of_subject
        ])  # fmt: skip
        calibrating = tqdm(shipping, "calibrating", len(subjects), unit="subject")
        encoders = dict(zip(subjects, calibrating, strict=True))
        _held_out_trials.cache_clear()
        for subject, eeg in sets.items():
            trials = folder / f"trials/sub-{int(subject):02d}.safetensors"
            if simulated_on_demand:
                shutil.copyfile(eeg.folder / "phantom.safetensors", trials)
                shutil.copyfile(eeg.folder / "truth.safetensors", folder / "truth" / trials.name)
            else:
                averages = np.stack([eeg.evoked(n) for n in eeg.test_repetitions], 1)
                save_file({"eeg": torch.from_numpy(averages).half()}, trials)
        manifest = {
            **{k: data.description[k] for k in ("name", "simulated", "source", "licences")},
            "subjects": subjects,
            "trained_on": trained_on,
            # Of these, each subject's encoders were trained on all but the subject.
            **({"pool": list(map(str, data.subjects))} if trained_on == OTHER_SUBJECTS else {}),
            "channels": first.channels,
            "sfreq": first.sfreq,
            "tmin": first.meta["tmin"],
            "preparation": data.description["preparation"],
            "recordings": {
                subject: {k: v for k, v in eeg.meta.items() if k not in _SAID_ELSEWHERE}
                for subject, eeg in sets.items()
            },
            "image_model": data.description["image_model"],
            "protocol": data.test_gallery.protocol,
            # Of the Hub, for the model card.
            "datasets": data.description.get("datasets", []),
            "checkpoint_rule": "least validation loss on held-out training pictures",
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": np.__version__,
            },
            "encoders": encoders,
            "trials": {
                "kind": "phantom" if simulated_on_demand else "averages",
                "repetitions": first.test_repetitions,
                "files": {s: f"trials/sub-{int(s):02d}.safetensors" for s in subjects},
            },
            "runs": [{k: v for k, v in run.items() if k != "settings"} for run in runs],
            "metrics": [],
        }
        write_manifest(folder, manifest)
        measured = _at_once(jobs, _measure, [(folder, subject) for subject in subjects])
        measuring = tqdm(measured, "measuring the bundle", len(subjects), unit="subject")
        manifest["metrics"] = list(chain.from_iterable(measuring))
        write_manifest(folder, manifest)
