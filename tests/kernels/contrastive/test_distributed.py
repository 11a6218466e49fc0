"""The loss over eight devices is the loss of one device that holds the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from medjax_kernels.contrastive import softmax_loss
from tests.kernels.contrastive import oracle

SCALE, BIAS = np.float32(14.0), np.float32(-3.0)
AXES = ("data", "fsdp")


def mesh(*sizes: int, names: tuple[str, ...] = AXES) -> jax.sharding.Mesh:
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


@pytest.mark.parametrize("distributed", ["all_gather", "all_gather_both", "ring"])
@pytest.mark.parametrize(
    ("loss", "kind", "chunk", "check_vma"),
    [
        ("softmax", "similarity", 2, True),
        ("softmax", "groups", None, False),
        ("softmax", "two priors", None, True),
        ("sigmoid", "dense", 2, False),
        ("sigmoid", "identity", None, True),
    ],
)
def test_equals_one_device(loss, kind, chunk, distributed, check_vma):
    n = 24
    x, y, weights = oracle.batch(n)
    problem = (x, y, SCALE, BIAS, oracle.target(kind, n), weights)
    expected = oracle.value_and_gradient(oracle.loss(loss), *problem)
    local = oracle.loss(loss, axis_name=AXES, distributed=distributed, chunk=chunk)
    with jax.set_mesh(mesh(4, 2)):
        everywhere = jax.shard_map(
            local,
            in_specs=(P(AXES), P(AXES), P(), P(), P(AXES), P(AXES)),
            out_specs=P(),
            check_vma=check_vma,
        )
        actual = oracle.value_and_gradient(everywhere, *problem)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())


@pytest.mark.parametrize("distributed", ["all_gather", "all_gather_both"])
def test_what_takes_no_part_reaches_nobody(distributed):
    x, y, weights = oracle.batch(24)
    weights = jnp.asarray(np.arange(24) % 5 != 0, jnp.float32)
    dead = (weights == 0)[:, None]
    options = dict(logit_scale=14.0, axis_name=AXES, distributed=distributed)
    step = jax.value_and_grad(
        lambda x, y, w: sum(softmax_loss(x, y, weights=w, **options)), (0, 1)
    )
    with jax.set_mesh(mesh(4, 2)):
        everywhere = jax.jit(
            jax.shard_map(step, in_specs=P(AXES), out_specs=(P(), P(AXES)))
        )
        expected = everywhere(x, y, weights)
        found = everywhere(*(jnp.where(dead, jnp.nan, a) for a in (x, y)), weights)
    for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, e)


def test_one_axis_of_a_larger_mesh():
    x, y, weights = oracle.batch(24)
    problem = (x, y, SCALE, BIAS, oracle.target("similarity", 24), weights)
    expected = oracle.value_and_gradient(oracle.loss("softmax"), *problem)
    with jax.set_mesh(mesh(4, 2, names=("data", "model"))):
        everywhere = jax.shard_map(
            oracle.loss("softmax", axis_name="data", distributed="ring"),
            in_specs=(P("data"), P("data"), P(), P(), P("data"), P("data")),
            out_specs=P(),
        )
        actual = oracle.value_and_gradient(everywhere, *problem)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())


def test_local_negatives_are_the_mean_of_separate_batches():
    x, y, weights = oracle.batch(24)

    def local(x, y, scale, weights):
        both = softmax_loss(x, y, logit_scale=scale, weights=weights)
        return jax.lax.pmean(sum(both), "data")

    def separate(x, y, scale, weights):
        blocks = [a.reshape(8, 3, *a.shape[1:]) for a in (x, y, weights)]
        parts = zip(*blocks, strict=True)
        return sum(
            sum(softmax_loss(x, y, logit_scale=scale, weights=w)) for x, y, w in parts
        ) / 8  # fmt: skip

    expected = jax.grad(separate, (0, 2))(x, y, SCALE, weights)
    with jax.set_mesh(mesh(8, names=("data",))):
        everywhere = jax.shard_map(
            local,
            in_specs=(P("data"), P("data"), P(), P("data")),
            out_specs=P(),
        )
        actual = jax.jit(jax.grad(everywhere, (0, 2)))(x, y, SCALE, weights)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


def test_no_device_holds_the_matrix():
    n, chunk = 2048, 32
    x, y, _ = oracle.batch(n, 16)

    def local(x, y):
        options = dict(axis_name="data", distributed="ring", chunk=chunk)
        return sum(softmax_loss(x, y, logit_scale=14.0, **options))

    with jax.set_mesh(mesh(8, names=("data",))):
        everywhere = jax.shard_map(
            local, in_specs=(P("data"), P("data")), out_specs=P()
        )
        step = jax.jit(jax.grad(everywhere, (0, 1))).lower(x, y).compile()
    # One device: its block of n/8 columns, chunk rows at a time, a few copies of both.
    block = 4 * (n // 8) * (chunk + 16)
    assert step.memory_analysis().temp_size_in_bytes < 12 * block


def test_a_ring_keeps_no_rows_of_the_matrix_by_itself():
    """At 8192 pairs a device's rows of logits would be 34 MB; three blocks that travel,
    features and their gradient, are 13 MB."""
    n, d = 8192, 512
    pair = jax.ShapeDtypeStruct((n, d), jnp.float32)

    def local(x, y):
        return sum(
            softmax_loss(x, y, logit_scale=14.0, axis_name="data", distributed="ring")
        )

    with jax.set_mesh(mesh(8, names=("data",))):
        everywhere = jax.shard_map(
            local, in_specs=(P("data"), P("data")), out_specs=P()
        )
        step = jax.jit(jax.grad(everywhere, (0, 1))).lower(pair, pair).compile()
    block = (n // 8) * d * (4 + 4)
    assert step.memory_analysis().temp_size_in_bytes < 3 * block + 2**20
