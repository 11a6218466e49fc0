"""Their unrolled network: E2E-VarNet in PyTorch, by the definition and with its names.

Sriram et al., MICCAI 2020; parameters are named and shaped as in the published code
(``fastmri.models.VarNet``), whose numbers a test holds this file to. As there, k-space
is iterated (ours iterates the coil images), complex numbers are pairs of real ones, and
every cascade keeps its activations. Phase encoding runs along rows, as ours does.

Imported only where PyTorch is installed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medjax.mri.varnet import VarNetConfig

PLANE = (-2, -1)


def transform(x: Tensor, *, inverse: bool) -> Tensor:
    """Centred orthonormal FFT of pairs, ``[..., h, w, 2]``."""
    z = torch.fft.ifftshift(torch.view_as_complex(x.contiguous()), dim=PLANE)
    z = (torch.fft.ifft2 if inverse else torch.fft.fft2)(z, norm="ortho")
    return torch.view_as_real(torch.fft.fftshift(z, dim=PLANE))


def product(x: Tensor, y: Tensor, *, conjugate: bool = False) -> Tensor:
    """``x y`` or ``x conj(y)`` of pairs."""
    a, b = x.unbind(-1)
    c, d = y.unbind(-1)
    d = -d if conjugate else d
    return torch.stack([a * c - b * d, a * d + b * c], -1)


def magnitude(x: Tensor) -> Tensor:
    """Root of the sum of squares over coils and pairs: ``[b, c, h, w, 2]`` to b h w."""
    return x.square().sum((1, -1)).sqrt()


def convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """(3x3 convolution, norm, activation) twice, a place for dropout after each."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm2d(outputs),
            nn.LeakyReLU(0.2),
            nn.Identity(),
        ]
    return nn.Sequential(*layers)


