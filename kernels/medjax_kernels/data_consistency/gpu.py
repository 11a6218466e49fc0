"""The operator on a Hopper GPU: one kernel, both products on the tensor cores.

What the kernel does stands in :mod:`.gpu_kernel`; here its data are prepared. Floor and
ceiling: at 8 images of 256 x 256 with 16 coils and 64 sampled lines it must move 75 MB
and multiply 8.6 GFLOP, where XLA's FFT plan moves 680 MB. Splitting complex arrays into
planes is XLA's and costs two passes over the maps; in a loop over cascades or CG
iterations XLA does it once, since the maps do not change.

float16 holds magnitudes from 6e-8 to 65504 and MR images are 1e-6 to 1e-3 as often as
1 to 1e4, so image and maps are first scaled by a power of two per sample, which is
exact and undone at the end. ``precision="default"`` rounds each operand to float16 once
(as accurate as TF32, at twice its rate). ``"high"`` and ``"highest"`` split operands
into a float16 value and a float16 remainder and take three products.

Few images with many coils leave multiprocessors idle: then the coils are dealt to
several blocks, whose partial sums XLA adds.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Real

from medjax_kernels import compat
from medjax_kernels.data_consistency import gpu_kernel, layout, xla
from medjax_kernels.data_consistency.gpu_kernel import Config
from medjax_kernels.data_consistency.gpu_tile import CHUNK, float16_terms
from medjax_kernels.data_consistency.xla import Precision

MULTIPROCESSORS = 132
PARTS = {"highest": 2, "high": 2, "default": 1}
STRIPS = (32, 16)
Transform = Callable[[Array], tuple[Array, Array]]
"""Frequencies to the planes of their rows of a DFT matrix."""


def shared_memory(strip: int, chunks: int, lines: int, parts: int) -> int:
    """Bytes of shared memory of one block; 1 KB is for barriers and alignment."""
    height = chunks * CHUNK
    factor = 2 * parts * lines * height * 2
    image_and_maps = 3 * height * strip * 4
    operands = 2 * parts * (height + lines) * strip * 2
    return factor + image_and_maps + operands + 1024


def choose_strip(size: int, lines: int, precision: Precision) -> int | None:
    """The widest strip that fits shared memory and registers; None if none does."""
    chunks, lines = -(-size // CHUNK), CHUNK * -(-lines // CHUNK)
    for strip in STRIPS:
        # Each of a warpgroup's threads holds about chunks * strip / 2 numbers of the
        # result and half as many of the image, in 255 registers.
        fits = shared_memory(strip, chunks, lines, PARTS[precision])
        if fits <= compat.H200_SHARED_MEMORY and chunks * strip <= 128:
            return strip
    return None


def unsupported(
    z: Array, mask: Array, lines: int | None, precision: Precision
) -> str | None:
    """Why this kernel cannot run the problem, or None if it can."""
    axis = layout.sampled_axis(mask)
    if compat.platform() != "gpu":
        return f"it runs on Hopper GPUs, not on {compat.platform()!r}"
    if z.dtype != jnp.complex64:
        return f"it takes complex64, not {z.dtype}"
    if axis is None:
        return f"it takes line masks [..., h, 1] or [..., 1, w], not {mask.shape}"
    if lines is None:
        return "it needs lines=, a bound on the sampled lines of each mask"
    if choose_strip(mask.shape[axis], lines, precision) is None:
        return (
            f"{lines} of {mask.shape[axis]} lines at precision {precision!r} "
            "do not fit into shared memory"
        )
    return None


def choose_splits(blocks: int, coils: int) -> int:
    """Into how many blocks to deal the coils of a strip.

    The cost of a choice is the number of waves times the coils of a block, plus two
    coils' worth for filling the factor and writing the result.
    """
    divisors = [s for s in range(1, coils + 1) if coils % s == 0]
    return min(
        divisors,
        key=lambda s: -(-blocks * s // MULTIPROCESSORS) * (coils // s + 2),
    )


def thin_factor(
    weights: Real[Array, "q n"], lines: int, parts: int, height: int, dft: Transform
) -> tuple[Array, Array]:
    """float16 terms of ``sqrt(m) F`` with entries near 1, and what K is scaled by.

    Entries of the unitary matrix are 1/sqrt(n): their float16 remainders would be
    subnormal. They are left at magnitude 1 instead.

    Args:
        weights: of every line.
        lines: how many of them to keep.
        parts: terms of an entry.
        height: columns to pad to.
        dft: rows of the unitary matrix by their frequencies.

    Returns:
        ``[q, 2 * parts, lines, height]``, the terms of the first plane first.
    """
    size = weights.shape[-1]
    rows, chosen = xla.select_lines(weights, lines)
    factor = layout.power_of_two(jnp.max(jnp.abs(weights), -1, keepdims=True))
    root = jnp.sqrt(chosen * factor * size)[..., None]
    planes = jnp.stack(dft(rows), 1)
    planes = layout.pad_plane(planes * root[:, None], CHUNK, height)
    terms = jnp.stack(float16_terms(planes, parts), 2)
    return terms.reshape(len(weights), 2 * parts, *terms.shape[-2:]), factor * size


def normal(
    image: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m c h w"],
    mask: Real[Array, "*k mh mw"],
    *,
    lines: int,
    precision: Precision,
) -> Complex[Array, "*b h w"]:
    """``S^H K S x`` for aligned arrays; the image has the full leading shape.

    Args:
        image: images.
        maps: sensitivity maps, leading axes 1 or the image's.
        mask: non-negative line weights, leading axes 1 or the image's.
        lines: static upper bound on the sampled lines; more give NaN.
        precision: one or three float16 products.

    Returns:
        Images; not differentiable (:mod:`.differentiable` makes it so).
    """
    if layout.sampled_axis(mask) == -1:
        turned = (a.swapaxes(-1, -2) for a in (image, maps, mask))
        return normal(*turned, lines=lines, precision=precision).swapaxes(-1, -2)
    leading, (height, width) = image.shape[:-2], image.shape[-2:]
    strip = choose_strip(height, lines, precision)
    if strip is None:
        raise NotImplementedError(f"{lines} of {height} lines need too much memory")
    parts, coils = PARTS[precision], maps.shape[-3]
    image_scale = layout.power_of_two(peak(image, (-2, -1)))
    maps_scale = layout.power_of_two(peak(maps, (-3, -2, -1)))
    x = layout.planes(layout.scale(image, image_scale), CHUNK, strip)
    s = layout.planes(layout.scale(maps, maps_scale), CHUNK, strip)
    weights = mask[..., 0].reshape(-1, height)
    dft = functools.partial(xla.dft_rows, size=height, dtype=jnp.dtype("float32"))
    factor, factor_scale = thin_factor(weights, lines, parts, x.shape[-2], dft)
    blocks = len(x) * (x.shape[-1] // strip)
    config = Config(
        images=len(x),
        coils=coils,
        chunks=x.shape[-2] // CHUNK,
        lines=factor.shape[-2],
        width=x.shape[-1],
        strip=strip,
        parts=parts,
        splits=choose_splits(blocks, coils),
    )
    partial = gpu_kernel.launch(
        factor,
        x,
        s.reshape(-1, coils, *s.shape[1:]),
        config,
        layout.flat_index(leading, maps.shape[:-3]),
        layout.flat_index(leading, mask.shape[:-2]),
    )
    re, im = jnp.moveaxis(jnp.sum(partial, 0)[..., :height, :width], 1, 0)
    out = jax.lax.complex(re, im).reshape(*leading, height, width)
    # One factor after the other: their product may leave float32's range.
    per_map = 1 / maps_scale[..., 0, :, :]
    per_mask = 1 / factor_scale.reshape(*mask.shape[:-2], 1, 1)
    for undo in (per_mask, per_map, per_map, 1 / image_scale):
        out = layout.scale(out, undo)
    return out


def peak(z: Complex[Array, "..."], axes: tuple[int, ...]) -> Real[Array, "..."]:
    """The largest magnitude of either plane."""
    return jnp.max(jnp.maximum(jnp.abs(z.real), jnp.abs(z.imag)), axes, keepdims=True)
