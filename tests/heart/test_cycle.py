"""Frames of a cycle at other times: exact where motion is linear, and periodic."""

import numpy as np
import pytest

from medjax.heart.cycle import resampled, uneven
from medjax.heart.data import nearest_frames


def test_between_frames_is_the_straight_line_and_the_last_meets_the_first():
    values = np.array([[0.0, 5], [4, 5], [8, 5], [4, 5]])
    found = resampled(values, 8)
    np.testing.assert_allclose(found[:, 0], [0, 2, 4, 6, 8, 6, 4, 2])
    np.testing.assert_allclose(found[:, 1], 5)
    # Of more frames fewer, and as many are the same.
    np.testing.assert_allclose(resampled(found, 4), values)
    np.testing.assert_array_equal(resampled(values, 4), values)
    low = resampled(values.astype(np.float32), 3)
    assert low.dtype == np.float32
    np.testing.assert_allclose(low[:, 0], [0, 4 + 4 / 3, 8 - 8 / 3], rtol=1e-6)


def test_a_smooth_motion_is_kept_to_the_square_of_the_distance_of_frames():
    def beat(count):
        return np.sin(2 * np.pi * np.arange(count) / count)[:, None, None]

    errors = [np.abs(resampled(beat(n), 50) - beat(50)).max() for n in (20, 40)]
    assert errors[0] < 0.0125 and 3 < errors[0] / errors[1] < 6


def test_no_cycle_is_made_of_one_frame():
    with pytest.raises(ValueError, match="frames: 5 of 1, expected 2 of a cycle"):
        resampled(np.zeros((1, 3)), 5)


def test_nearest_frames_are_told_by_how_far_they_are_from_even_times():
    assert uneven(nearest_frames(20, 10) / 20) == pytest.approx(0)
    assert uneven(nearest_frames(25, 20) / 25) == pytest.approx(0.02)
