"""IMITATE: clinical prior guided hierarchical vision-language pre-training.

Liu, Cheng, Shi, Shah, Bai, Arcucci, "IMITATE: Clinical Prior Guided Hierarchical
Vision-Language Pre-training", IEEE TMI 44(1), 2024, arXiv 2310.07355.

A radiology report has a structure: FINDINGS say what is seen, IMPRESSION says what it
means. IMITATE aligns each section with its own visual level. The *diagnosis* branch
projects the last stage of a ResNet and is contrasted with the impression. The *reading*
branch gathers channels of all four stages as tokens, lets one attention layer
summarise them, and is contrasted with the findings. Two augmented views of a radiograph
are contrasted with each other on both levels. The contrast has soft targets: reports
that correlate share part of the label mass (the clinical-informed contrastive loss).

Where paper and released code differ, ``strength`` decides: the code multiplies the
correlation prior by the temperature (``"temperature"``), the paper, as far as it could
be established, does not (``1.0``).

Fixed defects of the released code, none of them reproducible because they stop it or
change nothing: a 0-d index assignment that ends every step; absent findings (a single
blank) that count as present. Here a missing section takes no part in its term, as
anchor or as negative, and does not enter the statistics of the report head. Contrast
per device stays selectable (``loss.negatives = "local"``), and so do BatchNorm
statistics per device (``statistics``), which ``repo`` has: the code trains without
``SyncBatchNorm``.

What is computed differently at equal result: the encoder runs once per view instead of
once per view and channel draw; pooling follows the channel draw; the attention computes
the one query that is read.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.train.chunks import encode_in_chunks
from medjax.train.mesh import Statistics
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.aggregation import HierarchicalAggregator
from medjax.vlp.augment import AUGMENTATIONS, AugmentConfig, augment_by, draws
from medjax.vlp.contrastive import ContrastConfig, contrast, normalise, on_each_device
from medjax.vlp.heads import ProjectionHead
from medjax.vlp.system import (
    PretrainingSystem,
    TwoTower,
    frozen_features,
    project,
    two_tower_system,
)
from medjax.vlp.towers import ImageTower, ImageTowerConfig, TextTower, TextTowerConfig
from medjax_kernels.contrastive import Exchange, Identity, Similarity

SECTIONS = ("findings", "impression")


@dataclasses.dataclass(frozen=True)
class ImitateConfig:
    """Heads and loss of IMITATE; the defaults are the released code's."""

    features: int = 512
    """Width of the space where radiographs and reports are compared."""
    hidden_image: int = 2048
    """Hidden width of the diagnosis head."""
    hidden_text: int = 1024
    """Hidden width of the report head, shared by findings and impression."""
    hidden_reading: int = 256
    """Hidden width of the reading head."""
    channel_ratios: tuple[float, float, float, float] = (0.25, 0.15, 0.10, 0.10)
    """Share of each stage's channels that becomes tokens."""
    token_length: int = 512
    """Channel tokens are zero-padded to this many."""
    attention_heads: int = 4
    """Heads of the attention that reads the tokens."""
    temperature: float = 0.07
    """Of the contrast between radiograph and report."""
    view_temperature: float = 0.2
    """Of the contrast between two views."""
    smoothing: Literal["exp", "gaussian", "laplace", "sigmoid", "none"] = "exp"
    """f in the soft targets Y = I + strength f(rho); none: one-hot targets."""
    ratio: float = 0.2
    """Rate of the exponential smoothing, 1 - exp(-ratio rho)."""
    strength: float | Literal["temperature"] = "temperature"
    """Factor of f(rho): the code multiplies by the temperature, the paper does not."""
    fill_diagonal: bool = True
    """Smoothings that are non-zero at rho = 0 fill the diagonal too, as released."""
    reading_views_prior: bool = False
    """Soft targets on the reading view-to-view term too; the code has none there."""
    examples_per_epoch: int | None = None
    """Size of the training split, for the decay of the findings terms after epoch 30;
    None keeps their weight at 1."""
    statistics: Statistics = "global"
    """Whose share of the batch has BatchNorm statistics of its own in the heads."""
    augment: AugmentConfig = AUGMENTATIONS["imitate"]
    """Augmentation, drawn independently for each view."""


CONFIGS = {
    "repo": ImitateConfig(statistics="device"),
    "paper": ImitateConfig(strength=1.0, fill_diagonal=False),
}


class Seen(NamedTuple):
    """What the image tower knows of two views."""

    pooled: tuple[Float[Array, "b d"], Float[Array, "b d"]]
    reading: tuple[Float[Array, "b g"], Float[Array, "b g"]]
    """Channels of its stages, read."""
    reading_again: tuple[Float[Array, "b g"], Float[Array, "b g"]]
    """The same under a second draw of channels."""


