"""Places filled: what a sparse solver gives, what is left alone, and what goes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from medjax.segmentation.lesionmix.host import host_of
from medjax.segmentation.lesionmix.inpaint import (
    InpaintConfig,
    biharmonic,
    choose,
    fill,
    harmonic,
    inpaint,
    push_pull,
)
from tests.segmentation.lesionmix.cases import MOST, SPACING, phantoms

PLAIN = InpaintConfig(texture=False)
FILLS = ("harmonic", "biharmonic", "pushpull", "telea", "ring")


@functools.partial(jax.jit, static_argnames=("config", "spacing"))
def filled(image, lesions, usable, config, spacing=SPACING):
    key = jax.random.key(0)
    return fill(image, lesions, usable, spacing, config, key=key)


def disc(n=24, radius=5.5, at=(11, 12)):
    y, x = np.indices((n, n)) - np.reshape(at, (2, 1, 1))
    return y, x, (y**2 + x**2 < radius**2)


def test_harmonic_is_what_a_sparse_solver_gives():
    """Anisotropic, with a border of the organ across the domain."""
    random = np.random.default_rng(0)
    spacing = (1.0, 1.7)
    _, x, domain = disc()
    usable = x < 4
    domain &= usable
    values = random.normal(size=domain.shape).astype(np.float32)
    solve = jax.jit(functools.partial(harmonic, spacing=spacing, sweeps=600))
    ours = solve(*map(jnp.asarray, (values, domain, usable)))
    number = -np.ones(domain.shape, int)
    number[domain] = np.arange(domain.sum())
    matrix = sparse.lil_matrix((domain.sum(),) * 2)
    right = np.zeros(domain.sum())
    for i, j in np.argwhere(domain):
        me = number[i, j]
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            k = (i + step, j) if axis == 0 else (i, j + step)
            if usable[k]:
                weight = 1 / spacing[axis] ** 2
                matrix[me, me] += weight
                if domain[k]:
                    matrix[me, number[k]] -= weight
                else:
                    right[me] += weight * values[k]
    theirs = spsolve(matrix.tocsr(), right)
    np.testing.assert_allclose(np.asarray(ours)[domain], theirs, atol=2e-4)
    np.testing.assert_array_equal(np.asarray(ours)[~domain], values[~domain])


def test_biharmonic_continues_what_bends():
    """A cubic with a biharmonic, not harmonic, part is found again; and the objective
    is lower than the harmonic's."""
    y, x, domain = disc(radius=4.2)
    truth = (0.02 * (x**2 + y**2) + 0.1 * x + 0.002 * x**3).astype(np.float32)
    usable = jnp.ones(domain.shape, bool)
    inside = jnp.asarray(domain)
    begin = jnp.asarray(np.where(domain, truth[~domain].mean(), truth))
    solve = jax.jit(functools.partial(biharmonic, spacing=SPACING, iterations=200))
    ours = solve(begin, inside, usable)
    np.testing.assert_allclose(ours, truth, atol=2e-2)
    solve = jax.jit(functools.partial(harmonic, spacing=SPACING, sweeps=300))
    flat = solve(begin, inside, usable)
    assert np.abs(np.asarray(flat) - truth).max() > 0.1


@pytest.mark.parametrize("at", [(11, 12), (0, 2)], ids=["inside", "at the border"])
@pytest.mark.parametrize("name", FILLS)
def test_every_fill_keeps_a_constant_and_lets_nothing_else_in(name, at):
    """Neither the lesion, nor one that stays, nor what is outside of the organ or of
    the image."""
    _, x, lesion = disc(at=at)
    organ = x < 3
    stays = np.zeros_like(lesion)
    stays[2:4, 2:5] = True
    lesion &= organ & ~stays
    image = np.where(organ, 2.0, 1000.0)
    image[lesion] = 77.0
    image[stays] = -500.0
    out = filled(
        jnp.asarray(image, jnp.float32),
        jnp.asarray(lesion, jnp.int32),
        jnp.asarray(organ & ~stays),
        dataclasses.replace(PLAIN, fill=name),
    )
    expected = np.where(lesion, 2.0, image)
    np.testing.assert_allclose(out, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ("harmonic", "pushpull"))
