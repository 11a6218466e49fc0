"""Fine-tuning from a trained tower to an evaluated classifier: build, fit, test, show.

The tower comes from a run of this library, from the folder of another's checkpoint, or
from a hub. Validation stops the training and chooses the weights; the test films are
looked at once, after it. A linear probe without augmentation asks its frozen tower once
for every film and trains on the answers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from medjax.data.pipeline import PipelineConfig, Source, build_pipeline
from medjax.metrics.auroc import auroc, average_precision, bootstrap, macro, per_class
from medjax.train.agree import on_first
from medjax.train.asked import ASKED, check_asked
from medjax.train.checkpoint import load_variables
from medjax.train.experiment import Experiment
from medjax.train.loop import Eval, fit
from medjax.train.mesh import make_mesh
from medjax.train.sharding import replicated
from medjax.train.state import TrainState
from medjax.train.stopping import StoppingConfig, best_step
from medjax.train.system import System
from medjax.typing import Variables
from medjax.vlp.classifier import (
    Augmentation,
    ClassifierConfig,
    ClassifierSystem,
    classification_loss,
    recipe,
)
from medjax.vlp.evaluate import Encoder
from medjax.vlp.finetuned import ClassifierRecord
from medjax.vlp.finetuning_report import PREDICTIONS, show
from medjax.vlp.labelled import Labelled, LabelledConfig, LabelledFilms, open_labelled
from medjax.vlp.learnable import check_exclusive
from medjax.vlp.segmenter import Head
from medjax.vlp.starts import Start, find_start, load_tower
from medjax.vlp.towers import ImageTowerConfig

R = TypeVar("R")
RESAMPLES = 300
"""Of the bootstrap of test scores."""
CLASSIFY = """
Findings of films, a folder or a table of them:

    python -m experiments.classify {run} --images films/ --out findings.csv

and in Python:

    import medjax
    model = medjax.load({path})
    rows = model.predict(["a.png", "b.dcm"])    # columns as in model.findings
"""
FIND = """
Lesions on films:

    import medjax
    model = medjax.load({path})
    model.masks(["a.png", "b.dcm"])    # or model.boxes, as it was fine-tuned
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning(Experiment):
    """One fine-tuning; every field is a flag."""

    contents: ClassVar[Mapping[str, str]] = {
        "data": "films and labels as they were prepared",
        ASKED: "what was asked for: another request is refused",
        PREDICTIONS: "labels and probabilities of the test films",
    }
    uses: ClassVar[Mapping[str, str]] = {"predict": CLASSIFY, "find": FIND}

    start: tyro.conf.Positional[str] = ""
    """What the tower starts from: run, exported towers, safetensors file or folder, hub
    id. The first two say which network it is, of others `image` does."""
    method: Literal["full", "linear"] = "full"
    """Train the tower as well, or a linear layer on its features alone."""
    films: Annotated[LabelledConfig, tyro.conf.arg(name="")] = LabelledConfig()
    """Films and labels."""
    exclusive: bool = False
    """Classes exclude each other, as in COVIDx: softmax, and accuracy beside AUC."""
    normalise_features: bool = False
    """Layer-normalise the tower's features before the linear layer."""
    moving_statistics: bool = False
    """Masks and boxes on a tower that is kept: let its BatchNorms see each batch, and
    their statistics move, as in the code behind the published tables."""
    head: Head = "unet"
    """Of masks: MGCA's U-Net decoder and its loss, or BenchX's UperNet and its own."""
    size: int | None = None
    """Side in pixels of the films that the tower sees; None: as in its own training."""
    augmentation: Augmentation = "light"
    """What may happen to a film in training."""
    image: ImageTowerConfig = ImageTowerConfig()
    """The tower, where start is no run, which says that itself."""
    stopping: StoppingConfig = StoppingConfig("auc")
    """Which validation score chooses the weights: auc, or loss (with
    --stopping.no-higher-is-better)."""
    test_batch: int = 256
    """Films at a time where nothing is trained."""
    workdir: Path = Path("runs/finetune")
    """Folder of the run; the same command on the same folder resumes."""


