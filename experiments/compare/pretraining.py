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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np

from experiments import convirt, gloria, imitate, mflag, mgca
from experiments.bench.tables import markdown
from experiments.compare.publishing import (
    cell,
    command,
    compared,
    differences,
    finished,
    interval,
    keep,
    machine,
    spread,
    summarise,
)
from medjax.metrics.statistics import paired_bootstrap
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.log import read_metrics
from medjax.train.mesh import make_mesh
from medjax.train.sharding import load_into, replicated
from medjax.train.state import run_keys
from medjax.typing import Variables
from medjax.vlp.corpus import Corpus, CorpusConfig, open_corpus
from medjax.vlp.evaluate import evaluate
from medjax.vlp.pretraining import TINY, Build, Pretraining, run, source_row
from medjax.vlp.report_tower import train_language_model
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.tokens import SPECIAL
from medjax.vlp.towers import load_towers

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


class Asked(Protocol):
    """What comparisons of pre-training are asked alike."""

    @property
    def steps(self) -> int:
        """Updates of each system."""
        ...

    @property
    def language_steps(self) -> int:
        """Updates of the report tower, once per seed."""
        ...

    @property
    def patients(self) -> int:
        """Invented patients."""
        ...

    @property
    def workdir(self) -> Path:
        """One folder per run in it."""
        ...


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
    """
    data, corpus = embedded(config)
    pairs: list[Arm] = [arm for pair in NAMED.values() for arm in pair]
    asked: set[tuple[Arm, int]] = {
        *itertools.product(config.systems, config.seeds),
        *itertools.product(pairs, config.named_seeds),
        *itertools.product(config.controls, config.seeds[:1]),
    }
    seeds = sorted({seed for _, seed in asked})
    runs: list[tuple[Arm, int]] = [
        run for run in itertools.product(ARMS, seeds) if run in asked
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
        difference = paired_bootstrap(*values, seed=0)
        verdict = difference.verdict(margin=margin, lower_is_better=False)
        entry = {"difference": name, "margin": margin, "verdict": verdict}
        found.append(entry | dataclasses.asdict(difference))
    return found


def perplexities(
    config: Asked, corpus: Corpus, seeds: Iterable[int]
) -> dict[str, float | list[float]]:
    """What the report towers have learned: ``trained`` per seed, ``by_frequency``.

    By frequency every piece of the validation reports is guessed from how often it
    stands in the training reports, each counted once more than it was seen.

    Args:
      config: Of the comparison.
      corpus: The reports.
      seeds: Of the towers.
    """
    counts, asked = (
        np.bincount(ids[ids >= len(SPECIAL)], minlength=corpus.tokenizer.vocab_size)
        for ids in (
            np.concatenate(corpus.column(split, "report"), axis=None)
            for split in ("train", "valid")
        )
    )
    seen = (counts + 1)[len(SPECIAL) :]
    nats = -np.log(seen / seen.sum()) @ asked[len(SPECIAL) :] / asked.sum()
    logs = [read_metrics(config.workdir / f"language-{seed}") for seed in seeds]
    return {
        "trained": [
            [row["eval/perplexity"] for row in log if "eval/perplexity" in row][-1]
            for log in logs
        ],
        "by_frequency": float(np.exp(nats)),
    }


def embedded(config: Asked) -> tuple[CorpusConfig, Corpus]:
    """The embedded data that every system of a comparison is trained on."""
    data = dataclasses.replace(TINY.data, patients=config.patients)
    folder = config.workdir / "data"
    length = TINY.text.max_length
    return data, open_corpus(data, folder, tokenizer=None, max_tokens=length)


def asked_of(
    preset: Pretraining,
    seed: int,
    config: Asked,
    data: CorpusConfig,
    corpus: Corpus,
    *,
    about: str,
    folder: Path,
    times: int = 1,
) -> Pretraining:
    """The run of a system, with the report tower of its seed, which is trained here.

    Args:
      preset: of the system.
      seed: of everything that is drawn.
      config: of the comparison.
      data: of `embedded`.
      corpus: of `embedded`.
      about: the run's title.
      folder: of the run.
      times: how often the steps of the comparison.
    """
    tower = train_language_model(
        corpus,
        TINY.text,
        dataclasses.replace(TINY.language, steps=config.language_steps),
        workdir=config.workdir / f"language-{seed}",
        mesh=make_mesh(),
        seed=seed,
    )
    return dataclasses.replace(
        preset,
        about=about,
        text=dataclasses.replace(preset.text, checkpoint=str(tower)),
        data=dataclasses.replace(data, root=corpus.folder, seed=seed),
        train=dataclasses.replace(preset.train, steps=times * config.steps, seed=seed),
        evaluation=dataclasses.replace(preset.evaluation, seed=seed),
        workdir=folder,
    )


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


def untrained(config: Pretraining, build: Build) -> dict[str, Any]:
    """Evaluates a system as it is initialised, with its report tower loaded.

    Args:
      config: the run whose training is left out.
      build: makes the system.

    Returns:
      The evaluation.
    """
    system, variables, corpus = initial(config, build)
    mesh = make_mesh(config.mesh)
    results, _ = evaluate(
        system,
        jax.device_put(variables, replicated(mesh)),
        corpus,
        mesh=mesh,
        max_length=config.text.max_length,
        config=config.evaluation,
    )
    return results


def initial(
    config: Pretraining, build: Build
) -> tuple[PretrainingSystem, Variables, Corpus]:
    """A system, its variables before the first step, and its data."""
    corpus = open_corpus(
        config.data,
        config.workdir,
        tokenizer=config.text.checkpoint,
        max_tokens=config.text.max_length,
    )
    system = build(config.system, config.image, config.text, config.loss)
    row = source_row(corpus.source("train", ("image", *system.tokens)))
    batch = {name: np.stack([value, value]) for name, value in row.items()}
    variables = jax.jit(system.init)(run_keys(config.train.seed)[0], batch)
    towers = load_towers(variables, config.image, config.text)
    return system, load_into(variables, towers), corpus


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation that are compared."""
    numbers = {
        f"probe {100 * probe['fraction']:g} %": probe["macro_auc"]
        for probe in results["linear_probe"]
    }
    numbers["zero-shot"] = results["zero_shot"]["macro_auc"]
    for direction in ("image_to_text", "text_to_image"):
        name = f"R@10 {direction.replace('_', ' ')}"
        numbers[name] = results["retrieval"][direction]["R@10"]
    return numbers


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
