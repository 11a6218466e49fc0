"""Segmentation by nnU-Net: the system that all others of this domain stand beside.

A system of this domain is four pure functions. Two train it (``init``, ``loss``, as the
shared loop has them); ``tile`` is what a trained one says of patches, by name, in
quantities that may be averaged over overlapping tiles (:mod:`.inference`); ``finish``
turns their averages into what is written: always ``probability``, and maps of
uncertainty where there are any. A system that has several answers gives them by
``sample`` (:mod:`.sampled`). A batch holds sources of patches, ``image`` ``b *s c``
and ``label`` ``b *s``, which are augmented and cut on the device.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.nn.nnunet import Axes, NNUNet, NNUNetConfig
from medjax.segmentation.augment import AugmentConfig, augment
from medjax.segmentation.inference import Tile
from medjax.segmentation.labels import Labels
from medjax.segmentation.losses import LossConfig, supervised
from medjax.train.sharding import DEFAULT_RULES, Rules
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.train.system import Apply
from medjax.typing import Batch, Key, Metrics, Variables

Maps = Mapping[str, Array]
"""Name to ``*s q``."""

Sample = Callable[[Variables, Array, Key, int], Float[Array, "m b *s k"]]
"""``sample(variables, patches b *s c, key, count)``: probabilities of draws, at most
``count`` of them where there are no more; for 0, of one answer without a draw."""


@dataclasses.dataclass(frozen=True)
class SegmentationConfig:
    """One network, its loss and its augmentation."""

    network: NNUNetConfig
    """The network."""
    patch: Axes
    """What it sees, voxels."""
    channels: int
    """Of the image."""
    labels: Labels
    """What it says."""
    loss: LossConfig = LossConfig()
    """Terms."""
    augment: AugmentConfig = AugmentConfig()
    """Of training."""
    blend: Literal["probability", "logits"] = "logits"
    """What overlapping tiles and mirror images are averaged in."""
    dtype: str = "float32"
    """Of the network's arithmetic."""


@dataclasses.dataclass(frozen=True)
class SegmentationSystem:
    """A segmentation as pure functions of its variables.

    Attributes:
        init: Key and batch to variables.
        loss: Variables, batch and key to the loss and (metrics, updated collections).
        tile: Variables, patches and key to quantities that may be averaged.
        finish: Their averages to ``probability`` and maps of uncertainty.
        shared_key: Whether all tiles of a volume need the same key.
        frozen: Regular expressions of parameters that are not trained.
        sample: Several answers, of systems that have them.
        parts: Collections of variables with which one part of what can be drawn is
            drawn alone, by name.
        rules: Where parameters lie.
    """

    init: Init
    loss: Loss
    tile: Tile
    finish: Callable[[Maps], Maps]
    shared_key: bool = False
    frozen: tuple[str, ...] = ()
    sample: Sample | None = None
    parts: Mapping[str, Variables] = dataclasses.field(default_factory=dict)
    rules: Rules = DEFAULT_RULES

    @property
    def apply(self) -> dict[str, Apply]:
        """What a trained one can do, by name."""

        def probability(variables: Variables, patches: Array) -> Any:
            found = self.tile(variables, patches, jax.random.key(0))
            return self.finish(found)["probability"]

        return {"probability": probability}


def segmentation_system(config: SegmentationConfig) -> SegmentationSystem:
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
    ) -> tuple[Float[Array, ""], tuple[Metrics, Variables]]:
        images, labels = augmented(batch, key, config)
        levels: Any = network.apply(variables, images, method="levels")
        value, metrics = supervised(
            levels, labels, config.network.strides, config.labels, config.loss
        )
        return value, (metrics, {})

    def tile(variables: Variables, patches: Array, key: Key) -> dict[str, Array]:
        logits = jnp.asarray(network.apply(variables, patches))
        if config.blend == "logits":
            return {"logits": logits}
        return {"probability": probabilities(logits, config.labels)}

    def finish(averages: Maps) -> Maps:
        if "logits" in averages:
            return {"probability": probabilities(averages["logits"], config.labels)}
        return averages

    return SegmentationSystem(init, loss, tile, finish)


def augmented(
    batch: Batch, key: Key, config: SegmentationConfig
) -> tuple[Float[Array, "b *p c"], Int[Array, "b *p"]]:
    """Patches out of the sources of a batch, for losses of this domain."""
    return augment(
        batch["image"],
        batch["label"],
        key,
        patch=config.patch,
        config=config.augment,
        count=config.labels.count,
    )


def probabilities(logits: Float[Array, "*s k"], labels: Labels) -> Float[Array, "*s k"]:
    """Softmax over classes, or a sigmoid for each region."""
    if labels.regions:
        return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits)


def check(config: SegmentationConfig) -> None:
    """Refuses settings that do not fit each other.

    Raises:
        ValueError: Naming them.
    """
    network, channels = config.network, config.labels.channels
    if network.out_channels != channels:
        raise ValueError(
            f"network: {network.out_channels} output channels for {channels} "
            f"({', '.join(config.labels.names)})"
        )
    divisor = network.divisor
    if len(config.patch) != network.rank or any(
        n % d for n, d in zip(config.patch, divisor, strict=True)
    ):
        raise ValueError(
            f"patch: {config.patch}, expected multiples of the strides {divisor}"
        )
