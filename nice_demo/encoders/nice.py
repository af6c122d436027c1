"""NICE's EEG encoder: temporal–spatial convolution and a projection into the picture space.

Song et al., "Decoding Natural Images from EEG for Object Recognition", ICLR 2024, section 3.
EEG of shape (batch, channels, times) flows in, embeddings of shape (batch, dim) flow out.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nice_demo.encoders.blocks import KERNEL, STRIDE, Convolutions, Dropout, RunningMean, patches
from nice_demo.errors import InputError, one_line

POOL = 51  # samples of the average pooling; it goes on by STRIDE


class NICE(nn.Module):
    """The published encoder, computed in the cheapest order that gives the same numbers.

    The paper convolves in time (25 samples), averages over 51 samples every 5, normalises,
    convolves over all channels, normalises, and projects. `LiteralNICE` does just that. Here three
    facts save most of the work:

    * Convolution and averaging commute: a running mean of the EEG, then the convolution at every
      5th sample only.
    * That convolution is a matrix product on patches of 25 samples.
    * It is linear, so the mean and variance that batch normalisation needs follow from the mean
      and covariance of the patches; normalisation folds into the convolution's weights.

    On a CPU both convolutions go block by block besides (`nice_demo.encoders.blocks`).

    Parameters
    ----------
    channels : int
        Electrodes of the EEG.
    times : int
        Samples of an epoch, at least 75.
    dim : int
        Size of the picture embeddings.
    filters : int
        Temporal filters, and spatial filters.
    dropout : float
        Probability, in both places where the paper has it.

    Attributes
    ----------
    in_blocks : bool
        Whether a CPU computes block by block; else by ordinary operations of the whole batch, as
        on a GPU. Several models in one (``torch.func.vmap``) need the latter.
    joint : callable or None
        Where a batch is spread over processes: sums a tensor over all of them. Statistics of the
        batch are then those of the whole.

    Raises
    ------
    InputError
        For fewer than 75 samples or less than one channel.
    """

    in_blocks: bool = True
    joint: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        channels: int = 63,
        times: int = 250,
        dim: int = 768,
        filters: int = 40,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if times < KERNEL + POOL - 1 or channels < 1:
            raise InputError(
                f"NICE needs at least 1 channel and {KERNEL + POOL - 1} samples an epoch, "
                f"not {channels} and {times}; take longer epochs or a higher sampling rate."
            )
        self.config = {
            "channels": channels,
            "times": times,
            "dim": dim,
            "filters": filters,
            "dropout": dropout,
        }
        tokens = (times - KERNEL - POOL + 1) // STRIDE + 1
        self.temporal = nn.Conv2d(1, filters, (1, KERNEL))
        self.temporal_norm = nn.BatchNorm2d(filters)
        self.spatial = nn.Conv2d(filters, filters, (channels, 1))
        self.spatial_norm = nn.BatchNorm2d(filters)
        self.tokens = nn.Conv2d(filters, filters, 1)
        self.project = nn.Linear(tokens * filters, dim)
        self.residual = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.apply(_initialise)

    def forward(self, eeg: Tensor) -> Tensor:
        """Embed EEG.

        Parameters
        ----------
        eeg : Tensor of shape (batch, channels, times)
            Whitened (or otherwise of order 1).

        Returns
        -------
        Tensor of shape (batch, dim)
            Not normalised; compare by cosine.
        """
        features = self.temporal_spatial(eeg)  # (batch, filters, tokens)
        features = self.tokens(self.dropout(functional.elu(features)).unsqueeze(2)).squeeze(2)
        flat = features.transpose(1, 2).flatten(1)  # token by token, as published
        projected = self.project(flat)
        return self.norm(projected + self.dropout(self.residual(functional.gelu(projected))))

    def temporal_spatial(self, eeg: Tensor) -> Tensor:
        """Convolve in time and over channels: EEG → (batch, filters, tokens)."""
        in_blocks = self.in_blocks and eeg.device.type == "cpu"
        mean = RunningMean.apply(eeg, POOL) if in_blocks else _running_mean(eeg, POOL)
        spatial = self.spatial.weight.squeeze(3).transpose(1, 2).flatten(1).T
        with torch.autocast(eeg.device.type, enabled=False):  # statistics in single precision
            temporal = self._normalised_temporal(mean)
        if in_blocks:
            mixed = Convolutions.apply(mean, temporal, spatial.contiguous())
        else:
            if torch.is_autocast_enabled(mean.device.type):  # once, not each sample five times
                mean = mean.to(torch.get_autocast_dtype(mean.device.type))
            cut = patches(mean)
            activity = functional.elu(cut.flatten(0, 2) @ temporal, inplace=True)
            mixed = activity.view(cut.shape[0] * cut.shape[1], -1) @ spatial
        mixed = self._normalised_spatial(mixed + self.spatial.bias)
        return mixed.unflatten(0, (len(eeg), -1)).transpose(1, 2)

    def _normalised_temporal(self, mean: Tensor) -> Tensor:
        """Fold `temporal_norm` into the temporal convolution: (26, filters), last row the bias."""
        weight, bias, norm = self.temporal.weight.flatten(1), self.temporal.bias, self.temporal_norm
        if self.training:
            sums = _patch_sums(mean)
            count, total, products = map(self.joint, sums) if self.joint else sums
            centre = total / count
            covariance = products / count - torch.outer(centre, centre)
            mean = weight @ centre + bias
            variance = ((weight @ covariance) * weight).sum(1)
            _follow(norm, mean, variance, count)
        else:
            mean, variance = norm.running_mean, norm.running_var
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        weight, bias = weight * scale[:, None], norm.bias + (bias - mean) * scale
        return torch.cat([weight.T, bias[None]])

    def _normalised_spatial(self, mixed: Tensor) -> Tensor:
        """Apply `spatial_norm` to (batch · tokens, filters)."""
        norm = self.spatial_norm
        if self.joint is None or not self.training:
            return norm(mixed[:, :, None, None]).flatten(1)
        count = self.joint(mixed.new_full((), len(mixed)))
        mean = self.joint(mixed.sum(0)) / count
        variance = self.joint(((mixed - mean) ** 2).sum(0)) / count
        _follow(norm, mean, variance, count)
        return (mixed - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


class LiteralNICE(NICE):
    """The same encoder, computed in the order in which the paper writes it.

    Tests and benchmarks hold `NICE` against it; the parameters and their names are the same.
    """

    def temporal_spatial(self, eeg: Tensor) -> Tensor:
        """Convolve in time and over channels: EEG → (batch, filters, tokens)."""
        activity = functional.avg_pool2d(self.temporal(eeg[:, None]), (1, POOL), (1, STRIDE))
        activity = functional.elu(self.temporal_norm(activity))  # (batch, filters, ch, tokens)
        return self.spatial_norm(self.spatial(activity)).squeeze(2)


def load_published(encoder_file: str, projection_file: str) -> NICE:
    """Read the authors' pair of checkpoints into our encoder.

    Parameters
    ----------
    encoder_file, projection_file : str
        ``Enc_eeg_cls.pth`` and ``Proj_eeg_cls.pth`` as github.com/eeyhsong/NICE-EEG saves them,
        with or without the ``module.`` prefix of data parallelism.

    Returns
    -------
    NICE
        In evaluation mode; its sizes are those of the files.

    Raises
    ------
    InputError
        Where a file is missing, holds anything but weights, or lacks one.
    """
    published = _read_weights(encoder_file) | {
        f"projection.{name}": tensor for name, tensor in _read_weights(projection_file).items()
    }
    weights = {}
    for name, prefix in _PUBLISHED_NAMES.items():
        found = {key: value for key, value in published.items() if key.startswith(prefix + ".")}
        if not found:
            raise InputError(
                f"{encoder_file} and {projection_file} hold no {prefix!r}; "
                "give the pair that NICE-EEG saved, encoder first."
            )
        weights |= {name + key[len(prefix) :]: value for key, value in found.items()}
    try:
        filters, _, channels, _ = weights["spatial.weight"].shape
        dim, flat = weights["project.weight"].shape
        times = (flat // filters - 1) * STRIDE + KERNEL + POOL - 1
        encoder = NICE(channels, times, dim, filters)
        encoder.load_state_dict(weights)
    except (KeyError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(
            f"{encoder_file} and {projection_file} don't fit NICE ({one_line(error)}); "
            "give the pair that NICE-EEG saved, encoder first."
        ) from None
    return encoder.eval()


_PUBLISHED_NAMES = {
    "temporal": "0.tsconv.0",
    "temporal_norm": "0.tsconv.2",
    "spatial": "0.tsconv.4",
    "spatial_norm": "0.tsconv.5",
    "tokens": "0.projection.0",
    "project": "projection.0",
    "residual": "projection.1.fn.1",
    "norm": "projection.2",
}


def _read_weights(path: str) -> dict[str, Tensor]:
    """Read a ``.pth`` of tensors only; anything that would run code is refused."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give the path of the authors' checkpoint.") from None
    except Exception as error:  # whatever torch's reader makes of foreign bytes
        raise InputError(
            f"{path} was not opened: it isn't a plain file of weights ({type(error).__name__}). "
            "Take the checkpoint from the authors' own release."
        ) from None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise InputError(f"{path} holds something other than weights; give a state dict.")
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def _running_mean(eeg: Tensor, width: int) -> Tensor:
    """Do what `RunningMean` does, by ordinary operations."""
    total = functional.pad(eeg.cumsum(-1), (1, 0))
    return (total[..., width:] - total[..., :-width]).div_(width)


