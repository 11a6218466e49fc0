"""Latent Transformer: frames of a mapping series attend to each other, pixel by pixel.

Tänzer et al., *T1/T2 relaxation temporal modelling from accelerated acquisitions using
a latent transformer* (CMRxRecon 2023; arXiv 2309.16853; code
``Michael-Tanzer/cmr-x-recon-2023-imperial``). A T1 or T2 series shows one anatomy in
many contrasts, tied to each other by an exponential. An encoder, shared by the frames,
turns every frame into features at several scales. At every scale and every position
the sequence of frames (nine tokens for T1, three for T2) passes a stack of attention
layers; there is no mixing in space, that is the encoder's task. A shared decoder turns
the features back into frames. Beside it a plain network denoises all frames at once.

The attention is the published one, whose oddities matter for parity: queries and keys
have exchanged roles, ``w_ij = softmax_j(sum_c K_ic Q_jc)``, there is no 1/sqrt(d), and
"heads" are independent blocks of the full width whose outputs are averaged. The
reference widths make 821 376 attention parameters.

Images enter as magnitude and phase; ``parts="cartesian"`` gives the UNet flavour real
and imaginary parts instead, in which frames that are aliased differently add up to one
that is not (in magnitudes and phases they do not). In the Restormer flavour the first
``negative_frames`` magnitudes are negated on entry and again on exit, since the early
inversion times lie below the null; in the published code this is a hard-coded three,
here it is a parameter (0 for T2).

The single-coil system replaces the sampled k-space of what the network gives back (hard
data consistency). The published losses are two of :data:`CONFIGS`.

What is ours: the attention of all heads is one contraction, ``attention=False`` gives
the ablation without temporal attention, layers are scanned and rematerialised in the
backward pass, last convolutions start at zero (training begins at the zero-filled
image, not at noise), and the networks run in any ``dtype`` with softmax, norms and data
consistency in float32.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from medjax.mri.series import (
    Domain,
    ReconstructionSystem,
    distance,
    from_channels,
    from_polar,
    reconstruction_system,
    to_channels,
    to_polar,
    zero_filled,
)
from medjax.mri.temporal_attention import LevelTransformer, from_blocks, to_blocks
from medjax.nn import unet
from medjax.nn.restormer import Restormer, RestormerConfig
from medjax.typing import Batch, Metrics
from medjax_kernels.data_consistency import blend_image
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation

REFERENCE_WIDTHS = (8, 8, 16, 32, 64, 8)
PARTS = {"polar": (to_polar, from_polar), "cartesian": (to_channels, from_channels)}
"""Complex images to real channels, and back."""


@dataclass(frozen=True)
class LatentTransformerConfig:
    """Sizes of a Latent Transformer; the defaults are the published UNet flavour.

    Attributes:
        backbone: Encoder and decoder around the attention.
        widths: Feature channels per level of that backbone.
        denoiser_widths: Of the parallel branch: MONAI ``BasicUNet`` features, or the
            widths of the second Restormer.
        blocks: Restormer blocks per level (Restormer flavour only).
        refinement: Restormer blocks after the decoder (Restormer flavour only).
        heads: Attention blocks whose outputs are averaged.
        layers: Attention layers in a row, at every level.
        attention: Whether tokens attend to each other at all.
        attends: What a sequence of tokens is: the frames of a pixel, as published, or
            the pixels of a small block of one frame. That is the control: as many
            parameters, and no frame sees another.
        mixing: How frames meet outside the attention, in the denoiser beside it: all
            together, as published; not at all (``"apart"``, each is denoised alone);
            or apart with a second denoiser of all together added, which is silent at
            the start. UNet only.
        parts: What channels a complex image becomes: magnitude and phase, as published,
            or real and imaginary part. UNet only.
        silent: Whether attention adds nothing at the start: a level gives what its
            layers add to its input, from value kernels of zero. So a network without
            attention can be trained on with it.
        negative_frames: Earliest frames whose magnitudes are negated (Restormer only).
        dtype: Of the networks' arithmetic.
    """

    backbone: Literal["unet", "restormer"] = "unet"
    widths: tuple[int, ...] = REFERENCE_WIDTHS
    denoiser_widths: tuple[int, ...] = (32, 32, 64, 128, 256, 32)
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    refinement: int = 4
    heads: int = 8
    layers: int = 6
    attention: bool = True
    attends: Literal["frames", "neighbours"] = "frames"
    mixing: Literal["together", "apart", "added"] = "together"
    parts: Literal["polar", "cartesian"] = "polar"
    silent: bool = False
    negative_frames: int = 3
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if self.backbone == "unet":
            return
        for name, published in (("mixing", "together"), ("parts", "polar")):
            if (found := getattr(self, name)) != published:
                raise ValueError(
                    f"{name} is {found!r} with the backbone {self.backbone!r}, "
                    f"expected {published!r}: the rest is of the UNet only"
                )


NETWORKS = {
    # A laptop's, for tests and the embedded experiment.
    "tiny": LatentTransformerConfig(
        widths=(8, 16, 16), denoiser_widths=(16, 16, 32, 16), heads=2, layers=2
    ),
    "tiny_restormer": LatentTransformerConfig(
        backbone="restormer",
        widths=(4, 8, 16, 32),
        denoiser_widths=(8, 16, 32, 64),
        blocks=(1, 1, 1, 1),
        refinement=1,
        heads=2,
        layers=2,
    ),
    # The repository's.
    "repo": LatentTransformerConfig(),
    "repo_restormer": LatentTransformerConfig(
        backbone="restormer",
        widths=(24, 48, 96, 192),
        denoiser_widths=(48, 96, 192, 384),
        heads=4,
        layers=4,
    ),
}


class LatentTransformer(nn.Module):
    """Complex series in, complex series out, before any data consistency."""

    config: LatentTransformerConfig

    @nn.compact
    def __call__(
        self, image: Complex[Array, "b t h w"], *, train: bool = False
    ) -> Complex[Array, "b t h w"]:
        """Denoise a series; ``train`` updates the batch norm of the UNet flavour."""
        temporal = self._temporal(image, train=train)
        return temporal + self._denoised(image, train=train)

    def _temporal(
        self, image: Complex[Array, "b t h w"], *, train: bool
    ) -> Complex[Array, "b t h w"]:
        config = self.config
        b, t, h, w = image.shape
        to_real, to_complex = PARTS[config.parts]
        frames = to_real(image[..., None]).reshape(b * t, h, w, 2)
        if config.backbone == "unet":
            net = unet.UNet(
                unet.bilinear(widths=config.widths, out_channels=2),
                config.dtype,
                head_init=nn.initializers.zeros,
                name="backbone",
            )
            features = net.encode(frames, train=train)
        else:
            net = self._restormer(2, config.widths, "backbone")
            features = net.encode(_pad_to_eight(frames))
        if config.attention:
            features = [
                self._attend(x.reshape(b, t, *x.shape[1:]), f"level_{i}").reshape(
                    x.shape
                )
                for i, x in enumerate(features)
            ]
        if isinstance(net, unet.UNet):
            decoded = net.decode(features, train=train)
        else:
            decoded = net.decode(features)[:, :h, :w]
        return to_complex(decoded).reshape(b, t, h, w)

    def _attend(
        self, x: Float[Array, "b t h w d"], name: str
    ) -> Float[Array, "b t h w d"]:
        config = self.config
        level = LevelTransformer(
            config.heads, config.layers, config.dtype, config.silent, name=name
        )
        if config.attends == "frames":
            return level(x)
        return from_blocks(level(to_blocks(x)), like=x)

    def _denoised(
        self, image: Complex[Array, "b t h w"], *, train: bool
    ) -> Complex[Array, "b t h w"]:
        config = self.config
        t, h, w = image.shape[1:]
        if config.backbone == "unet":
            if config.mixing == "together":
                return image + self._correction(image, "denoiser", train=train)
            alone = image.reshape(-1, 1, h, w)
            correction = self._correction(alone, "denoiser", train=train)
            denoised = image + correction.reshape(image.shape)
            if config.mixing == "added":
                denoised += self._correction(image, "mixer", train=train)
            return denoised
        polar = to_polar(jnp.moveaxis(image, 1, -1))
        signs = np.ones(2 * t, np.float32)
        signs[: min(config.negative_frames, t)] = -1
        polarity = jnp.asarray(signs)[None, None, None]
        net = self._restormer(2 * t, config.denoiser_widths, "denoiser")
        out = net(_pad_to_eight(polar * polarity))[:, :h, :w] * polarity
        return jnp.moveaxis(from_polar(out), -1, 1)

    def _correction(
        self, image: Complex[Array, "b t h w"], name: str, *, train: bool
    ) -> Complex[Array, "b t h w"]:
        """What a plain network that sees these frames as channels adds to them."""
        plan = unet.basic(
            features=self.config.denoiser_widths, out_channels=2 * image.shape[1]
        )
        zeros = nn.initializers.zeros
        net = unet.UNet(plan, self.config.dtype, head_init=zeros, name=name)
        to_real, to_complex = PARTS[self.config.parts]
        channels = to_real(jnp.moveaxis(image, 1, -1))
        return jnp.moveaxis(to_complex(net(channels, train=train)), -1, 1)

    def _restormer(
        self, channels: int, widths: tuple[int, ...], name: str
    ) -> Restormer:
        first, second, third, fourth = widths
        plan = RestormerConfig(
            channels,
            (first, second, third, fourth),
            self.config.blocks,
            refinement=self.config.refinement,
        )
        return Restormer(
            plan, self.config.dtype, head_init=nn.initializers.zeros, name=name
        )


def _pad_to_eight(x: Float[Array, "b h w c"]) -> Float[Array, "b h8 w8 c"]:
    """Zeros below and right, up to multiples of 8."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % 8), (0, -x.shape[2] % 8), (0, 0)])


