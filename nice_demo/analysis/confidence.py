"""How sure the decoder is of its first choice, at every number of repetitions.

In flow the bundle's temperatures, fitted on held-out training concepts; out flow the confidence in
the first choice and the rank of the picture seen, of every trial. What follows from them
(calibration error, reliability, risk and coverage) `nice_demo.calibration` computes.
"""

import numpy as np

from nice_demo.analysis.series import Found, Recording
from nice_demo.errors import InputError
from nice_demo.retrieval import ranks


def analyse(recording: Recording) -> Found:
    """Measure confidence and rank with each encoder, over the bundle's numbers of repetitions.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    Found
        Arrays "confidence" float32 and "rank" uint16 of shape (n_encoders, n_repetitions,
        n_trials); what the first two axes are, in `about`.

    Raises
    ------
    InputError
        Where the bundle has no temperatures.
    """
    bundle, subject, encoders = recording.bundle, recording.subject, list(recording.encoders)
    lacking = [name for name in encoders if bundle.temperature(subject, name, 1) is None]
    if lacking:
        raise InputError(
            f"{bundle.name} has no temperatures for {', '.join(lacking)} of subject {subject}, so "
            "it can't say how sure it is; train the bundle again."
        )
    target = recording.target
    shape = len(encoders), len(bundle.repetitions), len(target)
    confidence, rank = np.empty(shape, np.float32), np.empty(shape, np.uint16)
    for i, name in enumerate(encoders):
        for j, repetitions in enumerate(bundle.repetitions):
            similarities = recording.decode(name, recording.evoked(repetitions))
            sure = bundle.confidence(subject, name, repetitions, similarities)
            confidence[i, j], rank[i, j] = sure.max(1), ranks(similarities, target)
    about = {
        "encoders": encoders,
        "repetitions": bundle.repetitions,
        "ways": len(bundle.gallery),
        "note": "confidence: the probability of the first choice, the temperature fitted on "
        "training pictures that the encoder was not trained on; beyond the repetitions that these "
        "have, the temperature is extrapolated",
    }
    return Found(arrays={"confidence": confidence, "rank": rank}, about=about)
