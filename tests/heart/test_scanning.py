"""Label volumes and images of the phantom against its closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data.volumes import Grid
from medjax.heart import phantom, slicing
from medjax.heart.appearance import LABELS, draw_texture, heart_labels, seen_at
from medjax.heart.batch import check
from medjax.heart.meshes import Topology
from medjax.heart.phantom_mesh import SURFACES, moving_mesh
from medjax.heart.scanning import ScanConfig, scan

TIMES = np.array([0.0, 0.35])
CONFIG = ScanConfig(frames=3, size=32, spacing=4.0, slices=5, gap=20.0)


@pytest.fixture(scope="module")
def taken(heart):
    return scan(heart, CONFIG, seed=3)


def test_label_volumes_have_the_closed_forms_volumes(heart):
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -40, -40, -3
    labels = heart_labels(heart, TIMES, Grid((62, 41, 53), affine))
    counts = {
        name: 8.0 * (labels == code).sum((1, 2, 3)) for name, code in LABELS.items()
    }
    a = phantom.activation(heart, TIMES)
    np.testing.assert_allclose(counts["lv"], phantom.lv_volume(heart, a), rtol=0.01)
    np.testing.assert_allclose(counts["myo"], heart.muscle, rtol=0.01)
    np.testing.assert_allclose(counts["rv"], phantom.rv_volume(heart, a), rtol=0.02)
    # x to the septum, where the right ventricle is; the apex is where z is 0.
    where = {
        name: np.argwhere(labels[0] == code).mean(0) for name, code in LABELS.items()
    }
    assert where["rv"][0] > where["lv"][0] + 10
    assert (labels[0] == LABELS["myo"])[:, :, :3].any()
    assert not (labels[0] == LABELS["lv"])[:, :, :3].any()


def test_a_scan_has_discs_of_the_right_area_where_it_was_taken(heart, taken):
    a = phantom.activation(heart, CONFIG.times)
    places = taken.pose.back(taken.taken).origin[: CONFIG.slices]
    for t, p in ((0, 2), (1, 2), (2, 3)):
        z = np.asarray(places[p, 2] / phantom.stretch(heart, a[t]))
        angle = 2 * np.pi * np.arange(360) / 360
        squared = phantom.radius_squared(heart, z) / phantom.stretch(heart, a[t])
        inside = np.pi * (squared - phantom.inward(heart, a[t], angle, z)).mean()
        pixels = 16 * (taken.labels[t, p] == LABELS["lv"]).sum()
        assert pixels == pytest.approx(inside, rel=0.06)


def test_scans_have_the_contrast_and_noise_that_were_asked_for(taken):
    first = taken.images[:, :5]
    blood = first[taken.labels[:, :5] == LABELS["lv"]]
    muscle = first[taken.labels[:, :5] == LABELS["myo"]]
    assert np.median(blood) == pytest.approx(1.0, abs=0.1)
    assert np.median(muscle) == pytest.approx(0.4, abs=0.1)
    assert taken.images.shape == (3, 7, 32, 32) and taken.images.dtype == np.float32


def test_headers_say_where_slices_were_planned(heart, taken):
    again = scan(heart, CONFIG, seed=3)
    np.testing.assert_array_equal(again.images, taken.images)
    gap = taken.taken.origin - taken.planned.origin
    along = (gap * taken.planned.normal).sum(-1)
    np.testing.assert_array_less(np.abs(along), 4.0)
    assert 0.5 < gap.std() < 4
    spaces = np.diff(taken.planned.origin[:5], axis=0) @ taken.planned.normal[0]
    np.testing.assert_allclose(np.abs(spaces), CONFIG.gap)
    # The pose is a rotation: no heart is mirrored.
    rotation = taken.pose.rotation
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_a_scan_and_its_mesh_are_a_batch_of_the_motion_systems(heart, taken):
    """Of one world: the mesh, cut by the planes that were hit, covers the labels."""
    mesh = moving_mesh(heart, CONFIG.times[[0, 1]], (32, 24))
    topology = Topology.of(mesh.faces, len(mesh.surface), mesh.surface, SURFACES)
    placed = taken.pose.place(mesh.vertices).astype(np.float32)
    planes = taken.taken.steps(CONFIG.spacing).astype(np.float32)
    images, labels, d = taken.images[:2], taken.labels[:2], CONFIG.slices
    batch = {
        "sax": images[None, :, :d],
        "lax": images[None, :, d:],
        "planes": planes[None],
        "plane_mask": np.ones((1, d + 2), np.float32),
        "label_mask": np.ones((1, d + 2), np.float32),
        "time": CONFIG.times[1:2].astype(np.float32),
        "vertices_ed": placed[:1],
        "vertices_t": placed[1:],
        "labels": labels[None],
    }
    sizes = check(batch, list(batch))
    assert (sizes["d"], sizes["v"], sizes["p"]) == (5, 2, 7)
    # Short-axis slices go from the apex to the base, which is above.
    up = taken.pose.rotation[:, 2]
    assert (np.diff(planes[:d, 0] @ up) > 10).all()

    @jax.jit
    def cut(vertices):
        found, limits = slicing.coverage(
            vertices, topology, jnp.asarray(planes), (32, 32), size=384, reach=8
        )
        return slicing.regions(found, topology), limits

    for vertices, truth in zip(placed, labels, strict=True):
        shares, limits = cut(jnp.asarray(vertices))
        slicing.check(limits, size=384, reach=8)
        for i, code in enumerate(LABELS.values()):
            one, other = np.asarray(shares[..., i]) > 0.5, truth == code
            dice = 2 * (one & other).sum() / (one.sum() + other.sum())
            assert dice > 0.85, (i, dice)


def test_long_axis_views_cut_both_walls_and_one_of_them_the_right_heart(heart, taken):
    z = np.linspace(0, heart.base, 2000)
    outer, inner = (
        phantom.epicardium_squared(heart, z),
        phantom.radius_squared(heart, z),
    )
    walls = 2 * (np.sqrt(outer) - np.sqrt(inner)).mean() * heart.base
    two, four = taken.labels[0, 5], taken.labels[0, 6]
    for view in (two, four):
        area = 16 * (view == LABELS["myo"]).sum()
        assert area == pytest.approx(walls, rel=0.3)  # tilt, and coarse pixels
    assert (four == LABELS["rv"]).sum() > 4 * (two == LABELS["rv"]).sum()


def test_texture_moves_with_the_muscle(heart):
    """Without noise, the same muscle in two frames has one signal; elsewhere not."""
    rng = np.random.default_rng(0)
    texture = jax.tree.map(np.float32, draw_texture(rng, 0.06))
    z = np.full(200, 50.0)
    r = np.full(200, heart.radius + 0.5 * heart.wall)
    angle = np.linspace(0, 2 * np.pi, 200)
    seen = []
    single = jax.tree.map(np.float32, heart)
    look = jax.jit(seen_at)
    for a in (0.0, 1.0):
        at = phantom.cartesian(*phantom.deform(heart, a, r, angle, z))
        seen.append(
            look(single, texture, jnp.float32(a), jnp.asarray(at, jnp.float32))[0]
        )
    np.testing.assert_allclose(seen[0], seen[1], atol=2e-3)
    assert np.std(seen[0]) == pytest.approx(0.06, rel=0.6)


def test_impossible_scans_are_refused(heart):
    with pytest.raises(ValueError, match="slices is 0, expected a positive number"):
        scan(heart, ScanConfig(slices=0), seed=0)
