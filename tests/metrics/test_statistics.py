"""Intervals that cover what they say, and verdicts that say no more."""

import numpy as np
import pytest

from medjax.metrics.statistics import PairedDifference, paired_bootstrap


def trial(rng, seeds, subjects, difference=0.0):
    """Two methods whose difference varies with the seed, the subject and by itself."""
    shared = rng.normal(size=(seeds, subjects))
    noise = rng.normal(size=(seeds, subjects))
    effect = rng.normal(size=(1, subjects))
    if seeds > 1:  # what a single seed adds cannot be told from what the method does
        effect = effect + rng.normal(size=(seeds, 1))
    return shared + difference + effect + noise, shared


@pytest.mark.parametrize(("seeds", "subjects"), [(3, 24), (5, 24), (1, 12)])
def test_the_interval_covers_the_truth(seeds, subjects):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        first, second = trial(rng, seeds, subjects, difference=2.0)
        found = paired_bootstrap(first, second, seed=0, resamples=400)
        covered += found.low < 2.0 < found.high
    # The standard error of the share is 1.5 %; erring on the wide side is allowed.
    assert covered / 200 > 0.91


def test_percentiles_of_few_seeds_are_too_narrow():
    """Why they are not the default: 95 % intervals that hold the truth far less."""
    rng = np.random.default_rng(1)
    options = {"seed": 0, "resamples": 400}
    covered = {"t": 0, "percentile": 0}
    for _ in range(150):
        pair = trial(rng, 3, 24)
        for kind in ("t", "percentile"):
            found = paired_bootstrap(*pair, interval=kind, **options)
            covered[kind] += found.low < 0 < found.high
    assert covered["t"] > 1.1 * covered["percentile"]


def test_pairing_takes_out_what_both_share():
    rng = np.random.default_rng(2)
    shared = 100 * rng.normal(size=(4, 10))
    noise = 0.1 * rng.normal(size=(4, 10))
    found = paired_bootstrap(shared + 1 + noise, shared, seed=0)
    assert found.mean == pytest.approx(1, abs=0.1) and found.high - found.low < 0.5
    swapped = paired_bootstrap(shared, shared + 1 + noise, seed=0)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))
    assert "4 seeds, 10 subjects" in str(found)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-3, 3, "equivalent"),
        (1, 3, "equivalent"),  # different from zero, and too little to matter
        (-25, -12, "better"),
        (12, 25, "worse"),
        (-17, 11, "undecided"),
        (-15, -2, "better"),
    ],
)
def test_verdicts(low, high, verdict):
    mean, shrink = (low + high) / 2, 0.8
    inner = [mean + shrink * (edge - mean) for edge in (low, high)]
    found = PairedDifference(mean, low, high, *inner, 0.95, 5, 24)
    assert found.verdict(margin=10.0, lower_is_better=True) == verdict
    opposite = {"better": "worse", "worse": "better"}.get(verdict, verdict)
    assert found.verdict(margin=10.0, lower_is_better=False) == opposite


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="1 of 6 differences are NaN"):
        paired_bootstrap(np.array([[1, 2, np.nan], [1, 2, 3]]), np.ones((2, 3)), seed=0)
    with pytest.raises(ValueError, match="at least two seeds or two subjects"):
        paired_bootstrap(np.ones((1, 1)), np.ones((1, 1)), seed=0)
    found = PairedDifference(0.0, -1.0, 1.0, -0.8, 0.8, 0.95, 5, 24)
    with pytest.raises(ValueError, match="positive"):
        found.verdict(margin=0.0, lower_is_better=True)
