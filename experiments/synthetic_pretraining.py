"""Pre-training on synthetic radiographs made from real reports, beside real ones.

The question of Liu, Shah, Bai and Arcucci (arXiv 2310.07027): does a vision-language
system that never saw a real film, but one generated from each report, do as well as one
that saw the real films? ``python -m experiments.synthetic_pretraining`` asks it on
embedded data: films that are drawn from reports are "real", a latent diffusion model
that was trained on them makes the synthetic ones.

All arms have the same reports, splits, steps, batches, initial weights and random
sentences; only the films of the training split differ. All probes are on real films.

==============  ================================================================
``real``        the films that there are
``synthetic``   one generated film of each report
``several``     ``--copies`` generated films of each report, one drawn per epoch
``mixed``       the real film or the generated one, drawn per epoch
``shuffled``    generated films of other patients' reports: nothing can be learnt
``null``        films of noise
``curated``     as ``synthetic``, of the films that the filters keep
==============  ================================================================

Probes, zero-shot and retrieval come with every run; ``--places mask boxes`` adds masks
and boxes of lesions, each a fine-tuning of every run, and ``--tasks`` leaves out of the
tables what is not asked for.

With no flag it is small and its numbers mean little: minutes of a CPU, one system
and one seed, no masks and no boxes. A table takes hours::

    python -m experiments.synthetic_pretraining --patients 3000 \\
        --autoencoder-steps 600 --generator-steps 3000 --steps 200 \\
        --language-steps 800 --held-out 500 --witness-steps 800 \\
        --systems convirt gloria mgca imitate mflag --seeds 0 1 2 --publish \\
        --arms real synthetic several mixed shuffled null curated random \\
        --places mask boxes --place-steps 60 --launch.cpu-devices 1

Every stage is kept in ``--workdir``, and the same command goes on. ``--generator`` is a
run of ``experiments.generator`` (its films have to be of other patients) or
``diffusion:FOLDER``; without it one is trained here, on the training split.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import convirt, generator, gloria, imitate, mflag, mgca
from experiments.compare.pretraining_runs import (
    asked_of,
    embedded,
    headline,
    perplexities,
    untrained,
)
from experiments.compare.publishing import (
    command,
    differences,
    finished,
    keep,
    machine,
    summarise,
)
from experiments.synthetic_films import Made, judge, real_films
from experiments.synthetic_places import Place, leave_untrained, place_scores
from experiments.synthetic_tables import ARMS, answer, table
from experiments.synthetic_tables import SYSTEMS as NAMES
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.vlp.corpus import Corpus, CorpusConfig
from medjax.vlp.diffusion.run import run as train_generator
from medjax.vlp.diffusion.schedule import SamplingConfig
from medjax.vlp.pretrained import Pretrained, open_pair
from medjax.vlp.pretraining import Build, Pretraining, run
from medjax.vlp.rendering import generator as find_generator
from medjax.vlp.synthetic.films import OtherFilms

Arm = Literal[
    "real", "synthetic", "several", "mixed", "shuffled", "null", "curated", "random"
]
System = Literal["convirt", "gloria", "mgca", "imitate", "mflag"]
Task = Literal["probe", "zero-shot", "retrieval"]
COLUMNS: Mapping[Task, str] = {
    "probe": "probe",
    "zero-shot": "zero-shot",
    "retrieval": "R@",
}
"""How the columns of a task begin."""
SYSTEMS: Mapping[System, tuple[Pretraining, Build]] = {
    "convirt": (convirt.PRESETS["tiny"], convirt.convirt),
    "gloria": (gloria.PRESETS["tiny"], gloria.gloria),
    "mgca": (mgca.PRESETS["tiny"], mgca.mgca),
    "imitate": (imitate.PRESETS["tiny"], imitate.imitate),
    "mflag": (mflag.PRESETS["tiny"], mflag.mflag),
}
BATCH = 16
"""Films of an update of the generator's autoencoder, at least."""
WITNESS = 1000
"""Seed of the model whose features judge the films: no arm has it."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which arms, systems and seeds, and how much of everything."""

    arms: tuple[Arm, ...] = ("real", "synthetic", "mixed", "shuffled", "random")
    """What to train on."""
    systems: tuple[System, ...] = ("convirt",)
    """What to train."""
    seeds: tuple[int, ...] = (0,)
    """One run of each arm and system per seed."""
    steps: int = 40
    """Updates of each system."""
    language_steps: int = 60
    """Updates of the report tower, once per seed, and of the generator's."""
    witness_steps: int = 80
    """Updates of the model whose features judge the films."""
    patients: int = 400
    """Invented patients; one in ten validates, two in ten are held out."""
    generator: str | None = None
    """run:PATH or diffusion:FOLDER; None: trained here."""
    preset: Literal["tiny", "small"] = "tiny"
    """Of the generator that is trained here."""
    generator_steps: int = 150
    """Updates of it."""
    autoencoder_steps: int | None = None
    """Updates of its autoencoder; None: as many as the preset has."""
    copies: int = 2
    """Synthetic films of each report in the arm ``several``."""
    sampling: SamplingConfig = SamplingConfig(steps=10, guidance=2.0)
    """How they are drawn from noise."""
    render_seed: int = 0
    """Of the noise."""
    tasks: tuple[Task, ...] = ("probe", "zero-shot", "retrieval")
    """What of the evaluation that every run ends with goes into the tables."""
    places: tuple[Place, ...] = ()
    """Where lesions are, learnt on each run's tower as well: masks, boxes."""
    place_steps: int = 60
    """Updates of each of those."""
    held_out: int = 100
    """Held-out reports that films are made of, to be judged."""
    workdir: Path = Path("runs/synthetic-pretraining")
    """One folder per stage and run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results and the tables of their pages as well."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How this process starts."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet.

    Args:
      config: what to compare.

    Returns:
      ``budget``, ``films`` (what was asked of them), ``runs``, ``summary``, of each arm
      its ``differences`` from real films, ``answer``.
    """
    data, corpus = embedded(config)
    name = config.generator or trained_generator(config, corpus)
    size = corpus.metadata["image_size"]
    made = Made(
        corpus,
        find_generator(name, size=size, sampling=config.sampling),
        seed=config.render_seed,
        folder=config.workdir / "films",
    )
    judged = judgement(config, corpus, data, made)
    rows = [
        _finished_run(arm, system, seed, config, data, corpus, made, judged)
        for seed in config.seeds
        for system in config.systems
        for arm in config.arms
    ]
    budget = {
        "steps": config.steps,
        "batch_size": data.batch_size,
        "report_tower_steps": config.language_steps,
        "report_tower_perplexity": perplexities(config, corpus, config.seeds),
        "witness_steps": config.witness_steps,
        "patients": config.patients,
        "studies": dict(corpus.metadata["splits"]),
        "image_size": data.image_size,
        "generator_steps": config.generator_steps,
        "autoencoder_steps": config.autoencoder_steps,
        "generator": made.described,
        "copies": config.copies,
        "place_steps": config.place_steps if config.places else None,
        **machine(),
    }
    results = {
        "budget": budget,
        "films": judged["films"],
        "runs": rows,
        "summary": summarise(rows),
        "differences": [
            entry
            for system in config.systems
            for entry in differences(
                [row for row in rows if row["system"].startswith(f"{system}/")],
                f"{system}/real",
            )
        ],
    }
    results["answer"] = answer(results)
    return results


