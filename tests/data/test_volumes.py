"""Volumes go to another grid and come back; positions in mm are what is kept."""

import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.data.volumes import (
    bounding_box,
    crop,
    geometry_gap,
    grid_of,
    resample,
    spaced,
    to_canonical,
    with_geometry_of,
)

RNG = np.random.default_rng(0)
# Left-right flipped, axes permuted, as scanners write them.
AFFINE = np.array(
    [[0, -1.5, 0, 40], [0, 0, 3.0, -20], [2.0, 0, 0, 7], [0, 0, 0, 1]], float
)


def volume(data, affine=AFFINE):
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Volume(data=data, affine=affine, spacing=tuple(spacing.tolist()))


IMAGE = volume(RNG.normal(size=(9, 8, 6, 2)).astype(np.float32))
LABEL = volume(RNG.integers(0, 4, (9, 8, 6)).astype(np.int32))


def position(of, index):
    return of.affine[:3, :3] @ np.asarray(index) + of.affine[:3, 3]


def test_canonical_axes_point_right_front_and_up():
    turned = to_canonical(IMAGE)
    assert turned.data.shape == (8, 6, 9, 2) and turned.spacing == (1.5, 3.0, 2.0)
    np.testing.assert_allclose(turned.affine[:3, :3], np.diag([1.5, 3.0, 2.0]))
    np.testing.assert_allclose(position(turned, (7, 0, 0)), position(IMAGE, (0, 0, 0)))
    np.testing.assert_array_equal(turned.data[7, 0, 0], IMAGE.data[0, 0, 0])


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic", "labels"])
def test_what_was_turned_cropped_and_padded_returns_exactly(interpolation):
    original = LABEL if interpolation == "labels" else IMAGE
    worked = crop(to_canonical(original), (-2, 1, 3), (12, 4, 5))
    back = resample(worked, grid_of(original), interpolation=interpolation, fill=-9)
    np.testing.assert_allclose(back.affine, original.affine)
    assert back.data.dtype == original.data.dtype
    kept = back.data != -9
    # Rows 1 to 5 of y, rows 3 to 8 of z: those planes of the file's last, first axis.
    expected = np.zeros(kept.shape, bool)
    expected[3:8, :, 1:5] = True
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_allclose(back.data[kept], original.data[kept], atol=1e-5)


def test_resampling_keeps_positions():
    """A linear function of the position is the same function on every grid."""
    index = np.indices((9, 8, 6)).reshape(3, -1)
    slope = np.array([0.3, -0.2, 0.5])
    values = slope @ (AFFINE[:3, :3] @ index + AFFINE[:3, 3:])
    image = volume(values.reshape(9, 8, 6).astype(np.float32))
    grid = spaced(grid_of(image), (1.0, 2.0, 2.2))
    assert grid.shape == (18, 6, 8)
    np.testing.assert_allclose(grid.spacing, (1.0, 2.0, 2.2))
    found = resample(image, grid, interpolation="linear")
    inner = np.indices(grid.shape)[:, 2:-2, 1:-1, 1:-1]
    at = (
        np.tensordot(grid.affine[:3, :3], inner, 1)
        + grid.affine[:3, 3, None, None, None]
    )
    expected = np.tensordot(slope, at, 1)
    np.testing.assert_allclose(found.data[2:-2, 1:-1, 1:-1], expected, rtol=1e-4)
    # The field of view keeps its middle.
    middles = [position(g, (np.array(g.shape) - 1) / 2) for g in (grid, grid_of(image))]
    np.testing.assert_allclose(*middles)


def test_labels_stay_labels_and_solid_objects_their_volume():
    ball = np.indices((20, 20, 20)) - 9.5
    mask = (np.linalg.norm(ball, axis=0) < 7).astype(np.int32) * 4
    original = volume(mask, np.diag([1.0, 1.0, 1.0, 1.0]))
    grid = spaced(grid_of(original), (0.7, 1.3, 1.6))
    for interpolation in ("nearest", "labels"):
        fine = resample(original, grid, interpolation=interpolation)
        assert set(np.unique(fine.data)) == {0, 4} and fine.data.dtype == np.int32
        ratio = (fine.data > 0).sum() * 0.7 * 1.3 * 1.6 / (mask > 0).sum()
        assert ratio == pytest.approx(1, abs=0.04)
        back = resample(fine, grid_of(original), interpolation=interpolation)
        both = ((back.data > 0) & (mask > 0)).sum()
        assert 2 * both / ((back.data > 0).sum() + (mask > 0).sum()) > 0.93


def test_a_label_map_must_lie_on_its_image():
    image, label = volume(IMAGE.data[..., 0]), LABEL
    rounded = volume(label.data, AFFINE + 1e-5)
    np.testing.assert_array_equal(with_geometry_of(image, rounded).affine, AFFINE)
    shifted = AFFINE.copy()
    shifted[0, 3] += 2
    assert geometry_gap(grid_of(image), grid_of(volume(label.data, shifted))) == 2
    with pytest.raises(DataError, match="up to 2 mm apart"):
        with_geometry_of(image, volume(label.data, shifted), strict=True)
    with pytest.warns(UserWarning, match="^a: mask lie .* geometry is taken"):
        taken = with_geometry_of(image, volume(label.data, shifted), what="a: mask")
    np.testing.assert_array_equal(taken.affine, AFFINE)
    with pytest.raises(DataError, match=r"\(9, 8, 6\) and \(9, 8, 5\)"):
        with_geometry_of(image, volume(label.data[..., :5]))


def test_boxes():
    mask = np.zeros((9, 8, 6), bool)
    assert bounding_box(mask) == ((0, 0, 0), (9, 8, 6))
    mask[3:5, 0, 5] = True
    assert bounding_box(mask, margin=2) == ((1, 0, 3), (6, 3, 3))
    away = crop(LABEL, (20, 0, 0), (2, 2, 2), fill=7)
    assert (away.data == 7).all()


def test_bad_input_is_named():
    with pytest.raises(DataError, match=r"\(4, 4\): expected three axes"):
        grid_of(volume(np.zeros((4, 4))))
    with pytest.raises(ValueError, match="three positive numbers"):
        spaced(grid_of(LABEL), (1.0, 0.0, 1.0))
    with pytest.raises((ValueError, TypeError), match="interpolation"):
        resample(LABEL, grid_of(LABEL), interpolation="quintic")
