"""MGCA: radiographs and reports aligned as wholes, token by token, and by prototypes.

Wang, Zhou, Wang, Vardhanabhuti, Yu, "Multi-Granularity Cross-modal Alignment for
Generalized Medical Visual Representation Learning", NeurIPS 2022.

Three losses are added. *Instances*: symmetric contrast of radiographs and reports.
*Tokens*, within one pair: each word gathers patches and must be found again among what
all words gathered, and each patch likewise among words; words count by how much [CLS]
looks at them. *Prototypes*: see :mod:`medjax.vlp.prototypes`. The image tower is
a ResNet (patches are its third stage) or a ViT; the report tower has six layers.

Where the released code does something that the method does not mean, a setting says so;
``repo`` has the code's way, ``paper`` the other. ``mask_pads=False``: padding enters
the statistics of the words' head and is what words are told apart from.
``normalise_patches=False``: what patches gather from words is normalised behind a
ResNet, but not behind a ViT. ``word_weights="shifted"``: each word counts by the
attention that belongs to the token behind it, and a report that fills all places loses
its last word and [SEP], since there is one attention less than there are tokens.

One of the code's ways no preset sets: ``loss.negatives = "local"`` contrasts instances
per device; prototypes are balanced over the global batch in both.

For a ResNet ``repo`` brings a crop of 224 pixels to 299, as the code does, and
``paper`` samples a film once. What is computed differently: attention that weighs words
is taken before dropout; prototypes wait for the second epoch with moments of zero,
where the code's AdamW has not counted the first one's steps.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.nn.vit import LINEAR_INIT
from medjax.train.mesh import Statistics
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.augment import AUGMENTATIONS, AugmentConfig
from medjax.vlp.contrastive import ContrastConfig, contrast, normalise
from medjax.vlp.heads import ProjectionHead
from medjax.vlp.prototypes import swapped_prediction
from medjax.vlp.system import (
    PretrainingSystem,
    TwoTower,
    compare_one_view,
    two_tower_system,
)
from medjax.vlp.token_contrast import attention_weights, token_contrast
from medjax.vlp.towers import ImageTower, ImageTowerConfig, TextTower, TextTowerConfig
from medjax.vlp.words import (
    aggregate,
    as_square,
    continuing_pieces,
    word_segments,
)


@dataclasses.dataclass(frozen=True)
class MgcaConfig:
    """Heads and losses of MGCA; the defaults are the method's."""

    features: int = 128
    """Width of the space where radiographs and reports, patches and words meet."""
    hidden: int = 2048
    """Hidden width of all four heads."""
    temperature: float = 0.07
    """Of the contrast of instances."""
    local_temperature: float = 0.1
    """Of attention and contrast of tokens."""
    prototype_temperature: float = 0.2
    """Of the predicted assignments."""
    prototypes: int = 500
    """How many."""
    sinkhorn_epsilon: float = 0.05
    """Of the assignments; the smaller, the harder."""
    sinkhorn_iterations: int = 3
    """Rounds of balancing the prototypes."""
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of instances, tokens and prototypes; the code's classes have 1, 0.7, 0.5 where
    its command line, which wins, has ones."""
    examples_per_epoch: int | Literal["split"] | None = None
    """Size of the training split, which a run itself knows ("split"): in the first
    epoch prototypes stay as they are. None trains them from the start."""
    mask_pads: bool = True
    """Padding takes no part, neither in the contrast of words nor in statistics."""
    normalise_patches: bool = True
    """What a ViT's patches gather is normalised, as a ResNet's always is."""
    word_weights: Literal["cls", "shifted"] = "cls"
    """A word counts by how much [CLS] looks at it, or at the token behind it; then a
    report of full length has one word less."""
    statistics: Statistics = "global"
    """Whose share of the batch has BatchNorm statistics of its own in the heads."""
    augment: AugmentConfig = dataclasses.replace(AUGMENTATIONS["mgca"], size=299)
    """Augmentation of the one view."""


CONFIGS = {
    "repo": MgcaConfig(
        mask_pads=False,
        normalise_patches=False,
        word_weights="shifted",
        examples_per_epoch="split",
        augment=dataclasses.replace(AUGMENTATIONS["mgca"], upsample=299),
    ),
    "paper": MgcaConfig(examples_per_epoch="split"),
}


class Compared(NamedTuple):
    """Everything the losses compare; embeddings of unit norm."""

    image: Float[Array, "b d"]
    text: Float[Array, "b d"]
    patches: Float[Array, "b r d"]
    words: Float[Array, "b t d"]
    """Without [CLS]; [SEP] is a word."""
    mask: Bool[Array, "b t"]
    """Which slots have a word."""
    word_looks: Float[Array, "b t"]
    """How much [CLS] looks at each word."""
    patch_looks: Float[Array, "b r"] | None
    """How much a ViT's class token looks at each patch."""


