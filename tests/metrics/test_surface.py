"""Surface distances: golden values that the public packages gave, and the packages."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from medjax.metrics import surfels
from medjax.metrics.cases import Cases
from medjax.metrics.surface import hd95, nearest, surface_distances, surface_scores
from tests.metrics.shapes import ELLIPSES, ELLIPSOIDS

# From medpy 0.5.2, MONAI and DeepMind's surface-distance 0.1. The last two: mean
# distances of the prediction's and of the truth's surfels.
GOLDEN = {
    "2-D": (
        ELLIPSES,
        {
            "hd": 22.5220,
            "hd95_medpy": 11.4413,
            "hd95_monai": 19.7385,
            "hd95_deepmind": 19.7385,
            "assd_pooled": 4.4355,
            "assd_directed": 4.4063,
        },
        (0.398305, 0.399574),
        (3.4895, 4.8700),
    ),
    "3-D": (
        ELLIPSOIDS,
        {
            "hd": 23.4787,
            "hd95_medpy": 12.2193,
            "hd95_monai": 12.4925,
            "hd95_deepmind": 14.7309,
            "assd_pooled": 5.7911,
        },
        (0.255371, 0.261228),
        (5.8926, 5.7844),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name):
    pair, distances, (voxels, areas), directed = GOLDEN[name]
    found = surface_scores(pair.a, pair.b, pair.spacing, tolerance=2.0)
    for key, value in distances.items():
        assert found[key] == pytest.approx(value, abs=6e-5), key
    assert found["nsd_voxels"] == pytest.approx(voxels, abs=6e-7)
    assert found["nsd_surfels"] == pytest.approx(areas, abs=6e-7)
    measured = surface_distances(pair.a, pair.b, pair.spacing, elements="surfels")
    assert measured.directed_means == pytest.approx(directed, abs=6e-5)


@pytest.mark.parametrize("pair", [ELLIPSES, ELLIPSOIDS], ids=("2-D", "3-D"))
def test_distances_equal_those_of_scipys_transform(pair):
    ours = surface_distances(pair.a, pair.b, pair.spacing, elements="voxels")
    p, t = (m & ~ndimage.binary_erosion(m) for m in (pair.a, pair.b))
    for mine, at, to in ((ours.to_truth, p, t), (ours.to_prediction, t, p)):
        field = ndimage.distance_transform_edt(~to, sampling=pair.spacing)
        np.testing.assert_allclose(np.sort(mine), np.sort(field[at]), rtol=1e-12)


# MONAI calls itself by names it has deprecated.
@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
def test_the_peers_agree_on_both_pairs_and_on_noise():
    reason = "the packages themselves (extra: peers)"
    medpy = pytest.importorskip("medpy.metric.binary", reason=reason)
    torch = pytest.importorskip("torch", reason=reason)
    monai = pytest.importorskip("monai.metrics", reason=reason)
    rng = np.random.default_rng(0)
    noise = (
        ndimage.gaussian_filter(rng.normal(size=(2, 14, 20, 17)), (0, 1, 1, 1)) > 0.1
    )
    noisy = dataclasses.replace(
        ELLIPSOIDS, a=noise[0], b=noise[1], spacing=(3.0, 0.7, 1.1)
    )
    for pair in (ELLIPSES, ELLIPSOIDS, noisy):
        ours = surface_scores(pair.a, pair.b, pair.spacing, tolerance=1.4)
        spacing = {"voxelspacing": pair.spacing}
        assert ours["hd"] == pytest.approx(medpy.hd(pair.a, pair.b, **spacing))
        assert ours["hd95_medpy"] == pytest.approx(
            medpy.hd95(pair.a, pair.b, **spacing)
        )
        assert ours["assd_pooled"] == pytest.approx(
            medpy.assd(pair.a, pair.b, **spacing)
        )
        a, b = (torch.from_numpy(m[None, None].astype("f4")) for m in (pair.a, pair.b))
        spacing = {"include_background": True, "spacing": pair.spacing}
        theirs = monai.compute_hausdorff_distance(a, b, percentile=95, **spacing)
        assert ours["hd95_monai"] == pytest.approx(theirs.item(), rel=1e-5)
        for key, subvoxel in (("nsd_voxels", False), ("nsd_surfels", True)):
            theirs = monai.compute_surface_dice(
                a, b, class_thresholds=[1.4], use_subvoxels=subvoxel, **spacing
            )
            assert ours[key] == pytest.approx(theirs.item(), rel=1e-5), key


def test_areas_by_hand():
    lengths = surfels.areas((3.0, 4.0))
    # Codes by corner (0,0), (0,1), (1,0), (1,1): one corner is half a diagonal, a row
    # of the first axis is a line along the second, opposite corners are two cuts.
    assert lengths[[0, 15]].tolist() == [0, 0]
    np.testing.assert_allclose(lengths[[1, 2, 4, 8, 7, 14]], 2.5)
    np.testing.assert_allclose(lengths[[3, 12, 5, 10]], [4, 4, 3, 3])
    np.testing.assert_allclose(lengths[[6, 9]], 5)
    spacing = (2.0, 3.0, 5.0)
    sizes = surfels.areas(spacing)
    np.testing.assert_allclose(sizes, sizes[::-1])
    # A plane across each axis, and the triangle at a single corner.
    planes = [0b00001111, 0b00110011, 0b01010101]
    np.testing.assert_allclose(sizes[planes], [15, 10, 6])
    x, y, z = np.diag(spacing) / 2
    triangle = np.linalg.norm(np.cross(y - x, z - x)) / 2
    np.testing.assert_allclose(sizes[[1, 2, 4, 8, 16, 32, 64, 128]], triangle)


def test_areas_equal_deepminds_table():
    """Sums of entries and of their squares, by how many voxels are inside.

    From `create_table_neighbour_code_to_surface_area((6, 1.25, 1.5))` of
    surface-distance 0.1.
    """
    few = [0.0, 11.86446901, 104.73674719, 366.02477748]
    few_squared = [0.0, 17.595703, 422.296875, 2524.646722]
    sizes = surfels.areas((6.0, 1.25, 1.5))
    inside = np.array([code.bit_count() for code in range(256)])
    sums = np.bincount(inside, sizes)
    squares = np.bincount(inside, sizes**2)
    np.testing.assert_allclose(sums, [*few, 649.88515285, *few[::-1]], rtol=1e-8)
    expected = [*few_squared, 6301.220141, *few_squared[::-1]]
    np.testing.assert_allclose(squares, expected, rtol=1e-6)


def test_the_surface_of_a_ball_by_its_surfels():
    """Marching cubes' area of a digitised ball is known to exceed by about a tenth."""
    grid = np.ogrid[-12:13, -12:13, -12:13]
    ball = sum(axis**2 for axis in grid) <= 100
    measured = surface_distances(ball, ball, (1.0, 1.0, 1.0), elements="surfels")
    assert 1.0 < measured.present.sum() / (4 * np.pi * 100) < 1.12


