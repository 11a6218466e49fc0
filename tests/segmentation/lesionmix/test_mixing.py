"""The other mixes: what each does to the pixel, and what none may do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax.segmentation.lesionmix.host import Host
from medjax.segmentation.lesionmix.mixing import (
    carvemix,
    cutmix,
    mix_batch,
    mixes,
    selfmix,
    tumorcp,
)
from tests.segmentation.lesionmix.cases import SPACING, hosts

MIXES = mixes(SPACING)
HOST = 0
DONOR = 1


def one(number):
    return jax.tree.map(lambda x: x[number], hosts())


def at_hosts_scale():
    """The donor's image as all mixes bring it."""
    images = []
    host, donor = one(HOST), one(DONOR)
    for case in (host, donor):
        image, organ = np.asarray(case.image), np.asarray(case.organ)
        images.append((image, image[organ].mean(), image[organ].std()))
    (_, mean, sd), (image, own_mean, own_sd) = images
    return mean + sd * (image - own_mean) / own_sd


@pytest.fixture(scope="module")
def results():
    """Every mix over a batch: a plain pair, an empty donor, a case with itself."""
    cases = jax.tree.map(lambda x: x[jnp.asarray([HOST, HOST, HOST])], hosts())
    donors = jax.tree.map(lambda x: x[jnp.asarray([DONOR, DONOR, HOST])], hosts())
    empty = jnp.asarray([1, 0, 1])
    donors = donors._replace(
        components=donors.components * empty[:, None, None],
        volumes=donors.volumes * empty[:, None].astype(jnp.float32),
    )
    names = jnp.asarray([0, 0, 0]), jnp.asarray([1, 1, 0])
    found = {}
    for name, mix in MIXES.items():
        key = jax.random.key(5)
        out = mix_batch(mix, cases, donors, names, jnp.arange(3), key=key)
        found[name] = jax.tree.map(np.asarray, out)
    return found


@pytest.mark.parametrize("name", MIXES)
def test_an_empty_donor_and_the_host_itself_change_nothing(results, name):
    host = one(HOST)
    for row in (1, 2):
        np.testing.assert_array_equal(results[name].image[row], host.image)
        np.testing.assert_array_equal(results[name].label[row], host.components > 0)


@pytest.mark.parametrize("name", MIXES)
def test_something_comes_over_and_stays_finite(results, name):
    host = one(HOST)
    changed = results[name].image[0] != np.asarray(host.image)
    assert changed.any() and np.isfinite(results[name].image).all()
    if name == "tumorcp":
        gained = results[name].label[0] & ~(np.asarray(host.components) > 0)
        assert np.asarray(host.organ)[gained].all()
        # Old lesions stay, and outside of the new one nothing changed.
        assert (np.asarray(host.components) > 0)[~results[name].label[0]].sum() == 0
        assert not (changed & ~results[name].label[0]).any()


def test_carvemix_cuts_at_a_level_of_scipys_distance():
    host, donor = one(HOST), one(DONOR)
    key = jax.random.key(1)
    out = carvemix(host, donor, key, spacing=SPACING)
    lesion = np.asarray(donor.components) > 0
    distance = ndimage.distance_transform_edt(~lesion) - ndimage.distance_transform_edt(
        lesion
    )
    c = 2 * float(jax.random.uniform(key, ())) - 1
    level = c * distance.min() / (2 if c > 0 else 1)
    region = distance < level
    expected = np.where(region, at_hosts_scale(), np.asarray(host.image))
    np.testing.assert_allclose(out.image, expected, atol=1e-4)
    label = np.where(region, lesion, np.asarray(host.components) > 0)
    np.testing.assert_array_equal(out.label, label)


