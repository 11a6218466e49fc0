"""Writes fastmri_varnet.npz: what the published E2E-VarNet makes of random weights.

Needs PyTorch and ``fastmri`` 0.3 (MIT), which the tests themselves do not. All numbers
are drawn here. Run as ``python tests/golden/make_fastmri.py``.
"""

from pathlib import Path

import fastmri
import numpy as np
import torch
from fastmri.losses import SSIMLoss
from fastmri.models.varnet import NormUnet, VarNet

rng = np.random.default_rng(0)
arrays: dict[str, np.ndarray] = {}


def randomise(module: torch.nn.Module, prefix: str) -> None:
    for name, parameter in module.named_parameters():
        values = rng.normal(size=parameter.shape) * (0.4 if parameter.ndim > 1 else 0.8)
        parameter.data = torch.tensor(values, dtype=torch.float32)
        arrays[f"{prefix}/{name}"] = values.astype(np.float32)


def complex_normal(*shape: int) -> np.ndarray:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


with torch.no_grad():
    norm_unet = NormUnet(chans=2, num_pools=2)
    randomise(norm_unet, "norm_unet")
    image = complex_normal(2, 1, 21, 18)
    out = norm_unet(torch.view_as_real(torch.tensor(image)))
    arrays["norm_unet_in"] = image
    arrays["norm_unet_out"] = torch.view_as_complex(out).numpy()

    net = VarNet(num_cascades=2, sens_chans=2, sens_pools=2, chans=2, pools=2)
    randomise(net, "varnet")
    coils = fastmri.fft2c(
        torch.view_as_real(torch.tensor(complex_normal(1, 3, 24, 20)))
    )
    mask = np.zeros(20, bool)
    mask[::4] = mask[7:13] = True
    weights = torch.tensor(mask).reshape(1, 1, 1, 20, 1)
    masked = coils * weights
    arrays["mask"] = mask
    arrays["kspace"] = torch.view_as_complex(coils.contiguous()).numpy()
    arrays["sensitivities"] = torch.view_as_complex(
        net.sens_net(masked, weights)
    ).numpy()
    arrays["varnet_out"] = net(masked, weights).numpy()

    x, y = rng.uniform(size=(2, 2, 1, 12, 15)).astype(np.float32)
    largest = torch.tensor(y).amax((1, 2, 3))
    arrays["ssim_x"], arrays["ssim_y"] = x, y
    loss = SSIMLoss()(torch.tensor(x), torch.tensor(y), largest)
    arrays["ssim_loss"] = np.float32(loss.item())

np.savez_compressed(Path(__file__).with_name("fastmri_varnet.npz"), **arrays)
