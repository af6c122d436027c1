"""What a CPU computes otherwise than PyTorch would: the same results in less time.

**Convolutions, a few trials at a time.** The activity between the temporal and the spatial
convolution is by far the largest array of a training step: (batch, tokens, channels, filters),
91 MB for 250 trials, of which autograd keeps several. To get such arrays from the operating system
page by page costs more than to compute them. Here a block of trials goes through both convolutions
while it is in the cache, in memory that is used again for the next block, and backward computes its
activity anew. The result is that of the plain order of operations (`NICE.temporal_spatial`), to
rounding.

**Running mean** without the copies that autograd makes, and **dropout** with four decisions from
each random number.

The running mean of the EEG flows into the convolutions, (batch, channels, samples). A *patch* is
what one output of the temporal convolution sees, 25 samples, followed by a one for its bias; a
*token* is a moment at which a patch starts, every 5 samples.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

KERNEL = 25  # samples of the temporal convolution
STRIDE = 5  # samples between tokens
ROWS = 16_384  # patches in a block: with 40 filters 2.6 MB, which a cache holds

LOG2_E = math.log2(math.e)
LEVELS = 2**16  # of the random numbers that decide what is dropped


def patches(mean: Tensor) -> Tensor:
    """Cut patches: (batch, channels, samples) → (batch, tokens, channels, 26)."""
    cut = mean.unfold(2, KERNEL, STRIDE).transpose(1, 2)
    return torch.cat([cut, cut.new_ones(1).expand(*cut.shape[:3], 1)], 3)


class Convolutions(Function):
    """Convolve in time, apply the ELU, convolve over channels: → (batch · tokens, filters).

    ``temporal`` is of shape (26, filters), its last row the bias; ``spatial`` of shape
    (channels · temporal filters, filters).
    """

    @staticmethod
    def forward(context, mean: Tensor, temporal: Tensor, spatial: Tensor) -> Tensor:  # noqa: D102
        context.save_for_backward(mean, temporal, spatial)
        mixed = mean.new_empty(len(mean) * _tokens(mean), spatial.shape[1])
        room, slope, spare = _room(mean, temporal)
        for _, rows, block in _blocks(mean):
            active = torch.mm(block, temporal, out=room[: len(block)])
            _elu(active, slope[: len(block)], spare[: len(block)])
            torch.mm(active.view(-1, len(spatial)), spatial, out=mixed[rows])
        return mixed

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        mean, temporal, spatial = context.saved_tensors
        gradient, back = gradient.contiguous(), spatial.T.contiguous()
        # Explanations want the EEG's gradient alone, NICE's training only those of the weights.
        to_mean, to_temporal, to_spatial = (
            torch.zeros_like(given) if needed else None
            for given, needed in zip(context.saved_tensors, context.needs_input_grad, strict=True)
        )
        from_patch = temporal[:KERNEL].T.contiguous()
        room, slope, spare = _room(mean, temporal)
        for trials, rows, block in _blocks(mean):
            active = torch.mm(block, temporal, out=room[: len(block)])
            steep, change = slope[: len(block)], spare[: len(block)]
            _elu(active, steep, change)
            if to_spatial is not None:
                to_spatial.addmm_(active.view(-1, len(spatial)).T, gradient[rows])
            torch.mm(gradient[rows], back, out=change.view(-1, len(spatial)))
            change.mul_(steep)
            if to_temporal is not None:
                to_temporal.addmm_(block.T, change)
            if to_mean is not None:
                _add_patches(to_mean[trials], change @ from_patch)
        return to_mean, to_temporal, to_spatial


class RunningMean(Function):
    """Average over `width` neighbouring samples: (…, times) → (…, times − width + 1)."""

    @staticmethod
    def forward(context, eeg: Tensor, width: int) -> Tensor:  # noqa: D102
        context.width = width
        total = eeg.cumsum(-1)
        mean = total[..., width - 1 :].clone()
        mean[..., 1:] -= total[..., :-width]
        return mean.div_(width)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        # A sample takes part in the means that end with it and in up to width − 1 later ones.
        width = context.width
        total = gradient.cumsum(-1)
        *rest, means = gradient.shape
        to_eeg = total.new_empty(*rest, means + width - 1)
        to_eeg[..., :means] = total
        to_eeg[..., means:] = total[..., -1:]
        to_eeg[..., width:] -= total[..., : means - 1]
        return to_eeg.div_(width), None


class Dropout(nn.Dropout):
    """`nn.Dropout`; on a CPU four decisions come from one random number.

    The probability is rounded to 1/65536; what remains is scaled by the rounded one.

    Attributes
    ----------
    in_blocks : bool
        As of `nice_demo.encoders.nice.NICE`.
    """

    in_blocks: bool = True

    def forward(self, values: Tensor) -> Tensor:
        """Drop entries in training."""
        dropped = round(self.p * LEVELS)
        on_cpu = self.in_blocks and values.device.type == "cpu"
        if not (self.training and on_cpu and 0 < dropped < LEVELS):
            return super().forward(values)
        numbers = torch.empty(-(-values.numel() // 4), dtype=torch.int64)
        numbers.random_(-(2**63), None)  # all 64 bits
        levels = numbers.view(torch.int16)[: values.numel()].view(values.shape)  # from −32768
        kept = (levels >= dropped - LEVELS // 2).to(values.dtype)
        return values * kept.mul_(LEVELS / (LEVELS - dropped))


def _tokens(mean: Tensor) -> int:
    return (mean.shape[2] - KERNEL) // STRIDE + 1


def _trials(mean: Tensor) -> int:
    """Return how many trials make a block."""
    return min(len(mean), max(1, ROWS // (_tokens(mean) * mean.shape[1])))


def _room(mean: Tensor, temporal: Tensor) -> Tensor:
    """Make room for a block's activity and two arrays as large: (3, patches, filters)."""
    patches_a_trial = _tokens(mean) * mean.shape[1]
    return mean.new_empty(3, _trials(mean) * patches_a_trial, temporal.shape[1])


