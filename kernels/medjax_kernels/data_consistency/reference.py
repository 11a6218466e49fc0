"""What each operation means, in the fewest lines: the oracle of every test.

Everything goes through the full centred orthonormal 2-D Fourier transform, in the
precision of its arguments (complex128 under ``jax_enable_x64``), with no thought for
speed. Leading axes broadcast as NumPy's do.
"""

import jax.numpy as jnp
from jaxtyping import Array, Complex, Real

AXES = (-2, -1)


def fourier(x: Complex[Array, "... h w"]) -> Complex[Array, "... h w"]:
    """Image to k-space, the origin of both at index ``n // 2``."""
    shifted = jnp.fft.fft2(jnp.fft.ifftshift(x, AXES), norm="ortho")
    return jnp.fft.fftshift(shifted, AXES)


def inverse_fourier(k: Complex[Array, "... h w"]) -> Complex[Array, "... h w"]:
    """k-space to image: inverse and adjoint of :func:`fourier`."""
    shifted = jnp.fft.ifft2(jnp.fft.ifftshift(k, AXES), norm="ortho")
    return jnp.fft.fftshift(shifted, AXES)


def expand(
    image: Complex[Array, "*b h w"], maps: Complex[Array, "*m c h w"]
) -> Complex[Array, "*n c h w"]:
    """Coil images ``S x``."""
    return maps * image[..., None, :, :]


def combine(
    coils: Complex[Array, "*b c h w"], maps: Complex[Array, "*m c h w"]
) -> Complex[Array, "*n h w"]:
    """``S^H c``, the adjoint of :func:`expand`."""
    return jnp.sum(jnp.conj(maps) * coils, axis=-3)


def normal_operator(
    image: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m c h w"],
    mask: Real[Array, "..."],
) -> Complex[Array, "*n h w"]:
    """``S^H F^H M F S x``."""
    kspace = fourier(expand(image, maps))
    return combine(inverse_fourier(mask.astype(kspace.dtype) * kspace), maps)


def blend(
    kspace: Complex[Array, "*b h w"],
    measured: Complex[Array, "*m h w"],
    weight: Real[Array, "..."],
) -> Complex[Array, "*n h w"]:
    """``(1 - w) k + w k_0`` with ``w = m / (1 + lambda)``."""
    return (1 - weight) * kspace + weight * measured


def varnet_kspace_update(
    kspace: Complex[Array, "*b c h w"],
    measured: Complex[Array, "*d c h w"],
    maps: Complex[Array, "*m c h w"],
    mask: Real[Array, "..."],
    refinement: Complex[Array, "*r h w"],
    step_size: float,
) -> Complex[Array, "*n c h w"]:
    """E2E-VarNet's cascade where its authors define it, in multi-coil k-space.

    Sriram et al. 2020 (arXiv 2004.06688), eq. 7: ``k - eta M (k - k_0) - F S r``.
    """
    consistency = step_size * mask.astype(kspace.dtype) * (kspace - measured)
    return kspace - consistency - fourier(expand(refinement, maps))
