"""Their step of the pair: augmentation on the device, autocast, ``channels_last``.

Imported only where PyTorch is installed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from experiments.bench.pair import OPTIMIZER, DType, Sizes, Text
from experiments.bench.torch_pair import Pair
from experiments.bench.torch_training import Training
from medjax.vlp.augment import NORMALISATIONS, AugmentConfig


def augment(films: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """The part of our augmentation that `Sizes.recipe` uses, on the films' device.

    Args:
      films: uint8 ``[b, h, h]``.
      config: Crop of fixed aspect, flip, rotation, brightness and contrast count.

    Returns:
      Network input, float32 ``[b, 3, size, size]`` in channels-last memory.
    """
    b, side, device = len(films), films.shape[1], films.device
    u = torch.rand(8, b, device=device)

    def between(u: torch.Tensor, bounds: tuple[float, float]) -> torch.Tensor:
        return bounds[0] + u * (bounds[1] - bounds[0])

    extent = (side * between(u[0], config.crop_area).sqrt()).round()
    room = side - extent
    part = torch.full_like(u[1:3], 0.5) if config.centre else u[1:3]
    corner = (room * part if config.centre else (room + 1) * part).floor()
    corner = torch.minimum(corner, room)
    angle = torch.deg2rad(between(u[3], config.rotation))
    flip = torch.where(u[4] < config.flip_horizontal, -1.0, 1.0)
    c, s, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    turn = torch.stack(
        [torch.stack([flip * c, -flip * s, zero], -1), torch.stack([s, c, zero], -1)], 1
    )
    shape = [b, 1, config.size, config.size]
    in_crop = F.affine_grid(turn, shape, align_corners=False)
    centre = (2 * corner + extent) / side - 1
    grid = in_crop * (extent / side)[:, None, None, None] + centre.T[:, None, None]
    film = films[:, None].float() / 255
    x = F.grid_sample(film, grid, padding_mode="zeros", align_corners=False)
    x = x * (in_crop.abs() <= 1).all(-1)[:, None]
    x = (x * between(u[5], config.brightness)[:, None, None, None]).clamp(0, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    factor = between(u[6], config.contrast)[:, None, None, None]
    x = (mean + factor * (x - mean)).clamp(0, 1)
    shift, scale = (
        torch.tensor(v, device=device)[:, None, None]
        for v in NORMALISATIONS[config.normalise]
    )
    return ((x - shift) / scale).contiguous(memory_format=torch.channels_last)


class TorchStep(Training):
    """The training step of the pair, with its state.

    Args:
      sizes: What to compute.
      dtype: Of autocast.
      text: What becomes of the report tower.
      host: The batch; with ``report_features`` where the text is cached.
      variables: Our variables, to start from the same weights.
      compiled: Whether ``torch.compile`` is used.
      channels_last: Whether the image tower uses that memory layout.
    """

    def __init__(
        self,
        sizes: Sizes,
        dtype: DType,
        text: Text,
        host: Mapping[str, np.ndarray],
        variables: Mapping[str, Any],
        *,
        compiled: bool,
        channels_last: bool,
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pair = Pair(sizes, dtype, text, device)
        self.pair.load(variables)
        super().__init__(self.pair, OPTIMIZER, host)
        if channels_last:
            # The overload for a memory format takes nothing else, and no keyword is
            # known to the type checker.
            self.pair.image.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.sizes, self.text = sizes, text
        self.forward: Callable[..., Any] = self.pair
        self.augment: Callable[..., Any] = augment
        if compiled:
            self.forward = torch.compile(self.pair)
            self.augment = torch.compile(augment)
        self.report = self.batch["report_features" if text == "cached" else "report"]

    def loss(self, view: np.ndarray | None) -> torch.Tensor:
        """Loss of the batch.

        Args:
          view: ``[b, h, w, 3]``, in place of one of its own drawing.
        """
        if view is None:
            images = self.augment(self.batch["image"], self.sizes.recipe)
        else:
            images = torch.from_numpy(np.array(view)).permute(0, 3, 1, 2)
            images = images.to(self.device, memory_format=torch.channels_last)
        return self.forward(images, self.report)

    def parts(self) -> dict[str, Callable[[], Any]]:
        """The pieces of the step, each run alone; names as in `parts.our_parts`."""
        pair = self.pair
        view = augment(self.batch["image"], self.sizes.recipe)
        seen = pair.see(view).detach().requires_grad_()
        told = self.report if self.text == "cached" else pair.read(self.report)
        told = told.detach().requires_grad_()

        def transfer() -> None:
            for tensor in self.host.values():
                tensor.to(self.device, copy=True)

        def back(value: torch.Tensor) -> None:
            value.sum().backward()
            self.optimizer.zero_grad(set_to_none=True)

        def optimise() -> None:
            for p in self.trained:
                p.grad = torch.zeros_like(p)
            self.update()

        works: dict[str, Callable[[], Any]] = {
            "transfer to device": transfer,
            "augmentation": lambda: self.augment(
                self.batch["image"], self.sizes.recipe
            ),
            "image encoder": lambda: back(pair.see(view)),
            "heads and loss": lambda: back(pair.compare(seen, told)),
            "clipping and AdamW": optimise,
        }
        if self.text == "trainable":
            works["text encoder"] = lambda: back(pair.read(self.report))
        elif self.text == "frozen":
            works["text encoder"] = lambda: pair.read(self.report)

        return {name: self.waiting(work) for name, work in works.items()}
