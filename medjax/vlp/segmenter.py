"""Films to masks: a decoder on a trained tower, as a system of pure functions.

The decoder is that of U-Net on a classification network, as the downstream tables of
this field use it (MGCA and its successors take ``segmentation_models_pytorch``): from
the coarsest map upwards, each step doubles the size by repetition, joins the map of the
tower that has it, and convolves twice. A ViT has one map; it comes up by transposed
convolutions, as SETR's (Zheng et al., CVPR 2021).

The loss is MGCA's: 10 times the focal loss (gamma 2) minus the logarithm of the soft
Dice of the batch (1 added to both sides). With a frozen tower the BatchNorms of the
tower keep their statistics; the released code lets them move (``moving_statistics``),
for which there is no reason, since it is the tower that is measured.

BenchX takes a UperNet instead (:mod:`medjax.vlp.upernet`), and the loss of its ViT's
settings is taken with it (those of its ResNets could not be found): half the focal loss
plus 3 times one minus the Dice of each film, squares in its denominator (Milletari et
al., 3DV 2016), and 0.4 times the same of the shallow head. It has one logit per pixel
where BenchX has one for the lesion and one for what it is not.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, UInt8

from medjax.nn.normalization import BatchNorm
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.augment import AugmentConfig, augment_by, augment_masks, draws, evaluate
from medjax.vlp.place_system import PlaceSystem
from medjax.vlp.towers import ImageFeatures, ImageTower, ImageTowerConfig
from medjax.vlp.upernet import Pyramid, Shallow, UperNet, resized

Head = Literal["unet", "upernet"]
SHALLOW = 0.4
"""Weight of the loss of UperNet's shallow head."""


@dataclasses.dataclass(frozen=True)
class SegmenterConfig:
    """What is trained, and on what views of a film."""

    augment: AugmentConfig
    """Size and normalisation as the tower knows them, and what may happen to a film."""
    train_tower: bool = True
    """Fine-tune the tower; False: the decoder alone."""
    moving_statistics: bool = False
    """BatchNorms of a tower that is kept see each batch, and their statistics move."""
    head: Head = "unet"
    """What stands on the tower, and whose loss: MGCA's or BenchX's."""
    widths: tuple[int, ...] = (256, 128, 64, 32, 16)
    """Channels of the decoder, coarsest first; UperNet has the first throughout."""
    focal: float = 10.0
    """Weight of the focal loss in MGCA's."""


class Masks(NamedTuple):
    """One logit per pixel."""

    logits: Float[Array, "b size size"]
    shallow: Float[Array, "b size size"] | None = None
    """Of UperNet's second head, which training alone asks for."""


class Decoder(nn.Module):
    """Maps of a tower to one logit per pixel."""

    widths: Sequence[int]
    size: int

    @nn.compact
    def __call__(
        self, seen: ImageFeatures, *, train: bool
    ) -> Float[Array, "b size size"]:
        """Comes up from the coarsest map."""
        if seen.maps:
            *skips, x = (*(m for m in (seen.stem,) if m is not None), *seen.maps)
            x = self._climb(x, skips, train)
        else:
            x = self._transpose(seen.local, train)
        logits = nn.Conv(1, (3, 3), padding=1, name="head")(x)
        return logits[:, : self.size, : self.size, 0].astype(jnp.float32)

    def _climb(self, x: Array, skips: Sequence[Array], train: bool) -> Array:
        coarse_first = [*reversed(skips), *[None] * len(self.widths)]
        for i, (width, skip) in enumerate(zip(self.widths, coarse_first, strict=False)):
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            if skip is not None:
                # A map of odd size was rounded up on its way down.
                x = x[:, : skip.shape[1], : skip.shape[2]]
                x = jnp.concatenate([x, skip], axis=-1)
            for j in (1, 2):
                name = f"up{i}_conv{j}"
                x = nn.Conv(width, (3, 3), padding=1, use_bias=False, name=name)(x)
                x = nn.relu(BatchNorm(name=f"up{i}_bn{j}")(x, train=train))
        return x

    def _transpose(self, x: Array, train: bool) -> Array:
        for i in range(math.ceil(math.log2(self.size / x.shape[1]))):
            width = self.widths[min(i, len(self.widths) - 1)]
            x = nn.ConvTranspose(width, (2, 2), (2, 2), name=f"up{i}")(x)
            x = nn.relu(BatchNorm(name=f"up{i}_bn")(x, train=train))
        return x


