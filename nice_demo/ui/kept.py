"""What visitors brought along, in memory for as long as they look at it.

One `Own` for each session, found again under the session's name only. Nothing is written to disk.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

from nice_demo.errors import InputError
from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.epochs import OwnEpochs

MINUTES = 30  # that a recording stays, at most
SESSIONS = 16  # that have one at the same time
GIBIBYTE = 1 << 30  # of memory for all of them

GONE = (
    "Your recording isn't here any more: it stays for 30 minutes at most, and goes earlier where "
    "many visitors bring theirs; please upload it again."
)


@dataclass
class Own:
    """What is known of one visitor's recording.

    Attributes
    ----------
    recording : Recording
    simulated : bool
        Whether it is the page's own example.
    epochs : OwnEpochs or None
        Once they were prepared.
    notes : list of str
        What should be known of that, in sentences.
    evokeds : dict of str to (array, int)
        Of each condition, and of all epochs under "": volts (n_channels, n_times), V, and the
        number of epochs averaged.
    """

    recording: Recording
    simulated: bool = False
    epochs: OwnEpochs | None = None
    notes: list[str] = field(default_factory=list)
    evokeds: dict = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        arrays = [self.recording.volts]
        if self.epochs is not None:
            arrays += [self.epochs.volts, self.epochs.eeg]
        arrays += [volts for volts, _ in self.evokeds.values()]
        return sum(array.nbytes for array in arrays if array is not None)


class Kept:
    """The recordings of all sessions together; the oldest goes where there are too many.

    Parameters
    ----------
    most : int
        Sessions.
    most_bytes : int
        Of all together; a single one may have more.
    """

    def __init__(self, most: int = SESSIONS, most_bytes: int = GIBIBYTE) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._lock, self._of = Lock(), OrderedDict[str, Own]()

    def put(self, session: str, own: Own, before: Own | None = None) -> None:
        """Keep a session's recording, which is now the newest of all.

        Parameters
        ----------
        session : str
        own : Own
        before : Own or None
            What this was made from: where the session has another by now, or none, that stays.
        """
        with self._lock:
            if before is not None and self._of.get(session) is not before:
                return
            self._of[session] = own
            self._of.move_to_end(session)
            while len(self._of) > 1 and (
                len(self._of) > self.most
                or sum(kept.nbytes for kept in self._of.values()) > self.most_bytes
            ):
                self._of.popitem(last=False)

    def get(self, session: str | None) -> Own:
        """Return a session's recording.

        Raises
        ------
        InputError
            Where there is none, or none any more.
        """
        with self._lock:
            own = self._of.get(session or "")
        if own is None:
            raise InputError(GONE)
        return own

    def drop(self, session: str | None) -> None:
        """Forget a session's recording, if there is one."""
        with self._lock:
            self._of.pop(session or "", None)

    def __len__(self) -> int:
        return len(self._of)
