"""All-reduces between processes of one host, timed: what a network model is fitted to.

The processes import as little as they need, since there are several of them.
"""

import json
import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medjax.train.launch import LaunchConfig, launch
from medjax.train.mesh import make_mesh

SIZES = (2**10, 2**14, 2**18, 2**20, 2**22)
"""Bytes of the all-reduces that are timed."""
TIMES = 20
"""That each is run; the median counts."""


def reduce_times(process: int, processes: int, address: str) -> None:
    """Times all-reduces between processes, as one of them; prints them as JSON."""
    launch(
        LaunchConfig(
            coordinator=address,
            num_processes=processes,
            process_id=process,
            compile_cache=None,
        )
    )
    mesh = make_mesh()
    found = {}
    with jax.set_mesh(mesh):
        for size in SIZES:
            sharding = NamedSharding(mesh, P("data"))
            local = np.ones((1, size // 4), np.float32)
            x = jax.make_array_from_process_local_data(
                sharding, local, (processes, size // 4)
            )
            reduce = jax.jit(
                jax.shard_map(
                    lambda x: jax.lax.psum(x, "data"), in_specs=P("data"), out_specs=P()
                )
            )
            jax.block_until_ready(reduce(x))
            times = []
            for _ in range(TIMES):
                began = time.perf_counter()
                jax.block_until_ready(reduce(x))
                times.append(time.perf_counter() - began)
            found[size] = float(np.median(times))
    if process == 0:
        print("times", json.dumps(found), flush=True)


def between(processes: int) -> dict[int, float]:
    """Seconds of all-reduces between so many processes of this host, by bytes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    words = [sys.executable, "-m", "experiments.bench.reducing"]
    running = [
        subprocess.Popen(
            [*words, str(process), str(processes), address],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for process in range(processes)
    ]
    told = [one.communicate()[0] for one in running]
    line = next(row for row in told[0].splitlines() if row.startswith("times "))
    times = json.loads(line.removeprefix("times "))
    return {int(size): seconds for size, seconds in times.items()}


if __name__ == "__main__":
    _, process, processes, address = sys.argv
    reduce_times(int(process), int(processes), address)