def _blocks(mean: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield blocks: which trials, which rows of (batch · tokens), their patches (n, 26).

    All are written to the same memory, one after the other.
    """
    count, tokens, channels = _trials(mean), _tokens(mean), mean.shape[1]
    room = mean.new_ones(count, tokens, channels, KERNEL + 1)
    cut = mean.unfold(2, KERNEL, STRIDE).transpose(1, 2)
    for first in range(0, len(mean), count):
        last = min(first + count, len(mean))
        block = room[: last - first]
        block[..., :KERNEL] = cut[first:last]
        yield slice(first, last), slice(first * tokens, last * tokens), block.view(-1, KERNEL + 1)


def _add_patches(to_mean: Tensor, to_patches: Tensor) -> None:
    """Add patches' gradients (n, 25) where the patches were cut, (trials, channels, samples)."""
    trials, channels, _ = to_mean.shape
    tokens = _tokens(to_mean)
    to_patches = to_patches.view(trials, tokens, channels, KERNEL).transpose(1, 2)
    # 25 samples are 5 strides: the first of each patch lie side by side, and so on.
    for start in range(0, KERNEL, STRIDE):
        piece = to_mean[..., start : start + tokens * STRIDE].unflatten(2, (tokens, STRIDE))
        piece += to_patches[..., start : start + STRIDE]


def _elu(activity: Tensor, slope: Tensor, spare: Tensor) -> None:
    """Apply the ELU in place and leave its derivative in `slope`; `spare` is room to compute in.

    max(x, exp(min(x, 0)) − 1) by powers of two takes half as long as PyTorch's, which computes
    expm1; near zero it differs by 1e-7.
    """
    torch.clamp(activity, max=0, out=slope).mul_(LOG2_E).exp2_()
    torch.maximum(activity, torch.sub(slope, 1, out=spare), out=activity)
