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

from medjax_kernels.contrastive.exchange import Columns, Distributed, Exchange
from medjax_kernels.contrastive.schedules import (
    Plan,
    Shard,
    block_of,
    global_sums,
)
from medjax_kernels.contrastive.select import select
from medjax_kernels.contrastive.targets import (
    Identity,
    Records,
    Rule,
    Similarity,
    Target,
    expect_shape,
    transposable,
)
from medjax_kernels.contrastive.tile import Block, Energy, Sums
from medjax_kernels.precision import accumulator
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
    exchange: Exchange | None = None,
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
      distributed: "all_gather", "all_gather_both" or "ring"; the same numbers, see
        ``schedules``. Of ``Dense`` targets, which are stored by rows, "all_gather_both"
        is "all_gather".
      exchange: in place of the last two, and of this call alone; losses that share one
        show each array to the other devices once, rounded if it says so.
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
    exchange = exchange or Exchange(names(axis_name), distributed)
    problem = prepare(x, y, logit_scale, 0.0, targets, weights, exchange)
    sums = problem.sums("softmax", chunk, implementation)
    row = sums.row_mass * sums.row_energy - sums.row_aligned
    column = sums.column_mass * sums.column_energy - sums.column_aligned
    if targets.normalise:
        row = row / jnp.where(sums.row_mass > 0, sums.row_mass, 1)
        column = column / jnp.where(sums.column_mass > 0, sums.column_mass, 1)
    one, other = problem.means(row, column)
    return one, other


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
    exchange: Exchange | None = None,
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
      exchange: as in :func:`softmax_loss`.
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
    exchange = exchange or Exchange(names(axis_name), distributed)
    problem = prepare(x, y, logit_scale, logit_bias, targets, weights, exchange)
    sums = problem.sums("sigmoid", chunk, implementation)
    row = sums.row_energy - sums.row_aligned
    column = sums.column_energy - sums.column_aligned
    return jnp.mean(problem.means(row, column))


@dataclasses.dataclass(frozen=True)
class Problem:
    """A validated call: the owned samples, their weights, and where the rest is."""

    shard: Shard
    rule: Rule | None
    weights: jax.Array
    exchange: Exchange

    def sums(
        self, energy: Energy, chunk: int | None, implementation: str | None
    ) -> Sums:
        """Sums of the owned rows and columns over the global batch."""
        shard, exchange = self.shard, self.exchange
        visits = bool(exchange.axes) and not exchange.gathers
        engine, chunk = select(
            implementation, chunk, self.largest_block(), self.rule, visits=visits
        )
        plan = Plan(energy, self.rule, engine, chunk, exchange.axes)
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
        """The owned rows against the columns that are seen at a time."""
        shard = self.shard
        if shard.everyone is None:
            return block_of(shard, Columns(shard.y, shard.columns, shard.alive))
        everyone = shard.everyone
        y = jax.ShapeDtypeStruct(everyone.y.shape, shard.y.dtype)
        return block_of(shard, everyone._replace(y=y))

    def means(self, *terms: jax.Array) -> jax.Array:
        """Weighted means over the global batch; zero if all weights are."""
        sums = jnp.stack([jnp.sum(self.weights * each) for each in (1, *terms)])
        if self.exchange.axes:
            sums = jax.lax.psum(sums, self.exchange.axes)
        return sums[1:] / jnp.where(sums[0] > 0, sums[0], 1)


def names(axis_name: str | Sequence[str] | None) -> tuple[str, ...]:
    """The axes, whether there is one, some or none."""
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())


def prepare(
    x: jax.Array,
    y: jax.Array,
    logit_scale: Scalar,
    logit_bias: Scalar,
    targets: Target,
    weights: jax.Array | None,
    exchange: Exchange,
) -> Problem:
    """Checks a call, and gives every array the axes that the result will vary over."""
    n, axes = x.shape[0], exchange.axes
    if y.shape != x.shape or y.dtype != x.dtype:
        raise ValueError(
            f"y is {y.dtype}{list(y.shape)}, expected that of x: "
            f"{x.dtype}{list(x.shape)}"
        )
    devices = jax.lax.axis_size(axes) if axes else 1
    targets.validate(n, n * devices)
    dtype = accumulator(x.dtype)
    index = jnp.arange(n, dtype=jnp.int32)
    if axes:
        index = index + n * jax.lax.axis_index(axes).astype(jnp.int32)
    counts, alive = jnp.ones(n, dtype), None
    if weights is not None:
        expect_shape("weights", weights, (n,))
        counts = jax.lax.stop_gradient(jnp.asarray(weights, dtype))
        alive = exchange.once("alive", weights, lambda: counts > 0)
    rule = targets.rule()
    both = exchange.gathers_both and transposable(rule)
    x, y = exchange.travelling(x) if both else x, exchange.travelling(y)
    rows, columns = exchange.records(targets, index)
    everyone, opposite = None, None
    if exchange.gathers:
        everywhere = None if alive is None else exchange.shown(alive)

        def of_all(features: jax.Array, records: Records) -> Columns:
            wide = exchange.gathered(features)
            kept = (wide, everywhere)
            # Once, so that losses of one array keep one, and add its gradients first.
            wide = exchange.once("living", kept, lambda: living(*kept))
            return Columns(
                jax.lax.stop_gradient(wide) if both else wide,
                jax.tree.map(exchange.shown, records),
                jnp.ones(n * devices, bool) if everywhere is None else everywhere,
            )

        everyone = of_all(y, columns)
        opposite = of_all(x, rows) if both else None
    shard = Shard(
        living(x, alive),
        living(y, alive),
        jnp.asarray(logit_scale, dtype),
        jnp.asarray(logit_bias, dtype),
        rows,
        columns,
        jnp.ones(n, bool) if alive is None else alive,
        everyone,
        opposite,
    )
    varying = axes_of((shard, counts)) | frozenset(axes)
    shard, counts = vary((shard, counts), varying)
    return Problem(shard, rule, counts, exchange)


def living(features: jax.Array, alive: jax.Array | None) -> jax.Array:
    """The features, zero where a sample takes no part.

    What it holds, even NaN, must not reach a product with a zero.
    """
    return features if alive is None else jnp.where(alive[:, None], features, 0)
