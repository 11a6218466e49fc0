"""Hierarchical uncertainty: a U-Net whose skip connections are distributions.

X. Bai and W. Bai, "Hierarchical Uncertainty Estimation for Medical Image Segmentation",
2023, arXiv 2308.08465. Every skip connection carries a normal latent instead of a
feature map; draws of all levels, decoded, give samples, and drawing one level while the
others stay at their means says how much of the uncertainty is that level's.

Features ``h_l`` of the encoder give ``mu_l = conv(h_l)`` and ``s_l = conv(h_l)``, both
1x1, and the decoder sees ``z_l = mu_l + exp(s_l / 2) e_l`` *instead of* ``h_l``: beside
a deterministic skip a latent would be ignored. The loss is that of segmentation for one
sample, plus ``beta(t) sum_l a_l KL_l`` with ``KL_l`` a *mean* over batch, pixels and
channels (not comparable with summed bounds). What the paper's text leaves open is a
flag: which levels, their weights, how strong, and to what the posterior is tied:

=============  =====================================================================
none           nothing
standard       N(0, 1), which pulls on the features as well
learned_prior  a normal per level and channel that is learned with the rest
noise_floor    variances alone are tied, to ``floor``; means are free
=============  =====================================================================

The means start as the features themselves, so a trained U-Net drops in: its parameters
are those below ``unet``.

A posterior that has not seen the annotation and a loss of one draw make draws that are
all alike: the expectation of a cross-entropy over draws is least where they are equal,
so the decoder learns to average its noise away, however wide the latents stay. On the
ambiguous phantoms areas then spread by 3 to 9 % of the annotators'. Two flags, neither
of them the paper's, ask for answers that differ as annotators do. ``draws`` of an
update are likely *together*: the loss has the logarithm of their mean likelihood of the
whole annotation, so that each annotation needs one draw that is like it, not all of
them. ``together`` is the share of a level's noise that all its pixels have in common:
noise of single pixels says nothing of an annotator who is generous everywhere.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.nn.gaussian import Gaussian, divergence
from medjax.nn.nnunet import NNUNet, NNUNetConfig
from medjax.segmentation.latents import apart, beside, latents
from medjax.segmentation.losses import (
    dice_and_cross_entropy,
    draws_together,
    supervised,
)
from medjax.segmentation.sampled import (
    SampledConfig,
    counted,
    counting,
    draws,
    rise,
    sampled_system,
)
from medjax.segmentation.system import (
    SegmentationSystem,
    augmented,
    check,
    probabilities,
)
from medjax.typing import Batch, Key, Metrics, Variables

LIMIT = 10.0
"""Log variances stay within this, so that no exponential overflows."""
FIRST_LOG_VARIANCE = -6.0
"""Draws start with a deviation of 0.05 about features of unit variance."""


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """What is drawn, and what it is tied to."""

    kl: Literal["none", "standard", "learned_prior", "noise_floor"] = "noise_floor"
    """What the posterior is tied to."""
    beta: float = 1e-2
    """Weight of the divergence."""
    levels: tuple[int, ...] | None = None
    """Skip connections that carry latents, 0 the finest; None: all of them."""
    weights: tuple[float, ...] | None = None
    """Of the levels' divergences, in their order; None: 1 each."""
    floor: float = 0.5
    """Standard deviation that noise_floor ties to, of features of unit variance."""
    warmup: float = 0.3
    """Share of the run over which the weight rises."""
    draws: int = 1
    """Of an update, which are likely together: one of them for each annotation. 1: all
    of them for each, as the paper's text reads."""
    together: float = 0.0
    """Share of the variance of a level's noise that all its pixels have in common."""

    def __post_init__(self) -> None:
        if not self.floor > 0 or self.beta < 0 or not 0 <= self.warmup <= 1:
            raise ValueError(
                f"floor {self.floor}, beta {self.beta} and warmup "
                f"{self.warmup}: expected a positive floor, no negative weight and a "
                "share of the run"
            )
        if self.draws < 1 or not 0 <= self.together <= 1:
            raise ValueError(
                f"draws {self.draws} and together {self.together}: expected one draw "
                "at least, and a share"
            )


