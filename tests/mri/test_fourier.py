"""The Fourier pair is unitary and centred for odd and even sizes alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri import fourier
from tests.laws import assert_adjoint, assert_projection, assert_unitary, complex_normal

SIZES = [(8, 6), (7, 6), (8, 5), (7, 9)]


@pytest.mark.parametrize("size", SIZES)
def test_pair_is_unitary_and_adjoint(size):
    x = complex_normal(jax.random.key(0), (2, *size))
    y = complex_normal(jax.random.key(1), (2, *size))
    assert_unitary(fourier.fft2c, fourier.ifft2c, x)
    assert_adjoint(fourier.fft2c, fourier.ifft2c, x, y)


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_definition_with_its_origin_in_the_middle(size):
    """F[k, n] = exp(-2 pi i (k - N//2)(n - N//2) / N) / sqrt(N), by direct sums."""

    def matrix(n: int) -> np.ndarray:
        i = np.arange(n) - n // 2
        return np.exp(-2j * np.pi * np.outer(i, i) / n) / np.sqrt(n)

    x = np.asarray(complex_normal(jax.random.key(2), size))
    expected = matrix(size[0]) @ x @ matrix(size[1]).T
    np.testing.assert_allclose(fourier.fft2c(jnp.asarray(x)), expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_constant_image_is_one_point_at_the_centre(size):
    kspace = np.array(fourier.fft2c(jnp.ones(size, jnp.complex64)))
    h, w = size
    np.testing.assert_allclose(kspace[h // 2, w // 2], np.sqrt(h * w), rtol=1e-6)
    kspace[h // 2, w // 2] = 0
    assert np.abs(kspace).max() < 1e-5


@pytest.mark.parametrize(
    ("small", "large"), [((4, 3), (8, 9)), ((3, 6), (7, 8)), ((5, 5), (8, 9))]
)
def test_crop_and_pad_are_adjoint_and_keep_the_centre(small, large):
    (h, w), (height, width) = small, large
    x = complex_normal(jax.random.key(0), (2, height, width))
    y = complex_normal(jax.random.key(1), (2, h, w))

    def crop(a):
        return fourier.centre_crop(a, height=h, width=w)

    def pad(a):
        return fourier.centre_pad(a, height=height, width=width)

    assert_adjoint(crop, pad, x, y)
    np.testing.assert_array_equal(crop(pad(y)), y)
    assert_projection(lambda a: pad(crop(a)), x)
    np.testing.assert_array_equal(
        crop(x)[:, h // 2, w // 2], x[:, height // 2, width // 2]
    )


def test_impossible_sizes_are_refused_by_name():
    x = jnp.zeros((4, 6), jnp.complex64)
    with pytest.raises(ValueError, match="5x6 does not fit in x of 4x6"):
        fourier.centre_crop(x, height=5, width=6)
    with pytest.raises(ValueError, match="4x6 cannot be padded to 4x5"):
        fourier.centre_pad(x, height=4, width=5)
    with pytest.raises(ValueError, match="6 columns, no multiple of factor 4"):
        fourier.remove_readout_oversampling(x, factor=4)


def test_readout_oversampling_leaves_the_middle_of_the_image():
    image = complex_normal(jax.random.key(3), (3, 6, 16))
    kept = fourier.remove_readout_oversampling(fourier.fft2c(image))
    assert kept.shape == (3, 6, 8)
    np.testing.assert_allclose(fourier.ifft2c(kept), image[..., 4:12], atol=1e-5)
