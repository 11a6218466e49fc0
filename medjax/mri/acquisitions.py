"""What ``experiments.cmrxrecon`` reconstructs: phantoms, a challenge tree, any file.

All three become the same thing, an :class:`Acquisition`, opened one at a time. k-space
that is fully sampled is undersampled here, by the masks that the flags describe; what
was undersampled when it was acquired is taken as it is.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from medjax.mri import masks, sense
from medjax.mri.acquisition_config import (
    Data,
    FileData,
    MaskConfig,
    Pattern,
    PhantomData,
    TreeData,
)
from medjax.mri.cmrxrecon import SeriesFiles, find, read_series, read_slice
from medjax.mri.fourier import ifft2c
from medjax.mri.kspace_axes import affine_of_slices, fully_sampled
from medjax.mri.kspace_files import read_kspace, read_maps, read_mask
from medjax.mri.relaxometry import FRAMES_TO_FIT
from medjax.mri.scans import TRAINED_ON, TRUTH, Contrast, ScansConfig, phantoms
from medjax.train.sets import on_disk


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
        maps: sensitivity maps that came along, of every slice one set or several (which
            soft-SENSE alone takes); None: to be estimated.
        contrast: what the times are of.
        times: ms, per slice.
        label: 1 LV, 2 myocardium, 3 RV.
        truth: relaxation times in ms that were simulated.
        files: where in the challenge's tree it comes from.
        size: (h, w) that images are cropped to.
        transposed: whether pictures are to be turned.
        affine: indices ``w h d`` of images to mm, if known.
        mask: what is to be sampled of it, by name, in place of the flags' masks.
        pattern: in place of the flags' pattern.
    """

    name: str
    series: str
    kspace: Complex[np.ndarray, "t d c h w"]
    measured: Bool[np.ndarray, "_t h _w"]
    given: str | None = None
    reference: Float[np.ndarray, "t d y x"] | None = None
    reference_name: str = "fully sampled"
    maps: Complex[np.ndarray, "d m c h w"] | None = None
    contrast: Contrast | None = None
    times: Float[np.ndarray, "d t"] | None = None
    label: Int[np.ndarray, "d h w"] | None = None
    truth: Float[np.ndarray, "d h w"] | None = None
    files: SeriesFiles | None = None
    size: tuple[int, int] | None = None
    transposed: bool = False
    affine: Float[np.ndarray, "4 4"] | None = None
    mask: tuple[str, Bool[np.ndarray, "_t h _w"]] | None = None
    pattern: Pattern | None = None

    def masks(self, config: MaskConfig) -> dict[str, Bool[np.ndarray, "_t h _w"]]:
        """The masks it is to be reconstructed under, by name.

        Raises:
            ValueError: where it is undersampled already and another mask is asked for,
                or a given mask samples what was not measured.
        """
        if self.mask is not None:
            name, mask = self.mask
            if (mask & ~self.measured).any():
                raise ValueError(
                    f"data.mask: {name} samples what was not measured of {self.name} "
                    f"({masks.describe(self.measured)})"
                )
            return {name: mask}
        if self.pattern is not None:
            config = dataclasses.replace(config, pattern=self.pattern)
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
    if data.slices is not None and not data.slices:
        raise ValueError("data.slices is empty, expected one slice at least")
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
    on_disk(data.root, "data.root")
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
    kspace, times, labels, mask, affine = _read(files, slices)
    reference = None
    if full is not None:
        whole, times, labels, _, affine = _read(full, slices)
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
        affine=affine,
    )


def _read(
    files: SeriesFiles, slices: Sequence[int] | None
) -> tuple[
    np.ndarray,
    np.ndarray | None,
    np.ndarray | None,
    np.ndarray,
    np.ndarray | None,
]:
    """k-space, times, labels, mask and affine of a series or of some of its slices."""
    if slices is None:
        series = read_series(files)
        return (
            series.kspace,
            series.times,
            series.labels,
            series.mask,
            series.affine,
        )
    some = [read_slice(files, index) for index in slices]
    times = [one.times for one in some if one.times is not None]
    labels = [one.labels for one in some if one.labels is not None]
    affine = some[0].affine
    if affine is not None:
        affine = affine_of_slices(affine, [index - slices[0] for index in slices])
    return (
        np.stack([one.kspace for one in some], axis=1),
        np.stack(times) if times else None,
        np.stack(labels) if labels else None,
        some[0].mask,
        affine,
    )


def _file(data: FileData) -> Acquisition:
    on_disk(data.path, "data.path")
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
        sets, *shape = maps.shape
        if shape[1:] != [c, h, w] or shape[0] not in (1, d):
            raise ValueError(
                f"{source}: maps '{data.maps_key}' have shape {tuple(shape)}, expected "
                f"{(d, c, h, w)} or {(1, c, h, w)} (d c h w) as k-space"
            )
        maps = np.asarray(sense.normalise_maps(jnp.asarray(maps)))
        maps = np.broadcast_to(maps, (sets, d, c, h, w)).swapaxes(0, 1)
    mask, pattern = _asked_mask(data, (t, h, w))
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
        affine=found.affine,
        mask=mask,
        pattern=pattern,
    )


def _asked_mask(
    data: FileData, shape: tuple[int, int, int]
) -> tuple[tuple[str, Bool[np.ndarray, "_t h _w"]] | None, Pattern | None]:
    """What ``data.mask`` means: a mask with its name, or a pattern."""
    if data.mask is None:
        return None, None
    for pattern in get_args(Pattern):
        if data.mask == pattern:
            return None, pattern
    path = Path(data.mask)
    if not path.exists() and not path.suffix:
        raise ValueError(
            f"data.mask is {data.mask!r}, expected a file or one of "
            f"{', '.join(get_args(Pattern))}"
        )
    mask = read_mask(path, key=data.mask_key)
    if any(m not in (1, n) for m, n in zip(mask.shape, shape, strict=True)):
        raise ValueError(
            f"{path}: the mask has shape {mask.shape} (t h w), expected 1 or as many "
            f"as k-space on each axis, {shape}"
        )
    if mask.shape[1] != shape[1]:
        raise ValueError(f"{path}: the mask has one line, k-space has {shape[1]}")
    return (path.stem, mask), None


def root_sum_of_squares(
    kspace: Complex[np.ndarray, "t d c h w"],
) -> Float[np.ndarray, "t d h w"]:
    """Images of full k-space, frame by frame: all coil images at once are many."""
    return np.stack([np.asarray(sense.rss(ifft2c(jnp.asarray(k)))) for k in kspace])
