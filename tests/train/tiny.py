"""A tiny system and a tiny stream of batches, for tests of the loop.

Also a program: ``python tiny.py '{"workdir": ..., ...}'`` trains it in a process of its
own, which a test may kill.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from medjax import train
from medjax.train import mirror, watch
from medjax.train.sharding import fsdp


def init(key, batch):
    """A two-layer perceptron with a running mean of its input."""
    first, second = jax.random.split(key)
    width = batch["x"].shape[-1]
    params = {
        "encoder": {
            "kernel": 0.3 * jax.random.normal(first, (width, 32)),
            "bias": jnp.zeros(32),
        },
        "head": {"kernel": 0.3 * jax.random.normal(second, (32, 4))},
    }
    return {"params": params, "batch_stats": {"mean": jnp.zeros(width)}}


def loss(variables, batch, key):
    """Mean squared error of the perceptron, with noise on its input."""
    params = variables["params"]
    x = batch["x"] + 0.01 * jax.random.normal(key, batch["x"].shape)
    hidden = jnp.tanh(x @ params["encoder"]["kernel"] + params["encoder"]["bias"][None])
    error = hidden @ params["head"]["kernel"] - batch["y"]
    value = jnp.mean(error**2)
    mean = 0.9 * variables["batch_stats"]["mean"] + 0.1 * x.mean(0)
    return value, ({"error": jnp.abs(error).mean()}, {"batch_stats": {"mean": mean}})


def quiet_loss(variables, batch, key):
    """The same without noise: equal whatever the order within a batch."""
    del key
    params = variables["params"]
    hidden = jnp.tanh(
        batch["x"] @ params["encoder"]["kernel"] + params["encoder"]["bias"][None]
    )
    return jnp.mean((hidden @ params["head"]["kernel"] - batch["y"]) ** 2), ({}, {})


class Stream:
    """Batches of a fixed random data set, shuffled anew in every epoch.

    `bad` names a batch that holds a NaN; `delay` seconds pass before each batch.
    """

    def __init__(self, batch=16, size=64, shard=(0, 1), bad=None, delay=0.0):
        random = np.random.default_rng(0)
        self.x = random.normal(size=(size, 8)).astype(np.float32)
        self.y = np.tanh(self.x @ random.normal(size=(8, 4))).astype(np.float32)
        self.batch, self.shard, self.bad, self.delay = batch, shard, bad, delay
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self.delay)
        per_epoch = len(self.x) // self.batch
        epoch, i = divmod(self.position, per_epoch)
        order = np.random.default_rng(epoch).permutation(len(self.x))
        index = order[i * self.batch : (i + 1) * self.batch]
        which, count = self.shard
        index = np.split(index, count)[which].astype(np.int32)
        x = self.x[index]
        if self.position == self.bad:
            x[0, 0] = np.nan
        self.position += 1
        return {"x": x, "y": self.y[index], "index": index}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def main(options):
    """Trains in this process; see the tests for the options."""
    train.launch(
        train.LaunchConfig(
            coordinator=options.get("coordinator"),
            num_processes=options.get("processes"),
            process_id=options.get("process"),
            cpu_devices=options.get("devices"),
            compile_cache=None,
        )
    )

    process = options.get("process") or 0
    if watch._watch is not None:
        watch._watch.interval = options.get("interval", watch._watch.interval)

    def kill(state, step):
        """Sends this process a signal when it first gets to a step."""
        del state
        name = options.get("signals", {}).get(f"{process}:{step}")
        marker = Path(options["workdir"], f"signalled_{process}_{step}")
        if name is not None and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), getattr(signal, name))
        return {}

    copy = options.get("mirror", {})
    mirror.EVERY = copy.get("every", mirror.EVERY)
    with train.mirrored(options["workdir"], copy.get("address")):
        for name, mesh in options.get("meshes", {"": {}}).items():
            workdir = Path(options["workdir"], name)
            fit({**options, "workdir": str(workdir)}, process, kill, mesh)
    Path(options["workdir"], f"done_{process}").touch()


RULES = ((".*", fsdp(min_size=1)),)
"""Everything is split over the mesh axis of that name."""


def fit(options, process, kill, mesh):
    """The training itself."""
    train.fit(
        init,
        quiet_loss if options.get("processes") else loss,
        Stream(
            shard=(process, options.get("processes") or 1),
            delay=options.get("delay", 0.0),
        ),
        workdir=options["workdir"],
        train=train.TrainConfig(**options["train"]),
        optimizer=train.OptimizerConfig(lr=1e-2, schedule="restarts", restart_period=7),
        evals=[kill],
        mesh=train.MeshConfig(**mesh),
        rules=RULES,
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
