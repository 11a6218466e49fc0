"""Planned work of networks, beside the products in the text of their programs.

Of loss and gradients, at shapes of a few numbers; with the border that convolutions do
not compute, and without what softmax and activations do beside.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from medjax.mri.varnet import VarNet, VarNetConfig
from medjax.nn.bert import Bert, BertConfig
from medjax.nn.resnet import ResNet, ResNetConfig
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.plan.flops import count_flops
from medjax_kernels.contrastive import softmax_loss
from tests.train.plan.products import products


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def gradients(module, *given, read, **options):
    """A loss of a module's output, with gradients of all its parameters."""

    def start(key, *given):
        return module.init(key, *given, **options)

    variables = dict(jax.eval_shape(start, jax.random.key(0), *given))
    trained = variables.pop("params")

    def loss(params, *given):
        out, _ = module.apply(
            {"params": params, **jax.tree.map(jnp.zeros_like, variables)},
            *given,
            **options,
            mutable=list(variables),
        )
        return jnp.sum(read(out) ** 2)

    return jax.value_and_grad(loss), (trained, *given)


def resnet():
    config = ResNetConfig(blocks=(1, 1, 1, 1), width=8)
    read = lambda out: out.pooled  # noqa: E731
    images = shape(2, 33, 33, 3)
    return gradients(ResNet(config), images, read=read, train=True)


def bert():
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    read = lambda out: out.last  # noqa: E731
    return gradients(Bert(config), shape(3, 12, dtype=jnp.int32), read=read)


def varnet():
    config = VarNetConfig(cascades=2, chans=2, pools=1, sens_chans=2, sens_pools=1)
    batch = {
        "kspace": shape(1, 2, 3, 16, 12, dtype=jnp.complex64),
        "mask": shape(1, 2, 16, 1, dtype=jnp.bool_),
    }
    return gradients(VarNet(config), batch, read=lambda out: out, train=True)


def contrast():
    def loss(x, y):
        return sum(softmax_loss(x, y, logit_scale=14.0, implementation="xla"))

    return jax.value_and_grad(loss, (0, 1)), (shape(24, 16), shape(24, 16))


def attention():
    def loss(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("bhqd,bhkd->bhqk", q, k))
        return jnp.sum(jnp.einsum("bhqk,bhkd->bhqd", weights, v) ** 2)

    return jax.value_and_grad(loss, (0, 1, 2)), (shape(2, 3, 8, 4),) * 3


NETWORKS = {
    "resnet": resnet,
    "bert": bert,
    "varnet": varnet,
    "contrast": contrast,
    "attention": attention,
}


def counted(traced):
    """Planned without Fourier transforms, and all that the text multiplies."""
    found = count_flops(traced.jaxpr)
    assert found.unknown_loops == 0
    ours = sum(flops for work, flops in found.flops.items() if work.kind != "fft")
    # Accelerators' forms of what differs by platform are those that are planned.
    lowered = traced.lower(lowering_platforms=("tpu",))
    return ours, products(lowered.as_text(dialect="hlo"))


@pytest.mark.parametrize("name", NETWORKS)
def test_planned_work_is_all_that_the_program_multiplies(name):
    step, arguments = NETWORKS[name]()
    planned, read = counted(jax.jit(step).trace(*arguments))
    assert planned == read > 0


def test_a_contrast_over_devices_is_that_of_the_whole_batch():
    """6 N N d: the text is of one device, which has its rows of the matrix."""
    axes = ("data", "fsdp")

    def loss(x, y):
        return sum(softmax_loss(x, y, logit_scale=14.0, axis_name=axes))

    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    whole = jax.shard_map(loss, mesh=mesh, in_specs=P(axes), out_specs=P())
    pair = shape(32, 16), shape(32, 16)
    planned, read = counted(jax.jit(jax.value_and_grad(whole, (0, 1))).trace(*pair))
    assert planned == 8 * read == 6 * 32 * 32 * 16


def test_the_text_is_read_by_its_windows_and_groups():
    """By hand: a border, a stride, groups, what lies between inputs; loops refused."""

    def read(function, *arguments):
        return products(jax.jit(function).lower(*arguments).as_text(dialect="hlo"))

    def convolve(x, w, **options):
        numbers = ("NHWC", "HWIO", "NHWC")
        options = {"window_strides": (1, 1), "padding": "SAME"} | options
        return jax.lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)

    image = shape(1, 5, 5, 4)
    # Of 15 taps along an axis 13 are inside; with a stride of two, 7 of 9.
    assert read(convolve, image, shape(3, 3, 4, 2)) == 2 * 13**2 * 4 * 2
    halved = functools.partial(convolve, window_strides=(2, 2), feature_group_count=2)
    assert read(halved, image, shape(3, 3, 2, 6)) == 2 * 7**2 * 2 * 6
    # Two taps each half a number apart: one of them meets it at every place.
    doubled = functools.partial(convolve, lhs_dilation=(2, 2), padding=[(1, 1), (1, 1)])
    assert read(doubled, image, shape(2, 2, 4, 3)) == 2 * 10**2 * 4 * 3
    product = lambda x: x @ x  # noqa: E731
    assert read(product, shape(4, 4, dtype=jnp.complex64)) == 8 * 4**3
    assert read(lambda x: (x @ x, x)[1], shape(4, 4)) == 0
    with pytest.raises(ValueError, match="products inside a while"):
        read(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x @ x, x), shape(4, 4))
