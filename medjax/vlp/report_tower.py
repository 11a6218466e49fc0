"""A small language model for data that come without one.

The embedded data have a vocabulary of their own, so no published report tower can read
them. One is trained on the training reports (masked language modelling, on the shared
loop) and written as a checkpoint folder: what follows loads it like any other.
"""

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from medjax import weights
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.train.agree import on_first
from medjax.train.asked import check_asked
from medjax.train.loop import fit
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig
from medjax.train.sharding import on_host, replicated
from medjax.train.state import TrainState
from medjax.train.step import Loss
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


HELD_OUT, AT_ONCE = 1024, 64
"""Validation reports that tell what a report tower has learned, at the most, and how
many are computed at once: every device computes them all, whatever the batch."""


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

    Its log ends with perplexity and accuracy on reports of the validation split, where
    there is one.

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
    evals = []
    if corpus.metadata["splits"].get("valid"):
        known = corpus.source("valid", ("report",))
        first = range(min(HELD_OUT, len(known)))
        reports = np.stack([known[i]["report"] for i in first])
        evals = [held_out(loss, reports, mesh, batch_size=AT_ONCE)]
    state = fit(
        init,
        loss,
        stream,
        workdir=workdir,
        evals=evals,
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


def held_out(
    loss: Loss, reports: Int[np.ndarray, "n t"], mesh: Mesh, *, batch_size: int
) -> Callable[[TrainState, int], dict[str, float]]:
    """A hook of `fit`: how well the hidden pieces of other reports are named.

    Args:
      loss: Of `masked_language_model`.
      reports: Token ids; the same pieces are hidden every time.
      mesh: Of the training.
      batch_size: That are computed at once.

    Returns:
      Gives ``perplexity`` (the exponential of the mean cross-entropy in nats) and
      ``accuracy``, each batch counting as its reports.
    """

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def judge(variables: Any, ids: Any, start: Any) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(0), start)
        cost, (metrics, _) = loss(variables, {"report": ids}, key)
        return ids.shape[0] * jnp.stack([cost, metrics["accuracy"]])

    def hook(state: TrainState, step: int) -> dict[str, float]:
        del step
        parts = [
            np.asarray(judge(state.averaged_variables, reports[i : i + batch_size], i))
            for i in range(0, len(reports), batch_size)
        ]
        cost, accuracy = np.sum(parts, axis=0) / len(reports)
        return {"perplexity": float(np.exp(cost)), "accuracy": float(accuracy)}

    return hook


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
