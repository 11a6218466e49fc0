"""The proximal solve on a Hopper GPU without leaving the chip.

A line mask decouples the readout positions. A block takes eight of them and runs all
iterations (:mod:`.gpu_solve_kernel`): device memory sees maps and right-hand side once
and the solution once, however many iterations there are. The recurrence is
:func:`.solve.conjugate_gradient`'s with one block per position. A position that has
converged stands still, so a tolerance saves no time here.

Shared memory of a block, at 256 lines of which 64 are sampled and 16 coils, in float16:

================================ ====================================== =========
maps                             16 coils x 8 positions x 256 x 2 planes   128 KB
thin factor, folded              2 planes x 64 lines x 128                  32 KB
folded ``z``, later ``k``        4 planes x 128 x 8 coils x 8 positions     64 KB
================================ ====================================== =========

of 227 KB. The state of the recurrence, float32, is in registers: 64 of each thread's.
Folding (:mod:`.gpu_folded`) halves the factor and both products: 4.3 instead of 8.6
GFLOP an application at 8 images, so 54 us for ten steps at 790 TFLOP/s.

``precision="highest"`` needs two float16 terms of all three and so fits fewer coils.
Where they do not fit, the operator's kernel runs once per iteration.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Real

from medjax_kernels import compat
from medjax_kernels.data_consistency import gpu, gpu_solve_kernel, layout
from medjax_kernels.data_consistency.gpu_folded import POSITIONS, Config
from medjax_kernels.data_consistency.gpu_solve_kernel import Inputs
from medjax_kernels.data_consistency.gpu_tile import CHUNK
from medjax_kernels.data_consistency.xla import Precision

TOGETHER = (8, 4, 2)
"""Coils that may be multiplied at once, the best first: the wider, the fewer reads of
the factor."""


def shared_memory(
    folded: int, lines: int, coils: int, together: int, parts: int
) -> int:
    """Bytes of shared memory of one block; 3 KB are for sums, barriers, alignment."""
    height = 2 * folded * CHUNK
    factor = lines * height
    maps = 2 * height * coils * POSITIONS
    operands = 2 * height * together * POSITIONS
    return 2 * parts * (factor + maps + operands) + 3072


def choose_together(
    size: int, coils: int, lines: int, precision: Precision
) -> int | None:
    """How many coils to multiply at once; None if shared memory or registers lack.

    Registers have room for the state of 256 lines and, beside it, for a plane of ``k``
    of 64 lines and 8 coils, or so many numbers in another shape (the compiler says so).
    """
    parts = gpu.PARTS[precision]
    folded, lines = -(-size // (2 * CHUNK)), CHUNK * -(-lines // CHUNK)
    if folded > 2:
        return None
    for together in TOGETHER:
        padded = together * -(-coils // together)
        needed = shared_memory(folded, lines, padded, together, parts)
        fits_both = (
            needed <= compat.H200_SHARED_MEMORY
            and parts * lines * together <= CHUNK * max(TOGETHER)
        )
        # Half of the columns would be padding.
        wasteful = together > min(TOGETHER) and padded >= 2 * coils
        if fits_both and not wasteful:
            return together
    return None


def fits(maps: Array, mask: Array, lines: int, precision: Precision) -> bool:
    """Whether a block with all its maps fits into shared memory."""
    axis = layout.sampled_axis(mask)
    return (
        axis is not None
        and choose_together(mask.shape[axis], maps.shape[-3], lines, precision)
        is not None
    )


def _half_dft(rows: Array, size: int, half: int) -> tuple[Array, Array]:
    """Cosines and sines of the unitary DFT about the centre of ``2 * half`` points.

    ``K`` does not depend on the origin of ``F``. About the centre, between two points,
    the second half mirrors the first.
    """
    odd = 2 * jnp.arange(half, dtype=rows.dtype) + 1 - 2 * half
    turns = (rows[..., None] * odd.reshape((1,) * rows.ndim + (half,))) % (2 * size)
    angle = turns.astype(jnp.float32) * (math.pi / size)
    norm = 1 / math.sqrt(size)
    return jnp.cos(angle) * norm, jnp.sin(angle) * norm


def _fold(
    z: Complex[Array, "*b h w"], dtype: jnp.dtype
) -> Real[Array, "n tiles 4 half p"]:
    """Images as blocks read them: tiles of positions, the second half upside down."""
    planes = layout.planes(z, 1, 1).astype(dtype)
    planes = layout.pad_plane(planes, 2 * CHUNK, POSITIONS)
    images, _, height, width = planes.shape
    half = height // 2
    mirrored = jnp.flip(planes[..., half:, :], -2)
    halves = jnp.stack([planes[..., :half, :], mirrored], 1)
    tiles = halves.reshape(images, 4, half, width // POSITIONS, POSITIONS)
    return tiles.transpose(0, 3, 1, 2, 4)


def _unfold(tiles: Real[Array, "n tiles 4 half p"]) -> Complex[Array, "n h w"]:
    """The inverse of :func:`_fold`, but for padding and leading axes."""
    images, _, _, half, _ = tiles.shape
    halves = tiles.transpose(0, 2, 3, 1, 4).reshape(images, 2, 2, half, -1)
    planes = jnp.concatenate([halves[:, 0], jnp.flip(halves[:, 1], -2)], -2)
    return jax.lax.complex(planes[:, 0], planes[:, 1])


def _slabs(maps: Complex[Array, "*m c h w"], together: int, dtype: jnp.dtype) -> Array:
    """Maps as blocks read them: ``[m * tiles * groups * folded * 4, 64, columns]``."""
    coils = maps.shape[-3]
    folded = _fold(maps, dtype)
    _, tiles, planes, half, _ = folded.shape
    split = (tiles, planes, half // CHUNK, CHUNK, POSITIONS)
    folded = folded.reshape(-1, coils, *split)
    pads = [(0, 0)] * folded.ndim
    pads[1] = (0, -coils % together)
    groups = jnp.pad(folded, pads).reshape(len(folded), -1, together, *split)
    # map, tile, group, chunk, plane, line; coil, position.
    slabs = groups.transpose(0, 3, 1, 5, 4, 6, 2, 7)
    return slabs.reshape(-1, CHUNK, together * POSITIONS)


def solve(
    rhs: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m c h w"],
    mask: Real[Array, "*k mh mw"],
    lam: Real[Array, "*l 1 1"],
    *,
    lines: int,
    iterations: int,
    tolerance: float,
    precision: Precision,
) -> Complex[Array, "*b h w"]:
    """``(A^H A + lambda)^-1 r`` for aligned arrays, one recurrence per position.

    Args:
        rhs: right-hand sides, with the full leading shape.
        maps: sensitivity maps, leading axes 1 or the right-hand side's.
        mask: non-negative line weights, leading axes 1 or the right-hand side's.
        lam: weights of the identity, leading axes 1 or the right-hand side's.
        lines: static upper bound on the sampled lines; more give NaN.
        iterations: of each position.
        tolerance: a position stands still once its residual is below this times its
            right-hand side.
        precision: one or three float16 products.

    Returns:
        Solutions; not differentiable (:mod:`.solve` makes it so).
    """
    options = {
        "lines": lines,
        "iterations": iterations,
        "tolerance": tolerance,
        "precision": precision,
    }
    if layout.sampled_axis(mask) == -1:
        turned = (a.swapaxes(-1, -2) for a in (rhs, maps, mask, lam))
        return solve(*turned, **options).swapaxes(-1, -2)
    leading, (height, width), coils = rhs.shape[:-2], rhs.shape[-2:], maps.shape[-3]
    together = choose_together(height, coils, lines, precision)
    if together is None:
        raise NotImplementedError(f"{coils} coils of {height} lines do not fit")
    # Squared norms neither overflow nor vanish; exact, undone at the end.
    factor = layout.power_of_two(gpu.peak(rhs, (-2,)))
    r = _fold(layout.scale(rhs, factor), jnp.dtype("float32"))
    images, tiles, _, half, _ = r.shape
    maps_scale = layout.power_of_two(gpu.peak(maps, (-3, -2, -1)))
    parts = gpu.PARTS[precision]
    terms, mask_scale = gpu.thin_factor(
        mask[..., 0].reshape(-1, height),
        lines,
        parts,
        half,
        functools.partial(_half_dft, size=height, half=half),
    )
    undo = 1 / (maps_scale[..., 0, 0, 0] ** 2 * mask_scale.reshape(mask.shape[:-2]))
    config = Config(
        images=images,
        groups=-(-coils // together),
        together=together,
        folded=half // CHUNK,
        lines=terms.shape[-2],
        tiles=tiles,
        parts=parts,
    )
    inputs = Inputs(
        factor=terms.reshape(-1, *terms.shape[-2:]),
        rhs=r.reshape(-1, half, POSITIONS),
        maps=_slabs(layout.scale(maps, maps_scale), together, config.maps_dtype),
        lam=jnp.broadcast_to(lam[..., 0, 0], leading).reshape(-1),
        undo=jnp.broadcast_to(undo, leading).reshape(-1),
        zero=jnp.zeros(1, jnp.int32),
    )
    out = gpu_solve_kernel.launch(
        inputs,
        config,
        iterations=iterations,
        tolerance=tolerance,
        of_map=layout.flat_index(leading, maps.shape[:-3]),
        of_mask=layout.flat_index(leading, mask.shape[:-2]),
    )
    x = _unfold(out.reshape(r.shape))[:, :height, :width]
    return layout.scale(x.reshape(*leading, height, width), 1 / factor)
