"""Analyse what carries the information, and draw it.

    python -m nice_demo.analyse weights/phantom                    all analyses, all subjects
    python -m nice_demo.analyse weights/phantom --what time,space --subjects 1-3 --out DIR
    python -m nice_demo.analyse weights/phantom --store            put the results into the bundle

Each analysis writes DIR/NAME.safetensors and its figure as NAME.svg and NAME.png. What was computed
is kept in DIR/.cache and used again while bundle, data and code are the same.

Two questions can be asked of each part of the EEG: does *this* decoder use it (what is taken away
is set to zero at the test), and does it hold anything (a decoder is trained anew on it: ridge
regression, whose sums make it quick and exact). The second needs the training trials: --data, for
the phantom prepared in data/phantom if they aren't there.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nice_demo.analysis.series import (
    TOPS,
    Analysis,
    Found,
    Recording,
    Series,
    join,
    stored,
)
from nice_demo.bundle import MANIFEST, Bundle, write_manifest
from nice_demo.eegset import DataSet
from nice_demo.errors import InputError, command, one_line
from nice_demo.files import complete_folder, sha256
from nice_demo.prepare import numbers, prepare_phantom
from nice_demo.training_data import fingerprint

NAMES = (
    "time", "space", "frequency", "repetitions", "meaning", "transfer", "confidence", "truth"
)  # fmt: skip


# ---------------------------------------------------------------- one subject


@lru_cache(maxsize=1)  # a subject's test trials, the costly part, serve all its analyses
def _recording(bundle: Path, subject: str, data: Path | None) -> Recording:
    return Recording.open(Bundle(bundle), subject, data and DataSet.open(data))


def _subject(
    names: list[str], bundle: Path, subject: str, data: Path | None, cache: Path, made_of: str
) -> dict[str, str]:
    """Run analyses of one subject into the cache; return sentences of those that can't be had."""
    refused = {}
    for name in names:
        place = cache / name / f"sub-{subject}.safetensors"
        if Found.open(place, made_of) is not None:
            continue
        analysis = import_module(f"nice_demo.analysis.{name}")
        try:
            found = analysis.analyse(_recording(bundle, subject, data))
        except InputError as error:
            refused[name] = str(error)
        else:
            found.save(place, made_of)
    return refused


def _made_of(bundle: Bundle, data: DataSet | None) -> str:
    """Return one hash of all that results depend on: the bundle's files, the data, the code."""
    package = Path(__file__).parent
    folders = (".", "analysis", "bundle", "encoders", "sources/phantom")  # which makes its trials
    code = {path for folder in folders for path in (package / folder).glob("*.py")}
    code.remove(package / "analysis/drawing.py")
    said = {
        key: value
        for key, value in bundle.manifest.items()
        if key not in ("files", "metrics", "runs", "hub")
    }
    known = [_files(bundle), said, [sha256(path) for path in sorted(code)]]
    if data:
        known.append(fingerprint([data.training_set(subject) for subject in data.subjects]))
        known += [sha256(data.folder / f"train_gallery.{end}") for end in ("json", "safetensors")]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _files(bundle: Bundle) -> dict[str, str]:
    """Return the SHA-256 of a bundle's files that analyses start from."""
    return {
        name: entry["sha256"]
        for name, entry in bundle.manifest["files"].items()
        if not name.startswith("analyses/")
    }


# ---------------------------------------------------------------- all subjects


def analyse(
    bundle: Bundle,
    names: list[str],
    subjects: list[str],
    data: DataSet | None,
    cache: Path,
    jobs: int,
) -> tuple[dict[str, Analysis], dict[str, str]]:
    """Run analyses on all cores.

    Parameters
    ----------
    bundle : Bundle
    names : list of str
        Of `NAMES`.
    subjects : list of str
    data : DataSet or None
        Of the training trials; None: nothing is trained anew.
    cache : Path
        Folder; what lies there and is still right isn't computed again.
    jobs : int
        Subjects at once, or analyses where there are fewer subjects.

    Returns
    -------
    analyses : dict of str to Analysis
    refused : dict of str to str
        Why an analysis can't be had of this bundle.

    Raises
    ------
    InputError
        Where subjects have different encoders.
    """
    first, *others = subjects
    for other in others:
        if bundle.encoders(other) != bundle.encoders(first):
            raise InputError(
                f"Subjects {first} and {other} of {bundle.name} have different encoders, so that "
                "they can't be analysed together; give one of them as --subjects."
            )
    made_of = _made_of(bundle, data)
    each = [names] if len(subjects) >= jobs else [[name] for name in names]
    tasks = [
        (some, bundle.folder, subject, data and data.folder, cache, made_of)
        for subject in subjects
        for some in each
    ]
    refused: dict[str, str] = {}
    bar = tqdm(total=len(tasks) * len(each[0]), desc="analysing", unit="analysis")
    for said in _run(tasks, jobs):
        refused |= said
        bar.update(len(each[0]))
    bar.close()
    analyses = {}
    for name in names:
        if name in refused:
            continue
        found = {s: Found.open(cache / name / f"sub-{s}.safetensors", made_of) for s in subjects}
        if None in found.values():
            raise InputError(f"What was kept in {cache} was changed meanwhile; analyse again.")
        first = next(iter(found.values()))
        arrays = {
            key: np.stack([one.arrays[key] for one in found.values()]) for key in first.arrays
        }
        series = join({subject: one.series for subject, one in found.items()})
        about = {**first.about, "subjects": subjects, "simulated": bundle.simulated}
        analyses[name] = Analysis(name, series, arrays, about)
    return analyses, refused


