"""A recording to try the page with: a phantom subject's test trials, put end to end.

In flows a `Phantom`, out flows a `Recording` as a file of somebody's would give it.
"""

from collections.abc import Sequence

import numpy as np

from nice_demo.montage import REFERENCE
from nice_demo.sources.phantom.trials import N_TIMES, RESOLUTION, SFREQ, TMIN, Phantom
from nice_demo.sources.recordings import Recording


def example_recording(
    phantom: Phantom,
    pictures: Sequence[str],
    channels: Sequence[str],
    *,
    shown: int = 5,
    repetitions: int = 10,
) -> Recording:
    """Make a continuous, simulated recording.

    A trial takes 1.2 s, so that five pictures with ten looks each make a minute. They come in a
    random order that is always the same.

    Parameters
    ----------
    phantom : Phantom
        Its drives are those of the test pictures.
    pictures : sequence of str
        Names of all test pictures, in the order of the phantom's conditions.
    channels : sequence of str
        Of the phantom.
    shown : int
        How many of the pictures are shown, evenly spread over all.
    repetitions : int
        How often each is.

    Returns
    -------
    Recording
        V against Fz, at 250 Hz; an event, named after its picture, where a picture appears.
    """
    every = max(1, len(pictures) // shown)
    conditions = np.arange(len(pictures))[::every][:shown]
    trials = np.concatenate(
        [phantom.trials("test", int(condition), range(repetitions)) for condition in conditions]
    )
    order = np.random.default_rng(0).permutation(len(trials))
    volts = (trials[order] * RESOLUTION).astype(np.float32)
    names = [pictures[conditions[trial // repetitions]] for trial in order]
    return Recording(
        name=f"example, phantom {phantom.subject}",
        format="simulated recording",
        volts=np.ascontiguousarray(volts.swapaxes(0, 1).reshape(len(channels), -1)),
        channels=list(channels),
        sfreq=SFREQ,
        onsets=(np.arange(len(trials)) * N_TIMES) / SFREQ - TMIN,
        events=names,
        reference=REFERENCE,
        notes=[
            "Simulated: trials of a phantom, put end to end; nobody was measured.",
            f"The reference is {REFERENCE}.",
        ],
    )
