"""Volumes on grids in space: checked, turned, cropped, resampled, and brought back.

A `Grid` is a shape and an affine. Every operation here returns a `Volume` whose affine
says where its voxels now are, so nothing else needs to be remembered: what a network
says on a cropped, turned and resampled grid returns to the scanner's by
`resample(prediction, grid_of(original), ...)`. Where the two grids share their voxels
(after turning, cropping and padding alone) that is exact.

Interpolation is SciPy's, in slabs of planes, so that coordinates of a whole volume are
never held at once.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume

Interpolation = Literal["nearest", "linear", "cubic", "labels"]
"""``labels``: the label with the largest share under linear interpolation."""

_SLAB = 1 << 22
"""Voxels whose coordinates are held at once."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where voxels are.

    Attributes:
        shape: of the three spatial axes.
        affine: voxel indices to mm, 4x4.
    """

    shape: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along each axis."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())


def grid_of(volume: Volume) -> Grid:
    """The grid of a volume's first three axes.

    Raises:
        DataError: if it has fewer.
    """
    if volume.data.ndim < 3:
        raise DataError(f"volume of shape {volume.data.shape}: expected three axes")
    return Grid(volume.data.shape[:3], volume.affine)


def geometry_gap(first: Grid, second: Grid) -> float:
    """How far apart, in mm, two grids of one shape put the same voxel at most.

    Raises:
        DataError: if the shapes differ.
    """
    if first.shape != second.shape:
        raise DataError(f"grids have shapes {first.shape} and {second.shape}")
    ends = [(0, n - 1) for n in first.shape]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], float)
    # The gap is an affine function of the index, so it is largest at a corner.
    return float(
        np.linalg.norm(corners @ (first.affine - second.affine).T, axis=1).max()
    )


def lying_apart(first: Grid, second: Grid) -> float:
    """How far two grids of one shape lie apart in mm, 0 where that is rounding.

    A thousandth of a millimetre for each voxel of the longest axis is no difference:
    programs round.

    Raises:
        DataError: if the shapes differ.
    """
    gap = geometry_gap(first, second)
    return gap if gap > 1e-3 * max(first.shape) else 0.0


def with_geometry_of(
    image: Volume,
    label: Volume,
    *,
    strict: bool = False,
    what: str = "image and label map",
) -> Volume:
    """The label map on its image's grid, if the two belong together.

    Args:
        image: whose geometry is right.
        label: drawn on it.
        strict: refuse geometries that differ (:func:`lying_apart`), rather than warn
            and take the image's.
        what: the two, for messages.

    Raises:
        DataError: if the shapes differ, or the geometries do and ``strict`` is set.
    """
    if gap := lying_apart(grid_of(image), grid_of(label)):
        told = f"{what} lie up to {gap:.3g} mm apart"
        if strict:
            raise DataError(told)
        warnings.warn(f"{told}: the image's geometry is taken", stacklevel=2)
    return _on(grid_of(image), label, label.data)


def to_canonical(volume: Volume) -> Volume:
    """Axes turned and flipped so that indices grow to the right, front and top (RAS).

    No value is interpolated; an oblique volume stays oblique, to the nearest axes.
    """
    grid = grid_of(volume)
    try:
        from nibabel import orientations
    except ImportError as error:
        raise ImportError(
            "turning volumes needs nibabel: pip install 'medjax[medical]'"
        ) from error
    turn = orientations.io_orientation(grid.affine)
    data = orientations.apply_orientation(volume.data, turn)
    affine = grid.affine @ orientations.inv_ornt_aff(turn, grid.shape)
    return _on(Grid(data.shape[:3], affine), volume, np.ascontiguousarray(data))


def bounding_box(
    mask: Bool[np.ndarray, "i j k"], *, margin: int = 0
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and shape of the smallest box around a mask, for :func:`crop`.

    Args:
        mask: what must lie inside; if nothing, the box is the whole grid.
        margin: voxels added on each side, not beyond the grid.
    """
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return (0,) * mask.ndim, mask.shape
    ends = list(zip(found[0], mask.shape, strict=True))
    start = tuple(max(edge.start - margin, 0) for edge, _ in ends)
    stop = [min(edge.stop + margin, n) for edge, n in ends]
    return start, tuple(b - a for a, b in zip(start, stop, strict=True))


