"""Stochastic segmentation networks: logits of all voxels from one normal distribution.

Monteiro et al. 2020, arXiv 2006.06015. The logits of an image are jointly normal with
mean ``mu`` and covariance ``P P^T + D``, of low rank plus a diagonal, all three by 1x1
convolutions of the last features. The loss of one image is minus the logarithm of the
mean likelihood over ``M`` samples, ``logsumexp_m sum_i log p(y_i | eta_m) - log M``,
with samples in antithetic pairs.

A sample is ``mu + P e_r + sqrt(D) e``. That needs neither a Cholesky factor nor a
density, so none of both can fail as in ``biomedia-mira/stochastic_segmentation_
networks`` (which then falls back to independent voxels in silence). Of its remedies
against a covariance that grows without bound where nothing is at stake, the mask is
kept: where an image is zero, which is outside the body once it is prepared with a mask,
or where nobody annotated, there is no covariance. (The mask is taken of the image as it
is prepared and goes with it through augmentation, whose noise leaves no zeros.) And
``P`` and ``log D`` are limited.
``mu`` is trained alone for the first tenth of the run, and the covariance begins small:
drawn as other weights are, ``P P^T`` has a variance of 4 (rank 10), and after 150 steps
it still had, with answers of 13 times the spread they should have.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from medjax.nn.nnunet import NNUNet, NNUNetConfig, he_normal
from medjax.segmentation.augment import augment_masked
from medjax.segmentation.labels import Labels
from medjax.segmentation.losses import (
    dice_and_cross_entropy,
    log_likelihood,
    marginal_surprise,
)
from medjax.segmentation.sampled import (
    SampledConfig,
    counted,
    counting,
    draws,
    normal,
    sampled_system,
)
from medjax.segmentation.system import (
    SegmentationSystem,
    check,
    probabilities,
)
from medjax.typing import Batch, Key, Metrics, Variables

LIMIT = 10.0
"""Of the size of the factors' entries, and of ``log D``."""
LEAST = 1e-5
"""Added to the diagonal."""
SMALL = 0.1
"""Deviation of a logit by all columns of the factor, and by itself, at first."""