def _run(tasks: list[tuple], jobs: int):
    """Yield the tasks' results as they come, from `jobs` processes."""
    if jobs == 1 or len(tasks) == 1:
        yield from (_subject(*task) for task in tasks)
        return
    from joblib import Parallel, delayed

    from nice_demo.analyse import _subject as run  # by its module's name, which __main__ hides

    yield from Parallel(jobs, return_as="generator_unordered")(delayed(run)(*t) for t in tasks)


def store(bundle: Bundle, analyses: dict[str, Analysis]) -> None:
    """Put analyses into a bundle, in one step; those of other names stay.

    Raises
    ------
    InputError
        Where the bundle is no longer the one that was analysed.
    """
    now = Bundle(bundle.folder.resolve())  # analysing takes long, and meanwhile others may store
    if _files(now) != _files(bundle):
        raise InputError(f"{bundle.folder} was changed meanwhile; analyse it again.")
    manifest = {key: value for key, value in now.manifest.items() if key != "files"}
    with complete_folder(now.folder) as folder:
        for name in now.manifest["files"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(now.file(name), folder / name)
        for name, analysis in analyses.items():
            analysis.save(folder / "analyses" / f"{name}.safetensors")
        write_manifest(folder, manifest)


# ---------------------------------------------------------------- the command


def _names(text: str) -> list[str]:
    names = list(NAMES) if text == "all" else text.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(
            f"there is no analysis {unknown[0]!r}; choose all, or some of {','.join(NAMES)}"
        )
    return list(dict.fromkeys(names))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m nice_demo.analyse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's folder")
    what = f"all, or some of {','.join(NAMES)}"
    parser.add_argument("--what", type=_names, default="all", metavar="NAMES", help=what)
    parser.add_argument("--out", type=Path, help="folder (default: data/analyses/NAME)")
    parser.add_argument("--subjects", type=numbers, help="such as 1-3,7 (default: all)")
    parser.add_argument("--data", type=Path, help="training trials (default: data/NAME)")
    parser.add_argument("--no-retraining", action="store_true", help="only decoders as they are")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--store", action="store_true", help="put the results into the bundle")
    return parser


def _of_name(parent: str, bundle: Bundle) -> Path:
    """Return the folder called as the bundle, whose name, of the Hub, may be anything."""
    if bundle.name in ("", ".", "..") or Path(bundle.name).name != bundle.name:
        raise InputError(f"No folder can be called {bundle.name!r}; give --out and --data.")
    return Path(parent) / bundle.name


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"Nothing can be written to {folder} ({one_line(error)}).") from None


