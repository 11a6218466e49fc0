"""NIfTI volumes: arrays with the geometry that distances in mm and times in s need.

Opened through nibabel (extra ``medical``), copied, and closed. Labels are checked to be
whole numbers, because masks saved by other tools are often floating point.

**Which geometry.** A header can say three times where its voxels are: ``pixdim`` (sizes
alone), the qform (sizes and a rotation) and the sform (any affine map). The rule:

1. The sform, if it is there and its voxel sizes are those of ``pixdim`` (to 1 %).
   Programs that move or register an image write the sform.
2. Else the qform, if it is there. Its voxel sizes are those of ``pixdim``, which
   scanners and most programs keep right; an sform that disagrees is one that was not
   kept (unit-scaled ones are known from ACDC).
3. Else the sform as it is, if it is there; else ``pixdim`` alone.

Lengths are in mm and times in seconds, whatever unit the file uses.
"""

import dataclasses
import gzip
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from medjax.data.boundary import DataError, affordable, finite, reading
from medjax.data.whole import whole

WHAT = "NIfTI file"
AXES = ("voxel i", "j", "k", "frame", "component", "axis 6", "axis 7")
_MM = {"meter": 1e3, "mm": 1.0, "micron": 1e-3}
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_BOUND = 1 << 26
"""Bytes behind the voxels that are still read to the end of a compressed file."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """A NIfTI image.

    Attributes:
        data: values in the file's axis order; a trailing axis of size one is dropped.
        affine: voxel indices to mm, 4x4.
        spacing: voxel size in mm of the first three axes, the lengths of the affine's
            columns (fewer for fewer axes).
        time_step: seconds between the frames of the fourth axis; ``None`` where there
            is none, or the file does not say.
    """

    data: Shaped[np.ndarray, "..."]
    affine: Float[np.ndarray, "4 4"]
    spacing: tuple[float, ...]
    time_step: float | None = None


def read(
    path: str | Path, *, ndim: int | None = None, nan_to: float | None = None
) -> Volume:
    """Read a volume as float32 (rescaling applied).

    Args:
        path: ``.nii`` or ``.nii.gz``.
        ndim: expected number of axes after dropping trailing ones of size one.
        nan_to: what values that are not finite are taken for, with a warning that
            counts them; None: they are a fault.

    Returns:
        The volume.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where the file is damaged, has another rank, complex or coloured
            voxels, values that are not finite, or no geometry.
    """
    return _load(Path(path), ndim, np.float32, nan_to)


def read_labels(
    path: str | Path, *, ndim: int | None = None, tolerance: float = 1e-3
) -> Volume:
    """Read a label map as int32.

    Args:
        path: ``.nii`` or ``.nii.gz``; whole numbers in any stored type.
        ndim: expected number of axes after dropping trailing ones of size one.
        tolerance: how far from a whole number a label may be; some tools resample
            label maps, or scale them, and leave a hundredth.

    Returns:
        The volume.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: as in :func:`read`, and where the file holds fractions or numbers
            that int32 does not.
    """
    volume = _load(Path(path), ndim, np.float64)
    labels = np.rint(volume.data)
    worst = np.abs(labels - volume.data).max(initial=0.0)
    if worst > tolerance:
        raise DataError(f"{path}: labels are not whole numbers (off by {worst:g})")
    if np.abs(labels).max(initial=0.0) > np.iinfo(np.int32).max:
        raise DataError(f"{path}: labels up to {np.abs(labels).max():g} exceed int32")
    return dataclasses.replace(volume, data=labels.astype(np.int32))


def read_geometry(
    path: str | Path,
) -> tuple[tuple[int, ...], Float[np.ndarray, "4 4"]]:
    """Where a volume's voxels are, from its header alone.

    Args:
        path: ``.nii`` or ``.nii.gz``.

    Returns:
        Lengths of the file's axes, and voxel indices to mm.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where its header is damaged, or says no geometry.
    """
    path = Path(path)
    with reading(path, WHAT), _unpacked(path) as file:
        kind, head = _head(path, file)
        header = kind.header_class(head)
        shape = tuple(int(n) for n in header.get_data_shape())
        return shape, _affine(path, header, len(shape))


def write(
    path: str | Path,
    data: np.ndarray,
    *,
    affine: np.ndarray,
    time_step: float | None = None,
) -> None:
    """Write a volume that reads back as it was.

    Integers and floats keep their type; bool becomes uint8, float16 float32, and int64
    and uint64, which many programs do not read, int32 and uint32 if they fit.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        data: floating point, integer or bool values.
        affine: voxel indices to mm, 4x4; written as sform, and as qform and voxel
            sizes as far as those can say it.
        time_step: seconds between the frames of the fourth axis.

    Raises:
        ValueError: for values or types that NIfTI does not hold, an affine that is not
            4x4 and finite, or a time step without a fourth axis.
    """
    data, affine = np.asarray(data), np.asarray(affine, np.float64)
    stored = _storable(data)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ValueError(f"affine is {affine.tolist()}, expected 4x4 finite numbers")
    image = _nibabel().Nifti1Image(stored, affine, dtype=stored.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    if time_step is not None:
        if data.ndim < 4 or not 0 < time_step < np.inf:
            raise ValueError(
                f"time_step={time_step} with data of {data.ndim} axes: expected "
                "positive seconds, and frames on a fourth axis"
            )
        sizes = list(image.header.get_zooms())
        sizes[3] = time_step
        image.header.set_zooms(sizes)
    with whole(path) as draft:
        image.to_filename(str(draft))


def _storable(data: np.ndarray) -> np.ndarray:
    """The same values in a type of NIfTI that other programs read."""
    name = data.dtype.name
    if name in ("int64", "uint64"):
        small = np.dtype("int32" if name == "int64" else "uint32")
        limits = np.iinfo(small)
        low, high = int(data.min(initial=0)), int(data.max(initial=0))
        if low < limits.min or high > limits.max:
            raise ValueError(
                f"data is {name} from {low} to {high}: expected numbers that {small} "
                "holds, or floating point"
            )
        return data.astype(small)
    same = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
    other = {"bool": np.uint8, "float16": np.float32}
    if name in same:
        return data
    if name in other:
        return data.astype(other[name])
    raise ValueError(f"data is {name}, expected real numbers that NIfTI holds")


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "NIfTI files need nibabel: pip install 'medjax[medical]'"
        ) from error
    return nibabel


def _load(
    path: Path, ndim: int | None, dtype: type, nan_to: float | None = None
) -> Volume:
    with reading(path, WHAT):
        image = _open(path)
        if image.get_data_dtype().kind not in "biuf":
            raise DataError(
                f"{path}: voxels are {image.get_data_dtype()}, expected real numbers"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # refused just below
            data = np.asarray(image.dataobj, dtype)
        if nan_to is not None:
            data = _replaced(path, data, nan_to)
        finite(path, data, "the volume", AXES[: data.ndim])
        affine = _affine(path, image.header, data.ndim)
        step = _time_step(image.header) if data.ndim > 3 else None
    while data.ndim > 2 and data.shape[-1] == 1 and data.ndim != ndim:
        data = data[..., 0]
    if ndim is not None and data.ndim != ndim:
        raise DataError(f"{path}: shape {image.shape}, expected {ndim} axes")
    spacing = tuple(float(s) for s in _sizes(affine)[: min(data.ndim, 3)])
    return Volume(data, affine, spacing, step if data.ndim > 3 else None)


def _replaced(path: Path, data: np.ndarray, value: float) -> np.ndarray:
    """Without NaN and infinity; says how many there were."""
    bad = ~np.isfinite(data)
    if not bad.any():
        return data
    warnings.warn(
        f"{path}: {int(bad.sum())} values that are NaN or infinite of {data.size} are "
        f"taken for {value:g}",
        stacklevel=2,
    )
    return np.where(bad, np.asarray(value, data.dtype), data)


def _open(path: Path) -> Any:
    """The image in memory: of a compressed file all is read, and its sum checked."""
    with _unpacked(path) as file:
        kind, head = _head(path, file)
        return kind.from_bytes(_bytes(path, file, head, kind.header_class))


def _unpacked(path: Path) -> Any:
    """The open file, whose bytes are those of its content if it is compressed."""
    with path.open("rb") as probe:
        compressed = probe.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _head(path: Path, file: Any) -> tuple[Any, bytes]:
    """nibabel's class of a file's images, and the bytes of its header."""
    nibabel = _nibabel()
    head = file.read(4)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        size = kind.header_class.sizeof_hdr
        if size in (int.from_bytes(head, order) for order in ("little", "big")):
            return kind, head + file.read(size - 4)
    raise DataError(f"{path}: not an intact NIfTI file (no header of one)")


def _bytes(path: Path, file: Any, head: bytes, kind: Any) -> bytes:
    """All of the file as far as its header says that there are voxels."""
    header = kind(head)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    affordable(path, shape, dtype, "the volume")
    size = math.prod(shape) * dtype.itemsize
    wanted = max(int(header["vox_offset"]), len(head)) + size - len(head)
    if not 0 <= int(header["vox_offset"]) <= _BOUND:
        raise DataError(f"{path}: voxels start at byte {int(header['vox_offset'])}")
    content = file.read(wanted)
    if len(content) < wanted:
        raise DataError(
            f"{path}: not an intact NIfTI file ({len(head + content)} bytes, its "
            f"header says {len(head) + wanted})"
        )
    behind = 0
    while behind < _BOUND and (rest := file.read(1 << 16)):
        behind += len(rest)
    return head + content


def _affine(path: Path, header: Any, axes: int) -> np.ndarray:
    """Voxel indices to mm, by the rule at the top."""
    sform, code = header.get_sform(coded=True)
    sform = sform if code else None
    qform, code = header.get_qform(coded=True)
    qform = qform if code else None
    used = min(axes, 3)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    kept = sform is not None and np.allclose(
        _sizes(sform)[:used], pixdim[:used], rtol=0.01, atol=0
    )
    if sform is not None and (kept or qform is None):
        affine = sform
    else:
        affine = qform if qform is not None else header.get_base_affine()
    affine = np.array(affine, np.float64)
    affine[:3] *= _MM.get(header.get_xyzt_units()[0], 1.0)
    sizes = _sizes(affine)[:used]
    if not (np.isfinite(affine).all() and (sizes > 0).all()):
        raise DataError(
            f"{path}: no geometry: voxel sizes {sizes.tolist()} in {affine.tolist()}"
        )
    return affine


def _sizes(affine: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.sqrt((affine[:3, :3] ** 2).sum(axis=0))


def _time_step(header: Any) -> float | None:
    unit = _SECONDS.get(header.get_xyzt_units()[1], 1.0)
    step = float(header["pixdim"][4]) * unit
    return step if 0 < step < np.inf else None
