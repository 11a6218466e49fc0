"""The 17 segments of the left ventricle (Cerqueira et al. 2002, Circulation 105:539).

Rings of a third of the cavity's length each from the base: six segments, six, four; the
17th is the muscle beyond the cavity's end. Segment 1 is anterior and numbers go on
towards the septum. The border between segments 1 and 2 is where the right ventricle
meets the left one in front. Nothing else in a heart says which way is anterior, so a
heart without a right ventricle has no segments unless somebody tells where its septum
is.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from medjax.heart.meshes import Topology

Vector = Float[np.ndarray, " 3"]
Axis = tuple[Vector, Vector]
"""Apex of the cavity and centre of the base, mm."""
LEAST_TURN = 5.0
"""Degrees off the long axis from which on a direction says where the septum is."""
NAMES = (
    *(f"basal {x}" for x in ("anterior", "anteroseptal", "inferoseptal")),
    *(f"basal {x}" for x in ("inferior", "inferolateral", "anterolateral")),
    *(f"mid {x}" for x in ("anterior", "anteroseptal", "inferoseptal")),
    *(f"mid {x}" for x in ("inferior", "inferolateral", "anterolateral")),
    *(f"apical {x}" for x in ("anterior", "septal", "inferior", "lateral")),
    "apex",
)


def cavity_axis(vertices: Float[np.ndarray, "n 3"], topology: Topology) -> Axis:
    """The long axis of a mesh whose surface ``endo`` is open at the base.

    Args:
        vertices: mm, at end-diastole.
        topology: with the open surface.

    Raises:
        ValueError: if there is no ``endo``, or it has no opening.
    """
    at = vertices.astype(np.float64)
    code = topology.code("endo")
    rim = topology.closing[topology.surface[topology.closing[:, 0]] == code, :2]
    if not len(rim):
        raise ValueError("axis: 'endo' has no opening, so its base is unknown")
    base = at[np.unique(rim)].mean(0)
    inner = at[topology.surface == code]
    apex = inner[np.argmax(((inner - base) ** 2).sum(-1))]
    return apex, base


def septal_turn(points: Float[np.ndarray, "*s 3"], axis: Axis) -> np.ndarray:
    """Angles around the axis, radians, growing from anterior to septal to inferior.

    That is clockwise for who looks from the base to the apex, in any frame of space
    that is not a mirror image.
    """
    _, first, second = _frame(axis)
    offset = np.asarray(points, np.float64) - axis[1]
    return -np.arctan2(offset @ second, offset @ first)


def direction(turn: float, axis: Axis) -> Vector:
    """The unit vector across the axis at an angle of :func:`septal_turn`."""
    _, first, second = _frame(axis)
    return math.cos(turn) * first - math.sin(turn) * second


def septal_direction(toward: Vector, axis: Axis) -> Vector:
    """The unit vector across the axis that a direction to the septum means.

    Args:
        toward: the direction, of any length but zero.
        axis: of the cavity.

    Raises:
        ValueError: if it has no length or lies along the axis, where it says nothing.
    """
    along, _, _ = _frame(axis)
    toward = np.asarray(toward, np.float64)
    size = np.linalg.norm(toward)
    beside = toward - (toward @ along) * along
    part = np.linalg.norm(beside)
    if not part > math.sin(math.radians(LEAST_TURN)) * size:
        told = "of no length"
        if size > 0:
            turn = math.degrees(math.atan2(part, abs(toward @ along)))
            told = f"{turn:.1f} degrees off the long axis"
        raise ValueError(
            f"septum_direction is {toward.tolist()}, {told}: expected a direction "
            f"from that axis to the septum, {LEAST_TURN:g} degrees off it at least"
        )
    return beside / part


def rv_insertion(right: Float[np.ndarray, "m 3"], axis: Axis) -> float:
    """The angle of :func:`septal_turn` where the right ventricle begins, in front.

    Args:
        right: points of the right ventricle, of its surface or its voxels, mm.
        axis: of the left ventricle.

    Raises:
        ValueError: if none lies between the apical third and the base, or they
            surround the left ventricle.
    """
    height = _height(right, axis)
    beside = np.asarray(right)[(height > 1 / 3) & (height < 1)]
    if len(beside) < 3:
        raise ValueError(
            f"rv_insertion: {len(beside)} points of the right ventricle lie beside the "
            "left one's upper two thirds, expected 3 at least"
        )
    angle = np.sort(septal_turn(beside, axis))
    gap = np.diff(np.append(angle, angle[0] + 2 * np.pi))
    widest = int(np.argmax(gap))
    if gap[widest] < np.pi / 2:
        raise ValueError(
            f"rv_insertion: the right ventricle leaves {np.degrees(gap[widest]):.0f} "
            "degrees of the left one free, expected 90 at least"
        )
    return float(angle[(widest + 1) % len(angle)])


def segments(
    points: Float[np.ndarray, "n 3"],
    axis: Axis,
    *,
    insertion: float | None = None,
    septum_direction: Vector | None = None,
) -> Int[np.ndarray, " n"]:
    """The segment of each point of the wall, 1 to 17.

    Args:
        points: mm, such as the centres of triangles.
        axis: of the cavity.
        insertion: of :func:`rv_insertion`.
        septum_direction: instead of it, from the axis to the middle of the septum.

    Raises:
        ValueError: for neither or both of them, or a direction along the axis.
    """
    if (insertion is None) == (septum_direction is None):
        raise ValueError(
            "segments: expected the right ventricle's anterior insertion or, where "
            "there is none, septum_direction"
        )
    if septum_direction is not None:
        toward = septal_direction(septum_direction, axis)
        middle = septal_turn(axis[1] + toward[None], axis)[0]
        insertion = float(middle) - np.pi / 3
    height = _height(points, axis)
    turn = septal_turn(points, axis) - insertion
    # Segment 2 begins at the insertion.
    upper = 1 + (1 + np.floor(turn / (np.pi / 3)).astype(int)) % 6
    # Four of 90 degrees; the first is centred on the anterior one of six.
    four = np.floor((turn + np.pi / 6 + np.pi / 4) / (np.pi / 2)).astype(int) % 4
    found = np.where(
        height > 2 / 3, upper, np.where(height > 1 / 3, 6 + upper, 13 + four)
    )
    return np.where(height < 0, 17, found)


def segment_means(
    values: Float[np.ndarray, "*t n"],
    segment: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "*t 17"]:
    """Weighted means by segment; NaN where none has a value.

    Args:
        values: per point; NaN is left out.
        segment: of :func:`segments`.
        weights: such as areas.
    """
    known = np.isfinite(values)
    weight = np.where(known, weights, 0.0)
    member = (segment[:, None] == np.arange(1, 18)).astype(np.float64)
    total = weight @ member
    with np.errstate(invalid="ignore"):
        return (np.where(known, values, 0.0) * weight) @ member / total


def _frame(axis: Axis) -> tuple[Vector, Vector, Vector]:
    """The axis' direction, and two across it, right-handed."""
    along = (axis[1] - axis[0]) / np.linalg.norm(axis[1] - axis[0])
    least = np.eye(3)[np.argmin(np.abs(along))]
    first = np.cross(least, along)
    first /= np.linalg.norm(first)
    return along, first, np.cross(along, first)


def _height(points: Float[np.ndarray, "n 3"], axis: Axis) -> Float[np.ndarray, " n"]:
    """0 at the cavity's end, 1 at the base."""
    length = np.linalg.norm(axis[1] - axis[0])
    return (np.asarray(points, np.float64) - axis[0]) @ _frame(axis)[0] / length
