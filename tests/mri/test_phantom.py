"""The Bloch phantom: physics with known answers, and truth that can be read back."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri import bloch
from medjax.mri.fourier import ifft2c
from medjax.mri.phantom import LABELS, PhantomConfig, cardiac_phantom, phantom_batch
from medjax.mri.relaxometry import fit_t1, fit_t2
from medjax.mri.sense import combine, rss

IDEAL = bloch.Readout(pulses=0)
# One inversion from equilibrium, seen without being touched: three parameters exactly.
TEXTBOOK = PhantomConfig(
    height=24,
    width=20,
    scheme=((9, 0),),
    first_inversion_times=(100.0,),
    readout=IDEAL,
    coils=3,
)


def scan(config, seed=0):
    return cardiac_phantom(config, key=jax.random.key(seed))


@pytest.fixture(scope="module")
def textbook():
    return scan(TEXTBOOK)


def test_textbook_inversion_recovery_gives_the_truth_back(textbook):
    p = textbook
    for signal, mode in ((p.signed, "signed"), (jnp.abs(p.image), "correct")):
        fit = fit_t1(signal, p.times, mode=mode, look_locker=False)
        tissue = np.asarray(p.m0) > 0
        np.testing.assert_allclose(
            np.asarray(fit.t1)[tissue], np.asarray(p.t1)[tissue], rtol=2e-3
        )
    np.testing.assert_allclose(fit.b, 1.96 * p.m0, atol=2e-3)


def test_coils_and_kspace_hold_the_image(textbook):
    p = textbook
    np.testing.assert_allclose(rss(p.sensitivities), 1, atol=1e-5)
    images = ifft2c(p.kspace)
    np.testing.assert_allclose(
        combine(images, p.sensitivities[None]), p.image, atol=2e-6
    )
    np.testing.assert_allclose(jnp.abs(p.image), jnp.abs(p.signed), atol=1e-6)
    assert set(np.unique(p.label)) == {0, *LABELS.values()}
    blood = p.t1[p.label == LABELS["lv_blood"]]
    muscle = p.t1[p.label == LABELS["myocardium"]]
    assert np.min(blood) > np.median(muscle) and len(np.unique(muscle)) == 2


def test_same_key_same_phantom_and_other_key_another(textbook):
    again, other = scan(TEXTBOOK), scan(TEXTBOOK, seed=1)
    np.testing.assert_array_equal(again.kspace, textbook.kspace)
    assert not np.array_equal(other.t1, textbook.t1)


def test_t2_series_gives_t2_back():
    # Fully recovered between images, so that nothing but T2 weighs them.
    config = dataclasses.replace(TEXTBOOK, sequence="t2", t2_rest=40)
    p = scan(config)
    t2 = np.asarray(fit_t2(jnp.abs(p.image), p.times).t2)
    tissue = np.asarray(p.m0) > 0
    np.testing.assert_allclose(t2[tissue], np.asarray(p.t2)[tissue], rtol=2e-3)


def test_breathing_moves_the_heart_and_noise_has_its_size():
    config = dataclasses.replace(TEXTBOOK, breathing=1.5, noise=0.02, coils=1)
    still = scan(dataclasses.replace(TEXTBOOK, coils=1))
    p = scan(config)
    assert np.std(p.shift) > 0.5
    change = np.abs(p.signed - still.signed)
    assert (change.max((1, 2)) > 0.05).all()
    assert change[:, :2].max() < 1e-6  # above the chest nothing moves
    clean = p.image[:, None] * p.sensitivities[None]
    noise = ifft2c(p.kspace) - clean
    expected = 0.02 * float(jnp.max(jnp.abs(p.signed)))
    np.testing.assert_allclose(np.std(np.asarray(noise.real)), expected, rtol=0.03)


def rotation(angle):
    s, c = np.sin(angle), np.cos(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def test_readout_equals_the_bloch_equations_in_three_dimensions():
    """Full vectors, pulses of alternating sign, matrices: no rotating frame."""
    t1, t2, start = 900.0, 60.0, -0.7
    readout = bloch.Readout(pulses=7, flip_angle=50.0, repetition_time=4.0)
    alpha = np.deg2rad(50.0)

    def rest(m, duration):
        e1, e2 = np.exp(-duration / t1), np.exp(-duration / t2)
        return m * [e2, e2, e1] + [0, 0, 1 - e1]

    m = rest(rotation(alpha / 2) @ [0, 0, start], 2.0)
    sign, echo = -1, None
    for pulse in range(7):
        m = rest(rotation(sign * alpha) @ m, 2.0)
        if pulse == 3:
            echo = sign * m[1]
        m, sign = rest(m, 2.0), -sign
    left = (rotation(sign * alpha / 2) @ m)[2]
    signal, mz = bloch.readout_response(jnp.array([t1]), jnp.array([t2]), readout)(
        jnp.array([start])
    )
    np.testing.assert_allclose([signal[0], mz[0]], [echo, left], rtol=1e-5)


def test_molli_is_biased_as_molli_is_and_less_so_with_longer_rests():
    t1, t2 = jnp.full((1,), 1200.0), jnp.full((1,), 47.0)
    rr = jnp.float32(1000.0)

    def fitted(scheme, first):
        signal = bloch.molli(
            t1, t2, scheme=scheme, first=first, rr=rr, efficiency=1.0,
            readout=bloch.Readout(),
        )  # fmt: skip
        times = bloch.molli_times(scheme, first, rr)
        fit = fit_t1(signal, times, mode="signed")
        return float(fit.t1[0]), float(fit.t1_star[0])

    short, _ = fitted(((4, 1), (3, 1), (2, 0)), (100.0, 180.0, 260.0))
    long, t1_star = fitted(((5, 3), (3, 0)), (100.0, 180.0))
    # Look-Locker mends most of the saturation; T2 keeps it below the truth.
    assert short < long < 1200 and t1_star < long
    assert 0.85 * 1200 < long


def test_times_of_4_1_3_1_2():
    times = bloch.molli_times(
        ((4, 1), (3, 1), (2, 0)), (100.0, 180.0, 260.0), jnp.float32(1150.0)
    )
    expected = [100, 1250, 2400, 3550, 180, 1330, 2480, 260, 1410]
    np.testing.assert_allclose(times, expected)


def test_batch_has_what_the_systems_read():
    mask = jnp.ones((24, 1), bool)
    batch = phantom_batch(TEXTBOOK, mask, 2, key=jax.random.key(3))
    assert batch["kspace"].shape == (2, 9, 3, 24, 20)
    assert batch["mask"].shape == (2, 1, 24, 1)
    assert batch["sensitivities"].shape == (2, 3, 24, 20)
    assert batch["t1"].shape == batch["label"].shape == (2, 24, 20)
    assert not np.array_equal(batch["t1"][0], batch["t1"][1])


def test_impossible_timing_is_refused():
    molli = inspect.unwrap(bloch.molli)
    one = jnp.ones(1)
    common = dict(rr=jnp.float32(1000), efficiency=1.0, readout=bloch.Readout())
    with pytest.raises(ValueError, match="one for each of the 2"):
        molli(one, one, scheme=((5, 3), (3, 0)), first=(100.0,), **common)
    with pytest.raises(ValueError, match="expected at least 83.7"):
        molli(one, one, scheme=((5, 0),), first=(50.0,), **common)
