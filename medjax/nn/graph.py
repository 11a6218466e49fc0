"""Graphs of fixed shape as tables: gathered forward and backward, never scattered.

The topology of a mesh does not change in training, so who stands beside whom is known
when the program is built. A :class:`Table` says which rows of one array stand in which
slots of another, and the other way round; every row's slots have one width, padded with
rows that do not exist. So one row with many neighbours costs time and memory for all
(measured: ``experiments/results/heart.md``). Then :func:`gather` reads a row for every
slot, :func:`collect` adds slots up in rows, each is the other's transpose, and both are
reads. The gradient of an ordinary gather is a scatter-add, which accelerators serialise
where many edges meet in one vertex.

One kind of table serves all: neighbours of vertices (:func:`neighbours`), corners of
faces, members of a cluster, vertices that a point lies between.

Features have any leading axes, then rows, then channels: a batch of subjects and frames
shares one table, with no padding of graphs and no recompilation.

On the tables stand a step of message passing (:class:`MessageStep`) and a V-cycle over
levels of a mesh (:class:`VCycle`), in which news crosses the whole heart in a dozen
steps. What they took from GraphCast (Lam et al., Science 2023): products before the
gather, sums in float32 with the aggregate normalised, and residuals throughout. Of its
sharding by space nothing: one heart is a few megabytes of features, so ``data`` and
``fsdp`` are what is split.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Int32

from medjax.nn.normalization import LayerNorm


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Which rows stand in which slots; static, on the host.

    Attributes:
        index: the row in every slot; ``count`` where a slot is empty.
        back: the slots, counted through ``index`` row by row, in which every row
            stands; ``index.size`` where there are no more.
        count: number of rows.
    """

    index: Int32[np.ndarray, "n k"]
    back: Int32[np.ndarray, "m r"]
    count: int

    @classmethod
    def of(cls, index: Int[np.ndarray, "n k"], count: int) -> "Table":
        """The table of an index; ``count`` marks empty slots.

        Raises:
            ValueError: if it names rows that are not there.
        """
        index = np.asarray(index, np.int32)
        if index.size and not 0 <= index.min() <= index.max() <= count:
            raise ValueError(
                f"index: rows {index.min()} to {index.max()}, expected 0 to {count}"
            )
        slots = np.flatnonzero(index < count)
        rows = index.reshape(-1)[slots]
        return cls(index, grouped(rows, slots, count, empty=index.size), count)

    @functools.cached_property
    def filled(self) -> Bool[np.ndarray, "n k"]:
        """Where a slot is not empty."""
        return self.index < self.count

    @functools.cached_property
    def share(self) -> Int32[np.ndarray, " n"]:
        """How many slots are filled in every row of slots."""
        return self.filled.sum(axis=1, dtype=np.int32)


def neighbours(
    senders: Int[np.ndarray, " e"], receivers: Int[np.ndarray, " e"], count: int
) -> Table:
    """The table of a graph's edges: for every receiver, its senders in rising order.

    Args:
        senders: vertex at the start of every edge; a pair that comes twice counts once.
        receivers: vertex at its end.
        count: number of vertices.
    """
    pairs = np.unique(np.stack([receivers, senders], axis=-1), axis=0)
    index = grouped(pairs[:, 0], pairs[:, 1], count, empty=count)
    return Table.of(index, count)


def edges_of(table: Table) -> tuple[Int32[np.ndarray, " e"], Int32[np.ndarray, " e"]]:
    """Senders and receivers of a neighbour table's filled slots, slot by slot."""
    receivers, _ = np.nonzero(table.filled)
    return table.index[table.filled], receivers.astype(np.int32)


def grouped(
    groups: Int[np.ndarray, " e"],
    members: Int[np.ndarray, " e"],
    count: int,
    *,
    empty: int,
) -> Int32[np.ndarray, "m r"]:
    """Members of every group as rows of one width, in the order in which they came.

    Args:
        groups: of every member, below ``count``.
        members: whole numbers.
        count: number of groups, one row each.
        empty: what fills the rows up.
    """
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups, minlength=count)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    rows = np.full((count, max(1, int(sizes.max(initial=0)))), empty, np.int32)
    rows[groups[order], place] = members[order]
    return rows


def gather(x: Float[Array, "*batch m c"], table: Table) -> Float[Array, "*batch n k c"]:
    """The row in every slot; zeros in empty ones.

    Args:
        x: a row for each that the table knows.
        table: which goes where.
    """
    return _gather(x, jnp.asarray(table.index), jnp.asarray(table.back))


def collect(
    y: Float[Array, "*batch n k c"], table: Table
) -> Float[Array, "*batch m c"]:
    """For every row the sum over the slots in which it stands: gather's transpose.

    Args:
        y: a value for every slot; what stands in empty ones does not count.
        table: which goes where.
    """
    return _collect(y, jnp.asarray(table.index), jnp.asarray(table.back))


@jax.custom_vjp
def _gather(x: Array, index: Array, back: Array) -> Array:
    return jnp.take(x, index, axis=-2, mode="fill", fill_value=0)


@jax.custom_vjp
def _collect(y: Array, index: Array, back: Array) -> Array:
    flat = y.reshape(*y.shape[:-3], math.prod(y.shape[-3:-1]), y.shape[-1])
    return jnp.sum(jnp.take(flat, back, axis=-2, mode="fill", fill_value=0), axis=-2)


