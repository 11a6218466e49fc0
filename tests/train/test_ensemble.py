"""An ensemble in one program: each member as if alone, and nothing between them."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import train
from medjax.train.ensemble import (
    ensemble,
    for_all,
    member,
    member_of,
    members_apart,
)
from medjax.train.optimizer import OptimizerConfig
from medjax.train.state import run_keys
from tests.experiments.traffic import collectives_of, size
from tests.train import tiny

MEMBERS = 4
ALONE = types.SimpleNamespace(
    init=tiny.init,
    loss=tiny.loss,
    frozen=(),
    apply={"first": lambda variables, x: x @ variables["params"]["head"]["kernel"]},
)
# A norm so small that every gradient is clipped.
OPTIMIZER = OptimizerConfig(lr=1e-2, clip_norm=0.05, weight_decay=0.01)
SETTINGS = train.TrainConfig(steps=20, checkpoint_every=20, log_every=10)


def fitted(system, folder, mesh, optimizer, **options):
    state = train.fit(
        system.init,
        system.loss,
        tiny.Stream(),
        workdir=folder,
        optimizer=optimizer,
        train=SETTINGS,
        mesh=mesh,
        **options,
    )
    return jax.tree.map(np.asarray, state.variables)


@pytest.fixture(scope="module", params=[(2, 4), (4, 2)], ids="data{0[0]}".format)
def together(tmp_path_factory, request):
    """Each member on devices of its own, or two of them in turns."""
    system = ensemble(ALONE, MEMBERS)
    folder = tmp_path_factory.mktemp("ensemble")
    data, model = request.param
    mesh = train.MeshConfig(data=data, model=model)
    optimizer = members_apart(OPTIMIZER)
    return fitted(system, folder, mesh, optimizer, rules=system.rules), folder


def test_a_member_is_what_it_would_be_alone(together, tmp_path):
    """Parameters and statistics after 20 steps, noise in the loss and clipping in."""
    number = 2
    mesh = train.MeshConfig(data=8)
    alone = fitted(member(ALONE, number), tmp_path, mesh, OPTIMIZER)
    mine = member_of(together[0], number)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, alone)


def test_members_differ_and_the_log_has_their_mean(together):
    variables, folder = together
    kernels = variables["params"]["head"]["kernel"]
    assert kernels.shape[0] == MEMBERS
    assert np.ptp(kernels, axis=0).min() > 0
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    batch = next(tiny.Stream())
    first = [
        tiny.quiet_loss(member(ALONE, i).init(run_keys(0)[0], batch), batch, None)[0]
        for i in range(MEMBERS)
    ]
    # But for the noise that the loss adds to its input.
    assert row["step"] == 1
    assert row["loss"] == pytest.approx(float(np.mean(first)), rel=0.05)


def test_nothing_travels_between_members():
    """But numbers of the log and the guard: along ``model`` all is scalar."""
    system = ensemble(ALONE, MEMBERS)
    specs = {"x": ((16, 8), jnp.float32), "y": ((16, 4), jnp.float32)}
    found, state = collectives_of(
        system, specs, (2, 1, 4), optimizer=members_apart(OPTIMIZER), rules=system.rules
    )
    mesh = {"data": 2, "fsdp": 1, "model": 4}
    between = [one for one in found if "model" in one.axes(mesh)]
    assert all(dims == () for one in between for _, dims in one.shapes), between
    within = [one for one in found if one.axes(mesh) == ("data",)]
    gradients = size(state.params) // MEMBERS
    assert gradients <= sum(one.total_bytes for one in within) <= 2 * gradients


def test_one_norm_for_all_would_tie_them():
    optimizer = members_apart(OPTIMIZER)
    assert optimizer.clip_per_member and optimizer.clip_norm == OPTIMIZER.clip_norm
    assert not members_apart(OptimizerConfig()).clip_per_member


def test_outputs_and_given_weights_have_members():
    system = ensemble(ALONE, 2)
    variables = {"params": {"head": {"kernel": jnp.eye(3)}}}
    both = for_all(variables, 2)
    both["params"]["head"]["kernel"] *= jnp.asarray([1.0, 2.0])[:, None, None]
    out = system.apply["first"](both, jnp.ones((1, 3)))
    np.testing.assert_array_equal(out, [[[1.0] * 3], [[2.0] * 3]])
    with pytest.raises(ValueError, match="two at least"):
        ensemble(ALONE, 1)
