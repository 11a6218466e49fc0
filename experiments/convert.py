"""Checkpoints into safetensors: another's pickle, or all that a run has learned.

::

    python -m experiments.convert gloria.ckpt towers/gloria \\
        --prefix gloria.img_encoder.model.
    python -m experiments.convert pytorch_model.bin towers/cxr-bert
    python -m experiments.convert motionEst.pth runs/deepmesh --first first/deform.pth
    python -m experiments.convert runs/imitate-tiny exported

A ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` is a pickle, and unpickling runs the code in
it. Here PyTorch reads tensors alone (``weights_only``) and refuses the rest. What lies
at OUT is then a folder for ``--image.checkpoint`` or ``--text.checkpoint``: the network
that the names tell, under the names of torchvision, timm or Hugging Face, wrappers'
prefixes taken away. Of several networks in a file ``--prefix`` names one.

Of DeepMesh and CHeart it is the folder of a run, which follows hearts or generates
them, and is not trained on. DeepMesh's network for long-axis images is a file of its
own, ``multiview.pth`` beside either stage's.

A run becomes the folder that PyTorch uses alone (``medjax.vlp.export``); runs of this
version have it already, as ``towers``.
"""

import dataclasses
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from safetensors.numpy import save_file

from medjax.data.boundary import DataError, finite, in_short, reading
from medjax.data.whole import whole
from medjax.train.ending import ends_in_words
from medjax.train.record import RECORD
from medjax.vlp.export import export_pair
from medjax.vlp.pretrained import open_pair
from medjax.weights.files import COMPANIONS, PICKLES, WEIGHTS

