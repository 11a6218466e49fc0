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
from collections.abc import Callable, Sequence

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


def log_likelihood(
    logits: Float[Array, "b *s k"], labels: Int[Array, "b *s"], spec: Labels
) -> Float[Array, " b"]:
    """Of every row's whole annotation, nats: summed over the voxels that have one.

    Args:
        logits: Of every channel.
        labels: Inside labels.
        spec: What they are.
    """
    truth, valid = spec.truth(labels), spec.valid(labels)
    if spec.regions:
        each = jnp.sum(logits * truth - jax.nn.softplus(logits), axis=-1)
    else:
        each = jnp.sum(jax.nn.log_softmax(logits) * truth, axis=-1)
    return jnp.sum(each * valid, axis=tuple(range(1, valid.ndim)))


def marginal_surprise(
    likelihoods: Float[Array, "m b"], labels: Int[Array, "b *s"], spec: Labels
) -> Float[Array, ""]:
    """Minus the log of the mean likelihood over draws, nats per annotated voxel.

    Each draw has to be likely as a whole, and some draw for each annotation: draws that
    differ as annotators do are worth it. (The mean of the *surprises* is least where
    all draws are the same.)

    Args:
        likelihoods: Logarithms, of :func:`log_likelihood`, of every draw.
        labels: Inside labels.
        spec: What they are.
    """
    mean = jax.nn.logsumexp(likelihoods, axis=0) - jnp.log(float(len(likelihoods)))
    return -jnp.sum(mean) / jnp.maximum(jnp.sum(spec.valid(labels)), 1.0)


def draws_together(
    logits: Float[Array, "m b *s k"],
    labels: Int[Array, "b *s"],
    spec: Labels,
    config: LossConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one level of which there are several draws.

    The cross-entropy is :func:`marginal_surprise`, the Dice term that of the mean
    probability, which does not ask draws to be alike.

    Args:
        logits: Of every draw and channel.
        labels: Inside labels.
        spec: What they are.
        config: Terms.
    """
    each = jax.vmap(lambda one: log_likelihood(one, labels, spec))(logits)
    surprise = marginal_surprise(each, labels, spec)
    if spec.regions:  # a mean over them, as of one draw
        surprise = surprise / spec.channels
    # The logarithm of the mean has the mean as its softmax, and as its sigmoid's odds.
    said = jax.nn.sigmoid(logits) if spec.regions else jax.nn.softmax(logits)
    mean = jnp.clip(jnp.mean(said, axis=0), 1e-7, 1 - 1e-7)
    like = jnp.log(mean) - jnp.log1p(-mean) if spec.regions else jnp.log(mean)
    _, terms = dice_and_cross_entropy(like, labels, spec, config)
    total = config.cross_entropy * surprise - config.dice * terms["soft_dice"]
    return total, {"cross_entropy": surprise, "soft_dice": terms["soft_dice"]}


Level = Callable[
    [Float[Array, "..."], Int[Array, "b *s"], Labels, LossConfig],
    tuple[Float[Array, ""], dict[str, Float[Array, ""]]],
]
"""The loss of one level."""


def supervised(
    levels: Sequence[Float[Array, "..."]],
    labels: Int[Array, "b *s"],
    strides: Sequence[Axes],
    spec: Labels,
    config: LossConfig,
    level: Level = dice_and_cross_entropy,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss over all levels of a decoder.

    Args:
        levels: Logits, finest first.
        labels: Inside labels of the finest level.
        strides: With which every level is entered (:class:`NNUNetConfig`).
        spec: What the labels are.
        config: Terms.
        level: The loss of one.

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
            value, terms = level(levels[number], here, spec, config)
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
