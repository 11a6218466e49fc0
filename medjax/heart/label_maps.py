"""Label maps as data sets store them, and with the codes of this domain.

Sources number structures differently: ACDC calls the right ventricle 1, most others the
left one. Each has one table here, and after reading all maps have the codes of
:data:`medjax.heart.appearance.LABELS`. A table alone cannot see that a folder is of
another source, so it is checked that what is called the left ventricle is the one that
muscle encloses.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int32, Integer

from medjax.data import nifti
from medjax.data.boundary import DataError, in_short
from medjax.heart.appearance import LABELS

SOURCES: Mapping[str, Mapping[int, str]] = {
    "ukb": {1: "lv", 2: "myo", 3: "rv"},
    "ukb along the heart": {1: "lv", 2: "myo", 3: "rv", 4: "la", 5: "ra"},
    "acdc": {1: "rv", 2: "myo", 3: "lv"},
    "mnms": {1: "lv", 2: "myo", 3: "rv"},
    "cheart": {1: "lv", 2: "myo", 4: "rv"},
}
"""What the codes of label maps mean; atria are outside here."""
SYSTOLE = -1
"""In place of a frame's number, for end-systole that only volumes can tell."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Label maps of some frames of a cycle.

    Attributes:
        data: codes of :data:`medjax.heart.appearance.LABELS`.
        frames: which frames of the cycle they are; :data:`SYSTOLE` may be the last.
        affine: voxel indices to mm.
    """

    data: Int32[np.ndarray, "t i j k"]
    frames: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"]


def read_frames(paths: Mapping[int | None, Path], source: str) -> Labels:
    """Label maps of single frames, or of all in one file; empty ones are none.

    Args:
        paths: by frame, or one under ``None``.
        source: key of :data:`SOURCES`.

    Raises:
        DataError: where a file is damaged, holds an unknown code, maps lie on different
            grids, or muscle encloses what is called the right ventricle.
    """
    maps: dict[int, np.ndarray] = {}
    affine = None
    for frame, path in paths.items():
        volume = nifti.read_labels(path, ndim=4 if frame is None else 3)
        if affine is not None and not np.allclose(affine, volume.affine, atol=1e-3):
            raise DataError(f"{path}: lies on another grid than the other frames")
        affine = volume.affine
        several = volume.data if frame is None else volume.data[..., None]
        for i, one in enumerate(np.moveaxis(several, -1, 0)):
            if one.any():
                maps[i if frame is None else frame] = one
    frames = tuple(sorted(maps, key=lambda frame: (frame == SYSTOLE, frame)))
    where = next(iter(paths.values()))
    if affine is None or not frames:
        raise DataError(f"{where}: no frame has a label")
    if len({one.shape for one in maps.values()}) != 1:
        raise DataError(f"{where}: label maps of several shapes")
    stored = np.stack([maps[frame] for frame in frames])
    return Labels(canonical(stored, source, where), frames, affine)


def canonical(
    stored: Integer[np.ndarray, "t i j k"],
    source: str,
    where: str | Path,
    *,
    plane: tuple[int, int] = (1, 2),
) -> Int32[np.ndarray, "t i j k"]:
    """Label maps with the codes of this domain.

    Args:
        stored: with the codes of the source.
        source: key of :data:`SOURCES`.
        where: the file, for messages.
        plane: axes of a short-axis slice.

    Raises:
        DataError: for a code that the source has not, or ventricles that are exchanged.
    """
    table = SOURCES[source]
    found = np.unique(stored)
    unknown = [int(code) for code in found if code and int(code) not in table]
    if unknown:
        raise DataError(
            f"{where}: labels {in_short(found.tolist())}, of which {source} has not "
            f"{in_short(unknown)}; it has {dict(table)}"
        )
    labels = np.zeros(stored.shape, np.int32)
    for code, name in table.items():
        labels[stored == code] = LABELS.get(name, 0)
    left, right = (enclosed(labels, LABELS[name], plane) for name in ("lv", "rv"))
    if right > left:
        if source != "mnms":
            raise DataError(
                f"{where}: muscle encloses what {source} calls the right ventricle "
                f"({right:.0%} of its border, of the left one's {left:.0%}): is this "
                "tree of another --data.format?"
            )
        exchange = np.array([0, LABELS["rv"], LABELS["myo"], LABELS["lv"]], np.int32)
        labels = exchange[labels]
    return labels


def enclosed(
    labels: Integer[np.ndarray, "t i j k"], code: int, plane: tuple[int, int]
) -> float:
    """Share of a structure's border, in short-axis slices, that is with muscle.

    Returns:
        0 to 1; 0.5 where there is no border.
    """
    touching = border = 0
    for axis in plane:
        lines = np.moveaxis(labels, axis, 0)
        for one, other in ((lines[:-1], lines[1:]), (lines[1:], lines[:-1])):
            edge = (one == code) & (other != code)
            border += int(edge.sum())
            touching += int((edge & (other == LABELS["myo"])).sum())
    return touching / border if border else 0.5


def places(
    mask: Bool[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "n 3"]:
    """Where the voxels of a mask are, mm.

    Args:
        mask: of a volume.
        affine: voxel indices to mm.
    """
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
