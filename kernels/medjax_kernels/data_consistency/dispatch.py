"""Which implementation runs, and the two primitives each of them offers.

``normal`` is ``S^H K S x`` and ``project`` is ``K z``, for arrays that are checked and
aligned already; every public operation is one of the two and elementwise arithmetic.
"""

import functools
from types import ModuleType
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array

from medjax_kernels import compat
from medjax_kernels.data_consistency import differentiable, layout, tpu, xla
from medjax_kernels.data_consistency.xla import Precision

Implementation = Literal["xla_fft", "xla_dft", "tpu", "gpu"]
IMPLEMENTATIONS = ("xla_fft", "xla_dft", "tpu", "gpu")
CPU_DFT_LINES = 32
"""Up to so many lines a dense matrix product beats two FFT calls on a CPU (measured:
0.31 against 0.49 ms for 8 x 4 x 32 x 32; at 64 lines they are equal)."""
PRECISIONS = ("highest", "high", "default")


def choose(
    implementation: Implementation | None,
    precision: Precision,
    lines: int | None,
    image: Array,
    mask: Array,
) -> Implementation:
    """Which implementation runs; the checks that concern this choice.

    Raises:
        ValueError: for a name that is none, or ``lines`` that fits no line mask.
        NotImplementedError: if the named implementation cannot run this.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be None or one of {IMPLEMENTATIONS}, "
            f"got {implementation!r}"
        )
    axis = layout.sampled_axis(mask)
    if lines is not None and (axis is None or not 1 <= lines <= mask.shape[axis]):
        raise ValueError(
            f"lines={lines} must bound the sampled lines of a line mask, "
            f"got a mask of shape {mask.shape}"
        )
    if implementation is None:
        few = axis is not None and mask.shape[axis] <= CPU_DFT_LINES
        return "xla_dft" if few and compat.platform() == "cpu" else "xla_fft"
    reason = None
    if implementation == "tpu":
        reason = tpu.unsupported(image, mask)
    elif implementation == "gpu":
        reason = _gpu().unsupported(image, mask, lines, precision)
    if reason is not None:
        raise NotImplementedError(f"implementation={implementation!r}: {reason}")
    return implementation


def _gpu() -> ModuleType:
    """The GPU module, imported late: Mosaic GPU needs packages that CPUs may lack."""
    from medjax_kernels.data_consistency import gpu

    return gpu


def _kernel(
    implementation: str, lines: int | None, precision: Precision
) -> differentiable.Kernel | None:
    """The fused kernel of that name, or None for XLA's paths."""
    if implementation == "tpu":
        return functools.partial(tpu.normal, precision=precision)
    if implementation == "gpu":
        return functools.partial(_gpu().normal, lines=lines, precision=precision)
    return None


def project(
    z: Array, mask: Array, implementation: str, lines: int | None, precision: Precision
) -> Array:
    """``K z`` for arrays of equal rank."""
    if (kernel := _kernel(implementation, lines, precision)) is not None:
        return differentiable.project(kernel, z, mask)
    if implementation == "xla_fft":
        return xla.project_fft(z, mask)
    return xla.project_dft(z, mask, lines=lines, precision=precision)


def normal(
    image: Array,
    maps: Array,
    mask: Array,
    *,
    implementation: str,
    lines: int | None,
    precision: Precision,
) -> Array:
    """``S^H K S x`` for aligned arrays."""
    if (kernel := _kernel(implementation, lines, precision)) is not None:
        return differentiable.normal(kernel, image, maps, mask)
    coils = maps * image[..., None, :, :]
    coils = project(coils, mask[..., None, :, :], implementation, lines, precision)
    return jnp.sum(jnp.conj(maps) * coils, axis=-3)
