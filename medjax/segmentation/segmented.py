"""What is said of an image, in memory and as files."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medjax.data.nifti import Volume, write
from medjax.data.whole import whole
from medjax.segmentation.labels import Labels


@dataclasses.dataclass(frozen=True)
class Segmented:
    """What a network says of one image, on the image's grid.

    Attributes:
        id: Of the image.
        labels: Values as in the files of the training set; a fourth axis of frames
            where the image has them.
        maps: By name, a last axis of channels where there are several.
    """

    id: str
    labels: Volume
    maps: Mapping[str, Volume]


def in_motion(frames: Sequence[Segmented], step: float | None) -> Segmented:
    """What is said of the frames of one image, together.

    Args:
        frames: One at least.
        step: Seconds from frame to frame.
    """
    first, *others = frames
    if not others:
        return first
    maps = {key: moving([f.maps[key] for f in frames], step) for key in first.maps}
    return Segmented(first.id, moving([f.labels for f in frames], step), maps)


def moving(frames: Sequence[Volume], step: float | None) -> Volume:
    """Frames on a fourth axis, before one of channels; seconds between them."""
    data = np.stack([frame.data for frame in frames], axis=3)
    return dataclasses.replace(frames[0], data=data, time_step=step)


def save(found: Segmented, folder: Path, labels: Labels, *, step: int) -> list[Path]:
    """Writes a label map and maps as NIfTI, and ``<id>.json`` with its volumes.

    Of an image with frames, volumes are lists.

    Args:
        found: What is said.
        folder: Made where it is missing.
        labels: Of the network.
        step: Updates behind its weights.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"": found.labels} | {f"_{k}": v for k, v in found.maps.items()}
    paths = []
    for suffix, volume in files.items():
        path = folder / f"{found.id}{suffix}.nii.gz"
        write(path, volume.data, affine=volume.affine, time_step=volume.time_step)
        paths.append(path)
    voxel = float(np.prod(found.labels.spacing)) / 1000
    inside = {
        name: np.isin(found.labels.data, value).sum((0, 1, 2))
        for name, value in labels.structures.items()
    }
    volumes = {name: (n * voxel).tolist() for name, n in inside.items()}
    summary = {
        "id": found.id,
        "files": [path.name for path in paths],
        "volume_ml": volumes,
        "step": step,
    }
    path = folder / f"{found.id}.json"
    with whole(path) as draft:
        draft.write_text(json.dumps(summary, indent=1) + "\n")
    return [*paths, path]
