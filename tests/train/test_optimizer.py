"""Schedules against their formulas, update rules against PyTorch's by hand."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule


def rates(steps=100, at=range(100), **options):
    schedule = jax.jit(make_schedule(OptimizerConfig(lr=0.5, **options), steps))
    return np.array([schedule(jnp.int32(t)) for t in at])


def warm_restarts(t, period, factor, peak, low):
    """Cosine annealing with warm restarts, counted one step at a time."""
    since = 0
    for _ in range(t):
        since += 1
        if since >= period:
            since, period = 0, period * factor
    return low + (peak - low) * (1 + math.cos(math.pi * since / period)) / 2


@pytest.mark.parametrize("period, factor", [(7, 1), (7, 2), (3, 3), (1, 2)])
def test_restarts_follow_the_definition_at_every_step(period, factor):
    got = rates(
        schedule="restarts", restart_period=period, restart_factor=factor, min_lr=1e-3
    )
    want = [warm_restarts(t, period, factor, 0.5, 1e-3) for t in range(100)]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_restarts_equal_pytorch():
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=7, T_mult=2, eta_min=1e-3
    )
    want = []
    for _ in range(60):
        want.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    got = rates(
        at=range(60),
        schedule="restarts",
        restart_period=7,
        restart_factor=2,
        min_lr=1e-3,
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_late_restart_falls_on_its_exact_step():
    # After 20 doublings float32 logarithms would be off by steps.
    start = 7 * (2**20 - 1)
    options = dict(schedule="restarts", restart_period=7, restart_factor=2)
    before, at = rates(at=[start - 1, start], **options)
    assert before < 1e-6 and at == 0.5


def test_warmup_rises_linearly_to_a_cosine_that_ends_low():
    got = rates(schedule="cosine", warmup_steps=10, min_lr=0.1)
    np.testing.assert_allclose(got[:10], 0.5 * np.arange(1, 11) / 10, rtol=1e-6)
    fraction = np.arange(90) / 90
    want = 0.1 + 0.4 * (1 + np.cos(np.pi * fraction)) / 2
    np.testing.assert_allclose(got[10:], want, rtol=1e-5)
    beyond = rates(schedule="cosine", warmup_steps=10, min_lr=0.1, at=[100, 1000])
    np.testing.assert_allclose(beyond, 0.1, rtol=1e-6)


def test_step_decay_and_constant():
    got = rates(schedule="step", step_every=30, step_factor=0.1)
    np.testing.assert_allclose(got[[0, 29, 30, 60, 99]], [0.5, 0.5, 0.05, 5e-3, 5e-4])
    assert set(rates()) == {np.float32(0.5)}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_weight_decay_means_what_pytorch_means(name):
    """Three updates of one parameter, written out."""
    config = OptimizerConfig(name=name, lr=0.1, weight_decay=0.3, no_decay=("bias",))
    tx = make_optimizer(config, 10)
    params = {"kernel": jnp.float32([2.0]), "bias": jnp.float32([2.0])}
    state = tx.init(params)
    want = {"kernel": 2.0, "bias": 2.0}
    first, second = dict.fromkeys(want, 0.0), dict.fromkeys(want, 0.0)
    for t in (1, 2, 3):
        updates, state = tx.update(
            jax.tree.map(lambda p: 0.5 * p, params), state, params
        )
        params = jax.tree.map(jnp.add, params, updates)
        for key, p in want.items():
            decay = 0.3 if key == "kernel" else 0.0
            g = 0.5 * p + (decay * p if name != "adamw" else 0.0)
            if name == "sgd":
                first[key] = 0.9 * first[key] + g
                want[key] = p - 0.1 * first[key]
                continue
            first[key] = 0.9 * first[key] + 0.1 * g
            second[key] = 0.999 * second[key] + 0.001 * g * g
            root = math.sqrt(second[key] / (1 - 0.999**t)) + 1e-8
            shrunk = p * (1 - 0.1 * decay) if name == "adamw" else p
            want[key] = shrunk - 0.1 * (first[key] / (1 - 0.9**t)) / root
    for key, value in want.items():
        np.testing.assert_allclose(params[key], [value], rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    tx = make_optimizer(
        OptimizerConfig(name="sgd", lr=1.0, momentum=0.0, clip_norm=1.0), 10
    )
    params = {"a": jnp.zeros(3), "b": jnp.zeros(4)}
    grads = jax.tree.map(lambda p: 10.0 * jnp.ones_like(p), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    norm = math.sqrt(sum(float((u**2).sum()) for u in updates.values()))
    assert norm == pytest.approx(1.0, rel=1e-5)


def test_a_period_of_nothing_is_refused():
    with pytest.raises(ValueError, match="restart_period"):
        make_schedule(OptimizerConfig(restart_period=0), 10)


def test_poly_falls_to_zero_at_the_last_step_after_warmup():
    got = rates(schedule="poly", warmup_steps=10, at=[9, 10, 55, 100, 150])
    want = 0.5 * np.array([1.0, 1.0, 0.5**0.9, 0.0, 0.0])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(rates(schedule="poly", poly_power=2.0, at=[50]), [0.125])


def test_nesterov_equals_pytorch():
    """nnU-Net's optimiser: momentum 0.99, L2 in the gradient."""
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    theirs = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD(
        [theirs], lr=0.05, momentum=0.99, nesterov=True, weight_decay=0.1
    )
    tx = make_optimizer(
        OptimizerConfig(
            name="sgd", lr=0.05, momentum=0.99, nesterov=True, weight_decay=0.1
        ),
        10,
    )
    ours = jnp.ones(3)
    state = tx.init(ours)
    slope = np.float32([1.0, -2.0, 0.5])
    for _ in range(4):
        optimizer.zero_grad()
        (0.5 * torch.from_numpy(slope) * theirs**2).sum().backward()
        optimizer.step()
        updates, state = tx.update(slope * ours, state, ours)
        ours = ours + updates
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5)


