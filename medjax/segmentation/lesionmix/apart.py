"""Rows of a batch computed so that none depends on how many others there are.

``vmap`` is not enough: a compiler fuses and sums arrays of eight rows otherwise than
those of one, and the last bits differ. Here rows go through one body of fixed shape,
some at a time, whatever the batch; and on a mesh every device loops over the rows that
it holds. What a row becomes then follows from the row alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from medjax.train.mesh import batch_axes


def rows_apart(
    function: Callable[[Any, Any], Any], shared: Any, rows: Any, *, chunk: int = 1
) -> Any:
    """``function(shared, row)`` of every row.

    Args:
        function: of one row.
        shared: a tree of arrays that all rows see.
        rows: a tree of arrays with a leading axis of rows; on a mesh, split over its
            batch axes.
        chunk: rows computed side by side. Another chunk may give other last bits.

    Returns:
        The results, with a leading axis of rows.

    Raises:
        ValueError: for a chunk below one.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: expected one row at least")

    def here(shared: Any, rows: Any) -> Any:
        count = jax.tree.leaves(rows)[0].shape[0]
        turns = -(-count // chunk)
        # Room for two turns at least, though one may be all there is: what is taken
        # out of an array of one is the array, and is summed in another order.
        room = max(turns, 2) * chunk

        def grouped(x: jax.Array) -> jax.Array:
            last = [x[-1:]] * (room - count)
            return jnp.concatenate([x, *last]).reshape(-1, chunk, *x.shape[1:])

        def group(part: Any) -> Any:
            # Nothing outside may be fused into the body.
            given, part = jax.lax.optimization_barrier((shared, part))
            if chunk == 1:  # without vmap a condition skips what it does not need
                out = function(given, jax.tree.map(lambda x: x[0], part))
                out = jax.tree.map(lambda x: x[None], out)
            else:
                out = jax.vmap(lambda row: function(given, row))(part)
            return jax.lax.optimization_barrier(out)

        groups = jax.tree.map(grouped, rows)
        first = jax.tree.map(lambda x: x[0], groups)

        def turn(i: jax.Array, found: Any) -> Any:
            out = group(jax.tree.map(lambda x: x[i], groups))
            return jax.tree.map(lambda all_, x: all_.at[i].set(x), found, out)

        empty = jax.tree.map(
            lambda x: jnp.zeros((room // chunk, *x.shape), x.dtype),
            jax.eval_shape(group, first),
        )
        found = jax.lax.fori_loop(0, turns + _zero(rows), turn, empty)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)

    if axes := batch_axes():
        split, whole = PartitionSpec(axes), PartitionSpec()
        here = jax.shard_map(
            here, in_specs=(whole, split), out_specs=split, check_vma=False
        )
    return here(shared, rows)


def _zero(rows: Any) -> jax.Array:
    """0, which no compiler knows: a loop of one known turn is no loop to it, and what
    was its body is then compiled together with what is around, and rounds otherwise.

    Of all arrays: a compiler knows some of them, such as the numbers of the rows.
    """
    numbers = [x.reshape(-1)[0].astype(jnp.float32) for x in jax.tree.leaves(rows)]
    number = functools.reduce(jnp.add, numbers)
    return (jnp.isnan(number) & jnp.isinf(number)).astype(jnp.int32)
