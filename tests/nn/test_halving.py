"""Halving and doubling against PyTorch's strided convolutions, and without dilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.halving import Double, Halve

SIZES = {2: (6, 8), 3: (4, 6, 2)}


def features(rank, channels=3):
    rng = np.random.default_rng(rank)
    return jnp.asarray(rng.standard_normal((2, *SIZES[rank], channels)), jnp.float32)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("kind", [Halve, Double])
def test_values_are_pytorchs(kind, rank):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity)")
    name = {Halve: "Conv", Double: "ConvTranspose"}[kind]
    layer = getattr(torch.nn, f"{name}{rank}d")(3, 5, 4, stride=2, padding=1)
    x = features(rank)
    moved = torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())
    with torch.no_grad():
        wanted = np.moveaxis(layer(moved).numpy(), 1, -1)
    weight = layer.weight.detach().numpy()
    order = (*range(2, rank + 2), *((1, 0) if kind is Halve else (0, 1)))
    params = {"kernel": weight.transpose(order), "bias": layer.bias.detach().numpy()}
    found = jax.jit(kind(5).apply)({"params": params}, x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", [Halve, Double])
def test_no_dilation_in_the_gradient(kind):
    x = features(3)
    shapes = jax.eval_shape(kind(5).init, jax.random.key(0), x)

    def loss(variables, x):
        return jnp.square(kind(5).apply(variables, x)).sum()

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(shapes, x))
    assert text.count("conv_general_dilated[") == 3
    assert "lhs_dilation=(1, 1, 1)" in text and "dilation=(2" not in text
    assert "window_strides=(2" not in text


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match=r"sizes \(5, 4\), expected even ones"):
        jax.eval_shape(Halve(2).init, jax.random.key(0), jnp.zeros((1, 5, 4, 1)))
