"""Anyone's cine scan as the examples that a motion system was trained on.

A stack of short-axis slices and, where there are, two long-axis views are laid on the
pixels that the run's images had: as wide, as many, centred on the mesh, and turned as
the phantom's are. Seen from the apex the septum is on the left, slices go from apex to
base, and in long-axis views the base is on top. A slice stays where it was taken; only
a system whose slices are channels (DeepMesh) has the stack resampled to as many as it
knows. A view that is absent is a masked plane of zeros.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.data.volumes import Grid, resample
from medjax.heart.aha import cavity_axis, septal_direction
from medjax.heart.meshes import Topology
from medjax.heart.scanning import ScanConfig

VIEWS = ("2ch", "4ch")


class Cine(NamedTuple):
    """Images of one heart over the cycle, end-diastole first.

    Attributes:
        images: short-axis slices, then 2CH and 4CH.
        planes: origins and steps, mm.
        mask: 1 where there is an image.
        times: shares of the cycle.
    """

    images: Float32[np.ndarray, "t p h w"]
    planes: Float32[np.ndarray, "p 3 3"]
    mask: Float32[np.ndarray, " p"]
    times: Float32[np.ndarray, " t"]

    def example(
        self, frame: int, vertices: Float[np.ndarray, "n 3"]
    ) -> dict[str, np.ndarray]:
        """End-diastole and a frame, as :mod:`medjax.heart.batch` has them, without the
        axis ``b``.

        Args:
            frame: which.
            vertices: the mesh at end-diastole, or roughly it, mm.
        """
        both, views = self.images[[0, frame]], len(VIEWS)
        return {
            "sax": both[:, :-views],
            "lax": both[:, -views:],
            "planes": self.planes,
            "plane_mask": self.mask,
            "time": self.times[frame],
            "vertices_ed": vertices.astype(np.float32),
            "vertices_init": vertices.astype(np.float32),
        }


def heart_directions(
    vertices: Float[np.ndarray, "n 3"],
    topology: Topology,
    septum: Float[np.ndarray, " 3"] | None,
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"] | None]:
    """From apex to base, and across it to the septum; None where nothing says where.

    Args:
        vertices: mm, at end-diastole.
        topology: with ``endo`` open at the base.
        septum: towards the septum; None: where the surface ``rv`` is.

    Raises:
        ValueError: for a mesh without ``endo``, or one without an opening, or a septum
            along the axis.
    """
    apex, base = cavity_axis(vertices, topology)
    along = (base - apex) / np.linalg.norm(base - apex)
    if septum is None and "rv" in topology.names:
        right = topology.surface == topology.code("rv")
        septum = vertices[right].mean(0) - 0.5 * (apex + base)
    if septum is None:
        return along, None
    return along, septal_direction(septum, (apex, base))


def prepare(
    sax: Volume,
    views: Mapping[str, Volume],
    vertices: Float[np.ndarray, "n 3"],
    topology: Topology,
    scan: ScanConfig,
    *,
    septum: Float[np.ndarray, " 3"] | None = None,
    diastole: int = 0,
    resliced: bool = False,
) -> Cine:
    """A scan on the pixels that a run knows.

    Args:
        sax: short-axis stack, frames last.
        views: long-axis views by the names of :data:`VIEWS`, one slice each.
        vertices: of the mesh at end-diastole, or roughly it, in the scanner's mm.
        topology: of the mesh.
        scan: of the run: size and spacing of pixels, number and distance of slices.
        septum: towards the septum, for a mesh without a right ventricle.
        diastole: frame of end-diastole; it becomes the first.
        resliced: bring the stack to the run's number of slices and their distance.

    Raises:
        DataError: for a scan that has no frames, views with other ones, or a mesh that
            is not where the stack is.
        ValueError: for a frame that is not there, or an unknown view.
    """
    every = {"sax": sax, **views}
    if unknown := set(views) - set(VIEWS):
        raise ValueError(f"views {sorted(unknown)}: expected some of {VIEWS}")
    frames = sax.data.shape[3] if sax.data.ndim == 4 else 1
    for name, volume in every.items():
        shape = volume.data.shape
        if len(shape) != 4 or shape[3] != frames or frames < 2:
            raise DataError(
                f"{name}: images of shape {shape}, expected rows, columns, slices and "
                "as many frames in every view, two at least"
            )
        if name != "sax" and shape[2] != 1:
            raise DataError(f"{name}: {shape[2]} slices, expected one")
    if not 0 <= diastole < frames:
        raise ValueError(f"diastole is frame {diastole}, expected 0 to {frames - 1}")
    along, across = heart_directions(vertices, topology, septum)
    wall = vertices[topology.surface == topology.code("endo")]
    centre = 0.5 * (wall.min(0) + wall.max(0))
    grids = [_stack(sax, centre, along, across, scan, resliced)]
    for name in VIEWS:
        if name in views:
            grids.append(_view(views[name], centre, along, grids[0], name, scan))
    parts, planes, mask = [], [], []
    found = dict(zip(["sax", *(n for n in VIEWS if n in views)], grids, strict=True))
    for name in ("sax", *VIEWS):
        grid = found.get(name)
        if grid is None:
            parts.append(np.zeros((frames, 1, scan.size, scan.size), np.float32))
            planes.append(planes[0][:1])
            mask.append(np.zeros(1))
            continue
        there = resample(every[name], grid, interpolation="linear")
        parts.append(np.transpose(there.data, (3, 2, 0, 1)))
        planes.append(_planes(grid))
        mask.append(np.ones(grid.shape[2]))
    if not parts[0][diastole].any():
        raise DataError(
            "mesh: no short-axis image is where the mesh is; both have to be in the "
            "scanner's millimetres"
        )
    images = np.roll(np.concatenate(parts, axis=1), -diastole, axis=0)
    return Cine(
        images.astype(np.float32),
        np.concatenate(planes).astype(np.float32),
        np.concatenate(mask).astype(np.float32),
        (np.arange(frames) / frames).astype(np.float32),
    )


def _stack(
    sax: Volume,
    centre: Float[np.ndarray, " 3"],
    along: Float[np.ndarray, " 3"],
    across: Float[np.ndarray, " 3"] | None,
    scan: ScanConfig,
    resliced: bool,
) -> Grid:
    """Where the short-axis pixels are to be; slices from apex to base."""
    step = sax.affine[:3, 2]
    normal = step / np.linalg.norm(step)
    # The slices' own normal, not the mesh's axis: slices stay what they were.
    up = normal if normal @ along > 0 else -normal
    side = sax.affine[:3, 1] if across is None else -across
    columns = side - (side @ up) * up
    columns /= np.linalg.norm(columns)
    # Rows, columns and the way to the apex are right-handed, as in the phantom's scans.
    rows = np.cross(up, columns)
    count, gap = sax.data.shape[2], float(np.linalg.norm(step))
    first = (sax.affine[:3, 3] - centre) @ up
    if step @ up < 0:
        first -= (count - 1) * gap
    if resliced:
        count, gap = scan.slices, scan.gap
        first = -0.5 * (count - 1) * gap
    return _grid(centre + first * up, rows, columns, gap * up, count, scan)


def _view(
    volume: Volume,
    centre: Float[np.ndarray, " 3"],
    along: Float[np.ndarray, " 3"],
    stack: Grid,
    name: str,
    scan: ScanConfig,
) -> Grid:
    """Where the pixels of a long-axis view are to be: the base on top."""
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    normal /= np.linalg.norm(normal)
    rows = -along + (along @ normal) * normal
    rows /= np.linalg.norm(rows)
    columns = np.cross(normal, rows)
    # As anterior to inferior and septal to lateral are in the stack.
    like = stack.affine[:3, 0 if name == "2ch" else 1]
    columns = columns if columns @ like > 0 else -columns
    away = (volume.affine[:3, 3] - centre) @ normal
    thick = max(float(np.linalg.norm(volume.affine[:3, 2])), 1.0)
    return _grid(centre + away * normal, rows, columns, thick * normal, 1, scan)


def _grid(
    middle: Float[np.ndarray, " 3"],
    rows: Float[np.ndarray, " 3"],
    columns: Float[np.ndarray, " 3"],
    step: Float[np.ndarray, " 3"],
    count: int,
    scan: ScanConfig,
) -> Grid:
    """Square slices about a place of the first one."""
    affine = np.eye(4)
    half = 0.5 * (scan.size - 1) * scan.spacing
    affine[:3, 0], affine[:3, 1] = scan.spacing * rows, scan.spacing * columns
    affine[:3, 2] = step
    affine[:3, 3] = middle - half * (rows + columns)
    return Grid((scan.size, scan.size, count), affine)


def _planes(grid: Grid) -> Float[np.ndarray, "p 3 3"]:
    """Origins and steps of a grid's slices."""
    rows, columns, step, first = grid.affine[:3].T
    origins = first + np.arange(grid.shape[2])[:, None] * step
    both = np.broadcast_to([rows, columns], (len(origins), 2, 3))
    return np.concatenate([origins[:, None], both], axis=1)
