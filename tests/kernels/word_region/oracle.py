"""Random batches, engines as tests call them, and the reference in float64."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax_kernels import compat
from medjax_kernels.word_region import reference, word_region_similarity
from medjax_kernels.word_region.shapes import SHAPES, Shape

ENGINES = {"xla": {}, "xla_chunked": {"tile": (2, 3)}, "tpu": {}, "gpu": {}}
FUSED = ("tpu", "gpu")


class Batch(NamedTuple):
    """Ragged reports (one is empty) with NaN where there is no word."""

    words: jax.Array
    regions: jax.Array
    lengths: jax.Array
    cotangent: jax.Array


def batch(shape: Shape = SHAPES["tiny"], dtype: Any = jnp.float32) -> Batch:
    rng = np.random.default_rng(0)
    words = rng.normal(size=(shape.reports, shape.words, shape.d))
    regions = rng.normal(size=(shape.images, shape.regions, shape.d)) + 0.2
    lengths = (shape.words, shape.words // 2, 0, 1)[: shape.reports]
    gone = np.arange(shape.words)[None] >= np.asarray(lengths)[:, None]
    words[gone] = np.nan
    cotangent = rng.normal(size=(shape.images, shape.reports))
    return Batch(
        jnp.asarray(words, dtype),
        jnp.asarray(regions, dtype),
        jnp.asarray(lengths, jnp.int32),
        jnp.asarray(cotangent, jnp.float32),
    )


@contextlib.contextmanager
def running(engine: str) -> Iterator[None]:
    """Where fused engines are interpreted, with proof that nothing raced."""
    if engine not in FUSED:
        yield
        return
    with compat.interpret(engine):
        yield
        assert not compat.races_found(engine)


def similarity(engine: str, **options: Any) -> Callable[..., jax.Array]:
    options = ENGINES[engine] | {"implementation": engine} | options
    return functools.partial(word_region_similarity, **options)


def run(engine: str, function: Callable, *arrays: Any) -> Any:
    """The jitted function's results as NumPy arrays."""
    with running(engine):
        result = jax.block_until_ready(jax.jit(function)(*arrays))
    return jax.tree.map(np.asarray, result)


def value(engine: str, words: Any, regions: Any, **options: Any) -> np.ndarray:
    return run(engine, similarity(engine, **options), words, regions)


def value_and_gradient(engine: str, b: Batch, **options: Any) -> tuple:
    """Similarities, and the gradient of words and regions."""

    def both(words, regions, cotangent):
        function = similarity(engine, lengths=b.lengths, **options)
        result, pull = jax.vjp(function, words, regions)
        return result, pull(cotangent)

    return run(engine, both, b.words, b.regions, b.cotangent)


@functools.cache
def expected(
    shape: Shape = SHAPES["tiny"], dtype: str = "float32", **options: Any
) -> tuple:
    """:func:`in_double` of :func:`batch`."""
    return in_double(batch(shape, dtype), **options)


def in_double(b: Batch, **options: Any) -> tuple:
    """The same of the reference in float64."""
    options = dict(temp1=4.0, temp2=5.0, aggregation="sum", eps=1e-8) | options
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        words, regions, cotangent = (
            jnp.asarray(np.asarray(a.astype(jnp.float32)), jnp.float64)
            for a in (b.words, b.regions, b.cotangent)
        )
        valid = jnp.arange(words.shape[1])[None] < b.lengths[:, None]

        def function(words, regions):
            return reference.word_region_similarity(words, regions, valid, **options)

        def both(words, regions, cotangent):
            result, pull = jax.vjp(function, words, regions)
            return result, pull(cotangent)

        return jax.tree.map(np.asarray, jax.jit(both)(words, regions, cotangent))


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Relative error in the Euclidean norm; NaN where anything is NaN."""
    assert actual.shape == expected.shape
    difference = actual.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def errors(actual: tuple, expected: tuple) -> tuple[float, float]:
    """Of the value, and the larger one of both gradients."""
    gradients = map(error, actual[1], expected[1])
    return error(actual[0], expected[0]), max(gradients)