class Mgca(TwoTower):
    """Image tower, report tower, heads for wholes and parts of each, prototypes."""

    config: MgcaConfig
    image_config: ImageTowerConfig
    text_config: TextTowerConfig

    def setup(self) -> None:
        c = self.config
        self.image = ImageTower(self.image_config, look=True)
        self.text = TextTower(self.text_config, look=True)
        head = (c.hidden, c.features, c.statistics)
        self.image_head, self.text_head = ProjectionHead(*head), ProjectionHead(*head)
        self.patch_head, self.word_head = ProjectionHead(*head), ProjectionHead(*head)
        self.prototypes = self.param(
            "prototypes", LINEAR_INIT, (c.prototypes, c.features)
        )

    def __call__(
        self, image: Float[Array, "b h w 3"], ids: dict[str, Int[Array, "b n"]]
    ) -> Compared:
        """Initialises every parameter."""
        tokens = ids["report"]
        encoded = self.encode(image, tokens, jnp.zeros_like(tokens), train=False)
        return self.project(encoded, train=False)

    def encode(
        self,
        image: Float[Array, "b h w 3"],
        ids: Int[Array, "b n"],
        segments: Int[Array, "b n"],
        *,
        train: bool,
    ) -> Compared:
        """Both sides in parts in the shared space, as wholes as the towers leave them.

        Args:
          image: augmented films.
          ids: tokens of the reports.
          segments: the word of each token, -1 for none.
          train: whether there is dropout and BatchNorms take this batch's statistics.
        """
        c = self.config
        seen = self.image(image, train=train)
        read = self.text.features(ids, train=train)
        if c.word_weights == "shifted":
            segments = cut_short(ids, segments)
        words, mask = aggregate(read.tokens, segments)
        looked = read.looked
        assert looked is not None  # the tower was asked
        if c.word_weights == "shifted":
            looked = jnp.pad(looked[:, 1:], ((0, 0), (0, 1)))
        looked, _ = aggregate(looked[..., None], segments)
        words, mask, looked = words[:, 1:], mask[:, 1:], looked[:, 1:, 0]
        patches = seen.local.reshape(len(image), -1, seen.local.shape[-1])
        looks = seen.looked
        return Compared(
            image=seen.pooled,
            text=read.pooled,
            patches=token_by_token(self.patch_head, patches, train=train),
            words=token_by_token(
                self.word_head, words, train=train, mask=mask if c.mask_pads else None
            ),
            mask=mask,
            word_looks=looked,
            patch_looks=None if looks is None else looks.reshape(len(image), -1),
        )

    def project(self, encoded: Compared, *, train: bool) -> Compared:
        """Wholes in the shared space as well."""
        return encoded._replace(
            image=normalise(self.image_head(encoded.image, train=train)),
            text=normalise(self.text_head(encoded.text, train=train)),
        )

    def word_maps(
        self,
        image: Float[Array, "b h w 3"],
        ids: Int[Array, "b n"],
        segments: Int[Array, "b n"],
    ) -> Float[Array, "b t y x"]:
        """Share of each patch in what each word gathers; none of [CLS]."""
        seen = self.encode(image, ids, segments, train=False)
        scores = jnp.einsum("btd,brd->btr", seen.words, seen.patches)
        maps = as_square(jax.nn.softmax(scores / self.config.local_temperature))
        return jnp.pad(maps, ((0, 0), (1, 0), (0, 0), (0, 0)))


