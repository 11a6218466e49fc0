"""Masks grown and shrunk by a voxel, and means round them, in any number of axes.

SciPy's ``binary_dilation`` and ``binary_erosion`` for what runs inside a step: shifts
and logic, no loop over voxels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def dilated(
    mask: Bool[Array, "*space"], times: int = 1, *, corners: bool = True
) -> Bool[Array, "*space"]:
    """The mask and its neighbours.

    Args:
        mask: any number of axes, all of them spatial.
        times: how many voxels it grows by.
        corners: neighbours over faces, edges and corners (8 in 2-D, 26 in 3-D), or over
            faces alone (4 and 6).
    """
    for _ in range(times):
        grown = mask
        for axis in range(mask.ndim):
            # With corners the axes follow each other; without, all start anew.
            of = grown if corners else mask
            grown = grown | _shifted(of, 1, axis) | _shifted(of, -1, axis)
        mask = grown
    return mask


def eroded(mask: Bool[Array, "*space"]) -> Bool[Array, "*space"]:
    """Without the voxels that have a face on the outside or on the image's border."""
    inner = mask
    for axis in range(mask.ndim):
        inner = inner & _shifted(mask, 1, axis) & _shifted(mask, -1, axis)
    return inner


def grown_labels(labels: Int[Array, "*space"], times: int) -> Int[Array, "*space"]:
    """Labels spread into the background by some voxels; the larger one wins."""
    for _ in range(times):
        largest = labels
        for axis in range(labels.ndim):
            for step in (1, -1):
                largest = jnp.maximum(largest, _shifted(labels, step, axis))
        labels = jnp.where(labels > 0, labels, largest)
    return labels


def masked_moments(
    image: Float[Array, "*space"], mask: Bool[Array, "*space"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean and standard deviation inside a mask; 0 and 0 where it is empty."""
    count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
    mean = jnp.sum(jnp.where(mask, image, 0.0)) / count
    squares = jnp.sum(jnp.where(mask, (image - mean) ** 2, 0.0))
    return mean, jnp.sqrt(squares / count)


def _shifted(x: Array, step: int, axis: int) -> Array:
    """The neighbour one voxel before (step 1) or behind (-1); 0 beyond the border."""
    n = x.shape[axis]
    edge = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    if step == 1:
        parts = [edge, jax.lax.slice_in_dim(x, 0, n - 1, axis=axis)]
    else:
        parts = [jax.lax.slice_in_dim(x, 1, n, axis=axis), edge]
    return jnp.concatenate(parts, axis=axis)
