"""Masks and boxes of lesions on what arms of a comparison learnt.

The part of `experiments.synthetic_pretraining` that fine-tunes: a frozen tower gets the
decoder or the head of MGCA's protocol, which learn for a few updates on the real films
of the same patients that the arms were trained on.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments import finetune
from experiments.compare.pretraining_runs import initial
from experiments.compare.publishing import finished, keep
from medjax.train.agree import on_first
from medjax.train.checkpoint import Checkpoints, saved_steps
from medjax.train.mesh import make_mesh
from medjax.train.settings import TrainConfig
from medjax.train.sharding import replicated
from medjax.train.state import TrainState
from medjax.vlp.corpus import Corpus
from medjax.vlp.finetuning import Finetuning
from medjax.vlp.placing import run_places
from medjax.vlp.pretraining import Build, Pretraining, describe

Place = Literal["mask", "boxes"]
SCORED: Mapping[Place, Mapping[str, str]] = {
    "mask": {"Dice": "dice", "Dice of all pixels": "dice_pooled"},
    "boxes": {"mAP": "map"},
}
"""Columns of a table, and the score that each holds."""
BATCH = 32


def asked(
    kind: Place, start: Path, corpus: Corpus, *, steps: int, seed: int
) -> Finetuning:
    """The fine-tuning of a run's tower for places.

    Args:
      kind: masks or boxes.
      start: the run.
      corpus: the films, with the places of lesions.
      steps: updates; validation chooses among four of them.
      seed: of weights and batches.
    """
    preset = finetune.PRESETS[kind]
    every = max(1, steps // 4)
    return dataclasses.replace(
        preset,
        start=str(start),
        films=dataclasses.replace(
            preset.films, data=corpus.folder, batch_size=BATCH, seed=seed
        ),
        optimizer=dataclasses.replace(preset.optimizer, lr=2e-3),
        epochs=None,
        train=TrainConfig(
            steps=steps,
            log_every=every,
            eval_every=every,
            checkpoint_every=steps,
            seed=seed,
        ),
        workdir=start / kind,
    )


def place_scores(
    kinds: tuple[Place, ...], start: Path, corpus: Corpus, *, steps: int, seed: int
) -> dict[str, float]:
    """What is found on the real test films; from the run's folder where it is there.

    Args:
      kinds: masks, boxes, or both.
      start: folder of a run of two towers.
      corpus: the real films.
      steps: updates of each.
      seed: of weights and batches.
    """
    row: dict[str, float] = {}
    for kind in kinds:
        folder = start / kind
        known = finished(folder, [steps], "(place_steps)")
        if known is None:
            config = asked(kind, start, corpus, steps=steps, seed=seed)
            found = run_places(config)
            scores = {name: float(found[of]) for name, of in SCORED[kind].items()}
            known = {"budget": [steps], "scores": scores}
            keep(folder / "result.json", known)
        row |= known["scores"]
    return row


def leave_untrained(config: Pretraining, build: Build) -> None:
    """Leaves what a system starts from as a run of no steps, to be fine-tuned.

    Args:
      config: the run whose training is left out.
      build: makes the system.
    """
    if saved_steps(config.workdir):
        return
    system, variables, corpus = initial(config, build)
    record = describe(config, config.text, system, corpus)
    on_first(lambda: record.save(config.workdir, corpus.tokenizer), what="record")
    rest: dict[str, Any] = dict(variables)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=rest.pop("params"),
        extra=rest,
        opt_state={"none": jnp.zeros(())},
    )
    state = jax.device_put(state, replicated(make_mesh(config.mesh)))
    with Checkpoints(config.workdir / "checkpoints") as checkpoints:
        checkpoints.save(state, {}, {}, wait=True)
