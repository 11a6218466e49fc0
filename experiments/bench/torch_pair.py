"""Their networks: the same pair of towers in PyTorch, and the way our weights enter.

A residual network with torchvision's layout and names, Hugging Face's ``BertModel``,
and the heads and loss of ConVIRT. Imported only where PyTorch is installed.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from experiments.bench.pair import DType, Sizes, Text
from medjax.nn.resnet import RESNETS, ResNetConfig
from medjax.vlp.convirt import ConvirtConfig
from medjax.weights import to_torch


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Padded as torchvision pads."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Basic, or bottleneck with the stride on the 3x3."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        sizes = [(width, 3, stride), (width, 3, 1)]
        if bottleneck:
            sizes = [(width, 1, 1), (width, 3, stride), (outputs, 1, 1)]
        before, self.depth = inputs, len(sizes)
        for i, (features, size, step) in enumerate(sizes, start=1):
            self.add_module(f"conv{i}", conv(before, features, size, step))
            self.add_module(f"bn{i}", nn.BatchNorm2d(features))
            before = features
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y, inplace=True) if i < self.depth else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    """Images ``[b, 3, h, w]`` to the mean of the last map."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        channels, small = config.width, config.stem == "small"
        self.conv1 = conv(3, channels, 3 if small else 7, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        for i, count in enumerate(config.blocks):
            stage = nn.Sequential()
            for b in range(count):
                stride = 2 if i > 0 and b == 0 else 1
                width = config.width * 2**i
                stage.append(Block(channels, width, stride, config.bottleneck))
                channels = width * (4 if config.bottleneck else 1)
            self.add_module(f"layer{i + 1}", stage)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return x.float().mean((2, 3))


class Head(nn.Module):
    """Linear, ReLU, Linear."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear2(F.relu(self.linear1(x)))


class Pair(nn.Module):
    """Both towers, both heads, and the loss."""

    def __init__(self, sizes: Sizes, dtype: DType, text: Text, device: str) -> None:
        super().__init__()
        rate = sizes.dropout if text == "trainable" else 0.0
        bert = transformers.BertConfig(
            **{
                **sizes.bert.to_dict(),
                "hidden_dropout_prob": rate,
                "attention_probs_dropout_prob": rate,
            }
        )
        config = RESNETS[sizes.image]
        self.config: ConvirtConfig = sizes.convirt()
        self.image = TorchResNet(config)
        self.text = transformers.BertModel(bert, add_pooling_layer=False)
        self.image_head = Head(config.widths[-1], self.config.features)
        self.text_head = Head(sizes.bert.hidden_size, self.config.features)
        self.kind, self.low, self.device_type = text, dtype == "bfloat16", device
        if text != "trainable":
            self.text.requires_grad_(False)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 in what is computed inside, if that is asked for."""
        return torch.autocast(self.device_type, torch.bfloat16, enabled=self.low)

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """What the image tower knows."""
        with self.autocast():
            return self.image(images)

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """What the report tower knows."""
        with self.autocast(), torch.set_grad_enabled(self.kind == "trainable"):
            hidden = self.text(input_ids=ids, attention_mask=(ids != 0).long())
        return hidden.last_hidden_state[:, 0].float()

    def compare(self, seen: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Contrast in both directions."""
        c = self.config
        x = F.normalize(self.image_head(seen), dim=-1)
        y = F.normalize(self.text_head(told), dim=-1)
        logits = x @ y.T / c.temperature
        own = torch.arange(len(x), device=x.device)
        to_text = c.image_to_text * F.cross_entropy(logits, own)
        return to_text + c.text_to_image * F.cross_entropy(logits.T, own)

    def forward(self, images: torch.Tensor, report: torch.Tensor) -> torch.Tensor:
        told = report if self.kind == "cached" else self.read(report)
        return self.compare(self.see(images), told)

    def load(self, variables: Mapping[str, Any]) -> None:
        """Takes over our weights."""

        def tower(name: str, network: Any) -> dict[str, np.ndarray]:
            parts = {k: v[name][network] for k, v in variables.items() if name in v}
            return to_torch(network, parts)

        state = {f"image.{k}": v for k, v in tower("image", "resnet").items()}
        state |= {f"text.{k}": v for k, v in tower("text", "bert").items()}
        for head in ("image_head", "text_head"):
            for layer, leaves in variables["params"][head].items():
                state[f"{head}.{layer}.weight"] = leaves["kernel"].T
                state[f"{head}.{layer}.bias"] = leaves["bias"]
        # Copies, since arrays of JAX are read-only.
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
        self.load_state_dict(tensors, strict=True)
