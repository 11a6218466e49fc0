"""T1 and T2 maps: golden voxels, real and digital phantoms, noise."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit

from medjax.mri.relaxometry import fit_t1, fit_t2, phase_sensitive

TI = np.array([100, 180, 260, 1245, 1323, 1340, 2395, 2450, 3550], np.float32)


def recovery(t, a, b, t1_star):
    return a - b * np.exp(-t / t1_star)


def column(values):
    """One pixel's series as an image of one pixel."""
    return jnp.asarray(values, jnp.float32)[:, None]


# Voxels of MRKonrad/tomato (MIT): signals, times, and what its optimiser finds.
MOLLI_VOXELS = {
    "myocardium": (
        [49, 40, 26, 42, 59, 62, 63],
        [100, 180, 260, 1715, 3337, 4907, 6455],
        (62.4224, 122.5215, 919.943, 885.703),
    ),
    "blood": (
        [55, 49, 29, 22, 51, 61, 64],
        [100, 180, 260, 1715, 3337, 4907, 6455],
        (65.8968, 124.079, 1571.81, 1387.798),
    ),
}


@pytest.mark.parametrize("name", MOLLI_VOXELS)
def test_molli_voxels(name):
    magnitudes, times, (a, b, t1_star, t1) = MOLLI_VOXELS[name]
    fit = fit_t1(column(magnitudes), jnp.asarray(times, jnp.float32))
    found = [float(x[0]) for x in (fit.a, fit.b, fit.t1_star, fit.t1)]
    np.testing.assert_allclose(found, [a, b, t1_star, t1], rtol=2e-5)
    assert fit.negative_frames[0] == 3


def test_real_voxel_files(shared_data):
    yaml = pytest.importorskip("yaml", reason="reads the voxel files")
    folder = shared_data / "mri" / "tomato" / "yaml"
    for name in ("T1_myocardium", "T1_blood", "T1_long"):
        voxel = yaml.safe_load((folder / f"{name}.yaml").read_text())
        times = jnp.asarray(voxel["invTimes"], jnp.float32)
        fit = fit_t1(column(voxel["signalMag"]), times)
        found = [float(x[0]) for x in (fit.a, fit.b, fit.t1_star)]
        np.testing.assert_allclose(found, voxel["resultsMolli"], rtol=2e-5)
    for name, method in (
        ("T2_blood", "three_parameter"),
        ("T2_myocardium", "three_parameter"),
        ("T2_blood_3samples", "log_linear"),
        ("T2_myocardium_3samples", "log_linear"),
    ):
        voxel = yaml.safe_load((folder / f"{name}.yaml").read_text())
        times = jnp.asarray(voxel["echoTimes"], jnp.float32)
        fit = fit_t2(column(voxel["signalMag"]), times, method=method)
        _, m0, t2 = voxel["resultsThreeParam"]
        np.testing.assert_allclose([fit.m0[0], fit.t2[0]], [m0, t2], rtol=2e-3)


def dicom_series(folder, time_of):
    pydicom = pytest.importorskip("pydicom", reason="reads DICOM (extra: medical)")
    files = [pydicom.dcmread(p) for p in sorted((folder / "raw").glob("*.dcm"))]
    times = jnp.asarray([float(time_of(f)) for f in files], jnp.float32)
    series = jnp.asarray(np.stack([f.pixel_array for f in files]), jnp.float32)
    reference = pydicom.dcmread(next((folder / "map").glob("*.dcm"))).pixel_array
    return series, times, reference.astype(np.float32)


def test_dicom_t1_phantom_within_one_percent(shared_data):
    folder = shared_data / "mri" / "tomato" / "dicomT1"
    series, times, reference = dicom_series(folder, lambda f: f.InversionTime)
    t1 = np.asarray(fit_t1(series, times).t1)
    for nominal in (900, 1000, 1600):
        region = reference == nominal
        assert region.any()
        assert abs(np.median(t1[region]) / nominal - 1) < 0.01
    tissue = reference > 0
    assert np.mean(np.abs(t1[tissue] / reference[tissue] - 1) < 0.01) > 0.98


