"""What one block of the similarity matrix contributes, and what it needs to be undone.

Both losses are sums over rows and columns of S = scale * x y^T + bias:

* an *energy* per row and per column: log-sum-exp of the logits (softmax), or the sum of
  softplus of the logits (sigmoid);
* the *mass* of the targets, sum_j Y_ij;
* the logits *aligned* with the targets, sum_j Y_ij S_ij.

The softmax cross-entropy of row i is mass_i * energy_i - aligned_i, the sigmoid one is
energy_i - aligned_i. Energies, masses and alignments of two blocks merge into those of
their union, which is all that tiling and distribution rest on. Given the merged
energies and the cotangents g (energies) and a (alignments), the gradient of a block is

  G_ij = g_i dE_i/dS_ij + g_j dE_j/dS_ij + (a_i + a_j) Y_ij,

with dE/dS = exp(S - E) for the log-sum-exp and sigmoid(S) for the softplus, so a block
needs no memory of its forward pass.

An *engine* is a module with two functions over such a :class:`Block`::

  forward(block, rule, energy, chunk)                             -> sums, residual
  backward(block, rule, energy, chunk, residual, sums, cotangent, columns) -> Gradient

``columns=False`` asks for the gradient of the rows alone, that of y is then None.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medjax_kernels.contrastive.targets import Records, Rule
from medjax_kernels.precision import product

Energy = Literal["softmax", "sigmoid"]

EMPTY = -1e30
"""Log-sum-exp over nothing: finite, so that 0 * EMPTY is 0 and no difference is NaN."""


class Block(NamedTuple):
    """Rows against columns; logit_scale and logit_bias are scalars."""

    x: jax.Array
    y: jax.Array
    logit_scale: jax.Array
    logit_bias: jax.Array
    rows: Records
    columns: Records
    row_alive: jax.Array
    column_alive: jax.Array


class Sums(NamedTuple):
    """One number per row [r] and per column [m], fp32 (fp64 for fp64 features)."""

    row_energy: jax.Array
    column_energy: jax.Array
    row_mass: jax.Array
    column_mass: jax.Array
    row_aligned: jax.Array
    column_aligned: jax.Array


class Gradient(NamedTuple):
    """Cotangents of a block's features, scale and bias; of y where it is asked for."""

    x: jax.Array
    y: jax.Array | None
    logit_scale: jax.Array
    logit_bias: jax.Array


def merge(energy: Energy, a: jax.Array, b: jax.Array) -> jax.Array:
    """The energy of the union of two sets of logits."""
    return jnp.logaddexp(a, b) if energy == "softmax" else a + b


def energies(
    energy: Energy, logits: Float[Array, "r m"], axis: int
) -> Float[Array, " k"]:
    """The energy along one axis; excluded pairs hold EMPTY."""
    if energy == "softmax":
        return jax.nn.logsumexp(logits, axis=axis)
    return jnp.sum(jax.nn.softplus(logits), axis=axis)


def pairs(block: Block) -> Bool[Array, "r m"]:
    """Pairs of two samples that both take part."""
    return block.row_alive[:, None] & block.column_alive[None, :]


def masked_target(block: Block, rule: Rule, dtype: Any) -> Float[Array, "r m"]:
    """Y of the block, zero for pairs that take no part."""
    values = rule(block.rows, block.columns).astype(dtype)
    return jnp.where(pairs(block), values, 0)


def logits_of(block: Block) -> Float[Array, "r m"]:
    """S of the block, EMPTY for pairs that take no part."""
    dots = product("id,jd->ij", block.x, block.y)
    return jnp.where(pairs(block), dots * block.logit_scale + block.logit_bias, EMPTY)


def sums_of(
    logits: Float[Array, "r m"], block: Block, rule: Rule | None, energy: Energy
) -> Sums:
    """All sums of a block whose logits are at hand."""
    row_energy = energies(energy, logits, 1)
    column_energy = energies(energy, logits, 0)
    if rule is None:
        rows, columns = jnp.zeros_like(row_energy), jnp.zeros_like(column_energy)
        return Sums(row_energy, column_energy, rows, columns, rows, columns)
    target = masked_target(block, rule, logits.dtype)
    # EMPTY times a zero target is a zero of the wrong sign at most.
    aligned = target * logits
    return Sums(
        row_energy,
        column_energy,
        jnp.sum(target, axis=1),
        jnp.sum(target, axis=0),
        jnp.sum(aligned, axis=1),
        jnp.sum(aligned, axis=0),
    )


def slope(
    logits: Float[Array, "r m"],
    block: Block,
    rule: Rule | None,
    energy: Energy,
    sums: Sums,
    cotangent: Sums,
) -> Float[Array, "r m"]:
    """G, the cotangent of the logits; zero for pairs that take no part."""
    row_g, column_g = cotangent.row_energy[:, None], cotangent.column_energy[None, :]
    if energy == "softmax":
        g = row_g * jnp.exp(logits - sums.row_energy[:, None])
        g = g + column_g * jnp.exp(logits - sums.column_energy[None, :])
    else:
        g = (row_g + column_g) * jax.nn.sigmoid(logits)
    g = jnp.where(pairs(block), g, 0)
    if rule is None:
        return g
    both = cotangent.row_aligned[:, None] + cotangent.column_aligned[None, :]
    return g + both * masked_target(block, rule, logits.dtype)


def pull_back(g: Float[Array, "r m"], block: Block, columns: bool = True) -> Gradient:
    """From the cotangent of the logits to that of features, scale and bias.

    The two gradient products run in the dtype of the features with fp32 accumulation.
    """
    narrow = g.astype(block.x.dtype)
    x = product("ij,jd->id", narrow, block.y)
    y = product("ij,id->jd", narrow, block.x) if columns else None
    return scaled(x, y, jnp.sum(g), block)


def scaled(x: Array, y: Array | None, total: Array, block: Block) -> Gradient:
    """The gradient from G y, G^T x and the sum of G."""
    return Gradient(
        x * block.logit_scale,
        None if y is None else y * block.logit_scale,
        # sum_ij G_ij (x_i . y_j), without a second pass over the block.
        jnp.sum(x * block.x.astype(x.dtype)),
        total,
    )