def _patch_sums(mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many patches (batch, channels, samples) has, their sum and their products' sum.

    Of shape (), (25,) and (25, 25). Patches overlap: the products of all pairs of samples hold
    those of each token's patch, and are less work.
    """
    rows = mean.to(torch.promote_types(mean.dtype, torch.float32)).flatten(0, 1)
    half = rows.detach().T @ rows  # whose gradient is one matrix product, not two alike
    pairs = (half + half.T - half.detach()).unfold(0, KERNEL, STRIDE).unfold(1, KERNEL, STRIDE)
    total = rows.sum(0).unfold(0, KERNEL, STRIDE).sum(0)
    products = pairs.diagonal(dim1=0, dim2=1).sum(2)  # over tokens
    count = rows.new_full((), len(rows) * len(pairs))  # filled on the device: no GPU waits for it
    return count, total, products


@torch.no_grad()
def _follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Let running statistics follow a batch's, as `BatchNorm2d` does."""
    variance = variance * count / (count - 1).clamp(min=1)
    norm.num_batches_tracked += 1
    # Not lerp_: torch.func.vmap, which trains several models as one, doesn't know it.
    norm.running_mean += norm.momentum * (mean - norm.running_mean)
    norm.running_var += norm.momentum * (variance - norm.running_var)


def _initialise(module: nn.Module) -> None:
    """Initialise as the authors' code does; biases keep PyTorch's default."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
