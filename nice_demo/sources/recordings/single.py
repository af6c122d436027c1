"""How well single held-out trials are told apart, where recordings were prepared with --classify.

    python -m nice_demo.sources.recordings.single --data data/mine --bundle weights/mine

A bundle holds averages, and of few concepts few of these; the data folder has every trial. For
each subject and encoder: which concept is nearest, with interval and chance level.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from nice_demo.bundle import Bundle
from nice_demo.eegset import DataSet
from nice_demo.encoders import embed
from nice_demo.errors import InputError, command
from nice_demo.evaluate import table
from nice_demo.retrieval import Metrics, metrics, similarity


def single_trials(data: DataSet, bundle: Bundle) -> dict[tuple[str, str], Metrics]:
    """Decode every single test trial.

    Parameters
    ----------
    data : DataSet
    bundle : Bundle
        Trained on `data`.

    Returns
    -------
    dict of (str, str) to Metrics
        By subject and encoder.

    Raises
    ------
    InputError
        Where the bundle's candidates aren't the data folder's.
    """
    gallery = bundle.gallery
    if [c.id for c in gallery.candidates] != [c.id for c in data.test_gallery.candidates]:
        raise InputError(f"{bundle.folder} has other candidates than {data.folder}; give its own.")
    found = {}
    for subject in bundle.subjects:
        trials = data.subject(int(subject)).test
        target = np.repeat(np.arange(len(trials)), trials.shape[1])
        for name in bundle.encoders(subject):
            encoder = bundle.encoder(subject, name)
            embeddings = [embed(encoder, torch.from_numpy(np.array(one))).numpy() for one in trials]
            similarities = similarity(np.concatenate(embeddings), gallery.embeddings)
            found[subject, name] = metrics(
                similarities, target, protocol=gallery.protocol, repetitions=1
            )
    return found


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.sources.recordings.single``."""
    parser = argparse.ArgumentParser(
        "python -m nice_demo.sources.recordings.single",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared data folder")
    parser.add_argument("--bundle", type=Path, required=True, help="trained on it")
    options = parser.parse_args(argv)
    for pair, figures in single_trials(DataSet.open(options.data), Bundle(options.bundle)).items():
        print("subject {}, {}".format(*pair))
        print(f"{table(figures)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
