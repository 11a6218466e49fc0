"""Weights and outputs of torch diffusers on tiny networks, as they are stored."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def stored() -> dict[str, np.ndarray]:
    """All arrays by name."""
    path = Path(__file__).parents[1] / "golden" / "diffusion.npz"
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays}


def config(golden: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    return json.loads(str(golden[f"{name}/config"]))


def weights(golden: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    prefix = f"{name}/weights/"
    return {
        key.removeprefix(prefix): value.astype(np.float32)
        for key, value in golden.items()
        if key.startswith(prefix)
    }
