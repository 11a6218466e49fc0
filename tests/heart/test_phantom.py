"""The phantom against its own closed forms, finite differences and quadrature."""

import math

import numpy as np
import pytest

from medjax.heart import phantom
from medjax.heart.phantom_mesh import SURFACES, moving_mesh
from medjax.heart.population import (
    CONDITIONS,
    EJECTION_DEVIATION,
    LARGEST_RV_EJECTION,
    person,
    surface_area,
)

from .conftest import TIMES, ill_heart


@pytest.fixture(scope="module")
def points(heart):
    """Material points all over the wall."""
    rng = np.random.default_rng(0)
    z = rng.uniform(0.1 * heart.base, heart.base, 400)
    inner, outer = (
        phantom.radius_squared(heart, z),
        phantom.epicardium_squared(heart, z),
    )
    r = np.sqrt(inner + rng.uniform(0.02, 1, 400) * (outer - inner))
    return r, rng.uniform(-np.pi, np.pi, 400), z


def spatial(heart, a, r, angle, z):
    return phantom.cartesian(*phantom.deform(heart, a, r, angle, z))


def test_the_inverse_undoes_the_motion(heart, points):
    for a in (0.0, 0.4, 1.0):
        there = spatial(heart, a, *points)
        r, angle, z = phantom.undeform(heart, a, *phantom.cylindrical(there))
        back = phantom.cartesian(r, angle, z)
        np.testing.assert_allclose(back, phantom.cartesian(*points), atol=1e-9)


def test_the_gradient_is_that_of_finite_differences_and_keeps_volume(heart, points):
    a, step = 0.8, 1e-5
    r, angle, z = points
    found = phantom.gradient(heart, a, *points)
    np.testing.assert_allclose(np.linalg.det(found), 1.0, atol=1e-12)
    _, theta, _ = phantom.deform(heart, a, *points)
    zero, one = 0 * theta, 0 * theta + 1
    axes = [(np.cos, np.sin, zero), (lambda t: -np.sin(t), np.cos, zero)]
    basis = np.stack(
        [np.stack([-f(theta), g(theta), k], -1) for f, g, k in axes]
        + [np.stack([zero, zero, one], -1)],
        axis=-1,
    )
    moves = ((step, 0, 0), (0, step / r, 0), (0, 0, step))
    columns = []
    for dr, da, dz in moves:
        ahead = spatial(heart, a, r + dr, angle + da, z + dz)
        behind = spatial(heart, a, r - dr, angle - da, z - dz)
        columns.append(np.einsum("px,pxk->pk", (ahead - behind) / (2 * step), basis))
    np.testing.assert_allclose(found, np.stack(columns, -1), atol=1e-6)


def quadrature(heart, squared, low):
    """Volume of what lies within r^2 = squared(Theta, Z), by many slices."""
    node, weight = np.polynomial.legendre.leggauss(120)
    half = (heart.base - low) / 2
    z = low + half * (node + 1)
    angle = 2 * np.pi * np.arange(360) / 360
    area = 0.5 * squared(*np.meshgrid(angle, z)).mean(1) * 2 * np.pi
    return half * (weight * area).sum()


def test_volumes_are_the_closed_forms_at_every_activation(heart):
    for a in phantom.activation(heart, TIMES[[0, 2, 4]]):
        long = phantom.stretch(heart, a)

        def endo(angle, z, a=a, long=long):
            squared = phantom.radius_squared(heart, z) / long
            return long * (squared - phantom.inward(heart, a, angle, z))

        def epi(angle, z, a=a, long=long):
            squared = phantom.epicardium_squared(heart, z) / long
            return long * (squared - phantom.inward(heart, a, angle, z))

        def right(angle, z, a=a, long=long):
            return long * phantom.rv_reach(heart, a, angle, z)

        cavity = quadrature(heart, endo, heart.tip)
        np.testing.assert_allclose(cavity, phantom.lv_volume(heart, a), rtol=1e-9)
        tip = quadrature(heart, epi, 0.0) - quadrature(heart, endo, 0.0)
        np.testing.assert_allclose(tip, heart.muscle, rtol=1e-4)
        rv = quadrature(heart, right, 0.15 * heart.base)
        np.testing.assert_allclose(rv, phantom.rv_volume(heart, a), rtol=1e-5)
    assert heart.volume == pytest.approx(158e3)
    assert heart.muscle * phantom.DENSITY == pytest.approx(103e3)


def test_both_ventricles_eject_as_much(heart):
    stroke = heart.volume - phantom.lv_volume(heart, 1.0)
    other = heart.rv_volume - phantom.rv_volume(heart, 1.0)
    assert stroke == pytest.approx(other)


def test_the_cycle_is_periodic_and_full_at_systole(heart):
    t = np.linspace(0, 1, 501)
    a = phantom.activation(heart, t)
    assert a[0] == 0 and abs(a[-1]) < 1e-12 and a.min() > -1e-12
    assert phantom.activation(heart, np.asarray(heart.systole)) == pytest.approx(1)
    np.testing.assert_allclose(phantom.activation(heart, t + 1), a, atol=1e-9)


def test_a_healthy_wall_thickens_as_published_ranges_have_it():
    healthy = ill_heart(infarct=0.0)
    z, zero = np.asarray(healthy.equator), np.asarray(0.0)
    radii = healthy.radius + healthy.wall * np.array([0, 0.5, 1])
    now, _, _ = phantom.deform(healthy, 1.0, radii, zero, z)
    ratio = math.sqrt((1 - 0.58) / (1 - 0.16))
    assert now[0] / radii[0] == pytest.approx(ratio)
    np.testing.assert_allclose(now / radii - 1, [-0.293, -0.197, -0.135], atol=1e-3)
    assert (now[2] - now[0]) / healthy.wall - 1 == pytest.approx(0.498, abs=1e-3)


