"""Clinical numbers against the phantom and a real scan whose volumes are known."""

import numpy as np
import pytest

from medjax.data import nifti
from medjax.heart import aha, phantom
from medjax.heart.clinical import FEATURES, function, label_volumes, mesh_volumes
from medjax.heart.meshes import Topology
from medjax.heart.phantom_mesh import SURFACES, moving_mesh

TIMES = np.arange(10) / 10
SWINE = [79.3, 80.9, 80.6, 77.7, 74.8, 71.2, 68.6, 65.4, 62.1, 59.6]
SWINE += [58.2, 57.1, 57.7, 57.5, 59.2, 62.8, 66.0, 72.5, 76.1, 79.4]


@pytest.fixture(scope="module")
def moving(heart):
    mesh = moving_mesh(heart, TIMES, (32, 24))
    topology = Topology.of(mesh.faces, len(mesh.surface), mesh.surface, SURFACES)
    return mesh, topology


def test_a_mesh_has_the_phantoms_function(heart, moving):
    mesh, topology = moving
    found = function(mesh_volumes(mesh.vertices, topology, close=True), heart_rate=72)
    a = phantom.activation(heart, TIMES)
    numbers = found.features
    assert list(numbers) == list(FEATURES)
    assert found.systole == np.argmax(a) and not found.rate_assumed
    assert numbers["LVEDV"] == pytest.approx(158, rel=0.01)
    assert numbers["LVM"] == pytest.approx(103, rel=0.01)
    assert numbers["LVESM"] == pytest.approx(numbers["LVM"], rel=0.003)
    assert numbers["LVEF"] == pytest.approx(58 * a.max(), abs=0.1)
    assert numbers["RVEDV"] == pytest.approx(170, rel=0.015)
    assert numbers["RVSV"] == pytest.approx(numbers["LVSV"], rel=0.015)
    assert numbers["LVCO"] == pytest.approx(0.072 * numbers["LVSV"])


def test_an_open_mesh_has_no_volume_until_it_is_closed(moving):
    mesh, topology = moving
    with pytest.raises(ValueError, match="64 boundary edges on .*'endo', 'epi'"):
        mesh_volumes(mesh.vertices, topology)
    shifted = mesh_volumes(mesh.vertices + np.float32(500), topology, close=True)
    here = mesh_volumes(mesh.vertices, topology, close=True)
    np.testing.assert_allclose(shifted["lv"], here["lv"], rtol=1e-5)


def test_the_swine_scan_has_its_known_volumes(shared_data):
    """CC0 data of WrightGroupSRI/ep-dataset; the numbers were counted once before."""
    scan = nifti.read_labels(shared_data / "heart/ep_dataset/seg_sa.nii.gz", ndim=4)
    labels = np.moveaxis(scan.data, 3, 0)
    curves = label_volumes(labels, scan.affine)
    np.testing.assert_allclose(curves["lv"], SWINE, atol=0.06)
    first, largest = function(curves), function(curves, diastole="largest")
    assert first.features["LVEF"] == pytest.approx(28.0, abs=0.07)
    assert largest.features["LVEF"] == pytest.approx(29.4, abs=0.07)
    assert (largest.diastole, largest.systole) == (1, 11)
    mass = phantom.DENSITY * curves["myo"]
    assert (mass.min(), mass.max()) == pytest.approx((55.1, 72.9), abs=0.1)
    assert "rv" not in curves and np.isnan(first.features["RVEF"])
    assert "assumed 60 beats/min" in first.remarks()[1]


def test_volumes_take_the_affine_and_each_label_for_itself():
    labels = np.zeros((2, 4, 4, 4), np.int32)
    labels[:, 0], labels[:, 1, :2], labels[1, 2] = 1, 2, 3
    turned = np.eye(4)
    turned[:3, :3] = [[0, -2, 0], [5, 0, 0], [0, 0, 3]]
    found = label_volumes(labels, turned)
    np.testing.assert_allclose(found["lv"], 16 * 0.03)
    np.testing.assert_allclose(found["myo"], 8 * 0.03)
    np.testing.assert_allclose(found["rv"], [0, 16 * 0.03])


