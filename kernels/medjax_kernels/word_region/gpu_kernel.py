"""What one block of a Hopper GPU does with a pair; :mod:`.gpu` prepares its data.

A block owns one image and one report. One warpgroup only moves data: it streams
features and inner products through a ring of shared-memory slots by TMA. Two warpgroups
compute, each on 64 regions of 128, regions down, words across (a softmax over words
then needs shuffles alone), in two rounds over the regions:

1. scores ``s = v e^T`` by wgmma; their softmax ``p`` over words, in registers; and
   ``a = exp(temp1 (p - 1))``, which is attention but for its sum over regions. What is
   left of ``a`` after subtracting its value at p = 1/T goes to shared memory in the
   dtype of the features, and ``sum_r a s`` is taken;
2. ``G a`` by wgmma, with the image's inner products G, and ``sum_r a (G a)``.

G has three rows more than there are regions: one of ones and two with the products of
the centred regions and their mean (in two terms, being larger), so that round 2 also
makes ``sum_r a`` and ``sum_r a h``. Sums over 64 regions at a time leave the chip, a
dozen numbers per word; nothing of size words x regions does. No atomics, so every run
gives the same bits.

Sums over rows cross warps through a scratch in shared memory that Mosaic shares between
warpgroups: the two take turns.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from medjax_kernels import compat
from medjax_kernels.hopper import laid_out

CHUNK = 64
"""Regions of a warpgroup: the M of a wgmma. Also a step of its depth: 128 bytes."""

GROUPS = 2
"""Warpgroups that compute; one more moves data."""

ROUND = GROUPS * CHUNK
RASTER = 8
"""Images that run side by side, so that a wave of blocks reads few of either side."""

REGISTERS = (24, 240)
"""Per thread that moves data and that computes."""


class Config(NamedTuple):
    """One launch, all static.

    Attributes:
        images: of the batch.
        reports: of the batch.
        words: a multiple of :data:`CHUNK`.
        regions: a multiple of :data:`ROUND`, with the three extra rows.
        width: of the features, a multiple of :data:`CHUNK`.
        temp1: between the softmaxes.
        stages: slots of the ring.
    """

    images: int
    reports: int
    words: int
    regions: int
    width: int
    temp1: float
    stages: int

    @property
    def rounds(self) -> int:
        """Passes of the two warpgroups over the regions."""
        return self.regions // ROUND

    @property
    def deep(self) -> int:
        """Steps of a product over the width."""
        return self.width // CHUNK

    @property
    def square(self) -> int:
        """Steps of a product over the regions."""
        return self.regions // CHUNK

    @property
    def chunks(self) -> int:
        """Sums that each of the two rounds leaves, one for 64 regions."""
        return self.rounds * GROUPS

    @property
    def sums(self) -> int:
        """Rows of the result: ``sum a s`` of every chunk, ``sum a (G a)`` of every
        chunk, ``sum a``, and ``sum a h``.
        """
        return 2 * self.chunks + 2

    @property
    def steps(self) -> int:
        """Slots that pass through the ring."""
        return self.rounds * (self.deep + self.square)


class Inputs(NamedTuple):
    """In device memory.

    Attributes:
        regions: ``[m, r, d]``.
        words: ``[n, d, t]``, transposed.
        gram: ``[m, r, r]``, in the dtype of the features.
        columns: ``[n, t]`` fp32, addend of the scores; -1e30: no word.
        typical: ``[n]`` fp32, the value of ``a`` at the report's mean share.
        rows: ``[rounds, 3, 128]`` fp32: which rows are regions, ones, products with
            the mean.
    """

    regions: Any
    words: Any
    gram: Any
    columns: Any
    typical: Any
    rows: Any


class Shared(NamedTuple):
    """In shared memory, and the barriers over it."""

    left: Any
    right: Any
    attention: Any
    columns: Any
    rows: Any
    out: Any
    full: Any
    empty: Any
    vectors: Any
    attended: Any
    turn: Any


def swizzled() -> tuple[Any, ...]:
    """Tiling and swizzle of 16-bit matrices, for TMA and wgmma alike."""
    return plgpu.TilingTransform((8, CHUNK)), plgpu.SwizzleTransform(2 * CHUNK)


def shared(config: Config, dtype: Any) -> Shared:
    """The shared memory of one block."""
    f32 = jnp.float32

    def matrix(*shape: int) -> Any:
        return plgpu.SMEM(shape, dtype, transforms=swizzled())

    return Shared(
        matrix(config.stages, ROUND, CHUNK),
        matrix(config.stages, CHUNK, config.words),
        matrix(config.regions, config.words),
        plgpu.SMEM((config.words,), f32),
        plgpu.SMEM((config.rounds, 3, ROUND), f32),
        plgpu.SMEM((config.sums, config.words), f32),
        plgpu.Barrier(num_arrivals=2, num_barriers=config.stages),
        plgpu.Barrier(num_arrivals=GROUPS, num_barriers=config.stages),
        plgpu.Barrier(num_arrivals=1 + config.rounds),
        plgpu.Barrier(num_arrivals=GROUPS),
        plgpu.Barrier(num_barriers=GROUPS),
    )


def shared_bytes(config: Config) -> int:
    """Bytes of :func:`shared`; 2 KB for barriers, alignment and Mosaic's scratch."""
    ring = config.stages * CHUNK * (ROUND + config.words)
    matrices = 2 * (ring + config.regions * config.words)
    vectors = 4 * ((1 + config.sums) * config.words + 3 * config.regions)
    return matrices + vectors + 2048


