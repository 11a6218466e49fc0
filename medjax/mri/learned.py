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
from jaxtyping import Array, Bool, Complex, Float

from medjax.mri.acquisitions import Acquisition
from medjax.mri.systems import Trained, family, negated_frames
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.sharding import flatten
from medjax.typing import Variables

Shape = tuple[int, int, int, int]
"""Frames, coils, rows and columns of a series."""


@dataclasses.dataclass(frozen=True)
class Learned:
    """A trained system; called like a classical method.

    Attributes:
        trained: the system and what it was trained on.
        step: updates behind the weights.
        variables: the weights, averaged ones where the run keeps an average.
        reconstruct: ``(variables, batch) -> b t h w``.
        misfit: shape of a series to why the weights do not fit it, or None.
    """

    trained: Trained
    step: int
    variables: Variables
    reconstruct: Callable[[Variables, dict[str, Array]], Array]
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
        return jnp.abs(self.reconstruct(self.variables, series)[0])

    def reason_against(self, acquisition: Acquisition) -> str | None:
        """Why the system cannot be used on a series, or None."""
        known = self.trained
        t, _, c, h, w = acquisition.kspace.shape
        reason = self.misfit((t, c, h, w))
        if reason is None:
            return self._wrong_polarity(acquisition)
        if self.misfit((known.frames, c, h, w)) is None:
            return f"frames: needs {known.frames}, the series has {t}"
        if self.misfit((t, known.coils, h, w)) is None:
            return f"coils: needs {known.coils}, the series has {c}"
        if self.misfit((known.frames, known.coils, h, w)) is None:
            needs = f"{known.frames} and {known.coils}"
            return f"frames and coils: needs {needs}, the series has {t} and {c}"
        return reason

    def _wrong_polarity(self, acquisition: Acquisition) -> str | None:
        negated, contrast = negated_frames(self.trained.system), acquisition.contrast
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

    # Of any size that every level of a network can be pooled to.
    reason = misfit((trained.frames, trained.coils, 1024, 1024))
    if reason is not None:
        raise ValueError(
            f"learned: checkpoint {step} of {folder} is of another system than its "
            f"record: {reason}"
        )
    return Learned(trained, step, variables, jax.jit(system.reconstruct), misfit)
