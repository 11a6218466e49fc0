"""CHeart: a conditional generator of the beating heart's anatomy.

Qiao, Wang, Qiu, de Marvao, O'Regan, Rueckert, Bai, "CHeart: A Conditional
Spatio-Temporal Generative Model for Cardiac Anatomy", IEEE TMI 43(3), 2024 (PMC7615911;
code ``MengyunQ/CHeart``).

A variational autoencoder over label maps. The encoder sees the first frame and five
conditions (age, sex, height, weight, blood pressure) and gives one latent vector; an
LSTM unrolls it over the cycle, and a decoder, told the conditions again, draws every
frame. Given a first frame it *completes* the cycle; given a draw from the prior it
*generates* a heart for a person.

``repo`` is the released code without what stops it. Two of its traits are kept because
they change what is learned: every frame is normalised by a batch norm of its own
statistics, though all frames share one running average; and ``z`` of the first frame is
unbounded while that of all others is an LSTM's output in (-1, 1). A layer of 270,336
parameters that is never called is left out. KL is the *mean* over latent dimensions
with weight 0.01, which hardly ties the posterior to the prior. In two things no preset
follows the code: cycles are completed with the posterior's mean, where it draws, and
the number of frames is free, where it has 20.

``paper`` normalises all frames together, and its run standardises the conditions with
statistics of the training set. ``improved`` has a prior that depends on the conditions,
KL as the evidence bound has it (a sum over dimensions beside a sum over voxels) with a
warm-up and free bits, soft Dice beside cross-entropy, group norm, and frames that
attend to the latent instead of an LSTM; ``decode="flow"`` moves the decoded first frame
instead of drawing each. ``mapping`` is an option of the released code that no preset
has: conditions become 64 numbers of a network with pixel norm.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from medjax.heart.cheart_network import CLASSES, LEVELS, CHeart, CHeartConfig
from medjax.nn.gaussian import Gaussian, divergence
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.train.system import Apply
from medjax.typing import Batch, Key, Metrics, Variables

ACTIVE = 0.01
"""A latent dimension of so many nats of KL is in use."""
CONFIGS = {
    "repo": CHeartConfig(),
    "paper": CHeartConfig(norm="batch"),
    "improved": CHeartConfig(
        temporal="transformer",
        norm="group",
        learned_prior=True,
        kl="sum",
        beta=1.0,
        free_bits=0.05,
        dice=1.0,
    ),
}


def divergence_cost(
    each: Float[Array, " z"], step: Integer[Array, ""], config: CHeartConfig
) -> Float[Array, ""]:
    """What KL adds to the loss.

    Args:
        each: nats of KL of each latent dimension, mean over the batch.
        step: updates so far, for the warm-up.
        config: weight, free bits, mean or sum.
    """
    spent = jnp.maximum(each, config.free_bits)
    # Cross-entropy is a mean over the voxels of a cycle; in the evidence bound, a sum.
    voxels = config.frames * math.prod(config.shape)
    whole = jnp.sum(spent) / voxels if config.kl == "sum" else jnp.mean(spent)
    rise = jnp.minimum((step + 1) / max(config.warmup, 1), 1.0)
    return config.beta * rise * whole


def use_of_latents(each: Float[Array, " z"]) -> Metrics:
    """How much the latent vector tells: of a posterior that has collapsed, nothing.

    Args:
        each: of :func:`divergence`.

    Returns:
        KL as mean and as sum over dimensions, and how many dimensions are in use.
    """
    return {
        "kl_mean": jnp.mean(each),
        "kl_sum": jnp.sum(each),
        "active_units": jnp.sum((each > ACTIVE).astype(jnp.float32)),
    }


def reconstruction_loss(
    logits: Float[Array, "b t d h w k"],
    labels: Integer[Array, "b t d h w"],
    config: CHeartConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy as the released code weighs it, and one minus soft Dice.

    Per frame the weighted mean over batch and voxels; then the weighted mean over
    frames. Dice is that of the three structures over each whole sequence.
    """

    def sums(of: tuple[Array, Array]) -> tuple[Array, ...]:
        """Of one frame, over the voxels of every example and class, ``b k``."""
        logp = jax.nn.log_softmax(of[0].astype(jnp.float32))
        truth, axes = jax.nn.one_hot(of[1], CLASSES), (1, 2, 3)
        p = jnp.exp(logp)
        parts = (logp * truth, truth, p * truth, p + truth)
        return tuple(jnp.sum(part, axes) for part in parts)

    frames = (jnp.moveaxis(logits, 1, 0), jnp.moveaxis(labels, 1, 0))
    if config.norm == "frame":
        # Frame by frame as they are decoded, and computed again on the way back: what
        # is kept of the published cycles is logits, 1.3 GB, not several times that.
        each = jax.lax.map(jax.checkpoint(sums), frames)
    else:
        each = jax.vmap(sums)(frames)
    weights = jnp.array([1.0] + [config.class_weight] * (CLASSES - 1))
    per_class, counts = (jnp.sum(part, axis=1) for part in each[:2])
    frame = -(per_class @ weights) / jnp.maximum(counts @ weights, 1.0)
    at = jnp.arange(logits.shape[1]) * 20
    middle = (at >= 3 * logits.shape[1]) & (at <= 13 * logits.shape[1])
    importance = jnp.where(middle, config.systole_weight, 1.0)
    entropy = jnp.sum(importance * frame) / jnp.sum(importance)
    both, size = (jnp.sum(part, axis=0) for part in each[2:])
    dice = jnp.mean((2 * both[:, 1:] + 1.0) / (size[:, 1:] + 1.0))
    return entropy, 1.0 - dice


