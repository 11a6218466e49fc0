"""Batches of texts that are cut to what they need: a loss does not see the difference.

Which rows meet, and how long their batch is, is proven in tests/data/test_lengths.py.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data.lengths import Lengths
from medjax.data.pipeline import ArraySource, PipelineConfig, build_pipeline
from medjax.nn.bert import BERTS
from medjax.vlp.augment import AugmentConfig
from medjax.vlp.convirt import ConvirtConfig, convirt
from medjax.vlp.mgca import MgcaConfig, mgca
from medjax.vlp.tokens import train_tokenizer
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

SIZE, FULL, ROWS = 16, 16, 12
STILL = AugmentConfig(size=SIZE, normalise="half")
SYSTEMS = {
    "convirt": (convirt, ConvirtConfig(features=8, text="report", augment=STILL)),
    "mgca": (mgca, MgcaConfig(features=8, mask_pads=True, augment=STILL)),
}


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A report tower without dropout, whose draws go by the shape."""
    folder = tmp_path_factory.mktemp("bert")
    words = train_tokenizer(["no effusion", "small nodule"] * 2, vocab_size=60)
    words.save(folder)
    sizes = dataclasses.replace(
        BERTS["tiny"],
        vocab_size=words.vocab_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    (folder / "config.json").write_text(json.dumps(sizes.to_dict()))
    text = TextTowerConfig(checkpoint=str(folder), max_length=FULL)
    return text, words.vocab_size


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_loss_is_the_same_where_a_batch_is_cut(name, tower):
    text, words = tower
    build, config = SYSTEMS[name]
    system = build(config, ImageTowerConfig("vit_tiny"), text)
    rng = np.random.default_rng(0)
    known = rng.integers(3, 10, ROWS)
    ids = rng.integers(5, words, (ROWS, FULL)).astype(np.int32)
    ids = np.where(np.arange(FULL) < known[:, None], ids, 0)
    image = rng.integers(0, 256, (ROWS, SIZE, SIZE), dtype=np.uint8)
    source = ArraySource({"image": image, "report": ids})

    def first(lengths):
        config = PipelineConfig(batch_size=6, epochs=1)
        return next(iter(build_pipeline(source, config, lengths=lengths)))

    full = first(None)
    cut = first(Lengths(known, system.tokens, (10, FULL), window=1))
    assert full["report"].shape == (6, FULL) and cut["report"].shape == (6, 10)
    shapes = jax.eval_shape(system.init, jax.random.key(0), full)
    variables = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0.0, 0.2, s.shape), s.dtype), shapes
    )
    loss = jax.jit(lambda *given: system.loss(*given, jax.random.key(0))[0])
    np.testing.assert_allclose(loss(variables, cut), loss(variables, full), rtol=1e-5)
