"""Opening a k-space file of any format as the same array: ``t d c h w``.

======================= ================================================================
``.h5`` with ``kspace`` fastMRI; its columns are the phase encodes, so they become ``h``
``.h5`` with a dataset  ISMRMRD: averages are averaged, other counters become frames
``.mat``                MATLAB, one variable of it
``.cfl`` / ``.hdr``     BART
``.npy``                NumPy
======================= ================================================================

The last three say nothing about their axes, so the reader must: one letter per axis, in
the order of the file, of ``t d z c h w``. ``z`` is a second phase encoding of a
three-dimensional scan, which is transformed to slices.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from medjax.data import cfl, fastmri_h5, ismrmrd, mat73
from medjax.mri.fourier import centred_ifft

AXES = "tdzchw"
DEFAULT_AXES = {2: "hw", 3: "chw", 4: "tchw", 5: "tdchw"}
"""What a file of so many axes holds, if nothing is said; BART's order is its own."""
BART_AXES = "whzc"


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
            default :data:`DEFAULT_AXES`, for BART ``"whzc"``. MATLAB's are taken in
            HDF5's order, the reverse of what MATLAB shows.
        slices: numbers of the slices to keep; all by default.

    Returns:
        The scan.

    Raises:
        FileNotFoundError: where there is no such file.
        KeyError: where the file lacks the variable.
        IndexError: where it lacks a slice.
        ValueError: for an unknown format, a damaged file, numbers that are not complex,
            or axes that do not fit; the message names file and variable.
    """
    path = Path(path)
    kind = _kind(path)
    if kind in ("fastmri", "ismrmrd") and axes is not None:
        raise ValueError(f"{path}: axes='{axes}', but a {kind} file names its own axes")
    if kind == "fastmri":
        return _fastmri(path, slices)
    if kind == "ismrmrd":
        return _ismrmrd(path, key or "dataset", slices)
    if kind == "mat":
        array, where = mat73.read(path, key), f"{path}: variable '{key}'"
    elif kind == "cfl":
        array, where, axes = cfl.read(path), f"{path}", axes or BART_AXES
        array = array.reshape(array.shape + (1,) * (len(axes) - array.ndim))
    else:
        array, where = _numpy(path), f"{path}"
    kspace = arrange(array, axes or DEFAULT_AXES.get(array.ndim, ""), where)
    kspace = _take(kspace, slices, where)
    return KspaceFile(kspace, measured_points(kspace, where))


def read_maps(
    path: str | Path, *, key: str | None = None, axes: str | None = None
) -> Complex[np.ndarray, "d c h w"]:
    """Sensitivity maps from a MATLAB, BART or NumPy file; arguments as above."""
    path = Path(path)
    kind = _kind(path)
    if kind not in ("mat", "cfl", "npy"):
        raise ValueError(f"{path}: maps are read from .mat, .cfl and .npy files")
    array = {"mat": lambda p: mat73.read(p, key), "cfl": cfl.read, "npy": _numpy}[kind](
        path
    )
    axes = axes or (BART_AXES if kind == "cfl" else DEFAULT_AXES.get(array.ndim, ""))
    where = f"{path}: variable '{key}'" if key else f"{path}"
    array = array.reshape(array.shape + (1,) * (len(axes) - array.ndim))
    return arrange(array, axes.replace("z", "d"), where)[0]


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
        ValueError: where the letters or the numbers are not what they must be.
    """
    fits = len(axes) == array.ndim == len(set(axes)) and set(axes) <= set(AXES)
    if not (fits and {"h", "w"} <= set(axes)):
        raise ValueError(
            f"{where} has shape {array.shape}, axes='{axes}': expected one letter of "
            f"'{AXES}' per axis, each once, 'h' (phase encoding) and 'w' (readout) "
            "among them"
        )
    if array.dtype.kind != "c":
        raise ValueError(f"{where} has dtype {array.dtype}, expected complex k-space")
    if not np.isfinite(array).all():
        raise ValueError(f"{where} holds values that are not finite")
    missing = [letter for letter in AXES if letter not in axes]
    array = array.reshape(array.shape + (1,) * len(missing))
    order = [(axes + "".join(missing)).index(letter) for letter in AXES]
    kspace = array.transpose(order).astype(np.complex64)
    if kspace.shape[2] > 1:
        kspace = np.asarray(centred_ifft(jnp.asarray(kspace), axes=(2,)))
    t, d, z, *rest = kspace.shape
    return kspace.reshape(t, d * z, *rest)


def measured_points(
    kspace: Complex[np.ndarray, "t d c h w"], where: str
) -> Bool[np.ndarray, "_t h _w"]:
    """The mask that an array shows by its zeros, in its smallest form.

    Args:
        kspace: zero where nothing was measured.
        where: file and variable, for messages.

    Returns:
        ``1|t h 1|w``.

    Raises:
        ValueError: where everything is zero.
    """
    mask = np.any(kspace != 0, axis=(1, 2))
    if not mask.any():
        raise ValueError(f"{where} is zero everywhere")
    touched = mask.any(axis=-1, keepdims=True)
    # Readouts may end in zeros (asymmetric echo), at the same place in all lines.
    acquired = np.broadcast_to(touched & mask.any(axis=(0, 1)), mask.shape)
    return _smallest(touched if np.array_equal(mask, acquired) else mask)


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
        raise ValueError(
            f"{path}: '{path.suffix}' is none of .h5 .hdf5 .mrd .mat .cfl .hdr .npy"
        )
    try:
        fastmri_h5.count_slices(path)
    except KeyError:
        return "ismrmrd"
    return "fastmri"


def _take(
    kspace: Complex[np.ndarray, "t d c h w"], slices: Sequence[int] | None, where: str
) -> Complex[np.ndarray, "t kept c h w"]:
    if slices is None:
        return kspace
    count = kspace.shape[1]
    for index in slices:
        if not 0 <= index < count:
            raise IndexError(f"{where}: slice {index} of {count} slices")
    return kspace[:, list(slices)]


def _numpy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not an intact .npy file: {error}") from error


def _fastmri(path: Path, wanted: Sequence[int] | None) -> KspaceFile:
    if wanted is None:
        wanted = range(fastmri_h5.count_slices(path))
    slices = [fastmri_h5.read_slice(path, index) for index in wanted]
    kspace = np.stack([one.kspace for one in slices])[None].swapaxes(-1, -2)
    kspace = np.ascontiguousarray(kspace)
    measured = measured_points(kspace, f"{path}: 'kspace'")
    if slices[0].mask is not None:
        measured = measured & slices[0].mask[None, :, None]
    references = [one.reference for one in slices if one.reference is not None]
    rows, columns = slices[0].recon_size
    return KspaceFile(
        kspace=kspace,
        measured=measured,
        reference=np.stack(references).swapaxes(-1, -2) if references else None,
        size=(columns, rows),
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
        raise ValueError(
            f"{path}: {dataset}/data samples other lines in other slices or "
            "partitions; one mask for all is expected"
        )
    recon = scan.recon
    size = None if recon is None else (min(recon[1], ky), min(recon[2], kx))
    where = f"{path}: {dataset}/data"
    return KspaceFile(
        kspace=_take(arrange(kspace, "tdczhw", where), slices, where),
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
