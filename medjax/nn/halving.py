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

There volumes are convolved slice by slice, which is several times faster still, and
their gradients are written as what is fast there; so is :class:`Keep`, which leaves
sizes as they are.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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
    kernel = kernel.reshape(*[2] * rank, -1, features)
    if rank < 3:
        return _convolve(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_by_taps, default=_convolve)


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
    """Slices of a volume as a batch of images, neighbours in depth as channels.

    Of what goes in, or of what comes out if that is not more.
    """
    taps, (channels, features) = len(kernel), kernel.shape[-2:]
    count = x.shape[1] - taps + 1
    if features > channels:
        near = [jax.lax.slice_in_dim(x, i, i + count, axis=1) for i in range(taps)]
        x = jnp.concatenate(near, axis=-1)
        kernel = jnp.moveaxis(kernel, 0, 2)
    else:
        kernel = jnp.moveaxis(kernel, 0, 3)
    rows, columns = kernel.shape[:2]
    kernel = kernel.reshape(rows, columns, x.shape[-1], -1)
    y = _images(x.reshape(-1, *x.shape[2:]), kernel)
    y = y.reshape(*x.shape[:2], *y.shape[1:])
    if features > channels:
        return y
    parts = jnp.split(y, taps, axis=-1)
    parts = [
        jax.lax.slice_in_dim(part, i, i + count, axis=1) for i, part in enumerate(parts)
    ]
    return functools.reduce(jnp.add, parts)


def _by_taps(x: Array, kernel: Array) -> Array:
    """One product of matrices for all taps, added up where each belongs.

    Of few channels that come of many, here up to eight times as many, this moves least.
    """
    taps, (channels, features) = kernel.shape[:-2], kernel.shape[-2:]
    size = [n - k + 1 for n, k in zip(x.shape[1:-1], taps, strict=True)]
    kernel = jnp.moveaxis(kernel, -2, 0).reshape(channels, -1)
    products = jnp.dot(x, kernel, preferred_element_type=jnp.float32)
    total = jnp.zeros((len(x), *size, features), jnp.float32)
    for number, tap in enumerate(np.ndindex(*taps)):
        start = (0, *tap, number * features)
        end = [len(x), *(a + n for a, n in zip(tap, size, strict=True))]
        total += jax.lax.slice(products, start, (*end, (number + 1) * features))
    return total.astype(x.dtype)


@jax.custom_vjp
def _images(x: Array, kernel: Array) -> Array:
    """A convolution of images whose gradient has no convolution but such.

    XLA's own, of the kernel, has the image for a kernel: in a loop it is ten times
    slower than the matrix products that it is.
    """
    return _convolve(x, kernel)


def _images_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel), (x, kernel)


def _images_backward(kept: tuple[Array, Array], upstream: Array) -> tuple[Array, Array]:
    x, kernel = kept
    (rows, columns), (height, width) = kernel.shape[:2], upstream.shape[1:3]
    around = [(0, 0), (rows - 1, rows - 1), (columns - 1, columns - 1), (0, 0)]
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    to_x = _images(jnp.pad(upstream, around), turned)
    # A row of taps at a time: all would be as many copies of the images.
    near = [jax.lax.slice_in_dim(x, i, i + width, axis=2) for i in range(columns)]
    near = jnp.concatenate(near, axis=-1)
    to_kernel = [
        _product(jax.lax.slice_in_dim(near, i, i + height, axis=1), upstream)
        for i in range(rows)
    ]
    to_kernel = jnp.stack(to_kernel).reshape(kernel.shape)
    return to_x, to_kernel.astype(kernel.dtype)


def _product(x: Array, y: Array) -> Array:
    """Of channels with channels, summed over the rest; the fewer are turned over."""
    if x.shape[-1] > y.shape[-1]:
        return _product(y, x).T
    rest = tuple(range(x.ndim - 1))
    numbers = ((rest, rest), ((), ()))
    return jax.lax.dot_general(x, y, numbers, preferred_element_type=jnp.float32)


_images.defvjp(_images_forward, _images_backward)


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
