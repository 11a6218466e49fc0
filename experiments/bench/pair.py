"""Our side of the comparison: the training step that every experiment runs.

ConVIRT without blur stands for all contrastive systems: one view, one whole report, two
MLP heads, both directions of contrast.

The report tower comes in three kinds: ``trainable``; ``frozen`` (a forward pass in
every step, no gradient), and ``cached`` (frozen, and its features come with the batch,
as IMITATE and M-FLAG train here).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.bench.compiled import CompiledStep
from medjax.nn.bert import BERTS, BertConfig
from medjax.train.optimizer import OptimizerConfig
from medjax.train.step import Loss
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.augment import AugmentConfig, augment
from medjax.vlp.contrastive import contrast, normalise
from medjax.vlp.convirt import Convirt, ConvirtConfig, convirt
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

Text = Literal["trainable", "frozen", "cached"]
DType = Literal["float32", "bfloat16"]

OPTIMIZER = OptimizerConfig(lr=1e-4, weight_decay=0.05, clip_norm=1.0)
"""Of both sides."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What both sides compute."""

    image: Literal["resnet18", "resnet50", "resnet_tiny"]
    bert: BertConfig
    image_size: int
    """Side of the network's input; films are stored 8/7 as large."""
    batch_size: int
    tokens: int
    dropout: float
    """In a trainable report tower."""

    @property
    def stored_size(self) -> int:
        """Side of the films in a batch."""
        return self.image_size * 8 // 7

    @property
    def recipe(self) -> AugmentConfig:
        """Augmentation of both sides: what one bilinear gather and two factors can."""
        return AugmentConfig(
            size=self.image_size,
            crop_area=(0.6, 1.0),
            flip_horizontal=0.5,
            rotation=(-20.0, 20.0),
            brightness=(0.6, 1.4),
            contrast=(0.6, 1.4),
        )

    def convirt(self) -> ConvirtConfig:
        """The system of both sides."""
        return ConvirtConfig(text="report", frozen_text_layers=0, augment=self.recipe)


def make_sizes(
    image: Literal["resnet18", "resnet50", "resnet_tiny"],
    text: Literal["base", "tiny"],
    *,
    layers: int,
    image_size: int,
    batch_size: int,
    tokens: int,
    dropout: float,
) -> Sizes:
    """`Sizes` with a BERT of so many layers."""
    bert = dataclasses.replace(BERTS[text], num_hidden_layers=layers)
    return Sizes(image, bert, image_size, batch_size, tokens, dropout)


def invent_batch(sizes: Sizes, seed: int) -> dict[str, np.ndarray]:
    """Noise for films, and reports of half to all of the tokens."""
    rng = np.random.default_rng(seed)
    b, side, n = sizes.batch_size, sizes.stored_size, sizes.tokens
    ids = rng.integers(5, sizes.bert.vocab_size, (b, n))
    lengths = rng.integers(n // 2, n + 1, (b, 1))
    return {
        "image": rng.integers(0, 256, (b, side, side), dtype=np.uint8),
        "report": np.where(np.arange(n) < lengths, ids, 0).astype(np.int32),
    }


def compare_features(module: Convirt, seen: Any, told: Any) -> tuple[Any, Any]:
    """What the towers know, in the shared space; a method to `apply`."""
    x, y = module.image_head(seen, train=True), module.text_head(told, train=True)
    return normalise(x), normalise(y)


def weigh(config: ConvirtConfig, x: jax.Array, y: jax.Array) -> jax.Array:
    """ConVIRT's sum of both directions of contrast."""
    to_text, to_image = contrast(x, y, temperature=config.temperature)
    return config.image_to_text * to_text + config.text_to_image * to_image


def cached_loss(module: Convirt) -> Loss:
    """ConVIRT's loss with ``report_features`` in place of ``report``."""
    c = module.config

    def compare(module: Convirt, image: Any, features: Any) -> Any:
        seen = module.image(image, train=True).pooled
        return compare_features(module, seen, features)

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[jax.Array, tuple[Metrics, Variables]]:
        view = augment(batch["image"], c.augment, key=jax.random.split(key)[0])
        embedded: Any
        embedded, updated = module.apply(
            variables,
            view,
            batch["report_features"],
            method=compare,
            mutable=["batch_stats"],
        )
        return weigh(c, *embedded), ({}, updated)

    return loss


class OurStep(CompiledStep):
    """The compiled training step of the pair, with its state.

    Args:
      sizes: What to compute.
      dtype: Of the computation in the towers.
      text: What becomes of the report tower.
      host: The batch.
      folder: Where the report tower's sizes may be written.
      mesh: Devices; each call must be under ``jax.set_mesh`` of it.
      seed: Of weights and draws.
    """

    def __init__(
        self,
        sizes: Sizes,
        dtype: DType,
        text: Text,
        host: dict[str, np.ndarray],
        folder: Path,
        mesh: Mesh,
        seed: int,
    ) -> None:
        self.sizes, self.text = sizes, text
        rate = sizes.dropout if text == "trainable" else 0.0
        bert = dataclasses.replace(
            sizes.bert, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate
        )
        # The tower reads its sizes, dropout among them, from a checkpoint's folder.
        source = folder / f"bert-dropout-{rate}"
        source.mkdir(parents=True, exist_ok=True)
        (source / "config.json").write_text(json.dumps(bert.to_dict()))
        towers = (
            ImageTowerConfig(sizes.image, dtype=dtype),
            TextTowerConfig(
                checkpoint=str(source), max_length=sizes.tokens, dtype=dtype
            ),
        )
        system = convirt(sizes.convirt(), *towers)
        self.module = Convirt(sizes.convirt(), *towers)
        frozen = () if text == "trainable" else ("^text/",)
        super().__init__(system.init, OPTIMIZER, host, mesh, seed, frozen)
        if text == "cached":
            features = jax.jit(system.text_features)(
                self.state.variables, self.batch["report"]
            )
            self.batch = {"image": self.batch["image"], "report_features": features}
            self.host = {k: np.asarray(v) for k, v in self.batch.items()}
        self.compile(cached_loss(self.module) if text == "cached" else system.loss)

    def images(self) -> np.ndarray:
        """The view that the next step will draw, ``[b, h, w, 3]``."""
        key = jax.random.fold_in(self.key, int(self.state.step))
        view = augment(
            self.batch["image"], self.sizes.recipe, key=jax.random.split(key)[0]
        )
        return np.asarray(view)
