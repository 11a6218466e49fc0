"""PHiSeg: a pyramid of latent maps, from which alone the answer is drawn.

Baumgartner et al. 2019, arXiv 1906.04045. Latent maps ``z_l`` of two channels lie at
several resolutions, each conditioned on the coarser one below it; a posterior that sees
image and annotation trains a prior that sees the image. The decoder sees the latents
alone, no features of the image: what is not in them cannot be drawn. Its logits add up
from coarse to fine, and every partial sum is asked for the annotation by a
cross-entropy summed over pixels; ``KL_l`` is summed too, and weighed by how many pixels
of the finest level one of level l stands for (4^l where all strides are 2).

Differs from ``baumgach/PHiSeg-code``: widths, kernels and strides are the host
network's; the encoders have instance norm where it has batch norm, and what follows a
latent has none, since it would take out the mean that a latent sets; maps are enlarged
by repetition, not by lines; a coarser latent reaches the next finer one only. The loss
is a mean over the batch and divided by the number of pixels.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.nn.gaussian import Gaussian, divergence
from medjax.nn.nnunet import Axes, ConvRow, NNUNetConfig, he_normal, repeated
from medjax.segmentation.losses import dice_and_cross_entropy
from medjax.segmentation.sampled import SampledConfig, draws, normal, sampled_system
from medjax.segmentation.system import (
    SegmentationSystem,
    augmented,
    check,
    probabilities,
)
from medjax.typing import Batch, Key, Metrics, Variables

Latents = list[Float[Array, "b ..."]]
"""Maps of every latent level, finest first."""


@dataclasses.dataclass(frozen=True)
class Pyramid:
    """The latent maps."""

    channels: int = 2
    """Of every map."""
    levels: int = 5
    """At so many of the host network's levels, its lowest, there are latents."""
    beta: float = 1.0
    """Weight of all divergences."""

    def __post_init__(self) -> None:
        if self.channels < 1 or self.levels < 1 or self.beta < 0:
            raise ValueError(
                f"pyramid: {self.channels} channels at {self.levels} levels and beta "
                f"{self.beta}: expected one of each at least and no negative weight"
            )


@dataclasses.dataclass(frozen=True)
class PHiSegConfig(SampledConfig):
    """A pyramid of latents on the levels of a network."""

    pyramid: Pyramid = Pyramid()
    """The latents."""


def finest(network: NNUNetConfig, pyramid: Pyramid) -> int:
    """The level of the network with the finest latent."""
    return max(len(network.widths) - pyramid.levels, 0)


def between(network: NNUNetConfig, fine: int, coarse: int) -> Axes:
    """Voxels of one level along each axis, in one of a coarser level."""
    steps = network.strides[fine + 1 : coarse + 1]
    return tuple(math.prod(s[axis] for s in steps) for axis in range(network.rank))


class LatentPyramid(nn.Module):
    """Images (and annotations) to the distributions of the latents, coarse to fine."""

    network: NNUNetConfig
    pyramid: Pyramid
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *_s _c"],
        chosen: Callable[[int, Gaussian], Float[Array, "b ..."]],
    ) -> tuple[list[Gaussian], Latents]:
        """Distributions and values of the latents, finest first.

        Args:
            x: The input.
            chosen: Value of a latent by its level and distribution; the finer
                distributions follow from it.
        """
        network, dtype = self.network, self.dtype
        one = (1,) * network.rank
        x, features = x.astype(dtype), []
        for i, blocks in enumerate(network.blocks):
            row = ConvRow(
                network, i, blocks, network.strides[i], dtype, name=f"encoder{i}"
            )
            features.append(x := row(x))
        found, values = [], []
        for j in reversed(range(finest(network, self.pyramid), len(features))):
            h = features[j]
            if values:
                row = functools.partial(ConvRow, network, j, 2, one, dtype, False)
                above = repeated(values[-1], network.strides[j + 1]).astype(dtype)
                above = row(name=f"up{j}")(above)
                h = row(name=f"input{j}")(jnp.concatenate([h, above], axis=-1))
            head = nn.Conv(2 * self.pyramid.channels, one, name=f"head{j}")
            mean, spread = jnp.split(head(h.astype(jnp.float32)), 2, axis=-1)
            deviation = nn.softplus(spread) + 1e-4
            found.append(Gaussian(mean, 2 * jnp.log(deviation)))
            values.append(chosen(j, found[-1]))
        return found[::-1], values[::-1]


