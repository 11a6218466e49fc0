"""One sharded training loop for every system."""

from medjax.train.checkpoint import load_variables
from medjax.train.copies import MirrorError
from medjax.train.feed import DataIterator
from medjax.train.launch import LaunchConfig, launch
from medjax.train.log import Writer, read_metrics
from medjax.train.loop import fit
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.mirror import mirrored
from medjax.train.nonfinite import NonFiniteError
from medjax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule
from medjax.train.preemption import Preempted
from medjax.train.settings import TrainConfig
from medjax.train.sharding import fsdp, replicate, shard_batch
from medjax.train.state import TrainState
from medjax.train.stopping import StoppingConfig

__all__ = [
    "DataIterator",
    "LaunchConfig",
    "MeshConfig",
    "MirrorError",
    "NonFiniteError",
    "OptimizerConfig",
    "Preempted",
    "StoppingConfig",
    "TrainConfig",
    "TrainState",
    "Writer",
    "fit",
    "fsdp",
    "launch",
    "load_variables",
    "make_mesh",
    "make_optimizer",
    "make_schedule",
    "mirrored",
    "read_metrics",
    "replicate",
    "shard_batch",
]
