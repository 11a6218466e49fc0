"""The engine of a TPU: tiles of S live in VMEM, sums and products leave it.

Forward, one kernel: the grid walks tiles of S, columns innermost. The sums of a block
of rows stay on the chip while its columns pass (log-sum-exp with a running maximum);
the sums of the columns are written per block of rows, one number each, and merged by
XLA in a fixed order. Each tile of S serves both directions, 2 N^2 d FLOPs.

Backward, two kernels, since either gradient can stay on the chip only while the *other*
side passes: one walks columns innermost and adds G y to the gradient of its rows, one
walks rows innermost and adds G^T x to that of its columns. Each recomputes S and G from
the kept energies, 8 N^2 d FLOPs together; nothing of size N x N leaves the chip.

bf16 features are multiplied in one pass of the matrix unit with fp32 accumulation, fp32
ones in six (``Precision.HIGHEST``). G is rounded to the dtype of the features before
its product, as everywhere.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from medjax_kernels import compat
from medjax_kernels.contrastive import fused, tile
from medjax_kernels.contrastive.fused import LN2, Operands, Slopes
from medjax_kernels.contrastive.targets import DenseRule, Rule
from medjax_kernels.contrastive.tile import Block, Energy, Gradient, Sums
from medjax_kernels.precision import product

LANES = 128
"""Widths and tile sides are multiples of a vector register's lanes."""

SIDES = (512, 256, 128)
"""Sides that a tile may have, the best first: d FLOPs per byte grow with it."""

VMEM = 12 << 20
"""Bytes that one step may take: what Mosaic grants without asking."""

SEMANTICS = ("parallel", "arbitrary")
"""Of the outer axis, whose blocks are independent, and of the inner one."""

TILES = 6
"""fp32 tiles alive at once: logits, exponentials, correlations, targets, G."""


