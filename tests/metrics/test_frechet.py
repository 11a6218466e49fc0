"""Distances of sets of images: closed forms, another library, and what they are not."""

import numpy as np
import pytest
from scipy import linalg

from medjax.metrics.frechet import frechet_distance, kernel_distance

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n, d", [(400, 6), (20, 50)])
def test_frechet_distance_is_that_of_the_root_of_a_matrix(n, d):
    x = RNG.normal(size=(n, d)) @ RNG.normal(size=(d, d))
    y = RNG.normal(size=(n + 7, d)) + 0.5
    covariances = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * root
    )
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-4)
    np.testing.assert_allclose(frechet_distance(x, x), 0.0, atol=1e-8 * n)


def test_features_that_depend_on_each_other_are_no_special_case():
    """One that never changes, one that is another: as without covariances at all."""
    x, y = RNG.normal(size=(300, 6)), RNG.normal(size=(300, 6)) + 0.5
    x[:, 4], x[:, 5] = x[:, 3], 2.0
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(np.cov(x.T))
    centred = [(a - a.mean(0)) / np.sqrt(299) for a in (x, y)]
    common = linalg.svdvals(centred[0] @ centred[1].T).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() - 2 * common
    expected += sum((a**2).sum() for a in centred)
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-6)


def test_kernel_distance_is_the_mean_over_pairs_and_zero_in_expectation():
    x, y = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3)) + 1
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    expected = np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs])
    expected -= 2 * np.mean([kernel(a, b) for a in x for b in y])
    found, spread = kernel_distance(x, y, subsets=3)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert spread < 1e-10, "the only subset there is"
    many = RNG.normal(size=(2, 1000, 4))
    mean, spread = kernel_distance(many[0], many[1], size=200, subsets=30)
    assert abs(mean) < spread < kernel_distance(many[0], many[1] + 1)[0]


def test_sets_that_are_none_are_refused():
    for other in (np.zeros((1, 3)), np.zeros((5, 2))):
        with pytest.raises(ValueError, match="two vectors or more, of one width"):
            frechet_distance(np.zeros((5, 3)), other)
