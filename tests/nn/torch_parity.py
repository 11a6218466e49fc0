"""What the parity tests share: random networks in PyTorch, and their layout."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from tests.nn.agreement import TOLERANCE as TOLERANCE
from tests.nn.agreement import close as close
from tests.nn.agreement import relative_error as relative_error


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