def vmem_bytes(side: int, block: Block, rule: Rule | None) -> int:
    """Bytes of one step of the hungrier (backward) pass, blocks double-buffered."""
    width = -(-block.x.shape[1] // LANES) * LANES
    features = 2 * side * width
    if "unit" in block.rows:
        features += 2 * side * -(-block.rows["unit"].shape[1] // LANES) * LANES
    tiles = TILES + 2 * isinstance(rule, DenseRule)
    # Vectors [side, 1] take a whole register row per entry: five of them.
    vectors = 5 * side * LANES * 4
    out = side * width * 4
    return (
        2 * (features * block.x.dtype.itemsize + out + vectors)
        + tiles * side * side * 4
    )


def choose_side(block: Block, rule: Rule | None) -> int | None:
    """The largest side that fits VMEM and the block; None if none does."""
    longest = max(block.x.shape[0], block.y.shape[0], SIDES[-1])
    for side in SIDES:
        if side <= longest and vmem_bytes(side, block, rule) <= VMEM:
            return side
    return None


def unsupported(block: Block, rule: Rule | None) -> str | None:
    """Why this engine cannot run the problem, or None if it can."""
    if compat.platform() != "tpu":
        return f"it runs on TPUs, not on {compat.platform()!r}"
    if block.x.dtype not in (jnp.bfloat16, jnp.float32):
        return f"it takes bfloat16 or float32 features, not {block.x.dtype}"
    if (reason := fused.unsupported_target(rule, block)) is not None:
        return reason
    if choose_side(block, rule) is None:
        return f"features of width {block.x.shape[1]} do not fit into VMEM"
    return None


class Walk(NamedTuple):
    """Over which tiles a kernel walks: the outer axis keeps, the inner one passes."""

    side: int
    rows: int
    columns: int
    rows_outside: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles along the outer and the inner axis."""
        rows, columns = self.rows // self.side, self.columns // self.side
        return (rows, columns) if self.rows_outside else (columns, rows)

    def spec(self, shape: tuple[int, ...], where: str) -> pl.BlockSpec:
        """A block that follows ``where``: letters r, c and 0, one an axis."""

        def index(outer: Any, inner: Any) -> tuple[Any, ...]:
            row, column = (outer, inner) if self.rows_outside else (inner, outer)
            place = {"r": row, "c": column, "0": 0}
            return tuple(place[letter] for letter in where)

        return pl.BlockSpec(shape, index)

    def operands(self, given: Operands) -> tuple[Operands, Operands]:
        """The operands as matrices, and their blocks."""
        side = self.side

        def of_rows(a: Array | None) -> Any:
            return None if a is None else self.spec((side, a.shape[-1]), "r0")

        def of_columns(a: Array | None) -> Any:
            return None if a is None else self.spec((side, a.shape[-1]), "c0")

        flat = upright(given, "row_addend", "row_key")
        flat = flat._replace(
            column_addend=given.column_addend[None],
            column_key=None if given.column_key is None else given.column_key[None],
        )
        along = self.spec((1, side), "0c")
        keyed = flat.row_key is not None
        return flat, Operands(
            of_rows(flat.x),
            of_columns(flat.y),
            pl.BlockSpec(memory_space=pltpu.SMEM),
            of_rows(flat.row_addend),
            along,
            of_rows(flat.row_key),
            along if keyed else None,
            of_rows(flat.row_unit),
            of_columns(flat.column_unit),
            None if flat.values is None else self.spec((side, side), "rc"),
        )


def upright(given: Any, *names: str) -> Any:
    """Vectors of rows as matrices of one column."""
    fields = {name: getattr(given, name) for name in names}
    return given._replace(
        **{name: None if v is None else v[:, None] for name, v in fields.items()}
    )


def logits(refs: Operands) -> Array:
    """The tile of S, in base two."""
    dots = product("id,jd->ij", refs.x[...], refs.y[...])
    return dots * refs.scale[0] + refs.row_addend[...] + refs.column_addend[...]


def targets(refs: Operands, rule: Rule | None, t: Array) -> Array | None:
    """The tile of Y; None for the identity."""
    if rule is None:
        return None
    if refs.values is not None:
        return fused.taking_part(t, refs.values[...])
    correlation = None
    if refs.row_unit is not None:
        unit = refs.row_unit[...], refs.column_unit[...]
        correlation = product("id,jd->ij", *unit)
    same = refs.row_key[...] == refs.column_key[...]
    return fused.target_tile(rule, t, same, correlation)


class Outputs(NamedTuple):
    """Row sums [R, 1] and column sums per block of rows [blocks, 1, M]."""

    row_energy: Any
    column_energy: Any
    row_mass: Any = None
    column_mass: Any = None
    row_aligned: Any = None
    column_aligned: Any = None


def forward_kernel(
    refs: Operands,
    out: Outputs,
    largest: Any,
    total: Any,
    *,
    rule: Rule | None,
    energy: Energy,
    last: int,
) -> None:
    """One tile: its columns' sums are complete for these rows, its rows' are not."""
    step = pl.program_id(1)
    t = logits(refs)

    @pl.when(step == 0)
    def _() -> None:
        largest[...] = jnp.full_like(largest, tile.EMPTY)
        total[...] = jnp.zeros_like(total)
        for ref in (out.row_mass, out.row_aligned):
            if ref is not None:
                ref[...] = jnp.zeros_like(ref)

    if energy == "softmax":
        peak = jnp.max(t, axis=0, keepdims=True)
        column = jnp.sum(jnp.exp2(t - peak), axis=0, keepdims=True)
        out.column_energy[0] = LN2 * peak + jnp.log(column)
        peak = jnp.maximum(largest[...], jnp.max(t, axis=1, keepdims=True))
        here = jnp.sum(jnp.exp2(t - peak), axis=1, keepdims=True)
        total[...] = total[...] * jnp.exp2(largest[...] - peak) + here
        largest[...] = peak
    else:
        softplus = LN2 * fused.softplus2(t)
        out.column_energy[0] = jnp.sum(softplus, axis=0, keepdims=True)
        total[...] += jnp.sum(softplus, axis=1, keepdims=True)

    @pl.when(step == last)
    def _() -> None:
        if energy == "softmax":
            out.row_energy[...] = LN2 * largest[...] + jnp.log(total[...])
        else:
            out.row_energy[...] = total[...]

    y = targets(refs, rule, t)
    if y is not None:
        aligned = LN2 * (y * t)
        out.column_mass[0] = jnp.sum(y, axis=0, keepdims=True)
        out.column_aligned[0] = jnp.sum(aligned, axis=0, keepdims=True)
        out.row_mass[...] += jnp.sum(y, axis=1, keepdims=True)
        out.row_aligned[...] += jnp.sum(aligned, axis=1, keepdims=True)


def forward(
    block: Block, rule: Rule | None, energy: Energy, chunk: int | None
) -> tuple[Sums, tuple[jax.Array, ...]]:
    """Sums of the block; nothing is kept."""
    side = choose_side(block, rule)
    assert side is not None
    given = fused.operands(block, rule, side, side, LANES)
    walk = Walk(side, given.x.shape[0], given.y.shape[0], rows_outside=True)
    flat, specs = walk.operands(given)
    blocks, passing = walk.grid
    per_row = walk.spec((side, 1), "r0"), (walk.rows, 1)
    per_column = walk.spec((1, 1, side), "r0c"), (blocks, 1, walk.columns)
    count = 2 if rule is None else 6
    kinds = [per_row, per_column] * (count // 2)
    varying = jax.tree.leaves(flat)
    (out,) = pl.pallas_call(
        functools.partial(forward_kernel, rule=rule, energy=energy, last=passing - 1),
        grid=walk.grid,
        in_specs=(specs,),
        out_specs=(Outputs(*(spec for spec, _ in kinds)),),
        out_shape=(
            Outputs(
                *(compat.output(shape, jnp.float32, *varying) for _, shape in kinds)
            ),
        ),
        scratch_shapes=[pltpu.VMEM((side, 1), jnp.float32)] * 2,
        compiler_params=pltpu.CompilerParams(dimension_semantics=SEMANTICS),
    )(flat)
    n, m = block.x.shape[0], block.y.shape[0]
    row_energy = out.row_energy[:n, 0]
    column_energy = fused.merge(energy, out.column_energy[:, 0])[:m]
    if rule is None:
        rows, columns = jnp.zeros_like(row_energy), jnp.zeros_like(column_energy)
        return Sums(row_energy, column_energy, rows, columns, rows, columns), ()
    return Sums(
        row_energy,
        column_energy,
        out.row_mass[:n, 0],
        jnp.sum(out.column_mass[:, 0], axis=0)[:m],
        out.row_aligned[:n, 0],
        jnp.sum(out.column_aligned[:, 0], axis=0)[:m],
    ), ()


def backward_kernel(
    refs: Operands,
    row: Slopes,
    column: Slopes,
    gradient: Any,
    total: Any,
    *,
    rule: Rule | None,
    energy: Energy,
    of_rows: bool,
) -> None:
    """One tile's share of the gradient of its rows or of its columns."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        gradient[...] = jnp.zeros_like(gradient)
        total[...] = jnp.zeros_like(total)

    t = logits(refs)
    vectors = [Slopes(*(ref[...] for ref in side)) for side in (row, column)]
    g = fused.slope_tile(energy, t, targets(refs, rule, t), *vectors)
    narrow = g.astype(refs.x.dtype)
    if of_rows:
        gradient[...] += product("ij,jd->id", narrow, refs.y[...])
        total[...] += jnp.sum(g, axis=1, keepdims=True)
    else:
        gradient[...] += product("ij,id->jd", narrow, refs.x[...])


def half(
    walk: Walk,
    given: Operands,
    row: Slopes,
    column: Slopes,
    rule: Rule | None,
    energy: Energy,
) -> tuple[Array, Array]:
    """Gradient of the outer side's features, fp32, and (of rows) the sums of G."""
    flat, specs = walk.operands(given)
    side, of_rows = walk.side, walk.rows_outside
    row, column = upright(row, *Slopes._fields), Slopes(*(a[None] for a in column))
    width = flat.x.shape[1]
    length, place = (walk.rows, "r0") if of_rows else (walk.columns, "c0")
    varying = jax.tree.leaves((flat, row, column))
    return pl.pallas_call(
        functools.partial(backward_kernel, rule=rule, energy=energy, of_rows=of_rows),
        grid=walk.grid,
        in_specs=(
            specs,
            Slopes(*[walk.spec((side, 1), "r0")] * 3),
            Slopes(*[walk.spec((1, side), "0c")] * 3),
        ),
        out_specs=(walk.spec((side, width), place), walk.spec((side, 1), place)),
        out_shape=(
            compat.output((length, width), jnp.float32, *varying),
            compat.output((length, 1), jnp.float32, *varying),
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=SEMANTICS),
    )(flat, row, column)


def backward(
    block: Block,
    rule: Rule | None,
    energy: Energy,
    chunk: int | None,
    residual: tuple[jax.Array, ...],
    sums: Sums,
    cotangent: Sums,
    columns: bool = True,
) -> Gradient:
    """Gradient of the block from its energies."""
    side = choose_side(block, rule)
    assert side is not None
    given = fused.operands(block, rule, side, side, LANES)
    row, column = fused.slopes(block, energy, sums, cotangent, side, side)
    sizes = given.x.shape[0], given.y.shape[0]
    x, total = half(Walk(side, *sizes, True), given, row, column, rule, energy)
    (n, d), m = block.x.shape, block.y.shape[0]
    y = None
    if columns:
        y, _ = half(Walk(side, *sizes, False), given, row, column, rule, energy)
        y = y[:m, :d]
    return tile.scaled(x[:n, :d], y, jnp.sum(total), block)
