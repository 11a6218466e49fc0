"""What ``experiments.cmrxrecon`` reconstructs: phantoms, a challenge tree, any file.

All three become the same thing, an :class:`Acquisition`, opened one at a time. k-space
that is fully sampled is undersampled here, by the masks that the flags describe; what
was undersampled when it was acquired is taken as it is.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from medjax.mri import masks, sense
from medjax.mri.cmrxrecon import SeriesFiles, find, read_series, read_slice
from medjax.mri.cmrxrecon.layout import Edition
from medjax.mri.fourier import ifft2c
from medjax.mri.kspace_files import fully_sampled, read_kspace, read_maps
from medjax.mri.relaxometry import FRAMES_TO_FIT
from medjax.mri.scans import TRAINED_ON, TRUTH, Contrast, ScansConfig, phantoms

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
    """Which year's layout: 2023 or 2024."""
    series: tuple[str, ...] = ("T1map", "T2map")
    """T1map, T2map, cine_sax, cine_lax, ..."""
    coils: Literal["MultiCoil", "SingleCoil"] = "MultiCoil"
    """Multi-coil, or 2023's emulated single-coil data."""
    subset: str = "TrainingSet"
    """TrainingSet, ValidationSet or TestSet."""
    sampling: tuple[str, ...] = ()
    """The challenge's own undersampled files: accelerations in 2023 (4 8 10), patterns
    in 2024 (Uniform4 ktRadial8). None given: full files, undersampled by the mask."""
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
    slices: tuple[int, ...] | None = None
    """Only these slices, from 0."""


Data = PhantomData | TreeData | FileData


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """One series, ready to be undersampled.

    Attributes:
        name: of the subject or the file.
        series: ``T1map`` and so on; a file's stem.
        kspace: zero where nothing was measured.
        measured: what was, as a mask.
        given: what the sampling is called if k-space came undersampled, else None.
        reference: magnitudes to come close to, if known.
        reference_name: what they are.
        maps: sensitivity maps that came along; None: to be estimated.
        contrast: what the times are of.
        times: ms, per slice.
        label: 1 LV, 2 myocardium, 3 RV.
        truth: relaxation times in ms that were simulated.
        files: where in the challenge's tree it comes from.
        size: (h, w) that images are cropped to.
        transposed: whether pictures are to be turned.
    """

    name: str
    series: str
    kspace: Complex[np.ndarray, "t d c h w"]
    measured: Bool[np.ndarray, "_t h _w"]
    given: str | None = None
    reference: Float[np.ndarray, "t d y x"] | None = None
    reference_name: str = "fully sampled"
    maps: Complex[np.ndarray, "d c h w"] | None = None
    contrast: Contrast | None = None
    times: Float[np.ndarray, "d t"] | None = None
    label: Int[np.ndarray, "d h w"] | None = None
    truth: Float[np.ndarray, "d h w"] | None = None
    files: SeriesFiles | None = None
    size: tuple[int, int] | None = None
    transposed: bool = False

    def masks(self, config: MaskConfig) -> dict[str, Bool[np.ndarray, "_t h _w"]]:
        """The masks it is to be reconstructed under, by name.

        Raises:
            ValueError: where it is undersampled already and another mask is asked for.
        """
        if self.given is not None or config.pattern == "measured":
            return {self.given or "measured": self.measured}
        if not fully_sampled(self.measured):
            raise ValueError(
                f"{self.name}: is undersampled already "
                f"({masks.describe(self.measured)}); reconstruct it as it is: "
                "--mask.pattern measured"
            )
        t, _, _, h, w = self.kspace.shape
        # Edges that were never acquired (partial Fourier) are not measured now either.
        edges = np.True_ if self.measured.all() else self.measured
        return {
            f"R{acceleration}": config.draw(acceleration, t, h, w) & edges
            for acceleration in config.acceleration
        }


def describe_data(data: Data) -> dict[str, object]:
    """The data's flags, without folders of the machine."""
    return {
        name: value.name if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(data).items()
        if value is not None
    }


Pending = tuple[str, Callable[[], Acquisition]]
"""A name for progress and messages, and how to open it."""


def open_data(data: Data) -> list[Pending]:
    """Everything that the flags name; nothing large is read yet.

    Raises:
        FileNotFoundError: where a folder or a file is missing.
        ValueError: for settings that no data have.
    """
    if isinstance(data, PhantomData):
        return _phantoms(data)
    if isinstance(data, TreeData):
        return _tree(data)
    return [(data.path.name, lambda: _file(data))]


def _phantoms(data: PhantomData) -> list[Pending]:
    if not data.series:
        raise ValueError("data.series is empty, expected t1, t2 or both")
    for name in ("subjects", "height", "width", "coils"):
        if getattr(data, name) < 1:
            found = getattr(data, name)
            raise ValueError(f"data.{name} is {found}, expected 1 at least")
    shared = {
        field.name: getattr(data, field.name)
        for field in dataclasses.fields(data)
        if field.name not in ("series", "subjects", "seed")
    }
    key = jax.random.key(data.seed)
    pending: list[Pending] = []
    for contrast in data.series:
        config = ScansConfig(series=contrast, **shared)
        rows = phantoms(config, data.subjects, TRAINED_ON + TRUTH, key=key)
        for i in range(data.subjects):
            row = rows[i]
            acquisition = Acquisition(
                name=f"heart {i + 1}",
                series=f"{contrast.upper()}map",
                kspace=row["kspace"][:, None],
                measured=np.ones((1, data.height, 1), bool),
                reference=np.abs(row["image"])[:, None],
                reference_name="noise-free",
                contrast=contrast,
                times=row["times"][None],
                label=row["label"][None],
                truth=row[contrast][None],
            )
            pending.append((f"heart {i + 1} {contrast}", lambda one=acquisition: one))
    return pending


