"""What one block of a Hopper GPU does with a tile of S; :mod:`.gpu` prepares its data.

A block owns a tile of 128 rows and 256 columns (128 for ``Similarity``, whose
correlations need accumulators too). One warpgroup only moves data: it streams features
through a ring of shared-memory slots, 64 of the width at a time, by TMA. Two warpgroups
compute: each owns half of the columns, accumulates S (then the correlations) in
registers by wgmma, and turns them there into

* forward: the energy, mass and alignment of its rows and of its columns over this tile,
  one number each, written to a place of their own;
* backward: G in the dtype of the features, and the sums of its rows in fp32.

No atomics, so every run gives the same bits; nothing of S is written.

Sums over rows cross warps through a scratch in shared memory that Mosaic shares between
warpgroups: the two take turns there, one while the other sums over columns, which needs
shuffles alone.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from medjax_kernels.contrastive import fused
from medjax_kernels.contrastive.fused import LN2, Slopes
from medjax_kernels.contrastive.targets import GroupsRule, Rule, SimilarityRule
from medjax_kernels.contrastive.tile import Energy
from medjax_kernels.hopper import laid_out

ROWS = 128
DEPTH = 64
"""Width of one step: 128 bytes, the widest swizzle."""

GROUPS = 2
"""Warpgroups that compute; one more moves data."""

RASTER = 16
"""Tiles of rows that run side by side, so that a wave of blocks is about square and
reads few features from beyond the L2 cache."""

REGISTERS = {False: (24, 240), True: (40, 232)}
"""Per thread that moves data and that computes, forward and backward: what each pass
compiles to without spilling.
"""


class Config(NamedTuple):
    """One launch, all static.

    Attributes:
        energy: of which loss.
        rule: the targets.
        rows: a multiple of :data:`ROWS`.
        columns: a multiple of ``width``.
        steps: width of the features over :data:`DEPTH`.
        soft_steps: width of the unit rows over :data:`DEPTH`; 0 without.
        width: columns of a tile.
        stages: slots of the ring.
        backward: whether G leaves the chip, or sums do.
    """

    energy: Energy
    rule: Rule | None
    rows: int
    columns: int
    steps: int
    soft_steps: int
    width: int
    stages: int
    backward: bool

    @property
    def half(self) -> int:
        """Columns of one warpgroup."""
        return self.width // GROUPS


class Inputs(NamedTuple):
    """In device memory; y and its unit rows are transposed, [width, M]."""

    x: Any
    y: Any
    row_unit: Any
    column_unit: Any
    scale: Any
    rows: Any
    columns: Any
    row_keys: Any
    column_keys: Any


class Forward(NamedTuple):
    """Sums of the rows per half tile of columns, [halves, R], and of the columns per
    tile of rows, [tiles, M].
    """

    row_energy: Any
    column_energy: Any
    row_mass: Any
    column_mass: Any
    row_aligned: Any
    column_aligned: Any


class Backward(NamedTuple):
    """G [R, M], and its row sums per half tile of columns, [halves, R]."""

    g: Any
    row_sum: Any


class Shared(NamedTuple):
    """In shared memory, and the barriers over it."""

    x: Any
    y: Any
    rows: Any
    columns: Any
    row_keys: Any
    column_keys: Any
    row_out: Any
    column_out: Any
    g_out: Any
    full: Any
    empty: Any
    vectors: Any
    turn: Any


def swizzled(columns: int = DEPTH) -> tuple[Any, ...]:
    """Tiling and swizzle of 16-bit matrices, for TMA and wgmma alike."""
    return plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(2 * columns)


def shared(config: Config, dtype: Any) -> Shared:
    """The shared memory of one block."""
    vectors = 4 if config.backward else 1
    keyed = isinstance(config.rule, GroupsRule | SimilarityRule)
    sums = 1 if config.backward else (1 if config.rule is None else 3)
    f32, i32 = jnp.float32, jnp.int32
    return Shared(
        plgpu.SMEM((config.stages, ROWS, DEPTH), dtype, transforms=swizzled()),
        plgpu.SMEM((config.stages, DEPTH, config.width), dtype, transforms=swizzled()),
        plgpu.SMEM((vectors, ROWS), f32),
        plgpu.SMEM((GROUPS, vectors, config.half), f32),
        plgpu.SMEM((ROWS,), i32) if keyed else None,
        plgpu.SMEM((GROUPS, config.half), i32) if keyed else None,
        plgpu.SMEM((GROUPS, sums, ROWS), f32),
        None if config.backward else plgpu.SMEM((GROUPS, sums, config.half), f32),
        plgpu.SMEM((GROUPS, ROWS, config.half), dtype, transforms=swizzled())
        if config.backward
        else None,
        plgpu.Barrier(num_arrivals=2, num_barriers=config.stages),
        plgpu.Barrier(num_arrivals=GROUPS, num_barriers=config.stages),
        plgpu.Barrier(num_arrivals=(2 if keyed else 1) * (1 + GROUPS)),
        plgpu.Barrier(),
    )


def place(config: Config) -> tuple[Any, Any]:
    """Which tile this block owns, along rows and columns."""
    tiles = config.rows // ROWS, config.columns // config.width
    return plgpu.planar_snake(lax.axis_index("tile"), tiles, 0, min(RASTER, tiles[0]))


def move(inputs: Inputs, smem: Shared, config: Config) -> None:
    """The warpgroup that moves data."""
    row, column = place(config)
    rows = pl.ds(row * ROWS, ROWS)
    columns = pl.ds(column * config.width, config.width)

    def load(step: Any, k: Any, a: Any, b: Any) -> None:
        slot = lax.rem(step, jnp.int32(config.stages))

        @pl.when(step >= config.stages)
        def _() -> None:
            plgpu.barrier_wait(smem.empty.at[slot])

        width = pl.ds(k * DEPTH, DEPTH)
        barrier = smem.full.at[slot]
        plgpu.copy_gmem_to_smem(a.at[rows, width], smem.x.at[slot], barrier)
        plgpu.copy_gmem_to_smem(b.at[width, columns], smem.y.at[slot], barrier)

    @pl.loop(0, config.steps)
    def _(k: Any) -> None:
        load(k, k, inputs.x, inputs.y)

    if config.soft_steps:

        @pl.loop(0, config.soft_steps)
        def _(k: Any) -> None:
            load(config.steps + k, k, inputs.row_unit, inputs.column_unit)


def load_vectors(inputs: Inputs, smem: Shared, config: Config) -> None:
    """What is known of the rows and columns of the tile, one number each."""
    row, column = place(config)
    rows = pl.ds(row * ROWS, ROWS)
    plgpu.copy_gmem_to_smem(inputs.rows.at[:, rows], smem.rows, smem.vectors)
    keyed = smem.row_keys is not None
    if keyed:
        keys = inputs.row_keys.at[rows]
        plgpu.copy_gmem_to_smem(keys, smem.row_keys, smem.vectors)
    for group in range(GROUPS):
        start = column * config.width + group * config.half
        columns = pl.ds(start, config.half)
        source = inputs.columns.at[:, columns]
        plgpu.copy_gmem_to_smem(source, smem.columns.at[group], smem.vectors)
        if keyed:
            keys = inputs.column_keys.at[columns]
            plgpu.copy_gmem_to_smem(keys, smem.column_keys.at[group], smem.vectors)


def multiply(
    group: int, first: int, steps: int, smem: Shared, config: Config, accumulator: Any
) -> Array:
    """This warpgroup's half of ``x y^T``, as the data arrive."""
    mine = pl.ds(group * config.half, config.half)
    total = config.steps + config.soft_steps

    @pl.loop(0, steps)
    def _(k: Any) -> None:
        slot = lax.rem(first + k, jnp.int32(config.stages))
        plgpu.barrier_wait(smem.full.at[slot])
        plgpu.wgmma(accumulator, smem.x.at[slot], smem.y.at[slot, :, mine])
        # All but the newest are done: the slot before this one is free.
        plgpu.wgmma_wait(1)

        @pl.when((k > 0) & (first + k - 1 + config.stages < total))
        def _() -> None:
            before = lax.rem(first + k - 1, jnp.int32(config.stages))
            plgpu.barrier_arrive(smem.empty.at[before])

    plgpu.wgmma_wait(0)
    if first + steps - 1 + config.stages < total:
        plgpu.barrier_arrive(smem.empty.at[(first + steps - 1) % config.stages])
    return accumulator[...]