@dataclasses.dataclass(frozen=True)
class GenerativeSystem:
    """CHeart as pure functions; see :mod:`medjax.train.system`.

    ``apply`` has ``complete``, from ``{"labels": b d h w, "conditions": b c}``, and
    ``generate``, from ``{"noise": b z, "conditions": b c}``; both give logits of all
    frames, ``b t d h w k``. ``judged`` is the loss of a batch by the network as it is
    used: the posterior's mean, running statistics, KL at its full weight.
    """

    init: Init
    loss: Loss
    apply: Mapping[str, Apply]
    judged: Callable[[Variables, Batch], Array]
    frozen: tuple[str, ...] = ()


def cheart_system(config: CHeartConfig) -> GenerativeSystem:
    """CHeart as a system.

    Args:
        config: see :data:`CONFIGS`.

    Raises:
        ValueError: for a shape that four halvings do not divide, or a transformer that
            is told the conditions before.
    """
    if any(n < 1 or n % 2**LEVELS for n in config.shape):
        raise ValueError(f"system.shape {config.shape}: expected multiples of 16")
    if config.temporal == "transformer" and config.conditions_at == "before":
        raise ValueError(
            "system.conditions-at 'before' is the LSTM's; a transformer is always told "
            "the conditions"
        )
    module = CHeart(config)

    def init(key: Key, batch: Batch) -> Variables:
        variables = module.init(key, batch["labels"][:1], batch["conditions"][:1])
        return {**variables, "counters": {"step": jnp.zeros((), jnp.int32)}}

    def forward(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[tuple[Array, Gaussian, Gaussian], Variables]:
        def run(m: CHeart) -> tuple[Array, Gaussian, Gaussian]:
            labels, conditions = batch["labels"], batch["conditions"]
            posterior = m.encode(labels[:, 0], conditions, train=True)
            noise = jax.random.normal(key, posterior.mean.shape)
            logits = m.decode(posterior.at(noise), conditions, train=True)
            return logits, posterior, m.prior(conditions)

        return nn.apply(run, module, mutable=["batch_stats"])(variables)

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        (logits, posterior, prior), updated = forward(variables, batch, key)
        entropy, dice = reconstruction_loss(logits, batch["labels"], config)
        each = jnp.mean(divergence(posterior, prior), axis=0)
        step = variables["counters"]["step"]
        total = entropy + divergence_cost(each, step, config)
        # Without a weight it is told, and has no way back: 0 times it would have one.
        total = total + config.dice * dice if config.dice else total
        metrics = {
            "cross_entropy": entropy,
            "soft_dice": 1.0 - dice,
            **use_of_latents(each),
        }
        return total, (metrics, {**updated, "counters": {"step": step + 1}})

    def judged(variables: Variables, batch: Batch) -> Array:
        def run(m: CHeart) -> tuple[Array, Gaussian, Gaussian]:
            labels, conditions = batch["labels"], batch["conditions"]
            posterior = m.encode(labels[:, 0], conditions)
            logits = m.decode(posterior.mean, conditions)
            return logits, posterior, m.prior(conditions)

        logits, posterior, prior = nn.apply(run, module)(variables)
        entropy, dice = reconstruction_loss(logits, batch["labels"], config)
        each = jnp.mean(divergence(posterior, prior), axis=0)
        warm = jnp.asarray(config.warmup, jnp.int32)
        return entropy + config.dice * dice + divergence_cost(each, warm, config)

    def complete(variables: Variables, given: Batch) -> Array:
        def run(m: CHeart) -> Array:
            posterior = m.encode(given["labels"], given["conditions"])
            return m.decode(posterior.mean, given["conditions"])

        return nn.apply(run, module)(variables)

    def generate(variables: Variables, given: Batch) -> Array:
        def run(m: CHeart) -> Array:
            z = m.prior(given["conditions"]).at(given["noise"])
            return m.decode(z, given["conditions"])

        return nn.apply(run, module)(variables)

    apply = {"complete": complete, "generate": generate}
    return GenerativeSystem(init, loss, apply, judged)
