"""The planner held to what can be measured here: host devices and gloo processes.

    python -m experiments.compare.pods --publish
    python -m experiments.compare.pods --publish --drills runs/drill/drill.json

Floating-point work of real losses beside XLA's own count of the same programs; what
travels in a compiled step beside what has to, by hand; planned memory beside the
compiler's; a planned step that is kept, loaded and run; flags suggested under an
artificial limit; a contrast around a ring; the time of all-reduces between two
processes, fitted by a latency and a rate, beside that between four; steps on two host
devices predicted from one. What is planned for the contrast of a large batch, and what
drills have found, stands beside them. Times are of this machine, on which other work
may run: the page says what they were, not what they should be.
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

from experiments import convirt, drill, imitate, varnet
from experiments.bench.reducing import between
from experiments.compare import planned
from experiments.plan import workload_of
from medjax.data.boundary import reading
from medjax.data.whole import whole
from medjax.train.ending import ends_in_words
from medjax.train.plan.compiling import traced_step
from medjax.train.plan.flops import count_flops
from medjax.train.plan.planner import make_plan, program_on
from medjax.train.plan.topologies import topology
from medjax.train.plan.traffic import transfer

GOAL = 0.3
"""Relative error of a predicted all-reduce that is aimed at."""
PAGE = Path("experiments/results/pods.md")
RESULTS = Path("experiments/results/compare_pods.json")
"""Numbers of the page: parts that a run does not measure stay as they are."""
BATCH, POD = 65_536, "v6e-256"
"""The contrast that is planned, and where."""
SHARE = 0.06
"""Of a step, that it is to take at most."""
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
    parts: tuple[str, ...] = (
        *("network", "work", "contrast", "summed", "gradients"),
        *("memory", "loaded", "suggested", "ring", "scaled"),
    )
    """What is measured, in this order; the page says what never was."""
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


def page(found: Mapping[str, Any]) -> str:
    """The results, for a reader; of parts that never were measured, that."""
    loads = found["load"]
    quiet = [load <= 1 for load in (min(loads), max(loads))]
    beside = "nothing else ran" if all(quiet) else "other work ran beside it"
    beside += ", but not always" if any(quiet) and not all(quiet) else ""
    head = f"""# The planner held to what can be measured

```
python -m experiments.compare.pods --publish
```

(resumable) on {os.cpu_count()} cores, with loads of {min(loads):.1f} to
{max(loads):.1f} when its parts began: {beside}. What `experiments.plan` says of
machines that are not here is a prediction; nothing on this page is a time of an
accelerator, and no claim about its error there is made.
"""
    tables = {
        "work": _work,
        "summed": planned.summed_table,
        "gradients": planned.gradients_table,
        "memory": planned.memory_table,
        "loaded": planned.loaded_table,
        "suggested": planned.suggested_table,
        "contrast": _contrast,
        "ring": planned.ring_table,
        "network": _network,
        "scaled": planned.scaled_table,
    }
    told = [table(found[name]) for name, table in tables.items() if name in found]
    missing = [_ABOUT[name] for name in tables if name not in found]
    if missing:
        told.append(f"Not measured yet: {'; '.join(missing)}.\n")
    told += [_drill(result) for result in found.get("drills", ())]
    return "\n".join([head, *told])


_ABOUT = {
    "work": "floating-point work beside XLA's",
    "contrast": "what is planned for the contrast of a large batch",
    "summed": "what travels in a data-parallel step",
    "gradients": "what a step of IMITATE's `paper` sums",
    "memory": "planned memory beside the compiler's",
    "loaded": "a planned step that is loaded and run",
    "suggested": "flags suggested under a limit",
    "ring": "memory of a contrast around a ring",
    "network": "all-reduces between processes",
    "scaled": "steps of two host devices predicted from one",
}


def _work(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = "\n".join(
        f"| {r['step']} | {r['planned'] / 1e9:.3f} | {r['xla'] / 1e9:.3f} | "
        f"{planned.off(r['planned'], r['xla'])} |"
        for r in rows
    )
    return f"""Work of a step of each `tiny` preset, GFLOP. XLA counts elementwise
operations too, and what a loop does once. Of products alone tests hold what is planned
for ResNets, BERT, VarNet and the contrast, with gradients, to all that the text of
their programs multiplies, to the last one:

