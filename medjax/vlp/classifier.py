"""Films to findings: a tower with one linear layer, as a system of pure functions.

Two protocols of the field differ in what is trained. A *linear probe* keeps the tower,
its BatchNorm statistics included, as it is: what can be read from its features by a
line (MGCA and its successors). *Full fine-tuning* trains the tower as well, at a lower
rate than the new layer (BenchX). Findings are independent questions unless classes
exclude each other (COVIDx); a label that is not known takes no part in the loss.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from medjax.nn.normalization import LayerNorm
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.train.system import Apply
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.augment import AugmentConfig, augment, evaluate, evaluation
from medjax.vlp.towers import ImageTower, ImageTowerConfig

Augmentation = Literal["light", "none"]


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """What is trained, and on what views of a film."""

    augment: AugmentConfig
    """Size and normalisation as the tower knows them, and what may happen to a film."""
    train_tower: bool = True
    """Fine-tune the tower; False: a linear probe of its features."""
    normalise_features: bool = False
    """Layer-normalise the tower's features before the linear layer."""
    exclusive: bool = False
    """Classes exclude each other: softmax in place of one sigmoid per finding."""


def recipe(known: AugmentConfig, augmentation: Augmentation) -> AugmentConfig:
    """A recipe of the size, crop and normalisation that a tower was trained with.

    Nothing of it is anatomically odd, whatever the pre-training did: no flips, no
    quarter turns.

    Args:
      known: of the tower's own training.
      augmentation: ``light``: crops, small turns, brightness and contrast. ``none``.
    """
    if augmentation == "none":
        return evaluation(known)
    return AugmentConfig(
        size=known.size,
        upsample=known.upsample,
        crop_area=known.crop_area,
        crop_aspect=known.crop_aspect,
        rotation=(-10.0, 10.0),
        brightness=(0.8, 1.2),
        contrast=(0.8, 1.2),
        normalise=known.normalise,
    )


class Classifier(nn.Module):
    """The tower and the layer."""

    config: ClassifierConfig
    image_config: ImageTowerConfig
    classes: int

    def setup(self) -> None:
        self.image = ImageTower(self.image_config)
        if self.config.normalise_features:
            self.norm = LayerNorm()
        self.head = nn.Dense(self.classes)

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b k"]:
        """Initialises every parameter."""
        return self.logits(self.features(image))

    def features(
        self, image: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b d"]:
        """What the tower knows."""
        return self.image(image, train=train).pooled

    def logits(self, features: Float[Array, "b d"]) -> Float[Array, "b k"]:
        """What the layer makes of it."""
        known = self.norm(features) if self.config.normalise_features else features
        return self.head(known)


def classification_loss(
    logits: Float[Array, "b k"], labels: Float[Array, "b k"], *, exclusive: bool
) -> Float[Array, ""]:
    """Mean cross-entropy over what is known.

    Args:
      logits: of each class.
      labels: 1, 0, or NaN for unknown.
      exclusive: one softmax over the classes, of films of which all labels are known;
        else one sigmoid per class, over all known labels.
    """
    known = ~jnp.isnan(labels)
    labels = jnp.where(known, labels, 0.0)
    if exclusive:
        cost = -jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1)
        counts = jnp.all(known, axis=-1)
    else:
        cost = optax.sigmoid_binary_cross_entropy(logits, labels)
        counts = known
    total = jnp.sum(jnp.where(counts, cost, 0.0))
    return total / jnp.maximum(jnp.sum(counts), 1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class ClassifierSystem:
    """A classifier as pure functions of its variables.

    Attributes:
      init: key and batch to variables.
      loss: variables, batch and key to the loss and (metrics, updated non-parameters).
      features: uint8 films to what the tower knows.
      logits: films, or their features, of a batch to logits.
      predict: uint8 films to the probability of each class.
      frozen: regular expressions of parameters that are not trained.
    """

    init: Init
    loss: Loss
    features: Callable[[Variables, Array], Array]
    logits: Callable[[Variables, Batch], Array]
    predict: Callable[[Variables, Array], Array]
    frozen: tuple[str, ...]

    @property
    def apply(self) -> dict[str, Apply]:
        """What a trained one can do, by name."""
        return {"features": self.features, "predict": self.predict}


def classifier(
    config: ClassifierConfig, image: ImageTowerConfig, classes: int
) -> ClassifierSystem:
    """A classifier of films.

    Args:
      config: what is trained.
      image: the tower.
      classes: of findings or classes.

    Returns:
      A system that reads ``image`` and ``labels`` of a batch; a linear probe takes
      ``features`` in place of ``image``.
    """
    module = Classifier(config, image, classes)

    def features(variables: Variables, films: UInt8[Array, "b h w"]) -> Any:
        seen = evaluate(films, config.augment)
        return module.apply(variables, seen, method="features")

    def logits(variables: Variables, batch: Batch) -> Any:
        known = batch.get("features")
        if known is None:
            known = features(variables, batch["image"])
        return module.apply(variables, known, method="logits")

    def init(key: Key, batch: Batch) -> Variables:
        size = config.augment.size
        return module.init(key, jnp.zeros((2, size, size, 3)))

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        updated: Any = {}
        known: Any = batch.get("features")
        if known is None:
            view = augment(batch["image"], config.augment, key=key)
            if config.train_tower:
                known, updated = module.apply(
                    variables,
                    view,
                    train=True,
                    method="features",
                    mutable=["batch_stats"],
                )
            else:
                known = module.apply(variables, view, method="features")
        found: Any = module.apply(variables, known, method="logits")
        cost = classification_loss(found, batch["labels"], exclusive=config.exclusive)
        return cost, ({}, updated)

    def predict(variables: Variables, films: UInt8[Array, "b h w"]) -> Array:
        found = logits(variables, {"image": films})
        return jax.nn.softmax(found) if config.exclusive else jax.nn.sigmoid(found)

    return ClassifierSystem(
        init=init,
        loss=loss,
        features=features,
        logits=logits,
        predict=predict,
        frozen=() if config.train_tower else ("^image/",),
    )
