"""Segmentation: mixing, surfaces, tiles, ensembles and motion against their peers.

Each task is the same work for both sides, which take turns:

============ ========================================================================
``lesions``  one batch of lesions turned, flipped, resized, bent and relit, against five
             transforms one after the other: torchio's, and SciPy's interpolation
``surfaces`` HD95, ASSD and surface Dice of three labels, against MONAI and medpy
``tiles``    tiles cut, weighed and blended, with a network that costs nothing, against
             MONAI
``samples``  sixteen answers of hierarchical uncertainty, against as many passes through
             all of the network
``ensemble`` a training step of five members in one program, against five steps
``motion``   a frame of a slice scanned over twelve heartbeats, against torchio's motion
             of as many poses, and SciPy's shifts with NumPy's transform
============ ========================================================================

What is not installed is left out and named. Where both give one answer (surfaces,
tiles) their largest difference is printed beside the ratio; transforms at random have
no common answer, and their agreement with SciPy is the matter of tests.
"""

from typing import Any

from experiments.bench import measure
from experiments.bench.segmentation_tasks import (
    PEERS,
    TASKS,
    SegmentationBenchConfig,
    peer,
)

GOALS = {
    "lesions": 8.0,
    "surfaces": 2.0,
    "tiles": 1.0,
    "samples": 1 / 0.6,
    "ensemble": 1.0,
    "motion": 5.0,
}
"""Times faster that is asked for on two cores."""


def run(config: SegmentationBenchConfig) -> dict[str, Any]:
    """Times every task, prints and writes.

    Args:
      config: sizes.

    Returns:
      What the JSON file holds.
    """
    found: dict[str, Any] = {}
    for name in config.tasks:
        task = TASKS[name](config)
        timings = measure.take_turns(
            {"ours": task.ours, **task.theirs}, turns=config.turns, warmup=1
        )
        ours = timings["ours"]
        found[name] = {
            "about": task.about,
            "goal": round(GOALS[name], 2),
            "seconds": {
                who: {"median": t.median, "spread": list(t.spread)}
                for who, t in timings.items()
            },
            "ours_times_faster": {
                who: ours.faster_than(timings[who]) for who in task.theirs
            },
            "differences": task.differences,
        }
    result = {
        "benchmark": "segmentation",
        "config": measure.settings(config),
        "facts": measure.facts(),
        "absent": [name for name in PEERS if peer(name) is None],
        "tasks": found,
    }
    _print(result)
    measure.write(config.out, "segmentation", result)
    return result


def _print(result: dict[str, Any]) -> None:
    print("\nsegmentation\n" + measure.describe(result["facts"]) + "\n")
    rows = []
    for task in result["tasks"].values():
        ours = task["seconds"]["ours"]["median"]
        for who, ratio in task["ours_times_faster"].items():
            theirs = task["seconds"][who]["median"]
            cells = [f"{1e3 * ours:.1f}", f"{1e3 * theirs:.1f}"]
            met = "met" if ratio["median"] >= task["goal"] else "NOT met"
            rows.append(
                [
                    f"{task['about']}, {who}",
                    *cells,
                    measure.span(ratio, ".2f"),
                    f"{task['goal']:g}, {met}",
                ]
            )
    head = ["", "ours, ms", "theirs, ms", "ours is times faster", "goal"]
    print(measure.table(head, rows))
    for task in result["tasks"].values():
        for who, gap in task["differences"].items():
            print(f"{task['about']}: differs from {who} by {gap:.2g}")
    if result["absent"]:
        print(f"not installed: {', '.join(result['absent'])}")
