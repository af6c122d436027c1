"""All measurements of speed and memory in one table; `make bench` runs this.

    python -m benchmarks                    all, some ten minutes on two cores
    python -m benchmarks encoder page       some

How far a measurement is goes to stderr, the table to stdout: Markdown, as in benchmarks/README.md.
Each can be run by itself, with options: ``python -m benchmarks.encoder --help``. The exit code is 1
where a figure is over its limit.
"""

import argparse
import importlib
import sys
import time

from benchmarks.encoder import machine
from benchmarks.table import show
from nice_demo.errors import command

ALL = [
    "encoder",
    "together",
    "streaming",
    "memory",
    "covariance",
    "conversion",
    "switching",
    "recording",
    "page",
    "words",
]


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(ALL)}")
    names = parser.parse_args(argv).names or ALL
    if unknown := [name for name in names if name not in ALL]:
        parser.error(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(ALL)}")
    found, before = [], machine()
    for name in names:
        started = time.perf_counter()
        found += importlib.import_module(f"benchmarks.{name}").rows()
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(show(found, before))
    return int(any(row.ratio == "over" for row in found))


if __name__ == "__main__":
    sys.exit(main())
