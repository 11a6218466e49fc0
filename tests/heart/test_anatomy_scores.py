"""Scores of completed cycles, where a method finds no heart as well."""

import numpy as np
import pytest

from medjax.heart.anatomy_scores import completion_scores, time_warping


@pytest.fixture(scope="module")
def truth():
    """Three people whose left ventricle goes from eight voxels to four."""
    labels = np.zeros((3, 2, 6, 6, 6), np.uint8)
    labels[:, :, 0], labels[:, :, 5] = 2, 3
    labels[:, 0, 2:4, 2:4, 2:4] = labels[:, 1, 2:4, 2:4, 2] = 1
    return labels


def test_people_without_an_ejection_fraction_are_counted(truth):
    missed = truth.copy()
    # Nothing of the first person, and of the second a ventricle that does not eject.
    missed[0][missed[0] == 1] = 0
    missed[1, 1] = missed[1, 0]
    rows = completion_scores(
        {"truth": truth, "missed": missed, "nothing": np.zeros_like(truth)},
        truth,
        (1.0, 1.0, 1.0),
    )
    exact, some, none = rows
    assert exact["ef_mae"] == exact["ef_undefined"] == 0 and exact["dice"] == 1
    assert some["ef_undefined"] == 1
    # Off by 50 and 0 points.
    assert some["ef_mae"] == pytest.approx(25) == -some["ef_bias"]
    assert some["ef_rmse"] == pytest.approx(np.sqrt(50**2 / 2))
    assert none["ef_undefined"] == 3 and none["dice"] == 0
    assert all(np.isnan(none[name]) for name in ("ef_mae", "ef_bias", "ef_rmse"))


def test_time_warping_costs_nothing_for_a_late_curve_and_a_step_for_a_high_one():
    curve = np.array([0.0, 1.0, 3.0, 1.0, 0.0])
    assert time_warping(curve, curve[[0, 0, 1, 2, 2, 3, 4]]) == 0
    assert time_warping(curve, curve + [0, 0, 2, 0, 0]) == 2
    assert time_warping(curve[:1], curve) == curve.sum()
