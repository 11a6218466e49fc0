"""A generator from films and reports to a folder of ``diffusers``: train, score, show.

From nothing, an autoencoder is trained first, then a small language model of the
reports, then the U-Net on the autoencoder's latents with the language model as its text
model, which goes on learning. Or a folder of Stable Diffusion is fine-tuned, as
RoentGen was (Chambon et al., arXiv 2211.12737): its autoencoder stays, its text model
learns or not.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from medjax.data.boundary import DataError
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.nn.bert import BertConfig
from medjax.nn.diffusion.autoencoder import AutoencoderConfig
from medjax.train.agree import on_first
from medjax.train.experiment import Experiment
from medjax.train.loop import fit
from medjax.train.mesh import make_mesh
from medjax.train.optimizer import OptimizerConfig
from medjax.train.record import save_record
from medjax.train.settings import TrainConfig
from medjax.train.sharding import on_host, replicated
from medjax.vlp.corpus import Corpus, CorpusConfig, Rows, open_corpus
from medjax.vlp.diffusion.folder import (
    Pipeline,
    load_pipeline,
    save_pipeline,
)
from medjax.vlp.diffusion.networks import (
    Networks,
    Params,
    encode_films,
    parameter_shapes,
)
from medjax.vlp.diffusion.schedule import SamplingConfig
from medjax.vlp.diffusion.scores import ScoresConfig, score, show
from medjax.vlp.diffusion.sizes import (
    GeneratorConfig,
    autoencoder_sizes,
    network_sizes,
)
from medjax.vlp.diffusion.training import (
    autoencoder_system,
    diffusion_system,
)
from medjax.vlp.evaluate import encode
from medjax.vlp.pretraining import check_reports, check_splits
from medjax.vlp.rendering.drawing import FAMILY, TRAINED
from medjax.vlp.report_tower import LanguageConfig, train_language_model
from medjax.vlp.tokens import load_tokenizer
from medjax.vlp.towers import TextTowerConfig
from medjax.weights import load

SCALED = 128
"""Training films whose latents decide the scaling factor."""
ENCODED = 16
"""Films whose latents are computed together."""

MAKE_FILMS = """
Films from reports, as a set to train on:

    python -m experiments.prepare table --root reports.csv --out synthetic \\
        --image None --render run:{run} --image-size SIZE

and in Python:

    import medjax
    make = medjax.load({path})
    films = make(["Small left pleural effusion."], seed=0)     # uint8 [b, h, w]

The folder generator/ in it is one of diffusers, for PyTorch.
"""


@dataclasses.dataclass(frozen=True)
class AutoencoderTraining:
    """Training of the autoencoder, before anything else."""

    steps: int = 1000
    """Updates."""
    batch_size: int = 32
    """Of the global batch."""
    lr: float = 1e-3
    """Peak learning rate; warm-up over a twentieth of the run, then cosine."""


@dataclasses.dataclass(frozen=True)
class GeneratorRecord:
    """What ``system.json`` holds of a generator; the rest is in ``generator/``."""

    system: GeneratorConfig
    image_size: int
    data: str
    can: tuple[str, ...] = ("films",)
    generators: tuple[Mapping[str, Any], ...] = ()
    """What made the films it learned from of their reports; empty: they were taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation(Experiment):
    """One training run; every field is a flag."""

    contents: ClassVar[Mapping[str, str]] = {
        "data": "films and reports as they were prepared",
        "autoencoder": "training of the autoencoder",
        "language": "training of the text model on reports alone",
        TRAINED: "what was learnt, as a folder of diffusers",
    }
    uses: ClassVar[Mapping[str, str]] = {"films": MAKE_FILMS}

    system: GeneratorConfig = GeneratorConfig()
    """Sizes, and how it is trained."""
    start: str | None = None
    """Folder or hub id of diffusers to fine-tune; None: start from nothing."""
    autoencoder: AutoencoderTraining = AutoencoderTraining()
    """First stage, where nothing is fine-tuned."""
    text: TextTowerConfig = TextTowerConfig("tiny", max_length=64)
    """Text model, where nothing is fine-tuned."""
    language: LanguageConfig = LanguageConfig(steps=300)
    """Training of the text model on reports alone, before it sees a film."""
    data: CorpusConfig = CorpusConfig(image_size=64)
    """What to train on."""
    cache_latents: bool = True
    """Keep the latents of all training films in memory; without it they are computed in
    every step, which costs the encoder's time and no memory."""
    sampling: SamplingConfig = SamplingConfig()
    """How the films of the evaluation are drawn from noise."""
    evaluation: ScoresConfig = ScoresConfig()
    """What is scored at the end."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters stay float32."""
    workdir: Path = Path("runs/generator")
    """Folder of the run; the same command on the same folder resumes."""


