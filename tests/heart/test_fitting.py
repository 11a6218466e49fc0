"""Where a fit begins: the phantom's mesh in the place and size of labels."""

import numpy as np
import pytest

from medjax.data.volumes import Grid
from medjax.heart.appearance import LABELS, heart_labels
from medjax.heart.clinical import label_volumes, mesh_volumes
from medjax.heart.exporting import anatomy_grid
from medjax.heart.fitting import FitConfig, template
from medjax.heart.phantom import cylindrical


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


def test_labels_without_a_wall_are_refused():
    labels = np.zeros((8, 8, 6), int)
    labels[3:5, 3:5, 2:4] = LABELS["lv"]
    with pytest.raises(ValueError, match="on 2 slices, expected 3"):
        template(labels, np.eye(4), FitConfig())
    labels[3:5, 3:5] = LABELS["lv"]
    with pytest.raises(ValueError, match="and muscle about it"):
        template(labels, np.eye(4), FitConfig())
