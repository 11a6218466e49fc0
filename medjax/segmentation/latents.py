"""Draws of latents at several levels, and several of them side by side in a batch."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.gaussian import Gaussian
from medjax.segmentation.sampled import normal
from medjax.typing import Key


def latents(
    found: Mapping[str, Gaussian],
    key: Key | None,
    together: float,
    shares: Mapping[str, Float[Array, ""]] | None = None,
) -> dict[str, Float[Array, "b ..."]]:
    """A draw of the latents of every level.

    Args:
        found: Distributions by level.
        key: Of the draw; a level's noise is the same whichever others are drawn. None:
            means.
        together: Share of the variance of the noise that all pixels have in common.
        shares: Of the noise that reaches each level; None: all of it.
    """
    values = {}
    for number, (name, gaussian) in enumerate(found.items()):
        own = None if key is None else jax.random.fold_in(key, number)
        noise = partly_common(own, gaussian.mean.shape, together)
        values[name] = gaussian.at(noise if shares is None else shares[name] * noise)
    return values


def beside(draws: Float[Array, "m b ..."]) -> Float[Array, "r ..."]:
    """Draws as rows of a batch, those of one image next to each other.

    ``vmap`` of a convolution puts all images of a draw together instead: rows that are
    divided among devices are then fetched by every device.

    Args:
        draws: Of every draw and image.
    """
    rows = jnp.moveaxis(draws, 0, 1)
    return rows.reshape(-1, *rows.shape[2:])


def apart(rows: Float[Array, "r ..."], count: int) -> Float[Array, "m b ..."]:
    """What :func:`beside` put together.

    Args:
        rows: Of every image and draw.
        count: Of draws.
    """
    return jnp.moveaxis(rows.reshape(-1, count, *rows.shape[1:]), 1, 0)


def partly_common(
    key: Key | None, shape: Sequence[int], together: float
) -> Float[Array, "b ..."]:
    """Standard normal noise of which the pixels of an image have a share in common.

    Args:
        key: None: zeros.
        shape: Rows, pixels, channels.
        together: The share of the variance; correlation of any two pixels.
    """
    if key is None or not together:
        return normal(key, shape)
    common_key, own_key = jax.random.split(key)
    common = normal(common_key, (shape[0], *(1,) * (len(shape) - 2), shape[-1]))
    own = normal(own_key, shape)
    return math.sqrt(together) * common + math.sqrt(1 - together) * own
