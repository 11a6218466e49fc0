"""Opening a k-space file of any format as the same array: ``t d c h w``.

======================= ================================================================
``.h5`` with ``kspace`` fastMRI; its columns are the phase encodes, so they become ``h``
``.h5`` with a dataset  ISMRMRD: averages are averaged, other counters become frames
``.mat``                MATLAB, one variable of it
``.cfl`` / ``.hdr``     BART
``.npy``                NumPy
======================= ================================================================

BART's axes are known by their position. MATLAB and NumPy say nothing about theirs, so
the reader must: one letter per axis, in the order of the file, of ``t d z c h w``.
``z`` is a second phase encoding of a three-dimensional scan, which is transformed to
slices.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Complex, Float

from medjax.data import cfl, fastmri_h5, ismrmrd, mat73, npy
from medjax.data.boundary import DataError, finite
from medjax.mri.kspace_axes import (
    DEFAULT_AXES,
    affine_of_slices,
    arrange,
    bart_axes,
    measured_points,
    smallest,
    warn_off_centre,
)


@dataclasses.dataclass(frozen=True)
class KspaceFile:
    """A file's k-space and what the file says about it.

    Attributes:
        kspace: complex64, centred, zero where not measured.
        measured: what was sampled: a mask of :mod:`medjax.mri.masks`.
        reference: the file's own reconstruction, rows and columns as ``size``.
        size: (h, w) to crop images to, if the file asks for it.
        transposed: whether ``h`` is the file's last axis; pictures are to be turned.
        affine: indices ``w h d`` of the (cropped) image to mm, 4x4; voxel sizes alone
            where the file does not say where it lies, None where it says nothing.
    """

    kspace: Complex[np.ndarray, "t d c h w"]
    measured: Bool[np.ndarray, "_t h _w"]
    reference: Float[np.ndarray, "d y x"] | None = None
    size: tuple[int, int] | None = None
    transposed: bool = False
    affine: Float[np.ndarray, "4 4"] | None = None


def read_kspace(
    path: str | Path,
    *,
    key: str | None = None,
    axes: str | None = None,
    slices: Sequence[int] | None = None,
) -> KspaceFile:
    """Read a file.

    Args:
        path: the file; its ending says which format.
        key: the variable of a MATLAB file, or the group of an ISMRMRD file.
        axes: what the axes of a MATLAB, BART or NumPy file are, e.g. ``"chw"``; by
            default :data:`DEFAULT_AXES`, for BART what its positions mean. MATLAB's
            are taken in HDF5's order, the reverse of what MATLAB shows; trailing axes
            of size one, which MATLAB drops, need not be in the file.
        slices: numbers of the slices to keep; all by default.

    Returns:
        The scan. A warning says so where k-space seems not to be centred.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: for an unknown format, a damaged file, a variable or a slice that it
            lacks, numbers that are not complex or not finite, or axes that do not fit;
            the message names file and variable.
    """
    path = Path(path)
    kind = _kind(path)
    if kind in ("fastmri", "ismrmrd") and axes is not None:
        raise DataError(f"{path}: axes='{axes}', but a {kind} file names its own axes")
    if kind == "fastmri":
        return _fastmri(path, slices)
    if kind == "ismrmrd":
        return _ismrmrd(path, key or "dataset", slices)
    array, letters, where = _array(path, kind, key, axes)
    if "m" in letters:
        if array.shape[letters.index("m")] > 1:
            raise DataError(f"{where} has several sets of maps, expected k-space")
        array, letters = array.squeeze(letters.index("m")), letters.replace("m", "")
    kspace = _take(arrange(array, letters, where), slices, where)
    warn_off_centre(kspace, where)
    return KspaceFile(kspace, measured_points(kspace, where))


def read_maps(
    path: str | Path, *, key: str | None = None, axes: str | None = None
) -> Complex[np.ndarray, "m d c h w"]:
    """Sensitivity maps from a MATLAB, BART or NumPy file; arguments as above.

    A BART file may hold several sets (ESPIRiT's, where the field of view folds); other
    formats hold one.
    """
    path = Path(path)
    kind = _kind(path)
    if kind not in ("mat", "cfl", "npy"):
        raise DataError(f"{path}: maps are read from .mat, .cfl and .npy files")
    array, letters, where = _array(path, kind, key, axes)
    sets = [array]
    if "m" in letters:
        sets = list(np.moveaxis(array, letters.index("m"), 0))
        letters = letters.replace("m", "")
    if {"z", "d"} <= set(letters):  # BART has both, and one of them is of size one
        at = {letter: letters.index(letter) for letter in "zd"}
        spare = "z" if sets[0].shape[at["z"]] == 1 else "d"
        if sets[0].shape[at[spare]] > 1:
            raise DataError(f"{where} holds maps of slices and of partitions")
        sets = [one.squeeze(at[spare]) for one in sets]
        letters = letters.replace(spare, "")
    maps = np.stack([arrange(one, letters.replace("z", "d"), where) for one in sets])
    if maps.shape[1] > 1:
        raise DataError(f"{where} holds maps of {maps.shape[1]} frames, expected one")
    return maps[:, 0]


def read_mask(
    path: str | Path, *, key: str | None = None
) -> Bool[np.ndarray, "_t h _w"]:
    """A sampling mask from a MATLAB, BART or NumPy file; what is not zero is sampled.

    Args:
        path: the file. Axes are ``h`` (lines), ``h w`` or ``t h w``; BART's are its
            own; MATLAB's are in HDF5's order, the reverse of what MATLAB shows.
        key: the variable of a MATLAB file.

    Returns:
        The mask in its smallest form.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: for another format, a damaged file, another number of axes, or a mask
            that samples nothing.
    """
    path = Path(path)
    kind = _kind(path)
    if kind not in ("mat", "cfl", "npy"):
        raise DataError(f"{path}: masks are read from .mat, .cfl and .npy files")
    where = f"{path}: variable '{key}'" if key else f"{path}"
    if kind == "cfl":
        array, letters = bart_axes(cfl.read(path), where)
        order = [letters.index(letter) for letter in "thw"]
        array = np.moveaxis(array, order, (0, 1, 2))
        array = array.reshape(*array.shape[:3], -1)
        if array.shape[3] > 1:
            raise DataError(f"{where} has shape {array.shape}, expected one mask")
        array = array[..., 0]
    else:
        array = mat73.read(path, key) if kind == "mat" else npy.read(path)
    if not 1 <= array.ndim <= 3 or array.dtype.kind not in "biufc":
        raise DataError(
            f"{where} is {array.dtype} of shape {array.shape}, expected a mask of axes "
            "h, h w or t h w"
        )
    finite(where, array, "the mask")
    array = array[:, None] if array.ndim == 1 else array
    mask = np.asarray(array != 0)
    if not mask.any():
        raise DataError(f"{where} samples nothing")
    mask = mask if mask.ndim == 3 else mask[None]
    if (mask == mask[..., :1]).all():
        mask = mask[..., :1]
    return smallest(mask)


def _array(
    path: Path, kind: str, key: str | None, axes: str | None
) -> tuple[np.ndarray, str, str]:
    """An array, a letter for each of its axes, and file and variable for messages."""
    where = f"{path}: variable '{key}'" if key else f"{path}"
    if kind == "mat":
        array = mat73.read(path, key)
        array = mat73.lead(array, len(axes)) if axes else array
    elif kind == "cfl":
        array = cfl.read(path)
        if axes is None:
            return *bart_axes(array, where), where
        array = array.reshape(array.shape + (1,) * (len(axes) - array.ndim))
    else:
        array = npy.read(path)
    return array, axes or DEFAULT_AXES.get(array.ndim, ""), where


def _kind(path: Path) -> str:
    if path.suffix in (".cfl", ".hdr") or path.with_name(path.name + ".cfl").is_file():
        return "cfl"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix in (".mat", ".npy"):
        return path.suffix[1:]
    if path.suffix not in (".h5", ".hdf5", ".mrd"):
        raise DataError(
            f"{path}: '{path.suffix}' is none of .h5 .hdf5 .mrd .mat .cfl .hdr .npy"
        )
    return "fastmri" if fastmri_h5.is_fastmri(path) else "ismrmrd"


def _take(
    kspace: Complex[np.ndarray, "t d c h w"], slices: Sequence[int] | None, where: str
) -> Complex[np.ndarray, "t kept c h w"]:
    if slices is None:
        return kspace
    count = kspace.shape[1]
    for index in slices:
        if not 0 <= index < count:
            raise DataError(f"{where}: slice {index} of {count} slices")
    return kspace[:, list(slices)]


def _fastmri(path: Path, wanted: Sequence[int] | None) -> KspaceFile:
    if wanted is None:
        wanted = range(fastmri_h5.count_slices(path))
    slices = [fastmri_h5.read_slice(path, index) for index in wanted]
    kspace = np.stack([one.kspace for one in slices])[None].swapaxes(-1, -2)
    kspace = np.ascontiguousarray(kspace)
    where = f"{path}: 'kspace'"
    measured = measured_points(kspace, where)
    warn_off_centre(kspace, where)
    masks = [one.mask for one in slices if one.mask is not None]
    if masks:
        if any((mask != masks[0]).any() for mask in masks):
            raise DataError(
                f"{path}: 'mask' differs between slices: one mask for all is expected; "
                "read slices alone (slices)"
            )
        measured = measured & masks[0][None, :, None]
        if not measured.any():
            raise DataError(f"{path}: 'mask' samples nothing of 'kspace'")
    references = [one.reference for one in slices if one.reference is not None]
    (rows, columns), (w, h) = slices[0].recon_size, slices[0].kspace.shape[-2:]
    if references and (rows > w or columns > h):
        raise DataError(
            f"{path}: the reference has {rows} rows and {columns} columns, more than "
            f"the {w} and {h} of 'kspace'"
        )
    return KspaceFile(
        kspace=kspace,
        measured=measured,
        reference=np.stack(references).swapaxes(-1, -2) if references else None,
        size=(min(columns, h), min(rows, w)),
        transposed=True,
        affine=_voxels(slices[0].voxel_mm, wanted),
    )


def _voxels(
    sizes: tuple[float, ...] | None, slices: Sequence[int]
) -> Float[np.ndarray, "4 4"] | None:
    """Voxel sizes in mm without a place; slices as far apart as they are chosen."""
    return None if sizes is None else affine_of_slices(np.diag([*sizes, 1.0]), slices)


def _ismrmrd(path: Path, dataset: str, slices: Sequence[int] | None) -> KspaceFile:
    scan = ismrmrd.read(path, dataset=dataset)
    a, r, n, p, s, d, c, kz, ky, kx = scan.kspace.shape
    count = np.maximum(scan.sampled.sum(axis=0), 1)
    kspace = scan.kspace.sum(axis=0) / count[..., None, :, :, None]
    kspace = kspace.reshape(r * n * p * s, d, c, kz, ky, kx)
    measured = scan.sampled.any(axis=0).reshape(r * n * p * s, d * kz, ky)
    if (measured != measured[:, :1]).any():
        raise DataError(
            f"{path}: {dataset}/data samples other lines in other slices or "
            "partitions; one mask for all is expected"
        )
    recon = scan.recon
    size = None if recon is None else (min(recon[1], ky), min(recon[2], kx))
    where = f"{path}: {dataset}/data"
    kspace = arrange(kspace.astype(np.complex64), "tdczhw", where)
    return KspaceFile(
        kspace=_take(kspace, slices, where),
        measured=smallest(measured[:, 0, :, None]),
        size=size,
        affine=_about_centre(scan.affine, size or (ky, kx), kz, slices),
    )


def _about_centre(
    affine: Float[np.ndarray, "4 4"] | None,
    size: tuple[int, int],
    partitions: int,
    slices: Sequence[int] | None,
) -> Float[np.ndarray, "4 4"] | None:
    """An affine from the centre of the first slice on as one from the first voxel on.

    Images are cropped around ``n // 2``, which is where the centre is.
    """
    if affine is None:
        return None
    start = [-(size[1] // 2), -(size[0] // 2), -(partitions // 2), 1]
    moved = affine.copy()
    moved[:3, 3] = affine[:3] @ start
    return moved if slices is None else affine_of_slices(moved, slices)
