"""Area under the ROC curve and average precision, exact, with missing labels.

The area is the Mann-Whitney statistic: the chance that a random positive outscores a
random negative, ties counting one half, so it needs ranks and no thresholds. Average
precision is the step-wise sum of precision over recall gained (no interpolation, as in
scikit-learn). A label of NaN means unknown and leaves the example out *of that class*.
A class with only positives or only negatives has no value: NaN, skipped by `macro`.

Both run on the host in float64: they see a whole evaluation set once.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Metric = Callable[[np.ndarray, np.ndarray], float]


def auroc(scores: Float[np.ndarray, " b"], labels: Float[np.ndarray, " b"]) -> float:
    """The area under the ROC curve of one class.

    Args:
        scores: any real numbers, higher for the positive class.
        labels: 1, 0 or NaN (unknown, left out).

    Returns:
        The area in [0, 1], or NaN where a class is empty.
    """
    scores, labels = _known(scores, labels)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    _, tie, size = np.unique(scores, return_inverse=True, return_counts=True)
    # Those of one score share the mean of their ranks, which count from 1.
    ranks = (np.cumsum(size) - (size - 1) / 2)[tie][labels == 1].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(
    scores: Float[np.ndarray, " b"], labels: Float[np.ndarray, " b"]
) -> float:
    """The average precision of one class: its chance level is the prevalence.

    Args:
        scores: any real numbers, higher for the positive class.
        labels: 1, 0 or NaN (unknown, left out).

    Returns:
        A value in [0, 1], or NaN where there is no positive.
    """
    scores, labels = _known(scores, labels)
    positives = labels.sum()
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    # Examples with one score enter together: only the last of a tie is a threshold.
    last = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(labels[order])[last]
    taken = np.flatnonzero(last) + 1.0
    gained = np.diff(hits, prepend=0.0)
    return float((gained * hits / taken).sum() / positives)


def false_positive_rate(
    scores: Float[np.ndarray, " b"],
    labels: Float[np.ndarray, " b"],
    *,
    recall: float = 0.95,
) -> float:
    """The share of negatives let in where a share of the positives has to be.

    Args:
        scores: any real numbers, higher for the positive class.
        labels: 1, 0 or NaN (unknown, left out).
        recall: of the positives, that the threshold has to let in at least.

    Returns:
        A value in [0, 1], or NaN where a class is empty.
    """
    scores, labels = _known(scores, labels)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    if not positives.size or not negatives.size:
        return float("nan")
    needed = int(np.ceil(recall * positives.size - 1e-9))
    threshold = np.sort(positives)[::-1][max(needed, 1) - 1]
    return float((negatives >= threshold).mean())


def per_class(
    metric: Metric, scores: Float[np.ndarray, "b k"], labels: Float[np.ndarray, "b k"]
) -> Float[np.ndarray, " k"]:
    """A one-class metric for every column.

    Raises:
        ValueError: if the two arrays differ in shape.
    """
    if scores.shape != labels.shape:
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape} should have one shape"
        )
    return np.array(
        [metric(s, y) for s, y in zip(scores.T, labels.T, strict=True)], np.float64
    )


def macro(values: Float[np.ndarray, " k"]) -> float:
    """The mean over the classes that have a value; NaN if none has."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def bootstrap(
    metric: Metric,
    scores: Float[np.ndarray, "b k"],
    labels: Float[np.ndarray, "b k"],
    *,
    seed: int,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, " 2"]]:
    """Percentile bootstrap intervals of a per-class metric and of its macro mean.

    Args:
        metric: of one class, such as `auroc`.
        scores: one column per class.
        labels: 1, 0 or NaN.
        seed: of the resampling.
        groups: one value per example, such as the patient. Whole groups are drawn:
            films of one patient are not independent, and drawing them one by one makes
            intervals too narrow.
        resamples: how many.
        confidence: the mass inside.

    Returns:
        ([low, high] for each class, [low, high] of the macro mean); NaN where the
        metric has no value.
    """
    rng = np.random.default_rng(seed)
    names = np.arange(len(scores)) if groups is None else np.asarray(groups)
    _, group = np.unique(names, return_inverse=True)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group))[:-1])
    values = np.empty((resamples, scores.shape[1]))
    for row in range(resamples):
        drawn = rng.integers(len(members), size=len(members))
        rows = np.concatenate([members[i] for i in drawn])
        values[row] = per_class(metric, scores[rows], labels[rows])
    tail = 50 * (1 - confidence)
    means = np.array([[macro(row)] for row in values])
    both = [_percentiles(columns, tail) for columns in (values, means)]
    return both[0], both[1][0]


def _percentiles(columns: Float[np.ndarray, "b k"], tail: float) -> np.ndarray:
    limits = np.full((columns.shape[1], 2), np.nan)
    for k, column in enumerate(columns.T):
        known = column[~np.isnan(column)]
        if known.size:
            limits[k] = np.percentile(known, (tail, 100 - tail))
    return limits


def _known(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if scores.shape != labels.shape:
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape} should have one shape"
        )
    known = ~np.isnan(labels)
    scores, labels = scores[known].astype(np.float64), labels[known].astype(np.float64)
    if not np.isin(labels, (0.0, 1.0)).all():
        raise ValueError("labels: expected 0, 1 or NaN")
    if np.isnan(scores).any():
        raise ValueError("scores: found NaN")
    return scores, labels
