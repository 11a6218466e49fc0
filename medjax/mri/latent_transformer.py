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

Images enter as magnitude and phase. In the Restormer flavour the first
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
    from_polar,
    reconstruction_system,
    to_polar,
    zero_filled,
)
from medjax.nn import unet
from medjax.nn.restormer import Restormer, RestormerConfig
from medjax.typing import Batch, Metrics
from medjax_kernels.data_consistency import blend_image
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation

REFERENCE_WIDTHS = (8, 8, 16, 32, 64, 8)


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
        attention: Whether frames attend to each other at all.
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
    negative_frames: int = 3
    dtype: DTypeLike = jnp.float32


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


def frame_encoding(frames: int, width: int) -> Float[np.ndarray, "t d"]:
    """Sinusoids of the frame's *index* (not its time in ms), base 10000."""
    angle = np.arange(frames)[:, None] * np.exp(
        np.arange(0, width, 2) * (-np.log(10000.0) / width)
    )
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(frames, width)


class TemporalAttention(nn.Module):
    """One layer: ``heads`` full-width blocks over the frames of a pixel, averaged."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        d = x.shape[-1]
        # PyTorch's default for a 1x1 convolution: uniform with variance 1 / (3 d).
        uniform = nn.initializers.variance_scaling(
            1 / 3, "fan_in", "uniform", batch_axis=(0, 1)
        )
        kernel = self.param("kernel", uniform, (3, self.heads, d, d))
        bias = self.param("bias", nn.initializers.zeros, (3, self.heads, d))
        x = x.astype(self.dtype)
        key, query, value = jnp.einsum(
            "bthwd,snde->sbhwnte", x, kernel.astype(self.dtype)
        ) + jnp.expand_dims(bias.astype(self.dtype), (1, 2, 3, 5))
        scores = jnp.einsum(
            "bhwnic,bhwnjc->bhwnij", key, query, preferred_element_type=jnp.float32
        )
        weights = nn.softmax(scores, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhwnij,bhwnjc->bhwnic", weights, value)
        # Every block adds x to its own output; so does their average.
        return jnp.moveaxis(jnp.mean(mixed, axis=3), 3, 1) + x


class LevelTransformer(nn.Module):
    """Frame encoding, attention layers, and a residual around both."""

    heads: int
    layers: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        _, t, _, _, d = x.shape
        if d % 2:
            raise ValueError(f"features have {d} channels, expected an even number")
        x = x.astype(self.dtype)
        encoding = jnp.asarray(frame_encoding(t, d), self.dtype)

        def body(layer: TemporalAttention, x: Array, _: None) -> tuple[Array, None]:
            return layer(x), None

        # One compiled layer; backwards it is computed again rather than remembered.
        scan = nn.scan(
            nn.remat(body, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        layer = TemporalAttention(self.heads, self.dtype, name="layers")
        encoded = x + jnp.expand_dims(encoding, (0, 2, 3))
        return scan(layer, encoded, None)[0] + x


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
        frames = to_polar(image[..., None]).reshape(b * t, h, w, 2)
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
                LevelTransformer(
                    config.heads, config.layers, config.dtype, name=f"level_{i}"
                )(x.reshape(b, t, *x.shape[1:])).reshape(x.shape)
                for i, x in enumerate(features)
            ]
        if isinstance(net, unet.UNet):
            decoded = net.decode(features, train=train)
        else:
            decoded = net.decode(features)[:, :h, :w]
        return from_polar(decoded).reshape(b, t, h, w)

    def _denoised(
        self, image: Complex[Array, "b t h w"], *, train: bool
    ) -> Complex[Array, "b t h w"]:
        config = self.config
        t, h, w = image.shape[1:]
        polar = to_polar(jnp.moveaxis(image, 1, -1))
        if config.backbone == "unet":
            plan = unet.basic(features=config.denoiser_widths, out_channels=2 * t)
            net = unet.UNet(
                plan, config.dtype, head_init=nn.initializers.zeros, name="denoiser"
            )
            correction = from_polar(net(polar, train=train))
            return jnp.moveaxis(correction, -1, 1) + image
        signs = np.ones(2 * t, np.float32)
        signs[: min(config.negative_frames, t)] = -1
        polarity = jnp.asarray(signs)[None, None, None]
        net = self._restormer(2 * t, config.denoiser_widths, "denoiser")
        out = net(_pad_to_eight(polar * polarity))[:, :h, :w] * polarity
        return jnp.moveaxis(from_polar(out), -1, 1)

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
