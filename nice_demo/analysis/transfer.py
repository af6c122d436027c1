"""In whom the information is the same: encoders of other subjects, and pooled training.

In flow one subject's test trials; they are decoded with what was trained on the same subject, on
another, on all others together, and on all. Out flow accuracies.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from operator import add
from pathlib import Path

import numpy as np

from nice_demo.analysis.retrain import features, forty_ms, of_subject
from nice_demo.analysis.series import (
    AS_TRAINED,
    PERMUTATIONS,
    RETRAINED,
    Axis,
    Found,
    Recording,
    measure,
)
from nice_demo.bundle import OTHER_SUBJECTS
from nice_demo.eegset import DataSet
from nice_demo.errors import InputError
from nice_demo.training_data import check_pool

NOTE = (
    "The test pictures are the same for all subjects, but no subject's training trials hold them "
    "or others of their concepts, so that nothing of the test is learned from another subject."
)


def analyse(recording: Recording, permutations: int = PERMUTATIONS) -> Found:
    """Decode with encoders of each subject, and with ridges trained on several.

    Parameters
    ----------
    recording : Recording
    permutations : int
        For thresholds.

    Returns
    -------
    Found
        Series "encoder of another subject", as trained, of each encoder that all subjects have;
        and "pooled training", a ridge trained on the subject's own trials, on those of all others,
        and on all together.

    Raises
    ------
    InputError
        Where there is no other subject, or neither series can be had; where the data let the test
        pictures leak (see `nice_demo.training_data.check_pool`).
    """
    bundle, of_trials = recording.bundle, (recording.target, recording.seed, permutations)
    if len(bundle.subjects) < 2:
        raise InputError(
            f"{bundle.name} has one subject, so that nothing can be transferred from another; "
            "train the bundle on more."
        )
    series, left_out, about = [], [], {"trained on": bundle.trained_on}
    if bundle.trained_on == OTHER_SUBJECTS:
        left_out.append(
            "Each encoder of this bundle was trained on all subjects but its own, so that no other "
            "subject's is new to this one, and they weren't exchanged."
        )
    else:
        axis = Axis("trained on subject", "", bundle.subjects)
        for name in recording.encoders:
            if any(name not in bundle.encoders(subject) for subject in bundle.subjects):
                left_out.append(f"Not all subjects have an encoder {name}.")
                continue
            found = (
                recording.decode(bundle.encoder(subject, name), recording.eeg)
                for subject in bundle.subjects
            )
            series.append(
                measure("encoder of another subject", name, AS_TRAINED, [axis], found, *of_trials)
            )
    if recording.data is None:
        left_out.append("Without the training trials nothing was trained on several subjects.")
    else:
        prepared = set(map(str, recording.data.subjects))
        subjects = [subject for subject in bundle.subjects if subject in prepared]
        if recording.subject in subjects and len(subjects) > 1:
            _check_pool(recording.data.folder)
            about["note"] = NOTE
            axis = Axis("trained on", "", ["own", "the others", "all together"])
            found = pooled(recording, subjects)
            series.append(measure("pooled training", "ridge", RETRAINED, [axis], found, *of_trials))
        else:
            left_out.append(
                f"{recording.data.folder} lacks the training trials of this subject or of all "
                "others, so that nothing was trained on several."
            )
    if not series:
        raise InputError(" ".join(left_out))
    if left_out:
        about["left_out"] = left_out
    return Found(series, about=about)


@lru_cache  # it reads all subjects' training trials
def _check_pool(folder: Path) -> None:
    check_pool(DataSet.open(folder))


def pooled(recording: Recording, subjects: Sequence[str]) -> Iterator[np.ndarray]:
    """Train ridges on the subject's own trials, the others' and all, and decode the test trials.

    Parameters
    ----------
    recording : Recording
        With data.
    subjects : sequence of str
        The recording's and the others.

    Yields
    ------
    array of shape (n_trials, n_candidates)
    """
    x = features(recording.eeg, forty_ms(recording.eeg.shape[2]))
    own = of_subject(recording, recording.subject)
    others = reduce(
        add, (of_subject(recording, other) for other in subjects if other != recording.subject)
    )
    for sums in (own, others, own + others):
        yield recording.compare(sums.fit().embed(x))
