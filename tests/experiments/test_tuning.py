"""Weights of classical methods are chosen inside their grid, or not at all."""

import jax.numpy as jnp
import pytest

from experiments.compare import tuning
from experiments.compare.tuning import WIDENINGS, WIDER, tuned


@pytest.fixture
def bowl(monkeypatch):
    """A method whose error is least at lam = 5 and mu = 0.01, and its grid."""
    monkeypatch.setattr(tuning.series, "nmse", lambda found, batch: found)
    asked = []

    def method(batch, lam, mu):
        asked.append((lam, mu))
        return (jnp.log(lam / batch) ** 2) + (mu - 0.01) ** 2

    return method, asked


def test_a_grid_grows_until_its_best_is_inside(bowl):
    method, asked = bowl
    grid = {"lam": (0.5, 1.0, 2.0), "mu": (0.1, 0.2)}
    found = tuned(method, grid, [5.0])
    # 1 and 2 of an even factor, so 4 is nearer to 5 than 8 is.
    assert found["lam"] == 4.0
    assert found["mu"] == pytest.approx(0.1 / WIDER**3)  # 0.0125, of 0.00625 and 0.025
    assert len(asked) == len(set(asked)), "an error was computed twice"
    assert max(lam for lam, _ in asked) > found["lam"] > min(lam for lam, _ in asked)


def test_zero_is_the_least_weight_there_is():
    """... so that it is no edge."""

    def method(batch, lam):
        return jnp.float32(lam)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning.series, "nmse", lambda found, batch: found)
        assert tuned(method, {"lam": (0.0, 0.1)}, [1.0]) == {"lam": 0.0}


def test_an_error_that_only_falls_is_refused(bowl):
    method, _ = bowl
    far = 2.0 * WIDER ** (WIDENINGS + 3)
    with pytest.raises(ValueError, match="NMSE still falls at the edge of"):
        tuned(method, {"lam": (1.0, 2.0), "mu": (0.005, 0.01, 0.02)}, [far])


def test_of_what_hardly_differs_the_smallest_is_taken(monkeypatch):
    """... and has to be inside as well."""
    errors = {1.0: 2.0, 2.0: 1.04, 4.0: 1.0, 8.0: 3.0, 0.5: 9.0}
    monkeypatch.setattr(tuning.series, "nmse", lambda found, batch: errors[found])

    def method(batch, lam):
        return lam

    def chosen(*grid, slack):
        return tuned(method, {"lam": grid}, [None], slack=slack)["lam"]

    assert chosen(1.0, 2.0, 4.0, 8.0, slack=0.0) == 4.0
    assert chosen(1.0, 2.0, 4.0, slack=0.05) == 2.0
    assert chosen(2.0, 4.0, slack=0.05) == 2.0
    assert chosen(1.0, 2.0, 4.0, slack=1.0) == 1.0


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_weights_without_a_finite_error_are_the_worst(lost, monkeypatch):
    """Diverged at the first and at the last, and then everywhere."""
    monkeypatch.setattr(tuning.series, "nmse", lambda found, batch: found)
    errors = {0.5: lost, 1.0: 3.0, 2.0: 2.0, 4.0: 3.0, 8.0: lost}

    def method(batch, lam):
        return jnp.float32(errors[lam])

    assert tuned(method, {"lam": (0.5, 1.0, 2.0, 4.0, 8.0)}, [None]) == {"lam": 2.0}
    errors |= dict.fromkeys(errors, lost)
    with pytest.raises(ValueError, match="NMSE is no finite number anywhere in"):
        tuned(method, {"lam": (0.5, 1.0)}, [None])
