"""The systems of the comparison of motion, and the scans that each is shown."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from experiments import deepmesh, graph_motion
from medjax.heart import voxelmorph
from medjax.heart.motion_data import MotionDataConfig
from medjax.heart.tracking import Tracking

Arm = Literal[
    "images",
    "voxelmorph",
    "deepmesh",
    "deepmesh_sax",
    "projection",
    "graph",
    "graph_sax",
    "graph_plain",
    "graph_aligned",
]
STILL = "still"
"""The row of meshes that do not move, of every seed the same."""
change = dataclasses.replace


def _deepmesh(**changes: Any) -> Tracking:
    """DeepMesh as small as ``tiny``, which is given the mesh at end-diastole."""
    tiny = deepmesh.TINY
    return change(tiny, system=change(tiny.system, **changes))


ARMS: Mapping[str, tuple[str, Tracking]] = {
    STILL: ("no motion", graph_motion.TINY),
    "images": ("images registered", _deepmesh(plane=0.0)),
    "voxelmorph": (
        "VoxelMorph",
        Tracking(
            about="VoxelMorph on phantom hearts",
            workdir=Path("runs/voxelmorph"),
            system=voxelmorph.CONFIGS["tiny"],
            optimizer=deepmesh.TINY.optimizer,
            train=deepmesh.TINY.train,
        ),
    ),
    "deepmesh": ("DeepMesh", _deepmesh()),
    "deepmesh_sax": ("DeepMesh, short axis alone", _deepmesh()),
    # Its distance is in pixels, of which a slice is off by some.
    "projection": (
        "DeepMesh, vertices projected",
        _deepmesh(slice="projection", plane=1.0, within=3.0, tau=1 / 3, top=192),
    ),
    "graph": ("graph network", graph_motion.TINY),
    "graph_sax": ("graph network, short axis alone", graph_motion.TINY),
    "graph_plain": ("graph network, no texture", graph_motion.TINY),
    "graph_aligned": ("graph network, no misalignment", graph_motion.TINY),
}
"""What each is called, and its settings."""
SCANS: Mapping[str, Mapping[str, float]] = {
    "plain": {"texture": 0.0},
    "aligned": {"shift": 0.0, "through": 0.0},
}
"""What is otherwise about the scans of systems whose names end so; ``sax`` are without
long-axis views."""


def shown(name: str, data: MotionDataConfig) -> MotionDataConfig:
    """The people as a system is shown them.

    Args:
      name: Of the system.
      data: The people, and how they are scanned.
    """
    end = name.rpartition("_")[2]
    if end == "sax":
        return change(data, views="sax")
    return change(data, scan=change(data.scan, **SCANS.get(end, {})))