class Compared(NamedTuple):
    """Everything the loss compares; embeddings are of unit norm, leading axis b."""

    diagnosis: tuple[Array, Array]
    reading: tuple[Array, Array]
    reading_again: tuple[Array, Array]
    """The reading branch under a second draw of channels."""
    reports: dict[str, Array]
    """Projected findings and impression."""
    priors: dict[str, Array]
    """Frozen features of findings and impression, unprojected."""


class Imitate(TwoTower):
    """ResNet, frozen report tower, and the three heads."""

    config: ImitateConfig
    image_config: ImageTowerConfig
    text_config: TextTowerConfig

    def setup(self) -> None:
        c = self.config
        self.image = ImageTower(self.image_config)
        self.text = TextTower(self.text_config)
        self.aggregator = HierarchicalAggregator(
            c.channel_ratios, c.token_length, c.attention_heads
        )
        self.image_head = ProjectionHead(c.hidden_image, c.features, c.statistics)
        self.reading_head = ProjectionHead(c.hidden_reading, c.features, c.statistics)
        self.text_head = ProjectionHead(c.hidden_text, c.features, c.statistics)

    def __call__(
        self, image: Float[Array, "b h w 3"], ids: dict[str, Int[Array, "b n"]]
    ) -> Compared:
        """Initialises every parameter."""
        views, key = (image, image), self.make_rng("sampling")
        reports = {name: self.text(ids[name]) for name in SECTIONS}
        return self.project((self.encode(views, key=key, train=False), reports))

    def encode(
        self,
        views: tuple[Float[Array, "b h w 3"], Float[Array, "b h w 3"]],
        *,
        key: Key,
        train: bool = True,
    ) -> Seen:
        """Both views through the tower once, the channels drawn twice for each.

        Args:
          views: both, augmented.
          key: of the draws.
          train: whether the tower's BatchNorms take the statistics of this batch.
        """
        keys = jax.random.split(key, (2, 2))
        towers = [self.image(view, train=train) for view in views]

        def read(view: int, draw: int) -> Float[Array, "b g"]:
            return self.aggregator(towers[view].maps, key=keys[view, draw])

        return Seen(
            pooled=(towers[0].pooled, towers[1].pooled),
            reading=(read(0, 0), read(1, 0)),
            reading_again=(read(0, 1), read(1, 1)),
        )

    def project(
        self,
        encoded: tuple[Seen, dict[str, Float[Array, "b d"]]],
        *,
        train: bool = False,
        present: dict[str, Float[Array, " b"]] | None = None,
    ) -> Compared:
        """Everything in the shared space.

        Args:
          encoded: what was seen, and features of the sections.
          train: whether the heads' BatchNorms take the statistics of this batch.
          present: per section, 1 where a report has it: blanks do not enter them.
        """
        seen, priors = encoded

        def both(head: ProjectionHead, views: tuple[Array, Array]) -> Any:
            return tuple(normalise(head(view, train=train)) for view in views)

        return Compared(
            diagnosis=both(self.image_head, seen.pooled),
            reading=both(self.reading_head, seen.reading),
            reading_again=both(self.reading_head, seen.reading_again),
            reports={
                name: normalise(
                    self.text_head(
                        prior,
                        train=train,
                        present=None if present is None else present[name],
                    )
                )
                for name, prior in priors.items()
            },
            priors=priors,
        )


def findings_weight(epoch: Int[Array, ""]) -> Float[Array, ""]:
    """Weight of the findings terms: 1 to epoch 30, then max(0.3, 1.3 - (e - 30)/20).

    As released, with its step from 1 up to 1.25 after epoch 30.
    """
    e = epoch.astype(jnp.float32)
    return jnp.where(e <= 30, 1.0, jnp.maximum(1.3 - (e - 30.0) / 20.0, 0.3))


def clinical_prior(
    features: Float[Array, "b d"],
    *,
    temperature: float,
    config: ImitateConfig,
) -> Identity | Similarity:
    """Soft targets Y = I + strength f(max(rho, 0)), rho the Pearson correlation.

    Args:
      features: frozen, unprojected features of one section of the reports. A constant
        row has no variance: its correlations are zero by definition.
      temperature: of the contrast that uses the targets.
      config: smoothing, ratio and strength.
    """
    if config.smoothing == "none":
        return Identity()
    strength = temperature if config.strength == "temperature" else config.strength
    return Similarity(
        features,
        smoothing=config.smoothing,
        ratio=config.ratio,
        strength=float(strength),
        fill_diagonal=config.fill_diagonal,
    )


