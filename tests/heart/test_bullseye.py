"""The bull's-eye: segments where the standard has them, coloured by value."""

import numpy as np
import pytest

from medjax.heart import aha
from medjax.heart.bullseye import EMPTY, bullseye, bullseye_cards, segment_picture
from medjax.report.picture import SIGNED


def test_rings_and_walls_are_where_the_standard_has_them():
    side = 201
    segment = segment_picture(side)
    middle = side // 2
    names = {
        (3, middle): "basal anterior",
        (side - 4, middle): "basal inferior",
        (60, 12): "basal anteroseptal",
        (140, 12): "basal inferoseptal",
        (140, 188): "basal inferolateral",
        (60, 188): "basal anterolateral",
        (40, middle): "mid anterior",
        (middle, 60): "apical septal",
        (middle, 140): "apical lateral",
        (middle, middle): "apex",
    }
    for place, name in names.items():
        assert aha.NAMES[segment[place] - 1] == name, place
    assert segment[0, 0] == 0
    # Rings are as wide as each other: areas go as 1, 3, 5 and 7, shared by segments.
    counts = np.bincount(segment.reshape(-1), minlength=18)[1:]
    shares = np.repeat([7 / 6, 5 / 6, 3 / 4, 1], [6, 6, 4, 1]) / 16
    np.testing.assert_allclose(counts / counts.sum(), shares, rtol=0.05)


def test_colours_follow_values_and_unknown_ones_are_grey():
    values = np.full(17, 0.0)
    values[0], values[6], values[3] = -5.0, 5.0, np.nan
    drawn = bullseye(values, -5.0, 5.0, SIGNED, side=201)
    # Beside the numbers, which are in the middle of the segments.
    np.testing.assert_array_equal(drawn[4, 110], SIGNED[0])
    np.testing.assert_array_equal(drawn[28, 110], SIGNED[-1])
    np.testing.assert_array_equal(drawn[196, 110], [EMPTY] * 3)
    np.testing.assert_array_equal(drawn[60, 12], SIGNED[1])
    assert len(np.unique(drawn[85:117, 85:117])) > 2  # the apex has its number
    with pytest.raises(ValueError, match=r"shape \(16,\).*expected 17"):
        bullseye(values[:16], 0.0, 1.0)


def test_cards_tell_the_error_and_the_segments_without():
    truth, other = np.linspace(-30.0, -10.0, 17), np.linspace(-30.0, -10.0, 17) + 2.0
    other[3] = np.nan
    cards = bullseye_cards(truth, other, low=-40, high=0, reach=10)
    assert [card.title for card in cards[:2]] == ["truth", "prediction"]
    assert cards[2].lines[0][0] == "mean of absolute values 2.0, 1 of 17 without"
    nothing = bullseye_cards(truth, np.full(17, np.nan), low=-40, high=0, reach=10)
    assert nothing[2].lines[0][0] == "17 of 17 without"
