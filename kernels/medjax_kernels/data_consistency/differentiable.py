"""The gradient that kernels share: backwards, the operator is itself once more.

With ``G`` the gradient of the loss by ``A^H A x`` (JAX's cotangent conjugated), and
``K = F^H M F`` self-adjoint,

    dL/dx   = sum_c conj(S_c) K (S_c G)
    dL/dS_c = conj(x) K (S_c G) + conj(G) K (S_c x)

Both projections are recomputed from the inputs, so nothing is kept from the forward
pass. A kernel applied to coil images with a single map of ones is such a projection.
The gradient by the mask goes through XLA's FFT; ``jit`` drops it unless it is used.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from medjax_kernels.data_consistency import xla

Kernel = Callable[[Array, Array, Array], Array]
"""``(image, maps, mask) -> A^H A image`` for aligned arrays."""


def project(kernel: Kernel, z: Array, mask: Array) -> Array:
    """``K z`` by a kernel for ``S^H K S``: one coil, of ones."""
    ones = jnp.ones((1,) * (z.ndim - 2) + (1, *z.shape[-2:]), z.dtype)
    return normal(kernel, z, ones, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normal(kernel: Kernel, image: Array, maps: Array, mask: Array) -> Array:
    """The kernel, with gradients by image, maps and mask."""
    return kernel(image, maps, mask)


def _forward(
    kernel: Kernel, image: Array, maps: Array, mask: Array
) -> tuple[Array, tuple[Array, ...]]:
    return kernel(image, maps, mask), (image, maps, mask)


def _backward(
    kernel: Kernel, saved: tuple[Array, ...], cotangent: Array
) -> tuple[Array, ...]:
    image, maps, mask = saved
    gradient = jnp.conj(cotangent)
    of_gradient, of_image = (
        project(kernel, maps * x[..., None, :, :], mask[..., None, :, :])
        for x in (gradient, image)
    )
    by_image = jnp.sum(jnp.conj(maps) * of_gradient, axis=-3)
    by_maps = (
        jnp.conj(image)[..., None, :, :] * of_gradient
        + jnp.conj(gradient)[..., None, :, :] * of_image
    )
    _, pull = jax.vjp(lambda m: _by_fft(image, maps, m), mask)
    (by_mask,) = pull(cotangent)
    return jnp.conj(by_image), jnp.conj(_sum_to(by_maps, maps.shape)), by_mask


normal.defvjp(_forward, _backward)


def _by_fft(image: Array, maps: Array, mask: Array) -> Array:
    coils = xla.project_fft(maps * image[..., None, :, :], mask[..., None, :, :])
    return jnp.sum(jnp.conj(maps) * coils, axis=-3)


def _sum_to(x: Shaped[Array, "..."], shape: tuple[int, ...]) -> Shaped[Array, "..."]:
    """Undo broadcasting: sum over the axes that have size 1 in ``shape``."""
    axes = [i for i, (n, m) in enumerate(zip(x.shape, shape, strict=True)) if n != m]
    return jnp.sum(x, axis=axes, keepdims=True) if axes else x
