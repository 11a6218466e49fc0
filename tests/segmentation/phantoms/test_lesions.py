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
    lesion_phantom,
    load_moments,
)
from tests.segmentation.lesionmix.cases import CONFIG, SOLID, drawn


def test_lesions_are_the_components_of_the_mask():
    many = drawn()
    for components, voxels in zip(many.components[:20], many.voxels, strict=False):
        labels, found = ndimage.label(components > 0, np.ones((3, 3)))
        assert found == (voxels > 0).sum()
        counts = np.bincount(components.ravel(), minlength=CONFIG.slots + 1)[1:]
        np.testing.assert_array_equal(counts, voxels)
        # One lesion per component, not only as many.
        pairs = np.unique(np.stack([labels, components]).reshape(2, -1), axis=1)
        assert pairs.shape[1] == found + 1


def test_number_and_load_are_those_of_the_law():
    voxels = drawn().voxels
    cases = len(voxels)
    number = (voxels > 0).sum(1)
    # Poisson of a uniform mean: 8, and 8 + 4/12.
    assert abs(number.mean() - 8.0) < 4 * math.sqrt(8.34 / cases)
    load = voxels.sum(1)
    mean, sd = load_moments(CONFIG)
    assert abs(load.mean() - mean) < 4 * sd / math.sqrt(cases)
    assert load.std() == pytest.approx(sd, rel=0.25)


def test_the_moments_are_those_of_numbers_drawn():
    """Another way to the same: sums of log-normals by NumPy."""
    random = np.random.default_rng(0)
    volume = np.exp(random.normal(math.log(17.0), 1.5, 400_000))
    volume = np.clip(np.round(volume), 1, CONFIG.largest)
    mean, sd = load_moments(CONFIG)
    assert mean == pytest.approx(8 * volume.mean(), rel=0.01)
    variance = 8 * (volume**2).mean() + volume.mean() ** 2 * 4 / 12
    assert sd == pytest.approx(math.sqrt(variance), rel=0.01)


def test_first_centres_follow_the_density():
    """The share of the density that lies lower than at the centre is uniform."""
    many = drawn()
    shares = []
    for density, centres in zip(many.density, many.centres, strict=True):
        at = density[tuple(centres[0])]
        assert at > 0
        below, same = density[density < at].sum(), density[density == at].sum()
        shares.append((below + same / 2) / density.sum())
    assert abs(np.mean(shares) - 0.5) < 4 / math.sqrt(12 * len(shares))
    assert np.std(shares) == pytest.approx(12**-0.5, rel=0.2)


def test_the_density_falls_with_the_distance_from_the_ventricles():
    brain = jax.jit(lambda key: draw_brain(CONFIG, key=key))(jax.random.key(0))
    away = np.asarray(distance_to(brain.tissue == VENTRICLE, (1.0, 1.0)))
    density = np.asarray(brain.density)
    some = density > 0
    np.testing.assert_allclose(density[some], np.exp(-away[some] / 6), rtol=1e-4)
    assert some.sum() > 300 and away[some].min() >= 1


def test_the_image_shows_tissue_and_lesions():
    many = drawn()
    assert (many.image[~many.organ] == 0).all()
    lesion = many.components > 0
    deep = lesion & ndimage.binary_erosion(lesion, np.ones((1, 3, 3)))
    assert many.image[deep].mean() > 0.55
    assert 0.2 < many.image[many.organ & ~lesion].mean() < 0.5
    assert (many.organ[lesion]).all()


def test_in_three_dimensions():
    case = lesion_phantom(SOLID, key=jax.random.key(1))
    components, voxels = np.asarray(case.components), np.asarray(case.voxels)
    _, found = ndimage.label(components > 0, np.ones((3, 3, 3)))
    assert found == (voxels > 0).sum() > 0
    assert (np.asarray(case.organ)[components > 0]).all()


def test_a_shape_smaller_than_the_window_is_refused():
    config = dataclasses.replace(LesionConfig(), shape=(96, 20))
    with pytest.raises(ValueError, match="at least window=32"):
        draw_brain(config, key=jax.random.key(0))
