"""Calibration error of probabilities with known honesty."""

import jax.numpy as jnp
import numpy as np
import pytest

from medjax.metrics.calibration import (
    Calibration,
    brier,
    excess_brier,
    excess_nll,
    nll,
    roi_calibration,
)


def test_honest_probabilities_have_no_error_and_boasts_have_theirs():
    rng = np.random.default_rng(0)
    honest = rng.random((40000, 1))
    labels = (rng.random((40000, 1)) < honest).astype(float)
    assert Calibration.of(honest, labels).expected_error()[0] < 0.02
    boasts = np.full((40000, 1), 0.9)
    halves = (np.arange(40000)[:, None] % 2).astype(float)
    assert Calibration.of(boasts, halves).expected_error()[0] == pytest.approx(0.4)


def test_by_hand_with_two_bins_and_a_missing_label():
    probabilities = np.array([[0.2], [0.4], [0.5], [1.0], [0.9]])
    labels = np.array([[0.0], [1.0], [0.0], [1.0], [np.nan]])
    # Lower bin (0.5 included): |1.1 - 1|; upper: |1 - 1|; four known labels.
    error = Calibration.of(probabilities, labels, bins=2).expected_error()
    assert error[0] == pytest.approx(0.1 / 4)


def test_chunks_add_up():
    rng = np.random.default_rng(1)
    p, y = rng.random((60, 2)), rng.integers(0, 2, (60, 2)).astype(float)
    merged = Calibration.of(p[:25], y[:25]) + Calibration.of(p[25:], y[25:])
    np.testing.assert_allclose(
        merged.expected_error(), Calibration.of(p, y).expected_error()
    )


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Calibration.of(np.array([[1.5]]), np.array([[1.0]]))
    # With the shape hook on, as in tests, jaxtyping speaks first.
    with pytest.raises((ValueError, TypeError), match="one shape|labels"):
        Calibration.of(np.zeros((2, 1)), np.zeros((2, 2)))
    empty = Calibration.of(np.array([[0.5]]), np.array([[np.nan]]))
    assert np.isnan(empty.expected_error()[0])


def test_near_the_foreground_the_background_does_not_dilute():
    truth = np.zeros((40, 40), int)
    truth[18:22, 18:22] = 1
    probabilities = np.zeros((40, 40, 2))
    probabilities[..., 1] = np.where(truth == 1, 0.7, 0.0)
    probabilities[..., 0] = 1 - probabilities[..., 1]
    whole = Calibration.of(
        probabilities.reshape(-1, 2), np.eye(2)[truth.reshape(-1)]
    ).expected_error()
    near = roi_calibration(probabilities, truth, voxels=2)
    # 16 voxels are off by 0.3; two rows on each side and one voxel at each corner.
    assert near.count.sum(1).tolist() == [16 + 4 * 8 + 4] * 2
    np.testing.assert_allclose(near.expected_error(), 0.3 * 16 / 52)
    np.testing.assert_allclose(whole, 0.3 * 16 / 1600)
    nothing = roi_calibration(np.eye(2)[np.zeros((4, 4), int)], np.zeros((4, 4), int))
    assert np.isnan(nothing.expected_error()).all()


def test_excess_is_what_lies_above_the_floor_of_drawn_labels():
    rng = np.random.default_rng(2)
    true, said = rng.dirichlet(np.ones(3), (2, 40)).astype(np.float32)
    draws = np.stack([rng.multinomial(1, p, 1000) for p in true.astype(float)])
    labels = jnp.asarray(draws, jnp.float32)
    everywhere = [jnp.broadcast_to(p[:, None], draws.shape) for p in (said, true)]
    for score, excess in ((nll, excess_nll), (brier, excess_brier)):
        ours, floor = (float(score(p, labels)) for p in everywhere)
        above = float(excess(jnp.asarray(said), jnp.asarray(true)))
        assert above == pytest.approx(ours - floor, rel=0.05) and above > 0
        nothing = excess(jnp.asarray(true), jnp.asarray(true))
        assert nothing == pytest.approx(0, abs=1e-6)
    certain = jnp.eye(3)
    assert float(excess_nll(certain, certain)) == 0
