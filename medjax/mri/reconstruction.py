"""A learned reconstruction from data to scores and maps: train, evaluate, show.

A run's folder can be opened again without its flags: ``experiments.cmrxrecon
--learned`` does.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from medjax.data.pipeline import parts_of
from medjax.mri.reconstruction_report import show
from medjax.mri.reconstruction_scores import (
    Method,
    cg_sense,
    evaluate,
    learned,
    zero_filled,
)
from medjax.mri.scans import (
    Scans,
    ScansConfig,
    batch_of,
    open_scans,
    training_batches,
)
from medjax.mri.series import ReconstructionSystem, at_magnitude, magnitude
from medjax.mri.systems import ReconstructionKernels, Trained, build
from medjax.train.agree import on_first
from medjax.train.experiment import Experiment
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.mesh import make_mesh
from medjax.typing import Variables

MEASURED_ON = 16
"""Training series that the typical magnitude is taken from."""


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """What is scored at the end."""

    rows: int | None = None
    """At most so many held-out series; None: all."""
    crop: bool = False
    """Score the part that the challenge's validation ranks instead of whole images."""
    show_row: int = 0
    """The held-out series that the report shows."""

    def check(self, rows: int) -> None:
        """Refuses before training what cannot be scored of so many series.

        Raises:
          ValueError: naming the flag.
        """
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"evaluation.rows is {self.rows}, expected 1 at least")
        scored = min(rows, self.rows or rows)
        if not 0 <= self.show_row < scored:
            raise ValueError(
                f"evaluation.show_row is {self.show_row}, expected one of {scored} "
                "series, from 0"
            )


RECONSTRUCT = """
Reconstruct k-space with it, beside the classical methods:

    python -m experiments.cmrxrecon file --data.path scan.mat --learned {run}

and in Python, from a k-space file or array to magnitudes [t, d, h, w]:

    import medjax
    images = medjax.load({path}).reconstruct("scan.mat")
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(Experiment):
    """One training run; every field is a flag."""

    uses: ClassVar[Mapping[str, str]] = {"reconstruct": RECONSTRUCT}

    system: Any
    """Network, unrolling and loss."""
    normalise: bool = False
    """Show the system every series with a zero-filled image of at most 1, whatever the
    unit of its k-space; the system's scale, if it has one, multiplies that."""
    kernels: ReconstructionKernels = ReconstructionKernels()
    """Which kernels do the hot work."""
    data: ScansConfig = ScansConfig()
    """What is reconstructed, and from how much."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How processes find each other."""
    evaluation: ScoringConfig = ScoringConfig()
    """What is scored at the end."""
    workdir: Path = Path("runs/reconstruction")
    """Folder of the run; the same command on the same folder resumes."""


def run(config: Reconstruction, name: str) -> dict[str, Any]:
    """Trains, evaluates beside classical methods, and reports; resumes.

    Args:
      config: The run.
      name: Of the method, in tables.

    Returns:
      The evaluation, as in ``evaluation.json``.
    """
    system = build(config.system, config.kernels)
    if config.normalise:
        system = at_magnitude(system, 1.0)
    scans = open_scans(config.data)
    config.evaluation.check(len(scans.test))
    check_shapes(config.train.shapes, scans)
    variables = train(config, system, scans)
    methods: dict[str, Method] = {
        "zero-filled": zero_filled,
        "CG-SENSE": cg_sense,
        name: learned(system, variables),
    }
    results, shown = evaluate(
        methods,
        scans.test,
        contrast=config.data.series,
        accelerations=config.data.acceleration,
        acs=config.data.acs,
        shift=config.data.shift,
        crop=config.evaluation.crop,
        limit=config.evaluation.rows,
        show_row=config.evaluation.show_row,
    )
    results = {"data": scans.name, "method": name, **results}

    def keep() -> None:
        show(config.workdir, results, shown, title=config.about)

    on_first(keep, what="report")
    return results


def train(
    config: Reconstruction,
    system: ReconstructionSystem,
    scans: Scans,
    **options: Any,
) -> Variables:
    """Trains, or goes on training, in the run's folder.

    Args:
      config: The run.
      system: What is trained.
      scans: What on.
      **options: Of `medjax.train.fit`, such as weights to start from.

    Returns:
      Its variables (averaged, if asked for) on this process's first device.
    """
    size = config.data.batch_size
    return config.fit_recorded(
        lambda: describe(config, system, scans),
        system,
        training_batches(scans, config.data),
        # Batches are of one matrix size, and what does not fill one is dropped.
        rows=sum(len(p) // size * size for p in parts_of(scans.train)),
        batch_size=size,
        mesh=make_mesh(config.mesh),
        **options,
    )


def check_shapes(most: int, scans: Scans) -> None:
    """Refuses before training more matrix sizes than a step is compiled for.

    Raises:
      ValueError: naming the flag.
    """
    if (count := len(parts_of(scans.train))) > most:
        raise ValueError(
            f"train.shapes is {most}, but there are training series of {count} matrix "
            f"sizes ({scans.name}): allow as many, or name one set itself"
        )


def describe(
    config: Reconstruction, system: ReconstructionSystem, scans: Scans
) -> Trained:
    """What is needed to use the run's weights elsewhere.

    Args:
      config: The run.
      system: What is trained.
      scans: What it is trained on.

    Returns:
      The content of its ``system.json``.
    """
    frames, coils = scans.train[0]["kspace"].shape[:2]
    return Trained(
        system=config.system,
        magnitude=1.0 if config.normalise else typical_magnitude(scans, config.data),
        data=scans.name,
        series=config.data.series,
        frames=frames,
        coils=coils,
        acceleration=config.data.acceleration,
        acs=config.data.acs,
        can=tuple(system.apply),
    )


def typical_magnitude(scans: Scans, data: ScansConfig) -> float:
    """The median over training series of :func:`medjax.mri.series.magnitude`."""
    measure = jax.jit(magnitude)
    parts = parts_of(scans.train)
    of_each = -(-MEASURED_ON // len(parts))
    rows = [part[i] for part in parts for i in range(min(of_each, len(part)))]
    found = [
        measure(batch_of(row, acceleration=data.acceleration[0], acs=data.acs))
        for row in rows
    ]
    return float(np.median(found))
