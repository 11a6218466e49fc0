"""Sampling images and volumes at any points: the one resampling of all domains.

A film turned and tilted, a lesion moved into another brain, a frame carried along a
motion field: each composes its geometry into source coordinates and comes here once.
Coordinates are in voxels, one array per axis in array order, 0 at the centre of the
first voxel, as in ``scipy.ndimage.map_coordinates``; images have two or three spatial
axes (or any number) and may have channels behind them, which share the coordinates and
so the gather. Batches are ``vmap``. It stands with the networks because motion networks
differentiate through it, in the coordinates and in the image.
"""

import itertools
import math
import operator
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped, UInt8, UInt32


def warp(
    image: Shaped[Array, "..."],
    at: Sequence[Float[Array, "*out"]],
    *,
    order: Literal["linear", "nearest"] = "linear",
    outside: Literal["zero", "edge"] = "zero",
    window: Sequence[tuple[ArrayLike, ArrayLike]] | None = None,
) -> Shaped[Array, "..."]:
    """The image at given points.

    Args:
        image: one spatial axis per coordinate, then any channels.
        at: source coordinates in voxels, one array of the output's shape per spatial
            axis.
        order: ``linear`` (bilinear, trilinear), or the ``nearest`` voxel, as labels
            need it; halves go up.
        outside: voxels beyond the border are ``zero`` (SciPy's ``grid-constant``) or
            those of the ``edge`` (SciPy's ``nearest``).
        window: first voxel and end of what counts as the image, per axis; the whole of
            it if not given. May be traced.

    Returns:
        Output shape and channels: float32 for ``linear``, the image's dtype for
        ``nearest``.

    Raises:
        ValueError: for fewer axes than coordinates, or another order or border.
    """
    rank = len(at)
    if not 1 <= rank <= image.ndim:
        raise ValueError(
            f"at: got coordinates for {rank} axes of an image of shape {image.shape}"
        )
    if order not in ("linear", "nearest") or outside not in ("zero", "edge"):
        raise ValueError(
            f"order={order!r}, outside={outside!r}: expected linear or nearest, zero "
            "or edge"
        )
    extent, channels = image.shape[:rank], image.shape[rank:]
    limits = [(0.0, float(n)) for n in extent] if window is None else window
    flat = image.reshape(math.prod(extent), *channels)

    def spread(x: Array) -> Array:
        return x.reshape(x.shape + (1,) * len(channels))

    bytes_alone = image.dtype == jnp.uint8 and rank == 2 and not channels
    packs = bytes_alone and order == "linear" and outside == "zero"
    quads = _quads(image, at) if packs else None
    parts = []
    # The last axis varies slowest: a film's columns before its rows.
    corners = itertools.product(*(_neighbours(x, order) for x in reversed(at)))
    for number, corner in enumerate(corners):
        places, shares = zip(*corner[::-1], strict=True)
        bounds = list(zip(places, limits, strict=True))
        inside = reduce(operator.and_, [(p >= a) & (p < b) for p, (a, b) in bounds])
        if outside == "edge":
            inside = jnp.ones_like(inside)
            places = [jnp.clip(p, a, jnp.asarray(b) - 1.0) for p, (a, b) in bounds]
        if quads is not None:
            value = (quads >> jnp.uint32(8 * number)) & jnp.uint32(255)
        else:
            index = jnp.zeros((), jnp.int32)
            for place, n in zip(places, extent, strict=True):
                index = index * n + jnp.clip(place, 0.0, n - 1.0).astype(jnp.int32)
            # Inside already; without the mode what is outside is looked for again.
            value = jnp.take(flat, index, axis=0, mode="clip")
        if order == "nearest":
            return jnp.where(spread(inside), value, jnp.zeros((), value.dtype))
        weight = jnp.where(inside, reduce(operator.mul, shares), 0.0)
        parts.append(spread(weight) * value.astype(jnp.float32))
    return reduce(operator.add, parts)


def _quads(
    film: UInt8[Array, "h w"], at: Sequence[Float[Array, "*out"]]
) -> UInt32[Array, "*out"]:
    """The four bytes around each point in one word, so that one gather fetches them.

    From the lowest byte: the pixel above and left of the point, the one below that, the
    one to the right, the one below that. Beyond the border they are 0.
    """
    h, w = film.shape
    wide = jnp.pad(film, 1).astype(jnp.uint32)
    ends = (slice(None, -1), slice(1, None))
    parts = [wide[rows, columns] for columns in ends for rows in ends]
    shifted = [part << jnp.uint32(8 * k) for k, part in enumerate(parts)]
    words = reduce(operator.or_, shifted).reshape(-1)
    above, left = (
        jnp.clip(jnp.floor(x), -1.0, n - 1.0).astype(jnp.int32) + 1
        for x, n in zip(at, (h, w), strict=True)
    )
    return jnp.take(words, above * (w + 1) + left, axis=0, mode="clip")


def affine_points(
    matrix: Float[Array, "r r"],
    shape: tuple[int, ...],
    source: tuple[int, ...],
    *,
    shift: Float[Array, " r"] | None = None,
) -> tuple[Float[Array, "*out"], ...]:
    """Source coordinates of every output voxel under a linear map about the centres.

    Args:
        matrix: takes offsets from the output's centre to offsets from the source's, in
            voxels: the inverse of what happens to the picture.
        shape: of the output.
        source: of the source.
        shift: added to the source coordinates, in voxels.

    Returns:
        One array of the output's shape per axis, for :func:`warp`.
    """
    axes = [jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2.0 for n in shape]
    offsets = jnp.meshgrid(*axes, indexing="ij")
    points = []
    for i, n in enumerate(source):
        terms = [matrix[i, j] * offset for j, offset in enumerate(offsets)]
        place = reduce(operator.add, terms)
        centre = (n - 1) / 2.0 + (0.0 if shift is None else shift[i])
        points.append(place + centre)
    return tuple(points)


def plane_rotation(
    rank: int, i: int, j: int, angle: Float[Array, ""]
) -> Float[Array, "r r"]:
    """A rotation that takes axis i towards axis j, rad.

    Several are multiplied in ``precision="highest"``: an accelerator's quick product
    would move the far corners of a volume by a part of a voxel.
    """
    c, s = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.eye(rank).at[i, i].set(c).at[j, j].set(c)
    return matrix.at[i, j].set(-s).at[j, i].set(s)


def _neighbours(x: Array, order: str) -> list[tuple[Array, Array]]:
    """The voxels around a coordinate along one axis, and the share of each."""
    if order == "nearest":
        return [(jnp.floor(x + 0.5), jnp.ones_like(x))]
    below = jnp.floor(x)
    return [(below, 1.0 - (x - below)), (below + 1.0, x - below)]
