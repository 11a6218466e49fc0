"""Spread of samples against annotators, by plain loops over pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.metrics.ambiguity import ged_squared, ncc, ueo

RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(0, 3, (4, 6, 5))
ANNOTATIONS = np.where(RNG.random((3, 6, 5)) < 0.5, SAMPLES[:3], 0)


def distance(a, b, labels):
    ious = []
    for label in labels:
        either = ((a == label) | (b == label)).sum()
        ious.append(((a == label) & (b == label)).sum() / either if either else 1.0)
    return 1 - np.mean(ious)


def test_energy_distance_equals_loops_over_pairs():
    labels = (1, 2, 5)  # 5 is in none of the maps
    expected = [
        np.mean([[distance(a, b, labels) for a in one] for b in other])
        for one, other in (
            (SAMPLES, ANNOTATIONS),
            (SAMPLES, SAMPLES),
            (ANNOTATIONS, ANNOTATIONS),
        )
    ]
    s, y = jnp.asarray(SAMPLES, jnp.int32), jnp.asarray(ANNOTATIONS, jnp.int32)
    found = ged_squared(s, y, labels=labels)
    assert found == pytest.approx(2 * expected[0] - sum(expected[1:]), abs=1e-6)
    assert ged_squared(s, s, labels=labels) == pytest.approx(0, abs=1e-6)


def test_correlation_equals_numpys():
    p = RNG.dirichlet(np.ones(3), (4, 6, 5))
    y = np.eye(3)[ANNOTATIONS]
    log_p = np.log(p + 1e-8)
    own = -(p.mean(0) * log_p).sum(-1).mean(0)
    theirs = [-(one * log_p).sum(-1).mean(0) for one in y]
    expected = np.mean([np.corrcoef(own.ravel(), b.ravel())[0, 1] for b in theirs])
    found, constant = ncc(jnp.asarray(p, jnp.float32), jnp.asarray(y, jnp.float32))
    assert found == pytest.approx(expected, abs=1e-5) and constant == 0
    flat = jnp.full((4, 6, 5, 3), 1 / 3, jnp.float32)
    found, constant = ncc(flat, jnp.asarray(y, jnp.float32))
    assert found == 0 and constant == 3


def test_uncertainty_that_is_the_error_overlaps_fully():
    error = RNG.random((8, 8)) < 0.2
    batched = jax.vmap(ueo)
    maps = np.stack([error, 1.0 - error, RNG.random((8, 8))]).astype(np.float32)
    found = batched(jnp.asarray(maps), jnp.asarray(np.stack([error] * 3)))
    assert found[0] == 1.0 and found[1] == 0.0
    cuts = np.quantile(maps[2], np.linspace(0, 1, 64))
    by_hand = [
        2 * (u & error).sum() / (u.sum() + error.sum())
        for u in (maps[2] > cut for cut in cuts)
    ]
    assert found[2] == pytest.approx(max(by_hand), abs=0.02)
    assert np.isnan(ueo(jnp.asarray(maps[0]), jnp.zeros((8, 8), bool)))
