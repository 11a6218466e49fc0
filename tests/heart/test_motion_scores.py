"""Scores of meshes with known errors: shifted, swollen, torn; and how they look."""

import numpy as np
import pytest

from medjax.heart.contours import trace
from medjax.heart.meshes import Topology
from medjax.heart.motion_data import Subject, mesh_of
from medjax.heart.motion_pictures import (
    BACKGROUND,
    COLOURS,
    box_of,
    contoured,
    painted,
    view_axes,
)
from medjax.heart.motion_scores import (
    _regions_of,
    contour_errors,
    infarcted,
    mean_scores,
    motion_scores,
    shape_counts,
    truth_numbers,
)
from medjax.heart.phantom_mesh import moving_mesh
from medjax.heart.population import person
from medjax.report.picture import LABELS
from tests.heart.conftest import ill_heart
from tests.heart.shapes import icosphere

SIZE = (16, 12)
TOPOLOGY, _ = mesh_of(SIZE, right=True)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A person in the heart's own frame, without images, cut where slices are."""
    times = np.array([0.0, 0.2, 0.35])
    mesh = moving_mesh(person(0, 0).heart, times, SIZE)
    planes = np.zeros((5, 3, 3))
    planes[:3, 0] = [[-60, -60, z] for z in (25.0, 45.0, 65.0)]
    planes[:3, 1:] = [[0, 2.0, 0], [2.0, 0, 0]]
    planes[3] = [[-60, 0, -10], [0, 0, 2.0], [2.0, 0, 0]]
    planes[4] = [[0, -60, -10], [0, 0, 2.0], [0, 2.0, 0]]
    traced = [trace(frame, TOPOLOGY, planes, 160) for frame in mesh.vertices]
    empty = np.zeros((3, 5, 60, 60), np.float32)
    return Subject(
        images=empty,
        labels=empty.astype(np.uint8),
        planes=planes.astype(np.float32),
        plane_mask=np.ones(5, np.float32),
        label_mask=np.ones(5, np.float32),
        times=times.astype(np.float32),
        vertices=mesh.vertices,
        template=mesh.vertices[0],
        contours=np.stack([one.points for one in traced]),
        contour_mask=np.stack([one.mask for one in traced]),
        contour_surface=traced[0].surface,
        septum=np.array([1.0, 0, 0]),
        infarct=mesh.infarct.astype(np.float32),
    )


def test_the_truth_has_no_error(subject):
    scores = motion_scores(subject.vertices, subject, TOPOLOGY)
    contours = scores.pop("contours")
    assert scores.pop("muscle_drift") < 0.05  # of so coarse a mesh
    assert scores == dict.fromkeys(scores, pytest.approx(0, abs=1e-9))
    for view in contours.values():
        assert view["contour"] < 0.4 and view["missed"] == 0


def test_dice_of_views_is_that_of_what_is_drawn(subject):
    """Labels made of the mesh's own sections, then of a shifted part of them."""
    regions, short = _regions_of(TOPOLOGY, (60, 60))(
        subject.vertices[1], subject.planes
    )
    assert not np.asarray(short).any()
    inside = np.asarray(regions) >= 0.5
    labels = np.zeros((3, 5, 60, 60), np.uint8)
    labels[1] = inside[..., 0] + 2 * inside[..., 1]
    own = subject._replace(labels=labels)
    found = contour_errors(subject.vertices, own, TOPOLOGY, 1)
    assert {view["dice"] for view in found.values()} == {1.0}
    # Half of the pixels of each structure are missing: 2 (n / 2) / (n + n / 2).
    labels[1, :3, ::2] = 0
    found = contour_errors(subject.vertices, own, TOPOLOGY, 1)
    assert found["sax"]["dice"] == pytest.approx(2 / 3, abs=0.02)
    assert found["2ch"]["dice"] == 1.0