def _tree(data: TreeData) -> list[Pending]:
    if not data.series or (data.patients is not None and data.patients < 1):
        raise ValueError(
            f"data.series={data.series}, data.patients={data.patients}: expected one "
            "series and patient at least"
        )
    pending: list[Pending] = []
    for name in data.series:
        for sampling in data.sampling or ("full",):
            where = {
                "name": name,
                "edition": data.edition,
                "coils": data.coils,
                "subset": data.subset,
            }
            found = find(data.root, **where, sampling=sampling)[: data.patients]
            full: dict[str, SeriesFiles] = {}
            if sampling != "full":
                try:
                    full = {f.patient: f for f in find(data.root, **where)}
                except FileNotFoundError:
                    pass  # the challenge keeps the full k-space of its validation set
            for files in found:
                whole = full.get(files.patient)
                read = functools.partial(_series, files, whole, sampling, data.slices)
                label = f"{files.patient} {name}" + f" {sampling}" * bool(data.sampling)
                pending.append((label, read))
    return pending


def _series(
    files: SeriesFiles,
    full: SeriesFiles | None,
    sampling: str,
    slices: Sequence[int] | None,
) -> Acquisition:
    kspace, times, labels, mask = _read(files, slices)
    reference = None
    if full is not None:
        whole, times, labels, _ = _read(full, slices)
        if whole.shape != kspace.shape:
            raise ValueError(
                f"{files.kspace}: variable '{files.key}' has shape {kspace.shape}, but "
                f"{full.kspace} has {whole.shape}"
            )
        reference = root_sum_of_squares(whole)
    given = None if sampling == "full" else sampling
    if given is not None and files.mask is None:
        raise FileNotFoundError(f"{files.kspace}: its mask is missing")
    contrast: dict[str, Contrast] = {"t1map": "t1", "t2map": "t2"}
    return Acquisition(
        name=files.patient,
        series=files.name,
        kspace=kspace,
        measured=mask if mask.ndim == 3 else mask[None],
        given=f"R{given}" if given is not None and given.isdigit() else given,
        reference=reference,
        contrast=contrast.get(files.name.lower()),
        times=times,
        label=labels,
        files=files,
    )


def _read(
    files: SeriesFiles, slices: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray]:
    """k-space, times, labels and mask of a series or of some of its slices."""
    if slices is None:
        series = read_series(files)
        return series.kspace, series.times, series.labels, series.mask
    some = [read_slice(files, index) for index in slices]
    times = [one.times for one in some if one.times is not None]
    labels = [one.labels for one in some if one.labels is not None]
    return (
        np.stack([one.kspace for one in some], axis=1),
        np.stack(times) if times else None,
        np.stack(labels) if labels else None,
        some[0].mask,
    )


def _file(data: FileData) -> Acquisition:
    found = read_kspace(data.path, key=data.key, axes=data.axes, slices=data.slices)
    t, d, c, h, w = found.kspace.shape
    times = None
    if data.times:
        if len(data.times) != t:
            raise ValueError(
                f"data.times: {len(data.times)} times for {t} frames of {data.path}"
            )
        if t < FRAMES_TO_FIT[data.contrast]:
            raise ValueError(
                f"data.times: {t} times, but a {data.contrast.upper()} fit needs "
                f"{FRAMES_TO_FIT[data.contrast]} at least"
            )
        times = np.tile(np.asarray(data.times, np.float32), (d, 1))
    maps = None
    if data.maps is not None or data.maps_key is not None:
        source = data.maps or data.path
        maps = read_maps(source, key=data.maps_key, axes=data.maps_axes)
        if maps.shape[1:] != (c, h, w) or maps.shape[0] not in (1, d):
            raise ValueError(
                f"{source}: maps '{data.maps_key}' have shape {maps.shape}, expected "
                f"{(d, c, h, w)} or {(1, c, h, w)} (d c h w) as k-space"
            )
        maps = np.asarray(sense.normalise_maps(jnp.asarray(maps)))
        maps = np.broadcast_to(maps, (d, c, h, w))
    reference = None if found.reference is None else found.reference[None]
    return Acquisition(
        name=data.path.name,
        series=data.path.stem,
        kspace=found.kspace,
        measured=found.measured,
        reference=reference,
        reference_name="fully sampled" if reference is None else "the file's own",
        maps=maps,
        contrast=data.contrast if data.times else None,
        times=times,
        size=found.size,
        transposed=found.transposed,
    )


def root_sum_of_squares(
    kspace: Complex[np.ndarray, "t d c h w"],
) -> Float[np.ndarray, "t d h w"]:
    """Images of full k-space, frame by frame: all coil images at once are many."""
    return np.stack([np.asarray(sense.rss(ifft2c(jnp.asarray(k)))) for k in kspace])
