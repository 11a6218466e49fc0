"""What a process does before its first array: cluster, devices, compile cache, log.

A run is started once a host (or once a device): by ``srun``, by ``mpirun``, by ssh on
every worker of a TPU pod, by a Kubernetes job, or by hand. `launch` finds out which,
joins the processes and says what came together. JAX's own detectors are asked where
they know; what they would get wrong is settled here: Slurm with one task a node has
all GPUs of the node, a process alone has no cluster, and a process that waits in vain
says whom for.
"""

import dataclasses
import glob
import logging
import os
import re
import warnings
from typing import Any, Literal

import jax
from absl import flags
from jax._src import clusters, distributed
from jax._src.clusters import cloud_tpu_cluster

from medjax.progress import Lines
from medjax.train import roll, watch
from medjax.train.compiling import compile_quickly, keep_compiled

logger = logging.getLogger(__name__)

COORDINATOR_PORT = 8482
"""Where process 0 listens if nobody says: the port that JAX takes on TPU pods."""
REGISTERING = 60
"""Seconds at least in which processes that are all there have to find each other."""


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """How this process joins the run."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """auto: join when flags, environment, Slurm, OpenMPI, Kubernetes or a TPU pod say
    there are several processes; on: join, or fail; off: stay alone."""
    coordinator: str | None = None
    """host:port of process 0, where no cluster manager tells it."""
    num_processes: int | None = None
    """Number of processes of the run, with `coordinator`."""
    process_id: int | None = None
    """Index of this process, with `coordinator`."""
    port: int | None = None
    """Where process 0 listens, if the cluster is found by itself."""
    initialization_timeout: int = 1800
    """Seconds in which all processes must have come (nodes start at different times);
    then those that have end with status 75 and name the others."""
    heartbeat_timeout: float = 100.0
    """Seconds of silence after which a process counts as dead or stopped, and the
    others end with status 75."""
    stall_timeout: float = 600.0
    """Seconds without a step (ten usual steps at least) after which a run ends with
    status 75; compiling, saving and evaluating have an hour or more."""
    cpu_devices: int | None = None
    """Devices that a CPU counts as; None: one. XLA's convolutions use several cores
    badly, so on a CPU a batch split over one device per core trains faster."""
    compile_cache: str | None = os.environ.get(
        "JAX_COMPILATION_CACHE_DIR", "~/.cache/medjax/compiled"
    )
    """Folder (or gs:// address) of compiled programs, by default JAX's own variable
    where that is set; None: compile anew each time."""
    compile_quickly: bool = False
    """On a CPU, spend less on compiling than programs could be worth: for runs of
    minutes, whose programs are compiled for longer than they run. What XLA_FLAGS say
    of it stays."""
    log_level: Literal["debug", "info", "warning"] = "info"
    """Level of process 0's log; other processes log warnings only."""


def launch(config: LaunchConfig = LaunchConfig()) -> None:
    """Prepares this process: cluster, compile cache, flags, log. Call it first.

    Must run before anything touches a device, since joining a cluster changes which
    devices exist.

    Args:
      config: How to join.

    Raises:
      ValueError: If only some of the coordinator flags are given, if a cluster is asked
        for and none is found, if this process is to stay alone on a part of a pod, or
        if process 0 cannot listen where it should.
    """
    parse_absl_flags()
    if config.compile_quickly:
        compile_quickly()
    if config.cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    cluster = find_cluster(config)
    if cluster is not None:
        join(cluster, config)
    if config.compile_cache:
        keep_compiled(config.compile_cache)
    level = logging.WARNING if jax.process_index() else config.log_level.upper()
    root = logging.getLogger("medjax")
    root.setLevel(level)
    root.propagate = False
    root.handlers = [Lines()]
    root.handlers[0].setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    )
    root.info(
        "%d device(s) of kind %s in %d process(es), %d of them here",
        jax.device_count(),
        jax.devices()[0].device_kind,
        jax.process_count(),
        jax.local_device_count(),
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


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, as this one sees them.

    Attributes:
      told_by: Who said so, in words.
      coordinator: host:port of process 0.
      processes: How many.
      process: Which this is.
      local_devices: Devices of this host that this process takes; none: all it sees.
    """

    told_by: str
    coordinator: str
    processes: int
    process: int
    local_devices: tuple[int, ...] = ()


def find_cluster(config: LaunchConfig) -> Cluster | None:
    """The processes that this one belongs to, or None if it is alone.

    In this order: flags, ``JAX_COORDINATOR_ADDRESS`` with ``JAX_NUM_PROCESSES`` and
    ``JAX_PROCESS_ID`` (of an indexed Kubernetes job ``JOB_COMPLETION_INDEX``), then
    JAX's detectors: OpenMPI, Slurm, TPU pods on GKE and on VMs, Kubernetes.

    Args:
      config: Flags.

    Raises:
      ValueError: As `launch`.
    """
    given = (config.coordinator, config.num_processes, config.process_id)
    if config.distributed == "off":
        on_tpu = cloud_tpu_cluster.running_in_cloud_tpu_vm  # pyright: ignore
        if on_tpu and (pod := _detected(config)) is not None:
            raise ValueError(
                f"launch.distributed: off, but this is worker {pod.process} of the "
                f"{pod.processes} of a TPU pod, whose chips work only together: run "
                "the same command on every worker, without that flag"
            )
        return None
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError(
                "launch: coordinator, num_processes and process_id go together, got "
                f"{given}"
            )
        return _checked("flags", *given)
    cluster = _from_environment() or _detected(config)
    if cluster is None and config.distributed == "on":
        raise ValueError(
            "launch.distributed: on, but neither flags nor environment nor Slurm, "
            "OpenMPI, Kubernetes or a TPU pod name other processes; give "
            "--launch.coordinator, --launch.num-processes and --launch.process-id"
        )
    return cluster


def _checked(told_by: str, coordinator: Any, processes: Any, process: Any) -> Cluster:
    """A cluster that somebody wrote down.

    Raises:
      ValueError: If it cannot be.
    """
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(
            f"{told_by}: expected host:port of process 0, got {coordinator!r}"
        )
    if not 0 <= process < processes:
        raise ValueError(
            f"{told_by}: process {process} of {processes}: expected 0 to "
            f"{processes - 1}"
        )
    return Cluster(told_by, coordinator, processes, process)


def _from_environment() -> Cluster | None:
    """What ``JAX_COORDINATOR_ADDRESS`` and its companions say.

    Raises:
      ValueError: If a companion is missing, and no cluster manager knows it either.
    """
    environment = os.environ
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    if address is None or _detector() is not None:
        return None
    count = environment.get("JAX_NUM_PROCESSES")
    index = environment.get("JAX_PROCESS_ID", environment.get("JOB_COMPLETION_INDEX"))
    if count is None or index is None:
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address}: expected JAX_NUM_PROCESSES (got "
            f"{count}), and JAX_PROCESS_ID or JOB_COMPLETION_INDEX (got {index}) too"
        )
    if ":" not in address:
        address = f"{address}:{COORDINATOR_PORT}"
    return _checked("JAX_COORDINATOR_ADDRESS", address, int(count), int(index))


def _detector() -> Any:
    """The first of JAX's detectors that finds its cluster manager, or None."""
    if os.environ.get("SLURM_JOB_ID") and _slurm_tasks() == 1:
        # A script of sbatch, or a shell of salloc: Slurm's variables count the tasks of
        # a step that this process is not one of.
        return None
    with warnings.catch_warnings():
        # Kubernetes without its client: said below, if nothing else tells.
        warnings.simplefilter("ignore")
        for kind in clusters.ClusterEnv._cluster_types:
            if not kind.opt_in_only_method and kind.is_env_present():
                return kind
    return None


def _slurm_tasks() -> int:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def _detected(config: LaunchConfig) -> Cluster | None:
    """What JAX's detectors find; None if nothing, or a cluster of one process.

    Raises:
      ValueError: In an indexed Kubernetes job that does not say where process 0 is.
    """
    kind = _detector()
    if kind is None:
        if "JOB_COMPLETION_INDEX" in os.environ:
            raise ValueError(
                f"this is pod {os.environ['JOB_COMPLETION_INDEX']} of an indexed "
                "Kubernetes job: set JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES, or "
                "pip install 'jax[k8s]'; --launch.distributed off stays alone"
            )
        return None
    processes = kind.get_process_count()
    if processes == 1:
        return None
    port = config.port or os.environ.get("JAX_COORDINATOR_PORT")
    address = os.environ.get("JAX_COORDINATOR_ADDRESS") or kind.get_coordinator_address(
        timeout_secs=config.initialization_timeout,
        override_coordinator_port=None if port is None else str(port),
    )
    name = kind.name or kind.__name__.removesuffix("Cluster").lower()
    return Cluster(name, address, processes, kind.get_process_id(), local_devices(name))


def local_devices(told_by: str) -> tuple[int, ...]:
    """The GPUs of this host that this process takes; none: all that it sees.

    JAX takes one per task of Slurm or OpenMPI, by the task's number on its node: of a
    node's eight GPUs one task would use one. Here the tasks of a node share what they
    see, unless Slurm has shown each its own.

    Args:
      told_by: Name of the cluster's detector.
    """
    environment = os.environ
    if chosen := environment.get("JAX_LOCAL_DEVICE_IDS"):
        return tuple(int(index) for index in chosen.split(","))
    if told_by == "slurm":
        # "2(x3),1": two tasks on each of three nodes, one on the fourth.
        tasks = [
            int(count)
            for count, times in re.findall(
                r"(\d+)(?:\(x(\d+)\))?",
                environment.get("SLURM_STEP_TASKS_PER_NODE", "1"),
            )
            for _ in range(int(times or 1))
        ]
        node = int(environment.get("SLURM_NODEID", "0"))
        here, local = tasks[min(node, len(tasks) - 1)], environment["SLURM_LOCALID"]
        bound = "SLURM_GPUS_PER_TASK" in environment
    elif told_by == "ompi":
        here = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
        local, bound = environment.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"), False
    else:
        return ()
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = len(shown.split(",")) if shown else len(glob.glob("/dev/nvidia[0-9]*"))
    share = gpus // here
    if here == 1 or bound or not share:
        return ()
    return tuple(range(int(local) * share, (int(local) + 1) * share))


def join(cluster: Cluster, config: LaunchConfig) -> None:
    """Joins the other processes, and starts the watch over them.

    Ends this process with status 75, as the watch does, if another one does not come
    or is lost on the way.

    Args:
      cluster: Of `find_cluster`.
      config: Time limits.

    Raises:
      ValueError: If process 0 cannot listen where it should.
    """
    # Only the CPU client reads this; its default cannot talk across processes on every
    # supported version of JAX.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    guard = watch.Watch(
        cluster.process,
        cluster.processes,
        cluster.coordinator,
        heartbeat=config.heartbeat_timeout,
        stall=config.stall_timeout,
    )
    try:
        with roll.called(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            patience=config.initialization_timeout,
            grace=config.heartbeat_timeout,
        ) as line:
            _initialize(cluster, config, guard, line)
            guard.start()
    except roll.MissingError as missing:
        guard.end(
            f"{missing} (told by {cluster.told_by}): run the same command on every "
            "host, or stay alone with --launch.distributed off"
        )
    except OSError as error:
        raise ValueError(
            f"launch: process {cluster.process} of {cluster.processes} (told by "
            f"{cluster.told_by}) cannot listen at {cluster.coordinator}: {error}"
        ) from error


def _initialize(
    cluster: Cluster, config: LaunchConfig, guard: watch.Watch, line: roll.Line
) -> None:
    """Makes JAX's own service and client, when all processes are there.

    Raises:
      MissingError: If one was lost after the roll was called.
    """
    # All are there: what is left is a handshake.
    seconds = max(REGISTERING, int(config.heartbeat_timeout))
    try:
        with guard.told_of_errors():
            jax.distributed.initialize(
                cluster.coordinator,
                cluster.processes,
                cluster.process,
                # Not None, for which JAX would ask its detectors.
                local_device_ids=list(cluster.local_devices),
                initialization_timeout=seconds,
                # The watch is to speak first: it has names.
                heartbeat_timeout_seconds=int(2 * config.heartbeat_timeout) + 60,
                shutdown_timeout_seconds=watch.LIMITS["evaluate"],
            )
    except RuntimeError as error:
        state = distributed.global_state
        state.client = None
        if state.service is not None:
            state.service.shutdown()
            state.service = None
        elif cluster.process == 0:
            raise OSError(str(error)) from error
        gone = ", ".join(line.gone()) or "another process than 0"
        raise roll.MissingError(f"lost while all joined: {gone}") from error
