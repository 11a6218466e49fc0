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
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from medjax.data import cfl, fastmri_h5, ismrmrd, mat73, npy
from medjax.data.boundary import DataError, finite
from medjax.mri.fourier import centred_ifft

AXES = "tdzchw"
DEFAULT_AXES = {2: "hw", 3: "chw", 4: "tchw", 5: "tdchw"}
"""What a file of so many axes holds, if nothing is said; BART's positions are fixed."""
NAMES = {
    **{"t": "frame", "d": "slice", "z": "partition", "c": "coil"},
    **{"h": "line", "w": "sample"},
}
BART_AXES = "whzcmt____t__d__"
"""BART's dimensions by the same letters: ``m`` sets of maps, frames from echo times (5)
and time (10), ``_`` what k-space of one series does not have."""


@dataclasses.dataclass(frozen=True)
class KspaceFile:
    """A file's k-space and what the file says about it.

    Attributes:
        kspace: complex64, centred, zero where not measured.
        measured: what was sampled: a mask of :mod:`medjax.mri.masks`.
        reference: the file's own reconstruction, rows and columns as ``size``.
        size: (h, w) to crop images to, if the file asks for it.
        transposed: whether ``h`` is the file's last axis; pictures are to be turned.
    """

    kspace: Complex[np.ndarray, "t d c h w"]
    measured: Bool[np.ndarray, "_t h _w"]
    reference: Float[np.ndarray, "d y x"] | None = None
    size: tuple[int, int] | None = None
    transposed: bool = False


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
    _warn_off_centre(kspace, where)
    return KspaceFile(kspace, measured_points(kspace, where))


def read_maps(
    path: str | Path, *, key: str | None = None, axes: str | None = None
) -> Complex[np.ndarray, "d c h w"]:
    """Sensitivity maps from a MATLAB, BART or NumPy file; arguments as above.

    Of several sets of maps in a BART file the first is taken, and a warning says so.
    """
    path = Path(path)
    kind = _kind(path)
    if kind not in ("mat", "cfl", "npy"):
        raise DataError(f"{path}: maps are read from .mat, .cfl and .npy files")
    array, letters, where = _array(path, kind, key, axes)
    if "m" in letters:
        sets = array.shape[letters.index("m")]
        if sets > 1:
            warnings.warn(
                f"{where} holds {sets} sets of maps; the first is used", stacklevel=2
            )
        array, letters = array.take(0, letters.index("m")), letters.replace("m", "")
    if {"z", "d"} <= set(letters):  # BART has both, and one of them is of size one
        spare = "z" if array.shape[letters.index("z")] == 1 else "d"
        if array.shape[letters.index(spare)] > 1:
            raise DataError(f"{where} holds maps of slices and of partitions")
        array, letters = (
            array.squeeze(letters.index(spare)),
            letters.replace(spare, ""),
        )
    maps = arrange(array, letters.replace("z", "d"), where)
    if maps.shape[0] > 1:
        raise DataError(f"{where} holds maps of {maps.shape[0]} frames, expected one")
    return maps[0]


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
            return *_bart(array, where), where
        array = array.reshape(array.shape + (1,) * (len(axes) - array.ndim))
    else:
        array = npy.read(path)
    return array, axes or DEFAULT_AXES.get(array.ndim, ""), where


