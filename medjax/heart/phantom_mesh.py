"""Surfaces of the phantom as meshes whose vertices are material points.

A vertex stays on the same bit of muscle in every frame, so correspondence, displacement
and strain are known. The left ventricle's walls are rings of vertices from a pole at
the apex to the base, open there. The right ventricle is closed: the part of the
epicardium that it lies on, its free wall, and a lid at the base.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32

from medjax.heart import phantom
from medjax.heart.phantom import RV_HALF_ANGLE, Heart

SURFACES = ("endo", "epi", "rv")
"""What the codes 0, 1 and 2 of a vertex mean."""
SIZES = {"tiny": (16, 12), "small": (32, 24), "full": (144, 76)}
"""Vertices around and rings along each wall of the left ventricle."""


class PhantomMesh(NamedTuple):
    """A moving mesh and the material points that its vertices are.

    Attributes:
        vertices: in the heart's own frame, mm.
        faces: corners of triangles, counterclockwise from outside of each surface.
        surface: index into :data:`SURFACES` per vertex.
        material: R, Theta and Z. On the right ventricle's free wall R is that of the
            epicardium below, and only Theta and Z are kept.
        infarct: share of contraction that an infarct takes from each vertex.
    """

    vertices: Float32[np.ndarray, "t n 3"]
    faces: Int32[np.ndarray, "f 3"]
    surface: Int32[np.ndarray, " n"]
    material: Float64[np.ndarray, "n 3"]
    infarct: Float64[np.ndarray, " n"]


def moving_mesh(
    heart: Heart,
    times: Float[np.ndarray, " t"],
    size: tuple[int, int] = SIZES["tiny"],
    *,
    right: bool = True,
) -> PhantomMesh:
    """The surfaces at several times.

    Args:
        heart: whose.
        times: shares of the cycle.
        size: vertices around and rings along each wall; see :data:`SIZES`.
        right: with the right ventricle.

    Raises:
        ValueError: for fewer than four vertices around or two rings.
    """
    around, rings = size
    if around < 4 or rings < 2:
        raise ValueError(
            f"size {size}: expected 4 vertices around and 2 rings at least"
        )
    walls = (
        (heart.radius, heart.depth),
        (heart.radius + heart.wall, heart.equator),
    )
    parts = [_wall(heart, a, c, around, rings) for a, c in walls]
    faces = [_wall_faces(around, rings)] * 2
    columns = max(around // 2, 4)
    if right:
        parts.append(_right(heart, columns, rings))
        faces.append(_right_faces(columns, rings))
    counts = [len(p) for p in parts]
    starts = np.cumsum([0, *counts[:-1]], dtype=np.int32)
    surface = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
    material = np.concatenate(parts)
    free = np.zeros(len(material), bool)
    if right:
        free[starts[2] + (columns + 1) * (rings + 1) :] = True
    return PhantomMesh(
        vertices=np.stack([_place(heart, t, material, free) for t in times]),
        faces=np.concatenate([f + s for f, s in zip(faces, starts, strict=True)]),
        surface=surface,
        material=material,
        infarct=heart.infarct * phantom.infarct_shape(heart, *material[:, 1:].T)[0],
    )


def _place(
    heart: Heart,
    time: float,
    material: Float64[np.ndarray, "n 3"],
    free: np.ndarray,
) -> Float32[np.ndarray, "n 3"]:
    """Vertices at one time."""
    a = float(phantom.activation(heart, np.asarray(time, np.float64)))
    radius, angle, height = material.T
    r, theta, z = phantom.deform(heart, a, radius, angle, height)
    reach = np.where(free, phantom.rv_reach(heart, a, angle, height), 0.0)
    return phantom.cartesian(np.sqrt(r**2 + reach), theta, z).astype(np.float32)


def _wall(
    heart: Heart, radius: float, depth: float, around: int, rings: int
) -> Float64[np.ndarray, "n 3"]:
    """Material points of one wall: the pole, then ring after ring to the base."""
    last = math.acos(-heart.height / depth)
    polar = last * np.arange(1, rings + 1) / rings
    z = heart.equator - depth * np.cos(polar)
    r = radius * np.sin(polar)
    angle = 2 * np.pi * np.arange(around) / around
    grid = np.broadcast_arrays(r[:, None], angle[None], z[:, None])
    pole = [[0.0, 0.0, heart.equator - depth]]
    return np.concatenate([pole, np.stack(grid, axis=-1).reshape(-1, 3)])


def _wall_faces(around: int, rings: int) -> Int32[np.ndarray, "f 3"]:
    """Triangles of a wall; Theta runs clockwise seen from the base."""
    j = np.arange(around)
    following = (j + 1) % around
    cap = np.stack([np.zeros_like(j), 1 + j, 1 + following], axis=-1)
    low = 1 + around * np.arange(rings - 1)[:, None]
    quads = _quads(low + j, low + following, low + around + j, low + around + following)
    return np.concatenate([cap, quads]).astype(np.int32)


def _quads(
    here: Int[np.ndarray, "*s"],
    beside: Int[np.ndarray, "*s"],
    above: Int[np.ndarray, "*s"],
    across: Int[np.ndarray, "*s"],
) -> Int[np.ndarray, "f 3"]:
    """Two triangles for each cell of a grid whose columns run along Theta."""
    first = np.stack([here, above, beside], axis=-1).reshape(-1, 3)
    second = np.stack([beside, above, across], axis=-1).reshape(-1, 3)
    return np.concatenate([first, second])


def _right(heart: Heart, columns: int, rings: int) -> Float64[np.ndarray, "n 3"]:
    """Theta and Z of the septal sheet's grid, then of the free wall's inner points."""
    angle = np.pi + RV_HALF_ANGLE * np.linspace(-1, 1, columns + 1)
    z = heart.base * np.linspace(0.15, 1.0, rings + 1)
    r = np.sqrt(phantom.epicardium_squared(heart, z))
    grid = np.broadcast_arrays(r[:, None], angle[None], z[:, None])
    sheet = np.stack(grid, axis=-1)
    return np.concatenate([sheet.reshape(-1, 3), sheet[1:, 1:-1].reshape(-1, 3)])


def _right_faces(columns: int, rings: int) -> Int32[np.ndarray, "f 3"]:
    """Septal sheet facing the left ventricle, free wall facing out, lid facing up."""
    septal = np.arange((rings + 1) * (columns + 1)).reshape(rings + 1, columns + 1)
    free = septal.copy()  # the sheets share their rim
    inner = np.arange(rings * (columns - 1)).reshape(rings, columns - 1)
    free[1:, 1:-1] = septal.size + inner

    def sheet(grid: np.ndarray) -> np.ndarray:
        here, beside = grid[:-1, :-1], grid[:-1, 1:]
        above, across = grid[1:, :-1], grid[1:, 1:]
        corners, half = (here, beside, above, across), columns // 2
        left = _quads(*(corners[i][:, :half] for i in (1, 0, 3, 2)))
        # Mirrored diagonals: else a corner's triangle is the same in both sheets.
        return np.concatenate(
            [left[:, ::-1], _quads(*(corner[:, half:] for corner in corners))]
        )

    rows = np.stack([free[-1], septal[-1]])
    faces = np.concatenate([sheet(septal)[:, ::-1], sheet(free), sheet(rows)])
    # Where the lid's two rows meet at the rim, a cell has one triangle, not two.
    whole = np.all(faces != np.roll(faces, 1, axis=1), axis=1)
    return faces[whole].astype(np.int32)
