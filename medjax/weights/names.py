"""One name table per network: what PyTorch calls a tensor, and where we keep it.

A rule pairs a PyTorch name with a path into our variables; ``{x}`` stands for a number
and means the same on both sides, so that the one table reads in both directions::

    layer{s}.{b}.conv{c}.weight  <->  params/layer{s}/block{b}/conv{c}/kernel

A layout says how the numbers lie: PyTorch keeps a dense kernel as (out, in) and
a convolution as (out, in, h, w), Flax as (in, out) and (h, w, in, out).
"""

import dataclasses
import re
from typing import Literal, NamedTuple

import numpy as np

Layout = Literal[
    "same",
    "dense",
    "conv",
    "conv_turned",
    "up",
    "up_turned",
    "prompt",
    "prompt_turned",
    "scalar",
    "pointwise",
    "conv_3d",
    "double",
    "double_3d",
    "field",
    "backwards",
]
"""``up``: a transposed convolution, which runs over its kernel backwards here.
``double``: one that does not, of :class:`medjax.nn.halving.Double`. ``turned``: the
height of their images is the width of ours. ``pointwise``: a convolution of one pixel,
which is a dense layer here. ``field``: a convolution over volumes whose results are the
other way round here, and ``backwards`` its bias."""

TO_FLAX: dict[Layout, tuple[int, ...]] = {
    "dense": (1, 0),
    "conv": (2, 3, 1, 0),
    "conv_turned": (3, 2, 1, 0),
    "up": (2, 3, 0, 1),
    "up_turned": (3, 2, 0, 1),
    "prompt": (0, 2, 3, 1),
    "prompt_turned": (0, 3, 2, 1),
    "conv_3d": (2, 3, 4, 1, 0),
    "double": (2, 3, 0, 1),
    "double_3d": (2, 3, 4, 0, 1),
    "field": (2, 3, 4, 1, 0),
    "backwards": (0,),
}
"""Axis orders; the others have none. Of prompts, after the leading axis of one."""
PROMPTS = ("prompt", "prompt_turned")
BACKWARDS = ("up", "up_turned")
LAST_BACKWARDS = ("field", "backwards")


def to_flax_layout(layout: Layout, tensor: np.ndarray) -> np.ndarray:
    """PyTorch's tensor as Flax keeps it; of an unexpected rank, as it is."""
    if layout == "scalar" and tensor.size == 1:
        return tensor.reshape(())
    if layout in PROMPTS and tensor.ndim == 5 and len(tensor) == 1:
        tensor = tensor[0]
    if layout == "pointwise" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0].T
    order = TO_FLAX.get(layout)
    if order is None or tensor.ndim != len(order):
        return tensor
    turned = tensor.transpose(order)
    if layout in LAST_BACKWARDS:
        return turned[..., ::-1]
    return turned[::-1, ::-1] if layout in BACKWARDS else turned


def to_torch_layout(layout: Layout, value: np.ndarray) -> np.ndarray:
    """The inverse."""
    if layout == "scalar":
        return value.reshape(1)
    if layout == "pointwise":
        return value.T[:, :, None, None]
    if layout in BACKWARDS:
        value = value[::-1, ::-1]
    if layout in LAST_BACKWARDS:
        value = value[..., ::-1]
    order = TO_FLAX.get(layout)
    tensor = value if order is None else value.transpose(np.argsort(order))
    return tensor[None] if layout in PROMPTS else tensor


Network = Literal["resnet", "vit", "bert", "bert_mlm", "head"]