def test_members_are_clipped_as_if_alone():
    config = OptimizerConfig(name="sgd", lr=1.0, momentum=0.0, clip_norm=1.0)
    alone = make_optimizer(config, 10)
    together = make_optimizer(dataclasses.replace(config, clip_per_member=True), 10)
    # The second member's gradient is below the norm, the first one's far above.
    grads = {"a": jnp.float32([[30.0, 40.0], [0.3, 0.0]]), "b": jnp.float32([5.0, 0.4])}
    updates, _ = together.update(grads, together.init(grads), grads)
    for member in range(2):
        own = jax.tree.map(lambda g, m=member: g[m], grads)
        expected, _ = alone.update(own, alone.init(own), own)
        mine = jax.tree.map(lambda u, m=member: u[m], updates)
        chex.assert_trees_all_close(mine, expected, rtol=1e-6)
    bad = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"leading sizes \[\(2,\), \(3,\)\]"):
        together.update(bad, together.init(bad), bad)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"clip_per_member": True}, "clip_norm"), ({"nesterov": True}, "momentum of sgd")],
)
def test_a_flag_that_would_do_nothing_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        make_optimizer(OptimizerConfig(**options), 10)


def test_parameters_learn_at_their_own_rate():
    params = {"tower": {"w": jnp.ones(3)}, "head": {"w": jnp.ones(3)}}
    slopes = jax.tree.map(lambda w: 2.0 * w, params)
    config = OptimizerConfig(
        name="adamw", lr=0.1, weight_decay=0.5, rates=(("^tower/", 0.25),)
    )
    updates = {}
    for name, rates in (("own", config.rates), ("one", ())):
        tx = make_optimizer(dataclasses.replace(config, rates=rates), 10)
        updates[name], _ = tx.update(slopes, tx.init(params), params)
    own, one = updates["own"], updates["one"]
    np.testing.assert_array_equal(own["head"]["w"], one["head"]["w"])
    np.testing.assert_allclose(own["tower"]["w"], 0.25 * one["tower"]["w"], rtol=1e-6)
