"""Maps of uncertainty from what may be averaged over tiles and samples.

Probabilities and entropies of single samples are averaged; entropy of the mean and
mutual information follow from the averages. Everything is in nats per voxel. Regions
have an entropy each, which are added.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from medjax.segmentation.labels import Labels

NEAR = 3.0
"""Voxels around the predicted foreground that still count for an image's number."""


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


def image_score(
    uncertainty: Float[np.ndarray, "i j k"], foreground: Bool[np.ndarray, "i j k"]
) -> float:
    """One number of an image: the mean over the predicted foreground and what is near.

    Args:
        uncertainty: A map, nats per voxel.
        foreground: What is predicted; where that is nothing, the whole image counts.
    """
    if not foreground.any():
        return float(uncertainty.mean())
    near = np.asarray(ndimage.distance_transform_edt(~foreground)) <= NEAR
    return float(uncertainty[near].mean())
