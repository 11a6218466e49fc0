"""Distance transforms against SciPy's, in both forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax.metrics import distance
from medjax.metrics.distance import distance_to, signed_distance

RNG = np.random.default_rng(0)
SPACING = (2.5, 0.7, 1.1)


@pytest.fixture(scope="module")
def blobs():
    noise = ndimage.gaussian_filter(RNG.normal(size=(2, 12, 20, 17)), (0, 2, 2, 2))
    return noise > np.quantile(noise, 0.93)


def scipy_distance(mask, spacing):
    return ndimage.distance_transform_edt(~mask, sampling=spacing)


def test_a_batch_of_volumes_equals_scipy(blobs):
    ours = np.asarray(distance_to(jnp.asarray(blobs), SPACING))
    assert ours.shape == blobs.shape and ours.dtype == np.float32
    for mask, mine in zip(blobs, ours, strict=True):
        np.testing.assert_allclose(mine, scipy_distance(mask, SPACING), atol=5e-6)


def test_images_and_lines_equal_scipy(blobs):
    planes = np.asarray(distance_to(jnp.asarray(blobs), SPACING[1:]))
    lines = np.asarray(distance_to(jnp.asarray(blobs), SPACING[2:]))
    for at in np.ndindex(2, 12):
        if blobs[at].any():
            expected = scipy_distance(blobs[at], SPACING[1:])
            np.testing.assert_allclose(planes[at], expected, atol=5e-6)
    row = np.argwhere(blobs.any(-1))[0]
    expected = scipy_distance(blobs[tuple(row)], SPACING[2:])
    np.testing.assert_allclose(lines[tuple(row)], expected, atol=5e-6)


def test_the_form_for_accelerators_gives_the_same_numbers():
    f = jnp.asarray(RNG.integers(0, 400, (23, 9)).astype(np.float32))
    f = f.at[3].set(jnp.inf)
    ours = [
        form(f, jnp.float32(1.7)) for form in (distance._running, distance._reduced)
    ]
    np.testing.assert_allclose(*ours, rtol=1e-6)


def test_nothing_to_measure_to_is_infinitely_far():
    empty = jnp.zeros((4, 5), bool)
    assert np.isposinf(distance_to(empty, (1.0, 1.0))).all()
    assert np.isposinf(signed_distance(empty, (1.0, 1.0))).all()
    assert np.isneginf(signed_distance(~empty, (1.0, 1.0))).all()


def test_signed_distance_is_negative_inside(blobs):
    ours = np.asarray(
        jax.jit(lambda m: signed_distance(m, SPACING))(jnp.asarray(blobs))
    )
    np.testing.assert_array_equal(ours < 0, blobs)
    inside = -ndimage.distance_transform_edt(blobs[0], sampling=SPACING)
    np.testing.assert_allclose(ours[0][blobs[0]], inside[blobs[0]], atol=5e-6)


def test_spacing_must_fit_the_mask():
    with pytest.raises(ValueError, match=r"1 to 2 numbers .* shape \(4, 5\)"):
        distance_to(jnp.zeros((4, 5), bool), (1.0, 1.0, 1.0))