def run(config: Generation) -> dict[str, Any]:
    """Trains, or goes on training, then scores and shows what was learnt.

    Returns:
      The scores, as in ``evaluation.json``.

    Raises:
      DataError: films without reports, or of another size than the networks make.
    """
    mesh = make_mesh(config.mesh)
    started = None if config.start is None else load_pipeline(config.start)
    raw = config.data.root is None or config.data.format != "prepared"
    if started is not None and raw:
        # Known before films are prepared, which takes long.
        check_size(config.data.image_size, started.networks, what="data.image-size")
    corpus = open_corpus(
        config.data,
        config.workdir / "data",
        tokenizer=None,
        max_tokens=config.text.max_length,
    )
    check_reports(corpus)
    check_splits(corpus, {"data.batch-size": config.data.batch_size})
    if started is None:
        pipeline = from_nothing(config, corpus, mesh)
    else:
        pipeline = dataclasses.replace(started, section=config.system.section)
    networks = pipeline.networks.with_dtype(config.dtype)
    check_size(corpus.metadata["image_size"], networks, what=f"data: {corpus.folder}")
    record = GeneratorRecord(
        config.system,
        networks.image_size,
        corpus.metadata["name"],
        generators=corpus.generators,
    )
    on_first(lambda: save_record(config.workdir, FAMILY, record), what="record")

    texts = corpus.column("train", f"{pipeline.section}_text")
    columns = {"ids": pipeline.tokenize(texts)}
    fields: tuple[str, ...] = ("image",)
    if config.cache_latents:
        films = Rows(corpus.source("train", ("image",)))
        weights = pipeline.params["autoencoder"]
        columns |= latents(networks.autoencoder, weights, films, mesh)
        # A field that costs nothing to read: a row has to have one of the source.
        fields = ("patient",)
    source = corpus.source("train", fields)
    empty = pipeline.tokenize([""])
    system = diffusion_system(
        networks,
        empty,
        dropped=config.system.dropped,
        train_text=config.system.train_text,
        known=tuple(pipeline.params),
    )
    stream = build_pipeline(
        Rows(source, columns),
        PipelineConfig(
            batch_size=config.data.batch_size,
            seed=config.data.seed,
            workers=config.data.workers,
        ),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    state = config.fit(
        system,
        stream,
        rows=len(source),
        batch_size=config.data.batch_size,
        mesh=mesh,
        pretrained={"params": pipeline.params},
    )
    params = on_host(state.averaged_variables, mesh)["params"]
    learnt = dataclasses.replace(pipeline, params=jax.device_get(params))
    results: dict[str, Any] = {}

    def keep() -> None:
        save_pipeline(config.workdir / TRAINED, learnt)
        saved = load_pipeline(config.workdir / TRAINED)
        found, shown = score(saved, corpus, config.sampling, config.evaluation)
        results.update(found)
        show(config.workdir, found, shown, title=config.about)

    on_first(keep, what="report")
    return results


def check_size(size: int, networks: Networks, *, what: str) -> None:
    """Refuses films of another size than the networks make.

    Raises:
      DataError: they differ.
    """
    if size != networks.image_size:
        raise DataError(
            f"{what}: films of {size} pixels, the networks make films of "
            f"{networks.image_size}: prepare them with --data.image-size "
            f"{networks.image_size}"
        )


def from_nothing(config: Generation, corpus: Corpus, mesh: Mesh) -> Pipeline:
    """An autoencoder and a language model, trained; without a U-Net as yet.

    Args:
      config: of the run.
      corpus: films and reports.
      mesh: the devices.
    """
    size = corpus.metadata["image_size"]
    autoencoder = autoencoder_sizes(config.system, config.dtype)
    weights, autoencoder = trained_autoencoder(config, autoencoder, corpus, mesh)
    folder = train_language_model(
        corpus,
        config.text,
        config.language,
        workdir=config.workdir / "language",
        mesh=mesh,
        seed=config.train.seed,
    )
    text = BertConfig.from_json(folder / "config.json")
    networks = network_sizes(config.system, size, autoencoder, text)
    tokenizer = load_tokenizer(folder)
    tokenizer.inner.model_max_length = config.text.max_length
    shapes = parameter_shapes(networks)
    read = load(folder, "bert", {"params": shapes["text"]})
    # The U-Net is initialised by the loop.
    params = {"autoencoder": weights, "text": jax.device_get(read["params"])}
    return Pipeline(
        networks,
        params,
        lambda texts: tokenizer.encode(texts, config.text.max_length),
        config.system.section,
        tokenizer.save,
    )


def trained_autoencoder(
    config: Generation, sizes: AutoencoderConfig, corpus: Corpus, mesh: Mesh
) -> tuple[Params, AutoencoderConfig]:
    """An autoencoder of the training films, and its sizes with the scaling factor.

    Args:
      config: of the run.
      sizes: of the autoencoder.
      corpus: the films.
      mesh: the devices.
    """
    how = config.autoencoder
    system = autoencoder_system(sizes, config.system.loss)
    source = corpus.source("train", ("image",))
    stream = build_pipeline(
        source,
        PipelineConfig(batch_size=how.batch_size, seed=config.data.seed),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    state = fit(
        system.init,
        system.loss,
        stream,
        workdir=config.workdir / "autoencoder",
        optimizer=OptimizerConfig(
            lr=how.lr,
            clip_norm=1.0,
            schedule="cosine",
            warmup_steps=how.steps // 20,
        ),
        train=TrainConfig(
            steps=how.steps,
            log_every=config.train.log_every,
            checkpoint_every=config.train.checkpoint_every,
            seed=config.train.seed,
        ),
        mesh=mesh,
        phase="autoencoder",
    )
    params = jax.device_get(on_host(state.params, mesh))
    first = latents(sizes, params, Rows(source, most=SCALED), mesh)
    factor = 1.0 / float(np.std(first["mean"]))
    return params, dataclasses.replace(sizes, scaling_factor=factor)


def latents(
    sizes: AutoencoderConfig, params: Params, films: Rows, mesh: Mesh
) -> dict[str, np.ndarray]:
    """Mean and log-variance of the latents of films.

    Args:
      sizes: of the autoencoder.
      params: of it.
      films: rows with ``image``.
      mesh: the batch is split over it.
    """
    return encode(
        {
            "mean": lambda v, b: encode_films(sizes, v, b["image"])[0],
            "logvar": lambda v, b: encode_films(sizes, v, b["image"])[1],
        },
        jax.device_put(params, replicated(mesh)),
        films,
        mesh=mesh,
        batch_size=ENCODED,
        label="latents",
    )
