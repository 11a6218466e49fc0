"""Latent diffusion in the folders of ``diffusers``: read, and written for PyTorch.

::

    model_index.json
    unet/            config.json, diffusion_pytorch_model.safetensors (or shards)
    vae/             the same
    text_encoder/    config.json, model.safetensors
    tokenizer/       the tokenizer's files
    scheduler/       scheduler_config.json
    medjax.json      written here: which section of a report conditions a film

Stable Diffusion 1.x and 2.x, RoentGen, and what is trained here lie like this. Only
safetensors are read. A single file with everything in it, LoRA weights (differences to
a model that is not there) and pickles are refused with what to do instead.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from safetensors.numpy import save_file

from medjax.data.boundary import DataError, reading
from medjax.data.documents import read_json
from medjax.data.whole import whole
from medjax.nn.bert import MODEL_TYPES, BertConfig
from medjax.nn.diffusion.autoencoder import AutoencoderConfig
from medjax.nn.diffusion.clip_text import ClipTextConfig
from medjax.nn.diffusion.settings import as_settings
from medjax.nn.diffusion.unet import UNetConfig
from medjax.vlp.diffusion.networks import Networks, Params, parameter_shapes
from medjax.vlp.diffusion.schedule import ScheduleConfig
from medjax.vlp.tokens import load_tokenizer
from medjax.weights.checkpoints import WEIGHTS
from medjax.weights.convert import from_torch, to_torch
from medjax.weights.diffusion import AUTOENCODER, CLIP_TEXT, unet
from medjax.weights.files import checkpoint_file, read_tensors, weight_files
from medjax.weights.names import BERT, Table

INDEX = "model_index.json"
OURS = "medjax.json"
Section = Literal["impression", "findings", "report"]
Tokenize = Callable[[Sequence[str]], Int[np.ndarray, "b n"]]
"""Texts to ids, padded as the text model wants them."""

FOLDERS = {"unet": "unet", "autoencoder": "vae", "text": "text_encoder"}
"""Where each part of the parameters lies."""
DIFFUSERS = "diffusion_pytorch_model"
"""What weights are called in ``unet`` and ``vae``."""
LORA = "pytorch_lora_weights.safetensors"
WORDPIECE = (("tokenizer.json",), ("vocab.txt",))
BYTE_PAIRS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Files of a vocabulary: as transformers 5 writes them, and as earlier ones did."""
MAY_BE_BESIDE = ("special_tokens_map.json", "added_tokens.json")
"""What earlier ones wrote as well; later ones have it in the tokenizer's settings."""

SINGLE_FILE = (
    "is one file with the whole model in it, under names of another program. Convert "
    "it once, where PyTorch and diffusers are: StableDiffusionPipeline."
    "from_single_file(FILE).save_pretrained(FOLDER)"
)
ONLY_LORA = (
    "holds LoRA weights, which are differences to a model that is not there. Put both "
    "together once, where PyTorch and diffusers are: pipe.load_lora_weights(FOLDER); "
    "pipe.fuse_lora(); pipe.save_pretrained(NEW)"
)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """All that makes films of reports.

    Attributes:
      networks: sizes.
      params: weights, on this host.
      tokenize: texts to ids.
      section: what of a report conditions a film.
      save_tokenizer: writes the tokenizer's files into a folder.
      identity: SHA-256 of the weights, or nothing for those that have no file yet.
    """

    networks: Networks
    params: Params
    tokenize: Tokenize
    section: Section
    save_tokenizer: Callable[[Path], Any]
    identity: str = ""


def load_pipeline(source: str | Path) -> Pipeline:
    """Reads a folder, or a hub repository, of ``diffusers``.

    Args:
      source: the folder, or ``owner/name``, or ``owner/name@revision``.

    Raises:
      FileNotFoundError: a part is missing.
      DataError: a file that is damaged.
      ValueError: a single file, LoRA weights, pickles, or a network of another kind;
        the message says what to do.
      ConnectionError: the hub could not be reached.
    """
    networks = load_networks(source)
    # What is small first: weights of gigabytes are not fetched to be of no use.
    tokenize, save = _tokenizer(source, networks)
    section = _section(source, networks)
    shapes = parameter_shapes(networks)
    params, digest = {}, hashlib.sha256()
    for part, folder in FOLDERS.items():
        name = "model" if part == "text" else DIFFUSERS
        paths = weight_files(source, name=f"{folder}/{name}")
        tensors = dict(read_tensors(paths))
        for path in paths:
            with path.open("rb") as stream:
                own = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{part} {own}\n".encode())
        if any("lora" in tensor for tensor in tensors):
            raise ValueError(f"source: {paths[0]} {ONLY_LORA}")
        try:
            filled = from_torch(
                tensors, _table(networks, part), {"params": shapes[part]}
            )
        except ValueError as error:
            raise ValueError(f"{paths[0].parent}: {error}") from error
        params[part] = filled["params"]
    return Pipeline(networks, params, tokenize, section, save, digest.hexdigest())


def load_networks(source: str | Path) -> Networks:
    """Reads the sizes alone, as :func:`load_pipeline` does.

    Raises:
      FileNotFoundError: a part is missing.
      ValueError: a network of another kind.
      ConnectionError: the hub could not be reached.
    """
    _refuse(Path(source))
    _part(source, INDEX)
    return Networks(
        unet=_settings(source, "unet/config.json", UNetConfig.from_dict),
        autoencoder=_settings(source, "vae/config.json", AutoencoderConfig.from_dict),
        text=_settings(source, "text_encoder/config.json", _text_settings),
        schedule=_settings(
            source, "scheduler/scheduler_config.json", ScheduleConfig.from_dict
        ),
    )