class Rule(NamedTuple):
    """One correspondence, or with ``{x}`` a family of them."""

    torch: str
    flax: str
    layout: Layout = "same"
    stacked: str = ""
    """The ``{x}`` whose tensors are one array of ours, on its first axis (cascades)."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The correspondences of one network, and what else its checkpoints hold."""

    rules: tuple[Rule, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    """Applied to imported names first: (regex, replacement), for older spellings."""
    silent: tuple[str, ...] = ()
    """Regexes of imported names that carry no weights."""
    optional: tuple[str, ...] = ()
    """Regexes of imported names that belong to heads and layers a tower may leave out;
    skipped with a log line."""
    counters: tuple[tuple[str, str], ...] = ()
    """Names that PyTorch wants with the value 0: (regex of a name, the counter's)."""
    tied: tuple[tuple[str, str], ...] = ()
    """Names that PyTorch wants as a copy of another: (name, source)."""
    name: str = ""
    """Of the network, for messages."""

    def to_flax(self, name: str) -> tuple[str, Layout, int | None] | None:
        """Path, layout and place on the leading axis of a PyTorch name.

        None: not of this network. The place is None where an array is one tensor.
        """
        for rule in self.rules:
            if (found := match(rule.torch, name)) is not None:
                place = int(found[rule.stacked]) if rule.stacked else None
                return rule.flax.format(**found), rule.layout, place
        return None

    def to_torch(self, path: str, count: int = 1) -> tuple[list[str], Rule] | None:
        """PyTorch's names of one of our paths, and the rule; None: not of this network.

        Args:
            path: One of ours.
            count: Of the tensors on its leading axis, where they are stacked.
        """
        for rule in self.rules:
            if (found := match(rule.flax, path)) is not None:
                if not rule.stacked:
                    return [rule.torch.format(**found)], rule
                every = [{**found, rule.stacked: i} for i in range(count)]
                return [rule.torch.format(**one) for one in every], rule
        return None


def match(template: str, name: str) -> dict[str, str] | None:
    """The numbers behind each ``{x}``, or None if ``name`` is not of that form."""
    pattern = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    found = re.fullmatch(pattern, name)
    return found.groupdict() if found else None


def dense(torch: str, flax: str) -> tuple[Rule, ...]:
    """A linear layer with bias."""
    return (
        Rule(f"{torch}.weight", f"params/{flax}/kernel", "dense"),
        Rule(f"{torch}.bias", f"params/{flax}/bias"),
    )


def conv(torch: str, flax: str) -> tuple[Rule, ...]:
    """A convolution; without bias, the second rule never matches."""
    return (
        Rule(f"{torch}.weight", f"params/{flax}/kernel", "conv"),
        Rule(f"{torch}.bias", f"params/{flax}/bias"),
    )


def pointwise(torch: str, flax: str) -> tuple[Rule, ...]:
    """A convolution of one pixel there, a linear layer here."""
    return (
        Rule(f"{torch}.weight", f"params/{flax}/kernel", "pointwise"),
        Rule(f"{torch}.bias", f"params/{flax}/bias"),
    )


def layer_norm(torch: str, flax: str) -> tuple[Rule, ...]:
    """Scale and shift."""
    return (
        Rule(f"{torch}.weight", f"params/{flax}/scale"),
        Rule(f"{torch}.bias", f"params/{flax}/bias"),
    )


def batch_norm(torch: str, flax: str) -> tuple[Rule, ...]:
    """Scale, shift and running statistics."""
    return (
        *layer_norm(torch, flax),
        Rule(f"{torch}.running_mean", f"batch_stats/{flax}/mean"),
        Rule(f"{torch}.running_var", f"batch_stats/{flax}/var"),
    )


RESNET = Table(
    rules=(
        *conv("conv1", "conv1"),
        *batch_norm("bn1", "bn1"),
        *conv("layer{s}.{b}.conv{c}", "layer{s}/block{b}/conv{c}"),
        *batch_norm("layer{s}.{b}.bn{c}", "layer{s}/block{b}/bn{c}"),
        *conv("layer{s}.{b}.downsample.0", "layer{s}/block{b}/downsample_conv"),
        *batch_norm("layer{s}.{b}.downsample.1", "layer{s}/block{b}/downsample_bn"),
    ),
    silent=(r".*\.num_batches_tracked",),
    optional=(r"fc\..*",),
    counters=((r"(.*)\.running_mean", r"\1.num_batches_tracked"),),
)
"""torchvision's ``resnet*`` (and timm's, whose names are the same)."""

VIT = Table(
    rules=(
        Rule("cls_token", "params/cls_token"),
        Rule("pos_embed", "params/positions"),
        *conv("patch_embed.proj", "patch_embedding"),
        *layer_norm("blocks.{i}.norm1", "block_{i}/norm1"),
        *dense("blocks.{i}.attn.qkv", "block_{i}/attention/qkv"),
        *dense("blocks.{i}.attn.proj", "block_{i}/attention/output"),
        *layer_norm("blocks.{i}.norm2", "block_{i}/norm2"),
        *dense("blocks.{i}.mlp.fc1", "block_{i}/mlp/up"),
        *dense("blocks.{i}.mlp.fc2", "block_{i}/mlp/down"),
        *layer_norm("norm", "norm"),
    ),
    optional=(r"head\..*", r"head_drop\..*", r"pre_logits\..*"),
)
"""timm's ``vit_*_patch16_224``."""


def _bert(torch: str, flax: str) -> tuple[Rule, ...]:
    """The encoder, under a prefix on either side."""

    def embedding(name: str) -> Rule:
        return Rule(
            f"{torch}embeddings.{name}.weight",
            f"params/{flax}embeddings/{name}/embedding",
        )

    theirs, ours = f"{torch}encoder.layer.{{i}}", f"{flax}layer_{{i}}"
    return (
        embedding("word_embeddings"),
        embedding("position_embeddings"),
        embedding("token_type_embeddings"),
        *layer_norm(f"{torch}embeddings.LayerNorm", f"{flax}embeddings/layer_norm"),
        *dense(f"{theirs}.attention.self.query", f"{ours}/attention/query"),
        *dense(f"{theirs}.attention.self.key", f"{ours}/attention/key"),
        *dense(f"{theirs}.attention.self.value", f"{ours}/attention/value"),
        *dense(f"{theirs}.attention.output.dense", f"{ours}/attention/output"),
        *layer_norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm"),
        *dense(f"{theirs}.intermediate.dense", f"{ours}/mlp/up"),
        *dense(f"{theirs}.output.dense", f"{ours}/mlp/down"),
        *layer_norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm"),
    )


OLD_SPELLINGS = (
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)

BERT = Table(
    rules=_bert("", ""),
    renamed=((r"^bert\.", ""), *OLD_SPELLINGS),
    silent=(r"embeddings\.position_ids",),
    # CXR-BERT's projection is not used by M-FLAG: it aligns the [CLS] embedding.
    optional=(r"pooler\..*", r"cls\..*", r"cls_projection_head\..*", r"classifier\..*"),
)
"""Hugging Face's ``BertModel``, read with or without the prefix ``bert.``."""

BERT_MLM = Table(
    rules=(
        *_bert("bert.", "bert/"),
        *dense("cls.predictions.transform.dense", "head/dense"),
        *layer_norm("cls.predictions.transform.LayerNorm", "head/layer_norm"),
        Rule("cls.predictions.bias", "params/head/bias"),
    ),
    renamed=OLD_SPELLINGS,
    silent=(r"bert\.embeddings\.position_ids", r"cls\.predictions\.decoder\..*"),
    optional=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
    tied=(
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
)
"""``BertForMaskedLM``, for variables with the parts ``bert`` and ``head``."""

HEAD = Table(
    rules=(
        *dense("linear{i}", "linear{i}"),
        *batch_norm("bn{i}", "bn{i}"),
    ),
    silent=(r".*\.num_batches_tracked",),
    counters=((r"(.*)\.running_mean", r"\1.num_batches_tracked"),),
)
"""A projection head: two linear layers, with or without a BatchNorm behind each."""

TABLES: dict[Network, Table] = {
    "resnet": RESNET,
    "vit": VIT,
    "bert": BERT,
    "bert_mlm": BERT_MLM,
    "head": HEAD,
}
