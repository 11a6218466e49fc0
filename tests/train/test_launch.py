"""Who runs together: told by flags, environment, Slurm, OpenMPI, Kubernetes, a pod."""

import dataclasses
import os
import socket

import numpy as np
import pytest
from jax._src.clusters import cloud_tpu_cluster

from medjax.train.compiling import compile_quickly
from medjax.train.launch import Cluster, LaunchConfig, find_cluster
from medjax.train.mesh import MeshConfig, make_mesh

CLEARED = ("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_COORD", "JAX_NUM_PROC", "JOB_")


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch):
    """No cluster but the one that a test makes up."""
    for name in list(os.environ):
        if name.startswith(CLEARED):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")


@pytest.fixture
def slurm(monkeypatch):
    """A step of Slurm, as srun tells its tasks; a function of what differs."""

    def step(**changes):
        told = dict(
            JOB_ID="4711",
            STEP_NODELIST="node[3-4]",
            STEP_NUM_NODES="2",
            NTASKS="2",
            STEP_NUM_TASKS="2",
            STEP_TASKS_PER_NODE="1(x2)",
            PROCID="1",
            NODEID="1",
            LOCALID="0",
        )
        for name, value in {**told, **changes}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return step


def metadata(monkeypatch, answers):
    """A TPU VM whose metadata server says this."""
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(
        cloud_tpu_cluster,
        "get_metadata",
        lambda key: (answers[key], 200) if key in answers else ("", 404),
    )
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.2")


def test_slurm_with_one_task_a_node_has_all_gpus_of_the_node(slurm):
    slurm()
    found = find_cluster(LaunchConfig(port=1234))
    # No ids means all: JAX itself would take device 0 of eight.
    assert found == Cluster("slurm", "node3:1234", 2, 1, ())


def test_slurm_tasks_share_what_they_see(slurm, monkeypatch):
    slurm(
        NTASKS="8", STEP_NUM_TASKS="8", STEP_TASKS_PER_NODE="4(x2)", PROCID="6",
        LOCALID="2",
    )  # fmt: skip
    found = find_cluster(LaunchConfig())
    assert found is not None and found.local_devices == (4, 5)
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = find_cluster(LaunchConfig())
    assert found is not None and found.local_devices == ()


def test_a_script_of_sbatch_is_alone(slurm):
    # Slurm's variables of the allocation, but no step of several tasks.
    slurm(STEP_NUM_TASKS="1", PROCID="0")
    assert find_cluster(LaunchConfig()) is None


# JAX's own reading of `tpu-env`, on Python 3.13.
@pytest.mark.filterwarnings("ignore:'maxsplit' is passed:DeprecationWarning")
def test_a_tpu_pod_reached_by_ssh_is_found_by_its_metadata(monkeypatch):
    answers = {
        "agent-worker-number": "3",
        "worker-network-endpoints": "w:0:10.0.0.2,w:1:10.0.0.3,w:2:10.0.0.4,w:3:a",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'",
    }
    metadata(monkeypatch, answers)
    assert find_cluster(LaunchConfig()) == Cluster("gcetpu", "10.0.0.2:8482", 4, 3)
    with pytest.raises(ValueError, match="worker 3 of the 4 of a TPU pod"):
        find_cluster(LaunchConfig(distributed="off"))
    # One host has all chips of its slice: alone, and rightly so.
    answers["worker-network-endpoints"] = "w:0:10.0.0.2"
    assert find_cluster(LaunchConfig()) is None
    assert find_cluster(LaunchConfig(distributed="off")) is None
    # Two slices of one host each are a run of two.
    answers["tpu-env"] = (
        "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.9.0.1:8080'"
    )
    answers["agent-worker-number"] = "0"
    assert find_cluster(LaunchConfig()) == Cluster("gcetpu", "10.9.0.1:8482", 2, 1)


