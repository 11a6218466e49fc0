"""Convolutions that halve or double the size, without strides or dilation inside.

PyTorch's ``Conv3d`` and ``ConvTranspose3d`` of kernel 4 or 3, stride 2 and padding 1
(of any number of axes; of kernel 3 the transposed one has output padding 1), and their
weights. The gradient of a strided convolution is one with holes in its input, and so is
a transposed one; XLA compiles those, in three dimensions, to plain loops on a CPU, not
to matrix products. Here the stride is a reshaping: pairs of voxels become channels, a
convolution of kernel 2 follows, and for doubling pairs of channels become voxels.

Values are the same. Of kernel 4 so is the number of products; one of 3 has a fourth tap
of zeros, 64 products for 27 in three dimensions, and so is strided everywhere but there
on a CPU. (Over several devices the gradient of four taps is what they sum.)

There volumes are convolved slice by slice, which is several times faster still; so is
:class:`Keep`, which leaves sizes as they are.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

TAPS = 4
# PyTorch's: uniform within 1 / sqrt(kernel voxels x channels of the weight's second
# axis), which are those that come in, and of a transposed one those that go out.
_HALVING = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_DOUBLING = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class Halve(nn.Module):
    """Stride 2, padding 1: sizes are even, and halved."""

    features: int
    kernel_size: Literal[3, 4] = 4
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = _HALVING
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *half f"]:
        """Halves every spatial axis.

        Args:
            x: features.

        Raises:
            ValueError: for a size that is odd.
        """
        if any(n % 2 for n in x.shape[1:-1]):
            raise ValueError(f"Halve: sizes {x.shape[1:-1]}, expected even ones")
        return _apply(self, x, _halved, _strided)


class Keep(nn.Module):
    """Stride 1, kernel 3, padding 1, without bias, over volumes: sizes stay.

    Flax's ``Conv``. XLA's own form is five times slower on a CPU than that of images.
    """

    features: int
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"]) -> Float[Array, "b d h w f"]:
        """Convolves.

        Args:
            x: features.
        """
        shape = (3, 3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = (jnp.asarray(v, self.dtype) for v in (x, kernel))
        return _dense(jnp.pad(x, [(0, 0), *[(1, 1)] * 3, (0, 0)]), kernel)


class Double(nn.Module):
    """Transposed convolution of stride 2, padding 1: sizes are doubled."""

    features: int
    kernel_size: Literal[3, 4] = 4
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = _DOUBLING
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *twice f"]:
        """Doubles every spatial axis.

        Args:
            x: features.
        """
        return _apply(self, x, _doubled, _dilated)


def _apply(module: Halve | Double, x: Array, pairs: Any, plain: Any) -> Array:
    """Weights in Flax's order of axes, and the convolution in the form that is fast."""
    rank, channels = x.ndim - 2, x.shape[-1]
    shape = (*[module.kernel_size] * rank, channels, module.features)
    kernel = module.param("kernel", module.kernel_init, shape)
    x, kernel = (jnp.asarray(v, module.dtype) for v in (x, kernel))
    if module.kernel_size == TAPS:
        y = pairs(x, kernel)
    elif rank < 3:
        y = plain(x, kernel)
    else:
        y = jax.lax.platform_dependent(x, kernel, cpu=pairs, default=plain)
    if not module.use_bias:
        return y
    bias = module.param("bias", nn.initializers.zeros, shape[-1:])
    return y + bias.astype(y.dtype).reshape((1,) * (rank + 1) + (-1,))


def _four_taps(kernel: Array) -> Array:
    """A kernel of 3 with zeros as its fourth taps."""
    rank = kernel.ndim - 2
    return jnp.pad(kernel, [(0, TAPS - n) for n in kernel.shape[:rank]] + [(0, 0)] * 2)


def _halved(x: Array, kernel: Array) -> Array:
    rank, (channels, features) = x.ndim - 2, kernel.shape[-2:]
    kernel = _four_taps(kernel)
    x = jnp.pad(x, [(0, 0), *[(1, 1)] * rank, (0, 0)])
    blocks = [k for n in x.shape[1:-1] for k in (n // 2, 2)]
    x = x.reshape(len(x), *blocks, channels)
    where, phase = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    x = x.transpose(0, *where, *phase, 2 * rank + 1)
    x = x.reshape(*x.shape[: rank + 1], 2**rank * channels)
    kernel = kernel.reshape(*[2] * (2 * rank), channels, features)
    tap, phase = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    kernel = kernel.transpose(*tap, *phase, 2 * rank, 2 * rank + 1)
    return _dense(x, kernel.reshape(*[2] * rank, -1, features))


def _strided(x: Array, kernel: Array) -> Array:
    rank = x.ndim - 2
    return _convolve(x, kernel, strides=(2,) * rank, padding=((1, 1),) * rank)


def _doubled(x: Array, kernel: Array) -> Array:
    rank, size, (channels, features) = x.ndim - 2, x.shape[1:-1], kernel.shape[-2:]
    # Output 2m + p takes inputs m - 1 + p and m + p, by taps 3 - p and 1 - p.
    kernel = jnp.flip(_four_taps(kernel), range(rank))
    kernel = kernel.reshape(*[2] * (2 * rank), channels, features)
    tap, phase = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    kernel = kernel.transpose(*tap, 2 * rank, *phase, 2 * rank + 1)
    kernel = kernel.reshape(*[2] * rank, channels, -1)
    x = _dense(jnp.pad(x, [(0, 0), *[(1, 1)] * rank, (0, 0)]), kernel)
    x = x.reshape(*x.shape[:-1], *[2] * rank, features)
    for axis, n in enumerate(size, 1):
        # The phase of this axis is the first that is left behind the spatial axes.
        even, odd = (
            jax.lax.index_in_dim(x, p, rank + 1, keepdims=False) for p in (0, 1)
        )
        even = jax.lax.slice_in_dim(even, 0, n, axis=axis)
        odd = jax.lax.slice_in_dim(odd, 1, n + 1, axis=axis)
        x = jnp.stack([even, odd], axis=axis + 1)
        x = x.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 2 :])
    return x


def _dilated(x: Array, kernel: Array) -> Array:
    rank = x.ndim - 2
    kernel = jnp.flip(kernel, range(rank))
    return _convolve(x, kernel, padding=((1, 2),) * rank, holes=(2,) * rank)


def _dense(x: Array, kernel: Array) -> Array:
    """Stride 1, nothing added at the borders."""
    if x.ndim < 5:
        return _convolve(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_by_slices, default=_convolve)


def _by_slices(x: Array, kernel: Array) -> Array:
    """Slices of a volume as a batch of images, neighbours in depth as channels."""
    taps, count = len(kernel), x.shape[1] - len(kernel) + 1
    near = [jax.lax.slice_in_dim(x, i, i + count, axis=1) for i in range(taps)]
    images = jnp.concatenate(near, axis=-1)
    kernel = jnp.moveaxis(kernel, 0, 2)
    kernel = kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])
    y = _convolve(images.reshape(-1, *images.shape[2:]), kernel)
    return y.reshape(len(x), count, *y.shape[1:])


def _convolve(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...] | None = None,
    padding: tuple[tuple[int, int], ...] | None = None,
    holes: tuple[int, ...] | None = None,
) -> Array:
    """Channels last; stride 1 and nothing added at the borders if not told."""
    rank = x.ndim - 2
    space = "DHW"[-rank:]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, layout)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides or (1,) * rank,
        padding or "VALID",
        lhs_dilation=holes,
        dimension_numbers=numbers,
    )
