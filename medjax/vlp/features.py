"""What a frozen report tower says of the reports, asked once and kept with the run.

It says the same of a report in every epoch, so that a training step need not ask it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jax import Array
from jax.sharding import Mesh

from medjax.data import npz
from medjax.data.whole import whole
from medjax.train.agree import everyone, on_first
from medjax.typing import Variables
from medjax.vlp.corpus import Corpus
from medjax.vlp.evaluate import encode
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.towers import TextTowerConfig
from medjax.weights import checkpoint_digest


def features_key(
    system: PretrainingSystem, corpus: Corpus, text: TextTowerConfig
) -> str:
    """What decides the features of a frozen report tower: never where it lies.

    Args:
      system: names the token fields that are asked for.
      corpus: the reports.
      text: the tower, which has a checkpoint.

    Returns:
      A name for a file.
    """
    settings = dataclasses.asdict(text)
    for neither in ("checkpoint", "remat", "tokenizer"):
        del settings[neither]
    asked = {
        "weights": checkpoint_digest(str(text.checkpoint)),
        "settings": settings,
        "reports": corpus.metadata["source_hash"],
        "fields": system.cached_tokens,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def report_features(
    system: PretrainingSystem,
    corpus: Corpus,
    text: TextTowerConfig,
    towers: Variables,
    *,
    workdir: Path,
    mesh: Mesh,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Features of every report of the training split; from the run's folder, if kept.

    Args:
      system: names the token fields that are asked for.
      corpus: the reports.
      text: the tower, which has a checkpoint.
      towers: its weights, under ``params/text``.
      workdir: folder of the run.
      mesh: where the tower is asked.
      batch_size: reports at a time.

    Returns:
      One array per field, a row per study: columns of :class:`.corpus.Rows`.
    """
    path = workdir / f"text_features_{features_key(system, corpus, text)}.npz"
    # Hosts without a shared disk: the first one has kept them, for itself alone.
    if all(everyone(path.exists(), what="features of the report tower")):
        return npz.read(path)

    def asks(field: str) -> Callable[[Variables, Mapping[str, Array]], Array]:
        return lambda variables, batch: system.text_features(variables, batch[field])

    columns = encode(
        {f"{field}_features": asks(field) for field in system.cached_tokens},
        {"params": {"text": towers["params"]["text"]}},
        corpus.source("train", system.cached_tokens),
        mesh=mesh,
        batch_size=batch_size,
        label="frozen report tower",
        unit="reports",
    )

    def keep() -> None:
        with whole(path) as draft:
            np.savez(draft, allow_pickle=False, **columns)

    on_first(keep, what="features kept")
    return columns
