"""M-FLAG: pre-training with a frozen language model and an orthogonal latent space.

Liu, Cheng, Chen, Qiao, Zhang, Shah, Bai, Arcucci, "M-FLAG: Medical Vision-Language
Pre-training with Frozen Language Models and Latent Space Geometry Optimization",
MICCAI 2023, arXiv 2307.08347.

The language model is never trained, which saves its gradients and keeps its geometry.
The radiograph is pulled towards its report without any negatives; collapse is kept off
by an orthogonality loss, which asks the latent dimensions of the *unprojected* image
features to be uncorrelated and of unit size.

What differs between paper and released code is ``orthogonality``: the code takes the
raw features, divides V^T V by the batch size, weighs off-diagonal entries by 0.0051
and halves the sum (a self-correlation in the manner of Barlow Twins); the paper, as far
as it could be established, takes unit-norm embeddings and weighs all entries alike.

Two faults of the released code are fixed: it divides by the batch size written in its
configuration, here the actual one counts; its scheduler assumes four devices. The
features behind a ReLU are non-negative and fewer than the dimensions, so the code's
minimum, the identity, cannot be reached; that is the method's, and stays.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.train.chunks import encode_in_chunks
from medjax.train.mesh import Statistics
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.augment import AUGMENTATIONS, AugmentConfig, augment_by, draws
from medjax.vlp.contrastive import ContrastConfig, normalise
from medjax.vlp.heads import ProjectionHead
from medjax.vlp.system import (
    PretrainingSystem,
    TwoTower,
    frozen_features,
    project,
    two_tower_system,
)
from medjax.vlp.towers import ImageTower, ImageTowerConfig, TextTower, TextTowerConfig


@dataclasses.dataclass(frozen=True)
class MFlagConfig:
    """Heads and losses of M-FLAG; the defaults are the released code's."""

    features: int = 1024
    """Width of the space where radiographs and reports are compared."""
    hidden: int = 2048
    """Hidden width of both heads."""
    orthogonality: Literal["repo", "paper"] = "repo"
    """Which orthogonality loss; see the module's text."""
    off_diagonal: float = 0.0051
    """Weight of the off-diagonal entries in the ``repo`` variant."""
    orthogonality_weight: float = 1.0
    """Weight of the orthogonality loss beside the alignment."""
    statistics: Statistics = "global"
    """Whose share of the batch has BatchNorm statistics of its own in the heads."""
    augment: AugmentConfig = AUGMENTATIONS["mflag"]
    """Augmentation of the one view."""


CONFIGS = {
    "repo": MFlagConfig(statistics="device"),
    "paper": MFlagConfig(orthogonality="paper"),
}


def orthogonality_loss(
    v: Float[Array, "b d"],
    *,
    variant: Literal["repo", "paper"] = "repo",
    off_diagonal: float = 0.0051,
) -> Float[Array, ""]:
    """How far the latent dimensions are from orthogonal.

    ``repo``: G = V^T V / b and 1/2 [sum_i (G_ii - 1)^2 + w sum_{i != j} G_ij^2].
    ``paper``: the rows of V at unit norm, G = V^T V, both sums with weight one.

    Args:
      v: image features of the global batch, before any projection.
      variant: which of the two.
      off_diagonal: w of the ``repo`` variant.
    """
    v = v.astype(jnp.float32)
    repo = variant == "repo"
    v = v / jnp.sqrt(jnp.float32(v.shape[0])) if repo else normalise(v)
    # The loss is small differences of large sums: at an accelerator's default precision
    # (bfloat16 or TF32 products) the off-diagonal ones would be rounding.
    gram = jnp.matmul(
        v.T, v, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    diagonal = jnp.sum(jnp.square(v), axis=0)
    on = jnp.sum(jnp.square(diagonal - 1.0))
    off = jnp.sum(jnp.square(gram)) - jnp.sum(jnp.square(diagonal))
    return 0.5 * (on + off_diagonal * off) if repo else on + off


def alignment_loss(
    image: Float[Array, "b e"], text: Float[Array, "b e"]
) -> Float[Array, ""]:
    """Mean of 4 - 4 cos over pairs: the BYOL distance 2 - 2 cos, added twice.

    Args:
      image: unit-norm image embeddings.
      text: unit-norm report embeddings.
    """
    return jnp.mean(4.0 - 4.0 * jnp.sum(image * text, axis=-1))


class MFlag(TwoTower):
    """Image tower, frozen report tower, one head each."""

    config: MFlagConfig
    image_config: ImageTowerConfig
    text_config: TextTowerConfig

    def setup(self) -> None:
        c = self.config
        self.image = ImageTower(self.image_config)
        self.text = TextTower(self.text_config)
        self.image_head = ProjectionHead(c.hidden, c.features, c.statistics)
        self.text_head = ProjectionHead(c.hidden, c.features, c.statistics)

    def __call__(
        self, image: Float[Array, "b h w 3"], ids: dict[str, Int[Array, "b n"]]
    ) -> tuple[Array, Array, Array]:
        """Initialises every parameter."""
        encoded = self.image_features(image), self.text_features(ids["report"])
        return self.project(encoded, train=False)

    def encode(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b v"]:
        """What the image tower knows, in training."""
        return self.image(image, train=True).pooled

    def project(
        self, encoded: tuple[Float[Array, "b v"], Float[Array, "b d"]], *, train: bool
    ) -> tuple[Array, Array, Array]:
        """Raw image features, and both sides in the shared space."""
        v, report = encoded
        return (
            v,
            normalise(self.image_head(v, train=train)),
            normalise(self.text_head(report, train=train)),
        )


def mflag(
    config: MFlagConfig,
    image: ImageTowerConfig,
    text: TextTowerConfig,
    contrast_config: ContrastConfig | None = None,
) -> PretrainingSystem:
    """M-FLAG as a system of pure functions.

    Args:
      config: heads and losses; see ``CONFIGS``.
      image: the image tower.
      text: the report tower; frozen.
      contrast_config: has no effect, since there are no negatives to contrast.

    Returns:
      A system that reads ``report`` of a batch, or its cached ``report_features``.
    """
    del contrast_config
    module = MFlag(config, image, text)

    def loss(
        variables: Variables, batch: Batch, key: Key, *, chunks: int
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        def encode(rows: Batch, _: Key) -> Any:
            view = augment_by(rows["image"], config.augment, rows["drawn"])
            v, updated = module.apply(
                variables, view, method="encode", mutable=["batch_stats"]
            )
            report = frozen_features(module, variables, rows, "report")
            return (v, report), updated

        rows = {**batch, "drawn": draws(key, len(batch["image"]))}
        encoded, updated = encode_in_chunks(encode, rows, key, chunks=chunks)
        (v, image_embedding, text_embedding), updated = project(
            module, {**variables, **updated}, encoded
        )
        align = alignment_loss(image_embedding, text_embedding)
        orthogonal = orthogonality_loss(
            v, variant=config.orthogonality, off_diagonal=config.off_diagonal
        )
        total = align + config.orthogonality_weight * orthogonal
        return total, ({"alignment": align, "orthogonality": orthogonal}, updated)

    return two_tower_system(
        module,
        loss,
        augment=config.augment,
        chunked=True,
        tokens=("report",),
        compared="report",
        frozen=("^text/",),
        cached_tokens=("report",),
    )
