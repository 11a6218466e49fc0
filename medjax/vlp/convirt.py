"""ConVIRT: contrastive learning of radiographs and reports, the method others build on.

Zhang, Jiang, Miura, Manning, Langlotz, "Contrastive Learning of Medical Visual
Representations from Paired Images and Text", MLHC 2022, arXiv 2010.00747.

An image tower and a report tower, each with a small head, are trained so that a
radiograph is nearer to its own report than to any other of the batch, and the report
to its own radiograph (weights lambda and 1 - lambda).

Presets: ``paper`` (one-hidden-layer heads, one random sentence of the report,
max-pooled tokens, lower six layers of the report tower frozen), ``repo`` (a widely
used third-party PyTorch version: mean-pooled tokens; it computes the report head
without gradient, so that nothing of the report's side ever learns, which
``train_text=False`` reproduces) and ``mgca`` (the variant behind the baseline numbers
of later papers of this field: BatchNorm heads of width 128, temperature 0.07, whole
report, both directions added).
"""

import dataclasses
from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float, Int

from medjax.train.mesh import Statistics
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.augment import AUGMENTATIONS, AugmentConfig
from medjax.vlp.contrastive import ContrastConfig, contrast, normalise
from medjax.vlp.heads import MlpHead, ProjectionHead
from medjax.vlp.system import (
    PretrainingSystem,
    TwoTower,
    compare_one_view,
    two_tower_system,
)
from medjax.vlp.towers import ImageTower, ImageTowerConfig, TextTower, TextTowerConfig


@dataclasses.dataclass(frozen=True)
class ConvirtConfig:
    """Heads and loss of ConVIRT; the defaults are the paper's."""

    features: int = 512
    """Width of the space where radiographs and reports are compared."""
    hidden: int | None = None
    """Hidden width of the heads; None: as wide as what comes in (head ``mlp``)."""
    head: Literal["mlp", "batchnorm"] = "mlp"
    """One hidden layer, without or with BatchNorm."""
    statistics: Statistics = "global"
    """Whose share of the batch has BatchNorm statistics of its own in those heads."""
    text: Literal["sentence", "report"] = "sentence"
    """What of a report is contrasted: one random sentence per step, or all of it."""
    temperature: float = 0.1
    """Of the contrast."""
    image_to_text: float = 0.75
    """Weight of the radiograph-to-report direction (lambda)."""
    text_to_image: float = 0.25
    """Weight of the report-to-radiograph direction (1 - lambda)."""
    train_text: bool = True
    """False reproduces the third-party version whose report head passes no gradient:
    neither it nor the report tower behind it is trained."""
    frozen_text_layers: int = 6
    """Lower layers of the report tower that are not trained, with its embeddings;
    0 trains everything."""
    augment: AugmentConfig = AUGMENTATIONS["convirt"]
    """Augmentation of the one view."""


CONFIGS = {
    "paper": ConvirtConfig(),
    "repo": ConvirtConfig(text="report", train_text=False),
    "mgca": ConvirtConfig(
        features=128,
        hidden=2048,
        head="batchnorm",
        text="report",
        temperature=0.07,
        image_to_text=1.0,
        text_to_image=1.0,
        frozen_text_layers=0,
        augment=AUGMENTATIONS["mgca"],
    ),
}


class Convirt(TwoTower):
    """Image tower, report tower, one head each."""

    config: ConvirtConfig
    image_config: ImageTowerConfig
    text_config: TextTowerConfig

    def setup(self) -> None:
        self.image = ImageTower(self.image_config)
        self.text = TextTower(self.text_config)
        self.image_head = self.head()
        self.text_head = self.head()

    def head(self) -> nn.Module:
        c = self.config
        if c.head == "batchnorm":
            if c.hidden is None:
                raise ValueError("system.hidden: head 'batchnorm' needs a width")
            return ProjectionHead(c.hidden, c.features, c.statistics)
        return MlpHead(c.hidden, c.features)

    def __call__(
        self, image: Float[Array, "b h w 3"], ids: dict[str, Int[Array, "b n"]]
    ) -> tuple[Array, Array]:
        """Initialises every parameter."""
        encoded = self.encode(image, ids[self.config.text], train=False)
        return self.project(encoded, train=False)

    def encode(
        self, image: Float[Array, "b h w 3"], ids: Int[Array, "b n"], *, train: bool
    ) -> tuple[Array, Array]:
        """What the towers know of both sides."""
        return self.image(image, train=train).pooled, self.text(ids, train=train)

    def project(
        self, encoded: tuple[Array, Array], *, train: bool
    ) -> tuple[Array, Array]:
        """Both sides in the shared space, of unit norm."""
        image, text = encoded
        return (
            normalise(self.image_head(image, train=train)),
            normalise(self.text_head(text, train=train)),
        )


def frozen_parameters(config: ConvirtConfig) -> tuple[str, ...]:
    """Regular expressions of what is not trained."""
    if not config.train_text:
        return "^text/", "^text_head/"
    if not config.frozen_text_layers:
        return ()
    layers = "|".join(str(i) for i in range(config.frozen_text_layers))
    return "^text/bert/embeddings", f"^text/bert/layer_({layers})/"


def convirt(
    config: ConvirtConfig,
    image: ImageTowerConfig,
    text: TextTowerConfig,
    contrast_config: ContrastConfig | None = None,
) -> PretrainingSystem:
    """ConVIRT as a system of pure functions.

    Args:
      config: heads and loss; see ``CONFIGS``.
      image: the image tower.
      text: the report tower; trained, but for its lower layers.
      contrast_config: how the contrastive similarity is computed.

    Returns:
      A system that reads ``sentence`` or ``report`` of a batch.
    """
    module = Convirt(config, image, text)

    def loss(
        variables: Variables, batch: Batch, key: Key, *, chunks: int
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        (image_embedding, text_embedding), updated = compare_one_view(
            module,
            variables,
            batch,
            key,
            batch[config.text],
            config=config.augment,
            chunks=chunks,
        )
        to_text, to_image = contrast(
            image_embedding,
            text_embedding,
            temperature=config.temperature,
            config=contrast_config,
        )
        total = config.image_to_text * to_text + config.text_to_image * to_image
        metrics = {"image_to_text": to_text, "text_to_image": to_image}
        return total, (metrics, updated)

    return two_tower_system(
        module,
        loss,
        augment=config.augment,
        chunked=True,
        tokens=(config.text,),
        compared="report",
        frozen=frozen_parameters(config),
    )
