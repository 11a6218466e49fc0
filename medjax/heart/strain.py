"""Strain of a moving mesh, each convention under its own name.

*Engineering* strain is ``L / L_ED - 1``, negative for shortening; *Green* strain of the
same length is ``((1 + e)^2 - 1) / 2``. The circumferential strain of the endocardium is
twice that of the epicardium, so there is no "GCS" here without a surface. Lengths are
those of *material* curves: a plane cuts the mesh at end-diastole, and the points where
it cuts edges are followed. So a curve that moves through the plane stays itself.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

Vector = Float[np.ndarray, " 3"]
Triangles = Int[np.ndarray, "f 3"]
NEAREST = 12
"""Triangles of the epicardium that the other end of a wall's chord is sought on."""


@dataclasses.dataclass(frozen=True)
class StrainCurve:
    """Engineering strain over the cycle, end-diastole as reference.

    Attributes:
        values: per frame.
        systole: frame of end-systole.
    """

    values: Float[np.ndarray, " t"]
    systole: int

    @property
    def end_systolic(self) -> float:
        """At end-systole."""
        return float(self.values[self.systole])

    @property
    def peak(self) -> float:
        """The value farthest from zero."""
        return float(self.values[np.argmax(np.abs(self.values))])

    @property
    def drift(self) -> float:
        """At the last frame, where it should be small again."""
        return float(self.values[-1])


class Curve(NamedTuple):
    """Where a plane cut a mesh: material points on edges, joined two by two.

    Attributes:
        edges: the two vertices of each point's edge, for both ends of each segment.
        share: of the edge, from its first vertex, at both ends.
    """

    edges: Int[np.ndarray, "s 2 2"]
    share: Float[np.ndarray, "s 2"]

    def ends(
        self, vertices: Float[np.ndarray, "*t n 3"]
    ) -> Float[np.ndarray, "*t s 2 3"]:
        """Of the segments in every frame, mm."""
        ends = vertices.astype(np.float64)[..., self.edges, :]
        share = self.share[..., None]
        return (1 - share) * ends[..., 0, :] + share * ends[..., 1, :]

    def length(self, vertices: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, " t"]:
        """Of the curve in every frame, mm."""
        at = self.ends(vertices)
        return np.linalg.norm(at[:, :, 1] - at[:, :, 0], axis=-1).sum(-1)


def green(engineering: Any) -> Any:
    """Green strain of a length whose engineering strain is given."""
    return 0.5 * ((1.0 + engineering) ** 2 - 1.0)


def engineering(green: Any) -> Any:
    """Engineering strain of a length whose Green strain is given."""
    return np.sqrt(1.0 + 2.0 * green) - 1.0


def cut(
    vertices: Float[np.ndarray, "n 3"], faces: Triangles, origin: Vector, normal: Vector
) -> Curve:
    """The material curve where a plane cuts a mesh.

    Args:
        vertices: mm, at end-diastole.
        faces: of the surface to cut.
        origin: a point of the plane.
        normal: of the plane.

    Raises:
        ValueError: if the plane misses the surface.
    """
    found = crossings(vertices, faces, origin, normal)
    if not len(found.share):
        raise ValueError("strain: a plane misses the surface, so there is no curve")
    return found


def crossings(
    vertices: Float[np.ndarray, "n 3"], faces: Triangles, origin: Vector, normal: Vector
) -> Curve:
    """As :func:`cut`; without a segment where the plane misses.

    Args:
        vertices: mm.
        faces: of the surfaces to cut.
        origin: a point of the plane.
        normal: of the plane.
    """
    height = (vertices.astype(np.float64) - origin) @ normal
    above = height >= 0
    pairs = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1)
    crossed = above[pairs[..., 0]] != above[pairs[..., 1]]
    met = crossed.any(1)
    edges = pairs[met][crossed[met]].reshape(-1, 2, 2)
    low, high = height[edges[..., 0]], height[edges[..., 1]]
    return Curve(edges, low / (low - high))


def length_strain(
    vertices: Float[np.ndarray, "t n 3"], curve: Curve, diastole: int = 0
) -> Float[np.ndarray, " t"]:
    """Engineering strain of a material curve: circumferential of a short-axis cut, the
    global longitudinal strain of a long-axis one.

    Args:
        vertices: mm.
        curve: of :func:`cut`, at the frame ``diastole``.
        diastole: the frame of reference.
    """
    length = curve.length(vertices)
    return length / length[diastole] - 1.0


