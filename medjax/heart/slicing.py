"""Cutting a moving mesh by image planes: exact coverage of pixels, differentiable.

The coverage of a pixel is the share of its area that is inside the cross-section. A
plane cuts a triangle in one segment; the cross-section is what these segments surround.
By Green's theorem a pixel's coverage is a sum over segments, and each term is a closed
form of the segment's ends: piecewise smooth in the vertices, so that its derivative is
exact, without a softness that has to be chosen. That sees surfaces, not vertices, and
asks nothing of their density.

A segment changes the sum only in its own pixels and, in full, in all to the right of
them. So only the differences along the row are computed, in a small window around every
segment, added up in the image and summed along the row.

Shapes are static. A segment that spans more than ``reach`` pixels, as those of a fan
over a hole, is taken as several; there is room for ``size`` of them. Both are measured
and returned (:class:`Limits`); a plane beyond them is wrong, and :func:`check` says so
on the host.

Holes are closed first, by the fans of the topology. Of surfaces whose faces look
outwards the coverage is 0 to 1; turned inside out it is negative.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medjax.heart.meshes import Topology
from medjax.heart.planes import normals, to_plane

NODES = (-(0.15**0.5), 0.0, 0.15**0.5)
"""Of three planes for a thick slice (Gauss and Legendre), in thicknesses."""
WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


class Segments(NamedTuple):
    """Where a plane cuts the triangles.

    Attributes:
        start: row and column of the pixel's centre, in pixels.
        end: of each segment, so that the inside is always on the same hand.
        face: the triangle, counted as ``closed_corners`` does.
        present: where there is a segment.
        count: triangles that are cut; more than there is room for were left out.
    """

    start: Float[Array, "s 2"]
    end: Float[Array, "s 2"]
    face: Int[Array, " s"]
    present: Bool[Array, " s"]
    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]


class Limits(NamedTuple):
    """What was needed at most of what is static; int32 arrays of any shape.

    Attributes:
        segments: of one plane.
        span: rows or columns of pixels that one segment lies in.
    """

    segments: Int[Array, "*p"]
    span: Int[Array, "*p"]


def cut(
    vertices: Float[Array, "n 3"],
    topology: Topology,
    plane: Float[Array, "3 3"],
    *,
    size: int = 512,
) -> Segments:
    """The segments in which a plane cuts a mesh, its holes closed.

    A vertex on the plane counts as above it for all its triangles, so curves stay
    closed.

    Args:
        vertices: mm.
        topology: with the triangles.
        plane: origin and steps, mm.
        size: room for segments.
    """
    corners = topology.closed_corners.index
    closed = jnp.asarray(topology.closed(vertices))
    row, column, away = jnp.moveaxis(to_plane(closed, plane), -1, 0)
    above = jnp.take(away >= 0.0, corners, axis=0)
    mixed = jnp.any(above, axis=-1) & ~jnp.all(above, axis=-1)
    # The k-th triangle that is cut is where the count reaches k: no scatter, and past
    # the last one the number of triangles, which is no triangle.
    many = jnp.cumsum(mixed)
    face = jnp.searchsorted(many, jnp.arange(1, size + 1, dtype=many.dtype))
    present = jnp.arange(size) < many[-1]
    at = jnp.take(jnp.asarray(corners), face, axis=0, mode="clip")
    pixels = jnp.stack([row, column], axis=-1)[at]
    depth = away[at]
    side = depth >= 0.0
    start, end = jnp.zeros((size, 2)), jnp.zeros((size, 2))
    for i in range(3):
        j = (i + 1) % 3
        crossed = (side[:, i] != side[:, j]) & present
        rise = jnp.where(crossed, depth[:, i] - depth[:, j], 1.0)
        t = jnp.where(crossed, depth[:, i] / rise, 0.0)[:, None]
        point = pixels[:, i] + t * (pixels[:, j] - pixels[:, i])
        start = jnp.where((crossed & side[:, i])[:, None], point, start)
        end = jnp.where((crossed & side[:, j])[:, None], point, end)
    return Segments(start, end, face.astype(jnp.int32), present, many[-1])


def split(segments: Segments, *, size: int, reach: int = 4) -> Segments:
    """Every segment as so many that none spans more than ``reach`` pixels.

    Args:
        segments: of any length.
        size: room for the pieces.
        reach: rows or columns of pixels that a piece may lie in, 2 at least.
    """
    extent = jnp.max(jnp.abs(segments.end - segments.start), axis=-1)
    # Rounding must not make a piece longer than its window.
    parts = jnp.ceil((jax.lax.stop_gradient(extent) + 1e-3) / (reach - 1))
    parts = jnp.where(segments.present, parts, 0.0).astype(jnp.int32)
    last = jnp.cumsum(parts)
    piece = jnp.arange(size, dtype=last.dtype)
    whole = jnp.searchsorted(last, piece, side="right")
    whole = jnp.minimum(whole, len(parts) - 1)
    present = piece < last[-1]
    of = jnp.maximum(parts[whole], 1)
    place = jnp.where(present, piece - (last[whole] - parts[whole]), 0)
    a, b = segments.start[whole], segments.end[whole]

    def at(number: Array) -> Array:
        # Ends of neighbours are the same numbers: no gap is opened.
        share = (number / of).astype(a.dtype)[:, None]
        return jnp.where(present[:, None], (1.0 - share) * a + share * b, 0.0)

    needed = jnp.maximum(segments.count, last[-1])
    return Segments(at(place), at(place + 1), segments.face[whole], present, needed)


def cover(
    segments: Segments,
    channel: Int[Array, " s"],
    shape: tuple[int, int, int],
    *,
    reach: int = 4,
) -> tuple[Float[Array, "k h w"], Int[Array, ""]]:
    """The coverage of pixels by what segments surround.

    Args:
        segments: of closed curves.
        channel: which of the ``k`` images each belongs to.
        shape: images, rows and columns.
        reach: rows or columns of pixels that a segment may lie in.

    Returns:
        Coverage, and how many rows or columns a segment does lie in at most.
    """
    k, h, w = shape
    # Pixel i is from i to i + 1 from here on.
    a, b = segments.start + 0.5, segments.end + 0.5
    first = jnp.floor(jnp.minimum(a, b))
    first = jax.lax.stop_gradient(first)
    span = jnp.floor(jnp.maximum(a, b)) - first + 1.0
    a, b = a - first, b - first
    rise = (b - a)[:, 0]
    level = jnp.abs(rise) < 1e-12
    rise = jnp.where(level, 1.0, rise)[:, None]
    rows = jnp.arange(reach, dtype=a.dtype)[None]

    def within_row(y: Array, otherwise: float) -> tuple[Array, Array]:
        y = y[:, None]
        # Half open, so that an end between two rows moves in one of them, not in both
        # or, at the window's rim, by half.
        clipped = jnp.where(y < rows + 1.0, jnp.where(y < rows, rows, y), rows + 1.0)
        share = (clipped - a[:, :1]) / rise
        # A level segment has no height; its derivative is that of its whole length.
        share = jnp.where(level[:, None], otherwise, share)
        return clipped, a[:, 1:] + share * (b - a)[:, 1:]

    (low, left), (high, right) = within_row(a[:, 0], 0.0), within_row(b[:, 0], 1.0)
    height = (high - low) * segments.present[:, None].astype(a.dtype)
    column = jnp.arange(1, reach + 2, dtype=a.dtype)[None, None]
    full = height[..., None] * _mean_share(
        column - left[..., None], column - right[..., None]
    )
    step = jnp.diff(full, axis=-1, prepend=jnp.zeros_like(full[..., :1]))
    y = first[:, :1].astype(jnp.int32) + jnp.arange(reach)[None]
    x = first[:, 1:].astype(jnp.int32) + jnp.arange(reach + 1)[None]
    y = jnp.where((y >= 0) & (y < h), y, h)
    # What lies left of the image fills its rows from the first column on.
    place = (channel[:, None] * (h + 1) + y)[..., None] * (w + 1)
    place = place + jnp.clip(x, 0, w)[:, None]
    empty = jnp.zeros(k * (h + 1) * (w + 1), a.dtype)
    image = empty.at[place.reshape(-1)].add(step.reshape(-1))
    image = jnp.cumsum(image.reshape(k, h + 1, w + 1), axis=-1)[:, :h, :w]
    spanned = jnp.where(segments.present[:, None], span, 0.0)
    return image, jnp.max(spanned).astype(jnp.int32)


def _mean_share(t: Array, s: Array) -> Array:
    """The mean of clip(x, 0, 1) for x between t and s."""

    def integral(x: Array) -> Array:
        inside = jnp.clip(x, 0.0, 1.0)
        return 0.5 * inside * inside + jnp.maximum(x - 1.0, 0.0)

    near = jnp.abs(t - s) < 1e-4
    width = jnp.where(near, 1.0, t - s)
    mean = (integral(t) - integral(s)) / width
    return jnp.where(near, jnp.clip(0.5 * (t + s), 0.0, 1.0), mean)


def coverage(
    vertices: Float[Array, "n 3"],
    topology: Topology,
    planes: Float[Array, "p 3 3"],
    shape: tuple[int, int],
    *,
    size: int = 512,
    reach: int = 4,
    thickness: float = 0.0,
    at_once: int | None = None,
) -> tuple[Float[Array, "p k h w"], Limits]:
    """How much of every pixel is inside every surface, on every plane.

    Args:
        vertices: mm.
        topology: with ``k`` surfaces, faces outwards; holes are closed.
        planes: origins and steps, mm.
        shape: rows and columns of the images.
        size: room for segments of a plane; a long one counts as several.
        reach: rows or columns of pixels that a segment may lie in.
        thickness: of slices, mm; the mean of three planes within, if not 0.
        at_once: planes whose work is held in memory together; all if not given.

    Returns:
        Coverage, and what the planes needed of ``size`` and ``reach``.
    """
    codes = jnp.asarray(topology.face_surface)
    images = (len(topology.names), *shape)

    def one(plane: Array) -> tuple[Array, Limits]:
        whole = cut(vertices, topology, plane, size=size)
        segments = split(whole, size=size, reach=reach)
        channel = jnp.take(codes, segments.face, mode="clip")
        image, span = cover(segments, channel, images, reach=reach)
        return image, Limits(segments.count.astype(jnp.int32), span)

    def thick(plane: Array) -> tuple[Array, Limits]:
        if not thickness:
            return one(plane)
        offsets = thickness * jnp.asarray(NODES)[:, None] * normals(plane)[None]
        moved = jnp.concatenate(
            [plane[None, :1] + offsets[:, None], jnp.stack([plane[1:]] * 3)], axis=1
        )
        parts, limits = jax.vmap(one)(moved)
        weights = jnp.asarray(WEIGHTS).reshape(3, 1, 1, 1)
        worst = Limits(*(jnp.max(needed) for needed in limits))
        return jnp.sum(weights * parts, axis=0), worst

    if at_once is None:
        return jax.vmap(thick)(planes)
    return jax.lax.map(thick, planes, batch_size=at_once)


def regions(
    coverage: Float[Array, "*p k h w"], topology: Topology
) -> Float[Array, "*p h w c"]:
    """Shares of what is between surfaces: LV cavity, its muscle, RV cavity.

    Args:
        coverage: of the surfaces ``endo``, ``epi`` and, where there is one, ``rv``.
        topology: with their names.

    Returns:
        As many channels as there are surfaces, in the order of the label codes 1 to 3.
    """
    inner = coverage[..., topology.code("endo"), :, :]
    parts = [inner, coverage[..., topology.code("epi"), :, :] - inner]
    if "rv" in topology.names:
        parts.append(coverage[..., topology.code("rv"), :, :])
    return jnp.stack(parts, axis=-1)


def overflow(
    limits: Limits, mask: Float[Array, "*p"], *, size: int, reach: int
) -> Float[Array, ""]:
    """The share of planes that were cut short: a metric to be zero.

    Args:
        limits: what was needed.
        mask: 1 for planes that count.
        size: room for segments.
        reach: pixels that a segment may span.
    """
    short = (limits.segments > size) | (limits.span > reach)
    return jnp.sum(mask * short.astype(mask.dtype)) / jnp.maximum(jnp.sum(mask), 1.0)


def check(limits: Limits, *, size: int, reach: int) -> None:
    """Refuses coverage that was cut short; on the host.

    Args:
        limits: what was needed.
        size: room for segments.
        reach: pixels that a segment may span.

    Raises:
        ValueError: naming what was needed and what there was.
    """
    segments, span = (int(np.max(needed, initial=0)) for needed in limits)
    if segments > size or span > reach:
        raise ValueError(
            f"slicing: a plane has {segments} segments and one spans {span} pixels, "
            f"expected size={size} and reach={reach} at most"
        )
