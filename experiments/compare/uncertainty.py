"""Which segmenter knows what it does not know? Eleven of them, side by side.

``python -m experiments.compare.uncertainty`` trains every method with every seed on
embedded phantoms whose annotators disagree by a known law: the same network, patches,
updates and learning rate. All are scored by the same function of their answers, against
annotators that training did not have and against the truth, and have to tell phantoms
of five shifts from familiar ones. Test-time augmentation asks the plain network of the
same seed. A seed is that of the weights, the training phantoms and all randomness in
training; the held-out phantoms are the same throughout.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished. ``--publish`` also writes
``experiments/results/compare_uncertainty.json``.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from experiments.bench.tables import markdown
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
from experiments.hierarchical import TINY
from medjax.data.ledger import Ledger
from medjax.metrics.cases import EMPTY
from medjax.segmentation.phantoms.ambiguous import AmbiguousConfig
from medjax.segmentation.pretrained import Segmenter, open_run
from medjax.segmentation.training import opened
from medjax.segmentation.uncertain import (
    METHODS,
    Uncertainty,
    evaluated,
    run,
    system_of,
)
from medjax.train.launch import LaunchConfig, cpu_devices

Peer = Literal[
    "deterministic", "tta", "dropout", "ensemble", "probunet", "phiseg", "ssn"
]
Tie = Literal["none", "standard", "learned_prior", "noise_floor"]
Arm = Literal[Peer, Tie, "one_draw"]
change = dataclasses.replace
PEERS: tuple[Peer, ...] = get_args(Peer)
TIES: Mapping[Tie, str] = {
    "none": "tied to nothing",
    "standard": "tied to standard normals",
    "learned_prior": "tied to a learned prior",
    "noise_floor": "variances tied to a floor",
}
_OF_PEERS: Mapping[Arm, tuple[str, Uncertainty]] = {
    name: (METHODS[name], change(TINY, method=name)) for name in PEERS
}
ARMS: Mapping[Arm, tuple[str, Uncertainty]] = {
    **_OF_PEERS,
    "one_draw": (
        "hierarchical, one draw of an update",
        change(TINY, system=change(TINY.system, draws=1, together=0.0)),
    ),
    **{
        kl: (f"hierarchical, {about}", change(TINY, system=change(TINY.system, kl=kl)))
        for kl, about in TIES.items()
    },
}
REFERENCE: Arm = "noise_floor"
SCORES = {
    "dice": "Dice",
    "excess_nll": "NLL above floor",
    "excess_brier": "Brier above floor",
    "roi_ece": "ROI-ECE",
    "ueo": "UEO",
    "ged_squared": "GED²",
    "ncc": "NCC",
    "area_sd_ratio": "SD of area / annotators'",
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which methods, how many seeds, how much training."""

    systems: tuple[Arm, ...] = (
        *PEERS,
        "one_draw",
        "none",
        "standard",
        "noise_floor",
    )
    """What to compare."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each method per seed."""
    steps: int = 150
    """Updates of each network."""
    size: int = 32
    """Rows and columns of the phantoms."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Channels of the network's levels."""
    batch_size: int = 8
    """Patches of an update."""
    train_images: int = 48
    """Phantoms to train on, four annotators each."""
    test_images: int = 12
    """Phantoms held out, sixteen annotators each."""
    strengths: tuple[int, ...] = (2,)
    """Of the shifts."""
    samples: int = 8
    """Answers to every image."""
    workdir: Path = Path("runs/compare-uncertainty")
    """One folder per run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results as well."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How this process starts."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet.

    Args:
      config: what to compare.

    Returns:
      ``budget``, ``floors``, ``runs`` (one row per method and seed), ``summary`` (mean
      and standard deviation of each number) and ``differences`` (of each method from
      hierarchical uncertainty, paired by seed).

    Raises:
      ValueError: there is nothing to run, a folder holds a run of another budget, or
        test-time augmentation lacks the network that it asks.
    """
    at_least_one(config, "seeds", "systems")
    if "tta" in config.systems and "deterministic" not in config.systems:
        raise ValueError("systems: tta asks the network of deterministic, which is not")
    order = sorted(config.systems, key=lambda name: name == "tta")
    done = [
        _finished_run(name, seed, config) for seed in config.seeds for name in order
    ]
    rows = [one["row"] for one in done]
    rows.sort(key=lambda row: (row["seed"], config.systems.index(row["system"])))
    budget = dict(zip(BUDGET, asked_for(config, BUDGET), strict=True)) | {
        "optimizer": dataclasses.asdict(TINY.optimizer),
        "members": TINY.members,
        **machine(),
    }
    return {
        "budget": budget,
        "floors": done[0]["floors"],
        "runs": rows,
        "summary": summarise(rows),
        "differences": differences(rows, REFERENCE),
    }


BUDGET = (
    "steps",
    "size",
    "widths",
    "batch_size",
    "train_images",
    "test_images",
    "strengths",
    "samples",
)
"""What a run's folder has to have been made with."""


