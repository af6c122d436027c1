"""Pictures → embeddings by an image model of the Hugging Face Hub (CLIP)."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from nice_demo.errors import InputError

if TYPE_CHECKING:
    from PIL import Image


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Yield lists of `size` items, the last of what is left, without holding more than one."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def embed_pictures(
    pictures: "Iterable[Image.Image]",
    model: str = "openai/clip-vit-large-patch14",
    revision: str | None = None,
    device: str = "cpu",
    batch: int = 32,
) -> np.ndarray:
    """Embed pictures as the paper does: CLIP's projected image embedding, of unit norm.

    Parameters
    ----------
    pictures : iterable of PIL.Image.Image
        Of any size and mode.
    model : str
        A CLIP model of the Hub, or a folder that holds one.
    revision : str, optional
        Commit, branch or tag of the Hub's model; the newest where None.
    device : str
        "cpu", "cuda", …
    batch : int
        Pictures at a time.

    Returns
    -------
    array of shape (n_pictures, dim), float32
        Of unit norm; `dim` is 768 for the paper's model.

    Raises
    ------
    InputError
        Where the model can't be loaded or there is no picture.

    References
    ----------
    .. [1] A. Radford et al. "Learning transferable visual models from natural language
       supervision." ICML 2021.
    .. [2] Y. Song et al. "Decoding natural images from EEG for object recognition." ICLR 2024.
    """
    import torch

    processor, network = _clip(model, revision)
    network = network.to(device).eval()
    embeddings = []
    for some in batches(pictures, batch):
        pixels = processor([picture.convert("RGB") for picture in some], return_tensors="pt")
        with torch.inference_mode():
            embedded = network(pixels["pixel_values"].to(device)).image_embeds
        embeddings.append(torch.nn.functional.normalize(embedded.float(), dim=-1).cpu().numpy())
    if not embeddings:
        raise InputError("There is no picture to embed; give at least one.")
    return np.concatenate(embeddings)


def _clip(model: str, revision: str | None):
    """Return processor and network of a CLIP model."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        PreTrainedConfig,
        logging,
    )

    name = f"{model!r}" if revision is None else f"{model!r} at revision {revision!r}"
    verbosity = logging.get_verbosity()
    # Half of CLIP, for text, is left out on purpose; transformers would list each of its weights.
    logging.set_verbosity_error()
    try:
        kind = PreTrainedConfig.get_config_dict(model, revision=revision)[0].get("model_type")
        if kind == "clip":
            whole = CLIPConfig.from_pretrained(model, revision=revision)
            config = whole.vision_config
            config.projection_dim = whole.projection_dim
        elif kind == "clip_vision_model":
            config = CLIPVisionConfig.from_pretrained(model, revision=revision)
        elif kind is not None:
            # Any other model's weights would "load" as a CLIP of random numbers.
            raise InputError(
                f"The image model {name} is of type {kind!r}, not CLIP; "
                "choose a CLIP model such as 'openai/clip-vit-large-patch14'."
            )
        else:
            raise OSError("no configuration that names a model type")
        processor = CLIPImageProcessor.from_pretrained(model, revision=revision)
        # Safetensors only: a pickle could run code.
        network = CLIPVisionModelWithProjection.from_pretrained(
            model, config=config, revision=revision, use_safetensors=True
        )
    except InputError:
        raise
    # What the Hub's client raises where a name is unknown or the network away varies.
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The image model {name} can't be loaded: the Hugging Face Hub couldn't be reached or "
            "has no such CLIP model; check its name and the network, or give the folder of a "
            "model downloaded before."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return processor, network
