"""Distances of distributions against closed forms, and that controls are needed."""

import numpy as np
import pytest

from medjax.metrics.distributions import (
    beside_controls,
    bhattacharyya,
    distances,
    energy,
    histograms,
    js,
    kl,
    residual_spread,
    slope,
    wasserstein,
)

RNG = np.random.default_rng(0)


def test_divergences_of_known_shares():
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    assert kl(p, q) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert js(p, p) == kl(q, q) == 0 and bhattacharyya(p, p) == pytest.approx(0)
    assert js(np.array([1 - 1e-9, 1e-9]), np.array([1e-9, 1 - 1e-9])) == pytest.approx(
        np.log(2), abs=1e-6
    )
    same = np.sqrt(0.125) + np.sqrt(0.375)
    assert bhattacharyya(p, q) == pytest.approx(-np.log(same))


def test_normals_have_their_closed_forms():
    x, y = RNG.normal(0, 1, 200_000), RNG.normal(0.5, 1, 200_000)
    found = distances(x, y)
    assert found["kl"] == pytest.approx(0.125, rel=0.08)  # of bins, not of densities
    assert found["bhattacharyya"] == pytest.approx(0.5**2 / 8, rel=0.08)
    assert found["wasserstein"] == pytest.approx(0.5, rel=0.02)
    assert wasserstein(10 * x, 10 * y) == pytest.approx(found["wasserstein"], rel=1e-6)


def test_histograms_share_bins_and_keep_what_lies_outside():
    p, q = histograms(np.arange(100.0), np.full(50, 1e6))
    assert len(p) == len(q) == 20
    assert p.sum() == pytest.approx(1) and q[-1] == pytest.approx(1, abs=1e-3)
    assert min(p.min(), q.min()) > 0
    same, other = histograms(np.ones(5), np.ones(5))
    np.testing.assert_allclose(same, other)


def test_energy_is_zero_between_halves_and_grows_with_a_shift():
    x = RNG.normal(size=(800, 3)) * [1, 10, 100]
    assert abs(energy(x[:400], x[400:])) < 0.03
    shifted = x[400:] + np.array([1, 0, 0])
    far = energy(x[:400], shifted)
    assert far > 0.15 and energy(x[:400], x[400:] + np.array([2, 0, 0])) > 2 * far


def test_a_generator_that_copies_has_the_floors_wasserstein():
    """So a distance alone does not tell a memory from a model."""
    people = RNG.normal(size=(600, 2))
    train, test = people[:300], people[300:]
    groups = {
        "ours": RNG.normal(0, 0.3, (300, 2)),
        "floor": train,
        "copy": train[RNG.integers(300, size=300)],
        "unconditional": train[RNG.permutation(300)],
    }
    groups["ours"][0, 1] = np.nan
    rows = {r["group"]: r for r in beside_controls(test, groups, ("a", "b"))}
    assert rows["ours"]["n"] == 299 and rows["ours"]["undefined"] == 1
    assert rows["copy"]["wasserstein"] < 0.2 < rows["ours"]["wasserstein"]
    with pytest.raises(ValueError, match=r"controls \['copy'\] are missing"):
        beside_controls(test, {k: v for k, v in groups.items() if k != "copy"}, ("a",))


def test_slopes_and_spreads_are_recovered():
    age = RNG.uniform(40, 80, 400)
    volume = 200 - 1.5 * age + RNG.normal(0, 7, 400)
    found, low, high = slope(age, volume)
    assert low < -1.5 < high and high - low < 0.3
    assert found == pytest.approx(np.polyfit(age, volume, 1)[0])
    assert residual_spread(age[:, None], volume) == pytest.approx(7, rel=0.1)


def test_what_has_no_distance_is_refused():
    with pytest.raises(ValueError, match="other: expected finite samples"):
        histograms(np.ones(3), np.array([1, np.nan]))
    with pytest.raises(ValueError, match="3 real samples of deviation 0"):
        wasserstein(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="1 and 3 samples"):
        energy(np.ones((1, 2)), np.ones((3, 2)))


def test_nothing_is_told_of_nobody():
    """A generator that draws no ventricle has neither a slope of 0 nor no spread."""
    nobody = np.zeros(0)
    assert np.isnan(slope(nobody, nobody)).all()
    assert np.isnan(residual_spread(np.zeros((2, 1)), np.zeros(2)))
    real, none = RNG.normal(size=(5, 2)), np.full((5, 2), np.nan)
    controls = dict.fromkeys(("floor", "copy", "unconditional"), real)
    (row, *_) = beside_controls(real, {"ours": none, **controls}, ("a", "b"))
    assert row == {"group": "ours", "n": 0, "undefined": 5}
    rows = beside_controls(none, controls, ("a", "b"))
    assert all("energy" not in row for row in rows)
