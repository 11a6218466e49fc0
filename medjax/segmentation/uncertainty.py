"""Maps of uncertainty from what may be averaged over tiles and samples.

Probabilities and entropies of single samples are averaged; entropy of the mean and
mutual information follow from the averages. Everything is in nats per voxel. Regions
have an entropy each, which are added.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.segmentation.labels import Labels


def entropy(probability: Float[Array, "*s k"], labels: Labels) -> Float[Array, "*s 1"]:
    """Of the class, or of all regions together.

    Args:
        probability: Of every channel.
        labels: Whether the channels exclude each other.
    """

    def terms(p: Array) -> Array:
        return -p * jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))

    total = terms(probability)
    if labels.regions:
        total = total + terms(1 - probability)
    return jnp.sum(total, axis=-1, keepdims=True)


def mutual_information(
    probability: Float[Array, "*s k"],
    expected_entropy: Float[Array, "*s 1"],
    labels: Labels,
) -> Float[Array, "*s 1"]:
    """What samples disagree about: entropy of the mean minus mean of the entropies.

    Args:
        probability: The mean over samples.
        expected_entropy: The mean over samples of each one's entropy.
        labels: Whether the channels exclude each other.
    """
    # Not negative but for rounding.
    return jnp.maximum(entropy(probability, labels) - expected_entropy, 0.0)
