"""AUROC and average precision against scikit-learn; ties, gaps and intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from medjax.metrics.auroc import (
    auroc,
    average_precision,
    bootstrap,
    false_positive_rate,
    macro,
    per_class,
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 200),
    levels=st.sampled_from((2, 7, 10**6)),
)
def test_equal_to_scikit_learn_with_and_without_ties(seed, n, levels):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(float)
    labels[:2] = 0, 1
    scores = rng.integers(0, levels, n) / levels
    assert auroc(scores, labels) == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-12
    )
    expected = average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_laws_of_the_area():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=50), (rng.random(50) < 0.3).astype(float)
    area = auroc(scores, labels)
    assert auroc(-scores, labels) == pytest.approx(1 - area)
    assert auroc(np.exp(scores), labels) == pytest.approx(area)
    assert auroc(np.zeros(50), labels) == 0.5
    assert average_precision(np.zeros(50), labels) == pytest.approx(labels.mean())


def test_unknown_labels_are_left_out_per_class():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(40, 3)).astype(np.float32)
    labels = rng.integers(0, 2, (40, 3)).astype(np.float32)
    labels[::3, 0] = np.nan
    labels[:, 2] = 1
    areas = per_class(auroc, scores, labels)
    known = ~np.isnan(labels[:, 0])
    assert areas[0] == pytest.approx(roc_auc_score(labels[known, 0], scores[known, 0]))
    assert np.isnan(areas[2]), "one class only: no value"
    assert macro(areas) == pytest.approx(areas[:2].mean())
    assert np.isnan(macro(np.full(2, np.nan)))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        auroc(np.zeros(2), np.array([0.0, -1.0]))
    with pytest.raises(ValueError, match="scores: found NaN"):
        auroc(np.array([np.nan, 0.0]), np.array([0.0, 1.0]))
    # With the shape hook on, as in tests, jaxtyping speaks first.
    with pytest.raises((ValueError, TypeError), match="one shape|labels"):
        per_class(auroc, np.zeros((2, 3)), np.zeros((2, 2)))


def test_bootstrap_interval_has_the_right_width():
    rng = np.random.default_rng(2)
    n = 400
    labels = np.repeat([[0.0], [1.0]], n // 2, axis=0)
    scores = rng.normal(size=(n, 1)) + labels
    limits, of_mean = bootstrap(auroc, scores, labels, seed=0, resamples=400)
    area = auroc(scores[:, 0], labels[:, 0])
    assert limits[0, 0] < area < limits[0, 1]
    np.testing.assert_allclose(limits[0], of_mean)
    # Hanley and McNeil's standard error, from the area alone.
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    m = n // 2
    variance = (area * (1 - area) + (m - 1) * (q1 + q2 - 2 * area**2)) / m**2
    assert limits[0, 1] - limits[0, 0] == pytest.approx(3.92 * variance**0.5, rel=0.2)


def test_bootstrap_by_patient_is_wider_when_films_repeat():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, (60, 1)).astype(float)
    scores = rng.normal(size=(60, 1)) + labels
    patients = np.tile(np.arange(60), 5)
    scores, labels = np.tile(scores, (5, 1)), np.tile(labels, (5, 1))
    options = {"seed": 0, "resamples": 300}
    alone, _ = bootstrap(auroc, scores, labels, **options)
    whole, _ = bootstrap(auroc, scores, labels, groups=patients, **options)
    assert np.ptp(whole[0]) > 1.7 * np.ptp(alone[0])


def test_false_positives_where_all_but_a_few_have_to_be_found():
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(size=40), rng.normal(1.0, 1.0, 60)])
    labels = np.repeat([0.0, 1.0], [40, 60])
    # By trying every threshold that finds 95 %, which 57 of 60 are.
    allowed = [t for t in scores if (scores[40:] >= t).mean() >= 0.95 - 1e-12]
    expected = min((scores[:40] >= t).mean() for t in allowed)
    assert false_positive_rate(scores, labels) == expected
    assert false_positive_rate(scores, labels, recall=1.0) >= expected
    assert np.isnan(false_positive_rate(scores[:40], labels[:40]))
    shuffled = rng.permutation(100)
    assert false_positive_rate(scores[shuffled], labels[shuffled]) == expected
