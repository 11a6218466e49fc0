"""Contrast of radiographs and reports word by word: the local part of GLoRIA.

Each word of a report gathers the regions of a radiograph that are its own, and a pair
is as similar as its words are to what they gathered (``medjax_kernels.word_region`` has
the formula, and never holds the attention of all pairs). All radiographs of the global
batch meet all reports, or each some that are drawn anew in every step.

Drawn reports are those so many places further on, the same places for all radiographs.
So the pairs that radiographs ask for are those that reports ask for, and one set serves
both directions. The softmax then runs over fewer pairs than GLoRIA's: its minimum is
the same, its value and its gradient are not estimates of GLoRIA's.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from medjax.train.mesh import batch_axes
from medjax.typing import Key
from medjax.vlp.contrastive import ContrastConfig
from medjax_kernels.word_region import (
    global_cross_entropy,
    global_similarity,
    word_region_similarity,
)

Aggregation = Literal["sum", "mean", "max"]


@dataclasses.dataclass(frozen=True)
class WordContrastConfig:
    """Factors of the local contrast, and between whom it is."""

    temp1: float = 4.0
    """Factor of a word's share in a region, before regions are weighed."""
    temp2: float = 5.0
    """Factor of the cosines of words and what they gathered."""
    temp3: float = 10.0
    """Factor of both similarities of a pair in the contrast."""
    aggregation: Aggregation = "sum"
    """How the words of a report make one number in training: the logarithm of the sum
    or of the mean of exp(temp2 cosine), or temp2 times the largest cosine. At inference
    it is the largest, as in the released code."""
    local_negatives: int | None = None
    """Reports beside its own that a radiograph is compared with word by word, drawn
    anew in every step; None: all of the batch."""


def local_contrast(
    words: Float[Array, "b t d"],
    mask: Bool[Array, "b t"],
    regions: Float[Array, "b r d"],
    *,
    config: WordContrastConfig,
    contrast_config: ContrastConfig | None = None,
    key: Key | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Contrast of all radiographs and all reports by what words find in regions.

    Args:
      words: of each report; the global batch, sharded or not.
      mask: which of them take part; a report without any is equally far from all.
      regions: of each radiograph.
      config: factors, aggregation, and how many reports a radiograph meets.
      contrast_config: kernel, dtype, and whether devices see each other's reports.
      key: of the reports that are drawn, where only some are.

    Returns:
      The contrast of radiographs against reports and of reports against radiographs.

    Raises:
      ValueError: some reports are to be drawn without a key, or fewer than one.
    """
    how = contrast_config or ContrastConfig()
    some = config.local_negatives
    if some is not None and (some < 1 or key is None):
        raise ValueError(f"local_negatives: expected 1 at least and a key, got {some}")
    dtype = words.dtype if words.dtype == jnp.float64 else jnp.dtype(how.dtype)
    axes = batch_axes()
    seen = axes if how.negatives == "global" else ()

    def loss(
        words: Array, mask: Array, regions: Array, *key: Key
    ) -> tuple[Array, Array]:
        if some is None:
            both = _all_pairs(config, how, seen, words, mask, regions)
        else:
            both = _drawn_pairs(config, some, seen, words, mask, regions, *key)
        return jax.lax.pmean(both, axes) if axes and not seen else both

    keys = () if some is None or key is None else (key,)
    if axes:
        specs = (P(axes),) * 3 + (P(),) * len(keys)
        loss = jax.shard_map(loss, in_specs=specs, out_specs=P())
    return loss(words.astype(dtype), mask, regions.astype(dtype), *keys)


def _all_pairs(
    config: WordContrastConfig,
    how: ContrastConfig,
    axes: tuple[str, ...],
    words: Float[Array, "b t d"],
    mask: Bool[Array, "b t"],
    regions: Float[Array, "b r d"],
) -> tuple[Array, Array]:
    """Every radiograph and every report; of all devices where axes are named."""
    options = {**_options(config), "implementation": how.implementation}
    if not axes:
        scores = word_region_similarity(words, regions, mask=mask, **options)
        scores = _per_word(scores, mask[None], config)
        return pair_cross_entropy(config.temp3 * scores)
    scores = global_similarity(words, regions, axis_name=axes, mask=mask, **options)
    everyone = jax.lax.all_gather(mask, axes, axis=0, tiled=True)
    scores = _per_word(scores, everyone[None], config)
    return global_cross_entropy(config.temp3 * scores, axis_name=axes)


def _drawn_pairs(
    config: WordContrastConfig,
    some: int,
    axes: tuple[str, ...],
    words: Float[Array, "b t d"],
    mask: Bool[Array, "b t"],
    regions: Float[Array, "b r d"],
    key: Key,
) -> tuple[Array, Array]:
    """Every radiograph, its own report and those so many places further on."""
    own = jnp.arange(len(words), dtype=jnp.int32)
    if axes:
        own += jax.lax.axis_index(axes) * len(words)
        words, mask = (
            jax.lax.all_gather(side, axes, axis=0, tiled=True) for side in (words, mask)
        )
    n = len(words)
    others = 1 + jax.random.permutation(key, n - 1)[:some].astype(jnp.int32)
    places = jnp.concatenate([jnp.zeros(1, jnp.int32), others])
    at = (own[:, None] + places[None]) % n

    def of_one(words: Array, mask: Array, regions: Array) -> Array:
        # Fused kernels are made for many pairs.
        return word_region_similarity(
            words, regions[None], mask=mask, implementation="xla", **_options(config)
        )[0]

    scores = jax.vmap(of_one)(words[at], mask[at], regions)
    scores = config.temp3 * _per_word(scores, mask[at], config)
    rows = jax.nn.logsumexp(scores, axis=1) - scores[:, 0]
    # A report meets the radiographs as many places before it.
    whose = jax.lax.all_gather(scores, axes, axis=0, tiled=True) if axes else scores
    met = whose[(own[:, None] - places[None]) % n, jnp.arange(len(places))[None]]
    columns = jax.nn.logsumexp(met, axis=1) - scores[:, 0]
    both = jnp.sum(rows) / n, jnp.sum(columns) / n
    return jax.lax.psum(both, axes) if axes else both


def _options(config: WordContrastConfig) -> dict[str, Any]:
    """Of the kernel, which knows sums and largest ones."""
    how = "max" if config.aggregation == "max" else "sum"
    return {"temp1": config.temp1, "temp2": config.temp2, "aggregation": how}


def _per_word(
    scores: Float[Array, "b n"],
    mask: Bool[Array, "_ n t"],
    config: WordContrastConfig,
) -> Float[Array, "b n"]:
    """The logarithm of a mean, where that is asked for in place of a sum's."""
    if config.aggregation != "mean":
        return scores
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(scores.dtype)
    return scores - jnp.log(count)


def word_attention(
    words: Float[Array, "b t d"],
    mask: Bool[Array, "b t"],
    regions: Float[Array, "b r d"],
    *,
    temp1: float,
) -> Float[Array, "b t r"]:
    """Share of each region in what each word gathers, of matching pairs."""
    scores = jnp.einsum("btd,brd->btr", words, regions)
    scores = jnp.where(mask[..., None], scores, -1e30)
    return jax.nn.softmax(temp1 * jax.nn.softmax(scores, axis=1), axis=2)


def pair_cross_entropy(
    scores: Float[Array, "b _b"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy of the diagonal, by rows and by columns."""
    own = jnp.diagonal(scores)
    rows, columns = (jax.nn.logsumexp(scores, axis=axis) for axis in (1, 0))
    return jnp.mean(rows - own), jnp.mean(columns - own)
