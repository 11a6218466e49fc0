"""How well a mesh was followed: vertices, volumes, strain and contours, each by name.

Where the motion is known, the error of a vertex is told along the wall's normal, around
the heart and along it: what images of contours can show and what they cannot. Scores of
contours are told by view, with the share of planes that have none beside them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from medjax.heart import losses
from medjax.heart.analysis import MeshStrain, mesh_strain
from medjax.heart.clinical import Function, function, mesh_volumes
from medjax.heart.coarsen import wall_pairs
from medjax.heart.contours import sections, spread
from medjax.heart.deepmesh_scores import deepmesh_scores
from medjax.heart.meshes import Topology, face_normals
from medjax.heart.motion_data import Subject
from medjax.heart.motion_graph import heart_axes, local_frames
from medjax.metrics.surface import nearest
from medjax.nn.graph import Table

DIRECTIONS = ("normal", "circumferential", "longitudinal")
DENSE = 256
"""Points along a mesh's sections on a plane."""
VIEWS = ("sax", "2ch", "4ch")
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
        ``vertex``, over all later frames, ``vertex_es`` at end-systole, and the mean
        size of the error along each of :data:`DIRECTIONS` over all later frames.
    """
    true = np.asarray(subject.vertices, np.float64)
    at = jnp.asarray(true[0], jnp.float32)
    axes = heart_axes(at, topology, jnp.asarray(subject.planes[0]))
    frames = np.asarray(local_frames(at, topology, axes))
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


def shape_counts(found: Moving, topology: Topology) -> dict[str, float]:
    """What muscle does not do: shares of triangles that turned over and of places where
    the walls cross, and the largest relative change of the muscle's volume.

    Args:
        found: vertices, the first frame as reference.
        topology: with surfaces ``endo`` and ``epi``.
    """
    normal = np.asarray(face_normals(found.astype(np.float64), topology))
    turned = (normal * normal[:1]).sum(-1) < 0
    pairs = Table.of(wall_pairs(topology, found[0]), topology.count)
    thickness = [
        np.asarray(losses.wall_thickness(jnp.asarray(frame), topology, pairs))
        for frame in found.astype(np.float32)
    ]
    muscle = mesh_volumes(found, topology, close=True)["myo"]
    return {
        "flipped": float(turned.mean()),
        "crossed": float((np.stack(thickness) < 0).mean()),
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
        For each of :data:`VIEWS`: ``contour``, half the sum of both directed mean
        distances of the mesh's sections and the traced points in mm, ``missed``, the
        share of planes that only one of them meets, and the scores of
        :mod:`medjax.heart.deepmesh_scores`.
    """
    planes = np.asarray(subject.planes, np.float64)
    slices = len(planes) - 2
    which = {"sax": range(slices), "2ch": [slices], "4ch": [slices + 1]}
    inside, shape = left(topology), subject.images.shape[2:]
    right = topology.names.index("rv") if "rv" in topology.names else -1
    there = (subject.contour_mask[frame] > 0) & (subject.contour_surface != right)
    truth = [subject.contours[frame][p][there[p]] for p in range(len(planes))]
    scores: dict[str, dict[str, float]] = {}
    for view, chosen in which.items():
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
            "missed": alone / len(chosen),
            **deepmesh_scores(
                found[frame][inside],
                planes[list(chosen)],
                [truth[p] for p in chosen],
                (shape[0], shape[1]),
            ),
        }
    return scores


def heart_numbers(
    found: Moving, topology: Topology, septum: Float[np.ndarray, " 3"]
) -> tuple[Function, MeshStrain]:
    """Volumes and strain of a moving mesh, end-diastole first.

    Args:
        found: vertices.
        topology: with the wall.
        septum: from the long axis to the middle of the septum.
    """
    numbers = function(mesh_volumes(found, topology, close=True))
    strain = mesh_strain(
        found,
        topology,
        diastole=numbers.diastole,
        systole=numbers.systole,
        septum_direction=None if "rv" in topology.names else septum,
    )
    return numbers, strain


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
        are in percentage points, each at its own end-systole.
    """
    true = np.asarray(subject.vertices, np.float64)
    (numbers, strain), (wanted, known) = (
        heart_numbers(mesh, topology, np.asarray(subject.septum))
        for mesh in (found, true)
    )
    volume = np.abs(numbers.curves["lv"] - wanted.curves["lv"])[1:].mean()
    scores: dict[str, Any] = {
        **vertex_errors(found, subject, topology, wanted.systole),
        "lv_mae_ml": float(volume),
        "ef": numbers.features["LVEF"] - wanted.features["LVEF"],
        **{
            name: 100 * (curve.end_systolic - known.curves[name].end_systolic)
            for name, curve in strain.curves.items()
        },
        **shape_counts(found, topology),
        "contours": contour_errors(found, subject, topology, wanted.systole),
    }
    if strain.segments is not None and known.segments is not None:
        gap = 100 * np.abs(strain.segments - known.segments)
        scores["segments"] = float(np.nanmean(gap))
    return scores


def mean_scores(
    people: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over people: of numbers, and of contours in a row for each view.

    Signed errors (ejection fraction, strain) are told by their mean size and, behind
    ``_bias``, their mean. People without a score of a view are left out of its mean and
    counted behind ``_undefined``.

    Args:
        people: of :func:`motion_scores`.
    """
    names = [name for name in people[0] if name != "contours"]
    table = {name: np.array([one[name] for one in people]) for name in names}
    means: dict[str, float] = {}
    for name, values in table.items():
        means[name] = float(np.abs(values).mean())
        if name == "ef" or name.startswith("G"):
            means[f"{name}_bias"] = float(values.mean())
    views = []
    for view in VIEWS:
        row: dict[str, Any] = {"view": view}
        for name in people[0]["contours"][view]:
            values = np.array([one["contours"][view][name] for one in people])
            known = np.isfinite(values)
            row[name] = float(values[known].mean()) if known.any() else float("nan")
            if not known.all():
                row[f"{name}_undefined"] = int((~known).sum())
        views.append(row)
    return means, views
