"""From word-pieces to words: what systems compare that look at single words.

A tokenizer cuts "pneumothorax" into pieces; its word is the sum of their vectors, as
GLoRIA and MGCA have it. Which pieces belong together follows from their ids alone
(:attr:`medjax.vlp.tokens.Tokenizer.continues`), so it is found inside the step, and
prepared data need no column for it. Upstream walks over every token of every report in
Python.

The first token of a text is [CLS], its last one [SEP]: both are words of their own.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medjax.vlp.tokens import load_tokenizer
from medjax.vlp.towers import TextTowerConfig, bert_config


@functools.lru_cache(maxsize=8)
def continuing_pieces(config: TextTowerConfig) -> Bool[np.ndarray, " k"]:
    """Which ids of a report tower's tokenizer go on with the word before them.

    Args:
      config: names a checkpoint or a tokenizer. With neither, as where only shapes are
        asked for, every piece counts as a word.
    """
    source = config.checkpoint or config.tokenizer
    if source is None:
        return np.zeros(bert_config(config).vocab_size, np.bool_)
    return load_tokenizer(source).continues


def word_segments(
    ids: Int[Array, "b n"],
    continues: Bool[Array, " k"] | Bool[np.ndarray, " k"],
    *,
    closing: bool = True,
) -> Int[Array, "b n"]:
    """The number of the word that each token belongs to, -1 for none.

    Args:
      ids: of tokens, 0 at padding.
      continues: for every id, whether it goes on with the word before it.
      closing: whether the last token of a text, its [SEP], is a word.
    """
    real = ids != 0
    starts = real & ~jnp.asarray(continues)[ids]
    # Whatever a text begins with begins a word.
    starts = starts.at[:, 0].set(real[:, 0])
    segments = jnp.cumsum(starts, axis=1, dtype=jnp.int32) - 1
    if not closing:
        real &= jnp.pad(real[:, 1:], ((0, 0), (0, 1)))
    return jnp.where(real, segments, -1)


def aggregate(
    hidden: Float[Array, "b n d"],
    segments: Int[Array, "b n"],
    *,
    words: int | None = None,
) -> tuple[Float[Array, "b t d"], Bool[Array, "b t"]]:
    """Sums the tokens of each word.

    Args:
      hidden: one vector per token.
      segments: of :func:`word_segments`.
      words: slots for words; those beyond are left out. None: as many as tokens.

    Returns:
      One vector per word in the order of the text, zeros in slots without one; and
      which slots have one.
    """
    slots = jnp.arange(words or hidden.shape[1], dtype=jnp.int32)
    member = segments[:, :, None] == slots[None, None]
    # A product with zeros and ones is a sum in a fixed order, which the scatter of a
    # segment_sum is not on a GPU. (On a CPU that takes a sixth of the time, 12 of 83 ms
    # for the gradient of 48 reports of 97 tokens, in a step of seconds.) At an
    # accelerator's default precision fp32 vectors would be rounded on their way.
    summed = jnp.einsum(
        "bnt,bnd->btd",
        member.astype(hidden.dtype),
        hidden,
        precision=jax.lax.Precision.HIGHEST,
    )
    return summed, jnp.any(member, axis=1)


def as_square(maps: Float[Array, "b t r"]) -> Float[Array, "b t h w"]:
    """Values of places row by row as square maps; films are square, so are they."""
    side = math.isqrt(maps.shape[2])
    return maps.reshape(*maps.shape[:2], side, side)
