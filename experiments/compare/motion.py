"""Does a mesh follow a heart better than registered images do? Systems side by side.

``python -m experiments.compare.motion`` trains every system with every seed on the same
phantom people, with as many steps of as many examples each. All of them are given the
true mesh at end-diastole, and are scored by where its vertices, which are material
points, are in later frames:

* no motion: the mesh stays where it is;
* *images*: DeepMesh's network and field, trained by the difference of warped images
  and the field's smoothness alone. The mesh goes along;
* *DeepMesh*: the same network, and planes compared with the mesh's coverage; with the
  published projection of vertices instead; and with short-axis slices alone;
* the *graph network*, and it with short-axis slices alone.

A seed is that of the weights and of the order of people; the people are the same
throughout. Where long-axis views are left out they are neither read nor learned from,
and still scored on.

Expected beforehand: meshes beat images by contours and by vertices; long-axis views
lower the error along the heart and that of its longitudinal strain; the graph network
is no worse than DeepMesh's with a fraction of its weights. And failures: contours do
not see motion around the heart, so that error stays what it is without motion, but for
the image term; short-axis slices alone underestimate shortening; projection sees the
vertices of a coarse mesh on few planes, and is worse than coverage.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished; the first seed of everything
comes first. ``--publish`` also writes ``experiments/results/compare_motion.json``.
"""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import deepmesh, graph_motion
from experiments.bench.tables import markdown
from experiments.compare.publishing import (
    asked_for,
    at_least_one,
    cell,
    command,
    compared,
    differences,
    finished,
    interval,
    keep,
    machine,
    summarise,
)
from medjax.heart.motion_data import SMALL, MotionData, MotionDataConfig, open_motion
from medjax.heart.motion_systems import Follower
from medjax.heart.tracking import Tracking, evaluate, train
from medjax.train.launch import LaunchConfig

Arm = Literal["images", "deepmesh", "projection", "deepmesh_sax", "graph", "graph_sax"]
STILL = "still"
"""The row of meshes that do not move, of every seed the same."""
change = dataclasses.replace


def _deepmesh(**changes: Any) -> Tracking:
    """DeepMesh as small as ``tiny``, which is given the mesh at end-diastole."""
    tiny = deepmesh.TINY
    return change(tiny, system=change(tiny.system, **changes))


