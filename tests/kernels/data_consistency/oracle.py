"""Random problems, and the reference evaluated in double precision."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax_kernels.data_consistency import reference

MASKS = ("h", "w", "plane")
SIZES = [(8, 6), (7, 9)]


class Problem(NamedTuple):
    """A batch of two, three frames with masks of their own, maps shared by frames."""

    image: jax.Array
    maps: jax.Array
    mask: jax.Array


def cnormal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.complex64)


def random_mask(kind: str, leading: tuple[int, ...], h: int, w: int) -> jax.Array:
    shape = {"h": (h, 1), "w": (1, w), "plane": (h, w)}[kind]
    mask = jax.random.bernoulli(jax.random.key(7), 0.4, (*leading, *shape))
    return mask.at[..., shape[0] // 2, shape[1] // 2].set(True)


@functools.cache
def problem(kind: str = "h", size: tuple[int, int] = (8, 6), coils: int = 4) -> Problem:
    h, w = size
    maps = cnormal(1, 2, 1, coils, h, w)
    maps = maps / jnp.sqrt(jnp.sum(jnp.abs(maps) ** 2, -3, keepdims=True)).astype(
        jnp.complex64
    )
    return Problem(cnormal(0, 2, 3, h, w), maps, random_mask(kind, (2, 3), h, w))


@contextlib.contextmanager
def double() -> Iterator[None]:
    """float64 and NumPy's own promotion, as the reference is written for."""
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def wide(x: jax.Array) -> np.ndarray:
    """The same numbers as float64 or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def in_double(function: Callable, *arrays: jax.Array) -> np.ndarray:
    """``function`` of the same numbers in double precision."""
    with double():
        return jax.tree.map(
            np.asarray, function(*(jnp.asarray(wide(a)) for a in arrays))
        )


def run(operation: Callable, *arrays: jax.Array, **options: object) -> jax.Array:
    """``operation`` compiled as a whole: far quicker to test than op by op."""
    return jax.jit(functools.partial(operation, **options))(*arrays)


def normal64(image, maps, mask):
    """The reference with the mask's coil axis added."""
    return reference.normal_operator(image, maps, mask[..., None, :, :])


def error(actual: jax.Array, expected: np.ndarray) -> float:
    """Relative error in the Euclidean norm; NaN where anything is NaN."""
    assert actual.shape == expected.shape
    return float(np.linalg.norm(wide(actual) - expected) / np.linalg.norm(expected))
