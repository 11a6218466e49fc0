"""Lesions by hand: found, missed, false, merged, split, too small."""

import numpy as np
import pytest

from medjax.metrics.lesionwise import lesion_counts, volume_error

# Three true lesions of 4, 6 and 1 voxels, by columns of a strip.
TRUTH = np.zeros((3, 30), bool)
TRUTH[0:2, 2:4] = TRUTH[0:2, 8:11] = TRUTH[2, 20] = True
SPACING = (2.0, 2.0)
EDGES = (5.0, 20.0)


def strip(*places):
    mask = np.zeros_like(TRUTH)
    for rows, columns in places:
        mask[rows, columns] = True
    return mask


def counts(prediction, **options):
    return lesion_counts(prediction, TRUTH, SPACING, edges=EDGES, **options)


def test_found_missed_and_false_by_size():
    found = counts(strip((0, slice(3, 5)), (slice(0, 3), slice(25, 27)), (2, 20)))
    # 16 mm^2 found, 24 mm^2 missed, 24 mm^2 false; 4 mm^2 is below the first edge.
    np.testing.assert_array_equal(found.found, [1, 0])
    np.testing.assert_array_equal(found.missed, [0, 1])
    np.testing.assert_array_equal(found.false, [0, 1])
    np.testing.assert_array_equal(found.too_small, [1, 0])
    assert found.sensitivity == found.ppv == found.f1 == 0.5
    np.testing.assert_array_equal(found.sensitivity_by_size, [1, 0])
    np.testing.assert_array_equal(found.ppv_by_size, [1, 0])
    np.testing.assert_array_equal(found.f1_by_size, [1, 0])
    both = found + counts(TRUTH)
    np.testing.assert_array_equal(both.ppv_by_size, [1, 1 / 2])
    np.testing.assert_allclose(both.f1_by_size, [1, 2 / 4])
    assert both.sensitivity == 0.75 and both.f1 == pytest.approx(6 / 8)


def test_one_component_over_two_lesions_finds_both():
    merged = counts(strip((0, slice(2, 11))))
    assert merged.found.sum() == 2 and merged.false.sum() == 0


def test_iou_is_with_all_components_that_touch():
    # The 6-voxel lesion is hit by two pieces of two voxels each, one of them reaching
    # out by two: 4 / (6 + 6 - 4).
    split = strip((slice(0, 2), 8), (slice(0, 2), slice(10, 12)))
    assert counts(split, iou=0.5).found.tolist() == [0, 1]
    assert counts(split, iou=0.51).found.tolist() == [0, 0]


def test_corners_join():
    diagonal = np.eye(3, dtype=bool)
    joined = lesion_counts(diagonal, diagonal, (2.0, 2.0), edges=(1.0,))
    assert joined.found.tolist() == [1]


def test_nothing_to_find():
    empty = np.zeros_like(TRUTH)
    quiet = lesion_counts(empty, empty, SPACING)
    assert quiet.f1 == quiet.sensitivity == quiet.ppv == 1.0
    assert np.isnan(quiet.sensitivity_by_size).all()
    assert np.isnan(quiet.ppv_by_size).all() and np.isnan(quiet.f1_by_size).all()
    loud = lesion_counts(TRUTH, empty, SPACING)
    assert loud.f1 == loud.ppv == 0.0 and loud.sensitivity == 1.0
    assert counts(empty).f1 == 0.0


def test_volumes():
    cube = np.ones((10, 10, 10), bool)
    assert volume_error(cube, cube[::-1], (1.0, 1.0, 2.0)) == (0.0, 0.0)
    half = cube.copy()
    half[5:] = False
    assert volume_error(half, cube, (1.0, 1.0, 2.0)) == pytest.approx((-1.0, -0.5))
    assert volume_error(cube, ~cube, (1.0, 1.0, 2.0)) == (2.0, float("inf"))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="do not add up"):
        counts(TRUTH) + lesion_counts(TRUTH, TRUTH, SPACING)
    with pytest.raises(ValueError, match="a number for each of its axes"):
        lesion_counts(TRUTH, TRUTH, (1.0,))
