"""Reading a series: k-space, mask, times and segmentation, in this library's axes.

MATLAB's ``(kx, ky, coil, slice, frame)`` comes out of HDF5 reversed, which is what is
wanted: ``t d c h w``. Single-coil series gain a coil axis of one. Sizes differ between
patients and series, so series are read one by one; :mod:`.prepare` sorts them by shape.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from medjax.data import mat73, nifti
from medjax.mri.cmrxrecon.layout import SeriesFiles
from medjax.mri.cmrxrecon.times import read_times

LABELS = {
    "mapping": {1: "lv", 2: "myocardium", 3: "rv"},
    "cine": {1: "lv", 2: "rv", 3: "myocardium"},
}
"""What the labels are documented to mean; they are not consistent within the set."""

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
    """

    kspace: Complex[np.ndarray, "t d c h w"]
    mask: Bool[np.ndarray, "..."]
    times: Float[np.ndarray, "d t"] | None
    labels: Int[np.ndarray, "d h w"] | None
    patient: str
    name: str


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice of a :class:`Series`; attributes as there, without the slice axis."""

    kspace: Complex[np.ndarray, "t c h w"]
    mask: Bool[np.ndarray, "..."]
    times: Float[np.ndarray, " t"] | None
    labels: Int[np.ndarray, "h w"] | None
    patient: str
    name: str


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
        KeyError: where a file lacks the variable.
        ValueError: where a file is damaged, or shapes or types are not as documented;
            messages name file and variable.
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
        IndexError: where there is no such slice.
        FileNotFoundError: as in :func:`read_series`.
        KeyError: as in :func:`read_series`.
        ValueError: as in :func:`read_series`.
    """
    count = shape_of(files)[1]
    if not 0 <= index < count:
        raise IndexError(f"{files.kspace}: slice {index} of {count} slices")
    whole = _read(files, (slice(None), slice(index, index + 1)), label_names, index)
    return Slice(
        kspace=whole.kspace[:, 0],
        mask=whole.mask,
        times=None if whole.times is None else whole.times[0],
        labels=None if whole.labels is None else whole.labels[0],
        patient=whole.patient,
        name=whole.name,
    )


def shape_of(files: SeriesFiles) -> tuple[int, int, int, int, int]:
    """Frames, slices, coils, ky and kx, without reading k-space.

    Args:
        files: from :func:`~medjax.mri.cmrxrecon.layout.find`.

    Returns:
        The shape that :attr:`Series.kspace` will have.

    Raises:
        KeyError: where the file lacks the variable.
        ValueError: where it has an impossible rank.
    """
    shapes = mat73.variables(files.kspace)
    if files.key not in shapes:
        raise KeyError(
            f"{files.kspace}: no variable '{files.key}', only {sorted(shapes)}"
        )
    shape = shapes[files.key]
    single = "single" in files.key
    if len(shape) != (4 if single else 5):
        axes = "(frame, slice, ky, kx)" if single else "(frame, slice, coil, ky, kx)"
        raise ValueError(
            f"{files.kspace}: variable '{files.key}' has shape {shape}, expected {axes}"
        )
    t, d, *rest = shape
    c, h, w = (1, *rest) if single else rest
    return t, d, c, h, w


def _read(
    files: SeriesFiles,
    index: tuple[slice, ...],
    label_names: dict[int, str] | None,
    first: int = 0,
) -> Series:
    depth = shape_of(files)[1]
    kspace = mat73.read(files.kspace, files.key, index=index)
    if kspace.dtype.kind != "c":
        raise ValueError(
            f"{files.kspace}: variable '{files.key}' is {kspace.dtype}, expected "
            "complex (compound of 'real' and 'imag')"
        )
    kspace = kspace.astype(np.complex64)
    kspace = kspace[:, :, None] if kspace.ndim == 4 else kspace
    frames, slices, _, h, w = kspace.shape
    times = read_times(files.times, name=files.name, frames=frames, slices=depth)
    return Series(
        kspace=kspace,
        mask=_mask(files, frames, h, w),
        times=None if times is None else times[first : first + slices],
        labels=_labels(files, label_names, (depth, h, w), slice(first, first + slices)),
        patient=files.patient,
        name=files.name,
    )


def _mask(files: SeriesFiles, frames: int, h: int, w: int) -> Bool[np.ndarray, "..."]:
    """The file's mask, reduced to lines where all readout samples agree."""
    if files.mask is None:
        return np.ones((h, 1), bool)
    stored = mat73.read(files.mask, files.mask_key, ndim=(2, 3))
    if stored.shape not in {(h, w), (frames, h, w)}:
        raise ValueError(
            f"{files.mask}: variable '{files.mask_key}' has shape {stored.shape}, "
            f"expected {(h, w)} or {(frames, h, w)} as k-space"
        )
    mask = stored != 0
    return mask[..., :1] if (mask == mask[..., :1]).all() else mask


def _labels(
    files: SeriesFiles,
    names: dict[int, str] | None,
    shape: tuple[int, int, int],
    kept: slice,
) -> Int[np.ndarray, "d h w"] | None:
    if files.labels is None:
        return None
    kind = "mapping" if files.name.lower().endswith("map") else "cine"
    names = names or LABELS[kind]
    stored = nifti.read_labels(files.labels).data
    stored = stored[..., None] if stored.ndim == 2 else stored
    labels = stored.transpose(2, 1, 0)
    if labels.shape != shape:
        raise ValueError(
            f"{files.labels}: shape {stored.shape}, expected {shape[::-1]} "
            "(kx, ky, slice) as k-space"
        )
    unknown = set(np.unique(labels).tolist()) - {0, *names}
    if unknown:
        raise ValueError(f"{files.labels}: labels {sorted(unknown)} are not in {names}")
    lookup = np.zeros(max(names) + 1, np.int32)
    for number, meaning in names.items():
        lookup[number] = _ORDER[meaning]
    return lookup[labels[kept]]
