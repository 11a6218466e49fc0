"""What both Hopper kernels do to the numbers that wgmma multiplies."""

from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

CHUNK = 64
"""Lines of one step: the M of a wgmma, and its K four times."""


def transforms(columns: int, itemsize: int) -> tuple[Any, ...]:
    """Tiling and swizzle of a shared-memory matrix with rows of ``columns``."""
    swizzle = min(128, columns * itemsize)
    return (
        plgpu.TilingTransform((8, swizzle // itemsize)),
        plgpu.SwizzleTransform(swizzle),
    )


def float16_terms(value: Array, parts: int) -> list[Array]:
    """``value`` as a sum of ``parts`` float16 terms."""
    terms = [value.astype(jnp.float16)]
    if parts == 2:
        terms.append((value - terms[0].astype(jnp.float32)).astype(jnp.float16))
    return terms


def products(parts: int) -> list[tuple[int, int]]:
    """Pairs of terms whose product matters: not remainder times remainder."""
    return [(0, 0)] if parts == 1 else [(0, 0), (0, 1), (1, 0)]


def rows_of(chunk: Any) -> Any:
    """The lines of a chunk."""
    return pl.ds(chunk * CHUNK, CHUNK)
