"""The operator on a TPU: the circulant as a matrix product, coils summed on the chip.

A line mask leaves one dense circulant ``K`` per mask, the same for every coil and every
readout position, so that

    out[:, w] = sum_c conj(S_c[:, w]) * K (S_c[:, w] x[:, w])

is a matrix product of ``K`` with a tile of the readout. The grid walks image, readout
tile and coil, coil innermost: the output tile stays in VMEM while coils are added to
it, each map is read once, and no coil image ever reaches HBM. That is what XLA's plan
cannot do: it writes and reads all of them between its products.

Mosaic knows no complex numbers, so images travel as two float32 planes, and the
product is two real ones of twice the width: ``K_r [z_r z_i]`` and ``K_i [z_r z_i]``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Complex, Real

from medjax_kernels import compat
from medjax_kernels.data_consistency import layout, xla
from medjax_kernels.data_consistency.xla import Precision

LANES = 128
"""The readout tile: the width of a vector register."""

SUBLANES = 8
VMEM = 12 << 20
"""Bytes that the blocks of one step may take: what Mosaic grants without asking."""


def unsupported(z: Array, mask: Array) -> str | None:
    """Why this kernel cannot run the problem, or None if it can."""
    axis = layout.sampled_axis(mask)
    if compat.platform() != "tpu":
        return f"it runs on TPUs, not on {compat.platform()!r}"
    if z.dtype != jnp.complex64:
        return f"it takes complex64, not {z.dtype}"
    if axis is None:
        return f"it takes line masks [..., h, 1] or [..., 1, w], not {mask.shape}"
    lines = mask.shape[axis]
    # Two planes each of K, image, map and result, all double-buffered, in float32.
    if 2 * 2 * 4 * (lines * lines + 3 * lines * LANES) > VMEM:
        return f"a circulant of {lines} lines does not fit into VMEM"
    return None


def dot(a: Array, b: Array, precision: Precision) -> Array:
    """A float32 product in six, three or one passes of bfloat16."""
    multiply = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
    if precision == "highest":
        return multiply(a, b, precision=jax.lax.Precision.HIGHEST)
    a_high, b_high = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    if precision == "default":
        return multiply(a_high, b_high)
    a_low = (a - a_high.astype(jnp.float32)).astype(jnp.bfloat16)
    b_low = (b - b_high.astype(jnp.float32)).astype(jnp.bfloat16)
    return multiply(a_high, b_high) + (
        multiply(a_high, b_low) + multiply(a_low, b_high)
    )


Planes = tuple[Array, Array]
"""Real and imaginary part."""


def through_coil(k: Planes, s: Planes, x: Planes, precision: Precision) -> Planes:
    """``conj(S_c) K (S_c x)`` on one readout tile."""
    (s_re, s_im), (x_re, x_im) = s, x
    width = x_re.shape[1]
    z_re, z_im = s_re * x_re - s_im * x_im, s_re * x_im + s_im * x_re
    z = jnp.concatenate([z_re, z_im], axis=1)
    by_re, by_im = (dot(plane, z, precision) for plane in k)
    y_re = by_re[:, :width] - by_im[:, width:]
    y_im = by_re[:, width:] + by_im[:, :width]
    return s_re * y_re + s_im * y_im, s_re * y_im - s_im * y_re


def _kernel(
    k_ref: Any, x_ref: Any, s_ref: Any, out_ref: Any, *, precision: Precision
) -> None:
    """One coil of one readout tile of one image."""

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        out_ref[...] = jnp.zeros_like(out_ref)

    k, s, x = ((ref[0, 0], ref[0, 1]) for ref in (k_ref, s_ref, x_ref))
    y_re, y_im = through_coil(k, s, x, precision)
    out_ref[0, 0] += y_re
    out_ref[0, 1] += y_im


def normal(
    image: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m c h w"],
    mask: Real[Array, "*k mh mw"],
    *,
    precision: Precision,
) -> Complex[Array, "*b h w"]:
    """``S^H K S x`` for aligned arrays; the image has the full leading shape.

    Args:
        image: images.
        maps: sensitivity maps, leading axes 1 or the image's.
        mask: line weights, leading axes 1 or the image's.
        precision: six, three or one bfloat16 passes.

    Returns:
        Images; not differentiable (:mod:`.differentiable` makes it so).
    """
    if layout.sampled_axis(mask) == -1:
        turned = (a.swapaxes(-1, -2) for a in (image, maps, mask))
        return normal(*turned, precision=precision).swapaxes(-1, -2)
    leading, (height, width), coils = image.shape[:-2], image.shape[-2:], maps.shape[-3]
    x = layout.planes(image, SUBLANES, LANES)
    s = layout.planes(maps, SUBLANES, LANES)
    # Zero rows and columns embed the circulant; the signal itself is never padded.
    dense = jnp.stack(xla.circulant(mask[..., 0].reshape(-1, height)), axis=1)
    k = layout.pad_plane(dense, SUBLANES, SUBLANES)
    map_of = layout.flat_index(leading, maps.shape[:-3])
    mask_of = layout.flat_index(leading, mask.shape[:-2])
    rows = x.shape[-2]
    tile = (1, 2, rows, LANES)
    out = pl.pallas_call(
        functools.partial(_kernel, precision=precision),
        grid=(len(x), x.shape[-1] // LANES, coils),
        in_specs=[
            pl.BlockSpec((1, 2, rows, rows), lambda n, w, c: (mask_of(n), 0, 0, 0)),
            pl.BlockSpec(tile, lambda n, w, c: (n, 0, 0, w)),
            pl.BlockSpec(tile, lambda n, w, c: (map_of(n) * coils + c, 0, 0, w)),
        ],
        out_specs=pl.BlockSpec(tile, lambda n, w, c: (n, 0, 0, w)),
        out_shape=compat.output(x.shape, jnp.float32, x, s, k),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
    )(k, x, s)
    re, im = out[:, 0, :height, :width], out[:, 1, :height, :width]
    return jax.lax.complex(re, im).reshape(*leading, height, width)
