"""Image metrics agree with scikit-image and with values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.metrics import images

skimage = pytest.importorskip("skimage.metrics", reason="oracle: scikit-image")


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    reference = rng.gamma(2.0, size=(3, 20, 26)).astype(np.float32)
    prediction = reference + 0.2 * rng.normal(size=reference.shape).astype(np.float32)
    return prediction, reference


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_scikit_image_agrees(pair, scale):
    prediction, reference = (np.float32(scale) * a for a in pair)
    each = reference.max(axis=(1, 2))
    ours = images.ssim(
        jnp.asarray(prediction), jnp.asarray(reference), data_range=jnp.asarray(each)
    )
    ratio = images.psnr(
        jnp.asarray(prediction), jnp.asarray(reference), data_range=jnp.asarray(each)
    )
    for i in range(3):
        g, p, top = reference[i].astype(float), prediction[i].astype(float), each[i]
        theirs = skimage.structural_similarity(g, p, data_range=top)
        np.testing.assert_allclose(ours[i], theirs, rtol=1e-5)
        theirs = skimage.peak_signal_noise_ratio(g, p, data_range=top)
        np.testing.assert_allclose(ratio[i], theirs, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e8])
def test_the_gradient_of_ssim_knows_no_unit(pair, scale):
    """In the unit of a scanner's k-space it was NaN: eighth powers of it vanish."""
    prediction, reference = pair

    def value(image, unit):
        target = jnp.asarray(unit * reference)
        return images.ssim(image, target, data_range=unit * 4).mean()

    unit = np.float32(scale)
    one = jax.grad(value)(jnp.asarray(prediction), np.float32(1))
    other = jax.grad(value)(jnp.asarray(unit * prediction), unit)
    np.testing.assert_allclose(unit * other, one, rtol=1e-3, atol=1e-7)


def test_population_covariance_is_the_other_convention(pair):
    prediction, reference = pair
    options = {"data_range": 3.0, "window": 5}
    ours = images.ssim(
        jnp.asarray(prediction),
        jnp.asarray(reference),
        covariance="population",
        **options,
    )
    for i in range(3):
        theirs = skimage.structural_similarity(
            reference[i].astype(float),
            prediction[i].astype(float),
            data_range=3.0,
            win_size=5,
            use_sample_covariance=False,
        )
        np.testing.assert_allclose(ours[i], theirs, rtol=1e-5)


def test_equal_images_are_perfect_and_ssim_has_a_gradient_there(pair):
    reference = jnp.asarray(pair[1])
    np.testing.assert_allclose(
        images.ssim(reference, reference, data_range=1.0), 1, atol=1e-6
    )
    assert (np.asarray(images.nmse(reference, reference)) == 0).all()
    assert np.isinf(images.psnr(reference, reference, data_range=1.0)).all()

    def loss(image):
        return 1 - images.ssim(image, reference, data_range=1.0).mean()

    assert np.isfinite(jax.grad(loss)(reference)).all()
    assert float(loss(reference + 0.1)) > float(loss(reference))


def test_windows_that_cannot_be_are_refused():
    image = jnp.zeros((6, 9))
    with pytest.raises(ValueError, match="window=7 must be odd and fit in.* 6x9"):
        images.ssim(image, image, data_range=1.0)