def trained_generator(config: Comparison, corpus: Corpus) -> str:
    """A generator of the training films, trained here or found trained."""
    preset = generator.PRESETS[config.preset]
    folder = config.workdir / "generator"
    batch = max(preset.autoencoder.batch_size, BATCH)
    first = dataclasses.replace(preset.autoencoder, batch_size=batch)
    if config.autoencoder_steps is not None:
        first = dataclasses.replace(first, steps=config.autoencoder_steps)
    budget = [config.preset, config.generator_steps, first.steps]
    budget += [config.language_steps, config.patients]
    what = "(preset, generator_steps, autoencoder_steps, language_steps, patients)"
    if finished(folder, budget, what) is not None:
        return f"run:{folder}"
    train_generator(
        dataclasses.replace(
            preset,
            autoencoder=first,
            data=dataclasses.replace(preset.data, root=corpus.folder),
            language=dataclasses.replace(preset.language, steps=config.language_steps),
            train=dataclasses.replace(preset.train, steps=config.generator_steps),
            workdir=folder,
        )
    )
    keep(folder / "result.json", {"budget": budget})
    return f"run:{folder}"


def judgement(
    config: Comparison, corpus: Corpus, data: CorpusConfig, made: Made
) -> dict[str, Any]:
    """What `judge` says of the films; it is asked once, and kept.

    Returns:
      ``films``, the numbers; ``kept``, the training rows whose films curation keeps.
    """
    folder = config.workdir / "judged"
    budget = [config.witness_steps, config.language_steps, config.patients]
    budget += [config.held_out, made.described, config.render_seed]
    what = "(witness_steps, language_steps, patients, held_out, generator, render_seed)"
    if known := finished(folder, budget, what):
        return known
    witness = trained_witness(config, corpus, data)

    def features(films: np.ndarray) -> np.ndarray:
        return np.asarray(witness.image_features(films), np.float64)

    films = judge(
        corpus,
        made,
        features,
        held_out=config.held_out,
        pictures=config.workdir / "films.html",
    )
    kept = films.pop("kept").tolist()
    known = {"budget": budget, "films": films, "kept": kept}
    keep(folder / "result.json", known)
    return known