def surface_strain(
    vertices: Float[np.ndarray, "t n 3"],
    faces: Triangles,
    axis: tuple[Vector, Vector],
    diastole: int = 0,
) -> Float[np.ndarray, "t f 2 2"]:
    """Green strain in the surface, per triangle, in (circumferential, longitudinal).

    Args:
        vertices: mm.
        faces: of the surface.
        axis: apex and centre of the base, at the frame of reference.
        diastole: the frame of reference.

    Returns:
        ``(F^T F - 1) / 2``; NaN where a triangle has no area or faces along the axis.
    """
    at = vertices.astype(np.float64)[:, faces]
    edges = np.stack([at[:, :, 1] - at[:, :, 0], at[:, :, 2] - at[:, :, 0]], axis=-1)
    apex, base = axis
    along = (base - apex) / np.linalg.norm(base - apex)
    rest = edges[diastole]
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = _unit(np.cross(rest[..., 0], rest[..., 1]))
        around = _unit(np.cross(along, normal))
        upward = np.cross(normal, around)
        flat = np.stack([around, upward], axis=1) @ rest
        determinant = flat[:, 0, 0] * flat[:, 1, 1] - flat[:, 0, 1] * flat[:, 1, 0]
        swapped = [[flat[:, 1, 1], -flat[:, 0, 1]], [-flat[:, 1, 0], flat[:, 0, 0]]]
        inverse = np.moveaxis(np.array(swapped) / determinant, 2, 0)
    moved = edges @ inverse
    return 0.5 * (np.swapaxes(moved, -1, -2) @ moved - np.eye(2))


def _unit(vectors: Float[np.ndarray, "*s 3"]) -> Float[np.ndarray, "*s 3"]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Chords(NamedTuple):
    """Straight lines through the wall, fixed to material at end-diastole.

    Attributes:
        start: vertices of the endocardium.
        corners: of the epicardium's triangle at the other end.
        weights: barycentric, in that triangle.
    """

    start: Int[np.ndarray, " m"]
    corners: Int[np.ndarray, "m 3"]
    weights: Float[np.ndarray, "m 3"]

    def ends(self, vertices: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t m 3"]:
        """The ends on the epicardium in every frame."""
        corners = vertices.astype(np.float64)[:, self.corners]
        return (self.weights[None, :, :, None] * corners).sum(2)

    def thickness(self, vertices: Float[np.ndarray, "t n 3"]) -> np.ndarray:
        """Lengths in every frame, mm, ``t m``."""
        return np.linalg.norm(self.ends(vertices) - vertices[:, self.start], axis=-1)

    def middle(self, vertices: Float[np.ndarray, "t n 3"]) -> np.ndarray:
        """The middle of the wall in every frame, ``t n 3``: the vertices with those of
        the endocardium moved half way out, for the endocardium's faces."""
        moved = vertices.astype(np.float64)
        moved[:, self.start] += 0.5 * (self.ends(vertices) - vertices[:, self.start])
        return moved


def chords(
    vertices: Float[np.ndarray, "n 3"], endo: Triangles, epi: Triangles
) -> Chords:
    """From every vertex of the endocardium to the nearest point of the epicardium.

    Args:
        vertices: mm, at end-diastole.
        endo: faces of the inner surface.
        epi: faces of the outer surface.
    """
    start = np.unique(endo)
    at = vertices.astype(np.float64)
    count = min(NEAREST, len(epi))
    _, near = KDTree(at[epi].mean(1)).query(at[start], k=count)
    near = near.reshape(len(start), count)
    corners = epi[near]
    weights = _nearest_weights(at[start][:, None], at[corners])
    gap = (weights[..., None] * at[corners]).sum(2) - at[start][:, None]
    best = np.argmin((gap**2).sum(-1), axis=1)
    rows = np.arange(len(start))
    return Chords(start, corners[rows, best], weights[rows, best])


def _nearest_weights(
    point: Float[np.ndarray, "m 1 3"], triangle: Float[np.ndarray, "m k 3 3"]
) -> Float[np.ndarray, "m k 3"]:
    """Barycentric weights of the point of each triangle that is nearest.

    The foot of the perpendicular if it lies inside, else the nearest of the feet on the
    three sides.
    """
    a, b, c = np.moveaxis(triangle, 2, 0)
    u, v, w = b - a, c - a, point - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    area = np.maximum(uu * vv - uv * uv, 1e-12)
    s, t = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    found = [np.stack([1 - s - t, s, t], axis=-1)]
    inside = (found[0] >= 0).all(-1)
    for i in range(3):
        j = (i + 1) % 3
        side = triangle[..., j, :] - triangle[..., i, :]
        size = np.maximum((side * side).sum(-1), 1e-12)
        share = np.clip(((point - triangle[..., i, :]) * side).sum(-1) / size, 0, 1)
        weights = np.zeros((*share.shape, 3))
        weights[..., i], weights[..., j] = 1 - share, share
        found.append(weights)
    every = np.stack(found)
    gap = ((every[..., None] * triangle).sum(3) - point) ** 2
    gap = gap.sum(-1)
    gap[0] = np.where(inside, gap[0], np.inf)
    best = np.argmin(gap, axis=0)
    return np.take_along_axis(every, best[None, ..., None], axis=0)[0]