def test_dicom_t2_phantom_within_one_percent(shared_data):
    folder = shared_data / "mri" / "tomato" / "dicomT2"
    series, times, reference = dicom_series(folder, lambda f: f.EchoTime)
    t2 = np.asarray(fit_t2(series, times, method="three_parameter").t2)
    for nominal in np.unique(reference[reference > 0]):
        region = reference == nominal
        # Grey values are whole numbers: short T2 leaves few of them.
        assert abs(np.median(t2[region]) / nominal - 1) < 0.015


def test_magnitudes_of_every_polarity_are_recovered():
    """All nulls from before the first frame to after the sixth; curve_fit agrees."""
    t1_star = np.array([90, 200, 320, 1000, 1900, 2600], np.float32)
    signed = recovery(TI[:, None], 1.0, 1.9, t1_star[None]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(TI))
    fit = fit_t1(jnp.abs(signed[order]), jnp.asarray(TI[order]))
    np.testing.assert_allclose(fit.t1_star, t1_star, rtol=2e-3)
    np.testing.assert_allclose(fit.t1, t1_star * 0.9, rtol=2e-3)
    np.testing.assert_array_equal(fit.negative_frames, (signed < 0).sum(0))
    popt, _ = curve_fit(recovery, TI, signed[:, 3], p0=(1, 2, 800))
    np.testing.assert_allclose([fit.a[3], fit.b[3]], popt[:2], rtol=1e-3)


def test_official_mode_flips_one_frame_and_is_wrong_where_more_are_negative():
    t1_star = np.array([170.0, 1200.0], np.float32)  # nulls at 109 and 770 ms
    signal = np.abs(recovery(TI[:, None], 1.0, 1.9, t1_star[None])).astype(np.float32)
    fit = fit_t1(jnp.asarray(signal), jnp.asarray(TI), mode="official")
    np.testing.assert_allclose(fit.t1[0], 0.9 * 170, rtol=1e-3)
    assert abs(float(fit.t1[1]) - 0.9 * 1200) > 100
    # It is the least-squares fit of those data, as curve_fit finds it.
    flipped = signal[:, 0] * np.where(np.arange(9) < 1, -1, 1)
    popt, _ = curve_fit(recovery, TI, flipped, p0=(1, 2, 200))
    np.testing.assert_allclose(fit.t1_star[0], popt[2], rtol=1e-3)


def test_official_mode_ends_at_its_shortest_t1_star_where_the_script_runs_away():
    t1_star = np.linspace(500, 2000, 12).astype(np.float32)
    signal = 100 * np.abs(recovery(TI[:, None], 1.0, 1.9, t1_star[None]))
    fit = fit_t1(jnp.asarray(signal, jnp.float32), jnp.asarray(TI), mode="official")
    away = np.asarray(fit.t1_star) == 20
    np.testing.assert_array_equal(away, t1_star > 1100)
    for i in (4, 5):  # the last that has a minimum, the first that has none
        flipped = signal[:, i] * np.where(np.arange(9) < 1, -1, 1)
        popt, _ = curve_fit(
            lambda t, a, b, c: a * (1 - np.exp(-b * t)) + c,
            TI,
            flipped,
            p0=(350, 0.005, -150),
            method="trf",
        )
        if away[i]:
            assert 5 < 1 / popt[1] < 15
        else:
            np.testing.assert_allclose(fit.t1_star[i], 1 / popt[1], rtol=1e-3)


