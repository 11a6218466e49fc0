"""Every system that compares a batch gives the same loss and gradient in chunks.

The law itself is proven in tests/train/test_chunks.py; here it is each system's own cut
between what sees a chunk and what sees the batch. Towers and augmentation are the
smallest that use all they are given.
"""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax.train.chunks import ChunkedLoss
from medjax.vlp.convirt import ConvirtConfig
from medjax.vlp.gloria import GloriaConfig
from medjax.vlp.imitate import ImitateConfig
from medjax.vlp.mflag import MFlagConfig
from medjax.vlp.mgca import MgcaConfig
from medjax.vlp.systems import FAMILIES, family
from medjax.vlp.towers import (
    ImageFeatures,
    ImageTowerConfig,
    TextFeatures,
    TextTowerConfig,
)

B, TOKENS, WIDTH = 8, 6, 128
SYSTEMS = [
    ConvirtConfig(8, 8, head="batchnorm", text="report", frozen_text_layers=0),
    MFlagConfig(8, 8),
    ImitateConfig(8, 8, 8, 8, token_length=16),
    GloriaConfig(width=WIDTH, text="report"),
    # Soft, for the sake of rounding: exponents of 20 amplify it beyond 1e-5.
    MgcaConfig(8, 8, 0.5, 0.5, prototypes=4, sinkhorn_epsilon=0.5),
]


class See(nn.Module):
    """A film to four maps of one layer each."""

    config: ImageTowerConfig
    look: bool = False

    @nn.compact
    def __call__(self, image, *, train=False):
        maps = tuple(nn.tanh(nn.Dense(8)(image)) for _ in range(4))
        return ImageFeatures(maps, maps[3].mean((1, 2)), maps[2])


class Read(nn.Module):
    """A text to the vectors of its tokens."""

    config: TextTowerConfig
    look: bool = False

    def __call__(self, ids, *, train=False):
        return self.features(ids, train=train).pooled

    @nn.compact
    def features(self, ids, *, train=False):
        tokens = nn.Embed(40, WIDTH)(ids)
        return TextFeatures(tokens.mean(1), tokens, nn.softmax(tokens[..., 0]))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Towers that compile at once; augmentation that every drawn number changes."""
    for room in ("convirt", "mflag", "imitate", "gloria", "mgca"):
        monkeypatch.setattr(f"medjax.vlp.{room}.ImageTower", See)
        monkeypatch.setattr(f"medjax.vlp.{room}.TextTower", Read)
    for room in ("system", "mflag", "imitate"):
        monkeypatch.setattr(
            f"medjax.vlp.{room}.augment_by",
            lambda films, config, drawn: jnp.stack(
                [films / 64 - 2 + drawn[:, i, None, None] for i in range(3)], axis=-1
            ),
        )

    def evaluate(films, config):
        return jnp.repeat(films[..., None] / 255, 3, axis=-1)

    monkeypatch.setattr("medjax.vlp.system.evaluate", evaluate)


@pytest.mark.parametrize("config", SYSTEMS, ids=family)
def test_loss_and_gradient_do_not_depend_on_chunks(config, monkeypatch):
    if family(config) == "mgca":
        # Heads of words and patches have a chunk's statistics: here, running ones.
        room = importlib.import_module("medjax.vlp.mgca")
        head = room.token_by_token
        still = lambda *args, **how: head(*args, **{**how, "train": False})  # noqa: E731
        monkeypatch.setattr(room, "token_by_token", still)
    image, text = ImageTowerConfig("resnet_tiny"), TextTowerConfig("tiny")
    system = FAMILIES[family(config)][1](config, image, text, None)
    assert isinstance(system.loss, ChunkedLoss)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 40, (B, TOKENS)).astype(np.int32)
    ids[:, 0], ids[::2, 4:] = 2, 0
    batch = {"image": jnp.asarray(rng.integers(0, 256, (B, 4, 4)), jnp.uint8)}
    for field in system.tokens:
        batch[field] = jnp.asarray(ids)
        batch[f"has_{field}"] = jnp.asarray(np.arange(B) != 3, jnp.uint8)
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)
    variables["params"] = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0, s.shape[0] ** -0.5, s.shape), s.dtype),
        shapes["params"],
    )

    def found(loss):
        def value(params):
            return loss({**variables, "params": params}, batch, jax.random.key(1))

        return jax.jit(jax.value_and_grad(value, has_aux=True))(variables["params"])

    (total, (terms, updated)), gradient = found(system.loss)
    # Three, three and two.
    (again, (parts, moved)), slope = found(system.loss.in_chunks(3))
    np.testing.assert_allclose(again, total, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        (parts, moved),
        (terms, updated),
    )
    difference = jax.tree.map(jnp.subtract, slope, gradient)
    size = float(optax.tree.norm(gradient))
    assert float(optax.tree.norm(difference)) < 1e-5 * size
