"""Train encoders on a data folder and write a bundle.

    python -m nice_demo.train                                   the phantom bundle that ships
    python -m nice_demo.train --data data/things-eeg2 --out weights/things-eeg2
    python -m nice_demo.train --data … --leave-one-subject-out  train on the other subjects
    python -m nice_demo.train … --encoder nice,nice-sa          several; the page opens on the first
    python -m nice_demo.train … --resume                        go on after an interruption
    torchrun --nproc-per-node 8 -m nice_demo.train …            in several processes, such as GPUs

With --data, the defaults are the paper's settings (Song et al., ICLR 2024): Adam 2e-4, betas
(0.5, 0.999), batch 1000, 200 epochs, logit scale 1/0.07, checkpoint of least validation loss.
Unlike the paper, validation holds out whole *concepts* of the training pictures, so that selection
measures what the test measures. Without --data, the phantom is prepared in data/phantom and
trained in few epochs: smaller batches and larger steps, Muon for the convolutions and weights that
decay (`PHANTOM` and `PHANTOM_EPOCHS` in `nice_demo.settings`).

With --leave-one-subject-out, each subject's encoder is trained on the pooled training trials of all
others, validated on their held-out concepts and tested on that subject. The test pictures are the
same for all subjects, but they are in no subject's training trials (that is checked, by concept),
and the others' test recordings are never opened.

On a GPU the runs of an encoder are trained together, as many as its memory holds, mostly in
bfloat16 (`nice_demo.together`); --together 1 trains one after the other in single precision. (Not
yet run on a GPU.) On a CPU one after the other is faster.

Under PyTorch's torchrun, each process takes the next run (subject, encoder, seed) that nobody has
taken: on its own GPU if there are any, else on its share of the cores. With
--leave-one-subject-out, all train one run together instead, each on its part of every batch; batch
statistics and negatives are those of the whole batch, as in one process. Where a process ends, all
do, and --resume goes on, with any number of processes. Several machines (--nnodes) must see the
same --data and --out. (Tested on CPUs of one machine; not yet on several GPUs or machines.)

EEG and picture embeddings flow in (`nice_demo.eegset`), a bundle flows out (`nice_demo.bundle`).
"""

import argparse
import json
import math
import os
import shutil
import sys
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nice_demo import ranks
from nice_demo.assemble import assemble, pictures_of
from nice_demo.bundle import MANIFEST, OTHER_SUBJECTS, SAME_SUBJECT, open_centres
from nice_demo.eegset import DataSet, EEGSet
from nice_demo.encoders import ENCODERS, embed, halved, save_encoder
from nice_demo.errors import InputError
from nice_demo.files import complete_file, read_json, sha256, write_json
from nice_demo.prepare import numbers, prepare_phantom
from nice_demo.retrieval import PROTOCOLS, metrics, similarity
from nice_demo.settings import PAPER, PHANTOM, PHANTOM_EPOCHS, Settings
from nice_demo.together import Task, train_together
from nice_demo.training import Run, fit_ridge, train_encoder
from nice_demo.training_data import Trained, check_pool, fingerprint, other_subjects

TRAINED = [name for name in ENCODERS if name != "ridge"]  # which are trained by gradient


def _run(
    data: DataSet,
    trained_on: str,
    subject: int,
    settings: Settings,
    seed: int,
    device: torch.device,
    work: Path,
) -> None:
    """Train one encoder, measure it on the test set and leave the result in the work folder."""
    place, gallery = _place(work, subject, settings, seed), data.train_gallery
    trained = _trained(data, trained_on, subject)
    if _is_done(place, settings, trained):
        return
    concepts = [candidate.concept for candidate in gallery.candidates]
    joint = _jointly(trained_on, settings)
    if settings.encoder == "ridge":
        run = fit_ridge(trained, gallery.embeddings, concepts, settings, seed)
    else:
        run = train_encoder(
            trained, gallery.embeddings, concepts, settings, seed, device,
            place.with_suffix(".checkpoint"), _title(subject, settings, seed), joint,
        )  # fmt: skip
    if not joint or ranks.is_first():
        _leave(run, place, data, subject, settings, seed, trained)


