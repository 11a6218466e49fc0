"""A small language model for data that come without one.

The embedded data have a vocabulary of their own, so no published report tower can read
them. One is trained on the training reports (masked language modelling, on the shared
loop) and written as a checkpoint folder: what follows loads it like any other.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from medjax import weights
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.train.agree import on_first
from medjax.train.asked import check_asked
from medjax.train.loop import fit
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig
from medjax.train.sharding import on_host
from medjax.vlp.corpus import Corpus
from medjax.vlp.language import masked_language_model
from medjax.vlp.towers import TextTowerConfig, bert_config


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Training of a report tower where there is no checkpoint."""

    steps: int = 0
    """Updates; 0: the report tower starts from random weights."""
    batch_size: int = 128
    """Of the global batch."""
    lr: float = 2e-3
    """Peak learning rate; warm-up over a tenth of the run, then cosine."""


def train_language_model(
    corpus: Corpus,
    text: TextTowerConfig,
    config: LanguageConfig,
    *,
    workdir: Path,
    mesh: Mesh,
    seed: int,
) -> Path:
    """Trains a report tower on the training reports, or finds it trained.

    Args:
      corpus: the reports.
      text: sizes of the tower.
      config: length of the training.
      workdir: of this stage; its ``checkpoint`` folder is the result.
      mesh: the batch is split over it.
      seed: of weights and masks.

    Returns:
      A folder with config.json, weights and tokenizer, under Hugging Face's names.

    Raises:
      DataError: the folder holds a tower of other settings or reports.
    """
    folder = workdir / "checkpoint"
    text = dataclasses.replace(text, vocab_size=corpus.tokenizer.vocab_size)
    asked = settings_of(corpus, text, config, seed=seed)
    on_first(
        lambda: check_asked(workdir, asked, what="report tower", result=folder),
        what="report tower's settings",
    )
    if on_first(folder.exists, what="trained report tower"):
        return folder
    init, loss = masked_language_model(text)
    stream = build_pipeline(
        corpus.source("train", ("report",)),
        PipelineConfig(batch_size=config.batch_size, seed=seed),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    state = fit(
        init,
        loss,
        stream,
        workdir=workdir,
        optimizer=OptimizerConfig(
            lr=config.lr,
            weight_decay=0.01,
            clip_norm=1.0,
            schedule="cosine",
            warmup_steps=config.steps // 10,
        ),
        train=TrainConfig(steps=config.steps, log_every=50, seed=seed),
        mesh=mesh,
        phase="report tower",
    )
    params = on_host(state.params, mesh)

    def keep() -> None:
        # Written beside its place and moved there: a folder that exists is whole.
        draft = workdir / "checkpoint.part"
        shutil.rmtree(draft, ignore_errors=True)
        bert = {"params": params["bert"]}
        weights.save(draft, "bert", bert, bert_config(text))
        corpus.tokenizer.save(draft)
        draft.rename(folder)

    on_first(keep, what="report tower")
    return folder


def settings_of(
    corpus: Corpus, text: TextTowerConfig, config: LanguageConfig, *, seed: int
) -> dict[str, Any]:
    """All that decides what a report tower learns, by flag."""
    words = json.dumps(corpus.tokenizer.inner.get_vocab(), sort_keys=True)
    tower = dataclasses.asdict(text)
    for neither in ("checkpoint", "remat", "pool", "layers_summed", "tokenizer"):
        del tower[neither]
    return {
        **{f"text.{name}": value for name, value in tower.items()},
        **{f"language.{k}": v for k, v in dataclasses.asdict(config).items()},
        "train.seed": seed,
        "reports": corpus.metadata["source_hash"],
        "vocabulary": hashlib.sha256(words.encode()).hexdigest(),
    }
