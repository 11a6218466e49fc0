"""What is asked of a piece of work on one kind of device, and whether it is met there.

A goal for two cores of a CPU says nothing of an H200, and the other way round: on a
device only its own goals are judged, the others are named with the reason. Goals per
second are of the papers' sizes; other work is not held to them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Device = Literal["cpu", "H200"]
PLACES: Mapping[Device, str] = {"cpu": "two cores of a CPU", "H200": "an H200"}
"""Devices that goals are for, in words."""


class Goal(NamedTuple):
    """What is asked of a task.

    Attributes:
      times_faster: than each peer.
      per_second: of what the task counts, at the sizes of the papers.
      share_of_step: of the time of the task ``step``, at most, at those sizes.
    """

    times_faster: float | None = None
    per_second: float | None = None
    share_of_step: float | None = None


Goals = Mapping[Device, Mapping[str, Goal]]
"""By device, then by task."""


def judging(device: str) -> Device | None:
    """Whose goals are judged on a device.

    Args:
      device: as JAX calls its kind.
    """
    if device.lower() == "cpu":
        return "cpu"
    return "H200" if "H200" in device else None


def ratio(goals: Goals, name: str, device: str) -> float | None:
    """How many times faster than each peer a task is to be on a device, if that is
    asked."""
    used = judging(device)
    asked = None if used is None else goals.get(used, {}).get(name)
    return None if asked is None else asked.times_faster


def unlike(
    config: Any, published: Any, *, same: Sequence[str], least: Mapping[str, int]
) -> str:
    """Where sizes are not those that goals per second are for, in words.

    Args:
      config: of the measurement.
      published: the papers' sizes.
      same: fields that have to be equal.
      least: fields that may be larger.

    Returns:
      The first such field, what it is and should be; empty: there is none.
    """
    for name in same:
        found, wanted = getattr(config, name), getattr(published, name)
        if found != wanted:
            return f"{name} is {found}, the goal is for {wanted}"
    for name, wanted in least.items():
        if (found := getattr(config, name)) < wanted:
            return f"{name} is {found}, the goal is for {wanted} at least"
    return ""


def rates(
    goals: Goals,
    name: str,
    *,
    device: str,
    sizes: str,
    unit: str,
    per_second: float | None,
    share_of_step: float | None,
) -> list[dict[str, Any]]:
    """The goals of a task that are no ratio to a peer, of every device.

    Args:
      goals: of the benchmark.
      name: of the task.
      device: that was measured, as JAX calls its kind.
      sizes: why they are not those that goals are for; empty: they are.
      unit: of what the task counts.
      per_second: what was measured; None: the task counts nothing.
      share_of_step: of the time of the task ``step``; None: that was not measured.

    Returns:
      A row for each goal: ``device``, ``asked`` in words, the ``goal``, what was
      ``found``, whether it is ``met`` (None: not judged) and ``why`` it is not judged.
    """
    rows = []
    for whose, tasks in goals.items():
        asked = tasks.get(name, Goal())
        kinds = (
            (f"{unit} per second, at least", asked.per_second, per_second, False),
            ("share of the step, at most", asked.share_of_step, share_of_step, True),
        )
        for words, goal, found, most in kinds:
            if goal is None:
                continue
            why = ""
            if judging(device) != whose:
                why = f"this is {device}"
            elif sizes:
                why = sizes
            elif found is None:
                why = "the step was not measured"
            met = None
            if not why and found is not None:
                met = bool(found <= goal if most else found >= goal)
            rows.append(
                {
                    "device": whose,
                    "asked": words,
                    "goal": goal,
                    "found": found,
                    "met": met,
                    "why": why,
                }
            )
    return rows


def verdict(about: str, row: Mapping[str, Any]) -> str:
    """A row of `rates` as a line."""
    place = PLACES[row["device"]]
    line = f"goal on {place}, {about}: {row['goal']:g} {row['asked']}"
    if row["met"] is None:
        return f"{line}; not judged here ({row['why']})"
    return f"{line}; {'met' if row['met'] else 'NOT met'}: {row['found']:.3g}"
