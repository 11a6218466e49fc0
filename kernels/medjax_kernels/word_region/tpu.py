"""The engine of a TPU: the attention of one pair lives in VMEM and dies there.

Forward, one kernel: the grid walks images, reports innermost. Regions and their inner
products stay on the chip while the reports pass; a step makes the tile of scores of one
pair, both softmaxes, cosines and their sum, and leaves one number.

Backward, two kernels, since either side's gradient can stay on the chip only while the
other side passes: one walks reports innermost and adds up the gradients of an image,
one walks images innermost and adds up those of a report. Each recomputes the tile.

bf16 features are multiplied in one pass of the matrix unit with fp32 accumulation, fp32
ones in six (``Precision.HIGHEST``). The mathematics is :mod:`.tile`'s.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from medjax_kernels import compat
from medjax_kernels.precision import product
from medjax_kernels.word_region import tile
from medjax_kernels.word_region.tile import Operands, Options, Pair

LANES = 128
SUBLANES = {jnp.dtype(jnp.float32): 8, jnp.dtype(jnp.bfloat16): 16}
VMEM = 14 << 20
"""Bytes that one step may take, of the 16 MB that Mosaic grants without asking."""
TILES = 8
"""fp32 tiles [t, r] alive at once in the backward pass."""


def _padded(o: Operands) -> tuple[int, int, int]:
    """Words, regions and width in whole registers."""
    (_, t, d), r = o.words.shape, o.regions.shape[1]
    rows = SUBLANES[o.words.dtype]
    return -(-t // rows) * rows, -(-r // LANES) * LANES, -(-d // LANES) * LANES


def vmem_bytes(o: Operands) -> int:
    """Bytes of one step of the hungriest pass, blocks double-buffered."""
    t, r, d = _padded(o)
    inputs = (t + r) * d * o.words.dtype.itemsize + (r * r + 2 * t * LANES) * 4
    # The image's pass also writes the gradient of its regions and their products.
    outputs = (max(r, t) * d + r * r) * 4
    return 2 * (inputs + outputs) + TILES * t * r * 4


def unsupported(o: Operands, options: Options) -> str | None:
    """Why this engine cannot run the problem, or None if it can."""
    if compat.platform() != "tpu":
        return f"it runs on TPUs, not on {compat.platform()!r}"
    if o.words.dtype not in SUBLANES:
        return f"it takes bfloat16 or float32 features, not {o.words.dtype}"
    if vmem_bytes(o) > VMEM:
        (_, t, d), r = o.words.shape, o.regions.shape[1]
        return f"{t} words, {r} regions and a width of {d} do not fit into VMEM"
    return None


def _pad(a: Array, *sizes: int) -> Array:
    """Zeros behind the last axes, up to these sizes."""
    widths = [(0, 0)] * (a.ndim - len(sizes))
    widths += [(0, s - n) for s, n in zip(sizes, a.shape[-len(sizes) :], strict=True)]
    return jnp.pad(a, widths)


def _lay_out(o: Operands) -> Operands:
    """Whole registers, every field of three axes; the mask in fp32."""
    t, r, d = _padded(o)
    return Operands(
        words=_pad(o.words, t, d),
        norms=_pad(o.norms, t)[..., None],
        valid=_pad(o.valid.astype(jnp.float32), t)[..., None],
        regions=_pad(o.regions, r, d),
        gram=_pad(o.gram, r, r),
        tilt=_pad(o.tilt, r)[:, None],
        level=o.level[:, None, None],
    )


def _specs(o: Operands, image: int) -> Operands:
    """Blocks of the laid-out operands; grid axis ``image`` walks the images."""

    def spec(a: Array, axis: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, *a.shape[1:]), lambda *step: (step[axis], 0, 0))

    report = 1 - image
    return Operands(
        spec(o.words, report),
        spec(o.norms, report),
        spec(o.valid, report),
        spec(o.regions, image),
        spec(o.gram, image),
        spec(o.tilt, image),
        spec(o.level, image),
    )


def _evaluate(o: Any, options: Options, count: int) -> tuple[Pair, Array]:
    """The pair of this step, and which of its words there are."""
    words = o.words[0]
    valid = o.valid[0] > 0
    scores = product("td,rd->tr", words, o.regions[0])
    sides = (o.norms[0], o.gram[0], o.tilt[0], o.level[0])
    return tile.evaluate(scores, valid, *sides, options, count, words.dtype), valid


def _column(row: Any, report: Any) -> Array:
    """Where a row of all reports holds this one."""
    return jax.lax.broadcasted_iota(jnp.int32, row.shape, 1) == report


def _forward_kernel(o: Operands, out: Any, *, options: Options, count: int) -> None:
    report = pl.program_id(1)
    pair, valid = _evaluate(o, options, count)
    row = out[0]
    here = tile.aggregate(pair.cosine, valid, options)
    out[0] = jnp.where(_column(row, report), here, row)


def forward(
    o: Operands, options: Options, tiles: None
) -> tuple[Float[Array, "m n"], None]:
    """All similarities; nothing is kept."""
    given = _lay_out(o)
    m, n = len(o.regions), len(o.words)
    columns = -(-n // LANES) * LANES
    out = pl.pallas_call(
        functools.partial(_forward_kernel, options=options, count=o.regions.shape[1]),
        grid=(m, n),
        in_specs=(_specs(given, image=0),),
        out_specs=pl.BlockSpec((1, 1, columns), lambda i, j: (i, 0, 0)),
        out_shape=compat.output((m, 1, columns), jnp.float32, *given),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary")
        ),
    )(given)
    return out[:, 0, :n], None


def _slopes(
    o: Operands, cotangent: Any, report: Any, options: Options, count: int
) -> tuple[Pair, tile.Slopes]:
    pair, valid = _evaluate(o, options, count)
    row = cotangent[0]
    g = jnp.sum(jnp.where(_column(row, report), row, 0), axis=1, keepdims=True)
    return pair, tile.differentiate(pair, valid, o.norms[0], options, g)


def _image_kernel(
    o: Operands, cotangent: Any, out: tuple, *, options: Options, count: int
) -> None:
    """One report's share of the gradients of an image."""
    report = pl.program_id(1)

    @pl.when(report == 0)
    def _() -> None:
        for ref in out:
            ref[...] = jnp.zeros_like(ref)

    pair, slopes = _slopes(o, cotangent, report, options, count)
    words = o.words[0]
    scores = tile.narrow(slopes.scores, words.dtype)
    weighted = slopes.square * pair.deviation
    narrowed = (tile.narrow(a, words.dtype) for a in (pair.deviation, weighted))
    regions, gram, tilt, level = out
    regions[0] += product("tr,td->rd", scores, words)
    gram[0] += product("tr,ts->rs", *narrowed)
    tilt[0] += 2 * jnp.sum(weighted, axis=0, keepdims=True)
    level[0] += jnp.sum(slopes.square, axis=0, keepdims=True)


