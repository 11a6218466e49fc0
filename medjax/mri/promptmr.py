"""PromptMR: a variational network whose U-Net is told by prompts what it looks at.

Xin et al., STACOM 2023, arXiv 2309.13839; code ``hellopipu/PromptMR``; first of the
CMRxRecon 2023 leaderboards. Three things are changed with respect to E2E-VarNet
(:mod:`medjax.mri.varnet`):

* a cascade sees five adjacent frames at once and corrects all of them; the middle one
  is the result;
* the U-Net is made of channel-attention blocks: two convolutions whose output channels
  are weighed by a squeeze-and-excite of their means;
* at every decoder level a *prompt* joins the features: learned patterns, mixed by
  weights that the features themselves decide (softmax of a linear map of their means),
  so that one network can serve several contrasts, views and accelerations.

What differs from the published code: there all blocks share the slope of one PReLU (a
default argument), here every block has its own; prompts are learned by default, there
they stay at their random start unless asked; maps are estimated once per frame, not
once per window it is in (the same numbers). Networks run in ``dtype``, normalisation
and data consistency in float32; cascades are scanned and rematerialised.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, Int

from medjax.mri.fourier import ifft2c
from medjax.mri.sense import combine, rss, sample
from medjax.mri.series import (
    ReconstructionSystem,
    from_channels,
    reconstruction_system,
    to_channels,
)
from medjax.mri.varnet import (
    central_block,
    frames_of,
    normalise,
    pad_to_multiple,
    scan_cascades,
    ssim_loss,
    unit_norm,
)
from medjax.typing import Batch
from medjax_kernels.data_consistency import varnet_update
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation


@dataclass(frozen=True)
class PromptUNetConfig:
    """Sizes of a prompt U-Net; the defaults are those of the published cascades.

    Attributes:
        features: Channels at full resolution.
        widths: Channels of the three levels below.
        prompt_widths: Channels of the prompts, finest level first.
        prompt_count: Patterns per level.
        prompt_sizes: Pixels of a pattern's side, finest level first.
        encoder_blocks: Channel-attention blocks per encoder level.
        decoder_blocks: Per decoder level, finest first.
        skip_blocks: Per skip connection.
        bottleneck_blocks: At the coarsest level.
        reduction: Squeeze of the channel attention.
        learn_prompts: Whether the patterns are learned.
        dtype: Of the arithmetic.
    """

    features: int = 48
    widths: tuple[int, int, int] = (72, 96, 120)
    prompt_widths: tuple[int, int, int] = (24, 48, 72)
    prompt_count: int = 5
    prompt_sizes: tuple[int, int, int] = (64, 32, 16)
    encoder_blocks: tuple[int, int, int] = (2, 3, 3)
    decoder_blocks: tuple[int, int, int] = (2, 2, 3)
    skip_blocks: int = 1
    bottleneck_blocks: int = 3
    reduction: int = 4
    learn_prompts: bool = True
    dtype: DTypeLike = jnp.float32


@dataclass(frozen=True)
class PromptMRConfig:
    """A cascade of prompt U-Nets; the defaults are the published ones.

    Attributes:
        cascades: Unrolled steps, each with its own weights.
        window: Adjacent frames seen at once, odd.
        edge: Neighbours of the first and last frame: around the cycle, or the frame
            itself again (short series such as T2 mapping).
        network: Of the cascades.
        sens_network: Of the map estimator.
        acs_lines: As in :class:`medjax.mri.varnet.VarNetConfig`.
        implementation: Of data consistency; None takes the best for platform and shape.
        lines: Of a line mask, at most so many are sampled; None: any number.
    """

    cascades: int = 12
    window: int = 5
    edge: Literal["circular", "repeat"] = "circular"
    network: PromptUNetConfig = PromptUNetConfig()
    sens_network: PromptUNetConfig = PromptUNetConfig(
        features=24, widths=(36, 48, 60), prompt_widths=(12, 24, 36)
    )
    acs_lines: int | None = None
    implementation: ConsistencyImplementation | None = None
    lines: int | None = None


_TINY = PromptUNetConfig(
    features=8,
    widths=(8, 12, 16),
    prompt_widths=(4, 4, 4),
    prompt_count=2,
    prompt_sizes=(16, 8, 4),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1, 1),
    bottleneck_blocks=1,
)
CONFIGS = {
    "tiny": PromptMRConfig(cascades=2, window=3, network=_TINY, sens_network=_TINY),
    "repo": PromptMRConfig(),
}


def window_indices(
    frames: int, window: int, edge: Literal["circular", "repeat"]
) -> Int[np.ndarray, "t k"]:
    """For every frame the frames of its window, the frame itself in the middle.

    Raises:
        ValueError: If the window is even.
    """
    if window % 2 == 0:
        raise ValueError(f"window is {window}, expected an odd number of frames")
    index = np.arange(frames)[:, None] + np.arange(window) - window // 2
    return index % frames if edge == "circular" else np.clip(index, 0, frames - 1)


class ChannelAttentionBlock(nn.Module):
    """Two convolutions, channels weighed by their means, and a residual."""

    reduction: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        y = _conv(c, 3, "conv_0", self.dtype)(x)
        slope = self.param("slope", nn.initializers.constant(0.25), (), jnp.float32)
        y = jnp.where(y >= 0, y, slope.astype(self.dtype) * y)
        y = _conv(c, 3, "conv_1", self.dtype)(y)
        squeezed = jnp.mean(y, axis=(1, 2), keepdims=True)
        squeezed = nn.relu(
            _conv(c // self.reduction, 1, "squeeze", self.dtype)(squeezed)
        )
        return x + y * nn.sigmoid(_conv(c, 1, "excite", self.dtype)(squeezed))


class Prompt(nn.Module):
    """Patterns mixed as the features say, at the features' size."""

    config: PromptUNetConfig
    level: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w p"]:
        config = self.config
        b, h, w, _ = x.shape
        size, width = config.prompt_sizes[self.level], config.prompt_widths[self.level]
        patterns = self.param(
            "patterns",
            nn.initializers.uniform(1.0),
            (config.prompt_count, size, size, width),
        )
        if not config.learn_prompts:
            patterns = jax.lax.stop_gradient(patterns)
        means = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        weights = nn.softmax(nn.Dense(config.prompt_count, name="mixer")(means))
        mixed = jnp.einsum("bk,khwc->bhwc", weights, patterns)
        # Linear in the patterns, so mixing before resizing saves prompt_count - 1.
        mixed = jax.image.resize(mixed, (b, h, w, width), "bilinear", antialias=False)
        return _conv(width, 3, "conv", config.dtype)(mixed.astype(config.dtype))