ARMS: Mapping[str, tuple[str, Tracking]] = {
    STILL: ("no motion", graph_motion.TINY),
    "images": ("images registered", _deepmesh(plane=0.0)),
    "deepmesh": ("DeepMesh", _deepmesh()),
    # Its distance is in pixels, of which a slice is off by some.
    "projection": (
        "DeepMesh, vertices projected",
        _deepmesh(slice="projection", plane=1.0, within=3.0, tau=1 / 3, top=192),
    ),
    "deepmesh_sax": ("DeepMesh, short axis alone", _deepmesh()),
    "graph": ("graph network", graph_motion.TINY),
    "graph_sax": ("graph network, short axis alone", graph_motion.TINY),
}
"""What each is called, and its settings; ``_sax`` are without long-axis views."""
PLACES = {
    "vertex": "vertices, mm",
    "normal": "normal, mm",
    "circumferential": "around, mm",
    "longitudinal": "along, mm",
    "contour sax": "contours SAX, mm",
    "contour 2ch": "2CH, mm",
    "contour 4ch": "4CH, mm",
    "dice sax": "Dice SAX",
    "dice 2ch": "2CH",
    "dice 4ch": "4CH",
}
"""Errors of places; contours and Dice at end-systole."""
CLINIC = {
    "ef": "EF, points",
    "ef_bias": "EF bias",
    "lv_mae_ml": "LV, mL",
    "GCS endo": "GCS, points",
    "GLS endo": "GLS, points",
    "GRS": "GRS, points",
    "segments": "17 segments, points",
    "muscle_drift": "muscle's change",
    "flipped": "turned over",
    "parameters": "parameters",
}
"""Errors of what is read from meshes, and what muscle does not do."""
CLAIMS = (
    ("a mesh beats registered images, by contours", "deepmesh", "images", 4),
    ("a mesh beats registered images, by vertices", "deepmesh", "images", 0),
    ("long-axis views help along the heart (DeepMesh)", "deepmesh", "deepmesh_sax", 3),
    ("long-axis views help along the heart (graph)", "graph", "graph_sax", 3),
    ("the graph network is ahead of DeepMesh", "graph", "deepmesh", 0),
    ("coverage is ahead of projection", "deepmesh", "projection", 0),
    ("contours show motion around the heart", "deepmesh", STILL, 2),
    ("images show motion around the heart", "images", STILL, 2),
)
"""What is said, whose error is to be lower, than whose, and which of `PLACES`."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which systems, how many seeds, how much training."""

    systems: tuple[Arm, ...] = (
        "images",
        "deepmesh",
        "graph",
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
    publish: bool = False
    """Write the committed results as well."""
    launch: LaunchConfig = graph_motion.TINY.launch
    """How this process starts."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet; the first seed of everything comes first.

    Args:
      config: What to compare.

    Returns:
      ``budget``, ``runs`` (one row per system and seed), ``summary`` (mean and
      deviation over seeds) and ``claims``.

    Raises:
      ValueError: There is nothing to run, or a folder holds a run of another budget.
    """
    at_least_one(config, "seeds", "systems")
    people = open_motion(config.data, config.workdir)
    short = open_motion(change(config.data, views="sax"), config.workdir)
    rows: list[dict[str, Any]] = []
    for seed in config.seeds:
        for name in config.systems:
            data = short if name.endswith("_sax") else people
            still, ours = _finished_run(name, seed, config, data)
            if (STILL, seed) not in {(row["system"], row["seed"]) for row in rows}:
                rows.append(still)
            rows.append(ours)
    return {
        "budget": {
            "steps": config.steps,
            "data": dataclasses.asdict(config.data) | {"cache": None},
            "optimizer": {
                name: dataclasses.asdict(ARMS[name][1].optimizer)
                for name in config.systems
            },
            **machine(),
        },
        "runs": rows,
        "summary": summarise(rows),
        "claims": claims(rows),
    }


def _finished_run(
    name: Arm, seed: int, config: Comparison, data: MotionData
) -> list[dict[str, Any]]:
    """The rows of no motion and of one system and seed, from its folder if it is there.

    Raises:
      ValueError: The folder holds a run of another budget.
    """
    label, preset = ARMS[name]
    folder = config.workdir / f"{name}-{seed}"
    budget = [*asked_for(config, ["steps"]), repr(config.data)]
    known = finished(folder, budget, "(steps, data)")
    if known is not None:
        return known["rows"]
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
    sizes = 0, sum(leaf.size for leaf in leaves)
    rows, seconds = [], round(time.monotonic() - began)
    both = zip((STILL, name), results["tracking"], sizes, strict=True)
    for which, method, size in both:
        numbers = _numbers(method, results) | {"parameters": size}
        rows.append({"system": which, "seed": seed, **numbers, "seconds": seconds})
    keep(folder / "result.json", {"budget": budget, "rows": rows})
    return rows


def _numbers(method: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, float]:
    """Scores of one method, those of contours behind the name of their view."""
    known = [*PLACES, *CLINIC]
    found = {name: float(v) for name, v in method.items() if name in known}
    for row in results["contours"]:
        if row["method"] == method["method"]:
            for score in ("contour", "dice"):
                found[f"{score} {row['view']}"] = float(row[score])
    return found


def claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is said of systems, and by how much errors differ over the seeds.

    Args:
      rows: Of `compare`.

    Returns:
      ``claim``, ``error`` and its ``difference`` with an interval; those whose systems
      did not both run with two seeds are left out.
    """
    names, found = list(PLACES), []
    for claim, first, second, which in CLAIMS:
        two = [row for row in rows if row["system"] in (first, second)]
        for entry in differences(two, second):
            error = names[which]
            found.append(
                {"claim": claim, "error": PLACES[error], "difference": entry[error]}
            )
    return found


def _verdict(difference: Mapping[str, float]) -> str:
    if difference["high"] < 0:
        return "yes"
    return "no" if difference["low"] > 0 else "undecided"


def table(results: Mapping[str, Any]) -> str:
    """Errors of places, what a clinic reads, and the claims, in Markdown."""
    shown = [
        compared("", ARMS, results["summary"], heads, _told)
        for heads in (PLACES, CLINIC)
    ]
    lines = [
        [c["claim"], c["error"], interval(c["difference"], places=2)]
        + [_verdict(c["difference"])]
        for c in results["claims"]
    ]
    heads = ["said", "error of", "difference of errors", "seen"]
    return "\n\n".join([*shown, markdown(heads, lines)])


def _told(value: Mapping[str, float | None]) -> str:
    """Parameters as whole numbers, shares with three places, the rest with two."""
    mean = abs(value["mean"] or 0.0)
    return cell(value, places=0 if mean >= 1000 else 3 if mean < 1 else 2)


def main() -> int:
    """Compares, prints the tables, keeps the numbers."""
    return command("compare_motion", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
