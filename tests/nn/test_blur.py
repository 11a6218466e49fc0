"""The Gaussian blur against SciPy's, in two and three dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medjax.nn.blur import gaussian_blur

RNG = np.random.default_rng(0)
SCIPY = {"mirror": "mirror", "edge": "nearest", "zero": "constant"}


@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize("shape", [(15, 12), (13, 9, 11)], ids=["2-D", "3-D"])
def test_equal_to_scipy(shape, border):
    """Widths that differ by axis and are traced; channels share them."""
    image = RNG.normal(size=(*shape, 2)).astype(np.float32)
    sigma = (1.0, 1.6, 0.7)[: len(shape)]
    blur = jax.jit(lambda x, s: gaussian_blur(x, s, largest=1.6, border=border))
    ours = blur(jnp.asarray(image), sigma)
    for channel in range(2):
        theirs = gaussian_filter(
            image[..., channel], sigma, mode=SCIPY[border], radius=5
        )
        np.testing.assert_allclose(ours[..., channel], theirs, atol=1e-6)


def test_no_width_and_no_room():
    """A width of 0 changes nothing; one row has nothing to be blurred with."""
    image = jnp.asarray(RNG.normal(size=(1, 6)), jnp.float32)
    np.testing.assert_array_equal(gaussian_blur(image, (0.0, 0.0), largest=2), image)
    alone = gaussian_blur(image, (2.0, 0.0), largest=2)
    np.testing.assert_allclose(alone, image, rtol=1e-6)
    with pytest.raises(ValueError, match="3 widths for an image of shape"):
        gaussian_blur(image, (1.0, 1.0, 1.0), largest=1)