def _run_together(
    data: DataSet,
    trained_on: str,
    tasks: list[tuple[int, Settings, int]],
    device: torch.device,
    work: Path,
    at_most: int | None,
) -> None:
    """Do as `_run` for several runs of one encoder, trained as one model (`nice_demo.together`)."""
    _, settings, _ = tasks[0]
    whose = {}
    for subject, _, seed in tasks:
        place, trained = _place(work, subject, settings, seed), _trained(data, trained_on, subject)
        if not _is_done(place, settings, trained):
            title = _title(subject, settings, seed)
            whose[Task(trained, seed, place.with_suffix(".checkpoint"), title)] = subject
    concepts = [candidate.concept for candidate in data.train_gallery.candidates]
    pictures = data.train_gallery.embeddings
    for task, run in train_together(list(whose), pictures, concepts, settings, device, at_most):
        subject, place = whose[task], task.checkpoint.with_suffix("")
        _leave(run, place, data, subject, settings, task.seed, task.eeg)


def _bunches(
    tasks: list[tuple[int, Settings, int]], at_most: int | None
) -> list[list[tuple[int, Settings, int]]]:
    """Cut runs into bunches that one process trains together: one of each encoder and process."""
    if at_most == 1:
        return [[task] for task in tasks]
    count, bunches = ranks.process_count(), []
    for wanted in dict.fromkeys(settings for _, settings, _ in tasks):
        alike = [task for task in tasks if task[1] == wanted]
        if wanted.encoder == "ridge":
            bunches += [[task] for task in alike]
        else:
            bunches += [alike[first::count] for first in range(min(count, len(alike)))]
    return bunches


def _place(work: Path, subject: int, settings: Settings, seed: int) -> Path:
    """Return the path, without its ending, of a run's files."""
    return work / f"sub-{subject:02d}_{settings.encoder}_seed-{seed}"


def _title(subject: int, settings: Settings, seed: int) -> str:
    return f"subject {subject}, {settings.encoder}, seed {seed}"


def _trained(data: DataSet, trained_on: str, subject: int) -> Trained:
    """Open what a subject's encoder is trained on."""
    if trained_on == OTHER_SUBJECTS:
        return other_subjects(data, subject)
    return data.training_set(subject)


def _is_done(place: Path, settings: Settings, trained: Trained) -> bool:
    """Whether an earlier, interrupted training came as far as this run's end.

    Raises
    ------
    InputError
        Where that run was another.
    """
    if not place.with_suffix(".json").exists():
        return False
    done = read_json(place.with_suffix(".json"))
    now = json.loads(json.dumps(asdict(settings))), fingerprint(trained)
    if (done["settings"], done["data"]) != now:
        raise InputError(
            f"{place}.json was trained with other settings or data; "
            "give the same ones, or --restart to discard it."
        )
    return True


def _leave(
    run: Run,
    place: Path,
    data: DataSet,
    subject: int,
    settings: Settings,
    seed: int,
    trained: Trained,
) -> None:
    """Measure a run on the test set and write its result."""
    eeg = data.subject(subject)
    result = {
        "subject": str(subject),
        "encoder": settings.encoder,
        "seed": seed,
        "settings": asdict(settings),
        "data": fingerprint(trained),
        "best_epoch": run.best_epoch,
        "history": run.history,
        "selected": _test(run.selected, eeg, data),
        "final": _test(run.final, eeg, data),
    }
    save_encoder(run.selected, place.with_suffix(".safetensors"))
    with complete_file(place.with_suffix(".json")) as part:
        part.write_text(json.dumps(result))


def _jointly(trained_on: str, settings: Settings) -> bool:
    """Whether all processes train a run together; else each has its own."""
    pooled = trained_on == OTHER_SUBJECTS and settings.encoder != "ridge"
    return pooled and ranks.process_count() > 1


