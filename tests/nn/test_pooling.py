"""The max-pool's own gradient is that of XLA, ties and edges included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.pooling import _by_windows, max_pool


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (3, 7, 10, 2), (1, 1, 2, 4)])
def test_the_gradient_is_that_of_xla(shape):
    rng = np.random.default_rng(0)
    # Behind a ReLU half of all values are equal, and whole windows.
    x = jnp.asarray(np.maximum(rng.integers(-3, 4, shape), 0), jnp.float32)
    y, pullback = jax.vjp(max_pool, x)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    ours = jax.jit(pullback)(g)[0]
    np.testing.assert_allclose(ours, _by_windows(x, y, g), rtol=1e-5, atol=1e-6)


def test_it_is_pytorch_s():
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    x = np.random.default_rng(1).normal(size=(2, 3, 9, 6)).astype(np.float32)
    theirs = torch.tensor(x, requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(theirs, 3, 2, 1)
    (pooled**2).sum().backward()
    ours = jnp.asarray(x).transpose(0, 2, 3, 1)
    loss = jax.jit(jax.value_and_grad(lambda x: jnp.sum(max_pool(x) ** 2)))
    value, gradient = loss(ours)
    np.testing.assert_allclose(value, (pooled**2).sum().item(), rtol=1e-5)
    np.testing.assert_allclose(
        gradient.transpose(0, 3, 1, 2), theirs.grad, rtol=1e-5, atol=1e-6
    )
