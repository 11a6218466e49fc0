"""UperNet's head, a ViT's pyramid and the loss in PyTorch, of the same weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Weights = Mapping[str, Any]


def head(maps: Sequence[torch.Tensor], weights: Weights) -> torch.Tensor:
    """Logits of the finest size; maps are [b, c, h, w], BatchNorms as in training."""
    *fine, top = maps
    context = [top]
    for n in (1, 2, 3, 6):
        cell = block(F.adaptive_avg_pool2d(top, n), weights[f"pool_{n}"])
        context.append(up(cell, top))
    seen = block(torch.cat(context, dim=1), weights["context"])
    levels = [seen]
    for i in (2, 1, 0):
        lateral = block(fine[i], weights[f"lateral_{i}"])
        levels.append(lateral + up(levels[-1], lateral))
    levels.reverse()
    read = [block(levels[i], weights[f"level_{i}"]) for i in range(3)] + [seen]
    together = torch.cat([up(x, read[0]) for x in read], dim=1)
    return conv(block(together, weights["all"]), weights["classify"])[:, 0]


def pyramid(maps: Sequence[torch.Tensor], weights: Weights) -> list[torch.Tensor]:
    """A ViT's maps at four times, twice, once and half their size."""
    first = norm(doubled(maps[0], weights["double_0a"]), weights["bn"])
    return [
        doubled(F.gelu(first), weights["double_0b"]),
        doubled(maps[1], weights["double_1"]),
        maps[2],
        F.max_pool2d(maps[3], 2),
    ]


def loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """0.5 focal + 3 Dice, film by film and pixel by pixel."""
    total = torch.zeros((), dtype=logits.dtype)
    for said, mask in zip(logits.sigmoid(), truth, strict=True):
        right = torch.where(mask > 0, said, 1 - said)
        total += -0.5 * ((1 - right) ** 2 * right.log()).mean()
        dice = 2 * (said * mask).sum() / ((said**2).sum() + mask.sum() + 2e-3)
        total += 3 * (1 - dice)
    return total / len(logits)


def block(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    return F.relu(norm(conv(x, weights["conv"]), weights["bn"]))


def conv(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    kernel = tensor(weights["kernel"]).permute(3, 2, 0, 1)
    bias = tensor(weights["bias"]) if "bias" in weights else None
    return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)


def doubled(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    # Flax does not turn the kernel round that it transposes; here each output has one
    # input, so that turning is all there is between the two.
    kernel = tensor(weights["kernel"]).permute(2, 3, 0, 1).flip(2, 3)
    return F.conv_transpose2d(x, kernel, tensor(weights["bias"]), stride=2)


def norm(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    scale, bias = tensor(weights["scale"]), tensor(weights["bias"])
    return F.batch_norm(x, None, None, scale, bias, training=True)


def up(x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    size: Callable[..., Any] = F.interpolate
    return size(x, to.shape[2:], mode="bilinear", align_corners=False)


def tensor(x: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(x), dtype=torch.float32)
