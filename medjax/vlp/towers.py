"""The two towers of every pre-training system, chosen by flags.

An image tower turns a radiograph into stage maps and one pooled vector; a report tower
turns tokens into one vector. Systems that compare places with words ask both for more:
``ImageFeatures.local`` and ``TextTower.features``.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.nn.attention import AttentionImplementation
from medjax.nn.bert import BERTS, Bert, BertConfig
from medjax.nn.resnet import RESNETS, ResNet, ResNetConfig
from medjax.nn.vit import VITS, ViT, ViTConfig
from medjax.train.mesh import Statistics
from medjax.typing import Variables
from medjax.vlp.tokens import Tokenizer, load_tokenizer
from medjax.weights import checkpoint_file, load, save

DType = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class ImageTowerConfig:
    """What reads radiographs."""

    architecture: Literal[
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet_tiny",
        "vit_s16",
        "vit_b16",
        "vit_tiny",
    ] = "resnet50"
    """Network and size; the tiny ones are for small films on a CPU."""
    checkpoint: str | None = None
    """Weights to start from: a folder, a safetensors file or a hub id."""
    frozen_statistics: bool = False
    """Normalise with the checkpoint's statistics in training, too (ResNet)."""
    statistics: Statistics = "global"
    """Whose share of the batch has BatchNorm statistics of its own (ResNet); "device"
    is training without synchronised statistics, as most released code does it."""
    dtype: DType = "float32"
    """Of the computation; parameters stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    attention: AttentionImplementation = "xla"
    """Of a ViT; ``cudnn``: the fused kernel, bfloat16 on NVIDIA GPUs from Ampere on."""


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """What reads reports."""

    architecture: Literal["base", "tiny"] = "base"
    """Sizes of the BERT where there is no checkpoint to say."""
    checkpoint: str | None = None
    """Weights, sizes and tokenizer to start from: a folder or a hub id."""
    vocab_size: int | None = None
    """Word-pieces where there is no checkpoint to say; None: what the sizes say."""
    layers: int | None = None
    """Use only the first so many layers; None: all."""
    pool: Literal["cls", "mean", "max"] = "cls"
    """One vector from a report: the first token, or mean or maximum over tokens."""
    layers_summed: int = 1
    """What a token is: the sum of its states after the last so many layers."""
    max_length: int = 256
    """Tokens of a section or report; longer ones are cut."""
    dtype: DType = "float32"
    """Of the computation; parameters stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    attention: AttentionImplementation = "xla"
    """``cudnn``: the fused kernel, bfloat16 on NVIDIA GPUs from Ampere on. It has no
    dropout: a tower that is trained with it needs attention-dropout 0."""
    attention_dropout: float | None = None
    """Of attention weights in training; None: what the sizes say."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer where no checkpoint brings one; None: learnt
    from the reports."""


class ImageFeatures(NamedTuple):
    """What an image tower says about radiographs."""

    maps: tuple[Float[Array, "b h w c"], ...]
    """After each of a ResNet's four stages, finest first; a ViT has none, or if asked
    for four of one size, after a third, a half, two thirds and all of its blocks."""
    pooled: Float[Array, "b d"]
    """One vector, float32: the mean of the last map, or the class token."""
    local: Float[Array, "b h w c"]
    """What systems that look at places compare: a ResNet's third stage, the patch
    tokens of a ViT."""
    looked: Float[Array, "b h w"] | None = None
    """How much a ViT's class token looks at each patch, if asked for; a ResNet has no
    such thing."""
    stem: Float[Array, "b h w c"] | None = None
    """Of a ResNet, before its first stage: half the size of the film."""


class TextFeatures(NamedTuple):
    """What a report tower says about reports; float32."""

    pooled: Float[Array, "b d"]
    """One vector per report."""
    tokens: Float[Array, "b n d"]
    """One vector per token; those at padding mean nothing."""
    looked: Float[Array, "b n"] | None = None
    """How much [CLS] looks at each token in the last layer, if asked for."""


def network_config(config: ImageTowerConfig) -> ResNetConfig | ViTConfig:
    """The network that an image tower is."""
    how: dict[str, Any] = {"dtype": config.dtype, "remat": config.remat}
    if config.architecture in VITS:
        how["attention"] = config.attention
        return dataclasses.replace(VITS[config.architecture], **how)
    return dataclasses.replace(
        RESNETS[config.architecture],
        frozen_statistics=config.frozen_statistics,
        statistics=config.statistics,
        **how,
    )


