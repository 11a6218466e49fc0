"""The mathematics of one pair, or of a tile of pairs, that all engines share.

For words ``e_i`` and regions ``v_r`` of one pair, with ``s = e v^T``,

    p      = softmax of s over words                    (which word owns a region)
    alpha  = softmax of temp1 p over regions            (where a word looks)
    c_i    = sum_r alpha_ir v_r
    cos_i  = e_i . c_i / (|e_i| |c_i|)

Only two numbers of ``c_i`` matter, and both can be had without it: ``e_i . c_i`` is
``sum_r alpha_ir s_ir``, and with ``m`` the mean region, ``u_r = v_r - m`` and
``beta = alpha - 1/R`` (so that ``c_i = m + sum_r beta_ir u_r``),

    |c_i|^2 = |m|^2 + sum_r beta_ir (2 u_r . m + (beta U)_ir),    U_rs = u_r . u_s.

``U`` belongs to the image alone, so the second product of a pair is R deep instead of
d, and so are two of the products of its gradient: for GLoRIA (R = 361, d = 768) 4155
multiplications per word and region, forward and backward, instead of 6144. Centring
keeps |c|^2 accurate where attention is nearly uniform and everything but ``m`` cancels.

Functions work on ``[t, r]`` (one pair, in a kernel) and on ``[m, n, t, r]`` alike: what
belongs to words or regions comes with the missing axes as ones.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medjax_kernels.precision import product

Aggregation = Literal["sum", "max"]
EMPTY = -1e30
"""Less than any score, yet finite: no infinity is ever subtracted from another."""


class Options(NamedTuple):
    """What :func:`.api.word_region_similarity` was asked for; static.

    Attributes:
      temp1: factor of the softmax over regions.
      temp2: factor of the cosines.
      aggregation: of the words of a report.
      eps: least product of norms that a cosine is divided by.
    """

    temp1: float
    temp2: float
    aggregation: Aggregation
    eps: float


class Operands(NamedTuple):
    """What engines work on, as arrays, references or blocks; made by :func:`prepare`.

    Attributes:
      words: ``[n, t, d]``, zero where not valid.
      norms: ``[n, t]``, lengths of the words.
      valid: ``[n, t]``, which words there are; None in a gradient.
      regions: ``[m, r, d]``.
      gram: ``[m, r, r]``, inner products of centred regions.
      tilt: ``[m, r]``, inner products of centred regions and their mean.
      level: ``[m]``, the mean's square.
    """

    words: Any
    norms: Any
    valid: Any
    regions: Any
    gram: Any
    tilt: Any
    level: Any


def narrow(value: Float[Array, "..."], dtype: jnp.dtype) -> Float[Array, "..."]:
    """What a product with features of ``dtype`` takes of an fp32 tile.

    bfloat16 beside bfloat16. Nothing is narrowed to float16: gradients of a cosine are
    below its range (1e-7 for a batch of 48).
    """
    return value.astype(jnp.bfloat16) if dtype == jnp.bfloat16 else value


def safe_norm(x: Float[Array, "... d"]) -> Float[Array, "..."]:
    """Lengths, whose gradient at zero is zero."""
    square = jnp.sum(jnp.square(x), axis=-1)
    there = square > 0
    # NaN is not there by comparison, and must stay.
    there = there | jnp.isnan(square)
    return jnp.where(there, jnp.sqrt(jnp.where(there, square, 1)), 0)


def prepare(
    words: Float[Array, "n t d"],
    regions: Float[Array, "m r d"],
    valid: Bool[Array, "n t"],
) -> Operands:
    """Everything that belongs to one report or one image; JAX differentiates it."""
    words = jnp.where(valid[..., None], words, 0)
    mean = jnp.mean(regions, axis=1, keepdims=True)
    centred = regions - mean
    return Operands(
        words=words,
        norms=safe_norm(words),
        valid=valid,
        regions=regions,
        gram=product("mrd,msd->mrs", centred, centred),
        tilt=jnp.sum(centred * mean, axis=-1),
        level=jnp.sum(jnp.square(mean[:, 0]), axis=-1),
    )


class Pair(NamedTuple):
    """What the gradient of a pair needs, ``[..., t, r]`` or ``[..., t, 1]``."""

    scores: Array
    share: Array
    attention: Array
    deviation: Array
    bent: Array
    square: Array
    denominator: Array
    cosine: Array


def evaluate(
    scores: Array,
    valid: Array,
    norms: Array,
    gram: Array,
    tilt: Array,
    level: Array,
    options: Options,
    count: int,
    dtype: jnp.dtype,
) -> Pair:
    """Attention and cosines of a tile.

    Args:
      scores: ``e v^T``, ``[..., t, r]``.
      valid: ``[..., t, 1]``.
      norms: ``[..., t, 1]``.
      gram: ``[..., r, r]``, without an axis of reports.
      tilt: ``[..., 1, r]``.
      level: ``[..., 1, 1]``.
      options: the problem's.
      count: regions that there are; the last ``r - count`` columns are padding.
      dtype: of the features.
    """
    largest = jnp.max(jnp.where(valid, scores, EMPTY), axis=-2, keepdims=True)
    share = jnp.where(valid, jnp.exp(scores - largest), 0)
    total = jnp.sum(share, axis=-2, keepdims=True)
    share = share / jnp.where(total == 0, 1, total)
    peak = jnp.max(share, axis=-1, keepdims=True)
    attention = jnp.exp(options.temp1 * (share - peak))
    inside = None
    if count < scores.shape[-1]:
        column = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
        inside = column < count
        attention = jnp.where(inside, attention, 0)
    attention = attention / jnp.sum(attention, axis=-1, keepdims=True)
    deviation = attention - 1 / count
    if inside is not None:
        deviation = jnp.where(inside, deviation, 0)
    subscripts = "tr,rs->ts" if scores.ndim == 2 else "mntr,mrs->mnts"
    bent = tilt + product(subscripts, narrow(deviation, dtype), narrow(gram, dtype))
    square = level + jnp.sum(deviation * (tilt + bent), axis=-1, keepdims=True)
    square = jnp.maximum(square, 0)
    dot = jnp.sum(attention * scores, axis=-1, keepdims=True)
    denominator = jnp.maximum(norms * jnp.sqrt(square), options.eps)
    cosine = dot / denominator
    return Pair(scores, share, attention, deviation, bent, square, denominator, cosine)


def aggregate(cosine: Array, valid: Array, options: Options) -> Array:
    """Similarities ``[..., 1, 1]``; zero for a report without words."""
    logits = jnp.where(valid, options.temp2 * cosine, EMPTY)
    largest = jnp.max(logits, axis=-2, keepdims=True)
    if options.aggregation == "sum":
        terms = jnp.where(valid, jnp.exp(logits - largest), 0)
        total = jnp.sum(terms, axis=-2, keepdims=True)
        largest = largest + jnp.log(jnp.where(total == 0, 1, total))
    return jnp.where(largest == EMPTY, 0, largest)


class Slopes(NamedTuple):
    """Gradient of a tile: by scores, norms, and the image's ``|c|^2``."""

    scores: Array
    norms: Array
    square: Array


