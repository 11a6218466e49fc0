"""Where a fit begins: the phantom's mesh in the place and size of labels."""

import dataclasses

import numpy as np
import pytest

from medjax.data.volumes import Grid
from medjax.heart import phantom_mesh
from medjax.heart.analysis import mesh_strain
from medjax.heart.appearance import LABELS, heart_labels
from medjax.heart.clinical import label_volumes, mesh_volumes
from medjax.heart.exporting import anatomy_grid
from medjax.heart.fitting import FitConfig, fit, template
from medjax.heart.meshes import Topology
from medjax.heart.phantom import cylindrical, make_heart


@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_mesh_lies_where_the_labels_lie(heart, reverse):
    grid = anatomy_grid((14, 32, 32), (8.0, 4.0, 4.0))
    affine = grid.affine[:, [2, 1, 0, 3]]
    if reverse:
        # Slices from base to apex, and a frame that is no mirror image of the first.
        affine = affine @ np.diag([1.0, -1.0, -1.0, 1.0])
        affine[:3, 3] = grid.affine[:3, 3] + grid.affine[:3, :2] @ [13, 31]
    labels = heart_labels(heart, np.zeros(1), Grid((32, 32, 14), affine), samples=1)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, [30.0, -20.0, 60.0]
    config = FitConfig(around=48, rings=32)
    vertices, topology = template(labels[0], pose @ affine, config)
    counted = label_volumes(labels, affine)
    meshed = mesh_volumes(vertices[None], topology, close=True)
    for name, volume in counted.items():
        assert meshed[name][0] == pytest.approx(volume[0], rel=0.02), name
    # Back in the heart's own frame the right ventricle is on its side, and the base up.
    own = (vertices - pose[:3, 3]) @ turn
    right = own[topology.surface == topology.code("rv")]
    inner = own[topology.surface == topology.code("endo")]
    assert np.hypot(*inner.mean(0)[:2]) < 3.0
    _, angle, _ = cylindrical(right.mean(0))
    assert abs(np.degrees(angle)) > 170
    assert abs(inner[:, 2].max() - heart.base) < 8.0
    assert abs(inner[:, 2].min() - heart.tip) < 8.0


def test_a_heart_that_ejects_much_is_found_to():
    """From one frame to the next, on a coarse mesh.

    Without moves of whole surfaces it is 13 points fewer, and the long axis hardly
    shortens.
    """
    times = np.array([0.0, 0.35])
    heart = make_heart(
        volume=150.0,
        mass=110.0,
        length=95.0,
        ejection_fraction=0.6,
        shortening=0.16,
        rv_volume=160.0,
    )
    grid = anatomy_grid((13, 24, 24), (9.0, 6.0, 6.0))
    affine = grid.affine[:, [2, 1, 0, 3]]
    labels = heart_labels(heart, times, Grid((24, 24, 13), affine), samples=1)
    loss = dataclasses.replace(FitConfig().loss, size=160)
    config = FitConfig(around=12, rings=8, first_steps=20, steps=30, loss=loss)
    found = fit(labels, affine, config)
    counted = label_volumes(labels, affine)["lv"]
    meshed = mesh_volumes(found.vertices, found.topology, close=True)["lv"]
    ejected, told = (1 - v[1] / v[0] for v in (counted, meshed))
    assert told == pytest.approx(ejected, abs=0.03)
    strain = mesh_strain(found.vertices, found.topology, diastole=0, systole=1)
    mesh = phantom_mesh.moving_mesh(heart, times, (16, 10), right=True)
    topology = Topology.of(
        mesh.faces, len(mesh.vertices[0]), mesh.surface, phantom_mesh.SURFACES
    )
    truth = mesh_strain(mesh.vertices, topology, diastole=0, systole=1)
    for name in ("GLS endo", "GCS endo"):
        true, fitted = (s.curves[name].end_systolic for s in (truth, strain))
        assert fitted == pytest.approx(true, abs=0.05), name


def test_labels_without_a_wall_are_refused():
    labels = np.zeros((8, 8, 6), int)
    labels[3:5, 3:5, 2:4] = LABELS["lv"]
    with pytest.raises(ValueError, match="on 2 slices, expected 3"):
        template(labels, np.eye(4), FitConfig())
    labels[3:5, 3:5] = LABELS["lv"]
    with pytest.raises(ValueError, match="and muscle about it"):
        template(labels, np.eye(4), FitConfig())
