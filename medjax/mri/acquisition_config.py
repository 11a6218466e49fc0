"""What is reconstructed, and how it is undersampled, as flags."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool

from medjax.mri import masks
from medjax.mri.cmrxrecon.layout import Edition
from medjax.mri.scans import Contrast

Pattern = Literal[
    "cmrxrecon",
    "random_lines",
    "kt_equispaced",
    "kt_gaussian",
    "kt_radial",
    "variable_density",
    "measured",
]


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """How fully sampled k-space is undersampled."""

    pattern: Pattern = "cmrxrecon"
    """cmrxrecon: equispaced lines from the first on, and the central block. measured:
    what the file has, as it is."""
    acceleration: tuple[int, ...] = (4,)
    """One reconstruction each. Nominal (the central block not counted) but for
    random_lines and variable_density, whose acceleration is the true one."""
    acs: int = 24
    """Fully sampled central lines, or side of the central square."""
    seed: int = 0
    """Of random patterns."""

    def draw(
        self, acceleration: int, frames: int, h: int, w: int
    ) -> Bool[np.ndarray, "_t h _w"]:
        """The mask ``1|t h 1|w`` of one acceleration."""
        key = jax.random.key(self.seed)
        much = {"acceleration": acceleration, "acs": self.acs}
        drawn = {
            "cmrxrecon": lambda: masks.cmrxrecon(h, **much),
            "random_lines": lambda: masks.random_lines(h, **much, key=key),
            "kt_equispaced": lambda: masks.kt_equispaced(h, frames, **much),
            "kt_gaussian": lambda: masks.kt_gaussian(h, frames, **much, key=key),
            "kt_radial": lambda: masks.kt_radial(h, w, frames, **much),
            "variable_density": lambda: masks.variable_density(h, w, **much, key=key),
        }[self.pattern]()
        return np.asarray(drawn if drawn.ndim == 3 else drawn[None])


@dataclasses.dataclass(frozen=True)
class PhantomData:
    """Simulated hearts whose relaxation times are known."""

    series: tuple[Contrast, ...] = ("t1", "t2")
    """T1 (nine inversion times) and T2 (three echo times)."""
    subjects: int = 2
    """How many hearts."""
    height: int = 64
    """Rows, along which lines are left out."""
    width: int = 64
    """Columns."""
    coils: int = 4
    """Receivers."""
    noise: float = 0.003
    """Standard deviation in k-space, of the largest pixel."""
    breathing: float = 0.3
    """Standard deviation of the heart's shift between frames, rows."""
    seed: int = 0
    """Of the hearts."""


@dataclasses.dataclass(frozen=True)
class TreeData:
    """The files of a CMRxRecon challenge."""

    root: Path
    """The folder that holds MultiCoil and SingleCoil."""
    edition: Edition = 2023
    """Which year's layout: 2023, 2024 or 2025."""
    series: tuple[str, ...] = ("T1map", "T2map")
    """T1map, T2map, cine_sax, cine_lax, ..."""
    coils: Literal["MultiCoil", "SingleCoil"] = "MultiCoil"
    """Multi-coil, or 2023's emulated single-coil data."""
    subset: str = "TrainingSet"
    """TrainingSet, ValidationSet or TestSet."""
    sampling: tuple[str, ...] = ()
    """The challenge's own undersampled files: accelerations in 2023 (4 8 10), patterns
    since 2024 (Uniform4 ktRadial8). None: full files, undersampled by the mask."""
    patients: int | None = None
    """Only the first so many."""
    slices: tuple[int, ...] | None = None
    """Only these slices, from 0."""


@dataclasses.dataclass(frozen=True)
class FileData:
    """A k-space file: fastMRI .h5, ISMRMRD .h5, BART .cfl, MATLAB .mat, NumPy .npy."""

    path: Path
    """The file."""
    key: str | None = None
    """The variable of a MATLAB file, or the group of an ISMRMRD file."""
    axes: str | None = None
    """What the axes of .mat, .cfl and .npy are, a letter each: t frames, d slices, z
    second phase encoding, c coils, h phase encoding, w readout. Default: the last of
    tdchw; whzc for BART."""
    maps: Path | None = None
    """A file of sensitivity maps; may be the same one. None: estimated."""
    maps_key: str | None = None
    """The variable of the maps."""
    maps_axes: str | None = None
    """The axes of the maps."""
    times: tuple[float, ...] = ()
    """Inversion or echo times in ms, one per frame: then maps are fitted."""
    contrast: Contrast = "t1"
    """What the times are of."""
    mask: str | None = None
    """A file of a sampling mask (.npy, .mat, .cfl; axes h, h w or t h w), or the name
    of a pattern, in place of --mask.pattern."""
    mask_key: str | None = None
    """The variable of the mask."""
    slices: tuple[int, ...] | None = None
    """Only these slices, from 0."""


Data = PhantomData | TreeData | FileData


def describe_data(data: Data) -> dict[str, object]:
    """The data's flags, without folders of the machine."""
    return {
        name: value.name if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(data).items()
        if value is not None
    }