def crop(
    volume: Volume, start: Sequence[int], shape: Sequence[int], *, fill: float = 0
) -> Volume:
    """A box of the volume; what it takes in beyond the borders is filled.

    Args:
        volume: any number of axes behind the three of space.
        start: index of the box's first voxel; negative before the volume.
        shape: of the box.
        fill: value beyond the borders.
    """
    grid = grid_of(volume)
    data = np.full((*shape, *volume.data.shape[3:]), fill, volume.data.dtype)
    there, here = [], []
    for first, length, n in zip(start, shape, grid.shape, strict=True):
        low, high = max(first, 0), max(min(first + length, n), max(first, 0))
        there.append(slice(low, high))
        here.append(slice(low - first, high - first))
    data[tuple(here)] = volume.data[tuple(there)]
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ np.asarray(start, float)
    return _on(Grid(tuple(shape), affine), volume, data)


def spaced(grid: Grid, spacing: Sequence[float]) -> Grid:
    """The grid of another voxel size over the same field of view, centred on it.

    Args:
        grid: the old one.
        spacing: mm along each of its axes.

    Raises:
        ValueError: for a size that is not positive.
    """
    if len(spacing) != 3 or not all(0 < s < np.inf for s in spacing):
        raise ValueError(f"spacing {tuple(spacing)}: expected three positive numbers")
    factor = np.asarray(spacing, float) / np.asarray(grid.spacing)
    old = np.asarray(grid.shape)
    new = np.maximum(np.rint(old / factor), 1).astype(int)
    affine = grid.affine.copy()
    affine[:3, :3] *= factor
    corner = (old - 1) / 2 - factor * (new - 1) / 2
    affine[:3, 3] += grid.affine[:3, :3] @ corner
    return Grid(tuple(new.tolist()), affine)


def resample(
    volume: Volume, grid: Grid, *, interpolation: Interpolation, fill: float = 0
) -> Volume:
    """The volume's values at the voxels of another grid.

    Args:
        volume: any number of axes behind the three of space (frames, classes).
        grid: where values are wanted.
        interpolation: ``nearest`` or ``labels`` for label maps, ``linear`` for
            probabilities, ``cubic`` for images.
        fill: value of voxels whose centre lies outside the volume's field of view.

    Returns:
        The dtype of the volume for ``nearest`` and ``labels``, else float32.

    Raises:
        ValueError: for another interpolation.
    """
    if interpolation not in _METHODS:
        raise ValueError(
            f"interpolation={interpolation!r}: expected one of {list(_METHODS)}"
        )
    method = _METHODS[interpolation]
    kept = interpolation in ("nearest", "labels")
    source = grid_of(volume)
    dtype = volume.data.dtype if kept else np.dtype(np.float32)
    data = np.full((*grid.shape, *volume.data.shape[3:]), fill, dtype)
    for rest in np.ndindex(volume.data.shape[3:]):
        values = volume.data[(..., *rest)]
        if interpolation == "cubic":
            # Mirrored borders have exact coefficients; SciPy's others are approximate.
            values = ndimage.spline_filter(values, 3, mode="mirror")
        for planes, points in _points(grid, source):
            inside = _in_view(points, source.shape)
            out = data[(planes, ..., *rest)]
            out[inside] = method(values, points)[inside]
    return _on(grid, volume, data)


