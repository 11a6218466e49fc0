"""Moving meshes and their contours as pictures, drawn through Pillow.

A mesh is seen from two sides: the painter's algorithm, far triangles first, lit from
where the reader stands. Contours are the true sections of a mesh with image planes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from medjax.heart.contours import sections
from medjax.heart.meshes import Topology, face_normals
from medjax.report.picture import LABELS, Animation, enlarged, grey

BACKGROUND = (20, 20, 24)
MARGIN = 0.06
"""Of a picture's side, free around the mesh."""
MOST = 16
"""Frames of a moving mesh."""
COLOURS = {"truth": (90, 220, 130), "found": (255, 150, 60)}
"""Of contours."""


def view_axes(
    along: Float[np.ndarray, " 3"], septum: Float[np.ndarray, " 3"]
) -> list[Float[np.ndarray, "3 3"]]:
    """Two views of a heart, the base on top: from in front, and from its left side.

    Rows of each are what is to the right, what is up, and what is near.

    Args:
        along: from apex to base.
        septum: across it, towards the septum.
    """
    up = along / np.linalg.norm(along)
    right = septum - (septum @ up) * up
    right = -right / np.linalg.norm(right)
    near = np.cross(right, up)
    return [np.stack([right, up, near]), np.stack([-near, up, right])]


def painted(
    vertices: Float[np.ndarray, "t n 3"],
    topology: Topology,
    axes: Float[np.ndarray, "3 3"],
    *,
    side: int = 192,
    box: tuple[Float[np.ndarray, " 2"], float] | None = None,
) -> UInt8[np.ndarray, "t side side 3"]:
    """A moving mesh from one side; all surfaces, each in its label's colour.

    Args:
        vertices: mm.
        topology: with the faces.
        axes: of :func:`view_axes`.
        side: pixels of the square.
        box: middle and extent, mm, of what is shown; of :func:`box_of` for this mesh
            where not given. Pictures of one box can be compared.
    """
    middle, extent = box_of(vertices, axes) if box is None else box
    palette = LABELS[topology.surface[topology.faces[:, 0]] % len(LABELS)]
    scale = (1 - 2 * MARGIN) * side / extent
    pictures = []
    for frame in vertices.astype(np.float64):
        at = frame @ axes.T
        normal = np.asarray(face_normals(frame, topology)) @ axes.T
        # An open wall is seen from within as well.
        light = 0.35 + 0.65 * np.abs(normal[:, 2])
        ink = (palette * light[:, None]).astype(int)
        places = (at[:, :2] - middle) * scale * (1, -1) + 0.5 * side
        image = Image.new("RGB", (side, side), BACKGROUND)
        pen = ImageDraw.Draw(image)
        depth = at[topology.faces, 2].mean(1)
        for face in np.argsort(depth):
            corners = places[topology.faces[face]].reshape(-1).tolist()
            pen.polygon(corners, fill=tuple(ink[face].tolist()))
        pictures.append(np.asarray(image))
    return np.stack(pictures)


def box_of(
    vertices: Float[np.ndarray, "t n 3"], axes: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, " 2"], float]:
    """Middle and extent of what a view has to show, mm."""
    at = vertices.reshape(-1, 3).astype(np.float64) @ axes[:2].T
    low, high = at.min(0), at.max(0)
    return 0.5 * (low + high), float((high - low).max())


def side_by_side(
    meshes: Sequence[Float[np.ndarray, "t n 3"]],
    topology: Topology,
    along: Float[np.ndarray, " 3"],
    septum: Float[np.ndarray, " 3"],
    *,
    side: int = 192,
) -> UInt8[np.ndarray, "t y x 3"]:
    """Meshes from two views, a row for each mesh, all at one scale.

    Args:
        meshes: vertices of each, mm.
        topology: of all.
        along: from apex to base.
        septum: towards the septum.
        side: pixels of each picture.
    """
    every = np.concatenate(meshes)
    columns = []
    for axes in view_axes(along, septum):
        box = box_of(every, axes)
        rows = [painted(m, topology, axes, side=side, box=box) for m in meshes]
        columns.append(np.concatenate(rows, axis=1))
    return np.concatenate(columns, axis=2)


def moving_pair(
    meshes: Sequence[Float[np.ndarray, "t n 3"]],
    topology: Topology,
    along: Float[np.ndarray, " 3"],
    septum: Float[np.ndarray, " 3"],
) -> Animation:
    """Meshes from two views in motion, at most :data:`MOST` frames of the cycle.

    Args:
        meshes: vertices of each, mm.
        topology: of all.
        along: from apex to base.
        septum: towards the septum.
    """
    count = len(meshes[0])
    frames = np.unique(np.linspace(0, count, MOST, endpoint=False).astype(int))
    chosen = [mesh[frames] for mesh in meshes]
    return Animation(side_by_side(chosen, topology, along, septum), rate=8.0)


def contoured(
    image: Float[np.ndarray, "h w"],
    plane: Float[np.ndarray, "3 3"],
    topology: Topology,
    meshes: Sequence[tuple[Float[np.ndarray, "n 3"], tuple[int, int, int]]],
    *,
    points: Float[np.ndarray, "m 2"] | None = None,
    side: int = 192,
) -> UInt8[np.ndarray, "y x 3"]:
    """An image with the sections of meshes drawn into it.

    Args:
        image: of the plane.
        plane: origin and steps, mm.
        topology: of the meshes.
        meshes: vertices of each, mm, and its colour; later ones on top.
        points: of a contour that is known, mm along rows and columns; drawn below, in
            the colour of the truth.
        side: pixels of the shorter side at least.
    """
    top = float(np.percentile(image, 99.5))
    large = enlarged(grey(image, 0.0, max(top, 1e-6)), side)
    times = large.shape[0] / image.shape[0]
    canvas = Image.fromarray(np.repeat(large[..., None], 3, axis=-1))
    pen = ImageDraw.Draw(canvas)
    spacing = np.linalg.norm(np.asarray(plane, np.float64)[1:], axis=1)
    dots = np.zeros((0, 2)) if points is None else points
    for down, right in (dots / spacing + 0.5) * times:
        box = (right - 1, down - 1, right + 1, down + 1)
        pen.ellipse(box, fill=COLOURS["truth"])
    for vertices, colour in meshes:
        segments, _ = sections(vertices, topology, plane)
        # The middle of pixel 0 is half a pixel inside the picture.
        places = (segments / spacing + 0.5) * times
        for (top_, left), (down, right) in places:
            pen.line((left, top_, right, down), fill=colour, width=1)
    return np.asarray(canvas)
