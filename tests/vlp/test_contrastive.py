"""The contrast over a sharded batch is the contrast of one device."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medjax.train.collectives import read_collectives
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.plan.topologies import devices, topology
from medjax.vlp.contrastive import ContrastConfig, contrast, normalise, on_each_device
from medjax_kernels import compat
from medjax_kernels.aot import MissingCompilerError
from medjax_kernels.contrastive import Similarity

N, D, P = 96, 16, 24


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    x, y = (normalise(jnp.asarray(rng.normal(size=(N, D)), jnp.float32)) for _ in "xy")
    prior = jnp.asarray(rng.normal(size=(N, P)), jnp.float32)
    weights = jnp.asarray(rng.uniform(size=N) > 0.2, jnp.float32)
    return x, y, prior, weights


def loss(x, y, prior, weights, config):
    targets = Similarity(prior, smoothing="exp", strength=1.0)
    one, other = contrast(
        x, y, temperature=0.07, targets=targets, weights=weights, config=config
    )
    return one + 0.5 * other


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(2, 2, 2), MeshConfig(1, 8)])
@pytest.mark.parametrize(
    "config",
    [
        ContrastConfig(),
        ContrastConfig(chunk=4),
        ContrastConfig(distributed="all_gather_both"),
        ContrastConfig(distributed="all_gather_both", chunk=4),
        ContrastConfig(distributed="ring"),
        ContrastConfig(distributed="ring", chunk=4),
    ],
    ids=lambda c: f"{c.distributed}-{c.chunk}",
)
def test_sharded_equals_single_device(arrays, mesh, config):
    step = jax.value_and_grad(loss, argnums=(0, 1))
    value, grads = step(*arrays, ContrastConfig())
    mesh = make_mesh(mesh)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(a, rows) for a in arrays]
        got, got_grads = jax.jit(lambda *a: step(*a, config))(*sharded)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    for ours, theirs in zip(got_grads, grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)


def largest_square(arrays, config, mesh):
    """The largest number of elements any two-dimensional array of the program has."""
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(lambda *a: loss(*a, config), argnums=(0, 1)))
        text = (
            step.lower(*(jax.device_put(a, rows) for a in arrays)).compile().as_text()
        )
    return max(int(a) * int(b) for a, b in re.findall(r"f32\[(\d+),(\d+)\]", text))


def test_no_device_holds_the_whole_matrix(arrays):
    mesh = make_mesh(MeshConfig())
    tile = ContrastConfig(chunk=4)
    assert largest_square(arrays, tile, mesh) <= max(4 * N, N * max(D, P))
    one = make_mesh(MeshConfig(1), devices=jax.devices()[:1])
    assert largest_square(arrays, ContrastConfig(), one) >= N * N  # it would be seen


def test_local_negatives_are_those_of_each_device(arrays):
    mesh = make_mesh(MeshConfig())
    config = ContrastConfig(negatives="local")
    with jax.set_mesh(mesh):
        got = jax.jit(lambda *a: loss(*a, config))(*arrays)
    blocks = [loss(*(a[i : i + N // 8] for a in arrays), None) for i in range(0, N, 12)]
    np.testing.assert_allclose(got, np.mean(blocks), rtol=1e-5)


@pytest.mark.parametrize("distributed", ["all_gather", "all_gather_both"])
def test_a_narrow_wire_rounds_once_and_adds_in_float32(arrays, distributed):
    """Exactly the loss and the gradients of what was rounded, y or x and y, each of
    which moves a logit by at most 2^-8 / temperature."""
    x, y, _, weights = arrays

    def plain(x, y, weights, config=None):
        return sum(contrast(x, y, temperature=0.07, weights=weights, config=config))

    step = jax.value_and_grad(plain, argnums=(0, 1))
    rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, y)]
    alone = distributed == "all_gather"
    value, grads = step(x if alone else rounded[0], rounded[1], weights)
    config = ContrastConfig(distributed=distributed, wire="bfloat16")
    with jax.set_mesh(make_mesh(MeshConfig(4, 2))):
        got, got_grads = jax.jit(lambda *a: step(*a, config))(x, y, weights)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    for ours, theirs in zip(got_grads, grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)
    error = abs(got - plain(x, y, weights))
    assert 1e-6 < error <= 2 * (2 - alone) * 2 * 2**-8 / 0.07
    with pytest.raises(ValueError, match="wire is 'bfloat16', expected 'float32' aro"):
        plain(x, y, weights, dataclasses.replace(config, distributed="ring"))


def test_a_narrow_wire_with_soft_targets_is_close(arrays):
    config = ContrastConfig(wire="bfloat16")
    exact = loss(*arrays, None)
    with jax.set_mesh(make_mesh(MeshConfig(8))):
        got = jax.jit(lambda *a: loss(*a, config))(*arrays)
    assert 1e-7 < abs(got - exact) / exact < 2e-3


@pytest.mark.parametrize("distributed", ["all_gather", "all_gather_both"])
def test_a_tpu_gathers_once_and_scatters_gradients(distributed):
    """Compiled for four chips that are not here: two contrasts of one y."""
    try:
        mesh = make_mesh(MeshConfig(), devices=devices(topology("v5e-4")))
    except MissingCompilerError as error:
        pytest.skip(str(error))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    n, d = 1024, 256
    one = jax.ShapeDtypeStruct((n, d), jnp.float32, sharding=rows)
    config = ContrastConfig(distributed=distributed, dtype="bfloat16")

    def both(exchange, a, b, y):
        shared = dict(temperature=0.1, config=config, exchange=exchange)
        return sum(sum(contrast(x, y, **shared)) for x in (a, b))

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(on_each_device(both, config), argnums=(0, 1, 2)))
        text = step.lower(one, one, one).compile().as_text()
    matrices = [
        (each.kind, dtype, shape)
        for each in read_collectives(text)
        for dtype, shape in each.shapes
        if len(shape) > 1 and shape[1] == d
    ]
    gathered = ("all-gather", "bf16", (n, d))
    assert (
        sorted(matrices)
        == {
            "all_gather": [gathered, ("reduce-scatter", "f32", (n // 4, d))],
            "all_gather_both": [gathered] * 3,
        }[distributed]
    )


def test_bfloat16_features_are_multiplied_as_such(arrays):
    x, y, prior, weights = arrays
    rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, y)]
    got = loss(x, y, prior, weights, ContrastConfig(dtype="bfloat16"))
    want = loss(*rounded, prior, weights, None)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert abs(got - loss(*arrays, None)) > 1e-5 * abs(got)  # rounding would be seen


def test_the_gpu_kernel_is_reached_by_bfloat16_alone(arrays):
    def program(dtype):
        config = ContrastConfig(dtype=dtype, implementation="gpu")
        step = jax.jit(lambda *a: loss(*a, config))
        return step.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()

    with compat.target("gpu"):
        assert "mosaic_gpu" in program("bfloat16")
        with pytest.raises(NotImplementedError, match="float32"):
            program("float32")
