"""How much averaging, and how much training, the decoding needs.

In flow a subject's test trials and, where they are, training trials; out flow two series:

* "test repetitions": the encoders as they were trained, on averages over the first 1, 2, 5 …
  repetitions of each test picture;
* "training pictures": ridge regression trained anew on a random quarter of the training pictures,
  on that and another quarter, and so on to all; the held-out pictures, which choose its strength,
  stay the same.

Bands over trials and subjects: `Series.bootstrap`. For "training pictures" they don't include which
pictures the dice left out.
"""

from collections.abc import Iterator

import numpy as np
import torch

from nice_demo.analysis.retrain import (
    ROWS,
    Linear,
    Moments,
    features,
    forty_ms,
    held_of,
    of_subject,
    training_set,
)
from nice_demo.analysis.series import (
    AS_TRAINED,
    RETRAINED,
    Axis,
    Found,
    Recording,
    SubjectSeries,
    measure,
)
from nice_demo.training_data import TrainingData

SHARES = (25, 50, 75, 100)  # %


def analyse(recording: Recording) -> Found:
    """Decode fewer repetitions; and train anew on fewer pictures, where training trials are.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    Found
        The series, and the array "training pictures" (n_shares,): how many pictures each share of
        `SHARES` is; 0 where nothing was trained anew.
    """
    series, counts, about = _test_repetitions(recording), np.zeros(len(SHARES), int), {}
    if recording.data is None:
        about["left_out"] = ["Without the training trials nothing was trained anew."]
    else:
        parts = _quarters(recording)
        counts = np.cumsum([len(part) for part in parts])
        series.append(_training_pictures(recording, parts))
    return Found(series, {"training pictures": counts}, about)


def _test_repetitions(recording: Recording) -> list[SubjectSeries]:
    numbers = recording.bundle.repetitions
    axis = Axis("repetitions", "", list(numbers))
    return [
        measure(
            "test repetitions",
            name,
            AS_TRAINED,
            (axis,),
            (recording.decode(name, recording.evoked(number)) for number in numbers),
            recording.target,
            recording.seed,
        )
        for name in recording.encoders
    ]


def _quarters(recording: Recording) -> list[np.ndarray]:
    """Split the pictures that aren't held out into random parts; return the rows of each."""
    rng = np.random.default_rng([recording.seed, 25])
    trained = rng.permutation(np.flatnonzero(~held_of(recording)))
    return [np.sort(part) for part in np.array_split(trained, len(SHARES))]


def _training_pictures(recording: Recording, parts: list[np.ndarray]) -> SubjectSeries:
    x = features(recording.eeg, forty_ms(recording.eeg.shape[2]))
    return measure(
        "training pictures",
        "ridge",
        RETRAINED,
        (Axis("share of the training pictures", "%", list(SHARES)),),
        (recording.compare(decoder.embed(x)) for decoder in _decoders(recording, parts)),
        recording.target,
        recording.seed,
    )


def _decoders(recording: Recording, parts: list[np.ndarray]) -> Iterator[Linear]:
    """Train on the first part, on the first two …, and on all, whose sums others keep too."""
    full = of_subject(recording, recording.subject)
    training = training_set(recording.data, recording.subject)
    trials = TrainingData(training, False, torch.device("cpu"))
    pictures = recording.data.train_gallery.embeddings
    times_to_features = forty_ms(recording.eeg.shape[2])
    sums = Moments.empty(len(full.sum_x), len(full.sum_y))
    sums.held_x, sums.held_y = full.held_x, full.held_y
    for part in parts[:-1]:
        for rows in np.array_split(part, len(part) // ROWS + 1):
            x = features(trials.rows(rows).numpy(), times_to_features)
            sums.add(x.astype(float), pictures[rows].astype(float))
        yield sums.fit()
    yield full.fit()
