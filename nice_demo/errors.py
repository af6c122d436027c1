"""Errors that a user can mend, and how commands report them.

Everything that is wrong with what a user gave (a file, a name, an option) is an `InputError` whose
message is one sentence: what was wrong, where, and what to do. The page shows the sentence; a
command prints it and exits with code 2.
"""

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something a user gave can't be used; the message says what, where, and what to do."""


def one_line(error: Exception) -> str:
    """Return a foreign error's message on one line, to quote it in an `InputError`."""
    return " ".join(str(error).split()).rstrip(".")


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn an `InputError` raised by a command into one sentence on stderr and exit code 2.

    Parameters
    ----------
    main : callable
        The command's ``main(argv=None)``; returns an exit code or None (0).

    Returns
    -------
    callable
        The same function; never lets an `InputError` or Ctrl-C reach the user as a traceback.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv) or 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130

    return run
