"""What an encoder makes of all of a subject's test trials: stored in a bundle, or made anew."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
import torch
from safetensors.numpy import load_file

from nice_demo.decode import BundleDecoder
from nice_demo.encoders import embed
from nice_demo.errors import InputError

STORED = "trials/embeddings.safetensors"
_KEPT_TRIALS = 64  # sets of trials' embeddings in memory, 0.2 MB each with 256 dimensions
_WAITING = 4  # sets of trials that may wait to be made


def embed_trials(
    decoder: BundleDecoder,
    subject: str,
    encoder: str,
    repetitions: int,
    report: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Embed a subject's test trials with an encoder.

    Parameters
    ----------
    decoder : BundleDecoder
    subject, encoder : str
    repetitions : int
        Averaged into each trial.
    report : callable
        Is told after each trial how many there are.

    Returns
    -------
    array of shape (n_conditions, dim), float32
        Row i is what the encoder made of the EEG while picture i was seen; of unit norm.
    """
    model, rows = decoder.bundle.encoder(subject, encoder), []
    for condition in range(len(decoder.gallery)):
        eeg = decoder.evoked(subject, condition, repetitions).eeg
        rows.append(embed(model, torch.from_numpy(eeg)[None])[0].numpy())
        report(condition + 1)
    return np.stack(rows)


class _Job:
    def __init__(self) -> None:
        self.done, self.embeddings, self.why = 0, None, ""
        self.finished = threading.Event()


class DecodedTrials:
    """Embeddings of all test trials: out of the bundle, or made in the background, each set once.

    Parameters
    ----------
    decoder : BundleDecoder
    """

    def __init__(self, decoder: BundleDecoder) -> None:
        self._decoder, self.total = decoder, len(decoder.gallery)
        self._lock, self._queue = threading.Lock(), SimpleQueue()
        self._jobs: OrderedDict[tuple, _Job] = OrderedDict()
        self._thread: threading.Thread | None = None

    def ask(self, subject: str, encoder: str, repetitions: int) -> int:
        """Begin to make a set, unless that was done; return how many of its trials there are.

        Raises
        ------
        InputError
            Where there is no such subject, encoder or number of repetitions, or too many sets
            wait.
        """
        return self._job(subject, encoder, repetitions).done

    def wait(
        self, subject: str, encoder: str, repetitions: int, seconds: float | None = None
    ) -> np.ndarray:
        """Return a set's embeddings (n_conditions, dim); wait for it.

        Raises
        ------
        InputError
            As `ask`, and where it isn't there in time.
        """
        job = self._job(subject, encoder, repetitions)
        if not job.finished.wait(seconds):
            raise InputError(
                f"The trials are still being decoded, {job.done} of {self.total}; ask again in "
                "half a minute."
            )
        if job.why:
            raise InputError(job.why)
        return job.embeddings

    def _job(self, subject: str, encoder: str, repetitions: int) -> _Job:
        key = subject, encoder, repetitions
        with self._lock:
            if key in self._jobs:
                self._jobs.move_to_end(key)
                return self._jobs[key]
        self._check(*key)
        stored = self._stored(*key)
        with self._lock:
            if key in self._jobs:
                return self._jobs[key]
            waiting = sum(not job.finished.is_set() for job in self._jobs.values())
            if stored is None and waiting > _WAITING:
                raise InputError(
                    "Other trials are being decoded for other visitors; try again in a minute."
                )
            job = self._jobs[key] = _Job()
            if stored is not None:
                job.embeddings, job.done = stored, self.total
                job.finished.set()
            else:
                self._queue.put((key, job))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, daemon=True)
                    self._thread.start()
            finished = [key for key, job in self._jobs.items() if job.finished.is_set()]
            for old in finished[: max(0, len(self._jobs) - _KEPT_TRIALS)]:
                del self._jobs[old]
        return job

    def _check(self, subject: str, encoder: str, repetitions: int) -> None:
        if encoder not in (known := self._decoder.encoders(subject)):
            raise InputError(
                f"There is no encoder {encoder!r} for subject {subject}; "
                f"choose one of {', '.join(known)}."
            )
        if repetitions not in self._decoder.repetitions:
            raise InputError(
                f"There is no average over {repetitions} repetitions; "
                f"choose one of {', '.join(map(str, self._decoder.repetitions))}."
            )

    def _stored(self, subject: str, encoder: str, repetitions: int) -> np.ndarray | None:
        bundle = self._decoder.bundle
        if STORED not in bundle.manifest["files"] or repetitions != self._decoder.repetitions[-1]:
            return None
        found = load_file(bundle.file(STORED)).get(f"{subject} {encoder}")
        shape = self.total, self._decoder.gallery.embeddings.shape[1]
        return None if found is None or found.shape != shape else found.astype(np.float32)

    def _work(self) -> None:
        while True:
            key, job = self._queue.get()
            try:
                job.embeddings = embed_trials(
                    self._decoder, *key, lambda done, job=job: setattr(job, "done", done)
                )
            except Exception as error:  # or nobody would ever be answered again
                why = str(error) if isinstance(error, InputError) else repr(error)[:200]
                job.why = why or "The trials can't be decoded."
            job.finished.set()
