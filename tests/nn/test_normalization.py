"""Batch norm and layer norm mean what PyTorch means by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medjax.nn.normalization import BatchNorm, LayerNorm


def features(*shape, offset=0.0, seed=0):
    values = np.random.default_rng(seed).normal(size=shape) * 2 + offset
    return values.astype(np.float32)


def torch_batch_norm(x, *, affine=True, steps=1):
    """Output, input gradient and running statistics after ``steps`` steps."""
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    norm = torch.nn.BatchNorm1d(x.shape[-1], affine=affine)
    x = torch.tensor(x, requires_grad=True)
    for _ in range(steps):
        y = norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    y.square().mul(torch.arange(x.shape[-1])).sum().backward()
    arrays = (y, x.grad, norm.running_mean, norm.running_var)
    return [a.detach().numpy() for a in arrays]


def run(module, x, *, steps=1):
    """The same of ours."""
    x = jnp.asarray(x)
    variables = module.init(jax.random.key(0), x, train=True)

    def step(x, stats):
        y, updated = module.apply(
            {**variables, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        weight = jnp.arange(x.shape[-1], dtype=jnp.float32)
        loss = jnp.sum(jnp.einsum("...c,c->...", y * y, weight))
        return loss, (y, updated["batch_stats"])

    stats = variables["batch_stats"]
    step = jax.jit(jax.grad(step, has_aux=True))
    for _ in range(steps):
        gradient, (y, stats) = step(x, stats)
    return [np.asarray(a) for a in (y, gradient, stats["mean"], stats["var"])]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5, 2)])
def test_batch_norm_trains_as_pytorch_does(shape, affine):
    x = features(*shape, offset=1.0)
    ours = run(BatchNorm(affine=affine), x, steps=3)
    theirs = torch_batch_norm(x, affine=affine, steps=3)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_running_variance_is_the_unbiased_one():
    x = features(4, 3)
    _, _, mean, var = run(BatchNorm(), x)
    np.testing.assert_allclose(mean, 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)


def test_a_large_mean_costs_no_digits_once_the_running_mean_is_near_it():
    x = features(64, 3, offset=1000.0)
    wanted = (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    settled = run(BatchNorm(affine=False), x, steps=100)[0]
    np.testing.assert_allclose(settled, wanted, atol=1e-3)


def test_evaluation_uses_the_running_statistics():
    module = BatchNorm(affine=False)
    x = jnp.asarray(features(4, 3))
    stats = {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([4.0, 1.0, 0.25])}
    y = module.apply({"batch_stats": stats}, x, train=False)
    wanted = (np.asarray(x) - [1, 2, 3]) / np.sqrt([4, 1, 0.25])
    np.testing.assert_allclose(y, wanted, rtol=1e-4)
    frozen = BatchNorm(affine=False, frozen=True)
    np.testing.assert_array_equal(
        frozen.apply({"batch_stats": stats}, x, train=True), y
    )


def test_groups_are_batches_of_their_own():
    x = features(8, 3, 2)
    y, gradient, mean, var = run(BatchNorm(groups=4), x)
    parts = [run(BatchNorm(), part) for part in np.split(x, 4)]
    np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]), atol=1e-5)
    together = np.concatenate([p[1] for p in parts])
    np.testing.assert_allclose(gradient, together, atol=1e-4)
    np.testing.assert_allclose(mean, np.mean([p[2] for p in parts], axis=0), rtol=1e-5)
    np.testing.assert_allclose(var, np.mean([p[3] for p in parts], axis=0), rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 8])
def test_statistics_do_not_depend_on_the_devices(groups):
    x = jnp.asarray(features(16, 4, 4, 3))
    module = BatchNorm(groups=groups)
    variables = module.init(jax.random.key(0), x, train=True)
    step = jax.jit(
        lambda x: module.apply(variables, x, train=True, mutable=["batch_stats"])
    )
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    for a, b in zip(
        jax.tree.leaves(step(x)), jax.tree.leaves(step(split)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_what_cannot_be_normalised_is_said():
    x = jnp.asarray(features(6, 3))
    variables = BatchNorm().init(jax.random.key(0), x, train=True)

    def train(module, x):
        module.apply(variables, x, train=True, mutable=["batch_stats"])

    with pytest.raises(ValueError, match="batch of 6 for 4 groups"):
        train(BatchNorm(groups=4), x)
    with pytest.raises(ValueError, match="more than one value per channel"):
        train(BatchNorm(groups=6), x)


def test_layer_norm_is_that_of_pytorch_and_keeps_float32_inside():
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    x = features(2, 3, 16, offset=30.0)
    scale, bias = features(16, seed=1), features(16, seed=2)
    wanted = torch.nn.functional.layer_norm(
        torch.tensor(x), (16,), torch.tensor(scale), torch.tensor(bias), 1e-5
    ).numpy()
    params = {"params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}}
    got = LayerNorm(1e-5).apply(params, jnp.asarray(x))
    np.testing.assert_allclose(got, wanted, atol=2e-4)
    half = LayerNorm(1e-5, "bfloat16").apply(params, jnp.asarray(x))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, got.astype(jnp.bfloat16))
