"""Coverage of pixels obeys the laws of areas; its derivative is exact."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from medjax.heart import slicing
from medjax.heart.meshes import Topology, volumes
from medjax.heart.planes import to_space
from tests.heart.shapes import icosphere, ventricle
from tests.processes import start

SPHERE, SPHERE_FACES = icosphere(3, 30.0)
TOPOLOGY = Topology.of(SPHERE_FACES, len(SPHERE))
SHAPE = (36, 40)
PIXEL = (2.0, 1.75)


def plane(height: float = 7.3, origin: tuple = (-35.0, -35.0)) -> np.ndarray:
    """Rows along y, columns along x: the normal looks down."""
    return np.array(
        [[origin[0], origin[1], height], [0, PIXEL[0], 0], [PIXEL[1], 0, 0]],
        np.float32,
    )


coverage = jax.jit(
    slicing.coverage,
    static_argnames=("topology", "shape", "size", "reach", "thickness", "at_once"),
)
cut = jax.jit(slicing.cut, static_argnames=("topology", "size"))


def sphere_coverage(vertices, planes):
    """Of the sphere alone."""
    planes = jnp.asarray(planes)
    found, limits = coverage(vertices, TOPOLOGY, planes, shape=SHAPE, size=192)
    return found[:, 0], limits


def areas(vertices, planes) -> np.ndarray:
    found, limits = sphere_coverage(jnp.asarray(vertices, jnp.float32), planes)
    slicing.check(limits, size=192, reach=4)
    return np.asarray(found, np.float64).sum(axis=(1, 2)) * PIXEL[0] * PIXEL[1]


def test_the_sum_is_the_area_of_the_section_and_nears_the_disc():
    heights = (-20.0, 0.0, 7.3, 25.0)
    found = areas(SPHERE, np.stack([plane(z) for z in heights]))
    mesh = trimesh.Trimesh(SPHERE, SPHERE_FACES, process=False)
    for z, area in zip(heights, found, strict=True):
        lines = trimesh.intersections.mesh_plane(mesh, [0, 0, 1], [0, 0, z + 1e-6])
        a, b = lines[:, 0], lines[:, 1]
        # Triangles from the middle, whatever the direction of the lines.
        shoelace = 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
        assert area == pytest.approx(shoelace, rel=2e-5)
        assert area == pytest.approx(np.pi * (900 - z * z), rel=0.02)


def test_coverage_is_the_winding_number_averaged_over_the_pixel():
    found, _ = sphere_coverage(jnp.asarray(SPHERE, jnp.float32), plane()[None])
    found = np.asarray(found[0])
    assert found.min() > -1e-5 and found.max() < 1 + 1e-5
    fine = (np.arange(16) + 0.5) / 16 - 0.5
    row = (np.arange(36)[:, None] + fine).ravel()[:, None] * PIXEL[0] - 35
    column = (np.arange(40)[:, None] + fine).ravel()[None] * PIXEL[1] - 35
    inside = (row**2 + column**2 < 900 - 7.3**2).astype(float)
    expected = inside.reshape(36, 16, 40, 16).mean(axis=(1, 3))
    # The polygon is inside the disc by less than 0.25 mm.
    assert np.abs(found - expected).max() < 0.16
    assert found[expected == 0].max() < 0.01


def test_stacked_areas_are_the_volume():
    step = 0.5
    heights = np.arange(-29.75, 30, step)
    parts = [
        areas(SPHERE, np.stack([plane(z) for z in part]))
        for part in heights.reshape(-1, 4)
    ]
    expected = float(volumes(SPHERE, TOPOLOGY)["wall"])
    assert np.sum(parts) * step == pytest.approx(expected, rel=2e-4)


def test_a_shift_by_whole_pixels_shifts_the_image_and_no_area():
    here = jnp.asarray(SPHERE, jnp.float32)
    there = here + jnp.asarray([2 * PIXEL[1], -PIXEL[0], 0.0], jnp.float32)[None]
    one, _ = sphere_coverage(here, plane()[None])
    two, _ = sphere_coverage(there, plane()[None])
    np.testing.assert_allclose(two[0, :-1, 2:], one[0, 1:, :-2], atol=2e-5)
    pull = jax.grad(
        lambda s: jnp.sum(sphere_coverage(here + s[None], plane()[None])[0])
    )
    # Within the plane the area stays, across it is that of a sphere's zone.
    sideways = np.asarray(pull(jnp.zeros(3))) * PIXEL[0] * PIXEL[1]
    assert np.abs(sideways[:2]).max() < 0.02
    assert sideways[2] == pytest.approx(2 * np.pi * 7.3, rel=0.05)


def test_turning_mesh_and_plane_together_changes_nothing():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    here, _ = sphere_coverage(jnp.asarray(SPHERE, jnp.float32), plane()[None])
    there = (SPHERE @ turn + [50, 20, -80]).astype(np.float32)
    moved = (plane() @ turn).astype(np.float32)
    moved[0] += np.array([50, 20, -80], np.float32)
    found, _ = sphere_coverage(jnp.asarray(there), moved[None])
    np.testing.assert_allclose(found, here, atol=2e-4)


def test_the_image_may_show_a_part_or_nothing():
    here = jnp.asarray(SPHERE, jnp.float32)
    whole, _ = sphere_coverage(here, plane()[None])
    part, _ = sphere_coverage(here, plane(origin=(-35 + 10 * PIXEL[1], -19.0))[None])
    np.testing.assert_allclose(part[0, :-8, :-10], whole[0, 8:, 10:], atol=2e-5)

    def total(v, p):
        return jnp.sum(sphere_coverage(v, p)[0])

    beyond = jnp.asarray(plane(40.0)[None])
    image, limits = sphere_coverage(here, beyond)
    assert not image.any() and int(limits.segments[0]) == 0
    gradient = jax.grad(total)(here, beyond)
    assert not gradient.any()


def test_a_vertex_on_the_plane_keeps_curves_closed():
    middle = jnp.asarray(SPHERE, jnp.float32)
    heights = np.unique(np.asarray(SPHERE[:, 2], np.float32))[[5, 40, 100]]
    for height in heights:
        segments = cut(middle, TOPOLOGY, jnp.asarray(plane(height)), size=192)
        steps = np.asarray(segments.end - segments.start)[np.asarray(segments.present)]
        assert len(steps) > 20
        np.testing.assert_allclose(steps.sum(axis=0), 0.0, atol=1e-4)
    image, _ = sphere_coverage(middle, np.stack([plane(h) for h in heights]))
    assert float(image.min()) > -1e-5 and float(image.max()) < 1 + 1e-5
    assert bool(
        jnp.isfinite(
            jax.grad(
                lambda v: jnp.sum(
                    jnp.square(sphere_coverage(v, plane(heights[0])[None])[0])
                )
            )(middle)
        ).all()
    )


def test_reversed_faces_are_negative_and_walls_are_differences():
    vertices, faces, codes = ventricle()
    topology = Topology.of(faces, len(vertices), codes, ("endo", "epi"))
    inside_out = Topology.of(faces[:, ::-1], len(vertices), codes, ("endo", "epi"))
    here = jnp.asarray(vertices, jnp.float32)
    planes = jnp.asarray(np.stack([plane(-30.0), plane(-3.0)]))
    sliced = functools.partial(coverage, planes=planes, shape=SHAPE, size=128, reach=8)
    found, limits = sliced(here, topology)
    slicing.check(limits, size=128, reach=8)
    turned, _ = sliced(here, inside_out)
    np.testing.assert_allclose(turned, -found, atol=1e-5)
    parts = slicing.regions(found, topology)
    np.testing.assert_allclose(parts.sum(-1), found[:, 1], atol=1e-6)
    one, _ = sliced(here, topology, at_once=1)
    np.testing.assert_allclose(one, found, atol=1e-6)
    # An oblique plane through the base: its fan closes the curve. The fan's segments
    # are longer than a window, and are taken as several.
    tilted = planes.at[:, 1, 2].set(1.0)
    oblique, limits = functools.partial(sliced, planes=tilted)(here, topology)
    slicing.check(limits, size=128, reach=8)
    assert float(jnp.abs(oblique[..., -1]).max()) < 1e-4
    narrow, limits = functools.partial(sliced, planes=tilted, size=256, reach=3)(
        here, topology
    )
    slicing.check(limits, size=256, reach=3)
    np.testing.assert_allclose(narrow, oblique, atol=1e-5)


def test_a_thick_slice_is_the_mean_of_its_layers():
    here = jnp.asarray(SPHERE, jnp.float32)
    planes = jnp.asarray(plane(20.0)[None])
    thick, _ = coverage(here, TOPOLOGY, planes, shape=SHAPE, size=192, thickness=8.0)
    layers = np.linspace(16.05, 23.95, 80).reshape(-1, 4)
    mean = np.mean(
        [areas(SPHERE, np.stack([plane(z) for z in part])) for part in layers]
    )
    assert float(thick.sum()) * PIXEL[0] * PIXEL[1] == pytest.approx(mean, rel=2e-3)


def test_what_does_not_fit_is_refused_on_the_host():
    here = jnp.asarray(SPHERE, jnp.float32)
    segments = cut(here, TOPOLOGY, jnp.asarray(plane()), size=16)
    limits = slicing.Limits(segments.count[None], jnp.asarray([3], jnp.int32))
    with pytest.raises(ValueError, match=r"has \d\d segments .*size=16"):
        slicing.check(limits, size=16, reach=4)
    slicing.check(limits, size=192, reach=4)
    every = jnp.ones(len(limits.segments))
    assert float(slicing.overflow(limits, every, size=16, reach=4)) == 1.0
    # Planes that are missing have no say.
    assert float(slicing.overflow(limits, 0 * every, size=16, reach=4)) == 0.0
    with pytest.raises(ValueError, match="spans 3 pixels.*reach=2"):
        slicing.check(limits, size=192, reach=2)


def test_a_disc_that_is_off_is_pulled_back():
    """Case 12: a soft edge would see nothing three pixels away."""
    here = jnp.asarray(SPHERE, jnp.float32)
    target, _ = sphere_coverage(here, plane()[None])
    off = jnp.asarray([3 * PIXEL[1], 0.0, 0.0])
    loss = jax.grad(
        lambda s: -jnp.sum(target * sphere_coverage(here + s[None], plane()[None])[0])
    )
    assert float(loss(off)[0]) > 1.0


def test_points_of_the_section_are_on_the_plane():
    here, where = jnp.asarray(SPHERE, jnp.float32), jnp.asarray(plane())
    segments = cut(here, TOPOLOGY, where, size=192)
    at = np.asarray(to_space(segments.start, where))[np.asarray(segments.present)]
    np.testing.assert_allclose(at[:, 2], 7.3, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(at, axis=1), 30.0, atol=0.4)


DOUBLE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from medjax.heart import slicing
from medjax.heart.meshes import Topology
from tests.heart.shapes import icosphere
vertices, faces = icosphere(2, 30.0)
topology = Topology.of(faces, len(vertices))
rng = np.random.default_rng(0)
plane = jnp.asarray([[-35.0, -35.0, 7.3], [0.1, 2.0, 0.3], [1.75, -0.0875, 0.0]])
weights = jnp.asarray(rng.normal(size=(36, 40)))
@jax.jit
def f(v):
    image, limits = slicing.coverage(
        v, topology, plane[None], (36, 40), size=128, reach=8)
    return jnp.sum(weights * image[0, 0]), limits
direction = jnp.asarray(rng.normal(size=vertices.shape))
direction = direction / jnp.linalg.norm(direction)
slope = jnp.vdot(jax.grad(lambda v: f(v)[0])(jnp.asarray(vertices)), direction)
e = 1e-6
difference = (f(vertices + e * direction)[0] - f(vertices - e * direction)[0]) / (2 * e)
slicing.check(f(vertices)[1], size=128, reach=8)
print(json.dumps([float(slope), float(difference)]))
"""


def test_the_derivative_is_exact_in_double_precision(tmp_path):
    process = start(["-c", DOUBLE], tmp_path / "log.txt")
    assert process.wait() == 0, (tmp_path / "log.txt").read_text()
    told = (tmp_path / "log.txt").read_text().splitlines()[-1]
    slope, difference = json.loads(told)
    assert slope == pytest.approx(difference, rel=1e-5) and abs(slope) > 1e-3
