"""Motion in k-space: what no motion, whole shifts and linearity must give."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri.cine_phantom import (
    CineConfig,
    CineView,
    breathing_weight,
    cine_phantom,
)
from medjax.mri.fourier import fft2c
from medjax.mri.motion import (
    MODES,
    Breathing,
    MotionConfig,
    beat_of_line,
    beats_of,
    draw_breathing,
    grade_of,
    labels_at,
    move,
    severity,
)

ORDERINGS = ("contiguous", "interleaved", "centric")
SPACING = (10.0, 2.0, 2.0)
D, H, W = 2, 14, 12
RIGID = MotionConfig(views=4, elastic=False)
ELASTIC = dataclasses.replace(RIGID, elastic=True)
BEATS = beats_of(H, RIGID.views)
ZERO = jnp.zeros((D, BEATS, 3))
FRAME = jnp.zeros((), jnp.int32)
STILL = jnp.zeros((D, BEATS), jnp.int32)


def stack(seed=0, frames=1):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.random((frames, D, H, W)), jnp.float32)


def moved(frames, places, config, offsets=STILL, **options):
    breathing = Breathing(places, offsets)
    key = jax.random.key(0)
    return move(frames, FRAME, breathing, SPACING, config, key=key, **options)


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("lines, views", [(14, 4), (15, 4), (12, 12), (7, 1)])
def test_every_line_is_acquired_once_and_no_beat_is_too_long(lines, views, ordering):
    beat = beat_of_line(lines, views=views, ordering=ordering)
    counts = np.bincount(beat, minlength=beats_of(lines, views))
    assert len(beat) == lines and counts.sum() == lines
    assert counts.max() <= views and len(counts) == beats_of(lines, views)
    if ordering == "centric":
        assert beat[lines // 2] == 0
    with pytest.raises(ValueError, match="views=0"):
        beat_of_line(lines, views=0, ordering=ordering)


@pytest.mark.parametrize("config", [RIGID, ELASTIC], ids=["rigid", "elastic"])
def test_no_motion_is_the_image(config):
    frames = stack()
    out = moved(frames, ZERO, config)
    np.testing.assert_allclose(out.image, frames[0], atol=1e-6)
    assert float(out.severity) == 0 and int(out.grade) == 1


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_one_place_for_all_beats_is_a_shift(ordering):
    """Of whole pixels; round the borders if rigid, from the border on if elastic."""
    frames = stack()
    constant = jnp.broadcast_to(jnp.asarray([0.0, 2 * 2.0, -3 * 2.0]), ZERO.shape)
    config = dataclasses.replace(RIGID, ordering=ordering)
    out = moved(frames, constant, config)
    np.testing.assert_allclose(
        out.image, np.roll(frames[0], (2, -3), (1, 2)), atol=1e-5
    )
    assert float(out.severity) < 1e-5
    np.testing.assert_allclose(out.mean, constant[:, 0], atol=1e-5)
    if ordering != RIGID.ordering:
        return  # one compilation tells of the warp
    elastic = moved(frames, constant, ELASTIC)
    inside = np.asarray(elastic.image)[:, 2:, :-3]
    np.testing.assert_allclose(inside, frames[0, :, :-2, 3:], atol=1e-5)


def test_through_the_plane_another_slice_comes_in():
    frames = stack()
    up = jnp.broadcast_to(jnp.asarray([10.0, 0.0, 0.0]), ZERO.shape)
    out = moved(frames, up, RIGID)
    # Slice 1 shows what was slice 0; slice 0, what is beyond: the last one there is.
    np.testing.assert_allclose(out.image, frames[0][jnp.asarray([0, 0])], atol=1e-5)
    half = moved(frames, 0.5 * up, RIGID)
    np.testing.assert_allclose(half.image[1], frames[0].mean(0), atol=1e-5)


@pytest.fixture(scope="module")
def places():
    random = np.random.default_rng(1)
    return jnp.asarray(random.normal(0, 4, ZERO.shape), jnp.float32)


@pytest.mark.parametrize("config", [RIGID, ELASTIC], ids=["rigid", "elastic"])
def test_linear_in_the_image(places, config):
    x, y = stack(1).astype(jnp.complex64), 1j * stack(2).astype(jnp.complex64)
    both = moved(x + (2 - 1j) * y, places, config).kspace
    apart = moved(x, places, config).kspace + (2 - 1j) * moved(y, places, config).kspace
    np.testing.assert_allclose(both, apart, atol=2e-4)


def test_rigid_motion_in_the_plane_keeps_every_lines_energy(places):
    frames = stack()
    out = moved(frames, places.at[..., 0].set(0.0), RIGID)
    before = np.abs(np.asarray(fft2c(frames[0].astype(jnp.complex64))))
    np.testing.assert_allclose(
        (np.abs(out.kspace) ** 2).sum(-1), (before**2).sum(-1), rtol=1e-3
    )
    assert np.abs(np.asarray(out.image - frames[0])).max() > 0.05


def test_coils_see_one_motion(places):
    """Two coils of half the power each give the image of one."""
    frames = stack()
    maps = jnp.full((2, H, W), 0.5**0.5, jnp.complex64)
    out = moved(frames, places, RIGID, sensitivities=maps)
    alone = moved(frames, places, RIGID)
    assert out.kspace.shape == (D, 2, H, W)
    np.testing.assert_allclose(out.image, alone.image, atol=1e-5)
    np.testing.assert_allclose(out.severity, alone.severity, rtol=1e-5)


def test_a_mistrigger_shows_another_frame():
    frames = stack(frames=3)
    out = moved(frames, ZERO, RIGID, offsets=STILL - 1)
    np.testing.assert_allclose(out.image, frames[2], atol=1e-6)


def test_noise_is_of_its_size():
    frames = stack()
    noisy = moved(frames, ZERO, dataclasses.replace(RIGID, noise=0.5))
    clean = moved(frames, ZERO, RIGID)
    gap = np.asarray(noisy.kspace - clean.kspace)
    sigma = 0.5 * float(frames.max())
    assert gap.real.std() == pytest.approx(sigma, rel=0.15)
    assert gap.imag.std() == pytest.approx(sigma, rel=0.15)


def test_severity_is_a_weighed_standard_deviation():
    random = np.random.default_rng(3)
    where, energy = random.normal(size=(2, 5, 3)), random.random((2, 5))
    mean, value = severity(
        jnp.asarray(where, jnp.float32), jnp.asarray(energy, jnp.float32)
    )
    squares = 0.0
    for i in range(2):
        middle = np.average(where[i], axis=0, weights=energy[i])
        np.testing.assert_allclose(mean[i], middle, atol=1e-5)
        squares += (energy[i] * ((where[i] - middle) ** 2).sum(1)).sum()
    assert float(value) == pytest.approx(np.sqrt(squares / energy.sum()), rel=1e-5)
    assert grade_of(jnp.asarray([0.0, 1.9, 2.0, 3.9, 4.0])).tolist() == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("mode", MODES)
def test_breathing_is_as_its_mode_says(mode):
    config = MotionConfig(mode=mode, views=4, mistrigger=0.25)

    @jax.jit
    @jax.vmap
    def draw(key):
        return draw_breathing(config, slices=6, lines=48, key=key)

    places, offsets = draw(jax.random.split(jax.random.key(0), 64))
    places, offsets = np.asarray(places), np.asarray(offsets)
    along = places[..., 2] / 0.15
    # The plane keeps the length: what leaves it and what stays in it add up.
    heart = np.hypot(places[..., 0], places[..., 1])
    np.testing.assert_allclose(heart, 0.6 * np.abs(along), atol=1e-4)
    assert set(np.unique(offsets)) == {-1, 0, 1}
    assert (offsets != 0).mean() == pytest.approx(0.25, abs=0.03)
    if mode == "breath_hold":
        assert np.abs(along).max() < 0.15 * 0.9 * 11 + 5 * 0.2
    else:
        low, high = {"intensive": (18, 30)}.get(mode, (8, 14))
        assert along.min() >= -1e-4 and along.max() <= high + 1e-4
        assert along.max((1, 2)).min() > 0.3 * low
    if mode == "half":
        held = along[:, :, :5]  # 0.4 of 12 beats
        # Over three beats every slice's breath comes and goes.
        assert np.abs(held).max() == 0 and along[:, :, 9:].max(2).min() > 0.3 * low


def test_labels_follow_the_mean_place():
    labels = jnp.zeros((D, H, W), jnp.int32).at[0, 4:8, 3:7].set(2)
    mean = jnp.asarray([[0.0, 4.0, -2.0], [10.0, 0.0, 0.0]])
    out = jax.jit(functools.partial(labels_at, spacing=SPACING))(labels, mean)
    np.testing.assert_array_equal(out[0], np.roll(labels[0], (2, -1), (0, 1)))
    np.testing.assert_array_equal(out[1], labels[0])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="breathing of shape"):
        moved(stack(), ZERO[:1], RIGID)


CINE = CineConfig(size=48, pixel=4.0, slices=5, gap=16.0, frames=4)


@pytest.fixture(scope="module")
def cine():
    return cine_phantom(CINE, key=jax.random.key(0))


def test_a_heartbeat_has_the_ejection_fraction_it_states(cine):
    labels = np.asarray(cine.labels)
    cavity, wall = ((labels == k).sum((1, 2, 3)) for k in (1, 2))
    assert cavity.argmin() == 2, "end-systole is the middle of four frames"
    assert 1 - cavity[2] / cavity[0] == pytest.approx(1 - 0.7**2, abs=0.04)
    # Muscle keeps its volume.
    np.testing.assert_allclose(wall, wall[0], rtol=0.06)
    assert (labels == 3).any((1, 2, 3)).all()
    blood = np.asarray(cine.image)[labels == 1].mean()
    muscle = np.asarray(cine.image)[labels == 2].mean()
    assert blood > 0.9 and muscle < 0.6


def test_the_volume_is_that_of_the_ellipsoid(cine):
    """Of the slices' planes: pi R^2 (1 - (z / L)^2) each, by counting pixels."""
    subject = jax.tree.map(np.asarray, cine.subject)
    heights = (np.arange(CINE.slices) + 0.5) * CINE.gap
    inside = np.maximum(1 - (heights / subject.length) ** 2, 0)
    area = np.pi * subject.radius**2 * inside
    counted = (np.asarray(cine.labels)[0] == 1).sum((1, 2)) * CINE.pixel**2
    np.testing.assert_allclose(counted, area, atol=0.05 * area[0])