def imitate_loss(
    compared: Compared,
    present: dict[str, Float[Array, " b"]],
    *,
    config: ImitateConfig,
    weight: Float[Array, ""] | float = 1.0,
    contrast_config: ContrastConfig | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The total loss and its four terms.

    Sum over views v of L(d_v, impression) + weight L(r_v, findings), plus
    2 L(d_1, d_2) + 2 weight L(r'_1, r'_2), L the sum of both directions of contrast.

    Args:
      compared: embeddings and priors of the global batch.
      present: per section, 1 where a report has it; a pair without it takes no part.
      config: temperatures and targets.
      weight: of the two findings terms.
      contrast_config: how the contrastive similarity is computed.
    """

    def terms_of(
        exchange: Exchange, compared: Compared, present: dict[str, Array]
    ) -> dict[str, Array]:
        # A section that is not there becomes a constant row: it correlates with none.
        # Made once, since the exchange knows by identity what it has shown to others.
        priors = {
            name: jnp.where(present[name][:, None] > 0, prior, 0.0)
            for name, prior in compared.priors.items()
        }

        def both_ways(
            x: Array, y: Array, tau: float, prior: str | None, seen: Any = None
        ) -> Array:
            targets = prior and clinical_prior(
                priors[prior], temperature=tau, config=config
            )
            one, other = contrast(
                x,
                y,
                temperature=tau,
                targets=targets or None,
                weights=seen,
                config=contrast_config,
                exchange=exchange,
            )
            return one + other

        def with_report(views: tuple[Array, Array], section: str) -> Any:
            report, tau = compared.reports[section], config.temperature
            return sum(
                both_ways(v, report, tau, section, present[section]) for v in views
            )

        tau = config.view_temperature
        again = "findings" if config.reading_views_prior else None
        return {
            "diagnosis_impression": with_report(compared.diagnosis, "impression"),
            "reading_findings": with_report(compared.reading, "findings"),
            "diagnosis_views": 2.0 * both_ways(*compared.diagnosis, tau, "impression"),
            "reading_views": 2.0 * both_ways(*compared.reading_again, tau, again),
        }

    terms = on_each_device(terms_of, contrast_config)(compared, present)
    findings = terms["reading_findings"] + terms["reading_views"]
    diagnosis = terms["diagnosis_impression"] + terms["diagnosis_views"]
    return diagnosis + weight * findings, terms


def imitate(
    config: ImitateConfig,
    image: ImageTowerConfig,
    text: TextTowerConfig,
    contrast_config: ContrastConfig | None = None,
) -> PretrainingSystem:
    """IMITATE as a system of pure functions.

    Args:
      config: heads and loss; see ``CONFIGS``.
      image: the image tower, a ResNet: the reading branch needs its four stages.
      text: the report tower; frozen.
      contrast_config: how the contrastive similarity is computed.

    Returns:
      A system that reads ``findings`` and ``impression`` of a batch, or their cached
      ``findings_features`` and ``impression_features``.

    Raises:
      ValueError: the image tower has no stages.
    """
    if not image.architecture.startswith("resnet"):
        raise ValueError(
            "image.architecture: IMITATE reads the four stages of a ResNet, "
            f"got {image.architecture!r}"
        )
    module = Imitate(config, image, text)

    def loss(
        variables: Variables, batch: Batch, key: Key, *, chunks: int
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        first, second, draw = jax.random.split(key, 3)

        def encode(rows: Batch, _: Key) -> Any:
            views = tuple(
                augment_by(rows["image"], config.augment, rows[name])
                for name in ("first", "second")
            )
            # Which channels are read is drawn once for all of a batch.
            seen, updated = module.apply(
                variables, views, key=draw, method="encode", mutable=["batch_stats"]
            )
            priors = {s: frozen_features(module, variables, rows, s) for s in SECTIONS}
            return (seen, priors), updated

        films = len(batch["image"])
        drawn = {"first": draws(first, films), "second": draws(second, films)}
        encoded, updated = encode_in_chunks(
            encode, {**batch, **drawn}, key, chunks=chunks
        )
        present = {s: batch[f"has_{s}"].astype(jnp.float32) for s in SECTIONS}
        compared, updated = project(
            module, {**variables, **updated}, encoded, present=present
        )
        seen = variables["counters"]["examples"]
        weight = jnp.ones(())
        if config.examples_per_epoch is not None:
            weight = findings_weight(seen // config.examples_per_epoch)
        total, terms = imitate_loss(
            compared,
            present,
            config=config,
            weight=weight,
            contrast_config=contrast_config,
        )
        counters = {"examples": seen + batch["image"].shape[0]}
        return total, (terms, {**updated, "counters": counters})

    return two_tower_system(
        module,
        loss,
        augment=config.augment,
        chunked=True,
        tokens=SECTIONS,
        compared="impression",
        frozen=("^text/",),
        cached_tokens=SECTIONS,
        counts_examples=True,
    )
