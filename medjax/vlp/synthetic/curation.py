"""Which made films to train on: filters that keep or leave out, and say why.

A filter is any function of reports, films and features that returns one bool a film;
four are here, each measured against what real films do. Order matters: a film that one
filter leaves out, later ones do not see. Counts go to the ledger.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from medjax.data.ledger import Ledger
from medjax.vlp.synthetic.memorisation import nearest


class Candidates(NamedTuple):
    """Made films that a filter looks at; all have one row per film."""

    reports: Sequence[str]
    images: np.ndarray
    features: Float[np.ndarray, "n d"]
    labels: Float[np.ndarray, "n k"]
    """What the reports say: 1, 0, or NaN where they say nothing."""

    def of(self, rows: np.ndarray) -> "Candidates":
        """Some of them."""
        return Candidates(
            [self.reports[int(i)] for i in rows],
            self.images[rows],
            self.features[rows],
            self.labels[rows],
        )


Filter = Callable[[Candidates], Bool[np.ndarray, " n"]]


def quality(real: Float[np.ndarray, "m d"], *, quantile: float = 0.99) -> Filter:
    """Not farther from the mean of real films than nearly all of these are.

    Args:
        real: their features.
        quantile: the share of real ones that would be kept.
    """
    mean, deviation = real.mean(0), np.maximum(real.std(0), 1e-6)

    def distance(features: np.ndarray) -> np.ndarray:
        return np.linalg.norm((features - mean) / deviation, axis=1)

    limit = np.quantile(distance(real), quantile)
    return lambda films: distance(films.features) <= limit


def agreement(
    real: Float[np.ndarray, "m d"],
    labels: Float[np.ndarray, "m k"],
    *,
    held_out: tuple[Float[np.ndarray, "v d"], Float[np.ndarray, "v k"]],
    quantile: float = 0.1,
) -> Filter:
    """Shows what its report says, as well as nearly all real films do.

    A linear scorer of every finding is fitted to real films by least squares; a film's
    agreement is the share of the report's statements that the scorer confirms.

    Args:
        real: features of real films.
        labels: what their reports say.
        held_out: features and labels of others, which set the limit.
        quantile: the share of real ones that would be left out.
    """
    confirmed = scorer(real, labels)
    limit = np.nanquantile(confirmed(*held_out), quantile)

    def keep(films: Candidates) -> Bool[np.ndarray, " n"]:
        found = confirmed(films.features, films.labels)
        return np.isnan(found) | (found >= limit)

    return keep


def scorer(
    features: Float[np.ndarray, "m d"], labels: Float[np.ndarray, "m k"]
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Share of a report's statements that its film confirms, NaN where it has none."""
    mean, deviation = features.mean(0), np.maximum(features.std(0), 1e-6)

    def design(x: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(x)), (x - mean) / deviation])

    x = design(features)
    ridge = 0.01 * len(x) * np.eye(x.shape[1])
    weights, middles = [], []
    for column in labels.T:
        known = ~np.isnan(column)
        a, y = x[known], column[known]
        w = np.linalg.solve(a.T @ a + ridge, a.T @ y)
        weights.append(w)
        # Between the classes' means: findings are rare, and 0.5 is above most scores.
        scores = a @ w
        sides = [scores[y == side].mean() for side in (0, 1) if (y == side).any()]
        middles.append(float(np.mean(sides)) if sides else 0.5)
    table, middle = np.stack(weights, 1), np.asarray(middles)

    def confirmed(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        shown = design(features) @ table > middle
        known = ~np.isnan(labels)
        right = ((shown == (labels == 1)) & known).sum(1)
        counts = known.sum(1)
        return np.where(counts > 0, right / np.maximum(counts, 1), np.nan)

    return confirmed


def distinct(real: Float[np.ndarray, "m d"], *, quantile: float = 0.01) -> Filter:
    """Farther from every film before it than the nearest pairs of real films are.

    Args:
        real: features of real films.
        quantile: of their distances to each other, the share that counts as near.
    """
    limit = np.quantile(nearest(real, real).second, quantile)

    def keep(films: Candidates) -> Bool[np.ndarray, " n"]:
        kept = np.zeros(len(films.features), bool)
        for i, one in enumerate(films.features):
            before = films.features[:i][kept[:i]]
            near = len(before) and np.linalg.norm(before - one, axis=1).min() <= limit
            kept[i] = not near
        return kept

    return keep


def balanced(share: float, *, seed: int = 0) -> Filter:
    """No more films without any finding than this share of the others' number.

    Args:
        share: of films with a finding, how many without.
        seed: of the choice.
    """

    def keep(films: Candidates) -> Bool[np.ndarray, " n"]:
        normal = np.flatnonzero(np.nansum(films.labels, 1) == 0)
        most = int(share * (len(films.labels) - len(normal)))
        order = np.random.default_rng(seed).permutation(normal)
        kept = np.ones(len(films.labels), bool)
        kept[order[most:]] = False
        return kept

    return keep


def curate(
    films: Candidates, filters: Mapping[str, Filter], ledger: Ledger
) -> tuple[Bool[np.ndarray, " n"], list[str]]:
    """Applies filters one after the other.

    Args:
        films: all that were made.
        filters: by the name that the ledger counts them under.
        ledger: receives the counts.

    Returns:
        Which films are kept, and of every film the filter that left it out, or "".

    Raises:
        ValueError: a filter that does not answer once per film.
    """
    reasons = [""] * len(films.reports)
    rows = np.arange(len(films.reports))
    for name, keep in filters.items():
        answer = np.asarray(keep(films.of(rows)), bool)
        if answer.shape != rows.shape:
            raise ValueError(
                f"filters: {name!r} gave {answer.shape} for {len(rows)} films"
            )
        for row in rows[~answer]:
            reasons[row] = name
        ledger.count(name, int(answer.sum()), int((~answer).sum()))
        rows = rows[answer]
    kept = np.zeros(len(reasons), bool)
    kept[rows] = True
    return kept, reasons
