"""What the parity tests share: random networks, and one measure of agreement."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

TOLERANCE = 1e-4


def build(network: Callable[[Any], torch.nn.Module], config: Any) -> torch.nn.Module:
    """A network with scales, shifts and statistics that are not all 1 and 0."""
    torch.manual_seed(0)
    model = network(config)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape))
        elif name.endswith("running_mean") or tensor.ndim == 1:
            tensor.copy_(tensor.float() + 0.2 * torch.randn(tensor.shape))
    return model


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().numpy() for k, v in model.state_dict().items()}


def load_strict(model: torch.nn.Module, tensors: dict[str, np.ndarray]) -> None:
    tensors = {k: torch.tensor(v) for k, v in tensors.items()}
    model.load_state_dict(tensors, strict=True)


def channels_first(images: jax.Array) -> torch.Tensor:
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)


def channels_last(images: torch.Tensor) -> np.ndarray:
    return images.detach().permute(0, 2, 3, 1).numpy()


def relative_error(
    ours: jax.Array | np.ndarray, theirs: np.ndarray | torch.Tensor
) -> float:
    """Largest difference, in units of the largest value."""
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def close(ours: jax.Array | np.ndarray, theirs: np.ndarray | torch.Tensor) -> bool:
    return relative_error(ours, theirs) < TOLERANCE
