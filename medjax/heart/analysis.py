"""What a moving mesh of the left ventricle tells: strain by wall and by segment.

The level of circumferential strain is half the cavity's length; longitudinal strain is
the mean over two planes through the long axis, at right angles, one of them through the
middle of the septum where a right ventricle says where that is.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from medjax.heart import aha, strain
from medjax.heart.meshes import Topology, face_areas, unit
from medjax.heart.strain import StrainCurve

BESIDE = (0.2, 0.9)
"""Between these shares of the cavity's length, from its end, walls are measured for
thickening."""


@dataclasses.dataclass(frozen=True)
class MeshStrain:
    """Engineering strain over the cycle, and by segment at end-systole.

    Attributes:
        curves: ``GCS endo``, ``GLS endo``, and with an epicardium ``GCS mid``,
            ``GCS epi``, ``GLS epi`` and ``GRS``.
        segments: circumferential strain of the endocardium in the 17 segments; NaN for
            an empty one. ``None`` where nothing says where the septum is.
    """

    curves: dict[str, StrainCurve]
    segments: Float[np.ndarray, "17"] | None


def mesh_strain(
    vertices: Float[np.ndarray, "t n 3"],
    topology: Topology,
    *,
    diastole: int,
    systole: int,
    septum_direction: Float[np.ndarray, " 3"] | None = None,
) -> MeshStrain:
    """Strain of a moving mesh.

    Args:
        vertices: mm.
        topology: with the surface ``endo``, open at the base; ``epi`` and ``rv`` are
            used where they are.
        diastole: frame of reference.
        systole: frame of end-systole.
        septum_direction: from the axis to the septum, where there is no ``rv``.

    Raises:
        ValueError: where there is no ``endo``, it has no opening, or the direction to
            the septum lies along the axis.
    """
    rest = vertices[diastole].astype(np.float64)
    axis = aha.cavity_axis(rest, topology)
    insertion = None
    if septum_direction is None and "rv" in topology.names:
        right = rest[topology.surface == topology.code("rv")]
        insertion = aha.rv_insertion(right, axis)
    faces = {
        name: topology.faces[topology.surface[topology.faces[:, 0]] == i]
        for i, name in enumerate(topology.names)
    }
    along = (axis[1] - axis[0]) / np.linalg.norm(axis[1] - axis[0])
    middle = 0.5 * (axis[0] + axis[1])
    across = _septal(axis, insertion, septum_direction)

    def of(moving: np.ndarray, which: np.ndarray, normal: np.ndarray) -> np.ndarray:
        curve = strain.cut(moving[diastole], which, middle, normal)
        return strain.length_strain(moving, curve, diastole)

    def long(which: np.ndarray) -> np.ndarray:
        planes = (across, np.cross(along, across))
        return np.mean([of(vertices, which, normal) for normal in planes], axis=0)

    found = {
        "GCS endo": of(vertices, faces["endo"], along),
        "GLS endo": long(faces["endo"]),
    }
    if "epi" in faces:
        chords = strain.chords(rest, faces["endo"], faces["epi"])
        found["GCS mid"] = of(chords.middle(vertices), faces["endo"], along)
        found["GCS epi"] = of(vertices, faces["epi"], along)
        found["GLS epi"] = long(faces["epi"])
        length = np.linalg.norm(axis[1] - axis[0])
        share = (rest[chords.start] - axis[0]) @ along / length
        beside = (share > BESIDE[0]) & (share < BESIDE[1])
        thickness = chords.thickness(vertices)[:, beside]
        found["GRS"] = (thickness / thickness[diastole]).mean(1) - 1.0
    segments = None
    if insertion is not None or septum_direction is not None:
        inner = faces["endo"]
        tensor = strain.surface_strain(vertices, inner, axis, diastole)[systole]
        around = strain.engineering(tensor[:, 0, 0])
        segments = _by_segment(
            around, rest, topology, axis, insertion, septum_direction
        )
    curves = {name: StrainCurve(values, systole) for name, values in found.items()}
    return MeshStrain(curves, segments)


def segment_means(
    values: Float[np.ndarray, " n"],
    rest: Float[np.ndarray, "n 3"],
    topology: Topology,
    *,
    septum_direction: Float[np.ndarray, " 3"] | None = None,
) -> Float[np.ndarray, "17"]:
    """Means over the endocardium, in the 17 segments, of what vertices have.

    Args:
        values: of every vertex.
        rest: vertices at end-diastole, mm.
        topology: as in :func:`mesh_strain`.
        septum_direction: as there.

    Returns:
        Means by area; NaN for an empty segment.

    Raises:
        ValueError: where nothing says where the septum is.
    """
    at = rest.astype(np.float64)
    axis, insertion = aha.cavity_axis(at, topology), None
    if septum_direction is None and "rv" in topology.names:
        right = at[topology.surface == topology.code("rv")]
        insertion = aha.rv_insertion(right, axis)
    inner = topology.faces[_inner(topology)]
    of = values[inner].mean(1)
    return _by_segment(of, at, topology, axis, insertion, septum_direction)


def _inner(topology: Topology) -> np.ndarray:
    """Which triangles are of the endocardium."""
    return topology.surface[topology.faces[:, 0]] == topology.code("endo")


def _by_segment(
    values: np.ndarray,
    rest: np.ndarray,
    topology: Topology,
    axis: aha.Axis,
    insertion: float | None,
    septum_direction: np.ndarray | None,
) -> Float[np.ndarray, "17"]:
    """Means by area of what triangles of the endocardium have."""
    inner = _inner(topology)
    number = aha.segments(
        rest[topology.faces[inner]].mean(1),
        axis,
        insertion=insertion,
        septum_direction=septum_direction,
    )
    return aha.segment_means(values, number, face_areas(rest, topology)[inner])


def _septal(
    axis: aha.Axis,
    insertion: float | None,
    septum_direction: Float[np.ndarray, " 3"] | None,
) -> Float[np.ndarray, " 3"]:
    """A direction across the axis: along the septum's wall, so that the plane with this
    normal goes through its middle; any where nothing is known of it."""
    along = (axis[1] - axis[0]) / np.linalg.norm(axis[1] - axis[0])
    if septum_direction is not None:
        return unit(np.cross(along, aha.septal_direction(septum_direction, axis)))
    start = 0.0 if insertion is None else insertion
    return unit(np.cross(along, aha.direction(start + np.pi / 3, axis)))
