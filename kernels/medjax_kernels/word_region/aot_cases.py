"""What :mod:`medjax_kernels.aot` compiles of this operation."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from medjax_kernels.aot import Case
from medjax_kernels.word_region import word_region_similarity
from medjax_kernels.word_region.shapes import SHAPES

DEFAULT_SHAPE = "gloria_bf16"
"""What is compiled if no shape is named."""


def cases(shape: str, platform: str) -> list[Case]:
    """Programs on one named shape.

    Args:
        shape: a name of :data:`.shapes.SHAPES`.
        platform: ``"gpu"`` or ``"tpu"``, which has an engine of that name.

    Returns:
        The fused engine's similarities and their gradient, and XLA's two ways.
    """
    s = SHAPES[shape]
    dtype = jnp.dtype(s.dtype)
    words = jax.ShapeDtypeStruct((s.reports, s.words, s.d), dtype)
    regions = jax.ShapeDtypeStruct((s.images, s.regions, s.d), dtype)
    lengths = jax.ShapeDtypeStruct((s.reports,), jnp.int32)
    cotangent = jax.ShapeDtypeStruct((s.images, s.reports), jnp.float32)

    def value(implementation: str) -> Any:
        def similarity(words: Array, regions: Array, lengths: Array) -> Array:
            return word_region_similarity(
                words, regions, lengths=lengths, implementation=implementation
            )

        return similarity

    def step(implementation: str) -> Any:
        def gradient(
            words: Array, regions: Array, lengths: Array, cotangent: Array
        ) -> tuple[Array, tuple[Array, ...]]:
            def similarity(words: Array, regions: Array) -> Array:
                return value(implementation)(words, regions, lengths)

            result, pull = jax.vjp(similarity, words, regions)
            return result, pull(cotangent)

        return gradient

    arguments = words, regions, lengths
    programs = [Case(f"{platform} forward", value(platform), arguments)]
    for name in (platform, "xla_chunked", "xla"):
        programs.append(Case(f"{name} step", step(name), (*arguments, cotangent)))
    return programs
