"""The language model asks for what is hidden, and computes no other logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.plan.flops import count_flops
from medjax.train.state import TrainState
from medjax.vlp.language import (
    MaskedLanguageModel,
    MlmConfig,
    asked_places,
    corrupt,
    masked_language_model,
    most_asked,
)
from medjax.vlp.report_tower import held_out
from medjax.vlp.towers import TextTowerConfig, bert_config

TEXT = TextTowerConfig("tiny", max_length=32, vocab_size=200)
WORDS = np.random.default_rng(0).integers(5, 200, (4, 32), np.int32)
BATCH = {"report": jnp.asarray(WORDS)}


def test_the_loss_is_that_of_all_logits_where_pieces_are_hidden():
    init, loss = masked_language_model(TEXT)
    key = jax.random.key(1)
    variables = jax.jit(init)(jax.random.key(0), BATCH)
    value, (metrics, _) = jax.jit(loss)(variables, BATCH, key)
    ids = jnp.asarray(BATCH["report"])
    hidden, chosen = corrupt(ids, MlmConfig(), vocabulary=200, key=key)
    everywhere = jnp.broadcast_to(jnp.arange(32, dtype=jnp.int32), (4, 32))
    logits = jax.jit(MaskedLanguageModel(TEXT).apply)(variables, hidden, everywhere)
    cost = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
    right = (logits.argmax(-1) == ids)[chosen]
    np.testing.assert_allclose(value, cost[chosen].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)
    assert 4 < chosen.sum() < 40


def test_places_are_the_chosen_ones_in_order():
    chosen = jnp.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1]], bool)
    at, real = asked_places(chosen, 3)
    assert at[0].tolist() == [1, 3, 4] and at[1, 0] == 4
    assert real.tolist() == [[True] * 3, [True, False, False]]
    assert asked_places(chosen, 2)[0][0].tolist() == [1, 3], "no more than so many"


def test_most_that_are_asked_for_is_rarely_too_few():
    draws = np.random.default_rng(0).binomial(256, 0.15, 100_000)
    most = most_asked(256, 0.15)
    assert (draws > most).mean() < 1e-4 and most < 256 / 4
    assert most_asked(4, 0.9) == 4


def test_logits_of_a_large_vocabulary_are_a_fraction_of_the_work():
    """BERT's own vocabulary: 61 of 256 places, and 2.6 of the 9.7 GFLOP of a report."""
    text = dataclasses.replace(TEXT, vocab_size=28_996, max_length=256)
    init, loss = masked_language_model(text)
    batch = {"report": jax.ShapeDtypeStruct((8, 256), jnp.int32)}
    key = jax.random.key(0)
    shapes = jax.eval_shape(init, key, batch)
    step = jax.make_jaxpr(jax.grad(lambda v: loss(v, batch_of(batch), key)[0]))(shapes)
    width, vocabulary = bert_config(text).hidden_size, 28_996
    head = 3 * 2 * 8 * most_asked(256, 0.15) * width * vocabulary
    every = 3 * 2 * 8 * 256 * width * vocabulary
    found = count_flops(step).total
    assert head < found < head + 0.15 * every


def test_a_report_tower_is_judged_by_reports_it_has_not_read():
    """Perplexity by hand, one report after another, whatever the batch."""
    init, loss = masked_language_model(TEXT)
    rng = np.random.default_rng(0)
    reports = rng.integers(5, TEXT.vocab_size, (6, TEXT.max_length)).astype(np.int32)
    variables = jax.jit(init)(jax.random.key(0), {"report": jnp.asarray(reports)})
    state = TrainState(6, variables["params"], {}, ())
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    found = held_out(loss, reports, mesh, batch_size=1)(state, 0)
    by_hand = []

    @jax.jit
    def everywhere(ids, key):
        hidden, chosen = corrupt(ids, MlmConfig(), vocabulary=TEXT.vocab_size, key=key)
        at = jnp.arange(TEXT.max_length, dtype=jnp.int32)[None]
        logits = MaskedLanguageModel(TEXT).apply(variables, hidden, at)
        return jax.nn.log_softmax(logits), chosen

    for i, ids in enumerate(reports):
        key = jax.random.fold_in(jax.random.key(0), i)
        told, chosen = map(np.asarray, everywhere(ids[None], key))
        at = np.flatnonzero(chosen[0])
        by_hand.append(-told[0, at, ids[at]].sum() / max(len(at), 1))
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(by_hand)), rel=1e-5)
    # A last batch that is smaller counts as its reports.
    ragged = held_out(loss, reports, mesh, batch_size=4)(state, 0)
    ids = {0: jnp.asarray(reports[:4]), 4: jnp.asarray(reports[4:])}
    cost = jax.jit(loss)
    costs = {
        i: cost(variables, {"report": x}, jax.random.fold_in(jax.random.key(0), i))[0]
        for i, x in ids.items()
    }
    mean = (4 * costs[0] + 2 * costs[4]) / 6
    assert ragged["perplexity"] == pytest.approx(np.exp(mean), rel=1e-5)


def batch_of(specs):
    return {name: jnp.zeros(x.shape, x.dtype) for name, x in specs.items()}
