"""Which implementation runs, and the two primitives each of them offers.

``normal`` is ``S^H K S x`` and ``project`` is ``K z``, for arrays that are checked and
aligned already; every public operation is one of the two and elementwise arithmetic.
"""

import functools
from types import ModuleType
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from medjax_kernels import compat
from medjax_kernels.data_consistency import (
    differentiable,
    layout,
    tpu,
    tpu_solve,
    xla,
)
from medjax_kernels.data_consistency.solve import Fused
from medjax_kernels.data_consistency.xla import Precision

ConsistencyImplementation = Literal["xla_fft", "xla_dft", "tpu", "gpu"]
IMPLEMENTATIONS = ("xla_fft", "xla_dft", "tpu", "gpu")
CPU_DENSE_LINES, CPU_DENSE_PIXELS = 48, 32768
"""On a CPU, a mask along the height of at most so many lines is best applied as a dense
product from so many coil pixels on (measured: 0.65 to 0.9 of the processor time of two
FFT calls, which have to transpose; with fewer pixels, or along the width, FFTs win)."""
PRECISIONS = ("highest", "high", "default")


def choose(
    implementation: ConsistencyImplementation | None,
    precision: Precision,
    lines: int | None,
    image: Array,
    mask: Array,
    *,
    pixels: int,
) -> tuple[ConsistencyImplementation, int | None]:
    """Which implementation runs, with which bound; the checks that concern this.

    Args:
        implementation: a name, or None to choose.
        precision: of matrix products.
        lines: bound on the sampled lines, or None.
        image: what is transformed; its dtype is looked at.
        mask: its shape is looked at.
        pixels: coil pixels that are transformed along the mask's own axis; 0 where
            the caller turns that axis to be the last.

    Returns:
        The implementation and the bound that it is to use.

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
        dense = (
            axis == -2
            and compat.platform() == "cpu"
            and mask.shape[axis] <= CPU_DENSE_LINES
            and pixels >= CPU_DENSE_PIXELS
        )
        # Dense, not thin: two small products cost more than one.
        return ("xla_dft", None) if dense else ("xla_fft", lines)
    reason = None
    if implementation == "tpu":
        reason = tpu.unsupported(image, mask)
    elif implementation == "gpu":
        reason = _gpu().unsupported(image, mask, lines, precision)
    if reason is not None:
        raise NotImplementedError(f"implementation={implementation!r}: {reason}")
    return implementation, lines


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


def fused_solve(
    implementation: str,
    maps: Array,
    mask: Array,
    *,
    lines: int | None,
    precision: Precision,
    **options: Any,
) -> Fused | None:
    """A kernel for the whole solve per readout position, or None without one that fits.

    Args:
        implementation: as chosen.
        maps: as the solve gets them.
        mask: a line mask.
        lines: bound on the sampled lines, as chosen.
        precision: of matrix products.
        **options: iterations and tolerance.
    """
    options["precision"] = precision
    if implementation == "tpu" and tpu_solve.fits(maps, mask):
        return functools.partial(tpu_solve.solve, **options)
    if implementation == "gpu" and lines is not None:
        from medjax_kernels.data_consistency import gpu_solve

        if gpu_solve.fits(maps, mask, lines, precision):
            return functools.partial(gpu_solve.solve, lines=lines, **options)
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