def token_by_token(
    head: ProjectionHead,
    tokens: Float[Array, "b n d"],
    *,
    train: bool,
    mask: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b n e"]:
    """A head on every token, of unit norm; statistics are those of ``mask``."""
    b, n, d = tokens.shape
    present = None if mask is None else mask.reshape(-1).astype(jnp.float32)
    flat = head(tokens.reshape(b * n, d), train=train, present=present)
    return normalise(flat).reshape(b, n, -1)


def cut_short(ids: Int[Array, "b n"], segments: Int[Array, "b n"]) -> Int[Array, "b n"]:
    """Words as the released code finds them, which never sees the last place.

    In a report that fills all places the word before [SEP] is not finished then, and
    neither of them is kept.
    """
    unfinished = segments >= segments[:, -2:-1]
    return jnp.where((ids[:, -1:] != 0) & unfinished, -1, segments)


def mgca_loss(
    compared: Compared,
    prototypes: Float[Array, "k d"],
    *,
    config: MgcaConfig,
    contrast_config: ContrastConfig | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The total loss, and its three terms without their weights.

    Args:
      compared: of the global batch.
      prototypes: the learned directions.
      config: temperatures, weights and the switches of the module's text.
      contrast_config: how the contrast of instances is computed.
    """
    c, tau = config, config.local_temperature
    looks, patches, words = compared.patch_looks, compared.patches, compared.words
    if looks is None:
        even = jnp.full(patches.shape[:2], 1.0 / patches.shape[1], patches.dtype)
    else:
        even = attention_weights(looks)
    by_word = token_contrast(
        words,
        patches,
        attention_weights(compared.word_looks),
        temperature=tau,
        mask=compared.mask if c.mask_pads else None,
    )
    by_patch = token_contrast(
        patches,
        words,
        even,
        temperature=tau,
        others_mask=compared.mask,
        unit=looks is None or c.normalise_patches,
    )
    by_image, by_text = contrast(
        compared.image,
        compared.text,
        temperature=c.temperature,
        config=contrast_config,
    )
    terms = {
        "instances": by_image + by_text,
        "tokens": by_word + by_patch,
        "prototypes": swapped_prediction(
            compared.image,
            compared.text,
            prototypes,
            temperature=c.prototype_temperature,
            epsilon=c.sinkhorn_epsilon,
            iterations=c.sinkhorn_iterations,
        ),
    }
    weighted = [w * terms[name] for w, name in zip(c.weights, terms, strict=True)]
    total = functools.reduce(jnp.add, weighted)
    return total, terms


def standing(
    prototypes: Float[Array, "k d"], seen: Int[Array, ""], config: MgcaConfig
) -> Float[Array, "k d"]:
    """The prototypes, to which no gradient flows in the first epoch.

    Args:
      prototypes: the learned directions.
      seen: examples so far.
      config: says how many an epoch has.
    """
    if config.examples_per_epoch is None:
        return prototypes
    if config.examples_per_epoch == "split":
        raise ValueError(
            "system.examples_per_epoch: a run puts the size of its training split in "
            "the place of 'split'; without one, give the number"
        )
    still = jax.lax.stop_gradient(prototypes)
    return jnp.where(seen < config.examples_per_epoch, still, prototypes)


def mgca(
    config: MgcaConfig,
    image: ImageTowerConfig,
    text: TextTowerConfig,
    contrast_config: ContrastConfig | None = None,
) -> PretrainingSystem:
    """MGCA as a system of pure functions.

    Args:
      config: heads and losses; see ``CONFIGS``.
      image: the image tower.
      text: the report tower; trained.
      contrast_config: how the contrast of instances is computed.

    Returns:
      A system that reads ``report`` of a batch.
    """
    module = Mgca(config, image, text)
    segments = functools.partial(word_segments, continues=continuing_pieces(text))

    def loss(
        variables: Variables, batch: Batch, key: Key, *, chunks: int
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        ids = batch["report"]
        compared, updated = compare_one_view(
            module,
            variables,
            batch,
            key,
            ids,
            segments(ids),
            config=config.augment,
            chunks=chunks,
        )
        seen = variables["counters"]["examples"]
        total, terms = mgca_loss(
            compared,
            standing(variables["params"]["prototypes"], seen, config),
            config=config,
            contrast_config=contrast_config,
        )
        counters = {"examples": seen + batch["image"].shape[0]}
        return total, (terms, {**updated, "counters": counters})

    return two_tower_system(
        module,
        loss,
        augment=config.augment,
        chunked=True,
        tokens=("report",),
        compared="report",
        counts_examples=True,
        segments=segments,
    )
