"""Masked language modelling of reports: where a frozen language model comes from.

IMITATE and M-FLAG start from a published language model. Without one at hand (the
embedded data, a language without a clinical BERT) a small one is trained here first, on
the reports of the training split, with the objective of Devlin et al., "BERT", NAACL
2019: 15 % of the word-pieces are chosen; 80 % of them are masked, 10 % replaced by
a random piece, 10 % kept; the model says what they were. No next-sentence task.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from medjax.nn.bert import Bert, MlmHead
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.towers import TextTowerConfig, bert_config


@dataclasses.dataclass(frozen=True)
class MlmConfig:
    """Which word-pieces are asked for."""

    share: float = 0.15
    """Share of a report's pieces that are chosen."""
    mask: float = 0.8
    """Of the chosen, the share that is masked."""
    random: float = 0.1
    """Of the chosen, the share that is replaced by a random piece."""
    mask_id: int = 4
    """Id of the mask token; ids up to it are special and never chosen."""


def corrupt(
    ids: Int[Array, "b n"], config: MlmConfig, *, vocabulary: int, key: Key
) -> tuple[Int[Array, "b n"], Bool[Array, "b n"]]:
    """Hides some word-pieces.

    Args:
      ids: token ids, padded with 0; special tokens are those up to ``mask_id``.
      config: shares.
      vocabulary: number of pieces, special ones included.
      key: one key per step.

    Returns:
      The corrupted ids, and where the original is asked for.
    """
    choose, kind, other = jax.random.split(key, 3)
    special = ids <= config.mask_id
    chosen = (jax.random.uniform(choose, ids.shape) < config.share) & ~special
    draw = jax.random.uniform(kind, ids.shape)
    random = jax.random.randint(
        other, ids.shape, config.mask_id + 1, vocabulary, ids.dtype
    )
    replaced = jnp.where(draw < config.mask + config.random, random, ids)
    replaced = jnp.where(draw < config.mask, config.mask_id, replaced)
    return jnp.where(chosen, replaced, ids), chosen


class MaskedLanguageModel(nn.Module):
    """A BERT with the head that names the hidden pieces."""

    text_config: TextTowerConfig

    def setup(self) -> None:
        config = bert_config(self.text_config)
        self.bert = Bert(config)
        self.head = MlmHead(config)

    def __call__(
        self, ids: Int[Array, "b n"], at: Int[Array, "b m"]
    ) -> Float[Array, "b m k"]:
        """What stood at some places of each report: logits of all pieces."""
        hidden = self.bert(ids).last
        asked = jnp.take_along_axis(hidden, at[..., None], axis=1)
        return self.head(asked, self.bert.word_embeddings)


def asked_places(
    chosen: Bool[Array, "b n"], most: int
) -> tuple[Int[Array, "b m"], Bool[Array, "b m"]]:
    """The chosen places of each report, up to so many, and which of them are real.

    A vocabulary has tens of thousands of pieces, so that logits of every place are most
    of what a small model computes and holds.
    """
    at = jnp.argsort(~chosen, axis=1, stable=True)[:, :most]
    return at, jnp.take_along_axis(chosen, at, axis=1)


def most_asked(length: int, share: float) -> int:
    """Places of a report that are asked for at the most.

    Four deviations above what is expected: three reports of a hundred thousand have
    more, and those are not asked for.
    """
    expected = share * length
    deviation = math.sqrt(expected * (1 - share))
    return min(length, math.ceil(expected + 4 * deviation))


def masked_language_model(
    text: TextTowerConfig, config: MlmConfig | None = None
) -> tuple[Init, Loss]:
    """The two pure functions of the shared loop, reading ``report`` of a batch."""
    config = config or MlmConfig()
    module = MaskedLanguageModel(text)
    vocabulary = bert_config(text).vocab_size

    def init(key: Key, batch: Batch) -> Variables:
        ids = batch["report"][:2]
        return module.init(key, ids, jnp.zeros((2, 1), jnp.int32))

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Float[Array, ""], tuple[Metrics, Variables]]:
        ids = batch["report"]
        hidden, chosen = corrupt(ids, config, vocabulary=vocabulary, key=key)
        at, real = asked_places(chosen, most_asked(ids.shape[1], config.share))
        logits: Any = module.apply(variables, hidden, at)
        truth = jnp.take_along_axis(ids, at, axis=1)
        cost = optax.softmax_cross_entropy_with_integer_labels(logits, truth)
        asked = real.astype(jnp.float32)
        total = jnp.maximum(jnp.sum(asked), 1.0)
        right = (jnp.argmax(logits, axis=-1) == truth).astype(jnp.float32)
        accuracy = jnp.sum(asked * right) / total
        return jnp.sum(asked * cost) / total, ({"accuracy": accuracy}, {})

    return init, loss
