"""What a step needs of a device's memory; uncompiled, what is exact of it."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.train.plan.chips import Chip
from medjax.train.plan.compiling import Facts
from medjax.train.program import Program

USABLE = 0.92
"""Share of a device's memory that a program can have."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      state: Parameters, statistics, moments, averages; exact.
      batch: Of the device's share of a batch; exact.
      temporaries: While a step runs; None: not compiled.
      code: Of the program.
      hidden: Of libraries, which the compiler does not count.
      limit: What there is.
    """

    state: int
    batch: int
    temporaries: int | None
    code: int
    hidden: int
    limit: int

    @property
    def need(self) -> int:
        """All of it; a lower bound where nothing was compiled."""
        parts = (self.state, self.batch, self.temporaries or 0, self.code, self.hidden)
        return sum(parts)

    @property
    def fits(self) -> bool | None:
        """Whether there is room; None: not known without a compilation."""
        if self.temporaries is None and self.need <= self.limit:
            return None
        return self.need <= self.limit


def device_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings on the device that holds most."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * _itemsize(x.dtype)
        for x in jax.tree.leaves(tree)
    )


def whole_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes, once: what a checkpoint of it holds."""
    return sum(math.prod(x.shape) * _itemsize(x.dtype) for x in jax.tree.leaves(tree))


def _itemsize(dtype: Any) -> int:
    # A key is two words of 32 bits.
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else _size(dtype)


def _size(dtype: Any) -> int:
    return np.dtype(dtype).itemsize


def memory_of(program: Program, chip: Chip, compiled: Facts | None) -> Memory:
    """What a program needs on each device.

    Args:
      program: With its shapes.
      chip: The device.
      compiled: What its compiler said; None: only what shapes say.
    """
    return Memory(
        state=device_bytes(program.state),
        batch=device_bytes(program.batch),
        temporaries=None if compiled is None else compiled.temporaries,
        code=0 if compiled is None else compiled.code,
        hidden=int(chip.hidden.value),
        limit=int(USABLE * chip.memory.value),
    )
