"""Encoders: EEG (batch, channels, times) → embeddings (batch, dim), by name.

An encoder on disk is a safetensors file: its weights, and in the metadata its name and sizes.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nice_demo.encoders.nice import NICE
from nice_demo.encoders.ridge import Ridge
from nice_demo.encoders.spatial import NICEGA, NICESA
from nice_demo.errors import InputError, one_line
from nice_demo.files import complete_file

ENCODERS: dict[str, type[nn.Module]] = {
    "nice": NICE,
    "nice-sa": NICESA,
    "nice-ga": NICEGA,
    "ridge": Ridge,
}


def build(name: str, **config) -> nn.Module:
    """Make an untrained encoder.

    Raises
    ------
    InputError
        Where no encoder has this name.
    """
    if name not in ENCODERS:
        raise InputError(f"There is no encoder {name!r}; choose one of {', '.join(ENCODERS)}.")
    return ENCODERS[name](**config)


def encoder_name(encoder: nn.Module) -> str:
    """Return the name under which `build` makes this encoder."""
    return next(name for name, kind in ENCODERS.items() if type(encoder) is kind)


def halved(encoder: nn.Module) -> nn.Module:
    """Round the weight matrices to float16 in place, as `save_encoder` stores them.

    Biases and running statistics stay float32: they are few, and some are large.
    """
    state = encoder.state_dict()
    encoder.load_state_dict({k: v.half().float() if v.ndim > 1 else v for k, v in state.items()})
    return encoder


def save_encoder(encoder: nn.Module, path: Path | str) -> None:
    """Write an encoder; matrices as float16, the rest as it is."""
    tensors = {
        key: (value.half() if value.ndim > 1 else value).contiguous().cpu()
        for key, value in encoder.state_dict().items()
    }
    # One entry: several are written in an order that changes, and with it the file's hash.
    what = json.dumps({"name": encoder_name(encoder), **encoder.config})
    with complete_file(path) as part:
        save_file(tensors, part, {"encoder": what})


def open_encoder(path: Path | str) -> nn.Module:
    """Read an encoder, in evaluation mode.

    Raises
    ------
    InputError
        Where the file is missing, damaged, or of an encoder that this version doesn't know.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        encoder = build(**json.loads(metadata["encoder"]))
        encoder.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except InputError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, ArithmeticError,
            RuntimeError) as error:  # fmt: skip
        raise InputError(
            f"{path} can't be opened as an encoder ({one_line(error)}); train it anew."
        ) from None
    return encoder.eval()


@torch.inference_mode()
def embed(encoder: nn.Module, eeg: torch.Tensor, batch: int = 200) -> torch.Tensor:
    """Embed EEG (n, channels, times) in batches, as unit vectors (n, dim) in float32."""
    parts = [encoder(part.float()) for part in eeg.split(batch)]
    return nn.functional.normalize(torch.cat(parts), dim=1)