def test_a_mesh_shifted_along_the_axis_is_wrong_in_that_direction(subject):
    found = subject.vertices.copy()
    found[1:, :, 2] += 4.0
    scores = motion_scores(found, subject, TOPOLOGY)
    assert scores["vertex"] == pytest.approx(4.0, rel=1e-4)
    assert scores["vertex_es"] == pytest.approx(4.0, rel=1e-4)
    assert scores["vertex_ed"] == 0
    # Most of the wall is upright; nothing of the shift is around the heart.
    assert scores["longitudinal"] > 3 and scores["circumferential"] < 1e-4
    assert 0 < scores["normal"] < 2
    assert scores["ef"] == pytest.approx(0, abs=1e-6) == scores["lv_mae_ml"]
    truth = motion_scores(subject.vertices, subject, TOPOLOGY)["contours"]
    # Short-axis contours hardly see it, long-axis ones do.
    gaps = {v: scores["contours"][v]["contour"] - truth[v]["contour"] for v in truth}
    assert min(gaps["2ch"], gaps["4ch"]) > 1.5 * abs(gaps["sax"])


def test_what_does_not_move_has_no_stroke_and_no_strain(subject):
    still = np.repeat(subject.vertices[:1], 3, axis=0)
    scores = motion_scores(still, subject, TOPOLOGY)
    ejection = 100 * person(0, 0).heart.ejection_fraction
    assert scores["ef"] == pytest.approx(-ejection, abs=0.5)
    assert 15 < scores["GCS endo"] < 40 and scores["GRS"] < -30
    assert scores["segments"] > 15
    missing = dict(scores, contours=scores["contours"])
    missing["contours"] = {
        v: {**row, "contour": np.nan} for v, row in scores["contours"].items()
    }
    means, views = mean_scores([scores, missing])
    assert means["ef"] == -means["ef_bias"] == pytest.approx(-scores["ef"])
    assert views[0]["contour"] == scores["contours"]["sax"]["contour"]
    assert views[0]["contour_undefined"] == 1
    # Nobody was scanned along the long axis: no row of that, not one of nothing.
    short = dict(scores["contours"])
    for view in ("2ch", "4ch"):
        short[view] = dict.fromkeys(short[view], float("nan"))
    _, views = mean_scores([{**scores, "contours": short}] * 2)
    assert [row["view"] for row in views] == ["sax"]


def test_errors_are_told_of_basal_segments_and_of_those_of_an_infarct(subject):
    """In front, in the middle of the long axis, as segments 7 and 8 are named."""
    heart = ill_heart(infarct_angle=np.pi / 2 + 0.3, infarct_z=55.0)
    mesh = moving_mesh(heart, np.array([0.0, 0.35]), SIZE)
    ill = subject._replace(
        vertices=mesh.vertices,
        infarct=mesh.infarct.astype(np.float32),
        times=np.array([0.0, 0.35], np.float32),
    )
    chosen = infarcted(ill, TOPOLOGY)
    assert chosen[6:8].any() and not chosen[[2, 3, 4, 8, 9, 10, 13, 14, 15, 16]].any()
    well = ill._replace(infarct=np.zeros_like(ill.infarct))
    assert not infarcted(well, TOPOLOGY).any()
    assert np.isnan(motion_scores(well.vertices, well, TOPOLOGY)["infarct"])
    assert mesh.infarct.max() == pytest.approx(heart.infarct, rel=0.05)
    _, _, known = truth_numbers(ill, TOPOLOGY)
    assert known is not None and known.segments is not None
    still = np.repeat(mesh.vertices[:1], 2, axis=0)
    scores = motion_scores(still, ill, TOPOLOGY)
    # Without motion an error is the strain that there was: little of it in an infarct.
    assert scores["infarct"] == pytest.approx(-100 * known.segments[chosen].mean())
    assert scores["infarct"] < 0.6 * scores["segments"]
    assert scores["basal"] == pytest.approx(-100 * known.segments[:6].mean())
    means, _ = mean_scores([scores, {**scores, "basal": -scores["basal"]}])
    assert means["basal"] == pytest.approx(scores["basal"]) and means["basal_bias"] == 0


