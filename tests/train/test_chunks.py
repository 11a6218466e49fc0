"""Chunks change nothing of a loss but its memory, and what is a chunk's own is told."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import train
from medjax.nn.normalization import BatchNorm
from medjax.train.chunks import ChunkedLoss, encode_in_chunks
from medjax.train.mesh import MeshConfig, make_mesh

B, D = 24, 6


class Encoder(nn.Module):
    """Rows to vectors, with or without statistics of the rows."""

    norm: bool = False
    width: int = D
    layers: int = 1
    statistics: str = "global"

    @nn.compact
    def __call__(self, x):
        for _ in range(self.layers):
            x = nn.tanh(nn.Dense(self.width)(x))
        return BatchNorm(statistics=self.statistics)(x, train=True) if self.norm else x


def contrast(x):
    """Each row against all others: no sum over rows taken apart."""
    return jnp.mean(jax.nn.logsumexp(x @ x.T, axis=1) - 2 * jnp.sum(x * x, axis=1))


def loss_of(module):
    def loss(variables, batch, key, *, chunks=1):
        def encode(rows, _):
            return module.apply(variables, rows["x"], mutable=["batch_stats"])

        encoded, updated = encode_in_chunks(encode, batch, key, chunks=chunks)
        return contrast(encoded), ({}, updated)

    return ChunkedLoss(loss)


def variables_of(module):
    return module.init(jax.random.key(0), jnp.zeros((2, D)))


def rows(count=B):
    return {"x": np.random.default_rng(0).normal(size=(count, D)).astype(np.float32)}


def found(loss, variables, batch, mesh=None):
    """Loss, statistics and gradient of the parameters, in one program."""

    def value(params):
        return loss({**variables, "params": params}, batch, jax.random.key(1))

    run = jax.jit(jax.value_and_grad(value, has_aux=True))
    if mesh is None:
        return run(variables["params"])
    with jax.set_mesh(mesh):
        return run(variables["params"])


def assert_same(one, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other
    )


@pytest.fixture(scope="module")
def whole():
    """What the batch in one piece gives, without statistics."""
    module = Encoder()
    variables = variables_of(module)
    return loss_of(module), variables, found(loss_of(module), variables, rows())


@pytest.mark.parametrize("chunks", [4, 5, 24], ids=["even", "ragged", "single rows"])
def test_loss_and_gradient_are_those_of_the_whole_batch(whole, chunks):
    loss, variables, expected = whole
    assert_same(found(loss.in_chunks(chunks), variables, rows()), expected)


@pytest.mark.parametrize("chunks", [3, 2])
def test_eight_devices_see_what_one_sees(whole, chunks):
    loss, variables, expected = whole
    mesh = make_mesh(MeshConfig(4, 2))
    batch = train.sharding.shard_batch(rows(), mesh)
    assert_same(found(loss.in_chunks(chunks), variables, batch, mesh), expected)


def test_statistics_are_those_of_chunks_as_if_each_had_a_device():
    """Four chunks on one device against four devices that tell each other nothing."""
    alone, apart = Encoder(norm=True), Encoder(norm=True, statistics="device")
    variables = variables_of(alone)
    batch = rows()
    # A chunk has every fourth row, a device consecutive ones.
    order = np.arange(B).reshape(-1, 4).T.ravel()
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:4])
    dealt = train.sharding.shard_batch({"x": batch["x"][order]}, mesh)
    expected = found(loss_of(apart), variables, dealt, mesh)
    assert_same(found(loss_of(alone).in_chunks(4), variables, batch), expected)
    together = found(loss_of(alone), variables, batch)
    assert abs(together[0][0] - expected[0][0]) > 1e-3


def test_a_ragged_chunk_counts_by_its_rows():
    """The running mean of a constant shift is that of the whole batch."""
    module = Encoder(norm=True)
    variables = variables_of(module)
    # A mean near zero has a rounding of the values that it is of.
    batch = {"x": rows()["x"] + np.float32(1)}
    _, (_, updated) = loss_of(module).in_chunks(5)(variables, batch, jax.random.key(0))
    _, (_, expected) = loss_of(module)(variables, batch, jax.random.key(0))
    means = [u["batch_stats"]["BatchNorm_0"]["mean"] for u in (updated, expected)]
    np.testing.assert_allclose(*means, rtol=1e-5)


def test_memory_is_that_of_a_chunk():
    module = Encoder(width=64, layers=12)
    variables = variables_of(module)
    batch = rows(512)

    def bytes_of(loss):
        def value(params, batch):
            return loss({"params": params}, batch, jax.random.key(1))[0]

        program = jax.jit(jax.grad(value)).lower(variables["params"], batch)
        return program.compile().memory_analysis().temp_size_in_bytes

    # What is compared is kept of all rows, twice: 512 vectors and their cotangents.
    kept = 2 * 512 * 64 * 4 + 2 * 512 * 512 * 4
    at_once, one_by_one = (bytes_of(loss_of(module).in_chunks(n)) for n in (1, 16))
    assert at_once > 12 * 512 * 64 * 4
    assert one_by_one - kept < (at_once - kept) / 4


def test_the_step_accumulates_by_chunks_what_compares_a_batch(tmp_path):
    """Microbatches would give another loss: each would compare fewer rows."""
    module = Encoder(norm=False)

    def init(key, batch):
        return module.init(key, batch["x"][:2])

    class Stream:
        def __iter__(self):
            return self

        def __next__(self):
            return rows()

        def get_state(self):
            return {}

        def set_state(self, state):
            del state

    for accumulate in (1, 3):
        train.fit(
            init,
            loss_of(module),
            Stream(),
            workdir=tmp_path / str(accumulate),
            train=train.TrainConfig(steps=2, log_every=1, accumulate=accumulate),
            optimizer=train.OptimizerConfig(lr=1e-2),
            mesh=make_mesh(MeshConfig(), devices=jax.devices()[:2]),
        )
    once, thrice = (
        [row["loss"] for row in train.read_metrics(tmp_path / name) if "loss" in row]
        for name in ("1", "3")
    )
    np.testing.assert_allclose(thrice, once, rtol=1e-5)


def test_more_chunks_than_rows_are_refused():
    module = Encoder()
    with pytest.raises(ValueError, match="train.accumulate: expected at most 24"):
        loss_of(module).in_chunks(25)(variables_of(module), rows(), jax.random.key(0))