@dataclasses.dataclass(frozen=True)
class HierarchicalConfig(SampledConfig):
    """A U-Net with latents in its skip connections."""

    hierarchy: Hierarchy = Hierarchy()
    """The latents."""


def latent_levels(network: NNUNetConfig, hierarchy: Hierarchy) -> tuple[int, ...]:
    """The skip connections that carry latents, finest first.

    Raises:
        ValueError: For levels that the network does not have as skip connections, or
            another number of weights.
    """
    skips = range(len(network.widths) - 1)
    levels = tuple(skips) if hierarchy.levels is None else hierarchy.levels
    if not levels or sorted(set(levels)) != list(levels) or set(levels) - {*skips}:
        raise ValueError(f"levels: {levels}, expected some of {list(skips)}, rising")
    if hierarchy.weights is not None and len(hierarchy.weights) != len(levels):
        raise ValueError(f"weights: {len(hierarchy.weights)} for {len(levels)} levels")
    return levels


class HierarchicalUNet(nn.Module):
    """The network in its parts.

    Attributes:
        network: The U-Net's shape.
        hierarchy: Its latents.
        dtype: Of the arithmetic; log variances, draws and logits are float32.
    """

    network: NNUNetConfig
    hierarchy: Hierarchy
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        network = self.network
        one = (1,) * network.rank
        levels = latent_levels(network, self.hierarchy)
        self.unet = NNUNet(network, self.dtype)
        self.means = {
            f"level{i}": nn.Conv(
                network.widths[i], one, kernel_init=identity, dtype=self.dtype
            )
            for i in levels
        }
        # No kernel at first: what an image says of its uncertainty is to be learned.
        self.log_variances = {
            f"level{i}": nn.Conv(
                network.widths[i],
                one,
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(FIRST_LOG_VARIANCE),
            )
            for i in levels
        }
        if self.hierarchy.kl == "learned_prior":
            self.priors = {
                f"level{i}": self.param(
                    f"prior_level{i}", nn.initializers.zeros, (2, network.widths[i])
                )
                for i in levels
            }

    def posterior(
        self, x: Float[Array, "b *_s _c"]
    ) -> tuple[list[Float[Array, "b ..."]], dict[str, Gaussian]]:
        """Features of every level, finest first, and latents of those that have them.

        Args:
            x: Images.
        """
        features, found = self.unet.encode(x), {}
        for name, conv in self.means.items():
            h = features[int(name.removeprefix("level"))]
            mean = conv(h).astype(jnp.float32)
            spread = self.log_variances[name](h.astype(jnp.float32))
            found[name] = Gaussian(mean, jnp.clip(spread, -LIMIT, LIMIT))
        return features, found

    def prior(self) -> dict[str, Gaussian]:
        """The learned priors of every level."""
        found = {}
        for name, both in self.priors.items():
            found[name] = Gaussian(both[0], jnp.clip(both[1], -LIMIT, LIMIT))
        return found

    def decode(
        self,
        features: Sequence[Float[Array, "b ..."]],
        latents: Mapping[str, Float[Array, "b ..."]],
    ) -> list[Float[Array, "b ..."]]:
        """Logits of every level, finest first.

        Args:
            features: Of every level.
            latents: What takes the place of some of them.
        """
        seen = list(features)
        for name, z in latents.items():
            seen[int(name.removeprefix("level"))] = z.astype(self.dtype)
        return self.unet.classify(self.unet.decode(seen))

    def __call__(self, x: Float[Array, "b *_s _c"]) -> list[Float[Array, "b ..."]]:
        """Logits of every level with all latents at their means."""
        features, found = self.posterior(x)
        if self.hierarchy.kl == "learned_prior":
            self.prior()  # so that its parameters are there
        return self.decode(features, {name: z.mean for name, z in found.items()})


