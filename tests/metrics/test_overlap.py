"""Overlaps by hand, against scikit-learn, and where there is nothing to overlap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from medjax.metrics.cases import Cases, in_words
from medjax.metrics.overlap import overlap
from tests.metrics.shapes import ELLIPSES, ELLIPSOIDS

RNG = np.random.default_rng(0)
PREDICTION, TRUTH = RNG.integers(0, 4, (2, 5, 6, 7, 3))


@pytest.mark.parametrize(
    ("pair", "dice", "iou"),
    [(ELLIPSES, 0.824074, 0.700787), (ELLIPSOIDS, 0.487815, None)],
    ids=("2-D", "3-D"),
)
def test_golden_values(pair, dice, iou):
    counts = overlap(pair.a, pair.b, structures=(1,), rank=pair.a.ndim)
    assert (counts.predicted[0], counts.present[0]) == pair.sizes
    assert counts.dice[0] == pytest.approx(dice, abs=5e-7)
    if iou is not None:
        assert counts.iou[0] == pytest.approx(iou, abs=5e-7)


def test_equal_to_scikit_learn_on_the_host_and_on_the_device():
    host = overlap(PREDICTION, TRUTH, structures=(1, 2, 3), rank=3)

    @jax.jit
    def on_device(p, t):
        counts = overlap(p, t, structures=(1, 2, 3), rank=3)
        return counts.dice, counts.iou

    dice, iou = on_device(jnp.asarray(PREDICTION), jnp.asarray(TRUTH))
    np.testing.assert_allclose(host.dice, dice, rtol=1e-6)
    np.testing.assert_allclose(host.iou, iou, rtol=1e-6)
    for case in range(5):
        said, true = PREDICTION[case].ravel(), TRUTH[case].ravel()
        options = {"labels": [1, 2, 3], "average": None}
        np.testing.assert_allclose(host.dice[case], f1_score(true, said, **options))
        np.testing.assert_allclose(host.iou[case], jaccard_score(true, said, **options))


def test_a_region_is_the_union_of_its_labels():
    region = overlap(PREDICTION, TRUTH, structures=((1, 3),), rank=3)
    said, true = np.isin(PREDICTION, (1, 3)), np.isin(TRUTH, (1, 3))
    alone = overlap(said, true, structures=(1,), rank=3)
    np.testing.assert_array_equal(region, alone)


def test_empty_structures_have_values_and_are_counted():
    zero, one = np.zeros((3, 3), int), np.eye(3, dtype=int)
    prediction = np.stack([zero, zero, one, one])
    truth = np.stack([zero, one, zero, one])
    counts = overlap(prediction, truth, structures=(1,), rank=2)
    np.testing.assert_array_equal(counts.dice[:, 0], [1, 0, 0, 1])
    np.testing.assert_array_equal(counts.iou[:, 0], [1, 0, 0, 1])
    (cases,) = counts.cases()
    assert cases.mean == 0.5 and cases.n == 4 and cases.n_undefined == 0
    assert (cases.n_both_empty, cases.n_missed, cases.n_false) == (1, 1, 1)
    assert counts.pooled().dice == pytest.approx([2 * 3 / 12])
    assert "1 missed" in str(cases) and cases.as_row("dice")["dice_n_false"] == 1
    assert cases.empty == dict.fromkeys(("n_both_empty", "n_missed", "n_false"), 1)
    assert in_words({"n": 4, "n_missed": 2, "n_false": 0}) == ["2 missed"]


def test_a_value_that_is_not_there_is_counted_too():
    cases = Cases.of(np.array([0.5, np.nan, 1.0]))
    assert cases.mean == 0.75 and cases.n == 3 and cases.n_undefined == 1
    assert np.isnan(Cases.of(np.array([np.nan])).mean)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="both or neither"):
        Cases.of(np.zeros(2), predicted=np.ones(2, bool))
    with pytest.raises(ValueError, match="at least 3 axes"):
        overlap(np.zeros((2, 2), int), np.zeros((2, 2), int), structures=(1,), rank=3)
    with pytest.raises(ValueError, match="'dice' or 'iou'"):
        overlap(PREDICTION, TRUTH, structures=(1,), rank=3).cases("jaccard")
