"""Fits at the noise floor: what least squares reads there, and what likelihood."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import i0e

from medjax.mri.relaxometry import (
    REASONS,
    estimate_sigma,
    fit_t1,
    fit_t2,
    implausible,
)
from medjax.mri.relaxometry.noise import information, rician_mean
from medjax.mri.relaxometry.plausibility import masked

ECHOES = np.arange(10.0, 121.0, 10.0, dtype=np.float32)
TI = np.array([100, 180, 260, 1245, 1323, 1340, 2395, 2450, 3550], np.float32)
PIXELS = 1500
CODES = {reason: code for code, reason in REASONS.items()}


def magnitudes(signal, pixels=PIXELS, sigma=1.0, seed=0):
    """Rician magnitudes of one signal, ``t pixels``."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, len(signal), pixels)) * sigma
    return np.abs(signal[:, None] + noise[0] + 1j * noise[1]).astype(np.float32)


@pytest.fixture(scope="module")
def short_t2():
    """T2 = 30 ms at ten sigma: the late echoes are noise."""
    return magnitudes(10 * np.exp(-ECHOES / 30))


@pytest.fixture(scope="module")
def by_likelihood(short_t2):
    return fit_t2(short_t2, ECHOES, sigma=1.0)


def test_a_t2_of_30_ms_at_an_snr_of_10_reads_30(short_t2, by_likelihood):
    squares = fit_t2(short_t2, ECHOES)
    assert np.median(squares.t2) > 40  # what the noise floor makes of it
    assert abs(np.median(by_likelihood.t2) - 30) < 0.7
    assert abs(np.mean(by_likelihood.t2) - 30) < 1.5


def test_it_is_the_fit_of_largest_likelihood(short_t2, by_likelihood):
    """As an optimiser without derivatives finds it."""

    def negative(parameters, y):
        m0, rate = np.exp(parameters)
        model = m0 * np.exp(-ECHOES * rate)
        z = y * model
        return np.sum((y - model) ** 2 / 2 - np.log(i0e(z)))

    for i in range(4):
        start = np.log([10, 1 / 30])
        found = minimize(negative, start, args=(short_t2[:, i],), method="Nelder-Mead")
        m0, rate = np.exp(found.x)
        assert float(by_likelihood.t2[i]) == pytest.approx(1 / rate, rel=0.01)
        assert float(by_likelihood.m0[i]) == pytest.approx(m0, rel=0.01)


def test_its_standard_error_is_the_spread_over_noise(by_likelihood):
    t2, error = np.asarray(by_likelihood.t2), np.asarray(by_likelihood.t2_sd)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(np.std(t2), rel=0.1)


def test_far_above_the_noise_both_fits_agree_and_every_frame_counts():
    signal = 400 * np.exp(-ECHOES / 60)
    y = magnitudes(signal, 50)
    np.testing.assert_allclose(
        fit_t2(y, ECHOES, sigma=1.0).t2, fit_t2(y, ECHOES).t2, rtol=1e-3
    )
    weight = information(jnp.asarray([0.0, 1.0, 50.0]), jnp.asarray(1.0))
    assert weight[0] < 1e-3 < 0.3 < weight[1] < 0.7 and weight[2] > 0.98


def test_a_recovery_at_the_noise_floor_is_less_biased():
    """The frames around the null read too high; the sign comes from the model."""
    y = magnitudes(12 * (1 - 1.9 * np.exp(-TI / 1500)), 600)
    wrong, right = (np.median(fit_t1(y, TI, sigma=s).t1_star) for s in (None, 1.0))
    assert abs(right - 1500) < 30 < 50 < abs(wrong - 1500)


def test_magnitudes_read_their_rician_mean():
    signal = np.array([0.0, 1.0, 3.0, 20.0])
    measured = magnitudes(signal, 40_000, sigma=0.5).mean(axis=1)
    expected = rician_mean(jnp.asarray(signal, jnp.float32), jnp.asarray(0.5))
    np.testing.assert_allclose(measured, expected, rtol=0.01)


def test_noise_is_measured_in_the_air_and_refused_elsewhere():
    rng = np.random.default_rng(1)
    object_ = np.zeros((3, 64, 48))
    object_[:, 16:48, 12:36] = 30
    noise = rng.normal(size=(2, *object_.shape)) * 2.5
    series = np.abs(object_ + noise[0] + 1j * noise[1]).astype(np.float32)
    assert estimate_sigma(series) == pytest.approx(2.5, rel=0.08)
    blanked = np.where(object_ > 0, series, 0).astype(np.float32)
    with pytest.raises(ValueError, match="set to zero"):
        estimate_sigma(blanked)
    with pytest.raises(ValueError, match="no plain noise"):
        estimate_sigma(series + 50)


def test_implausible_fits_are_told_apart():
    """Pixels of air: one in nine has a negative T1, which no tissue has."""
    air = magnitudes(np.zeros(9))
    fit = fit_t1(air, TI)
    assert 0.09 < np.mean(fit.t1 < 0) < 0.15
    codes = implausible(fit, air)
    assert not np.any((codes == 0) & (np.asarray(fit.t1) <= 0))
    assert set(np.unique(codes)) >= {0, CODES["not positive"]}
    known = implausible(fit, air, sigma=1.0)
    assert np.mean(known != 0) > 0.99
    assert np.mean(known == CODES["not above the noise"]) > 0.97
    assert not masked(np.asarray(fit.t1), known)[known != 0].any()

    tissue = magnitudes(100 * (1 - 1.9 * np.exp(-TI / 1000)), 200)
    assert not implausible(fit_t1(tissue, TI), tissue, sigma=1.0).any()
    empty = np.zeros((9, 2), np.float32)
    assert (implausible(fit_t1(empty, TI), empty) == CODES["no signal"]).all()
    flat = np.full((12, 3), 50, np.float32)
    end = CODES["time constant at the end of the search"]
    assert (implausible(fit_t2(flat, ECHOES), flat) == end).all()


def test_a_sigma_that_means_nothing_is_refused():
    t1, t2 = inspect.unwrap(fit_t1), inspect.unwrap(fit_t2)
    with pytest.raises(ValueError, match="sigma is 0"):
        t1(jnp.ones((9, 2)), jnp.asarray(TI), sigma=0.0)
    with pytest.raises(ValueError, match="mode is 'signed'"):
        t1(jnp.ones((9, 2)), jnp.asarray(TI), sigma=1.0, mode="signed")
    with pytest.raises(ValueError, match="method is 'log_linear'"):
        t2(jnp.ones((12, 2)), jnp.asarray(ECHOES), sigma=1.0, method="log_linear")
