"""How long a checkpoint holds up the loop: IMITATE's state as the paper has it.

While arrays are copied to the host training waits; while files are written it goes on.
What is waited for is told beside the interval that loses least (Young, 1974), which
follows from how long it takes until a checkpoint is whole.
"""

import dataclasses
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench import measure
from experiments.imitate import PRESETS
from medjax.train.checkpoint import Checkpoints
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.state import TrainState
from medjax.vlp.workload import workload

GOAL = 0.01
"""Share of the time between two checkpoints that the loop may wait."""


@dataclasses.dataclass(frozen=True)
class SavingConfig:
    """Sizes."""

    saves: int = 5
    """Checkpoints that are timed, after one that is not."""
    hours: float = 4.0
    """Between two failures, for Young's interval."""
    batch_size: int = 1024
    """Of the run whose state it is."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file, and while it runs of the checkpoints."""

    def __post_init__(self) -> None:
        if self.saves < 1 or self.hours <= 0:
            raise ValueError(
                "saves, hours: expected one checkpoint and some time, got "
                f"{self.saves} and {self.hours}"
            )


def run(config: SavingConfig) -> dict[str, Any]:
    """Saves a state again and again, prints and writes.

    Returns:
      What the JSON file holds.
    """
    state = drawn_state(config)
    waited: list[float] = []
    whole: list[float] = []
    config.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.out) as folder:
        with Checkpoints(Path(folder, "checkpoints"), keep=1) as checkpoints:
            for n in range(config.saves + 1):
                now = dataclasses.replace(state, step=state.step + n)
                began = time.perf_counter()
                checkpoints.save(now, {"step": n}, {}, wait=False)
                waited.append(time.perf_counter() - began)
                checkpoints.wait()
                whole.append(time.perf_counter() - began)
    result = {
        "benchmark": "saving",
        "config": measure.settings(config),
        "facts": measure.facts(),
        **told(waited[1:], whole[1:], hours=config.hours),
        "bytes": sum(x.nbytes for x in jax.tree.leaves(state)),
    }
    print("\nsaving\n" + measure.describe(result["facts"]) + "\n")
    print(sentence(result))
    measure.write(config.out, "saving", result)
    return result


def told(waited: list[float], whole: list[float], *, hours: float) -> dict[str, Any]:
    """Seconds and shares, of the slowest save.

    Args:
      waited: Seconds that the loop waited, by save.
      whole: Seconds until its files were complete.
      hours: Between two failures.
    """
    interval = math.sqrt(2 * max(whole) * 3600 * hours)
    return {
        "waited_s": waited,
        "whole_s": whole,
        "interval_s": interval,
        "share": max(waited) / interval,
        "goal": GOAL,
    }


def sentence(result: dict[str, Any]) -> str:
    """What was found, for people."""
    waited, whole = result["waited_s"], result["whole_s"]
    verdict = "met" if result["share"] <= result["goal"] else "NOT met"
    return (
        f"A state of {result['bytes'] / 1e6:,.0f} MB holds up the loop for "
        f"{1e3 * min(waited):,.0f} to {1e3 * max(waited):,.0f} ms and is whole after "
        f"{min(whole):.1f} to {max(whole):.1f} s. A failure every "
        f"{result['config']['hours']:g} hours asks for a checkpoint every "
        f"{result['interval_s']:,.0f} s: {result['share']:.2%} of the time is waited, "
        f"of {result['goal']:.0%} at the most ({verdict})."
    )


def drawn_state(config: SavingConfig) -> TrainState:
    """Random numbers, which no file can hold in fewer bytes, in the state's shapes."""
    flags = PRESETS["paper"].with_data(batch_size=config.batch_size)
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    shapes = workload(flags).program(mesh).state
    rng = np.random.default_rng(0)

    def leaf(s: Any) -> jax.Array:
        if not np.issubdtype(s.dtype, np.floating):
            return jax.device_put(np.zeros(s.shape, s.dtype), s.sharding)
        values = rng.standard_normal(s.shape, np.float32).astype(s.dtype)
        return jax.device_put(values, s.sharding)

    return jax.tree.map(leaf, shapes)
