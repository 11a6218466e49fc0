"""End-to-end variational network: unrolled gradient descent in the space of the coils.

Sriram et al., MICCAI 2020, arXiv 2004.06688; code ``facebookresearch/fastMRI``. A small
network estimates the coil maps from the central lines of k-space. Then every cascade
(eq. 7) takes a step towards the data and subtracts what a U-Net, looking at the image
behind the coils, thinks is wrong:

    k <- k - eta M (k - k_0) - F S R(S^H F^H k).

The Fourier transform is unitary, so the same network can be written for the coil images
``c = F^H k``; ``medjax_kernels.data_consistency.varnet_update`` does, and the final
root of the sum of squares needs no transform. Parameters mean the same as in the
published code, and so do the outputs, up to rounding.

Every frame of a series is reconstructed on its own, by the same weights. What differs
from the published code: phase encoding runs along rows; the centre is found for fully
sampled masks too (there it comes out as a single line), and for scattered points.
Networks run in ``dtype``, normalisation and data consistency in float32; cascades are
scanned and, unless ``remat`` says otherwise, rematerialised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Complex, Float

from medjax.metrics.images import ssim
from medjax.mri.fourier import ifft2c
from medjax.mri.sense import combine, rss, sample
from medjax.mri.series import (
    ReconstructionSystem,
    from_channels,
    reconstruction_system,
    to_channels,
)
from medjax.nn import unet
from medjax.typing import Batch, Metrics
from medjax_kernels import compat
from medjax_kernels.data_consistency import varnet_update
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation


@dataclass(frozen=True)
class VarNetConfig:
    """Sizes; the defaults are the published ones.

    Attributes:
        cascades: Unrolled steps, each with its own weights.
        chans: First width of the cascades' U-Nets.
        pools: Their poolings.
        sens_chans: First width of the map estimator's U-Net.
        sens_pools: Its poolings.
        acs_lines: Central lines that the maps are estimated from; None takes the
            longest run of sampled lines that is symmetric about the centre.
        dtype: Of the networks' arithmetic.
        remat: Whether a cascade's activations are computed anew in the backward pass
            (one more forward pass) or kept until then.
        implementation: Of data consistency; None takes the best for platform and shape.
        lines: Of a line mask, at most so many are sampled; None: any number.
        given_maps: Whether the coil maps are the batch's, as other systems take them,
            and not the network's. Not in the published code.
    """

    cascades: int = 12
    chans: int = 18
    pools: int = 4
    sens_chans: int = 8
    sens_pools: int = 4
    acs_lines: int | None = None
    dtype: DTypeLike = jnp.float32
    remat: bool = True
    implementation: ConsistencyImplementation | None = None
    lines: int | None = None
    given_maps: bool = False


CONFIGS = {
    "tiny": VarNetConfig(cascades=3, chans=8, pools=2, sens_chans=4, sens_pools=2),
    "repo": VarNetConfig(),
}


def central_lines(
    mask: Bool[Array, "n h _w"], acs_lines: int | None = None
) -> Bool[Array, "n h 1"]:
    """The fully sampled centre of each mask.

    Args:
        mask: Sampled lines.
        acs_lines: How many lines it has; None: as many as are sampled without a gap to
            both sides of the centre, twice the shorter side, one at least.

    Returns:
        The lines that belong to it, ``[h//2 - count//2, h//2 + count - count//2)`` as
        in :mod:`medjax.mri.masks`. (The published code starts one line later where the
        height is odd and the count even, and so takes a line that was not sampled.)
    """
    h = mask.shape[1]
    lines = jnp.all(mask, axis=-1).astype(jnp.int32)
    centre = h // 2
    above = jnp.sum(jnp.cumprod(lines[:, :centre][:, ::-1], axis=1), axis=1)
    below = jnp.sum(jnp.cumprod(lines[:, centre:], axis=1), axis=1)
    count = jnp.maximum(2 * jnp.minimum(above, below), 1)
    if acs_lines is not None:
        count = jnp.full_like(count, acs_lines)
    start = h // 2 - count // 2
    row = jnp.arange(h, dtype=count.dtype)[None]
    inside = (row >= start[:, None]) & (row < (start + count)[:, None])
    return inside[..., None]


def central_block(
    mask: Bool[Array, "n h _w"], acs_lines: int | None = None
) -> Bool[Array, "n h _w"]:
    """The fully sampled centre of each mask, where it may be scattered points.

    Args:
        mask: Sampled lines, or points.
        acs_lines: As in :func:`central_lines`; of points the side of the square, the
            next smaller even one.

    Returns:
        :func:`central_lines` of a mask of whole lines, else the largest square without
        a gap around the centre, two points wide at least.
    """
    lines = central_lines(mask, acs_lines)
    if mask.shape[2] == 1:
        return lines

    def reach(size: int) -> Array:
        """Half the side of the smallest square that a row or column belongs to."""
        away = jnp.arange(size) - size // 2
        return jnp.where(away < 0, -away, away + 1)

    needed = jnp.maximum(*jnp.meshgrid(*map(reach, mask.shape[1:]), indexing="ij"))
    if acs_lines is None:
        gap = jnp.min(jnp.where(mask, max(mask.shape), needed), axis=(1, 2))
        half = jnp.maximum(gap - 1, 1)
    else:
        half = jnp.full(mask.shape[0], acs_lines // 2)
    square = needed[None] <= half[:, None, None]
    of_lines = jnp.all(mask == mask[:, :, :1], axis=(1, 2))
    return jnp.where(of_lines[:, None, None], lines, square)


def normalise(
    x: Float[Array, "b h w c"], groups: int
) -> tuple[Float[Array, "b h w c"], Float[Array, "b 1 1 c"], Float[Array, "b 1 1 c"]]:
    """Zero mean, unit sample variance of each group of channels: x, mean, std."""
    b, h, w, c = x.shape
    parts = x.reshape(b, h * w, groups, c // groups)
    mean = jnp.mean(parts, axis=(1, 3), keepdims=True)
    count = h * w * (c // groups)
    power = jnp.sum((parts - mean) ** 2, axis=(1, 3), keepdims=True) / (count - 1)
    # A frame of zeros stays one, without a gradient of NaN.
    std = jnp.sqrt(jnp.where(power > 0, power, 1.0))

    def per_channel(z: Array) -> Array:
        return jnp.repeat(z.reshape(b, 1, 1, groups), c // groups, axis=-1)

    mean, std = per_channel(mean), per_channel(std)
    return (x - mean) / std, mean, std


def pad_to_multiple(
    x: Float[Array, "b h w c"], multiple: int
) -> tuple[Float[Array, "b h2 w2 c"], tuple[slice, slice]]:
    """Zeros on all sides, and the slices that take them off again."""
    short = [-n % multiple for n in x.shape[1:3]]
    widths = [(s // 2, s - s // 2) for s in short]
    rows, columns = (
        slice(before, before + n)
        for (before, _), n in zip(widths, x.shape[1:3], strict=True)
    )
    return jnp.pad(x, [(0, 0), *widths, (0, 0)]), (rows, columns)


class NormUNet(nn.Module):
    """A U-Net of real and imaginary parts, each normalised on its own."""

    chans: int
    pools: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Complex[Array, "b h w"]) -> Complex[Array, "b h w"]:
        channels = to_channels(image[..., None])
        normed, mean, std = normalise(channels, groups=2)
        padded, (rows, columns) = pad_to_multiple(normed, 16)
        plan = unet.fastmri(chans=self.chans, pools=self.pools, out_channels=2)
        out = unet.UNet(plan, self.dtype, name="unet")(padded)
        return from_channels(out[:, rows, columns] * std + mean)[..., 0]


class SensitivityNet(nn.Module):
    """Coil maps from the centre of k-space, coil by coil, then unit norm over coils."""

    config: VarNetConfig

    @nn.compact
    def __call__(
        self, kspace: Complex[Array, "n c h w"], mask: Bool[Array, "n h _w"]
    ) -> Complex[Array, "n c h w"]:
        config = self.config
        centre = sample(kspace, central_block(mask, config.acs_lines))
        images = ifft2c(centre).reshape(-1, *kspace.shape[2:])
        network = NormUNet(
            config.sens_chans, config.sens_pools, config.dtype, name="norm_unet"
        )
        maps = network(images).reshape(kspace.shape)
        return unit_norm(maps)


def unit_norm(maps: Complex[Array, "*n c h w"]) -> Complex[Array, "*n c h w"]:
    """Divide by the root sum of squares over coils; zeros stay zeros."""
    size = rss(maps)
    return maps / jnp.where(size > 0, size, 1.0)[..., None, :, :].astype(maps.dtype)


class Cascade(nn.Module):
    """One step: towards the data by a learned length, and away from the artefacts."""

    config: VarNetConfig

    @nn.compact
    def __call__(
        self,
        coil_images: Complex[Array, "n c h w"],
        measured: Complex[Array, "n c h w"],
        maps: Complex[Array, "n c h w"],
        mask: Bool[Array, "n h _w"],
    ) -> Complex[Array, "n c h w"]:
        config = self.config
        step_size = self.param("dc_weight", nn.initializers.ones, (1,), jnp.float32)
        network = NormUNet(config.chans, config.pools, config.dtype, name="norm_unet")
        refinement = network(combine(coil_images, maps))
        return varnet_update(
            coil_images,
            measured,
            maps,
            mask,
            refinement,
            step_size=step_size[0],
            implementation=config.implementation,
            lines=config.lines,
        )


class VarNet(nn.Module):
    """Map estimation and the cascades; magnitudes out."""

    config: VarNetConfig

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Float[Array, "b t h w"]:
        """Reconstruct every frame; nothing depends on ``train``."""
        kspace, mask = frames_of(batch)
        kspace = sample(kspace, mask)
        measured = ifft2c(kspace)
        if self.config.given_maps:
            frames = batch["kspace"].shape[1]
            maps = jnp.repeat(unit_norm(batch["sensitivities"]), frames, axis=0)
        else:
            maps = SensitivityNet(self.config, name="sens_net")(kspace, mask)

        def body(cascade: Cascade, x: Array, _: None) -> tuple[Array, None]:
            return cascade(x, measured, maps, mask), None

        scan = scan_cascades(body, self.config.cascades, remat=self.config.remat)
        coil_images = scan(Cascade(self.config, name="cascades"), measured, None)[0]
        b, t, _, h, w = batch["kspace"].shape
        return rss(coil_images).reshape(b, t, h, w)


def scan_cascades(
    body: Callable[[Any, Array, None], tuple[Array, None]], count: int, *, remat: bool
) -> Callable[[nn.Module, Array, None], tuple[Array, None]]:
    """Apply one cascade ``count`` times, each time with weights of its own.

    One compiled body, except on a CPU, where the loop is written out: XLA's CPU
    compiler brings the gradients of convolutions into the form that its fast routine
    takes outside of loops only. Inside, a step of ``experiments.bench unrolled`` takes
    four times as long. Written out, recomputation saves hardly any memory there.

    Args:
        body: A cascade, its input and None to its output and None.
        count: Of the cascades.
        remat: Whether activations are computed anew in the backward pass.

    Returns:
        A function of what ``body`` takes.
    """
    turns = count if compat.platform() == "cpu" else 1
    return nn.scan(
        # A loop needs no barrier against the elimination of what is computed twice.
        nn.remat(body, prevent_cse=turns > 1) if remat else body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=count,
        unroll=turns,
    )


def frames_of(
    batch: Batch,
) -> tuple[Complex[Array, "n c h w"], Bool[Array, "n h _w"]]:
    """k-space and masks with batch and frames as one axis."""
    kspace, mask = batch["kspace"], batch["mask"]
    b, t = kspace.shape[:2]
    mask = jnp.broadcast_to(mask, (b, t, *mask.shape[2:]))
    return kspace.reshape(b * t, *kspace.shape[2:]), mask.reshape(-1, *mask.shape[2:])


def ssim_loss(
    image: Float[Array, "b t h w"], batch: Batch
) -> tuple[Float[Array, ""], Metrics]:
    """One minus SSIM (7x7 uniform) against the root sum of squares of the full data.

    The data range is the largest target value of the whole series of an example, as
    fastMRI takes the volume's.
    """
    target = rss(ifft2c(batch["kspace"]))
    largest = jnp.max(target, axis=(1, 2, 3), keepdims=True)[..., 0, 0]
    data_range = jnp.broadcast_to(largest, target.shape[:2])
    value = jnp.mean(ssim(image, target, data_range=data_range))
    return 1 - value, {"ssim": value}


def varnet_system(config: VarNetConfig) -> ReconstructionSystem:
    """The trainable E2E-VarNet.

    Args:
        config: One of :data:`CONFIGS`, or your own.

    Returns:
        Its ``init``, ``loss`` (:func:`ssim_loss`) and ``reconstruct`` (float32
        magnitudes). Batches are those of :mod:`medjax.mri.series`; sensitivities are
        needed with ``given_maps`` only.

    Raises:
        ValueError: For less than one cascade.
    """
    if config.cascades < 1:
        raise ValueError(f"cascades is {config.cascades}, expected 1 at least")
    return reconstruction_system(
        VarNet(config),
        loss_of=ssim_loss,
        image_of=lambda x: x,
        sensitivities=config.given_maps,
    )