@pytest.mark.parametrize("dtype", ["u2", "i2", ">u2", "i4", "f2", "f8", "bfloat16"])
def test_any_real_type_is_fitted_as_its_float32(dtype):
    times, echoes = TI.astype("i4"), np.array([0, 35, 55], "i4")
    t1 = (20_000 * np.abs(recovery(TI, 1.0, 1.9, 1200 / 0.9))).round()[:, None]
    t2 = (20_000 * np.exp(-echoes / 45)).round()[:, None]
    cast = jnp.asarray if dtype == "bfloat16" else np.asarray
    found = (
        fit_t1(cast(t1, dtype), times).t1,
        fit_t2(cast(t2, dtype), echoes, method="weighted_log_linear").t2,
    )
    wanted = (
        fit_t1(jnp.asarray(cast(t1, dtype).astype("f4")), jnp.asarray(TI)).t1,
        fit_t2(
            jnp.asarray(cast(t2, dtype).astype("f4")),
            jnp.asarray(echoes, jnp.float32),
            method="weighted_log_linear",
        ).t2,
    )
    np.testing.assert_array_equal(found, wanted)
    assert found[0].dtype == jnp.float32
    if dtype not in ("f2", "bfloat16"):  # those have not digits enough
        np.testing.assert_allclose(found, [[1200], [45]], atol=1)


@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e8, 1e12])
def test_the_unit_of_the_signal_changes_no_time(scale):
    series = np.abs(recovery(TI, 1.0, 1.9, 1200 / 0.9))[:, None]
    series = jnp.asarray(series * scale, jnp.float32)
    fit = fit_t1(series, jnp.asarray(TI))
    np.testing.assert_allclose(fit.t1, 1200, rtol=1e-4)
    np.testing.assert_allclose(fit.a, scale, rtol=1e-4)
    echoes = jnp.asarray([0.0, 35.0, 55.0])
    decay = jnp.exp(-echoes / 45)[:, None] * scale
    for method in ("log_linear", "weighted_log_linear", "two_parameter"):
        fit = fit_t2(decay, echoes, method=method)
        np.testing.assert_allclose(fit.t2, 45, rtol=1e-4)


def test_phase_sensitive_images_need_no_search():
    t1_star = np.linspace(300, 1800, 7).astype(np.float32)
    signed = recovery(TI[:, None], 1.0, 1.9, t1_star[None])
    phase = np.exp(1j * np.linspace(-3, 3, 7))[None]
    images = jnp.asarray(signed * phase, jnp.complex64)
    restored = phase_sensitive(images, jnp.asarray(TI))
    np.testing.assert_allclose(restored, signed, atol=1e-5)
    fit = fit_t1(restored, jnp.asarray(TI), mode="signed", look_locker=False)
    np.testing.assert_allclose(fit.t1, t1_star, rtol=1e-3)


