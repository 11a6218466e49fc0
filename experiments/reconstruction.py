"""What the learned reconstructions share: parse, train, evaluate, show.

An experiment names its system and its presets and calls :func:`main`.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
import tyro

from experiments.reconstruction_report import show
from experiments.reconstruction_scores import (
    Method,
    cg_sense,
    evaluate,
    learned,
    zero_filled,
)
from experiments.scans import DataConfig, Scans, open_scans, training_batches
from medjax.mri.series import ReconstructionSystem
from medjax.train.loop import fit
from medjax.train.mesh import (
    LaunchConfig,
    MeshConfig,
    cpu_devices,
    launch,
    make_mesh,
)
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig
from medjax.train.sharding import replicated
from medjax.typing import Variables
from medjax_kernels.data_consistency.dispatch import Implementation

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class KernelConfig:
    """Which kernels do the hot work."""

    implementation: Implementation | None = None
    """Of data consistency; None picks the best for platform and shape."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is scored at the end."""

    rows: int | None = None
    """At most so many held-out series; None: all."""
    crop: bool = False
    """Score the part that the challenge's validation ranks instead of whole images."""
    show_row: int = 0
    """The held-out series that the report shows."""


@dataclasses.dataclass(frozen=True)
class Reconstruction(Generic[C]):
    """One training run; every field is a flag."""

    about: tyro.conf.Suppress[str]
    """What this is, in a line."""
    system: C
    """Network, unrolling and loss."""
    kernels: KernelConfig = KernelConfig()
    """Which kernels do the hot work."""
    data: DataConfig = DataConfig()
    """What is reconstructed, and from how much."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Update rule and schedule."""
    train: TrainConfig = TrainConfig()
    """Length of the run, and what happens how often."""
    epochs: float | None = None
    """Length of the run in passes over the training series; overrides train.steps."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How processes find each other."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is scored at the end."""
    workdir: Path = Path("runs/reconstruction")
    """Folder of the run; the same command on the same folder resumes."""


Build = Callable[[Any, KernelConfig], ReconstructionSystem]


def main(presets: Mapping[str, Reconstruction], name: str, build: Build) -> None:
    """Parses the command line and runs: preset name first, then flags.

    Args:
      presets: Configurations by name; ``tiny`` is what no argument means.
      name: Of the method, in tables.
      build: Makes the system.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in (*presets, "-h", "--help"):
        arguments = ["tiny", *arguments]
    config = tyro.extras.overridable_config_cli(
        {preset: (value.about, value) for preset, value in presets.items()},
        args=arguments,
    )
    launch(config.launch)
    run(config, name, build)


def run(config: Reconstruction, name: str, build: Build) -> dict[str, Any]:
    """Trains, evaluates beside classical methods, and reports; resumes.

    Args:
      config: The run.
      name: Of the method, in tables.
      build: Makes the system.

    Returns:
      The evaluation, as in ``evaluation.json``.
    """
    system = build(config.system, config.kernels)
    scans = open_scans(config.data)
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
        crop=config.evaluation.crop,
        limit=config.evaluation.rows,
        show_row=config.evaluation.show_row,
    )
    results = {"data": scans.name, "method": name, **results}
    if jax.process_index() == 0:
        show(config.workdir, results, shown, title=config.about)
    return results


def train(
    config: Reconstruction, system: ReconstructionSystem, scans: Scans
) -> Variables:
    """Trains, or goes on training, in the run's folder.

    Args:
      config: The run.
      system: What is trained.
      scans: What on.

    Returns:
      Its variables (averaged, if asked for) on this process's first device.
    """
    mesh, settings = make_mesh(config.mesh), config.train
    if config.epochs is not None:
        batches = len(scans.train) // config.data.batch_size
        steps = max(1, round(config.epochs * batches))
        settings = dataclasses.replace(settings, steps=steps)
    state = fit(
        system.init,
        system.loss,
        training_batches(scans, config.data),
        workdir=config.workdir,
        optimizer=config.optimizer,
        train=settings,
        mesh=mesh,
        config=config,
    )
    whole = jax.device_put(state.averaged_variables, replicated(mesh))
    return jax.device_put(jax.tree.map(np.asarray, whole))