def save_pipeline(folder: str | Path, pipeline: Pipeline) -> Path:
    """Writes a folder that :func:`load_pipeline` and ``diffusers`` read.

    Args:
      folder: made where it is missing.
      pipeline: what is written; parameters on this host.

    Returns:
      The folder.
    """
    folder, networks = Path(folder), pipeline.networks
    clip = isinstance(networks.text, ClipTextConfig)
    contents = {
        "unet/config.json": as_settings(
            networks.unet,
            compute=("attention", "dtype"),
            _class_name="UNet2DConditionModel",
        ),
        "vae/config.json": as_settings(
            networks.autoencoder,
            compute=("dtype",),
            _class_name="AutoencoderKL",
            sample_size=networks.image_size,
            **networks.autoencoder.block_types(),
        ),
        "text_encoder/config.json": networks.text.to_dict(),
        "scheduler/scheduler_config.json": networks.schedule.to_dict(),
        OURS: {"section": pipeline.section},
    }
    for part, inside in FOLDERS.items():
        name = WEIGHTS if part == "text" else f"{DIFFUSERS}.safetensors"
        tensors = to_torch(_table(networks, part), {"params": pipeline.params[part]})
        with whole(folder / inside / name) as draft:
            save_file(tensors, draft, metadata={"format": "pt"})
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    pipeline.save_tokenizer(folder / "tokenizer")
    # Last, since a folder with an index is taken for a whole one.
    contents[INDEX] = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel" if clip else "BertModel"],
        "tokenizer": ["transformers", "CLIPTokenizer" if clip else "BertTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    for name, content in contents.items():
        with whole(folder / name) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n")
    return folder


def _refuse(path: Path) -> None:
    """What is on this machine, and no folder of ``diffusers``."""
    if path.is_file():
        lora = "lora" in path.name.lower()
        raise ValueError(f"source: {path} {ONLY_LORA if lora else SINGLE_FILE}")
    if path.is_dir() and not (path / INDEX).is_file():
        if (path / LORA).is_file():
            raise ValueError(f"source: {path} {ONLY_LORA}")
        found = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.ckpt"))
        if found:
            raise ValueError(f"source: {found[0]} {SINGLE_FILE}")
        raise FileNotFoundError(
            f"source: {path} holds no {INDEX}, so it is not a folder of diffusers"
        )


def _part(source: str | Path, name: str) -> Path:
    return checkpoint_file(source, name)


def _settings(
    source: str | Path, name: str, parse: Callable[[Mapping[str, Any]], Any]
) -> Any:
    path = _part(source, name)
    what = "configuration of latent diffusion"
    content = read_json(path, what)
    with reading(path, what):
        return parse(content)


def _text_settings(content: Mapping[str, Any]) -> ClipTextConfig | BertConfig:
    kind = content.get("model_type", "clip_text_model")
    if kind == "clip_text_model":
        return ClipTextConfig.from_dict(content)
    if kind in MODEL_TYPES:
        return BertConfig.from_dict(content)
    raise ValueError(f"model_type: expected clip_text_model or bert, got {kind!r}")


def _table(networks: Networks, part: str) -> Table:
    if part == "unet":
        return unet(linear=networks.unet.use_linear_projection)
    if part == "autoencoder":
        return AUTOENCODER
    return CLIP_TEXT if isinstance(networks.text, ClipTextConfig) else BERT


def _section(source: str | Path, networks: Networks) -> Section:
    """As the folder says; else what fits the text model."""
    try:
        path = _part(source, OURS)
    except FileNotFoundError:
        clip = isinstance(networks.text, ClipTextConfig)
        return "impression" if clip else "report"
    section = read_json(path, "what conditions a film").get("section")
    if section not in ("impression", "findings", "report"):
        raise DataError(
            f"{path}: section: expected impression, findings or report, got {section!r}"
        )
    return section


def _tokenizer(
    source: str | Path, networks: Networks
) -> tuple[Tokenize, Callable[[Path], Any]]:
    """Ids of texts, and how the tokenizer is written."""
    if isinstance(networks.text, BertConfig):
        tokenizer = load_tokenizer(_tokenizer_folder(source, WORDPIECE))
        length = min(tokenizer.inner.model_max_length, networks.max_length)
        return lambda texts: tokenizer.encode(texts, length), tokenizer.save
    folder = _tokenizer_folder(source, BYTE_PAIRS)
    with reading(folder, "tokenizer of CLIP"):
        from transformers import CLIPTokenizer

        inner = CLIPTokenizer.from_pretrained(folder)

    def tokenize(texts: Sequence[str]) -> Int[np.ndarray, "b n"]:
        rows = inner(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=networks.max_length,
        )["input_ids"]
        return np.asarray(rows, np.int32)

    return tokenize, lambda folder: inner.save_pretrained(str(folder))


def _tokenizer_folder(source: str | Path, layouts: Sequence[Sequence[str]]) -> Path:
    """Where a tokenizer lies, with all files that there are of it.

    Args:
      source: as for :func:`load_pipeline`.
      layouts: the files of a vocabulary, as versions of transformers write them.

    Raises:
      FileNotFoundError: of no layout all files are there; transformers would make a
        tokenizer that knows no word.
    """
    folder = _part(source, "tokenizer/tokenizer_config.json").parent
    held = set()
    for name in (*itertools.chain(*layouts), *MAY_BE_BESIDE):
        with contextlib.suppress(FileNotFoundError):
            _part(source, f"tokenizer/{name}")
            held.add(name)
    if not any(held.issuperset(layout) for layout in layouts):
        wanted = ", or ".join(" and ".join(layout) for layout in layouts)
        raise FileNotFoundError(
            f"source: expected {wanted} in tokenizer/ of {source}, found "
            f"{sorted(held) or 'none of them'}"
        )
    return folder
