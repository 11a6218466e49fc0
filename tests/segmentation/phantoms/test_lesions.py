"""The lesion phantom: number, volumes, places and load follow the law it states."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from scipy import ndimage

from medjax.metrics.distance import distance_to
from medjax.segmentation.phantoms.lesions import (
    VENTRICLE,
    LesionConfig,
    draw_brain,
    draw_lesions,
    lesion_phantom,
    load_moments,
)

CONFIG = LesionConfig(
    shape=(48, 48), window=20, lesions=(2.0, 4.0), slots=10, largest=60
)
CASES = 256


@pytest.fixture(scope="module")
def brain():
    return jax.jit(lambda key: draw_brain(CONFIG, key=key))(jax.random.key(0))


@pytest.fixture(scope="module")
def many(brain):
    """Many sets of lesions in one brain."""
    keys = jax.random.split(jax.random.key(1), CASES)
    draw = jax.jit(jax.vmap(lambda key: draw_lesions(brain, CONFIG, key=key)))
    return [np.asarray(x) for x in draw(keys)]


def test_lesions_are_the_components_of_the_mask(many):
    components, voxels, _ = many
    for case in range(20):
        labels, found = ndimage.label(components[case] > 0, np.ones((3, 3)))
        assert found == (voxels[case] > 0).sum()
        counts = np.bincount(components[case].ravel(), minlength=11)[1:]
        np.testing.assert_array_equal(counts, voxels[case])
        # One lesion per component, not only as many.
        pairs = np.unique(np.stack([labels, components[case]]).reshape(2, -1), axis=1)
        assert pairs.shape[1] == found + 1


def test_number_and_load_are_those_of_the_law(many):
    _, voxels, _ = many
    number = (voxels > 0).sum(1)
    # Poisson of a uniform mean: 3, and 3 + 4/12.
    assert abs(number.mean() - 3.0) < 4 * math.sqrt(3.34 / CASES)
    load = voxels.sum(1)
    mean, sd = load_moments(CONFIG)
    assert abs(load.mean() - mean) < 4 * sd / math.sqrt(CASES)
    assert load.std() == pytest.approx(sd, rel=0.15)


def test_the_moments_are_those_of_numbers_drawn():
    """Another way to the same: sums of log-normals by NumPy."""
    random = np.random.default_rng(0)
    volume = np.exp(random.normal(math.log(17.0), 1.5, 400_000))
    volume = np.clip(np.round(volume), 1, CONFIG.largest)
    mean, sd = load_moments(CONFIG)
    number = 3.0
    assert mean == pytest.approx(number * volume.mean(), rel=0.01)
    variance = number * (volume**2).mean() + volume.mean() ** 2 * 4 / 12
    assert sd == pytest.approx(math.sqrt(variance), rel=0.01)


def test_first_centres_follow_the_density(brain, many):
    """Their mean distance from the ventricles, against the density's own."""
    _, voxels, centres = many
    away = np.asarray(distance_to(brain.tissue == VENTRICLE, (1.0, 1.0)))
    density = np.asarray(brain.density) / float(brain.density.sum())
    mean = (density * away).sum()
    sd = math.sqrt((density * (away - mean) ** 2).sum())
    first = away[tuple(centres[:, 0].T)]
    assert abs(first.mean() - mean) < 4 * sd / math.sqrt(CASES)
    assert (density[tuple(centres[:, 0].T)] > 0).all()


def test_the_image_shows_tissue_and_lesions():
    config = dataclasses.replace(CONFIG, lesions=(6.0, 6.0), noise=0.0)
    case = lesion_phantom(config, key=jax.random.key(2))
    image, organ = np.asarray(case.image), np.asarray(case.organ)
    assert (image[~organ] == 0).all()
    lesion = np.asarray(case.components) > 0
    deep = lesion & ndimage.binary_erosion(lesion)
    assert image[deep].mean() > 0.55 and 0.2 < image[organ & ~lesion].mean() < 0.5


def test_in_three_dimensions():
    config = LesionConfig(
        shape=(20, 24, 22), window=16, lesions=(6.0, 6.0), slots=8, largest=100
    )
    case = lesion_phantom(config, key=jax.random.key(3))
    components, voxels = np.asarray(case.components), np.asarray(case.voxels)
    _, found = ndimage.label(components > 0, np.ones((3, 3, 3)))
    assert found == (voxels > 0).sum() > 0
    assert (np.asarray(case.organ)[components > 0]).all()


def test_a_shape_smaller_than_the_window_is_refused():
    with pytest.raises(ValueError, match="at least window=32"):
        draw_brain(LesionConfig(shape=(96, 20)), key=jax.random.key(0))
