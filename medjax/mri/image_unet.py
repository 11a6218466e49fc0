"""fastMRI's image-domain baseline: a U-Net that cleans the zero-filled magnitude.

Zbontar et al. 2018, arXiv 1811.08839, section 6.2; code ``facebookresearch/fastMRI``
(``pl_modules/unet_module.py``). Every frame is its root sum of squares over coils,
brought to mean zero and unit deviation, cut to six deviations, and mapped to an image
by one U-Net; there is no data consistency. It is here because its published weights are
what others compare with.

What differs from the published code: images keep their matrix (there they are cropped
to the header's first, and 320x320 is what the weights have seen).
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.mri.fourier import ifft2c
from medjax.mri.sense import rss, sample
from medjax.mri.series import ReconstructionSystem, reconstruction_system
from medjax.mri.varnet import frames_of, normalise
from medjax.nn import unet
from medjax.typing import Batch, Metrics

CUT = 6.0
"""Deviations beyond which input is cut."""


@dataclass(frozen=True)
class ImageUNetConfig:
    """Sizes; the defaults are those of the published weights.

    Attributes:
        chans: First width.
        pools: Poolings.
        dtype: Of the arithmetic.
    """

    chans: int = 256
    pools: int = 4
    dtype: DTypeLike = jnp.float32


CONFIGS = {"tiny": ImageUNetConfig(chans=8, pools=2), "repo": ImageUNetConfig()}


class ImageUNet(nn.Module):
    """Magnitudes in, magnitudes out, frame by frame."""

    config: ImageUNetConfig

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Float[Array, "b t h w"]:
        """Reconstruct every frame; nothing depends on ``train``."""
        kspace, mask = frames_of(batch)
        images = rss(ifft2c(sample(kspace, mask)))[..., None]
        normed, mean, std = normalise(images, groups=1)
        plan = unet.fastmri(
            chans=self.config.chans, pools=self.config.pools, out_channels=1
        )
        network = unet.UNet(plan, self.config.dtype, name="unet")
        out = network(jnp.clip(normed, -CUT, CUT)) * std + mean
        b, t, _, h, w = batch["kspace"].shape
        return out[..., 0].reshape(b, t, h, w)


def _l1(
    image: Float[Array, "b t h w"], batch: Batch
) -> tuple[Float[Array, ""], Metrics]:
    """Mean absolute error against the root sum of squares of the full data."""
    target = rss(ifft2c(batch["kspace"]))
    return jnp.mean(jnp.abs(image - target)), {}


def image_unet_system(config: ImageUNetConfig) -> ReconstructionSystem:
    """The trainable baseline.

    Args:
        config: Its sizes.

    Returns:
        Its ``init``, ``loss`` (mean absolute error) and ``reconstruct`` (float32
        magnitudes). Batches are those of :mod:`medjax.mri.series`; sensitivities are
        not needed.
    """
    return reconstruction_system(
        ImageUNet(config), loss_of=_l1, image_of=lambda x: x, sensitivities=False
    )
