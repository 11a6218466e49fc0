"""Two ways to several answers of plain U-Nets: other views, and other networks.

*Test-time augmentation* asks one network about mirror images with jittered intensities
(Wang et al. 2019, arXiv 1807.07356): no training of its own. A *deep ensemble*
(Lakshminarayanan et al. 2017, arXiv 1612.01474) asks several networks that differ in
their initialisation and in the order of all that is random; they are trained as one
program (:mod:`medjax.train.ensemble`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.segmentation.sampled import SampledConfig, draws, sampled_system
from medjax.segmentation.system import (
    SegmentationSystem,
    segmentation_system,
)
from medjax.train.ensemble import ensemble
from medjax.typing import Key, Variables


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Views of an image."""

    brightness: float = 0.1
    """Largest relative change of intensities."""
    shift: float = 0.1
    """Largest shift of intensities, of an image of unit variance."""
    noise: float = 0.05
    """Standard deviation of the noise."""


@dataclasses.dataclass(frozen=True)
class ViewsConfig(SampledConfig):
    """A U-Net that is asked about several views."""

    jitter: Jitter = Jitter()
    """The views, beside mirror images."""


@dataclasses.dataclass(frozen=True)
class EnsembleConfig(SampledConfig):
    """Several U-Nets."""

    members: int = 5
    """How many."""


def views_system(config: ViewsConfig) -> SegmentationSystem:
    """Test-time augmentation of the plain system of these settings.

    Raises:
        ValueError: Where network, patch and labels do not fit each other.
    """
    plain, jitter = segmentation_system(config), config.jitter
    said = plain.apply["probability"]

    def sample(
        variables: Variables, patches: Array, key: Key, count: int
    ) -> Float[Array, "m b *s k"]:
        axes = range(1, patches.ndim - 1)

        def one(key: Key | None) -> Array:
            if key is None:
                return said(variables, patches)
            keys = jax.random.split(key, 4)
            flips = jax.random.bernoulli(keys[0], shape=(len(axes),))

            def turned(x: Array) -> Array:
                for i, axis in enumerate(axes):
                    x = jnp.where(flips[i], jnp.flip(x, axis), x)
                return x

            factor = 1 + jitter.brightness * _symmetric(keys[1])
            seen = factor * patches + jitter.shift * _symmetric(keys[2])
            seen = seen + jitter.noise * jax.random.normal(keys[3], seen.shape)
            return turned(said(variables, turned(seen)))

        return draws(one, key, count, config.at_once)

    return sampled_system(
        config, init=plain.init, loss=plain.loss, sample=sample, shared_key=True
    )


def _symmetric(key: Key) -> Array:
    return jax.random.uniform(key, minval=-1.0, maxval=1.0)


def ensemble_system(config: EnsembleConfig) -> SegmentationSystem:
    """An ensemble of the plain system of these settings.

    A draw is a member: there are no more draws than members, and without one the answer
    is the mean of them all.

    Raises:
        ValueError: Where network, patch and labels do not fit each other.
    """
    plain = segmentation_system(config)
    together = ensemble(plain, config.members)

    def sample(
        variables: Variables, patches: Array, key: Key, count: int
    ) -> Float[Array, "m b *s k"]:
        del key

        def one(member: Any) -> Array:
            return plain.apply["probability"](member, patches)

        every = jax.lax.map(one, variables, batch_size=config.at_once)
        return every[:count] if count else jnp.mean(every, axis=0, keepdims=True)

    return sampled_system(
        config,
        init=together.init,
        loss=together.loss,
        sample=sample,
        shared_key=True,
        rules=together.rules,
    )
