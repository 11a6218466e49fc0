"""The two contrastive losses over a global batch.

With S = logit_scale * x y^T (+ logit_bias) and targets Y:

* :func:`softmax_loss`: cross-entropy between the rows of Y and softmax of the rows of
  S, and the same for the columns (InfoNCE, CLIP, ConVIRT; with soft Y IMITATE);
* :func:`sigmoid_loss`: an independent binary decision for every pair (SigLIP, Zhai et
  al., arXiv 2303.15343).

Logits, their exponentials and all sums are fp32 whatever the features are. fp32
features are multiplied in true fp32; bf16 features run at tensor-core rate with fp32
accumulation. The diagonal is never gathered from S: positives are sum(x * y, -1).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels.contrastive.schedules import (
    Columns,
    Distributed,
    Plan,
    Shard,
    block_of,
    global_sums,
)
from medjax_kernels.contrastive.select import select
from medjax_kernels.contrastive.targets import (
    Identity,
    Rule,
    Similarity,
    Target,
    accumulator,
    expect_shape,
)
from medjax_kernels.contrastive.tile import Block, Energy, Sums
from medjax_kernels.varying import axes_of, vary

Scalar = Float[Array, ""] | float


def softmax_loss(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    *,
    logit_scale: Scalar,
    logit_bias: Scalar = 0.0,
    targets: Target = Identity(),  # noqa: B008 (immutable)
    weights: Float[Array, " n"] | None = None,
    axis_name: str | Sequence[str] | None = None,
    distributed: Distributed = "all_gather",
    chunk: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Softmax contrast of paired features, one number per direction.

    loss_xy = sum_i w_i sum_j -Y_ij log softmax_j(S_i) / sum_i w_i, and loss_yx the same
    of the transposes of S and Y. The caller adds, averages or weighs the two.

    Args:
      x: features, normalised by the caller; bf16, fp16, fp32 or fp64.
      y: features paired with x row by row, of the same dtype.
      logit_scale: the inverse temperature; learnable.
      logit_bias: has no effect: a constant cancels in a softmax. Taken so that both
        losses have one signature; its gradient is zero.
      targets: Identity, Dense, Groups or Similarity; constant, no gradient flows in.
      weights: >= 0, constant. A sample of weight zero takes no part, neither as anchor
        nor as negative: the loss is that of the batch without it, whatever its features
        hold. If all are zero, the losses and their gradients are zero.
      axis_name: mesh axes over which the batch is split, inside ``jax.shard_map``;
        every array then holds local rows (of ``Dense``, local rows of the global
        matrix) and the loss, the same on every device, is that of the global batch.
      distributed: "all_gather" or "ring"; the same numbers, see ``schedules``.
      chunk: rows of S held at a time, in both passes; None: chosen.
      implementation: "xla" keeps S for the backward pass, "xla_chunked" recomputes it
        in chunks, "tpu" and "gpu" are fused kernels; None picks one of XLA's by size.

    Returns:
      (loss_xy, loss_yx), fp32 (fp64 for fp64 features).

    Raises:
      ValueError: for shapes, dtypes or names that do not fit.
      NotImplementedError: if the named implementation cannot run this, and why.
    """
    del logit_bias
    problem = prepare(x, y, logit_scale, 0.0, targets, weights, axis_name, distributed)
    sums = problem.sums("softmax", chunk, implementation)
    row = sums.row_mass * sums.row_energy - sums.row_aligned
    column = sums.column_mass * sums.column_energy - sums.column_aligned
    if targets.normalise:
        row = row / jnp.where(sums.row_mass > 0, sums.row_mass, 1)
        column = column / jnp.where(sums.column_mass > 0, sums.column_mass, 1)
    return problem.mean(row), problem.mean(column)


def sigmoid_loss(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    *,
    logit_scale: Scalar,
    logit_bias: Scalar = 0.0,
    targets: Target = Identity(),  # noqa: B008 (immutable)
    weights: Float[Array, " n"] | None = None,
    axis_name: str | Sequence[str] | None = None,
    distributed: Distributed = "all_gather",
    chunk: int | None = None,
    implementation: str | None = None,
) -> Float[Array, ""]:
    """Sigmoid contrast of paired features (SigLIP).

    -1/n sum_ij [Y_ij log sigmoid(S_ij) + (1 - Y_ij) log sigmoid(-S_ij)], which for
    labels 0 and 1 is SigLIP's -1/n sum_ij log sigmoid(z_ij S_ij), z = 2 Y - 1. With
    weights, pair (i, j) counts (w_i + w_j) / 2 and n becomes the sum of weights.

    Args:
      x: features, normalised by the caller; bf16, fp16, fp32 or fp64.
      y: features paired with x row by row, of the same dtype.
      logit_scale: the inverse temperature; learnable.
      logit_bias: learnable; SigLIP starts it at -10, against the many negatives.
      targets: labels in [0, 1]: several positives (Groups, its ``normalise`` without
        effect), soft ones (Dense, Similarity).
      weights: as in :func:`softmax_loss`.
      axis_name: as in :func:`softmax_loss`.
      distributed: as in :func:`softmax_loss`.
      chunk: as in :func:`softmax_loss`.
      implementation: as in :func:`softmax_loss`.

    Returns:
      The loss, fp32 (fp64 for fp64 features).

    Raises:
      ValueError: for shapes, dtypes or names that do not fit, and for Similarity
        targets whose diagonal exceeds one.
      NotImplementedError: if the named implementation cannot run this, and why.
    """
    if (
        isinstance(targets, Similarity)
        and targets.fill_diagonal
        and targets.smoothing in ("gaussian", "laplace", "sigmoid")
    ):
        raise ValueError(
            f"targets with smoothing={targets.smoothing!r} and fill_diagonal=True "
            "have a diagonal above 1, expected labels in [0, 1]; pass "
            "fill_diagonal=False"
        )
    problem = prepare(
        x, y, logit_scale, logit_bias, targets, weights, axis_name, distributed
    )
    sums = problem.sums("sigmoid", chunk, implementation)
    row = sums.row_energy - sums.row_aligned
    column = sums.column_energy - sums.column_aligned
    return (problem.mean(row) + problem.mean(column)) / 2


