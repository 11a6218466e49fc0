"""Topology, closing and measures of meshes against closed forms and trimesh."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
import trimesh

from medjax.heart.meshes import (
    Topology,
    face_areas,
    face_normals,
    in_millimetres,
    length,
    oriented,
    vertex_normals,
    volumes,
)
from tests.heart.shapes import box, cup, icosphere, ventricle

SPHERE, SPHERE_FACES = icosphere(2, 30.0)


@pytest.fixture(scope="module")
def sphere():
    return Topology.of(SPHERE_FACES, len(SPHERE))


def test_a_box_has_the_volume_and_area_of_a_box():
    vertices, faces = box((30.0, 40.0, 50.0))
    topology = Topology.of(faces, 8)
    assert volumes(vertices + 1000.0, topology)["wall"] == pytest.approx(6e4, rel=1e-12)
    assert face_areas(vertices, topology).sum() == pytest.approx(9400.0)
    assert topology.edges.shape == (18, 2)
    assert not len(topology.closing)


def test_float32_and_jax_agree_with_float64_far_from_the_origin(sphere):
    expected = volumes(SPHERE, sphere)["wall"]
    moved = jnp.asarray(SPHERE + 150.0, jnp.float32)
    batch = jnp.stack([moved, 2 * moved])
    found = volumes(batch, sphere)["wall"]
    np.testing.assert_allclose(found, [expected, 8 * expected], rtol=2e-6)
    other = trimesh.Trimesh(SPHERE, SPHERE_FACES, process=False)
    assert expected == pytest.approx(other.volume, rel=1e-9)
    for mine, theirs in (
        (face_normals(batch, sphere)[0], other.face_normals),
        (face_areas(batch, sphere)[0], other.area_faces),
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-5)
    normals = vertex_normals(SPHERE, sphere)
    # Weighed by area they are radial but for the corners' unequal triangles.
    apart = np.sum(normals * SPHERE / 30.0, axis=-1)
    assert apart.min() > np.cos(np.radians(1.5))
    np.testing.assert_allclose(vertex_normals(batch, sphere)[1], normals, atol=2e-5)


def test_sphere_and_cup_converge_with_the_square_of_the_edge():
    errors = []
    for splits in (1, 2, 3):
        vertices, faces = icosphere(splits, 30.0)
        found = volumes(vertices, Topology.of(faces, len(vertices)))["wall"]
        errors.append(1 - found / (4 / 3 * np.pi * 30.0**3))
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 4.0, rtol=0.1)
    errors = []
    for n in (8, 16, 32):
        vertices, faces = cup(2 * n, n, 20.0, 60.0)
        found = volumes(vertices, Topology.of(faces, len(vertices)), close=True)
        errors.append(1 - found["wall"] / (2 / 3 * np.pi * 20.0**2 * 60.0))
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 4.0, rtol=0.1)


def test_open_walls_have_no_volume_until_they_are_closed():
    vertices, faces, codes = ventricle()
    topology = Topology.of(faces, len(vertices), codes, ("endo", "epi"))
    with pytest.raises(ValueError, match=r"32 boundary edges on \['endo', 'epi'\]"):
        volumes(vertices, topology)
    there = volumes(vertices, topology, close=True)
    moved = volumes(vertices + [50.0, -70.0, 90.0], topology, close=True)
    for name in ("endo", "epi"):
        assert moved[name] == pytest.approx(there[name], rel=1e-12)
    assert there["epi"] > there["endo"] > 0
    np.testing.assert_allclose(
        topology.closed(vertices)[-2:], [[0, 0, 0]] * 2, atol=1e-12
    )
    np.testing.assert_array_equal(topology.face_surface[-32:], [0] * 16 + [1] * 16)
    mine = jnp.asarray(vertices, jnp.float32)
    gradient = jax.grad(lambda v: volumes(v, topology, close=True)["endo"])
    push = gradient(mine)
    step = 1e-3 * np.asarray(push) / np.linalg.norm(push)
    rise = [
        volumes(vertices + sign * step, topology, close=True)["endo"]
        for sign in (1, -1)
    ]
    expected = (rise[0] - rise[1]) / 2e-3
    assert float(jnp.linalg.norm(push)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("faces", "surface", "told"),
    [
        ([[0, 1, 5]], None, "corners 0 to 5, expected some of 0 to 3"),
        (np.zeros((0, 3)), None, "corners none"),
        ([[0, 1, 2], [3, 1, 1]], None, "1 triangles have one corner twice.* number 1"),
        ([[0, 1, 2]], [0, 0, 1, 1], "1 triangles lie on two surfaces"),
        ([[0, 1, 2]], [0, 0, 0, 2], r"codes 0 to 2; expected 4 of 0 to 1"),
    ],
)
def test_triangles_that_make_no_mesh_are_refused(faces, surface, told):
    surface = None if surface is None else np.array(surface)
    with pytest.raises(ValueError, match=told):
        Topology.of(np.array(faces, int), 4, surface, ("endo", "epi"))


def test_every_component_is_turned_outwards():
    one, two = box((30.0, 40.0, 50.0)), icosphere(1, 20.0)
    vertices = np.concatenate([one[0], two[0] + 100.0])
    faces = np.concatenate([one[1], two[1] + 8])
    mixed = np.random.default_rng(0).random(len(faces)) < 0.5
    turned = np.where(mixed[:, None], faces[:, ::-1], faces)
    codes = np.repeat([0, 1], [8, len(two[0])])
    found = oriented(vertices, turned)
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(faces, 1))
    measured = volumes(vertices, Topology.of(found, len(vertices), codes, ("a", "b")))
    expected = volumes(vertices, Topology.of(faces, len(vertices), codes, ("a", "b")))
    for name in ("a", "b"):
        assert measured[name] == pytest.approx(expected[name])
    cup_vertices, cup_faces = cup()
    np.testing.assert_array_equal(oriented(cup_vertices, cup_faces), cup_faces)


def test_a_moebius_strip_has_one_side():
    n = 9
    angle = 2 * np.pi * np.arange(n) / n
    across = np.array([-1.0, 1.0])[:, None] * np.cos(angle / 2)
    up = np.array([-1.0, 1.0])[:, None] * np.sin(angle / 2)
    r = 5 + across
    strip = np.stack([r * np.cos(angle), r * np.sin(angle), up], -1)
    i = np.arange(n)
    low, high = i, i + n
    # The last pair of vertices is joined to the first one crosswise.
    after_low = np.where(i == n - 1, n, i + 1)
    after_high = np.where(i == n - 1, 0, i + 1 + n)
    faces = np.concatenate(
        [
            np.stack([low, after_low, after_high], -1),
            np.stack([low, after_high, high], -1),
        ]
    )
    with pytest.raises(ValueError, match="one side only"):
        oriented(strip.reshape(-1, 3), faces.astype(np.int32))


def test_the_graph_form_is_jraphs(sphere):
    graph = sphere.graph(nodes=jnp.asarray(SPHERE, jnp.float32))
    assert isinstance(graph, jraph.GraphsTuple)
    assert graph.n_edge[0] == 2 * len(sphere.edges) == len(graph.senders)
    pairs = np.sort(np.stack([graph.senders, graph.receivers], -1), axis=1)
    np.testing.assert_array_equal(np.unique(pairs, axis=0), sphere.edges)
    assert (np.diff(graph.receivers) >= 0).all()
    # Six neighbours, and five at the twelve corners of the icosahedron.
    np.testing.assert_array_equal(
        np.bincount(sphere.neighbours.share), [0] * 5 + [12, 150]
    )


def test_a_collapsed_triangle_has_a_finite_gradient(sphere):
    flat = (
        jnp.asarray(SPHERE, jnp.float32)
        .at[SPHERE_FACES[0, 1]]
        .set(jnp.asarray(SPHERE[SPHERE_FACES[0, 0]], jnp.float32))
    )

    def total(v):
        parts = (
            face_areas(v, sphere),
            face_normals(v, sphere),
            vertex_normals(v, sphere),
        )
        return sum(jnp.sum(jnp.square(p)) for p in parts) + jnp.sum(length(v - v[:1]))

    gradient = jax.grad(total)(flat)
    assert bool(jnp.isfinite(gradient).all()) and float(jnp.abs(gradient).max()) > 0


def test_sizes_no_heart_has_are_refused():
    in_millimetres(SPHERE)
    for scale in (1e-3, 1e3):
        with pytest.raises(ValueError, match=r"expected 20 to 400; .* needs --scale$"):
            in_millimetres(SPHERE * scale, flag="--scale")
        with pytest.raises(ValueError, match=r"expected 20 to 400$"):
            in_millimetres(SPHERE * scale)