@dataclass(frozen=True)
class SingleCoilConfig:
    """The single-coil reconstruction around the network.

    Attributes:
        network: The network.
        scale: What k-space is multiplied by; CMRxRecon's images are about 1e-4.
        steps: How often the same network and data consistency are applied.
        domain: Where the L1 loss is taken.
        after_consistency: Whether the loss sees the image after data consistency.
        implementation: Of data consistency; None takes the best for platform and shape.
        lines: Of a line mask, at most so many are sampled; None: any number.
    """

    network: LatentTransformerConfig = LatentTransformerConfig()
    scale: float = 1e4
    steps: int = 1
    domain: Domain = "image"
    after_consistency: bool = False
    implementation: ConsistencyImplementation | None = None
    lines: int | None = None


CONFIGS = {
    "tiny": SingleCoilConfig(NETWORKS["tiny"], scale=1.0),
    "tiny_restormer": SingleCoilConfig(
        NETWORKS["tiny_restormer"], scale=1.0, domain="kspace", after_consistency=True
    ),
    "repo": SingleCoilConfig(NETWORKS["repo"]),
    "repo_restormer": SingleCoilConfig(
        NETWORKS["repo_restormer"], scale=1e2, domain="kspace", after_consistency=True
    ),
}


class SingleCoil(nn.Module):
    """Network and hard data consistency, ``steps`` times with the same weights."""

    config: SingleCoilConfig

    @nn.compact
    def __call__(
        self, batch: Batch, *, train: bool
    ) -> list[tuple[Complex[Array, "b t h w"], Complex[Array, "b t h w"]]]:
        """Per step: the image before and after data consistency."""
        if batch["kspace"].shape[2] != 1:
            raise ValueError(
                f"kspace has {batch['kspace'].shape[2]} coils, expected 1; "
                "medjax.mri.unrolled has the multi-coil system"
            )
        network = LatentTransformer(self.config.network, name="network")
        measured = zero_filled(batch) * self.config.scale
        image, outputs = measured, []
        for _ in range(self.config.steps):
            denoised = network(image, train=train)
            image = blend_image(
                denoised,
                measured,
                batch["mask"],
                implementation=self.config.implementation,
                lines=self.config.lines,
            )
            outputs.append((denoised / self.config.scale, image / self.config.scale))
        return outputs


def latent_transformer_system(config: SingleCoilConfig) -> ReconstructionSystem:
    """The trainable single-coil Latent Transformer.

    Args:
        config: One of :data:`CONFIGS`, or your own.

    Returns:
        Its ``init``, ``loss`` (summed over the steps) and ``reconstruct`` (complex
        images). Batches are those of :mod:`medjax.mri.series` with one coil.
    """

    def loss_of(outputs: list, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        total = jnp.float32(0.0)
        for pair in outputs:
            image = pair[int(config.after_consistency)]
            total += distance(image, batch, domain=config.domain) * config.scale
        return total, {}

    return reconstruction_system(
        SingleCoil(config),
        loss_of=loss_of,
        image_of=lambda outputs: outputs[-1][1],
        sensitivities=True,
    )
