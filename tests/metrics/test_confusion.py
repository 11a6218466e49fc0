"""Counts that merge, and what is derived from them."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from medjax.metrics.confusion import Confusion, best_f1_threshold

RNG = np.random.default_rng(0)
SCORES = RNG.random((90, 3))
LABELS = (RNG.random((90, 3)) < 0.4).astype(float)


def test_derived_values_equal_scikit_learn():
    counts = Confusion.count(SCORES, LABELS, threshold=0.6)
    for k in range(3):
        truth, said = LABELS[:, k], SCORES[:, k] >= 0.6
        assert counts.f1[k] == pytest.approx(f1_score(truth, said))
        assert counts.binary_accuracy[k] == pytest.approx(accuracy_score(truth, said))
        assert counts.sensitivity[k] == pytest.approx(recall_score(truth, said))
        assert counts.specificity[k] == pytest.approx(recall_score(1 - truth, ~said))


def test_accuracy_is_of_one_class_against_the_rest():
    labels = np.eye(4)[[0, 1, 2, 3]]
    always_first = np.eye(4)[[0, 0, 0, 0]]  # right about one example of four
    counts = Confusion.count(always_first, labels)
    np.testing.assert_array_equal(counts.binary_accuracy, [0.25, 0.75, 0.75, 0.75])


def test_chunks_add_up_and_unknown_labels_do_not_count():
    labels = LABELS.copy()
    labels[10:40, 1] = np.nan
    whole = Confusion.count(SCORES, labels)
    parts = [Confusion.count(SCORES[i::4], labels[i::4]) for i in range(4)]
    merged = parts[0] + parts[1] + parts[2] + parts[3]
    np.testing.assert_array_equal(merged.f1, whole.f1)
    assert (whole.tp + whole.fp + whole.fn + whole.tn).tolist() == [90, 60, 90]


def test_nothing_to_find_has_no_value():
    counts = Confusion.count(np.zeros((3, 1)), np.full((3, 1), np.nan))
    assert np.isnan(counts.f1[0]) and np.isnan(counts.binary_accuracy[0])
    # With the shape hook on, as in tests, jaxtyping speaks first.
    with pytest.raises((ValueError, TypeError), match="one shape|labels"):
        Confusion.count(np.zeros((3, 1)), np.zeros((3, 2)))


@pytest.mark.parametrize("levels", (5, 10**6))
def test_best_threshold_beats_every_other(levels):
    scores = np.floor(SCORES[:, 0] * levels) / levels
    best = best_f1_threshold(scores, LABELS[:, 0])
    column, truth = scores[:, None], LABELS[:, :1]
    every = [
        Confusion.count(column, truth, threshold=t).f1[0] for t in np.unique(scores)
    ]
    assert Confusion.count(column, truth, threshold=best).f1[0] == max(every)
    assert best_f1_threshold(scores, np.zeros(90)) == float("inf")
