"""The ambiguous phantom: its probability is that of its annotators, its floors hold."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.stats import norm

from medjax.segmentation.answers import least
from medjax.segmentation.phantoms.ambiguous import (
    AmbiguousConfig,
    ambiguous_case,
    annotate,
    draw_scene,
    probability,
)
from medjax.segmentation.phantoms.shifts import (
    ANATOMY,
    SHIFTS,
    shifted_case,
    shifted_image,
)

CONFIG = AmbiguousConfig(size=24, satellite=1.0)
ANNOTATORS = 20_000


@pytest.fixture(scope="module")
def watched():
    """One scene with a satellite, and what very many annotators drew."""

    @jax.jit
    def watch(scene_key, annotator_key):
        scene = draw_scene(CONFIG, key=scene_key)
        drawn = annotate(scene, CONFIG, ANNOTATORS, key=annotator_key)
        return scene, drawn, probability(scene, CONFIG)

    scene, drawn, p = watch(jax.random.key(3), jax.random.key(4))
    return scene, np.asarray(drawn), p


def test_the_probability_is_what_annotators_do(watched):
    scene, drawn, p = watched
    p = np.asarray(p)
    error = np.abs(drawn.mean(0) - p)
    # Five standard deviations of a frequency, and one annotator for p near 0 and 1.
    assert (error <= 5 * np.sqrt(p * (1 - p) / ANNOTATORS) + 1 / ANNOTATORS).all()
    assert scene.disc.any() and 0.3 < drawn[:, np.asarray(scene.disc)].mean()


def test_the_probability_is_the_normal_law_of_the_distance(watched):
    scene, _, p = watched
    p = np.asarray(p)
    edge = norm.cdf(-np.asarray(scene.distance) / np.asarray(scene.spread))
    disc = np.asarray(scene.disc)
    np.testing.assert_allclose(p[~disc], edge[~disc], atol=1e-6)
    np.testing.assert_allclose(p[disc], 0.5 + 0.5 * edge[disc], atol=1e-6)


def test_annotators_agree_with_themselves(watched):
    """Half of the variance is common, so far directions still correlate; the disc is
    in or out as a whole."""
    scene, drawn, _ = watched
    disc = np.asarray(scene.disc) & (np.asarray(scene.distance) > 2)
    inside = drawn[:, disc]
    assert (inside.all(1) | ~inside.any(1)).mean() > 0.95
    assert abs(inside.all(1).mean() - CONFIG.included) < 0.02


def test_the_floors_are_what_the_truth_scores(watched):
    _, drawn, p = watched
    p = np.asarray(p, np.float64)
    found = least(np.stack([1 - p, p], axis=-1))
    said = np.clip(np.where(drawn, p, 1 - p), 1e-8, 1)
    np.testing.assert_allclose(-np.log(said).mean(), found["nll"], rtol=0.01)
    scored = 2 * ((drawn - p) ** 2).mean()
    np.testing.assert_allclose(scored, found["brier"], rtol=0.01)


@pytest.fixture(scope="module")
def plain():
    return ambiguous_case(CONFIG, annotators=2, key=jax.random.key(5))


def test_an_image_tells_what_is_in_it(plain):
    inside = np.asarray(plain.probability) > 0.99
    outside = np.asarray(plain.probability) < 0.01
    image = np.asarray(plain.image)
    assert image[inside].mean() - image[outside].mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("shift", [s for s in SHIFTS if s != "anatomy"])
def test_a_shift_changes_the_image_as_it_says(shift, level, plain):
    image = plain.image
    out = shifted_image(image, CONFIG, shift, level, key=jax.random.key(6))
    gap = np.asarray(out - image)
    assert np.isfinite(gap).all() and np.abs(gap).max() > 0.1
    if shift == "noise":
        expected = np.sqrt((0.16, 0.24, 0.32)[level] ** 2 - 0.08**2)
        assert gap.std() == pytest.approx(expected, rel=0.1)
    elif shift == "gamma":
        assert float(out.min()) == pytest.approx(float(image.min()), abs=1e-5)
        assert float(out.max()) == pytest.approx(float(image.max()), abs=1e-5)
        # Brighter in between, or turned round.
        order = np.corrcoef(np.ravel(out), np.ravel(image))[0, 1]
        assert order > 0.9 if level == 0 else order == pytest.approx(-1, abs=1e-5)
    elif shift == "blur":
        assert np.abs(np.diff(out)).mean() < np.abs(np.diff(image)).mean() / 2
    else:
        # A magnitude of the image's energy: a shift changes phases alone.
        assert float(out.min()) >= 0
        assert float((out**2).sum()) == pytest.approx(float((image**2).sum()), rel=1e-4)


def test_a_shift_is_drawn_apart_from_its_case(plain):
    """Noise that is added knows nothing of what the case was drawn from."""
    key = jax.random.key(5)
    noisy = shifted_case(CONFIG, "noise", 1, annotators=2, key=key)
    np.testing.assert_array_equal(noisy.annotations, plain.annotations)
    added = np.asarray(noisy.image - plain.image)
    for small in range(8):
        drawn = jax.random.normal(jax.random.fold_in(key, small), added.shape)
        assert abs(np.corrcoef(np.ravel(drawn), np.ravel(added))[0, 1]) < 0.25


def test_other_anatomy_has_its_own_truth():
    shapes = []
    for objects in ANATOMY:
        config = dataclasses.replace(CONFIG, objects=objects)
        scene = draw_scene(config, key=jax.random.key(6))
        shapes.append(int((np.asarray(scene.distance) < 0).sum()))
        assert not scene.disc.any()
    assert shapes[0] > 50 and shapes[1] > 50 and shapes[2] == 0
    bare = shifted_case(CONFIG, "anatomy", 3, annotators=2, key=jax.random.key(6))
    assert not bare.annotations.any() and float(bare.probability.max()) < 1e-6


def test_another_strength_is_refused():
    with pytest.raises(ValueError, match="shift='blur', strength=4"):
        shifted_case(CONFIG, "blur", 4, annotators=1, key=jax.random.key(0))