def place(config: Config) -> tuple[Any, Any]:
    """The image and the report of this block."""
    sizes = config.images, config.reports
    raster = min(RASTER, config.images)
    return plgpu.planar_snake(lax.axis_index("pair"), sizes, 0, raster)


def move(inputs: Inputs, smem: Shared, config: Config) -> None:
    """The warpgroup that moves data: both rounds, 64 of the depth a slot."""
    image, report = place(config)
    plgpu.copy_gmem_to_smem(inputs.columns.at[report], smem.columns, smem.vectors)
    for i in range(config.rounds):
        plgpu.copy_gmem_to_smem(inputs.rows.at[i], smem.rows.at[i], smem.vectors)

    def slot_of(step: Any) -> Any:
        slot = lax.rem(step, jnp.int32(config.stages))

        @pl.when(step >= config.stages)
        def _() -> None:
            plgpu.barrier_wait(smem.empty.at[slot])

        return slot

    for i in range(config.rounds):
        rows = pl.ds(i * ROUND, ROUND)

        @pl.loop(0, config.deep)
        def _(k: Any, i: int = i, rows: Any = rows) -> None:
            slot = slot_of(i * config.deep + k)
            depth, full = pl.ds(k * CHUNK, CHUNK), smem.full.at[slot]
            left = inputs.regions.at[image, rows, depth]
            plgpu.copy_gmem_to_smem(left, smem.left.at[slot], full)
            right = inputs.words.at[report, depth]
            plgpu.copy_gmem_to_smem(right, smem.right.at[slot], full)

    for i in range(config.rounds):
        first = config.rounds * config.deep + i * config.square

        @pl.loop(0, config.square)
        def _(k: Any, i: int = i, first: int = first) -> None:
            slot = slot_of(first + k)
            depth, full = pl.ds(k * CHUNK, CHUNK), smem.full.at[slot]
            # Halves, so that a slot is filled by two copies in both rounds.
            for half in range(2):
                rows = pl.ds(i * ROUND + half * CHUNK, CHUNK)
                target = smem.left.at[slot, pl.ds(half * CHUNK, CHUNK)]
                plgpu.copy_gmem_to_smem(
                    inputs.gram.at[image, rows, depth], target, full
                )


def multiply(
    group: int, first: int, steps: int, right: Any, smem: Shared, config: Config
) -> Array:
    """64 rows of the left factor times the right one, as the data arrive."""
    mine = pl.ds(group * CHUNK, CHUNK)

    def release(step: Any) -> None:
        slot = lax.rem(step, jnp.int32(config.stages))
        plgpu.barrier_arrive(smem.empty.at[slot])

    def run(accumulator: Any) -> Array:
        @pl.loop(0, steps)
        def _(k: Any) -> None:
            slot = lax.rem(first + k, jnp.int32(config.stages))
            plgpu.barrier_wait(smem.full.at[slot])
            plgpu.wgmma(accumulator, smem.left.at[slot, mine], right(slot, k))
            # All but the newest are done: the slot before this one is free.
            plgpu.wgmma_wait(1)

            @pl.when((k > 0) & (first + k - 1 + config.stages < config.steps))
            def _() -> None:
                release(first + k - 1)

        plgpu.wgmma_wait(0)
        last = first + steps - 1
        if last + config.stages < config.steps:
            release(jnp.int32(last))
        return accumulator[...]

    shape = plgpu.WGMMAAccumulatorRef((CHUNK, config.words), jnp.float32)
    return pl.run_scoped(lambda accumulator: run(accumulator), shape)


def spread(vector: Array, axis: int, config: Config) -> Array:
    """A vector of regions (0) or words (1) over a chunk."""
    vector = laid_out(vector, 1 - axis)
    return lax.broadcast_in_dim(vector, (CHUNK, config.words), (axis,))


