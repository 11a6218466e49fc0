"""What a generator of films trains and on what shapes, by its flags alone."""

import numpy as np

from medjax.nn.diffusion.autoencoder import AutoencoderConfig
from medjax.nn.diffusion.clip_text import ClipTextConfig
from medjax.nn.diffusion.unet import UNetConfig
from medjax.train.workload import Workload, spec
from medjax.vlp.diffusion.folder import load_networks
from medjax.vlp.diffusion.networks import Networks
from medjax.vlp.diffusion.run import Generation, check_size
from medjax.vlp.diffusion.sizes import autoencoder_sizes, network_sizes
from medjax.vlp.diffusion.training import diffusion_system
from medjax.vlp.towers import bert_config
from medjax.vlp.workload import rows, settled
from medjax.weights.files import without_network

STABLE_DIFFUSION = Networks(
    UNetConfig(cross_attention_dim=768), AutoencoderConfig(), ClipTextConfig()
)
"""Sizes of Stable Diffusion 1.x."""


def generation(config: Generation) -> Workload:
    """The diffusion that `medjax.vlp.diffusion.run.run` trains, its last training.

    Args:
      config: the run.

    Raises:
      DataError: films of another size than the networks make.
    """
    size, side = config.data.batch_size, config.data.image_size
    if config.start is None:
        text, assumed = settled(config.text)
        autoencoder = autoencoder_sizes(config.system, config.dtype)
        networks = network_sizes(config.system, side, autoencoder, bert_config(text))
        known, tokens = ("autoencoder", "text"), config.text.max_length
    else:
        networks, assumed = started(config.start)
        known, tokens = ("autoencoder", "text", "unet"), networks.max_length
    check_size(side, networks, what="data.image-size")
    batch = {"ids": spec((size, tokens), np.int32)}
    if config.cache_latents:
        latent = spec((size, *networks.latent_shape), np.float32)
        batch |= {"patient": spec((size,), np.int32), "mean": latent, "logvar": latent}
    else:
        batch["image"] = spec((size, side, side), np.uint8)
    system = diffusion_system(
        networks.with_dtype(config.dtype),
        np.zeros((1, tokens), np.int32),
        dropped=config.system.dropped,
        train_text=config.system.train_text,
        known=known,
    )
    return Workload(system, batch, rows(config.data), config, assumed=assumed)


def started(source: str) -> tuple[Networks, tuple[str, ...]]:
    """The networks that are fine-tuned, and what was assumed of them."""
    try:
        with without_network():
            return load_networks(source), ()
    except OSError as error:
        told = (
            f"start: {source} is not at hand ({type(error).__name__}): sizes of Stable "
            "Diffusion 1.x"
        )
        return STABLE_DIFFUSION, (told,)