FIRST = {
    "resnet": r"(.*)layer1\.0\.conv1\.weight",
    "vit": r"(.*)patch_embed\.proj\.weight",
    "bert": r"(.*)embeddings\.word_embeddings\.weight",
}
"""A tensor that each network has once; what stands before it is a prefix."""
WHERE = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
"""Where training programs keep the tensors among what else they save."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """What to convert, and where it goes."""

    source: tyro.conf.Positional[Path]
    """A pickle of PyTorch (.pth, .pt, .bin, .ckpt), or the folder of a run."""
    out: tyro.conf.Positional[Path]
    """Folder for the result; made, and never one that holds something."""
    prefix: str | None = None
    """Take the tensors whose names begin so, and take that away; default: found."""
    first: Path | None = None
    """Of DeepMesh: the pickle of its first stage. Without, the mesh at end-diastole is
    to be given to what follows hearts."""
    shape: tuple[int, int, int] = (64, 128, 128)
    """Of CHeart: voxels of its label maps along z, y and x."""


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch checkpoint, by name.

    Raises:
      ImportError: PyTorch is not installed.
      DataError: It is no checkpoint, holds more than tensors and plain values, holds no
        tensors by name, or a NaN.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: reading a pickle takes PyTorch, which is not installed; "
            "pip install torch, here or where the file comes from"
        ) from error
    import pickle

    with reading(path, "PyTorch checkpoint"):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            asked = re.search(r"GLOBAL (\S+)", str(error))
            more = f" ({asked[1]})" if asked else ""
            raise DataError(
                f"{path}: holds more than tensors{more}, and unpickling that would run "
                "code of the file: save its state_dict alone, where it comes from"
            ) from None
        found = _tensors(content)
        if found is None:
            raise DataError(f"{path}: expected tensors by name, found none")
        return {
            name: finite(path, _array(tensor), f"tensor {name[:80]!r}")
            for name, tensor in found.items()
        }


def _tensors(content: Any) -> dict[str, Any] | None:
    """The tensors by name, wherever a training program put them."""
    if not isinstance(content, Mapping):
        return None
    own = {str(k): v for k, v in content.items() if hasattr(v, "untyped_storage")}
    if own:
        return own
    keys = [*(k for k in WHERE if k in content), *content]
    return next((found for k in keys if (found := _tensors(content[k]))), None)


def _array(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # which NumPy does not have
        tensor = tensor.float()
    return tensor.numpy().copy()


def networks(names: Sequence[str]) -> dict[str, str]:
    """Prefix to network, of all that the names tell."""
    found = {}
    for network, pattern in FIRST.items():
        for name in names:
            if match := re.fullmatch(pattern, name):
                found[match[1]] = network
    return found


def chosen(tensors: Mapping[str, np.ndarray], prefix: str | None, path: Path) -> str:
    """The prefix to take.

    Raises:
      DataError: No tensor begins so, or several networks are there and none is named.
    """
    found = networks(list(tensors))
    if prefix is not None:
        if not any(name.startswith(prefix) for name in tensors):
            raise DataError(
                f"{path}: no tensor begins with {prefix!r}; they are "
                f"{in_short(sorted(tensors))}"
            )
        return prefix
    if len(found) > 1:
        told = ", ".join(f"{network} {p!r}" for p, network in sorted(found.items()))
        raise DataError(f"{path}: several networks ({told}); --prefix names one")
    return next(iter(found), "")


def convert_pickle(config: Convert) -> None:
    """Writes ``model.safetensors`` and what lies beside the pickle."""
    tensors = read_pickle(config.source)
    prefix = chosen(tensors, config.prefix, config.source)
    kept = {
        k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
    }
    if convert_heart(config, kept):
        return
    with whole(config.out / WEIGHTS) as draft:
        save_file(kept, draft, metadata={"format": "pt"})
    beside = [config.source.parent / name for name in COMPANIONS]
    for path in (path for path in beside if path.is_file()):
        shutil.copy(path, config.out / path.name)
    network = networks(list(kept)).get("") or reconstruction(config.out)
    left = f", {len(tensors) - len(kept)} left" if len(kept) < len(tensors) else ""
    print(f"{config.out / WEIGHTS}: {len(kept)} tensors{left}; network: {network}")
    if network == "bert" and not (config.out / "config.json").exists():
        print("put config.json and the tokenizer's files of its language model beside")
    flag = {"resnet": "image", "vit": "image", "bert": "text"}.get(network)
    if flag is not None:
        print(f"use it: --{flag}.checkpoint {config.out}")


def convert_heart(config: Convert, tensors: Mapping[str, np.ndarray]) -> bool:
    """Writes the folder of a run, if tensors are DeepMesh's or CHeart's.

    Raises:
      DataError: Tensors that do not fit, or a file that is absent.
    """
    from medjax.heart.published import FIRST_STAGE, cheart_of, deepmesh_of, network_of

    network = network_of(tensors)
    if config.first is not None and network != "DeepMesh":
        raise ValueError(
            f"first: {config.first} is of a first stage, and {config.source} is not "
            "DeepMesh's second one"
        )
    if network is None:
        return False
    if network == FIRST_STAGE:
        raise DataError(
            f"{config.source}: the first stage of DeepMesh, which moves nothing: name "
            "the second one's pickle, and this one by --first"
        )
    data = f"released weights ({config.source.name})"
    if network == "CHeart":
        made = _fitting(
            config.source,
            lambda: cheart_of(tensors, shape=config.shape, frames=20, data=data),
        )
        use = f"medjax.load({str(config.out)!r}).generate"
    else:
        first = None
        if config.first is not None:
            first = read_pickle(config.first)
            if network_of(first) != FIRST_STAGE:
                raise DataError(
                    f"{config.first}: expected the first stage of DeepMesh, found "
                    f"{in_short(sorted(first))}"
                )
            first = _with_stem(config.first, first)
        motion = _with_stem(config.source, tensors)
        made = _fitting(config.source, lambda: deepmesh_of(motion, first, data=data))
        use = (
            f"python -m experiments.heart track {config.out} cine.nii.gz --mesh "
            "heart.vtk --out moving"
        )
    made.save(config.out)
    print(f"{config.out}: the folder of a run; network: {network}\nuse it: {use}")
    return True


def _with_stem(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A stage's tensors and those of its network for long-axis images.

    Raises:
      DataError: There is no file of that network beside.
    """
    from medjax.heart.published import STEMS

    beside = next((f for n in STEMS if (f := path.parent / n).is_file()), None)
    if beside is None:
        raise DataError(
            f"{path}: DeepMesh's network for long-axis images is a file of its own, "
            f"expected {' or '.join(STEMS)} beside"
        )
    return {**tensors, **read_pickle(beside)}


def _fitting(path: Path, make: Callable[[], Any]) -> Any:
    """What is made of a file's tensors, or an error that names the file."""
    try:
        return make()
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def reconstruction(folder: Path) -> str:
    """The published reconstruction that a folder's weights are of, or that none is."""
    from medjax.mri.published import read_published

    try:
        kind = type(read_published(folder).config).__name__.removesuffix("Config")
    except ValueError:
        return "of no name known here"
    return f"{kind}, for --checkpoints of experiments.cmrxrecon"


def convert_run(config: Convert) -> None:
    """Writes both towers, heads, tokenizer and preparation."""
    pair = open_pair(config.source)
    record = pair.record.with_sizes(config.source)
    export_pair(config.out, record, jax.device_get(pair.variables), pair.tokenizer)
    print(f"{config.out}: both towers, heads, tokenizer; weights {pair.checksum[:16]}")
    print(
        f"use it: python -m experiments.examples.zero_shot_in_pytorch {config.out} "
        "film.png --classes Pneumonia"
    )


def run(config: Convert) -> None:
    """Converts what the flags name."""
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ValueError(f"out: {config.out} holds something: name another folder")
    if (config.source / RECORD).is_file():
        convert_run(config)
    elif config.source.suffix in PICKLES:
        convert_pickle(config)
    else:
        raise DataError(
            f"source: {config.source} is neither the folder of a run nor a pickle of "
            f"PyTorch ({', '.join(PICKLES)})"
        )


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    prog = "python -m experiments.convert"
    run(tyro.cli(Convert, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