def add_up(value: Array, turn: int, group: int, smem: Shared, config: Config) -> None:
    """Sum over the rows of a chunk, one warpgroup after the other."""
    if turn > 0 or group > 0:
        plgpu.barrier_wait(smem.turn.at[1 - group])
    smem.out[GROUPS * turn + group] = jnp.sum(value, axis=0)
    if group == 0 or turn < 2 * config.rounds - 1:
        plgpu.barrier_arrive(smem.turn.at[group])


def attend(group: int, typical: Array, smem: Shared, config: Config) -> None:
    """Round 1: attention into shared memory, and sums of ``a s``."""
    for i in range(config.rounds):
        s = multiply(
            group,
            i * config.deep,
            config.deep,
            lambda slot, k: smem.right.at[slot],
            smem,
            config,
        )
        if i == 0:
            plgpu.barrier_wait(smem.vectors)
        p = s + spread(smem.columns[...], 1, config)
        p = jnp.exp(p - spread(jnp.max(p, axis=1), 0, config))
        p = p / spread(jnp.sum(p, axis=1), 0, config)
        region = spread(smem.rows[i, 0, pl.ds(group * CHUNK, CHUNK)], 0, config)
        a = (jnp.exp(config.temp1 * (p - 1)) - typical) * region
        a = a.astype(smem.attention.dtype)
        smem.attention[pl.ds(i * ROUND + group * CHUNK, CHUNK)] = a
        # What was rounded away is no part of the attention anywhere.
        part = (a.astype(jnp.float32) + typical * region) * s
        add_up(part, i, group, smem, config)


def bend(group: int, smem: Shared, config: Config) -> None:
    """Round 2: sums of ``a (G a)``, and those of the rows that G has more."""
    for i in range(config.rounds):
        bent = multiply(
            group,
            config.rounds * config.deep + i * config.square,
            config.square,
            lambda slot, k: smem.attention.at[pl.ds(k * CHUNK, CHUNK)],
            smem,
            config,
        )
        rows = pl.ds(i * ROUND + group * CHUNK, CHUNK)
        part = laid_out(smem.attention[rows]).astype(jnp.float32) * bent
        add_up(part, config.rounds + i, group, smem, config)
        if group == GROUPS - 1 and i == config.rounds - 1:
            # The turn was the last: the scratch is free.
            for j in (1, 2):
                own = smem.rows[i, j, pl.ds(group * CHUNK, CHUNK)]
                chosen = bent * spread(own, 0, config)
                smem.out[2 * config.chunks + j - 1] = jnp.sum(chosen, axis=0)


def compute(group: int, inputs: Inputs, out: Any, smem: Shared, config: Config) -> None:
    """One computing warpgroup."""
    image, report = place(config)
    attend(group, inputs.typical[report], smem, config)
    plgpu.commit_smem()
    plgpu.barrier_arrive(smem.attended)
    plgpu.barrier_wait(smem.attended)
    bend(group, smem, config)
    plgpu.commit_smem()
    pair = image * config.reports + report
    mine = [*range(group, 2 * config.chunks, GROUPS)]
    if group == GROUPS - 1:
        mine += [2 * config.chunks, 2 * config.chunks + 1]
    for row in mine:
        plgpu.copy_smem_to_gmem(smem.out.at[row], out.at[pair, row])
    plgpu.wait_smem_to_gmem(0)


def kernel(inputs: Inputs, out: Any, smem: Shared, *, config: Config) -> None:
    """All three warpgroups, each known to the trace."""
    warpgroup = lax.axis_index("warpgroup")
    moving, computing = REGISTERS

    for group in range(GROUPS):

        @pl.when(warpgroup == group)
        def _(group: int = group) -> None:
            plgpu.set_max_registers(computing, action="increase")
            compute(group, inputs, out, smem, config)

    @pl.when(warpgroup == GROUPS)
    def _() -> None:
        plgpu.set_max_registers(moving, action="decrease")
        move(inputs, smem, config)


def launch(inputs: Inputs, config: Config) -> Array:
    """Sums over regions for every pair, ``[m * n, sums, t]`` fp32."""
    pairs = config.images * config.reports
    shape = pairs, config.sums, config.words
    run = plgpu.kernel(
        functools.partial(kernel, config=config),
        out_type=compat.output(shape, jnp.float32, *inputs),
        scratch_types=(shared(config, inputs.regions.dtype),),
        grid=(pairs,),
        grid_names=("pair",),
        num_threads=GROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup
        ),
    )
    return run(inputs)