_gather.defvjp(
    lambda x, index, back: (_gather(x, index, back), (index, back)),
    lambda tables, g: (_collect(g, *tables), None, None),
)
_collect.defvjp(
    lambda y, index, back: (_collect(y, index, back), (index, back)),
    lambda tables, g: (_gather(g, *tables), None, None),
)


def mean_of(
    y: Float[Array, "*batch n k c"], table: Table
) -> Float[Array, "*batch n c"]:
    """The mean over filled slots, in float32; zero where there are none.

    Args:
        y: a value for every slot.
        table: which slots are filled.
    """
    shape = (1,) * (y.ndim - 3) + table.filled.shape + (1,)
    y = jnp.where(table.filled.reshape(shape), y.astype(jnp.float32), 0.0)
    size = np.maximum(table.share, 1).astype(np.float32)
    return jnp.sum(y, axis=-2) / size.reshape(*shape[:-2], 1)


class MessageStep(nn.Module):
    """One round of messages between neighbours, with a residual.

    With h the normalised features, a vertex hears of each neighbour j
    m = W_2 silu(W_s h_j + W_r h_i + W_e e_ij + b_1) + b_2, takes the mean, normalises
    it, and adds W_4 silu(W_3 [h_i, mean m] + b_3) + b_4 to what it had. W_s and W_r are
    applied to vertices, before the gather, and W_2 to the mean: the same function with
    K times fewer products. A vertex without neighbours hears 0.
    """

    width: int
    dtype: DTypeLike = jnp.float32
    """Of products and messages; sums, norms and the residual are float32."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*b n c"],
        edges: Float[Array, "*b n k e"],
        table: Table,
    ) -> Float[Array, "*b n c"]:
        """Features after the step, float32.

        Args:
          x: of vertices.
          edges: of a vertex and its neighbours.
          table: who the neighbours are.
        """

        def dense(name: str, *, bias: bool = False) -> nn.Dense:
            return nn.Dense(self.width, use_bias=bias, dtype=self.dtype, name=name)

        h = LayerNorm(dtype="float32", name="norm")(x)
        heard = gather(dense("sender")(h), table) + dense("edge")(edges)
        told = dense("receiver", bias=True)(h)
        message = nn.silu(heard + told[..., None, :])
        mean = mean_of(message, table)
        some = (table.share > 0).astype(np.float32)
        mean = dense("message", bias=True)(mean) * some.reshape(
            (1,) * (x.ndim - 2) + (-1, 1)
        ).astype(self.dtype)
        mean = LayerNorm(dtype="float32", name="message_norm")(mean)
        both = jnp.concatenate([h, mean], axis=-1)
        update = nn.silu(dense("update_0", bias=True)(both))
        return x + dense("update_1", bias=True)(update).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """The way from one level of a mesh to the next coarser one, and back.

    Attributes:
        members: finer vertices of every coarse one; pooling is their mean.
        between: coarse vertices that every finer one lies between.
        weights: of those.
    """

    members: Table
    between: Table
    weights: Float[np.ndarray, "n j"]


class VCycle(nn.Module):
    """Messages on every level from fine to coarse and back, with skip connections."""

    steps: tuple[int, ...]
    """Rounds per level on the way down, at the bottom, and on the way up."""
    width: int
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    """Compute every step again on the way back instead of keeping its messages."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*b n c"],
        edges: Sequence[Float[Array, "*b _ _ _e"]],
        tables: Sequence[Table],
        descents: Sequence[Descent],
    ) -> Float[Array, "*b n c"]:
        """Features of the finest level after the cycle.

        Args:
          x: of the finest vertices.
          edges: features of edges per level, finest first.
          tables: neighbours per level.
          descents: between the levels, one fewer.

        Raises:
          ValueError: If steps, edges, tables and descents do not fit each other.
        """
        levels = len(tables)
        if (len(self.steps), len(edges), len(descents)) != (
            *(2 * levels - 1, levels, levels - 1),
        ):
            raise ValueError(
                f"{len(self.steps)} numbers of steps, {len(edges)} sets of edges and "
                f"{len(descents)} descents for {levels} levels, expected "
                f"{2 * levels - 1}, {levels} and {levels - 1}"
            )
        step = nn.remat(MessageStep, static_argnums=(3,)) if self.remat else MessageStep
        encoded = [
            nn.Dense(self.width, dtype=self.dtype, name=f"edges_{i}")(e)
            for i, e in enumerate(edges)
        ]

        def rounds(x: Array, stage: int, level: int) -> Array:
            for i in range(self.steps[stage]):
                made = step(self.width, self.dtype, name=f"step_{stage}_{i}")
                x = made(x, encoded[level], tables[level])
            return x

        kept = []
        for level, descent in enumerate(descents):
            x = rounds(x, level, level)
            kept.append(x)
            x = mean_of(gather(x, descent.members), descent.members)
        x = rounds(x, levels - 1, levels - 1)
        for level in reversed(range(levels - 1)):
            descent = descents[level]
            weights = descent.weights.astype(np.float32)
            weights = weights.reshape((1,) * (x.ndim - 2) + (*weights.shape, 1))
            x = jnp.sum(gather(x, descent.between) * weights, axis=-2)
            x = rounds(x + kept[level], 2 * levels - 2 - level, level)
        return x
