"""Target matrices, tile by tile."""

import jax.numpy as jnp
import numpy as np
import pytest

from medjax_kernels.contrastive import Groups, Similarity, softmax_loss
from medjax_kernels.contrastive.reference import target_matrix
from medjax_kernels.contrastive.targets import SMOOTHINGS, standardise
from tests.kernels.contrastive import oracle

RHO_FUNCTIONS = {
    "exp": lambda rho: 1 - np.exp(-0.2 * rho),
    "gaussian": lambda rho: np.exp(-(rho**2) / 2) / np.sqrt(2 * np.pi),
    "laplace": lambda rho: 0.5 * np.exp(-np.abs(rho)),
    "sigmoid": lambda rho: 1 / (1 + np.exp(-rho)),
    "linear": lambda rho: 0.2 * rho,
}


def features(n: int = 9, p: int = 7) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, p)).astype(np.float32)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("fill", [True, False])
def test_similarity_is_the_clinical_prior(smoothing, fill):
    f = features()
    rho = np.maximum(np.corrcoef(f.astype(np.float64)), 0)
    np.fill_diagonal(rho, 0)
    expected = np.eye(9) + 0.07 * RHO_FUNCTIONS[smoothing](rho)
    if not fill:
        np.fill_diagonal(expected, 1)
    target = Similarity(
        jnp.asarray(f), smoothing=smoothing, strength=0.07, fill_diagonal=fill
    )
    actual = target_matrix(target, jnp.ones(9))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_no_correlation_leaves_the_plain_contrast():
    x, y, _ = oracle.batch(8, 8)
    orthogonal = jnp.asarray(np.linalg.qr(np.c_[np.ones(9), np.eye(9)[:, :8]])[0])
    soft = Similarity(orthogonal[:, 1:].T.astype(jnp.float32))
    plain = softmax_loss(x, y, logit_scale=14.0)
    np.testing.assert_allclose(
        softmax_loss(x, y, logit_scale=14.0, targets=soft), plain, rtol=1e-5
    )


@pytest.mark.parametrize("constant", [0.0, 0.1, 3e7, -1e-30])
def test_a_row_without_variance_correlates_with_nothing(constant):
    f = features()
    f[2] = constant
    z = standardise(jnp.asarray(f))
    assert not np.any(z[2])
    target = target_matrix(Similarity(jnp.asarray(f)), jnp.ones(9))
    np.testing.assert_array_equal(target[2], np.eye(9)[2])


@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_correlation_ignores_scale_and_offset(size):
    f = features()
    np.testing.assert_allclose(
        standardise(jnp.asarray(f * np.float32(size))), standardise(jnp.asarray(f)),
        atol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(
        standardise(jnp.asarray(f + 5)), standardise(jnp.asarray(f)), atol=1e-5
    )


def test_groups_of_one_are_the_identity():
    x, y, weights = oracle.batch()
    alone = Groups(jnp.arange(12))
    np.testing.assert_allclose(
        softmax_loss(x, y, logit_scale=14.0, targets=alone, weights=weights),
        softmax_loss(x, y, logit_scale=14.0, weights=weights),
        rtol=1e-6,
    )


def test_an_unknown_smoothing_is_refused():
    x, y, _ = oracle.batch()
    target = object.__new__(Similarity)
    for name, value in {
        "features_x": jnp.zeros((12, 3)),
        "features_y": None,
        "smoothing": "cubic",
    }.items():
        object.__setattr__(target, name, value)
    with pytest.raises(ValueError, match="targets.smoothing is 'cubic'"):
        softmax_loss(x, y, logit_scale=14.0, targets=target)
