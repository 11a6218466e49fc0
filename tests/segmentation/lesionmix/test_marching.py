"""Filling in layers: a mean of what neighbours foretell, as a loop has it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax.segmentation.lesionmix.marching import RADIUS, telea


@functools.partial(jax.jit, static_argnames=("spacing", "slopes"))
def filled(values, domain, usable, spacing, slopes=False):
    return telea(values, domain, usable, spacing, slopes=slopes)


def scene(shape, seed):
    """Noise, a blob to fill and an organ whose border runs through it."""
    random = np.random.default_rng(seed)
    at = np.indices(shape)
    middle = np.reshape([n // 2 for n in shape], (-1,) + (1,) * len(shape))
    usable = at[0] > shape[0] // 2 - 3
    domain = (((at - middle) ** 2).sum(0) < 9) & usable
    image = random.normal(size=shape).astype(np.float32)
    return np.where(domain, 55.0, image).astype(np.float32), domain, usable


def slope(x, there, at, spacing):
    """Differences to both sides that are there, per mm."""
    found = []
    for axis, size in enumerate(spacing):
        rises = []
        for step in (-1, 1):
            q = list(at)
            q[axis] += step
            if 0 <= q[axis] < x.shape[axis] and there[tuple(q)] and there[at]:
                rises.append(step * (x[tuple(q)] - x[at]) / size)
        found.append(np.mean(rises) if rises else 0.0)
    return np.array(found)


def one_by_one(image, domain, usable, spacing, slopes):
    """Telea's sum at every voxel of a layer, from the layers before."""
    image, known = image.astype(float), usable & ~domain
    depth = ndimage.distance_transform_edt(~known, sampling=spacing)
    outside = ndimage.distance_transform_edt(~domain, sampling=spacing)
    level = np.where(domain, depth, -outside)
    layers = np.ceil(depth / min(spacing) - 1e-3).astype(int) * domain
    reach = range(-RADIUS, RADIUS + 1)
    for layer in range(1, layers.max() + 1):
        before, there = image.copy(), known.copy()
        for at in map(tuple, np.argwhere(layers == layer)):
            normal = slope(level, usable, at, spacing)
            total = shares = 0.0
            for offset in itertools.product(reach, repeat=len(at)):
                q = tuple(np.add(at, offset))
                far = not 0 < np.dot(offset, offset) <= RADIUS**2
                if far or any(
                    not 0 <= i < n for i, n in zip(q, image.shape, strict=True)
                ):
                    continue
                if not there[q]:
                    continue
                back = -np.multiply(offset, spacing)
                square = back @ back
                share = max(abs(back @ normal) / square**0.5, 1e-6) / square
                share /= 1 + abs(level[at] - level[q])
                told = before[q]
                if slopes:
                    told += slope(before, there, q, spacing) @ back
                total, shares = total + share * told, shares + share
            if shares:
                image[at], known[at] = total / shares, True
    return image


@pytest.mark.parametrize(
    "shape, spacing, slopes",
    [
        ((15, 14), (1.0, 1.7), True),
        ((9, 9, 8), (2.0, 1.0, 1.2), True),
        ((15, 14), (1.0, 1.7), False),
    ],
)
def test_it_is_the_sum_over_neighbours_of_the_layers_before(shape, spacing, slopes):
    image, domain, usable = scene(shape, 0)
    ours = filled(*map(jnp.asarray, (image, domain, usable)), spacing, slopes)
    expected = one_by_one(image, domain, usable, spacing, slopes)
    np.testing.assert_allclose(ours, expected, atol=2e-4)
    np.testing.assert_array_equal(np.asarray(ours)[~domain], image[~domain])


def test_a_slope_goes_on():
    """What rises evenly is found again, which no mean of neighbours does."""
    _, domain, _ = scene((15, 14), 0)
    y, x = np.indices(domain.shape)
    truth = (0.3 * y - 0.2 * x + 1).astype(np.float32)
    given = jnp.asarray(np.where(domain, 0, truth))
    usable = jnp.ones(domain.shape, bool)
    ours = filled(given, jnp.asarray(domain), usable, (1.0, 1.7), True)
    np.testing.assert_allclose(ours, truth, atol=1e-4)


def test_what_nothing_is_known_around_stays_as_it_is():
    image, domain, _ = scene((15, 14), 1)
    given = jnp.asarray(image), jnp.asarray(domain)
    for usable in (domain, np.zeros_like(domain)):
        ours = filled(*given, jnp.asarray(usable), (1.0, 1.7))
        np.testing.assert_array_equal(ours, image)
    nothing = jnp.zeros_like(given[1])
    ours = filled(given[0], nothing, ~nothing, (1.0, 1.7))
    np.testing.assert_array_equal(ours, image)
