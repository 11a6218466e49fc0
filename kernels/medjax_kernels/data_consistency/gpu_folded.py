"""The operator on readout positions whose maps stay in a Hopper GPU's shared memory.

The lines of an image come folded. Row ``j`` of the first half and its mirror image, row
``j`` of the second, share

    (F z)_l = sum_j cos(l, j) (z1 + z2)_j - i sin(l, j) (z1 - z2)_j,

so the thin factor is two real matrices of half the height, and the products are half of
those that :mod:`.gpu_kernel` takes. Two warpgroups share the folded lines. Several
coils side by side make the columns of a product (column = coil, position); for each
such group of coils

1. each multiplies maps and image of its lines into ``z`` and folds it, in float16;
2. one computes the real, the other the imaginary plane of ``k = F z`` (wgmma), which
   then takes the place of ``z``;
3. each computes the cosine and sine parts of ``F^H k`` for its lines, unfolds them,
   multiplies by ``conj(S)`` and sums over the coils: slices of its own registers.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mosaic
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
from medjax_kernels.hopper import laid_out

POSITIONS = 8
"""Readout positions of a block: the fewest columns that wgmma tells apart."""

Tiles = list[Array]
"""``[64, positions]`` each: real and imaginary plane of the first half of a chunk, of
its second half; then the next chunk."""


class Config(NamedTuple):
    """Sizes of one launch, all static.

    Attributes:
        images: of the batch.
        groups: of coils.
        together: coils of a group.
        folded: lines of half the image over :data:`CHUNK`.
        lines: rows of the factor, a multiple of 64.
        tiles: readout positions over :data:`POSITIONS`.
        parts: float16 terms per operand, 1 or 2.
    """

    images: int
    groups: int
    together: int
    folded: int
    lines: int
    tiles: int
    parts: int

    @property
    def columns(self) -> int:
        """Of a product."""
        return self.together * POSITIONS

    @property
    def slabs(self) -> int:
        """Of maps, four planes each: one for each group of coils and each chunk."""
        return self.groups * self.folded

    @property
    def maps_dtype(self) -> jnp.dtype:
        """One float16 term, or the sum of both."""
        return jnp.dtype("float16" if self.parts == 1 else "float32")


class Shared(NamedTuple):
    """In shared memory, and the barriers over it.

    Attributes:
        factor: ``[2 * parts, lines, half]``: cosines, then sines.
        maps: ``[slabs * 4, 64, columns]``, of all coils.
        operands: planes of the folded ``z``, 64 lines each; later those of ``k``.
        sums: inner products, of either warpgroup.
        loaded: factor and maps are there.
        met: both warpgroups are here.
        transposed: the factor, where an interpreter cannot read it transposed.
    """

    factor: Any
    maps: Any
    operands: Any
    sums: Any
    loaded: Any
    met: Any
    transposed: Any = None


def shared(config: Config) -> Shared:
    """The shared memory of one block."""
    f16, columns, parts = jnp.float16, config.columns, config.parts
    half, dtype = config.folded * CHUNK, config.maps_dtype
    # wgmma wants both operands in one swizzle.
    swizzled = transforms(columns, 2)

    def stack(planes: int, dtype: Any, transforms: tuple[Any, ...]) -> Any:
        return plgpu.SMEM((planes, CHUNK, columns), dtype, transforms=transforms)

    scratch = Shared(
        factor=plgpu.SMEM((2 * parts, config.lines, half), f16, transforms=swizzled),
        maps=stack(4 * config.slabs, dtype, transforms(columns, dtype.itemsize)),
        operands=stack(4 * config.folded * parts, f16, swizzled),
        sums=plgpu.SMEM((2, 2, POSITIONS), jnp.float32),
        loaded=plgpu.Barrier(num_arrivals=2 * parts + config.slabs),
        met=plgpu.Barrier(num_arrivals=2),
    )
    if compat.interpreting():
        flipped = plgpu.SMEM((2 * parts, half, config.lines), f16)
        scratch = scratch._replace(transposed=flipped)
    return scratch


def spread(value: Array) -> Array:
    """One number per position, over the lines of a chunk."""
    value = laid_out(value, 0)
    return lax.broadcast_in_dim(value, (CHUNK, POSITIONS), (1,))


def _beside(tile: Array, copies: int) -> Array:
    """Copies of ``[64, positions]`` side by side; free: they share their registers."""
    if compat.interpreting():
        return jnp.tile(tile, (1, copies))
    wgmma = plgpu.Layout.WGMMA
    shape = plgpu.ShapeDtypeStruct((CHUNK, copies * POSITIONS), tile.dtype, wgmma)

    def repeat(_: Any, x: Any) -> Any:
        return mosaic.FragmentedArray(
            _registers=np.concatenate([x.registers] * copies, axis=1),
            _layout=x.layout,
            _is_signed=x.is_signed,
        )

    return plgpu.inline_mgpu(arg_types=(wgmma,), return_type=shape)(repeat)(tile)


def _over_coils(s: Array, y: Array) -> Array:
    """``s y`` summed over the coils of a group: ``[64, columns]`` to one tile."""

    def of_coil(plane: Array, coil: int) -> Array:
        return plane[:, coil * POSITIONS : (coil + 1) * POSITIONS].astype(jnp.float32)

    coils = range(1, y.shape[1] // POSITIONS)
    first = of_coil(s, 0) * of_coil(y, 0)
    return sum((of_coil(s, c) * of_coil(y, c) for c in coils), start=first)


class Warpgroup:
    """One warpgroup of one block, known to the trace.

    So addresses in shared memory are constants; computed from the thread index they
    would crowd the registers. ``here`` is zero in every round of a loop, but the
    compiler cannot know: it would otherwise compute every matrix descriptor before the
    loop, and spill them.
    """

    def __init__(self, group: int, smem: Shared, config: Config) -> None:
        self.group, self.smem, self.config = group, smem, config
        self.chunks = range(group, config.folded, 2)

    def meet(self) -> None:
        """Wait for the other warpgroup, with all that both wrote."""
        plgpu.commit_smem()
        plgpu.barrier_arrive(self.smem.met)
        plgpu.barrier_wait(self.smem.met)

    def prepare(self) -> None:
        """What an interpreter needs before the first product."""
        if self.smem.transposed is not None and self.group == 0:
            for term in range(2 * self.config.parts):
                self.smem.transposed[term] = self.smem.factor[term].T

    def normal(self, here: Any, x: Tiles) -> tuple[Any, Tiles]:
        """``here`` again, and ``S^H K S x`` in scaled units."""
        accumulator = plgpu.WGMMAAccumulatorRef(
            (self.config.lines, self.config.columns), jnp.float32
        )

        def coil_step(coils: Any, state: tuple[Any, Tiles]) -> tuple[Any, Tiles]:
            here, total = state
            self._expand(here, coils, x)
            self.meet()
            pl.run_scoped(functools.partial(self._transform, here), accumulator)
            self.meet()
            total = self._reduce(here, coils, total)
            # Both have read k: the next z may take its place.
            self.meet()
            return here * here, total

        zeros = [jnp.zeros((CHUNK, POSITIONS), jnp.float32)] * len(x)
        return lax.fori_loop(0, self.config.groups, coil_step, (here, zeros))

    def _map(self, here: Any, coils: Any, chunk: int, half: int) -> tuple[Array, Array]:
        """Both planes of the maps of a group of coils, in one half of a chunk."""
        slab = coils * self.config.folded + chunk
        first = here + 4 * slab + 2 * half
        re, im = self.smem.maps[first], self.smem.maps[first + 1]
        return laid_out(re), laid_out(im)

    def _folded(self, here: Any, chunk: Any, plane: int, part: int) -> Any:
        """Where a term of a plane of the folded ``z`` lies."""
        parts = self.config.parts
        return self.smem.operands.at[here + (chunk * 4 + plane) * parts + part]

    def _kspace(self, here: Any, plane: int, block: int, part: int) -> Any:
        """Where a term of 64 rows of a plane of ``k`` lies."""
        index = plane * (self.config.lines // CHUNK) + block
        return self.smem.operands.at[here + index * self.config.parts + part]

    def _store(self, ref_of: Callable[[int], Any], value: Array) -> None:
        """Write an operand, term by term."""
        for part, term in enumerate(float16_terms(value, self.config.parts)):
            ref_of(part)[...] = term

    def _expand(self, here: Any, coils: Any, x: Tiles) -> None:
        """Step 1."""
        beside = functools.partial(_beside, copies=self.config.together)
        for i, chunk in enumerate(self.chunks):
            z = []
            for half in range(2):
                s_re, s_im = (
                    s.astype(jnp.float32) for s in self._map(here, coils, chunk, half)
                )
                at = 4 * i + 2 * half
                x_re, x_im = beside(x[at]), beside(x[at + 1])
                z.append((s_re * x_re - s_im * x_im, s_re * x_im + s_im * x_re))
            (re1, im1), (re2, im2) = z
            folded = re1 + re2, im1 + im2, im1 - im2, re2 - re1
            for plane, value in enumerate(folded):
                self._store(functools.partial(self._folded, here, chunk, plane), value)

    def _transform(self, here: Any, total: Any) -> None:
        """Step 2: ``Re k = C e_r + S o_i`` or ``Im k = C e_i - S o_r``."""
        parts, factor = self.config.parts, self.smem.factor
        for chunk in range(self.config.folded):
            for a, b in products(parts):
                for term, plane in ((a, self.group), (parts + a, 2 + self.group)):
                    left = factor.at[here + term, :, rows_of(chunk)]
                    plgpu.wgmma(total, left, self._folded(here, chunk, plane, b))
        value = total[...]
        self.meet()
        for block in range(self.config.lines // CHUNK):
            self._store(
                functools.partial(self._kspace, here, self.group, block),
                value[block * CHUNK : (block + 1) * CHUNK],
            )

    def _adjoint(self, here: Any, term: int, block: int, chunk: int) -> Any:
        """64 rows of a term of the factor, transposed: the same memory."""
        if self.smem.transposed is not None:
            return self.smem.transposed.at[term, rows_of(chunk), rows_of(block)]
        rows = self.smem.factor.at[here + term, rows_of(block), rows_of(chunk)]
        return rows.transpose((1, 0))

    def _unfolded(
        self, here: Any, chunk: int, plane: int, even: Any, odd: Any
    ) -> tuple[Array, Array]:
        """Step 3: a plane of ``F^H k`` in both halves of a chunk."""
        parts = self.config.parts
        for block in range(self.config.lines // CHUNK):
            for a, b in products(parts):
                cosine = self._adjoint(here, a, block, chunk)
                plgpu.wgmma(even, cosine, self._kspace(here, plane, block, b))
                sine = self._adjoint(here, parts + a, block, chunk)
                plgpu.wgmma(odd, sine, self._kspace(here, 1 - plane, block, b))
        symmetric, skew = even[...], odd[...]
        # (C + i S) k in the first half, (C - i S) k in the second.
        minus, plus = symmetric - skew, symmetric + skew
        return (plus, minus) if plane else (minus, plus)

    def _reduce(self, here: Any, coils: Any, total: Tiles) -> Tiles:
        """Step 3: ``conj(S) F^H k``, summed over a group of coils."""
        total = [*total]
        shape = plgpu.WGMMAAccumulatorRef((CHUNK, self.config.columns), jnp.float32)
        for i, chunk in enumerate(self.chunks):
            # One plane after the other: both at once would not fit the registers.
            for plane in range(2):
                run = functools.partial(self._unfolded, here, chunk, plane)
                for half, y in enumerate(pl.run_scoped(run, even=shape, odd=shape)):
                    s_re, s_im = self._map(here, coils, chunk, half)
                    re, im = 4 * i + 2 * half, 4 * i + 2 * half + 1
                    if plane == 0:
                        total[re] += _over_coils(s_re, y)
                        total[im] -= _over_coils(s_im, y)
                    else:
                        total[re] += _over_coils(s_im, y)
                        total[im] += _over_coils(s_re, y)
        return total
