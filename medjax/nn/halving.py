"""Convolutions that halve or double the size, without strides or dilation inside.

PyTorch's ``Conv3d`` and ``ConvTranspose3d`` of kernel 4, stride 2 and padding 1 (of any
number of axes), and their weights. The gradient of a strided convolution is one with
holes in its input, and so is a transposed one; XLA compiles those to plain loops on a
CPU, not to matrix products. Here the stride is a reshaping: pairs of voxels become
channels, a convolution of kernel 2 follows, and for doubling pairs of channels become
voxels. Values are the same, and so is their number of products.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TAPS = 4
# PyTorch's: uniform within 1 / sqrt(kernel voxels x channels of the weight's second
# axis), which are those that come in, and of a transposed one those that go out.
_HALVING = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_DOUBLING = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class Halve(nn.Module):
    """Kernel 4, stride 2, padding 1: sizes are even, and halved."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *half f"]:
        """Halves every spatial axis.

        Args:
            x: features.

        Raises:
            ValueError: for a size that is odd.
        """
        rank, channels = x.ndim - 2, x.shape[-1]
        if any(n % 2 for n in x.shape[1:-1]):
            raise ValueError(f"Halve: sizes {x.shape[1:-1]}, expected even ones")
        shape = (*[TAPS] * rank, channels, self.features)
        kernel, bias = _weights(self, _HALVING, shape)
        x = jnp.pad(x, [(0, 0), *[(1, 1)] * rank, (0, 0)])
        blocks = [k for n in x.shape[1:-1] for k in (n // 2, 2)]
        x = x.reshape(len(x), *blocks, channels)
        where, phase = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
        x = x.transpose(0, *where, *phase, 2 * rank + 1)
        x = x.reshape(*x.shape[: rank + 1], 2**rank * channels)
        kernel = kernel.reshape(*[2] * (2 * rank), channels, self.features)
        tap, phase = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
        kernel = kernel.transpose(*tap, *phase, 2 * rank, 2 * rank + 1)
        kernel = kernel.reshape(*[2] * rank, -1, self.features)
        return _convolve(x, kernel) + bias.reshape((1,) * (rank + 1) + (-1,))


class Double(nn.Module):
    """Transposed convolution of kernel 4, stride 2, padding 1: sizes are doubled."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *twice f"]:
        """Doubles every spatial axis.

        Args:
            x: features.
        """
        rank, channels = x.ndim - 2, x.shape[-1]
        shape = (*[TAPS] * rank, channels, self.features)
        kernel, bias = _weights(self, _DOUBLING, shape)
        size = x.shape[1:-1]
        # Output 2m + p takes inputs m - 1 + p and m + p, by taps 3 - p and 1 - p.
        kernel = jnp.flip(kernel, range(rank))
        kernel = kernel.reshape(*[2] * (2 * rank), channels, self.features)
        tap, phase = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
        kernel = kernel.transpose(*tap, 2 * rank, *phase, 2 * rank + 1)
        kernel = kernel.reshape(*[2] * rank, channels, -1)
        x = _convolve(jnp.pad(x, [(0, 0), *[(1, 1)] * rank, (0, 0)]), kernel)
        x = x.reshape(*x.shape[:-1], *[2] * rank, self.features)
        for axis, n in enumerate(size, 1):
            # The phase of this axis is the first that is left behind the spatial axes.
            even, odd = (
                jax.lax.index_in_dim(x, p, rank + 1, keepdims=False) for p in (0, 1)
            )
            even = jax.lax.slice_in_dim(even, 0, n, axis=axis)
            odd = jax.lax.slice_in_dim(odd, 1, n + 1, axis=axis)
            x = jnp.stack([even, odd], axis=axis + 1)
            x = x.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 2 :])
        return x + bias.reshape((1,) * (rank + 1) + (-1,))


def _weights(
    module: nn.Module, init: Any, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Kernel in Flax's order of axes, and bias."""
    kernel = module.param("kernel", init, shape)
    return kernel, module.param("bias", nn.initializers.zeros, shape[-1:])


def _convolve(x: Array, kernel: Array) -> Array:
    """Kernel 2, stride 1, nothing added at the borders."""
    rank = x.ndim - 2
    space = "DHW"[-rank:]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, layout)
    return jax.lax.conv_general_dilated(
        x, kernel, (1,) * rank, "VALID", dimension_numbers=numbers
    )