class Segmenter(nn.Module):
    """The tower and what stands on it."""

    config: SegmenterConfig
    image_config: ImageTowerConfig

    @nn.compact
    def __call__(self, film: Float[Array, "b h w 3"], *, train: bool = False) -> Masks:
        """One logit per pixel."""
        config, size = self.config, film.shape[1:3]
        pyramid = config.head == "upernet"
        tower = ImageTower(self.image_config, deep=pyramid, name="image")
        moves = config.train_tower or config.moving_statistics
        seen = tower(film, train=train and moves)
        if not pyramid:
            decoder = Decoder(config.widths, film.shape[1], name="decoder")
            return Masks(decoder(seen, train=train))
        maps = seen.maps
        if maps[0].shape == maps[-1].shape:  # of a ViT
            maps = Pyramid(name="pyramid")(maps, train=train)
        width = config.widths[0]
        found = UperNet(width, name="decoder")(maps, train=train)
        shallow = Shallow(width // 2, name="shallow")(maps[2], train=train)
        return Masks(resized(found, size), resized(shallow, size))


def segmentation_loss(
    logits: Float[Array, "b h w"], mask: Bool[Array, "b h w"], *, focal: float
) -> Float[Array, ""]:
    """``focal`` times the focal loss minus the logarithm of the batch's soft Dice."""
    truth = mask.astype(jnp.float32)
    said = jax.nn.sigmoid(logits)
    both, sizes = jnp.sum(said * truth), jnp.sum(said) + jnp.sum(truth)
    dice = (2.0 * both + 1.0) / (sizes + 1.0)
    return focal * focal_loss(logits, truth) - jnp.log(dice)


def benchx_loss(
    logits: Float[Array, "b h w"], mask: Bool[Array, "b h w"]
) -> Float[Array, ""]:
    """Half the focal loss and 3 times one minus each film's Dice, squares below."""
    truth = mask.astype(jnp.float32)
    said = jax.nn.sigmoid(logits)
    both = jnp.sum(said * truth, axis=(1, 2))
    sizes = jnp.sum(said**2 + truth, axis=(1, 2))
    dice = 2.0 * both / (sizes + 2e-3)
    return 0.5 * focal_loss(logits, truth) + 3.0 * jnp.mean(1.0 - dice)


def focal_loss(
    logits: Float[Array, "b h w"], truth: Float[Array, "b h w"]
) -> Float[Array, ""]:
    """Cross-entropy, weighted by the squared probability of the wrong answer."""
    entropy = optax.sigmoid_binary_cross_entropy(logits, truth)
    # What is sure already counts little.
    wrong = jnp.exp(2.0 * jax.nn.log_sigmoid(-logits * (2.0 * truth - 1.0)))
    return jnp.mean(wrong * entropy)


def segmenter(config: SegmenterConfig, image: ImageTowerConfig) -> PlaceSystem:
    """A segmenter of films.

    Args:
      config: what is trained.
      image: the tower.

    Returns:
      A system that reads ``image`` and ``mask`` (bool) of a batch.
    """
    module = Segmenter(config, image)

    def init(key: Key, batch: Batch) -> Variables:
        size = config.augment.size
        return module.init(key, jnp.zeros((2, size, size, 3)))

    def judged(logits: Array, mask: Array) -> Array:
        if config.head == "upernet":
            return benchx_loss(logits, mask)
        return segmentation_loss(logits, mask, focal=config.focal)

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        drawn = draws(key, len(batch["image"]))
        found, updated = module.apply(
            variables,
            augment_by(batch["image"], config.augment, drawn),
            train=True,
            rngs={"dropout": jax.random.fold_in(key, 1)},
            mutable=["batch_stats"],
        )
        mask = augment_masks(batch["mask"], config.augment, drawn)
        total = judged(found.logits, mask)
        if found.shallow is not None:
            total += SHALLOW * judged(found.shallow, mask)
        return total, ({}, updated)

    def find(variables: Variables, films: UInt8[Array, "b h w"]) -> Array:
        found: Any = module.apply(variables, evaluate(films, config.augment))
        return jax.nn.sigmoid(found.logits)

    return PlaceSystem(
        init=init,
        loss=loss,
        find=find,
        frozen=() if config.train_tower else ("^image/",),
    )