def test_an_infarct_moves_less_where_it_is(heart):
    z, r = np.full(2, heart.infarct_z), np.full(2, heart.radius)
    angle = heart.infarct_angle + np.array([0, np.pi])
    now, _, _ = phantom.deform(heart, 1.0, r, angle, z)
    healthy, _, _ = phantom.deform(ill_heart(infarct=0.0), 1.0, r, angle, z)
    assert now[0] > healthy[0] + 4 and now[1] < healthy[1]


def enclosed(vertices, faces):
    """Volume of a closed surface; of a wall, with a fan on its open base."""
    corners = vertices.astype(np.float64)[:, faces]
    edges = {tuple(e) for k in range(3) for e in np.roll(faces, k, 1)[:, :2].tolist()}
    assert len(edges) == 3 * len(faces)  # none twice in one direction
    open_edges = np.array([e for e in edges if e[::-1] not in edges])
    if len(open_edges):
        centre = vertices[:, np.unique(open_edges)].mean(1, dtype=np.float64)
        ends = vertices.astype(np.float64)[:, open_edges[:, ::-1]]
        fan = np.repeat(centre[:, None, None], len(open_edges), axis=1)
        corners = np.concatenate([corners, np.concatenate([ends, fan], 2)], axis=1)
    a, b, c = np.moveaxis(corners, 2, 0)
    return (a * np.cross(b, c)).sum((1, 2)) / 6


def test_mesh_volumes_converge_to_the_closed_forms(heart):
    a = phantom.activation(heart, TIMES)
    cavity, right = phantom.lv_volume(heart, a), phantom.rv_volume(heart, a)
    truth = {"endo": cavity, "epi": cavity + heart.muscle, "rv": right}
    errors = {name: [] for name in SURFACES}
    for size in ((16, 12), (32, 24), (64, 48)):
        mesh = moving_mesh(heart, TIMES, size)
        for code, name in enumerate(SURFACES):
            faces = mesh.faces[mesh.surface[mesh.faces[:, 0]] == code]
            found = enclosed(mesh.vertices, faces)
            errors[name].append(1 - found / truth[name])
    for name, (coarse, middle, fine) in errors.items():
        assert (coarse > 0).all() and (coarse < 0.05).all(), name
        np.testing.assert_allclose(coarse / middle, 4, rtol=0.1)
        np.testing.assert_allclose(middle / fine, 4, rtol=0.05)


def test_vertices_are_material_points_and_counted(heart):
    mesh = moving_mesh(heart, TIMES, right=False)
    assert mesh.vertices.shape == (5, 386, 3) and mesh.faces.shape == (736, 3)
    assert mesh.faces.dtype == np.int32 and mesh.vertices.dtype == np.float32
    a = phantom.activation(heart, TIMES)
    for at, frame in zip(a, mesh.vertices, strict=True):
        np.testing.assert_allclose(
            frame, spatial(heart, at, *mesh.material.T), atol=1e-4
        )
    with pytest.raises(ValueError, match=r"size \(3, 2\)"):
        moving_mesh(heart, TIMES, (3, 2))


def test_people_follow_their_numbers_and_the_population_its_means():
    assert person(1, 7) == person(1, 7) and person(1, 7) != person(2, 7)
    people = [person(0, i) for i in range(160)]
    men = np.array([p.sex for p in people]) == 1
    ejection = np.array([100 * p.heart.ejection_fraction for p in people])
    mass = np.array(
        [p.heart.muscle * 1.05e-3 / surface_area(p.height, p.weight) for p in people]
    )
    for chosen, fraction, muscle in ((men, 58, 53), (~men, 61, 42)):
        error = EJECTION_DEVIATION / math.sqrt(chosen.sum())
        assert ejection[chosen].mean() == pytest.approx(fraction, abs=3 * error)
        assert mass[chosen].mean() == pytest.approx(muscle, abs=3)
    # Of some the right ventricle had to hold the stroke, and tells the fraction.
    right = np.array([p.heart.rv_ejection_fraction for p in people])
    told = np.isclose(right, LARGEST_RV_EJECTION)
    assert 0.01 < told.mean() < 0.15
    ratio = np.array([p.heart.rv_volume / p.heart.volume for p in people])
    np.testing.assert_allclose(ejection[told], 70 * ratio[told])
    infarcts = np.mean([p.heart.infarct > 0 for p in people])
    assert 0.1 < infarcts < 0.3
    assert max(p.heart.rv_ejection_fraction for p in people) <= 0.7 + 1e-9
    values = np.array([p.conditions for p in people])
    assert values.shape == (160, len(CONDITIONS))
    pressure = np.polyfit(values[:, 0], values[:, 4], 1)[0]
    assert pressure == pytest.approx(0.45, abs=0.45)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": -1.0}, "{'volume': -1.0}"),
        ({"ejection_fraction": 1.2}, "ejection_fraction"),
        ({"rv_volume": 80.0}, "rv_volume is 80 mL, expected more than .* 91.64 mL"),
    ],
)
def test_impossible_hearts_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ill_heart(**change)
    with pytest.raises(ValueError, match="none negative"):
        person(0, -1)