@dataclasses.dataclass(frozen=True)
class LowRank:
    """The covariance of the logits, and how its likelihood is estimated."""

    rank: int = 10
    """Columns of the factor."""
    draws: int = 20
    """Samples of the loss, in antithetic pairs."""
    alone: float = 0.1
    """Share of the run in which the mean is trained without the covariance."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.draws < 2 or self.draws % 2:
            raise ValueError(
                f"covariance: rank {self.rank} and {self.draws} draws, expected a "
                "positive rank and pairs of draws"
            )


@dataclasses.dataclass(frozen=True)
class SSNConfig(SampledConfig):
    """A U-Net whose logits have a covariance."""

    covariance: LowRank = LowRank()
    """Its rank and loss."""


class LogitNormal(NamedTuple):
    """A distribution of the logits of all voxels.

    Attributes:
        mean: ``b *s k``.
        factor: ``b *s k r``.
        deviation: Of each alone, the root of the diagonal, ``b *s k``.
    """

    mean: Float[Array, "b *s k"]
    factor: Float[Array, "b *s k r"]
    deviation: Float[Array, "b *s k"]

    def at(self, key: Key | None, *, sign: float = 1.0) -> Float[Array, "b *s k"]:
        """Logits of a draw, or the mean.

        Args:
            key: Of the draw.
            sign: -1: the antithetic one.
        """
        if key is None:
            return self.mean
        low, own = jax.random.split(key)
        b, r = self.factor.shape[0], self.factor.shape[-1]
        together = normal(low, (b, r)).reshape(b, *(1,) * (self.mean.ndim - 1), r)
        apart = self.deviation * normal(own, self.mean.shape)
        return self.mean + sign * (jnp.sum(self.factor * together, axis=-1) + apart)


class SSN(nn.Module):
    """A U-Net with three heads at its finest level."""

    network: NNUNetConfig
    rank: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *s _c"], inside: Shaped[Array, "b *s"]
    ) -> LogitNormal:
        """The distribution of an image's logits, float32.

        Args:
            x: Images.
            inside: 1 where logits may vary.
        """
        network = self.network
        unet = NNUNet(network, self.dtype, name="unet")
        features = unet.decode(unet.encode(x))[0]
        one, k = (1,) * network.rank, network.out_channels

        def head(name: str, channels: int, **options: Any) -> Array:
            return nn.Conv(channels, one, name=name, **options)(
                features.astype(jnp.float32)
            )

        mean = head("mean", k, kernel_init=he_normal(network.slope))
        # Features have a mean square of about one.
        low = nn.initializers.variance_scaling(SMALL**2 / self.rank, "fan_in", "normal")
        own = nn.initializers.constant(2 * math.log(SMALL))
        factor = head("factor", k * self.rank, kernel_init=low)
        factor = LIMIT * jnp.tanh(factor / LIMIT)
        diagonal = head("diagonal", k, bias_init=own, kernel_init=low)
        spread = jnp.exp(LIMIT * jnp.tanh(diagonal / LIMIT)) + LEAST
        inside = inside[..., None].astype(jnp.float32)
        factor = factor.reshape(*mean.shape, self.rank) * inside[..., None]
        # The root first: that of zero has no gradient.
        return LogitNormal(mean, factor, jnp.sqrt(spread) * inside)


def monte_carlo_loss(
    found: LogitNormal, said: Int[Array, "b *s"], labels: Labels, key: Key, draws: int
) -> Float[Array, ""]:
    """Minus the log of the mean likelihood over antithetic draws, mean over the batch.

    Args:
        found: The logits' distribution.
        said: Inside labels.
        labels: What they are.
        key: Of the draws.
        draws: How many, an even number.

    Returns:
        Nats per annotated voxel.
    """

    def pair(key: Key) -> Float[Array, "2 b"]:
        both = [found.at(key, sign=sign) for sign in (1.0, -1.0)]
        return jnp.stack([log_likelihood(one, said, labels) for one in both])

    each = jax.vmap(pair)(jax.random.split(key, draws // 2)).reshape(draws, -1)
    return marginal_surprise(each, said, labels)


def ssn_system(config: SSNConfig) -> SegmentationSystem:
    """The system of these settings.

    Raises:
        ValueError: Where network, patch and labels do not fit each other.
    """
    check(config)
    labels, options = config.labels, config.covariance
    module = SSN(config.network, options.rank, jnp.dtype(config.dtype))

    def body(images: Array) -> Bool[Array, "b *s"]:
        return jnp.any(images != 0, axis=-1)

    def init(key: Key, batch: Batch) -> Variables:
        x = jnp.zeros((1, *config.patch, batch["image"].shape[-1]))
        return module.init(key, x, body(x))

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        augment_key, noise_key = jax.random.split(key)
        images, said, inside = augment_masked(
            batch["image"],
            batch["label"],
            body(batch["image"]),
            augment_key,
            patch=config.patch,
            config=config.augment,
            count=labels.count,
        )
        inside = inside & (labels.valid(said) > 0)
        found: Any = module.apply(variables, images, inside)
        _, terms = dice_and_cross_entropy(found.mean, said, labels, config.loss)
        drawn = monte_carlo_loss(found, said, labels, noise_key, options.draws)
        step, updated = counted(variables)
        alone = step < round(options.alone * config.steps)
        total = jnp.where(alone, terms["cross_entropy"], drawn)
        metrics = {
            **terms,
            "monte_carlo": drawn,
            "low_rank_variance": jnp.mean(jnp.sum(found.factor**2, axis=-1)),
            "diagonal_variance": jnp.mean(found.deviation**2),
        }
        return total, (metrics, updated)

    def sample(
        variables: Variables, patches: Array, key: Key, count: int
    ) -> Float[Array, "m b *s k"]:
        found: Any = module.apply(variables, patches, body(patches))

        def one(key: Key | None) -> Array:
            return probabilities(found.at(key), labels)

        return draws(one, key, count, config.at_once)

    return sampled_system(
        config, init=counting(init), loss=loss, sample=sample, shared_key=True
    )
