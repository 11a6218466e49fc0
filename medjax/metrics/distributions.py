"""How far generated samples are from real ones, feature by feature and together.

A distance by itself says nothing: two halves of the real data are not at 0 either, and
a generator that hands out training examples is near it. So distances come in a table
with three controls, made by :func:`beside_controls`: the *floor* is real data against
real data; *copy* hands out the training example whose conditions are nearest, and is
what memory alone reaches; *unconditional* hands out random training examples, and is
what ignoring the conditions reaches.

Histograms share 20 bins between the pooled percentiles 0.5 and 99.5; values beyond go
to the outer bins, and 0.001 is added to every count. The Wasserstein distance is one of
*samples*, in standard deviations of the real ones; a histogram given in their place
would give a number without a meaning, and nobody would see it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.spatial.distance import cdist

BINS = 20
ADDED = 1e-3
"""To the count of every bin."""
TAIL = 0.5
"""Percent of the pooled values beyond the outer bins' edges, on each side."""
Samples = Float[np.ndarray, " _"]


def histograms(
    real: Samples, other: Samples, bins: int = BINS
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Shares of both in common bins.

    Args:
        real: samples.
        other: samples.
        bins: how many.

    Raises:
        ValueError: for no samples, or values that are not finite.
    """
    for name, values in (("real", real), ("other", other)):
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(
                f"{name}: expected finite samples, got {len(values)} of which "
                f"{int((~np.isfinite(values)).sum())} are not finite"
            )
    low, high = np.percentile(np.concatenate([real, other]), (TAIL, 100 - TAIL))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    counts = (
        np.histogram(np.clip(x, low, high), edges)[0] + ADDED for x in (real, other)
    )
    first, second = (count / count.sum() for count in counts)
    return first, second


def kl(p: Float[np.ndarray, " k"], q: Float[np.ndarray, " k"]) -> float:
    """Kullback-Leibler divergence of ``p`` from ``q``, nats; shares are positive."""
    return float((p * np.log(p / q)).sum())


def js(p: Float[np.ndarray, " k"], q: Float[np.ndarray, " k"]) -> float:
    """Jensen-Shannon divergence, nats: 0 to log 2."""
    middle = 0.5 * (p + q)
    return 0.5 * kl(p, middle) + 0.5 * kl(q, middle)


def bhattacharyya(p: Float[np.ndarray, " k"], q: Float[np.ndarray, " k"]) -> float:
    """Bhattacharyya distance, ``-log sum sqrt(p q)``."""
    return float(-np.log(np.sqrt(p * q).sum()))


def wasserstein(real: Samples, other: Samples) -> float:
    """Wasserstein-1 distance of samples, in standard deviations of the real ones.

    Raises:
        ValueError: for no samples, or real ones that are all equal.
    """
    spread = float(np.std(real)) if len(real) else 0.0
    if not spread > 0 or not len(other):
        raise ValueError(
            f"wasserstein: {len(real)} real samples of deviation {spread:g} and "
            f"{len(other)} others, expected several that differ, and some"
        )
    return float(stats.wasserstein_distance(real, other)) / spread


def energy(real: Float[np.ndarray, "n k"], other: Float[np.ndarray, "m k"]) -> float:
    """Energy distance of vectors, each entry in standard deviations of the real ones.

    ``2 E|x - y| - E|x - x'| - E|y - y'|``, 0 if and only if the distributions are the
    same; pairs of a sample with itself do not count.

    Raises:
        ValueError: for fewer than two samples on a side.
    """
    if min(len(real), len(other)) < 2:
        raise ValueError(
            f"energy: {len(real)} and {len(other)} samples, expected two at least"
        )
    spread = real.std(0)
    x, y = (
        (a - real.mean(0)) / np.where(spread > 0, spread, 1.0) for a in (real, other)
    )

    def within(a: np.ndarray) -> float:
        return float(cdist(a, a).sum()) / (len(a) * (len(a) - 1))

    return 2 * float(cdist(x, y).mean()) - within(x) - within(y)


def distances(real: Samples, other: Samples) -> dict[str, float]:
    """All distances of one feature.

    Args:
        real: samples.
        other: samples.
    """
    p, q = histograms(real, other)
    return {
        "kl": kl(p, q),
        "js": js(p, q),
        "bhattacharyya": bhattacharyya(p, q),
        "wasserstein": wasserstein(real, other),
    }


def beside_controls(
    test: Float[np.ndarray, "n k"],
    groups: Mapping[str, Float[np.ndarray, "_ k"]],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Distances of every group to real test data, over all features and together.

    Args:
        test: features of real people who were not trained on.
        groups: features by name: of each generator, and of the controls ``floor`` (the
            training people), ``copy`` and ``unconditional``. Rows with a feature that
            is not finite are left out, and counted.
        names: of the features.

    Returns:
        A row per group: mean distances over features, the energy distance of all
        together, and how many rows were counted; no distances of fewer than two.

    Raises:
        ValueError: where a control is missing.
    """
    missing = {"floor", "copy", "unconditional"} - set(groups)
    if missing:
        raise ValueError(
            f"controls {sorted(missing)} are missing beside {list(groups)}"
        )
    real = test[np.isfinite(test).all(1)]
    rows = []
    for group, values in groups.items():
        known = values[np.isfinite(values).all(1)]
        row: dict[str, Any] = {"group": group, "n": len(known)}
        row["undefined"] = len(values) - len(known)
        if min(len(known), len(real)) > 1:
            each = [distances(real[:, i], known[:, i]) for i in range(len(names))]
            row |= {key: float(np.mean([d[key] for d in each])) for key in each[0]}
            row["energy"] = energy(real, known)
        rows.append(row)
    return rows


def slope(
    condition: Samples, feature: Samples, *, seed: int = 0, resamples: int = 500
) -> tuple[float, float, float]:
    """How a feature goes with a condition: the regression's slope, and 95 % of it.

    Args:
        condition: one per person.
        feature: of the same people.
        seed: of the bootstrap over people.
        resamples: how many.

    Returns:
        Slope, and the ends of the bootstrap's percentile interval; NaN of fewer than
        two people.
    """
    if len(condition) < 2:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(condition), size=(resamples, len(condition)))

    def fit(x: np.ndarray, y: np.ndarray) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return (x * y).sum(-1) / np.maximum((x * x).sum(-1), 1e-12)

    many = fit(condition[draws], feature[draws])
    low, high = np.percentile(many, (2.5, 97.5))
    return float(fit(condition, feature)), float(low), float(high)


def residual_spread(conditions: Float[np.ndarray, "n c"], feature: Samples) -> float:
    """Standard deviation of what a linear function of the conditions leaves over.

    The ratio of generated to real people's is the spread ratio: below a half, a
    generator draws the mean heart of each condition, whoever is asked for.

    Args:
        conditions: of people.
        feature: of the same people.

    Returns:
        NaN where there are no more people than numbers that fit them.
    """
    design = np.column_stack([np.ones(len(feature)), conditions])
    left = len(feature) - design.shape[1]
    if left < 1:
        return float("nan")
    fit, *_ = np.linalg.lstsq(design, feature, rcond=None)
    return float(np.sqrt(((feature - design @ fit) ** 2).sum() / left))
