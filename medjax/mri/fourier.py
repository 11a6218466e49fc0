"""The centred orthonormal Fourier transform, and cropping that respects its centre.

k-space of a scanner has its centre (DC) at index ``n // 2`` of every axis, and so has
an image. The transform between them is therefore ``fftshift . fft . ifftshift``, scaled
to be unitary. For even sizes the two shifts are the same permutation and may be
exchanged unnoticed; for odd sizes they may not: the official CMRxRecon ``ifft2c``
exchanges them, and its images of odd size are wrong.

Cropping and padding keep index ``n // 2`` at the centre, so that a crop in k-space
lowers the resolution without a phase ramp. This is the convention of the CMRxRecon
evaluation as well (start ``n // 2 - size // 2``); fastMRI's ``(n - size) // 2`` differs
by one where ``n`` is even and ``size`` odd.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Shaped

from medjax_kernels import fft

SPATIAL = (-2, -1)
"""The axes ``h w`` (ky, kx) of every array of this package."""


@functools.partial(jax.jit, static_argnames="axes")
def centred_fft(
    x: Complex[Array, "..."], *, axes: tuple[int, ...]
) -> Complex[Array, "..."]:
    """Unitary discrete Fourier transform with the origin in the middle, any size.

    Args:
        x: complex array.
        axes: the axes to transform.

    Returns:
        The transform, of the same shape; ``centred_ifft`` is its inverse and adjoint.
    """
    shifted = fft.fftn(jnp.fft.ifftshift(x, axes), axes, norm="ortho")
    return jnp.fft.fftshift(shifted, axes)


@functools.partial(jax.jit, static_argnames="axes")
def centred_ifft(
    x: Complex[Array, "..."], *, axes: tuple[int, ...]
) -> Complex[Array, "..."]:
    """Inverse of :func:`centred_fft`.

    Args:
        x: complex array.
        axes: the axes to transform.

    Returns:
        The inverse transform, of the same shape.
    """
    shifted = fft.ifftn(jnp.fft.ifftshift(x, axes), axes, norm="ortho")
    return jnp.fft.fftshift(shifted, axes)


def fft2c(image: Complex[Array, "*b h w"]) -> Complex[Array, "*b h w"]:
    """Image to k-space over the last two axes.

    Args:
        image: complex images; any leading axes (frames, coils, examples).

    Returns:
        k-space, centre at ``[h // 2, w // 2]``.
    """
    return centred_fft(image, axes=SPATIAL)


def ifft2c(kspace: Complex[Array, "*b h w"]) -> Complex[Array, "*b h w"]:
    """k-space to image over the last two axes; inverse and adjoint of :func:`fft2c`.

    Args:
        kspace: complex k-space, centre at ``[h // 2, w // 2]``.

    Returns:
        Complex images.
    """
    return centred_ifft(kspace, axes=SPATIAL)


def centre_crop(
    x: Shaped[Array, "*b h w"], *, height: int, width: int
) -> Shaped[Array, "*b height width"]:
    """The middle of the last two axes; keeps index ``n // 2`` at ``size // 2``.

    Args:
        x: images or k-space of any dtype.
        height: rows kept, at most ``h``.
        width: columns kept, at most ``w``.

    Returns:
        The crop.

    Raises:
        ValueError: where the crop is larger than the array.
    """
    h, w = x.shape[-2:]
    if not (0 < height <= h and 0 < width <= w):
        raise ValueError(f"a crop of {height}x{width} does not fit in x of {h}x{w}")
    top, left = h // 2 - height // 2, w // 2 - width // 2
    return x[..., top : top + height, left : left + width]


def centre_pad(
    x: Shaped[Array, "*b h w"], *, height: int, width: int
) -> Shaped[Array, "*b height width"]:
    """Zeros around the last two axes: the adjoint of :func:`centre_crop`.

    Args:
        x: images or k-space of any dtype.
        height: rows of the result, at least ``h``.
        width: columns of the result, at least ``w``.

    Returns:
        The padded array; in k-space, sinc interpolation of the image.

    Raises:
        ValueError: where the result would be smaller than the array.
    """
    h, w = x.shape[-2:]
    if height < h or width < w:
        raise ValueError(f"x of {h}x{w} cannot be padded to {height}x{width}")
    top, left = height // 2 - h // 2, width // 2 - w // 2
    beside = [(0, 0)] * (x.ndim - 2)
    around = [(top, height - h - top), (left, width - w - left)]
    return jnp.pad(x, [*beside, *around])


def remove_readout_oversampling(
    kspace: Complex[Array, "*b h w"], *, factor: int = 2
) -> Complex[Array, "*b h w_kept"]:
    """Drop the outer field of view that the scanner's readout oversampling added.

    Scanners sample the readout ``factor`` times too densely, which costs no time and
    pushes aliasing out of the picture; CMRxRecon's k-space still holds it (x2).

    Args:
        kspace: k-space whose last axis is the readout.
        factor: how many times the field of view is too wide.

    Returns:
        k-space of ``w // factor`` columns with the same voxel size.

    Raises:
        ValueError: where the width is not a multiple of the factor.
    """
    h, w = kspace.shape[-2:]
    if factor < 1 or w % factor:
        raise ValueError(f"kspace has {w} columns, no multiple of factor {factor}")
    hybrid = centred_ifft(kspace, axes=(-1,))
    kept = centre_crop(hybrid, height=h, width=w // factor)
    return centred_fft(kept, axes=(-1,))
