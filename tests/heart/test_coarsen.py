"""Levels spread over the surface, pool means, and give linear functions back."""

import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart.coarsen import coarsen, farthest_points, wall_pairs
from medjax.heart.meshes import Topology
from medjax.nn.tables import edges_of, gather, mean_of
from tests.heart.shapes import icosphere, ventricle

VERTICES, FACES, CODES = ventricle()
TOPOLOGY = Topology.of(FACES, len(VERTICES), CODES, ("endo", "epi"))


@pytest.fixture(scope="module")
def pairs():
    return wall_pairs(TOPOLOGY, VERTICES)


@pytest.fixture(scope="module")
def levels(pairs):
    return coarsen(TOPOLOGY, VERTICES, links=pairs)


def test_each_level_keeps_a_quarter_and_every_vertex_has_one_cluster(levels):
    assert [level.count for level in levels] == [64, 16]
    finer = len(VERTICES)
    for level in levels:
        members = level.members.index[level.members.filled]
        np.testing.assert_array_equal(np.sort(members), np.arange(finer))
        np.testing.assert_allclose(level.weights.sum(axis=1), 1.0, rtol=1e-6)
        assert level.weights.min() >= 0
        finer = level.count


def test_clusters_and_the_way_back_stay_on_one_surface(levels):
    codes = CODES
    for level in levels:
        kept = codes[level.kept.index[:, 0]]
        inside = np.append(codes, -1)[level.members.index]
        own = kept[level.members.slots.owner]
        assert (inside == own[:, None])[level.members.filled].all()
        between = kept[level.between.index]
        assert (between == codes[:, None])[level.weights > 0].all()
        # Only links lead across the wall.
        senders, receivers = edges_of(level.neighbours)
        assert (kept[senders] != kept[receivers]).any()
        codes = kept


def test_a_kept_vertex_comes_back_as_it_is(levels):
    level = levels[0]
    values = jnp.asarray(VERTICES[level.kept.index[:, 0]], jnp.float32)
    back = jnp.sum(gather(values, level.between) * level.weights[..., None], axis=-2)
    kept = level.kept.index[:, 0]
    np.testing.assert_allclose(back[kept], VERTICES[kept], rtol=1e-6, atol=1e-5)
    # Elsewhere a linear function is off by no more than the triangles are from it.
    assert np.linalg.norm(np.asarray(back) - VERTICES, axis=1).max() < 12.0


def test_pooling_is_the_mean_of_a_cluster(levels):
    values = jnp.asarray(VERTICES, jnp.float32)
    pooled = mean_of(gather(values, levels[0].members), levels[0].members)
    members, clusters = edges_of(levels[0].members)
    expected = VERTICES[members[clusters == 5]].mean(axis=0)
    np.testing.assert_allclose(pooled[5], expected, rtol=1e-5)


def test_farthest_points_are_apart_and_near_to_all():
    vertices, faces = icosphere(2)
    along = Topology.of(faces, len(vertices)).neighbours
    chosen, cluster = farthest_points(along, vertices, 40)
    assert len(set(chosen.tolist())) == 40
    apart = np.linalg.norm(vertices[chosen][:, None] - vertices[chosen], axis=-1)
    np.fill_diagonal(apart, np.inf)
    reach = np.linalg.norm(vertices - vertices[chosen][cluster], axis=-1)
    # What defines them: none is nearer to another than some vertex is to all.
    assert reach.max() <= apart.min() * 1.2
    assert reach.max() < 0.5


def test_walls_are_paired_across(pairs):
    half = len(VERTICES) // 2
    assert (pairs[:, 0] < half).all() and (pairs[:, 1] >= half).all()
    assert set(pairs.ravel().tolist()) == set(range(len(VERTICES)))
    thick = np.linalg.norm(VERTICES[pairs[:, 0]] - VERTICES[pairs[:, 1]], axis=1)
    assert 7.0 < thick.min() and thick.max() < 12.0


def test_a_mesh_too_small_for_its_levels_is_refused():
    with pytest.raises(ValueError, match="levels=4: 4 vertices are too few"):
        coarsen(TOPOLOGY, VERTICES, levels=4)
    with pytest.raises(ValueError, match=r"shape \(5, 3\), expected \(258, 3\)"):
        coarsen(TOPOLOGY, VERTICES[:5])
