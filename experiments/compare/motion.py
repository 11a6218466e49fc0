"""Does a mesh follow a heart better than registered images do? Systems side by side.

``python -m experiments.compare.motion`` trains every system with every seed on the same
phantom people, with as many steps of as many examples each. All of them are given the
true mesh at end-diastole, and are scored by where its vertices, which are material
points, are in later frames:

* no motion: the mesh stays where it is;
* *images*: DeepMesh's network and field, trained by the difference of warped images
  and the field's smoothness alone; and *VoxelMorph*, a U-Net with the published loss,
  whose smoothness is the released code's: with 10 or 100 times as much, contours of
  people it was trained on were further off. The mesh goes along;
* *DeepMesh*: the same network, and planes compared with the mesh's coverage; with the
  published projection of vertices instead; and with short-axis slices alone;
* the *graph network*; it with short-axis slices alone; and it on scans of the same
  people whose muscle has no texture, or whose slices no breath has displaced.

A seed is that of the weights and of the order of people; the people are the same
throughout. Where long-axis views are left out they are neither read nor learned from,
and still scored on.

Expected beforehand: meshes beat images by contours and by vertices; long-axis views
lower the error along the heart and that of its longitudinal strain; the graph network
is no worse than DeepMesh's with a fraction of its weights. And failures: contours do
not see motion around the heart, so that error stays what it is without motion, but for
the image term, and without texture nothing at all finds it; short-axis slices alone
underestimate shortening; projection sees the vertices of a coarse mesh on few planes,
and is worse than coverage; slices that breaths displaced bias the strain of the basal
segments, where the wall ends between two of them.

What is said is judged by errors paired by seed and person, or by seeds' means where a
run did not keep its people's; *better*: it is so, *worse*: the reverse, *equivalent*:
the difference lies within the margin; else it is *undecided*. Margins were named when
the first runs of DeepMesh, the graph network and images had been seen, and before any
of VoxelMorph, of no texture and of slices in line.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished; the first seed of everything
comes first. ``--systems`` picks some; ``--beside`` puts the others' rows of an earlier
file next to them. ``--publish`` also writes
``experiments/results/compare_motion.json``.
"""

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import deepmesh, graph_motion
from experiments.bench.tables import markdown
from experiments.compare.motion_arms import ARMS, STILL, Arm, shown
from experiments.compare.motion_claims import (
    CLAIMED,
    CLINIC,
    DEEPMESH,
    PLACES,
    claims,
    numbers,
    of_people,
)
from experiments.compare.publishing import (
    asked_for,
    at_least_one,
    cell,
    command,
    compared,
    finished,
    interval,
    keep,
    machine,
    summarise,
)
from medjax.data.boundary import reading
from medjax.heart.motion_data import SMALL, MotionData, MotionDataConfig, open_motion
from medjax.heart.motion_systems import Follower
from medjax.heart.tracking import evaluate, follow, train
from medjax.train.launch import LaunchConfig

change = dataclasses.replace


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which systems, how many seeds, how much training."""

    systems: tuple[Arm, ...] = (
        "images",
        "voxelmorph",
        "deepmesh",
        "graph",
        "graph_plain",
        "graph_aligned",
        "graph_sax",
        "deepmesh_sax",
        "projection",
    )
    """What to compare."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each system per seed."""
    steps: int = deepmesh.TINY.train.steps
    """Updates of each run."""
    data: MotionDataConfig = change(SMALL, people=24, test_people=8)
    """The people."""
    workdir: Path = Path("runs/compare-motion")
    """One folder per run in it; the same command goes on."""
    beside: Path | None = None
    """A file of such results, as ``experiments/results/compare_motion.json``: its rows
    of systems that are not asked for are kept."""
    publish: bool = False
    """Write the committed results as well."""
    launch: LaunchConfig = graph_motion.TINY.launch
    """How this process starts."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet; the first seed of everything comes first.

    Args:
      config: What to compare.

    Returns:
      ``budget``, ``runs`` (one row per system and seed), ``people`` (the errors of
      `CLAIMED` of every person, per system and seed), ``summary`` (mean and deviation
      over seeds) and ``claims``.

    Raises:
      DataError: The file of earlier results is damaged.
      ValueError: There is nothing to run, or a folder, or that file, holds a run of
        another budget.
    """
    at_least_one(config, "seeds", "systems")
    budget = {
        "steps": config.steps,
        "data": dataclasses.asdict(config.data) | {"cache": None},
    }
    earlier = _earlier(config, budget)
    opened = functools.cache(lambda seen: open_motion(seen, config.workdir))
    rows: list[dict[str, Any]] = list(earlier["runs"])
    people: list[dict[str, Any]] = list(earlier["people"])
    for seed, name in itertools.product(config.seeds, config.systems):
        seen = shown(name, config.data)
        found = _finished_run(name, seed, config, lambda seen=seen: opened(seen))
        there = {(row["system"], row["seed"]) for row in rows}
        # Of scans that are otherwise, contours of no motion are others.
        alike = {name, STILL} if seen.scan == config.data.scan else {name}
        for into, of in ((rows, "rows"), (people, "people")):
            into += [
                one
                for one in found.get(of, [])
                if one["system"] in alike and (one["system"], seed) not in there
            ]
    order = list(ARMS)
    rows.sort(key=lambda row: (row["seed"], order.index(row["system"])))
    return {
        "budget": {
            **budget,
            "optimizer": {
                **earlier["optimizer"],
                **{
                    name: dataclasses.asdict(ARMS[name][1].optimizer)
                    for name in config.systems
                },
            },
            **machine(),
        },
        "runs": rows,
        "people": people,
        "summary": summarise(rows),
        "claims": claims(rows, people),
    }


