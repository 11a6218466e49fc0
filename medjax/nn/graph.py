"""Graphs of fixed shape as tables: gathered forward and backward, never scattered.

The topology of a mesh does not change in training, so who stands beside whom is known
when the program is built. A :class:`Table` says which rows of one array stand in which
slots of another, and the other way round; every row's slots have one width, padded with
rows that do not exist. Then :func:`gather` reads a row for every slot, :func:`collect`
adds slots up in rows, each is the other's transpose, and both are reads. The gradient
of an ordinary gather is a scatter-add, which accelerators serialise where many edges
meet in one vertex.

One kind of table serves all: neighbours of vertices (:func:`neighbours`), corners of
faces, members of a cluster, vertices that a point lies between.

Features have any leading axes, then rows, then channels: a batch of subjects and frames
shares one table, with no padding of graphs and no recompilation.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32


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
