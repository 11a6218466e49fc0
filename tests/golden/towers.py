"""What resnet.npz and vit.npz hold: the networks, sizes and costs of both sides."""

from pathlib import Path
from typing import Any

import numpy as np

from medjax.nn.resnet import ResNetConfig
from medjax.nn.vit import ViTConfig

RESNETS = {
    "basic": ResNetConfig(blocks=(1, 2, 1, 1), bottleneck=False, width=2),
    "bottleneck": ResNetConfig(blocks=(1, 1, 1, 1), width=2),
    "small stem": ResNetConfig((1, 1, 1, 1), bottleneck=False, width=2, stem="small"),
}
RESNET_SIZES = {"even": (32, 32), "odd": (33, 43), "mixed": (34, 31)}
VIT = ViTConfig(width=16, layers=2, heads=2, patch=8, image_size=32)
VIT_SIZES = {"trained": (32, 32), "stretched": (48, 40), "small": (24, 16)}


def resnet_cost(maps: Any, pooled: Any) -> Any:
    """A cost of two levels, in either library."""
    return (pooled**2).sum() + (maps[1] ** 2).mean()


def vit_cost(cls: Any, tokens: Any) -> Any:
    """A cost that gives every token a gradient of its own, in either library."""
    return (cls**3).sum() + (tokens**3).sum()


def stored(name: str) -> dict[str, np.ndarray]:
    """The arrays of a file beside this one, those in float16 as float32."""
    with np.load(Path(__file__).with_name(f"{name}.npz")) as arrays:
        wide = {k: arrays[k] for k in arrays}
    return {k: v.astype(np.float32) for k, v in wide.items()}


def below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, without it."""
    prefix += "/"
    return {
        k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
    }
