"""The sums over the global batch: on one device, after a gather, or around a ring.

Every device owns n rows of x, the matching n rows of y, and returns the sums of *its*
rows and *its* columns over the global batch. Each pair (i, j) is computed once, by the
device that owns row i, and serves both directions.

* ``all_gather``: y has travelled to everyone (`exchange`) and is kept; column sums are
  merged and scattered back, and so is the gradient of y, in fp32.
* ``all_gather_both``: x has travelled too. Forwards nothing else is different;
  backwards the owner of a column forms the logits of its pairs once more and finds the
  gradient by itself: 2 n N d FLOPs (and the targets) more, and N d numbers as narrow as
  the wire travel instead of N d in fp32, or none where another loss has shown x.
* ``ring``: blocks of y visit one device after another, carrying the merged sums of
  their columns (and in the backward pass their gradient) home. At no time does a device
  hold more than two blocks, whatever the size of the batch.

The gradient is written out rather than left to autodiff: with the merged energies kept,
a block needs nothing else from its forward pass, so the backward pass is the same walk.
Inputs and outputs are owned by their device, none is replicated, so the function is
right under ``shard_map`` with and without ``check_vma``.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax_kernels.contrastive import tile
from medjax_kernels.contrastive.exchange import Columns, scatter_sum
from medjax_kernels.contrastive.targets import Records, Rule
from medjax_kernels.contrastive.tile import Block, Energy, Gradient, Sums
from medjax_kernels.contrastive.xla import Engine


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is computed and where; hashable, fixed while tracing."""

    energy: Energy
    rule: Rule | None
    engine: Engine
    chunk: int | None
    axis_name: tuple[str, ...]


class Shard(NamedTuple):
    """The samples that this device owns, as rows (x) and as columns (y).

    ``everyone`` has the columns of all devices, features in fp32 (fp64), if they are
    gathered: the gradient of y is then that of these. ``opposite`` has the rows of all
    devices in the same way: with them nothing is everyone's gradient.
    """

    x: jax.Array
    y: jax.Array
    logit_scale: jax.Array
    logit_bias: jax.Array
    rows: Records
    columns: Records
    alive: jax.Array
    everyone: Columns | None
    opposite: Columns | None = None


Side = tuple[Sums, Sums]
"""Sums of the owned samples, and their cotangents."""


class ColumnSums(NamedTuple):
    """The half of the sums that belongs to the columns."""

    energy: jax.Array
    mass: jax.Array
    aligned: jax.Array


def block_of(shard: Shard, columns: Columns) -> Block:
    """The owned rows against some block of columns."""
    return Block(
        shard.x,
        columns.y,
        shard.logit_scale,
        shard.logit_bias,
        shard.rows,
        columns.records,
        shard.alive,
        columns.alive,
    )


def turned(shard: Shard) -> Block:
    """The owned columns, as rows, against the rows of all devices."""
    rows = shard.opposite
    assert rows is not None
    return Block(
        shard.y,
        rows.y,
        shard.logit_scale,
        shard.logit_bias,
        shard.columns,
        rows.records,
        shard.alive,
        rows.alive,
    )


def run_forward(plan: Plan, block: Block) -> tuple[Sums, tuple[jax.Array, ...]]:
    """The engine of the plan, forward."""
    return plan.engine.forward(block, plan.rule, plan.energy, plan.chunk)


def run_backward(
    plan: Plan,
    block: Block,
    residual: Any,
    sums: Sums,
    cotangent: Sums,
    *,
    columns: bool = True,
) -> Gradient:
    """The engine of the plan, backward; of the rows alone without ``columns``.

    G is as small as the cotangents, 1/N, times a probability, and is rounded to the
    dtype of the features. In fp16, whose smallest number is 6e-8, it would vanish, so
    the cotangents are brought near one first: by a power of two, which is exact.
    """

    def run(cotangent: Sums) -> Gradient:
        return plan.engine.backward(
            block,
            plan.rule,
            plan.energy,
            plan.chunk,
            residual,
            sums,
            cotangent,
            columns,
        )

    if block.x.dtype != jnp.float16:
        return run(cotangent)
    peak = jnp.max(jnp.stack([jnp.max(jnp.abs(c)) for c in cotangent]))
    _, exponent = jnp.frexp(peak)
    up, down = (jnp.ldexp(jnp.ones_like(peak), e) for e in (-exponent, exponent))
    return jax.tree.map(
        lambda g: g * down, run(jax.tree.map(lambda c: c * up, cotangent))
    )


