"""BERT: Devlin et al., "Bidirectional transformers", NAACL 2019, for any HF config.

The parameters map one to one to Hugging Face's ``BertModel`` (``medjax.weights`` has
the table), so BioClinicalBERT, CXR-BERT or PubMedBERT load as they are. Post-norm
layers, learned positions. The pooler (a dense layer trained for next-sentence
prediction) is left out: no system here uses it. `MlmHead` is ``cls.predictions`` of
``BertForMaskedLM``, tied to the word embeddings.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.data.boundary import reading
from medjax.data.documents import read_json
from medjax.nn.attention import (
    ACTIVATIONS,
    AttentionImplementation,
    Mlp,
    MultiHeadAttention,
)
from medjax.nn.normalization import LayerNorm

MODEL_TYPES = {"bert", "cxr-bert"}
"""Values of ``model_type`` whose forward pass is this one."""
MOST = 10**7
"""Above every size of a BERT, below what would be asked of memory in vain."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes under Hugging Face's names (``config.json``), then how to compute."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    attention: AttentionImplementation = "xla"
    """See `MultiHeadAttention.implementation`."""
    remat: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters stay float32."""

    @staticmethod
    def from_dict(sizes: Mapping[str, Any], **compute: Any) -> "BertConfig":
        """Reads the content of a ``config.json``.

        Args:
          sizes: Keys of Hugging Face's ``BertConfig``; those without a meaning for the
            forward pass (token names, version, label names) are left aside.
          **compute: ``attention``, ``remat``, ``dtype``.

        Returns:
          The configuration.

        Raises:
          ValueError: A network that is not BERT, relative positions, a decoder, an
            activation that is not known, or a size that is none.
        """
        kind = sizes.get("model_type", "bert")
        if kind not in tuple(MODEL_TYPES):
            raise ValueError(f"model_type: expected one of {MODEL_TYPES}, got {kind!r}")
        positions = sizes.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise ValueError(
                f"position_embedding_type: expected 'absolute', got {positions!r}"
            )
        if sizes.get("is_decoder"):
            raise ValueError("is_decoder: expected an encoder, got True")
        known = {f.name for f in dataclasses.fields(BertConfig)}
        known -= {"attention", "remat", "dtype"}
        values = {k: v for k, v in sizes.items() if k in known and v is not None}
        config = BertConfig(**values, **compute)
        _check_sizes(config)
        if config.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act: expected one of {sorted(ACTIVATIONS)}, "
                f"got {config.hidden_act!r}"
            )
        return config

    @staticmethod
    def from_json(path: str | Path, **compute: Any) -> "BertConfig":
        """Reads a ``config.json``; see `from_dict`.

        Raises:
          FileNotFoundError: No such file.
          DataError: Naming the file and what of it is no BERT's.
        """
        what = "configuration of a BERT"
        with reading(path, what):
            return BertConfig.from_dict(read_json(path, what), **compute)

    def to_dict(self) -> dict[str, Any]:
        """The content of a ``config.json`` that Hugging Face reads as ``BertModel``."""
        values = dataclasses.asdict(self)
        for name in ("attention", "remat", "dtype"):
            del values[name]
        return {"architectures": ["BertModel"], "model_type": "bert", **values}

    def truncated(self, layers: int | None) -> "BertConfig":
        """The same network, ended after its first layers (MGCA keeps 6 of 12).

        Args:
          layers: How many to keep; None: all.

        Returns:
          The configuration. `medjax.weights.load` leaves the other layers aside.

        Raises:
          ValueError: More layers than there are, or fewer than one.
        """
        if layers is None:
            return self
        if not 1 <= layers <= self.num_hidden_layers:
            raise ValueError(
                f"layers: expected 1 to {self.num_hidden_layers}, got {layers}"
            )
        return dataclasses.replace(self, num_hidden_layers=layers)


def _check_sizes(config: BertConfig) -> None:
    """Refuses what a damaged ``config.json`` may hold in place of numbers."""
    for field in dataclasses.fields(BertConfig):
        value, default = getattr(config, field.name), field.default
        if isinstance(default, str | bool):
            continue
        wanted = float if isinstance(default, float) else int
        number = isinstance(value, int | wanted) and not isinstance(value, bool)
        least = 0 if wanted is float or field.name == "pad_token_id" else 1
        most = 1 if "dropout" in field.name else MOST
        if not number or not least <= value <= most:
            raise ValueError(
                f"{field.name}: expected a number from {least} to {most}, got {value!r}"
            )
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size: expected a multiple of the {config.num_attention_heads} "
            f"heads, got {config.hidden_size}"
        )
    if config.pad_token_id >= config.vocab_size:
        raise ValueError(
            f"pad_token_id: expected one of {config.vocab_size} ids, got "
            f"{config.pad_token_id}"
        )


BERTS: dict[str, BertConfig] = {
    "base": BertConfig(),
    # For the small vocabulary of the embedded reports, on a laptop.
    "tiny": BertConfig(
        vocab_size=1024,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=256,
    ),
}


class BertOutput(NamedTuple):
    """What BERT says about token sequences."""

    last: Float[Array, "b n d"]
    """After the last layer, in ``dtype``; ``last[:, 0]`` is the [CLS] token."""
    hidden: tuple[Float[Array, "b n d"], ...]
    """The embeddings, then the output of every layer; the last one is ``last``."""
    looked: Float[Array, "b n"] | None = None
    """How much [CLS] looks at each token in the last layer; if it was asked for."""


class BertEmbeddings(nn.Module):
    """Sum of word, position and segment embeddings, normalised."""

    config: BertConfig

    def setup(self) -> None:
        c = self.config
        self.word_embeddings = self._table(c.vocab_size)
        self.position_embeddings = self._table(c.max_position_embeddings)
        self.token_type_embeddings = self._table(c.type_vocab_size)
        self.layer_norm = LayerNorm(c.layer_norm_eps, c.dtype)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def _table(self, size: int) -> nn.Embed:
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        return nn.Embed(
            size, c.hidden_size, dtype=jnp.dtype(c.dtype), embedding_init=init
        )

    def __call__(
        self,
        ids: Int[Array, "b n"],
        types: Int[Array, "b n"] | None,
        deterministic: bool,
    ) -> Float[Array, "b n d"]:
        types = jnp.zeros_like(ids) if types is None else types
        x = self.word_embeddings(ids) + self.token_type_embeddings(types)
        x = x + self.position_embeddings(jnp.arange(ids.shape[1]))[None]
        return self.dropout(self.layer_norm(x), deterministic=deterministic)


class BertLayer(nn.Module):
    """Attention, then MLP; each added to its input and normalised."""

    config: BertConfig
    look: bool = False
    """Whether to say where the first token looks."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], deterministic: bool
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n"] | None]:
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        drop = nn.Dropout(c.hidden_dropout_prob, deterministic=deterministic)
        attention = MultiHeadAttention(
            c.num_attention_heads,
            dropout=c.attention_probs_dropout_prob,
            implementation=c.attention,
            dtype=c.dtype,
            kernel_init=init,
            name="attention",
        )
        y, looked = attention.attend(x, mask, deterministic, self.look)
        x = LayerNorm(c.layer_norm_eps, c.dtype, name="attention_norm")(x + drop(y))
        y = Mlp(c.intermediate_size, c.hidden_act, c.dtype, init, name="mlp")(x)
        norm = LayerNorm(c.layer_norm_eps, c.dtype, name="mlp_norm")
        return norm(x + drop(y)), looked


