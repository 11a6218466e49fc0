"""Halving and doubling against PyTorch's strided convolutions, and without dilation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn import halving
from medjax.nn.halving import Double, Halve, Keep

SIZES = {2: (6, 8), 3: (4, 6, 2)}


def features(rank, channels=3):
    rng = np.random.default_rng(rank)
    return jnp.asarray(rng.standard_normal((2, *SIZES[rank], channels)), jnp.float32)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("kind", [Halve, Double])
def test_values_are_pytorchs(kind, size, rank):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity)")
    name = {Halve: "Conv", Double: "ConvTranspose"}[kind]
    more = {"output_padding": 1} if (kind, size) == (Double, 3) else {}
    make = getattr(torch.nn, f"{name}{rank}d")
    layer = make(3, 5, size, stride=2, padding=1, **more)
    x = features(rank)
    moved = torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())
    with torch.no_grad():
        wanted = np.moveaxis(layer(moved).numpy(), 1, -1)
    weight = layer.weight.detach().numpy()
    order = (*range(2, rank + 2), *((1, 0) if kind is Halve else (0, 1)))
    params = {"kernel": weight.transpose(order), "bias": layer.bias.detach().numpy()}
    found = jax.jit(kind(5, size).apply)({"params": params}, x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("wide", [2, 5])
def test_volumes_slice_by_slice_are_what_flax_has(wide):
    x = features(3)
    module = Keep(wide)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    kernel = np.random.default_rng(5).normal(size=shapes["params"]["kernel"].shape)
    variables = {"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}
    plain = nn.Conv(wide, (3, 3, 3), padding=1, use_bias=False)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)

    def both(module):
        def loss(variables, x):
            y = module.apply(variables, x)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    for found, wanted in zip(
        *(jax.tree.leaves(both(m)(variables, x)) for m in (module, plain)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("forms", ["_halved _strided", "_doubled _dilated"])
def test_what_other_chips_run_is_the_same(forms):
    x = features(3)
    kernel = jnp.asarray(np.random.default_rng(5).normal(size=(3, 3, 3, 3, 5)))
    pairs, plain = (getattr(halving, name) for name in forms.split())
    kernel = kernel.astype(jnp.float32)
    np.testing.assert_allclose(pairs(x, kernel), plain(x, kernel), atol=1e-5)


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("kind", [Halve, Double])
def test_a_cpu_sees_no_dilation_in_the_gradient(kind, size):
    x = features(3)
    module = kind(5, size)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)

    def loss(variables, x):
        return jnp.square(module.apply(variables, x)).sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(shapes, x).as_text()
    # Forward and back of images; what is the kernel's, and all of halving, are products
    # of matrices.
    convolutions = {Halve: 0, Double: 2}[kind]
    assert text.count("stablehlo.convolution(") == convolutions
    assert text.count("dim_numbers = [b, 0, 1, f]x[0, 1, i, o]") == convolutions
    assert "lhs_dilate = [2" not in text and "stride = [2" not in text


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match=r"sizes \(5, 4\), expected even ones"):
        jax.eval_shape(Halve(2).init, jax.random.key(0), jnp.zeros((1, 5, 4, 1)))