def forward(plan: Plan, shard: Shard) -> tuple[Sums, Any]:
    """Sums, and what the backward pass needs: the shard, its energies, the residual."""
    own = Columns(shard.y, shard.columns, shard.alive)
    if shard.everyone is not None:
        # Kept as narrow as they are multiplied.
        everyone = shard.everyone._replace(y=shard.everyone.y.astype(shard.x.dtype))
        shard = shard._replace(everyone=everyone)
        if (opposite := shard.opposite) is not None:
            opposite = opposite._replace(y=opposite.y.astype(shard.x.dtype))
            shard = shard._replace(opposite=opposite)
        sums, residual = gathered_forward(plan, shard, everyone)
    elif plan.axis_name:
        sums, residual = ring_forward(plan, shard, own)
    else:
        sums, residual = run_forward(plan, block_of(shard, own))
    return sums, (shard, sums, residual)


def backward(plan: Plan, kept: Any, cotangent: Sums) -> tuple[Shard]:
    """Cotangents of the shard; records and aliveness are constants."""
    shard, sums, residual = kept
    own = Columns(shard.y, shard.columns, shard.alive)
    everyone = None
    if shard.everyone is not None:
        g = gathered_backward(plan, shard, shard.everyone, residual, sums, cotangent)
        if shard.opposite is None:
            everyone = jax.tree.map(lambda _: None, shard.everyone)._replace(y=g.y)
    elif plan.axis_name:
        g = ring_backward(plan, shard, own, residual, sums, cotangent)
    else:
        g = run_backward(plan, block_of(shard, own), residual, sums, cotangent)
    y = g.y if everyone is None else None
    constant = jax.tree.map(lambda _: None, shard)
    return (
        constant._replace(
            x=g.x.astype(shard.x.dtype),
            y=None if y is None else y.astype(shard.y.dtype),
            logit_scale=g.logit_scale.astype(shard.logit_scale.dtype),
            logit_bias=g.logit_bias.astype(shard.logit_bias.dtype),
            everyone=everyone,
        ),
    )


def only_forward(plan: Plan, shard: Shard) -> Sums:
    """Sums of the owned rows and columns over the global batch.

    Args:
      plan: energy, targets, engine and distribution.
      shard: the owned samples. Differentiable in x, y, logit_scale and logit_bias.

    Returns:
      The sums, [n] each; masses carry no gradient.
    """
    return forward(plan, shard)[0]


global_sums = jax.custom_vjp(only_forward, nondiff_argnums=(0,))
global_sums.defvjp(forward, backward)


def with_columns(sums: Sums, columns: ColumnSums) -> Sums:
    """The sums with another column half."""
    return sums._replace(
        column_energy=columns.energy,
        column_mass=columns.mass,
        column_aligned=columns.aligned,
    )


def exchanged(sums: Sums) -> Sums:
    """The sums of the transpose."""
    return Sums(
        sums.column_energy,
        sums.row_energy,
        sums.column_mass,
        sums.row_mass,
        sums.column_aligned,
        sums.row_aligned,
    )


def columns_of(sums: Sums) -> ColumnSums:
    """The column half of the sums."""
    return ColumnSums(sums.column_energy, sums.column_mass, sums.column_aligned)


def gathered_forward(plan: Plan, shard: Shard, all_: Columns) -> tuple[Sums, Any]:
    """Owned rows against all columns, then the column sums merged and scattered.

    All of a column's numbers travel side by side: what they cost is the start.
    """
    sums, residual = run_forward(plan, block_of(shard, all_))
    part, n = columns_of(sums), shard.y.shape[0]
    largest = part.energy
    if plan.energy == "softmax":
        # Merged by hand in fp32: a maximum that all agree on, then a sum.
        largest = jax.lax.pmax(part.energy, plan.axis_name)
        part = part._replace(energy=jnp.exp(part.energy - largest))
        start = jax.lax.axis_index(plan.axis_name) * n
        largest = jax.lax.dynamic_slice_in_dim(largest, start, n)
    if plan.rule is None:
        zeros = jnp.zeros_like(shard.alive, part.energy.dtype)
        total = ColumnSums(scatter_sum(part.energy, plan.axis_name), zeros, zeros)
    else:
        side_by_side = scatter_sum(jnp.stack(part, axis=1), plan.axis_name)
        total = ColumnSums(*side_by_side.T)
    if plan.energy == "softmax":
        total = total._replace(energy=largest + jnp.log(total.energy))
    return with_columns(sums, total), residual


