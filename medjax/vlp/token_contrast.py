"""Contrast of tokens within a pair: does each find itself in what it gathered?

The token-wise part of MGCA. Words gather patches and patches words, by attention; what
a token gathered has to be told apart from what all others of its side did. Tokens count
by how much the class token of their tower looks at them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medjax.vlp.contrastive import normalise

LOW, HIGH = 0.1, 0.9
"""Quantiles that attention is clipped to where it becomes weights."""


def attention_weights(looks: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """Attention as weights of tokens: clipped to its quantiles, summing to one.

    Quantiles are over what is not zero; a row of zeros stays so. No gradient flows.
    """
    looks = jax.lax.stop_gradient(looks)
    there = looks != 0
    low, high = (quantile(looks, there, q) for q in (LOW, HIGH))
    clipped = jnp.where(there, jnp.clip(looks, low, high), 0.0)
    total = jnp.sum(clipped, axis=1, keepdims=True)
    return clipped / jnp.where(total > 0, total, 1.0)


def quantile(
    values: Float[Array, "b n"], there: Bool[Array, "b n"], q: float
) -> Float[Array, "b 1"]:
    """The quantile of what is there in each row, linear between neighbours.

    NumPy's and PyTorch's, by weights of all places: looking two of them up, as
    ``jnp.nanquantile`` does, has devices tell each other of every row.
    """
    ordered = jnp.sort(jnp.where(there, values, jnp.inf), axis=1)
    count = jnp.sum(there, axis=1, keepdims=True)
    at = q * jnp.maximum(count - 1, 0).astype(values.dtype)
    place = jnp.arange(values.shape[1], dtype=values.dtype)
    share = jnp.maximum(1.0 - jnp.abs(place[None] - at), 0.0)
    found = jnp.where(share > 0, ordered, 0.0) * share
    return jnp.sum(found, axis=1, keepdims=True)


def token_contrast(
    tokens: Float[Array, "b n d"],
    others: Float[Array, "b m d"],
    weights: Float[Array, "b n"],
    *,
    temperature: float,
    mask: Bool[Array, "b n"] | None = None,
    others_mask: Bool[Array, "b m"] | None = None,
    unit: bool = True,
) -> Float[Array, ""]:
    """Tokens of one side gather from the other, and are found again by it.

    Within each pair: a_i = sum_j softmax_j(x_i y_j / tau) y_j, logits x_i a_j / tau,
    and cross-entropy of the diagonal by rows and by columns, the mean of both.

    Args:
      tokens: x, unit norm.
      others: y, unit norm.
      weights: of the tokens, summing to one in each pair.
      temperature: tau.
      mask: tokens that take part; None: all.
      others_mask: what may be gathered; None: everything.
      unit: whether what was gathered is brought to unit norm.

    Returns:
      Mean over pairs of the weighted sum over tokens.
    """
    none = -1e30
    scores = jnp.einsum("bnd,bmd->bnm", tokens, others) / temperature
    if others_mask is not None:
        scores = jnp.where(others_mask[:, None], scores, none)
    gathered = jnp.einsum("bnm,bmd->bnd", jax.nn.softmax(scores), others)
    gathered = normalise(gathered) if unit else gathered
    logits = jnp.einsum("bnd,bmd->bnm", tokens, gathered) / temperature
    own = jnp.einsum("bnd,bnd->bn", tokens, gathered) / temperature

    def cross_entropy(axis: int) -> Float[Array, "b n"]:
        counted = logits
        if mask is not None:
            there = jnp.expand_dims(mask, 3 - axis)
            counted = jnp.where(there, logits, none)
        return jax.nn.logsumexp(counted, axis=axis) - own

    both = (cross_entropy(2) + cross_entropy(1)) / 2.0
    return jnp.sum(weights * both) / tokens.shape[0]