def differentiate(
    pair: Pair, valid: Array, norms: Array, options: Options, cotangent: Array
) -> Slopes:
    """The slopes of a tile for cotangents ``[..., 1, 1]`` of its similarities."""
    logits = jnp.where(valid, options.temp2 * pair.cosine, EMPTY)
    largest = jnp.max(logits, axis=-2, keepdims=True)
    if options.aggregation == "sum":
        weight = jnp.where(valid, jnp.exp(logits - largest), 0)
    else:
        weight = jnp.where(valid & (logits >= largest), 1.0, 0.0).astype(logits.dtype)
    total = jnp.sum(weight, axis=-2, keepdims=True)
    by_cosine = cotangent * options.temp2 * weight / jnp.where(total == 0, 1, total)
    # Below eps the denominator is constant.
    free = norms * jnp.sqrt(pair.square) > options.eps
    lean = jnp.where(free, by_cosine * pair.cosine, 0)
    by_square = -lean / (2 * jnp.where(free, pair.square, 1))
    by_norm = -lean / jnp.where(free, norms, 1)
    by_dot = by_cosine / pair.denominator
    by_attention = by_dot * pair.scores + 2 * by_square * pair.bent
    by_share = options.temp1 * softmax_slope(pair.attention, by_attention, axis=-1)
    by_scores = by_dot * pair.attention + softmax_slope(pair.share, by_share, axis=-2)
    return Slopes(by_scores, by_norm, by_square)


def softmax_slope(probability: Array, cotangent: Array, axis: int) -> Array:
    """The gradient by the logits of a softmax."""
    weighted = probability * cotangent
    return weighted - probability * jnp.sum(weighted, axis=axis, keepdims=True)
