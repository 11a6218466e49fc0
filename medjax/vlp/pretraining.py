"""Pre-training from data to an evaluated pair of towers: build, fit, evaluate, show."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from medjax.data.ledger import DataError
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.train.agree import on_first
from medjax.train.experiment import Experiment
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.mesh import make_mesh
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig
from medjax.train.sharding import on_host
from medjax.vlp.contrastive import ContrastConfig, ContrastImplementation
from medjax.vlp.corpus import Corpus, CorpusConfig, Rows, open_corpus
from medjax.vlp.datasets import PreparedSource
from medjax.vlp.evaluate import ProbesConfig, evaluate
from medjax.vlp.export import export_pair
from medjax.vlp.features import report_features
from medjax.vlp.heat_maps import word_cards
from medjax.vlp.report_tower import LanguageConfig, train_language_model
from medjax.vlp.show import show
from medjax.vlp.synthetic.films import OtherFilms
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.systems import Build, PairRecord
from medjax.vlp.text_lengths import (
    LengthsConfig,
    lengths_of,
    say_lengths,
    sizes_of,
)
from medjax.vlp.towers import (
    ImageTowerConfig,
    TextTowerConfig,
    check_vocabulary,
    load_towers,
)


@dataclasses.dataclass(frozen=True)
class ContrastKernels:
    """Which kernels do the hot work."""

    implementation: ContrastImplementation | None = None
    """Of the contrast; None: what loss.implementation says, which by itself picks the
    best for platform and shape."""


EMBED_FILMS = """
Embeddings of films, a folder or a table of them:

    python -m experiments.embed {run} --images films/ --out embeddings.npz

and in Python:

    import medjax
    pair = medjax.load({path})
    films = pair.embed_images(["a.png", "b.dcm"])
"""
COMPARE_WITH_TEXTS = """
Scores of findings that nobody trained for, and the nearest reports of films:

    python -m experiments.zero_shot {run} --images films/ \\
        --classes Pneumonia Edema --out scores.csv
    python -m experiments.retrieve {run} --queries films/ \\
        --corpus reports.txt --out hits.csv

and in Python, with pair from above:

    scores = pair.zero_shot(["a.png"], ["Pneumonia", "Edema"])
    texts = pair.embed_texts(["No pneumothorax."])
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(Experiment):
    """One pre-training run; every field is a flag."""

    contents: ClassVar[Mapping[str, str]] = {
        "data": "films and reports as they were prepared",
        "language": "training of the report tower",
        "reports": "tokenizer and sizes of the report tower",
        "towers": "both towers, for PyTorch, timm and Hugging Face",
    }
    uses: ClassVar[Mapping[str, str]] = {
        "image_embedding": EMBED_FILMS,
        "text_embedding": COMPARE_WITH_TEXTS,
    }

    system: Any
    """Heads and loss of the system: its own configuration."""
    image: ImageTowerConfig = ImageTowerConfig()
    """The image tower."""
    text: TextTowerConfig = TextTowerConfig()
    """The report tower."""
    lengths: LengthsConfig = LengthsConfig()
    """How long batches of texts are."""
    loss: ContrastConfig = ContrastConfig()
    """How the contrast is computed."""
    kernels: ContrastKernels = ContrastKernels()
    """Which kernels do the hot work."""
    data: CorpusConfig = CorpusConfig()
    """What to train on."""
    evaluation: ProbesConfig = ProbesConfig()
    """Probes run at the end."""
    language: LanguageConfig = LanguageConfig()
    """Training of a report tower where there is no checkpoint."""
    cache_text: bool = True
    """Ask a frozen report tower once, before training, instead of in every step."""
    workdir: Path = Path("runs/pretraining")
    """Folder of the run; the same command on the same folder resumes."""


IMAGENET = "timm/resnet50.tv_in1k"
"""torchvision's ImageNet weights, as safetensors on the hub."""

