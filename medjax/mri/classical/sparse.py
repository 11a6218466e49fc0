"""Compressed sensing: least squares plus the L1 norm of gradients or wavelets.

``argmin_x 1/2 |A x - y|^2 + lambda |T x|_1`` with ``lambda = lam * max |A^H y|``. Both
solvers touch the data only through the normal operator of the kernels, whose norm is at
most one for unit-norm maps; that fixes their step sizes.

Wavelets: FISTA (Beck and Teboulle 2009), the transform being orthonormal. Gradients:
the primal-dual method of Condat 2013 and Vu 2013, which needs no inner solve. The
objectives are sigpy's (anisotropic TV with circular differences), so the minimisers are
comparable; the algorithms differ.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex

from medjax.mri import sense
from medjax.mri.classical.wavelets import dwt2, idwt2


def soft_threshold(
    x: Complex[Array, "..."], threshold: ArrayLike
) -> Complex[Array, "..."]:
    """Shrink magnitudes by ``threshold``, keep phases: the proximal map of L1.

    Args:
        x: complex array.
        threshold: how much to subtract, broadcast against ``x``.

    Returns:
        ``x * max(1 - threshold / |x|, 0)``.
    """
    size = jnp.abs(x)
    kept = jnp.maximum(size - threshold, 0) / jnp.where(size > 0, size, 1.0)
    return kept.astype(x.dtype) * x


@functools.partial(jax.jit, static_argnames=("levels", "iterations"))
def wavelet(
    kspace: Complex[Array, "*b c h w"],
    maps: Complex[Array, "*m c h w"],
    mask: ArrayLike,
    *,
    lam: ArrayLike = 0.001,
    levels: int = 3,
    iterations: int = 60,
) -> Complex[Array, "*n h w"]:
    """L1-wavelet reconstruction (Lustig 2007), Daubechies 4.

    Args:
        kspace: measured k-space.
        maps: unit-norm sensitivity maps.
        mask: sampling mask.
        lam: weight relative to the largest magnitude of the zero-filled image.
        levels: wavelet levels.
        iterations: FISTA steps.

    Returns:
        Complex images.
    """
    start, lam = _start(kspace, maps, mask, lam)
    h, w = start.shape[-2:]

    def denoise(x: Array) -> Array:
        kept = soft_threshold(dwt2(x, levels=levels), lam)
        return idwt2(kept, height=h, width=w, levels=levels)

    def step(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple, None]:
        x, z, momentum = carry
        new = denoise(z - (sense.normal(z, maps, mask) - start))
        grown = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        ahead = ((momentum - 1) / grown).astype(x.dtype)
        return (new, new + ahead * (new - x), grown), None

    one = jnp.ones((), start.real.dtype)
    (x, _, _), _ = jax.lax.scan(step, (start, start, one), None, length=iterations)
    return x


@functools.partial(jax.jit, static_argnames="iterations")
def total_variation(
    kspace: Complex[Array, "*b c h w"],
    maps: Complex[Array, "*m c h w"],
    mask: ArrayLike,
    *,
    lam: ArrayLike = 0.0005,
    iterations: int = 200,
) -> Complex[Array, "*n h w"]:
    """Total-variation reconstruction (Block 2007), anisotropic, circular differences.

    Args:
        kspace: measured k-space.
        maps: unit-norm sensitivity maps.
        mask: sampling mask.
        lam: weight relative to the largest magnitude of the zero-filled image.
        iterations: primal-dual steps.

    Returns:
        Complex images.
    """
    start, lam = _start(kspace, maps, mask, lam)
    # Condat-Vu converges for 1/tau - sigma |G|^2 >= 1/2, and |G|^2 <= 8 in the plane.
    tau, sigma = 1.0, 1 / 16

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        x, dual = carry
        descent = sense.normal(x, maps, mask) - start + gradient_adjoint(dual)
        new = x - tau * descent
        dual = dual + sigma * gradient(2 * new - x)
        # The dual of lambda |.|_1 is the ball of radius lambda, pixel by pixel.
        dual = dual - soft_threshold(dual, lam[None])
        return (new, dual), None

    (x, _), _ = jax.lax.scan(step, (start, gradient(start) * 0), None, iterations)
    return x


def gradient(image: Complex[Array, "*b h w"]) -> Complex[Array, "2 *b h w"]:
    """Differences to the previous row and column, the border wrapping around.

    Args:
        image: images.

    Returns:
        The two differences, stacked in front.
    """
    return jnp.stack([image - jnp.roll(image, 1, axis=axis) for axis in (-2, -1)])


def gradient_adjoint(field: Complex[Array, "2 *b h w"]) -> Complex[Array, "*b h w"]:
    """Adjoint of :func:`gradient`, a negative divergence.

    Args:
        field: two differences, stacked in front.

    Returns:
        Images.
    """
    rows, columns = field[0], field[1]
    return (rows - jnp.roll(rows, -1, axis=-2)) + (
        columns - jnp.roll(columns, -1, axis=-1)
    )


def _start(
    kspace: Array, maps: Array, mask: ArrayLike, lam: ArrayLike
) -> tuple[Array, Array]:
    """``A^H y`` and the absolute weight, per image."""
    start = sense.adjoint(kspace, maps, mask)
    scale = jnp.max(jnp.abs(start), axis=(-2, -1), keepdims=True)
    return start, jnp.asarray(lam, scale.dtype) * scale