class Layers(nn.Module):
    """Gives its layers the name they have in the published code."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class UNet(nn.Module):
    """Two channels to two, ``[b, 2, h, w]``."""

    def __init__(self, chans: int, pools: int) -> None:
        super().__init__()
        widths = [chans * 2**i for i in range(pools + 1)]
        down = zip([2, *widths], widths[:-1], strict=False)
        self.down_sample_layers = nn.ModuleList(
            Layers(*convolutions(i, o)) for i, o in down
        )
        self.conv = Layers(*convolutions(widths[-2], widths[-1]))
        self.up_transpose_conv = nn.ModuleList()
        self.up_conv = nn.ModuleList()
        for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
            rise = nn.ConvTranspose2d(wide, narrow, 2, 2, bias=False)
            up = Layers(rise, nn.InstanceNorm2d(narrow), nn.LeakyReLU(0.2))
            self.up_transpose_conv.append(up)
            self.up_conv.append(Layers(*convolutions(2 * narrow, narrow)))
        self.up_conv[-1] = nn.Sequential(self.up_conv[-1], nn.Conv2d(chans, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down_sample_layers:
            x = block(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.conv(x)
        for rise, block in zip(self.up_transpose_conv, self.up_conv, strict=True):
            skip, x = skips.pop(), rise(x)
            short = [0, skip.shape[-1] - x.shape[-1], 0, skip.shape[-2] - x.shape[-2]]
            x = F.pad(x, short, "reflect") if any(short) else x
            x = block(torch.cat([x, skip], 1))
        return x


class NormUNet(nn.Module):
    """Images as pairs, ``[b, 1, h, w, 2]``; each part normalised on its own."""

    def __init__(self, chans: int, pools: int, low: bool) -> None:
        super().__init__()
        self.unet = UNet(chans, pools)
        self.low = low

    def forward(self, image: Tensor) -> Tensor:
        x = image[:, 0].permute(0, 3, 1, 2)
        mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
        h, w = x.shape[2:]
        top, left = (-h % 16) // 2, (-w % 16) // 2
        sides = [left, -w % 16 - left, top, -h % 16 - top]
        x = F.pad((x - mean) / std, sides)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.low):
            x = self.unet(x)
        x = x.float()[:, :, top : top + h, left : left + w] * std + mean
        return x.permute(0, 2, 3, 1).unsqueeze(1)


class SensitivityNet(nn.Module):
    """Coil maps from the centre of k-space."""

    def __init__(self, chans: int, pools: int, low: bool) -> None:
        super().__init__()
        self.norm_unet = NormUNet(chans, pools, low)

    def forward(self, kspace: Tensor, centre: Tensor) -> Tensor:
        images = transform(kspace * centre, inverse=True)
        maps = self.norm_unet(images.flatten(0, 1).unsqueeze(1)).reshape(images.shape)
        return maps / magnitude(maps)[:, None, ..., None]


class Cascade(nn.Module):
    """Towards the data, and away from what the U-Net thinks is wrong."""

    def __init__(self, chans: int, pools: int, low: bool) -> None:
        super().__init__()
        self.model = NormUNet(chans, pools, low)
        self.dc_weight = nn.Parameter(torch.ones(1))

    def forward(self, k: Tensor, measured: Tensor, mask: Tensor, maps: Tensor) -> Any:
        towards = torch.where(mask, k - measured, 0.0) * self.dc_weight
        image = product(transform(k, inverse=True), maps, conjugate=True)
        image = self.model(image.sum(1, keepdim=True))
        return k - towards - transform(product(image, maps), inverse=False)


class TorchVarNet(nn.Module):
    """Sampled k-space ``[b, c, h, w, 2]`` to magnitudes ``[b, h, w]``.

    Args:
      config: Sizes and precision, as ours.
    """

    def __init__(self, config: VarNetConfig) -> None:
        super().__init__()
        low = np.dtype(config.dtype) != np.float32
        self.sens_net = SensitivityNet(config.sens_chans, config.sens_pools, low)
        self.cascades = nn.ModuleList(
            Cascade(config.chans, config.pools, low) for _ in range(config.cascades)
        )

    def forward(self, kspace: Tensor, mask: Tensor, centre: Tensor) -> Tensor:
        """Reconstructs; masks are bool ``[b, 1, h, 1, 1]``, all lines and the centre's.

        Every sampled line of the centre is one of ``mask``.
        """
        maps = self.sens_net(kspace, centre)
        k = kspace
        for cascade in self.cascades:
            k = cascade(k, kspace, mask, maps)
        return magnitude(transform(k, inverse=True))

    def load(self, params: Mapping[str, Any]) -> None:
        """Takes over the parameters of `medjax.mri.varnet.VarNet`."""
        sens = params["sens_net"]["norm_unet"]["unet"]
        state = {f"sens_net.norm_unet.unet.{k}": v for k, v in _names(sens).items()}
        for i in range(len(self.cascades)):
            cascade: Any = _pick(params["cascades"], i)
            state[f"cascades.{i}.dc_weight"] = cascade["dc_weight"]
            for name, value in _names(cascade["norm_unet"]["unet"]).items():
                state[f"cascades.{i}.model.unet.{name}"] = value
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
        self.load_state_dict(tensors, strict=True)


def _pick(tree: Any, i: int) -> Any:
    """Cascade ``i`` of the stack that ours scans over."""
    if isinstance(tree, Mapping):
        return {k: _pick(v, i) for k, v in tree.items()}
    return np.asarray(tree)[i]


def _names(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our U-Net's parameters under the published names and in their shapes."""
    state: dict[str, np.ndarray] = {}

    def block(name: str, layers: Mapping[str, Any]) -> None:
        for i in (0, 1):
            kernel = np.asarray(layers[f"conv_{i}"]["kernel"])
            state[f"{name}layers.{4 * i}.weight"] = kernel.transpose(3, 2, 0, 1)

    depth = sum(name.startswith("up_") for name in params)
    for i in range(depth):
        block(f"down_sample_layers.{i}.", params[f"down_{i}"])
        # A transposed convolution runs over its kernel backwards in JAX.
        kernel = np.asarray(params[f"up_{i}"]["up"]["kernel"])[::-1, ::-1]
        rise = f"up_transpose_conv.{i}.layers.0.weight"
        state[rise] = kernel.transpose(2, 3, 0, 1)
        last = "0." if i == depth - 1 else ""
        block(f"up_conv.{i}.{last}", params[f"up_{i}"]["block"])
    block("conv.", params[f"down_{depth}"])
    head = f"up_conv.{depth - 1}.1"
    state[f"{head}.weight"] = np.asarray(params["head"]["kernel"]).transpose(3, 2, 0, 1)
    state[f"{head}.bias"] = np.asarray(params["head"]["bias"])
    return state