class PromptUNet(nn.Module):
    """Three levels down, three levels up with prompts."""

    config: PromptUNetConfig
    out_channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w out"]:
        config = self.config
        dtype = config.dtype

        def blocks(count: int, name: str, x: Array) -> Array:
            for i in range(count):
                block = ChannelAttentionBlock(
                    config.reduction, dtype, name=f"{name}_{i}"
                )
                x = block(x)
            return x

        x = _conv(config.features, 3, "embed", dtype)(x.astype(dtype))
        skips = []
        for i, (count, width) in enumerate(
            zip(config.encoder_blocks, config.widths, strict=True)
        ):
            x = blocks(count, f"encoder_{i}", x)
            skips.append(x)
            x = nn.Conv(
                width,
                (3, 3),
                strides=2,
                padding=1,
                dtype=dtype,
                name=f"down_{i}",
            )(x)
        x = blocks(config.bottleneck_blocks, "bottleneck", x)
        below = (config.features, *config.widths)
        for i in (2, 1, 0):
            prompt = Prompt(config, i, name=f"prompt_{i}")(x)
            width = x.shape[-1]
            x = jnp.concatenate([x, prompt], axis=-1)
            x = blocks(config.decoder_blocks[i], f"decoder_{i}", x)
            x = _conv(width, 1, f"reduce_{i}", dtype)(x)
            # The 1x1 convolution commutes with interpolation and is cheaper before it.
            x = _conv(below[i], 1, f"up_{i}", dtype)(x)
            b, h, w, c = x.shape
            x = jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")
            x = x + blocks(config.skip_blocks, f"skip_{i}", skips[i])
            x = blocks(1, f"fused_{i}", x)
        return _conv(self.out_channels, 5, "head", dtype)(x).astype(jnp.float32)


