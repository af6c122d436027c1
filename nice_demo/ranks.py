"""Training in several processes that ``torchrun`` started: a run each, or one run jointly.

    torchrun --nproc-per-node 4 -m nice_demo.train …

Processes are numbered from 0 (their *rank*). They meet in a store of keys and values that torchrun
keeps, and sum tensors over all of them; both are PyTorch's own. Torchrun also watches: where a
process ends, it ends the others. Without torchrun, or with one process, all this does nothing.
"""

import argparse
import contextlib
import functools
import io
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce  # the one with gradients
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel

from nice_demo import errors
from nice_demo.errors import InputError

Task = TypeVar("Task")
_shares = itertools.count()  # of calls of `share`
PATIENCE = 5  # seconds until torchrun has surely told us that another process ended


def process_count() -> int:
    """Return how many processes train."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def process_number() -> int:
    """Return which of them this is, from 0."""
    return int(os.environ["RANK"]) if process_count() > 1 else 0


def is_first() -> bool:
    """Whether this process does what only one may do, and shows how far it is."""
    return process_number() == 0


# ---------------------------------------------------------------- a command in several processes


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Do as `nice_demo.errors.command` does; of several processes, one says what went wrong."""

    @record  # torchrun's report quotes what this raises
    def several(argv: list[str] | None) -> int:
        _meet()
        try:
            code = main(argv) or 0
        except InputError as error:
            _say_once(f"error: {error}")
            return 2
        except KeyboardInterrupt:
            _say_once("stopped")
            return 130
        except Exception:
            # Where another process ended, what failed here is a sum with it, and torchrun is about
            # to end this one, too (`_leave`). If it doesn't, the mistake is ours.
            time.sleep(PATIENCE)
            raise
        dist.destroy_process_group()
        return code

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        return (errors.command(main) if process_count() == 1 else several)(argv)

    return run


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Read the options; of several processes, the first says what is wrong with them."""
    if is_first():
        return parser.parse_args(argv)
    try:
        silence = io.StringIO()
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            return parser.parse_args(argv)
    except SystemExit:
        raise SystemExit(0) from None  # a failure would have torchrun end the first at once


def wait_for_all(place: str) -> None:
    """Wait until all processes are at this place.

    As long as it takes: their runs may take hours, and torchrun knows whether they live.
    """
    if process_count() > 1:
        _store().set(f"{place}/{process_number()}", "")
        while not _store().check([f"{place}/{number}" for number in range(process_count())]):
            time.sleep(0.2)


def share(tasks: Sequence[Task]) -> Iterator[Task]:
    """Yield the tasks that fall to this process: who is free takes the next.

    All processes call this with the same tasks.
    """
    if process_count() == 1:
        yield from tasks
        return
    taken = f"taken of tasks {next(_shares)}"
    while (place := _store().add(taken, 1) - 1) < len(tasks):
        yield tasks[place]


@functools.cache
def _store() -> dist.Store:
    """Join the other processes; return the store that all of them read and write."""
    store, number, count = next(dist.rendezvous("env://"))
    # Sums are over gloo on a CPU, over NCCL on GPUs.
    dist.init_process_group(store=store, rank=number, world_size=count)
    return store


def _meet() -> None:
    """Share the cores, tell the others who this is, and be ready for torchrun's signal to end."""
    ours = hasattr(os, "sched_getaffinity")  # else all cores
    cores = len(os.sched_getaffinity(0)) if ours else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // int(os.environ["LOCAL_WORLD_SIZE"])))
    _store().set(f"process/{process_number()}", f"{os.environ['GROUP_RANK']} {os.getpid()}")
    wait_for_all("met")
    # Python's handlers wait until a sum returns, and on a GPU it never may. So a thread speaks.
    signals, written = socket.socketpair()
    written.setblocking(False)
    signal.set_wakeup_fd(written.fileno())
    speaker = threading.Thread(target=_say_why, args=(signals, written), daemon=True)
    speaker.start()

    def leave(*_: object) -> None:
        speaker.join()
        raise SystemExit(1)  # by way of whatever tidies up behind itself

    signal.signal(signal.SIGTERM, leave)


def _say_why(signals: socket.socket, written: socket.socket) -> None:
    """Wait for torchrun's signal to end; say which process ended."""
    while signals.recv(1) != bytes([signal.SIGTERM]):
        pass
    signal.alarm(PATIENCE)  # ends the process if `leave` can't
    ended = [number for number in range(process_count()) if _has_ended(number)]
    why = "Torchrun was stopped, or a process on another machine ended"
    if ended:
        why = f"Process {ended[0]} of {process_count()}, counted from 0, ended, and with it all"
    _say_once(
        f"error: {why}; what was finished is kept: give the same command with --resume, with as "
        "many processes as you like."
    )


def _has_ended(number: int) -> bool:
    """Whether a process is gone; of those on another machine, it isn't known here."""
    machine, pid = _store().get(f"process/{number}").decode().split()
    try:
        if machine == os.environ["GROUP_RANK"]:
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    return False


def _say_once(sentence: str) -> None:
    """Print on stderr, unless another process has said something already."""
    if _store().add("said", 1) == 1:
        print(sentence, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- one run jointly


def joint_sum(own: Tensor) -> Tensor:
    """Sum a tensor over all processes; gradients are summed likewise on their way back."""
    return all_reduce(own, "sum", dist.group.WORLD).wait()


def train_jointly(encoder: nn.Module) -> DistributedDataParallel:
    """Wrap an encoder so that all processes train it, each on its part of every batch.

    The result is that of one process with the whole batch. Every process computes the loss L of
    the whole batch, from `gather_rows`. Gradients come back through `joint_sum` summed over the
    N processes, so process p has d(N L)/dw_p of its copy w_p of a weight; and the mean over
    processes, which `DistributedDataParallel` takes, is 1/N · sum_p d(N L)/dw_p = dL/dw.
    """
    encoder.joint = joint_sum  # statistics of a batch are those of the whole, running ones too
    return DistributedDataParallel(encoder, forward_sync_buffers=False)


def own_rows(rows: np.ndarray) -> np.ndarray:
    """Return this process's part of a batch: at least a row, if there are as many as processes."""
    return rows[process_number() :: process_count()]


def gather_rows(own: Tensor, count: int) -> Tensor:
    """Put the parts of a batch of `count` rows together, with gradients to all processes.

    Parameters
    ----------
    own : Tensor of shape (n_own_rows, dim)
        Of the rows that `own_rows` chose.

    Returns
    -------
    Tensor of shape (count, dim)
    """
    whole = own.new_zeros(count, own.shape[1])
    whole[process_number() :: process_count()] = own
    return joint_sum(whole)