class ImageTower(nn.Module):
    """Radiographs to stage maps and one vector."""

    config: ImageTowerConfig
    look: bool = False
    """Whether to say where a ViT's class token looks."""
    deep: bool = False
    """Whether to give maps of a ViT as well."""

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], *, train: bool = False
    ) -> ImageFeatures:
        config = network_config(self.config)
        if isinstance(config, ResNetConfig):
            seen = ResNet(config, name="resnet")(image, train=train)
            return ImageFeatures(seen.maps, seen.pooled, seen.maps[2], stem=seen.stem)
        n = config.layers
        depths = (max(1, n // 3), max(1, n // 2), max(1, 2 * n // 3), n)
        seen = ViT(config, self.look, depths if self.deep else (), name="vit")(image)
        pooled = seen.cls.astype(jnp.float32)
        return ImageFeatures(seen.depths, pooled, seen.tokens, seen.looked)


@functools.cache
def bert_config(config: TextTowerConfig) -> BertConfig:
    """The BERT that a report tower is, with its sizes settled.

    Raises:
      ValueError: the checkpoint has no configuration, it is not a BERT, or it has fewer
        positions than ``max_length`` asks for.
    """
    if config.checkpoint is None:
        sizes = BERTS[config.architecture]
        if config.vocab_size is not None:
            sizes = dataclasses.replace(sizes, vocab_size=config.vocab_size)
    else:
        path = checkpoint_file(config.checkpoint, "config.json")
        sizes = BertConfig.from_json(path)
    if config.max_length > sizes.max_position_embeddings:
        raise ValueError(
            f"text.max_length: expected at most {sizes.max_position_embeddings} "
            f"(positions of the network), got {config.max_length}"
        )
    sizes = sizes.truncated(config.layers)
    if not 1 <= config.layers_summed <= sizes.num_hidden_layers + 1:
        raise ValueError(
            f"text.layers_summed: expected 1 to {sizes.num_hidden_layers + 1} (layers "
            f"and the embeddings), got {config.layers_summed}"
        )
    if config.attention_dropout is not None:
        sizes = dataclasses.replace(
            sizes, attention_probs_dropout_prob=config.attention_dropout
        )
    return dataclasses.replace(
        sizes, dtype=config.dtype, remat=config.remat, attention=config.attention
    )


class TextTower(nn.Module):
    """Token ids to one vector per report; an empty report gives a defined vector."""

    config: TextTowerConfig
    look: bool = False
    """Whether ``features`` says where [CLS] looks."""

    def __call__(
        self, ids: Int[Array, "b n"], *, train: bool = False
    ) -> Float[Array, "b d"]:
        return self.features(ids, train=train).pooled

    @nn.compact
    def features(self, ids: Int[Array, "b n"], *, train: bool = False) -> TextFeatures:
        """One vector per report and one per token."""
        bert = bert_config(self.config)
        seen = Bert(bert, self.look, name="bert")(ids, deterministic=not train)
        last = seen.hidden[-self.config.layers_summed :]
        hidden = last[0].astype(jnp.float32)
        for state in last[1:]:
            hidden = hidden + state.astype(jnp.float32)
        real = (ids != bert.pad_token_id)[..., None]
        return TextFeatures(self._pool(hidden, real), hidden, seen.looked)

    def _pool(
        self, hidden: Float[Array, "b n d"], real: Bool[Array, "b n 1"]
    ) -> Float[Array, "b d"]:
        if self.config.pool == "cls":
            return hidden[:, 0]
        if self.config.pool == "max":
            lowest = jnp.finfo(jnp.float32).min
            found = jnp.max(jnp.where(real, hidden, lowest), axis=1)
            return jnp.where(jnp.any(real, axis=1), found, 0.0)
        count = jnp.maximum(jnp.sum(real, axis=1), 1).astype(jnp.float32)
        return jnp.sum(jnp.where(real, hidden, 0.0), axis=1) / count


def load_towers(
    variables: Variables, image: ImageTowerConfig, text: TextTowerConfig
) -> dict[str, Any]:
    """The checkpoints that the two towers start from, as part of a system's variables.

    Args:
      variables: the system's own, or their shapes (``jax.eval_shape`` of its ``init``).
      image: names the image checkpoint, or none.
      text: names the text checkpoint, or none.

    Returns:
      The collections of the towers that have a checkpoint; empty if neither has.
    """
    loaded: dict[str, Any] = {}
    for tower, config in (("image", image), ("text", text)):
        if config.checkpoint is None:
            continue
        network, own = _tower(variables, tower)
        for collection, tree in load(config.checkpoint, network, own).items():
            loaded.setdefault(collection, {})[tower] = {network: tree}
    return loaded


def check_vocabulary(config: TextTowerConfig) -> None:
    """Refuses a checkpoint whose tokenizer and word embeddings do not belong together.

    Ids beyond the embeddings would be read as other words without an error; embeddings
    beyond the ids mean that the tokenizer is another model's.

    Raises:
      ValueError: naming both numbers; or the checkpoint has no tokenizer.
    """
    if config.checkpoint is None:
        return
    rows = bert_config(config).vocab_size
    words = load_tokenizer(config.checkpoint).vocab_size
    if words != rows:
        raise ValueError(
            f"text.checkpoint: the tokenizer of {config.checkpoint} has {words} "
            f"word-pieces, the network has embeddings for {rows}: they must be equal; "
            "take the tokenizer that the weights were trained with"
        )


def save_towers(
    folder: Path,
    variables: Variables,
    image: ImageTowerConfig,
    text: TextTowerConfig,
    tokenizer: Tokenizer,
) -> None:
    """Writes both towers under PyTorch's names, ``image/`` and ``text/`` in a folder.

    Args:
      folder: made if it does not exist.
      variables: the system's, on this host.
      image: the image tower.
      text: the report tower.
      tokenizer: the report tower's; lies beside its weights, so that the folder is a
        checkpoint like any other.
    """
    network, own = _tower(variables, "image")
    save(folder / "image", network, own, network_config(image))
    network, own = _tower(variables, "text")
    save(folder / "text", network, own, bert_config(text))
    tokenizer.save(folder / "text")


def _tower(variables: Variables, tower: str) -> tuple[Any, dict[str, Any]]:
    """The one network of a tower, by name, and its collections."""
    (network,) = variables["params"][tower]
    collections = {
        name: tree[tower][network] for name, tree in variables.items() if tower in tree
    }
    return network, collections
