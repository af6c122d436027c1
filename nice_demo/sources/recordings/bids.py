"""Trials and recordings out of a BIDS folder of EEG, read by MNE-BIDS.

C. R. Pernet et al. "EEG-BIDS, an extension to the brain imaging data structure for
electroencephalography." Scientific Data 2019. S. Appelhoff et al. "MNE-BIDS." JOSS 2019.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from nice_demo.errors import InputError, one_line
from nice_demo.files import read_json
from nice_demo.sources.recordings.dataset import Opened
from nice_demo.sources.recordings.table import Trials, make_trial, rows

# "channels.tsv" and others beside have other suffixes than "eeg".
_EXTENSIONS = [".vhdr", ".edf", ".bdf", ".set", ".fif"]
_ABSENT = ("", "n/a")  # how BIDS says that a cell is empty


def read_bids(
    root: Path,
    task: str | None = None,
    picture_column: str | None = None,
    concept_column: str | None = None,
    only: list[str] | None = None,
) -> tuple[Trials, Callable[[Path], Opened]]:
    """List the trials in the events.tsv of all EEG recordings of a task.

    Parameters
    ----------
    root : Path
        The BIDS folder.
    task : str, optional
        Needed where there are several.
    picture_column : str, optional
        The column that names the picture; by default "stim_file" where there is one, else
        "trial_type". Events with "n/a" there are none of pictures.
    concept_column : str, optional
        By default the picture's folder, or the picture itself.
    only : list of str, optional
        Concepts to keep; other events are left out.

    Returns
    -------
    trials : Trials
        A column "split", if any, says what tests.
    read : callable
        Opens a trial's file.

    Raises
    ------
    InputError
        Where the folder isn't BIDS, or its events can't be used.
    """
    root = Path(root)
    if not (root / "dataset_description.json").is_file():
        raise InputError(f"{root} is no BIDS folder: it has no dataset_description.json.")
    about = read_json(root / "dataset_description.json")
    trials, skipped = [], 0
    for path in _recordings(root, task):
        events = path.find_matching_sidecar(suffix="events", extension=".tsv", on_error="ignore")
        if events is None:
            raise InputError(f"{path.basename} has no events.tsv beside it; add one.")
        for line, row in rows(Path(events)):
            where = f"{Path(events).name}, line {line}"
            row = {name: "" if cell in _ABSENT else cell for name, cell in row.items()}
            column = picture_column or ("stim_file" if "stim_file" in row else "trial_type")
            for name in ("onset", column, concept_column):
                if name is not None and name not in row:
                    raise InputError(
                        f"{Path(events).name} has no column {name!r}; it has {', '.join(row)}."
                    )
            if not row[column]:
                skipped += 1
                continue
            cells = {
                "subject": path.subject,
                "session": path.session or "",
                "onset": row["onset"],
                "picture": row[column],
                "concept": row[concept_column] if concept_column else "",
                "split": row.get("split", ""),
            }
            trial = make_trial(cells, where, path.fpath, "onset", run=path.run or "")
            if only and trial.concept not in only:
                skipped += 1
            else:
                trials.append(trial)
    if not trials:
        raise InputError(f"No event in {root} names a picture; give --picture-column.")
    notes = [f"{skipped} events that aren't of these pictures are left out."] if skipped else []
    name = str(about.get("Name") or "")
    if not name or name.startswith("["):  # MNE-BIDS writes "[Unspecified]"
        name = root.name
    source = Trials(trials, name, str(about.get("License") or "not stated"), notes)
    return source, partial(open_bids, root=root)


def _recordings(root: Path, task: str | None) -> list:
    """Return the `mne_bids.BIDSPath` of every EEG recording of a task, in order."""
    try:
        from mne_bids import find_matching_paths, get_entity_vals
    except ModuleNotFoundError as error:
        raise InputError(
            f"Reading BIDS needs the package {error.name}; pip install mne-bids."
        ) from None

    tasks = get_entity_vals(root, "task")
    if task is None and len(tasks) > 1:
        raise InputError(f"{root} has the tasks {', '.join(tasks)}; choose one with --task.")
    found = find_matching_paths(
        root, tasks=task, datatypes="eeg", suffixes="eeg", extensions=_EXTENSIONS
    )
    # Recordings lie at sub-…/[ses-…/]eeg; copies in derivatives/ and sourcedata/ are others.
    found = [path for path in found if path.fpath.relative_to(root).parts[0].startswith("sub-")]
    # Of a FIF file in parts, MNE finds the others from the first.
    found = [path for path in found if path.split in (None, "01", "1")]
    if not found:
        raise InputError(
            f"{root} has no EEG of task {task!r}; it has {', '.join(tasks) or 'none'}."
        )
    return sorted(found, key=lambda path: str(path.fpath))


def open_bids(file: Path, root: Path) -> Opened:
    """Open a recording with what its channels.tsv says: kinds of channels, and bad ones.

    Raises
    ------
    InputError
        Where it can't be read.
    """
    from mne_bids import get_bids_path_from_fname, read_raw_bids

    try:
        raw = read_raw_bids(get_bids_path_from_fname(file).update(root=root), verbose="error")
    except Exception as error:  # whatever a reader makes of a damaged file
        raise InputError(f"{file} can't be read ({one_line(error)[:300]}).") from None
    return Opened.by_mne(raw, file.name)
