"""A program: one of two processes normalises its share of a batch.

``python host_statistics.py ADDRESS PROCESS FOLDER``; each process has two devices, and
leaves the rows that lie on them, and the running statistics.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from medjax.nn.normalization import BatchNorm
from medjax.train.launch import LaunchConfig, launch
from medjax.train.mesh import make_mesh
from medjax.train.sharding import batch_sharding, replicated


def batch() -> np.ndarray:
    """Eight rows; those of the second process are of another size."""
    x = np.random.default_rng(0).normal(size=(8, 3, 2)).astype(np.float32)
    x[4:] = 3 * x[4:] + 5
    return x


def main(address: str, process: str, folder: str) -> None:
    """Runs one process."""
    who = {"coordinator": address, "num_processes": 2, "process_id": int(process)}
    launch(LaunchConfig(**who, cpu_devices=2, compile_cache=None))
    mesh, x = make_mesh(), batch()
    assert mesh.size == 4 and jax.process_count() == 2
    split, whole = batch_sharding(mesh), replicated(mesh)
    rows = jax.make_array_from_callback(x.shape, split, lambda at: x[at])
    module = BatchNorm(affine=False, statistics="host")
    with jax.set_mesh(mesh):
        variables = module.init(jax.random.key(0), jnp.zeros((1, 3, 2)), train=False)

        def forward(x):
            y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
            return y, new["batch_stats"]

        shardings = split, whole
        compiled = jax.jit(forward, out_shardings=shardings).lower(rows).compile()
        y, stats = compiled(rows)
    mine = sorted(y.addressable_shards, key=lambda shard: shard.index[0].start)
    np.savez(
        Path(folder) / f"{process}.npz",
        y=np.concatenate([np.asarray(shard.data) for shard in mine]),
        text=compiled.as_text(),
        **{name: np.asarray(value) for name, value in stats.items()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
