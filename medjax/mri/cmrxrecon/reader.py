"""Reading a series: k-space, mask, times and segmentation, in this library's axes.

MATLAB's ``(kx, ky, coil, slice, frame)`` comes out of HDF5 reversed, which is what is
wanted: ``t d c h w``. MATLAB drops trailing axes of size one: a series of one frame, or
of one slice and frame, has fewer, and gets them back. Single-coil series gain a coil
axis of one. Sizes differ between
patients and series, so series are read one by one; :mod:`.prepare` sorts them by shape.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from medjax.data import mat73, nifti
from medjax.data.boundary import DataError, finite
from medjax.mri.cmrxrecon.layout import SeriesFiles
from medjax.mri.cmrxrecon.times import read_times
from medjax.mri.kspace_axes import affine_of_slices

LABELS = {
    "mapping": {1: "lv", 2: "myocardium", 3: "rv"},
    "cine": {1: "lv", 2: "rv", 3: "myocardium"},
}
"""What the labels are documented to mean; they are not consistent within the set."""

AXES = ("frame", "slice", "coil", "ky", "kx")
_ORDER = {"lv": 1, "myocardium": 2, "rv": 3}


@dataclasses.dataclass(frozen=True)
class Series:
    """One series of one patient.

    Attributes:
        kspace: complex64, centred; ``c`` is 1 for single-coil data.
        mask: sampled points, ``h 1`` where whole lines are sampled (``t h 1`` or
            ``t h w`` for k-t masks); all true for fully sampled series.
        times: inversion or echo times in ms, per slice; ``None`` for cine.
        labels: 1 LV, 2 myocardium, 3 RV, whatever the file's order; ``None`` if absent.
        patient: e.g. ``"P001"``.
        name: e.g. ``"T1map"``.
        affine: indices ``w h d`` to mm, which the segmentation alone knows.
    """

    kspace: Complex[np.ndarray, "t d c h w"]
    mask: Bool[np.ndarray, "..."]
    times: Float[np.ndarray, "d t"] | None
    labels: Int[np.ndarray, "d h w"] | None
    patient: str
    name: str
    affine: Float[np.ndarray, "4 4"] | None = None


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice of a :class:`Series`; attributes as there, without the slice axis."""

    kspace: Complex[np.ndarray, "t c h w"]
    mask: Bool[np.ndarray, "..."]
    times: Float[np.ndarray, " t"] | None
    labels: Int[np.ndarray, "h w"] | None
    patient: str
    name: str
    affine: Float[np.ndarray, "4 4"] | None = None


def read_series(
    files: SeriesFiles, *, label_names: dict[int, str] | None = None
) -> Series:
    """Read a whole series.

    Args:
        files: from :func:`~medjax.mri.cmrxrecon.layout.find`.
        label_names: what the segmentation's numbers mean (``lv``, ``myocardium``,
            ``rv``); by default :data:`LABELS` of the series' kind.

    Returns:
        The series. Missing or faulty times fall back to nominal ones with a warning.

    Raises:
        FileNotFoundError: where a file has gone.
        DataError: where a file is damaged or lacks the variable, values are not finite,
            or shapes or types are not as documented; messages name file and variable.
    """
    return _read(files, (), label_names)


def read_slice(
    files: SeriesFiles, index: int, *, label_names: dict[int, str] | None = None
) -> Slice:
    """Read one slice; of k-space nothing else is read from disk.

    Args:
        files: from :func:`~medjax.mri.cmrxrecon.layout.find`.
        index: slice number from 0.
        label_names: as in :func:`read_series`.

    Returns:
        The slice.

    Raises:
        FileNotFoundError: as in :func:`read_series`.
        DataError: as in :func:`read_series`, and where there is no such slice.
    """
    count = shape_of(files)[1]
    if not 0 <= index < count:
        raise DataError(f"{files.kspace}: slice {index} of {count} slices")
    whole = _read(files, (slice(None), slice(index, index + 1)), label_names, index)
    return Slice(
        kspace=whole.kspace[:, 0],
        mask=whole.mask,
        times=None if whole.times is None else whole.times[0],
        labels=None if whole.labels is None else whole.labels[0],
        patient=whole.patient,
        name=whole.name,
        affine=whole.affine,
    )


