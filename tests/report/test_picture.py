"""Pictures: colours by value, borders by label, and what a page decodes again."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from medjax.report import Animation, Card, Report
from medjax.report.picture import (
    HEAT,
    LABELS,
    SIGNED,
    coloured,
    enlarged,
    grey,
    outlined,
    overlay,
)


def test_grey_and_colours_follow_the_value():
    values = np.array([[-1.0, 0.0, 0.5], [1.0, 2.0, np.nan]])
    np.testing.assert_array_equal(grey(values), [[0, 0, 128], [255, 255, 0]])
    np.testing.assert_array_equal(grey(values, -1, 2)[0], [0, 85, 128])
    picture = coloured(np.array([[0.0, 0.5, 1.0]]), SIGNED)
    np.testing.assert_array_equal(picture[0], SIGNED)
    inside = np.array([[True, False, True]])
    assert not coloured(np.ones((1, 3)), HEAT, inside)[0, 1].any()


def test_borders_lie_inside_their_label_and_leave_the_rest():
    labels = np.zeros((7, 7), int)
    labels[1:6, 1:6] = 1
    labels[3, 3] = 2
    drawn = outlined(np.full((7, 7), 9, np.uint8), labels)
    np.testing.assert_array_equal(drawn[1, 1:6], np.tile(LABELS[0], (5, 1)))
    np.testing.assert_array_equal(drawn[3, 3], LABELS[1])
    assert (drawn[labels == 0] == 9).all() and (drawn[2, 2] == 9).all()
    # A border stands on both sides where two labels meet.
    np.testing.assert_array_equal(drawn[3, 2], LABELS[0])


def test_overlay_shows_the_image_where_the_map_is_zero_or_unknown():
    image = np.full((1, 3), 200, np.uint8)
    shown = overlay(image, np.array([[0.0, np.nan, 1.0]]), strength=1.0)
    np.testing.assert_array_equal(shown[0, :2], np.full((2, 3), 200))
    np.testing.assert_array_equal(shown[0, 2], HEAT[-1])


def test_enlarged_pictures_have_whole_pixels():
    small = np.arange(6, dtype=np.uint8).reshape(2, 3)
    large = enlarged(small, 5)
    assert large.shape == (6, 9)
    np.testing.assert_array_equal(large[::3, ::3], small)


def test_animations_keep_every_frame_to_the_grey_value():
    frames = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3)).astype(np.uint8)
    page = Report("t").gallery([Card(Animation(frames, rate=10), "beat")]).html()
    (data,) = re.findall(r"image/webp;base64,([^\"]+)", page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as film:
        assert film.n_frames == 5
        for i, frame in enumerate(frames):
            film.seek(i)
            np.testing.assert_array_equal(np.asarray(film.convert("RGB")), frame)
    with pytest.raises(ValueError, match="a frame at least"):
        Report("t").picture(Animation(frames[:0]))
