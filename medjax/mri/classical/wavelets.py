"""The orthonormal Daubechies-4 wavelet transform of images, periodic and multi-level.

One level filters and halves each axis with the eight-tap pair; the next level repeats
on the low-pass quarter. A level is a matrix product with an orthogonal matrix on each
side, which accelerators do faster than strided filters. Images are padded with zeros to
a multiple of ``2**levels``, so the transform is an isometry for every size and
orthonormal for those that fit: its adjoint undoes it.

Daubechies 1988. Libraries that extend the image with zeros at every level instead (as
sigpy through PyWavelets) have slightly more coefficients and other values at borders.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

# Scaling filter of db4 (four vanishing moments), Daubechies 1988, table 1.
_LOW = np.array(
    [
        0.23037781330885523,
        0.7148465705525415,
        0.6308807679295904,
        -0.02798376941698385,
        -0.18703481171888114,
        0.030841381835986965,
        0.032883011666982945,
        -0.010597401784997278,
    ]
)
_HIGH = _LOW[::-1] * (-1.0) ** np.arange(8)


def padded_size(height: int, width: int, *, levels: int) -> tuple[int, int]:
    """The plane of coefficients: sizes rounded up to a multiple of ``2**levels``.

    Args:
        height: rows of the image.
        width: columns of the image.
        levels: number of levels.

    Returns:
        Rows and columns of the coefficient array.
    """
    unit = 2**levels
    return -(-height // unit) * unit, -(-width // unit) * unit


def dwt2(image: Complex[Array, "*b h w"], *, levels: int = 3) -> Complex[Array, "..."]:
    """Forward transform; coefficients lie in the usual pyramid in one plane.

    Args:
        image: images of any size.
        levels: number of levels.

    Returns:
        Coefficients of :func:`padded_size`, low-pass part in the first corner.
    """
    h, w = image.shape[-2:]
    height, width = padded_size(h, w, levels=levels)
    beside = [(0, 0)] * (image.ndim - 2)
    out = jnp.pad(image, [*beside, (0, height - h), (0, width - w)])
    for level in range(levels):
        rows, columns = height >> level, width >> level
        part = _apply(_analysis(rows), out[..., :rows, :columns], _analysis(columns))
        out = out.at[..., :rows, :columns].set(part)
    return out


def idwt2(
    coefficients: Complex[Array, "..."], *, height: int, width: int, levels: int = 3
) -> Complex[Array, "..."]:
    """Adjoint, and inverse, of :func:`dwt2`.

    Args:
        coefficients: pyramids in one plane.
        height: rows of the image.
        width: columns of the image.
        levels: number of levels.

    Returns:
        Images.

    Raises:
        ValueError: where the plane does not belong to such an image.
    """
    expected = padded_size(height, width, levels=levels)
    if coefficients.shape[-2:] != expected:
        raise ValueError(
            f"coefficients of {coefficients.shape[-2:]} do not belong to an image of "
            f"{height}x{width} at {levels} levels, whose plane is {expected}"
        )
    out = coefficients
    for level in reversed(range(levels)):
        rows, columns = expected[0] >> level, expected[1] >> level
        part = out[..., :rows, :columns]
        part = _apply(_analysis(rows).T, part, _analysis(columns).T)
        out = out.at[..., :rows, :columns].set(part)
    return out[..., :height, :width]


def _analysis(n: int) -> Float[np.ndarray, "n n"]:
    """One level on one axis as an orthogonal matrix: low-pass rows, high-pass rows."""
    matrix = np.zeros((n, n))
    for half, taps in enumerate((_LOW, _HIGH)):
        for i in range(n // 2):
            np.add.at(matrix[half * (n // 2) + i], (2 * i + np.arange(8)) % n, taps)
    return matrix


def _apply(rows: np.ndarray, x: Array, columns: np.ndarray) -> Array:
    """``rows @ x @ columns^T`` at float32's full precision on every chip."""
    left, right = (jnp.asarray(m, x.dtype) for m in (rows, columns))
    return jnp.einsum("ij,...jk,lk->...il", left, x, right, precision="highest")