def run(config: Finetuning, *, devices: Sequence[Any] | None = None) -> dict[str, Any]:
    """Fine-tunes, tests and reports; goes on where an earlier call stopped.

    Args:
      config: the run.
      devices: what to run on; default all there are.

    Returns:
      The evaluation, as in ``evaluation.json``.
    """
    if config.moving_statistics:
        raise ValueError("moving_statistics: is of masks and boxes, of no findings")
    if config.head != "unet":
        raise ValueError(f"head: {config.head} finds masks: expected --target mask")
    mesh = make_mesh(config.mesh, devices=devices)
    start = find_start(config.start, config.image, config.size)
    data, record = open_data(
        config, start, lambda data: describe(config, start, data), what="classifier"
    )
    system = record.build()
    tower = start.variables or load_tower(system, start.image)
    if asks_once(config):
        ask_once(system, tower, data, mesh=mesh, batch_size=config.test_batch)
    encoder = Encoder(
        {"logits": system.logits}, mesh=mesh, batch_size=config.test_batch
    )
    validate = validation(encoder, data.parts["valid"], exclusive=config.exclusive)
    train_on(config, system, data.parts["train"], tower, mesh=mesh, validate=validate)
    step = on_first(
        lambda: best_step(config.stored, config.stopping), what="best checkpoint"
    )
    variables = load_variables(config.stored, step=step, sharding=replicated(mesh))
    results, scores = test(config, data, encoder, variables)
    results |= {"step": step, "labels_used": len(data.parts["train"])}
    results |= {"fraction": config.films.fraction, "method": config.method}
    results |= {"start": config.start, "splits": data.splits.summary()}
    on_first(
        lambda: str(show(config.workdir, results, scores, data, title=config.about)),
        what="report",
    )
    return results


def open_data(
    config: Finetuning,
    start: Start,
    describe: Callable[[Labelled], R],
    *,
    what: str,
    **more: Any,
) -> tuple[Labelled, R]:
    """The films of a run, and what it says of itself, written before it trains.

    Args:
      config: the run.
      start: the tower.
      describe: the films to the run's record.
      what: it is that is trained.
      **more: that decides what is learned.

    Raises:
      DataError: the data do not fit, or the folder holds a run that asked otherwise.
    """
    data = open_labelled(
        config.films,
        config.workdir / "data",
        image_size=start.image_size,
        resize=start.resize,
    )
    if config.exclusive:
        check_exclusive({name: part.labels for name, part in data.parts.items()})
    record: Any = describe(data)
    asked = asked_for(config, start, data) | more

    def begin() -> None:
        print("\n".join(data.lines()))
        if record.image_size != start.image_size:
            known = "was trained on" if config.size is None else "is to see"
            seen = f"the tower {known} {start.image_size}"
            print(f"NOTE: films of {record.image_size} pixels, {seen}")
        checkpoints = config.workdir / "checkpoints"
        check_asked(config.workdir, asked, what=what, result=checkpoints)
        record.save(config.workdir)

    on_first(begin, what="record")
    return data, record


def settings(config: Finetuning, start: Start) -> ClassifierConfig:
    """What is trained to know findings."""
    return ClassifierConfig(
        augment=recipe(start.augment, config.augmentation),
        train_tower=config.method == "full",
        normalise_features=config.normalise_features,
        exclusive=config.exclusive,
    )


def describe(config: Finetuning, start: Start, data: Labelled) -> ClassifierRecord:
    """What is needed to use the run's weights elsewhere."""
    prepared = data.corpus.metadata["settings"]
    record = ClassifierRecord(
        system=settings(config, start),
        image=start.image,
        image_size=prepared["image_size"],
        resize=prepared["resize"],
        findings=data.names,
        stopping=config.stopping,
        start=config.start,
        data=data.corpus.metadata["name"],
        generators=data.corpus.generators,
    )
    return dataclasses.replace(record, can=tuple(record.build().apply))


def asked_for(config: Finetuning, start: Start, data: Labelled) -> dict[str, Any]:
    """All that decides what is learned, by flag; length and rates may change."""
    asked: dict[str, Any] = {} if config.size is None else {"size": config.size}
    if config.films.balance:
        asked["balance"] = True
    return asked | {
        "start": start.identity,
        "method": config.method,
        "labels": data.names,
        "splits": data.splits.digest,
        "fraction": config.films.fraction,
        "seed": config.films.seed,
        "exclusive": config.exclusive,
        "augmentation": config.augmentation,
    }


