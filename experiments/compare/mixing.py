"""What is mixing lesions worth when few cases have any? LesionMix beside its peers.

``python -m experiments.compare.mixing`` trains one small U-Net on two embedded brains
with few lesions, with every way of mixing and with none; equal network, patches,
updates and learning rate. All are judged on the same held-out brains, whose loads go
from few lesions to many, and on brains without any. A seed is that of the weights, of
the training brains and of all randomness in training.

The laws of LesionMix are of the training loads; ``lognormal`` is the law of the brains
that are held out, which only somebody who knows it can ask for.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished. ``--publish`` also writes
``experiments/results/compare_mixing.json``.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import ks_2samp

from experiments import segment
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
from medjax.data.ledger import Ledger
from medjax.metrics.cases import Cases
from medjax.metrics.lesionwise import EDGES, LesionCounts, lesion_counts
from medjax.segmentation.datasets.embedded import lesion_phantoms
from medjax.segmentation.lesionmix.augmentation import MixingConfig
from medjax.segmentation.lesionmix.mix import LesionMixConfig
from medjax.segmentation.phantoms.lesions import LOADS, LesionConfig, load_moments
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.training import Segmentation, fitted, open_data
from medjax.train.launch import LaunchConfig, cpu_devices

Arm = Literal[
    "none",
    "cutmix",
    "carvemix",
    "tumorcp",
    "selfmix",
    "populate",
    "lesionmix",
    "low",
    "high",
    "lognormal",
]
TRAINED, TESTED = (LesionConfig(lesions=LOADS[load]) for load in ("low", "uniform"))
HEALTHY = LesionConfig(lesions=(0.0, 0.0))
ARMS: Mapping[Arm, tuple[str, MixingConfig]] = {
    "none": ("no mixing", MixingConfig()),
    "cutmix": ("CutMix", MixingConfig(method="cutmix")),
    "carvemix": ("CarveMix", MixingConfig(method="carvemix")),
    "tumorcp": ("TumorCP", MixingConfig(method="tumorcp")),
    "selfmix": ("SelfMix", MixingConfig(method="selfmix")),
    "populate": (
        "LesionMix, lesions put in only",
        MixingConfig(method="lesionmix", lesionmix=LesionMixConfig(remove=False)),
    ),
    "lesionmix": ("LesionMix", MixingConfig(method="lesionmix")),
    "low": ("LesionMix, low loads", MixingConfig(method="lesionmix", load="low")),
    "high": ("LesionMix, high loads", MixingConfig(method="lesionmix", load="high")),
    "lognormal": (
        "LesionMix, loads of those held out",
        MixingConfig(method="lesionmix", load="lognormal"),
    ),
}
REFERENCE: Arm = "none"
SCORES = {
    "dice": "Dice",
    "lesion_f1": "lesion F1",
    "ppv": "found are true",
    **{f"from {edge:g}": f"found, from {edge:g} mm²" for edge in EDGES[:-1]},
    "load_ks": "KS of loads",
    "healthy": "healthy left clean",
}
"""What is compared: Dice and lesions of brains that have some (components of less than
3 mm^2 do not count), the share that is found by size, the Kolmogorov-Smirnov distance
between predicted and true loads, and the share of healthy brains with no false lesion.
Beside Dice it is counted how many brains have no lesion on a side: missed or false.
"""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which methods, how many brains and seeds, how much training."""

    systems: tuple[Arm, ...] = (
        "none",
        "cutmix",
        "carvemix",
        "tumorcp",
        "selfmix",
        "populate",
        "lesionmix",
        "low",
    )
    """What to compare."""
    train_cases: tuple[int, ...] = (2,)
    """Brains to train on, one run each."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each method per seed."""
    steps: int = 300
    """Updates of each run."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Channels of the network's levels."""
    test_cases: int = 16
    """Brains with lesions that are held out."""
    healthy_cases: int = 8
    """Brains without."""
    workdir: Path = Path("runs/compare-mixing")
    """One folder per run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results as well."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How this process starts."""


BUDGET = ("steps", "widths", "test_cases", "healthy_cases")
"""What a run's folder has to have been made with."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet.

    Args:
      config: what to compare.

    Returns:
      ``budget``, and by number of brains ``runs`` (one row per method and seed),
      ``summary`` (mean and standard deviation of each score) and ``differences`` (of
      each method from none, paired by seed).

    Raises:
      ValueError: there is nothing to run, or a folder holds a run of another budget.
    """
    at_least_one(config, "train_cases", "seeds", "systems")
    rows = {
        count: [
            _finished_run(name, count, seed, config)
            for seed in config.seeds
            for name in config.systems
        ]
        for count in config.train_cases
    }
    preset = segment.PRESETS["tiny"]
    budget = dict(zip(BUDGET, asked_for(config, BUDGET), strict=True)) | {
        "optimizer": dataclasses.asdict(preset.optimizer),
        "trained": dataclasses.asdict(TRAINED),
        "tested": dataclasses.asdict(TESTED),
        **machine(),
    }
    by_count = {str(count): found for count, found in rows.items()}
    return {
        "budget": budget,
        "runs": by_count,
        "summary": {count: summarise(found) for count, found in by_count.items()},
        "differences": {
            count: differences(found, REFERENCE) for count, found in by_count.items()
        },
    }


