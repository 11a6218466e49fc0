"""U-Net on a classification network in PyTorch: masks, with our weights.

The decoder of ``segmentation_models_pytorch.Unet``, written out: a map is doubled by
repetition, joined with the next finer one, convolved twice. Imported only where PyTorch
is installed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from experiments.bench.masks import OPTIMIZER
from experiments.bench.torch_pair import TorchResNet, conv
from experiments.bench.torch_training import Training
from medjax.nn.resnet import RESNETS, ResNetConfig
from medjax.vlp.segmenter import SegmenterConfig
from medjax.vlp.towers import ImageTowerConfig
from medjax.weights import to_torch


class Maps(TorchResNet):
    """Images to the stem's map and those of the stages, coarsest last."""

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The stem's first."""
        x = F.relu(self.bn1(self.conv1(x)))
        maps, x = [x], self.pool(x)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            maps.append(x)
        return maps


class Unet(nn.Module):
    """Films to one logit per pixel; the tower is kept as it is."""

    def __init__(self, tower: ResNetConfig, config: SegmenterConfig) -> None:
        super().__init__()
        self.focal = config.focal
        self.image = Maps(tower).requires_grad_(False)
        wide = [tower.width, *tower.widths]
        before, *skips = reversed(wide)
        self.count = len(config.widths)
        for i, width in enumerate(config.widths):
            joined = before + (skips[i] if i < len(skips) else 0)
            for j, inputs in ((1, joined), (2, width)):
                self.add_module(f"up{i}_conv{j}", conv(inputs, width, 3))
                self.add_module(f"up{i}_bn{j}", nn.BatchNorm2d(width))
            before = width
        self.head = nn.Conv2d(before, 1, 3, padding=1)

    def train(self, mode: bool = True) -> "Unet":
        """The decoder; statistics of the tower stay."""
        super().train(mode)
        self.image.train(False)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            *skips, x = self.image.maps(images)
        for i in range(self.count):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            if i < len(skips):
                skip = skips[-1 - i]
                x = torch.cat([x[..., : skip.shape[2], : skip.shape[3]], skip], 1)
            for j in (1, 2):
                x = getattr(self, f"up{i}_conv{j}")(x)
                x = F.relu(getattr(self, f"up{i}_bn{j}")(x))
        return self.head(x)[:, 0, : images.shape[2], : images.shape[3]]

    def take(self, variables: Mapping[str, Any]) -> None:
        """Takes over our weights."""
        parts = {k: v["image"]["resnet"] for k, v in variables.items() if "image" in v}
        tower = to_torch("resnet", parts)
        state = {f"image.{k}": v for k, v in tower.items()}
        for name, leaves in variables["params"]["decoder"].items():
            if "kernel" in leaves:
                state[f"{name}.weight"] = leaves["kernel"].transpose(3, 2, 0, 1)
            else:
                state[f"{name}.weight"] = leaves["scale"]
            if "bias" in leaves:
                state[f"{name}.bias"] = leaves["bias"]
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
        found = self.load_state_dict(tensors, strict=False)
        missing = [k for k in found.missing_keys if "num_batches" not in k]
        missing = [k for k in missing if "running" not in k or k.startswith("image.")]
        if found.unexpected_keys or missing:
            raise ValueError(f"{found.unexpected_keys} and {missing} do not fit")


class Step(Training):
    """A training step of the decoder, with our weights in it."""

    def __init__(
        self,
        tower: ImageTowerConfig,
        config: SegmenterConfig,
        batch: Mapping[str, np.ndarray],
        variables: Mapping[str, Any],
    ) -> None:
        net = Unet(RESNETS[tower.architecture], config)
        net.take(variables)
        super().__init__(net, OPTIMIZER, batch)
        self.focal = config.focal

    def loss(self, view: Any) -> torch.Tensor:
        """``focal`` times the focal loss minus the logarithm of the batch's Dice."""
        images = torch.from_numpy(np.array(view)).permute(0, 3, 1, 2)
        logits = self.network(images.to(self.device))
        truth = self.batch["mask"].float()
        said = logits.sigmoid()
        dice = (2 * (said * truth).sum() + 1) / (said.sum() + truth.sum() + 1)
        entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        wrong = torch.where(truth > 0, 1 - said, said) ** 2
        return self.focal * (wrong * entropy).mean() - dice.log()