def test_turned_triangles_and_crossed_walls_are_counted(subject):
    still = np.repeat(subject.vertices[:1], 2, axis=0)
    assert shape_counts(still, TOPOLOGY)["crossed"] == 0
    torn = still.copy()
    # The endocardium is blown up through the epicardium.
    inner = TOPOLOGY.surface == TOPOLOGY.code("endo")
    torn[1, inner] = 2.0 * torn[1, inner] - torn[1, inner].mean(0)
    found = shape_counts(torn, TOPOLOGY)
    assert found["crossed"] > 0.3 and found["flipped"] == 0
    assert found["muscle_drift"] > 1
    mirrored = still.copy()
    mirrored[1, inner, 0] *= -1
    part = (TOPOLOGY.surface[TOPOLOGY.faces[:, 0]] == 0).mean()
    # Of the mirror image all triangles look inwards; half turn by more than 90 degrees.
    assert 0.1 * part < shape_counts(mirrored, TOPOLOGY)["flipped"] <= part / 2


def test_a_mesh_without_strain_is_counted(subject):
    """Flat at end-diastole, no plane across the axis cuts it; the run goes on."""
    flat = subject.vertices.copy()
    inner = TOPOLOGY.surface == TOPOLOGY.code("endo")
    flat[:, inner] = flat[:, inner][:, :1]
    found = motion_scores(flat, subject, TOPOLOGY)
    assert np.isnan(found["GCS endo"]) and np.isnan(found["segments"])
    whole = motion_scores(subject.vertices, subject, TOPOLOGY)
    means, _ = mean_scores([found, whole])
    assert means["GCS endo"] == pytest.approx(0, abs=1e-9)
    assert means["GCS endo_undefined"] == means["segments_undefined"] == 1


def test_a_painted_ball_is_a_disc_and_hides_what_is_behind():
    vertices, faces = icosphere(3, radius=30.0)
    both = np.concatenate([vertices, vertices / 2 - [0, 60.0, 0]])
    code = np.repeat([0, 1], len(vertices)).astype(np.int32)
    topology = Topology.of(
        np.concatenate([faces, faces + len(vertices)]), len(both), code, ("a", "b")
    )
    # Up is z and the septum at +x, to the reader's left, so y is towards the reader.
    front, left = view_axes(np.array([0, 0, 1.0]), np.array([1.0, 0, 0]))
    np.testing.assert_allclose(front, [[-1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-12)
    for axes in (front, left):
        np.testing.assert_allclose(np.linalg.det(axes), 1)
    picture = painted(both[None], topology, left, side=200)[0]
    seen = (picture != BACKGROUND).any(-1)
    _, extent = box_of(both[None], left)
    scale = 0.88 * 200 / extent
    wanted = np.pi * (30**2 + 15**2) * scale**2
    assert seen.sum() == pytest.approx(wanted, rel=0.04)
    # From in front the small ball is behind the large one, from behind before it.
    ahead = painted(both[None], topology, front, side=200)[0]
    behind = painted(both[None], topology, front * [[-1], [1], [-1]], side=200)[0]
    large, small = (int(LABELS[i].argmax()) for i in (0, 1))
    assert ahead[100, 100].argmax() == large != small == behind[100, 100].argmax()


def test_sections_are_drawn_where_they_are():
    vertices, faces = icosphere(3, radius=30.0)
    ball = Topology.of(faces, len(vertices))
    plane = np.array([[-40.0, -40, 0], [0, 2, 0], [2, 0, 0]])
    drawn = contoured(
        np.zeros((41, 41)), plane, ball, [(vertices, COLOURS["truth"])], side=205
    )
    rows, columns = np.nonzero((drawn == COLOURS["truth"]).all(-1))
    # Five pixels of the picture for one of 2 mm; pixel 20 is the middle.
    radius = np.hypot(rows - 102, columns - 102) / 2.5
    assert len(rows) > 200 and np.abs(radius - 30).max() < 0.8
