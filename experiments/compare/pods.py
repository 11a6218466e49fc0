"""The planner held to what can be measured here: host devices and gloo processes.

    python -m experiments.compare.pods --publish
    python -m experiments.compare.pods --publish --drills runs/drill/drill.json

Floating-point work of real losses beside XLA's own count of the same programs; what
travels in a compiled step beside what has to, by hand; planned memory beside the
compiler's; a planned step that is kept, loaded and run; flags suggested under an
artificial limit; a contrast around a ring; the time of all-reduces between two
processes, fitted by a latency and a rate, beside that between four; steps on two host
devices predicted from one; whole steps compiled for machines that are not here. What is
planned for the contrast of a large batch, and what drills have found, stands beside
them. Times are of this machine, on which other work may run: the page says what they
were, not what they should be.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments import convirt, imitate, varnet
from experiments.bench.reducing import between
from experiments.compare import absent, planned, pods_page
from experiments.compare.pods_page import BATCH, POD
from experiments.compare.publishing import write_pages
from experiments.plan import workload_of
from experiments.results.pages import EXPERIMENTS
from medjax.data.boundary import reading
from medjax.data.whole import whole
from medjax.train.ending import ends_in_words
from medjax.train.plan.compiling import traced_step
from medjax.train.plan.flops import count_flops
from medjax.train.plan.planner import make_plan, program_on
from medjax.train.plan.topologies import topology
from medjax.train.plan.traffic import transfer

NAME = "compare_pods"
"""Of the file of the page's numbers; parts that a run does not measure stay in it."""
EXCHANGES: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "--loss.wire bfloat16": {"wire": "bfloat16"},
    "--loss.wire bfloat16 --loss.dtype bfloat16": {
        "wire": "bfloat16",
        "dtype": "bfloat16",
    },
    "--loss.distributed all_gather_both --loss.wire bfloat16": {
        "distributed": "all_gather_both",
        "wire": "bfloat16",
    },
    "--loss.distributed all_gather_both --loss.wire bfloat16 --loss.dtype bfloat16": {
        "distributed": "all_gather_both",
        "wire": "bfloat16",
        "dtype": "bfloat16",
    },
    "--loss.distributed ring": {"distributed": "ring"},
}
"""Flags by which devices show each other the batch."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is measured."""

    steps: int = 5
    """Of each program that is timed; the fastest counts."""
    publish: bool = False
    """Write the page of results and its numbers."""
    parts: tuple[str, ...] | None = None
    """What is measured, in this order; the page says what never was. None: everything,
    or nothing where drills are added."""
    drills: tuple[Path, ...] = ()
    """Results of `experiments.drill` that the page is to have beside those it has."""
    out: Path = Path("runs/pods.json")
    """Where the numbers go; parts that are there are not measured again."""


def work() -> list[dict[str, Any]]:
    """FLOPs of the steps of three systems, beside XLA's of the same lowered program.

    XLA counts a loop's body once, and elementwise operations too.
    """
    found = []
    for name, door in {
        "imitate": imitate,
        "convirt": convirt,
        "varnet": varnet,
    }.items():
        workload = workload_of(door.PRESETS["tiny"])
        program = program_on(workload, topology("cpu-1"))
        traced = traced_step(program)
        with jax.set_mesh(program.mesh):
            cost = traced.lower().cost_analysis()
        ours = count_flops(traced.jaxpr).total
        found.append({"step": name, "planned": ours, "xla": float(cost["flops"])})
    return found


def contrast() -> list[dict[str, Any]]:
    """What seeing the whole batch takes of a step of IMITATE on a pod, as planned."""
    config, found = imitate.PRESETS["paper"].with_data(batch_size=BATCH), []
    for flags, changes in EXCHANGES.items():
        loss = dataclasses.replace(config.loss, **changes)
        one = workload_of(dataclasses.replace(config, loss=loss))
        plan = make_plan(one, topology(POD), quick=True)
        kinds = {
            each.kind: {"count": each.count, "bytes": each.bytes}
            for each in plan.traffic
            if each.purpose == "batch"
        }
        step = {"seconds": plan.step.seconds, "contrast_s": plan.step.batch}
        found.append({"flags": flags, **step, "collectives": kinds})
    return found


def network() -> dict[str, Any]:
    """Latency and rate fitted between two processes, and what they say of four."""
    two, four = between(2), between(4)
    # transfer() of an all-reduce between 2: 2 (latency + S / 2 / rate).
    rows = np.array([[2.0, size] for size in two])
    weights = 1 / np.array(list(two.values()))
    latency, slope = np.linalg.lstsq(
        rows * weights[:, None], np.ones(len(two)), rcond=None
    )[0]
    latency, rate = max(float(latency), 0.0), 1 / max(float(slope), 1e-15)
    told = [
        {
            "bytes": size,
            "two_s": two[size],
            "four_s": four[size],
            "predicted_s": transfer(
                "all-reduce", size, 1, 4, rate=rate, latency=latency
            ),
        }
        for size in two
    ]
    return {"latency_s": latency, "rate": rate, "all_reduces": told}


def joined(kept: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What is published, with what was measured now in its place, or beside it."""
    before = list(kept.get("drills", ()))
    drills = [*before, *(each for each in found["drills"] if each not in before)]
    loads = [*kept.get("load", ()), *found.get("load", ())]
    return {**kept, **found, "drills": drills, "load": [min(loads), max(loads)]}


def added(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Results of drills, without where they ran, which is nobody else's matter.

    Raises:
      DataError: A file is none.
    """
    found = []
    for path in paths:
        with reading(path, "result of a drill"):
            one = json.loads(path.read_text())
            one["settings"].pop("workdir", None)
            pods_page.told_drill(one)
            found.append(one)
    return found


def measured(config: Comparison) -> dict[str, Any]:
    """Numbers of all parts that are asked for, those of before among them.

    Raises:
      ValueError: A part that there is not.
    """
    parts = {
        "network": network,
        "work": work,
        "contrast": contrast,
        "summed": planned.summed,
        "gradients": planned.gradients,
        "memory": planned.memory,
        "loaded": planned.loaded,
        "suggested": planned.suggested,
        "ring": planned.ring,
        "scaled": lambda: planned.scaled(config.steps),
        "absent": absent.absent,
    }
    asked = config.parts
    if asked is None:
        asked = () if config.drills else tuple(parts)
    if unknown := set(asked) - set(parts):
        raise ValueError(f"parts: {sorted(unknown)}, expected some of {list(parts)}")
    found = {}
    if asked and config.out.exists():
        found = json.loads(config.out.read_text())
    config.out.parent.mkdir(parents=True, exist_ok=True)
    for name in asked:
        if name in found:
            continue
        loads = [*found.get("load", []), os.getloadavg()[0]]
        found |= {name: parts[name](), "load": loads, "cores": os.cpu_count()}
        with whole(config.out) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n")
    return found


@ends_in_words
def main() -> None:
    """Measures what was not measured before."""
    config = tyro.cli(
        Comparison, description=__doc__, prog="python -m experiments.compare.pods"
    )
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    # What is compiled here is looked at; what is timed runs in processes of its own.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    drills = added(config.drills)
    published = EXPERIMENTS / "results" / f"{NAME}.json"
    kept = json.loads(published.read_text()) if published.exists() else {}
    told = joined(kept, {**measured(config), "drills": drills})
    print(pods_page.page(told))
    if config.publish:
        for path in write_pages(NAME, told):
            print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
