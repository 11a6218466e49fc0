"""Opening an image series to be mapped: DICOM, NIfTI with times, or npz.

=================== ====================================================================
a folder, ``.dcm``  DICOM; times, contrast and geometry are the files' own
``.nii``/``.nii.gz`` one 4-D volume, frames last, or one 3-D volume per frame
``.npz``            ``signal`` (``t d h w``, ``t h w``), ``inversion_times`` or
                    ``echo_times`` (ms), optional ``affine``
=================== ====================================================================
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Float

from medjax.data import dicom_series, nifti, npz
from medjax.data.boundary import DataError
from medjax.mri.relaxometry import FRAMES_TO_FIT
from medjax.mri.scans import Contrast

TIMES: dict[str, Contrast] = {"inversion_times": "t1", "echo_times": "t2"}
"""What an npz calls its times, and what they are of."""


@dataclasses.dataclass(frozen=True)
class ImageSeries:
    """Magnitudes over time, ready to be fitted.

    Attributes:
        signal: float32; ``h`` and ``w`` are the second and first axis of the source's
            voxels, so that a picture ``h w`` looks as it should.
        times: ms, as ``signal`` has its frames.
        contrast: what the times are of.
        affine: indices ``w h d`` to mm; None where the source does not say.
        about: how much was read, for people.
    """

    signal: Float[np.ndarray, "t d h w"]
    times: Float[np.ndarray, " t"]
    contrast: Contrast
    affine: Float[np.ndarray, "4 4"] | None
    about: str


def read_images(
    paths: Sequence[Path],
    *,
    contrast: Contrast | None = None,
    times: Sequence[float] = (),
) -> ImageSeries:
    """Opens a series.

    Args:
        paths: A folder, or files of one kind.
        contrast: T1 or T2; None: as the files say.
        times: ms, one per frame, in the order of frames (of DICOM files without times,
            in the order of instance numbers and names). In place of what the files say.

    Returns:
        The series.

    Raises:
        FileNotFoundError: Where something is missing.
        DataError: For damaged files, and what cannot be fitted; names the file.
        ValueError: Where contrast or times are not known.
    """
    first = paths[0]
    if not first.exists():
        raise FileNotFoundError(f"{first}: no such file or folder")
    if first.is_dir():
        found = _folder(first, contrast)
    elif first.suffix == ".npz":
        found = _npz(first)
    elif first.name.endswith((".nii", ".nii.gz")):
        found = _nifti(paths)
    else:
        found = _dicom(paths, contrast, first)
    signal, own_times, own_contrast, affine, about = found
    contrast = contrast or own_contrast
    if contrast is None:
        raise ValueError(
            f"contrast: {first} does not say what it is a series of, expected one of "
            f"{', '.join(get_args(Contrast))}"
        )
    given = np.asarray(times, np.float32) if len(times) else own_times
    if given is None:
        raise ValueError(f"times: {first} has none, give one for each frame in ms")
    frames = len(signal)
    if given.shape != (frames,) or not np.isfinite(given).all() or (given < 0).any():
        raise ValueError(
            f"times: {given.tolist()}, expected {frames} numbers in ms for the "
            f"{frames} frames of {first}"
        )
    if len(np.unique(given)) < FRAMES_TO_FIT[contrast]:
        raise ValueError(
            f"times: {len(np.unique(given))} different ones, a {contrast.upper()} fit "
            f"needs {FRAMES_TO_FIT[contrast]} at least"
        )
    return ImageSeries(signal, given, contrast, affine, about)


Found = tuple[np.ndarray, np.ndarray | None, Contrast | None, np.ndarray | None, str]


def _folder(folder: Path, contrast: Contrast | None) -> Found:
    """DICOM files, else NIfTI volumes in the order of their names."""
    if paths := dicom_series.find_dicom(folder):
        return _dicom(paths, contrast, folder)
    if paths := sorted(p for p in folder.iterdir() if ".nii" in p.suffixes):
        return _nifti(paths)
    raise DataError(f"{folder}: holds neither DICOM files nor NIfTI volumes")


def _dicom(paths: Sequence[Path], contrast: Contrast | None, where: Path) -> Found:
    found = dicom_series.read_series(paths, contrast=contrast)
    t, d, h, w = found.signal.shape
    about = f"{where}: DICOM, {t} frames of {d} slices, {h} x {w}"
    if found.left_out:
        about += f"; {found.left_out} images of another kind left out"
    return found.signal, found.times, found.contrast, found.affine, about


def _nifti(paths: Sequence[Path]) -> Found:
    volumes = [nifti.read(path) for path in paths]
    first = volumes[0]
    if len(volumes) == 1:
        if first.data.ndim < 3:
            raise DataError(
                f"{paths[0]}: shape {first.data.shape}, expected frames on a last axis"
            )
        stack = np.moveaxis(first.data, -1, 0)
    else:
        shapes = {volume.data.shape for volume in volumes}
        if len(shapes) > 1:
            raise DataError(
                f"{paths[0].parent}: volumes of shapes {sorted(shapes)}, expected one"
            )
        stack = np.stack([volume.data for volume in volumes])
    stack = stack if stack.ndim == 4 else stack[..., None]
    if stack.ndim != 4:
        raise DataError(f"{paths[0]}: shape {first.data.shape}, expected 3-D and time")
    signal = np.ascontiguousarray(stack.transpose(0, 3, 2, 1))
    t, d, h, w = signal.shape
    about = f"{paths[0]}: NIfTI, {t} frames of {d} slices, {h} x {w}"
    return signal, None, None, first.affine, about


def _npz(path: Path) -> Found:
    arrays = npz.read(path)
    if "signal" not in arrays or arrays["signal"].ndim not in (3, 4):
        shapes = {name: array.shape for name, array in arrays.items()}
        raise DataError(
            f"{path}: holds {shapes}, expected 'signal' of t d h w or t h w"
        )
    signal = arrays["signal"]
    signal = np.abs(signal) if signal.dtype.kind == "c" else signal
    signal = np.asarray(signal if signal.ndim == 4 else signal[:, None], np.float32)
    times, contrast = None, None
    for name, kind in TIMES.items():
        if name in arrays:
            times = np.asarray(arrays[name], np.float32).ravel()
            contrast = kind
    affine = arrays.get("affine")
    if affine is not None and affine.shape != (4, 4):
        raise DataError(f"{path}: 'affine' has shape {affine.shape}, expected (4, 4)")
    t, d, h, w = signal.shape
    about = f"{path}: npz, {t} frames of {d} slices, {h} x {w}"
    return signal, times, contrast, affine, about
