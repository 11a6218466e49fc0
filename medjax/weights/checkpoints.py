"""Load a published tower; save one so that a PyTorch pipeline can load it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from medjax.data.whole import whole
from medjax.nn.bert import BertConfig
from medjax.nn.resnet import ResNetConfig
from medjax.nn.vit import ViTConfig
from medjax.typing import Variables
from medjax.weights.convert import from_torch, to_torch
from medjax.weights.files import (
    WEIGHTS,
    check_sha256,
    read_tensors,
    weight_files,
)
from medjax.weights.names import Network

Config = BertConfig | ResNetConfig | ViTConfig


def load(
    source: str | Path,
    network: Network,
    variables: Variables,
    *,
    revision: str | None = None,
    sha256: str | None = None,
) -> dict[str, Any]:
    """Reads a checkpoint into a network's variables.

    Args:
      source: A folder, a safetensors file, a shard index, or a hub id
        (``owner/name``, ``owner/name@revision``).
      network: ``"resnet"`` (torchvision's names), ``"vit"`` (timm's), ``"bert"`` or
        ``"bert_mlm"`` (Hugging Face's).
      variables: The network's own, for structure, shapes, dtypes and shardings; arrays,
        or the `jax.ShapeDtypeStruct`s of `jax.eval_shape`. Not changed.
      revision: Branch, tag or commit of a hub repository; pin one in real runs.
      sha256: Expected digest of a single weights file.

    Returns:
      A tree like ``variables`` with the checkpoint's numbers. What the checkpoint holds
      of heads, and of layers after the last one wanted, is left aside and logged.

    Raises:
      ValueError: Tensors missing, not expected or of another shape (all are listed);
        a pickle; another digest.
      FileNotFoundError: No such checkpoint.
      ConnectionError: The hub could not be reached.
    """
    paths = weight_files(source, revision=revision)
    if sha256 is not None:
        check_sha256(paths, sha256)
    tensors = dict(read_tensors(paths))
    try:
        return from_torch(tensors, network, variables)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def save(
    folder: str | Path, network: Network, variables: Variables, config: Config
) -> Path:
    """Writes ``model.safetensors`` under PyTorch's names, and ``config.json``.

    The weights load with ``load_state_dict(strict=True)`` into torchvision's ResNet
    (``fc`` replaced by the identity), timm's ViT (``num_classes=0``), or Hugging Face's
    ``BertModel(config, add_pooling_layer=False)`` and ``BertForMaskedLM``.

    Args:
      folder: Made if it does not exist.
      network: As for `load`.
      variables: All of the network's collections, on this host.
      config: The network's. BERT's is written so that ``AutoModel`` reads it.

    Returns:
      The weights file.

    Raises:
      ValueError: Variables that are not of this network.
    """
    folder = Path(folder)
    if isinstance(config, BertConfig):
        content = config.to_dict()
        if network == "bert_mlm":
            content["architectures"] = ["BertForMaskedLM"]
    else:
        content = {"network": network, **dataclasses.asdict(config)}
    path = folder / WEIGHTS
    # transformers refuses a file that does not say which framework it is for.
    with whole(path) as draft:
        save_file(to_torch(network, variables), draft, metadata={"format": "pt"})
    with whole(folder / "config.json") as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")
    return path
