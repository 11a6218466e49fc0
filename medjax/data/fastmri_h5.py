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

REFERENCES = ("reconstruction_rss", "reconstruction_esc")


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice of a fastMRI volume.

    Attributes:
        kspace: complex64 ``[coil, rows, columns]``; single-coil data have one coil.
            Lines of constant column are the phase encodes: fastMRI undersamples ``w``.
        reference: float32 ``[rows, columns]``, or ``None`` (test files).
        mask: the file's own column mask, or ``None``.
        padding: ``(left, right)``: columns outside ``[left, right)`` were never
            acquired; the whole width without a header.
        recon_size: (rows, columns) to crop images to.
        maximum: the *volume's* largest reference value, the evaluation's data range;
            ``None`` without a reference.
        attributes: the file's attributes (acquisition, patient_id, ...).
    """

    kspace: Complex[np.ndarray, "c h w"]
    reference: Float[np.ndarray, "y x"] | None
    mask: Bool[np.ndarray, " w"] | None
    padding: tuple[int, int]
    recon_size: tuple[int, int]
    maximum: float | None
    attributes: dict[str, Any]


def count_slices(path: str | Path) -> int:
    """Number of slices of a file.

    Args:
        path: a fastMRI HDF5 file.

    Returns:
        The size of the leading axis of ``kspace``.
    """
    with _open(Path(path)) as file:
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
        KeyError: where there is no ``kspace``.
        IndexError: where there is no such slice.
        ValueError: where the file is damaged or ``kspace`` has a wrong type or rank.
    """
    path = Path(path)
    with _open(path) as file:
        stored = _kspace(file, path)
        if not 0 <= index < stored.shape[0]:
            raise IndexError(f"{path}: slice {index} of {stored.shape[0]} slices")
        name = next((n for n in REFERENCES if n in file), None)
        try:
            kspace = np.asarray(stored[index], np.complex64)
            reference = None if name is None else np.asarray(file[name][index], "f4")
            maximum = file.attrs.get("max")
            if maximum is None and name is not None:
                maximum = np.max(file[name][()])
        except OSError as error:
            raise ValueError(
                f"{path}: slice {index} cannot be read: {error}"
            ) from error
        mask = np.asarray(file["mask"][()]).astype(bool) if "mask" in file else None
        xml = file["ismrmrd_header"][()] if "ismrmrd_header" in file else None
        attributes = {key: value for key, value in file.attrs.items()}
    kspace = kspace[None] if kspace.ndim == 2 else kspace
    size, padding = _header(xml, kspace.shape[-1], path)
    if recon_size is None:
        recon_size = reference.shape if reference is not None else size
    return Slice(
        kspace=kspace,
        reference=reference,
        mask=None if mask is None else mask.ravel(),
        padding=padding,
        recon_size=recon_size or kspace.shape[-2:],
        maximum=None if maximum is None else float(maximum),
        attributes=attributes,
    )


def _open(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "reading fastMRI files needs h5py: pip install 'medjax[medical]'"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not an intact HDF5 file: {error}") from error


def _kspace(file: Any, path: str | Path) -> Any:
    if "kspace" not in file:
        raise KeyError(f"{path}: no 'kspace', only {sorted(file)}")
    stored = file["kspace"]
    if stored.dtype.kind != "c" or stored.ndim not in (3, 4):
        raise ValueError(
            f"{path}: 'kspace' is {stored.dtype} of shape {stored.shape}, expected "
            "complex (slice, rows, columns) or (slice, coil, rows, columns)"
        )
    return stored


def _header(
    xml: Any, columns: int, path: Path
) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """Reconstruction size and acquired columns; tolerant of absence, not of garbage."""
    if xml is None:
        return None, (0, columns)
    text = xml.decode() if isinstance(xml, bytes) else str(np.ravel(xml)[0])
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: 'ismrmrd_header' is not XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]

    def number(where: str) -> int | None:
        found = root.findtext(f".//encoding/{where}")
        return int(found) if found else None

    x, y = (number(f"reconSpace/matrixSize/{axis}") for axis in "xy")
    size = (x, y) if x and y else None
    encoded = number("encodedSpace/matrixSize/y")
    limits = "encodingLimits/kspace_encoding_step_1"
    centre, last = number(f"{limits}/center"), number(f"{limits}/maximum")
    if encoded is None or centre is None or last is None:
        return size, (0, columns)
    left = encoded // 2 - centre
    return size, (left, left + last + 1)
