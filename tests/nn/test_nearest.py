"""The nearest point and its gradient, against all pairs."""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.nn.nearest import nearest

RNG = np.random.default_rng(0)


def by_all_pairs(x, y, mask):
    square = jnp.sum(jnp.square(x[:, None] - y[None]), axis=-1)
    return jnp.min(jnp.where(mask[None], square, jnp.inf), axis=1)


def test_distances_indices_and_gradients_are_those_of_all_pairs():
    # More than one tile, the last one not full, and far from the origin.
    x = jnp.asarray(RNG.normal(size=(600, 3)) + 150.0, jnp.float32)
    y = jnp.asarray(RNG.normal(size=(40, 3)) + 150.0, jnp.float32)
    mask = jnp.asarray(RNG.random(40) < 0.7)
    weight = jnp.asarray(RNG.normal(size=600), jnp.float32)

    def loss(how, x, y):
        return jnp.sum(weight * how(x, y, mask))

    mine = jax.jit(
        jax.value_and_grad(lambda x, y: loss(lambda *a: nearest(*a)[0], x, y), (0, 1))
    )
    other = jax.jit(jax.value_and_grad(lambda x, y: loss(by_all_pairs, x, y), (0, 1)))
    (value, (dx, dy)), (value2, (dx2, dy2)) = mine(x, y), other(x, y)
    np.testing.assert_allclose(value, value2, rtol=1e-5)
    np.testing.assert_allclose(dx, dx2, atol=1e-5)
    np.testing.assert_allclose(dy, dy2, atol=1e-4)
    assert bool(mask[nearest(x, y, mask)[1]].all())
    kept = mine.lower(x, y).compile().memory_analysis().temp_size_in_bytes
    table = other.lower(x, y).compile().memory_analysis().temp_size_in_bytes
    # What is kept does not grow with the number of pairs.
    assert kept < 2 * 4 * 512 * 40 + 60_000 and kept < 0.75 * table


def test_ties_go_to_the_first_and_nothing_is_infinitely_far():
    x, y = jnp.zeros((2, 2)), jnp.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    square, index = nearest(x, y)
    np.testing.assert_array_equal(square, 1.0)
    np.testing.assert_array_equal(index, 0)
    none = jnp.zeros(3, bool)
    square, index = nearest(x, y, none)
    assert np.isinf(square).all() and not index.any()
    gradient = jax.grad(lambda x, y: jnp.sum(nearest(x, y, none)[0]), (0, 1))(x, y)
    for part in gradient:
        np.testing.assert_array_equal(part, 0.0)
