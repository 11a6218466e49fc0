"""GLoRIA: words of a report attend to the regions of a radiograph.

Huang, Shen, Lungren, Yeung, "GLoRIA: A Multimodal Global-Local Representation Learning
Framework for Label-efficient Medical Image Recognition", ICCV 2021.

Two contrasts are added. The *global* one is that of pooled radiograph and report. The
*local* one compares every report with every radiograph word by word: each word gathers
the regions that are its own, and a pair is as similar as its words are to what they
gathered (``medjax_kernels.word_region`` has the formula and never holds the attention
of all pairs). Words are sums of word-pieces, tokens sums of the last four layers of the
report tower, regions the third stage of a ResNet behind one linear map.

At inference a text is as similar to a film as its word that is found best, [CLS] left
out (``word_similarity``); the released code adds that to the cosine of both wholes,
where it counts ``temp2`` times as much, and takes the mean.

Presets: ``repo`` is the released code, which counts [CLS] as a word of every report and
shows a ResNet a crop of 224 pixels at 299 (``augment.upsample``); ``paper`` leaves
[CLS] out, so that words are those of the report, and samples a film once, at 299.

What is computed differently: the sentence vector is the mean over its tokens instead of
over 97 slots, zeros included, a factor that no cosine sees; [UNK] is a word like any
other (the code ends a sentence one word early for each). Not reproduced: at inference
the released code cuts the words of a prompt at its number of *characters*.

The local contrast grows with N^2 t r d, beside N encodings: by a count of products it
costs more than a ResNet-50 beyond 140 pairs of 97 words and 361 regions, or 530 pairs
of 25 words (`equal_cost`). ``words`` limits the slots that are compared,
``local_negatives`` and ``loss.negatives = "local"`` the pairs.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.train.plan.flops import count_flops
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.augment import AUGMENTATIONS, AugmentConfig
from medjax.vlp.contrastive import ContrastConfig, contrast, normalise
from medjax.vlp.heads import LinearHead
from medjax.vlp.system import (
    PretrainingSystem,
    TwoTower,
    compare_one_view,
    two_tower_system,
)
from medjax.vlp.towers import (
    ImageTower,
    ImageTowerConfig,
    TextTower,
    TextTowerConfig,
    bert_config,
)
from medjax.vlp.word_contrast import (
    WordContrastConfig,
    local_contrast,
    word_attention,
)
from medjax.vlp.words import (
    aggregate,
    as_square,
    continuing_pieces,
    word_segments,
)
from medjax_kernels.word_region import word_region_similarity


@dataclasses.dataclass(frozen=True)
class GloriaConfig(WordContrastConfig):
    """Heads and losses of GLoRIA; the defaults are the released code's."""

    width: int = 768
    """Of words and regions, and of the space where radiographs and reports are
    compared: that of the report tower, which has no head."""
    local_weight: float = 1.0
    """Of the local contrast, both directions added."""
    global_weight: float = 1.0
    """Of the global contrast, both directions added."""
    text: Literal["sentence", "report"] = "sentence"
    """What of a report is contrasted: one random sentence per step, or all of it."""
    words: int | None = None
    """Words that are compared, the first of a text; None: all."""
    count_cls: bool = True
    """Whether [CLS] is one of them."""
    augment: AugmentConfig = dataclasses.replace(AUGMENTATIONS["mgca"], size=299)
    """Augmentation of the one view."""


PAIRS = 2
"""Folded into a step's key: what draws pairs."""
CONFIGS = {
    "repo": GloriaConfig(
        augment=dataclasses.replace(AUGMENTATIONS["mgca"], upsample=299)
    ),
    "paper": GloriaConfig(count_cls=False),
}


class Compared(NamedTuple):
    """Everything the losses compare."""

    image: Float[Array, "b d"]
    """Unit norm."""
    text: Float[Array, "b d"]
    """Unit norm."""
    regions: Float[Array, "b r d"]
    """Not normalised: which word wins a region depends on both sizes."""
    words: Float[Array, "b t d"]
    """Not normalised."""
    mask: Bool[Array, "b t"]
    """Which slots have a word that takes part."""