def _earlier(config: Comparison, budget: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier file has of systems that are not asked for.

    Raises:
      DataError: It is damaged.
      ValueError: It is of another budget.
    """
    path = config.beside
    if path is None:
        return {"runs": [], "people": [], "optimizer": {}}
    with reading(path, "file of results"):
        known = json.loads(path.read_text())
        before = known["budget"]
        same = before["steps"] == budget["steps"] and _alike(
            before["data"], json.loads(json.dumps(budget["data"], default=str))
        )
    if not same:
        raise ValueError(
            f"beside: {path} is of {before['steps']} steps and {before['data']}, "
            f"expected {dict(budget)}"
        )
    again = {*config.systems, STILL}
    return {
        **{
            of: [one for one in known.get(of, []) if one["system"] not in again]
            for of in ("runs", "people")
        },
        "optimizer": before["optimizer"],
    }


def _alike(before: Any, now: Any) -> bool:
    """Whether flags that both know have the same values."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_alike(before[k], now[k]) for k in before.keys() & now.keys())
    return before == now


def _finished_run(
    name: Arm, seed: int, config: Comparison, opened: Callable[[], MotionData]
) -> dict[str, Any]:
    """``rows`` and ``people`` of no motion and of one system and seed, from its folder
    if they are there.

    Raises:
      ValueError: The folder holds a run of another budget.
    """
    label, preset = ARMS[name]
    folder = config.workdir / f"{name}-{seed}"
    budget = [*asked_for(config, ["steps"]), repr(config.data)]
    known = finished(folder, budget, "(steps, data)")
    if known is not None:
        return known
    data = opened()
    asked = change(
        preset,
        about=f"{label}, seed {seed}",
        data=change(config.data, seed=seed),
        train=change(preset.train, steps=config.steps, seed=seed),
        workdir=folder,
    )
    began = time.monotonic()
    weights = train(asked, data)
    follower = Follower(weights, asked.system, data.topology, data.reference)
    results, _ = evaluate(follower, data, asked)
    leaves = jax.tree.leaves([one["params"] for one in weights.values()])
    costs: tuple[dict[str, float], ...] = (
        {"parameters": 0},
        {"parameters": sum(x.size for x in leaves), "pace": pace(follower, data)},
    )
    rows, people, seconds = [], [], round(time.monotonic() - began)
    each = results["each_still"], results["each"]
    both = zip((STILL, name), results["tracking"], costs, each, strict=True)
    for which, method, cost, of in both:
        start = {"system": which, "seed": seed}
        rows.append(start | numbers(method, results) | cost | {"seconds": seconds})
        people.append(start | {error: of_people(of, error) for error in CLAIMED})
    found = {"budget": budget, "rows": rows, "people": people}
    keep(folder / "result.json", found)
    return found


def pace(follower: Follower, data: MotionData) -> float:
    """Milliseconds that a later frame takes of the median person, who was followed
    before: nothing is compiled."""
    taken = []
    for subject in data.test:
        began = time.perf_counter()
        follow(follower, subject)
        taken.append((time.perf_counter() - began) / (len(subject.times) - 1))
    return 1e3 * float(np.median(taken))


def table(results: Mapping[str, Any]) -> str:
    """Errors of places, the published scores of contours, what a clinic reads, and the
    claims, in Markdown; a number that a run did not keep is left empty."""
    every = {**PLACES, **DEEPMESH, **CLINIC}
    known = {name for entry in results["summary"] for name in entry}
    summary = [dict.fromkeys(every) | entry for entry in results["summary"]]
    parts = []
    for heads in (PLACES, DEEPMESH, CLINIC):
        if told := {name: head for name, head in heads.items() if name in known}:
            parts.append(compared("", ARMS, summary, told, _told))
    kept = {one["system"] for one in results["people"]}
    if earlier := [e["system"] for e in summary if e["system"] not in kept]:
        told = "; ".join(ARMS[name][0] for name in earlier)
        parts.append(
            "Of earlier runs, which kept neither all of these numbers nor those of "
            f"every person: {told}."
        )
    lines = [
        [c["claim"], c["error"], interval(c, places=2)]
        + [f"{c['seeds']} x {c['subjects']}", f"{c['verdict']} ({c['margin']:g})"]
        for c in results["claims"]
    ]
    heads = ["said", "error of", "difference of errors, 95 %", "seeds x people"]
    parts.append(markdown([*heads, "verdict (margin)"], lines))
    return "\n\n".join(parts)


def _told(value: Mapping[str, float | None] | None) -> str:
    """Parameters as whole numbers, shares with three places, the rest with two."""
    if value is None:
        return ""
    mean = abs(value["mean"] or 0.0)
    return cell(value, places=0 if mean >= 1000 else 3 if mean < 1 else 2)


def main() -> int:
    """Compares, prints the tables, keeps the numbers."""
    return command("compare_motion", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
