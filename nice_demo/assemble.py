"""From training runs to a bundle, in one step."""

import platform
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from nice_demo.bundle import OTHER_SUBJECTS, Bundle, write_manifest
from nice_demo.eegset import DataSet
from nice_demo.errors import InputError
from nice_demo.files import complete_folder
from nice_demo.pictures import picture_file

_OWN = {"encoders", "trials", "truth"}  # folders of a bundle
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


def assemble(data: DataSet, runs: list[dict], trained_on: str, work: Path, out: Path) -> None:
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
        for name, picture in pictures_of(data).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, folder / name)
        shutil.copyfile(data.folder / "montage.safetensors", folder / "montage.safetensors")
        for name in ("encoders", "trials", "truth"):
            (folder / name).mkdir()
        encoders: dict[str, dict] = {subject: {} for subject in subjects}
        for run in runs:
            if run["seed"] != seed:
                continue
            name = f"sub-{int(run['subject']):02d}_{run['encoder']}"
            shutil.copyfile(
                work / f"{name}_seed-{seed}.safetensors", folder / f"encoders/{name}.safetensors"
            )
            encoders[run["subject"]][run["encoder"]] = {
                "file": f"encoders/{name}.safetensors",
                "seed": seed,
                "settings": run["settings"],
                "best_epoch": run["best_epoch"],
            }
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
        bundle = Bundle(folder)
        manifest["metrics"] = [
            {"subject": subject, "encoder": encoder, "metrics": found.to_json()}
            for subject in tqdm(subjects, "measuring the bundle", unit="subject")
            for encoder, by_repetitions in bundle.measure(subject).items()
            for found in by_repetitions
        ]
        write_manifest(folder, manifest)