class Gloria(TwoTower):
    """ResNet, trained report tower, two linear maps of the image side."""

    config: GloriaConfig
    image_config: ImageTowerConfig
    text_config: TextTowerConfig

    def setup(self) -> None:
        c = self.config
        self.image = ImageTower(self.image_config)
        self.text = TextTower(self.text_config)
        self.image_head = LinearHead(c.width)
        self.local_head = nn.Dense(
            c.width, use_bias=False, dtype=jnp.dtype(self.image_config.dtype)
        )

    def __call__(
        self, image: Float[Array, "b h w 3"], ids: dict[str, Int[Array, "b n"]]
    ) -> Compared:
        """Initialises every parameter."""
        own = ids[self.config.text]
        encoded = self.encode(image, own, jnp.zeros_like(own), train=False)
        return self.project(encoded, train=False)

    def text_embedding(self, ids: Int[Array, "b n"]) -> Float[Array, "b d"]:
        """Unit-norm points of the shared space."""
        return normalise(self.text_features(ids))

    def encode(
        self,
        image: Float[Array, "b h w 3"],
        ids: Int[Array, "b n"],
        segments: Int[Array, "b n"],
        *,
        train: bool,
    ) -> Compared:
        """Both sides, as wholes and in parts.

        Args:
          image: augmented films.
          ids: tokens of the texts.
          segments: the word of each token, -1 for none.
          train: whether there is dropout and BatchNorms take this batch's statistics.
        """
        seen = self.image(image, train=train)
        read = self.text.features(ids, train=train)
        words, mask = aggregate(read.tokens, segments, words=self.config.words)
        if not self.config.count_cls:
            mask = mask.at[:, 0].set(False)
        regions = self.local_head(seen.local)
        return Compared(
            image=normalise(self.image_head(seen.pooled, train=train)),
            text=normalise(read.pooled),
            regions=regions.reshape(len(regions), -1, self.config.width),
            words=words,
            mask=mask,
        )

    def project(self, encoded: Compared, *, train: bool) -> Compared:
        """As it is: GLoRIA has no heads that normalise over a batch."""
        del train
        return encoded

    def word_maps(
        self,
        image: Float[Array, "b h w 3"],
        ids: Int[Array, "b n"],
        segments: Int[Array, "b n"],
    ) -> Float[Array, "b t y x"]:
        """Share of each region in what each word gathers."""
        seen = self.encode(image, ids, segments, train=False)
        regions = seen.regions.astype(seen.words.dtype)
        return as_square(
            word_attention(seen.words, seen.mask, regions, temp1=self.config.temp1)
        )

    def word_similarity(
        self,
        image: Float[Array, "b h w 3"],
        ids: Int[Array, "k n"],
        segments: Int[Array, "k n"],
    ) -> Float[Array, "b k"]:
        """``temp2`` times the best cosine of a text's words, for any texts."""
        c = self.config
        regions = self.local_head(self.image(image, train=False).local)
        read = self.text.features(ids, train=False)
        words, mask = aggregate(read.tokens, segments, words=c.words)
        return word_region_similarity(
            words,
            regions.reshape(len(image), -1, c.width).astype(words.dtype),
            mask=mask.at[:, 0].set(False),
            temp1=c.temp1,
            temp2=c.temp2,
            aggregation="max",
        )


def gloria_loss(
    compared: Compared,
    *,
    config: GloriaConfig,
    contrast_config: ContrastConfig | None = None,
    key: Key | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The total loss, and the local and the global contrast without their weights.

    Args:
      compared: of the global batch.
      config: factors and weights.
      contrast_config: how the similarities are computed.
      key: of the reports that are drawn, with ``local_negatives``.
    """
    by_image, by_text = local_contrast(
        compared.words,
        compared.mask,
        compared.regions,
        config=config,
        contrast_config=contrast_config,
        key=key,
    )
    local = by_image + by_text
    by_image, by_text = contrast(
        compared.image,
        compared.text,
        temperature=1.0 / config.temp3,
        config=contrast_config,
    )
    whole = by_image + by_text
    total = config.local_weight * local + config.global_weight * whole
    return total, {"local": local, "global": whole}


def equal_cost(
    config: GloriaConfig, image: ImageTowerConfig, text: TextTowerConfig
) -> int:
    """Pairs of a global batch from which on the local contrast is most of a step.

    By a count of products, forward: of the image tower on every film, and of the two
    with which each word of each report gathers from all films.

    Args:
      config: words that are compared; all pairs are.
      image: the image tower.
      text: the report tower.

    Returns:
      The pairs at which both cost as much.
    """
    size = config.augment.upsample or config.augment.size
    film = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    tower = ImageTower(image)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), film)
    traced = jax.jit(tower.apply).trace(shapes, film)
    _, high, wide, _ = traced.out_info.local.shape
    words = config.words or text.max_length
    a_pair = 4.0 * words * high * wide * config.width
    return round(count_flops(traced.jaxpr).total / a_pair)


def gloria(
    config: GloriaConfig,
    image: ImageTowerConfig,
    text: TextTowerConfig,
    contrast_config: ContrastConfig | None = None,
) -> PretrainingSystem:
    """GLoRIA as a system of pure functions.

    Args:
      config: heads and losses; see ``CONFIGS``.
      image: the image tower; of a ViT the patch tokens are the regions.
      text: the report tower; trained.
      contrast_config: how the similarities are computed.

    Returns:
      A system that reads ``sentence`` or ``report`` of a batch.

    Raises:
      ValueError: the width is not that of the report tower.
    """
    if (wide := bert_config(text).hidden_size) != config.width:
        raise ValueError(
            "system.width: GLoRIA compares words as the report tower leaves them; "
            f"expected its width, {wide}, got {config.width}"
        )
    module = Gloria(config, image, text)
    segments = functools.partial(
        word_segments, continues=continuing_pieces(text), closing=False
    )

    def loss(
        variables: Variables, batch: Batch, key: Key, *, chunks: int
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        ids = batch[config.text]
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
        total, terms = gloria_loss(
            compared,
            config=config,
            contrast_config=contrast_config,
            key=jax.random.fold_in(key, PAIRS),
        )
        return total, (terms, updated)

    return two_tower_system(
        module,
        loss,
        augment=config.augment,
        chunked=True,
        tokens=(config.text,),
        compared="report",
        segments=segments,
    )
