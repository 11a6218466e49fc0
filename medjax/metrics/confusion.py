"""Accuracy, F1, sensitivity and specificity from mergeable counts.

All are of one class *against the rest*, each class a question of its own; none is the
share of examples whose highest score is at the right class.

A `Confusion` holds the four counts of each class, so that chunks, hosts and shards can
be counted apart and added. Everything derived from it is computed at the end.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Confusion:
    """True and false positives and negatives per class."""

    tp: Int[np.ndarray, " k"]
    fp: Int[np.ndarray, " k"]
    fn: Int[np.ndarray, " k"]
    tn: Int[np.ndarray, " k"]

    @classmethod
    def count(
        cls,
        scores: Float[np.ndarray, "b k"],
        labels: Float[np.ndarray, "b k"],
        *,
        threshold: float | Float[np.ndarray, " k"] = 0.5,
    ) -> "Confusion":
        """Counts one chunk; labels of NaN are left out, scores at the threshold are 1.

        Raises:
            ValueError: if the two arrays differ in shape.
        """
        if scores.shape != labels.shape:
            raise ValueError(
                f"scores {scores.shape} and labels {labels.shape} should have one shape"
            )
        cut = np.broadcast_to(np.asarray(threshold), scores.shape[1:])
        said, positive, negative = scores >= cut[None], labels == 1, labels == 0
        return cls(
            tp=(said & positive).sum(0),
            fp=(said & negative).sum(0),
            fn=(~said & positive).sum(0),
            tn=(~said & negative).sum(0),
        )

    def __add__(self, other: "Confusion") -> "Confusion":
        """The counts of both chunks."""
        return Confusion(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.tn + other.tn,
        )

    @property
    def binary_accuracy(self) -> Float[np.ndarray, " k"]:
        """The share that is right about each class, taken as present or not.

        Not multi-class accuracy: of k exclusive classes, all as frequent, who always
        says the same one is right about (k - 1) / k of each of the others.
        """
        right = self.tp + self.tn
        return _ratio(right, right + self.fp + self.fn)

    @property
    def f1(self) -> Float[np.ndarray, " k"]:
        """The harmonic mean of precision and sensitivity; NaN with nothing to find."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def sensitivity(self) -> Float[np.ndarray, " k"]:
        """The share of positives that is found."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> Float[np.ndarray, " k"]:
        """The share of negatives that is left alone."""
        return _ratio(self.tn, self.tn + self.fp)


def _ratio(part: np.ndarray, whole: np.ndarray) -> Float[np.ndarray, " k"]:
    part, whole = part.astype(np.float64), whole.astype(np.float64)
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def best_f1_threshold(
    scores: Float[np.ndarray, " b"], labels: Float[np.ndarray, " b"]
) -> float:
    """The score at which F1 is highest: to be chosen on validation, never on test.

    Args:
        scores: of one class.
        labels: 1, 0 or NaN (left out).

    Returns:
        A threshold for ``score >= threshold``; infinity where there is no positive.
    """
    known = ~np.isnan(labels)
    scores, labels = scores[known], labels[known]
    if not (labels == 1).any():
        return float("inf")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + labels.sum())
    # Within a tie every example is taken, so only its last one is a threshold.
    last = np.append(np.diff(scores[order]) != 0, True)
    return float(scores[order][np.argmax(np.where(last, f1, -1.0))])
