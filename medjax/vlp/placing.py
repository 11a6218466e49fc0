"""Fine-tuning for places: masks or boxes of lesions on a trained tower, to the test.

``experiments.finetune --target mask`` or ``boxes`` comes here. Data, splits, fractions
and stopping are those of :mod:`medjax.vlp.finetuning`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax.metrics.detection import average_precision, challenge_precision
from medjax.metrics.overlap import Overlap, overlap
from medjax.train.agree import on_first
from medjax.train.checkpoint import load_variables
from medjax.train.loop import Eval
from medjax.train.mesh import make_mesh
from medjax.train.sharding import replicated
from medjax.train.state import TrainState
from medjax.train.stopping import best_step
from medjax.vlp.detector import DetectorConfig
from medjax.vlp.evaluate import Encoder
from medjax.vlp.finetuning import Finetuning, open_data, train_on
from medjax.vlp.labelled import Labelled
from medjax.vlp.place_system import Kind, recipe
from medjax.vlp.placed import PlacedFilms, place_films
from medjax.vlp.placed_run import PlaceRecord, detections
from medjax.vlp.placing_report import show
from medjax.vlp.segmenter import SegmenterConfig
from medjax.vlp.starts import Start, find_start, load_tower

SCORES = {"mask": ("dice", "dice_with_background"), "boxes": ("map",)}
"""What validation scores, by what is found; the first decides where no one says."""
SMALL_TOWERS = ("resnet_tiny", "vit_tiny")


def asks_for_places(config: Finetuning) -> bool:
    """Whether the first target is no label but a kind of place."""
    return config.films.places


def run_places(
    config: Finetuning, *, devices: Sequence[Any] | None = None
) -> dict[str, Any]:
    """Fine-tunes, tests and reports; goes on where an earlier call stopped.

    Args:
      config: the run; its target is ``mask`` or ``boxes`` and findings behind it.
      devices: what to run on; default all there are.

    Returns:
      The evaluation, as in ``evaluation.json``.

    Raises:
      ValueError: settings that do not go with places.
    """
    kind: Any = config.films.target[0]
    findings = config.films.findings
    if config.exclusive or config.normalise_features:
        raise ValueError(
            f"target: {kind} has no classes: leave out --exclusive and "
            "--normalise-features"
        )
    if config.head != "unet" and kind != "mask":
        raise ValueError(f"head: {config.head} finds masks, not {kind}")
    score = SCORES[kind][0]
    if config.stopping.metric == "auc":
        stopping = dataclasses.replace(config.stopping, metric=score)
        config = dataclasses.replace(config, stopping=stopping)
    mesh = make_mesh(config.mesh, devices=devices)
    start = find_start(config.start, config.image, config.size)

    def described(data: Labelled) -> PlaceRecord:
        return describe(config, kind, findings, start, data)

    more: dict[str, Any] = {"target": config.films.target}
    if config.moving_statistics:
        more["moving_statistics"] = True
    if config.head != "unet":
        more["head"] = config.head
    what = f"finder of {kind}"
    data, record = open_data(config, start, described, what=what, **more)
    parts = place_films(data, kind=kind, findings=findings)
    system = record.build()
    tower = start.variables or load_tower(system, start.image)
    encoder = Encoder(
        {"found": lambda v, b: system.find(v, b["image"])},
        mesh=mesh,
        batch_size=config.test_batch,
    )
    validate = validation(encoder, parts["valid"])
    train_on(config, system, parts["train"], tower, mesh=mesh, validate=validate)
    step = on_first(
        lambda: best_step(config.stored, config.stopping), what="best checkpoint"
    )
    variables = load_variables(config.stored, step=step, sharding=replicated(mesh))
    found = encoder(variables, parts["test"], label="test")["found"]
    results = scores_of(found, parts["test"])
    results |= {"kind": kind, "step": step, "labels_used": len(parts["train"])}
    results |= {"fraction": config.films.fraction, "method": config.method}
    results |= {"start": config.start, "splits": data.splits.summary()}
    results |= {"findings": list(findings or ["all lesions"])}
    on_first(
        lambda: show(
            config.workdir, results, found, parts["test"], data, title=config.about
        ),
        what="report",
    )
    return results


def settings(
    config: Finetuning, kind: Kind, start: Start
) -> SegmenterConfig | DetectorConfig:
    """What is trained to find places."""
    pyramid = config.head == "upernet"
    light = config.augmentation == "light" and kind == "mask"
    augment = recipe(
        start.augment, moves=light and not pyramid, mirrors=light and pyramid
    )
    trains = config.method == "full"
    small = start.image.architecture in SMALL_TOWERS
    if kind == "mask":
        widths = (64, 32, 32, 16, 16) if small else (256, 128, 64, 32, 16)
        if pyramid:
            widths = (64,) if small else (512,)
        system: Any = SegmenterConfig(augment, trains, head=config.head, widths=widths)
    else:
        system = DetectorConfig(augment, trains, width=64 if small else 512)
    return dataclasses.replace(system, moving_statistics=config.moving_statistics)


def describe(
    config: Finetuning,
    kind: Kind,
    findings: Sequence[str],
    start: Start,
    data: Labelled,
) -> PlaceRecord:
    """What is needed to use the run's weights elsewhere."""
    prepared = data.corpus.metadata["settings"]
    record = PlaceRecord(
        system=settings(config, kind, start),
        image=start.image,
        image_size=prepared["image_size"],
        resize=prepared["resize"],
        findings=tuple(findings),
        stopping=config.stopping,
        start=config.start,
        data=data.corpus.metadata["name"],
        generators=data.corpus.generators,
    )
    return dataclasses.replace(record, can=tuple(record.build().apply))


