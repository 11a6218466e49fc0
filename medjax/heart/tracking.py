"""Meshes that follow hearts, from data to scores: train, follow, report."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from medjax.heart.cycle import uneven
from medjax.heart.data import training_batches
from medjax.heart.deepmesh import DeepMeshConfig
from medjax.heart.graph_motion import GraphMotionConfig
from medjax.heart.motion_data import (
    MotionData,
    MotionDataConfig,
    MotionRows,
    open_motion,
)
from medjax.heart.motion_report import Shown, show
from medjax.heart.motion_scores import mean_scores, motion_scores
from medjax.heart.motion_systems import (
    Follower,
    MotionConfig,
    TrainedMotion,
    build,
    expect_room,
    stages,
)
from medjax.heart.subject import Subject
from medjax.heart.validation import ValidationConfig, watched
from medjax.heart.voxelmorph import VoxelMorphConfig
from medjax.train.agree import on_first
from medjax.train.experiment import Experiment
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.mesh import make_mesh
from medjax.typing import Variables

ASKED = 0.4
"""Share of the cycle at which people set aside are asked."""
NAMES = {
    GraphMotionConfig: "graph network",
    DeepMeshConfig: "DeepMesh",
    VoxelMorphConfig: "VoxelMorph",
}
STILL = "no motion"
"""The mesh at end-diastole, left where it is."""
TRACK = """
To follow a heart of your own, from a cine scan and its mesh at end-diastole:

    python -m experiments.heart track {run} cine.nii.gz --mesh heart.vtk --out moving

In Python:

    import medjax
    run = medjax.load({path})
    moving = run.track("cine.nii.gz", mesh="heart.vtk")   # vertices, volumes, strain
"""


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """What is shown at the end; everyone held out is scored."""

    show_row: int = 0
    """The held-out person that the report shows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracking(Experiment):
    """One training run; every field is a flag."""

    uses: ClassVar[dict[str, str]] = {"track": TRACK}
    contents: ClassVar[dict[str, str]] = {
        "ed": "the run of the first stage, which fits the mesh at end-diastole",
        "people": "phantoms that were drawn, or hearts of a tree that were read",
    }

    system: Any
    """Network and loss."""
    data: MotionDataConfig = MotionDataConfig()
    """Whose hearts are followed."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How processes find each other."""
    validation: ValidationConfig = ValidationConfig()
    """Which state is kept."""
    evaluation: TrackingConfig = TrackingConfig()
    """What is shown at the end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphTracking(Tracking):
    """A run of the graph network; every field is a flag."""

    system: GraphMotionConfig = GraphMotionConfig()
    """Network and loss."""
    workdir: Path = Path("runs/graph_motion")
    """Folder of the run; the same command on the same folder resumes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepMeshTracking(Tracking):
    """A run of DeepMesh; every field is a flag."""

    system: DeepMeshConfig = DeepMeshConfig()
    """Networks and losses. Of the stages, ``motion`` trains both, the mesh at
    end-diastole first and then the motion of what was found; ``joint`` both as one."""
    workdir: Path = Path("runs/deepmesh")
    """Folder of the run; the same command on the same folder resumes."""


def run(config: Tracking) -> dict[str, Any]:
    """Trains, follows held-out hearts, and reports; resumes.

    Args:
        config: the run.

    Returns:
        The evaluation, as in ``evaluation.json``.

    Raises:
        ValueError: for flags that do not fit the data.
    """
    if isinstance(config.system, DeepMeshConfig) and config.system.stage == "ed":
        raise ValueError(
            "system.stage is 'ed', which moves nothing: expected 'motion', which "
            "trains it first, or 'joint'"
        )
    if not 0 <= config.evaluation.show_row < config.data.test_people:
        raise ValueError(
            f"evaluation.show-row is {config.evaluation.show_row}, expected one of "
            f"{config.data.test_people} people, from 0"
        )
    channels = not isinstance(config.system, GraphMotionConfig)
    aside = config.validation.aside
    data = open_motion(config.data, config.workdir, resliced=channels, aside=aside)
    weights = train(config, data)
    follower = Follower(weights, config.system, data.topology, data.reference)
    results, shown = evaluate(follower, data, config)
    size = sum(
        leaf.size for leaf in jax.tree.leaves([w["params"] for w in weights.values()])
    )
    results["parameters"] = size
    about = config.about
    on_first(lambda: show(config.workdir, results, shown, title=about), what="report")
    return results


def learned(config: Tracking) -> MotionConfig:
    """The system's settings as the data allow: of all, DeepMesh's folders alone tell
    where the true mesh meets planes.

    Args:
        config: the run.
    """
    system = config.system
    if isinstance(system, DeepMeshConfig) and config.data.format != "deepmesh":
        return dataclasses.replace(system, projections=False)
    return system


