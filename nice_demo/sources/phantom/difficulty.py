"""How decodable each phantom subject is: a setting, not a finding.

    python -m nice_demo.sources.phantom.difficulty data/phantom

prints the `GAINS` of `nice_demo.sources.phantom.head`. Phantom subject n is to be about as hard as
subject n of THINGS-EEG2 was for the published NICE (`PUBLISHED`).

The 200 test pictures are neither read nor measured here. 200 *training* concepts play their part:
NICE is trained on the other concepts as `nice_demo.train` does it, and retrieves the held-out
pictures from averages over 80 repetitions. Then the gain is corrected and all is done again, until
the accuracy is within one standard error of the one wanted. Where the search begins matters within
that error: `FIRST_GAIN` and `GROWTH` come from earlier phantoms, whose test accuracy was known.
The gains that stand there were found when NICE was trained by Adam alone, for ten epochs; the
search wasn't done again since.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from joblib import Parallel, delayed
from safetensors.numpy import load_file

from nice_demo.eegset import DataSet, EEGSet
from nice_demo.encoders import embed
from nice_demo.errors import command
from nice_demo.montage import CHANNELS
from nice_demo.retrieval import ranks, similarity
from nice_demo.settings import PHANTOM, Settings
from nice_demo.sources.phantom.head import make_phantom
from nice_demo.sources.phantom.prepare import SEED, training_averages
from nice_demo.sources.phantom.trials import SFREQ, TEST_REPETITIONS
from nice_demo.training import train_encoder

# Top-1 of NICE in each subject of THINGS-EEG2, as listed in arXiv 2503.04207, Table 1.
PUBLISHED = {
    1: 0.132, 2: 0.135, 3: 0.145, 4: 0.206, 5: 0.101,
    6: 0.165, 7: 0.170, 8: 0.229, 9: 0.154, 10: 0.174
}  # fmt: skip

WAYS = 200
FIRST_GAIN = 0.3
GROWTH = 4  # accuracy grows about as this power of the gain
ROUNDS = 5  # at most


def rehearse(
    folder: Path, subject: int, gain: float, settings: Settings = PHANTOM, ways: int = WAYS
) -> float:
    """Train NICE on a part of the training concepts and return its top-1 on the others.

    Parameters
    ----------
    folder : Path
        Data folder with the phantom's pictures.
    subject : int
    gain : float
    settings : Settings
    ways : int
        Concepts held out; one picture of each is a candidate.
    """
    gallery = DataSet.open(folder).train_gallery
    concept = np.array([candidate.concept for candidate in gallery.candidates])
    names, first = np.unique(concept, return_index=True)  # first: the picture as it is
    held = np.random.default_rng(SEED).permutation(len(names))[:ways]
    trains = ~np.isin(concept, names[held])

    phantom, _ = make_phantom(subject, load_file(folder / "pictures.safetensors"), gain, SEED)
    whitening, train = training_averages(replace(phantom, drives=phantom.drives[trains]))
    shown = replace(phantom, drives=phantom.drives[first[held]], whitening=whitening)
    evoked = np.stack([
        shown.evoked("train", condition, [TEST_REPETITIONS]).whitened for condition in range(ways)
    ])  # fmt: skip
    meta = {
        "subject": subject,
        "channels": CHANNELS,
        "sfreq": SFREQ,
        "tmin": 0.0,
        "unit": "whitened",
        "test_repetitions": [TEST_REPETITIONS],
    }
    with TemporaryDirectory() as place:
        EEGSet.write(
            Path(place), train[:, None].astype(np.float16), evoked.astype(np.float32), meta
        )
        eeg = EEGSet.open(Path(place))
        run = train_encoder(
            eeg, gallery.embeddings[trains], list(concept[trains]), settings, 1,
            torch.device("cpu"), title=f"subject {subject}, gain {gain:.3f}",
        )  # fmt: skip
        decoded = embed(run.selected, torch.from_numpy(eeg.evoked(TEST_REPETITIONS)))
    found = ranks(similarity(decoded.numpy(), gallery.embeddings[first[held]]), np.arange(ways))
    return float((found == 1).mean())


def calibrate(folder: Path, subject: int) -> float:
    """Return the gain at which a subject is as hard as published."""
    wanted = PUBLISHED[subject]
    tolerance = (wanted * (1 - wanted) / WAYS) ** 0.5
    gain = FIRST_GAIN
    for _ in range(ROUNDS):
        reached = rehearse(folder, subject, gain)
        print(f"subject {subject}: gain {gain:.3f} gives {reached:.1%}, wanted {wanted:.1%}")
        if abs(reached - wanted) <= tolerance:
            break
        gain = round(gain * (wanted / max(reached, 1 / WAYS)) ** (1 / GROWTH), 3)
    return gain


@command
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m nice_demo.sources.phantom.difficulty``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the phantom's data folder, with its pictures")
    parser.add_argument("--subjects", type=int, nargs="+", default=list(PUBLISHED))
    options = parser.parse_args(argv)
    gains = Parallel(-1)(delayed(calibrate)(options.data, s) for s in options.subjects)
    print(f"GAINS = {dict(zip(options.subjects, gains, strict=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
