"""Does it learn? Five systems and random weights, side by side.

``python -m experiments.compare.pretraining`` trains every system with every seed on the
embedded data (equal steps, batch, films, towers and learning rate: the ``tiny``
presets), probes the held-out patients, and prints mean and standard deviation over the
seeds. A seed is that of the weights, of all randomness in training and of the labels
that a probe gets; the data are the same throughout. The report tower is trained once
per seed and all systems of that seed start from it; what it has learned is told by its
perplexity on reports that it has not read, beside that of guessing pieces by frequency.

Two differences are named beforehand and have more seeds: IMITATE with and without soft
targets (its own ablation), and IMITATE against ConVIRT that has encoded as many films,
by twice the steps. Their endpoint is the macro AUC of the linear probe with all labels,
paired by seed, with a margin below which a difference does not matter; the verdict is
*better*, *worse*, *equivalent* or *undecided*.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished. ``--publish`` also writes
``experiments/results/compare_pretraining.json`` and the tables of the pages beside it.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import convirt, gloria, imitate, mflag, mgca
from experiments.bench.tables import markdown
from experiments.compare.pretraining_runs import (
    asked_of,
    embedded,
    headline,
    perplexities,
    untrained,
)
from experiments.compare.publishing import (
    cell,
    command,
    compared,
    differences,
    finished,
    interval,
    judged,
    keep,
    machine,
    spread,
    summarise,
)
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.vlp.corpus import Corpus, CorpusConfig
from medjax.vlp.pretraining import TINY, Build, Pretraining, run

Arm = Literal[
    "imitate",
    "mflag",
    "convirt",
    "gloria",
    "mgca",
    "random",
    "convirt_frozen",
    "convirt_twice",
    "imitate_hard",
]
IMITATE, MFLAG, CONVIRT = (e.PRESETS["tiny"] for e in (imitate, mflag, convirt))
change = dataclasses.replace
ARMS: Mapping[Arm, tuple[str, Pretraining, Build]] = {
    "imitate": ("IMITATE", IMITATE, imitate.imitate),
    "mflag": ("M-FLAG", MFLAG, mflag.mflag),
    "convirt": ("ConVIRT", CONVIRT, convirt.convirt),
    "gloria": ("GLoRIA", gloria.PRESETS["tiny"], gloria.gloria),
    "mgca": ("MGCA", mgca.PRESETS["tiny"], mgca.mgca),
    # Same networks as IMITATE, no step taken; its report tower is the language model's.
    "random": ("random initialisation", IMITATE, imitate.imitate),
    "convirt_frozen": (
        "ConVIRT, report tower frozen",
        change(CONVIRT, optimizer=change(CONVIRT.optimizer, frozen=("^text/",))),
        convirt.convirt,
    ),
    # IMITATE encodes two films of a study.
    "convirt_twice": ("ConVIRT, twice the steps", CONVIRT, convirt.convirt),
    "imitate_hard": (
        "IMITATE, one-hot targets",
        change(IMITATE, system=change(IMITATE.system, smoothing="none")),
        imitate.imitate,
    ),
}
TIMES: Mapping[Arm, int] = {"convirt_twice": 2}
"""How often the steps of the others."""
NAMED: Mapping[str, tuple[Arm, Arm]] = {
    "IMITATE, soft minus one-hot targets": ("imitate", "imitate_hard"),
    "IMITATE minus ConVIRT, as many films encoded": ("imitate", "convirt_twice"),
}
"""What is decided: which arm minus which."""
ENDPOINT = "probe 100 %"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which systems, how many seeds, how much training."""

    systems: tuple[Arm, ...] = (
        "imitate",
        "mflag",
        "convirt",
        "gloria",
        "mgca",
        "random",
    )
    """What to compare."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each system per seed."""
    named_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """The same of the systems whose differences are named beforehand."""
    margin: float = 0.01
    """AUC: a named difference below this does not matter."""
    controls: tuple[Arm, ...] = ("convirt_frozen",)
    """Run with the first seed alone: one thing changed, to see what it is worth."""
    steps: int = 200
    """Updates of each system."""
    language_steps: int = 800
    """Updates of the report tower, once per seed."""
    patients: int = 6000
    """Invented patients; one in ten validates, two in ten are held out."""
    workdir: Path = Path("runs/compare-pretraining")
    """One folder per run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results and the tables of their pages as well."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How this process starts."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet.

    Args:
      config: what to compare.

    Returns:
      ``budget``, ``runs`` (one row per system and seed), ``summary`` (one row per
      system, mean and standard deviation of each number), ``differences`` (of each
      system from random weights, paired by seed), ``named`` (of `decided`) and
      ``report_towers`` (of `perplexities`).

    Raises:
      ValueError: There is nothing to run, or a folder holds a run of another budget.
    """
    pairs: list[Arm] = [arm for pair in NAMED.values() for arm in pair]
    asked: set[tuple[Arm, int]] = {
        *itertools.product(config.systems, config.seeds),
        *itertools.product(pairs, config.named_seeds),
        *itertools.product(config.controls, config.seeds[:1]),
    }
    if not asked:
        raise ValueError(
            "named_seeds is empty, and so is what seeds, systems and controls ask for"
        )
    data, corpus = embedded(config)
    seeds = sorted({seed for _, seed in asked})
    runs: list[tuple[Arm, int]] = [
        (name, seed)
        for seed, name in itertools.product(seeds, ARMS)
        if (name, seed) in asked
    ]
    rows = [_finished_run(name, seed, config, data, corpus) for name, seed in runs]
    budget = {
        "steps": config.steps,
        "batch_size": data.batch_size,
        "report_tower_steps": config.language_steps,
        "patients": config.patients,
        "studies": dict(corpus.metadata["splits"]),
        "image_size": data.image_size,
        "optimizer": dataclasses.asdict(TINY.optimizer),
        "image_tower": TINY.image.architecture,
        **machine(),
    }
    return {
        "budget": budget,
        "runs": rows,
        "summary": summarise(rows),
        "differences": differences(rows, "random"),
        "named": decided(rows, margin=config.margin),
        "report_towers": perplexities(config, corpus, seeds),
    }


