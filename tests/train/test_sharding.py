"""Mesh, rules, and that nothing large is silently copied to every device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from medjax.train.collectives import read_collectives
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule
from medjax.train.sharding import (
    batch_sharding,
    fsdp,
    param_shardings,
    replicate,
    replicated,
    shard_batch,
)
from medjax.train.speed import parameter_table
from medjax.train.state import make_state_init, overlay, partition, state_shardings
from medjax.train.step import make_train_step

PARAMS = {
    "tower": {"kernel": jnp.zeros((6, 64)), "bias": jnp.zeros(64)},
    "head": {"kernel": jnp.zeros((64, 7))},
}


def specs(rules, **mesh):
    shardings = param_shardings(PARAMS, make_mesh(MeshConfig(**mesh)), rules)
    return jax.tree.map(lambda s: s.spec, shardings)


def test_the_mesh_has_auto_axes_and_takes_the_rest():
    mesh = make_mesh(MeshConfig(fsdp=4))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "model": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("sizes", [dict(fsdp=3), dict(data=-1, fsdp=-1), dict(data=4)])
def test_a_mesh_that_does_not_fit_names_the_devices(sizes):
    with pytest.raises(ValueError, match="mesh"):
        make_mesh(MeshConfig(**sizes))


def test_fsdp_splits_the_largest_divisible_axis_of_large_parameters():
    got = specs([(".*", fsdp(min_size=100))], fsdp=8)
    assert got["tower"]["kernel"] == PartitionSpec(None, "fsdp")
    assert got["tower"]["bias"] == PartitionSpec()  # too small
    assert got["head"]["kernel"] == PartitionSpec("fsdp")  # 7 does not divide


def test_the_first_matching_rule_decides():
    rules = [
        ("head", PartitionSpec("model", None)),
        ("bias$", replicate),
        ("tower", fsdp(min_size=0)),
    ]
    got = specs(rules, fsdp=2, model=4)
    assert got["head"]["kernel"] == PartitionSpec("model", None)
    assert got["tower"]["bias"] == PartitionSpec()
    assert got["tower"]["kernel"] == PartitionSpec(None, "fsdp")


def test_a_spec_that_does_not_divide_names_the_parameter():
    with pytest.raises(ValueError, match="head/kernel"):
        specs([("head", PartitionSpec(None, "model"))], model=2)
    with pytest.raises(ValueError, match="more axes"):
        specs([("bias", PartitionSpec(None, "model"))], model=2)


def make_sharded_state(frozen=()):
    rules = [(".*", fsdp(min_size=0))]
    mesh = make_mesh(MeshConfig(fsdp=8))
    config = OptimizerConfig(weight_decay=0.1, no_decay=("bias",), clip_norm=1.0)
    tx = make_optimizer(config, 10)
    make = make_state_init(lambda k, b: {"params": PARAMS}, tx, frozen, ema=True)
    key = jax.random.key(0)
    shapes = jax.eval_shape(make, key, {})
    shardings = state_shardings(shapes, tx, frozen, mesh, rules)
    return jax.jit(make, out_shardings=shardings)(key, {})


def test_optimiser_state_lies_where_its_parameters_lie():
    state = make_sharded_state()
    adam = next(s for s in state.opt_state if hasattr(s, "mu"))
    for moments in (adam.mu, adam.nu, state.ema):
        kernel = moments["tower"]["kernel"]
        assert kernel.sharding == state.params["tower"]["kernel"].sharding
        # Each device holds an eighth: what a replicated state would not show in a spec.
        assert {s.data.shape for s in kernel.addressable_shards} == {(6, 8)}


def test_frozen_parameters_have_no_state():
    state = make_sharded_state(frozen=("^tower/",))
    adam = next(s for s in state.opt_state if hasattr(s, "mu"))
    assert set(adam.mu) == set(state.ema) == {"head"}
    assert set(state.params) == {"tower", "head"}
    table = parameter_table(state.params, partition(state.params, ("^tower/",))[1])
    assert [row.split() for row in table.splitlines()[1:]] == [
        ["head/kernel", "1", "448", "448"],
        ["tower/bias", "1", "64", "0"],
        ["tower/kernel", "1", "384", "0"],
        ["total", "3", "896", "448"],
    ]


def test_freezing_nothing_or_everything_is_refused():
    with pytest.raises(ValueError, match="matches no parameter"):
        partition(PARAMS, ("towel",))
    with pytest.raises(ValueError, match="leaves no parameter"):
        partition(PARAMS, (".*",))


def test_pretrained_leaves_replace_initialised_ones_in_place():
    state = make_sharded_state()
    kernel = np.arange(6 * 64, dtype=np.float64).reshape(6, 64)
    after = overlay(state, {"params": {"tower": {"kernel": kernel}}})
    for tree in (after.params, after.ema):
        np.testing.assert_array_equal(tree["tower"]["kernel"], kernel)
        assert tree["tower"]["kernel"].dtype == jnp.float32
    before = state.params["tower"]["kernel"]
    assert after.params["tower"]["kernel"].sharding == before.sharding
    for wrong in ({"tower": {"kernel": kernel.T}}, {"towel": kernel}):
        with pytest.raises(ValueError, match="pretrained: params/tow"):
            overlay(state, {"params": wrong})


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    batch = shard_batch({"image": np.zeros((8, 3), np.uint8)}, mesh)
    shards = batch["image"].addressable_shards
    assert {s.data.shape for s in shards} == {(2, 3)}
    assert len({str(s.index) for s in shards}) == 4  # the model axis sees copies


@pytest.mark.parametrize(
    "batch, message",
    [
        ({"x": np.zeros((6, 2))}, "global batch of 6"),
        ({"x": np.array(["a"] * 8)}, "numeric"),
        ({"x": np.float32(1)}, "leading batch axis"),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        shard_batch(batch, make_mesh())


def test_fsdp_gathers_weights_and_keeps_everything_else_split():
    """Of a convolution over channels that are split, as of accumulated gradients."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    rules = [(".*", fsdp(min_size=0))]
    tx = make_optimizer(OptimizerConfig(clip_norm=1.0), 10)

    def init(key, batch):
        del batch
        kernel = jax.random.normal(key, (3, 3, 16, 16))
        return {"params": {"frozen": {"kernel": kernel}, "free": {"kernel": kernel}}}

    def loss(variables, batch, key):
        del key
        x = batch["x"]
        for name in ("frozen", "free"):
            kernel = variables["params"][name]["kernel"]
            layout = ("NHWC", "HWIO", "NHWC")
            x = jnp.tanh(
                jax.lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", dimension_numbers=layout
                )
            )
        return jnp.mean(x**2), ({}, {})

    def place(shapes, shardings):
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            shardings,
        )

    frozen, kernel = ("^frozen/",), 4 * 9 * 16 * 16
    everywhere = replicated(mesh)
    x = jax.ShapeDtypeStruct((80, 8, 8, 16), jnp.float32, sharding=batch_sharding(mesh))
    make = make_state_init(init, tx, frozen, ema=True)
    with jax.set_mesh(mesh):
        key = place(jax.eval_shape(lambda: jax.random.key(0)), everywhere)
        shapes = jax.eval_shape(make, key, {"x": x})
        shardings = state_shardings(shapes, tx, frozen, mesh, rules)
        step = make_train_step(
            loss,
            tx,
            make_schedule(OptimizerConfig(), 10),
            shardings,
            mesh,
            frozen=frozen,
            accumulate=2,
            ema=0.9,
        )
        proceed = jax.ShapeDtypeStruct((), jnp.bool, sharding=everywhere)
        lowered = step.lower(place(shapes, shardings), {"x": x}, key, proceed)
    found = read_collectives(lowered.compile().as_text())
    assert not [c for c in found if any(40 in s or 80 in s for _, s in c.shapes)]
    gathers = [c for c in found if c.kind == "all-gather"]
    # Both kernels, once per microbatch at the most.
    assert 2 * kernel <= sum(c.total_bytes for c in gathers) <= 4 * kernel
    assert {c.axes(mesh.shape) for c in gathers} == {("fsdp",)}
    assert sum(c.total_bytes for c in found) <= 3 * (2 * 2 * kernel)
