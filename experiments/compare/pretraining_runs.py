"""Runs of pre-training that are compared: their data, report towers and numbers."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from medjax.train.compiling import once
from medjax.train.log import read_metrics
from medjax.train.mesh import make_mesh
from medjax.train.sharding import load_into, replicated
from medjax.train.state import run_keys
from medjax.typing import Variables
from medjax.vlp.corpus import Corpus, CorpusConfig, open_corpus
from medjax.vlp.evaluate import evaluate
from medjax.vlp.pretraining import TINY, Build, Pretraining, source_row
from medjax.vlp.report_tower import train_language_model
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.tokens import SPECIAL
from medjax.vlp.towers import load_towers


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


def perplexities(
    config: Asked, corpus: Corpus, seeds: Iterable[int]
) -> dict[str, float | list[float]]:
    """What the report towers have learned: ``trained`` per seed, ``by_frequency``.

    By frequency every piece of the validation reports is guessed from how often it
    stands in the training reports, each counted once more than it was seen. Towers of
    an earlier version, whose log does not tell it, are left out.

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
            row["eval/perplexity"]
            for log in logs
            for row in log
            if "eval/perplexity" in row
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
    init = jax.jit(system.init, compiler_options=once(jax.default_backend()))
    variables = init(run_keys(config.train.seed)[0], batch)
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
