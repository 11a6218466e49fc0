"""Graders, from scans to grades: stacks as arrays, a training for each head.

A stack comes at one size of pixels and in one extent, its slices spread evenly over
those that there are, so that volunteers of any scanner make one batch. Each head is a
run of its own, which :mod:`.grader` opens again.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from medjax.data.pipeline import ArraySource, PipelineConfig, build_pipeline
from medjax.metrics.kappa import confusion_matrix
from medjax.segmentation.cmrxmotion.grader import (
    GraderRecord,
    StackConfig,
    TrainedGrader,
    stack_of,
)
from medjax.segmentation.cmrxmotion.quality import QualityConfig, QualitySystem
from medjax.segmentation.cmrxmotion.reader import GRADES, Scan, read_scan
from medjax.segmentation.cmrxmotion.scoring import cmrxmotion_task1
from medjax.train.experiment import Experiment
from medjax.train.mesh import make_mesh
from medjax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class GradingConfig(StackConfig):
    """How graders see scans and are trained."""

    systems: tuple[QualityConfig, ...] = (
        QualityConfig(head="softmax"),
        QualityConfig(head="ordinal"),
    )
    """What is trained, one run each, in a folder with the name of its head."""
    batch_size: int = 16
    """Stacks of the global batch."""
    steps: int = 100
    """Updates of each."""
    optimizer: OptimizerConfig = OptimizerConfig(
        lr=1e-3, clip_norm=5.0, schedule="cosine"
    )
    """Update rule and schedule."""

    def __post_init__(self) -> None:
        heads = [system.head for system in self.systems]
        if len(set(heads)) < len(heads):
            raise ValueError(f"grading: heads {heads}, expected each once at most")


def stacks_of(
    scans: Sequence[Scan], config: GradingConfig
) -> Float[np.ndarray, "n d h w"]:
    """Scans as an array."""
    return np.stack([stack_of(read_scan(scan)[0], config) for scan in scans])


def grades_of(scans: Sequence[Scan]) -> Int[np.ndarray, " n"]:
    """The grades of scans that have one.

    Raises:
        ValueError: where one has none.
    """
    without = [scan.name for scan in scans if scan.grade is None]
    if without:
        raise ValueError(f"{without[:3]}: expected a grade for each scan")
    return np.array([scan.grade for scan in scans], np.int32)


def grader_run(experiment: Experiment, config: GradingConfig) -> Experiment:
    """The training of a grader, as a run like others; its folder is the caller's."""
    return dataclasses.replace(
        experiment,
        optimizer=config.optimizer,
        epochs=None,
        train=dataclasses.replace(experiment.train, steps=config.steps),
    )


def trained_grader(
    experiment: Experiment,
    system: QualityConfig,
    stacks: Float[np.ndarray, "n d h w"],
    grades: Int[np.ndarray, " n"],
    config: GradingConfig,
) -> TrainedGrader:
    """Trains one head, or goes on training it, in a folder of its own.

    Args:
        experiment: whose folder, mesh and seed are taken.
        system: network and head.
        stacks: to train on.
        grades: of each.
        config: length and batch.
    """
    built = QualitySystem(system)
    folder = experiment.workdir / f"grade-{system.head}"
    run = dataclasses.replace(grader_run(experiment, config), workdir=folder)
    size = min(config.batch_size, len(stacks))
    mesh = make_mesh(run.mesh)
    stream = build_pipeline(
        ArraySource({"image": stacks, "grade": grades}),
        PipelineConfig(batch_size=size, seed=run.train.seed),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    kept = {f.name: getattr(config, f.name) for f in dataclasses.fields(StackConfig)}
    record = GraderRecord(system, StackConfig(**kept), size, run.about)
    variables = run.fit_recorded(
        lambda: record, built, stream, rows=len(stacks), batch_size=size, mesh=mesh
    )
    return TrainedGrader.of(record, variables)


def grading_row(
    method: str, scans: Sequence[Scan], said: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """Scores of one way of grading: accuracy, kappas, and who was taken for whom.

    Args:
        method: its name.
        scans: with their grades.
        said: the grade of each.
    """
    names = [scan.name for scan in scans]
    truth = grades_of(scans)
    scores = cmrxmotion_task1(
        dict(zip(names, truth.tolist(), strict=True)),
        dict(zip(names, map(int, said), strict=True)),
    )
    matrix = confusion_matrix(truth, np.asarray(said, np.int32), GRADES)
    return {"method": method, **scores, "confusion": matrix.tolist()}
