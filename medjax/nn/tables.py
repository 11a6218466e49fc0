"""Tables of fixed shape: gathered forward and backward, never scattered.

The topology of a mesh does not change in training, so who stands beside whom is known
when the program is built. A :class:`Table` says which rows of one array stand in which
slots of another, and the other way round. Then :func:`gather` reads a row for every
slot, :func:`collect` adds slots up in rows, each is the other's transpose, and both are
reads. The gradient of an ordinary gather is a scatter-add, which accelerators serialise
where many edges meet in one vertex.

Slots stand in rows of one width. A vertex where a hundred triangles meet does not make
all rows a hundred wide: what is too long for the width goes on in rows behind
(:class:`Lists`), and sums over a vertex's rows are reads as well.

One kind of table serves all: neighbours of vertices (:func:`neighbours`), corners of
faces, members of a cluster, vertices that a point lies between.

Features have any leading axes, then rows, then channels: a batch of subjects and frames
shares one table, with no padding of graphs and no recompilation.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32


class Lists(NamedTuple):
    """Whole numbers in lists of any lengths, as rows of one width; on the host.

    Attributes:
        rows: the beginnings of all lists, then what was too long of some of them.
        owner: the list that every row is of.
        more: of every list that goes on, the rows behind, counted from their first;
            filled up by their number.
        place: which of those every list is; their number if it does not go on.
    """

    rows: Int32[Any, "q k"]
    owner: Int32[Any, " q"]
    more: Int32[Any, "h w"]
    place: Int32[Any, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Which rows stand in which slots; static, on the host.

    Attributes:
        slots: the row in every slot; ``count`` where a slot is empty.
        back: the slots, counted through ``index`` row by row, in which every row
            stands; ``index.size`` where there are no more.
        count: number of rows.
    """

    slots: Lists
    back: Lists
    count: int

    @classmethod
    def of(cls, index: Int[np.ndarray, "n k"], count: int) -> "Table":
        """The table of an index, whose rows stay as they are.

        Args:
            index: ``count`` marks empty slots.
            count: number of rows.

        Raises:
            ValueError: if it names rows that are not there.
        """
        index = np.asarray(index, np.int32)
        none, every = np.zeros((0, 1), np.int32), np.arange(len(index), dtype=np.int32)
        return cls._both_ways(Lists(index, every, none, np.zeros_like(every)), count)

    @classmethod
    def grouped(
        cls,
        groups: Int[np.ndarray, " e"],
        members: Int[np.ndarray, " e"],
        size: int,
        count: int,
    ) -> "Table":
        """The table whose slots are the members of groups, in the order they came.

        Args:
            groups: of every member, below ``size``.
            members: rows, below ``count``.
            size: number of groups.
            count: number of rows.

        Raises:
            ValueError: if it names rows that are not there.
        """
        return cls._both_ways(_listed(groups, members, size, empty=count), count)

    @classmethod
    def _both_ways(cls, slots: Lists, count: int) -> "Table":
        index = slots.rows
        if index.size and not 0 <= index.min() <= index.max() <= count:
            raise ValueError(
                f"index: rows {index.min()} to {index.max()}, expected 0 to {count}"
            )
        filled = np.flatnonzero(index < count)
        rows = index.reshape(-1)[filled]
        return cls(slots, _listed(rows, filled, count, empty=index.size), count)

    @property
    def index(self) -> Int32[np.ndarray, "q k"]:
        """The row in every slot; those of one vertex may be in several rows."""
        return self.slots.rows

    @functools.cached_property
    def filled(self) -> Bool[np.ndarray, "q k"]:
        """Where a slot is not empty."""
        return self.index < self.count

    @functools.cached_property
    def share(self) -> Int32[np.ndarray, " n"]:
        """How many slots every vertex, face or cluster has that are filled."""
        lists = self.slots
        each = self.filled.sum(axis=1)
        total = np.bincount(lists.owner, weights=each, minlength=len(lists.place))
        return total.astype(np.int32)


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
    return Table.grouped(pairs[:, 0], pairs[:, 1], count, count)


def edges_of(table: Table) -> tuple[Int32[np.ndarray, " e"], Int32[np.ndarray, " e"]]:
    """Senders and receivers of a neighbour table's filled slots, slot by slot."""
    rows, _ = np.nonzero(table.filled)
    return table.index[table.filled], table.slots.owner[rows]


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
    groups = np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups, minlength=count)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    rows = np.full((count, max(1, int(sizes.max(initial=0)))), empty, np.int32)
    rows[groups[order], place] = members[order]
    return rows


