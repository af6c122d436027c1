"""How much of somebody's recording is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a recording, and reading it, may cost.

    Attributes
    ----------
    files : int
        Files that make one recording.
    size : int
        Of all of them together, bytes.
    entries : int
        Entries of an archive.
    unpacked : int
        What an archive may become, bytes; counted while it is written, whatever its header says.
    ratio : float
        How many times its own size an archive may become.
    seconds : float
        For reading, by the clock; also of processor time.
    memory : int
        Of the process that reads, bytes.
    channels, events : int
        In the recording.
    samples : int
        Of all channels together.
    hours : float
        Length of all epochs, or of the continuous EEG.
    lowest_rate, highest_rate : float
        Hz.
    """

    files: int = 8
    size: int = 200_000_000
    entries: int = 64
    unpacked: int = 1_000_000_000
    ratio: float = 100.0
    seconds: float = 60.0
    memory: int = 3_000_000_000
    channels: int = 512
    samples: int = 200_000_000
    hours: float = 2.0
    events: int = 20_000
    lowest_rate: float = 50.0
    highest_rate: float = 20_000.0
