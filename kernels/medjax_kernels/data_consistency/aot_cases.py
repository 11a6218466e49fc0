"""What :mod:`medjax_kernels.aot` compiles of this operation."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from medjax_kernels import data_consistency
from medjax_kernels.aot import Case
from medjax_kernels.data_consistency.shapes import SHAPES
from medjax_kernels.data_consistency.xla import Precision

DEFAULT_SHAPE = "square"
"""What is compiled if no shape is named."""


def cases(shape: str, platform: Literal["gpu", "tpu"]) -> list[Case]:
    """Programs on one named shape.

    Args:
        shape: a name of :data:`.shapes.SHAPES`.
        platform: ``"gpu"`` or ``"tpu"``, which has a kernel of that name.

    Returns:
        The fused kernel at its exact and its fast precision, its gradient, the solve
        of ten iterations per readout position at both precisions, and XLA's two paths
        to compare with.
    """
    s = SHAPES[shape]
    complex64 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.complex64)
    image = complex64((s.batch, s.height, s.width))
    maps = complex64((s.batch, s.coils, s.height, s.width))
    mask = jax.ShapeDtypeStruct((s.batch, s.height, 1), jnp.float32)

    def operator(**options: str) -> functools.partial:
        return functools.partial(
            data_consistency.normal_operator, lines=s.lines, **options
        )

    def gradient(image: Array, maps: Array, mask: Array) -> tuple[Array, ...]:
        _, pull = jax.vjp(
            lambda x, c: operator(implementation=platform)(x, c, mask), image, maps
        )
        return pull(image)

    def solve(precision: Precision) -> functools.partial:
        return functools.partial(
            data_consistency.proximal_solve,
            lam=0.05,
            per_readout=True,
            implementation=platform,
            precision=precision,
            lines=s.lines,
        )

    programs = {
        f"{platform} highest": operator(implementation=platform, precision="highest"),
        f"{platform} default": operator(implementation=platform, precision="default"),
        f"{platform} gradient": gradient,
        f"{platform} solve highest": solve("highest"),
        f"{platform} solve default": solve("default"),
        "xla_fft": operator(implementation="xla_fft"),
        "xla_dft": operator(implementation="xla_dft"),
    }
    return [Case(name, f, (image, maps, mask)) for name, f in programs.items()]