def trained_witness(
    config: Comparison, corpus: Corpus, data: CorpusConfig
) -> Pretrained:
    """A model of real films that takes no part in the comparison."""
    folder = config.workdir / "witness"
    budget = [config.witness_steps, config.language_steps, config.patients]
    if finished(folder, budget, "(witness_steps, language_steps, patients)") is None:
        preset, build = SYSTEMS["convirt"]
        about = "the model whose features judge films"
        asked = dataclasses.replace(config, steps=config.witness_steps)
        mine = asked_of(
            preset, WITNESS, asked, data, corpus, about=about, folder=folder
        )
        run(mine, build)
        keep(folder / "result.json", {"budget": budget})
    return open_pair(folder)


def films_of(
    arm: Arm, config: Comparison, corpus: Corpus, made: Made, kept: np.ndarray
) -> OtherFilms | None:
    """What an arm trains on; None: the films that there are."""
    if arm in ("real", "random"):
        return None
    one, by = made.films("train", 0)[:, None], made.generator(0)
    if arm == "several":
        copies = range(config.copies)
        more = [made.films("train", i)[:, None] for i in copies[1:]]
        every = tuple(made.generator(i) for i in copies)
        return OtherFilms(np.concatenate([one, *more], axis=1), generators=every)
    if arm == "mixed":
        real = real_films(corpus, "train")[:, None]
        both = (*corpus.generators, by)
        return OtherFilms(np.concatenate([real, one], axis=1), generators=both)
    if arm == "shuffled":
        patients = np.asarray(corpus.column("train", "patient"))
        by["reports"] = "of other patients"
        return OtherFilms(one[others(patients)], generators=(by,))
    if arm == "null":
        rng = np.random.default_rng(config.render_seed)
        films = rng.integers(0, 256, one.shape).astype(np.uint8)
        by = {"name": "noise", "seed": config.render_seed}
        return OtherFilms(films, generators=(by,))
    return OtherFilms(one, kept if arm == "curated" else None, (by,))


def others(patients: np.ndarray) -> np.ndarray:
    """For every row one of another patient, each once: half a set further on."""
    order = np.argsort(patients, kind="stable")
    found = np.empty_like(order)
    found[order] = np.roll(order, len(order) // 2)
    return found


def _finished_run(
    arm: Arm,
    system: System,
    seed: int,
    config: Comparison,
    data: CorpusConfig,
    corpus: Corpus,
    made: Made,
    judged: Mapping[str, Any],
) -> dict[str, Any]:
    """The row of one arm, system and seed: from its folder, else trained."""
    folder = config.workdir / f"{system}-{arm}-{seed}"
    budget = [config.steps, config.language_steps, config.patients, made.described]
    budget += [config.copies, config.render_seed]
    what = "(steps, language_steps, patients, generator, copies, render_seed)"
    preset, build = SYSTEMS[system]
    about = f"{NAMES[system]} on {ARMS[arm]}, seed {seed}"
    mine = asked_of(preset, seed, config, data, corpus, about=about, folder=folder)
    known = finished(folder, budget, what)
    if known is None:
        if arm == "random":
            results = untrained(mine, build)
        else:
            kept = np.asarray(judged["kept"], np.int64)
            films = films_of(arm, config, corpus, made, kept)
            told = config.workdir / "report-features"
            results = run(mine, build, films=films, kept=told)
        row = {"system": f"{system}/{arm}", "seed": seed, **headline(results)}
        known = {"budget": budget, "row": row}
        keep(folder / "result.json", known)
    row = chosen(known["row"], config.tasks)
    if not config.places:
        return row
    if arm == "random":
        leave_untrained(mine, build)
    steps = config.place_steps
    found = place_scores(config.places, folder, corpus, steps=steps, seed=seed)
    return {**row, **found}


def chosen(row: Mapping[str, Any], tasks: tuple[Task, ...]) -> dict[str, Any]:
    """A row without the columns of tasks that are not asked for."""
    begin = tuple(COLUMNS[task] for task in tasks)
    return {
        name: value
        for name, value in row.items()
        if name in ("system", "seed") or name.startswith(begin)
    }


def main() -> int:
    """Compares, prints the tables, keeps the numbers."""
    name = "synthetic_pretraining"
    return command(name, Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
