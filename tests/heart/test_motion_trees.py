"""Scans of a data set as hearts to follow: places, frames, borders, what is kept."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.volumes import Grid, resample
from medjax.heart import motion_data, motion_trees
from medjax.heart.appearance import LABELS
from medjax.heart.cine import Cine
from medjax.heart.clinical import label_volumes, mesh_volumes
from medjax.heart.contours import sections, spread
from medjax.heart.datasets import Case, labelled, open_tree
from medjax.heart.fitting import FitConfig, Fitted, template
from medjax.heart.label_maps import SYSTOLE, Labels, places
from medjax.heart.meshes import unit
from medjax.heart.motion_data import MotionDataConfig, mesh_of, open_motion
from medjax.heart.motion_scores import contour_errors
from medjax.heart.motion_trees import borders, labelled_frames, read_subject
from medjax.heart.scanning import ScanConfig
from medjax.metrics.surface import nearest

SCAN = ScanConfig(frames=2, size=48, spacing=2.0, slices=16)
FIT = FitConfig(16, 10)


@pytest.fixture(scope="module")
def swine(shared_data, tmp_path_factory) -> Path:
    """A tree of one heart, as ``ukbb_cardiac`` leaves it."""
    root = tmp_path_factory.mktemp("ukb")
    (root / "swine").mkdir()
    for name in ("sa.nii.gz", "seg_sa.nii.gz"):
        shutil.copy(shared_data / "heart" / "ep_dataset" / name, root / "swine")
    return root


@pytest.fixture(scope="module")
def case(swine) -> Case:
    (case,) = open_tree(swine, "ukb")
    return case


@pytest.fixture
def still(monkeypatch):
    """Templates in place of fits, which have tests of their own."""

    def start(maps, affine, config):
        vertices, topology = template(maps[0], affine, config)
        return Fitted(np.stack([vertices] * len(maps)), topology, {})

    monkeypatch.setattr(motion_trees, "fit", start)


def test_a_heart_that_others_drew_lies_where_it_was(case, still):
    labels = case.read_labels()
    subject = read_subject(case, SCAN, FIT, points=64, right=False)
    assert subject.images.shape == (2, 16 + 2, 48, 48)
    # It has 14 slices; two that are missing, and both views, are masked.
    np.testing.assert_array_equal(subject.plane_mask, [1] * 14 + [0] * 4)
    np.testing.assert_array_equal(subject.label_mask, [1] * 14 + [0] * 4)
    np.testing.assert_allclose(subject.times, [0, 0.5])
    topology, _ = mesh_of((16, 10), right=False)
    found = mesh_volumes(np.asarray(subject.vertices, float), topology, close=True)
    wanted = label_volumes(labels.data[[0, 10]], labels.affine)
    for name in ("lv", "myo"):
        np.testing.assert_allclose(found[name][0], wanted[name][0], rtol=0.04)
    for t, frame in enumerate((0, 10)):
        for name, code in LABELS.items():
            if name == "rv":
                continue
            p, i, j = np.nonzero(subject.labels[t] == code)
            origin, rows, columns = np.moveaxis(subject.planes[p], 1, 0)
            here = origin + i[:, None] * rows + j[:, None] * columns
            there = places(labels.data[frame] == code, labels.affine)
            np.testing.assert_allclose(here.mean(0), there.mean(0), atol=0.3)
            volume = len(here) * 2.0**2 * 5.0 / 1000
            assert volume == pytest.approx(wanted[name][t], rel=0.03)
    # Slices go from apex to base: the cavity grows.
    areas = (subject.labels[0] == LABELS["lv"]).sum((1, 2))[:14]
    assert areas[:7].sum() < areas[7:].sum()
    # Borders of labels are where the mesh's sections are.
    for p in range(2, 12):
        mine = spread(sections(subject.vertices[0], topology, subject.planes[p])[0], 99)
        seen = subject.contours[0, p][subject.contour_mask[0, p] > 0]
        assert nearest(seen, mine).mean() < 3.0


def test_a_view_is_learned_from_where_four_chambers_are_labelled(
    swine, tmp_path, still
):
    """A view cut out of the stack's own labels, its upper end an atrium."""
    folder = shutil.copytree(swine / "swine", tmp_path / "one")
    labels = nifti.read_labels(folder / "seg_sa.nii.gz", ndim=4)
    i, j, _ = np.argwhere(labels.data[..., 0] == 1).mean(0)
    affine = np.eye(4)
    # Rows along the slices' normal, columns along the stack's first axis.
    affine[:3, 0] = unit(labels.affine[:3, 2]) * 2.0
    affine[:3, 1] = unit(labels.affine[:3, 0]) * 2.0
    affine[:3, 2] = unit(labels.affine[:3, 1]) * 6.0
    affine[:3, 3] = labels.affine[:3] @ [i, j, 0, 1] - 40 * affine[:3, 1]
    grid = Grid((33, 81, 1), affine)
    cut = resample(labels, grid, interpolation="labels").data
    seen = cut.astype(np.float32)
    four = np.where((cut == 0) & (np.arange(33) > 25)[:, None, None, None], 4, cut)
    for name, data in (("la_4ch", seen), ("la_2ch", seen), ("seg4_la_4ch", four)):
        nifti.write(folder / f"{name}.nii.gz", data, affine=affine, time_step=0.05)
    atria = np.ones_like(cut)
    nifti.write(folder / "seg_la_2ch.nii.gz", atria, affine=affine, time_step=0.05)
    (case,) = open_tree(tmp_path, "ukb")
    subject = read_subject(case, SCAN, FIT, points=64, right=False)
    np.testing.assert_array_equal(subject.plane_mask[-2:], [1, 1])
    np.testing.assert_array_equal(subject.label_mask[-2:], [0, 1])
    assert not subject.labels[:, -2].any() and not subject.contour_mask[:, -2].any()
    # Images are of the labels here, and lie on the same plane.
    known = subject.labels[:, -1] > 0
    gap = np.abs(subject.images[:, -1] - subject.labels[:, -1])[known]
    assert known.sum() > 100 and np.median(gap) < 0.05
    # The cavity's border is on muscle, not across the base.
    points = subject.contours[0, -1][subject.contour_mask[0, -1] > 0] / SCAN.spacing
    muscle = np.argwhere(subject.labels[0, -1] == LABELS["myo"]) + 0.0
    assert len(points) and nearest(points, muscle).max() < 0.51
    none = dataclasses.replace(case, view_labels={"4ch": folder / "seg_sa.nii.gz"})
    with pytest.raises(DataError, match="frame 19 is labelled, sa.nii.gz has 3"):
        motion_trees._view_maps(none, "4ch", [0, 1], 3, right=False)


