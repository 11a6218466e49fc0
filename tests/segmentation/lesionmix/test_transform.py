"""A lesion's transform: what NumPy and SciPy do, no lesion cut off, mm kept."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from medjax.segmentation.lesionmix.transform import (
    TransformConfig,
    draw_motion,
    move,
    relit,
)

STILL = TransformConfig(flip=0.0, rotate=0.0, scale=(1.0, 1.0), elastic=0.0)


def crop(rank):
    """A lopsided object off the middle of an odd box."""
    image = np.random.default_rng(0).normal(size=(17,) * rank).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[(slice(6, 10), slice(5, 13), slice(7, 10))[:rank]] = True
    return image, mask


@functools.partial(jax.jit, static_argnums=(2, 3))
def run(image, mask, spacing, config, at, seed):
    motion = draw_motion(mask, spacing, config, key=jax.random.key(seed))
    channels = jnp.stack([image, mask.astype(jnp.float32)], -1)
    return *move(channels, motion, at), motion


def moved(rank, config, spacing=(1.0, 1.0, 1.0), middle=None, seed=0):
    image, mask = map(jnp.asarray, crop(rank))
    at = jnp.full((rank,), 8.0) if middle is None else jnp.asarray(middle)
    out, new, motion = run(image, mask, spacing[:rank], config, at, seed)
    return np.asarray(out), np.asarray(new), motion


@pytest.mark.parametrize("rank", [2, 3])
def test_nothing_happens_without_a_transform(rank):
    image, mask = crop(rank)
    out, new, _ = moved(rank, STILL)
    np.testing.assert_array_equal(new, mask)
    np.testing.assert_allclose(out, image, atol=1e-6)


def test_another_middle_is_a_shift():
    _, mask = crop(2)
    _, new, _ = moved(2, STILL, middle=(10.0, 7.0))
    np.testing.assert_array_equal(new, np.roll(mask, (2, -1), (0, 1)))


@pytest.mark.parametrize("rank", [2, 3])
def test_flips_are_numpys(rank):
    image, mask = crop(rank)
    out, new, _ = moved(rank, dataclasses.replace(STILL, flip=1.0))
    np.testing.assert_array_equal(new, np.flip(mask))
    np.testing.assert_allclose(out, np.flip(image), atol=1e-6)


def test_a_right_angle_is_numpys():
    image, mask = crop(2)
    config = dataclasses.replace(STILL, rotate=1.0, degrees=(90.0, 90.0))
    out, new, _ = moved(2, config)
    np.testing.assert_array_equal(new, np.rot90(mask))
    np.testing.assert_allclose(out, np.rot90(image), atol=1e-5)


def test_rotation_keeps_millimetres():
    """8 voxels of 1 mm become 4 of 2 mm, and 4 of 2 mm become 8 of 1 mm: two of these
    are covered by halves, which round down."""
    config = dataclasses.replace(STILL, rotate=1.0, degrees=(90.0, 90.0))
    _, new, _ = moved(2, config, spacing=(2.0, 1.0))
    rows, columns = np.nonzero(new)
    assert np.ptp(rows) + 1 == 4 and np.ptp(columns) + 1 in (7, 8)


def test_the_size_goes_with_the_scale():
    _, mask = crop(3)
    _, new, motion = moved(3, dataclasses.replace(STILL, scale=(1.5, 1.5)))
    assert new.sum() == pytest.approx(1.5**3 * mask.sum(), rel=0.15)
    np.testing.assert_allclose(motion.reach, [3.0, 6.0, 1.5])


@pytest.mark.parametrize("rank", [2, 3])
def test_no_lesion_is_cut_off(rank):
    """However large the factor: what touches no border of the box lost nothing."""
    wild = TransformConfig(scale=(1.0, 9.0), rotate=1.0, elastic=1.0)
    for seed in range(6):
        _, new, motion = moved(rank, wild, seed=seed)
        assert new.any() and not np.delete(new, slice(1, -1), axis=0).any()
        reach = [np.abs(np.nonzero(new)[axis] - 8).max() for axis in range(rank)]
        assert (np.array(reach) <= np.asarray(motion.reach) + 1).all()


def test_bending_is_linear_interpolation_of_the_control_points():
    config = dataclasses.replace(
        STILL, elastic=1.0, elastic_voxels=2.5, control_points=4
    )
    image, _ = crop(2)
    out, _, motion = moved(2, config)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 3, 17)] * 2, indexing="ij"))
    field = [map_coordinates(np.asarray(c), grid, order=1) for c in motion.control]
    at = np.stack(np.indices(image.shape)) + np.stack(field)
    theirs = map_coordinates(image, at, order=1, mode="grid-constant")
    np.testing.assert_allclose(out, theirs, atol=1e-4)
    assert np.abs(motion.control).max() > 1.5


def test_light():
    image = jnp.full((50, 50), 2.0)
    config = TransformConfig(brightness=(1.5, 1.5), noise_sd=0.2)
    out = relit(image, config, key=jax.random.key(0))
    assert float(out.mean()) == pytest.approx(3.0, abs=0.02)
    assert float(out.std()) == pytest.approx(0.2, rel=0.05)
