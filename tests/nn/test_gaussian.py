"""Divergence of normal variables, against draws."""

import jax.numpy as jnp
import numpy as np

from medjax.nn.gaussian import Gaussian, divergence


def test_the_divergence_is_that_of_normals():
    rng = np.random.default_rng(0)
    q, p = (
        Gaussian(*(rng.normal(size=3).astype(np.float32) for _ in "ab")) for _ in "ab"
    )
    draws = rng.normal(size=(400_000, 3)) * np.exp(0.5 * q.log_variance) + q.mean
    log_ratio = 0.5 * (
        (draws - p.mean) ** 2 / np.exp(p.log_variance)
        + p.log_variance
        - (draws - q.mean) ** 2 / np.exp(q.log_variance)
        - q.log_variance
    )
    q, p = (Gaussian(*map(jnp.asarray, both)) for both in (q, p))
    np.testing.assert_allclose(
        divergence(q, p), log_ratio.mean(0), rtol=0.02, atol=0.01
    )
    np.testing.assert_allclose(divergence(q, q), 0, atol=1e-6)