def test_people_without_label_maps_are_counted(case, capsys):
    bare = dataclasses.replace(case, name="bare", labels={})
    assert labelled([case, bare], Path("here")) == [case]
    assert "people with label maps: kept 1 (dropped 1)" in capsys.readouterr().out
    with pytest.raises(DataError, match="here: 1 people, none of them with label maps"):
        labelled([bare], Path("here"))


@pytest.mark.parametrize(
    ("held", "slices", "kept", "said"),
    [
        ((2, 11), 10, (2, 11), ""),
        # Labels on fewer slices are all kept, wherever in the stack they are.
        ((8, 13), 7, (7, 13), ""),
        ((0, 3), 5, (0, 4), ""),
        ((2, 11), 6, (4, 9), "one: of 10 slices with labels 4 are beyond the 6"),
    ],
)
def test_slices_that_are_kept_are_those_with_labels(held, slices, kept, said, capsys):
    few = dataclasses.replace(SCAN, slices=slices)
    images = np.zeros((2, 14 + 2, 48, 48), np.float32)
    planes = np.zeros((16, 3, 3), np.float32)
    planes[:, 1:] = [[2, 0, 0], [0, 2, 0]]
    planes[:14, 0, 2] = 5.0 * np.arange(14)
    cine = Cine(images, planes, np.ones(16, np.float32), np.zeros(2, np.float32))
    data = np.zeros((2, 4, 4, 14), np.int32)
    data[..., held[0] : held[1] + 1] = LABELS["myo"]
    labels = Labels(data, (0, 1), np.diag([1.0, 1.0, 5.0, 1.0]))
    found, there = motion_trees._as_many(cine, few, labels, "one")
    first, last = kept
    np.testing.assert_allclose(
        found.planes[:-2, 0, 2], 5.0 * np.arange(first, last + 1)
    )
    assert there.all() and found.images.shape[1] == slices + 2
    out = capsys.readouterr().out
    assert said in out if said else not out


