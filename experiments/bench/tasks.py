"""Pieces of work beside their peers': taking turns, goals, one table, one JSON file."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

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
    """

    about: str
    ours: Work
    theirs: dict[str, Work]
    differences: dict[str, float]


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
    goals: Mapping[str, float],
    peers: Sequence[str],
) -> dict[str, Any]:
    """Times every task, prints and writes.

    Args:
      benchmark: its name, and that of the file.
      config: sizes.
      tasks: what is measured: sizes to the work of both sides.
      goals: times faster that is asked for, by task.
      peers: packages that some of them need.

    Returns:
      What the JSON file holds.
    """
    found: dict[str, Any] = {}
    for name, build in tasks.items():
        task = build(config)
        timings = measure.take_turns(
            {"ours": task.ours, **task.theirs}, turns=config.turns, warmup=1
        )
        ours = timings["ours"]
        found[name] = {
            "about": task.about,
            "goal": round(goals[name], 2),
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
        "facts": measure.facts(),
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
