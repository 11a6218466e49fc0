"""A case as the network sees it.

Channels are checked to lie on one grid, turned so that indices grow to the right, front
and top, cropped to what is not zero, brought to the data set's voxel size, and
normalised (nnU-Net's steps in its order). Every step keeps the affine right, so going
back is one resampling onto the original grid (:mod:`.restoring`).

Images are interpolated by cubic splines; but where voxels are more than three times as
long along one axis as along the others, only within their planes, and by the nearest
slice across them.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.data.volumes import (
    Grid,
    bounding_box,
    crop,
    grid_of,
    resample,
    spaced,
    to_canonical,
    with_geometry_of,
)
from medjax.segmentation.labels import Labels

Scheme = Literal["zscore", "ct", "none"]


@dataclasses.dataclass(frozen=True)
class Channel:
    """How one channel of an image is normalised."""

    name: str
    """As the data set calls it."""
    scheme: Scheme = "zscore"
    """By the image's own mean and deviation; for CT, cut to a range and by the data
    set's; or not at all."""
    mean: float = 0.0
    """Of the data set's foreground, for CT."""
    deviation: float = 1.0
    """Of the data set's foreground, for CT."""
    low: float = 0.0
    """Half a percent of the foreground lies below, for CT."""
    high: float = 0.0
    """Half a percent of the foreground lies above, for CT."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to every case of a data set."""

    channels: tuple[Channel, ...]
    """Of the image."""
    spacing: tuple[float | None, ...]
    """Voxel size to the right, front and top, mm; None: as it is."""
    order: tuple[int, ...] = (2, 0, 1)
    """Those axes as the network has them, the one with the longest voxels first."""
    masked: bool = False
    """Take mean and deviation where the image is not zero, and leave zeros zero."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A case in the network's axes.

    Attributes:
        id: Of the case.
        image: Normalised.
        label: Inside labels, or nothing.
        grid: Of the image, its axes in the order of space.
        original: Of the file.
    """

    id: str
    image: Float[np.ndarray, "z y x c"]
    label: Int[np.ndarray, "z y x"] | None
    grid: Grid
    original: Grid


def prepare(
    images: Sequence[Volume],
    preparation: Preparation,
    *,
    id: str,
    label: Volume | None = None,
    labels: Labels | None = None,
) -> Prepared:
    """One case.

    Args:
        images: A volume for each channel, of three axes, on one grid.
        preparation: Of the data set.
        id: Of the case, for messages.
        label: Values of a file.
        labels: What they are; with ``label``.

    Raises:
        DataError: For shapes that differ, another number of channels, or labels that
            the data set does not have.
    """
    if len(images) != len(preparation.channels):
        names = [channel.name for channel in preparation.channels]
        raise DataError(f"{id}: {len(images)} images, expected {names}")
    first = images[0]
    turned, there = together(images, id=id)
    start, shape = bounding_box(there)
    cropped = [crop(v, start, shape) for v in turned]
    grid = target_grid(grid_of(cropped[0]), preparation.spacing)
    mask = None
    if preparation.masked:
        inside = dataclasses.replace(turned[0], data=there.astype(np.uint8))
        inside = crop(inside, start, shape)
        mask = resample(inside, grid, interpolation="nearest").data > 0
    channels = [
        normalise(resampled(v, grid).data, channel, mask, id)
        for v, channel in zip(cropped, preparation.channels, strict=True)
    ]
    found = None
    if label is not None and labels is not None:
        drawn = with_geometry_of(first, label, what=f"{id}: image and label map")
        inside = labels.read(drawn.data, id)
        drawn = to_canonical(dataclasses.replace(drawn, data=inside))
        drawn = crop(drawn, start, shape)
        found = resample(drawn, grid, interpolation="labels").data
        found = np.transpose(found, preparation.order)
    image = np.transpose(np.stack(channels, -1), (*preparation.order, 3))
    return Prepared(id, image, found, grid, grid_of(first))


def together(
    images: Sequence[Volume], *, id: str
) -> tuple[list[Volume], Bool[np.ndarray, "i j k"]]:
    """Channels on the grid of the first, turned, and where any of them is not zero.

    Args:
        images: A volume for each channel.
        id: Of the case, for warnings of geometries that differ.

    Returns:
        Canonical volumes, and the mask, its holes filled.

    Raises:
        DataError: For shapes that differ.
    """
    first, *others = images
    what = f"{id}: channels"
    on_one = [first, *(with_geometry_of(first, v, what=what) for v in others)]
    turned = [to_canonical(volume) for volume in on_one]
    there = np.any([volume.data != 0 for volume in turned], axis=0)
    return turned, np.asarray(ndimage.binary_fill_holes(there), bool)


def target_grid(grid: Grid, spacing: Sequence[float | None]) -> Grid:
    """The grid of another voxel size; itself where nothing changes."""
    wanted = [b if a is None else a for a, b in zip(spacing, grid.spacing, strict=True)]
    return (
        grid if np.allclose(wanted, grid.spacing, rtol=1e-3) else spaced(grid, wanted)
    )


def resampled(volume: Volume, grid: Grid) -> Volume:
    """An image on another grid of the same axes: cubic, but not across thick slices."""
    source = grid_of(volume)
    if source.shape == grid.shape and np.array_equal(source.affine, grid.affine):
        return volume
    for spacing in (source.spacing, grid.spacing):
        axis = int(np.argmax(spacing))
        others = [s for i, s in enumerate(spacing) if i != axis]
        if spacing[axis] > 3 * max(others):
            plane = list(grid.spacing)
            plane[axis] = source.spacing[axis]
            within = spaced(source, plane)
            flat = resample(volume, within, interpolation="cubic")
            return resample(flat, grid, interpolation="nearest")
    return resample(volume, grid, interpolation="cubic")


def normalise(
    values: Float[np.ndarray, "i j k"],
    channel: Channel,
    mask: Bool[np.ndarray, "i j k"] | None,
    what: str,
) -> Float[np.ndarray, "i j k"]:
    """One channel, about 0 and of deviation 1.

    Args:
        values: As they were measured.
        channel: How.
        mask: Where to take the image's own mean and deviation; zero elsewhere.
        what: The case, for warnings.
    """
    values = values.astype(np.float32)
    if channel.scheme == "none":
        return values
    if channel.scheme == "ct":
        cut = np.clip(values, channel.low, channel.high)
        return (cut - np.float32(channel.mean)) / np.float32(channel.deviation)
    counted = values if mask is None or not mask.any() else values[mask]
    deviation = float(counted.std())
    if not deviation > 1e-8:
        warnings.warn(f"{what}: {channel.name} is constant", stacklevel=2)
        return np.zeros_like(values)
    values = (values - np.float32(counted.mean())) / np.float32(deviation)
    return values if mask is None else values * mask
