"""What a reconstruction leaves as files: images, coil maps, T1 and T2 maps.

Per series and mask a folder, in it a file per method: ``cg_sense.nii.gz`` (magnitudes),
``cg_sense_t1.nii.gz`` and ``cg_sense_t1_sd.nii.gz`` (ms, zero where no plausible fit
is), ``cg_sense_t1_fault.nii.gz`` (why not, by
:data:`medjax.mri.relaxometry.REASONS`), and ``coil_maps``. NIfTI has the geometry of
the source where that has one, axes ``w h d t``; ``npz`` holds all of it in one file,
axes ``t d h w`` as in this library; ``cfl`` has the axes of BART.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from medjax.data import cfl, nifti
from medjax.data.whole import whole
from medjax.mri.acquisitions import Acquisition
from medjax.mri.cmrxrecon.report import Kept
from medjax.mri.fourier import centre_crop
from medjax.mri.relaxometry import fit_t1, fit_t2, implausible
from medjax.mri.relaxometry.plausibility import masked
from medjax.mri.scans import Contrast

WriteFormat = Literal["nifti", "npz", "cfl"]
LISTED = 40
"""Paths that are printed at most."""


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """A map in ms with what is known of its trust.

    Attributes:
        value: T1 or T2, zero where no plausible fit is.
        sd: Its standard error; zero also where three frames tell nothing of it.
        fault: 0, or why a fit is implausible.
    """

    value: Float[np.ndarray, "d h w"]
    sd: Float[np.ndarray, "d h w"]
    fault: UInt8[np.ndarray, "d h w"]


def relaxation(
    images: Float[np.ndarray, "t d h w"],
    times: Float[np.ndarray, "d t"],
    contrast: Contrast,
) -> Relaxation:
    """T1 or T2 with standard errors, slice by slice, as times may differ."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for i in range(images.shape[1]):
        one, at = jnp.asarray(images[:, i]), jnp.asarray(times[i])
        if contrast == "t1":
            maps = fit_t1(one, at)
            value, sd = maps.t1, maps.t1_sd
        else:
            maps = fit_t2(one, at)
            value, sd = maps.t2, maps.t2_sd
        codes = implausible(maps, images[:, i])
        found.append(
            (masked(np.asarray(value), codes), masked(np.asarray(sd), codes), codes)
        )
    value, sd, fault = (np.stack(part) for part in zip(*found, strict=True))
    return Relaxation(value, sd, fault)


def write_series(
    folder: Path, kind: WriteFormat, acquisition: Acquisition, found: Kept
) -> list[Path]:
    """Writes everything that is known of a series under one mask.

    Args:
        folder: Gets a folder of subject, series and mask.
        kind: Of the files.
        acquisition: The series.
        found: Its images and coil maps.

    Returns:
        The paths.
    """
    parts = [acquisition.series, found.sampling]
    if not acquisition.name.startswith(acquisition.series):  # a file is its own series
        parts = [acquisition.name, *parts]
    place = folder / "_".join(re.sub(r"[\s/]+", "_", part) for part in parts)
    place.mkdir(parents=True, exist_ok=True)
    every = found.images | (
        {} if found.reference is None else {"reference": found.reference}
    )
    arrays: dict[str, np.ndarray] = {}
    for name, images in every.items():
        arrays[name] = images.astype(np.float32)
        fitted = found.maps.get(name, found.reference_maps)
        times, contrast = acquisition.times, acquisition.contrast
        if fitted is not None and times is not None and contrast is not None:
            maps = relaxation(images, times, contrast)
            arrays[f"{name}_{contrast}"] = maps.value
            arrays[f"{name}_{contrast}_sd"] = maps.sd
            arrays[f"{name}_{contrast}_fault"] = maps.fault
    if found.coil_maps is not None:
        arrays["coil_maps"] = _cut(found.coil_maps, acquisition)
    if kind == "npz":
        path = place / "reconstruction.npz"
        with whole(path) as draft:
            np.savez(draft, allow_pickle=False, **arrays)
        return [path]
    write = _write_nifti if kind == "nifti" else _write_cfl
    paths: list[Path] = []
    for name, array in arrays.items():
        paths += write(place / name, array, acquisition)
    return paths


def _cut(
    maps: Shaped[np.ndarray, "d m c h w"], acquisition: Acquisition
) -> Shaped[np.ndarray, "d m c y x"]:
    """Coil maps as large as the images."""
    if acquisition.size is None:
        return maps
    height, width = acquisition.size
    return np.asarray(centre_crop(jnp.asarray(maps), height=height, width=width))


def _write_nifti(
    path: Path, array: Shaped[np.ndarray, "..."], acquisition: Acquisition
) -> list[Path]:
    """One file, or two of magnitude and phase; coils lie on the fourth axis."""
    if np.iscomplexobj(array):
        d, m, c, h, w = array.shape
        coils = array.transpose(1, 2, 0, 3, 4).reshape(m * c, d, h, w)
        both = {"magnitude": np.abs(coils), "phase": np.angle(coils)}
        return [
            one
            for name, part in both.items()
            for one in _write_nifti(
                path.with_name(f"{path.name}_{name}"), part, acquisition
            )
        ]
    affine = np.eye(4) if acquisition.affine is None else acquisition.affine
    file = path.with_name(f"{path.name}.nii.gz")
    nifti.write(file, array.transpose(), affine=affine)
    return [file]


def _write_cfl(
    path: Path, array: Shaped[np.ndarray, "..."], acquisition: Acquisition
) -> list[Path]:
    """BART's positions: read 0, phase 1, coils 3, maps 4, TE 5, slice 13."""
    if array.ndim == 5:  # d m c h w
        d, m, c, h, w = array.shape
        order, shape = array.transpose(4, 3, 2, 1, 0), (w, h, 1, c, m, 1)
    else:
        series = array if array.ndim == 4 else array[None]
        t, d, h, w = series.shape
        order, shape = series.transpose(3, 2, 0, 1), (w, h, 1, 1, 1, t)
    cfl.write(path, order.reshape(*shape, *[1] * 7, d))
    return [path.with_name(path.name + ".cfl")]


def listed(paths: Sequence[Path], *, geometry: bool, kind: WriteFormat) -> str:
    """What was written, a line each, the last of many left out."""
    lines = [f"  {path}" for path in paths[:LISTED]]
    if len(paths) > LISTED:
        lines.append(f"  and {len(paths) - LISTED} more beside them")
    if kind == "nifti" and not geometry:
        lines.append("  (the source says nothing of geometry: voxels of 1 mm)")
    return "\n".join([f"written, {len(paths)} files:", *lines])
