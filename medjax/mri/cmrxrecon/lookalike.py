"""A small CMRxRecon tree that nobody's heart was in.

Same folders, names, variables, dtypes and axis orders as the challenge, a few
megabytes, from an ellipse phantom whose T1 and T2 are known: readers, preparation and
fits can be tried on it. A better phantom can be passed in as ``series``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Int

from medjax.data import mat73, nifti
from medjax.mri.cmrxrecon.layout import EDITIONS, Edition
from medjax.mri.cmrxrecon.times import DEFAULTS

# (frames, slices, coils, ky, kx); the challenge's are (9, 5, 10, 144, 512) and so on.
SHAPES = {"T1map": (9, 2, 4, 36, 64), "T2map": (3, 2, 4, 28, 48)}
ACS = 8
ACCELERATIONS = (4, 8, 10)

# T1 and T2 in ms and proton density: chest, LV blood, myocardium, RV blood.
TISSUE = np.array([[800, 50, 0.6], [1900, 180, 1.0], [1250, 45, 0.8], [1850, 150, 1.0]])


class Scan(NamedTuple):
    """What a phantom delivers for one series.

    Attributes:
        kspace: fully sampled, centred.
        times: inversion or echo times in ms.
        labels: 1 LV, 2 myocardium, 3 RV.
    """

    kspace: Complex[np.ndarray, "t d c h w"]
    times: Float[np.ndarray, " t"]
    labels: Int[np.ndarray, "d h w"]


SeriesMaker = Callable[[str, int], Scan]


def fabricate(
    root: str | Path,
    *,
    edition: Edition = 2023,
    patients: int = 2,
    series: SeriesMaker | None = None,
) -> list[Path]:
    """Write a look-alike tree.

    Args:
        root: where; need not exist.
        edition: 2023 (multi- and single-coil, all accelerations, times, segmentations),
            2024 (multi-coil, ``Uniform`` and k-t masks in folders of their own), or
            2025 (the same by centre and scanner, without times).
        patients: how many, P001 on.
        series: ``(name, patient number)`` to a scan; the ellipse phantom by default.

    Returns:
        The files written.

    Raises:
        ValueError: for an unknown edition.
    """
    if edition not in EDITIONS:
        raise ValueError(f"edition={edition} is none of {EDITIONS}")
    if patients < 1:
        raise ValueError(f"patients={patients}, expected 1 at least")
    make = series or ellipse_scan
    written: list[Path] = []
    for number in range(1, patients + 1):
        for name in SHAPES:
            scan = make(name, number)
            written += WRITERS[edition](Path(root), f"P{number:03d}", name, scan)
    return written


def ellipse_scan(name: str, patient: int) -> Scan:
    """A chest of ellipses with a heart, seen by smooth coils, with a little noise.

    MOLLI signals are ``M0 (1 - 1.9 exp(-t / T1*))`` with ``T1* = T1 / 0.9``, so that
    the Look-Locker correction of a three-parameter fit returns T1 exactly.

    Args:
        name: ``T1map`` or ``T2map``.
        patient: seed of size, position, phase and noise.

    Returns:
        The scan.
    """
    frames, depth, coils, h, w = SHAPES[name]
    rng = np.random.default_rng([patient, frames])
    times = np.asarray(DEFAULTS[name.lower()], np.float64)
    y, x = np.meshgrid(
        np.arange(h) / h - 0.5, 2 * (np.arange(w) / w - 0.5), indexing="ij"
    )
    centre = rng.uniform(-0.04, 0.04, 2)
    images, labels = [], []
    for level in range(depth):
        size = (1 - 0.2 * level) * rng.uniform(0.95, 1.05)
        tissue = np.where((y / 0.45) ** 2 + (x / 0.45) ** 2 < 1, 0, -1)
        reach = np.hypot(y - centre[0], x - centre[1]) / size
        right = np.hypot(y - centre[0], x - centre[1] + 0.17) / size < 0.12
        tissue[right] = 3
        tissue[reach < 0.16] = 2
        tissue[reach < 0.09] = 1
        t1, t2, density = np.moveaxis(TISSUE[np.maximum(tissue, 0)], -1, 0)
        density = density * (tissue >= 0)
        t = times[:, None, None]
        if name == "T1map":
            signal = density * (1 - 1.9 * np.exp(-t * 0.9 / t1))
        else:
            signal = density * np.exp(-t / t2)
        images.append(signal)
        labels.append(np.maximum(tissue, 0))
    phase = np.exp(1j * (rng.uniform(-np.pi, np.pi) + 2 * rng.normal() * y * x))
    image = np.stack(images, 1)[:, :, None] * phase * 1e-4
    maps = []
    for angle in 2 * np.pi * np.arange(coils) / coils:
        far = (y - 0.6 * np.sin(angle)) ** 2 + (x - 0.6 * np.cos(angle)) ** 2
        maps.append(np.exp(-2 * far + 1j * (angle + y * np.cos(angle))))
    kspace = _fft2c(image * np.stack(maps))
    noise = rng.normal(size=(2, *kspace.shape)) * 2e-7
    return Scan(
        kspace=(kspace + noise[0] + 1j * noise[1]).astype(np.complex64),
        times=times,
        labels=np.stack(labels).astype(np.int32),
    )


def _fft2c(x: np.ndarray) -> np.ndarray:
    shifted = np.fft.fft2(np.fft.ifftshift(x, (-2, -1)), norm="ortho")
    return np.fft.fftshift(shifted, (-2, -1))


def _lines(h: int, acceleration: int, offset: int = 0) -> np.ndarray:
    mask = np.zeros(h, bool)
    mask[offset::acceleration] = True
    mask[h // 2 - ACS // 2 : h // 2 + ACS // 2] = True
    return mask


def _write_2023(root: Path, patient: str, name: str, scan: Scan) -> list[Path]:
    depth, h, w = scan.kspace.shape[1], *scan.kspace.shape[-2:]
    single = scan.kspace.sum(axis=2) / scan.kspace.shape[2]
    written = []
    for coils, kspace, infix in (
        ("MultiCoil", scan.kspace, ""),
        ("SingleCoil", single.astype(np.complex64), "single_"),
    ):
        top = root / coils / "Mapping" / "TrainingSet"
        for acceleration in (1, *ACCELERATIONS):
            factor = f"{acceleration:02d}"
            folder = top / ("FullSample" if acceleration == 1 else f"AccFactor{factor}")
            place = folder / patient
            place.mkdir(parents=True, exist_ok=True)
            mask = np.broadcast_to(_lines(h, acceleration)[:, None], (h, w))
            key = "full" if acceleration == 1 else f"sub{factor}"
            data = {f"kspace_{infix}{key}": kspace * mask}
            mat73.write(place / f"{name}.mat", data)
            written.append(place / f"{name}.mat")
            if acceleration > 1:
                stored = {f"mask{factor}": mask.astype(np.float64)}
                mat73.write(place / f"{name}_mask.mat", stored)
                written.append(place / f"{name}_mask.mat")
            _write_times(place / f"{name}.csv", scan.times, depth)
            written.append(place / f"{name}.csv")
    roi = root / "SingleCoil" / "Mapping" / "TrainingSet" / "SegmentROI" / patient
    roi.mkdir(parents=True, exist_ok=True)
    labels = roi / f"{name}_label.nii.gz"
    nifti.write(labels, scan.labels.transpose(2, 1, 0), affine=np.diag([1, 1, 8, 1]))
    return [*written, labels]


def _write_2024(root: Path, patient: str, name: str, scan: Scan) -> list[Path]:
    frames, h, w = scan.kspace.shape[0], *scan.kspace.shape[-2:]
    top = root / "MultiCoil" / "Mapping"
    whole = top / "TrainingSet" / "FullSample" / patient
    whole.mkdir(parents=True, exist_ok=True)
    mat73.write(whole / f"{name}.mat", {"kspace_full": scan.kspace})
    _write_times(whole / f"{name}.csv", scan.times, scan.kspace.shape[1])
    written = [whole / f"{name}.mat", whole / f"{name}.csv"]
    for pattern, task in (("Uniform4", 1), ("Uniform8", 1), ("ktUniform4", 2)):
        acceleration = int(pattern.removeprefix("kt").removeprefix("Uniform"))
        if task == 1:
            mask = np.broadcast_to(_lines(h, acceleration)[:, None], (h, w))
            sampled = scan.kspace * mask
        else:
            lines = [_lines(h, acceleration, t % acceleration) for t in range(frames)]
            mask = np.broadcast_to(np.stack(lines)[:, :, None], (frames, h, w))
            sampled = scan.kspace * mask[:, None, None]
        for subset in ("TrainingSet", "ValidationSet"):
            place = top / subset / f"Mask_Task{task}" / patient
            place.mkdir(parents=True, exist_ok=True)
            file = place / f"{name}_mask_{pattern}.mat"
            mat73.write(file, {"mask": mask.astype(np.float64)})
            written.append(file)
        place = top / "ValidationSet" / f"UnderSample_Task{task}" / patient
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{name}_kus_{pattern}.mat"
        mat73.write(file, {"kus": sampled.astype(np.complex64)})
        written.append(file)
    return written


def _write_times(path: Path, times: np.ndarray, depth: int) -> None:
    """Header, labels, and the trailing blank row and column of the real files."""
    rows = ["," + ",".join(f"Slice{i + 1}" for i in range(depth)) + ","]
    rows += [f"{i + 1}," + f"{t:g}," * depth for i, t in enumerate(times)]
    path.write_text("\n".join([*rows, "," * (depth + 1)]) + "\n")


def _write_2025(root: Path, patient: str, name: str, scan: Scan) -> list[Path]:
    """Two centres with a patient of each number, sampled for two tasks."""
    h, w = scan.kspace.shape[-2:]
    top = root / "MultiCoil" / "Mapping"
    written = []

    def write(folder: str, place: str, file: str, **arrays: np.ndarray) -> None:
        path = top / folder / place / patient / file
        path.parent.mkdir(parents=True, exist_ok=True)
        mat73.write(path, arrays)
        written.append(path)

    for place, task in (
        ("Center001/UIH_30T_umr780", "R1"),
        ("Center006/Siemens_30T_Prisma", "R2"),
    ):
        write("TrainingSet/FullSample", place, f"{name}.mat", kspace=scan.kspace)
        for acceleration in (4, 8):
            pattern = f"Uniform{acceleration}"
            mask = np.broadcast_to(_lines(h, acceleration)[:, None], (h, w))
            mask_file = f"{name}_mask_{pattern}.mat"
            stored = mask.astype(np.float64)
            write("TrainingSet/Mask_TaskAll", place, mask_file, mask=stored)
            write(f"ValidationSet/Mask_Task{task}", place, mask_file, mask=stored)
            sampled = (scan.kspace * mask).astype(np.complex64)
            folder = f"ValidationSet/UnderSample_Task{task}"
            write(folder, place, f"{name}_kus_{pattern}.mat", kus=sampled)
    return written


WRITERS: dict[Edition, Callable[[Path, str, str, Scan], list[Path]]] = {
    2023: _write_2023,
    2024: _write_2024,
    2025: _write_2025,
}
