"""NICE's EEG encoder: temporal–spatial convolution and a projection into the picture space.

Song et al., "Decoding Natural Images from EEG for Object Recognition", ICLR 2024, section 3.
EEG of shape (batch, channels, times) flows in, embeddings of shape (batch, dim) flow out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nice_demo.errors import InputError, one_line

KERNEL = 25  # samples of the temporal convolution
POOL, STRIDE = 51, 5  # samples of the average pooling


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

    Raises
    ------
    InputError
        For fewer than 75 samples or less than one channel.
    """

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
        self.dropout = nn.Dropout(dropout)
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
        batch = len(eeg)
        patches = _running_mean(eeg, POOL).unfold(2, KERNEL, STRIDE)  # (batch, ch, tokens, 25)
        tokens = patches.shape[2]
        patches = patches.transpose(1, 2).reshape(-1, KERNEL)  # (batch · tokens · channels, 25)
        weight, bias = self._normalised_temporal(patches)
        # In place: this is the largest array by far, and nothing needs it from before the ELU.
        activity = functional.elu(torch.addmm(bias, patches, weight.T), inplace=True)
        activity = activity.view(batch * tokens, -1)  # (batch · tokens, channels · filters)
        spatial = self.spatial.weight.squeeze(3).transpose(1, 2).flatten(1)
        mixed = torch.addmm(self.spatial.bias, activity, spatial.T)  # (batch · tokens, filters)
        return self.spatial_norm(mixed.view(batch, tokens, 1, -1).permute(0, 3, 1, 2)).squeeze(3)

    def _normalised_temporal(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Fold `temporal_norm` into the temporal convolution: (filters, 25) and (filters,)."""
        weight, bias, norm = self.temporal.weight.flatten(1), self.temporal.bias, self.temporal_norm
        if self.training:
            count = len(patches)
            centre = patches.mean(0)
            covariance = patches.T @ patches / count - torch.outer(centre, centre)
            mean = weight @ centre + bias
            variance = ((weight @ covariance) * weight).sum(1)
            with torch.no_grad():
                norm.num_batches_tracked += 1
                norm.running_mean.lerp_(mean, norm.momentum)
                norm.running_var.lerp_(variance * count / max(count - 1, 1), norm.momentum)
        else:
            mean, variance = norm.running_mean, norm.running_var
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        return weight * scale[:, None], norm.bias + (bias - mean) * scale


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
    """Average over `width` neighbouring samples: (…, times) → (…, times − width + 1)."""
    total = functional.pad(eeg.cumsum(-1), (1, 0))
    return (total[..., width:] - total[..., :-width]) / width


def _initialise(module: nn.Module) -> None:
    """Initialise as the authors' code does; biases keep PyTorch's default."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