def train_on(
    config: Finetuning,
    system: System,
    films: Source,
    tower: Variables,
    *,
    mesh: Mesh,
    validate: Eval,
) -> None:
    """Trains until validation has not improved for long enough.

    Args:
      config: the run.
      system: what is trained.
      films: to train on.
      tower: what it starts from.
      mesh: the devices.
      validate: scores the validation films.
    """
    size = batch_size(config, len(films), mesh.size)
    optimizer, train = config.resolved(
        rows=len(films), batch_size=size, frozen=system.frozen
    )
    if not train.eval_every:
        every = max(1, len(films) // size)
        train = dataclasses.replace(train, eval_every=every)
    stream = build_pipeline(
        films,
        PipelineConfig(
            batch_size=size, seed=config.films.seed, workers=config.films.workers
        ),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    fit(
        system.init,
        system.loss,
        stream,
        workdir=config.stored,
        optimizer=optimizer,
        train=train,
        mesh=mesh,
        evals=[validate],
        stopping=config.stopping,
        pretrained=tower,
        config=config,
    )
    config.bring_logs()


def asks_once(config: Finetuning) -> bool:
    """Whether what the tower says of a film never changes."""
    return config.method == "linear" and config.augmentation == "none"


def ask_once(
    system: ClassifierSystem,
    tower: Variables,
    data: Labelled,
    *,
    mesh: jax.sharding.Mesh,
    batch_size: int,
) -> None:
    """Puts a frozen tower's features of every film in the film's place."""
    encoder = Encoder(
        {"features": lambda v, b: system.features(v, b["image"])},
        mesh=mesh,
        batch_size=batch_size,
    )
    for split, part in data.parts.items():
        part.columns = encoder(tower, part, label=f"features of {split}")


def batch_size(config: Finetuning, rows: int, devices: int) -> int:
    """The batch, or what a small training set has of it, as the devices can split it.

    Raises:
      ValueError: there are fewer films than devices.
    """
    wanted = config.films.batch_size
    if rows >= wanted:
        return wanted
    size = rows // devices * devices
    if not size:
        raise ValueError(
            f"fraction: {rows} training films are fewer than the {devices} devices; "
            "take more films, or fewer devices"
        )
    if jax.process_index() == 0:
        print(f"batch of {size}: there are {rows} training films, fewer than {wanted}")
    return size


def validation(encoder: Encoder, part: LabelledFilms, *, exclusive: bool) -> Eval:
    """The hook that scores the validation films."""

    def validate(state: TrainState, step: int) -> dict[str, float]:
        del step
        found = encoder(state.averaged_variables, part, label="validate")["logits"]
        answers = jnp.asarray(found), jnp.asarray(part.labels)
        cost = classification_loss(*answers, exclusive=exclusive)
        areas = per_class(auroc, found, part.labels)
        return {"auc": macro(areas), "loss": float(cost)}

    return validate


def test(
    config: Finetuning, data: Labelled, encoder: Encoder, variables: Variables
) -> tuple[dict[str, Any], np.ndarray]:
    """What the chosen weights are worth on the test films.

    Returns:
      Results by finding and in the mean, and the probabilities of the test films.
    """
    part = data.parts["test"]
    logits = encoder(variables, part, label="test")["logits"].astype(np.float64)
    rest = np.exp(logits - logits.max(1, keepdims=True))
    odds = rest / rest.sum(1, keepdims=True)
    scores = odds if config.exclusive else 1 / (1 + np.exp(-logits))
    labels = part.labels.astype(np.float64)
    areas = per_class(auroc, scores, labels)
    each, mean = bootstrap(
        auroc,
        scores,
        labels,
        seed=config.films.seed,
        groups=part.patients,
        resamples=RESAMPLES,
    )
    known = np.maximum((~np.isnan(labels)).sum(0), 1)

    def named(values: np.ndarray) -> dict[str, Any]:
        return dict(zip(data.names, values.tolist(), strict=True))

    results: dict[str, Any] = {
        "protocol": f"{config.method} fine-tuning, validation {config.stopping.metric}",
        "test": len(part),
        "auc": named(areas),
        "auc_interval": named(each),
        "average_precision": named(per_class(average_precision, scores, labels)),
        "prevalence": named(np.nansum(labels, 0) / known),
        "macro_auc": macro(areas),
        "macro_auc_interval": mean.tolist(),
        "chance": 0.5,
    }
    if config.exclusive:
        told = ~np.isnan(labels).any(1)
        right = scores[told].argmax(1) == labels[told].argmax(1)
        results["accuracy"] = float(right.mean())
        results["most_frequent"] = float(np.nanmax(labels[told].mean(0)))
    return results, scores
