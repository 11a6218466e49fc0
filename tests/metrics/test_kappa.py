"""Cohen's kappa: golden values and scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from medjax.metrics.kappa import cohen_kappa

TRUTH = np.array([1, 1, 2, 2, 3, 3, 1, 2, 3, 1])
PREDICTION = np.array([1, 2, 2, 3, 3, 2, 1, 2, 3, 3])
GOLDEN = {"none": 0.411765, "linear": 0.444444, "quadratic": 0.477612}


@pytest.mark.parametrize("weights", GOLDEN)
def test_golden_values_and_scikit_learn(weights):
    ours = cohen_kappa(TRUTH, PREDICTION, classes=(1, 2, 3), weights=weights)
    assert ours == pytest.approx(GOLDEN[weights], abs=5e-7)
    rng = np.random.default_rng(0)
    # Class 2 never occurs, and still lies between the others.
    true, said = rng.choice([0, 1, 3, 4], (2, 60), p=[0.4, 0.3, 0.2, 0.1])
    ours = cohen_kappa(true, said, classes=range(5), weights=weights)
    theirs = cohen_kappa_score(
        true, said, labels=range(5), weights=None if weights == "none" else weights
    )
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_where_chance_agrees_as_well_there_is_no_value():
    same = np.full(4, 2)
    assert np.isnan(cohen_kappa(same, same, classes=(1, 2), weights="linear"))
    assert cohen_kappa(TRUTH, TRUTH, classes=(1, 2, 3), weights="none") == 1.0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"found classes .* expected \[1, 2\]"):
        cohen_kappa(TRUTH, PREDICTION, classes=(1, 2), weights="none")
    # With the shape hook on, as in tests, jaxtyping speaks first.
    with pytest.raises((ValueError, TypeError), match="one length|prediction"):
        cohen_kappa(np.array([1]), np.array([1, 2]), classes=(1, 2), weights="none")
