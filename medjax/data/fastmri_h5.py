"""fastMRI HDF5 files: k-space, reference reconstruction and masks, slice by slice.

The ISMRMRD header is optional: people store their own data in this layout and have no
header (fastMRI issue 142), so sizes come from it, from the reference image, or from the
caller, in that order of trust from last to first. A slice is opened, copied and closed
in one call, because slices kept as views of an open file leak memory in worker
processes (fastMRI issue 215).
"""

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Complex, Float

from medjax.data import hdf5
from medjax.data.boundary import DataError, finite, reading
from medjax.data.heaps import check_heaps

WHAT = "fastMRI file"
REFERENCES = ("reconstruction_rss", "reconstruction_esc")


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice of a fastMRI volume.

    Attributes:
        kspace: complex64 ``[coil, rows, columns]``; single-coil data have one coil.
            Lines of constant column are the phase encodes: fastMRI undersamples ``w``.
        reference: float32 ``[rows, columns]``, or ``None`` (test files).
        mask: the file's own column mask (this slice's, where each has one), or
            ``None``.
        padding: ``(left, right)``: columns outside ``[left, right)`` were never
            acquired; the whole width without a header.
        recon_size: (rows, columns) to crop images to.
        maximum: the *volume's* largest reference value, the evaluation's data range;
            ``None`` without a reference.
        attributes: the file's attributes (acquisition, patient_id, ...).
        voxel_mm: size of a voxel along rows, columns and slices, from the header;
            ``None`` where it does not say.
    """

    kspace: Complex[np.ndarray, "c h w"]
    reference: Float[np.ndarray, "y x"] | None
    mask: Bool[np.ndarray, " w"] | None
    padding: tuple[int, int]
    recon_size: tuple[int, int]
    maximum: float | None
    attributes: dict[str, Any]
    voxel_mm: tuple[float, float, float] | None = None


def is_fastmri(path: str | Path) -> bool:
    """Whether an HDF5 file has a ``kspace``, which other formats have not.

    Args:
        path: any HDF5 file.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where the file is damaged.
    """
    with hdf5.opened(path, "HDF5 file") as file:
        return "kspace" in file


def count_slices(path: str | Path) -> int:
    """Number of slices of a file.

    Args:
        path: a fastMRI HDF5 file.

    Returns:
        The size of the leading axis of ``kspace``.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where the file is damaged or is not fastMRI's.
    """
    with hdf5.opened(path, WHAT) as file:
        return int(_kspace(file, path).shape[0])


def read_slice(
    path: str | Path, index: int, *, recon_size: tuple[int, int] | None = None
) -> Slice:
    """Read one slice.

    Args:
        path: a fastMRI HDF5 file, single- or multi-coil, with or without header.
        index: slice number from 0.
        recon_size: (rows, columns) of the image; overrides file and header.

    Returns:
        The slice.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where the file is damaged, ``kspace`` is absent or has a wrong type
            or rank, there is no such slice, values are not finite, or its parts do not
            fit each other.
    """
    with hdf5.opened(path, WHAT) as file:
        stored = _kspace(file, path)
        count, columns = stored.shape[0], stored.shape[-1]
        if not 0 <= index < count:
            raise DataError(f"{path}: slice {index} of {count} slices")
        name = next((n for n in REFERENCES if n in file), None)
        check_heaps(
            path,
            file,
            values=("ismrmrd_header",),
            texts=True,
            numbers=("kspace", *REFERENCES),
        )
        kspace = hdf5.values(path, stored, index, what=WHAT).astype(np.complex64)
        reference = None if name is None else _reference(path, file[name], index)
        maximum = _maximum(path, file, name)
        mask = _mask(path, file, index, (count, columns))
        xml = None
        if "ismrmrd_header" in file:
            xml = hdf5.values(path, file["ismrmrd_header"], what=WHAT).ravel()[0]
        attributes = dict(file.attrs.items())
    axes = ("coil", "row", "column")[-kspace.ndim :]
    finite(path, kspace, f"slice {index} of 'kspace'", axes)
    kspace = kspace[None] if kspace.ndim == 2 else kspace
    with reading(path, WHAT, key="ismrmrd_header"):
        size, padding, voxel_mm = _header(xml, columns)
    if recon_size is None:
        recon_size = reference.shape if reference is not None else size
    return Slice(
        kspace=kspace,
        reference=reference,
        mask=mask,
        padding=padding,
        recon_size=recon_size or kspace.shape[-2:],
        maximum=maximum,
        attributes=attributes,
        voxel_mm=voxel_mm,
    )


def _kspace(file: Any, path: str | Path) -> Any:
    if "kspace" not in file:
        raise DataError(f"{path}: no 'kspace', only {sorted(file)}")
    stored = file["kspace"]
    shape: tuple[int, ...] = getattr(stored, "shape", None) or ()
    dtype = getattr(stored, "dtype", None)
    if dtype is None or dtype.kind != "c" or len(shape) not in (3, 4):
        raise DataError(
            f"{path}: 'kspace' is {dtype} of shape {shape}, expected complex "
            "(slice, rows, columns) or (slice, coil, rows, columns)"
        )
    if 0 in shape:
        raise DataError(f"{path}: 'kspace' is empty, its shape {shape}")
    return stored


def _reference(path: str | Path, stored: Any, index: int) -> np.ndarray:
    where = f"slice {index} of '{stored.name.lstrip('/')}'"
    with reading(path, WHAT, key=where):
        image = hdf5.values(path, stored, index, what=WHAT).astype(np.float32)
    if image.ndim != 2 or 0 in image.shape:
        raise DataError(f"{path}: {where} has shape {image.shape}, expected an image")
    return finite(path, image, where, ("row", "column"))


def _maximum(path: str | Path, file: Any, name: str | None) -> float | None:
    """The volume's largest value: the attribute, or found out."""
    maximum = file.attrs.get("max")
    if maximum is None and name is not None:
        maximum = np.max(hdf5.values(path, file[name], what=WHAT))
    if maximum is None:
        return None
    with reading(path, WHAT, key="max"):
        return float(finite(path, np.asarray(float(maximum)), "the volume's maximum"))