def _report_kernel(
    o: Operands, cotangent: Any, out: tuple, *, options: Options, count: int
) -> None:
    """One image's share of the gradients of a report."""
    report = pl.program_id(0)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in out:
            ref[...] = jnp.zeros_like(ref)

    slopes = _slopes(o, cotangent, report, options, count)[1]
    words, norms = out
    scores = tile.narrow(slopes.scores, o.words.dtype)
    words[0] += product("tr,rd->td", scores, o.regions[0])
    norms[0] += slopes.norms


def backward(
    o: Operands,
    options: Options,
    tiles: None,
    kept: None,
    cotangent: Float[Array, "m n"],
) -> Operands:
    """The gradient of both sides, each by a kernel of its own."""
    given = _lay_out(o)
    (m, r, d), (n, t, _) = o.regions.shape, o.words.shape
    columns = -(-n // LANES) * LANES
    g = _pad(cotangent, columns)[:, None]

    def run(kernel: Any, image: int, shapes: list[tuple[int, ...]]) -> Any:
        blocks = [(1, *shape[1:]) for shape in shapes]
        return pl.pallas_call(
            functools.partial(kernel, options=options, count=r),
            grid=(m, n) if image == 0 else (n, m),
            in_specs=(
                _specs(given, image),
                pl.BlockSpec((1, 1, columns), lambda *step: (step[image], 0, 0)),
            ),
            out_specs=(tuple(pl.BlockSpec(b, lambda i, j: (i, 0, 0)) for b in blocks),),
            out_shape=(
                tuple(compat.output(s, jnp.float32, *given, g) for s in shapes),
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary")
            ),
        )(given, g)[0]

    of_image = [given.regions, given.gram, given.tilt, given.level]
    of_report = [given.words, given.norms]
    regions, gram, tilt, level = run(_image_kernel, 0, [a.shape for a in of_image])
    words, norms = run(_report_kernel, 1, [a.shape for a in of_report])
    return Operands(
        words[:, :t, :d],
        norms[:, :t, 0],
        None,
        regions[:, :r, :d],
        gram[:, :r, :r],
        tilt[:, 0, :r],
        level[:, 0, 0],
    )
