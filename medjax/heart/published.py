"""Released weights of DeepMesh and CHeart, in our systems of the preset ``repo``.

Sizes are told by the tensors; what is not is a setting. DeepMesh's long-axis images are
read by a network that is saved apart, and each of its two stages has its own.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.heart.cheart import CONFIGS as CHEART_CONFIGS
from medjax.heart.cheart import cheart_system
from medjax.heart.cheart_network import LEVELS, CHeartConfig
from medjax.heart.deepmesh import CONFIGS as DEEPMESH_CONFIGS
from medjax.heart.deepmesh_networks import DeepMesh, NetworkConfig
from medjax.heart.motion_systems import TrainedMotion
from medjax.heart.phantom_mesh import SIZES
from medjax.heart.population import CONDITIONS
from medjax.heart.scanning import ScanConfig
from medjax.heart.systems import Trained
from medjax.heart.trees import CHEART_SPACING
from medjax.train.checkpoint import Checkpoints
from medjax.train.state import TrainState
from medjax.typing import Variables
from medjax.weights.convert import from_torch
from medjax.weights.heart import CHEART, channels_last, deepmesh_first, deepmesh_motion

Tensors = Mapping[str, np.ndarray]
FIRST_STAGE = "DeepMesh's first stage"
FIRST = {
    "DeepMesh": "conv_list_2D.0.0.weight",
    FIRST_STAGE: "conv2d9.0.weight",
    "CHeart": "linear_log_var.weight",
}
"""A tensor that each network has; the first that is there tells which it is."""
STEMS = ("multiview.pth", "Mesh_LA_2d.pth")
"""Files of the network for long-axis images, beside those of the others."""


class Released(NamedTuple):
    """What a run's folder holds.

    Attributes:
        record: what it says of itself.
        variables: weights by folder, ``"."`` the run's own.
    """

    record: TrainedMotion | Trained
    variables: Mapping[str, Variables]

    def save(self, folder: Path) -> None:
        """Writes the folder of a run that has made no step.

        Args:
            folder: made where it is missing.
        """
        self.record.save(folder)
        for name, variables in self.variables.items():
            rest = dict(variables)
            state = TrainState(
                step=jnp.zeros((), jnp.int32),
                params=rest.pop("params"),
                extra=rest,
                opt_state={"none": jnp.zeros(())},
            )
            with Checkpoints(folder / name / "checkpoints") as checkpoints:
                checkpoints.save(state, {}, {}, wait=True)


def network_of(tensors: Tensors) -> str | None:
    """The name in :data:`FIRST` of the network that tensors are of, if of any."""
    return next((name for name, one in FIRST.items() if one in tensors), None)


def deepmesh_of(motion: Tensors, first: Tensors | None, *, data: str) -> Released:
    """DeepMesh's weights as a run that follows hearts.

    Args:
        motion: of ``MotionMesh_25d`` and its ``Mesh_2d``.
        first: of ``deformnet`` and its own ``Mesh_2d``; without, the mesh at
            end-diastole is to be given.
        data: what the run says that it was trained on.

    Raises:
        ValueError: tensors that are missing, not expected, or of another shape.
    """
    try:
        network, slices = _motion_sizes(motion), len(motion["conv2.0.weight"])
        if first is None:
            up = (network.fuse,) * (len(network.levels) - 1)
            network = dataclasses.replace(network, up=up)
        else:
            network = _first_sizes(first, network)
    except KeyError as error:
        raise ValueError(f"tensors: no {error.args[0]!r}") from None
    table = deepmesh_motion(halvings=len(network.volume) - 1)
    found = {".": from_torch(motion, table, _shapes(network, slices, "motion"))}
    if first is not None:
        table = deepmesh_first(doublings=len(network.up))
        found["ed"] = from_torch(first, table, _shapes(network, slices, "ed"))
    config = dataclasses.replace(
        DEEPMESH_CONFIGS["repo"], network=network, given=first is None
    )
    scan = ScanConfig(
        frames=50, size=128, spacing=1.25, slices=slices, gap=2.0, thickness=2.0
    )
    return Released(TrainedMotion(config, scan, SIZES["full"], False, data), found)


def _shapes(network: NetworkConfig, slices: int, stage: Any) -> Variables:
    side = 2 ** max(len(network.levels), len(network.volume))
    images = (jnp.zeros((1, 2, slices, side, side)), jnp.zeros((1, 2, 2, side, side)))
    module = DeepMesh(network, stage)

    def init(key: jax.Array) -> Any:
        return module.init(key, *images, jnp.ones((1, 2)), train=False)

    return jax.eval_shape(init, jax.random.key(0))


def _levels(tensors: Tensors) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = []
    while (name := f"conv_blocks_2D.{len(found)}.0.0.weight") in tensors:
        widths = []
        while (
            name := f"conv_blocks_2D.{len(found)}.{len(widths)}.0.weight"
        ) in tensors:
            widths.append(len(tensors[name]))
        found.append(widths)
    return tuple(map(tuple, found))


def _motion_sizes(tensors: Tensors) -> NetworkConfig:
    halvings = sum(f"conv3d{10 + i}_1.0.weight" in tensors for i in range(50)) // 2
    volume = [len(tensors[f"conv3d{9 + i}.0.weight"]) for i in range(halvings + 1)]
    return NetworkConfig(
        levels=_levels(tensors),
        stem=len(tensors["conv1.0.weight"]),
        fuse=len(tensors["conv6.0.weight"]),
        volume=tuple(volume),
        still=False,
    )


def _first_sizes(tensors: Tensors, network: NetworkConfig) -> NetworkConfig:
    """With the widths of the first stage, which shares those of images."""
    doublings = sum(f"conv2d{10 + i}_1.0.weight" in tensors for i in range(50))
    up = [len(tensors[f"conv2d{10 + i}_1.0.weight"]) for i in range(doublings)]
    return dataclasses.replace(
        network, neck=len(tensors["conv2d9.0.weight"]), up=tuple(up)
    )


def cheart_of(
    tensors: Tensors,
    *,
    shape: tuple[int, int, int],
    frames: int,
    data: str,
) -> Released:
    """CHeart's weights as a run that completes and generates.

    Args:
        tensors: of ``GenCVAE_Seq``.
        shape: voxels of its label maps along z, y and x.
        frames: of its cycle.
        data: what the run says that it was trained on.

    Raises:
        ValueError: tensors that are missing, not expected, or of another shape.
    """
    depth, height, width = (n // 2**LEVELS for n in shape)
    small = (depth, height, width)
    try:
        latent = len(tensors["linear_log_var.weight"])
        fed = tensors["lstm_cell.weight_ih"].shape[-1]
        first = len(tensors["encoder.0.weight"])
    except KeyError as error:
        raise ValueError(f"tensors: no {error.args[0]!r}") from None
    config: CHeartConfig = dataclasses.replace(
        CHEART_CONFIGS["repo"],
        shape=shape,
        frames=frames,
        latent=latent,
        width=first,
        conditions_at="after" if fed == latent else "before",
    )
    system = cheart_system(config)
    example = {
        "labels": jax.ShapeDtypeStruct((1, frames, *shape), jnp.uint8),
        "conditions": jax.ShapeDtypeStruct((1, len(CONDITIONS)), jnp.float32),
    }
    wanted = dict(jax.eval_shape(system.init, jax.random.key(0), example))
    wanted.pop("counters")
    found = from_torch(channels_last(tensors, small), CHEART, wanted)
    found["counters"] = {"step": jnp.zeros((), jnp.int32)}
    record = Trained(config, CHEART_SPACING, data, {}, tuple(system.apply))
    return Released(record, {".": found})
