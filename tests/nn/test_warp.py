"""Sampling at points against SciPy's, in two and three dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import affine_transform, map_coordinates

from medjax.nn.warp import affine_points, warp

RNG = np.random.default_rng(0)
SHAPES = {2: (7, 9), 3: (5, 7, 6)}
SCIPY = {"zero": "grid-constant", "edge": "nearest"}


@pytest.mark.parametrize("outside", SCIPY)
@pytest.mark.parametrize("rank", SHAPES)
def test_equal_to_scipy_inside_and_beyond(rank, outside):
    """Both orders, a batch of images with two channels, points far outside too."""
    shape = SHAPES[rank]
    images = RNG.integers(0, 200, (2, *shape, 2)).astype(np.float32)
    at = RNG.uniform(-2.5, np.array(shape) + 1.5, (2, 40, rank)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def ours(image, points):
        return [
            warp(image, jnp.unstack(points, axis=-1), order=order, outside=outside)
            for order in ("nearest", "linear")
        ]

    found = ours(jnp.asarray(images), jnp.asarray(at))
    for order, mine in enumerate(found):
        for case in range(2):
            for channel in range(2):
                theirs = map_coordinates(
                    images[case, ..., channel],
                    at[case].T,
                    order=order,
                    mode=SCIPY[outside],
                )
                np.testing.assert_allclose(mine[case, :, channel], theirs, atol=2e-4)


def test_labels_stay_labels():
    labels = jnp.asarray(RNG.integers(0, 4, (6, 5)), jnp.uint8)
    rows, columns = jnp.meshgrid(jnp.arange(6.0), jnp.arange(5.0), indexing="ij")
    same = warp(labels, (rows, columns), order="nearest")
    assert same.dtype == jnp.uint8
    np.testing.assert_array_equal(same, labels)


def test_beyond_the_window_is_zero():
    image = jnp.ones((6, 5))
    rows, columns = jnp.meshgrid(jnp.arange(6.0), jnp.arange(5.0), indexing="ij")
    seen = warp(image, (rows, columns), window=((1.0, 3.0), (2.0, 5.0)))
    expected = np.zeros((6, 5))
    expected[1:3, 2:5] = 1
    np.testing.assert_array_equal(seen, expected)


def test_a_linear_map_about_the_centres_equals_scipys():
    image = RNG.normal(size=(5, 7, 6)).astype(np.float32)
    matrix = (np.eye(3) + 0.2 * RNG.normal(size=(3, 3))).astype(np.float32)
    shift, shape = np.array([0.3, -1.0, 0.5], np.float32), (6, 5, 8)
    points = affine_points(
        jnp.asarray(matrix), shape, image.shape, shift=jnp.asarray(shift)
    )
    out, source = (0.5 * (np.array(s) - 1) for s in (shape, image.shape))
    theirs = affine_transform(
        image,
        matrix,
        source + shift - matrix @ out,
        output_shape=shape,
        order=1,
        mode="grid-constant",
    )
    np.testing.assert_allclose(warp(jnp.asarray(image), points), theirs, atol=1e-5)


def test_gradients_flow_to_points_and_image():
    """A plane's gradient in the coordinate is its slope."""
    rows = jnp.arange(6.0)
    plane = 3.0 * rows[:, None] + 0.0 * rows[None, :5]
    at = (jnp.array([1.25, 3.5]), jnp.array([0.5, 2.75]))

    def total(image, y, x):
        return warp(image, (y, x)).sum()

    of_image, of_y, of_x = jax.grad(total, (0, 1, 2))(plane, *at)
    np.testing.assert_allclose(of_y, 3, rtol=1e-5)
    np.testing.assert_allclose(of_x, 0, atol=1e-5)
    assert of_image.sum() == pytest.approx(2, rel=1e-6), "shares add up to one"


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"for 3 axes of an image of shape \(4, 4\)"):
        warp(jnp.zeros((4, 4)), (jnp.zeros(2),) * 3)
    with pytest.raises((ValueError, TypeError), match="order"):
        warp(jnp.zeros((4, 4)), (jnp.zeros(2),) * 2, order="cubic")


def test_bytes_are_fetched_by_one_gather_and_give_the_same_bits():
    """Four neighbours of a pixel are one word; borders and windows are as ever."""
    random = np.random.default_rng(3)
    film = jnp.asarray(random.integers(0, 256, (9, 13), np.uint8))
    at = tuple(
        jnp.asarray(random.uniform(-4, n + 3, (40, 50)).astype(np.float32))
        for n in film.shape
    )
    edges = tuple(jnp.arange(-2.0, 14.0).reshape(4, 4) for _ in film.shape)
    for points in (at, edges):
        for window in (None, ((2.0, 7.0), (0.0, 11.0))):
            words = warp(film, points, window=window)
            plain = warp(film.astype(jnp.float32), points, window=window)
            np.testing.assert_array_equal(words, plain)
    text = str(jax.make_jaxpr(lambda film: warp(film, at))(film))
    assert text.count("gather[") == 1