@dataclasses.dataclass(frozen=True)
class Passage:
    """Linear interpolation onto another grid of planes that come one after the other.

    What :func:`resample` gives of the whole, to the last bit, with a few planes of the
    source at a time: each axis of either grid is one of the other's (turned, flipped,
    cropped, at another spacing), so that a plane of the grid needs two of the source.

    Attributes:
        source: where values are.
        grid: where they are wanted.
        axis: of the source, along which its planes come.
    """

    source: Grid
    grid: Grid
    axis: int

    def slabs(
        self, before: int, after: int
    ) -> Iterator[
        tuple[tuple[slice, ...], Float[np.ndarray, "3 ..."], Bool[np.ndarray, "..."]]
    ]:
        """What can be filled, now that there are more of the source's planes.

        Args:
            before: planes of the source that there were.
            after: planes that there are now.

        Yields:
            Where in the grid, the source's indices of its voxels, and whether these
            lie in the source's field of view. No plane is needed but those that are
            new and the one before.

        Raises:
            ValueError: for grids whose axes are oblique to each other.
        """
        matrix = _matrix(self.grid, self.source)
        along = np.flatnonzero(matrix[self.axis, :3])
        if len(along) != 1:
            raise ValueError("grids whose axes are oblique to each other")
        axis = int(along[0])
        extent, shape = self.source.shape[self.axis], self.grid.shape
        at = matrix[self.axis, axis] * np.arange(shape[axis]) + matrix[self.axis, 3]
        needed = np.clip(np.ceil(at), 0, extent - 1)
        ready = np.flatnonzero((before <= needed) & (needed < after))
        if not len(ready):
            return
        plane = int(np.prod(shape)) // shape[axis]
        height = max(_SLAB // max(plane, 1), 1)
        for first in range(int(ready[0]), int(ready[-1]) + 1, height):
            place = [slice(0, n) for n in shape]
            place[axis] = slice(first, min(first + height, int(ready[-1]) + 1))
            points = _indices(matrix, place)
            yield tuple(place), points, _in_view(points, self.source.shape)

    def values(
        self, planes: Float[np.ndarray, "i j k"], first: int, points: np.ndarray
    ) -> Float[np.ndarray, "..."]:
        """Interpolated values of a slab, float32.

        Args:
            planes: of the source, all that the slab needs.
            first: the number of the first of them.
            points: of :meth:`slabs`.
        """
        # Whole numbers are taken from small ones: no digit is lost.
        offset = np.zeros((3, *(1,) * (points.ndim - 1)))
        offset[self.axis] = first
        return _linear(planes, points - offset if first else points)


def _points(grid: Grid, source: Grid) -> Iterator[tuple[slice, np.ndarray]]:
    """Slabs of a grid, with the source's indices of their voxels."""
    matrix = _matrix(grid, source)
    height = max(_SLAB // max(grid.shape[1] * grid.shape[2], 1), 1)
    for first in range(0, grid.shape[0], height):
        planes = slice(first, min(first + height, grid.shape[0]))
        yield planes, _indices(matrix, [planes, *(slice(n) for n in grid.shape[1:])])


def _matrix(grid: Grid, source: Grid) -> Float[np.ndarray, "4 4"]:
    """From indices of a grid to those of the source."""
    matrix = np.linalg.solve(source.affine, grid.affine)
    # What is a whole number but for rounding is one: shared voxels stay exact.
    nearest = np.rint(matrix)
    return np.where(np.abs(matrix - nearest) < 1e-6, nearest, matrix)


def _indices(matrix: np.ndarray, place: Sequence[slice]) -> Float[np.ndarray, "3 ..."]:
    """The source's indices of the voxels of a box of the grid."""
    i, j, k = np.ogrid[tuple(place)]
    return np.stack([m[0] * i + m[1] * j + m[2] * k + m[3] for m in matrix[:3]])


def _in_view(points: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Whether a point lies in a voxel, its border included."""
    ends = zip(points, shape, strict=True)
    return np.all([(p >= -0.5 - 1e-6) & (p <= n - 0.5 + 1e-6) for p, n in ends], axis=0)


def _nearest(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(values, points, order=0, mode="nearest")


def _linear(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(
        values, points, order=1, mode="nearest", output=np.float32
    )


def _cubic(coefficients: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(
        coefficients,
        points,
        order=3,
        mode="mirror",
        output=np.float32,
        prefilter=False,
    )


def _labels(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """One label after the other, the best so far kept: two volumes, not one a label."""
    best = np.full(points.shape[1:], -1.0, np.float32)
    chosen = np.zeros(points.shape[1:], values.dtype)
    for label in np.unique(values):
        share = _linear((values == label).astype(np.float32), points)
        better = share > best
        best[better], chosen[better] = share[better], label
    return chosen


_METHODS = {
    "nearest": _nearest,
    "linear": _linear,
    "cubic": _cubic,
    "labels": _labels,
}


def _on(grid: Grid, volume: Volume, data: np.ndarray) -> Volume:
    spacing = tuple(float(s) for s in grid.spacing) + volume.spacing[3:]
    return dataclasses.replace(volume, data=data, affine=grid.affine, spacing=spacing)