def decided(
    rows: Sequence[Mapping[str, Any]], *, margin: float
) -> list[dict[str, Any]]:
    """The named differences of `ENDPOINT`, with their intervals and verdicts.

    Args:
      rows: One per run.
      margin: Of equivalence.
    """
    runs = {(row["system"], row["seed"]): row[ENDPOINT] for row in rows}
    found = []
    for name, (first, second) in NAMED.items():
        seeds = [seed for arm, seed in runs if arm == first and (second, seed) in runs]
        if len(seeds) < 2:
            continue
        pair = [[runs[arm, seed]] for arm in (first, second) for seed in seeds]
        values = np.asarray(pair).reshape(2, len(seeds), 1)
        verdict = judged(*values, margin=margin, lower_is_better=False)
        found.append({"difference": name, "margin": margin, **verdict})
    return found


def _finished_run(
    name: Arm, seed: int, config: Comparison, data: CorpusConfig, corpus: Corpus
) -> dict[str, Any]:
    """The row of one system and seed: from its folder if it is there, else trained.

    Raises:
      ValueError: the folder holds a run of another budget.
    """
    _, preset, build = ARMS[name]
    folder = config.workdir / f"{name}-{seed}"
    budget = [config.steps, config.language_steps, config.patients]
    known = finished(folder, budget, "(steps, language_steps, patients)")
    if known is not None:
        return known["row"]
    about = f"{preset.about}, seed {seed}"
    times = TIMES.get(name, 1)
    asked = asked_of(
        preset, seed, config, data, corpus, about=about, folder=folder, times=times
    )
    began = time.monotonic()
    results = (untrained if name == "random" else run)(asked, build)
    row = {"system": name, "seed": seed, **headline(results)}
    row["seconds"] = round(time.monotonic() - began)
    keep(folder / "result.json", {"budget": budget, "row": row})
    return row


def table(results: Mapping[str, Any]) -> str:
    """The summary in Markdown, and what training is worth."""
    summary, against = results["summary"], results["differences"]
    names = {name: name for name in summary[0] if name not in ("system", "seeds")}
    parts = [compared("system", ARMS, summary, names, cell)]
    if against:
        parts.append(compared("minus random weights", ARMS, against, names, interval))
    if named := results["named"]:
        head = ["named beforehand", f"{ENDPOINT}, 95 %", "seeds", "verdict (margin)"]
        parts.append(
            markdown(
                head,
                [
                    [
                        entry["difference"],
                        interval(entry),
                        f"{entry['seeds']}",
                        f"{entry['verdict']} ({entry['margin']:g})",
                    ]
                    for entry in named
                ],
            )
        )
    if towers := results["report_towers"]:
        learned = cell(spread(towers["trained"]), places=2)
        parts.append(
            "Perplexity of the report towers on reports they have not read: "
            f"{learned}; by the pieces' frequency: {towers['by_frequency']:.1f}."
        )
    return "\n\n".join(parts)


def main() -> int:
    """Compares, prints the table, keeps the numbers."""
    return command("compare_pretraining", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