class Bert(nn.Module):
    """Token ids to contextual embeddings."""

    config: BertConfig
    look: bool = False
    """Whether to say where [CLS] looks in the last layer."""

    def setup(self) -> None:
        c = self.config
        layer = nn.remat(BertLayer, static_argnums=(3,)) if c.remat else BertLayer
        self.embeddings = BertEmbeddings(c)
        others = [layer(c) for _ in range(c.num_hidden_layers - 1)]
        self.layer = [*others, layer(c, look=self.look)]

    def __call__(
        self,
        ids: Int[Array, "b n"],
        mask: Bool[Array, "b n"] | None = None,
        *,
        token_types: Int[Array, "b n"] | None = None,
        deterministic: bool = True,
    ) -> BertOutput:
        """Runs the network.

        Args:
          ids: Token ids, [CLS] first, padded with ``pad_token_id``.
          mask: True at real tokens; None: wherever ``ids`` is not the pad id.
          token_types: Segment of each token; None: all 0.
          deterministic: Without dropout. Otherwise ``apply`` needs
            ``rngs={"dropout": key}``.

        Returns:
          The last and all hidden states.

        Raises:
          ValueError: Sequences longer than the position embeddings.
        """
        c = self.config
        if ids.shape[1] > c.max_position_embeddings:
            raise ValueError(
                f"ids: expected at most {c.max_position_embeddings} tokens "
                f"(max_position_embeddings), got {ids.shape[1]}"
            )
        mask = ids != c.pad_token_id if mask is None else mask
        x = self.embeddings(ids, token_types, deterministic)
        hidden, looked = [x], None
        for layer in self.layer:
            x, looked = layer(x, mask, deterministic)
            hidden.append(x)
        return BertOutput(x, tuple(hidden), looked)

    @property
    def word_embeddings(self) -> Float[Array, "k d"]:
        """The word embedding table, for a tied output layer."""
        return self.embeddings.word_embeddings.embedding


class MlmHead(nn.Module):
    """Which word-piece was it? The head of masked language modelling."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "b n d"], word_embeddings: Float[Array, "k d"]
    ) -> Float[Array, "b n k"]:
        """Scores every word-piece at every position.

        Args:
          hidden: Last hidden states of BERT.
          word_embeddings: `Bert.word_embeddings`, to which the output layer is tied.

        Returns:
          Logits over the vocabulary, float32.
        """
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        dense = nn.Dense(
            c.hidden_size, dtype=jnp.dtype(c.dtype), kernel_init=init, name="dense"
        )
        x = ACTIVATIONS[c.hidden_act](dense(hidden))
        x = LayerNorm(c.layer_norm_eps, c.dtype, name="layer_norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,))
        table = word_embeddings.astype(c.dtype)
        logits = jnp.einsum("bnd,kd->bnk", x, table, preferred_element_type=jnp.float32)
        return logits + bias[None, None]