def spread(vector: Array, axis: int, config: Config) -> Array:
    """A vector of the rows (0) or columns (1) over this warpgroup's tile."""
    vector = laid_out(vector, 1 - axis)
    return lax.broadcast_in_dim(vector, (ROWS, config.half), (axis,))


def tile(
    group: int, inputs: Inputs, smem: Shared, config: Config
) -> tuple[Array, Array | None]:
    """This warpgroup's logits, in base two, and targets."""
    shape = plgpu.WGMMAAccumulatorRef((ROWS, config.half), jnp.float32)

    def product(first: int, steps: int) -> Array:
        run = functools.partial(multiply, group, first, steps, smem, config)
        return pl.run_scoped(lambda accumulator: run(accumulator), shape)

    t = product(0, config.steps) * inputs.scale[0]
    plgpu.barrier_wait(smem.vectors)
    t = t + spread(smem.rows[0], 0, config) + spread(smem.columns[group, 0], 1, config)
    if config.rule is None:
        return t, None
    correlation = None
    if config.soft_steps:
        correlation = product(config.steps, config.soft_steps)
    row_key = spread(smem.row_keys[...], 0, config)
    column_key = spread(smem.column_keys[group], 1, config)
    same = row_key == column_key
    return t, fused.target_tile(config.rule, t, same, correlation)