@dataclasses.dataclass(frozen=True)
class Problem:
    """A validated call: the owned samples, their weights, and where the rest is."""

    shard: Shard
    rule: Rule | None
    weights: jax.Array
    axis_name: tuple[str, ...] | None
    distributed: Distributed

    def sums(
        self, energy: Energy, chunk: int | None, implementation: str | None
    ) -> Sums:
        """Sums of the owned rows and columns over the global batch."""
        shard = self.shard
        visits = self.axis_name is not None and self.distributed == "ring"
        engine, chunk = select(
            implementation, chunk, self.largest_block(), self.rule, visits=visits
        )
        plan = Plan(energy, self.rule, engine, chunk, self.axis_name, self.distributed)
        sums = global_sums(plan, shard)
        if self.rule is not None:
            return sums
        # The identity needs no tile of Y: its mass is one, its logits are the
        # positives.
        dtype = shard.logit_scale.dtype
        dots = jnp.sum(shard.x.astype(dtype) * shard.y.astype(dtype), axis=-1)
        alive = shard.alive.astype(dtype)
        positives = alive * (dots * shard.logit_scale + shard.logit_bias)
        return Sums(
            sums.row_energy, sums.column_energy, alive, alive, positives, positives
        )

    def largest_block(self) -> Block:
        """The owned rows against the columns that are seen at a time; columns' shapes
        only.
        """
        gathers = self.axis_name is not None and self.distributed == "all_gather"
        devices = jax.lax.axis_size(self.axis_name) if gathers else 1
        shard = self.shard

        def seen(a: jax.Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((devices * a.shape[0], *a.shape[1:]), a.dtype)

        own = Columns(shard.y, shard.columns, shard.alive)
        return block_of(shard, jax.tree.map(seen, own))

    def over_batch(self, value: jax.Array) -> jax.Array:
        """The sum over devices."""
        return value if self.axis_name is None else jax.lax.psum(value, self.axis_name)

    def mean(self, terms: jax.Array) -> jax.Array:
        """The weighted mean over the global batch; zero if all weights are."""
        total = self.over_batch(jnp.sum(self.weights))
        total = jnp.where(total > 0, total, 1)
        return self.over_batch(jnp.sum(self.weights * terms)) / total


def prepare(
    x: jax.Array,
    y: jax.Array,
    logit_scale: Scalar,
    logit_bias: Scalar,
    targets: Target,
    weights: jax.Array | None,
    axis_name: str | Sequence[str] | None,
    distributed: str,
) -> Problem:
    """Checks a call, and gives every array the axes that the result will vary over."""
    n = x.shape[0]
    if y.shape != x.shape or y.dtype != x.dtype:
        raise ValueError(
            f"y is {y.dtype}{list(y.shape)}, expected that of x: "
            f"{x.dtype}{list(x.shape)}"
        )
    if distributed not in ("all_gather", "ring"):
        raise ValueError(
            f"distributed is {distributed!r}, expected 'all_gather' or 'ring'"
        )
    axes = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
    devices = jax.lax.axis_size(axes) if axes else 1
    targets.validate(n, n * devices)
    dtype = accumulator(x.dtype)
    if weights is None:
        weights = jnp.ones(n, dtype)
    expect_shape("weights", weights, (n,))
    counts = jax.lax.stop_gradient(jnp.asarray(weights, dtype))
    index = jnp.arange(n, dtype=jnp.int32)
    if axes:
        index = index + n * jax.lax.axis_index(axes).astype(jnp.int32)
    alive = counts > 0
    # What a dead sample holds, even NaN, must not reach a product with a zero.
    x, y = (jnp.where(alive[:, None], a, 0) for a in (x, y))
    rows, columns = jax.lax.stop_gradient(targets.records(index))
    shard = Shard(
        x,
        y,
        jnp.asarray(logit_scale, dtype),
        jnp.asarray(logit_bias, dtype),
        rows,
        columns,
        alive,
    )
    varying = axes_of((shard, counts)) | frozenset(axes)
    shard, counts = vary((shard, counts), varying)
    return Problem(shard, targets.rule(), counts, axes or None, distributed)