def train(config: Tracking, data: MotionData) -> dict[str, Variables]:
    """Trains, or goes on training, every stage in its folder.

    Args:
        config: the run.
        data: people.

    Returns:
        Weights of the stages by folder.

    Raises:
        ValueError: where the loss needs what the data do not have, or planes see more
            of a mesh than there is room for.
    """
    mesh, found = make_mesh(config.mesh), {}
    starts = asked_starts = None
    for folder, settings in stages(learned(config)).items():
        system = build(settings, data.topology, data.reference)
        if data.truth == "contours" and "vertices_t" in system.fields:
            raise ValueError(
                "system.loss.supervision learns from vertices of later frames, of "
                f"which data.format {config.data.format!r} says nothing: expected "
                "'contours'"
            )
        rows = MotionRows(data.train, system.fields, starts)
        inside: Any = dataclasses.replace(
            config, system=settings, workdir=config.workdir / folder
        )
        inside, options = watched(
            inside,
            config.validation.rule,
            system.judged,
            asked_examples(data.valid, system.fields, asked_starts),
            rows=len(rows),
            batch_size=config.data.batch_size,
            mesh=mesh,
        )
        found[folder] = inside.fit_recorded(
            lambda settings=settings: describe(config, settings, data),
            system,
            training_batches(
                rows, batch_size=config.data.batch_size, seed=config.data.seed
            ),
            rows=len(rows),
            batch_size=config.data.batch_size,
            mesh=mesh,
            phase="train" if folder == "." else f"train, {folder}",
            refuse=functools.partial(expect_room, settings),
            **options,
        )
        if folder != ".":
            weights = {".": found[folder]}
            first = Follower(weights, settings, data.topology, data.reference)
            starts, asked_starts = (
                list(first.follow([one.example(1) for one in people])) if people else []
                for people in (data.train, data.valid)
            )
    return found


def asked_examples(
    people: Sequence[Subject],
    fields: Sequence[str],
    starts: Sequence[np.ndarray] | None,
) -> list[dict[str, np.ndarray]]:
    """End-diastole and one later frame of people set aside.

    The frame is the nearest to :data:`ASKED`, as published: 20 of 50.

    Args:
        people: set aside.
        fields: that a loss reads.
        starts: meshes at end-diastole, where those are not to be the true ones.
    """
    found = []
    for i, one in enumerate(people):
        frame = 1 + int(np.argmin(np.abs(np.asarray(one.times)[1:] - ASKED)))
        example = one.example(frame, None if starts is None else starts[i])
        found.append({name: example[name] for name in fields})
    return found


def describe(
    config: Tracking, settings: MotionConfig, data: MotionData
) -> TrainedMotion:
    """What is needed to use the run's weights elsewhere."""
    people = config.data
    return TrainedMotion(
        settings,
        people.scan,
        people.mesh,
        people.right,
        data.name,
        stopping=config.validation.rule,
    )


def follow(follower: Follower, subject: Subject) -> np.ndarray:
    """The mesh of a person in all frames, ``t n 3`` in mm, from images alone.

    Args:
        follower: a trained system.
        subject: of the same mesh; its true vertices are read at end-diastole, and only
            by a system that does not fit them.
    """
    start = follower.start(subject.example(1))
    later = range(1, len(subject.times))
    moved = follower.follow([subject.example(t, start) for t in later])
    return np.concatenate([start[None], moved])


def evaluate(
    follower: Follower, data: MotionData, config: Tracking
) -> tuple[dict[str, Any], Shown]:
    """Held-out people followed, beside the mesh at end-diastole left where it is.

    Args:
        follower: the trained system.
        data: people.
        config: of the run.

    Returns:
        All scores, and the person that the report draws.
    """
    scores: dict[str, list[dict[str, Any]]] = {STILL: [], _name(config): []}
    shown = None
    for i, subject in enumerate(data.test):
        found = follow(follower, subject)
        still = np.repeat(found[:1], len(found), axis=0)
        for name, mesh in zip(scores, (still, found), strict=True):
            scores[name].append(motion_scores(mesh, subject, data.topology))
        if i == config.evaluation.show_row:
            shown = Shown(subject, found, data.topology)
    assert shown is not None
    tracking, contours = [], []
    for name, people in scores.items():
        means, views = mean_scores(people)
        tracking.append({"method": name, **means})
        contours += [{"method": name, **row} for row in views]
    results = {
        "data": data.name,
        "truth": data.truth,
        "frames": len(data.test[0].times),
        "frames_uneven": max(uneven(np.asarray(x.times)) for x in data.test),
        "people": {
            part: len(people)
            for part in ("train", "valid", "test")
            if (people := getattr(data, part))
        },
        "tracking": tracking,
        "contours": contours,
        "each": scores[_name(config)],
        "each_still": scores[STILL],
    }
    return results, shown


def _name(config: Tracking) -> str:
    return NAMES[type(config.system)]
