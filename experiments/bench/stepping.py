"""A step on host devices of one core each, timed: what a prediction of it is held to.

A host device by itself uses every core of its machine, so that a second one would add
nothing. Here a process of its own is given as many cores as it has devices, as far as
there are so many.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

from experiments import convirt
from experiments.plan import workload_of
from medjax.train.plan.compiling import compiled_step
from medjax.train.plan.planner import program_on
from medjax.train.plan.topologies import topology
from medjax.train.program import Program
from medjax.train.state import run_keys
from medjax.train.workload import Workload


def contrast_of(rows: int, *, remat: bool) -> Workload:
    """ConVIRT's ``tiny``, with a batch of so many rows.

    Args:
      rows: Of the global batch.
      remat: Whether both towers compute their activations twice.
    """
    config = convirt.PRESETS["tiny"].with_data(batch_size=rows)
    image = dataclasses.replace(config.image, remat=remat)
    text = dataclasses.replace(config.text, remat=remat)
    return workload_of(dataclasses.replace(config, image=image, text=text))


def arguments(program: Program, *, blank: bool = False) -> tuple[Any, ...]:
    """A fresh state, a batch of random numbers, and the rest of what a step takes.

    Args:
      program: With its shapes.
      blank: Zeros for the state: nothing has to be compiled for it.
    """
    random = np.random.default_rng(0)

    def drawn(x: Any) -> np.ndarray:
        if np.issubdtype(x.dtype, np.integer):
            return random.integers(1, 100, x.shape).astype(x.dtype)
        return random.normal(size=x.shape).astype(x.dtype)

    batch = {k: jax.device_put(drawn(x), x.sharding) for k, x in program.batch.items()}
    init_key, key = run_keys(0)
    if blank:
        state = jax.tree.map(
            lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
            program.state,
        )
    else:
        with jax.set_mesh(program.mesh):
            state = program.initialise(init_key, batch)
    proceed = jax.device_put(np.ones((), bool), program.proceed.sharding)
    return state, batch, jax.device_put(key, program.key.sharding), proceed


def fastest(workload: Workload, devices: int, steps: int) -> float:
    """Seconds of the fastest of some steps, in this process."""
    machine = topology(f"cpu-{devices}")
    program = program_on(workload, machine)
    run = compiled_step(program, machine)
    state, *others = arguments(program)
    times = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        state, metrics = run(state, *others)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def alone(rows: int, remat: bool, devices: int, steps: int) -> float:
    """The same, in a process that has a core for each device."""
    words = json.dumps([rows, remat, devices, steps])
    told = subprocess.run(
        [sys.executable, "-m", "experiments.bench.stepping", words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )
    return float(told.stdout.splitlines()[-1])


if __name__ == "__main__":
    rows, remat, count, steps = json.loads(sys.argv[1])
    # Before the backend starts, which looks how many cores it has.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    jax.config.update("jax_num_cpu_devices", count)
    print(fastest(contrast_of(rows, remat=remat), count, steps))
