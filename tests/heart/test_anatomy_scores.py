"""Scores of completed cycles, where a method finds no heart as well."""

import numpy as np
import pytest

from medjax.heart.anatomy_scores import (
    ADHERENCE,
    completion_scores,
    known_slopes,
    sample_scores,
    time_warping,
)


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


def test_the_best_and_the_worst_of_several_hearts_are_told_by_structure(truth):
    """One sample is the person's own heart, one is shifted, one has no ventricle."""
    shifted = np.roll(truth, 1, axis=3)
    missing = np.where(truth == 1, 0, truth).astype(np.uint8)
    drawn = np.stack([truth, shifted, missing], axis=1)
    rows = sample_scores(iter(drawn), truth, (1.0, 2.0, 1.0))
    lv, muscle, _ = rows
    assert [row["structure"] for row in rows] == ["lv", "myo", "rv"]
    assert {row["samples"] for row in rows} == {3}
    assert lv["dice_best"] == muscle["dice_best"] == 1 and lv["dice_worst"] == 0
    # Half of a block of two rows is where it was; the missing one has no overlap.
    assert lv["dice_mean"] == pytest.approx((1 + 0.5 + 0) / 3)
    # One row, 2 mm. Of the missing ventricle there is no distance, and it is counted.
    assert lv["hd_mm_best"] == 0 and lv["hd_mm_worst"] == pytest.approx(2)
    assert lv["hd_mm_mean"] == pytest.approx(1) and lv["undefined"] == 3
    assert 0 < lv["assd_mm_worst"] < 2
    # Muscle fills whole planes: shifted along them it is where it was.
    assert muscle["dice_worst"] == 1 and muscle["hd_mm_worst"] == 0
    assert muscle["undefined"] == 0


def test_the_populations_slopes_are_those_of_its_laws():
    found = dict(zip(ADHERENCE, known_slopes(1000), strict=True))
    # By the laws of `medjax.heart.population`: 58 and 61 %, and per m^2 -0.3 mL a year;
    # a man has some 2.0 m^2, a woman 1.75.
    assert found["LVEF", "sex"] == pytest.approx(-3, abs=0.6)
    assert found["LVEDV", "age"] == pytest.approx(-0.3 * 1.88, abs=0.25)
    # 0.15 g and m^2 a mmHg; and men, whose hearts weigh 33 g more, have 3 mmHg more,
    # of a variance of 211: 0.28 and 0.12.
    assert found["LVM", "blood_pressure"] == pytest.approx(0.40, abs=0.12)
    assert found["LVEDV", "height"] > 1.5
