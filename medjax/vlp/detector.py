"""Films to boxes: YOLOv3's head on three maps of a trained tower, one kind of object.

Redmon, Farhadi, "YOLOv3: An Incremental Improvement", 2018, as the downstream tables of
this field use it (MGCA and its successors). At each of three scales a cell answers for
boxes whose middle it holds: where in the cell, how much larger or smaller than each of
three anchors, how sure. A box is asked of every scale, from the anchor nearest to it in
shape; other anchors of its cell that overlap it by half are not told that there is
nothing. Weights: place and size 2.5, presence 1, absence 0.5. (YOLOv3's paper asks the
nearest of all nine anchors alone, and spares predictions, not anchors, that overlap.)

Against the released code: overlaps are those of boxes, not of pixels counted from both
ends; the anchor that is asked for a box is not also told that there is none; boxes are
not divided by the size of the film once more in every epoch; a frozen tower keeps the
statistics of its BatchNorms (``moving_statistics`` lets them go on).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, UInt8

from medjax.metrics.detection import iou
from medjax.nn.normalization import BatchNorm
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.augment import AugmentConfig, augment, evaluate
from medjax.vlp.place_system import PlaceSystem
from medjax.vlp.towers import ImageTower, ImageTowerConfig

ANCHORS = (
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
"""Width and height on a film of 416 pixels, coarsest map first."""
ANCHOR_SIZE = 416
CANDIDATES = 100
"""Of a film, the surest, before those that overlap a surer one are dropped."""


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """What is trained, and what is taken for found."""

    augment: AugmentConfig
    """Size and normalisation as the tower knows them; films are not moved."""
    train_tower: bool = True
    """Fine-tune the tower; False: the head alone."""
    moving_statistics: bool = False
    """BatchNorms of a tower that is kept see each batch, and their statistics move."""
    width: int = 512
    """Of the coarsest branch; each finer one has half of the one before."""
    confidence: float = 0.5
    """What is less sure is not found."""
    overlap: float = 0.5
    """IoU with a surer one, from which on a box is the same."""


class Head(nn.Module):
    """Three maps, coarsest first, to raw answers of every cell and anchor."""

    width: int

    @nn.compact
    def __call__(
        self, maps: tuple[Float[Array, "b _ _ _"], ...], *, train: bool
    ) -> list[Float[Array, "b _g _g 3 6"]]:
        def convolve(x: Array, features: int, size: int, name: str) -> Array:
            x = nn.Conv(features, (size, size), use_bias=False, name=name)(x)
            return nn.leaky_relu(BatchNorm(name=f"{name}_bn")(x, train=train), 0.1)

        answers, below = [], None
        for scale, x in enumerate(maps):
            width = self.width // 2**scale
            if below is not None:
                below = convolve(below, width, 1, f"join{scale}")
                below = below.repeat(2, axis=1).repeat(2, axis=2)
                below = below[:, : x.shape[1], : x.shape[2]]
                x = jnp.concatenate([below, x], axis=-1)
            for i in range(6):
                features, size = (2 * width, 3) if i % 2 else (width, 1)
                x = convolve(x, features, size, f"scale{scale}_conv{i}")
                below = x if i == 4 else below
            x = nn.Conv(18, (1, 1), name=f"scale{scale}_out")(x)
            answers.append(x.reshape(*x.shape[:3], 3, 6).astype(jnp.float32))
        return answers


class Detector(nn.Module):
    """The tower and its head."""

    config: DetectorConfig
    image_config: ImageTowerConfig

    @nn.compact
    def __call__(
        self, film: Float[Array, "b h w 3"], *, train: bool = False
    ) -> list[Float[Array, "b _g _g 3 6"]]:
        """Answers by scale: x, y, width, height, presence and kind."""
        tower = ImageTower(self.image_config, name="image")
        moves = self.config.train_tower or self.config.moving_statistics
        seen = tower(film, train=train and moves)
        return Head(self.config.width, name="head")(seen.maps[:0:-1], train=train)


def detection_loss(
    answers: list[Float[Array, "b _g _g 3 6"]], boxes: Float[Array, "b n 4"], size: int
) -> Float[Array, ""]:
    """The sum over scales of what is wrong with places, sizes, presence and kind.

    Args:
      answers: of :class:`Detector`.
      boxes: x0 y0 x1 y1 in pixels of the film; rows of zeros are none.
      size: of the film.
    """
    total = jnp.zeros(())
    entropy = optax.sigmoid_binary_cross_entropy
    for said, anchors in zip(answers, ANCHORS, strict=True):
        asked, spared, wanted = targets(boxes, anchors, said.shape[1], size)
        place = jnp.sum(entropy(said[..., :2], wanted[..., :2]), axis=-1)
        extent = jnp.sum(jnp.square(said[..., 2:4] - wanted[..., 2:4]), axis=-1)
        there = entropy(said[..., 4], jnp.ones(()))
        absent = entropy(said[..., 4], jnp.zeros(()))
        kind = entropy(said[..., 5], jnp.ones(()))
        cost = jnp.where(asked, 2.5 * (place + extent) + there + kind, 0.0)
        total += jnp.mean(cost + jnp.where(asked | spared, 0.0, 0.5 * absent))
    return total


def targets(
    boxes: Float[Array, "b n 4"], anchors: tuple, grid: int, size: int
) -> tuple[Bool[Array, "b g g 3"], Bool[Array, "b g g 3"], Float[Array, "b g g 3 4"]]:
    """What one scale is asked: by whom, who is spared, and place and size.

    Returns:
      Where a box is asked of an anchor, where an anchor is not told that there is
      nothing, and x, y in the cell, log width and height over the anchor's. Of two
      boxes of one cell and anchor the later one counts.
    """
    shape = jnp.asarray(anchors, jnp.float32) * (grid / ANCHOR_SIZE)
    middle = (boxes[..., :2] + boxes[..., 2:]) * (0.5 * grid / size)
    extent = (boxes[..., 2:] - boxes[..., :2]) * (grid / size)
    real = jnp.all(extent > 0, axis=-1)
    extent = jnp.where(real[..., None], extent, 1.0)
    both = jnp.prod(jnp.minimum(extent[:, :, None], shape[None, None]), axis=-1)
    either = jnp.prod(extent, -1)[..., None] + jnp.prod(shape, -1)[None, None] - both
    likeness = both / either
    best = jnp.argmax(likeness, axis=-1)
    cell = jnp.clip(middle.astype(jnp.int32), 0, grid - 1)
    x, y = cell[..., 0], cell[..., 1]
    within = middle - cell.astype(jnp.float32)
    ratio = jnp.log(extent[:, :, None] / shape[None, None])
    b = boxes.shape[0]
    asked = jnp.zeros((b, grid, grid, 3), bool)
    state = asked, asked, jnp.zeros((b, grid, grid, 3, 4))
    places = jnp.arange(grid)

    def put(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        # By comparison: a scatter has films as an index, and would fetch the batch.
        asked, spared, wanted = state
        row = places[None, :, None] == y[:, i, None, None]
        column = places[None, None, :] == x[:, i, None, None]
        here = (row & column & real[:, i, None, None])[..., None]
        mine = jnp.arange(3)[None] == best[:, i, None]
        own = jnp.take_along_axis(ratio[:, i], best[:, i, None, None], axis=1)[:, 0]
        value = jnp.concatenate([within[:, i], own], axis=-1)
        at = here & mine[:, None, None]
        return (
            asked | at,
            spared | (here & (likeness[:, i] > 0.5)[:, None, None]),
            jnp.where(at[..., None], value[:, None, None, None], wanted),
        )

    return jax.lax.fori_loop(0, boxes.shape[1], put, state)


def decode(
    answers: list[Float[Array, "b _g _g 3 6"]], size: int
) -> tuple[Float[Array, "b n 4"], Float[Array, "b n"]]:
    """All boxes of all cells, x0 y0 x1 y1 in pixels, and how sure each is."""
    boxes, scores = [], []
    for said, anchors in zip(answers, ANCHORS, strict=True):
        grid = said.shape[1]
        at = jnp.arange(grid, dtype=jnp.float32)
        cell = jnp.stack(jnp.meshgrid(at, at), axis=-1)[None, :, :, None]
        middle = (jax.nn.sigmoid(said[..., :2]) + cell) * (size / grid)
        shape = jnp.asarray(anchors, jnp.float32) * (size / ANCHOR_SIZE)
        half = 0.5 * jnp.exp(said[..., 2:4]) * shape[None, None, None]
        box = jnp.concatenate([middle - half, middle + half], axis=-1)
        boxes.append(box.reshape(len(box), -1, 4))
        scores.append(jax.nn.sigmoid(said[..., 4]).reshape(len(box), -1))
    return jnp.concatenate(boxes, axis=1), jnp.concatenate(scores, axis=1)


def surest(
    answers: list[Float[Array, "b _g _g 3 6"]], size: int, config: DetectorConfig
) -> Float[Array, "b n 5"]:
    """What is taken for found: boxes within the film and how sure they are.

    Args:
      answers: of :class:`Detector`.
      size: of the film.
      config: from when on something is found, and is the same.

    Returns:
      x0 y0 x1 y1 in pixels and the score, the surest first; 0 for what is not found.
    """
    boxes, scores = decode(answers, size)
    scores, which = jax.lax.top_k(scores, min(CANDIDATES, scores.shape[1]))
    # Cut to the film before they are compared: what is told apart is what is handed
    # out, and a size that overflowed is not compared as infinite.
    boxes = jnp.clip(jnp.take_along_axis(boxes, which[..., None], axis=1), 0.0, size)
    kept = jax.vmap(lambda b, s: distinct(b, s, config.overlap))(boxes, scores)
    kept = jnp.where(kept >= config.confidence, kept, 0.0)
    return jnp.concatenate([boxes, kept[..., None]], axis=-1)


def distinct(
    boxes: Float[Array, "n 4"], scores: Float[Array, " n"], overlap: float
) -> Float[Array, " n"]:
    """Scores, zero where a box overlaps a surer one that is kept.

    Args:
      boxes: the surest first.
      scores: descending.
      overlap: IoU from which on two are the same.
    """
    same = iou(boxes, boxes) >= overlap
    behind = jnp.arange(len(scores))

    def one(i: Array, kept: Bool[Array, " n"]) -> Bool[Array, " n"]:
        return kept & ~(kept[i] & same[i] & (behind > i))

    kept = jax.lax.fori_loop(0, len(scores), one, jnp.ones(len(scores), bool))
    return jnp.where(kept, scores, 0.0)


def detector(config: DetectorConfig, image: ImageTowerConfig) -> PlaceSystem:
    """A detector of one kind of object.

    Args:
      config: what is trained.
      image: the tower, a ResNet: the head reads its last three stages.

    Returns:
      A system that reads ``image`` and ``boxes`` of a batch, in pixels of the stored
      film, rows of zeros for none.

    Raises:
      ValueError: the image tower has no stages.
    """
    if not image.architecture.startswith("resnet"):
        raise ValueError(
            "image.architecture: boxes are found on three stages of a ResNet, got "
            f"{image.architecture!r}"
        )
    module, size = Detector(config, image), config.augment.size

    def init(key: Key, batch: Batch) -> Variables:
        return module.init(key, jnp.zeros((2, size, size, 3)))

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        answers, updated = module.apply(
            variables,
            augment(batch["image"], config.augment, key=key),
            train=True,
            mutable=["batch_stats"],
        )
        boxes = batch["boxes"] * (size / batch["image"].shape[1])
        return detection_loss(answers, boxes, size), ({}, updated)

    def find(variables: Variables, films: UInt8[Array, "b h w"]) -> Array:
        answers: Any = module.apply(variables, evaluate(films, config.augment))
        found = surest(answers, size, config)
        return found.at[..., :4].multiply(films.shape[1] / size)

    return PlaceSystem(
        init=init,
        loss=loss,
        find=find,
        frozen=() if config.train_tower else ("^image/",),
    )
