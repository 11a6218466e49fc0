"""What one block of a Hopper GPU does in a solve; :mod:`.gpu_solve` prepares its data.

A block owns a few readout positions of one image and runs all iterations: their maps
and the thin factor stay in shared memory, the state of the recurrence in registers,
where both warpgroups hold the lines that they own in :mod:`.gpu_folded`'s operator.
Inner products are sums over lines, for each position by itself.

float16 would lose a direction ``p`` that shrinks with the residual. So the recurrence
carries ``q = gain p`` of about constant norm instead.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from medjax_kernels import compat
from medjax_kernels.data_consistency.gpu_folded import (
    POSITIONS,
    Config,
    Shared,
    Tiles,
    Warpgroup,
    shared,
    spread,
)
from medjax_kernels.data_consistency.gpu_tile import CHUNK, rows_of
from medjax_kernels.hopper import laid_out

NORM = 16.0
"""Of ``q``: its numbers are near 1, sums of them far below 65504."""

SCRATCH = 1024
"""Bytes through which Mosaic sums over lines: two numbers of each thread."""

Index = Any
"""Image index to the index of its map or mask."""


class Inputs(NamedTuple):
    """In device memory; leading axes are flat.

    Attributes:
        factor: ``[q * 2 * parts, lines, half]`` float16: cosines, then sines.
        rhs: ``[n * tiles * 4, half, positions]`` float32; four planes are real and
            imaginary part of the first half, then of the second.
        maps: ``[m * tiles * slabs * 4, 64, columns]``, planes likewise.
        lam: ``[n]`` float32, weight of the identity.
        undo: ``[n]`` float32, weight of the products.
        zero: ``[1]`` int32.
    """

    factor: Any
    rhs: Any
    maps: Any
    lam: Any
    undo: Any
    zero: Any


def _load(
    inputs: Inputs, smem: Shared, config: Config, of_map: Index, of_mask: Index
) -> None:
    """Start the copies of factor and maps into shared memory."""
    tile, image = lax.axis_index("tile"), lax.axis_index("image")
    terms = 2 * config.parts
    for term in range(terms):
        source = inputs.factor.at[terms * of_mask(image) + term]
        plgpu.copy_gmem_to_smem(source, smem.factor.at[term], smem.loaded)
    first = 4 * config.slabs * (of_map(image) * config.tiles + tile)
    for slab in range(config.slabs):
        source = inputs.maps.at[pl.ds(first + 4 * slab, 4)]
        plgpu.copy_gmem_to_smem(source, smem.maps.at[pl.ds(4 * slab, 4)], smem.loaded)


def _inner(own: Warpgroup, which: int, a: Tiles, b: Tiles) -> Array:
    """One real inner product per position, of both warpgroups' lines.

    Sums over lines cross warps through a scratch that Mosaic shares between warpgroups:
    they take turns.
    """
    sums, groups = own.smem.sums, min(2, own.config.folded)
    for turn in range(groups):
        if turn == own.group:
            pairs = zip(a[1:], b[1:], strict=True)
            total = sum((x * y for x, y in pairs), start=a[0] * b[0])
            sums[which, turn] = jnp.sum(total, axis=0)
        own.meet()
    values = [laid_out(sums[which, turn], 0) for turn in range(groups)]
    return sum(values[1:], start=values[0])


def _gain(norm: Array) -> Array:
    """What brings a vector of that squared norm to :data:`NORM`."""
    return NORM * lax.rsqrt(jnp.where(norm > 0, norm, 1.0))


def _kernel(
    group: int,
    inputs: Inputs,
    out: Any,
    smem: Shared,
    *,
    config: Config,
    iterations: int,
    tolerance: float,
    of_map: Index,
    of_mask: Index,
) -> None:
    """All iterations, on the lines of warpgroup ``group``."""
    own = Warpgroup(group, smem, config)
    if group == 0:
        _load(inputs, smem, config, of_map, of_mask)
    image = lax.axis_index("image")
    first = 4 * (image * config.tiles + lax.axis_index("tile"))
    where = [(first + i, rows_of(chunk)) for chunk in own.chunks for i in range(4)]
    wgmma = plgpu.Layout.WGMMA
    rhs = [compat.fetch(inputs.rhs.at[index], wgmma) for index in where]
    lam, undo = inputs.lam[image], inputs.undo[image]
    plgpu.barrier_wait(smem.loaded)
    own.prepare()
    start = _inner(own, 0, rhs, rhs)
    floor = max(tolerance, float(jnp.finfo(jnp.float32).eps)) ** 2 * start

    def step(_: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        here, residual, norm, gain, x, r, q = state
        here, applied = own.normal(here, q)
        aq = [undo * a + lam * b for a, b in zip(applied, q, strict=True)]
        done = residual <= floor  # false for NaN: it has to reach the solution
        curvature = jnp.where(done, 1.0, _inner(own, 1, q, aq))
        alpha = spread(jnp.where(done, 0.0, residual * gain) / curvature)
        x = [a + alpha * b for a, b in zip(x, q, strict=True)]
        r = [a - alpha * b for a, b in zip(r, aq, strict=True)]
        updated = jnp.where(done, residual, _inner(own, 0, r, r))
        beta = jnp.where(done, 0.0, updated / jnp.where(done, 1.0, residual))
        # r is orthogonal to the last p.
        norm = updated + beta * beta * norm
        renewed = _gain(norm)
        new, old = spread(renewed), spread(renewed * (beta / gain))
        q = [new * a + old * b for a, b in zip(r, q, strict=True)]
        return here, updated, norm, renewed, x, r, q

    zeros = [jnp.zeros((CHUNK, POSITIONS), jnp.float32)] * len(rhs)
    gain = _gain(start)
    q = [spread(gain) * r for r in rhs]
    state = inputs.zero[0], start, start, gain, zeros, rhs, q
    x = lax.fori_loop(0, iterations, step, state)[4]
    for index, value in zip(where, x, strict=True):
        out[index] = value


def _both(inputs: Inputs, out: Any, smem: Shared, **options: Any) -> None:
    """The kernel: one branch for each warpgroup."""
    for group in range(2):

        @pl.when(lax.axis_index("warpgroup") == group)
        def _(group: int = group) -> None:
            _kernel(group, inputs, out, smem, **options)


def launch(inputs: Inputs, config: Config, **options: Any) -> Array:
    """Solutions like the right-hand sides, ``[n * tiles * 4, half, positions]``.

    Args:
        inputs: what is solved.
        config: the sizes.
        **options: ``iterations``, ``tolerance``, ``of_map`` and ``of_mask``.
    """
    kernel = plgpu.kernel(
        functools.partial(_both, config=config, **options),
        out_type=compat.output(inputs.rhs.shape, jnp.float32, *inputs),
        scratch_types=(shared(config),),
        grid=(config.tiles, config.images),
        grid_names=("tile", "image"),
        num_threads=2,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
            # The warpgroups meet before and after every store to shared memory.
            unsafe_no_auto_barriers=True,
            reduction_scratch_bytes=SCRATCH,
        ),
    )
    return kernel(inputs)