@pytest.mark.parametrize("name", ["TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"])
def test_a_tpu_pod_on_gke_is_found_by_its_variables(monkeypatch, name):
    metadata(monkeypatch, {"tpu-env": ""})
    monkeypatch.setenv(name, "tpu-0,tpu-1")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    assert find_cluster(LaunchConfig()) == Cluster("gketpu", "tpu-0:8482", 2, 1)


def test_an_indexed_kubernetes_job_says_who_it_is(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    with pytest.raises(ValueError, match="set JAX_COORDINATOR_ADDRESS"):
        find_cluster(LaunchConfig())
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "job-0.job")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES .got None"):
        find_cluster(LaunchConfig())
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    found = find_cluster(LaunchConfig())
    assert found == Cluster("JAX_COORDINATOR_ADDRESS", "job-0.job:8482", 4, 2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LaunchConfig(coordinator="a:1"), "go together"),
        (LaunchConfig(distributed="on"), "neither flags nor environment"),
        (
            LaunchConfig(coordinator="a", num_processes=2, process_id=0),
            "expected host:port",
        ),
        (
            LaunchConfig(coordinator="a:1", num_processes=2, process_id=2),
            "process 2 of 2: expected 0 to 1",
        ),
    ],
)
def test_half_a_cluster_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        find_cluster(config)


@dataclasses.dataclass(frozen=True)
class FakeGpu:
    """A device as `make_mesh` looks at it."""

    id: int
    process_index: int
    platform: str = "gpu"
    device_kind: str = "NVIDIA H200"


def test_hosts_of_gpus_are_replicas_unless_told_otherwise():
    devices = [FakeGpu(i, process_index=i // 4) for i in range(8)]
    # Shuffled: a mesh must not depend on the order in which processes came.
    shuffled = [devices[i] for i in (4, 0, 5, 1, 6, 2, 7, 3)]
    mesh = make_mesh(MeshConfig(fsdp=2), devices=shuffled)
    ids = np.vectorize(lambda d: d.id)(mesh.devices)[..., 0]
    assert ids.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    # Parameters split over both hosts: slow, but asked for.
    assert make_mesh(MeshConfig(fsdp=8), devices=devices).shape["fsdp"] == 8
    with pytest.raises(ValueError, match="there are 2 hosts"):
        make_mesh(MeshConfig(dcn_data=4), devices=devices)


@pytest.mark.aot
@pytest.mark.parametrize(
    ("topology", "slices", "config", "outer"),
    [
        ("v5e:4x4", 2, MeshConfig(), [0] * 16 + [1] * 16),
        ("v5e:4x4", 2, MeshConfig(fsdp=4), [0] * 4 + [1] * 4),
        ("v6e:4x4", 4, MeshConfig(fsdp=8), [0, 0, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_slices_of_a_tpu_are_replicas(topology, slices, config, outer, monkeypatch):
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install .[plan]")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    described = topologies.get_topology_desc(
        topology, platform="tpu", num_slices=slices
    )
    mesh = make_mesh(config, devices=described.devices)
    of = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert of[:, 0, 0].tolist() == outer
    # A row of fsdp lies within one slice.
    assert (of == of[:, :1, :1]).all()
    with pytest.raises(ValueError, match=f"there are {slices} slices"):
        make_mesh(MeshConfig(data=1, fsdp=-1), devices=described.devices)


def test_compiled_quickly_once_and_never_against_the_flags_of_xla(monkeypatch):
    level = "--xla_backend_optimization_level"
    for before in ("", "--xla_dump_to=/nowhere", f"{level}=3"):
        monkeypatch.setenv("XLA_FLAGS", before)
        compile_quickly()
        told = os.environ["XLA_FLAGS"].split()
        compile_quickly()
        assert os.environ["XLA_FLAGS"].split() == told, "once"
        assert set(before.split()) <= set(told)
        level_told = [flag for flag in told if flag.startswith(level)]
        assert level_told == [before if level in before else f"{level}=1"]
