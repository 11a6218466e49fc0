"""The two XLA engines: all pairs at once, or a tile of pairs at a time.

``whole`` keeps the attention of every pair for its backward pass. ``chunked`` walks
over tiles of images and reports and recomputes each in the backward pass, so that both
passes hold the attention of one tile alone.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from medjax_kernels import compat
from medjax_kernels.precision import accumulator, product
from medjax_kernels.varying import vary_like
from medjax_kernels.word_region import tile
from medjax_kernels.word_region.tile import Operands, Options, Pair, Slopes

TILE_BYTES = 64 * 2**20
"""Size of one fp32 tensor of a default tile; about six live at once."""

CPU_TILE_BYTES = 8 * 2**20
"""The same on a CPU. Measured at "sentence": 4 images and 48 reports 1.40 s, as fast as
all pairs at once; 1 image and 48 or 16 reports 1.75 s."""

Tile = tuple[int, int]
"""Images and reports of a tile."""


class Engine(NamedTuple):
    """``forward(operands, options, tile)`` gives similarities and what it keeps;
    ``backward(operands, options, tile, kept, cotangent)`` the gradient of operands.
    """

    forward: Callable[..., tuple[Array, Pair | None]]
    backward: Callable[..., Operands]


def _of_words(x: Shaped[Array, "n t"]) -> Shaped[Array, "1 n t 1"]:
    return x[None, :, :, None]


def _evaluate(o: Operands, options: Options) -> Pair:
    return tile.evaluate(
        product("ntd,mrd->mntr", o.words, o.regions),
        _of_words(o.valid),
        _of_words(o.norms),
        o.gram,
        o.tilt[:, None, None, :],
        o.level[:, None, None, None],
        options,
        o.regions.shape[1],
        o.words.dtype,
    )


def _pull_back(
    pair: Pair, o: Operands, options: Options, cotangent: Float[Array, "m n"]
) -> Operands:
    """The gradient of a tile's operands, in the dtype of sums."""
    slopes: Slopes = tile.differentiate(
        pair,
        _of_words(o.valid),
        _of_words(o.norms),
        options,
        cotangent[:, :, None, None],
    )
    dtype = o.words.dtype
    by_scores = tile.narrow(slopes.scores, dtype)
    words, regions = (a.astype(by_scores.dtype) for a in (o.words, o.regions))
    weighted = slopes.square * pair.deviation
    narrowed = (tile.narrow(a, dtype) for a in (pair.deviation, weighted))
    return Operands(
        words=product("mntr,mrd->ntd", by_scores, regions),
        norms=jnp.sum(slopes.norms[..., 0], axis=0),
        valid=None,
        regions=product("mntr,ntd->mrd", by_scores, words),
        gram=product("mntr,mnts->mrs", *narrowed),
        tilt=2 * jnp.sum(weighted, axis=(1, 2)),
        level=jnp.sum(slopes.square, axis=(1, 2, 3)),
    )


def whole_forward(
    o: Operands, options: Options, tiles: Tile | None
) -> tuple[Float[Array, "m n"], Pair]:
    """All similarities, and the attention of every pair."""
    pair = _evaluate(o, options)
    similarity = tile.aggregate(pair.cosine, _of_words(o.valid), options)
    return similarity[..., 0, 0], pair


def whole_backward(
    o: Operands,
    options: Options,
    tiles: Tile | None,
    kept: Pair,
    cotangent: Float[Array, "m n"],
) -> Operands:
    """The gradient from the kept attention."""
    return _pull_back(kept, o, options, cotangent)


def _even(length: int, most: int) -> int:
    """A size up to ``most`` that leaves the last of its chunks the least to fill up."""
    return -(-length // -(-length // most))


def default_tile(o: Operands) -> Tile:
    """Reports first: words of many reports make one matrix product per image."""
    (m, r, _), (n, t, _) = o.regions.shape, o.words.shape
    limit = CPU_TILE_BYTES if compat.platform() == "cpu" else TILE_BYTES
    pairs = max(1, limit // (4 * r * t))
    reports = _even(n, min(n, pairs))
    return _even(m, min(m, max(1, pairs // reports))), reports


def _split(a: Shaped[Array, "n *s"], size: int) -> Shaped[Array, "k c *s"]:
    """Chunks of the leading axis, the last filled up with zeros."""
    padded = jnp.pad(a, [(0, -len(a) % size)] + [(0, 0)] * (a.ndim - 1))
    return padded.reshape(-1, size, *a.shape[1:])


def _join(a: Shaped[Array, "k c *s"], length: int) -> Shaped[Array, "n *s"]:
    return a.reshape(-1, *a.shape[2:])[:length]


def _chunks(
    o: Operands, tiles: Tile | None
) -> tuple[tuple[Array, ...], tuple[Array, ...], Tile]:
    """Fields of the images and of the reports, chunk by chunk."""
    images, reports = tiles or default_tile(o)
    of_images = tuple(_split(a, images) for a in (o.regions, o.gram, o.tilt, o.level))
    of_reports = tuple(_split(a, reports) for a in (o.words, o.norms, o.valid))
    return of_images, of_reports, (images, reports)


def chunked_forward(
    o: Operands, options: Options, tiles: Tile | None
) -> tuple[Float[Array, "m n"], None]:
    """All similarities, one tile after another; nothing is kept."""
    of_images, of_reports, _ = _chunks(o, tiles)

    def images(image: tuple[Array, ...]) -> Array:
        def reports(report: tuple[Array, ...]) -> Array:
            part = Operands(*report, *image)
            return whole_forward(part, options, None)[0]

        return jax.lax.map(reports, of_reports)

    similarity = jax.lax.map(images, of_images)  # [image chunks, report chunks, m, n]
    similarity = similarity.swapaxes(1, 2)
    rows = math.prod(similarity.shape[:2])
    similarity = similarity.reshape(rows, -1)
    return similarity[: len(o.regions), : len(o.words)], None


def chunked_backward(
    o: Operands,
    options: Options,
    tiles: Tile | None,
    kept: None,
    cotangent: Float[Array, "m n"],
) -> Operands:
    """The gradient, recomputing one tile after another."""
    of_images, of_reports, (images, reports) = _chunks(o, tiles)
    dtype = accumulator(o.words.dtype)
    columns = _split(cotangent.T, reports).swapaxes(1, 2)  # [report chunks, m, n]
    g = jax.vmap(lambda a: _split(a, images), out_axes=1)(columns)

    def zeros(parts: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(jnp.zeros(a.shape, dtype) for a in parts)

    def by_image(total: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        image, cotangents = inputs

        def by_report(sums: tuple, inputs: tuple) -> tuple[tuple, tuple]:
            report, cotangent = inputs
            part = Operands(*report, *image)
            d = _pull_back(_evaluate(part, options), part, options, cotangent)
            of_image = d.regions, d.gram, d.tilt, d.level
            return tuple(map(jnp.add, sums, of_image)), (d.words, d.norms)

        start = vary_like(zeros(image), o)
        of_image, here = jax.lax.scan(by_report, start, (of_reports, cotangents))
        return tuple(map(jnp.add, total, here)), of_image

    start = vary_like(zeros(of_reports[:2]), o)
    of_reports, of_images = jax.lax.scan(by_image, start, (of_images, g))
    words, norms = (_join(a, len(o.words)) for a in of_reports)
    fields = (_join(a, len(o.regions)) for a in of_images)
    return Operands(words, norms, None, *fields)


whole = Engine(whole_forward, whole_backward)
chunked = Engine(chunked_forward, chunked_backward)
