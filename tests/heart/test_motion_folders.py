"""DeepMesh's folders as hearts to follow, of a ventricle whose shape is a formula."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments.deepmesh
import experiments.graph_motion
from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.heart import motion_data
from medjax.heart.appearance import LABELS
from medjax.heart.deepmesh import CONFIGS, plane_distance
from medjax.heart.exporting import _contours
from medjax.heart.motion_data import MotionDataConfig, open_motion
from medjax.heart.motion_folders import filled
from medjax.heart.motion_report import show
from medjax.heart.motion_systems import Follower, build
from medjax.heart.scanning import ScanConfig
from medjax.heart.tracking import evaluate, learned, run
from medjax.heart.trees import DEPTHS
from tests.heart.shapes import ventricle

SIZE, DEPTH, SPACING, GAP = 40, 32, 2.0, 2.5
STROKE = (1.0, 0.8, 0.9)
"""Of the ventricle in each frame, of its size at end-diastole."""
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
TURN *= np.sign(np.linalg.det(TURN))
SHIFT = np.array([30.0, -80.0, 140.0])
SCAN = ScanConfig(frames=3, size=SIZE, spacing=SPACING, slices=DEPTH, gap=GAP)
VIEWS = {
    # Middle, rows, columns, slices, in the heart's frame: apex down, base at z = 0.
    "sa": ((0, 0, -37.5), (0, -1, 0), (-1, 0, 0), DEPTH),
    "2ch": ((0, 0, -33), (0, 0, -1), (0, -1, 0), 1),
    "4ch": ((0, 0, -33), (0, 0, -1), (-1, 0, 0), 1),
}


def grid_of(view: str) -> np.ndarray:
    """The affine of a view's arrays, in the heart's frame."""
    middle, rows, columns, count = VIEWS[view]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = SPACING * np.array([rows, columns])
    affine[:3, 2] = np.cross(columns, rows) * (8.0 if count == 1 else GAP)
    half = np.array([0.5 * (SIZE - 1)] * 2 + [0.5 * (count - 1)])
    affine[:3, 3] = np.array(middle) - affine[:3, :3] @ half
    return affine


def drawn(view: str, size: float) -> np.ndarray:
    """Label maps, h w d: the ventricle of :func:`tests.heart.shapes.ventricle`."""
    affine, count = grid_of(view), VIEWS[view][3]
    index = np.moveaxis(np.indices((SIZE, SIZE, count)), 0, -1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0) / size
    inside = [
        np.hypot(x / r, np.hypot(y / r, z / d)) < 1 for r, d in ((20, 60), (30, 68))
    ]
    labels = np.select(inside, [LABELS["lv"], LABELS["myo"]], 0)
    return np.where(z < 0, labels, 0).astype(np.int32)


def met(view: str) -> np.ndarray:
    """Voxels with a vertex in them, h w d."""
    inverse = np.linalg.inv(grid_of(view))
    shape = (SIZE, SIZE, VIEWS[view][3])
    at = np.rint(ventricle()[0] @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    found = np.zeros(shape, bool)
    found[tuple(at[np.all((at >= 0) & (at < shape), axis=1)].T)] = True
    return found


def written(folder, *, upside_down=False) -> None:
    """A subject's folder; perhaps with its slices from base to apex."""
    folder.mkdir(parents=True)
    affines, origins = {}, {}
    for view, key in (("sa", "sa"), ("2ch", "la2ch"), ("4ch", "la4ch")):
        affine = np.eye(4)
        affine[:3] = TURN @ grid_of(view)[:3]
        affine[:3, 3] += SHIFT
        labels = np.stack([drawn(view, size) for size in STROKE])
        projected = met(view) if view == "sa" else met(view)[..., 0]
        if upside_down and view == "sa":
            affine[:3, 3] += (DEPTH - 1) * affine[:3, 2]
            affine[:3, 2] *= -1
            labels, projected = labels[..., ::-1], projected[..., ::-1]
        rows = np.rint(DEPTHS * DEPTH).astype(int) if view == "sa" else [0]
        stack = np.moveaxis(labels, 3, 1)
        np.save(folder / f"contour_{view}.npy", _contours(stack[:, rows]))
        cine = np.moveaxis(labels, 0, -1).astype(np.float32)
        nifti.write(folder / f"{view}_img.nii.gz", cine, affine=affine)
        np.save(folder / f"proj_mesh_{view.upper()}.npy", projected)
        origin = np.array([7, 11, 4])
        affine[:3, 3] -= affine[:3, :3] @ origin
        affines[key], origins[key] = affine, origin
    np.savez(folder / "affine.npz", **affines)
    np.savez(folder / "origin.npz", **origins)
    vertices, faces, _ = ventricle()
    for name in ("vertices_init_myo_ED_smooth", "vertices_resampled_ED"):
        np.save(folder / f"{name}.npy", vertices @ TURN.T + SHIFT)
    np.save(folder / "faces_init_myo_ED.npy", faces[:, ::-1])


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("deepmesh") / "tree"
    written(root / "0001")
    written(root / "0002", upside_down=True)
    return root


