"""Does a segmenter that saw breathing stand it better, and who tells how bad a scan is?

``python -m experiments.compare.cmrxmotion`` runs `experiments.cmrxmotion` with every
seed: phantom hearts scanned while they breathe, three segmenters that saw hearts at
rest, these and blocks of lines moved (augmentation as libraries have it), or these and
breathing copies, and three ways of grading. A seed is that of the volunteers, of how
they breathe, of the weights and of the order of patches, so that intervals are of new
people too.

Expected beforehand: what saw breathing keeps its Dice at grades 2 and 3 and loses
nothing at 1. Below the graders is what the commonest grade would come to if every scan
was given it.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished. ``--publish`` also writes
``experiments/results/compare_cmrxmotion.json``.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cmrxmotion
from experiments.compare.publishing import (
    asked_for,
    at_least_one,
    cell,
    command,
    compared,
    differences,
    emptiness,
    finished,
    interval,
    keep,
    machine,
    summarise,
)
from medjax.metrics.cases import EMPTY
from medjax.segmentation.cmrxmotion.reader import ACQUISITIONS, GRADES, LABELS
from medjax.train.launch import LaunchConfig, cpu_devices

ARMS = {
    "clean": ("at rest",),
    "block": ("at rest, and blocks of lines moved",),
    "physiological": ("at rest, and breathing",),
}
"""What segmenters saw."""
GRADERS = {
    "softmax": ("network, softmax",),
    "ordinal": ("network, ordered grades",),
    "uncertainty": ("uncertainty of the segmenter at rest",),
    "commonest": ("*the commonest grade for all*",),
}
SAW = "segmenter saw hearts"
REFERENCE = "clean"
WAYS = tuple(way.replace("_", " ") for way in ACQUISITIONS.values())
"""Of breathing, as the challenge asked for them."""
GRADING = {"kappa": "kappa, linear", "accuracy": "accuracy"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How many seeds and volunteers, how much training."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    volunteers: tuple[int, int, int] = (16, 6, 8)
    """To train on, to validate on, and held out; four scans of two phases each."""
    steps: int = 600
    """Updates of each segmenter."""
    lr: float = 3e-3
    """Their peak learning rate."""
    grading_steps: int = 320
    """Updates of each grader."""
    workdir: Path = Path("runs/compare-cmrxmotion")
    """One folder per run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results as well."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How this process starts."""


BUDGET = ("volunteers", "steps", "lr", "grading_steps")
"""What a run's folder has to have been made with."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet.

    Args:
      config: What to compare.

    Returns:
      ``budget``, ``scans`` (how many are held out of grades 1 to 3, over all seeds),
      ``segmentation`` and ``grading``: rows of every seed, their ``summary`` and, of
      segmenters, ``differences`` from that which saw hearts at rest, paired by seed.

    Raises:
      ValueError: There is nothing to run, or a folder holds a run of another budget.
    """
    at_least_one(config, "seeds")
    done = [_finished_run(seed, config) for seed in config.seeds]
    segmentation = told_of_all([row for run in done for row in run["segmentation"]])
    grading = [row for run in done for row in run["grading"]]
    budget = dict(zip(BUDGET, asked_for(config, BUDGET), strict=True))
    return {
        "budget": budget | machine(),
        "scans": np.sum([run["scans"] for run in done], axis=0).tolist(),
        "seconds": [run["seconds"] for run in done],
        "segmentation": {
            "runs": segmentation,
            "summary": summarise(segmentation),
            "differences": differences(segmentation, REFERENCE),
        },
        "grading": {"runs": grading, "summary": summarise(grading)},
    }


def _finished_run(seed: int, config: Comparison) -> dict[str, Any]:
    """What a seed came to: from its folder if it is there, else trained."""
    folder = config.workdir / f"seed-{seed}"
    budget = asked_for(config, BUDGET)
    known = finished(folder, budget, f"({', '.join(BUDGET)})")
    if known is not None:
        return known
    began = time.monotonic()
    results = cmrxmotion.run(settings(seed, config))
    seconds = round(time.monotonic() - began)
    result = {"budget": budget, **headline(results, seed), "seconds": seconds}
    keep(folder / "result.json", result)
    return result