TINY = Pretraining(
    about="",
    system=None,
    image=ImageTowerConfig("resnet_tiny"),
    text=TextTowerConfig("tiny", pool="mean", max_length=64),
    data=CorpusConfig(image_size=64, patients=2000, batch_size=64),
    optimizer=OptimizerConfig(
        lr=2e-3, weight_decay=0.05, clip_norm=1.0, schedule="cosine"
    ),
    train=TrainConfig(steps=150, log_every=10, checkpoint_every=50),
    language=LanguageConfig(steps=150, batch_size=64),
    launch=LaunchConfig(cpu_devices=cpu_devices()),
    warmup_fraction=0.1,
)
"""Towers, data and schedule of the ``tiny`` presets; 64-pixel films."""


def run(
    config: Pretraining,
    build: Build,
    *,
    devices: Sequence[Any] | None = None,
    films: OtherFilms | None = None,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Pre-trains, evaluates and reports; goes on where an earlier call stopped.

    Args:
      config: the run.
      build: makes the system from its configuration and its towers'.
      devices: what to run on; default all there are.
      films: other films of the training reports, to train on; the evaluation sees those
        of the data all the same.
      kept: folder where features of a frozen report tower are kept, for other runs
        too; None: the run's.

    Returns:
      The evaluation, as in ``evaluation.json``.
    """
    implementation = config.kernels.implementation or config.loss.implementation
    contrast = dataclasses.replace(config.loss, implementation=implementation)
    # What does not go together is refused before anything is prepared or trained.
    known = build(config.system, config.image, config.text, contrast)
    check_vocabulary(config.text)
    learns_language = config.text.checkpoint is None and config.language.steps > 0
    reads = learns_language or config.text.checkpoint is not None
    caches = bool(config.cache_text and known.cached_tokens and reads)
    sizes_of(config.lengths, limit=config.text.max_length, shapes=config.train.shapes)
    if caches and config.lengths.buckets:
        raise ValueError(
            "lengths.buckets: a step does not read texts whose features are kept; "
            "leave it out, or say --no-cache-text"
        )
    mesh = make_mesh(config.mesh, devices=devices)
    corpus = open_corpus(
        config.data,
        config.workdir / "data",
        tokenizer=config.text.checkpoint or config.text.tokenizer,
        max_tokens=config.text.max_length,
    )
    check_reports(corpus)
    text, batches = config.text, {"data.batch-size": config.data.batch_size}
    if learns_language:
        batches["language.batch-size"] = config.language.batch_size
    check_splits(corpus, batches)
    config = dataclasses.replace(config, system=with_split(config.system, corpus))
    if learns_language:
        folder = train_language_model(
            corpus,
            text,
            config.language,
            workdir=config.workdir / "language",
            mesh=mesh,
            seed=config.train.seed,
        )
        text = dataclasses.replace(text, checkpoint=str(folder))
    elif text.checkpoint is None:
        text = dataclasses.replace(
            text,
            vocab_size=corpus.tokenizer.vocab_size,
            tokenizer=str(corpus.folder / "tokenizer"),
        )
    system = build(config.system, config.image, text, contrast)
    check_sections(corpus, system)
    say_lengths(corpus, system, config.text.max_length)
    record = describe(config, text, system, corpus, films)
    on_first(lambda: record.save(config.workdir, corpus.tokenizer), what="record")
    towers = start_towers(system, corpus, config.image, text)
    source = corpus.source("train", ("image", *system.tokens))
    columns: dict[str, np.ndarray] = {}
    if caches:
        columns = report_features(
            system,
            corpus,
            text,
            towers,
            workdir=kept or config.workdir,
            mesh=mesh,
            batch_size=config.evaluation.batch_size,
        )
    rows, transform = Rows(source, columns), source.transform
    if films is not None:
        rows, transform = films(rows, transform)
    stream = build_pipeline(
        rows,
        PipelineConfig(
            batch_size=config.data.batch_size,
            seed=config.data.seed,
            workers=config.data.workers,
        ),
        transform=transform,
        lengths=lengths_of(
            config.lengths,
            corpus,
            system,
            limit=config.text.max_length,
            shapes=config.train.shapes,
            rows=None if films is None else films.rows,
        ),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    state = config.fit(
        system,
        stream,
        rows=len(rows),
        batch_size=config.data.batch_size,
        mesh=mesh,
        pretrained=towers or None,
    )
    variables = state.averaged_variables
    results, found = evaluate(
        system,
        variables,
        corpus,
        mesh=mesh,
        max_length=config.text.max_length,
        config=config.evaluation,
    )
    variables = on_host(variables, mesh)

    def keep() -> None:
        export_pair(config.workdir / "towers", record, variables, corpus.tokenizer)
        words = word_cards(system, variables, corpus)
        show(config.workdir, results, found, corpus, title=config.about, words=words)

    on_first(keep, what="report")
    return results


def with_split(system: Any, corpus: Corpus) -> Any:
    """Settings of a system that counts epochs, with the size of the training split."""
    if getattr(system, "examples_per_epoch", None) != "split":
        return system
    rows = corpus.metadata["splits"]["train"]
    return dataclasses.replace(system, examples_per_epoch=rows)


def describe(
    config: Pretraining,
    text: TextTowerConfig,
    system: PretrainingSystem,
    corpus: Corpus,
    films: OtherFilms | None = None,
) -> PairRecord:
    """What is needed to use the run's weights elsewhere.

    Args:
      config: the run.
      text: its report tower, with its checkpoint or vocabulary settled.
      system: what is trained.
      corpus: what on.
      films: others in the place of its films.

    Returns:
      The content of its ``system.json``.
    """
    prepared = corpus.metadata["settings"]
    return PairRecord(
        system=config.system,
        image=config.image,
        text=text,
        image_size=prepared["image_size"],
        resize=prepared["resize"],
        compared=system.compared,
        data=corpus.metadata["name"],
        findings=tuple(corpus.findings),
        can=tuple(system.apply),
        generators=corpus.generators if films is None else films.generators,
    )


def check_reports(corpus: Corpus) -> None:
    """Refuses a set that holds films alone.

    Raises:
      DataError: it has no reports.
    """
    if "report" not in corpus.metadata["fields"]:
        raise DataError(
            f"data: {corpus.folder} has no reports, of which this reads one per film; "
            "name a column of texts, or prepare a set that has some"
        )


def check_splits(corpus: Corpus, batches: Mapping[str, int]) -> None:
    """Refuses, before anything is trained, data that a later stage would stumble on.

    Args:
      corpus: the data.
      batches: batch sizes of the stages, by flag.

    Raises:
      DataError: a split that is missing, or smaller than a batch; a label that no
        probe can be judged by.
    """
    splits = corpus.metadata["splits"]
    wanted = ("train", "valid", "test") if corpus.findings else ("train", "test")
    if missing := [split for split in wanted if not splits.get(split)]:
        raise DataError(
            f"data: {corpus.folder} has no studies in {missing}, its splits are "
            f"{splits}; name a column of splits, or bring more patients"
        )
    for flag, size in batches.items():
        if splits["train"] < size:
            raise DataError(
                f"{flag}: {size} is more than the {splits['train']} studies of the "
                "train split"
            )
    for split in wanted if corpus.findings else ():
        corpus.labels(split)


def check_sections(corpus: Corpus, system: PretrainingSystem) -> None:
    """Says how many reports have the sections a system contrasts.

    Raises:
      DataError: none has one of them.
    """
    for split, fields in (("train", system.tokens), ("test", (system.compared,))):
        for field in ("findings", "impression"):
            if field not in fields:
                continue
            texts = corpus.column(split, f"{field}_text")
            have = sum(bool(text.strip()) for text in texts)
            if jax.process_index() == 0:
                print(f"{split} reports with {field}: {have} of {len(texts)}")
            if not have:
                raise DataError(
                    f"data: no report of the {split} split has {field}, which this "
                    "system contrasts; name columns of findings and impression, or "
                    "take a system that reads whole reports (convirt, mgca)"
                )


def start_towers(
    system: PretrainingSystem,
    corpus: Corpus,
    image: ImageTowerConfig,
    text: TextTowerConfig,
) -> dict[str, Any]:
    """Weights of the checkpoints that the towers start from."""
    source = corpus.source("train", ("image", *system.tokens))
    batch = {k: np.stack([v, v]) for k, v in source_row(source).items()}
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    return load_towers(shapes, image, text)


def source_row(source: PreparedSource) -> dict[str, Any]:
    """One row as a batch would hold it."""
    row = source[0]
    if source.transform is not None:
        row = source.transform(row, np.random.default_rng(0))
    return row