@pytest.mark.parametrize("outer", [12, 9])
def test_the_border_of_a_disc_is_its_circle(outer):
    """With a wall of four pixels, and of one: its two surfaces stay two."""
    i, j = np.mgrid[:40, :40]
    disc = np.zeros((2, 40, 40), np.uint8)
    disc[0][np.hypot(i - 20, j - 18) < outer] = LABELS["myo"]
    disc[0][np.hypot(i - 20, j - 18) < 8] = LABELS["lv"]
    planes = np.tile(
        np.array([[0, 0, 0], [0, 2.0, 0], [1.5, 0, 0]], np.float32), (2, 1, 1)
    )
    found = borders(disc, planes, ("endo", "epi", "rv"), 30)
    np.testing.assert_array_equal(found.mask[0], [1] * 60 + [0] * 30)
    assert not found.mask[1].any()
    for k, radius in enumerate((8, outer)):
        points = found.points[0, 30 * k : 30 * (k + 1)] / [2.0, 1.5] - [20, 18]
        reach = np.linalg.norm(points, axis=1)
        assert reach.mean() == pytest.approx(radius, abs=0.3)
        assert np.abs(reach - radius).max() < 0.8
        # All around, in order.
        turn = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
        assert np.ptp(turn) > 5.5 and (np.diff(turn) > -0.2).all()
    # As a view along the heart, open where there is no wall above the cavity's middle.
    disc[0, :20][disc[0, :20] == LABELS["myo"]] = 0
    found = borders(disc[:1], planes[:1], ("endo", "epi"), 30, views=1)
    assert found.mask.all()
    rows = found.points[0, :, 0] / 2.0
    assert rows.min() > 18 and rows.max() == pytest.approx(20 + outer, abs=0.8)


def test_frames_are_those_with_labels_from_end_diastole_on(tmp_path):
    case = Case("one", "acdc", tmp_path / "one.nii.gz", {}, diastole=3)
    empty = np.zeros((12, 2, 2, 2), np.int32)
    ends = Labels(empty[:2], (3, 9), np.eye(4))
    assert labelled_frames(case, ends, 2) == [3, 9]
    every = Labels(empty, tuple(range(12)), np.eye(4))
    assert labelled_frames(case, every, 4) == [3, 6, 9, 0]
    refused = {
        "labels of 2 frames, data.scan.frames is 4": (ends, 4),
        "labels of 12 frames, data.scan.frames is 13": (every, 13),
        "nothing says which frame of one.nii.gz": (
            Labels(empty[:2], (0, SYSTOLE), np.eye(4)),
            2,
        ),
    }
    for message, (labels, wanted) in refused.items():
        with pytest.raises(DataError, match=message):
            labelled_frames(case, labels, wanted)


def test_a_heart_without_a_right_ventricle_says_what_to_do(case):
    with pytest.raises(
        DataError, match=r"swine: .*no right ventricle; --data.no-right"
    ):
        read_subject(case, SCAN, FIT, points=8, right=True)


def test_a_tree_is_read_once_and_again_where_a_file_has_changed(
    swine, tmp_path, monkeypatch
):
    root = tmp_path / "tree"
    for name in ("a", "b", "c"):
        shutil.copytree(swine / "swine", root / name)
    made = []

    def read(case, scan, config, *, points, right, resliced):
        made.append((case.name, resliced, config.around, points))
        phantom = MotionDataConfig(scan=scan, right=right, contour_points=points // 4)
        return motion_data.draw_subject(phantom, 1, len(made))

    monkeypatch.setattr(motion_data, "read_subject", read)
    config = MotionDataConfig(
        root=root, format="ukb", right=False, test_people=1, contour_points=4,
        scan=dataclasses.replace(SCAN, size=16, slices=3, spacing=6.0),
    )  # fmt: skip
    data = open_motion(config, tmp_path)
    assert data.truth == "meshes fitted to labels"
    assert (len(data.train), len(data.test)) == (2, 1)
    assert data.name == f"2 hearts of {root} (ukb)"
    assert made == [(name, False, 16, 16) for name in "abc"]
    open_motion(config, tmp_path)
    assert len(made) == 3
    os.utime(root / "b" / "seg_sa.nii.gz", ns=(1, 1))
    open_motion(config, tmp_path)
    assert [one[0] for one in made[3:]] == ["b"]
    open_motion(config, tmp_path, resliced=True)
    assert [one[1] for one in made[4:]] == [True] * 3
    with pytest.raises(ValueError, match="test-people is 3 of 3 people"):
        open_motion(dataclasses.replace(config, test_people=3), tmp_path)
    with pytest.raises(ValueError, match="a tree needs both"):
        open_motion(dataclasses.replace(config, root=None), tmp_path)


def test_a_view_without_labels_has_no_score():
    config = MotionDataConfig(scan=SCAN, right=False, contour_points=8)
    subject = motion_data.draw_subject(config, 1, 0)
    topology, _ = mesh_of(config.mesh, right=False)
    known = contour_errors(np.asarray(subject.vertices), subject, topology, 1)
    assert all(np.isfinite(list(known[view].values())).all() for view in known)
    mask = np.array(subject.label_mask)
    mask[-2:] = 0
    blind = subject._replace(label_mask=mask)
    found = contour_errors(np.asarray(subject.vertices), blind, topology, 1)
    assert found["sax"] == known["sax"]
    assert np.isnan(list(found["2ch"].values())).all()
