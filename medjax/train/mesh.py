"""The device mesh: how all devices of a run are arranged.

Every run, from a laptop to a pod, sees one mesh of three named axes:

``data``
    Replicas: the batch is split, parameters are copied.
``fsdp``
    The batch is split *and* parameters and optimiser state are split (ZeRO-3).
``model``
    Parameters are split by explicit rules; the batch is not.

A model never mentions these names. They appear in the sharding rules
(`medjax.train.sharding`) and in the few losses that use `jax.shard_map`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax._src.mesh import get_concrete_mesh  # the public one refuses under jit
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "model")
"""Names of the mesh axes, outermost (slowest links) first."""

BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which the leading axis of a batch is split."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis has; at most one may be -1 (the rest)."""

    data: int = -1
    """Replicas of the model; -1 takes all devices the other axes leave."""
    fsdp: int = 1
    """Devices over which parameters and optimiser state are split."""
    model: int = 1
    """Devices over which explicit tensor-parallel rules split parameters."""
    dcn_data: int = -1
    """Replicas that the slow network joins: slices of a TPU, hosts of GPUs. -1: as many
    as there are; on GPUs 1 takes all links for equal."""


def make_mesh(
    config: MeshConfig = MeshConfig(), *, devices: Sequence[Any] | None = None
) -> Mesh:
    """Arranges the devices of all processes into the three named axes.

    Slices of a TPU, and hosts of GPUs, are replicas: only ``data`` crosses the slow
    network between them, its outer part counting the slices.

    Args:
      config: Axis sizes.
      devices: Devices to use; default all of `jax.devices()`.

    Returns:
      A mesh with axes ``("data", "fsdp", "model")``.

    Raises:
      ValueError: If the sizes do not multiply to the number of devices, or ``data``
        does not split over the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp, config.model]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(
            f"mesh: expected positive sizes with at most one -1, got {config}"
        )
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // math.prod(s for s in sizes if s != -1)
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh: {config} does not divide {len(devices)} devices: "
            f"{' x '.join(map(str, sizes))} = {math.prod(sizes)}"
        )
    # Auto, written out: since JAX 0.9 `make_mesh` defaults to Explicit axes, under
    # which sharding is part of an array's type and the similarity matrix of a
    # contrastive loss (`image @ text.T`, both split over the batch) is a type error.
    # Here the compiler propagates shardings, and `shard_map` is used where it matters.
    axis_types = (AxisType.Auto,) * 3
    islands = _islands(config, sizes[0], devices)
    if islands == 1:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=axis_types, devices=devices)
    array = mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // islands, *sizes[1:]),
        (islands, 1, 1),
        devices,
        # GPUs say nothing of slices: what a process holds is what fast links join.
        process_is_granule=devices[0].platform == "gpu",
        allow_split_physical_axes=True,
    )
    return Mesh(array, AXES, axis_types=axis_types)


def _islands(config: MeshConfig, data: int, devices: Sequence[Any]) -> int:
    """Groups of devices with fast links inside, over which ``data`` is split.

    Raises:
      ValueError: If there are others than the configuration says, or ``data`` does not
        split over them.
    """
    if config.dcn_data < 1 and config.dcn_data != -1:
        raise ValueError(f"mesh.dcn-data: expected 1 or more, or -1, got {config}")
    gpu = devices[0].platform == "gpu"
    attribute, word = ("process_index", "hosts") if gpu else ("slice_index", "slices")
    islands = len({getattr(device, attribute, 0) for device in devices})
    if gpu and (config.dcn_data == 1 or (config.dcn_data == -1 and data % islands)):
        # Axes other than data may cross hosts of GPUs, slowly.
        return 1
    if config.dcn_data not in (-1, islands) or data % islands:
        raise ValueError(
            f"mesh.dcn-data: there are {islands} {word}, and they are replicas: mesh."
            f"data must be a multiple of {islands}, and mesh.dcn-data {islands} or -1; "
            f"got data = {data} of {config}"
        )
    return islands


Statistics = Literal["device", "host", "global"]
"""Whose share of a batch is looked at together: see `statistics_groups`."""


def batch_axes() -> tuple[str, ...]:
    """Axes of the current mesh over which a batch is split; () on one device.

    Inside `jax.shard_map` the axes it maps over are gone: a batch there is one
    device's share already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    held = mesh.manual_axes
    return tuple(a for a in BATCH_AXES if mesh.shape.get(a, 1) > 1 and a not in held)


def statistics_groups(statistics: Statistics) -> int:
    """Consecutive equal parts of the batch that devices, or hosts, of the mesh hold.

    Args:
      statistics: One part for each device along the batch axes of the current mesh,
        one for each process, or one.

    Returns:
      The number of parts; 1 without a mesh.

    Raises:
      ValueError: For ``"host"``, if the batch of a process is not one piece.
    """
    axes = batch_axes()
    if statistics == "global" or not axes:
        return 1
    mesh = jax.sharding.get_abstract_mesh()
    shards = math.prod(mesh.shape[axis] for axis in axes)
    if statistics == "device":
        return shards
    if jax.process_count() == 1 and get_concrete_mesh().empty:
        return 1  # shapes and plans, under a mesh without devices
    return host_parts(get_concrete_mesh())


def host_parts(mesh: Mesh) -> int:
    """How many processes share the batch, if each holds one consecutive part of it.

    Raises:
      ValueError: If the parts are not consecutive, or differ in size.
    """
    order = [mesh.axis_names.index(axis) for axis in BATCH_AXES]
    rest = [i for i in range(mesh.devices.ndim) if i not in order]
    devices = mesh.devices.transpose(*order, *rest)
    devices = devices.reshape(math.prod(devices.shape[: len(order)]), -1)
    owners = [device.process_index for device in devices[:, 0]]
    parts = len(set(owners))
    size = len(owners) // parts
    for first in range(0, len(owners), size):
        if len(set(owners[first : first + size])) > 1:
            raise ValueError(
                "statistics: 'host' needs processes that hold consecutive equal parts "
                f"of the batch, but its parts lie on processes {owners}; take 'device' "
                "or 'global'"
            )
    return parts


def global_batch_size(local: int, mesh: Mesh) -> int:
    """Global batch size of `local` examples per process, checked against the mesh.

    Args:
      local: Examples that this process contributes.
      mesh: The mesh of the run.

    Returns:
      Examples over all processes.

    Raises:
      ValueError: If the batch does not split evenly over ``data`` and ``fsdp``.
    """
    size = local * jax.process_count()
    shards = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    if size % shards:
        raise ValueError(
            f"batch: the global batch of {size} (= {jax.process_count()} processes x "
            f"{local} local examples) does not split over the {shards} devices of the "
            f"mesh axes data x fsdp = {mesh.shape['data']} x {mesh.shape['fsdp']}"
        )
    return size
