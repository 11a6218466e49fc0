"""Monte Carlo dropout: the same network with other units switched off.

Gal and Ghahramani 2016, arXiv 1506.02142. Units behind the lowest levels of the encoder
are dropped with probability ``rate``, in training and when it is asked: what these
levels hand to the decoder. All that comes before is computed once. Normalisation is of
single images, so that asking does not differ from training in anything else.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.nnunet import NNUNet
from medjax.segmentation.losses import supervised
from medjax.segmentation.sampled import SampledConfig, draws, sampled_system
from medjax.segmentation.system import (
    SegmentationSystem,
    augmented,
    check,
    probabilities,
)
from medjax.typing import Batch, Key, Metrics, Variables


@dataclasses.dataclass(frozen=True)
class Dropped:
    """What is dropped."""

    rate: float = 0.3
    """Probability of a unit to be dropped."""
    levels: int = 2
    """Lowest levels of the encoder whose units are."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1 or self.levels < 1:
            raise ValueError(
                f"dropout: rate {self.rate} of {self.levels} levels, expected a rate "
                "in (0, 1) and a level at least"
            )


@dataclasses.dataclass(frozen=True)
class DropoutConfig(SampledConfig):
    """A U-Net with dropout that is never switched off."""

    dropout: Dropped = Dropped()
    """What is dropped."""


def dropped(
    features: Sequence[Float[Array, "b ..."]], key: Key | None, config: Dropped
) -> list[Float[Array, "b ..."]]:
    """Features with units of the lowest levels set to zero, the others grown.

    Args:
        features: Of every level, finest first.
        key: Of the draw; None: nothing is dropped.
        config: How many.
    """
    found = list(features)
    if key is None:
        return found
    for i in range(max(len(found) - config.levels, 0), len(found)):
        kept = jax.random.bernoulli(
            jax.random.fold_in(key, i), 1 - config.rate, found[i].shape
        )
        found[i] = jnp.where(kept, found[i] / (1 - config.rate), 0)
    return found


def dropout_system(config: DropoutConfig) -> SegmentationSystem:
    """The system of these settings.

    Raises:
        ValueError: Where network, patch and labels do not fit each other.
    """
    check(config)
    network = NNUNet(config.network, jnp.dtype(config.dtype))

    def init(key: Key, batch: Batch) -> Variables:
        channels = batch["image"].shape[-1]
        return network.init(key, jnp.zeros((1, *config.patch, channels)))

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        augment_key, own = jax.random.split(key)
        images, labels = augmented(batch, augment_key, config)

        def forward(net: NNUNet) -> Any:
            features = dropped(net.encode(images), own, config.dropout)
            return net.classify(net.decode(features))

        levels = nn.apply(forward, network)(variables)
        value, metrics = supervised(
            levels, labels, config.network.strides, config.labels, config.loss
        )
        return value, (metrics, {})

    def sample(
        variables: Variables, patches: Array, key: Key, count: int
    ) -> Float[Array, "m b *s k"]:
        features: Any = network.apply(variables, patches, method="encode")

        def one(key: Key | None) -> Array:
            def decode(net: NNUNet) -> Array:
                seen = dropped(features, key, config.dropout)
                return net.classify(net.decode(seen))[0]

            return probabilities(nn.apply(decode, network)(variables), config.labels)

        return draws(one, key, count, config.at_once)

    return sampled_system(config, init=init, loss=loss, sample=sample, shared_key=True)
