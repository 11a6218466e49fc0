"""Trained runs as reconstruction methods beside the classical ones.

A run is named by its folder. Every series is brought to the magnitude that the system
was trained on, by what was measured of it alone, and its images back to the unit of the
data.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Shaped

from medjax.mri import sense
from medjax.mri.acquisitions import Acquisition
from medjax.mri.cmrxrecon.scores import cropped
from medjax.mri.image_unet import ImageUNetConfig
from medjax.mri.kspace_axes import DEFAULT_AXES, arrange, measured_points
from medjax.mri.kspace_files import KspaceFile, read_kspace
from medjax.mri.methods import ClassicalConfig, estimate_maps
from medjax.mri.promptmr import PromptMRConfig
from medjax.mri.scans import Contrast
from medjax.mri.series import ReconstructionSystem
from medjax.mri.systems import Trained, family, negated_frames
from medjax.mri.varnet import VarNetConfig
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.sharding import batch_sharding, flatten, replicated
from medjax.typing import Variables

OWN_MAPS = (VarNetConfig, PromptMRConfig, ImageUNetConfig)
"""Systems that estimate coil maps themselves, or do without."""
Shape = tuple[int, int, int, int]
"""Frames, coils, rows and columns of a series."""


@dataclasses.dataclass(frozen=True)
class Learned:
    """A trained system; called like a classical method.

    Attributes:
        trained: the system and what it was trained on.
        step: updates behind the weights.
        variables: the weights, averaged ones where the run keeps an average.
        apply: ``(variables, batch) -> b t h w``, not jitted.
        misfit: shape of a series to why the weights do not fit it, or None.
    """

    trained: Trained
    step: int
    variables: Variables
    apply: Callable[[Variables, dict[str, Array]], Array]
    misfit: Callable[[Shape], str | None]

    def __call__(
        self,
        kspace: Complex[Array, "t c h w"],
        mask: Bool[Array, "_t h _w"],
        maps: Complex[Array, "c h w"],
    ) -> Float[Array, "t h w"]:
        """Undersampled k-space, mask and coil maps to magnitudes."""
        batch = {"kspace": kspace, "mask": mask, "sensitivities": maps}
        series = {name: value[None] for name, value in batch.items()}
        return jnp.abs(self._compiled(self.variables, series)[0])

    @functools.cached_property
    def _compiled(self) -> Callable[[Variables, dict[str, Array]], Array]:
        return jax.jit(self.apply)

    def reconstruct(
        self,
        scan: str | Path | Shaped[np.ndarray, "..."],
        *,
        mask: Bool[np.ndarray, "_t h _w"] | None = None,
        maps: Complex[np.ndarray, "_d c h w"] | None = None,
        contrast: Contrast | None = None,
        key: str | None = None,
        axes: str | None = None,
        batch_size: int = 4,
    ) -> Float[np.ndarray, "t d y x"]:
        """A k-space file or array to magnitude images, all slices.

        Args:
            scan: A file of any format of :func:`medjax.mri.read_kspace`, or centred
                k-space whose axes are the last of ``t d c h w``.
            mask: What is to be used of it; None: what was measured.
            maps: Sensitivity maps, one for all slices or one each; None: estimated
                from the fully sampled centre.
            contrast: What the series is of, where the system asks for it.
            key: The variable of a MATLAB file, or the group of an ISMRMRD file.
            axes: What the axes of a MATLAB, BART or NumPy file are.
            batch_size: Slices at a time; rounded up to split over the devices.

        Returns:
            float32, in the unit of k-space, cropped to what the file asks for.

        Raises:
            FileNotFoundError: Where there is no such file.
            DataError: For a damaged file or impossible k-space.
            ValueError: Where mask or maps do not fit, the weights are not for such a
                series, or maps cannot be estimated.
        """
        found = _opened(scan, key, axes)
        t, d, c, h, w = found.kspace.shape
        if reason := self.unfit((t, c, h, w), contrast):
            raise ValueError(f"scan: {reason}")
        sampled = found.measured if mask is None else np.asarray(mask)
        if sampled.ndim != 3 or any(
            m not in (1, n) for m, n in zip(sampled.shape, (t, h, w), strict=True)
        ):
            raise ValueError(
                f"mask has shape {sampled.shape}, expected 1 or as many as k-space on "
                f"each of t h w, {(t, h, w)}"
            )
        kspace = sense.sample(jnp.asarray(found.kspace.swapaxes(0, 1)), sampled)
        given = self._maps(maps, kspace, sampled)
        if given.ndim != 4 or given.shape[1:] != (c, h, w) or len(given) not in (1, d):
            raise ValueError(
                f"maps has shape {given.shape}, expected {(d, c, h, w)} or {(c, h, w)}"
            )
        rows = {
            "kspace": np.asarray(kspace),
            "mask": np.broadcast_to(sampled, (d, *sampled.shape)),
            "sensitivities": np.broadcast_to(given, (d, c, h, w)),
        }
        images = np.abs(self._in_batches(rows, batch_size)).swapaxes(0, 1)
        return cropped(images.astype(np.float32), found.size)

    def _maps(
        self,
        maps: np.ndarray | None,
        kspace: Complex[Array, "d t c h w"],
        mask: Bool[np.ndarray, "_t h _w"],
    ) -> np.ndarray:
        """The given maps with an axis of slices, or estimated ones."""
        if maps is not None:
            return maps if maps.ndim == 4 else maps[None]
        if isinstance(self.trained.system, OWN_MAPS):  # nobody looks at them
            return np.ones((1, *kspace.shape[2:]), np.complex64)
        sampled, settings = jnp.asarray(mask), ClassicalConfig()
        every = [estimate_maps(one, sampled, settings) for one in kspace]
        return np.stack([np.asarray(one) for one in every])

    def _in_batches(self, rows: dict[str, np.ndarray], batch_size: int) -> np.ndarray:
        """All slices in batches of one shape, split over this process's devices."""
        count = len(rows["kspace"])
        devices = jax.local_devices()[:count]
        mesh = make_mesh(MeshConfig(), devices=devices)
        size = -(-min(batch_size, count) // len(devices)) * len(devices)
        everywhere, split = replicated(mesh), batch_sharding(mesh)
        compiled = jax.jit(
            self.apply, in_shardings=(everywhere, split), out_shardings=split
        )
        variables = jax.device_put(self.variables, everywhere)
        parts = []
        with jax.set_mesh(mesh):
            for start in range(0, count, size):
                part = {name: x[start : start + size] for name, x in rows.items()}
                short = size - len(part["kspace"])
                full = {
                    name: np.concatenate([x, np.repeat(x[-1:], short, axis=0)])
                    for name, x in part.items()
                }
                out = compiled(variables, full)
                parts.append(np.asarray(out)[: size - short])
        return np.concatenate(parts)

    def reason_against(self, acquisition: Acquisition) -> str | None:
        """Why the system cannot be used on a series, or None."""
        t, _, c, h, w = acquisition.kspace.shape
        return self.unfit((t, c, h, w), acquisition.contrast)

    def unfit(self, shape: Shape, contrast: Contrast | None) -> str | None:
        """Why the weights are not for series of a shape and contrast, or None."""
        known = self.trained
        t, c, h, w = shape
        reason = self.misfit(shape)
        if reason is None:
            return self._wrong_polarity(contrast)
        if self.misfit((known.frames, c, h, w)) is None:
            return f"frames: needs {known.frames}, the series has {t}"
        if self.misfit((t, known.coils, h, w)) is None:
            return f"coils: needs {known.coils}, the series has {c}"
        if self.misfit((known.frames, known.coils, h, w)) is None:
            needs = f"{known.frames} and {known.coils}"
            return f"frames and coils: needs {needs}, the series has {t} and {c}"
        return reason

    def _wrong_polarity(self, contrast: Contrast | None) -> str | None:
        negated = negated_frames(self.trained.system)
        if not negated or contrast == self.trained.series:
            return None
        return (
            f"negates the first {negated} frames, as inversion recovery has it: needs "
            f"a {self.trained.series.upper()} series, this is "
            + (contrast.upper() if contrast else "of unknown contrast")
        )

    def describe(self) -> dict[str, Any]:
        """What the report says of it."""
        known = self.trained
        return {
            "system": family(known.system),
            "updates": self.step,
            "trained on": known.data,
            "frames": known.frames,
            "coils": known.coils,
            "accelerations": " ".join(map(str, known.acceleration)),
            "central lines": known.acs,
            "magnitude": known.magnitude,
        }


def _opened(
    scan: str | Path | np.ndarray, key: str | None, axes: str | None
) -> KspaceFile:
    """The file, or the array as a file would hold it."""
    if isinstance(scan, (str, Path)):
        return read_kspace(scan, key=key, axes=axes)
    array = np.asarray(scan)
    letters = axes or DEFAULT_AXES.get(array.ndim, "")
    kspace = arrange(array, letters, "scan")
    return KspaceFile(kspace, measured_points(kspace, "scan"))


def open_runs(folders: Sequence[Path]) -> dict[str, Learned]:
    """The systems of trained runs, by the names of their folders.

    Raises:
        FileNotFoundError: for a folder that is absent, or not a run's.
        ValueError: for a run without a checkpoint, one whose checkpoint is of another
            system than its record, or two runs of one name.
    """
    opened: dict[str, Learned] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in opened:
            raise ValueError(f"learned: two runs are called {name!r}: rename a folder")
        opened[name] = open_run(folder)
    return opened


def open_run(folder: Path) -> Learned:
    """The system of one run, with the weights of its last checkpoint.

    Raises:
        FileNotFoundError: for a folder that is absent, or not a run's.
        ValueError: for a run without a checkpoint, or one of another system than its
            record says.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"learned: {folder}: no such folder")
    trained = Trained.load(folder)
    steps = saved_steps(folder)
    if not steps:
        raise ValueError(f"learned: {folder} has no checkpoint: train it first")
    step = steps[-1]
    system, variables = trained.build(), load_variables(folder, step=step)
    misfit = weights_fit(system, variables)
    # Of any size that every level of a network can be pooled to.
    reason = misfit((trained.frames, trained.coils, 1024, 1024))
    if reason is not None:
        raise ValueError(
            f"learned: checkpoint {step} of {folder} is of another system than its "
            f"record: {reason}"
        )
    return Learned(trained, step, variables, system.reconstruct, misfit)


def weights_fit(
    system: ReconstructionSystem, variables: Variables
) -> Callable[[Shape], str | None]:
    """A function from the shape of a series to why weights do not fit it, or None."""
    shapes = {name: leaf.shape for name, leaf in flatten(variables).items()}

    @functools.cache
    def misfit(series: Shape) -> str | None:
        t, c, h, w = series
        batch = {
            "kspace": jax.ShapeDtypeStruct((1, t, c, h, w), jnp.complex64),
            "mask": jax.ShapeDtypeStruct((1, 1, h, 1), jnp.bool_),
            "sensitivities": jax.ShapeDtypeStruct((1, c, h, w), jnp.complex64),
        }
        try:
            fresh = jax.eval_shape(system.init, jax.random.key(0), batch)
        except ValueError as error:
            return str(error)
        wanted = {name: leaf.shape for name, leaf in flatten(fresh).items()}
        differing = sorted(dict(wanted.items() ^ shapes.items()))
        return f"its weights have another shape: {differing[0]}" if differing else None

    return misfit
