"""Opening a recording that somebody brings.

The files are checked and copied (`received`), then unpacked (`archives`) and parsed (`readers`) in
another process (`child`); what comes back is a `Recording`, and nothing stays on disk.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from nice_demo.sources.recordings import Recording
from nice_demo.sources.recordings.child import read_apart
from nice_demo.sources.recordings.limits import Limits
from nice_demo.sources.recordings.received import receive


def open_recording(paths: Sequence[Path], limits: Limits | None = None) -> Recording:
    """Read one recording.

    Formats: .fif and .fif.gz (raw or epochs), .edf, .bdf, EEGLAB's .set (with its .fdt, or one
    file; continuous or epochs), BrainVision (.vhdr, .vmrk and .eeg), each of these also as .zip,
    and .npz or .safetensors with these arrays:

    ==========  ===============================================================================
    eeg         (n_channels, n_times), or (n_epochs, n_channels, n_times) for epochs; V
    channels    names
    sfreq       Hz
    tmin        optional, of an epoch's first sample relative to its event, s; 0
    events      optional, names of what happened; for epochs one for each epoch
    onsets      of the events of continuous EEG, s from the first sample
    ==========  ===============================================================================

    In .safetensors, which holds numbers only, `channels` and `events` (and `sfreq` and `tmin`,
    if you like) stand in the metadata as JSON: ``{"channels": '["Fz", "Cz"]', "sfreq": "250"}``.
    Nothing is ever unpickled.

    Parameters
    ----------
    paths : sequence of Path
        The files of the recording, or one archive.
    limits : Limits, optional
        How much is read.

    Returns
    -------
    Recording
        Its EEG channels in V, with notes on whatever was left out.

    Raises
    ------
    InputError
        Where a file can't be read, isn't what its name says, or is too large.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="nice_demo_") as name:
        folder = Path(name).resolve()
        names = receive([Path(path) for path in paths], folder, limits)
        return read_apart(folder, names, limits)
