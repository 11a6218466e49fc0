"""Plans against those that nnU-Net wrote, and the cases they were not made for."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from medjax.nn.nnunet import NNUNet
from medjax.segmentation.plans import (
    BUDGETS,
    feature_maps,
    plan_network,
    target_spacing,
    topology,
)

CT = (1.5, 0.9765625, 0.9765625)
# Spacing, median shape, classes; then patch and poolings per axis of the written plan.
# The first two are the example of nnU-Net's documentation (Hippocampus and its half
# resolution), the others a published plan of whole-body CT with 72 bones.
PLANS = {
    "hippocampus": ((1, 1, 1), (36, 50, 35), 3, (40, 56, 40), (3, 3, 3)),
    "half of it": ((2, 2, 2), (18, 25, 18), 3, (20, 28, 20), (2, 2, 2)),
    "CT": (CT, (1323, 512, 512), 73, (192, 96, 96), (5, 4, 4)),
    "CT, coarse": (
        (5.507178410171863, 3.5854026107889747, 3.5854026107889747),
        (360, 139, 139),
        73,
        (192, 96, 96),
        (5, 4, 4),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_patches_and_strides_of_written_plans(name):
    spacing, shape, classes, patch, pooled = PLANS[name]
    plan = plan_network(spacing, shape, classes=classes)
    assert plan.patch == patch
    strides = plan.network.strides
    found = [sum(s[i] == 2 for s in strides) for i in range(3)]
    assert tuple(found) == pooled and set(plan.network.kernels) == {(3, 3, 3)}
    widths = (32, 64, 128, 256, 320, 320)
    assert plan.network.widths == widths[: max(pooled) + 1]


def test_batch_sizes_of_written_plans():
    # Written when the plain planner still had room for twelve patches to find.
    plain = BUDGETS["plain"]
    budget = dataclasses.replace(plain, fits=plain.batch)
    flat = plan_network(CT[1:], (512, 512), classes=73, budget=budget)
    assert (flat.patch, flat.batch_size) == ((448, 448), 13)
    assert flat.network.strides == ((1, 1), *((2, 2),) * 6)
    assert flat.network.widths == (32, 64, 128, 256, 512, 512, 512)
    assert plan_network(CT, (1323, 512, 512), classes=73).batch_size == 2
    # Hippocampus has 260 cases; nnU-Net plans nine patches for it.
    plan = plan_network((1, 1, 1), (36, 50, 35), classes=3, voxels=260 * 36 * 50 * 35)
    assert plan.batch_size == 9


def test_a_batch_holds_no_more_than_a_share_of_the_training_voxels():
    plan = plan_network((1, 1, 1), (36, 50, 35), classes=3, voxels=20 * 36 * 50 * 35)
    assert plan.batch_size == 2


def test_thick_slices_are_not_convolved_before_the_others_have_caught_up():
    kernels, strides = topology((10, 1.5, 1.5), (10, 224, 224))
    assert strides[1:3] == ((1, 2, 2),) * 2 and strides[3][1:] == (2, 2)
    # 1.5, 3, 6 mm in the plane: 10 mm is within a factor of two from there.
    assert kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    kernels, strides = topology((10, 1.5, 1.5), (2, 64, 64))
    assert all(s[0] == 1 for s in strides), "two slices are never pooled"


def test_a_residual_plan_has_the_published_blocks():
    plan = plan_network(
        (1, 1, 1), (138, 170, 138), classes=4, budget=BUDGETS["residual_m"]
    )
    assert plan.network.blocks == (1, 3, 4, 6, 6, 6)
    assert plan.network.decoder_blocks == (1,) * 5
    assert feature_maps(plan.network, plan.patch) <= 680e6


def test_feature_maps_are_those_of_the_network():
    """Counted on what its convolutions give."""
    plan = plan_network((2, 1), (40, 64), classes=3)
    image = jax.ShapeDtypeStruct((1, *plan.patch, 1), jnp.float32)
    _, state = jax.eval_shape(
        lambda key, x: NNUNet(plan.network).init_with_output(
            key, x, capture_intermediates=True
        ),
        jax.random.key(0),
        image,
    )
    flat = jax.tree_util.tree_leaves_with_path(state["intermediates"])
    convolutions = sum(
        leaf.size for path, leaf in flat if _is_convolution(jax.tree_util.keystr(path))
    )
    assert convolutions == feature_maps(plan.network, plan.patch)


def _is_convolution(name):
    module = name.split("['__call__']")[0]
    last = module.rsplit("['", 1)[-1].rstrip("']")
    return last == "conv" or last.startswith("up_") or last == "heads_0"


def test_target_spacing_keeps_thin_slices():
    spacings = [(10, 1.5, 1.5)] * 8 + [(5, 1.4, 1.4)] * 3
    shapes = [(10, 220, 220)] * 11
    assert target_spacing(spacings, shapes) == pytest.approx((5.0, 1.5, 1.5))
    assert (
        target_spacing([(1, 1, 1), (2, 1, 1), (1, 1, 1)], [(50,) * 3] * 3) == (1,) * 3
    )


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="two or three positive numbers"):
        plan_network((1, 0), (10, 10), classes=2)
    with pytest.raises(ValueError, match="to pool"):
        plan_network((1, 1), (4, 4), classes=2)
