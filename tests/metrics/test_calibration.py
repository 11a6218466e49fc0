"""Calibration error of probabilities with known honesty."""

import numpy as np
import pytest

from medjax.metrics.calibration import Calibration


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