def _mask(
    path: str | Path, file: Any, index: int, shape: tuple[int, int]
) -> np.ndarray | None:
    """The column mask, one for all slices or one for each."""
    if "mask" not in file:
        return None
    mask = hdf5.values(path, file["mask"], what=WHAT)
    count, columns = shape
    if mask.dtype.kind not in "biuf" or mask.size not in (columns, count * columns):
        raise DataError(
            f"{path}: 'mask' is {mask.dtype} of shape {mask.shape}, expected "
            f"{columns} numbers, or as many for each of {count} slices"
        )
    finite(path, mask, "'mask'")
    mask = mask.astype(bool).reshape(-1, columns)
    return mask[index if len(mask) > 1 else 0]


Voxel = tuple[float, float, float]


def _header(
    xml: Any, columns: int
) -> tuple[tuple[int, int] | None, tuple[int, int], Voxel | None]:
    """Size, acquired columns and voxels; tolerant of absence, not of garbage."""
    if xml is None:
        return None, (0, columns), None
    root = ElementTree.fromstring(xml.decode() if isinstance(xml, bytes) else str(xml))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]

    def number(where: str, kind: type = int) -> Any:
        found = root.findtext(f".//encoding/{where}")
        return kind(found) if found else None

    matrix = [number(f"reconSpace/matrixSize/{axis}") for axis in "xyz"]
    size = (matrix[0], matrix[1]) if matrix[0] and matrix[1] else None
    if size is not None and not all(0 < n < 2**16 for n in size):
        raise ValueError(f"reconSpace/matrixSize is {size}, expected an image's size")
    wide = [number(f"reconSpace/fieldOfView_mm/{axis}", float) for axis in "xyz"]
    voxel = None
    if all(mm and 0 < mm < 1e4 for mm in wide) and all(n and n > 0 for n in matrix):
        x, y, z = (mm / n for mm, n in zip(wide, matrix, strict=True))
        voxel = (x, y, z)
    encoded = number("encodedSpace/matrixSize/y")
    limits = "encodingLimits/kspace_encoding_step_1"
    centre, last = number(f"{limits}/center"), number(f"{limits}/maximum")
    if encoded is None or centre is None or last is None:
        return size, (0, columns), voxel
    left = encoded // 2 - centre
    return size, (left, left + last + 1), voxel
