"""The bank holds what was cut out, in units of where it came from, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax.data.boundary import DataError
from medjax.segmentation.lesionmix.bank import Case, brain_of, make_bank, refuse_shared
from medjax.segmentation.lesionmix.host import host_of
from medjax.segmentation.lesionmix.loads import draw_load, load_law
from medjax.segmentation.lesionmix.location import draw_voxel, lesion_prior, marginals
from medjax.segmentation.lesionmix.morphology import (
    dilated,
    eroded,
    grown_labels,
    masked_moments,
)
from tests.segmentation.lesionmix.cases import bank, phantoms


def blocks():
    """Three lesions of 2, 12 and 400 voxels in a noisy organ, 1 x 2 mm."""
    image = np.random.default_rng(0).normal(5, 2, (40, 44)).astype(np.float32)
    lesion = np.zeros(image.shape, bool)
    lesion[2:4, 2] = True
    lesion[20:23, 30:34] = True
    lesion[5:25, 5:25] = True
    return Case("blocks", image, lesion, np.ones_like(lesion), (1.0, 2.0))


def test_crops_come_from_where_the_lesions_are():
    case = blocks()
    made = make_bank([case], boxes=(24, 40), min_mm3=5.0)
    assert made.dropped == {"below 5 mm^3": 1, "larger than the largest box": 0}
    large, small = made.donors.crops
    assert large.mask.shape == (1, 40, 40) and small.mask.shape == (1, 24, 24)
    np.testing.assert_allclose([*large.volume, *small.volume], [800, 24])
    assert made.loads.tolist() == [2 * case.lesion.sum()] and made.lesions == 2
    # The mask's middle lies in the middle of the box, and the image fits the mask.
    for crops, middle in ((large, (15, 15)), (small, (21, 32))):
        box = crops.mask.shape[1]
        mask, image = np.asarray(crops.mask[0]), np.asarray(crops.image[0])
        rows, columns = np.nonzero(mask)
        at = rows + middle[0] - box // 2, columns + middle[1] - box // 2
        assert case.lesion[at].all()
        standard = (case.image[at] - case.image.mean()) / case.image.std()
        np.testing.assert_allclose(image[mask], standard, atol=1e-5)


def test_a_lesion_larger_than_the_largest_box_is_left_out_and_counted():
    """Its load and its place still count; boxes that just hold it take it."""
    case = blocks()
    made = make_bank([case], boxes=(8, 19), min_mm3=5.0)
    assert made.dropped == {"below 5 mm^3": 1, "larger than the largest box": 1}
    assert made.lesions == 1 and [len(c.volume) for c in made.donors.crops] == [1]
    assert made.loads.tolist() == [2 * case.lesion.sum()]
    assert float(made.donors.smallest) == 24.0
    fitting = make_bank([case], boxes=(8, 20), min_mm3=5.0)
    assert fitting.dropped["larger than the largest box"] == 0
    assert fitting.donors.crops[0].mask.sum() == 400
    alone = np.zeros_like(case.lesion)
    alone[5:25, 5:25] = True
    with pytest.raises(DataError, match="'larger than the largest box': 1"):
        make_bank([dataclasses.replace(case, lesion=alone)], boxes=(8, 19))


def test_a_lesion_at_the_border_of_its_image_is_whole():
    case = blocks()
    lesion = np.zeros_like(case.lesion)
    lesion[:3, :4] = True
    image = np.where(lesion, 100.0, 3.0).astype(np.float32)
    given = dataclasses.replace(case, image=image, lesion=lesion)
    (crops,) = make_bank([given], boxes=(24,)).donors.crops
    mask, found = np.asarray(crops.mask) > 0, np.asarray(crops.image)
    assert mask.sum() == 12 and crops.volume.tolist() == [24.0]
    inside, around = ((v - image.mean()) / image.std() for v in (100.0, 3.0))
    np.testing.assert_allclose(found[mask], inside, rtol=1e-5)
    np.testing.assert_allclose(crops.ring, around, rtol=1e-4)


def test_the_ring_is_of_tissue_around():
    case = blocks()
    image = np.where(case.lesion, 100.0, 3.0).astype(np.float32)
    made = make_bank([dataclasses.replace(case, image=image)], boxes=(24, 40))
    level = (3.0 - image.mean()) / image.std()
    for crops in made.donors.crops:
        np.testing.assert_allclose(crops.ring, level, atol=1e-5)


def test_every_lesion_is_in_it_once():
    made = bank()
    sizes = []
    for case in phantoms()[:4]:
        labels, _ = ndimage.label(case.lesion, np.ones((3, 3)))
        sizes += np.bincount(labels.ravel())[1:].tolist()
    kept = sorted(size for size in sizes if size >= 3)
    assert sorted(np.concatenate([c.volume for c in made.donors.crops])) == kept
    assert made.dropped["below 3 mm^3"] == len(sizes) - len(kept)


def test_what_does_not_belong_is_refused():
    case, other = phantoms()[:2]
    with pytest.raises(DataError, match="validation set: \\['case1'\\]"):
        refuse_shared(bank(), ["case1", "case7"])
    refuse_shared(bank(), ["case7"])
    with pytest.raises(DataError, match="cases come twice: \\['case0'\\]"):
        make_bank([case, case])
    moved = dataclasses.replace(other, spacing=(1.0, 3.0))
    with pytest.raises(DataError, match="a bank needs one grid"):
        make_bank([case, moved])
    empty = dataclasses.replace(case, lesion=np.zeros_like(case.lesion))
    with pytest.raises(DataError, match="no lesion in 1 cases"):
        make_bank([empty])
    flat = dataclasses.replace(case, image=np.ones_like(case.image))
    with pytest.raises(DataError, match="case0: the organ has one intensity"):
        make_bank([flat])
    with pytest.raises(DataError, match="expected cases, got none"):
        make_bank([])


def test_a_case_without_image_gives_load_and_place_alone():
    case, other = phantoms()[:2]
    made = make_bank([case, dataclasses.replace(other, image=None)], boxes=(24,))
    assert made.cases == ("case0", "case1") and made.loads[1] == other.lesion.sum()
    assert made.lesions == make_bank([case], boxes=(24,)).lesions


def test_a_host_has_its_components():
    case = phantoms()[0]
    host = host_of(case, most=16)
    assert float(host.load) == case.lesion.sum()
    np.testing.assert_array_equal(np.asarray(host.components) > 0, case.lesion)
    with pytest.raises(DataError, match="there is room for 1"):
        host_of(case, most=1)
    with pytest.raises(DataError, match="not finite"):
        host_of(dataclasses.replace(case, image=case.image * np.nan), most=16)
    with pytest.raises(DataError, match="no image"):
        host_of(dataclasses.replace(case, image=None), most=16)


def test_the_brain_is_what_is_not_zero():
    """Negative values, holes and specks: FLAIR as it comes."""
    truth = np.zeros((20, 20), bool)
    truth[4:16, 3:17] = True
    image = np.where(truth, -3.0, 0.0)
    image[8:10, 8:12] = 0.0
    image[0, 0] = 7.0
    np.testing.assert_array_equal(brain_of(image), truth)
    with pytest.raises(DataError, match="no brain in it"):
        brain_of(np.zeros((4, 4)))


def test_morphology_is_scipys():
    random = np.random.default_rng(1)

    @jax.jit
    def ours(mask, solid, labels):
        grown = dilated(mask, 2), dilated(mask, 2, corners=False)
        return *grown, eroded(solid), grown_labels(labels, 1)

    for shape in ((9, 11), (6, 7, 8)):
        mask, solid = random.random(shape) < 0.2, random.random(shape) < 0.9
        labels = (random.integers(1, 5, shape) * mask).astype(np.int32)
        near = ndimage.generate_binary_structure(mask.ndim, 1)
        spread = ndimage.grey_dilation(labels, footprint=near)
        theirs = (
            ndimage.binary_dilation(mask, np.ones((3,) * mask.ndim), 2),
            ndimage.binary_dilation(mask, iterations=2),
            ndimage.binary_erosion(solid),
            np.where(mask, labels, spread),
        )
        found = ours(*map(jnp.asarray, (mask, solid, labels)))
        for a, b in zip(found, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_moments_of_a_mask():
    image, mask = np.arange(12.0, dtype=np.float32).reshape(3, 4), np.eye(3, 4) > 0
    mean, sd = masked_moments(jnp.asarray(image), jnp.asarray(mask))
    np.testing.assert_allclose([mean, sd], [image[mask].mean(), image[mask].std()])
    none = masked_moments(jnp.asarray(image), jnp.zeros((3, 4), bool))
    assert [float(x) for x in none] == [0.0, 0.0]


def test_places_are_drawn_by_their_density():
    """Chi-squared over the voxels of a volume with zeros in it."""
    random = np.random.default_rng(2)
    density = random.random((3, 4, 5)).astype(np.float32)
    density[:, 1] = 0
    density[2, :, 3] = 0
    n = 20_000
    keys = jax.random.split(jax.random.key(0), n)
    of = marginals(jnp.asarray(density))
    drawn = np.asarray(jax.vmap(lambda key: draw_voxel(of, key=key))(keys))
    counts = np.zeros(density.shape)
    np.add.at(counts, tuple(drawn.T), 1)
    expected = n * density / density.sum()
    assert counts[density == 0].sum() == 0
    some = density > 0
    statistic = ((counts - expected)[some] ** 2 / expected[some]).sum()
    freedom = some.sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_the_prior_is_the_mean_mask_blurred():
    masks = [np.zeros((21, 31), bool) for _ in range(2)]
    masks[0][10, 15] = True
    prior = lesion_prior(masks, (4.0, 2.0))
    assert prior.sum() == pytest.approx(0.5, rel=1e-3)
    spread = (prior.sum(1) * (np.arange(21) - 10) ** 2).sum() / prior.sum()
    assert spread == pytest.approx(1.0, rel=0.02)  # 4 mm in voxels of 4 mm, squared
    with pytest.raises(ValueError, match="expected some of one shape"):
        lesion_prior([], (1.0,))


LOADS = np.arange(1.0, 102.0)


@pytest.mark.parametrize(
    "name, low, high",
    [("low", 6, 36), ("medium", 36, 66), ("high", 66, 96), ("uniform", 6, 96)],
)
def test_laws_between_percentiles(name, low, high):
    law = load_law(name, LOADS)
    keys = jax.random.split(jax.random.key(1), 2000)
    drawn = np.asarray(jax.vmap(lambda key: draw_load(law, key=key))(keys))
    assert drawn.min() >= low and drawn.max() <= high
    assert drawn.mean() == pytest.approx((low + high) / 2, abs=0.1 * (high - low))
    assert drawn.std() == pytest.approx((high - low) / 12**0.5, rel=0.05)


def test_the_real_law_and_the_log_normal():
    keys = jax.random.split(jax.random.key(2), 4000)
    law = load_law("real", np.array([3.0, 1.0, 7.0]))
    drawn = np.asarray(jax.vmap(lambda key: draw_load(law, key=key))(keys))
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [1, 3, 7] and counts.min() > 1200
    law = load_law("lognormal", np.zeros(0), log_normal=(2.0, 0.5))
    drawn = np.log(jax.vmap(lambda key: draw_load(law, key=key))(keys))
    assert drawn.mean() == pytest.approx(2.0, abs=0.04)
    assert drawn.std() == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match="there are none"):
        load_law("low", np.zeros(0))
    with pytest.raises(ValueError, match="positive standard deviation"):
        load_law("lognormal", LOADS, log_normal=(1.0, 0.0))