def validation(encoder: Encoder, part: PlacedFilms) -> Eval:
    """The hook that scores the validation films."""

    def validate(state: TrainState, step: int) -> dict[str, float]:
        del step
        found = encoder(state.averaged_variables, part, label="validate")["found"]
        scores = scores_of(found, part)
        return {name: float(scores[name]) for name in SCORES[part.kind]}

    return validate


def scores_of(found: np.ndarray, part: PlacedFilms) -> dict[str, Any]:
    """What was found against what is there.

    Args:
      found: of the system's ``find``, film by film.
      part: the films.

    Returns:
      ``mask``: mean Dice of films (1 where mask and prediction are both empty), what an
      empty prediction for every film would get, Dice of all pixels together, its mean
      with that of the background (BenchX's mDice), and Dice of thirds of the films that
      show a lesion, by its size. ``boxes``: average precision
      over all films, as published, and of the challenge.
    """
    if part.kind == "boxes":
        there = [boxes.astype(np.float64) for boxes in part.boxes]
        said = detections(found)
        return {
            "map": average_precision(said, there),
            "map_published": average_precision(said, there, counted="both"),
            "challenge": challenge_precision(said, there),
            "boxes": int(sum(map(len, there))),
            "found": int(sum(len(d.scores) for d in said)),
            "test": len(part),
        }
    truth = np.stack([part.mask(row) for row in range(len(part))])
    counts = overlap(at_size(found, part.size), truth, structures=(1,), rank=2)
    dice = np.asarray(counts.dice)[:, 0]
    area = np.asarray(counts.present)[:, 0]
    shown = np.flatnonzero(area > 0)
    pooled = Overlap(*counts).pooled()
    both, said, shows = (int(np.asarray(n)[0]) for n in pooled)
    empty = [truth.size - n for n in (said, shows, said + shows - both)]
    behind = 2.0 * empty[2] / max(empty[0] + empty[1], 1)
    thirds = np.array_split(shown[np.argsort(area[shown], kind="stable")], 3)
    return {
        "dice": float(dice.mean()),
        "dice_of_nothing": float((area == 0).mean()),
        "dice_pooled": float(pooled.dice[0]),
        "dice_with_background": (float(pooled.dice[0]) + behind) / 2.0,
        "dice_by_size": [float(dice[rows].mean()) for rows in thirds if len(rows)],
        "with_lesion": len(shown),
        "test": len(part),
    }


def at_size(probabilities: np.ndarray, size: int) -> np.ndarray:
    """Whether each pixel of the stored film is in, by the nearest one that was told."""
    told = probabilities.shape[1]
    at = np.minimum(((np.arange(size) + 0.5) * told / size).astype(int), told - 1)
    return probabilities[:, at][:, :, at] >= 0.5
