"""The soft projection and weighted Hausdorff distance are the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart.projection import project, weighted_hausdorff

RNG = np.random.default_rng(0)
DIAGONAL = float(np.hypot(128, 128))
PLANE = jnp.asarray([[10.0, 20.0, 30.0], [1.25, 0, 0], [0, 1.25, 0]])


def published(x, p, contour):
    """The formula as the code has it: any number of vertices, in PyTorch."""
    torch = pytest.importorskip("torch")
    x, contour = torch.as_tensor(x), torch.as_tensor(contour)
    p = torch.as_tensor(p)
    distance = torch.norm(x[:, None] - contour[None] + 1e-6, dim=-1)
    first = (p * distance.min(1).values).sum() / (p.sum() + 1e-6)
    blend = (1 - p[:, None]) * DIAGONAL + p[:, None] * distance
    soft = ((blend + 1e-6) ** -7).mean(0) ** (-1 / 7)
    return first + soft.mean()


whd = jax.jit(
    jax.value_and_grad(
        lambda x, p, g, m: weighted_hausdorff(x, p, g, m, diagonal=DIAGONAL), (0, 1)
    )
)


def test_value_and_gradient_are_the_published_ones_whatever_the_padding():
    torch = pytest.importorskip("torch")
    x, g = RNG.uniform(20, 100, (30, 2)), RNG.uniform(20, 100, (17, 2))
    p = RNG.uniform(0.05, 1, 30)
    tx, tp = (torch.tensor(a, requires_grad=True) for a in (x, p))
    expected = published(tx, tp, g)
    expected.backward()
    empty = np.zeros((10, 2))
    (value, (dx, dp)) = whd(
        *(
            jnp.asarray(np.concatenate(parts), jnp.float32)
            for parts in (
                (x, empty),
                (p, empty[:, 0]),
                (g, empty[:8]),
                (np.ones(17), np.zeros(8)),
            )
        )
    )
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-5)
    np.testing.assert_allclose(dx[:30], tx.grad, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(dp[:30], tp.grad, rtol=2e-3, atol=1e-4)
    assert not dx[30:].any()


@pytest.mark.parametrize(
    ("vertices", "contour", "expected"),
    [(0, 0, 0.0), (1, 0, 181.0193), (0, 1, 181.0193)],
)
def test_an_empty_side_costs_the_diagonal_and_pulls_nothing(
    vertices, contour, expected
):
    p, m = jnp.full(40, 0.5 * vertices), jnp.full(25, 1.0 * contour)
    value, gradient = whd(jnp.ones((40, 2)), p, jnp.ones((25, 2)), m)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    for part in gradient:
        np.testing.assert_array_equal(part, 0.0)


def test_projection_weighs_by_distance_and_counts_what_it_leaves_out():
    away = np.array([0.0, 0.5, -1.9, 2.1, 30.0])
    at = np.array([[5.0, 7.0], [1.0, 2.0], [0.0, -9.0], [3.0, 3.0], [2.0, 2.0]])
    points = np.concatenate([[10, 20] + 1.25 * at, 30 + away[:, None]], axis=1)
    points = jnp.asarray(points, jnp.float32)
    projected = jax.jit(project, static_argnames=("shape", "top"))
    found = projected(points, PLANE, shape=(128, 128))
    order = np.argsort(-np.asarray(found.weight))[:3]
    np.testing.assert_allclose(
        found.weight[order], np.exp(-0.75 * away[:3] ** 2), rtol=1e-5
    )
    # Outside the image a vertex is moved to its border, as published.
    np.testing.assert_allclose(found.pixels[order], [[5, 7], [1, 2], [0, 0]], atol=1e-4)
    assert int((found.weight > 0).sum()) == 3 and int(found.left_out) == 0
    few = projected(points, PLANE, shape=(128, 128), top=2)
    assert int(few.left_out) == 1 and few.weight.shape == (2,)
    np.testing.assert_allclose(np.sort(few.weight), np.sort(found.weight[order[:2]]))
