"""Pooling: the maximum behind a ResNet's stem, and means over a grid of any size.

XLA takes the gradient of a maximum over windows by searching every window again, one
value after the other on a CPU, where nine passes over strided slices take less time.
Which of several equal values gets the gradient is the same, the first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_SIDES = ((0, 0), (1, 1), (1, 1), (0, 0))


@jax.custom_vjp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """3x3, stride 2, padded as torchvision pads."""
    return _pooled(x)


def _pooled(x: Array) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), _SIDES)


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = _pooled(x)
    return y, (x, y)


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array]:
    return (lax.platform_dependent(*kept, g, cpu=_by_slices, default=_by_windows),)


def _by_windows(x: Array, y: Array, g: Array) -> Array:
    del y
    return jax.vjp(_pooled, x)[1](g)[0]


def _by_slices(x: Array, y: Array, g: Array) -> Array:
    """Each of the nine places of all windows at once, the first that is the largest."""
    padded = jnp.pad(x, _SIDES, constant_values=-jnp.inf)
    rows, columns = (2 * n - 1 for n in y.shape[1:3])
    zero = jnp.zeros((), g.dtype)
    taken, total = jnp.zeros(y.shape, bool), jnp.zeros(padded.shape, g.dtype)
    for i in range(3):
        for j in range(3):
            end = (x.shape[0], i + rows, j + columns, x.shape[3])
            there = lax.slice(padded, (0, i, j, 0), end, (1, 2, 2, 1))
            largest = (there == y) & ~taken
            taken |= largest
            below = (i, padded.shape[1] - i - rows, 1)
            right = (j, padded.shape[2] - j - columns, 1)
            holes = ((0, 0, 0), below, right, (0, 0, 0))
            total += lax.pad(jnp.where(largest, g, zero), zero, holes)
    return total[:, 1:-1, 1:-1]


max_pool.defvjp(_forward, _backward)


def adaptive_pooling_matrix(size: int, *, bins: int) -> Float[np.ndarray, "g h"]:
    """Adaptive average pooling of one axis as a matrix: row i averages bin i.

    Bin i covers floor(i size / bins) up to ceil((i+1) size / bins), so bins overlap
    where ``bins`` does not divide ``size`` and repeat where it exceeds it.
    """
    matrix = np.zeros((bins, size), np.float32)
    for i in range(bins):
        start, stop = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix
