"""Losses against closed forms, and MONAI's where it is installed."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.segmentation.labels import Labels, classes
from medjax.segmentation.losses import (
    LossConfig,
    dice_and_cross_entropy,
    draws_together,
    level_weights,
    supervised,
    thinned,
)

RNG = np.random.default_rng(0)
THREE = classes({"core": 1, "rim": 4}, ignore=9)
REGIONS = Labels(
    values=(0, 1, 2, 4),
    names=("whole", "core", "enhancing"),
    regions=((1, 2, 4), (1, 4), (4,)),
    painted=(2, 1, 4),
)
LABELS = RNG.integers(0, 3, (2, 6, 5))
LOGITS = RNG.normal(size=(2, 6, 5, 3)).astype(np.float32)


def value(logits, labels, spec=THREE, **config):
    total, terms = dice_and_cross_entropy(
        jnp.asarray(logits), jnp.asarray(labels), spec, LossConfig(**config)
    )
    return float(total), {name: float(term) for name, term in terms.items()}


def softmax(x):
    e = np.exp(np.asarray(x, np.float64))
    return e / e.sum(-1, keepdims=True)


def test_the_terms_are_their_formulas():
    p, g = softmax(LOGITS), np.eye(3)[LABELS]
    entropy = -np.log((p * g).sum(-1)).mean()
    for over_batch, axes in ((True, (0, 1, 2)), (False, (1, 2))):
        dice = (2 * (p * g).sum(axes) / (p + g).sum(axes))[..., 1:].mean()
        total, terms = value(LOGITS, LABELS, batch_dice=over_batch)
        assert terms["cross_entropy"] == pytest.approx(entropy, rel=1e-5)
        assert terms["soft_dice"] == pytest.approx(dice, rel=1e-5)
        assert total == pytest.approx(entropy - dice, rel=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("over_batch", [True, False])
def test_the_total_is_monais_but_for_the_one(over_batch):
    reason = "oracle: MONAI"
    torch = pytest.importorskip("torch", reason=reason)
    losses = pytest.importorskip("monai.losses", reason=reason)
    theirs = losses.DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=over_batch,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    # Only the Dice term leaves the background out, in nnU-Net.
    theirs.cross_entropy = torch.nn.CrossEntropyLoss()
    dice = theirs.dice(
        torch.tensor(np.moveaxis(LOGITS, -1, 1)), torch.tensor(LABELS)[:, None]
    )
    terms = value(LOGITS, LABELS, batch_dice=over_batch)[1]
    assert 1 - terms["soft_dice"] == pytest.approx(float(dice), rel=1e-5)


def test_a_perfect_output_is_worth_minus_one_and_empty_structures_count_as_right():
    labels = np.zeros((2, 6, 5), int)
    labels[0, :3] = 1  # nothing of class 2, and nothing at all in the second patch
    logits = 60 * np.eye(3, dtype=np.float32)[labels]
    for over_batch in (True, False):
        total, _ = value(logits, labels, batch_dice=over_batch)
        assert total == pytest.approx(-1, abs=1e-5)


def test_voxels_that_nobody_annotated_are_in_no_sum():
    labels = LABELS.copy()
    labels[:, 4:] = 3
    cut = value(LOGITS[:, :4], LABELS[:, :4])[1]
    assert value(LOGITS, labels)[1] == pytest.approx(cut, rel=1e-6)
    other = LOGITS.copy()
    other[:, 4:] *= -3
    assert value(other, labels)[1] == pytest.approx(cut, rel=1e-6)
    slope = jax.grad(
        lambda x: dice_and_cross_entropy(x, jnp.asarray(labels), THREE, LossConfig())[0]
    )(jnp.asarray(LOGITS))
    assert not np.any(slope[:, 4:]) and np.all(np.any(slope[:, :4], -1))


def test_regions_overlap_and_have_sigmoids():
    labels = RNG.integers(0, 4, (1, 6, 5))
    truth = np.stack(
        [labels > 0, np.isin(labels, [1, 3]), labels == 3], axis=-1
    ).astype(float)
    np.testing.assert_array_equal(REGIONS.truth(jnp.asarray(labels)), truth)
    logits = RNG.normal(size=truth.shape).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    entropy = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    dice = 2 * (p * truth).sum((0, 1, 2)) / (p + truth).sum((0, 1, 2))
    _, terms = value(logits, labels, REGIONS)
    assert terms["cross_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert terms["soft_dice"] == pytest.approx(dice.mean(), rel=1e-5)


def test_levels_are_halved_and_the_lowest_is_not_asked():
    np.testing.assert_allclose(level_weights(5), np.array([8, 4, 2, 1, 0]) / 15)
    assert level_weights(1) == (1.0,)
    labels = jnp.asarray(RNG.integers(0, 3, (1, 8, 6)))
    np.testing.assert_array_equal(thinned(labels, (2, 1)), labels[:, 1::2])
    levels = [
        jnp.asarray(RNG.normal(size=(1, 8 // n, 6 // n, 3)), jnp.float32)
        for n in (1, 2, 2)
    ]
    strides = ((1, 1), (2, 2), (1, 1), (2, 2))
    total, terms = supervised(levels, labels, strides, THREE, LossConfig())
    parts = [value(levels[0], labels), value(levels[1], labels[:, 1::2, 1::2])]
    assert float(total) == pytest.approx((2 * parts[0][0] + parts[1][0]) / 3, rel=1e-5)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(parts[0][1])
    # Two levels down it is the third of four, near the middle, not the last.
    deep = [levels[0], levels[1], jnp.asarray(LOGITS[:1, :2, :1]), levels[2]]
    strides = ((1, 1), (2, 2), (2, 2), (1, 1))
    total, _ = supervised(deep, labels, strides, THREE, LossConfig())
    parts.append(value(deep[2], labels[:, 2::4, 2::4]))
    expected = (4 * parts[0][0] + 2 * parts[1][0] + parts[2][0]) / 7
    assert float(total) == pytest.approx(expected, rel=1e-5)
    alone, _ = supervised(
        levels, labels, strides, THREE, LossConfig(deep_supervision=False)
    )
    assert float(alone) == pytest.approx(parts[0][0], rel=1e-5)


def test_labels_of_files_go_in_and_come_out():
    stored = np.array([[0, 1, 4], [9, 4, 0]])
    inside = THREE.read(stored, "case")
    np.testing.assert_array_equal(inside, [[0, 1, 2], [3, 2, 0]])
    np.testing.assert_array_equal(
        THREE.valid(jnp.asarray(inside)), [[1, 1, 1], [0, 1, 1]]
    )
    written = THREE.write(np.eye(4)[inside][..., :3])
    np.testing.assert_array_equal(written[inside < 3], stored[inside < 3])
    assert written.dtype == np.uint8 and THREE.structures == {"core": 1, "rim": 4}
    with pytest.raises(DataError, match=r"case: label 2 in 2 voxels, the first at \(0"):
        THREE.read(np.array([[2, 2]]), "case")
    probabilities = np.array([[0.9, 0.2, 0.1], [0.9, 0.8, 0.7], [0.1, 0.3, 0.2]])
    np.testing.assert_array_equal(REGIONS.write(probabilities), [2, 4, 0])
    assert REGIONS.structures["core"] == (1, 4)
    for bad in ({"a": 0, "b": 0}, {"a": 1, "b": 1}):
        with pytest.raises(ValueError, match="labels"):
            classes(bad)
    with pytest.raises(ValueError, match="is ignored"):
        classes({"a": 1}, ignore=1)


@pytest.mark.parametrize("spec", [THREE, REGIONS], ids=["classes", "regions"])
def test_equal_draws_are_one_draw(spec):
    labels = jnp.asarray(RNG.integers(0, len(spec.values) + 1, (2, 6, 5)))
    logits = jnp.asarray(LOGITS)
    one = dice_and_cross_entropy(logits, labels, spec, LossConfig())
    same = draws_together(jnp.stack([logits] * 3), labels, spec, LossConfig())
    chex.assert_trees_all_close(same, one, rtol=1e-5)


def test_draws_that_differ_as_annotators_do_are_worth_it():
    """Two annotations, equally likely, that differ in all of n voxels: two draws, each
    sure of one, lose log 2 for the whole; two that are alike lose it for each voxel."""
    said = jnp.asarray([[0] * 5, [1] * 5], jnp.int32)
    spec = classes({"a": 1})
    sure = jnp.asarray([[9.0, -9.0], [-9.0, 9.0]])[:, None, None]  # draws, rows, voxels
    apart = jnp.broadcast_to(sure, (2, 2, 5, 2))
    for logits, expected in ((apart, math.log(2) / 5), (apart * 0, math.log(2))):
        _, terms = draws_together(logits, said, spec, LossConfig())
        assert terms["cross_entropy"] == pytest.approx(expected, abs=1e-5)
        # The mean of the draws is the same, so the Dice of either is.
        assert terms["soft_dice"] == pytest.approx(0.5, abs=1e-4)
