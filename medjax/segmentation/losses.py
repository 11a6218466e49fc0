"""Cross-entropy and soft Dice, as nnU-Net adds them, at every level of the decoder.

The Dice term is minus the mean over foreground channels of ``(2 sum p g + s) / (sum p +
sum g + s)``. With ``batch_dice`` the sums go over the global batch, so that a patch
without a structure does not count as a failure; without it they are per patch. Regions
take sigmoids and binary cross-entropy, and all of them are foreground. Voxels that
nobody annotated are in no sum. The total of a perfect output is -1.

Deep supervision weighs level l with 2^-l, and the lowest not at all; each level sees
every 2^l-th label, near the middle of what it stands for.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.nn.nnunet import Axes
from medjax.segmentation.labels import Labels


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Terms of the loss."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy."""
    dice: float = 1.0
    """Weight of the Dice term."""
    batch_dice: bool = True
    """Sums of the Dice term over the batch, not per patch."""
    smooth: float = 1e-5
    """Added to both sides of the Dice term's fraction."""
    deep_supervision: bool = True
    """Also ask the coarser levels."""


def soft_dice(
    probabilities: Float[Array, "b *s k"],
    truth: Float[Array, "b *s k"],
    valid: Float[Array, "b *s"],
    *,
    over_batch: bool,
    smooth: float,
) -> Float[Array, "..."]:
    """Soft Dice of every channel.

    Args:
        probabilities: Of the output.
        truth: In 0 and 1, or shares.
        valid: 1 where a voxel counts.
        over_batch: One sum over the batch, not one for each of its rows.
        smooth: Added to both sides of the fraction; both empty: 1.

    Returns:
        Shape ``k``, or ``b k``.
    """
    axes = tuple(range(0 if over_batch else 1, probabilities.ndim - 1))
    weight = valid[..., None]
    both = jnp.sum(probabilities * truth * weight, axes)
    sizes = jnp.sum((probabilities + truth) * weight, axes)
    return (2 * both + smooth) / (sizes + smooth)


def dice_and_cross_entropy(
    logits: Float[Array, "b *s k"],
    labels: Int[Array, "b *s"],
    spec: Labels,
    config: LossConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one level.

    Args:
        logits: Of every channel.
        labels: Inside labels.
        spec: What they are.
        config: Terms.

    Returns:
        The weighted sum, and its terms: ``cross_entropy`` (nats per voxel) and
        ``soft_dice``.
    """
    truth, valid = spec.truth(labels), spec.valid(labels)
    count = jnp.maximum(jnp.sum(valid), 1.0)
    if spec.regions:
        probabilities = jax.nn.sigmoid(logits)
        surprise = jax.nn.softplus(logits) - logits * truth
        entropy = jnp.sum(jnp.mean(surprise, axis=-1) * valid) / count
        foreground = slice(0, None)
    else:
        probabilities = jax.nn.softmax(logits)
        surprise = -jnp.sum(jax.nn.log_softmax(logits) * truth, axis=-1)
        entropy = jnp.sum(surprise * valid) / count
        foreground = slice(1, None)
    dice = soft_dice(
        probabilities[..., foreground],
        truth[..., foreground],
        valid,
        over_batch=config.batch_dice,
        smooth=config.smooth,
    )
    score = jnp.mean(dice)
    total = config.cross_entropy * entropy - config.dice * score
    return total, {"cross_entropy": entropy, "soft_dice": score}


def supervised(
    levels: Sequence[Float[Array, "b ..."]],
    labels: Int[Array, "b *s"],
    strides: Sequence[Axes],
    spec: Labels,
    config: LossConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss over all levels of a decoder.

    Args:
        levels: Logits, finest first.
        labels: Inside labels of the finest level.
        strides: With which every level is entered (:class:`NNUNetConfig`).
        spec: What the labels are.
        config: Terms.

    Returns:
        The loss, and the terms of the finest level.
    """
    weights = level_weights(len(levels)) if config.deep_supervision else (1.0,)
    total, metrics = jnp.zeros(()), {}
    apart = (1,) * (labels.ndim - 1)
    for number, weight in enumerate(weights):
        if number:
            apart = tuple(a * s for a, s in zip(apart, strides[number], strict=True))
        if weight:
            # Of the finest labels each time: thinned again and again, what is taken
            # would move from the middle to the end of what it stands for.
            here = thinned(labels, apart)
            value, terms = dice_and_cross_entropy(levels[number], here, spec, config)
            total, metrics = total + weight * value, metrics or terms
    return total, metrics


def level_weights(levels: int) -> tuple[float, ...]:
    """Weights of the decoder's levels, finest first; they add up to 1.

    The lowest has none, unless it is the only one.
    """
    halves = [2.0**-i for i in range(levels)]
    if levels > 1:
        halves[-1] = 0.0
    return tuple(half / sum(halves) for half in halves)


def thinned(labels: Int[Array, "b *s"], stride: Axes) -> Int[Array, "b *t"]:
    """Every n-th label along each axis, near the middle of the n."""
    steps = (slice(None), *(slice(n // 2, None, n) for n in stride))
    return labels[steps]
