"""Hearts to follow from DeepMesh's folders: images as they lie there, and contours.

A folder knows the mesh at end-diastole and, in every frame, the pixels of the muscle
that border on something else: on nine of the short-axis slices and on both long-axis
views. What they enclose is muscle or cavity, and borders between these are what a
system learns from. Nothing says where vertices are in later frames: they are NaN, and
only contours have scores.

Images are neither moved nor turned, since the layout is cut to the network's size: that
of the run has to be the folder's. Only slices that go from base to apex are put the
other way round.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from medjax.data.boundary import DataError
from medjax.data.meshes import Mesh
from medjax.heart.aha import cavity_axis
from medjax.heart.appearance import LABELS
from medjax.heart.data import nearest_frames
from medjax.heart.meshes import Topology, in_millimetres, oriented, unit
from medjax.heart.motion_trees import borders
from medjax.heart.scanning import ScanConfig
from medjax.heart.subject import PROJECTED, VIEWS, Subject
from medjax.heart.trees import DEPTHS, DeepMeshSubject, read_deepmesh, sheets

WALLS = ("endo", "epi")
INNER = 0.75
"""Share of the contour beside a cavity that is the inner one, at least."""
CLOSED = 3
"""Slices on which contours enclose a cavity at end-diastole, at least."""


def folder_mesh(folder: Path) -> Mesh:
    """The template of a subject, its walls told apart, faces outwards.

    Args:
        folder: of the subject.

    Raises:
        FileNotFoundError: for a file that is absent.
        DataError: for one that is damaged, or a mesh that is not of two sheets.
        ValueError: for one that is no heart's size.
    """
    found = read_deepmesh(folder)
    in_millimetres(found.template)
    faces = oriented(found.template.astype(np.float64), found.faces)
    surface = sheets(Mesh(found.template, faces), folder)
    return Mesh(found.template, faces, surface)


def wall_topology(mesh: Mesh) -> Topology:
    """The topology of a mesh of :func:`folder_mesh`."""
    assert mesh.surface is not None
    return Topology.of(mesh.faces, len(mesh.vertices), mesh.surface, WALLS)


def read_folder(folder: Path, scan: ScanConfig, mesh: Mesh, *, points: int) -> Subject:
    """One subject.

    The septum, which no file tells, is taken to be where columns begin.

    Args:
        folder: of the subject.
        scan: frames, and size, spacing, number and distance of slices.
        mesh: of :func:`folder_mesh`, whose triangles all subjects have.
        points: of each surface's contour on a plane.

    Raises:
        FileNotFoundError: for a file that is absent.
        DataError: where a file is damaged, images are not of the run's size, contours
            are not closed, or the mesh has other triangles.
        ValueError: for a mesh that is no heart's size.
    """
    found = read_deepmesh(folder)
    in_millimetres(found.truth)
    if not np.array_equal(_turned_alike(found.faces), _turned_alike(mesh.faces)):
        raise DataError(
            f"{folder}: {len(found.faces)} triangles, not those of the first subject "
            f"({len(mesh.faces)}): expected one template for all"
        )
    _expect_size(folder, found, scan)
    cycle = found.images["sa"].data.shape[3]
    frames = nearest_frames(cycle, scan.frames)
    images, planes = [], []
    for view, image in found.images.items():
        images.append(np.transpose(image.data[..., frames], (3, 2, 0, 1)))
        planes.append(found.planes(view))
    labels, known = _labels(found, frames)
    closed = (labels[0, :-VIEWS] == LABELS["lv"]).any((1, 2)).sum()
    if closed < CLOSED:
        raise DataError(
            f"{folder}: contours of end-diastole enclose a cavity on {closed} "
            f"short-axis slices, expected {CLOSED} at least: are they closed?"
        )
    order = np.arange(len(known))
    stack = planes[0]
    apex, base = cavity_axis(found.truth.astype(np.float64), wall_topology(mesh))
    if (stack[-1, 0] - stack[0, 0]) @ (base - apex) < 0:
        order[:-VIEWS] = order[:-VIEWS][::-1]
    placed = np.concatenate(planes)[order].astype(np.float32)
    labels = labels[:, order]
    traced = [borders(one, placed, WALLS, points, views=VIEWS) for one in labels]
    met, there, compared = _projected(folder, found)
    vertices = np.full((len(frames), *found.truth.shape), np.nan, np.float32)
    vertices[0] = found.truth
    along, side = unit(base - apex), -stack[0, 2]
    return Subject(
        images=np.concatenate(images, axis=1)[:, order].astype(np.float32),
        labels=labels,
        planes=placed,
        plane_mask=np.ones(len(order), np.float32),
        label_mask=known[order],
        times=(frames / cycle).astype(np.float32),
        vertices=vertices,
        template=found.template,
        contours=np.stack([one.points for one in traced]),
        contour_mask=np.stack([one.mask for one in traced]),
        contour_surface=traced[0].surface,
        septum=unit(side - (side @ along) * along),
        infarct=np.zeros(len(found.template), np.float32),
        projected=met[order],
        projected_mask=there[order],
        projected_planes=compared[order],
    )


def _projected(
    folder: Path, found: DeepMeshSubject
) -> tuple[
    Float32[np.ndarray, "p q 2"], Float32[np.ndarray, "p q"], Float32[np.ndarray, " p"]
]:
    """Pixels where the true mesh meets planes, in mm, which of them there are, and
    which planes are compared: the last slice of the files is not, as released.

    Where there are more than there is room for, some are left out, evenly.

    Raises:
        DataError: for arrays of another size than the images.
    """
    points, masks = [], []
    for view, met in found.projections.items():
        size = found.images[view].data.shape[:3]
        if met.shape != (size if view == "sa" else size[:2]):
            raise DataError(
                f"{folder}: {view} has images of {size} and a projected mesh of "
                f"{met.shape}, expected as many pixels"
            )
        steps = np.linalg.norm(found.affines[view][:3, :2], axis=0)
        for k in range(size[2]):
            at = np.argwhere(met.reshape(size)[:, :, k]) * steps
            if len(at) > PROJECTED:
                at = at[np.arange(PROJECTED) * len(at) // PROJECTED]
            points.append(np.pad(at, ((0, PROJECTED - len(at)), (0, 0))))
            masks.append(np.arange(PROJECTED) < len(at))
    compared = np.ones(len(points), np.float32)
    compared[-VIEWS - 1] = 0.0
    both = np.stack(points).astype(np.float32), np.stack(masks).astype(np.float32)
    return *both, compared


def _turned_alike(faces: Int32[np.ndarray, "f 3"]) -> Int32[np.ndarray, "f 3"]:
    """Corners sorted: the same for a triangle and its other side."""
    return np.sort(faces, axis=1)


def _expect_size(folder: Path, found: DeepMeshSubject, scan: ScanConfig) -> None:
    """Refuses images that are not as the run's are.

    Raises:
        DataError: naming both.
    """
    size = (scan.size, scan.size)
    slices = {"sa": scan.slices, "2ch": 1, "4ch": 1}
    for view, image in found.images.items():
        shape = image.data.shape
        if shape[:3] != (*size, slices[view]) or shape[3] < scan.frames:
            raise DataError(
                f"{folder}: {view} has images of {shape}, expected "
                f"{(*size, slices[view])} and {scan.frames} frames at least: "
                "data.scan.size, data.scan.slices and data.scan.frames"
            )
        steps = np.linalg.norm(found.affines[view][:3, :3], axis=0)
        wanted = np.array([scan.spacing, scan.spacing, scan.gap])
        compared = slice(0, 3 if view == "sa" else 2)
        if not np.allclose(steps[compared], wanted[compared], rtol=0.01):
            told = " x ".join(f"{step:.3g}" for step in steps)
            raise DataError(
                f"{folder}: {view} has voxels of {told} mm, expected data.scan.spacing "
                f"{scan.spacing} and data.scan.gap {scan.gap}"
            )


def _labels(
    found: DeepMeshSubject, frames: np.ndarray
) -> tuple[UInt8[np.ndarray, "t p h w"], Float[np.ndarray, " p"]]:
    """Label maps on all planes, and on which of them contours are drawn.

    Raises:
        DataError: for another number of slices with contours than nine.
    """
    size = *found.images["sa"].data.shape[:2], found.images["sa"].data.shape[2]
    labels = np.zeros((len(frames), size[2] + VIEWS, *size[:2]), np.uint8)
    known = np.zeros(size[2] + VIEWS, np.float32)
    rows = {"sa": np.rint(DEPTHS * size[2]).astype(int)}
    rows |= {"2ch": np.array([size[2]]), "4ch": np.array([size[2] + 1])}
    for view, contours in found.contours.items():
        if contours.shape[2] != len(rows[view]):
            raise DataError(
                f"contour_{view}.npy: {contours.shape[2]} slices, expected "
                f"{len(rows[view])}"
            )
        for k, row in enumerate(rows[view]):
            for t, frame in enumerate(frames):
                drawn = contours[:, :, k, frame] != 0
                labels[t, row] = filled(drawn, open_base=view != "sa")
            # No contour on a slice: no heart. A view always shows one, if it was drawn.
            known[row] = view == "sa" or (labels[:, row] > 0).any((1, 2)).all()
    return labels, known


def filled(
    contour: Bool[np.ndarray, "h w"], *, open_base: bool
) -> UInt8[np.ndarray, "h w"]:
    """Muscle and cavity of a contour.

    The contour is of pixels of muscle that border on something else. A region within
    it is cavity where hardly any of the contour beside it borders on the outside: a
    ring that does is one wall's, and what it encloses is muscle.

    Args:
        contour: true on it.
        open_base: of a view along the heart, where muscle does not go around the
            cavity: it lies between muscle and the straight line from rim to rim.
    """
    labels = np.where(contour, LABELS["myo"], 0).astype(np.uint8)
    parts, count = _parts(np.pad(~contour, 1, constant_values=True))
    outside = parts == parts[0, 0]
    rim = ndimage.binary_dilation(outside)[1:-1, 1:-1] & contour
    for k in range(1, count + 1):
        part = (parts == k)[1:-1, 1:-1]
        if k == parts[0, 0]:
            continue
        beside = ndimage.binary_dilation(part) & contour
        inner = (beside & ~rim).sum() / beside.sum()
        labels[part] = LABELS["lv" if inner > INNER else "myo"]
    if open_base and not (labels == LABELS["lv"]).any():
        parts, count = _parts(_hull(labels > 0) & (labels == 0))
        if count:
            sizes = np.bincount(parts.ravel())[1:]
            labels[parts == 1 + int(np.argmax(sizes))] = LABELS["lv"]
    return labels


def _parts(mask: Bool[np.ndarray, "h w"]) -> tuple[Int32[np.ndarray, "h w"], int]:
    """Connected regions, numbered from 1, and how many there are."""
    found: Any = ndimage.label(mask)
    return found


def _hull(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels whose centres the convex hull of others' holds; none of what is a line."""
    try:
        sides = ConvexHull(np.argwhere(mask)).equations
    except (QhullError, ValueError):
        return np.zeros(mask.shape, bool)
    at = np.moveaxis(np.indices(mask.shape), 0, -1)
    return np.all(at @ sides[:, :2].T + sides[:, 2] <= 1e-6, axis=-1)