class NormPromptUNet(nn.Module):
    """Frames as channels, one mean and deviation for all of them."""

    config: PromptUNetConfig

    @nn.compact
    def __call__(self, images: Complex[Array, "b k h w"]) -> Complex[Array, "b k h w"]:
        channels = to_channels(jnp.moveaxis(images, 1, -1))
        normed, mean, std = normalise(channels, groups=1)
        padded, (rows, columns) = pad_to_multiple(normed, 8)
        net = PromptUNet(self.config, channels.shape[-1], name="unet")
        out = net(padded)[:, rows, columns] * std + mean
        return jnp.moveaxis(from_channels(out), -1, 1)


class Cascade(nn.Module):
    """The update of E2E-VarNet on all frames of a window."""

    config: PromptMRConfig

    @nn.compact
    def __call__(
        self,
        coil_images: Complex[Array, "n k c h w"],
        measured: Complex[Array, "n k c h w"],
        maps: Complex[Array, "n k c h w"],
        mask: Array,
    ) -> Complex[Array, "n k c h w"]:
        step_size = self.param("dc_weight", nn.initializers.ones, (1,), jnp.float32)
        network = NormPromptUNet(self.config.network, name="network")
        refinement = network(combine(coil_images, maps))
        return varnet_update(
            coil_images,
            measured,
            maps,
            mask,
            refinement,
            step_size=step_size[0],
            implementation=self.config.implementation,
            lines=self.config.lines,
        )


class PromptMR(nn.Module):
    """Map estimation, windows of frames, and the cascades; magnitudes out."""

    config: PromptMRConfig

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Float[Array, "b t h w"]:
        """Reconstruct every frame; nothing depends on ``train``."""
        config = self.config
        b, t, c, h, w = batch["kspace"].shape
        kspace, mask = frames_of(batch)
        kspace = sample(kspace, mask)
        centre = ifft2c(sample(kspace, central_block(mask, config.acs_lines)))
        estimate = NormPromptUNet(config.sens_network, name="sens_net")
        maps = estimate(centre.reshape(b * t * c, 1, h, w)).reshape(kspace.shape)
        index = window_indices(t, config.window, config.edge)

        def windows(x: Array) -> Array:
            x = x.reshape(b, t, *x.shape[1:])[:, index]
            return x.reshape(b * t, *x.shape[2:])

        measured, maps, mask = (
            windows(x) for x in (ifft2c(kspace), unit_norm(maps), mask)
        )

        def body(cascade: Cascade, x: Array, _: None) -> tuple[Array, None]:
            return cascade(x, measured, maps, mask), None

        scan = scan_cascades(body, config.cascades, remat=True)
        cascade = Cascade(config, name="cascades")
        coil_images = scan(cascade, measured, None)[0]
        return rss(coil_images[:, config.window // 2]).reshape(b, t, h, w)


def _conv(width: int, size: int, name: str, dtype: DTypeLike) -> nn.Conv:
    return nn.Conv(
        width, (size, size), padding=size // 2, use_bias=False, dtype=dtype, name=name
    )


def promptmr_system(config: PromptMRConfig) -> ReconstructionSystem:
    """The trainable PromptMR.

    Args:
        config: One of :data:`CONFIGS`, or your own.

    Returns:
        Its ``init``, ``loss`` (:func:`medjax.mri.varnet.ssim_loss`) and
        ``reconstruct`` (float32 magnitudes). Batches are those of
        :mod:`medjax.mri.series`; sensitivities are not needed.

    Raises:
        ValueError: For less than one cascade or an even window.
    """
    if config.cascades < 1:
        raise ValueError(f"cascades is {config.cascades}, expected 1 at least")
    window_indices(1, config.window, config.edge)
    return reconstruction_system(
        PromptMR(config), loss_of=ssim_loss, image_of=lambda x: x, sensitivities=False
    )