def energy_along(t: Array, axis: int, config: Config) -> Array:
    """Energies of the columns (0) or rows (1) over this warpgroup's tile."""
    if config.energy == "sigmoid":
        return LN2 * jnp.sum(fused.softplus2(t), axis=axis)
    peak = jnp.max(t, axis=axis)
    total = jnp.sum(jnp.exp2(t - spread(peak, 1 - axis, config)), axis=axis)
    return LN2 * peak + jnp.log(total)


def forward(
    group: int, inputs: Inputs, out: Forward, smem: Shared, config: Config
) -> None:
    """One computing warpgroup, forward."""
    row, column = place(config)
    t, y = tile(group, inputs, smem, config)

    def sums(axis: int) -> None:
        target = smem.row_out if axis else smem.column_out
        target[group, 0] = energy_along(t, axis, config)
        if y is not None:
            target[group, 1] = jnp.sum(y, axis=axis)
            target[group, 2] = jnp.sum(LN2 * (y * t), axis=axis)

    # Columns first or rows first: the scratch serves one warpgroup at a time.
    if group == 0:
        sums(0)
        plgpu.barrier_arrive(smem.turn)
        sums(1)
    else:
        sums(1)
        plgpu.barrier_wait(smem.turn)
        sums(0)
    plgpu.commit_smem()
    rows = pl.ds(row * ROWS, ROWS)
    half = column * GROUPS + group
    columns = pl.ds(half * config.half, config.half)
    rows_out = out.row_energy, out.row_mass, out.row_aligned
    columns_out = out.column_energy, out.column_mass, out.column_aligned
    for i in range(1 if y is None else 3):
        source = smem.row_out.at[group, i], smem.column_out.at[group, i]
        plgpu.copy_smem_to_gmem(source[0], rows_out[i].at[half, rows])
        plgpu.copy_smem_to_gmem(source[1], columns_out[i].at[row, columns])
    plgpu.wait_smem_to_gmem(0)


def backward(
    group: int, inputs: Inputs, out: Backward, smem: Shared, config: Config
) -> None:
    """One computing warpgroup, backward."""
    row, column = place(config)
    t, y = tile(group, inputs, smem, config)
    of_rows = [spread(smem.rows[i], 0, config) for i in (1, 2, 3)]
    of_columns = [spread(smem.columns[group, i], 1, config) for i in (1, 2, 3)]
    g = fused.slope_tile(config.energy, t, y, Slopes(*of_rows), Slopes(*of_columns))
    smem.g_out[group] = g.astype(smem.g_out.dtype)
    smem.row_out[group, 0] = jnp.sum(g, axis=1)
    plgpu.commit_smem()
    rows = pl.ds(row * ROWS, ROWS)
    half = column * GROUPS + group
    columns = pl.ds(half * config.half, config.half)
    plgpu.copy_smem_to_gmem(smem.g_out.at[group], out.g.at[rows, columns])
    plgpu.copy_smem_to_gmem(smem.row_out.at[group, 0], out.row_sum.at[half, rows])
    plgpu.wait_smem_to_gmem(0)


def kernel(inputs: Inputs, out: Any, smem: Shared, *, config: Config) -> None:
    """All three warpgroups, each known to the trace."""
    warpgroup = lax.axis_index("warpgroup")
    compute = backward if config.backward else forward
    moving, computing = REGISTERS[config.backward]

    for group in range(GROUPS):

        @pl.when(warpgroup == group)
        def _(group: int = group) -> None:
            plgpu.set_max_registers(computing, action="increase")
            compute(group, inputs, out, smem, config)

    @pl.when(warpgroup == GROUPS)
    def _() -> None:
        plgpu.set_max_registers(moving, action="decrease")
        load_vectors(inputs, smem, config)
        move(inputs, smem, config)
