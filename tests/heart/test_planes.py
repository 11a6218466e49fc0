"""Sampling gives a linear function back exactly, whatever the planes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart.planes import (
    normals,
    sample_planes,
    sample_stack,
    to_plane,
    to_space,
)

RNG = np.random.default_rng(0)
SLOPE = np.array([0.3, -0.7, 0.2])
TURN = np.linalg.qr(RNG.normal(size=(3, 3)))[0]


stacked = jax.jit(sample_stack)


def stack(d: int, *, reverse: bool = False) -> np.ndarray:
    """Oblique slices, 1.25 x 2 mm pixels, unequal gaps, each shifted by a bit."""
    gaps = np.array([0.0, 8.0, 18.0, 26.0, 36.0])[:d]
    places = (gaps[::-1] if reverse else gaps)[:, None] * TURN[2]
    shifts = RNG.normal(0, 2, (d, 2))
    planes = np.zeros((d, 3, 3), np.float32)
    planes[:, 0] = [20, -30, 50] + places + shifts @ TURN[:2]
    planes[:, 1], planes[:, 2] = 1.25 * TURN[0], 2.0 * TURN[1]
    return planes


def ramp(points: np.ndarray) -> np.ndarray:
    return points @ SLOPE + 4.0


def images(planes: np.ndarray, h: int = 40, w: int = 30) -> jnp.ndarray:
    """The ramp and its negative on every pixel's centre."""
    row, column = np.mgrid[:h, :w][..., None]
    places = (
        planes[:, None, None, 0]
        + row[None] * planes[:, None, None, 1]
        + column[None] * planes[:, None, None, 2]
    )
    value = ramp(places)
    return jnp.asarray(np.stack([value, -value], axis=-1), jnp.float32)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_stack_of_shifted_oblique_slices_gives_a_ramp_back(reverse):
    planes = stack(5, reverse=reverse)
    inside = RNG.uniform([8, 8, 0.5], [35, 40, 35.5], (50, 3)) @ TURN
    points = jnp.asarray([20, -30, 50] + inside, jnp.float32)
    values, where = stacked(images(planes), planes, points)
    np.testing.assert_allclose(values[:, 0], ramp(points), rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(values[:, 1], -values[:, 0], rtol=1e-6)
    assert np.all(where[:, 1] == 0) and np.ptp(where[:, 0]) > 0.5
    if not reverse:
        first = jax.grad(lambda p: jnp.sum(stacked(images(planes), planes, p)[0][:, 0]))
        np.testing.assert_allclose(first(points), np.tile(SLOPE, (50, 1)), atol=2e-4)


def test_beyond_the_stack_the_last_slice_is_read_and_the_distance_told():
    planes = stack(3)
    beyond = planes[2, 0] + 9.0 * TURN[2] + 20 * TURN[0] + 20 * TURN[1]
    points = jnp.asarray(np.stack([beyond, beyond + 1e4 * TURN[1]]), jnp.float32)
    values, where = stacked(images(planes), planes, points)
    foot = np.asarray(beyond) - 9.0 * TURN[2]
    np.testing.assert_allclose(values[0, 0], ramp(foot), rtol=1e-5)
    np.testing.assert_allclose(where[0], [1.0, 0.9], atol=1e-5)
    assert (values[1] == 0).all()


def test_one_slice_is_a_stack_too():
    planes = stack(1)
    at = planes[0, 0] + 10 * planes[0, 1] + 5 * planes[0, 2]
    values, _ = stacked(images(planes), planes, jnp.asarray(at[None]))
    np.testing.assert_allclose(values[0, 0], ramp(at), rtol=1e-5)


def test_views_are_read_at_the_foot():
    planes = stack(2)
    points = np.asarray(planes[0, 0] + 12.5 * planes[0, 1] + 3.25 * planes[0, 2])
    points = jnp.asarray(points + 5.0 * TURN[2], jnp.float32)[None]
    values, away = jax.jit(sample_planes)(images(planes), planes, points)
    expected = np.abs((np.asarray(points) - planes[:, 0]) @ TURN[2])
    np.testing.assert_allclose(np.abs(away[:, 0]), expected, atol=1e-4)
    foot = np.asarray(points) - (np.array([5.0, -3.0])[:, None] * TURN[2])
    np.testing.assert_allclose(values[:, 0, 0], ramp(foot), rtol=1e-4)


def test_plane_and_space_are_inverse():
    plane = jnp.asarray(stack(1)[0])
    pixels = jnp.asarray(RNG.uniform(0, 30, (7, 2)), jnp.float32)
    back = jax.jit(lambda p: to_plane(to_space(p, plane), plane))(pixels)
    np.testing.assert_allclose(back[:, :2], pixels, atol=1e-4)
    np.testing.assert_allclose(back[:, 2], 0.0, atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(normals(plane)), 1.0, rtol=1e-6)
