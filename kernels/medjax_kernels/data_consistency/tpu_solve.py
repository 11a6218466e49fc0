"""The proximal solve on a TPU without leaving the chip.

A line mask decouples the readout positions, so a tile of them can run its conjugate
gradients alone. One step of the grid holds the circulant, the tile of every map and the
state of the recurrence in VMEM and runs all iterations there: device memory sees maps
and right-hand side once and the solution once, however many iterations there are. The
kernel of :mod:`.tpu`, called once per iteration, reads the maps each time.

The recurrence is :func:`.solve.conjugate_gradient`'s with one block per position. A
block that has converged stands still, so a tolerance saves no time here.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Complex, Real

from medjax_kernels import compat
from medjax_kernels.data_consistency import layout, tpu, xla
from medjax_kernels.data_consistency.tpu import LANES, SUBLANES
from medjax_kernels.data_consistency.xla import Precision


def fits(maps: Array, mask: Array) -> bool:
    """Whether a tile with all its maps fits into VMEM."""
    axis = layout.sampled_axis(mask)
    if axis is None:
        return False
    rows = SUBLANES * math.ceil(mask.shape[axis] / SUBLANES)
    tile = 2 * rows * LANES
    # K, maps, right-hand side and result twice, as the pipeline holds them; r, p, A p
    # once, and a coil's two products, twice as wide as a tile, on the way.
    numbers = 2 * (2 * rows * rows + (maps.shape[-3] + 2) * tile) + (3 + 3) * tile
    return 4 * numbers <= tpu.VMEM


def _inner(a: tpu.Planes, b: tpu.Planes) -> Array:
    """One real inner product per readout position, ``[1, lanes]``."""
    return jnp.sum(a[0] * b[0] + a[1] * b[1], axis=0, keepdims=True)


def _kernel(
    k_ref: Any,
    lam_ref: Any,
    rhs_ref: Any,
    s_ref: Any,
    x_ref: Any,
    r_ref: Any,
    p_ref: Any,
    ap_ref: Any,
    *,
    coils: int,
    iterations: int,
    tolerance: float,
    precision: Precision,
) -> None:
    """All iterations of one readout tile of one image."""
    x_ref[...] = jnp.zeros_like(x_ref)
    r_ref[...] = rhs_ref[0]
    p_ref[...] = rhs_ref[0]
    lam = lam_ref[0]
    start = _inner((r_ref[0], r_ref[1]), (r_ref[0], r_ref[1]))
    floor = max(tolerance, float(jnp.finfo(jnp.float32).eps)) ** 2 * start

    def add_coil(c: Any, _: None) -> None:
        k = k_ref[0, 0], k_ref[0, 1]
        s = s_ref[0, 2 * c], s_ref[0, 2 * c + 1]
        y_re, y_im = tpu.through_coil(k, s, (p_ref[0], p_ref[1]), precision)
        ap_ref[0] += y_re
        ap_ref[1] += y_im

    def step(_: Any, residual: Array) -> Array:
        for i in range(2):
            ap_ref[i] = lam * p_ref[i]
        lax.fori_loop(0, coils, add_coil, None)
        active = ~(residual <= floor)  # true for NaN: it has to reach the solution
        curvature = _inner((p_ref[0], p_ref[1]), (ap_ref[0], ap_ref[1]))
        alpha = jnp.where(active, residual, 0) / jnp.where(active, curvature, 1)
        for i in range(2):
            x_ref[0, i] += alpha * p_ref[i]
            r_ref[i] -= alpha * ap_ref[i]
        reduced = _inner((r_ref[0], r_ref[1]), (r_ref[0], r_ref[1]))
        updated = jnp.where(active, reduced, residual)
        beta = jnp.where(active, updated / jnp.where(active, residual, 1), 0)
        for i in range(2):
            p_ref[i] = r_ref[i] + beta * p_ref[i]
        return updated

    lax.fori_loop(0, iterations, step, start)


def solve(
    rhs: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m c h w"],
    mask: Real[Array, "*k mh mw"],
    lam: Real[Array, "*l 1 1"],
    *,
    iterations: int,
    tolerance: float,
    precision: Precision,
) -> Complex[Array, "*b h w"]:
    """``(A^H A + lambda)^-1 r`` for aligned arrays, one recurrence per position.

    Args:
        rhs: right-hand sides, with the full leading shape.
        maps: sensitivity maps, leading axes 1 or the right-hand side's.
        mask: line weights, leading axes 1 or the right-hand side's.
        lam: weights of the identity, leading axes 1 or the right-hand side's.
        iterations: of each position.
        tolerance: a position stands still once its residual is below this times its
            right-hand side.
        precision: six, three or one bfloat16 passes.

    Returns:
        Solutions; not differentiable (:mod:`.solve` makes it so).
    """
    options = {
        "iterations": iterations,
        "tolerance": tolerance,
        "precision": precision,
    }
    if layout.sampled_axis(mask) == -1:
        turned = (a.swapaxes(-1, -2) for a in (rhs, maps, mask, lam))
        return solve(*turned, **options).swapaxes(-1, -2)
    leading, (height, width), coils = rhs.shape[:-2], rhs.shape[-2:], maps.shape[-3]
    # Squared norms neither overflow nor vanish; exact, undone at the end.
    peak = jnp.maximum(jnp.abs(rhs.real), jnp.abs(rhs.imag))
    factor = layout.power_of_two(jnp.max(peak, -2, keepdims=True))
    r = layout.planes(layout.scale(rhs, factor), SUBLANES, LANES)
    s = layout.planes(maps, SUBLANES, LANES)
    rows, lanes = r.shape[-2:]
    s = s.reshape(-1, 2 * coils, rows, lanes)
    dense = jnp.stack(xla.circulant(mask[..., 0].reshape(-1, height)), axis=1)
    k = layout.pad_plane(dense, SUBLANES, SUBLANES)
    shrink = jnp.broadcast_to(lam.reshape(-1, 1, 1), (math.prod(lam.shape), 1, LANES))
    map_of = layout.flat_index(leading, maps.shape[:-3])
    mask_of = layout.flat_index(leading, mask.shape[:-2])
    lam_of = layout.flat_index(leading, lam.shape[:-2])
    tile = (1, 2, rows, LANES)
    state = pltpu.VMEM(tile[1:], jnp.float32)
    out = pl.pallas_call(
        functools.partial(_kernel, coils=coils, **options),
        grid=(len(r), lanes // LANES),
        in_specs=[
            pl.BlockSpec((1, 2, rows, rows), lambda n, w: (mask_of(n), 0, 0, 0)),
            pl.BlockSpec((1, 1, LANES), lambda n, w: (lam_of(n), 0, 0)),
            pl.BlockSpec(tile, lambda n, w: (n, 0, 0, w)),
            pl.BlockSpec(
                (1, 2 * coils, rows, LANES), lambda n, w: (map_of(n), 0, 0, w)
            ),
        ],
        out_specs=pl.BlockSpec(tile, lambda n, w: (n, 0, 0, w)),
        out_shape=compat.output(r.shape, jnp.float32, r, s, k, shrink),
        scratch_shapes=[state, state, state],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel")
        ),
    )(k, shrink, r, s)
    re, im = out[:, 0, :height, :width], out[:, 1, :height, :width]
    x = jax.lax.complex(re, im).reshape(*leading, height, width)
    return layout.scale(x, 1 / factor)