def identity(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """A 1x1 convolution that changes nothing."""
    del key
    return jnp.eye(shape[-2], shape[-1], dtype=dtype).reshape(shape)


def level_divergence(
    posterior: Gaussian, hierarchy: Hierarchy, prior: Gaussian | None = None
) -> Float[Array, ""]:
    """How far a level's latents are from what they are tied to, nats, a mean.

    Args:
        posterior: Of every pixel and channel.
        hierarchy: What it is tied to.
        prior: The learned one, of every channel.
    """
    like = jnp.zeros_like(posterior.mean)
    if hierarchy.kl == "standard":
        return jnp.mean(divergence(posterior, Gaussian(like, like)))
    if hierarchy.kl == "learned_prior":
        assert prior is not None
        wide = (jnp.broadcast_to(p, like.shape) for p in prior)
        return jnp.mean(divergence(posterior, Gaussian(*wide)))
    # The same mean on both sides: variances alone count.
    spread = jnp.full_like(like, 2 * jnp.log(hierarchy.floor))
    both = Gaussian(like, posterior.log_variance), Gaussian(like, spread)
    return jnp.mean(divergence(*both))


def hierarchical_system(config: HierarchicalConfig) -> SegmentationSystem:
    """The system of these settings.

    Raises:
        ValueError: Where network, patch, labels and levels do not fit each other.
    """
    check(config)
    hierarchy = config.hierarchy
    levels = latent_levels(config.network, hierarchy)
    weights = hierarchy.weights or (1.0,) * len(levels)
    module = HierarchicalUNet(config.network, hierarchy, jnp.dtype(config.dtype))

    names = [f"level{i}" for i in levels]

    def init(key: Key, batch: Batch) -> Variables:
        channels = batch["image"].shape[-1]
        found = module.init(key, jnp.zeros((1, *config.patch, channels)))
        return {**found, **drawing(names, names)}

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        augment_key, noise_key = jax.random.split(key)
        images, labels = augmented(batch, augment_key, config)

        def encode(net: HierarchicalUNet) -> Any:
            prior = net.prior() if hierarchy.kl == "learned_prior" else {}
            return *net.posterior(images), prior

        features, found, prior = nn.apply(encode, module)(variables)

        def decoded(seen: list[Array], z: Mapping[str, Array]) -> list[Array]:
            return nn.apply(lambda net: net.decode(seen, z), module)(variables)

        def drawn(key: Key) -> dict[str, Array]:
            return latents(found, key, hierarchy.together)

        strides, count = config.network.strides, hierarchy.draws
        if count == 1:
            logits, level = decoded(features, drawn(noise_key)), dice_and_cross_entropy
        else:
            z = jax.vmap(drawn)(jax.random.split(noise_key, count))
            seen = [jnp.repeat(h, count, axis=0) for h in features]
            logits = decoded(seen, {name: beside(each) for name, each in z.items()})
            logits, level = [apart(each, count) for each in logits], draws_together
        value, metrics = supervised(
            logits, labels, strides, config.labels, config.loss, level
        )
        step, updated = counted(variables)
        metrics = dict(metrics)
        if hierarchy.kl != "none":
            weight = hierarchy.beta * rise(step, hierarchy.warmup, config.steps)
            for (name, posterior), share in zip(found.items(), weights, strict=True):
                each = level_divergence(posterior, hierarchy, prior.get(name))
                metrics[f"kl_{name}"] = each
                value = value + weight * share * each
        for name, posterior in found.items():
            spread = jnp.exp(0.5 * posterior.log_variance)
            metrics[f"deviation_{name}"] = jnp.mean(spread)
        return value, (metrics, updated)

    def sample(
        variables: Variables, patches: Array, key: Key, count: int
    ) -> Float[Array, "m b *s k"]:
        def run(net: HierarchicalUNet) -> tuple[Any, Any]:
            return net.posterior(patches)

        features, found = nn.apply(run, module)(variables)
        shares = variables["drawn"]

        def one(key: Key | None) -> Array:
            def decode(net: HierarchicalUNet) -> Array:
                z = latents(found, key, hierarchy.together, shares)
                return net.decode(features, z)[0]

            return probabilities(nn.apply(decode, module)(variables), config.labels)

        return draws(one, key, count, config.at_once)

    return sampled_system(
        config,
        init=counting(init),
        loss=loss,
        sample=sample,
        shared_key=False,
        parts={name: drawing(names, [name]) for name in names},
    )


def drawing(names: Sequence[str], some: Sequence[str]) -> Variables:
    """The collection that says which levels are drawn: 1, or 0 for its mean.

    It is an input of the compiled program, so that asking for another level compiles
    nothing.

    Args:
        names: Of all levels.
        some: Of those that are drawn.
    """
    return {"drawn": {name: jnp.float32(name in some) for name in names}}
