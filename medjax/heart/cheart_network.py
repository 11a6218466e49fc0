"""The network of CHeart: encoder, prior, the way through time, decoder.

What it is for, and what the presets mean, is told in :mod:`medjax.heart.cheart`.
"""

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from medjax.heart.appearance import LABELS
from medjax.heart.population import CONDITIONS
from medjax.nn.attention import Mlp, MultiHeadAttention
from medjax.nn.gaussian import Gaussian
from medjax.nn.halving import Double, Halve
from medjax.nn.normalization import BatchNorm, LayerNorm
from medjax.nn.warp import warp

CLASSES = 1 + len(LABELS)
LEVELS = 4
"""Halvings of the encoder."""
# PyTorch's: uniform within 1 / sqrt(inputs).
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class CHeartConfig:
    """Network and loss of CHeart; the defaults are the released code's."""

    shape: tuple[int, int, int] = (64, 128, 128)
    """Voxels along z, y and x; each a multiple of 16."""
    frames: int = 20
    """Of the cycle."""
    latent: int = 32
    """Length of the latent vector; the code trains 32 and validates 8."""
    width: int = 4
    """Channels of the first convolution; they double three times."""
    condition_mean: tuple[float, ...] = (0.0,) * len(CONDITIONS)
    """Subtracted from the conditions."""
    condition_deviation: tuple[float, ...] = (1.0,) * len(CONDITIONS)
    """By which the conditions are divided then."""
    temporal: Literal["lstm", "transformer"] = "lstm"
    """How the latent vector becomes one for each frame."""
    mapping: bool = False
    """Conditions go through eight layers of 64 units first, normalised before the first
    and behind each; encoder, frames and decoder are told what comes out."""
    conditions_at: Literal["after", "before"] = "after"
    """Whether the LSTM is told the conditions, or the decoder alone."""
    decode: Literal["labels", "flow"] = "labels"
    """Frames are drawn, or the first is drawn and moved."""
    norm: Literal["frame", "batch", "group"] = "frame"
    """Normalisation: batch norm of each frame by itself, of all frames, group norm."""
    learned_prior: bool = False
    """The prior depends on the conditions; else it is a standard normal."""
    kl: Literal["mean", "sum"] = "mean"
    """Over latent dimensions."""
    beta: float = 1e-2
    """Weight of KL: of its mean beside the mean cross-entropy of voxels, of its sum in
    the evidence bound of the cycle, where it is 1."""
    warmup: int = 0
    """Steps over which the weight of KL rises."""
    free_bits: float = 0.0
    """Nats of KL per dimension that cost nothing."""
    dice: float = 0.0
    """Weight of soft Dice beside cross-entropy."""
    class_weight: float = 1.0
    """Of the three structures, in cross-entropy; background has 1."""
    systole_weight: float = 1.0
    """Of frames 3 to 13 of 20; the others have 1."""


