"""Writes resnet.npz and vit.npz: what PyTorch's networks make of random weights.

Needs PyTorch (extra ``parity``), which the tests that read the files do not. Weights
and images are exact in float16, which is how they are stored. Run in the repository's
root as ``python -m tests.golden.make_towers``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden.towers import (
    RESNET_SIZES,
    RESNETS,
    VIT,
    VIT_SIZES,
    resnet_cost,
    vit_cost,
)
from tests.nn.torch_parity import build, channels_last, state
from tests.nn.torch_resnet import TorchResNet
from tests.nn.torch_vit import TorchViT

Arrays = dict[str, np.ndarray]


def rounded(network: Any, config: Any, arrays: Arrays, prefix: str) -> torch.nn.Module:
    """A network of random weights that float16 can hold; stores them."""
    model = build(network, config)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    for name, value in state(model).items():
        if value.dtype == np.float32:
            arrays[f"{prefix}/weights/{name}"] = value.astype(np.float16)
    return model


def images(count: int, height: int, width: int) -> np.ndarray:
    shape = (count, height, width, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float16)


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.tensor(images.astype(np.float32)).permute(0, 3, 1, 2)


def store_gradients(model: torch.nn.Module, arrays: Arrays, prefix: str) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        arrays[f"{prefix}/gradient/{name}"] = parameter.grad.numpy()


def resnets() -> Arrays:
    """Evaluation of each kind at each size; of one, a training step."""
    x = images(2, 34, 43)
    arrays = {"images": x}
    for kind, config in RESNETS.items():
        model = rounded(TorchResNet, config, arrays, kind).eval()
        for size, (height, width) in RESNET_SIZES.items():
            with torch.no_grad():
                maps, pooled = model(channels_first(x[:1, :height, :width]))
            for i, array in enumerate(maps):
                arrays[f"{kind}/{size}/map{i}"] = channels_last(array)
            arrays[f"{kind}/{size}/pooled"] = pooled.numpy()
    model = rounded(TorchResNet, RESNETS["bottleneck"], arrays, "bottleneck").train()
    maps, pooled = model(channels_first(x))
    resnet_cost(maps, pooled).backward()
    arrays["step/pooled"] = pooled.detach().numpy()
    store_gradients(model, arrays, "step")
    for name, value in state(model).items():
        if "running" in name:
            arrays[f"step/after/{name}"] = value
    return arrays


def vits() -> Arrays:
    """All tokens at each size, and the gradient at one."""
    x = images(1, 48, 40)
    arrays = {"images": x}
    model = rounded(TorchViT, VIT, arrays, "vit")
    for size, (height, width) in VIT_SIZES.items():
        tokens = model(channels_first(x[:, :height, :width]))
        arrays[f"vit/{size}/tokens"] = tokens.detach().numpy()
        if size == "stretched":
            vit_cost(tokens[:, 0], tokens[:, 1:]).backward()
    store_gradients(model, arrays, "vit")
    return arrays


if __name__ == "__main__":
    folder = Path(__file__).parent
    np.savez_compressed(folder / "resnet.npz", **resnets())
    np.savez_compressed(folder / "vit.npz", **vits())
