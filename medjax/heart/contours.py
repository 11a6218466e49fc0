"""Where surfaces meet image planes: points between pixels, in the images' own mm.

A plane cuts a mesh in segments. They are drawn on images, and points spread evenly
along them are what a reader of images would have traced; of the phantom's surfaces, cut
as fine meshes, they are right to some hundredths of a millimetre. Where a plane misses
a surface there is none, and a mask says so.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int32

from medjax.heart.meshes import Topology
from medjax.heart.strain import crossings


class Contours(NamedTuple):
    """Points on the surfaces of one heart, as :mod:`medjax.heart.batch` has them.

    Attributes:
        points: mm from the centre of pixel (0, 0), along rows' and columns' steps.
        mask: 1 where there is a point.
        surface: which surface it lies on.
    """

    points: Float32[np.ndarray, "p m 2"]
    mask: Float32[np.ndarray, "p m"]
    surface: Int32[np.ndarray, "p m"]


def sections(
    vertices: Float[np.ndarray, "n 3"],
    topology: Topology,
    plane: Float[np.ndarray, "3 3"],
) -> tuple[Float[np.ndarray, "s 2 2"], Int[np.ndarray, " s"]]:
    """The segments in which a plane cuts a mesh, holes left open.

    Args:
        vertices: mm.
        topology: with the faces.
        plane: origin and steps, mm.

    Returns:
        Both ends of every segment, mm along rows and columns from pixel (0, 0), and
        the surface that it is of.
    """
    plane = np.asarray(plane, np.float64)
    normal = np.cross(plane[1], plane[2])
    curve = crossings(vertices, topology.faces, plane[0], normal)
    axes = plane[1:] / np.linalg.norm(plane[1:], axis=1, keepdims=True)
    at = (curve.ends(vertices) - plane[0]) @ axes.T
    return at, topology.surface[curve.edges[:, 0, 0]]


def trace(
    vertices: Float[np.ndarray, "n 3"],
    topology: Topology,
    planes: Float[np.ndarray, "p 3 3"],
    count: int,
) -> Contours:
    """Points at equal distances along the contour of every surface on every plane.

    Args:
        vertices: mm.
        topology: with the surfaces.
        planes: origins and steps, mm.
        count: points of each surface on a plane.
    """
    kinds = len(topology.names)
    points = np.zeros((len(planes), kinds, count, 2), np.float32)
    mask = np.zeros((len(planes), kinds, count), np.float32)
    surface = np.tile(np.arange(kinds, dtype=np.int32)[:, None], (1, count))
    for p, plane in enumerate(planes):
        segments, code = sections(vertices, topology, plane)
        for k in np.unique(code):
            points[p, k], mask[p, k] = spread(segments[code == k], count), 1.0
    flat = len(planes), kinds * count
    every = np.broadcast_to(surface.reshape(-1), flat).copy()
    return Contours(points.reshape(*flat, 2), mask.reshape(flat), every)


def spread(
    segments: Float[np.ndarray, "s 2 2"], count: int
) -> Float[np.ndarray, "m 2"]:
    """Points at equal distances along segments, one behind the other.

    Args:
        segments: one at least.
        count: of the points.
    """
    step = segments[:, 1] - segments[:, 0]
    length = np.linalg.norm(step, axis=-1)
    along = np.cumsum(length)
    at = (np.arange(count) + 0.5) / count * along[-1]
    which = np.minimum(np.searchsorted(along, at), len(along) - 1)
    before = along[which] - length[which]
    share = (at - before) / np.maximum(length[which], 1e-12)
    return segments[which, 0] + share[:, None] * step[which]
