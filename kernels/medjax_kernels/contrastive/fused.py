"""What the fused kernels of every platform share: their operands and their tile.

A fused kernel forms a tile of S and of Y on the chip and leaves only sums (forward) or
products with features (backward). It sees a :class:`~.tile.Block` as :class:`Operands`,
padded to whole tiles:

* logits are in base two, t = S log2(e): the units have exp2, and the scale takes the
  factor for free;
* who takes part is an addend per row and per column, 0 or ``EMPTY`` (rows also carry
  the bias), so that excluded pairs have 2^t = 0, a softplus of zero and, the targets
  asking t, no target;
* a target is two vectors of keys compared for equality (ids of ``Groups``, places in
  the batch of ``Similarity``) and, for ``Similarity``, two matrices of unit rows whose
  products are the correlations. They are rounded to the dtype of the features, so that
  the tensor cores multiply them as they multiply those.

The arithmetic below is elementwise on tiles, so that a TPU's two-dimensional vectors
and a GPU's one-dimensional ones can both be spread over it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from medjax_kernels.contrastive.targets import (
    DenseRule,
    GroupsRule,
    Rule,
    SimilarityRule,
)
from medjax_kernels.contrastive.tile import EMPTY, Block, Energy, Sums

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453

TAKES_PART = 0.5 * EMPTY
"""Logits above belong to pairs that take part; with both addends they are < EMPTY."""


class Operands(NamedTuple):
    """A block, padded to R rows, M columns, width D; None where no target needs it.

    Arrays, or in a kernel their references, or what says how they are cut.

    Attributes:
        x: features of the rows, [R, D].
        y: features of the columns, [M, D].
        scale: of the logits in base two, [1].
        row_addend: bias in base two, or EMPTY, [R].
        column_addend: 0 or EMPTY, [M].
        row_key: int32 [R].
        column_key: int32 [M].
        row_unit: unit rows for correlations, [R, P].
        column_unit: unit rows for correlations, [M, P].
        values: the target itself, [R, M].
    """

    x: Any
    y: Any
    scale: Any
    row_addend: Any
    column_addend: Any
    row_key: Any = None
    column_key: Any = None
    row_unit: Any = None
    column_unit: Any = None
    values: Any = None


class Slopes(NamedTuple):
    """What the backward pass knows of one row or column, each fp32 [n].

    Attributes:
        energy: its energy in base two (softmax); 0 where excluded, whose logits are
          EMPTY already, so that 2^(t - energy) vanishes.
        weight: cotangent of the energy.
        aligned: cotangent of the logits aligned with the targets.
    """

    energy: Any
    weight: Any
    aligned: Any


def unsupported_target(rule: Rule | None, block: Block) -> str | None:
    """Why no fused kernel can make this target, or None."""
    if rule is None or isinstance(rule, DenseRule | SimilarityRule):
        return None
    if not isinstance(rule, GroupsRule):
        return f"it makes Identity, Groups, Dense and Similarity, not {rule!r}"
    ids = block.rows["ids"]
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.dtype.itemsize > 4:
        return f"it compares ids of up to 32 bits, not {ids.dtype}"
    return None


def pad(
    array: Shaped[Array, "*s"], multiples: tuple[int, ...], fill: float = 0
) -> Shaped[Array, "*t"]:
    """The array with every axis filled up to a multiple."""
    widths = [(0, -n % m) for n, m in zip(array.shape, multiples, strict=True)]
    return jnp.pad(array, widths, constant_values=jnp.asarray(fill, array.dtype))


def operands(
    block: Block, rule: Rule | None, rows: int, columns: int, depth: int
) -> Operands:
    """The block in whole tiles of ``rows`` x ``columns``, widths of ``depth``."""
    bias = block.logit_bias * LOG2E
    padded = Operands(
        pad(block.x, (rows, depth)),
        pad(block.y, (columns, depth)),
        (block.logit_scale * LOG2E).reshape(1),
        pad(jnp.where(block.row_alive, bias, EMPTY), (rows,), EMPTY),
        pad(jnp.where(block.column_alive, 0.0, EMPTY), (columns,), EMPTY),
    )
    if isinstance(rule, GroupsRule | SimilarityRule):
        name = "ids" if isinstance(rule, GroupsRule) else "index"
        padded = padded._replace(
            row_key=pad(block.rows[name].astype(jnp.int32), (rows,)),
            column_key=pad(block.columns[name].astype(jnp.int32), (columns,)),
        )
    if isinstance(rule, SimilarityRule):
        unit = [a["unit"].astype(block.x.dtype) for a in (block.rows, block.columns)]
        padded = padded._replace(
            row_unit=pad(unit[0], (rows, depth)),
            column_unit=pad(unit[1], (columns, depth)),
        )
    if isinstance(rule, DenseRule):
        values = rule(block.rows, block.columns).astype(jnp.float32)
        padded = padded._replace(values=pad(values, (rows, columns)))
    return padded


def slopes(
    block: Block, energy: Energy, sums: Sums, cotangent: Sums, rows: int, columns: int
) -> tuple[Slopes, Slopes]:
    """What the backward pass of a padded block needs of its rows and columns."""
    unit = LOG2E if energy == "softmax" else 1.0

    def one(alive: jax.Array, value: jax.Array, dead: float, multiple: int) -> Array:
        return pad(jnp.where(alive, value, dead), (multiple,), dead)

    row_alive, column_alive = block.row_alive, block.column_alive
    return (
        Slopes(
            one(row_alive, sums.row_energy * unit, 0.0, rows),
            one(row_alive, cotangent.row_energy, 0.0, rows),
            one(row_alive, cotangent.row_aligned, 0.0, rows),
        ),
        Slopes(
            one(column_alive, sums.column_energy * unit, 0.0, columns),
            one(column_alive, cotangent.column_energy, 0.0, columns),
            one(column_alive, cotangent.column_aligned, 0.0, columns),
        ),
    )


def softplus2(t: Array) -> Array:
    """log2(1 + 2^t), accurate where it is tiny.

    There log(1 + e) would lose e to the rounding of 1 + e, and with tens of thousands
    of negatives tiny terms are what the sum consists of.
    """
    e = jnp.exp2(-jnp.abs(t))
    series = e * (1 - e * (1 / 2 - e * (1 / 3 - e * (1 / 4 - e * (1 / 5)))))
    log = jnp.where(e < 1 / 16, series, jnp.log(1 + e))
    return jnp.maximum(t, 0.0) + LOG2E * log


def merge(energy: Energy, parts: Float[Array, "t n"]) -> Float[Array, " n"]:
    """The energy of the union of tiles, which give one number each; no order matters.

    Every tile wrote its own, so this sum is the same on every run.
    """
    if energy == "softmax":
        return jax.nn.logsumexp(parts, axis=0)
    return jnp.sum(parts, axis=0)


def target_tile(rule: Rule, t: Array, same: Array, correlation: Array | None) -> Array:
    """Y of a tile, of all rules but ``Dense``; zero for pairs that take no part.

    Args:
        rule: which target.
        t: logits in base two.
        same: whether the keys of row and column are equal.
        correlation: of the unit rows; for ``Similarity``.
    """
    if isinstance(rule, SimilarityRule) and correlation is not None:
        y = rule.of_correlation(correlation, same)
    else:
        y = jnp.where(same, 1.0, 0.0)
    return taking_part(t, y)


def taking_part(t: Array, target: Array) -> Array:
    """Y, zero for pairs that take no part."""
    return jnp.where(t > TAKES_PART, target, 0.0)


def slope_tile(
    energy: Energy, t: Array, target: Array | None, row: Slopes, column: Slopes
) -> Array:
    """G of a tile, from vectors spread over it."""
    if energy == "softmax":
        g = row.weight * jnp.exp2(t - row.energy)
        g = g + column.weight * jnp.exp2(t - column.energy)
    else:
        g = (row.weight + column.weight) / (1 + jnp.exp2(-t))
    if target is None:
        return g
    return g + (row.aligned + column.aligned) * target
