"""Which picture was shown when: trials from a table with a header (CSV or TSV).

Columns: ``subject``, ``file`` (relative to the table's folder), ``picture`` and one of ``onset`` (s
from the file's first sample), ``sample`` (from 0) or ``epoch`` (from 0, in a file of epochs). If
there: ``session``, ``run`` (else each file is one), ``concept`` (else the picture's folder, or the
picture itself) and ``split`` ("train" or "test"). Cells are text: nothing in them is evaluated.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nice_demo.errors import InputError, one_line

LARGEST = 200_000_000  # bytes of a table
LONGEST = 500  # characters of a cell
SPLITS = ("train", "test")
_UNITS = ("onset", "sample", "epoch")
_KNOWN = ("subject", "session", "run", "file", *_UNITS, "picture", "concept", "split")


@dataclass(frozen=True)
class Trial:
    """One picture, shown once.

    Attributes
    ----------
    subject, session, run : str
        Labels; session and run may be empty.
    file : Path
        The recording.
    at : float
        When the picture appeared, in `unit`.
    unit : str
        "onset": s from the file's first sample; "sample": number of the sample, from 0; "epoch":
        number of the epoch, from 0, in a file of epochs.
    picture, concept : str
    split : str
        "train", "test", or empty where that is still to be chosen.
    line : str
        Where the trial is listed, to be named in a message.
    """

    subject: str
    session: str
    run: str
    file: Path
    at: float
    unit: str
    picture: str
    concept: str
    split: str
    line: str


@dataclass(frozen=True)
class Trials:
    """All trials of a source of recordings.

    Attributes
    ----------
    trials : list of Trial
    name : str
        What the source is called.
    licence : str
        Of the EEG, in words.
    notes : list of str
        What a user should know of how the source was read, in sentences.
    """

    trials: list[Trial]
    name: str
    licence: str
    notes: list[str]


def read_table(path: Path, only: list[str] | None = None) -> Trials:
    """Read a table of trials.

    Parameters
    ----------
    path : Path
        Separated by commas, semicolons or tabs; UTF-8.
    only : list of str, optional
        Concepts to keep; other lines are left out.

    Returns
    -------
    Trials

    Raises
    ------
    InputError
        Where the table is missing, too large, lacks a column, or a line can't be used.
    """
    path = Path(path)
    trials, notes, left_out = [], [], 0
    files: dict[str, Path] = {}
    for number, (line, row) in enumerate(rows(path)):
        where = f"{path.name}, line {line}"
        if number == 0:
            unit = _check_columns(path, list(row))
            if unused := [name for name in row if name not in _KNOWN]:
                notes.append(f"Columns of {path.name} that aren't used: {', '.join(unused)}.")
        name = _cell(row, "file", where)
        if name not in files:
            files[name] = path.parent / name
            if not files[name].exists():
                raise InputError(f"{where} names the recording {name}, which isn't there.")
        trial = make_trial(row, where, files[name], unit, run=row.get("run") or name)
        if only and trial.concept not in only:
            left_out += 1
        else:
            trials.append(trial)
    if left_out:
        notes.append(f"{left_out} lines of other concepts than {', '.join(only)} are left out.")
    if not trials:
        raise InputError(f"{path} lists no trial{' of --only' if only else ''}; give one a line.")
    return Trials(trials, path.name, "not stated", notes)


def make_trial(row: dict[str, str], where: str, file: Path, unit: str, run: str) -> Trial:
    """Make a trial of a line's cells.

    Raises
    ------
    InputError
        Where a cell can't be used.
    """
    subject, picture = _cell(row, "subject", where), _cell(row, "picture", where)
    at = _number(_cell(row, unit, where), unit, where)
    split = row.get("split") or ""
    if split and split not in SPLITS:
        raise InputError(f"{where} has the split {split!r}; give {' or '.join(SPLITS)}.")
    concept = row.get("concept") or concept_of(picture)
    session = row.get("session") or ""
    return Trial(subject, session, run, file, at, unit, picture, concept, split, where)


def concept_of(picture: str) -> str:
    """Return the folder that a picture is in, or the picture itself where it is in none."""
    path = PurePosixPath(picture)
    return path.parent.name or path.stem


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a table with a header as (line number, {column: cell}).

    Cells come without blanks around them; lines without any are left out.

    Raises
    ------
    InputError
        Where the table is missing, too large or no table.
    """
    if not path.is_file():
        raise InputError(f"There is no table {path}; check its name.")
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path} has more than {LARGEST // 10**6} MB; split it.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max("\t;,", key=header.count), strict=True)
            names = [name.strip() for name in next(reader, [])]
            if not header.strip() or len(set(names)) < len(names):
                raise InputError(f"{path} has no header, or a column twice; name each once.")
            for cells in reader:
                if not any(cells):
                    continue
                if len(cells) != len(names):
                    raise InputError(
                        f"{path.name}, line {reader.line_num} has {len(cells)} cells, the header "
                        f"{len(names)}; put names with a separator in them into quotes."
                    )
                row = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
                for name, cell in row.items():
                    if len(cell) > LONGEST or not cell.isprintable():
                        raise InputError(
                            f"{path.name}, line {reader.line_num} has a cell in {name!r} that is "
                            f"longer than {LONGEST} characters or not printable; shorten it."
                        )
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} isn't a table that can be read ({one_line(error)}); save it as CSV in UTF-8."
        ) from None


def _check_columns(path: Path, names: list[str]) -> str:
    """Return which column says when; check that the needed ones are there."""
    if missing := [name for name in ("subject", "file", "picture") if name not in names]:
        raise InputError(f"{path} lacks the column {missing[0]!r}; its header has {names}.")
    units = [name for name in _UNITS if name in names]
    if len(units) != 1:
        raise InputError(
            f"{path} has {len(units)} of the columns onset, sample and epoch; "
            "one says when a picture was shown."
        )
    return units[0]


def _cell(row: dict[str, str], name: str, where: str) -> str:
    if not row.get(name):
        raise InputError(f"{where} has nothing in the column {name!r}; fill it in.")
    return row[name]


def _number(text: str, unit: str, where: str) -> float:
    try:
        at = float(text)
    except ValueError:
        at = math.nan
    if not (math.isfinite(at) and at >= 0) or (unit != "onset" and at % 1):
        kind = "a time in s" if unit == "onset" else "a whole number"
        raise InputError(f"{where} has {text!r} in the column {unit!r}; give {kind} from 0.")
    return at
