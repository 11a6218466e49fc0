"""What fine-tuning a tower trains and on what shapes, by its flags alone."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax.train.workload import Workload, spec
from medjax.vlp.classifier import classifier
from medjax.vlp.corpus import CorpusConfig
from medjax.vlp.finetuning import Finetuning, asks_once, settings
from medjax.vlp.placed_run import finder
from medjax.vlp.placing import asks_for_places
from medjax.vlp.placing import settings as place_settings
from medjax.vlp.rendering import FINDINGS as EMBEDDED
from medjax.vlp.starts import Start, find_start, foreign, seeing
from medjax.vlp.workload import prepared, rows
from medjax.weights.files import without_network

FINDINGS = 14
"""Of a set that is not at hand: those of CheXpert's labeller."""
BOXES = 4
"""Of one film of a set that is not at hand: RSNA's most."""


class Films(NamedTuple):
    """What is known of the training films: their number, labels, side in pixels."""

    rows: int | None
    findings: int
    side: int
    assumed: tuple[str, ...]


def finetuning(config: Finetuning) -> Workload:
    """What ``experiments.finetune`` trains on a tower.

    Args:
      config: the run.

    Returns:
      System, batch and rows; a probe of a tower that is asked once for each film trains
      on its features. The tower is the one that `config.start` names where that is at
      hand, else what `config.image` says.
    """
    start, assumed = started(config)
    films = known_films(config, start)
    assumed += films.assumed
    whole = config.films.batch_size
    size = whole if films.rows is None else min(whole, films.rows)
    batch = {"image": spec((size, films.side, films.side), np.uint8)}
    system: Any
    if asks_for_places(config):
        kind: Any = config.films.target[0]
        system = finder(place_settings(config, kind, start), start.image)
        if kind == "mask":
            batch["mask"] = spec((size, films.side, films.side), np.bool_)
        else:
            batch["boxes"] = spec((size, BOXES, 4), np.float32)
            assumed += (f"target: {BOXES} boxes of a film at the most; a run counts",)
    else:
        system = classifier(settings(config, start), start.image, films.findings)
        if asks_once(config):
            variables = jax.eval_shape(system.init, jax.random.key(0), {})
            told = jax.eval_shape(system.features, variables, batch.pop("image"))
            batch["features"] = spec(told.shape, told.dtype)
        batch["labels"] = spec((size, films.findings), np.float32)
    return Workload(system, batch, films.rows, config, assumed=assumed)


def started(config: Finetuning) -> tuple[Start, tuple[str, ...]]:
    """The tower that is fine-tuned, and what was assumed of it."""
    why = "none is named"
    if config.start:
        try:
            with without_network():
                return find_start(config.start, config.image, config.size), ()
        except OSError as error:
            why = f"{config.start} is not at hand ({type(error).__name__})"
    image = dataclasses.replace(config.image, checkpoint=None)
    start = seeing(foreign(image, ""), config.size)
    side = start.image_size
    return start, (f"start: {why}: a {image.architecture}, films of {side} pixels",)


def known_films(config: Finetuning, start: Start) -> Films:
    """What flags, and a prepared set where it is at hand, say of the films."""
    films = config.films
    corpus = CorpusConfig(
        root=films.data,
        prepared=films.prepared,
        patients=films.patients,
        seed=films.seed,
    )
    # Who is on a list, and what a film shows, the data alone know.
    count = None if films.train_ids or films.balance else rows(corpus)
    if count is not None:
        count = max(1, round(films.fraction * count))
    side, findings = films.image_size or start.image_size, len(EMBEDDED)
    assumed: tuple[str, ...] = ()
    if films.data is not None:
        if (known := prepared(corpus)) is not None:
            side, findings = known["image_size"], len(known["finding_names"])
        else:
            findings = FINDINGS
            assumed = (f"target: {FINDINGS} findings; {films.data} is not prepared",)
    if films.target and not asks_for_places(config):
        findings, assumed = len(films.target), ()
    return Films(count, findings, side, assumed)
