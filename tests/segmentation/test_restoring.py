"""Label maps made plane by plane are those of all probabilities at once, to the bit."""

import numpy as np
import pytest

from medjax.data import volumes
from medjax.data.nifti import Volume
from medjax.data.volumes import Grid, Passage
from medjax.segmentation.labels import Labels, classes
from medjax.segmentation.preparation import Channel, Preparation, prepare
from medjax.segmentation.restoring import RunningLabels, restore

AFFINE = np.array(
    [[0, -1.0, 0, 40], [0, 0, 1.5, -20], [5.0, 0, 0, 7], [0, 0, 0, 1]], float
)
CLASSES = classes({"core": 1, "rim": 4, "far": 300})
REGIONS = Labels(
    (0, 1, 2, 4), ("whole", "core"), regions=((1, 2, 4), (1, 4)), painted=(2, 1)
)


def case_of(spacing, order):
    """Flipped and permuted axes, cropped on all sides, at another spacing."""
    image = np.zeros((9, 20, 16), np.float32)
    image[1:8, 3:17, 2:14] = 1 + np.random.default_rng(0).random((7, 14, 12))
    lengths = tuple(np.linalg.norm(AFFINE[:3, :3], axis=0).tolist())
    preparation = Preparation((Channel("x", "none"),), spacing, order)
    return prepare([Volume(image, AFFINE, lengths)], preparation, id="a")


def labels_of(case, order, labels, shares, edges):
    running = RunningLabels(case, order, labels)
    for low, high in zip((0, *edges), (*edges, len(shares)), strict=True):
        running.add(shares[low:high])
    return running.volume


@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize(
    "spacing, order",
    [
        ((None, None, None), (2, 0, 1)),
        ((0.7, 1.9, 3.1), (0, 1, 2)),
        ((1.6, 0.6, 8.0), (1, 2, 0)),
        ((1.3, 2.0, 2.2), (2, 1, 0)),
    ],
)
def test_planes_give_what_the_whole_gives(labels, spacing, order, monkeypatch):
    """However they come: one by one, in pieces, or all at once."""
    case = case_of(spacing, order)
    random = np.random.default_rng(1)
    shares = random.random((*case.image.shape[:3], labels.channels), np.float32)
    if not labels.regions:
        shares /= shares.sum(-1, keepdims=True)
    whole = restore(shares, case, order, outside=labels.nothing)
    expected = labels.write(whole.data)
    assert len(np.unique(expected)) == labels.channels + bool(labels.regions)
    depth = len(shares)
    for room in (1 << 22, 500):
        monkeypatch.setattr(volumes, "_SLAB", room)
        for edges in ((), range(1, depth), (depth // 3, depth // 3 + 1)):
            found = labels_of(case, order, labels, shares, edges)
            np.testing.assert_array_equal(found.data, expected)
            assert found.data.dtype == expected.dtype
            np.testing.assert_array_equal(found.affine, AFFINE)


def test_planes_of_grids_that_are_oblique_to_each_other_are_refused():
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    passage = Passage(Grid((4, 4, 4), np.eye(4)), Grid((4, 4, 4), turned), 0)
    with pytest.raises(ValueError, match="oblique"):
        next(passage.slabs(0, 4))
