"""Scans of a data set as hearts to follow: places, frames, borders, what is kept."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.heart import motion_data, motion_trees
from medjax.heart.appearance import LABELS
from medjax.heart.cine import Cine
from medjax.heart.clinical import label_volumes, mesh_volumes
from medjax.heart.contours import sections, spread
from medjax.heart.datasets import SYSTOLE, Case, Labels, open_tree, places
from medjax.heart.fitting import FitConfig, Fitted, template
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


def test_a_heart_that_others_drew_lies_where_it_was(case, monkeypatch):
    """With its template in place of a fit, which has tests of its own."""

    def still(maps, affine, config):
        start, topology = template(maps[0], affine, config)
        return Fitted(np.stack([start] * len(maps)), topology, {})

    monkeypatch.setattr(motion_trees, "fit", still)
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


def test_too_many_slices_lose_those_far_from_the_heart(case):
    few = dataclasses.replace(SCAN, slices=6)
    labels = case.read_labels()
    images = np.zeros((2, 14 + 2, 48, 48), np.float32)
    planes = np.zeros((16, 3, 3), np.float32)
    planes[:, 1:] = [[2, 0, 0], [0, 2, 0]]
    planes[:14, 0, 2] = 5.0 * np.arange(14)
    cine = Cine(images, planes, np.ones(16, np.float32), np.zeros(2, np.float32))
    middle = np.array([[0.0, 0.0, 22.0]])
    flat = dataclasses.replace(labels, affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    kept, there = motion_trees._as_many(cine, few, flat, middle)
    np.testing.assert_allclose(kept.planes[:6, 0, 2], 5.0 * np.arange(2, 8))
    assert there.all() and kept.images.shape[1] == 8


def test_the_border_of_a_disc_is_its_circle():
    i, j = np.mgrid[:40, :40]
    disc = np.zeros((2, 40, 40), np.uint8)
    disc[0][np.hypot(i - 20, j - 18) < 12] = LABELS["myo"]
    disc[0][np.hypot(i - 20, j - 18) < 8] = LABELS["lv"]
    planes = np.tile(
        np.array([[0, 0, 0], [0, 2.0, 0], [1.5, 0, 0]], np.float32), (2, 1, 1)
    )
    found = borders(disc, planes, ("endo", "epi", "rv"), 30)
    np.testing.assert_array_equal(found.mask[0], [1] * 60 + [0] * 30)
    assert not found.mask[1].any()
    for k, radius in enumerate((8, 12)):
        points = found.points[0, 30 * k : 30 * (k + 1)] / [2.0, 1.5] - [20, 18]
        reach = np.linalg.norm(points, axis=1)
        assert reach.mean() == pytest.approx(radius, abs=0.3)
        assert np.abs(reach - radius).max() < 0.8
        # All around, in order.
        turn = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
        assert np.ptp(turn) > 5.5 and (np.diff(turn) > -0.2).all()


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
    assert data.fitted and (len(data.train), len(data.test)) == (2, 1)
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
