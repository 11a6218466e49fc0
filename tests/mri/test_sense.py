"""The SENSE model: adjoint pairs, projections, and solves that invert it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri import masks, sense
from tests.laws import (
    assert_adjoint,
    assert_linear,
    assert_projection,
    complex_normal,
    norm,
)

COILS, H, W = 3, 9, 8


@pytest.fixture(scope="module")
def maps():
    return sense.normalise_maps(complex_normal(jax.random.key(0), (COILS, H, W)))


LINES = masks.equispaced(H, acceleration=2, acs=3)
FRAMES = masks.kt_equispaced(H, 2, acceleration=3, acs=1)
POINTS = masks.variable_density(H, W, acceleration=3, acs=2, key=jax.random.key(7))


@pytest.mark.parametrize(
    ("mask", "lead"), [(LINES, ()), (POINTS, ()), (FRAMES, (2,)), (LINES, (2,))]
)
def test_forward_and_adjoint_are_adjoint_and_linear(maps, mask, lead):
    x = complex_normal(jax.random.key(1), (*lead, H, W))
    y = complex_normal(jax.random.key(2), (*lead, COILS, H, W))

    def forward(image):
        return sense.forward(image, maps, mask)

    assert_adjoint(forward, lambda k: sense.adjoint(k, maps, mask), x, y)
    assert_linear(forward, x, complex_normal(jax.random.key(3), x.shape))


def test_expand_and_combine_are_adjoint_and_project(maps):
    x = complex_normal(jax.random.key(1), (H, W))
    y = complex_normal(jax.random.key(2), (COILS, H, W))
    assert_adjoint(
        lambda a: sense.expand(a, maps), lambda b: sense.combine(b, maps), x, y
    )
    # for unit-norm maps, S S^H projects coil images and S^H S is the identity
    assert_projection(lambda b: sense.expand(sense.combine(b, maps), maps), y)
    back = sense.combine(sense.expand(x, maps), maps)
    np.testing.assert_allclose(back, x, atol=1e-6)


def test_sampling_is_a_projection_that_zeroes_what_was_not_measured():
    y = complex_normal(jax.random.key(2), (2, COILS, H, W))
    assert_projection(lambda k: sense.sample(k, FRAMES), y)
    kept = np.asarray(sense.sample(y, FRAMES))
    unmeasured = ~np.asarray(FRAMES)[:, None] & np.ones((1, COILS, 1, W), bool)
    assert (kept[unmeasured] == 0).all()
    np.testing.assert_array_equal(kept[~unmeasured], np.asarray(y)[~unmeasured])


@pytest.mark.parametrize("mask", [LINES, POINTS])
def test_the_normal_operator_is_adjoint_after_forward(maps, mask):
    x = complex_normal(jax.random.key(1), (H, W))
    twice = sense.adjoint(sense.forward(x, maps, mask), maps, mask)
    np.testing.assert_allclose(sense.normal(x, maps, mask), twice, atol=2e-6)


def test_solving_undoes_the_acquisition_and_obeys_the_normal_equations(maps):
    x = complex_normal(jax.random.key(1), (H, W))
    kspace = sense.forward(x, maps, LINES)
    found = sense.solve(kspace, maps, LINES, iterations=60)
    assert norm(found - x) < 1e-3 * norm(x)

    prior = complex_normal(jax.random.key(4), (H, W))
    lam = 0.3
    found = sense.solve(kspace, maps, LINES, lam=lam, prior=prior, iterations=40)
    left = sense.normal(found, maps, LINES) + lam * found
    right = sense.adjoint(kspace, maps, LINES) + lam * prior
    assert norm(left - right) < 1e-4 * norm(right)


def test_a_solve_runs_the_named_kernel_or_says_why_not(maps):
    kspace = sense.forward(complex_normal(jax.random.key(1), (H, W)), maps, LINES)
    by_fft, by_dft = (
        sense.solve(kspace, maps, LINES, lam=0.1, implementation=name)
        for name in ("xla_fft", "xla_dft")
    )
    np.testing.assert_allclose(by_fft, by_dft, atol=1e-5)
    with pytest.raises(NotImplementedError, match="runs on TPUs"):
        sense.solve(kspace, maps, LINES, lam=0.1, implementation="tpu")


def test_root_sum_of_squares_has_a_finite_gradient_at_zero():
    coils = jnp.zeros((COILS, 2, 2), jnp.complex64).at[:, 0, 0].set(1 + 2j)
    value, gradient = jax.value_and_grad(lambda a: sense.rss(a).sum())(coils)
    np.testing.assert_allclose(value, np.sqrt(5 * COILS), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_normalised_maps_have_unit_norm_or_none():
    raw = complex_normal(jax.random.key(0), (COILS, H, W)).at[:, 0, 0].set(0)
    size = np.asarray(sense.rss(sense.normalise_maps(raw)))
    assert size[0, 0] == 0
    np.testing.assert_allclose(np.delete(size.ravel(), 0), 1, atol=1e-6)


def test_misfits_are_named(maps):
    three = jnp.stack([maps] * 3)
    with pytest.raises(ValueError, match=r"image of shape \(2, 9, 8\) does not fit"):
        sense.expand(jnp.zeros((2, H, W), jnp.complex64), three)
    with pytest.raises(ValueError, match=r"coil_images of shape .* does not fit maps"):
        sense.combine(jnp.zeros((2, COILS, H, W), jnp.complex64), three)
    with pytest.raises(ValueError, match=r"mask of shape \(4, 1\) does not fit kspace"):
        sense.sample(jnp.zeros((COILS, H, W), jnp.complex64), jnp.ones((4, 1), bool))
    with pytest.raises(ValueError, match="more axes than kspace"):
        sense.sample(jnp.zeros((COILS, H, W), jnp.complex64), FRAMES)