def _finished_run(name: Arm, seed: int, config: Comparison) -> dict[str, Any]:
    """What a method and seed came to: from its folder if it is there, else trained.

    Raises:
      ValueError: the folder holds a run of another budget.
    """
    folder = config.workdir / f"{name}-{seed}"
    budget = asked_for(config, BUDGET)
    known = finished(folder, budget, f"({', '.join(BUDGET)})")
    if known is not None:
        return known
    asked = settings(name, seed, config)
    began = time.monotonic()
    results = views(asked, config, seed) if name == "tta" else run(asked)
    row = {"system": name, "seed": seed, **headline(results)}
    row["seconds"] = round(time.monotonic() - began)
    result = {"budget": budget, "row": row, "floors": results["floors"]}
    keep(folder / "result.json", result)
    return result


def settings(name: Arm, seed: int, config: Comparison) -> Uncertainty:
    """The run of a method and seed.

    Args:
      name: the method.
      seed: of weights and training phantoms.
      config: the common budget.
    """
    preset = ARMS[name][1]
    size = config.size
    return change(
        preset,
        about=f"{ARMS[name][0]}, seed {seed}",
        data=change(
            preset.data,
            seed=seed,
            ambiguous=AmbiguousConfig(size=size),
            train_cases=config.train_images,
            test_cases=config.test_images,
        ),
        plan=change(
            preset.plan,
            patch=(size, size),
            widths=config.widths,
            batch_size=config.batch_size,
        ),
        samples=config.samples,
        train=change(preset.train, steps=config.steps, seed=seed),
        evaluation=change(preset.evaluation, strengths=config.strengths),
        workdir=config.workdir / f"{name}-{seed}",
    )


def views(asked: Uncertainty, config: Comparison, seed: int) -> dict[str, Any]:
    """Test-time augmentation of the plain network of the same seed: nothing trains.

    Args:
      asked: its run.
      config: the comparison.
      seed: of the network.
    """
    ledger = Ledger()
    found, held_out = opened(asked, ledger)
    plain = open_run(config.workdir / f"deterministic-{seed}")
    record = change(plain.record, system=system_of(asked, found))
    model = Segmenter(record, plain.step, record.build(), plain.variables)
    results, _ = evaluated(asked, model, found, held_out, ledger)
    return results


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation that are compared.

    Shifts are told by mutual information, of one answer by entropy; the mean of the
    areas under the curve over all strengths.
    """
    numbers = {name: results["scores"][name]["mean"] for name in SCORES}
    numbers |= {name: results["scores"]["dice"][name] for name in EMPTY}
    rows = results["unfamiliar"]
    best = "mi" if "auroc_mi" in rows[0] else "entropy"
    for shift in dict.fromkeys(row["shift"] for row in rows):
        of_shift = [row for row in rows if row["shift"] == shift]
        numbers[f"auroc {shift}"] = _mean(of_shift, f"auroc_{best}")
    numbers["auroc"] = _mean(rows, f"auroc_{best}")
    numbers["auroc entropy"] = _mean(rows, "auroc_entropy")
    for name in rows[0]:
        if name.startswith("growth_level"):
            level = name.removeprefix("growth_")
            for shift in ("noise", "anatomy"):
                of_shift = [row for row in rows if row["shift"] == shift]
                numbers[f"{level} {shift}"] = _mean(of_shift, name)
    numbers["ms per answer"] = results["ms_per_draw"]
    return numbers


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def table(results: Mapping[str, Any]) -> str:
    """Scores, shifts and differences in Markdown."""
    summary, floors = results["summary"], results["floors"]
    head = ["method", *SCORES.values(), "ms per answer"]
    bound = {"excess_nll": 0.0, "excess_brier": 0.0, **floors}
    rows = [
        [
            ARMS[e["system"]][0],
            *(cell(e[name], places=4) for name in SCORES),
            cell(e["ms per answer"], places=1),
        ]
        for e in summary
    ]
    told = [f"{bound[name]:.4f}" if name in bound else "" for name in SCORES]
    rows.append(["*truth, other annotators*", *told, ""])
    shifts = [name for name in summary[0] if name.startswith("auroc ")]
    names = {name: name.removeprefix("auroc ") for name in ("auroc", *shifts)}
    names |= {"auroc": "all", "auroc entropy": "all, by entropy"}
    parts = [
        markdown(head, rows),
        *emptiness("objects of held-out images", ARMS, summary, {"": ""}),
        compared("AUROC of unfamiliar images", ARMS, summary, names, cell),
    ]
    if levels := level_rows(summary):
        parts.append(markdown(["growth of a level's map", "noise", "anatomy"], levels))
    if results["differences"]:
        tell = functools.partial(interval, places=4)
        about = f"minus {ARMS[REFERENCE][0]}"
        parts.append(compared(about, ARMS, results["differences"], SCORES, tell))
    return "\n\n".join(parts)


def level_rows(summary: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """How much each level's map grows where images are noisy, or of other anatomy."""
    rows = []
    for entry in summary:
        levels = sorted({n.split()[0] for n in entry if n.startswith("level")})
        rows += [
            [
                f"{ARMS[entry['system']][0]}, {level}",
                *(cell(entry[f"{level} {shift}"]) for shift in ("noise", "anatomy")),
            ]
            for level in levels
        ]
    return rows


def main() -> int:
    """Compares, prints the table, keeps the numbers."""
    return command("compare_uncertainty", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
