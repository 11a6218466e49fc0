"""Work counted on jaxprs: closed forms, and XLA's count of programs without loops."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.plan.flops import count_flops, part_of


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def count(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def xla(function, *arguments):
    """Of the program as it is lowered: nothing is compiled."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def convolve(x, w, stride=1, groups=1, padding="SAME", dilated=1):
    return jax.lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        lhs_dilation=(dilated, dilated),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def network(x, first, second, head):
    """Strided and grouped convolutions, a pool and a product."""
    x = jax.nn.relu(convolve(x, first, stride=2))
    x = jax.nn.relu(convolve(x, second, groups=4))
    return jnp.sum(jnp.mean(x, (1, 2)) @ head)


def attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("bhqd,bhkd->bhqk", q, k))
    return jnp.sum(jnp.einsum("bhqk,bhkd->bhqd", weights, v) ** 2)


@pytest.mark.parametrize(
    "function, arguments",
    [
        (
            network,
            (shape(4, 30, 30, 16), shape(7, 7, 16, 64), shape(3, 3, 16, 64))
            + (shape(64, 512),),
        ),
        # Its softmax is elementwise, which is not counted here: the less of it, the
        # more numbers a head has.
        (attention, (shape(2, 4, 64, 512),) * 3),
        (
            lambda x, w: jnp.sum(convolve(x, w, padding=[(1, 2), (1, 2)], dilated=2)),
            (shape(2, 16, 16, 32), shape(4, 4, 32, 32)),
        ),
    ],
    ids=["convolutions", "attention", "transposed"],
)
def test_as_xla_counts_with_gradients(function, arguments):
    trained = jax.grad(function, tuple(range(len(arguments))))
    found = count(trained, *arguments)
    assert found.unknown_loops == 0
    assert found.total <= xla(trained, *arguments)
    assert found.total == pytest.approx(xla(trained, *arguments), rel=0.02)


def test_a_padded_border_is_not_work():
    """A 3x3 kernel on 5x5 with a border of zeros: 13 of 15 meetings along each axis."""
    found = count(convolve, shape(1, 5, 5, 1), shape(3, 3, 1, 1))
    assert found.total == 2 * 13 * 13


def test_loops_by_their_length_and_branches_by_the_largest():
    w = shape(8, 8)

    def looped(x, w):
        x, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, length=5)
        x = jax.lax.fori_loop(0, 3, lambda i, x: x @ w, x)
        x = jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x, x)
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ w, x)

    found = count(looped, shape(4, 8), w)
    assert found.total == (5 + 3 + 2 + 1) * 2 * 4 * 8 * 8
    assert found.unknown_loops == 1, "the last one"


def test_of_forms_by_device_that_of_accelerators_is_counted():
    """As of halving with a kernel of 3, where a CPU does more."""
    pair = {"cpu": lambda x, w: x @ w @ w @ w, "default": lambda x, w: x @ w}

    def loss(x, w):
        return jnp.sum(jax.lax.platform_dependent(x, w, **pair))

    once = 2 * 4 * 8 * 8
    assert count(loss, shape(4, 8), shape(8, 8)).total == once
    both = jax.grad(loss, argnums=(0, 1))
    assert count(both, shape(4, 8), shape(8, 8)).total == 2 * once


def test_what_is_computed_again_is_told_apart():
    def block(x, w):
        return jnp.tanh(x @ w)

    def loss(w, x, kept):
        one = block if kept else jax.checkpoint(block)
        return jnp.sum(one(one(x, w), w))

    w, x = shape(8, 8), shape(4, 8)
    once = 2 * 4 * 8 * 8
    trained = jax.value_and_grad(loss)
    plain = count(lambda w, x: trained(w, x, True), w, x)
    again = count(lambda w, x: trained(w, x, False), w, x)
    assert plain.total == plain.useful == again.useful == 5 * once
    assert again.total - again.useful == 2 * once


def test_dtypes_transforms_and_complex_products():
    def step(x, y, z):
        return (x @ x.T).astype(jnp.float32), jnp.fft.fft2(y), z @ z.T

    found = count(
        step,
        shape(4, 8, dtype=jnp.bfloat16),
        shape(3, 16, 16, dtype=jnp.complex64),
        shape(4, 8, dtype=jnp.complex64),
    ).flops
    by = {(work.kind, work.dtype): flops for work, flops in found.items()}
    assert by == {
        ("matmul", "bfloat16"): 2 * 4 * 4 * 8,
        ("fft", "complex64"): 5 * 3 * 256 * 8,
        ("matmul", "complex64"): 8 * 4 * 4 * 8,
    }


def test_every_device_of_a_shard_map_is_counted():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    axes = ("data", "fsdp")

    def logits(x, y):
        everyone = jax.lax.all_gather(y, axes, tiled=True)
        return x @ everyone.T

    mapped = jax.shard_map(logits, mesh=mesh, in_specs=P(axes), out_specs=P(axes))
    found = count(mapped, shape(64, 16), shape(64, 16))
    assert found.total == 2 * 64 * 64 * 16
    assert {work.part for work in found.flops} == {"contrast"}


def test_parts_are_the_modules_below_the_system():
    for names, part in {
        "/jvp(Imitate.compare)/image/resnet/conv1": "image",
        "/transpose(jvp(Imitate.compare))/aggregator/out": "aggregator",
        "/jvp(VarNet)/cascade0/while/body/conv": "cascade0",
        "/jvp()/id,jd->ij": "-",
    }.items():
        assert part_of(names) == part
