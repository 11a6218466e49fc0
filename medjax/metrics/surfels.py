"""How much surface passes through the corner where 2 x 2 (x 2) voxels meet.

DeepMind's surface distances (Nikolov et al. 2018, arXiv 1809.04430) place a surface
element at every corner whose voxels are not all alike and weigh it by the area of the
surface through the cube of voxel centres around it. Their package holds a table of 256
cases for that; here it is derived. The surface cuts the cube's edges at their middles
and separates the voxels that are fewer (inside, or outside from five on) from the
others; on a face with two such voxels diagonally, each is cut off alone. The cuts of
the faces join into loops, each loop is filled with triangles, and of all ways to do so
the one with the largest area in a cubic cube is taken: this reproduces their table for
every case and spacing (tested). In two dimensions the cuts of the one face are the
contour.
"""

import functools
import itertools

import numpy as np
from jaxtyping import Float

Corner = tuple[int, ...]
Edge = frozenset[Corner]
Triangle = tuple[int, int, int]


def areas(spacing: tuple[float, ...]) -> Float[np.ndarray, " codes"]:
    """Length (mm) or area (mm^2) of surface at a corner, for every neighbourhood.

    Args:
        spacing: voxel size in mm along two or three axes.

    Returns:
        One number per code; bit ``c`` of a code is the voxel of row ``c`` of
        ``itertools.product((0, 1), repeat=rank)``.

    Raises:
        ValueError: for another number of axes.
    """
    if len(spacing) == 2:
        scale = np.array(spacing)
        pieces = _lengths()
    elif len(spacing) == 3:
        # An area vector scales by the other two axes.
        scale = np.prod(spacing) / np.array(spacing)
        pieces = _normals()
    else:
        raise ValueError(f"spacing {spacing}: surfaces are of two or three axes")
    sizes = [np.linalg.norm(piece * scale, axis=1).sum() for piece in pieces]
    return np.array(sizes)


@functools.cache
def _lengths() -> list[np.ndarray]:
    """For every 2-D code, the cuts as vectors, voxels having side 1."""
    ring = ((0, 0), (0, 1), (1, 1), (1, 0))
    every = []
    for inside in _minorities(2):
        cuts = [_middle(a) - _middle(b) for a, b in _cuts(ring, inside)]
        every.append(np.array(cuts).reshape(-1, 2))
    return every


@functools.cache
def _normals() -> list[np.ndarray]:
    """For every 3-D code, the triangles' area vectors, voxels having side 1."""
    return [
        np.array([v for loop in _loops(inside) for v in _filled(loop)]).reshape(-1, 3)
        for inside in _minorities(3)
    ]


def _minorities(rank: int) -> list[set[Corner]]:
    """For every code, the corners that are cut off from the others."""
    corners = list(itertools.product((0, 1), repeat=rank))
    sets = []
    for code in range(2 ** len(corners)):
        inside = {c for bit, c in enumerate(corners) if code >> bit & 1}
        few = len(inside) <= len(corners) // 2
        sets.append(inside if few else set(corners) - inside)
    return sets


def _cuts(ring: tuple[Corner, ...], inside: set[Corner]) -> list[tuple[Edge, Edge]]:
    """The lines on one face: every run of inside corners along its ring is cut off."""
    state = [corner in inside for corner in ring]
    cuts = []
    for first in range(4):
        if state[first] and not state[first - 1]:
            last = first
            while state[(last + 1) % 4]:
                last += 1
            entry = frozenset((ring[first - 1], ring[first]))
            leave = frozenset((ring[last % 4], ring[(last + 1) % 4]))
            cuts.append((entry, leave))
    return cuts


def _loops(inside: set[Corner]) -> list[list[np.ndarray]]:
    """The closed polygons that the faces' cuts form, as points in the cube."""
    links: dict[Edge, list[Edge]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        flat = ((0, 0), (0, 1), (1, 1), (1, 0))
        ring = tuple(p[:axis] + (side,) + p[axis:] for p in flat)
        for a, b in _cuts(ring, inside):
            links.setdefault(a, []).append(b)
            links.setdefault(b, []).append(a)
    loops = []
    while links:
        # Every edge lies on two faces, so it has two links.
        at, (onward, _) = next(iter(links.items()))
        loop = []
        while at in links:
            loop.append(_middle(at))
            one, other = links.pop(at)
            onward = one if one in links else other
            at = onward
        loops.append(loop)
    return loops


def _filled(loop: list[np.ndarray]) -> list[np.ndarray]:
    """Area vectors of the triangulation with the largest area."""
    choices = [
        [
            np.cross(loop[b] - loop[a], loop[c] - loop[a]) / 2
            for a, b, c in triangulation
        ]
        for triangulation in _triangulations(0, len(loop) - 1)
    ]
    return max(choices, key=lambda chosen: sum(np.linalg.norm(v) for v in chosen))


def _triangulations(first: int, last: int) -> list[list[Triangle]]:
    """All ways to fill the polygon of points ``first`` to ``last`` with triangles."""
    if last - first < 2:
        return [[]]
    return [
        [*left, *right, (first, middle, last)]
        for middle in range(first + 1, last)
        for left in _triangulations(first, middle)
        for right in _triangulations(middle, last)
    ]


def _middle(edge: Edge) -> np.ndarray:
    return np.mean([np.array(corner, float) for corner in edge], axis=0)