def _bart(array: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Axes by BART's meaning of their positions; echoes and times become frames."""
    if array.ndim > len(BART_AXES):
        raise DataError(f"{where} has {array.ndim} axes, expected at most 16")
    shape = array.shape + (1,) * (len(BART_AXES) - array.ndim)
    for position, (letter, size) in enumerate(zip(BART_AXES, shape, strict=True)):
        if letter == "_" and size > 1:
            raise DataError(
                f"{where} has size {size} in dimension {position} "
                f"({cfl.DIMENSIONS[position]}), which cannot be used: expected read, "
                "phases, coils, maps, TE or time, and slices (0 to 5, 10, 13)"
            )
    named = [i for i, letter in enumerate(BART_AXES) if letter != "_"]
    w, h, z, c, m, echoes, times, d = (shape[i] for i in named)
    array = array.reshape(w, h, z, c, m, echoes, times, d)
    array = array.transpose(0, 1, 2, 3, 4, 7, 6, 5)  # echoes follow each other
    return array.reshape(w, h, z, c, m, d, times * echoes), "whzcmdt"


def arrange(
    array: np.ndarray, axes: str, where: str
) -> Complex[np.ndarray, "t d c h w"]:
    """Sort axes named by letters into ``t d c h w``.

    Args:
        array: k-space as a file holds it.
        axes: a letter of ``t d z c h w`` per axis.
        where: file and variable, for messages.

    Returns:
        complex64; absent axes have size one, ``z`` is transformed and joins ``d``.

    Raises:
        DataError: where the letters or the numbers are not what they must be.
    """
    fits = len(axes) == array.ndim == len(set(axes)) and set(axes) <= set(AXES)
    if not (fits and {"h", "w"} <= set(axes)):
        raise DataError(
            f"{where} has shape {array.shape}, axes='{axes}': expected one letter of "
            f"'{AXES}' per axis, each once, 'h' (phase encoding) and 'w' (readout) "
            "among them"
        )
    if array.dtype.kind != "c":
        raise DataError(f"{where} has dtype {array.dtype}, expected complex k-space")
    if array.size == 0:
        raise DataError(f"{where} is empty, its shape {array.shape}")
    with np.errstate(over="ignore"):  # refused just below
        array = array.astype(np.complex64)
    finite(where, array, "the array", [NAMES[letter] for letter in axes])
    missing = [letter for letter in AXES if letter not in axes]
    array = array.reshape(array.shape + (1,) * len(missing))
    order = [(axes + "".join(missing)).index(letter) for letter in AXES]
    kspace = np.ascontiguousarray(array.transpose(order))
    if kspace.shape[2] > 1:
        kspace = np.asarray(centred_ifft(jnp.asarray(kspace), axes=(2,)))
    t, d, z, *rest = kspace.shape
    return kspace.reshape(t, d * z, *rest)


def measured_points(
    kspace: Complex[np.ndarray, "t d c h w"], where: str
) -> Bool[np.ndarray, "_t h _w"]:
    """The mask that an array shows by its zeros, in its smallest form.

    Integers rounded from small samples are exact zeros too. Then single components
    (real or imaginary, of one coil) are zero about as often as not; where there are
    more of those than of samples that are zero throughout, zeros are values, and only
    whole lines of them are a mark.

    Args:
        kspace: zero where nothing was measured.
        where: file and variable, for messages.

    Returns:
        ``1|t h 1|w``.

    Raises:
        DataError: where everything is zero.
    """
    mask = np.any(kspace != 0, axis=(1, 2))
    if not mask.any():
        raise DataError(f"{where} is zero everywhere")
    touched = mask.any(axis=-1, keepdims=True)
    if _rounded_samples(kspace, mask) > np.sum(touched & ~mask):
        return _smallest(touched)
    # Readouts may end in zeros (asymmetric echo), at the same place in all lines.
    acquired = np.broadcast_to(touched & mask.any(axis=(0, 1)), mask.shape)
    return _smallest(touched if np.array_equal(mask, acquired) else mask)


def _rounded_samples(
    kspace: Complex[np.ndarray, "t d c h w"], mask: Bool[np.ndarray, "t h w"]
) -> int:
    """How many measured samples have a real or imaginary part of exactly zero."""
    zero = np.zeros(mask.shape, bool)
    for part in (np.real(kspace), np.imag(kspace)):
        if part.any():  # else k-space is real, which says nothing
            zero |= (part == 0).any(axis=(1, 2))
    return int(np.sum(zero & mask))


def _warn_off_centre(kspace: Complex[np.ndarray, "t d c h w"], where: str) -> None:
    """Say so where the energy lies at the edges, as before an fftshift."""
    energy = np.sum(np.abs(kspace) ** 2, axis=(0, 1, 2), dtype=np.float64)
    for axis, name in enumerate("hw"):
        profile, n = energy.sum(axis=1 - axis), energy.shape[axis]
        near = max(n // 16, 1)
        if n < 4 * near + 2:
            continue
        ends = np.roll(profile, near)[: 2 * near + 1].sum()
        middle = profile[n // 2 - near : n // 2 + near + 1].sum()
        if ends > 10 * middle:
            warnings.warn(
                f"{where}: the energy of k-space lies at the ends of axis '{name}', "
                "expected in its middle: images will be wrong; apply fftshift to the "
                "file's k-space",
                stacklevel=3,
            )


def fully_sampled(measured: Bool[np.ndarray, "_t h _w"]) -> bool:
    """Whether all that lies between the outermost measured samples was measured.

    Edges may be missing: partial Fourier, or lines that were never to be acquired.
    """
    frame = np.asarray(measured.all(axis=0))
    rows, columns = (
        np.flatnonzero(measured.any(axis=axes)) for axes in ((0, 2), (0, 1))
    )
    inside = frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(inside.all())


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
    _warn_off_centre(kspace, where)
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
    )


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
        measured=_smallest(measured[:, 0, :, None]),
        size=size,
    )


def _smallest(mask: Bool[np.ndarray, "t h w"]) -> Bool[np.ndarray, "_t h _w"]:
    """One frame where all are equal."""
    return (
        mask[:1]
        if np.array_equal(mask, np.broadcast_to(mask[:1], mask.shape))
        else mask
    )
