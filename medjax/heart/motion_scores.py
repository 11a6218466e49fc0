"""How well a mesh was followed: vertices, volumes, strain and contours, each by name.

Where the motion is known, the error of a vertex is told along the wall's normal, around
the heart and along it: what images of contours can show and what they cannot. Scores of
contours are told by view, with the share of planes that have none beside them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from medjax.heart import slicing
from medjax.heart.analysis import MeshStrain, mesh_strain, segment_means
from medjax.heart.appearance import LABELS
from medjax.heart.clinical import Function, function, mesh_volumes
from medjax.heart.coarsen import wall_pairs
from medjax.heart.contours import sections, spread
from medjax.heart.deepmesh_scores import deepmesh_scores
from medjax.heart.meshes import Topology, face_normals, vertex_normals
from medjax.heart.motion_graph import heart_axes, local_frames
from medjax.heart.subject import Subject
from medjax.metrics.overlap import overlap
from medjax.metrics.surface import nearest

DIRECTIONS = ("normal", "circumferential", "longitudinal")
DENSE = 256
"""Points along a mesh's sections on a plane."""
ROOM, REACH = 1024, 8
"""For segments of a plane, and pixels that one may span, where regions are drawn."""
VIEWS = ("sax", "2ch", "4ch")
BASAL = slice(0, 6)
"""Of the 17 segments."""
LOST = 0.2
"""Mean share of lost contraction from which on a segment is one of an infarct."""
Moving = Float[np.ndarray, "t n 3"]


def left(topology: Topology) -> np.ndarray:
    """Which vertices are of the left ventricle."""
    if "rv" not in topology.names:
        return np.ones(topology.count, bool)
    return topology.surface != topology.code("rv")


def vertex_errors(
    found: Moving, subject: Subject, topology: Topology, systole: int
) -> dict[str, float]:
    """Mean distances of the left ventricle's vertices to where they are, mm.

    Args:
        found: vertices.
        subject: the truth.
        topology: of both.
        systole: frame of end-systole.

    Returns:
        ``vertex``, over all later frames, ``vertex_es`` at end-systole, ``vertex_ed``
        at end-diastole, and the mean size of the error along each of
        :data:`DIRECTIONS` over all later frames.
    """
    true = np.asarray(subject.vertices, np.float64)
    rest = np.asarray(true[0], np.float32)
    frames = np.asarray(_frames_of(topology)(rest, np.asarray(subject.planes[0])))
    error = (found - true)[:, left(topology)]
    away = np.linalg.norm(error, axis=-1)
    along = np.einsum("tni,nki->tnk", error, frames[left(topology)])
    sizes = np.abs(along[1:]).mean((0, 1))
    return {
        "vertex": float(away[1:].mean()),
        "vertex_es": float(away[systole].mean()),
        "vertex_ed": float(away[0].mean()),
        **{name: float(v) for name, v in zip(DIRECTIONS, sizes, strict=True)},
    }


@functools.lru_cache(maxsize=4)
def _frames_of(topology: Topology) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
    """The local frames of a mesh at end-diastole, compiled once."""

    def frames(rest: jax.Array, plane: jax.Array) -> jax.Array:
        return local_frames(rest, topology, heart_axes(rest, topology, plane))

    return jax.jit(frames)


def shape_counts(found: Moving, topology: Topology) -> dict[str, float]:
    """What muscle does not do: shares of triangles that turned over and of places where
    the walls cross, and the largest relative change of the muscle's volume.

    Args:
        found: vertices, the first frame as reference.
        topology: with surfaces ``endo`` and ``epi``.
    """
    normal = np.asarray(face_normals(found.astype(np.float64), topology))
    turned = (normal * normal[:1]).sum(-1) < 0
    inner, outer = wall_pairs(topology, found[0]).T
    outward = vertex_normals(found.astype(np.float64), topology)[:, inner]
    thickness = ((found[:, outer] - found[:, inner]) * np.asarray(outward)).sum(-1)
    muscle = mesh_volumes(found, topology, close=True)["myo"]
    return {
        "flipped": float(turned.mean()),
        "crossed": float((thickness < 0).mean()),
        "muscle_drift": float(np.abs(muscle / muscle[0] - 1).max()),
    }