def _check_data(data: DataSet, work: Path) -> None:
    """Check that an interrupted training had the same pictures; note those of a new one.

    What a run has of its own, settings and EEG, it is told apart by itself.
    """
    names = ["train_gallery.json", "train_gallery.safetensors", "test_gallery.safetensors"]
    if (data.folder / "test_centres.json").exists():
        names.append("test_centres.safetensors")
    now = {name: sha256(data.folder / name) for name in names}
    note = work / "pictures.json"
    if note.exists() and read_json(note) != now:
        raise InputError(
            f"The pictures or their embeddings in {data.folder} have changed since the training in "
            f"{work} was interrupted; prepare them as they were, or give --restart to discard it."
        )
    write_json(note, now)


def _test(encoder: nn.Module, eeg: EEGSet, data: DataSet) -> list[dict]:
    """Measure an encoder, rounded as it is stored, at one and at all test repetitions."""
    encoder, results = halved(encoder), []
    centres = open_centres(data.folder / "test_centres", data.test_gallery)
    galleries = [data.test_gallery, centres] if centres else [data.test_gallery]
    for repetitions in sorted({eeg.test_repetitions[0], eeg.test_repetitions[-1]}):
        embeddings = embed(encoder, torch.from_numpy(eeg.evoked(repetitions)))
        for gallery in galleries:
            similarities = similarity(embeddings.numpy(), gallery.embeddings, gallery.keeps_norms)
            found = metrics(
                similarities,
                np.arange(len(gallery)),
                protocol=gallery.protocol,
                repetitions=repetitions,
            ).to_json()
            kept = ("protocol", "ways", "repetitions", "top1", "top5")
            results.append({name: found[name] for name in kept})
    return results


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("There is no CUDA device here; leave --device out to train on the CPU.")
    if name == "cuda" and ranks.process_count() > 1:
        number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= gpus:
            raise InputError(f"There are fewer GPUs here than processes; --nproc-per-node {gpus}.")
        torch.cuda.set_device(number)
        name = f"cuda:{number}"
    try:
        return torch.device(name)
    except RuntimeError:
        raise InputError(f"There is no device {name!r}; give auto, cpu or cuda.") from None


def _encoders(text: str) -> list[str]:
    """Read a list such as "nice,nice-sa"; for argparse."""
    names = text.split(",")
    for name in names:
        if name == "ridge":
            raise argparse.ArgumentTypeError(
                "ridge is always fitted beside the others; leave it out"
            )
        if name not in TRAINED:
            raise argparse.ArgumentTypeError(
                f"there is no encoder {name!r}; give some of {','.join(TRAINED)}"
            )
        if names.count(name) > 1:
            raise argparse.ArgumentTypeError(f"{name!r} stands there twice; give it once")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m nice_demo.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="data folder (default: the phantom's)")
    parser.add_argument("--out", type=Path, help="the bundle (default: weights/NAME)")
    parser.add_argument("--subjects", type=numbers, help="such as 1-3,7 (default: all, 1-10)")
    parser.add_argument(
        "--leave-one-subject-out",
        action="store_true",
        help="train each of --subjects' encoders on all other subjects of the data folder",
    )
    parser.add_argument("--seeds", type=numbers, default=[1], help="such as 1-3; the first ships")
    parser.add_argument(
        "--encoder",
        type=_encoders,
        metavar="NAMES",
        help=f"some of {','.join(TRAINED)}; the page opens on the first, and ridge is fitted "
        "beside them (default: all for the phantom, nice with --data)",
    )
    for name in ("epochs", "batch"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction)
    parser.add_argument("--schedule", choices=["constant", "one-cycle"])
    parser.add_argument("--validation", choices=["concepts", "conditions"])
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--learnable-scale", action="store_true", default=None)
    parser.add_argument("--single-trials", action="store_true", default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs at once on a CPU, a core each; at the end, subjects",
    )
    parser.add_argument(
        "--together",
        type=int,
        metavar="N",
        help="up to N runs of an encoder at once, as one model (default: on a GPU as many as its "
        "memory holds, on a CPU 1)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted training")
    parser.add_argument("--restart", action="store_true", help="discard an interrupted training")
    return parser