def _data(bundle: Bundle, folder: Path | None) -> DataSet | None:
    """Open the training trials that go with a bundle; None, with a word, where there are none."""
    place = folder or _of_name("data", bundle)
    if bundle.manifest["trials"]["kind"] == "phantom" and folder is None:
        prepare_phantom(place, [int(subject) for subject in bundle.subjects])
    if folder is None and not (place / "dataset.json").exists():
        print(f"Nothing is trained anew: there are no training trials in {place}; give --data.")
        return None
    data = DataSet.open(place)
    if missing := sorted(set(map(int, bundle.subjects)) - set(data.subjects)):
        raise InputError(
            f"{place} lacks subject {missing[0]} of {bundle.name}; prepare it, or give "
            "--no-retraining."
        )
    if data.test_gallery.embeddings.shape != bundle.gallery.embeddings.shape or not np.allclose(
        data.test_gallery.embeddings, bundle.gallery.embeddings, atol=1e-6
    ):
        raise InputError(
            f"The test pictures of {place} aren't those of {bundle.name}; give the --data it was "
            "trained on, or --no-retraining."
        )
    return data


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.analyse``."""
    options = _parser().parse_args(argv)
    if options.jobs < 1:
        raise InputError("--jobs is how many analyses go on at once: give 1 or more.")
    bundle = Bundle(options.bundle)
    subjects = list(map(str, options.subjects)) if options.subjects else bundle.subjects
    for subject in subjects:
        bundle.encoders(subject)  # refuses one that isn't there
    if options.store and subjects != bundle.subjects:
        raise InputError("--store keeps analyses of all subjects; leave --subjects out.")
    out = options.out or _of_name("data/analyses", bundle)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder as --out.")
    data = None if options.no_retraining else _data(bundle, options.data)
    _check_writable(out)
    if options.store:
        _check_writable(options.bundle.resolve().parent)  # where it is put together
    analyses, refused = analyse(bundle, options.what, subjects, data, out / ".cache", options.jobs)
    for name, why in refused.items():
        print(f"{name}: {why}")
    if not analyses:
        raise InputError(f"None of the analyses {','.join(options.what)} can be had here.")

    from nice_demo.analysis.drawing import draw  # imports matplotlib

    for name, analysis in analyses.items():
        analysis.save(out / f"{name}.safetensors")
        draw(analysis, bundle, out)
        print(_summary(analysis))
    print(f"Results and figures are in {out}.")
    print(_compared(bundle, analyses))
    if options.store:
        store(bundle, analyses)
        print(f"{', '.join(analyses)}: stored in {bundle.folder}, whose {MANIFEST} is new.")
    return 0


def _compared(bundle: Bundle, analyses: dict[str, Analysis]) -> str:
    """Say whether the subjects' results equal those that the bundle holds."""
    lines = []
    for name, analysis in analyses.items():
        there = stored(bundle, name)
        if there is None:
            lines.append(f"{name}: the bundle holds none yet.")
        else:
            lines.append(f"{name}: {_difference(analysis, there)}")
    return "\n".join(lines)


def _difference(now: Analysis, there: Analysis) -> str:
    subjects = now.about["subjects"]
    named = [(one.name, one.encoder, one.how, one.axes) for one in now.series]
    held = [(one.name, one.encoder, one.how, one.axes) for one in there.series]
    if named != held or now.arrays.keys() != there.arrays.keys():
        return "holds other series than the bundle's."
    apart = [
        np.abs(one.accuracy(top, subject).value - other.accuracy(top, subject).value).max()
        for one, other in zip(now.series, there.series, strict=True)
        for top in TOPS
        for subject in subjects
    ]
    rows = [there.about["subjects"].index(subject) for subject in subjects]
    for key, array in now.arrays.items():
        one, other = array.astype(float), there.arrays[key].astype(float)[rows]
        if one.shape != other.shape:
            return "holds other figures than the bundle's."
        known = ~(np.isnan(one) & np.isnan(other))
        apart.append(np.nan_to_num(np.abs(one - other)[known], nan=np.inf).max(initial=0))
    largest = max(apart, default=0.0)
    same = "equals what the bundle holds" if largest == 0 else "differs from what the bundle holds"
    return f"{same} (largest difference of a subject's figure: {largest:.2g})."


def _summary(analysis: Analysis) -> str:
    """Return the means over subjects as text: of long axes the best point alone."""
    lines = [f"{analysis.name}{' (simulated EEG)' if analysis.about.get('simulated') else ''}"]
    for series in analysis.series:
        lines.append(f"  {series.name}, {series.encoder}, {series.how}: top-1 / top-5 in %")
        of_series = _own_and_others if series.axes[0].name == "trained on subject" else _points
        lines += [f"    {line}" for line in of_series(series)]
    return "\n".join(lines)


def _points(series: Series):
    one, five = (series.accuracy(top) for top in TOPS)
    points = list(np.ndindex(one.value.shape))
    if len(points) > 8:
        points = [np.unravel_index(five.value.argmax(), one.value.shape)]
    for at in points:
        where = ", ".join(
            f"{axis.name} {axis.points[i]} {axis.unit}".rstrip()
            for axis, i in zip(series.axes, at, strict=True)
        )
        cells = []
        for found in (one, five):
            low, high = 100 * found.low[at], 100 * found.high[at]
            interval = "" if np.isnan(low) else f" ({low:.1f} to {high:.1f})"
            cells.append(f"{100 * found.value[at]:.1f}{interval}")
        yield f"{'best: ' if len(points) < one.value.size else ''}{where}: {' / '.join(cells)}"
    yield (
        f"chance {100 * one.chance:g} / {100 * five.chance:g}, "
        f"threshold {100 * one.threshold:.2g} / {100 * five.threshold:.2g}"
    )


def _own_and_others(series: Series):
    """Lay out subjects × subjects as the means of the diagonal and of all else."""
    trained_on = np.array(series.axes[0].points)
    own = np.array([trained_on == subject for subject in series.subjects])
    for name, which in (("their own", own), ("of the others", ~own)):
        shares = [100 * (series.ranks[which] <= top).mean() for top in TOPS]
        yield f"encoder {name}: " + " / ".join(f"{share:.1f}" for share in shares)


if __name__ == "__main__":
    sys.exit(main())
