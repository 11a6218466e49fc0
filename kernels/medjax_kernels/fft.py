"""Fourier transforms of batches that stay on the device that holds the example.

XLA's partitioner does not know that an FFT leaves the axes it does not transform alone:
of an array that is split over its batch it gathers the whole on every device (for
c64[64,4,64,64] on 8 devices 16 MiB instead of 1, and the traffic). Here it is told, by
JAX's ``custom_partitioning``: axes that are not transformed stay split however they
are, and only axes that are get gathered.

A primitive of its own around that, because ``custom_partitioning`` has no rules of
differentiation and batching. Here both are one line: the transform is linear with a
symmetric matrix, and one more batch axis is one more axis that is not transformed. So
it works without a mesh and with one, under ``jit``, ``grad``, ``vmap``, ``scan`` and
``remat``; inside ``shard_map`` it is the FFT of what the device holds.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Complex, Inexact

from medjax_kernels import compat

Norm = Literal["backward", "ortho"]


def fftn(
    x: Inexact[Array, "..."], axes: Sequence[int], *, norm: Norm = "backward"
) -> Complex[Array, "..."]:
    """``jnp.fft.fftn``, local to each device's share of the other axes.

    Args:
        x: real or complex array.
        axes: up to three axes to transform; negative ones count from the last.
        norm: ``"backward"`` leaves the sum as it is, ``"ortho"`` makes it unitary.

    Returns:
        The transform, complex, of the same shape.
    """
    return _scaled(x, "FFT", tuple(axes), norm)


def ifftn(
    x: Inexact[Array, "..."], axes: Sequence[int], *, norm: Norm = "backward"
) -> Complex[Array, "..."]:
    """``jnp.fft.ifftn``, local to each device's share of the other axes.

    Args:
        x: real or complex array.
        axes: up to three axes to transform; negative ones count from the last.
        norm: ``"backward"`` divides by the number of points, ``"ortho"`` by its root.

    Returns:
        The inverse transform, complex, of the same shape.
    """
    return _scaled(x, "IFFT", tuple(axes), norm)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _scaled(x: Array, kind: str, axes: tuple[int, ...], norm: Norm) -> Array:
    """The transform of any axes, by the primitive, which knows the last ones."""
    last = tuple(range(-len(axes), 0))
    if not jnp.iscomplexobj(x):
        x = jax.lax.complex(x, jnp.zeros_like(x))
    moved = jnp.moveaxis(x, axes, last)
    out = local_fft.bind(moved, kind=kind, axes=len(axes))
    if norm == "ortho":
        root = math.sqrt(math.prod(moved.shape[axis] for axis in last))
        out = out * jnp.asarray(1 / root if kind == "FFT" else root, out.dtype)
    return jnp.moveaxis(out, last, axes)


def _transform(x: Array, *, kind: str, axes: int) -> Array:
    """What every device does to its share."""
    return jax.lax.fft(x, kind, x.shape[-axes:])


def _untransformed(sharding: Any, shape: tuple[int, ...], axes: int) -> Any:
    """The same sharding with the last axes whole.

    The rule given to the partitioner only asks for that: what is bound to be split
    along a transformed axis arrives here as it is.
    """
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:-axes]))
    if sharding.shard_shape(shape)[-axes:] != shape[-axes:]:
        raise NotImplementedError(
            f"an FFT over the last {axes} axes of {shape}, split as {sharding}: inside "
            "this shard_map only the other axes may be split"
        )
    return sharding


@functools.cache
def _partitioned(kind: str, axes: int) -> Callable[[Array], Array]:
    """The transform of the last axes as an operation that the partitioner splits."""
    transform = functools.partial(_transform, kind=kind, axes=axes)

    def partition(mesh: Any, operands: Any, result: Any) -> tuple:
        del operands
        sharding = _untransformed(result.sharding, result.shape, axes)
        return mesh, transform, sharding, (sharding,)

    # The name goes into the program's text, and so into the key of JAX's compilation
    # cache, where nothing else need tell a transform from its inverse.
    def local_fft_of(x: Array) -> Array:
        return operation(x)

    local_fft_of.__name__ = f"local_{kind.lower()}"
    operation = custom_partitioning(lambda x: transform(x))
    names = tuple(f"transformed{i}" for i in range(axes))
    layout = " ".join(("...", *names))
    operation.def_partition(
        partition,
        sharding_rule=f"{layout} -> {layout}",
        need_replication_factors=names,
    )
    return jax.jit(local_fft_of)


def _lower(ctx: mlir.LoweringRuleContext, x: Any, *, kind: str, axes: int) -> Any:
    context: Any = ctx.module_context.axis_context
    manual = getattr(context, "manual_axes", frozenset())
    if manual and all(manual >= {a} for a, n in context.mesh.shape.items() if n > 1):
        # Nothing is left to split, which custom_partitioning only notices where every
        # axis of the mesh is manual, those of one device included.
        return _lower_whole(ctx, x, kind=kind, axes=axes)
    return mlir.lower_fun(_partitioned(kind, axes), multiple_results=False)(ctx, x)


def _lower_whole(ctx: Any, x: Any, *, kind: str, axes: int) -> Any:
    """Without a word to the partitioner.

    TPU compilers take complex numbers, and FFTs with them, apart into real arithmetic
    before they partition it, which loses nothing; of operations they do not know they
    cannot.
    """
    transform = functools.partial(_transform, kind=kind, axes=axes)
    return mlir.lower_fun(transform, multiple_results=False)(ctx, x)


def _batch(operands: Any, dims: Any, **how: Any) -> tuple[Array, int]:
    return local_fft.bind(jnp.moveaxis(operands[0], dims[0], 0), **how), 0


local_fft = Primitive("local_fft")
local_fft.def_impl(_transform)
local_fft.def_abstract_eval(lambda x, **_: x)
ad.deflinear2(local_fft, lambda cotangent, _, **how: [local_fft.bind(cotangent, **how)])
batching.primitive_batchers[local_fft] = _batch
mlir.register_lowering(local_fft, _lower)
mlir.register_lowering(local_fft, _lower_whole, platform="tpu")
compat.needs_devices(local_fft)