def _listed(
    groups: Int[np.ndarray, " e"],
    members: Int[np.ndarray, " e"],
    count: int,
    *,
    empty: int,
) -> Lists:
    """Members of every group as lists of the width that is read with least effort."""
    whole = grouped(groups, members, count, empty=empty)
    sizes = np.bincount(groups, minlength=count)
    widest = whole.shape[1]

    def effort(width: int) -> int:
        behind = int((np.maximum(-(-sizes // width), 1) - 1).sum())
        # Sums of rows behind are read, and read again by all that might have some.
        again = behind + count if behind else 0
        return (count + behind) * width + again

    width = min(range(1, widest + 1), key=effort)
    chunks = np.pad(whole, ((0, 0), (0, -widest % width)), constant_values=empty)
    chunks = chunks.reshape(count, -1, width)
    long, piece = np.nonzero((chunks[:, 1:] != empty).any(axis=-1))
    which, number = np.unique(long, return_inverse=True)
    place = np.full(count, len(which), np.int32)
    place[which] = np.arange(len(which))
    behind = np.arange(len(long))
    return Lists(
        rows=np.concatenate([chunks[:, 0], chunks[long, 1 + piece]]),
        owner=np.concatenate([np.arange(count), long]).astype(np.int32),
        more=grouped(number, behind, len(which), empty=len(long)),
        place=place,
    )


def gather(x: Float[Array, "*batch m c"], table: Table) -> Float[Array, "*batch q k c"]:
    """The row in every slot; zeros in empty ones.

    Args:
        x: a row for each that the table knows.
        table: which goes where.
    """
    return _gather(x, table.slots.rows, table.back)


def collect(
    y: Float[Array, "*batch q k c"], table: Table
) -> Float[Array, "*batch m c"]:
    """For every row the sum over the slots in which it stands: gather's transpose.

    Args:
        y: a value for every slot; what stands in empty ones does not count.
        table: which goes where.
    """
    return _collect(y, table.slots.rows, table.back)


def spread(x: Float[Array, "*batch n c"], table: Table) -> Float[Array, "*batch q c"]:
    """What belongs to a vertex, once more for each further row of its slots.

    Args:
        x: of whom the slots are.
        table: of the slots.
    """
    return _spread(x, table.slots)


def total_of(y: Float[Array, "*batch q c"], table: Table) -> Float[Array, "*batch n c"]:
    """The sum over a vertex's rows of slots: spread's transpose.

    Args:
        y: a value for every row of slots.
        table: of the slots.
    """
    return _total(y, table.slots)


def _read(x: Array, index: Int[Any, "*q"]) -> Array:
    return jnp.take(x, index, axis=-2, mode="fill", fill_value=0)


@jax.custom_vjp
def _gather(x: Array, index: Int[Any, "q k"], back: Lists) -> Array:
    return _read(x, index)


@jax.custom_vjp
def _collect(y: Array, index: Int[Any, "q k"], back: Lists) -> Array:
    flat = y.reshape(*y.shape[:-3], math.prod(y.shape[-3:-1]), y.shape[-1])
    return _total(jnp.sum(_read(flat, back.rows), axis=-2), back)


@jax.custom_vjp
def _spread(x: Array, lists: Lists) -> Array:
    count = x.shape[-2]
    if len(lists.owner) == count:
        return x
    return jnp.concatenate([x, _read(x, lists.owner[count:])], axis=-2)


@jax.custom_vjp
def _total(y: Array, lists: Lists) -> Array:
    count = len(lists.place)
    if y.shape[-2] == count:
        return y
    behind = jnp.sum(_read(y[..., count:, :], lists.more), axis=-2)
    return y[..., :count, :] + _read(behind, lists.place)


_gather.defvjp(
    lambda x, index, back: (_gather(x, index, back), (index, back)),
    lambda tables, g: (_collect(g, *tables), None, None),
)
_collect.defvjp(
    lambda y, index, back: (_collect(y, index, back), (index, back)),
    lambda tables, g: (_gather(g, *tables), None, None),
)
_spread.defvjp(
    lambda x, lists: (_spread(x, lists), lists),
    lambda lists, g: (_total(g, lists), None),
)
_total.defvjp(
    lambda y, lists: (_total(y, lists), lists),
    lambda lists, g: (_spread(g, lists), None),
)


def mean_of(
    y: Float[Array, "*batch q k c"], table: Table
) -> Float[Array, "*batch n c"]:
    """The mean over filled slots, in float32; zero where there are none.

    Args:
        y: a value for every slot.
        table: which slots are filled.
    """
    shape = (1,) * (y.ndim - 3) + table.filled.shape + (1,)
    y = jnp.where(table.filled.reshape(shape), y.astype(jnp.float32), 0.0)
    size = np.maximum(table.share, 1).astype(np.float32)
    return total_of(jnp.sum(y, axis=-2), table) / size.reshape(*shape[:-3], -1, 1)
