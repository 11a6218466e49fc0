"""The public operation: checks, what belongs to one side, and the choice of engine.

GLoRIA (Huang et al., ICCV 2021) compares a report with an image word by word: each word
attends to the regions that are its own, and is compared with what it sees there. Over a
batch every image meets every report; :mod:`.tile` states the mathematics of a pair.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax_kernels.precision import accumulator
from medjax_kernels.varying import vary_like
from medjax_kernels.word_region.select import select
from medjax_kernels.word_region.tile import (
    Aggregation,
    Operands,
    Options,
    prepare,
)
from medjax_kernels.word_region.xla import Engine, Tile


def word_region_similarity(
    words: Float[Array, "n t d"],
    regions: Float[Array, "m r _d"],
    *,
    mask: Bool[Array, "_n _t"] | None = None,
    lengths: Int[Array, " _n"] | None = None,
    temp1: float = 4.0,
    temp2: float = 5.0,
    aggregation: Aggregation = "sum",
    eps: float = 1e-8,
    tile: Tile | None = None,
    implementation: str | None = None,
) -> Float[Array, "m n"]:
    """GLoRIA's local similarity of every image and every report.

    With s = words . regions of one pair: softmax over words, times ``temp1``, softmax
    over regions, a context for each word, its cosine with the word, and over the words

    * ``"sum"``: log sum_i exp(temp2 cos_i), as in training;
    * ``"max"``: temp2 max_i cos_i, as at inference.

    Differentiable in both features. NaN stays in its image or report.

    Args:
      words: word features, not normalised; bf16, fp16, fp32 or fp64.
      regions: region features of the same dtype and width; local feature maps are
        flattened by the caller. Which word of which image wins a region depends on the
        scale of both.
      mask: which words take part; what stands at the others does not matter.
      lengths: instead of a mask, how many of the first words take part. (GLoRIA counts
        [CLS] among them in training and skips it at inference: slice ``words``.)
      temp1: factor between the two softmaxes.
      temp2: factor of the cosines.
      aggregation: of a report's words.
      eps: a product of norms below it counts as it.
      tile: (images, reports) evaluated at a time by ``"xla_chunked"`` and by the
        backward pass of ``"gpu"``; None: chosen.
      implementation: ``"xla"`` keeps the attention of all pairs, ``"xla_chunked"`` and
        the fused kernels ``"tpu"`` and ``"gpu"`` never hold it; None picks one of XLA's
        by size. ``"gpu"`` is fused forward; its backward pass is ``"xla_chunked"``'s.

    Returns:
      One similarity per pair, fp32 (fp64 for fp64 features). A report without words has
      similarity 0 to every image, and no gradient.

    Raises:
      ValueError: for shapes, dtypes or options that do not fit.
      NotImplementedError: if the named implementation cannot run this, and why.
    """
    check_features(words, regions)
    valid = as_mask(words, mask, lengths)
    options = Options(float(temp1), float(temp2), aggregation, float(eps))
    check_options(options)
    dtype = accumulator(words.dtype)
    operands = prepare(words.astype(dtype), regions.astype(dtype), valid)
    engine = select(implementation, tile, narrowed(operands, words.dtype), options)
    operands = vary_like(operands, operands)
    return similarity(engine, options, tile, words.dtype, operands)


def check_features(words: Array, regions: Array) -> None:
    """Raises ValueError unless words and regions can be compared."""
    for name, array, axes in (("words", words, "n t d"), ("regions", regions, "m r d")):
        if array.ndim != 3 or 0 in array.shape:
            raise ValueError(
                f"{name} has shape {array.shape}, expected [{axes}], no axis empty"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {array.dtype}, expected a float")
    if words.shape[2] != regions.shape[2]:
        raise ValueError(
            f"regions has width {regions.shape[2]}, expected that of words, "
            f"{words.shape[2]}"
        )
    if words.dtype != regions.dtype:
        raise ValueError(
            f"regions has dtype {regions.dtype}, expected that of words, {words.dtype}"
        )


def check_options(options: Options) -> None:
    """Raises ValueError unless factors are positive and the aggregation is known."""
    for name in ("temp1", "temp2", "eps"):
        value = getattr(options, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}, expected a positive number")
    if options.aggregation not in ("sum", "max"):
        raise ValueError(
            f"aggregation is {options.aggregation!r}, expected 'sum' or 'max'"
        )


def as_mask(
    words: Array, mask: Array | None, lengths: Array | None
) -> Bool[Array, "n t"]:
    """The words that take part.

    Raises:
      ValueError: if both are given, or one does not fit the words.
    """
    n, t, _ = words.shape
    if mask is not None and lengths is not None:
        raise ValueError("mask and lengths are both given, expected at most one")
    if mask is not None:
        if mask.shape != (n, t) or mask.dtype != jnp.bool:
            raise ValueError(
                f"mask is {mask.dtype}{list(mask.shape)}, expected bool{[n, t]}"
            )
        return mask
    if lengths is not None:
        if lengths.shape != (n,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise ValueError(
                f"lengths is {lengths.dtype}{list(lengths.shape)}, "
                f"expected integers [{n}]"
            )
        return jnp.arange(t, dtype=lengths.dtype)[None, :] < lengths[:, None]
    return jnp.ones((n, t), jnp.bool)


def narrowed(operands: Operands, dtype: jnp.dtype) -> Operands:
    """The operands with features in the dtype that they came in."""
    return operands._replace(
        words=operands.words.astype(dtype), regions=operands.regions.astype(dtype)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def similarity(
    engine: Engine,
    options: Options,
    tile: Tile | None,
    dtype: jnp.dtype,
    operands: Operands,
) -> Float[Array, "m n"]:
    """The engine, with gradients by operands.

    Operands are fp32 outside and narrowed to ``dtype``, their own, inside. The gradient
    of a cosine by a feature is a difference of two parts, one through the scores and
    one through the norm: their sum must be fp32, and only then rounded.
    """
    return engine.forward(narrowed(operands, dtype), options, tile)[0]


def _forward(
    engine: Engine,
    options: Options,
    tile: Tile | None,
    dtype: jnp.dtype,
    operands: Operands,
) -> tuple[Array, tuple]:
    operands = narrowed(operands, dtype)
    value, kept = engine.forward(operands, options, tile)
    return value, (operands, kept)


def _backward(
    engine: Engine,
    options: Options,
    tile: Tile | None,
    dtype: jnp.dtype,
    saved: tuple,
    cotangent: Array,
) -> tuple[Operands]:
    operands, kept = saved
    return (engine.backward(operands, options, tile, kept, cotangent),)


similarity.defvjp(_forward, _backward)