@pytest.mark.parametrize(
    ("curves", "how", "message"),
    [
        ({"myo": np.ones(3)}, {}, "expected 'lv'"),
        ({"lv": np.ones(3), "rv": np.ones(4)}, {}, "'lv': 3, 'rv': 4"),
        ({"lv": np.ones(3)}, {"diastole": 3}, "diastole is frame 3, expected 0 to 2"),
    ],
)
def test_curves_that_do_not_fit_are_refused(curves, how, message):
    with pytest.raises(ValueError, match=message):
        function(curves, **how)


@pytest.fixture(scope="module")
def turned(heart, moving):
    """The first frame somewhere else in space, and the centres of its triangles."""
    mesh, topology = moving
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    vertices = mesh.vertices[0] @ rotation.T + np.array([30.0, -80, 10])
    wall = topology.faces[topology.surface[topology.faces[:, 0]] < 2]
    return vertices, topology, vertices[wall].mean(1), wall


def test_segments_are_where_the_right_ventricle_says(heart, moving, turned):
    vertices, topology, centres, wall = turned
    axis = aha.cavity_axis(vertices, topology)
    assert np.linalg.norm(axis[1] - axis[0]) == pytest.approx(96, abs=0.1)
    start = aha.rv_insertion(vertices[topology.surface == 2], axis)
    found = aha.segments(centres, axis, insertion=start)
    # The phantom's angle: 0 lateral, 90 in front, 180 septal; the insertion at 105.
    rest = moving[0].vertices[0][wall].mean(1)
    _, angle, z = phantom.cylindrical(rest)
    turn = (np.degrees(angle) - 105) % 360
    height = (z - heart.tip) / 96
    clear = np.abs(turn % 60 - 30) < 28
    clear &= np.abs(height - 1 / 3) > 0.02
    clear &= np.abs(height - 2 / 3) > 0.02
    basal, mid = height > 2 / 3, (height > 1 / 3) & (height <= 2 / 3)
    names = np.array(["anteroseptal", "inferoseptal", "inferior"])
    names = np.append(names, ["inferolateral", "anterolateral", "anterior"])
    wanted = names[(turn // 60).astype(int)]
    for chosen, ring in ((basal, "basal"), (mid, "mid")):
        for i in np.flatnonzero(chosen & clear):
            assert aha.NAMES[found[i] - 1] == f"{ring} {wanted[i]}"
    assert (found[height < -0.01] == 17).all()
    assert {aha.NAMES[s - 1] for s in found[(height < 0.3) & (height > 0.02)]} == {
        f"apical {x}" for x in ("anterior", "septal", "inferior", "lateral")
    }
    assert set(found) == set(range(1, 18))
    # The middle of the septum lies opposite to the lateral wall.
    sideways = vertices[topology.surface == 2].mean(0) - axis[1]
    told = aha.segments(centres, axis, septum_direction=sideways)
    assert (told == found).mean() > 0.6


def test_apical_segments_are_centred_on_anterior_and_septal(heart, moving, turned):
    vertices, topology, centres, wall = turned
    axis = aha.cavity_axis(vertices, topology)
    start = aha.rv_insertion(vertices[topology.surface == 2], axis)
    found = aha.segments(centres, axis, insertion=start)
    angle = phantom.cylindrical(moving[0].vertices[0][wall].mean(1))[1]
    for number, centre in ((13, 75), (14, 165), (15, 255), (16, 345)):
        mean = np.angle(np.exp(1j * angle[found == number]).mean(), deg=True)
        assert abs((mean - centre + 180) % 360 - 180) < 6


def test_a_heart_without_a_right_ventricle_has_no_segments(turned):
    vertices, topology, centres, _ = turned
    axis = aha.cavity_axis(vertices, topology)
    with pytest.raises(ValueError, match="septum_direction"):
        aha.segments(centres, axis)
    with pytest.raises(ValueError, match="0 points of the right ventricle"):
        aha.rv_insertion(np.zeros((0, 3)), axis)
    with pytest.raises(ValueError, match="degrees of the left one free"):
        aha.rv_insertion(vertices[topology.surface == 0], axis)


def test_empty_segments_have_no_mean():
    segment, values = np.array([1, 1, 2, 3]), np.array([[1.0, 3, 5, np.nan]])
    found = aha.segment_means(values, segment, np.array([1.0, 3, 1, 1]))
    np.testing.assert_allclose(found[0, :2], [2.5, 5])
    assert np.isnan(found[0, 2:]).all() and found.shape == (1, 17)
