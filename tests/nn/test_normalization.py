"""Batch norm and layer norm mean what PyTorch means by them."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medjax.nn.normalization import BatchNorm, LayerNorm
from medjax.train.collectives import read_collectives
from medjax.train.mesh import AXES, BATCH_AXES, MeshConfig, host_parts, make_mesh
from tests import processes
from tests.nn import host_statistics


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


@pytest.mark.parametrize("steps", [1, 100])
def test_a_large_mean_costs_no_digits(steps):
    x = features(64, 3, offset=1000.0)
    wanted = (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    found = run(BatchNorm(affine=False), x, steps=steps)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("statistics", ["global", "device"])
def test_nor_does_it_on_many_devices_where_the_first_of_one_is_absent(mesh, statistics):
    x, present = features(24, 3, offset=1000.0), np.ones(24, np.float32)
    present[:3:2] = x[:3:2] = 0.0
    x, present = jnp.asarray(x), jnp.asarray(present)
    module = BatchNorm(affine=False, statistics=statistics)
    variables = module.init(jax.random.key(0), x, train=True)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    @jax.jit
    def forward(x, present):
        return module.apply(
            variables, x, train=True, present=present, mutable=["batch_stats"]
        )[0]

    with jax.set_mesh(mesh):
        split = jax.device_put((x, present), rows)
        y = np.asarray(forward(*split))
        text = forward.lower(*split).compile().as_text()
    if statistics == "device":
        shares = np.split(np.arange(24), 8)[1:]  # the first has one value: no variance
    else:
        shares = [np.arange(24)]
    for share in shares:
        counted = share[np.asarray(present)[share] > 0]
        part = np.asarray(x, np.float64)[counted]
        wanted = (part - part.mean(0)) / part.std(0)
        np.testing.assert_allclose(y[counted], wanted, atol=1e-3)
    assert "all-gather" not in text and "collective-permute" not in text


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


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=4))


def loss(module, variables, x):
    """Something that every output has a part in, and the statistics beside it."""
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    weight = jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape) / y.size
    return jnp.sum(jnp.square(y) * weight), (y, updated["batch_stats"])


def test_each_device_normalises_its_share_and_tells_nobody(mesh):
    x = features(16, 4, 4, 3, offset=1.0)
    module = BatchNorm(affine=False, statistics="device")
    variables = module.init(jax.random.key(0), jnp.asarray(x), train=True)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, rows)
        forward = jax.jit(lambda x: loss(module, variables, x)[1][0])
        text = forward.lower(split).compile().as_text()
        found = jax.jit(jax.grad(lambda x: loss(module, variables, x), has_aux=True))
        gradient, (y, stats) = found(split)
        two = np.stack([x, 2 * x + 1])
        mapped = jax.jit(jax.vmap(forward))(two)
    assert "all-reduce" not in text and "all-gather" not in text
    # The same on one device, share by share.
    alone = BatchNorm(affine=False)
    parts = [
        alone.apply(variables, part, train=True, mutable=["batch_stats"])
        for part in jnp.split(jnp.asarray(x), 8)
    ]
    wanted = np.concatenate([part[0] for part in parts])
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    np.testing.assert_allclose(mapped[0], wanted, atol=1e-5)
    np.testing.assert_allclose(mapped[1], wanted, atol=1e-4)
    for name in ("mean", "var"):
        each = [part[1]["batch_stats"][name] for part in parts]
        np.testing.assert_allclose(stats[name], np.mean(each, axis=0), rtol=1e-5)
    weight = np.arange(x.size, dtype=np.float32).reshape(x.shape) / x.size

    def one(part, weight):
        y, _ = alone.apply(variables, part, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.square(y) * weight)

    pieces = zip(np.split(x, 8), np.split(weight, 8), strict=True)
    slopes = [jax.grad(one)(jnp.asarray(p), jnp.asarray(w)) for p, w in pieces]
    np.testing.assert_allclose(gradient, np.concatenate(slopes), atol=1e-4)


@pytest.mark.parametrize("statistics", ["global", "host"])
def test_global_statistics_and_one_host_do_not_depend_on_the_devices(mesh, statistics):
    x = jnp.asarray(features(16, 4, 4, 3))
    module = BatchNorm(statistics=statistics)
    variables = module.init(jax.random.key(0), x, train=True)
    step = jax.jit(lambda x: loss(module, variables, x))
    alone = step(x)
    with jax.set_mesh(mesh):
        split = step(jax.device_put(x, NamedSharding(mesh, PartitionSpec(BATCH_AXES))))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(split), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_hosts_are_told_by_the_processes_of_the_mesh():
    class Device(NamedTuple):
        process_index: int

    def parts(owners):
        devices = np.empty((len(owners), 1, 1), object)
        devices[:, 0, 0] = [Device(i) for i in owners]
        mesh = SimpleNamespace(axis_names=AXES, devices=devices)
        return inspect.unwrap(host_parts)(mesh)

    assert parts([0, 0, 1, 1]) == 2 and parts([0, 0]) == 1 and parts([1, 0]) == 2
    with pytest.raises(ValueError, match=r"lie on processes \[0, 1, 0, 1\]"):
        parts([0, 1, 0, 1])


def test_absent_examples_are_normalised_but_do_not_count():
    kept = np.asarray([0, 2, 3, 5, 6, 7])
    present = jnp.zeros(8).at[kept].set(1.0)
    x = jnp.full((8, 3), 1000.0).at[kept].set(features(6, 3))
    module = BatchNorm(affine=False)
    variables = module.init(jax.random.key(0), x, train=True)

    @jax.jit
    def train(x, present):
        return module.apply(
            variables, x, train=True, present=present, mutable=["batch_stats"]
        )

    y, stats = train(x, present)
    wanted, wanted_stats = module.apply(
        variables, x[kept], train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y[kept], wanted, atol=1e-5)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(wanted_stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    # With one example or none there is nothing to take statistics of.
    for few in (jnp.zeros(8), jnp.zeros(8).at[0].set(1.0)):
        y, stats = train(x, few)
        np.testing.assert_allclose(
            y, module.apply(variables, x, train=False), rtol=1e-5
        )
        for a, b in zip(
            jax.tree.leaves(stats),
            jax.tree.leaves(variables["batch_stats"]),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_what_cannot_be_normalised_is_said(mesh):
    module = BatchNorm(statistics="device")
    variables = module.init(jax.random.key(0), jnp.ones((6, 3)), train=True)

    def train(x):
        with jax.set_mesh(mesh):
            module.apply(variables, x, train=True, mutable=["batch_stats"])

    with pytest.raises(ValueError, match="batch of 6 for 8 shares"):
        train(jnp.ones((6, 3)))
    with pytest.raises(ValueError, match="more than one value per channel"):
        train(jnp.ones((8, 3)))


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


def test_each_of_two_hosts_normalises_its_share(tmp_path):
    """Two processes of two devices each: what a process says is of its own rows."""
    program = str(Path(__file__).with_name("host_statistics.py"))
    address = processes.free_address()
    running = [
        processes.start([program, address, n, str(tmp_path)], tmp_path / f"{n}.log")
        for n in ("0", "1")
    ]
    processes.finish(tmp_path, running, [0, 0])
    found = [dict(np.load(tmp_path / f"{n}.npz")) for n in (0, 1)]
    shares = np.split(host_statistics.batch(), 2)
    means = [share.mean((0, 1)) for share in shares]
    for one, share, mean in zip(found, shares, means, strict=True):
        wanted = (share - mean) / np.sqrt(share.var((0, 1)) + 1e-5)
        np.testing.assert_allclose(one["y"], wanted, atol=1e-5)
        # Running statistics are the mean over the hosts, and the same on both.
        np.testing.assert_allclose(one["mean"], 0.1 * np.mean(means, 0), rtol=1e-5)
        # Sums of activations stay on a host; those of running statistics go round.
        groups = [sorted(c.groups) for c in read_collectives(str(one["text"]))]
        assert [(0, 1), (2, 3)] in [[tuple(g) for g in some] for some in groups], groups
