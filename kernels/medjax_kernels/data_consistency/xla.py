"""Data consistency in XLA operations alone: by FFT, or by DFT matrices.

Both rest on one cancellation. With the mask depending on ky alone the readout transform
meets its own inverse, and what is left of ``F^H M F`` is the 1-D circulant

    K = F_y^H diag(m) F_y,        A^H A x = sum_c conj(S_c) * K (S_c x).

Circulants commute with cyclic shifts, so the four ``fftshift`` s of the centred
convention reduce to one: the mask is shifted once and the image never is. The same
holds in two dimensions for 2-D masks.

``fft`` applies K as FFT, weights, inverse FFT. ``dft`` multiplies by the dense K, or,
where the caller bounds the number of sampled lines, by its thin factor ``F_Omega``
twice (half the arithmetic at acceleration 4). Matrix products suit chips whose matrix
units outrun their FFTs, and line counts without small factors.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Real

from medjax_kernels import compat, fft
from medjax_kernels.data_consistency import layout

Precision = Literal["highest", "high", "default"]
"""How exact the matrix products are; see the README for the error of each."""

LAX_PRECISION = {
    "highest": jax.lax.Precision.HIGHEST,
    "high": jax.lax.Precision.HIGH,
    "default": jax.lax.Precision.DEFAULT,
}


def masked_axes(mask: Real[Array, "*k h w"]) -> tuple[int, ...]:
    """The axes along which a transform is left after the cancellation."""
    axis = layout.sampled_axis(mask)
    return (-2, -1) if axis is None else (axis,)


def project_fft(
    z: Complex[Array, "*b h w"], mask: Real[Array, "*k mh mw"]
) -> Complex[Array, "*b h w"]:
    """``F^H diag(m) F z`` by FFTs along the masked axes alone.

    Args:
        z: images, any leading axes.
        mask: weights that broadcast against ``z``; a line mask has one axis of size 1.

    Returns:
        The projection; for a 0/1 mask, ``z`` with its unmeasured k-space removed.
    """
    axes = masked_axes(mask)
    if axes == (-2,) and compat.platform() == "cpu":
        # XLA transforms last axes only. On a CPU the two transposes cost more than the
        # readout transform they save (18.9 against 15.6 ms at 2 x 10 x 256 x 256).
        axes = (-2, -1)
    weights = jnp.fft.ifftshift(mask, masked_axes(mask))
    kspace = layout.scale(fft.fftn(z, axes), weights)
    return fft.ifftn(kspace, axes)


def dft_rows(
    rows: Real[Array, "*k r"], size: int, dtype: jnp.dtype
) -> tuple[Real[Array, "*k r n"], Real[Array, "*k r n"]]:
    """Rows of the unitary DFT matrix, as cosine and (negative) sine planes.

    The phase is reduced modulo ``size`` in exact integers first, so that the entries
    are correct to rounding at any size.

    Args:
        rows: integer frequencies, any leading axes.
        size: length of the transform.
        dtype: real dtype of the planes.

    Returns:
        Real and imaginary parts of ``exp(-2 pi i r j / n) / sqrt(n)``.
    """
    columns = jnp.arange(size, dtype=rows.dtype)
    turns = (rows[..., None] * columns.reshape((1,) * rows.ndim + (size,))) % size
    angle = turns.astype(dtype) * (2 * math.pi / size)
    norm = 1 / math.sqrt(size)
    return jnp.cos(angle) * norm, -jnp.sin(angle) * norm


def _matmul(
    matrix: tuple[Real[Array, "..."], Real[Array, "..."]],
    z: Complex[Array, "..."],
    equation: str,
    precision: Precision,
) -> Complex[Array, "..."]:
    """A complex product as four real ones, so that ``precision`` governs each."""
    multiply = functools.partial(
        jnp.einsum, equation, precision=LAX_PRECISION[precision]
    )
    re, im = matrix
    return jax.lax.complex(
        multiply(re, z.real) - multiply(im, z.imag),
        multiply(re, z.imag) + multiply(im, z.real),
    )


def _adjoint(
    matrix: tuple[Real[Array, "..."], Real[Array, "..."]],
) -> tuple[Real[Array, "..."], Real[Array, "..."]]:
    re, im = matrix
    return re.swapaxes(-1, -2), -im.swapaxes(-1, -2)


def circulant(
    weights: Real[Array, "*k n"],
) -> tuple[Real[Array, "*k n n"], Real[Array, "*k n n"]]:
    """Planes of ``K = F^H diag(m) F``: entry (i, j) is the point spread at ``i - j``.

    Args:
        weights: mask along the sampled axis, centred.

    Returns:
        Real and imaginary part of the dense circulant matrix.
    """
    size = weights.shape[-1]
    spread = fft.ifftn(jnp.fft.ifftshift(weights, -1), (-1,))
    index = jnp.arange(size)
    lag = (index[:, None] - index[None, :]) % size
    dense = spread[..., lag]
    return dense.real, dense.imag


def select_lines(
    weights: Real[Array, "*k n"], lines: int
) -> tuple[Real[Array, "*k r"], Real[Array, "*k r"]]:
    """The ``lines`` heaviest lines: (frequencies, weights).

    A mask with more sampled lines than the caller promised would lose some silently;
    its weights become NaN instead, and so does every result.
    """
    shifted = jnp.fft.ifftshift(weights, -1)
    _, rows = jax.lax.top_k(jnp.abs(shifted), lines)
    chosen = jnp.take_along_axis(shifted, rows, axis=-1)
    sampled = jnp.sum(shifted != 0, axis=-1, keepdims=True)
    return rows, jnp.where(sampled > lines, jnp.nan, chosen)


def project_dft(
    z: Complex[Array, "*b h w"],
    mask: Real[Array, "*k mh mw"],
    *,
    lines: int | None = None,
    precision: Precision = "highest",
) -> Complex[Array, "*b h w"]:
    """``F^H diag(m) F z`` by products with DFT matrices.

    Args:
        z: images, any leading axes.
        mask: weights of the same rank as ``z``, leading axes 1 or equal.
        lines: static upper bound on the sampled lines of each line mask; given, the
            thin form is used. A mask with more lines gives NaN, never a wrong number.
        precision: of the matrix products.

    Returns:
        The projection.
    """
    axis = layout.sampled_axis(mask)
    if axis is None:
        return _project_dft_plane(z, mask, precision)
    weights = mask[..., 0] if axis == -2 else mask[..., 0, :]
    equation = "...ij,...jw->...iw" if axis == -2 else "...ij,...hj->...hi"
    if lines is None:
        return _matmul(circulant(weights), z, equation, precision)
    rows, chosen = select_lines(weights, lines)
    thin = dft_rows(rows, weights.shape[-1], z.real.dtype)
    kspace = _matmul(thin, z, equation, precision)
    chosen = chosen[..., :, None] if axis == -2 else chosen[..., None, :]
    return _matmul(_adjoint(thin), layout.scale(kspace, chosen), equation, precision)


def _project_dft_plane(
    z: Complex[Array, "*b h w"], mask: Real[Array, "*k h w"], precision: Precision
) -> Complex[Array, "*b h w"]:
    """Both axes by dense DFT matrices: the general path for 2-D masks."""
    height, width = z.shape[-2:]
    rows = dft_rows(jnp.arange(height), height, z.real.dtype)
    columns = dft_rows(jnp.arange(width), width, z.real.dtype)
    left, right = "ij,...jw->...iw", "ij,...hj->...hi"
    kspace = _matmul(columns, _matmul(rows, z, left, precision), right, precision)
    kspace = layout.scale(kspace, jnp.fft.ifftshift(mask, (-2, -1)))
    image = _matmul(_adjoint(rows), kspace, left, precision)
    return _matmul(_adjoint(columns), image, right, precision)
