"""NIfTI volumes: arrays with the geometry that distances in mm need.

Opened through nibabel (extra ``medical``), copied, and closed. Labels are checked to be
whole numbers, because masks saved by other tools are often floating point.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped


@dataclasses.dataclass(frozen=True)
class Volume:
    """A NIfTI image.

    Attributes:
        data: values in the file's axis order; a trailing axis of size one is dropped.
        affine: voxel indices to mm, 4x4.
        spacing: voxel size in mm of the first three axes (then the file's own unit).
    """

    data: Shaped[np.ndarray, "..."]
    affine: Float[np.ndarray, "4 4"]
    spacing: tuple[float, ...]


def read(path: str | Path, *, ndim: int | None = None) -> Volume:
    """Read a volume as float32 (rescaling applied).

    Args:
        path: ``.nii`` or ``.nii.gz``.
        ndim: expected number of axes after dropping trailing ones of size one.

    Returns:
        The volume.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is damaged or has another rank.
    """
    return _load(Path(path), ndim, np.float32)


def read_labels(path: str | Path, *, ndim: int | None = None) -> Volume:
    """Read a label map as int32.

    Args:
        path: ``.nii`` or ``.nii.gz``; whole numbers in any stored type.
        ndim: expected number of axes after dropping trailing ones of size one.

    Returns:
        The volume.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is damaged, has another rank, or holds fractions.
    """
    volume = _load(Path(path), ndim, np.float64)
    labels = np.rint(volume.data)
    worst = np.abs(labels - volume.data).max(initial=0.0)
    if not worst <= 1e-3:  # also catches NaN
        raise ValueError(f"{path}: labels are not whole numbers (off by {worst:g})")
    return dataclasses.replace(volume, data=labels.astype(np.int32))


def write(path: str | Path, data: np.ndarray, *, affine: np.ndarray) -> None:
    """Write a volume.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        data: floating point, integer or bool values.
        affine: voxel indices to mm, 4x4.
    """
    data = np.asarray(data)
    small = {"b": np.uint8, "i": np.int32, "u": np.uint16, "f": np.float32}
    image = _nibabel().Nifti1Image(data.astype(small[data.dtype.kind]), affine)
    image.to_filename(str(path))


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "reading NIfTI needs nibabel: pip install 'medjax[medical]'"
        ) from error
    return nibabel


def _load(path: Path, ndim: int | None, dtype: type) -> Volume:
    nibabel = _nibabel()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        image = nibabel.load(str(path))
        data = np.asarray(image.dataobj, dtype)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as e:
        raise ValueError(f"{path}: not an intact NIfTI file: {e}") from e
    zooms = tuple(float(zoom) for zoom in image.header.get_zooms())
    while data.ndim > 2 and data.shape[-1] == 1 and data.ndim != ndim:
        data = data[..., 0]
    if ndim is not None and data.ndim != ndim:
        raise ValueError(f"{path}: shape {image.shape}, expected {ndim} axes")
    return Volume(data, np.asarray(image.affine, np.float64), zooms[: data.ndim])
