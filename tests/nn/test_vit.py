"""Vision transformers are PyTorch's, by stored arrays, and what else they promise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.vit import ViT, ViTConfig
from medjax.weights import from_torch, to_torch
from tests.golden import towers
from tests.nn.agreement import close
from tests.nn.variables import random_variables

SMALL = ViTConfig(width=48, layers=2, heads=4, patch=8, image_size=32)


@pytest.fixture(scope="module")
def golden():
    return towers.stored("vit")


@pytest.fixture(scope="module")
def variables(golden):
    """Ours, from the stored state dict."""
    x = images(towers.VIT.image_size, towers.VIT.image_size)
    template = jax.eval_shape(ViT(towers.VIT).init, jax.random.key(0), x)
    return from_torch(towers.below(golden, "vit/weights"), "vit", template)


def images(height, width, batch=2):
    return jax.random.normal(jax.random.key(0), (batch, height, width, 3))


@pytest.mark.parametrize("size", towers.VIT_SIZES)
def test_all_tokens_equal_stored_arrays(golden, variables, size):
    height, width = towers.VIT_SIZES[size]
    x = jnp.asarray(golden["images"][:, :height, :width])
    ours = jax.jit(ViT(towers.VIT).apply)(variables, x)
    theirs = golden[f"vit/{size}/tokens"]
    assert close(ours.cls, theirs[:, 0])
    assert close(ours.tokens.reshape(len(x), -1, towers.VIT.width), theirs[:, 1:])


def test_gradients_equal_stored_arrays(golden, variables):
    height, width = towers.VIT_SIZES["stretched"]
    x = jnp.asarray(golden["images"][:, :height, :width])

    @jax.jit
    @jax.grad
    def gradient(variables):
        out = ViT(towers.VIT).apply(variables, x)
        return towers.vit_cost(out.cls, out.tokens)

    named = to_torch("vit", gradient(variables))
    for name, value in towers.below(golden, "vit/gradient").items():
        assert close(named[name], value), name


def test_remat_and_bfloat16_are_the_same_network():
    x = images(32, 32)
    variables = random_variables(ViT(SMALL), x)

    def run(**changes):
        return jax.jit(ViT(dataclasses.replace(SMALL, **changes)).apply)(variables, x)

    plain, half = run(), run(dtype="bfloat16")
    np.testing.assert_allclose(run(remat=True).cls, plain.cls, rtol=1e-5, atol=1e-5)
    assert half.cls.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.cls.astype(jnp.float32), plain.cls, atol=0.15)


def test_images_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match=r"divisible by the patch \(8 pixels\)"):
        ViT(SMALL).init(jax.random.key(0), images(32, 30))
    with pytest.raises(ValueError, match="repeat a grey image"):
        ViT(SMALL).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
