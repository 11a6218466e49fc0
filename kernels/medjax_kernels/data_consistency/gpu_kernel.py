"""What one block of a Hopper GPU does; :mod:`.gpu` prepares its data.

A block owns a strip of readout positions of one image. It keeps the thin factor
``F_Omega`` of ``K = F_Omega^H diag(m) F_Omega`` in shared memory. Its two warpgroups
share the lines of the image between them and keep the result of their lines in
registers; for each coil

1. each multiplies map and image of its lines into ``z = S_c x``, in float16;
2. one computes the real, the other the imaginary plane of ``p = F_Omega z`` (wgmma,
   float32 accumulators, operands in shared memory);
3. each computes ``y = F_Omega^H p`` for its lines and adds ``conj(S_c) y`` to the
   result, while the maps of the next coil are already on their way.

So device memory sees each map once, the image once, the result once; the coil images
and their k-space exist on the chip only.

Written for ``plgpu.kernel`` (Mosaic GPU); complex numbers travel as planes because it
knows none.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from medjax_kernels import compat
from medjax_kernels.data_consistency.gpu_tile import (
    CHUNK,
    float16_terms,
    products,
    rows_of,
    transforms,
)


class Config(NamedTuple):
    """Sizes of one launch, all static.

    Attributes:
        images: images of the batch.
        coils: coils of each image.
        chunks: lines of the image over :data:`CHUNK`.
        lines: rows of the thin factor, a multiple of 64.
        width: readout positions, a multiple of ``strip``.
        strip: readout positions of one block.
        parts: float16 terms per operand, 1 or 2.
        splits: blocks that share the coils of one strip.
    """

    images: int
    coils: int
    chunks: int
    lines: int
    width: int
    strip: int
    parts: int
    splits: int


def _store(ref: Any, index: tuple[Any, ...], value: Array, parts: int) -> None:
    """Write a plane, term by term, where wgmma reads its second operand."""
    for part, term in enumerate(float16_terms(value, parts)):
        ref[*index, part] = term


def _kernel(
    group: int,
    f_gmem: Any,
    x_gmem: Any,
    s_gmem: Any,
    zero_gmem: Any,
    out_gmem: Any,
    f_smem: Any,
    x_smem: Any,
    s_smem: Any,
    z_smem: Any,
    p_smem: Any,
    f_barrier: Any,
    s_barrier: Any,
    z_ready: Any,
    p_ready: Any,
    ft_smem: Any = None,
    *,
    config: Config,
    map_index: Any,
    mask_index: Any,
) -> None:
    """What warpgroup ``group`` does, for all coils of one split, on one strip.

    The group is known to the trace, so that addresses in shared memory are constants;
    computed from the thread index they would crowd the registers.
    """
    strip, parts = config.strip, config.parts
    tile, image, split = (lax.axis_index(a) for a in ("tile", "image", "split"))
    columns = pl.ds(tile * strip, strip)
    per_split = config.coils // config.splits
    first = split * per_split
    maps_plane = 2 * map_index(image) * config.coils

    def load_maps(coil: Any, chunk: int) -> None:
        """Both planes of one coil, one chunk of the strip, into the chunk's slot."""
        for i in range(2):
            source = s_gmem.at[maps_plane + 2 * coil + i, rows_of(chunk), columns]
            plgpu.copy_gmem_to_smem(source, s_smem.at[chunk, i], s_barrier.at[chunk])

    def read(chunk: Any) -> tuple[Array, Array]:
        return s_smem[chunk, 0], s_smem[chunk, 1]

    chunks = range(group, config.chunks, 2)

    if group == 0:
        for term in range(2 * parts):
            source = f_gmem.at[2 * parts * mask_index(image) + term]
            plgpu.copy_gmem_to_smem(source, f_smem.at[term], f_barrier)

    # Registers hold the real plane of the image, which passes through a slot of the
    # maps; the imaginary one stays in shared memory. Neither has room for both.
    for chunk in chunks:
        for i, slot in enumerate((s_smem.at[chunk, 0], x_smem.at[chunk])):
            source = x_gmem.at[2 * image + i, rows_of(chunk), columns]
            plgpu.copy_gmem_to_smem(source, slot, s_barrier.at[chunk])
    x = []
    for chunk in chunks:
        plgpu.barrier_wait(s_barrier.at[chunk])
        x.append(s_smem[chunk, 0])
    plgpu.commit_smem()
    for chunk in chunks:
        load_maps(first, chunk)
    plgpu.barrier_wait(f_barrier)
    if ft_smem is not None and group == 0:
        for term in range(2 * parts):
            ft_smem[term] = f_smem[term].T

    def expand(here: Any) -> None:
        """Step 1."""
        for x_re, chunk in zip(x, chunks, strict=True):
            plgpu.barrier_wait(s_barrier.at[chunk])
            x_im = x_smem[here + chunk]
            s_re, s_im = read(here + chunk)
            _store(z_smem, (here + chunk, 0), s_re * x_re - s_im * x_im, parts)
            _store(z_smem, (here + chunk, 1), s_re * x_im + s_im * x_re, parts)
        plgpu.commit_smem()

    def transform(here: Any, straight: Any, crossed: Any) -> None:
        """Step 2: this warpgroup's plane, as two sums over the lines."""
        for chunk in range(config.chunks):
            for a, b in products(parts):
                f_re = f_smem.at[here + a, :, rows_of(chunk)]
                f_im = f_smem.at[here + parts + a, :, rows_of(chunk)]
                plgpu.wgmma(straight, f_re, z_smem.at[here + chunk, group, b])
                plgpu.wgmma(crossed, f_im, z_smem.at[here + chunk, 1 - group, b])
        plgpu.wgmma_wait(0)
        # Re p = F_r z_r - F_i z_i, Im p = F_r z_i + F_i z_r.
        signed = crossed[...] if group else -crossed[...]
        _store(p_smem, (here + group,), straight[...] + signed, parts)
        plgpu.commit_smem()

    def adjoint(here: Any, term: int, chunk: int) -> Any:
        """``F^T`` for one chunk: the same memory, read transposed."""
        if ft_smem is not None:
            return ft_smem.at[term, rows_of(chunk)]
        return f_smem.at[here + term, :, rows_of(chunk)].transpose((1, 0))

    def real_part(here: Any, chunk: int, y: Any) -> Array:
        """Step 3: ``Re F^H p = F_r^T p_r + F_i^T p_i``."""
        for a, b in products(parts):
            plgpu.wgmma(y, adjoint(here, a, chunk), p_smem.at[here, b])
            plgpu.wgmma(y, adjoint(here, parts + a, chunk), p_smem.at[here + 1, b])
        return y[...]

    def imaginary_part(here: Any, chunk: int, y: Any, minus: Any) -> Array:
        """Step 3: ``Im F^H p = F_r^T p_i - F_i^T p_r``."""
        for a, b in products(parts):
            plgpu.wgmma(y, adjoint(here, a, chunk), p_smem.at[here + 1, b])
            plgpu.wgmma(minus, adjoint(here, parts + a, chunk), p_smem.at[here, b])
        return y[...] - minus[...]

    def coil_step(coil: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        # ``here`` is zero in every round, but the compiler cannot know: it would
        # otherwise compute every matrix descriptor before the loop, and spill them.
        here, *total = state
        expand(here)
        # Also: both are past step 3 of the last coil, so its p may be overwritten.
        plgpu.barrier_arrive(z_ready)
        plgpu.barrier_wait(z_ready)
        kspace = plgpu.WGMMAAccumulatorRef((config.lines, strip), jnp.float32)
        pl.run_scoped(
            functools.partial(transform, here), straight=kspace, crossed=kspace
        )
        # Also: both have read z, so the next coil may overwrite it.
        plgpu.barrier_arrive(p_ready)
        plgpu.barrier_wait(p_ready)
        lines = plgpu.WGMMAAccumulatorRef((CHUNK, strip), jnp.float32)
        for i, chunk in enumerate(chunks):
            # One plane after the other: both at once would not fit the registers.
            y = pl.run_scoped(functools.partial(real_part, here, chunk), y=lines)
            s_re, s_im = read(here + chunk)
            total[2 * i] += s_re * y
            total[2 * i + 1] -= s_im * y
            y = pl.run_scoped(
                functools.partial(imaginary_part, here, chunk), y=lines, minus=lines
            )
            s_re, s_im = read(here + chunk)
            total[2 * i] += s_im * y
            total[2 * i + 1] += s_re * y
            # Every warp has read this slot before the next maps land in it.
            plgpu.commit_smem()

            @pl.when(coil + 1 < first + per_split)
            def _(chunk: Any = chunk) -> None:
                load_maps(coil + 1, chunk)

        return here * here, *total

    start = (
        zero_gmem[0],
        *[jnp.zeros((CHUNK, strip), jnp.float32)] * (2 * len(chunks)),
    )
    _, *total = lax.fori_loop(first, first + per_split, coil_step, start)
    for i, chunk in enumerate(chunks):
        s_smem[chunk, 0], s_smem[chunk, 1] = total[2 * i], total[2 * i + 1]
        plgpu.commit_smem()
        for plane in range(2):
            target = 2 * (split * config.images + image) + plane
            plgpu.copy_smem_to_gmem(
                s_smem.at[chunk, plane], out_gmem.at[target, rows_of(chunk), columns]
            )
    plgpu.wait_smem_to_gmem(0)


def _both(*refs: Any, **options: Any) -> None:
    """The kernel: one branch for each warpgroup."""
    for group in range(2):

        @pl.when(lax.axis_index("warpgroup") == group)
        def _(group: int = group) -> None:
            _kernel(group, *refs, **options)


def launch(
    factor: Array,
    image: Array,
    maps: Array,
    config: Config,
    map_index: Any,
    mask_index: Any,
) -> Array:
    """Partial sums ``[splits, n, 2, h, w]`` of the operator, in scaled units.

    Args:
        factor: float16 ``[q, 2 * parts, lines, h]``: terms of Re F, then of Im F.
        image: float32 planes ``[n, 2, h, w]``.
        maps: float32 planes ``[m, c, 2, h, w]``.
        config: the sizes.
        map_index: image index to map index.
        mask_index: image index to mask index.
    """
    height = config.chunks * CHUNK
    strip, parts = config.strip, config.parts
    f32, f16 = jnp.float32, jnp.float16
    # wgmma wants both operands in one swizzle: the strip's, the narrower one.
    half, full = transforms(strip, 2), transforms(strip, 4)
    scratch = [
        plgpu.SMEM((2 * parts, config.lines, height), f16, transforms=half),
        plgpu.SMEM((config.chunks, CHUNK, strip), f32, transforms=full),
        plgpu.SMEM((config.chunks, 2, CHUNK, strip), f32, transforms=full),
        plgpu.SMEM((config.chunks, 2, parts, CHUNK, strip), f16, transforms=half),
        plgpu.SMEM((2, parts, config.lines, strip), f16, transforms=half),
        plgpu.Barrier(num_arrivals=2 * parts),
        plgpu.Barrier(num_arrivals=2, num_barriers=config.chunks),
        plgpu.Barrier(num_arrivals=2),
        plgpu.Barrier(num_arrivals=2),
    ]
    if compat.interpreting():
        # The tensor core reads F transposed where it lies; the interpreter cannot.
        scratch.append(plgpu.SMEM((2 * parts, height, config.lines), f16))
    kernel = plgpu.kernel(
        functools.partial(
            _both, config=config, map_index=map_index, mask_index=mask_index
        ),
        out_type=compat.output(
            (config.splits * config.images * 2, height, config.width),
            f32,
            factor,
            image,
            maps,
        ),
        scratch_types=scratch,
        grid=(config.width // strip, config.images, config.splits),
        grid_names=("tile", "image", "split"),
        num_threads=2,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup
        ),
    )
    # TMA takes five axes, two of which tiling needs: leading ones travel as one.
    flat = (a.reshape(-1, *a.shape[-2:]) for a in (factor, image, maps))
    planes = kernel(*flat, jnp.zeros(1, jnp.int32))
    return planes.reshape(config.splits, config.images, 2, height, config.width)
