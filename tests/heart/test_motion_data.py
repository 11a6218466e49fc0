"""Phantom people as motion batches: what is seen, where it is, and who is held out."""

import dataclasses

import numpy as np
import pytest

from medjax.heart import motion_data, phantom
from medjax.heart.batch import AXES, check
from medjax.heart.contours import sections, trace
from medjax.heart.meshes import Topology
from medjax.heart.motion_data import (
    MotionDataConfig,
    MotionRows,
    draw_subject,
    open_motion,
)
from medjax.heart.phantom_mesh import SURFACES, moving_mesh
from medjax.heart.population import person
from medjax.heart.scanning import ScanConfig, scan
from tests.heart.shapes import icosphere

SCAN = ScanConfig(frames=3, size=16, spacing=8.0, slices=4, gap=22.0)
CONFIG = MotionDataConfig(scan=SCAN, people=2, test_people=1, contour_points=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("motion")


@pytest.fixture(scope="module")
def data(folder):
    return open_motion(CONFIG, folder)


def test_rows_are_batches_of_the_room(data):
    # Phantoms have no projected meshes: folders of DeepMesh do.
    fields = [name for name in AXES if not name.startswith("projected")]
    rows = MotionRows(data.train, fields)
    assert len(rows) == 2 * 2
    batch = {name: np.stack([v, v]) for name, v in rows[3].items()}
    sizes = check(batch, fields)
    assert sizes["p"] == 6 and sizes["m"] == 3 * 8
    # The last row is the second person's last frame.
    second = data.train[1]
    np.testing.assert_array_equal(batch["vertices_t"][0], second.vertices[2])
    np.testing.assert_array_equal(batch["sax"][0, 1], second.images[2, :4])
    assert batch["time"][0] == pytest.approx(2 / 3)
    started = MotionRows(data.train, ["vertices_ed"], [data.reference] * 2)
    np.testing.assert_array_equal(started[0]["vertices_ed"], data.reference)


def test_people_drawn_by_other_code_are_drawn_again(data, folder, monkeypatch):
    (kept,) = (folder / "people").iterdir()
    assert motion_data._digest(CONFIG) == kept.name
    # Who looks at them does not change them; how they are drawn does.
    for same in ({"views": "sax"}, {"people": 9}, {"seed": 3}, {"batch_size": 2}):
        assert motion_data._digest(dataclasses.replace(CONFIG, **same)) == kept.name
    other = dataclasses.replace(CONFIG, infarcts=1.0)
    assert motion_data._digest(other) != kept.name
    monkeypatch.setattr(motion_data, "DRAWN_BY", motion_data.DRAWN_BY[1:])
    assert motion_data._digest(CONFIG) != kept.name


def test_without_long_axis_views_their_planes_are_masked(data, folder):
    short = open_motion(dataclasses.replace(CONFIG, views="sax"), folder)
    np.testing.assert_array_equal(short.train[0].plane_mask, [1, 1, 1, 1, 0, 0])
    assert data.train[0].plane_mask.all()
    row = MotionRows(short.test, ["plane_mask", "lax"])[0]
    assert not row["plane_mask"][-2:].any() and row["lax"].any()


def test_labels_are_inside_the_meshs_contours_where_the_heart_is(data):
    """In an image without misplaced breaths, a wall's points lie between what is
    inside and what is outside of it."""
    held = dataclasses.replace(SCAN, shift=0.0, through=0.0, size=48, spacing=3.0)
    subject = draw_subject(dataclasses.replace(CONFIG, scan=held), 1, 0)
    p = 2
    inner = subject.contour_surface[p] == SURFACES.index("endo")
    there = inner & (subject.contour_mask[0, p] > 0)
    ring = subject.contours[0, p][there] / held.spacing
    blood = np.argwhere(subject.labels[0, p] == 1)
    middle = blood.mean(0)
    reach = np.linalg.norm(ring - middle, axis=1)
    # The mean radius of the ring is that of a disc of as many pixels, of which those
    # that blood and muscle share by halves count as blood.
    assert reach.mean() == pytest.approx(np.sqrt(len(blood) / np.pi), abs=0.3)
    assert np.ptp(reach) < 0.6


def test_contours_lie_on_the_analytic_walls(data):
    """Of every slice as it was taken; the chord of a fine mesh misses by hundredths."""
    who = person(1, 0, infarcts=CONFIG.infarcts)
    subject = data.train[0]
    rng = np.random.default_rng([1, 0, 1])
    seen = scan(who.heart, SCAN, seed=int(rng.integers(2**31)))
    planes, frame = seen.taken.steps(SCAN.spacing), 1
    active = phantom.activation(who.heart, np.asarray(SCAN.times[frame]))
    steps = planes[:, 1:] / SCAN.spacing
    at = planes[:, None, 0] + np.einsum(
        "pmi,pix->pmx", subject.contours[frame].astype(float), steps
    )
    own = (at - seen.pose.translation) @ seen.pose.rotation
    r, angle, z = phantom.cylindrical(own)
    material, _, height = phantom.undeform(who.heart, active, r, angle, z)
    for name, wall in (
        ("endo", phantom.radius_squared),
        ("epi", phantom.epicardium_squared),
    ):
        chosen = subject.contour_surface == SURFACES.index(name)
        there = chosen & (subject.contour_mask[frame] > 0)
        gap = material[there] - np.sqrt(wall(who.heart, height[there]))
        # At the pole a radius is no distance to the wall.
        low = height[there] > 15.0
        assert np.abs(gap[low]).max() < 0.25 and np.abs(gap[low]).mean() < 0.05


def test_a_plane_through_a_ball_is_a_circle_and_beside_it_nothing():
    vertices, faces = icosphere(3, radius=30.0)
    ball = Topology.of(faces, len(vertices))
    planes = np.array([[[-40.0, -40, 10], [0, 2, 0], [3, 0, 0]]] * 2)
    planes[1, 0, 2] = 31.0
    found = trace(vertices, ball, planes, 50)
    radius = np.linalg.norm(found.points[0] - 40.0, axis=1)
    assert radius == pytest.approx(np.sqrt(30**2 - 10**2), abs=0.3)
    # Evenly: no gap between neighbours in angle is three times the mean.
    turn = np.sort(np.arctan2(*(found.points[0] - 40.0).T))
    assert np.diff(turn).max() < 3 * 2 * np.pi / 50
    assert found.mask[0].all() and not found.mask[1].any()
    assert len(sections(vertices, ball, planes[1])[0]) == 0


def test_people_are_drawn_once_and_follow_the_seed(data, folder):
    kept = sorted((folder / "people").rglob("images.npy"))
    assert len(kept) == 3
    before = [path.stat().st_mtime_ns for path in kept]
    more = open_motion(dataclasses.replace(CONFIG, seed=1), folder)
    assert [path.stat().st_mtime_ns for path in kept] == before
    for name in ("images", "vertices", "contours"):
        one, other = (getattr(found.test[0], name) for found in (data, more))
        np.testing.assert_array_equal(one, other)
        drawn, again = (getattr(found.train[0], name) for found in (data, more))
        assert np.abs(drawn - again).max() > 0.5
    again = draw_subject(CONFIG, 2, 0)
    np.testing.assert_array_equal(again.images, more.train[0].images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": 0}, "data.people is 0, expected 1"),
        ({"seed": -1}, "data.seed is -1, expected 0"),
        ({"scan": ScanConfig(frames=1)}, "data.scan.frames is 1, expected 2"),
    ],
)
def test_impossible_data_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_motion(dataclasses.replace(CONFIG, **change), tmp_path)


def test_a_damaged_person_is_named(tmp_path):
    config = dataclasses.replace(CONFIG, people=1)
    open_motion(config, tmp_path)
    path = next((tmp_path / "people").rglob("labels.npy"))
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="labels.npy: "):
        open_motion(config, tmp_path)


def test_the_mesh_is_the_phantoms(data):
    who = person(1, 1, infarcts=CONFIG.infarcts)
    mesh = moving_mesh(who.heart, SCAN.times, CONFIG.mesh)
    # The scanner moved it rigidly: distances are kept.
    found = np.asarray(data.train[1].vertices)
    apart = np.linalg.norm(found[:, 1:] - found[:, :-1], axis=-1)
    wanted = np.linalg.norm(mesh.vertices[:, 1:] - mesh.vertices[:, :-1], axis=-1)
    np.testing.assert_allclose(apart, wanted, atol=1e-3)
    assert data.topology.count == mesh.vertices.shape[1]
