"""The device mesh, and what a process does before its first array.

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
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from absl import flags
from jax._src.mesh import get_concrete_mesh  # the public one refuses under jit
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


def make_mesh(
    config: MeshConfig = MeshConfig(), *, devices: Sequence[Any] | None = None
) -> Mesh:
    """Arranges the devices of all processes into the three named axes.

    Args:
      config: Axis sizes.
      devices: Devices to use; default all of `jax.devices()`.

    Returns:
      A mesh with axes ``("data", "fsdp", "model")``.

    Raises:
      ValueError: If the sizes do not multiply to the number of devices.
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
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
    )


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """How this process joins the run."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """auto: join when flags, Slurm, OpenMPI or a TPU pod say there are several
    processes; on: join, and let JAX find the cluster; off: stay alone."""
    coordinator: str | None = None
    """host:port of process 0, where no cluster manager tells it."""
    num_processes: int | None = None
    """Number of processes of the run, with `coordinator`."""
    process_id: int | None = None
    """Index of this process, with `coordinator`."""
    cpu_devices: int | None = None
    """Devices that a CPU counts as; None: one. XLA's convolutions use several cores
    badly, so on a CPU a batch split over one device per core trains faster."""
    compile_cache: str | None = "~/.cache/medjax/compiled"
    """Folder (or gs:// address) of compiled programs; None: compile anew each time."""
    log_level: Literal["debug", "info", "warning"] = "info"
    """Level of process 0's log; other processes log warnings only."""


def launch(config: LaunchConfig = LaunchConfig()) -> None:
    """Prepares this process: cluster, compile cache, flags, log. Call it first.

    Must run before anything touches a device, since joining a cluster changes which
    devices exist.

    Args:
      config: How to join.

    Raises:
      ValueError: If only some of the coordinator flags are given.
    """
    parse_absl_flags()
    if config.cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    if _is_distributed(config):
        # Only the CPU client reads this; its default cannot talk across processes
        # on every supported version of JAX.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            config.coordinator, config.num_processes, config.process_id
        )
    if config.compile_cache:
        folder = config.compile_cache
        if "://" not in folder:
            folder = str(Path(folder).expanduser())
        jax.config.update("jax_compilation_cache_dir", folder)
        # FFTs are custom partitionings (`medjax_kernels.fft`), which stand in a program
        # as an address in this process: with it, no later process would find a program.
        jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)
    level = logging.WARNING if jax.process_index() else config.log_level.upper()
    logger = logging.getLogger("medjax")
    logger.setLevel(level)
    logger.propagate = False
    logger.handlers = [logging.StreamHandler()]
    logger.handlers[0].setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    )
    logger.info(
        "%d device(s) of kind %s in %d process(es)",
        jax.device_count(),
        jax.devices()[0].device_kind,
        jax.process_count(),
    )


def cpu_devices() -> int:
    """A power of two, so that common batches split evenly: cores, at most 8."""
    return 1 << min((os.cpu_count() or 1).bit_length() - 1, 3)


def parse_absl_flags() -> None:
    """Marks absl's flags as parsed, which grain's worker processes insist on.

    grain reads an absl flag when it starts a worker and raises
    `UnparsedFlagAccessError` in any program that does not use `absl.app`.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


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


def _is_distributed(config: LaunchConfig) -> bool:
    """Whether this process is one of several."""
    given = (config.coordinator, config.num_processes, config.process_id)
    if config.distributed == "off":
        return False
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError(
                "launch: coordinator, num_processes and process_id go together, got "
                f"{given}"
            )
        return True
    if config.distributed == "on":
        return True
    environment = os.environ
    return (
        int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )
