"""Gaussian blurs of images and volumes: one for all domains.

Separable, in any number of spatial axes, with channels behind them; batches are
``vmap``. The widths may be traced (drawn at random in an augmentation); how many
neighbours take part is static and follows from the largest width.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Border = Literal["mirror", "edge", "zero"]
"""Beyond the border the image is mirrored about its last voxel (SciPy's ``mirror``),
goes on as that is (``nearest``) or is zero (``constant``)."""

_PADDING = {"mirror": "reflect", "edge": "edge", "zero": "constant"}


def gaussian_blur(
    image: Float[Array, "..."],
    sigma: Sequence[ArrayLike],
    *,
    largest: float,
    border: Border = "mirror",
) -> Float[Array, "..."]:
    """The image convolved with a Gaussian, cut at three of the largest widths.

    Args:
        image: one spatial axis per width, then any channels.
        sigma: standard deviations in voxels, one per spatial axis; 0 leaves the axis as
            it is, and so does anything below a thousandth.
        largest: no width is larger; decides on the size of the kernel.
        border: what lies beyond the border.

    Raises:
        ValueError: for fewer axes than widths.
    """
    if not 1 <= len(sigma) <= image.ndim:
        raise ValueError(
            f"sigma: got {len(sigma)} widths for an image of shape {image.shape}"
        )
    for axis, width in enumerate(sigma):
        n = image.shape[axis]
        radius = max(1, round(3 * largest))
        if border == "mirror":
            radius = min(radius, n - 1)
        kernel = gaussian_kernel(width, radius)
        pads = [(radius, radius) if i == axis else (0, 0) for i in range(image.ndim)]
        padded = jnp.moveaxis(jnp.pad(image, pads, mode=_PADDING[border]), axis, 0)
        shifted = [kernel[i] * padded[i : i + n] for i in range(2 * radius + 1)]
        image = jnp.moveaxis(sum(shifted[1:], shifted[0]), 0, axis)
    return image


def gaussian_kernel(sigma: ArrayLike, radius: int) -> Float[Array, " taps"]:
    """Weights of the neighbours from ``-radius`` to ``radius``, which sum to one."""
    taps = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    kernel = jnp.exp(-0.5 * (taps / jnp.maximum(sigma, 1e-3)) ** 2)
    return kernel / kernel.sum()