@ranks.command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.train``."""
    options = ranks.parse(_parser(), argv)
    settings, device = _settings(options), _device(options.device)
    folder = options.data or Path("data/phantom")
    if not options.data:
        wanted = None if options.leave_one_subject_out else options.subjects
        if ranks.is_first():
            prepare_phantom(folder, wanted or list(range(1, 11)))
        ranks.wait_for_all("prepared")
    data = DataSet.open(folder)
    subjects = sorted(options.subjects or data.subjects)
    _check_subjects(data, subjects)
    if data.test_gallery.protocol == "trained concepts":
        if options.leave_one_subject_out:
            raise InputError(
                f"{folder} was prepared with --classify, trial by trial; prepare it without to "
                "leave subjects out."
            )
        if settings.validation == "concepts":
            raise InputError(
                f"The candidates of {folder} are concepts that are trained on, so none can be held "
                "out; give --validation conditions."
            )
    trained_on, name = SAME_SUBJECT, data.description["name"]
    if options.leave_one_subject_out:
        check_pool(data)
        if settings.batch < ranks.process_count():
            raise InputError("--batch is smaller than the number of processes; give fewer.")
        trained_on, name = OTHER_SUBJECTS, f"{name}-leave-one-subject-out"
    out = options.out or Path("weights") / name

    if out.exists() and not (out / MANIFEST).exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out} is there and isn't a bundle; give another --out.")
    work = out.resolve().parent / f".{out.resolve().name}.training"
    if ranks.is_first():
        _open_work(work, options)
        _check_data(data, work)
    ranks.wait_for_all("begun")
    if not work.exists():
        raise InputError(f"{work} isn't on all machines; give an --out that they share.")
    tasks = [
        (subject, _of_encoder(encoder, settings, options), seed)
        for seed in options.seeds
        for encoder in options.encoder or (["nice"] if options.data else TRAINED)
        for subject in subjects
    ]
    ridge = replace(settings, encoder="ridge")
    tasks += [(subject, ridge, options.seeds[0]) for subject in subjects]
    _train_all(data, trained_on, tasks, device, work, options.jobs, options.together)
    ranks.wait_for_all("trained")
    if ranks.is_first():
        _finish(data, tasks, trained_on, work, out, options.jobs)
    ranks.wait_for_all("finished")
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    """Return the settings of all runs, but for the encoder.

    Raises
    ------
    InputError
        Where an option can't be, or doesn't go with another.
    """
    given = {
        k: v
        for k, v in vars(options).items()
        if k in Settings.__dataclass_fields__ and k != "encoder" and v is not None
    }
    settings = replace(PAPER if options.data else PHANTOM, **given)
    if settings.epochs < 1 or settings.batch < 2 or not 0 < settings.lr < math.inf:
        raise InputError("Training needs --epochs of at least 1, --batch of 2, and --lr above 0.")
    if not 0 <= settings.lr * settings.weight_decay < 1:
        raise InputError("--weight-decay times --lr must be below 1, and not less than 0.")
    if not 0 <= settings.dropout < 1:
        raise InputError("--dropout is a probability: give a number from 0 to below 1.")
    if options.jobs < 1:
        raise InputError("--jobs is how many runs go on at once: give 1 or more.")
    if options.jobs > 1 and ranks.process_count() > 1:
        raise InputError("--jobs is for one process; under torchrun, leave it out.")
    if options.together is not None and options.together < 1:
        raise InputError("--together is how many runs are trained as one model: give 1 or more.")
    if options.jobs > 1 and (options.together or 1) > 1:
        raise InputError("--jobs and --together are two ways to train several runs; give one.")
    return settings


def _of_encoder(encoder: str, settings: Settings, options: argparse.Namespace) -> Settings:
    """Return an encoder's own settings: its epochs too, where they weren't given."""
    settings = replace(settings, encoder=encoder)
    if options.data or options.epochs:
        return settings
    return replace(settings, epochs=PHANTOM_EPOCHS.get(encoder, settings.epochs))


def _check_subjects(data: DataSet, subjects: list[int]) -> None:
    """Say whatever is wrong with the data before training begins."""
    if not subjects:
        raise InputError(f"No subject is prepared in {data.folder}; prepare one first.")
    averages = set()
    for subject in subjects:
        eeg = data.subject(subject)
        averages.add(tuple(eeg.test_repetitions))
        if eeg.meta["unit"] == "V":
            raise InputError(
                f"The EEG of subject {subject} in {data.folder} is in V, too small for training "
                "in half precision; prepare it whitened or in µV."
            )
        del eeg  # else its pages would count when the next is open
    if len(averages) > 1:
        raise InputError(
            f"The subjects in {data.folder} have different numbers of test repetitions; "
            "train those with the same number together."
        )
    open_centres(data.folder / "test_centres", data.test_gallery)
    pictures_of(data)


def _train_all(
    data: DataSet,
    trained_on: str,
    tasks: list[tuple[int, Settings, int]],
    device: torch.device,
    work: Path,
    jobs: int,
    together: int | None,
) -> None:
    """Train all runs: jointly, by one process after the other, as one model, or several at once."""
    if device.type == "cpu" and together is None:
        together = 1
    if jobs > 1 and device.type == "cpu":
        from joblib import Parallel, delayed

        from nice_demo.train import _run as run  # by its module's name, which __main__ hides

        Parallel(jobs)(delayed(run)(data, trained_on, *task, device, work) for task in tasks)
        return
    joint = [task for task in tasks if _jointly(trained_on, task[1])]
    single = [task for task in tasks if task not in joint]
    bunches = [[task] for task in joint], ranks.share(_bunches(single, together))
    for bunch in chain(*bunches):
        _, wanted, _ = bunch[0]
        if together == 1 or wanted.encoder == "ridge" or _jointly(trained_on, wanted):
            _run(data, trained_on, *bunch[0], device, work)
        else:
            _run_together(data, trained_on, bunch, device, work, together)


def _open_work(work: Path, options: argparse.Namespace) -> None:
    """Make the folder of a training, or find that of an interrupted one."""
    if options.restart:
        shutil.rmtree(work, ignore_errors=True)
    if work.exists() and any(work.iterdir()) and not options.resume:
        raise InputError(
            f"An interrupted training lies in {work}; give --resume to go on with it, "
            "or --restart to discard it."
        )
    work.mkdir(parents=True, exist_ok=True)


def _finish(
    data: DataSet,
    tasks: list[tuple[int, Settings, int]],
    trained_on: str,
    work: Path,
    out: Path,
    jobs: int,
) -> None:
    """Make the bundle of all runs, and say how well they decode."""
    runs = [
        json.loads((work / f"sub-{s:02d}_{settings.encoder}_seed-{seed}.json").read_text())
        for s, settings, seed in tasks
    ]
    assemble(data, runs, trained_on, work, out, jobs)
    shutil.rmtree(work)
    print(_summary(runs, trained_on, out))


def _summary(runs: list[dict], trained_on: str, out: Path) -> str:
    def accuracies(found: dict) -> str:
        return " / ".join(
            f"{100 * top['value']:.1f} ({100 * top['low']:.1f} to {100 * top['high']:.1f})"
            for top in (found["top1"], found["top5"])
        )

    lines = [f"{out}: trained on {trained_on}"]
    for protocol in dict.fromkeys(found["protocol"] for found in runs[0]["selected"]):
        measured = [
            (run, selected, final)
            for run in runs
            for selected, final in zip(run["selected"], run["final"], strict=True)
            if selected["protocol"] == protocol
        ]
        first = measured[0][1]
        lines += [
            f"{first['ways']}-way retrieval, {protocol} protocol: {PROTOCOLS[protocol]}",
            "top-1 / top-5 in % of the test pictures, Wilson 95 % intervals: of the selected epoch "
            "(it ships); of the final one",
        ]
        lines += [
            f"  subject {run['subject']:>2}  {run['encoder']:<8} seed {run['seed']}  "
            f"repetitions {selected['repetitions']:>2}  {accuracies(selected)}; {accuracies(final)}"
            for run, selected, final in measured
        ]
        chance = (100 * first[top]["chance"] for top in ("top1", "top5"))
        lines.append("  chance " + " / ".join(f"{share:.1f}" for share in chance))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