def contour_errors(
    found: Moving, subject: Subject, topology: Topology, frame: int
) -> dict[str, dict[str, float]]:
    """Contours of the left ventricle at a frame, by view.

    Args:
        found: vertices.
        subject: the truth.
        topology: of both.
        frame: which.

    Returns:
        For each of :data:`VIEWS`, on planes that are labelled and NaN where a view has
        none: ``contour``, half the sum of both directed mean
        distances of the mesh's sections and the traced points in mm, ``missed``, the
        share of planes that only one of them meets, ``dice``, the mean of cavity and
        muscle, each on all planes of the view together (NaN where a plane has more
        segments than there is room for), and the scores of
        :mod:`medjax.heart.deepmesh_scores`.
    """
    planes = np.asarray(subject.planes, np.float64)
    slices = len(planes) - 2
    which = {"sax": range(slices), "2ch": [slices], "4ch": [slices + 1]}
    known = subject.label_mask > 0
    inside, shape = left(topology), subject.images.shape[2:]
    right = topology.names.index("rv") if "rv" in topology.names else -1
    there = (subject.contour_mask[frame] > 0) & (subject.contour_surface != right)
    truth = [subject.contours[frame][p][there[p]] for p in range(len(planes))]
    drawn, short = _regions_of(topology, (shape[0], shape[1]))(
        np.asarray(found[frame], np.float32), np.asarray(subject.planes)
    )
    drawn = np.where(np.asarray(short)[:, None, None, None], np.nan, drawn)
    scores: dict[str, dict[str, float]] = {}
    for view, planned in which.items():
        chosen = [p for p in planned if known[p]]
        apart, alone = [], 0
        for p in chosen:
            segments, code = sections(found[frame], topology, planes[p])
            mine = segments[code != right]
            if len(mine) and len(truth[p]):
                mine = spread(mine, DENSE)
                both = nearest(mine, truth[p]).mean(), nearest(truth[p], mine).mean()
                apart.append(float(np.mean(both)))
            alone += bool(len(mine)) != bool(len(truth[p]))
        scores[view] = {
            "contour": float(np.mean(apart)) if apart else float("nan"),
            "missed": alone / len(chosen) if chosen else float("nan"),
            "dice": _dice(drawn[chosen], subject.labels[frame][chosen]),
            **deepmesh_scores(
                found[frame][inside],
                planes[chosen],
                [truth[p] for p in chosen],
                (shape[0], shape[1]),
            ),
        }
    return scores


@functools.lru_cache(maxsize=4)
def _regions_of(
    topology: Topology, shape: tuple[int, int]
) -> Callable[[np.ndarray, np.ndarray], tuple[jax.Array, jax.Array]]:
    """Cavity and muscle of a mesh on planes, and which of them were cut short."""

    def regions(
        vertices: Float[jax.Array, "n 3"], planes: Float[jax.Array, "p 3 3"]
    ) -> tuple[jax.Array, jax.Array]:
        seen, limits = slicing.coverage(
            vertices, topology, planes, shape, size=ROOM, reach=REACH
        )
        short = (limits.segments > ROOM) | (limits.span > REACH)
        return slicing.regions(seen, topology)[..., :2], short

    return jax.jit(regions)


def _dice(drawn: np.ndarray, labels: np.ndarray) -> float:
    """Of cavity and muscle, their mean; pixels belong to what has half of them."""
    if not len(drawn) or np.isnan(drawn).any():
        return float("nan")
    codes = LABELS["lv"], LABELS["myo"]
    said = np.select(list(np.moveaxis(drawn, -1, 0) >= 0.5), codes, 0)
    return float(overlap(said, labels, structures=codes, rank=3).dice.mean())


def heart_numbers(
    found: Moving, topology: Topology, septum: Float[np.ndarray, " 3"]
) -> tuple[Function, MeshStrain | None]:
    """Volumes and strain of a moving mesh, end-diastole first.

    A mesh that was torn so far that no plane through its middle cuts it has no strain.

    Args:
        found: vertices.
        topology: with the wall.
        septum: from the long axis to the middle of the septum.
    """
    numbers = function(mesh_volumes(found, topology, close=True))
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            strain = mesh_strain(
                found,
                topology,
                diastole=numbers.diastole,
                systole=numbers.systole,
                septum_direction=None if "rv" in topology.names else septum,
            )
    except ValueError:
        strain = None
    return numbers, strain


def truth_numbers(
    subject: Subject, topology: Topology
) -> tuple[int, Function | None, MeshStrain | None]:
    """End-systole of a person, and volumes and strain where the motion is known.

    Args:
        subject: the truth.
        topology: of its mesh.
    """
    if not subject.followed:
        return subject.emptiest, None, None
    true = np.asarray(subject.vertices, np.float64)
    numbers, strain = heart_numbers(true, topology, np.asarray(subject.septum))
    return numbers.systole, numbers, strain


