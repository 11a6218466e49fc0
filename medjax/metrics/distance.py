"""Exact Euclidean distance transforms on the device, in mm.

The squared distance separates over the axes: along each,
``g(i) = min_j f(j) + s^2 (i - j)^2`` (Saito and Toriwaki 1994), so no approximation is
made for anisotropic voxels. The first axis starts from a binary mask and is two running
scans. For the others there are two forms of one minimum: on a CPU a loop over ``j``
whose running minimum stays in the cache, on accelerators one reduction that the
compiler fuses into registers, so that the n-fold array is never written.

float32 throughout: against SciPy's float64 the error is that of rounding. Where SciPy
measures to a phantom voxel at index -1 (a mask with nothing to measure to), these
functions say infinity.

Surface distances of a pair of masks on the host come from the k-d tree of
:mod:`medjax.metrics.surface`; this is for what runs inside a step.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def distance_to(
    mask: Bool[Array, "*b_space"], spacing: tuple[float, ...]
) -> Float[Array, "*b_space"]:
    """The distance of every voxel's centre to that of the nearest true voxel.

    SciPy's ``distance_transform_edt(~mask, sampling=spacing)``.

    Args:
        mask: what is measured to; leading axes beyond those of ``spacing`` are a batch.
        spacing: voxel size in mm, one number per spatial axis. Other numbers do not
            compile anew, another count of them does.

    Returns:
        float32 mm: 0 where the mask is true; infinite throughout where it never is.

    Raises:
        ValueError: for more spacings than axes, or none.
    """
    if not 1 <= len(spacing) <= mask.ndim:
        raise ValueError(
            f"spacing {spacing}: expected 1 to {mask.ndim} numbers for a mask of shape "
            f"{mask.shape}"
        )
    return _distance(mask, jnp.asarray(spacing, jnp.float32))


def signed_distance(
    mask: Bool[Array, "*b_space"], spacing: tuple[float, ...]
) -> Float[Array, "*b_space"]:
    """Distance to the mask outside of it, minus the distance to the outside within it.

    No voxel is 0: the surface runs between the last voxel inside, which is minus one
    voxel, and the first one outside, which is plus one.

    Args:
        mask: the object; leading axes beyond those of ``spacing`` are a batch.
        spacing: voxel size in mm, one number per spatial axis.

    Returns:
        float32 mm: plus infinity throughout an empty mask, minus infinity in a full
        one.
    """
    outside, inside = distance_to(mask, spacing), distance_to(~mask, spacing)
    return jnp.where(mask, -inside, outside)


@jax.jit
def _distance(mask: Bool[Array, "..."], spacing: Float[Array, " n"]) -> Array:
    first = mask.ndim - spacing.shape[0]
    squared = (spacing[0] * _along_binary(mask, first)) ** 2
    for axis in range(first + 1, mask.ndim):
        squared = _along(squared, spacing[axis - first] ** 2, axis)
    return jnp.sqrt(squared)


def _along_binary(mask: Array, axis: int) -> Array:
    """Voxels to the nearest true one on the same line."""
    at = jax.lax.broadcasted_iota(jnp.float32, mask.shape, axis)
    before = jax.lax.cummax(jnp.where(mask, at, -jnp.inf), axis)
    after = jax.lax.cummin(jnp.where(mask, at, jnp.inf), axis, reverse=True)
    return jnp.minimum(at - before, after - at)


def _along(f: Array, squared_spacing: Array, axis: int) -> Array:
    """``min_j f(j) + s^2 (i - j)^2`` along one axis."""
    lines = jnp.moveaxis(f, axis, 0)
    forms = functools.partial(
        jax.lax.platform_dependent, cpu=_running, default=_reduced
    )
    return jnp.moveaxis(forms(lines, squared_spacing), 0, axis)


def _running(f: Array, squared_spacing: Array) -> Array:
    at = jax.lax.broadcasted_iota(jnp.float32, f.shape, 0)

    def nearer(j: Array, best: Array) -> Array:
        offset = at - j.astype(jnp.float32)
        return jnp.minimum(best, f[j][None] + squared_spacing * offset * offset)

    return jax.lax.fori_loop(0, f.shape[0], nearer, jnp.full_like(f, jnp.inf))


def _reduced(f: Array, squared_spacing: Array) -> Array:
    at = jnp.arange(f.shape[0], dtype=jnp.float32)
    gap = squared_spacing * (at[:, None] - at[None, :]) ** 2
    gap = gap.reshape(gap.shape + (1,) * (f.ndim - 1))
    return jnp.min(f[None] + gap, axis=1)
