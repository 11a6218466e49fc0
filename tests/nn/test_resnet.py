"""Residual networks are PyTorch's, by stored arrays, and what else they promise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.resnet import RESNETS, ResNet
from medjax.weights import from_torch, to_torch
from tests.golden import towers
from tests.nn.agreement import close
from tests.nn.small_resnets import SMALL, evaluated, images, trained
from tests.nn.variables import random_variables


@pytest.fixture(scope="module")
def golden():
    return towers.stored("resnet")


def imported(golden, kind):
    """Our variables from a stored state dict."""
    net, x = ResNet(towers.RESNETS[kind]), images((64, 64))
    template = jax.eval_shape(net.init, jax.random.key(0), x)
    return from_torch(towers.below(golden, f"{kind}/weights"), "resnet", template)


@pytest.mark.parametrize("size", towers.RESNET_SIZES)
@pytest.mark.parametrize("kind", towers.RESNETS)
def test_evaluation_equals_stored_arrays(golden, kind, size):
    height, width = towers.RESNET_SIZES[size]
    x = jnp.asarray(golden["images"][:1, :height, :width])
    ours = evaluated(towers.RESNETS[kind], imported(golden, kind), x)
    theirs = towers.below(golden, f"{kind}/{size}")
    for i, level in enumerate(ours.maps):
        assert close(level, theirs[f"map{i}"]), i
    assert close(ours.pooled, theirs["pooled"])


def test_a_training_step_equals_stored_arrays(golden):
    net, x = ResNet(towers.RESNETS["bottleneck"]), jnp.asarray(golden["images"])
    variables = imported(golden, "bottleneck")

    def loss(params):
        out, updated = trained(net, {**variables, "params": params}, x)
        return towers.resnet_cost(out.maps, out.pooled), (out, updated)

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradient, (out, updated) = step(variables["params"])
    theirs = towers.below(golden, "step")
    assert close(out.pooled, theirs["pooled"])
    after = to_torch("resnet", {"params": variables["params"], **updated})
    for name, value in towers.below(theirs, "after").items():
        assert close(after[name], value), name
    named = to_torch("resnet", {"params": gradient})
    for name, value in towers.below(theirs, "gradient").items():
        assert close(named[name], value), name


def test_remat_does_not_change_the_gradient():
    config, x = SMALL["small stem"], images((32, 32))
    variables = random_variables(ResNet(config), x)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(config, params):
        def loss(params):
            out, _ = trained(ResNet(config), {**variables, "params": params}, x)
            # The later stages are wrapped as the first is; compiling it is enough.
            return jnp.sum(out.maps[0] ** 2)

        return jax.grad(loss)(params)

    again = gradient(dataclasses.replace(config, remat=True), variables["params"])
    plain = gradient(config, variables["params"])
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        # Rounding is that of the sums, whose size the largest gradient has.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_in_float32():
    config = SMALL["small stem"]
    half = ResNet(dataclasses.replace(config, dtype="bfloat16"))
    x = images((32, 32))
    variables = random_variables(half, x)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out = jax.jit(half.apply)(variables, x)
    assert out.maps[0].dtype == jnp.bfloat16 and out.pooled.dtype == jnp.float32
    full = evaluated(config, variables, x)
    np.testing.assert_allclose(out.pooled, full.pooled, rtol=0.1, atol=0.03)


@pytest.mark.parametrize("name", RESNETS)
def test_presets_say_the_shapes_of_their_maps(name):
    config = RESNETS[name]
    out, _ = jax.eval_shape(
        lambda key: ResNet(config).init_with_output(key, images((64, 64), batch=2)),
        jax.random.key(0),
    )
    for stage, width, stride in zip(
        out.maps, config.widths, config.strides, strict=True
    ):
        assert stage.shape == (2, 64 // stride, 64 // stride, width)
    assert out.pooled.shape == (2, config.widths[-1])


def test_a_grey_image_is_told_how_to_become_three_channels():
    with pytest.raises(ValueError, match="repeat a grey image"):
        ResNet(SMALL["basic"]).init(jax.random.key(0), jnp.zeros((2, 32, 32, 1)))