def test_a_mode_is_not_a_grade(cine):
    """Shares of the grades among volunteers, by the energy of the phantom's lines."""
    kspace = fft2c(cine.image[0].astype(jnp.complex64))
    energy = jnp.sum(jnp.abs(kspace) ** 2, axis=2)
    shares = {}
    for mode in MODES:
        config = MotionConfig(mode=mode, views=6)
        beat = beat_of_line(48, views=6, ordering=config.ordering)

        @jax.jit
        @jax.vmap
        def grades(key, config=config, beat=beat):
            breathing = draw_breathing(config, slices=5, lines=48, key=key)
            _, value = severity(breathing.displacement[:, beat], energy)
            return grade_of(value)

        found = np.asarray(grades(jax.random.split(jax.random.key(1), 200)))
        shares[mode] = np.bincount(found, minlength=4)[1:] / 200
    assert shares["breath_hold"][0] == 1
    for mode in ("half", "free"):
        assert 0.1 < shares[mode][0] < 0.7 and 0.3 < shares[mode][1] < 0.9
    assert shares["intensive"][1] > 0.05 and shares["intensive"][2] > 0.5


def test_the_phantom_seen_through_the_plane(cine):
    """Its own view without motion is its stack; moved by a gap, the slice above."""
    config = MotionConfig(views=12, elastic=True)
    beats = beats_of(48, 12)
    weight = breathing_weight(CINE)
    assert float(weight.max()) > 0.95 and float(weight[0].max()) == 0
    for mm, expected in ((0.0, np.asarray(cine.image[0])), (16.0, None)):
        places = jnp.broadcast_to(jnp.asarray([mm, 0.0, 0.0]), (5, beats, 3))
        out = move(
            cine.image,
            FRAME,
            Breathing(places, jnp.zeros((5, beats), jnp.int32)),
            CINE.spacing,
            config,
            weight=weight,
            view=CineView(CINE),
            scene=cine.subject,
            key=jax.random.key(0),
        )
        if expected is None:
            out, expected = out._replace(image=out.image[1:]), cine.image[0, :-1]
        np.testing.assert_allclose(out.image, expected, atol=1e-5)
