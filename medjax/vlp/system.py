"""What a pre-training system is to the rest of the house: a handful of pure functions.

The shared loop needs ``init`` and ``loss``; the probes need features and embeddings.
:func:`two_tower_system` builds them from a :class:`TwoTower` module, so that a system's
file holds nothing but what its paper says.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.train.chunks import ChunkedLoss, WholeLoss, encode_in_chunks
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.train.system import Apply
from medjax.typing import Batch, Key, Variables
from medjax.vlp.augment import AugmentConfig, augment_by, draws, evaluate
from medjax.vlp.contrastive import normalise


def frozen_features(
    module: nn.Module, variables: Variables, batch: Batch, name: str
) -> Float[Array, "b d"]:
    """Features of one token field by a report tower that is not trained.

    They never change, so the batch may bring them along as ``<name>_features``.
    """
    features: Any = batch.get(f"{name}_features")
    if features is None:
        features = module.apply(variables, batch[name], method="text_features")
    return jax.lax.stop_gradient(features)


def compare_one_view(
    module: nn.Module,
    variables: Variables,
    batch: Batch,
    key: Key,
    *texts: Array,
    config: AugmentConfig,
    chunks: int,
) -> tuple[Any, Variables]:
    """What a system compares of films, augmented once, and their texts, in training.

    Args:
      module: has ``encode(image, *texts)``, of a chunk, and ``project(encoded)``, of
        the whole batch.
      variables: its own.
      batch: has the films, ``image``.
      key: of augmentation and dropout.
      *texts: token ids, and what else the module asks for beside them.
      config: of the augmentation.
      chunks: how many the towers see the batch in.

    Returns:
      What ``project`` returns, and the statistics that both updated.
    """
    augment_key, dropout_key = jax.random.split(key)
    films = batch["image"]

    def encode(rows: Any, key: Key) -> Any:
        films, drawn, texts = rows
        return module.apply(
            variables,
            augment_by(films, config, drawn),
            *texts,
            train=True,
            method="encode",
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )

    rows = films, draws(augment_key, len(films)), texts
    encoded, updated = encode_in_chunks(encode, rows, dropout_key, chunks=chunks)
    return project(module, {**variables, **updated}, encoded)


def project(
    module: nn.Module, variables: Variables, encoded: Any, **options: Any
) -> tuple[Any, Variables]:
    """Heads on what the towers made of the whole batch, in training.

    Args:
      module: has ``project(encoded, **options)``.
      variables: its own, with the statistics that the towers updated.
      encoded: by its towers.
      **options: of ``project``.

    Returns:
      What ``project`` returns, and all statistics.
    """
    return module.apply(
        variables,
        encoded,
        train=True,
        method="project",
        mutable=["batch_stats"],
        **options,
    )


class TwoTower(nn.Module):
    """An image tower and a report tower, each with a head into the shared space.

    A system's module derives from it, sets all four, and adds what its loss compares.
    Called without training, all methods use running statistics and draw nothing.
    """

    def image_features(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """What the image tower knows, before any projection."""
        return self.image(image, train=False).pooled

    def image_embedding(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        """Unit-norm points of the shared space."""
        return normalise(self.image_head(self.image_features(image), train=False))

    def text_features(self, ids: Int[Array, "b n"]) -> Float[Array, "b d"]:
        """What the report tower knows, before any projection."""
        return self.text(ids, train=False)

    def text_embedding(self, ids: Int[Array, "b n"]) -> Float[Array, "b e"]:
        """Unit-norm points of the shared space."""
        return normalise(self.text_head(self.text_features(ids), train=False))


@dataclasses.dataclass(frozen=True)
class PretrainingSystem:
    """A pre-training system as pure functions of its variables.

    Attributes:
      init: key and batch to variables.
      loss: variables, batch and key to the loss and (metrics, updated non-parameters).
      image_features: uint8 radiographs to what the image tower knows (linear probe).
      image_embedding: uint8 radiographs to unit-norm points of the shared space.
      text_features: token ids to what the text tower knows, before any projection.
      text_embedding: token ids to unit-norm points of the shared space.
      frozen: regular expressions of parameters that are not trained.
      tokens: names of the token fields that ``loss`` reads from a batch.
      compared: the token field that an image embedding is meant to find.
      cached_tokens: those of them whose text features never change in training; the
        batch may carry ``<name>_features`` instead of the ids.
      word_maps: variables, uint8 radiographs and token ids of their reports to where
        each word looks, [b, words, h, w], places of a word summing to one; None: the
        system does not look at words.
      word_similarity: variables, uint8 radiographs [b, h, w] and token ids of any texts
        [k, n] to how well the words of each text are found in each film [b, k]; None:
        the system has no such number.
    """

    init: Init
    loss: Loss
    image_features: Callable[[Variables, Array], Array]
    image_embedding: Callable[[Variables, Array], Array]
    text_features: Callable[[Variables, Array], Array]
    text_embedding: Callable[[Variables, Array], Array]
    tokens: tuple[str, ...]
    compared: str
    frozen: tuple[str, ...] = ()
    cached_tokens: tuple[str, ...] = ()
    word_maps: Callable[[Variables, Array, Array], Array] | None = None
    word_similarity: Callable[[Variables, Array, Array], Array] | None = None

    @property
    def apply(self) -> dict[str, Apply]:
        """What a trained one can do, by name."""
        return {
            "image_features": self.image_features,
            "image_embedding": self.image_embedding,
            "text_features": self.text_features,
            "text_embedding": self.text_embedding,
        }


def two_tower_system(
    module: TwoTower,
    loss: Loss | WholeLoss,
    *,
    augment: AugmentConfig,
    chunked: bool = False,
    tokens: tuple[str, ...],
    compared: str,
    frozen: tuple[str, ...] = (),
    cached_tokens: tuple[str, ...] = (),
    counts_examples: bool = False,
    segments: Callable[[Array], Array] | None = None,
) -> PretrainingSystem:
    """Pure functions around a :class:`TwoTower` module.

    Args:
      module: its ``__call__(images, ids)`` initialises every parameter.
      loss: the system's loss, in the contract of the shared loop.
      augment: the recipe of training; outside training nothing of it is random.
      chunked: the loss takes ``chunks`` too, in which its towers see a batch.
      tokens: token fields that the loss reads.
      compared: the token field that an image embedding is meant to find.
      frozen: regular expressions of parameters that are not trained.
      cached_tokens: token fields whose text features may come precomputed.
      counts_examples: variables have ``counters/examples``, 0 at first, which the loss
        advances: by it a system knows the epoch.
      segments: token ids to the word of each, of a system that looks at words: its
        module has ``word_maps(images, ids, segments)``, and may have
        ``word_similarity`` of the same.
    """

    def init(key: Key, batch: Batch) -> Variables:
        # Two rows are enough: parameters do not depend on the batch size.
        image = evaluate(batch["image"][:2], augment)
        ids = {name: batch[name][:2] for name in tokens}
        variables = module.init({"params": key, "sampling": key}, image, ids)
        if counts_examples:
            counters = {"examples": jnp.zeros((), jnp.int32)}
            variables = {**variables, "counters": counters}
        return variables

    def evaluated(method: str) -> Callable[[Variables, Array], Array]:
        def apply(variables: Variables, x: Array) -> Any:
            x = evaluate(x, augment) if method.startswith("image") else x
            return module.apply(variables, x, method=method)

        return apply

    def by_word(method: str) -> Callable[[Variables, Array, Array], Array] | None:
        if segments is None or not hasattr(module, method):
            return None
        word_of = segments

        def apply(variables: Variables, image: Array, ids: Array) -> Any:
            image = evaluate(image, augment)
            return module.apply(variables, image, ids, word_of(ids), method=method)

        return apply

    return PretrainingSystem(
        init=init,
        loss=ChunkedLoss(loss) if chunked else loss,
        image_features=evaluated("image_features"),
        image_embedding=evaluated("image_embedding"),
        text_features=evaluated("text_features"),
        text_embedding=evaluated("text_embedding"),
        tokens=tokens,
        compared=compared,
        frozen=frozen,
        cached_tokens=cached_tokens,
        word_maps=by_word("word_maps"),
        word_similarity=by_word("word_similarity"),
    )
