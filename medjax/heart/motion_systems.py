"""Systems that move meshes by name, what a run of one says, and its weights at work.

A graph network and VoxelMorph are given the mesh at end-diastole; DeepMesh fits a
template first, by a system of its own whose run is the folder ``ed`` inside the
other's, or by one and the same (``stage="joint"``). :class:`Follower` hides the
difference: it finds the mesh at end-diastole and follows it through the frames. Weights
belong to no mesh: a follower is made for the mesh at hand.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Float32

from medjax.heart.deepmesh import DeepMeshConfig, deepmesh
from medjax.heart.graph_motion import GraphMotionConfig, graph_motion
from medjax.heart.meshes import Topology
from medjax.heart.scanning import ScanConfig
from medjax.heart.system import MotionSystem
from medjax.heart.voxelmorph import VoxelMorphConfig, voxelmorph
from medjax.train.checkpoint import load_variables
from medjax.train.record import load_record, save_record
from medjax.train.stopping import StoppingConfig, best_step
from medjax.typing import Variables

MotionConfig: TypeAlias = GraphMotionConfig | DeepMeshConfig | VoxelMorphConfig
FAMILIES: Mapping[str, type] = {
    "graph_motion": GraphMotionConfig,
    "deepmesh": DeepMeshConfig,
    "voxelmorph": VoxelMorphConfig,
}
"""Classes of the systems' settings."""
CHUNK = 8
"""Frames followed at once."""
SEEN = ("sax", "lax", "planes", "plane_mask", "time", "vertices_ed", "vertices_init")
"""What a trained system reads at most."""


def family(config: MotionConfig) -> str:
    """The name in :data:`FAMILIES` of a system's settings."""
    return next(name for name, kind in FAMILIES.items() if type(config) is kind)


def build(
    config: MotionConfig, topology: Topology, reference: Float[np.ndarray, "n 3"]
) -> MotionSystem:
    """The system of these settings, for one mesh.

    Args:
        config: of one of the families.
        topology: of the mesh.
        reference: vertices of a typical shape, mm.
    """
    if isinstance(config, GraphMotionConfig):
        return graph_motion(config, topology, reference)
    if isinstance(config, VoxelMorphConfig):
        return voxelmorph(config, topology)
    return deepmesh(config, topology)


def stages(config: MotionConfig) -> dict[str, MotionConfig]:
    """What is trained one after the other: folder inside the run's to settings."""
    if not isinstance(config, DeepMeshConfig) or config.given:
        return {".": config}
    if config.stage != "motion":
        return {".": config}
    return {"ed": dataclasses.replace(config, stage="ed"), ".": config}


def expect_room(config: MotionConfig, step: int, terms: Mapping[str, float]) -> None:
    """Refuses to go on where planes see less of a mesh than they should.

    What is static has room for so many segments, or vertices, of a plane. Beyond it
    the loss is wrong, and so is all that is learned from it.

    Args:
        config: of the system.
        step: of the terms.
        terms: of its loss; those that begin with ``overflow`` are shares of planes.

    Raises:
        ValueError: where one is not zero, naming the flags that mend it.
    """
    short = max((v for k, v in terms.items() if k.startswith("overflow")), default=0.0)
    if not short > 0.0 or isinstance(config, VoxelMorphConfig):
        return
    if isinstance(config, GraphMotionConfig):
        room = f"system.loss.size {config.loss.size} and .reach {config.loss.reach}"
    elif config.slice == "coverage":
        sizes = config.coverage
        room = f"system.coverage.size {sizes.size} and .reach {sizes.reach}"
    else:
        room = f"system.top {config.top}"
    raise ValueError(
        f"step {step}: on {short:.1%} of planes there is more of the mesh than {room} "
        "have room for, and the loss is wrong: expected none. With more room the same "
        "command goes on from the last checkpoint"
    )


@dataclasses.dataclass(frozen=True)
class TrainedMotion:
    """What ``system.json`` holds.

    Attributes:
        system: settings of the system.
        scan: size, spacing, number and distance of the images it was trained on.
        mesh: vertices around and rings along each wall of the phantoms' mesh.
        right: whether that had a right ventricle.
        data: what it was trained on, for titles.
        can: what a run can do.
        stopping: which validation score chose the weights; None: they are the last.
    """

    system: MotionConfig
    scan: ScanConfig
    mesh: tuple[int, int]
    right: bool
    data: str
    can: tuple[str, ...] = ("track",)
    stopping: StoppingConfig | None = None

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a folder, made where it is missing."""
        save_record(workdir, family(self.system), self)

    @classmethod
    def load(cls, workdir: Path) -> "TrainedMotion":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            DataError: where it is damaged, of another version, or of another domain.
        """
        return load_record(workdir, cls, FAMILIES)


class Follower:
    """Trained systems that find a mesh at end-diastole and follow it.

    Args:
        weights: variables by folder, as :func:`stages` has them.
        config: settings of the run's system.
        topology: of the mesh.
        reference: vertices of a typical shape, mm.
    """

    def __init__(
        self,
        weights: Mapping[str, Variables],
        config: MotionConfig,
        topology: Topology,
        reference: Float[np.ndarray, "n 3"],
    ) -> None:
        self.topology = topology
        self._runs: dict[str, Callable[[Any], jax.Array]] = {}
        for folder, settings in stages(config).items():
            apply = build(settings, topology, reference).apply
            run = jax.jit(apply["vertices"])
            self._runs[folder] = functools.partial(run, weights[folder])
            if "vertices_ed" in apply:
                run = jax.jit(apply["vertices_ed"])
                self._runs["ed"] = functools.partial(run, weights[folder])

    @property
    def fits(self) -> bool:
        """Whether the mesh at end-diastole is found, not given."""
        return "ed" in self._runs

    def start(self, example: Mapping[str, np.ndarray]) -> Float32[np.ndarray, "n 3"]:
        """The mesh at end-diastole, mm; the example's own where none is fitted.

        Args:
            example: one, without the axis ``b``, at any frame.
        """
        if not self.fits:
            return np.asarray(example["vertices_ed"], np.float32)
        return self._each("ed", [example])[0]

    def follow(
        self, examples: Sequence[Mapping[str, np.ndarray]]
    ) -> Float32[np.ndarray, "t n 3"]:
        """Where the mesh is at the frame of every example, mm.

        Args:
            examples: without the axis ``b``; ``vertices_ed`` is where it starts.
        """
        return self._each(".", examples)

    def _each(
        self, which: str, examples: Sequence[Mapping[str, np.ndarray]]
    ) -> Float32[np.ndarray, "t n 3"]:
        """In chunks of one size, so that there is one compilation."""
        found = []
        for start in range(0, len(examples), CHUNK):
            rows = np.minimum(np.arange(start, start + CHUNK), len(examples) - 1)
            chosen = [examples[row] for row in rows]
            names = [name for name in SEEN if name in chosen[0]]
            chunk = {name: np.stack([one[name] for one in chosen]) for name in names}
            found.append(np.asarray(self._runs[which](chunk)))
        return np.concatenate(found)[: len(examples)]


def load_weights(folder: Path, trained: TrainedMotion) -> dict[str, Variables]:
    """The weights that a run kept, by the folders of its stages.

    Raises:
        ValueError: for a run, or a stage of one, without a checkpoint.
    """
    found: dict[str, Variables] = {}
    for name in stages(trained.system):
        step = best_step(folder / name, trained.stopping)
        found[name] = load_variables(folder / name, step=step)
    return found
