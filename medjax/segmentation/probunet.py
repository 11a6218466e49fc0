"""The Probabilistic U-Net: one latent vector of an image says which answer it gets.

Kohl et al. 2018, arXiv 1806.05034. A normal vector ``z`` (six numbers) comes from a
prior, which sees the image, or in training from a posterior, which sees image and
annotation; it is tiled over the image, joined to the last features of a U-Net, and
three 1x1 convolutions combine the two. The loss is the negative evidence bound:
cross-entropy *summed* over pixels plus ``beta KL(posterior | prior)``, a mean over the
batch, and divided by the number of pixels, so that the learning rate means what it
means elsewhere. With one annotation per image the latent has nothing to say, and all
samples become one.

Differs from the re-implementation ``stefanknegt/Probabilistic-Unet-Pytorch``: log
variances are limited (unlimited, its loss becomes NaN), and both terms are means over
the batch, where it sums cross-entropy over the batch and weighs the divergence by 10.
The encoders of prior and posterior have no normalisation, since the mean over an image
of what has been normalised over that image says next to nothing.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.nn.gaussian import Gaussian, divergence
from medjax.nn.nnunet import ConvRow, NNUNet, NNUNetConfig, he_normal
from medjax.segmentation.hierarchical import LIMIT
from medjax.segmentation.losses import dice_and_cross_entropy
from medjax.segmentation.sampled import SampledConfig, draws, normal, sampled_system
from medjax.segmentation.system import (
    SegmentationSystem,
    augmented,
    check,
    probabilities,
)
from medjax.typing import Batch, Key, Metrics, Variables


@dataclasses.dataclass(frozen=True)
class GlobalLatent:
    """The latent vector."""

    size: int = 6
    """Numbers."""
    beta: float = 1.0
    """Weight of the divergence; 1 is the evidence bound."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.beta < 0:
            raise ValueError(
                f"latent: size {self.size} and beta {self.beta}, expected one number "
                "at least and no negative weight"
            )


@dataclasses.dataclass(frozen=True)
class ProbUNetConfig(SampledConfig):
    """A U-Net with one latent vector per image."""

    latent: GlobalLatent = GlobalLatent()
    """Its size and weight."""


class GlobalEncoder(nn.Module):
    """Images (and annotations) to the distribution of a vector."""

    network: NNUNetConfig
    size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *_s _c"]) -> Gaussian:
        network, x = self.network, x.astype(self.dtype)
        for i in range(len(network.widths)):
            row = ConvRow(
                network,
                i,
                network.blocks[i],
                network.strides[i],
                self.dtype,
                normal=False,
                name=f"level{i}",
            )
            x = row(x)
        mean = jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim - 1)))
        both = nn.Dense(2 * self.size, name="head")(mean)
        where, spread = jnp.split(both, 2, axis=-1)
        return Gaussian(where, jnp.clip(spread, -LIMIT, LIMIT))


class ProbUNet(nn.Module):
    """The network in its parts.

    Attributes:
        network: The U-Net's shape.
        size: Of the latent.
        dtype: Of the arithmetic; latents and logits are float32.
    """

    network: NNUNetConfig
    size: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        network = self.network
        one, width = (1,) * network.rank, network.widths[0]
        self.unet = NNUNet(network, self.dtype)
        self.prior = GlobalEncoder(network, self.size, self.dtype)
        self.posterior = GlobalEncoder(network, self.size, self.dtype)

        def conv(channels: int) -> nn.Conv:
            init = he_normal(network.slope)
            return nn.Conv(channels, one, kernel_init=init, dtype=self.dtype)

        self.combined = [conv(width) for _ in range(3)]
        self.head = conv(network.out_channels)

    def features(self, x: Float[Array, "b *s _c"]) -> Float[Array, "b *s _w"]:
        """The last features of the U-Net."""
        return self.unet.decode(self.unet.encode(x))[0]

    def combine(
        self, features: Float[Array, "b *s _w"], z: Float[Array, "b z"]
    ) -> Float[Array, "b *s k"]:
        """Logits of one value of the latent."""
        space = features.shape[1:-1]
        z = z.reshape(z.shape[0], *(1,) * len(space), z.shape[-1])
        tiled = jnp.broadcast_to(z, (*features.shape[:-1], z.shape[-1]))
        x = jnp.concatenate([features, tiled.astype(self.dtype)], axis=-1)
        for conv in self.combined:
            x = nn.leaky_relu(conv(x), self.network.slope)
        return self.head(x).astype(jnp.float32)

    def both(self, x: Array, truth: Array) -> tuple[Gaussian, Gaussian]:
        """Prior and posterior.

        Args:
            x: Images.
            truth: Annotations, a channel for each output.
        """
        # About zero, as the images are.
        return self.prior(x), self.posterior(jnp.concatenate([x, truth - 0.5], -1))

    def __call__(self, x: Array, truth: Array) -> Array:
        """Everything once, for initialisation."""
        prior, posterior = self.both(x, truth)
        return self.combine(self.features(x), prior.mean + posterior.mean)


def probunet_system(config: ProbUNetConfig) -> SegmentationSystem:
    """The system of these settings.

    Raises:
        ValueError: Where network, patch and labels do not fit each other.
    """
    check(config)
    labels, options = config.labels, config.latent
    module = ProbUNet(config.network, options.size, jnp.dtype(config.dtype))

    def init(key: Key, batch: Batch) -> Variables:
        x = jnp.zeros((1, *config.patch, batch["image"].shape[-1]))
        return module.init(key, x, jnp.zeros((1, *config.patch, labels.channels)))

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        augment_key, noise_key = jax.random.split(key)
        images, said = augmented(batch, augment_key, config)

        def forward(net: ProbUNet) -> Any:
            prior, posterior = net.both(images, labels.truth(said))
            z = posterior.at(normal(noise_key, posterior.mean.shape))
            return net.combine(net.features(images), z), prior, posterior

        logits, prior, posterior = nn.apply(forward, module)(variables)
        _, terms = dice_and_cross_entropy(logits, said, labels, config.loss)
        apart = jnp.mean(jnp.sum(divergence(posterior, prior), axis=-1))
        pixels = said[0].size
        total = terms["cross_entropy"] + options.beta * apart / pixels
        return total, ({**terms, "kl": apart}, {})

    def sample(
        variables: Variables, patches: Array, key: Key, count: int
    ) -> Float[Array, "m b *s k"]:
        def run(net: ProbUNet) -> tuple[Array, Gaussian]:
            return net.features(patches), net.prior(patches)

        features, prior = nn.apply(run, module)(variables)

        def one(key: Key | None) -> Array:
            z = prior.at(normal(key, prior.mean.shape))

            def combine(net: ProbUNet) -> Array:
                return net.combine(features, z)

            return probabilities(nn.apply(combine, module)(variables), labels)

        return draws(one, key, count, config.at_once)

    return sampled_system(config, init=init, loss=loss, sample=sample, shared_key=True)
