"""Lesions put in: where, how many, with what intensities, and why others were not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax.segmentation.lesionmix.bank import make_bank
from medjax.segmentation.lesionmix.host import host_of
from medjax.segmentation.lesionmix.location import marginals
from medjax.segmentation.lesionmix.morphology import masked_moments
from medjax.segmentation.lesionmix.populate import (
    VERDICTS,
    PopulateConfig,
    border,
    populate,
    verdict_counts,
)
from medjax.segmentation.lesionmix.transform import TransformConfig
from tests.segmentation.lesionmix.cases import MOST, SPACING, bank, hosts, phantoms

CONFIG = PopulateConfig(slots=10)
STILL = TransformConfig(
    flip=0.0,
    rotate=0.0,
    scale=(1.0, 1.0),
    elastic=0.0,
    brightness=(1.0, 1.0),
    noise_sd=0.0,
)


@functools.partial(jax.jit, static_argnames="config")
def put(host, donors, target, key, config=CONFIG):
    return populate(host, donors, target, SPACING, config, key=key)


@pytest.fixture(scope="module")
def mixed():
    """All cases, each brought towards 30 mm^3 more than it has."""
    found = []
    for row in range(8):
        host = jax.tree.map(lambda x, row=row: x[row], hosts())
        key = jax.random.key(row)
        found.append(put(host, bank().donors, host.load + 30, key))
    return jax.tree.map(lambda *x: np.stack(x), *found)


def test_new_lesions_are_lesions_of_their_own(mixed):
    for i, case in enumerate(phantoms()):
        counts = verdict_counts(mixed.verdicts[i].tolist())
        assert sum(counts.values()) == CONFIG.slots
        _, before = ndimage.label(case.lesion, np.ones((3, 3)))
        new = mixed.label[i] & ~case.lesion
        _, after = ndimage.label(mixed.label[i], np.ones((3, 3)))
        # A lesion that is moved may fall into pieces; it is never joined to another.
        assert after >= before + counts["accepted"]
        assert (mixed.label[i] & case.lesion == case.lesion).all()
        assert not (ndimage.binary_dilation(new, np.ones((3, 3))) & case.lesion).any()
    assert mixed.verdicts[:, 0].sum() > 8
    assert set(VERDICTS[:2]) == {"accepted", "idle"}


def test_the_load_is_the_labels_and_never_overshoots(mixed):
    np.testing.assert_allclose(mixed.load, mixed.label.sum((1, 2)))
    target = np.asarray(hosts().load) + 30
    assert (mixed.load <= target + np.maximum(0.05 * target, 3)).all()
    # Whoever stopped for want of need reached the target.
    idle = mixed.verdicts[:, 1] > 0
    assert idle.any() and (mixed.load[idle] >= target[idle]).all()


def test_nothing_else_changes(mixed):
    for i, case in enumerate(phantoms()):
        new = mixed.label[i] & ~case.lesion
        np.testing.assert_array_equal(mixed.image[i][~new], case.image[~new])
        assert case.organ[new].all()


def test_a_case_that_has_enough_stays_as_it_is():
    host = host_of(phantoms()[0], most=MOST)
    same = put(host, bank().donors, host.load, jax.random.key(0))
    np.testing.assert_array_equal(same.image, host.image)
    assert verdict_counts(same.verdicts.tolist())["idle"] == CONFIG.slots


def test_intensities_come_in_the_hosts_units():
    """A donor at another scale and offset: the lesion is as bright as it was there,
    in standard deviations, whatever was pasted before it."""
    case = phantoms()[5]
    away = [dataclasses.replace(c, image=40 + 7 * c.image) for c in phantoms()[:4]]
    donors = make_bank(away, boxes=(24,)).donors
    host = host_of(case, most=MOST)
    config = dataclasses.replace(CONFIG, transform=STILL)
    out = put(host, donors, host.load + 150, jax.random.key(1), config)
    new = np.asarray(out.label) & ~case.lesion
    inner = ndimage.binary_erosion(new)
    assert inner.any() and int(out.verdicts[0]) > 1
    mean, sd = masked_moments(host.image, host.organ)
    standard = (np.asarray(out.image)[inner] - float(mean)) / float(sd)
    crops = donors.crops[0]
    known = np.asarray(crops.image)[np.asarray(crops.mask)]
    # Every value inside is one of the donor's.
    gaps = np.abs(standard[:, None] - known[None]).min(1)
    assert gaps.max() < 1e-3


def test_borders():
    mask = jnp.zeros((11, 11), bool).at[2:9, 3:8].set(True)
    share = jax.jit(border, static_argnums=1)
    hard = np.asarray(share(mask, CONFIG))
    assert set(np.unique(hard)) == {0.0, np.float32(0.66), 1.0}
    inner = ndimage.binary_erosion(np.asarray(mask))
    np.testing.assert_array_equal(hard == 1, inner)
    soft = np.asarray(share(mask, dataclasses.replace(CONFIG, boundary="smooth")))
    # D is -1 at the last voxel inside and 1 at the first outside.
    np.testing.assert_allclose(soft[2, 5], 1 / (1 + np.exp(-1 / 0.7)), atol=1e-6)
    np.testing.assert_allclose(soft[1, 5], 1 / (1 + np.exp(1 / 0.7)), atol=1e-6)


def test_every_refusal_has_its_reason():
    host = host_of(phantoms()[0], most=MOST)
    key, donors = jax.random.key(2), bank().donors
    nowhere = host._replace(organ=jnp.zeros_like(host.organ))
    reasons = {
        "outside": (nowhere, host.load + 1e4),
        "touching": (
            host._replace(components=jnp.ones_like(host.components)),
            host.load + 1e4,
        ),
        "overshoot": (host, host.load + 1e-3),
    }
    for reason, (other, target) in reasons.items():
        counts = verdict_counts(put(other, donors, target, key).verdicts.tolist())
        if reason == "outside":  # nothing of any lesion is left in no organ
            assert counts["empty"] + counts["outside"] == CONFIG.slots
        elif reason == "touching":
            assert counts["touching"] > 0 and counts["accepted"] == 0
        else:
            assert counts["overshoot"] > 0


def test_large_lesions_have_slots_of_their_own_in_a_thin_image():
    """Two sizes of boxes, fewer planes than the larger one has: padded, cut back."""
    two = make_bank(phantoms()[:4], boxes=(12, 40))
    large, small = two.donors.crops
    assert large.mask.shape[1] == 40 and small.mask.shape[1] == 12
    case = phantoms()[0]
    parts = (case.image, case.lesion, case.organ)
    image, lesion, organ = (x[16:32] for x in parts)
    thin = dataclasses.replace(case, image=image, lesion=lesion, organ=organ)
    places = marginals(two.donors.places[-1][16:32])
    host = host_of(thin, most=MOST)
    config = dataclasses.replace(CONFIG, large_slots=3)
    donors = two.donors._replace(places=places)
    out = put(host, donors, host.load + 200, jax.random.key(4), config)
    assert out.image.shape == (16, 48)
    assert int(np.asarray(out.verdicts).sum()) == CONFIG.slots + 3
    assert float(out.load) == np.asarray(out.label).sum() > float(host.load)