def test_cutmix_takes_a_box_of_uniform_share():
    host, donor = one(HOST), one(DONOR)
    ones = host._replace(image=host.image * 0, organ=host.organ)
    other = donor._replace(components=donor.components * 0 + 1)
    blank = ones._replace(components=host.components * 0)
    keys = jax.random.split(jax.random.key(2), 400)
    label = np.asarray(jax.vmap(lambda k: cutmix(blank, other, k).label)(keys))
    share = label.mean((1, 2))
    # Of a box of side s with its middle anywhere, s (1 - s / 4) of an axis is inside;
    # over s^2 uniform the square of that has mean 1/2 - 1/5 + 1/48.
    assert share.mean() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.04)
    for mask in label[:20]:
        rows, columns = mask.any(1), mask.any(0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns[None])


def test_selfmix_weighs_by_depth():
    host, donor = one(HOST), one(DONOR)
    out = selfmix(host, donor, jax.random.key(3))
    numbers = np.asarray(donor.components)
    free = (np.asarray(host.components) == 0) & np.asarray(host.organ)
    source, image = at_hosts_scale(), np.asarray(host.image)
    place = (numbers > 0) & free
    weight = (np.asarray(out.image) - image)[place] / (source - image)[place]
    assert weight.min() > 0.69 and weight.max() < 1.01
    # The deepest voxel of a lesion is the donor's own.
    depth = ndimage.distance_transform_edt(numbers > 0)
    largest = numbers == np.bincount(numbers[numbers > 0]).argmax()
    deepest = largest & (depth == depth[largest].max()) & free
    np.testing.assert_allclose(
        np.asarray(out.image)[deepest], source[deepest], atol=1e-3
    )


def test_tumorcp_moves_one_lesion_anywhere_in_the_organ():
    """Of two lesions, told by how bright they are, each as often; sizes follow the
    scale, middles the organ; half of them are blurred."""
    n, count = 64, 240
    y, x = np.indices((n, n))
    organ = (np.abs(y - 32) < 28) & (np.abs(x - 32) < 20)
    numbers = np.zeros((n, n), np.int32)
    numbers[(y - 20) ** 2 + (x - 24) ** 2 < 20] = 1
    numbers[(y - 44) ** 2 + (x - 40) ** 2 < 20] = 3
    size = int((numbers == 1).sum())
    image = np.array([0.0, -9.0, 0.0, 9.0])[numbers]
    volumes = jnp.asarray([size, 0.0, size])  # there is no second one
    donor = Host(
        jnp.asarray(image, jnp.float32),
        jnp.asarray(numbers),
        volumes,
        jnp.asarray(organ),
    )
    host = donor._replace(components=donor.components * 0, image=donor.image)
    keys = jax.random.split(jax.random.key(4), count)
    found = jax.vmap(lambda key: tumorcp(host, donor, key))(keys)
    label, out = np.asarray(found.label), np.asarray(found.image)
    assert not (label & ~organ).any()
    np.testing.assert_array_equal(
        out[~label], np.broadcast_to(image, out.shape)[~label]
    )
    area = label.sum((1, 2))
    some = area > 0
    assert some.mean() > 0.95
    # The mean of s^2 with s uniform, but for what is bent, and cut at the border.
    scale = (1.25**3 - 0.85**3) / (3 * 0.4)
    assert np.median(area[some]) == pytest.approx(scale * size, rel=0.2)
    middles = np.array([np.argwhere(mask).mean(0) for mask in label[some]])
    inside = np.argwhere(organ)
    np.testing.assert_allclose(middles.mean(0), inside.mean(0), atol=2.5)
    # Those whose middle is near the border are cut, and their middle moves inwards.
    np.testing.assert_allclose(middles.std(0), inside.std(0), rtol=0.12)
    bright = np.array(
        [np.median(a[m]) for a, m in zip(out, label, strict=True) if m.any()]
    )
    assert np.mean(bright > 0) == pytest.approx(0.5, abs=0.08)
    # Sharp ones reach the end of the range, which no gamma moves.
    peak = np.array(
        [np.abs(a[m]).max() for a, m in zip(out, label, strict=True) if m.any()]
    )
    assert np.mean(peak > 8.99) == pytest.approx(0.5, abs=0.1)
