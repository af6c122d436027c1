"""Where a training step's milliseconds go.

    python -m benchmarks.step                          NICE, batch 250, on the CPU
    python -m benchmarks.step --encoder nice-sa --batch 128 --threads 1
    python -m benchmarks.step --device cuda --batch 1000

The same step as in `benchmarks.encoder`, under PyTorch's profiler: the time that each kind of
operation takes itself, without those that it calls, as a mean over five steps; beside it the
literal stack. Recording makes a step somewhat slower, so the shares count, not the sum.
"""

import argparse
import sys
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.encoder import CHANNELS, TIMES, Training, machine
from nice_demo.encoders import build
from nice_demo.encoders.nice import LiteralNICE
from nice_demo.errors import InputError, command

STEPS = 5
KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul"),
    "convolutions": ("convolution", "conv2d"),
    "the ELU and its gradient": ("elu", "exp2", "clamp", "maximum"),
    "normalisation": ("batch_norm", "layer_norm"),
    "pooling, running mean": ("avg_pool2d", "cumsum"),
    "dropout's random numbers": ("bernoulli", "random"),
    "Adam": ("Optimizer.step", "foreach"),
}


def kind(operation: str) -> str:
    """Name the kind of an operation such as ``aten::mkldnn_convolution``."""
    bare = operation.removeprefix("aten::")
    for name, parts in KINDS.items():
        if any(part in bare for part in parts):
            return name
    return "copies, sums and the rest"


def shares(training: Training, device: torch.device) -> dict[str, float]:
    """Return the time a step takes for each kind of operation, s."""
    for _ in range(2):
        training.step()
    on_cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as record:
        for _ in range(STEPS):
            training.step()
        if on_cuda:
            torch.cuda.synchronize()
    found = defaultdict(float)
    for event in record.key_averages():
        time = event.self_device_time_total if on_cuda else event.self_cpu_time_total  # µs
        found[kind(event.key)] += time / 1e6 / STEPS
    return found


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--encoder", choices=["nice", "nice-sa", "nice-ga"], default="nice")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    if options.batch < 2 or (options.threads or 1) < 1:
        raise InputError("Give --batch of at least 2 and --threads of at least 1.")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("There is no CUDA device here; leave --device out to profile the CPU.")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    sizes = {"channels": CHANNELS, "times": TIMES, "dim": options.dim}
    eeg = torch.randn(options.batch, CHANNELS, TIMES, device=device)
    pictures = torch.randn(options.batch, options.dim, device=device)
    columns = {
        "literal": shares(Training(LiteralNICE(**sizes).to(device), eeg, pictures), device),
        options.encoder: shares(
            Training(build(options.encoder, **sizes).to(device), eeg, pictures), device
        ),
    }
    print(f"{machine()}, {device}\nbatch {options.batch}, {options.dim} dimensions: ms a step\n")
    print(f"{'':<28}" + "".join(f"{name:>10}" for name in columns))
    names = sorted(set().union(*columns.values()), key=lambda name: -columns["literal"][name])
    for name in names:
        print(f"{name:<28}" + "".join(f"{1000 * found[name]:>10.1f}" for found in columns.values()))
    print(
        f"{'all':<28}"
        + "".join(f"{1000 * sum(found.values()):>10.1f}" for found in columns.values())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
