"""Does it learn? Five systems and random weights, side by side.

``python -m experiments.compare.pretraining`` trains every system with every seed on the
embedded data (equal steps, batch, films, towers and learning rate: the ``tiny``
presets), probes the held-out patients, and prints mean and standard deviation over the
seeds. A seed is that of the weights, of all randomness in training and of the labels
that a probe gets; the data are the same throughout. The report tower is trained once
per seed and all systems of that seed start from it.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished. ``--publish`` also writes
``experiments/results/compare_pretraining.json`` and the tables of the pages beside it.
"""

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np

from experiments import convirt, gloria, imitate, mflag, mgca
from experiments.compare.publishing import (
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
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.mesh import make_mesh
from medjax.train.sharding import load_into, replicated
from medjax.train.state import run_keys
from medjax.typing import Variables
from medjax.vlp.corpus import Corpus, CorpusConfig, open_corpus
from medjax.vlp.evaluate import evaluate
from medjax.vlp.pretraining import TINY, Build, Pretraining, run, source_row
from medjax.vlp.report_tower import train_language_model
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.towers import load_towers

Arm = Literal[
    "imitate",
    "mflag",
    "convirt",
    "gloria",
    "mgca",
    "random",
    "convirt_frozen",
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
    "imitate_hard": (
        "IMITATE, one-hot targets",
        change(IMITATE, system=change(IMITATE.system, smoothing="none")),
        imitate.imitate,
    ),
}


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
    controls: tuple[Arm, ...] = ("convirt_frozen", "imitate_hard")
    """Run with the first seed alone: one thing changed, to see what it is worth."""
    steps: int = 200
    """Updates of each system."""
    language_steps: int = 300
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
      system, mean and standard deviation of each number) and ``differences`` (of each
      system from random weights, paired by seed).
    """
    data, corpus = embedded(config)
    rows = [
        _finished_run(name, seed, config, data, corpus)
        for seed in config.seeds
        for name in config.systems
    ]
    rows += [
        _finished_run(name, config.seeds[0], config, data, corpus)
        for name in config.controls
    ]
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
        train=dataclasses.replace(preset.train, steps=config.steps, seed=seed),
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
    asked = asked_of(preset, seed, config, data, corpus, about=about, folder=folder)
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
    return "\n\n".join(parts)


def main() -> int:
    """Compares, prints the table, keeps the numbers."""
    return command("compare_pretraining", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