def shape_of(files: SeriesFiles) -> tuple[int, int, int, int, int]:
    """Frames, slices, coils, ky and kx, without reading k-space.

    Args:
        files: from :func:`~medjax.mri.cmrxrecon.layout.find`.

    Returns:
        The shape that :attr:`Series.kspace` will have.

    Raises:
        FileNotFoundError: where the file has gone.
        DataError: where it is damaged, or lacks the variable, or that has an impossible
            shape.
    """
    shape = _stored_shape(files)
    t, d, *rest = (1,) * (_rank(files) - len(shape)) + shape
    c, h, w = (1, *rest) if len(rest) == 2 else rest
    return t, d, c, h, w


def _rank(files: SeriesFiles) -> int:
    return 4 if "single" in files.key else 5


def _stored_shape(files: SeriesFiles) -> tuple[int, ...]:
    """As in the file: without the axes of size one that MATLAB dropped."""
    shapes = mat73.variables(files.kspace)
    if files.key not in shapes:
        raise DataError(
            f"{files.kspace}: no variable '{files.key}', only {sorted(shapes)}"
        )
    shape, rank = shapes[files.key], _rank(files)
    if not 2 <= len(shape) <= rank or 0 in shape:
        axes = "(frame, slice, ky, kx)" if rank == 4 else f"({', '.join(AXES)})"
        raise DataError(
            f"{files.kspace}: variable '{files.key}' has shape {shape}, expected {axes}"
        )
    return shape


def _read(
    files: SeriesFiles,
    index: tuple[slice, ...],
    label_names: dict[int, str] | None,
    first: int = 0,
) -> Series:
    depth, rank = shape_of(files)[1], _rank(files)
    dropped = rank - len(_stored_shape(files))
    axes = [name for name in AXES if rank == 5 or name != "coil"]
    kspace = mat73.read(
        files.kspace, files.key, index=index[dropped:], axes=axes[dropped:]
    )
    kspace = mat73.lead(kspace, rank)
    if kspace.dtype.kind != "c":
        raise DataError(
            f"{files.kspace}: variable '{files.key}' is {kspace.dtype}, expected "
            "complex (compound of 'real' and 'imag')"
        )
    with np.errstate(over="ignore"):  # refused just below
        kspace = kspace.astype(np.complex64)
    kspace = kspace[:, :, None] if kspace.ndim == 4 else kspace
    finite(files.kspace, kspace, f"variable '{files.key}' in single precision", AXES)
    frames, slices, _, h, w = kspace.shape
    times = read_times(files.times, name=files.name, frames=frames, slices=depth)
    labels = _labels(files, label_names, (depth, h, w))
    kept = slice(first, first + slices)
    return Series(
        kspace=kspace,
        mask=_mask(files, frames, h, w),
        times=None if times is None else times[first : first + slices],
        labels=None if labels is None else labels.data[kept],
        patient=files.patient,
        name=files.name,
        affine=None if labels is None else affine_of_slices(labels.affine, [first]),
    )


def _mask(files: SeriesFiles, frames: int, h: int, w: int) -> Bool[np.ndarray, "..."]:
    """The file's mask, reduced to lines where all readout samples agree."""
    if files.mask is None:
        return np.ones((h, 1), bool)
    stored = mat73.read(files.mask, files.mask_key, ndim=(2, 3))
    if stored.shape not in {(h, w), (frames, h, w)}:
        raise DataError(
            f"{files.mask}: variable '{files.mask_key}' has shape {stored.shape}, "
            f"expected {(h, w)} or {(frames, h, w)} as k-space"
        )
    mask = stored != 0
    return mask[..., :1] if (mask == mask[..., :1]).all() else mask


def _labels(
    files: SeriesFiles,
    names: dict[int, str] | None,
    shape: tuple[int, int, int],
) -> nifti.Volume | None:
    """The segmentation in this library's axes and numbers, with the file's affine."""
    if files.labels is None:
        return None
    kind = "mapping" if files.name.lower().endswith("map") else "cine"
    names = names or LABELS[kind]
    volume = nifti.read_labels(files.labels)
    stored = volume.data
    stored = stored[..., None] if stored.ndim == 2 else stored
    labels = stored.transpose()
    if labels.shape != shape:
        raise DataError(
            f"{files.labels}: shape {stored.shape}, expected {shape[::-1]} "
            "(kx, ky, slice) as k-space"
        )
    unknown = set(np.unique(labels).tolist()) - {0, *names}
    if unknown:
        raise DataError(f"{files.labels}: labels {sorted(unknown)} are not in {names}")
    lookup = np.zeros(max(names) + 1, np.int32)
    for number, meaning in names.items():
        lookup[number] = _ORDER[meaning]
    return dataclasses.replace(volume, data=lookup[labels])
