"""Their step of the unrolled network: E2E-VarNet, one minus SSIM, Adam.

Imported only where PyTorch is installed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.bench.torch_training import Training
from experiments.bench.torch_varnet import TorchVarNet, magnitude, transform
from medjax.mri.varnet import VarNetConfig
from medjax.train.optimizer import OptimizerConfig


def ssim(x: Tensor, y: Tensor, data_range: Tensor) -> Tensor:
    """Mean structural similarity, uniform 7x7 window, sample covariance.

    Args:
      x: ``[n, h, w]``.
      y: The same, of the truth.
      data_range: ``[n]``.
    """
    x, y, largest = x[:, None], y[:, None], data_range[:, None, None, None]
    c1, c2 = (0.01 * largest) ** 2, (0.03 * largest) ** 2

    def mean(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, 7, 1)

    sample = 49 / 48
    mx, my = mean(x), mean(y)
    vx, vy = sample * (mean(x * x) - mx * mx), sample * (mean(y * y) - my * my)
    covariance = sample * (mean(x * y) - mx * my)
    likeness = (2 * mx * my + c1) * (2 * covariance + c2)
    return (likeness / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()


class TorchUnrolledStep(Training):
    """The training step with its state.

    Args:
      config: Sizes and precision.
      optimizer: Update rule.
      host: ``kspace`` complex64 ``[n, c, h, w]``, ``mask`` and ``centre`` bool
        ``[n, h]``.
      params: Our parameters, to start from.
      frames: Of a series; they share a data range.
      compiled: Whether ``torch.compile`` is used.
    """

    def __init__(
        self,
        config: VarNetConfig,
        optimizer: OptimizerConfig,
        host: Mapping[str, np.ndarray],
        params: Mapping[str, Any],
        *,
        frames: int,
        compiled: bool,
    ) -> None:
        network = TorchVarNet(config)
        network.load(params)
        super().__init__(network, optimizer, host)
        self.forward: Any = torch.compile(network) if compiled else network
        self.frames = frames
        lines = {k: self.batch[k][:, None, :, None, None] for k in ("mask", "centre")}
        self.mask, self.centre = lines["mask"], lines["centre"]

    def loss(self, view: None = None) -> Tensor:
        """One minus SSIM of the batch; nothing of it is drawn."""
        kspace = torch.view_as_real(self.batch["kspace"])
        target = magnitude(transform(kspace, inverse=True))
        image = self.forward(kspace * self.mask, self.mask, self.centre)
        # Frames of a series share its largest value.
        series = target.reshape(-1, self.frames, *target.shape[1:])
        largest = series.amax((1, 2, 3)).repeat_interleave(self.frames)
        return 1 - ssim(image, target, largest)