| step | planned | XLA | planned is |
|---|---|---|---|
{lines}
"""


def _contrast(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = "\n".join(
        f"| {r['flags']} | {_moved(r['collectives'])} | {1e3 * r['contrast_s']:.1f} | "
        f"{1e3 * r['seconds']:.1f} | {r['contrast_s'] / r['seconds']:.1%} |"
        for r in rows
    )
    best = min(r["contrast_s"] / r["seconds"] for r in rows)
    met = "is met" if best <= SHARE else "is missed by all"
    fastest = min(rows, key=lambda r: r["seconds"])
    return f"""What showing each other the batch takes for six contrasts of IMITATE,
on each device, as predicted by `experiments.plan imitate paper --topology {POD}
--data.batch-size {BATCH} --quick`. Rates and latencies of links are figures that the
plan lists, and nothing of it is taken to hide behind computation; no time here was
measured. The goal of at most {SHARE:.0%} of a step {met}; what counts is the step,
and the shortest, of {1e3 * fastest["seconds"]:.1f} ms, is that of
`{fastest["flags"]}`:

| flags | travels | ms | step, ms | share |
|---|---|---|---|---|
{lines}

Embeddings and priors travel once each, and so do the gradients of embeddings, which are
float32 whatever the wire, or none of them where both sides are gathered: so says the
text of the program compiled for eight host devices and, of two contrasts, for four
chips of a TPU v5e (tests/vlp/test_imitate.py, test_contrastive.py), which hides part of
it behind products. Gathering both sides costs products, since the owner of a column
forms its logits once more. Priors that are narrow on the wire are multiplied as such,
on both sides. Around a ring every contrast sends blocks of its own, with a start
for each hop and over one link of four.
"""


def _moved(kinds: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(
        f"{each['count']:,} x {kind}, {each['bytes'] / 1e6:,.0f} MB in all"
        for kind, each in kinds.items()
    )


def _drill(found: Mapping[str, Any]) -> str:
    settings = found["settings"]
    names = ["kills", "seed", "steps", "processes", "minutes"]
    if settings.get("heartbeat", drill.Drill.heartbeat) != drill.Drill.heartbeat:
        names.append("heartbeat")
    flags = " ".join(f"--{name} {settings[name]}" for name in names)
    # A drill of before there were turns has none.
    chosen = {"elastic": "--elastic", "in_turn": "--in-turn"}
    flags = " ".join([*(v for k, v in chosen.items() if settings.get(k)), flags])
    return f"""## A drill: processes killed

```
python -m experiments.drill {flags}
```

{drill.page(found)}{found.get("remark", "")}"""


def _network(found: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f"| {r['bytes']:,} | {1e3 * r['two_s']:.2f} | {1e3 * r['four_s']:.2f} | "
        f"{1e3 * r['predicted_s']:.2f} | {planned.off(r['predicted_s'], r['four_s'])} |"
        for r in found["all_reduces"]
    )
    worst = max(abs(r["predicted_s"] / r["four_s"] - 1) for r in found["all_reduces"])
    within = "are" if worst <= GOAL else "are not"
    return f"""All-reduces between gloo processes of one host, ms. A latency of
{1e6 * found["latency_s"]:.0f} µs and a rate of {found["rate"] / 1e6:.0f} MB/s, fitted
to two processes, predict four, which share {os.cpu_count()} cores. The predictions
{within} within the {GOAL:.0%} that are the goal on a quiet machine with a core for each
process:

| bytes | two | four | predicted | off by |
|---|---|---|---|---|
{lines}
"""


def joined(kept: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What is published, with what was measured now in its place, or beside it."""
    before = list(kept.get("drills", ()))
    drills = [*before, *(each for each in found["drills"] if each not in before)]
    loads = [*kept.get("load", ()), *found.get("load", ())]
    return {**kept, **found, "drills": drills, "load": [min(loads), max(loads)]}


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
    found = {}
    if config.out.exists():
        found = json.loads(config.out.read_text())
    config.out.parent.mkdir(parents=True, exist_ok=True)
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
    }
    if unknown := set(config.parts) - set(parts):
        raise ValueError(f"parts: {sorted(unknown)}, expected some of {list(parts)}")
    for name in config.parts:
        if name in found:
            continue
        loads = [*found.get("load", []), os.getloadavg()[0]]
        found |= {name: parts[name](), "load": loads}
        with whole(config.out) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n")
    drills = []
    for path in config.drills:
        with reading(path, "result of a drill"):
            one = json.loads(path.read_text())
            # Where it ran is nobody else's matter.
            one["settings"].pop("workdir", None)
            drills.append(one)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    told = joined(kept, {**found, "drills": drills})
    print(page(told))
    if config.publish:
        numbers = json.dumps(told, indent=1) + "\n"
        for path, text in {RESULTS: numbers, PAGE: page(told)}.items():
            with whole(path) as draft:
                draft.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