def gathered_backward(
    plan: Plan, shard: Shard, all_: Columns, residual: Any, sums: Sums, cotangent: Sums
) -> Gradient:
    """Gradient of owned rows against all columns; that of y is of all columns, or, if
    rows are gathered too, of the owned ones."""

    def one(block: Block, kept: Any, side: Side, theirs: Any, columns: bool) -> Any:
        known, asked = map(with_columns, side, theirs)
        return run_backward(plan, block, kept, known, asked, columns=columns)

    here, block = (sums, cotangent), block_of(shard, all_)
    if shard.opposite is None:
        (theirs,) = told(plan, here)
        return one(block, residual, here, theirs, True)
    there, other = (exchanged(sums), exchanged(cotangent)), turned(shard)
    of_columns, of_rows = told(plan, here, there)
    g = one(block, residual, here, of_columns, False)
    y = one(other, plan.engine.residual(other), there, of_rows, False).x
    return g._replace(y=y)


def told(plan: Plan, *sides: Side) -> list[tuple[ColumnSums, ColumnSums]]:
    """Of each side the columns of all devices, whose owners know the sums.

    All of a sample's numbers travel side by side: what they cost is the start.
    """
    # Masses have no gradient, and without targets alignments have none.
    width = 2 if plan.rule is None else 3
    own = [
        number
        for sums, cotangent in sides
        for number in (
            sums.column_energy,
            cotangent.column_energy,
            cotangent.column_aligned,
        )[:width]
    ]
    all_ = jax.lax.all_gather(jnp.stack(own, axis=1), plan.axis_name, tiled=True).T
    zeros = jnp.zeros_like(all_[0])
    found = []
    for k in range(0, len(own), width):
        energy, weight, *aligned = all_[k : k + width]
        cotangents = ColumnSums(weight, zeros, *(aligned or [zeros]))
        found.append((ColumnSums(energy, zeros, zeros), cotangents))
    return found


def shift(plan: Plan, tree: Any) -> Any:
    """Every block moves on to the next device of the ring."""
    size = jax.lax.axis_size(plan.axis_name)
    ring = [(i, (i + 1) % size) for i in range(size)]
    one = partial(jax.lax.ppermute, axis_name=plan.axis_name, perm=ring)
    return jax.tree.map(one, tree)


def merge_columns(plan: Plan, a: ColumnSums, b: ColumnSums) -> ColumnSums:
    """Column sums over two sets of rows."""
    return ColumnSums(
        tile.merge(plan.energy, a.energy, b.energy),
        a.mass + b.mass,
        a.aligned + b.aligned,
    )


def ring_forward(plan: Plan, shard: Shard, own: Columns) -> tuple[Sums, Any]:
    """Blocks of columns pass by; each leaves its row sums and takes its column sums."""
    sums, first = run_forward(plan, block_of(shard, own))
    passing = shift(plan, (own, columns_of(sums)))

    def visit(carry: tuple, _: None) -> tuple[tuple, Any]:
        rows, (columns, collected) = carry
        # Sent before the block is worked on, so that the transfer hides behind it.
        following = shift(plan, columns)
        here, residual = run_forward(plan, block_of(shard, columns))
        collected = merge_columns(plan, collected, columns_of(here))
        rows = rows._replace(
            row_energy=tile.merge(plan.energy, rows.row_energy, here.row_energy),
            row_mass=rows.row_mass + here.row_mass,
            row_aligned=rows.row_aligned + here.row_aligned,
        )
        return (rows, (following, shift(plan, collected))), residual

    others = jax.lax.axis_size(plan.axis_name) - 1
    (sums, (_, home)), residuals = jax.lax.scan(
        visit, (sums, passing), None, length=others
    )
    return with_columns(sums, home), (first, residuals)


def ring_backward(
    plan: Plan, shard: Shard, own: Columns, residual: Any, sums: Sums, cotangent: Sums
) -> Gradient:
    """The same walk; each block of columns carries its gradient home."""
    first, residuals = residual

    def visited(columns: Columns, theirs: tuple, residual: Any) -> Gradient:
        energies, cotangents = theirs
        return run_backward(
            plan,
            block_of(shard, columns),
            residual,
            with_columns(sums, energies),
            with_columns(cotangent, cotangents),
        )

    theirs = (columns_of(sums), columns_of(cotangent))
    total = visited(own, theirs, first)
    passing = shift(plan, ((own, theirs), total.y))

    def visit(carry: tuple, residual: Any) -> tuple[tuple, None]:
        total, ((columns, theirs), collected) = carry
        following = shift(plan, (columns, theirs))
        g = visited(columns, theirs, residual)
        total = Gradient(
            total.x + g.x,
            total.y,
            total.logit_scale + g.logit_scale,
            total.logit_bias + g.logit_bias,
        )
        return (total, (following, shift(plan, collected + g.y))), None

    others = jax.lax.axis_size(plan.axis_name) - 1
    (total, (_, home)), _ = jax.lax.scan(
        visit, (total, passing), residuals, length=others
    )
    return total._replace(y=home)