@pytest.mark.parametrize("method", ["t1", "t2"])
def test_standard_error_is_the_spread_over_noise(method):
    rng = np.random.default_rng(0)
    if method == "t1":
        times, truth = TI, recovery(TI, 1.0, 1.9, 1200.0)
    else:
        times = np.array([0, 25, 35, 55, 80], np.float32)
        truth = np.exp(-times / 45)
    noisy = truth[:, None] + 0.01 * rng.normal(size=(len(times), 4000))
    noisy, times = jnp.asarray(noisy, jnp.float32), jnp.asarray(times)
    if method == "t1":
        fit = fit_t1(noisy, times, mode="signed")
        value, error, freedom, parameters = fit.t1, fit.t1_sd, 6, 3
    else:
        fit = fit_t2(noisy, times)
        value, error, freedom, parameters = fit.t2, fit.t2_sd, 3, 2
    # Root mean square over noise: the variance is what is estimated without bias.
    predicted = float(jnp.sqrt(jnp.mean(error**2)))
    np.testing.assert_allclose(predicted, float(jnp.std(value)), rtol=0.06)
    expected = 0.01 * np.sqrt(freedom / (freedom + parameters))
    found = float(jnp.sqrt(jnp.mean(fit.residual**2)))
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_t2_methods_agree_without_noise_and_official_clips():
    times = jnp.asarray([0, 35, 55], jnp.float32)
    t2 = np.array([45, 120, 260], np.float32)
    signal = jnp.asarray(100 * np.exp(-np.asarray(times)[:, None] / t2), jnp.float32)
    for method in ("log_linear", "weighted_log_linear", "two_parameter"):
        fit = fit_t2(signal, times, method=method)
        np.testing.assert_allclose(fit.t2, t2, rtol=1e-3)
        np.testing.assert_allclose(fit.m0, 100, rtol=1e-4)
    official = fit_t2(signal, times, method="official").t2
    np.testing.assert_allclose(official, [45, 120, 0], rtol=1e-3)
    # float32's epsilon on the slope: 1 / (1 / 120 + eps) is 120.0017.
    rate = 1 / np.asarray(fit_t2(signal, times, method="log_linear").t2)[1]
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(official[1], 1 / (rate - eps), rtol=1e-6)
    assert official[1] * rate > 1 + 8 * eps
    bright = jnp.asarray([[10_001.0, 9_999.0]]) / signal[1, 0] * signal[:, :1]
    official = fit_t2(bright, times, method="official").t2
    np.testing.assert_allclose(official, [0, 45], rtol=1e-3)
    exact = fit_t2(signal + 7, times, method="three_parameter")
    np.testing.assert_allclose(exact.t2[:2], t2[:2], rtol=5e-3)
    np.testing.assert_allclose(exact.offset[:2], 7, rtol=0.02)
    assert np.isnan(exact.t2_sd).all()  # three frames, three parameters


def test_empty_pixels_are_zero_and_every_shape_is_kept():
    signal = np.zeros((9, 2, 3, 5), np.float32)
    signal[:, 1] = np.abs(recovery(TI, 1.0, 1.9, 900.0))[:, None, None]
    fit = fit_t1(jnp.asarray(signal), jnp.asarray(TI), chunk=4)
    assert fit.t1.shape == (2, 3, 5)
    for name, values in fit._asdict().items():
        assert np.all(np.asarray(values)[0] == 0), name
    np.testing.assert_allclose(fit.t1[1], 810, rtol=1e-3)
    t2 = fit_t2(jnp.zeros((3, 4)), jnp.asarray([0.0, 35.0, 55.0]))
    assert all(np.all(np.asarray(x) == 0) for x in t2)


def test_wrong_use_is_refused():
    # Without the tests' type hook, which would refuse first: as users have it.
    t1, t2 = inspect.unwrap(fit_t1), inspect.unwrap(fit_t2)
    with pytest.raises(ValueError, match="mode is 'best'"):
        t1(jnp.ones((9, 2)), jnp.asarray(TI), mode="best")
    with pytest.raises(ValueError, match="inversion_times has shape"):
        t1(jnp.ones((8, 2)), jnp.asarray(TI))
    with pytest.raises(ValueError, match="3 at least"):
        t1(jnp.ones((2, 2)), jnp.ones(2))
    with pytest.raises(ValueError, match="method is 'exact'"):
        t2(jnp.ones((3, 2)), jnp.ones(3), method="exact")


def test_noisy_magnitudes_of_a_whole_map_give_the_truth_within_one_percent():
    """144 x 512 pixels, polarity search included: the map that ``bench maps`` times."""
    rng = np.random.default_rng(0)
    t1_star = rng.uniform(300, 1900, (144, 512)).astype(np.float32)
    signed = recovery(TI[:, None, None], 1.0, 1.9, t1_star[None])
    noisy = np.abs(signed + 0.005 * rng.normal(size=signed.shape))
    fit = fit_t1(jnp.asarray(noisy, jnp.float32), jnp.asarray(TI))
    error = np.abs(np.asarray(fit.t1_star) - t1_star)
    assert np.median(error / t1_star) < 0.01
