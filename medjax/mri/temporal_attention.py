"""Attention over the frames of a pixel: the layers of the Latent Transformer.

Tänzer et al., arXiv 2309.16853; which of its oddities are kept is said in
:mod:`medjax.mri.latent_transformer`. Beside the published form there is a control,
whose tokens are neighbouring pixels of one frame, and a form that is silent at first.

Inside a level pixels are the last axis. Tokens and channels are few (nine, eight), and
an accelerator rounds the last axis up to 128: with them there, 15 of 16 numbers that
are read and written would be padding. Scores and mixtures, whose matrices are of one
pixel each, are sums over an axis that is not the last; a CPU takes them for the matrix
products that they are, since XLA makes slow loops of the sums' gradients there.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def frame_encoding(frames: int, width: int) -> Float[np.ndarray, "t d"]:
    """Sinusoids of the frame's *index* (not its time in ms), base 10000."""
    angle = np.arange(frames)[:, None] * np.exp(
        np.arange(0, width, 2) * (-np.log(10000.0) / width)
    )
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(frames, width)


BLOCK = (2, 4)
"""Rows and columns of the pixels that attend to each other in the control: eight, where
a T1 series has nine frames."""


def to_blocks(x: Float[Array, "b t h w d"]) -> Float[Array, "bt n i j d"]:
    """Pixels of every :data:`BLOCK` of a frame as a sequence, in place of frames."""
    b, t, h, w, d = x.shape
    if h % BLOCK[0] or w % BLOCK[1]:
        raise ValueError(
            f"features are {h} x {w}, expected multiples of {BLOCK[0]} x {BLOCK[1]} "
            "for attention among neighbours"
        )
    i, j = h // BLOCK[0], w // BLOCK[1]
    x = x.reshape(b * t, i, BLOCK[0], j, BLOCK[1], d)
    return jnp.moveaxis(x, (2, 4), (1, 2)).reshape(b * t, -1, i, j, d)


def from_blocks(
    x: Float[Array, "bt n i j d"], like: Float[Array, "b t h w d"]
) -> Float[Array, "b t h w d"]:
    """The inverse of :func:`to_blocks`."""
    bt, _, i, j, d = x.shape
    x = jnp.moveaxis(x.reshape(bt, *BLOCK, i, j, d), (1, 2), (2, 4))
    return x.reshape(like.shape)


class TemporalAttention(nn.Module):
    """One layer: ``heads`` full-width blocks over the frames of a pixel, averaged."""

    heads: int
    dtype: DTypeLike = jnp.float32
    silent: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b t d p"]) -> Float[Array, "b t d p"]:
        d = x.shape[2]
        # PyTorch's default for a 1x1 convolution: uniform with variance 1 / (3 d).
        uniform = nn.initializers.variance_scaling(
            1 / 3, "fan_in", "uniform", batch_axis=(0, 1)
        )
        kernel = self.param(
            "kernel", self._without_values(uniform), (3, self.heads, d, d)
        )
        bias = self.param("bias", nn.initializers.zeros, (3, self.heads, d))
        x = x.astype(self.dtype)
        projected = jnp.einsum("btdp,snde->sbntep", x, kernel.astype(self.dtype))
        projected += jnp.expand_dims(bias.astype(self.dtype), (1, 3, 5))
        key, query, value = projected.astype(jnp.float32)
        scores = jax.lax.platform_dependent(
            key,
            query,
            cpu=functools.partial(jnp.einsum, "bnicp,bnjcp->bnijp"),
            default=lambda k, q: jnp.sum(k[:, :, :, None] * q[:, :, None], axis=4),
        )
        mixed = jax.lax.platform_dependent(
            nn.softmax(scores, axis=3),
            value,
            cpu=functools.partial(jnp.einsum, "bnijp,bnjcp->bnicp"),
            default=lambda w, v: jnp.sum(w[..., None, :] * v[:, :, None], axis=3),
        )
        # Every block adds x to its own output; so does their average.
        return jnp.mean(mixed, axis=1).astype(self.dtype) + x

    def _without_values(self, init: nn.initializers.Initializer) -> Any:
        """With ``silent``, kernels whose values are zero: queries and keys are not."""
        if not self.silent:
            return init
        return lambda *a, **o: init(*a, **o).at[2].set(0)


class LevelTransformer(nn.Module):
    """Frame encoding, attention layers, and a residual around both."""

    heads: int
    layers: int
    dtype: DTypeLike = jnp.float32
    silent: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        b, t, h, w, d = x.shape
        if d % 2:
            raise ValueError(f"features have {d} channels, expected an even number")
        x = jnp.moveaxis(x.astype(self.dtype).reshape(b, t, h * w, d), 3, 2)
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
        layer = TemporalAttention(self.heads, self.dtype, self.silent, name="layers")
        encoded = x + jnp.expand_dims(encoding, (0, 3))
        attended = scan(layer, encoded, None)[0]
        x += attended - encoded if self.silent else attended
        return jnp.moveaxis(x, 2, 3).reshape(b, t, h, w, d)
