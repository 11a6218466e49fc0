"""Where lesions lie: a map of how often, and a voxel drawn from it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import ndimage

from medjax.typing import Key

Marginals = tuple[Array, ...]
"""A density and its sums over the last axes, the coarsest first."""

SMOOTHING_MM = 4.0
"""Standard deviation of the prior's smoothing."""


def lesion_prior(
    masks: Sequence[Bool[np.ndarray, "*space"]], spacing: Sequence[float]
) -> Float[np.ndarray, "*space"]:
    """How often each voxel is a lesion's, smoothed: the masks' mean, blurred by 4 mm.

    Args:
        masks: of training cases on one grid (registered, or phantoms of one shape).
        spacing: voxel size in mm, one number per axis.

    Raises:
        ValueError: without masks, or for masks of different shapes.
    """
    if not masks or len({mask.shape for mask in masks}) != 1:
        shapes = sorted({mask.shape for mask in masks})
        raise ValueError(f"masks: expected some of one shape, got shapes {shapes}")
    mean = np.zeros(masks[0].shape, np.float32)
    for mask in masks:
        mean += mask
    sigma = [SMOOTHING_MM / s for s in spacing]
    blurred = ndimage.gaussian_filter(mean / len(masks), sigma, mode="constant")
    return np.maximum(blurred, 0.0, dtype=np.float32)


def marginals(density: Float[Array, "*space"]) -> Marginals:
    """What :func:`draw_voxel` draws from: the density, and its sums over last axes.

    Args:
        density: not negative.
    """
    sums = [density]
    for _ in range(density.ndim - 1):
        sums.append(jnp.sum(sums[-1], axis=-1))
    return tuple(reversed(sums))


def draw_voxel(of: Marginals, *, key: Key) -> Int[Array, " r"]:
    """Indices of a voxel drawn with a probability proportional to a density.

    Axis by axis, each by inversion of the cumulative sum given those before: one sum
    over all voxels of a volume would round the small ones away.

    Args:
        of: the density's :func:`marginals`; where it is zero everywhere, the first
            voxel comes out.
        key: of the draw.
    """
    u = jax.random.uniform(key, (len(of),))
    index: list[Array] = []
    for axis, weights in enumerate(of):
        for place in index:
            weights = jax.lax.dynamic_index_in_dim(weights, place, keepdims=False)
        cumulative = jnp.cumsum(weights)
        # Below the total, or rounding could point behind the last voxel with a weight.
        at = u[axis] * cumulative[-1] * (1.0 - 1e-6)
        place = jnp.searchsorted(cumulative, at, side="right")
        index.append(jnp.minimum(place, weights.shape[0] - 1).astype(jnp.int32))
    return jnp.stack(index)
