"""Unrolled reconstructions in image space: MoDL, D5C5, multi-coil Latent Transformer.

All three alternate a network ``D`` with a step towards the data ``y = A x``.

**MoDL** (Aggarwal et al. 2019, arXiv 1712.02862) solves the data term exactly, eq. 11:

    z_k = D(x_k),    x_{k+1} = (A^H A + lambda)^{-1} (A^H y + lambda z_k),

by conjugate gradients with an implicit gradient, so that memory does not grow with the
iterations. The published ``D`` is five 3x3 convolutions with batch norm on single
frames, shared by ten unrolls.

The **multi-coil Latent Transformer** (Tänzer et al., arXiv 2309.16853) is MoDL with the
Latent Transformer as ``D``, one unroll, and a small network that refines the coil maps.
There lambda starts at 0, where ``D`` gets no gradient; ours is ``softplus`` of the
parameter and starts at 0.05, as MoDL's. The published code takes ``A^H y`` with the
maps from before the refinement but ``A^H A`` with those from after; ours uses the
refined ones in both.

**D5C5** (Schlemper et al. 2017, arXiv 1703.00555): five cascades of five convolutions,
each followed by a soft replacement of the sampled k-space, ``k + w (k_0 - k)`` with
``w = m / (1 + lambda)``. With several coils this becomes a gradient step of the data
term, to which it is identical for one coil of sensitivity 1.

FFTs are centred (MoDL's published code is not). With unit-RSS maps the spectrum of
``A^H A`` lies in [0, 1]: lambda needs no adapting to the scale of the data.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from medjax.mri.latent_transformer import (
    NETWORKS,
    LatentTransformer,
    LatentTransformerConfig,
)
from medjax.mri.sense import adjoint
from medjax.mri.series import (
    Domain,
    ReconstructionSystem,
    distance,
    from_channels,
    reconstruction_system,
    to_channels,
)
from medjax.nn.normalization import BatchNorm
from medjax.typing import Batch, Metrics
from medjax_kernels.data_consistency import gradient_step, proximal_solve
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation


@dataclass(frozen=True)
class UnrolledConfig:
    """What is unrolled, how often, and against which loss.

    Attributes:
        denoiser: The Latent Transformer, or MoDL's or D5C5's convolutions.
        network: The Latent Transformer's sizes.
        features: Channels of the convolutional denoisers.
        depth: Their number of layers.
        unrolls: Applications of denoiser and data step.
        shared: Whether all unrolls share one denoiser.
        consistency: ``"solve"`` by conjugate gradients or one ``"step"``.
        cg_iterations: At most so many.
        cg_tolerance: Relative residual at which an image is solved; 0 runs all
            iterations. More than 0 is for one device: on several, each iteration asks
            all of them whether it is the last.
        cg_per_readout: One recurrence per readout position instead of one per image,
            for masks of whole lines.
        initial_lambda: Where the learned weight of the denoiser starts.
        refine_maps: Whether a network refines the coil maps.
        scale: What k-space is multiplied by; CMRxRecon's images are about 1e-4.
        domain: Where the L1 loss is taken.
        after_consistency: Whether the loss sees the image after the last data step.
        dtype: Of the networks' arithmetic; the data steps are float32.
        implementation: Of data consistency; None takes the best for platform and shape.
        lines: Of a line mask, at most so many are sampled; None: any number.
    """

    denoiser: Literal["latent_transformer", "modl", "d5c5"] = "latent_transformer"
    network: LatentTransformerConfig = LatentTransformerConfig()
    features: int = 64
    depth: int = 5
    unrolls: int = 1
    shared: bool = True
    consistency: Literal["solve", "step"] = "solve"
    cg_iterations: int = 10
    cg_tolerance: float = 0.0
    cg_per_readout: bool = False
    initial_lambda: float = 0.05
    refine_maps: bool = False
    scale: float = 1.0
    domain: Domain = "magnitude"
    after_consistency: bool = True
    dtype: DTypeLike = jnp.float32
    implementation: ConsistencyImplementation | None = None
    lines: int | None = None


CONFIGS = {
    "tiny": UnrolledConfig(network=NETWORKS["tiny"], refine_maps=True),
    "tiny_modl": UnrolledConfig("modl", features=16, unrolls=3, domain="image"),
    "tiny_d5c5": UnrolledConfig(
        "d5c5",
        features=16,
        depth=3,
        unrolls=3,
        shared=False,
        consistency="step",
        domain="image",
    ),
    "repo": UnrolledConfig(refine_maps=True, scale=1e4),
    "repo_restormer": UnrolledConfig(
        network=NETWORKS["repo_restormer"], refine_maps=True, scale=1e2
    ),
    "modl": UnrolledConfig("modl", unrolls=10, scale=1e4, domain="image"),
    "d5c5": UnrolledConfig(
        "d5c5",
        unrolls=5,
        shared=False,
        consistency="step",
        scale=1e4,
        domain="image",
    ),
}


class ConvolutionalResidual(nn.Module):
    """3x3 convolutions whose sum with the input is the output.

    MoDL puts batch norm after every convolution; D5C5 has none but a leaky rectifier;
    the refinement of the maps is MoDL's without norms. Weights are Xavier's, and the
    last layer starts at zero: an untrained denoiser is the identity.
    """

    features: int
    depth: int
    norm: bool
    slope: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        zeros, xavier = nn.initializers.zeros, nn.initializers.xavier_uniform()
        y = x.astype(self.dtype)
        for i in range(self.depth):
            last = i == self.depth - 1
            y = nn.Conv(
                x.shape[-1] if last else self.features,
                (3, 3),
                padding=1,
                use_bias=not self.norm,
                kernel_init=zeros if last and not self.norm else xavier,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(y)
            if self.norm:
                y = BatchNorm(
                    momentum=0.01,  # Keras keeps 0.99 of the old
                    epsilon=1e-3,
                    scale_init=zeros if last else nn.initializers.ones,
                    dtype=self.dtype,
                    name=f"norm_{i}",
                )(y, train=train)
            if not last:
                y = nn.leaky_relu(y, self.slope)
        return x + y.astype(x.dtype)


class Denoiser(nn.Module):
    """Complex series in, complex series out."""

    config: UnrolledConfig

    @nn.compact
    def __call__(
        self, image: Complex[Array, "b t h w"], *, train: bool
    ) -> Complex[Array, "b t h w"]:
        config = self.config
        if config.denoiser == "latent_transformer":
            network = LatentTransformer(config.network, name="network")
            return network(image, train=train)
        modl = config.denoiser == "modl"
        frames = image.reshape(-1, *image.shape[2:])[..., None]
        network = ConvolutionalResidual(
            config.features,
            config.depth,
            norm=modl,
            slope=0.0 if modl else 0.01,
            dtype=config.dtype,
            name="network",
        )
        denoised = network(to_channels(frames), train=train)
        return from_channels(denoised).reshape(image.shape)


class Unrolled(nn.Module):
    """The alternation of denoiser and data step."""

    config: UnrolledConfig

    def setup(self) -> None:
        config = self.config
        count = 1 if config.shared else config.unrolls
        self.denoisers = [Denoiser(config) for _ in range(count)]
        start = np.log(np.expm1(config.initial_lambda))  # the inverse of softplus
        self.raw_lambda = self.param(
            "raw_lambda", nn.initializers.constant(start), (count,), jnp.float32
        )
        if config.refine_maps:
            self.map_refinement = ConvolutionalResidual(
                64, 5, norm=False, slope=0.0, dtype=config.dtype
            )

    def __call__(
        self, batch: Batch, *, train: bool
    ) -> tuple[Complex[Array, "b t h w"], Complex[Array, "b t h w"]]:
        """The last image before and after its data step, in the batch's scale."""
        config = self.config
        maps = batch["sensitivities"]
        if config.refine_maps:
            channels = to_channels(jnp.moveaxis(maps, 1, -1))
            refined = self.map_refinement(channels, train=train)
            maps = jnp.moveaxis(from_channels(refined), -1, 1)
        maps, mask = maps[:, None], batch["mask"]  # all frames share the maps
        measured = adjoint(batch["kspace"], maps, mask) * config.scale
        image = denoised = measured
        for i in range(config.unrolls):
            index = 0 if config.shared else i
            # Rematerialised: memory holds one image per unroll and the activations of
            # one. A single unroll has nothing to gain from that.
            denoise = lambda net, x: net(x, train=train)  # noqa: E731 - remat's operand
            if config.unrolls > 1:
                denoise = nn.remat(denoise)
            denoised = denoise(self.denoisers[index], image)
            lam = jax.nn.softplus(self.raw_lambda[index])
            image = self._approach_data(denoised, measured, maps, mask, lam)
        return denoised / config.scale, image / config.scale

    def _approach_data(
        self,
        denoised: Complex[Array, "b t h w"],
        measured: Complex[Array, "b t h w"],
        maps: Complex[Array, "b 1 c h w"],
        mask: Array,
        lam: Float[Array, ""],
    ) -> Complex[Array, "b t h w"]:
        if self.config.consistency == "step":
            return gradient_step(
                denoised,
                maps,
                mask,
                measured,
                step_size=1 / (1 + lam),
                implementation=self.config.implementation,
                lines=self.config.lines,
            )
        return proximal_solve(
            measured + lam.astype(denoised.dtype) * denoised,
            maps,
            mask,
            lam=lam,
            iterations=self.config.cg_iterations,
            tolerance=self.config.cg_tolerance,
            per_readout=self.config.cg_per_readout,
            implementation=self.config.implementation,
            lines=self.config.lines,
        )


def unrolled_system(config: UnrolledConfig) -> ReconstructionSystem:
    """A trainable unrolled reconstruction.

    Args:
        config: One of :data:`CONFIGS`, or your own.

    Returns:
        Its ``init``, ``loss`` and ``reconstruct`` (complex images). Batches are those
        of :mod:`medjax.mri.series`, sensitivities included.

    Raises:
        ValueError: For less than one unroll.
    """
    if config.unrolls < 1:
        raise ValueError(f"unrolls is {config.unrolls}, expected 1 at least")

    def loss_of(outputs: tuple, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        image = outputs[int(config.after_consistency)]
        return distance(image, batch, domain=config.domain) * config.scale, {}

    return reconstruction_system(
        Unrolled(config),
        loss_of=loss_of,
        image_of=lambda outputs: outputs[1],
        sensitivities=True,
    )
