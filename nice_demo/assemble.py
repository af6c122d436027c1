"""From training runs to a bundle, in one step."""

import platform
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from nice_demo.bundle import Bundle, write_manifest
from nice_demo.eegset import DataSet
from nice_demo.files import complete_folder
from nice_demo.pictures import picture_file

_SAID_ELSEWHERE = {"subject", "channels", "sfreq", "tmin", "test_repetitions"}


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
        for candidate in data.test_gallery.candidates:
            picture = picture_file(candidate, data.folder)
            if picture and picture.is_relative_to(data.folder.resolve()):  # no graphic of a package
                place = folder / candidate.picture
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(picture, place)
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