def test_laws():
    a, b = ELLIPSOIDS.a, ELLIPSOIDS.b
    spacing = (2.0, 1.0, 1.5)
    same = surface_scores(a, a, spacing, tolerance=0.0)
    assert {key: 1.0 if "nsd" in key else 0.0 for key in same} == same
    there, back = (
        surface_scores(*pair, spacing, tolerance=2.0) for pair in ((a, b), (b, a))
    )
    assert there == pytest.approx(back)
    doubled = surface_scores(a, b, [2 * s for s in spacing], tolerance=4.0)
    for key, value in there.items():
        assert doubled[key] == pytest.approx(value * (1 if "nsd" in key else 2))
    # What lies on the image's border is surface, so padding changes nothing.
    padded = surface_scores(np.pad(a, 3), np.pad(b, 3), spacing, tolerance=2.0)
    assert padded == pytest.approx(there)


def test_a_distance_of_the_tolerance_is_within_it():
    a, b = np.zeros((2, 9, 1), bool)
    a[3], b[5] = True, True
    assert surface_distances(a, b, (0.7, 1.0), elements="voxels").nsd(1.4) == 1.0


def test_empty_masks_have_values_and_count():
    full, empty = ELLIPSES.a, np.zeros_like(ELLIPSES.a)
    spacing, diagonal = ELLIPSES.spacing, np.hypot(64 * 1.5, 80 * 0.8)
    both = surface_scores(empty, empty, spacing, tolerance=2.0)
    assert {key: 1.0 if "nsd" in key else 0.0 for key in both} == both
    for pair in ((empty, full), (full, empty)):
        one = surface_scores(*pair, spacing, tolerance=2.0)
        for key, value in one.items():
            assert value == (0.0 if "nsd" in key else pytest.approx(diagonal)), key
    option = {"convention": "medpy"}
    assert hd95(empty, full, spacing, empty=373.0, **option) == 373.0
    assert hd95(empty, full, spacing, empty="inf", **option) == np.inf
    assert np.isnan(hd95(empty, full, spacing, empty="nan", **option))
    values = [hd95(p, full, spacing, **option) for p in (full, empty)]
    said = np.array([True, False])
    cases = Cases.of(np.array(values), predicted=said, present=np.array([True, True]))
    assert cases.n_missed == 1 and cases.mean == pytest.approx(diagonal / 2)


def test_points_of_a_mesh_or_contour():
    points, others = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[3.0, 0.0]])
    np.testing.assert_allclose(nearest(points, others), [3, 4])
    assert np.isposinf(nearest(points, others[:0])).all()


def test_conventions_are_never_guessed():
    voxels = surface_distances(ELLIPSES.a, ELLIPSES.b, (1.0, 1.0), elements="voxels")
    with pytest.raises(ValueError, match="deepmind has it is of surfels"):
        voxels.hd95("deepmind")
    with pytest.raises(ValueError, match="a number for each of its axes"):
        surface_distances(ELLIPSES.a, ELLIPSES.b, (1.0,), elements="voxels")
    with pytest.raises(ValueError, match="two or three axes"):
        surfels.areas((1.0,))