@pytest.fixture(scope="module")
def config(tree):
    return MotionDataConfig(
        root=tree, format="deepmesh", scan=SCAN, right=False, test_people=1
    )


@pytest.fixture(scope="module")
def data(config, tmp_path_factory):
    return open_motion(config, tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("view", ["sa", "2ch", "4ch"])
def test_contours_enclose_what_they_were_drawn_around(view):
    labels = np.moveaxis(drawn(view, 1.0), 2, 0)
    border = _contours(labels[None])[..., 0]
    for k, wanted in enumerate(labels):
        found = filled(border[:, :, k], open_base=view != "sa")
        # Where the base is cut off the cavity ends on a straight line.
        np.testing.assert_array_equal(found, wanted)


def test_a_folder_is_a_heart_to_follow(data):
    assert data.truth == "contours" and data.topology.names == ("endo", "epi")
    assert [len(data.train), len(data.test)] == [1, 1]
    one, other = data.train[0], data.test[0]
    wanted = np.zeros(DEPTH + 2)
    wanted[[*np.rint(DEPTHS * DEPTH).astype(int), DEPTH, DEPTH + 1]] = 1
    np.testing.assert_array_equal(one.label_mask, wanted)
    assert one.plane_mask.all() and not one.followed and one.emptiest == 1
    np.testing.assert_allclose(one.times, [0, 1 / 3, 2 / 3], rtol=1e-6)
    assert np.isfinite(one.vertices[0]).all() and np.isnan(one.vertices[1:]).all()
    # What is on a plane with labels is what its image shows there.
    for each in (one, other):
        known = each.label_mask > 0
        np.testing.assert_array_equal(each.labels[:, known], each.images[:, known])
    known = one.label_mask > 0
    for t, size in enumerate(STROKE):
        for p in np.flatnonzero(known):
            there = one.contour_mask[t, p] > 0
            steps = np.asarray(one.planes[p], float)
            axes = steps[1:] / np.linalg.norm(steps[1:], axis=1, keepdims=True)
            at = (one.contours[t, p] @ axes + steps[0] - SHIFT) @ TURN / size
            for code, (r, d) in enumerate(((20, 60), (30, 68))):
                x, y, z = at[there & (one.contour_surface[p] == code)].T
                away = r * (np.hypot(x / r, np.hypot(y / r, z / d)) - 1)
                below = z < -0.1 * d  # above, a view's rim is cut
                assert np.abs(away[below]).max(initial=0) < 1.6, (t, p, code)
    # Slices from base to apex are put the other way round, with what is on them.
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_allclose(one.planes, other.planes, atol=1e-3)
    steps = np.diff(np.asarray(one.planes[:DEPTH, 0], float), axis=0) @ TURN
    np.testing.assert_allclose(steps, [[0, 0, GAP]] * (DEPTH - 1), atol=1e-3)


def test_pixels_that_the_true_mesh_meets_are_what_the_first_stage_is_told(data):
    one, other = data.train[0], data.test[0]
    vertices = np.asarray(one.vertices[0], float)
    for p, planes in enumerate(one.planes):
        steps = np.asarray(planes, float)
        axes = steps[1:] / np.linalg.norm(steps[1:], axis=1, keepdims=True)
        at = one.projected[p][one.projected_mask[p] > 0]
        view = {DEPTH: "2ch", DEPTH + 1: "4ch"}.get(p, "sa")
        assert len(at) == met(view)[:, :, p if view == "sa" else 0].sum()
        if len(at):
            away = np.linalg.norm((at @ axes + steps[0])[:, None] - vertices, axis=-1)
            # Within half a voxel along every axis.
            thick = 4.0 if p >= DEPTH else GAP / 2
            assert away.min(1).max() <= np.hypot(thick, np.hypot(1, 1)) + 1e-3
    np.testing.assert_allclose(other.projected[:DEPTH], one.projected[:DEPTH])
    # The last slice of the files, which may be the first of ours.
    assert np.flatnonzero(one.projected_planes == 0) == [DEPTH - 1]
    assert np.flatnonzero(other.projected_planes == 0) == [0]
    example = one.example(1)
    config = dataclasses.replace(CONFIGS["repo"], within=2.5)
    away = functools.partial(plane_distance, frame=0, slices=DEPTH, config=config)

    def distance(shift, **changes):
        given = {k: jnp.asarray(v) for k, v in {**example, **changes}.items()}
        return float(jax.jit(lambda x: away(x, given)[0])(given["vertices_ed"] + shift))

    there = distance(0.0)
    assert there < 0.5 * distance(5.0)
    # Contours do not enter, nor does the last slice.
    noise = {"contours": 9 * example["contours"], "label_mask": 0 * one.label_mask}
    mask = one.projected_mask * (np.arange(DEPTH + 2) != DEPTH - 1)[:, None]
    assert distance(0.0, **noise, projected_mask=mask.astype(np.float32)) == there
    door = experiments.deepmesh.PRESETS["repo"]
    assert not dataclasses.asdict(learned(door))["projections"]
    tree = dataclasses.replace(door.data, format="deepmesh", right=False)
    there_too = learned(dataclasses.replace(door, data=tree))
    assert dataclasses.asdict(there_too)["projections"]
    fields = build(
        dataclasses.replace(config, stage="ed"), data.topology, data.reference
    ).fields
    assert {"projected", "projected_mask", "projected_planes"} <= set(fields)


def test_folders_are_read_once_and_kept(config, tmp_path, monkeypatch):
    open_motion(config, tmp_path)
    monkeypatch.setattr(motion_data, "read_folder", lambda *_, **__: 1 / 0)
    again = open_motion(config, tmp_path)
    assert again.topology.count == len(again.reference) == len(ventricle()[0])
    # A file that is another one is read again.
    path = config.root / "0002" / "contour_2ch.npy"
    os.utime(path, ns=(1, 1))
    with pytest.raises(ZeroDivisionError):
        open_motion(config, tmp_path)


def test_what_stays_still_is_scored_by_contours_alone(data, config, tmp_path):
    class Still(Follower):
        """Leaves every mesh where it is."""

        def __init__(self):
            pass

        def start(self, example):
            return example["vertices_ed"]

        def follow(self, examples):
            return np.stack([one["vertices_ed"] for one in examples])

    door = dataclasses.replace(experiments.graph_motion.TINY, data=config)
    results, shown = evaluate(Still(), data, door)
    still, ours = results["tracking"]
    assert results["truth"] == "contours" and np.isnan(ours["vertex"])
    assert still["vertex_ed"] == 0
    (sax,) = [r for r in results["contours"][3:] if r["view"] == "sax"]
    # The walls are 20 and 30 mm from the middle, and a fifth nearer at end-systole.
    assert 3 < sax["contour"] < 6 and 0.3 < sax["dice"] < 0.8
    page = show(tmp_path, results | {"parameters": 0}, shown, title="still")
    text = page.read_text()
    assert "vertices, volumes and strain have no scores" in text
    assert f"without motion: {sax['contour']:.2f}" in text and "NaN" not in text
    assert text.count("<img") == 7


def test_folders_that_do_not_fit_the_run_are_refused(config, tree, tmp_path):
    def refused(error, match, **changes):
        with pytest.raises(error, match=match):
            open_motion(dataclasses.replace(config, **changes), tmp_path)

    scan = dataclasses.replace
    refused(ValueError, "--data.no-right", right=True)
    refused(DataError, r"\(40, 40, 32, 3\), expected", scan=scan(SCAN, slices=9))
    refused(DataError, "2 x 2 x 2.5 mm, expected", scan=scan(SCAN, spacing=1.25))
    refused(DataError, "holds no subject of DeepMesh", root=tree.parent)
    door = experiments.graph_motion.TINY
    loss = dataclasses.replace(door.system.loss, supervision="both")
    system = dataclasses.replace(door.system, loss=loss, steps=(1,))
    with pytest.raises(ValueError, match="'deepmesh' says nothing"):
        run(dataclasses.replace(door, data=config, system=system, workdir=tmp_path))
    for name in ("0001", "0002"):
        written(tmp_path / "open" / name)
    cut = tmp_path / "open" / "0002" / "proj_mesh_2CH.npy"
    whole = np.load(cut)
    np.save(cut, whole[1:])
    refused(DataError, r"a projected mesh of \(39, 40\)", root=tmp_path / "open")
    np.save(cut, whole)
    path = tmp_path / "open" / "0001" / "contour_sa.npy"
    contour = np.load(path)
    contour[SIZE // 2 :] = 0
    np.save(path, contour)
    refused(DataError, "are they closed", root=tmp_path / "open")
