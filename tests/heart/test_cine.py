"""Anyone's scan on the pixels of a run: where it was, turned as the phantom's are."""

import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.heart.cine import prepare
from medjax.heart.motion_data import mesh_of
from medjax.heart.scanning import ScanConfig

SCAN = ScanConfig(size=20, spacing=6.0, slices=4, gap=20.0)
TOPOLOGY, MEAN = mesh_of((12, 8), right=True)
FRAMES = 3
# The world of the scanner: the heart turned and moved.
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
TURN *= np.sign(np.linalg.det(TURN))
SHIFT = np.array([30.0, -80.0, 140.0])
VERTICES = MEAN @ TURN.T + SHIFT


def ramp(points: np.ndarray) -> np.ndarray:
    """What a scan sees: linear in the heart's own x, y and z."""
    own = (points - SHIFT) @ TURN
    return own @ [1.0, 10.0, 100.0]


def scanned(origin, steps, shape, *, flip=False) -> Volume:
    """A volume of the ramp on a grid given in the heart's frame, brighter by frame."""
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.transpose(steps)
    affine[:3, 3] = TURN @ origin + SHIFT
    if flip:
        affine[:3, 3] += (shape[2] - 1) * affine[:3, 2]
        affine[:3, 2] *= -1
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    values = ramp(index @ affine[:3, :3].T + affine[:3, 3])
    data = np.stack([values + 1000 * t for t in range(FRAMES)], -1)
    return Volume(data.astype(np.float32), affine, (1.0, 1.0, 1.0), 0.05)


SAX = {
    "origin": np.array([-90.0, -90.0, 5.0]),
    # Rows along x, columns along y: not as the phantom's, and unequal.
    "steps": np.array([[4.0, 0, 0], [0, 5.0, 0], [0, 0, 15.0]]),
    "shape": (50, 40, 6),
}


@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_of_where_their_planes_say(flip):
    view = scanned(
        np.array([-90.0, 3.0, -30.0]),
        np.array([[4.0, 0, 0], [0, 0, 4.0], [0, 6.0, 0]]),
        (50, 50, 1),
    )
    found = prepare(
        scanned(**SAX, flip=flip), {"4ch": view}, VERTICES, TOPOLOGY, SCAN, diastole=1
    )
    assert found.images.shape == (3, 8, 20, 20)
    index = np.stack(np.meshgrid(*[np.arange(20.0)] * 2, indexing="ij"), -1)
    for p, plane in enumerate(found.planes.astype(float)):
        at = plane[0] + index[..., :1] * plane[1] + index[..., 1:] * plane[2]
        seen, wanted = found.images[:, p], ramp(at)
        inside = seen[0] != 0
        if p == 6:  # there is no 2CH view
            assert not inside.any() and found.mask[p] == 0
            continue
        assert inside.mean() > 0.5 and found.mask[p] == 1
        # End-diastole, frame 1, comes first; then 2 and 0.
        for t, bright in enumerate((1000, 2000, 0)):
            gap = np.abs(seen[t] - wanted - bright)[inside]
            assert gap.max() < 0.05
    np.testing.assert_allclose(found.times, [0, 1 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_turned_as_the_phantoms(flip):
    """Rows towards the back, columns from septum to lateral, slices apex to base."""
    found = prepare(scanned(**SAX, flip=flip), {}, VERTICES, TOPOLOGY, SCAN)
    own = found.planes[:6].astype(float)
    own[:, 0] -= SHIFT
    own = own @ TURN
    np.testing.assert_allclose(own[:, 1:], [[[0, -6, 0], [-6, 0, 0]]] * 6, atol=0.6)
    assert np.all(np.diff(own[:, 0, 2]) > 14.9)
    # A step of a stack that has another number of slices keeps their places.
    np.testing.assert_allclose(own[:, 0, 2], 5 + 15 * np.arange(6), atol=1e-3)


def test_a_stack_is_brought_to_as_many_slices_as_channels():
    found = prepare(scanned(**SAX), {}, VERTICES, TOPOLOGY, SCAN, resliced=True)
    assert found.images.shape[1] == 4 + 2
    steps = np.diff(found.planes[:4, 0], axis=0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 20.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"vertices": VERTICES + 900.0}, DataError, "no short-axis image is where"),
        ({"views": {"3ch": scanned(**SAX)}}, ValueError, "views .'3ch'.: expected"),
        ({"views": {"2ch": scanned(**SAX)}}, DataError, "2ch: 6 slices, expected one"),
        ({"diastole": 3}, ValueError, "diastole is frame 3, expected 0 to 2"),
    ],
)
def test_what_does_not_fit_is_named(change, error, told):
    given = {"views": {}, "vertices": VERTICES, "diastole": 0} | change
    with pytest.raises(error, match=told):
        prepare(
            scanned(**SAX),
            given["views"],
            given["vertices"],
            TOPOLOGY,
            SCAN,
            diastole=given["diastole"],
        )
