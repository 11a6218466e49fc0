"""Scores of contours with known answers, and the share that has none."""

import numpy as np
import pytest

from medjax.heart.deepmesh_scores import (
    contour_scores,
    deepmesh_scores,
    predicted_contour,
)

SPACING = (1.25, 1.25)


def square(shift: int) -> np.ndarray:
    """The outline of a square, moved along its rows."""
    image = np.zeros((64, 64), bool)
    image[10:30, 10 + shift : 30 + shift] = True
    image[11:29, 11 + shift : 29 + shift] = False
    return image


def test_a_shifted_square():
    same = contour_scores(square(0), square(0), SPACING)
    assert same == {"hd": 0.0, "mcd": 0.0, "boundf": 1.0}
    found = contour_scores(square(3), square(0), SPACING)
    assert found is not None
    assert found["hd"] == pytest.approx(3 * 1.25)
    # Both sides of 20 pixels are 3 off, corners nearer to the others' rows count less.
    assert 0.9 < found["mcd"] < 2.5
    # Discs of 3 pixels and more reach all of it.
    assert 0.6 < found["boundf"] < 1.0


def test_vertices_near_the_plane_are_rounded_to_pixels():
    plane = np.array([[5.0, 6.0, 7.0], [0, 2.0, 0], [1.0, 0, 0]])
    points = [[5 + 3.4, 6 + 2 * 2.6, 7.5], [5, 6, 7.7], [5 - 9, 6, 7.0]]
    image = predicted_contour(np.array(points), plane, (8, 9))
    np.testing.assert_array_equal(np.argwhere(image), [[3, 3]])


def test_planes_without_mesh_or_contour_are_counted():
    planes = np.tile(np.array([[0.0, 0, 0], [0, 1.25, 0], [1.25, 0, 0]]), (3, 1, 1))
    planes[1, 0, 2] = 50.0
    ring = np.linspace(0, 2 * np.pi, 60)
    at = 20 + 10 * np.stack([np.sin(ring), np.cos(ring)], -1)
    vertices = np.concatenate([at[:, ::-1], np.zeros((60, 1))], axis=1)
    found = deepmesh_scores(vertices, planes, [at, at, at[:0]], (40, 40))
    assert found["deepmesh_hd"] == 0.0 and found["deepmesh_boundf"] == 1.0
    assert found["deepmesh_dropped"] == pytest.approx(2 / 3)
    none = deepmesh_scores(vertices, planes[1:2], [at], (40, 40))
    assert np.isnan(none["deepmesh_mcd"]) and none["deepmesh_dropped"] == 1.0
