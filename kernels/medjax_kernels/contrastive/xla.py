"""The two XLA engines: the whole block at once, or a few rows at a time.

``whole`` keeps the logits for the backward pass (6 N^2 d FLOPs, N^2 floats).
``chunked`` scans over chunks of rows and recomputes them (8 N^2 d FLOPs, chunk x N
floats in both passes). Chunking by autodiff alone would save nothing: it keeps every
chunk's logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from medjax_kernels.contrastive import tile
from medjax_kernels.contrastive.targets import Rule
from medjax_kernels.contrastive.tile import Block, Energy, Gradient, Sums
from medjax_kernels.precision import accumulator
from medjax_kernels.varying import vary_like

TILE_BYTES = 64 * 2**20
"""Size of a default chunk of logits: large enough to fill a device, small beside it."""


class Engine(NamedTuple):
    """How blocks are evaluated; see :mod:`medjax_kernels.contrastive.tile`."""

    forward: Callable[..., tuple[Sums, tuple[jax.Array, ...]]]
    backward: Callable[..., Gradient]
    residual: Callable[[Block], tuple[jax.Array, ...]] = lambda _: ()
    """What the forward pass of a block would leave, where there was none."""


def whole_forward(
    block: Block, rule: Rule | None, energy: Energy, chunk: int | None
) -> tuple[Sums, tuple[jax.Array, ...]]:
    """Sums of the block; the residual is its logits."""
    (logits,) = whole_residual(block)
    return tile.sums_of(logits, block, rule, energy), (logits,)


def whole_residual(block: Block) -> tuple[jax.Array, ...]:
    """The logits of the block."""
    return (tile.logits_of(block),)


def whole_backward(
    block: Block,
    rule: Rule | None,
    energy: Energy,
    chunk: int | None,
    residual: tuple[jax.Array, ...],
    sums: Sums,
    cotangent: Sums,
    columns: bool = True,
) -> Gradient:
    """Gradient of the block from the kept logits."""
    (logits,) = residual
    g = tile.slope(logits, block, rule, energy, sums, cotangent)
    return tile.pull_back(g, block, columns)


def default_chunk(rows: int, columns: int) -> int:
    """Rows per chunk: 64 MiB of fp32 logits, a multiple of 8, at most all rows."""
    fitting = TILE_BYTES // (4 * max(columns, 1)) // 8 * 8
    return max(1, min(rows, max(8, fitting)))


def split(array: Shaped[Array, "n *s"], chunk: int, fill: float) -> Array:
    """[n, ...] to [chunks, chunk, ...], the last chunk filled up."""
    missing = -array.shape[0] % chunk
    widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
    padded = jnp.pad(array, widths, constant_values=jnp.asarray(fill, array.dtype))
    return padded.reshape(-1, chunk, *array.shape[1:])


def row_chunks(block: Block, chunk: int) -> tuple[jax.Array, dict, jax.Array]:
    """Features, records and aliveness of the rows, chunk by chunk; fillers are dead."""
    rows = {name: split(value, chunk, 0) for name, value in block.rows.items()}
    return split(block.x, chunk, 0), rows, split(block.row_alive, chunk, False)


def chunked_forward(
    block: Block, rule: Rule | None, energy: Energy, chunk: int | None
) -> tuple[Sums, tuple[jax.Array, ...]]:
    """Sums of the block from one chunk of rows after another; nothing is kept."""
    n, m = block.x.shape[0], block.y.shape[0]
    chunk = chunk or default_chunk(n, m)
    dtype = accumulator(block.x.dtype)

    def step(columns: tuple, part: tuple) -> tuple[tuple, tuple]:
        x, rows, alive = part
        piece = block._replace(x=x, rows=rows, row_alive=alive)
        s = tile.sums_of(tile.logits_of(piece), piece, rule, energy)
        column_energy, mass, aligned = columns
        columns = (
            tile.merge(energy, column_energy, s.column_energy),
            mass + s.column_mass,
            aligned + s.column_aligned,
        )
        return columns, (s.row_energy, s.row_mass, s.row_aligned)

    empty = jnp.full(m, EMPTY_ENERGY[energy], dtype)
    zeros = jnp.zeros(m, dtype)
    start = vary_like((empty, zeros, zeros), block.x)
    columns, rows = jax.lax.scan(step, start, row_chunks(block, chunk))
    row_energy, row_mass, row_aligned = (r.reshape(-1)[:n] for r in rows)
    column_energy, column_mass, column_aligned = columns
    return Sums(
        row_energy, column_energy, row_mass, column_mass, row_aligned, column_aligned
    ), ()


def chunked_backward(
    block: Block,
    rule: Rule | None,
    energy: Energy,
    chunk: int | None,
    residual: tuple[jax.Array, ...],
    sums: Sums,
    cotangent: Sums,
    columns: bool = True,
) -> Gradient:
    """Gradient of the block, recomputing one chunk of rows after another."""
    n, m = block.x.shape[0], block.y.shape[0]
    chunk = chunk or default_chunk(n, m)
    dtype = accumulator(block.x.dtype)

    def step(total: tuple, part: tuple) -> tuple[tuple, jax.Array]:
        (x, rows, alive), row_energy, row_g, row_a = part
        piece = block._replace(x=x, rows=rows, row_alive=alive)
        g = tile.slope(
            tile.logits_of(piece),
            piece,
            rule,
            energy,
            sums._replace(row_energy=row_energy),
            cotangent._replace(row_energy=row_g, row_aligned=row_a),
        )
        grad = tile.pull_back(g, piece, columns)
        total = jax.tree.map(
            jnp.add, total, (grad.y, grad.logit_scale, grad.logit_bias)
        )
        return total, grad.x

    per_row = (sums.row_energy, cotangent.row_energy, cotangent.row_aligned)
    parts = (row_chunks(block, chunk), *(split(a, chunk, 0) for a in per_row))
    zero = jnp.zeros((), dtype)
    zeros = jnp.zeros((m, block.y.shape[1]), dtype) if columns else None
    start = vary_like((zeros, zero, zero), block.x)
    (y, scale, bias), x = jax.lax.scan(step, start, parts)
    return Gradient(x.reshape(-1, x.shape[-1])[:n], y, scale, bias)


EMPTY_ENERGY = {"softmax": tile.EMPTY, "sigmoid": 0.0}

whole = Engine(whole_forward, whole_backward, whole_residual)
chunked = Engine(chunked_forward, chunked_backward)