class Likelihood(nn.Module):
    """Latents to logits of every level, added up from coarse to fine."""

    network: NNUNetConfig
    pyramid: Pyramid
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latents: Latents) -> list[Float[Array, "b *s k"]]:
        """Logits of the finest resolution, the finished ones first."""
        network, dtype = self.network, self.dtype
        one, first = (1,) * network.rank, finest(network, self.pyramid)
        below, total, found = None, None, []
        for i in reversed(range(len(latents))):
            z = repeated(latents[i], between(network, i, i + first)).astype(dtype)
            c = ConvRow(network, i, 2, one, dtype, False, name=f"latent{i}")(z)
            if below is not None:
                up = repeated(below, network.strides[i + 1])
                up = ConvRow(network, i, 1, one, dtype, False, name=f"up{i}")(up)
                c = jnp.concatenate([c, up], axis=-1)
                c = ConvRow(network, i, 2, one, dtype, False, name=f"both{i}")(c)
            below = c
            head = nn.Conv(
                network.out_channels,
                one,
                kernel_init=he_normal(network.slope),
                name=f"head{i}",
            )
            logits = repeated(head(c.astype(jnp.float32)), between(network, -1, i))
            total = logits if total is None else total + logits
            found.append(total)
        return found[::-1]


class PHiSeg(nn.Module):
    """Prior, posterior and likelihood."""

    network: NNUNetConfig
    pyramid: Pyramid
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        parts = self.network, self.pyramid, self.dtype
        self.prior, self.posterior = LatentPyramid(*parts), LatentPyramid(*parts)
        self.likelihood = Likelihood(*parts)

    def trained(
        self, x: Array, truth: Array, key: Key
    ) -> tuple[list[Array], list[Gaussian], list[Gaussian]]:
        """Logits of every level, posterior and prior, the prior told the same latents.

        Args:
            x: Images.
            truth: Annotations, a channel for each output.
            key: Of the draw.
        """
        seen = jnp.concatenate([x, truth - 0.5], axis=-1)
        posterior, values = self.posterior(seen, _drawing(key))
        first = finest(self.network, self.pyramid)
        prior, _ = self.prior(x, lambda level, gaussian: values[level - first])
        return self.likelihood(values), posterior, prior

    def draw(self, x: Array, key: Key | None) -> Array:
        """Finished logits of a draw from the prior, or of its means."""
        _, values = self.prior(x, _drawing(key))
        return self.likelihood(values)[0]


def _drawing(key: Key | None) -> Callable[[int, Gaussian], Array]:
    """Draws of every level with noise of its own, or means."""

    def chosen(level: int, gaussian: Gaussian) -> Array:
        own = None if key is None else jax.random.fold_in(key, level)
        return gaussian.at(normal(own, gaussian.mean.shape))

    return chosen


def phiseg_system(config: PHiSegConfig) -> SegmentationSystem:
    """The system of these settings.

    Raises:
        ValueError: Where network, patch and labels do not fit each other.
    """
    check(config)
    labels, network, pyramid = config.labels, config.network, config.pyramid
    module = PHiSeg(network, pyramid, jnp.dtype(config.dtype))
    first = finest(network, pyramid)

    def init(key: Key, batch: Batch) -> Variables:
        x = jnp.zeros((1, *config.patch, batch["image"].shape[-1]))
        truth = jnp.zeros((1, *config.patch, labels.channels))
        return module.init(key, x, truth, key, method="trained")

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        augment_key, noise_key = jax.random.split(key)
        images, said = augmented(batch, augment_key, config)
        found: Any = module.apply(
            variables, images, labels.truth(said), noise_key, method="trained"
        )
        logits, posterior, prior = found
        each = [dice_and_cross_entropy(s, said, labels, config.loss)[1] for s in logits]
        total = sum(terms["cross_entropy"] for terms in each)
        metrics = {**each[0], "cross_entropy_sum": jnp.asarray(total)}
        for i, pair in enumerate(zip(posterior, prior, strict=True)):
            apart = jnp.sum(divergence(*pair)) / said.shape[0]
            metrics[f"kl_level{i + first}"] = apart
            weight = math.prod(between(network, first, i + first))
            total = total + pyramid.beta * weight * apart / said[0].size
        return jnp.asarray(total), (metrics, {})

    def sample(
        variables: Variables, patches: Array, key: Key, count: int
    ) -> Float[Array, "m b *s k"]:
        def one(key: Key | None) -> Array:
            logits: Any = module.apply(variables, patches, key, method="draw")
            return probabilities(logits, labels)

        return draws(one, key, count, config.at_once)

    return sampled_system(config, init=init, loss=loss, sample=sample, shared_key=True)
