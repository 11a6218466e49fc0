"""Polygons of any number of corners as triangles, for every reader of meshes."""

import numpy as np
from jaxtyping import Int64, Integer


def fans(
    corners: Integer[np.ndarray, " c"], sizes: Integer[np.ndarray, " p"]
) -> Int64[np.ndarray, "f 3"]:
    """Triangles from the first corner of every polygon; fewer than three give none.

    Args:
        corners: of all polygons, one after the other.
        sizes: number of corners of every polygon.

    Raises:
        ValueError: if there are not as many corners as the sizes say.
    """
    corners = corners.astype(np.int64)
    first, at = _starts(corners, sizes)
    return np.stack([corners[first], corners[at + 1], corners[at + 2]], axis=-1)


def strips(
    corners: Integer[np.ndarray, " c"], sizes: Integer[np.ndarray, " p"]
) -> Int64[np.ndarray, "f 3"]:
    """Triangles of strips: three corners in a row, every other one turned back.

    Args:
        corners: of all strips, one after the other.
        sizes: number of corners of every strip.

    Raises:
        ValueError: if there are not as many corners as the sizes say.
    """
    corners = corners.astype(np.int64)
    first, at = _starts(corners, sizes)
    odd = (at - first) % 2
    return np.stack(
        [corners[at], corners[at + 1 + odd], corners[at + 2 - odd]], axis=-1
    )


def _starts(
    corners: np.ndarray, sizes: np.ndarray
) -> tuple[Int64[np.ndarray, " f"], Int64[np.ndarray, " f"]]:
    """Of every triangle the place of its polygon's first corner, and its own place."""
    sizes = np.asarray(sizes, np.int64)
    if (sizes < 0).any() or sizes.sum() != len(corners):
        raise ValueError(
            f"{len(corners)} corners for {len(sizes)} polygons of {sizes.sum()} corners"
        )
    count = np.maximum(sizes - 2, 0)
    first = np.repeat(np.cumsum(sizes) - sizes, count)
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return first, first + place
