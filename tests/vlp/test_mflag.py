"""M-FLAG: both orthogonality losses and the alignment against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.vlp.mflag import alignment_loss, orthogonality_loss


def test_orthogonal_features_of_unit_size_cost_nothing():
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 8)))
    v = jnp.asarray(q * np.sqrt(32), jnp.float32)  # V^T V = b I
    np.testing.assert_allclose(orthogonality_loss(v), 0.0, atol=1e-7)


@pytest.mark.parametrize("variant", ["repo", "paper"])
def test_orthogonality_is_the_formula(variant):
    v = np.random.default_rng(1).normal(size=(16, 6))
    if variant == "repo":
        gram, off_weight, factor = v.T @ v / 16, 0.0051, 0.5
    else:
        u = v / np.linalg.norm(v, axis=1, keepdims=True)
        gram, off_weight, factor = u.T @ u, 1.0, 1.0
    off = (gram**2).sum() - (np.diag(gram) ** 2).sum()
    expected = factor * (((np.diag(gram) - 1) ** 2).sum() + off_weight * off)
    got = orthogonality_loss(jnp.asarray(v, jnp.float32), variant=variant)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("variant", ["repo", "paper"])
def test_the_gram_matrix_is_asked_for_at_full_precision(variant):
    """On a CPU every product is; on accelerators the default is not."""
    v = jnp.ones((4, 3), jnp.bfloat16)
    lowered = jax.jit(lambda v: orthogonality_loss(v, variant=variant)).lower(v)
    products = [
        line for line in lowered.as_text().splitlines() if "dot_general" in line
    ]
    assert products and all("precision = [HIGHEST, HIGHEST]" in p for p in products)
    assert all("xf32>" in p and "bf16" not in p for p in products)


def test_alignment_adds_one_distance_twice():
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=(5, 4)) for _ in range(2))
    x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    expected = (4 - 4 * (x * y).sum(1)).mean()
    got = alignment_loss(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