def motion_scores(
    found: Moving, subject: Subject, topology: Topology
) -> dict[str, Any]:
    """All scores of one person.

    Args:
        found: vertices of all frames.
        subject: the truth.
        topology: of both.

    Returns:
        Numbers by name; ``contours`` by view. Errors of strain and ejection fraction
        are in percentage points, each at its own end-systole. NaN where the truth is
        not known.
    """
    systole, wanted, known = truth_numbers(subject, topology)
    strain, volume, ejected = None, float("nan"), float("nan")
    ill = np.zeros(17, bool)
    if wanted is not None:
        septum = np.asarray(subject.septum)
        numbers, strain = heart_numbers(found, topology, septum)
        apart = np.abs(numbers.curves["lv"] - wanted.curves["lv"])
        volume = float(apart[1:].mean())
        ejected = numbers.features["LVEF"] - wanted.features["LVEF"]
    if known is not None:
        ill = infarcted(subject, topology)
    scores: dict[str, Any] = {
        **vertex_errors(found, subject, topology, systole),
        "lv_mae_ml": volume,
        "ef": ejected,
        **_strain_errors(strain, known, ill),
        **shape_counts(found, topology),
        "contours": contour_errors(found, subject, topology, systole),
    }
    return scores


def infarcted(subject: Subject, topology: Topology) -> Bool[np.ndarray, "17"]:
    """Which segments are those of an infarct, by what is known of the person.

    Args:
        subject: whose.
        topology: of the mesh.
    """
    septum = None if "rv" in topology.names else np.asarray(subject.septum)
    lost = segment_means(
        np.asarray(subject.infarct),
        np.asarray(subject.vertices[0]),
        topology,
        septum_direction=septum,
    )
    return lost >= LOST


def _strain_errors(
    found: MeshStrain | None,
    truth: MeshStrain | None,
    ill: Bool[np.ndarray, "17"],
) -> dict[str, float]:
    """Points at end-systole by name; of ``segments`` and of those of an ``infarct`` the
    mean size, of the ``basal`` ones the mean. NaN where the mesh has no strain, or the
    heart no infarct."""
    if truth is None:
        return {}
    names = [*truth.curves, "segments", "basal", "infarct"]
    scores = dict.fromkeys(names, float("nan"))
    if found is None:
        return scores
    for name, curve in truth.curves.items():
        gap = found.curves[name].end_systolic - curve.end_systolic
        scores[name] = 100 * gap
    if found.segments is not None and truth.segments is not None:
        gap = 100 * (found.segments - truth.segments)
        parts = {"segments": np.abs(gap), "basal": gap[BASAL]}
        parts["infarct"] = np.abs(gap)[ill]
        for name, values in parts.items():
            if np.isfinite(values).any():
                scores[name] = float(np.nanmean(values))
    return scores


def mean_scores(
    people: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over people: of numbers, and of contours in a row for each view.

    Signed errors (ejection fraction, strain, that of the basal segments) are told by
    their mean size and, behind ``_bias``, their mean. People without a score are left
    out of its mean and counted behind ``_undefined``; a view that nobody has is left
    out.

    Args:
        people: of :func:`motion_scores`.
    """
    names = [name for name in people[0] if name != "contours"]
    table = {name: np.array([one[name] for one in people]) for name in names}
    means: dict[str, float] = {}
    for name, values in table.items():
        known = values[np.isfinite(values)]
        means[name] = float(np.abs(known).mean()) if len(known) else float("nan")
        if name in ("ef", "basal") or name.startswith("G"):
            means[f"{name}_bias"] = float(known.mean()) if len(known) else float("nan")
        if len(known) < len(values):
            means[f"{name}_undefined"] = len(values) - len(known)
    views = []
    for view in VIEWS:
        row: dict[str, Any] = {"view": view}
        of = [one["contours"][view] for one in people]
        if not np.isfinite([list(one.values()) for one in of]).any():
            continue
        for name in of[0]:
            values = np.array([one[name] for one in of])
            known = np.isfinite(values)
            row[name] = float(values[known].mean()) if known.any() else float("nan")
            if not known.all():
                row[f"{name}_undefined"] = int((~known).sum())
        views.append(row)
    return means, views
