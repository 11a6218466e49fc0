"""Augmentation: image and labels move together, whatever the batch and the devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.segmentation import augment as aug
from medjax.segmentation.augment import (
    NONE,
    AugmentConfig,
    augment,
    augment_masked,
    source_extent,
)

RNG = np.random.default_rng(0)
PATCH = (12, 16)
SOURCE = (18, 22)
KEY = jax.random.key(3)


def scene(rows=6, shape=SOURCE):
    """Smooth labels, and an image that is their indicator."""
    grid = np.indices(shape).astype(float)
    labels = np.zeros((rows, *shape), np.int16)
    for row in range(rows):
        middle = np.array(shape) * (0.35 + 0.05 * row)
        far = np.sqrt(sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True)))
        labels[row] = np.where(far < 3, 2, np.where(far < 6, 1, 0))
    images = (labels == 2)[..., None].astype(np.float32)
    return jnp.asarray(images), jnp.asarray(labels)


IMAGES, LABELS = scene()
SPACE = dataclasses.replace(NONE, p_turn=1.0, p_zoom=1.0, mirror=True, turn=180)


def run(config, images=IMAGES, labels=LABELS, key=KEY, patch=PATCH):
    return augment(images, labels, key, patch=patch, config=config, count=4)


@pytest.fixture(scope="module")
def moved():
    return run(SPACE)


def test_nothing_asked_is_the_middle_of_the_source():
    image, label = run(NONE)
    np.testing.assert_allclose(image, IMAGES[:, 3:15, 3:19], atol=1e-6)
    np.testing.assert_array_equal(label, LABELS[:, 3:15, 3:19])


def test_image_and_labels_move_together(moved):
    image, label = moved
    assert not np.array_equal(label, LABELS[:, 3:15, 3:19])
    agree = (np.asarray(image[..., 0]) > 0.5) == (np.asarray(label) == 2)
    # Where three shares meet, the largest may be less than one half.
    assert agree.mean() > 0.98
    assert set(np.unique(label)) <= {0, 1, 2}


def test_a_row_depends_on_its_number_alone(moved):
    few = run(SPACE, IMAGES[:4], LABELS[:4])
    np.testing.assert_allclose(few[0], moved[0][:4], atol=2e-6)
    np.testing.assert_array_equal(few[1], moved[1][:4])
    auto = jax.sharding.AxisType.Auto
    devices = jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(auto,), devices=devices)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    placed = [jax.device_put(x, split) for x in (IMAGES, LABELS)]
    both = run(SPACE, *placed)
    np.testing.assert_allclose(both[0], moved[0], atol=2e-6)
    np.testing.assert_array_equal(both[1], moved[1])


def test_mirrors_are_mirrors():
    config = dataclasses.replace(NONE, mirror=True)
    image, label = run(config)
    middle = np.asarray(LABELS[:, 3:15, 3:19])
    which = set()
    for row in range(6):
        options = {
            (i, j): middle[row][:: 1 - 2 * i, :: 1 - 2 * j]
            for i in (0, 1)
            for j in (0, 1)
        }
        same = [k for k, v in options.items() if np.array_equal(v, label[row])]
        assert same
        which |= set(same)
    assert len(which) > 1


def test_ignored_voxels_stay_ignored():
    labels = jnp.full_like(LABELS, 3)
    _, label = run(NONE, IMAGES, labels)
    np.testing.assert_array_equal(label, 3)


def test_thick_slices_stay_in_their_planes():
    patch = (2, 8, 8)
    assert aug.is_planar(patch) and source_extent(AugmentConfig(), patch)[0] == 2
    shape = (2, 12, 12)
    image = jnp.broadcast_to(jnp.arange(2.0)[None, :, None, None, None], (3, *shape, 1))
    config = dataclasses.replace(SPACE, mirror=False)
    out, _ = run(config, image, jnp.zeros((3, *shape), jnp.int16), patch=patch)
    # A slice is its number wherever it is not the border.
    first, second = out[:, 0], out[:, 1]
    np.testing.assert_allclose(first, 0, atol=1e-6)
    assert np.median(second) == pytest.approx(1)


def test_few_slices_are_those_of_the_first_axis():
    config, degrees = AugmentConfig(), np.radians([30, 180, 15])
    assert not aug.is_planar((64, 16, 64)) and aug.is_planar((16, 32, 64))
    patches = ((64, 16, 64), (16, 32, 64), (32, 64))
    found = [aug.largest_turn(config, patch) for patch in patches]
    np.testing.assert_allclose(found, degrees)


def test_the_source_holds_a_turned_patch():
    turned = dataclasses.replace(NONE, p_turn=1.0)
    assert source_extent(NONE, PATCH) == PATCH
    assert source_extent(turned, (30, 40)) == (50, 50), "180 degrees: the diagonal"
    narrow = source_extent(turned, (10, 40))
    angle = np.radians(15)
    assert narrow[0] == np.ceil(10 * np.cos(angle) + 40 * np.sin(angle))
    cube = source_extent(turned, (20, 20, 20))
    assert cube == (int(np.ceil(20 * (np.cos(np.pi / 6) + 0.5))),) * 3


def test_intensities_keep_what_they_promise():
    image = jnp.asarray(RNG.normal(2, 3, (16, 16)), jnp.float32)
    low = aug._reduced(image, jnp.float32(0.5))
    # Every value is between neighbours of its neighbourhood, and a constant stays.
    assert float(low.max()) <= float(image.max()) + 1e-5
    flat = jnp.full((16, 16), 4.0)
    np.testing.assert_allclose(aug._reduced(flat, jnp.float32(0.6)), 4, rtol=1e-6)
    np.testing.assert_allclose(aug._reduced(image, jnp.float32(1.0)), image, rtol=1e-6)
    gamma = aug._gamma(image, jnp.float32(1.4))
    assert float(gamma.mean()) == pytest.approx(float(image.mean()), abs=1e-4)
    assert float(gamma.std()) == pytest.approx(float(image.std()), rel=1e-4)
    assert float(aug._gamma(flat, jnp.float32(0.7)).mean()) == pytest.approx(4)


def test_things_happen_as_often_as_asked():
    config = dataclasses.replace(NONE, p_noise=0.5)
    images = jnp.zeros((64, 8, 8, 1))
    out, _ = run(config, images, jnp.zeros((64, 8, 8), jnp.int16), patch=(8, 8))
    deviation = np.asarray(out).std(axis=(1, 2, 3))
    assert 18 <= (deviation > 0).sum() <= 46
    assert deviation.max() < 1.3 * np.sqrt(0.1)


def test_a_mask_goes_where_its_voxels_go(moved):
    """Labels themselves as a mask, under noise; image and labels are as without it."""
    for labels in ("linear", "nearest"):
        config = dataclasses.replace(SPACE, labels=labels, p_noise=1.0)
        options = {"patch": PATCH, "config": config, "count": 4}
        image, label, mask = augment_masked(IMAGES, LABELS, LABELS > 0, KEY, **options)
        agree = np.asarray(mask) == (np.asarray(label) > 0)
        assert agree.mean() > 0.98 and 0.05 < np.asarray(mask).mean() < 0.95
        assert (np.asarray(image) != 0).mean() > 0.9  # no zero tells it any more
        if labels == "linear":
            np.testing.assert_array_equal(label, moved[1])