def settings(seed: int, config: Comparison) -> cmrxmotion.UnderMotion:
    """The run of a seed."""
    preset = cmrxmotion.PRESETS["tiny"]
    change = dataclasses.replace
    return change(
        preset,
        about=f"Breathing phantom hearts, seed {seed}",
        data=change(preset.data, volunteers=config.volunteers, seed=seed),
        grading=change(preset.grading, steps=config.grading_steps),
        optimizer=change(preset.optimizer, lr=config.lr),
        train=change(preset.train, steps=config.steps, seed=seed),
        workdir=config.workdir / f"seed-{seed}",
    )


def headline(results: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The numbers of an evaluation that are compared.

    Args:
      results: Of `experiments.cmrxmotion`.
      seed: Of the run.

    Returns:
      ``segmentation`` (a row per segmenter: Dice, HD95 in mm, how many structures were
      empty, and the error of the ejection fraction in points, by grade and by way of
      breathing), ``grading`` (a row per grader) and ``scans`` held out of each grade.
    """
    arms: dict[str, dict[str, Any]] = {}
    for row in [*results["segmentation"], *results["breathing"]]:
        known = {"system": row["trained on"], "seed": seed}
        scores = arms.setdefault(row["trained on"], known)
        which = row["grade"] if "grade" in row else row["breathing"]
        hd95 = [row[f"{name}_hd95"] for name in LABELS]
        scores[f"dice {which}"] = row["dice"]
        scores[f"hd95 {which}"] = float(np.mean(hd95))
        scores |= {f"{name} {which}": row[name] for name in EMPTY}
        if np.isfinite(row["EF error"]):
            scores[f"EF {which}"] = row["EF error"]
    grading = [
        {"system": row["method"], "seed": seed, **{key: row[key] for key in GRADING}}
        for row in results["grading"]
    ]
    scans = np.sum(results["grading"][0]["confusion"], axis=1)
    share = float(scans.max() / scans.sum())
    commonest = {"kappa": 0.0, "accuracy": share}
    grading.append({"system": "commonest", "seed": seed, **commonest})
    return {
        "segmentation": [*arms.values()],
        "grading": grading,
        "scans": scans.tolist(),
    }


def told_of_all(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with those numbers alone that every one of them has: a grade may be rare."""
    common = functools.reduce(lambda a, b: a & b, (set(row) for row in rows))
    return [{k: v for k, v in row.items() if k in common} for row in rows]


def table(results: Mapping[str, Any]) -> str:
    """Scores by grade and way of breathing, differences and graders in Markdown."""
    found = results["segmentation"]
    present = found["summary"][0]
    grades = {f" {grade}": f", grade {grade}" for grade in GRADES}
    ways = {f" {way}": f", {way}" for way in WAYS}
    parts = []
    for those in (grades, ways):
        told = {
            key + place: name + said
            for key, name in (("dice", "Dice"), ("hd95", "HD95 mm"), ("EF", "EF error"))
            for place, said in those.items()
            if key + place in present
        }
        if not told:
            continue
        parts.append(compared(SAW, ARMS, found["summary"], told, cell))
        if against := found["differences"]:
            about = f"minus {ARMS[REFERENCE][0]}"
            parts.append(compared(about, ARMS, against, told, interval))
    # Of the same scans, once.
    scored = {
        place: said for place, said in grades.items() if f"dice{place}" in present
    }
    parts += emptiness("structures of scans", ARMS, found["summary"], scored)
    graders = results["grading"]["summary"]
    parts.append(compared("graded by", GRADERS, graders, GRADING, cell))
    return "\n\n".join(parts)


def main() -> int:
    """Compares, prints the tables, keeps the numbers."""
    return command("compare_cmrxmotion", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