def test_no_value_leaves_the_range_of_the_tissue(name):
    random = np.random.default_rng(1)
    image = random.uniform(3, 5, (24, 24)).astype(np.float32)
    _, _, lesion = disc()
    image[lesion] = 9.0
    out = filled(
        jnp.asarray(image),
        jnp.asarray(lesion, jnp.int32),
        jnp.ones((24, 24), bool),
        dataclasses.replace(PLAIN, fill=name),
    )
    inside = np.asarray(out)[ndimage.binary_dilation(lesion)]
    assert 3 <= inside.min() and inside.max() <= 5 and inside.std() > 0


def test_the_ring_is_each_lesions_own():
    image = np.ones((20, 40), np.float32)
    image[:, 20:] = 3.0
    lesions = np.zeros(image.shape, np.int32)
    lesions[8:11, 8:12], lesions[6:12, 28:33] = 1, 2
    image[lesions > 0] = 50.0
    config = dataclasses.replace(PLAIN, fill="ring")
    usable = jnp.ones(image.shape, bool)
    out = np.asarray(filled(jnp.asarray(image), jnp.asarray(lesions), usable, config))
    assert (out[:, :20] == 1).all() and (out[:, 20:] == 3).all()


def test_push_pull_keeps_what_is_known_and_halves_by_means():
    known = np.zeros((8, 8), bool)
    known[:, :4] = True
    image = np.where(known, 4.0, 0.0).astype(np.float32)
    image[0, 0] = 6.0
    out = np.asarray(jax.jit(push_pull)(jnp.asarray(image), jnp.asarray(known)))
    np.testing.assert_array_equal(out[known], image[known])
    assert (out[~known] >= 4).all() and (out[~known] <= 4.2).all()


def test_texture_has_the_spread_of_the_ring():
    random = np.random.default_rng(2)
    image = random.normal(5, 1, (40, 40)).astype(np.float32)
    lesion = np.zeros(image.shape, np.int32)
    lesion[10:30, 10:30] = 1
    usable = jnp.ones(image.shape, bool)
    args = (jnp.asarray(image), jnp.asarray(lesion), usable)
    smooth = np.asarray(filled(*args, PLAIN))[lesion > 0]
    rough = np.asarray(filled(*args, InpaintConfig()))[lesion > 0]
    assert smooth.std() < 0.5 and rough.std() == pytest.approx(1.0, abs=0.2)


def test_no_more_goes_than_has_to():
    volumes = jnp.asarray([5.0, 9.0, 0.0, 2.0, 14.0, 1.0, 0.0])
    draw = jax.jit(
        lambda target, seed: choose(volumes, target, key=jax.random.key(seed))
    )
    for seed in range(20):
        target = float(3 * (seed % 11))
        goes = np.asarray(draw(target, seed))
        sizes = np.asarray(volumes)
        left = sizes[~goes].sum()
        assert left <= target and not goes[sizes == 0].any()
        # One of those that went was the last: with it, there was too much.
        if goes.any():
            assert left + sizes[goes].max() > target
        else:
            assert sizes.sum() <= target
    picked = [np.asarray(draw(30.0, s)).argmax() for s in range(40)]
    assert len(set(picked)) == 5, "any of them may go"


def test_a_case_loses_lesions_and_nothing_else():
    case = phantoms()[2]
    host = host_of(case, most=MOST)
    target = host.load / 2
    run = jax.jit(lambda h, t: inpaint(h, t, SPACING, PLAIN, key=jax.random.key(1)))
    out = run(host, target)
    stay = np.asarray(out.components) > 0
    assert stay.sum() == float(out.volumes.sum()) <= float(target)
    gone = case.lesion & ~stay
    labels, count = ndimage.label(gone, np.ones((3, 3)))
    assert count == int(out.removed) > 0
    changed = np.asarray(out.image) != case.image
    assert not (changed & ~ndimage.binary_dilation(gone)).any()
    # Where a lesion was it is darker now; the tissue around says how dark.
    assert np.asarray(out.image)[gone].mean() < case.image[gone].mean() - 0.1
    same = run(host, host.load)
    np.testing.assert_array_equal(same.image, case.image)
    assert int(same.removed) == 0
