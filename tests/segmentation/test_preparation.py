"""Cases go to the network's grid and come back to their own."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.segmentation.labels import Labels, classes
from medjax.segmentation.preparation import (
    Channel,
    Preparation,
    normalise,
    prepare,
    target_grid,
)
from medjax.segmentation.restoring import RunningLabels, restore
from medjax.segmentation.uncertainty import entropy, mutual_information

RNG = np.random.default_rng(0)
LABELS = classes({"core": 1, "rim": 4})
# Flipped and permuted axes, thick slices along the first one.
AFFINE = np.array(
    [[0, -1.0, 0, 40], [0, 0, 1.5, -20], [5.0, 0, 0, 7], [0, 0, 0, 1]], float
)
PREPARATION = Preparation((Channel("FLAIR"),), (1.0, 1.5, 5.0))


def volume(data, affine=AFFINE):
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Volume(data, affine, tuple(spacing.tolist()))


def restored(scores, case, order, labels):
    running = RunningLabels(case, order, labels)
    running.add(scores)
    return running.volume


def scene():
    image = np.zeros((6, 20, 16), np.float32)
    image[1:5, 3:17, 2:14] = RNG.normal(5, 2, (4, 14, 12)).clip(0.1)
    label = np.zeros((6, 20, 16), np.int32)
    label[2:4, 5:12, 4:10], label[3, 6:9, 5:8] = 4, 1
    return volume(image), volume(label)


IMAGE, LABEL = scene()


def test_what_was_only_turned_and_cropped_comes_back_exactly():
    case = prepare([IMAGE], PREPARATION, id="a", label=LABEL, labels=LABELS)
    assert case.image.shape == (4, 14, 12, 1) == (*case.label.shape, 1)
    assert case.image.mean() == pytest.approx(0, abs=1e-5)
    assert case.image.std() == pytest.approx(1, rel=1e-5)
    scores = np.eye(3, dtype=np.float32)[case.label]
    back = restored(scores, case, PREPARATION.order, LABELS)
    np.testing.assert_array_equal(back.data, LABEL.data)
    np.testing.assert_allclose(back.affine, AFFINE)
    assert back.data.dtype == np.uint8
    maps = restore(case.image, case, PREPARATION.order, outside=(-9.0,))
    inside = IMAGE.data > 0
    scaled = (IMAGE.data - IMAGE.data[inside].mean()) / IMAGE.data[inside].std()
    np.testing.assert_allclose(maps.data[..., 0][inside], scaled[inside], atol=1e-4)
    assert (maps.data[..., 0][~inside] == -9).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.5, 5.0), (2.0, 1.5, 5.0)])
def test_every_channel_lies_where_the_first_does(spacing):
    """With the voxel size that they have, and with another."""
    both = Preparation((Channel("T1"), Channel("T2")), spacing)
    twice = prepare([IMAGE, IMAGE], both, id="a").image
    once = prepare([IMAGE], dataclasses.replace(PREPARATION, spacing=spacing), id="a")
    np.testing.assert_array_equal(twice, np.repeat(once.image, 2, axis=-1))


def test_another_voxel_size_and_back():
    """A ball keeps its volume in mL on either grid."""
    grid = np.indices((30, 30, 30)) - 14.5
    ball = (np.linalg.norm(grid, axis=0) < 9).astype(np.int32)
    image = volume(ball + np.float32(1), np.eye(4))
    preparation = Preparation((Channel("x", "none"),), (1.5, 2.0, 0.8), (1, 0, 2))
    found = prepare(
        [image],
        preparation,
        id="a",
        label=volume(ball, np.eye(4)),
        labels=classes({"ball": 1}),
    )
    assert found.image.shape == (15, 20, 38, 1)
    ratio = (found.label > 0).sum() * 1.5 * 2.0 * 0.8 / ball.sum()
    assert ratio == pytest.approx(1, abs=0.04)
    scores = np.eye(2, dtype=np.float32)[found.label]
    back = restored(scores, found, preparation.order, classes({"ball": 1}))
    both = ((back.data > 0) & (ball > 0)).sum()
    assert 2 * both / ((back.data > 0).sum() + ball.sum()) > 0.93


def test_thick_slices_are_not_mixed():
    """Values of the nearest slice, whatever the planes go through."""
    data = np.repeat(np.arange(1.0, 5.0, dtype=np.float32), 12 * 12)
    image = volume(data.reshape(4, 12, 12), np.diag([8.0, 1, 1, 1]))
    preparation = Preparation((Channel("x", "none"),), (4.0, 1.5, 1.5), (0, 1, 2))
    found = prepare([image], preparation, id="a").image
    assert found.shape == (8, 8, 8, 1)
    np.testing.assert_allclose(found[:, 4, 4, 0], [1, 1, 2, 2, 3, 3, 4, 4], rtol=1e-5)


def test_the_spacing_of_slices_may_stay():
    from medjax.data.volumes import grid_of

    grid = target_grid(grid_of(IMAGE), (None, 3.0, None))
    np.testing.assert_allclose(grid.spacing, (5.0, 3.0, 1.5))


def test_normalisations():
    values = RNG.normal(100, 20, (4, 4, 4)).astype(np.float32)
    ct = Channel("CT", "ct", mean=50, deviation=10, low=0, high=110)
    cut = normalise(values, ct, None, "a")
    np.testing.assert_allclose(cut, (values.clip(0, 110) - 50) / 10, rtol=1e-5)
    mask = values > 100
    masked = normalise(values, Channel("x"), mask, "a")
    assert not masked[~mask].any()
    assert masked[mask].std() == pytest.approx(1, rel=1e-4)
    with pytest.warns(UserWarning, match="a: x is constant"):
        assert not normalise(np.full((2, 2, 2), 3.0), Channel("x"), None, "a").any()


def test_regions_are_painted_on_the_files_grid():
    regions = Labels((0, 1, 4), ("all", "core"), ((1, 4), (1,)), (4, 1))
    case = prepare([IMAGE], PREPARATION, id="a", label=LABEL, labels=regions)
    truth = np.asarray(regions.truth(jnp.asarray(case.label)))
    back = restored(truth, case, PREPARATION.order, regions)
    np.testing.assert_array_equal(back.data, LABEL.data)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(DataError, match="a: 2 images, expected .'FLAIR'"):
        prepare([IMAGE, IMAGE], PREPARATION, id="a")
    short = dataclasses.replace(LABEL, data=LABEL.data[:5])
    with pytest.raises(DataError, match=r"\(6, 20, 16\) and \(5, 20, 16\)"):
        prepare([IMAGE], PREPARATION, id="a", label=short, labels=LABELS)
    other = dataclasses.replace(LABEL, data=LABEL.data + (LABEL.data == 4))
    with pytest.raises(DataError, match="a: label 5 in 75 voxels"):
        prepare([IMAGE], PREPARATION, id="a", label=other, labels=LABELS)


def test_an_empty_image_is_cropped_to_itself():
    empty = dataclasses.replace(IMAGE, data=np.zeros_like(IMAGE.data))
    with pytest.warns(UserWarning, match="constant"):
        assert prepare([empty], PREPARATION, id="a").image.shape == (6, 20, 16, 1)


def test_uncertainty_of_samples():
    """Samples that agree have no mutual information; those that do not have all."""
    two = classes({"a": 1})
    sure = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32)
    each = np.mean([np.asarray(entropy(jnp.asarray(s), two)) for s in sure], 0)
    mean = jnp.asarray(sure.mean(0))
    np.testing.assert_allclose(entropy(mean, two), np.log(2), rtol=1e-6)
    mi = mutual_information(mean, jnp.asarray(each), two)
    np.testing.assert_allclose(mi, np.log(2), rtol=1e-6)
    same = mutual_information(mean, entropy(mean, two), two)
    np.testing.assert_allclose(same, 0, atol=1e-7)
    regions = Labels((0, 1), ("a",), ((1,),), (1,))
    half = jnp.full((1, 1), 0.5)
    np.testing.assert_allclose(entropy(half, regions), np.log(2), rtol=1e-6)
