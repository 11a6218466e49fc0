"""UperNet: a pyramid of maps and of pooled context, read at once at the finest size.

Xiao et al., "Unified perceptual parsing for scene understanding" (ECCV 2018, arXiv
1807.10221), with the sizes of mmsegmentation, in which BenchX finds masks: 512 channels
throughout, context pooled to 1, 2, 3 and 6 cells a side, every convolution with a
BatchNorm and a ReLU behind it, whole channels dropped before the last. A second,
shallow head on the third map is there in training alone. A ViT has one map; four of its
depths are brought to the four sizes of a ResNet's stages first.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.normalization import BatchNorm
from medjax.nn.pooling import adaptive_pooling_matrix

Maps = Sequence[Array]
"""Of a tower, [b, h, w, c], finest first, each half the size of the one before it."""


class ConvNormRelu(nn.Module):
    """A convolution without bias, BatchNorm, ReLU."""

    width: int
    size: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w _"], *, train: bool
    ) -> Float[Array, "b h w _"]:
        kernel = (self.size, self.size)
        x = nn.Conv(self.width, kernel, use_bias=False, name="conv")(x)
        return nn.relu(BatchNorm(name="bn")(x, train=train))


class UperNet(nn.Module):
    """Four maps to one logit per position of the finest."""

    width: int = 512
    pools: tuple[int, ...] = (1, 2, 3, 6)
    """Cells a side that the coarsest map is pooled to."""
    dropout: float = 0.1

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool) -> Float[Array, "b h w"]:
        """Context first, then down the pyramid, then all of it at once."""

        def conv(x: Array, size: int, name: str) -> Array:
            return ConvNormRelu(self.width, size, name=name)(x, train=train)

        *fine, top = maps
        pooled = [
            resized(conv(cells(top, n), 1, f"pool_{n}"), top.shape[1:3])
            for n in self.pools
        ]
        levels = [conv(jnp.concatenate([top, *pooled], axis=-1), 3, "context")]
        for i, x in reversed(list(enumerate(fine))):
            side = conv(x, 1, f"lateral_{i}")
            levels.insert(0, side + resized(levels[0], x.shape[1:3]))
        size = levels[0].shape[1:3]
        read = [conv(x, 3, f"level_{i}") for i, x in enumerate(levels[:-1])]
        read = [resized(x, size) for x in (*read, levels[-1])]
        x = conv(jnp.concatenate(read, axis=-1), 3, "all")
        return logits(x, self.dropout, train=train)


class Shallow(nn.Module):
    """One map to one logit per position: one convolution and a classifier."""

    width: int = 256
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w _"], *, train: bool
    ) -> Float[Array, "b h w"]:
        """Every position from its neighbourhood."""
        x = ConvNormRelu(self.width, 3, name="conv")(x, train=train)
        return logits(x, self.dropout, train=train)


class Pyramid(nn.Module):
    """Four maps of a ViT, all of one size, to a quarter, an eighth, ... of the film."""

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool) -> list[Array]:
        """Four times, twice, once and half the size."""

        def double(x: Array, name: str) -> Array:
            return nn.ConvTranspose(x.shape[-1], (2, 2), (2, 2), name=name)(x)

        first, second, third, fourth = maps
        first = BatchNorm(name="bn")(double(first, "double_0a"), train=train)
        first = double(nn.gelu(first, approximate=False), "double_0b")
        return [
            first,
            double(second, "double_1"),
            third,
            nn.max_pool(fourth, (2, 2), (2, 2)),
        ]


def logits(x: Array, dropout: float, *, train: bool) -> Float[Array, "b h w"]:
    """The classifier at the end of a head; part of the module that calls it."""
    x = nn.Dropout(dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
    return nn.Conv(1, (1, 1), name="classify")(x)[..., 0].astype(jnp.float32)


def resized(x: Float[Array, "b _ _ *c"], size: Sequence[int]) -> Array:
    """A larger map, bilinear, corners not aligned."""
    shape = (x.shape[0], *size, *x.shape[3:])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def cells(x: Float[Array, "b h w c"], n: int) -> Float[Array, "b n n c"]:
    """Means over ``n`` by ``n`` cells, which overlap where ``n`` does not divide."""
    rows, columns = (
        adaptive_pooling_matrix(side, bins=n).astype(x.dtype) for side in x.shape[1:3]
    )
    high = jax.lax.Precision.HIGHEST
    return jnp.einsum("nh,mw,bhwc->bnmc", rows, columns, x, precision=high)