def _finished_run(
    name: Arm, count: int, seed: int, config: Comparison
) -> dict[str, Any]:
    """The row of one run: from its folder if it is there, else trained.

    Raises:
      ValueError: the folder holds a run of another budget.
    """
    folder = config.workdir / f"{name}-{count}-{seed}"
    budget = asked_for(config, BUDGET)
    known = finished(folder, budget, f"({', '.join(BUDGET)})")
    if known is not None:
        return known["row"]
    began = time.monotonic()
    asked = settings(name, count, seed, config)
    found = open_data(asked, Ledger(log=lambda _: None))
    model = fitted(asked, found)
    row = {"system": name, "seed": seed, **scored(model, config)}
    row["seconds"] = round(time.monotonic() - began)
    keep(folder / "result.json", {"budget": budget, "row": row})
    return row


def settings(name: Arm, count: int, seed: int, config: Comparison) -> Segmentation:
    """The run of a method, number of brains and seed."""
    preset, mixing = segment.PRESETS["tiny"], ARMS[name][1]
    if mixing.load == "lognormal":
        mixing = dataclasses.replace(mixing, log_normal=log_normal(TESTED))
    return dataclasses.replace(
        preset,
        about=f"{ARMS[name][0]}, {count} brains, seed {seed}",
        data=dataclasses.replace(
            preset.data, phantom=TRAINED, train_cases=count, test_cases=1, seed=seed
        ),
        plan=dataclasses.replace(preset.plan, widths=config.widths),
        mixing=mixing,
        train=dataclasses.replace(preset.train, steps=config.steps, seed=seed),
        workdir=config.workdir / f"{name}-{count}-{seed}",
    )


def log_normal(config: LesionConfig) -> tuple[float, float]:
    """The log-normal law with the mean and deviation of the loads of phantoms."""
    mean, sd = load_moments(config)
    variance = math.log(1 + (sd / mean) ** 2)
    return math.log(mean) - variance / 2, math.sqrt(variance)


def scored(model: Segmenter, config: Comparison) -> dict[str, float]:
    """Scores of a network on brains with lesions and without.

    Args:
      model: the network.
      config: how many of each.
    """
    masks = predicted(model, TESTED, config.test_cases)
    dice, counts = [], None
    held = {"predicted": [], "present": []}
    for said, true, spacing in masks:
        total = int(said.sum() + true.sum())
        dice.append(2 * int((said & true).sum()) / total if total else 1.0)
        held["predicted"].append(bool(said.any()))
        held["present"].append(bool(true.any()))
        here = lesion_counts(said, true, spacing)
        counts = here if counts is None else counts + here
    assert counts is not None
    there = {side: np.array(found) for side, found in held.items()}
    overlaps = Cases.of(np.array(dice, float), **there)
    loads = [[float(m.sum() * np.prod(s)) for m in pair] for *pair, s in masks]
    said, true = zip(*loads, strict=True)
    healthy = predicted(model, HEALTHY, config.healthy_cases)
    clean = [_false(lesion_counts(*case)) == 0 for case in healthy]
    found = counts.sensitivity_by_size
    loads_apart: Any = ks_2samp(said, true)
    return {
        "dice": overlaps.mean,
        **overlaps.empty,
        "lesion_f1": counts.f1,
        "ppv": counts.ppv,
        **{f"from {e:g}": float(found[i]) for i, e in enumerate(EDGES[:-1])},
        "load_ks": float(loads_apart.statistic),
        "healthy": float(np.mean(clean)),
    }


def _false(counts: LesionCounts) -> int:
    return int(counts.false.sum())


def predicted(
    model: Segmenter, phantom: LesionConfig, count: int
) -> list[tuple[np.ndarray, np.ndarray, tuple[float, ...]]]:
    """Predicted and true masks of held-out phantoms, the same for every network."""
    data = lesion_phantoms(phantom, seed=0, train=0, validation=0, test=count)
    masks = []
    for case in data.cases:
        images, label = data.read(case)
        assert label is not None
        said = model.segment(images, id=case.id).labels.data == 1
        masks.append((said, label.data == 1, images[0].spacing))
    return masks


def table(results: Mapping[str, Any]) -> str:
    """Scores and differences in Markdown, by number of training brains."""
    parts = []
    for count, summary in results["summary"].items():
        parts.append(compared(f"{count} brains", ARMS, summary, SCORES, cell))
        about = f"{count} brains, those held out by their lesions"
        parts += emptiness(about, ARMS, summary, {"": ""})
        if against := results["differences"][count]:
            about = f"{count} brains, minus {ARMS[REFERENCE][0]}"
            parts.append(compared(about, ARMS, against, SCORES, interval))
    return "\n\n".join(parts)


def main() -> int:
    """Compares, prints the table, keeps the numbers."""
    return command("compare_mixing", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
