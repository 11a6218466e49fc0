"""Cohen's kappa: agreement beyond chance, unweighted or weighted by distance.

``1 - sum(w * observed) / sum(w * expected)`` over the confusion matrix, where ``w`` is
1 off the diagonal (unweighted), ``|i - j|`` (linear) or ``(i - j)^2`` (quadratic), and
``expected`` is what independent raters with the same marginals would give (Cohen 1960,
1968). For grades, where a slip by two is worse than one by one, linear is CMRxMotion's.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int

Weights = Literal["none", "linear", "quadratic"]


def confusion_matrix(
    truth: Int[np.ndarray, " b"],
    prediction: Int[np.ndarray, " b"],
    classes: Sequence[int],
) -> Int[np.ndarray, "k k"]:
    """Counts of truth (rows) against prediction (columns).

    Args:
        truth: one class per case.
        prediction: one class per case.
        classes: all classes, in the order of the grades.

    Raises:
        ValueError: if lengths differ or a value is none of the classes.
    """
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth {truth.shape} and prediction {prediction.shape} should have one "
            "length"
        )
    order = {name: place for place, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for said, true in zip(prediction.tolist(), truth.tolist(), strict=True):
        if said not in order or true not in order:
            raise ValueError(
                f"found classes {true} (truth) and {said} (prediction), expected "
                f"{list(classes)}"
            )
        matrix[order[true], order[said]] += 1
    return matrix


def cohen_kappa(
    truth: Int[np.ndarray, " b"],
    prediction: Int[np.ndarray, " b"],
    *,
    classes: Sequence[int],
    weights: Weights,
) -> float:
    """Cohen's kappa of two raters.

    Args:
        truth: one class per case.
        prediction: one class per case.
        classes: all classes, in the order of the grades; those that do not occur change
            nothing but the distance between those that do.
        weights: what a disagreement costs.

    Returns:
        1 for perfect agreement, 0 for chance, negative below; NaN where both raters
        give one and the same class to all cases (chance agrees as well), or without
        cases.

    Raises:
        ValueError: if lengths differ or a value is none of the classes.
    """
    if weights not in ("none", "linear", "quadratic"):
        raise ValueError(
            f"weights={weights!r}: expected 'none', 'linear' or 'quadratic'"
        )
    observed = confusion_matrix(truth, prediction, classes).astype(float)
    total = observed.sum()
    expected = np.outer(observed.sum(1), observed.sum(0)) / max(total, 1.0)
    place = np.arange(len(classes))
    gap = np.abs(place[:, None] - place[None, :])
    cost = {"none": gap > 0, "linear": gap, "quadratic": gap**2}[weights]
    by_chance = (cost * expected).sum()
    return float(1 - (cost * observed).sum() / by_chance) if by_chance else float("nan")
