"""Lesions filled in windows: what the whole image gives, wherever they lie."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax.segmentation.lesionmix.apart import rows_apart
from medjax.segmentation.lesionmix.host import Host
from medjax.segmentation.lesionmix.inpaint import InpaintConfig, inpaint
from medjax.segmentation.lesionmix.windows import (
    boxes_of,
    grouped,
    smallest_window,
    windows_of,
)

WHOLE = InpaintConfig(texture=False, sweeps=300, iterations=40, windows=())
SPACING = (1.0, 1.3)
SHAPE = (64, 80)
MOST = 6


@functools.partial(jax.jit, static_argnames="config")
def emptied(host, config, target=0.0, key=0):
    """A case without its lesions, or with few of them."""
    key = jax.random.key(key)
    return inpaint(host, jnp.asarray(target), SPACING, config, key=key)


def case_of(*lesions, most=MOST):
    """Boxes of lesions in noise: from and to along each axis."""
    image = np.random.default_rng(0).normal(3.0, 1.0, SHAPE).astype(np.float32)
    numbers = np.zeros(SHAPE, np.int32)
    for number, ((a, b), (c, d)) in enumerate(lesions, 1):
        numbers[a:b, c:d] = number
    image[numbers > 0] += 9.0
    organ = np.ones(SHAPE, bool)
    organ[:, -6:] = False
    volumes = np.bincount(numbers.ravel(), minlength=most + 1)[1:] * 1.3
    given = image, numbers, volumes.astype(np.float32), organ
    return Host(*map(jnp.asarray, given))


PLACES = {
    "apart": [((10, 14), (10, 15)), ((40, 45), (50, 53))],
    "touching": [((10, 15), (10, 13)), ((15, 18), (14, 18)), ((30, 33), (60, 64))],
    "in one window, groups of their own": [((10, 13), (10, 13)), ((18, 20), (16, 20))],
    "at the border": [((0, 3), (0, 5)), ((60, 64), (30, 33)), ((20, 26), (71, 74))],
    "larger than the window": [((4, 36), (20, 24)), ((50, 53), (60, 63))],
    "none": [],
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_windows_give_what_the_whole_image_gives(places):
    """The windows' pyramid is another one, so both are solved until it is forgotten."""
    host = case_of(*places)
    whole = emptied(host, WHOLE)
    apart = emptied(host, dataclasses.replace(WHOLE, windows=(18, 22)))
    assert int(whole.removed) == int(apart.removed) == len(places)
    np.testing.assert_allclose(apart.image, whole.image, atol=1e-2)
    gone = np.asarray(ndimage.binary_dilation(np.asarray(host.components) > 0), bool)
    np.testing.assert_array_equal(
        np.asarray(apart.image)[~gone], np.asarray(host.image)[~gone]
    )
    np.testing.assert_array_equal(apart.components, whole.components)


def test_a_lesion_that_no_window_holds_is_filled_with_the_whole_image():
    """Nothing but the sweep over all of it: to the last bit."""
    host = case_of(*PLACES["larger than the window"])
    few = dataclasses.replace(WHOLE, sweeps=4)
    whole = emptied(host, few)
    apart = emptied(host, dataclasses.replace(few, windows=(18, 22)))
    np.testing.assert_allclose(apart.image, whole.image, rtol=1e-6)
    held = case_of(*PLACES["apart"])
    differs = [emptied(held, dataclasses.replace(few, windows=w)) for w in ((), (18,))]
    assert np.abs(differs[0].image - differs[1].image).max() > 1e-4, "its own pyramid"


def test_lesions_that_stay_are_left_out_and_alone():
    host = case_of(((10, 14), (10, 15)), ((10, 15), (17, 20)), ((40, 44), (40, 44)))
    config = dataclasses.replace(WHOLE, windows=(18, 22))
    lesions, before = np.asarray(host.components), np.asarray(host.image)
    left = set()
    for key in range(4):  # any two of the three are too much
        whole, apart = (emptied(host, c, 27.0, key=key) for c in (WHOLE, config))
        stays, image = np.asarray(apart.components) > 0, np.asarray(apart.image)
        np.testing.assert_allclose(image, whole.image, atol=1e-2)
        np.testing.assert_array_equal(image[stays], before[stays])
        assert image[~stays].max() < 9
        left |= set(lesions[stays].tolist())
    assert left & {1, 2}, "one beside another that goes"


