"""The engine of a Hopper GPU: fused forward, hybrid backward.

Forward, one kernel (:mod:`.gpu_kernel`): tiles of S on the tensor cores, each turned in
registers into sums of its rows and of its columns, 2 N^2 d FLOPs. A tile writes one
number per row and column, N^2 (1/128 + 1/128) numbers in all, which XLA merges.

Backward: the same kernel turns S into a chunk of rows of G, in the dtype of the
features, and two XLA matrix products make the gradients of it, 6 N^2 d FLOPs. G of the
whole chunk is held: 128 MiB by default. Fewer rows would stay in the L2 cache, but the
fp32 gradient of y is read and written once per chunk: at N = 32768, d = 512 chunks of
32 MiB move 8.6 GB for it, 2 ms of memory time, against 2.1 GB at 128 MiB, whose own
reads and writes are hidden behind the products.

Features are bf16 or fp16, whose products the tensor cores take exactly.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from medjax_kernels import compat
from medjax_kernels.contrastive import fused, gpu_kernel, tile
from medjax_kernels.contrastive.fused import Operands, Slopes
from medjax_kernels.contrastive.gpu_kernel import DEPTH, ROWS, Config
from medjax_kernels.contrastive.targets import DenseRule, Rule
from medjax_kernels.contrastive.tile import Block, Energy, Gradient, Sums
from medjax_kernels.precision import product
from medjax_kernels.varying import vary_like

CHUNK_BYTES = 128 * 2**20
"""Size of a default chunk of G."""

WIDTH, SOFT_WIDTH = 256, 128
"""Columns of a tile: without targets, and with targets or correlations beside the
logits, which take as many registers.
"""


def unsupported(block: Block, rule: Rule | None) -> str | None:
    """Why this engine cannot run the problem, or None if it can."""
    if compat.platform() != "gpu":
        return f"it runs on Hopper GPUs, not on {compat.platform()!r}"
    if block.x.dtype not in (jnp.bfloat16, jnp.float16):
        return (
            "its tensor cores multiply bfloat16 or float16 features exactly, "
            f"{block.x.dtype} not"
        )
    if isinstance(rule, DenseRule):
        return (
            "it makes targets on the chip; a Dense matrix must be read anyway, as "
            "'xla_chunked' does"
        )
    return fused.unsupported_target(rule, block)


def width_of(rule: Rule | None) -> int:
    """Columns of a tile."""
    return WIDTH if rule is None else SOFT_WIDTH


def configure(
    given: Operands, rule: Rule | None, energy: Energy, backward: bool
) -> Config:
    """The launch for operands in whole tiles, y not yet transposed."""
    soft = 0 if given.row_unit is None else given.row_unit.shape[1] // DEPTH
    return Config(
        energy=energy,
        rule=rule,
        rows=given.x.shape[0],
        columns=given.y.shape[0],
        steps=given.x.shape[1] // DEPTH,
        soft_steps=soft,
        width=width_of(rule),
        stages=3 if backward else 4,
        backward=backward,
    )


def transposed(given: Operands) -> Operands:
    """The right factors as [width, M]."""
    unit = given.column_unit
    return given._replace(y=given.y.T, column_unit=None if unit is None else unit.T)


def launch(
    given: Operands, slopes: tuple[Slopes, Slopes] | None, config: Config
) -> Any:
    """One launch over all tiles of the operands: :class:`.gpu_kernel.Forward` or
    :class:`.gpu_kernel.Backward`.

    Args:
        given: operands in whole tiles; y and column_unit transposed.
        slopes: for the backward pass.
        config: of this launch.
    """
    row, column = slopes or ((), ())
    inputs = gpu_kernel.Inputs(
        given.x,
        given.y,
        given.row_unit,
        given.column_unit,
        given.scale,
        jnp.stack([given.row_addend, *row]),
        jnp.stack([given.column_addend, *column]),
        given.row_key,
        given.column_key,
    )
    present = [a for a in inputs if a is not None]
    tiles = config.rows // ROWS
    halves = config.columns // config.half
    f32 = jnp.float32
    per_row = compat.output((halves, config.rows), f32, *present)
    per_column = compat.output((tiles, config.columns), f32, *present)
    if config.backward:
        shape = config.rows, config.columns
        out = gpu_kernel.Backward(
            compat.output(shape, given.x.dtype, *present), per_row
        )
    elif config.rule is None:
        out = gpu_kernel.Forward(per_row, per_column, None, None, None, None)
    else:
        out = gpu_kernel.Forward(*[per_row, per_column] * 3)
    run = plgpu.kernel(
        functools.partial(gpu_kernel.kernel, config=config),
        out_type=(out,),
        scratch_types=(gpu_kernel.shared(config, given.x.dtype),),
        grid=(tiles * (config.columns // config.width),),
        grid_names=("tile",),
        num_threads=gpu_kernel.GROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup
        ),
    )
    (result,) = run(inputs)
    return result


def forward(
    block: Block, rule: Rule | None, energy: Energy, chunk: int | None
) -> tuple[Sums, tuple[jax.Array, ...]]:
    """Sums of the block; nothing is kept."""
    given = fused.operands(block, rule, ROWS, width_of(rule), DEPTH)
    config = configure(given, rule, energy, backward=False)
    out = launch(transposed(given), None, config)
    n, m = block.x.shape[0], block.y.shape[0]
    row_energy = fused.merge(energy, out.row_energy)[:n]
    column_energy = fused.merge(energy, out.column_energy)[:m]
    if rule is None:
        rows, columns = jnp.zeros_like(row_energy), jnp.zeros_like(column_energy)
        return Sums(row_energy, column_energy, rows, columns, rows, columns), ()
    return Sums(
        row_energy,
        column_energy,
        jnp.sum(out.row_mass, axis=0)[:n],
        jnp.sum(out.column_mass, axis=0)[:m],
        jnp.sum(out.row_aligned, axis=0)[:n],
        jnp.sum(out.column_aligned, axis=0)[:m],
    ), ()


def default_chunk(rows: int, columns: int) -> int:
    """Rows of G held at a time, whole tiles."""
    fitting = CHUNK_BYTES // (2 * columns) // ROWS * ROWS
    return min(rows, max(ROWS, fitting))


def backward(
    block: Block,
    rule: Rule | None,
    energy: Energy,
    chunk: int | None,
    residual: tuple[jax.Array, ...],
    sums: Sums,
    cotangent: Sums,
    columns: bool = True,
) -> Gradient:
    """Gradient of the block, one chunk of rows of G after another."""
    width = width_of(rule)
    across = -(-block.y.shape[0] // width) * width
    rows = -(-block.x.shape[0] // ROWS) * ROWS
    chunk = -(-(chunk or default_chunk(rows, across)) // ROWS) * ROWS
    chunk = min(chunk, rows)
    given = fused.operands(block, rule, chunk, width, DEPTH)
    row, column = fused.slopes(block, energy, sums, cotangent, chunk, width)
    config = configure(given, rule, energy, backward=True)._replace(rows=chunk)
    right = transposed(given)

    def chunks(array: Array | None) -> Array | None:
        return None if array is None else array.reshape(-1, chunk, *array.shape[1:])

    def step(so_far: tuple, part: tuple) -> tuple[tuple, Array]:
        y, total = so_far
        x, addend, key, unit, slopes = part
        here = right._replace(x=x, row_addend=addend, row_key=key, row_unit=unit)
        out = launch(here, (slopes, column), config)
        dx = product("ij,jd->id", out.g, given.y)
        if y is not None:
            y = y + product("ij,id->jd", out.g, x)
        return (y, total + jnp.sum(out.row_sum)), dx

    parts = (
        chunks(given.x),
        chunks(given.row_addend),
        chunks(given.row_key),
        chunks(given.row_unit),
        Slopes(*(chunks(a) for a in row)),
    )
    zeros = jnp.zeros(given.y.shape, jnp.float32) if columns else None
    zero = zeros, jnp.zeros((), jnp.float32)
    (y, total), x = jax.lax.scan(step, vary_like(zero, jax.tree.leaves(parts)), parts)
    (n, d), m = block.x.shape, block.y.shape[0]
    x = x.reshape(-1, x.shape[-1])[:n, :d]
    return tile.scaled(x, None if y is None else y[:m, :d], total, block)
