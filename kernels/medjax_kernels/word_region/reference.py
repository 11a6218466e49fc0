"""GLoRIA's local similarity as its paper writes it: the oracle of every engine.

Whole attention tensors, autodiff, no tricks; run it in float64 to judge the others.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def word_region_similarity(
    words: Float[Array, "n t d"],
    regions: Float[Array, "m r d"],
    valid: Bool[Array, "n t"],
    *,
    temp1: float,
    temp2: float,
    aggregation: str,
    eps: float,
) -> Float[Array, "m n"]:
    """See :func:`medjax_kernels.word_region.word_region_similarity`."""
    filled = valid.any(axis=1)
    words = jnp.where(valid[..., None], words, 1)
    # An empty report is computed as if it were full (of ones), then set to zero.
    valid = valid | ~filled[:, None]
    scores = jnp.einsum("ntd,mrd->mntr", words, regions)
    scores = jnp.where(valid[None, ..., None], scores, -1e30)
    share = jax.nn.softmax(scores, axis=2)
    attention = jax.nn.softmax(temp1 * share, axis=3)
    context = jnp.einsum("mntr,mrd->mntd", attention, regions)
    lengths = jnp.linalg.norm(words, axis=-1) * jnp.linalg.norm(context, axis=-1)
    dots = jnp.einsum("ntd,mntd->mnt", words, context)
    logits = jnp.where(valid, temp2 * dots / jnp.maximum(lengths, eps), -jnp.inf)
    reduce = {"sum": jax.nn.logsumexp, "max": jnp.max}[aggregation]
    return jnp.where(filled, reduce(logits, axis=2), 0)
