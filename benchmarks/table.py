"""The one form in which every benchmark gives its figures, and their table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes
    ----------
    what : str
        What was measured.
    ours : str
        With its unit.
    other : str
        Of the literal method, or the limit; empty where there is neither.
    ratio : str
        Ours against it, or "ok" or "over" for a limit.
    """

    what: str
    ours: str
    other: str
    ratio: str


def show(rows: list[Row], machine: str) -> str:
    """Write figures as a Markdown table, and below it on what they were measured."""
    lines = [("what", "ours", "literal or limit", "ratio"), ("---",) * 4]
    lines += [(row.what, row.ours, row.other, row.ratio) for row in rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{machine}"