class _Norm(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if self.kind == "group":
            return nn.GroupNorm(num_groups=min(4, x.shape[-1]))(x)
        return BatchNorm()(x, train=train)


def pixel_norm(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Divided by the root of the mean square over channels; zeros stay zeros."""
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(square + 1e-8)


class _Mapping(nn.Module):
    """Conditions to 64 numbers, as a StyleGAN maps its latent vector."""

    width: int = 64
    layers: int = 8

    @nn.compact
    def __call__(self, conditions: Float[Array, "b c"]) -> Float[Array, "b w"]:
        x = pixel_norm(conditions)
        for i in range(self.layers):
            layer = nn.Dense(self.width, kernel_init=_UNIFORM, name=f"layer_{i}")
            x = pixel_norm(nn.relu(layer(x)))
        return pixel_norm(x)


class _Encoder(nn.Module):
    """The first frame and conditions to the posterior."""

    config: CHeartConfig

    @nn.compact
    def __call__(
        self,
        first: Float[Array, "b d h w k"],
        conditions: Float[Array, "b c"],
        *,
        train: bool,
    ) -> Gaussian:
        c = self.config
        wide = conditions[:, None, None, None, :]
        x = jnp.broadcast_to(wide, (*first.shape[:-1], conditions.shape[-1]))
        x = jnp.concatenate([first, x], axis=-1)
        for level in range(LEVELS):
            features = c.width * 2**level
            x = Halve(features)(x)
            x = _Norm(c.norm)(x, train=train)
            # The last activation's slope of 0.2 was given to a ReLU, which has none.
            x = nn.relu(x) if level == LEVELS - 1 else nn.leaky_relu(x, 0.2)
        x = x.reshape(len(x), -1)
        mean, log_variance = (
            nn.Dense(c.latent, kernel_init=_UNIFORM, name=name)(x)
            for name in ("mean", "log_variance")
        )
        return Gaussian(mean, log_variance)


class _Decoder(nn.Module):
    """Latent vectors of frames to volumes with some channels."""

    config: CHeartConfig
    channels: int

    @nn.compact
    def __call__(self, z: Float[Array, "b v"], *, train: bool) -> Array:
        c = self.config
        small = tuple(n // 2**LEVELS for n in c.shape)
        top = c.width * 2 ** (LEVELS - 1)
        x = nn.Dense(top * math.prod(small), kernel_init=_UNIFORM)(z)
        x = x.reshape(len(z), *small, top)
        for level in reversed(range(LEVELS)):
            features = c.width * 2 ** (level - 1) if level else self.channels
            x = Double(features)(x)
            if level:
                x = nn.leaky_relu(_Norm(c.norm)(x, train=train), 0.2)
        return x


class _Lstm(nn.Module):
    """PyTorch's cell, fed the same vector at every step, from zero."""

    frames: int

    @nn.compact
    def __call__(self, z: Float[Array, "b z"]) -> Float[Array, "b t z"]:
        size = z.shape[-1]
        gates = nn.Dense(4 * size, kernel_init=_UNIFORM, name="input")(z)
        recurrent = nn.Dense(4 * size, kernel_init=_UNIFORM, name="hidden")
        hidden = cell = jnp.zeros_like(z)
        every = [z]
        for _ in range(1, self.frames):
            i, f, g, o = jnp.split(gates + recurrent(hidden), 4, axis=-1)
            cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
            hidden = nn.sigmoid(o) * jnp.tanh(cell)
            every.append(hidden)
        return jnp.stack(every, axis=1)


class _Attention(nn.Module):
    """Frames, known by their phase, look at the latent vector and the conditions."""

    frames: int
    width: int = 64
    heads: int = 4
    layers: int = 2

    @nn.compact
    def __call__(
        self, z: Float[Array, "b z"], conditions: Float[Array, "b c"]
    ) -> Float[Array, "b t z"]:
        phase = 2 * jnp.pi * jnp.arange(self.frames, dtype=jnp.float32) / self.frames
        waves = [f(n * phase) for n in (1, 2, 3) for f in (jnp.sin, jnp.cos)]
        asked = nn.Dense(self.width, name="phase")(jnp.stack(waves, axis=-1))
        asked = jnp.broadcast_to(asked[None], (len(z), *asked.shape))
        known = [nn.Dense(self.width, name="latent")(z)]
        known.append(nn.Dense(self.width, name="conditions")(conditions))
        x = jnp.concatenate([jnp.stack(known, axis=1), asked], axis=1)
        for _ in range(self.layers):
            x = x + MultiHeadAttention(self.heads)(LayerNorm()(x))
            x = x + Mlp(2 * self.width)(LayerNorm()(x))
        moved = nn.Dense(z.shape[-1], name="output")(LayerNorm()(x)[:, 2:])
        return z[:, None] + moved


class CHeart(nn.Module):
    """Encoder, prior, the way through time, decoder."""

    config: CHeartConfig

    def setup(self) -> None:
        c = self.config
        self.encoder = _Encoder(c)
        if c.temporal == "lstm":
            self.time = _Lstm(c.frames)
        else:
            self.time = _Attention(c.frames)
        self.decoder = _Decoder(c, CLASSES)
        if c.mapping:
            self.mapping = _Mapping()
        if c.decode == "flow":
            self.flow = _Decoder(c, 3)
        if c.learned_prior:
            self.prior_hidden = nn.Dense(64)
            self.prior_out = nn.Dense(2 * c.latent, kernel_init=nn.initializers.zeros)

    def standard(self, conditions: Float[Array, "b c"]) -> Float[Array, "b c"]:
        """Conditions as the network is told them."""
        mean = jnp.asarray(self.config.condition_mean, jnp.float32)[None]
        deviation = jnp.asarray(self.config.condition_deviation, jnp.float32)[None]
        return (conditions - mean) / deviation

    def _told(self, conditions: Float[Array, "b c"]) -> Float[Array, "b _"]:
        """Conditions as all but the prior have them."""
        told = self.standard(conditions)
        return self.mapping(told) if self.config.mapping else told

    def encode(
        self,
        first: Integer[Array, "b d h w"],
        conditions: Float[Array, "b c"],
        *,
        train: bool = False,
    ) -> Gaussian:
        """The posterior given the labels of the first frame."""
        told = self._told(conditions)
        return self.encoder(jax.nn.one_hot(first, CLASSES), told, train=train)

    def prior(self, conditions: Float[Array, "b c"]) -> Gaussian:
        """What is known of the latent vector before any frame is seen."""
        if not self.config.learned_prior:
            zero = jnp.zeros((len(conditions), self.config.latent))
            return Gaussian(zero, zero)
        x = self.prior_out(nn.silu(self.prior_hidden(self.standard(conditions))))
        return Gaussian(*jnp.split(x, 2, axis=-1))

    def decode(
        self,
        z: Float[Array, "b z"],
        conditions: Float[Array, "b c"],
        *,
        train: bool = False,
    ) -> Float[Array, "b t d h w k"]:
        """Logits of all frames."""
        c, told = self.config, self._told(conditions)
        if c.conditions_at == "before":
            z = jnp.concatenate([z, told], axis=-1)
        time = self.time
        over = time(z) if isinstance(time, _Lstm) else time(z, told)
        if c.conditions_at == "after":
            again = jnp.broadcast_to(told[:, None], (*over.shape[:2], told.shape[-1]))
            over = jnp.concatenate([over, again], axis=-1)
        if c.decode == "flow":
            first = self.decoder(over[:, 0], train=train)
            return _moved(first, self._frames(self.flow, over, train=train))
        return self._frames(self.decoder, over, train=train)

    def _frames(
        self, decoder: nn.Module, over: Float[Array, "b t v"], *, train: bool
    ) -> Float[Array, "b t d h w k"]:
        """A decoder on every frame: one after the other where each is normalised by
        itself in training, else all at once."""
        if self.config.norm == "frame" and train:
            # A loop, not as many copies: what one frame needs is freed for the next.
            def one(decoder: nn.Module, _: None, z: Array) -> tuple[None, Array]:
                return None, decoder(z, train=True)

            loop = nn.scan(
                one,
                variable_broadcast="params",
                variable_carry="batch_stats",
                split_rngs={"params": False},
                in_axes=1,
            )
            return jnp.moveaxis(loop(decoder, None, over)[1], 0, 1)
        flat = decoder(over.reshape(-1, over.shape[-1]), train=train)
        return flat.reshape(*over.shape[:2], *flat.shape[1:])

    def __call__(
        self, labels: Integer[Array, "b t d h w"], conditions: Float[Array, "b c"]
    ) -> Float[Array, "b t d h w k"]:
        """Initialises every parameter."""
        self.prior(conditions)
        return self.decode(self.encode(labels[:, 0], conditions).mean, conditions)


def _moved(
    first: Float[Array, "b d h w k"], flow: Float[Array, "b t d h w 3"]
) -> Float[Array, "b t d h w k"]:
    """The first frame's logits where a flow, in voxels, takes them from."""
    axes = (jnp.arange(n, dtype=jnp.float32) for n in first.shape[1:-1])
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)

    def one(volume: Array, step: Array) -> Array:
        at = [grid[..., i] + step[..., i] for i in range(3)]
        return warp(volume, at, outside="edge")

    return jax.vmap(lambda volume, steps: jax.vmap(lambda s: one(volume, s))(steps))(
        first, flow
    )
