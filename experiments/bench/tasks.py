"""Pieces of work beside their peers': taking turns, goals, one table, one JSON file."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from experiments.bench import goals as goals_of
from experiments.bench import measure

Work = Callable[[], Any]


class Sizes(Protocol):
    """What every benchmark of tasks is asked."""

    @property
    def turns(self) -> int:
        """Timed turns of each."""
        ...

    @property
    def out(self) -> Path:
        """Folder of the JSON file."""
        ...


class Task(NamedTuple):
    """The same work by all.

    Attributes:
      about: what it is, in a line.
      ours: does it once.
      theirs: do it once, by name.
      differences: of our answer from theirs, by name.
      amount: what is done, in units, by one call; 0: nothing that one counts.
      unit: of it.
    """

    about: str
    ours: Work
    theirs: dict[str, Work]
    differences: dict[str, float]
    amount: int = 0
    unit: str = "pairs"


def peer(name: str) -> ModuleType | None:
    """A package, if it is installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def run_tasks(
    benchmark: str,
    config: Sizes,
    tasks: Mapping[str, Callable[[Any], Task]],
    *,
    goals: goals_of.Goals,
    peers: Sequence[str],
    sizes: str = "",
) -> dict[str, Any]:
    """Times every task, prints and writes.

    Args:
      benchmark: its name, and that of the file.
      config: sizes.
      tasks: what is measured: sizes to the work of both sides.
      goals: what is asked for, by device and task.
      peers: packages that some of them need.
      sizes: why goals per second are not for them; empty: they are.

    Returns:
      What the JSON file holds.
    """
    facts = measure.facts()
    device = facts["device"]
    found: dict[str, Any] = {}
    for name, build in tasks.items():
        task = build(config)
        timings = measure.take_turns(
            {"ours": task.ours, **task.theirs}, turns=config.turns, warmup=1
        )
        ours = timings["ours"]
        step = found.get("step", {}).get("seconds", {}).get("ours", {}).get("median")
        found[name] = {
            "about": task.about,
            "goal": goals_of.ratio(goals, name, device),
            "goal_of": goals_of.judging(device),
            "rates": goals_of.rates(
                goals,
                name,
                device=device,
                sizes=sizes,
                unit=task.unit,
                per_second=task.amount / ours.median if task.amount else None,
                share_of_step=ours.median / step if step else None,
            ),
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
        "benchmark": benchmark,
        "config": measure.settings(config),
        "facts": facts,
        "absent": [name for name in peers if peer(name) is None],
        "tasks": found,
    }
    _print(result)
    measure.write(config.out, benchmark, result)
    return result


def _print(result: dict[str, Any]) -> None:
    print(f"\n{result['benchmark']}\n" + measure.describe(result["facts"]) + "\n")
    rows = []
    for task in result["tasks"].values():
        ours = f"{1e3 * task['seconds']['ours']['median']:.1f}"
        if not task["ours_times_faster"]:
            rows.append([f"{task['about']}, ours alone", ours, "", "", ""])
        for who, ratio in task["ours_times_faster"].items():
            theirs = f"{1e3 * task['seconds'][who]['median']:.1f}"
            faster = measure.span(ratio, ".2f")
            judged = _judged(task, ratio["median"])
            rows.append([f"{task['about']}, {who}", ours, theirs, faster, judged])
    head = ["", "ours, ms", "theirs, ms", "ours is times faster", "goal"]
    print(measure.table(head, rows))
    for task in result["tasks"].values():
        for row in task["rates"]:
            print(goals_of.verdict(task["about"], row))
    for task in result["tasks"].values():
        for who, gap in task["differences"].items():
            print(f"{task['about']}: differs from {who} by {gap:.2g}")
    if result["absent"]:
        print(f"not installed: {', '.join(result['absent'])}")


def _judged(task: Mapping[str, Any], found: float) -> str:
    """The goal that a ratio is held to, and whether it is met."""
    if task["goal"] is None:
        return "none on this device"
    met = "met" if found >= task["goal"] else "NOT met"
    return f"{task['goal']:.3g} on {goals_of.PLACES[task['goal_of']]}, {met}"
