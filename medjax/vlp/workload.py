"""What a pre-training run trains and on what shapes, by its flags alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from medjax.data.records import METADATA, read_metadata
from medjax.train.workload import Workload, spec
from medjax.vlp.corpus import CorpusConfig
from medjax.vlp.datasets.prepared import TOKENS
from medjax.vlp.pretraining import Pretraining
from medjax.vlp.rendering import embedded_studies
from medjax.vlp.systems import FAMILIES, family
from medjax.vlp.towers import TextTowerConfig, bert_config
from medjax.weights.files import without_network

VOCABULARY = 28_996
"""Word-pieces of the cased vocabulary that clinical BERTs have."""


def workload(config: Pretraining) -> Workload:
    """The contrast of films and reports that `medjax.vlp.pretraining.run` trains.

    Args:
      config: the run.

    Returns:
      System, batch and rows. Sizes of a report tower whose checkpoint is not at hand
      are those of BERT base; those of one that is learnt are what its flags say.
    """
    implementation = config.kernels.implementation or config.loss.implementation
    contrast = dataclasses.replace(config.loss, implementation=implementation)
    text, assumed = settled(config.text)
    build = FAMILIES[family(config.system)][1]
    system = build(config.system, config.image, text, contrast)
    size, side = config.data.batch_size, config.data.image_size
    batch = {"image": spec((size, side, side), np.uint8)}
    for name in system.tokens:
        batch[name] = spec((size, config.text.max_length), np.int32)
        if name != "report" and name in TOKENS:
            batch[f"has_{name}"] = spec((size,), np.bool_)
    learns_language = config.text.checkpoint is None and config.language.steps > 0
    if config.cache_text and (config.text.checkpoint or learns_language):
        shapes = jax.eval_shape(system.init, jax.random.key(0), dict(batch))
        for name in system.cached_tokens:
            known = jax.eval_shape(system.text_features, shapes, batch[name])
            batch[f"{name}_features"] = spec((size, *known.shape[1:]), np.float32)
    return Workload(system, batch, rows(config.data), config, assumed=assumed)


def settled(text: TextTowerConfig) -> tuple[TextTowerConfig, tuple[str, ...]]:
    """A report tower whose sizes are known, and what was assumed of them."""
    if text.checkpoint is None:
        sizes = bert_config(text)
        told = (
            f"text: a vocabulary of {sizes.vocab_size} word-pieces; a run counts those "
            "of its reports"
        )
        return text, () if text.vocab_size else (told,)
    try:
        with without_network():
            bert_config(text)
    except (OSError, ValueError) as error:
        told = (
            f"text.checkpoint: {text.checkpoint} is not at hand ("
            f"{type(error).__name__}): sizes of BERT base, {VOCABULARY} word-pieces"
        )
        sizes = dataclasses.replace(
            text, checkpoint=None, architecture="base", vocab_size=VOCABULARY
        )
        return sizes, (told,)
    return text, ()


def rows(config: CorpusConfig) -> int | None:
    """Studies of the training split; None: data are named that are not here."""
    if config.root is None:
        studies = embedded_studies(config.patients, config.seed)
        return sum(study.split == "train" for study in studies)
    known = prepared(config)
    return None if known is None else int(known["splits"]["train"])


def prepared(config: CorpusConfig) -> Mapping[str, Any] | None:
    """What the prepared set that is named says of itself; None: it is not here."""
    for folder in (config.root, config.prepared):
        if folder is not None and (folder / METADATA).is_file():
            return read_metadata(folder)
    return None
