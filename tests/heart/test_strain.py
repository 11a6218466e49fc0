"""Strain of phantom meshes against the phantom's own deformation."""

import numpy as np
import pytest

from medjax.heart import phantom, strain
from medjax.heart.phantom_mesh import moving_mesh

from .conftest import ill_heart

TIMES = np.array([0.0, 0.175, 0.35, 1.0])


@pytest.fixture(scope="module")
def healthy():
    return ill_heart(infarct=0.0)


@pytest.fixture(scope="module")
def mesh(healthy):
    return moving_mesh(healthy, TIMES, (48, 40), right=False)


def faces_of(mesh, code):
    return mesh.faces[mesh.surface[mesh.faces[:, 0]] == code]


def test_circumferential_strain_of_each_wall_is_the_closed_forms(healthy, mesh):
    a = phantom.activation(healthy, TIMES)
    level = np.array([0, 0, healthy.equator])
    for code, radius in ((0, healthy.radius), (1, healthy.radius + healthy.wall)):
        curve = strain.cut(mesh.vertices[0], faces_of(mesh, code), level, level / 50)
        found = strain.length_strain(mesh.vertices, curve)
        at = [np.full(4, v) for v in (radius, 0.0, healthy.equator)]
        wanted = phantom.deform(healthy, a, *at)[0] / radius - 1
        np.testing.assert_allclose(found, wanted, atol=3e-3)
    told = strain.StrainCurve(found, systole=2)
    assert told.peak == told.end_systolic == found[2] and abs(told.drift) < 1e-6


def meridian(healthy, a, radius, depth):
    """Arc length of one meridian, by many points."""
    last = np.arccos(-healthy.height / depth)
    polar = np.linspace(0, last, 4000)
    r, z = radius * np.sin(polar), healthy.equator - depth * np.cos(polar)
    at = phantom.cartesian(*phantom.deform(healthy, a, r, 0 * z, z))
    return np.linalg.norm(np.diff(at, axis=0), axis=1).sum()


def test_longitudinal_strain_is_that_of_the_meridian(healthy, mesh):
    walls = (
        (0, healthy.radius, healthy.depth, -0.179),
        (1, healthy.radius + healthy.wall, healthy.equator, -0.146),
    )
    for code, radius, depth, known in walls:
        faces, normal = faces_of(mesh, code), np.array([0.02, 1.0, 0])
        curve = strain.cut(mesh.vertices[0], faces, np.zeros(3), normal)
        found = strain.length_strain(mesh.vertices, curve)
        wanted = meridian(healthy, 1.0, radius, depth) / meridian(
            healthy, 0.0, radius, depth
        )
        assert found[2] == pytest.approx(wanted - 1, abs=3e-3)
        assert found[2] == pytest.approx(known, abs=0.006)


def test_wall_thickening_is_the_closed_forms(healthy, mesh):
    found = strain.chords(mesh.vertices[0], faces_of(mesh, 0), faces_of(mesh, 1))
    thickness = found.thickness(mesh.vertices)
    z = mesh.material[found.start, 2]
    near = np.abs(z - healthy.equator) < 6
    assert thickness[0, near].mean() == pytest.approx(healthy.wall, abs=0.05)
    ratio = (thickness[2] / thickness[0])[near].mean() - 1
    assert ratio == pytest.approx(0.498, abs=0.03)
    # Half way out the strain lies between the walls'.
    middle = found.middle(mesh.vertices)
    level = np.array([0, 0, healthy.equator])
    curve = strain.cut(middle[0], faces_of(mesh, 0), level, level / 50)
    assert strain.length_strain(middle, curve)[2] == pytest.approx(-0.197, abs=0.012)


def test_the_surface_tensor_is_the_deformation_gradients(mesh, healthy):
    """E in the surface from F: tangents of ring and meridian, at the triangles."""
    faces = faces_of(mesh, 1)
    axis = np.zeros(3), np.array([0, 0, healthy.base])
    found = strain.surface_strain(mesh.vertices, faces, axis)[2]
    r, angle, z = mesh.material[faces].transpose(2, 0, 1)
    z = z.mean(1)
    low, high = 0.3 * healthy.base, 0.9 * healthy.base
    there = (z > low) & (z < high)
    z = z[there]
    r = np.sqrt(phantom.epicardium_squared(healthy, z))
    f = phantom.gradient(healthy, 1.0, r, 0 * z, z)
    e = 0.5 * (np.swapaxes(f, -1, -2) @ f - np.eye(3))
    outer, depth = healthy.radius + healthy.wall, healthy.equator
    slope = -(outer**2) * (z - healthy.equator) / depth**2 / r
    upward = np.stack([slope, 0 * z, 0 * z + 1], -1) / np.hypot(slope, 1)[:, None]
    long = np.einsum("pi,pij,pj->p", upward, e, upward)
    cross = e[:, 1, 0] * upward[:, 0] + e[:, 1, 2] * upward[:, 2]
    np.testing.assert_allclose(found[there][:, 0, 0], e[:, 1, 1], atol=0.01)
    np.testing.assert_allclose(found[there][:, 1, 1], long, atol=0.01)
    # Twist; Theta runs against the right-handed direction around the axis.
    np.testing.assert_allclose(found[there][:, 0, 1], -cross, atol=0.01)
    assert np.abs(cross).mean() > 0.02


def test_an_infarct_shortens_less(heart):
    """Reference frame 0 named; a rigid motion strains nothing."""
    mesh = moving_mesh(heart, np.array([0.0, 0.35]), (48, 40), right=False)
    faces = faces_of(mesh, 0)
    axis = np.zeros(3), np.array([0, 0, heart.base])
    e = strain.engineering(strain.surface_strain(mesh.vertices, faces, axis)[1])[
        :, 0, 0
    ]
    angle, z = (
        mesh.material[faces][:, 1:, 1].mean(1),
        mesh.material[faces][:, :, 2].mean(1),
    )
    turn = np.abs((angle - heart.infarct_angle + np.pi) % (2 * np.pi) - np.pi)
    ill = (turn < 0.4) & (np.abs(z - heart.infarct_z) < 8)
    remote = turn > 2
    assert e[ill].mean() > -0.12 and e[remote].mean() < -0.25
    moved = np.stack([mesh.vertices[0], mesh.vertices[0][:, [1, 2, 0]] + 7])
    still = strain.surface_strain(moved, faces, axis)[1]
    assert np.nanmax(np.abs(still)) < 1e-4


def test_conventions_are_one_another():
    e = np.array([-0.3, 0.0, 0.5])
    np.testing.assert_allclose(strain.green(e), [-0.255, 0, 0.625])
    np.testing.assert_allclose(strain.engineering(strain.green(e)), e)


def test_a_plane_that_misses_is_refused(mesh):
    with pytest.raises(ValueError, match="misses the surface"):
        strain.cut(mesh.vertices[0], mesh.faces, np.full(3, 500.0), np.ones(3))