def test_texture_is_of_each_groups_own_ring():
    host = case_of(((8, 20), (8, 20)), ((40, 52), (50, 62)))
    image = np.asarray(host.image).copy()
    image[32:] = 3.0 + 0.1 * (image[32:] - 3.0)
    host = host._replace(image=jnp.asarray(image))
    out = emptied(host, InpaintConfig(windows=(24,)))
    rough, calm = (
        np.asarray(out.image)[np.asarray(host.components) == number].std()
        for number in (1, 2)
    )
    assert rough > 0.5 and calm < 0.25


def test_side_by_side_is_as_one_after_the_other():
    cases = [case_of(*PLACES[name]) for name in ("apart", "larger than the window")]
    config = dataclasses.replace(WHOLE, sweeps=8, windows=(18, 22))
    many = jax.tree.map(lambda *x: jnp.stack(x), *cases)
    together = jax.jit(jax.vmap(lambda host: emptied(host, config)))(many)
    for row, case in enumerate(cases):
        alone = emptied(case, config)
        np.testing.assert_allclose(together.image[row], alone.image, atol=1e-4)
        np.testing.assert_array_equal(together.components[row], alone.components)


def test_a_row_is_the_same_to_the_last_bit_in_any_batch():
    names = ("touching", "apart", "larger than the window")
    cases = [case_of(*PLACES[name]) for name in names]
    config = InpaintConfig(sweeps=4, windows=(18, 22))
    many = jax.tree.map(lambda *x: jnp.stack(x), *cases)

    @jax.jit
    def run(hosts):
        return rows_apart(lambda _, host: emptied(host, config).image, (), hosts)

    whole = run(many)
    for part in (slice(0, 1), slice(1, 3)):
        some = Host(*(x[part] for x in many))
        np.testing.assert_array_equal(run(some), whole[part])


def test_boxes_are_scipys():
    """With more components than bits of a word, and numbers that are not there."""
    random = np.random.default_rng(1)
    numbers = random.integers(0, 80, (7, 9, 8)) * (random.random((7, 9, 8)) < 0.3)
    numbers[numbers == 40] = 0
    low, high = jax.jit(lambda x: boxes_of(x, 90))(jnp.asarray(numbers, jnp.int32))
    for number, box in enumerate(ndimage.find_objects(numbers, max_label=90)):
        if box is None:
            assert (high[number] <= low[number]).all()
        else:
            assert [s.start for s in box] == low[number].tolist()
            assert [s.stop for s in box] == high[number].tolist()
    assert numbers.max() > 64


def test_groups_hold_all_that_are_near_to_one_of_theirs():
    low = jnp.asarray([[0, 0], [40, 40], [0, 8], [20, 20], [0, 16], [0, 24]])
    goes = jnp.asarray([True, True, True, True, True, False])
    groups = grouped(goes, low, low + 4)
    assert groups.first.tolist() == [0, 1, 0, 3, 0, 6]
    assert groups.low[0].tolist() == [0, 0] and groups.high[0].tolist() == [4, 20]
    shape = (64, 64)
    windows = windows_of((30, 14), shape, 6)
    assert windows == ((14, 14),)
    windows += ((30, 30),)
    chosen = smallest_window(groups, windows, shape).tolist()
    assert chosen[0] == 1 and chosen[1] == chosen[3] == 0
    assert windows_of((24,), (48, 48), 20) == ()
    with pytest.raises(ValueError, match="at least"):
        InpaintConfig(windows=(0,))
    assert windows_of((8, 24), (5, 100, 100), 20) == ((5, 8, 8), (5, 24, 24))
