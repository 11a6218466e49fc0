"""CMRxRecon: the official scores of every year, and what they are of."""

import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri import cmrxrecon


def golden_pair():
    y, x = np.meshgrid(np.arange(32), np.arange(48), indexing="ij")
    reference = 1 + np.sin(y / 5) * np.cos(x / 7)
    return 2 * reference + 0.1 * np.sin(x), reference


def test_golden_scores_of_2023():
    prediction, reference = (jnp.asarray(a, jnp.float32) for a in golden_pair())
    scores = cmrxrecon.official_scores(prediction, reference, year=2023)
    np.testing.assert_allclose(scores["psnr"], 34.433351, rtol=2e-6)
    np.testing.assert_allclose(scores["ssim"], 0.984969, rtol=2e-6)
    np.testing.assert_allclose(scores["nmse"], 0.00114058, rtol=1e-4)


def official(prediction, reference, year):
    """The rules of each year, written with scikit-image in double precision."""
    metrics = pytest.importorskip("skimage.metrics", reason="oracle: scikit-image")
    normalise = {
        2023: lambda a: a / a.max(),
        2024: lambda a: (a - a.mean()) / a.std(),
        2025: lambda a: a / np.percentile(a, 99.5),
    }[year]
    p, g = normalise(prediction), normalise(reference)
    return {
        "psnr": metrics.peak_signal_noise_ratio(g, p, data_range=g.max()),
        "ssim": metrics.structural_similarity(g, p, data_range=g.max()),
        "nmse": ((g - p) ** 2).sum() / (g**2).sum(),
    }


@pytest.mark.parametrize("year", [2023, 2024, 2025])
@pytest.mark.parametrize("exchanged", [False, True])
def test_every_years_rule(year, exchanged):
    rng = np.random.default_rng(0)
    reference = rng.gamma(2.0, size=(2, 18, 22)).astype(np.float32) * 1e-4
    prediction = reference * (1 + 0.1 * rng.normal(size=reference.shape))
    prediction = np.abs(prediction).astype(np.float32)
    ours = cmrxrecon.official_scores(
        jnp.asarray(prediction), jnp.asarray(reference), year=year, exchanged=exchanged
    )
    for i in range(2):
        pair = (prediction[i].astype(float), reference[i].astype(float))
        theirs = official(*(pair[::-1] if exchanged else pair), year)
        for metric, value in theirs.items():
            np.testing.assert_allclose(ours[metric][i], value, rtol=5e-5)


def test_another_year_is_refused():
    with pytest.raises(ValueError, match="year=2022: rules are known for"):
        cmrxrecon.official_scores(jnp.ones((9, 9)), jnp.ones((9, 9)), year=2022)


@pytest.mark.parametrize(
    ("name", "shape", "rows", "columns", "slices", "frames"),
    [
        ("T1map", (9, 5, 144, 512), (36, 108), (171, 342), (1, 3), 9),
        ("T2map", (3, 6, 116, 384), (29, 87), (128, 256), (1, 3), 3),
        ("cine_sax", (12, 2, 162, 512), (41, 122), (171, 342), (0, 2), 3),
    ],
)
def test_the_ranked_part_of_a_series(name, shape, rows, columns, slices, frames):
    places = [np.arange(n) for n in shape]
    grid = [
        jnp.asarray(p.reshape([-1 if i == j else 1 for j in range(4)]), jnp.int32)
        for i, p in enumerate(places)
    ]
    h, w = places[2], places[3]
    images = jnp.broadcast_to(grid[1] * 10**6 + grid[2] * 1000 + grid[3], shape)
    crop = np.asarray(cmrxrecon.ranking_crop(images, name=name))
    assert crop.shape[0] == frames
    np.testing.assert_array_equal(crop[0, :, 0, 0] // 10**6, np.arange(*slices))
    np.testing.assert_array_equal(crop[0, 0, :, 0] % 10**6 // 1000, h[slice(*rows)])
    np.testing.assert_array_equal(crop[0, 0, 0] % 1000, w[slice(*columns)])


def test_the_leaderboards_summary_and_its_defect():
    multi = {"psnr": 40.0, "ssim": 0.98, "nmse": 0.01}
    single = {"psnr": 38.0, "ssim": 0.97, "nmse": 0.03}
    scores = {
        ("MultiCoil", "T1map", 4): multi,
        ("SingleCoil", "T1map", 4): single,
        ("MultiCoil", "T2map", 4): {**multi, "psnr": 42.0},
        ("MultiCoil", "T1map", 8): {**multi, "psnr": float("nan")},
        ("SingleCoil", "T1map", 8): single,
    }
    correct = cmrxrecon.aggregate_2023(scores)
    official = cmrxrecon.aggregate_2023(scores, mode="official")
    assert correct["psnr"] == official["psnr"] == (41.0 + 38.0) / 2
    assert correct["nmse"] == pytest.approx((0.01 + 0.01) / 2)
    assert official["nmse"] == pytest.approx(((0.03 + 0.01) / 2 + 0.03) / 2)
    assert np.isnan(cmrxrecon.aggregate_2023({})["ssim"])
