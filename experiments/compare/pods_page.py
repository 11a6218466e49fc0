"""The page of what a planner says beside what can be measured, as its numbers are.

`experiments.compare.pods` measures; what stands here takes all it tells from the file
of those numbers, so that the page is the same wherever it is made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import drill
from experiments.compare import absent, planned

GOAL = 0.3
"""Relative error of a predicted all-reduce that is aimed at."""
BATCH, POD = 65_536, "v6e-256"
"""The contrast that is planned, and where."""
SHARE = 0.06
"""Of a step, that it is to take at most."""
KILLS, MINUTES = 50, 30
"""Of a drill, and in which it is to be over."""


def page(found: Mapping[str, Any]) -> str:
    """The results, for a reader; of parts that never were measured, that."""
    loads = found["load"]
    quiet = [load <= 1 for load in (min(loads), max(loads))]
    beside = "nothing else ran" if all(quiet) else "other work ran beside it"
    beside += ", but not always" if any(quiet) and not all(quiet) else ""
    head = f"""```
python -m experiments.compare.pods --publish
```

(resumable) on {found["cores"]} cores, with loads of {min(loads):.1f} to
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
        "network": lambda rows: _network(rows, found["cores"]),
        "scaled": planned.scaled_table,
        "absent": absent.absent_table,
    }
    told = [table(found[name]) for name, table in tables.items() if name in found]
    missing = [_ABOUT[name] for name in tables if name not in found]
    if missing:
        told.append(f"Not measured yet: {'; '.join(missing)}.\n")
    told += [told_drill(result) for result in found.get("drills", ())]
    return "\n".join([head, *told]).strip()


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
    "absent": "steps compiled for machines that are not here",
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


def told_drill(found: Mapping[str, Any]) -> str:
    """What a drill has found, with the command that repeats it."""
    settings = found["settings"]
    names = ["kills", "seed", "steps", "processes", "minutes"]
    if settings.get("heartbeat", drill.Drill.heartbeat) != drill.Drill.heartbeat:
        names.append("heartbeat")
    flags = " ".join(f"--{name} {settings[name]}" for name in names)
    minutes = sum(found["seconds"].values()) / 60
    goal = ""
    if len(found["kills"]) >= KILLS:
        met = "met" if minutes <= MINUTES else "missed"
        goal = f"\nThe disturbed run took {minutes:.1f} minutes: the goal of at most "
        goal += f"{MINUTES} is {met}.\n"
    # A drill of before there were turns has none.
    chosen = {"elastic": "--elastic", "in_turn": "--in-turn"}
    flags = " ".join([*(v for k, v in chosen.items() if settings.get(k)), flags])
    return f"""## A drill: processes killed

```
python -m experiments.drill {flags}
```

{drill.page(found)}{goal}{found.get("remark", "")}"""


def _network(found: Mapping[str, Any], cores: int) -> str:
    lines = "\n".join(
        f"| {r['bytes']:,} | {1e3 * r['two_s']:.2f} | {1e3 * r['four_s']:.2f} | "
        f"{1e3 * r['predicted_s']:.2f} | {planned.off(r['predicted_s'], r['four_s'])} |"
        for r in found["all_reduces"]
    )
    worst = max(abs(r["predicted_s"] / r["four_s"] - 1) for r in found["all_reduces"])
    within = "are" if worst <= GOAL else "are not"
    return f"""All-reduces between gloo processes of one host, ms. A latency of
{1e6 * found["latency_s"]:.0f} µs and a rate of {found["rate"] / 1e6:.0f} MB/s, fitted
to two processes, predict four, which share {cores} cores. The predictions
{within} within the {GOAL:.0%} that are the goal on a quiet machine with a core for each
process:

| bytes | two | four | predicted | off by |
|---|---|---|---|---|
{lines}
"""
